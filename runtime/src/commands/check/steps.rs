//! What a `; test` line may say: passes from graph to graph, then at most one step that shows or judges the result.
//!
//! Invariants
//! - Graphs and programs are verified between steps; what a verifier refuses is part of the result.
//! - Results name no file, source line, time or address.

use super::code;
use std::fmt::Write;
use tinygpt_codegen_wgsl::Caps;
use tinygpt_ir::error::GraphError;
use tinygpt_ir::program::{BufferKind, Place, Program, TargetModel};
use tinygpt_ir::text::{Ir, parse_any};
use tinygpt_ir::{Graph, ParamId};
use tinygpt_passes::autodiff::gradients;
use tinygpt_passes::compile::to_program;
use tinygpt_passes::fuse;
use tinygpt_passes::pass::{Pass, Stats};

/// Options of the steps that compile.
const TARGET: &[&str] = &["target", "max_args", "max_arg_bytes", "f16_values", "fusion"];

/// The steps that end a test: name, options, what the result is. Passes of `passes/src/pass.rs` may come before.
pub const STEPS: &[(&str, &[&str], &str)] = &[
    ("parse", &[], "the text printed again, or the error with its excerpt; alone in its test"),
    ("verify", &[], "`well-formed`, or what the reader or the verifier refuses; alone in its test"),
    ("stats", &[], "how often which rule of the last pass applied"),
    ("fuse", TARGET, "the kernels"),
    ("remarks", TARGET, "each decision of fusion: fused or not, and why"),
    ("program", TARGET, "the whole program"),
    ("memory", TARGET, "bytes planned and the least possible, the stages, and the place of each temporary"),
    ("wgsl", &["max_args", "max_arg_bytes", "fusion"], "the shaders, in their default variants for the least WebGPU"),
    ("clif", &["fusion"], "the functions for Cranelift, for the least x86-64; not checked on other machines"),
    ("wat", &["fusion"], "the WebAssembly functions, for every engine and one thread"),
    ("run", &["fusion", "seed"], "whether the CPU backend agrees with the interpreter, output by output"),
];

/// One step with its options.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Step {
    name: String,
    options: Vec<(String, String)>,
}

/// A `; test` line.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Test {
    /// The steps in their canonical spelling.
    pub text: String,
    steps: Vec<Step>,
}

impl Test {
    /// Reads `STEP key=value .., STEP ..`. Errors: one sentence.
    pub fn parse(text: &str) -> Result<Test, String> {
        let mut steps: Vec<Step> = Vec::new();
        for part in text.split(',') {
            let mut words = part.split_whitespace();
            let name = words.next().ok_or_else(|| format!("found `{text}`, expected steps between commas"))?;
            let ends = STEPS.iter().find(|(n, ..)| *n == name);
            let allowed: &[&str] = match ends {
                Some((_, options, _)) => options,
                None if name == Pass::Gradients.name() => &["wrt"],
                None if Pass::parse(name).is_ok() => &[],
                None => return Err(format!("there is no step `{name}`{}", suggestion(name))),
            };
            if let Some(last) = steps.last().filter(|s| STEPS.iter().any(|(n, ..)| *n == s.name)) {
                return Err(format!("`{}` ends a test, and `{name}` comes after it", last.name));
            }
            if matches!(name, "parse" | "verify") && !steps.is_empty() {
                return Err(format!("`{name}` reads the text itself: it stands alone in its test"));
            }
            if name == "stats" && steps.is_empty() {
                return Err("`stats` is about the pass before it, and there is none".to_string());
            }
            let options = words.map(|word| option(name, allowed, word)).collect::<Result<_, _>>()?;
            steps.push(Step { name: name.to_string(), options });
        }
        let spelled = |s: &Step| {
            s.options.iter().fold(s.name.clone(), |mut text, (k, v)| {
                let _ = write!(text, " {k}={v}");
                text
            })
        };
        let text = steps.iter().map(spelled).collect::<Vec<_>>().join(", ");
        let test = Test { text, steps };
        test.steps.iter().try_for_each(|s| s.target().map(|_| ()))?;
        Ok(test)
    }
}

fn option(step: &str, allowed: &[&str], word: &str) -> Result<(String, String), String> {
    let (key, value) = word.split_once('=').ok_or_else(|| format!("found `{word}`, expected an option `key=value`"))?;
    if !allowed.contains(&key) {
        let known = if allowed.is_empty() { "none".to_string() } else { allowed.join(", ") };
        return Err(format!("`{step}` takes no option `{key}`; it takes: {known}"));
    }
    Ok((key.to_string(), value.to_string()))
}

/// `; did you mean ..?`, or the list of steps.
fn suggestion(name: &str) -> String {
    let known = || STEPS.iter().map(|(n, ..)| *n).chain(Pass::ALL.iter().map(|p| p.name()));
    let near = known().map(|n| (strsim::damerau_levenshtein(name, n), n)).min();
    match near {
        Some((edits, n)) if edits <= 2 => format!("; did you mean `{n}`?"),
        _ => format!("; the steps are {}", known().collect::<Vec<_>>().join(", ")),
    }
}

impl Step {
    pub fn get(&self, key: &str) -> Option<&str> {
        self.options.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    pub fn number(&self, key: &str) -> Result<Option<usize>, String> {
        self.get(key).map(|v| v.parse().map_err(|_| format!("found {key}={v}, expected a number"))).transpose()
    }

    pub fn fusion(&self) -> Result<bool, String> {
        match self.get("fusion") {
            None | Some("on") => Ok(true),
            Some("off") => Ok(false),
            Some(other) => Err(format!("found fusion={other}, expected on or off")),
        }
    }

    /// What the step compiles for, the options checked.
    fn target(&self) -> Result<TargetModel, String> {
        self.fusion()?;
        self.number("seed")?;
        let name = self.get("target").unwrap_or(if self.name == "wgsl" { "gpu" } else { "cpu" });
        let mut target = match name {
            "cpu" => TargetModel::cpu(),
            "gpu" => crate::gpu::device::target(&Caps::webgpu()),
            _ => return Err(format!("found the target `{name}`, expected cpu or gpu")),
        };
        target.max_args = self.number("max_args")?.unwrap_or(target.max_args);
        target.max_arg_bytes = self.number("max_arg_bytes")?.unwrap_or(target.max_arg_bytes);
        target.f16_values = self.number("f16_values")?;
        target.f16_operands = target.f16_values.is_some();
        Ok(target)
    }
}

/// The result of `test` on the IR in `source`; None where this machine cannot tell.
///
/// Errors: the file is unusable, one sentence.
pub(super) fn run(test: &Test, source: &str) -> Result<Option<String>, String> {
    let parsed = parse_any(source);
    match test.steps[0].name.as_str() {
        "parse" => {
            return Ok(Some(match parsed {
                Ok(ir) => ir.to_string(),
                Err(e) => e.render(None),
            }));
        }
        "verify" => {
            return Ok(Some(match parsed {
                Ok(Ir::Graph(g)) => verdict(tinygpt_ir::verify::verify(&g)),
                Ok(Ir::Program(p)) => verdict(tinygpt_ir::program::verify(&p)),
                Err(e) => e.to_string(),
            }));
        }
        _ => {}
    }
    match parsed.map_err(|e| format!("its IR does not parse: {e}"))? {
        Ir::Graph(graph) => of_graph(test, graph),
        Ir::Program(program) => of_program(test, program),
    }
}

fn verdict<E: std::fmt::Display>(result: Result<(), E>) -> String {
    result.map_or_else(|e| e.to_string(), |()| "well-formed".to_string())
}

fn of_graph(test: &Test, graph: Graph) -> Result<Option<String>, String> {
    // What backends are compared with: the graph as last differentiated, before other passes.
    let mut meaning = graph.clone();
    let (mut graph, mut stats) = (graph, Stats::default());
    for step in &test.steps {
        if STEPS.iter().any(|(n, ..)| *n == step.name) {
            return show(step, &graph, &meaning, &stats);
        }
        let pass = Pass::parse(&step.name)?;
        stats = Stats::default();
        let result = match pass {
            Pass::Gradients if step.get("wrt").is_some() => gradients_of(step, &graph)?,
            _ => pass.run(&graph, &mut stats),
        };
        graph = match result {
            Ok(graph) => graph,
            Err(e) => return Ok(Some(format!("error: {}", without_lines(*e)))),
        };
        if let Err(violations) = tinygpt_ir::verify::verify(&graph) {
            return Ok(Some(format!("error: invalid after {}: {violations}", pass.name())));
        }
        // Lines are those of the passes' own sources where the input, being text, has none.
        graph.nodes.values_mut().for_each(|n| n.loc = None);
        if matches!(pass, Pass::Gradients | Pass::Train) {
            meaning = graph.clone();
        }
    }
    Ok(Some(graph.to_string()))
}

fn without_lines(mut e: GraphError) -> GraphError {
    e.loc = None;
    e.operands.iter_mut().for_each(|o| o.loc = None);
    e
}

/// The gradients of `loss` by the parameters `wrt=NAME` as the outputs `grad.NAME`, in place of all other outputs: what the rules wrote,
/// without what only `loss` needs.
fn gradients_of(step: &Step, graph: &Graph) -> Result<Result<Graph, Box<GraphError>>, String> {
    let names: Vec<&str> = step.options.iter().map(|(_, v)| v.as_str()).collect();
    let wrt: Vec<ParamId> = names
        .iter()
        .map(|n| graph.param_named(n).ok_or_else(|| format!("found wrt={n}, and the graph has no such parameter")))
        .collect::<Result<_, _>>()?;
    Ok(gradients(graph, "loss", &wrt).map(|g| {
        let outputs = names.iter().zip(g.grads).map(|(n, id)| (format!("grad.{n}"), id)).collect();
        tinygpt_passes::simplify::dce(&Graph { outputs, updates: Vec::new(), ..g.graph })
    }))
}

fn show(step: &Step, graph: &Graph, meaning: &Graph, stats: &Stats) -> Result<Option<String>, String> {
    let target = step.target()?;
    if step.name == "stats" {
        let lines: Vec<String> = stats.iter().map(|(what, n)| format!("{n} {what}")).collect();
        return Ok(Some(lines.join("\n")));
    }
    if step.name == "remarks" {
        return Ok(Some(match fuse::remarks(graph, &target) {
            Ok(remarks) => remarks.iter().map(|r| r.line(graph)).collect::<Vec<_>>().join("\n"),
            Err(e) => format!("error: {e}"),
        }));
    }
    let program = match to_program(graph, &target, step.fusion()?) {
        Ok(program) => program,
        Err(e) => return Ok(Some(format!("error: {e}"))),
    };
    if let Err(violations) = tinygpt_ir::program::verify(&program) {
        return Ok(Some(format!("error: invalid after memory: {violations}")));
    }
    if step.name == "run" {
        return code::run(&program, meaning, step.number("seed")?.unwrap_or(1) as u64).map(Some);
    }
    Ok(show_program(step, &program))
}

fn of_program(test: &Test, program: Program) -> Result<Option<String>, String> {
    let step = &test.steps[0];
    if !matches!(step.name.as_str(), "fuse" | "program" | "memory" | "wgsl" | "clif" | "wat") {
        return Err(format!("the step `{}` takes a graph, and the file holds a program", step.name));
    }
    if let Err(violations) = tinygpt_ir::program::verify(&program) {
        return Ok(Some(format!("error: {violations}")));
    }
    Ok(show_program(step, &program))
}

/// None where this machine has no such code.
fn show_program(step: &Step, program: &Program) -> Option<String> {
    Some(match step.name.as_str() {
        "fuse" => program.kernels.values().map(|k| k.to_string()).collect::<Vec<_>>().join("\n"),
        "memory" => memory(program),
        "wgsl" => code::wgsl(program),
        "clif" => return code::clif(program),
        "wat" => code::wat(program),
        _ => program.to_string(),
    })
}

/// The memory plan: totals, who runs when, and where every value lies that does not have storage of its own.
fn memory(program: &Program) -> String {
    let m = &program.memory;
    let mut text = format!("planned {} bytes, lower bound {}\n", m.planned, m.lower_bound);
    let mut list = |what: &str, sizes: &[usize]| {
        for (i, bytes) in sizes.iter().enumerate() {
            let _ = writeln!(text, "{what} {i}: {bytes} bytes");
        }
    };
    list("slot", &m.slots);
    list("pack", &m.packs);
    for stage in 0..program.stages.len() {
        let names: Vec<&str> = program.stage_kernels(stage).map(|k| program.kernels[k].name.as_str()).collect();
        let _ = writeln!(text, "stage {stage}: {}", names.join(" "));
    }
    for (id, b) in program.buffers.iter().filter(|(_, b)| b.kind == BufferKind::Temp || b.place != Place::Own) {
        let _ = writeln!(text, "{id} = {b}");
    }
    text
}
