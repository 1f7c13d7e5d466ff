//! Expansion of composites into primitives.
//!
//! Invariants
//! - The result means the same: a composite's expansion is its meaning.
//! - Nodes keep their scope and source line; every node of an expansion has those of its composite.
//! - Every node has a counterpart (dead ones too), so a caller can follow any node it holds.

use tinygpt_ir::error::GraphError;
use tinygpt_ir::{Composite, Graph, NodeId, Op, composite};

use crate::rebuild::rebuild;

/// Expands every composite for which `wanted` holds. Also returns the new id of each old node.
pub fn expand_where(
    graph: &Graph,
    wanted: impl Fn(NodeId, &Composite) -> bool,
) -> Result<(Graph, Vec<NodeId>), Box<GraphError>> {
    rebuild(graph, |b, id, node, inputs| match &node.op {
        Op::Composite(c) if wanted(id, c) => composite::expand(c, b, inputs),
        op => b.node(op.clone(), inputs),
    })
}

/// Expands the composites that no backend has a kernel for. A global norm becomes what a kernel over all its operands takes part in, rather than
/// a reduction an operand.
pub fn expand(graph: &Graph) -> Result<Graph, Box<GraphError>> {
    let expanded = rebuild(graph, |b, _, node, inputs| match &node.op {
        Op::Composite(Composite::GlobalNorm) => composite::global_norm_in_blocks(b, inputs),
        Op::Composite(c) if !c.has_kernel() => composite::expand(c, b, inputs),
        op => b.node(op.clone(), inputs),
    });
    expanded.map(|(g, _)| g)
}

/// Expands every composite: the result consists of primitives.
pub fn expand_all(graph: &Graph) -> Result<Graph, Box<GraphError>> {
    expand_where(graph, |_, _| true).map(|(g, _)| g)
}
