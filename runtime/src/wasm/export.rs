//! An export: a folder that a page or Node loads a model from.
//!
//! | file | holds |
//! |---|---|
//! | manifest.json | what is where: docs/WASM.md |
//! | plain.wasm, plain-threads.wasm, relaxed.wasm, relaxed-threads.wasm | the module in its variants |
//! | model.safetensors, and of a checkpoint optim.safetensors and state.json | the starting state |
//! | program.json | the programs |
//! | peak.wasm, peak-relaxed.wasm | loops that measure the engine's SIMD peak |
//! | runner/ | the JavaScript runner |
//! | README.md | how to load it |
//!
//! Invariants: the folder is written aside and renamed, so it is whole or not there; nothing but an earlier export or an empty folder is
//! ever replaced. The starting state has the names and layout of a checkpoint, so `--checkpoint` takes an export too.

use super::bundle::{Bundle, Contents, MANIFEST_FILE, StartingState, bundle};
use super::runner::SCRIPTS;
use crate::checkpoint::{self, Checkpoint};
use crate::config::RunConfig;
use crate::error::one_line;
use crate::model::{forward, initial_weights};
use crate::tensor_file::Tensors;
use crate::{Error, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// What an export starts from.
#[derive(Debug, Clone)]
pub enum Source {
    /// The starting weights of a configuration's seed.
    Fresh(RunConfig),
    /// A run that goes on.
    Checkpoint(Box<Checkpoint>),
    /// Weights alone: moments are zero, and training is configured as given.
    Weights(RunConfig, Tensors),
}

impl Source {
    /// What a checkpoint PATH holds: all of a run, or a model file alone, which is trained on by the preset of its architecture, or by the
    /// default one.
    /// `heads` is for a file that does not state its attention heads.
    pub fn load(path: &Path, heads: Option<usize>) -> Result<Source> {
        let saved = checkpoint::open(path, heads)?;
        if let Some(graph) = &saved.graph {
            return Err(Error::input(format!(
                "{} holds the graph {}, and a GPT is needed here",
                path.display(),
                graph.graph().name
            )));
        }
        if saved.moments.is_some() {
            return Ok(Source::Checkpoint(Box::new(saved.into_checkpoint()?)));
        }
        Ok(Source::Weights(saved.config, saved.weights))
    }

    fn config(&self) -> &RunConfig {
        match self {
            Source::Fresh(config) | Source::Weights(config, _) => config,
            Source::Checkpoint(checkpoint) => &checkpoint.config,
        }
    }

    fn starting_state(&self) -> StartingState {
        let (step, elapsed_s, optim) = match self {
            Source::Checkpoint(c) => (c.step, c.elapsed_s, Some(checkpoint::OPTIM_FILE.to_owned())),
            Source::Fresh(_) | Source::Weights(..) => (0, 0.0, None),
        };
        StartingState { step, elapsed_s, model: checkpoint::MODEL_FILE.to_owned(), optim }
    }

    /// Writes the state's files into a new folder.
    fn write(&self, dir: &Path) -> Result<()> {
        let model_file = dir.join(checkpoint::MODEL_FILE);
        match self {
            Source::Fresh(config) => {
                let weights = initial_weights(&forward(&config.model, 1)?, config.train.seed)?;
                checkpoint::write_model(&model_file, &config.model, &weights)
            }
            Source::Weights(config, weights) => checkpoint::write_model(&model_file, &config.model, weights),
            Source::Checkpoint(checkpoint) => checkpoint.write_files(dir),
        }
    }
}

/// Writes the export of `source` as the folder `out`. Errors: `out` holds something else; the model fits no module.
pub fn export(source: &Source, out: &Path) -> Result<Bundle> {
    check_place(out)?;
    let mut config = source.config().clone();
    // The text comes from the page. Where it lay on this machine is nobody's business there.
    config.data = RunConfig::preset(crate::config::DEFAULT_PRESET)?.data;
    if let Some(graph) = &config.graph {
        return Err(Error::input(format!("the model is the graph {graph}, and an export holds a GPT: name a preset")));
    }
    let bundle = bundle(&Contents { state: source.starting_state(), ..Contents::gpt(&config) })?;
    let name = out.file_name().ok_or_else(|| Error::input(format!("{} names no folder to make", out.display())))?;
    let beside = |suffix: &str| -> PathBuf {
        out.with_file_name(format!(".{}.{}.{suffix}", name.display(), std::process::id()))
    };
    let (aside, old) = (beside("new"), beside("old"));
    let written = write_folder(&aside, source, &bundle).and_then(|()| {
        if out.exists() {
            fs::rename(out, &old).map_err(|e| Error::writing(out, e))?;
        }
        fs::rename(&aside, out).map_err(|e| Error::writing(out, e))
    });
    for leftover in [&aside, &old] {
        if leftover.exists() {
            fs::remove_dir_all(leftover).map_err(|e| Error::writing(leftover, e))?;
        }
    }
    written.map(|()| bundle)
}

/// Refuses to replace anything but an export or an empty folder.
fn check_place(out: &Path) -> Result<()> {
    if !out.exists() {
        return Ok(());
    }
    let empty = out.is_dir() && fs::read_dir(out).map_err(|e| Error::reading(out, e))?.next().is_none();
    let manifest = fs::read_to_string(out.join(MANIFEST_FILE)).unwrap_or_default();
    let format = serde_json::from_str::<serde_json::Value>(&manifest).map(|m| m["format"] == super::bundle::FORMAT);
    if empty || format.unwrap_or(false) {
        return Ok(());
    }
    Err(Error::input(format!("{} exists and is no export of tinygpt: choose another -o, or remove it", out.display())))
}

fn write_folder(dir: &Path, source: &Source, bundle: &Bundle) -> Result<()> {
    // A crashed process of the same number may have left one.
    if dir.exists() {
        fs::remove_dir_all(dir).map_err(|e| Error::writing(dir, e))?;
    }
    // The state first: a checkpoint's files are written into a folder of their own.
    fs::create_dir_all(dir).map_err(|e| Error::writing(dir, e))?;
    source.write(dir)?;
    let write = |name: &str, contents: &[u8]| -> Result<()> {
        let path = dir.join(name);
        fs::write(&path, contents).map_err(|e| Error::writing(&path, e))
    };
    bundle.files.iter().try_for_each(|(name, bytes)| write(name, bytes))?;
    let runner = dir.join("runner");
    fs::create_dir(&runner).map_err(|e| Error::writing(&runner, e))?;
    SCRIPTS.iter().try_for_each(|(name, text)| write(&format!("runner/{name}"), text.as_bytes()))?;
    write("README.md", readme(bundle).as_bytes())?;
    write(MANIFEST_FILE, &bundle.manifest.to_json()?)
}

/// The text that tells how to load an export.
fn readme(bundle: &Bundle) -> String {
    let config = &bundle.manifest.config;
    format!(
        "# {}: {} parameters, exported by tinygpt {}

In Node, or in a page's Worker (serve this folder with the headers `Cross-Origin-Opener-Policy: same-origin` and
`Cross-Origin-Embedder-Policy: require-corp`, without which a step runs on one thread):

    import {{ Runner }} from './runner/index.js';
    const runner = await Runner.open('.');   // the path or URL of this folder
    runner.setData(new TextEncoder().encode(text));
    console.log(runner.trainStep().loss);
    console.log(new TextDecoder().decode(runner.sample({{ prompt: 'Once', tokens: 200 }})));
    await runner.close();
",
        config.preset, bundle.manifest.params, bundle.manifest.tinygpt
    )
}

/// One line for people: the modules and what they take.
pub fn summary(bundle: &Bundle) -> String {
    let modules: Vec<String> =
        bundle.manifest.variants.iter().map(|v| format!("{} {:.0} KB", v.file, v.bytes as f64 / 1e3)).collect();
    let layout = &bundle.manifest.layout;
    one_line(format!(
        "{}: {} parameters, memory {:.1} MiB on one thread and {:.1} MiB for each more; {}",
        bundle.manifest.config.preset,
        bundle.manifest.params,
        (layout.fixed_bytes + layout.thread_bytes) as f64 / (1 << 20) as f64,
        layout.thread_bytes as f64 / (1 << 20) as f64,
        modules.join(", ")
    ))
}
