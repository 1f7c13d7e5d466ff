//! The CPU executor: a prepared program, its memory and the workers that run it.
//!
//! A step is the program's rounds in order. In a round every worker takes the next task that nobody has taken, until there is none; the next
//! round begins when the last task has ended. Rounds of one task, or too short to be worth a meeting, are worker 0's alone, several in a row:
//! decoding a token has many. Which worker runs a task never matters to its result, and the tasks of a round touch disjoint memory, so results are
//! bit-equal for any number of threads.
//!
//! Invariants
//! - All memory is allocated by [`CpuExecutor::new`]; `write`, `read_into` and `step` allocate nothing.
//! - Temporaries lie in one slab at the offsets of the program's plan; inputs, states and outputs have buffers of their own.
//! - A task is taken when all earlier rounds have ended.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tinygpt_codegen_cpu::compile::{Bound, CpuOptions, PreparedProgram, Report, SCRATCH_ALIGN};
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

/// One aligned piece of memory.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Line([u8; 64]);

/// Zeroed memory, aligned to 64 bytes.
struct Memory(Vec<Line>);

impl Memory {
    /// Errors: more than there is.
    fn new(bytes: usize) -> Result<Memory> {
        let lines = bytes.div_ceil(64);
        // Asked for and given back, since what follows cannot fail but by ending the process; it is zeroed by the system, page by page.
        Vec::<Line>::new().try_reserve_exact(lines).map_err(|_| memory::refused(bytes as u64))?;
        Ok(Memory(vec![Line([0; 64]); lines]))
    }

    fn ptr(&mut self) -> *mut u8 {
        self.0.as_mut_ptr().cast()
    }
}

const _: () = assert!(SCRATCH_ALIGN <= 64);

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
    /// Counters of taken and of ended tasks, one a span.
    taken: Vec<AtomicUsize>,
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
        let mut slab = Memory::new(program.memory.planned)?;
        let mut memory = Vec::new();
        let mut addresses = Vec::with_capacity(program.buffers.len());
        for (_, buffer) in program.buffers.iter() {
            addresses.push(match buffer.place {
                // SAFETY: the plan's offsets lie within the slab, whose size it states.
                Place::Slab(offset) => unsafe { slab.ptr().add(offset) },
                Place::Own => {
                    memory.push(Memory::new(buffer.bytes())?);
                    let last = memory.len() - 1;
                    memory[last].ptr()
                }
                Place::Slot(_) | Place::Pack { .. } => {
                    return Err(Error::input(format!(
                        "program {} was placed in slots, and the CPU runs programs placed in a slab: compile it for the CPU",
                        program.name
                    )));
                }
            });
        }
        memory.push(slab);
        // SAFETY: every address is that of memory of the buffer's size, kept in `_memory` as long as `bound`; temporaries overlap as planned.
        let bound = unsafe { prepared.bind(&addresses) }.map_err(|e| Error::input(e.to_string()))?;
        let workers = Workers::new(threads).map_err(Error::input)?;
        let mut scratch = Vec::new();
        for _ in 0..workers.threads() {
            memory.push(Memory::new(prepared.scratch_bytes())?);
            let last = memory.len() - 1;
            scratch.push(ScratchPtr(memory[last].ptr()));
        }
        let at = slot_buffers.iter().map(|b| (addresses[b.index()], program.buffers[*b].bytes())).collect();
        let spans = spans((0..bound.rounds()).map(|round| (bound.tasks(round), bound.cost(round))), workers.threads());
        let progress = workers.progress();
        let [taken, ended] = [(); 2].map(|()| spans.iter().map(|_| AtomicUsize::new(0)).collect());
        Ok(CpuExecutor {
            program,
            report: prepared.report(),
            bound,
            workers,
            slots,
            at,
            spans,
            progress,
            taken,
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
        Ok(Timeline { tracks, step_ns, regions })
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
        for counter in self.taken.iter().chain(&self.ended) {
            counter.store(0, Ordering::Relaxed);
        }
        self.progress.reset();
        let CpuExecutor { bound, spans, progress, taken, ended, scratch, .. } = self;
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
            for (i, span) in spans.iter().enumerate() {
                progress.wait_for(i);
                match span {
                    Span::Alone(rounds) if worker == 0 => {
                        alone(rounds);
                        progress.advance();
                    }
                    Span::Alone(_) => {}
                    Span::Shared(round) => {
                        let tasks = bound.tasks(*round);
                        loop {
                            let task = taken[i].fetch_add(1, Ordering::Relaxed);
                            if task >= tasks {
                                break;
                            }
                            // SAFETY: all earlier spans have ended, the counter hands each task out once, the scratch is this worker's, and the
                            // executor owns all buffers and is borrowed mutably.
                            watch.around(worker, bound.kernel(*round, task), || unsafe {
                                bound.run(*round, task, scratch[worker].0);
                            });
                            // Whoever ends the last task has seen the end of the others.
                            if ended[i].fetch_add(1, Ordering::AcqRel) + 1 == tasks {
                                progress.advance();
                            }
                        }
                    }
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
    fn short_rounds_and_single_tasks_are_one_workers_in_a_row() {
        let long = 10.0 * ALONE_NS;
        let rounds = [(1, long), (4, 1.0), (2, long), (2, long), (9, 1.0), (1, 1.0), (3, long)];
        let expected = [Span::Alone(0..2), Span::Shared(2), Span::Shared(3), Span::Alone(4..6), Span::Shared(6)];
        assert_eq!(spans(rounds, 2), expected);
        assert_eq!(spans(rounds, 1), [Span::Alone(0..7)]);
        assert_eq!(spans([], 2), []);
    }
}
