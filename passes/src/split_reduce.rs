//! Splits a reduction of very many elements to very few results into two, so that it runs in parallel and in a fixed tree.
//!
//! A sum of all elements of a large tensor is one row to a backend: one thread, one chain of additions. Reshaped so that a part
//! of each reduced axis becomes an axis of its own, it is many rows of at most [`SplitReduce::max_row`] elements followed by a
//! small reduction of their results.
//!
//! Invariants
//! - Decided by shapes alone, and by exact divisors: no padding, and the same tree on every target and number of threads.
//! - Axes are taken innermost first, so the first stage reads memory in order.
//! - A reduction that no divisor fits stays as it is.

use tinygpt_ir::error::GraphError;
use tinygpt_ir::op::Reduce;
use tinygpt_ir::{Graph, Op, T};

use crate::rebuild::rebuild;

/// When and how reductions are split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SplitReduce {
    /// Most elements that one row may reduce; longer rows are split.
    pub max_row: usize,
    /// Most results a reduction may have to be split: more results than this are parallel enough.
    pub max_results: usize,
    /// Fewest elements of a row of the first stage: below it a split saves nothing.
    pub min_row: usize,
}

impl Default for SplitReduce {
    fn default() -> Self {
        SplitReduce { max_row: 4096, max_results: 16, min_row: 64 }
    }
}

/// Splits the reductions (sum and max) of `graph` that are too long; also returns how many were split.
pub fn split_reduce(graph: &Graph, options: &SplitReduce) -> Result<(Graph, usize), Box<GraphError>> {
    let mut split = 0;
    let (result, _) = rebuild(graph, |b, _, node, inputs| match &node.op {
        Op::Reduce { op: op @ (Reduce::Sum | Reduce::Max), axes } => {
            let (value, stages) = reduce(*op, inputs[0], axes, options);
            split += usize::from(stages > 1);
            value
        }
        op => b.node(op.clone(), inputs),
    })?;
    Ok((result, split))
}

/// `x` reduced over `axes` in as many stages as it takes; and their number.
fn reduce<'g>(op: Reduce, x: T<'g>, axes: &[usize], options: &SplitReduce) -> (T<'g>, usize) {
    let apply = |x: T<'g>, axes: &[usize]| match op {
        Reduce::Max => x.reduce_max(axes),
        _ => x.sum(axes),
    };
    let shape = x.shape();
    let reduced = |d: &usize| axes.contains(d);
    let results: usize = (0..shape.len()).filter(|d| !reduced(d)).map(|d| shape[d]).product();
    let count: usize = axes.iter().map(|d| shape[*d]).product();
    let rows = (count > options.max_row && results <= options.max_results).then(|| first_stage(&shape, axes, options));
    let Some(inner) = rows.flatten() else { return (apply(x, axes), 1) };

    // Every reduced axis of extent n becomes two, [n / inner, inner]; the first stage takes the inner ones.
    let (mut split, mut partial, mut stage) = (Vec::new(), Vec::new(), Vec::new());
    for (d, extent) in shape.iter().enumerate() {
        match axes.iter().position(|a| *a == d) {
            Some(i) => {
                split.extend([extent / inner[i], inner[i]]);
                stage.push(split.len() - 1);
                partial.push(extent / inner[i]);
            }
            None => {
                split.push(*extent);
                partial.push(*extent);
            }
        }
    }
    stage.retain(|d| split[*d] > 1);
    let rows = apply(x.reshape(split), &stage).reshape(partial);
    let (value, stages) = reduce(op, rows, axes, options);
    (value, stages + 1)
}

/// For each reduced axis, how much of it one row of the first stage takes: a divisor of its extent, the innermost axes first, at
/// most `max_row` in all. None if that makes rows too short to be worth it.
fn first_stage(shape: &[usize], axes: &[usize], options: &SplitReduce) -> Option<Vec<usize>> {
    let mut inner = vec![1; axes.len()];
    let mut row = 1;
    for (i, axis) in axes.iter().enumerate().rev() {
        let extent = shape[*axis];
        let room = options.max_row / row;
        inner[i] = (1..=room.min(extent)).rev().find(|d| extent.is_multiple_of(*d)).unwrap_or(1);
        row *= inner[i];
        // A part of this axis is left: taking from axes further out would read memory with gaps.
        if inner[i] != extent {
            break;
        }
    }
    (row >= options.min_row).then_some(inner)
}
