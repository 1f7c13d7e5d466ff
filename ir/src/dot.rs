//! The graph for graph algorithms (petgraph) and for pictures (Graphviz DOT).
//!
//! The DOT text is a pure function of the graph; nodes are labelled with op and type and coloured by the scope's first
//! parts, their full scope path is the tooltip.

use petgraph::dot::{Config, Dot};
use petgraph::graph::DiGraph;
use petgraph::visit::{EdgeRef, NodeRef};

use crate::graph::{Graph, NodeId};
use crate::op::Op;

/// Colours of Graphviz's `set312` scheme.
const COLOURS: usize = 12;

/// The dataflow of `graph`: a node is weighted by its id (and its petgraph index is the same number), an edge goes
/// from operand to user and is weighted by the operand slot.
pub fn to_petgraph(graph: &Graph) -> DiGraph<NodeId, usize> {
    let mut out = DiGraph::with_capacity(graph.nodes.len(), graph.nodes.len() * 2);
    let index: Vec<_> = graph.nodes.ids().map(|id| out.add_node(id)).collect();
    for (id, node) in graph.nodes.iter() {
        for (slot, input) in node.inputs.iter().enumerate() {
            out.add_edge(index[input.index()], index[id.index()], slot);
        }
    }
    out
}

/// `graph` as DOT text, for `dot -Tsvg`.
pub fn dot(graph: &Graph) -> String {
    let flow = to_petgraph(graph);
    let mut groups: Vec<&str> = Vec::new();
    let colour: Vec<usize> = graph
        .nodes
        .ids()
        .map(|id| {
            let group = group(graph.scope(id));
            let at = groups.iter().position(|g| *g == group).unwrap_or_else(|| {
                groups.push(group);
                groups.len() - 1
            });
            at % COLOURS + 1
        })
        .collect();
    let slot = |_: &DiGraph<NodeId, usize>, e: petgraph::graph::EdgeReference<'_, usize>| {
        let many = graph.nodes[NodeId(e.target().index() as u32)].inputs.len() > 1;
        if many { format!("label=\"{}\"", e.weight()) } else { String::new() }
    };
    let node = |_: &DiGraph<NodeId, usize>, n: (petgraph::graph::NodeIndex, &NodeId)| {
        let id = *n.weight();
        let names: Vec<String> =
            graph.outputs.iter().filter(|(_, o)| *o == id).map(|(name, _)| format!("output {name}")).collect();
        let updates = graph.updates.iter().filter(|(_, u)| *u == id);
        let names = names.into_iter().chain(updates.map(|(p, _)| format!("update {}", graph.params[*p].name)));
        let lines: Vec<String> = [title(graph, id)].into_iter().chain(names).collect();
        format!("label={:?}, tooltip={:?}, fillcolor={}", lines.join("\n"), graph.scope(id), colour[id.index()])
    };
    let config = [Config::GraphContentOnly, Config::NodeNoLabel, Config::EdgeNoLabel];
    let body = Dot::with_attr_getters(&flow, &config, &slot, &node);
    let style = "node [shape=box, style=filled, colorscheme=set312, fontname=\"monospace\"]";
    format!("digraph {:?} {{\n    {style}\n{body:?}}}\n", graph.name)
}

fn title(graph: &Graph, id: NodeId) -> String {
    let node = &graph.nodes[id];
    let what = match node.op {
        Op::Param(p) => graph.params[p].name.clone(),
        _ => node.op.name().to_string(),
    };
    format!("{id} {what}\n{}", node.ty)
}

/// The part of a scope path that shares a colour: two steps, such as `blocks.3`.
fn group(scope: &str) -> &str {
    let end = scope.match_indices('.').nth(1).map_or(scope.len(), |(i, _)| i);
    &scope[..end]
}
