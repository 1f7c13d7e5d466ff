//! `dump`: what each stage of the compiler made of a model, as text.
//!
//! One request names one thing: a stage, the state after a pass, all of it as a directory, or the difference between two of them.
//! [`render`] is the library form, which tests and other commands use.
//!
//! Invariants
//! - The text is a function of the model and the flags: no times, addresses or paths, canonical names, so that two runs print
//!   the same bytes.
//! - Source lines are comments, written here and nowhere in the texts themselves: `--no-lines` leaves exactly the texts.
//! - On standard output equal code is shown once and named afterwards; a file holds the whole code of its kernel.

mod all;
mod diff;
mod lines;
mod shaders;
mod stages;

pub use stages::{File, Options, Renderer, Stages, render};

use super::{Ending, deliver, parse_ir, read_text};
use crate::cli::{DumpArgs, Stage, Target};
use crate::compile::{Goal, compile, cpu_options};
use crate::config::RunConfig;
use crate::error::one_line;
use crate::gpu;
use crate::gpu::tune::Variants;
use crate::model::{adamw, forward};
use crate::{Error, Result};
use regex_lite::Regex;
use std::path::Path;
use tinygpt_codegen_wgsl::Caps;
use tinygpt_ir::Graph;
use tinygpt_ir::program::{KernelId, Program, TargetModel};
use tinygpt_ir::text::Ir;

pub fn run(args: &DumpArgs) -> Result<Ending> {
    let config = RunConfig::preset(&args.model.preset)?;
    let options = Options {
        cpu: cpu_options(args.isa, args.no_templates)?,
        caps: args.adapter.as_deref().map_or(Ok(Caps::webgpu()), |name| Ok(gpu::device::adapter(name)?.caps))?,
        plan: args.plan.as_deref().map_or(Ok(Variants::new()), read_plan)?,
        lines: !args.no_lines,
        whole: args.out.is_some(),
    };
    let (forward, goal) = declared(&config, args.model.graph.as_deref())?;
    let model = Model { forward, goal, options, kernels: args.kernel.as_deref().map(pattern).transpose()? };
    match (args.stage, args.after.as_deref(), args.diff.as_deref()) {
        (Some(stage), ..) => {
            let only = model.kernels.is_some();
            if only && matches!(stage, Stage::Graph | Stage::Grad | Stage::Program) {
                return Err(Error::input(
                    "--kernel chooses kernels of the stage fused and of the code stages: leave it out or name one of them",
                ));
            }
            if stage == Stage::Wasm && args.out.is_none() {
                return Err(Error::input(
                    "--stage wasm is binary: name a directory for it with -o, or take --stage wat",
                ));
            }
            let target = target_of(stage, args.target)?;
            if args.remarks {
                let text = model.remarks(stage, target)?;
                return deliver(args.out.as_deref(), "remarks.txt", &text).map(|()| Ending::Done);
            }
            for file in model.files(stage, target)? {
                deliver(args.out.as_deref(), &file.name, &file.contents)?;
            }
        }
        (None, Some(pass), _) => {
            let target = args.target.unwrap_or(Target::Cpu);
            let file = model.after(pass, target)?;
            deliver(args.out.as_deref(), &file.name, &file.contents)?;
        }
        (None, None, Some([a, b])) => {
            let text = diff::diff(&model, a, b, args.target)?;
            deliver(args.out.as_deref(), &format!("{a}-{b}.diff"), &text)?;
        }
        _ => {
            // The command line asks for one of the four, and --all for a directory.
            let out =
                args.out.as_deref().ok_or_else(|| Error::input("--all writes files: name their directory with -o"))?;
            all::write(&model, &config, &args.model.preset, out)?;
        }
    }
    Ok(Ending::Done)
}

/// The model to compile and what for: the preset's training step, or the graph in `file`, whose training step it is if it has an output loss, weights
/// and no updates.
pub(crate) fn declared(config: &RunConfig, file: Option<&Path>) -> Result<(Graph, Goal)> {
    let train = Goal::Train { adamw: adamw(&config.train), gradients: false };
    let Some(file) = file else { return Ok((forward(&config.model, config.train.batch)?, train)) };
    let graph = graph(file)?;
    let trains = graph.output_named("loss").is_some()
        && graph.updates.is_empty()
        && graph.params.values().any(|p| p.is_weight());
    Ok((graph, if trains { train } else { Goal::Whole }))
}

fn graph(file: &Path) -> Result<Graph> {
    match parse_ir(&read_text(file)?, file)? {
        Ir::Graph(graph) => Ok(graph),
        Ir::Program(_) => Err(Error::input(format!(
            "{} holds a program, whose stages are behind it: give the graph, or run passes over the program with opt",
            file.display()
        ))),
    }
}

/// What is dumped: a declared model, what it is compiled for, and what of it is asked for.
pub(crate) struct Model {
    forward: tinygpt_ir::Graph,
    goal: Goal,
    options: Options,
    /// Only kernels whose names match.
    kernels: Option<Regex>,
}

impl Model {
    /// Everything compiled for `target`.
    fn stages(&self, target: Target) -> Result<Stages> {
        let target = match target {
            Target::Cpu => TargetModel::cpu(),
            Target::Gpu => gpu::device::target(&self.options.caps),
        };
        Ok(Stages::new(compile(self.forward.clone(), &self.goal, &target)?))
    }

    fn files(&self, stage: Stage, target: Target) -> Result<Vec<File>> {
        let stages = self.stages(target)?;
        let kernels = chosen(&stages.compiled.program, self.kernels.as_ref())?;
        render(&stages.compiled, stage, &self.options, &kernels)
    }

    /// The decisions of fusion, one a line.
    fn remarks(&self, stage: Stage, target: Target) -> Result<String> {
        if stage != Stage::Fused || self.kernels.is_some() {
            return Err(Error::input(
                "--remarks shows what the stage fused decided: give --stage fused, and no --kernel",
            ));
        }
        let compiled = self.stages(target)?.compiled;
        let mut graph = compiled.passes.graph;
        if !self.options.lines {
            graph.nodes.values_mut().for_each(|n| n.loc = None);
        }
        let remarks = tinygpt_passes::fuse::remarks(&graph, &compiled.program.target).map_err(Error::failed)?;
        Ok(remarks.iter().map(|r| r.line(&graph) + "\n").collect())
    }

    fn after(&self, pass: &str, target: Target) -> Result<File> {
        if self.kernels.is_some() {
            return Err(Error::input(
                "--kernel chooses kernels of the stage fused and of the code stages: leave it out with --after",
            ));
        }
        let stages = self.stages(target)?;
        let (name, text) = stages.after(pass, self.options.lines)?;
        Ok(File { name, kernels: Vec::new(), same_as: None, contents: text.into_bytes() })
    }
}

/// The kernels whose names match the regular expression `pattern`, in order, or all. Errors: none does, or it is no regular expression.
pub fn kernels_named(program: &Program, pattern: Option<&str>) -> Result<Vec<KernelId>> {
    chosen(program, pattern.map(self::pattern).transpose()?.as_ref())
}

fn chosen(program: &Program, pattern: Option<&Regex>) -> Result<Vec<KernelId>> {
    let named = program.kernels.iter().filter(|(_, k)| pattern.is_none_or(|re| re.is_match(&k.name)));
    let found: Vec<KernelId> = named.map(|(id, _)| id).collect();
    match pattern {
        Some(re) if found.is_empty() => Err(Error::input(format!(
            "none of the program's {} kernels has a name that matches \"{re}\": dump --stage fused shows the names",
            program.kernels.len()
        ))),
        _ => Ok(found),
    }
}

/// The target whose program a stage is of.
fn target_of(stage: Stage, asked: Option<Target>) -> Result<Target> {
    match (stages::target(stage), asked) {
        (Some(of), Some(asked)) if of != asked => {
            let name = stages::name(stage);
            Err(Error::input(format!("--stage {name} is of the target {of} alone: leave --target {asked} out")))
        }
        (of, asked) => Ok(of.or(asked).unwrap_or(Target::Cpu)),
    }
}

fn pattern(text: &str) -> Result<Regex> {
    Regex::new(text).map_err(|e| Error::input(format!("--kernel \"{text}\" is no regular expression: {}", one_line(e))))
}

fn read_plan(path: &Path) -> Result<Variants> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::reading(path, e))?;
    Ok(gpu::tune::parse_plan(&text, &path.display().to_string())?.1)
}
