//! Whole programs as WebAssembly modules: run by Node, they give what native code without fused multiply-add gives, bit for bit, on
//! any number of threads; and what a module promises about its memory, its size and its refusals.
//!
//! Single kernels of every archetype run in `pointwise.rs`, `reduce.rs` and `contract.rs`, through `support`.

mod support;

use std::sync::Arc;
use support::wasm::{Values, run, variants};
use support::{bits, node, value};
use tinygpt_codegen_cpu::compile::{CpuOptions, PreparedProgram};
use tinygpt_codegen_cpu::wasm::{Entry, Layout, PAGE, SlotKind, SlotLayout, WasmModule, WasmOptions, module};
use tinygpt_ir::graph::ParamKind;
use tinygpt_ir::op::GeluForm;
use tinygpt_ir::program::{Place, Program, TargetModel};
use tinygpt_ir::random::{RandomOptions, random_graph, random_inputs};
use tinygpt_ir::types::DType;
use tinygpt_ir::{Graph, Init};
use tinygpt_models::gpt::{GptConfig, gpt, preset};
use tinygpt_passes::compile::to_program;
use tinygpt_passes::optimizer::{AdamWConfig, inference, training_step, training_step_with_gradients};
use tinygpt_passes::pass::{Pass, Pipeline};

fn compiled(graph: Graph) -> (Graph, Program) {
    let passes = [Pass::Expand, Pass::Simplify, Pass::SplitReduce, Pass::Simplify];
    let graph = Pipeline::new(passes).run(graph).expect("passes run").graph;
    let program = to_program(&graph, &TargetModel::cpu(), true).expect("a program");
    (graph, program)
}

/// Odd sizes, large enough that rounds have several tasks.
fn forward() -> Graph {
    let config =
        GptConfig { vocab: 37, ctx: 21, layers: 2, heads: 3, d_model: 48, d_mlp: 200, batch: 5, gelu: GeluForm::Erf };
    gpt(&config).expect("a model")
}

fn recurrent() -> Graph {
    let config = tinygpt_models::recurrent::RecurrentConfig { vocab: 13, ctx: 3, d_embed: 5, d_state: 4, batch: 2 };
    tinygpt_models::recurrent::recurrent(&config).expect("a model")
}

/// Bits of inputs and states: random, but with a rate and a step number that an optimizer takes.
fn values(graph: &Graph, seed: u64) -> Values {
    let all = graph.params.values().zip(random_inputs(graph, seed));
    all.map(|(p, mut data)| {
        match (p.name.as_str(), p.kind) {
            ("lr", _) => data.fill(1e-2),
            ("step", _) => data.fill(3.0),
            (_, ParamKind::State { init: Init::Zeros, .. }) if p.name.starts_with("adam.v") => {
                data.iter_mut().for_each(|x| *x = x.abs());
            }
            _ => {}
        }
        (p.name.clone(), data.iter().map(|x| bits(p.ty.dtype, *x)).collect())
    })
    .collect()
}

/// All states and outputs after some steps of native code.
fn native(program: &Program, given: &Values, steps: usize) -> Values {
    let options = CpuOptions { baseline: true, ..CpuOptions::default() };
    let prepared = Arc::new(PreparedProgram::new(program, &options).expect("prepares"));
    let mut slab = vec![[0u32; 16]; program.memory.planned.div_ceil(64)];
    let mut own: Vec<Vec<u32>> = program.buffers.values().map(|b| vec![0; b.bytes().div_ceil(4)]).collect();
    for p in &program.params {
        own[p.buffer.index()].copy_from_slice(&given[&p.name]);
    }
    let base = slab.as_mut_ptr().cast::<u8>();
    let address = |(b, own): (&tinygpt_ir::program::Buffer, &mut Vec<u32>)| match b.place {
        Place::Slab(offset) => base.wrapping_add(offset),
        _ => own.as_mut_ptr().cast(),
    };
    let addresses: Vec<*mut u8> = program.buffers.values().zip(&mut own).map(address).collect();
    // SAFETY: each address is that of memory of the buffer's size, which lives until the end of this function; the slab is as the plan says.
    let bound = unsafe { prepared.bind(&addresses) }.expect("an address a buffer");
    let mut scratch = vec![[0u32; 16]; prepared.scratch_bytes().div_ceil(64) + 1];
    let at = scratch.as_mut_ptr().cast::<u8>();
    let at = at.wrapping_add(at.align_offset(64));
    for _ in 0..steps {
        for round in 0..bound.rounds() {
            for task in 0..bound.tasks(round) {
                // SAFETY: rounds run in order, tasks once each, on one thread; scratch is long enough and aligned.
                unsafe { bound.run(round, task, at) }
            }
        }
    }
    let params = program.params.iter().map(|p| (p.name.clone(), p.buffer));
    let outputs = program.outputs.iter().map(|o| (o.name.clone(), o.buffer));
    params.chain(outputs).map(|(name, b)| (name, own[b.index()].clone())).collect()
}

/// The first difference of two runs, all NaNs alike.
fn difference(want: &Values, got: &Values) -> Option<String> {
    let canonical = |x: &u32| if f32::from_bits(*x).is_nan() { 0x7fc0_0000 } else { *x };
    assert_eq!(want.len(), got.len());
    want.iter().find_map(|(name, want)| {
        let got = &got[name];
        let at = (0..want.len()).find(|&i| canonical(&want[i]) != canonical(&got[i]))?;
        Some(format!("{name}[{at}] is {:#x}, expected {:#x}", got[at], want[at]))
    })
}

/// The largest difference of the f32 outputs, as a share of the largest element of each.
fn worst(program: &Program, want: &Values, got: &Values) -> f64 {
    let outputs = program.outputs.iter().filter(|o| o.ty.dtype == DType::F32);
    let share = |name: &str| {
        let floats = |all: &Values| all[name].iter().map(|b| value(DType::F32, *b)).collect::<Vec<_>>();
        let (want, got) = (floats(want), floats(got));
        let scale = want.iter().filter(|x| x.is_finite()).fold(1e-3f64, |m, x| m.max(x.abs()));
        let apart =
            |(w, g): (&f64, &f64)| if w == g || (w.is_nan() && g.is_nan()) { 0.0 } else { (w - g).abs() / scale };
        want.iter().zip(&got).map(apart).fold(0.0, f64::max)
    };
    outputs.map(|o| share(&o.name)).fold(0.0, f64::max)
}

fn made(program: &Program, options: &WasmOptions) -> WasmModule {
    module(&[Entry { name: "run", program }], options).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn training_steps_equal_native_code() {
    let Some(engine) = node::engine() else { return };
    let steps = [forward(), recurrent()].map(|g| training_step_with_gradients(&g, &AdamWConfig::default()).unwrap());
    for step in steps {
        let (graph, program) = compiled(step);
        let given = values(&graph, 5);
        let want = native(&program, &given, 3);
        for (options, threads) in variants(engine) {
            let made = made(&program, &options);
            let mut first: Option<Values> = None;
            for &n in threads {
                let context = format!("{}, {options:?} on {n} threads", graph.name);
                let got = run(engine, &made, &options, n, 0, &given, 3);
                if !options.relaxed {
                    assert_eq!(difference(&want, &got), None, "{context}");
                }
                let share = worst(&program, &want, &got);
                assert!(share < 1e-3, "{context}: outputs differ by {share} of the largest");
                if let Some(first) = &first {
                    assert_eq!(difference(first, &got), None, "{context}: the number of threads changes bits");
                }
                first.get_or_insert(got);
            }
        }
    }
}

#[test]
fn random_programs_equal_native_code() {
    let Some(engine) = node::engine() else { return };
    let mut kernels = 0;
    for seed in 0..60 {
        let (graph, program) = compiled(random_graph(seed, &RandomOptions::default()));
        if program.buffers.values().any(|b| b.dtype == DType::F16) {
            continue;
        }
        let given = values(&graph, seed);
        let want = native(&program, &given, 1);
        let all = variants(engine);
        let (options, threads) = &all[seed as usize % 2];
        for &n in *threads {
            let got = run(engine, &made(&program, options), options, n, 0, &given, 1);
            assert_eq!(difference(&want, &got), None, "seed {seed}, {options:?} on {n} threads");
        }
        kernels += program.kernels.len();
    }
    assert!(kernels > 200, "only {kernels} kernels");
}

/// A training step and an evaluation of one model.
fn pair() -> [(Graph, Program); 2] {
    let step = training_step(&forward(), &AdamWConfig::default()).unwrap();
    [compiled(step), compiled(inference(&forward(), &["logits", "loss"]).unwrap())]
}

#[test]
fn entries_share_states() {
    let Some(engine) = node::engine() else { return };
    let [(graph, train), (_, eval)] = pair();
    let entries = [Entry { name: "train", program: &train }, Entry { name: "evaluate", program: &eval }];
    let options = WasmOptions { max_threads: 2, ..WasmOptions::default() };
    let made = module(&entries, &options).unwrap();
    let given = values(&graph, 7);
    // Native code: two steps, then an evaluation with the weights that they left.
    let trained = native(&train, &given, 2);
    let shared = eval.params.iter().map(|p| (p.name.clone(), trained[&p.name].clone())).collect();
    let want = native(&eval, &shared, 1);

    let [first, second] = [0, 1].map(|e| &made.layout.entries[e]);
    let mut writes: Vec<(usize, Vec<u8>)> =
        first.params.iter().map(|p| (p.offset, node::bytes(&given[&p.name]))).collect();
    let inputs = second.params.iter().filter(|p| p.kind == SlotKind::Input);
    writes.extend(inputs.map(|p| (p.offset, node::bytes(&given[&p.name]))));
    let reads: Vec<&SlotLayout> = second.params.iter().chain(&second.outputs).collect();
    let request = node::Request {
        module: &made.bytes,
        pages: made.layout.memory_pages(2),
        threads: 2,
        shared: true,
        writes,
        calls: ["train", "train", "evaluate"].map(|name| (name, vec![])).to_vec(),
        reads: reads.iter().map(|s| (s.offset, s.bytes)).collect(),
        ..Default::default()
    };
    let found = engine.run(&request).unwrap();
    let got = reads.iter().zip(found).map(|(s, b)| (s.name.clone(), node::words(&b))).collect();
    assert_eq!(difference(&want, &got), None);
}

/// Asserts that slots are aligned, lie within the fixed bytes and overlap only where they are one state.
fn check_layout(layout: &Layout) {
    let mut all: Vec<&SlotLayout> = layout.entries.iter().flat_map(|e| e.params.iter().chain(&e.outputs)).collect();
    assert!(all.iter().all(|s| s.offset % 64 == 0 && s.offset >= PAGE && s.offset + s.bytes <= layout.fixed_bytes));
    all.sort_by_key(|s| s.offset);
    for pair in all.windows(2) {
        let (a, b) = (pair[0], pair[1]);
        let one = a.offset == b.offset && a.bytes == b.bytes && (a.name == b.name || a.kind != b.kind);
        assert!(one || a.offset + a.bytes <= b.offset, "{a:?} overlaps {b:?}");
    }
    assert_eq!(layout.fixed_bytes % 64, 0);
    assert_eq!(layout.thread_bytes % 64, 0);
    let bytes = |threads| layout.fixed_bytes + threads * layout.thread_bytes;
    assert!(
        (1..9).all(|n| layout.memory_pages(n) * PAGE >= bytes(n) && layout.memory_pages(n) * PAGE < bytes(n) + PAGE)
    );
}

#[test]
fn all_variants_of_one_export_have_one_layout() {
    let [(_, train), (_, eval)] = pair();
    let entries = [Entry { name: "train", program: &train }, Entry { name: "evaluate", program: &eval }];
    let layout = |options: WasmOptions| module(&entries, &options).unwrap().layout;
    let plain = layout(WasmOptions::default());
    check_layout(&plain);
    assert!(!plain.memory64);
    for (relaxed, threads) in [(true, true), (false, false), (true, false)] {
        assert_eq!(layout(WasmOptions { relaxed, threads, ..WasmOptions::default() }), plain);
    }
    let state = |e: usize| plain.entries[e].params.iter().find(|p| p.kind == SlotKind::State).unwrap();
    let same = plain.entries[1].params.iter().find(|p| p.name == state(0).name).unwrap();
    assert_eq!(same.offset, state(0).offset, "a state has one place");
}

#[test]
fn a_large_memory_has_64_bit_addresses() {
    let (_, program) = compiled(training_step(&forward(), &AdamWConfig::default()).unwrap());
    let small = made(&program, &WasmOptions::default());
    let many = (1 << 32) / small.layout.thread_bytes;
    let options = WasmOptions { max_threads: many, ..WasmOptions::default() };
    let large = made(&program, &options);
    assert!(large.layout.memory64 && large.wat().contains("(memory (;0;) i64 "), "{:?}", large.layout);
    let entries = [Entry { name: "run", program: &program }];
    let error = module(&entries, &WasmOptions { memory64: Some(false), ..options }).unwrap_err().to_string();
    assert!(error.contains("3.75 GiB") && error.contains(&many.to_string()), "{error}");
}

#[test]
fn the_large_preset_is_small() {
    let model = gpt(&preset("large").expect("a preset").config).unwrap();
    let (_, program) = compiled(training_step(&model, &AdamWConfig::default()).unwrap());
    let report = made(&program, &WasmOptions::default()).report;
    assert!(report.bytes < 300_000, "{report:?}");
    assert!(3 * report.functions < report.kernels, "layers share code: {report:?}");
}

#[test]
fn refusals() {
    let (_, program) = compiled(recurrent());
    let entry = |name| Entry { name, program: &program };
    let refused = |entries: &[Entry]| module(entries, &WasmOptions::default()).unwrap_err().to_string();
    for names in [["a", "a"], ["a", "init"], ["worker", "a"], ["a", ""]] {
        let error = refused(&names.map(entry));
        assert!(error.contains("expected names"), "{error}");
    }
    let none = WasmOptions { max_threads: 0, ..WasmOptions::default() };
    let error = module(&[entry("a")], &none).unwrap_err().to_string();
    assert!(error.contains("at least 1"), "{error}");
    let mut other = program.clone();
    let state = other.params.iter_mut().find(|p| p.kind != ParamKind::Input).unwrap();
    state.ty.shape.push(1);
    let error = refused(&[entry("a"), Entry { name: "b", program: &other }]);
    assert!(error.contains(&state_name(&program)) && error.contains("in `a`") && error.contains("in `b`"), "{error}");

    let passes = [Pass::Expand, Pass::Simplify];
    let graph = Pipeline::new(passes).run(recurrent()).unwrap().graph;
    let gpu = to_program(&graph, &TargetModel::gpu(8, 1 << 27), true).unwrap();
    let error = refused(&[Entry { name: "a", program: &gpu }]);
    assert!(error.contains("not for a GPU"), "{error}");
}

fn state_name(program: &Program) -> String {
    program.params.iter().find(|p| p.kind != ParamKind::Input).map(|p| format!("`{}`", p.name)).unwrap()
}
