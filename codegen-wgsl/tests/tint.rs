//! Tint, the compiler of Chromium's WebGPU, accepts what naga accepts: every variant of every kernel of two training steps and of
//! random graphs, and what runs as one, in the browsers' dialect.
//!
//! Needs Node and `npm ci` in `codegen-wgsl/tint` (`cargo xtask test` does that where npm is); says `skipped` where they are missing, and
//! fails instead with TINYGPT_REQUIRE_TINT=1, which `.ci/run` sets.

use std::collections::HashSet;
use std::path::Path;
use std::process::Command;
use tinygpt_codegen_wgsl::{Caps, Dialect, Module, bundles, emit, pieces, variants};
use tinygpt_ir::Graph;
use tinygpt_ir::program::TargetModel;
use tinygpt_ir::random::{RandomOptions, random_graph};
use tinygpt_passes::compile::to_program;
use tinygpt_passes::optimizer::{AdamWConfig, training_step};
use tinygpt_passes::pass::{Pass, Pipeline};

fn graphs() -> Vec<Graph> {
    let gpt = tinygpt_models::gpt::GptConfig {
        vocab: 19,
        ctx: 12,
        layers: 2,
        heads: 2,
        d_model: 16,
        d_mlp: 64,
        batch: 3,
        gelu: tinygpt_ir::op::GeluForm::Erf,
    };
    let cell = tinygpt_models::recurrent::RecurrentConfig { vocab: 13, ctx: 3, d_embed: 5, d_state: 4, batch: 2 };
    let models = [tinygpt_models::gpt::gpt(&gpt), tinygpt_models::recurrent::recurrent(&cell)];
    let steps = models.map(|m| training_step(&m.unwrap(), &AdamWConfig::default()).unwrap());
    let random = (0..40).map(|seed| random_graph(seed, &RandomOptions::default()));
    let passes = [Pass::Expand, Pass::Simplify, Pass::SplitReduce, Pass::Simplify];
    steps.into_iter().chain(random).map(|g| Pipeline::new(passes).run(g).unwrap().graph).collect()
}

#[test]
fn tint_accepts_every_module() {
    let tint = Path::new(env!("CARGO_MANIFEST_DIR")).join("tint");
    if !tint.join("node_modules/webgpu").is_dir() || Command::new("node").arg("--version").output().is_err() {
        let why = "found no Node with the package webgpu: run `npm ci` in codegen-wgsl/tint";
        assert!(std::env::var_os("TINYGPT_REQUIRE_TINT").is_none_or(|v| v != "1"), "{why}");
        println!("skipped: {why}");
        return;
    }
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("tint");
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    let subgroups = Caps { subgroups: Some((4, 32)), ..Caps::webgpu() };
    let mut seen = HashSet::new();
    let mut keep = |module: &Module| {
        if seen.insert(module.hash) {
            let file = dir.join(format!("{}-{:016x}.wgsl", module.name, module.hash));
            std::fs::write(file, module.source(Dialect::Browser)).unwrap();
        }
    };
    let many = Caps { max_storage_buffers: 16, ..subgroups.clone() };
    for caps in [Caps::webgpu(), subgroups, many] {
        let target = TargetModel::gpu(caps.max_storage_buffers as usize - 1, caps.max_binding_bytes as usize);
        for graph in graphs() {
            let program = to_program(&graph, &target, true).unwrap();
            for kernel in program.kernels.values() {
                for piece in pieces(&program, kernel, &caps).unwrap() {
                    for variant in variants(&piece, &caps) {
                        keep(&emit(&piece, &caps, &variant).unwrap());
                    }
                }
            }
            for bundle in bundles(&program, &caps).unwrap() {
                bundle.emit(&caps, &bundle.choices[0]).unwrap().iter().for_each(&mut keep);
            }
        }
    }
    let verdict = Command::new("node").arg(tint.join("check.mjs")).arg(&dir).output().unwrap();
    let said = String::from_utf8_lossy(&verdict.stdout);
    println!("{}", said.lines().last().unwrap_or_default());
    assert!(verdict.status.success(), "{said}\n{}", String::from_utf8_lossy(&verdict.stderr));
    assert!(said.contains(&format!("{} modules accepted, 0 refused", seen.len())), "{said}");
    assert!(seen.len() > 100, "only {} modules", seen.len());
}
