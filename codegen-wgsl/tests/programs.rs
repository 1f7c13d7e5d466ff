//! Whole programs: every kernel of fused and unfused training steps and of random graphs is valid for naga, on adapters of several abilities, and has SPIR-V, MSL
//! and HLSL; and programs run on the adapter give what the graph's interpreter gives.

mod support;

use std::collections::{HashMap, HashSet};
use support::gpu::{Gpu, gpu};
use support::{bits, value};
use tinygpt_codegen_wgsl::validate::{hlsl, msl, spirv};
use tinygpt_codegen_wgsl::{Caps, Dialect, Module, Unit, emit, pieces, validate, variants};
use tinygpt_ir::interp::eval;
use tinygpt_ir::program::{Place, Program, TargetModel};
use tinygpt_ir::random::{RandomOptions, random_graph, random_inputs};
use tinygpt_ir::{Graph, Init, ParamKind, Tensor};
use tinygpt_passes::compile::to_program;
use tinygpt_passes::optimizer::{AdamWConfig, training_step_with_gradients};
use tinygpt_passes::pass::{Pass, Pipeline};

fn prepared(graph: Graph) -> Graph {
    let passes: &[Pass] = &[Pass::Expand, Pass::Simplify, Pass::SplitReduce, Pass::Simplify];
    Pipeline::new(passes).run(graph).unwrap().graph
}

fn gpt_step() -> Graph {
    let gpt = tinygpt_models::gpt::GptConfig {
        vocab: 17,
        ctx: 5,
        layers: 2,
        heads: 2,
        d_model: 8,
        d_mlp: 12,
        batch: 3,
        gelu: tinygpt_ir::op::GeluForm::Erf,
    };
    training_step_with_gradients(&tinygpt_models::gpt::gpt(&gpt).unwrap(), &AdamWConfig::default()).unwrap()
}

fn recurrent_step() -> Graph {
    let config = tinygpt_models::recurrent::RecurrentConfig { vocab: 13, ctx: 3, d_embed: 5, d_state: 4, batch: 2 };
    let model = tinygpt_models::recurrent::recurrent(&config).unwrap();
    training_step_with_gradients(&model, &AdamWConfig::default()).unwrap()
}

fn target(caps: &Caps) -> TargetModel {
    // One binding is left for scratch or a table.
    TargetModel::gpu(caps.max_storage_buffers as usize - 1, caps.max_binding_bytes as usize)
}

/// Adapters: what WebGPU promises; with subgroups; large, as the H200; with little workgroup memory and few invocations.
fn adapters() -> Vec<(&'static str, Caps)> {
    let webgpu = Caps::webgpu();
    let subgroups = Caps { subgroups: Some((4, 32)), ..webgpu.clone() };
    let large = Caps {
        subgroups: Some((32, 32)),
        f16: true,
        workgroup_bytes: 48 << 10,
        max_invocations: 1024,
        max_workgroup_size: [1024, 1024, 64],
        max_storage_buffers: 16,
        max_binding_bytes: 2 << 30,
        ..webgpu.clone()
    };
    let small = Caps {
        workgroup_bytes: 4 << 10,
        max_invocations: 64,
        max_workgroup_size: [64, 64, 64],
        max_workgroups: 3000,
        ..webgpu.clone()
    };
    vec![("webgpu", webgpu), ("subgroups", subgroups), ("large", large), ("small", small)]
}

/// What validation has seen: equal modules are checked once.
#[derive(Default)]
struct Seen {
    modules: HashSet<u64>,
    kernels: usize,
}

fn check_module(module: &Module, caps: &Caps, context: &str) {
    let source = module.source(Dialect::Naga);
    let (naga, info) = validate(&source, caps).unwrap_or_else(|e| panic!("{context}: {e}\n{source}"));
    let words = spirv(&naga, &info).unwrap_or_else(|e| panic!("{context}: {e}\n{source}"));
    assert_eq!(words[0], 0x0723_0203, "{context}: SPIR-V begins with its magic number");
    let text = msl(&naga, &info).unwrap_or_else(|e| panic!("{context}: {e}\n{source}"));
    assert!(text.contains("kernel void"), "{context}");
    let text = hlsl(&naga, &info).unwrap_or_else(|e| panic!("{context}: {e}\n{source}"));
    assert!(text.contains("numthreads"), "{context}");
    for d in &module.dispatches {
        assert!(d.invocations <= caps.max_invocations, "{context}");
        assert!(d.workgroups.iter().all(|n| (1..=caps.max_workgroups).contains(n)), "{context}: {:?}", d.workgroups);
        assert!(naga.entry_points.iter().any(|e| e.name == d.entry), "{context}");
    }
    for (i, b) in module.bindings.iter().enumerate().filter(|(_, b)| b.write) {
        for (_, other) in module.bindings.iter().enumerate().filter(|(j, o)| *j != i && o.unit == b.unit) {
            assert!(other.write, "{context}: {:?} is bound read-only and read-write", b.unit);
            let apart = b.offset + b.size <= other.offset || other.offset + other.size <= b.offset;
            assert!(apart, "{context}: writable ranges of {:?} overlap", b.unit);
        }
    }
}

/// Every kernel of `program`: the default variant, or all.
fn check_program(program: &Program, caps: &Caps, all: bool, seen: &mut Seen, context: &str) {
    for kernel in program.kernels.values() {
        let context = format!("{context}, kernel {}", kernel.name);
        for piece in pieces(program, kernel, caps).unwrap_or_else(|e| panic!("{context}: {e}")) {
            let list = variants(&piece, caps);
            for variant in list.iter().take(if all { list.len() } else { 1 }) {
                let module = emit(&piece, caps, variant).unwrap_or_else(|e| panic!("{context}, {variant}: {e}"));
                seen.kernels += 1;
                if seen.modules.insert(module.hash) {
                    check_module(&module, caps, &format!("{context}, {variant}"));
                }
            }
        }
    }
}

#[test]
fn every_kernel_of_training_steps_is_valid() {
    for (adapter, caps) in adapters() {
        let mut seen = Seen::default();
        for (name, step) in [("gpt", gpt_step()), ("recurrent", recurrent_step())] {
            let step = prepared(step);
            for fusion in [false, true] {
                let program = to_program(&step, &target(&caps), fusion).unwrap();
                check_program(&program, &caps, true, &mut seen, &format!("{name}, fusion {fusion}, {adapter}"));
            }
        }
        println!("{adapter}: {} kernels and variants, {} distinct modules", seen.kernels, seen.modules.len());
        assert!(seen.modules.len() > 100 && seen.modules.len() < seen.kernels);
    }
}

#[test]
fn every_kernel_of_random_graphs_is_valid() {
    let adapters = adapters();
    let mut seen: Vec<Seen> = adapters.iter().map(|_| Seen::default()).collect();
    for seed in 0..150 {
        let f16 = seed % 4 == 0;
        let options = RandomOptions { f16, ..RandomOptions::default() };
        let graph = prepared(random_graph(seed, &options));
        // f16 only on the adapter that has it; the others in turn.
        let a = [2, 0, 1, 3][seed as usize % 4];
        let (adapter, caps) = &adapters[a];
        for fusion in [false, true] {
            let program = to_program(&graph, &target(caps), fusion).unwrap();
            check_program(&program, caps, fusion, &mut seen[a], &format!("random {seed}, fusion {fusion}, {adapter}"));
        }
    }
    for ((adapter, _), seen) in adapters.iter().zip(&seen) {
        println!("{adapter}: {} kernels and variants, {} distinct modules", seen.kernels, seen.modules.len());
    }
    assert!(seen.iter().map(|s| s.modules.len()).sum::<usize>() > 1000);
}

#[test]
fn every_kernel_of_the_large_presets_has_code() {
    // What real sizes take: large packs, long reductions, many segments.
    for (preset, bytes) in [("large", 128 << 20), ("xl", 128 << 20)] {
        let caps = Caps { max_binding_bytes: bytes, ..Caps::webgpu() };
        let model = tinygpt_models::gpt::gpt(&tinygpt_models::gpt::preset(preset).unwrap().config).unwrap();
        let step = tinygpt_passes::optimizer::training_step(&model, &AdamWConfig::default()).unwrap();
        let program = to_program(&prepared(step), &target(&caps), true).unwrap();
        let mut seen = Seen::default();
        check_program(&program, &caps, false, &mut seen, preset);
        println!("{preset}: {} kernels, {} distinct modules", seen.kernels, seen.modules.len());
        assert!(seen.modules.len() * 2 < seen.kernels, "layers share code");
    }
}

/// Runs one step of `program` on the adapter and compares every output and update with the graph's.
fn run(gpu: &Gpu, graph: &Graph, program: &Program, params: &[Tensor], context: &str) {
    let expected = eval(graph, params).unwrap();
    let mut words: HashMap<Unit, Vec<u32>> = HashMap::new();
    const GARBAGE: u32 = 0x7fc1_beef;
    for (id, b) in program.buffers.iter() {
        let (unit, _) = program.storage(id);
        let bytes = match b.place {
            Place::Pack { pack, .. } => program.memory.packs[pack as usize],
            Place::Slot(slot) => program.memory.slots[slot as usize],
            _ => b.bytes(),
        };
        words.entry(Unit::Storage(unit)).or_insert_with(|| vec![GARBAGE; bytes.div_ceil(4)]);
    }
    for (p, data) in graph.params.values().zip(params) {
        let param = program.param_named(&p.name).unwrap();
        let (unit, at) = program.storage(param.buffer);
        let to = &mut words.get_mut(&Unit::Storage(unit)).unwrap()[at / 4..][..data.data.len()];
        to.iter_mut().zip(&data.data).for_each(|(w, x)| *w = bits(p.ty.dtype, *x));
    }
    let units: HashMap<Unit, wgpu::Buffer> = words.iter().map(|(u, w)| (*u, gpu.buffer(w))).collect();
    for kernel in program.kernels.values() {
        for piece in pieces(program, kernel, &gpu.caps).unwrap() {
            let variant = variants(&piece, &gpu.caps)[0];
            gpu.run(&emit(&piece, &gpu.caps, &variant).unwrap(), &units);
        }
    }
    let after: HashMap<Unit, Vec<u32>> = units.iter().map(|(u, b)| (*u, gpu.read(b))).collect();
    let updates = expected.updates.iter().map(|(p, want)| (graph.params[*p].name.clone(), want));
    for (name, want) in expected.outputs.iter().map(|(name, want)| (name.clone(), want)).chain(updates) {
        let buffer = match program.output_named(&name) {
            Some(o) => o.buffer,
            None => program.param_named(&name).unwrap().buffer,
        };
        let (unit, at) = program.storage(buffer);
        let got = &after[&Unit::Storage(unit)][at / 4..][..want.data.len()];
        let scale = want.data.iter().filter(|x| x.is_finite()).fold(1e-3f64, |m, x| m.max(x.abs()));
        for (i, (g, w)) in got.iter().zip(&want.data).enumerate() {
            let g = value(want.ty.dtype, *g);
            let close = g == *w || (g.is_nan() && w.is_nan()) || (g - w).abs() <= 2e-3 * scale;
            let overflow = f64::from(*w as f32) == g;
            assert!(close || overflow, "{context}: element {i} of {name} is {g}, expected {w} (scale {scale:e})");
        }
    }
}

#[test]
fn training_steps_run_as_the_interpreter_says() {
    let Some(gpu) = gpu() else { return };
    for (name, step) in [("gpt", gpt_step()), ("recurrent", recurrent_step())] {
        let mut params: Vec<Tensor> = step
            .params
            .values()
            .zip(random_inputs(&step, 5))
            .map(|(p, data)| Tensor::new(p.ty.clone(), data).unwrap())
            .collect();
        for (p, v) in step.params.values().zip(&mut params) {
            match (p.name.as_str(), p.kind) {
                ("lr", _) => v.data.fill(1e-2),
                ("step", _) => v.data.fill(3.0),
                (_, ParamKind::State { init: Init::Zeros, .. }) if p.name.starts_with("adam.v") => {
                    v.data.iter_mut().for_each(|x| *x = x.abs());
                }
                _ => {}
            }
            v.data.iter_mut().for_each(|x| *x = f64::from(*x as f32));
        }
        let step = prepared(step);
        for fusion in [false, true] {
            let program = to_program(&step, &target(&gpu.caps), fusion).unwrap();
            run(gpu, &step, &program, &params, &format!("{name}, fusion {fusion}"));
        }
    }
}
