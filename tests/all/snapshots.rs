//! The text of every stage for one small model, so that a review shows what a change to the compiler changes in what it emits.
//!
//! To accept new texts: `INSTA_UPDATE=always cargo test --release -p tinygpt --test all snapshots`, then read the difference.

use tinygpt::ir::op::GeluForm;
use tinygpt::ir::program::{KernelId, TargetModel};
use tinygpt::models::{GptConfig, gpt};
use tinygpt::passes::optimizer::AdamWConfig;
use tinygpt::runtime::cli::Stage;
use tinygpt::runtime::commands::dump::{Options, render};
use tinygpt::runtime::compile::{Compiled, Goal, compile};

fn compiled() -> Compiled {
    let config =
        GptConfig { vocab: 16, ctx: 4, layers: 1, heads: 2, d_model: 8, d_mlp: 16, batch: 2, gelu: GeluForm::Erf };
    let goal = Goal::Train { adamw: AdamWConfig::default(), gradients: false };
    compile(gpt(&config).unwrap(), &goal, &TargetModel::cpu()).unwrap()
}

fn text(compiled: &Compiled, stage: Stage, kernels: &[KernelId]) -> String {
    let parts = render(compiled, stage, &Options::stable(), kernels).unwrap();
    parts.iter().map(|file| file.text()).collect()
}

#[test]
fn the_stages_of_a_small_gpt() {
    let compiled = compiled();
    let all: Vec<KernelId> = compiled.program.kernels.ids().collect();
    for (name, stage) in
        [("graph", Stage::Graph), ("grad", Stage::Grad), ("fused", Stage::Fused), ("program", Stage::Program)]
    {
        insta::assert_snapshot!(name, text(&compiled, stage, &all));
    }
}

/// The shortest kernel of each archetype but attention: more would be a file that nobody reads.
#[cfg(target_arch = "x86_64")]
#[test]
fn the_code_of_a_small_gpt() {
    let compiled = compiled();
    let shortest = |archetype: &str| -> KernelId {
        let kernels = compiled.program.kernels.iter().filter(|(_, k)| k.kind.archetype() == archetype);
        kernels.map(|(id, _)| id).min_by_key(|id| text(&compiled, Stage::Clif, &[*id]).len()).unwrap()
    };
    let chosen = ["fold", "reduce", "contract", "scatter", "update"].map(shortest);
    // The calling convention is the operating system's.
    insta::with_settings!({ filters => vec![(r"\b(system_v|windows_fastcall|apple_aarch64)\b", "[convention]")] }, {
        insta::assert_snapshot!("clif", text(&compiled, Stage::Clif, &chosen));
    });
}

/// Two builds of the same model from scratch print the same.
#[test]
fn texts_are_stable() {
    let (a, b) = (compiled(), compiled());
    let all: Vec<KernelId> = a.program.kernels.ids().collect();
    for stage in [Stage::Graph, Stage::Grad, Stage::Fused, Stage::Program, Stage::Clif, Stage::Asm] {
        assert_eq!(text(&a, stage, &all), text(&b, stage, &all));
    }
}
