//! Simplification: each rule alone, values (special ones too), random graphs, speed.

mod common;

use common::{assert_agree, difference, run, values};
use tinygpt_ir::interp::eval;
use tinygpt_ir::op::{Binary, Op, Reduce, Unary};
use tinygpt_ir::random::{RandomOptions, random_graph, random_inputs};
use tinygpt_ir::{Builder, DType, Graph, Init, Literal, NodeId, T, Tensor, TensorType};
use tinygpt_models::{PRESETS, gpt};
use tinygpt_passes::expand::{expand, expand_all};
use tinygpt_passes::optimizer::{AdamWConfig, training_step};
use tinygpt_passes::pass::{Pipeline, Stats};
use tinygpt_passes::simplify::{cse, dce, rules, simplify};

type Make = for<'g> fn(&'g Builder) -> T<'g>;

/// A weight; one name is one parameter.
fn p<'g>(b: &'g Builder, name: &str, dtype: DType, shape: &[usize]) -> T<'g> {
    match b.with_graph(|g| g.param_named(name)) {
        Some(id) => b.param_node(id).unwrap(),
        None => b.input(name, TensorType::new(dtype, shape)),
    }
}
fn x(b: &Builder) -> T<'_> {
    p(b, "x", DType::F32, &[2, 3])
}
fn y(b: &Builder) -> T<'_> {
    p(b, "y", DType::F32, &[2, 3])
}
fn row(b: &Builder) -> T<'_> {
    p(b, "row", DType::F32, &[2, 1])
}
fn int(b: &Builder) -> T<'_> {
    p(b, "i", DType::I32, &[4])
}
fn truth(b: &Builder) -> T<'_> {
    p(b, "c", DType::Bool, &[2, 3])
}
fn wide(x: T<'_>) -> T<'_> {
    x.broadcast_to([2, 3])
}
fn splat<'g>(b: &'g Builder, shape: &[usize], c: f64) -> T<'g> {
    b.splat(shape, Literal::f32(c))
}
fn ints(b: &Builder, c: f64) -> T<'_> {
    b.splat([4], Literal::new(DType::I32, c))
}
fn binary<'g>(op: Binary, a: T<'g>, b: T<'g>) -> T<'g> {
    a.builder().node(Op::Binary(op), &[a, b])
}
/// A view node even where it changes nothing, which the methods of `T` leave out.
fn node<'g>(op: Op, x: T<'g>) -> T<'g> {
    x.builder().node(op, &[x])
}

/// Rule, left-hand side, what must remain of it.
const RULES: &[(&str, Make, Make)] = &[
    (
        "f(c, d) = the value of f",
        |b| (splat(b, &[2, 3], 2.0) * 3.0).exp().log(),
        |b| splat(b, &[2, 3], 6.0f64.exp().ln()),
    ),
    ("f(c, d) = the value of f", |b| ints(b, 2.0).lt(ints(b, 3.0)), |b| b.splat([4], Literal::new(DType::Bool, 1.0))),
    (
        "view(c) = c",
        |b| splat(b, &[2, 1], 2.0).broadcast_to([2, 3]).transpose([1, 0]).reshape([6]),
        |b| splat(b, &[6], 2.0),
    ),
    ("view(c) = c", |b| splat(b, &[2], 0.5).pad([1], [2], 0.5), |b| splat(b, &[5], 0.5)),
    ("view(c) = c", |b| b.concat(&[splat(b, &[2], 0.5), splat(b, &[3], 0.5)], 0), |b| splat(b, &[5], 0.5)),
    ("view(c) = c", |b| splat(b, &[7, 3], 0.5).gather(int(b)), |b| splat(b, &[4, 3], 0.5)),
    ("reduce(c) = c, n c or 0", |b| splat(b, &[2, 3], 2.0).sum(&[1]), |b| splat(b, &[2, 1], 6.0)),
    ("reduce(c) = c, n c or 0", |b| splat(b, &[2, 3], 2.0).reduce_max(&[0, 1]), |b| splat(b, &[1, 1], 2.0)),
    ("reduce(c) = c, n c or 0", |b| splat(b, &[2, 3], 2.0).argmax(1), |b| b.splat([2, 1], Literal::i32(0))),
    ("iota along an axis of extent 1 = 0", |b| b.iota([3, 1], DType::I32, 1), |b| b.splat([3, 1], Literal::i32(0))),
    ("c + x = x + c, c * x = x * c", |b| 2.0 + x(b), |b| x(b) + 2.0),
    ("c + x = x + c, c * x = x * c", |b| 2.0 * x(b), |b| x(b) * 2.0),
    ("x + 0 = x", |b| x(b) + 0.0, x),
    ("x + 0 = x", |b| int(b) + 0.0, int),
    ("x - 0 = x", |b| x(b) - 0.0, x),
    ("0 - x = -x", |b| 0.0 - x(b), |b| -x(b)),
    ("x * 1 = x", |b| x(b) * 1.0, x),
    ("x * -1 = -x", |b| x(b) * -1.0, |b| -x(b)),
    ("x * 0 = 0 (integers)", |b| int(b) * 0.0, |b| ints(b, 0.0)),
    ("x / 1 = x", |b| x(b) / 1.0, x),
    ("x / c = x * (1/c)", |b| x(b) / 3.0, |b| x(b) * (1.0 / 3.0)),
    ("1 / x = recip(x)", |b| 1.0 / x(b), |b| x(b).recip()),
    ("-(-x) = x", |b| -(-x(b)), x),
    ("-(x - y) = y - x", |b| -(x(b) - y(b)), |b| y(b) - x(b)),
    ("-(x * c) = x * -c", |b| -(x(b) * 2.0), |b| x(b) * -2.0),
    ("x + -y = x - y", |b| x(b) + -y(b), |b| x(b) - y(b)),
    ("-x + y = y - x", |b| -x(b) + y(b), |b| y(b) - x(b)),
    ("x - -y = x + y", |b| x(b) - -y(b), |b| x(b) + y(b)),
    ("-x * c = x * -c", |b| -x(b) * 2.0, |b| x(b) * -2.0),
    ("-x * y = -(x * y), -x / y = -(x / y)", |b| -x(b) * y(b), |b| -(x(b) * y(b))),
    ("-x * y = -(x * y), -x / y = -(x / y)", |b| -x(b) / y(b), |b| -(x(b) / y(b))),
    ("x * -y = -(x * y), x / -y = -(x / y)", |b| x(b) * -y(b), |b| -(x(b) * y(b))),
    ("x * -y = -(x * y), x / -y = -(x / y)", |b| x(b) / -y(b), |b| -(x(b) / y(b))),
    ("(x * c) * d = x * (c d)", |b| x(b) * 2.0 * 3.0, |b| x(b) * 6.0),
    ("(x * c) * d = x * (c d)", |b| int(b) * 2.0 * 3.0, |b| int(b) * 6.0),
    ("(x * c) * (y * d) = (x * y) * (c d)", |b| (x(b) * 2.0) * (y(b) * 3.0), |b| (x(b) * y(b)) * 6.0),
    ("((x * c) * y) * d = (x * y) * (c d)", |b| (x(b) * 2.0) * y(b) * 3.0, |b| (x(b) * y(b)) * 6.0),
    ("((x * c) * y) * d = (x * y) * (c d)", |b| (y(b) * (x(b) * 2.0)) * 3.0, |b| (x(b) * y(b)) * 6.0),
    ("(x + c) + d = x + (c + d) (integers)", |b| int(b) + 2.0 + 3.0, |b| int(b) + 5.0),
    ("max(x, x) = min(x, x) = x", |b| x(b).max(x(b)), x),
    ("max(x, x) = min(x, x) = x", |b| x(b).min(x(b)), x),
    ("cast to the own type = x", |b| node(Op::Cast(DType::F32), x(b)), x),
    ("cast(cast(x)) = x where the inner loses nothing", |b| truth(b).cast(DType::I32).cast(DType::Bool), truth),
    ("select(true, x, y) = x, select(false, x, y) = y", |b| ints(b, 1.0).ge(1.0).select(int(b), 7.0), int),
    ("select(true, x, y) = x, select(false, x, y) = y", |b| ints(b, 0.0).ge(1.0).select(int(b) + 1.0, int(b)), int),
    ("select(c, x, x) = x", |b| truth(b).select(x(b), x(b)), x),
    (
        "scatter_add(0, i, u) + y = scatter_add(y, i, u)",
        |b| splat(b, &[2, 3], 0.0).scatter_add(p(b, "k", DType::I32, &[2]), x(b)) + y(b),
        |b| y(b).scatter_add(p(b, "k", DType::I32, &[2]), x(b)),
    ),
    (
        "scatter_add(0, i, u) + y = scatter_add(y, i, u)",
        |b| y(b) + splat(b, &[2, 3], 0.0).scatter_add(p(b, "k", DType::I32, &[2]), x(b)),
        |b| y(b).scatter_add(p(b, "k", DType::I32, &[2]), x(b)),
    ),
    ("a view that changes nothing = x", |b| node(Op::Broadcast { shape: vec![2, 3] }, x(b)), x),
    ("a view that changes nothing = x", |b| node(Op::Reshape { shape: vec![2, 3] }, x(b)), x),
    ("a view that changes nothing = x", |b| node(Op::Transpose { perm: vec![0, 1] }, x(b)), x),
    ("a view that changes nothing = x", |b| x(b).slice([0, 0], [2, 3]), x),
    ("a view that changes nothing = x", |b| x(b).pad([0, 0], [0, 0], 1.0), x),
    ("a view that changes nothing = x", |b| b.concat(&[x(b)], 1), x),
    ("a view that changes nothing = x", |b| int(b).dynamic_slice(&[p(b, "s", DType::I32, &[])], [4]), int),
    (
        "reshape(reshape(x)) = reshape(x), likewise broadcast",
        |b| x(b).reshape([6]).reshape([3, 2]),
        |b| x(b).reshape([3, 2]),
    ),
    ("reshape(reshape(x)) = reshape(x), likewise broadcast", |b| x(b).reshape([6]).reshape([2, 3]), x),
    (
        "reshape(reshape(x)) = reshape(x), likewise broadcast",
        |b| p(b, "s", DType::F32, &[1, 1]).broadcast_to([2, 1]).broadcast_to([2, 3]),
        |b| p(b, "s", DType::F32, &[1, 1]).broadcast_to([2, 3]),
    ),
    (
        "transpose(transpose(x)) = transpose(x)",
        |b| p(b, "z", DType::F32, &[2, 3, 4]).transpose([1, 2, 0]).transpose([0, 2, 1]),
        |b| p(b, "z", DType::F32, &[2, 3, 4]).transpose([1, 0, 2]),
    ),
    ("transpose(transpose(x)) = transpose(x)", |b| x(b).transpose([1, 0]).transpose([1, 0]), x),
    (
        "slice(slice(x)) = slice(x)",
        |b| x(b).slice([0, 1], [2, 3]).slice([1, 0], [2, 1]),
        |b| x(b).slice([1, 1], [2, 2]),
    ),
    (
        "pad(pad(x)) = pad(x) with one value",
        |b| x(b).pad([1, 0], [0, 2], 1.0).pad([1, 1], [0, 0], 1.0),
        |b| x(b).pad([2, 1], [0, 2], 1.0),
    ),
    (
        "slice(pad(x)) = slice(x) inside x",
        |b| x(b).pad([1, 0], [0, 2], 1.0).slice([1, 1], [3, 3]),
        |b| x(b).slice([0, 1], [2, 3]),
    ),
    ("slice(concat(x, y)) = slice(x) inside x", |b| b.concat(&[x(b), y(b)], 1).slice([0, 3], [2, 6]), y),
    (
        "slice(concat(x, y)) = slice(x) inside x",
        |b| b.concat(&[x(b), y(b)], 0).slice([1, 1], [2, 2]),
        |b| x(b).slice([1, 1], [2, 2]),
    ),
    ("reducing an axis of extent 1 does nothing", |b| row(b).sum(&[1]), row),
    ("reducing an axis of extent 1 does nothing", |b| row(b).reduce_max(&[0, 1]), |b| row(b).reduce_max(&[0])),
    ("reducing an axis of extent 1 does nothing", |b| row(b).argmax(1), |b| b.splat([2, 1], Literal::i32(0))),
    ("sum(broadcast(x)) = n * sum(x), max(broadcast(x)) = max(x)", |b| wide(row(b)).sum(&[1]), |b| row(b) * 3.0),
    (
        "sum(broadcast(x)) = n * sum(x), max(broadcast(x)) = max(x)",
        |b| wide(row(b)).sum(&[0, 1]),
        |b| row(b).sum(&[0]) * 3.0,
    ),
    (
        "sum(broadcast(x)) = n * sum(x), max(broadcast(x)) = max(x)",
        |b| wide(row(b)).reduce_max(&[0, 1]),
        |b| row(b).reduce_max(&[0]),
    ),
    (
        "f(broadcast(x), broadcast(y), c) = broadcast(f(x, y, c))",
        |b| wide(row(b)).exp() * 2.0,
        |b| wide(row(b).exp() * 2.0),
    ),
    (
        "f(broadcast(x), broadcast(y), c) = broadcast(f(x, y, c))",
        |b| binary(Binary::Div, wide(row(b)), wide(p(b, "r", DType::F32, &[2, 1]))),
        |b| wide(row(b) / p(b, "r", DType::F32, &[2, 1])),
    ),
];

/// Left-hand sides of which others use a part, so that rewriting them would add work.
const SHARED: &[Make] = &[
    |b| {
        let n = -x(b);
        n * y(b) + n.exp()
    },
    |b| {
        let n = -x(b);
        y(b) / n + n.exp()
    },
    |b| {
        let (s, t) = (x(b) * 2.0, y(b) * 3.0);
        s * t + s.exp() + t.exp()
    },
    |b| {
        let s = x(b) * 2.0 * y(b);
        s * 3.0 + s.exp()
    },
    |b| {
        let s = splat(b, &[2, 3], 0.0).scatter_add(p(b, "k", DType::I32, &[2]), x(b));
        (s + y(b)) * s
    },
];

/// What must stay: near misses of rules, whose rewriting would change values.
const KEPT: &[(&str, Make)] = &[
    ("x * 0 is NaN where x is not finite", |b| x(b) * 0.0),
    ("x - x is NaN where x is not finite", |b| x(b) - x(b)),
    ("x / x is NaN at 0", |b| x(b) / x(b)),
    ("1e-40 is not normal in f32, nor is 1e40", |b| x(b) * 1e-20 * 1e-20),
    ("1/c would not be normal", |b| x(b) / 1e39),
    ("float sums are not regrouped", |b| x(b) + 1.0 + 2.0),
    ("f16 loses digits", |b| x(b).cast(DType::F16).cast(DType::F32)),
    ("pads of two values", |b| x(b).pad([1, 0], [0, 0], 1.0).pad([1, 0], [0, 0], 2.0)),
    ("the slice takes some of the pad", |b| x(b).pad([1, 0], [0, 0], 1.0).slice([0, 0], [2, 3])),
    ("the slice takes of both", |b| b.concat(&[x(b), y(b)], 1).slice([0, 2], [2, 4])),
    ("broadcasts of two shapes", |b| binary(Binary::Add, wide(row(b)), wide(p(b, "s", DType::F32, &[1, 3])))),
    ("max keeps a NaN of its first operand only", |b| binary(Binary::Max, splat(b, &[2, 3], 1.0), x(b))),
];

fn graph(make: Make) -> Graph {
    let b = Builder::new("rule");
    let value = make(&b);
    b.output("out", value);
    b.finish().unwrap()
}

/// The expression of a value, parameters by name.
fn expression(g: &Graph, id: NodeId) -> String {
    let n = &g.nodes[id];
    let inputs: Vec<String> = n.inputs.iter().map(|i| expression(g, *i)).collect();
    match &n.op {
        Op::Param(p) => g.params[*p].name.clone(),
        op => format!("{op:?}({})", inputs.join(", ")),
    }
}

/// Elements computed: those of all nodes but parameters, constants and views.
fn work(g: &Graph) -> usize {
    let computes = |op: &Op| !op.is_view() && !matches!(op, Op::Param(_) | Op::Splat { .. } | Op::Iota { .. });
    g.nodes.values().filter(|n| computes(&n.op)).map(|n| n.ty.numel()).sum()
}

fn simplified(g: &Graph) -> (Graph, Stats) {
    let mut stats = Stats::default();
    let s = simplify(g, &mut stats);
    tinygpt_ir::verify::verify(&s).unwrap();
    (s, stats)
}

/// Parameters full of infinities, NaN, zeros of both signs and numbers at the ends of f32.
fn special(g: &Graph) -> Vec<Tensor> {
    const SPECIAL: [f64; 9] = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, -0.0, 1.5, -3e38, 1e-38, 1.0];
    let mut next = 0;
    let mut params = values(g, 5);
    for p in params.iter_mut().filter(|p| p.ty.dtype.is_float()) {
        for x in &mut p.data {
            *x = SPECIAL[next % SPECIAL.len()];
            next += 2;
        }
    }
    params
}

#[test]
fn each_rule_alone() {
    for (equation, before, after) in RULES {
        let (before, after) = (graph(*before), graph(*after));
        let (s, stats) = simplified(&before);
        assert!(stats.get(equation) >= 1, "{equation} did not match; done was: {stats}");
        let (got, want) = (expression(&s, s.outputs[0].1), expression(&after, after.outputs[0].1));
        assert_eq!(got, want, "{equation}");
        assert_eq!(s.params, before.params, "{equation}: the interface stays");
        assert_agree(&before, &s, &values(&before, 3), 1e-12, equation);
        // Not through `run`: it would refuse nothing here, but NaN must come out where it did.
        let params = special(&before);
        let (a, b) = (eval(&before, &params).unwrap(), eval(&s, &params).unwrap());
        let d = difference(&a.outputs[0].1, &b.outputs[0].1);
        assert!(d <= 1e-12, "{equation} on special values: {:?} became {:?}", a.outputs[0].1, b.outputs[0].1);
    }
}

#[test]
fn every_rule_has_a_test() {
    for rule in rules() {
        assert!(RULES.iter().any(|(e, ..)| *e == rule.equation), "no test for: {}", rule.equation);
    }
    for (equation, ..) in RULES {
        assert!(rules().any(|r| r.equation == *equation), "no rule: {equation}");
    }
}

#[test]
fn shared_parts_stay() {
    for make in SHARED {
        let g = graph(*make);
        let (s, stats) = simplified(&g);
        assert_eq!(expression(&s, s.outputs[0].1), expression(&g, g.outputs[0].1), "{stats}");
    }
}

#[test]
fn near_misses_stay() {
    for (why, make) in KEPT {
        let g = graph(*make);
        let (s, _) = simplified(&g);
        assert_eq!(expression(&s, s.outputs[0].1), expression(&g, g.outputs[0].1), "{why}");
    }
}

#[test]
fn equal_nodes_are_one_and_the_first_keeps_its_scope() {
    let b = Builder::new("cse");
    let x = b.input("x", TensorType::f32([3]));
    let y = b.input("y", TensorType::f32([3]));
    let first = {
        let _scope = b.scope("first");
        (x + y).exp()
    };
    let second = {
        let _scope = b.scope("second");
        (y + x).exp()
    };
    // Not commutative: a NaN wins only on the left.
    b.output("max", x.max(y) - y.max(x));
    b.output("out", first * second);
    let g = b.finish().unwrap();
    let mut stats = Stats::default();
    let s = cse(&g, &mut stats);
    assert_eq!(stats.get("common subexpressions"), 2);
    let count = |name: &str| s.nodes.values().filter(|n| n.op.name() == name).count();
    assert_eq!((count("add"), count("exp"), count("max")), (1, 1, 2));
    let exp = s.nodes.iter().find(|(_, n)| n.op == Op::Unary(Unary::Exp)).unwrap().0;
    assert_eq!(s.scope(exp), "first");
    assert!(s.scopes.values().all(|path| path != "second"), "scopes without nodes go");
}

#[test]
fn dead_nodes_go_and_parameters_stay() {
    let b = Builder::new("dce");
    let x = b.input("x", TensorType::f32([3]));
    let unused = b.weight("unused", [2], Init::Ones);
    let _dead = unused.exp();
    let state = b.state("state", TensorType::f32([3]), Init::Zeros, tinygpt_ir::StateRole::Other);
    b.update(state, state + x);
    b.output("out", x);
    let g = b.finish().unwrap();
    let s = dce(&g);
    assert_eq!(s.nodes.len(), 3);
    assert_eq!(s.params, g.params);
    assert_agree(&g, &s, &values(&g, 1), 0.0, "dce");
}

#[test]
fn random_graphs_mean_the_same() {
    for integers in [false, true] {
        let options = RandomOptions { integers, f16: integers, ..RandomOptions::default() };
        for seed in 0..150 {
            let g = random_graph(seed, &options);
            let params: Vec<Tensor> = g
                .params
                .values()
                .zip(random_inputs(&g, seed))
                .map(|(p, d)| Tensor::new(p.ty.clone(), d).unwrap())
                .collect();
            let context = format!("seed {seed}");
            let (s, _) = simplified(&g);
            assert!(work(&s) <= work(&g), "{context}: simplification added work");
            assert_agree(&g, &s, &params, 1e-9, &context);
            let all = expand_all(&g).unwrap();
            assert!(all.nodes.values().all(|n| !matches!(n.op, Op::Composite(_))));
            assert_agree(&g, &all, &params, 1e-12, &context);
            let (s, _) = simplified(&all);
            assert_agree(&g, &s, &params, 1e-9, &context);
            let (again, stats) = simplified(&s);
            assert_eq!(again, s, "{context}: a second time changes something: {stats}");
        }
    }
}

/// Forward values that gradient rules need are found, not computed twice.
#[test]
fn gradients_share_the_forward_computation() {
    let cfg = tinygpt_models::GptConfig { layers: 2, batch: 2, ..PRESETS[0].config };
    let step = training_step(&gpt(&cfg).unwrap(), &AdamWConfig::default()).unwrap();
    let (s, _) = simplified(&expand(&step).unwrap());
    let count = |op: &Op| s.nodes.values().filter(|n| n.op == *op).count();
    let tokens = [cfg.batch, cfg.ctx];
    // One reciprocal root a layer norm (five of them), and the scalar bias correction of AdamW.
    assert_eq!(count(&Op::Unary(Unary::Rsqrt)), 2 * cfg.layers + 1 + 1);
    // One error function a layer, shared by gelu and its gradient.
    assert_eq!(count(&Op::Unary(Unary::Erf)), cfg.layers);
    // The softmax of the loss and its gradient share the largest logit.
    assert_eq!(count(&Op::Reduce { op: Reduce::Max, axes: vec![2] }), 1);
    let logits: Vec<usize> = tokens.iter().copied().chain([cfg.vocab]).collect();
    let exps = s.nodes.values().filter(|n| n.op == Op::Unary(Unary::Exp) && n.ty.shape == logits).count();
    assert_eq!(exps, 1);
    // The tied embedding's two gradients are one accumulation: scatter_add into the head's.
    let scatter = s.nodes.values().find(|n| n.op == Op::ScatterAdd).unwrap();
    assert_eq!(s.nodes[scatter.inputs[0]].op.name(), "contract");
    // The log-sum-exp of each attention, once.
    assert_eq!(s.nodes.values().filter(|n| n.op.name() == "attention_lse").count(), cfg.layers);
    assert_eq!(s.nodes.values().filter(|n| n.op.name() == "attention").count(), cfg.layers);
    assert_eq!(s.nodes.values().filter(|n| n.op.name() == "attention_grad").count(), 3 * cfg.layers);
}

/// A 24-layer training step is simplified in milliseconds; the bound leaves room for a busy machine.
#[test]
fn large_graphs_are_quick() {
    let preset = tinygpt_models::preset("behemoth").unwrap();
    let run = Pipeline::parse("autodiff,expand,simplify").unwrap().run(gpt(&preset.config).unwrap()).unwrap();
    println!("{}", run.time_table());
    let step = run.steps.last().unwrap();
    assert!(step.nodes_after * 2 < step.nodes_before, "{} nodes of {}", step.nodes_after, step.nodes_before);
    assert!(step.time.unwrap().as_secs_f64() < 2.0, "{:?}", step.time);
}

#[test]
fn the_runs_of_a_simplified_graph_are_checked() {
    // The comparison itself: it must see a difference.
    let (a, b) = (graph(|b| x(b) * 2.0), graph(|b| x(b) * 2.0000001));
    let params = values(&a, 1);
    let d = difference(&run(&a, &params).outputs[0].1, &run(&b, &params).outputs[0].1);
    assert!(d > 1e-8 && d < 1e-7, "{d}");
}
