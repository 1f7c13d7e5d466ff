//! The GPU stages of `dump`: WGSL, and what naga makes of it for Vulkan, Metal and DirectX.
//!
//! No adapter is needed: code depends on capabilities, which are a value. Everything shown has passed naga's validation.

use super::dump::Options;
use crate::cli::Stage;
use crate::error::one_line;
use crate::{Error, Result};
use std::collections::HashMap;
use tinygpt_codegen_wgsl::validate::{hlsl, msl, spirv};
use tinygpt_codegen_wgsl::{Dialect, Module, Piece, emit, pieces, validate, variants};
use tinygpt_ir::program::{KernelId, Program};

pub(super) fn is_stage(stage: Stage) -> bool {
    matches!(stage, Stage::Wgsl | Stage::Spv | Stage::Msl | Stage::Hlsl)
}

/// The shaders of each kernel. Of pieces with equal code the first has it, and the others name that one.
pub(super) fn render(
    program: &Program,
    stage: Stage,
    options: &Options,
    kernels: &[KernelId],
) -> Result<Vec<(String, String)>> {
    let (suffix, comment) = match stage {
        Stage::Spv => ("spvasm", ";"),
        Stage::Msl => ("metal", "//"),
        Stage::Hlsl => ("hlsl", "//"),
        _ => ("wgsl", "//"),
    };
    let mut shown: HashMap<u64, String> = HashMap::new();
    let mut texts = Vec::new();
    for &id in kernels {
        let kernel = &program.kernels[id];
        let mut text = String::new();
        for piece in pieces(program, kernel, &options.caps).map_err(refused)? {
            let module = module(&piece, options)?;
            match shown.get(&module.hash) {
                Some(first) => {
                    text += &module.header.replace("// ", &format!("{comment} "));
                    text += &format!("{comment} the code of {first}\n\n");
                }
                None => {
                    shown.insert(module.hash, module.name.clone());
                    text += code(&module, stage, options)?.trim_end();
                    text += "\n\n";
                }
            }
        }
        texts.push((format!("{}.{suffix}", kernel.name), text));
    }
    Ok(texts)
}

/// A piece in its planned variant, else its default.
fn module(piece: &Piece, options: &Options) -> Result<Module> {
    let all = variants(piece, &options.caps);
    let first = all.first().ok_or_else(|| Error::failed(format!("kernel {} has no variant", piece.name)))?;
    let default = emit(piece, &options.caps, first).map_err(refused)?;
    match options.plan.get(&default.hash) {
        Some(variant) if variant != first => emit(piece, &options.caps, variant).map_err(refused),
        _ => Ok(default),
    }
}

fn code(module: &Module, stage: Stage, options: &Options) -> Result<String> {
    let source = module.source(Dialect::Naga);
    let invalid = |e: tinygpt_codegen_wgsl::Error| {
        Error::failed(format!(
            "kernel {} is no valid shader, which is a fault of tinygpt: {}",
            module.name,
            one_line(e)
        ))
    };
    let (valid, info) = validate(&source, &options.caps).map_err(invalid)?;
    match stage {
        Stage::Spv => disassembled(&spirv(&valid, &info).map_err(invalid)?, &module.name),
        Stage::Msl => msl(&valid, &info).map_err(invalid),
        Stage::Hlsl => hlsl(&valid, &info).map_err(invalid),
        _ => Ok(module.source(Dialect::Browser)),
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

fn refused(e: tinygpt_codegen_wgsl::Error) -> Error {
    Error::input(e.to_string())
}
