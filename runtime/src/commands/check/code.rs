//! The steps that generate code: its text, or whether what it computes is right.

use crate::compile::cpu_options;
use crate::config::Isa;
use crate::cpu::CpuExecutor;
use crate::executor::Executor;
use crate::interp::to_f64;
use crate::tensor::{HostData, HostTensor};
use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;
use tinygpt_codegen_cpu::compile::{CpuOptions, PreparedProgram};
use tinygpt_codegen_cpu::wasm::{self, WasmOptions};
use tinygpt_codegen_wgsl::{Caps, Dialect, emit, pieces, validate, variants};
use tinygpt_ir::interp::{Keep, eval_keeping};
use tinygpt_ir::program::{KernelId, Program};
use tinygpt_ir::random::random_inputs;
use tinygpt_ir::{DType, Graph, Tensor};

/// Largest error of an element, as a share of the largest magnitude that the graph computes on the way: what f32 rounding of some hundred
/// operations may add up to.
const TOLERANCE: f64 = 5e-6;

/// The shaders of all kernels in their default variants, validated; of equal ones the first has the code.
pub(super) fn wgsl(program: &Program) -> String {
    let caps = Caps::webgpu();
    let mut shown: HashMap<u64, String> = HashMap::new();
    let mut text = String::new();
    for kernel in program.kernels.values() {
        match shaders(program, kernel, &caps, &mut shown) {
            Ok(shaders) => text += &shaders,
            Err(e) => {
                let _ = writeln!(text, "error: {e}");
            }
        }
    }
    text
}

fn shaders(
    program: &Program,
    kernel: &tinygpt_ir::program::Kernel,
    caps: &Caps,
    shown: &mut HashMap<u64, String>,
) -> Result<String, tinygpt_codegen_wgsl::Error> {
    let mut text = String::new();
    for piece in pieces(program, kernel, caps)? {
        let Some(variant) = variants(&piece, caps).into_iter().next() else { continue };
        let module = emit(&piece, caps, &variant)?;
        validate(&module.source(Dialect::Naga), caps)?;
        match shown.get(&module.hash) {
            Some(first) => {
                let _ = write!(text, "{}// the code of {first}\n\n", module.header);
            }
            None => {
                let _ = write!(text, "{}\n\n", module.source(Dialect::Browser).trim_end());
                shown.insert(module.hash, module.name.clone());
            }
        }
    }
    Ok(text)
}

/// The functions of all kernels for the least processor of x86-64, without templates; of equal ones the first has the code. None on other
/// machines. The calling convention, which is the operating system's, is spelled `platform`.
pub(super) fn clif(program: &Program) -> Option<String> {
    if !cfg!(target_arch = "x86_64") {
        return None;
    }
    let options = CpuOptions { baseline: true, texts: true, ..CpuOptions::default() };
    let prepared = match PreparedProgram::new(program, &options) {
        Ok(prepared) => prepared,
        Err(e) => return Some(format!("error: {e}")),
    };
    let mut text = String::new();
    let mut shown: HashMap<KernelId, &str> = HashMap::new();
    for (id, kernel) in program.kernels.iter() {
        let _ = writeln!(text, "; kernel {}", kernel.name);
        match shown.get(&prepared.same_code_as(id)) {
            Some(first) => {
                let _ = writeln!(text, "; the code of {first}\n");
            }
            None => {
                shown.insert(prepared.same_code_as(id), &kernel.name);
                let _ = write!(text, "{}\n\n", prepared.clif_text(id).trim_end());
            }
        }
    }
    for convention in ["system_v", "windows_fastcall", "apple_aarch64"] {
        text = text.replace(&format!(" {convention} {{"), " platform {");
    }
    Some(text)
}

/// The WebAssembly functions of all kernels, without relaxed SIMD and threads; of equal ones the first has the code.
pub(super) fn wat(program: &Program) -> String {
    let options = WasmOptions { threads: false, max_threads: 1, ..WasmOptions::default() };
    let module = match wasm::module(&[wasm::Entry { name: "step", program }], &options) {
        Ok(module) => module,
        Err(e) => return format!("error: {e}"),
    };
    let mut text = String::new();
    let mut shown: HashMap<String, &str> = HashMap::new();
    for (id, kernel) in program.kernels.iter() {
        let code = module.kernel_wat(0, id);
        let (comments, functions): (Vec<&str>, Vec<&str>) = code.lines().partition(|line| line.starts_with(";;"));
        let functions = functions.join("\n");
        let _ = writeln!(text, "{}", comments.join("\n"));
        match shown.get(&functions) {
            Some(first) => {
                let _ = writeln!(text, ";; the code of {first}\n");
            }
            None => {
                let _ = write!(text, "{}\n\n", functions.trim_end());
                shown.insert(functions, &kernel.name);
            }
        }
    }
    text
}

/// Whether the program, with generated code alone and with this machine's templates, computes what the interpreter makes of `meaning`, on
/// random inputs of this seed: one line a result.
///
/// Errors: a parameter of a type that is not exchanged.
pub(super) fn run(program: &Program, meaning: &Graph, seed: u64) -> Result<String, String> {
    let params: Vec<Tensor> = meaning
        .params
        .values()
        .zip(random_inputs(meaning, seed))
        .map(|(p, data)| {
            let round = |x: &f64| if p.ty.dtype == DType::F32 { f64::from(*x as f32) } else { *x };
            Tensor::new(p.ty.clone(), data.iter().map(round).collect()).map_err(|e| e.to_string())
        })
        .collect::<Result<_, _>>()?;
    let expected = eval_keeping(meaning, &params, Keep::All).map_err(|e| e.to_string())?;
    let largest = |t: &Tensor| t.data.iter().filter(|x| x.is_finite()).fold(0.0f64, |m, x| m.max(x.abs()));
    let floats = expected.values.iter().flatten().filter(|t| t.ty.dtype.is_float());
    let scale = floats.map(largest).fold(1.0, f64::max);
    let outputs = expected.outputs.iter().map(|(name, want)| (name.as_str(), "output", want));
    let states = expected.updates.iter().map(|(p, want)| (meaning.params[*p].name.as_str(), "state", want));
    let results: Vec<(&str, &str, &Tensor)> = outputs.chain(states).collect();
    let mut verdicts = vec![String::from("agrees"); results.len()];
    for (isa, code) in [(Some(Isa::Portable), "generated code"), (None, "templates")] {
        let options = cpu_options(isa, false).map_err(|e| e.to_string())?;
        let mut executor = CpuExecutor::new(Arc::new(program.clone()), &options, 1).map_err(|e| e.to_string())?;
        for (p, value) in meaning.params.values().zip(&params) {
            // An input that nothing reads is no part of the program.
            if program.param_named(&p.name).is_some() {
                executor.write(&p.name, &host(value)?).map_err(|e| e.to_string())?;
            }
        }
        executor.step().map_err(|e| e.to_string())?;
        for ((name, _, want), verdict) in results.iter().zip(&mut verdicts) {
            let found = to_f64(&executor.read(name).map_err(|e| e.to_string())?);
            let equal = |a: f64, b: f64| a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= TOLERANCE * scale;
            if let Some(i) = (0..found.len()).find(|i| !equal(want.data[*i], found[*i])) {
                *verdict =
                    format!("differs: {code} gives {} at element {i}, the interpreter {}", found[i], want.data[i]);
            }
        }
    }
    let lines =
        results.iter().zip(verdicts).map(|((name, kind, t), verdict)| format!("{kind} {name} : {} {verdict}", t.ty));
    Ok(lines.collect::<Vec<_>>().join("\n"))
}

fn host(t: &Tensor) -> Result<HostTensor, String> {
    let data = match t.ty.dtype {
        DType::F32 => HostData::F32(t.data.iter().map(|x| *x as f32).collect()),
        DType::I32 => HostData::I32(t.data.iter().map(|x| *x as i32).collect()),
        DType::U32 => HostData::U32(t.data.iter().map(|x| *x as u32).collect()),
        DType::Bool => HostData::Bool(t.data.iter().map(|x| *x != 0.0).collect()),
        DType::F16 => return Err("`run` exchanges f32, i32, u32 and bool, and found f16: cast it in the graph".into()),
    };
    HostTensor::new(&t.ty.shape, data).map_err(|e| e.to_string())
}
