//! Convolve: convolves lines with a symmetric kernel through Fourier transforms, tile by tile, in place.
//!
//! A tile has 16 lines, as in `correlate`, with their continuation beyond both ends. Lines 8 apart are real
//! and imaginary part of one transform. The result does not depend on the width of the vectors, because the
//! pairs do not.

use std::ops::Range;
use std::sync::atomic::Ordering;

use super::super::FilterError;
use super::convert::with_voxel_type;
use super::correlate::{Correlate, Lines, Load, MAX_LANES, Pass, VoxelPointer, Work};
use super::fft::Fft;
use super::simd::{Isa, Job, Vector};
use crate::volume::{NoMemory, VoxelBuffer};

/// Lines of a tile.
const COLUMNS: usize = 2 * MAX_LANES;

/// Numbers above this are made smaller before they are transformed, because their sums could overflow.
const LARGE: f64 = 1e280;

/// The factor for large numbers, 2⁻¹⁰⁰.
const SMALLER: f64 = 1.0 / (1u128 << 100) as f64;

/// Weights below this are summed directly. Their error would be large compared with them.
const LEAST_WEIGHT: f64 = 1e-6;

/// Multiplications of a direct sum that take as long as one step of a transform of one number.
const TAPS_PER_STEP: f64 = 8.0;

/// A kernel's transform for lines of one length.
pub(in crate::filter) struct Spectrum {
    fft: Fft,
    /// It is real, because the kernel is symmetric. Contains the inverse transform's factor.
    factors: Vec<f64>,
    /// Length of the lines.
    len: usize,
}

impl Spectrum {
    /// The transform of a half kernel, for lines of `len` voxels.
    ///
    /// # Errors
    /// [`NoMemory`].
    pub(in crate::filter) fn new(half_kernel: &[f64], len: usize) -> Result<Self, NoMemory> {
        let rows = Fft::length_from(len.max(MAX_LANES) + 2 * (half_kernel.len() - 1));
        let fft = Fft::new(rows)?;
        let lanes = Isa::Baseline.lanes();
        let mut buffer = VoxelBuffer::default();
        buffer.try_resize_for_overwrite(rows * lanes * 4 * size_of::<f64>())?;
        let numbers = buffer.as_mut_slice::<f64>();
        numbers.fill(0.0);
        for (j, &weight) in half_kernel.iter().enumerate() {
            numbers[j * lanes] = weight;
            numbers[(rows - j) % rows * lanes] = weight;
        }
        let mut factors = Vec::new();
        factors.try_reserve_exact(rows).map_err(|_| NoMemory {
            len_bytes: rows * size_of::<f64>(),
        })?;
        Isa::Baseline.run(TransformKernel {
            fft: &fft,
            numbers,
            factors: &mut factors,
        });
        Ok(Spectrum { fft, factors, len })
    }

    /// Bytes that it has in memory while it is made.
    pub(in crate::filter) fn held_bytes(&self) -> u64 {
        let numbers = 1 + 4 * Isa::Baseline.lanes();
        self.fft.len() as u64 * (Fft::BYTES + numbers * size_of::<f64>()) as u64
    }

    /// Taps of a kernel whose direct sums would take as long.
    pub(in crate::filter) fn taps(&self) -> f64 {
        let rows = self.fft.len() as f64;
        TAPS_PER_STEP * rows * rows.log2() / self.len.max(1) as f64
    }

    /// Bytes that a thread needs for [`Convolution::run`], or for [`Convolution::run_weighted`].
    pub(in crate::filter) fn tile_bytes(&self, weighted: bool) -> u64 {
        let tiles = if weighted { 5 } else { 2 };
        (self.tile_len() as u64).saturating_mul(tiles * size_of::<f64>() as u64)
    }

    /// Numbers of a tile. The last group is read from a row below its first one.
    fn tile_len(&self) -> usize {
        (COLUMNS + MAX_LANES) * self.fft.len()
    }
}

/// Lines that are convolved in the same way.
pub(in crate::filter) struct Convolution<'a> {
    pub(in crate::filter) pass: Pass<'a>,
    pub(in crate::filter) spectrum: &'a Spectrum,
}

impl Convolution<'_> {
    /// Convolves `lines` of `source`, and writes them to the same positions of `target`, which may be the
    /// same voxels.
    ///
    /// # Errors
    /// [`FilterError::Memory`] for the tile, and [`FilterError::Parameter`] if an intensity is not finite.
    ///
    /// # Safety
    /// That of [`Pass::run`].
    pub(in crate::filter) unsafe fn run(
        &self,
        source: VoxelPointer,
        target: VoxelPointer,
        lines: Lines,
        memory: &mut VoxelBuffer,
    ) -> Result<(), FilterError> {
        let [tile, work] = self.tiles(memory)?;
        for lines_of_tile in self.tiles_of(lines) {
            let first = lines_of_tile.start;
            let lines = self.lines_of(lines, lines_of_tile);
            self.load(source.offset(first * lines.apart), lines, self.pass.cval, tile);
            let is_large = make_smaller(tile)?;
            self.transform(tile, work, lines.count);
            if is_large {
                tile.iter_mut().for_each(|number| *number /= SMALLER);
            }
            self.store(target.offset(first * lines.apart), lines, tile);
        }
        Ok(())
    }

    /// Convolves doubles and their weights, from 0 to 1, in place. Both continue beyond the edge with
    /// `beyond` if the boundary is a constant. Small weights are as exact as large ones, relative to their
    /// size.
    ///
    /// # Errors
    /// Those of [`Convolution::run`].
    ///
    /// # Safety
    /// That of [`Pass::run`], for both.
    pub(in crate::filter) unsafe fn run_weighted(
        &self,
        planes: [VoxelPointer; 2],
        beyond: [f64; 2],
        lines: Lines,
        memory: &mut VoxelBuffer,
    ) -> Result<(), FilterError> {
        let [values, weights, values_before, weights_before, work] = self.tiles(memory)?;
        for lines_of_tile in self.tiles_of(lines) {
            let first = lines_of_tile.start;
            let lines = self.lines_of(lines, lines_of_tile);
            let planes = planes.map(|plane| plane.offset(first * lines.apart));
            self.load(planes[0], lines, beyond[0], values);
            self.load(planes[1], lines, beyond[1], weights);
            let is_large = make_smaller(values)?;
            values_before.copy_from_slice(values);
            weights_before.copy_from_slice(weights);
            self.transform(values, work, lines.count);
            self.transform(weights, work, lines.count);
            for column in 0..lines.count {
                self.sum_small(column, [values_before, weights_before], [values, weights]);
            }
            if is_large {
                values.iter_mut().for_each(|number| *number /= SMALLER);
            }
            self.store(planes[0], lines, values);
            self.store(planes[1], lines, weights);
        }
        Ok(())
    }

    fn radius(&self) -> usize {
        self.pass.half_kernel.len() - 1
    }

    fn tiles<'a, const TILES: usize>(
        &self,
        memory: &'a mut VoxelBuffer,
    ) -> Result<[&'a mut [f64]; TILES], NoMemory> {
        let len = self.spectrum.tile_len();
        memory.try_resize_for_overwrite(TILES * len * size_of::<f64>())?;
        let mut rest = memory.as_mut_slice::<f64>();
        Ok(std::array::from_fn(|_| {
            let (tile, others) = std::mem::take(&mut rest).split_at_mut(len);
            rest = others;
            tile
        }))
    }

    /// The lines of each tile, until the run must stop.
    fn tiles_of(&self, lines: Lines) -> impl Iterator<Item = Range<usize>> + '_ {
        let stopped = || self.pass.stop.is_some_and(|stop| stop.load(Ordering::Relaxed));
        (0..lines.count)
            .step_by(COLUMNS)
            .take_while(move |_| !stopped())
            .map(move |first| first..lines.count.min(first + COLUMNS))
    }

    fn lines_of(&self, lines: Lines, of_tile: Range<usize>) -> Lines {
        Lines {
            count: of_tile.len(),
            ..lines
        }
    }

    /// The index of a number in a tile.
    fn at(&self, column: usize, row: usize) -> usize {
        let lanes = self.pass.isa.lanes();
        (column / lanes * self.spectrum.fft.len() + row) * lanes + column % lanes
    }

    fn work<'a>(&self, pass: Pass<'a>, lines: Lines, tile: &'a mut [f64]) -> Work<'a> {
        Work {
            pass,
            lines,
            start: 0,
            len: lines.len,
            rows: self.spectrum.fft.len(),
            tile,
        }
    }

    /// Fills a tile with lines and their continuation, and with zeros where no line is.
    fn load(&self, source: VoxelPointer, lines: Lines, cval: f64, tile: &mut [f64]) {
        with_voxel_type!(source.datatype, S => {
            let voxels = source.address.cast::<S>();
            let work = self.work(Pass { cval, ..self.pass }, lines, tile);
            self.pass.isa.run(Load { work, voxels })
        });
        let rows = self.spectrum.fft.len();
        let lanes = self.pass.isa.lanes();
        for group in tile[..COLUMNS * rows].chunks_exact_mut(rows * lanes) {
            group[(lines.len + 2 * self.radius()) * lanes..].fill(0.0);
        }
        for column in lines.count..COLUMNS {
            for row in 0..rows {
                tile[self.at(column, row)] = 0.0;
            }
        }
        tile[COLUMNS * rows..].fill(0.0);
    }

    fn transform(&self, tile: &mut [f64], work: &mut [f64], lines: usize) {
        self.pass.isa.run(Transform {
            spectrum: self.spectrum,
            tile,
            work,
            lines,
        });
    }

    /// Writes the lines of a tile.
    fn store(&self, target: VoxelPointer, lines: Lines, tile: &mut [f64]) {
        let pass = Pass {
            half_kernel: &[1.0],
            ..self.pass
        };
        let tile = &mut tile[self.radius() * self.pass.isa.lanes()..];
        with_voxel_type!(target.datatype, T => {
            let voxels = target.address.cast::<T>();
            let work = self.work(pass, lines, tile);
            self.pass.isa.run(Correlate { work, voxels })
        });
    }

    /// Sums a line directly where its weights are small, and sets both to 0 where no voxel counts.
    fn sum_small(&self, column: usize, before: [&[f64]; 2], after: [&mut [f64]; 2]) {
        let radius = self.radius();
        let counts = |row: usize| usize::from(before[1][self.at(column, row)] != 0.0);
        let mut counting = (0..2 * radius).map(counts).sum::<usize>();
        let [values, weights] = after;
        for position in 0..self.spectrum.len {
            counting += counts(position + 2 * radius);
            let centre = position + radius;
            let at = self.at(column, centre);
            if weights[at] < LEAST_WEIGHT {
                let [value, weight] = before.map(|of| match counting {
                    0 => 0.0,
                    _ => self.sum(|row| of[self.at(column, row)], centre),
                });
                (values[at], weights[at]) = (value, weight);
            }
            counting -= counts(position);
        }
    }

    fn sum(&self, number: impl Fn(usize) -> f64, centre: usize) -> f64 {
        let half_kernel = self.pass.half_kernel;
        (1..half_kernel.len())
            .rev()
            .fold(number(centre) * half_kernel[0], |sum, j| {
                sum + (number(centre - j) + number(centre + j)) * half_kernel[j]
            })
    }
}

/// Divides large numbers by a power of 2, and returns whether there are any.
///
/// # Errors
/// [`FilterError::Parameter`] if one is not finite.
fn make_smaller(tile: &mut [f64]) -> Result<bool, FilterError> {
    // The comparison is false for NaN.
    if tile.iter().all(|number| number.abs() <= LARGE) {
        return Ok(false);
    }
    if !tile.iter().all(|number| number.is_finite()) {
        return Err(FilterError::Parameter {
            name: "method",
            cause:
                "fft: intensities are NaN or infinite, which a Fourier transform spreads over whole lines: \
                    give --method direct, or check the scaling in the header"
                    .to_owned(),
        });
    }
    tile.iter_mut().for_each(|number| *number *= SMALLER);
    Ok(true)
}

/// Transforms the kernel, which stands in the first lane.
struct TransformKernel<'a> {
    fft: &'a Fft,
    numbers: &'a mut [f64],
    factors: &'a mut Vec<f64>,
}

impl Job for TransformKernel<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector<LANES>, const LANES: usize>(self) {
        let rows = self.fft.len();
        let first = self.numbers.as_mut_ptr();
        let part = |i: usize| first.wrapping_add(i * rows * LANES);
        // SAFETY: the caller's; `numbers` has four parts.
        let factors = unsafe {
            let (spectrum, _) = self
                .fft
                .transform::<V, LANES>([part(0), part(1)], [part(2), part(3)]);
            std::slice::from_raw_parts(spectrum[0], rows * LANES)
        };
        let factors = factors.iter().step_by(LANES).map(|factor| factor / rows as f64);
        self.factors.extend(factors);
    }
}

/// Convolves the lines of a tile.
struct Transform<'a> {
    spectrum: &'a Spectrum,
    tile: &'a mut [f64],
    work: &'a mut [f64],
    lines: usize,
}

impl Job for Transform<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector<LANES>, const LANES: usize>(self) {
        let Spectrum { fft, factors, .. } = self.spectrum;
        let groups = MAX_LANES / LANES;
        let plane = fft.len() * LANES;
        assert!(self.tile.len() >= 2 * groups * plane && self.work.len() >= 2 * groups * plane);
        let (tile, work) = (self.tile.as_mut_ptr(), self.work.as_mut_ptr());
        for group in 0..groups.min(self.lines.div_ceil(LANES)) {
            let parts = |of: *mut f64| [group, group + groups].map(|group| of.wrapping_add(group * plane));
            // SAFETY: the caller's; tile and work have all groups.
            unsafe {
                let (spectrum, other) = fft.transform::<V, LANES>(parts(tile), parts(work));
                for part in spectrum {
                    for (k, &factor) in factors.iter().enumerate() {
                        let number = part.add(k * LANES);
                        V::load(number).mul(V::splat(factor)).store(number);
                    }
                }
                let [re, im] = spectrum;
                fft.transform::<V, LANES>([im, re], [other[1], other[0]]);
            }
        }
    }
}
