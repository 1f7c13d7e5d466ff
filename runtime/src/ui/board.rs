//! Everything known of a run at one moment, for whatever shows it.
//!
//! Invariants: the board is a function of the events it was told, in their order; it asks no clock.

use super::history::History;
use super::text;
use crate::rundir::Metrics;
use crate::trainer::events::skipped;
use crate::trainer::{Event, Started};
use std::path::PathBuf;

/// Steps that the training loss shown is the mean of: single batches are noise.
const LOSS_STEPS: usize = 10;

/// Seconds of training after which a speed counts half: short enough to follow the machine, long enough to be read.
const HALF_LIFE_S: f64 = 2.0;

/// What does not change during a run.
#[derive(Debug, Clone, PartialEq)]
pub struct About {
    /// Of the preset or the graph.
    pub name: String,
    /// `366432 parameters, ctx 64, batch 16`
    pub model: String,
    /// `cpu on 2 thread(s)`
    pub device: String,
    pub dir: PathBuf,
    /// Tokens that the model knows.
    pub vocab: usize,
    /// Whether the run takes samples.
    pub samples: bool,
    /// Floating-point operations of one step, and the most that the device does in a second, where both are known.
    pub peak: Option<Peak>,
}

/// See [`About::peak`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Peak {
    pub flop_per_token: f64,
    pub gflops: f64,
}

/// See the module's invariants.
#[derive(Debug, Clone)]
pub struct Board {
    pub about: About,
    pub run: Started,
    pub history: History,
    /// Of the last step.
    pub metrics: Option<Metrics>,
    /// The last sample and its step.
    pub sample: Option<(u64, String)>,
    /// Step of the last checkpoint that this process saved.
    pub saved: Option<u64>,
    /// What was said meanwhile.
    pub notes: Vec<String>,
    /// Tokens and seconds, the later ones counting more.
    pace: (f64, f64),
    /// Step and elapsed seconds of this process's first step.
    first: Option<(u64, f64)>,
}

impl Board {
    /// Before the first event. `history` is of the steps done before, if the run was resumed.
    pub fn new(about: About, history: History) -> Board {
        Board {
            about,
            run: Started { done: 0, end: 0, planned: 0, tokens_per_step: 0 },
            history,
            metrics: None,
            sample: None,
            saved: None,
            notes: Vec::new(),
            pace: (0.0, 0.0),
            first: None,
        }
    }

    pub fn event(&mut self, event: &Event<'_>) {
        match *event {
            Event::Started(run) => self.run = run,
            Event::Step { metrics, tokens, took } => {
                let Metrics { step, loss, grad_norm, val_loss, elapsed_s, .. } = *metrics;
                self.history.add(step, loss, grad_norm, val_loss);
                self.metrics = Some(*metrics);
                self.first = self.first.or(Some((step, elapsed_s)));
                let took = took.as_secs_f64();
                let kept = 0.5f64.powf(took / HALF_LIFE_S);
                self.pace = (self.pace.0 * kept + tokens as f64, self.pace.1 * kept + took);
            }
            Event::Skipped { step, loss, grad_norm, .. } => self.notes.push(skipped(step, loss, grad_norm)),
            Event::Sampled { step, text } => self.sample = Some((step, text::shown(text))),
            Event::Saved { step, .. } => self.saved = Some(step),
            Event::Finished(_) => {}
        }
    }

    /// Steps done.
    pub fn step(&self) -> u64 {
        self.metrics.map_or(self.run.done, |metrics| metrics.step)
    }

    /// Mean training loss of the last steps.
    pub fn loss(&self) -> Option<f64> {
        let train = self.history.train();
        let last = &train[train.len().saturating_sub(LOSS_STEPS)..];
        (!last.is_empty()).then(|| last.iter().map(|point| point.loss).sum::<f64>() / last.len() as f64)
    }

    /// Tokens a second of the last seconds of training; none before the first step.
    pub fn tokens_per_s(&self) -> Option<f64> {
        (self.pace.1 > 0.0).then(|| self.pace.0 / self.pace.1)
    }

    /// GFLOP/s, and their share of the device's peak.
    pub fn arithmetic(&self) -> Option<(f64, f64)> {
        let peak = self.about.peak?;
        let gflops = self.tokens_per_s()? * peak.flop_per_token / 1e9;
        Some((gflops, gflops / peak.gflops))
    }

    /// Seconds of training so far, over all resumes.
    pub fn elapsed_s(&self) -> Option<f64> {
        self.metrics.map(|metrics| metrics.elapsed_s)
    }

    /// Seconds left to this process's end, if the steps to come take as long as those since its first, with all that was between them.
    pub fn left_s(&self) -> Option<f64> {
        let ((first, then), now) = (self.first?, self.metrics?);
        let done = now.step - first;
        (done > 0).then(|| (now.elapsed_s - then) / done as f64 * self.run.end.saturating_sub(now.step) as f64)
    }
}

/// `0:07`, `12:34` or `3:04:05`, rounded to seconds.
pub fn clock(seconds: f64) -> String {
    let seconds = seconds.max(0.0).round() as u64;
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::path::Path;
    use std::time::Duration;

    pub fn about() -> About {
        About {
            name: "small".into(),
            model: "366432 parameters, ctx 64, batch 16".into(),
            device: "cpu on 2 thread(s)".into(),
            dir: "runs/x".into(),
            vocab: 256,
            samples: true,
            peak: Some(Peak { flop_per_token: 2.3e6, gflops: 400.0 }),
        }
    }

    pub fn metrics(step: u64) -> Metrics {
        let loss = 1.0 + 4.5 * (-(step as f64) / 100.0).exp();
        Metrics {
            step,
            loss: Some(loss),
            val_loss: step.is_multiple_of(50).then_some(loss + 0.05),
            lr: 3e-3,
            grad_norm: Some(0.87),
            tokens_per_s: 51_200.0,
            elapsed_s: 1.0 + 0.02 * step as f64,
            loss_scale: None,
        }
    }

    /// A board after `steps` steps of 400.
    pub fn board(steps: u64) -> Board {
        let mut board = Board::new(about(), History::default());
        board.event(&Event::Started(Started { done: 0, end: 400, planned: 400, tokens_per_step: 1024 }));
        for step in 1..=steps {
            let metrics = metrics(step);
            board.event(&Event::Step { metrics: &metrics, tokens: 1024, took: Duration::from_millis(20) });
        }
        board
    }

    #[test]
    fn a_board_before_the_first_step_is_empty() {
        let board = board(0);
        assert_eq!((board.step(), board.loss(), board.tokens_per_s(), board.left_s()), (0, None, None, None));
        assert_eq!((board.arithmetic(), board.elapsed_s()), (None, None));
    }

    #[test]
    fn speed_and_time_follow_from_the_steps() {
        let board = board(100);
        assert!((board.tokens_per_s().unwrap() - 51_200.0).abs() < 1e-6);
        let (gflops, share) = board.arithmetic().unwrap();
        assert!((gflops - 117.76).abs() < 1e-6 && (share - 0.2944).abs() < 1e-9, "{gflops} {share}");
        assert!((board.left_s().unwrap() - 300.0 * 0.02).abs() < 1e-9);
        let losses: f64 = (91..=100).map(|step| metrics(step).loss.unwrap()).sum();
        assert!((board.loss().unwrap() - losses / 10.0).abs() < 1e-12);
        assert_eq!(board.history.best().unwrap().step, 100);
    }

    #[test]
    fn a_slower_machine_shows_within_seconds() {
        let mut board = board(100);
        let metrics = metrics(101);
        board.event(&Event::Step { metrics: &metrics, tokens: 1024, took: Duration::from_secs(20) });
        let speed = board.tokens_per_s().unwrap();
        assert!(speed < 60.0, "{speed}");
    }

    #[test]
    fn events_are_kept() {
        let mut board = board(50);
        board.event(&Event::Sampled { step: 50, text: b"Once\x1b\xff" });
        board.event(&Event::Saved { step: 50, checkpoint: Path::new("runs/x/step-00000050") });
        board.event(&Event::Skipped { step: 51, loss: f64::NAN, grad_norm: 1.0, in_a_row: 1 });
        assert_eq!(board.sample, Some((50, "Once\u{fffd}\u{fffd}".to_owned())));
        assert_eq!(board.saved, Some(50));
        assert_eq!(board.notes, ["step 51: the loss is NaN, so the step changed nothing"]);
    }

    #[test]
    fn times_are_clocks() {
        let expected = ["0:00", "0:07", "1:00", "12:34", "3:04:05"];
        assert_eq!([-1.0, 6.6, 59.9, 754.0, 11_045.0].map(clock), expected);
    }
}
