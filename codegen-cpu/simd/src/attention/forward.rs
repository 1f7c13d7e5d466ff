//! The forward pass: for each block of queries, one sweep over the keys with a running softmax.

use super::ahead::Ahead;
use super::block::{Rows, Scores, pack_columns, panels, product, scale_row, scores, unseeing, visible};
use super::{AttentionShape, Forward, KEY_BLOCK, QUERY_BLOCK, Strides, Task};
use crate::gemm::kernel::{Form, Kernels};
use crate::vector::{Avx2, Avx512};
use std::ops::Range;
use tinygpt_vloop::math;

/// Per query of a block: the largest score so far, the sum of e^(score - largest), and what a new largest score
/// multiplies earlier sums by.
#[derive(Clone, Copy)]
struct Softmax {
    largest: *mut f32,
    sum: *mut f32,
    factor: *mut f32,
}

/// # Safety
/// As for `AttentionPlan::forward`, and the processor has `S`.
#[inline(always)]
unsafe fn forward<S: Kernels>(shape: &AttentionShape, task: &Task, operands: &Forward, scratch: *mut f32) {
    let dim = shape.head_dim;
    for head in task.heads.clone() {
        let rows = |data, strides: &Strides, head| Rows::new(data, strides.head_offset(shape, head), strides);
        let inputs = |head| {
            let (q, k) = (rows(operands.q, &shape.q, head), rows(operands.k, &shape.k, head));
            (q, k, rows(operands.v, &shape.v, head))
        };
        let (q, k, v) = inputs(head);
        let out = Rows::new(operands.out, shape.out.head_offset(shape, head), &shape.out);
        let mut first = task.queries.start;
        while first < task.queries.end {
            let queries = first..(first + QUERY_BLOCK).min(task.queries.end);
            let mut ahead = Ahead::new(dim);
            // Most often the next head is this worker's too.
            let (next_head, next) = if queries.end < task.queries.end { (head, queries.end) } else { (head + 1, 0) };
            if next_head < shape.batch * shape.heads {
                let (q, k, v) = inputs(next_head);
                let queries = next..(next + QUERY_BLOCK).min(shape.q_len);
                let keys = match (shape.causal, next) {
                    (true, _) => queries.clone(),
                    (false, 0) => 0..shape.k_len,
                    (false, _) => 0..0,
                };
                ahead.push(q, queries);
                ahead.push(k, keys.clone());
                ahead.push(v, keys);
            }
            // SAFETY: scratch holds the parts one after another, see `scratch_len`; operands by the caller.
            unsafe {
                let packed = scratch;
                let largest = packed.add(QUERY_BLOCK * dim);
                let softmax = Softmax { largest, sum: largest.add(QUERY_BLOCK), factor: largest.add(2 * QUERY_BLOCK) };
                let block = largest.add(3 * QUERY_BLOCK);
                pack_columns::<S>(q, queries.clone(), dim, packed);
                scale_row::<S>(packed, shape.scale, queries.len().next_multiple_of(S::COLS) * dim);
                let end = if shape.causal { queries.end } else { shape.k_len };
                let mut key = 0;
                while key < end {
                    let keys = key..(key + KEY_BLOCK).min(end);
                    let block = Scores { data: block, first_key: key, first_query: first };
                    scores::<S>(block, k, packed, (keys.clone(), queries.clone()), dim, shape.causal, &mut ahead);
                    probabilities::<S>(block, (keys.clone(), queries.clone()), shape.causal, softmax);
                    for panel in panels::<S>(queries.clone()) {
                        if key > 0 {
                            for i in panel.clone() {
                                scale_row::<S>(out.row(i), *softmax.factor.add(i - first), dim);
                            }
                        }
                        let depth = key..if shape.causal { keys.end.min(panel.end) } else { keys.end };
                        let a = block.at(key, panel.start);
                        product::<S>(Form::ByColumns, a, (v, depth), (out, panel), dim, key > 0, &mut ahead);
                    }
                    key = keys.end;
                }
                finish::<S>(softmax, queries.len(), operands.lse.add(head * shape.q_len + first));
                for i in queries {
                    scale_row::<S>(out.row(i), *softmax.factor.add(i - first), dim);
                }
            }
            first += QUERY_BLOCK;
        }
    }
}

/// Replaces scores by e^(score - largest so far), and updates the running softmax.
///
/// # Safety
/// The processor has `S`; the scores of visible keys are written.
#[inline(always)]
unsafe fn probabilities<S: Kernels>(
    block: Scores,
    (keys, queries): (Range<usize>, Range<usize>),
    causal: bool,
    softmax: Softmax,
) {
    let mut s = S::default();
    let hidden = S::set(f32::NEG_INFINITY);
    let mut query = queries.start;
    while query < queries.end {
        // Whole panels of queries have the same visible keys, so that the scores were written.
        let panel = queries.start + (query - queries.start) / S::COLS * S::COLS;
        let end = visible::<S>(&keys, panel, causal);
        let at = query - queries.start;
        // SAFETY: vectors lie inside the block's rows; the softmax has QUERY_BLOCK elements each.
        unsafe {
            let first_block = keys.start == 0;
            let before = if first_block { hidden } else { S::load(softmax.largest.add(at)) };
            let mut largest = [before; 2];
            let diagonal = if causal { end.min(query + 1).max(keys.start) } else { end };
            for j in keys.start..diagonal {
                largest[j & 1] = s.max(S::load(block.at(j, query)), largest[j & 1]);
            }
            for j in diagonal..end {
                let to = block.at(j, query);
                let score = S::keep_tail(hidden, S::load(to), S::tail(unseeing::<S>(j, query)));
                S::store(to, score);
                largest[0] = s.max(score, largest[0]);
            }
            let largest = s.max(largest[0], largest[1]);
            S::store(softmax.largest.add(at), largest);

            let difference = s.sub(before, largest);
            let factor = math::exp(&mut s, difference);
            let mut sum = [S::set(0.0); 2];
            if !first_block {
                S::store(softmax.factor.add(at), factor);
                sum[0] = s.mul(S::load(softmax.sum.add(at)), factor);
            }
            for j in keys.start..end {
                let to = block.at(j, query);
                let difference = s.sub(S::load(to), largest);
                let p = math::exp(&mut s, difference);
                S::store(to, p);
                sum[j & 1] = s.add(sum[j & 1], p);
            }
            S::store(softmax.sum.add(at), s.add(sum[0], sum[1]));
        }
        query += S::LANES;
    }
}

/// Writes the log-sum-exp of `count` queries, and leaves 1 / sum in `softmax.factor`.
///
/// # Safety
/// The processor has `S`; `lse` is writable for `count` elements.
#[inline(always)]
unsafe fn finish<S: Kernels>(softmax: Softmax, count: usize, lse: *mut f32) {
    let mut s = S::default();
    let mut i = 0;
    while i < count {
        // SAFETY: the softmax has QUERY_BLOCK elements each, a multiple of a vector.
        unsafe {
            let sum = S::load(softmax.sum.add(i));
            S::store(softmax.factor.add(i), s.div(S::set(1.0), sum));
            let log = math::log(&mut s, sum);
            let value = s.add(S::load(softmax.largest.add(i)), log);
            S::store_tail(lse.add(i), value, S::tail((count - i).min(S::LANES)));
        }
        i += S::LANES;
    }
}

/// # Safety
/// As for `AttentionPlan::forward`, and the processor has AVX-512F.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn avx512(shape: &AttentionShape, task: &Task, operands: &Forward, scratch: *mut f32) {
    // SAFETY: passed on.
    unsafe { forward::<Avx512>(shape, task, operands, scratch) }
}

/// # Safety
/// As for `AttentionPlan::forward`, and the processor has AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn avx2(shape: &AttentionShape, task: &Task, operands: &Forward, scratch: *mut f32) {
    // SAFETY: passed on.
    unsafe { forward::<Avx2>(shape, task, operands, scratch) }
}
