//! Modules run by Node: single kernels with guards around their arguments, and whole programs.

use super::node::{self, Engine, Request};
use super::{GUARD, GUARD_BITS, Given, Tolerance, compare, initial, program, same};
use std::collections::HashMap;
use tinygpt_codegen_cpu::wasm::{Entry, SlotLayout, WasmModule, WasmOptions, module};
use tinygpt_ir::graph::{Init, ParamKind, StateRole};
use tinygpt_ir::program::{Buffer, BufferKind, KernelKind, Place, Program, ProgramParam};
use tinygpt_ir::types::{DType, TensorType};

/// Bits of tensors by name.
pub type Values = HashMap<String, Vec<u32>>;

/// Runs an entry `steps` times on the given inputs and states, and returns all states and outputs.
pub fn run(
    engine: &Engine,
    made: &WasmModule,
    options: &WasmOptions,
    threads: usize,
    entry: usize,
    given: &Values,
    steps: usize,
) -> Values {
    let layout = &made.layout.entries[entry];
    let at = |s: &SlotLayout| (s.offset, s.bytes);
    let reads: Vec<&SlotLayout> = layout.params.iter().chain(&layout.outputs).collect();
    let request = Request {
        module: &made.bytes,
        pages: made.layout.memory_pages(threads),
        memory64: made.layout.memory64,
        threads,
        shared: options.threads,
        writes: layout.params.iter().map(|p| (p.offset, node::bytes(&given[&p.name]))).collect(),
        calls: vec![(&layout.name, vec![]); steps],
        reads: reads.iter().map(|s| at(s)).collect(),
    };
    let found =
        engine.run(&request).unwrap_or_else(|e| panic!("{options:?} on {threads} threads: {e}\n{}", made.wat()));
    reads.iter().zip(found).map(|(s, bytes)| (s.name.clone(), node::words(&bytes))).collect()
}

/// The variants that an engine has, each with the numbers of threads to run it on.
pub fn variants(engine: &Engine) -> Vec<(WasmOptions, &'static [usize])> {
    let alone = WasmOptions { threads: false, max_threads: 1, ..WasmOptions::default() };
    let threaded = WasmOptions { max_threads: 4, ..WasmOptions::default() };
    let mut all: Vec<(WasmOptions, &[usize])> = vec![(alone, &[1]), (threaded, &[1, 2, 3])];
    if engine.relaxed {
        all.push((WasmOptions { relaxed: true, ..alone }, &[1]));
        all.push((WasmOptions { relaxed: true, ..threaded }, &[2]));
    }
    if engine.memory64 {
        all.push((WasmOptions { memory64: Some(true), ..threaded }, &[2]));
    }
    all
}

/// A program of one kernel whose arguments are states, between others that nothing touches.
fn guarded(kind: &KernelKind, args: &[Given]) -> Program {
    let mut p = program(kind, args);
    let state = |name: String, buffer, dtype: DType, len: usize| ProgramParam {
        name,
        kind: ParamKind::State { init: Init::Zeros, role: StateRole::Weight },
        ty: TensorType { dtype, shape: [len].into_iter().collect() },
        buffer,
    };
    let mut params = Vec::new();
    for i in 0..=args.len() {
        let buffer = p.buffers.push(Buffer {
            label: "guard".into(),
            dtype: DType::U32,
            len: GUARD,
            kind: BufferKind::Temp,
            place: Place::Own,
            live: None,
            takes_over: None,
        });
        params.push(state(format!("guard{i}"), buffer, DType::U32, GUARD));
        if let Some(a) = args.get(i) {
            let buffer = p.buffers.ids().nth(i).expect("the buffer of this argument");
            params.push(state(format!("a{i}"), buffer, a.dtype, a.data.len()));
        }
    }
    p.params = params;
    p
}

/// Checks one kernel in every variant: those without relaxed multiply-add give `portable`, the bits of the native path without fused
/// multiply-add; the others what the oracle gives, within the tolerance. The number of threads changes no bit.
pub fn check(
    name: &str,
    kind: &KernelKind,
    args: &[Given],
    portable: &[Vec<u32>],
    want: &[Vec<f64>],
    tolerance: Tolerance,
) {
    let Some(engine) = node::engine() else { return };
    let program = guarded(kind, args);
    let mut given: Values = args.iter().enumerate().map(|(i, a)| (format!("a{i}"), initial(a))).collect();
    given.extend((0..=args.len()).map(|i| (format!("guard{i}"), vec![GUARD_BITS; GUARD])));
    for (options, threads) in variants(engine) {
        let made =
            module(&[Entry { name: "k", program: &program }], &options).unwrap_or_else(|e| panic!("{name}: {e}"));
        let mut first: Option<Vec<Vec<u32>>> = None;
        // Without a parallel round threads have nothing to do.
        let threads = if made.report.parallel_rounds > 0 { threads } else { &threads[..1] };
        for &n in threads {
            let name = format!("{name}, {options:?} on {n} threads");
            let mut after = run(engine, &made, &options, n, 0, &given, 1);
            let guard = |i: &usize| after[&format!("guard{i}")].iter().all(|x| *x == GUARD_BITS);
            assert!((0..=args.len()).all(|i| guard(&i)), "{name}: wrote outside an argument\n{}", made.wat());
            let got: Vec<Vec<u32>> =
                (0..args.len()).map(|i| after.remove(&format!("a{i}")).expect("it was read")).collect();
            if !options.relaxed {
                assert!(same(&got, portable), "{name}: differs from the native portable path");
            }
            compare(&name, args, &got, want, tolerance);
            if let Some(first) = &first {
                assert!(same(&got, first), "{name}: the number of threads changes bits");
            }
            first.get_or_insert(got);
        }
    }
}
