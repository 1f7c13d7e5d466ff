//! Checkpoints: a directory `step-NNNNNNNN/` with model.safetensors, optim.safetensors and state.json.
//!
//! Invariants:
//! - **All or nothing.** A checkpoint is written to a hidden directory beside its place, each file synced, and renamed;
//!   a directory named `step-NNNNNNNN` is always whole ([`directory`]).
//! - **PyTorch's layout.** model.safetensors holds what `state_dict()` would: the callers' names, linear weights as
//!   [out, in], metadata `format` = `pt`. It also carries the architecture (metadata `tinygpt.model`, JSON; of a model that is a graph
//!   `tinygpt.graph`, the graph's text), so that the file alone can be sampled from. optim.safetensors holds Adam's moments as `m.NAME` and `v.NAME`.
//! - **State is small.** Everything random is a pure function of (seed, step), so state.json needs a version, the number
//!   of steps done, the configuration, and the validation loss by which the best checkpoint is known.
//! - **Hostile files are errors.** Missing, truncated, foreign or newer files each give one sentence, never a panic.
//!
//! A PATH given by a user is a run directory (its latest checkpoint), a checkpoint directory, or a model file of any format that
//! [`crate::formats`] reads. docs/FORMATS.md specifies the files.

mod directory;

pub use directory::{best, latest, locate, prune};

use crate::architecture::{Architecture, GraphModel};
use crate::config::{ModelConfig, RunConfig};
use crate::error::one_line;
use crate::formats::{self, Saved};
use crate::loss_scale::LossScale;
use crate::tensor::{DType, HostTensor};
use crate::tensor_file::{self, TensorFile, Tensors};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Version of the checkpoint format written here.
pub const VERSION: u32 = 1;

pub const MODEL_FILE: &str = "model.safetensors";
pub const OPTIM_FILE: &str = "optim.safetensors";
pub const STATE_FILE: &str = "state.json";

/// Everything needed to go on training.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    /// Steps done.
    pub step: u64,
    /// Seconds of training so far.
    pub elapsed_s: f64,
    /// Validation loss at this step, in nats a token; None where it was not validated.
    pub val_loss: Option<f64>,
    /// Of mixed precision.
    pub loss_scale: Option<LossScale>,
    pub config: RunConfig,
    /// The model, where it is no GPT of `config.model`.
    pub graph: Option<Arc<GraphModel>>,
    /// Weights in PyTorch's names and layout.
    pub weights: Tensors,
    /// Adam's first moments, by the weights' names.
    pub m: Tensors,
    /// Adam's second moments, by the weights' names.
    pub v: Tensors,
}

/// A GPT without its training.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    pub config: ModelConfig,
    /// Weights in PyTorch's names and layout.
    pub weights: Tensors,
}

/// state.json
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    version: u32,
    step: u64,
    seed: u64,
    elapsed_s: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    val_loss: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    loss_scale: Option<LossScale>,
    config: RunConfig,
}

/// The part of state.json that every version has.
#[derive(Deserialize)]
struct StateVersion {
    version: u32,
}

impl Checkpoint {
    /// What the model is.
    pub fn architecture(&self) -> Architecture {
        self.graph.clone().map_or_else(|| Architecture::from(&self.config.model), Architecture::Graph)
    }

    /// Writes `RUN_DIR/step-NNNNNNNN` and returns its path. A checkpoint of the same step is replaced; whatever fails, those that were
    /// there before are there still.
    pub fn save(&self, run_dir: &Path) -> Result<PathBuf> {
        directory::place(run_dir, self.step, |dir| self.write_files(dir))
    }

    /// Writes the files into a new directory `dir`; one that is there is replaced.
    pub(crate) fn write_files(&self, dir: &Path) -> Result<()> {
        // A crashed process of the same number may have left one.
        if dir.exists() {
            fs::remove_dir_all(dir).map_err(|e| Error::writing(dir, e))?;
        }
        fs::create_dir_all(dir).map_err(|e| Error::writing(dir, e))?;
        write_model(&dir.join(MODEL_FILE), self.architecture(), &self.weights)?;
        tensor_file::write(&dir.join(OPTIM_FILE), self.moments(), &pt_metadata())?;
        let path = dir.join(STATE_FILE);
        let state = self.state()?;
        let write = || -> std::io::Result<()> {
            let mut file = File::create_new(&path)?;
            file.write_all(&state)?;
            file.sync_all()
        };
        write().map_err(|e| Error::writing(&path, e))?;
        directory::sync_directory(dir)
    }

    /// The files by their names, in memory: what [`Checkpoint::from_files`] reads.
    pub fn to_files(&self) -> Result<[(&'static str, Vec<u8>); 3]> {
        Ok([
            (MODEL_FILE, model_bytes(self.architecture(), &self.weights)?),
            (OPTIM_FILE, tensor_file::to_bytes(self.moments(), &pt_metadata())),
            (STATE_FILE, self.state()?),
        ])
    }

    /// The moments by their names in optim.safetensors.
    fn moments(&self) -> impl Iterator<Item = (String, &HostTensor)> {
        prefixed("m.", &self.m).chain(prefixed("v.", &self.v))
    }

    /// state.json
    fn state(&self) -> Result<Vec<u8>> {
        let state = State {
            version: VERSION,
            step: self.step,
            seed: self.config.train.seed,
            elapsed_s: self.elapsed_s,
            val_loss: self.val_loss.filter(|loss| loss.is_finite()),
            loss_scale: self.loss_scale.clone(),
            config: self.config.clone(),
        };
        let failed = |e| Error::failed(format!("cannot write {STATE_FILE}: {}", one_line(e)));
        serde_json::to_vec_pretty(&state).map_err(failed)
    }

    /// Loads the checkpoint at `path` (run directory, checkpoint directory or its model file) with everything to go on.
    pub fn load(path: &Path) -> Result<Self> {
        let model_file = locate(path)?;
        let dir = model_file.parent().unwrap_or(Path::new(""));
        let read = |name: &str| {
            let path = dir.join(name);
            if !path.exists() {
                return Err(Error::input(format!(
                    "{} has no {name} beside it, so it holds weights and no run to go on with: start a run from them with --init",
                    model_file.display()
                )));
            }
            fs::read(&path).map_err(|e| Error::reading(&path, e))
        };
        // The small file first: it says whether this tinygpt can read the others.
        let state = read(STATE_FILE)?;
        let model = fs::read(&model_file).map_err(|e| Error::reading(&model_file, e))?;
        Self::read_files(model, &model_file, || read(OPTIM_FILE), &state, dir)
    }

    /// Reads a checkpoint from its files' bytes; messages name the files within `origin`.
    pub fn from_files(model: Vec<u8>, optim: Vec<u8>, state: &[u8], origin: &str) -> Result<Self> {
        let dir = Path::new(origin);
        Self::read_files(model, &dir.join(MODEL_FILE), || Ok(optim), state, dir)
    }

    fn read_files(
        model: Vec<u8>,
        model_file: &Path,
        optim: impl FnOnce() -> Result<Vec<u8>>,
        state: &[u8],
        dir: &Path,
    ) -> Result<Self> {
        let state = read_state(state, &dir.join(STATE_FILE))?;
        let model = formats::safetensors::decode(model, &model_file.display().to_string(), None)?;
        let (stated, found) = (&state.config, model.architecture());
        let expected = match &found {
            Architecture::Graph(_) if stated.graph.is_some() => found.clone(),
            _ if stated.graph.is_some() => {
                return Err(Error::input(format!(
                    "the checkpoint {} is inconsistent: {STATE_FILE} states a graph, and {MODEL_FILE} holds a GPT: use another checkpoint",
                    dir.display()
                )));
            }
            _ => Architecture::from(&stated.model),
        };
        found.check_is(
            &expected,
            &format!("the checkpoint {} is inconsistent: {MODEL_FILE}, beside {STATE_FILE},", dir.display()),
        )?;
        let optim_file = dir.join(OPTIM_FILE).display().to_string();
        let mut moments = TensorFile::parse(optim()?, &optim_file)?.tensors()?;
        let expected: Vec<(String, Vec<usize>)> = ["m.", "v."]
            .iter()
            .flat_map(|prefix| prefixed(prefix, &model.weights))
            .map(|(name, tensor)| (name, tensor.shape().to_vec()))
            .collect();
        check_architecture(&moments, &expected, &optim_file)?;
        check_f32(&moments, &optim_file)?;
        let v = moments.split_off("v.");
        let strip = |tensors: Tensors| tensors.into_iter().map(|(name, t)| (name[2..].to_owned(), t)).collect();
        Ok(Self {
            step: state.step,
            elapsed_s: state.elapsed_s,
            val_loss: state.val_loss,
            loss_scale: state.loss_scale,
            config: state.config,
            graph: model.graph,
            weights: model.weights,
            m: strip(moments),
            v: strip(v),
        })
    }
}

impl Model {
    /// Loads the weights and architecture at `path` (run directory, checkpoint directory or model file). Errors: the model is a graph.
    pub fn load(path: &Path) -> Result<Self> {
        match load_model(path, None)? {
            (Architecture::Gpt(config), weights) => Ok(Self { config, weights }),
            (Architecture::Graph(model), _) => Err(Error::input(format!(
                "{} holds the graph {}, and a GPT is needed here",
                path.display(),
                model.graph().name
            ))),
        }
    }
}

/// Loads the architecture and weights at `path`: a run directory (its latest checkpoint), a checkpoint directory, or a file of any format that
/// [`formats::decode`] reads. `heads` is for files that do not state their number of attention heads.
pub fn load_model(path: &Path, heads: Option<usize>) -> Result<(Architecture, Tensors)> {
    let saved = read_model(path, heads)?;
    Ok((saved.architecture(), saved.weights))
}

/// Loads all there is at `path`: of a checkpoint the whole, of a file what it holds.
pub fn open(path: &Path, heads: Option<usize>) -> Result<Saved> {
    let file = locate(path)?;
    let beside = |name| file.with_file_name(name).is_file();
    if file.file_name().is_some_and(|name| name == MODEL_FILE) && beside(STATE_FILE) && beside(OPTIM_FILE) {
        let saved = Saved::from(Checkpoint::load(&file)?);
        if saved.graph.is_none() {
            formats::heads_of(&file.display().to_string(), Some(saved.config.model.heads), heads)?;
        }
        return Ok(saved);
    }
    read_model(&file, heads)
}

fn read_model(path: &Path, heads: Option<usize>) -> Result<Saved> {
    let file = locate(path)?;
    let bytes = fs::read(&file).map_err(|e| Error::reading(&file, e))?;
    formats::decode(&file.display().to_string(), bytes, heads)
}

/// Writes a model file with its architecture in the metadata.
pub fn write_model(path: &Path, model: impl Into<Architecture>, weights: &Tensors) -> Result<()> {
    tensor_file::write(path, prefixed("", weights), &formats::safetensors::metadata(&model.into())?)
}

/// The same file in memory.
pub fn model_bytes(model: impl Into<Architecture>, weights: &Tensors) -> Result<Vec<u8>> {
    formats::safetensors::encode(&model.into(), weights)
}

fn read_state(text: &[u8], path: &Path) -> Result<State> {
    let invalid = |e: serde_json::Error| {
        Error::input(format!("{} is truncated or damaged ({}): use another checkpoint", path.display(), one_line(e)))
    };
    let StateVersion { version } = serde_json::from_slice(text).map_err(invalid)?;
    if version > VERSION {
        return Err(Error::input(format!(
            "{} has format version {version}, and this tinygpt reads up to {VERSION}: use a newer tinygpt",
            path.display()
        )));
    }
    let state: State = serde_json::from_slice(text).map_err(invalid)?;
    state.config.validate().map_err(|e| Error::input(format!("{}: {e}", path.display())))?;
    Ok(state)
}

/// Checks that `found` has exactly the expected tensors with the expected shapes; the error lists what differs.
pub fn check_architecture(found: &Tensors, expected: &[(String, Vec<usize>)], origin: &str) -> Result<()> {
    let mut differences = Vec::new();
    for (name, shape) in expected {
        match found.get(name) {
            None => differences.push(format!("{name} is missing")),
            Some(tensor) if tensor.shape() != shape => {
                differences.push(format!("{name} is {:?} instead of {shape:?}", tensor.shape()));
            }
            Some(_) => {}
        }
    }
    let known: std::collections::HashSet<&str> = expected.iter().map(|(name, _)| name.as_str()).collect();
    let extra = found.keys().filter(|name| !known.contains(name.as_str()));
    differences.extend(extra.map(|name| format!("{name} is not expected")));
    if differences.is_empty() {
        return Ok(());
    }
    const SHOWN: usize = 8;
    let more = differences.len().saturating_sub(SHOWN);
    differences.truncate(SHOWN);
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    Err(Error::input(format!("{origin} does not fit the model: {}{more}", differences.join("; "))))
}

/// Checks that weights or moments are f32, as everything that takes them expects.
pub(crate) fn check_f32(tensors: &Tensors, origin: &str) -> Result<()> {
    match tensors.iter().find(|(_, tensor)| tensor.dtype() != DType::F32) {
        None => Ok(()),
        Some((name, tensor)) => Err(Error::input(format!(
            "{name} in {origin} holds {}, and f32 is expected: convert it (in PyTorch: model.float())",
            tensor.dtype()
        ))),
    }
}

fn prefixed<'a>(prefix: &str, tensors: &'a Tensors) -> impl Iterator<Item = (String, &'a HostTensor)> {
    tensors.iter().map(move |(name, tensor)| (format!("{prefix}{name}"), tensor))
}

pub(crate) fn pt_metadata() -> BTreeMap<String, String> {
    BTreeMap::from([("format".to_owned(), "pt".to_owned())])
}

#[cfg(test)]
mod tests;
