//! The microkernel: a few rows times a few vectors of columns, accumulators in registers.
//!
//! One function for each number of rows and vectors, so that edges waste nothing; on AVX-512 up to 14 rows by 2
//! vectors (28 accumulators, 2 vectors of B, 1 broadcast of A: 31 of 32 registers), on AVX2 6 by 2 (12 + 2 + 1
//! of 16).

use crate::vector::{Avx2, Avx512, Simd};

/// What one microkernel call computes: C[rows, cols] (+)= A[rows, k] B[k, cols].
#[derive(Clone, Copy)]
pub(crate) struct Call {
    pub k: usize,
    /// A[i, p] at `a[p * rows + i]`: a packed panel.
    pub a: *const f32,
    /// B[p, j] at `b[p * ldb + j]`.
    pub b: *const f32,
    pub ldb: isize,
    /// C[i, j] at `c[i * ldc + j]`.
    pub c: *mut f32,
    pub ldc: isize,
    /// Columns; only the last vector may be partial.
    pub cols: usize,
    /// Whether the product adds to C, or replaces it.
    pub accumulate: bool,
}

pub(crate) type Kernel = unsafe fn(&Call);

/// # Safety
/// The processor has the instruction set; the pointers hold what [`Call`] says, and with `!PARTIAL` so do they
/// for a whole last vector (`cols == NV * LANES`).
#[inline(always)]
unsafe fn multiply<S: Simd, const MR: usize, const NV: usize, const PARTIAL: bool>(call: &Call) {
    let tail = S::tail(if PARTIAL { call.cols - (NV - 1) * S::LANES } else { S::LANES });
    let mut acc = [[S::set(0.0); NV]; MR];
    let (mut a, mut b) = (call.a, call.b);
    // SAFETY: every access stays inside the panels, by the caller's contract.
    unsafe {
        for _ in 0..call.k {
            let mut columns = [S::set(0.0); NV];
            for (v, column) in columns.iter_mut().enumerate() {
                let from = b.add(v * S::LANES);
                *column = if PARTIAL && v == NV - 1 { S::load_tail(from, tail) } else { S::load(from) };
            }
            for (i, row) in acc.iter_mut().enumerate() {
                let factor = S::set(*a.add(i));
                for (sum, column) in row.iter_mut().zip(columns) {
                    *sum = S::fma(factor, column, *sum);
                }
            }
            a = a.add(MR);
            b = b.offset(call.ldb);
        }
        let mut s = S::default();
        for (i, row) in acc.iter().enumerate() {
            let c = call.c.offset(i as isize * call.ldc);
            for (v, &sum) in row.iter().enumerate() {
                let to = c.add(v * S::LANES);
                if PARTIAL && v == NV - 1 {
                    let sum = if call.accumulate { s.add(S::load_tail(to, tail), sum) } else { sum };
                    S::store_tail(to, sum, tail);
                } else {
                    let sum = if call.accumulate { s.add(S::load(to), sum) } else { sum };
                    S::store(to, sum);
                }
            }
        }
    }
}

/// A module with a table of kernels, `KERNELS[rows - 1][2 * (vectors - 1) + partial]`.
macro_rules! kernels {
    ($module:ident, $simd:ident, $features:literal, $($rows:literal)*) => {
        mod $module {
            use super::{Call, Kernel, $simd, multiply};

            #[target_feature(enable = $features)]
            unsafe fn kernel<const MR: usize, const NV: usize, const PARTIAL: bool>(call: &Call) {
                // SAFETY: passed on.
                unsafe { multiply::<$simd, MR, NV, PARTIAL>(call) }
            }

            pub(super) const KERNELS: &[[Kernel; 4]] = &[$([
                kernel::<$rows, 1, false>,
                kernel::<$rows, 1, true>,
                kernel::<$rows, 2, false>,
                kernel::<$rows, 2, true>,
            ]),*];
        }
    };
}

kernels!(avx512, Avx512, "avx512f", 1 2 3 4 5 6 7 8 9 10 11 12 13 14);
kernels!(avx2, Avx2, "avx2,fma", 1 2 3 4 5 6);

/// The kernels of one instruction set.
pub(crate) trait Kernels: Simd {
    const KERNELS: &'static [[Kernel; 4]];

    /// The kernel for `rows` rows and `cols` columns, both from 1 to the tile's size.
    #[inline(always)]
    fn kernel(rows: usize, cols: usize) -> Kernel {
        let vectors = cols.div_ceil(Self::LANES);
        Self::KERNELS[rows - 1][2 * (vectors - 1) + usize::from(cols != vectors * Self::LANES)]
    }
}

impl Kernels for Avx512 {
    const KERNELS: &'static [[Kernel; 4]] = avx512::KERNELS;
}

impl Kernels for Avx2 {
    const KERNELS: &'static [[Kernel; 4]] = avx2::KERNELS;
}
