//! Reverse-mode differentiation of graphs (Baydin et al. 2018, section 3.2): a graph in, the same graph with gradient nodes out.
//!
//! Nodes are visited from the loss backwards. When a node is reached, every use of it has contributed to its cotangent (the
//! gradient of the loss by the node's value), because users have larger ids; its rule then gives each operand a contribution.
//!
//! Invariants
//! - Only nodes between the wanted parameters and the loss are touched; what does not lie there gets no gradient node.
//! - A cotangent has the type of its node. Only floats have one: integers and booleans end a path.
//! - There is one table with one entry for each primitive ([`rules::pull`], an exhaustive match). Composites with a rule of their
//!   own keep it ([`composites::has_rule`]); all others on the path are expanded first, and their gradient is their expansion's.
//! - Gradient nodes carry the line of the forward node they belong to, and its scope under `grad/`: the gradient of what
//!   `blocks.0.attn` computes is in `grad/blocks.0.attn`.
//! - Contributions are added in descending order of the users' ids, so the sum has one fixed order.

mod composites;
mod rules;

use std::collections::HashMap;

use tinygpt_ir::error::GraphError;
use tinygpt_ir::{Builder, Graph, Literal, NodeId, Op, ParamId, ScopeId, T};

use crate::rebuild::param_nodes;
pub use composites::has_rule;
use rules::{Cotangents, Site};

/// A graph with its gradients.
#[derive(Clone, Debug)]
pub struct Gradients {
    /// The forward graph (outputs and updates as they were) plus gradient nodes.
    pub graph: Graph,
    /// d loss / d parameter, of the parameter's type: one for each wanted parameter, in their order. Zero where
    /// the loss does not depend on it.
    pub grads: Vec<NodeId>,
}

/// The gradients of the float scalar output `loss` with respect to the parameters `wrt`.
///
/// Errors: there is no such output, or it is not a float scalar; a wanted parameter is not of a float type.
pub fn gradients(forward: &Graph, loss: &str, wrt: &[ParamId]) -> Result<Gradients, Box<GraphError>> {
    let root = scalar_output(forward, loss)?;
    if let Some(p) = wrt.iter().map(|p| &forward.params[*p]).find(|p| !p.ty.dtype.is_float()) {
        return Err(crate::error("gradients", format!("`{}` is {}; only floats have a gradient", p.name, p.ty)));
    }
    let path = Path::new(forward, root, wrt);
    let (mut graph, map) = crate::expand::expand_where(forward, |id, c| path.contains(id) && !has_rule(c))?;
    let root = map[root.index()];
    let path = Path::new(&graph, root, wrt);
    let scopes = grad_scopes(&mut graph, &path);

    // The forward nodes as they are before gradient nodes join them.
    let nodes = graph.nodes.clone();
    let read = param_nodes(&graph);
    let b = Builder::on(graph);
    let mut cotangents: Vec<Option<T<'_>>> = vec![None; nodes.len()];
    let origin = |id: NodeId| Some((scopes.get(&nodes[id].scope).copied().unwrap_or(nodes[id].scope), nodes[id].loc));
    b.set_origin(origin(root));
    cotangents[root.index()] = Some(b.splat([], Literal::new(nodes[root].ty.dtype, 1.0)));
    for id in nodes.ids().rev().skip_while(|id| *id != root).filter(|id| path.contains(*id)) {
        let (node, Some(g)) = (&nodes[id], cotangents[id.index()]) else { continue };
        b.set_origin(origin(id));
        let site = Site {
            b: &b,
            x: node.inputs.iter().map(|i| b.handle(*i)).collect(),
            y: b.handle(id),
            g,
            wanted: node.inputs.iter().map(|i| path.contains(*i)).collect(),
        };
        let contributions = match rules::pull(&node.op, &site) {
            Cotangents::Of(contributions) => contributions,
            Cotangents::None(why) => {
                b.fail("gradients", format!("{} has no gradient: {why}", node.op.name()), &[site.y]);
                break;
            }
        };
        for (input, contribution) in node.inputs.iter().zip(contributions) {
            let Some(new) = contribution else { continue };
            b.set_origin(origin(*input));
            let slot = &mut cotangents[input.index()];
            *slot = Some(slot.map_or(new, |sum| sum + new));
        }
    }

    b.set_origin(None);
    let grads: Option<Vec<NodeId>> = wrt
        .iter()
        .map(|p| {
            let zero = || {
                let ty = &forward.params[*p].ty;
                b.splat(ty.shape.clone(), Literal::new(ty.dtype, 0.0))
            };
            read[*p].and_then(|id| cotangents[id.index()]).unwrap_or_else(zero).id()
        })
        .collect();
    let graph = b.finish()?;
    Ok(Gradients { graph, grads: grads.expect("a builder without an error has made every node") })
}

/// The node of the output `name`, which must be a float scalar.
pub(crate) fn scalar_output(graph: &Graph, name: &str) -> Result<NodeId, Box<GraphError>> {
    let Some(root) = graph.output_named(name) else {
        let names: Vec<&str> = graph.outputs.iter().map(|(n, _)| n.as_str()).collect();
        let message = format!("the graph has no output `{name}`; it has: {}", names.join(", "));
        return Err(crate::error("gradients", message));
    };
    let ty = &graph.nodes[root].ty;
    if !ty.dtype.is_float() || ty.rank() != 0 {
        let message = format!("the output `{name}` is {ty}; a gradient is taken of a float scalar, such as f32[]");
        return Err(crate::error("gradients", message));
    }
    Ok(root)
}

/// Nodes through which the loss depends, by floats only, on a wanted parameter.
struct Path(Vec<bool>);

impl Path {
    fn new(graph: &Graph, root: NodeId, wrt: &[ParamId]) -> Path {
        let mut depends = vec![false; graph.nodes.len()];
        for (id, node) in graph.nodes.iter() {
            let source = matches!(node.op, Op::Param(p) if wrt.contains(&p));
            depends[id.index()] =
                node.ty.dtype.is_float() && (source || node.inputs.iter().any(|i| depends[i.index()]));
        }
        let mut reaches = vec![false; graph.nodes.len()];
        reaches[root.index()] = true;
        for (id, node) in graph.nodes.iter().rev().filter(|(id, _)| id.index() <= root.index()) {
            if reaches[id.index()] {
                node.inputs.iter().for_each(|i| reaches[i.index()] = true);
            }
        }
        Path(depends.iter().zip(&reaches).map(|(d, r)| *d && *r).collect())
    }

    fn contains(&self, id: NodeId) -> bool {
        self.0[id.index()]
    }
}

/// For each scope on the path, the scope of its gradient nodes.
fn grad_scopes(graph: &mut Graph, path: &Path) -> HashMap<ScopeId, ScopeId> {
    let mut used: Vec<ScopeId> =
        graph.nodes.iter().filter(|(id, _)| path.contains(*id)).map(|(_, n)| n.scope).collect();
    used.sort_unstable();
    used.dedup();
    used.into_iter()
        .map(|scope| {
            let path = match graph.scopes[scope].as_str() {
                "" => "grad".to_string(),
                path => format!("grad/{path}"),
            };
            (scope, graph.intern_scope(&path))
        })
        .collect()
}
