//! Frame: lengths and positions that are the same for all slabs of an image.
//!
//! Slices are stored as frames: rows with margins of zeros, so that vectors can reach beyond the edges. The
//! planes of a kind follow each other, so the same position in the next slice is a fixed distance away.

use super::super::kernels::singles::MAX_LANES;
use super::sampling::Sampling;

/// A position of a possibly similar patch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    /// Distance from the centre of the search area along x, y and z.
    pub(super) from_middle: [isize; 3],
    /// The same distance in a frame.
    pub(super) offset: isize,
}

/// Lengths and positions for one image.
pub(super) struct Frame {
    /// Which voxels of the image it is made of.
    pub(super) sampling: Sampling,
    pub(super) shape: [usize; 3],
    /// Radius of a patch.
    pub(super) patch: [usize; 3],
    /// Radius of the search area.
    pub(super) search: [usize; 3],
    /// Radius of the box for mean and variance.
    pub(super) statistics: [usize; 3],
    /// Margins on the left and right, and above and below.
    pub(super) margin: [usize; 2],
    /// Numbers of a row with its margins.
    pub(super) pitch: usize,
    /// Numbers of a slice with its margins.
    pub(super) plane: usize,
    /// In summation order, x fastest, without the centre.
    pub(super) candidates: Vec<Candidate>,
    /// The rows of a patch as distances along y and z, in summation order.
    pub(super) patch_rows: Vec<[isize; 2]>,
}

impl Frame {
    /// A frame for samples of an image that has so many of the axes. Along an axis that it lacks the radii
    /// are 0.
    pub(super) fn new(sampling: Sampling, axes: usize, patch: [usize; 3], search: [usize; 3]) -> Self {
        let shape = sampling.shape;
        let on_axes =
            |radii: [usize; 3]| std::array::from_fn(|axis| if axis < axes { radii[axis] } else { 0 });
        let (patch, search, statistics) = (on_axes(patch), on_axes(search), on_axes([1; 3]));
        let margin = [patch[0] + search[0], patch[1] + search[1]];
        let pitch = shape[0].next_multiple_of(MAX_LANES).saturating_add(2 * margin[0]);
        let plane = pitch.saturating_mul(shape[1].saturating_add(2 * margin[1]));
        let range = |radius: usize| -(radius as isize)..=radius as isize;
        let patch_rows = range(patch[2])
            .flat_map(|z| range(patch[1]).map(move |y| [y, z]))
            .collect();
        let candidates = range(search[2])
            .flat_map(|z| range(search[1]).map(move |y| (y, z)))
            .flat_map(|(y, z)| range(search[0]).map(move |x| [x, y, z]))
            .filter(|&from_middle| from_middle != [0; 3])
            .map(|from_middle @ [x, y, z]| Candidate {
                from_middle,
                offset: x
                    .wrapping_add((pitch as isize).wrapping_mul(y))
                    .wrapping_add((plane as isize).wrapping_mul(z)),
            })
            .collect();
        Frame {
            sampling,
            shape,
            patch,
            search,
            statistics,
            margin,
            pitch,
            plane,
            candidates,
            patch_rows,
        }
    }

    /// The position of a row's first voxel in a slice.
    pub(super) fn row(&self, y: usize) -> usize {
        (y + self.margin[1]) * self.pitch + self.margin[0]
    }

    /// Reach along z of the patches of a slice's candidates.
    pub(super) fn slices_around(&self) -> usize {
        self.patch[2] + self.search[2]
    }

    /// Voxels of a patch.
    pub(super) fn patch_voxels(&self) -> usize {
        self.patch_rows.len() * (2 * self.patch[0] + 1)
    }

    /// How many voxels of the box around `at` are inside the image along an axis.
    pub(super) fn inside(&self, axis: usize, at: usize) -> usize {
        let (radius, len) = (self.patch[axis], self.shape[axis]);
        (at + radius).min(len - 1) - at.saturating_sub(radius) + 1
    }

    /// Number of planes of estimates that a slab stores for the slices that it shares with the slab below.
    pub(super) fn seam_planes(&self) -> usize {
        let [_, _, radius] = self.patch;
        radius * (2 * radius + 1) * (2 * self.patch[1] + 1) * (2 * self.patch[0] + 1)
    }

    /// Bytes for the estimates from this many slices, including those stored for neighbours.
    pub(super) fn scratch_bytes(&self, slices: u64) -> u64 {
        let around = slices.saturating_add(2 * self.slices_around() as u64);
        // Five kinds of planes, the sums, three slices of intensities, and the notes of two slabs.
        let planes = around
            .saturating_mul(6)
            .saturating_add(4 + 2 * self.seam_planes() as u64);
        let lists = (4 * self.candidates.len() + 2 * self.patch_voxels() + 32) * MAX_LANES * 4;
        planes
            .saturating_mul(self.plane as u64)
            .saturating_mul(4)
            .saturating_add(lists as u64)
    }

    /// Bytes in use.
    pub(super) fn held_bytes(&self) -> u64 {
        let candidates = self.candidates.capacity() * size_of::<Candidate>();
        (candidates + self.patch_rows.capacity() * size_of::<[isize; 2]>()) as u64
    }
}
