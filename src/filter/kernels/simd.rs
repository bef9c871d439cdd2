//! SIMD: vectors of doubles, and the choice of the widest ones that this processor has.
//!
//! Every width does the same operations in the same order on each number, so the bits do not depend on the
//! processor. There is deliberately no fused multiply-add among the operations.

use super::scalar::{cast_i32, cast_i64, map_lanes};

/// Work that is written once over [`Vector`] and compiled for each instruction set.
pub(in crate::filter) trait Job {
    /// Does the work. Implementations are `#[inline(always)]`, so that they are compiled with the caller's
    /// instructions.
    ///
    /// # Safety
    /// The processor has `V`'s instructions.
    unsafe fn run<V: Vector<LANES>, const LANES: usize>(self);
}

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
    /// Asks for the cache line at an address, which need not be valid.
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

/// As many voxels as a vector has lanes, converted one by one.
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
    pub(in crate::filter) fn available() -> impl Iterator<Item = Isa> {
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
    pub(in crate::filter) fn detect() -> Isa {
        Isa::available().next().unwrap_or(Isa::Baseline)
    }

    /// Does `job` with this instruction set, which must be one of [`Isa::available`].
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
    use super::{Vector, cast_i32, cast_i64, map_lanes};

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
mod x86 {
    use std::arch::x86_64::*;
    use std::mem::transmute;

    use super::{Job, Vector, cast_i64, map_lanes};

    #[target_feature(enable = "avx2")]
    pub(in crate::filter) fn run_avx2(job: impl Job) {
        // SAFETY: this function is compiled for, and only called on, processors with AVX2.
        unsafe { job.run::<F64x4, 4>() }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    pub(in crate::filter) fn run_avx512(job: impl Job) {
        // SAFETY: this function is compiled for, and only called on, processors with these parts of AVX-512.
        unsafe { job.run::<F64x8, 8>() }
    }

    #[derive(Clone, Copy)]
    struct F64x4(__m256d);

    // SAFETY (of every block below): the caller's processor has AVX2, its pointers are valid, and a register
    // has the size of the array that it is taken for.
    #[allow(clippy::undocumented_unsafe_blocks)]
    impl Vector<4> for F64x4 {
        #[inline(always)]
        unsafe fn load(from: *const f64) -> Self {
            F64x4(unsafe { _mm256_loadu_pd(from) })
        }

        #[inline(always)]
        unsafe fn load_u8(from: *const u8) -> Self {
            F64x4(unsafe { _mm256_cvtepi32_pd(_mm_cvtepu8_epi32(_mm_loadu_si32(from.cast()))) })
        }

        #[inline(always)]
        unsafe fn load_i8(from: *const i8) -> Self {
            F64x4(unsafe { _mm256_cvtepi32_pd(_mm_cvtepi8_epi32(_mm_loadu_si32(from.cast()))) })
        }

        #[inline(always)]
        unsafe fn load_u16(from: *const u16) -> Self {
            F64x4(unsafe { _mm256_cvtepi32_pd(_mm_cvtepu16_epi32(_mm_loadl_epi64(from.cast()))) })
        }

        #[inline(always)]
        unsafe fn load_i16(from: *const i16) -> Self {
            F64x4(unsafe { _mm256_cvtepi32_pd(_mm_cvtepi16_epi32(_mm_loadl_epi64(from.cast()))) })
        }

        #[inline(always)]
        unsafe fn load_i32(from: *const i32) -> Self {
            F64x4(unsafe { _mm256_cvtepi32_pd(_mm_loadu_si128(from.cast())) })
        }

        #[inline(always)]
        unsafe fn load_f32(from: *const f32) -> Self {
            F64x4(unsafe { _mm256_cvtps_pd(_mm_loadu_ps(from)) })
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut f64) {
            unsafe { _mm256_storeu_pd(to, self.0) }
        }

        #[inline(always)]
        unsafe fn splat(value: f64) -> Self {
            F64x4(unsafe { _mm256_set1_pd(value) })
        }

        #[inline(always)]
        unsafe fn add(self, other: Self) -> Self {
            F64x4(unsafe { _mm256_add_pd(self.0, other.0) })
        }

        #[inline(always)]
        unsafe fn mul(self, other: Self) -> Self {
            F64x4(unsafe { _mm256_mul_pd(self.0, other.0) })
        }

        #[inline(always)]
        unsafe fn prefetch(address: *const i8) {
            unsafe { _mm_prefetch::<_MM_HINT_T0>(address) }
        }

        #[inline(always)]
        unsafe fn cast_f32(self) -> [f32; 4] {
            unsafe { transmute(_mm256_cvtpd_ps(self.0)) }
        }

        #[inline(always)]
        unsafe fn cast_i32(self) -> [i32; 4] {
            unsafe { transmute(_mm256_cvttpd_epi32(self.0)) }
        }

        #[inline(always)]
        unsafe fn cast_i64(self) -> [i64; 4] {
            let lanes: [f64; 4] = unsafe { transmute(self.0) };
            map_lanes(lanes, cast_i64)
        }

        #[inline(always)]
        unsafe fn transpose([a, b, c, d]: [Self; 4]) -> [Self; 4] {
            unsafe {
                let (ab0, ab1) = (_mm256_unpacklo_pd(a.0, b.0), _mm256_unpackhi_pd(a.0, b.0));
                let (cd0, cd1) = (_mm256_unpacklo_pd(c.0, d.0), _mm256_unpackhi_pd(c.0, d.0));
                [
                    F64x4(_mm256_permute2f128_pd::<0x20>(ab0, cd0)),
                    F64x4(_mm256_permute2f128_pd::<0x20>(ab1, cd1)),
                    F64x4(_mm256_permute2f128_pd::<0x31>(ab0, cd0)),
                    F64x4(_mm256_permute2f128_pd::<0x31>(ab1, cd1)),
                ]
            }
        }
    }

    #[derive(Clone, Copy)]
    struct F64x8(__m512d);

    /// The even and the odd quarters of two registers side by side.
    ///
    /// # Safety
    /// The processor has AVX-512F.
    #[inline(always)]
    unsafe fn quarters(x: __m512d, y: __m512d) -> (__m512d, __m512d) {
        // SAFETY: the caller's processor has the instructions.
        unsafe {
            (
                _mm512_shuffle_f64x2::<0x88>(x, y),
                _mm512_shuffle_f64x2::<0xdd>(x, y),
            )
        }
    }

    // SAFETY (of every block below): the caller's processor has these parts of AVX-512, its pointers are
    // valid, and a register has the size of the array that it is taken for.
    #[allow(clippy::undocumented_unsafe_blocks)]
    impl Vector<8> for F64x8 {
        #[inline(always)]
        unsafe fn load(from: *const f64) -> Self {
            F64x8(unsafe { _mm512_loadu_pd(from) })
        }

        #[inline(always)]
        unsafe fn load_u8(from: *const u8) -> Self {
            F64x8(unsafe { _mm512_cvtepi64_pd(_mm512_cvtepu8_epi64(_mm_loadl_epi64(from.cast()))) })
        }

        #[inline(always)]
        unsafe fn load_i8(from: *const i8) -> Self {
            F64x8(unsafe { _mm512_cvtepi64_pd(_mm512_cvtepi8_epi64(_mm_loadl_epi64(from.cast()))) })
        }

        #[inline(always)]
        unsafe fn load_u16(from: *const u16) -> Self {
            F64x8(unsafe { _mm512_cvtepi64_pd(_mm512_cvtepu16_epi64(_mm_loadu_si128(from.cast()))) })
        }

        #[inline(always)]
        unsafe fn load_i16(from: *const i16) -> Self {
            F64x8(unsafe { _mm512_cvtepi64_pd(_mm512_cvtepi16_epi64(_mm_loadu_si128(from.cast()))) })
        }

        #[inline(always)]
        unsafe fn load_u32(from: *const u32) -> Self {
            F64x8(unsafe { _mm512_cvtepu32_pd(_mm256_loadu_si256(from.cast())) })
        }

        #[inline(always)]
        unsafe fn load_i32(from: *const i32) -> Self {
            F64x8(unsafe { _mm512_cvtepi32_pd(_mm256_loadu_si256(from.cast())) })
        }

        #[inline(always)]
        unsafe fn load_f32(from: *const f32) -> Self {
            F64x8(unsafe { _mm512_cvtps_pd(_mm256_loadu_ps(from)) })
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut f64) {
            unsafe { _mm512_storeu_pd(to, self.0) }
        }

        #[inline(always)]
        unsafe fn splat(value: f64) -> Self {
            F64x8(unsafe { _mm512_set1_pd(value) })
        }

        #[inline(always)]
        unsafe fn add(self, other: Self) -> Self {
            F64x8(unsafe { _mm512_add_pd(self.0, other.0) })
        }

        #[inline(always)]
        unsafe fn mul(self, other: Self) -> Self {
            F64x8(unsafe { _mm512_mul_pd(self.0, other.0) })
        }

        #[inline(always)]
        unsafe fn prefetch(address: *const i8) {
            unsafe { _mm_prefetch::<_MM_HINT_T0>(address) }
        }

        #[inline(always)]
        unsafe fn cast_f32(self) -> [f32; 8] {
            unsafe { transmute(_mm512_cvtpd_ps(self.0)) }
        }

        #[inline(always)]
        unsafe fn cast_i32(self) -> [i32; 8] {
            unsafe { transmute(_mm512_cvttpd_epi32(self.0)) }
        }

        #[inline(always)]
        unsafe fn cast_i16(self) -> [i16; 8] {
            unsafe { transmute(_mm256_cvtepi32_epi16(_mm512_cvttpd_epi32(self.0))) }
        }

        #[inline(always)]
        unsafe fn cast_i8(self) -> [i8; 8] {
            unsafe {
                transmute(_mm_cvtsi128_si64(_mm256_cvtepi32_epi8(_mm512_cvttpd_epi32(
                    self.0,
                ))))
            }
        }

        #[inline(always)]
        unsafe fn cast_i64(self) -> [i64; 8] {
            unsafe { transmute(_mm512_cvttpd_epi64(self.0)) }
        }

        #[inline(always)]
        unsafe fn transpose([a, b, c, d, e, f, g, h]: [Self; 8]) -> [Self; 8] {
            unsafe {
                // Pairs of rows interleaved: ab0 holds a0 b0 a2 b2 a4 b4 a6 b6, ab1 the odd ones.
                let (ab0, ab1) = (_mm512_unpacklo_pd(a.0, b.0), _mm512_unpackhi_pd(a.0, b.0));
                let (cd0, cd1) = (_mm512_unpacklo_pd(c.0, d.0), _mm512_unpackhi_pd(c.0, d.0));
                let (ef0, ef1) = (_mm512_unpacklo_pd(e.0, f.0), _mm512_unpackhi_pd(e.0, f.0));
                let (gh0, gh1) = (_mm512_unpacklo_pd(g.0, h.0), _mm512_unpackhi_pd(g.0, h.0));
                // Four rows: abcd0 holds a0 b0 a4 b4 c0 d0 c4 d4, abcd2 those of columns 2 and 6.
                let (abcd0, abcd2) = quarters(ab0, cd0);
                let (abcd1, abcd3) = quarters(ab1, cd1);
                let (efgh0, efgh2) = quarters(ef0, gh0);
                let (efgh1, efgh3) = quarters(ef1, gh1);
                let (column0, column4) = quarters(abcd0, efgh0);
                let (column1, column5) = quarters(abcd1, efgh1);
                let (column2, column6) = quarters(abcd2, efgh2);
                let (column3, column7) = quarters(abcd3, efgh3);
                [
                    F64x8(column0),
                    F64x8(column1),
                    F64x8(column2),
                    F64x8(column3),
                    F64x8(column4),
                    F64x8(column5),
                    F64x8(column6),
                    F64x8(column7),
                ]
            }
        }
    }
}
