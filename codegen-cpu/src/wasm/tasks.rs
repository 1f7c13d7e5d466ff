//! The rounds of a program as runs of alike tasks.
//!
//! A round is what may run at once. Its tasks are calls of kernel functions; a kernel's tasks are the same call with other ranges, so
//! they become one *run*: the call, once, with ranges that are computed from the task's number or looked up in a table.
//!
//! Invariants
//! - Tasks depend on the program alone, never on threads.
//! - Small calls that stand alone share a task.

use crate::lower::{BufRef, Lowered};
use crate::units::Distinct;
use std::collections::HashMap;
use tinygpt_ir::program::Program;

/// Estimated nanoseconds of work below which calls share a task.
const TASK_NS: f64 = 20_000.0;
/// Estimated nanoseconds of work of a round that other threads are called for: a few times what meeting them costs.
const PARALLEL_NS: f64 = 8_000.0;

/// A call of a function of the module.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// Number of the program's kernel.
    pub kernel: usize,
    /// Number of the function among the module's kernel functions.
    pub func: usize,
    /// Where its buffers are.
    pub bufs: Vec<Buf>,
}

/// What a buffer of a call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Buf {
    /// A buffer of the program, by number.
    Program(usize),
    /// Memory that tasks share: byte offset in the arena.
    Shared(usize),
}

/// Tasks that differ only in the parameters of their calls.
#[derive(Debug)]
pub struct Run {
    pub tasks: usize,
    /// The calls of each task.
    pub calls: Vec<Call>,
    /// For each call and parameter the values in all tasks.
    pub params: Vec<Vec<Vec<i64>>>,
    /// Cost of one task in nanoseconds.
    cost: f64,
}

/// Runs between two barriers.
#[derive(Debug)]
pub struct Round {
    pub stage: usize,
    pub phase: usize,
    /// The costliest tasks first: they must not be what everyone waits for.
    pub runs: Vec<Run>,
    /// Whether it is worth calling the other threads.
    pub parallel: bool,
}

impl Round {
    pub fn tasks(&self) -> usize {
        self.runs.iter().map(|r| r.tasks).sum()
    }
}

/// The rounds of a program. `lowered` and `funcs` give each unit's code and the numbers of its functions; `shared` each kernel's
/// offsets in the arena.
pub fn rounds(
    program: &Program,
    distinct: &Distinct,
    lowered: &[&Lowered],
    funcs: &[&[usize]],
    shared: &[Vec<usize>],
) -> Vec<Round> {
    let places = crate::units::rounds(&program.stages, |k| lowered[distinct.of[k]].phases.len());
    let round = |(stage, phase): (usize, usize)| {
        let mut runs: Vec<Run> = Vec::new();
        for id in program.stage_kernels(stage) {
            let k = id.index();
            let unit = distinct.of[k];
            let args = &program.kernels[id].args;
            let first = runs.len();
            for call in lowered[unit].phases.get(phase).into_iter().flatten() {
                let bufs = call.bufs.iter().map(|r| match r {
                    BufRef::Arg(a) => Buf::Program(args[*a].buffer.index()),
                    BufRef::Shared(n) => Buf::Shared(shared[k][*n]),
                    BufRef::Tile => unreachable!("only epilogues of native templates have a tile"),
                });
                let (func, bufs): (usize, Vec<Buf>) = (funcs[unit][call.func], bufs.collect());
                match runs[first..].last_mut() {
                    Some(run) if run.calls[0].func == func && run.calls[0].bufs == bufs => {
                        run.tasks += 1;
                        run.params[0].iter_mut().zip(&call.params).for_each(|(all, p)| all.push(*p));
                        run.cost = run.cost.max(call.cost);
                    }
                    _ => runs.push(Run {
                        tasks: 1,
                        params: vec![call.params.iter().map(|p| vec![*p]).collect()],
                        calls: vec![Call { kernel: k, func, bufs }],
                        cost: call.cost,
                    }),
                }
            }
        }
        let mut runs = joined(runs);
        runs.sort_by(|a, b| b.cost.total_cmp(&a.cost)); // stable: equal costs keep the program's order
        let cost: f64 = runs.iter().map(|r| r.cost * r.tasks as f64).sum();
        let tasks: usize = runs.iter().map(|r| r.tasks).sum();
        Round { stage, phase, runs, parallel: tasks > 1 && cost > PARALLEL_NS }
    };
    places.into_iter().map(round).collect()
}

/// Joins small calls that stand alone to tasks.
fn joined(runs: Vec<Run>) -> Vec<Run> {
    let mut out: Vec<Run> = Vec::new();
    for run in runs {
        match out.last_mut() {
            Some(last) if run.tasks == 1 && last.tasks == 1 && last.cost + run.cost <= TASK_NS => {
                last.calls.extend(run.calls);
                last.params.extend(run.params);
                last.cost += run.cost;
            }
            _ => out.push(run),
        }
    }
    out
}

/// A parameter of a call as a function of the task's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Param {
    Const(i64),
    /// `start + task * step`.
    Linear {
        start: i64,
        step: i64,
    },
    /// The word at this offset of the tables, and those that follow.
    Table(usize),
}

/// The tables of a module: words that tasks look their ranges up in. Equal columns are one.
#[derive(Default)]
pub struct Tables {
    pub words: Vec<u32>,
    known: HashMap<Vec<u32>, usize>,
}

impl Tables {
    /// The values of a parameter in all tasks. None if one does not fit a word.
    pub fn param(&mut self, values: &[i64]) -> Option<Param> {
        let start = values[0];
        let step = values.get(1).map_or(0, |next| next - start);
        if values.iter().enumerate().all(|(i, &v)| v == start + step * i as i64) {
            return Some(if step == 0 { Param::Const(start) } else { Param::Linear { start, step } });
        }
        let column: Vec<u32> = values.iter().map(|&v| u32::try_from(v)).collect::<Result<_, _>>().ok()?;
        let words = &mut self.words;
        let at = *self.known.entry(column).or_insert_with_key(|column| {
            words.extend(column);
            words.len() - column.len()
        });
        Some(Param::Table(4 * at))
    }
}
