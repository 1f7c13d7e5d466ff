//! A search for faster ways to run a program than the contests of its first run have found.
//!
//! Each round takes for every structure a few choices near the one that it has ([`neighbours`]), compiles them, and holds contests within the step; what
//! wins there by a margin is taken over if the whole step is the faster for it. Rounds follow until nothing near is left to try, or the time is over.
//!
//! Invariants
//! - What is taken over has made the whole step faster, by timestamps around steps without others in between, old and new in turns.
//! - No choice of a structure is tried twice.
//! - What was found is kept when it is found.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tinygpt_codegen_wgsl::{Choice, Module, neighbours};
use tinygpt_ir::program::Program;

use super::binder::{Binder, Launch, Units};
use super::build::{self, Structure, Structures};
use super::contest::{self, Contest, Deadlines};
use super::device::Gpu;
use super::executor::units;
use super::pipelines::Pipelines;
use super::rounds::Outcome;
use super::stamps::Stamps;
use crate::provenance::traced;
use crate::{Error, Result};

/// Structures of a smaller share of the step by the estimate are left as they are.
const LEAST_SHARE: f64 = 0.002;

/// Choices of a structure that are tried in one round.
const AT_ONCE: usize = 6;

/// What wins in a contest is tried in the whole step if it takes so much less time.
const GAIN: f64 = 0.01;

/// The least gain of the whole step for which something is taken over: less cannot be told from chance.
const STEP_GAIN: f64 = 0.0005;

/// Where not all proposals together are taken over, so many are tried one by one, those that promise most.
const ONE_BY_ONE: usize = 8;

/// How often both sides of a comparison are timed, and for how long each time at least.
const TURNS: usize = 5;
const TURN: Duration = Duration::from_millis(15);

/// Rounds that begin before the time is over have so much more of it.
const SLACK: Duration = Duration::from_secs(2);

/// A structure whose choice the search has changed.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// Its first kernel, and how many bundles of the program have it.
    pub kernel: String,
    pub bundles: usize,
    pub before: String,
    pub after: String,
}

/// How far a search has come.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// Choices that were timed.
    pub tried: usize,
    /// Of the whole step, in seconds.
    pub before: f64,
    pub now: f64,
    /// Against the state before the search.
    pub changes: Vec<Change>,
    /// Whether nothing near is left to try.
    pub exhausted: bool,
}

/// A proposal: a structure by its number, its new choice, and the seconds of a step that it would save by its contest.
struct Proposal {
    structure: usize,
    choice: Choice,
    saves: f64,
}

struct Search<'a> {
    gpu: &'a Gpu,
    program: &'a Program,
    units: &'a Units,
    pipelines: Pipelines<'a>,
    structures: Structures,
    /// The choice of each structure, and what it has been tried with.
    choices: Vec<Choice>,
    tried: Vec<HashSet<Choice>>,
}

/// Searches for at most about `time`, in at most so many `rounds`, and keeps what it finds in the device's tuner and its cache; `say` hears after each round how far it has come.
///
/// # Errors
/// A device without timestamps or whose tuner does not measure, and whatever preparing the program may fail with.
pub fn search(
    gpu: &Arc<Gpu>,
    program: &Program,
    time: Duration,
    rounds: u64,
    mut say: impl FnMut(&Found),
) -> Result<Found> {
    let end = Instant::now() + time;
    gpu.check()?;
    if !gpu.tuner.measures() {
        return Err(Error::input("a search times variants, which no_tune forbids: leave it out"));
    }
    let one = Stamps::new(gpu, 1)?.ok_or_else(|| {
        Error::input(format!(
            "the GPU {} has no timestamps (feature timestamp-query), so variants cannot be timed on it",
            gpu.report().name
        ))
    })?;
    let units = gpu.scoped(|| units(gpu, program))?;
    let mut pipelines = Pipelines::new(gpu, !gpu.options().checked);
    let (structures, _) = build::settle(gpu, program, &units, &mut pipelines)?;
    let default = |s: &Structure| structures.bundles[s.same[0]].choices[0].clone();
    let first: Vec<Choice> =
        structures.list.iter().map(|s| gpu.tuner.choice(s.key).unwrap_or_else(|| default(s))).collect();
    let tried = first.iter().map(|choice| HashSet::from([choice.clone()])).collect();
    let mut search = Search { gpu, program, units: &units, pipelines, structures, choices: first.clone(), tried };
    let mut found: Option<Found> = None;
    for round in 1.. {
        let contests = search.contests()?;
        let exhausted = contests.is_empty();
        let (tried, before, now) = search.round(contests, &one, end)?;
        let so_far = found.as_ref().map_or((0, before), |found| (found.tried, found.before));
        let changes = search.changes(&first);
        let found = found.insert(Found { tried: so_far.0 + tried, before: so_far.1, now, changes, exhausted });
        say(found);
        if exhausted || round >= rounds || Instant::now() >= end {
            break;
        }
    }
    found.ok_or_else(|| Error::failed("a search has at least one round"))
}

impl Search<'_> {
    /// The next contests, each with the number of its structure: the choice that it has against some near it that were not tried yet.
    fn contests(&mut self) -> Result<Vec<(usize, Contest)>> {
        let (caps, program) = (self.gpu.caps(), self.program);
        let mut contests = Vec::new();
        for (at, s) in self.structures.list.iter().enumerate() {
            if s.share < LEAST_SHARE || !self.structures.measurable(s) {
                continue;
            }
            let bundle = &self.structures.bundles[s.same[0]];
            let near = neighbours(bundle, &self.choices[at], caps);
            let fresh: Vec<&Choice> = near
                .iter()
                .filter(|choice| self.tried[at].insert((*choice).clone()) && bundle.emit(caps, choice).is_ok())
                .take(AT_ONCE)
                .collect();
            let choices: Vec<&Choice> = [&self.choices[at]].into_iter().chain(fresh).collect();
            let contest = Contest::new(caps, &self.structures.bundles, &s.same, s.share, &choices);
            contests.extend(contest.map_err(|e| Error::input(traced(program, e)))?.map(|contest| (at, contest)));
        }
        Ok(contests)
    }

    /// Holds these contests and takes over what makes the step faster. How many choices were timed, and seconds of a step before and after.
    fn round(&mut self, contests: Vec<(usize, Contest)>, one: &Stamps, end: Instant) -> Result<(usize, f64, f64)> {
        let (numbers, contests): (Vec<usize>, Vec<Contest>) = contests.into_iter().unzip();
        let (gpu, units) = (self.gpu, self.units);
        let chosen = self.modules(&self.choices)?;
        let deadlines = Deadlines { compilation: end, rounds: end + SLACK };
        let outcomes = gpu.scoped(|| contest::hold(gpu, units, &mut self.pipelines, &chosen, &contests, deadlines))?;
        let (mut proposals, mut tried) = (Vec::new(), 0);
        for ((structure, contest), outcome) in numbers.into_iter().zip(&contests).zip(outcomes) {
            let Some((choice, Outcome { seconds, first_seconds, .. })) = outcome else { continue };
            tried += contest.entrants.len() - 1;
            if choice != self.choices[structure] && seconds < (1.0 - GAIN) * first_seconds {
                let times = self.structures.list[structure].same.len() as f64 / contest.places.len() as f64;
                proposals.push(Proposal { structure, choice, saves: times * (first_seconds - seconds) });
            }
        }
        proposals.sort_by(|a: &Proposal, b: &Proposal| b.saves.total_cmp(&a.saves));
        let (before, now) = self.take_over(&proposals, one)?;
        contest::clear(gpu, units, chosen.iter().flatten());
        Ok((tried, before, now))
    }

    /// Takes over all proposals if the step is faster for it, else one by one those for which it is. Seconds of a step before and after.
    fn take_over(&mut self, proposals: &[Proposal], one: &Stamps) -> Result<(f64, f64)> {
        let mut now = self.launches(&self.choices.clone())?;
        let mut turns: Vec<&[Proposal]> = vec![proposals];
        if proposals.len() > 1 {
            turns.extend(proposals.chunks(1).take(ONE_BY_ONE));
        }
        let (mut first, mut last) = (None, None);
        for (turn, some) in turns.into_iter().enumerate() {
            let mut choices = self.choices.clone();
            for proposal in some {
                choices[proposal.structure] = proposal.choice.clone();
            }
            let then = self.launches(&choices)?;
            let [old, new] = compare(self.gpu, one, [&now, &then])?;
            first = first.or(Some(old));
            last = Some(old);
            if !some.is_empty() && new < (1.0 - STEP_GAIN) * old {
                for Proposal { structure, choice, .. } in some {
                    self.gpu.tuner.record(self.structures.list[*structure].key, choice.clone(), true);
                }
                self.gpu.tuner.keep()?;
                (self.choices, now, last) = (choices, then, Some(new));
                if turn == 0 {
                    break;
                }
            }
        }
        Ok((first.unwrap_or(0.0), last.unwrap_or(0.0)))
    }

    fn modules(&self, choices: &[Choice]) -> Result<Vec<Vec<Module>>> {
        let of = |s: &Structure| {
            let at = self.structures.list.iter().position(|other| other.key == s.key)?;
            Some(choices[at].clone())
        };
        self.structures.modules(self.gpu, self.program, of)
    }

    /// The launches of a whole step.
    fn launches(&mut self, choices: &[Choice]) -> Result<Vec<Launch>> {
        let modules = self.modules(choices)?;
        let (gpu, units) = (self.gpu, self.units);
        gpu.scoped(|| {
            let all: Vec<(&Module, bool)> = modules.iter().flatten().map(|module| (module, false)).collect();
            self.pipelines.make(&all, Instant::now())?;
            let scratch = all.iter().map(|(module, _)| module.scratch_bytes).max().unwrap_or(0);
            let mut binder = Binder::new(gpu, units, scratch)?;
            let each: Result<Vec<Vec<Launch>>> =
                modules.iter().map(|its| binder.all_launches(&self.pipelines, its)).collect();
            Ok(each?.into_iter().flatten().collect())
        })
    }

    /// What runs otherwise than with the choices `first`.
    fn changes(&self, first: &[Choice]) -> Vec<Change> {
        let pairs = self.structures.list.iter().zip(first.iter().zip(&self.choices));
        let changed = pairs.filter(|(_, (before, after))| before != after);
        let change = |(s, (before, after)): (&Structure, (&Choice, &Choice))| Change {
            kernel: self.structures.bundles[s.same[0]].pieces[0].1.name.clone(),
            bundles: s.same.len(),
            before: before.to_string(),
            after: after.to_string(),
        };
        changed.map(change).collect()
    }
}

/// Seconds of a step by each of two ways: the least of several turns, of several steps each.
fn compare(gpu: &Gpu, one: &Stamps, ways: [&[Launch]; 2]) -> Result<[f64; 2]> {
    let steps = |way: &[Launch], runs: usize| -> Result<f64> {
        let launches: Vec<Launch> = (0..runs).flat_map(|_| way).cloned().collect();
        let backwards = || Error::failed(format!("the timestamps of the GPU {} run backwards", gpu.report().name));
        let spans = one.run(gpu, &[&launches])?.ok_or_else(backwards)?;
        Ok(spans[0].seconds() / runs as f64)
    };
    let once = steps(ways[0], 1)?.max(1e-6);
    let runs = (TURN.as_secs_f64() / once).clamp(1.0, 50.0) as usize;
    let mut least = [f64::INFINITY; 2];
    for _ in 0..TURNS {
        for (least, way) in least.iter_mut().zip(ways) {
            *least = least.min(steps(way, runs)?);
        }
    }
    Ok(least)
}
