//! `.tinygpt`: the file of the original TinyGPT. docs/FORMATS.md has its byte layout.
//!
//! Invariants:
//! - **Its order is fixed.** Tensors follow [`names::gpt_weights`]; the manifest repeats it and is checked against it.
//! - **Block matrices lie as [in, out]**, although the manifest says [out, in]: the original program multiplies by them so. Moments lie as
//!   their weights do.
//! - **Sizes are compared before memory is asked for.** The configuration gives the length of the state, to the byte.
//! - **Equal content gives equal bytes.** The time of saving comes from the caller.

use super::{Format, LossPoint, Saved, config_for, heads_of, names};
use crate::config::{Backend, Gelu, ModelConfig, RunConfig};
use crate::error::one_line;
use crate::tensor::{DType, HostTensor};
use crate::tensor_file::Tensors;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

pub const MAGIC: &[u8] = b"TGPT";
/// The version written, and the only one read.
pub const VERSION: u32 = 2;
/// Tokens are bytes.
const VOCAB: usize = 256;
/// Magic, version and length of the header.
const PREFIX: usize = 12;
/// The step before the tensors.
const STEP: usize = 4;

/// The JSON header, as it is written.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Header<'a> {
    version: u32,
    config: Config<'a>,
    manifest: Vec<Entry>,
    final_loss: Option<FinalLoss>,
    saved_at: Option<&'a str>,
    loss_history: Vec<Loss>,
    includes_optimizer_state: bool,
    weight_dtype: &'a str,
    state_byte_length: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Config<'a> {
    ctx: usize,
    layers: usize,
    heads: usize,
    d_model: usize,
    d_mlp: usize,
    batch_size: usize,
    learning_rate: f64,
    grad_clip: f64,
    max_steps: u64,
    eval_every: u64,
    seed: u64,
    backend: &'a str,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    name: String,
    shape: Vec<usize>,
    /// Number of elements.
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<usize>,
}

#[derive(Serialize)]
struct FinalLoss {
    step: u64,
    train: Option<f64>,
    val: Option<f64>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Loss {
    step: u64,
    train_loss: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    val_loss: Option<f64>,
}

/// What is read of a header: what describes the model must be there, what describes its training may be.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct FoundHeader {
    config: FoundConfig,
    manifest: Vec<Entry>,
    saved_at: Option<String>,
    #[serde(default)]
    loss_history: Vec<FoundLoss>,
    includes_optimizer_state: Option<bool>,
    weight_dtype: Option<String>,
    state_byte_length: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct FoundConfig {
    ctx: usize,
    layers: usize,
    heads: Option<usize>,
    d_model: usize,
    d_mlp: Option<usize>,
    batch_size: Option<usize>,
    learning_rate: Option<f64>,
    grad_clip: Option<f64>,
    max_steps: Option<u64>,
    eval_every: Option<u64>,
    seed: Option<u64>,
}

/// Programs have written the losses under two pairs of names.
#[derive(Deserialize)]
struct FoundLoss {
    step: u64,
    #[serde(rename = "trainLoss", alias = "train")]
    train: Option<f64>,
    #[serde(rename = "valLoss", alias = "val")]
    val: Option<f64>,
}

/// How the tensors lie.
#[derive(Clone, Copy, PartialEq)]
enum Layout {
    /// Of each tensor the weights, first and second moments, as f32
    Training,
    /// The weights as f16
    Half,
}

impl Layout {
    fn bytes_per_weight(self) -> u64 {
        match self {
            Self::Training => 12,
            Self::Half => 2,
        }
    }
}

/// Writes a file. Moments that `saved` lacks are written as zeros. Errors: the format holds no such model.
pub fn encode(saved: &Saved) -> Result<Vec<u8>> {
    let model = saved.gpt(Format::Tinygpt)?;
    let fits = [
        (model.vocab == VOCAB, format!("vocab {}", model.vocab), format!("{VOCAB}")),
        (model.gelu == Gelu::Erf, "the tanh gelu".to_owned(), "the exact one".to_owned()),
    ];
    if let Some((_, found, expected)) = fits.iter().find(|(fits, ..)| !fits) {
        return Err(Error::input(format!(
            "a .tinygpt file cannot hold a model with {found}, only with {expected}: choose safetensors"
        )));
    }
    let step = i32::try_from(saved.step).map_err(|_| {
        Error::input(format!("a .tinygpt file counts steps to {}, and this run has done {}", i32::MAX, saved.step))
    })?;
    let tensors: Vec<_> = names::gpt_weights(model).collect();
    let params: usize = tensors.iter().map(|(_, shape)| shape.iter().product::<usize>()).sum();
    let state = STEP + params * 12;
    let train = &saved.config.train;
    let header = Header {
        version: VERSION,
        config: Config {
            ctx: model.ctx,
            layers: model.layers,
            heads: model.heads,
            d_model: model.d_model,
            d_mlp: model.d_mlp,
            batch_size: train.batch,
            learning_rate: train.lr,
            grad_clip: train.grad_clip,
            max_steps: train.steps,
            eval_every: train.eval_every,
            seed: train.seed,
            // The original has two engines, and takes this for the one to go on with.
            backend: if train.backend == Backend::Gpu { "webgpu" } else { "wasm" },
        },
        manifest: tensors
            .iter()
            .map(|(name, shape)| Entry { name: name.clone(), shape: shape.clone(), size: Some(shape.iter().product()) })
            .collect(),
        final_loss: saved.history.last().map(|last| FinalLoss { step: last.step, train: last.train, val: last.val }),
        saved_at: saved.saved_at.as_deref(),
        loss_history: saved
            .history
            .iter()
            .map(|point| Loss { step: point.step, train_loss: point.train, val_loss: point.val })
            .collect(),
        includes_optimizer_state: true,
        weight_dtype: "fp32",
        state_byte_length: state as u64,
    };
    let failed = |e: &dyn std::fmt::Display| {
        Error::failed(format!("cannot write the header of a .tinygpt file: {}", one_line(e)))
    };
    let header = serde_json::to_vec(&header).map_err(|e| failed(&e))?;
    let length = u32::try_from(header.len()).map_err(|e| failed(&e))?;
    let mut out = Vec::with_capacity(PREFIX + header.len() + state);
    out.extend(MAGIC);
    out.extend(VERSION.to_le_bytes());
    out.extend(length.to_le_bytes());
    out.extend(header);
    out.extend(step.to_le_bytes());
    for (name, shape) in &tensors {
        let parts =
            [Some(&saved.weights), saved.moments.as_ref().map(|[m, _]| m), saved.moments.as_ref().map(|[_, v]| v)];
        for part in parts {
            let Some(part) = part else {
                out.resize(out.len() + 4 * shape.iter().product::<usize>(), 0);
                continue;
            };
            let tensor = part
                .get(name)
                .filter(|tensor| tensor.shape() == shape && tensor.dtype() == DType::F32)
                .ok_or_else(|| {
                    Error::input(format!(
                        "the model has no tensor {name} of type f32{shape:?}, which a .tinygpt file needs"
                    ))
                })?;
            if names::is_linear(name, shape) {
                out.extend(names::transposed(tensor)?.bytes());
            } else {
                out.extend(tensor.bytes());
            }
        }
    }
    Ok(out)
}

/// Reads a file; see [`super::decode`].
pub fn decode(bytes: &[u8], name: &str, heads: Option<usize>) -> Result<Saved> {
    let damaged =
        |what: String| Error::input(format!("{name} is truncated or damaged ({what}): use another copy of it"));
    let Some((prefix, rest)) = bytes.split_at_checked(PREFIX).filter(|(prefix, _)| prefix.starts_with(MAGIC)) else {
        return Err(damaged(format!("it has {} bytes, and a .tinygpt file begins with {PREFIX}", bytes.len())));
    };
    let (words, _) = prefix.as_chunks::<4>();
    let [version, length] = [words[1], words[2]].map(u32::from_le_bytes);
    if version != VERSION {
        let advice = if version > VERSION { ": use a newer tinygpt" } else { "" };
        return Err(Error::input(format!(
            "{name} is a .tinygpt file of version {version}, and this tinygpt reads version {VERSION}{advice}"
        )));
    }
    let (header, state) = usize::try_from(length)
        .ok()
        .and_then(|length| rest.split_at_checked(length))
        .ok_or_else(|| damaged(format!("its header is said to have {length} bytes, and {} follow", rest.len())))?;
    let header: FoundHeader =
        serde_json::from_slice(header).map_err(|e| damaged(format!("its header cannot be read: {}", one_line(e))))?;
    let layout = layout(&header, name)?;
    let model = model(&header.config, name, heads)?;
    // The limits that a configuration keeps make this fit: 2^12 layers of 12 matrices of 2^40 elements.
    let [v, t, l, c, mlp] = [VOCAB, model.ctx, model.layers, model.d_model, model.d_mlp].map(|n| n as u64);
    let params = v * c + t * c + 2 * c + l * (4 * c * c + 2 * c * mlp + 9 * c + mlp);
    let expected = STEP as u64 + params * layout.bytes_per_weight();
    if state.len() as u64 != expected {
        return Err(damaged(format!(
            "{params} weights and the step take {expected} bytes, and {} follow the header",
            state.len()
        )));
    }
    if let Some(stated) = header.state_byte_length.filter(|stated| *stated != expected) {
        return Err(damaged(format!("its header states {stated} bytes of state, and its tensors take {expected}")));
    }
    check_manifest(&header.manifest, &model).map_err(&damaged)?;
    let (step, mut body) = state.split_at(STEP);
    let step = step.try_into().map_or(-1, i32::from_le_bytes);
    let step = u64::try_from(step).map_err(|_| damaged(format!("it states step {step}")))?;
    let mut parts: [Tensors; 3] = Default::default();
    for (tensor, shape) in names::gpt_weights(&model) {
        let n: usize = shape.iter().product();
        let linear = names::is_linear(&tensor, &shape);
        let stored = if linear { vec![shape[1], shape[0]] } else { shape };
        let mut take = |bytes: usize| -> Result<&[u8]> {
            let (taken, rest) =
                body.split_at_checked(bytes).ok_or_else(|| damaged(format!("{tensor} is cut short")))?;
            body = rest;
            Ok(taken)
        };
        let read = match layout {
            Layout::Half => vec![HostTensor::f32(&stored, halves(take(2 * n)?))?],
            Layout::Training => {
                (0..3).map(|_| HostTensor::from_bytes(DType::F32, &stored, take(4 * n)?)).collect::<Result<_>>()?
            }
        };
        for (part, read) in parts.iter_mut().zip(read) {
            let read = if linear { names::transposed(&read)? } else { read };
            part.insert(tensor.clone(), read);
        }
    }
    let [weights, m, v] = parts;
    Ok(Saved {
        step,
        elapsed_s: 0.0,
        config: config(&header.config, model, step)
            .map_err(|e| Error::input(format!("{name} states what no run can have: {e}")))?,
        graph: None,
        weights,
        moments: (layout == Layout::Training).then_some([m, v]),
        history: header.loss_history.iter().map(|l| LossPoint { step: l.step, train: l.train, val: l.val }).collect(),
        saved_at: header.saved_at,
    })
}

/// How the tensors lie. A file that does not say so has moments and f32, as the first programs wrote.
fn layout(header: &FoundHeader, name: &str) -> Result<Layout> {
    match (header.weight_dtype.as_deref(), header.includes_optimizer_state) {
        (None | Some("fp32"), None | Some(true)) => Ok(Layout::Training),
        (None | Some("fp16"), Some(false)) | (Some("fp16"), None) => Ok(Layout::Half),
        (Some("int4"), _) => Err(Error::input(format!(
            "{name} holds weights of 4 bits (weightDtype int4), which tinygpt does not read: use the fp16 or fp32 file of the same model"
        ))),
        (dtype, moments) => Err(Error::input(format!(
            "{name} holds weights as {} {} moments, and fp32 with or fp16 without them was expected",
            dtype.map_or("fp32".to_owned(), |dtype| format!("{dtype:?}")),
            if moments == Some(false) { "without" } else { "with" }
        ))),
    }
}

/// The model that a header states.
fn model(found: &FoundConfig, name: &str, heads: Option<usize>) -> Result<ModelConfig> {
    let model = ModelConfig {
        vocab: VOCAB,
        ctx: found.ctx,
        layers: found.layers,
        heads: heads_of(name, found.heads, heads)?,
        d_model: found.d_model,
        d_mlp: found.d_mlp.unwrap_or(found.d_model.saturating_mul(4)),
        gelu: Gelu::Erf,
    };
    model.validate().map_err(|e| Error::input(format!("{name} states an impossible architecture: {e}")))?;
    Ok(model)
}

/// Checks the manifest against the order that the format fixes. It repeats what is known, but a file that contradicts itself is damaged.
fn check_manifest(manifest: &[Entry], model: &ModelConfig) -> Result<(), String> {
    let mut entries = manifest.iter();
    for (name, shape) in names::gpt_weights(model) {
        let entry = entries.next().ok_or_else(|| format!("its manifest ends before {name}"))?;
        let size = entry.size.is_none_or(|size| size == shape.iter().product::<usize>());
        if entry.name != name || entry.shape != shape || !size {
            return Err(format!(
                "its manifest has {:?} {:?} where {name} {shape:?} was expected",
                entry.name, entry.shape
            ));
        }
    }
    match entries.next() {
        None => Ok(()),
        Some(entry) => Err(format!("its manifest has {:?} beyond the last tensor", entry.name)),
    }
}

/// How the model goes on training: as the header says, else as its preset is.
fn config(found: &FoundConfig, model: ModelConfig, step: u64) -> Result<RunConfig> {
    let mut config = config_for(&model)?;
    let train = &mut config.train;
    train.batch = found.batch_size.unwrap_or(train.batch);
    train.lr = found.learning_rate.unwrap_or(train.lr);
    train.grad_clip = found.grad_clip.unwrap_or(train.grad_clip);
    train.steps = found.max_steps.unwrap_or(train.steps).max(step).max(1);
    train.eval_every = found.eval_every.unwrap_or(train.eval_every);
    train.seed = found.seed.unwrap_or(train.seed);
    train.warmup = train.warmup.min(train.steps / 10);
    config.validate()?;
    Ok(config)
}

/// IEEE 754 binary16, widened: exact.
fn halves(bytes: &[u8]) -> Vec<f32> {
    let (halves, _) = bytes.as_chunks::<2>();
    halves.iter().map(|half| half::f16::from_le_bytes(*half).to_f32()).collect()
}
