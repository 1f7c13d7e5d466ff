//! The f64 interpreter of graphs: slow, obvious, and the oracle of every backend.
//!
//! Invariants
//! - The graph satisfies the verifier (module `verify`); parameter values are checked here.
//! - Only nodes that an output or update depends on are evaluated; a value is freed after its last use unless
//!   [`Keep::All`] asks for it.
//! - A composite is evaluated through its expansion, which is its meaning.

use std::borrow::{Borrow, Cow};
use std::fmt;

use crate::composite;
use crate::dsl::Builder;
use crate::graph::{Graph, NodeId, ParamId};
use crate::op::{Composite, Op};
use crate::spec;
use crate::tensor::Tensor;
use crate::types::TensorType;

/// Which node values [`eval_keeping`] returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Only outputs and updates.
    Roots,
    /// Also the value of every live node.
    All,
}

/// What a step yields.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluated {
    /// In the graph's order.
    pub outputs: Vec<(String, Tensor)>,
    /// In the graph's order; states without an update are absent.
    pub updates: Vec<(ParamId, Tensor)>,
    /// By node id; empty unless [`Keep::All`], None for dead nodes.
    pub values: Vec<Option<Tensor>>,
}

impl Evaluated {
    pub fn output(&self, name: &str) -> Option<&Tensor> {
        self.outputs.iter().find(|(n, _)| n == name).map(|(_, t)| t)
    }

    pub fn update(&self, param: ParamId) -> Option<&Tensor> {
        self.updates.iter().find(|(p, _)| *p == param).map(|(_, t)| t)
    }
}

/// A parameter value that does not fit the graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvalError(pub String);

impl std::error::Error for EvalError {}

impl fmt::Display for EvalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Runs one step of `graph` on `params`, one tensor a parameter in id order.
pub fn eval<P: Borrow<Tensor>>(graph: &Graph, params: &[P]) -> Result<Evaluated, EvalError> {
    eval_keeping(graph, params, Keep::Roots)
}

/// [`eval`], returning also the values of inner nodes if `keep` says so.
pub fn eval_keeping<P: Borrow<Tensor>>(graph: &Graph, params: &[P], keep: Keep) -> Result<Evaluated, EvalError> {
    check_params(graph, params)?;
    let live = graph.live();
    let mut uses = vec![0usize; graph.nodes.len()];
    for (id, node) in graph.nodes.iter().filter(|(id, _)| live[id.index()]) {
        node.inputs.iter().for_each(|i| uses[i.index()] += 1);
        uses[id.index()] += (keep == Keep::All) as usize;
    }
    graph.roots().for_each(|r| uses[r.index()] += 1);

    let mut values: Vec<Option<Cow<'_, Tensor>>> = vec![None; graph.nodes.len()];
    for (id, node) in graph.nodes.iter().filter(|(id, _)| live[id.index()]) {
        let value = match &node.op {
            Op::Param(p) => Cow::Borrowed(params[p.index()].borrow()),
            op => {
                let inputs: Vec<&Tensor> = node.inputs.iter().map(|i| value_of(&values, *i)).collect();
                Cow::Owned(eval_node(op, &inputs, &node.ty))
            }
        };
        values[id.index()] = Some(value);
        for i in &node.inputs {
            uses[i.index()] -= 1;
            if uses[i.index()] == 0 {
                values[i.index()] = None;
            }
        }
    }
    let root = |id: NodeId| value_of(&values, id).clone();
    Ok(Evaluated {
        outputs: graph.outputs.iter().map(|(name, id)| (name.clone(), root(*id))).collect(),
        updates: graph.updates.iter().map(|(param, id)| (*param, root(*id))).collect(),
        values: match keep {
            Keep::Roots => Vec::new(),
            Keep::All => values.into_iter().map(|v| v.map(Cow::into_owned)).collect(),
        },
    })
}

fn value_of<'a>(values: &'a [Option<Cow<'_, Tensor>>], id: NodeId) -> &'a Tensor {
    values[id.index()].as_deref().expect("operands come before their users and live until the last of them")
}

fn check_params<P: Borrow<Tensor>>(graph: &Graph, params: &[P]) -> Result<(), EvalError> {
    if params.len() != graph.params.len() {
        let message =
            format!("graph {} has {} parameters, found {} values", graph.name, graph.params.len(), params.len());
        return Err(EvalError(message));
    }
    for ((_, param), value) in graph.params.iter().zip(params) {
        let value = value.borrow();
        if value.ty != param.ty {
            return Err(EvalError(format!("parameter {} is {}, found a value of {}", param.name, param.ty, value.ty)));
        }
        value.check().map_err(|e| EvalError(format!("parameter {}: {e}", param.name)))?;
    }
    Ok(())
}

/// The value of one node: `op` on `inputs`, of type `ty` as the type rules give it.
///
/// # Panics
/// On `Op::Param`, whose value is not a function of operands, and on operands that the type rules refuse.
pub fn eval_node(op: &Op, inputs: &[&Tensor], ty: &TensorType) -> Tensor {
    Tensor { ty: ty.clone(), data: spec::value(op, inputs, ty) }
}

/// The value of `c` on operands that have passed its type rule: that of its expansion.
pub(crate) fn eval_composite(c: &Composite, x: &[&Tensor]) -> Tensor {
    let b = Builder::new(c.name());
    let inputs: Vec<_> = x.iter().enumerate().map(|(i, t)| b.input(format!("x{i}"), t.ty.clone())).collect();
    b.output("y", composite::expand(c, &b, &inputs));
    let graph = b.finish().unwrap_or_else(|e| panic!("the operands of {} have passed its type rule: {e}", c.name()));
    let mut result = eval(&graph, x).unwrap_or_else(|e| panic!("operands of {} are valid tensors: {e}", c.name()));
    result.outputs.swap_remove(0).1
}
