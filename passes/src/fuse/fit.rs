//! Before fusion: no operation reads more buffers than one kernel of the target may bind.
//!
//! Only `concat` has any number of operands. One with too many becomes a tree of concatenations.
//!
//! Invariant: the result computes the same values; [`Fitted::origin`] says which node of the graph given each of its nodes stands for, so
//! that kernels and remarks keep naming those.

use std::borrow::Cow;
use std::collections::BTreeSet;

use tinygpt_ir::graph::Node;
use tinygpt_ir::program::{Provenance, TargetModel};
use tinygpt_ir::{Arena, Graph, NodeId, Op};

/// A graph that fits a target.
pub struct Fitted<'g> {
    pub graph: Cow<'g, Graph>,
    /// By node; None where the graph is the one given.
    origin: Option<Vec<NodeId>>,
}

impl Fitted<'_> {
    /// The node of the graph given that `id` stands for.
    pub fn origin(&self, id: NodeId) -> NodeId {
        self.origin.as_ref().map_or(id, |of| of[id.index()])
    }

    /// Names nodes of the graph given.
    pub fn rename(&self, p: &mut Provenance) {
        if self.origin.is_none() {
            return;
        }
        for list in [&mut p.nodes, &mut p.recomputed] {
            let renamed: BTreeSet<NodeId> = list.iter().map(|id| self.origin(*id)).collect();
            *list = renamed.into_iter().collect();
        }
    }
}

/// `graph`, its wide concatenations split so that each fits a kernel with its result.
pub fn fit<'g>(graph: &'g Graph, target: &TargetModel) -> Fitted<'g> {
    let most = target.max_args.saturating_sub(1).max(2);
    let too_wide = |n: &Node| matches!(n.op, Op::Concat { .. }) && n.inputs.len() > most;
    if !graph.nodes.values().any(too_wide) {
        return Fitted { graph: Cow::Borrowed(graph), origin: None };
    }
    let mut nodes: Arena<NodeId, Node> = Arena::default();
    let mut origin = Vec::new();
    let mut renamed: Vec<NodeId> = Vec::new();
    for (id, n) in graph.nodes.iter() {
        let mut inputs: Vec<NodeId> = n.inputs.iter().map(|i| renamed[i.index()]).collect();
        if let (true, Op::Concat { axis }) = (too_wide(n), &n.op) {
            while inputs.len() > most {
                let join = |part: &[NodeId]| {
                    if let [one] = part {
                        return *one;
                    }
                    let mut ty = n.ty.clone();
                    ty.shape[*axis] = part.iter().map(|i| nodes[*i].ty.shape[*axis]).sum();
                    origin.push(id);
                    nodes.push(Node { op: n.op.clone(), inputs: part.to_vec(), ty, scope: n.scope, loc: n.loc })
                };
                inputs = inputs.chunks(most).map(join).collect();
            }
        }
        origin.push(id);
        renamed.push(nodes.push(Node { inputs, ..n.clone() }));
    }
    let new = |id: NodeId| renamed[id.index()];
    let outputs = graph.outputs.iter().map(|(name, id)| (name.clone(), new(*id))).collect();
    let updates = graph.updates.iter().map(|(p, id)| (*p, new(*id))).collect();
    Fitted { graph: Cow::Owned(Graph { nodes, outputs, updates, ..graph.clone() }), origin: Some(origin) }
}
