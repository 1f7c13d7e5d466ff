//! The training step: gradients, clipping by the global norm and AdamW (Loshchilov and Hutter 2019) as part of the graph.
//!
//! Interface of the graph it makes
//! - Inputs: those of the forward graph, and two f32 scalars: `lr`, the learning rate of this step, and `step`, which counts
//!   from 1.
//! - States: the weights, and for each weight NAME the moments `adam.m.NAME` and `adam.v.NAME`, which start as zeros.
//! - Outputs: `loss` and `grad_norm` (before clipping), both before the update; on request the gradients `grad.NAME`, before
//!   clipping, too.
//!
//! Invariants
//! - When the gradient norm is not finite, every weight and moment keeps its value: the update is predicated in the graph.
//! - Weight decay applies to weights of two or more dimensions only.

use tinygpt_ir::error::GraphError;
use tinygpt_ir::op::AdamWPart;
use tinygpt_ir::{Arena, Builder, Graph, Init, NodeId, Op, ParamId, ParamKind, StateRole, T, TensorType};

use crate::autodiff::{Gradients, gradients, scalar_output};
use crate::rebuild::param_nodes;
use crate::simplify::dce;

/// Constants of the optimizer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWConfig {
    /// Decay rate of the mean of gradients.
    pub beta1: f64,
    /// Decay rate of the mean of squared gradients.
    pub beta2: f64,
    pub eps: f64,
    /// Decoupled weight decay, a share of the learning rate.
    pub weight_decay: f64,
    /// Largest global norm of the gradients; None leaves them as they are.
    pub grad_clip: Option<f64>,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        AdamWConfig { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, grad_clip: Some(1.0) }
    }
}

/// One training step of a forward graph with an output `loss` (float scalar): see the module comment.
///
/// Errors: there is no such output, no weight, or a name that this pass needs (`lr`, `step`, `adam.m.NAME`) is taken.
pub fn training_step(forward: &Graph, adamw: &AdamWConfig) -> Result<Graph, Box<GraphError>> {
    step(forward, adamw, false)
}

/// [`training_step`] with the gradients as outputs `grad.NAME`, in the order of the weights: for comparisons.
pub fn training_step_with_gradients(forward: &Graph, adamw: &AdamWConfig) -> Result<Graph, Box<GraphError>> {
    step(forward, adamw, true)
}

/// The loss and the gradients as outputs `grad.NAME`, in the order of the weights, without an update: for comparisons.
///
/// Errors: as of [`training_step`].
pub fn loss_and_gradients(forward: &Graph) -> Result<Graph, Box<GraphError>> {
    let (mut graph, weights, grads) = differentiated(forward)?;
    for (weight, grad) in weights.iter().zip(grads) {
        let name = format!("grad.{}", graph.params[*weight].name);
        graph.outputs.push((name, grad));
    }
    graph.name = format!("{}.gradient", forward.name);
    Ok(graph)
}

/// The forward graph with the output `loss` alone and its gradients, the weights, and the gradient of each.
fn differentiated(forward: &Graph) -> Result<(Graph, Vec<ParamId>, Vec<NodeId>), Box<GraphError>> {
    let loss = scalar_output(forward, "loss")?;
    let weights: Vec<ParamId> = forward.params.iter().filter(|(_, p)| p.is_weight()).map(|(id, _)| id).collect();
    if weights.is_empty() {
        return Err(crate::error("training_step", "the graph has no weight to train; declare one".to_string()));
    }
    let only_loss = Graph { outputs: vec![("loss".to_string(), loss)], ..forward.clone() };
    let Gradients { graph, grads } = gradients(&only_loss, "loss", &weights)?;
    Ok((graph, weights, grads))
}

fn step(forward: &Graph, adamw: &AdamWConfig, output_gradients: bool) -> Result<Graph, Box<GraphError>> {
    let (graph, weights, grads) = differentiated(forward)?;
    let names: Vec<String> = weights.iter().map(|w| graph.params[*w].name.clone()).collect();

    let read = param_nodes(&graph);
    let b = Builder::on(graph);
    let grads: Vec<T<'_>> = grads.into_iter().map(|g| b.handle(g)).collect();
    let lr = b.input("lr", TensorType::f32([]));
    let step = b.input("step", TensorType::f32([]));
    let scope = b.scope("optimizer");
    let norm = b.global_norm(&grads);
    let finite = norm.lt(f64::INFINITY);
    drop(scope);
    b.output("grad_norm", norm);
    for ((weight, name), grad) in weights.iter().zip(&names).zip(&grads) {
        if output_gradients {
            b.output(format!("grad.{name}"), *grad);
        }
        // A weight that nothing reads has no node yet.
        let p = read[*weight].map_or_else(|| b.node(Op::Param(*weight), &[]), |id| b.handle(id));
        let moment = |kind: &str| b.state(&format!("{kind}.{name}"), p.ty(), Init::Zeros, StateRole::Optimizer);
        let (m, v) = (moment("adam.m"), moment("adam.v"));
        let _scope = b.scope(format!("optimizer/{name}"));
        let g = adamw.grad_clip.map_or(*grad, |max| grad.clip_by_global_norm(norm, max));
        let decay = if p.rank() >= 2 { adamw.weight_decay } else { 0.0 };
        for (part, old) in [(AdamWPart::Param, p), (AdamWPart::Moment1, m), (AdamWPart::Moment2, v)] {
            let new = p.adamw(part, [g, m, v, lr, step], adamw.beta1, adamw.beta2, adamw.eps, decay);
            b.update(old, finite.select(new, old));
        }
    }
    let mut graph = b.finish()?;
    graph.name = format!("{}.train", forward.name);
    Ok(graph)
}

/// The forward graph with only the named outputs, in the order given, what they and the states' updates need, and the inputs that
/// those read. States stay, so that checkpoints fit.
///
/// Errors: the graph has no such output.
pub fn inference(forward: &Graph, outputs: &[&str]) -> Result<Graph, Box<GraphError>> {
    let mut graph = forward.clone();
    graph.outputs = outputs
        .iter()
        .map(|name| match forward.output_named(name) {
            Some(id) => Ok((name.to_string(), id)),
            None => {
                let names: Vec<&str> = forward.outputs.iter().map(|(n, _)| n.as_str()).collect();
                let message = format!("the graph has no output `{name}`; it has: {}", names.join(", "));
                Err(crate::error("inference", message))
            }
        })
        .collect::<Result<_, _>>()?;
    Ok(drop_unread_inputs(dce(&graph)))
}

/// Removes inputs that no node reads, and renumbers the parameters that stay.
fn drop_unread_inputs(mut graph: Graph) -> Graph {
    let mut read = vec![false; graph.params.len()];
    for node in graph.nodes.values() {
        if let Op::Param(p) = node.op {
            read[p.index()] = true;
        }
    }
    let mut params = Arena::default();
    let renumbered: Vec<Option<ParamId>> = graph
        .params
        .iter()
        .map(|(id, p)| (p.kind != ParamKind::Input || read[id.index()]).then(|| params.push(p.clone())))
        .collect();
    let new = |p: ParamId| renumbered[p.index()].expect("a parameter that is read or is a state stays");
    for id in graph.nodes.ids() {
        if let Op::Param(p) = &mut graph.nodes[id].op {
            *p = new(*p);
        }
    }
    graph.updates.iter_mut().for_each(|(p, _)| *p = new(*p));
    graph.params = params;
    graph
}
