//! Gradients against central finite differences in f64, for every operation and for random graphs.
//!
//! The upstream gradient is random, never all ones: the loss is the contraction of the result with a random tensor.

mod common;

use common::{difference, run, values};
use tinygpt_ir::op::{AdamWPart, GeluForm, Wrt};
use tinygpt_ir::random::{RandomOptions, random_graph, random_inputs};
use tinygpt_ir::spec::OPS;
use tinygpt_ir::{Builder, DType, Graph, Init, Op, ParamId, T, Tensor, TensorType};
use tinygpt_passes::autodiff::{gradients, has_rule};
use tinygpt_passes::expand::expand_all;
use tinygpt_passes::pass::{Pass, Stats};
use tinygpt_passes::simplify::simplify;

/// One case: the operation it is about, and a value made with it from weights and inputs.
type Case = (&'static str, for<'g> fn(&'g Builder) -> T<'g>);

fn w<'g>(b: &'g Builder, name: &str, shape: &[usize]) -> T<'g> {
    b.weight(name, shape, Init::Zeros)
}

fn ids<'g>(b: &'g Builder, name: &str, shape: &[usize]) -> T<'g> {
    b.input(name, TensorType::new(DType::I32, shape))
}

const ODD: &[usize] = &[3, 1, 5];

/// At least one case for each differentiable operation.
const CASES: &[Case] = &[
    ("neg", |b| -w(b, "x", ODD)),
    ("exp", |b| w(b, "x", ODD).exp()),
    ("log", |b| w(b, "x.pos", ODD).log()),
    ("sqrt", |b| w(b, "x.pos", ODD).sqrt()),
    ("rsqrt", |b| w(b, "x.pos", ODD).rsqrt()),
    ("recip", |b| w(b, "x.pos", ODD).recip()),
    ("tanh", |b| w(b, "x", ODD).tanh()),
    ("erf", |b| w(b, "x", ODD).erf()),
    ("sin", |b| w(b, "x", ODD).sin()),
    ("cos", |b| w(b, "x", ODD).cos()),
    ("add", |b| w(b, "x", &[3, 1, 5]) + w(b, "y", &[7, 1])),
    ("add", |b| {
        // One operand twice.
        let x = w(b, "x", &[3]);
        x.exp() + x.exp() + x
    }),
    ("sub", |b| w(b, "x", ODD) - w(b, "y", ODD)),
    ("mul", |b| w(b, "x", ODD) * w(b, "y", ODD)),
    ("mul", |b| {
        let x = w(b, "x", &[]);
        x * x
    }),
    ("div", |b| w(b, "x", ODD) / w(b, "y.pos", ODD)),
    ("max", |b| w(b, "x", ODD).max(w(b, "y", ODD))),
    ("min", |b| w(b, "x", ODD).min(w(b, "y", ODD))),
    ("select", |b| w(b, "x", ODD).lt(0.25).select(w(b, "y", ODD), w(b, "z", ODD))),
    // To its own type: a cast to f16 has steps, see below.
    ("cast", |b| b.node(Op::Cast(DType::F32), &[w(b, "x", ODD)]).exp()),
    ("reduce_sum", |b| w(b, "x", &[3, 4, 1, 5]).sum(&[1, 2])),
    ("reduce_sum", |b| w(b, "x", &[3, 5]).sum(&[0, 1])),
    ("reduce_max", |b| w(b, "x", &[3, 4, 5]).reduce_max(&[0, 2])),
    ("reduce_max", |b| w(b, "x", &[1, 7]).reduce_max(&[1])),
    ("broadcast", |b| w(b, "x", &[3, 1, 1]).broadcast_to([3, 4, 1])),
    ("broadcast", |b| w(b, "x", &[]).broadcast_to([2, 3])),
    ("reshape", |b| w(b, "x", &[3, 4]).reshape([2, 1, 6])),
    ("transpose", |b| w(b, "x", &[2, 3, 1, 5]).transpose([3, 0, 2, 1])),
    ("slice", |b| w(b, "x", &[5, 1, 7]).slice([1, 0, 3], [4, 1, 4])),
    ("pad", |b| w(b, "x", &[2, 1, 3]).pad([1, 0, 2], [0, 3, 1], 1.5)),
    ("concat", |b| {
        let x = w(b, "x", &[2, 3]);
        b.concat(&[x, w(b, "y", &[2, 1]), x * 2.0], 1)
    }),
    ("contract", |b| w(b, "x", &[2, 3, 5]).contract("bti,oi->bto", w(b, "y", &[7, 5]))),
    ("contract", |b| w(b, "x", &[2, 3, 5]).contract("bik,bkj->jbi", w(b, "y", &[2, 5, 1]))),
    ("contract", |b| w(b, "x", &[3, 5]).contract("ij,ji->", w(b, "y", &[5, 3]))),
    ("contract", |b| w(b, "x", &[3]).contract("i,j->ji", w(b, "y", &[5]))),
    ("contract", |b| w(b, "x", &[3, 5]).contract("ij,ij->ji", w(b, "y", &[3, 5]))),
    ("contract", |b| {
        let x = w(b, "x", &[3, 3]);
        x.contract("ij,jk->ik", x)
    }),
    ("gather", |b| w(b, "x", &[4, 1, 3]).gather(ids(b, "ids", &[5, 3]))),
    ("gather", |b| w(b, "x", &[4]).gather(ids(b, "ids", &[]))),
    ("scatter_add", |b| w(b, "x", &[4, 3]).scatter_add(ids(b, "ids", &[2, 5]), w(b, "u", &[2, 5, 3]))),
    ("dynamic_slice", |b| w(b, "x", &[5, 3]).dynamic_slice(&[ids(b, "i", &[]), ids(b, "j", &[])], [2, 3])),
    ("dynamic_update", |b| {
        w(b, "x", &[5, 3]).dynamic_update(w(b, "u", &[2, 1]), &[ids(b, "i", &[]), ids(b, "j", &[])])
    }),
    ("softmax", |b| w(b, "x", &[3, 1, 5]).softmax(2)),
    ("softmax", |b| w(b, "x", &[3, 5, 2]).softmax(1)),
    ("log_softmax", |b| w(b, "x", &[3, 7]).log_softmax(1)),
    ("log_softmax", |b| w(b, "x", &[3, 7]).log_softmax(0)),
    ("layer_norm", |b| w(b, "x", &[2, 3, 5]).layer_norm(w(b, "w", &[5]), w(b, "b", &[5]), 1e-5)),
    ("layer_norm", |b| w(b, "x", &[7]).layer_norm(w(b, "w", &[7]), w(b, "b", &[7]), 1e-2)),
    ("rms_norm", |b| w(b, "x", &[3, 1, 5]).rms_norm(w(b, "w", &[5]), 1e-5)),
    ("gelu", |b| w(b, "x", ODD).gelu(GeluForm::Erf)),
    ("gelu", |b| w(b, "x", ODD).gelu(GeluForm::Tanh)),
    ("silu", |b| w(b, "x", ODD).silu()),
    ("linear", |b| w(b, "x", &[2, 3, 5]).linear(w(b, "w", &[4, 5]), Some(w(b, "b", &[4])))),
    ("linear", |b| w(b, "x", &[5]).linear(w(b, "w", &[1, 5]), None)),
    ("attention", |b| qkv(b, [2, 2, 3, 3, 5]).attention(b, true)),
    ("attention", |b| qkv(b, [1, 2, 3, 4, 1]).attention(b, false)),
    ("attention_lse", |b| qkv(b, [1, 2, 3, 3, 5]).lse(true)),
    ("attention_lse", |b| qkv(b, [2, 1, 4, 3, 3]).lse(false)),
    ("attention_grad", |b| qkv(b, [1, 2, 3, 3, 3]).grad(b, Wrt::Q, true)),
    ("attention_grad", |b| qkv(b, [1, 2, 3, 3, 3]).grad(b, Wrt::K, true)),
    ("attention_grad", |b| qkv(b, [2, 1, 3, 4, 3]).grad(b, Wrt::V, false)),
    ("rope", |b| w(b, "x", &[2, 5, 6]).rope(100.0)),
    ("cross_entropy", |b| w(b, "x", &[2, 3, 7]).cross_entropy(ids(b, "targets", &[2, 3]))),
    ("cross_entropy", |b| w(b, "x", &[5]).cross_entropy(ids(b, "targets", &[]))),
    ("square_sums", |b| b.square_sums(&[w(b, "x", &[3, 5]), w(b, "y", &[]), w(b, "z", &[7])], 4)),
    ("global_norm", |b| b.global_norm(&[w(b, "x", &[3, 5]), w(b, "y", &[]), w(b, "z", &[7])])),
    // The gradient's norm on either side of the limit.
    ("clip_by_global_norm", |b| w(b, "x", ODD).clip_by_global_norm(w(b, "n.pos", &[]) + 1.0, 0.75)),
    ("clip_by_global_norm", |b| w(b, "x", ODD).clip_by_global_norm(w(b, "n.pos", &[]), 50.0)),
    ("adamw", |b| adamw(b, AdamWPart::Param)),
    ("adamw", |b| adamw(b, AdamWPart::Moment1)),
    ("adamw", |b| adamw(b, AdamWPart::Moment2)),
];

/// Operations without a gradient, and why.
const WITHOUT: &[(&str, &str)] = &[
    ("param", "where gradients end; every case differentiates one"),
    ("eq", "bool"),
    ("ne", "bool"),
    ("lt", "bool"),
    ("le", "bool"),
    ("gt", "bool"),
    ("ge", "bool"),
    ("reduce_argmax", "index"),
    ("iota", "constant"),
    ("splat", "constant"),
    ("random", "integer operands"),
];

struct Qkv<'g> {
    q: T<'g>,
    k: T<'g>,
    v: T<'g>,
}

/// Operands of attention: q [B,H,T,D], k and v [B,H,S,D].
fn qkv(b: &Builder, [batch, heads, t, s, d]: [usize; 5]) -> Qkv<'_> {
    let (q, keys) = ([batch, heads, t, d], [batch, heads, s, d]);
    Qkv { q: w(b, "q", &q), k: w(b, "k", &keys), v: w(b, "v", &keys) }
}

impl<'g> Qkv<'g> {
    fn attention(&self, _b: &'g Builder, causal: bool) -> T<'g> {
        self.q.attention(self.k, self.v, causal, 0.7)
    }
    fn lse(&self, causal: bool) -> T<'g> {
        self.q.attention_lse(self.k, causal, 0.7)
    }
    /// With out and lse free, so that their gradients are tested too.
    fn grad(&self, b: &'g Builder, wrt: Wrt, causal: bool) -> T<'g> {
        let shape = self.q.shape();
        let (out, dout) = (w(b, "out", &shape), w(b, "dout", &shape));
        let lse = w(b, "lse", &shape[..3]) + 2.0;
        self.q.attention_grad(wrt, [self.k, self.v, out, lse, dout], causal, 0.7)
    }
}

fn adamw(b: &Builder, part: AdamWPart) -> T<'_> {
    let [p, g, m] = ["p", "g", "m"].map(|n| w(b, n, &[3, 5]));
    let (v, lr, step) = (w(b, "v.pos", &[3, 5]), w(b, "lr.pos", &[]), w(b, "step.pos", &[]));
    p.adamw(part, [g, m, v, lr, step], 0.9, 0.95, 1e-3, 0.1)
}

/// The graph of a case: `loss` is the contraction of its value with a random tensor.
fn with_loss(name: &str, make: for<'g> fn(&'g Builder) -> T<'g>) -> Graph {
    let b = Builder::new(name);
    let y = make(&b).cast(DType::F32).flatten();
    let upstream = b.input("upstream", y.ty());
    b.output("loss", y.contract("i,i->", upstream));
    b.finish().unwrap()
}

fn weights(g: &Graph) -> Vec<ParamId> {
    g.params.iter().filter(|(_, p)| p.is_weight()).map(|(id, _)| id).collect()
}

/// The graph with one output `grad.NAME` a weight.
fn with_gradients(g: &Graph) -> Graph {
    Pass::Gradients.run(g, &mut Stats::default()).unwrap()
}

fn loss_of(g: &Graph, params: &[Tensor]) -> f64 {
    run(g, params).output("loss").unwrap().item().unwrap()
}

/// d loss / d (element i of parameter p) by central differences.
fn finite_difference(g: &Graph, params: &mut [Tensor], p: usize, i: usize) -> f64 {
    const H: f64 = 1e-5;
    let x = params[p].data[i];
    params[p].data[i] = x + H;
    let up = loss_of(g, params);
    params[p].data[i] = x - H;
    let down = loss_of(g, params);
    params[p].data[i] = x;
    (up - down) / (2.0 * H)
}

#[test]
fn every_case_agrees_with_finite_differences() {
    for (n, (name, make)) in CASES.iter().enumerate() {
        let g = with_loss(name, *make);
        assert!(g.nodes.values().any(|n| n.op.name() == *name), "case {n} for {name} does not contain it");
        let mut params = values(&g, 100 + n as u64);
        let result = run(&with_gradients(&g), &params);
        let mut nonzero = false;
        for p in weights(&g) {
            let grad = result.output(&format!("grad.{}", g.params[p].name)).unwrap().clone();
            assert_eq!(grad.ty, g.params[p].ty);
            for (i, got) in grad.data.iter().enumerate() {
                let expected = finite_difference(&g, &mut params, p.index(), i);
                nonzero |= expected.abs() > 1e-6;
                let bound = 2e-8 * (1.0 + expected.abs() + grad.data.iter().fold(0.0, |m: f64, x| m.max(x.abs())));
                let param = &g.params[p].name;
                assert!(
                    (got - expected).abs() <= bound,
                    "case {n} ({name}): d loss / d {param}[{i}] is {got}, by finite differences {expected}"
                );
            }
        }
        assert!(nonzero, "case {n} ({name}) tests nothing: its gradient is zero");
    }
}

/// A cast to f16 hands the gradient through, as if it did not round: exact where the numbers are of f16, a step of the differences apart.
#[test]
fn casts_to_f16_hand_the_gradient_through() {
    let g = with_loss("cast", |b| w(b, "x", &[8]).cast(DType::F16).cast(DType::F32));
    let mut params: Vec<Tensor> = g.params.values().map(|p| Tensor::splat(p.ty.clone(), 0.0)).collect();
    for (p, param) in params.iter_mut().enumerate() {
        param.data.iter_mut().enumerate().for_each(|(i, x)| *x = 0.5 + (i * (p + 3) + p) as f64 / 64.0);
    }
    let result = run(&with_gradients(&g), &params);
    let x = weights(&g)[0];
    let grad = result.output("grad.x").unwrap().data.clone();
    for (i, got) in grad.iter().enumerate() {
        let at = |step: f64| {
            let mut params = params.clone();
            params[x.index()].data[i] += step;
            loss_of(&g, &params)
        };
        assert_eq!(*got, (at(1.0 / 64.0) - at(-1.0 / 64.0)) * 32.0);
        assert_eq!(at(1e-5), at(0.0), "the cast does not round");
    }
}

#[test]
fn every_operation_has_a_case_or_a_reason() {
    for spec in OPS {
        let has_case = CASES.iter().any(|(name, _)| *name == spec.name);
        let without = WITHOUT.iter().any(|(name, _)| *name == spec.name);
        assert!(has_case != without, "{} needs a case or a reason why it has no gradient, and not both", spec.name);
    }
    for (name, _) in CASES {
        assert!(OPS.iter().any(|s| s.name == *name), "no operation is called {name}");
    }
}

/// Composites with a rule of their own: the same gradient as that of their expansion.
#[test]
fn composite_rules_equal_the_gradient_of_the_expansion() {
    let mut with_rule = Vec::new();
    for (n, (name, make)) in CASES.iter().enumerate() {
        let g = with_loss(name, *make);
        let Some(c) = g.nodes.values().find_map(|n| match &n.op {
            Op::Composite(c) if c.name() == *name => Some(c.clone()),
            _ => None,
        }) else {
            continue;
        };
        if has_rule(&c) {
            with_rule.push(*name);
        }
        let (own, expanded) = (with_gradients(&g), with_gradients(&expand_all(&g).unwrap()));
        let params = values(&g, 900 + n as u64);
        let (a, b) = (run(&own, &params), run(&expanded, &params));
        for ((name, x), (_, y)) in a.outputs.iter().zip(&b.outputs) {
            let d = difference(x, y);
            assert!(d <= 1e-9, "case {n}: {name} of {} differs by {d:e}", c.name());
        }
    }
    for name in ["softmax", "log_softmax", "layer_norm", "cross_entropy", "attention"] {
        assert!(with_rule.contains(&name), "{name} has no rule of its own");
    }
}

/// What no float path connects to the loss has a gradient of exactly zero.
#[test]
fn booleans_and_indices_end_the_path() {
    let b = Builder::new("cut");
    let x = b.weight("x", [3], Init::Zeros);
    let unused = b.weight("unused", [2], Init::Zeros);
    let compared = x.lt(0.5).cast(DType::F32);
    let index = x.argmax(0).cast(DType::F32);
    let whole = x.cast(DType::I32).cast(DType::F32);
    b.output("loss", (compared + index + whole).sum(&[0]).reshape([]));
    let _ = unused;
    let g = with_gradients(&b.finish().unwrap());
    let result = run(&g, &values(&g, 1));
    assert_eq!(result.output("grad.x").unwrap().data, [0.0; 3]);
    assert_eq!(result.output("grad.unused").unwrap().data, [0.0; 2]);
}

/// Equal elements share the gradient of `reduce_max`; `max` and `min` give it to the first operand.
#[test]
fn ties() {
    let b = Builder::new("ties");
    let x = b.weight("x", [4], Init::Zeros);
    let (y, z) = (b.weight("y", [2], Init::Zeros), b.weight("z", [2], Init::Zeros));
    b.output("loss", (x.reduce_max(&[0]) + (y.max(z) + y.min(z)).sum(&[0])).reshape([]));
    let g = with_gradients(&b.finish().unwrap());
    let params = [vec![3.0, 1.0, 3.0, 2.0], vec![1.0, 2.0], vec![1.0, 2.0]];
    let params: Vec<Tensor> =
        params.iter().map(|d| Tensor::new(TensorType::f32([d.len()]), d.clone()).unwrap()).collect();
    let result = run(&g, &params);
    assert_eq!(result.output("grad.x").unwrap().data, [0.5, 0.0, 0.5, 0.0]);
    assert_eq!(result.output("grad.y").unwrap().data, [2.0, 2.0]);
    assert_eq!(result.output("grad.z").unwrap().data, [0.0, 0.0]);
}

/// The derivative of a gradient: differentiating twice works and is right.
#[test]
fn second_derivatives() {
    for name in ["layer_norm", "attention", "softmax", "gelu"] {
        let (_, make) = CASES.iter().find(|(n, _)| *n == name).unwrap();
        let g = with_loss(name, *make);
        let first = gradients(&g, "loss", &weights(&g)).unwrap();
        // The loss of the second pass: one gradient against random numbers.
        let b = Builder::on(Graph { outputs: Vec::new(), ..first.graph });
        let grad = b.handle(first.grads[0]).flatten();
        let direction = b.input("direction", grad.ty());
        b.output("loss", grad.contract("i,i->", direction));
        let g = b.finish().unwrap();
        let mut params = values(&g, 7);
        let result = run(&with_gradients(&g), &params);
        for p in weights(&g) {
            let grad = result.output(&format!("grad.{}", g.params[p].name)).unwrap().clone();
            for i in 0..grad.data.len() {
                let expected = finite_difference(&g, &mut params, p.index(), i);
                let (got, bound) = (grad.data[i], 1e-7 * (1.0 + expected.abs()));
                assert!((got - expected).abs() <= bound, "{name}: {got} and {expected} at {i}");
            }
        }
    }
}

/// Random graphs: the gradient along a random direction, before and after simplification and expansion.
#[test]
fn random_graphs() {
    let options = RandomOptions { differentiable: true, ..RandomOptions::default() };
    for seed in 0..120 {
        let g = random_graph(seed, &options);
        let with = with_gradients(&g);
        let inputs = random_inputs(&g, seed);
        let params: Vec<Tensor> =
            g.params.values().zip(inputs).map(|(p, d)| Tensor::new(p.ty.clone(), d).unwrap()).collect();
        let result = run(&with, &params);

        let mut direction = params.clone();
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        for p in weights(&g) {
            for d in &mut direction[p.index()].data {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                *d = (state >> 40) as f64 / f64::from(1 << 23) - 1.0;
            }
        }
        let moved = |h: f64| {
            let mut at = params.clone();
            for p in weights(&g) {
                let p = p.index();
                at[p].data.iter_mut().zip(&direction[p].data).for_each(|(x, d)| *x += h * d);
            }
            loss_of(&g, &at)
        };
        let h = 1e-6;
        let expected = (moved(h) - moved(-h)) / (2.0 * h);
        let (mut got, mut size) = (0.0, 1.0);
        for p in weights(&g) {
            let grad = result.output(&format!("grad.{}", g.params[p].name)).unwrap();
            for (x, d) in grad.data.iter().zip(&direction[p.index()].data) {
                got += x * d;
                size += (x * d).abs();
            }
        }
        let loss = result.output("loss").unwrap().item().unwrap();
        // Rounding of the losses, and the third derivative.
        let bound = 1e-14 * loss.abs() / h + 1e-6 * size;
        assert!((got - expected).abs() <= bound, "seed {seed}: {got} along the direction, {expected} by differences");

        let simple = simplify(&expand_all(&with).unwrap(), &mut Stats::default());
        common::assert_agree(&with, &simple, &params, 1e-9, &format!("seed {seed}"));
    }
}

#[test]
fn errors_say_what_is_wrong() {
    let b = Builder::new("errors");
    let x = b.weight("x", [3], Init::Zeros);
    let n = b.input("n", TensorType::new(DType::I32, []));
    b.output("y", x * 2.0);
    b.output("count", n);
    let g = b.finish().unwrap();
    let message = |loss: &str, wrt: u32| gradients(&g, loss, &[ParamId(wrt)]).unwrap_err().message;
    assert_eq!(message("loss", 0), "the graph has no output `loss`; it has: y, count");
    assert_eq!(message("y", 0), "the output `y` is f32[3]; a gradient is taken of a float scalar, such as f32[]");
    assert!(message("count", 0).contains("i32[]"));
    let b = Builder::new("errors");
    let n = b.input("n", TensorType::new(DType::I32, []));
    b.output("loss", n.cast(DType::F32));
    let g = b.finish().unwrap();
    let error = gradients(&g, "loss", &[ParamId(0)]).unwrap_err();
    assert_eq!(error.message, "`n` is i32[]; only floats have a gradient");
}

/// Gradient nodes say which forward nodes they belong to.
#[test]
fn gradient_nodes_carry_scope_and_line() {
    let b = Builder::new("scopes");
    let x = {
        let _scope = b.scope("blocks.0");
        let x = b.weight("x", [3], Init::Zeros);
        let _scope = b.scope("mlp");
        x.tanh()
    };
    b.output("loss", x.sum(&[0]).reshape([]));
    let forward = b.finish().unwrap();
    let g = with_gradients(&forward);
    let before = forward.nodes.len();
    let added: Vec<_> = g.nodes.iter().skip(before).map(|(id, n)| (g.scope(id), n)).collect();
    assert!(added.iter().any(|(scope, _)| *scope == "grad/blocks.0.mlp"));
    assert!(added.iter().any(|(scope, _)| *scope == "grad"));
    assert!(added.iter().all(|(scope, n)| scope.starts_with("grad") && n.loc.is_some()));
    let tanh = forward.nodes.values().find(|n| n.op.name() == "tanh").unwrap();
    assert!(added.iter().any(|(scope, n)| *scope == "grad/blocks.0.mlp" && n.loc == tanh.loc));
}
