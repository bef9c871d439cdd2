//! SIMD: vectors of doubles, and the choice of the widest ones that this processor has.
//!
//! Every width does the same operations in the same order on each number, so the bits do not depend on the processor. There
//! is deliberately no fused multiply-add among the operations.

/// Work that is written once over [`Vector`] and compiled for each instruction set.
pub(super) trait Job {
    /// Does the work. Implementations are `#[inline(always)]`, so that they are compiled with the caller's instructions.
    ///
    /// # Safety
    /// The processor has `V`'s instructions.
    unsafe fn run<V: Vector>(self);
}

/// A vector of [`Vector::LANES`] doubles.
///
/// # Safety
/// Every method may be called only where the processor has the vector's instructions; pointers are valid for
/// [`Vector::LANES`] doubles and need no alignment.
pub(super) trait Vector: Copy {
    /// Doubles in a vector.
    const LANES: usize;
    /// Reads a vector.
    unsafe fn load(from: *const f64) -> Self;
    /// Writes a vector.
    unsafe fn store(self, to: *mut f64);
    /// A vector of equal numbers.
    unsafe fn splat(value: f64) -> Self;
    /// Lane by lane, rounded.
    unsafe fn add(self, other: Self) -> Self;
    /// Lane by lane, rounded.
    unsafe fn mul(self, other: Self) -> Self;
}

/// An instruction set that the passes are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Isa {
    /// What every processor of the target has: SSE2 on x86-64, NEON on aarch64.
    Baseline,
    /// 256-bit vectors.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// 512-bit vectors.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Isa {
    /// Every instruction set that this processor has, widest first.
    pub(super) fn available() -> impl Iterator<Item = Isa> {
        [
            #[cfg(target_arch = "x86_64")]
            (is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl"))
            .then_some(Isa::Avx512),
            #[cfg(target_arch = "x86_64")]
            is_x86_feature_detected!("avx2").then_some(Isa::Avx2),
            Some(Isa::Baseline),
        ]
        .into_iter()
        .flatten()
    }

    /// The widest instruction set that this processor has.
    pub(super) fn detect() -> Isa {
        Isa::available().next().unwrap_or(Isa::Baseline)
    }

    /// Does `job` with this instruction set, which must be one of [`Isa::available`].
    pub(super) fn run(self, job: impl Job) {
        match self {
            // SAFETY: these vectors are of the target's baseline.
            Isa::Baseline => unsafe { job.run::<baseline::F64x2>() },
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
    use super::Vector;

    /// Two doubles, which the compiler keeps in one register of the baseline.
    #[derive(Clone, Copy)]
    pub(in super::super) struct F64x2([f64; 2]);

    impl Vector for F64x2 {
        const LANES: usize = 2;

        #[inline(always)]
        unsafe fn load(from: *const f64) -> Self {
            // SAFETY: the caller's pointer is valid for two doubles.
            F64x2(unsafe { from.cast::<[f64; 2]>().read_unaligned() })
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut f64) {
            // SAFETY: the caller's pointer is valid for two doubles.
            unsafe { to.cast::<[f64; 2]>().write_unaligned(self.0) }
        }

        #[inline(always)]
        unsafe fn splat(value: f64) -> Self {
            F64x2([value; 2])
        }

        #[inline(always)]
        unsafe fn add(self, other: Self) -> Self {
            F64x2([self.0[0] + other.0[0], self.0[1] + other.0[1]])
        }

        #[inline(always)]
        unsafe fn mul(self, other: Self) -> Self {
            F64x2([self.0[0] * other.0[0], self.0[1] * other.0[1]])
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Job, Vector};

    #[target_feature(enable = "avx2")]
    pub(super) fn run_avx2(job: impl Job) {
        // SAFETY: this function is compiled for, and only called on, processors with AVX2.
        unsafe { job.run::<F64x4>() }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    pub(super) fn run_avx512(job: impl Job) {
        // SAFETY: this function is compiled for, and only called on, processors with these parts of AVX-512.
        unsafe { job.run::<F64x8>() }
    }

    macro_rules! vector {
        ($name:ident, $register:ty, $lanes:literal, $load:ident, $store:ident, $splat:ident, $add:ident, $mul:ident) => {
            #[derive(Clone, Copy)]
            struct $name($register);

            impl Vector for $name {
                const LANES: usize = $lanes;

                #[inline(always)]
                unsafe fn load(from: *const f64) -> Self {
                    // SAFETY: the caller's pointer is valid and its processor has the instruction.
                    $name(unsafe { $load(from) })
                }

                #[inline(always)]
                unsafe fn store(self, to: *mut f64) {
                    // SAFETY: the caller's pointer is valid and its processor has the instruction.
                    unsafe { $store(to, self.0) }
                }

                #[inline(always)]
                unsafe fn splat(value: f64) -> Self {
                    // SAFETY: the caller's processor has the instruction.
                    $name(unsafe { $splat(value) })
                }

                #[inline(always)]
                unsafe fn add(self, other: Self) -> Self {
                    // SAFETY: the caller's processor has the instruction.
                    $name(unsafe { $add(self.0, other.0) })
                }

                #[inline(always)]
                unsafe fn mul(self, other: Self) -> Self {
                    // SAFETY: the caller's processor has the instruction.
                    $name(unsafe { $mul(self.0, other.0) })
                }
            }
        };
    }

    vector!(
        F64x4,
        __m256d,
        4,
        _mm256_loadu_pd,
        _mm256_storeu_pd,
        _mm256_set1_pd,
        _mm256_add_pd,
        _mm256_mul_pd
    );
    vector!(
        F64x8,
        __m512d,
        8,
        _mm512_loadu_pd,
        _mm512_storeu_pd,
        _mm512_set1_pd,
        _mm512_add_pd,
        _mm512_mul_pd
    );
}
