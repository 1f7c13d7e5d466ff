//! A GPT that shows what it attends to: the model of [`crate::gpt()`] with the attention weights as an output.
//!
//! Invariant: it has the weights of [`crate::gpt()`], by name and shape, and its logits; only the core of attention is spelled out, because the operation
//! `attention` keeps its weights to itself.

use crate::gpt::{GptConfig, score_scale, transformer};
use std::cell::RefCell;
use tinygpt_ir::error::GraphError;
use tinygpt_ir::{Builder, DType, Graph, TensorType};

/// Logits and attention weights of one row of tokens. `cfg.batch` is not looked at.
///
/// - Input `ids` i32 [1,T]; states: the weights of [`crate::gpt()`].
/// - Outputs `logits` f32 [1,T,V], and `attention` f32 [L,H,T,T]: what token t takes from token s is at [layer,head,t,s]. Rows sum to one; tokens
///   after t have zero.
///
/// Errors: as of [`crate::gpt()`].
pub fn gpt_look(cfg: &GptConfig) -> Result<Graph, Box<GraphError>> {
    let b = Builder::new("gpt_look");
    let ids = b.input("ids", TensorType::new(DType::I32, [1, cfg.ctx]));
    let maps = RefCell::new(Vec::new());
    let logits = transformer(
        &b,
        cfg,
        ids,
        |weight| weight,
        |_, [q, k, v]| {
            let scores = q.contract("bhtd,bhsd->bhts", k) * score_scale(q);
            let place = |axis| b.iota(scores.shape(), DType::I32, axis);
            let weights = place(3).le(place(2)).select(scores, f64::NEG_INFINITY).softmax(3);
            maps.borrow_mut().push(weights);
            weights.contract("bhts,bhsd->bhtd", v)
        },
    );
    b.output("logits", logits);
    b.output("attention", b.concat(&maps.into_inner(), 0));
    b.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{PRESETS, gpt};
    use tinygpt_ir::Param;

    #[test]
    fn it_has_the_weights_of_the_model_and_a_map_for_each_head() {
        let cfg = GptConfig { layers: 2, ..PRESETS[0].config };
        let (whole, look) = (gpt(&cfg).unwrap(), gpt_look(&cfg).unwrap());
        let weights = |g: &Graph| -> Vec<Param> { g.params.values().filter(|p| p.is_weight()).cloned().collect() };
        assert_eq!(weights(&whole), weights(&look));
        let ty = |name: &str| look.nodes[look.output_named(name).unwrap()].ty.clone();
        assert_eq!(ty("logits"), TensorType::f32([1, 32, 256]));
        assert_eq!(ty("attention"), TensorType::f32([2, 3, 32, 32]));
        assert!(gpt_look(&GptConfig { heads: 5, ..cfg }).is_err());
    }
}
