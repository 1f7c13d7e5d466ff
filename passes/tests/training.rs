//! The training step in f64 against PyTorch's float64 fixtures and against AdamW written out; splitting; pipelines.

mod common;

use std::collections::HashMap;
use std::path::Path;

use common::{assert_agree, difference, run, values};
use safetensors::SafeTensors;
use tinygpt_ir::op::{GeluForm, Op, Reduce};
use tinygpt_ir::{Builder, DType, Graph, Init, StateRole, Tensor, TensorType};
use tinygpt_models::{GptConfig, RecurrentConfig, gpt, recurrent};
use tinygpt_passes::expand::expand;
use tinygpt_passes::optimizer::{
    AdamWConfig, LOSS_SCALE, accumulate_step, inference, scaled_accumulate_step, scaled_training_step, training_step,
    training_step_with_gradients, update_step,
};
use tinygpt_passes::pass::{Pass, Pipeline, Stats};
use tinygpt_passes::simplify::simplify;
use tinygpt_passes::split_reduce::{SplitReduce, split_reduce};

/// What one PyTorch run recorded: tensors and configuration by name.
struct Fixture {
    tensors: HashMap<String, Tensor>,
    config: HashMap<String, String>,
}

impl Fixture {
    fn load(name: &str) -> Fixture {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(name);
        let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let tensor = |name: &str| {
            let view = file.tensor(name).unwrap();
            let data: Vec<f64> = match view.dtype() {
                safetensors::Dtype::F32 => words(view.data(), |b| f64::from(f32::from_le_bytes(b))),
                safetensors::Dtype::I32 => words(view.data(), |b| f64::from(i32::from_le_bytes(b))),
                safetensors::Dtype::F64 => words(view.data(), f64::from_le_bytes),
                other => panic!("{name} is {other:?}"),
            };
            let dtype = if view.dtype() == safetensors::Dtype::I32 { DType::I32 } else { DType::F32 };
            Tensor::new(TensorType::new(dtype, view.shape()), data).unwrap()
        };
        Fixture {
            tensors: file.names().into_iter().map(|n| (n.to_string(), tensor(n))).collect(),
            config: header.metadata().clone().unwrap(),
        }
    }

    fn number(&self, key: &str) -> f64 {
        self.config[key].parse().unwrap_or_else(|_| panic!("{key} = {}", self.config[key]))
    }

    fn model(&self) -> GptConfig {
        let n = |key: &str| self.number(key) as usize;
        let gelu = GeluForm::Erf;
        GptConfig {
            vocab: n("vocab"),
            ctx: n("ctx"),
            layers: n("layers"),
            heads: n("heads"),
            d_model: n("d_model"),
            d_mlp: n("d_mlp"),
            batch: n("batch"),
            gelu,
        }
    }
}

fn words<const N: usize>(bytes: &[u8], f: impl Fn([u8; N]) -> f64) -> Vec<f64> {
    bytes.chunks_exact(N).map(|b| f(b.try_into().unwrap())).collect()
}

/// Runs a training graph: parameters by name, and one step after the other.
struct Trainer {
    graph: Graph,
    params: Vec<Tensor>,
}

impl Trainer {
    fn new(graph: Graph, start: impl Fn(&str) -> Option<Tensor>) -> Trainer {
        let params =
            graph.params.values().map(|p| start(&p.name).unwrap_or_else(|| Tensor::splat(p.ty.clone(), 0.0))).collect();
        Trainer { graph, params }
    }

    fn get(&self, name: &str) -> &Tensor {
        &self.params[self.graph.param_named(name).unwrap_or_else(|| panic!("no {name}")).index()]
    }

    fn set(&mut self, name: &str, value: f64) {
        let id = self.graph.param_named(name).unwrap();
        self.params[id.index()] = Tensor::scalar(DType::F32, value);
    }

    /// One step; returns its outputs.
    fn step(&mut self, lr: f64, step: usize) -> HashMap<String, Tensor> {
        self.set("lr", lr);
        self.set("step", step as f64);
        let result = run(&self.graph, &self.params);
        for (p, value) in result.updates {
            self.params[p.index()] = value;
        }
        result.outputs.into_iter().collect()
    }
}

fn weight_names(g: &Graph) -> Vec<String> {
    g.params.values().filter(|p| p.is_weight()).map(|p| p.name.clone()).collect()
}

fn norm(t: &[f64]) -> f64 {
    t.iter().map(|x| x * x).sum::<f64>().sqrt()
}

fn apart(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.ty, b.ty);
    norm(&a.data.iter().zip(&b.data).map(|(x, y)| x - y).collect::<Vec<_>>())
}

/// Both computed in f64: what remains is the rounding of the files to f32, and PyTorch's own.
#[test]
fn the_training_step_is_pytorch_s() {
    for name in ["parity_a.safetensors", "parity_b.safetensors"] {
        let f = Fixture::load(name);
        let adamw = AdamWConfig {
            beta1: f.number("beta1"),
            beta2: f.number("beta2"),
            eps: f.number("eps"),
            weight_decay: f.number("weight_decay"),
            grad_clip: Some(f.number("grad_clip")),
        };
        let forward = gpt(&f.model()).unwrap();
        let graph = training_step_with_gradients(&forward, &adamw).unwrap();
        let graph = simplify(&expand(&graph).unwrap(), &mut Stats::default());
        let start = |name: &str| f.tensors.get(name).or_else(|| f.tensors.get(&format!("init.{name}"))).cloned();
        let mut trainer = Trainer::new(graph, start);

        let logits = inference(&forward, &["logits"]).unwrap();
        let params: Vec<Tensor> = logits.params.values().map(|p| start(&p.name).unwrap()).collect();
        let d = difference(run(&logits, &params).output("logits").unwrap(), &f.tensors["logits"]);
        assert!(d <= 1e-6, "{name}: logits differ by {d:e}");

        let lr = f.number("lr");
        let first = trainer.step(lr, 1);
        let loss = first["loss"].item().unwrap();
        assert!((loss / f.number("loss_f64") - 1.0).abs() <= 1e-9, "{name}: loss {loss}");
        let grad_norm = first["grad_norm"].item().unwrap();
        assert!((grad_norm / f.number("grad_norm_f64") - 1.0).abs() <= 1e-6, "{name}: norm {grad_norm}");
        for w in weight_names(&forward) {
            let (got, want) = (&first[&format!("grad.{w}")], &f.tensors[&format!("grad.{w}")]);
            let d = apart(got, want);
            assert!(d <= 1e-6 * norm(&want.data) + 1e-9 * grad_norm, "{name}: grad.{w} differs by {d:e}");
            // Where the gradient is zero in exact arithmetic, Adam amplifies rounding noise.
            let noise = norm(&want.data) < 1e-9 * grad_norm;
            let (got, want) = (trainer.get(&w), &f.tensors[&format!("step1.{w}")]);
            let d = apart(got, want) / norm(&want.data);
            assert!(d <= if noise { 1e-2 } else { 1e-5 }, "{name}: {w} after a step differs by {d:e}");
        }
        let losses = &f.tensors["losses"].data;
        for (i, want) in losses.iter().enumerate().skip(1).take(4) {
            let loss = trainer.step(lr, i + 1)["loss"].item().unwrap();
            assert!((loss / want - 1.0).abs() <= 1e-5, "{name}: loss {loss} before step {}, expected {want}", i + 1);
        }
    }
}

/// f(w, b) = mean((x w + b)^2), whose gradients are large enough to be clipped.
fn regression() -> Graph {
    let b = Builder::new("regression");
    let x = b.input("x", TensorType::f32([4, 3]));
    let w = b.weight("w", [2, 3], Init::Ones);
    let bias = b.weight("bias", [2], Init::Ones);
    let _unused = b.weight("unused", [2, 2], Init::Ones);
    let y = x.linear(w, Some(bias));
    b.output("y", y);
    b.output("loss", (y * y).mean(&[0, 1]).reshape([]));
    b.finish().unwrap()
}

fn start(name: &str) -> Option<Tensor> {
    match name {
        "x" => {
            Some(Tensor::new(TensorType::f32([4, 3]), (0..12).map(|i| (i as f64 * 0.7).sin() * 3.0).collect()).unwrap())
        }
        "w" => Some(Tensor::new(TensorType::f32([2, 3]), vec![1.0, -2.0, 0.5, 0.25, 3.0, -1.0]).unwrap()),
        "bias" => Some(Tensor::new(TensorType::f32([2]), vec![0.5, -1.5]).unwrap()),
        "unused" => Some(Tensor::splat(TensorType::f32([2, 2]), 2.0)),
        _ => None,
    }
}

/// The scale of the loss, a power of two, changes no result, with one batch or several; one too large for f64 skips the update.
#[test]
fn scaled_steps_are_steps() {
    let c = AdamWConfig::default();
    let mut plain = Trainer::new(training_step_with_gradients(&regression(), &c).unwrap(), start);
    let at = |scale: f64| {
        let own =
            move |name: &str| if name == LOSS_SCALE { Some(Tensor::scalar(DType::F32, scale)) } else { start(name) };
        Trainer::new(scaled_training_step(&regression(), &c, true).unwrap(), own)
    };
    let mut scaled = [at(1.0), at(65536.0), at(2f64.powi(-20))];
    for step in 1..=3 {
        let expected = plain.step(0.1, step);
        for scaled in &mut scaled {
            let found = scaled.step(0.1, step);
            assert_eq!(found.len(), expected.len());
            for (name, want) in &expected {
                let d = apart(&found[name], want);
                assert!(d <= 1e-12 * norm(&want.data).max(1.0), "{name} differs by {d:e} after step {step}");
            }
            assert!(apart(scaled.get("w"), plain.get("w")) <= 1e-12);
        }
    }
    let mut beyond = at(f64::MAX);
    let out = beyond.step(0.1, 1);
    assert!(out["loss"].item().unwrap().is_finite() && !out["grad_norm"].item().unwrap().is_finite());
    assert_eq!(*beyond.get("w"), start("w").unwrap());
    assert!(scaled_accumulate_step(&regression()).unwrap().params.values().any(|p| p.name == LOSS_SCALE));
}

/// In mixed precision gradients are those of f64 but for roundings of operands, 2^-11 each; without a scale those too small for f16 are lost.
#[test]
fn gradients_in_mixed_precision_are_near() {
    let cfg =
        GptConfig { vocab: 20, ctx: 6, layers: 2, heads: 2, d_model: 16, d_mlp: 32, batch: 2, gelu: GeluForm::Erf };
    let adamw = AdamWConfig::default();
    let scaled = scaled_training_step(&gpt(&cfg).unwrap(), &adamw, true).unwrap();
    let exact = simplify(&expand(&scaled).unwrap(), &mut Stats::default());
    let mixed = Pipeline::new([Pass::Precision]).run(exact.clone()).unwrap().graph;
    let mut params = values(&scaled, 5);
    params.iter_mut().filter(|p| p.ty.dtype == DType::F32).for_each(|p| p.data.iter_mut().for_each(|x| *x *= 0.1));
    let at = |graph: &Graph, scale: f64| {
        let mut params = params.clone();
        for (name, value) in [(LOSS_SCALE, scale), ("step", 1.0), ("lr", 0.0)] {
            params[graph.param_named(name).unwrap().index()] = Tensor::scalar(DType::F32, value);
        }
        run(graph, &params)
    };
    let (want, near, lost) = (at(&exact, 65536.0), at(&mixed, 65536.0), at(&mixed, 2f64.powi(-24)));
    let want_norm = want.output("grad_norm").unwrap().item().unwrap();
    for w in weight_names(&scaled) {
        let name = format!("grad.{w}");
        let [want, near, lost] = [&want, &near, &lost].map(|r| r.output(&name).unwrap());
        // Where the gradient is zero in exact arithmetic there is nothing but rounding.
        if norm(&want.data) < 1e-9 * want_norm {
            continue;
        }
        let d = apart(near, want) / norm(&want.data);
        assert!(d > 0.0 && d < 8.0 * 2f64.powi(-11), "{name} differs by {d:e}");
        if w.contains("fc_in") {
            assert!(apart(lost, want) > 0.5 * norm(&want.data), "{name} survives a scale of 2^-24");
        }
    }
}

#[test]
fn adamw_is_as_written_out() {
    for grad_clip in [Some(0.5), Some(1e6), None] {
        let c = AdamWConfig { weight_decay: 0.3, grad_clip, ..AdamWConfig::default() };
        let mut trainer = Trainer::new(training_step_with_gradients(&regression(), &c).unwrap(), start);
        // Weight, first and second moment.
        let mut expected = ["w", "bias", "unused"].map(|name| {
            let p = start(name).unwrap().data;
            (name, p.clone(), vec![0.0; p.len()], vec![0.0; p.len()])
        });
        for step in 1..=3 {
            let lr = 0.1 / step as f64;
            let out = trainer.step(lr, step);
            let all: Vec<f64> =
                ["w", "bias", "unused"].iter().flat_map(|n| out[&format!("grad.{n}")].data.clone()).collect();
            let total = norm(&all);
            assert!((out["grad_norm"].item().unwrap() - total).abs() <= 1e-12 * total);
            let factor = grad_clip.map_or(1.0, |max| f64::min(1.0, max / (total + 1e-6)));
            for (name, p, m, v) in &mut expected {
                let decay = if *name == "bias" { 0.0 } else { 0.3 };
                for i in 0..p.len() {
                    let g = out[&format!("grad.{name}")].data[i] * factor;
                    m[i] = 0.9 * m[i] + 0.1 * g;
                    v[i] = 0.95 * v[i] + 0.05 * g * g;
                    let (mh, vh) = (m[i] / (1.0 - 0.9f64.powi(step as i32)), v[i] / (1.0 - 0.95f64.powi(step as i32)));
                    p[i] = p[i] * (1.0 - lr * decay) - lr * mh / (vh.sqrt() + 1e-8);
                }
                for (state, want) in
                    [(name.to_string(), p), (format!("adam.m.{name}"), m), (format!("adam.v.{name}"), v)]
                {
                    let got = &trainer.get(&state).data;
                    let close = got.iter().zip(want.iter()).all(|(a, b)| (a - b).abs() <= 1e-9 * (1.0 + b.abs()));
                    assert!(close, "{state} after step {step} with clip {grad_clip:?}: {got:?}, expected {want:?}");
                }
            }
        }
    }
}

#[test]
fn a_norm_that_is_not_finite_changes_nothing() {
    for bad in [f64::INFINITY, f64::NAN] {
        let graph = training_step(&regression(), &AdamWConfig::default()).unwrap();
        let graph = simplify(&expand(&graph).unwrap(), &mut Stats::default());
        let mut trainer = Trainer::new(graph, start);
        trainer.step(0.1, 1);
        let x = trainer.graph.param_named("x").unwrap().index();
        trainer.params[x].data[5] = bad;
        let before = trainer.params.clone();
        let out = trainer.step(0.1, 2);
        assert!(!out["grad_norm"].item().unwrap().is_finite());
        for (p, old) in trainer.graph.params.values().zip(&before).filter(|(p, _)| p.is_state()) {
            assert_eq!(trainer.get(&p.name), old, "{} changed on a norm of {bad}", p.name);
        }
    }
}

#[test]
fn a_loss_that_is_not_finite_changes_nothing() {
    let b = Builder::new("offset");
    let offset = b.input("offset", TensorType::f32([]));
    let w = b.weight("w", [3], Init::Ones);
    b.output("loss", (w * w).sum(&[0]).reshape([]) + offset);
    let graph = training_step(&b.finish().unwrap(), &AdamWConfig::default()).unwrap();
    let mut trainer = Trainer::new(graph, |name| (name == "w").then(|| Tensor::splat(TensorType::f32([3]), 1.0)));
    for (offset, changes) in [(f64::NAN, false), (f64::INFINITY, false), (f64::NEG_INFINITY, false), (-7.0, true)] {
        trainer.set("offset", offset);
        let before = trainer.get("w").clone();
        let out = trainer.step(0.1, 1);
        assert!(out["grad_norm"].item().unwrap().is_finite());
        assert_eq!(trainer.get("w") != &before, changes, "with an offset of {offset}");
    }
}

/// Three micro-batches of two rows against one batch of six, over three steps: the same numbers, to the rounding of f64.
#[test]
fn micro_batches_make_the_step_of_one_batch() {
    let model = |batch| RecurrentConfig { vocab: 6, ctx: 5, d_embed: 8, d_state: 12, batch };
    let (whole, part) = (recurrent(&model(6)).unwrap(), recurrent(&model(2)).unwrap());
    let adamw = AdamWConfig { grad_clip: Some(0.05), ..AdamWConfig::default() };
    let drawn = values(&whole, 5);
    let weight = |name: &str| {
        let p = whole.param_named(name).filter(|p| whole.params[*p].is_weight())?;
        Some(drawn[p.index()].clone())
    };
    let mut one = Trainer::new(training_step(&whole, &adamw).unwrap(), weight);
    let mut sums = Trainer::new(accumulate_step(&part).unwrap(), weight);
    let mut update = Trainer::new(update_step(&part, &adamw, 3).unwrap(), weight);
    let names = weight_names(&whole);
    assert_eq!(sums.graph.updates.len(), names.len());
    let mut previous = 0.0;
    for step in 1..=3 {
        // Tokens differ from row to row and from step to step.
        let tokens: Vec<f64> = (0..31).map(|i| ((i * i + step * 5) % 6) as f64).collect();
        let mut total = 0.0;
        for micro in 0..3 {
            for (name, shift) in [("ids", 0), ("targets", 1)] {
                let rows = |g: &Trainer| g.params[g.graph.param_named(name).unwrap().index()].ty.clone();
                let ty = rows(&one);
                let at = one.graph.param_named(name).unwrap().index();
                one.params[at] = Tensor::new(ty, tokens[shift..][..30].to_vec()).unwrap();
                let ty = rows(&sums);
                let at = sums.graph.param_named(name).unwrap().index();
                sums.params[at] = Tensor::new(ty, tokens[shift + 10 * micro..][..10].to_vec()).unwrap();
            }
            sums.set("micro", micro as f64);
            let result = run(&sums.graph, &sums.params);
            total += result.output("loss").unwrap().item().unwrap();
            for (p, value) in result.updates {
                sums.params[p.index()] = value;
            }
        }
        for name in &names {
            let at = update.graph.param_named(&format!("grad.{name}")).unwrap().index();
            update.params[at] = sums.get(&format!("grad.{name}")).clone();
        }
        update.set("loss", total / 3.0);
        let (got, want) = (update.step(0.02, step), one.step(0.02, step));
        assert!((total / 3.0 - want["loss"].item().unwrap()).abs() < 1e-12);
        let norm = want["grad_norm"].item().unwrap();
        assert!((got["grad_norm"].item().unwrap() - norm).abs() <= 1e-12 * norm && norm > 0.05 && norm != previous);
        previous = norm;
        for name in &names {
            for state in [name.clone(), format!("adam.m.{name}"), format!("adam.v.{name}")] {
                assert!(apart(update.get(&state), one.get(&state)) < 1e-12, "{state} after step {step}");
            }
            let at = sums.graph.param_named(name).unwrap().index();
            sums.params[at] = update.get(name).clone();
        }
    }
    assert!(sums.graph.param_named("lr").is_none() && update.graph.param_named("ids").is_none());
}

#[test]
fn the_interface_of_a_training_step() {
    let g = training_step(&regression(), &AdamWConfig::default()).unwrap();
    let names = |keep: fn(&StateRole) -> bool| -> Vec<&str> {
        let role = |p: &tinygpt_ir::Param| match p.kind {
            tinygpt_ir::ParamKind::State { role, init } => {
                assert!(role != StateRole::Optimizer || init == Init::Zeros);
                Some(role)
            }
            tinygpt_ir::ParamKind::Input => None,
        };
        g.params.values().filter(|p| role(p).is_some_and(|r| keep(&r))).map(|p| p.name.as_str()).collect()
    };
    assert_eq!(names(|r| *r == StateRole::Weight), ["w", "bias", "unused"]);
    let moments = ["adam.m.w", "adam.v.w", "adam.m.bias", "adam.v.bias", "adam.m.unused", "adam.v.unused"];
    assert_eq!(names(|r| *r == StateRole::Optimizer), moments);
    assert_eq!(g.outputs.iter().map(|(n, _)| n.as_str()).collect::<Vec<_>>(), ["loss", "grad_norm"]);
    assert_eq!(g.updates.len(), 9);
    assert_eq!(g.name, "regression.train");

    let b = Builder::new("none");
    b.output("loss", b.scalar(1.0));
    let error = training_step(&b.finish().unwrap(), &AdamWConfig::default()).unwrap_err();
    assert_eq!(error.message, "the graph has no weight to train; declare one");
    let b = Builder::new("taken");
    let lr = b.weight("lr", [], Init::Zeros);
    b.output("loss", lr);
    let error = training_step(&b.finish().unwrap(), &AdamWConfig::default()).unwrap_err();
    assert!(error.message.contains("`lr` is already taken"), "{error}");
}

#[test]
fn the_recurrent_model_learns() {
    let cfg = RecurrentConfig { vocab: 6, ctx: 5, d_embed: 8, d_state: 12, batch: 3 };
    let forward = recurrent(&cfg).unwrap();
    let graph = training_step(&forward, &AdamWConfig::default()).unwrap();
    let graph = simplify(&expand(&graph).unwrap(), &mut Stats::default());
    let drawn = values(&forward, 11);
    let mut trainer = Trainer::new(graph, |name| {
        let p = forward.param_named(name)?;
        let mut t = drawn[p.index()].clone();
        if forward.params[p].is_weight() {
            t.data.iter_mut().for_each(|x| *x *= 0.2);
        } else {
            // ids and targets are positions of a cycle of 6: learnable.
            let shift = (name == "targets") as usize;
            t.data.iter_mut().enumerate().for_each(|(i, x)| *x = ((i + shift) % 6) as f64);
        }
        Some(t)
    });
    let losses: Vec<f64> = (1..=60).map(|i| trainer.step(0.02, i)["loss"].item().unwrap()).collect();
    assert!(losses[0] > 1.5 && losses[59] < 0.2, "{losses:?}");
}

#[test]
fn inference_keeps_what_it_needs() {
    let cfg = RecurrentConfig { vocab: 6, ctx: 2, d_embed: 3, d_state: 4, batch: 1 };
    let forward = recurrent(&cfg).unwrap();
    let g = inference(&forward, &["logits"]).unwrap();
    assert!(g.param_named("targets").is_none() && g.param_named("ids").is_some());
    assert_eq!(weight_names(&g), weight_names(&forward));
    assert_eq!(g.outputs.len(), 1);
    let all = values(&forward, 1);
    let some: Vec<Tensor> =
        g.params.values().map(|p| all[forward.param_named(&p.name).unwrap().index()].clone()).collect();
    assert_eq!(run(&g, &some).output("logits"), run(&forward, &all).output("logits"));
    let error = inference(&forward, &["loss", "probabilities"]).unwrap_err();
    assert_eq!(error.message, "the graph has no output `probabilities`; it has: logits, loss");
}

/// One reduction of an input.
fn reduction(shape: &[usize], axes: &[usize], op: Reduce) -> Graph {
    let b = Builder::new("reduce");
    let x = b.input("x", TensorType::f32(shape));
    b.output("y", b.node(Op::Reduce { op, axes: axes.to_vec() }, &[x]));
    b.finish().unwrap()
}

/// Shapes of the operands of the reductions, in order.
fn stages(g: &Graph) -> Vec<(Vec<usize>, Vec<usize>)> {
    let of = |n: &tinygpt_ir::Node| match &n.op {
        Op::Reduce { axes, .. } => Some((g.nodes[n.inputs[0]].ty.shape.clone(), axes.clone())),
        _ => None,
    };
    g.nodes.values().filter_map(of).collect()
}

#[test]
fn long_reductions_are_split_by_exact_divisors() {
    let options = SplitReduce { max_row: 16, max_results: 4, min_row: 4 };
    type Case<'a> = (&'a [usize], &'a [usize], Vec<(Vec<usize>, Vec<usize>)>);
    let cases: Vec<Case> = vec![
        // A row fits whole.
        (&[6, 10], &[0, 1], vec![(vec![6, 1, 1, 10], vec![3]), (vec![6, 1], vec![0, 1])]),
        // Part of an axis.
        (&[40], &[0], vec![(vec![4, 10], vec![1]), (vec![4], vec![0])]),
        // The whole inner axis and a part of the next.
        (&[9, 5], &[0, 1], vec![(vec![3, 3, 1, 5], vec![1, 3]), (vec![3, 1], vec![0, 1])]),
        // Three stages.
        (&[1024], &[0], vec![(vec![64, 16], vec![1]), (vec![4, 16], vec![1]), (vec![4], vec![0])]),
        // A kept axis outside, few results.
        (&[3, 32], &[1], vec![(vec![3, 2, 16], vec![2]), (vec![3, 2], vec![1])]),
        // Short enough; many results; a prime extent.
        (&[4, 4], &[0, 1], vec![(vec![4, 4], vec![0, 1])]),
        (&[5, 32], &[1], vec![(vec![5, 32], vec![1])]),
        (&[37], &[0], vec![(vec![37], vec![0])]),
    ];
    for (shape, axes, want) in cases {
        for op in [Reduce::Sum, Reduce::Max] {
            let g = reduction(shape, axes, op);
            let (s, split) = split_reduce(&g, &options).unwrap();
            assert_eq!(stages(&s), want, "{shape:?} over {axes:?}");
            assert_eq!(split, usize::from(want.len() > 1));
            assert_agree(&g, &s, &values(&g, 2), 1e-12, "split");
        }
    }
    let g = reduction(&[40], &[0], Reduce::ArgMax);
    assert_eq!(stages(&split_reduce(&g, &options).unwrap().0).len(), 1);
}

#[test]
fn a_training_step_survives_the_whole_pipeline() {
    let cfg =
        GptConfig { vocab: 20, ctx: 4, layers: 2, heads: 2, d_model: 8, d_mlp: 16, batch: 2, gelu: GeluForm::Tanh };
    let forward = gpt(&cfg).unwrap();
    let pipeline = Pipeline {
        verify_each: true,
        print_changed: true,
        ..Pipeline::parse("autodiff, expand,simplify,split-reduce,simplify").unwrap()
    };
    let done = pipeline.run(forward.clone()).unwrap();
    let names: Vec<&str> = done.steps.iter().map(|s| s.pass.name()).collect();
    assert_eq!(names, ["autodiff", "expand", "simplify", "split-reduce", "simplify"]);
    assert!(done.steps[2].nodes_after < done.steps[2].nodes_before);
    assert!(done.steps[2].changed.as_ref().unwrap().contains("attention"));
    assert!(done.steps[4].changed.is_none(), "nothing was split in so small a model");
    let table = done.time_table();
    assert_eq!(table.lines().count(), 6, "{table}");
    assert!(
        table.lines().nth(3).unwrap().starts_with("simplify") && table.contains("common subexpressions"),
        "{table}"
    );

    assert_eq!(tinygpt_ir::text::parse(&done.graph.to_string()).unwrap(), done.graph, "the text form keeps it");
    let plain = training_step(&forward, &AdamWConfig::default()).unwrap();
    let mut params = values(&plain, 3);
    params.iter_mut().filter(|p| p.ty.dtype == DType::F32).for_each(|p| p.data.iter_mut().for_each(|x| *x *= 0.1));
    for (p, t) in plain.params.values().zip(&mut params) {
        match p.name.as_str() {
            "step" => t.data[0] = 3.0,
            name if name.starts_with("adam.v") => t.data.iter_mut().for_each(|x| *x = x.abs()),
            _ => {}
        }
    }
    assert_agree(&plain, &done.graph, &params, 1e-9, "pipeline");
}

#[test]
fn pipelines_name_what_is_wrong() {
    let error = Pipeline::parse("expand,simplfy").unwrap_err();
    assert!(error.starts_with("there is no pass `simplfy`; the passes are expand, expand-all,"), "{error}");
    for pass in Pass::ALL {
        assert_eq!(Pass::parse(pass.name()), Ok(*pass));
        assert!(!pass.doc().is_empty());
    }
    let mut g = reduction(&[4], &[0], Reduce::Sum);
    let error = Pipeline::new([Pass::Gradients]).run(g.clone()).unwrap_err();
    assert_eq!(error.to_string(), "grad: gradients: the graph has no output `loss`; it has: y");
    let last = g.nodes.ids().last().unwrap();
    g.nodes[last].ty.shape = vec![2];
    let pipeline = Pipeline { verify_each: true, ..Pipeline::new([Pass::Dce]) };
    let error = pipeline.run(g).unwrap_err().to_string();
    assert!(error.starts_with("the graph is invalid before the first pass:"), "{error}");
}
