//! Composites: each has exactly one expansion into primitives, written in the DSL.
//!
//! The expansion is the composite's type rule, its reference meaning, its fallback gradient and its fallback lowering.

use crate::dsl::{Builder, T};
use crate::infer::Inferred;
use crate::op::{AdamWPart, Composite, ContractSpec, GeluForm, Op, Wrt};
use crate::types::{DType, TensorType};

/// Type of a composite: that of its expansion.
pub fn infer(c: &Composite, tys: &[&TensorType]) -> Inferred {
    let b = Builder::new("");
    let inputs: Vec<T<'_>> = tys.iter().enumerate().map(|(i, t)| b.input(format!("x{i}"), (*t).clone())).collect();
    let ty = expand(c, &b, &inputs).ty();
    b.finish().map(|_| ty).map_err(|e| {
        let found: Vec<String> = tys.iter().map(|t| t.to_string()).collect();
        format!("{} of {}: {}", c.name(), found.join(", "), e.message)
    })
}

/// Emits the expansion of `c` on `x` into `b`; returns its value.
pub fn expand<'g>(c: &Composite, b: &'g Builder, x: &[T<'g>]) -> T<'g> {
    let arity = arity(c);
    if !arity.contains(&x.len()) {
        let message = format!("{} takes {} to {} operands, found {}", c.name(), arity.start(), arity.end(), x.len());
        return b.fail(c.name(), message, x);
    }
    match c {
        Composite::Softmax { axis } => {
            if *axis >= x[0].rank() {
                return b.fail(c.name(), format!("no axis {axis} in {}", x[0].ty()), x);
            }
            let e = (x[0] - x[0].reduce_max(&[*axis])).exp();
            e * e.sum(&[*axis]).recip()
        }
        Composite::LogSoftmax { axis } => {
            if *axis >= x[0].rank() {
                return b.fail(c.name(), format!("no axis {axis} in {}", x[0].ty()), x);
            }
            x[0] - log_sum_exp(x[0], *axis)
        }
        Composite::LayerNorm { eps } => with_last_axis(c, b, x, |last| {
            let centred = x[0] - x[0].mean(&[last]);
            let rstd = ((centred * centred).mean(&[last]) + eps.0).rsqrt();
            centred * rstd * x[1] + x[2]
        }),
        Composite::RmsNorm { eps } => with_last_axis(c, b, x, |last| {
            let rms = ((x[0] * x[0]).mean(&[last]) + eps.0).rsqrt();
            x[0] * rms * x[1]
        }),
        Composite::Gelu { form: GeluForm::Erf } => {
            let half_cdf = (x[0] * std::f64::consts::FRAC_1_SQRT_2).erf() * 0.5 + 0.5;
            x[0] * half_cdf
        }
        Composite::Gelu { form: GeluForm::Tanh } => {
            let inner = (x[0] + x[0] * x[0] * x[0] * 0.044715) * (2.0 / std::f64::consts::PI).sqrt();
            x[0] * (inner.tanh() * 0.5 + 0.5)
        }
        Composite::Silu => x[0] * ((-x[0]).exp() + 1.0).recip(),
        Composite::Linear => linear(b, x),
        Composite::Attention { causal, scale } => {
            if let Some(bad) = attention_operands(c, b, x, *causal) {
                return bad;
            }
            let s = masked_scores(b, x[0], x[1], *causal, scale.0);
            let e = (s - s.reduce_max(&[3])).exp();
            let p = e * e.sum(&[3]).recip();
            p.contract("bhts,bhsd->bhtd", x[2])
        }
        Composite::AttentionLse { causal, scale } => {
            if let Some(bad) = attention_operands(c, b, x, *causal) {
                return bad;
            }
            let shape = x[0].shape();
            let s = masked_scores(b, x[0], x[1], *causal, scale.0);
            log_sum_exp(s, 3).reshape(&shape[..3])
        }
        Composite::AttentionGrad { wrt, causal, scale } => {
            if let Some(bad) = attention_operands(c, b, x, *causal) {
                return bad;
            }
            attention_grad(b, x, *wrt, *causal, scale.0)
        }
        Composite::Rope { base } => rope(b, x[0], base.0),
        Composite::CrossEntropy => with_last_axis(c, b, x, |last| {
            let (logits, targets) = (x[0], x[1]);
            let mut rows = logits.shape();
            rows[last] = 1;
            if targets.ty() != TensorType::new(DType::I32, &rows[..last]) {
                let message = format!(
                    "cross_entropy of {} needs i32 targets of shape {:?}, found {}",
                    logits.ty(),
                    &rows[..last],
                    targets.ty()
                );
                return b.fail(c.name(), message, x);
            }
            let hit = b.iota(logits.shape(), DType::I32, last).eq(targets.reshape(rows));
            let picked = hit.select(logits, 0.0).sum(&[last]);
            let loss = log_sum_exp(logits, last) - picked;
            let all: Vec<usize> = (0..loss.rank()).collect();
            loss.mean(&all).reshape([])
        }),
        Composite::GlobalNorm => {
            let mut total = b.scalar(0.0);
            for g in x {
                total = total + (*g * *g).sum(&(0..g.rank()).collect::<Vec<_>>()).reshape([]);
            }
            total.sqrt()
        }
        Composite::ClipByGlobalNorm { max_norm } => x[0] * (max_norm.0 / (x[1] + 1e-6)).min(1.0),
        Composite::AdamW { part, beta1, beta2, eps, decay } => {
            let [p, g, m, v, lr, step] = [x[0], x[1], x[2], x[3], x[4], x[5]];
            let m = m * beta1.0 + g * (1.0 - beta1.0);
            let v = v * beta2.0 + g * g * (1.0 - beta2.0);
            match part {
                AdamWPart::Moment1 => m,
                AdamWPart::Moment2 => v,
                AdamWPart::Param => {
                    // 1 - beta^step, the bias corrections of Kingma and Ba 2015.
                    let correction = |beta: f64| 1.0 - (step * beta.ln()).exp();
                    let rate = lr / correction(beta1.0);
                    let rms = correction(beta2.0).rsqrt();
                    p * (1.0 - lr * decay.0) - rate * m / (v.sqrt() * rms + eps.0)
                }
            }
        }
    }
}

/// Least and most operands of a composite.
pub fn arity(c: &Composite) -> std::ops::RangeInclusive<usize> {
    match c {
        Composite::Softmax { .. }
        | Composite::LogSoftmax { .. }
        | Composite::Gelu { .. }
        | Composite::Silu
        | Composite::Rope { .. } => 1..=1,
        Composite::RmsNorm { .. }
        | Composite::CrossEntropy
        | Composite::ClipByGlobalNorm { .. }
        | Composite::AttentionLse { .. } => 2..=2,
        Composite::LayerNorm { .. } | Composite::Attention { .. } => 3..=3,
        Composite::Linear => 2..=3,
        Composite::AttentionGrad { .. } | Composite::AdamW { .. } => 6..=6,
        Composite::GlobalNorm => 0..=usize::MAX,
    }
}

fn with_last_axis<'g>(c: &Composite, b: &'g Builder, x: &[T<'g>], f: impl FnOnce(usize) -> T<'g>) -> T<'g> {
    match x[0].rank() {
        0 => b.fail(c.name(), format!("{} needs an operand of rank 1 or more, found {}", c.name(), x[0].ty()), x),
        rank => f(rank - 1),
    }
}

/// log sum e^x along `axis` (extent 1 in the result), shifted by the largest element.
fn log_sum_exp<'g>(x: T<'g>, axis: usize) -> T<'g> {
    let top = x.reduce_max(&[axis]);
    (x - top).exp().sum(&[axis]).log() + top
}

fn linear<'g>(b: &'g Builder, x: &[T<'g>]) -> T<'g> {
    let rank = x[0].rank();
    if rank == 0 || rank > 20 || x[1].rank() != 2 {
        let message = format!("linear needs x [.., I] and a weight [O, I], found {} and {}", x[0].ty(), x[1].ty());
        return b.fail("linear", message, x);
    }
    let lead: Vec<u8> = (0..rank as u8 - 1).map(|i| b'a' + i).collect();
    let (i, o) = (b'z', b'y');
    let spec = ContractSpec {
        lhs: lead.iter().copied().chain([i]).collect(),
        rhs: vec![o, i],
        out: lead.iter().copied().chain([o]).collect(),
    };
    let y = b.node(Op::Contract(spec.canonical()), &x[..2]);
    match x.get(2) {
        Some(bias) => y + *bias,
        None => y,
    }
}

fn attention_operands<'g>(c: &Composite, b: &'g Builder, x: &[T<'g>], causal: bool) -> Option<T<'g>> {
    let (q, k) = (x[0].shape(), x[1].shape());
    let fits = q.len() == 4
        && k.len() == 4
        && q[0] == k[0]
        && q[1] == k[1]
        && q[3] == k[3]
        && (!causal || q[2] == k[2])
        && x.get(2).is_none_or(|v| v.shape() == k);
    (!fits).then(|| {
        let message = format!(
            "{} needs q [B,H,T,D] and k, v [B,H,S,D]{}, found {} and {}",
            c.name(),
            if causal { " with T = S" } else { "" },
            x[0].ty(),
            x[1].ty()
        );
        b.fail(c.name(), message, x)
    })
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

fn attention_grad<'g>(b: &'g Builder, x: &[T<'g>], wrt: Wrt, causal: bool, scale: f64) -> T<'g> {
    let [q, k, v, out, lse, dout] = [x[0], x[1], x[2], x[3], x[4], x[5]];
    let mut rows = q.shape();
    rows[3] = 1;
    let p = (masked_scores(b, q, k, causal, scale) - lse.reshape(rows)).exp();
    if wrt == Wrt::V {
        return p.contract("bhts,bhtd->bhsd", dout);
    }
    let dp = dout.contract("bhtd,bhsd->bhts", v);
    let ds = p * (dp - (dout * out).sum(&[3])) * scale;
    match wrt {
        Wrt::Q => ds.contract("bhts,bhsd->bhtd", k),
        _ => ds.contract("bhts,bhtd->bhsd", q),
    }
}

fn rope<'g>(b: &'g Builder, x: T<'g>, base: f64) -> T<'g> {
    let shape = x.shape();
    let (rank, d) = (shape.len(), shape.last().copied().unwrap_or(0));
    if rank < 2 || d % 2 != 0 {
        return b.fail("rope", format!("rope needs x [.., T, D] with D even, found {}", x.ty()), &[x]);
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
