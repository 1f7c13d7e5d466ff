//! Writes the WebAssembly module of a GPT's training step, its text and its layout, and says what it took.
//!
//! `cargo run --release -p tinygpt-codegen-cpu --example wasm_step PRESET OUT [relaxed] [alone] [memory64]`

use std::time::Instant;
use tinygpt_codegen_cpu::wasm::{Entry, PEAK_FLOP, SlotLayout, WasmOptions, module, peak_module, wat};
use tinygpt_ir::program::TargetModel;
use tinygpt_models::gpt::{PRESETS, gpt};
use tinygpt_passes::compile::to_program;
use tinygpt_passes::optimizer::{AdamWConfig, training_step};
use tinygpt_passes::pass::{Pass, Pipeline};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [preset, out, flags @ ..] = args.as_slice() else {
        eprintln!("usage: wasm_step PRESET OUT [relaxed] [alone] [memory64]");
        std::process::exit(2);
    };
    let Some(preset) = PRESETS.iter().find(|p| p.name == preset) else {
        eprintln!("no preset `{preset}`");
        std::process::exit(2);
    };
    let config = preset.config;
    let step = training_step(&gpt(&config).expect("a model"), &AdamWConfig::default()).expect("a step");
    let passes = [Pass::Expand, Pass::Simplify, Pass::SplitReduce, Pass::Simplify];
    let graph = Pipeline::new(passes).run(step).expect("passes run").graph;
    let program = to_program(&graph, &TargetModel::cpu(), true).expect("a program");
    let has = |flag: &str| flags.iter().any(|f| f == flag);
    let options = WasmOptions {
        relaxed: has("relaxed"),
        threads: !has("alone"),
        memory64: has("memory64").then_some(true),
        ..WasmOptions::default()
    };
    let start = Instant::now();
    let made = module(&[Entry { name: "train", program: &program }], &options).expect("a module");
    eprintln!("{:.1} ms, {:?}", start.elapsed().as_secs_f64() * 1e3, made.report);
    let slots = |all: &[SlotLayout]| {
        let of = |s: &SlotLayout| {
            let (name, kind, dtype) = (&s.name, s.kind.name(), s.dtype);
            format!(
                "{{\"name\":\"{name}\",\"kind\":\"{kind}\",\"dtype\":\"{dtype}\",\"offset\":{},\"bytes\":{}}}",
                s.offset, s.bytes
            )
        };
        all.iter().map(of).collect::<Vec<_>>().join(",\n")
    };
    let entry = &made.layout.entries[0];
    let tokens = config.batch * config.ctx;
    let flop = 6 * preset.params * tokens + 12 * config.layers * config.d_model * config.ctx * tokens;
    let layout = format!(
        "{{\"memory64\":{},\"shared\":{},\"flop\":{flop},\"peakFlop\":{PEAK_FLOP},\"pages\":[{},{},{},{}],\"params\":[\n{}],\n\"outputs\":[\n{}]}}",
        made.layout.memory64,
        options.threads,
        made.layout.memory_pages(1),
        made.layout.memory_pages(2),
        made.layout.memory_pages(3),
        made.layout.memory_pages(4),
        slots(&entry.params),
        slots(&entry.outputs)
    );
    std::fs::create_dir_all(out).expect("a directory");
    let write = |name: &str, bytes: &[u8]| std::fs::write(format!("{out}/{name}"), bytes).expect("written");
    write("module.wasm", &made.bytes);
    write("module.wat", made.wat().as_bytes());
    write("layout.json", layout.as_bytes());
    write("peak.wasm", &peak_module(options.relaxed));
    write("peak.wat", wat(&peak_module(options.relaxed)).as_bytes());
}
