//! The GPU backend on whatever adapter there is; without one these tests say `skipped: no GPU adapter`, and with TINYGPT_REQUIRE_GPU=1
//! they fail. Models are small: in CI the adapter is a processor's (llvmpipe).
//!
//! Each kernel variant alone has its tests in `codegen-wgsl/tests`.

use crate::programs::{CASES, error, inputs};
use crate::support::{Cli, gpu};
use crate::{parity, training};
use std::fmt::Write;
use std::sync::Arc;
use tinygpt::ir::Graph;
use tinygpt::ir::random::{RandomOptions, random_graph};
use tinygpt::ir::{Builder, TensorType};
use tinygpt::models::{GptConfig, gpt};
use tinygpt::passes::compile::to_program;
use tinygpt::passes::optimizer::{AdamWConfig, training_step};
use tinygpt::passes::pass::{Pass, Pipeline};
use tinygpt::runtime::compile::{ExecOptions, PASSES};
use tinygpt::runtime::config::{Backend, Gelu, ModelConfig, Precision, RunConfig};
use tinygpt::runtime::data::Corpus;
use tinygpt::runtime::executor::Executor;
use tinygpt::runtime::gpu::tune::VERSION;
use tinygpt::runtime::gpu::{Cooperation, Gpu, GpuCounters, GpuExecutor, GpuOptions};
use tinygpt::runtime::model::{Batch, TrainStep};
use tinygpt::runtime::tensor::{DType, HostTensor};

fn prepared(gpu: &Arc<Gpu>, graph: &Graph, passes: &[Pass], fusion: bool) -> GpuExecutor {
    let simplified = Pipeline::new(passes.to_vec()).run(graph.clone()).unwrap().graph;
    let program = Arc::new(to_program(&simplified, &gpu.target(), fusion).unwrap());
    GpuExecutor::new(Arc::clone(gpu), program).unwrap()
}

/// Compiles `graph` and compares a step with the interpreter; the error, see `programs`.
fn check(gpu: &Arc<Gpu>, graph: &Graph, seed: u64, passes: &[Pass], fusion: bool, context: &str) -> f64 {
    let mut executor = prepared(gpu, graph, passes, fusion);
    error(graph, &inputs(graph, seed), &mut executor, &format!("{context}, fusion {fusion}"))
}

/// Not multiples of any tile, and one that is.
const SHAPES: &[[usize; 3]] = &[[1, 1, 7], [3, 17, 33], [2, 16, 32]];

#[test]
fn every_operation_on_a_gpu() {
    let Some(gpu) = gpu() else { return };
    let mut table = String::new();
    for (name, build) in CASES {
        let mut worst = 0.0f64;
        for (i, shape) in SHAPES.iter().enumerate() {
            let b = Builder::new("case");
            build(&b, shape);
            let graph = b.finish().unwrap_or_else(|e| panic!("{name} of {shape:?}: {e}"));
            let context = format!("{name} of {shape:?}");
            worst = worst.max(check(&gpu, &graph, i as u64, &[Pass::Expand], true, &context));
        }
        let _ = writeln!(table, "{name:<32}{:>3} shapes, largest error {worst:.1e}", SHAPES.len());
    }
    println!("{table}");
    assert!(CASES.len() >= 24);
}

#[test]
fn random_graphs_on_a_gpu() {
    let Some(gpu) = gpu() else { return };
    for seed in 0..12 {
        let graph = random_graph(seed, &RandomOptions::default());
        check(&gpu, &graph, seed, &PASSES, seed % 3 != 0, &format!("random graph {seed}"));
    }
}

#[test]
fn a_gpu_reproduces_pytorch() {
    let Some(gpu) = gpu() else { return };
    parity::check(&ExecOptions::on_gpu(gpu));
}

#[test]
fn a_gpu_overfits_one_batch() {
    let Some(gpu) = gpu() else { return };
    training::overfit(&ExecOptions::on_gpu(gpu));
}

/// Over 50 steps of `tiny` each loss is within 1% of the CPU's.
#[test]
fn losses_on_cpu_and_gpu_agree() {
    let Some(gpu) = gpu() else { return };
    let config = RunConfig::preset("tiny").unwrap();
    let cpu = ExecOptions { backend: Backend::Cpu, threads: 1, isa: None, no_templates: false, gpu: None };
    let corpus = Corpus::builtin(config.model.ctx).unwrap();
    let losses = |options: &ExecOptions| -> Vec<f64> {
        let adamw = tinygpt::runtime::model::adamw(&config.train);
        let mut train = TrainStep::new(&config.model, config.train.batch, adamw, false, options).unwrap();
        train.start(config.train.seed).unwrap();
        let mut batch = Batch::zeros(config.train.batch, config.model.ctx).unwrap();
        let step = |index: u64| {
            let (ids, targets) = batch.slices().unwrap();
            corpus.fill_train(config.train.seed, index, ids, targets);
            train.run(&batch, config.train.lr_schedule().lr_at(index), index + 1).unwrap().loss
        };
        (0..50).map(step).collect()
    };
    let (on_cpu, on_gpu) = (losses(&cpu), losses(&ExecOptions::on_gpu(gpu)));
    for (at, (a, b)) in on_cpu.iter().zip(&on_gpu).enumerate() {
        assert!((a - b).abs() <= 0.01 * a, "step {}: {a} on the CPU, {b} on the GPU", at + 1);
    }
    assert!(on_gpu[49] < on_gpu[0] - 1.0, "{on_gpu:?}");
}

fn small_model() -> ModelConfig {
    ModelConfig { vocab: 32, ctx: 8, layers: 2, heads: 2, d_model: 16, d_mlp: 32, gelu: Gelu::Erf }
}

fn small_step(gpu: Arc<Gpu>) -> (TrainStep, Batch) {
    let mut train =
        TrainStep::new(&small_model(), 2, AdamWConfig::default(), false, &ExecOptions::on_gpu(gpu)).unwrap();
    train.start(5).unwrap();
    let mut batch = Batch::zeros(2, 8).unwrap();
    let (ids, targets) = batch.slices().unwrap();
    ids.iter_mut().zip(targets).enumerate().for_each(|(i, (id, t))| (*id, *t) = (i as i32 * 5 % 32, i as i32 * 3 % 32));
    (train, batch)
}

/// Two runs from one seed are equal to the last bit, whether steps overlap or not.
#[test]
fn runs_on_a_gpu_are_bit_equal() {
    let (Some(first), Some(second)) = (gpu(), gpu()) else { return };
    let (mut a, batch) = small_step(first);
    let (mut b, _) = small_step(second);
    let one_by_one: Vec<_> = (1..=9).map(|number| a.run(&batch, 1e-2, number).unwrap()).collect();
    assert_eq!(b.depth(), 3);
    let mut overlapped = Vec::new();
    for number in 1..=9 {
        b.submit(&batch, 1e-2, number).unwrap();
        if number % 3 == 0 {
            let refused = b.submit(&batch, 1e-2, number).unwrap_err().to_string();
            assert_eq!(refused, "3 steps are under way, which is the most: take the results of one first");
            overlapped.extend((0..3).map(|_| b.take().unwrap()));
        }
    }
    assert_eq!(one_by_one, overlapped);
    assert!(one_by_one[8].loss < one_by_one[0].loss);
    assert_eq!(a.weights().unwrap(), b.weights().unwrap());
    assert_eq!(a.moments().unwrap(), b.moments().unwrap());
    assert!(b.take().unwrap_err().to_string().starts_with("no step is under way"));
}

/// By our counters and by wgpu's own account.
#[test]
fn steps_after_the_first_make_nothing_and_submit_once() {
    let Some(gpu) = gpu() else { return };
    let config = GptConfig {
        vocab: 32,
        ctx: 8,
        layers: 2,
        heads: 2,
        d_model: 16,
        d_mlp: 32,
        batch: 2,
        gelu: tinygpt::ir::op::GeluForm::Erf,
    };
    let graph = training_step(&gpt(&config).unwrap(), &AdamWConfig::default()).unwrap();
    let mut executor = prepared(&gpu, &graph, &PASSES, true);
    let ids = HostTensor::i32(&[2, 8], vec![3; 16]).unwrap();
    let mut loss = HostTensor::scalar_f32(0.0);
    let mut step = |executor: &mut GpuExecutor| {
        executor.write("ids", &ids).unwrap();
        executor.write("targets", &ids).unwrap();
        executor.write("lr", &HostTensor::scalar_f32(1e-2)).unwrap();
        executor.submit().unwrap();
        executor.take(&mut [("loss", &mut loss)]).unwrap();
        executor.read_into("grad_norm", &mut loss).unwrap();
    };
    step(&mut executor);
    let (counters, live) = (executor.counters(), gpu.live_objects().unwrap());
    assert!(counters.pipelines < executor.launches(), "equal layers share pipelines: {counters:?}");
    (0..5).for_each(|_| step(&mut executor));
    assert_eq!(executor.counters(), GpuCounters { submits: counters.submits + 5, ..counters });
    assert_eq!(gpu.live_objects().unwrap(), live, "buffers, pipelines, bind groups");
}

#[test]
fn values_cross_the_border_of_a_gpu_whole() {
    let Some(gpu) = gpu() else { return };
    let b = Builder::new("border");
    // More than one read's part, and types whose form on the device differs.
    let large = b.input("large", TensorType::f32([(16 << 20) / 4 + 3]));
    let flags = b.input("flags", TensorType::new(tinygpt::ir::DType::Bool, [5]));
    b.output("doubled", large * 2.0);
    b.output(
        "flipped",
        flags.select(b.splat([5], tinygpt::ir::Literal::i32(0)), b.splat([5], tinygpt::ir::Literal::i32(7))),
    );
    let mut executor = prepared(&gpu, &b.finish().unwrap(), &[], true);
    let values: Vec<f32> = (0..(16 << 20) / 4 + 3).map(|i| i as f32).collect();
    executor.write("large", &HostTensor::f32(&[values.len()], values.clone()).unwrap()).unwrap();
    executor.write("flags", &HostTensor::bool(&[5], vec![true, false, false, true, false]).unwrap()).unwrap();
    executor.step().unwrap();
    let doubled = executor.read("doubled").unwrap();
    assert!(doubled.as_f32().unwrap().iter().zip(&values).all(|(d, v)| *d == v * 2.0));
    assert_eq!(executor.read("flipped").unwrap().as_i32().unwrap(), [0, 7, 7, 0, 7]);
    assert_eq!(executor.read("flags").unwrap().as_bool().unwrap(), [true, false, false, true, false]);
    let mut found = HostTensor::zeros(DType::F32, &[values.len()]).unwrap();
    executor.submit().unwrap();
    let refused = executor.take(&mut [("doubled", &mut found)]).unwrap_err().to_string();
    assert!(refused.starts_with("doubled does not come back with a step"), "{refused}");
    assert!(executor.step().unwrap_err().to_string().starts_with("steps are under way"));
}

#[test]
fn programs_for_another_target_are_refused() {
    let Some(gpu) = gpu() else { return };
    let b = Builder::new("slab");
    let x = b.input("x", TensorType::f32([64]));
    b.output("y", x.softmax(0).exp().sum(&[0]));
    let simplified = Pipeline::new([Pass::Expand]).run(b.finish().unwrap()).unwrap().graph;
    let program = to_program(&simplified, &tinygpt::ir::program::TargetModel::cpu(), false).unwrap();
    let refused = GpuExecutor::new(gpu, Arc::new(program)).err().unwrap();
    assert!(refused.to_string().contains("was placed in a slab, and a GPU runs programs placed in slots"), "{refused}");
}

#[test]
fn checked_kernels_compute_the_same() {
    let Some(gpu) = gpu() else { return };
    let checked = Gpu::open(&GpuOptions { checked: true, tune: false, ..GpuOptions::default() }).unwrap();
    let (mut a, batch) = small_step(gpu);
    let (mut b, _) = small_step(checked);
    let (a, b) = (a.run(&batch, 1e-2, 1).unwrap(), b.run(&batch, 1e-2, 1).unwrap());
    assert!((a.loss - b.loss).abs() < 1e-6 && (a.grad_norm - b.grad_norm).abs() < 1e-5 * a.grad_norm, "{a:?} {b:?}");
}

#[test]
fn a_run_on_a_gpu_names_it_keeps_its_plan_and_resumes() {
    if gpu().is_none() {
        return;
    }
    let cli = Cli::new();
    cli.small_config("eval_every = 20\nsample_bytes = 0");
    let text = std::fs::read_to_string(cli.path("small.toml")).unwrap().replace("sample_bytes = 12\n", "");
    cli.file("small.toml", text);
    let flags = "--config small.toml --backend gpu --no-tune";
    let whole = cli.ok(&format!("train {flags} --out whole"));
    assert!(whole.stderr.lines().any(|line| line.starts_with("gpu: ")), "{}", whole.stderr);
    let bench = cli.ok("bench --preset tiny --backend gpu --no-tune --steps 1 --json").stdout;
    let bench: serde_json::Value = serde_json::from_str(&bench).unwrap();
    let adapter = bench["adapter"].as_str().unwrap();
    assert!(bench["peak_gflops"].is_null() && bench["share_of_peak"].is_null());
    assert!(whole.stderr.contains(&format!("gpu: {adapter} (")), "{}", whole.stderr);
    assert_eq!(bench["software"].as_bool().unwrap(), whole.stderr.contains("is a software adapter"));
    assert_eq!(cli.ok("devices").stdout.contains("software adapter"), bench["software"].as_bool().unwrap());

    let plan = |run: &str| std::fs::read_to_string(cli.path(run).join("plan")).unwrap();
    assert!(
        plan("whole").starts_with(&format!("tinygpt plan {VERSION}\nadapter "))
            && plan("whole").contains(" contract m=")
    );
    cli.ok(&format!("train {flags} --stop-at 20 --out parts"));
    let resumed = cli.ok("train --resume parts");
    assert!(!resumed.stderr.contains("chosen anew"), "{}", resumed.stderr);
    assert_eq!(plan("parts"), plan("whole"));
    assert!(training::tensors(&cli, "parts") == training::tensors(&cli, "whole"), "resuming changed the run");
    cli.ok("sample --checkpoint whole --tokens 3 --backend gpu --no-tune");
    cli.file("text.txt", "Once there was a fox. ".repeat(9));
    let on = |backend: &str| {
        cli.ok(&format!("eval --checkpoint whole --data text.txt --backend {backend} --no-tune --json")).stdout
    };
    let loss = |text: String| serde_json::from_str::<serde_json::Value>(&text).unwrap()["val_loss"].as_f64().unwrap();
    let (on_gpu, on_cpu) = (loss(on("gpu")), loss(on("cpu")));
    assert!((on_gpu - on_cpu).abs() < 1e-4, "{on_gpu} {on_cpu}");
    cli.refused("train --config small.toml --backend gpu --adapter nonesuch --out x", 2, "choose --adapter from ");
}

/// Mixed precision on any adapter: near f32's losses, the same bits again, its scale in metrics and state.json, and a resumed run is the run.
#[test]
fn mixed_precision_trains_and_resumes() {
    let Some(plain) = gpu() else { return };
    let mixed = Gpu::open(&GpuOptions { tune: false, precision: Precision::Mixed, ..GpuOptions::default() }).unwrap();
    assert_ne!(mixed.cooperation(), Some(Cooperation::Wrong), "{}", mixed.notice());
    assert_eq!(mixed.caps().cooperative.is_some(), mixed.cooperation() == Some(Cooperation::Used));
    assert!(plain.cooperation().is_none() && mixed.notice().contains("\nmixed precision: "));
    let losses = |gpu: &Arc<Gpu>| -> Vec<f64> {
        let (mut train, batch) = small_step(Arc::clone(gpu));
        (1..=6).map(|number| train.run(&batch, 1e-2, number).unwrap()).map(|step| step.loss).collect()
    };
    let (exact, rounded) = (losses(&plain), losses(&mixed));
    assert_eq!(rounded, losses(&mixed));
    for (a, b) in exact.iter().zip(&rounded) {
        assert!((a - b).abs() <= 0.01 * a, "{exact:?} {rounded:?}");
    }
    assert_ne!(exact, rounded, "operands were not rounded");

    let cli = Cli::new();
    cli.small_config("eval_every = 20\nsample_bytes = 0\nprecision = \"mixed\"");
    let text = std::fs::read_to_string(cli.path("small.toml")).unwrap().replace("sample_bytes = 12\n", "");
    cli.file("small.toml", text);
    let flags = "--config small.toml --backend gpu --no-tune";
    let whole = cli.ok(&format!("train {flags} --out whole"));
    assert!(whole.stderr.contains("\nmixed precision: "), "{}", whole.stderr);
    cli.ok(&format!("train {flags} --stop-at 20 --out parts"));
    cli.ok("train --resume parts");
    assert!(training::tensors(&cli, "parts") == training::tensors(&cli, "whole"), "resuming changed the run");
    let metrics = std::fs::read_to_string(cli.path("parts/metrics.jsonl")).unwrap();
    assert!(metrics.lines().all(|line| line.contains("\"loss_scale\":65536.0")), "{metrics}");
    cli.refused(
        "train --config small.toml --out x",
        2,
        "precision mixed runs on the backend gpu alone, and this is cpu: add --backend gpu, or choose --precision f32",
    );
}

/// What was measured once is not measured again, and a run goes on with its own plan.
#[test]
fn variants_are_timed_once_and_replayed() {
    if gpu().is_none() {
        return;
    }
    let cli = Cli::new();
    cli.small_config("");
    let cache = cli.path("cache");
    let run = |line: &str| {
        let output = cli.command(line).env("XDG_CACHE_HOME", &cache).output().unwrap();
        let run = crate::support::Run::of(output);
        assert_eq!(run.status, 0, "tinygpt {line}: {}", run.stderr);
        run.stderr
    };
    let first = run("train --config small.toml --backend gpu --stop-at 1 --out run");
    assert!(first.contains("gpu: timed variants of ") && first.contains(", kept in "), "{first}");
    let files: Vec<_> = std::fs::read_dir(cache.join("tinygpt")).unwrap().map(|entry| entry.unwrap().path()).collect();
    let file = |start: &str| files.iter().find(|f| f.file_name().unwrap().to_string_lossy().starts_with(start));
    let kept = std::fs::read(file("tune-").unwrap()).unwrap();
    let kept: serde_json::Value = serde_json::from_slice(&kept).unwrap();
    // Compiled kernels, where the adapter gives them away: a damaged file counts as none.
    if let Some(pipelines) = file("pipelines-") {
        let mut bytes = std::fs::read(pipelines).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(pipelines, bytes).unwrap();
    }
    let plan = || std::fs::read_to_string(cli.path("run/plan")).unwrap();
    for (hash, variant) in kept["kernels"].as_object().unwrap() {
        assert!(plan().contains(&format!("kernel {hash} {}\n", variant.as_str().unwrap())), "{hash}");
    }
    let before = plan();
    let resumed = run("train --resume run --stop-at 2");
    assert!(!resumed.contains("timed variants"), "{resumed}");
    assert_eq!(plan(), before);
}

/// A search begins where the contests of a first run end, and what it leaves in the cache is what later runs take.
#[test]
fn a_search_tries_further_variants_and_keeps_what_it_finds() {
    if gpu().is_none() {
        return;
    }
    let cli = Cli::new();
    cli.file("f.gir", crate::own_model::trigram(true).to_string());
    let cache = cli.path("cache");
    let run = |line: &str| {
        let output = cli.command(line).env("XDG_CACHE_HOME", &cache).output().unwrap();
        let run = crate::support::Run::of(output);
        assert_eq!(run.status, 0, "tinygpt {line}: {}", run.stderr);
        (run.stdout, run.stderr)
    };
    let (found, said) = run("tune --graph f.gir --rounds 2 --seconds 300 --json");
    assert!(said.contains("gpu: timed variants of ") && said.contains(" variants tried, a step "), "{said}");
    let found: serde_json::Value = serde_json::from_str(&found).unwrap();
    assert!(found["tried"].as_u64().unwrap() > 5 && found["ms"].as_f64().unwrap() > 0.0, "{found}");
    let mut kept = std::fs::read_dir(cache.join("tinygpt")).unwrap().map(|entry| entry.unwrap().path());
    let kept = kept.find(|f| f.file_name().unwrap().to_string_lossy().starts_with("tune-")).unwrap();
    let kept = std::fs::read_to_string(kept).unwrap();
    for change in found["changes"].as_array().unwrap() {
        assert!(kept.contains(change["after"].as_str().unwrap()), "{change}");
    }
    let (text, _) = run("tune --graph f.gir --rounds 1 --seconds 300");
    assert!(text.contains(" ms a step, ") && text.contains(" kernels changed, "), "{text}");
    cli.file("still.toml", "preset = \"tiny\"\n[train]\nno_tune = true\n");
    cli.refused("tune --config still.toml", 2, "a search times variants, which no_tune forbids");
}

#[test]
fn shaders_are_dumped_without_an_adapter() {
    let cli = Cli::new();
    for (stage, mark, suffix) in [
        ("wgsl", "@compute @workgroup_size(", "wgsl"),
        ("spv", "OpEntryPoint GLCompute", "spvasm"),
        ("msl", "#include <metal_stdlib>", "metal"),
        ("hlsl", "[numthreads(", "hlsl"),
    ] {
        let line = format!("dump --preset tiny --stage {stage} --kernel ^(attention|reduce)");
        let text = cli.ok(&line).stdout;
        assert!(text.contains(mark), "{stage} has no {mark}");
        assert_eq!(text, cli.ok(&line).stdout);
        cli.ok(&format!("{line} -o {stage}"));
        let mut files: Vec<_> = std::fs::read_dir(cli.path(stage)).unwrap().map(|e| e.unwrap().path()).collect();
        files.sort();
        assert!(files.len() > 2 && files.iter().all(|f| f.extension().is_some_and(|e| e == suffix)), "{files:?}");
    }
    cli.file("plan", "tinygpt plan 1\n");
    cli.refused(
        "dump --preset tiny --stage wgsl --plan plan",
        2,
        &format!("expected a plan that begins with \"tinygpt plan {VERSION}\""),
    );
}
