//! Models made ready: from a configuration to compiled graphs that run, for each of the things done with a model.
//!
//! | type | graph | used by |
//! |---|---|---|
//! | [`TrainStep`] | loss, gradients, clip, AdamW; two graphs where a step has several micro-batches | `train`, `bench`, `parity` |
//! | [`EvalLoss`] | loss of one batch | validation |
//! | [`Logits`] | logits of one batch | `sample`, `eval`, `parity` |
//! | [`Decode`] | logits after one more token | `sample` |
//!
//! Invariants:
//! - the first three are compiled from the one forward graph of an [`Architecture`], the last from the twin with a cache that a GPT has: their
//!   weights have the same names and shapes;
//! - starting weights are a pure function of (seed, name, shape); everything else starts as zeros;
//! - a token that the vocabulary lacks is refused before it reaches a program.

mod train_step;

pub use train_step::{StepResult, TrainStep};

use crate::architecture::Architecture;
use crate::checkpoint::check_architecture;
use crate::compile::{self, ExecOptions, Goal};
use crate::config::{Gelu, ModelConfig, TrainConfig};
use crate::error::one_line;
use crate::executor::Executor;
use crate::rng;
use crate::tensor::{DType, HostTensor};
use crate::tensor_file::Tensors;
use crate::{Error, Result};
use tinygpt_ir::op::GeluForm;
use tinygpt_ir::{Graph, Init, ParamKind};
use tinygpt_models::{GptConfig, gpt, gpt_decode, gpt_look};
use tinygpt_passes::optimizer::AdamWConfig;

/// The forward graph of a GPT that sees `batch` rows of `ctx` tokens.
pub fn forward(model: &ModelConfig, batch: usize) -> Result<Graph> {
    gpt(&gpt_config(model, batch)).map_err(|e| Error::input(one_line(e)))
}

/// The graph that decodes one token with the keys and values of those before it cached.
pub fn decode(model: &ModelConfig) -> Result<Graph> {
    gpt_decode(&gpt_config(model, 1)).map_err(|e| Error::input(one_line(e)))
}

/// The graph that gives the logits and attention weights of one row.
pub fn look(model: &ModelConfig) -> Result<Graph> {
    gpt_look(&gpt_config(model, 1)).map_err(|e| Error::input(one_line(e)))
}

fn gpt_config(model: &ModelConfig, batch: usize) -> GptConfig {
    let ModelConfig { vocab, ctx, layers, heads, d_model, d_mlp, gelu } = *model;
    let gelu = match gelu {
        Gelu::Erf => GeluForm::Erf,
        Gelu::Tanh => GeluForm::Tanh,
    };
    GptConfig { vocab, ctx, layers, heads, d_model, d_mlp, batch, gelu }
}

/// The optimizer's constants of a configuration.
pub fn adamw(train: &TrainConfig) -> AdamWConfig {
    let [beta1, beta2] = train.betas;
    AdamWConfig {
        beta1,
        beta2,
        eps: train.eps,
        weight_decay: train.weight_decay,
        grad_clip: (train.grad_clip > 0.0).then_some(train.grad_clip),
    }
}

/// Names and shapes of a graph's weights, in its order.
pub fn weight_shapes(graph: &Graph) -> Vec<(String, Vec<usize>)> {
    graph.params.values().filter(|p| p.is_weight()).map(|p| (p.name.clone(), p.ty.shape.clone())).collect()
}

/// The starting weights of a graph under a seed.
pub fn initial_weights(graph: &Graph, seed: u64) -> Result<Tensors> {
    let weights = graph.params.values().filter(|p| p.is_weight());
    let started = weights.map(|p| {
        let n = p.ty.numel();
        let values = match p.kind {
            ParamKind::State { init: Init::Ones, .. } => vec![1.0; n],
            ParamKind::State { init: Init::Normal(std), .. } => rng::init_normal(seed, &p.name, std, n),
            ParamKind::State { init: Init::Zeros, .. } | ParamKind::Input => vec![0.0; n],
        };
        Ok((p.name.clone(), HostTensor::f32(&p.ty.shape, values)?))
    });
    started.collect()
}

/// Writes `tensors` into the states named `prefix` and their name.
pub fn write_states(exec: &mut dyn Executor, prefix: &str, tensors: &Tensors) -> Result<()> {
    tensors.iter().try_for_each(|(name, tensor)| exec.write(&format!("{prefix}{name}"), tensor))
}

/// Reads the states named `prefix` and each of `names`.
fn read_states<'a>(
    exec: &mut dyn Executor,
    prefix: &str,
    names: impl IntoIterator<Item = &'a String>,
) -> Result<Tensors> {
    names.into_iter().map(|name| Ok((name.clone(), exec.read(&format!("{prefix}{name}"))?))).collect()
}

/// Writes weights that must be exactly those of the program; the error lists what differs and names `origin`.
fn load_weights(exec: &mut dyn Executor, graph: &Graph, weights: &Tensors, origin: &str) -> Result<()> {
    check_architecture(weights, &weight_shapes(graph), origin)?;
    write_states(exec, "", weights)
}

/// Copies the weights of `graph` from one program to another.
fn copy_weights(from: &mut dyn Executor, to: &mut dyn Executor, graph: &Graph) -> Result<()> {
    weight_shapes(graph).iter().try_for_each(|(name, _)| to.write(name, &from.read(name)?))
}

/// Ids and targets of one batch, (batch, ctx) i32.
#[derive(Debug, Clone)]
pub struct Batch {
    pub ids: HostTensor,
    pub targets: HostTensor,
}

impl Batch {
    pub fn zeros(batch: usize, ctx: usize) -> Result<Self> {
        let tokens = HostTensor::zeros(DType::I32, &[batch, ctx])?;
        Ok(Self { ids: tokens.clone(), targets: tokens })
    }

    /// Ids and targets, row-major, to fill in place.
    pub fn slices(&mut self) -> Result<(&mut [i32], &mut [i32])> {
        Ok((self.ids.as_i32_mut()?, self.targets.as_i32_mut()?))
    }
}

/// Refuses tokens outside the vocabulary.
fn check_tokens(tokens: &[i32], vocab: usize) -> Result<()> {
    match tokens.iter().find(|id| usize::try_from(**id).map_or(true, |id| id >= vocab)) {
        None => Ok(()),
        Some(id) => Err(Error::input(format!("the text holds the token {id}, and the model knows 0 to {}", vocab - 1))),
    }
}

/// The mean loss of one batch.
pub struct EvalLoss {
    exec: Box<dyn Executor>,
    vocab: usize,
    loss: HostTensor,
}

impl EvalLoss {
    pub fn new(model: impl Into<Architecture>, batch: usize, options: &ExecOptions) -> Result<Self> {
        let model = model.into();
        let compiled = compile::compile(model.forward(batch)?, &Goal::Infer(&["loss"]), &options.target())?;
        let exec = compile::prepare(&compiled, options)?;
        Ok(Self { exec, vocab: model.vocab(), loss: HostTensor::scalar_f32(0.0) })
    }

    /// Takes over the weights of a training step.
    pub fn follow(&mut self, train: &mut TrainStep) -> Result<()> {
        train.copy_weights_to(&mut *self.exec)
    }

    /// Mean cross-entropy of `batch` in nats.
    pub fn loss(&mut self, batch: &Batch) -> Result<f64> {
        check_tokens(batch.ids.as_i32()?, self.vocab)?;
        check_tokens(batch.targets.as_i32()?, self.vocab)?;
        self.exec.write("ids", &batch.ids)?;
        self.exec.write("targets", &batch.targets)?;
        self.exec.step()?;
        self.exec.read_into("loss", &mut self.loss)?;
        Ok(self.loss.as_f32()?[0].into())
    }
}

/// The logits of one batch.
pub struct Logits {
    exec: Box<dyn Executor>,
    forward: Graph,
    vocab: usize,
    /// (batch, ctx, vocab) f32
    logits: HostTensor,
}

impl Logits {
    pub fn new(model: impl Into<Architecture>, batch: usize, options: &ExecOptions) -> Result<Self> {
        let model = model.into();
        model.check_logits()?;
        let compiled = compile::compile(model.forward(batch)?, &Goal::Infer(&["logits"]), &options.target())?;
        let exec = compile::prepare(&compiled, options)?;
        let logits = HostTensor::zeros(DType::F32, &[batch, model.ctx(), model.vocab()])?;
        Ok(Self { exec, forward: compiled.forward, vocab: model.vocab(), logits })
    }

    /// Rows of a batch.
    pub fn rows(&self) -> usize {
        self.logits.shape()[0]
    }

    /// Takes weights that must be exactly the model's; the error names `origin`.
    pub fn load(&mut self, weights: &Tensors, origin: &str) -> Result<()> {
        load_weights(&mut *self.exec, &self.forward, weights, origin)
    }

    /// Takes over the weights of a training step.
    pub fn follow(&mut self, train: &mut TrainStep) -> Result<()> {
        train.copy_weights_to(&mut *self.exec)
    }

    /// Takes over the weights of a decoding program.
    pub fn follow_decode(&mut self, decode: &mut Decode) -> Result<()> {
        copy_weights(&mut *decode.exec, &mut *self.exec, &self.forward)
    }

    /// The logits (batch, ctx, vocab) of `ids` (batch, ctx) i32.
    pub fn run(&mut self, ids: &HostTensor) -> Result<&HostTensor> {
        check_tokens(ids.as_i32()?, self.vocab)?;
        self.exec.write("ids", ids)?;
        self.exec.step()?;
        self.exec.read_into("logits", &mut self.logits)?;
        Ok(&self.logits)
    }
}

/// The logits after one more token, with the keys and values of the tokens before it cached.
pub struct Decode {
    exec: Box<dyn Executor>,
    graph: Graph,
    vocab: usize,
    token: HostTensor,
    position: HostTensor,
    /// (vocab) f32
    logits: HostTensor,
}

impl Decode {
    /// Compiles and prepares the step; its weights are zeros, its cache empty.
    pub fn new(model: &ModelConfig, options: &ExecOptions) -> Result<Self> {
        let compiled = compile::compile(decode(model)?, &Goal::Infer(&["logits"]), &options.target())?;
        let exec = compile::prepare(&compiled, options)?;
        let token = HostTensor::zeros(DType::I32, &[1])?;
        let position = HostTensor::zeros(DType::I32, &[])?;
        let logits = HostTensor::zeros(DType::F32, &[model.vocab])?;
        Ok(Self { exec, graph: compiled.forward, vocab: model.vocab, token, position, logits })
    }

    /// Takes weights that must be exactly the model's, and empties the cache; the error names `origin`.
    pub fn load(&mut self, weights: &Tensors, origin: &str) -> Result<()> {
        self.clear()?;
        load_weights(&mut *self.exec, &self.graph, weights, origin)
    }

    /// Takes over the weights of a training step, and empties the cache.
    pub fn follow(&mut self, train: &mut TrainStep) -> Result<()> {
        self.clear()?;
        train.copy_weights_to(&mut *self.exec)
    }

    /// Makes the cache zeros: numbers of other weights that are not finite would reach every sum of values, though with weight zero.
    fn clear(&mut self) -> Result<()> {
        let caches = self.graph.params.values().filter(|p| p.is_state() && !p.is_weight());
        caches.map(|p| (&p.name, &p.ty.shape)).try_for_each(|(name, shape)| {
            let zeros = HostTensor::zeros(DType::F32, shape)?;
            self.exec.write(name, &zeros)
        })
    }

    /// Feeds `token` at `position`, which counts from 0 and lies within the context. The cache must hold the tokens of all positions before.
    pub fn step(&mut self, token: i32, position: usize) -> Result<()> {
        check_tokens(&[token], self.vocab)?;
        self.token.as_i32_mut()?[0] = token;
        self.position.as_i32_mut()?[0] = position as i32;
        self.exec.write("token", &self.token)?;
        self.exec.write("position", &self.position)?;
        self.exec.step()
    }

    /// The logits (vocab) that follow the last token fed.
    pub fn logits(&mut self) -> Result<&[f32]> {
        self.exec.read_into("logits", &mut self.logits)?;
        self.logits.as_f32()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Backend, RunConfig};

    pub(crate) const INTERP: ExecOptions =
        ExecOptions { backend: Backend::Interp, threads: 1, isa: None, no_templates: false, gpu: None };

    fn model() -> ModelConfig {
        let preset = RunConfig::preset("tiny").unwrap().model;
        ModelConfig { vocab: 11, ctx: 4, layers: 1, heads: 2, d_model: 4, d_mlp: 8, ..preset }
    }

    #[test]
    fn starting_weights_follow_the_graph() {
        let graph = forward(&RunConfig::preset("tiny").unwrap().model, 1).unwrap();
        let weights = initial_weights(&graph, 42).unwrap();
        assert_eq!(weights, initial_weights(&graph, 42).unwrap());
        assert_ne!(weights, initial_weights(&graph, 43).unwrap());
        let std = |name: &str| {
            let x = weights[name].as_f32().unwrap();
            (x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / x.len() as f64).sqrt()
        };
        let expected = [
            ("token_embedding.weight", 0.02),
            ("blocks.1.mlp.fc_in.weight", 0.02),
            ("blocks.1.mlp.fc_out.weight", 0.01),
            ("blocks.0.attn.o_proj.weight", 0.01),
            ("blocks.0.ln1.weight", 1.0),
            ("blocks.0.ln1.bias", 0.0),
        ];
        for (name, expected) in expected {
            assert!((std(name) - expected).abs() <= 0.05 * expected, "{name}: {}", std(name));
        }
    }

    #[test]
    fn the_three_programs_agree_on_weights_and_loss() {
        let mut train = TrainStep::new(&model(), 2, AdamWConfig::default(), true, &INTERP).unwrap();
        train.start(1).unwrap();
        let mut batch = Batch::zeros(2, 4).unwrap();
        let (ids, targets) = batch.slices().unwrap();
        ids.copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8]);
        targets.copy_from_slice(&[2, 3, 4, 5, 6, 7, 8, 9]);
        let mut eval = EvalLoss::new(&model(), 2, &INTERP).unwrap();
        eval.follow(&mut train).unwrap();
        let before = eval.loss(&batch).unwrap();
        let first = train.run(&batch, 1e-2, 1).unwrap();
        assert_eq!(first.loss, before);
        assert!(first.grad_norm > 0.0 && train.gradients().unwrap().len() == train.weights().unwrap().len());
        assert_eq!(eval.loss(&batch).unwrap(), before, "the weights were copied, not shared");
        eval.follow(&mut train).unwrap();
        assert!(eval.loss(&batch).unwrap() < before);

        // The loss is the mean of minus the logarithm of the softmax of the logits.
        let mut logits = Logits::new(&model(), 2, &INTERP).unwrap();
        logits.load(&train.weights().unwrap(), "w").unwrap();
        let values = logits.run(&batch.ids).unwrap().as_f32().unwrap().to_vec();
        let rows = values.chunks(11).zip(batch.targets.as_i32().unwrap());
        let mean = rows.map(|(row, t)| crate::evaluate::cross_entropy(row, *t as usize)).sum::<f64>() / 8.0;
        assert!((mean - eval.loss(&batch).unwrap()).abs() < 1e-6);
    }

    #[test]
    fn a_step_can_be_taken_again_from_its_states() {
        let new = || TrainStep::new(&model(), 2, AdamWConfig::default(), false, &INTERP).unwrap();
        let mut train = new();
        train.start(3).unwrap();
        let batch = Batch::zeros(2, 4).unwrap();
        train.run(&batch, 1e-2, 1).unwrap();
        let (weights, [m, v]) = (train.weights().unwrap(), train.moments().unwrap());
        let mut other = new();
        other.load(&weights, Some([&m, &v]), "x").unwrap();
        assert_eq!(train.run(&batch, 1e-2, 2).unwrap(), other.run(&batch, 1e-2, 2).unwrap());
        assert_eq!(train.weights().unwrap(), other.weights().unwrap());
        assert_eq!(train.moments().unwrap(), other.moments().unwrap());
        // Starting again forgets the moments.
        train.start(3).unwrap();
        assert!(train.moments().unwrap().iter().flat_map(|t| t.values()).all(|t| t.bytes().iter().all(|b| *b == 0)));
    }

    #[test]
    fn foreign_tokens_and_weights_are_refused() {
        let mut logits = Logits::new(&model(), 1, &INTERP).unwrap();
        for id in [-1, 11] {
            let ids = HostTensor::i32(&[1, 4], vec![0, id, 0, 0]).unwrap();
            let error = logits.run(&ids).unwrap_err().to_string();
            assert_eq!(error, format!("the text holds the token {id}, and the model knows 0 to 10"));
        }
        let error = logits.load(&Tensors::new(), "F").unwrap_err().to_string();
        assert!(error.starts_with("F does not fit the model: token_embedding.weight is missing"), "{error}");
    }
}
