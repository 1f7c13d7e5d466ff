//! Central differences of the loss, by the f64 interpreter: what the gradients of a compiled program are checked against.
//!
//! Invariants
//! - The interpreter evaluates the forward graph, which no pass has touched; it shares no code with differentiation or with any backend.
//! - Weights, batch and coordinates are functions of the seed. Weights take turns, so that every kind of weight is checked.

use crate::subject::Subject;
use serde::Serialize;
use tinygpt_ir::interp::eval;
use tinygpt_ir::{Graph, ParamId, Tensor};
use tinygpt_passes::optimizer::inference;
use tinygpt_runtime::architecture::Architecture;
use tinygpt_runtime::data::Corpus;
use tinygpt_runtime::model::{Batch, initial_weights};
use tinygpt_runtime::rng::{Cursor, Stream};
use tinygpt_runtime::tensor_file::Tensors;
use tinygpt_runtime::{Error, Result};

/// Tokens of the row that a GPT is checked with: the interpreter is slow, and more positions add no other arithmetic.
const CTX: usize = 8;
/// Distance to either side. In f64 the differences are then good to about eight digits, which is more than f32 gradients have.
const STEP: f64 = 1e-4;
/// Coordinates where none are asked for, and at most.
pub const COUNT: usize = 12;
const MOST: usize = 200;

/// One derivative.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    pub weight: String,
    /// Of the element, row-major.
    pub index: usize,
    pub difference: f64,
}

/// Differences, and at which weights and batch they were taken.
pub struct Differences {
    /// The loss there.
    pub loss: f64,
    pub coordinates: Vec<Difference>,
    pub weights: Tensors,
    pub batch: Batch,
}

/// A GPT becomes one row of at most [`CTX`] tokens; a graph stays as it is.
pub fn reduced(mut subject: Subject) -> Subject {
    if let Architecture::Gpt(model) = &mut subject.model {
        model.ctx = model.ctx.min(CTX);
        (subject.config.model.ctx, subject.config.train.batch) = (model.ctx, 1);
    }
    subject
}

/// The differences of the loss of `subject` at `count` coordinates.
///
/// # Errors
/// A count outside its range; a model whose tokens are no bytes; one that is too large for a page.
pub fn differences(subject: &Subject, seed: u64, count: usize) -> Result<Differences> {
    if !(1..=MOST).contains(&count) {
        return Err(Error::input(format!("count must be from 1 to {MOST}, and is {count}")));
    }
    subject.model.check_bytes()?;
    subject.check_size()?;
    let (rows, ctx) = (subject.config.train.batch, subject.model.ctx());
    let forward = subject.model.forward(rows)?;
    let weights = initial_weights(&forward, seed)?;
    let mut batch = Batch::zeros(rows, ctx)?;
    let (ids, targets) = batch.slices()?;
    Corpus::builtin(ctx)?.fill_train(seed, 0, ids, targets);

    let graph = inference(&forward, &["loss"]).map_err(|e| Error::failed(e.to_string()))?;
    let mut params = Vec::new();
    for param in graph.params.values() {
        let data: Vec<f64> = match (param.name.as_str(), weights.get(&param.name)) {
            (_, Some(weight)) => weight.as_f32()?.iter().map(|x| f64::from(*x)).collect(),
            ("ids", None) => batch.ids.as_i32()?.iter().map(|x| f64::from(*x)).collect(),
            _ => batch.targets.as_i32()?.iter().map(|x| f64::from(*x)).collect(),
        };
        params.push(Tensor { data, ..Tensor::splat(param.ty.clone(), 0.0) });
    }
    let loss = loss_at(&graph, &params)?;
    let places: Vec<(ParamId, &str)> =
        graph.params.iter().filter(|(_, p)| p.is_weight()).map(|(id, p)| (id, p.name.as_str())).collect();
    let mut draws = Cursor::new(Stream::new(seed, "gradient check"));
    let first = draws.below(places.len());
    let mut coordinates = Vec::new();
    for number in 0..count {
        let (id, weight) = places[(first + number) % places.len()];
        let at = id.index();
        let index = draws.below(params[at].data.len());
        let value = params[at].data[index];
        let mut beside = |distance: f64| {
            params[at].data[index] = value + distance;
            loss_at(&graph, &params)
        };
        let difference = (beside(STEP)? - beside(-STEP)?) / (2.0 * STEP);
        params[at].data[index] = value;
        coordinates.push(Difference { weight: weight.to_owned(), index, difference });
    }
    Ok(Differences { loss, coordinates, weights, batch })
}

fn loss_at(graph: &Graph, params: &[Tensor]) -> Result<f64> {
    let done = eval(graph, params).map_err(|e| Error::failed(e.to_string()))?;
    let loss = done.output("loss").and_then(|loss| loss.data.first());
    loss.copied().ok_or_else(|| Error::failed("the interpreter gave no loss, which is a fault of tinygpt"))
}
