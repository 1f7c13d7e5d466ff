//! A byte-level recurrent language model: one layer of gated recurrent units (Cho et al. 2014), unrolled over a short
//! context from a zero state. It is the model that is not a transformer: the passes must serve it without knowing it.
//!
//! Shapes: B batch, T context, C embedding width, S state width, V vocabulary.

use tinygpt_ir::error::GraphError;
use tinygpt_ir::{Builder, DType, Graph, Init, Literal, T, TensorType};

/// Everything that decides the graph of the recurrent model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecurrentConfig {
    pub vocab: usize,
    /// Tokens of one sequence (T); the graph is unrolled this many times.
    pub ctx: usize,
    /// Width of a token embedding (C).
    pub d_embed: usize,
    /// Width of the recurrent state (S).
    pub d_state: usize,
    /// Sequences of one step (B).
    pub batch: usize,
}

/// Weights of one gate: it sees the token and the state.
struct Gate<'g> {
    token: T<'g>,
    state: T<'g>,
    bias: T<'g>,
}

impl<'g> Gate<'g> {
    fn new(b: &'g Builder, name: &str, cfg: &RecurrentConfig) -> Gate<'g> {
        let _scope = b.scope(name);
        let init = |width: usize| Init::Normal(1.0 / (width as f64).sqrt());
        Gate {
            token: b.weight("token.weight", [cfg.d_state, cfg.d_embed], init(cfg.d_embed)),
            state: b.weight("state.weight", [cfg.d_state, cfg.d_state], init(cfg.d_state)),
            bias: b.weight("bias", [cfg.d_state], Init::Zeros),
        }
    }

    /// Pre-activation of the gate for x [B,C] and h [B,S]: [B,S].
    fn apply(&self, x: T<'g>, h: T<'g>) -> T<'g> {
        x.linear(self.token, Some(self.bias)) + h.linear(self.state, None)
    }
}

/// The logistic function, through tanh, which saturates without overflow.
fn sigmoid(x: T<'_>) -> T<'_> {
    (x * 0.5).tanh() * 0.5 + 0.5
}

/// The forward graph: inputs `ids`, `targets` i32 [B,T]; outputs `logits` f32 [B,T,V], `loss` f32 scalar.
///
/// Errors: an extent of zero.
pub fn recurrent(cfg: &RecurrentConfig) -> Result<Graph, Box<GraphError>> {
    let b = Builder::new("recurrent");
    let tokens = TensorType::new(DType::I32, [cfg.batch, cfg.ctx]);
    let ids = b.input("ids", tokens.clone());
    let targets = b.input("targets", tokens);
    let embedding = b.weight("embedding.weight", [cfg.vocab, cfg.d_embed], Init::Normal(0.1));
    let embedded = embedding.gather(ids);

    let states = {
        let _scope = b.scope("cell");
        let [reset, update, candidate] = ["reset", "update", "candidate"].map(|name| Gate::new(&b, name, cfg));
        let mut h = b.splat([cfg.batch, cfg.d_state], Literal::f32(0.0));
        let mut states = Vec::new();
        for t in 0..cfg.ctx {
            let x = embedded.slice_axis(1, t, t + 1).reshape([cfg.batch, cfg.d_embed]);
            let r = sigmoid(reset.apply(x, h));
            let z = sigmoid(update.apply(x, h));
            let n = candidate.apply(x, r * h).tanh();
            h = n + z * (h - n);
            states.push(h.reshape([cfg.batch, 1, cfg.d_state]));
        }
        b.concat(&states, 1)
    };
    let (logits, loss) = {
        let _scope = b.scope("head");
        let weight = b.weight("weight", [cfg.vocab, cfg.d_state], Init::Normal(1.0 / (cfg.d_state as f64).sqrt()));
        let logits = states.linear(weight, Some(b.weight("bias", [cfg.vocab], Init::Zeros)));
        (logits, logits.cross_entropy(targets))
    };
    b.output("logits", logits);
    b.output("loss", loss);
    b.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_the_interface_of_a_language_model() {
        let cfg = RecurrentConfig { vocab: 11, ctx: 4, d_embed: 5, d_state: 7, batch: 3 };
        let g = recurrent(&cfg).unwrap();
        let ty = |name: &str| g.nodes[g.output_named(name).unwrap()].ty.clone();
        assert_eq!(ty("logits"), TensorType::f32([3, 4, 11]));
        assert_eq!(ty("loss"), TensorType::f32([]));
        // embedding, three gates of token, state and bias, head.
        assert_eq!(g.weight_count(), 11 * 5 + 3 * (7 * 5 + 7 * 7 + 7) + 11 * 7 + 11);
        assert!(g.param_named("cell.update.state.weight").is_some());
    }

    #[test]
    fn an_empty_context_is_refused() {
        let cfg = RecurrentConfig { vocab: 11, ctx: 0, d_embed: 5, d_state: 7, batch: 3 };
        assert!(recurrent(&cfg).unwrap_err().message.contains("every extent must be at least 1"));
    }
}
