//! Recipes of composites.

use super::RandomOptions;
use super::generator::{Generator, Order, Value};
use super::recipes::{Recipe, apply};
use crate::op::{AdamWPart, Composite, GeluForm, Op, Real, Wrt};
use crate::types::{DType, Shape};

pub(super) fn extend(table: &mut Vec<Recipe>, o: &RandomOptions) {
    let all: &[Recipe] = &[
        softmax,
        softmax,
        layer_norm,
        rms_norm,
        activation,
        activation,
        linear,
        linear,
        attention,
        rope,
        clip,
        square_sums,
    ];
    table.extend(all);
    if o.integers {
        table.push(cross_entropy);
    }
    if !o.differentiable {
        let all: &[Recipe] = &[attention_grad, adamw];
        table.extend(all);
    }
}

fn composite<'g>(g: &mut Generator<'g>, c: Composite, x: &[Value<'g>], lo: f64, hi: f64) -> Value<'g> {
    let t = apply(g, Op::Composite(c), x);
    g.push(t, lo, hi, Order::Free)
}

fn softmax(g: &mut Generator<'_>) {
    let x = g.float_of(1, Order::Free);
    let axis = g.rng.below(x.t.rank());
    if g.rng.chance(50) {
        composite(g, Composite::Softmax { axis }, &[x], 0.0, 1.0);
    } else {
        let lo = x.lo - x.hi - (x.t.dim(axis) as f64).ln();
        composite(g, Composite::LogSoftmax { axis }, &[x], lo, 0.0);
    }
}

/// A parameter of the last axis' extent.
fn per_channel<'g>(g: &mut Generator<'g>, x: Value<'g>) -> Value<'g> {
    let shape = x.t.shape();
    g.tensor(&shape[shape.len() - 1..])
}

fn layer_norm(g: &mut Generator<'_>) {
    let x = g.float_of(1, Order::Free);
    let (weight, bias) = (per_channel(g, x), per_channel(g, x));
    let eps = Real(g.rng.pick(&[1e-3, 1e-2]));
    let channels = x.t.dim(x.t.rank() - 1) as f64;
    let bound = channels.sqrt() * weight.magnitude() + bias.magnitude();
    composite(g, Composite::LayerNorm { eps }, &[x, weight, bias], -bound, bound);
}

fn rms_norm(g: &mut Generator<'_>) {
    let x = g.float_of(1, Order::Free);
    let weight = per_channel(g, x);
    let eps = Real(g.rng.pick(&[1e-3, 1e-2]));
    let bound = (x.t.dim(x.t.rank() - 1) as f64).sqrt() * weight.magnitude();
    composite(g, Composite::RmsNorm { eps }, &[x, weight], -bound, bound);
}

fn activation(g: &mut Generator<'_>) {
    let x = g.float();
    let c = g.rng.pick(&[0, 1, 2]);
    let c = match c {
        0 => Composite::Gelu { form: GeluForm::Erf },
        1 => Composite::Gelu { form: GeluForm::Tanh },
        _ => Composite::Silu,
    };
    // All lie between -0.28 (at x = -1.28 for silu) and x.
    composite(g, c, &[x], -0.3, x.hi.max(0.0));
}

fn linear(g: &mut Generator<'_>) {
    let x = g.float_of(1, Order::Free);
    let x = g.within(x, 4.0);
    let shape = x.t.shape();
    let i = shape[shape.len() - 1];
    // Siblings, as the projections of attention.
    for _ in 0..g.rng.pick(&[1, 1, 2, 3]) {
        let o = g.rng.range(1, g.o.max_extent);
        let weight = g.tensor(&[o, i]);
        let weight = g.within(weight, 4.0);
        let mut bound = i as f64 * x.magnitude() * weight.magnitude();
        let mut inputs = vec![x, weight];
        if g.rng.chance(60) {
            let bias = g.tensor(&[o]);
            bound += bias.magnitude();
            inputs.push(bias);
        }
        composite(g, Composite::Linear, &inputs, -bound, bound);
    }
}

/// q, k and v of one attention.
struct Heads<'g> {
    q: Value<'g>,
    k: Value<'g>,
    v: Value<'g>,
    causal: bool,
    scale: Real,
}

fn heads<'g>(g: &mut Generator<'g>) -> Heads<'g> {
    let causal = g.rng.chance(60);
    let (b, h, t, d) = (g.rng.range(1, 2), g.rng.range(1, 2), g.rng.range(1, 5), g.rng.range(1, 4));
    let s = if causal { t } else { g.rng.range(1, 5) };
    let (queries, keys): (Shape, Shape) = (vec![b, h, t, d], vec![b, h, s, d]);
    let q = g.tensor(&queries);
    let k = g.tensor(&keys);
    let v = if g.rng.chance(20) { k } else { g.tensor(&keys) };
    let (q, k) = (g.within(q, 4.0), g.within(k, 4.0));
    Heads { q, k, v, causal, scale: Real((d as f64).sqrt().recip()) }
}

fn attention(g: &mut Generator<'_>) {
    let Heads { q, k, v, causal, scale } = heads(g);
    composite(g, Composite::Attention { causal, scale }, &[q, k, v], v.lo, v.hi);
    if g.rng.chance(40) {
        composite(g, Composite::AttentionLse { causal, scale }, &[q, k], -40.0, 40.0);
    }
}

/// The siblings that the gradient of attention is made of.
fn attention_grad(g: &mut Generator<'_>) {
    let Heads { q, k, v, causal, scale } = heads(g);
    let v = g.within(v, 4.0);
    let out = composite(g, Composite::Attention { causal, scale }, &[q, k, v], v.lo, v.hi);
    let lse = composite(g, Composite::AttentionLse { causal, scale }, &[q, k], -40.0, 40.0);
    let dout = g.tensor(&q.t.shape());
    let dout = g.within(dout, 4.0);
    for wrt in Wrt::ALL {
        let c = Composite::AttentionGrad { wrt: *wrt, causal, scale };
        // At most 5 queries, 4 channels, values and gradients of 4, twice for the row's mean.
        composite(g, c, &[q, k, v, out, lse, dout], -2560.0, 2560.0);
    }
}

fn rope(g: &mut Generator<'_>) {
    let rank = g.rng.range(1, 3);
    let mut shape = g.shape(rank);
    shape.push(2 * g.rng.range(1, 3));
    let x = g.tensor(&shape);
    let base = Real(g.rng.pick(&[10.0, 10000.0]));
    let bound = x.magnitude() * std::f64::consts::SQRT_2;
    composite(g, Composite::Rope { base }, &[x], -bound, bound);
}

/// Gradient clipping: the norm of several tensors and one of them scaled by it.
fn clip(g: &mut Generator<'_>) {
    let x = g.float();
    // Keeps the norm off 0, where the square root has no slope.
    let away = g.positive(x);
    let mut parts = vec![away];
    for _ in 0..g.rng.below(3) {
        parts.push(g.float());
    }
    let squares: f64 = parts.iter().map(|v| v.magnitude().powi(2) * v.t.ty().numel() as f64).sum();
    let norm = composite(g, Composite::GlobalNorm, &parts, 0.25, squares.sqrt());
    // Far on one side of the kink: the norm is at least 1/4.
    let max_norm = if g.rng.chance(70) { 0.125 } else { norm.hi + 1.0 };
    let x = g.rng.pick(&parts);
    composite(g, Composite::ClipByGlobalNorm { max_norm: Real(max_norm) }, &[x, norm], x.lo.min(0.0), x.hi.max(0.0));
}

/// Sums of squares of blocks of several tensors, perhaps one of them twice.
fn square_sums(g: &mut Generator<'_>) {
    let parts: Vec<Value<'_>> = (0..g.rng.range(1, 4)).map(|_| g.float()).collect();
    let block = g.rng.pick(&[1, 3, 4, 4096]);
    let most = parts.iter().map(|v| v.magnitude().powi(2) * v.t.ty().numel().min(block) as f64).fold(0.0, f64::max);
    composite(g, Composite::SquareSums { block }, &parts, 0.0, most);
}

fn cross_entropy(g: &mut Generator<'_>) {
    let x = g.float_of(1, Order::Free);
    let shape = x.t.shape();
    let classes = shape[shape.len() - 1];
    // Targets of their own: out of range they would select nothing.
    let targets = g.param(&shape[..shape.len() - 1], DType::I32);
    let hi = x.hi - x.lo + (classes as f64).ln();
    composite(g, Composite::CrossEntropy, &[x, targets], 0.0, hi);
}

fn adamw(g: &mut Generator<'_>) {
    let shape = g.any_shape();
    let (p, grad, m, v) = (g.tensor(&shape), g.tensor(&shape), g.tensor(&shape), g.tensor(&shape));
    let [p, grad, m] = [p, grad, m].map(|x| g.within(x, 4.0));
    let v = g.positive(v);
    let lr = g.constant([]);
    let step = g.tensor(&[]);
    let step = g.positive(step);
    let c = |part| Composite::AdamW {
        part,
        beta1: Real(0.9),
        beta2: Real(0.95),
        eps: Real(1e-8),
        decay: Real(if shape.len() >= 2 { 0.1 } else { 0.0 }),
    };
    let inputs = [p, grad, m, v, lr, step];
    composite(g, c(AdamWPart::Moment1), &inputs, -4.0, 4.0);
    composite(g, c(AdamWPart::Moment2), &inputs, 0.0, v.hi.max(16.0));
    // rate = 2 / (1 - 0.9^0.25) = 77; the mean moment 4 over the root of at least 0.95 / 4.
    composite(g, c(AdamWPart::Param), &inputs, -700.0, 700.0);
}
