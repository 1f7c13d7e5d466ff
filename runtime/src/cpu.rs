//! The CPU executor: a prepared program, its memory and the workers that run it.
//!
//! A step is the program's rounds in order. In a round each worker first does the tasks of its own share of every kernel's work, the same rows
//! in one kernel as in the next, so that most of what it reads is in its own caches; then it takes from the others' shares what nobody has taken.
//! The next round begins when the last task has ended. Rounds of one task, or too short to be worth a meeting, are worker 0's alone, several in a row:
//! decoding a token has many. Which worker runs a task never matters to its result, and the tasks of a round touch disjoint memory, so results are
//! bit-equal for any number of threads.
//!
//! Invariants
//! - All memory is allocated by [`CpuExecutor::new`]; `write`, `read_into` and `step` allocate nothing.
//! - Temporaries lie in one slab at the offsets of the program's plan; inputs, states and outputs lie one after another in a piece of their own.
//! - A task is taken when all earlier rounds have ended.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tinygpt_codegen_cpu::compile::{Bound, CpuOptions, PreparedProgram, Report};
use tinygpt_codegen_cpu::memory::{ALIGN, Memory};
use tinygpt_ir::program::{BufferId, KernelId, Place, Program};

use crate::executor::{Executor, MemoryReport, Region, Role, Slot, Slots, Timeline};
use crate::provenance::traced;
use crate::tensor::{DType, HostTensor};
use crate::workers::{Progress, Workers};
use crate::{Error, Result, memory};

/// Estimated nanoseconds of a round on one thread below which it is worker 0's alone.
const ALONE_NS: f64 = 4_000.0;

/// Rounds whose end everyone waits for at once.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Span {
    /// Of worker 0.
    Alone(Range<usize>),
    /// Of all workers.
    Shared(usize),
}

/// The spans of a step, given each round's number of tasks and its cost.
fn spans(rounds: impl IntoIterator<Item = (usize, f64)>, threads: usize) -> Vec<Span> {
    let mut out: Vec<Span> = Vec::new();
    for (round, (tasks, cost)) in rounds.into_iter().enumerate() {
        let alone = threads == 1 || tasks <= 1 || cost < ALONE_NS;
        match out.last_mut() {
            Some(Span::Alone(range)) if alone => range.end = round + 1,
            _ if alone => out.push(Span::Alone(round..round + 1)),
            _ => out.push(Span::Shared(round)),
        }
    }
    out
}

/// The tasks of a round by the worker that they are meant for.
struct Shares {
    /// Tasks, those of worker 0 first, each worker's in the order of the round.
    order: Vec<u32>,
    /// For each worker, the next of its tasks that nobody has taken: an index into `order`.
    next: Vec<AtomicUsize>,
    /// For each worker, the range of its tasks in `order`.
    ranges: Vec<Range<usize>>,
}

impl Shares {
    /// Tasks at `positions` from 0 to 1, for so many workers.
    fn new(positions: impl Iterator<Item = f64> + Clone, workers: usize) -> Shares {
        let owner = |position: f64| ((position * workers as f64) as usize).min(workers - 1);
        let mut shares = Shares { order: Vec::new(), next: Vec::new(), ranges: Vec::new() };
        for worker in 0..workers {
            let start = shares.order.len();
            let own = positions.clone().enumerate().filter(|(_, position)| owner(*position) == worker);
            shares.order.extend(own.map(|(task, _)| task as u32));
            shares.ranges.push(start..shares.order.len());
            shares.next.push(AtomicUsize::new(start));
        }
        shares
    }

    fn reset(&self) {
        for (next, range) in self.next.iter().zip(&self.ranges) {
            next.store(range.start, Ordering::Relaxed);
        }
    }

    /// Calls `task` with each task that this worker takes, until all tasks of the round are taken.
    fn take(&self, worker: usize, mut task: impl FnMut(usize)) {
        let workers = self.ranges.len();
        for of in (worker..workers).chain(0..worker) {
            loop {
                let at = self.next[of].fetch_add(1, Ordering::Relaxed);
                if at >= self.ranges[of].end {
                    break;
                }
                task(self.order[at] as usize);
            }
        }
    }
}

/// Zeroed memory for running.
///
/// # Errors
/// More than there is.
fn allocate(bytes: usize) -> Result<Memory> {
    Memory::new(bytes).map_err(|_| memory::refused(bytes as u64))
}

/// Runs a program on this processor.
pub struct CpuExecutor {
    program: Arc<Program>,
    report: Report,
    bound: Bound,
    workers: Workers,
    slots: Slots,
    /// Address and bytes of each slot's buffer, in the order of `slots`.
    at: Vec<(*mut u8, usize)>,
    spans: Vec<Span>,
    /// Counts the spans that have ended.
    progress: Progress,
    /// The tasks of each span by worker; None for worker 0's alone.
    shares: Vec<Option<Shares>>,
    /// Counters of ended tasks, one a span.
    ended: Vec<AtomicUsize>,
    /// Scratch of each worker.
    scratch: Vec<ScratchPtr>,
    /// Keeps the memory that `bound` points into.
    _memory: Vec<Memory>,
}

// SAFETY: the pointers lead into memory that the executor owns; it is used through `&mut self` only, and within a step by the workers that
// `Workers::run` joins.
unsafe impl Send for CpuExecutor {}

/// Slots of a program: inputs and states, then outputs.
pub fn slots_of(program: &Program) -> Result<(Slots, Vec<BufferId>)> {
    let dtype = |d: tinygpt_ir::DType| match d {
        tinygpt_ir::DType::F32 => DType::F32,
        tinygpt_ir::DType::F16 => DType::F16,
        tinygpt_ir::DType::I32 => DType::I32,
        tinygpt_ir::DType::U32 => DType::U32,
        tinygpt_ir::DType::Bool => DType::Bool,
    };
    let params = program.params.iter().map(|p| {
        let role = match p.kind {
            tinygpt_ir::ParamKind::Input => Role::Input,
            tinygpt_ir::ParamKind::State { .. } => Role::State,
        };
        (Slot::new(&p.name, role, dtype(p.ty.dtype), &p.ty.shape), p.buffer)
    });
    let outputs =
        program.outputs.iter().map(|o| (Slot::new(&o.name, Role::Output, dtype(o.ty.dtype), &o.ty.shape), o.buffer));
    let (slots, buffers) = params.chain(outputs).unzip::<_, _, Vec<_>, Vec<_>>();
    Ok((Slots::new(slots)?, buffers))
}

impl CpuExecutor {
    /// Compiles `program` and allocates its memory for `threads` workers.
    ///
    /// # Errors
    /// What code generation refuses, or a system that cannot start the threads.
    pub fn new(program: Arc<Program>, options: &CpuOptions, threads: usize) -> Result<CpuExecutor> {
        let prepared = PreparedProgram::new(&program, options).map_err(|e| Error::input(traced(&program, e)))?;
        let prepared = Arc::new(prepared);
        let (slots, slot_buffers) = slots_of(&program)?;
        let own =
            program.buffers.values().filter(|buffer| buffer.place == Place::Own).map(|buffer| buffer.bytes() as u64);
        memory::check(own.sum::<u64>() + program.memory.planned as u64, &format!("program {}", program.name))?;
        let aligned = |bytes: usize| bytes.next_multiple_of(ALIGN);
        let own = program.buffers.values().filter(|buffer| buffer.place == Place::Own);
        let mut own = allocate(own.map(|buffer| aligned(buffer.bytes())).sum())?;
        let mut slab = allocate(program.memory.planned)?;
        let mut end = 0;
        let mut addresses = Vec::with_capacity(program.buffers.len());
        for (_, buffer) in program.buffers.iter() {
            addresses.push(match buffer.place {
                // SAFETY: the plan's offsets lie within the slab, whose size it states.
                Place::Slab(offset) => unsafe { slab.ptr().add(offset) },
                Place::Own => {
                    let start = end;
                    end += aligned(buffer.bytes());
                    // SAFETY: the piece is as long as all such buffers together.
                    unsafe { own.ptr().add(start) }
                }
                Place::Slot(_) | Place::Pack { .. } => {
                    return Err(Error::input(format!(
                        "program {} was placed in slots, and the CPU runs programs placed in a slab: compile it for the CPU",
                        program.name
                    )));
                }
            });
        }
        let mut memory = vec![own, slab];
        // SAFETY: every address is that of memory of the buffer's size, kept in `_memory` as long as `bound`; temporaries overlap as planned.
        let bound = unsafe { prepared.bind(&addresses) }.map_err(|e| Error::input(e.to_string()))?;
        let workers = Workers::new(threads).map_err(Error::input)?;
        let mut scratch = Vec::new();
        for _ in 0..workers.threads() {
            memory.push(allocate(prepared.scratch_bytes())?);
            let last = memory.len() - 1;
            scratch.push(ScratchPtr(memory[last].ptr()));
        }
        let at = slot_buffers.iter().map(|b| (addresses[b.index()], program.buffers[*b].bytes())).collect();
        let spans = spans((0..bound.rounds()).map(|round| (bound.tasks(round), bound.cost(round))), workers.threads());
        let progress = workers.progress();
        let shares = spans.iter().map(|span| match span {
            Span::Alone(_) => None,
            Span::Shared(round) => {
                let positions = (0..bound.tasks(*round)).map(|task| bound.position(*round, task));
                Some(Shares::new(positions, workers.threads()))
            }
        });
        let shares = shares.collect();
        let ended = spans.iter().map(|_| AtomicUsize::new(0)).collect();
        Ok(CpuExecutor {
            program,
            report: prepared.report(),
            bound,
            workers,
            slots,
            at,
            spans,
            progress,
            shares,
            ended,
            scratch,
            _memory: memory,
        })
    }
}

/// Scratch of one worker.
struct ScratchPtr(*mut u8);

// SAFETY: each worker uses only the entry of its own number.
unsafe impl Sync for ScratchPtr {}

impl Executor for CpuExecutor {
    fn backend(&self) -> &'static str {
        "cpu"
    }

    fn slots(&self) -> &Slots {
        &self.slots
    }

    fn memory(&self) -> MemoryReport {
        let own: usize = self.at.iter().map(|(_, bytes)| bytes).sum();
        let states = self.slots.iter().zip(&self.at).filter(|(s, _)| s.role == Role::State).map(|(_, a)| a.1).sum();
        MemoryReport {
            planned_bytes: own + self.program.memory.planned,
            lower_bound_bytes: own + self.program.memory.lower_bound,
            state_bytes: states,
        }
    }

    fn write(&mut self, name: &str, value: &HostTensor) -> Result<()> {
        let at = self.slots.check_write(name, value)?;
        let (to, bytes) = self.at[at];
        // SAFETY: the slot's buffer has `bytes` bytes and nobody else uses it between steps.
        let to = unsafe { std::slice::from_raw_parts_mut(to, bytes) };
        copy_in(value, to);
        Ok(())
    }

    fn read_into(&mut self, name: &str, value: &mut HostTensor) -> Result<()> {
        let at = self.slots.check_read(name, value)?;
        let (from, bytes) = self.at[at];
        // SAFETY: as for `write`.
        let from = unsafe { std::slice::from_raw_parts(from, bytes) };
        copy_out(from, value)
    }

    fn step(&mut self) -> Result<()> {
        self.run(&NoClock);
        Ok(())
    }

    fn step_clocked(&mut self) -> Result<Timeline> {
        let tracks = self.workers.threads();
        let clock = Clock { start: Instant::now(), regions: (0..tracks).map(|_| Mutex::default()).collect() };
        self.run(&clock);
        let step_ns = clock.start.elapsed().as_nanos() as u64;
        let mut regions = Vec::new();
        for own in clock.regions {
            regions.append(&mut own.into_inner().unwrap_or_else(PoisonError::into_inner));
        }
        regions.sort_by_key(|r: &Region| (r.start_ns, r.track));
        Ok(Timeline { tracks, step_ns, regions, together: Vec::new() })
    }

    fn code_report(&self) -> Option<String> {
        let r = self.report;
        Some(format!(
            "{} kernels, {} of different structure; {} functions compiled; lowering {:.1} ms, compiling {:.1} ms",
            r.kernels,
            r.distinct_kernels,
            r.compiled,
            r.lowering.as_secs_f64() * 1e3,
            r.compiling.as_secs_f64() * 1e3
        ))
    }
}

/// Looks at a clock around tasks, or does not.
trait Watch: Sync {
    /// Runs one task of a worker.
    fn around(&self, worker: usize, kernel: KernelId, task: impl FnOnce());
}

/// Costs nothing.
struct NoClock;

impl Watch for NoClock {
    fn around(&self, _: usize, _: KernelId, task: impl FnOnce()) {
        task();
    }
}

/// Writes down when each task ran.
struct Clock {
    start: Instant,
    /// By worker; the locks are never waited for.
    regions: Vec<Mutex<Vec<Region>>>,
}

impl Watch for Clock {
    fn around(&self, worker: usize, kernel: KernelId, task: impl FnOnce()) {
        let now = || self.start.elapsed().as_nanos() as u64;
        let start_ns = now();
        task();
        let region = Region { kernel, track: worker, start_ns, end_ns: now() };
        // A poisoned lock means that a worker panicked, which ends the process.
        self.regions[worker].lock().unwrap_or_else(PoisonError::into_inner).push(region);
    }
}

impl CpuExecutor {
    /// One step.
    fn run(&mut self, watch: &impl Watch) {
        for counter in &self.ended {
            counter.store(0, Ordering::Relaxed);
        }
        self.shares.iter().flatten().for_each(Shares::reset);
        self.progress.reset();
        let CpuExecutor { bound, spans, progress, shares, ended, scratch, .. } = self;
        let alone = |rounds: &Range<usize>| {
            for round in rounds.clone() {
                for task in 0..bound.tasks(round) {
                    // SAFETY: only worker 0 comes here, with its own scratch, after all earlier spans have ended; the executor owns all buffers and
                    // is borrowed mutably.
                    watch.around(0, bound.kernel(round, task), || unsafe { bound.run(round, task, scratch[0].0) });
                }
            }
        };
        if let [Span::Alone(rounds)] = &spans[..] {
            return alone(rounds);
        }
        self.workers.run(&|worker| {
            for (i, (span, shares)) in spans.iter().zip(shares.iter()).enumerate() {
                progress.wait_for(i);
                match (span, shares) {
                    (Span::Alone(rounds), _) if worker == 0 => {
                        alone(rounds);
                        progress.advance();
                    }
                    (Span::Shared(round), Some(shares)) => shares.take(worker, |task| {
                        // SAFETY: all earlier spans have ended, each task is taken once, the scratch is this worker's, and the executor owns
                        // all buffers and is borrowed mutably.
                        watch.around(worker, bound.kernel(*round, task), || unsafe {
                            bound.run(*round, task, scratch[worker].0);
                        });
                        // Whoever ends the last task has seen the end of the others.
                        if ended[i].fetch_add(1, Ordering::AcqRel) + 1 == bound.tasks(*round) {
                            progress.advance();
                        }
                    }),
                    _ => {}
                }
            }
        });
    }
}

/// Truth values take four bytes in a program's buffers and one on the host.
fn copy_in(value: &HostTensor, to: &mut [u8]) {
    match value.dtype() {
        DType::Bool => {
            for (to, x) in to.chunks_exact_mut(4).zip(value.bytes()) {
                to.copy_from_slice(&u32::from(*x != 0).to_ne_bytes());
            }
        }
        _ => to.copy_from_slice(value.bytes()),
    }
}

fn copy_out(from: &[u8], value: &mut HostTensor) -> Result<()> {
    match value.dtype() {
        DType::Bool => {
            value.as_bool_mut()?.iter_mut().zip(from.chunks_exact(4)).for_each(|(to, word)| *to = word[0] != 0)
        }
        _ => value.fill_from_bytes(from),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_is_taken_once_and_own_ones_first() {
        let positions = [0.9, 0.1, 0.5, 0.0, 1.0, 0.3];
        let shares = Shares::new(positions.into_iter(), 2);
        for _ in 0..2 {
            shares.reset();
            let mut taken = Vec::new();
            shares.take(1, |task| {
                taken.push(task);
                if task == 4 {
                    // The other worker comes while this one still has tasks.
                    shares.take(0, |task| taken.push(10 + task));
                }
            });
            assert_eq!(taken, [0, 2, 4, 11, 13, 15]);
        }
        let shares = Shares::new(positions.into_iter(), 3);
        let mut taken = Vec::new();
        shares.take(2, |task| taken.push(task));
        assert_eq!(taken, [0, 4, 1, 3, 5, 2]);
    }

    #[test]
    fn short_rounds_and_single_tasks_are_one_workers_in_a_row() {
        let long = 10.0 * ALONE_NS;
        let rounds = [(1, long), (4, 1.0), (2, long), (2, long), (9, 1.0), (1, 1.0), (3, long)];
        let expected = [Span::Alone(0..2), Span::Shared(2), Span::Shared(3), Span::Alone(4..6), Span::Shared(6)];
        assert_eq!(spans(rounds, 2), expected);
        assert_eq!(spans(rounds, 1), [Span::Alone(0..7)]);
        assert_eq!(spans([], 2), []);
    }
}
