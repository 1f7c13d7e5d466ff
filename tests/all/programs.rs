//! Whole programs on the CPU backend (and, from `gpu`, on a GPU) against the f64 interpreter of graphs: a table of operations over many shapes, random graphs,
//! the recurrent model; fused and unfused, with and without templates, on one and two threads.
//!
//! Tolerance: of each result, 5e-6 of the largest magnitude that the graph computes on the way to it, which is what f32 rounding of
//! some hundred operations may add up to; integers and truth values are equal.

use crate::support::cpus;
use std::fmt::Write;
use std::sync::Arc;
use tinygpt::ir::interp::{Keep, eval_keeping};
use tinygpt::ir::op::{Binary, Compare, GeluForm, Unary, Wrt};
use tinygpt::ir::program::TargetModel;
use tinygpt::ir::random::{RandomOptions, random_graph, random_inputs};
use tinygpt::ir::{Builder, DType, Graph, Init, Op, T, Tensor, TensorType};
use tinygpt::passes::compile::to_program;
use tinygpt::passes::optimizer::{AdamWConfig, training_step_with_gradients};
use tinygpt::passes::pass::{Pass, Pipeline};
use tinygpt::runtime::compile::{ExecOptions, PASSES, cpu_options};
use tinygpt::runtime::cpu::CpuExecutor;
use tinygpt::runtime::executor::Executor;
use tinygpt::runtime::tensor::{HostData, HostTensor};

const TOLERANCE: f64 = 5e-6;

fn host(t: &Tensor) -> HostTensor {
    let data = match t.ty.dtype {
        DType::F32 => HostData::F32(t.data.iter().map(|x| *x as f32).collect()),
        DType::I32 => HostData::I32(t.data.iter().map(|x| *x as i32).collect()),
        DType::U32 => HostData::U32(t.data.iter().map(|x| *x as u32).collect()),
        DType::Bool => HostData::Bool(t.data.iter().map(|x| *x != 0.0).collect()),
        DType::F16 => panic!("no test here computes in f16"),
    };
    HostTensor::new(&t.ty.shape, data).unwrap()
}

fn values(t: &HostTensor) -> Vec<f64> {
    match t.dtype() {
        tinygpt::runtime::tensor::DType::F32 => t.as_f32().unwrap().iter().map(|x| f64::from(*x)).collect(),
        tinygpt::runtime::tensor::DType::I32 => t.as_i32().unwrap().iter().map(|x| f64::from(*x)).collect(),
        tinygpt::runtime::tensor::DType::U32 => t.as_u32().unwrap().iter().map(|x| f64::from(*x)).collect(),
        _ => t.as_bool().unwrap().iter().map(|x| f64::from(u8::from(*x))).collect(),
    }
}

/// Parameter values rounded to what the backend gets.
pub fn inputs(graph: &Graph, seed: u64) -> Vec<Tensor> {
    let raw = random_inputs(graph, seed);
    let round = |(p, data): (&tinygpt::ir::Param, Vec<f64>)| {
        let data = if p.ty.dtype.is_float() { data.iter().map(|x| f64::from(*x as f32)).collect() } else { data };
        Tensor::new(p.ty.clone(), data).unwrap()
    };
    graph.params.values().zip(raw).map(round).collect()
}

/// Largest error over all results, as a share of the largest magnitude computed; panics on a wrong integer.
pub fn error(graph: &Graph, params: &[Tensor], executor: &mut dyn Executor, context: &str) -> f64 {
    let expected = eval_keeping(graph, params, Keep::All).unwrap();
    let finite = |t: &Tensor| t.data.iter().filter(|x| x.is_finite()).fold(0.0f64, |m, x| m.max(x.abs()));
    let floats = expected.values.iter().flatten().filter(|t| t.ty.dtype.is_float());
    let scale = floats.map(finite).fold(1.0, f64::max);
    for (p, value) in graph.params.values().zip(params) {
        executor.write(&p.name, &host(value)).unwrap();
    }
    executor.step().unwrap();
    let updates = expected.updates.iter().map(|(p, want)| (graph.params[*p].name.clone(), want));
    let mut worst = 0.0f64;
    for (name, want) in expected.outputs.iter().map(|(n, w)| (n.clone(), w)).chain(updates) {
        let found = values(&executor.read(&name).unwrap());
        for (i, (want, found)) in want.data.iter().zip(&found).enumerate() {
            if want == found || (want.is_nan() && found.is_nan()) {
                continue;
            }
            let apart = (want - found).abs() / scale;
            assert!(apart <= TOLERANCE, "{context}: {name}[{i}] is {found}, expected {want} (scale {scale})");
            worst = worst.max(apart);
        }
    }
    worst
}

/// Compiles `graph` and runs it on every form of the CPU backend; the largest error.
fn check(graph: &Graph, seed: u64, passes: &[Pass], forms: &[ExecOptions], context: &str) -> f64 {
    let params = inputs(graph, seed);
    let simplified = Pipeline::new(passes.to_vec()).run(graph.clone()).unwrap().graph;
    let mut worst = 0.0f64;
    for fusion in [true, false] {
        let program = Arc::new(to_program(&simplified, &TargetModel::cpu(), fusion).unwrap());
        for form in forms {
            let options = cpu_options(form.isa, form.no_templates).unwrap();
            let mut executor = CpuExecutor::new(program.clone(), &options, form.threads).unwrap();
            let context = format!("{context}, fusion {fusion}, {form:?}");
            worst = worst.max(error(graph, &params, &mut executor, &context));
        }
    }
    worst
}

pub type Case = (&'static str, fn(&Builder, &[usize]));

/// Applies `f` to a float input of the given shape and names the result.
fn of_one(b: &Builder, shape: &[usize], f: impl for<'g> Fn(T<'g>) -> T<'g>) {
    let x = b.input("x", TensorType::f32(shape));
    b.output("y", f(x));
}

fn of_two(b: &Builder, shape: &[usize], f: impl for<'g> Fn(T<'g>, T<'g>) -> T<'g>) {
    let (x, y) = (b.input("x", TensorType::f32(shape)), b.input("y", TensorType::f32(shape)));
    b.output("z", f(x, y));
}

/// Every operation that is one kernel of its own, and composites; shapes are [a, b, c].
pub const CASES: &[Case] = &[
    ("unary", |b, s| {
        let x = b.input("x", TensorType::f32(s));
        for u in Unary::ALL {
            let positive = matches!(u, Unary::Log | Unary::Sqrt | Unary::Rsqrt | Unary::Recip);
            let x = if positive { x * x + 0.5 } else { x };
            b.output(u.name(), b.node(Op::Unary(*u), &[x]));
        }
    }),
    ("binary", |b, s| {
        let (x, y) = (b.input("x", TensorType::f32(s)), b.input("y", TensorType::f32(s)));
        for op in Binary::ALL {
            let y = if *op == Binary::Div { y * y + 0.5 } else { y };
            b.output(op.name(), b.node(Op::Binary(*op), &[x, y]));
        }
    }),
    ("compare, select", |b, s| {
        let (x, y) = (b.input("i", TensorType::new(DType::I32, s)), b.input("j", TensorType::new(DType::I32, s)));
        for op in Compare::ALL {
            b.output(op.name(), b.node(Op::Compare(*op), &[x, y]));
        }
        b.output("select", x.lt(y).select(x, y));
    }),
    ("cast", |b, s| {
        let i = b.input("i", TensorType::new(DType::I32, s));
        b.output("f32", i.cast(DType::F32) * 0.5);
        b.output("u32", i.cast(DType::U32));
        b.output("bool", i.cast(DType::Bool));
    }),
    ("integers", |b, s| {
        let (x, y) = (b.input("i", TensorType::new(DType::I32, s)), b.input("j", TensorType::new(DType::I32, s)));
        b.output("z", (x * y - y).max(x) + b.iota(s, DType::I32, 1));
    }),
    ("iota, splat", |b, s| of_one(b, s, |x| x + b_iota(x) + 2.5)),
    ("reduce_sum rows", |b, s| of_one(b, s, |x| x.sum(&[2]))),
    ("reduce_sum columns", |b, s| of_one(b, s, |x| x.sum(&[0, 1]))),
    ("reduce_sum all", |b, s| of_one(b, s, |x| x.sum(&[0, 1, 2]))),
    ("reduce_sum middle", |b, s| of_one(b, s, |x| x.sum(&[1]))),
    ("reduce_max", |b, s| of_one(b, s, |x| x.reduce_max(&[2]) + x.reduce_max(&[0]).sum(&[2]))),
    ("reduce_argmax", |b, s| {
        let i = b.input("i", TensorType::new(DType::I32, s));
        b.output("last", i.argmax(2));
        b.output("first", i.argmax(0));
    }),
    ("broadcast", |b, s| {
        let (x, y) = (b.input("x", TensorType::f32([s[1], 1])), b.input("y", TensorType::f32(s)));
        b.output("z", x * y);
    }),
    ("reshape", |b, s| of_one(b, s, |x| x.exp().reshape([x.dim(0) * x.dim(1), x.dim(2)]).sum(&[0]))),
    ("transpose", |b, s| of_one(b, s, |x| x.transpose([2, 0, 1]).tanh())),
    ("slice, pad", |b, s| of_one(b, s, |x| x.slice_axis(2, 0, x.dim(2).div_ceil(2)).pad([1, 0, 2], [0, 3, 1], -1.5))),
    ("concat", |b, s| {
        let (x, y) = (b.input("x", TensorType::f32(s)), b.input("y", TensorType::f32(s)));
        b.output("z", b.concat(&[x, y * 2.0, x], 1));
    }),
    ("contract nt", |b, s| {
        let (x, w) = (b.input("x", TensorType::f32(s)), b.input("w", TensorType::f32([7, s[2]])));
        b.output("z", x.contract("abk,ok->abo", w));
    }),
    ("contract tn", |b, s| of_two(b, s, |x, y| x.contract("abi,abj->ij", y))),
    ("contract batched", |b, s| of_two(b, s, |x, y| x.contract("bik,bjk->bji", y))),
    ("contract with epilogue", |b, s| {
        let (x, w) = (b.input("x", TensorType::f32(s)), b.input("w", TensorType::f32([9, s[2]])));
        let (bias, r) = (b.input("bias", TensorType::f32([9])), b.input("r", TensorType::f32([s[0], s[1], 9])));
        b.output("z", x.linear(w, Some(bias)).gelu(GeluForm::Erf) + r);
    }),
    ("contract, several terms", |b, s| {
        let (x, y) = (b.input("x", TensorType::f32(s)), b.input("y", TensorType::f32(s)));
        let (v, w) = (b.input("v", TensorType::f32([5, s[2]])), b.input("w", TensorType::f32([5, s[2]])));
        b.output("z", x.contract("abk,ok->abo", v) + y.contract("abk,ok->abo", w));
    }),
    ("gather", |b, s| {
        let ids = b.input("ids", TensorType::new(DType::I32, [s[0], s[1]]));
        b.output("y", b.input("table", TensorType::f32([11, s[2]])).gather(ids));
    }),
    ("scatter_add", |b, s| {
        let ids = b.input("ids", TensorType::new(DType::I32, [s[0], s[1]]));
        let base = b.input("table", TensorType::f32([11, s[2]]));
        b.output("y", base.scatter_add(ids, b.input("updates", TensorType::f32(s))));
    }),
    ("dynamic_slice, dynamic_update", |b, s| {
        let x = b.input("x", TensorType::f32(s));
        let i: Vec<T<'_>> = (0..3).map(|d| b.input(format!("i{d}"), TensorType::new(DType::I32, []))).collect();
        let sizes = [1, s[1].div_ceil(2), s[2].div_ceil(3)];
        let window = x.dynamic_slice(&i, sizes);
        b.output("window", window);
        b.output("updated", x.dynamic_update(window * 3.0, &i));
    }),
    ("random", |b, s| {
        let [seed, counter] = ["seed", "counter"].map(|n| b.input(n, TensorType::new(DType::U32, [])));
        b.output("y", b.random(seed, counter, 3, s));
    }),
    ("softmax", |b, s| of_one(b, s, |x| x.softmax(2))),
    ("log_softmax, inner axis", |b, s| of_one(b, s, |x| x.log_softmax(1))),
    ("layer_norm", |b, s| {
        let [w, c] = ["w", "b"].map(|n| b.input(n, TensorType::f32([s[2]])));
        b.output("y", b.input("x", TensorType::f32(s)).layer_norm(w, c, 1e-2));
    }),
    ("rms_norm", |b, s| {
        let w = b.input("w", TensorType::f32([s[2]]));
        b.output("y", b.input("x", TensorType::f32(s)).rms_norm(w, 1e-2));
    }),
    ("gelu, silu", |b, s| of_one(b, s, |x| x.gelu(GeluForm::Erf) + x.gelu(GeluForm::Tanh) * x.silu())),
    ("rope", |b, s| of_one(b, s, |x| b_even(x).rope(100.0))),
    ("cross_entropy", |b, s| {
        let targets = b.input("targets", TensorType::new(DType::I32, [s[0], s[1]]));
        b.output("y", b.input("x", TensorType::f32(s)).cross_entropy(targets));
    }),
    ("attention", |b, s| attention(b, s, false)),
    ("attention, causal", |b, s| attention(b, s, true)),
    ("adamw", |b, s| {
        let p = b.weight("p", s, Init::Zeros);
        let [g, m, v] = ["g", "m", "v"].map(|n| b.input(n, TensorType::f32(s)));
        let [lr, step] = ["lr", "t"].map(|n| b.input(n, TensorType::f32([])));
        let rest = [g, m, v * v, lr * lr, step * step + 1.0];
        b.update(p, p.adamw(tinygpt::ir::op::AdamWPart::Param, rest, 0.9, 0.95, 1e-2, 0.1));
        b.output("norm", b.global_norm(&[g, m]));
    }),
];

fn b_iota(x: T<'_>) -> T<'_> {
    x.builder().iota(x.shape(), DType::F32, 2)
}

/// x twice along the last axis, whose extent is then even.
fn b_even(x: T<'_>) -> T<'_> {
    x.builder().concat(&[x, x], 2)
}

/// Attention with all its gradients; heads and head dimension from the shape.
fn attention(b: &Builder, s: &[usize], causal: bool) {
    let shape = [2, s[0].min(3), s[1], s[2]];
    let [q, k, v, g] = ["q", "k", "v", "g"].map(|n| b.input(n, TensorType::f32(shape)));
    let scale = 1.0 / (s[2] as f64).sqrt();
    let out = q.attention(k, v, causal, scale);
    let lse = q.attention_lse(k, causal, scale);
    b.output("out", out);
    b.output("lse", lse);
    for wrt in [Wrt::Q, Wrt::K, Wrt::V] {
        b.output(format!("d{}", wrt.name()), q.attention_grad(wrt, [k, v, out, lse, g], causal, scale));
    }
}

const SHAPES: &[[usize; 3]] =
    &[[1, 1, 1], [1, 1, 7], [3, 5, 1], [2, 3, 4], [4, 1, 16], [5, 7, 9], [3, 17, 33], [2, 33, 64]];

#[test]
fn every_operation_over_many_shapes() {
    let forms = cpus();
    let mut table = String::new();
    for (name, build) in CASES {
        let mut worst = 0.0f64;
        for (i, shape) in SHAPES.iter().enumerate() {
            let b = Builder::new("case");
            build(&b, shape);
            let graph = b.finish().unwrap_or_else(|e| panic!("{name} of {shape:?}: {e}"));
            let context = format!("{name} of {shape:?}");
            worst = worst.max(check(&graph, i as u64, &[Pass::Expand], &forms, &context));
            // A composite's own kernel agrees with its expansion's.
            worst = worst.max(check(&graph, i as u64, &[Pass::ExpandAll], &forms[..1], &context));
        }
        let _ =
            writeln!(table, "{name:<32}{:>3} shapes x {} forms, largest error {worst:.1e}", SHAPES.len(), forms.len());
    }
    println!("{table}");
    assert!(CASES.len() >= 24);
}

#[test]
fn random_graphs() {
    let forms = cpus();
    for seed in 0..60 {
        let graph = random_graph(seed, &RandomOptions::default());
        // Two forms a graph, so that all forms meet many graphs.
        let some = [seed as usize, seed as usize * 3 + 1].map(|at| forms[at % forms.len()].clone());
        check(&graph, seed, &PASSES, &some, &format!("random graph {seed}"));
    }
}

#[test]
fn a_training_step_of_a_recurrent_model() {
    let config = tinygpt::models::recurrent::RecurrentConfig { vocab: 13, ctx: 4, d_embed: 6, d_state: 5, batch: 3 };
    let model = tinygpt::models::recurrent::recurrent(&config).unwrap();
    let mut step = training_step_with_gradients(&model, &AdamWConfig::default()).unwrap();
    // Gradients only: AdamW divides by the root of its second moment, and where a gradient is 0, f32 has no digits to compare.
    step.updates.clear();
    check(&step, 3, &PASSES, &cpus(), "recurrent");
}
