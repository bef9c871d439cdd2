//! Singles: vectors of single-precision numbers, for filters that compute in single precision.
//!
//! As for the doubles of `simd`, every width does the same operations in the same order on each number, and
//! there is no fused multiply-add.

use super::exp32::exp32_of_nonpositive;
use super::simd::Isa;

/// Largest number of lanes of a vector.
pub(in crate::filter) const MAX_LANES: usize = 16;

/// Code that is written once for [`Singles`] and compiled for each instruction set.
pub(in crate::filter) trait SinglesJob {
    /// Runs the code. Implementations are `#[inline(always)]`, so that they are compiled with the caller's
    /// instructions.
    ///
    /// # Safety
    /// The processor has `V`'s instructions.
    unsafe fn run<V: Singles<LANES>, const LANES: usize>(self);
}

/// A vector of `LANES` single-precision numbers.
///
/// # Safety
/// Every method may be called only where the processor has the vector's instructions; pointers are valid for
/// `LANES` numbers and need no alignment.
pub(in crate::filter) trait Singles<const LANES: usize>: Copy {
    /// One bit for each lane.
    type Mask: Copy;
    /// Reads a vector.
    unsafe fn load(from: *const f32) -> Self;
    /// Writes a vector.
    unsafe fn store(self, to: *mut f32);
    /// A vector of equal numbers.
    unsafe fn splat(value: f32) -> Self;
    /// Lane by lane, rounded.
    unsafe fn add(self, other: Self) -> Self;
    /// Lane by lane, rounded.
    unsafe fn sub(self, other: Self) -> Self;
    /// Lane by lane, rounded.
    unsafe fn mul(self, other: Self) -> Self;
    /// Lane by lane, rounded.
    unsafe fn div(self, other: Self) -> Self;
    /// The smaller number of each lane; the second of two equal ones.
    unsafe fn min(self, other: Self) -> Self;
    /// The larger number of each lane; the second of two equal ones.
    unsafe fn max(self, other: Self) -> Self;
    /// Absolute values.
    unsafe fn abs(self) -> Self;
    /// [`exp32_of_nonpositive`] of numbers from −104 to 0.
    unsafe fn exp_of_nonpositive(self) -> Self;
    /// The lanes in which this is less.
    unsafe fn lt(self, other: Self) -> Self::Mask;
    /// The lanes in which this is less or equal.
    unsafe fn le(self, other: Self) -> Self::Mask;
    /// This in the lanes of the mask, the other elsewhere.
    unsafe fn or_else(self, mask: Self::Mask, other: Self) -> Self;
    /// This in the lanes of the mask, 0 elsewhere.
    unsafe fn only(self, mask: Self::Mask) -> Self;
    /// The lanes before `count`.
    unsafe fn first(count: usize) -> Self::Mask;
    /// The lanes of both masks.
    unsafe fn both(one: Self::Mask, other: Self::Mask) -> Self::Mask;
    /// The lanes of either mask.
    unsafe fn either(one: Self::Mask, other: Self::Mask) -> Self::Mask;
    /// Whether compacting lanes is faster than computing with all of them.
    const COMPACTS: bool = false;
    /// The lanes of the mask, moved to the front. Call only if [`Singles::COMPACTS`].
    #[inline(always)]
    unsafe fn compact(self, _mask: Self::Mask) -> Self {
        self
    }
    /// The first lanes, moved to those of the mask; 0 elsewhere. Call only if [`Singles::COMPACTS`].
    #[inline(always)]
    unsafe fn spread(self, _mask: Self::Mask) -> Self {
        self
    }
    /// The number of lanes of the mask. Call only if [`Singles::COMPACTS`].
    #[inline(always)]
    unsafe fn count(_mask: Self::Mask) -> usize {
        0
    }
    /// Whether the mask has any lane.
    unsafe fn any(mask: Self::Mask) -> bool;
    /// Whether the masks differ.
    unsafe fn differ(one: Self::Mask, other: Self::Mask) -> bool;
}

/// Runs `job` with an instruction set, which must be one of [`Isa::available`].
pub(in crate::filter) fn run(isa: Isa, job: impl SinglesJob) {
    match isa {
        // SAFETY: these vectors are of the target's baseline.
        Isa::Baseline => unsafe { job.run::<baseline::F32x4, 4>() },
        // SAFETY: values of Isa come from `available`, so the processor has the instructions.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { x86::run_avx2(job) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { x86::run_avx512(job) },
    }
}

mod baseline {
    use super::{Singles, exp32_of_nonpositive};

    /// Four numbers, which the compiler keeps in a register of the baseline.
    #[derive(Clone, Copy)]
    pub(super) struct F32x4([f32; 4]);

    #[inline(always)]
    fn each(f: impl Fn(usize) -> f32) -> F32x4 {
        F32x4([f(0), f(1), f(2), f(3)])
    }

    #[inline(always)]
    fn mask(f: impl Fn(usize) -> bool) -> [u32; 4] {
        let lane = |i| if f(i) { u32::MAX } else { 0 };
        [lane(0), lane(1), lane(2), lane(3)]
    }

    #[inline(always)]
    fn bits(f: impl Fn(usize) -> u32) -> [u32; 4] {
        [f(0), f(1), f(2), f(3)]
    }

    // SAFETY (of every block below): the caller's pointers are valid.
    #[allow(clippy::undocumented_unsafe_blocks)]
    impl Singles<4> for F32x4 {
        type Mask = [u32; 4];

        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            F32x4(unsafe { from.cast::<[f32; 4]>().read_unaligned() })
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            unsafe { to.cast::<[f32; 4]>().write_unaligned(self.0) }
        }

        #[inline(always)]
        unsafe fn splat(value: f32) -> Self {
            F32x4([value; 4])
        }

        #[inline(always)]
        unsafe fn add(self, other: Self) -> Self {
            each(|i| self.0[i] + other.0[i])
        }

        #[inline(always)]
        unsafe fn sub(self, other: Self) -> Self {
            each(|i| self.0[i] - other.0[i])
        }

        #[inline(always)]
        unsafe fn mul(self, other: Self) -> Self {
            each(|i| self.0[i] * other.0[i])
        }

        #[inline(always)]
        unsafe fn div(self, other: Self) -> Self {
            each(|i| self.0[i] / other.0[i])
        }

        #[inline(always)]
        unsafe fn min(self, other: Self) -> Self {
            each(|i| {
                if self.0[i] < other.0[i] {
                    self.0[i]
                } else {
                    other.0[i]
                }
            })
        }

        #[inline(always)]
        unsafe fn max(self, other: Self) -> Self {
            each(|i| {
                if self.0[i] > other.0[i] {
                    self.0[i]
                } else {
                    other.0[i]
                }
            })
        }

        #[inline(always)]
        unsafe fn abs(self) -> Self {
            each(|i| self.0[i].abs())
        }

        #[inline(always)]
        unsafe fn exp_of_nonpositive(self) -> Self {
            each(|i| exp32_of_nonpositive(self.0[i]))
        }

        #[inline(always)]
        unsafe fn lt(self, other: Self) -> [u32; 4] {
            mask(|i| self.0[i] < other.0[i])
        }

        #[inline(always)]
        unsafe fn le(self, other: Self) -> [u32; 4] {
            mask(|i| self.0[i] <= other.0[i])
        }

        #[inline(always)]
        unsafe fn or_else(self, mask: [u32; 4], other: Self) -> Self {
            each(|i| f32::from_bits(self.0[i].to_bits() & mask[i] | other.0[i].to_bits() & !mask[i]))
        }

        #[inline(always)]
        unsafe fn only(self, mask: [u32; 4]) -> Self {
            each(|i| f32::from_bits(self.0[i].to_bits() & mask[i]))
        }

        #[inline(always)]
        unsafe fn first(count: usize) -> [u32; 4] {
            mask(|i| i < count)
        }

        #[inline(always)]
        unsafe fn both(one: [u32; 4], other: [u32; 4]) -> [u32; 4] {
            bits(|i| one[i] & other[i])
        }

        #[inline(always)]
        unsafe fn either(one: [u32; 4], other: [u32; 4]) -> [u32; 4] {
            bits(|i| one[i] | other[i])
        }

        #[inline(always)]
        unsafe fn any(mask: [u32; 4]) -> bool {
            mask[0] | mask[1] | mask[2] | mask[3] != 0
        }

        #[inline(always)]
        unsafe fn differ(one: [u32; 4], other: [u32; 4]) -> bool {
            one != other
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(test)]
mod tests {
    use super::*;

    /// Every operation on some numbers, as bits.
    struct Operations<'a>(&'a [f32; 32], &'a mut Vec<u32>);

    impl SinglesJob for Operations<'_> {
        #[inline(always)]
        unsafe fn run<V: Singles<LANES>, const LANES: usize>(self) {
            let Operations(numbers, found) = self;
            let mut put = |vector: V, at: usize| {
                let mut lanes = [0.0f32; MAX_LANES];
                // SAFETY: there is room for the widest vector.
                unsafe { vector.store(lanes.as_mut_ptr()) };
                for (lane, number) in lanes[..LANES].iter().enumerate() {
                    found[(at + lane)..][..1].copy_from_slice(&[number.to_bits()]);
                }
            };
            for first in (0..16).step_by(LANES) {
                // SAFETY: the lanes of both vectors are among the 32 numbers.
                unsafe {
                    let a = V::load(numbers.as_ptr().add(first));
                    let b = V::load(numbers.as_ptr().add(16 + first));
                    let (less, at_most) = (a.lt(b), a.le(b));
                    let results = [
                        a.add(b),
                        a.sub(b),
                        a.mul(b),
                        a.div(b),
                        a.min(b),
                        a.max(b),
                        a.abs(),
                        b.abs(),
                        V::splat(0.0)
                            .sub(a.abs().min(V::splat(104.0)))
                            .exp_of_nonpositive(),
                        a.or_else(less, b),
                        a.only(at_most),
                        a.only(V::both(less, at_most)),
                        a.only(V::either(less, at_most)),
                        a.only(V::first(3usize.saturating_sub(first))),
                        V::splat(f32::from(u8::from(V::any(V::first(0))))),
                        V::splat(f32::from(u8::from(V::any(V::first(1))))),
                        V::splat(f32::from(u8::from(V::differ(V::first(1), V::first(1))))),
                        V::splat(f32::from(u8::from(V::differ(V::first(1), V::first(2))))),
                    ];
                    for (number, result) in results.into_iter().enumerate() {
                        put(result, 16 * number + first);
                    }
                }
            }
        }
    }

    #[test]
    fn every_width_has_the_same_bits() {
        let mut state = 1u64;
        for round in 0..2000 {
            let numbers: [f32; 32] = std::array::from_fn(|i| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let number = (state >> 40) as f32 / 65536.0 - 100.0;
                [number, number / 1e6, 0.0, -0.0][if i % 7 == 0 { round % 4 } else { i % 2 }]
            });
            let of = |isa| {
                let mut found = vec![0; 18 * 16];
                run(isa, Operations(&numbers, &mut found));
                found
            };
            let expected = of(Isa::Baseline);
            for isa in Isa::available() {
                assert!(of(isa) == expected, "{isa:?} {numbers:?}");
            }
        }
    }
}
