//! From a program to launches: bundles, their variants, modules, pipelines and bind groups.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rayon::prelude::*;
use tinygpt_codegen_wgsl::{Bundle, Choice, Module, stage_bundles};
use tinygpt_ir::program::{KernelId, KernelKind, Program};

use super::binder::{Binder, Launch, Units};
use super::contest::{self, Contest, Deadlines};
use super::device::Gpu;
use super::pipelines::Pipelines;
use crate::provenance::traced;
use crate::{Error, Result};

/// From the begin of compilation, when no further variant is compiled: what is not begun by then takes no part.
const COMPILATION: Duration = Duration::from_millis(1500);

/// From the begin of compilation, when no further round of contests begins.
const ROUNDS: Duration = Duration::from_millis(3500);

/// What an executor has made so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GpuCounters {
    pub buffers: usize,
    pub pipelines: usize,
    pub bind_groups: usize,
    pub submits: usize,
}

/// A program as bundles, of which those of one structure run alike.
pub(super) struct Structures {
    pub bundles: Vec<Bundle>,
    /// Of each bundle, in its default.
    pub defaults: Vec<Vec<Module>>,
    /// Those that have a choice, in the order of their first bundles.
    pub list: Vec<Structure>,
}

/// Bundles that run alike.
pub(super) struct Structure {
    /// The default's hash.
    pub key: u64,
    /// The bundles that have it, in order.
    pub same: Vec<usize>,
    /// Of a step's time, by the estimate.
    pub share: f64,
    /// Of one of its bundles, by the estimate.
    seconds: f64,
}

impl Structures {
    /// Errors: as of [`stage_bundles`].
    pub fn new(gpu: &Gpu, program: &Program) -> Result<Structures> {
        let caps = gpu.caps();
        let refused = |e: tinygpt_codegen_wgsl::Error| Error::input(traced(program, e));
        let stages: Vec<Vec<Bundle>> = (0..program.stages.len())
            .into_par_iter()
            .map(|stage| stage_bundles(program, stage, caps).map_err(refused))
            .collect::<Result<_>>()?;
        let bundles: Vec<Bundle> = stages.into_iter().flatten().collect();
        let default = |bundle: &Bundle| {
            let lacking = || Error::failed(format!("kernel {} has no variant", bundle.pieces[0].1.name));
            bundle.emit(caps, bundle.choices.first().ok_or_else(lacking)?).map_err(refused)
        };
        let defaults: Vec<Vec<Module>> = bundles.par_iter().map(default).collect::<Result<_>>()?;
        let estimates: Vec<f64> = bundles.par_iter().map(|bundle| contest::estimate(program, bundle, caps)).collect();
        let step: f64 = estimates.iter().sum();
        let mut list: Vec<Structure> = Vec::new();
        for (at, _) in bundles.iter().enumerate().filter(|(_, bundle)| bundle.choices.len() > 1) {
            let (key, seconds) = (defaults[at][0].hash, estimates[at]);
            match list.iter_mut().find(|other| other.key == key) {
                Some(other) => {
                    other.same.push(at);
                    other.share += seconds / step;
                }
                None => list.push(Structure { key, same: vec![at], share: seconds / step, seconds }),
            }
        }
        Ok(Structures { bundles, defaults, list })
    }

    /// The modules of each bundle, where each structure runs as `choice_of` says, or as its default.
    ///
    /// Errors: a choice that the program does not have.
    pub fn modules(
        &self,
        gpu: &Gpu,
        program: &Program,
        choice_of: impl Fn(&Structure) -> Option<Choice> + Sync,
    ) -> Result<Vec<Vec<Module>>> {
        let mut chosen = self.defaults.clone();
        let others: Vec<(usize, Choice)> = self
            .list
            .iter()
            .filter_map(|s| Some((s, choice_of(s).filter(|choice| *choice != self.bundles[s.same[0]].choices[0])?)))
            .flat_map(|(s, choice)| s.same.iter().map(move |at| (*at, choice.clone())))
            .collect();
        let emit = |(at, choice): &(usize, Choice)| Ok((*at, self.bundles[*at].emit(gpu.caps(), choice)?));
        let emitted: std::result::Result<Vec<_>, tinygpt_codegen_wgsl::Error> = others.par_iter().map(emit).collect();
        for (at, modules) in emitted.map_err(|e| Error::input(traced(program, e)))? {
            chosen[at] = modules;
        }
        Ok(chosen)
    }

    /// Whether times of a structure depend on its shapes alone, so that any values serve to measure it.
    pub fn measurable(&self, structure: &Structure) -> bool {
        let pieces = &self.bundles[structure.same[0]].pieces;
        pieces.iter().all(|(_, piece)| !matches!(piece.kind, KernelKind::Scatter(_)))
    }
}

/// The bundles of a program and their modules in order, each as the plan, the cache, a measurement or the default has it. The pipelines of most of them are
/// made.
pub(super) fn settle(
    gpu: &Gpu,
    program: &Program,
    units: &Units,
    pipelines: &mut Pipelines<'_>,
) -> Result<(Structures, Vec<Vec<Module>>)> {
    let start = Instant::now();
    let structures = Structures::new(gpu, program)?;
    let chosen = structures.modules(gpu, program, |s| gpu.tuner.choice(s.key))?;
    let unknown: Vec<&Structure> = structures.list.iter().filter(|s| gpu.tuner.choice(s.key).is_none()).collect();
    let measures = gpu.tuner.measures() && gpu.has_timestamps();
    if gpu.tuner.measures() && !measures && !unknown.is_empty() {
        let name = &gpu.report().name;
        gpu.tuner
            .note(format!("{name} has no timestamps (feature timestamp-query): kernels run in their default variants"));
    }
    let contests: Vec<Option<Contest>> = unknown
        .par_iter()
        .map(|s| {
            if !measures || !structures.measurable(s) {
                return Ok(None);
            }
            let field = contest::field(&structures.bundles[s.same[0]], s.seconds, s.share);
            Contest::new(gpu.caps(), &structures.bundles, &s.same, s.share, &field)
        })
        .collect::<std::result::Result<_, _>>()
        .map_err(|e| Error::input(traced(program, e)))?;
    let contested: Vec<bool> = contests.iter().map(Option::is_some).collect();
    let contests: Vec<Contest> = contests.into_iter().flatten().collect();
    tracing::debug!(
        bundles = structures.bundles.len(),
        unknown = unknown.len(),
        contests = contests.len(),
        took = ?start.elapsed(),
        "emitted modules"
    );
    let start = Instant::now();
    let outcomes = if contests.is_empty() {
        Vec::new()
    } else {
        let deadlines = Deadlines { compilation: start + COMPILATION, rounds: start + ROUNDS };
        gpu.scoped(|| contest::hold(gpu, units, pipelines, &chosen, &contests, deadlines))?
    };
    let measured = outcomes.iter().flatten().count();
    let mut outcomes = outcomes.into_iter();
    for (s, contested) in unknown.iter().zip(contested) {
        let winner = if contested { outcomes.next().flatten() } else { None };
        let default = || structures.bundles[s.same[0]].choices[0].clone();
        let known = winner.is_some();
        gpu.tuner.record(s.key, winner.map_or_else(default, |(choice, _)| choice), known);
    }
    if measured > 0 {
        gpu.tuner.save(measured, contests.len(), start.elapsed());
    }
    let chosen = if measured > 0 { structures.modules(gpu, program, |s| gpu.tuner.choice(s.key))? } else { chosen };
    Ok((structures, chosen))
}

/// Launches in order, with the kernels that each computes.
pub(super) type Launches = Vec<(Vec<KernelId>, Launch)>;

/// The launches of a whole program, and what was made for them. Bounds checks are left out if the caller says that the program verifier proved it.
pub(super) fn program(
    gpu: &Arc<Gpu>,
    program: &Program,
    units: &Units,
    proved: bool,
) -> Result<(Launches, GpuCounters)> {
    let mut pipelines = Pipelines::new(gpu, proved);
    let (structures, chosen) = settle(gpu, program, units, &mut pipelines)?;
    let modules: Vec<(Vec<KernelId>, Module)> =
        structures.bundles.iter().zip(chosen).flat_map(|(bundle, modules)| bundle.with_kernels(modules)).collect();
    let made = gpu.scoped(|| {
        let scratch = modules.iter().map(|(_, m)| m.scratch_bytes).max().unwrap_or(0);
        let mut binder = Binder::new(gpu, units, scratch)?;
        pipelines.make(&modules.iter().map(|(_, m)| (m, false)).collect::<Vec<_>>(), Instant::now())?;
        let mut launches = Vec::new();
        for (kernels, module) in &modules {
            let its = binder.launches(&pipelines, module)?;
            launches.extend(its.into_iter().map(|launch| (kernels.clone(), launch)));
        }
        let distinct: HashSet<(u64, &str)> =
            modules.iter().flat_map(|(_, m)| m.dispatches.iter().map(|d| (m.hash, d.entry.as_str()))).collect();
        let counters = GpuCounters {
            buffers: binder.buffers(),
            pipelines: distinct.len(),
            bind_groups: binder.groups(),
            submits: 0,
        };
        Ok((launches, counters))
    })?;
    if let Some(kept) = &gpu.kept
        && let Err(e) = kept.save()
    {
        gpu.tuner.note(format!("compiled kernels are not kept, since {e}"));
    }
    Ok(made)
}
