//! Composites: each has exactly one expansion into primitives, written in the DSL.
//!
//! The expansion is the composite's type rule, its reference meaning, its fallback gradient and its fallback lowering. The op
//! table (module `spec`) says which expansion is whose and how many operands it takes.
//!
//! Invariants
//! - An expansion checks what its primitives would let through: operands that broadcast but are not the documented ones.

use crate::dsl::{Builder, T};
use crate::infer::Inferred;
use crate::op::{AdamWPart, Composite, ContractSpec, GeluForm, Op, Wrt};
use crate::spec;
use crate::types::{DType, TensorType};

/// Type of a composite: that of its expansion.
pub fn infer(c: &Composite, tys: &[&TensorType]) -> Inferred {
    let b = Builder::new("");
    let inputs: Vec<T<'_>> = tys.iter().enumerate().map(|(i, t)| b.input(format!("x{i}"), (*t).clone())).collect();
    let ty = expand(c, &b, &inputs).ty();
    b.finish().map(|_| ty).map_err(|e| {
        if e.op == c.name() {
            return e.message;
        }
        let found: Vec<String> = tys.iter().map(|t| t.to_string()).collect();
        format!("{} of {}: {}", c.name(), found.join(", "), e.message)
    })
}

/// Emits the expansion of `c` on `x` into `b`; returns its value.
pub fn expand<'g>(c: &Composite, b: &'g Builder, x: &[T<'g>]) -> T<'g> {
    match spec::check_arity(&Op::Composite(c.clone()), x.len()) {
        Ok(()) => spec::expansion(c, b, x),
        Err(message) => b.fail(c.name(), message, x),
    }
}

/// The error that `name` needs `what`, unless `ok`.
fn refuse<'g>(ok: bool, name: &str, what: &str, b: &'g Builder, x: &[T<'g>]) -> Option<T<'g>> {
    (!ok).then(|| {
        let found: Vec<String> = x.iter().map(|t| t.ty().to_string()).collect();
        b.fail(name, format!("{name} needs {what}, found {}", found.join(", ")), x)
    })
}

fn last(x: T<'_>) -> usize {
    x.rank() - 1
}

pub(crate) fn softmax<'g>(b: &'g Builder, x: T<'g>, axis: usize) -> T<'g> {
    if let Some(bad) = refuse(axis < x.rank(), "softmax", &format!("an operand with an axis {axis}"), b, &[x]) {
        return bad;
    }
    let e = (x - x.reduce_max(&[axis])).exp();
    e * e.sum(&[axis]).recip()
}

pub(crate) fn log_softmax<'g>(b: &'g Builder, x: T<'g>, axis: usize) -> T<'g> {
    if let Some(bad) = refuse(axis < x.rank(), "log_softmax", &format!("an operand with an axis {axis}"), b, &[x]) {
        return bad;
    }
    x - log_sum_exp(x, axis)
}

/// Whether x is [.., C] and all of `rest` are [C].
fn last_axis_fits(x: T<'_>, rest: &[T<'_>]) -> bool {
    x.rank() >= 1 && rest.iter().all(|w| w.shape() == [x.dim(last(x))])
}

pub(crate) fn layer_norm<'g>(b: &'g Builder, x: &[T<'g>], eps: f64) -> T<'g> {
    let fits = last_axis_fits(x[0], &x[1..]);
    if let Some(bad) = refuse(fits, "layer_norm", "x [.., C], a weight [C] and a bias [C]", b, x) {
        return bad;
    }
    let axes = [last(x[0])];
    let centred = x[0] - x[0].mean(&axes);
    let rstd = ((centred * centred).mean(&axes) + eps).rsqrt();
    centred * rstd * x[1] + x[2]
}

pub(crate) fn rms_norm<'g>(b: &'g Builder, x: &[T<'g>], eps: f64) -> T<'g> {
    if let Some(bad) = refuse(last_axis_fits(x[0], &x[1..]), "rms_norm", "x [.., C] and a weight [C]", b, x) {
        return bad;
    }
    let rms = ((x[0] * x[0]).mean(&[last(x[0])]) + eps).rsqrt();
    x[0] * rms * x[1]
}

pub(crate) fn gelu(x: T<'_>, form: GeluForm) -> T<'_> {
    match form {
        GeluForm::Erf => {
            let half_cdf = (x * std::f64::consts::FRAC_1_SQRT_2).erf() * 0.5 + 0.5;
            x * half_cdf
        }
        GeluForm::Tanh => {
            let inner = (x + x * x * x * 0.044715) * (2.0 / std::f64::consts::PI).sqrt();
            x * (inner.tanh() * 0.5 + 0.5)
        }
    }
}

pub(crate) fn silu(x: T<'_>) -> T<'_> {
    x * ((-x).exp() + 1.0).recip()
}

/// log sum e^x along `axis` (extent 1 in the result), shifted by the largest element.
fn log_sum_exp<'g>(x: T<'g>, axis: usize) -> T<'g> {
    let top = x.reduce_max(&[axis]);
    (x - top).exp().sum(&[axis]).log() + top
}

pub(crate) fn linear<'g>(b: &'g Builder, x: &[T<'g>]) -> T<'g> {
    let rank = x[0].rank();
    let fits = (1..=20).contains(&rank)
        && x[1].rank() == 2
        && x[1].dim(1) == x[0].dim(rank - 1)
        && x.get(2).is_none_or(|bias| bias.shape() == [x[1].dim(0)]);
    if let Some(bad) = refuse(fits, "linear", "x [.., I], a weight [O, I] and, if any, a bias [O]", b, x) {
        return bad;
    }
    let lead: Vec<u8> = (0..rank as u8 - 1).map(|i| b'a' + i).collect();
    let (i, o) = (b'z', b'y');
    let labels = ContractSpec {
        lhs: lead.iter().copied().chain([i]).collect(),
        rhs: vec![o, i],
        out: lead.iter().copied().chain([o]).collect(),
    };
    let y = b.node(Op::Contract(labels), &x[..2]);
    match x.get(2) {
        Some(bias) => y + *bias,
        None => y,
    }
}

/// Refuses anything but q [B,H,T,D] and `rest` (keys, values) [B,H,S,D].
fn attention_operands<'g>(name: &str, b: &'g Builder, q: T<'g>, rest: &[T<'g>], causal: bool) -> Option<T<'g>> {
    let (qs, ks) = (q.shape(), rest[0].shape());
    let fits = qs.len() == 4
        && ks.len() == 4
        && (qs[0], qs[1], qs[3]) == (ks[0], ks[1], ks[3])
        && (!causal || qs[2] == ks[2])
        && rest.iter().all(|t| t.shape() == ks);
    let what =
        if causal { "q [B,H,T,D] and k, v of that shape, being causal" } else { "q [B,H,T,D] and k, v [B,H,S,D]" };
    let found: Vec<T<'g>> = std::iter::once(q).chain(rest.iter().copied()).collect();
    refuse(fits, name, what, b, &found)
}

/// scale q k^T [B,H,T,S], with -inf where a causal query may not look.
fn masked_scores<'g>(b: &'g Builder, q: T<'g>, k: T<'g>, causal: bool, scale: f64) -> T<'g> {
    let s = q.contract("bhtd,bhsd->bhts", k) * scale;
    if !causal {
        return s;
    }
    let visible = b.iota(s.shape(), DType::I32, 2).ge(b.iota(s.shape(), DType::I32, 3));
    visible.select(s, f64::NEG_INFINITY)
}

pub(crate) fn attention<'g>(b: &'g Builder, x: &[T<'g>], causal: bool, scale: f64) -> T<'g> {
    if let Some(bad) = attention_operands("attention", b, x[0], &x[1..], causal) {
        return bad;
    }
    let s = masked_scores(b, x[0], x[1], causal, scale);
    let e = (s - s.reduce_max(&[3])).exp();
    let p = e * e.sum(&[3]).recip();
    p.contract("bhts,bhsd->bhtd", x[2])
}

pub(crate) fn attention_lse<'g>(b: &'g Builder, x: &[T<'g>], causal: bool, scale: f64) -> T<'g> {
    if let Some(bad) = attention_operands("attention_lse", b, x[0], &x[1..], causal) {
        return bad;
    }
    let s = masked_scores(b, x[0], x[1], causal, scale);
    log_sum_exp(s, 3).reshape(&x[0].shape()[..3])
}

pub(crate) fn attention_grad<'g>(b: &'g Builder, x: &[T<'g>], wrt: Wrt, causal: bool, scale: f64) -> T<'g> {
    let [q, k, v, out, lse, dout] = [x[0], x[1], x[2], x[3], x[4], x[5]];
    if let Some(bad) = attention_operands("attention_grad", b, q, &[k, v], causal) {
        return bad;
    }
    let fits = out.ty() == q.ty() && dout.ty() == q.ty() && lse.shape() == q.shape()[..3];
    if let Some(bad) = refuse(fits, "attention_grad", "out and its gradient as q, and lse [B,H,T]", b, x) {
        return bad;
    }
    let mut rows = q.shape();
    rows[3] = 1;
    let p = (masked_scores(b, q, k, causal, scale) - lse.reshape(rows)).exp();
    let score_grad = || p * (dout.contract("bhtd,bhsd->bhts", v) - (dout * out).sum(&[3])) * scale;
    match wrt {
        Wrt::Q => score_grad().contract("bhts,bhsd->bhtd", k),
        Wrt::K => score_grad().contract("bhts,bhtd->bhsd", q),
        Wrt::V => p.contract("bhts,bhtd->bhsd", dout),
    }
}

pub(crate) fn rope<'g>(b: &'g Builder, x: T<'g>, base: f64) -> T<'g> {
    let shape = x.shape();
    let (rank, d) = (shape.len(), shape.last().copied().unwrap_or(0));
    if let Some(bad) = refuse(rank >= 2 && d % 2 == 0, "rope", "x [.., T, D] with D even", b, &[x]) {
        return bad;
    }
    let half = d / 2;
    let mut table = vec![1; rank];
    (table[rank - 2], table[rank - 1]) = (shape[rank - 2], half);
    let position = b.iota(table.clone(), DType::F32, rank - 2);
    let rate = (b.iota(table, DType::F32, rank - 1) * (-2.0 * base.ln() / d as f64)).exp();
    let angle = position * rate;
    let (sin, cos) = (angle.sin(), angle.cos());
    let (x1, x2) = (x.slice_axis(rank - 1, 0, half), x.slice_axis(rank - 1, half, d));
    b.concat(&[x1 * cos - x2 * sin, x2 * cos + x1 * sin], rank - 1)
}

pub(crate) fn cross_entropy<'g>(b: &'g Builder, x: &[T<'g>]) -> T<'g> {
    let (logits, targets) = (x[0], x[1]);
    let fits = logits.rank() >= 1 && targets.ty() == TensorType::new(DType::I32, &logits.shape()[..last(logits)]);
    if let Some(bad) = refuse(fits, "cross_entropy", "logits [.., V] and i32 targets [..]", b, x) {
        return bad;
    }
    let axis = last(logits);
    let mut rows = logits.shape();
    rows[axis] = 1;
    let hit = b.iota(logits.shape(), DType::I32, axis).eq(targets.reshape(rows));
    let picked = hit.select(logits, 0.0).sum(&[axis]);
    let loss = log_sum_exp(logits, axis) - picked;
    let all: Vec<usize> = (0..loss.rank()).collect();
    loss.mean(&all).reshape([])
}

pub(crate) fn global_norm<'g>(b: &'g Builder, x: &[T<'g>]) -> T<'g> {
    let mut total = b.scalar(0.0);
    for g in x {
        total = total + (*g * *g).sum(&(0..g.rank()).collect::<Vec<_>>()).reshape([]);
    }
    total.sqrt()
}

/// Elements of a block of a global norm: enough for a workgroup of a GPU, few enough that the weights of one layer are several.
const NORM_BLOCK: usize = 4096;

/// A global norm as two steps that run in parallel: sums of squares of blocks, which have a kernel over all operands, and the root of
/// their sum. Equal to the expansion but for rounding.
pub fn global_norm_in_blocks<'g>(b: &'g Builder, x: &[T<'g>]) -> T<'g> {
    if x.is_empty() {
        return global_norm(b, x);
    }
    b.square_sums(x, NORM_BLOCK).sum(&[0]).reshape([]).sqrt()
}

pub(crate) fn square_sums<'g>(b: &'g Builder, x: &[T<'g>], block: usize) -> T<'g> {
    // Texts hold no larger integer.
    let fits = (1..=u32::MAX as usize).contains(&block) && x.iter().all(|t| t.dtype() == DType::F32);
    if let Some(bad) = refuse(fits, "square_sums", "f32 operands and blocks of 1 to 2^32 - 1 elements", b, x) {
        return bad;
    }
    let sums = |t: &T<'g>| {
        let n: usize = t.shape().iter().product();
        let block = block.min(n);
        let blocks = n.div_ceil(block);
        let whole = t.reshape([n]).pad([0], [blocks * block - n], 0.0).reshape([blocks, block]);
        (whole * whole).sum(&[1]).reshape([blocks])
    };
    b.concat(&x.iter().map(sums).collect::<Vec<_>>(), 0)
}

pub(crate) fn clip_by_global_norm<'g>(b: &'g Builder, x: &[T<'g>], max_norm: f64) -> T<'g> {
    if let Some(bad) = refuse(x[1].rank() == 0, "clip_by_global_norm", "a gradient and a scalar norm", b, x) {
        return bad;
    }
    x[0] * (max_norm / (x[1] + 1e-6)).min(1.0)
}

/// Kingma and Ba 2015, with the decay decoupled as in Loshchilov and Hutter 2019; in the order of PyTorch's AdamW.
pub(crate) fn adamw<'g>(b: &'g Builder, x: &[T<'g>], part: AdamWPart, betas: [f64; 2], eps: f64, decay: f64) -> T<'g> {
    let [p, g, m, v, lr, step] = [x[0], x[1], x[2], x[3], x[4], x[5]];
    let scalar = TensorType::new(p.dtype(), []);
    let fits = [g, m, v].iter().all(|t| t.ty() == p.ty()) && lr.ty() == scalar && step.ty() == scalar;
    if let Some(bad) = refuse(fits, "adamw", "gradient, m and v as the parameter, and scalar lr and step", b, x) {
        return bad;
    }
    let m = m * betas[0] + g * (1.0 - betas[0]);
    let v = v * betas[1] + g * g * (1.0 - betas[1]);
    match part {
        AdamWPart::Moment1 => m,
        AdamWPart::Moment2 => v,
        AdamWPart::Param => {
            // 1 - beta^step, the bias corrections.
            let correction = |beta: f64| 1.0 - (step * beta.ln()).exp();
            let rate = lr / correction(betas[0]);
            let rms = correction(betas[1]).rsqrt();
            let kept = if decay == 0.0 { p } else { p * (1.0 - lr * decay) };
            kept - rate * m / (v.sqrt() * rms + eps)
        }
    }
}
