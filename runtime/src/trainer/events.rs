//! What a run has to tell while it goes on, and the plainest way to tell it: lines.
//!
//! Invariants: the training loop prints nothing; it tells one [`Observer`], in order and on its own thread; an observer changes nothing
//! but by [`Requests`](super::Requests).

use super::Summary;
use crate::rundir::Metrics;
use std::path::Path;
use std::time::{Duration, Instant};

/// Longest time without a progress line.
const SILENCE: Duration = Duration::from_secs(10);

/// Something that happened in a run.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// The first; no step has been taken by this process.
    Started(Started),
    /// A step is done. `metrics` are those that metrics.jsonl has of it, validation included where it was due.
    Step {
        metrics: &'a Metrics,
        /// Tokens of the step, over all its micro-batches.
        tokens: usize,
        /// Time of the step alone, without validation.
        took: Duration,
    },
    /// The loss or the gradient of the step just told is not finite, so that it changed nothing.
    Skipped {
        step: u64,
        loss: f64,
        grad_norm: f64,
        /// Steps so skipped without one that was not, this one included.
        in_a_row: u32,
    },
    /// The model wrote `text` after `step` steps.
    Sampled { step: u64, text: &'a [u8] },
    /// A checkpoint is whole and on disk.
    Saved { step: u64, checkpoint: &'a Path },
    /// The last, unless the run failed.
    Finished(&'a Summary),
}

/// What a run is about to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Started {
    /// Steps done before.
    pub done: u64,
    /// Where this process ends: the planned total, or less.
    pub end: u64,
    /// Planned total.
    pub planned: u64,
    /// Tokens of one step, over all its micro-batches.
    pub tokens_per_step: usize,
}

/// Who is told.
pub trait Observer {
    fn event(&mut self, event: &Event<'_>);
}

impl<F: FnMut(&Event<'_>)> Observer for F {
    fn event(&mut self, event: &Event<'_>) {
        self(event);
    }
}

/// Progress as lines of text: of the first step, the last, every validation, and at least every ten seconds.
pub struct Lines<S: FnMut(&str)> {
    say: S,
    run: Started,
    pace: Pace,
}

impl<S: FnMut(&str)> Lines<S> {
    /// Lines go to `say`, without line ends.
    pub fn new(say: S) -> Self {
        Self { say, run: Started { done: 0, end: 0, planned: 0, tokens_per_step: 0 }, pace: Pace::new() }
    }
}

impl<S: FnMut(&str)> Observer for Lines<S> {
    fn event(&mut self, event: &Event<'_>) {
        match *event {
            Event::Started(run) => (self.run, self.pace) = (run, Pace::new()),
            Event::Step { metrics, tokens, took } => {
                self.pace.add(tokens, took);
                let edge = metrics.step == self.run.done + 1 || metrics.step == self.run.end;
                if edge || metrics.val_loss.is_some() || self.pace.silent_for() >= SILENCE {
                    (self.say)(&progress(metrics, self.run.planned, self.pace.take()));
                }
            }
            Event::Skipped { step, loss, grad_norm, .. } => (self.say)(&skipped(step, loss, grad_norm)),
            Event::Sampled { .. } | Event::Saved { .. } | Event::Finished(_) => {}
        }
    }
}

/// `step   100/1500  loss 2.3105  val 2.2981  lr 3.00e-3  norm 0.87  85123 tokens/s`
pub fn progress(metrics: &Metrics, planned: u64, tokens_per_s: f64) -> String {
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

/// What is said of a step that changed nothing.
pub fn skipped(step: u64, loss: f64, grad_norm: f64) -> String {
    let what = if loss.is_finite() { format!("gradient norm is {grad_norm}") } else { format!("loss is {loss}") };
    format!("step {step}: the {what}, so the step changed nothing")
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
