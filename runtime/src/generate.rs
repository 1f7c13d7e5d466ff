//! Continuing a text: one token at a time, from the logits of the last position.
//!
//! The program has a fixed context. A text shorter than it is padded on the right: attention is causal, so what stands
//! behind a position cannot change its logits, and the result is exact. Of a longer text the last ctx tokens are fed, at
//! positions from 0.

use crate::Result;
use crate::compile::ExecOptions;
use crate::config::ModelConfig;
use crate::model::{Logits, TrainStep};
use crate::sampling::{Sampler, context_window};
use crate::tensor::{DType, HostTensor};
use crate::tensor_file::Tensors;

/// What is continued when nothing is given: the end of a line, after which anything may begin.
pub const DEFAULT_PROMPT: &str = "\n";

/// A model that continues texts.
pub struct Generator {
    logits: Logits,
    vocab: usize,
    /// (1, ctx) i32
    ids: HostTensor,
}

impl Generator {
    /// Compiles the model for one row; its weights are zeros.
    pub fn new(model: &ModelConfig, options: &ExecOptions) -> Result<Self> {
        let ids = HostTensor::zeros(DType::I32, &[1, model.ctx])?;
        Ok(Self { logits: Logits::new(model, 1, options)?, vocab: model.vocab, ids })
    }

    /// Takes weights that must be exactly the model's; the error names `origin`.
    pub fn load(&mut self, weights: &Tensors, origin: &str) -> Result<()> {
        self.logits.load(weights, origin)
    }

    /// Takes over the weights of a training step.
    pub fn follow(&mut self, train: &mut TrainStep) -> Result<()> {
        self.logits.follow(train)
    }

    /// The logits (vocab) of the token that follows `tokens`, which are at least one.
    pub fn next(&mut self, tokens: &[i32]) -> Result<&[f32]> {
        let ids = self.ids.as_i32_mut()?;
        let window = context_window(tokens, ids.len());
        ids[..window.len()].copy_from_slice(window);
        ids[window.len()..].fill(0);
        let logits = self.logits.run(&self.ids)?.as_f32()?;
        Ok(&logits[(window.len().max(1) - 1) * self.vocab..][..self.vocab])
    }

    /// Adds `count` tokens to `tokens`, giving each to `each` as it is chosen. An empty text begins with the token 0.
    pub fn extend(
        &mut self,
        tokens: &mut Vec<i32>,
        count: usize,
        sampler: &mut Sampler,
        mut each: impl FnMut(i32) -> Result<()>,
    ) -> Result<()> {
        for index in 0..count as u64 {
            let token = sampler.choose(self.next(tokens)?, index)? as i32;
            tokens.push(token);
            each(token)?;
        }
        Ok(())
    }

    /// `count` bytes that follow `prompt`.
    pub fn text(&mut self, prompt: &[u8], count: usize, sampler: &mut Sampler) -> Result<Vec<u8>> {
        let mut tokens: Vec<i32> = prompt.iter().map(|byte| i32::from(*byte)).collect();
        let mut text = Vec::with_capacity(count);
        self.extend(&mut tokens, count, sampler, |token| {
            text.push(token as u8);
            Ok(())
        })?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Backend, RunConfig};
    use crate::model::{forward, initial_weights};

    const INTERP: ExecOptions =
        ExecOptions { backend: Backend::Interp, threads: 1, isa: None, no_templates: false, gpu: None };

    fn generator() -> Generator {
        let preset = RunConfig::preset("tiny").unwrap().model;
        let model = ModelConfig { vocab: 13, ctx: 4, layers: 1, heads: 2, d_model: 8, d_mlp: 16, ..preset };
        let mut weights = initial_weights(&forward(&model, 1).unwrap(), 5).unwrap();
        // Larger weights, so that the logits depend on the text.
        weights.values_mut().for_each(|t| t.as_f32_mut().unwrap().iter_mut().for_each(|x| *x *= 20.0));
        let mut generator = Generator::new(&model, &INTERP).unwrap();
        generator.load(&weights, "w").unwrap();
        generator
    }

    #[test]
    fn what_is_behind_a_position_does_not_change_it() {
        let mut generator = generator();
        let short = generator.next(&[3, 7]).unwrap().to_vec();
        generator.next(&[3, 7, 9, 12]).unwrap();
        let row = |at: usize| at * 13..(at + 1) * 13;
        let ids = HostTensor::i32(&[1, 4], vec![3, 7, 9, 12]).unwrap();
        let full = generator.logits.run(&ids).unwrap().as_f32().unwrap().to_vec();
        assert_eq!(short, full[row(1)]);
        assert_ne!(short, full[row(3)]);
    }

    #[test]
    fn a_long_text_is_its_last_ctx_tokens() {
        let mut generator = generator();
        let last = generator.next(&[2, 3, 4, 5]).unwrap().to_vec();
        assert_eq!(generator.next(&[9, 9, 2, 3, 4, 5]).unwrap(), last);
        assert_ne!(generator.next(&[9, 3, 4, 5]).unwrap(), last);
    }

    #[test]
    fn greedy_text_is_the_argmax_of_each_step() {
        let mut generator = generator();
        let mut sampler = Sampler::new(0.0, None, 0).unwrap();
        let text = generator.text(&[1], 7, &mut sampler).unwrap();
        let mut tokens = vec![1];
        for byte in text {
            let logits = generator.next(&tokens).unwrap();
            let best = (0..13).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap();
            assert_eq!(usize::from(byte), best);
            tokens.push(i32::from(byte));
        }
        assert_eq!(generator.text(&[], 2, &mut sampler).unwrap(), generator.text(&[0], 2, &mut sampler).unwrap());
    }
}
