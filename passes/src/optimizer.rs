//! The training step: gradients, clipping by the global norm and AdamW (Loshchilov and Hutter 2019) as part of the graph.
//!
//! One batch a step is one graph ([`training_step`]); several micro-batches a step are two, of which the first runs once a micro-batch and
//! the second once a step ([`accumulate_step`], [`update_step`]).
//!
//! | graph | inputs besides the forward graph's | states | outputs |
//! |---|---|---|---|
//! | training step | `lr`, `step` | weights, moments | `loss`, `grad_norm`; on request the gradients `grad.NAME`, before clipping |
//! | accumulate | `micro` | weights, which it only reads, and sums `grad.NAME` | `loss` |
//! | scaled training step, scaled accumulate | `loss_scale` too | as above | as above |
//! | update | `lr`, `step`, `loss`, sums `grad.NAME`; none of the forward graph's | weights, moments | `grad_norm` |
//!
//! - Inputs, f32 scalars: `lr`, the learning rate of this step; `step`, which counts from 1; `micro`, which counts the micro-batches of a step
//!   from 0, and with 0 begins new sums; `loss` of the update, the mean over the micro-batches; `loss_scale`, by which the loss is multiplied before
//!   it is differentiated and the gradients divided after, so that those in between fit a narrower type (Micikevicius et al. 2018).
//! - States: each weight NAME has the moments `adam.m.NAME` and `adam.v.NAME`, which start as zeros.
//! - Outputs: `loss` and `grad_norm` (of the mean gradient, before clipping), both before the update.
//!
//! Invariants
//! - When the loss or the gradient norm is not finite, every weight and moment keeps its value: the update is predicated in the graph.
//! - Weight decay applies to weights of two or more dimensions only.
//! - N micro-batches make the step of one batch of all their rows, to rounding, where the loss is a mean over rows: the mean of N gradients
//!   is the gradient of the mean.

use tinygpt_ir::error::GraphError;
use tinygpt_ir::op::AdamWPart;
use tinygpt_ir::{Arena, Builder, DType, Graph, Init, NodeId, Op, ParamId, ParamKind, StateRole, T, TensorType};

use crate::autodiff::{Gradients, gradients, scalar_output};
use crate::rebuild::param_nodes;
use crate::simplify::dce;

/// The input that scales the loss.
pub const LOSS_SCALE: &str = "loss_scale";

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
    step(forward, adamw, false, false)
}

/// [`training_step`] with an input `loss_scale`, and with the gradients as outputs on request.
///
/// Errors: as of [`training_step`], with the name `loss_scale`.
pub fn scaled_training_step(
    forward: &Graph,
    adamw: &AdamWConfig,
    output_gradients: bool,
) -> Result<Graph, Box<GraphError>> {
    step(forward, adamw, output_gradients, true)
}

/// [`training_step`] with the gradients as outputs `grad.NAME`, in the order of the weights: for comparisons.
pub fn training_step_with_gradients(forward: &Graph, adamw: &AdamWConfig) -> Result<Graph, Box<GraphError>> {
    step(forward, adamw, true, false)
}

/// The loss and the gradients as outputs `grad.NAME`, in the order of the weights, without an update: for comparisons.
///
/// Errors: as of [`training_step`].
pub fn loss_and_gradients(forward: &Graph) -> Result<Graph, Box<GraphError>> {
    let Differentiated { mut graph, grads, weights, .. } = differentiate(forward, false)?;
    for (weight, grad) in weights.iter().zip(grads) {
        let name = format!("grad.{}", graph.params[*weight].name);
        graph.outputs.push((name, grad));
    }
    graph.name = format!("{}.gradient", forward.name);
    Ok(graph)
}

/// Adds the gradient of one micro-batch to the sums of those before it: see the module comment.
///
/// Errors: as [`training_step`], with the names `micro` and `grad.NAME`.
pub fn accumulate_step(forward: &Graph) -> Result<Graph, Box<GraphError>> {
    accumulate(forward, false)
}

/// [`accumulate_step`] with an input `loss_scale`; the sums are of gradients without it.
///
/// Errors: as of [`accumulate_step`], with the name `loss_scale`.
pub fn scaled_accumulate_step(forward: &Graph) -> Result<Graph, Box<GraphError>> {
    accumulate(forward, true)
}

fn accumulate(forward: &Graph, scaled: bool) -> Result<Graph, Box<GraphError>> {
    let Differentiated { graph, grads, weights, scale, .. } = differentiate(forward, scaled)?;
    let names: Vec<String> = weights.iter().map(|w| graph.params[*w].name.clone()).collect();
    let b = Builder::on(graph);
    let started = b.input("micro", TensorType::f32([])).gt(0.0);
    for (name, grad) in names.iter().zip(grads) {
        let grad = unscaled(b.handle(grad), scale.map(|s| b.handle(s)));
        let sum = b.state(&format!("grad.{name}"), grad.ty(), Init::Zeros, StateRole::Optimizer);
        let _scope = b.scope(format!("accumulate/{name}"));
        b.update(sum, started.select(sum, 0.0) + grad);
    }
    let mut graph = b.finish()?;
    graph.name = format!("{}.accumulate", forward.name);
    Ok(graph)
}

/// Ends a step of `micro_batches` micro-batches, whose gradients have been summed: see the module comment.
///
/// Errors: the graph has no weight, or a name that this pass needs is taken.
pub fn update_step(forward: &Graph, adamw: &AdamWConfig, micro_batches: u64) -> Result<Graph, Box<GraphError>> {
    let b = Builder::new(format!("{}.update", forward.name));
    let mut weights = Vec::new();
    for p in forward.params.values() {
        if let ParamKind::State { init, role: StateRole::Weight } = p.kind {
            weights.push((p.name.clone(), b.state(&p.name, p.ty.clone(), init, StateRole::Weight)));
        }
    }
    some_weight(weights.len())?;
    let share = 1.0 / micro_batches as f64;
    let sums: Vec<T<'_>> = weights.iter().map(|(name, p)| b.input(format!("grad.{name}"), p.ty())).collect();
    let loss = b.input("loss", TensorType::f32([]));
    apply(&b, adamw, loss, &weights, &sums, &|sum| if share == 1.0 { sum } else { sum * share });
    b.finish()
}

fn step(forward: &Graph, adamw: &AdamWConfig, output_gradients: bool, scaled: bool) -> Result<Graph, Box<GraphError>> {
    let Differentiated { graph, loss, grads, weights, scale } = differentiate(forward, scaled)?;
    let read = param_nodes(&graph);
    let names: Vec<String> = weights.iter().map(|w| graph.params[*w].name.clone()).collect();
    let b = Builder::on(graph);
    let grads: Vec<T<'_>> = grads.into_iter().map(|g| b.handle(g)).collect();
    // A weight that nothing reads has no node yet.
    let node = |w: ParamId| read[w].map_or_else(|| b.node(Op::Param(w), &[]), |id| b.handle(id));
    let weights: Vec<(String, T<'_>)> = names.into_iter().zip(weights.into_iter().map(node)).collect();
    let scale = scale.map(|s| b.handle(s));
    apply(&b, adamw, b.handle(loss), &weights, &grads, &|grad| unscaled(grad, scale));
    if output_gradients {
        let outputs = weights.iter().zip(&grads);
        outputs.for_each(|((name, _), grad)| b.output(format!("grad.{name}"), unscaled(*grad, scale)));
    }
    let mut graph = b.finish()?;
    graph.name = format!("{}.train", forward.name);
    Ok(graph)
}

/// A forward graph with its output `loss` alone, and the gradients of that.
struct Differentiated {
    graph: Graph,
    loss: NodeId,
    /// Of the weights, in their order; of the scaled loss, where there is a scale.
    grads: Vec<NodeId>,
    weights: Vec<ParamId>,
    /// The input `loss_scale`.
    scale: Option<NodeId>,
}

/// `grad`, of a loss that was multiplied by `scale`, without that.
fn unscaled<'g>(grad: T<'g>, scale: Option<T<'g>>) -> T<'g> {
    scale.map_or(grad, |scale| grad * scale.recip())
}

fn differentiate(forward: &Graph, scaled: bool) -> Result<Differentiated, Box<GraphError>> {
    let loss = scalar_output(forward, "loss")?;
    let weights: Vec<ParamId> = forward.params.iter().filter(|(_, p)| p.is_weight()).map(|(id, _)| id).collect();
    some_weight(weights.len())?;
    let only_loss = Graph { outputs: vec![("loss".to_string(), loss)], ..forward.clone() };
    if !scaled {
        let Gradients { graph, grads } = gradients(&only_loss, "loss", &weights)?;
        let loss = scalar_output(&graph, "loss")?;
        return Ok(Differentiated { graph, loss, grads, weights, scale: None });
    }
    let b = Builder::on(Graph { outputs: Vec::new(), ..only_loss });
    let scale = b.input(LOSS_SCALE, TensorType::f32([]));
    let loss = b.handle(loss);
    b.output("loss", loss);
    b.output("scaled", if loss.dtype() == DType::F32 { loss * scale } else { loss * scale.cast(loss.dtype()) });
    let Gradients { mut graph, grads } = gradients(&b.finish()?, "scaled", &weights)?;
    graph.outputs.retain(|(name, _)| name == "loss");
    let loss = scalar_output(&graph, "loss")?;
    let read = param_nodes(&graph);
    let scale = graph.params.iter().find(|(_, p)| p.name == LOSS_SCALE).and_then(|(p, _)| read[p]);
    Ok(Differentiated { graph, loss, grads, weights, scale })
}

fn some_weight(count: usize) -> Result<(), Box<GraphError>> {
    match count {
        0 => Err(crate::error("training_step", "the graph has no weight to train; declare one".to_string())),
        _ => Ok(()),
    }
}

/// Clips the gradients, which `mean` makes of `sums` by one factor, and updates `weights`, named as given: inputs `lr` and `step`, the moments, the
/// output `grad_norm`.
fn apply<'g>(
    b: &'g Builder,
    adamw: &AdamWConfig,
    loss: T<'g>,
    weights: &[(String, T<'g>)],
    sums: &[T<'g>],
    mean: &dyn Fn(T<'g>) -> T<'g>,
) {
    let lr = b.input("lr", TensorType::f32([]));
    let step = b.input("step", TensorType::f32([]));
    let scope = b.scope("optimizer");
    // The norm of the sums, rather than that of their means, which nothing then has to store.
    let norm = mean(b.global_norm(sums));
    let loss = if loss.dtype() == DType::F32 { loss } else { loss.cast(DType::F32) };
    // A NaN is not less than anything. A loss whose square is beyond f32 is as good as infinite.
    let finite = (loss * loss).lt(f64::INFINITY).select(norm, f64::INFINITY).lt(f64::INFINITY);
    drop(scope);
    b.output("grad_norm", norm);
    for ((name, p), sum) in weights.iter().zip(sums) {
        let moment = |kind: &str| b.state(&format!("{kind}.{name}"), p.ty(), Init::Zeros, StateRole::Optimizer);
        let (m, v) = (moment("adam.m"), moment("adam.v"));
        let _scope = b.scope(format!("optimizer/{name}"));
        let grad = mean(*sum);
        let g = adamw.grad_clip.map_or(grad, |max| grad.clip_by_global_norm(norm, max));
        let decay = if p.rank() >= 2 { adamw.weight_decay } else { 0.0 };
        for (part, old) in [(AdamWPart::Param, *p), (AdamWPart::Moment1, m), (AdamWPart::Moment2, v)] {
            let new = p.adamw(part, [g, m, v, lr, step], adamw.beta1, adamw.beta2, adamw.eps, decay);
            b.update(old, finite.select(new, old));
        }
    }
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
