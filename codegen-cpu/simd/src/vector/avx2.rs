//! Eight lanes: AVX2 and FMA.

use super::{MAX_LANES, Simd};
use std::arch::x86_64::*;
use tinygpt_vloop::math::Lanes;

#[derive(Clone, Copy, Default)]
pub(crate) struct Avx2;

macro_rules! op {
    ($($body:tt)*) => {
        // SAFETY: the processor has AVX2 and FMA, by the contract of `Simd`; pointers by the caller's.
        unsafe { $($body)* }
    };
}

impl Lanes for Avx2 {
    type F = __m256;
    type I = __m256i;
    type M = __m256;

    #[inline(always)]
    fn splat(&mut self, x: f32) -> __m256 {
        op!(_mm256_set1_ps(x))
    }
    #[inline(always)]
    fn splat_i32(&mut self, x: i32) -> __m256i {
        op!(_mm256_set1_epi32(x))
    }
    #[inline(always)]
    fn add(&mut self, a: __m256, b: __m256) -> __m256 {
        op!(_mm256_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(&mut self, a: __m256, b: __m256) -> __m256 {
        op!(_mm256_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(&mut self, a: __m256, b: __m256) -> __m256 {
        op!(_mm256_mul_ps(a, b))
    }
    #[inline(always)]
    fn div(&mut self, a: __m256, b: __m256) -> __m256 {
        op!(_mm256_div_ps(a, b))
    }
    #[inline(always)]
    fn mul_add(&mut self, a: __m256, b: __m256, c: __m256) -> __m256 {
        op!(_mm256_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn neg(&mut self, a: __m256) -> __m256 {
        op!(_mm256_xor_ps(a, _mm256_set1_ps(-0.0)))
    }
    #[inline(always)]
    fn abs(&mut self, a: __m256) -> __m256 {
        op!(_mm256_andnot_ps(_mm256_set1_ps(-0.0), a))
    }
    #[inline(always)]
    fn min(&mut self, a: __m256, b: __m256) -> __m256 {
        op!(_mm256_min_ps(a, b))
    }
    #[inline(always)]
    fn max(&mut self, a: __m256, b: __m256) -> __m256 {
        op!(_mm256_max_ps(a, b))
    }
    #[inline(always)]
    fn round(&mut self, a: __m256) -> __m256 {
        op!(_mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a))
    }
    #[inline(always)]
    fn lt(&mut self, a: __m256, b: __m256) -> __m256 {
        op!(_mm256_cmp_ps::<_CMP_LT_OQ>(a, b))
    }
    #[inline(always)]
    fn eq(&mut self, a: __m256, b: __m256) -> __m256 {
        op!(_mm256_cmp_ps::<_CMP_EQ_OQ>(a, b))
    }
    #[inline(always)]
    fn select(&mut self, m: __m256, a: __m256, b: __m256) -> __m256 {
        op!(_mm256_blendv_ps(b, a, m))
    }
    #[inline(always)]
    fn to_i32(&mut self, a: __m256) -> __m256i {
        op!(_mm256_cvtps_epi32(a))
    }
    #[inline(always)]
    fn to_f32(&mut self, a: __m256i) -> __m256 {
        op!(_mm256_cvtepi32_ps(a))
    }
    #[inline(always)]
    fn add_i32(&mut self, a: __m256i, b: __m256i) -> __m256i {
        op!(_mm256_add_epi32(a, b))
    }
    #[inline(always)]
    fn and_i32(&mut self, a: __m256i, b: __m256i) -> __m256i {
        op!(_mm256_and_si256(a, b))
    }
    #[inline(always)]
    fn shl_i32(&mut self, a: __m256i, bits: u32) -> __m256i {
        op!(_mm256_sll_epi32(a, _mm_cvtsi32_si128(bits as i32)))
    }
    #[inline(always)]
    fn shr_i32(&mut self, a: __m256i, bits: u32) -> __m256i {
        op!(_mm256_sra_epi32(a, _mm_cvtsi32_si128(bits as i32)))
    }
    #[inline(always)]
    fn f32_to_bits(&mut self, a: __m256) -> __m256i {
        op!(_mm256_castps_si256(a))
    }
    #[inline(always)]
    fn bits_to_f32(&mut self, a: __m256i) -> __m256 {
        op!(_mm256_castsi256_ps(a))
    }
    #[inline(always)]
    fn is_zero_i32(&mut self, a: __m256i) -> __m256 {
        op!(_mm256_castsi256_ps(_mm256_cmpeq_epi32(a, _mm256_setzero_si256())))
    }
}

impl Simd for Avx2 {
    const LANES: usize = 8;
    type Tail = __m256i;

    #[inline(always)]
    fn tail(count: usize) -> __m256i {
        op!(_mm256_cmpgt_epi32(_mm256_set1_epi32(count as i32), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)))
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m256 {
        op!(_mm256_loadu_ps(from))
    }
    #[inline(always)]
    unsafe fn load_tail(from: *const f32, tail: __m256i) -> __m256 {
        op!(_mm256_maskload_ps(from, tail))
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, v: __m256) {
        op!(_mm256_storeu_ps(to, v))
    }
    #[inline(always)]
    unsafe fn store_tail(to: *mut f32, v: __m256, tail: __m256i) {
        op!(_mm256_maskstore_ps(to, tail, v))
    }
    #[inline(always)]
    fn prefetch(at: *const f32) {
        op!(_mm_prefetch::<_MM_HINT_T0>(at.cast()))
    }
    #[inline(always)]
    fn keep_tail(x: __m256, other: __m256, tail: __m256i) -> __m256 {
        op!(_mm256_blendv_ps(other, x, _mm256_castsi256_ps(tail)))
    }
    #[inline(always)]
    fn set(x: f32) -> __m256 {
        op!(_mm256_set1_ps(x))
    }
    #[inline(always)]
    fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
        op!(_mm256_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn sum(v: __m256) -> f32 {
        // SAFETY: the processor has AVX2, by the contract of `Simd`.
        unsafe {
            let half = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let quarter = _mm_add_ps(half, _mm_movehl_ps(half, half));
            _mm_cvtss_f32(_mm_add_ss(quarter, _mm_movehdup_ps(quarter)))
        }
    }
    #[inline(always)]
    fn transpose(rows: &mut [__m256; MAX_LANES]) {
        // SAFETY: the processor has AVX2, by the contract of `Simd`.
        unsafe {
            let mut t = *rows;
            for i in (0..8).step_by(2) {
                t[i] = _mm256_unpacklo_ps(rows[i], rows[i + 1]);
                t[i + 1] = _mm256_unpackhi_ps(rows[i], rows[i + 1]);
            }
            // quad[4 q + j], 128-bit lane l: column 4 l + j of rows 4 q .. 4 q + 4.
            let mut quad = t;
            for i in (0..8).step_by(4) {
                for half in 0..2 {
                    let (a, b) = (_mm256_castps_pd(t[i + half]), _mm256_castps_pd(t[i + half + 2]));
                    quad[i + 2 * half] = _mm256_castpd_ps(_mm256_unpacklo_pd(a, b));
                    quad[i + 2 * half + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(a, b));
                }
            }
            for j in 0..4 {
                rows[j] = _mm256_permute2f128_ps::<0x20>(quad[j], quad[4 + j]);
                rows[4 + j] = _mm256_permute2f128_ps::<0x31>(quad[j], quad[4 + j]);
            }
        }
    }
}
