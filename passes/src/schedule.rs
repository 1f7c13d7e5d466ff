//! Scheduling: kernels get an order and stages.
//!
//! Kernels are taken in the order of the graph as far as their dependencies allow. A stage collects kernels that are ready together, from a
//! window ahead of the first one waiting: wide enough that the gradients by weight and by input of one layer share a stage, and that the many small
//! reductions of a global norm do; narrow enough that nothing is computed long before it is used.
//!
//! Invariants
//! - A kernel's predecessors are all in earlier stages.
//! - The result depends on the draft alone, not on addresses or hashing order.

use crate::fuse::Draft;

/// How many waiting kernels a stage may look past.
const WINDOW: usize = 64;

/// An order of the draft's kernels and the stages that partition it: half-open ranges of positions.
pub struct Schedule {
    pub order: Vec<usize>,
    pub stages: Vec<(u32, u32)>,
}

/// Orders the kernels of `draft`.
///
/// Errors: one sentence if the dependencies are circular, which is a bug of fusion.
pub fn schedule(draft: &Draft) -> Result<Schedule, String> {
    let kernels = &draft.kernels;
    let mut waiting: Vec<usize> = (0..kernels.len()).collect();
    waiting.sort_by_key(|k| (kernels[*k].key, *k));
    let mut done = vec![false; kernels.len()];
    let mut s = Schedule { order: Vec::new(), stages: Vec::new() };
    while !waiting.is_empty() {
        let ready = |k: &usize| kernels[*k].after.iter().all(|a| done[*a]);
        let Some(first) = waiting.iter().position(ready) else {
            let names: Vec<&str> = waiting.iter().map(|k| kernels[*k].kernel.name.as_str()).take(5).collect();
            return Err(format!("kernels wait for each other in a circle: {}", names.join(", ")));
        };
        let chosen: Vec<usize> = waiting
            .iter()
            .skip(first)
            .take(WINDOW)
            .copied()
            .filter(|k| kernels[*k].after.iter().all(|a| done[*a]))
            .collect();
        let from = s.order.len() as u32;
        for k in &chosen {
            done[*k] = true;
            s.order.push(*k);
        }
        waiting.retain(|k| !done[*k]);
        s.stages.push((from, s.order.len() as u32));
    }
    Ok(s)
}
