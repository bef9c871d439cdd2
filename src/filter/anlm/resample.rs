//! Resample: the noise interpolated at all voxels of the image, and the image without it.
//!
//! The reference resamples the noise to the grid of the image although it already has that grid. Points in
//! space are rounded to single precision in between. Unless voxel size and origin are round numbers, each
//! voxel therefore gets about a millionth of its value from its neighbours.

use super::super::FilterError;
use super::super::interface::{Slab, ThreadScratch};
use super::super::kernels::convert::{Voxel, with_voxel_type};
use super::super::mask::Outside;
use super::estimates::split_off;
use super::sampling::Sampling;
use super::space::{Matrix, inverse, scaled};
use crate::volume::Grid;

/// From voxel indices to points in space and back.
pub(super) struct Resampling {
    /// Lengths of the image.
    pub(super) shape: [usize; 3],
    /// Where the noise is known.
    sampling: Sampling,
    to_point: Matrix,
    /// To indices of samples.
    to_index: Matrix,
    origin: [f64; 3],
    origin_of_samples: [f64; 3],
}

/// The position of an interpolated value along an axis.
#[derive(Clone, Copy)]
struct Between {
    low: usize,
    high: usize,
    /// Distance from the lower to the upper voxel.
    part: f64,
}

impl Resampling {
    /// From samples of an image, whose grid is `of_samples`, to all voxels of its own grid.
    pub(super) fn new(grid: &Grid, shape: [usize; 3], sampling: Sampling, of_samples: &Grid) -> Self {
        let (to_point, to_index) = match inverse(&scaled(of_samples)) {
            Some(to_index) => (scaled(grid), to_index),
            None => {
                let upright = scaled(&Grid::of_spacing(grid.spacing_mm));
                (upright, inverse(&upright).unwrap_or(upright))
            }
        };
        Resampling {
            shape,
            sampling,
            to_point,
            to_index,
            origin: grid.origin_mm,
            origin_of_samples: of_samples.origin_mm,
        }
    }

    /// Largest distance in slices from which a value is taken.
    pub(super) fn reach(&self) -> usize {
        // Half a unit in the last place of single precision.
        const ROUNDING: f64 = f32::EPSILON as f64 / 2.0;
        let furthest: [f64; 3] = std::array::from_fn(|row| {
            let steps = (0..3).map(|axis| self.to_point[row][axis].abs() * self.shape[axis] as f64);
            self.origin[row].abs().max(self.origin_of_samples[row].abs()) + steps.sum::<f64>()
        });
        let moved = (0..3).map(|axis| self.to_index[2][axis].abs() * furthest[axis] * 2.0 * ROUNDING);
        let moved = moved.sum::<f64>() + self.shape[2] as f64 * 4.0 * ROUNDING;
        let samples = (moved as usize).saturating_add(1);
        self.sampling.reach(samples).min(self.shape[2])
    }

    /// Computes a slab of the result, and of the noise where that is a second result. `outside`: what the
    /// result has outside of the mask, where that is given; then no noise was removed there.
    ///
    /// # Errors
    /// [`FilterError::Stopped`], [`FilterError::Memory`].
    pub(super) fn run(
        &self,
        outside: Option<Outside>,
        slab: &mut Slab<'_>,
        scratch: &mut ThreadScratch,
    ) -> Result<(), FilterError> {
        let [nx, ny, _] = self.shape;
        let readable = slab.readable(0);
        let area = nx * ny;
        // SAFETY: these slices may be read, and no thread writes them at the same time.
        let noise = unsafe {
            slab.sources[0]
                .offset(readable.start * area)
                .as_slice::<f32>(readable.len() * area)
        };
        let mut rest = scratch.singles(area + nx)?;
        let intensities = split_off(&mut rest, area);
        let row = rest;
        for z in slab.slices() {
            slab.check_stop()?;
            Sampling::whole(self.shape).load(slab, 1, z, intensities);
            for y in 0..ny {
                self.noise_of_row(noise, readable.start * area, [y, z], row);
                self.store_noise(outside.is_some(), slab, [y, z], row);
                let intensities = &intensities[y * nx..][..nx];
                for (noise, intensity) in row.iter_mut().zip(intensities) {
                    *noise = intensity - *noise;
                }
                let to = slab.targets[0].offset(z * area + y * nx);
                with_voxel_type!(to.datatype, T => {
                    // SAFETY: the volume has this row, and no other thread uses the slab's own voxels.
                    let voxels = unsafe { to.as_mut_slice::<T>(nx) };
                    for (voxel, &value) in voxels.iter_mut().zip(&*row) {
                        *voxel = T::nearest(f64::from(value));
                    }
                });
            }
            if let Some(outside) = outside {
                slab.put_outside(outside, z * area, area);
            }
        }
        Ok(())
    }

    /// Stores a row of the noise where that is a result, `inside` of the mask only or everywhere.
    fn store_noise(&self, inside: bool, slab: &Slab<'_>, [y, z]: [usize; 2], row: &[f32]) {
        let [nx, ny, _] = self.shape;
        let Some(to) = slab.targets.get(1) else {
            return;
        };
        // SAFETY: the volume has this row, and no other thread uses the slab's own voxels.
        let to = unsafe { to.offset((z * ny + y) * nx).as_mut_slice::<f32>(nx) };
        to.copy_from_slice(row);
        if let Some(mask) = slab.inside(z).filter(|_| inside) {
            for (to, &inside) in to.iter_mut().zip(&mask[y * nx..]) {
                *to = if inside == 0 { 0.0 } else { *to };
            }
        }
    }

    /// The index in single precision of a voxel that is `x` voxels along a row.
    fn index(&self, x: usize, [y, z]: [usize; 2]) -> [f32; 3] {
        let at = [x as f64, y as f64, z as f64];
        let from_origin: [f64; 3] = std::array::from_fn(|row| {
            let steps = &self.to_point[row];
            let point = self.origin[row] + steps[0] * at[0] + steps[1] * at[1] + steps[2] * at[2];
            f64::from(point as f32) - self.origin_of_samples[row]
        });
        self.to_index.map(|row| {
            let sum = 0.0 + row[0] * from_origin[0] + row[1] * from_origin[1] + row[2] * from_origin[2];
            sum as f32
        })
    }

    /// Interpolates a row of the noise, of which the voxels from number `first` on are given.
    fn noise_of_row(&self, noise: &[f32], first: usize, at: [usize; 2], to: &mut [f32]) {
        let nx = self.shape[0];
        let (start, end) = (self.index(0, at), self.index(nx, at));
        let along: [f32; 3] = std::array::from_fn(|axis| end[axis] - start[axis]);
        for (x, to) in to.iter_mut().enumerate() {
            let part = x as f64 / nx as f64;
            let index = |axis: usize| (f64::from(start[axis]) + part * f64::from(along[axis])) as f32;
            let places = [
                self.between(0, index(0)),
                self.between(1, index(1)),
                self.between(2, index(2)),
            ];
            *to = match places {
                [Some(x), Some(y), Some(z)] => self.interpolate(noise, first, [x, y, z]),
                _ => 0.0,
            };
        }
    }

    /// The voxels around an index; `None` outside the image.
    #[inline]
    fn between(&self, axis: usize, index: f32) -> Option<Between> {
        let len = self.sampling.shape[axis];
        let is_inside = index >= -0.5 && index < ((len - 1) as f64 + 0.5) as f32;
        if !is_inside {
            return None;
        }
        let low = index.floor().max(0.0) as usize;
        let part = index - low as f32;
        let interpolates = part > 0.0 && low + 1 < len;
        Some(Between {
            low,
            high: low + usize::from(interpolates),
            part: if interpolates { f64::from(part) } else { 0.0 },
        })
    }

    #[inline]
    fn interpolate(&self, noise: &[f32], first: usize, [x, y, z]: [Between; 3]) -> f32 {
        let mix = |low: f64, high: f64, place: Between| match place.high > place.low {
            true => low + (high - low) * place.part,
            false => low,
        };
        let length = self.sampling.shape[0];
        let row = |y: usize, z: usize| {
            let row = &noise[self.sampling.place(z) - first + y * length..][..length];
            mix(f64::from(row[x.low]), f64::from(row[x.high]), x)
        };
        if y.high == y.low && z.high == z.low {
            return row(y.low, z.low) as f32;
        }
        let slice = |z: usize| mix(row(y.low, z), row(y.high, z), y);
        mix(slice(z.low), slice(z.high), z) as f32
    }
}
