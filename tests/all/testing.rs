//! `tinygpt::testing`: that its checks can fail, and that its texts are a function of the graph.

use tinygpt::ir::{Builder, DType, Graph, Init, T, TensorType};
use tinygpt::passes::optimizer::AdamWConfig;
use tinygpt::testing::{self, Backend};

/// The sum of `of` a weight [3,5] that starts as `init`.
fn summed(init: Init, of: impl for<'g> Fn(T<'g>) -> T<'g>) -> Graph {
    let b = Builder::new("summed");
    b.output("loss", of(b.weight("w", [3, 5], init)).sum(&[0, 1]).reshape([]));
    b.finish().unwrap()
}

/// What the check says when it fails.
fn panics(check: impl FnOnce() + std::panic::UnwindSafe) -> String {
    let panic = std::panic::catch_unwind(check).expect_err("the check has to fail");
    panic.downcast_ref::<String>().cloned().unwrap_or_default()
}

#[test]
fn right_gradients_pass_and_a_wrong_one_fails() {
    testing::assert_gradients(&summed(Init::Normal(1.0), |w| w.max(0.0) * w.sin()));
    // At a kink the derivative is no number: the rule's choice is not the difference's.
    let kink = summed(Init::Zeros, |w| w.max(0.0));
    let said = panics(move || testing::assert_gradients(&kink));
    assert!(said.starts_with("summed: the gradient of w is ") && said.contains("the loss changes by"), "{said}");
}

#[test]
fn a_backend_that_computes_something_else_is_found() {
    testing::assert_matches_interp(&summed(Init::Normal(1.0), |w| w.exp() * 0.1), Backend::Cpu);
    // In f32 the large constant swallows the weight; in f64 it does not.
    let lossy = summed(Init::Normal(1.0), |w| (w + 1e8) - 1e8);
    let said = panics(move || testing::assert_matches_interp(&lossy, Backend::Cpu));
    assert!(said.starts_with("summed on the backend cpu: loss is off by "), "{said}");
}

fn bigram() -> Graph {
    let b = Builder::new("bigram");
    let tokens = TensorType::new(DType::I32, [2, 3]);
    let (ids, targets) = (b.input("ids", tokens.clone()), b.input("targets", tokens));
    let logits = b.weight("table", [5, 5], Init::Normal(0.1)).gather(ids);
    b.output("logits", logits);
    b.output("loss", logits.cross_entropy(targets));
    b.finish().unwrap()
}

#[test]
fn texts_name_no_line_and_follow_what_is_asked() {
    let graph = bigram();
    for (name, text, mark) in [
        ("program", testing::program(&graph), "stage 0\n"),
        ("clif", testing::clif(&graph), "\nfunction %"),
        ("wat", testing::wat(&graph), "(func "),
        ("wgsl", testing::wgsl(&graph), "@compute"),
    ] {
        assert!(text.contains(mark), "{name}: {text}");
        assert!(!text.contains(".rs:"), "{name} names a source line");
        assert!(text.ends_with('\n') && !text.ends_with("\n\n"), "{name}");
    }
    assert!(!testing::clif(&graph).contains("system_v") && testing::clif(&graph).contains(" native {"));
    let logits = testing::of_outputs(&graph, &["logits"]);
    assert!(logits.graph().contains("output logits") && !logits.graph().contains("output loss"));
    let unclipped = AdamWConfig { grad_clip: None, ..AdamWConfig::default() };
    let unclipped = testing::of_training(&graph).optimizer(unclipped).graph();
    assert!(!unclipped.contains("clip_by_global_norm") && testing::of_training(&graph).graph().contains("clip_by"));
    let scatter = testing::of_training(&graph).kernels("^scatter").wgsl();
    assert_eq!(scatter.matches("// variant: ").count(), 1, "{scatter}");
    let said = panics(move || drop(testing::of_training(&graph).kernels("nothing").wgsl()));
    assert!(said.starts_with("bigram cannot be shown: none of the program's"), "{said}");
}
