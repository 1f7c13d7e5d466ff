//! Training as a whole: it can overfit, and it is the same run however it is run.

use crate::support::{Cli, INTERP, cpus};
use std::collections::HashMap;
use tinygpt::passes::optimizer::AdamWConfig;
use tinygpt::runtime::checkpoint::Checkpoint;
use tinygpt::runtime::compile::ExecOptions;
use tinygpt::runtime::config::{Gelu, ModelConfig};
use tinygpt::runtime::model::{Batch, TrainStep};

/// Issue 2, the overfit gate: row b of the batch starts at byte 7b of the sentence repeated twenty times.
pub fn overfit(options: &ExecOptions) {
    let (ctx, rows) = (16, 8);
    let model = ModelConfig { vocab: 256, ctx, layers: 2, heads: 2, d_model: 32, d_mlp: 64, gelu: Gelu::Erf };
    let adamw = AdamWConfig { weight_decay: 0.1, grad_clip: None, ..AdamWConfig::default() };
    let mut train = TrainStep::new(&model, rows, adamw, false, options).unwrap();
    train.start(42).unwrap();
    let text = "the quick brown fox jumps over the lazy dog. ".repeat(20).into_bytes();
    let mut batch = Batch::zeros(rows, ctx).unwrap();
    let (ids, targets) = batch.slices().unwrap();
    for (at, (id, target)) in ids.iter_mut().zip(targets).enumerate() {
        let byte = 7 * (at / ctx) + at % ctx;
        (*id, *target) = (text[byte].into(), text[byte + 1].into());
    }
    let losses: Vec<f64> = (1..=151).map(|number| train.run(&batch, 5e-3, number).unwrap().loss).collect();
    let uniform = 256f64.ln();
    assert!((losses[0] - uniform).abs() < 0.7, "{options:?}: the loss starts at {}", losses[0]);
    assert!(losses[150] < 0.01, "{options:?}: after 150 steps the loss is {}", losses[150]);
}

#[test]
fn the_interpreter_overfits_one_batch() {
    overfit(&INTERP);
}

#[test]
fn the_cpu_overfits_one_batch_in_every_form() {
    cpus().iter().for_each(overfit);
}

/// The files of a run's last checkpoint that training decides: weights and moments, byte for byte.
pub fn tensors(cli: &Cli, run: &str) -> HashMap<&'static str, Vec<u8>> {
    let step = cli.path(run).join("step-00000040");
    ["model.safetensors", "optim.safetensors"].map(|name| (name, std::fs::read(step.join(name)).unwrap())).into()
}

#[test]
fn a_stopped_and_resumed_run_is_the_run_that_was_not() {
    for flags in ["--threads 2", "--threads 1 --no-templates", "--backend interp"] {
        let cli = Cli::new();
        cli.small_config("");
        cli.ok(&format!("train --config small.toml {flags} --steps 40 --out whole"));
        let stopped = cli.ok(&format!("train --config small.toml {flags} --steps 40 --stop-at 20 --out parts"));
        assert!(stopped.stdout.starts_with("step 20 checkpoint parts/step-00000020"), "{}", stopped.stdout);
        cli.ok("train --resume parts --stop-at 33");
        cli.ok("train --resume parts");
        assert!(tensors(&cli, "parts") == tensors(&cli, "whole"), "resuming changed a run with {flags}");
        let losses = |run: &str| -> Vec<serde_json::Value> {
            let text = std::fs::read_to_string(cli.path(run).join("metrics.jsonl")).unwrap();
            let line = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["loss"].clone();
            text.lines().map(line).collect()
        };
        assert_eq!(losses("parts").len(), 40);
        assert_eq!(losses("parts"), losses("whole"));
    }
}

#[test]
fn threads_change_no_bit() {
    let cli = Cli::new();
    // Wide enough that kernels have several tasks.
    cli.small_config("batch = 4\neval_every = 0\nsample_bytes = 0");
    let text = std::fs::read_to_string(cli.path("small.toml")).unwrap();
    let text = text.replace("batch = 2\n", "").replace("sample_bytes = 12\n", "");
    cli.file("small.toml", text.replace("ctx = 8", "ctx = 32").replace("d_model = 8", "d_model = 64"));
    for templates in ["", "--no-templates"] {
        let run = |threads: usize| {
            let out = format!("t{threads}{templates}");
            cli.ok(&format!("train --config small.toml --threads {threads} {templates} --out {out}"));
            tensors(&cli, &out)
        };
        let one = run(1);
        for threads in [2, 3] {
            assert!(run(threads) == one, "{threads} threads differ from one ({templates})");
        }
    }
}

#[test]
fn a_run_is_recorded_in_its_directory() {
    let cli = Cli::new();
    cli.small_config("eval_every = 10\nsave_every = 15\nkeep = 2");
    cli.file("text.txt", "A line of text to learn from. ".repeat(100));
    let run = cli.ok("train --config small.toml --data text.txt --threads 1 --seed 7 --out run");
    assert!(run.stdout.starts_with("step 40 val_loss ") && run.stdout.contains("checkpoint run/step-00000040"));
    assert!(run.stderr.contains("step 10/40  loss ") && run.stderr.contains("  val "), "{}", run.stderr);
    let mut names: Vec<_> =
        std::fs::read_dir(cli.path("run")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["config.toml", "metrics.jsonl", "samples.txt", "step-00000030", "step-00000040"]);
    let config = std::fs::read_to_string(cli.path("run/config.toml")).unwrap();
    assert!(config.contains("seed = 7") && config.contains("/text.txt\""), "{config}");
    let checkpoint = Checkpoint::load(&cli.path("run")).unwrap();
    assert_eq!((checkpoint.step, checkpoint.config.train.seed), (40, 7));
    let first = Checkpoint::load(&cli.path("run/step-00000030")).unwrap();
    assert_ne!(first.weights, checkpoint.weights);
}
