//! The vectors of x86-64: eight numbers with AVX2, sixteen with AVX-512.

use std::arch::x86_64::*;

use super::super::exp32::{CUBIC, STEPS, STEPS_PER_E, TABLE, TO_WHOLE};
use super::{Singles, SinglesJob};

#[target_feature(enable = "avx2")]
pub(super) fn run_avx2(job: impl SinglesJob) {
    // SAFETY: this function is compiled for, and only called on, processors with AVX2.
    unsafe { job.run::<F32x8, 8>() }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn run_avx512(job: impl SinglesJob) {
    // SAFETY: this function is compiled for, and only called on, processors with these parts of AVX-512.
    unsafe { job.run::<F32x16, 16>() }
}

#[derive(Clone, Copy)]
struct F32x8(__m256);

/// The exponentials of four numbers.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn exp_4(x: __m128) -> __m128 {
    // SAFETY: the caller's processor has the instructions, and the table's places are below its length.
    unsafe {
        let scaled = _mm256_mul_pd(_mm256_set1_pd(STEPS_PER_E), _mm256_cvtps_pd(x));
        let shifted = _mm256_add_pd(scaled, _mm256_set1_pd(TO_WHOLE));
        let whole = _mm256_castpd_si256(shifted);
        let r = _mm256_sub_pd(scaled, _mm256_sub_pd(shifted, _mm256_set1_pd(TO_WHOLE)));
        let place = _mm256_and_si256(whole, _mm256_set1_epi64x(STEPS as i64 - 1));
        let table = _mm256_i64gather_epi64::<8>(TABLE.as_ptr().cast(), place);
        let power = _mm256_castsi256_pd(_mm256_add_epi64(table, _mm256_slli_epi64::<47>(whole)));
        let high = _mm256_add_pd(
            _mm256_mul_pd(_mm256_set1_pd(CUBIC[0]), r),
            _mm256_set1_pd(CUBIC[1]),
        );
        let low = _mm256_add_pd(_mm256_mul_pd(_mm256_set1_pd(CUBIC[2]), r), _mm256_set1_pd(1.0));
        let cubic = _mm256_add_pd(_mm256_mul_pd(high, _mm256_mul_pd(r, r)), low);
        _mm256_cvtpd_ps(_mm256_mul_pd(cubic, power))
    }
}

// SAFETY (of every block below): the caller's processor has AVX2, and its pointers are valid.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Singles<8> for F32x8 {
    type Mask = __m256;

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        F32x8(unsafe { _mm256_loadu_ps(from) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { _mm256_storeu_ps(to, self.0) }
    }

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        F32x8(unsafe { _mm256_set1_ps(value) })
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        F32x8(unsafe { _mm256_add_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        F32x8(unsafe { _mm256_sub_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        F32x8(unsafe { _mm256_mul_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        F32x8(unsafe { _mm256_div_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        F32x8(unsafe { _mm256_min_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        F32x8(unsafe { _mm256_max_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn abs(self) -> Self {
        F32x8(unsafe { _mm256_andnot_ps(_mm256_set1_ps(-0.0), self.0) })
    }

    #[inline(always)]
    unsafe fn exp_of_nonpositive(self) -> Self {
        unsafe {
            let low = exp_4(_mm256_castps256_ps128(self.0));
            let high = exp_4(_mm256_extractf128_ps::<1>(self.0));
            F32x8(_mm256_set_m128(high, low))
        }
    }

    #[inline(always)]
    unsafe fn lt(self, other: Self) -> __m256 {
        unsafe { _mm256_cmp_ps::<_CMP_LT_OQ>(self.0, other.0) }
    }

    #[inline(always)]
    unsafe fn le(self, other: Self) -> __m256 {
        unsafe { _mm256_cmp_ps::<_CMP_LE_OQ>(self.0, other.0) }
    }

    #[inline(always)]
    unsafe fn or_else(self, mask: __m256, other: Self) -> Self {
        F32x8(unsafe { _mm256_blendv_ps(other.0, self.0, mask) })
    }

    #[inline(always)]
    unsafe fn only(self, mask: __m256) -> Self {
        F32x8(unsafe { _mm256_and_ps(self.0, mask) })
    }

    #[inline(always)]
    unsafe fn first(count: usize) -> __m256 {
        unsafe {
            let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            let count = _mm256_set1_epi32(count.min(8) as i32);
            _mm256_castsi256_ps(_mm256_cmpgt_epi32(count, lanes))
        }
    }

    #[inline(always)]
    unsafe fn both(one: __m256, other: __m256) -> __m256 {
        unsafe { _mm256_and_ps(one, other) }
    }

    #[inline(always)]
    unsafe fn either(one: __m256, other: __m256) -> __m256 {
        unsafe { _mm256_or_ps(one, other) }
    }

    #[inline(always)]
    unsafe fn any(mask: __m256) -> bool {
        unsafe { _mm256_movemask_ps(mask) != 0 }
    }

    #[inline(always)]
    unsafe fn differ(one: __m256, other: __m256) -> bool {
        unsafe { _mm256_movemask_ps(one) != _mm256_movemask_ps(other) }
    }
}

#[derive(Clone, Copy)]
struct F32x16(__m512);

/// The exponentials of eight numbers.
///
/// # Safety
/// The processor has AVX-512F.
#[inline(always)]
unsafe fn exp_8(x: __m256) -> __m256 {
    // SAFETY: the caller's processor has the instructions, and the table fills four registers.
    unsafe {
        let scaled = _mm512_mul_pd(_mm512_set1_pd(STEPS_PER_E), _mm512_cvtps_pd(x));
        let shifted = _mm512_add_pd(scaled, _mm512_set1_pd(TO_WHOLE));
        let whole = _mm512_castpd_si512(shifted);
        let r = _mm512_sub_pd(scaled, _mm512_sub_pd(shifted, _mm512_set1_pd(TO_WHOLE)));
        let quarter = |number: usize| _mm512_loadu_si512(TABLE.as_ptr().add(8 * number).cast());
        let low = _mm512_permutex2var_epi64(quarter(0), whole, quarter(1));
        let high = _mm512_permutex2var_epi64(quarter(2), whole, quarter(3));
        let upper = _mm512_test_epi64_mask(whole, _mm512_set1_epi64(16));
        let table = _mm512_mask_mov_epi64(low, upper, high);
        let power = _mm512_castsi512_pd(_mm512_add_epi64(table, _mm512_slli_epi64::<47>(whole)));
        let high = _mm512_add_pd(
            _mm512_mul_pd(_mm512_set1_pd(CUBIC[0]), r),
            _mm512_set1_pd(CUBIC[1]),
        );
        let low = _mm512_add_pd(_mm512_mul_pd(_mm512_set1_pd(CUBIC[2]), r), _mm512_set1_pd(1.0));
        let cubic = _mm512_add_pd(_mm512_mul_pd(high, _mm512_mul_pd(r, r)), low);
        _mm512_cvtpd_ps(_mm512_mul_pd(cubic, power))
    }
}

// SAFETY (of every block below): the caller's processor has these parts of AVX-512, and its pointers are
// valid.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Singles<16> for F32x16 {
    type Mask = __mmask16;

    const COMPACTS: bool = true;

    #[inline(always)]
    unsafe fn compact(self, mask: __mmask16) -> Self {
        F32x16(unsafe { _mm512_maskz_compress_ps(mask, self.0) })
    }

    #[inline(always)]
    unsafe fn spread(self, mask: __mmask16) -> Self {
        F32x16(unsafe { _mm512_maskz_expand_ps(mask, self.0) })
    }

    #[inline(always)]
    unsafe fn count(mask: __mmask16) -> usize {
        mask.count_ones() as usize
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        F32x16(unsafe { _mm512_loadu_ps(from) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { _mm512_storeu_ps(to, self.0) }
    }

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        F32x16(unsafe { _mm512_set1_ps(value) })
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        F32x16(unsafe { _mm512_add_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        F32x16(unsafe { _mm512_sub_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        F32x16(unsafe { _mm512_mul_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        F32x16(unsafe { _mm512_div_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        F32x16(unsafe { _mm512_min_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        F32x16(unsafe { _mm512_max_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn abs(self) -> Self {
        F32x16(unsafe { _mm512_abs_ps(self.0) })
    }

    #[inline(always)]
    unsafe fn exp_of_nonpositive(self) -> Self {
        unsafe {
            let low = exp_8(_mm512_castps512_ps256(self.0));
            let high = exp_8(_mm512_extractf32x8_ps::<1>(self.0));
            F32x16(_mm512_insertf32x8::<1>(_mm512_castps256_ps512(low), high))
        }
    }

    #[inline(always)]
    unsafe fn lt(self, other: Self) -> __mmask16 {
        unsafe { _mm512_cmp_ps_mask::<_CMP_LT_OQ>(self.0, other.0) }
    }

    #[inline(always)]
    unsafe fn le(self, other: Self) -> __mmask16 {
        unsafe { _mm512_cmp_ps_mask::<_CMP_LE_OQ>(self.0, other.0) }
    }

    #[inline(always)]
    unsafe fn or_else(self, mask: __mmask16, other: Self) -> Self {
        F32x16(unsafe { _mm512_mask_blend_ps(mask, other.0, self.0) })
    }

    #[inline(always)]
    unsafe fn only(self, mask: __mmask16) -> Self {
        F32x16(unsafe { _mm512_maskz_mov_ps(mask, self.0) })
    }

    #[inline(always)]
    unsafe fn first(count: usize) -> __mmask16 {
        if count >= 16 { 0xffff } else { (1 << count) - 1 }
    }

    #[inline(always)]
    unsafe fn both(one: __mmask16, other: __mmask16) -> __mmask16 {
        one & other
    }

    #[inline(always)]
    unsafe fn either(one: __mmask16, other: __mmask16) -> __mmask16 {
        one | other
    }

    #[inline(always)]
    unsafe fn any(mask: __mmask16) -> bool {
        mask != 0
    }

    #[inline(always)]
    unsafe fn differ(one: __mmask16, other: __mmask16) -> bool {
        one != other
    }
}
