//! The vector loop IR to machine code, through Cranelift.
//!
//! A [`Jit`] takes functions; [`Jit::finish`] makes them executable and gives the immutable [`Code`]. Every
//! function has one signature, [`KernelFn`]:
//!
//! ```text
//! extern "C" fn(bufs: *const *mut u8, scratch: *mut u8, params: *const i64)
//! ```
//! - `bufs[i]` is the address of element 0 of buffer `i`, 4-byte aligned; two buffers may be the same memory
//! - `scratch` is memory of the calling thread, 64-byte aligned, of the size [`Func::scratch_layout`] gives; may
//!   be anything if that is 0
//! - `params[i]` is index parameter `i`
//!
//! Invariants:
//! - Emitted code does exactly the accesses of the function: no bounds checks, no traps, and no calls except
//!   to the row table. What is in bounds is the business of whoever built the function, with the interpreter
//!   as judge.
//! - Loops are tested at the bottom; address parts that do not change in a loop are computed before it.
//! - A fused multiply-add is an instruction where the instruction set has it and a multiplication and an
//!   addition elsewhere: [`Code::fused`]. There are no library calls.
//! - The texts ([`Code::clif_text`], [`Code::asm_text`]) name row functions by symbol and hold no addresses.
//! - Functions of equal structure ([`Func::structure`]) are compiled once.
//! - With [`Options::wide`], independent loops are calls of functions that [`crate::wide`] makes; without, they are loops, and a
//!   function that has one with an operation [`Op::Row`] is refused.

mod emit;
mod pointers;
#[cfg(test)]
mod tests;

use crate::wide;
use cranelift_codegen::isa::{self, CallConv, OwnedTargetIsa};
use cranelift_codegen::settings::{self, Configurable};
use cranelift_codegen::{Context, ir};
use cranelift_frontend::FunctionBuilderContext;
use cranelift_jit::{JITBuilder, JITModule};
use cranelift_module::{FuncId, Linkage, Module};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use tinygpt_vloop::{Func, Op, RowFn, Stmt};

/// Alignment in bytes of wide functions: a cache line.
const WIDE_ALIGN: usize = 64;

/// A compiled function. See the module comment for the arguments.
pub type KernelFn = unsafe extern "C" fn(bufs: *const *mut u8, scratch: *mut u8, params: *const i64);

/// A row function: `dst[i] = f(src[i])` for `i` in `0..n`; `dst` may equal `src`.
pub type RowPtr = unsafe extern "C" fn(src: *const f32, dst: *mut f32, n: usize);

/// The row functions that emitted code may call.
#[derive(Clone, Copy)]
pub struct RowTable {
    pub exp: RowPtr,
    pub log: RowPtr,
    pub tanh: RowPtr,
    pub erf: RowPtr,
    pub sin: RowPtr,
    pub cos: RowPtr,
}

impl RowTable {
    pub fn get(&self, function: RowFn) -> RowPtr {
        match function {
            RowFn::Exp => self.exp,
            RowFn::Log => self.log,
            RowFn::Tanh => self.tanh,
            RowFn::Erf => self.erf,
            RowFn::Sin => self.sin,
            RowFn::Cos => self.cos,
        }
    }
}

/// The instruction set to compile for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// All that this machine has (that Cranelift uses: 128-bit vectors at most on x86-64).
    Host,
    /// The least of this architecture: on x86-64 no SSE3, no AVX, no fused multiply-add.
    Baseline,
}

/// How to compile.
#[derive(Clone, Copy)]
pub struct Options {
    pub target: Target,
    /// Row functions for [`Stmt::CallRow`]; without them a function that has one is refused.
    pub rows: Option<RowTable>,
    /// Make independent loops functions of AVX-512F instructions; [`wide_loops`] says whether this machine runs them.
    pub wide: bool,
    /// Keep CLIF and machine code as text (compiles slower).
    pub texts: bool,
}

impl Default for Options {
    /// For this machine, no row functions, no wide loops, no texts.
    fn default() -> Options {
        Options { target: Target::Host, rows: None, wide: false, texts: false }
    }
}

/// Why a function cannot be compiled.
#[derive(Debug, thiserror::Error)]
pub enum JitError {
    #[error("this machine cannot run generated code ({0}); use the interpreter")]
    Host(String),
    #[error("{0}")]
    IllFormed(#[from] tinygpt_vloop::Error),
    #[error(
        "function `{func}` calls row function {row}, but the code generator was given no row functions; give them or lower without"
    )]
    NoRows { func: String, row: &'static str },
    #[error(
        "function `{func}` has a loop with {row} as one operation, but wide loops are off; turn them on or lower without independent loops"
    )]
    NoWide { func: String, row: &'static str },
    #[error("the system refused {bytes} bytes of executable memory for wide loops: {error}")]
    Memory { bytes: usize, error: std::io::Error },
    #[error("Cranelift refuses function `{func}`: {message}; this is a bug of the code generator")]
    Cranelift { func: String, message: String },
}

/// A compiled function of a [`Jit`] and of the [`Code`] made from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CodeId(u32);

struct Entry {
    func_id: FuncId,
    clif: Option<String>,
    asm: Option<String>,
}

/// Compiles functions. What they compile to cannot be called before [`Jit::finish`].
pub struct Jit {
    module: JITModule,
    options: Options,
    fused: bool,
    context: Context,
    frontend: FunctionBuilderContext,
    entries: Vec<Entry>,
    /// Compiled functions by structure.
    known: HashMap<Func, CodeId>,
    /// Wide functions by symbol.
    wide: Vec<(String, Vec<u8>)>,
    /// Where the wide functions are; filled by `finish`, before Cranelift asks.
    wide_addresses: Arc<Mutex<HashMap<String, usize>>>,
}

/// Executable functions. Their memory is freed with it.
pub struct Code {
    /// Only taken by `drop`.
    module: Option<JITModule>,
    /// The wide functions, which `kernels` call.
    _wide: Option<memmap2::Mmap>,
    kernels: Vec<KernelFn>,
    entries: Vec<Entry>,
    fused: bool,
}

impl Jit {
    pub fn new(options: Options) -> Result<Jit, JitError> {
        let isa = build_isa(options.target).map_err(JitError::Host)?;
        let fused = has_fma(&*isa);
        // No function is ever resolved as a library call: `emit` produces none.
        let mut builder = JITBuilder::with_isa(isa, Box::new(|call| format!("no library call {call}")));
        if let Some(rows) = &options.rows {
            for &function in RowFn::ALL {
                builder.symbol(row_symbol(function), rows.get(function) as *const u8);
            }
        }
        let wide_addresses: Arc<Mutex<HashMap<String, usize>>> = Arc::default();
        let addresses = wide_addresses.clone();
        builder.symbol_lookup_fn(Box::new(move |symbol| {
            let addresses = addresses.lock().unwrap_or_else(PoisonError::into_inner);
            addresses.get(symbol).map(|address| std::ptr::with_exposed_provenance(*address))
        }));
        let module = JITModule::new(builder);
        let context = module.make_context();
        Ok(Jit {
            module,
            options,
            fused,
            context,
            frontend: FunctionBuilderContext::new(),
            entries: Vec::new(),
            known: HashMap::new(),
            wide: Vec::new(),
            wide_addresses,
        })
    }

    /// Whether `Fma` is fused (rounded once) in the emitted code.
    pub fn fused(&self) -> bool {
        self.fused
    }

    /// Compiles `func`, or finds it compiled already.
    pub fn compile(&mut self, func: &Func) -> Result<CodeId, JitError> {
        tinygpt_vloop::verify(func)?;
        let structure = func.structure();
        if let Some(&id) = self.known.get(&structure) {
            return Ok(id);
        }
        let id = CodeId(self.entries.len() as u32);
        let result = self.define(func, id);
        self.module.clear_context(&mut self.context);
        self.entries.push(result?);
        self.known.insert(structure, id);
        Ok(id)
    }

    fn define(&mut self, func: &Func, id: CodeId) -> Result<Entry, JitError> {
        let refuse = |message: String| JitError::Cranelift { func: func.name.clone(), message };
        let pointer = self.module.target_config().pointer_type();
        let mut signature = self.module.make_signature();
        signature.params = vec![ir::AbiParam::new(pointer); 3];
        let symbol = format!("kernel{}", id.0);
        let func_id =
            self.module.declare_function(&symbol, Linkage::Local, &signature).map_err(|e| refuse(e.to_string()))?;

        self.context.func.signature = signature;
        self.context.func.name = ir::UserFuncName::user(0, func_id.as_u32());
        let target =
            emit::Target { fma: self.fused, round: has_round(self.module.isa()), config: self.module.target_config() };
        let mut row_refs = BTreeMap::new();
        for row in called_rows(func) {
            let id = self.declare_row(func, row)?;
            row_refs.insert(row, self.module.declare_func_in_func(id, &mut self.context.func));
        }
        let (independent, is_wide) = (wide::loops(func), self.options.wide);
        if !is_wide && let Some(row) = independent.iter().find_map(|(_, body)| row_operation(body)) {
            return Err(JitError::NoWide { func: func.name.clone(), row: row.name() });
        }
        let mut wide_loops = Vec::new();
        let mut wide_text = String::new();
        let (scratch_offsets, _) = func.scratch_layout();
        for (i, (var, body)) in independent.into_iter().enumerate().filter(|_| is_wide) {
            let wide = wide::compile(func, var, body, &scratch_offsets);
            let id = self.declare_wide(func)?;
            let code = self.module.declare_func_in_func(id, &mut self.context.func);
            wide_text.push_str(&format!("wide{i}:\n{}", wide.text));
            self.wide.push((wide_symbol(self.wide.len()), wide.code));
            wide_loops.push(emit::WideLoop { code, pointers: wide.pointers, scalars: wide.scalars });
        }
        emit::emit(func, target, &row_refs, &wide_loops, &mut self.context.func, &mut self.frontend);

        let clif = self.options.texts.then(|| clif_text(func, &self.context.func, &row_refs, &wide_loops));
        self.context.set_disasm(self.options.texts);
        self.module.define_function(func_id, &mut self.context).map_err(|e| refuse(format!("{e:?}")))?;
        let asm = match self.context.compiled_code() {
            Some(code) => code.vcode.clone().map(|text| text + &wide_text),
            None => None,
        };
        Ok(Entry { func_id, clif, asm })
    }

    /// The next wide function, imported: see [`crate::wide`] for its arguments.
    fn declare_wide(&mut self, func: &Func) -> Result<FuncId, JitError> {
        let mut signature = self.module.make_signature();
        signature.call_conv = CallConv::SystemV;
        signature.params = vec![ir::AbiParam::new(ir::types::I64); 3];
        self.module
            .declare_function(&wide_symbol(self.wide.len()), Linkage::Import, &signature)
            .map_err(|e| JitError::Cranelift { func: func.name.clone(), message: e.to_string() })
    }

    /// Puts the wide functions into executable memory and says where they are.
    fn place_wide(&mut self) -> Result<Option<memmap2::Mmap>, JitError> {
        let bytes = self.wide.iter().map(|(_, code)| code.len().next_multiple_of(WIDE_ALIGN)).sum();
        if bytes == 0 {
            return Ok(None);
        }
        let refuse = |error| JitError::Memory { bytes, error };
        let mut map = memmap2::MmapMut::map_anon(bytes).map_err(refuse)?;
        let mut addresses = self.wide_addresses.lock().unwrap_or_else(PoisonError::into_inner);
        let mut at = 0;
        for (symbol, code) in &self.wide {
            map[at..at + code.len()].copy_from_slice(code);
            addresses.insert(symbol.clone(), map[at..].as_ptr().expose_provenance());
            at += code.len().next_multiple_of(WIDE_ALIGN);
        }
        // The memory stays where it is.
        Ok(Some(map.make_exec().map_err(refuse)?))
    }

    /// The imported row function.
    fn declare_row(&mut self, func: &Func, row: RowFn) -> Result<FuncId, JitError> {
        if self.options.rows.is_none() {
            return Err(JitError::NoRows { func: func.name.clone(), row: row.name() });
        }
        let pointer = self.module.target_config().pointer_type();
        let mut signature = self.module.make_signature();
        signature.params = vec![ir::AbiParam::new(pointer); 3];
        self.module
            .declare_function(&row_symbol(row), Linkage::Import, &signature)
            .map_err(|e| JitError::Cranelift { func: func.name.clone(), message: e.to_string() })
    }

    /// Makes everything compiled so far executable.
    pub fn finish(mut self) -> Result<Code, JitError> {
        let wide = self.place_wide()?;
        self.module.finalize_definitions().map_err(|e| JitError::Host(e.to_string()))?;
        let kernels = self
            .entries
            .iter()
            .map(|e| {
                let code = self.module.get_finalized_function(e.func_id);
                // SAFETY: `code` is the entry of a finalized function that `define` gave the signature of
                // `KernelFn`, in the host's default C calling convention.
                unsafe { std::mem::transmute::<*const u8, KernelFn>(code) }
            })
            .collect();
        Ok(Code { module: Some(self.module), _wide: wide, kernels, entries: self.entries, fused: self.fused })
    }
}

impl Code {
    /// The function. It may be called, from any thread, as long as this `Code` lives.
    pub fn get(&self, id: CodeId) -> KernelFn {
        self.kernels[id.0 as usize]
    }

    /// Whether `Fma` is fused in this code.
    pub fn fused(&self) -> bool {
        self.fused
    }

    /// The Cranelift IR, as emitted (before Cranelift's optimizations), if texts were asked for.
    pub fn clif_text(&self, id: CodeId) -> Option<&str> {
        self.entries[id.0 as usize].clif.as_deref()
    }

    /// The machine instructions, if texts were asked for.
    pub fn asm_text(&self, id: CodeId) -> Option<&str> {
        self.entries[id.0 as usize].asm.as_deref()
    }
}

impl Drop for Code {
    fn drop(&mut self) {
        if let Some(module) = self.module.take() {
            // SAFETY: callers of a `KernelFn` keep this `Code` alive during the call and do not call it later
            // (contract of `Code::get`).
            unsafe { module.free_memory() };
        }
    }
}

// SAFETY: the module is not touched between `finish` and `drop`; what threads share is finalized code, function
// pointers and texts, all immutable. (JITModule itself is Send but not Sync because of lookup caches.)
unsafe impl Sync for Code {}

/// The row functions that `func` calls, in order, each once.
fn called_rows(func: &Func) -> BTreeSet<RowFn> {
    fn collect(body: &[Stmt], rows: &mut BTreeSet<RowFn>) {
        for s in body {
            match s {
                Stmt::CallRow { function, .. } => {
                    rows.insert(*function);
                }
                Stmt::For { body, .. } => collect(body, rows),
                Stmt::If { then, els, .. } => {
                    collect(then, rows);
                    collect(els, rows);
                }
                Stmt::Set(..) | Stmt::Store { .. } | Stmt::Comment(_) => {}
            }
        }
    }
    let mut rows = BTreeSet::new();
    collect(&func.body, &mut rows);
    rows
}

/// The first operation [`Op::Row`] of an independent loop.
fn row_operation(body: &[Stmt]) -> Option<RowFn> {
    body.iter().find_map(|s| match s {
        Stmt::Set(_, Op::Row(function, _)) => Some(*function),
        _ => None,
    })
}

/// Whether this machine runs wide loops.
pub fn wide_loops() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("avx512f");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

fn wide_symbol(number: usize) -> String {
    format!("wide{number}")
}

fn row_symbol(function: RowFn) -> String {
    format!("row_{}", function.name())
}

/// Cranelift's mid-end is off (`opt_level` none): it places pure operations just before their first use, which
/// for accumulators is the end of the loop body, so that all loads of an unrolled body are live at once and
/// spill (a 4x8 product tile unrolled by 4: 23 GFLOP/s with it, 50 without; examples/clif_bench.rs).
/// Instructions stay in the order of the function; address arithmetic, the one thing that the mid-end would
/// improve, is done by [`pointers`].
fn build_isa(target: Target) -> Result<OwnedTargetIsa, String> {
    let mut flags = settings::builder();
    for (name, value) in [
        ("opt_level", "none"),
        ("is_pic", "false"),
        ("use_colocated_libcalls", "false"),
        ("unwind_info", "false"),
        // Ours ran already; the tests check that Cranelift's agrees.
        ("enable_verifier", if cfg!(test) { "true" } else { "false" }),
    ] {
        flags.set(name, value).map_err(|e| e.to_string())?;
    }
    let builder = match target {
        Target::Host => cranelift_native::builder().map_err(str::to_string)?,
        Target::Baseline => {
            let host = cranelift_native::builder().map_err(str::to_string)?;
            isa::lookup(host.triple().clone()).map_err(|e| e.to_string())?
        }
    };
    builder.finish(settings::Flags::new(flags)).map_err(|e| e.to_string())
}

fn has_isa_flag(isa: &dyn isa::TargetIsa, name: &str) -> bool {
    isa.isa_flags().iter().any(|f| f.name == name && f.as_bool() == Some(true))
}

/// Whether a multiply-add of f32 and f32x4 is one instruction.
fn has_fma(isa: &dyn isa::TargetIsa) -> bool {
    match isa.name() {
        "x64" => has_isa_flag(isa, "has_fma"),
        other => other == "aarch64",
    }
}

/// Whether rounding f32 and f32x4 to an integral value is one instruction.
fn has_round(isa: &dyn isa::TargetIsa) -> bool {
    match isa.name() {
        "x64" => has_isa_flag(isa, "has_sse41"),
        other => other == "aarch64",
    }
}

/// The CLIF of `func`, with the kernel, the row functions and the wide functions under their names; of the last, their number in `func`.
fn clif_text(
    func: &Func,
    clif: &ir::Function,
    rows: &BTreeMap<RowFn, ir::FuncRef>,
    wide_loops: &[emit::WideLoop],
) -> String {
    let mut named = clif.clone();
    named.name = ir::UserFuncName::testcase(&func.name);
    for (&row, &func_ref) in rows {
        named.dfg.ext_funcs[func_ref].name = ir::ExternalName::testcase(row_symbol(row));
    }
    for (i, wide) in wide_loops.iter().enumerate() {
        named.dfg.ext_funcs[wide.code].name = ir::ExternalName::testcase(wide_symbol(i));
    }
    let mut text = String::new();
    for line in &func.comments {
        text.push_str(&format!("; {line}\n"));
    }
    text.push_str(&named.display().to_string());
    text
}
