//! GPT-2 as `transformers` stores it: a folder with config.json and model.safetensors.
//!
//! The model is the same function: pre-LayerNorm (eps 1e-5), learned positions, biases on every linear layer, a tied head. What differs is the
//! spelling: names; q, k and v joined side by side in `c_attn`; linear weights as [in, out] (`Conv1D`); and the exact GELU is called `gelu`
//! there, the tanh one `gelu_new`. So the export is exact: every number is copied.

use super::names::transposed;
use super::{Format, Saved};
use crate::checkpoint::pt_metadata;
use crate::config::Gelu;
use crate::error::one_line;
use crate::tensor::HostTensor;
use crate::tensor_file::{Tensors, to_bytes};
use crate::{Error, Result};

/// Writes the folder's files. Errors: the model is a graph.
pub fn encode(saved: &Saved) -> Result<Vec<(&'static str, Vec<u8>)>> {
    let model = saved.gpt(Format::HfGpt2)?;
    let config = serde_json::json!({
        "activation_function": match model.gelu { Gelu::Erf => "gelu", Gelu::Tanh => "gelu_new" },
        "architectures": ["GPT2LMHeadModel"],
        "attn_pdrop": 0.0,
        // A token of the library's own default would lie outside a vocabulary of bytes.
        "bos_token_id": null,
        "embd_pdrop": 0.0,
        "eos_token_id": null,
        "initializer_range": 0.02,
        "layer_norm_epsilon": 1e-5,
        "model_type": "gpt2",
        "n_embd": model.d_model,
        "n_head": model.heads,
        "n_inner": model.d_mlp,
        "n_layer": model.layers,
        "n_positions": model.ctx,
        "resid_pdrop": 0.0,
        "scale_attn_weights": true,
        "tie_word_embeddings": true,
        "torch_dtype": "float32",
        "vocab_size": model.vocab,
    });
    let failed = |e| Error::failed(format!("cannot write config.json: {}", one_line(e)));
    let mut config = serde_json::to_vec_pretty(&config).map_err(failed)?;
    config.push(b'\n');
    let tensors = rename(&saved.weights, model.layers)?;
    let weights = to_bytes(tensors.iter().map(|(name, tensor)| (name.clone(), tensor)), &pt_metadata());
    Ok(vec![("config.json", config), ("model.safetensors", weights)])
}

fn rename(weights: &Tensors, layers: usize) -> Result<Tensors> {
    let get = |name: &str| {
        weights
            .get(name)
            .ok_or_else(|| Error::input(format!("the model has no tensor {name}, which GPT-2's layout needs")))
    };
    let mut out = Tensors::new();
    let mut put = |name: String, tensor: HostTensor| {
        out.insert(name, tensor);
    };
    for (to, from) in [("wte.weight", "token_embedding.weight"), ("wpe.weight", "position_embedding.weight")] {
        put(to.to_owned(), get(from)?.clone());
    }
    for part in ["weight", "bias"] {
        put(format!("ln_f.{part}"), get(&format!("ln_final.{part}"))?.clone());
    }
    for i in 0..layers {
        for (to, from) in [("ln_1", "ln1"), ("ln_2", "ln2")] {
            for part in ["weight", "bias"] {
                put(format!("h.{i}.{to}.{part}"), get(&format!("blocks.{i}.{from}.{part}"))?.clone());
            }
        }
        for (to, from) in [("attn.c_proj", "attn.o_proj"), ("mlp.c_fc", "mlp.fc_in"), ("mlp.c_proj", "mlp.fc_out")] {
            put(format!("h.{i}.{to}.weight"), transposed(get(&format!("blocks.{i}.{from}.weight"))?)?);
            put(format!("h.{i}.{to}.bias"), get(&format!("blocks.{i}.{from}.bias"))?.clone());
        }
        // Rows of [out, in] one after the other are columns of [in, out] side by side.
        let joined = |part: &str| -> Result<Vec<f32>> {
            let mut values = Vec::new();
            for projection in ["q", "k", "v"] {
                values.extend(get(&format!("blocks.{i}.attn.{projection}_proj.{part}"))?.as_f32()?);
            }
            Ok(values)
        };
        let (weight, bias) = (joined("weight")?, joined("bias")?);
        let width = weight.len() / bias.len().max(1);
        put(format!("h.{i}.attn.c_attn.weight"), transposed(&HostTensor::f32(&[bias.len(), width], weight)?)?);
        put(format!("h.{i}.attn.c_attn.bias"), HostTensor::f32(&[bias.len()], bias)?);
    }
    Ok(out)
}
