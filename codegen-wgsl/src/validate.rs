//! naga's verdict on emitted text, and the same module as SPIR-V, MSL and HLSL.

use crate::caps::Caps;
use crate::error::{Error, refuse};
use naga::back::{hlsl, msl, spv};
use naga::valid::{Capabilities, ModuleInfo, ShaderStages, SubgroupOperationSet, ValidationFlags, Validator};

/// What naga makes of a module: its own form of it, and what validation found out.
pub type Validated = (naga::Module, ModuleInfo);

/// Parses and validates `source` (of [`Dialect::Naga`](crate::Dialect)) for an adapter with `caps`.
///
/// Errors: naga's message, with the lines it is about.
pub fn validate(source: &str, caps: &Caps) -> Result<Validated, Error> {
    let mut capabilities = Capabilities::empty();
    capabilities.set(Capabilities::SHADER_FLOAT16, caps.f16);
    capabilities.set(Capabilities::COOPERATIVE_MATRIX, caps.cooperative.is_some());
    capabilities.set(Capabilities::SUBGROUP, caps.subgroups.is_some());
    let options = naga::front::wgsl::Options { parse_doc_comments: false, capabilities };
    let module = match naga::front::wgsl::Frontend::new_with_options(options).parse(source) {
        Ok(module) => module,
        Err(e) => return refuse(format!("naga cannot parse the module: {}", e.emit_to_string(source))),
    };
    let mut validator = Validator::new(ValidationFlags::all(), capabilities);
    if caps.subgroups.is_some() {
        validator.subgroup_stages(ShaderStages::COMPUTE);
        validator.subgroup_operations(SubgroupOperationSet::all());
    }
    match validator.validate(&module) {
        Ok(info) => Ok((module, info)),
        Err(e) => refuse(format!("naga refuses the module: {}", e.emit_to_string(source))),
    }
}

/// The module as SPIR-V 1.3 words: every entry point, no bounds checks, workgroup memory not zeroed.
pub fn spirv(module: &naga::Module, info: &ModuleInfo) -> Result<Vec<u32>, Error> {
    let options = spv::Options {
        lang_version: (1, 3),
        zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
        force_loop_bounding: false,
        ..Default::default()
    };
    spv::write_vec(module, info, &options, None).or_else(|e| refuse(format!("naga cannot write SPIR-V: {e}")))
}

/// The module in the Metal Shading Language 2.4.
pub fn msl(module: &naga::Module, info: &ModuleInfo) -> Result<String, Error> {
    let options = msl::Options {
        lang_version: (2, 4),
        zero_initialize_workgroup_memory: false,
        force_loop_bounding: false,
        ..Default::default()
    };
    let written = msl::write_string(module, info, &options, &msl::PipelineOptions::default());
    written.map(|(text, _)| text).or_else(|e| refuse(format!("naga cannot write MSL: {e}")))
}

/// The module in HLSL, shader model 6.2.
pub fn hlsl(module: &naga::Module, info: &ModuleInfo) -> Result<String, Error> {
    let options = hlsl::Options {
        shader_model: hlsl::ShaderModel::V6_2,
        zero_initialize_workgroup_memory: false,
        restrict_indexing: false,
        force_loop_bounding: false,
        ..Default::default()
    };
    let mut text = String::new();
    let pipeline = hlsl::PipelineOptions::default();
    let written = hlsl::Writer::new(&mut text, &options, &pipeline).write(module, info, None);
    written.or_else(|e| refuse(format!("naga cannot write HLSL: {e}")))?;
    Ok(text)
}
