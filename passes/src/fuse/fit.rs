//! Before fusion: no operation reads more buffers than one kernel of the target may bind.
//!
//! Only `concat` and `square_sums` have any number of operands. Too wide a concatenation becomes a tree of them, and sums of squares of too many
//! operands become the concatenation of several.
//!
//! Invariants
//! - The result computes the same values; [`Fitted::origin`] says which node of the graph given each of its nodes stands for, so
//!   that kernels and remarks keep naming those.
//! - No two operands of a `square_sums` are views of one value: each is an argument of the kernel.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ops::Range;

use tinygpt_ir::graph::Node;
use tinygpt_ir::program::{PlacementPolicy, Provenance, TargetModel};
use tinygpt_ir::{Arena, Composite, Graph, NodeId, Op, ParamKind};

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

/// `graph`, its wide concatenations and sums of squares split so that each fits a kernel with its result.
pub fn fit<'g>(graph: &'g Graph, target: &TargetModel) -> Fitted<'g> {
    let most = target.max_args.saturating_sub(1).max(2);
    let groups: Vec<Vec<Range<usize>>> = graph.nodes.values().map(|n| groups(graph, n, target, most)).collect();
    let too_wide = |n: &Node| matches!(n.op, Op::Concat { .. }) && n.inputs.len() > most;
    if !graph.nodes.values().any(too_wide) && groups.iter().all(|g| g.len() <= 1) {
        return Fitted { graph: Cow::Borrowed(graph), origin: None };
    }
    let mut nodes: Arena<NodeId, Node> = Arena::default();
    let mut origin = Vec::new();
    let mut renamed: Vec<NodeId> = Vec::new();
    for (id, n) in graph.nodes.iter() {
        let mut n = Node { inputs: n.inputs.iter().map(|i| renamed[i.index()]).collect(), ..n.clone() };
        let groups = &groups[id.index()];
        if let (Op::Composite(Composite::SquareSums { block }), true) = (&n.op, groups.len() > 1) {
            let block = *block;
            let part = |operands: &Range<usize>| {
                let mut part = Node { inputs: n.inputs[operands.clone()].to_vec(), ..n.clone() };
                part.ty.shape = vec![part.inputs.iter().map(|u| nodes[*u].ty.numel().div_ceil(block)).sum()];
                origin.push(id);
                nodes.push(part)
            };
            let inputs = groups.iter().map(part).collect();
            (n.op, n.inputs) = (Op::Concat { axis: 0 }, inputs);
        }
        if let Op::Concat { axis } = n.op {
            while n.inputs.len() > most {
                let join = |part: &[NodeId]| {
                    if let [one] = part {
                        return *one;
                    }
                    let mut joined = Node { inputs: part.to_vec(), ..n.clone() };
                    joined.ty.shape[axis] = part.iter().map(|i| nodes[*i].ty.shape[axis]).sum();
                    origin.push(id);
                    nodes.push(joined)
                };
                n.inputs = n.inputs.chunks(most).map(join).collect();
            }
        }
        origin.push(id);
        renamed.push(nodes.push(n));
    }
    let new = |id: NodeId| renamed[id.index()];
    let outputs = graph.outputs.iter().map(|(name, id)| (name.clone(), new(*id))).collect();
    let updates = graph.updates.iter().map(|(p, id)| (*p, new(*id))).collect();
    Fitted { graph: Cow::Owned(Graph { nodes, outputs, updates, ..graph.clone() }), origin: Some(origin) }
}

/// The operands of sums of squares in runs that touch at most `most` allocations each and show no value twice. Empty for other nodes.
fn groups(graph: &Graph, node: &Node, target: &TargetModel, most: usize) -> Vec<Range<usize>> {
    if !matches!(node.op, Op::Composite(Composite::SquareSums { .. })) {
        return Vec::new();
    }
    let mut out: Vec<Range<usize>> = Vec::new();
    let mut touched = Touched::default();
    for (i, u) in node.inputs.iter().enumerate() {
        let mut source = *u;
        while graph.nodes[source].op.is_view() {
            source = graph.nodes[source].inputs[0];
        }
        let with = touched.with(graph, source, target);
        match out.last_mut() {
            Some(run) if !touched.values.contains(&source) && with.allocations(target) <= most => {
                run.end = i + 1;
                touched = with;
            }
            _ => {
                out.push(i..i + 1);
                touched = Touched::default().with(graph, source, target);
            }
        }
    }
    out
}

/// What a run of operands lies in.
#[derive(Clone, Default)]
struct Touched {
    values: BTreeSet<NodeId>,
    /// Inputs of the program have allocations of their own.
    inputs: usize,
    /// Whether there are scalars of the step, which share one.
    scalars: bool,
    /// Bytes of weights, and of what else is packed where the target places buffers in slots.
    weights: usize,
    others: usize,
}

impl Touched {
    fn with(&self, graph: &Graph, source: NodeId, target: &TargetModel) -> Touched {
        let mut with = self.clone();
        let bytes = graph.nodes[source].ty.bytes().next_multiple_of(target.alignment);
        match graph.nodes[source].op {
            Op::Param(p) if graph.params[p].kind == ParamKind::Input => with.inputs += 1,
            Op::Param(p) if graph.params[p].is_weight() => with.weights += bytes,
            Op::Param(_) => with.others += bytes,
            _ if graph.nodes[source].ty.numel() == 1 => with.scalars = true,
            _ => with.others += bytes,
        }
        with.values.insert(source);
        with
    }

    /// Most allocations that the values take.
    fn allocations(&self, target: &TargetModel) -> usize {
        // Two neighbouring packs are more than one pack's bytes together; a run of weights may begin anywhere in one.
        let packs = |bytes: usize| 1 + bytes.div_ceil(target.max_arg_bytes.div_ceil(2));
        let weights = if self.weights == 0 { 0 } else { packs(self.weights) };
        let others = match self.others {
            0 => 0,
            n if n <= target.max_arg_bytes => 1,
            n => packs(n),
        };
        match target.placement {
            PlacementPolicy::Slab => self.values.len(),
            PlacementPolicy::Slot => self.inputs + usize::from(self.scalars) + weights + others,
        }
    }
}
