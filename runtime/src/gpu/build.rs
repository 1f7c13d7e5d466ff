//! From a program to launches: bundles, their variants, modules, pipelines and bind groups.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use rayon::prelude::*;
use tinygpt_codegen_wgsl::{Bundle, Choice, Module, Piece, stage_bundles};
use tinygpt_ir::program::{KernelId, KernelKind, Program};

use super::binder::{Binder, Launch, Units};
use super::contest::{self, Contest};
use super::device::Gpu;
use super::pipelines::Pipelines;
use crate::provenance::traced;
use crate::{Error, Result};

/// What an executor has made so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GpuCounters {
    pub buffers: usize,
    pub pipelines: usize,
    pub bind_groups: usize,
    pub submits: usize,
}

/// A structure that nothing is known of.
struct Unknown {
    /// Its default's hash.
    key: u64,
    /// The bundles that have it.
    same: Vec<usize>,
    /// Of a step's time, by the estimate.
    share: f64,
}

/// The modules of a program in order, each as the plan, the cache, a measurement or the default has it; with their kernels. The pipelines of most of
/// them are made.
fn modules(
    gpu: &Gpu,
    program: &Program,
    units: &Units,
    pipelines: &mut Pipelines<'_>,
) -> Result<Vec<(Vec<KernelId>, Module)>> {
    let start = Instant::now();
    let caps = gpu.caps();
    let refused = |e: tinygpt_codegen_wgsl::Error| Error::input(traced(program, e));
    let stages: Vec<Vec<Bundle>> = (0..program.stages.len())
        .into_par_iter()
        .map(|stage| stage_bundles(program, stage, caps).map_err(refused))
        .collect::<Result<_>>()?;
    let all: Vec<Bundle> = stages.into_iter().flatten().collect();
    let default = |bundle: &Bundle| {
        let lacking = || Error::failed(format!("kernel {} has no variant", bundle.pieces[0].1.name));
        bundle.emit(caps, bundle.choices.first().ok_or_else(lacking)?).map_err(refused)
    };
    let mut chosen: Vec<Vec<Module>> = all.par_iter().map(default).collect::<Result<_>>()?;
    let mut known: Vec<(usize, Choice)> = Vec::new();
    let mut unknown: Vec<Unknown> = Vec::new();
    let estimates: Vec<f64> = all.par_iter().map(|bundle| contest::estimate(program, bundle, caps)).collect();
    let step: f64 = estimates.iter().sum();
    for (at, bundle) in all.iter().enumerate().filter(|(_, bundle)| bundle.choices.len() > 1) {
        let (key, share) = (chosen[at][0].hash, estimates[at] / step);
        match gpu.tuner.choice(key) {
            Some(choice) if choice == bundle.choices[0] => {}
            Some(choice) => known.push((at, choice)),
            None => match unknown.iter_mut().find(|other| other.key == key) {
                Some(other) => {
                    other.same.push(at);
                    other.share += share;
                }
                None => unknown.push(Unknown { key, same: vec![at], share }),
            },
        }
    }
    let emitted: Vec<(usize, Vec<Module>)> = known
        .par_iter()
        .map(|(at, choice)| Ok((*at, all[*at].emit(caps, choice).map_err(refused)?)))
        .collect::<Result<_>>()?;
    for (at, modules) in emitted {
        chosen[at] = modules;
    }
    let contests: Vec<Option<Contest>> = unknown
        .par_iter()
        .map(|Unknown { same, share, .. }| {
            let (bundle, default) = (&all[same[0]], &chosen[same[0]]);
            let measured = gpu.tuner.measures() && bundle.pieces.iter().all(|(_, piece)| measurable(piece));
            let field = contest::field(bundle, estimates[same[0]], *share);
            if !measured || field.len() == 1 {
                return None;
            }
            // What the adapter's limits refuse takes no part.
            let others = field[1..].iter().filter_map(|c| Some(((*c).clone(), bundle.emit(caps, c).ok()?)));
            let entrants = std::iter::once((field[0].clone(), default.clone())).chain(others).collect();
            Some(Contest { entrants, share: *share })
        })
        .collect();
    let (contested, contests): (Vec<bool>, Vec<Option<Contest>>) =
        contests.into_iter().map(|c| (c.is_some(), c)).unzip();
    let contests: Vec<Contest> = contests.into_iter().flatten().collect();
    tracing::debug!(bundles = all.len(), unknown = unknown.len(), contests = contests.len(), took = ?start.elapsed(), "emitted modules");
    let start = Instant::now();
    let winners = if contests.is_empty() {
        Vec::new()
    } else {
        let needed: Vec<&Module> = chosen.iter().flatten().collect();
        gpu.scoped(|| contest::hold(gpu, units, pipelines, &needed, &contests))?
    };
    let measured = winners.iter().flatten().count();
    let mut winners = winners.into_iter();
    for (Unknown { key, same, .. }, contested) in unknown.iter().zip(contested) {
        let winner = if contested { winners.next().flatten() } else { None };
        let default = &all[same[0]].choices[0];
        gpu.tuner.record(*key, winner.as_ref().unwrap_or(default).clone(), winner.is_some());
        if let Some(choice) = winner.filter(|choice| choice != default) {
            for at in same {
                chosen[*at] = all[*at].emit(caps, &choice).map_err(refused)?;
            }
        }
    }
    if measured > 0 {
        gpu.tuner.save(measured, contests.len(), start.elapsed());
    }
    Ok(all.iter().zip(chosen).flat_map(|(bundle, modules)| bundle.with_kernels(modules)).collect())
}

/// Whether the time of a kernel depends on its shapes alone, so that any values serve to measure it.
fn measurable(piece: &Piece) -> bool {
    matches!(
        piece.kind,
        KernelKind::Contract(_) | KernelKind::Reduce(_) | KernelKind::Attention(_) | KernelKind::AttentionGrad(_)
    )
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
    let modules = modules(gpu, program, units, &mut pipelines)?;
    let made = gpu.scoped(|| {
        let scratch = modules.iter().map(|(_, m)| m.scratch_bytes).max().unwrap_or(0);
        let mut binder = Binder::new(gpu, units, scratch)?;
        pipelines.make(&modules.iter().map(|(_, m)| m).collect::<Vec<_>>())?;
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
