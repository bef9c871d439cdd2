//! Sums: what the voxels of a slice, and differences of neighbours, add up to.
//!
//! Every processor adds in the same order, so the figures do not depend on it.

use super::convert::{Voxel, with_voxel_type};
use super::simd::{Isa, Job, Vector};
use crate::volume::{Datatype, Scaling};

/// Partial sums of pairs that are added side by side.
const LANES: usize = 16;
/// The same of single numbers.
const WIDE: usize = 32;
/// Voxels that are converted at a time, and whose 16-bit numbers add up to 32 bits.
const BLOCK: usize = 1024;

/// Number, sum and sum of squares of some numbers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Moments {
    pub(crate) count: f64,
    pub(crate) sum: f64,
    pub(crate) squares: f64,
}

impl Moments {
    /// Adds other numbers.
    pub(crate) fn add(&mut self, other: Moments) {
        self.count += other.count;
        self.sum += other.sum;
        self.squares += other.squares;
    }

    /// Adds the finite ones of these numbers.
    pub(crate) fn add_each(&mut self, numbers: &[f64]) {
        for &number in numbers.iter().filter(|number| number.is_finite()) {
            self.count += 1.0;
            self.sum += number;
            self.squares += number * number;
        }
    }

    /// The mean; NaN without numbers.
    pub(crate) fn mean(self) -> f64 {
        self.sum / self.count
    }

    /// The variance with the divisor n − 1; NaN for fewer than two numbers.
    pub(crate) fn variance(self) -> f64 {
        match self.count > 1.0 {
            true => ((self.squares - self.sum * self.sum / self.count) / (self.count - 1.0)).max(0.0),
            false => f64::NAN,
        }
    }
}

/// A slice of a volume as it is stored, in the machine's byte order.
#[derive(Clone, Copy)]
pub(crate) struct StoredSlice<'a> {
    pub(crate) voxels: &'a [u8],
    pub(crate) datatype: Datatype,
    pub(crate) scaling: Option<Scaling>,
    /// Voxels along x.
    pub(crate) width: usize,
}

impl StoredSlice<'_> {
    /// The intensities of the voxels from `first` on.
    ///
    /// # Panics
    /// If the slice has fewer.
    pub(crate) fn load(&self, first: usize, to: &mut [f64]) {
        with_voxel_type!(self.datatype, S => {
            let stored: &[S] = bytemuck::cast_slice(self.voxels);
            load(&stored[first..][..to.len()], self.scaling, to);
        });
    }
}

#[inline(always)]
fn load<S: Voxel>(stored: &[S], scaling: Option<Scaling>, to: &mut [f64]) {
    match scaling {
        None => to
            .iter_mut()
            .zip(stored)
            .for_each(|(to, &stored)| *to = stored.to_f64()),
        Some(Scaling { slope, intercept }) => {
            for (to, &stored) in to.iter_mut().zip(stored) {
                *to = stored.to_f64() * slope + intercept;
            }
        }
    }
}

/// The sums of an image's voxels.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sums {
    /// Those of the finite voxels.
    pub(crate) voxels: Moments,
    /// Infinite without finite voxels.
    pub(crate) min: f64,
    pub(crate) max: f64,
    /// Number of voxels that are 0.
    pub(crate) zeros: u64,
    /// Number of voxels at the largest, or a negative smallest, number of an integer type.
    pub(crate) saturated: u64,
}

impl Default for Sums {
    fn default() -> Self {
        Sums {
            voxels: Moments::default(),
            min: f64::INFINITY,
            max: f64::NEG_INFINITY,
            zeros: 0,
            saturated: 0,
        }
    }
}

impl Sums {
    /// Adds a slice.
    pub(crate) fn add(&mut self, slice: StoredSlice<'_>) {
        let scaling = slice.scaling;
        let bytes = slice.voxels;
        let isa = Isa::detect();
        let mut integers = IntegerSums::default();
        match slice.datatype {
            Datatype::Uint8 => isa.run(Integers::<u8>::new(bytes, scaling, &mut integers)),
            Datatype::Int8 => isa.run(Integers::<i8>::new(bytes, scaling, &mut integers)),
            Datatype::Uint16 => isa.run(Integers::<u16>::new(bytes, scaling, &mut integers)),
            Datatype::Int16 => isa.run(Integers::<i16>::new(bytes, scaling, &mut integers)),
            Datatype::Float32 if scaling.is_none() => {
                let stored = bytemuck::cast_slice(bytes);
                return isa.run(Singles { stored, sums: self });
            }
            _ => {
                return with_voxel_type!(slice.datatype, S => isa.run(Doubles::<S> {
                    stored: bytemuck::cast_slice(bytes),
                    scaling,
                    sums: self,
                }));
            }
        }
        self.add_integers(integers, scaling);
    }

    fn add_integers(&mut self, sums: IntegerSums, scaling: Option<Scaling>) {
        let Scaling { slope, intercept } = scaling.unwrap_or(Scaling {
            slope: 1.0,
            intercept: 0.0,
        });
        let (count, sum, squares) = (sums.count as f64, sums.sum as f64, sums.squares as f64);
        self.voxels.add(Moments {
            count,
            sum: slope * sum + count * intercept,
            squares: slope * slope * squares + 2.0 * slope * intercept * sum + count * intercept * intercept,
        });
        for limit in [sums.min, sums.max].map(|limit| f64::from(limit) * slope + intercept) {
            self.min = self.min.min(limit);
            self.max = self.max.max(limit);
        }
        self.zeros += sums.zeros;
        self.saturated += sums.saturated;
    }
}

/// The sums of stored integers of at most 16 bits, which are exact.
#[derive(Default)]
struct IntegerSums {
    count: u64,
    sum: i64,
    squares: u64,
    min: i32,
    max: i32,
    zeros: u64,
    saturated: u64,
}

struct Integers<'a, S> {
    stored: &'a [S],
    /// The number whose intensity is 0.
    zero: Option<S>,
    sums: &'a mut IntegerSums,
}

impl<'a, S: Voxel> Integers<'a, S> {
    fn new(bytes: &'a [u8], scaling: Option<Scaling>, sums: &'a mut IntegerSums) -> Self {
        let scaling = scaling.unwrap_or(Scaling {
            slope: 1.0,
            intercept: 0.0,
        });
        let zero = S::nearest(-scaling.intercept / scaling.slope);
        Integers {
            stored: bytemuck::cast_slice(bytes),
            zero: Some(zero).filter(|zero| scaling.intensity(zero.to_f64()) == 0.0),
            sums,
        }
    }
}

impl<S: Voxel + Ord + Into<i32>> Job for Integers<'_, S> {
    #[inline(always)]
    unsafe fn run<V: Vector<N>, const N: usize>(self) {
        let (Some(&first), sums) = (self.stored.first(), self.sums) else {
            return;
        };
        let (mut min, mut max) = (first, first);
        let count = |block: &[S], value: S| {
            let equal = block.iter().map(|&voxel| u32::from(voxel == value));
            u64::from(equal.sum::<u32>())
        };
        let (lowest, highest) = (S::saturated(i128::MIN), S::saturated(i128::MAX));
        for block in self.stored.chunks(BLOCK) {
            let [mut low, mut high] = [block[0]; 2];
            let (mut sum, mut squares) = (0_i32, 0_u64);
            for &voxel in block {
                low = low.min(voxel);
                high = high.max(voxel);
            }
            for &voxel in block {
                sum += voxel.into();
            }
            for &voxel in block {
                let number: i32 = voxel.into();
                squares += u64::from(number.wrapping_mul(number) as u32);
            }
            sums.sum += i64::from(sum);
            sums.squares += squares;
            sums.zeros += self.zero.map_or(0, |zero| count(block, zero));
            if high == highest {
                sums.saturated += count(block, highest);
            }
            if low == lowest && lowest.into() < 0 {
                sums.saturated += count(block, lowest);
            }
            (min, max) = (min.min(low), max.max(high));
        }
        (sums.count, sums.min, sums.max) = (self.stored.len() as u64, min.into(), max.into());
    }
}

/// Voxels whose intensities are added as doubles.
struct Doubles<'a, S> {
    stored: &'a [S],
    scaling: Option<Scaling>,
    sums: &'a mut Sums,
}

impl<S: Voxel> Job for Doubles<'_, S> {
    #[inline(always)]
    unsafe fn run<V: Vector<N>, const N: usize>(self) {
        let sums = self.sums;
        let (mut sum, mut squares) = ([0.0; WIDE], [0.0; WIDE]);
        let mut block = [0.0; BLOCK];
        let (lowest, highest) = (S::saturated(i128::MIN).to_f64(), S::saturated(i128::MAX).to_f64());
        for stored in self.stored.chunks(BLOCK) {
            // Zeros after the last voxel add nothing to the sums.
            block[stored.len()..].fill(0.0);
            let numbers = &mut block[..stored.len()];
            load(stored, self.scaling, numbers);
            let mut finite = stored.len();
            let (mut low, mut high) = (i64::MAX, i64::MIN);
            for &number in &*numbers {
                let key = key(number);
                low = low.min(key);
                high = high.max(key);
                sums.zeros += u64::from(number == 0.0);
            }
            if S::DATATYPE.is_float() && (low < key(f64::MIN) || high > key(f64::MAX)) {
                (low, high, finite) = (i64::MAX, i64::MIN, 0);
                for number in numbers {
                    let is_finite = number.abs() <= f64::MAX;
                    let key = key(*number);
                    low = low.min(if is_finite { key } else { i64::MAX });
                    high = high.max(if is_finite { key } else { i64::MIN });
                    finite += usize::from(is_finite);
                    *number = if is_finite { *number } else { 0.0 };
                }
            }
            for numbers in block.as_chunks::<WIDE>().0 {
                for lane in 0..WIDE {
                    sum[lane] += numbers[lane];
                    squares[lane] += numbers[lane] * numbers[lane];
                }
            }
            sums.voxels.count += finite as f64;
            if finite > 0 {
                sums.min = sums.min.min(number_of(low));
                sums.max = sums.max.max(number_of(high));
            }
            if !S::DATATYPE.is_float() {
                let stored = stored.iter().map(|stored| stored.to_f64());
                let ends = stored.filter(|&stored| stored == highest || (stored == lowest && lowest < 0.0));
                sums.saturated += ends.count() as u64;
            }
        }
        sums.voxels.sum += sum.iter().sum::<f64>();
        sums.voxels.squares += squares.iter().sum::<f64>();
    }
}

/// The same for numbers in single precision, which is faster while all are finite.
struct Singles<'a> {
    stored: &'a [f32],
    sums: &'a mut Sums,
}

impl Job for Singles<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector<N>, const N: usize>(self) {
        let sums = self.sums;
        let (mut sum, mut squares) = ([0.0; WIDE], [0.0; WIDE]);
        for stored in self.stored.chunks(BLOCK) {
            let (mut low, mut high, mut zeros) = (i32::MAX, i32::MIN, 0_u32);
            for number in stored {
                let key = key32(*number);
                low = low.min(key);
                high = high.max(key);
                zeros += u32::from(*number == 0.0);
            }
            if low < key32(f32::MIN) || high > key32(f32::MAX) {
                let scaling = None;
                // SAFETY: the caller's.
                unsafe {
                    Doubles {
                        stored,
                        scaling,
                        sums,
                    }
                    .run::<V, N>()
                };
                continue;
            }
            let (blocks, rest) = stored.as_chunks::<WIDE>();
            for numbers in blocks {
                // The loop above waits for memory, and this one computes: fetch the next block meanwhile.
                let next = numbers.as_ptr().wrapping_add(BLOCK);
                for line in [next, next.wrapping_add(WIDE / 2)] {
                    // SAFETY: the caller's; a hint may have any address.
                    unsafe { V::prefetch(line.cast()) };
                }
                for lane in 0..WIDE {
                    let number = f64::from(numbers[lane]);
                    sum[lane] += number;
                    squares[lane] += number * number;
                }
            }
            for (lane, &number) in rest.iter().enumerate() {
                sum[lane] += f64::from(number);
                squares[lane] += f64::from(number) * f64::from(number);
            }
            sums.zeros += u64::from(zeros);
            sums.voxels.count += stored.len() as f64;
            sums.min = sums.min.min(f64::from(single_of(low)));
            sums.max = sums.max.max(f64::from(single_of(high)));
        }
        sums.voxels.sum += sum.iter().sum::<f64>();
        sums.voxels.squares += squares.iter().sum::<f64>();
    }
}

/// An integer that sorts as the number does, with NaN at the ends.
#[inline(always)]
fn key32(number: f32) -> i32 {
    let bits = number.to_bits().cast_signed();
    bits ^ ((bits >> 31) & i32::MAX)
}

fn single_of(key: i32) -> f32 {
    f32::from_bits((key ^ ((key >> 31) & i32::MAX)).cast_unsigned())
}

/// An integer that sorts as the number does, with NaN at the ends.
#[inline(always)]
fn key(number: f64) -> i64 {
    let bits = number.to_bits().cast_signed();
    bits ^ ((bits >> 63) & i64::MAX)
}

fn number_of(key: i64) -> f64 {
    f64::from_bits((key ^ ((key >> 63) & i64::MAX)).cast_unsigned())
}

/// What the smoothness of a volume is estimated from, over its finite voxels.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Smoothness {
    pub(crate) voxels: Moments,
    /// Differences of neighbours along x, y and z.
    pub(crate) differences: [Moments; 3],
}

/// How a slice counts for the smoothness.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counts {
    /// Its voxels and the differences along x and y.
    pub(crate) itself: bool,
    /// The differences to the slice below.
    pub(crate) below: bool,
}

impl Smoothness {
    /// Adds a slice. `plane` holds the intensities of the slice below where that counts, and then those of
    /// this slice where it counts itself. `row` is memory for a row.
    ///
    /// # Panics
    /// If the lengths contradict each other.
    pub(crate) fn add(&mut self, slice: StoredSlice<'_>, counts: Counts, plane: &mut [f64], row: &mut [f64]) {
        with_voxel_type!(slice.datatype, S => {
            let stored: &[S] = bytemuck::cast_slice(slice.voxels);
            assert_eq!((stored.len(), row.len()), (plane.len(), slice.width));
            Isa::detect().run(Differences { sums: self, stored, scaling: slice.scaling, counts, plane, row });
        });
    }
}

struct Differences<'a, S> {
    sums: &'a mut Smoothness,
    stored: &'a [S],
    scaling: Option<Scaling>,
    counts: Counts,
    plane: &'a mut [f64],
    row: &'a mut [f64],
}

impl<S: Voxel> Job for Differences<'_, S> {
    #[inline(always)]
    unsafe fn run<V: Vector<N>, const N: usize>(self) {
        let width = self.row.len();
        let difference = |one: f64, other: f64| one - other;
        let mut voxels = LaneMoments::new();
        let [mut along_x, mut along_y, mut along_z] = [(); 3].map(|()| LaneMoments::new());
        for (place, stored) in self.stored.chunks_exact(width.max(1)).enumerate() {
            load(stored, self.scaling, self.row);
            if S::DATATYPE.is_float() {
                for number in &mut *self.row {
                    *number = if number.abs() <= f64::MAX {
                        *number
                    } else {
                        f64::NAN
                    };
                }
            }
            let (before, rest) = self.plane.split_at_mut(place * width);
            let below = &mut rest[..width];
            let row = &*self.row;
            if self.counts.below {
                along_z.add(row, below, difference);
            }
            if self.counts.itself {
                voxels.add(row, row, |number, _| number);
                along_x.add(&row[1..], &row[..width - 1], difference);
                if place > 0 {
                    along_y.add(row, &before[(place - 1) * width..], difference);
                }
                below.copy_from_slice(row);
            }
        }
        let sums = self.sums;
        sums.voxels.add(voxels.total());
        let along = [along_x, along_y, along_z];
        for (sum, along) in sums.differences.iter_mut().zip(along) {
            sum.add(along.total());
        }
    }
}

/// Partial moments side by side.
struct LaneMoments {
    count: [f64; LANES],
    sum: [f64; LANES],
    squares: [f64; LANES],
}

impl LaneMoments {
    #[inline(always)]
    fn new() -> Self {
        LaneMoments {
            count: [0.0; LANES],
            sum: [0.0; LANES],
            squares: [0.0; LANES],
        }
    }

    /// Adds what `number` makes of pairs, unless it is NaN.
    #[inline(always)]
    fn add(&mut self, ones: &[f64], others: &[f64], number: impl Fn(f64, f64) -> f64 + Copy) {
        let (blocks, rest) = ones.as_chunks::<LANES>();
        let (other_blocks, other_rest) = others.as_chunks::<LANES>();
        for (one, other) in blocks.iter().zip(other_blocks) {
            self.add_block(one, other, number);
        }
        if !rest.is_empty() {
            let (mut one, mut other) = ([f64::NAN; LANES], [f64::NAN; LANES]);
            one[..rest.len()].copy_from_slice(rest);
            other[..rest.len()].copy_from_slice(&other_rest[..rest.len()]);
            self.add_block(&one, &other, number);
        }
    }

    #[inline(always)]
    fn add_block(&mut self, one: &[f64; LANES], other: &[f64; LANES], number: impl Fn(f64, f64) -> f64) {
        for lane in 0..LANES {
            let number = number(one[lane], other[lane]);
            let known = !number.is_nan();
            let number = if known { number } else { 0.0 };
            self.count[lane] += if known { 1.0 } else { 0.0 };
            self.sum[lane] += number;
            self.squares[lane] += number * number;
        }
    }

    fn total(&self) -> Moments {
        Moments {
            count: self.count.iter().sum(),
            sum: self.sum.iter().sum(),
            squares: self.squares.iter().sum(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slices(voxels: &[f32], width: usize, height: usize) -> impl Iterator<Item = &[f32]> {
        voxels.chunks(width * height)
    }

    fn sums_on(isa: Isa, voxels: &[f32], [width, height]: [usize; 2]) -> (Sums, Smoothness) {
        let (mut sums, mut smoothness) = (Sums::default(), Smoothness::default());
        let (mut plane, mut row) = (vec![0.0; width * height], vec![0.0; width]);
        for (z, stored) in slices(voxels, width, height).enumerate() {
            let sums = &mut sums;
            isa.run(Singles { stored, sums });
            isa.run(Differences {
                sums: &mut smoothness,
                stored,
                scaling: None,
                counts: Counts {
                    itself: true,
                    below: z > 0,
                },
                plane: &mut plane,
                row: &mut row,
            });
        }
        (sums, smoothness)
    }

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        let mut voxels: Vec<f32> = (0..21 * 70 * 5)
            .map(|at| (at * 7919 % 1009) as f32 / 7.0)
            .collect();
        (voxels[3], voxels[200], voxels[400]) = (f32::NAN, f32::INFINITY, 0.0);
        let all: Vec<String> = Isa::available()
            .map(|isa| format!("{:?}", sums_on(isa, &voxels, [21, 70])))
            .collect();
        assert!(all.iter().all(|one| *one == all[0]), "{all:?}");
    }

    #[test]
    fn pairs_with_a_voxel_that_is_not_finite_do_not_count() {
        // 3 × 2 × 2 voxels; the middle one of the first row is NaN.
        let voxels = [1.0, f32::NAN, 5.0, 2.0, 4.0, 8.0, 0.0, -0.0, 1.0, 1.0, 1.0, 3.0];
        let (sums, smoothness) = sums_on(Isa::detect(), &voxels, [3, 2]);
        assert_eq!((sums.voxels.count, sums.voxels.sum), (11.0, 26.0));
        assert_eq!(
            (sums.min, sums.max, sums.zeros, sums.saturated),
            (-0.0, 8.0, 2, 0)
        );
        assert_eq!(smoothness.differences.map(|along| along.count), [6.0, 5.0, 5.0]);
        assert_eq!(smoothness.differences.map(|along| along.sum), [9.0, 8.0, -14.0]);
    }

    #[test]
    fn integers_add_up_exactly_and_are_scaled() {
        let stored: Vec<u16> = (0..5000_u16).map(|at| 65_535 - at % 3).chain([40; 2]).collect();
        let slice = |scaling| StoredSlice {
            voxels: bytemuck::cast_slice(&stored),
            datatype: Datatype::Uint16,
            scaling,
            width: 1,
        };
        let mut sums = Sums::default();
        sums.add(slice(None));
        assert_eq!(sums.voxels.sum, 5000.0 * 65_535.0 - 4999.0 + 80.0);
        assert_eq!((sums.saturated, sums.zeros), (1667, 0));
        assert_eq!((sums.min, sums.max), (40.0, 65_535.0));
        let mut scaled = Sums::default();
        scaled.add(slice(Some(Scaling {
            slope: -0.5,
            intercept: 20.0,
        })));
        assert_eq!((scaled.zeros, scaled.saturated), (2, 1667));
        assert_eq!((scaled.min, scaled.max), (20.0 - 32_767.5, 0.0));
        let deviation = scaled.voxels.variance() / sums.voxels.variance();
        assert!((deviation - 0.25).abs() < 1e-9, "{deviation}");
    }
}
