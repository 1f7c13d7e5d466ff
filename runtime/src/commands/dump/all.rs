//! `dump --all -o DIR`: every stage as numbered files, and a manifest that says what each is.
//!
//! ```text
//! 00-graph.gir  01-grad.gir  02-expand.gir ...          graphs, for every target
//! 06-cpu-fuse.txt  07-cpu-schedule.txt ...              programs of a target
//! 10-clif/KERNEL.clif ...                               code: each distinct piece once, by the name of the first kernel that has it
//! manifest.json
//! ```
//! The numbers are the order of the pipeline. `manifest.json` is for scripts: it names every file with its stage, pass, target, kernels, length and
//! SHA-256, and every kernel with its graph nodes, scopes, DSL lines and files, so that whatever names a kernel leads back to the model.
//!
//! Invariants
//! - Two dumps with the same flags on one machine are equal in every byte.
//! - A directory is written only if it is empty, or holds a dump: of that, the files that its manifest lists are replaced.

use super::stages::{self, File, Options, Renderer};
use super::{Model, chosen, lines};
use crate::cli::{Stage, Target};
use crate::config::RunConfig;
use crate::error::one_line;
use crate::provenance;
use crate::{Error, Result};
use clap::ValueEnum;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::path::{Component, Path};
use tinygpt_ir::program::{KernelId, Program, kernel_stats};

/// What the manifest says it is.
const FORMAT: &str = "tinygpt-dump";
/// Version of the manifest: changes whenever a reader of the older one would read the newer one wrongly.
const VERSION: u32 = 1;
const MANIFEST: &str = "manifest.json";

#[derive(Serialize)]
struct Manifest<'a> {
    format: &'static str,
    version: u32,
    /// Version of the compiler.
    tinygpt: &'static str,
    model: Described<'a>,
    files: Vec<Entry>,
    kernels: Vec<Kernel>,
}

/// What was compiled, and for what.
#[derive(Serialize)]
struct Described<'a> {
    /// Name of the forward graph.
    name: &'a str,
    preset: &'a str,
    parameters: usize,
    config: &'a RunConfig,
    /// The programs' targets as they print, by name.
    targets: Vec<Named>,
}

#[derive(Serialize)]
struct Named {
    target: String,
    text: String,
}

/// One file.
#[derive(Serialize)]
struct Entry {
    path: String,
    /// The stage of `dump --stage` that it is, or is a part of.
    #[serde(skip_serializing_if = "Option::is_none")]
    stage: Option<String>,
    /// The pass of `dump --after` that made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pass: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    /// Every kernel with this code.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    kernels: Vec<String>,
    bytes: usize,
    sha256: String,
}

/// One kernel of one target, and where it comes from.
#[derive(Serialize)]
struct Kernel {
    target: String,
    name: String,
    archetype: &'static str,
    /// Number of the stage (between two barriers) that runs it.
    stage: usize,
    flops: u64,
    bytes: u64,
    /// Nodes of the graph in the file `graph` whose only computation is here.
    nodes: Vec<u32>,
    /// Nodes of it that another kernel computes too.
    recomputed: Vec<u32>,
    graph: String,
    scopes: Vec<String>,
    /// DSL lines, `FILE:LINE`.
    lines: Vec<String>,
    /// Paths of its code.
    code: Vec<String>,
}

/// A file before it has a number.
struct Unnumbered {
    stage: Option<String>,
    pass: Option<String>,
    target: Option<Target>,
    /// Of its file, or of the folder of its files.
    name: String,
    folder: bool,
    files: Vec<Part>,
}

/// One of the files of a stage: its name where there are several, the kernels whose code it is, and what is in it.
struct Part {
    name: String,
    kernels: Vec<String>,
    contents: Vec<u8>,
}

impl Part {
    /// The only file of a stage.
    fn only(contents: Vec<u8>) -> Vec<Part> {
        vec![Part { name: String::new(), kernels: Vec::new(), contents }]
    }

    /// The distinct files of a code stage.
    fn distinct(files: Vec<File>, program: &Program) -> Vec<Part> {
        let mut parts: Vec<Part> = Vec::new();
        for file in files {
            let kernels = file.kernels.iter().map(|id| program.kernels[*id].name.clone());
            match file.same_as.and_then(|first| parts.iter_mut().find(|part| part.name == first)) {
                Some(part) => part.kernels.extend(kernels),
                None => parts.push(Part { name: file.name, kernels: kernels.collect(), contents: file.contents }),
            }
        }
        for part in &mut parts {
            part.kernels.dedup();
            // The blank line between kernels of one text.
            if part.contents.ends_with(b"\n\n") {
                part.contents.pop();
            }
        }
        parts
    }
}

/// Everything of one target: files in order, and kernels.
struct OfTarget {
    graphs: Vec<Unnumbered>,
    own: Vec<Unnumbered>,
    kernels: Vec<Kernel>,
    text: String,
}

pub(super) fn write(model: &Model, config: &RunConfig, preset: &str, out: &Path) -> Result<()> {
    clear(out)?;
    let (cpu, gpu) = rayon::join(|| of_target(model, Target::Cpu), || of_target(model, Target::Gpu));
    let (cpu, gpu) = (cpu?, gpu?);
    let mut manifest = Manifest {
        format: FORMAT,
        version: VERSION,
        tinygpt: env!("CARGO_PKG_VERSION"),
        model: Described {
            name: &model.forward.name,
            preset,
            parameters: model.forward.weight_count(),
            config,
            targets: Vec::new(),
        },
        files: Vec::new(),
        kernels: Vec::new(),
    };
    for (target, text) in [(Target::Cpu, cpu.text), (Target::Gpu, gpu.text)] {
        manifest.model.targets.push(Named { target: target.to_string(), text });
    }
    std::fs::create_dir_all(out).map_err(|e| Error::writing(out, e))?;
    let mut contents_of = Vec::new();
    for (number, group) in cpu.graphs.into_iter().chain(cpu.own).chain(gpu.own).enumerate() {
        let base = format!("{number:02}-{}", group.name);
        if group.folder {
            let path = out.join(&base);
            std::fs::create_dir_all(&path).map_err(|e| Error::writing(&path, e))?;
        }
        for Part { name, kernels, contents } in group.files {
            let path = if group.folder { format!("{base}/{name}") } else { base.clone() };
            contents_of.push((out.join(&path), contents));
            manifest.files.push(Entry {
                path,
                stage: group.stage.clone(),
                pass: group.pass.clone(),
                target: group.target.map(|target| target.to_string()),
                kernels,
                bytes: 0,
                sha256: String::new(),
            });
        }
    }
    manifest.files.par_iter_mut().zip(&contents_of).try_for_each(|(entry, (path, contents))| {
        entry.bytes = contents.len();
        entry.sha256 = Sha256::digest(contents).iter().map(|byte| format!("{byte:02x}")).collect();
        std::fs::write(path, contents).map_err(|e| Error::writing(path, e))
    })?;
    manifest.kernels = cpu.kernels;
    manifest.kernels.extend(gpu.kernels);
    let graph = manifest.files.iter().rfind(|f| f.pass.is_some() && f.target.is_none()).map(|f| f.path.clone());
    for kernel in &mut manifest.kernels {
        kernel.graph = graph.clone().unwrap_or_default();
        let own = |f: &&Entry| f.target.as_ref() == Some(&kernel.target) && f.kernels.contains(&kernel.name);
        kernel.code = manifest.files.iter().filter(own).map(|f| f.path.clone()).collect();
    }
    let text = serde_json::to_string_pretty(&manifest).map_err(|e| Error::failed(one_line(e)))?;
    let path = out.join(MANIFEST);
    std::fs::write(&path, text + "\n").map_err(|e| Error::writing(&path, e))
}

/// Compiles for one target, and renders all its stages.
fn of_target(model: &Model, target: Target) -> Result<OfTarget> {
    let stages = model.stages(target)?;
    let compiled = &stages.compiled;
    let program = &compiled.program;
    let lines = model.options.lines;
    let (mut graphs, mut own) = (Vec::new(), Vec::new());
    if target == Target::Cpu {
        for (name, graph) in stages.graphs()? {
            let (stage, pass) = match name.as_str() {
                "graph" | "grad" => (Some(name.clone()), None),
                _ => (None, Some(name.clone())),
            };
            let files = Part::only(lines::graph(&graph, lines).into_bytes());
            graphs.push(Unnumbered { stage, pass, target: None, name: format!("{name}.gir"), folder: false, files });
        }
    }
    let one = |stage: Option<Stage>, pass: Option<&str>, name: String, contents: Vec<u8>| Unnumbered {
        stage: stage.map(stages::name),
        pass: pass.map(str::to_owned),
        target: Some(target),
        name,
        folder: false,
        files: Part::only(contents),
    };
    for (name, program) in stages.programs()? {
        // The last is the stage `program`.
        let stage = (name == "memory").then_some(Stage::Program);
        let text = lines::program(&program, lines).into_bytes();
        own.push(one(stage, Some(name), format!("{target}-{name}.txt"), text));
    }
    let kernels = chosen(program, model.kernels.as_ref())?;
    // Equal code once: what the others would repeat is left out when it is made.
    let options = Options { whole: false, ..model.options.clone() };
    let renderer = Renderer::new(compiled, &options, &kernels);
    for stage in Stage::value_variants() {
        match stages::target(*stage) {
            None if *stage == Stage::Fused => {
                let contents = renderer.files(*stage)?.into_iter().flat_map(|file| file.contents).collect();
                own.push(one(Some(*stage), None, format!("{target}-fused.txt"), contents));
            }
            Some(of) if of == target => {
                own.push(Unnumbered {
                    stage: Some(stages::name(*stage)),
                    pass: None,
                    target: Some(target),
                    name: stages::name(*stage),
                    folder: true,
                    files: Part::distinct(renderer.files(*stage)?, program),
                });
            }
            _ => {}
        }
    }
    let kernels = kernels.iter().map(|id| kernel(&compiled.program, *id, target)).collect();
    Ok(OfTarget { graphs, own, kernels, text: program.target.to_string() })
}

fn kernel(program: &Program, id: KernelId, target: Target) -> Kernel {
    let kernel = &program.kernels[id];
    let stats = kernel_stats(program, kernel);
    let from = &kernel.provenance;
    Kernel {
        target: target.to_string(),
        name: kernel.name.clone(),
        archetype: kernel.kind.archetype(),
        stage: program.stages.iter().position(|(_, to)| id.0 < *to).unwrap_or(0),
        flops: stats.flops,
        bytes: stats.bytes(),
        nodes: from.nodes.iter().map(|n| n.0).collect(),
        recomputed: from.recomputed.iter().map(|n| n.0).collect(),
        graph: String::new(),
        scopes: from.scopes.clone(),
        lines: provenance::lines(from),
        code: Vec::new(),
    }
}

/// The parts of an older manifest that matter here.
#[derive(Deserialize)]
struct Older {
    format: String,
    files: Vec<OlderEntry>,
}

#[derive(Deserialize)]
struct OlderEntry {
    path: String,
}

/// Removes an older dump from `out`. Errors: the directory holds something else.
fn clear(out: &Path) -> Result<()> {
    let foreign = || {
        Error::input(format!(
            "{} holds files that are no dump of tinygpt: name an empty or new directory with -o",
            out.display()
        ))
    };
    let mut entries = match std::fs::read_dir(out) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::reading(out, e)),
    };
    if entries.next().is_none() {
        return Ok(());
    }
    let manifest = out.join(MANIFEST);
    let text = std::fs::read_to_string(&manifest).map_err(|_| foreign())?;
    let older: Older = serde_json::from_str(&text).map_err(|_| foreign())?;
    let inside = |path: &str| Path::new(path).components().all(|c| matches!(c, Component::Normal(_)));
    if older.format != FORMAT || !older.files.iter().all(|file| inside(&file.path)) {
        return Err(foreign());
    }
    for path in older.files.iter().map(|file| file.path.as_str()).chain([MANIFEST]) {
        match std::fs::remove_file(out.join(path)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::writing(&out.join(path), e)),
            _ => {}
        }
    }
    // Folders of code that are empty now; others hold something of the user's.
    for folder in older.files.iter().filter_map(|file| Some(file.path.split_once('/')?.0)) {
        let _ = std::fs::remove_dir(out.join(folder));
    }
    Ok(())
}
