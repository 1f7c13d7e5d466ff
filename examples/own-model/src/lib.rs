//! A gated window MLP over bytes, trained and sampled through tinygpt's public API.
//!
//! The model: the embeddings of a byte and of the [`WINDOW`] - 1 bytes before it lie side by side, a gated hidden layer (SwiGLU, Shazeer
//! 2020) reads them, and a linear layer gives the logits of the byte that follows (Bengio et al. 2003).
//!
//! Shapes: B batch, T context, W window, C embedding width, H hidden width.

use tinygpt::ir::error::GraphError;
use tinygpt::ir::{Builder, DType, Graph, Init, T, TensorType};
use tinygpt::passes::optimizer::AdamWConfig;
use tinygpt::runtime::architecture::{Architecture, GraphModel};
use tinygpt::runtime::compile::ExecOptions;
use tinygpt::runtime::data::Corpus;
use tinygpt::runtime::model::{Batch, Logits, TrainStep};
use tinygpt::runtime::sampling::Sampler;
use tinygpt::runtime::tensor::{DType as HostType, HostTensor};
use tinygpt::runtime::{Error, Result};

/// Rows of a batch (B).
pub const BATCH: usize = 16;
/// Bytes of a row (T).
pub const CTX: usize = 32;
/// Bytes that a prediction is made from (W).
pub const WINDOW: usize = 8;
const EMBEDDING: usize = 16;
const HIDDEN: usize = 96;
const BYTES: usize = 256;

/// Peak of the learning rate, which falls linearly to a tenth.
const LR: f64 = 4e-3;
/// Of weights, batches and samples.
const SEED: u64 = 42;

/// The forward graph: inputs `ids`, `targets` i32 [B,T]; outputs `logits` f32 [B,T,256], `loss` f32 scalar.
pub fn window_mlp() -> std::result::Result<Graph, Box<GraphError>> {
    let b = Builder::new("window_mlp");
    let tokens = TensorType::new(DType::I32, [BATCH, CTX]);
    let ids = b.input("ids", tokens.clone());
    let targets = b.input("targets", tokens);

    let window = {
        let _scope = b.scope("window");
        let embedded = b.weight("embedding", [BYTES, EMBEDDING], Init::Normal(0.5)).gather(ids); // (B,T,C)
        b.concat(&(0..WINDOW).map(|back| shifted(embedded, back)).collect::<Vec<_>>(), 2) // (B,T,W*C)
    };
    let hidden = {
        let _scope = b.scope("hidden");
        let gate = layer(&b, "gate", window, HIDDEN);
        gate.silu() * layer(&b, "value", window, HIDDEN) // (B,T,H)
    };
    let logits = layer(&b, "head", hidden, BYTES);
    b.output("logits", logits);
    b.output("loss", logits.cross_entropy(targets));
    b.finish()
}

/// x [B,T,C] moved `back` places along T, zeros before the first: at t what was at t - back.
fn shifted(x: T<'_>, back: usize) -> T<'_> {
    let length = x.dim(1);
    x.pad([0, back, 0], [0, 0, 0], 0.0).slice_axis(1, 0, length)
}

/// x [.., in] through a linear layer of its own scope: [.., out].
fn layer<'g>(b: &'g Builder, name: &str, x: T<'g>, out: usize) -> T<'g> {
    let _scope = b.scope(name);
    let width = x.dim(x.rank() - 1);
    let weight = b.weight("weight", [out, width], Init::Normal(1.0 / (width as f64).sqrt()));
    x.linear(weight, Some(b.weight("bias", [out], Init::Zeros)))
}

/// The model as the runtime takes it.
pub fn model() -> Result<Architecture> {
    let graph = window_mlp().map_err(|e| Error::failed(e.to_string()))?;
    Ok(GraphModel::new(graph)?.into())
}

/// Trains on the built-in stories; `each` hears of every step's number and loss in nats a byte.
pub fn train(
    model: &Architecture,
    options: &ExecOptions,
    steps: u64,
    mut each: impl FnMut(u64, f64),
) -> Result<TrainStep> {
    let corpus = Corpus::builtin(CTX)?;
    let mut step = TrainStep::new(model, BATCH, AdamWConfig::default(), false, options)?;
    step.start(SEED)?;
    let mut batch = Batch::zeros(BATCH, CTX)?;
    for number in 1..=steps {
        let (ids, targets) = batch.slices()?;
        corpus.fill_train(SEED, number - 1, ids, targets);
        let left = 1.0 - number as f64 / steps as f64;
        let result = step.run(&batch, LR * (0.1 + 0.9 * left), number)?;
        each(number, result.loss);
    }
    Ok(step)
}

/// `prompt` and `count` more bytes as the trained model continues it.
pub fn sample(
    model: &Architecture,
    trained: &mut TrainStep,
    options: &ExecOptions,
    prompt: &str,
    count: usize,
) -> Result<Vec<u8>> {
    let mut logits = Logits::new(model, BATCH, options)?;
    logits.follow(trained)?;
    let mut sampler = Sampler::new(0.7, None, SEED)?;
    let mut text = prompt.as_bytes().to_vec();
    // The graph has a fixed batch: the text is in the first row, and the others are idle.
    let mut ids = HostTensor::zeros(HostType::I32, &[BATCH, CTX])?;
    for index in 0..count {
        let seen = &text[text.len().saturating_sub(CTX)..];
        ids.as_i32_mut()?.iter_mut().zip(seen).for_each(|(id, byte)| *id = i32::from(*byte));
        let last = seen.len().max(1) - 1;
        let row = logits.run(&ids)?.as_f32()?;
        let next = sampler.choose(&row[last * BYTES..(last + 1) * BYTES], index as u64)?;
        text.push(u8::try_from(next).map_err(|_| Error::failed(format!("the model chose {next}, which is no byte")))?);
    }
    Ok(text)
}
