//! From a training or inference graph to a placed program: the passes fuse, schedule and memory, in that order.
//!
//! Invariants
//! - Each pass is a pure function of what it is given; the program depends on the graph and the target alone.
//! - What each pass did is recorded with its time, and its result as text if asked for: the counterpart of [`crate::pass::Run`].

use std::time::Duration;

use tinygpt_ir::clock::Clock;
use tinygpt_ir::program::{Kernel, KernelId, MemoryPlan, PlacementPolicy, Program, TargetModel};
use tinygpt_ir::{Arena, Graph};

use crate::fuse::{self, Draft};
use crate::{memory, schedule};

/// The passes to a program, in order: name and what each does.
pub const PASSES: [(&str, &str); 3] = [
    ("fuse", "groups nodes into kernels over buffers"),
    ("schedule", "orders the kernels and groups them in stages between barriers"),
    ("memory", "places temporaries in bytes that they share over time"),
];

/// What one pass did.
#[derive(Clone, Debug)]
pub struct Step {
    pub name: &'static str,
    /// None where there is no clock.
    pub time: Option<Duration>,
    /// One phrase, with numbers.
    pub did: String,
    /// The program after the pass, if asked for. After `fuse` it has no stages, before `memory` no places.
    pub program: Option<Program>,
}

/// A program and how it was made.
#[derive(Clone, Debug)]
pub struct Lowered {
    pub program: Program,
    pub steps: Vec<Step>,
}

/// Fuses, schedules and places `graph`, which holds primitives and kernel-carrying composites only.
///
/// Errors: one sentence on what has no kernel.
pub fn to_program(graph: &Graph, target: &TargetModel, fusion: bool) -> Result<Program, String> {
    Ok(lower(graph, target, fusion, false)?.program)
}

/// [`to_program`] with a record of its passes; with `fusion` off each node has a kernel of its own. With `keep` the record has the
/// program after each pass.
///
/// Errors: one sentence on what has no kernel.
pub fn lower(graph: &Graph, target: &TargetModel, fusion: bool, keep: bool) -> Result<Lowered, String> {
    let mut steps = Vec::new();
    let mut record = |name: &'static str, start: Clock, did: String, program: &Program| {
        let time = start.elapsed();
        steps.push(Step { name, time, did, program: keep.then(|| program.clone()) });
    };
    let start = Clock::start();
    let (mut program, did) = fuse(graph, target, fusion)?;
    record(PASSES[0].0, start, did, &program);

    let start = Clock::start();
    let did = schedule(&mut program)?;
    record(PASSES[1].0, start, did, &program);

    let start = Clock::start();
    let did = place(&mut program);
    record(PASSES[2].0, start, did, &program);
    Ok(Lowered { program, steps })
}

/// The pass `fuse`: a program whose kernels have no stages and whose temporaries have no places, and what was done.
///
/// Errors: one sentence on what has no kernel.
pub fn fuse(graph: &Graph, target: &TargetModel, fusion: bool) -> Result<(Program, String), String> {
    let draft = fuse::fuse(graph, target, fusion)?;
    let live = graph.live().iter().filter(|l| **l).count();
    let retries = match draft.retries {
        0 => String::new(),
        n => format!("; {n} more values stored, or states written through a temporary, than first planned"),
    };
    let did = format!("{live} nodes to {} kernels{retries}", draft.kernels.len());
    Ok((assemble(draft, target), did))
}

/// The pass `schedule`: kernels without stages get order and stages. Says what was done.
///
/// Errors: one sentence if dependencies are circular, which is a fault of fusion.
pub fn schedule(program: &mut Program) -> Result<String, String> {
    schedule::schedule(program)?;
    Ok(format!("{} stages", program.stages.len()))
}

/// The pass `memory`: temporaries of a program with stages get bytes. Says what was done.
pub fn place(program: &mut Program) -> String {
    memory::plan(program);
    let m = &program.memory;
    let shape = match program.target.placement {
        PlacementPolicy::Slab => "a slab".to_string(),
        PlacementPolicy::Slot => format!("{} slots and {} packs", m.slots.len(), m.packs.len()),
    };
    let over = program.buffers.values().filter(|b| b.takes_over.is_some()).count();
    format!("{} bytes in {shape}, lower bound {}; {over} values in place", m.planned, m.lower_bound)
}

/// The draft as a program without stages and places. Its kernels are in the order of the graph, which is where scheduling begins.
fn assemble(draft: Draft, target: &TargetModel) -> Program {
    let mut list = draft.kernels;
    list.sort_by_key(|k| k.key);
    let mut kernels: Arena<KernelId, Kernel> = Arena::default();
    for k in list {
        kernels.push(k.kernel);
    }
    Program {
        name: draft.name,
        target: target.clone(),
        params: draft.params,
        outputs: draft.outputs,
        buffers: draft.buffers,
        kernels,
        stages: Vec::new(),
        memory: MemoryPlan::default(),
    }
}
