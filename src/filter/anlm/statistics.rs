//! Statistics: mean and variance around each voxel, and the other values by which patches are compared.

use super::super::interface::Slab;
use super::super::kernels::simd::{Isa, Job, Vector};
use super::frame::Frame;

/// A voxel takes part only if its mean and variance exceed this: 1e-5.
const LEAST: f32 = 1e-5;

/// Lanes of the widest vector of doubles.
const MAX_DOUBLES: usize = 8;

/// The frames of some slices for the comparison of patches, one kind after the other. Margins are 0.
pub(super) struct Frames<'a> {
    /// The values to which the weights apply: intensities, or their squares for Rician noise.
    pub(super) values: &'a mut [f32],
    /// Intensities minus their means.
    pub(super) details: &'a mut [f32],
    /// Means; 0 if a voxel takes no part.
    pub(super) means: &'a mut [f32],
    /// Variances; 0 if a voxel takes no part.
    pub(super) variances: &'a mut [f32],
    /// Mean squares of the details over a patch.
    pub(super) energies: &'a mut [f32],
}

/// Intensities of three slices with the edge repeated, and their reduction to means and variances.
pub(super) struct Statistics<'a> {
    frame: &'a Frame,
    /// Length of a row.
    pitch: usize,
    /// Three slices in turn: slice z is at position z mod 3.
    slices: &'a mut [f32],
    /// The first slice that is not loaded.
    next: usize,
}

impl<'a> Statistics<'a> {
    /// Length of a row of intensities.
    fn pitch(frame: &Frame) -> usize {
        (frame.shape[0] + 2).saturating_add(MAX_DOUBLES)
    }

    /// Length of its buffer.
    pub(super) fn len(frame: &Frame) -> usize {
        3 * Self::pitch(frame) * (frame.shape[1] + 2)
    }

    /// Means and variances from slice `first` on.
    pub(super) fn new(frame: &'a Frame, first: usize, slices: &'a mut [f32]) -> Self {
        Statistics {
            frame,
            pitch: Self::pitch(frame),
            slices,
            next: first.saturating_sub(frame.statistics[2]),
        }
    }

    fn slice_len(&self) -> usize {
        self.pitch * (self.frame.shape[1] + 2)
    }

    /// Loads slice `z` and those around it. Slices must be requested in ascending order. `plain` has room for
    /// a slice.
    pub(super) fn advance(&mut self, slab: &Slab<'_>, z: usize, plain: &mut [f32]) {
        let [nx, ny, nz] = self.frame.shape;
        let len = self.slice_len();
        while self.next < nz && self.next <= z + self.frame.statistics[2] {
            self.frame.sampling.load(slab, 0, self.next, plain);
            let slice = &mut self.slices[self.next % 3 * len..][..len];
            for (row, to) in slice.chunks_exact_mut(self.pitch).enumerate() {
                let y = row.saturating_sub(1).min(ny - 1);
                let from = &plain[y * nx..][..nx];
                to[0] = from[0];
                to[1..=nx].copy_from_slice(from);
                to[nx + 1..].fill(from[nx - 1]);
            }
            self.next += 1;
        }
    }

    /// The intensities of a row of the requested slice.
    pub(super) fn intensities(&self, y: usize, z: usize) -> &[f32] {
        let start = z % 3 * self.slice_len() + (y + 1) * self.pitch + 1;
        &self.slices[start..][..self.frame.shape[0]]
    }

    /// Means and variances of a row; both have room for whole vectors.
    pub(super) fn row(&self, isa: Isa, y: usize, z: usize, means: &mut [f32], variances: &mut [f32]) {
        let [nx, _, nz] = self.frame.shape;
        let whole = nx.next_multiple_of(MAX_DOUBLES);
        assert!(means.len() >= whole && variances.len() >= whole);
        let radius = self.frame.statistics[2] as isize;
        let mut rows = [std::ptr::null(); 9];
        let mut count = 0;
        for dz in -radius..=radius {
            let slice = z.saturating_add_signed(dz).min(nz - 1);
            let rows_of_slice = self.slices[slice % 3 * self.slice_len()..][..self.slice_len()].as_ptr();
            for dy in 0..3 {
                rows[count] = rows_of_slice.wrapping_add((y + dy) * self.pitch);
                count += 1;
            }
        }
        isa.run(Moments {
            rows: &rows[..count],
            len: nx,
            means,
            variances,
        });
    }
}

/// Means and variances of boxes along a row.
struct Moments<'a> {
    /// The rows of the boxes, each from the voxel before the centre of the first box.
    rows: &'a [*const f32],
    len: usize,
    means: &'a mut [f32],
    variances: &'a mut [f32],
}

impl Job for Moments<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector<LANES>, const LANES: usize>(self) {
        let count = (3 * self.rows.len()) as f64;
        for x in (0..self.len).step_by(LANES) {
            let (mut sums, mut squares) = ([0.0; LANES], [0.0; LANES]);
            // SAFETY: rows have two numbers more than whole vectors of voxels.
            unsafe {
                let (mut sum, mut square) = (V::splat(0.0), V::splat(0.0));
                for row in self.rows {
                    for dx in 0..3 {
                        let value = V::load_f32(row.add(x + dx));
                        sum = sum.add(value);
                        square = square.add(value.mul(value));
                    }
                }
                sum.store(sums.as_mut_ptr());
                square.store(squares.as_mut_ptr());
            }
            for lane in 0..LANES {
                let (sum, square) = (sums[lane], squares[lane]);
                self.means[x + lane] = (sum / count) as f32;
                self.variances[x + lane] = ((square - (sum * sum) / count) / (count - 1.0)) as f32;
            }
        }
    }
}

impl Frames<'_> {
    /// Fills a row of slice number `slice` of the frames. `squared`: the weights apply to squares.
    pub(super) fn fill(
        &mut self,
        frame: &Frame,
        [slice, y]: [usize; 2],
        intensities: &[f32],
        (means, variances): (&[f32], &[f32]),
        squared: bool,
    ) {
        let row = slice * frame.plane + frame.row(y);
        for (x, &intensity) in intensities.iter().enumerate() {
            let (mean, variance) = (means[x], variances[x]);
            let takes_part = intensity > 0.0 && mean > LEAST && variance > LEAST;
            self.values[row + x] = if squared { intensity * intensity } else { intensity };
            self.details[row + x] = intensity - mean;
            self.means[row + x] = if takes_part { mean } else { 0.0 };
            self.variances[row + x] = if takes_part { variance } else { 0.0 };
        }
    }

    /// Clears the slice of that number.
    pub(super) fn clear(&mut self, frame: &Frame, slice: usize) {
        let place = slice * frame.plane..(slice + 1) * frame.plane;
        for kind in [
            &mut *self.values,
            &mut *self.details,
            &mut *self.means,
            &mut *self.variances,
        ] {
            kind[place.clone()].fill(0.0);
        }
    }
}
