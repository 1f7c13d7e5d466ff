//! Attention: softmax(scale Q K^T, causal or not) V for every batch and head, and its gradient.
//!
//! The scheme is that of FlashAttention (Dao et al. 2022) and FlashAttention-2 (Dao 2023): scores exist for one
//! block of queries and keys at a time, the softmax is carried along by its running maximum and sum, and the
//! backward pass recomputes the probabilities from the saved log-sum-exp of each query.
//!
//! Scores lie transposed, keys by queries: a vector holds one key's scores for consecutive queries. So the
//! softmax needs no sums across lanes, and the products P V, dS K (which read them by columns), P^T dO and
//! dS^T Q (by rows) all run on the microkernels of [`crate::gemm`] in place. Only blocks of queries (Q^T, dO^T)
//! are packed.
//!
//! Invariants:
//! - Queries and keys are cut at multiples of the kernel's columns, so that a block of scores is wholly needed,
//!   wholly skipped (causal, above the diagonal), or on the diagonal, where masked scores are -inf.
//! - A task owns the whole output rows of its heads (forward: of its queries): any order of tasks on any number of
//!   threads gives the same bits.

#[cfg(target_arch = "x86_64")]
mod ahead;
#[cfg(target_arch = "x86_64")]
mod backward;
#[cfg(target_arch = "x86_64")]
mod block;
#[cfg(target_arch = "x86_64")]
mod forward;

use crate::{Isa, PlanError};
use std::ops::Range;

/// Queries of a block: a multiple of every instruction set's kernel columns.
const QUERY_BLOCK: usize = 32;
/// Keys of a block: its scores stay in the first-level cache.
const KEY_BLOCK: usize = 256;
/// Multiplications of a task, about: 50 microseconds and more at the rates of today's cores.
const TASK_WORK: usize = 3_000_000;
/// Tasks at least, where the shape allows: enough for eight threads to share evenly.
const MIN_TASKS: usize = 16;

/// Element strides of one operand of shape [batch, head, position, head_dim].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Strides {
    pub batch: isize,
    pub head: isize,
    pub position: isize,
    /// Must be 1.
    pub element: isize,
}

impl Strides {
    /// [batch, head, position, head_dim], row-major.
    pub fn heads_first(heads: usize, positions: usize, head_dim: usize) -> Strides {
        let position = head_dim as isize;
        let head = position * positions as isize;
        Strides { batch: head * heads as isize, head, position, element: 1 }
    }

    /// [batch, position, head, head_dim], row-major: a [batch, position, channel] tensor with heads side by side.
    pub fn positions_first(heads: usize, positions: usize, head_dim: usize) -> Strides {
        let head = head_dim as isize;
        let position = head * heads as isize;
        Strides { batch: position * positions as isize, head, position, element: 1 }
    }
}

/// Sizes and layouts. `q`, `out`, `dout`, `dq` have `q_len` positions, `k`, `v`, `dk`, `dv` have `k_len`.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionShape {
    pub batch: usize,
    pub heads: usize,
    pub q_len: usize,
    pub k_len: usize,
    pub head_dim: usize,
    /// Query i sees keys 0 ..= i; needs `q_len == k_len`.
    pub causal: bool,
    /// Factor of the scores, usually 1 / sqrt(head_dim).
    pub scale: f32,
    pub q: Strides,
    pub k: Strides,
    pub v: Strides,
    pub out: Strides,
    pub dout: Strides,
    pub dq: Strides,
    pub dk: Strides,
    pub dv: Strides,
}

impl AttentionShape {
    /// A shape whose operands all lie as [`Strides::heads_first`], with scale 1 / sqrt(head_dim).
    pub fn heads_first(batch: usize, heads: usize, [q_len, k_len]: [usize; 2], head_dim: usize, causal: bool) -> Self {
        let (q, k) = (Strides::heads_first(heads, q_len, head_dim), Strides::heads_first(heads, k_len, head_dim));
        let scale = 1.0 / (head_dim as f32).sqrt();
        AttentionShape {
            batch,
            heads,
            q_len,
            k_len,
            head_dim,
            causal,
            scale,
            q,
            k,
            v: k,
            out: q,
            dout: q,
            dq: q,
            dk: k,
            dv: k,
        }
    }
}

/// Operands of the forward pass. `lse` is [batch, head, q_len] f32, contiguous: the log of the sum of e^score.
#[derive(Clone, Copy, Debug)]
pub struct Forward {
    pub q: *const f32,
    pub k: *const f32,
    pub v: *const f32,
    pub out: *mut f32,
    pub lse: *mut f32,
}

/// Operands of the backward pass. A null `dq`, `dk` or `dv` is not computed.
#[derive(Clone, Copy, Debug)]
pub struct Backward {
    pub q: *const f32,
    pub k: *const f32,
    pub v: *const f32,
    pub out: *const f32,
    pub lse: *const f32,
    pub dout: *const f32,
    pub dq: *mut f32,
    pub dk: *mut f32,
    pub dv: *mut f32,
}

/// Some heads (batch * heads + head) and, of the forward pass, some of their queries.
#[derive(Clone, Debug)]
struct Task {
    heads: Range<usize>,
    queries: Range<usize>,
}

/// A prepared attention. Forward tasks are independent of each other, and so are backward tasks.
#[derive(Clone, Debug)]
pub struct AttentionPlan {
    isa: Isa,
    shape: AttentionShape,
    forward: Vec<Task>,
    backward: Vec<Task>,
}

impl AttentionPlan {
    /// # Errors
    /// If an operand's stride along head_dim is not 1, a causal attention has `q_len != k_len`, there are no keys
    /// or no head_dim, or the processor lacks `isa`.
    pub fn new(isa: Isa, shape: AttentionShape) -> Result<AttentionPlan, PlanError> {
        isa.check()?;
        let operands = [
            ("q", shape.q),
            ("k", shape.k),
            ("v", shape.v),
            ("out", shape.out),
            ("dout", shape.dout),
            ("dq", shape.dq),
            ("dk", shape.dk),
            ("dv", shape.dv),
        ];
        for (name, strides) in operands {
            if strides.element != 1 {
                let found = strides.element;
                return Err(PlanError(format!("{name} has stride {found} along head_dim, expected 1: copy it first")));
            }
        }
        if shape.causal && shape.q_len != shape.k_len {
            let (q, k) = (shape.q_len, shape.k_len);
            return Err(PlanError(format!("causal attention needs as many queries as keys, found {q} and {k}")));
        }
        if shape.k_len == 0 || shape.head_dim == 0 {
            let (k, d) = (shape.k_len, shape.head_dim);
            return Err(PlanError(format!("attention needs keys and a head_dim, found {k} keys and head_dim {d}")));
        }
        let heads = shape.batch * shape.heads;
        let work = shape.q_len * shape.k_len * shape.head_dim * 2 / if shape.causal { 2 } else { 1 };
        let (mut forward, mut backward) = (Vec::new(), Vec::new());
        if heads > 0 && shape.q_len > 0 {
            let blocks = shape.q_len.div_ceil(QUERY_BLOCK);
            let parts = MIN_TASKS.div_ceil(heads).min((work / TASK_WORK).max(1)).min(blocks);
            let each = (TASK_WORK / work.max(1)).clamp(1, heads.div_ceil(MIN_TASKS));
            for first in (0..heads).step_by(each) {
                let heads = first..(first + each).min(heads);
                for part in 0..parts {
                    let bound = |part: usize| (blocks * part / parts * QUERY_BLOCK).min(shape.q_len);
                    forward.push(Task { heads: heads.clone(), queries: bound(part)..bound(part + 1) });
                }
            }
        }
        // Without queries the gradients of keys and values are still written: zeros.
        if heads > 0 {
            let each = (TASK_WORK * 2 / (5 * work).max(1)).clamp(1, heads.div_ceil(MIN_TASKS));
            for first in (0..heads).step_by(each) {
                backward.push(Task { heads: first..(first + each).min(heads), queries: 0..shape.q_len });
            }
        }
        Ok(AttentionPlan { isa, shape, forward, backward })
    }

    /// Number of forward tasks.
    pub fn forward_tasks(&self) -> usize {
        self.forward.len()
    }

    /// Number of backward tasks.
    pub fn backward_tasks(&self) -> usize {
        self.backward.len()
    }

    /// Length in f32 of the scratch that each worker brings. Align it to 64 bytes for speed.
    pub fn scratch_len(&self) -> usize {
        // Q^T and dO^T, scores and their gradient, three numbers a query.
        2 * QUERY_BLOCK * self.shape.head_dim
            + 2 * QUERY_BLOCK * KEY_BLOCK.min(self.shape.k_len.next_multiple_of(QUERY_BLOCK))
            + 3 * QUERY_BLOCK
    }

    /// Runs one forward task: writes its rows of `out` and `lse`.
    ///
    /// # Panics
    /// If `task >= self.forward_tasks()`.
    ///
    /// # Safety
    /// Operands are readable, `out` and `lse` writable, at every offset of the shape; outputs overlap nothing.
    /// `scratch` is this call's alone for `scratch_len` elements.
    pub unsafe fn forward(&self, task: usize, operands: &Forward, scratch: *mut f32) {
        let task = &self.forward[task];
        // SAFETY: passed on; `new` checked that the processor has `isa`.
        unsafe {
            match self.isa {
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 => forward::avx512(&self.shape, task, operands, scratch),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => forward::avx2(&self.shape, task, operands, scratch),
            }
        }
    }

    /// Runs one backward task: writes its heads of `dq`, `dk` and `dv`, those that are not null.
    ///
    /// # Panics
    /// If `task >= self.backward_tasks()`.
    ///
    /// # Safety
    /// As for [`AttentionPlan::forward`]; `out` and `lse` hold what the forward pass wrote for the same `q`, `k`, `v`.
    pub unsafe fn backward(&self, task: usize, operands: &Backward, scratch: *mut f32) {
        let task = &self.backward[task];
        // SAFETY: passed on; `new` checked that the processor has `isa`.
        unsafe {
            match self.isa {
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 => backward::avx512(&self.shape, task, operands, scratch),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => backward::avx2(&self.shape, task, operands, scratch),
            }
        }
    }
}

impl Strides {
    /// Offset of the first element of a head, numbered batch * heads + head.
    #[cfg(target_arch = "x86_64")]
    fn head_offset(&self, shape: &AttentionShape, head: usize) -> isize {
        (head / shape.heads) as isize * self.batch + (head % shape.heads) as isize * self.head
    }
}
