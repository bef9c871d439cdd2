//! Sampling: which voxels of an image are denoised, and where their planes lie in memory.
//!
//! A shrunken image has every n-th voxel along each axis. Its planes lie in planes of the whole image: each
//! of its slices where the slice of the image that it samples is, at the beginning. So slabs, reaches and
//! what a stage waits for are those of the image, and a slab computes the samples in its own slices.

use std::ops::Range;

use super::super::FilterError;
use super::super::interface::Slab;
use super::super::kernels::convert::{Voxel, with_voxel_type};
use super::space::{Matrix, inverse, is_aligned, scaled};
use crate::volume::Grid;

/// Which voxels are sampled.
#[derive(Clone, Copy)]
pub(super) struct Sampling {
    /// Lengths of the image.
    image: [usize; 3],
    /// How many samples there are along each axis.
    pub(super) shape: [usize; 3],
    /// Voxels from one sample to the next.
    step: [usize; 3],
    /// The first sample.
    first: [usize; 3],
}

impl Sampling {
    /// Every voxel of the image.
    pub(super) fn whole(image: [usize; 3]) -> Self {
        Sampling {
            image,
            shape: image,
            step: [1; 3],
            first: [0; 3],
        }
    }

    /// Every `shrink`-th voxel of an image that has so many of the axes, and the grid of these samples. The
    /// samples are as far as possible in the middle of the image.
    ///
    /// # Errors
    /// [`FilterError::Parameter`] for an oblique grid.
    pub(super) fn new(
        image: [usize; 3],
        axes: usize,
        shrink: usize,
        grid: &Grid,
    ) -> Result<(Self, Grid), FilterError> {
        if shrink == 1 {
            return Ok((Sampling::whole(image), *grid));
        }
        let step: [usize; 3] = std::array::from_fn(|axis| if axis < axes { shrink } else { 1 });
        let shape: [usize; 3] = std::array::from_fn(|axis| (image[axis] / step[axis]).max(1));
        let mut samples = Grid {
            spacing_mm: std::array::from_fn(|axis| grid.spacing_mm[axis] * step[axis] as f64),
            ..*grid
        };
        let to_point = scaled(grid);
        let Some(to_index) = inverse(&to_point).filter(|_| is_aligned(&to_point)) else {
            return Err(FilterError::Parameter {
                name: "shrink",
                cause: "the axes of the image are not parallel to those of space, where the result of ANTs \
                        depends on how it rounds the inverse of a matrix: leave --shrink out, or resample \
                        the image first"
                    .to_owned(),
            });
        };
        let middle = |to_point: &Matrix, shape: [usize; 3]| {
            let at = shape.map(|len| (len as f64 - 1.0) / 2.0);
            let point = to_point.map(|row| 0.0 + row[0] * at[0] + row[1] * at[1] + row[2] * at[2]);
            std::array::from_fn::<f64, 3, _>(|row| point[row] + grid.origin_mm[row])
        };
        let (of_image, of_samples) = (middle(&to_point, image), middle(&scaled(&samples), shape));
        for row in 0..3 {
            samples.origin_mm[row] = grid.origin_mm[row] + (of_image[row] - of_samples[row]);
        }
        let moved: [f64; 3] = std::array::from_fn(|row| samples.origin_mm[row] - grid.origin_mm[row]);
        let first = to_index.map(|row| {
            let index = 0.0 + row[0] * moved[0] + row[1] * moved[1] + row[2] * moved[2];
            (index + 0.5).floor().max(0.0) as usize
        });
        let first = std::array::from_fn(|axis| {
            let last = image[axis] - 1 - (shape[axis] - 1) * step[axis];
            first[axis].min(last)
        });
        let sampling = Sampling {
            image,
            shape,
            step,
            first,
        };
        Ok((sampling, samples))
    }

    /// How many voxels of the image there are for a sample.
    pub(super) fn voxels(&self) -> usize {
        self.step.iter().product()
    }

    /// How far `slices` of samples reach in the image.
    pub(super) fn reach(&self, slices: usize) -> usize {
        slices.saturating_mul(self.step[2])
    }

    /// The slice of the image that slice `z` of the samples comes from.
    pub(super) fn slice(&self, z: usize) -> usize {
        self.first[2] + z * self.step[2]
    }

    /// The place in a plane of slice `z` of the samples.
    pub(super) fn place(&self, z: usize) -> usize {
        self.slice(z) * self.image[0] * self.image[1]
    }

    /// How many slices of samples so many slices of the image have at most.
    pub(super) fn most(&self, slices: u64) -> u64 {
        slices.div_ceil(self.step[2] as u64)
    }

    /// The slices of samples in these slices of the image.
    ///
    /// A slab that is as thick as a stage reaches has at least as many as the stage reaches in samples:
    /// before the first sample and after the last one there are fewer slices than a step has.
    pub(super) fn slices(&self, of: &Range<usize>) -> Range<usize> {
        let before = |end: usize| {
            end.saturating_sub(self.first[2])
                .div_ceil(self.step[2])
                .min(self.shape[2])
        };
        before(of.start)..before(of.end)
    }

    /// Reads the intensities of slice `z` of the samples from the image, each as the nearest single-precision
    /// number of its double.
    ///
    /// # Panics
    /// When the slice is not readable, or `to` has another length than a slice.
    pub(super) fn load(&self, slab: &Slab<'_>, source: usize, z: usize, to: &mut [f32]) {
        let slice = self.slice(z);
        assert!(slab.readable(source).contains(&slice));
        assert_eq!(to.len(), self.shape[0] * self.shape[1]);
        let from = slab.sources[source].offset(slab.first(slice));
        let scaling = slab.scaling;
        let [width, height, _] = self.image;
        with_voxel_type!(from.datatype, S => {
            // SAFETY: the volume has this slice, and nobody writes what a slab may read.
            let voxels = unsafe { from.as_slice::<S>(width * height) };
            let single = |voxel: &S| {
                let stored = voxel.to_f64();
                scaling.map_or(stored, |scaling| scaling.intensity(stored)) as f32
            };
            for (y, to) in to.chunks_exact_mut(self.shape[0].max(1)).enumerate() {
                let row = &voxels[(self.first[1] + y * self.step[1]) * width..][..width];
                let row = row[self.first[0]..].iter();
                match self.step[0] {
                    1 => to.iter_mut().zip(row).for_each(|(to, voxel)| *to = single(voxel)),
                    step => {
                        let row = row.step_by(step);
                        to.iter_mut().zip(row).for_each(|(to, voxel)| *to = single(voxel));
                    }
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_in_the_middle_and_thick_slabs_have_enough() {
        for (len, shrink) in (1..50).flat_map(|len| (1..9).map(move |shrink| (len, shrink))) {
            let grid = Grid::of_spacing([1.0; 3]);
            let (sampling, samples) = Sampling::new([len; 3], 3, shrink, &grid).unwrap();
            assert_eq!(sampling.slices(&(0..len)), 0..sampling.shape[2]);
            let (first, last) = (sampling.slice(0), sampling.slice(sampling.shape[2] - 1));
            assert!(last < len && first < len.max(shrink), "{len} {shrink}");
            let after = len - 1 - last;
            assert!(
                first == after || first == after + 1,
                "{len} {shrink}: {first}, {after}"
            );
            assert_eq!(samples.spacing_mm, [shrink as f64; 3]);
            for reach in 1..5 {
                let thick = sampling.reach(reach);
                for start in 0..len.saturating_sub(thick) {
                    let found = sampling.slices(&(start..start + thick));
                    assert!(found.len() >= reach, "{len} {shrink} {reach} {start}: {found:?}");
                    assert!(found.len() as u64 <= sampling.most(thick as u64));
                    for z in found {
                        assert!((start..start + thick).contains(&sampling.slice(z)));
                    }
                }
            }
        }
    }
}
