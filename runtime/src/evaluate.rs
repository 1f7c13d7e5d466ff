//! The loss of a model over a whole text, as `eval` states it: each byte but the first predicted once, in consecutive windows.
//!
//! Logits come from the program; the cross-entropy is taken here in f64 through `libm`, position by position, because the last
//! window may be shorter than the context.

use crate::Result;
use crate::data::EvalWindows;
use crate::model::Logits;
use crate::tensor::{DType, HostTensor};

/// Windows fed at once, where the model takes any number.
pub const ROWS: usize = 8;

/// Loss of a text, in three units.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Evaluation {
    /// Predicted bytes.
    pub tokens: usize,
    /// Mean cross-entropy, nats a byte.
    pub loss: f64,
}

impl Evaluation {
    pub fn bits_per_byte(&self) -> f64 {
        self.loss / std::f64::consts::LN_2
    }

    pub fn perplexity(&self) -> f64 {
        libm::exp(self.loss)
    }
}

/// Evaluates `text` by a program of rows of `ctx`.
pub fn evaluate(logits: &mut Logits, text: &[u8], ctx: usize) -> Result<Evaluation> {
    let windows = EvalWindows::new(text, ctx)?;
    let rows = logits.rows();
    let mut ids = HostTensor::zeros(DType::I32, &[rows, ctx])?;
    let (mut targets, mut valid) = (vec![0; rows * ctx], vec![0; rows]);
    let mut total = 0.0;
    for first in (0..windows.count()).step_by(rows) {
        windows.fill(first, ids.as_i32_mut()?, &mut targets, &mut valid);
        let values = logits.run(&ids)?;
        let vocab = values.shape()[2];
        for (at, (row, target)) in values.as_f32()?.chunks_exact(vocab).zip(&targets).enumerate() {
            if at % ctx < valid[at / ctx] {
                total += cross_entropy(row, *target as usize);
            }
        }
    }
    Ok(Evaluation { tokens: windows.tokens(), loss: total / windows.tokens() as f64 })
}

/// Minus the logarithm of the softmax of `logits` at `target`, in f64.
pub fn cross_entropy(logits: &[f32], target: usize) -> f64 {
    let max = logits.iter().fold(f32::NEG_INFINITY, |m, x| m.max(*x));
    let sum: f64 = logits.iter().map(|x| libm::exp(f64::from(*x) - f64::from(max))).sum();
    libm::log(sum) + f64::from(max) - f64::from(logits[target])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::ExecOptions;
    use crate::config::{Backend, ModelConfig, RunConfig};

    #[test]
    fn cross_entropy_is_that_of_the_softmax() {
        let found = cross_entropy(&[1.0, 2.0, 4.0], 1);
        let expected = (1f64.exp() + 2f64.exp() + 4f64.exp()).ln() - 2.0;
        assert!((found - expected).abs() < 1e-14);
        assert_eq!(cross_entropy(&[1e30, 0.0], 0), 0.0);
        assert!(cross_entropy(&[f32::NAN, 0.0], 1).is_nan());
    }

    /// With weights zero every byte is as likely as any other.
    #[test]
    fn a_model_that_knows_nothing_has_eight_bits_a_byte() {
        let preset = RunConfig::preset("tiny").unwrap().model;
        let model = ModelConfig { ctx: 4, layers: 1, heads: 1, d_model: 2, d_mlp: 2, ..preset };
        let options = ExecOptions { backend: Backend::Interp, threads: 1, isa: None, no_templates: false, gpu: None };
        let mut logits = Logits::new(&model, ROWS, &options).unwrap();
        for bytes in [2, 5, 6, 40] {
            let found = evaluate(&mut logits, &vec![7; bytes], 4).unwrap();
            assert_eq!(found.tokens, bytes - 1);
            assert!((found.bits_per_byte() - 8.0).abs() < 1e-12, "{bytes}: {found:?}");
            assert!((found.perplexity() - 256.0).abs() < 1e-9);
        }
        assert!(evaluate(&mut logits, b"x", 4).is_err());
    }
}
