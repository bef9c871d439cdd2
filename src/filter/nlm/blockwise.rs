//! Blockwise: whole patches become means of similar patches, and a voxel the mean of the patches it is in.
//!
//! The middles of patches, the centres, are the voxels whose places are even along every axis of the image.
//! Lanes of a vector are neighbouring centres of a row, so rows are kept as their even and their odd voxels.
//! A voxel's estimates are added in the order of the reference: its centres ascending, x fastest.

use super::super::FilterError;
use super::super::interface::{Slab, ThreadScratch};
use super::super::kernels::simd::{Isa, Job, MAX_DOUBLES, Vector};
use super::moments::{Halves, Moments};
use super::weights::Weights;
use super::{Buffers, bias};

/// What a mean and a variance have to exceed for a patch to be compared with others.
const LEAST: f64 = 1e-5;

/// Bounds of the ratios of two means and of two variances.
const MEAN_RATIO: f64 = 0.95;
const VARIANCE_RATIO: f64 = 0.5 + 1e-7;

/// Candidates whose distances are summed side by side, to hide the latency of an addition.
const SIDE_BY_SIDE: usize = 4;

/// The variance of voxels outside of the mask.
const OUTSIDE: f64 = -1.0;

/// Blockwise non-local means of one image.
pub(super) struct Blockwise {
    pub(super) shape: [usize; 3],
    /// How far the middles of similar patches are searched.
    pub(super) search: usize,
    /// Radius of a patch.
    pub(super) patch: usize,
    pub(super) is_rician: bool,
    /// Distances of the patches that are compared with each one, and that one itself, in the order of the
    /// sums: x fastest.
    candidates: Vec<[isize; 3]>,
}

/// Memory of a thread for one slab: slices one kind after the other, and lists of vectors.
struct Lists<'a> {
    /// Intensities, mirrored beyond the edges; means and variances of all voxels inside, elsewhere 0.
    values: &'a mut [f64],
    means: &'a mut [f64],
    variances: &'a mut [f64],
    /// Of the slab's own slices the sums of estimates, and how many there are.
    sums: &'a mut [f64],
    counts: &'a mut [f64],
    /// Which candidates are accepted somewhere in a block, then where they are, and then their weights.
    places: &'a mut [u32],
    weights: &'a mut [f64],
    /// The mean of each voxel of a patch.
    estimates: &'a mut [f64],
    /// Half a row each: 1 inside the image.
    inside: &'a mut [f64],
}

impl Blockwise {
    pub(super) fn new(shape: [usize; 3], search: usize, patch: usize, is_rician: bool) -> Self {
        let range = -(search as isize)..=search as isize;
        let along = || range.clone();
        let candidates = along()
            .flat_map(|z| along().flat_map(move |y| along().map(move |x| [x, y, z])))
            .collect();
        Blockwise {
            shape,
            search,
            patch,
            is_rician,
            candidates,
        }
    }

    /// How far around a voxel of a patch or a mean the image is read.
    fn around(&self) -> usize {
        self.patch.max(1)
    }

    /// How far around a slab slices are read.
    pub(super) fn slices_around(&self) -> usize {
        self.patch + self.search + self.around()
    }

    /// How far around a slab the mask is read.
    pub(super) fn mask_around(&self) -> usize {
        self.patch + self.search
    }

    pub(super) fn candidates(&self) -> usize {
        self.candidates.len()
    }

    pub(super) fn patch_voxels(&self) -> usize {
        (2 * self.patch + 1).pow(3)
    }

    fn halves(&self) -> Halves {
        let [nx, ny, _] = self.shape;
        let before = (self.search + self.around()).div_ceil(2);
        let len = nx.div_ceil(2).next_multiple_of(MAX_DOUBLES) + 2 * before + 1;
        let above = self.around();
        Halves {
            len,
            before,
            above,
            plane: len.saturating_mul(2).saturating_mul(ny.saturating_add(2 * above)),
        }
    }

    /// How many doubles a slab of so many slices needs of each kind, in the order of [`Lists`], and then for
    /// slices as they are read and written.
    fn lengths(&self, slices: usize) -> [usize; 9] {
        let halves = self.halves();
        let planes = slices
            .saturating_add(2 * self.slices_around())
            .saturating_mul(halves.plane);
        let own = slices.saturating_mul(halves.plane);
        let slice = self.shape[0].saturating_mul(self.shape[1]);
        [
            planes,
            planes,
            planes,
            own,
            own,
            MAX_DOUBLES * self.candidates.len(),
            MAX_DOUBLES * self.patch_voxels(),
            halves.pitch(),
            slice.saturating_mul(slices.saturating_add(1)),
        ]
    }

    /// Bytes for a slab of so many own slices.
    pub(super) fn scratch_bytes(&self, own: usize) -> u64 {
        Buffers::<u32, 9>::bytes(self.candidates.len(), self.lengths(own))
    }

    /// Computes a slab.
    ///
    /// # Errors
    /// [`FilterError::Stopped`], [`FilterError::Memory`].
    pub(super) fn run(
        &self,
        slab: &mut Slab<'_>,
        scratch: &mut ThreadScratch,
        sigma: f64,
    ) -> Result<(), FilterError> {
        let own = slab.slices();
        let [nx, ny, nz] = self.shape;
        let halves = self.halves();
        let buffers = Buffers::of(scratch, self.candidates.len(), self.lengths(own.len()))?;
        let (isa, places) = (buffers.isa, buffers.places);
        let [
            values,
            means,
            variances,
            sums,
            counts,
            weights,
            estimates,
            inside,
            results,
        ] = buffers.doubles;
        let mut lists = Lists {
            values,
            means,
            variances,
            sums,
            counts,
            places,
            weights,
            estimates,
            inside,
        };
        let (plain, results) = results.split_at_mut(nx * ny);
        self.fill(slab, &mut lists, plain);
        self.moments(slab, isa, &mut lists)?;
        self.leave_out(slab, &mut lists);
        lists.sums.fill(0.0);
        lists.counts.fill(0.0);
        let centres =
            own.start.saturating_sub(self.patch).next_multiple_of(2)..(own.end + self.patch).min(nz);
        for z in centres.step_by(2) {
            for y in (0..ny).step_by(2) {
                slab.check_stop()?;
                isa.run(Centres {
                    blockwise: self,
                    halves,
                    lists: &mut lists,
                    law: Weights::new(self.patch_voxels(), sigma * sigma),
                    bias: bias(self.is_rician, sigma),
                    at: [y as isize, z as isize],
                    slices: own.start as isize..own.end as isize,
                });
            }
        }
        for (number, results) in results.chunks_exact_mut(nx * ny).enumerate() {
            let value_plane = (number + self.slices_around()) * halves.plane;
            for (y, row) in results.chunks_exact_mut(nx).enumerate() {
                for (x, result) in row.iter_mut().enumerate() {
                    let at = halves.at(x as isize, y as isize);
                    let place = number * halves.plane + at;
                    *result = match lists.counts[place] > 0.0 {
                        true => lists.sums[place] / lists.counts[place],
                        false => lists.values[value_plane + at],
                    };
                }
            }
        }
        slab.store(0, results);
        Ok(())
    }

    /// The slice of the image that stands at a number among the planes; it may lie beyond the image.
    fn slice(&self, slab: &Slab<'_>, number: usize) -> isize {
        (slab.slices().start + number) as isize - self.slices_around() as isize
    }

    /// Reads the slab's slices and those around, mirrored beyond the edges as far as patches reach.
    fn fill(&self, slab: &Slab<'_>, lists: &mut Lists<'_>, plain: &mut [f64]) {
        let [nx, ny, nz] = self.shape;
        let halves = self.halves();
        let around = self.around() as isize;
        let reach = |len: usize| -around..len as isize + around;
        for (number, plane) in lists.values.chunks_exact_mut(halves.plane).enumerate() {
            plane.fill(0.0);
            let z = self.slice(slab, number);
            if !reach(nz).contains(&z) {
                continue;
            }
            let z = reflected(z, nz);
            slab.load(0, z..z + 1, plain);
            for y in reach(ny) {
                let from = &plain[reflected(y, ny) * nx..][..nx];
                for x in reach(nx) {
                    plane[halves.at(x, y)] = from[reflected(x, nx)];
                }
            }
        }
        lists.inside.fill(0.0);
        let first = halves.above as isize;
        for x in 0..nx as isize {
            lists.inside[halves.at(x, -first)] = 1.0;
        }
    }

    /// Computes means and variances of the slices that have centres and candidates.
    fn moments(&self, slab: &Slab<'_>, isa: Isa, lists: &mut Lists<'_>) -> Result<(), FilterError> {
        let halves = self.halves();
        let [_, ny, nz] = self.shape;
        lists.means.fill(0.0);
        lists.variances.fill(0.0);
        let planes = lists.values.len() / halves.plane;
        for number in self.around()..planes - self.around() {
            if !(0..nz as isize).contains(&self.slice(slab, number)) {
                continue;
            }
            slab.check_stop()?;
            for y in 0..ny {
                for odd in 0..2 {
                    isa.run(Moments {
                        halves,
                        values: &*lists.values,
                        means: &mut *lists.means,
                        variances: &mut *lists.variances,
                        inside: &*lists.inside,
                        row: number * halves.plane + halves.row(y as isize),
                        odd,
                    });
                }
            }
        }
        Ok(())
    }
}

impl Blockwise {
    /// Marks the voxels outside of the mask: they are neither centres nor candidates.
    fn leave_out(&self, slab: &Slab<'_>, lists: &mut Lists<'_>) {
        let halves = self.halves();
        let [nx, _, nz] = self.shape;
        for (number, variances) in lists.variances.chunks_exact_mut(halves.plane).enumerate() {
            let z = self.slice(slab, number);
            let reach = self.mask_around() as isize;
            let is_near = z >= slab.slices().start as isize - reach && z < slab.slices().end as isize + reach;
            if !is_near || !(0..nz as isize).contains(&z) {
                continue;
            }
            let Some(inside) = slab.inside(z.unsigned_abs()) else {
                return;
            };
            for (y, row) in inside.chunks_exact(nx).enumerate() {
                for (x, _) in row.iter().enumerate().filter(|&(_, &inside)| inside == 0) {
                    variances[halves.at(x as isize, y as isize)] = OUTSIDE;
                }
            }
        }
    }
}

/// A place beyond the ends of a line, mirrored as the reference does: the last voxel is repeated, the first
/// is not.
fn reflected(at: isize, len: usize) -> usize {
    match at < len as isize {
        true => at.unsigned_abs(),
        false => 2 * len - 1 - at.unsigned_abs(),
    }
}

/// A row of centres.
struct Centres<'a, 'b> {
    blockwise: &'a Blockwise,
    halves: Halves,
    lists: &'a mut Lists<'b>,
    law: Weights,
    bias: f64,
    /// The row and the slice.
    at: [isize; 2],
    /// The slab's own slices.
    slices: std::ops::Range<isize>,
}

impl Job for Centres<'_, '_> {
    #[inline(always)]
    unsafe fn run<V: Vector<LANES>, const LANES: usize>(mut self) {
        let nx = self.blockwise.shape[0];
        let reach = self.blockwise.search + self.blockwise.patch;
        for first in (0..nx.div_ceil(2)).step_by(LANES) {
            // SAFETY: the caller's processor has V's instructions.
            unsafe {
                let count = self.find::<V, LANES>(first);
                if count == 0 {
                    continue;
                }
                let total = self.weigh::<V, LANES>(first, count);
                let is_inner = 2 * first >= reach && 2 * (first + LANES - 1) + reach < nx;
                let is_estimate = match is_inner {
                    true => self.average::<V, LANES, true>(first, count, total),
                    false => self.average::<V, LANES, false>(first, count, total),
                };
                self.add::<V, LANES>(first, is_estimate);
            }
        }
    }
}

impl Centres<'_, '_> {
    /// The place in the planes of the centre of that number.
    #[inline(always)]
    fn place(&self, first: usize) -> usize {
        let [y, z] = self.at;
        let number = (z - self.slices.start) + self.blockwise.slices_around() as isize;
        number.unsigned_abs() * self.halves.plane + self.halves.row(y) + first
    }

    /// The distance along y and z, in numbers.
    #[inline(always)]
    fn across(&self, y: isize, z: isize) -> isize {
        y * self.halves.pitch() as isize + z * self.halves.plane as isize
    }

    /// Whether a row so far from that of the centres is inside the image.
    #[inline(always)]
    fn has_row(&self, y: isize, z: isize) -> bool {
        let [_, ny, nz] = self.blockwise.shape;
        let is_in = |at: isize, len: usize| at >= 0 && at < len as isize;
        is_in(self.at[0] + y, ny) && is_in(self.at[1] + z, nz)
    }

    /// The distance of the listed candidate.
    #[inline(always)]
    fn candidate(&self, number: usize) -> [isize; 3] {
        self.blockwise.candidates[self.lists.places[number] as usize]
    }

    /// Lists the candidates of a block of centres, and where they are accepted: those with similar mean and
    /// variance, or for centres without a variance these themselves. Voxels outside of the mask are neither.
    ///
    /// # Safety
    /// The processor has `V`'s instructions.
    #[inline(always)]
    unsafe fn find<V: Vector<LANES>, const LANES: usize>(&mut self, first: usize) -> usize {
        let place = self.place(first);
        let mut count = 0;
        // SAFETY: as in all blocks of this file, the caller's processor has V's instructions, planes have
        // margins for all offsets, and lists have room for all candidates.
        unsafe {
            let (means, variances) = (self.lists.means.as_ptr(), self.lists.variances.as_ptr());
            let (mean, variance) = (V::load(means.add(place)), V::load(variances.add(place)));
            let least = V::splat(LEAST.next_up());
            let (one, zero) = (V::splat(1.0), V::splat(0.0));
            let has_variance = one.only_where_le(least, mean).only_where_le(least, variance);
            for (number, &[x, y, z]) in self.blockwise.candidates.iter().enumerate() {
                let is_accepted = if [x, y, z] == [0; 3] {
                    one.sub(has_variance).only_where_le(zero, variance)
                } else if self.has_row(y, z) {
                    let at = place.wrapping_add_signed(self.halves.along(x) + self.across(y, z));
                    let (other_mean, other_variance) = (V::load(means.add(at)), V::load(variances.add(at)));
                    let by_mean = mean.div(other_mean);
                    let by_variance = variance.div(other_variance);
                    has_variance
                        .only_where_le(least, other_mean)
                        .only_where_le(least, other_variance)
                        .only_where_le(V::splat(MEAN_RATIO), by_mean)
                        .only_where_le(by_mean, V::splat(1.0 / MEAN_RATIO))
                        .only_where_le(V::splat(VARIANCE_RATIO), by_variance)
                        .only_where_le(by_variance, V::splat(1.0 / VARIANCE_RATIO))
                } else {
                    zero
                };
                if zero.any_lt(is_accepted) {
                    is_accepted.store(self.lists.weights.as_mut_ptr().add(count * LANES));
                    self.lists.places[count] = number as u32;
                    count += 1;
                }
            }
        }
        count
    }

    /// Computes the weights of the listed candidates. Returns their sums.
    ///
    /// # Safety
    /// The processor has `V`'s instructions.
    #[inline(always)]
    unsafe fn weigh<V: Vector<LANES>, const LANES: usize>(&mut self, first: usize, count: usize) -> V {
        let radius = self.blockwise.patch as isize;
        let halves = self.halves;
        // SAFETY: as above.
        unsafe {
            let values = self.lists.values.as_ptr().add(self.place(first));
            let weights = self.lists.weights.as_mut_ptr();
            let mut total = V::splat(0.0);
            for start in (0..count).step_by(SIDE_BY_SIDE) {
                let mut middles = [(0, values); SIDE_BY_SIDE];
                for (side, middle) in middles.iter_mut().enumerate() {
                    let [dx, dy, dz] = self.candidate((start + side).min(count - 1));
                    *middle = (dx, values.wrapping_offset(self.across(dy, dz)));
                }
                let mut sums = [V::splat(0.0); SIDE_BY_SIDE];
                for x in -radius..=radius {
                    let own = values.wrapping_offset(halves.along(x));
                    let mut others = [values; SIDE_BY_SIDE];
                    for (other, (dx, middle)) in others.iter_mut().zip(middles) {
                        *other = middle.wrapping_offset(halves.along(dx + x));
                    }
                    for y in -radius..=radius {
                        for z in -radius..=radius {
                            let across = self.across(y, z);
                            let value = V::load(own.wrapping_offset(across));
                            for (sum, other) in sums.iter_mut().zip(others) {
                                let difference = value.sub(V::load(other.wrapping_offset(across)));
                                *sum = sum.add(difference.mul(difference));
                            }
                        }
                    }
                }
                for (side, sum) in sums.into_iter().enumerate().take(count - start) {
                    let at = weights.add((start + side) * LANES);
                    let weight = self.law.of(sum).0.only_where_le(V::splat(0.5), V::load(at));
                    weight.store(at);
                    total = total.add(weight);
                }
            }
            total
        }
    }

    /// Computes the estimates of the voxels of the patches. Returns 1 for centres that have any, else 0.
    ///
    /// # Safety
    /// The processor has `V`'s instructions.
    #[inline(always)]
    unsafe fn average<V: Vector<LANES>, const LANES: usize, const IS_INNER: bool>(
        &mut self,
        first: usize,
        count: usize,
        total: V,
    ) -> V {
        let radius = self.blockwise.patch as isize;
        let halves = self.halves;
        // SAFETY: as above.
        unsafe {
            let values = self.lists.values.as_ptr().add(self.place(first));
            let inside = self.lists.inside.as_ptr().add(halves.before + first);
            let (half, positive) = (V::splat(0.5), V::splat(f64::from_bits(1)));
            let is_estimate = V::splat(1.0)
                .only_where_le(positive, total)
                .only_where_le(half, V::load(inside));
            let voxels = self.blockwise.patch_voxels();
            let estimates = self.lists.estimates.as_mut_ptr();
            self.lists.estimates.fill(0.0);
            for number in 0..count {
                let [dx, dy, dz] = self.candidate(number);
                let middle = values.wrapping_offset(self.across(dy, dz));
                let weight = V::load(self.lists.weights.as_ptr().add(number * LANES));
                // Beyond the edge the middle of the patch counts.
                let outside = V::load(middle.wrapping_offset(halves.along(dx)));
                let mut to = estimates;
                for y in -radius..=radius {
                    for z in -radius..=radius {
                        let has_row = self.has_row(dy + y, dz + z);
                        let row = middle.wrapping_offset(self.across(y, z));
                        for x in -radius..=radius {
                            let along = halves.along(dx + x);
                            let value = match has_row {
                                false => outside,
                                true if IS_INNER => V::load(row.wrapping_offset(along)),
                                true => {
                                    let inside = V::load(inside.wrapping_offset(along));
                                    let own = V::load(row.wrapping_offset(along)).only_where_le(half, inside);
                                    own.add(outside.only_where_le(inside, half))
                                }
                            };
                            V::load(to).add(weight.mul(value.mul(value))).store(to);
                            to = to.add(LANES);
                        }
                    }
                }
            }
            for number in 0..voxels {
                let at = estimates.add(number * LANES);
                let square = V::load(at).div(total).sub(V::splat(self.bias));
                let estimate = square.only_where_le(positive, square).sqrt();
                estimate.only_where_le(half, is_estimate).store(at);
            }
            is_estimate
        }
    }

    /// Adds the estimates to the sums of the slab's own slices.
    ///
    /// # Safety
    /// The processor has `V`'s instructions.
    #[inline(always)]
    unsafe fn add<V: Vector<LANES>, const LANES: usize>(&mut self, first: usize, is_estimate: V) {
        let radius = self.blockwise.patch as isize;
        let width = 2 * radius + 1;
        let [row, slice] = self.at;
        // A voxel's centres are added in ascending order, so the patch's voxels in descending order.
        for x in (-radius..=radius).rev() {
            for y in -radius..=radius {
                for z in -radius..=radius {
                    if !self.has_row(y, z) || !self.slices.contains(&(slice + z)) {
                        continue;
                    }
                    let number = ((y + radius) * width + z + radius) * width + x + radius;
                    let plane = (slice + z - self.slices.start).unsigned_abs() * self.halves.plane;
                    let at =
                        (plane + self.halves.row(row + y) + first).wrapping_add_signed(self.halves.along(x));
                    // SAFETY: as above.
                    unsafe {
                        let estimates = self.lists.estimates.as_ptr().offset(number * LANES as isize);
                        let sums = self.lists.sums[at..].as_mut_ptr();
                        let counts = self.lists.counts[at..].as_mut_ptr();
                        V::load(sums).add(V::load(estimates)).store(sums);
                        V::load(counts).add(is_estimate).store(counts);
                    }
                }
            }
        }
    }
}
