//! Dead code elimination.

use std::collections::HashMap;

use tinygpt_ir::{Arena, Graph, Node, NodeId, ScopeId};

/// The graph without the nodes that no output or update depends on, and without the scope paths that no node has.
///
/// Parameters stay even when nothing reads them: they are the graph's interface.
pub fn dce(graph: &Graph) -> Graph {
    let live = graph.live();
    let mut scopes = Arena::default();
    scopes.push(String::new());
    let mut renamed: HashMap<ScopeId, ScopeId> = HashMap::from([(ScopeId(0), ScopeId(0))]);
    let mut nodes: Arena<NodeId, Node> = Arena::default();
    let mut map: Vec<Option<NodeId>> = vec![None; graph.nodes.len()];
    let new = |map: &[Option<NodeId>], id: NodeId| map[id.index()].expect("what a live node depends on is live");
    for (id, node) in graph.nodes.iter().filter(|(id, _)| live[id.index()]) {
        let scope = *renamed.entry(node.scope).or_insert_with(|| scopes.push(graph.scopes[node.scope].clone()));
        let inputs = node.inputs.iter().map(|i| new(&map, *i)).collect();
        map[id.index()] = Some(nodes.push(Node { inputs, scope, ..node.clone() }));
    }
    Graph {
        name: graph.name.clone(),
        params: graph.params.clone(),
        nodes,
        scopes,
        outputs: graph.outputs.iter().map(|(name, n)| (name.clone(), new(&map, *n))).collect(),
        updates: graph.updates.iter().map(|(p, n)| (*p, new(&map, *n))).collect(),
    }
}
