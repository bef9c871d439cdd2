//! Noise: its standard deviation, estimated from a whole 3-D volume as dipy's `estimate_sigma` does.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::FilterError;
use super::super::interface::{Slab, ThreadScratch};
use super::{Buffers, SIGMAS};

/// Columns along x that are read together: whole cache lines of voxels.
const COLUMNS: usize = 8;

/// Numbers that are added one after the other, in eight sums; more are halved first.
const LEAF: usize = 128;

/// Which 3-D volumes are known well enough.
pub(super) struct Survey {
    shape: [usize; 3],
    volumes: u64,
    /// Of each volume the slices that were read. A header alone, which may lie, takes no memory.
    slices: OnceLock<Vec<AtomicUsize>>,
}

impl Survey {
    /// A survey of an image whose volumes have this shape.
    pub(super) fn new(shape: [usize; 3], volumes: u64) -> Self {
        Survey {
            shape,
            volumes,
            slices: OnceLock::new(),
        }
    }

    /// Bytes that it holds.
    pub(super) fn held_bytes(&self) -> u64 {
        self.volumes.saturating_mul(size_of::<AtomicUsize>() as u64)
    }

    /// How many doubles it needs of each kind.
    fn lengths(&self) -> [usize; 2] {
        let [_, ny, nz] = self.shape;
        let read = ny.saturating_mul(3 * (COLUMNS + 2));
        [read, ny.saturating_mul(nz).saturating_mul(COLUMNS)]
    }

    /// Bytes for a slab.
    pub(super) fn scratch_bytes(&self) -> u64 {
        Buffers::<u8, 2>::bytes(0, self.lengths())
    }

    /// Counts the slices of a slab. The last slab of a volume reports the noise, all others report 0.
    ///
    /// # Errors
    /// [`FilterError::Parameter`] for a volume without noise, [`FilterError::Memory`].
    pub(super) fn run(&self, slab: &Slab<'_>, scratch: &mut ThreadScratch) -> Result<(), FilterError> {
        let [_, volume, _] = slab.number;
        let own = slab.slices().len();
        let slices = self
            .slices
            .get_or_init(|| (0..self.volumes).map(|_| AtomicUsize::new(0)).collect());
        let is_last = slices[volume].fetch_add(own, Ordering::AcqRel) + own == self.shape[2];
        if !is_last {
            slab.report(0.0);
            return Ok(());
        }
        let [read, squares] = Buffers::<u8, 2>::of(scratch, 0, self.lengths())?.doubles;
        let count = self.shape.iter().product();
        let mut columns = Squares {
            slab,
            shape: self.shape,
            read,
            squares,
            next: 0,
            left: 0..0,
        };
        let sum = pairwise(count, &mut |numbers| columns.take(numbers));
        let sigma = f64::from((sum / count as f64).sqrt() as f32);
        if !SIGMAS.contains(&sigma) {
            return Err(FilterError::Parameter {
                name: "sigma-noise",
                cause: format!(
                    "the noise of volume {} is estimated as {sigma:e}: give its standard deviation, or leave \
                     the image out",
                    volume + 1
                ),
            });
        }
        slab.report(sigma);
        Ok(())
    }
}

/// The squared noise of all voxels in the order of the reference's array: x slowest, z fastest.
struct Squares<'a> {
    slab: &'a Slab<'a>,
    shape: [usize; 3],
    /// Columns of three slices with their neighbours along x: that of slice z is the remainder of z by 3.
    read: &'a mut [f64],
    /// Of columns along x the squares.
    squares: &'a mut [f64],
    /// The first column that was not computed.
    next: usize,
    /// The squares that were not taken.
    left: std::ops::Range<usize>,
}

impl Squares<'_> {
    /// Takes the next numbers.
    fn take(&mut self, numbers: &mut [f64]) {
        for number in numbers {
            if self.left.is_empty() {
                self.compute();
            }
            *number = self.squares[self.left.start];
            self.left.start += 1;
        }
    }

    /// Computes the squares of the next columns.
    fn compute(&mut self) {
        let [nx, ny, nz] = self.shape;
        let first = self.next;
        self.next = (first + COLUMNS).min(nx);
        let width = COLUMNS + 2;
        self.load(first, 0);
        for z in 0..nz {
            if z + 1 < nz {
                self.load(first, z + 1);
            }
            let [below, own, above] = [z.saturating_sub(1), z, (z + 1).min(nz - 1)]
                .map(|z| &self.read[z % 3 * ny * width..][..ny * width]);
            for y in 0..ny {
                let [before, row, after] = [y.saturating_sub(1), y, (y + 1).min(ny - 1)].map(|y| y * width);
                for x in 0..self.next - first {
                    let at = row + x + 1;
                    // In the order of the reference's kernel.
                    let neighbours = own[at - 1]
                        + own[before + x + 1]
                        + below[at]
                        + above[at]
                        + own[after + x + 1]
                        + own[at + 1];
                    let noise = (6.0f64 / 7.0).sqrt() * (own[at] - 1.0 / 6.0 * neighbours);
                    self.squares[(x * ny + y) * nz + z] = noise * noise;
                }
            }
        }
        self.left = 0..(self.next - first) * ny * nz;
    }

    /// Reads the columns from `first` on, and one on either side, of a slice.
    fn load(&mut self, first: usize, z: usize) {
        let [nx, ny, _] = self.shape;
        let width = COLUMNS + 2;
        let (start, end) = (first.saturating_sub(1), (first + COLUMNS + 1).min(nx));
        // Where the row begins: without a neighbour the edge is repeated.
        let shift = start + 1 - first;
        for y in 0..ny {
            let row = &mut self.read[(z % 3 * ny + y) * width..][..width];
            let voxel = (z * ny + y) * nx + start;
            // SAFETY: all slabs of this stage have started, so the whole volume is read. Later stages, which
            // may overwrite it, have not started.
            unsafe { self.slab.load_from(0, voxel, &mut row[shift..][..end - start]) };
            if shift == 1 {
                row[0] = row[1];
            }
            if end - start + shift < width {
                row[end - start + shift] = row[end - start + shift - 1];
            }
        }
    }
}

/// The sum of so many numbers as numpy adds them. `take` has them in order.
fn pairwise(count: usize, take: &mut impl FnMut(&mut [f64])) -> f64 {
    if count > LEAF {
        let half = count / 2 / 8 * 8;
        return pairwise(half, take) + pairwise(count - half, take);
    }
    let mut numbers = [0.0; LEAF];
    let numbers = &mut numbers[..count];
    take(numbers);
    let (eights, rest) = numbers.as_chunks::<8>();
    let mut eights = eights.iter();
    let Some(mut sums) = eights.next().copied() else {
        return rest.iter().fold(0.0, |sum, number| sum + number);
    };
    for eight in eights {
        sums.iter_mut()
            .zip(eight)
            .for_each(|(sum, number)| *sum += number);
    }
    let [a, b, c, d, e, f, g, h] = sums;
    let sum = ((a + b) + (c + d)) + ((e + f) + (g + h));
    rest.iter().fold(sum, |sum, number| sum + number)
}
