//! From a declared model to a program, and from a program to something that runs: the one road of every command.
//!
//! ```text
//! forward --Goal--> step --passes--> simplified --fuse, schedule, place--> program --prepare--> Executor
//! ```
//! Each stage is kept in [`Compiled`], so that `dump` prints what `train` runs.
//!
//! Invariants:
//! - a compiled program has passed both verifiers, whichever passes made it: native code checks nothing when it runs;
//! - the program is a function of the model, the goal and the target alone; threads, instruction set and backend come in
//!   with [`prepare`];
//! - the interpreter runs the `step` graph, which no pass but differentiation has touched: it judges all the others.

use crate::config::{Backend, Isa};
use crate::error::one_line;
use crate::executor::Executor;
use crate::interp::{InterpExecutor, ProgramInterpExecutor};
use crate::{Error, Result};
#[cfg(not(target_arch = "wasm32"))]
use crate::{
    cli::ExecArgs,
    config::{Precision, TrainConfig},
    cpu::CpuExecutor,
    gpu::{Gpu, GpuExecutor, GpuOptions},
    wasm::executor::WasmExecutor,
};
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;
#[cfg(not(target_arch = "wasm32"))]
use tinygpt_codegen_cpu::compile::CpuOptions;
use tinygpt_ir::Graph;
use tinygpt_ir::clock::Clock;
use tinygpt_ir::program::verify::Invariant;
use tinygpt_ir::program::{FusionReport, Program, TargetModel};
use tinygpt_passes::compile as lowering;
use tinygpt_passes::optimizer::{self, AdamWConfig};
use tinygpt_passes::pass::{self, Pass, Pipeline};

/// What the program is to do with the model.
#[derive(Debug, Clone, PartialEq)]
pub enum Goal {
    /// One training step: outputs `loss` and `grad_norm`, and the gradients `grad.NAME` on request.
    Train { adamw: AdamWConfig, gradients: bool },
    /// The outputs `loss` and, for each weight, `grad.NAME`; nothing is updated.
    Gradients,
    /// The first half of a training step over several micro-batches: it adds the gradients of one to the states `grad.NAME`; output `loss`.
    Accumulate,
    /// The second half: it updates by the mean of the summed gradients, inputs `grad.NAME`; output `grad_norm`.
    Update { adamw: AdamWConfig, micro_batches: u64 },
    /// These outputs of the forward graph.
    Infer(&'static [&'static str]),
    /// The graph as it is: all its outputs and updates.
    Whole,
}

/// The passes between the graph of a step and fusion.
pub const PASSES: [Pass; 4] = [Pass::Expand, Pass::Simplify, Pass::SplitReduce, Pass::Simplify];

/// [`PASSES`], and what the target asks for besides.
pub fn passes_for(target: &TargetModel) -> Vec<Pass> {
    let rounding = target.f16_operands.then_some(Pass::Precision);
    PASSES.into_iter().chain(rounding).collect()
}

/// Every stage of one program.
#[derive(Debug)]
pub struct Compiled {
    /// As the model declares it.
    pub forward: Graph,
    /// What the program computes: the training step with loss, gradients, clip and optimizer, a half of it, or the outputs asked for.
    pub step: Graph,
    /// The passes' record; its graph is the one that was fused.
    pub passes: pass::Run,
    pub program: Arc<Program>,
    /// The record of the passes that made the program.
    pub lowering: Vec<lowering::Step>,
    times: Times,
}

/// Time of what is no pass of the pipeline; None where there is no clock.
#[derive(Debug, Clone, Copy)]
struct Times {
    goal: Option<Duration>,
    verify: Option<Duration>,
}

/// Compiles `forward` for `goal` on `target`. Errors: the goal asks for outputs that the graph lacks. A graph or program that a
/// verifier refuses is a fault of a pass, and an error too.
pub fn compile(forward: Graph, goal: &Goal, target: &TargetModel) -> Result<Compiled> {
    compile_with(forward, goal, target, true)
}

/// [`compile`], where without `fusion` each node has a kernel of its own. Errors: as of [`compile`].
pub fn compile_with(forward: Graph, goal: &Goal, target: &TargetModel, fusion: bool) -> Result<Compiled> {
    let (step, goal_time) = timed(|| {
        // Gradients that are rounded to f16 are scaled to fit it.
        let scaled = target.f16_operands;
        let step = match goal {
            Goal::Train { adamw, gradients } if scaled => optimizer::scaled_training_step(&forward, adamw, *gradients),
            Goal::Accumulate if scaled => optimizer::scaled_accumulate_step(&forward),
            Goal::Train { adamw, gradients: false } => optimizer::training_step(&forward, adamw),
            Goal::Train { adamw, gradients: true } => optimizer::training_step_with_gradients(&forward, adamw),
            Goal::Gradients => optimizer::loss_and_gradients(&forward),
            Goal::Accumulate => optimizer::accumulate_step(&forward),
            Goal::Update { adamw, micro_batches } => optimizer::update_step(&forward, adamw, *micro_batches),
            Goal::Infer(outputs) => optimizer::inference(&forward, outputs),
            Goal::Whole => Ok(forward.clone()),
        };
        step.map_err(|e| Error::input(one_line(e)))
    })?;
    tracing::debug!(graph = step.name, nodes = step.nodes.len(), ?goal_time, "differentiated");
    let passes = Pipeline::new(passes_for(target)).run(step.clone()).map_err(|e| Error::failed(one_line(e)))?;
    let lowering::Lowered { program, steps: lowering } =
        lowering::lower(&passes.graph, target, fusion, false).map_err(Error::failed)?;
    for step in &lowering {
        tracing::debug!(pass = step.name, time = ?step.time, "{}", step.did);
    }
    let ((), verify_time) = timed(|| {
        let faulty = |what: &str, e: &dyn std::fmt::Display| {
            Error::failed(format!("{what} is invalid, which is a fault of tinygpt: {}", one_line(e)))
        };
        tinygpt_ir::verify::verify(&passes.graph).map_err(|e| faulty("the graph after the passes", &e))?;
        tinygpt_ir::program::verify(&program).map_err(|e| match &e.list[..] {
            [first, ..] if e.list.iter().all(|v| v.invariant == Invariant::TargetLimits) => Error::input(format!(
                "the model does not fit the target {}: {}: choose a smaller preset or batch, or an adapter with larger limits",
                target.name,
                one_line(first)
            )),
            _ => faulty("the program", &e),
        })
    })?;
    let times = Times { goal: goal_time, verify: verify_time };
    Ok(Compiled { forward, step, passes, program: Arc::new(program), lowering, times })
}

fn timed<V>(work: impl FnOnce() -> Result<V>) -> Result<(V, Option<Duration>)> {
    let start = Clock::start();
    let value = work()?;
    Ok((value, start.elapsed()))
}

impl Compiled {
    /// What fusion saved: the program beside one where each node has a kernel of its own, which is made for the comparison.
    pub fn fusion_report(&self) -> Result<FusionReport> {
        let target = &self.program.target;
        let unfused = lowering::to_program(&self.passes.graph, target, false).map_err(Error::failed)?;
        Ok(FusionReport::new(&unfused, &self.program))
    }

    /// The graphs in order: `graph` as declared, `grad` the whole step, then the state after each pass by the pass's name. A name's
    /// second pass is `NAME-2`.
    pub fn graphs(&self) -> Result<Vec<(String, Graph)>> {
        let mut graphs = vec![("graph".to_string(), self.forward.clone()), ("grad".to_string(), self.step.clone())];
        let passes = passes_for(&self.program.target);
        for (i, pass) in passes.iter().enumerate() {
            let (_, before) = &graphs[graphs.len() - 1];
            let after = pass.run(before, &mut pass::Stats::default()).map_err(|e| Error::failed(one_line(e)))?;
            let earlier = passes[..i].iter().filter(|p| p.name() == pass.name()).count();
            let name = if earlier == 0 { pass.name().to_string() } else { format!("{}-{}", pass.name(), earlier + 1) };
            graphs.push((name, after));
        }
        Ok(graphs)
    }

    /// Milliseconds of every stage, with what the passes did.
    pub fn time_table(&self) -> String {
        let mut table = self.passes.time_table();
        let Times { goal, verify } = self.times;
        let line = |table: &mut String, name: &str, time: Option<Duration>, did: &str| {
            let ms = time.map_or("no clock".to_string(), |t| format!("{:.3}", t.as_secs_f64() * 1e3));
            let _ = writeln!(table, "{}", format!("{name:<14}{ms:>10}{:>28}{did}", "").trim_end());
        };
        for step in &self.lowering {
            line(&mut table, step.name, step.time, &step.did);
        }
        line(&mut table, "autodiff", goal, "the step's graph, made before the passes above");
        line(&mut table, "verify", verify, "graph and program");
        table
    }
}

/// What runs a program, fully resolved.
#[derive(Debug, Clone)]
pub struct ExecOptions {
    pub backend: Backend,
    /// Threads of the CPU and WebAssembly backends; the interpreter has one.
    pub threads: usize,
    /// Instruction set of the CPU backend's templates; None for the best this machine has.
    pub isa: Option<Isa>,
    /// Leave the templates off.
    pub no_templates: bool,
    /// The open device of the GPU backend.
    #[cfg(not(target_arch = "wasm32"))]
    pub gpu: Option<Arc<Gpu>>,
}

impl ExecOptions {
    /// The flags over the configuration's values where there is one, and the machine's cores where neither says. The GPU backend's
    /// device is opened, which is an error where there is none.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn resolve(flags: &ExecArgs, config: Option<&TrainConfig>) -> Result<Self> {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let threads = flags.threads.map(usize::from).or(config.and_then(|c| c.threads));
        let backend = flags.backend.or(config.map(|c| c.backend)).unwrap_or(Backend::Cpu);
        let precision = flags.gpu.precision.or(config.map(|c| c.precision)).unwrap_or_default();
        if precision == Precision::Mixed && backend != Backend::Gpu {
            return Err(Error::input(format!(
                "precision mixed runs on the backend gpu alone, and this is {backend}: add --backend gpu, or choose --precision f32"
            )));
        }
        let gpu_options = || GpuOptions {
            precision,
            adapter: flags.gpu.adapter.clone().or(config.and_then(|c| c.adapter.clone())),
            checked: flags.gpu.checked || config.is_some_and(|c| c.checked),
            tune: !(flags.no_tune || config.is_some_and(|c| c.no_tune)),
        };
        Ok(Self {
            backend,
            threads: match backend {
                Backend::Cpu | Backend::Wasm => threads.unwrap_or_else(cores),
                Backend::Gpu | Backend::Interp => 1,
            },
            isa: flags.isa.or(config.and_then(|c| c.isa)),
            no_templates: flags.no_templates || config.is_some_and(|c| c.no_templates),
            gpu: if backend == Backend::Gpu { Some(Gpu::open(&gpu_options())?) } else { None },
        })
    }

    /// Runs on an open GPU.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn on_gpu(gpu: Arc<Gpu>) -> Self {
        Self { backend: Backend::Gpu, threads: 1, isa: None, no_templates: false, gpu: Some(gpu) }
    }

    /// What programs are compiled for.
    pub fn target(&self) -> TargetModel {
        #[cfg(not(target_arch = "wasm32"))]
        if let Some(gpu) = &self.gpu {
            return gpu.target();
        }
        TargetModel::cpu()
    }
}

/// Prepares a compiled program to run: the interpreter its graph, the others the program. Errors: the machine lacks what `options` ask
/// for.
pub fn prepare(compiled: &Compiled, options: &ExecOptions) -> Result<Box<dyn Executor>> {
    let executor = match options.backend {
        Backend::Interp => Box::new(InterpExecutor::new(&compiled.step)?),
        _ => prepare_program(&compiled.program, options)?,
    };
    tracing::debug!(backend = executor.backend(), memory = ?executor.memory(), "{}", executor.code_report().unwrap_or_default());
    Ok(executor)
}

/// Prepares a program that has passed the verifier, without its graph. Errors: the machine lacks what `options` ask for, or the program was
/// placed for another kind of target.
pub fn prepare_program(program: &Arc<Program>, options: &ExecOptions) -> Result<Box<dyn Executor>> {
    match options.backend {
        Backend::Interp => Ok(Box::new(ProgramInterpExecutor::new(program)?)),
        #[cfg(not(target_arch = "wasm32"))]
        Backend::Cpu => {
            let cpu = cpu_options(options.isa, options.no_templates)?;
            Ok(Box::new(CpuExecutor::new(Arc::clone(program), &cpu, options.threads)?))
        }
        #[cfg(not(target_arch = "wasm32"))]
        Backend::Wasm => Ok(Box::new(WasmExecutor::new(program, options.threads)?)),
        #[cfg(not(target_arch = "wasm32"))]
        Backend::Gpu => {
            let gpu = options
                .gpu
                .clone()
                .ok_or_else(|| Error::input("the GPU backend needs an open device: see Gpu::open"))?;
            Ok(Box::new(GpuExecutor::new(gpu, Arc::clone(program))?))
        }
        #[cfg(target_arch = "wasm32")]
        backend => Err(Error::input(format!(
            "the backend {backend} is not in this build of tinygpt, which runs in a page: choose interp here, or have the page run the program's module"
        ))),
    }
}

/// The code generator's options for an instruction set that the user named, or for the best there is. Errors: this machine lacks it.
#[cfg(not(target_arch = "wasm32"))]
pub fn cpu_options(isa: Option<Isa>, no_templates: bool) -> Result<CpuOptions> {
    let available = tinygpt_simd::Isa::available();
    let isa = match isa.map(|isa| isa.to_string()) {
        Some(_) if isa == Some(Isa::Portable) => return Ok(CpuOptions { baseline: true, ..CpuOptions::default() }),
        None => available.first().copied(),
        Some(name) => Some(available.iter().copied().find(|isa| isa.name() == name).ok_or_else(|| {
            let list: Vec<&str> = available.iter().map(|isa| isa.name()).chain(["portable"]).collect();
            Error::input(format!("this machine cannot run {name}: choose --isa from {}", list.join(", ")))
        })?),
    };
    Ok(CpuOptions { isa: isa.filter(|_| !no_templates), ..CpuOptions::default() })
}
