//! A program prepared for this processor: code, templates, and the fixed list of tasks of a step.
//!
//! [`PreparedProgram::new`] lowers each distinct kernel once (kernels are equal if their kinds and argument dtypes are), compiles each
//! distinct function once, and plans the templates. [`PreparedProgram::bind`] fixes the addresses of buffers and gives a
//! [`Bound`], which runs.
//!
//! A step of the program is a list of *rounds*. Tasks of one round may run in any order and on any threads; between rounds there is
//! a barrier. A stage has as many rounds as its kernel with the most phases.
//!
//! Invariants
//! - Tasks and their order depend on the program and the options alone, never on the number of threads.
//! - Nothing is allocated by running.
//! - What a template computes, the lowered functions compute too: with `isa: None` no template is used and only speed changes.

mod bind;
mod contract;
mod template;

pub use bind::{Bound, SCRATCH_ALIGN};

use crate::clif::{self, Code, CodeId, Jit, JitError, RowTable, Target};
use crate::lower::{self, BufRef, Call, LowerOptions};
use crate::units::{Distinct, place_shared, rounds};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};
use template::Planned;
use tinygpt_ir::program::{Kernel, KernelId, Program};
use tinygpt_ir::types::DType;
use tinygpt_simd::gemm::{GemmPlan, Output, Side};
use tinygpt_simd::{Isa, rows};
use tinygpt_vloop::Func;

/// Estimated nanoseconds of work below which calls share a task.
const TASK_NS: f64 = 30_000.0;

/// How to prepare a program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuOptions {
    /// The templates to use; None for none (the portable path).
    pub isa: Option<Isa>,
    /// Compile for the least processor of the architecture instead of this one.
    pub baseline: bool,
    /// Keep CLIF and machine code as text.
    pub texts: bool,
    /// With AVX-512, keep to vectors of 128 bits in loops that could be wider. The results have the same bits.
    pub narrow_loops: bool,
}

impl CpuOptions {
    fn has_wide_loops(&self) -> bool {
        self.isa == Some(Isa::Avx512) && !self.baseline && !self.narrow_loops
    }
}

/// Why a program cannot be prepared.
#[derive(Debug, thiserror::Error)]
pub enum CodegenError {
    #[error("kernel `{kernel}` cannot be compiled: {message}")]
    Kernel { kernel: String, message: String },
    #[error(transparent)]
    Jit(#[from] JitError),
    #[error("{0}")]
    Template(String),
    #[error("{found} buffers were given and the program has {expected}: give one address a buffer")]
    Buffers { found: usize, expected: usize },
    #[error("the system refused {0} bytes of scratch for packed operands: {1}")]
    Memory(usize, std::io::Error),
}

/// What preparing did.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Report {
    pub kernels: usize,
    /// Kernels of different structure.
    pub distinct_kernels: usize,
    /// Functions generated for them.
    pub functions: usize,
    /// Functions of different structure: what was compiled.
    pub compiled: usize,
    pub lowering: Duration,
    pub compiling: Duration,
}

/// A call of generated code or of a template, not yet bound to addresses.
#[derive(Clone, Debug)]
enum Work {
    Func { code: CodeId, bufs: Arc<[BufRef]>, params: Vec<i64> },
    Pack { gemm: Arc<Gemm>, side: Side, task: usize },
    Product { gemm: Arc<Gemm>, task: usize },
    Add { sums: Arc<Sums>, rows: Range<usize> },
    Forward { attention: Arc<template::Forward>, task: usize },
    Backward { attention: Arc<template::Backward>, task: usize },
}

/// A contraction template with its epilogue.
#[derive(Debug)]
struct Gemm {
    plan: GemmPlan,
    product: template::Operands,
    /// Shared buffers of the packed left and right side; None for a side that is not packed ahead.
    packed: [Option<usize>; 2],
    epilogue: GemmEpilogue,
}

impl Gemm {
    fn operand(&self, side: Side) -> &[template::At] {
        match side {
            Side::A => &self.product.a,
            Side::B => &self.product.b,
        }
    }
}

#[derive(Debug)]
enum GemmEpilogue {
    Store {
        arg: usize,
        offset: isize,
        output: Output,
        addends: Vec<template::ElementwiseAt>,
        factor: Option<template::ElementwiseAt>,
    },
    Call {
        code: CodeId,
        bufs: Arc<[BufRef]>,
        scratch: usize,
    },
    /// Stored as they are in a shared buffer.
    Partial {
        shared: usize,
        output: Output,
    },
}

/// Partial sums of m by n that are added to an output whose rows are `ld` apart.
#[derive(Debug)]
struct Sums {
    isa: Isa,
    output: template::At,
    ld: isize,
    m: usize,
    n: usize,
    /// Shared buffers, in the order of k.
    partials: Vec<usize>,
}

/// Calls of one phase that run one after another.
#[derive(Clone, Debug)]
struct Task {
    work: Vec<Work>,
    cost: f64,
    /// Where its part of the kernel's work lies, as a share from 0 to 1: see [`Bound::position`].
    position: f64,
}

impl Task {
    fn one(work: Work, cost: f64, position: f64) -> Task {
        Task { work: vec![work], cost, position }
    }
}

/// One distinct kernel.
struct Unit {
    /// Code of the generated functions, in order.
    funcs: Vec<CodeId>,
    template: Option<String>,
    /// Lengths of shared scratch in f32.
    shared: Vec<usize>,
    /// Scratch that a worker brings, in bytes.
    scratch: usize,
    phases: Vec<Vec<Task>>,
}

/// A kernel of the program: which unit, and what its shared scratch is in the arena.
struct Prepared {
    unit: usize,
    args: Vec<usize>,
    /// Byte offsets in the arena of shared scratch.
    shared: Vec<usize>,
}

/// A prepared program. Immutable; its code is freed with it.
pub struct PreparedProgram {
    code: Code,
    units: Vec<Unit>,
    kernels: Vec<Prepared>,
    buffers: usize,
    /// (stage, phase) of each round.
    rounds: Vec<(usize, usize)>,
    stages: Vec<(u32, u32)>,
    arena: usize,
    scratch: usize,
    report: Report,
}

impl PreparedProgram {
    /// # Errors
    /// If a kernel computes in f16, the processor lacks the instruction set, or code generation fails.
    pub fn new(program: &Program, options: &CpuOptions) -> Result<PreparedProgram, CodegenError> {
        let table = options.isa.map(rows::rows).transpose().map_err(|e| CodegenError::Template(e.to_string()))?;
        let table =
            table.map(|t| RowTable { exp: t.exp, log: t.log, tanh: t.tanh, erf: t.erf, sin: t.sin, cos: t.cos });
        let target = if options.baseline { Target::Baseline } else { Target::Host };
        let wide = options.has_wide_loops();
        let mut jit = Jit::new(clif::Options { target, rows: table, wide, texts: options.texts })?;
        let mut report = Report { kernels: program.kernels.len(), ..Report::default() };
        let distinct = Distinct::new(program);
        let units: Vec<Unit> = distinct
            .units
            .iter()
            .map(|(id, dtypes)| {
                let kernel = &program.kernels[*id];
                build(kernel, dtypes, options, &mut jit, &mut report).map_err(|e| match e {
                    CodegenError::Kernel { message, .. } => {
                        CodegenError::Kernel { kernel: kernel.name.clone(), message }
                    }
                    other => other,
                })
            })
            .collect::<Result<_, _>>()?;
        let (shared, arena) = place_shared(&program.stages, |k| &units[distinct.of[k]].shared);
        let rounds = rounds(&program.stages, |k| units[distinct.of[k]].phases.len());
        let prepared = |((kernel, unit), shared): ((&Kernel, usize), Vec<usize>)| Prepared {
            unit,
            args: kernel.args.iter().map(|a| a.buffer.index()).collect(),
            shared,
        };
        let kernels = program.kernels.values().zip(distinct.of).zip(shared).map(prepared).collect();
        let start = Instant::now();
        let code = jit.finish()?;
        report.compiling += start.elapsed();
        report.distinct_kernels = units.len();
        let mut codes: Vec<CodeId> = units.iter().flat_map(|u| u.funcs.iter().copied()).collect();
        report.functions = codes.len();
        codes.sort();
        codes.dedup();
        report.compiled = codes.len();
        Ok(PreparedProgram {
            code,
            scratch: units.iter().map(|u| u.scratch).max().unwrap_or(0),
            units,
            kernels,
            buffers: program.buffers.len(),
            rounds,
            stages: program.stages.clone(),
            arena,
            report,
        })
    }

    pub fn report(&self) -> Report {
        self.report
    }

    /// Bytes of scratch that each worker brings to [`Bound::run`], aligned to [`SCRATCH_ALIGN`].
    pub fn scratch_bytes(&self) -> usize {
        self.scratch
    }

    /// Number of rounds of a step.
    pub fn rounds(&self) -> usize {
        self.rounds.len()
    }

    /// Which template computes the kernel, if one does.
    pub fn template(&self, kernel: KernelId) -> Option<&str> {
        self.unit(kernel).template.as_deref()
    }

    /// The first kernel with the same code: itself, if it is the first.
    pub fn same_code_as(&self, kernel: KernelId) -> KernelId {
        let unit = self.kernels[kernel.index()].unit;
        let first = self.kernels.iter().position(|k| k.unit == unit).expect("the kernel itself");
        KernelId(first as u32)
    }

    /// The CLIF of the functions generated for a kernel; empty unless texts were asked for.
    pub fn clif_text(&self, kernel: KernelId) -> String {
        self.texts(kernel, |code| self.code.clif_text(code))
    }

    /// The machine instructions of the functions generated for a kernel; empty unless texts were asked for.
    pub fn asm_text(&self, kernel: KernelId) -> String {
        self.texts(kernel, |code| self.code.asm_text(code))
    }

    fn texts<'a>(&self, kernel: KernelId, text: impl Fn(CodeId) -> Option<&'a str>) -> String {
        let parts: Vec<&str> = self.unit(kernel).funcs.iter().filter_map(|c| text(*c)).collect();
        parts.join("\n")
    }

    fn unit(&self, kernel: KernelId) -> &Unit {
        &self.units[self.kernels[kernel.index()].unit]
    }
}

/// Lowers, plans and compiles one distinct kernel.
fn build(
    kernel: &Kernel,
    dtypes: &[DType],
    options: &CpuOptions,
    jit: &mut Jit,
    report: &mut Report,
) -> Result<Unit, CodegenError> {
    let refused = |message: String| CodegenError::Kernel { kernel: kernel.name.clone(), message };
    let start = Instant::now();
    let lowering = LowerOptions {
        row_templates: options.isa.is_some(),
        wide_loops: options.has_wide_loops(),
        block_scheduling: false,
    };
    lower::check(&kernel.kind, dtypes).map_err(|e| refused(e.to_string()))?;
    let planned = match options.isa {
        Some(isa) => template::plan(&kernel.kind, dtypes, isa, lowering).map_err(refused)?,
        None => None,
    };
    let mut unit = Unit { funcs: Vec::new(), template: None, shared: Vec::new(), scratch: 0, phases: Vec::new() };
    match planned {
        Some(planned) => {
            report.lowering += start.elapsed();
            let start = Instant::now();
            templated(&mut unit, kernel, planned, jit)?;
            report.compiling += start.elapsed();
        }
        None => {
            let lowered = lower::lower(&kernel.kind, dtypes, lowering).map_err(|e| refused(e.to_string()))?;
            report.lowering += start.elapsed();
            let start = Instant::now();
            for func in lowered.funcs {
                compile(&mut unit, kernel, func, jit)?;
            }
            report.compiling += start.elapsed();
            unit.shared = lowered.shared;
            unit.phases = lowered.phases.into_iter().map(|calls| group(&unit, calls)).collect();
        }
    }
    Ok(unit)
}

/// Compiles a function of a kernel, adding its name and provenance.
fn compile(unit: &mut Unit, kernel: &Kernel, mut func: Func, jit: &mut Jit) -> Result<CodeId, CodegenError> {
    func.comments.push(format!("{} of {}", func.name, kernel.name));
    func.comments.extend(kernel.provenance.scopes.iter().map(|s| format!("scope {s}")));
    func.name = match unit.funcs.len() {
        0 => kernel.name.clone(),
        n => format!("{}_{n}", kernel.name),
    };
    let code = jit.compile(&func)?;
    unit.scratch = unit.scratch.max(func.scratch_layout().1);
    unit.funcs.push(code);
    Ok(code)
}

/// Joins neighbouring small calls to tasks.
fn group(unit: &Unit, calls: Vec<Call>) -> Vec<Task> {
    let total: f64 = calls.iter().map(|call| call.cost).sum();
    let mut before = 0.0;
    let mut tasks: Vec<Task> = Vec::new();
    for call in calls {
        let work = Work::Func { code: unit.funcs[call.func], bufs: call.bufs, params: call.params };
        match tasks.last_mut() {
            Some(task) if task.cost + call.cost <= TASK_NS => {
                task.work.push(work);
                task.cost += call.cost;
            }
            _ => tasks.push(Task { work: vec![work], cost: call.cost, position: before / total }),
        }
        before += call.cost;
    }
    tasks
}

/// A kernel served by a template, with generated epilogues.
fn templated(unit: &mut Unit, kernel: &Kernel, planned: Planned, jit: &mut Jit) -> Result<(), CodegenError> {
    match planned {
        Planned::Contract(parts, isa) => contract::build(unit, kernel, parts, isa, jit)?,
        Planned::Forward(attention, name) => {
            unit.template = Some(format!("attention {name}"));
            unit.scratch = 4 * attention.plan.scratch_len();
            unit.shared = attention.shared.clone();
            let (tasks, cost) = (attention.plan.forward_tasks(), attention.cost);
            let attention = Arc::new(attention);
            let share = |task: usize| task as f64 / tasks as f64;
            let work = |task| Work::Forward { attention: attention.clone(), task };
            let task = |task| Task::one(work(task), cost / tasks as f64, share(task));
            unit.phases = vec![(0..tasks).map(task).collect()];
        }
        Planned::Backward(attention, name) => {
            unit.template = Some(format!("attention gradient {name}"));
            unit.scratch = 4 * attention.plan.scratch_len();
            let (tasks, cost) = (attention.plan.backward_tasks(), attention.cost);
            let attention = Arc::new(attention);
            let share = |task: usize| task as f64 / tasks as f64;
            let work = |task| Work::Backward { attention: attention.clone(), task };
            let task = |task| Task::one(work(task), cost / tasks as f64, share(task));
            unit.phases = vec![(0..tasks).map(task).collect()];
        }
    }
    Ok(())
}
