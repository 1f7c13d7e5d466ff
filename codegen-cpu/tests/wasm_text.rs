//! Snapshots of WebAssembly as text: the first kernel of each archetype of a small GPT's training step, the functions by which threads
//! meet, and the rounds of a small program. What is emitted is read like source.

use std::collections::BTreeMap;
use tinygpt_codegen_cpu::wasm::{Entry, WasmModule, WasmOptions, module};
use tinygpt_ir::Graph;
use tinygpt_ir::op::GeluForm;
use tinygpt_ir::program::{KernelId, Program, TargetModel};
use tinygpt_models::gpt::{GptConfig, gpt};
use tinygpt_passes::compile::to_program;
use tinygpt_passes::optimizer::{AdamWConfig, training_step};
use tinygpt_passes::pass::{Pass, Pipeline};

fn compiled(forward: &Graph) -> Program {
    let step = training_step(forward, &AdamWConfig::default()).unwrap();
    let passes = Pipeline::new([Pass::Expand, Pass::Simplify, Pass::SplitReduce, Pass::Simplify]);
    to_program(&passes.run(step).unwrap().graph, &TargetModel::cpu(), true).unwrap()
}

fn small() -> Program {
    let config =
        GptConfig { vocab: 64, ctx: 16, layers: 1, heads: 2, d_model: 32, d_mlp: 64, batch: 4, gelu: GeluForm::Erf };
    compiled(&gpt(&config).unwrap())
}

fn made(program: &Program, options: WasmOptions) -> WasmModule {
    module(&[Entry { name: "train", program }], &options).unwrap()
}

#[test]
fn one_kernel_of_each_archetype() {
    let program = small();
    let module = made(&program, WasmOptions::default());
    let mut firsts: BTreeMap<&str, KernelId> = BTreeMap::new();
    for (id, kernel) in program.kernels.iter() {
        firsts.entry(kernel.kind.archetype()).or_insert(id);
    }
    assert_eq!(firsts.len(), 7, "{firsts:?}");
    for (archetype, kernel) in firsts {
        insta::assert_snapshot!(format!("kernel_{archetype}"), without_lines(&module.kernel_wat(0, kernel)));
    }
}

/// The text without the numbers of DSL lines, which move when a model is edited.
fn without_lines(text: &str) -> String {
    let stripped = text.lines().map(|line| match (line.starts_with(";; at "), line.rsplit_once(':')) {
        (true, Some((file, _))) => format!("{file}:_\n"),
        _ => format!("{line}\n"),
    });
    stripped.collect()
}

/// The functions of a module whose names begin so, with their comments.
fn functions(text: &str, wanted: &[&str]) -> String {
    let mut out = String::new();
    let (mut comments, mut inside) = (String::new(), false);
    for line in text.lines() {
        if line.starts_with("  ;; ") {
            comments.push_str(&format!("{line}\n"));
            continue;
        }
        if let Some(name) = line.strip_prefix("  (func $") {
            inside = wanted.iter().any(|w| name.starts_with(w));
            if inside {
                out.push_str(&comments);
            }
        }
        comments.clear();
        if inside {
            out.push_str(&format!("{line}\n"));
        }
        inside &= line != "  )";
    }
    out
}

#[test]
fn threads_meet() {
    let text = made(&small(), WasmOptions::default()).wat();
    let head: String = text.lines().take(1).take_while(|l| l.starts_with(";;")).map(|l| format!("{l}\n")).collect();
    let wanted = ["count ", "wait ", "advance ", "until ", "begin ", "init ", "worker ", "stop "];
    insta::assert_snapshot!("threads", head + &functions(&text, &wanted));
}

#[test]
fn rounds_of_a_program() {
    // Large enough that the other threads are worth calling.
    let config =
        GptConfig { vocab: 64, ctx: 64, layers: 1, heads: 4, d_model: 64, d_mlp: 256, batch: 8, gelu: GeluForm::Erf };
    let text = made(&compiled(&gpt(&config).unwrap()), WasmOptions::default()).wat();
    let wanted = ["train ", "train.worker ", "train.stage_1_", "train.stage_2 ", "train.stage_4 "];
    insta::assert_snapshot!("rounds", functions(&text, &wanted));
}
