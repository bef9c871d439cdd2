//! Frame: lengths and places that are the same for all slabs of an image.
//!
//! Slices are kept as frames: rows with margins of zeros, so that vectors may reach beyond the edges. The
//! planes of a kind follow each other, and a place in another slice is a fixed distance away.

use super::super::kernels::singles::MAX_LANES;
use super::sampling::Sampling;

/// A place to search for a similar patch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    /// Distance from the middle of the search area along x, y and z.
    pub(super) from_middle: [isize; 3],
    /// The same in numbers of a frame.
    pub(super) offset: isize,
}

/// Lengths and places for one image.
pub(super) struct Frame {
    /// Which voxels of the image it is made of.
    pub(super) sampling: Sampling,
    pub(super) shape: [usize; 3],
    /// Radius of a patch.
    pub(super) patch: [usize; 3],
    /// Radius of the search area.
    pub(super) search: [usize; 3],
    /// Radius of the box that mean and variance are taken over.
    pub(super) statistics: [usize; 3],
    /// Margins on the left and right, and above and below.
    pub(super) margin: [usize; 2],
    /// Numbers of a row with its margins.
    pub(super) pitch: usize,
    /// Numbers of a slice with its margins.
    pub(super) plane: usize,
    /// In the order of the sums: x fastest. Without the middle.
    pub(super) candidates: Vec<Candidate>,
    /// The rows of a patch, as distances along y and z, in the order of the sums.
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

    /// The place of a row's first voxel in a slice.
    pub(super) fn row(&self, y: usize) -> usize {
        (y + self.margin[1]) * self.pitch + self.margin[0]
    }

    /// How far along z the patches of a slice's candidates reach.
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

    /// Planes of estimates that a slab leaves for the slices that it shares with the one below.
    pub(super) fn seam_planes(&self) -> usize {
        let [_, _, radius] = self.patch;
        radius * (2 * radius + 1) * (2 * self.patch[1] + 1) * (2 * self.patch[0] + 1)
    }

    /// Bytes for estimates from so many slices, with those left for neighbours.
    pub(super) fn scratch_bytes(&self, slices: u64) -> u64 {
        let around = slices.saturating_add(2 * self.slices_around() as u64);
        // Five kinds of planes and the sums; three slices of intensities; what two slabs leave.
        let planes = around
            .saturating_mul(6)
            .saturating_add(4 + 2 * self.seam_planes() as u64);
        let lists = (4 * self.candidates.len() + 2 * self.patch_voxels() + 32) * MAX_LANES * 4;
        planes
            .saturating_mul(self.plane as u64)
            .saturating_mul(4)
            .saturating_add(lists as u64)
    }

    /// Bytes that it holds.
    pub(super) fn held_bytes(&self) -> u64 {
        let candidates = self.candidates.capacity() * size_of::<Candidate>();
        (candidates + self.patch_rows.capacity() * size_of::<[isize; 2]>()) as u64
    }
}
