//! What both passes share: rows of an operand, panels, and the three kinds of small product.

use super::ahead::Ahead;
use super::{QUERY_BLOCK, Strides};
use crate::Axis;
use crate::gemm::kernel::{Call, Form, Kernels};
use crate::gemm::pack::{Operand, pack_panel};
use std::ops::Range;

/// One head of an operand: element `(i, c)` at `data[i * stride + c]`.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    pub data: *mut f32,
    pub stride: isize,
}

impl Rows {
    /// No rows.
    pub fn nowhere() -> Rows {
        Rows { data: std::ptr::null_mut(), stride: 0 }
    }

    /// The head at `offset` of an operand; null stays null.
    pub fn new(data: *const f32, offset: isize, strides: &Strides) -> Rows {
        let data = if data.is_null() { data } else { data.wrapping_offset(offset) };
        Rows { data: data.cast_mut(), stride: strides.position }
    }

    /// Whether there are rows to write.
    pub fn is_wanted(self) -> bool {
        !self.data.is_null()
    }

    /// Address of row `i`.
    #[inline(always)]
    pub fn row(self, i: usize) -> *mut f32 {
        self.data.wrapping_offset(i as isize * self.stride)
    }
}

/// The scores (or their gradients) of a block: key `j` and query `i`, from the block's first, at
/// `data[j * QUERY_BLOCK + i]`.
#[derive(Clone, Copy)]
pub(super) struct Scores {
    pub data: *mut f32,
    pub first_key: usize,
    pub first_query: usize,
}

impl Scores {
    /// Address of the score of key `j` and query `i`.
    #[inline(always)]
    pub fn at(self, j: usize, i: usize) -> *mut f32 {
        self.data.wrapping_add((j - self.first_key) * QUERY_BLOCK + i - self.first_query)
    }
}

/// Cuts positions at multiples of `S::COLS` and into nearly equal panels that a kernel has rows for.
#[inline(always)]
pub(super) fn panels<S: Kernels>(positions: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let mut start = positions.start;
    std::iter::from_fn(move || {
        if start >= positions.end {
            return None;
        }
        let end = positions.end.min((start / S::COLS + 1) * S::COLS);
        let count = (end - start).div_ceil(S::ROWS);
        let panel = start..start + (end - start).div_ceil(count);
        start = panel.end;
        Some(panel)
    })
}

/// Packs rows `rows` of an operand as columns: `(c, i)` at `packed[c * COLS + i]` of the panel of COLS rows that
/// row `i` lies in, one panel after another, with zeros behind the last row.
///
/// # Safety
/// The processor has `S`; the rows are readable; `packed` is writable for `QUERY_BLOCK * dim` elements.
#[inline(always)]
pub(super) unsafe fn pack_columns<S: Kernels>(from: Rows, rows: Range<usize>, dim: usize, packed: *mut f32) {
    let (k, w) = (Axis::strided(dim, 1), Axis::strided(rows.len(), from.stride));
    let mut start = 0;
    while start < rows.len() {
        let count = (rows.len() - start).min(S::COLS);
        // SAFETY: passed on.
        unsafe {
            let operand = Operand { data: from.row(rows.start), k: &k, w: &w };
            pack_panel::<S>(operand, (0, dim), (start, count), S::COLS, packed.add(start * dim));
        }
        start += S::COLS;
    }
}

/// scores(keys, queries) = A(keys, :) packed(:, queries), for the panels of queries that see a key of `keys`.
///
/// # Safety
/// The processor has `S`; `a` is readable; `packed` comes from [`pack_columns`] for the block's queries.
#[inline(always)]
pub(super) unsafe fn scores<S: Kernels>(
    to: Scores,
    a: Rows,
    packed: *const f32,
    (keys, queries): (Range<usize>, Range<usize>),
    dim: usize,
    causal: bool,
    ahead: &mut Ahead,
) {
    let mut first = queries.start;
    while first < queries.end {
        let keys = keys.start..visible::<S>(&keys, first, causal);
        for panel in panels::<S>(keys) {
            ahead.fetch::<S>();
            // SAFETY: passed on; whole vectors of scores are written, inside the block's row.
            unsafe {
                S::kernel(Form::ByRows, panel.len(), S::COLS)(&Call {
                    k: dim,
                    a: a.row(panel.start),
                    lda: a.stride,
                    b: packed.add((first - queries.start) * dim),
                    ldb: S::COLS as isize,
                    c: to.at(panel.start, first),
                    ldc: QUERY_BLOCK as isize,
                    cols: S::COLS,
                    accumulate: false,
                    addends: &[],
                    factor: None,
                    packed: std::ptr::null_mut(),
                });
            }
        }
        first += S::COLS;
    }
}

/// The end of the keys that some query of the panel at `query` sees.
#[inline(always)]
pub(super) fn visible<S: Kernels>(keys: &Range<usize>, query: usize, causal: bool) -> usize {
    if causal { keys.end.min(query + S::COLS).max(keys.start) } else { keys.end }
}

/// C(rows, :) (+)= A(rows, depth) B(depth, :), where A is a part of the scores: `a` its first element, found as
/// `form` says with a stride of QUERY_BLOCK.
///
/// # Safety
/// The processor has `S`; operands are readable, `c` writable; rows are at most a kernel's.
#[inline(always)]
pub(super) unsafe fn product<S: Kernels>(
    form: Form,
    a: *const f32,
    (b, depth): (Rows, Range<usize>),
    (c, rows): (Rows, Range<usize>),
    dim: usize,
    accumulate: bool,
    ahead: &mut Ahead,
) {
    let mut first = 0;
    while first < dim {
        ahead.fetch::<S>();
        let cols = (dim - first).min(S::COLS);
        // SAFETY: passed on.
        unsafe {
            S::kernel(form, rows.len(), cols)(&Call {
                k: depth.len(),
                a,
                lda: QUERY_BLOCK as isize,
                b: b.row(depth.start).add(first),
                ldb: b.stride,
                c: c.row(rows.start).add(first),
                ldc: c.stride,
                cols,
                accumulate,
                addends: &[],
                factor: None,
                packed: std::ptr::null_mut(),
            });
        }
        first += cols;
    }
}

/// Multiplies elements `0 .. len` at `row` by `factor`.
///
/// # Safety
/// The processor has `S`; the row is writable.
#[inline(always)]
pub(super) unsafe fn scale_row<S: Kernels>(row: *mut f32, factor: f32, len: usize) {
    let (mut s, factor) = (S::default(), S::set(factor));
    let mut i = 0;
    // SAFETY: passed on.
    unsafe {
        while i + S::LANES <= len {
            S::store(row.add(i), s.mul(S::load(row.add(i)), factor));
            i += S::LANES;
        }
        if i < len {
            let tail = S::tail(len - i);
            S::store_tail(row.add(i), s.mul(S::load_tail(row.add(i), tail), factor), tail);
        }
    }
}

/// The lanes of a vector of queries from `query` that do not see key `key`: its first ones.
#[inline(always)]
pub(super) fn unseeing<S: Kernels>(key: usize, query: usize) -> usize {
    key.saturating_sub(query).min(S::LANES)
}
