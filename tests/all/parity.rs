//! Every backend reproduces what PyTorch recorded: logits, loss, gradients, twenty steps and greedy tokens, within the tolerances
//! of tests/fixtures/README.md. Issue 2: on the CPU with 1 and 2 threads, with and without templates, and on the interpreter.

use crate::support::{INTERP, cpus, fixture};
use tinygpt::runtime::compile::ExecOptions;
use tinygpt::runtime::fixture::Fixture;
use tinygpt::runtime::parity::reproduce;

pub fn check(options: &ExecOptions) {
    for name in ["parity_a", "parity_b"] {
        let recorded = Fixture::load(&fixture(name)).unwrap();
        let found = reproduce(&recorded, options).unwrap();
        let report = recorded.compare(&found).unwrap();
        assert!(report.passed(), "{name} on {options:?}\n{report}");
    }
}

#[test]
fn the_interpreter_reproduces_pytorch() {
    check(&INTERP);
}

#[test]
fn the_cpu_reproduces_pytorch_in_every_form() {
    let forms = cpus();
    assert!(forms.len() >= 4);
    forms.iter().for_each(check);
}

/// What templates compute, generated code computes too, much closer than either is to PyTorch's tolerance: on the first step.
#[test]
fn templates_only_change_speed() {
    let recorded = Fixture::load(&fixture("parity_b")).unwrap();
    let outcomes: Vec<_> = cpus().iter().map(|options| reproduce(&recorded, options).unwrap()).collect();
    for (outcome, options) in outcomes.iter().zip(cpus()) {
        for (name, grad) in &outcomes[0].grads {
            let other = outcome.grads[name].as_f32().unwrap();
            let apart = grad.as_f32().unwrap().iter().zip(other).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
            let limit = 2e-6 * outcome.grad_norm;
            assert!(apart.sqrt() <= limit, "{name} is {} apart on {options:?}, limit {limit}", apart.sqrt());
        }
    }
}
