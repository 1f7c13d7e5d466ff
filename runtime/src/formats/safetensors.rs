//! Weights as safetensors: what `state_dict()` would hold, with the architecture in the metadata where tinygpt wrote them.
//!
//! | metadata key | value |
//! |---|---|
//! | `format` | `pt`: the layout is PyTorch's, linear weights as [out, in] |
//! | `tinygpt.model` | a GPT's configuration as JSON, with the keys of `[model]` |
//! | `tinygpt.graph` | of a model that is a graph: its text |
//!
//! A file with neither of the last two keys is taken for a GPT whose sizes its shapes tell.

use super::{Saved, heads_of, names};
use crate::architecture::{Architecture, GraphModel};
use crate::checkpoint::pt_metadata;
use crate::config::ModelConfig;
use crate::error::one_line;
use crate::tensor_file::{TensorFile, Tensors, to_bytes};
use crate::{Error, Result};
use std::collections::BTreeMap;

/// Metadata key that holds a GPT's configuration.
const MODEL_KEY: &str = "tinygpt.model";
/// Metadata key that holds the text of a graph.
const GRAPH_KEY: &str = "tinygpt.graph";

/// The metadata of a model file.
pub fn metadata(model: &Architecture) -> Result<BTreeMap<String, String>> {
    let (key, value) = match model {
        Architecture::Gpt(config) => {
            let json = serde_json::to_string(config);
            let failed = |e| Error::failed(format!("cannot write the architecture as JSON: {}", one_line(e)));
            (MODEL_KEY, json.map_err(failed)?)
        }
        Architecture::Graph(model) => (GRAPH_KEY, model.graph().to_string()),
    };
    let mut metadata = pt_metadata();
    metadata.insert(key.to_owned(), value);
    Ok(metadata)
}

/// Writes a model file.
pub fn encode(model: &Architecture, weights: &Tensors) -> Result<Vec<u8>> {
    Ok(to_bytes(weights.iter().map(|(name, tensor)| (name.clone(), tensor)), &metadata(model)?))
}

/// Reads a model file of tinygpt's or PyTorch's; see [`super::decode`].
pub fn decode(bytes: Vec<u8>, name: &str, heads: Option<usize>) -> Result<Saved> {
    let file = TensorFile::parse(bytes, name)?;
    let architecture = stated(&file, name, heads)?;
    file.only_f32()?;
    let weights = file.tensors()?;
    let architecture = match architecture {
        Some(architecture) => architecture,
        None => Architecture::Gpt(names::infer(&weights, heads, name)?),
    };
    names::check_weights(&architecture, &weights, name)?;
    Saved::weights(architecture, weights)
}

/// The architecture that the metadata state.
fn stated(file: &TensorFile, name: &str, heads: Option<usize>) -> Result<Option<Architecture>> {
    if let Some(text) = file.metadata(GRAPH_KEY) {
        return Ok(Some(GraphModel::parse(text, name)?.into()));
    }
    let Some(config) = file.metadata(MODEL_KEY) else { return Ok(None) };
    let config: ModelConfig = serde_json::from_str(config)
        .map_err(|e| Error::input(format!("{name} states an architecture that cannot be read: {}", one_line(e))))?;
    config.validate().map_err(|e| Error::input(format!("{name} states an impossible architecture: {e}")))?;
    heads_of(name, Some(config.heads), heads)?;
    Ok(Some(Architecture::Gpt(config)))
}
