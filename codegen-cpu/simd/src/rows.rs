//! Transcendental functions over rows of f32.
//!
//! The arithmetic, the special cases and the error bounds are those of [`tinygpt_vloop::math`]. A row gives the
//! same bits whatever its length and alignment, and whether it is computed in place: each element is computed
//! alone, the last few under a mask.

use crate::{Isa, PlanError};

/// `dst[i] = f(src[i])` for `i < n`.
///
/// # Safety
/// `src` is readable and `dst` writable for `n` elements; they are equal or do not overlap. The processor has
/// the instruction set of the table that the function comes from.
pub type RowFn = unsafe extern "C" fn(src: *const f32, dst: *mut f32, n: usize);

/// The row functions of one instruction set.
#[derive(Clone, Copy, Debug)]
pub struct RowTable {
    pub exp: RowFn,
    pub log: RowFn,
    pub tanh: RowFn,
    pub erf: RowFn,
    pub sin: RowFn,
    pub cos: RowFn,
}

/// The row functions for `isa`.
///
/// # Errors
/// If the processor lacks the instruction set.
pub fn rows(isa: Isa) -> Result<RowTable, PlanError> {
    isa.check()?;
    Ok(match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => avx512::TABLE,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => avx2::TABLE,
    })
}

/// The row functions of one instruction set: names, then its vector type and features.
#[cfg(target_arch = "x86_64")]
macro_rules! table {
    ($module:ident, $simd:ident, $features:literal, $($name:ident)*) => {
        mod $module {
            use super::{RowTable};
            use crate::vector::{$simd as S, Simd};
            use tinygpt_vloop::math;

            pub(super) const TABLE: RowTable = RowTable { $($name),* };
            $(
                #[target_feature(enable = $features)]
                unsafe extern "C" fn $name(src: *const f32, dst: *mut f32, n: usize) {
                    let whole = n / S::LANES * S::LANES;
                    let mut i = 0;
                    while i < whole {
                        // SAFETY: i + LANES <= n, and the caller's pointers hold n elements.
                        unsafe {
                            let y = math::$name(&mut S, S::load(src.add(i)));
                            S::store(dst.add(i), y);
                        }
                        i += S::LANES;
                    }
                    if i < n {
                        let tail = S::tail(n - i);
                        // SAFETY: the tail names the n - i elements that are left.
                        unsafe {
                            let y = math::$name(&mut S, S::load_tail(src.add(i), tail));
                            S::store_tail(dst.add(i), y, tail);
                        }
                    }
                }
            )*
        }
    };
}

#[cfg(target_arch = "x86_64")]
table!(avx512, Avx512, "avx512f", exp log tanh erf sin cos);
#[cfg(target_arch = "x86_64")]
table!(avx2, Avx2, "avx2,fma", exp log tanh erf sin cos);
