//! The microkernel: a few rows times a few vectors of columns, accumulators in registers.
//!
//! One function for each number of rows and vectors, so that edges waste nothing; on AVX-512 up to 14 rows by 2
//! vectors (28 accumulators, 2 vectors of B, 1 broadcast of A: 31 of 32 registers), on AVX2 6 by 2 (12 + 2 + 1
//! of 16).
//!
//! A panel is packed by the first call that needs it, from the operand where it lies: its loads and stores take slots that
//! multiply-adds leave free, and what the next rows wait for in the caches passes behind them.

use crate::vector::{Avx2, Avx512, Simd};

/// What one microkernel call computes: C[rows, cols] (+)= A[rows, k] B[k, cols].
#[derive(Clone, Copy)]
pub(crate) struct Call<'a> {
    pub k: usize,
    /// A[i, p] at `a[p * lda + i]` or, for kernels that read A by rows, at `a[i * lda + p]`.
    pub a: *const f32,
    pub lda: isize,
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
    /// What else is added, in this order: element (i, j) of each at `data[i * ld + j]`. One may be C itself.
    pub addends: &'a [(*const f32, isize)],
    /// What the sums are then multiplied by, if anything: element (i, j) at `data[i * ld + j]`.
    pub factor: Option<(*const f32, isize)>,
    /// Where a kernel that packs writes A[i, p] at `packed[p * rows + i]`, or B[p, j] at `packed[p * vectors * LANES + j]` with zeros behind
    /// the columns. Behind a packed A a vector is overwritten.
    pub packed: *mut f32,
}

/// How a kernel finds A, and what it packs on its way.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// A lies by columns, as packed.
    ByColumns,
    /// A lies by rows.
    ByRows,
    /// A lies by columns, and is packed.
    PackA,
    /// A lies by columns, and B is packed.
    PackB,
}

/// Rows of k that a packing kernel fetches ahead.
const AHEAD: isize = 16;

pub(crate) type Kernel = unsafe fn(&Call);

/// # Safety
/// The processor has the instruction set; the pointers hold what [`Call`] says, and with `!PARTIAL` so do they
/// for a whole last vector (`cols == NV * LANES`).
#[inline(always)]
unsafe fn multiply<S: Simd, const MR: usize, const NV: usize, const PARTIAL: bool, const FORM: u8>(call: &Call) {
    let tail = S::tail(if PARTIAL { call.cols - (NV - 1) * S::LANES } else { S::LANES });
    let mut acc = [[S::set(0.0); NV]; MR];
    let (mut a, mut b, mut packed) = (call.a, call.b, call.packed);
    let rows = S::tail(MR.min(S::LANES));
    // The rows of C arrive while the product is computed.
    for i in 0..MR {
        for line in 0..(NV * S::LANES).div_ceil(16) {
            S::prefetch(call.c.wrapping_offset(i as isize * call.ldc).wrapping_add(16 * line));
        }
    }
    // SAFETY: every access stays inside the panels, by the caller's contract.
    unsafe {
        for _ in 0..call.k {
            if FORM == Form::PackA as u8 {
                let later = a.wrapping_offset(AHEAD * call.lda);
                S::prefetch(later);
                S::prefetch(later.wrapping_add(MR - 1));
                S::store(packed, S::load_tail(a, rows));
                packed = packed.add(MR);
            }
            let mut columns = [S::set(0.0); NV];
            for (v, column) in columns.iter_mut().enumerate() {
                let from = b.add(v * S::LANES);
                *column = if PARTIAL && v == NV - 1 { S::load_tail(from, tail) } else { S::load(from) };
                if FORM == Form::PackB as u8 {
                    S::prefetch(from.wrapping_offset(AHEAD * call.ldb));
                    S::store(packed.add(v * S::LANES), *column);
                }
            }
            if FORM == Form::PackB as u8 {
                packed = packed.add(NV * S::LANES);
            }
            for (i, row) in acc.iter_mut().enumerate() {
                let at = if FORM == Form::ByRows as u8 { a.offset(i as isize * call.lda) } else { a.add(i) };
                let factor = S::set(*at);
                for (sum, column) in row.iter_mut().zip(columns) {
                    *sum = S::fma(factor, column, *sum);
                }
            }
            a = a.offset(if FORM == Form::ByRows as u8 { 1 } else { call.lda });
            b = b.offset(call.ldb);
        }
        let mut s = S::default();
        // Outermost, so that the accumulators stay in registers.
        for &(data, ld) in call.addends {
            for (i, row) in acc.iter_mut().enumerate() {
                for (v, sum) in row.iter_mut().enumerate() {
                    let from = data.offset(i as isize * ld).add(v * S::LANES);
                    let x = if PARTIAL && v == NV - 1 { S::load_tail(from, tail) } else { S::load(from) };
                    *sum = s.add(x, *sum);
                }
            }
        }
        if call.accumulate {
            for (i, row) in acc.iter_mut().enumerate() {
                for (v, sum) in row.iter_mut().enumerate() {
                    let from = call.c.offset(i as isize * call.ldc).add(v * S::LANES);
                    let x = if PARTIAL && v == NV - 1 { S::load_tail(from, tail) } else { S::load(from) };
                    *sum = s.add(x, *sum);
                }
            }
        }
        if let Some((data, ld)) = call.factor {
            for (i, row) in acc.iter_mut().enumerate() {
                for (v, sum) in row.iter_mut().enumerate() {
                    let from = data.offset(i as isize * ld).add(v * S::LANES);
                    let x = if PARTIAL && v == NV - 1 { S::load_tail(from, tail) } else { S::load(from) };
                    *sum = s.mul(x, *sum);
                }
            }
        }
        for (i, row) in acc.iter().enumerate() {
            let c = call.c.offset(i as isize * call.ldc);
            for (v, &sum) in row.iter().enumerate() {
                let to = c.add(v * S::LANES);
                if PARTIAL && v == NV - 1 {
                    S::store_tail(to, sum, tail);
                } else {
                    S::store(to, sum);
                }
            }
        }
    }
}

/// A module with the kernels of one instruction set, see [`Table`].
macro_rules! kernels {
    ($module:ident, $simd:ident, $features:literal, $($rows:literal)*) => {
        mod $module {
            use super::{Call, Form, $simd, Table, multiply};

            #[target_feature(enable = $features)]
            unsafe fn kernel<const MR: usize, const NV: usize, const PARTIAL: bool, const FORM: u8>(call: &Call) {
                // SAFETY: passed on.
                unsafe { multiply::<$simd, MR, NV, PARTIAL, FORM>(call) }
            }

            const fn table<const FORM: u8>() -> Table {
                &[$([
                    kernel::<$rows, 1, false, FORM>,
                    kernel::<$rows, 1, true, FORM>,
                    kernel::<$rows, 2, false, FORM>,
                    kernel::<$rows, 2, true, FORM>,
                ]),*]
            }

            pub(super) const TABLES: [Table; 4] = [
                table::<{ Form::ByColumns as u8 }>(),
                table::<{ Form::ByRows as u8 }>(),
                table::<{ Form::PackA as u8 }>(),
                table::<{ Form::PackB as u8 }>(),
            ];
        }
    };
}

kernels!(avx512, Avx512, "avx512f", 1 2 3 4 5 6 7 8 9 10 11 12 13 14);
kernels!(avx2, Avx2, "avx2,fma", 1 2 3 4 5 6);

/// Kernels at `[rows - 1][2 * (vectors - 1) + partial]`.
pub(crate) type Table = &'static [[Kernel; 4]];

/// The kernels of one instruction set.
pub(crate) trait Kernels: Simd {
    /// For each [`Form`], its kernels.
    const TABLES: [Table; 4];
    /// Rows of the largest kernel.
    const ROWS: usize = Self::TABLES[0].len();
    /// Columns of the largest kernel.
    const COLS: usize = 2 * Self::LANES;

    /// The kernel for `rows` from 1 to `ROWS` and `cols` from 1 to `COLS`.
    #[inline(always)]
    fn kernel(form: Form, rows: usize, cols: usize) -> Kernel {
        let vectors = cols.div_ceil(Self::LANES);
        Self::TABLES[form as usize][rows - 1][2 * (vectors - 1) + usize::from(cols != vectors * Self::LANES)]
    }
}

impl Kernels for Avx512 {
    const TABLES: [Table; 4] = avx512::TABLES;
}

impl Kernels for Avx2 {
    const TABLES: [Table; 4] = avx2::TABLES;
}
