//! The training loop: batches, schedule, validation, samples, metrics and checkpoints around one compiled step.
//!
//! Invariants:
//! - **A run is a function of its configuration and its text.** Batch, rate and step number come from (seed, step); weights and
//!   moments are all the state there is; so a run that was stopped and resumed is the run that was not, to the last bit.
//! - **Looking changes nothing.** Validation and samples run on programs of their own, on copies of the weights.
//! - **Nothing bad is saved.** A loss that is not finite ends the run; a checkpoint whose numbers are not all finite is not
//!   written. (An update with a gradient norm that is not finite is skipped by the program itself.)

use crate::architecture::Architecture;
use crate::checkpoint::{self, Checkpoint};
use crate::compile::{Compiled, ExecOptions};
use crate::config::RunConfig;
use crate::data::Corpus;
use crate::generate::{DEFAULT_PROMPT, Generator};
use crate::model::{Batch, EvalLoss, StepResult, TrainStep, adamw};
use crate::rundir::{GRAPH_FILE, Metrics, RunDir};
use crate::sampling::Sampler;
use crate::tensor_file::Tensors;
use crate::{Error, Result};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Temperature of the samples that a run takes of itself.
pub const SAMPLE_TEMPERATURE: f64 = 0.8;

/// Longest time without a progress line.
const SILENCE: Duration = Duration::from_secs(10);

/// Why [`Trainer::run`] returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// All planned steps are done.
    Complete,
    /// `stop_at` was reached.
    Stopped,
    /// The caller asked for an end.
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
    generator: Option<Generator>,
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
        let mut train = TrainStep::new(&model, config.train.batch, adamw(&config.train), false, &options)?;
        train.start(config.train.seed)?;
        let batch = Batch::zeros(config.train.batch, model.ctx())?;
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
            generator: None,
        })
    }

    /// Goes on from `checkpoint`; errors name `origin`.
    pub fn restore(&mut self, checkpoint: &Checkpoint, origin: &str) -> Result<()> {
        self.train.load(&checkpoint.weights, Some([&checkpoint.m, &checkpoint.v]), origin)?;
        self.step = checkpoint.step;
        self.elapsed_before = checkpoint.elapsed_s;
        Ok(())
    }

    /// What the training step was compiled from and to.
    pub fn compiled(&self) -> &Compiled {
        self.train.compiled()
    }

    /// What generating code for the step took; None on backends that generate none here.
    pub fn code_report(&mut self) -> Option<String> {
        self.train.executor().code_report()
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

    /// One step on the next batch. A loss that is not finite is the caller's to judge.
    pub fn step(&mut self) -> Result<StepResult> {
        self.submit()?;
        self.take()
    }

    /// Begins a step on the next batch.
    fn submit(&mut self) -> Result<()> {
        let train = &self.config.train;
        let index = self.step + self.ahead;
        let (ids, targets) = self.batch.slices()?;
        self.corpus.fill_train(train.seed, index, ids, targets);
        self.train.submit(&self.batch, train.lr_schedule().lr_at(index), index + 1)?;
        self.ahead += 1;
        Ok(())
    }

    /// Ends the oldest step under way.
    fn take(&mut self) -> Result<StepResult> {
        let result = self.train.take()?;
        (self.step, self.ahead) = (self.step + 1, self.ahead - 1);
        Ok(result)
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
        Ok(total / count as f64)
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
                    return Err(Error::failed(format!(
                        "after step {} the {what} {name} is not finite everywhere, so training has stopped and saved nothing \
                         more: try a lower lr",
                        self.step
                    )));
                }
            }
        }
        let graph = match &self.model {
            Architecture::Gpt(_) => None,
            Architecture::Graph(graph) => Some(Arc::clone(graph)),
        };
        let (step, elapsed_s, config) = (self.step, self.elapsed_s(), self.config.clone());
        Ok(Checkpoint { step, elapsed_s, config, graph, weights, m, v })
    }

    fn elapsed_s(&self) -> f64 {
        self.elapsed_before + self.started.elapsed().as_secs_f64()
    }

    fn save(&mut self, dir: &RunDir) -> Result<PathBuf> {
        let place = self.checkpoint()?.save(dir.path())?;
        checkpoint::prune(dir.path(), self.config.train.keep)?;
        Ok(place)
    }

    /// Trains to the planned end, or to `stop_at`, or until `interrupted` says so between two steps; every ending saves. Metrics,
    /// samples and checkpoints go to `dir`, progress lines to `say`.
    ///
    /// As many steps are under way as the backend keeps, except across a step that validates or saves, whose weights are looked at.
    pub fn run(
        &mut self,
        dir: &RunDir,
        stop_at: Option<u64>,
        interrupted: &dyn Fn() -> bool,
        say: &mut dyn FnMut(&str),
    ) -> Result<Summary> {
        let planned = self.config.train.steps;
        let end = stop_at.unwrap_or(planned).min(planned);
        let first = self.step;
        let due = |every: u64, step: u64| step == planned || (every > 0 && step.is_multiple_of(every));
        let (eval_every, save_every) = (self.config.train.eval_every, self.config.train.save_every);
        let looks = |step: u64| due(eval_every, step) || due(save_every, step);
        let depth = self.train.depth() as u64;
        let (mut loss, mut val_loss, mut sample, mut saved) = (None, None, Vec::new(), None);
        let mut pace = Pace::new();
        let mut start = Instant::now();
        loop {
            while self.step + self.ahead < end
                && self.ahead < depth
                && (self.ahead == 0 || !looks(self.step + self.ahead))
            {
                if interrupted() {
                    break;
                }
                if self.ahead == 0 {
                    start = Instant::now();
                }
                self.submit()?;
            }
            if self.ahead == 0 {
                break;
            }
            let result = self.take()?;
            let took = start.elapsed();
            start = Instant::now();
            pace.add(self.batch.ids.len(), took);
            loss = Some(result.loss);
            val_loss = due(eval_every, self.step).then(|| self.validate()).transpose()?;
            let metrics = Metrics {
                step: self.step,
                loss,
                val_loss,
                lr: self.config.train.lr_schedule().lr_at(self.step - 1),
                grad_norm: Some(result.grad_norm),
                tokens_per_s: self.batch.ids.len() as f64 / took.as_secs_f64().max(1e-9),
                elapsed_s: self.elapsed_s(),
            };
            dir.log(&metrics)?;
            if !result.loss.is_finite() || val_loss.is_some_and(|v| !v.is_finite()) {
                let number = if result.loss.is_finite() { val_loss.unwrap_or(f64::NAN) } else { result.loss };
                return Err(Error::failed(format!(
                    "the loss at step {} is {number}, so training has stopped and saved nothing more: try a lower lr",
                    self.step
                )));
            }
            if !result.grad_norm.is_finite() {
                say(&format!(
                    "step {}: the gradient norm is {}, so the step changed nothing",
                    self.step, result.grad_norm
                ));
            }
            if val_loss.is_some() || self.step == first + 1 || self.step == end || pace.silent_for() >= SILENCE {
                say(&progress(&metrics, planned, pace.take()));
            }
            let save_due = due(save_every, self.step);
            if save_due && self.config.train.sample_bytes > 0 {
                // Before saving: a model that cannot be sampled is not worth keeping.
                sample = self.sample(self.config.train.sample_bytes).map_err(|e| {
                    Error::failed(format!(
                        "training has stopped after step {} and saved nothing more, since {e}: try a lower lr",
                        self.step
                    ))
                })?;
                dir.add_sample(self.step, &sample)?;
            }
            if save_due || self.step == end {
                saved = Some(self.save(dir)?);
            }
        }
        let ending = match self.step {
            step if step == planned => Ending::Complete,
            step if step >= end => Ending::Stopped,
            _ => Ending::Interrupted,
        };
        let saved = match saved {
            Some(place) if ending != Ending::Interrupted => place,
            _ => self.save(dir)?,
        };
        if ending != Ending::Complete {
            sample.clear();
        }
        Ok(Summary { ending, step: self.step, loss, val_loss, sample, checkpoint: saved, elapsed_s: self.elapsed_s() })
    }
}

/// `step   100/1500  loss 2.3105  val 2.2981  lr 3.00e-3  norm 0.87  85123 tokens/s`
fn progress(metrics: &Metrics, planned: u64, tokens_per_s: f64) -> String {
    let width = planned.to_string().len();
    let number = |label: &str, x: Option<f64>| x.map_or(String::new(), |x| format!("  {label} {x:.4}"));
    format!(
        "step {:>width$}/{planned}{}{}  lr {:.2e}{}  {tokens_per_s:.0} tokens/s",
        metrics.step,
        number("loss", metrics.loss),
        number("val", metrics.val_loss),
        metrics.lr,
        metrics.grad_norm.map_or(String::new(), |x| format!("  norm {x:.2}")),
    )
}

/// Tokens and time of training steps since the last progress line.
struct Pace {
    tokens: usize,
    time: Duration,
    since: Instant,
}

impl Pace {
    fn new() -> Self {
        Self { tokens: 0, time: Duration::ZERO, since: Instant::now() }
    }

    fn add(&mut self, tokens: usize, time: Duration) {
        self.tokens += tokens;
        self.time += time;
    }

    fn silent_for(&self) -> Duration {
        self.since.elapsed()
    }

    /// Tokens a second since the last call.
    fn take(&mut self) -> f64 {
        let pace = self.tokens as f64 / self.time.as_secs_f64().max(1e-9);
        *self = Self::new();
        pace
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Backend, DataConfig, ModelConfig};
    use std::time::UNIX_EPOCH;

    const INTERP: ExecOptions =
        ExecOptions { backend: Backend::Interp, threads: 1, isa: None, no_templates: false, gpu: None };

    fn config() -> RunConfig {
        let mut config = RunConfig::preset("tiny").unwrap();
        config.model = ModelConfig { ctx: 4, layers: 1, heads: 1, d_model: 2, d_mlp: 4, ..config.model };
        let train = &mut config.train;
        (train.batch, train.steps, train.warmup, train.eval_batches) = (2, 6, 2, 2);
        (train.eval_every, train.save_every, train.sample_bytes, train.keep) = (3, 2, 3, 0);
        config
    }

    fn trainer(config: &RunConfig) -> Trainer {
        let corpus = Corpus::open(&DataConfig { data: "builtin".into(), val_data: None }, 4).unwrap();
        Trainer::new(config.clone(), corpus, INTERP).unwrap()
    }

    fn run_dir(config: &RunConfig) -> (tempfile::TempDir, RunDir) {
        let dir = tempfile::tempdir().unwrap();
        let run = RunDir::create(Some(dir.path()), config, UNIX_EPOCH).unwrap();
        (dir, run)
    }

    #[test]
    fn a_run_logs_validates_samples_and_saves() {
        let config = config();
        let (dir, run) = run_dir(&config);
        let mut lines = Vec::new();
        let summary = trainer(&config).run(&run, None, &|| false, &mut |line| lines.push(line.to_owned())).unwrap();
        assert_eq!((summary.ending, summary.step, summary.sample.len()), (Ending::Complete, 6, 3));
        assert!(summary.val_loss.is_some() && summary.checkpoint.ends_with("step-00000006"));
        let metrics = run.metrics().unwrap();
        assert_eq!(metrics.iter().map(|m| m.step).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
        let validated: Vec<u64> = metrics.iter().filter(|m| m.val_loss.is_some()).map(|m| m.step).collect();
        assert_eq!(validated, [3, 6]);
        assert_eq!(metrics[0].lr, config.train.lr / 2.0);
        assert!(
            lines.len() == 3 && lines[0].starts_with("step 1/6  loss 5.5") && lines[1].contains("  val "),
            "{lines:?}"
        );
        let samples = std::fs::read_to_string(dir.path().join("samples.txt")).unwrap();
        assert_eq!(samples.matches("== step").count(), 3);
        for step in [2, 4, 6] {
            assert!(dir.path().join(format!("step-{step:08}")).is_dir());
        }
    }

    #[test]
    fn stopping_and_interrupting_save_and_going_on_is_the_same_run() {
        let config = config();
        let (_whole_dir, whole) = run_dir(&config);
        trainer(&config).run(&whole, None, &|| false, &mut |_| ()).unwrap();
        let expected = Checkpoint::load(whole.path()).unwrap();

        let (_dir, run) = run_dir(&config);
        let summary = trainer(&config).run(&run, Some(3), &|| false, &mut |_| ()).unwrap();
        assert_eq!((summary.ending, summary.step, summary.val_loss.is_some()), (Ending::Stopped, 3, true));
        let checks = std::cell::Cell::new(0);
        let mut second = trainer(&config);
        second.restore(&Checkpoint::load(run.path()).unwrap(), "c").unwrap();
        let after_two = || checks.replace(checks.get() + 1) == 2;
        let summary = second.run(&run, None, &after_two, &mut |_| ()).unwrap();
        assert_eq!((summary.ending, summary.step), (Ending::Interrupted, 5));
        assert!(summary.checkpoint.ends_with("step-00000005"));
        let mut third = trainer(&config);
        third.restore(&Checkpoint::load(run.path()).unwrap(), "c").unwrap();
        assert_eq!(third.run(&run, None, &|| false, &mut |_| ()).unwrap().ending, Ending::Complete);

        let found = Checkpoint::load(run.path()).unwrap();
        assert_eq!((found.step, found.weights, found.m, found.v), (6, expected.weights, expected.m, expected.v));
        let numbers = |run: &RunDir| -> Vec<_> {
            run.metrics().unwrap().iter().map(|m| (m.step, m.loss, m.val_loss, m.lr, m.grad_norm)).collect()
        };
        assert_eq!(numbers(&run), numbers(&whole));
    }

    #[test]
    fn a_loss_that_is_not_finite_ends_the_run_and_is_not_saved() {
        let mut config = config();
        (config.train.lr, config.train.save_every, config.train.warmup) = (1e38, 1, 0);
        config.train.steps = 30;
        let (dir, run) = run_dir(&config);
        let error = trainer(&config).run(&run, None, &|| false, &mut |_| ()).unwrap_err();
        assert_eq!(error.exit_status(), 1);
        assert!(error.to_string().contains("saved nothing more"), "{error}");
        if let Some(saved) = checkpoint::latest(dir.path()).unwrap() {
            let saved = Checkpoint::load(&saved).unwrap();
            assert!(saved.weights.values().all(|t| t.as_f32().unwrap().iter().all(|x| x.is_finite())));
        }
    }

    #[test]
    fn looking_changes_nothing() {
        let config = config();
        let (mut a, mut b) = (trainer(&config), trainer(&config));
        for _ in 0..3 {
            b.validate().unwrap();
            b.sample(2).unwrap();
            assert_eq!(a.step().unwrap(), b.step().unwrap());
        }
        assert_eq!(a.weights().unwrap(), b.weights().unwrap());
    }
}
