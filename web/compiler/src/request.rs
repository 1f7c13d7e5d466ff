//! Requests, and what each comes to.

use crate::differences::{COUNT, differences, reduced};
use crate::files::{decode as decode_file, encode as encode_files};
use crate::gpu::{AdapterCaps, dispatch_list};
use crate::inspect::{Inspected, KernelTime, Target, inspect};
use crate::response::{Blobs, Refusal, Response, encode, read_request};
use crate::subject::{Config, Subject};
use serde::Deserialize;
use serde_json::{Value, json};
use tinygpt_codegen_cpu::wasm::{self, WasmOptions};
use tinygpt_ir::program::TargetModel;
use tinygpt_runtime::architecture::Architecture;
use tinygpt_runtime::compile::Compiled;
use tinygpt_runtime::config::keys::keys;
use tinygpt_runtime::config::{DEFAULT_PRESET, PRESETS, RunConfig};
use tinygpt_runtime::model::initial_weights;
use tinygpt_runtime::wasm::bundle::{Bundle, Contents, MANIFEST_FILE, Variant, bundle};
use tinygpt_runtime::{Error, Result, checkpoint, corpus};

/// Keys that mean something on the command line only: a page brings its own backend, text and files, and takes one batch a step.
const NATIVE_KEYS: &[&str] = &[
    "backend",
    "threads",
    "isa",
    "no_templates",
    "adapter",
    "checked",
    "no_tune",
    "precision",
    "keep",
    "accumulate",
    "data",
    "val_data",
];

/// A request, as the crate's comment describes it.
#[derive(Debug, Deserialize)]
#[serde(tag = "request", rename_all = "lowercase", deny_unknown_fields)]
enum Request {
    Presets {},
    Keys {},
    Resolve {
        #[serde(default)]
        config: Config,
    },
    Compile {
        #[serde(default)]
        config: Config,
        variants: Option<Vec<VariantKeys>>,
        entries: Option<Vec<String>>,
        #[serde(default = "yes")]
        fusion: bool,
        #[serde(default)]
        clocks: bool,
    },
    Graph {
        #[serde(default)]
        config: Config,
        stage: Stage,
        #[serde(default = "train")]
        entry: String,
        #[serde(default = "yes")]
        fusion: bool,
    },
    Wgsl {
        #[serde(default)]
        config: Config,
        #[serde(default = "train")]
        entry: String,
        #[serde(default)]
        caps: AdapterCaps,
        #[serde(default = "yes")]
        fusion: bool,
    },
    Wat {
        #[serde(default)]
        config: Config,
        #[serde(default = "train")]
        entry: String,
        #[serde(default)]
        variant: VariantKeys,
        #[serde(default = "yes")]
        fusion: bool,
    },
    Init {
        #[serde(default)]
        config: Config,
        seed: Option<u64>,
    },
    Differences {
        #[serde(default)]
        config: Config,
        seed: Option<u64>,
        count: Option<usize>,
    },
    Inspect {
        #[serde(default)]
        config: Config,
        target: Target,
        #[serde(default = "train")]
        entry: String,
        #[serde(default = "yes")]
        fusion: bool,
        #[serde(default)]
        caps: AdapterCaps,
        profile: Option<Vec<KernelTime>>,
    },
    Encode {
        format: String,
    },
    Decode {
        name: String,
        heads: Option<usize>,
    },
    Corpus {},
}

fn train() -> String {
    "train".to_owned()
}

fn yes() -> bool {
    true
}

/// Stages that are text.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Stage {
    Graph,
    Grad,
    Fused,
    Program,
}

/// [`Variant`], as a request has it.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct VariantKeys {
    relaxed: bool,
    threads: bool,
}

impl From<VariantKeys> for Variant {
    fn from(VariantKeys { relaxed, threads }: VariantKeys) -> Variant {
        Variant { relaxed, threads }
    }
}

/// The response to a request; both as the crate's comment lays them out.
pub fn answer(request: &[u8]) -> Vec<u8> {
    let response = read_request(request).map_err(Refusal::from).and_then(|(request, blobs)| {
        let request = serde_json::from_value(request);
        respond(request.map_err(|e| Error::input(format!("the request is not understood: {e}")))?, blobs)
    });
    encode(response)
}

fn respond(request: Request, blobs: Blobs) -> Result<Response, Refusal> {
    let takes_blobs = matches!(request, Request::Encode { .. } | Request::Decode { .. });
    if let Some((name, _)) = blobs.first().filter(|_| !takes_blobs) {
        return Err(Error::input(format!("the request brings the blob {name}, which it has no use for")).into());
    }
    match request {
        Request::Presets {} => {
            let preset = |name: &str| Subject::new(Config::from_iter([("preset".to_owned(), name.into())]));
            let each = PRESETS.iter().map(|p| Ok(preset(p.name)?.describe()?));
            Ok(json!({"default": DEFAULT_PRESET, "presets": each.collect::<Result<Vec<_>, Refusal>>()?}).into())
        }
        Request::Keys {} => Ok(json!({"keys": described_keys()?}).into()),
        Request::Resolve { config } => Ok(Subject::new(config)?.describe()?.into()),
        Request::Compile { config, variants, entries, fusion, clocks } => {
            let subject = Subject::new(config)?;
            subject.check_size()?;
            let mut contents = Contents { fusion, clocks, ..Contents::new(subject.config, subject.model) };
            if let Some(keys) = variants {
                contents.variants = keys.into_iter().map(Variant::from).collect();
            }
            contents.entries = entries.unwrap_or(contents.entries);
            let Bundle { manifest, files } = bundle(&contents)?;
            let result = serde_json::to_value(&manifest).map_err(|e| Error::failed(e.to_string()))?;
            let blobs = [(MANIFEST_FILE.to_owned(), manifest.to_json()?)].into_iter().chain(files).collect();
            Ok(Response { result, blobs })
        }
        Request::Graph { config, stage, entry, fusion } => {
            let compiled = Subject::new(config)?.program(&entry, &TargetModel::cpu(), fusion)?;
            Ok(json!({"text": text(&compiled, stage)?}).into())
        }
        Request::Wgsl { config, entry, caps, fusion } => {
            let caps = caps.resolve()?;
            let compiled = Subject::new(config)?.program(&entry, &caps.target(), fusion)?;
            Ok(dispatch_list(&compiled.program, &caps, fusion)?.into())
        }
        Request::Wat { config, entry, variant, fusion } => {
            let compiled = Subject::new(config)?.program(&entry, &TargetModel::cpu(), fusion)?;
            Ok(json!({"kernels": wat(&compiled, variant)?}).into())
        }
        Request::Init { config, seed } => {
            let subject = Subject::new(config)?;
            subject.check_size()?;
            let RunConfig { train, .. } = &subject.config;
            let forward = subject.model.forward(subject.model.rows(1))?;
            let weights = initial_weights(&forward, seed.unwrap_or(train.seed))?;
            let bytes = checkpoint::model_bytes(&subject.model, &weights)?;
            Ok(Response { result: json!({}), blobs: vec![(checkpoint::MODEL_FILE.into(), bytes)] })
        }
        Request::Differences { config, seed, count } => {
            let subject = reduced(Subject::new(config)?);
            let made = differences(&subject, seed.unwrap_or(subject.config.train.seed), count.unwrap_or(COUNT))?;
            let result = json!({"config": subject.config_json()?, "loss": made.loss, "coordinates": made.coordinates});
            let blobs = vec![
                (checkpoint::MODEL_FILE.to_owned(), checkpoint::model_bytes(&subject.model, &made.weights)?),
                ("ids".to_owned(), made.batch.ids.bytes().to_vec()),
                ("targets".to_owned(), made.batch.targets.bytes().to_vec()),
            ];
            Ok(Response { result, blobs })
        }
        Request::Inspect { config, target, entry, fusion, caps, profile } => {
            let (subject, caps) = (Subject::new(config)?, caps.resolve()?);
            let model = if target == Target::Wasm { TargetModel::cpu() } else { caps.target() };
            let compiled = subject.program(&entry, &model, fusion)?;
            let title = match &subject.model {
                Architecture::Gpt(_) => &subject.config.preset,
                Architecture::Graph(graph) => &graph.graph().name,
            };
            let (result, page) = inspect(Inspected {
                compiled: &compiled,
                title,
                text: subject.text(),
                target,
                caps: &caps,
                together: fusion,
                measured: profile,
            })?;
            Ok(Response { result, blobs: vec![("page.html".into(), page.into_bytes())] })
        }
        Request::Encode { format } => Ok(encode_files(&format, blobs)?),
        Request::Decode { name, heads } => Ok(decode_file(&name, heads, blobs)?),
        Request::Corpus {} => {
            Ok(Response { result: json!({}), blobs: vec![("corpus.txt".into(), corpus::text().as_bytes().to_vec())] })
        }
    }
}

/// The configuration's keys, each with whether it is of the command line alone.
fn described_keys() -> Result<Vec<Value>> {
    let describe = |key| {
        let mut value = serde_json::to_value(&key).map_err(|e| Error::failed(e.to_string()))?;
        value["native"] = NATIVE_KEYS.contains(&value["key"].as_str().unwrap_or_default()).into();
        Ok(value)
    };
    keys().into_iter().map(describe).collect()
}

/// The WebAssembly text of each kernel of a program, as `tinygpt dump --stage wat` prints it.
fn wat(compiled: &Compiled, variant: VariantKeys) -> Result<Vec<Value>> {
    let VariantKeys { relaxed, threads } = variant;
    let program = &compiled.program;
    let options = WasmOptions { relaxed, threads, ..WasmOptions::default() };
    let entry = wasm::Entry { name: &program.name, program };
    let module = wasm::module(&[entry], &options).map_err(|e| Error::input(e.to_string()))?;
    let kernels = program.kernels.iter().map(|(id, kernel)| {
        json!({"name": kernel.name, "archetype": kernel.kind.archetype(), "text": module.kernel_wat(0, id)})
    });
    Ok(kernels.collect())
}

/// A stage as `tinygpt dump` prints it, without the DSL lines.
fn text(compiled: &Compiled, stage: Stage) -> Result<String> {
    Ok(match stage {
        Stage::Graph => compiled.forward.to_string(),
        Stage::Grad => compiled.step.to_string(),
        Stage::Fused => {
            let report = compiled.fusion_report()?.to_string();
            let kernels = compiled.program.kernels.values().map(|kernel| format!("\n{kernel}"));
            let report = report.lines().map(|line| format!("# {line}").trim_end().to_owned() + "\n");
            report.chain(kernels).collect()
        }
        Stage::Program => compiled.program.to_string(),
    })
}
