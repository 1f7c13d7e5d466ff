//! Learning-rate schedules, as pure functions of the step.
//!
//! Steps are numbered from 0. With `warmup` = w > 0, step s < w takes `lr * (s + 1) / w`, so the first step already moves
//! and step w - 1 takes the full rate. After that `constant` keeps the rate, and `cosine` falls along half a cosine
//! (Loshchilov, Hutter, "SGDR", 2017, without restarts) to a tenth of it, which the last planned step takes exactly.

use serde::{Deserialize, Serialize};

/// The share of the peak rate at which the cosine ends.
pub const LR_MIN_SHARE: f64 = 0.1;

/// Shape of the learning rate over a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum ScheduleKind {
    /// Warm up, then keep the rate
    Constant,
    /// Warm up, then fall along a cosine to a tenth of the rate
    Cosine,
}

/// A schedule with its numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    pub kind: ScheduleKind,
    /// Peak rate.
    pub lr: f64,
    /// Steps of linear warm-up.
    pub warmup: u64,
    /// Planned total, which the cosine spans.
    pub steps: u64,
}

impl Schedule {
    /// The rate of step `step` (from 0). Past the planned total the last rate holds.
    pub fn lr_at(&self, step: u64) -> f64 {
        if step < self.warmup {
            return self.lr * (step + 1) as f64 / self.warmup as f64;
        }
        match self.kind {
            ScheduleKind::Constant => self.lr,
            ScheduleKind::Cosine => {
                let last = self.steps.saturating_sub(1);
                let span = last.saturating_sub(self.warmup);
                let progress = if span == 0 { 0.0 } else { ((step - self.warmup) as f64 / span as f64).min(1.0) };
                let low = self.lr * LR_MIN_SHARE;
                low + 0.5 * (self.lr - low) * (1.0 + libm::cos(std::f64::consts::PI * progress))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COSINE: Schedule = Schedule { kind: ScheduleKind::Cosine, lr: 2e-3, warmup: 10, steps: 101 };

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() <= 1e-15
    }

    #[test]
    fn cosine_end_points() {
        assert!(near(COSINE.lr_at(0), 2e-4));
        assert_eq!(COSINE.lr_at(9), 2e-3);
        assert_eq!(COSINE.lr_at(10), 2e-3);
        assert!(near(COSINE.lr_at(55), 1.1e-3), "half way: {}", COSINE.lr_at(55));
        assert!(near(COSINE.lr_at(100), 2e-4));
        assert!(near(COSINE.lr_at(1000), 2e-4));
        assert!((11..100).all(|s| COSINE.lr_at(s + 1) < COSINE.lr_at(s)));
    }

    #[test]
    fn constant_end_points() {
        let flat = Schedule { kind: ScheduleKind::Constant, warmup: 0, ..COSINE };
        assert!((0..200).all(|s| flat.lr_at(s) == 2e-3));
        let warm = Schedule { kind: ScheduleKind::Constant, ..COSINE };
        assert!(near(warm.lr_at(4), 1e-3));
        assert_eq!(warm.lr_at(100), 2e-3);
    }

    #[test]
    fn degenerate_spans_are_finite() {
        for (warmup, steps) in [(0, 0), (0, 1), (1, 1), (5, 5), (5, 6)] {
            let schedule = Schedule { warmup, steps, ..COSINE };
            assert!((0..10).all(|s| schedule.lr_at(s) > 0.0 && schedule.lr_at(s) <= 2e-3));
        }
    }
}
