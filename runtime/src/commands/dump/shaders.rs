//! The GPU stages of `dump`: WGSL, and what naga makes of it for Vulkan, Metal and DirectX.
//!
//! No adapter is needed: code depends on capabilities, which are a value. Everything shown has passed naga's validation.

use super::lines;
use super::stages::{File, Options, file_name};
use crate::cli::Stage;
use crate::error::one_line;
use crate::provenance::traced;
use crate::{Error, Result};
use rayon::prelude::*;
use std::collections::{HashMap, HashSet};
use tinygpt_codegen_wgsl::validate::{Validated, hlsl, msl, spirv};
use tinygpt_codegen_wgsl::{Bundle, Caps, Choice, Dialect, Module, bundles, validate};
use tinygpt_ir::program::{KernelId, Program};

/// The modules of some kernels; each distinct one validated once for all stages.
pub(super) struct Shaders {
    /// In the order in which they run, with their kernels; a kernel over much memory has several.
    modules: Vec<(Vec<KernelId>, Module)>,
    /// By hash: which module has this code first, and naga's reading of it.
    distinct: HashMap<u64, (usize, Validated)>,
}

impl Shaders {
    /// Emits the modules in their planned variants, else their defaults. Errors: a kernel that fits no such GPU.
    pub fn new(program: &Program, options: &Options, kernels: &[KernelId]) -> Result<Shaders> {
        let refused = |e: tinygpt_codegen_wgsl::Error| Error::input(traced(program, e));
        let chosen: HashSet<KernelId> = kernels.iter().copied().collect();
        let all = bundles(program, &options.caps).map_err(refused)?;
        let per_bundle: Vec<Vec<(Vec<KernelId>, Module)>> = all
            .par_iter()
            .filter(|bundle| bundle.pieces.iter().any(|(id, _)| chosen.contains(id)))
            .map(|bundle| Ok(bundle.with_kernels(planned(program, bundle, options)?)))
            .collect::<Result<_>>()?;
        let mut modules: Vec<(Vec<KernelId>, Module)> = per_bundle.into_iter().flatten().collect();
        modules.retain(|(ids, _)| ids.iter().any(|id| chosen.contains(id)));
        let mut first: HashMap<u64, usize> = HashMap::new();
        for (at, (_, module)) in modules.iter().enumerate() {
            first.entry(module.hash).or_insert(at);
        }
        let distinct = first.into_par_iter().map(|(hash, at)| Ok((hash, (at, valid(&modules[at].1, &options.caps)?))));
        let distinct = distinct.collect::<Result<_>>()?;
        Ok(Shaders { modules, distinct })
    }

    /// One file a module.
    pub fn files(&self, program: &Program, stage: Stage, options: &Options) -> Result<Vec<File>> {
        let mark = if stage == Stage::Spv { "; " } else { "// " };
        let code: HashMap<u64, String> = self
            .distinct
            .par_iter()
            .map(|(hash, (at, valid))| Ok((*hash, code(&self.modules[*at].1, valid, stage)?)))
            .collect::<Result<_>>()?;
        let file = |at: usize, (ids, module): &(Vec<KernelId>, Module)| {
            let (first, _) = self.distinct[&module.hash];
            let mut text = String::new();
            let mut header = module.header.lines();
            if let Some(title) = header.next() {
                text += &format!("{title}\n");
            }
            if options.lines {
                for id in ids {
                    text += &lines::comment("// from ", &program.kernels[*id].provenance);
                }
            }
            header.for_each(|line| text += &format!("{line}\n"));
            if first != at {
                text += &format!("// the code of {}\n", self.modules[first].1.name);
            }
            let mut text = text.replace("// ", mark);
            if first == at || options.whole {
                text += code[&module.hash].trim_end();
                text += "\n";
            }
            if !options.whole {
                text += "\n";
            }
            let same_as = (first != at).then(|| file_name(&self.modules[first].1.name, stage));
            File { name: file_name(&module.name, stage), kernels: ids.clone(), same_as, contents: text.into_bytes() }
        };
        Ok(self.modules.iter().enumerate().map(|(at, module)| file(at, module)).collect())
    }
}

/// The modules of a bundle as planned, else as its default.
fn planned(program: &Program, bundle: &Bundle, options: &Options) -> Result<Vec<Module>> {
    let emit = |choice: &Choice| bundle.emit(&options.caps, choice).map_err(|e| Error::input(traced(program, e)));
    let name = &bundle.pieces[0].1.name;
    let first = bundle.choices.first().ok_or_else(|| Error::failed(format!("kernel {name} has no variant")))?;
    let default = emit(first)?;
    match options.plan.get(&default[0].hash) {
        Some(choice) if choice != first => emit(choice),
        _ => Ok(default),
    }
}

fn invalid(name: &str, e: &tinygpt_codegen_wgsl::Error) -> Error {
    Error::failed(format!("kernel {name} is no valid shader, which is a fault of tinygpt: {}", one_line(e)))
}

fn valid(module: &Module, caps: &Caps) -> Result<Validated> {
    validate(&module.source(Dialect::Naga), caps).map_err(|e| invalid(&module.name, &e))
}

/// The code of a module without its header.
fn code(module: &Module, (read, info): &Validated, stage: Stage) -> Result<String> {
    let invalid = |e: tinygpt_codegen_wgsl::Error| invalid(&module.name, &e);
    match stage {
        Stage::Spv => disassembled(&spirv(read, info).map_err(invalid)?, &module.name),
        Stage::Msl => msl(read, info).map_err(invalid),
        Stage::Hlsl => hlsl(read, info).map_err(invalid),
        _ => Ok(module.source(Dialect::Browser)[module.header.len()..].to_string()),
    }
}

/// SPIR-V in the form of the Khronos disassembler.
fn disassembled(words: &[u32], name: &str) -> Result<String> {
    use rspirv::binary::Disassemble;
    let module = rspirv::dr::load_words(words);
    let module =
        module.map_err(|e| Error::failed(format!("the SPIR-V of kernel {name} cannot be read: {}", one_line(e))))?;
    Ok(module.disassemble())
}
