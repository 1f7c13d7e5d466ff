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
    /// Text of the program after the pass, if asked for. After `fuse` it has no stages, before `memory` no places.
    pub text: Option<String>,
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

/// [`to_program`] with a record of its passes; with `fusion` off each node has a kernel of its own. With `print` the record has texts.
///
/// Errors: one sentence on what has no kernel.
pub fn lower(graph: &Graph, target: &TargetModel, fusion: bool, print: bool) -> Result<Lowered, String> {
    let mut steps = Vec::new();
    let mut record = |name: &'static str, start: Clock, did: String, program: &Program| {
        let time = start.elapsed();
        steps.push(Step { name, time, did, text: print.then(|| program.to_string()) });
    };
    let start = Clock::start();
    let draft = fuse::fuse(graph, target, fusion)?;
    let mut program = assemble(&draft, target);
    let live = graph.live().iter().filter(|l| **l).count();
    let retries = match draft.retries {
        0 => String::new(),
        n => format!("; {n} more values stored, or states written through a temporary, than first planned"),
    };
    record(PASSES[0].0, start, format!("{live} nodes to {} kernels{retries}", draft.kernels.len()), &program);

    let start = Clock::start();
    let order = schedule::schedule(&draft)?;
    program.kernels = Arena::default();
    for k in &order.order {
        program.kernels.push(draft.kernels[*k].kernel.clone());
    }
    program.stages = order.stages;
    record(PASSES[1].0, start, format!("{} stages", program.stages.len()), &program);

    let start = Clock::start();
    memory::plan(&mut program);
    let m = &program.memory;
    let shape = match target.placement {
        PlacementPolicy::Slab => "a slab".to_string(),
        PlacementPolicy::Slot => format!("{} slots and {} packs", m.slots.len(), m.packs.len()),
    };
    let over = program.buffers.values().filter(|b| b.takes_over.is_some()).count();
    let did = format!("{} bytes in {shape}, lower bound {}; {over} values in place", m.planned, m.lower_bound);
    record(PASSES[2].0, start, did, &program);
    Ok(Lowered { program, steps })
}

/// The draft as a program without stages and places.
fn assemble(draft: &Draft, target: &TargetModel) -> Program {
    let mut kernels: Arena<KernelId, Kernel> = Arena::default();
    for k in &draft.kernels {
        kernels.push(k.kernel.clone());
    }
    Program {
        name: draft.name.clone(),
        target: target.clone(),
        params: draft.params.clone(),
        outputs: draft.outputs.clone(),
        buffers: draft.buffers.clone(),
        kernels,
        stages: Vec::new(),
        memory: MemoryPlan::default(),
    }
}
