//! A model as WebAssembly: the programs that a page needs, the module that holds them, and the manifest that says where everything lies.
//!
//! Invariants
//! - A bundle is a pure function of its [`Contents`]; equal inputs give equal bytes.
//! - Slots have the same offsets in all variants, so that one manifest describes them all.
//! - docs/WASM.md specifies the manifest; [`VERSION`] changes whenever an older runner would misread it.
//!
//! | entry | program | inputs | outputs |
//! |---|---|---|---|
//! | `train` | one training step | `ids`, `targets`, `lr`, `step` | `loss`, `grad_norm` |
//! | `evaluate` | the loss of a batch | `ids`, `targets` | `loss` |
//! | `decode` | one token with cached keys and values | `token`, `position` | `logits` of the next token |
//! | `logits` | one row of ctx tokens | `ids` | `logits` of every position |
//! | `gradient` | the gradients of the loss of a batch | `ids`, `targets` | `loss`, and `grad.NAME` for each weight |
//! | `look` | one row of ctx tokens | `ids` | `logits` and `attention`, f32 [layers, heads, ctx, ctx] |
//!
//! The last two are made only where they are asked for. A model that is a graph has no `decode` and no `look`, and its `logits` take its own number of
//! rows; one without the output `logits` lacks that entry, too.

use crate::architecture::{Architecture, GRAPH_FILE};
use crate::compile::{self, Compiled, Goal};
use crate::config::{ModelConfig, RunConfig};
use crate::error::{did_you_mean, one_line};
use crate::model::{adamw, decode, look, weight_shapes};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use tinygpt_codegen_cpu::wasm::{self, WasmOptions};
use tinygpt_ir::program::{Program, TargetModel, json};

/// The format's name in a manifest.
pub const FORMAT: &str = "tinygpt-web";
/// Version of the manifest.
pub const VERSION: u32 = 1;

/// File of the manifest in an export.
pub const MANIFEST_FILE: &str = "manifest.json";
/// File of the programs in an export.
pub const PROGRAM_FILE: &str = "program.json";

/// Most threads that an exported module runs on.
const MAX_THREADS: usize = 64;

/// Largest seed: JavaScript reads the manifest's numbers as f64.
const MAX_SEED: u64 = 1 << 53;

/// manifest.json
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub format: String,
    pub version: u32,
    /// Version of the tinygpt that wrote it.
    pub tinygpt: String,
    pub config: RunConfig,
    /// Number of weights, the tied head counted once.
    pub params: u64,
    /// Names of the weights, in the program's order.
    pub weights: Vec<String>,
    pub state: StartingState,
    pub program: ProgramFile,
    pub layout: Layout,
    pub variants: Vec<VariantFile>,
    pub peak: Vec<PeakFile>,
}

/// The state that an export starts from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StartingState {
    /// Steps done.
    pub step: u64,
    /// Seconds of training so far.
    pub elapsed_s: f64,
    /// File of the weights.
    pub model: String,
    /// File of the moments; none for zeros.
    pub optim: Option<String>,
}

impl StartingState {
    /// A model that has not been trained.
    pub fn fresh() -> StartingState {
        StartingState { step: 0, elapsed_s: 0.0, model: crate::checkpoint::MODEL_FILE.to_owned(), optim: None }
    }
}

/// Where the programs are, as JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProgramFile {
    pub file: String,
    pub version: u32,
}

/// The module's memory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Layout {
    /// Addresses have 64 bits.
    pub memory64: bool,
    /// Bytes whatever the number of threads.
    pub fixed_bytes: usize,
    /// Bytes for each thread.
    pub thread_bytes: usize,
    pub max_threads: usize,
    pub entries: Vec<Entry>,
}

/// An exported function and what it reads and writes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    pub name: String,
    /// Inputs and states.
    pub params: Vec<SlotPlace>,
    pub outputs: Vec<SlotPlace>,
    /// Of a module with clocks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clocks: Option<Clocks>,
}

/// Where a module with clocks counts: an f64 for each kernel, its seconds in all steps since it was zero.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Clocks {
    pub offset: usize,
    pub kernels: Vec<String>,
}

/// One value in the module's memory: row-major elements of four bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SlotPlace {
    pub name: String,
    /// `input`, `state` or `output`.
    pub kind: String,
    pub dtype: String,
    pub shape: Vec<usize>,
    pub offset: usize,
    pub bytes: usize,
}

/// A file of code.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VariantFile {
    pub file: String,
    pub bytes: usize,
    pub relaxed: bool,
    pub threads: bool,
}

/// A register-only loop that measures the engine's SIMD peak: export `peak(iterations: i32) -> f32`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeakFile {
    pub file: String,
    pub relaxed: bool,
    pub flop_per_iteration: u32,
}

/// What an engine must have to run a module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Variant {
    /// Relaxed SIMD: fused multiply-add.
    pub relaxed: bool,
    /// Shared memory and atomics.
    pub threads: bool,
}

impl Variant {
    /// Every variant, the least demanding first.
    pub const ALL: [Variant; 4] = [
        Variant { relaxed: false, threads: false },
        Variant { relaxed: false, threads: true },
        Variant { relaxed: true, threads: false },
        Variant { relaxed: true, threads: true },
    ];

    /// Name of its file in an export.
    pub fn file(self) -> String {
        let simd = if self.relaxed { "relaxed" } else { "plain" };
        let threads = if self.threads { "-threads" } else { "" };
        format!("{simd}{threads}.wasm")
    }
}

/// A manifest and the files that it names, but for the state's.
#[derive(Debug, Clone, PartialEq)]
pub struct Bundle {
    pub manifest: Manifest,
    /// By file name.
    pub files: BTreeMap<String, Vec<u8>>,
}

/// Names of the entries.
pub const ENTRIES: [&str; 6] = ["train", "evaluate", "decode", "logits", "gradient", "look"];

/// What a bundle is made from.
#[derive(Debug, Clone)]
pub struct Contents {
    pub config: RunConfig,
    /// The model that `config` describes or names.
    pub model: Architecture,
    pub state: StartingState,
    /// Names of entries, in the order of the module.
    pub entries: Vec<String>,
    /// At least one.
    pub variants: Vec<Variant>,
    /// Without it each node of the graph has a kernel of its own.
    pub fusion: bool,
    /// Modules that count the seconds of each kernel. Their layout is their own.
    pub clocks: bool,
}

impl Contents {
    /// An untrained model in all variants, with the entries that training and sampling need.
    pub fn new(config: RunConfig, model: Architecture) -> Contents {
        let entries = usual_entries(&model).into_iter().map(str::to_owned).collect();
        let state = StartingState::fresh();
        Contents { config, model, state, entries, variants: Variant::ALL.to_vec(), fusion: true, clocks: false }
    }

    /// The same of a GPT.
    pub fn gpt(config: &RunConfig) -> Contents {
        Contents::new(config.clone(), Architecture::from(&config.model))
    }
}

/// The entries that training and sampling a model need.
pub fn usual_entries(model: &Architecture) -> Vec<&'static str> {
    match model {
        Architecture::Gpt(_) => vec!["train", "evaluate", "decode", "logits"],
        Architecture::Graph(graph) if graph.has_logits() => vec!["train", "evaluate", "logits"],
        Architecture::Graph(_) => vec!["train", "evaluate"],
    }
}

/// The program of the entry `name` of a model, compiled for `target`. Errors: there is no such entry, or the model has none.
pub fn program(
    config: &RunConfig,
    model: &Architecture,
    name: &str,
    target: &TargetModel,
    fusion: bool,
) -> Result<Compiled> {
    let batch = || model.forward(model.rows(config.train.batch));
    let (graph, goal) = match name {
        "train" => (batch()?, Goal::Train { adamw: adamw(&config.train), gradients: false }),
        "evaluate" => (batch()?, Goal::Infer(&["loss"])),
        "decode" => (decode(gpt(model, name)?)?, Goal::Infer(&["logits"])),
        "logits" => {
            model.check_logits()?;
            (model.forward(model.rows(1))?, Goal::Infer(&["logits"]))
        }
        "gradient" => (batch()?, Goal::Gradients),
        "look" => (look(gpt(model, name)?)?, Goal::Infer(&["logits", "attention"])),
        _ => {
            let (near, list) = (did_you_mean(name, ENTRIES), ENTRIES.join(", "));
            return Err(Error::input(format!("there is no entry \"{name}\"{near}: choose one of {list}")));
        }
    };
    compile::compile_with(graph, &goal, target, fusion)
}

/// The GPT that an entry is made from. Errors: the model is a graph.
fn gpt<'a>(model: &'a Architecture, entry: &str) -> Result<&'a ModelConfig> {
    match model {
        Architecture::Gpt(config) => Ok(config),
        Architecture::Graph(graph) => Err(Error::input(format!(
            "the model is the graph {}, and the entry {entry} is made for a GPT: choose one of {}, gradient, or describe a GPT by its sizes",
            graph.graph().name,
            usual_entries(model).join(", ")
        ))),
    }
}

/// The programs of a bundle's entries, by name.
pub fn programs(contents: &Contents) -> Result<Vec<(String, Compiled)>> {
    let Contents { config, model, entries, fusion, .. } = contents;
    let of = |name: &String| Ok((name.clone(), program(config, model, name, &TargetModel::cpu(), *fusion)?));
    entries.iter().map(of).collect()
}

/// program.json
#[derive(Serialize)]
struct Programs<'a> {
    format: &'static str,
    version: u32,
    programs: BTreeMap<&'a str, &'a Program>,
}

/// The bundle of a model. Errors: a configuration that no module can hold, no variant, no entry or one that the model lacks.
pub fn bundle(contents: &Contents) -> Result<Bundle> {
    let Contents { config, model, state, variants, clocks, .. } = contents;
    config.validate()?;
    if config.train.seed > MAX_SEED {
        return Err(Error::input(format!(
            "the seed {} is above {MAX_SEED}, the largest that JavaScript reads exactly: choose a smaller --seed",
            config.train.seed
        )));
    }
    let compiled = programs(contents)?;
    let entries: Vec<wasm::Entry<'_>> =
        compiled.iter().map(|(name, compiled)| wasm::Entry { name, program: &compiled.program }).collect();
    let Some((_, first)) = compiled.first() else {
        return Err(Error::input("a bundle needs at least one entry, and none was asked for"));
    };
    let mut files = BTreeMap::new();
    let mut layout = None;
    let mut variant_files = Vec::new();
    for variant in variants {
        let Variant { relaxed, threads } = *variant;
        let options = WasmOptions { relaxed, threads, memory64: None, max_threads: MAX_THREADS, clocks: *clocks };
        let module = wasm::module(&entries, &options).map_err(|e| Error::input(one_line(e)))?;
        let own = layout_of(&module.layout);
        if *layout.get_or_insert_with(|| own.clone()) != own {
            return Err(Error::failed(format!(
                "the variant {} places its values elsewhere than the first, which is a fault of tinygpt",
                variant.file()
            )));
        }
        variant_files.push(VariantFile { file: variant.file(), bytes: module.bytes.len(), relaxed, threads });
        files.insert(variant.file(), module.bytes);
    }
    let layout = layout.ok_or_else(|| Error::input("a bundle needs at least one variant, and none was asked for"))?;
    let programs = Programs {
        format: "tinygpt-program",
        version: json::VERSION,
        programs: compiled.iter().map(|(name, compiled)| (name.as_str(), &*compiled.program)).collect(),
    };
    files.insert(PROGRAM_FILE.to_owned(), to_json(&programs)?);
    let mut peak = Vec::new();
    for (relaxed, file) in [(false, "peak.wasm"), (true, "peak-relaxed.wasm")] {
        files.insert(file.to_owned(), wasm::peak_module(relaxed));
        peak.push(PeakFile { file: file.to_owned(), relaxed, flop_per_iteration: wasm::PEAK_FLOP });
    }
    if let Architecture::Graph(graph) = model {
        files.insert(GRAPH_FILE.to_owned(), graph.graph().to_string().into_bytes());
    }
    let weights = weight_shapes(&first.forward).into_iter().map(|(name, _)| name).collect();
    let manifest = Manifest {
        format: FORMAT.to_owned(),
        version: VERSION,
        tinygpt: env!("CARGO_PKG_VERSION").to_owned(),
        config: config.clone(),
        params: model.params(),
        weights,
        state: state.clone(),
        program: ProgramFile { file: PROGRAM_FILE.to_owned(), version: json::VERSION },
        layout,
        variants: variant_files,
        peak,
    };
    Ok(Bundle { manifest, files })
}

impl Manifest {
    /// The text of manifest.json.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        let mut text = serde_json::to_vec_pretty(self).map_err(|e| Error::failed(one_line(e)))?;
        text.push(b'\n');
        Ok(text)
    }
}

fn to_json(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|e| Error::failed(format!("cannot write the program as JSON: {}", one_line(e))))
}

/// A module's layout as a manifest has it.
pub fn layout_of(layout: &wasm::Layout) -> Layout {
    let slots = |slots: &[wasm::SlotLayout]| slots.iter().map(slot_of).collect();
    let entry = |e: &wasm::EntryLayout| Entry {
        name: e.name.clone(),
        params: slots(&e.params),
        outputs: slots(&e.outputs),
        clocks: e.clocks.as_ref().map(|c| Clocks { offset: c.offset, kernels: c.kernels.clone() }),
    };
    Layout {
        memory64: layout.memory64,
        fixed_bytes: layout.fixed_bytes,
        thread_bytes: layout.thread_bytes,
        max_threads: layout.max_threads,
        entries: layout.entries.iter().map(entry).collect(),
    }
}

fn slot_of(slot: &wasm::SlotLayout) -> SlotPlace {
    let kind = match slot.kind {
        wasm::SlotKind::Input => "input",
        wasm::SlotKind::State => "state",
        wasm::SlotKind::Output => "output",
    };
    SlotPlace {
        name: slot.name.clone(),
        kind: kind.to_owned(),
        dtype: slot.dtype.name().to_owned(),
        shape: slot.shape.clone(),
        offset: slot.offset,
        bytes: slot.bytes,
    }
}
