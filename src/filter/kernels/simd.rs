//! SIMD: vectors of doubles, and the choice of the widest ones of this processor.
//!
//! Every width does the same operations in the same order on each number, so the bits do not depend on the
//! processor. [`Vector::mul_add`] is fused on every processor; it is for exponentials and quotients only.

use super::powers::{ERRORS, POWERS, STEPS};
use super::scalar::{cast_i32, cast_i64, map_lanes};

/// Code that is written once for [`Vector`] and compiled for each instruction set.
pub(in crate::filter) trait Job {
    /// Runs the code. Implementations are `#[inline(always)]`, so that they are compiled with the caller's
    /// instructions.
    ///
    /// # Safety
    /// The processor has `V`'s instructions.
    unsafe fn run<V: Vector<LANES>, const LANES: usize>(self);
}

/// Most lanes of a vector.
pub(in crate::filter) const MAX_DOUBLES: usize = 8;

/// A vector of `LANES` doubles.
///
/// # Safety
/// Every method may be called only where the processor has the vector's instructions; pointers are valid for
/// `LANES` doubles and need no alignment.
pub(in crate::filter) trait Vector<const LANES: usize>: Copy {
    /// Reads a vector.
    unsafe fn load(from: *const f64) -> Self;
    /// Reads voxels of type u8 as doubles.
    #[inline(always)]
    unsafe fn load_u8(from: *const u8) -> Self {
        // SAFETY: the caller's.
        unsafe { load_each(from, f64::from) }
    }
    /// Reads voxels of type i8 as doubles.
    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Self {
        // SAFETY: the caller's.
        unsafe { load_each(from, f64::from) }
    }
    /// Reads voxels of type u16 as doubles.
    #[inline(always)]
    unsafe fn load_u16(from: *const u16) -> Self {
        // SAFETY: the caller's.
        unsafe { load_each(from, f64::from) }
    }
    /// Reads voxels of type i16 as doubles.
    #[inline(always)]
    unsafe fn load_i16(from: *const i16) -> Self {
        // SAFETY: the caller's.
        unsafe { load_each(from, f64::from) }
    }
    /// Reads voxels of type u32 as doubles.
    #[inline(always)]
    unsafe fn load_u32(from: *const u32) -> Self {
        // SAFETY: the caller's.
        unsafe { load_each(from, f64::from) }
    }
    /// Reads voxels of type i32 as doubles.
    #[inline(always)]
    unsafe fn load_i32(from: *const i32) -> Self {
        // SAFETY: the caller's.
        unsafe { load_each(from, f64::from) }
    }
    /// Reads voxels of type f32 as doubles.
    #[inline(always)]
    unsafe fn load_f32(from: *const f32) -> Self {
        // SAFETY: the caller's.
        unsafe { load_each(from, f64::from) }
    }
    /// Writes a vector.
    unsafe fn store(self, to: *mut f64);
    /// A vector of equal numbers.
    unsafe fn splat(value: f64) -> Self;
    /// Lane by lane, rounded.
    unsafe fn add(self, other: Self) -> Self;
    /// Lane by lane, rounded.
    unsafe fn mul(self, other: Self) -> Self;
    /// Lane by lane, rounded.
    unsafe fn sub(self, other: Self) -> Self;
    /// Lane by lane, rounded.
    unsafe fn div(self, other: Self) -> Self;
    /// Lane by lane the square root, rounded.
    unsafe fn sqrt(self) -> Self;
    /// Lane by lane this · factor + term, rounded once.
    unsafe fn mul_add(self, factor: Self, term: Self) -> Self;
    /// Lane by lane the quotient by a divisor whose rounded inverse is known: the same bits as
    /// [`Vector::div`] where quotient and remainder are normal numbers.
    #[inline(always)]
    unsafe fn quotient(self, divisor: Self, inverse: Self) -> Self {
        // SAFETY: the caller's.
        unsafe {
            // Markstein 1990: one step of correction makes the quotient the nearest one.
            let near = self.mul(inverse);
            let remainder = Self::splat(-0.0).sub(near).mul_add(divisor, self);
            remainder.mul_add(inverse, near)
        }
    }
    /// Lane by lane the smaller number; of two equal ones the second.
    unsafe fn min(self, other: Self) -> Self;
    /// This where `a` ≤ `b`, elsewhere 0.
    unsafe fn only_where_le(self, a: Self, b: Self) -> Self;
    /// Whether a lane is less than the other's.
    unsafe fn any_lt(self, other: Self) -> bool;
    /// 2^(i/128) and its error for the whole numbers i that stand in the lowest bits, as the tables of
    /// `powers` have them.
    unsafe fn power(whole: Self) -> (Self, Self);
    /// Prefetches the cache line at an address, which need not be valid.
    unsafe fn prefetch(address: *const i8);
    /// Lane by lane, rounded to single precision.
    unsafe fn cast_f32(self) -> [f32; LANES];
    /// Lane by lane [`cast_i32`].
    unsafe fn cast_i32(self) -> [i32; LANES];
    /// The low 16 bits of [`Vector::cast_i32`].
    #[inline(always)]
    unsafe fn cast_i16(self) -> [i16; LANES] {
        // SAFETY: the caller's.
        map_lanes(unsafe { self.cast_i32() }, |value| value as i16)
    }
    /// The low 8 bits of [`Vector::cast_i32`].
    #[inline(always)]
    unsafe fn cast_i8(self) -> [i8; LANES] {
        // SAFETY: the caller's.
        map_lanes(unsafe { self.cast_i32() }, |value| value as i8)
    }
    /// Lane by lane [`cast_i64`].
    unsafe fn cast_i64(self) -> [i64; LANES];
    /// Lane i of vector j becomes lane j of vector i.
    unsafe fn transpose(rows: [Self; LANES]) -> [Self; LANES];
}

/// Converts voxels one by one, as many as a vector has lanes.
///
/// # Safety
/// The processor has `V`'s instructions and so many voxels are valid.
#[inline(always)]
pub(in crate::filter) unsafe fn load_each<S: Copy, V: Vector<LANES>, const LANES: usize>(
    voxels: *const S,
    to_f64: impl Fn(S) -> f64,
) -> V {
    let mut numbers = [0.0; LANES];
    // SAFETY: the caller's.
    unsafe {
        for (i, number) in numbers.iter_mut().enumerate() {
            *number = to_f64(voxels.add(i).read());
        }
        V::load(numbers.as_ptr())
    }
}

/// An instruction set that the passes are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::filter) enum Isa {
    /// The baseline of the target: SSE2 on x86-64, NEON on aarch64.
    Baseline,
    /// 256-bit vectors, and fused multiply-add.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// 512-bit vectors.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Isa {
    /// The instruction sets of this processor, widest first.
    pub(in crate::filter) fn available() -> impl Iterator<Item = Isa> {
        [
            #[cfg(target_arch = "x86_64")]
            (is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl"))
            .then_some(Isa::Avx512),
            #[cfg(target_arch = "x86_64")]
            (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")).then_some(Isa::Avx2),
            Some(Isa::Baseline),
        ]
        .into_iter()
        .flatten()
    }

    /// The widest instruction set of this processor.
    pub(in crate::filter) fn detect() -> Isa {
        Isa::available().next().unwrap_or(Isa::Baseline)
    }

    /// Lanes of its vectors of doubles.
    pub(in crate::filter) fn lanes(self) -> usize {
        match self {
            Isa::Baseline => 4,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => 4,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => 8,
        }
    }

    /// Runs `job` with this instruction set, which must be one of [`Isa::available`].
    pub(in crate::filter) fn run(self, job: impl Job) {
        match self {
            // SAFETY: these vectors are of the target's baseline.
            Isa::Baseline => unsafe { job.run::<baseline::F64x4, 4>() },
            // SAFETY: values of Isa come from `available`, so the processor has the instructions.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { x86::run_avx2(job) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => unsafe { x86::run_avx512(job) },
        }
    }
}

impl Default for Isa {
    fn default() -> Self {
        Isa::detect()
    }
}

mod baseline {
    use super::{ERRORS, POWERS, STEPS, Vector, cast_i32, cast_i64, map_lanes};

    /// Four doubles, which the compiler keeps in two registers of the baseline.
    #[derive(Clone, Copy)]
    pub(in super::super) struct F64x4([f64; 4]);

    impl Vector<4> for F64x4 {
        #[inline(always)]
        unsafe fn load(from: *const f64) -> Self {
            // SAFETY: the caller's pointer is valid for four doubles.
            F64x4(unsafe { from.cast::<[f64; 4]>().read_unaligned() })
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut f64) {
            // SAFETY: the caller's pointer is valid for four doubles.
            unsafe { to.cast::<[f64; 4]>().write_unaligned(self.0) }
        }

        #[inline(always)]
        unsafe fn splat(value: f64) -> Self {
            F64x4([value; 4])
        }

        #[inline(always)]
        unsafe fn add(self, other: Self) -> Self {
            F64x4(std::array::from_fn(|lane| self.0[lane] + other.0[lane]))
        }

        #[inline(always)]
        unsafe fn mul(self, other: Self) -> Self {
            F64x4(std::array::from_fn(|lane| self.0[lane] * other.0[lane]))
        }

        #[inline(always)]
        unsafe fn sub(self, other: Self) -> Self {
            F64x4(std::array::from_fn(|lane| self.0[lane] - other.0[lane]))
        }

        #[inline(always)]
        unsafe fn div(self, other: Self) -> Self {
            F64x4(std::array::from_fn(|lane| self.0[lane] / other.0[lane]))
        }

        #[inline(always)]
        unsafe fn sqrt(self) -> Self {
            F64x4(self.0.map(f64::sqrt))
        }

        #[inline(always)]
        unsafe fn mul_add(self, factor: Self, term: Self) -> Self {
            F64x4(std::array::from_fn(|lane| {
                self.0[lane].mul_add(factor.0[lane], term.0[lane])
            }))
        }

        // Without an instruction for it a fused multiply-add takes longer than the division.
        #[inline(always)]
        unsafe fn quotient(self, divisor: Self, _inverse: Self) -> Self {
            // SAFETY: the vectors are of the baseline.
            unsafe { self.div(divisor) }
        }

        #[inline(always)]
        unsafe fn min(self, other: Self) -> Self {
            F64x4(std::array::from_fn(|lane| {
                if self.0[lane] < other.0[lane] {
                    self.0[lane]
                } else {
                    other.0[lane]
                }
            }))
        }

        #[inline(always)]
        unsafe fn only_where_le(self, a: Self, b: Self) -> Self {
            F64x4(std::array::from_fn(|lane| {
                if a.0[lane] <= b.0[lane] { self.0[lane] } else { 0.0 }
            }))
        }

        #[inline(always)]
        unsafe fn any_lt(self, other: Self) -> bool {
            self.0.iter().zip(&other.0).any(|(one, other)| one < other)
        }

        #[inline(always)]
        unsafe fn power(whole: Self) -> (Self, Self) {
            let number = |table: &[u64; STEPS as usize], lane: usize| {
                table[(whole.0[lane].to_bits() % STEPS) as usize]
            };
            (
                F64x4(std::array::from_fn(|lane| {
                    f64::from_bits(number(&POWERS, lane).wrapping_add(whole.0[lane].to_bits() << 45))
                })),
                F64x4(std::array::from_fn(|lane| f64::from_bits(number(&ERRORS, lane)))),
            )
        }

        #[inline(always)]
        unsafe fn prefetch(_address: *const i8) {}

        #[inline(always)]
        unsafe fn cast_f32(self) -> [f32; 4] {
            map_lanes(self.0, |value| value as f32)
        }

        #[inline(always)]
        unsafe fn cast_i32(self) -> [i32; 4] {
            map_lanes(self.0, cast_i32)
        }

        #[inline(always)]
        unsafe fn cast_i64(self) -> [i64; 4] {
            map_lanes(self.0, cast_i64)
        }

        #[inline(always)]
        unsafe fn transpose(rows: [Self; 4]) -> [Self; 4] {
            std::array::from_fn(|i| F64x4(std::array::from_fn(|j| rows[j].0[i])))
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86;
