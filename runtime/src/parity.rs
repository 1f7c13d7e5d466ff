//! Reproducing a fixture: the same model, batch and steps on a backend, for [`Fixture::compare`] to judge.

use crate::Result;
use crate::compile::ExecOptions;
use crate::fixture::{Fixture, Outcome, PROMPT};
use crate::generate::Generator;
use crate::model::{Batch, Logits, TrainStep};
use crate::sampling::Sampler;
use tinygpt_passes::optimizer::AdamWConfig;

/// Runs what the fixture records. Errors: the fixture's configuration makes no model, or the machine lacks what `options` ask for.
pub fn reproduce(fixture: &Fixture, options: &ExecOptions) -> Result<Outcome> {
    let origin = "the fixture";
    let [beta1, beta2] = fixture.betas;
    let adamw = AdamWConfig {
        beta1,
        beta2,
        eps: fixture.eps,
        weight_decay: fixture.weight_decay,
        grad_clip: (fixture.grad_clip > 0.0).then_some(fixture.grad_clip),
    };
    let mut logits = Logits::new(&fixture.model, fixture.batch, options)?;
    logits.load(&fixture.init, origin)?;
    let logits = logits.run(&fixture.ids)?.clone();

    let mut train = TrainStep::new(&fixture.model, fixture.batch, adamw, true, options)?;
    train.load(&fixture.init, None, origin)?;
    let batch = Batch { ids: fixture.ids.clone(), targets: fixture.targets.clone() };
    let first = train.run(&batch, fixture.lr, 1)?;
    let (grads, step1) = (train.gradients()?, train.weights()?);
    let mut losses = vec![first.loss];
    for number in 2..=fixture.steps as u64 {
        losses.push(train.run(&batch, fixture.lr, number)?.loss);
    }

    let mut generator = Generator::new(&fixture.model, options)?;
    generator.follow(&mut train)?;
    let mut greedy = fixture.prompt().to_vec();
    let count = fixture.expected.greedy.len() - PROMPT;
    generator.extend(&mut greedy, count, &mut Sampler::new(0.0, None, 0)?, |_| Ok(()))?;
    Ok(Outcome {
        logits,
        loss: first.loss,
        grad_norm: first.grad_norm,
        grads,
        step1,
        last: train.weights()?,
        losses,
        greedy,
    })
}
