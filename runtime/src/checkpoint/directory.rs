//! The checkpoints of a run directory: which there are, the latest, the best, and which may go.
//!
//! Invariants:
//! - **A name is a promise.** `step-NNNNNNNN` is a whole checkpoint: it appears by one rename of a synced directory, and disappears by one
//!   rename to a hidden name before its files are removed. Hidden names (`.step-NNNNNNNN.PID.SUFFIX`) are of no account, with one
//!   exception: where a crash fell between the two renames that replace a checkpoint, the old one (suffix `old`) still stands for its step.
//! - **The last and the best stay.** Pruning never removes the checkpoint of the highest step, nor the one whose state.json has the lowest
//!   validation loss. That loss is part of the checkpoint, so a resumed run knows it, and no record beside it can be wrong.

use super::{MODEL_FILE, OPTIM_FILE, STATE_FILE};
use crate::{Error, Result};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// Directory name of a checkpoint.
fn directory_name(step: u64) -> String {
    format!("step-{step:08}")
}

/// A hidden name beside a checkpoint's, this process's own.
fn hidden(run_dir: &Path, step: u64, suffix: &str) -> PathBuf {
    run_dir.join(format!(".{}.{}.{suffix}", directory_name(step), std::process::id()))
}

/// Makes `RUN_DIR/step-NNNNNNNN` of what `write` puts into a new directory, and returns its path. A checkpoint of the same step is replaced.
/// Whatever fails, a checkpoint that was there before is there still.
pub(super) fn place(run_dir: &Path, step: u64, write: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let place = run_dir.join(directory_name(step));
    let [aside, old] = ["new", "old"].map(|suffix| hidden(run_dir, step, suffix));
    let saved = write(&aside).and_then(|()| {
        let replaces = place.exists();
        if replaces {
            fs::rename(&place, &old).map_err(|e| Error::writing(&place, e))?;
        }
        fs::rename(&aside, &place).map_err(|e| {
            let failed = Error::writing(&place, e);
            match replaces.then(|| fs::rename(&old, &place)) {
                Some(Err(e)) => {
                    Error::failed(format!("{failed}, and what was there before is now {} ({e})", old.display()))
                }
                _ => failed,
            }
        })?;
        sync_directory(run_dir)
    });
    // Only what the checkpoint in its place makes superfluous.
    for leftover in [&aside, &old] {
        if leftover.exists() && (leftover == &aside || place.exists()) {
            let removed = fs::remove_dir_all(leftover).map_err(|e| Error::writing(leftover, e));
            // The first failure is the one that matters.
            if saved.is_ok() {
                removed?;
            }
        }
    }
    saved.map(|()| place)
}

/// The model file that `path` stands for: itself, or that of a checkpoint directory, or that of a run's latest.
pub fn locate(path: &Path) -> Result<PathBuf> {
    if !path.exists() {
        return Err(Error::input(format!(
            "{} does not exist: give a run directory, a checkpoint directory or a model file",
            path.display()
        )));
    }
    if !path.is_dir() {
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

/// The whole checkpoint of the highest step in a run directory.
pub fn latest(run_dir: &Path) -> Result<Option<PathBuf>> {
    Ok(list(run_dir)?.into_values().next_back())
}

/// The checkpoint with the lowest validation loss in nats a token, and that loss; of equals the earliest. None where no checkpoint states one.
pub fn best(run_dir: &Path) -> Result<Option<(PathBuf, f64)>> {
    Ok(lowest(&list(run_dir)?).map(|(_, path, loss)| (path, loss)))
}

fn lowest(checkpoints: &BTreeMap<u64, PathBuf>) -> Option<(u64, PathBuf, f64)> {
    #[derive(Deserialize)]
    struct Validated {
        val_loss: Option<f64>,
    }
    // A state.json that cannot be read states no loss: that is for loading to complain about.
    let loss = |dir: &Path| -> Option<f64> {
        let text = fs::read(dir.join(STATE_FILE)).ok()?;
        serde_json::from_slice::<Validated>(&text).ok()?.val_loss.filter(|loss| loss.is_finite())
    };
    let known = checkpoints.iter().filter_map(|(step, dir)| Some((*step, dir.clone(), loss(dir)?)));
    known.min_by(|(_, _, a), (_, _, b)| a.total_cmp(b))
}

/// Removes all checkpoints but the `keep` newest (0 keeps all), the last and the best; and what crashed saves left behind.
pub fn prune(run_dir: &Path, keep: usize) -> Result<()> {
    let all = list(run_dir)?;
    let best = lowest(&all).map(|(step, ..)| step);
    let newest: Vec<u64> = all.keys().rev().take(if keep == 0 { all.len() } else { keep }).copied().collect();
    for (step, dir) in &all {
        if newest.contains(step) || best == Some(*step) {
            continue;
        }
        let gone = hidden(run_dir, *step, "gone");
        if gone.exists() {
            fs::remove_dir_all(&gone).map_err(|e| Error::writing(&gone, e))?;
        }
        fs::rename(dir, &gone).map_err(|e| Error::writing(dir, e))?;
    }
    let kept = list(run_dir)?;
    for path in entries(run_dir)? {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with(".step-") && !kept.values().any(|kept| *kept == path) {
            fs::remove_dir_all(&path).map_err(|e| Error::writing(&path, e))?;
        }
    }
    Ok(())
}

/// The whole checkpoints of a run by their steps.
pub(super) fn list(run_dir: &Path) -> Result<BTreeMap<u64, PathBuf>> {
    let mut found = BTreeMap::new();
    for path in entries(run_dir)? {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let (name, in_place) = match name.strip_prefix('.') {
            None => (name, true),
            Some(hidden) if hidden.ends_with(".old") => (hidden.split('.').next().unwrap_or_default(), false),
            Some(_) => continue,
        };
        let digits = name.strip_prefix("step-").filter(|d| d.len() == 8 && d.bytes().all(|b| b.is_ascii_digit()));
        let Some(step) = digits.and_then(|digits| digits.parse().ok()) else { continue };
        let whole = [MODEL_FILE, OPTIM_FILE, STATE_FILE].iter().all(|file| path.join(file).is_file());
        if whole && (in_place || !found.contains_key(&step)) {
            found.insert(step, path);
        }
    }
    Ok(found)
}

fn entries(run_dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(run_dir).map_err(|e| Error::reading(run_dir, e))?;
    entries.map(|entry| Ok(entry.map_err(|e| Error::reading(run_dir, e))?.path())).collect()
}

/// Makes a rename in `dir` survive a power failure, where the system has a way to say so.
pub(super) fn sync_directory(dir: &Path) -> Result<()> {
    if cfg!(unix) {
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(|e| Error::writing(dir, e))?;
    }
    Ok(())
}
