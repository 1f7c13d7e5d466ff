//! Model files of every kind: what came from elsewhere, as one value, and back.
//!
//! | module | reads | writes |
//! |---|---|---|
//! | [`safetensors`] | weights, as tinygpt or PyTorch wrote them | the same, which PyTorch opens |
//! | [`tinygpt`] | the original TinyGPT's `.tinygpt`, with or without moments | the same, with moments |
//! | [`hf_gpt2`] | | a folder that `transformers` loads as `GPT2LMHeadModel` |
//!
//! Invariants:
//! - **Bytes in, bytes out.** No files and no clock here: the command line and the page call the same functions.
//! - **The contents decide.** What a file is, its first bytes say, not its name.
//! - **Hostile bytes are errors.** One sentence that names the file; no panic; memory within a small multiple of the file's size: a size that a
//!   file states is compared with the bytes there before memory is asked for.
//! - **What is read can be run.** A [`Saved`] has exactly the tensors of its architecture, all f32, and its configuration is valid.

pub mod hf_gpt2;
pub mod names;
pub mod safetensors;
pub mod tinygpt;

#[cfg(test)]
mod tests;

use crate::architecture::{Architecture, GraphModel};
use crate::checkpoint::Checkpoint;
use crate::config::{DEFAULT_PRESET, ModelConfig, PRESETS, RunConfig};
use crate::tensor::{DType, HostTensor};
use crate::tensor_file::Tensors;
use crate::{Error, Result};
use std::sync::Arc;

/// What [`encode`] writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Safetensors,
    HfGpt2,
    Tinygpt,
}

impl Format {
    pub const ALL: [Format; 3] = [Self::Safetensors, Self::HfGpt2, Self::Tinygpt];

    /// As the command line and the page name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Safetensors => "safetensors",
            Self::HfGpt2 => "hf-gpt2",
            Self::Tinygpt => "tinygpt",
        }
    }

    /// The format of this name.
    pub fn named(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name).ok_or_else(|| {
            let known = Self::ALL.map(Self::name).join(", ");
            Error::input(format!("there is no file format \"{name}\": choose one of {known}"))
        })
    }
}

/// A loss that a run reports, in nats a token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LossPoint {
    pub step: u64,
    pub train: Option<f64>,
    pub val: Option<f64>,
}

/// A model with all that is known of its training, whatever it was read from.
#[derive(Debug, Clone, PartialEq)]
pub struct Saved {
    /// Steps done; 0 where the file does not say.
    pub step: u64,
    /// Seconds of training so far; 0 where the file does not say.
    pub elapsed_s: f64,
    /// How it is trained: as far as the file says, else by the preset of its architecture, or by the default one.
    pub config: RunConfig,
    /// The model, where it is no GPT of `config.model`.
    pub graph: Option<Arc<GraphModel>>,
    /// Weights in PyTorch's names and layout.
    pub weights: Tensors,
    /// Adam's first and second moments by the weights' names; None where the file has weights alone.
    pub moments: Option<[Tensors; 2]>,
    /// Losses by rising step; empty where the file has none.
    pub history: Vec<LossPoint>,
    /// When it was saved, as ISO 8601 in UTC; None where the file does not say.
    pub saved_at: Option<String>,
}

impl Saved {
    /// Weights alone.
    pub fn weights(architecture: Architecture, weights: Tensors) -> Result<Self> {
        let (config, graph) = match architecture {
            Architecture::Gpt(model) => (config_for(&model)?, None),
            Architecture::Graph(graph) => {
                let mut config = RunConfig::preset(DEFAULT_PRESET)?;
                config.graph = Some(crate::architecture::GRAPH_FILE.to_owned());
                config.train.batch = graph.batch();
                if !graph.has_logits() {
                    config.train.sample_bytes = 0;
                }
                (config, Some(graph))
            }
        };
        let history = Vec::new();
        Ok(Self { step: 0, elapsed_s: 0.0, config, graph, weights, moments: None, history, saved_at: None })
    }

    /// What the model is.
    pub fn architecture(&self) -> Architecture {
        self.graph.clone().map_or_else(|| Architecture::from(&self.config.model), Architecture::Graph)
    }

    /// The GPT's configuration. Errors: the model is a graph, which the format `wanted` cannot hold.
    fn gpt(&self, wanted: Format) -> Result<&ModelConfig> {
        match &self.graph {
            None => Ok(&self.config.model),
            Some(graph) => Err(Error::input(format!(
                "the model is the graph {}, and the format {} holds GPTs only: choose safetensors",
                graph.graph().name,
                wanted.name()
            ))),
        }
    }

    /// A checkpoint to go on from; moments that the file lacks are zeros.
    pub fn into_checkpoint(self) -> Result<Checkpoint> {
        let zeros = || -> Result<Tensors> {
            self.weights.iter().map(|(name, w)| Ok((name.clone(), HostTensor::zeros(DType::F32, w.shape())?))).collect()
        };
        let [m, v] = match self.moments {
            Some(moments) => moments,
            None => [zeros()?, zeros()?],
        };
        let val_loss = self.history.iter().rev().find(|point| point.step == self.step).and_then(|point| point.val);
        let Self { step, elapsed_s, config, graph, weights, .. } = self;
        Ok(Checkpoint { step, elapsed_s, val_loss, loss_scale: None, config, graph, weights, m, v })
    }
}

impl From<Checkpoint> for Saved {
    fn from(checkpoint: Checkpoint) -> Self {
        let Checkpoint { step, elapsed_s, val_loss, loss_scale: _, config, graph, weights, m, v } = checkpoint;
        let history = val_loss.map(|loss| LossPoint { step, train: None, val: Some(loss) }).into_iter().collect();
        Self { step, elapsed_s, config, graph, weights, moments: Some([m, v]), history, saved_at: None }
    }
}

/// A configuration that trains a model of this architecture: that of its preset, or the default one.
pub fn config_for(model: &ModelConfig) -> Result<RunConfig> {
    for preset in PRESETS {
        let config = RunConfig::preset(preset.name)?;
        if config.model == *model {
            return Ok(config);
        }
    }
    let mut config = RunConfig::preset(DEFAULT_PRESET)?;
    config.model = model.clone();
    Ok(config)
}

/// The files of a format by their names: one file, or those of a folder. A single file's name is a suggestion.
pub fn encode(format: Format, saved: &Saved) -> Result<Vec<(&'static str, Vec<u8>)>> {
    match format {
        Format::Safetensors => {
            Ok(vec![("model.safetensors", safetensors::encode(&saved.architecture(), &saved.weights)?)])
        }
        Format::Tinygpt => Ok(vec![("model.tinygpt", tinygpt::encode(saved)?)]),
        Format::HfGpt2 => hf_gpt2::encode(saved),
    }
}

/// Reads a model file; `name` is for messages. `heads` is for files that do not state their number of attention heads; an error where a
/// file states another.
pub fn decode(name: &str, bytes: Vec<u8>, heads: Option<usize>) -> Result<Saved> {
    if bytes.starts_with(tinygpt::MAGIC) {
        return tinygpt::decode(&bytes, name, heads);
    }
    // A safetensors header of 640 bytes begins like a pickle; its ninth byte tells.
    if bytes.get(8) != Some(&b'{') {
        refuse_pickles(name, &bytes)?;
    }
    safetensors::decode(bytes, name, heads)
}

/// Refuses what `torch.save` writes: a zip archive since PyTorch 1.6, a bare pickle before.
fn refuse_pickles(name: &str, bytes: &[u8]) -> Result<()> {
    let pickle = matches!(bytes, [0x80, 2..=5, ..]);
    if !pickle && !bytes.starts_with(b"PK\x03\x04") {
        return Ok(());
    }
    let safe = std::path::Path::new(name).with_extension("safetensors");
    let safe = safe.file_name().unwrap_or_default().display();
    let file = std::path::Path::new(name).file_name().unwrap_or_default().display();
    Err(Error::input(format!(
        "{name} is a pickle, as torch.save writes it, and reading one can run any code that it holds, so tinygpt does not: if you trust it, \
         convert it in Python: import torch; from safetensors.torch import save_file; \
         save_file(torch.load(\"{file}\", weights_only=True), \"{safe}\")"
    )))
}

/// The number of heads of a file that states `stated`, where the caller says `said`.
pub(crate) fn heads_of(name: &str, stated: Option<usize>, said: Option<usize>) -> Result<usize> {
    match (stated, said) {
        (Some(stated), Some(said)) if stated != said => {
            Err(Error::input(format!("{name} states heads {stated}, and --heads says {said}: leave --heads out")))
        }
        (Some(heads), _) | (None, Some(heads)) => Ok(heads),
        (None, None) => Err(Error::input(format!(
            "{name} does not state its number of attention heads, which no shape shows: give --heads N"
        ))),
    }
}
