//! Copying a graph node by node, some nodes replaced.

use tinygpt_ir::error::GraphError;
use tinygpt_ir::{Arena, Builder, Graph, Node, NodeId, Op, ParamId, T};

/// The graph with each node replaced by what `make` builds for it from its new operands; also the new id of each old node.
///
/// Parameters, scopes, outputs and updates stay. Everything built for a node carries its scope and source line.
pub(crate) fn rebuild(
    graph: &Graph,
    mut make: impl for<'g> FnMut(&'g Builder, NodeId, &Node, &[T<'g>]) -> T<'g>,
) -> Result<(Graph, Vec<NodeId>), Box<GraphError>> {
    let b = Builder::on(without_nodes(graph));
    let mut map: Vec<T<'_>> = Vec::with_capacity(graph.nodes.len());
    for (id, node) in graph.nodes.iter() {
        b.set_origin(Some((node.scope, node.loc)));
        let inputs: Vec<T<'_>> = node.inputs.iter().map(|i| map[i.index()]).collect();
        map.push(make(&b, id, node, &inputs));
    }
    let map: Option<Vec<NodeId>> = map.into_iter().map(T::id).collect();
    let mut result = b.finish()?;
    let map = map.expect("a builder without an error has made every node");
    result.outputs = graph.outputs.iter().map(|(name, n)| (name.clone(), map[n.index()])).collect();
    result.updates = graph.updates.iter().map(|(p, n)| (*p, map[n.index()])).collect();
    Ok((result, map))
}

/// The graph's name, parameters and scopes.
pub(crate) fn without_nodes(graph: &Graph) -> Graph {
    Graph {
        name: graph.name.clone(),
        params: graph.params.clone(),
        nodes: Arena::default(),
        scopes: graph.scopes.clone(),
        outputs: Vec::new(),
        updates: Vec::new(),
    }
}

/// For each parameter, the node that reads it, if there is one.
pub(crate) fn param_nodes(graph: &Graph) -> Arena<ParamId, Option<NodeId>> {
    let mut read = Arena::default();
    graph.params.ids().for_each(|_| {
        read.push(None);
    });
    for (id, node) in graph.nodes.iter() {
        if let Op::Param(p) = node.op {
            read[p] = Some(id);
        }
    }
    read
}
