//! Contests: which of the ways to run a structure is the fastest on the device.
//!
//! Most of a cold start is the driver's compilation of ways that lose. So a structure gets the fewer of them the less of a step it takes by an estimate,
//! and those that the model holds for the best ([`Bundle::choices`]); what is compiled is timed while the rest still is.
//!
//! Invariants
//! - Who takes part depends on the program and the adapter alone, not on what is known already: so a later run asks no question that this one left.
//! - A contest is decided among those that were compiled in time, and its default always is one of them.
//! - The device runs at its full clock when entrants are timed, or the contest is held again.

use std::time::{Duration, Instant};

use tinygpt_codegen_wgsl::{Bundle, Caps, Choice, Module, Piece, Unit};
use tinygpt_ir::program::{KernelId, KernelKind, Program, kernel_stats};

use super::binder::{Binder, Launch, Units};
use super::device::Gpu;
use super::pipelines::{Beside, Pipelines};
use super::stopwatch::Stopwatch;
use crate::Result;

/// From the begin of compilation, when no further variant is compiled: what is not begun by then takes no part.
const COMPILATION: Duration = Duration::from_millis(1500);

/// From the begin of compilation, when no further contest begins: those that are left keep their defaults for this run.
const BUDGET: Duration = Duration::from_millis(3500);

/// Time for which the device is kept busy before the first contest: idle ones run at a fraction of their clock.
const WARM_UP: Duration = Duration::from_millis(300);

/// Time of the device for one measurement of a variant.
const TRIAL: Duration = Duration::from_millis(1);

/// Time of the device for a first look at one.
const LOOK: Duration = Duration::from_micros(250);

/// From one measurement to the next, how much longer than the fastest those take that stay, the last ones being twice measured.
const STAYS: [f64; 4] = [1.4, 1.12, 1.06, 1.06];

/// A measurement that much shorter than the same one before shows that the clock has risen.
const RISEN: f64 = 0.95;

/// How often a contest is held again because of that.
const AGAIN: usize = 3;

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
    /// The default first.
    pub entrants: Vec<(Choice, Vec<Module>)>,
    /// Of a step's time, by the estimate.
    pub share: f64,
}

/// Compiles `needed` and the entrants of `contests`, and holds the contests on the program's own buffers, whose values are lost. The winner of each; None
/// where there was no time.
pub(super) fn hold(
    gpu: &Gpu,
    units: &Units,
    pipelines: &mut Pipelines<'_>,
    needed: &[&Module],
    contests: &[Contest],
) -> Result<Vec<Option<Choice>>> {
    let start = Instant::now();
    let modules = || contests.iter().flat_map(|c| &c.entrants).flat_map(|(_, modules)| modules);
    let jobs = jobs(needed, contests);
    let mut order: Vec<usize> = (0..contests.len()).collect();
    order.sort_by(|a, b| contests[*b].share.total_cmp(&contests[*a].share));
    let mut binder = Binder::new(gpu, units, modules().map(|m| m.scratch_bytes).max().unwrap_or(0))?;
    let mut stage = Stage { watch: Stopwatch::new(gpu), gpu, warm: Duration::ZERO, end: start + BUDGET };
    let mut winners = vec![None; contests.len()];
    pipelines.make_beside(&jobs, start + COMPILATION, |pipelines, all| {
        let compiled = |(_, modules): &(Choice, Vec<Module>)| modules.iter().all(|module| pipelines.has(module));
        // By the host's clock, which compilation disturbs.
        if !stage.watch.has_stamps() && !all {
            return Ok(Beside::Idle);
        }
        loop {
            if Instant::now() >= stage.end {
                return Ok(Beside::Idle);
            }
            if stage.warm < WARM_UP || !order.iter().any(|at| all || contests[*at].entrants.iter().all(&compiled)) {
                let busy = order.iter().map(|at| &contests[*at].entrants[0]).find(|entrant| compiled(entrant));
                let Some((_, modules)) = busy else { return Ok(Beside::Idle) };
                stage.warm_up(&binder.all_launches(pipelines, modules)?)?;
                if !all {
                    return Ok(Beside::Busy);
                }
                continue;
            }
            let next = order.iter().position(|at| all || contests[*at].entrants.iter().all(&compiled));
            let Some(next) = next else { return Ok(Beside::Idle) };
            let at = order.remove(next);
            let present: Vec<&(Choice, Vec<Module>)> =
                contests[at].entrants.iter().filter(|entrant| compiled(entrant)).collect();
            let launches: Result<Vec<Vec<Launch>>> =
                present.iter().map(|(_, modules)| binder.all_launches(pipelines, modules)).collect();
            winners[at] = Some(present[stage.fastest(&launches?)?].0.clone());
            if !all {
                return Ok(Beside::Busy);
            }
        }
    })?;
    let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    for unit in modules().flat_map(|m| &m.bindings).filter(|b| b.write).map(|b| b.unit) {
        if let Unit::Storage(unit) = unit {
            encoder.clear_buffer(&units[&unit], 0, None);
        }
    }
    gpu.queue.submit([encoder.finish()]);
    tracing::debug!(contests = contests.len(), modules = jobs.len(), took = ?start.elapsed(), "held contests");
    Ok(winners)
}

/// What to compile, in this order, and whether it is for a contest alone: long code first, so that none is left for the end; then what is needed, and
/// then what is likely to win, in contests for the largest shares.
fn jobs<'a>(needed: &[&'a Module], contests: &'a [Contest]) -> Vec<(&'a Module, bool)> {
    let mut wished: Vec<(f64, &Module)> = Vec::new();
    for contest in contests {
        for (rank, (_, modules)) in contest.entrants.iter().enumerate().skip(1) {
            wished.extend(modules.iter().map(|module| (contest.share / (rank + 1) as f64, module)));
        }
    }
    wished.sort_by(|a, b| b.0.total_cmp(&a.0));
    let needed = needed.iter().map(|module| (*module, false));
    let mut jobs: Vec<(&Module, bool)> = needed.chain(wished.into_iter().map(|(_, module)| (module, true))).collect();
    let long = |m: &Module| m.code.len() * if m.cooperative { MATRIX_CODE } else { 1 } >= LONG;
    jobs.sort_by_key(|(module, _)| !long(module));
    jobs
}

/// Where contests are held.
struct Stage<'a> {
    watch: Stopwatch,
    gpu: &'a Gpu,
    /// How long the device has been busy.
    warm: Duration,
    /// When no further contest begins.
    end: Instant,
}

impl Stage<'_> {
    fn time(&self, launches: &[Launch], runs: u32) -> Result<Duration> {
        self.watch.time(self.gpu, launches, runs)
    }

    /// Keeps the device busy for a while.
    fn warm_up(&mut self, launches: &[Launch]) -> Result<()> {
        let start = Instant::now();
        while start.elapsed() < 4 * TRIAL {
            self.time(launches, 20)?;
        }
        self.warm += start.elapsed();
        Ok(())
    }

    /// The number of the fastest. All are looked at, and those that are not far behind are timed in turns.
    fn fastest(&self, entrants: &[Vec<Launch>]) -> Result<usize> {
        let mut best = 0;
        for _ in 0..AGAIN {
            let reference = self.first(&entrants[0], TRIAL)?;
            let mut times = vec![reference];
            for launches in &entrants[1..] {
                times.push(self.first(launches, LOOK)?);
            }
            let mut stay: Vec<usize> = (0..entrants.len()).collect();
            let fastest =
                |stay: &[usize], times: &[Duration]| stay.iter().copied().min_by_key(|at| times[*at]).unwrap_or(0);
            for slower in STAYS {
                let least = times[fastest(&stay, &times)].as_secs_f64();
                stay.retain(|at| times[*at].as_secs_f64() <= least * slower);
                if stay.len() == 1 {
                    break;
                }
                for at in &stay {
                    times[*at] = times[*at].min(self.timed(&entrants[*at], times[*at], TRIAL)?);
                }
            }
            best = fastest(&stay, &times);
            tracing::trace!(?times, best, "held a contest");
            let after = self.timed(&entrants[0], reference, TRIAL)?;
            if after.as_secs_f64() >= RISEN * reference.as_secs_f64() || Instant::now() >= self.end {
                break;
            }
        }
        Ok(best)
    }

    /// Time of a run, in the mean of so many that they take `whole`, a run taking about `once`.
    fn timed(&self, launches: &[Launch], once: Duration, whole: Duration) -> Result<Duration> {
        let runs = (whole.as_secs_f64() / once.as_secs_f64().max(1e-7)).clamp(1.0, 200.0) as u32;
        Ok(self.time(launches, runs)? / runs)
    }
    /// The same of launches that did not run before: a short first run is not counted, since it fills caches.
    fn first(&self, launches: &[Launch], whole: Duration) -> Result<Duration> {
        let once = self.time(launches, 1)?;
        if once > 2 * TRIAL { Ok(once) } else { self.timed(launches, once, whole) }
    }
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
