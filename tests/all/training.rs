//! Training as a whole: it can overfit, and it is the same run however it is run.

use crate::support::{Cli, INTERP, cpus, gpu};
use crate::wasm;
use std::collections::HashMap;
use tinygpt::models::{GptConfig, gpt as gpt_graph, preset};
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
    let mut forms = vec!["--threads 2", "--threads 1 --no-templates", "--backend interp", ACCUMULATING];
    let on_gpu = format!("--backend gpu --no-tune {ACCUMULATING}");
    if gpu().is_some() {
        forms.extend(["--backend gpu --no-tune", &on_gpu]);
    }
    for flags in forms {
        let cli = Cli::new();
        cli.small_config("");
        cli.file("val.txt", "the moon saw the hen and the fox. ".repeat(9));
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

/// Every part of a run that a resume must go on with.
const ACCUMULATING: &str =
    "--accumulate 3 --schedule cosine --warmup 5 --keep 1 --val-data val.txt --eval-every 7 --save-every 9";

/// Losses and gradient norms of a run, and its last weights.
fn course(cli: &Cli, run: &str) -> (Vec<[f64; 2]>, Vec<f32>) {
    let text = std::fs::read_to_string(cli.path(run).join("metrics.jsonl")).unwrap();
    let numbers = text.lines().map(|line| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        ["loss", "grad_norm"].map(|key| line[key].as_f64().unwrap())
    });
    let weights = Checkpoint::load(&cli.path(run)).unwrap().weights;
    (numbers.collect(), weights.values().flat_map(|t| t.as_f32().unwrap().to_vec()).collect())
}

/// Three micro-batches of two rows are one batch of six, to rounding, on every backend, and for a model that is no GPT.
#[test]
fn micro_batches_are_one_larger_batch() {
    let cli = Cli::new();
    cli.small_config("lr = 1e-3");
    cli.file("text.txt", "the fox and the hen saw the moon. ".repeat(80));
    for rows in [2, 6] {
        let config = GptConfig {
            ctx: 8,
            layers: 1,
            heads: 2,
            d_model: 8,
            d_mlp: 16,
            batch: rows,
            ..preset("tiny").unwrap().config
        };
        cli.file(&format!("{rows}.gir"), gpt_graph(&config).unwrap().to_string());
    }
    let same = "--data text.txt --steps 8 --warmup 2 --sample-bytes 0 --lr 1e-3";
    let mut backends = vec!["cpu --threads 2", "cpu --threads 1", "interp"];
    backends.extend(gpu().map(|_| "gpu --no-tune"));
    backends.extend(wasm::have_node().then_some("wasm --threads 2"));
    for (model, whole) in [("--config small.toml", "--config small.toml --batch 6"), ("--graph 2.gir", "--graph 6.gir")]
    {
        let on = |flags: &str, backend: &str, out: &str| {
            cli.ok(&format!("train {flags} {same} --backend {backend} --out {out}"));
            let found = course(&cli, out);
            std::fs::remove_dir_all(cli.path(out)).unwrap();
            found
        };
        let (expected, weights) = on(whole, "interp", "whole");
        let mut bits = Vec::new();
        for backend in &backends {
            let (found, end) = on(&format!("{model} --accumulate 3"), backend, "parts");
            assert_eq!(found.len(), expected.len());
            for (step, (found, expected)) in found.iter().zip(&expected).enumerate() {
                for (a, b) in found.iter().zip(expected) {
                    assert!(
                        (a - b).abs() <= 1e-4 * b,
                        "{backend}, {model}, step {step}: {found:?}, expected {expected:?}"
                    );
                }
            }
            let apart = end.iter().zip(&weights).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(apart < 2e-4, "{backend}, {model}: weights differ by {apart}");
            if backend.starts_with("cpu") {
                bits.push(end);
            }
        }
        assert!(bits[0] == bits[1], "threads change a bit");
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
    assert_eq!(
        names,
        [".lock", "config.toml", "curves.svg", "metrics.jsonl", "samples.txt", "step-00000030", "step-00000040"]
    );
    let config = std::fs::read_to_string(cli.path("run/config.toml")).unwrap();
    assert!(config.contains("seed = 7") && config.contains("/text.txt\""), "{config}");
    let checkpoint = Checkpoint::load(&cli.path("run")).unwrap();
    assert_eq!((checkpoint.step, checkpoint.config.train.seed), (40, 7));
    let first = Checkpoint::load(&cli.path("run/step-00000030")).unwrap();
    assert_ne!(first.weights, checkpoint.weights);
}
