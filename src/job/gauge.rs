//! Gauge: measures the figures of `--qc` slice by slice, while an image is read or after it is filtered.

use super::ImageJob;
use super::picture::Views;
use super::quality::{Figures, figure};
use crate::filter::{Counts, FilterError, ImageInfo, Moments, Smoothness, StoredSlice, Sums};
use crate::volume::{Datatype, Scaling, Volume, VoxelBuffer};

/// The share of an axis that a corner takes.
const CORNER: usize = 8;
/// From so many voxels the smoothness is estimated, or a few more; all other figures are those of all voxels.
const SAMPLE: usize = 1 << 18;

/// The measurement of one image.
pub(super) struct Gauge {
    shape: [usize; 3],
    voxel_size_mm: [f64; 3],
    datatype: Datatype,
    scaling: Option<Scaling>,
    /// The intensities of a slice, and a row.
    plane: VoxelBuffer,
    /// The smoothness is estimated from one of so many volumes, and one of so many slices.
    steps: [usize; 2],
    /// Slices of all volumes so far.
    slices: usize,
    sums: Sums,
    /// Of the volume so far.
    smoothness: Smoothness,
    /// The smoothness of each volume that has one, along x, y and z.
    fwhm_mm: [Moments; 3],
    corners: Moments,
    views: Views,
}

impl ImageJob {
    /// A gauge for an image or a result, with `--qc`. `plane` is memory to be reused.
    ///
    /// # Errors
    /// [`FilterError::Memory`].
    pub(super) fn gauge(
        &self,
        volume: &Volume,
        plane: &mut VoxelBuffer,
    ) -> Result<Option<Gauge>, FilterError> {
        let begin = || Gauge::begin(volume, std::mem::take(plane));
        self.qc.then(begin).transpose()
    }

    /// Bytes that measuring and drawing an image needs.
    pub(super) fn gauge_bytes(&self, image: &ImageInfo) -> u64 {
        if !self.qc {
            return 0;
        }
        let [x, y, _] = image.spatial_shape().map(|length| length as u64);
        let numbers = x.saturating_mul(y).saturating_add(x);
        numbers.saturating_mul(8).saturating_add(super::picture::BYTES)
    }
}

/// Allocates the memory of a gauge for a volume.
///
/// # Errors
/// [`FilterError::Memory`].
pub(super) fn reserve(volume: &Volume, plane: &mut VoxelBuffer) -> Result<(), FilterError> {
    let [x, y, _] = ImageInfo::of(volume).spatial_shape();
    Ok(plane.try_resize_for_overwrite((x * y + x) * size_of::<f64>())?)
}

impl Gauge {
    /// A gauge for the voxels of a volume, none of which it has seen. `plane` is memory to be reused.
    ///
    /// # Errors
    /// [`FilterError::Memory`].
    pub(super) fn begin(volume: &Volume, mut plane: VoxelBuffer) -> Result<Self, FilterError> {
        reserve(volume, &mut plane)?;
        let shape = ImageInfo::of(volume).spatial_shape();
        Ok(Gauge {
            shape,
            voxel_size_mm: volume.voxel_size_mm,
            datatype: volume.datatype,
            scaling: volume.scaling,
            plane,
            steps: steps(volume.len(), shape),
            slices: 0,
            sums: Sums::default(),
            smoothness: Smoothness::default(),
            fwhm_mm: [Moments::default(); 3],
            corners: Moments::default(),
            views: Views::new(shape, volume.voxel_size_mm),
        })
    }

    /// Measures the next slices, which are complete and in the machine's byte order.
    pub(super) fn add(&mut self, stored: &[u8]) {
        let [width, height, depth] = self.shape;
        let [volume_step, slice_step] = self.steps;
        for voxels in stored.chunks_exact(width * height * self.datatype.size_bytes()) {
            let (volume, z) = (self.slices / depth, self.slices % depth);
            let slice = StoredSlice {
                voxels,
                datatype: self.datatype,
                scaling: self.scaling,
                width,
            };
            self.sums.add(slice);
            let numbers: &mut [f64] = self.plane.as_mut_slice();
            let (plane, row) = numbers.split_at_mut(width * height);
            let counts = Counts {
                itself: z % slice_step == 0,
                below: z > 0 && (z - 1) % slice_step == 0,
            };
            if volume % volume_step == 0 && (counts.itself || counts.below) {
                self.smoothness.add(slice, counts, plane, row);
            }
            if is_corner(z, depth) {
                let corner = width.div_ceil(CORNER);
                for y in (0..height).filter(|&y| is_corner(y, height)) {
                    slice.load(y * width, row);
                    self.corners.add_each(&row[..corner]);
                    self.corners.add_each(&row[corner.max(width - corner)..]);
                }
            }
            if volume == 0 {
                self.views.add(z, slice, row);
            }
            self.slices += 1;
            if z + 1 == depth {
                self.end_volume();
            }
        }
    }

    fn end_volume(&mut self) {
        let volume = std::mem::take(&mut self.smoothness);
        for axis in 0..3 {
            let fwhm_vox = fwhm_vox(volume.voxels, volume.differences[axis]);
            let fwhm_mm = fwhm_vox.map(|fwhm| fwhm * self.voxel_size_mm[axis]);
            self.fwhm_mm[axis].add_each(fwhm_mm.as_slice());
        }
    }

    /// The figures, the views of the first volume, and the memory.
    pub(super) fn finish(self) -> (Figures, Views, VoxelBuffer) {
        let sums = self.sums;
        let voxels = self.slices as u64 * (self.shape[0] * self.shape[1]) as u64;
        let figures = Figures {
            min: figure(sums.min),
            max: figure(sums.max),
            mean: figure(sums.voxels.mean()),
            sd: figure(sums.voxels.variance().sqrt()),
            noise: figure(self.corners.variance().sqrt()),
            fwhm_mm: self.fwhm_mm.map(|axis| figure(axis.mean())),
            nonfinite_voxels: voxels - sums.voxels.count as u64,
            saturated_voxels: sums.saturated,
            zero_voxels: sums.zeros,
        };
        (figures, self.views, self.plane)
    }
}

/// Every how many volumes, and every how many slices of those, the smoothness is estimated from.
fn steps(voxels: usize, shape: [usize; 3]) -> [usize; 2] {
    let volume: usize = shape.iter().product();
    let volumes = voxels / volume.max(1);
    let volume_step = voxels.div_ceil(SAMPLE).clamp(1, volumes.max(1));
    [volume_step, volume.div_ceil(SAMPLE).max(1)]
}

fn is_corner(place: usize, length: usize) -> bool {
    let corner = length.div_ceil(CORNER);
    place < corner || place >= length - corner
}

/// Smoothness along an axis as a full width at half maximum in voxels, from the voxels and the differences of
/// neighbours: sqrt(−2 ln 2 / ln(1 − var(differences) / (2 var(voxels)))). `None` with few voxels, or if
/// neighbours do not resemble each other.
///
/// Forman et al. 1995; the same as AFNI's `3dFWHMx -classic` without mask and detrending
/// (`mri_estimate_FWHM_1dif`).
fn fwhm_vox(voxels: Moments, differences: Moments) -> Option<f64> {
    let enough = voxels.count >= 9.0 && differences.count >= 6.0;
    let correlation = 1.0 - 0.5 * differences.variance() / voxels.variance();
    let defined = enough && correlation > 0.0 && correlation < 1.0;
    defined.then(|| (-2.0 * std::f64::consts::LN_2 / correlation.ln()).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slabs_of_any_size_give_the_same_figures() {
        let mut volume = Volume::zeros(&[9, 7, 6, 2], Datatype::Int16);
        for (place, voxel) in volume.voxels.as_mut_slice::<i16>().iter_mut().enumerate() {
            *voxel = (place * 7919 % 1009) as i16;
        }
        let stored = volume.voxels.as_bytes();
        let figures = |slices: usize| {
            let mut gauge = Gauge::begin(&volume, VoxelBuffer::default()).unwrap();
            stored.chunks(slices * 9 * 7 * 2).for_each(|slab| gauge.add(slab));
            gauge.finish().0
        };
        let whole = figures(12);
        assert_eq!((whole.min, whole.zero_voxels), (Some(0.0), 1));
        assert!([1, 5, 7].map(figures).iter().all(|other| *other == whole));
    }

    #[test]
    fn large_images_are_sampled() {
        assert_eq!(steps(64 * 64 * 30, [64, 64, 30]), [1, 1]);
        assert_eq!(steps(64 * 64 * 32 * 100, [64, 64, 32]), [50, 1]);
        assert_eq!(steps(256 * 256 * 160, [256, 256, 160]), [1, 40]);
        assert_eq!(steps(256 * 256 * 160 * 2, [256, 256, 160]), [2, 40]);
    }

    #[test]
    fn the_smallest_images_have_figures() {
        for shape in [&[1][..], &[1, 1, 1], &[3, 1], &[1, 5, 1, 2]] {
            let volume = Volume::zeros(shape, Datatype::Float32);
            let mut gauge = Gauge::begin(&volume, VoxelBuffer::default()).unwrap();
            gauge.add(volume.voxels.as_bytes());
            let (figures, ..) = gauge.finish();
            let voxels = shape.iter().product::<usize>() as u64;
            assert_eq!(
                (figures.mean, figures.zero_voxels),
                (Some(0.0), voxels),
                "{shape:?}"
            );
            assert_eq!(figures.fwhm_mm, [None; 3]);
        }
    }
}
