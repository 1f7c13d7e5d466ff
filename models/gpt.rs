//! A byte-level GPT (Radford et al. 2019): learned positions, pre-LayerNorm blocks, biases on every linear, separate q, k, v
//! and output projections, and an output head tied to the token embedding.
//!
//! Two graphs share every weight by name: [`gpt`] sees whole sequences, [`gpt_decode`] one token at a time, with the keys and values of
//! the tokens before it in a cache. They differ in the tokens' positions and in the core of attention, as [`crate::look`] does, and in nothing else.
//!
//! Shapes: B batch, T context, C d_model, H heads, D = C / H, M d_mlp, V vocabulary.

use tinygpt_ir::error::GraphError;
use tinygpt_ir::op::GeluForm;
use tinygpt_ir::{Builder, DType, Graph, Init, Literal, StateRole, T, TensorType};

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
    let logits = transformer(&b, cfg, ids, |weight| weight, |_, [q, k, v]| q.attention(k, v, true, score_scale(q)));
    let loss = {
        let _scope = b.scope("head");
        logits.cross_entropy(targets)
    };
    b.output("logits", logits);
    b.output("loss", loss);
    b.finish()
}

/// One step of decoding: the logits after one more token. `cfg.batch` is not looked at.
///
/// - Inputs: `token` i32 [1]; `position` i32 scalar, its place in the sequence, from 0 to T - 1 (clamped).
/// - States: the weights of [`gpt`], and for each layer i the caches `cache.k.i` and `cache.v.i`, f32 [H,T,D], in which the step writes the row
///   of its position and reads those before it. What other rows hold does not matter, as long as it is finite.
/// - Output: `logits` f32 [V].
///
/// Errors: as of [`gpt`].
pub fn gpt_decode(cfg: &GptConfig) -> Result<Graph, Box<GraphError>> {
    let b = Builder::new("gpt_decode");
    let token = b.input("token", TensorType::new(DType::I32, [1]));
    let position = b.input("position", TensorType::new(DType::I32, []));
    let caches: Vec<[T<'_>; 2]> = {
        let _scope = b.scope("cache");
        // Heads that do not divide the width are attention's error.
        let ty = head_dim(cfg).map(|d| TensorType::f32([cfg.heads, cfg.ctx, d]));
        let cache = |name: String, ty: &TensorType| b.state(&name, ty.clone(), Init::Zeros, StateRole::Other);
        ty.iter()
            .flat_map(|ty| (0..cfg.layers).map(move |i| ["k", "v"].map(|kind| cache(format!("{kind}.{i}"), ty))))
            .collect()
    };
    let at = position.reshape([1, 1]);
    let logits = transformer(
        &b,
        cfg,
        token.reshape([1, 1]),
        |weight| weight.gather(at),
        |layer, qkv| cached_attention(&b, qkv, caches[layer], position),
    );
    b.output("logits", logits.reshape([cfg.vocab]));
    b.finish()
}

/// Logits [B,T,V] of `ids` [B,T]. `at_positions` takes from the position embedding [T,C] what is added to the tokens [B,T,C]; `core` maps
/// a layer's number and its q, k, v [B,H,T,D] to the weighted values [B,H,T,D].
pub(crate) fn transformer<'g>(
    b: &'g Builder,
    cfg: &GptConfig,
    ids: T<'g>,
    at_positions: impl FnOnce(T<'g>) -> T<'g>,
    core: impl Fn(usize, [T<'g>; 3]) -> T<'g>,
) -> T<'g> {
    let embedding = {
        let _scope = b.scope("token_embedding");
        b.weight("weight", [cfg.vocab, cfg.d_model], Init::Normal(INIT_STD))
    };
    let tokens = {
        let _scope = b.scope("token_embedding");
        embedding.gather(ids)
    };
    let x = {
        let _scope = b.scope("position_embedding");
        tokens + at_positions(b.weight("weight", [cfg.ctx, cfg.d_model], Init::Normal(INIT_STD)))
    };
    let x = (0..cfg.layers).fold(x, |x, i| {
        let _scope = b.scope(format!("blocks.{i}"));
        let x = x + attention(b, cfg, layer_norm(b, "ln1", x), |qkv| core(i, qkv));
        x + mlp(b, cfg, layer_norm(b, "ln2", x))
    });
    let x = layer_norm(b, "ln_final", x);
    let _scope = b.scope("head");
    x.contract("btc,vc->btv", embedding)
}

/// D, if the heads divide the width.
fn head_dim(cfg: &GptConfig) -> Option<usize> {
    (cfg.heads > 0 && cfg.d_model.is_multiple_of(cfg.heads)).then(|| cfg.d_model / cfg.heads)
}

/// What the scores of q [B,H,T,D] are multiplied by: one over the root of D.
pub(crate) fn score_scale(q: T<'_>) -> f64 {
    1.0 / (q.dim(3) as f64).sqrt()
}

/// Self-attention with its output projection: [B,T,C] -> [B,T,C]; `core` maps q, k, v [B,H,T,D] to the weighted values [B,H,T,D].
fn attention<'g>(b: &'g Builder, cfg: &GptConfig, x: T<'g>, core: impl FnOnce([T<'g>; 3]) -> T<'g>) -> T<'g> {
    let _scope = b.scope("attn");
    let (batch, ctx) = (x.dim(0), x.dim(1));
    let (c, h) = (cfg.d_model, cfg.heads);
    let Some(d) = head_dim(cfg) else {
        let message = format!("d_model {c} does not split into {h} heads; choose heads that divide d_model");
        return b.fail("attention", message, &[x]);
    };
    let heads = |name: &str| {
        let y = linear(b, name, x, c, INIT_STD);
        y.reshape([batch, ctx, h, d]).transpose([0, 2, 1, 3])
    };
    let out = core([heads("q_proj"), heads("k_proj"), heads("v_proj")]);
    let joined = out.transpose([0, 2, 1, 3]).reshape([batch, ctx, c]);
    linear(b, "o_proj", joined, c, residual_std(cfg))
}

/// Attention of the token at `position` to itself and to those before it: q, k, v [1,H,1,D] -> [1,H,1,D]. The caches [H,T,D] get its key and
/// value as the row `position`.
///
/// A step reads states as they were before it, so the token's own key and value come from the operands and not from the cache.
fn cached_attention<'g>(b: &'g Builder, [q, k, v]: [T<'g>; 3], caches: [T<'g>; 2], position: T<'g>) -> T<'g> {
    let (shape, scale) = (q.shape(), score_scale(q));
    let (h, d) = (q.dim(1), q.dim(3));
    for (cache, new) in caches.into_iter().zip([k, v]) {
        let first = b.splat([], Literal::i32(0));
        b.update(cache, cache.dynamic_update(new.reshape([h, 1, d]), &[first, position, first]));
    }
    let [keys, values] = caches;
    let (q, k, v) = (q.reshape([h, d]), k.reshape([h, d]), v.reshape([h, 1, d]));
    let scores = q.contract("hd,htd->ht", keys) * scale;
    let own = (q * k).sum(&[1]) * scale;
    let slot = b.iota(scores.shape(), DType::I32, 1);
    let (earlier, here) = (slot.lt(position), slot.eq(position));
    let scores = earlier.select(scores, here.select(own, f64::NEG_INFINITY));
    let top = scores.reduce_max(&[1]);
    let weights = (scores - top).exp();
    let total = weights.sum(&[1]);
    let (weights, own) = (earlier.select(weights, 0.0) / total, (own - top).exp() / total);
    // Both products are terms of one contraction.
    let out = weights.contract("ht,htd->hd", values) + own.contract("hu,hud->hd", v);
    out.reshape(shape)
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
    use tinygpt_ir::Param;

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
    fn decoding_has_the_same_weights_and_two_caches_a_layer() {
        let cfg = GptConfig { layers: 2, ..PRESETS[0].config };
        let (whole, decode) = (gpt(&cfg).unwrap(), gpt_decode(&cfg).unwrap());
        let weights = |g: &Graph| -> Vec<Param> { g.params.values().filter(|p| p.is_weight()).cloned().collect() };
        assert_eq!(weights(&whole), weights(&decode));
        let updated: Vec<&Param> = decode.updates.iter().map(|(p, _)| &decode.params[*p]).collect();
        let names: Vec<&str> = updated.iter().map(|p| p.name.as_str()).collect();
        assert_eq!(names, ["cache.k.0", "cache.v.0", "cache.k.1", "cache.v.1"]);
        assert!(updated.iter().all(|p| p.ty == TensorType::f32([3, 32, 16]) && !p.is_weight()));
        assert_eq!(decode.nodes[decode.output_named("logits").unwrap()].ty, TensorType::f32([256]));
    }

    #[test]
    fn heads_must_divide_d_model() {
        for heads in [0, 5] {
            for graph in [gpt, gpt_decode] {
                let error = graph(&GptConfig { heads, ..PRESETS[0].config }).unwrap_err();
                assert!(error.message.contains(&format!("d_model 48 does not split into {heads} heads")), "{error}");
            }
        }
    }
}
