//! Moments: rows as their even and their odd voxels, and the mean and variance around each voxel.

use super::super::kernels::simd::{Job, Vector};

/// How slices are kept: rows with margins, each as its even and then its odd voxels.
#[derive(Clone, Copy)]
pub(super) struct Halves {
    /// Voxels of half a row, and how many of them stand before the first.
    pub(super) len: usize,
    pub(super) before: usize,
    /// Rows above the first.
    pub(super) above: usize,
    /// Numbers of a slice.
    pub(super) plane: usize,
}

impl Halves {
    pub(super) fn pitch(&self) -> usize {
        2 * self.len
    }

    /// The distance of a voxel from the even one that is so far before it.
    #[inline(always)]
    pub(super) fn along(&self, x: isize) -> isize {
        x.rem_euclid(2) * self.len as isize + x.div_euclid(2)
    }

    /// The place of a row's first voxel in a slice; `y` may be in the margin.
    #[inline(always)]
    pub(super) fn row(&self, y: isize) -> usize {
        (y + self.above as isize).unsigned_abs() * self.pitch() + self.before
    }

    /// The place of a voxel in a slice.
    pub(super) fn at(&self, x: isize, y: isize) -> usize {
        self.row(y).wrapping_add_signed(self.along(x))
    }
}

/// Means and variances of the even or the odd voxels of a row.
pub(super) struct Moments<'a> {
    pub(super) halves: Halves,
    pub(super) values: &'a [f64],
    pub(super) means: &'a mut [f64],
    pub(super) variances: &'a mut [f64],
    /// A row with 1 inside the image.
    pub(super) inside: &'a [f64],
    /// The place of the row's first voxel in the planes.
    pub(super) row: usize,
    pub(super) odd: isize,
}

impl Job for Moments<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector<LANES>, const LANES: usize>(self) {
        let halves = self.halves;
        // In the order of the reference: x slowest.
        let mut offsets = [0; 27];
        for (number, offset) in (0..).zip(&mut offsets) {
            let [x, y, z] = [number / 9 - 1, number / 3 % 3 - 1, number % 3 - 1];
            *offset = halves.along(self.odd + x) + y * halves.pitch() as isize + z * halves.plane as isize;
        }
        let own = halves.along(self.odd);
        for i in (0..halves.len - 2 * halves.before - 1).step_by(LANES) {
            let at = (self.row + i).wrapping_add_signed(own);
            // SAFETY: the caller's processor has V's instructions, and planes have margins for all offsets.
            unsafe {
                let middle = self.values.as_ptr().add(self.row + i);
                let mut sum = V::splat(0.0);
                for offset in offsets {
                    sum = sum.add(V::load(middle.wrapping_offset(offset)));
                }
                let mean = sum.div(V::splat(27.0));
                let mut squares = V::splat(0.0);
                for offset in offsets {
                    let difference = V::load(middle.wrapping_offset(offset)).sub(mean);
                    squares = squares.add(difference.mul(difference));
                }
                let variance = squares.div(V::splat(26.0));
                let inside = self.inside.as_ptr().add(halves.before + i).wrapping_offset(own);
                let (half, inside) = (V::splat(0.5), V::load(inside));
                mean.only_where_le(half, inside)
                    .store(self.means[at..].as_mut_ptr());
                variance
                    .only_where_le(half, inside)
                    .store(self.variances[at..].as_mut_ptr());
            }
        }
    }
}
