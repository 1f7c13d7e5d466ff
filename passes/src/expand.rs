//! Expansion of composites into primitives.
//!
//! Invariants
//! - The result means the same: a composite's expansion is its meaning.
//! - Nodes keep their scope and source line; every node of an expansion has those of its composite.
//! - Every node has a counterpart (dead ones too), so a caller can follow any node it holds.

use tinygpt_ir::error::GraphError;
use tinygpt_ir::{Arena, Builder, Composite, Graph, NodeId, Op, T, composite};

/// Expands every composite for which `wanted` holds. Also returns the new id of each old node.
pub fn expand_where(
    graph: &Graph,
    wanted: impl Fn(NodeId, &Composite) -> bool,
) -> Result<(Graph, Vec<NodeId>), Box<GraphError>> {
    let empty = Graph { nodes: Arena::default(), outputs: Vec::new(), updates: Vec::new(), ..graph.clone() };
    let b = Builder::on(empty);
    let mut map: Vec<T<'_>> = Vec::with_capacity(graph.nodes.len());
    for (id, node) in graph.nodes.iter() {
        b.set_origin(Some((node.scope, node.loc)));
        let inputs: Vec<T<'_>> = node.inputs.iter().map(|i| map[i.index()]).collect();
        let value = match &node.op {
            Op::Composite(c) if wanted(id, c) => composite::expand(c, &b, &inputs),
            op => b.node(op.clone(), &inputs),
        };
        map.push(value);
    }
    let map: Option<Vec<NodeId>> = map.into_iter().map(T::id).collect();
    let mut expanded = b.finish()?;
    let map = map.expect("a builder without an error has made every node");
    expanded.outputs = graph.outputs.iter().map(|(name, n)| (name.clone(), map[n.index()])).collect();
    expanded.updates = graph.updates.iter().map(|(p, n)| (*p, map[n.index()])).collect();
    Ok((expanded, map))
}

/// Expands the composites that no backend has a kernel for.
pub fn expand(graph: &Graph) -> Result<Graph, Box<GraphError>> {
    expand_where(graph, |_, c| !c.has_kernel()).map(|(g, _)| g)
}

/// Expands every composite: the result consists of primitives.
pub fn expand_all(graph: &Graph) -> Result<Graph, Box<GraphError>> {
    expand_where(graph, |_, _| true).map(|(g, _)| g)
}
