//! Checkpoints: a directory `step-NNNNNNNN/` with model.safetensors, optim.safetensors and state.json.
//!
//! Invariants:
//! - **All or nothing.** A checkpoint is written to a hidden directory beside its place, each file synced, and renamed;
//!   a directory named `step-NNNNNNNN` is always whole.
//! - **PyTorch's layout.** model.safetensors holds what `state_dict()` would: the callers' names, linear weights as
//!   [out, in], metadata `format` = `pt`. It also carries the architecture (metadata `tinygpt.model`, JSON; of a model that is a graph
//!   `tinygpt.graph`, the graph's text), so that the file alone can be sampled from. optim.safetensors holds Adam's moments as `m.NAME` and `v.NAME`.
//! - **State is small.** Everything random is a pure function of (seed, step), so state.json needs a version, the number
//!   of steps done and the configuration.
//! - **Hostile files are errors.** Missing, truncated, foreign or newer files each give one sentence, never a panic.
//!
//! A PATH given by a user is a run directory (its latest checkpoint), a checkpoint directory, or a model file.

use crate::architecture::{Architecture, GraphModel};
use crate::config::{ModelConfig, RunConfig};
use crate::error::one_line;
use crate::tensor_file::{self, TensorFile, Tensors};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Version of the checkpoint format written here.
pub const VERSION: u32 = 1;

pub const MODEL_FILE: &str = "model.safetensors";
pub const OPTIM_FILE: &str = "optim.safetensors";
pub const STATE_FILE: &str = "state.json";
/// Metadata key of model.safetensors that holds the architecture.
const MODEL_KEY: &str = "tinygpt.model";
/// Metadata key of model.safetensors that holds the text of a graph.
const GRAPH_KEY: &str = "tinygpt.graph";

/// Everything needed to go on training.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    /// Steps done.
    pub step: u64,
    /// Seconds of training so far.
    pub elapsed_s: f64,
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

    /// Writes `RUN_DIR/step-NNNNNNNN` and returns its path. A checkpoint of the same step is replaced.
    pub fn save(&self, run_dir: &Path) -> Result<PathBuf> {
        let place = run_dir.join(directory_name(self.step));
        let aside = run_dir.join(format!(".{}.{}.new", directory_name(self.step), std::process::id()));
        let old = run_dir.join(format!(".{}.{}.old", directory_name(self.step), std::process::id()));
        let saved = self.write_files(&aside).and_then(|()| {
            if place.exists() {
                fs::rename(&place, &old).map_err(|e| Error::writing(&place, e))?;
            }
            fs::rename(&aside, &place).map_err(|e| Error::writing(&place, e))?;
            sync_directory(run_dir)
        });
        for leftover in [&aside, &old] {
            if leftover.exists() {
                fs::remove_dir_all(leftover).map_err(|e| Error::writing(leftover, e))?;
            }
        }
        saved.map(|()| place)
    }

    /// Writes the files into a new directory `dir`; one that is there is replaced.
    pub(crate) fn write_files(&self, dir: &Path) -> Result<()> {
        // A crashed process of the same number may have left one.
        if dir.exists() {
            fs::remove_dir_all(dir).map_err(|e| Error::writing(dir, e))?;
        }
        fs::create_dir_all(dir).map_err(|e| Error::writing(dir, e))?;
        write_model(&dir.join(MODEL_FILE), self.architecture(), &self.weights)?;
        let moments = |prefix: &'static str, of| prefixed(prefix, of);
        let both = moments("m.", &self.m).chain(moments("v.", &self.v));
        tensor_file::write(&dir.join(OPTIM_FILE), both, &pt_metadata())?;
        let state = State {
            version: VERSION,
            step: self.step,
            seed: self.config.train.seed,
            elapsed_s: self.elapsed_s,
            config: self.config.clone(),
        };
        let path = dir.join(STATE_FILE);
        let write = || -> std::io::Result<()> {
            let mut file = File::create_new(&path)?;
            serde_json::to_writer_pretty(&mut file, &state)?;
            file.sync_all()
        };
        write().map_err(|e| Error::writing(&path, e))?;
        sync_directory(dir)
    }

    /// Loads the checkpoint at `path` (run directory, checkpoint directory or model file) with everything to go on.
    pub fn load(path: &Path) -> Result<Self> {
        let model_file = locate(path)?;
        let dir = model_file.parent().unwrap_or(Path::new(""));
        let state = read_state(&dir.join(STATE_FILE))?;
        let (architecture, weights) = read_model(&model_file)?;
        let (same, graph) = match architecture {
            Architecture::Gpt(config) => (state.config.graph.is_none() && config == state.config.model, None),
            Architecture::Graph(graph) => (state.config.graph.is_some(), Some(graph)),
        };
        if !same {
            return Err(Error::input(format!(
                "the checkpoint {} is inconsistent: {MODEL_FILE} and {STATE_FILE} state different architectures",
                dir.display()
            )));
        }
        let optim_file = dir.join(OPTIM_FILE);
        let optim = TensorFile::read(&optim_file)?;
        let mut moments = optim.tensors()?;
        let expected: Vec<(String, Vec<usize>)> = ["m.", "v."]
            .iter()
            .flat_map(|prefix| prefixed(prefix, &weights))
            .map(|(name, tensor)| (name, tensor.shape().to_vec()))
            .collect();
        check_architecture(&moments, &expected, &optim_file.display().to_string())?;
        let v = moments.split_off("v.");
        let strip = |tensors: Tensors| tensors.into_iter().map(|(name, t)| (name[2..].to_owned(), t)).collect();
        Ok(Self {
            step: state.step,
            elapsed_s: state.elapsed_s,
            config: state.config,
            graph,
            weights,
            m: strip(moments),
            v: strip(v),
        })
    }
}

impl Model {
    /// Loads the weights and architecture at `path` (run directory, checkpoint directory or model file). Errors: the model is a graph.
    pub fn load(path: &Path) -> Result<Self> {
        match load_model(path)? {
            (Architecture::Gpt(config), weights) => Ok(Self { config, weights }),
            (Architecture::Graph(model), _) => Err(Error::input(format!(
                "{} holds the graph {}, and a GPT is needed here",
                path.display(),
                model.graph().name
            ))),
        }
    }
}

/// Loads the architecture and weights at `path` (run directory, checkpoint directory or model file).
pub fn load_model(path: &Path) -> Result<(Architecture, Tensors)> {
    read_model(&locate(path)?)
}

/// Writes a model file with its architecture in the metadata.
pub fn write_model(path: &Path, model: impl Into<Architecture>, weights: &Tensors) -> Result<()> {
    tensor_file::write(path, prefixed("", weights), &model_metadata(&model.into())?)
}

/// The same file in memory.
pub fn model_bytes(model: impl Into<Architecture>, weights: &Tensors) -> Result<Vec<u8>> {
    Ok(tensor_file::to_bytes(prefixed("", weights), &model_metadata(&model.into())?))
}

fn model_metadata(model: &Architecture) -> Result<BTreeMap<String, String>> {
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

fn read_model(path: &Path) -> Result<(Architecture, Tensors)> {
    let file = TensorFile::read(path)?;
    if let Some(text) = file.metadata(GRAPH_KEY) {
        return Ok((GraphModel::parse(text, &path.display().to_string())?.into(), file.tensors()?));
    }
    let config = file.metadata(MODEL_KEY).ok_or_else(|| {
        Error::input(format!(
            "{} does not say its architecture (metadata key {MODEL_KEY}), so it was not written by tinygpt",
            path.display()
        ))
    })?;
    let config: ModelConfig = serde_json::from_str(config).map_err(|e| {
        Error::input(format!("{} states an architecture that cannot be read: {}", path.display(), one_line(e)))
    })?;
    config
        .validate()
        .map_err(|e| Error::input(format!("{} states an impossible architecture: {e}", path.display())))?;
    Ok((Architecture::Gpt(config), file.tensors()?))
}

fn read_state(path: &Path) -> Result<State> {
    let text = fs::read_to_string(path).map_err(|e| Error::reading(path, e))?;
    let invalid = |e: serde_json::Error| {
        Error::input(format!("{} is truncated or damaged ({}): use another checkpoint", path.display(), one_line(e)))
    };
    let StateVersion { version } = serde_json::from_str(&text).map_err(invalid)?;
    if version > VERSION {
        return Err(Error::input(format!(
            "{} has format version {version}, and this tinygpt reads up to {VERSION}: use a newer tinygpt",
            path.display()
        )));
    }
    let state: State = serde_json::from_str(&text).map_err(invalid)?;
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

/// The model file that `path` stands for: itself, or that of a checkpoint directory, or that of a run's latest.
pub fn locate(path: &Path) -> Result<PathBuf> {
    if !path.exists() {
        return Err(Error::input(format!(
            "{} does not exist: give a run directory, a checkpoint directory or a model file",
            path.display()
        )));
    }
    if path.is_file() {
        return Ok(path.to_owned());
    }
    let here = path.join(MODEL_FILE);
    if here.exists() {
        return Ok(here);
    }
    latest(path)?.map(|dir| dir.join(MODEL_FILE)).ok_or_else(|| {
        Error::input(format!(
            "{} holds no checkpoint: neither {MODEL_FILE} nor a directory step-NNNNNNNN",
            path.display()
        ))
    })
}

/// The checkpoint of the highest step in a run directory.
pub fn latest(run_dir: &Path) -> Result<Option<PathBuf>> {
    Ok(list(run_dir)?.pop())
}

/// Removes all but the `keep` newest checkpoints (0 keeps all), and what crashed saves left behind.
pub fn prune(run_dir: &Path, keep: usize) -> Result<()> {
    let mut doomed = list(run_dir)?;
    doomed.truncate(if keep == 0 { 0 } else { doomed.len().saturating_sub(keep) });
    for entry in fs::read_dir(run_dir).map_err(|e| Error::reading(run_dir, e))? {
        let entry = entry.map_err(|e| Error::reading(run_dir, e))?;
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| name.starts_with(".step-")) {
            doomed.push(entry.path());
        }
    }
    doomed.iter().try_for_each(|dir| fs::remove_dir_all(dir).map_err(|e| Error::writing(dir, e)))
}

/// Checkpoint directories of a run, by rising step.
fn list(run_dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(run_dir).map_err(|e| Error::reading(run_dir, e))? {
        let entry = entry.map_err(|e| Error::reading(run_dir, e))?;
        let name = entry.file_name();
        let digits = name.to_str().and_then(|name| name.strip_prefix("step-"));
        if digits.is_some_and(|d| d.len() == 8 && d.bytes().all(|b| b.is_ascii_digit())) && entry.path().is_dir() {
            found.push(entry.path());
        }
    }
    // Eight digits: the order of names is the order of steps.
    found.sort();
    Ok(found)
}

fn directory_name(step: u64) -> String {
    format!("step-{step:08}")
}

fn prefixed<'a>(prefix: &str, tensors: &'a Tensors) -> impl Iterator<Item = (String, &'a crate::tensor::HostTensor)> {
    tensors.iter().map(move |(name, tensor)| (format!("{prefix}{name}"), tensor))
}

fn pt_metadata() -> BTreeMap<String, String> {
    BTreeMap::from([("format".to_owned(), "pt".to_owned())])
}

/// Makes a rename in `dir` survive a power failure, where the system has a way to say so.
fn sync_directory(dir: &Path) -> Result<()> {
    if cfg!(unix) {
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(|e| Error::writing(dir, e))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::architecture::tests::bigram;
    use crate::tensor::HostTensor;

    fn tensors(scale: f32) -> Tensors {
        let tensor = |shape: &[usize]| {
            let n = shape.iter().product::<usize>();
            HostTensor::f32(shape, (0..n).map(|i| i as f32 * scale).collect()).unwrap()
        };
        Tensors::from([("a.weight".to_owned(), tensor(&[3, 2])), ("a.bias".to_owned(), tensor(&[3]))])
    }

    fn checkpoint(step: u64) -> Checkpoint {
        let config = RunConfig::preset("tiny").unwrap();
        Checkpoint {
            step,
            elapsed_s: 1.5,
            config,
            graph: None,
            weights: tensors(1.0),
            m: tensors(0.1),
            v: tensors(0.01),
        }
    }

    fn error<T>(result: Result<T>) -> String {
        let error = result.err().expect("an error was expected");
        assert_eq!(error.exit_status(), 2);
        error.to_string()
    }

    #[test]
    fn checkpoints_round_trip_by_every_kind_of_path() {
        let dir = tempfile::tempdir().unwrap();
        checkpoint(7).save(dir.path()).unwrap();
        let place = checkpoint(12).save(dir.path()).unwrap();
        assert!(place.ends_with("step-00000012"));
        for path in [dir.path().to_owned(), place.clone(), place.join(MODEL_FILE)] {
            assert_eq!(Checkpoint::load(&path).unwrap(), checkpoint(12));
            assert_eq!(Model::load(&path).unwrap().weights, tensors(1.0));
        }
        assert_eq!(Checkpoint::load(&dir.path().join("step-00000007")).unwrap().step, 7);
        // The model file alone is enough to sample from, and says so when training is asked to go on.
        let alone = dir.path().join("alone.safetensors");
        fs::copy(place.join(MODEL_FILE), &alone).unwrap();
        assert_eq!(Model::load(&alone).unwrap().config, checkpoint(12).config.model);
        assert!(error(Checkpoint::load(&alone)).contains("state.json"));
    }

    #[test]
    fn the_checkpoint_of_a_graph_holds_the_graph() {
        let dir = tempfile::tempdir().unwrap();
        let mut saved = checkpoint(5);
        saved.graph = Some(Arc::new(GraphModel::new(bigram(|_| ())).unwrap()));
        saved.config.graph = Some("model.gir".to_owned());
        let place = saved.save(dir.path()).unwrap();
        let loaded = Checkpoint::load(dir.path()).unwrap();
        assert_eq!((&loaded.graph, &loaded.config.graph, &loaded.m), (&saved.graph, &saved.config.graph, &saved.m));
        assert_eq!(load_model(&place).unwrap(), (saved.architecture(), tensors(1.0)));
        assert!(error(Model::load(&place)).ends_with("holds the graph bigram, and a GPT is needed here"));
        // A state of another model than the file beside it.
        let other = checkpoint(6).save(dir.path()).unwrap();
        fs::copy(place.join(MODEL_FILE), other.join(MODEL_FILE)).unwrap();
        assert!(error(Checkpoint::load(&other)).contains("different architectures"));
    }

    #[test]
    fn equal_checkpoints_are_equal_files_and_pytorch_metadata_is_there() {
        let read = || {
            let dir = tempfile::tempdir().unwrap();
            let place = checkpoint(3).save(dir.path()).unwrap();
            [MODEL_FILE, OPTIM_FILE, STATE_FILE].map(|name| fs::read(place.join(name)).unwrap())
        };
        assert_eq!(read(), read());
        let file = TensorFile::parse(read()[0].clone(), "m").unwrap();
        assert_eq!(file.metadata("format"), Some("pt"));
    }

    #[test]
    fn a_save_replaces_its_own_step_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        checkpoint(3).save(dir.path()).unwrap();
        let mut again = checkpoint(3);
        again.weights = tensors(2.0);
        again.save(dir.path()).unwrap();
        assert_eq!(Checkpoint::load(dir.path()).unwrap(), again);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn prune_keeps_the_newest_and_clears_leftovers() {
        let dir = tempfile::tempdir().unwrap();
        for step in [1, 20, 300, 4000] {
            checkpoint(step).save(dir.path()).unwrap();
        }
        fs::create_dir(dir.path().join(".step-00000005.1.new")).unwrap();
        fs::create_dir(dir.path().join("step-mine")).unwrap();
        prune(dir.path(), 2).unwrap();
        let mut names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["step-00000300", "step-00004000", "step-mine"]);
        prune(dir.path(), 0).unwrap();
        assert_eq!(list(dir.path()).unwrap().len(), 2);
    }

    #[test]
    fn missing_and_foreign_paths_are_one_sentence() {
        let dir = tempfile::tempdir().unwrap();
        assert!(error(Model::load(&dir.path().join("x"))).contains("does not exist: give a run directory"));
        assert!(error(Model::load(dir.path())).contains("holds no checkpoint"));
        let foreign = dir.path().join("f.safetensors");
        tensor_file::write(&foreign, [], &pt_metadata()).unwrap();
        assert!(error(Model::load(&foreign)).contains("was not written by tinygpt"));
    }

    #[test]
    fn truncated_files_are_errors_whichever_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let place = checkpoint(3).save(dir.path()).unwrap();
        for name in [MODEL_FILE, OPTIM_FILE, STATE_FILE] {
            let path = place.join(name);
            let whole = fs::read(&path).unwrap();
            for len in [0, 1, 7, 9, whole.len() / 2, whole.len() - 1] {
                fs::write(&path, &whole[..len]).unwrap();
                assert!(error(Checkpoint::load(&place)).contains("truncated"), "{name} {len}");
            }
            fs::remove_file(&path).unwrap();
            assert!(Checkpoint::load(&place).is_err());
            fs::write(&path, &whole).unwrap();
        }
        assert_eq!(Checkpoint::load(&place).unwrap(), checkpoint(3));
    }

    #[test]
    fn newer_and_impossible_states_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let place = checkpoint(3).save(dir.path()).unwrap();
        let path = place.join(STATE_FILE);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace("\"version\": 1", "\"version\": 2").replace("step", "steps_done")).unwrap();
        assert!(error(Checkpoint::load(&place)).contains("has format version 2, and this tinygpt reads up to 1"));
        fs::write(&path, text.replace("\"heads\": 3", "\"heads\": 0")).unwrap();
        assert!(error(Checkpoint::load(&place)).contains("heads must be from 1"));
        fs::write(&path, text.replace("\"d_model\": 48", "\"d_model\": 96")).unwrap();
        assert!(error(Checkpoint::load(&place)).contains("different architectures"));
    }

    #[test]
    fn a_wrong_architecture_lists_what_differs() {
        let expected = [("a.weight".to_owned(), vec![2, 3]), ("b".to_owned(), vec![1])];
        assert_eq!(
            error(check_architecture(&tensors(1.0), &expected, "F")),
            "F does not fit the model: a.weight is [3, 2] instead of [2, 3]; b is missing; a.bias is not expected"
        );
        let many: Vec<_> = (0..20).map(|i| (format!("p{i}"), vec![1])).collect();
        assert!(error(check_architecture(&Tensors::new(), &many, "F")).ends_with("p7 is missing; and 12 more"));
        let fits = [("a.weight".to_owned(), vec![3, 2]), ("a.bias".to_owned(), vec![3])];
        check_architecture(&tensors(1.0), &fits, "F").unwrap();
        // Moments that lack a tensor of the model are found on loading.
        let dir = tempfile::tempdir().unwrap();
        let mut lame = checkpoint(3);
        lame.v.remove("a.bias");
        lame.save(dir.path()).unwrap();
        assert!(error(Checkpoint::load(dir.path())).contains("v.a.bias is missing"));
    }
}
