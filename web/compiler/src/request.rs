//! Requests, and what each comes to.

use crate::gpu::{AdapterCaps, dispatch_list};
use crate::memory::estimate;
use crate::response::{Response, encode};
use serde::Deserialize;
use serde_json::{Value, json};
use tinygpt_codegen_cpu::wasm::{self, WasmOptions};
use tinygpt_ir::program::TargetModel;
use tinygpt_runtime::compile::Compiled;
use tinygpt_runtime::config::{BUILTIN, DEFAULT_PRESET, PRESETS, RunConfig, RunOverride};
use tinygpt_runtime::model::{forward, initial_weights};
use tinygpt_runtime::wasm::bundle::{Bundle, MANIFEST_FILE, StartingState, Variant, bundle, program};
use tinygpt_runtime::{Error, Result, checkpoint, corpus};

/// Bytes that a page's 32-bit memory has, which is also what the compiler in a page can count to.
const PAGE_BYTES: u64 = 1 << 32;

/// A request, as the crate's comment describes it.
#[derive(Debug, Deserialize)]
#[serde(tag = "request", rename_all = "lowercase", deny_unknown_fields)]
enum Request {
    Presets {},
    Resolve {
        #[serde(default)]
        config: Config,
    },
    Compile {
        #[serde(default)]
        config: Config,
        variants: Option<Vec<VariantKeys>>,
    },
    Graph {
        #[serde(default)]
        config: Config,
        stage: Stage,
        #[serde(default = "train")]
        entry: String,
    },
    Wgsl {
        #[serde(default)]
        config: Config,
        #[serde(default = "train")]
        entry: String,
        #[serde(default)]
        caps: AdapterCaps,
    },
    Wat {
        #[serde(default)]
        config: Config,
        #[serde(default = "train")]
        entry: String,
        #[serde(default)]
        variant: VariantKeys,
    },
    Init {
        #[serde(default)]
        config: Config,
        seed: Option<u64>,
    },
    Corpus {},
}

fn train() -> String {
    "train".to_owned()
}

/// A configuration file's keys, as JSON.
type Config = serde_json::Map<String, Value>;

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
    let parsed = serde_json::from_slice(request)
        .map_err(|e| Error::input(format!("the request is not understood: {e}")))
        .and_then(respond);
    encode(parsed)
}

fn respond(request: Request) -> Result<Response> {
    match request {
        Request::Presets {} => {
            let each = PRESETS.iter().map(|preset| describe(&RunConfig::preset(preset.name)?));
            Ok(json!({"default": DEFAULT_PRESET, "presets": each.collect::<Result<Vec<_>>>()?}).into())
        }
        Request::Resolve { config } => Ok(describe(&resolve(config)?)?.into()),
        Request::Compile { config, variants } => {
            let config = resolve(config)?;
            check_size(&config)?;
            let variants = match variants {
                Some(keys) => keys.into_iter().map(Variant::from).collect(),
                None => Variant::ALL.to_vec(),
            };
            let Bundle { manifest, files } = bundle(&config, StartingState::fresh(), &variants)?;
            let result = serde_json::to_value(&manifest).map_err(|e| Error::failed(e.to_string()))?;
            let blobs = [(MANIFEST_FILE.to_owned(), manifest.to_json()?)].into_iter().chain(files).collect();
            Ok(Response { result, blobs })
        }
        Request::Graph { config, stage, entry } => {
            let compiled = entry_program(config, &entry, &TargetModel::cpu())?;
            Ok(json!({"text": text(&compiled, stage)?}).into())
        }
        Request::Wgsl { config, entry, caps } => {
            let caps = caps.resolve()?;
            let compiled = entry_program(config, &entry, &caps.target())?;
            Ok(dispatch_list(&compiled.program, &caps)?.into())
        }
        Request::Wat { config, entry, variant } => {
            let compiled = entry_program(config, &entry, &TargetModel::cpu())?;
            Ok(json!({"kernels": wat(&compiled, variant)?}).into())
        }
        Request::Init { config, seed } => {
            let config = resolve(config)?;
            check_size(&config)?;
            let weights = initial_weights(&forward(&config.model, 1)?, seed.unwrap_or(config.train.seed))?;
            let bytes = checkpoint::model_bytes(&config.model, &weights)?;
            Ok(Response { result: json!({}), blobs: vec![(checkpoint::MODEL_FILE.into(), bytes)] })
        }
        Request::Corpus {} => {
            Ok(Response { result: json!({}), blobs: vec![("corpus.txt".into(), corpus::text().as_bytes().to_vec())] })
        }
    }
}

/// The configuration that `config` and its preset make.
fn resolve(config: Config) -> Result<RunConfig> {
    let origin = "the configuration";
    let table = toml::Table::try_from(without_nulls(Value::Object(config)))
        .map_err(|e| Error::input(format!("{origin} is not understood: {e}")))?;
    let layer = RunOverride::from_table(table, origin)?;
    if let Some(graph) = &layer.graph {
        return Err(Error::input(format!(
            "{origin} names the graph \"{graph}\", and there are no files in a page: leave it out and describe a GPT"
        )));
    }
    let named = [layer.data.data.as_ref(), layer.data.val_data.as_ref().and_then(Option::as_ref)];
    if let Some(data) = named.into_iter().flatten().find(|data| *data != BUILTIN) {
        return Err(Error::input(format!(
            "{origin} names the data \"{data}\", and there are no files in a page: leave it out and give the bytes to the runner"
        )));
    }
    RunConfig::resolve(None, None, &layer)
}

/// TOML has no null: a key that is null is one that is left out.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            map.into_iter().filter(|(_, v)| !v.is_null()).map(|(key, v)| (key, without_nulls(v))).collect()
        }
        other => other,
    }
}

/// What a page shows of a configuration before it is compiled.
fn describe(config: &RunConfig) -> Result<Value> {
    let (model, params) = (&config.model, config.model.params() as f64);
    let tokens = config.train.batch as f64 * model.ctx as f64;
    // 6 a parameter and token, and the two products of attention, forward and backward, over the full square.
    let attention = 12.0 * model.layers as f64 * model.d_model as f64 * model.ctx as f64;
    let config_json = serde_json::to_value(config).map_err(|e| Error::failed(e.to_string()))?;
    Ok(json!({
        "config": config_json,
        "params": config.model.params(),
        "memory": estimate(config),
        "flop_per_step": (6.0 * params + attention) * tokens,
    }))
}

/// Refuses what cannot be trained in a page: the compiler's own sizes would not fit its words.
fn check_size(config: &RunConfig) -> Result<()> {
    let needs = estimate(config).total;
    if needs < PAGE_BYTES {
        return Ok(());
    }
    Err(Error::input(format!(
        "training this configuration takes about {:.1} GiB, and a page has 4: choose fewer layers, a smaller d_model, ctx or batch",
        needs as f64 / f64::from(1u32 << 30)
    )))
}

fn entry_program(config: Config, entry: &str, target: &TargetModel) -> Result<Compiled> {
    let config = resolve(config)?;
    check_size(&config)?;
    program(&config, entry, target)
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
