//! Dynamic loss scaling (Micikevicius et al. 2018): what the loss is multiplied by before differentiation, so that gradients rounded to f16 are
//! neither zero nor infinite. The program divides the gradients by it again, before their norm.
//!
//! A step whose gradient is not finite halves the scale, and [`GROWTH_STEPS`] good ones in a row double it. With several steps under way the outcome
//! of one is not known when the next begins, so each step's scale follows from the outcomes of steps at least [`LAG`] before it, however many
//! are under way and wherever a run was interrupted.
//!
//! Invariants
//! - The scale of a step is a function of the outcomes of the steps before it, and a power of two from 1 to 2^24: multiplying and dividing by it
//!   loses nothing within the range of f32.
//! - One overflow halves once: outcomes of steps that began with another scale than the present one change nothing.

use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// The first scale.
pub const START: f32 = 65536.0;
const LARGEST: f32 = 16_777_216.0;
/// Good steps in a row after which the scale doubles.
pub const GROWTH_STEPS: u32 = 1000;
/// Steps between one and the first whose scale its outcome decides: as many as any backend has under way.
pub const LAG: usize = 3;

/// The scale of a run and what it will follow from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LossScale {
    scale: f32,
    /// Steps since the last change or bad step.
    good: u32,
    /// Scale and outcome of the last steps, at most [`LAG`], from which no step's scale follows yet.
    recent: VecDeque<(f32, bool)>,
    /// Scales of the steps under way.
    #[serde(skip)]
    under_way: VecDeque<f32>,
}

impl Default for LossScale {
    fn default() -> Self {
        Self { scale: START, good: 0, recent: VecDeque::new(), under_way: VecDeque::new() }
    }
}

impl LossScale {
    /// The scale of the step that begins now.
    pub fn begin(&mut self) -> f32 {
        while self.recent.len() + self.under_way.len() >= LAG {
            let Some((scale, finite)) = self.recent.pop_front() else { break };
            self.follow(scale, finite);
        }
        self.under_way.push_back(self.scale);
        self.scale
    }

    /// The oldest step under way has ended, with a gradient that was `finite` or not; its scale.
    pub fn end(&mut self, finite: bool) -> f32 {
        let scale = self.under_way.pop_front().unwrap_or(self.scale);
        self.recent.push_back((scale, finite));
        scale
    }

    fn follow(&mut self, scale: f32, finite: bool) {
        self.good = if finite { self.good + 1 } else { 0 };
        if !finite && scale == self.scale {
            self.scale = (self.scale / 2.0).max(1.0);
        } else if self.good >= GROWTH_STEPS {
            self.scale = (self.scale * 2.0).min(LARGEST);
            self.good = 0;
        }
    }

    /// Whether a gradient that is not finite may be the fault of the scale `scale`.
    pub fn may_overflow(scale: f32) -> bool {
        scale > 1.0
    }

    /// Forgets the last `steps` steps, which are to be taken again.
    pub fn forget(&mut self, steps: usize) {
        self.under_way.clear();
        self.recent.truncate(self.recent.len().saturating_sub(steps));
    }

    /// Whether the values are of a run.
    pub fn is_sound(&self) -> bool {
        let sound = |scale: f32| (1.0..=LARGEST).contains(&scale) && scale.log2().fract() == 0.0;
        sound(self.scale) && self.recent.iter().all(|(scale, _)| sound(*scale)) && self.recent.len() <= LAG
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scales of `steps` steps of which those in `bad` overflow, with `depth` under way at a time, interrupted after those in `stops`.
    fn scales(steps: usize, bad: &[usize], depth: usize, stops: &[usize]) -> Vec<f32> {
        let mut state = LossScale::default();
        let (mut begun, mut all) = (0, Vec::new());
        for step in 0..steps {
            let stop = stops.iter().copied().find(|s| *s > step).unwrap_or(steps);
            while begun < stop.min(step + depth) {
                all.push(state.begin());
                begun += 1;
            }
            assert_eq!(state.end(!bad.contains(&step)), all[step]);
            if stops.contains(&(step + 1)) {
                let stored = serde_json::to_string(&state).unwrap();
                state = serde_json::from_str(&stored).unwrap();
                assert!(state.is_sound());
            }
        }
        all
    }

    #[test]
    fn scales_follow_from_outcomes_alone() {
        let bad = [4, 5, 6, 7, 20, 2500];
        let expected = scales(3000, &bad, 1, &[]);
        for depth in 1..=LAG {
            assert_eq!(scales(3000, &bad, depth, &[]), expected, "{depth} under way");
            assert_eq!(scales(3000, &bad, depth, &[5, 6, 8, 21, 22, 1024, 2501]), expected, "{depth}, interrupted");
        }
        // Step 4 halves from step 7 on; 5 and 6 began with the old scale, 7 with the new one.
        assert_eq!(
            (expected[6], expected[7], expected[9], expected[10]),
            (START, START / 2.0, START / 2.0, START / 4.0)
        );
        assert_eq!((expected[22], expected[23]), (START / 4.0, START / 8.0));
        // A thousand good steps later, twice as large.
        let double = 20 + GROWTH_STEPS as usize + LAG;
        assert_eq!((expected[double - 1], expected[double]), (START / 8.0, START / 4.0));
    }

    #[test]
    fn scales_stay_in_range() {
        let all: Vec<usize> = (0..200).collect();
        assert_eq!(scales(200, &all, 2, &[]).last(), Some(&1.0));
        assert!(!LossScale::may_overflow(1.0) && LossScale::may_overflow(2.0));
        assert_eq!(scales(12_000, &[], 3, &[]).last(), Some(&LARGEST));
    }

    #[test]
    fn forgotten_steps_have_no_outcome() {
        let mut state = LossScale::default();
        for finite in [true, false, false] {
            state.begin();
            state.end(finite);
        }
        state.forget(2);
        assert!(state.recent.iter().all(|(_, finite)| *finite) && state.is_sound());
        let odd = r#"{"scale":3.0,"good":0,"recent":[]}"#;
        assert!(!serde_json::from_str::<LossScale>(odd).unwrap().is_sound());
    }
}
