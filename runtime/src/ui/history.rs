//! The losses of a run, as curves and verdicts need them.
//!
//! Invariants: steps rise strictly; every loss kept is finite, and steps that changed nothing, since theirs was not, are counted; at most [`MOST`] training points are
//! kept, however long the run: when there are as many, neighbours are joined into their mean, and later points are means of as many steps.

/// Training points kept at most; even.
pub const MOST: usize = 1 << 15;

/// A loss in nats a token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// Steps done.
    pub step: u64,
    pub loss: f64,
}

/// See the module's invariants.
#[derive(Debug, Clone, PartialEq)]
pub struct History {
    train: Vec<Point>,
    val: Vec<Point>,
    /// Steps that a point of `train` is the mean of.
    every: u64,
    /// Sum and number of the losses of the next point.
    next: (f64, u64),
    last_step: u64,
    skipped: u64,
}

impl Default for History {
    fn default() -> Self {
        Self { train: Vec::new(), val: Vec::new(), every: 1, next: (0.0, 0), last_step: 0, skipped: 0 }
    }
}

impl History {
    /// Adds what step `step` came to; a step that is not later than those before is ignored. A loss or gradient norm that is absent or not
    /// finite is that of a step which changed nothing.
    pub fn add(&mut self, step: u64, loss: Option<f64>, grad_norm: Option<f64>, val_loss: Option<f64>) {
        if step <= self.last_step {
            return;
        }
        self.last_step = step;
        let finite = |number: Option<f64>| number.filter(|x| x.is_finite());
        self.skipped += u64::from(finite(loss).and(finite(grad_norm)).is_none());
        self.val.extend(finite(val_loss).map(|loss| Point { step, loss }));
        let Some(loss) = finite(loss) else { return };
        self.next = (self.next.0 + loss, self.next.1 + 1);
        if self.next.1 < self.every {
            return;
        }
        let (sum, count) = std::mem::take(&mut self.next);
        self.train.push(Point { step, loss: sum / count as f64 });
        if self.train.len() == MOST {
            self.every *= 2;
            let join = |pair: &[Point]| Point { step: pair[1].step, loss: (pair[0].loss + pair[1].loss) / 2.0 };
            self.train = self.train.chunks_exact(2).map(join).collect();
        }
    }

    /// Training losses by step: of single steps, or in a long run means of a few.
    pub fn train(&self) -> &[Point] {
        &self.train
    }

    /// Validation losses by step.
    pub fn val(&self) -> &[Point] {
        &self.val
    }

    /// The lowest validation; the first of equals.
    pub fn best(&self) -> Option<Point> {
        self.val.iter().copied().reduce(|best, point| if point.loss < best.loss { point } else { best })
    }

    /// The last step added; 0 before the first.
    pub fn last_step(&self) -> u64 {
        self.last_step
    }

    /// Steps that changed nothing, since their loss or gradient was not finite.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// The losses that a picture has to hold: lowest and highest, but for the hundredth of the training losses that is highest, since a spike of a
    /// few steps would flatten everything else. None without losses.
    pub fn range(&self) -> Option<(f64, f64)> {
        let mut losses: Vec<f64> = self.train.iter().map(|point| point.loss).collect();
        let lowest = losses.iter().chain(self.val.iter().map(|point| &point.loss)).copied().reduce(f64::min)?;
        let at = (losses.len().max(1) - 1) * 99 / 100;
        let high = (!losses.is_empty()).then(|| *losses.select_nth_unstable_by(at, f64::total_cmp).1);
        let highest = self.val.iter().map(|point| point.loss).chain(high).fold(lowest, f64::max);
        Some((lowest, highest))
    }

    /// Whether the run began from scratch, at about the loss `guess`, or has not begun. A picture of one that began far below, from trained weights, is
    /// not squeezed to show that loss.
    pub fn from_scratch(&self, guess: f64) -> bool {
        self.train.first().is_none_or(|first| first.loss > 0.75 * guess)
    }

    /// The training losses without their noise: at each point the mean of those up to `half` before and after it. At the beginning, where the
    /// loss falls fastest, as many after as before, so that the curve starts where the run did.
    pub fn smoothed(&self, half: usize) -> Vec<Point> {
        let mut sums = vec![0.0];
        sums.extend(self.train.iter().scan(0.0, |sum, point| {
            *sum += point.loss;
            Some(*sum)
        }));
        let last = self.train.len().saturating_sub(1);
        let mean = |(at, point): (usize, &Point)| {
            let (before, after) = (half.min(at), half.min(at).min(last - at));
            let loss = (sums[at + after + 1] - sums[at - before]) / (before + after + 1) as f64;
            Point { step: point.step, loss }
        };
        self.train.iter().enumerate().map(mean).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_kept_in_order_and_finite() {
        let mut history = History::default();
        history.add(1, Some(5.0), Some(1.0), None);
        history.add(2, Some(f64::NAN), Some(1.0), Some(4.0));
        history.add(2, Some(1.0), Some(1.0), None);
        history.add(3, Some(3.0), Some(f64::INFINITY), Some(f64::INFINITY));
        history.add(4, Some(2.0), Some(1.0), Some(3.5));
        history.add(5, None, Some(1.0), None);
        assert_eq!(
            history.train().iter().map(|p| (p.step, p.loss)).collect::<Vec<_>>(),
            [(1, 5.0), (3, 3.0), (4, 2.0)]
        );
        assert_eq!(history.val(), [Point { step: 2, loss: 4.0 }, Point { step: 4, loss: 3.5 }]);
        assert_eq!(history.best(), Some(Point { step: 4, loss: 3.5 }));
        assert_eq!((history.last_step(), history.skipped()), (5, 3));
    }

    #[test]
    fn a_long_run_keeps_means() {
        let mut history = History::default();
        let steps = 5 * MOST as u64;
        (1..=steps).for_each(|step| history.add(step, Some(step as f64), Some(1.0), None));
        assert!(history.train().len() < MOST && history.train().len() >= MOST / 2, "{}", history.train().len());
        for pair in history.train().windows(2) {
            assert!(pair[0].step < pair[1].step);
            // The mean of as many steps up to this one.
            let every = (pair[1].step - pair[0].step) as f64;
            assert_eq!(pair[1].loss, pair[1].step as f64 - (every - 1.0) / 2.0);
        }
    }

    #[test]
    fn the_range_leaves_out_spikes() {
        let mut history = History::default();
        assert_eq!(history.range(), None);
        history.add(1, Some(5.0), Some(1.0), None);
        assert_eq!(history.range(), Some((5.0, 5.0)));
        (2..=200)
            .for_each(|step| history.add(step, Some(400.0 / step as f64), Some(1.0), (step == 200).then_some(1.5)));
        // The two highest of 200, 200 and 133, are left out.
        assert_eq!(history.range(), Some((1.5, 100.0)));
        history.add(201, None, None, Some(1.25));
        assert_eq!(history.range(), Some((1.25, 100.0)));
    }

    #[test]
    fn smoothing_keeps_a_line_and_the_beginning() {
        let mut history = History::default();
        (1..=9).for_each(|step| history.add(step, Some(10.0 - step as f64), Some(1.0), None));
        let smooth = history.smoothed(2);
        assert_eq!(smooth[..7], history.train()[..7]);
        // At the end only those before are left.
        assert_eq!(smooth[8].loss, (3.0 + 2.0 + 1.0) / 3.0);
        assert_eq!(History::default().smoothed(3), []);
    }
}
