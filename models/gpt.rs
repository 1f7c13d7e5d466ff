//! A byte-level GPT (Radford et al. 2019): learned positions, pre-LayerNorm blocks, biases on every linear, separate q, k, v
//! and output projections, and an output head tied to the token embedding.
//!
//! Shapes: B batch, T context, C d_model, H heads, D = C / H, M d_mlp, V vocabulary.

use tinygpt_ir::error::GraphError;
use tinygpt_ir::op::GeluForm;
use tinygpt_ir::{Builder, DType, Graph, Init, T, TensorType};

/// Epsilon of every LayerNorm.
const LN_EPS: f64 = 1e-5;
/// Standard deviation of the starting weights.
const INIT_STD: f64 = 0.02;

/// Everything that decides the graph of a GPT; a step sees `batch` sequences of `ctx` tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GptConfig {
    pub vocab: usize,
    pub ctx: usize,
    pub layers: usize,
    pub heads: usize,
    pub d_model: usize,
    pub d_mlp: usize,
    pub batch: usize,
    pub gelu: GeluForm,
}

/// A named configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preset {
    pub name: &'static str,
    pub config: GptConfig,
    /// Planned training steps; None where the preset is for `bench` and `dump` only.
    pub steps: Option<u32>,
    /// Trained parameters, tied head counted once.
    pub params: usize,
}

/// One row of [`PRESETS`] for a byte-level model.
const fn bytes(
    name: &'static str,
    [ctx, layers, heads, d_model, batch]: [usize; 5],
    steps: u32,
    params: usize,
) -> Preset {
    let config = GptConfig { vocab: 256, ctx, layers, heads, d_model, d_mlp: 4 * d_model, batch, gelu: GeluForm::Erf };
    Preset { name, config, steps: Some(steps), params }
}

/// Every preset, smallest first: `[ctx, layers, heads, d_model, batch]`, steps, parameters.
#[rustfmt::skip]
pub const PRESETS: &[Preset] = &[
    bytes("tiny",     [ 32,  2,  3,   48, 16], 2000,      70_464),
    bytes("small",    [ 64,  3,  3,   96, 16], 1500,     366_432),
    bytes("standard", [ 64,  3,  3,   96, 16],  600,     366_432),
    bytes("capable",  [ 96,  4,  3,   96, 16],  400,     481_344),
    bytes("medium",   [ 96,  4,  4,  128, 16], 1000,     838_400),
    bytes("large",    [128,  6,  6,  192, 12],  600,   2_743_296),
    bytes("xl",       [128,  8,  8,  256,  8],  400,   6_416_896),
    bytes("huge",     [256, 12,  8,  256,  8], 1500,   9_608_704),
    bytes("massive",  [256, 14, 12,  384,  4], 1000,  25_039_872),
    bytes("mega",     [512, 14, 12,  384,  2],  800,  25_138_176),
    bytes("behemoth", [512, 24, 20, 1280,  1],   50, 473_244_160),
    // GPT-2 124M; its vocabulary of 50257 is padded to a multiple of 128.
    Preset {
        name: "gpt2",
        config: GptConfig {
            vocab: 50304, ctx: 1024, layers: 12, heads: 12, d_model: 768, d_mlp: 3072, batch: 8, gelu: GeluForm::Tanh,
        },
        steps: None,
        params: 124_475_904,
    },
];

/// The preset of that name.
pub fn preset(name: &str) -> Option<&'static Preset> {
    PRESETS.iter().find(|p| p.name == name)
}

/// The forward graph: inputs `ids`, `targets` i32 [B,T]; outputs `logits` f32 [B,T,V], `loss` f32 scalar.
///
/// Errors: an extent of zero, or heads that do not divide d_model.
pub fn gpt(cfg: &GptConfig) -> Result<Graph, Box<GraphError>> {
    let b = Builder::new("gpt");
    let tokens = TensorType::new(DType::I32, [cfg.batch, cfg.ctx]);
    let ids = b.input("ids", tokens.clone());
    let targets = b.input("targets", tokens);
    let embedding = {
        let _scope = b.scope("token_embedding");
        b.weight("weight", [cfg.vocab, cfg.d_model], Init::Normal(INIT_STD))
    };
    let x = embed(&b, cfg, embedding, ids);
    let x = (0..cfg.layers).fold(x, |x, i| {
        let _scope = b.scope(format!("blocks.{i}"));
        let x = x + attention(&b, cfg, layer_norm(&b, "ln1", x));
        x + mlp(&b, cfg, layer_norm(&b, "ln2", x))
    });
    let x = layer_norm(&b, "ln_final", x);
    let (logits, loss) = {
        let _scope = b.scope("head");
        let logits = x.contract("btc,vc->btv", embedding);
        (logits, logits.cross_entropy(targets))
    };
    b.output("logits", logits);
    b.output("loss", loss);
    b.finish()
}

/// Token plus position embedding: [B,T] -> [B,T,C].
fn embed<'g>(b: &'g Builder, cfg: &GptConfig, embedding: T<'g>, ids: T<'g>) -> T<'g> {
    let tokens = {
        let _scope = b.scope("token_embedding");
        embedding.gather(ids)
    };
    let _scope = b.scope("position_embedding");
    tokens + b.weight("weight", [cfg.ctx, cfg.d_model], Init::Normal(INIT_STD))
}

/// Causal self-attention with its output projection: [B,T,C] -> [B,T,C].
fn attention<'g>(b: &'g Builder, cfg: &GptConfig, x: T<'g>) -> T<'g> {
    let _scope = b.scope("attn");
    let (c, h) = (cfg.d_model, cfg.heads);
    if h == 0 || c % h != 0 {
        let message = format!("d_model {c} does not split into {h} heads; choose heads that divide d_model");
        return b.fail("attention", message, &[x]);
    }
    let d = c / h;
    let heads = |name: &str| {
        let y = linear(b, name, x, c, INIT_STD);
        y.reshape([cfg.batch, cfg.ctx, h, d]).transpose([0, 2, 1, 3])
    };
    let (q, k, v) = (heads("q_proj"), heads("k_proj"), heads("v_proj"));
    let out = q.attention(k, v, true, 1.0 / (d as f64).sqrt());
    let joined = out.transpose([0, 2, 1, 3]).reshape([cfg.batch, cfg.ctx, c]);
    linear(b, "o_proj", joined, c, residual_std(cfg))
}

/// [B,T,C] -> [B,T,M] -> [B,T,C].
fn mlp<'g>(b: &'g Builder, cfg: &GptConfig, x: T<'g>) -> T<'g> {
    let _scope = b.scope("mlp");
    let hidden = linear(b, "fc_in", x, cfg.d_mlp, INIT_STD).gelu(cfg.gelu);
    linear(b, "fc_out", hidden, cfg.d_model, residual_std(cfg))
}

/// Projections into the residual stream start smaller by the root of their number, so that its variance does not grow
/// with depth (Radford et al. 2019).
fn residual_std(cfg: &GptConfig) -> f64 {
    INIT_STD / (2.0 * cfg.layers as f64).sqrt()
}

/// x [.., I] -> [.., outputs], with bias.
fn linear<'g>(b: &'g Builder, name: &str, x: T<'g>, outputs: usize, std: f64) -> T<'g> {
    let _scope = b.scope(name);
    let inputs = x.shape().last().copied().unwrap_or(1);
    let weight = b.weight("weight", [outputs, inputs], Init::Normal(std));
    x.linear(weight, Some(b.weight("bias", [outputs], Init::Zeros)))
}

fn layer_norm<'g>(b: &'g Builder, name: &str, x: T<'g>) -> T<'g> {
    let _scope = b.scope(name);
    let c = x.shape().last().copied().unwrap_or(1);
    x.layer_norm(b.weight("weight", [c], Init::Ones), b.weight("bias", [c], Init::Zeros), LN_EPS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_have_the_parameters_they_say() {
        for p in PRESETS {
            let graph = gpt(&p.config).unwrap();
            assert_eq!(graph.weight_count(), p.params, "{}", p.name);
            assert_eq!(preset(p.name), Some(p));
        }
    }

    #[test]
    fn weights_are_named_as_the_fixtures_name_them() {
        let graph = gpt(&GptConfig { layers: 1, ..PRESETS[0].config }).unwrap();
        let names: Vec<&str> = graph.params.values().filter(|p| p.is_weight()).map(|p| p.name.as_str()).collect();
        let mut expected = vec!["token_embedding.weight".to_string(), "position_embedding.weight".to_string()];
        for part in
            ["ln1", "attn.q_proj", "attn.k_proj", "attn.v_proj", "attn.o_proj", "ln2", "mlp.fc_in", "mlp.fc_out"]
        {
            expected.extend(["weight", "bias"].map(|w| format!("blocks.0.{part}.{w}")));
        }
        expected.extend(["ln_final.weight".to_string(), "ln_final.bias".to_string()]);
        assert_eq!(names, expected);
    }

    #[test]
    fn heads_must_divide_d_model() {
        for heads in [0, 5] {
            let error = gpt(&GptConfig { heads, ..PRESETS[0].config }).unwrap_err();
            assert!(error.message.contains(&format!("d_model 48 does not split into {heads} heads")), "{error}");
        }
    }
}
