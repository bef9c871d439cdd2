//! Correlate: correlates one axis of a block of voxels with a symmetric kernel, tile by tile, in place.
//!
//! A tile is a small table of doubles. It has one row for each position along the axis, padded at both ends
//! by the boundary, and one column for each of a few neighbouring lines. Lines of any axis are side by side
//! in a tile, so a vector contains the same position of several lines, and the same code sums all axes. A
//! tile is filled from voxels of any type, correlated, and written back as voxels of any type. It fits into
//! the first-level cache.

#![expect(
    clippy::needless_range_loop,
    reason = "the same index runs over several register blocks; the adaptors of iterators stay out of line \
              there"
)]

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use super::super::boundary::Boundary;
use super::convert::{Conversion, Voxel, with_voxel_type};
use super::simd::{Isa, Job, Vector};
use crate::volume::{Datatype, NoMemory, Scaling, VoxelBuffer};

/// Bytes of a tile in each row of the image, but at least one vector. Narrow tiles stay in the first-level
/// cache until they are summed. With 16-bit voxels, a pass is 10 % faster than with tiles of whole cache
/// lines.
const ROW_BYTES: usize = 16;

/// Bytes of a cache line.
const CACHE_LINE_BYTES: usize = 64;

/// Lanes of the widest vector.
pub(super) const MAX_LANES: usize = 8;

/// A pointer to voxels of any type, which a pass reads or writes.
#[derive(Clone, Copy)]
pub(in crate::filter) struct VoxelPointer {
    pub(in crate::filter) datatype: Datatype,
    pub(in crate::filter) address: *mut u8,
}

// SAFETY: a pointer by itself does nothing; who follows it (`Pass::run`) demands that no two threads use the
// same voxels.
unsafe impl Send for VoxelPointer {}
// SAFETY: as above.
unsafe impl Sync for VoxelPointer {}

impl VoxelPointer {
    /// The voxels in `bytes`, of type `datatype`.
    pub(in crate::filter) fn new(datatype: Datatype, bytes: &mut [u8]) -> Self {
        VoxelPointer {
            datatype,
            address: bytes.as_mut_ptr(),
        }
    }

    /// The numbers in `bytes`, read-only.
    pub(in crate::filter) fn read_only(bytes: &[u8]) -> Self {
        VoxelPointer {
            datatype: Datatype::Uint8,
            address: bytes.as_ptr().cast_mut(),
        }
    }

    /// The same address with another type. A result that replaces its source is written through the pointer
    /// of the source, because a second borrow of the buffer would invalidate the first.
    pub(in crate::filter) fn retyped(self, datatype: Datatype) -> Self {
        VoxelPointer { datatype, ..self }
    }

    /// The pointer advanced by `count` voxels; moved back, by the negative of `count` modulo 2⁶⁴.
    pub(in crate::filter) fn offset(self, count: usize) -> Self {
        let bytes = count.wrapping_mul(self.datatype.size_bytes());
        let address = self.address.wrapping_add(bytes);
        VoxelPointer { address, ..self }
    }
}

impl VoxelPointer {
    /// The first `len` bytes, writable.
    ///
    /// # Safety
    /// The pointer is valid for them, and no other code uses them during the lifetime of the slice.
    pub(in crate::filter) unsafe fn as_bytes_mut<'a>(self, len: usize) -> &'a mut [u8] {
        // SAFETY: the caller's.
        unsafe { std::slice::from_raw_parts_mut(self.address, len) }
    }

    /// A range of bytes relative to the pointer.
    ///
    /// # Safety
    /// The pointer is valid for them, and no other code writes them during the lifetime of the slice.
    pub(in crate::filter) unsafe fn as_bytes<'a>(self, bytes: Range<usize>) -> &'a [u8] {
        // SAFETY: the caller's.
        unsafe { std::slice::from_raw_parts(self.address.wrapping_add(bytes.start), bytes.len()) }
    }

    /// The first `len` voxels.
    ///
    /// # Safety
    /// `T` is the pointer's type, it is valid for `len` voxels, and no other code writes them during the
    /// lifetime of the slice.
    pub(in crate::filter) unsafe fn as_slice<'a, T: Voxel>(self, len: usize) -> &'a [T] {
        debug_assert_eq!(T::DATATYPE, self.datatype);
        // SAFETY: the caller's.
        unsafe { std::slice::from_raw_parts(self.address.cast(), len) }
    }

    /// The first `len` voxels, writable.
    ///
    /// # Safety
    /// `T` is the pointer's type, it is valid for `len` voxels, and no other code uses them during the
    /// lifetime of the slice.
    pub(in crate::filter) unsafe fn as_mut_slice<'a, T: Voxel>(self, len: usize) -> &'a mut [T] {
        debug_assert_eq!(T::DATATYPE, self.datatype);
        // SAFETY: the caller's.
        unsafe { std::slice::from_raw_parts_mut(self.address.cast(), len) }
    }
}

/// Lines of voxels that are correlated in the same way.
#[derive(Clone, Copy)]
pub(in crate::filter) struct Lines {
    /// Number of voxels of a line.
    pub(in crate::filter) len: usize,
    /// Distance in voxels between neighbouring positions of a line.
    pub(in crate::filter) step: usize,
    /// Number of lines.
    pub(in crate::filter) count: usize,
    /// Distance in voxels between neighbouring lines. This or `step` is 1.
    pub(in crate::filter) apart: usize,
}

/// A correlation of lines: everything except the voxels.
#[derive(Clone, Copy)]
pub(in crate::filter) struct Pass<'a> {
    /// Instructions to use.
    pub(in crate::filter) isa: Isa,
    /// Weights at 0, 1 … radius.
    pub(in crate::filter) half_kernel: &'a [f64],
    /// How a line continues beyond its ends.
    pub(in crate::filter) boundary: Boundary,
    /// Intensity beyond the ends with [`Boundary::Constant`].
    pub(in crate::filter) cval: f64,
    /// The scaling from the source's numbers to intensities.
    pub(in crate::filter) scaling: Option<Scaling>,
    /// The conversion of sums to the target's numbers.
    pub(in crate::filter) conversion: Conversion,
    /// If it is set, the remaining lines are skipped.
    pub(in crate::filter) stop: Option<&'a AtomicBool>,
}

impl Pass<'_> {
    /// Correlates all positions of `lines` of `source`, and writes the sums to the same positions of
    /// `target`, which may be the same voxels.
    ///
    /// # Errors
    /// [`NoMemory`] for the tile.
    ///
    /// # Safety
    /// That of [`Pass::run_part`].
    pub(in crate::filter) unsafe fn run(
        &self,
        source: VoxelPointer,
        target: VoxelPointer,
        lines: Lines,
        tile: &mut VoxelBuffer,
    ) -> Result<(), NoMemory> {
        // SAFETY: the caller's.
        unsafe { self.run_part(source, target, lines, 0..lines.len, tile) }
    }

    /// Bytes of a tile of lines of `len` voxels of this type.
    pub(in crate::filter) fn tile_bytes(half_kernel: &[f64], len: usize, source: Datatype) -> u64 {
        let rows = len.max(MAX_LANES) + 2 * half_kernel.len().saturating_sub(1);
        (rows as u64).saturating_mul((Self::columns(source) * size_of::<f64>()) as u64)
    }

    /// Lines that a tile holds.
    fn columns(source: Datatype) -> usize {
        MAX_LANES.max(ROW_BYTES / source.size_bytes())
    }

    /// Correlates the positions `part` of `lines` of `source`, and writes the sums to the same positions of
    /// `target`. `part` can be less than the whole line only if the lines are side by side and the boundary
    /// is not [`Boundary::Wrap`], which reaches to the line's other end.
    ///
    /// Each sum is centre·w₀, then for j = radius … 1 (`voxel[−j]` + `voxel[j]`)·wⱼ, every operation rounded
    /// to double: the order of scipy's `correlate1d` for a symmetric kernel.
    ///
    /// # Errors
    /// [`NoMemory`] for the tile.
    ///
    /// # Safety
    /// Both pointers are aligned for their types and valid for all voxels of `lines`. Either they are equal
    /// and `part` is the whole line, or the voxels do not overlap. During the call, no other code writes the
    /// voxels that are read (`part` and the radius on both sides) or uses those that are written.
    pub(in crate::filter) unsafe fn run_part(
        &self,
        source: VoxelPointer,
        target: VoxelPointer,
        lines: Lines,
        part: Range<usize>,
        tile: &mut VoxelBuffer,
    ) -> Result<(), NoMemory> {
        let whole = part == (0..lines.len);
        let radius = self.half_kernel.len() - 1;
        let wraps = self.boundary == Boundary::Wrap && radius > 0;
        assert!(whole || (lines.apart == 1 && !wraps));
        // Sums are computed for as many positions at once as a vector has lanes, even if the line is shorter.
        let rows = part.len().max(MAX_LANES) + 2 * radius;
        let columns = Self::columns(source.datatype);
        tile.try_resize_for_overwrite(rows * columns * size_of::<f64>())?;
        let tile = tile.as_mut_slice::<f64>();
        for first in (0..lines.count).step_by(columns) {
            if self.stop.is_some_and(|stop| stop.load(Ordering::Relaxed)) {
                break;
            }
            let count = columns.min(lines.count - first);
            let work = Work {
                pass: *self,
                lines: Lines { count, ..lines },
                start: part.start,
                len: part.len(),
                rows,
                tile: &mut *tile,
            };
            let from = source.offset(first * lines.apart);
            let to = target.offset(first * lines.apart);
            with_voxel_type!(from.datatype, S => {
                let voxels = from.address.cast::<S>();
                self.isa.run(Load { work, voxels })
            });
            let work = Work {
                pass: *self,
                lines: Lines { count, ..lines },
                start: part.start,
                len: part.len(),
                rows,
                tile: &mut *tile,
            };
            with_voxel_type!(to.datatype, T => {
                let voxels = to.address.cast::<T>();
                self.isa.run(Correlate { work, voxels })
            });
        }
        Ok(())
    }
}

/// A tile and its lines.
pub(super) struct Work<'a> {
    pub(super) pass: Pass<'a>,
    pub(super) lines: Lines,
    /// The first position that is summed.
    pub(super) start: usize,
    /// The number of positions that are summed.
    pub(super) len: usize,
    /// Rows of a group.
    pub(super) rows: usize,
    /// Groups of columns, one group after the other. A group has as many columns as a vector has lanes.
    pub(super) tile: &'a mut [f64],
}

impl Work<'_> {
    /// The positions that are read. They include those that the boundary refers to; with `Wrap`, all
    /// positions are read.
    #[inline(always)]
    fn window(&self) -> Range<usize> {
        let radius = self.pass.half_kernel.len() - 1;
        self.start.saturating_sub(radius)..(self.start + self.len + radius).min(self.lines.len)
    }
}

/// Fills a tile with the intensities of lines and their continuation beyond the ends.
pub(super) struct Load<'a, S> {
    pub(super) work: Work<'a>,
    pub(super) voxels: *const S,
}

impl<S: Voxel> Job for Load<'_, S> {
    #[inline(always)]
    unsafe fn run<V: Vector<LANES>, const LANES: usize>(mut self) {
        let Work {
            pass,
            lines,
            start,
            len,
            rows,
            ..
        } = self.work;
        // SAFETY: the caller's.
        unsafe {
            if lines.apart == 1 {
                self.load_rows::<V, LANES>();
            } else {
                self.load_lines::<V, LANES>();
            }
        }
        let radius = pass.half_kernel.len() - 1;
        let window = self.work.window();
        // The row of a position. Positions below 0 also have rows.
        let row_of = |position: usize| position + radius - start;
        let groups = lines.count.div_ceil(LANES);
        if let Some(Scaling { slope, intercept }) = pass.scaling {
            for group in self.work.tile.chunks_exact_mut(rows * LANES).take(groups) {
                let (rows, _) = group.as_chunks_mut::<LANES>();
                let inner = rows[row_of(window.start)..][..window.len()].as_flattened_mut();
                if slope != 1.0 {
                    inner.iter_mut().for_each(|number| *number *= slope);
                }
                if intercept != 0.0 {
                    inner.iter_mut().for_each(|number| *number += intercept);
                }
            }
        }
        let (tile, _) = self.work.tile.as_chunks_mut::<LANES>();
        let tile = &mut tile[..groups * rows];
        // Finding the source of a row takes longer than copying it, so all groups are copied at once.
        let mut fill = |beyond: Range<usize>| {
            for row in beyond {
                let position = (row + start) as isize - radius as isize;
                match pass.boundary.source(position, lines.len).map(row_of) {
                    Some(from) => {
                        for group in 0..groups {
                            tile[group * rows + row] = tile[group * rows + from];
                        }
                    }
                    None => {
                        for group in 0..groups {
                            tile[group * rows + row] = [pass.cval; LANES];
                        }
                    }
                }
            }
        };
        fill(0..row_of(window.start));
        fill(row_of(window.end)..len + 2 * radius);
    }
}

impl<S: Voxel> Load<'_, S> {
    /// Fills the tile from lines that are side by side. A row of voxels is a row of the tile.
    ///
    /// # Safety
    /// The processor has `V`'s instructions; the caller of [`Pass::run`] vouches for the voxels.
    #[inline(always)]
    unsafe fn load_rows<V: Vector<LANES>, const LANES: usize>(&mut self) {
        let Work {
            pass,
            lines,
            start,
            rows,
            ..
        } = self.work;
        let radius = pass.half_kernel.len() - 1;
        let window = self.work.window();
        let tile = self.work.tile.as_mut_ptr();
        let (whole, rest) = (lines.count / LANES, lines.count % LANES);
        // SAFETY: positions of the window and `count` voxels at each are within the lines, and the tile has a
        // row for each position in every group.
        unsafe {
            let first = self.voxels.add(window.start * lines.step);
            let top = tile.add((radius + window.start - start) * LANES);
            for group in 0..whole {
                let (mut voxels, mut row) = (first.add(group * LANES), top.add(group * rows * LANES));
                for _ in window.clone() {
                    // Prefetches the voxels of the same lanes in the next tile, because the processor cannot
                    // predict a step that may be a whole slice. Uses the last of them, because a cache line
                    // may begin among them.
                    V::prefetch(
                        voxels
                            .wrapping_add(lines.count + LANES)
                            .wrapping_byte_sub(1)
                            .cast(),
                    );
                    whole_vector::<S, V, LANES>(voxels).store(row);
                    (voxels, row) = (voxels.wrapping_add(lines.step), row.wrapping_add(LANES));
                }
            }
            if rest > 0 {
                let (voxels, row) = (first.add(whole * LANES), top.add(whole * rows * LANES));
                for position in 0..window.len() {
                    let voxels = voxels.add(position * lines.step);
                    part_of_vector::<S, V, LANES>(voxels, rest).store(row.add(position * LANES));
                }
            }
        }
    }

    /// Fills the tile from lines that follow each other in memory, by transposing blocks of them.
    ///
    /// # Safety
    /// The processor has `V`'s instructions; the caller of [`Pass::run`] vouches for the voxels.
    #[inline(always)]
    unsafe fn load_lines<V: Vector<LANES>, const LANES: usize>(&mut self) {
        let Work {
            pass, lines, rows, ..
        } = self.work;
        let radius = pass.half_kernel.len() - 1;
        for (group, first) in (0..lines.count).step_by(LANES).enumerate() {
            let tile = self.work.tile[(group * rows + radius) * LANES..].as_mut_ptr();
            // SAFETY: lines up to `count` and positions up to `len` are valid; the tile has a row for each
            // position.
            unsafe {
                // Lanes without a line repeat the last line.
                let line: [*const S; LANES] = std::array::from_fn(|lane| {
                    self.voxels.add((first + lane).min(lines.count - 1) * lines.apart)
                });
                // Prefetches the lines of this group in the next tile.
                let next = self.voxels.wrapping_add((lines.count + first) * lines.apart);
                prefetch::<S, V, LANES>(next, LANES * lines.apart);
                let mut block = [V::splat(0.0); LANES];
                if lines.len < LANES {
                    for lane in 0..LANES {
                        block[lane] = part_of_vector::<S, V, LANES>(line[lane], lines.len);
                    }
                    let rows = V::transpose(block);
                    for position in 0..lines.len {
                        rows[position].store(tile.add(position * LANES));
                    }
                    continue;
                }
                for position in blocks::<LANES>(lines.len) {
                    for lane in 0..LANES {
                        block[lane] = whole_vector::<S, V, LANES>(line[lane].add(position));
                    }
                    let rows = V::transpose(block);
                    for i in 0..LANES {
                        rows[i].store(tile.add((position + i) * LANES));
                    }
                }
            }
        }
    }
}

/// Starts of the blocks of `BLOCK` positions that cover `0..len`. The last block overlaps its neighbour if
/// `len` is not a multiple. There is one block if `len` is smaller.
#[inline(always)]
fn blocks<const BLOCK: usize>(len: usize) -> impl Iterator<Item = usize> {
    (0..len)
        .step_by(BLOCK)
        .map(move |start| start.min(len.saturating_sub(BLOCK)))
}

/// Prefetches the cache lines after the one in which `count` voxels start. The voxels need not exist.
///
/// # Safety
/// The processor has `V`'s instructions.
#[inline(always)]
unsafe fn prefetch<S, V: Vector<LANES>, const LANES: usize>(voxels: *const S, count: usize) {
    for bytes in (0..count * size_of::<S>()).step_by(CACHE_LINE_BYTES) {
        let end = voxels.cast::<i8>().wrapping_add(bytes + CACHE_LINE_BYTES - 1);
        // SAFETY: the caller's.
        unsafe { V::prefetch(end) };
    }
}

/// `LANES` voxels side by side, as doubles.
///
/// # Safety
/// The processor has `V`'s instructions and so many voxels are valid.
#[inline(always)]
unsafe fn whole_vector<S: Voxel, V: Vector<LANES>, const LANES: usize>(voxels: *const S) -> V {
    // SAFETY: the caller's.
    unsafe { S::load_lanes(voxels) }
}

/// `count` voxels side by side, as doubles; the vector's other lanes are 0.
///
/// # Safety
/// The processor has `V`'s instructions and `count` voxels are valid; `count` is at most `LANES`.
#[inline(always)]
unsafe fn part_of_vector<S: Voxel, V: Vector<LANES>, const LANES: usize>(
    voxels: *const S,
    count: usize,
) -> V {
    let mut numbers = [0.0; LANES];
    // SAFETY: the caller's.
    unsafe {
        for (i, number) in numbers.iter_mut().enumerate().take(count) {
            *number = voxels.add(i).read().to_f64();
        }
        V::load(numbers.as_ptr())
    }
}

/// Correlates the columns of a tile and writes the sums as voxels.
pub(super) struct Correlate<'a, T> {
    pub(super) work: Work<'a>,
    pub(super) voxels: *mut T,
}

impl<T: Voxel> Job for Correlate<'_, T> {
    #[inline(always)]
    unsafe fn run<V: Vector<LANES>, const LANES: usize>(self) {
        // SAFETY: the caller's.
        unsafe {
            match self.work.pass.conversion {
                Conversion::Cast => self.correlate::<V, LANES>(|sums| T::cast_lanes(sums)),
                Conversion::Nearest => self.correlate::<V, LANES>(|sums| T::nearest_lanes(sums)),
            }
        }
    }
}

impl<T: Voxel> Correlate<'_, T> {
    #[inline(always)]
    unsafe fn correlate<V: Vector<LANES>, const LANES: usize>(self, convert: impl Fn(V) -> [T; LANES]) {
        let Work {
            pass,
            lines,
            start,
            len,
            rows,
            tile,
        } = self.work;
        for (group, first) in (0..lines.count).step_by(LANES).enumerate() {
            let lanes = LANES.min(lines.count - first);
            let tile = &tile[group * rows * LANES..][..rows * LANES];
            for position in blocks::<LANES>(len) {
                // SAFETY: a group has rows for LANES positions from the last block's start on, and 2·radius
                // more; the caller of Pass::run vouches for the voxels of all positions of all lines.
                unsafe {
                    let sums = sums::<V, LANES>(tile.as_ptr().add(position * LANES), pass.half_kernel);
                    // The voxels lie `LANES` side by side, in as many runs: a run for each position, or one
                    // for each line.
                    let (sums, to, apart, runs, len) = if lines.apart == 1 {
                        let to = self.voxels.add((start + position) * lines.step + first);
                        (sums, to, lines.step, LANES.min(len), lanes)
                    } else {
                        let to = self.voxels.add(first * lines.apart + position);
                        (V::transpose(sums), to, lines.apart, lanes, LANES.min(lines.len))
                    };
                    if runs == LANES && len == LANES {
                        for run in 0..LANES {
                            to.add(run * apart)
                                .cast::<[T; LANES]>()
                                .write_unaligned(convert(sums[run]));
                        }
                    } else {
                        for run in 0..runs {
                            std::ptr::copy_nonoverlapping(
                                convert(sums[run]).as_ptr(),
                                to.add(run * apart),
                                len,
                            );
                        }
                    }
                }
            }
        }
    }
}

/// The sums at `LANES` positions, with one line per lane: centre·w₀ + (before + behind)·wⱼ for j = radius …
/// 1. `top` is the row `radius` before the first position.
///
/// # Safety
/// The processor has `V`'s instructions and `LANES + 2·radius` rows are valid.
#[inline(always)]
#[expect(clippy::needless_range_loop, reason = "the row numbers are addresses as well")]
unsafe fn sums<V: Vector<LANES>, const LANES: usize>(top: *const f64, half_kernel: &[f64]) -> [V; LANES] {
    // SAFETY: all rows are below LANES + 2·radius.
    unsafe {
        let radius = half_kernel.len() - 1;
        let centre = top.add(radius * LANES);
        let weight = V::splat(half_kernel[0]);
        let mut sums = [weight; LANES];
        for row in 0..LANES {
            sums[row] = V::load(centre.add(row * LANES)).mul(weight);
        }
        let mut j = radius;
        if j % 2 == 1 {
            let weight = V::splat(half_kernel[j]);
            for row in 0..LANES {
                let before = V::load(centre.add(row * LANES).sub(j * LANES));
                let behind = V::load(centre.add((row + j) * LANES));
                sums[row] = sums[row].add(before.add(behind).mul(weight));
            }
            j -= 1;
        }
        // Two weights at a time: a voxel at distance j from one row is at distance j − 1 from the next.
        while j > 0 {
            let (outer, inner) = (V::splat(half_kernel[j]), V::splat(half_kernel[j - 1]));
            let (before, behind) = (centre.sub(j * LANES), centre.add((j - 1) * LANES));
            let (mut before_outer, mut behind_inner) = (V::load(before), V::load(behind));
            for row in 0..LANES {
                let before_inner = V::load(before.add((row + 1) * LANES));
                let behind_outer = V::load(behind.add((row + 1) * LANES));
                sums[row] = sums[row].add(before_outer.add(behind_outer).mul(outer));
                sums[row] = sums[row].add(before_inner.add(behind_inner).mul(inner));
                (before_outer, behind_inner) = (before_inner, behind_outer);
            }
            j -= 2;
        }
        sums
    }
}
