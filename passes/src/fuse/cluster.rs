//! Grouping computed nodes into clusters, one kernel each.
//!
//! Nodes are taken in id order (a topological order). Each joins the latest cluster that makes one of its operands, if it may; otherwise it
//! starts a cluster. Joining is how a prologue, an epilogue and a second sweep over a row arise:
//!
//! - an elementwise node joins a pointwise, reduce or contract cluster whose points its elements are;
//! - a reduction turns the pointwise cluster of its operand into a reduce cluster, or joins one over the same axes;
//! - an elementwise node over the rows of a reduce cluster, or over its full space through a broadcast of a row value, joins it;
//! - kernels of one element move into a reduction of one row ([`scalars`]);
//! - attention and its log-sum-exp, and the three gradients of attention, join when their operands are the same.
//!
//! Invariants
//! - Each computed node is in exactly one cluster, with a [`Map`] that gives its index (of a window, that within it) from the cluster's space: onto all points, or, in a reduce
//!   cluster, onto its rows (coefficients along the reduced axes are zero).
//! - The clusters form a DAG: a node joins only if none of its other operands depends on the cluster.
//! - Within a cluster every operand is read at the reader's own point.

mod merge;
mod scalars;

use super::bits::Bits;
use std::collections::{BTreeSet, HashMap};

use tinygpt_ir::program::{PlacementPolicy, TargetModel};
use tinygpt_ir::{Composite, Graph, NodeId, Op};

use super::remark::{Kind, Reason, Remarks};
use super::values::{Class, Values};
use super::view::{Map, backward, forward, identity};

#[derive(Clone, Debug, PartialEq)]
pub enum ClusterKind {
    Pointwise,
    Reduce { axes: Vec<usize> },
    Contract,
    Attention,
    AttentionGrad,
    Fold,
    Scatter,
}

#[derive(Clone, Debug)]
pub struct Cluster {
    pub kind: ClusterKind,
    /// Extents of the index space; for attention and scatter, of the first node's shape.
    pub space: Vec<usize>,
    /// In id order. Empty once merged into another cluster.
    pub nodes: Vec<NodeId>,
    /// Clusters whose values this one reads.
    preds: BTreeSet<usize>,
}

/// What values lie in, as far as it is known before they are placed: weights, and scalars of the step, are side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Allocation {
    Weights,
    Scalars,
    Own(NodeId),
}

/// The nodes that become new values of states in place, each with the node that reads the old one.
fn in_place(graph: &Graph) -> HashMap<NodeId, NodeId> {
    let mut read = HashMap::new();
    for (id, node) in graph.nodes.iter() {
        if let Op::Param(p) = node.op {
            read.entry(p).or_insert(id);
        }
    }
    let mut states = HashMap::new();
    for (p, id) in &graph.updates {
        let twice = graph.outputs.iter().any(|(_, output)| output == id) || states.contains_key(id);
        if let (false, Some(old)) = (twice, read.get(p)) {
            states.insert(*id, *old);
        }
    }
    states
}

pub struct Clusters<'a> {
    pub values: &'a Values<'a>,
    pub list: Vec<Cluster>,
    /// For each cluster, all clusters it depends on, directly or not.
    ancestors: Vec<Bits>,
    of: Vec<Option<usize>>,
    maps: Vec<Option<Map>>,
    /// Values smaller than this gain nothing from fusion that makes a cluster wait.
    small_bytes: usize,
    max_args: usize,
    /// Whether all weights are one argument, and all scalars of the step are another.
    packed: bool,
    /// The state, as the node that reads it, of the node that becomes its new value in place.
    states: HashMap<NodeId, NodeId>,
    remarks: Remarks,
}

impl<'a> Clusters<'a> {
    /// Clusters of all computed nodes; one a node unless `fuse`.
    pub fn new(values: &'a Values<'a>, fuse: bool, target: &TargetModel, remarks: &mut Remarks) -> Clusters<'a> {
        let n = values.graph.nodes.len();
        let mut c = Clusters {
            values,
            list: Vec::new(),
            ancestors: Vec::new(),
            of: vec![None; n],
            maps: vec![None; n],
            small_bytes: target.launch_cost_bytes,
            max_args: target.max_args,
            packed: target.placement == PlacementPolicy::Slot,
            states: in_place(values.graph),
            remarks: std::mem::take(remarks),
        };
        for id in values.graph.nodes.ids() {
            if values.class(id).is_computed() && !(fuse && c.join(id)) {
                c.start(id);
            }
        }
        if fuse {
            c.merge_siblings();
            c.merge_scalars_into_rows();
        }
        *remarks = std::mem::take(&mut c.remarks);
        c
    }

    pub fn of(&self, id: NodeId) -> Option<usize> {
        self.of[id.index()]
    }

    /// Index of member `id` from its cluster's space.
    pub fn map(&self, id: NodeId) -> &Map {
        self.maps[id.index()].as_ref().expect("every computed node has a map")
    }

    fn start(&mut self, id: NodeId) {
        let shape = match self.values.class(id) {
            // The points of a window are those of what is put there.
            Class::Window => self.values.shape(self.values.inputs(id)[0]).to_vec(),
            _ => self.values.shape(id).to_vec(),
        };
        let (kind, space, map) = match (self.values.class(id), &self.values.graph.nodes[id].op) {
            (Class::Reduce, Op::Reduce { axes, .. }) => {
                let space = self.values.shape(self.values.inputs(id)[0]).to_vec();
                let map = row_map(&space, axes);
                (ClusterKind::Reduce { axes: axes.clone() }, space, map)
            }
            (Class::Contract, _) => {
                let t = self.values.terms(id);
                let order: Vec<usize> = t.batch.iter().chain(&t.m).chain(&t.n).copied().collect();
                let space: Vec<usize> = order.iter().map(|d| shape[*d]).collect();
                let axes = identity(&space);
                let mut map = axes.clone();
                for (axis, d) in order.iter().enumerate() {
                    map[*d] = axes[axis].clone();
                }
                (ClusterKind::Contract, space, map)
            }
            (class, _) => {
                let kind = match class {
                    Class::Attention => ClusterKind::Attention,
                    Class::AttentionGrad => ClusterKind::AttentionGrad,
                    Class::Fold => ClusterKind::Fold,
                    Class::Scatter => ClusterKind::Scatter,
                    _ => ClusterKind::Pointwise,
                };
                let map = identity(&shape);
                (kind, shape, map)
            }
        };
        self.list.push(Cluster { kind, space, nodes: Vec::new(), preds: BTreeSet::new() });
        self.ancestors.push(Bits::default());
        self.add(self.list.len() - 1, id, map);
    }

    fn add(&mut self, c: usize, id: NodeId, map: Map) {
        for p in self.producers(id) {
            self.depend(c, p);
        }
        self.of[id.index()] = Some(c);
        self.maps[id.index()] = Some(map);
        self.list[c].nodes.push(id);
    }

    /// Clusters that compute operands of `id`.
    fn producers(&self, id: NodeId) -> Vec<usize> {
        let inputs = self.values.inputs(id);
        let mut out: Vec<usize> = inputs.iter().filter_map(|u| self.of(self.source(*u))).collect();
        out.sort_unstable();
        out.dedup();
        out
    }

    /// The first node behind `u` that is not a view.
    pub fn source(&self, u: NodeId) -> NodeId {
        let mut u = u;
        while self.values.class(u) == Class::View {
            u = self.values.graph.nodes[u].inputs[0];
        }
        u
    }

    fn join(&mut self, id: NodeId) -> bool {
        match self.values.class(id) {
            Class::Elementwise | Class::Copy => self.join_elementwise(id),
            Class::Reduce => self.join_reduce(id),
            Class::Attention | Class::AttentionGrad => self.join_attention(id),
            _ => {
                self.remark_operands(id, Reason::OwnPositions);
                false
            }
        }
    }

    /// One remark for each computed node that `id` reads.
    fn remark_operands(&mut self, id: NodeId, reason: Reason) {
        let mut sources: Vec<NodeId> = self.values.inputs(id).into_iter().map(|u| self.source(u)).collect();
        sources.retain(|s| self.of(*s).is_some());
        sources.sort_unstable();
        sources.dedup();
        sources.into_iter().for_each(|s| self.remarks.edge(s, id, reason));
    }

    /// The views from `from` (exclusive) to `to` (inclusive), first applied first.
    fn chain(&self, from: NodeId, to: NodeId) -> Vec<NodeId> {
        let mut chain = Vec::new();
        let mut u = to;
        while u != from {
            chain.push(u);
            u = self.values.graph.nodes[u].inputs[0];
        }
        chain.reverse();
        chain
    }

    /// Index of view `to` from the space of the cluster of its source, if its elements are that cluster's points.
    fn forward_map(&self, source: NodeId, to: NodeId) -> Option<Map> {
        let cluster = &self.list[self.of(source)?];
        let mut map = self.map(source).clone();
        for v in self.chain(source, to) {
            let node = &self.values.graph.nodes[v];
            let operand = self.values.shape(node.inputs[0]);
            map = match (&node.op, &cluster.kind) {
                // A row value stretched back over its rows: the elements are the cluster's points.
                (Op::Broadcast { shape }, ClusterKind::Reduce { axes })
                    if *shape == cluster.space && map == row_map(&cluster.space, axes) =>
                {
                    identity(&cluster.space)
                }
                (op, _) => forward(op, operand, &node.ty.shape, &map, &cluster.space)?,
            };
        }
        Some(map)
    }

    fn join_elementwise(&mut self, id: NodeId) -> bool {
        let is_copy = self.values.class(id) == Class::Copy;
        let mut candidates: Vec<(usize, NodeId, Map)> = Vec::new();
        let mut refused: Vec<(usize, NodeId, Reason)> = Vec::new();
        for u in self.values.inputs(id) {
            let source = self.source(u);
            let Some(c) = self.of(source) else { continue };
            if candidates.iter().any(|(d, ..)| *d == c) {
                continue;
            }
            let has_epilogue = matches!(
                self.list[c].kind,
                ClusterKind::Pointwise | ClusterKind::Reduce { .. } | ClusterKind::Contract
            );
            match self.forward_map(source, if is_copy { id } else { u }).filter(|_| has_epilogue) {
                Some(map) => candidates.push((c, source, map)),
                None if has_epilogue => refused.push((c, source, Reason::NotItsPoints)),
                None => refused.push((c, source, Reason::NoEpilogue)),
            }
        }
        candidates.sort_by_key(|(c, ..)| std::cmp::Reverse(self.list[*c].nodes.last().copied()));
        refused.retain(|(c, ..)| !candidates.iter().any(|(d, ..)| d == c));
        let mut chosen = None;
        for (i, (c, source, map)) in candidates.iter().enumerate() {
            match self.may_join(id, *c, map) {
                Ok(()) => {
                    chosen = Some(i);
                    break;
                }
                Err(reason) => refused.push((*c, *source, reason)),
            }
        }
        if let Some(i) = chosen {
            let (c, source, map) = candidates[i].clone();
            // Every other producer gets a second chance, and a remark, below.
            refused.retain(|(d, ..)| !candidates.iter().any(|(e, ..)| d == e));
            let reason = self.why_joined(c, &map);
            self.remarks.edge(source, id, reason);
            self.add(c, id, map);
            for (other, source, _) in candidates {
                if other != c {
                    let moved = self.absorb_producer(c, other, id);
                    self.remarks.edge(source, id, moved.err().unwrap_or(Reason::MovedIn));
                }
            }
        }
        refused.into_iter().for_each(|(_, source, reason)| self.remarks.edge(source, id, reason));
        chosen.is_some()
    }

    /// What an elementwise node is to the cluster that it joins with this map.
    fn why_joined(&self, c: usize, map: &Map) -> Reason {
        let cluster = &self.list[c];
        match &cluster.kind {
            ClusterKind::Contract => Reason::Epilogue,
            ClusterKind::Reduce { axes } if *map == row_map(&cluster.space, axes) => Reason::RowValue,
            ClusterKind::Reduce { .. } => Reason::RowSweep,
            _ => Reason::SamePoint,
        }
    }

    /// Whether `id`, indexed by `map`, may be computed in cluster `c`; why not.
    fn may_join(&self, id: NodeId, c: usize, map: &Map) -> Result<(), Reason> {
        let cluster = &self.list[c];
        for u in self.values.inputs(id) {
            let (source, at) = self.read(id, u, map, &cluster.space);
            match self.of(source) {
                Some(d) if d == c && at.as_ref() != Some(self.map(source)) => return Err(Reason::OtherElement),
                Some(d) if d == c => {}
                Some(d) => {
                    if self.depends_on(d, c) {
                        return Err(Reason::Cycle);
                    }
                    // A small value is no reason to make a large kernel wait for another one.
                    let bytes = self.values.graph.nodes[id].ty.bytes();
                    let small = bytes < self.small_bytes;
                    let waits = cluster.kind != ClusterKind::Pointwise && !cluster.preds.contains(&d);
                    if small && waits && !self.waits_for_free(c, d) {
                        return Err(Reason::SmallWaits { bytes, launch: self.small_bytes });
                    }
                }
                None => {}
            }
        }
        self.fits(self.args_with(c, &[id]))
    }

    /// Whether a kernel may touch `args` buffers.
    fn fits(&self, args: usize) -> Result<(), Reason> {
        let most = self.max_args;
        if args <= most { Ok(()) } else { Err(Reason::TooManyArgs { args, most }) }
    }

    /// The node behind operand `u` of `id`, and its index where `id` has index `map`; None where that is not affine, or `id` reads it
    /// at points of its own choice.
    pub fn read(&self, id: NodeId, u: NodeId, map: &Map, space: &[usize]) -> (NodeId, Option<Map>) {
        if self.values.stored_operands(id).contains(&u) {
            return (self.source(u), None);
        }
        let node = &self.values.graph.nodes[id];
        let mut at = Some(map.clone());
        if self.values.class(id) == Class::Copy {
            at = backward(&node.op, self.values.shape(u), &node.ty.shape, map, space);
        }
        let mut u = u;
        while self.values.class(u) == Class::View {
            let view = &self.values.graph.nodes[u];
            let input = view.inputs[0];
            at = at.and_then(|m| backward(&view.op, self.values.shape(input), &view.ty.shape, &m, space));
            u = input;
        }
        (u, at)
    }

    /// Upper bound on the allocations that cluster `c` with `more` touches: every outside operand and every member used outside.
    fn args_with(&self, c: usize, more: &[NodeId]) -> usize {
        let mut touched = BTreeSet::new();
        for id in self.list[c].nodes.iter().chain(more) {
            for u in self.values.inputs(*id) {
                let s = self.source(u);
                if self.of(s) != Some(c) && self.values.class(s) != Class::Free {
                    touched.insert(self.allocation(s));
                }
            }
            let outside = |u: &NodeId| self.of(*u).is_none_or(|d| d != c);
            if self.values.is_root(*id) || self.values.users[id.index()].iter().any(outside) {
                touched.insert(self.allocation(*id));
            }
        }
        touched.len()
    }

    /// What a stored value lies in.
    fn allocation(&self, id: NodeId) -> Allocation {
        if !self.packed {
            return Allocation::Own(id);
        }
        let id = self.states.get(&id).copied().unwrap_or(id);
        let scalar = self.values.shape(id).iter().product::<usize>() == 1;
        match self.values.class(id) {
            _ if self.is_weight(id) => Allocation::Weights,
            class if class.is_computed() && scalar && !self.values.is_root(id) => Allocation::Scalars,
            _ => Allocation::Own(id),
        }
    }

    fn is_weight(&self, id: NodeId) -> bool {
        matches!(self.values.graph.nodes[id].op, Op::Param(p) if self.values.graph.params[p].is_weight())
    }

    /// Whether cluster `x` is `on`, or reads (through any others) what `on` computes.
    pub fn depends_on(&self, x: usize, on: usize) -> bool {
        x == on || self.ancestors[x].contains(on)
    }

    /// Records that cluster `c` reads what `on` computes.
    fn depend(&mut self, c: usize, on: usize) {
        if c == on
            || !self.list[c].preds.insert(on)
            || self.ancestors[c].contains(on) && self.ancestors[c].contains_all(&self.ancestors[on])
        {
            return;
        }
        let mut more = self.ancestors[on].clone();
        more.insert(on);
        for d in 0..self.list.len() {
            if d == c || self.ancestors[d].contains(c) {
                self.ancestors[d].add_all(&more);
            }
        }
    }

    fn join_reduce(&mut self, id: NodeId) -> bool {
        let Op::Reduce { axes, .. } = &self.values.graph.nodes[id].op else { return false };
        let u = self.values.inputs(id)[0];
        let source = self.source(u);
        let Some(c) = self.of(source) else { return false };
        let reason = self.may_reduce(id, axes, u, c);
        self.remarks.edge(source, id, reason);
        if reason.kind() != Kind::Fused {
            return false;
        }
        let map = row_map(&self.list[c].space, axes);
        self.list[c].kind = ClusterKind::Reduce { axes: axes.clone() };
        self.add(c, id, map);
        true
    }

    /// Whether reduction `id` of `u` over `axes` may be computed in cluster `c`, and why.
    fn may_reduce(&self, id: NodeId, axes: &[usize], u: NodeId, c: usize) -> Reason {
        let cluster = &self.list[c];
        let fused = match &cluster.kind {
            ClusterKind::Pointwise => Reason::Prologue,
            ClusterKind::Reduce { axes: own } if own == axes => Reason::SameRows,
            ClusterKind::Reduce { .. } => return Reason::OtherAxes,
            _ => return Reason::NoPrologue,
        };
        let in_place = cluster.space == self.values.shape(u)
            && self.forward_map(self.source(u), u).is_some_and(|m| m == identity(&cluster.space));
        if !in_place {
            return Reason::NotItsPoints;
        }
        self.fits(self.args_with(c, &[id])).err().unwrap_or(fused)
    }

    /// Siblings share a kernel: same operands, same attributes but for what is asked of them.
    fn join_attention(&mut self, id: NodeId) -> bool {
        let graph = self.values.graph;
        let node = &graph.nodes[id];
        let key = |op: &Op| match op {
            Op::Composite(Composite::Attention { causal, scale } | Composite::AttentionLse { causal, scale }) => {
                Some((false, *causal, *scale, 2))
            }
            Op::Composite(Composite::AttentionGrad { causal, scale, .. }) => Some((true, *causal, *scale, 6)),
            _ => None,
        };
        let Some((grad, causal, scale, operands)) = key(&node.op) else { return false };
        let sibling = graph.users()[node.inputs[0].index()].iter().copied().find(|s| {
            *s < id
                && self.of(*s).is_some()
                && key(&graph.nodes[*s].op) == Some((grad, causal, scale, operands))
                && graph.nodes[*s].inputs[..operands] == node.inputs[..operands]
                && !self.list[self.of(*s).unwrap_or(0)].nodes.iter().any(|n| graph.nodes[*n].op == node.op)
        });
        let Some((sibling, c)) = sibling.and_then(|s| Some((s, self.of(s)?))) else {
            self.remark_operands(id, Reason::OwnPositions);
            return false;
        };
        let producers = self.producers(id);
        let depends = producers.contains(&c) || producers.into_iter().any(|p| p != c && self.depends_on(p, c));
        let reason = match self.fits(self.args_with(c, &[id])) {
            _ if depends => Reason::Cycle,
            Err(reason) => reason,
            Ok(()) => Reason::SameOperands,
        };
        self.remarks.edge(sibling, id, reason);
        if reason != Reason::SameOperands {
            return false;
        }
        self.add(c, id, identity(self.values.shape(id)));
        true
    }
}

/// Index of a row value (extent 1 along `axes`) from a space.
pub fn row_map(space: &[usize], axes: &[usize]) -> Map {
    let mut map = identity(space);
    for a in axes {
        map[*a] = tinygpt_ir::program::Affine::constant(space.len(), 0);
    }
    map
}
