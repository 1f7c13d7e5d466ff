//! The JavaScript of web/ in Node: the runner's figures against the host's, and the tests and programs that are JavaScript themselves.
//!
//! Tests say `skipped` where there is no Node, unless TINYGPT_REQUIRE_NODE=1 is set.

use crate::support::Run;
use crate::wasm::{have, have_node, web};
use serde_json::{Value, json};
use std::process::Command;
use tinygpt::runtime::data::Corpus;
use tinygpt::runtime::rng::Stream;
use tinygpt::runtime::sampling::Sampler;
use tinygpt::runtime::schedule::{Schedule, ScheduleKind};

/// What web/test/figures.json holds: results of the host's pure functions, for the JavaScript ports of them.
fn figures() -> Value {
    let mut draws = Vec::new();
    for (seed, name) in [(0u64, "data/train"), (42, "sample"), (u64::MAX, "x"), (1 << 40, "data/train")] {
        for index in [0u64, 1, 12345, 1 << 33, u64::MAX] {
            let stream = Stream::new(seed, name);
            draws.push(json!({
                // As text: JavaScript reads JSON numbers as f64.
                "seed": seed.to_string(), "name": name, "index": index.to_string(), "bits": stream.bits(index).to_string(),
                "uniform": stream.uniform(index), "below": stream.below(index, 1000),
            }));
        }
    }
    let mut schedules = Vec::new();
    for (kind, warmup, steps) in [
        (ScheduleKind::Cosine, 50, 2000),
        (ScheduleKind::Constant, 10, 100),
        (ScheduleKind::Cosine, 0, 1),
        (ScheduleKind::Cosine, 5, 6),
    ] {
        let schedule = Schedule { kind, lr: 6e-3, warmup, steps };
        let rates: Vec<_> = (0..2100).step_by(7).chain(0..12).map(|step| (step, schedule.lr_at(step) as f32)).collect();
        schedules.push(
            json!({ "schedule": { "schedule": kind, "lr": 6e-3, "warmup": warmup, "steps": steps }, "rates": rates }),
        );
    }
    let (text_len, ctx, batch, seed) = (2000, 6, 3, 42);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("text");
    std::fs::write(&path, (0..text_len).map(|at| (at % 251) as u8).collect::<Vec<u8>>()).unwrap();
    let corpus = Corpus::from_file(&path, ctx).unwrap();
    let filled = |fill: &dyn Fn(&mut [i32], &mut [i32])| {
        let (mut ids, mut targets) = (vec![0; batch * ctx], vec![0; batch * ctx]);
        fill(&mut ids, &mut targets);
        json!({ "ids": ids, "targets": targets })
    };
    let train: Vec<_> = [0, 1, 99_999_999]
        .map(|step| json!([step, filled(&|ids, targets| corpus.fill_train(seed, step, ids, targets))]))
        .into();
    let validation: Vec<_> = [(0, 1), (2, 5), (4, 5)]
        .map(|(at, n)| json!([at, n, filled(&|ids, targets| corpus.fill_val(at, n, ids, targets))]))
        .into();
    let logits: Vec<f32> = (0..40).map(|i| ((i * 7919) % 97) as f32 / 13.0 - 3.0).collect();
    let mut texts = Vec::new();
    for (temperature, top_k, seed) in
        [(0.0, None, 1), (1.0, None, 2), (0.7, Some(5), 3), (3.0, Some(40), 4), (2.0, Some(1), 5)]
    {
        let mut sampler = Sampler::new(temperature, top_k, seed).unwrap();
        let tokens: Vec<u32> = (0..30).map(|index| sampler.choose(&logits, index).unwrap()).collect();
        texts.push(json!({ "temperature": temperature, "top_k": top_k, "seed": seed, "tokens": tokens }));
    }
    let cross_entropies: Vec<f64> = (0..40).map(|t| tinygpt::runtime::evaluate::cross_entropy(&logits, t)).collect();
    json!({
        "draws": draws,
        "schedules": schedules,
        "batches": { "text_len": text_len, "ctx": ctx, "batch": batch, "seed": seed, "train": train, "validation": validation },
        "sampling": { "logits": logits, "texts": texts, "cross_entropies": cross_entropies },
    })
}

/// BLESS=1 writes the figures anew.
#[test]
fn the_runners_figures_are_those_of_the_host() {
    let path = web().join("test/figures.json");
    let text = serde_json::to_string(&figures()).unwrap() + "\n";
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    assert!(
        std::fs::read_to_string(&path).unwrap() == text,
        "{} is not what the host computes: BLESS=1",
        path.display()
    );
}

#[test]
fn the_runners_own_tests_pass() {
    for tests in ["test/units.test.mjs", "test/engine.test.mjs"] {
        passes_in_node(tests);
    }
}

/// The playground's training worker, in Node; says itself what it lacks, and fails instead with TINYGPT_REQUIRE_WEB=1.
#[test]
fn the_playgrounds_sessions_pass() {
    passes_in_node("test/session.test.mjs");
}

/// The WebGPU runner on Chromium's SwiftShader, against the WebAssembly runner; says itself what it lacks, and fails instead with
/// TINYGPT_REQUIRE_CHROMIUM=1. SwiftShader compiles for a minute.
#[test]
fn webgpu_in_node_agrees_with_webassembly() {
    passes_in_node("test/gpu.test.mjs");
}

/// The benchmark of both on the same; likewise.
#[test]
fn the_benchmark_of_both_prints_its_blocks() {
    passes_in_node("test/bench-gpu.test.mjs");
}

fn passes_in_node(tests: &str) {
    if !have_node() {
        return;
    }
    let run = Run::of(Command::new("node").args(["--test", tests]).current_dir(web()).output().unwrap());
    assert!(run.status == 0 && run.stdout.contains("fail 0"), "{}{}", run.stdout, run.stderr);
}

/// web/runner/dist, which the binary embeds, is what web/runner/src compiles to.
#[test]
fn the_embedded_runner_is_compiled_from_its_source() {
    let there = web().join("node_modules/typescript").is_dir() && have_node();
    if !have("TypeScript (`npm ci` in web/)", there, "TINYGPT_REQUIRE_NODE") {
        return;
    }
    let run = Run::of(Command::new("node").arg("check.mjs").current_dir(web()).output().unwrap());
    assert_eq!(run.status, 0, "{}{}", run.stdout, run.stderr);
}

#[test]
fn the_smoke_run_learns_its_sentence() {
    if !have_node() {
        return;
    }
    let mut command = Command::new("node");
    command.args(["smoke.mjs", "--threads", "2"]).current_dir(web()).env("TINYGPT", env!("CARGO_BIN_EXE_tinygpt"));
    let run = Run::of(command.output().unwrap());
    assert_eq!(run.status, 0, "{}{}", run.stdout, run.stderr);
    assert!(run.stdout.ends_with("smoke: passed\n"), "{}", run.stdout);
}

#[test]
fn the_benchmark_prints_an_object_a_measurement() {
    if !have_node() {
        return;
    }
    let mut command = Command::new("node");
    command.args(["bench.mjs", "--preset", "tiny", "--threads", "1,2", "--rounds", "1", "--seconds", "0.01", "--json"]);
    let run = Run::of(command.current_dir(web()).env("TINYGPT", env!("CARGO_BIN_EXE_tinygpt")).output().unwrap());
    assert_eq!(run.status, 0, "{}{}", run.stdout, run.stderr);
    let lines: Vec<Value> = run.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.iter().map(|line| line["threads"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2]);
    for line in &lines {
        let number = |key: &str| line[key].as_f64().unwrap();
        // 6 params tokens + 12 layers d_model ctx tokens of the preset tiny.
        let flop = (6.0 * 70_464.0 + 12.0 * 2.0 * 48.0 * 32.0) * 512.0;
        assert!((number("gflops") / (flop / number("ms_per_step") / 1e6) - 1.0).abs() < 1e-9, "{line}");
        assert!((number("share_of_peak") / (number("gflops") / number("peak_gflops")) - 1.0).abs() < 1e-9, "{line}");
    }
}
