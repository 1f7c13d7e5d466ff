//! Sixteen lanes: AVX-512F.

use super::{MAX_LANES, Simd};
use std::arch::x86_64::*;
use tinygpt_vloop::math::Lanes;

#[derive(Clone, Copy, Default)]
pub(crate) struct Avx512;

// Every method's SAFETY: callers run only where the processor has AVX-512F (see `Simd`).
macro_rules! op {
    ($($body:tt)*) => {
        // SAFETY: the processor has AVX-512F, by the contract of `Simd`; pointers by the caller's.
        unsafe { $($body)* }
    };
}

impl Lanes for Avx512 {
    type F = __m512;
    type I = __m512i;
    type M = __mmask16;

    #[inline(always)]
    fn splat(&mut self, x: f32) -> __m512 {
        op!(_mm512_set1_ps(x))
    }
    #[inline(always)]
    fn splat_i32(&mut self, x: i32) -> __m512i {
        op!(_mm512_set1_epi32(x))
    }
    #[inline(always)]
    fn add(&mut self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(&mut self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(&mut self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_mul_ps(a, b))
    }
    #[inline(always)]
    fn div(&mut self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_div_ps(a, b))
    }
    #[inline(always)]
    fn mul_add(&mut self, a: __m512, b: __m512, c: __m512) -> __m512 {
        op!(_mm512_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn neg(&mut self, a: __m512) -> __m512 {
        op!(_mm512_castsi512_ps(_mm512_xor_si512(_mm512_castps_si512(a), _mm512_set1_epi32(i32::MIN))))
    }
    #[inline(always)]
    fn abs(&mut self, a: __m512) -> __m512 {
        op!(_mm512_abs_ps(a))
    }
    #[inline(always)]
    fn min(&mut self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_min_ps(a, b))
    }
    #[inline(always)]
    fn max(&mut self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_max_ps(a, b))
    }
    #[inline(always)]
    fn round(&mut self, a: __m512) -> __m512 {
        op!(_mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a))
    }
    #[inline(always)]
    fn lt(&mut self, a: __m512, b: __m512) -> __mmask16 {
        op!(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b))
    }
    #[inline(always)]
    fn eq(&mut self, a: __m512, b: __m512) -> __mmask16 {
        op!(_mm512_cmp_ps_mask::<_CMP_EQ_OQ>(a, b))
    }
    #[inline(always)]
    fn select(&mut self, m: __mmask16, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_mask_blend_ps(m, b, a))
    }
    #[inline(always)]
    fn to_i32(&mut self, a: __m512) -> __m512i {
        op!(_mm512_cvtps_epi32(a))
    }
    #[inline(always)]
    fn to_f32(&mut self, a: __m512i) -> __m512 {
        op!(_mm512_cvtepi32_ps(a))
    }
    #[inline(always)]
    fn add_i32(&mut self, a: __m512i, b: __m512i) -> __m512i {
        op!(_mm512_add_epi32(a, b))
    }
    #[inline(always)]
    fn and_i32(&mut self, a: __m512i, b: __m512i) -> __m512i {
        op!(_mm512_and_si512(a, b))
    }
    #[inline(always)]
    fn shl_i32(&mut self, a: __m512i, bits: u32) -> __m512i {
        op!(_mm512_sll_epi32(a, _mm_cvtsi32_si128(bits as i32)))
    }
    #[inline(always)]
    fn shr_i32(&mut self, a: __m512i, bits: u32) -> __m512i {
        op!(_mm512_sra_epi32(a, _mm_cvtsi32_si128(bits as i32)))
    }
    #[inline(always)]
    fn f32_to_bits(&mut self, a: __m512) -> __m512i {
        op!(_mm512_castps_si512(a))
    }
    #[inline(always)]
    fn bits_to_f32(&mut self, a: __m512i) -> __m512 {
        op!(_mm512_castsi512_ps(a))
    }
    #[inline(always)]
    fn scale_by_power(&mut self, a: __m512, n: __m512) -> __m512 {
        op!(_mm512_scalef_ps(a, n))
    }
    #[inline(always)]
    fn is_zero_i32(&mut self, a: __m512i) -> __mmask16 {
        op!(_mm512_testn_epi32_mask(a, a))
    }
}

impl Simd for Avx512 {
    const LANES: usize = 16;
    type Tail = __mmask16;

    #[inline(always)]
    fn tail(count: usize) -> __mmask16 {
        ((1u32 << count) - 1) as __mmask16
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m512 {
        op!(_mm512_loadu_ps(from))
    }
    #[inline(always)]
    unsafe fn load_tail(from: *const f32, tail: __mmask16) -> __m512 {
        op!(_mm512_maskz_loadu_ps(tail, from))
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, v: __m512) {
        op!(_mm512_storeu_ps(to, v))
    }
    #[inline(always)]
    unsafe fn store_tail(to: *mut f32, v: __m512, tail: __mmask16) {
        op!(_mm512_mask_storeu_ps(to, tail, v))
    }
    #[inline(always)]
    fn prefetch(at: *const f32) {
        op!(_mm_prefetch::<_MM_HINT_T0>(at.cast()))
    }
    #[inline(always)]
    fn keep_tail(x: __m512, other: __m512, tail: __mmask16) -> __m512 {
        op!(_mm512_mask_blend_ps(tail, other, x))
    }
    #[inline(always)]
    fn set(x: f32) -> __m512 {
        op!(_mm512_set1_ps(x))
    }
    #[inline(always)]
    fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        op!(_mm512_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn sum(v: __m512) -> f32 {
        op!(_mm512_reduce_add_ps(v))
    }

    #[inline(always)]
    fn transpose(rows: &mut [__m512; MAX_LANES]) {
        // SAFETY: the processor has AVX-512F, by the contract of `Simd`.
        unsafe {
            let mut t = *rows;
            for i in (0..16).step_by(2) {
                t[i] = _mm512_unpacklo_ps(rows[i], rows[i + 1]);
                t[i + 1] = _mm512_unpackhi_ps(rows[i], rows[i + 1]);
            }
            // quad[4 q + j], 128-bit lane l: column 4 l + j of rows 4 q .. 4 q + 4.
            let mut quad = t;
            for i in (0..16).step_by(4) {
                for half in 0..2 {
                    let (a, b) = (_mm512_castps_pd(t[i + half]), _mm512_castps_pd(t[i + half + 2]));
                    quad[i + 2 * half] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
                    quad[i + 2 * half + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
                }
            }
            for j in 0..4 {
                let even_low = _mm512_shuffle_f32x4::<0x88>(quad[j], quad[4 + j]);
                let odd_low = _mm512_shuffle_f32x4::<0xdd>(quad[j], quad[4 + j]);
                let even_high = _mm512_shuffle_f32x4::<0x88>(quad[8 + j], quad[12 + j]);
                let odd_high = _mm512_shuffle_f32x4::<0xdd>(quad[8 + j], quad[12 + j]);
                rows[j] = _mm512_shuffle_f32x4::<0x88>(even_low, even_high);
                rows[4 + j] = _mm512_shuffle_f32x4::<0x88>(odd_low, odd_high);
                rows[8 + j] = _mm512_shuffle_f32x4::<0xdd>(even_low, even_high);
                rows[12 + j] = _mm512_shuffle_f32x4::<0xdd>(odd_low, odd_high);
            }
        }
    }
}
