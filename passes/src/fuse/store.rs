//! Which computed values are stored, and which are computed again where they are needed.
//!
//! A value that only its own cluster reads is never stored. A value that *escapes* is stored, unless computing it again costs its readers
//! about as little as loading it: a few cheap operations over values that are stored anyway or are much smaller (the
//! normalised row of a layer norm from the row, its mean and its scale; the square of a gradient).
//!
//! Invariants
//! - Roots, operands that a kernel reads at other points than its own, and results of contractions, scatters and attention that escape are stored.
//! - A node that is not stored can be computed from stored ones through elementwise operations and views.

use tinygpt_ir::op::Unary;
use tinygpt_ir::{NodeId, Op, numel};

use super::cluster::Clusters;
use super::remark::{Reason, Remarks};
use super::values::Class;

/// Most operations computed again for one value.
const MAX_OPS: usize = 8;

pub struct Stored(Vec<bool>);

impl Stored {
    /// The stored nodes; every escaping node if not `recompute`.
    pub fn new(clusters: &Clusters<'_>, recompute: bool, remarks: &mut Remarks) -> Stored {
        let values = clusters.values;
        let graph = values.graph;
        let mut stored = Stored(vec![false; graph.nodes.len()]);
        for id in graph.nodes.ids() {
            if !values.class(id).is_computed() {
                continue;
            }
            if values.is_root(id) {
                stored.0[id.index()] = true;
            }
            for u in values.stored_operands(id) {
                let base = values.base_of(u);
                stored.0[base.index()] |= values.class(base).is_computed();
            }
        }
        for id in graph.nodes.ids() {
            if !values.class(id).is_computed() || stored.0[id.index()] {
                continue;
            }
            let readers = readers(clusters, id);
            if readers.is_empty() {
                continue;
            }
            if !recompute {
                stored.insert(id);
                continue;
            }
            match stored.again(clusters, id, readers.len()) {
                Ok(cost) => {
                    remarks.value(id, Reason::Cheap { ops: cost.ops, loads: cost.loads });
                    for small in cost.also_store {
                        if !std::mem::replace(&mut stored.0[small.index()], true) {
                            remarks.value(small, Reason::SmallForOthers);
                        }
                    }
                }
                Err(reason) => {
                    remarks.value(id, reason);
                    stored.insert(id);
                }
            }
        }
        stored
    }

    pub fn contains(&self, id: NodeId) -> bool {
        self.0[id.index()]
    }

    /// Stores `id` after all: some reader cannot compute it.
    pub fn insert(&mut self, id: NodeId) {
        self.0[id.index()] = true;
    }

    /// What computing `id` again in `readers` kernels takes each of them; why it is to be stored, if that is too much.
    fn again(&self, clusters: &Clusters<'_>, id: NodeId, readers: usize) -> Result<Cost, Reason> {
        if clusters.values.class(id) != Class::Elementwise {
            return Err(Reason::NotElementwise);
        }
        let cost = self.cost(clusters, id)?;
        match cost.loads {
            0 | 1 => Ok(cost),
            2 if readers == 1 => Ok(cost),
            loads => Err(Reason::TooManyLoads { loads, readers }),
        }
    }

    /// What computing `id` again would take; why that is not cheap.
    fn cost(&self, clusters: &Clusters<'_>, id: NodeId) -> Result<Cost, Reason> {
        let values = clusters.values;
        let own = clusters.of(id);
        let size = numel(values.shape(id));
        let mut cost = Cost { ops: 0, loads: 0, also_store: Vec::new() };
        let mut loaded: Vec<NodeId> = Vec::new();
        let mut todo = vec![id];
        while let Some(x) = todo.pop() {
            cost.ops += 1;
            if is_costly(&values.graph.nodes[x].op) {
                return Err(Reason::Costly);
            }
            if cost.ops > MAX_OPS {
                return Err(Reason::TooManyOps { most: MAX_OPS });
            }
            for u in values.inputs(x) {
                let s = clusters.source(u);
                let small = numel(values.shape(s)) * 4 <= size;
                let available = values.class(s) == Class::Leaf || self.contains(s);
                if values.class(s) == Class::Free || loaded.contains(&s) {
                    continue;
                }
                // Not stored yet, small, and made here: worth storing for the sake of `id`.
                let worth = small && clusters.of(s) == own;
                if available || worth {
                    if !available {
                        cost.also_store.push(s);
                    }
                    cost.loads += usize::from(!small);
                    loaded.push(s);
                } else if values.class(s) == Class::Elementwise {
                    todo.push(s);
                } else {
                    return Err(Reason::Costly);
                }
            }
        }
        Ok(cost)
    }
}

struct Cost {
    ops: usize,
    /// Loads of tensors about as large as the value.
    loads: usize,
    /// Small values of the same cluster that would have to be stored.
    also_store: Vec<NodeId>,
}

/// Clusters other than its own that read `id`, through any views.
fn readers(clusters: &Clusters<'_>, id: NodeId) -> Vec<usize> {
    let values = clusters.values;
    let mut out = Vec::new();
    let mut todo = vec![id];
    while let Some(x) = todo.pop() {
        for u in &values.users[x.index()] {
            match clusters.of(*u) {
                Some(c) if Some(c) != clusters.of(id) => out.push(c),
                Some(_) => {}
                None => todo.push(*u),
            }
        }
    }
    out.sort_unstable();
    out.dedup();
    out
}

fn is_costly(op: &Op) -> bool {
    matches!(
        op,
        Op::Unary(
            Unary::Exp
                | Unary::Log
                | Unary::Tanh
                | Unary::Erf
                | Unary::Sin
                | Unary::Cos
                | Unary::Sqrt
                | Unary::Rsqrt
                | Unary::Recip
        ) | Op::Binary(tinygpt_ir::op::Binary::Div)
    )
}
