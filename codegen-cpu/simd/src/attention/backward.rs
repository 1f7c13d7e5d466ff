//! The backward pass. With P the probabilities and dO the gradient of the output, for every head:
//!
//! - dV = P^T dO, dP = dO V^T, D_i = sum over c of dO_ic O_ic
//! - dS = scale P (dP - D), dQ = dS K, dK = dS^T Q
//!
//! P is recomputed block by block as e^(score - lse). dK and dV gather block after block of queries, dQ block after
//! block of keys, always in the same order.

use super::ahead::Ahead;
use super::block::{Rows, Scores, pack_columns, panels, product, scale_row, scores, unseeing, visible};
use super::{AttentionShape, Backward, KEY_BLOCK, QUERY_BLOCK, Strides, Task};
use crate::gemm::kernel::{Form, Kernels};
use crate::vector::{Avx2, Avx512};
use std::ops::Range;
use tinygpt_vloop::math;

/// # Safety
/// As for `AttentionPlan::backward`, and the processor has `S`.
#[inline(always)]
unsafe fn backward<S: Kernels>(shape: &AttentionShape, task: &Task, operands: &Backward, scratch: *mut f32) {
    let dim = shape.head_dim;
    for head in task.heads.clone() {
        let here = Head::new(shape, operands, head);
        let Head { q, k, v, out, dout, dq, dk, dv } = here;
        if shape.q_len == 0 {
            for gradient in [dk, dv] {
                for j in 0..if gradient.is_wanted() { shape.k_len } else { 0 } {
                    // SAFETY: the row belongs to this task.
                    unsafe { gradient.row(j).write_bytes(0, dim) };
                }
            }
        }
        let mut first = 0;
        while first < shape.q_len {
            let queries = first..(first + QUERY_BLOCK).min(shape.q_len);
            let mut ahead = Ahead::new(dim);
            if queries.end < shape.q_len {
                here.block(shape, queries.end, &mut ahead);
            } else if head + 1 < shape.batch * shape.heads {
                // Most often the next head is this worker's too.
                Head::new(shape, operands, head + 1).block(shape, 0, &mut ahead);
            }
            // SAFETY: scratch holds the parts one after another, see `scratch_len`; operands by the caller.
            unsafe {
                let packed_q = scratch;
                let packed_dout = packed_q.add(QUERY_BLOCK * dim);
                let lse = packed_dout.add(QUERY_BLOCK * dim);
                let dots = lse.add(QUERY_BLOCK);
                let p_data = dots.add(2 * QUERY_BLOCK);
                let ds_data = p_data.add(QUERY_BLOCK * KEY_BLOCK.min(shape.k_len.next_multiple_of(QUERY_BLOCK)));
                let score_gradients = dq.is_wanted() || dk.is_wanted();
                pack_columns::<S>(q, queries.clone(), dim, packed_q);
                scale_row::<S>(packed_q, shape.scale, queries.len().next_multiple_of(S::COLS) * dim);
                if score_gradients {
                    pack_columns::<S>(dout, queries.clone(), dim, packed_dout);
                }
                for i in 0..QUERY_BLOCK {
                    let inside = first + i < queries.end;
                    *lse.add(i) = if inside { *operands.lse.add(head * shape.q_len + first + i) } else { 0.0 };
                    *dots.add(i) = if inside { dot::<S>(out.row(first + i), dout.row(first + i), dim) } else { 0.0 };
                }
                let end = if shape.causal { queries.end } else { shape.k_len };
                let mut key = 0;
                while key < end {
                    let keys = key..(key + KEY_BLOCK).min(end);
                    let both = (keys.clone(), queries.clone());
                    let p = Scores { data: p_data, first_key: key, first_query: first };
                    let ds = Scores { data: ds_data, first_key: key, first_query: first };
                    scores::<S>(p, k, packed_q, both.clone(), dim, shape.causal, &mut ahead);
                    if score_gradients {
                        scores::<S>(ds, v, packed_dout, both.clone(), dim, shape.causal, &mut ahead);
                    }
                    differentiate::<S>(p, score_gradients.then_some(ds), both, shape, lse, dots);
                    for panel in panels::<S>(keys.clone()) {
                        // Queries before the panel's first key see none of it; the first that see it begin its sums.
                        let from = if shape.causal { first.max(panel.start) } else { first };
                        let depth = from..queries.end;
                        let adds = if shape.causal { panel.start < first } else { first > 0 };
                        if dv.is_wanted() {
                            let a = p.at(panel.start, from);
                            let (b, c) = ((dout, depth.clone()), (dv, panel.clone()));
                            product::<S>(Form::ByRows, a, b, c, dim, adds, &mut ahead);
                        }
                        if dk.is_wanted() {
                            let a = ds.at(panel.start, from);
                            product::<S>(Form::ByRows, a, (q, depth), (dk, panel), dim, adds, &mut ahead);
                        }
                    }
                    for panel in panels::<S>(if dq.is_wanted() { queries.clone() } else { 0..0 }) {
                        let depth = key..if shape.causal { keys.end.min(panel.end) } else { keys.end };
                        let a = ds.at(key, panel.start);
                        product::<S>(Form::ByColumns, a, (k, depth), (dq, panel), dim, key > 0, &mut ahead);
                    }
                    key = keys.end;
                }
            }
            first += QUERY_BLOCK;
        }
    }
}

/// The operands of one head.
#[derive(Clone, Copy)]
struct Head {
    q: Rows,
    k: Rows,
    v: Rows,
    out: Rows,
    dout: Rows,
    dq: Rows,
    dk: Rows,
    dv: Rows,
}

impl Head {
    #[inline(always)]
    fn new(shape: &AttentionShape, operands: &Backward, head: usize) -> Head {
        let rows = |data, strides: &Strides| Rows::new(data, strides.head_offset(shape, head), strides);
        Head {
            q: rows(operands.q, &shape.q),
            k: rows(operands.k, &shape.k),
            v: rows(operands.v, &shape.v),
            out: rows(operands.out, &shape.out),
            dout: rows(operands.dout, &shape.dout),
            dq: rows(operands.dq, &shape.dq),
            dk: rows(operands.dk, &shape.dk),
            dv: rows(operands.dv, &shape.dv),
        }
    }

    /// What the block of queries from `first` is the first to touch.
    #[inline(always)]
    fn block(&self, shape: &AttentionShape, first: usize, ahead: &mut Ahead) {
        let queries = first..(first + QUERY_BLOCK).min(shape.q_len);
        let keys = match (shape.causal, first) {
            (true, _) => queries.clone(),
            (false, 0) => 0..shape.k_len,
            (false, _) => 0..0,
        };
        for rows in [self.q, self.dout, self.out] {
            ahead.push(rows, queries.clone());
        }
        for rows in [self.k, self.v] {
            ahead.push(rows, keys.clone());
        }
    }
}

/// Scores become probabilities, and gradients of probabilities become gradients of scores before the scale.
///
/// # Safety
/// The processor has `S`; `p` and `ds` hold the values for visible keys, `lse` and `dots` one a query.
#[inline(always)]
unsafe fn differentiate<S: Kernels>(
    p: Scores,
    ds: Option<Scores>,
    (keys, queries): (Range<usize>, Range<usize>),
    shape: &AttentionShape,
    lse: *const f32,
    dots: *const f32,
) {
    let mut s = S::default();
    let scale = S::set(shape.scale);
    let mut query = queries.start;
    while query < queries.end {
        let at = query - queries.start;
        let panel = queries.start + at / S::COLS * S::COLS;
        let end = visible::<S>(&keys, panel, shape.causal);
        // SAFETY: vectors lie inside the block's rows, and `lse` and `dots` have QUERY_BLOCK elements.
        unsafe {
            let (lse, dots) = (S::load(lse.add(at)), S::load(dots.add(at)));
            for j in keys.start..end {
                let to = p.at(j, query);
                let shifted = s.sub(S::load(to), lse);
                let mut probability = math::exp(&mut s, shifted);
                if shape.causal && j > query {
                    probability = S::keep_tail(S::set(0.0), probability, S::tail(unseeing::<S>(j, query)));
                }
                S::store(to, probability);
                if let Some(ds) = ds {
                    let to = ds.at(j, query);
                    let difference = s.sub(S::load(to), dots);
                    let scaled = s.mul(probability, scale);
                    S::store(to, s.mul(scaled, difference));
                }
            }
        }
        query += S::LANES;
    }
}

/// The inner product of two rows.
///
/// # Safety
/// The processor has `S`; the rows are readable for `len` elements.
#[inline(always)]
unsafe fn dot<S: Kernels>(x: *const f32, y: *const f32, len: usize) -> f32 {
    let mut sum = S::set(0.0);
    let mut i = 0;
    // SAFETY: passed on.
    unsafe {
        while i + S::LANES <= len {
            sum = S::fma(S::load(x.add(i)), S::load(y.add(i)), sum);
            i += S::LANES;
        }
        if i < len {
            let tail = S::tail(len - i);
            sum = S::fma(S::load_tail(x.add(i), tail), S::load_tail(y.add(i), tail), sum);
        }
    }
    S::sum(sum)
}

/// # Safety
/// As for `AttentionPlan::backward`, and the processor has AVX-512F.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn avx512(shape: &AttentionShape, task: &Task, operands: &Backward, scratch: *mut f32) {
    // SAFETY: passed on.
    unsafe { backward::<Avx512>(shape, task, operands, scratch) }
}

/// # Safety
/// As for `AttentionPlan::backward`, and the processor has AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn avx2(shape: &AttentionShape, task: &Task, operands: &Backward, scratch: *mut f32) {
    // SAFETY: passed on.
    unsafe { backward::<Avx2>(shape, task, operands, scratch) }
}
