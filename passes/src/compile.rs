//! From a training or inference graph to a placed program: the whole road in one call.

use tinygpt_ir::program::{Kernel, KernelId, MemoryPlan, Program, TargetModel};
use tinygpt_ir::{Arena, Graph};

use crate::fuse::{self, Draft};
use crate::{memory, schedule};

/// Fuses, schedules and places `graph`, which holds primitives and kernel-carrying composites only. With `fusion` off each node has
/// a kernel of its own.
///
/// Errors: one sentence on what has no kernel.
pub fn to_program(graph: &Graph, target: &TargetModel, fusion: bool) -> Result<Program, String> {
    let draft = fuse::fuse(graph, target, fusion)?;
    let order = schedule::schedule(&draft)?;
    let Draft { name, params, outputs, buffers, kernels } = draft;
    let mut taken: Vec<Option<Kernel>> = kernels.into_iter().map(|k| Some(k.kernel)).collect();
    let mut arena: Arena<KernelId, Kernel> = Arena::default();
    for k in &order.order {
        if let Some(kernel) = taken[*k].take() {
            arena.push(kernel);
        }
    }
    let mut program = Program {
        name,
        target: target.clone(),
        params,
        outputs,
        buffers,
        kernels: arena,
        stages: order.stages,
        memory: MemoryPlan::default(),
    };
    drop_unused_buffers(&mut program);
    memory::plan(&mut program);
    Ok(program)
}

/// Removes temporaries that no kernel touches (the provisional buffers of states).
fn drop_unused_buffers(program: &mut Program) {
    use tinygpt_ir::program::{Buffer, BufferId, BufferKind};
    let mut used = vec![false; program.buffers.len()];
    for k in program.kernels.values() {
        for a in &k.args {
            used[a.buffer.index()] = true;
        }
    }
    let mut kept: Arena<BufferId, Buffer> = Arena::default();
    let mut renumber = vec![BufferId(0); program.buffers.len()];
    for (id, b) in program.buffers.iter() {
        if used[id.index()] || b.kind != BufferKind::Temp {
            renumber[id.index()] = kept.push(b.clone());
        }
    }
    program.buffers = kept;
    for k in program.kernels.values_mut() {
        for a in &mut k.args {
            a.buffer = renumber[a.buffer.index()];
        }
    }
    for p in &mut program.params {
        p.buffer = renumber[p.buffer.index()];
    }
    for o in &mut program.outputs {
        o.buffer = renumber[o.buffer.index()];
    }
}
