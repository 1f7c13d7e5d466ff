//! Contests: which of the ways to run a structure is the fastest on the device, within the step that it is for ([`super::rounds`]).
//!
//! Most of a cold start is the driver's compilation of ways that lose. So a structure gets the fewer of them the less of a step it takes by an estimate,
//! and those that the model holds for the best ([`Bundle::choices`]).
//!
//! Invariants
//! - Who takes part depends on the program and the adapter alone, not on what is known already: so a later run asks no question that this one left.
//! - A contest is decided among those that were compiled in time, and its default always is one of them.
//! - A device without timestamps holds no contests.

use std::collections::{BTreeSet, HashSet};
use std::time::{Duration, Instant};

use tinygpt_codegen_wgsl::{Bundle, Caps, Choice, Module, Piece, Unit};
use tinygpt_ir::program::{KernelId, KernelKind, Program, kernel_stats};

use super::binder::{Binder, Units};
use super::device::Gpu;
use super::pipelines::Pipelines;
use super::rounds::{Outcome, Place, Stretch, decide};
use crate::Result;

/// Time for which the device is kept busy before the first round: idle ones run at a fraction of their clock.
const WARM_UP: Duration = Duration::from_millis(200);

/// Bundles of a structure that are timed, the first ones; and how many bundles before each run with it, so that caches are as in a step.
const PLACES: usize = 2;
const BEFORE: usize = 6;

/// Bytes of code that takes a driver long, where products on matrices count as so many times their own.
const LONG: usize = 50_000;
const MATRIX_CODE: usize = 3;

/// A share of a step's time by the estimate, and how many choices of a structure that takes it are compiled; the default alone below all of them.
const FIELDS: [(f64, usize); 4] = [(0.08, 6), (0.04, 5), (0.02, 4), (0.01, 3)];

/// Estimated time beyond which the pieces of a bundle fill a device one by one too.
const FILLS: f64 = 100e-6;

/// What an estimate is made of: seconds of a launch, operations and bytes a second. A large GPU's; shares of others are alike.
const LAUNCH: f64 = 2.5e-6;
const OPERATIONS: f64 = 25e12;
const MATRIX_OPERATIONS: f64 = 100e12;
const BYTES: f64 = 2.5e12;

/// The time of a bundle by the estimate, in seconds.
pub(super) fn estimate(program: &Program, bundle: &Bundle, caps: &Caps) -> f64 {
    let of = |(id, piece): &(KernelId, Piece)| {
        let stats = kernel_stats(program, &program.kernels[*id]);
        let product =
            matches!(piece.kind, KernelKind::Contract(_) | KernelKind::Attention(_) | KernelKind::AttentionGrad(_));
        let matrices = product && piece.f16_operands && caps.cooperative.is_some();
        let rate = if matrices { MATRIX_OPERATIONS } else { OPERATIONS };
        stats.flops as f64 / rate + stats.bytes() as f64 / BYTES
    };
    LAUNCH + bundle.pieces.iter().map(of).sum::<f64>()
}

/// The choices of a bundle that take part, the default first, where it takes `seconds` by the estimate, and all of its structure `share` of a step.
pub(super) fn field(bundle: &Bundle, seconds: f64, share: f64) -> Vec<&Choice> {
    let most = FIELDS.iter().find(|(least, _)| share >= *least).map_or(1, |(_, most)| *most);
    let mut field: Vec<&Choice> = bundle.choices.iter().filter(|choice| choice.together).take(most).collect();
    let apart = bundle.choices.iter().find(|choice| !choice.together).filter(|_| most > 1 && seconds >= FILLS);
    field.extend(apart);
    field
}

/// The ways to run one structure.
pub(super) struct Contest {
    /// The one that it has so far first.
    pub entrants: Vec<Choice>,
    /// The first bundles that have it, by their numbers in the program.
    pub places: Vec<usize>,
    /// The modules of each entrant at each place.
    pub modules: Vec<Vec<Vec<Module>>>,
    /// Of a step's time, by the estimate.
    pub share: f64,
}

impl Contest {
    /// Between the first of `choices` and those of the others that the adapter's limits allow, for the bundles `same`. None without others.
    ///
    /// Errors: as of [`Bundle::emit`] for the first.
    pub fn new(
        caps: &Caps,
        bundles: &[Bundle],
        same: &[usize],
        share: f64,
        choices: &[&Choice],
    ) -> std::result::Result<Option<Contest>, tinygpt_codegen_wgsl::Error> {
        let places: Vec<usize> = same.iter().copied().take(PLACES).collect();
        let emit = |choice: &Choice| places.iter().map(|at| bundles[*at].emit(caps, choice)).collect();
        let [first, others @ ..] = choices else { return Ok(None) };
        let (mut entrants, mut modules) = (vec![(*first).clone()], vec![emit(first)?]);
        for choice in others {
            if let Ok(its) = emit(choice) {
                entrants.push((*choice).clone());
                modules.push(its);
            }
        }
        Ok((entrants.len() > 1).then_some(Contest { entrants, places, modules, share }))
    }
}

/// When to stop.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadlines {
    /// What is not begun to be compiled by then takes no part.
    pub compilation: Instant,
    /// No further round begins.
    pub rounds: Instant,
}

/// Compiles `chosen`, the modules of each bundle of the program, and the entrants of `contests`, and holds the contests on the program's own buffers, which
/// are zeros then. The choice that won each and its outcome; None where there was no time.
pub(super) fn hold(
    gpu: &Gpu,
    units: &Units,
    pipelines: &mut Pipelines<'_>,
    chosen: &[Vec<Module>],
    contests: &[Contest],
    deadlines: Deadlines,
) -> Result<Vec<Option<(Choice, Outcome)>>> {
    let start = Instant::now();
    pipelines.make(&jobs(chosen, contests), deadlines.compilation)?;
    let compiled = start.elapsed();
    // Of each contest the entrants that take part, by their numbers.
    let present: Vec<Vec<usize>> = contests
        .iter()
        .map(|c| (0..c.entrants.len()).filter(|e| c.modules[*e].iter().flatten().all(|m| pipelines.has(m))).collect())
        .collect();
    let modules = || contests.iter().flat_map(|c| c.modules.iter().flatten().flatten()).chain(chosen.iter().flatten());
    let mut binder = Binder::new(gpu, units, modules().map(|m| m.scratch_bytes).max().unwrap_or(0))?;
    let mut places = Vec::new();
    for at in stretch(contests) {
        let contest = contests.iter().position(|c| c.places.contains(&at));
        let ways = match contest {
            None => vec![binder.all_launches(pipelines, &chosen[at])?],
            Some(c) => {
                let place = contests[c].places.iter().position(|p| *p == at).unwrap_or(0);
                let way = |e: &usize| binder.all_launches(pipelines, &contests[c].modules[*e][place]);
                present[c].iter().map(way).collect::<Result<_>>()?
            }
        };
        places.push(Place { contest, ways });
    }
    let Some(stretch) = Stretch::new(gpu, places, contests.len())? else { return Ok(vec![None; contests.len()]) };
    let once = stretch.warm_up(WARM_UP)?;
    let entrants: Vec<usize> = present.iter().map(Vec::len).collect();
    let outcomes = decide(&entrants, once, || Instant::now() >= deadlines.rounds, |picks| stretch.round(picks))?;
    clear(gpu, units, modules());
    tracing::debug!(contests = contests.len(), ?compiled, ?once, took = ?start.elapsed(), "held contests");
    let named = |((contest, present), outcome): ((&Contest, &Vec<usize>), Option<Outcome>)| {
        outcome.map(|outcome| (contest.entrants[present[outcome.winner]].clone(), outcome))
    };
    Ok(contests.iter().zip(&present).zip(outcomes).map(named).collect())
}

/// The bundles that run: the places of all contests, and those before them.
fn stretch(contests: &[Contest]) -> BTreeSet<usize> {
    contests.iter().flat_map(|c| &c.places).flat_map(|at| at.saturating_sub(BEFORE)..=*at).collect()
}

/// Fills with zeros whatever these modules write.
pub(super) fn clear<'a>(gpu: &Gpu, units: &Units, modules: impl Iterator<Item = &'a Module>) {
    let written = modules.flat_map(|m| &m.bindings).filter(|b| b.write).filter_map(|b| match b.unit {
        Unit::Storage(unit) => Some(unit),
        Unit::Scratch | Unit::Table => None,
    });
    let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    for unit in written.collect::<HashSet<_>>() {
        encoder.clear_buffer(&units[&unit], 0, None);
    }
    gpu.queue.submit([encoder.finish()]);
}

/// What to compile, in this order, and whether it is for a contest alone: long code first, so that none is left for the end; then what is needed, and
/// then what is likely to win, in contests for the largest shares.
fn jobs<'a>(chosen: &'a [Vec<Module>], contests: &'a [Contest]) -> Vec<(&'a Module, bool)> {
    let mut wished: Vec<(f64, &Module)> = Vec::new();
    for contest in contests {
        for (rank, places) in contest.modules.iter().enumerate().skip(1) {
            wished.extend(places.iter().flatten().map(|module| (contest.share / (rank + 1) as f64, module)));
        }
    }
    wished.sort_by(|a, b| b.0.total_cmp(&a.0));
    let needed = chosen.iter().flatten().map(|module| (module, false));
    let mut jobs: Vec<(&Module, bool)> = needed.chain(wished.into_iter().map(|(_, module)| (module, true))).collect();
    let long = |m: &Module| m.code.len() * if m.cooperative { MATRIX_CODE } else { 1 } >= LONG;
    jobs.sort_by_key(|(module, _)| !long(module));
    jobs
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The more of a step a structure takes, the more of the first choices take part; and its pieces apart where each fills a device.
    #[test]
    fn fields_grow_with_the_share() {
        let choices: Vec<Choice> = (0..9)
            .map(|i| {
                let between = if i < 7 { "+" } else { "|" };
                format!("attention_matrices rows={i} cols=8 {between} attention_matrices rows=8 cols=8")
                    .parse()
                    .unwrap()
            })
            .collect();
        let bundle = Bundle { pieces: Vec::new(), choices: choices.clone() };
        let of = |seconds: f64, share: f64| -> Vec<usize> {
            let position = |c: &Choice| choices.iter().position(|other| other == c).unwrap();
            field(&bundle, seconds, share).into_iter().map(position).collect()
        };
        assert_eq!(of(20e-6, 0.001), [0]);
        assert_eq!(of(20e-6, 0.01), [0, 1, 2]);
        assert_eq!(of(20e-6, 0.05), [0, 1, 2, 3, 4]);
        assert_eq!(of(20e-6, 0.5), [0, 1, 2, 3, 4, 5]);
        assert_eq!(of(1e-3, 0.5), [0, 1, 2, 3, 4, 5, 7]);
        assert_eq!(of(1e-3, 0.001), [0]);
    }
}
