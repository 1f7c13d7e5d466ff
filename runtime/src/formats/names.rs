//! The tensors of a GPT: their names, order and shapes, and the architecture that shapes tell.

use crate::architecture::Architecture;
use crate::checkpoint::{check_architecture, check_f32};
use crate::config::{Gelu, ModelConfig};
use crate::tensor::HostTensor;
use crate::tensor_file::Tensors;
use crate::{Error, Result};

/// Tensors outside the blocks, and of each block.
const OUTSIDE: usize = 4;
const OF_A_BLOCK: usize = 16;

/// Names and shapes ([out, in]) of a GPT's weights, in the order of `.tinygpt` files. The head is tied to `token_embedding.weight`.
pub fn gpt_weights(model: &ModelConfig) -> impl Iterator<Item = (String, Vec<usize>)> {
    let (c, mlp) = (model.d_model, model.d_mlp);
    let outside: [(&str, Vec<usize>); OUTSIDE] = [
        ("token_embedding.weight", vec![model.vocab, c]),
        ("position_embedding.weight", vec![model.ctx, c]),
        ("ln_final.weight", vec![c]),
        ("ln_final.bias", vec![c]),
    ];
    let of_block = move |i: usize| -> [(String, Vec<usize>); OF_A_BLOCK] {
        let square = || vec![c, c];
        [
            ("ln1.weight", vec![c]),
            ("ln1.bias", vec![c]),
            ("attn.q_proj.weight", square()),
            ("attn.q_proj.bias", vec![c]),
            ("attn.k_proj.weight", square()),
            ("attn.k_proj.bias", vec![c]),
            ("attn.v_proj.weight", square()),
            ("attn.v_proj.bias", vec![c]),
            ("attn.o_proj.weight", square()),
            ("attn.o_proj.bias", vec![c]),
            ("ln2.weight", vec![c]),
            ("ln2.bias", vec![c]),
            ("mlp.fc_in.weight", vec![mlp, c]),
            ("mlp.fc_in.bias", vec![mlp]),
            ("mlp.fc_out.weight", vec![c, mlp]),
            ("mlp.fc_out.bias", vec![c]),
        ]
        .map(|(name, shape)| (format!("blocks.{i}.{name}"), shape))
    };
    outside.into_iter().map(|(name, shape)| (name.to_owned(), shape)).chain((0..model.layers).flat_map(of_block))
}

/// Whether a tensor is the matrix of a linear layer, which some formats store as [in, out].
pub fn is_linear(name: &str, shape: &[usize]) -> bool {
    name.starts_with("blocks.") && shape.len() == 2
}

/// A matrix with rows and columns exchanged.
pub fn transposed(matrix: &HostTensor) -> Result<HostTensor> {
    let ([rows, columns], values) = (matrix.shape(), matrix.as_f32()?) else {
        return Err(Error::failed(format!("{} is not a matrix", matrix.type_name())));
    };
    let mut out = Vec::with_capacity(values.len());
    for column in 0..*columns {
        out.extend((0..*rows).map(|row| values[row * columns + column]));
    }
    HostTensor::f32(&[*columns, *rows], out)
}

/// Checks that `weights` are exactly those of the model, all f32; the error lists what differs and names `origin`.
pub fn check_weights(architecture: &Architecture, weights: &Tensors, origin: &str) -> Result<()> {
    let expected: Vec<(String, Vec<usize>)> = match architecture {
        // Counted before they are listed, so that a file cannot state more layers than it has tensors.
        Architecture::Gpt(model) if model.layers > weights.len() / OF_A_BLOCK => {
            return Err(Error::input(format!(
                "{origin} does not fit the model: {} layers are stated, which are {} tensors, and there are {}",
                model.layers,
                OUTSIDE + OF_A_BLOCK * model.layers,
                weights.len()
            )));
        }
        Architecture::Gpt(model) => gpt_weights(model).collect(),
        Architecture::Graph(model) => crate::model::weight_shapes(model.graph()),
    };
    check_architecture(weights, &expected, origin)?;
    check_f32(weights, origin)
}

/// The GPT whose weights have these names and shapes; the GELU is the exact one, which no shape shows. Errors: they are no GPT's.
pub fn infer(weights: &Tensors, heads: Option<usize>, origin: &str) -> Result<ModelConfig> {
    if ["wte.weight", "transformer.wte.weight"].iter().any(|name| weights.contains_key(*name)) {
        return Err(Error::input(format!(
            "{origin} has GPT-2's names (wte.weight), which tinygpt writes and does not read: rename them as docs/FORMATS.md lists"
        )));
    }
    let matrix = |name: &str| -> Result<[usize; 2]> {
        let found = weights.get(name).map(|tensor| (tensor.shape(), tensor.type_name()));
        match found {
            Some(([rows, columns], _)) => Ok([*rows, *columns]),
            Some((_, ty)) => Err(Error::input(format!("{name} in {origin} is {ty}, and a matrix is expected"))),
            None => Err(Error::input(format!(
                "{origin} is no GPT that tinygpt knows: it has no tensor {name} (docs/FORMATS.md lists the names)"
            ))),
        }
    };
    let [vocab, d_model] = matrix("token_embedding.weight")?;
    let [ctx, _] = matrix("position_embedding.weight")?;
    let [d_mlp, _] = matrix("blocks.0.mlp.fc_in.weight")?;
    let numbers =
        weights.keys().filter_map(|name| name.strip_prefix("blocks.")?.split('.').next()?.parse::<usize>().ok());
    let layers = numbers.max().map_or(0, |last| last.saturating_add(1));
    let heads = super::heads_of(origin, None, heads)?;
    let model = ModelConfig { vocab, ctx, layers, heads, d_model, d_mlp, gelu: Gelu::Erf };
    model.validate().map_err(|e| Error::input(format!("{origin}: {e}")))?;
    Ok(model)
}
