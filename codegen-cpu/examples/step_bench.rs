//! Where a step's time goes, on one thread: kernels of equal code together, the slowest first, beside the register-only peak of
//! 128-bit multiplications and additions.
//!
//! `cargo run --release -p tinygpt-codegen-cpu --example step_bench [PRESET [train|decode [baseline|portable|avx2|avx512]]]`

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;
use tinygpt_codegen_cpu::clif::{Jit, Options, Target};
use tinygpt_codegen_cpu::compile::{CpuOptions, PreparedProgram};
use tinygpt_codegen_cpu::lower::Product;
use tinygpt_ir::program::{BufferKind, KernelKind, Program, TargetModel};
use tinygpt_models::{GptConfig, gpt, gpt_decode, preset};
use tinygpt_passes::optimizer::{AdamWConfig, inference, training_step};
use tinygpt_passes::pass::{Pass, Pipeline};
use tinygpt_simd::Isa;
use tinygpt_vloop::{Builder, Elem};

fn program(config: &GptConfig, decode: bool) -> Program {
    let step = if decode {
        inference(&gpt_decode(config).expect("a preset is sound"), &["logits"])
    } else {
        training_step(&gpt(config).expect("a preset is sound"), &AdamWConfig::default())
    };
    let passes = [Pass::Expand, Pass::Simplify, Pass::SplitReduce, Pass::Simplify];
    let graph =
        Pipeline::new(passes).run(step.expect("a preset has gradients")).expect("the passes take presets").graph;
    tinygpt_passes::compile::to_program(&graph, &TargetModel::cpu(), true).expect("every op has a kernel")
}

/// FLOP/ns of twelve accumulators in registers.
fn peak(target: Target) -> f64 {
    let mut b = Builder::new("peak");
    let out = b.output("out", Elem::F32);
    let n = b.param("n");
    let (x, y) = (b.f32x4(0.999), b.f32x4(0.001));
    let zero = b.f32x4(0.0);
    let accs: Vec<_> = (0..12).map(|_| b.var("c", zero)).collect();
    b.for_("i", 0, n, 1, |b, _| {
        for &acc in &accs {
            let next = b.fma(acc, x, y);
            b.assign(acc, next);
        }
    });
    for (i, &acc) in accs.iter().enumerate() {
        b.store(out.at().offset(4 * i as i64), acc);
    }
    let mut jit = Jit::new(Options { target, ..Options::default() }).expect("this machine runs generated code");
    let id = jit.compile(&b.finish().expect("well formed")).expect("compiles");
    let code = jit.finish().expect("this machine runs generated code");
    let mut memory = [0f32; 48];
    let n = 20_000i64;
    let mut best = f64::INFINITY;
    for _ in 0..50 {
        let start = Instant::now();
        // SAFETY: one buffer of 48 elements, no scratch, one parameter, as declared above.
        unsafe { code.get(id)(&memory.as_mut_ptr().cast(), std::ptr::null_mut(), &n) }
        best = best.min(start.elapsed().as_secs_f64());
    }
    96e-9 * n as f64 / best
}

/// Floating-point operations of a kernel's products.
fn flops(kind: &KernelKind) -> f64 {
    let attention = |s: &tinygpt_ir::program::AttentionShape, products: f64| {
        2.0 * products * (s.batch * s.heads * s.q_len * s.k_len * s.head_dim) as f64
    };
    match kind {
        KernelKind::Contract(k) => {
            k.parts.iter().map(Product::new).map(|p| 2.0 * (p.batches() * p.rows() * p.cols() * p.depth()) as f64).sum()
        }
        KernelKind::Attention(k) => attention(&k.shape, 2.0),
        KernelKind::AttentionGrad(k) => attention(&k.shape, 5.0),
        _ => 0.0,
    }
}

fn shape(kind: &KernelKind) -> String {
    match kind {
        KernelKind::Contract(k) => {
            let parts = k.parts.iter().map(Product::new);
            let parts: Vec<String> =
                parts.map(|p| format!("{:?}{:?}x{:?}x{}", p.batch, p.m, p.n, p.depth()).replace("[]", "")).collect();
            parts.join(" ")
        }
        KernelKind::Reduce(k) => format!("{:?}|{:?} {} reductions", k.rows, k.cols, k.reductions.len()),
        KernelKind::Pointwise(k) => format!("{:?}", k.space),
        KernelKind::Update(k) => format!("{} segments, {}", k.segments.len(), k.segments.iter().sum::<usize>()),
        KernelKind::Fold(k) => format!("{} segments, {}", k.segments.len(), k.segments.iter().sum::<usize>()),
        KernelKind::Scatter(k) => format!("{:?} into {}", k.ids, k.table),
        KernelKind::Attention(_) | KernelKind::AttentionGrad(_) => String::new(),
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let arg = |i: usize, or: &str| args.get(i).map_or(or.to_string(), |s| s.clone());
    let preset = preset(&arg(0, "large")).expect("the first argument is the name of a preset");
    let decode = arg(1, "train") == "decode";
    let path = arg(2, "baseline");
    let isa = Isa::available().into_iter().find(|isa| isa.name() == path);
    if isa.is_none() && !["baseline", "portable"].contains(&path.as_str()) {
        panic!(
            "the third argument is `{path}`, expected baseline, portable, or an instruction set that this machine has"
        );
    }
    let options = CpuOptions { isa, baseline: path == "baseline", ..CpuOptions::default() };
    let program = program(&preset.config, decode);
    let prepared = Arc::new(PreparedProgram::new(&program, &options).expect("compiles"));
    println!("{:?}", prepared.report());
    // Every buffer by itself: memory planning is not what is timed.
    let mut rng = 1u64;
    let mut memory: Vec<Vec<f32>> = program
        .buffers
        .values()
        .map(|b| {
            let mut next = || {
                rng = rng.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (rng >> 40) as f32 / (1 << 24) as f32 - 0.5
            };
            let integers = b.dtype != tinygpt_ir::types::DType::F32;
            let state = matches!(b.kind, BufferKind::State { .. });
            (0..b.len)
                .map(|i| {
                    if integers {
                        f32::from_bits(i as u32 % 100)
                    } else if state {
                        next().abs() * 0.1
                    } else {
                        next()
                    }
                })
                .collect()
        })
        .collect();
    let addresses: Vec<*mut u8> = memory.iter_mut().map(|m| m.as_mut_ptr().cast()).collect();
    // SAFETY: every buffer has its length and outlives `bound`.
    let bound = unsafe { prepared.bind(&addresses) }.expect("one address a buffer");
    let mut scratch = vec![0u32; prepared.scratch_bytes() / 4 + 16];
    let at = scratch.as_ptr().align_offset(64);
    // Least time of each task over all steps.
    let tasks: Vec<(usize, usize)> =
        (0..bound.rounds()).flat_map(|r| (0..bound.tasks(r)).map(move |t| (r, t))).collect();
    let mut best = vec![f64::INFINITY; tasks.len()];
    let started = Instant::now();
    let mut steps = 0;
    while steps < 3 || started.elapsed().as_secs_f64() < 5.0 {
        for (&(round, task), best) in tasks.iter().zip(&mut best) {
            let t = Instant::now();
            // SAFETY: rounds run in order on one thread; scratch is long enough and aligned.
            unsafe { bound.run(round, task, scratch[at..].as_mut_ptr().cast()) }
            *best = best.min(t.elapsed().as_secs_f64());
        }
        steps += 1;
    }
    let mut rows: BTreeMap<u32, (f64, usize, Vec<u32>)> = BTreeMap::new();
    for (&(round, task), time) in tasks.iter().zip(&best) {
        let kernel = bound.kernel(round, task);
        let row = rows.entry(prepared.same_code_as(kernel).0).or_default();
        row.0 += time;
        row.1 += 1;
        row.2.push(kernel.0);
    }
    let total: f64 = best.iter().sum();
    let c = &preset.config;
    let tokens = if decode { 1 } else { c.batch * c.ctx };
    let counted = (6 * preset.params * tokens + 12 * c.layers * c.d_model * c.ctx * tokens) as f64;
    let target = if path == "baseline" { Target::Baseline } else { Target::Host };
    let peak = peak(target);
    println!("{} {}: {:.2} ms of tasks, {steps} steps, peak {peak:.1} GFLOP/s", preset.name, path, total * 1e3);
    if !decode {
        println!("{:.1} GFLOP/s, {:.2} of peak", counted / total / 1e9, counted / total / 1e9 / peak);
    }
    let mut rows: Vec<_> = rows.into_iter().collect();
    rows.sort_by(|a, b| b.1.0.total_cmp(&a.1.0));
    println!("{:>8} {:>6} {:>6} {:>6} {:>8}  kernel", "ms", "share", "calls", "tasks", "GFLOP/s");
    for (first, (time, tasks, mut kernels)) in rows.into_iter().take(45) {
        kernels.sort_unstable();
        kernels.dedup();
        let kernel = program.kernels.values().nth(first as usize).expect("a kernel of the program");
        let rate = flops(&kernel.kind) * kernels.len() as f64 / time / 1e9;
        let share = 100.0 * time / total;
        println!(
            "{:>8.3} {share:>5.1}% {:>6} {tasks:>6} {rate:>8.1}  {} {}",
            time * 1e3,
            kernels.len(),
            kernel.name,
            shape(&kernel.kind)
        );
    }
}
