//! What the compiler made of a model, for people: totals of a program, its kernels, and the page that leads from lines to code and back.
//!
//! Invariant: the page shows the program whose totals are given, with the code that the page itself runs: WebAssembly as text, or WGSL.

use crate::gpu::dispatch_list;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::HashMap;
use tinygpt_codegen_cpu::wasm::{self, WasmOptions};
use tinygpt_codegen_wgsl::Caps;
use tinygpt_ir::program::stats::ARCHETYPES;
use tinygpt_ir::program::{KernelId, ProgramStats};
use tinygpt_runtime::architecture::GRAPH_FILE;
use tinygpt_runtime::compile::Compiled;
use tinygpt_runtime::viz::{self, Page, Times};
use tinygpt_runtime::{Error, Result};

/// What runs the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    Wasm,
    WebGpu,
}

/// What a kernel took, as the page measured it; keys that are not listed here are for others.
#[derive(Debug, Deserialize)]
pub struct KernelTime {
    kernel: String,
    /// Of one step.
    seconds: f64,
    /// Of all kernels together.
    share: f64,
}

/// What is inspected.
pub struct Inspected<'a> {
    pub compiled: &'a Compiled,
    pub title: &'a str,
    /// The text of the model, if it is a graph.
    pub text: Option<&'a str>,
    pub target: Target,
    pub caps: &'a Caps,
    /// Whether kernels of a stage run as one on WebGPU.
    pub together: bool,
    pub measured: Option<Vec<KernelTime>>,
}

/// Totals of the program, and the page.
///
/// # Errors
/// A kernel that the target cannot run; times of another program.
pub fn inspect(inspected: Inspected<'_>) -> Result<(Value, String)> {
    let Inspected { compiled, title, text, target, caps, together, measured } = inspected;
    let program = &compiled.program;
    let (name, tab, code, launches) = match target {
        Target::Wasm => {
            let options = WasmOptions { threads: false, ..WasmOptions::default() };
            let entry = wasm::Entry { name: &program.name, program };
            let module = wasm::module(&[entry], &options).map_err(|e| Error::input(e.to_string()))?;
            let texts = program.kernels.ids().map(|id| (id, module.kernel_wat(0, id))).collect();
            ("WebAssembly", "WAT", once(texts, ";;"), module.report.rounds)
        }
        Target::WebGpu => {
            let list = dispatch_list(program, caps, together)?;
            let (texts, launches) = sources(compiled, &list);
            ("WebGPU", "WGSL", once(texts, "//"), launches)
        }
    };
    let stats = ProgramStats::new(program);
    let kernels = program.kernels.iter().map(|(id, kernel)| {
        let of = stats.kernels[id.index()];
        json!({
            "name": kernel.name,
            "archetype": kernel.kind.archetype(),
            "scopes": kernel.provenance.scopes,
            "flop": of.flops,
            "bytes_read": of.bytes_read,
            "bytes_written": of.bytes_written,
        })
    });
    let counted = ARCHETYPES.iter().zip(stats.archetypes).filter(|(_, n)| *n > 0);
    let result = json!({
        "nodes": compiled.passes.graph.nodes.len(),
        "kernels": program.kernels.len(),
        "archetypes": counted.map(|(name, n)| ((*name).to_owned(), n.into())).collect::<serde_json::Map<_, _>>(),
        "launches": launches,
        "stages": stats.stages,
        "flop": stats.flops,
        "bytes_read": stats.bytes_read,
        "bytes_written": stats.bytes_written,
        "planned_bytes": stats.planned_bytes,
        "lower_bound_bytes": stats.lower_bound_bytes,
        "by_kernel": kernels.collect::<Vec<_>>(),
    });
    let times = measured.map(|kernels| Times {
        about: format!("their times, {:.3} ms together", 1e3 * kernels.iter().map(|k| k.seconds).sum::<f64>()),
        kernels: kernels.into_iter().map(|k| (k.kernel, 1e3 * k.seconds, k.share)).collect(),
    });
    let source = |file: &str| text.filter(|_| file == GRAPH_FILE).map(str::to_owned);
    let shown = viz::Target { name, compiled, tabs: vec![(tab, code)], times };
    let page = viz::page(&Page { title, targets: vec![shown], source: &source })?;
    Ok((result, page))
}

/// The shaders of each kernel in a dispatch list, and how many launches there are.
fn sources(compiled: &Compiled, list: &Value) -> (Vec<(KernelId, String)>, usize) {
    let ids: HashMap<&str, KernelId> =
        compiled.program.kernels.iter().map(|(id, kernel)| (kernel.name.as_str(), id)).collect();
    let none = Vec::new();
    let launches = list["launches"].as_array().unwrap_or(&none);
    let mut texts: Vec<(KernelId, String)> = Vec::new();
    for launch in launches {
        let names = launch["kernels"].as_array().unwrap_or(&none);
        let source = launch["module"].as_u64().and_then(|at| list["modules"][at as usize]["source"].as_str());
        for id in names.iter().filter_map(|name| ids.get(name.as_str()?)) {
            if let Some(source) = source
                && !texts.iter().any(|(known, text)| known == id && text == source)
            {
                texts.push((*id, source.to_owned()));
            }
        }
    }
    (texts, launches.len())
}

/// Texts where code that several kernels share is shown with the first of them and named by the others. Comments, which begin with `mark`, are of
/// each kernel.
fn once(texts: Vec<(KernelId, String)>, mark: &str) -> Vec<(KernelId, String)> {
    let mut known: HashMap<String, String> = HashMap::new();
    let shown = texts.into_iter().map(|(id, text)| {
        let lines = || text.lines();
        let comments = lines().take_while(|line| line.starts_with(mark)).count();
        let (header, code): (Vec<&str>, Vec<&str>) =
            (lines().take(comments).collect(), lines().skip(comments).collect());
        let first = header.first().map_or(String::new(), |line| line.trim_start_matches(mark).trim().to_owned());
        let text = match known.get(&code.join("\n")) {
            Some(other) => format!("{}\n{mark} its code is that of {other}\n", header.join("\n")),
            None => {
                known.insert(code.join("\n"), first);
                text
            }
        };
        (id, text)
    });
    shown.collect()
}
