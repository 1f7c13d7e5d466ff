//! Continuing a text: one token at a time, from the logits of the last position.
//!
//! Within the context each token is one step of the decode program, which keeps the keys and values of the tokens before it: a cache.
//! Beyond the context there is no such step, since every position moves with the window: the last ctx tokens are fed to the forward
//! program, at positions from 0, and nothing is kept. A graph that is no GPT has no decode program, and takes this way at every length.
//!
//! Invariants
//! - The logits are a function of the text and the weights. The cache holds the keys and values of a text's beginning, and only what a text
//!   has in common with it is kept; new weights empty it.
//! - The forward program is made for the first text that is longer than the context.

use crate::Result;
use crate::architecture::Architecture;
use crate::compile::ExecOptions;
use crate::model::{Decode, Logits, TrainStep};
use crate::sampling::{Sampler, context_window};
use crate::tensor::{DType, HostTensor};
use crate::tensor_file::Tensors;

/// What is continued when nothing is given: the end of a line, after which anything may begin.
pub const DEFAULT_PROMPT: &str = "\n";

/// A model that continues texts.
pub struct Generator {
    model: Architecture,
    options: ExecOptions,
    /// Of a GPT.
    decode: Option<Decode>,
    /// The tokens whose keys and values are in the cache, by position.
    cached: Vec<i32>,
    window: Option<Window>,
}

/// The last ctx tokens of a text.
struct Window {
    logits: Logits,
    /// (rows, ctx) i32; the first row counts.
    ids: HostTensor,
    /// The decode program has newer weights.
    stale: bool,
}

impl Window {
    /// The window's program, made if there is none.
    fn of<'w>(slot: &'w mut Option<Window>, model: &Architecture, options: &ExecOptions) -> Result<&'w mut Window> {
        match slot {
            Some(window) => Ok(window),
            none => {
                let rows = model.rows(1);
                let logits = Logits::new(model, rows, options)?;
                let ids = HostTensor::zeros(DType::I32, &[rows, model.ctx()])?;
                Ok(none.insert(Window { logits, ids, stale: true }))
            }
        }
    }

    /// The logits of the token that follows the last ctx of `tokens`; of fewer, zeros stand behind them, which no position before sees.
    fn next(&mut self, tokens: &[i32]) -> Result<&[f32]> {
        let ctx = self.ids.shape()[1];
        let shown = context_window(tokens, ctx);
        let row = &mut self.ids.as_i32_mut()?[..ctx];
        row.fill(0);
        row[..shown.len()].copy_from_slice(shown);
        let logits = self.logits.run(&self.ids)?;
        let vocab = logits.shape()[2];
        Ok(&logits.as_f32()?[(shown.len() - 1) * vocab..][..vocab])
    }
}

/// The logits of the token that follows `tokens`, which the context holds; `cached` are those whose keys and values the program has.
fn within<'d>(decode: &'d mut Decode, cached: &mut Vec<i32>, tokens: &[i32]) -> Result<&'d [f32]> {
    let common = tokens.iter().zip(&*cached).take_while(|(a, b)| a == b).count();
    // The last token is always fed: it is its logits that are wanted.
    cached.truncate(common.min(tokens.len() - 1));
    for token in &tokens[cached.len()..] {
        decode.step(*token, cached.len())?;
        cached.push(*token);
    }
    decode.logits()
}

impl Generator {
    /// Compiles the model for one token a step; its weights are zeros. Errors: a graph that has no logits.
    pub fn new(model: impl Into<Architecture>, options: &ExecOptions) -> Result<Self> {
        let model = model.into();
        model.check_logits()?;
        let decode = match &model {
            Architecture::Gpt(config) => Some(Decode::new(config, options)?),
            Architecture::Graph(_) => None,
        };
        Ok(Self { model, options: options.clone(), decode, cached: Vec::new(), window: None })
    }

    /// Takes weights that must be exactly the model's; the error names `origin`.
    pub fn load(&mut self, weights: &Tensors, origin: &str) -> Result<()> {
        self.forget();
        match &mut self.decode {
            Some(decode) => decode.load(weights, origin),
            None => Window::of(&mut self.window, &self.model, &self.options)?.logits.load(weights, origin),
        }
    }

    /// Takes over the weights of a training step.
    pub fn follow(&mut self, train: &mut TrainStep) -> Result<()> {
        self.forget();
        match &mut self.decode {
            Some(decode) => decode.follow(train),
            None => Window::of(&mut self.window, &self.model, &self.options)?.logits.follow(train),
        }
    }

    /// Empties the cache: the weights change.
    fn forget(&mut self) {
        self.cached.clear();
        if let Some(window) = &mut self.window {
            window.stale = true;
        }
    }

    /// The logits (vocab) of the token that follows `tokens`. An empty text stands for the token 0.
    pub fn next(&mut self, tokens: &[i32]) -> Result<&[f32]> {
        let tokens = if tokens.is_empty() { &[0] } else { tokens };
        match (&mut self.decode, tokens.len() <= self.model.ctx()) {
            (Some(decode), true) => within(decode, &mut self.cached, tokens),
            (decode, _) => {
                let window = Window::of(&mut self.window, &self.model, &self.options)?;
                if let (true, Some(decode)) = (std::mem::take(&mut window.stale), decode) {
                    window.logits.follow_decode(decode)?;
                }
                window.next(tokens)
            }
        }
    }

    /// Adds `count` tokens to `tokens`, giving each to `each` as it is chosen. An empty text gets the token 0 first.
    pub fn extend(
        &mut self,
        tokens: &mut Vec<i32>,
        count: usize,
        sampler: &mut Sampler,
        mut each: impl FnMut(i32) -> Result<()>,
    ) -> Result<()> {
        if tokens.is_empty() {
            tokens.push(0);
        }
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
    use crate::config::{Backend, ModelConfig, RunConfig};
    use crate::model::{forward, initial_weights};

    const INTERP: ExecOptions =
        ExecOptions { backend: Backend::Interp, threads: 1, isa: None, no_templates: false, gpu: None };

    fn model() -> ModelConfig {
        let preset = RunConfig::preset("tiny").unwrap().model;
        ModelConfig { vocab: 13, ctx: 4, layers: 2, heads: 2, d_model: 8, d_mlp: 16, ..preset }
    }

    /// Weights large enough that the logits depend on the text.
    fn weights(seed: u64) -> Tensors {
        let mut weights = initial_weights(&forward(&model(), 1).unwrap(), seed).unwrap();
        weights.values_mut().for_each(|t| t.as_f32_mut().unwrap().iter_mut().for_each(|x| *x *= 20.0));
        weights
    }

    fn generator() -> Generator {
        let mut generator = Generator::new(&model(), &INTERP).unwrap();
        generator.load(&weights(5), "w").unwrap();
        generator
    }

    /// The logits of every position of `tokens`, at most ctx of them, by the forward program.
    fn whole(tokens: &[i32]) -> Vec<Vec<f32>> {
        let mut logits = Logits::new(&model(), 1, &INTERP).unwrap();
        logits.load(&weights(5), "w").unwrap();
        let mut ids = tokens.to_vec();
        ids.resize(4, 0);
        let ids = HostTensor::i32(&[1, 4], ids).unwrap();
        logits.run(&ids).unwrap().as_f32().unwrap().chunks(13).take(tokens.len()).map(<[f32]>::to_vec).collect()
    }

    /// In f64, rounded to f32 at the states and the outputs alone: a few units of the last place.
    #[track_caller]
    fn assert_close(found: &[f32], expected: &[f32]) {
        let most = expected.iter().fold(0f32, |m, x| m.max(x.abs()));
        assert_eq!(found.len(), expected.len());
        for (a, b) in found.iter().zip(expected) {
            assert!((a - b).abs() <= 1e-6 * most, "{found:?} instead of {expected:?}");
        }
    }

    #[test]
    fn cached_logits_are_those_of_the_whole_text() {
        let mut generator = generator();
        let tokens = [3, 7, 9, 12];
        let expected = whole(&tokens);
        for n in 1..=4 {
            assert_close(generator.next(&tokens[..n]).unwrap(), &expected[n - 1]);
        }
        assert!((0..13).any(|i| (expected[0][i] - expected[3][i]).abs() > 0.1), "the logits depend on the text");
    }

    #[test]
    fn only_the_common_beginning_is_kept() {
        let mut generator = generator();
        for text in [&[3, 7, 9, 12][..], &[3, 7], &[3, 7], &[3, 8, 9, 12], &[], &[1, 7, 9], &[1, 7, 9, 12]] {
            let own = if text.is_empty() { &[0] } else { text };
            assert_close(generator.next(text).unwrap(), whole(own).last().unwrap());
            assert_eq!(generator.cached, own);
        }
    }

    #[test]
    fn a_long_text_is_its_last_ctx_tokens() {
        let mut generator = generator();
        let last = whole(&[2, 3, 4, 5]).pop().unwrap();
        assert_eq!(generator.next(&[9, 9, 2, 3, 4, 5]).unwrap(), last);
        assert_close(generator.next(&[2, 3, 4, 5]).unwrap(), &last);
        assert_ne!(generator.next(&[9, 3, 4, 5]).unwrap(), last);
    }

    #[test]
    fn new_weights_change_both_programs() {
        let mut generator = generator();
        let texts = [&[3, 7, 9][..], &[3, 7, 9, 12, 1]];
        let before = texts.map(|text| generator.next(text).unwrap().to_vec());
        generator.load(&weights(6), "w").unwrap();
        let after = texts.map(|text| generator.next(text).unwrap().to_vec());
        let mut fresh = Generator::new(&model(), &INTERP).unwrap();
        fresh.load(&weights(6), "w").unwrap();
        for (i, text) in texts.iter().enumerate() {
            assert_ne!(after[i], before[i]);
            assert_eq!(after[i], fresh.next(text).unwrap());
        }
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

    #[test]
    fn foreign_tokens_are_refused() {
        let mut generator = generator();
        for id in [-1, 13] {
            let error = generator.next(&[0, id]).unwrap_err().to_string();
            assert_eq!(error, format!("the text holds the token {id}, and the model knows 0 to 12"));
        }
    }
}
