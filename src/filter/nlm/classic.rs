//! Classic: each voxel becomes a mean of the voxels around it, weighted by how similar their patches are.
//!
//! Lanes of a vector are rows far apart: the rows of a slice are cut into as many stripes as there are lanes,
//! and a vector has the same row of all stripes. So every neighbour, along x, y or z, is in a vector at a
//! fixed distance, and each voxel's sums are added in the order of the reference.

#![expect(
    clippy::needless_range_loop,
    reason = "the same index runs over several vectors; the adaptors of iterators may stay out of line there"
)]

use super::super::FilterError;
use super::super::device::Means;
use super::super::interface::{Slab, ThreadScratch};
use super::super::kernels::simd::{Job, MAX_DOUBLES, Vector};
use super::weights::Weights;
use super::{Buffers, bias, mirrored};

/// Rows that are computed together, because they share most of their patches' voxels.
const ROWS: usize = 2;

/// Most voxels along x that are computed together, and the bytes that their weights may take.
const MAX_CHUNK: usize = 8;
const CHUNK_BYTES: usize = 1 << 20;

/// Classic non-local means of one image.
pub(super) struct Classic {
    pub(super) shape: [usize; 3],
    /// Radius of a patch.
    pub(super) patch: usize,
    /// Radius of the block that a voxel's mean is taken from, with the patches around its voxels.
    pub(super) block: usize,
    pub(super) is_rician: bool,
}

/// How slices are kept: rows of vectors with margins, slice after slice.
struct Stripes {
    lanes: usize,
    /// Rows of a stripe.
    rows: usize,
    /// Numbers of a row, and of a slice.
    pitch: usize,
    plane: usize,
}

impl Classic {
    /// How far around a slab slices are read.
    pub(super) fn slices_around(&self) -> usize {
        self.block
    }

    /// Voxels that are compared with each one.
    pub(super) fn candidates(&self) -> usize {
        (2 * (self.block - self.patch) + 1).pow(3)
    }

    pub(super) fn patch_voxels(&self) -> usize {
        (2 * self.patch + 1).pow(3)
    }

    fn stripes(&self, lanes: usize) -> Stripes {
        let [nx, ny, _] = self.shape;
        let rows = ny.div_ceil(lanes).next_multiple_of(ROWS);
        let pitch = nx.saturating_add(2 * self.block).saturating_mul(lanes);
        Stripes {
            lanes,
            rows,
            pitch,
            plane: pitch.saturating_mul(rows + 2 * self.block),
        }
    }

    /// Fills in the distances to the candidates in the order of the sums: x slowest.
    fn distances(&self, stripes: &Stripes, to: &mut [isize]) {
        let radius = (self.block - self.patch) as isize;
        let along = || -radius..=radius;
        let strides = [stripes.lanes, stripes.pitch, stripes.plane].map(|stride| stride as isize);
        let all = along().flat_map(|x| along().flat_map(move |y| along().map(move |z| [x, y, z])));
        for (to, distance) in to.iter_mut().zip(all) {
            *to = (0..3).map(|axis| distance[axis] * strides[axis]).sum();
        }
    }

    /// Voxels along x that are computed together, at most.
    fn chunk(&self) -> usize {
        let of_one = self.candidates() * ROWS * MAX_DOUBLES * size_of::<f64>();
        (CHUNK_BYTES / of_one).clamp(2, MAX_CHUNK)
    }

    /// How many doubles a slab of so many slices needs of each kind.
    fn lengths(&self, lanes: usize, slices: usize) -> [usize; 4] {
        let slice = self.shape[0].saturating_mul(self.shape[1]);
        let around = slices.saturating_add(2 * self.block);
        [
            self.stripes(lanes).plane.saturating_mul(around),
            self.candidates() * self.chunk() * ROWS * lanes,
            self.chunk() * ROWS * lanes,
            slice.saturating_mul(slices.saturating_add(1)),
        ]
    }

    /// Bytes for a slab of so many own slices.
    pub(super) fn scratch_bytes(&self, own: usize) -> u64 {
        Buffers::<isize, 4>::bytes(self.candidates(), self.lengths(MAX_DOUBLES, own))
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
        let mut lane = scratch.take_lane()?;
        // A device takes plain rows.
        let lanes = if lane.is_some() { 1 } else { scratch.isa.lanes() };
        let stripes = self.stripes(lanes);
        let lengths = self.lengths(lanes, own.len());
        let buffers = Buffers::of(scratch, self.candidates(), lengths)?;
        let (isa, distances) = (buffers.isa, buffers.places);
        self.distances(&stripes, distances);
        let [planes, weights, sums, results] = buffers.doubles;
        let (plain, results) = results.split_at_mut(nx * ny);
        for (number, plane) in planes.chunks_exact_mut(stripes.plane).enumerate() {
            let z = mirrored((own.start + number) as isize - self.block as isize, nz);
            slab.load(0, z..z + 1, plain);
            self.pack(&stripes, plain, plane);
        }
        let patch = self.patch_voxels();
        // As the reference has it: the mean of as many equal numbers, which rounding may change.
        let mean = (0..patch).fold(0.0, |sum, _| sum + sigma) / patch as f64;
        let law = Weights::new(patch, std::f64::consts::SQRT_2 * (mean * mean));
        if let Some(lane) = &mut lane {
            lane.nonlocal_means(&self.on_device(&stripes, law, slab), planes, results)?;
        }
        let rows = if lane.is_some() { 0 } else { stripes.rows };
        for (number, squares) in results.chunks_exact_mut(nx * ny).enumerate() {
            for row in (0..rows).step_by(ROWS) {
                slab.check_stop()?;
                isa.run(Rows {
                    classic: self,
                    stripes: &stripes,
                    law,
                    middle: (number + self.block) * stripes.plane + (row + self.block) * stripes.pitch,
                    planes,
                    distances,
                    weights: &mut *weights,
                    sums: &mut *sums,
                    row,
                    squares: &mut *squares,
                });
            }
            let bias = bias(self.is_rician, sigma);
            for square in squares {
                let unbiased = *square - bias;
                *square = if unbiased < 0.0 { 0.0 } else { unbiased }.sqrt();
            }
        }
        slab.store(0, results);
        scratch.give_back(lane);
        Ok(())
    }

    /// The work on a slab for a device.
    fn on_device<'a>(&self, stripes: &Stripes, law: Weights, slab: &Slab<'a>) -> Means<'a> {
        Means {
            area: [self.shape[0], self.shape[1]],
            pitch: stripes.pitch,
            plane: stripes.plane,
            margin: self.block,
            patch: self.patch,
            law: law.numbers(),
            stop: slab.stop,
        }
    }

    /// Puts the intensities of a slice into stripes, mirrored beyond the edges.
    fn pack(&self, stripes: &Stripes, plain: &[f64], plane: &mut [f64]) {
        let [nx, ny, _] = self.shape;
        let lanes = stripes.lanes;
        for (number, row) in plane.chunks_exact_mut(stripes.pitch).enumerate() {
            for lane in 0..lanes {
                // The last stripes may begin beyond the image: what is computed there is not used.
                let y = (lane * stripes.rows + number).min(ny - 1 + 2 * self.block) as isize;
                let y = mirrored(y - self.block as isize, ny);
                let from = &plain[y * nx..][..nx];
                let (left, right) = (self.block * lanes, (self.block + nx) * lanes);
                let at = |start: usize, x: usize| start + x * lanes + lane;
                for (x, &value) in from.iter().enumerate() {
                    row[at(left, x)] = value;
                }
                for x in 0..self.block {
                    row[at(0, x)] = from[self.block - x];
                    row[at(right, x)] = from[nx - 2 - x];
                }
            }
        }
    }
}

/// Some rows of every stripe.
struct Rows<'a> {
    classic: &'a Classic,
    stripes: &'a Stripes,
    law: Weights,
    planes: &'a [f64],
    /// The place of the first row in the planes, with its margin.
    middle: usize,
    /// Distances to the candidates, in numbers.
    distances: &'a [isize],
    weights: &'a mut [f64],
    sums: &'a mut [f64],
    /// The first row of a stripe, and where the means of squares go: to a whole slice.
    row: usize,
    squares: &'a mut [f64],
}

impl Job for Rows<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector<LANES>, const LANES: usize>(mut self) {
        assert_eq!(LANES, self.stripes.lanes);
        // SAFETY: the caller's processor has V's instructions.
        unsafe {
            match self.classic.patch {
                1 => self.chunks::<V, LANES, 3>(),
                2 => self.chunks::<V, LANES, 5>(),
                3 => self.chunks::<V, LANES, 7>(),
                4 => self.chunks::<V, LANES, 9>(),
                radius => unreachable!("no image has patches of radius {radius}"),
            }
        }
    }
}

impl Rows<'_> {
    /// The rows, in parts along x. A patch has `WIDTH` voxels along each axis.
    ///
    /// # Safety
    /// The processor has `V`'s instructions.
    #[inline(always)]
    unsafe fn chunks<V: Vector<LANES>, const LANES: usize, const WIDTH: usize>(&mut self) {
        let nx = self.classic.shape[0];
        let count = nx.div_ceil(self.classic.chunk());
        for part in 0..count {
            let (first, end) = (nx * part / count, nx * (part + 1) / count);
            // SAFETY: the caller's.
            unsafe {
                let is_tiny = self.weigh::<V, LANES, WIDTH>(first, end - first);
                match is_tiny {
                    true => self.mean::<V, LANES, true>(first, end - first),
                    false => self.mean::<V, LANES, false>(first, end - first),
                }
            }
        }
    }

    /// The place of a voxel of the first row.
    #[inline(always)]
    fn place<const LANES: usize>(&self, x: usize) -> *const f64 {
        self.planes[self.middle + (x + self.classic.block) * LANES..].as_ptr()
    }

    /// Computes the weights of all candidates for voxels along x, and their sums. Returns whether there are
    /// very small ones.
    ///
    /// # Safety
    /// The processor has `V`'s instructions.
    #[inline(always)]
    unsafe fn weigh<V: Vector<LANES>, const LANES: usize, const WIDTH: usize>(
        &mut self,
        first: usize,
        len: usize,
    ) -> bool {
        assert!(self.weights.len() >= self.classic.candidates() * len * ROWS * LANES);
        assert!(self.sums.len() >= len * ROWS * LANES);
        let place = self.place::<LANES>(first);
        let (pitch, plane) = (self.stripes.pitch as isize, self.stripes.plane as isize);
        let law = self.law;
        let (mut to, sums) = (self.weights.as_mut_ptr(), self.sums.as_mut_ptr());
        let mut is_tiny = false;
        self.sums.fill(0.0);
        // SAFETY: the caller's processor has V's instructions. Planes have margins for all candidates and
        // patches, and the slices are long enough.
        unsafe {
            for &distance in self.distances {
                // Sums of squared differences that are not complete: number i has i columns of its patch.
                let mut sums_of = [[V::splat(0.0); WIDTH]; ROWS];
                for column in 0..len + WIDTH - 1 {
                    let middle =
                        place.wrapping_offset((column as isize - WIDTH as isize / 2) * LANES as isize);
                    for row in 0..ROWS + WIDTH - 1 {
                        for slice in 0..WIDTH {
                            let at = middle.wrapping_offset(
                                (row as isize - WIDTH as isize / 2) * pitch
                                    + (slice as isize - WIDTH as isize / 2) * plane,
                            );
                            let difference = V::load(at).sub(V::load(at.wrapping_offset(distance)));
                            let square = difference.mul(difference);
                            for own in 0..ROWS {
                                if own <= row && row < own + WIDTH {
                                    for number in 0..WIDTH {
                                        sums_of[own][number] = sums_of[own][number].add(square);
                                    }
                                }
                            }
                        }
                    }
                    if column >= WIDTH - 1 {
                        for own in 0..ROWS {
                            let number = (column + 1 - WIDTH) * ROWS + own;
                            sums_of[own][WIDTH - 1].store(to.add(number * LANES));
                        }
                    }
                    for own in 0..ROWS {
                        for number in (1..WIDTH).rev() {
                            sums_of[own][number] = sums_of[own][number - 1];
                        }
                        sums_of[own][0] = V::splat(0.0);
                    }
                }
                // By themselves, so that the processor computes several at once.
                for number in 0..len * ROWS {
                    let (sum, at) = (sums.add(number * LANES), to.add(number * LANES));
                    let (weight, tiny) = law.of(V::load(at));
                    is_tiny |= tiny;
                    V::load(sum).add(weight).store(sum);
                    weight.store(at);
                }
                to = to.add(len * ROWS * LANES);
            }
        }
        is_tiny
    }

    /// Computes the weighted means of the squares of all candidates for voxels along x.
    ///
    /// # Safety
    /// The processor has `V`'s instructions.
    #[inline(always)]
    unsafe fn mean<V: Vector<LANES>, const LANES: usize, const IS_TINY: bool>(
        &mut self,
        first: usize,
        len: usize,
    ) {
        let [nx, ny, _] = self.classic.shape;
        for x in 0..len {
            let place = self.place::<LANES>(first + x);
            let mut squares = [[0.0; LANES]; ROWS];
            // SAFETY: as above.
            unsafe {
                let weights = self.weights.as_ptr().add(x * ROWS * LANES);
                let sums = self.sums.as_ptr().add(x * ROWS * LANES);
                let (mut totals, mut inverse) = ([V::splat(0.0); ROWS], [V::splat(0.0); ROWS]);
                for own in 0..ROWS {
                    totals[own] = V::load(sums.add(own * LANES));
                    inverse[own] = V::splat(1.0).div(totals[own]);
                }
                let mut means = [V::splat(0.0); ROWS];
                for (number, &distance) in self.distances.iter().enumerate() {
                    for own in 0..ROWS {
                        let weight = V::load(weights.add((number * len * ROWS + own) * LANES));
                        let part = match IS_TINY {
                            true => weight.div(totals[own]),
                            false => weight.quotient(totals[own], inverse[own]),
                        };
                        let row = own as isize * self.stripes.pitch as isize;
                        let value = V::load(place.wrapping_offset(row + distance));
                        means[own] = means[own].add(part.mul(value).mul(value));
                    }
                }
                for own in 0..ROWS {
                    means[own].store(squares[own].as_mut_ptr());
                }
            }
            for (own, squares) in squares.iter().enumerate() {
                for (lane, &square) in squares.iter().enumerate() {
                    let y = lane * self.stripes.rows + self.row + own;
                    // The last stripes may end beyond the image.
                    if y < ny {
                        self.squares[y * nx + first + x] = square;
                    }
                }
            }
        }
    }
}
