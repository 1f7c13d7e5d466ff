//! Gradients of composites in closed form.
//!
//! A composite is here when its closed form needs less work or less memory than the gradient of its expansion. Values of the
//! forward computation that a rule needs are written as the expansion writes them, so that common subexpression elimination
//! finds them there. Tests prove every rule equal to the gradient of the expansion.

use tinygpt_ir::op::{Composite, GeluForm, Wrt};
use tinygpt_ir::{DType, T};

use super::rules::{Cotangents, Site};

/// Whether a composite has a rule here; the others are expanded before differentiation.
pub fn has_rule(c: &Composite) -> bool {
    match c {
        Composite::Softmax { .. }
        | Composite::LogSoftmax { .. }
        | Composite::LayerNorm { .. }
        | Composite::Gelu { .. }
        | Composite::Silu
        | Composite::CrossEntropy
        | Composite::Attention { .. } => true,
        Composite::RmsNorm { .. }
        | Composite::Linear
        | Composite::AttentionLse { .. }
        | Composite::AttentionGrad { .. }
        | Composite::Rope { .. }
        | Composite::GlobalNorm
        | Composite::SquareSums { .. }
        | Composite::ClipByGlobalNorm { .. }
        | Composite::AdamW { .. } => false,
    }
}

pub(super) fn pull<'g>(c: &Composite, s: &Site<'g>) -> Cotangents<'g> {
    let (x, y, g) = (&s.x, s.y, s.g);
    Cotangents::Of(match c {
        // dx = y (g - sum g y)
        Composite::Softmax { axis } => vec![s.to(0, || y * (g - (g * y).sum(&[*axis])))],
        // dx = g - softmax(x) sum g
        Composite::LogSoftmax { axis } => vec![s.to(0, || g - x[0].softmax(*axis) * g.sum(&[*axis]))],
        Composite::LayerNorm { eps } => layer_norm(s, eps.0),
        // dx = g f'(x), with f' one value of the forward side: it can be computed and kept where f is.
        Composite::Gelu { form } => vec![s.to(0, || g * gelu_slope(x[0], *form))],
        // f' = s (1 + x (1 - s)), s = 1 / (1 + e^-x)
        Composite::Silu => vec![s.to(0, || {
            let sigmoid = ((-x[0]).exp() + 1.0).recip();
            g * (sigmoid * (x[0] * (1.0 - sigmoid) + 1.0))
        })],
        // dx = (softmax(x) - onehot(target)) g / rows
        Composite::CrossEntropy => {
            let logits = || {
                let shape = x[0].shape();
                let last = shape.len() - 1;
                let mut rows = shape.clone();
                rows[last] = 1;
                let count: usize = rows.iter().product();
                let hit = s.b.iota(shape.clone(), DType::I32, last).eq(x[1].reshape(rows));
                let p = x[0].softmax(last);
                hit.select(p - 1.0, p) * (g * (1.0 / count as f64))
            };
            vec![s.to(0, logits), None]
        }
        Composite::Attention { causal, scale } => {
            let [q, k, v] = [x[0], x[1], x[2]];
            let lse = q.attention_lse(k, *causal, scale.0);
            let grad = |wrt| q.attention_grad(wrt, [k, v, y, lse, g], *causal, scale.0);
            vec![s.to(0, || grad(Wrt::Q)), s.to(1, || grad(Wrt::K)), s.to(2, || grad(Wrt::V))]
        }
        Composite::RmsNorm { .. }
        | Composite::Linear
        | Composite::AttentionLse { .. }
        | Composite::AttentionGrad { .. }
        | Composite::Rope { .. }
        | Composite::GlobalNorm
        | Composite::SquareSums { .. }
        | Composite::ClipByGlobalNorm { .. }
        | Composite::AdamW { .. } => return Cotangents::None("it must be expanded first"),
    })
}

/// The derivative of gelu at x.
fn gelu_slope<'g>(x: T<'g>, form: GeluForm) -> T<'g> {
    use std::f64::consts::{FRAC_1_SQRT_2, PI};
    match form {
        // cdf(x) + x pdf(x) of the standard normal distribution
        GeluForm::Erf => {
            let cdf = (x * FRAC_1_SQRT_2).erf() * 0.5 + 0.5;
            let pdf = (x * x * -0.5).exp() * (1.0 / (2.0 * PI).sqrt());
            cdf + x * pdf
        }
        // With t = tanh(u): (1 + t) / 2 + x (1 - t^2) u' / 2
        GeluForm::Tanh => {
            let rate = (2.0 / PI).sqrt();
            let t = ((x + x * x * x * 0.044715) * rate).tanh();
            let inner = x * x * (3.0 * 0.044715 * rate) + rate;
            t * 0.5 + 0.5 + x * (1.0 - t * t) * inner * 0.5
        }
    }
}

/// With n = (x - mean) rstd and y = n w + b, and h = g w:
/// dx = rstd (h - mean h - n mean(h n)), dw = sum over rows of g n, db = sum over rows of g.
fn layer_norm<'g>(s: &Site<'g>, eps: f64) -> Vec<Option<T<'g>>> {
    let ([x, weight, bias], g) = ([s.x[0], s.x[1], s.x[2]], s.g);
    let last = x.rank() - 1;
    let lead: Vec<usize> = (0..last).collect();
    let centred = x - x.mean(&[last]);
    let rstd = ((centred * centred).mean(&[last]) + eps).rsqrt();
    let normal = centred * rstd;
    let dx = || {
        let h = g * weight;
        rstd * (h - h.mean(&[last]) - normal * (h * normal).mean(&[last]))
    };
    vec![
        s.to(0, dx),
        s.to(1, || (g * normal).sum(&lead).reshape(weight.shape())),
        s.to(2, || g.sum(&lead).reshape(bias.shape())),
    ]
}
