//! Correlate: one axis of a block of voxels correlated with a symmetric kernel, tile by tile, in place.
//!
//! A tile is a small table of doubles: one row for each position along the axis, padded at both ends by the boundary, and
//! one column for each of a few neighbouring lines. Whatever the axis, its lines stand side by side in a tile, so that one
//! vector holds the same position of several lines and the sums are written once for all axes. A tile is filled from voxels
//! of any type, correlated, and written back as voxels of any type; it fits the processor's second-level cache.

use super::boundary::Boundary;
use super::convert::{Voxel, with_voxel_type};
use super::simd::{Isa, Job, Vector};
use crate::volume::{Datatype, Scaling, VoxelBuffer};

/// Columns of a tile are a multiple of this: the widest vector has so many lanes.
const WIDEST_VECTOR: usize = 8;

/// A tile has as many columns as keep it below this size, within [`WIDEST_VECTOR`] … [`MAX_WIDTH`].
const TILE_BYTES: usize = 64 << 10;

/// Most columns of a tile.
const MAX_WIDTH: usize = 32;

/// Voxels of any type at an address: what a pass reads or writes.
#[derive(Clone, Copy)]
pub(super) struct VoxelPointer {
    pub(super) datatype: Datatype,
    address: *mut u8,
}

// SAFETY: a pointer by itself does nothing; who follows it (`Pass::run`) demands that no two threads use the same voxels.
unsafe impl Send for VoxelPointer {}
// SAFETY: as above.
unsafe impl Sync for VoxelPointer {}

impl VoxelPointer {
    /// The voxels of `bytes`, taken as `datatype`.
    pub(super) fn new(datatype: Datatype, bytes: &mut [u8]) -> Self {
        VoxelPointer {
            datatype,
            address: bytes.as_mut_ptr(),
        }
    }

    /// The voxel `count` voxels further on.
    pub(super) fn offset(self, count: usize) -> Self {
        VoxelPointer {
            address: self
                .address
                .wrapping_add(count * self.datatype.size_bytes()),
            ..self
        }
    }
}

impl VoxelPointer {
    /// The first `len` voxels.
    ///
    /// # Safety
    /// `T` is the pointer's type, it is valid for `len` voxels, and nobody writes them while the slice lives.
    pub(super) unsafe fn as_slice<'a, T: Voxel>(self, len: usize) -> &'a [T] {
        debug_assert_eq!(T::DATATYPE, self.datatype);
        // SAFETY: the caller's.
        unsafe { std::slice::from_raw_parts(self.address.cast(), len) }
    }

    /// The first `len` voxels, to be written.
    ///
    /// # Safety
    /// `T` is the pointer's type, it is valid for `len` voxels, and nobody else uses them while the slice lives.
    pub(super) unsafe fn as_mut_slice<'a, T: Voxel>(self, len: usize) -> &'a mut [T] {
        debug_assert_eq!(T::DATATYPE, self.datatype);
        // SAFETY: the caller's.
        unsafe { std::slice::from_raw_parts_mut(self.address.cast(), len) }
    }
}

/// How doubles become voxels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Conversion {
    /// A C cast: what scipy does.
    Cast,
    /// Rounded to nearest and saturated.
    Nearest,
}

/// Lines of voxels that are correlated alike.
#[derive(Clone, Copy)]
pub(super) struct Lines {
    /// Voxels of a line.
    pub(super) len: usize,
    /// Voxels from one position on a line to the next.
    pub(super) step: usize,
    /// Number of lines.
    pub(super) count: usize,
    /// Voxels from one line to the next; this or `step` is 1.
    pub(super) apart: usize,
}

/// A correlation of lines, but for the voxels themselves.
#[derive(Clone, Copy)]
pub(super) struct Pass<'a> {
    /// Instructions to use.
    pub(super) isa: Isa,
    /// Weights at 0, 1 … radius.
    pub(super) half_kernel: &'a [f64],
    /// What lies beyond the ends of a line.
    pub(super) boundary: Boundary,
    /// Intensity beyond the ends with [`Boundary::Constant`].
    pub(super) cval: f64,
    /// From the source's numbers to intensities.
    pub(super) scaling: Option<Scaling>,
    /// From sums to the target's numbers.
    pub(super) conversion: Conversion,
}

impl Pass<'_> {
    /// Correlates `lines` of `source` into the same places of `target`, which may be the same voxels.
    ///
    /// Each sum is centre·w₀, then for j = radius … 1 (voxel[−j] + voxel[j])·wⱼ, every operation rounded to double: the
    /// order of scipy's `correlate1d` for a symmetric kernel.
    ///
    /// # Safety
    /// Both pointers are aligned for their types and valid for all voxels of `lines`; they are equal or the voxels do not
    /// overlap; and nobody else uses these voxels meanwhile.
    pub(super) unsafe fn run(
        &self,
        source: VoxelPointer,
        target: VoxelPointer,
        lines: Lines,
        tile: &mut VoxelBuffer,
    ) {
        let radius = self.half_kernel.len() - 1;
        let rows = lines.len + 2 * radius;
        let width = (TILE_BYTES / size_of::<f64>() / rows / WIDEST_VECTOR * WIDEST_VECTOR)
            .clamp(WIDEST_VECTOR, MAX_WIDTH);
        tile.resize_for_overwrite(rows * width * size_of::<f64>());
        let tile = tile.as_mut_slice::<f64>();
        let mut first = 0;
        while first < lines.count {
            let columns = width.min(lines.count - first);
            let block = Lines {
                count: columns,
                ..lines
            };
            let inner = &mut tile[radius * width..][..lines.len * width];
            let from = source.offset(first * lines.apart);
            with_voxel_type!(from.datatype, S => {
                let voxels: *const S = from.address.cast();
                self.isa.run(Load { voxels, lines: block, scaling: self.scaling, rows: inner, width });
            });
            self.pad(tile, width, lines.len, radius);
            self.isa.run(Correlate {
                tile,
                width,
                len: lines.len,
                half_kernel: self.half_kernel,
                columns,
            });
            let to = target.offset(first * lines.apart);
            with_voxel_type!(to.datatype, T => {
                let voxels: *mut T = to.address.cast();
                self.isa.run(Store { rows: tile, width, voxels, lines: block, conversion: self.conversion });
            });
            first += columns;
        }
    }

    /// Fills the rows before and behind the `len` rows of voxels.
    fn pad(&self, tile: &mut [f64], width: usize, len: usize, radius: usize) {
        for row in (0..radius).chain(radius + len..len + 2 * radius) {
            match self.boundary.source(row as isize - radius as isize, len) {
                Some(source) => tile.copy_within(
                    (radius + source) * width..(radius + source + 1) * width,
                    row * width,
                ),
                None => tile[row * width..][..width].fill(self.cval),
            }
        }
    }
}

/// Fills `rows` with lines of voxels as intensities.
struct Load<'a, S> {
    voxels: *const S,
    lines: Lines,
    scaling: Option<Scaling>,
    rows: &'a mut [f64],
    width: usize,
}

impl<S: Voxel> Job for Load<'_, S> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Lines {
            len,
            step,
            count,
            apart,
        } = self.lines;
        if apart == 1 {
            for (position, row) in self.rows.chunks_exact_mut(self.width).enumerate() {
                // SAFETY: position < len and the caller of Pass::run vouches for the voxels of all lines.
                let voxels =
                    unsafe { std::slice::from_raw_parts(self.voxels.add(position * step), count) };
                row.iter_mut()
                    .zip(voxels)
                    .for_each(|(number, voxel)| *number = voxel.to_f64());
            }
        } else {
            for line in 0..count {
                // SAFETY: step is 1 here, line < count, and the caller of Pass::run vouches for the voxels of all lines.
                let voxels =
                    unsafe { std::slice::from_raw_parts(self.voxels.add(line * apart), len) };
                for (position, voxel) in voxels.iter().enumerate() {
                    self.rows[position * self.width + line] = voxel.to_f64();
                }
            }
        }
        if let Some(Scaling { slope, intercept }) = self.scaling {
            if slope != 1.0 {
                self.rows.iter_mut().for_each(|number| *number *= slope);
            }
            if intercept != 0.0 {
                self.rows.iter_mut().for_each(|number| *number += intercept);
            }
        }
    }
}

/// Correlates the columns of a tile; the sums replace its first `len` rows.
struct Correlate<'a> {
    tile: &'a mut [f64],
    width: usize,
    len: usize,
    half_kernel: &'a [f64],
    columns: usize,
}

impl Job for Correlate<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let radius = self.half_kernel.len() - 1;
        assert!(
            self.tile.len() >= (self.len + 2 * radius) * self.width
                && self.width.is_multiple_of(V::LANES)
        );
        for column in (0..self.columns).step_by(V::LANES) {
            // SAFETY: columns < width, a multiple of LANES, and the tile has len + 2·radius rows of that width.
            unsafe {
                let top = self.tile.as_mut_ptr().add(column);
                let mut row = 0;
                while row + 4 <= self.len {
                    sums::<V, 4>(top.add(row * self.width), self.width, self.half_kernel);
                    row += 4;
                }
                while row < self.len {
                    sums::<V, 1>(top.add(row * self.width), self.width, self.half_kernel);
                    row += 1;
                }
            }
        }
    }
}

/// Replaces the `ROWS` vectors from `top` on, `width` apart, by the sums over themselves and those below: sum i belongs to
/// row i + radius, and the rows that it overwrites are needed by no later sum.
///
/// # Safety
/// The processor has `V`'s instructions and `ROWS + 2·radius` vectors are valid.
#[inline(always)]
unsafe fn sums<V: Vector, const ROWS: usize>(top: *mut f64, width: usize, half_kernel: &[f64]) {
    let radius = half_kernel.len() - 1;
    // SAFETY: all rows are below ROWS + 2·radius.
    unsafe {
        let centre = top.add(radius * width);
        let weight = V::splat(half_kernel[0]);
        let mut sums: [V; ROWS] =
            std::array::from_fn(|row| V::load(centre.add(row * width)).mul(weight));
        for j in (1..=radius).rev() {
            let weight = V::splat(half_kernel[j]);
            for (row, sum) in sums.iter_mut().enumerate() {
                let before = V::load(centre.add(row * width).sub(j * width));
                let behind = V::load(centre.add((row + j) * width));
                *sum = sum.add(before.add(behind).mul(weight));
            }
        }
        for (row, sum) in sums.into_iter().enumerate() {
            sum.store(top.add(row * width));
        }
    }
}

/// Writes rows of sums as lines of voxels.
struct Store<'a, T> {
    rows: &'a [f64],
    width: usize,
    voxels: *mut T,
    lines: Lines,
    conversion: Conversion,
}

impl<T: Voxel> Job for Store<'_, T> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        // SAFETY: the caller of Pass::run vouches for the voxels of all lines.
        unsafe {
            match self.conversion {
                Conversion::Cast => self.convert(T::cast),
                Conversion::Nearest => self.convert(T::nearest),
            }
        }
    }
}

impl<T: Voxel> Store<'_, T> {
    #[inline(always)]
    unsafe fn convert(self, convert: impl Fn(f64) -> T) {
        let Lines {
            len,
            step,
            count,
            apart,
        } = self.lines;
        if apart == 1 {
            for (position, row) in self.rows.chunks_exact(self.width).take(len).enumerate() {
                // SAFETY: position < len, and the caller vouches for the voxels of all lines.
                let voxels = unsafe {
                    std::slice::from_raw_parts_mut(self.voxels.add(position * step), count)
                };
                voxels
                    .iter_mut()
                    .zip(row)
                    .for_each(|(voxel, &number)| *voxel = convert(number));
            }
        } else {
            for line in 0..count {
                // SAFETY: step is 1 here, line < count, and the caller vouches for the voxels of all lines.
                let voxels =
                    unsafe { std::slice::from_raw_parts_mut(self.voxels.add(line * apart), len) };
                for (position, voxel) in voxels.iter_mut().enumerate() {
                    *voxel = convert(self.rows[position * self.width + line]);
                }
            }
        }
    }
}
