//! The training loop: batches, schedule, validation, samples, metrics and checkpoints around one compiled step.
//!
//! Invariants:
//! - **A run is a function of its configuration and its text.** Batch, rate and step number come from (seed, step); weights and
//!   moments are all the state there is; so a run that was stopped and resumed is the run that was not, to the last bit.
//! - **Looking changes nothing.** Validation and samples run on programs of their own, on copies of the weights.
//!
//! | module | holds |
//! |---|---|
//! | this one | a model in training: one step, validation, a sample, its state |
//! | [`run`] | the loop around it: metrics, saving, stopping |
//! | [`events`] | what the loop tells, and the lines that say so |
//! | [`requests`] | what may be asked of it meanwhile |
//! | [`find_nan`] | the operation at fault where numbers go wrong |

pub mod events;
pub mod find_nan;
pub mod requests;
pub mod run;

use crate::loss_scale::LossScale;
pub use events::{Event, Lines, Observer, Started};
pub use requests::Requests;
pub use run::BAD_STEPS;

use crate::architecture::Architecture;
use crate::checkpoint::Checkpoint;
use crate::compile::{Compiled, ExecOptions};
use crate::config::RunConfig;
use crate::data::Corpus;
use crate::executor::Executor;
use crate::generate::{DEFAULT_PROMPT, Generator};
use crate::model::{Batch, EvalLoss, StepResult, TrainStep, adamw};
use crate::rundir::GRAPH_FILE;
use crate::sampling::Sampler;
use crate::tensor_file::Tensors;
use crate::{Error, Result};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

/// Temperature of the samples that a run takes of itself.
pub const SAMPLE_TEMPERATURE: f64 = 0.8;

/// Why [`Trainer::run`] returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// All planned steps are done.
    Complete,
    /// `stop_at` was reached.
    Stopped,
    /// A request asked for an end.
    Interrupted,
}

/// What a run came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    pub ending: Ending,
    /// Steps done, over all resumes.
    pub step: u64,
    /// Training loss of the last step; none if no step was taken.
    pub loss: Option<f64>,
    /// Of the final validation; only of a complete run.
    pub val_loss: Option<f64>,
    /// Sample at the end of a complete run; empty if none was asked for.
    pub sample: Vec<u8>,
    /// The last checkpoint.
    pub checkpoint: PathBuf,
    /// Seconds of training, over all resumes.
    pub elapsed_s: f64,
}

/// A step that has ended.
#[derive(Debug, Clone, Copy)]
struct Taken {
    result: StepResult,
    /// In mixed precision.
    loss_scale: Option<f32>,
}

impl Taken {
    /// Whether the step has changed nothing, and not for the sake of its loss scale.
    fn is_bad(&self) -> bool {
        let overflow = self.result.loss.is_finite() && self.loss_scale.is_some_and(LossScale::may_overflow);
        !self.result.is_finite() && !overflow
    }
}

/// A model in training. See the module's invariants.
pub struct Trainer {
    config: RunConfig,
    model: Architecture,
    corpus: Corpus,
    options: ExecOptions,
    train: TrainStep,
    batch: Batch,
    /// Steps done.
    step: u64,
    /// Steps under way after those.
    ahead: u64,
    /// Seconds of training before this process.
    elapsed_before: f64,
    started: Instant,
    /// Made when first needed.
    eval: Option<EvalLoss>,
    /// Step after which the model was last validated, and its loss.
    validated: Option<(u64, f64)>,
    generator: Option<Generator>,
    /// In mixed precision.
    loss_scale: Option<LossScale>,
}

impl Trainer {
    /// Compiles the training step of the GPT of `config` and starts from its seed's weights, at step 0.
    pub fn new(config: RunConfig, corpus: Corpus, options: ExecOptions) -> Result<Self> {
        let model = Architecture::from(&config.model);
        Self::with_model(model, config, corpus, options)
    }

    /// [`Trainer::new`] for any model. Of `config` it takes `[train]`, whose batch must be the model's; a graph is one by `config.graph`,
    /// which is set if need be, so that checkpoints say so.
    pub fn with_model(
        model: Architecture,
        mut config: RunConfig,
        corpus: Corpus,
        options: ExecOptions,
    ) -> Result<Self> {
        model.check_bytes()?;
        match &model {
            Architecture::Gpt(gpt) => (config.graph, config.model) = (None, gpt.clone()),
            Architecture::Graph(_) => config.graph = Some(GRAPH_FILE.to_owned()),
        }
        if config.train.sample_bytes > 0 {
            model.check_logits()?;
        }
        let started = Instant::now();
        let mut train = TrainStep::accumulating(
            &model,
            config.train.batch,
            adamw(&config.train),
            config.train.accumulate,
            &options,
        )?;
        train.start(config.train.seed)?;
        let batch = Batch::zeros(config.train.batch, model.ctx())?;
        let loss_scale = options.target().f16_operands.then(LossScale::default);
        Ok(Self {
            config,
            model,
            corpus,
            options,
            train,
            batch,
            step: 0,
            ahead: 0,
            elapsed_before: 0.0,
            started,
            eval: None,
            validated: None,
            generator: None,
            loss_scale,
        })
    }

    /// Starts from `weights` instead of the seed's, at step 0 with moments zero; errors name `origin`.
    pub fn init(&mut self, weights: &Tensors, origin: &str) -> Result<()> {
        self.train.load(weights, None, origin)
    }

    /// Goes on from `checkpoint`; errors name `origin`.
    pub fn restore(&mut self, checkpoint: &Checkpoint, origin: &str) -> Result<()> {
        self.train.load(&checkpoint.weights, Some([&checkpoint.m, &checkpoint.v]), origin)?;
        if let (Some(scale), Some(stored)) = (&mut self.loss_scale, &checkpoint.loss_scale) {
            if !stored.is_sound() {
                return Err(Error::input(format!(
                    "{origin} has a loss scale that is no power of two from 1 to 2^24: take another checkpoint"
                )));
            }
            scale.clone_from(stored);
        }
        self.step = checkpoint.step;
        self.elapsed_before = checkpoint.elapsed_s;
        self.validated = checkpoint.val_loss.map(|loss| (checkpoint.step, loss));
        Ok(())
    }

    /// The programs of a step, in the order in which they run, with what runs them: one, or accumulate and update.
    pub fn programs(&self) -> impl Iterator<Item = (&Compiled, &dyn Executor)> {
        self.train.programs()
    }

    /// What the run depends on.
    pub fn config(&self) -> &RunConfig {
        &self.config
    }

    /// Steps done.
    pub fn steps_done(&self) -> u64 {
        self.step
    }

    /// Weights as they are now.
    pub fn weights(&mut self) -> Result<Tensors> {
        self.train.weights()
    }

    /// One step on the next batches. A loss that is not finite is the caller's to judge.
    pub fn step(&mut self) -> Result<StepResult> {
        self.submit()?;
        Ok(self.take()?.result)
    }

    /// Begins a step on the next batches.
    fn submit(&mut self) -> Result<()> {
        let train = &self.config.train;
        let index = self.step + self.ahead;
        if let Some(scale) = &mut self.loss_scale {
            self.train.scale_loss(scale.begin())?;
        }
        for micro in 0..train.accumulate {
            let (ids, targets) = self.batch.slices()?;
            self.corpus.fill_micro(train.seed, index, micro, ids, targets);
            self.train.feed(&self.batch)?;
        }
        self.train.submit_fed(train.lr_schedule().lr_at(index), index + 1)?;
        self.ahead += 1;
        Ok(())
    }

    /// Ends the oldest step under way.
    fn take(&mut self) -> Result<Taken> {
        let result = self.train.take()?;
        (self.step, self.ahead) = (self.step + 1, self.ahead - 1);
        let loss_scale = self.loss_scale.as_mut().map(|scale| scale.end(result.is_finite()));
        Ok(Taken { result, loss_scale })
    }

    /// Mean loss of the fixed validation batches.
    pub fn validate(&mut self) -> Result<f64> {
        let eval = match &mut self.eval {
            Some(eval) => eval,
            none => none.insert(EvalLoss::new(&self.model, self.config.train.batch, &self.options)?),
        };
        eval.follow(&mut self.train)?;
        let count = self.config.train.eval_batches;
        let mut total = 0.0;
        for index in 0..count {
            let (ids, targets) = self.batch.slices()?;
            self.corpus.fill_val(index, count, ids, targets);
            total += eval.loss(&self.batch)?;
        }
        let loss = total / count as f64;
        self.validated = Some((self.step, loss));
        Ok(loss)
    }

    /// `bytes` bytes that the model writes after a line's end, drawn under the run's seed.
    pub fn sample(&mut self, bytes: usize) -> Result<Vec<u8>> {
        let generator = match &mut self.generator {
            Some(generator) => generator,
            none => none.insert(Generator::new(&self.model, &self.options)?),
        };
        generator.follow(&mut self.train)?;
        let mut sampler = Sampler::new(SAMPLE_TEMPERATURE, None, self.config.train.seed)?;
        generator.text(DEFAULT_PROMPT.as_bytes(), bytes, &mut sampler)
    }

    /// Everything needed to go on. Errors: a weight or moment is not finite.
    pub fn checkpoint(&mut self) -> Result<Checkpoint> {
        let (weights, [m, v]) = (self.train.weights()?, self.train.moments()?);
        for (what, tensors) in [("weight", &weights), ("first moment of", &m), ("second moment of", &v)] {
            for (name, tensor) in tensors {
                if !tensor.as_f32()?.iter().all(|x| x.is_finite()) {
                    let step = self.step;
                    return Err(Error::failed(format!("after step {step} the {what} {name} is not finite everywhere")));
                }
            }
        }
        let graph = match &self.model {
            Architecture::Gpt(_) => None,
            Architecture::Graph(graph) => Some(Arc::clone(graph)),
        };
        let val_loss = self.validated.filter(|(step, _)| *step == self.step).map(|(_, loss)| loss);
        let (step, elapsed_s, config) = (self.step, self.elapsed_s(), self.config.clone());
        let loss_scale = self.loss_scale.clone();
        Ok(Checkpoint { step, elapsed_s, val_loss, loss_scale, config, graph, weights, m, v })
    }

    fn tokens_per_step(&self) -> usize {
        self.batch.ids.len() * self.config.train.accumulate as usize
    }

    fn elapsed_s(&self) -> f64 {
        self.elapsed_before + self.started.elapsed().as_secs_f64()
    }
}

#[cfg(test)]
mod tests;
