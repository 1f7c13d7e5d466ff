//! What a finished run came to, in one sentence: a pure function of its losses.
//!
//! The rules, in this order; the first that holds is the verdict. A *tenth* is a tenth of the training losses, by step; losses are means over
//! one, so that the noise of single batches says nothing.
//!
//! | verdict | holds when |
//! |---|---|
//! | diverged | more than [`SKIPPED`] of the steps changed nothing, since their loss or gradient was not finite; or the last tenth lies more than [`DIVERGED`] above the lowest tenth |
//! | too short to tell | fewer than [`LEAST_STEPS`] losses |
//! | overfitting | of at least three validations the last lies above the lowest by more than [`ROSE`] of it, while the training loss did not rise |
//! | flattened | over the last quarter of the steps the loss fell by less than [`FLAT`] of itself |
//! | still falling | otherwise |
//!
//! The last quarter is judged by the validation loss where a validation lies between a half and three quarters of the steps, else by tenths of
//! the training loss.

use super::history::{History, Point};

/// Nats above the lowest tenth: a loss that has returned by so much is lost. Noise of tenths is a tenth of it.
pub const DIVERGED: f64 = 0.5;

/// Share of the steps that changed nothing.
pub const SKIPPED: f64 = 0.1;

/// Losses needed for a verdict: two a tenth.
pub const LEAST_STEPS: usize = 20;

/// Share of the lowest validation loss. Validations of one run see the same batches, so that what is left of noise is the weights'.
pub const ROSE: f64 = 0.02;

/// Share of the loss.
pub const FLAT: f64 = 0.01;

/// A loss above this share of ln(vocab) is hardly better than guessing.
const GUESSING: f64 = 0.9;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Diverged,
    TooShort,
    Overfitting,
    Flattened,
    Falling,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub kind: Kind,
    /// With the figures that the verdict rests on, and what to try next.
    pub sentence: String,
}

/// The verdict on a run of a model that knows `vocab` tokens.
pub fn verdict(history: &History, vocab: usize) -> Verdict {
    let (kind, sentence) = judge(history, vocab);
    Verdict { kind, sentence }
}

fn judge(history: &History, vocab: usize) -> (Kind, String) {
    let (train, steps) = (history.train(), history.last_step());
    let skipped = history.skipped();
    if skipped as f64 > SKIPPED * steps as f64 {
        let sentence = format!(
            "Diverged: in {skipped} of {steps} steps the loss or the gradient was no finite number, so that they changed nothing; try a \
             lower --lr or a longer --warmup."
        );
        return (Kind::Diverged, sentence);
    }
    let (Some(first), Some(last)) = (train.first(), train.last()) else {
        return (Kind::TooShort, "Too short to tell: no step was taken.".to_owned());
    };
    if train.len() < LEAST_STEPS {
        let sentence = format!(
            "Too short to tell: the training loss went from {:.4} to {:.4} in {} steps, and a verdict needs {LEAST_STEPS}; try --steps {}.",
            first.loss,
            last.loss,
            train.len(),
            10 * LEAST_STEPS
        );
        return (Kind::TooShort, sentence);
    }
    let tenths: Vec<Point> = (0..10).map(|i| mean(&train[i * train.len() / 10..(i + 1) * train.len() / 10])).collect();
    let end = tenths[9];
    let lowest = tenths.iter().fold(end, |low, tenth| if tenth.loss < low.loss { *tenth } else { low });
    if end.loss > lowest.loss + DIVERGED {
        let sentence = format!(
            "Diverged: the training loss was lowest, {:.4}, about step {}, and has risen to {:.4}; try a lower --lr or a longer --warmup.",
            lowest.loss, lowest.step, end.loss
        );
        return (Kind::Diverged, sentence);
    }
    if let (Some(best), [_, _, .., now]) = (history.best(), history.val())
        && now.loss - best.loss > ROSE * best.loss
    {
        let then = mean(around(train, best.step));
        if end.loss <= then.loss {
            let sentence = format!(
                "Overfitting: the validation loss was lowest, {:.4}, at step {}, and has risen to {:.4}, while the training loss went from \
                 {:.4} to {:.4}; train on more text, take a smaller model, or end earlier, with --steps {}.",
                best.loss, best.step, now.loss, then.loss, end.loss, best.step
            );
            return (Kind::Overfitting, sentence);
        }
    }
    let (what, from, to) = last_quarter(history, &tenths);
    let fell = (from.loss - to.loss) / from.loss;
    let figures = format!(
        "the {what} loss went from {:.4} (step {}) to {:.4} (step {}), {:.1}% {}",
        from.loss,
        from.step,
        to.loss,
        to.step,
        100.0 * fell.abs(),
        if fell >= 0.0 { "less" } else { "more" }
    );
    if fell >= FLAT {
        return (
            Kind::Falling,
            format!("Still falling: {figures}; train longer, for example with --steps {}.", 2 * steps),
        );
    }
    let guess = (vocab as f64).ln();
    let advice = if to.loss > GUESSING * guess {
        format!("and a guess has {guess:.4}; try a higher --lr")
    } else {
        "so more steps of this kind add little; try a larger model, more text, or another --lr".to_owned()
    };
    (Kind::Flattened, format!("Flattened: {figures}, {advice}."))
}

/// What to compare over the last quarter, and its two ends.
fn last_quarter(history: &History, tenths: &[Point]) -> (&'static str, Point, Point) {
    let (val, steps) = (history.val(), history.last_step());
    let before = val.iter().rev().find(|point| point.step <= steps * 3 / 4);
    match (before, val.last()) {
        (Some(from), Some(to)) if from.step >= steps / 2 => ("validation", *from, *to),
        _ => ("training", tenths[7], tenths[9]),
    }
}

/// The points of a tenth of the run about `step`.
fn around(train: &[Point], step: u64) -> &[Point] {
    let half = (train.len() / 20).max(1);
    let at = train.partition_point(|point| point.step < step);
    &train[at.saturating_sub(half).min(train.len() - 1)..(at + half).min(train.len())]
}

/// Mean loss, at the middle step. Of at least one point.
fn mean(points: &[Point]) -> Point {
    let loss = points.iter().map(|point| point.loss).sum::<f64>() / points.len() as f64;
    Point { step: points[points.len() / 2].step, loss }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A run of `steps` with these losses by step, validated every `every` steps.
    fn run(steps: u64, every: u64, train: impl Fn(f64) -> f64, val: impl Fn(f64) -> f64) -> Verdict {
        let mut history = History::default();
        for step in 1..=steps {
            // Noise of 0.1 nats, as single batches have it.
            let noise = 0.1 * ((step * 7919 % 13) as f64 / 6.0 - 1.0);
            let at = step as f64;
            history.add(step, Some(train(at) + noise), Some(1.0), step.is_multiple_of(every).then(|| val(at)));
        }
        verdict(&history, 256)
    }

    fn falling(at: f64) -> f64 {
        1.0 + 4.5 * (-at / 400.0).exp()
    }

    #[test]
    fn a_falling_loss_is_still_falling() {
        let found = run(1000, 100, falling, falling);
        assert_eq!(found.kind, Kind::Falling);
        let expected = "Still falling: the validation loss went from 1.7820 (step 700) to 1.3694 (step 1000), 23.2% less; train longer, \
                        for example with --steps 2000.";
        assert_eq!(found.sentence, expected);
        // Without validations, by the training loss.
        let found = run(1000, 1000, falling, falling);
        assert!(found.sentence.starts_with("Still falling: the training loss went from 1."), "{}", found.sentence);
    }

    #[test]
    fn a_level_loss_has_flattened() {
        let level = |at: f64| 1.5 + 4.0 * (-at / 50.0).exp();
        let found = run(1000, 100, level, level);
        assert_eq!(found.kind, Kind::Flattened);
        let expected = "Flattened: the validation loss went from 1.5000 (step 700) to 1.5000 (step 1000), 0.0% less, so more steps of \
                        this kind add little; try a larger model, more text, or another --lr.";
        assert_eq!(found.sentence, expected);
        // Just within and just beyond the hundredth.
        let slope =
            |share: f64| move |at: f64| if at <= 700.0 { 2.0 } else { 2.0 * (1.0 - share * (at - 700.0) / 300.0) };
        assert_eq!(run(1000, 100, level, slope(0.009)).kind, Kind::Flattened);
        assert_eq!(run(1000, 100, level, slope(0.011)).kind, Kind::Falling);
    }

    #[test]
    fn a_loss_that_never_moved_wants_a_higher_rate() {
        let found = run(400, 50, |_| 5.5, |_| 5.5);
        assert_eq!(found.kind, Kind::Flattened);
        assert!(found.sentence.ends_with("and a guess has 5.5452; try a higher --lr."), "{}", found.sentence);
    }

    #[test]
    fn a_rising_validation_loss_is_overfitting() {
        let val = |at: f64| falling(at) + if at > 500.0 { 0.004 * (at - 500.0) } else { 0.0 };
        let found = run(1000, 100, falling, val);
        assert_eq!(found.kind, Kind::Overfitting);
        assert!(
            found.sentence.starts_with("Overfitting: the validation loss was lowest, 2.2893, at step 500, "),
            "{}",
            found.sentence
        );
        assert!(found.sentence.ends_with("or end earlier, with --steps 500."), "{}", found.sentence);
        // A rise of less than a fiftieth is none.
        let rise = |share: f64| move |at: f64| if at <= 700.0 { 2.0 } else { 2.0 * (1.0 + share) };
        assert_eq!(run(1000, 100, |at| 2.5 - at / 1e3, rise(0.021)).kind, Kind::Overfitting);
        assert_eq!(run(1000, 100, |at| 2.5 - at / 1e3, rise(0.019)).kind, Kind::Flattened);
        // Two validations are too few to speak of a turn.
        assert_ne!(run(1000, 500, falling, |at| at / 100.0).kind, Kind::Overfitting);
    }

    #[test]
    fn a_loss_that_returns_has_diverged() {
        let found = run(1000, 100, |at| falling(at) + (at - 800.0).max(0.0) * 0.02, falling);
        assert_eq!(found.kind, Kind::Diverged);
        assert!(found.sentence.starts_with("Diverged: the training loss was lowest, 1."), "{}", found.sentence);
        assert!(found.sentence.contains(", about step 7"), "{}", found.sentence);
        assert_ne!(run(1000, 100, |at| falling(at) + (at - 900.0).max(0.0) * 0.004, falling).kind, Kind::Diverged);
        // One step in ten may go wrong.
        let wrong = |most: f64| move |at: f64| if at <= most { f64::NAN } else { falling(at) };
        assert_eq!(run(100, 50, wrong(10.0), falling).kind, Kind::Falling);
        let found = run(100, 50, wrong(11.0), falling);
        let expected = "Diverged: in 11 of 100 steps the loss or the gradient was no finite number, so that they changed nothing; try a \
                        lower --lr or a longer --warmup.";
        assert_eq!((found.kind, found.sentence.as_str()), (Kind::Diverged, expected));
    }

    #[test]
    fn a_few_steps_are_too_few() {
        let found = run(19, 5, falling, falling);
        assert_eq!(found.kind, Kind::TooShort);
        assert!(
            found.sentence.ends_with(" in 19 steps, and a verdict needs 20; try --steps 200."),
            "{}",
            found.sentence
        );
        assert_ne!(run(20, 5, falling, falling).kind, Kind::TooShort);
        assert_eq!(verdict(&History::default(), 256).sentence, "Too short to tell: no step was taken.");
    }
}
