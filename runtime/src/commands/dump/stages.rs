//! The texts of the stages: graphs and programs after each pass, and the code of kernels.

use super::{lines, shaders};
use crate::cli::{Stage, Target};
use crate::compile::Compiled;
use crate::error::did_you_mean;
use crate::gpu::tune::Variants;
use crate::provenance::traced;
use crate::{Error, Result};
use clap::ValueEnum;
use std::cell::OnceCell;
use std::collections::HashMap;
use std::fmt::Write;
use tinygpt_codegen_cpu::compile::{CpuOptions, PreparedProgram};
use tinygpt_codegen_cpu::wasm::{self, WasmModule, WasmOptions};
use tinygpt_codegen_wgsl::Caps;
use tinygpt_ir::Graph;
use tinygpt_ir::program::{Kernel, KernelId, Program};
use tinygpt_passes::compile as lowering;

/// How stages are written.
#[derive(Debug, Clone)]
pub struct Options {
    pub cpu: CpuOptions,
    /// The GPU that shaders are written for.
    pub caps: Caps,
    /// Variants of GPU kernels other than the defaults.
    pub plan: Variants,
    /// Name the DSL lines of nodes and kernels in comments.
    pub lines: bool,
    /// Give each kernel its whole code; otherwise of kernels with equal code the first has it, and the others name that one.
    pub whole: bool,
}

impl Options {
    /// Texts to keep and compare: code for the least processor of the architecture, without templates, shaders for the least WebGPU
    /// implementation, no source lines, equal code once.
    pub fn stable() -> Options {
        Options {
            cpu: CpuOptions { baseline: true, ..CpuOptions::default() },
            caps: Caps::webgpu(),
            plan: Variants::new(),
            lines: false,
            whole: false,
        }
    }
}

/// A stage's text, or the part of it that is one kernel's, or of kernels that run as one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Name of the file that holds it.
    pub name: String,
    /// The kernels that it is the code of.
    pub kernels: Vec<KernelId>,
    /// Name of the file whose code this one's is too, but for comments.
    pub same_as: Option<String>,
    pub contents: Vec<u8>,
}

impl File {
    fn new(name: impl Into<String>, kernel: Option<KernelId>, text: String) -> File {
        File { name: name.into(), kernels: kernel.into_iter().collect(), same_as: None, contents: text.into_bytes() }
    }

    fn same_as(self, first: Option<String>) -> File {
        File { same_as: first, ..self }
    }

    /// The contents, which are text of every stage but `wasm`.
    pub fn text(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.contents)
    }
}

/// The files of one stage: of the code stages one a kernel of `kernels` (of GPU stages one a module), of the others one.
pub fn render(compiled: &Compiled, stage: Stage, options: &Options, kernels: &[KernelId]) -> Result<Vec<File>> {
    Renderer::new(compiled, options, kernels).files(stage)
}

/// Renders several stages of one program, each piece of code being made once.
pub struct Renderer<'a> {
    compiled: &'a Compiled,
    options: &'a Options,
    kernels: &'a [KernelId],
    prepared: OnceCell<PreparedProgram>,
    module: OnceCell<WasmModule>,
    shaders: OnceCell<shaders::Shaders>,
}

impl<'a> Renderer<'a> {
    pub fn new(compiled: &'a Compiled, options: &'a Options, kernels: &'a [KernelId]) -> Self {
        Self {
            compiled,
            options,
            kernels,
            prepared: OnceCell::new(),
            module: OnceCell::new(),
            shaders: OnceCell::new(),
        }
    }

    /// See [`render`].
    pub fn files(&self, stage: Stage) -> Result<Vec<File>> {
        let (compiled, lines) = (self.compiled, self.options.lines);
        let one = |name: &str, text: String| Ok(vec![File::new(name, None, text)]);
        match stage {
            Stage::Graph => one("graph.gir", lines::graph(&compiled.forward, lines)),
            Stage::Grad => one("grad.gir", lines::graph(&compiled.step, lines)),
            Stage::Fused => one("fused.txt", self.fused()?),
            Stage::Program => one("program.txt", lines::program(&compiled.program, lines)),
            Stage::Clif | Stage::Asm => self.code(stage),
            Stage::Wat | Stage::Wasm => self.webassembly(stage),
            Stage::Wgsl | Stage::Spv | Stage::Msl | Stage::Hlsl => {
                let program = &compiled.program;
                let made = made_once(&self.shaders, || shaders::Shaders::new(program, self.options, self.kernels))?;
                made.files(program, stage, self.options)
            }
        }
    }

    /// What fusion saved, and the kernels it made.
    fn fused(&self) -> Result<String> {
        let mut text = String::new();
        for line in self.compiled.fusion_report()?.to_string().lines() {
            let _ = writeln!(text, "{}", format!("# {line}").trim_end());
        }
        for id in self.kernels {
            let _ = write!(text, "\n{}", lines::kernel(&self.compiled.program.kernels[*id], self.options.lines));
        }
        Ok(text)
    }

    /// The module for plain SIMD and threads: as text a kernel, or its bytes.
    fn webassembly(&self, stage: Stage) -> Result<Vec<File>> {
        let program = &self.compiled.program;
        let module = made_once(&self.module, || {
            let entry = wasm::Entry { name: WASM_ENTRY, program };
            wasm::module(&[entry], &WasmOptions::default()).map_err(|e| Error::failed(traced(program, e)))
        })?;
        if stage == Stage::Wasm {
            return Ok(vec![File {
                name: "program.wasm".to_owned(),
                kernels: Vec::new(),
                same_as: None,
                contents: module.bytes.clone(),
            }]);
        }
        let mut shown: HashMap<String, &str> = HashMap::new();
        let mut files = Vec::new();
        for &id in self.kernels {
            let kernel = &program.kernels[id];
            let text = module.kernel_wat(0, id);
            // Comments, with scopes and lines of the kernel; then its functions, which others may share.
            let (header, code): (Vec<&str>, Vec<&str>) = text.lines().partition(|line| line.starts_with(";;"));
            let code = code.join("\n");
            let mut text = String::new();
            for line in header.iter().filter(|line| self.options.lines || !line.starts_with(";; at ")) {
                let _ = writeln!(text, "{line}");
            }
            let first = *shown.entry(code.clone()).or_insert(&kernel.name);
            text += &self.shared(";; ", &kernel.name, first, &code);
            files.push(File::new(file_name(&kernel.name, stage), Some(id), text).same_as(other(kernel, first, stage)));
        }
        Ok(files)
    }

    /// The code of a kernel below its header: whole, or where others have it too by the name of the first.
    fn shared(&self, mark: &str, kernel: &str, first: &str, code: &str) -> String {
        let mut text = String::new();
        if first != kernel {
            let _ = writeln!(text, "{mark}the code of {first}");
        }
        if first == kernel || self.options.whole {
            text += code;
        }
        text.truncate(text.trim_end().len());
        let end = match (self.options.whole, text.is_empty()) {
            (true, true) => "",
            (true, false) | (false, true) => "\n",
            (false, false) => "\n\n",
        };
        text + end
    }

    /// CLIF or machine code of each kernel.
    fn code(&self, stage: Stage) -> Result<Vec<File>> {
        let program = &self.compiled.program;
        let options = CpuOptions { texts: true, ..self.options.cpu };
        let prepared = made_once(&self.prepared, || {
            PreparedProgram::new(program, &options).map_err(|e| Error::failed(traced(program, e)))
        })?;
        let mut shown: HashMap<KernelId, &str> = HashMap::new();
        let mut files = Vec::new();
        for &id in self.kernels {
            let kernel = &program.kernels[id];
            let mut text = format!("; kernel {}\n", kernel.name);
            if self.options.lines {
                text += &lines::comment("; ", &kernel.provenance);
            }
            if let Some(template) = prepared.template(id) {
                let _ = writeln!(text, "; template: {template}");
            }
            let first = *shown.entry(prepared.same_code_as(id)).or_insert(&kernel.name);
            let code = if stage == Stage::Clif { prepared.clif_text(id) } else { prepared.asm_text(id) };
            text += &self.shared("; ", &kernel.name, first, &code);
            files.push(File::new(file_name(&kernel.name, stage), Some(id), text).same_as(other(kernel, first, stage)));
        }
        Ok(files)
    }
}

/// The entry of the module that dumps show.
const WASM_ENTRY: &str = "step";

/// The file of a kernel's code.
pub(super) fn file_name(kernel: &str, stage: Stage) -> String {
    format!("{kernel}.{}", suffix(stage))
}

/// The file that has the code of `kernel` first, if that is another.
fn other(kernel: &Kernel, first: &str, stage: Stage) -> Option<String> {
    (first != kernel.name).then(|| file_name(first, stage))
}

/// The value of `cell`, made at the first call.
fn made_once<V>(cell: &OnceCell<V>, make: impl FnOnce() -> Result<V>) -> Result<&V> {
    match cell.get() {
        Some(value) => Ok(value),
        None => {
            let value = make()?;
            Ok(cell.get_or_init(|| value))
        }
    }
}

/// The stage's name on the command line.
pub(super) fn name(stage: Stage) -> String {
    stage.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

/// The ending of the files of a stage.
pub(super) fn suffix(stage: Stage) -> &'static str {
    match stage {
        Stage::Graph | Stage::Grad => "gir",
        Stage::Fused | Stage::Program => "txt",
        Stage::Clif => "clif",
        Stage::Asm => "asm",
        Stage::Wat => "wat",
        Stage::Wasm => "wasm",
        Stage::Wgsl => "wgsl",
        Stage::Spv => "spvasm",
        Stage::Msl => "metal",
        Stage::Hlsl => "hlsl",
    }
}

/// The target that a code stage is of; None of stages that every target has.
pub(super) fn target(stage: Stage) -> Option<Target> {
    match stage {
        Stage::Graph | Stage::Grad | Stage::Fused | Stage::Program => None,
        Stage::Clif | Stage::Asm | Stage::Wat | Stage::Wasm => Some(Target::Cpu),
        Stage::Wgsl | Stage::Spv | Stage::Msl | Stage::Hlsl => Some(Target::Gpu),
    }
}

/// A compiled model with the states between its passes.
#[derive(Debug)]
pub struct Stages {
    pub compiled: Compiled,
}

impl Stages {
    pub fn new(compiled: Compiled) -> Stages {
        Stages { compiled }
    }

    /// [`Compiled::graphs`]
    pub fn graphs(&self) -> Result<Vec<(String, Graph)>> {
        self.compiled.graphs()
    }

    /// The programs in order, by the name of the pass that made them.
    pub fn programs(&self) -> Result<Vec<(&'static str, Program)>> {
        let (graph, target) = (&self.compiled.passes.graph, &self.compiled.program.target);
        let lowered = lowering::lower(graph, target, true, true).map_err(Error::failed)?;
        Ok(lowered.steps.into_iter().filter_map(|step| Some((step.name, step.program?))).collect())
    }

    /// File name and text of the state after `pass`, a name of [`Stages::graphs`] or [`Stages::programs`].
    pub fn after(&self, pass: &str, lines: bool) -> Result<(String, String)> {
        let (graphs, programs) = (self.graphs()?, self.programs()?);
        if let Some((name, graph)) = graphs.iter().find(|(name, _)| name == pass) {
            return Ok((format!("{name}.gir"), lines::graph(graph, lines)));
        }
        if let Some((name, program)) = programs.iter().find(|(name, _)| *name == pass) {
            return Ok((format!("{name}.txt"), lines::program(program, lines)));
        }
        let names: Vec<&str> =
            graphs.iter().map(|(name, _)| name.as_str()).chain(programs.iter().map(|(name, _)| *name)).collect();
        let near = did_you_mean(pass, names.iter().copied());
        Err(Error::input(format!("the pipeline has no pass \"{pass}\"{near}: its states are {}", names.join(", "))))
    }
}
