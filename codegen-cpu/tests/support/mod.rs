//! Runs one kernel on every path of the CPU backend and compares it with the f64 interpreter of programs.
//!
//! For each path: buffers stand between guards that must stay as they were, outputs start as garbage, and tasks run in order and in
//! reverse order, with bit-equal results. The lowered functions also run in the interpreter of the vector loop IR, which
//! checks every access, with each call cut into smaller ones: the bits must not change. WebAssembly modules run in Node, in every variant.

#![allow(dead_code)] // each test file uses its own part

pub mod node;
pub mod wasm;

use std::sync::Arc;
use tinygpt_codegen_cpu::compile::{CpuOptions, PreparedProgram};
use tinygpt_codegen_cpu::lower::{BufRef, Call, LowerOptions, Lowered, lower};
use tinygpt_ir::program::{
    Access, Affine, Arg, ArgId, ArgMode, Body, Buffer, BufferKind, Kernel, KernelKind, MemoryPlan, Place, Program,
    ScalarId, ScalarOp, TargetModel,
};
use tinygpt_ir::types::{Arena, DType, Literal};
use tinygpt_simd::Isa;
use tinygpt_vloop::interp::{self, Data};

/// A deterministic generator (splitmix64).
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    /// In `0..n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
    pub fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }
    /// An f32 in [-2, 2).
    pub fn float(&mut self) -> f64 {
        f64::from((self.below(1 << 24) as f32 / (1 << 24) as f32 - 0.5) * 4.0)
    }
    pub fn floats(&mut self, n: usize) -> Vec<f64> {
        (0..n).map(|_| self.float()).collect()
    }
    /// Values of a dtype.
    pub fn values(&mut self, dtype: DType, n: usize) -> Vec<f64> {
        (0..n)
            .map(|_| match dtype {
                DType::I32 => f64::from(self.next() as i32 >> self.below(28)),
                DType::U32 => f64::from(self.next() as u32 >> self.below(28)),
                DType::Bool => self.below(2) as f64,
                _ => self.float(),
            })
            .collect()
    }
    pub fn ints(&mut self, n: usize, from: i64, to: i64) -> Vec<f64> {
        (0..n).map(|_| (from + self.below((to - from) as usize) as i64) as f64).collect()
    }
}

/// One argument: dtype, mode, and contents (of a written one: only the length counts).
#[derive(Clone)]
pub struct Given {
    pub dtype: DType,
    pub mode: ArgMode,
    pub data: Vec<f64>,
}

pub fn read(dtype: DType, data: Vec<f64>) -> Given {
    Given { dtype, mode: ArgMode::Read, data }
}
pub fn write(dtype: DType, len: usize) -> Given {
    Given { dtype, mode: ArgMode::Write, data: vec![0.0; len] }
}
pub fn in_place(dtype: DType, data: Vec<f64>) -> Given {
    Given { dtype, mode: ArgMode::ReadWrite, data }
}

/// A body under construction over a space of `rank` axes.
pub struct B {
    pub body: Body,
    pub rank: usize,
}

impl B {
    pub fn new(rank: usize) -> B {
        B { body: Body::default(), rank }
    }
    pub fn op(&mut self, op: ScalarOp, dtype: DType) -> ScalarId {
        self.body.push(op, dtype)
    }
    pub fn f32(&mut self, op: ScalarOp) -> ScalarId {
        self.op(op, DType::F32)
    }
    pub fn constant(&mut self, x: f64) -> ScalarId {
        self.f32(ScalarOp::Const(Literal::f32(x)))
    }
    pub fn load(&mut self, arg: u32, dtype: DType, strides: &[i64]) -> ScalarId {
        self.op(ScalarOp::Load(Access::direct(ArgId(arg), 0, strides.to_vec())), dtype)
    }
    pub fn index(&mut self, strides: &[i64]) -> ScalarId {
        self.op(ScalarOp::Index(Affine { offset: 0, coeffs: strides.to_vec() }), DType::I32)
    }
    pub fn unary(&mut self, op: tinygpt_ir::op::Unary, x: ScalarId) -> ScalarId {
        let dtype = self.body.scalars[x].dtype;
        self.op(ScalarOp::Unary(op, x), dtype)
    }
    pub fn binary(&mut self, op: tinygpt_ir::op::Binary, x: ScalarId, y: ScalarId) -> ScalarId {
        let dtype = self.body.scalars[x].dtype;
        self.op(ScalarOp::Binary(op, x, y), dtype)
    }
}

/// A program of one kernel, every buffer with storage of its own.
pub fn program(kind: &KernelKind, args: &[Given]) -> Program {
    let mut buffers = Arena::default();
    let mut list = Vec::new();
    for (i, a) in args.iter().enumerate() {
        let buffer = buffers.push(Buffer {
            label: format!("a{i}"),
            dtype: a.dtype,
            len: a.data.len(),
            kind: BufferKind::Temp,
            place: Place::Own,
            live: None,
            takes_over: None,
        });
        list.push(Arg { buffer, mode: a.mode });
    }
    let mut kernels = Arena::default();
    kernels.push(Kernel { name: "k".into(), args: list, kind: kind.clone(), provenance: Default::default() });
    Program {
        name: "test".into(),
        target: TargetModel::cpu(),
        params: vec![],
        outputs: vec![],
        buffers,
        kernels,
        stages: vec![(0, 1)],
        memory: MemoryPlan::default(),
    }
}

/// The paths that this machine has.
pub fn paths() -> Vec<(String, CpuOptions)> {
    let plain = CpuOptions::default();
    let mut out = vec![
        ("portable".to_string(), plain),
        ("portable on the baseline".to_string(), CpuOptions { baseline: true, ..plain }),
    ];
    for isa in Isa::available() {
        out.push((format!("templates {}", isa.name()), CpuOptions { isa: Some(isa), ..plain }));
        if isa == Isa::Avx512 {
            let options = CpuOptions { isa: Some(isa), narrow_loops: true, ..plain };
            out.push((format!("templates {}, narrow loops", isa.name()), options));
        }
    }
    out
}

const GUARD: usize = 32;
const GUARD_BITS: u32 = 0x7fc0_dead;

/// The bits of an element in a buffer.
pub fn bits(dtype: DType, x: f64) -> u32 {
    match dtype {
        DType::F32 => (x as f32).to_bits(),
        DType::I32 => x as i32 as u32,
        DType::U32 => x as u32,
        DType::Bool => (x != 0.0) as u32,
        DType::F16 => panic!("no f16 on the CPU"),
    }
}

pub fn value(dtype: DType, bits: u32) -> f64 {
    match dtype {
        DType::F32 => f64::from(f32::from_bits(bits)),
        DType::I32 => f64::from(bits as i32),
        _ => f64::from(bits),
    }
}

/// What a buffer holds before the run: its contents, or garbage.
fn initial(a: &Given) -> Vec<u32> {
    match a.mode {
        ArgMode::Write => vec![0x7fc1_beef; a.data.len()],
        _ => a.data.iter().map(|x| bits(a.dtype, *x)).collect(),
    }
}

/// Contents of all arguments after a run through machine code, tasks in order or reversed.
fn run_native(name: &str, prepared: &Arc<PreparedProgram>, args: &[Given], reversed: bool) -> Vec<Vec<u32>> {
    let mut memory: Vec<Vec<u32>> =
        args.iter().map(|a| [vec![GUARD_BITS; GUARD], initial(a), vec![GUARD_BITS; GUARD]].concat()).collect();
    let addresses: Vec<*mut u8> = memory.iter_mut().map(|m| m[GUARD..].as_mut_ptr().cast()).collect();
    // SAFETY: each address is that of a buffer of the right length, which lives until the end of this function.
    let bound = unsafe { prepared.bind(&addresses) }.unwrap();
    let mut scratch = vec![0x7fc2_f00du32; prepared.scratch_bytes() / 4 + 32 + GUARD];
    let at = scratch.as_ptr().align_offset(64);
    let end = at + prepared.scratch_bytes() / 4;
    for round in 0..bound.rounds() {
        for i in 0..bound.tasks(round) {
            let task = if reversed { bound.tasks(round) - 1 - i } else { i };
            // SAFETY: rounds run in order, tasks once each, on one thread; scratch is long enough and aligned.
            unsafe { bound.run(round, task, scratch[at..].as_mut_ptr().cast()) }
        }
    }
    assert!(scratch[end..].iter().all(|x| *x == 0x7fc2_f00d), "{name}: wrote past its scratch");
    for (i, m) in memory.iter().enumerate() {
        let guards = m[..GUARD].iter().chain(&m[m.len() - GUARD..]);
        assert!(guards.into_iter().all(|x| *x == GUARD_BITS), "{name}: wrote outside argument {i}");
    }
    memory.into_iter().map(|m| m[GUARD..m.len() - GUARD].to_vec()).collect()
}

/// The parameters of the calls that replace one call, whose parameters have the given names.
pub type Split<'s> = &'s mut dyn FnMut(&[String], &Call) -> Vec<Vec<i64>>;

/// Contents of all arguments after the lowered functions ran in the interpreter, each call cut by `split`.
pub fn run_lowered(lowered: &Lowered, args: &[Given], split: Split) -> Vec<Vec<u32>> {
    let mut memory: Vec<Vec<u32>> = args.iter().map(initial).collect();
    let mut shared: Vec<Vec<u32>> = lowered.shared.iter().map(|n| vec![GUARD_BITS; *n]).collect();
    for phase in &lowered.phases {
        for call in phase {
            let func = &lowered.funcs[call.func];
            for params in split(&func.params, call) {
                let mut bufs: Vec<Data> = func
                    .bufs
                    .iter()
                    .zip(call.bufs.iter())
                    .map(|(decl, r)| {
                        let m = match r {
                            BufRef::Arg(a) => &memory[*a],
                            BufRef::Shared(s) => &shared[*s],
                            BufRef::Tile => panic!("no tile in a lowered kernel"),
                        };
                        match decl.elem {
                            tinygpt_vloop::Elem::F32 => Data::F32(m.iter().map(|x| f32::from_bits(*x)).collect()),
                            tinygpt_vloop::Elem::I32 => Data::I32(m.iter().map(|x| *x as i32).collect()),
                        }
                    })
                    .collect();
                if let Err(e) = interp::run(func, &mut bufs, &params, true) {
                    panic!("{e}\n{func}");
                }
                for (data, r) in bufs.into_iter().zip(call.bufs.iter()) {
                    let m = match data {
                        Data::F32(v) => v.iter().map(|x| x.to_bits()).collect(),
                        Data::I32(v) => v.iter().map(|x| *x as u32).collect(),
                    };
                    match r {
                        BufRef::Arg(a) => memory[*a] = m,
                        BufRef::Shared(s) => shared[*s] = m,
                        BufRef::Tile => unreachable!(),
                    }
                }
            }
        }
    }
    memory
}

/// Every combination of each range, a pair (x0, x1) of parameters, cut in up to three at random places, in random order. Pairs of other names stay.
fn split_randomly(rng: &mut Rng, names: &[String], call: &Call) -> Vec<Vec<i64>> {
    let mut out = vec![Vec::new()];
    for pair in call.params.chunks(2).zip(names.chunks(2)) {
        let ([from, to], [first, _]) = pair else { panic!("parameters come in pairs: {names:?}") };
        if !first.ends_with('0') {
            out.iter_mut().for_each(|params: &mut Vec<i64>| params.extend([*from, *to]));
            continue;
        }
        let mut cuts = vec![*from, *to];
        for _ in 0..rng.below(3) {
            cuts.push(from + rng.below((to - from) as usize + 1) as i64);
        }
        cuts.sort_unstable();
        cuts.dedup();
        out = out
            .iter()
            .flat_map(|base: &Vec<i64>| cuts.windows(2).map(move |w| [base.as_slice(), w].concat()).collect::<Vec<_>>())
            .collect();
    }
    for i in (1..out.len()).rev() {
        out.swap(i, rng.below(i + 1));
    }
    out
}

/// How far a float may be from the oracle: |got - want| <= absolute + relative |want|.
#[derive(Clone, Copy)]
pub struct Tolerance {
    pub relative: f64,
    pub absolute: f64,
}

pub const EXACT: Tolerance = Tolerance { relative: 0.0, absolute: 0.0 };
/// A few roundings.
pub const CLOSE: Tolerance = Tolerance { relative: 2e-6, absolute: 2e-6 };

/// Sums of many terms of size about 1.
pub fn sums(terms: usize) -> Tolerance {
    Tolerance { relative: 4e-6, absolute: 4e-7 * (terms as f64).sqrt().max(4.0) }
}

/// Sums of k products of operands in [-2, 2): partial sums grow to about 1.3 sqrt(k), and each of the k additions rounds one of them by
/// 6e-8 of itself at most, so errors are about 8e-8 k; four times that is allowed.
pub fn products(k: usize) -> Tolerance {
    Tolerance { relative: 2e-6, absolute: 3.2e-7 * (k as f64).max(8.0) }
}

/// The largest error of written arguments against the oracle, as a share of the tolerance; panics beyond 1.
fn compare(name: &str, args: &[Given], got: &[Vec<u32>], want: &[Vec<f64>], tolerance: Tolerance) -> f64 {
    let mut worst: f64 = 0.0;
    for (i, ((a, got), want)) in args.iter().zip(got).zip(want).enumerate() {
        if !a.mode.writes() {
            assert_eq!(*got, initial(a), "{name}: argument {i} is only read");
            continue;
        }
        for (at, (&bits, &want)) in got.iter().zip(want).enumerate() {
            let got = value(a.dtype, bits);
            let exact = got == want || (got.is_nan() && want.is_nan());
            // The oracle does not round to f32: what overflows there is infinite here.
            let overflow = a.dtype == DType::F32 && f64::from(want as f32) == got;
            if exact || overflow {
                continue;
            }
            let allowed =
                if a.dtype == DType::F32 { tolerance.absolute + tolerance.relative * want.abs() } else { 0.0 };
            let error = (got - want).abs();
            assert!(
                error <= allowed,
                "{name}: element {at} of argument {i} is {got}, expected {want} within {allowed:e}"
            );
            worst = worst.max(error / allowed);
        }
    }
    worst
}

/// Checks one kernel on every path. Returns the largest error as a share of the tolerance.
pub fn check(name: &str, kind: &KernelKind, args: &[Given], tolerance: Tolerance) -> f64 {
    let program = program(kind, args);
    let mut want: Vec<Vec<f64>> = args
        .iter()
        .map(|a| if a.mode == ArgMode::Write { vec![f64::NAN; a.data.len()] } else { a.data.clone() })
        .collect();
    let kernel = program.kernels.values().next().unwrap();
    tinygpt_ir::program::interp::run_kernel(kernel, &mut want).unwrap();
    // What the oracle left alone stays garbage: it must be so here too.
    for (a, want) in args.iter().zip(&mut want).filter(|(a, _)| a.mode == ArgMode::Write) {
        want.iter_mut().filter(|x| x.is_nan()).for_each(|x| *x = value(a.dtype, 0x7fc1_beef));
    }
    let mut worst: f64 = 0.0;
    let mut wide: Option<Vec<Vec<u32>>> = None;
    for (path, options) in paths() {
        let name = format!("{name}, {path}");
        let prepared = PreparedProgram::new(&program, &options).unwrap_or_else(|e| panic!("{name}: {e}"));
        let prepared = Arc::new(prepared);
        let got = run_native(&name, &prepared, args, false);
        assert_eq!(got, run_native(&name, &prepared, args, true), "{name}: the order of tasks changes bits");
        worst = worst.max(compare(&name, args, &got, &want, tolerance));
        if options.narrow_loops {
            let wide = wide.take().expect("the path before this one has wide loops");
            assert!(same(&got, &wide), "{name}: wide loops change bits");
        }
        if options == (CpuOptions { baseline: true, ..CpuOptions::default() }) {
            wasm::check(&name, kind, args, &got, &want, tolerance);
        }
        wide = Some(got);
    }
    let dtypes: Vec<DType> = args.iter().map(|a| a.dtype).collect();
    let mut rng = Rng(name.len() as u64 + args.len() as u64);
    for options in [
        LowerOptions::default(),
        LowerOptions { block_scheduling: true, ..LowerOptions::default() },
        LowerOptions { row_templates: true, ..LowerOptions::default() },
        LowerOptions { row_templates: true, wide_loops: true, ..LowerOptions::default() },
    ] {
        let name = format!("{name}, interpreted, {options:?}");
        let lowered = lower(kind, &dtypes, options).unwrap();
        let whole = run_lowered(&lowered, args, &mut |_, call| vec![call.params.clone()]);
        compare(&name, args, &whole, &want, tolerance);
        let parts = run_lowered(&lowered, args, &mut |names, call| split_randomly(&mut rng, names, call));
        assert!(same(&whole, &parts), "{name}: the cut into calls changes bits");
    }
    worst
}

/// Bit-equal, all NaNs alike.
fn same(a: &[Vec<u32>], b: &[Vec<u32>]) -> bool {
    let canonical = |x: u32| if f32::from_bits(x).is_nan() { 0x7fc0_0000 } else { x };
    a.iter().flatten().map(|x| canonical(*x)).eq(b.iter().flatten().map(|x| canonical(*x)))
}
