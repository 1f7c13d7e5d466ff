//! `dump`: one stage of the compiler as text, for the training step of a preset.
//!
//! Nothing printed depends on time, addresses or source lines, so that two runs print the same.

use super::{Ending, deliver, shaders};
use crate::cli::{DumpArgs, Stage};
use crate::compile::{Compiled, Goal, compile, cpu_options};
use crate::config::RunConfig;
use crate::error::one_line;
use crate::gpu::{self, tune::Variants};
use crate::model::{adamw, forward};
use crate::{Error, Result};
use regex_lite::Regex;
use std::collections::HashMap;
use std::fmt::Write;
use std::path::Path;
use tinygpt_codegen_cpu::compile::{CpuOptions, PreparedProgram};
use tinygpt_codegen_wgsl::Caps;
use tinygpt_ir::program::{KernelId, TargetModel};

pub fn run(args: &DumpArgs) -> Result<Ending> {
    let config = RunConfig::preset(&args.preset)?;
    let only = Kernels::new(args)?;
    let goal = Goal::Train { adamw: adamw(&config.train), gradients: false };
    let options = Options {
        cpu: cpu_options(args.isa, args.no_templates)?,
        caps: args.adapter.as_deref().map_or(Ok(Caps::webgpu()), |name| Ok(gpu::device::adapter(name)?.caps))?,
        plan: args.plan.as_deref().map_or(Ok(Variants::new()), read_plan)?,
    };
    let target = if shaders::is_stage(args.stage) { gpu::device::target(&options.caps) } else { TargetModel::cpu() };
    let compiled = compile(forward(&config.model, config.train.batch)?, &goal, &target)?;
    for (name, text) in render(&compiled, args.stage, &options, &only.of(&compiled)?)? {
        deliver(args.out.as_deref(), &name, &text)?;
    }
    Ok(Ending::Done)
}

/// Of the code stages.
#[derive(Debug, Clone)]
pub struct Options {
    pub cpu: CpuOptions,
    /// The GPU that shaders are written for.
    pub caps: Caps,
    /// Variants of GPU kernels other than the defaults.
    pub plan: Variants,
}

fn read_plan(path: &Path) -> Result<Variants> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::reading(path, e))?;
    Ok(gpu::tune::parse_plan(&text, &path.display().to_string())?.1)
}

/// The texts of a stage by file name: of the code stages one a kernel of `kernels`, of the others one. The program is one for the
/// CPU for all stages but those of GPUs.
pub fn render(
    compiled: &Compiled,
    stage: Stage,
    options: &Options,
    kernels: &[KernelId],
) -> Result<Vec<(String, String)>> {
    let one = |name: &str, text: String| Ok(vec![(name.to_owned(), text)]);
    match stage {
        Stage::Graph => one("graph.gir", compiled.forward.to_string()),
        Stage::Grad => one("grad.gir", compiled.step.to_string()),
        Stage::Fused => one("fused.txt", fused(compiled, kernels)?),
        Stage::Program => one("program.txt", compiled.program.to_string()),
        Stage::Clif | Stage::Asm => code(compiled, &CpuOptions { texts: true, ..options.cpu }, stage, kernels),
        Stage::Wgsl | Stage::Spv | Stage::Msl | Stage::Hlsl => {
            shaders::render(&compiled.program, stage, options, kernels)
        }
    }
}

/// The kernels asked for.
struct Kernels(Option<Regex>);

impl Kernels {
    fn new(args: &DumpArgs) -> Result<Self> {
        let Some(pattern) = &args.kernel else { return Ok(Self(None)) };
        if matches!(args.stage, Stage::Graph | Stage::Grad | Stage::Program) {
            return Err(Error::input(
                "--kernel chooses kernels of the stage fused and of the code stages: leave it out or name one of them",
            ));
        }
        let regex = Regex::new(pattern)
            .map_err(|e| Error::input(format!("--kernel \"{pattern}\" is no regular expression: {}", one_line(e))))?;
        Ok(Self(Some(regex)))
    }

    /// The kernels whose names match, in order; an error when none does.
    fn of(&self, compiled: &Compiled) -> Result<Vec<KernelId>> {
        let kernels = compiled.program.kernels.iter();
        let found: Vec<KernelId> =
            kernels.filter(|(_, k)| self.0.as_ref().is_none_or(|re| re.is_match(&k.name))).map(|(id, _)| id).collect();
        match &self.0 {
            Some(re) if found.is_empty() => Err(Error::input(format!(
                "none of the program's {} kernels has a name that matches \"{re}\": dump --stage fused shows the names",
                compiled.program.kernels.len()
            ))),
            _ => Ok(found),
        }
    }
}

/// What fusion saved, and the kernels it made.
fn fused(compiled: &Compiled, kernels: &[KernelId]) -> Result<String> {
    let mut text = String::new();
    for line in compiled.fusion_report()?.to_string().lines() {
        let _ = writeln!(text, "{}", format!("# {line}").trim_end());
    }
    for id in kernels {
        let _ = write!(text, "\n{}", compiled.program.kernels[*id]);
    }
    Ok(text)
}

/// The generated code of each kernel. Of kernels with equal code the first has it, and the others name that one.
fn code(
    compiled: &Compiled,
    options: &CpuOptions,
    stage: Stage,
    kernels: &[KernelId],
) -> Result<Vec<(String, String)>> {
    let program = &compiled.program;
    let prepared = PreparedProgram::new(program, options).map_err(|e| Error::failed(one_line(e)))?;
    let suffix = if stage == Stage::Clif { "clif" } else { "asm" };
    let mut shown: HashMap<KernelId, &str> = HashMap::new();
    let mut texts = Vec::new();
    for &id in kernels {
        let name = program.kernels[id].name.as_str();
        let mut text = format!("; kernel {name}\n");
        if let Some(template) = prepared.template(id) {
            let _ = writeln!(text, "; template: {template}");
        }
        match shown.get(&prepared.same_code_as(id)) {
            Some(first) => {
                let _ = writeln!(text, "; the code of {first}");
            }
            None => {
                shown.insert(prepared.same_code_as(id), name);
                text += &if stage == Stage::Clif { prepared.clif_text(id) } else { prepared.asm_text(id) };
            }
        }
        text.truncate(text.trim_end().len());
        text += "\n\n";
        texts.push((format!("{name}.{suffix}"), text));
    }
    Ok(texts)
}
