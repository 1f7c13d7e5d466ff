//! Rounds: entrants of contests are timed within the step that they are for.
//!
//! Run again and again by itself, a kernel finds its operands and its own code in caches; in a step the kernels before have taken their place, and what
//! won alone may take half as long again as what it beat. So the bundles of the step run in order, a pass with timestamps each, and each contested one
//! in one of its ways; the next round has the next ways.
//!
//! Invariants
//! - The entrants of a contest take turns: a clock that rises or falls does so for all of them.
//! - An entrant's time is the least that was seen at each of its places, added up.
//! - At least two entrants run, whatever the time; a contest is decided among those that ran.

use std::time::{Duration, Instant};

use super::binder::Launch;
use super::device::Gpu;
use super::stamps::Stamps;
use crate::Result;

/// From one heat to the next, how much longer than the fastest those take that stay.
const STAYS: [f64; 3] = [1.25, 1.06, 1.0];

/// The most runs of an entrant in a heat, and the time of the device for those of all.
const RUNS: [u32; 3] = [6, 12, 20];
const HEAT: Duration = Duration::from_millis(150);

/// A bundle of the step, and its ways to run: of a contested one as many as there are entrants.
pub(super) struct Place {
    pub contest: Option<usize>,
    pub ways: Vec<Vec<Launch>>,
}

/// A part of a step, in order.
pub(super) struct Stretch<'a> {
    gpu: &'a Gpu,
    stamps: Stamps,
    places: Vec<Place>,
    contests: usize,
}

/// How a contest ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Outcome {
    pub winner: usize,
    /// Of the winner and of the first entrant, at all places.
    pub seconds: f64,
    pub first_seconds: f64,
}

impl<'a> Stretch<'a> {
    /// For so many contests. None where the device has no timestamps.
    pub fn new(gpu: &'a Gpu, places: Vec<Place>, contests: usize) -> Result<Option<Stretch<'a>>> {
        let stamps = Stamps::new(gpu, places.len())?;
        Ok(stamps.map(|stamps| Stretch { gpu, stamps, places, contests }))
    }

    /// One round: the seconds of each contest at each of its places. None where the device's clock runs backwards.
    pub fn round(&self, picks: &[usize]) -> Result<Option<Vec<Vec<f64>>>> {
        let way = |place: &Place| place.contest.map_or(0, |contest| picks[contest]);
        let passes: Vec<&[Launch]> = self.places.iter().map(|place| &place.ways[way(place)][..]).collect();
        let Some(spans) = self.stamps.run(self.gpu, &passes)? else { return Ok(None) };
        let mut seconds = vec![Vec::new(); self.contests];
        for (place, span) in self.places.iter().zip(spans) {
            if let Some(contest) = place.contest {
                seconds[contest].push(span.seconds());
            }
        }
        Ok(Some(seconds))
    }

    /// Runs the first entrants for so long, by the host's clock, and at least twice; how long the last run took.
    pub fn warm_up(&self, time: Duration) -> Result<Duration> {
        let (start, picks) = (Instant::now(), vec![0; self.contests]);
        self.round(&picks)?;
        loop {
            let begin = Instant::now();
            self.round(&picks)?;
            if start.elapsed() >= time {
                return Ok(begin.elapsed());
            }
        }
    }
}

/// What is known of one contest.
struct Standing {
    /// The least seconds of each entrant at each place; infinite before its first run.
    least: Vec<Vec<f64>>,
    stay: Vec<usize>,
}

impl Standing {
    fn total(&self, entrant: usize) -> f64 {
        match &self.least[entrant][..] {
            [] => f64::INFINITY,
            places => places.iter().sum(),
        }
    }

    fn fastest(&self) -> usize {
        self.stay.iter().copied().min_by(|a, b| self.total(*a).total_cmp(&self.total(*b))).unwrap_or(0)
    }

    fn saw(&mut self, entrant: usize, seconds: &[f64]) {
        match &mut self.least[entrant] {
            least if least.is_empty() => least.extend(seconds),
            least => least.iter_mut().zip(seconds).for_each(|(least, s)| *least = least.min(*s)),
        }
    }
}

/// Decides contests of so many entrants each by `round`s of about `once`, of which each takes the entrant that runs of each contest. Once it
/// is `over`, no further round begins. None where a round told nothing.
pub(super) fn decide(
    entrants: &[usize],
    once: Duration,
    over: impl Fn() -> bool,
    mut round: impl FnMut(&[usize]) -> Result<Option<Vec<Vec<f64>>>>,
) -> Result<Vec<Option<Outcome>>> {
    let standing = |entrants: &usize| Standing { least: vec![Vec::new(); *entrants], stay: (0..*entrants).collect() };
    let mut all: Vec<Standing> = entrants.iter().map(standing).collect();
    'heats: for (heat, slower) in STAYS.into_iter().enumerate() {
        let longest = all.iter().map(|s| s.stay.len()).max().unwrap_or(0);
        if longest < 2 {
            break;
        }
        let runs = HEAT.as_secs_f64() / (longest as f64 * once.as_secs_f64().max(1e-6));
        for at in 0..longest * (runs as usize).clamp(1, RUNS[heat] as usize) {
            if (heat, at) >= (0, 2) && over() {
                break 'heats;
            }
            let picks: Vec<usize> = all.iter().map(|s| s.stay[at % s.stay.len()]).collect();
            let Some(seconds) = round(&picks)? else { return Ok(vec![None; all.len()]) };
            for ((standing, pick), seconds) in all.iter_mut().zip(picks).zip(seconds) {
                standing.saw(pick, &seconds);
            }
        }
        for standing in &mut all {
            let least = standing.total(standing.fastest());
            let totals: Vec<f64> = (0..standing.least.len()).map(|entrant| standing.total(entrant)).collect();
            standing.stay.retain(|entrant| totals[*entrant] <= least * slower);
        }
    }
    let outcome = |standing: &Standing| {
        let winner = standing.fastest();
        let outcome = Outcome { winner, seconds: standing.total(winner), first_seconds: standing.total(0) };
        outcome.seconds.is_finite().then_some(outcome)
    };
    Ok(all.iter().map(outcome).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    /// Each contest goes to what is the fastest in the sum of its places, though a first run of each is slow and the clock rises.
    #[test]
    fn the_fastest_within_the_step_wins() {
        let times = [vec![[3.0, 3.0], [1.0, 4.5], [2.6, 2.7]], vec![[1.0, 1.0], [1.0, 1.02]], vec![[5.0, 5.0]]];
        let entrants: Vec<usize> = times.iter().map(Vec::len).collect();
        let (mut rounds, mut seen) = (0, vec![[0; 3]; 3]);
        let outcomes = decide(
            &entrants,
            Duration::from_millis(1),
            || false,
            |picks| {
                rounds += 1;
                let clock = 1.0 + 1.0 / f64::from(rounds);
                let of = |(contest, pick): (usize, &usize)| {
                    let first = if std::mem::replace(&mut seen[contest][*pick], 1) == 0 { 3.0 } else { 1.0 };
                    times[contest][*pick].iter().map(|t| t * clock * first).collect()
                };
                Ok(Some(picks.iter().enumerate().map(of).collect()))
            },
        )
        .unwrap();
        let winners: Vec<usize> = outcomes.iter().map(|o| o.unwrap().winner).collect();
        assert_eq!(winners, [2, 0, 0]);
        let first = outcomes[0].unwrap();
        assert!(first.seconds < 5.8 && first.first_seconds > 6.0, "{first:?}");
        assert!(rounds <= 3 * 6 + 3 * 12 + 3 * 20, "{rounds}");
    }

    /// A contest that ends early is decided among those that ran, which are two at least; a clock that runs backwards decides nothing.
    #[test]
    fn what_was_not_timed_does_not_win() {
        let with = |rounds: u32, clock: bool| {
            let done = Cell::new(0);
            let outcomes = decide(
                &[3, 2],
                Duration::from_secs(1),
                || done.get() >= rounds,
                |picks| {
                    done.set(done.get() + 1);
                    Ok(clock.then(|| vec![vec![3.0 - picks[0] as f64], vec![1.0 + picks[1] as f64]]))
                },
            );
            let winners: Vec<Option<usize>> = outcomes.unwrap().iter().map(|o| o.map(|o| o.winner)).collect();
            (winners, done.get())
        };
        assert_eq!(with(0, true), (vec![Some(1), Some(0)], 2));
        assert_eq!(with(9, true), (vec![Some(2), Some(0)], 3));
        assert_eq!(with(9, false), (vec![None, None], 1));
    }
}
