//! Model files in a page: a run's checkpoint as a file for elsewhere, and a file from elsewhere as a checkpoint.
//!
//! Invariant: a checkpoint is the three files of a native one; nothing is lost on the way from a file to it but what no file of a checkpoint has.

use crate::response::{Blobs, Response};
use serde_json::json;
use tinygpt_runtime::checkpoint::{Checkpoint, MODEL_FILE, OPTIM_FILE, STATE_FILE};
use tinygpt_runtime::formats::{self, Format, Saved};
use tinygpt_runtime::{Error, Result};

/// The files of a format, made of a checkpoint's files; their names are suggestions.
///
/// # Errors
/// An unknown format, one that cannot hold the model, a file of the checkpoint that is missing or damaged.
pub fn encode(format: &str, blobs: Blobs) -> Result<Response> {
    let format = Format::named(format)?;
    let [model, optim, state] = files(blobs)?;
    let saved = Saved::from(Checkpoint::from_files(model, optim, &state, "the checkpoint")?);
    let made = formats::encode(format, &saved)?;
    let blobs = made.into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect();
    Ok(Response { result: json!({}), blobs })
}

/// A checkpoint's files, made of a model file; `heads` is for one that does not state its number of attention heads.
///
/// # Errors
/// What is no model file, or one that is damaged.
pub fn decode(name: &str, heads: Option<usize>, blobs: Blobs) -> Result<Response> {
    let count = blobs.len();
    let Ok([(_, bytes)]) = <[(String, Vec<u8>); 1]>::try_from(blobs) else {
        return Err(Error::input(format!("the request brings {count} blobs, expected the file as one")));
    };
    let saved = formats::decode(name, bytes, heads)?;
    let history = saved.history.iter().map(|p| json!({"step": p.step, "loss": p.train, "val_loss": p.val}));
    let text = saved.graph.as_ref().map(|graph| graph.graph().to_string());
    let mut config = serde_json::to_value(&saved.config).map_err(|e| Error::failed(e.to_string()))?;
    if let Some(text) = text {
        config["graph"] = text.into();
    }
    let result = json!({
        "config": config,
        "step": saved.step,
        "elapsed_s": saved.elapsed_s,
        "params": saved.architecture().params(),
        "moments": saved.moments.is_some(),
        "history": history.collect::<Vec<_>>(),
        "saved_at": saved.saved_at,
    });
    let files = saved.into_checkpoint()?.to_files()?;
    Ok(Response { result, blobs: files.into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect() })
}

/// The model, moments and state of a checkpoint.
fn files(mut blobs: Blobs) -> Result<[Vec<u8>; 3]> {
    let mut take = |name: &str| {
        let at = blobs.iter().position(|(found, _)| found == name);
        let at = at
            .ok_or_else(|| Error::input(format!("the request brings no blob {name}, expected a checkpoint's files")))?;
        Ok(blobs.swap_remove(at).1)
    };
    Ok([take(MODEL_FILE)?, take(OPTIM_FILE)?, take(STATE_FILE)?])
}
