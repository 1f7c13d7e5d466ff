//! That the model is right, and learns.

use own_model::{model, sample, train, window_mlp};
use tinygpt::runtime::architecture::GraphModel;
use tinygpt::runtime::cli::ExecArgs;
use tinygpt::runtime::compile::ExecOptions;
use tinygpt::testing::{self, Backend};

fn cpu(threads: u16) -> ExecOptions {
    let flags = ExecArgs { backend: Some(Backend::Cpu), threads: Some(threads), ..ExecArgs::default() };
    ExecOptions::resolve(&flags, None).unwrap()
}

#[test]
fn gradients_are_right() {
    testing::assert_gradients(&window_mlp().unwrap());
}

#[test]
fn the_cpu_computes_what_the_interpreter_says() {
    testing::assert_matches_interp(&window_mlp().unwrap(), Backend::Cpu);
}

#[test]
fn training_learns_and_repeats_to_the_bit() {
    let model = model().unwrap();
    let run = |threads: u16| {
        let mut losses = Vec::new();
        let mut trained = train(&model, &cpu(threads), 300, |_, loss| losses.push(loss)).unwrap();
        let text = sample(&model, &mut trained, &cpu(threads), "Once", 40).unwrap();
        (losses, text)
    };
    let (losses, text) = run(1);
    let (first, last) = (losses[0], losses[280..].iter().sum::<f64>() / 20.0);
    // A guess among 256 costs 5.55 nats; the letters' frequencies alone about 3.
    assert!(first > 5.0 && last < 2.6, "from {first} to {last}");
    assert!(text.starts_with(b"Once") && text.len() == 44 && text.is_ascii(), "{text:?}");
    assert_eq!(run(2), (losses, text));
}

/// The graph's text is all that `tinygpt train --graph` needs.
#[test]
fn writes_the_graph() {
    let graph = window_mlp().unwrap();
    let text = graph.to_string();
    assert_eq!(GraphModel::parse(&text, "window_mlp.gir").unwrap().graph(), &graph);
}
