//! Which operation made the first number that is not finite: a step taken again, node by node.
//!
//! The run goes on until a step goes wrong: its loss or gradient is not finite, or a weight or moment after it. That step's graphs, expanded to
//! primitives, are then evaluated from the state before it, each value rounded to f32 as a backend would hold it.
//!
//! Invariants
//! - **Made, not passed on.** A node is at fault when its value holds a NaN and no operand does, or an infinity and every operand is finite.
//!   Constants are not: a mask may hold infinities.
//! - **It reached the result.** Only nodes from which numbers that are not finite lead to a result that is not are named; of those the first.

use super::Trainer;
use crate::compile::Compiled;
use crate::error::one_line;
use crate::interp::to_f64;
use crate::tensor_file::Tensors;
use crate::{Error, Result};
use std::collections::HashMap;
use std::fmt;
use tinygpt_ir::interp::eval_node;
use tinygpt_ir::{Graph, NodeId, Op, Tensor, TensorType};
use tinygpt_passes::expand::expand_all;
use tinygpt_passes::optimizer::LOSS_SCALE;
use tinygpt_passes::precision::round_operands;

/// The finite numbers of a value, and how many are not.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Span {
    /// Smallest and largest finite number; none where no number is finite.
    finite: Option<(f64, f64)>,
    nans: usize,
    infinities: usize,
    count: usize,
}

impl Span {
    fn of(value: &Tensor) -> Self {
        let mut span = Self { finite: None, nans: 0, infinities: 0, count: value.data.len() };
        for &x in &value.data {
            if x.is_nan() {
                span.nans += 1;
            } else if x.is_infinite() {
                span.infinities += 1;
            } else {
                let (low, high) = span.finite.unwrap_or((x, x));
                span.finite = Some((low.min(x), high.max(x)));
            }
        }
        span
    }

    fn is_finite(&self) -> bool {
        self.nans == 0 && self.infinities == 0
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if let Some((low, high)) = self.finite {
            parts.push(if low == high { format!("{low:.6e}") } else { format!("{low:.6e} to {high:.6e}") });
        }
        for (count, what) in [(self.nans, "NaN"), (self.infinities, "infinite")] {
            if count > 0 {
                parts.push(format!("{count} of {} {what}", self.count));
            }
        }
        f.write_str(&parts.join(", "))
    }
}

/// The operation at fault.
#[derive(Debug, Clone, PartialEq)]
pub struct Culprit {
    /// Step that went wrong, from 1.
    pub step: u64,
    /// Its micro-batch, from 1; none where a step has one, or where the fault lies behind them, in the update.
    pub micro_batch: Option<u64>,
    /// `log`
    pub op: String,
    /// Scope path; empty at the top.
    pub scope: String,
    /// `FILE:LINE` of the DSL call, or of the text that the model was read from.
    pub line: Option<String>,
    /// The value that it made.
    pub made: String,
    /// Each operand: what it is, its type and its range.
    pub operands: Vec<String>,
}

impl fmt::Display for Culprit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "step {}", self.step)?;
        if let Some(micro) = self.micro_batch {
            write!(f, ", micro-batch {micro}")?;
        }
        write!(f, ": {}", self.op)?;
        if !self.scope.is_empty() {
            write!(f, " in {}", self.scope)?;
        }
        if let Some(line) = &self.line {
            write!(f, " ({line})")?;
        }
        write!(f, " made the first number that is not finite\n  result     {}", self.made)?;
        self.operands.iter().enumerate().try_for_each(|(i, operand)| write!(f, "\n  operand {i}  {operand}"))
    }
}

impl Trainer {
    /// Takes steps until one goes wrong, and names the operation at fault; none if all steps up to `end` are well.
    ///
    /// Errors: the step goes wrong on the backend but not when it is taken again in f32, operation by operation.
    pub fn find_nan(&mut self, end: u64) -> Result<Option<Culprit>> {
        while self.step < end {
            let before = (self.train.weights()?, self.train.moments()?);
            self.submit()?;
            let taken = self.take()?;
            if !taken.result.is_finite() && !taken.is_bad() {
                // Skipped for the sake of its loss scale, which will be smaller.
                continue;
            }
            let well = taken.result.is_finite() && {
                let (weights, [m, v]) = (self.train.weights()?, self.train.moments()?);
                [weights, m, v].iter().all(are_finite)
            };
            if !well {
                self.step -= 1;
                return self.replay(before.0, before.1, taken.loss_scale).map(Some);
            }
        }
        Ok(None)
    }

    /// The step after `self.step`, from this state.
    fn replay(&mut self, weights: Tensors, moments: [Tensors; 2], loss_scale: Option<f32>) -> Result<Culprit> {
        let (step, index) = (self.step + 1, self.step);
        let mut params = Params::default();
        for (prefix, tensors) in [("", &weights), ("adam.m.", &moments[0]), ("adam.v.", &moments[1])] {
            for (name, tensor) in tensors {
                params.0.insert(format!("{prefix}{name}"), to_f64(tensor));
            }
        }
        params.0.insert("lr".to_owned(), vec![self.config.train.lr_schedule().lr_at(index)]);
        params.0.insert("step".to_owned(), vec![step as f64]);
        params.0.extend(loss_scale.map(|scale| (LOSS_SCALE.to_owned(), vec![f64::from(scale)])));

        let graphs = self.train.programs().map(|(compiled, _)| primitives(compiled)).collect::<Result<Vec<Graph>>>()?;
        let several = self.config.train.accumulate > 1;
        let mut losses = 0.0;
        for micro in 0..self.config.train.accumulate {
            let (ids, targets) = self.batch.slices()?;
            self.corpus.fill_micro(self.config.train.seed, index, micro, ids, targets);
            params.0.insert("ids".to_owned(), to_f64(&self.batch.ids));
            params.0.insert("targets".to_owned(), to_f64(&self.batch.targets));
            params.0.insert("micro".to_owned(), vec![micro as f64]);
            let found = params.evaluate(&graphs[0])?;
            if let Some(fault) = found {
                return Ok(fault.culprit(&graphs[0], step, several.then_some(micro + 1)));
            }
            losses += params.0.get("loss").map_or(0.0, |loss| loss[0]);
        }
        if let Some(update) = graphs.get(1) {
            params.0.insert("loss".to_owned(), vec![losses / self.config.train.accumulate as f64]);
            if let Some(fault) = params.evaluate(update)? {
                return Ok(fault.culprit(update, step, None));
            }
        }
        Err(Error::failed(format!(
            "step {step} has numbers that are not finite on {}, but not when it is taken again in f32 operation by operation: the fault lies \
             in the order in which a kernel computes, so try another --backend, or --no-templates",
            self.options.backend
        )))
    }
}

fn are_finite(tensors: &Tensors) -> bool {
    tensors.values().all(|t| t.as_f32().is_ok_and(|values| values.iter().all(|x| x.is_finite())))
}

fn primitives(compiled: &Compiled) -> Result<Graph> {
    let failed = |e| Error::failed(one_line(e));
    let graph = expand_all(&compiled.step).map_err(failed)?;
    if !compiled.program.target.f16_operands {
        return Ok(graph);
    }
    round_operands(&graph).map(|(rounded, _)| rounded).map_err(failed)
}

/// Values of parameters by name; what a graph leaves in states and outputs is there for the next.
#[derive(Default)]
struct Params(HashMap<String, Vec<f64>>);

impl Params {
    /// Evaluates `graph` with every value rounded to f32. None if its outputs and new states are finite.
    fn evaluate(&mut self, graph: &Graph) -> Result<Option<Fault>> {
        let live = graph.live();
        let mut uses = vec![0usize; graph.nodes.len()];
        for (_, node) in graph.nodes.iter().filter(|(id, _)| live[id.index()]) {
            node.inputs.iter().for_each(|i| uses[i.index()] += 1);
        }
        graph.roots().for_each(|root| uses[root.index()] += 1);
        let mut values: Vec<Option<Tensor>> = vec![None; graph.nodes.len()];
        let mut spans: Vec<Option<Span>> = vec![None; graph.nodes.len()];
        for (id, node) in graph.nodes.iter().filter(|(id, _)| live[id.index()]) {
            let mut value = match &node.op {
                Op::Param(p) => self.of(&graph.params[*p].name, &node.ty)?,
                op => {
                    // Operands come before their users, and live until the last of them.
                    let inputs: Vec<&Tensor> = node.inputs.iter().filter_map(|i| values[i.index()].as_ref()).collect();
                    eval_node(op, &inputs, &node.ty)
                }
            };
            if node.ty.dtype.is_float() {
                value.data.iter_mut().for_each(|x| *x = f64::from(*x as f32));
            }
            spans[id.index()] = Some(Span::of(&value));
            values[id.index()] = Some(value);
            for i in &node.inputs {
                uses[i.index()] -= 1;
                if uses[i.index()] == 0 {
                    values[i.index()] = None;
                }
            }
        }
        let finite = |id: NodeId| spans[id.index()].is_none_or(|span| span.is_finite());
        if let Some(root) = graph.roots().find(|root| !finite(*root)) {
            return Ok(Some(Fault::behind(root, graph, spans)));
        }
        let states = graph.updates.iter().map(|(p, id)| (&graph.params[*p].name, *id));
        for (name, id) in states.chain(graph.outputs.iter().map(|(name, id)| (name, *id))) {
            if let Some(value) = &values[id.index()] {
                self.0.insert(name.clone(), value.data.clone());
            }
        }
        Ok(None)
    }

    /// The value of a parameter: zeros where there is none yet, as every state starts.
    fn of(&self, name: &str, ty: &TensorType) -> Result<Tensor> {
        let data = self.0.get(name).cloned().unwrap_or_else(|| vec![0.0; ty.numel()]);
        Tensor::new(ty.clone(), data)
            .map_err(|e| Error::failed(format!("{name} of the training step: {}", one_line(e))))
    }
}

/// The node at fault in a graph.
struct Fault {
    node: NodeId,
    spans: Vec<Option<Span>>,
}

impl Fault {
    /// The first node at fault behind the results that are not finite, of which `root` is one; where no node made what is not finite, a
    /// parameter brought it, and that is the first behind.
    fn behind(root: NodeId, graph: &Graph, spans: Vec<Option<Span>>) -> Self {
        let bad = |id: NodeId| spans[id.index()].is_some_and(|span| !span.is_finite());
        let mut behind = vec![false; graph.nodes.len()];
        let mut open: Vec<NodeId> = graph.roots().filter(|root| bad(*root)).collect();
        while let Some(id) = open.pop() {
            if !std::mem::replace(&mut behind[id.index()], true) {
                open.extend(graph.nodes[id].inputs.iter().filter(|i| bad(**i)));
            }
        }
        let span = |id: &NodeId| spans[id.index()].unwrap_or(Span { finite: None, nans: 0, infinities: 0, count: 0 });
        let made = |id: NodeId| {
            let inputs = &graph.nodes[id].inputs;
            let (has_nan, has_bad) = (inputs.iter().any(|i| span(i).nans > 0), inputs.iter().any(|i| bad(*i)));
            !inputs.is_empty() && ((span(&id).nans > 0 && !has_nan) || (span(&id).infinities > 0 && !has_bad))
        };
        let behind: Vec<NodeId> = graph.nodes.iter().map(|(id, _)| id).filter(|id| behind[id.index()]).collect();
        let node = behind.iter().copied().find(|id| made(*id)).or(behind.first().copied()).unwrap_or(root);
        Self { node, spans }
    }

    fn culprit(self, graph: &Graph, step: u64, micro_batch: Option<u64>) -> Culprit {
        let node = &graph.nodes[self.node];
        let range = |id: NodeId| self.spans[id.index()].map_or(String::new(), |span| span.to_string());
        let described = |id: &NodeId| {
            let node = &graph.nodes[*id];
            format!("{} {}: {}", name(graph, *id), node.ty, range(*id))
        };
        Culprit {
            step,
            micro_batch,
            op: name(graph, self.node),
            scope: graph.scope(self.node).to_string(),
            line: node.loc.map(|loc| format!("{}:{}", loc.file, loc.line)),
            made: format!("{}: {}", node.ty, range(self.node)),
            operands: node.inputs.iter().map(described).collect(),
        }
    }
}

/// `log`, or `param NAME`.
fn name(graph: &Graph, id: NodeId) -> String {
    match &graph.nodes[id].op {
        Op::Param(p) => format!("param {}", graph.params[*p].name),
        op => op.name().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tinygpt_ir::{Builder, Literal};

    fn find(build: impl FnOnce(&Builder)) -> Option<Culprit> {
        let b = Builder::new("g");
        build(&b);
        let graph = b.finish().unwrap();
        let mut params = Params::default();
        params.0.insert("x".to_owned(), vec![0.0, 1.0, 200.0]);
        params.evaluate(&graph).unwrap().map(|fault| fault.culprit(&graph, 7, None))
    }

    fn x(b: &Builder) -> tinygpt_ir::T<'_> {
        b.input("x", TensorType::f32([3]))
    }

    #[test]
    fn the_first_that_made_it_is_named() {
        let found = find(|b| {
            let logs = {
                let _scope = b.scope("planted");
                x(b).log()
            };
            b.output("y", (logs - logs).sum(&[0]));
        })
        .unwrap();
        assert_eq!((found.op.as_str(), found.scope.as_str()), ("log", "planted"));
        assert_eq!(found.operands, ["param x f32[3]: 0.000000e0 to 2.000000e2"]);
        assert_eq!(found.made, "f32[3]: 0.000000e0 to 5.298317e0, 1 of 3 infinite");
        assert!(found.line.as_ref().unwrap().contains("find_nan.rs:"), "{found:?}");
        let text = found.to_string();
        assert!(text.starts_with("step 7: log in planted (") && text.contains("\n  operand 0  param x"), "{text}");
    }

    #[test]
    fn values_overflow_as_f32() {
        let found = find(|b| b.output("y", x(b).exp() * 2.0)).unwrap();
        assert_eq!(found.op, "exp");
        assert_eq!(found.made, "f32[3]: 1.000000e0 to 2.718282e0, 1 of 3 infinite");
    }

    /// An infinity that a select drops, or a mask that an exponential takes to zero, is at no fault.
    #[test]
    fn what_does_not_reach_the_result_is_left() {
        fn harmless(b: &Builder) -> tinygpt_ir::T<'_> {
            let x = x(b);
            let inverse = x.gt(0.5).select(x.recip(), 0.0);
            let masked = x.gt(0.5).select(x, b.splat([3], Literal::f32(f64::NEG_INFINITY)));
            inverse + (masked - 200.0).exp()
        }
        assert_eq!(find(|b| b.output("y", harmless(b))), None);
        let found = find(|b| {
            let y = harmless(b);
            b.output("y", (y - y).sqrt().recip());
        })
        .unwrap();
        assert_eq!(found.op, "recip");
        assert!(found.operands[0].starts_with("sqrt f32[3]: 0.000000e0"), "{found:?}");
    }
}
