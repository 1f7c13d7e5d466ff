//! Programs as one module: kernel functions, a function for each round, and one for each entry that runs its rounds in order.
//!
//! Kernels of equal structure share functions, whatever entry they belong to. An entry `train` is
//! - `train`, exported: thread 0's part, from the first round to the last;
//! - `train.worker`: the other threads' part, which is the parallel rounds alone;
//! - `train.stage_N` for each round: its tasks, as calls of kernel functions (`_phase_P` where a stage has more than one).
//!
//! With clocks, stages have one kernel each, and thread 0 reads the clock after each round. Functions are numbered behind those that are
//! imported, of which there is that one or none.
//!
//! A parallel round's function runs on all threads, each of which takes the next task from a counter until there is none (see
//! [`super::threads`]); any other runs all its tasks, on thread 0.

mod round;

use super::func::{self, FuncOptions, ptr_type};
use super::layout::{self, LINE};
use super::tasks::{self, Round, Tables};
use super::threads::{self, Meet, Words};
use super::{Entry, Report, WasmError, WasmModule, WasmOptions};
use crate::lower::{self, LowerOptions, Lowered};
use crate::units::{Distinct, place_shared};
use round::{RoundEmit, SCRATCH};
use std::collections::HashMap;
use tinygpt_ir::program::{Kernel, Program};
use tinygpt_vloop::Func;
use wasm_encoder::{
    BlockType, CodeSection, ConstExpr, DataSection, EntityType, ExportKind, ExportSection, FunctionSection,
    ImportSection, IndirectNameMap, InstructionSink, MemArg, MemoryType, Module, NameMap, NameSection, TypeSection,
    ValType,
};

/// A function of a module.
pub struct Function {
    pub name: String,
    pub params: Vec<ValType>,
    pub result: Option<ValType>,
    pub body: wasm_encoder::Function,
    /// Names of parameters and locals.
    pub locals: Vec<String>,
    /// Lines that a listing shows above it.
    pub comments: Vec<String>,
}

/// Most pages that V8 lets a 64-bit memory have; 32-bit ones cannot have as many.
const ENGINE_PAGES: u64 = 1 << 18;
/// Names that every module exports.
const RESERVED: [&str; 3] = ["init", "worker", "stop"];

/// Makes a module: see [`super::module`].
pub fn build(entries: &[Entry<'_>], options: &WasmOptions) -> Result<WasmModule, WasmError> {
    for (i, entry) in entries.iter().enumerate() {
        let taken = RESERVED.contains(&entry.name) || entries[..i].iter().any(|e| e.name == entry.name);
        if taken || entry.name.is_empty() {
            return Err(WasmError::EntryName { name: entry.name.to_string() });
        }
    }
    if options.max_threads == 0 {
        return Err(WasmError::NoThreads);
    }
    let apart: Vec<Program> =
        if options.clocks { entries.iter().map(one_kernel_a_stage).collect() } else { Vec::new() };
    let apart: Vec<Entry<'_>> =
        entries.iter().zip(&apart).map(|(entry, program)| Entry { name: entry.name, program }).collect();
    let entries = if options.clocks { &apart } else { entries };
    let imported = u32::from(options.clocks);
    let mut kernels = Kernels::default();
    let prepared: Vec<Prepared> = entries.iter().map(|e| kernels.prepare(e)).collect::<Result<_, _>>()?;
    let mut tables = Tables::default();
    for round in prepared.iter().flat_map(|p| &p.rounds) {
        for values in round.runs.iter().flat_map(|r| &r.params).flatten() {
            tables.param(values);
        }
    }
    let parallel = |p: &Prepared| p.rounds.iter().filter(|r| r.parallel).count();
    let needs = layout::Needs {
        counters: LINE * prepared.iter().map(parallel).max().unwrap_or(0),
        tables: 4 * tables.words.len(),
        arena: prepared.iter().map(|p| p.arena).max().unwrap_or(0),
        scratch: kernels.funcs.iter().map(|f| f.scratch_layout().1).max().unwrap_or(0),
    };
    let plan = layout::plan(entries, &needs, options)?;
    let memory64 = plan.layout.memory64;
    let mut functions = Vec::new();
    for func in &kernels.funcs {
        functions.push(kernel_function(func, FuncOptions { relaxed: options.relaxed, memory64 })?);
    }
    let mut exports = Vec::new();
    let mut report = Report {
        kernels: entries.iter().map(|e| e.program.kernels.len()).sum(),
        distinct_kernels: kernels.units.len(),
        functions: kernels.funcs.len(),
        table_bytes: needs.tables,
        ..Report::default()
    };

    let meet = options.threads.then(|| Meet::add(&mut functions, imported, memory64, needs.counters));
    let mut workers = Vec::new();
    for (i, (entry, prepared)) in entries.iter().zip(&prepared).enumerate() {
        let mut parts = Vec::new();
        let mut shared = 0;
        for round in &prepared.rounds {
            let several = prepared.rounds.iter().any(|r| r.stage == round.stage && r.phase > 0);
            let crew = meet.as_ref().filter(|_| round.parallel).map(|meet| Crew { meet, round: shared });
            shared += usize::from(crew.is_some());
            parts.push(Part {
                function: imported + functions.len() as u32,
                stage: round.stage,
                tasks: round.tasks(),
                crew,
            });
            let mut e = RoundEmit {
                entry,
                buffers: &plan.buffers[i],
                arena: plan.arena,
                funcs: &kernels.funcs,
                imported,
                tables: &mut tables,
                tables_at: plan.tables,
                memory64,
                code: Vec::new(),
            };
            functions.push(e.round(round, several, crew)?);
        }
        report.rounds += parts.len();
        report.parallel_rounds += shared;
        exports.push((entry.name.to_string(), imported + functions.len() as u32));
        let clocks = plan.layout.entries[i].clocks.as_ref().map(|clocks| clocks.offset);
        functions.push(leader(entry, &parts, i + 1, plan.layout.fixed_bytes, clocks, memory64));
        if meet.is_some() {
            workers.push(imported + functions.len() as u32);
            functions.push(follower(entry, &parts, memory64));
        }
    }
    exports.push(("init".into(), imported + functions.len() as u32));
    match &meet {
        None => functions.push(threads::init_alone(memory64)),
        Some(meet) => {
            functions.push(threads::init(memory64));
            let scratch = (plan.layout.fixed_bytes, plan.layout.thread_bytes);
            exports.push(("worker".into(), imported + functions.len() as u32));
            functions.push(threads::worker(memory64, meet, &workers, scratch));
            exports.push(("stop".into(), imported + functions.len() as u32));
            functions.push(threads::stop(memory64, meet));
        }
    }

    let memory = MemoryType {
        memory64,
        shared: options.threads,
        minimum: plan.layout.memory_pages(1) as u64,
        maximum: Some((plan.layout.memory_pages(options.max_threads) as u64).min(ENGINE_PAGES)),
        page_size_log2: None,
    };
    let bytes = encode(Some(memory), options.clocks, &functions, &exports, (plan.tables, &tables.words));
    super::validate(&bytes)?;
    report.bytes = bytes.len();
    Ok(WasmModule {
        layout: plan.layout,
        report,
        threaded: options.threads,
        kernels: prepared.iter().map(|p| p.functions.clone()).collect(),
        comments: functions.into_iter().map(|f| f.comments).collect(),
        provenance: entries.iter().map(|e| e.program.kernels.values().map(provenance).collect()).collect(),
        texts: std::sync::OnceLock::new(),
        bytes,
    })
}

/// See [`super::function`].
pub fn single(func: &Func, options: &WasmOptions) -> Result<Vec<u8>, WasmError> {
    let memory64 = options.memory64.unwrap_or(false);
    let maximum = options.threads.then_some(1 << 16);
    let memory = MemoryType { memory64, shared: options.threads, minimum: 1, maximum, page_size_log2: None };
    let function = kernel_function(func, FuncOptions { relaxed: options.relaxed, memory64 })?;
    let bytes = encode(Some(memory), false, &[function], &[(func.name.clone(), 0)], (0, &[]));
    super::validate(&bytes)?;
    Ok(bytes)
}

/// The program of an entry with a barrier after each kernel. Its places stay good: what is alive at once does not grow.
fn one_kernel_a_stage(entry: &Entry<'_>) -> Program {
    let stages = (0..entry.program.kernels.len() as u32).map(|k| (k, k + 1)).collect();
    Program { stages, ..entry.program.clone() }
}

/// Lines that say where a kernel comes from.
fn provenance(kernel: &Kernel) -> Vec<String> {
    let mut lines = vec![format!("kernel {}", kernel.name)];
    lines.extend(kernel.provenance.scopes.iter().map(|s| format!("scope {s}")));
    lines.extend(kernel.provenance.locs.iter().map(|l| format!("at {}:{}", l.file, l.line)));
    lines
}

/// How the threads share a round.
#[derive(Clone, Copy)]
struct Crew<'a> {
    meet: &'a Meet,
    /// Number of the round among the entry's parallel ones.
    round: usize,
}

/// One round of an entry.
struct Part<'a> {
    /// Number of its function.
    function: u32,
    stage: usize,
    tasks: usize,
    /// None if it is thread 0's alone.
    crew: Option<Crew<'a>>,
}

/// The distinct kernels and functions of all entries.
#[derive(Default)]
struct Kernels {
    units: Vec<Unit>,
    funcs: Vec<Func>,
    known: HashMap<Func, usize>,
    names: HashMap<String, usize>,
}

struct Unit {
    kind: tinygpt_ir::program::KernelKind,
    dtypes: Vec<tinygpt_ir::types::DType>,
    lowered: Lowered,
    /// Numbers of its functions.
    funcs: Vec<usize>,
}

/// An entry's rounds.
struct Prepared {
    rounds: Vec<Round>,
    arena: usize,
    /// The functions of each kernel.
    functions: Vec<Vec<usize>>,
}

impl Kernels {
    fn prepare(&mut self, entry: &Entry<'_>) -> Result<Prepared, WasmError> {
        let program = entry.program;
        let distinct = Distinct::new(program);
        let units: Vec<usize> = distinct
            .units
            .iter()
            .map(|(id, dtypes)| self.unit(&program.kernels[*id], dtypes))
            .collect::<Result<_, _>>()?;
        let lowered: Vec<&Lowered> = units.iter().map(|&u| &self.units[u].lowered).collect();
        let funcs: Vec<&[usize]> = units.iter().map(|&u| self.units[u].funcs.as_slice()).collect();
        let (shared, arena) = place_shared(&program.stages, |k| &lowered[distinct.of[k]].shared);
        let rounds = tasks::rounds(program, &distinct, &lowered, &funcs, &shared);
        Ok(Prepared { rounds, arena, functions: distinct.of.iter().map(|&u| funcs[u].to_vec()).collect() })
    }

    /// The unit of a kernel, lowered now if no equal one was.
    fn unit(&mut self, kernel: &Kernel, dtypes: &[tinygpt_ir::types::DType]) -> Result<usize, WasmError> {
        if let Some(known) = self.units.iter().position(|u| u.dtypes == dtypes && u.kind == kernel.kind) {
            return Ok(known);
        }
        let lowered =
            lower::lower(&kernel.kind, dtypes, LowerOptions { block_scheduling: true, ..LowerOptions::default() })
                .map_err(|e| WasmError::Kernel { kernel: kernel.name.clone(), message: e.to_string() })?;
        let several = lowered.funcs.len() > 1;
        let mut funcs = Vec::new();
        for func in &lowered.funcs {
            let structure = func.structure();
            let number = match self.known.get(&structure) {
                Some(&number) => number,
                None => {
                    let wanted = if several { format!("{}.{}", kernel.name, func.name) } else { kernel.name.clone() };
                    let name = self.unique(wanted);
                    let comments = [provenance(kernel), func.comments.clone()].concat();
                    self.funcs.push(Func { name, comments, ..func.clone() });
                    self.known.insert(structure, self.funcs.len() - 1);
                    self.funcs.len() - 1
                }
            };
            funcs.push(number);
        }
        self.units.push(Unit { kind: kernel.kind.clone(), dtypes: dtypes.to_vec(), lowered, funcs });
        Ok(self.units.len() - 1)
    }

    fn unique(&mut self, name: String) -> String {
        let uses = self.names.entry(name.clone()).or_insert(0);
        *uses += 1;
        if *uses == 1 { name } else { format!("{name}.{uses}") }
    }
}

fn kernel_function(func: &Func, options: FuncOptions) -> Result<Function, WasmError> {
    let code = func::emit(func, options)?;
    Ok(Function {
        name: func.name.clone(),
        params: code.params,
        result: None,
        body: code.body,
        locals: code.names,
        comments: func.comments.clone(),
    })
}

/// The imported clock's function.
const CLOCK: u32 = 0;

/// Thread 0's part of an entry. `number` is the entry's command; `clocks` is where the seconds of its kernels are counted.
fn leader(
    entry: &Entry<'_>,
    parts: &[Part],
    number: usize,
    scratch: usize,
    clocks: Option<usize>,
    memory64: bool,
) -> Function {
    let (last, now) = (0, 1);
    let mut code = Vec::new();
    let mut w = Words { sink: InstructionSink::new(&mut code), memory64 };
    if let Some(crew) = parts.iter().find_map(|p| p.crew) {
        crew.meet.begin(&mut w, number);
    }
    if clocks.is_some() {
        w.sink.call(CLOCK).local_set(last);
    }
    for part in parts {
        if let Some(crew) = part.crew {
            crew.meet.start(&mut w, crew.round);
        }
        w.constant(scratch);
        w.sink.call(part.function);
        if let Some(crew) = part.crew {
            crew.meet.finish(&mut w, crew.round, part.tasks);
        }
        if let Some(clocks) = clocks {
            // A stage is a kernel.
            let at = clocks + 8 * part.stage;
            let f64_at = MemArg { offset: 0, align: 3, target: Default::default(), ordering: None };
            w.constant(at);
            w.constant(at);
            w.sink.f64_load(f64_at).call(CLOCK).local_tee(now).f64_add().local_get(last).f64_sub().f64_store(f64_at);
            w.sink.local_get(now).local_set(last);
        }
    }
    w.sink.end();
    let locals: &[ValType] = if clocks.is_some() { &[ValType::F64; 2] } else { &[] };
    let mut body = wasm_encoder::Function::new_with_locals_types(locals.iter().copied());
    body.raw(code);
    Function {
        name: entry.name.to_string(),
        params: Vec::new(),
        result: None,
        body,
        locals: ["last", "now"].iter().take(locals.len()).map(|name| name.to_string()).collect(),
        comments: vec![format!("program {}, thread 0's part", entry.program.name)],
    }
}

/// The other threads' part of an entry: its parallel rounds, without those that are over.
fn follower(entry: &Entry<'_>, parts: &[Part], memory64: bool) -> Function {
    let mut code = Vec::new();
    let mut w = Words { sink: InstructionSink::new(&mut code), memory64 };
    for part in parts {
        if let Some(crew) = part.crew {
            crew.meet.join(&mut w, crew.round);
            w.sink.if_(BlockType::Empty).local_get(SCRATCH).call(part.function).end();
        }
    }
    w.sink.end();
    let mut body = wasm_encoder::Function::new([]);
    body.raw(code);
    Function {
        name: format!("{}.worker", entry.name),
        params: vec![ptr_type(memory64)],
        result: None,
        body,
        locals: vec!["scratch".into()],
        comments: vec![format!("program {}, the other threads' part", entry.program.name)],
    }
}

/// The bytes of a module that imports `env.memory`, if it has one, and `env.clock`, if it has `clocks`, with tables at an address.
pub fn encode(
    memory: Option<MemoryType>,
    clocks: bool,
    functions: &[Function],
    exports: &[(String, u32)],
    (tables_at, tables): (usize, &[u32]),
) -> Vec<u8> {
    let mut types = TypeSection::new();
    let mut known: HashMap<(&[ValType], Option<ValType>), u32> = HashMap::new();
    if clocks {
        types.ty().function([], [ValType::F64]);
        known.insert((&[], Some(ValType::F64)), CLOCK);
    }
    let mut declared = FunctionSection::new();
    let mut code = CodeSection::new();
    for f in functions {
        let next = known.len() as u32;
        let ty = *known.entry((&f.params, f.result)).or_insert_with(|| {
            types.ty().function(f.params.iter().copied(), f.result);
            next
        });
        declared.function(ty);
        code.function(&f.body);
    }
    let mut module = Module::new();
    module.section(&types);
    if let Some(memory) = memory {
        let mut imports = ImportSection::new();
        imports.import("env", "memory", EntityType::Memory(memory));
        if clocks {
            imports.import("env", "clock", EntityType::Function(0));
        }
        module.section(&imports);
    }
    module.section(&declared);
    let mut exported = ExportSection::new();
    for (name, function) in exports {
        exported.export(name, ExportKind::Func, *function);
    }
    module.section(&exported).section(&code);
    if let (Some(memory), false) = (memory, tables.is_empty()) {
        let at = if memory.memory64 {
            ConstExpr::i64_const(tables_at as i64)
        } else {
            ConstExpr::i32_const(tables_at as i32)
        };
        let mut data = DataSection::new();
        data.active(0, &at, tables.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>());
        module.section(&data);
    }
    let mut names = NameSection::new();
    names.module("tinygpt");
    let (mut function_names, mut local_names) = (NameMap::new(), IndirectNameMap::new());
    if clocks {
        function_names.append(CLOCK, "clock");
    }
    for (i, f) in (u32::from(clocks)..).zip(functions) {
        function_names.append(i, &f.name);
        let mut locals = NameMap::new();
        f.locals.iter().enumerate().for_each(|(l, name)| locals.append(l as u32, name));
        local_names.append(i, &locals);
    }
    names.functions(&function_names);
    names.locals(&local_names);
    module.section(&names);
    module.finish()
}
