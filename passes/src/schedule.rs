//! Scheduling: kernels get an order and stages.
//!
//! Kernels are taken in the order in which fusion left them, that of the graph, as far as their dependencies allow. A stage collects
//! kernels that are ready together, from a window ahead of the first one waiting: wide enough that the gradients by weight and by input of
//! one layer share a stage; narrow enough that nothing is computed long before it is used.
//!
//! Invariants
//! - What a kernel must wait for follows from the arguments alone: a reader of a temporary or output waits for its writer, the writer of a
//!   state for all other readers, which see its old value.
//! - A kernel's predecessors are all in earlier stages.
//! - The result depends on the program alone, not on addresses or hashing order.

use std::collections::HashMap;

use tinygpt_ir::program::{BufferId, BufferKind, KernelId, Program};
use tinygpt_ir::{Arena, Entity};

/// How many waiting kernels a stage may look past.
const WINDOW: usize = 64;

/// Orders the kernels of a program that has no stages yet.
///
/// Errors: one sentence if the dependencies are circular, which is a fault of fusion.
pub fn schedule(program: &mut Program) -> Result<(), String> {
    let after = predecessors(program);
    let mut waiting: Vec<usize> = (0..program.kernels.len()).collect();
    let mut done = vec![false; waiting.len()];
    let (mut order, mut stages): (Vec<KernelId>, _) = (Vec::new(), Vec::new());
    while !waiting.is_empty() {
        let ready = |k: &usize| after[*k].iter().all(|a| done[*a]);
        let Some(first) = waiting.iter().position(ready) else {
            let name = |k: &usize| program.kernels[KernelId::of_usize(*k)].name.as_str();
            let names: Vec<&str> = waiting.iter().map(name).take(5).collect();
            return Err(format!("kernels wait for each other in a circle: {}", names.join(", ")));
        };
        let window = waiting.iter().skip(first).take(WINDOW);
        let chosen: Vec<usize> = window.copied().filter(|k| after[*k].iter().all(|a| done[*a])).collect();
        let from = order.len() as u32;
        for k in &chosen {
            done[*k] = true;
            order.push(KernelId::of_usize(*k));
        }
        waiting.retain(|k| !done[*k]);
        stages.push((from, order.len() as u32));
    }
    let mut kernels = Arena::default();
    for k in order {
        kernels.push(program.kernels[k].clone());
    }
    (program.kernels, program.stages) = (kernels, stages);
    Ok(())
}

/// For each kernel, those that must end before it starts.
fn predecessors(program: &Program) -> Vec<Vec<usize>> {
    let mut writer: HashMap<BufferId, usize> = HashMap::new();
    for (id, k) in program.kernels.iter() {
        writer.extend(k.args.iter().filter(|a| a.mode.writes()).map(|a| (a.buffer, id.index())));
    }
    let mut after = vec![Vec::new(); program.kernels.len()];
    for (id, k) in program.kernels.iter() {
        for a in k.args.iter().filter(|a| a.mode.reads()) {
            match writer.get(&a.buffer) {
                Some(w) if *w == id.index() => {}
                Some(w) if matches!(program.buffers[a.buffer].kind, BufferKind::State(_)) => after[*w].push(id.index()),
                Some(w) => after[id.index()].push(*w),
                None => {}
            }
        }
    }
    after
}
