//! What the compiler emits for the model, kept beside it: a review shows what a change to the model, or an update of tinygpt, changes in
//! the code that runs. `INSTA_UPDATE=always cargo test` accepts new texts.

use own_model::window_mlp;
use tinygpt::testing;

/// The gated layer: silu and the gate itself are epilogues of its two contractions, so two launches are the whole layer.
#[test]
fn wgsl_of_the_hidden_layer() {
    let graph = window_mlp().unwrap();
    insta::assert_snapshot!(testing::of_outputs(&graph, &["logits"]).kernels("hidden").wgsl());
}

/// A place of the window, as Cranelift gets it: lookup and shift are one kernel.
#[cfg(target_arch = "x86_64")]
#[test]
fn clif_of_a_place_of_the_window() {
    let graph = window_mlp().unwrap();
    insta::assert_snapshot!(testing::of_outputs(&graph, &["logits"]).kernels("^pointwise_window_2$").clif());
}

/// Which kernels a whole training step has.
#[test]
fn the_training_step_fuses() {
    let graph = window_mlp().unwrap();
    let report = testing::of_training(&graph).fused();
    let kernels: Vec<&str> = report.lines().filter(|line| line.starts_with("kernel ")).collect();
    insta::assert_snapshot!(kernels.join("\n"));
}
