//! The loop of a run: steps, validation, samples, metrics and checkpoints, and every way in which it ends.
//!
//! Invariants:
//! - A step is logged before the next is judged, and a checkpoint is saved after the metrics of all its steps are on disk.
//! - **Nothing bad is saved.** A checkpoint whose numbers are not all finite, or whose model cannot be sampled, is not written.
//! - **Bad steps end a run, one does not.** The program itself skips an update whose loss or gradient is not finite. After [`BAD_STEPS`] of
//!   them in a row the run goes back to the last step that was good, saves it, and fails.
//! - In mixed precision a step whose loss is finite and whose gradient is not is skipped for the sake of its loss scale, and counts as neither, as
//!   long as there is a smaller scale.
//! - Steps are under way only where nothing looks at the weights between them: never across a validation, a checkpoint, a request, or a
//!   bad step.

use super::{Ending, Event, Observer, Requests, Started, Summary, Taken, Trainer};
use crate::model::StepResult;
use crate::rundir::{Metrics, RunDir};
use crate::{Error, Result, checkpoint};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Steps in a row whose loss or gradient is not finite that end a run.
pub const BAD_STEPS: u32 = 5;

/// What a run has come to so far.
#[derive(Default)]
struct Progress {
    loss: Option<f64>,
    /// Of the last step, if it validated.
    val_loss: Option<f64>,
    /// The last sample.
    sample: Vec<u8>,
    /// Steps skipped since the last that was not.
    bad: u32,
}

impl Trainer {
    /// Trains to the planned end, or to `stop_at`, or until `requests` ask for an end; each of these endings saves. Metrics, samples and
    /// checkpoints go to `dir`; `observer` is told everything.
    ///
    /// Errors: a file cannot be written, or the numbers go wrong as the module comment says; the last checkpoint stays as it was.
    pub fn run(
        &mut self,
        dir: &RunDir,
        stop_at: Option<u64>,
        requests: &Requests,
        observer: &mut dyn Observer,
    ) -> Result<Summary> {
        let planned = self.config.train.steps;
        let end = stop_at.unwrap_or(planned).min(planned);
        let tokens_per_step = self.tokens_per_step();
        observer.event(&Event::Started(Started { done: self.step, end, planned, tokens_per_step }));
        let mut progress = Progress::default();
        let mut start = Instant::now();
        loop {
            while self.may_submit(end, progress.bad) && !requests.pending() {
                if self.ahead == 0 {
                    start = Instant::now();
                }
                self.submit()?;
            }
            if self.ahead > 0 {
                let taken = self.take()?;
                let took = start.elapsed();
                start = Instant::now();
                self.settle(taken, took, end, dir, &mut progress, observer)?;
                continue;
            }
            if requests.take_sample() && self.config.train.sample_bytes > 0 {
                progress.sample = self.take_sample(dir, observer)?;
            }
            if requests.take_save() {
                self.save(dir, observer)?;
            }
            if self.step >= end || requests.stopping() {
                break;
            }
        }
        let ending = match self.step {
            step if step == planned => Ending::Complete,
            step if step >= end => Ending::Stopped,
            _ => Ending::Interrupted,
        };
        let checkpoint = self.save(dir, observer)?;
        let sample = if ending == Ending::Complete { progress.sample } else { Vec::new() };
        let (step, elapsed_s) = (self.step, self.elapsed_s());
        let Progress { loss, val_loss, .. } = progress;
        let summary = Summary { ending, step, loss, val_loss, sample, checkpoint, elapsed_s };
        observer.event(&Event::Finished(&summary));
        Ok(summary)
    }

    /// Whether another step may begin behind those under way.
    fn may_submit(&self, end: u64, bad: u32) -> bool {
        let depth = if bad > 0 { 1 } else { self.train.depth() as u64 };
        let last = self.step + self.ahead;
        last < end && self.ahead < depth && (self.ahead == 0 || !(self.validates_at(last) || self.saves_at(last)))
    }

    fn validates_at(&self, step: u64) -> bool {
        self.due(self.config.train.eval_every, step)
    }

    fn saves_at(&self, step: u64) -> bool {
        self.due(self.config.train.save_every, step)
    }

    fn due(&self, every: u64, step: u64) -> bool {
        step == self.config.train.steps || (every > 0 && step.is_multiple_of(every))
    }

    /// What follows a step: validation, metrics, judgement, a sample and a checkpoint, each where it is due.
    fn settle(
        &mut self,
        taken: Taken,
        took: Duration,
        end: u64,
        dir: &RunDir,
        progress: &mut Progress,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let StepResult { loss, grad_norm } = taken.result;
        let step = self.step;
        progress.loss = Some(loss);
        progress.val_loss = self.validates_at(step).then(|| self.validate()).transpose()?;
        let tokens = self.tokens_per_step();
        let metrics = Metrics {
            step,
            loss: progress.loss,
            val_loss: progress.val_loss,
            lr: self.config.train.lr_schedule().lr_at(step - 1),
            grad_norm: Some(grad_norm),
            tokens_per_s: tokens as f64 / took.as_secs_f64().max(1e-9),
            elapsed_s: self.elapsed_s(),
            loss_scale: taken.loss_scale.map(f64::from),
        };
        dir.log(&metrics)?;
        observer.event(&Event::Step { metrics: &metrics, tokens, took });
        if taken.result.is_finite() {
            progress.bad = 0;
        } else if taken.is_bad() {
            progress.bad += 1;
            let in_a_row = progress.bad;
            observer.event(&Event::Skipped { step, loss, grad_norm, in_a_row });
            if in_a_row == BAD_STEPS {
                return Err(self.give_up(dir, observer));
            }
        }
        if let Some(val_loss) = progress.val_loss.filter(|loss| !loss.is_finite()) {
            return Err(Error::failed(format!(
                "the validation loss after step {step} is {val_loss}, so training has stopped and saved nothing more: {}",
                self.advice(dir)
            )));
        }
        if self.saves_at(step) && self.config.train.sample_bytes > 0 {
            progress.sample = self.take_sample(dir, observer)?;
        }
        if self.saves_at(step) || step == end {
            self.save(dir, observer)?;
        }
        Ok(())
    }

    /// A sample for samples.txt. Errors: the model's numbers have gone wrong, and then it is not worth saving either.
    fn take_sample(&mut self, dir: &RunDir, observer: &mut dyn Observer) -> Result<Vec<u8>> {
        let step = self.step;
        let sample = self.sample(self.config.train.sample_bytes).map_err(|e| {
            Error::failed(format!(
                "training has stopped after step {step} and saved nothing more, since {e}: {}",
                self.advice(dir)
            ))
        })?;
        dir.add_sample(step, &sample)?;
        observer.event(&Event::Sampled { step, text: &sample });
        Ok(sample)
    }

    /// Saves the state as it is, and tells where; what is there already stays.
    fn save(&mut self, dir: &RunDir, observer: &mut dyn Observer) -> Result<PathBuf> {
        if let Some(place) = dir.checkpoint_of(self.step)? {
            return Ok(place);
        }
        let state = self.checkpoint().map_err(|e| {
            Error::failed(format!("{e}, so training has stopped and saved nothing more: {}", self.advice(dir)))
        })?;
        dir.sync()?;
        let place = state.save(dir.path())?;
        checkpoint::prune(dir.path(), self.config.train.keep)?;
        observer.event(&Event::Saved { step: self.step, checkpoint: &place });
        Ok(place)
    }

    /// Goes back over the bad steps, which have changed nothing, and saves.
    fn give_up(&mut self, dir: &RunDir, observer: &mut dyn Observer) -> Error {
        let (last, first) = (self.step, self.step + 1 - u64::from(BAD_STEPS));
        self.step = first - 1;
        if let Some(scale) = &mut self.loss_scale {
            scale.forget(BAD_STEPS as usize);
        }
        let what = format!("in {BAD_STEPS} steps in a row, {first} to {last}, the loss or the gradient was not finite");
        if self.step == 0 {
            return Error::failed(format!("{what}, so training has stopped: {}", self.advice(dir)));
        }
        match self.save(dir, observer) {
            Ok(place) => Error::failed(format!(
                "{what}, so training has stopped, and {} is the state before them: {}",
                place.display(),
                self.advice(dir)
            )),
            Err(e) => e,
        }
    }

    /// What to do about numbers that are not finite.
    fn advice(&self, dir: &RunDir) -> String {
        let run = dir.path().display();
        let start = match checkpoint::latest(dir.path()) {
            Ok(Some(_)) => format!("--resume {run}"),
            _ => format!("--config {run}/config.toml"),
        };
        format!("try a lower lr, or find the operation at fault with `tinygpt train {start} --find-nan`")
    }
}
