//! Packing: any operand, whatever its layout, becomes panels that the microkernel reads front to back.

use crate::Axis;
use crate::vector::{MAX_LANES, Simd};

/// One operand of one term, seen as k by w: element (p, i) at `data[k.offset(p) + w.offset(i)]`.
#[derive(Clone, Copy)]
pub(crate) struct Operand<'a> {
    pub data: *const f32,
    pub k: &'a Axis,
    pub w: &'a Axis,
}

/// Writes elements `k0 .. k1` by `w0 .. w0 + count` to `panel[(p - k0) * width + i - w0]`, and zeros from
/// `count` to `width`, rounded up to vectors.
///
/// # Safety
/// The processor has the instruction set. The operand is readable at the offsets named. `panel` is writable for
/// `(k1 - k0) * width + LANES` elements; what lies behind the panel is overwritten where `width` is no multiple of
/// `LANES` (then it must be less), so that panels are written front to back.
#[inline(always)]
pub(crate) unsafe fn pack_panel<S: Simd>(
    operand: Operand,
    (k0, k1): (usize, usize),
    (w0, count): (usize, usize),
    width: usize,
    panel: *mut f32,
) {
    let Operand { data, k, w } = operand;
    let mut start = 0;
    while start < width {
        let lanes = count.saturating_sub(start).min(S::LANES);
        // SAFETY: passed on: the vector of columns that starts at `start`.
        unsafe {
            let panel = panel.add(start);
            if w.is_contiguous(w0 + start, lanes) {
                copy_rows::<S>(data.offset(first(w, w0 + start, lanes)), k, (k0, k1), lanes, width, panel);
            } else {
                transpose_columns::<S>(operand, (k0, k1), (w0 + start, lanes), width, panel);
            }
        }
        start += S::LANES;
    }
}

/// One of several panels of an operand that are packed together: elements `first .. first + count` of w, packed at
/// `to` with a width of `width`, at most two vectors.
#[derive(Clone, Copy)]
pub(crate) struct Part {
    pub first: usize,
    pub count: usize,
    pub width: usize,
    pub to: *mut f32,
}

/// Rows that are fetched ahead of their copying: a step from row to row is too long for the processor to guess.
const AHEAD: usize = 8;

/// Packs elements `k0 .. k1` of adjoining panels. Where w is contiguous, all panels' elements of one k are copied
/// together: they share cache lines and pages.
///
/// # Safety
/// As for [`pack_panel`] with each part; at least a vector lies between one part's end and another's begin.
#[inline(always)]
pub(crate) unsafe fn pack_panels<S: Simd>(operand: Operand, (k0, k1): (usize, usize), parts: &[Part]) {
    let Some(&Part { first, .. }) = parts.first() else { return };
    let count = parts.iter().map(|part| part.count).sum();
    if operand.w.is_contiguous(first, count) {
        // SAFETY: passed on.
        unsafe {
            let data = operand.data.offset(operand.w.offset(first));
            for p in k0..k1 {
                let row = data.offset(operand.k.offset(p));
                let later = data.wrapping_offset(operand.k.offset((p + AHEAD).min(k1 - 1)));
                for line in 0..count.div_ceil(16) {
                    S::prefetch(later.wrapping_add(16 * line));
                }
                for part in parts {
                    let (from, to) = (row.add(part.first - first), part.to.add((p - k0) * part.width));
                    let mut start = 0;
                    while start + S::LANES <= part.count {
                        S::store(to.add(start), S::load(from.add(start)));
                        start += S::LANES;
                    }
                    if start < part.count {
                        S::store(to.add(start), S::load_tail(from.add(start), S::tail(part.count - start)));
                        start += S::LANES;
                    }
                    debug_assert!(start >= part.width);
                }
            }
        }
    } else {
        for part in parts {
            // SAFETY: passed on.
            unsafe { pack_panel::<S>(operand, (k0, k1), (part.first, part.count), part.width, part.to) };
        }
    }
}

/// The offset of the first of `count` elements, 0 if there are none.
#[inline(always)]
fn first(axis: &Axis, start: usize, count: usize) -> isize {
    if count == 0 { 0 } else { axis.offset(start) }
}

/// One vector of columns whose elements lie side by side.
///
/// # Safety
/// As for [`pack_panel`].
#[inline(always)]
unsafe fn copy_rows<S: Simd>(
    data: *const f32,
    k: &Axis,
    (k0, k1): (usize, usize),
    lanes: usize,
    width: usize,
    panel: *mut f32,
) {
    let tail = S::tail(lanes);
    let mut to = panel;
    // SAFETY: passed on.
    unsafe {
        if lanes == S::LANES {
            for p in k0..k1 {
                S::store(to, S::load(data.offset(k.offset(p))));
                to = to.add(width);
            }
        } else {
            for p in k0..k1 {
                S::store(to, S::load_tail(data.offset(k.offset(p)), tail));
                to = to.add(width);
            }
        }
    }
}

/// One vector of columns in a square block of k at a time: transposed in registers where k is contiguous,
/// gathered one by one elsewhere.
///
/// # Safety
/// As for [`pack_panel`].
#[inline(always)]
unsafe fn transpose_columns<S: Simd>(
    Operand { data, k, w }: Operand,
    (k0, k1): (usize, usize),
    (w0, lanes): (usize, usize),
    width: usize,
    panel: *mut f32,
) {
    let mut columns = [data; MAX_LANES];
    for (i, column) in columns.iter_mut().enumerate().take(lanes) {
        *column = data.wrapping_offset(w.offset(w0 + i));
    }
    let mut p = k0;
    let mut to = panel;
    while p < k1 {
        let depth = (k1 - p).min(S::LANES);
        let mut block = [S::set(0.0); MAX_LANES];
        // SAFETY: passed on; gathers stay inside `gathered`.
        unsafe {
            if k.is_contiguous(p, depth) {
                let at = k.offset(p);
                let tail = S::tail(depth);
                if lanes == S::LANES && depth == S::LANES {
                    for i in 0..S::LANES {
                        block[i] = S::load(columns[i].offset(at));
                    }
                } else {
                    for i in 0..S::LANES {
                        if i < lanes {
                            block[i] = S::load_tail(columns[i].offset(at), tail);
                        }
                    }
                }
                S::transpose(&mut block);
            } else {
                for (q, row) in block.iter_mut().enumerate().take(depth) {
                    let at = k.offset(p + q);
                    let mut gathered = [0.0f32; MAX_LANES];
                    for i in 0..lanes {
                        gathered[i] = *columns[i].offset(at);
                    }
                    *row = S::load(gathered.as_ptr());
                }
            }
            if depth == S::LANES {
                for &row in &block[..S::LANES] {
                    S::store(to, row);
                    to = to.add(width);
                }
            } else {
                for &row in &block[..depth] {
                    S::store(to, row);
                    to = to.add(width);
                }
            }
        }
        p += depth;
    }
}
