//! Patches: the vectorised loop over a row of centres: candidates, distances, weights, weighted patches.
//!
//! Lanes are neighbouring centres, so the sum of a voxel is not reordered. A candidate that all lanes reject
//! is left out. If only some lanes reject it, their weight is 0, and adding 0 does not change a sum.

#![expect(
    clippy::needless_range_loop,
    reason = "the same index runs over several vectors; the adaptors of iterators may stay out of line there"
)]

use super::super::kernels::singles::{MAX_LANES, Singles, SinglesJob};
use super::frame::Frame;
use super::similar::{Tests, UNSURE};
use super::statistics::Frames;

/// Largest number of patch rows that are summed at once.
pub(super) const MAX_ROWS: usize = 3;

/// Candidates whose distances are summed side by side, to hide the latency of an addition.
const SIDE_BY_SIDE: usize = 4;

/// The weight is 0 if the distance exceeds this multiple of the smallest energy.
const DISTANCES: f32 = 3.0;

/// Numbers up to this count as 0: a tenth of single precision's epsilon, rounded down.
const TINY: f32 = f32::from_bits(0x324C_CCCC);

/// Memory of a thread for one block of centres.
pub(super) struct Lists<'a> {
    /// A vector for each candidate: first its accepted lanes, then sums or distances, then weights.
    pub(super) vectors: &'a mut [f32],
    /// Room for twice the lanes of all vectors plus one vector.
    pub(super) dense: &'a mut [f32],
    /// Which candidates these are.
    pub(super) candidates: &'a mut [u32],
    /// A vector for each voxel of a patch.
    pub(super) patch: &'a mut [f32],
    /// 1 inside the image, with the frame's margins of 0.
    pub(super) inside: &'a [f32],
    /// 1 for each centre of the row that the mask has and 0 for others, in whole vectors; empty without one.
    pub(super) masked: &'a mut [f32],
}

impl Lists<'_> {
    /// The same memory for another row.
    pub(super) fn again(&mut self) -> Lists<'_> {
        Lists {
            vectors: self.vectors,
            dense: self.dense,
            candidates: self.candidates,
            patch: self.patch,
            inside: self.inside,
            masked: self.masked,
        }
    }
}

/// The target of a slice's estimates, for each distance along z.
#[derive(Clone, Copy)]
pub(super) enum Target {
    /// They are added to a frame of sums.
    Sums(*mut f32),
    /// They are kept, in consecutive frames of a patch slice.
    Kept(*mut f32),
}

/// A row of centres.
pub(super) struct CentreRow<'a> {
    pub(super) frame: &'a Frame,
    pub(super) frames: &'a Frames<'a>,
    /// The number of the slice among the frames, the row, and the slice in the image.
    pub(super) at: [usize; 3],
    /// Largest intensity of the 3-D volume.
    pub(super) largest: f32,
    /// One for each distance along z, lowest first.
    pub(super) targets: &'a [Target],
    /// For each centre of the row, the smallest energy; 0 without a candidate, −1 if the centre takes no
    /// part.
    pub(super) smallest: Option<&'a mut [f32]>,
    pub(super) lists: Lists<'a>,
}

impl SinglesJob for CentreRow<'_> {
    #[inline(always)]
    unsafe fn run<V: Singles<LANES>, const LANES: usize>(mut self) {
        // SAFETY: the caller's processor has V's instructions; frames have margins for all offsets.
        unsafe {
            match self.frame.patch[0] {
                1 => self.blocks::<V, LANES, 3, MAX_ROWS>(),
                2 => self.blocks::<V, LANES, 5, 1>(),
                3 => self.blocks::<V, LANES, 7, 1>(),
                4 => self.blocks::<V, LANES, 9, 1>(),
                radius => unreachable!("no image has patches of radius {radius}"),
            }
        }
    }
}

/// The weights of sums over `count` voxels, 0 beyond the limit.
///
/// # Safety
/// The processor has `V`'s instructions.
#[inline(always)]
unsafe fn weight<V: Singles<LANES>, const LANES: usize>(sum: V, smallest: V, count: f32) -> V {
    // SAFETY: the caller's.
    unsafe {
        let distance = sum.div(V::splat(count));
        let is_near = distance.le(V::splat(DISTANCES).mul(smallest));
        let exponent = V::splat(0.0).sub(distance).div(smallest).max(V::splat(-104.0));
        exponent.exp_of_nonpositive().only(is_near)
    }
}

/// A block of centres: as many as a vector has lanes.
struct Block<V> {
    /// The first of them along x.
    x: usize,
    /// Its place in the frames.
    place: usize,
    /// The smallest energy of the accepted candidates.
    smallest: V,
    /// Sum of the weights, and the largest of them.
    sum: V,
    largest: V,
}

impl CentreRow<'_> {
    /// All blocks of the row. A patch has `WIDTH` voxels along x, and `ROWS` of its rows are summed at once.
    ///
    /// # Safety
    /// The processor has `V`'s instructions.
    #[inline(always)]
    unsafe fn blocks<V: Singles<LANES>, const LANES: usize, const WIDTH: usize, const ROWS: usize>(
        &mut self,
    ) {
        let [slice, y, z] = self.at;
        let first = slice * self.frame.plane + self.frame.row(y);
        let is_inner_row = self.is_inner(1, y, y) && self.is_inner(2, z, z);
        // SAFETY: as in all blocks of this file, the caller's processor has V's instructions. Frames have
        // margins for every candidate and patch, and rows are whole vectors long.
        unsafe {
            for x in (0..self.frame.shape[0]).step_by(LANES) {
                let zero = V::splat(0.0);
                let mut block = Block {
                    x,
                    place: first + x,
                    smallest: V::splat(f32::MAX),
                    sum: zero,
                    largest: zero,
                };
                let mean = V::load(self.frames.means.as_ptr().add(block.place));
                let mut takes_part = zero.lt(mean);
                if !self.lists.masked.is_empty() {
                    let masked = V::load(self.lists.masked.as_ptr().add(x));
                    takes_part = V::both(takes_part, zero.lt(masked));
                }
                if !V::any(takes_part) {
                    self.keep_as_it_is::<V, LANES, WIDTH>(&block);
                    continue;
                }
                let accepted = self.candidates::<V, LANES>(&mut block, takes_part, mean);
                let sides = self.is_inner(0, x, x + LANES - 1);
                let (near, count) = match (is_inner_row, sides) {
                    (true, true) => (
                        self.sums::<V, LANES, WIDTH, false>(&block, accepted),
                        self.frame.patch_voxels() as f32,
                    ),
                    (true, false) => (self.sums::<V, LANES, WIDTH, true>(&block, accepted), 1.0),
                    _ => (self.border_distances::<V, LANES>(&block, accepted), 1.0),
                };
                self.weights::<V, LANES>(&mut block, near, count);
                let weighted = near;
                for first in (0..self.frame.patch_rows.len()).step_by(ROWS) {
                    self.sum_patches::<V, LANES, WIDTH, ROWS>(&block, weighted, first);
                }
                self.finish::<V, LANES, WIDTH>(&block, takes_part);
            }
        }
    }

    /// Whether all patches of all candidates of these centres are inside the image along an axis.
    fn is_inner(&self, axis: usize, first: usize, last: usize) -> bool {
        let reach = self.frame.patch[axis] + self.frame.search[axis];
        first >= reach && last + reach < self.frame.shape[axis]
    }

    /// Lists the candidates that at least one lane accepts, with these lanes, and finds the smallest energy.
    ///
    /// # Safety
    /// The processor has `V`'s instructions.
    #[inline(always)]
    unsafe fn candidates<V: Singles<LANES>, const LANES: usize>(
        &mut self,
        block: &mut Block<V>,
        takes_part: V::Mask,
        mean: V,
    ) -> usize {
        let mut accepted = 0;
        let vectors = self.lists.vectors.as_mut_ptr();
        // SAFETY: see `blocks`; there is room for all candidates.
        unsafe {
            let [means, variances, energies] =
                [&self.frames.means, &self.frames.variances, &self.frames.energies]
                    .map(|kind| kind.as_ptr().add(block.place));
            let tests = Tests::new(mean, V::load(variances), self.largest);
            let (one, unlimited) = (V::splat(1.0), V::splat(f32::MAX));
            let mut smallest = unlimited;
            for (number, candidate) in (0u32..).zip(&self.frame.candidates) {
                let variance = V::load(variances.offset(candidate.offset));
                let lanes = tests.accept(takes_part, V::load(means.offset(candidate.offset)), variance);
                if V::any(lanes) {
                    let energy = V::load(energies.offset(candidate.offset));
                    smallest = energy.or_else(lanes, unlimited).min(smallest);
                    one.only(lanes).store(vectors.add(LANES * accepted));
                    *self.lists.candidates.get_unchecked_mut(accepted) = number;
                    accepted += 1;
                }
            }
            if let Some(to) = &mut self.smallest {
                let found = one.or_else(smallest.le(V::splat(TINY)), smallest);
                let found = found.only(smallest.lt(unlimited));
                let mut lanes = [0.0; LANES];
                found
                    .or_else(takes_part, V::splat(-1.0))
                    .store(lanes.as_mut_ptr());
                let to = &mut to[block.x..];
                let count = to.len().min(LANES);
                to[..count].copy_from_slice(&lanes[..count]);
            }
            block.smallest = one.or_else(smallest.le(V::splat(TINY)), smallest);
        }
        accepted
    }

    /// Replaces the marks of accepted lanes by sums of squared differences, −1 elsewhere. Drops candidates
    /// that are too far everywhere, and returns how many are left. All rows of all patches are inside the
    /// image. So are all their voxels, unless the block is at an `EDGE` along x: then distances take the
    /// place of sums.
    ///
    /// # Safety
    /// The processor has `V`'s instructions.
    #[inline(always)]
    unsafe fn sums<V: Singles<LANES>, const LANES: usize, const WIDTH: usize, const EDGE: bool>(
        &mut self,
        block: &Block<V>,
        accepted: usize,
    ) -> usize {
        let radius = (WIDTH / 2) as isize;
        let mut near = 0;
        // SAFETY: see `blocks`.
        unsafe {
            let own = self.frames.details.as_ptr().add(block.place).offset(-radius);
            let inside = self
                .lists
                .inside
                .as_ptr()
                .add(self.frame.margin[0] + block.x)
                .offset(-radius);
            let count = V::splat(self.frame.patch_voxels() as f32);
            // Slightly above the limit, so that no candidate is lost by rounding.
            let cap = V::splat(DISTANCES)
                .mul(block.smallest)
                .mul(count)
                .mul(V::splat(1.0 + UNSURE));
            for first in (0..accepted).step_by(SIDE_BY_SIDE) {
                let candidate = |number: usize| {
                    let number = (first + number).min(accepted - 1);
                    let candidate = *self.lists.candidates.get_unchecked(number);
                    self.frame.candidates.get_unchecked(candidate as usize)
                };
                let candidates = [candidate(0), candidate(1), candidate(2), candidate(3)];
                let others = candidates
                    .each_ref()
                    .map(|candidate| own.offset(candidate.offset));
                let edges = candidates
                    .each_ref()
                    .map(|candidate| inside.offset(candidate.from_middle[0]));
                let mut sums = [V::splat(0.0); SIDE_BY_SIDE];
                for &[dy, dz] in &self.frame.patch_rows {
                    let row = self.frame.pitch as isize * dy + self.frame.plane as isize * dz;
                    for dx in 0..WIDTH as isize {
                        let centre = V::load(own.offset(row + dx));
                        for number in 0..SIDE_BY_SIDE {
                            let mut difference = V::load(others[number].offset(row + dx)).sub(centre);
                            if EDGE {
                                let counts =
                                    V::load(inside.offset(dx)).mul(V::load(edges[number].offset(dx)));
                                difference = difference.mul(counts);
                            }
                            sums[number] = sums[number].add(difference.mul(difference));
                        }
                    }
                }
                for number in 0..SIDE_BY_SIDE.min(accepted - first) {
                    let mut sum = sums[number];
                    if EDGE {
                        let mut count = V::splat(0.0);
                        for dx in 0..WIDTH as isize {
                            let counts = V::load(inside.offset(dx)).mul(V::load(edges[number].offset(dx)));
                            count = count.add(counts);
                        }
                        sum = sum.div(count.mul(V::splat(self.frame.patch_rows.len() as f32)));
                    }
                    near += self.keep::<V, LANES>([first + number, near], sum, cap);
                }
            }
        }
        near
    }

    /// Sets the sum of a candidate in lanes that accept it and where it is at most `cap`, −1 elsewhere, and
    /// moves it to another position in the list. Returns 0 if no lane is left, else 1.
    ///
    /// # Safety
    /// The processor has `V`'s instructions, and the list has the candidate, which does not move up.
    #[inline(always)]
    unsafe fn keep<V: Singles<LANES>, const LANES: usize>(
        &mut self,
        [from, to]: [usize; 2],
        sum: V,
        cap: V,
    ) -> usize {
        let vectors = self.lists.vectors.as_mut_ptr();
        // SAFETY: the caller's.
        unsafe {
            let accepted = V::splat(0.0).lt(V::load(vectors.add(LANES * from)));
            let near = V::both(accepted, sum.le(cap));
            if !V::any(near) {
                return 0;
            }
            sum.or_else(near, V::splat(-1.0)).store(vectors.add(LANES * to));
            let candidate = *self.lists.candidates.get_unchecked(from);
            *self.lists.candidates.get_unchecked_mut(to) = candidate;
        }
        1
    }

    /// The same with distances for a row at the border, where only voxels count that are inside the image in
    /// both patches.
    ///
    /// # Safety
    /// The processor has `V`'s instructions.
    #[inline(always)]
    unsafe fn border_distances<V: Singles<LANES>, const LANES: usize>(
        &mut self,
        block: &Block<V>,
        accepted: usize,
    ) -> usize {
        let mut near = 0;
        let [_, y, z] = self.at;
        let [_, ny, nz] = self.frame.shape;
        let radius = self.frame.patch[0] as isize;
        let is_inside =
            |at: usize, by: isize, len: usize| at.checked_add_signed(by).is_some_and(|at| at < len);
        // SAFETY: see `blocks`.
        unsafe {
            let own = self.frames.details.as_ptr().add(block.place);
            let inside = self.lists.inside.as_ptr().add(self.frame.margin[0] + block.x);
            for number in 0..accepted {
                let candidate = *self.lists.candidates.get_unchecked(number) as usize;
                let candidate = &self.frame.candidates[candidate];
                let [cx, cy, cz] = candidate.from_middle;
                let (mut sum, mut rows) = (V::splat(0.0), 0u16);
                for &[dy, dz] in &self.frame.patch_rows {
                    let both = is_inside(y, dy, ny)
                        && is_inside(y, dy + cy, ny)
                        && is_inside(z, dz, nz)
                        && is_inside(z, dz + cz, nz);
                    if !both {
                        continue;
                    }
                    rows += 1;
                    let row = own.offset(self.frame.pitch as isize * dy + self.frame.plane as isize * dz);
                    for dx in -radius..=radius {
                        let counts = V::load(inside.offset(dx)).mul(V::load(inside.offset(cx + dx)));
                        let other = V::load(row.offset(candidate.offset + dx));
                        let difference = other.sub(V::load(row.offset(dx))).mul(counts);
                        sum = sum.add(difference.mul(difference));
                    }
                }
                let mut count = V::splat(0.0);
                for dx in -radius..=radius {
                    let counts = V::load(inside.offset(dx)).mul(V::load(inside.offset(cx + dx)));
                    count = count.add(counts);
                }
                let distance = sum.div(count.mul(V::splat(f32::from(rows))));
                near += self.keep::<V, LANES>([number, near], distance, V::splat(f32::MAX));
            }
        }
        near
    }

    /// Replaces sums, which are over `count` voxels, by weights.
    ///
    /// # Safety
    /// The processor has `V`'s instructions.
    #[inline(always)]
    unsafe fn weights<V: Singles<LANES>, const LANES: usize>(
        &mut self,
        block: &mut Block<V>,
        near: usize,
        count: f32,
    ) {
        let vectors = self.lists.vectors.as_mut_ptr();
        // SAFETY: see `blocks`; there is room for all lanes of all vectors, and one vector more.
        unsafe {
            let zero = V::splat(0.0);
            let [sums, smallest] = [0, 1].map(|half| {
                let half = half * (LANES * self.frame.candidates.len() + MAX_LANES);
                self.lists.dense.as_mut_ptr().add(half)
            });
            let mut lanes = 0;
            if V::COMPACTS {
                for number in 0..near {
                    let sum = V::load(vectors.add(LANES * number));
                    let is_near = zero.le(sum);
                    sum.compact(is_near).store(sums.add(lanes));
                    block.smallest.compact(is_near).store(smallest.add(lanes));
                    lanes += V::count(is_near);
                }
                for first in (0..lanes).step_by(LANES) {
                    let place = sums.add(first);
                    weight::<V, LANES>(V::load(place), V::load(smallest.add(first)), count).store(place);
                }
                lanes = 0;
            }
            let (mut all, mut largest) = (zero, zero);
            for number in 0..near {
                let place = vectors.add(LANES * number);
                let sum = V::load(place);
                let is_near = zero.le(sum);
                let weight = if V::COMPACTS {
                    let weight = V::load(sums.add(lanes)).spread(is_near);
                    lanes += V::count(is_near);
                    weight
                } else {
                    weight::<V, LANES>(sum, block.smallest, count).only(is_near)
                };
                all = all.add(weight);
                largest = weight.max(largest);
                weight.store(place);
            }
            (block.sum, block.largest) = (all, largest);
        }
    }

    /// Sums some rows of the weighted patches.
    ///
    /// # Safety
    /// The processor has `V`'s instructions. If there are fewer than `ROWS` rows from `first` on, there is
    /// room for the unused sums.
    #[inline(always)]
    unsafe fn sum_patches<V: Singles<LANES>, const LANES: usize, const WIDTH: usize, const ROWS: usize>(
        &mut self,
        block: &Block<V>,
        weighted: usize,
        first: usize,
    ) {
        let vectors = self.lists.vectors.as_ptr();
        // SAFETY: see `blocks`.
        unsafe {
            let values = self
                .frames
                .values
                .as_ptr()
                .add(block.place)
                .offset(-((WIDTH / 2) as isize));
            let mut rows = [values; ROWS];
            for (row, &[dy, dz]) in rows.iter_mut().zip(&self.frame.patch_rows[first..]) {
                *row = values.offset(self.frame.pitch as isize * dy + self.frame.plane as isize * dz);
            }
            let mut sums = [[V::splat(0.0); WIDTH]; ROWS];
            for number in 0..weighted {
                let weight = V::load(vectors.add(LANES * number));
                let candidate = *self.lists.candidates.get_unchecked(number) as usize;
                let offset = self.frame.candidates.get_unchecked(candidate).offset;
                for row in 0..ROWS {
                    let from = rows[row].offset(offset);
                    for dx in 0..WIDTH {
                        let value = weight.mul(V::load(from.add(dx)));
                        sums[row][dx] = sums[row][dx].add(value);
                    }
                }
            }
            let to = self.lists.patch.as_mut_ptr().add(LANES * WIDTH * first);
            for (number, sum) in sums.as_flattened().iter().enumerate() {
                sum.store(to.add(LANES * number));
            }
        }
    }

    /// Adds the centres' own patches and stores the estimates.
    ///
    /// # Safety
    /// The processor has `V`'s instructions.
    #[inline(always)]
    unsafe fn finish<V: Singles<LANES>, const LANES: usize, const WIDTH: usize>(
        &mut self,
        block: &Block<V>,
        takes_part: V::Mask,
    ) {
        let patch = self.lists.patch.as_ptr();
        // SAFETY: see `blocks`.
        unsafe {
            let one = V::splat(1.0);
            let own = one.or_else(block.largest.le(V::splat(TINY)), block.largest);
            let own = own.or_else(takes_part, one);
            let sum = block.sum.add(own);
            self.hand_on::<V, LANES, WIDTH>(block, |number, value| {
                V::load(patch.add(LANES * number)).add(own.mul(value)).div(sum)
            });
        }
    }

    /// Uses the values themselves as estimates, because no centre of the block takes part.
    ///
    /// # Safety
    /// The processor has `V`'s instructions.
    #[inline(always)]
    unsafe fn keep_as_it_is<V: Singles<LANES>, const LANES: usize, const WIDTH: usize>(
        &mut self,
        block: &Block<V>,
    ) {
        if let Some(to) = &mut self.smallest {
            let to = &mut to[block.x..];
            let count = to.len().min(LANES);
            to[..count].fill(-1.0);
        }
        // SAFETY: the caller's.
        unsafe { self.hand_on::<V, LANES, WIDTH>(block, |_, value| value) }
    }

    /// Stores estimates, last voxel of a patch first. Each voxel then gets those of its centres in order.
    /// `estimate` gets the number of the patch's voxel and its own value.
    ///
    /// # Safety
    /// The processor has `V`'s instructions.
    #[inline(always)]
    unsafe fn hand_on<V: Singles<LANES>, const LANES: usize, const WIDTH: usize>(
        &mut self,
        block: &Block<V>,
        estimate: impl Fn(usize, V) -> V,
    ) {
        let (pitch, plane) = (self.frame.pitch as isize, self.frame.plane as isize);
        let radius = (WIDTH / 2) as isize;
        let place_in_slice = block.place % self.frame.plane;
        let rows_of_slice = self.frame.patch_rows.len() / self.targets.len();
        // SAFETY: see `blocks`; targets are frames.
        unsafe {
            let inside = V::first(self.frame.shape[0] - block.x);
            let values = self.frames.values.as_ptr().add(block.place).offset(-radius);
            for (row, &[dy, dz]) in self.frame.patch_rows.iter().enumerate().rev() {
                let from = values.offset(pitch * dy + plane * dz);
                let target = *self.targets.get_unchecked(row / rows_of_slice);
                for dx in (0..WIDTH).rev() {
                    let estimate = estimate(row * WIDTH + dx, V::load(from.add(dx))).only(inside);
                    match target {
                        Target::Sums(sums) => {
                            let to = sums.add(place_in_slice).offset(pitch * dy + dx as isize - radius);
                            V::load(to).add(estimate).store(to);
                        }
                        Target::Kept(kept) => {
                            let number = row % rows_of_slice * WIDTH + dx;
                            estimate.store(kept.add(number * self.frame.plane + place_in_slice));
                        }
                    }
                }
            }
        }
    }
}
