//! Choosing the next token from logits.
//!
//! Invariants: a choice is a pure function of (logits, temperature, top-k, seed, index); ties go to the lower token;
//! arithmetic is f64 through `libm`, so equal logits give equal text on every platform.

use crate::rng::Stream;
use crate::{Error, Result};

/// How tokens are drawn.
#[derive(Debug, Clone)]
pub struct Sampler {
    temperature: f64,
    top_k: Option<usize>,
    stream: Stream,
    /// Candidates of the current choice, reused.
    candidates: Vec<(f32, u32)>,
    weights: Vec<f64>,
}

impl Sampler {
    /// `temperature` 0 is greedy; `top_k` keeps the k likeliest tokens, `None` all.
    pub fn new(temperature: f64, top_k: Option<usize>, seed: u64) -> Result<Self> {
        if !(temperature.is_finite() && temperature >= 0.0) {
            return Err(Error::input(format!("temperature must be 0 (greedy) or more, and is {temperature}")));
        }
        if top_k == Some(0) {
            return Err(Error::input("top-k must be at least 1, and is 0"));
        }
        Ok(Self {
            temperature,
            top_k,
            stream: Stream::new(seed, "sample"),
            candidates: Vec::new(),
            weights: Vec::new(),
        })
    }

    /// The token that follows, from the `logits` (vocab) of the last position. `index` numbers the choices of a text.
    /// Logits that are not finite are an error with exit status 1.
    pub fn choose(&mut self, logits: &[f32], index: u64) -> Result<u32> {
        if logits.is_empty() || !logits.iter().all(|x| x.is_finite()) {
            return Err(Error::failed(format!(
                "token {index} cannot be chosen: the model's {} logits are not all finite numbers",
                logits.len()
            )));
        }
        self.candidates.clear();
        self.candidates.extend(logits.iter().copied().zip(0u32..));
        // A total order, so that equal logits cannot depend on the sorting algorithm.
        let likelier = |a: &(f32, u32), b: &(f32, u32)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
        let keep = if self.temperature == 0.0 { 1 } else { self.top_k.unwrap_or(usize::MAX) };
        if keep < self.candidates.len() {
            self.candidates.select_nth_unstable_by(keep - 1, likelier);
            self.candidates.truncate(keep);
        }
        self.candidates.sort_unstable_by(likelier);
        if keep == 1 {
            return Ok(self.candidates[0].1);
        }
        let top = f64::from(self.candidates[0].0);
        self.weights.clear();
        self.weights.extend(self.candidates.iter().map(|(x, _)| libm::exp((f64::from(*x) - top) / self.temperature)));
        let mut left = self.stream.uniform(index) * self.weights.iter().sum::<f64>();
        for (weight, (_, token)) in self.weights.iter().zip(&self.candidates) {
            left -= weight;
            if left < 0.0 {
                return Ok(*token);
            }
        }
        // Rounding can leave a remainder of the order of 1e-16; the likeliest token absorbs it.
        Ok(self.candidates[0].1)
    }
}

/// The tokens a model of context `ctx` is fed to continue `tokens`: the last ctx of them, at positions from 0.
pub fn context_window<T>(tokens: &[T], ctx: usize) -> &[T] {
    &tokens[tokens.len().saturating_sub(ctx)..]
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 5] = [0.0, 2.0, 1.0, 2.0, -3.0];

    fn draws(temperature: f64, top_k: Option<usize>, seed: u64, n: u64) -> Vec<u32> {
        let mut sampler = Sampler::new(temperature, top_k, seed).unwrap();
        (0..n).map(|i| sampler.choose(&LOGITS, i).unwrap()).collect()
    }

    #[test]
    fn greedy_takes_the_first_of_the_largest() {
        assert_eq!(draws(0.0, None, 1, 3), [1, 1, 1]);
        assert_eq!(draws(0.0, Some(4), 2, 3), [1, 1, 1]);
        assert_eq!(draws(5.0, Some(1), 3, 3), [1, 1, 1]);
    }

    #[test]
    fn frequencies_follow_the_softmax() {
        for temperature in [0.5, 1.0, 2.0] {
            let n = 40_000;
            let drawn = draws(temperature, None, 11, n);
            let weights = LOGITS.map(|x| (f64::from(x) / temperature).exp());
            let total: f64 = weights.iter().sum();
            for (token, weight) in weights.iter().enumerate() {
                let p = weight / total;
                let found = drawn.iter().filter(|t| **t == token as u32).count() as f64 / n as f64;
                assert!((found - p).abs() < 5.0 * (p * (1.0 - p) / n as f64).sqrt() + 1e-9, "{token}: {found} of {p}");
            }
        }
    }

    #[test]
    fn top_k_keeps_the_likeliest() {
        let drawn = draws(3.0, Some(3), 4, 3000);
        for token in 0..5 {
            assert_eq!(drawn.contains(&token), [1, 2, 3].contains(&token), "{token}");
        }
        // Of two equal logits at the cut the lower token stays.
        assert!(!draws(3.0, Some(1), 4, 100).contains(&3));
        assert_eq!(draws(3.0, Some(99), 4, 100), draws(3.0, None, 4, 100));
    }

    #[test]
    fn a_choice_depends_on_seed_and_index_only() {
        let all = draws(1.0, None, 7, 50);
        assert_eq!(draws(1.0, None, 7, 50), all);
        assert_ne!(draws(1.0, None, 8, 50), all);
        assert_eq!(Sampler::new(1.0, None, 7).unwrap().choose(&LOGITS, 49).unwrap(), all[49]);
    }

    #[test]
    fn bad_input_is_refused() {
        assert!(Sampler::new(-1.0, None, 0).is_err());
        assert!(Sampler::new(f64::NAN, None, 0).is_err());
        assert!(Sampler::new(1.0, Some(0), 0).is_err());
        let mut sampler = Sampler::new(1.0, None, 0).unwrap();
        assert_eq!(sampler.choose(&[1.0, f32::NAN], 3).unwrap_err().exit_status(), 1);
        assert!(sampler.choose(&[], 0).is_err());
        // A tiny temperature must not overflow into NaN weights.
        assert_eq!(Sampler::new(1e-300, None, 0).unwrap().choose(&[0.0, 50.0], 0).unwrap(), 1);
    }

    #[test]
    fn the_window_is_the_last_ctx() {
        assert_eq!(context_window(&[1, 2, 3], 2), [2, 3]);
        assert_eq!(context_window(&[1, 2, 3], 5), [1, 2, 3]);
    }
}
