//! The vectors of doubles of x86-64: four numbers with AVX2, eight with AVX-512.

use std::arch::x86_64::*;
use std::mem::transmute;

use super::{ERRORS, Job, POWERS, STEPS, Vector, cast_i64, map_lanes};

#[target_feature(enable = "avx2,fma")]
pub(in crate::filter) fn run_avx2(job: impl Job) {
    // SAFETY: this function is compiled for, and only called on, processors with AVX2 and FMA.
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
    unsafe fn sub(self, other: Self) -> Self {
        F64x4(unsafe { _mm256_sub_pd(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        F64x4(unsafe { _mm256_div_pd(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn sqrt(self) -> Self {
        F64x4(unsafe { _mm256_sqrt_pd(self.0) })
    }

    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, term: Self) -> Self {
        F64x4(unsafe { _mm256_fmadd_pd(self.0, factor.0, term.0) })
    }

    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        F64x4(unsafe { _mm256_min_pd(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn only_where_le(self, a: Self, b: Self) -> Self {
        F64x4(unsafe { _mm256_and_pd(self.0, _mm256_cmp_pd::<_CMP_LE_OQ>(a.0, b.0)) })
    }

    #[inline(always)]
    unsafe fn any_lt(self, other: Self) -> bool {
        unsafe { _mm256_movemask_pd(_mm256_cmp_pd::<_CMP_LT_OQ>(self.0, other.0)) != 0 }
    }

    #[inline(always)]
    unsafe fn power(whole: Self) -> (Self, Self) {
        unsafe {
            let whole = _mm256_castpd_si256(whole.0);
            let place = _mm256_and_si256(whole, _mm256_set1_epi64x(STEPS as i64 - 1));
            let power = _mm256_add_epi64(
                _mm256_i64gather_epi64::<8>(POWERS.as_ptr().cast(), place),
                _mm256_slli_epi64::<45>(whole),
            );
            let error = _mm256_i64gather_epi64::<8>(ERRORS.as_ptr().cast(), place);
            (
                F64x4(_mm256_castsi256_pd(power)),
                F64x4(_mm256_castsi256_pd(error)),
            )
        }
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
    unsafe fn sub(self, other: Self) -> Self {
        F64x8(unsafe { _mm512_sub_pd(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        F64x8(unsafe { _mm512_div_pd(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn sqrt(self) -> Self {
        F64x8(unsafe { _mm512_sqrt_pd(self.0) })
    }

    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, term: Self) -> Self {
        F64x8(unsafe { _mm512_fmadd_pd(self.0, factor.0, term.0) })
    }

    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        F64x8(unsafe { _mm512_min_pd(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn only_where_le(self, a: Self, b: Self) -> Self {
        F64x8(unsafe { _mm512_maskz_mov_pd(_mm512_cmp_pd_mask::<_CMP_LE_OQ>(a.0, b.0), self.0) })
    }

    #[inline(always)]
    unsafe fn any_lt(self, other: Self) -> bool {
        unsafe { _mm512_cmp_pd_mask::<_CMP_LT_OQ>(self.0, other.0) != 0 }
    }

    #[inline(always)]
    unsafe fn power(whole: Self) -> (Self, Self) {
        unsafe {
            let whole = _mm512_castpd_si512(whole.0);
            let place = _mm512_and_si512(whole, _mm512_set1_epi64(STEPS as i64 - 1));
            let power = _mm512_add_epi64(
                _mm512_i64gather_epi64::<8>(place, POWERS.as_ptr().cast()),
                _mm512_slli_epi64::<45>(whole),
            );
            let error = _mm512_i64gather_epi64::<8>(place, ERRORS.as_ptr().cast());
            (
                F64x8(_mm512_castsi512_pd(power)),
                F64x8(_mm512_castsi512_pd(error)),
            )
        }
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
