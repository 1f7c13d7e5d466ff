//! What a request is about: a configuration with its model, a GPT of stated sizes or a graph in text form.
//!
//! Invariants
//! - A graph's text stays as it came: what a page was given it may give back. The compiler calls it [`GRAPH_FILE`], in source locations, too.
//! - Nothing is compiled whose sizes do not fit a page's words; [`Subject::check_size`] comes first.

use crate::response::{Place, Refusal};
use serde_json::{Map, Value, json};
use tinygpt_ir::program::{ProgramStats, TargetModel};
use tinygpt_ir::text::parse_located;
use tinygpt_ir::{Graph, Op};
use tinygpt_runtime::architecture::{Architecture, GRAPH_FILE, GraphModel};
use tinygpt_runtime::compile::Compiled;
use tinygpt_runtime::config::{BUILTIN, RunConfig, RunOverride};
use tinygpt_runtime::memory::{Memory, estimate};
use tinygpt_runtime::wasm::bundle::{program, usual_entries};
use tinygpt_runtime::{Error, Result};

/// Bytes that a page's 32-bit memory has, which is also what the compiler in a page can count to.
const PAGE_BYTES: u64 = 1 << 32;

/// Longest text of a graph that is read: that of a GPT of hundreds of layers.
const MAX_TEXT: usize = 1 << 24;

/// A configuration file's keys, as JSON, and `graph`: the text of one.
pub type Config = Map<String, Value>;

/// A resolved configuration and its model.
pub struct Subject {
    pub config: RunConfig,
    pub model: Architecture,
    /// The text of the graph that is the model.
    text: Option<String>,
}

impl Subject {
    /// What `config` and its preset make. Errors: one sentence; in a graph's text with its place.
    pub fn new(mut config: Config) -> Result<Subject, Refusal> {
        let origin = "the configuration";
        let text = match config.remove("graph") {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) if text.len() <= MAX_TEXT => Some(text),
            Some(Value::String(text)) => {
                let (found, most) = (text.len(), MAX_TEXT);
                return Err(Error::input(format!("the graph's text has {found} bytes, expected at most {most}")).into());
            }
            Some(_) => return Err(Error::input(format!("{origin}, graph: expected the text of a graph")).into()),
        };
        let table = toml::Table::try_from(without_nulls(Value::Object(config)))
            .map_err(|e| Error::input(format!("{origin} is not understood: {e}")))?;
        let layer = RunOverride::from_table(table, origin)?;
        let named = [layer.data.data.as_ref(), layer.data.val_data.as_ref().and_then(Option::as_ref)];
        if let Some(data) = named.into_iter().flatten().find(|data| *data != BUILTIN) {
            return Err(Error::input(format!(
                "{origin} names the data \"{data}\", and there are no files in a page: leave it out and give the bytes to the runner"
            ))
            .into());
        }
        let graph = text.as_deref().map(read_graph).transpose()?;
        let named = graph.as_ref().map(|graph| (GRAPH_FILE.to_owned(), graph));
        let config = RunConfig::layered(None, &RunOverride::default(), &layer, named)?;
        let model = graph.map_or_else(|| Architecture::from(&config.model), Architecture::from);
        Ok(Subject { config, model, text })
    }

    /// The text of the graph that is the model.
    pub fn text(&self) -> Option<&str> {
        self.text.as_deref()
    }

    /// The complete configuration, as a page may give it back.
    pub fn config_json(&self) -> Result<Value> {
        let mut config = serde_json::to_value(&self.config).map_err(|e| Error::failed(e.to_string()))?;
        if let Some(text) = &self.text {
            config["graph"] = text.as_str().into();
        }
        Ok(config)
    }

    /// What a page shows of a configuration before it is compiled.
    pub fn describe(&self) -> Result<Value> {
        let (memory, flop) = match &self.model {
            Architecture::Gpt(model) => {
                let (params, tokens) = (model.params() as f64, self.config.train.batch as f64 * model.ctx as f64);
                // 6 a parameter and token, and the two products of attention, forward and backward, over the full square.
                let attention = 12.0 * model.layers as f64 * model.d_model as f64 * model.ctx as f64;
                (estimate(&self.config), (6.0 * params + attention) * tokens)
            }
            Architecture::Graph(_) => {
                self.check_size()?;
                let stats = ProgramStats::new(&self.program("train", &TargetModel::cpu(), true)?.program);
                let states = 12 * self.model.params();
                let memory = Memory { states, temporaries: stats.planned_bytes, total: states + stats.planned_bytes };
                (memory, stats.flops as f64)
            }
        };
        Ok(json!({
            "config": self.config_json()?,
            "params": self.model.params(),
            "memory": memory,
            "flop_per_step": flop,
            "batch": self.config.train.batch,
            "ctx": self.model.ctx(),
            "vocab": self.model.vocab(),
            "entries": usual_entries(&self.model),
        }))
    }

    /// Refuses what cannot be trained in a page: the compiler's own sizes would not fit its words.
    pub fn check_size(&self) -> Result<()> {
        let needs = match &self.model {
            Architecture::Gpt(_) => estimate(&self.config).total,
            Architecture::Graph(model) => at_most(model.graph()),
        };
        if needs < PAGE_BYTES {
            return Ok(());
        }
        Err(Error::input(format!(
            "training this configuration takes about {:.1} GiB, and a page has 4: choose fewer layers, a smaller d_model, ctx or batch",
            needs as f64 / f64::from(1u32 << 30)
        )))
    }

    /// The program of an entry. Errors: the model has none, or is too large for a page.
    pub fn program(&self, entry: &str, target: &TargetModel, fusion: bool) -> Result<Compiled> {
        self.check_size()?;
        program(&self.config, &self.model, entry, target, fusion)
    }
}

/// Reads a graph with its places as source locations.
fn read_graph(text: &str) -> Result<GraphModel, Refusal> {
    let graph = parse_located(text, GRAPH_FILE).map_err(|e| {
        let place = Place { line: e.line, column: e.column };
        Refusal { sentence: format!("the graph is not understood, {e}"), place: Some(place) }
    })?;
    Ok(GraphModel::new(graph)?)
}

/// Bytes that training a graph takes at most: states, every value of the forward pass and as much again for its gradients. Views are not counted.
fn at_most(graph: &Graph) -> u64 {
    let bytes = |n: usize| 4 * n as u128;
    let weights: u128 = graph.params.values().filter(|p| p.is_weight()).map(|p| bytes(p.ty.numel())).sum();
    let is_value = |op: &Op| {
        !matches!(
            op,
            Op::Param(_)
                | Op::Reshape { .. }
                | Op::Transpose { .. }
                | Op::Broadcast { .. }
                | Op::Splat { .. }
                | Op::Iota { .. }
        )
    };
    let values: u128 = graph.nodes.values().filter(|n| is_value(&n.op)).map(|n| bytes(n.ty.numel())).sum();
    u64::try_from(3 * weights + 2 * values).unwrap_or(u64::MAX)
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
