//! What the steps of `bench` start from, and the file of it that other frameworks read, so that both sides of a comparison train the same.
//!
//! The file is a safetensors file:
//!
//! | key | what |
//! |---|---|
//! | `init.NAME` f32 | starting weights, linear weights as \[out, in\] |
//! | `ids`, `targets` \[N, B, T\] i32 | a batch for each of the N first steps: text of the builtin corpus, whose loss falls within 20 steps |
//! | `timed.ids`, `timed.targets` \[B, T\] i32 | the batch of every step after those: random tokens of the whole vocabulary |
//!
//! Its metadata holds the model (`vocab`, `ctx`, `layers`, `heads`, `d_model`, `d_mlp`, `gelu`), the optimizer (`lr`, `beta1`, `beta2`, `eps`,
//! `weight_decay` on tensors of two dimensions and more, `grad_clip` with 0 for none), `preset` and `batch`.
//!
//! Invariant: all of it is a pure function of the configuration, so `bench` makes the same again and reads no file.

use super::LR;
use crate::config::{Gelu, RunConfig};
use crate::data::Corpus;
use crate::model::{Batch, forward, initial_weights};
use crate::rng::Stream;
use crate::tensor::HostTensor;
use crate::{Result, tensor_file};
use std::collections::BTreeMap;
use std::path::Path;

/// The batches of a preset's steps.
pub struct Start<'a> {
    config: &'a RunConfig,
    corpus: Corpus,
}

impl<'a> Start<'a> {
    pub fn new(config: &'a RunConfig) -> Result<Self> {
        Ok(Self { config, corpus: Corpus::builtin(config.model.ctx)? })
    }

    /// Makes `batch` that of step `number`, which counts from 1.
    pub fn fill(&self, number: u64, batch: &mut Batch) -> Result<()> {
        let (ids, targets) = batch.slices()?;
        self.corpus.fill_train(self.config.train.seed, number, ids, targets);
        Ok(())
    }

    /// Makes `batch` that of the steps which are timed.
    pub fn fill_timed(&self, batch: &mut Batch) -> Result<()> {
        let stream = Stream::new(self.config.train.seed, "bench");
        let (ids, targets) = batch.slices()?;
        for (at, token) in ids.iter_mut().chain(targets).enumerate() {
            *token = stream.below(at as u64, self.config.model.vocab as u64) as i32;
        }
        Ok(())
    }

    /// Writes the file with the batches of `steps` first steps. An existing file is an error.
    pub fn save(&self, path: &Path, steps: u64) -> Result<()> {
        let (model, train) = (&self.config.model, &self.config.train);
        let mut batch = Batch::zeros(train.batch, model.ctx)?;
        let (mut ids, mut targets) = (Vec::new(), Vec::new());
        for number in 1..=steps {
            self.fill(number, &mut batch)?;
            ids.extend_from_slice(batch.ids.as_i32()?);
            targets.extend_from_slice(batch.targets.as_i32()?);
        }
        let shape = [steps as usize, train.batch, model.ctx];
        let (ids, targets) = (HostTensor::i32(&shape, ids)?, HostTensor::i32(&shape, targets)?);
        self.fill_timed(&mut batch)?;
        let weights = initial_weights(&forward(model, train.batch)?, train.seed)?;
        let batches =
            [("ids", &ids), ("targets", &targets), ("timed.ids", &batch.ids), ("timed.targets", &batch.targets)];
        let tensors = batches.into_iter().map(|(name, tensor)| (name.to_owned(), tensor));
        let init = weights.iter().map(|(name, tensor)| (format!("init.{name}"), tensor));
        tensor_file::write(path, tensors.chain(init), &self.metadata())
    }

    fn metadata(&self) -> BTreeMap<String, String> {
        let (model, train) = (&self.config.model, &self.config.train);
        let gelu = match model.gelu {
            Gelu::Erf => "erf",
            Gelu::Tanh => "tanh",
        };
        let pairs = [
            ("preset", self.config.preset.clone()),
            ("vocab", model.vocab.to_string()),
            ("ctx", model.ctx.to_string()),
            ("layers", model.layers.to_string()),
            ("heads", model.heads.to_string()),
            ("d_model", model.d_model.to_string()),
            ("d_mlp", model.d_mlp.to_string()),
            ("gelu", gelu.to_owned()),
            ("batch", train.batch.to_string()),
            ("lr", LR.to_string()),
            ("beta1", train.betas[0].to_string()),
            ("beta2", train.betas[1].to_string()),
            ("eps", train.eps.to_string()),
            ("weight_decay", train.weight_decay.to_string()),
            ("grad_clip", train.grad_clip.to_string()),
        ];
        pairs.map(|(key, value)| (key.to_owned(), value)).into()
    }
}
