//! Partial sums: what products over parts of k gave, added up.

use crate::Isa;
#[cfg(target_arch = "x86_64")]
use crate::vector::{Avx2, Avx512, Simd};
use std::ops::Range;

/// Adds partial sums, in their order, to rows of an output: `c[i * ld + j] += partials[0][i * n + j]`, then the next.
///
/// # Panics
/// If the processor lacks `isa`.
///
/// # Safety
/// `c` is writable and each partial readable for the rows, of `n` elements each; they do not overlap.
pub unsafe fn add_partials(isa: Isa, c: *mut f32, ld: isize, partials: &[*const f32], rows: Range<usize>, n: usize) {
    assert!(isa.is_available(), "this processor has no {}", isa.name());
    // SAFETY: passed on, and the processor has the instruction set.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => avx512(c, ld, partials, rows, n),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2(c, ld, partials, rows, n),
        }
    }
}

/// # Safety
/// As for [`add_partials`], and the processor has `S`.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn add<S: Simd>(c: *mut f32, ld: isize, partials: &[*const f32], rows: Range<usize>, n: usize) {
    let mut s = S::default();
    for i in rows {
        let row = c.wrapping_offset(i as isize * ld);
        let mut j = 0;
        // SAFETY: passed on.
        unsafe {
            while j + S::LANES <= n {
                let mut sum = S::load(row.add(j));
                for partial in partials {
                    sum = s.add(sum, S::load(partial.add(i * n + j)));
                }
                S::store(row.add(j), sum);
                j += S::LANES;
            }
            if j < n {
                let tail = S::tail(n - j);
                let mut sum = S::load_tail(row.add(j), tail);
                for partial in partials {
                    sum = s.add(sum, S::load_tail(partial.add(i * n + j), tail));
                }
                S::store_tail(row.add(j), sum, tail);
            }
        }
    }
}

/// # Safety
/// As for [`add_partials`], and the processor has AVX-512F.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn avx512(c: *mut f32, ld: isize, partials: &[*const f32], rows: Range<usize>, n: usize) {
    // SAFETY: passed on.
    unsafe { add::<Avx512>(c, ld, partials, rows, n) }
}

/// # Safety
/// As for [`add_partials`], and the processor has AVX2 and FMA.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2(c: *mut f32, ld: isize, partials: &[*const f32], rows: Range<usize>, n: usize) {
    // SAFETY: passed on.
    unsafe { add::<Avx2>(c, ld, partials, rows, n) }
}
