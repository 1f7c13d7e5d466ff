//! What training a configuration takes, estimated without compiling it, so that it can follow a slider.

use serde::Serialize;
use tinygpt_runtime::config::RunConfig;

/// Bytes that training takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// Weights and both moments: exact.
    pub states: u64,
    /// Values within a step.
    pub temporaries: u64,
    pub total: u64,
}

/// Bytes that the states and the temporaries of a training step take, all f32.
///
/// The temporaries are most where the backward pass begins, when all activations wait for it, or where it ends, when all gradients wait for the
/// norm. A token leaves 2 V floats at the head and 8.25 C + 2 M a layer: the normalised inputs of both branches, q, k and v, the output of
/// attention, both sums, statistics, and the activation with its slope. A test compares with the plans of the presets.
pub fn estimate(config: &RunConfig) -> Memory {
    let (model, params) = (&config.model, u128::from(config.model.params()));
    let [vocab, ctx, layers, width, mlp] =
        [model.vocab, model.ctx, model.layers, model.d_model, model.d_mlp].map(|n| n as u128);
    let token = 2 * vocab + layers * (33 * width / 4 + 2 * mlp);
    let temporaries = 4 * params.max(config.train.batch as u128 * ctx * token);
    let clamped = |bytes: u128| u64::try_from(bytes).unwrap_or(u64::MAX);
    let states = 12 * params;
    Memory { states: clamped(states), temporaries: clamped(temporaries), total: clamped(states + temporaries) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tinygpt_ir::program::TargetModel;
    use tinygpt_runtime::compile::{Goal, compile};
    use tinygpt_runtime::model::{adamw, forward};

    #[test]
    fn the_estimate_is_near_the_plan_of_every_preset() {
        for name in ["tiny", "small", "capable", "medium", "large", "xl", "huge", "massive", "mega"] {
            let config = RunConfig::preset(name).unwrap();
            let goal = Goal::Train { adamw: adamw(&config.train), gradients: false };
            let graph = forward(&config.model, config.train.batch).unwrap();
            let planned = compile(graph, &goal, &TargetModel::cpu()).unwrap().program.memory.planned as f64;
            let ratio = estimate(&config).temporaries as f64 / planned;
            assert!((0.9..1.1).contains(&ratio), "{name}: estimated {ratio:.3} times the plan");
        }
    }

    #[test]
    fn absurd_sizes_do_not_overflow() {
        let mut config = RunConfig::preset("tiny").unwrap();
        let most = 1 << 20;
        config.train.batch = most;
        config.model.vocab = most;
        config.model.ctx = most;
        config.model.layers = 1 << 12;
        config.model.d_model = most;
        config.model.d_mlp = most;
        assert!(estimate(&config).total > 1 << 62);
    }
}
