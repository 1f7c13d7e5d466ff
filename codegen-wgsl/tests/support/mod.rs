//! Runs one kernel in every variant on the adapter and compares it with the f64 interpreter of programs.

#![allow(dead_code)] // each test file uses its own part

pub mod cooperate;
pub mod gpu;

use gpu::{Gpu, gpu};
use std::collections::HashMap;
use tinygpt_codegen_wgsl::{Caps, Dialect, Unit, Variant, emit, pieces, validate, variants};
use tinygpt_ir::op::{Binary, Unary};
use tinygpt_ir::program::{
    Access, Affine, Arg, ArgId, ArgMode, Body, Buffer, BufferKind, Kernel, KernelKind, MemoryPlan, Place, Program,
    ScalarId, ScalarOp, StorageUnit, Store, TargetModel,
};
use tinygpt_ir::types::{Arena, DType, Literal, row_major};

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
    /// Strides over `extents` of an operand laid out in a random order of axes.
    pub fn layout(&mut self, extents: &[usize]) -> Vec<i64> {
        let mut order: Vec<usize> = (0..extents.len()).collect();
        for i in (1..order.len()).rev() {
            order.swap(i, self.below(i + 1));
        }
        laid_out(extents, &order)
    }
}

/// Strides of `space` laid out in memory in the given order of axes.
pub fn laid_out(space: &[usize], order: &[usize]) -> Vec<i64> {
    let extents: Vec<usize> = order.iter().map(|&a| space[a]).collect();
    let mut strides = vec![0; space.len()];
    for (&axis, stride) in order.iter().zip(row_major(&extents)) {
        strides[axis] = stride;
    }
    strides
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

pub fn store(arg: u32, strides: Vec<i64>, value: ScalarId) -> Store {
    Store { access: Access::direct(ArgId(arg), 0, strides), value }
}

/// A body under construction over a space of `rank` axes.
pub struct B {
    pub body: Body,
}

impl B {
    pub fn new() -> B {
        B { body: Body::default() }
    }
    pub fn op(&mut self, op: ScalarOp, dtype: DType) -> ScalarId {
        self.body.push(op, dtype)
    }
    pub fn f32(&mut self, op: ScalarOp) -> ScalarId {
        self.op(op, DType::F32)
    }
    pub fn acc(&mut self, i: u32) -> ScalarId {
        self.f32(ScalarOp::Acc(i))
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
    pub fn unary(&mut self, op: Unary, x: ScalarId) -> ScalarId {
        let dtype = self.body.scalars[x].dtype;
        self.op(ScalarOp::Unary(op, x), dtype)
    }
    pub fn binary(&mut self, op: Binary, x: ScalarId, y: ScalarId) -> ScalarId {
        let dtype = self.body.scalars[x].dtype;
        self.op(ScalarOp::Binary(op, x, y), dtype)
    }
}

/// Where a test puts arguments.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Layout {
    /// Each in an allocation of its own.
    Own,
    /// All side by side in one.
    Packed,
}

/// A program of one kernel.
pub fn program(kind: &KernelKind, args: &[Given], layout: Layout) -> Program {
    let mut buffers = Arena::default();
    let mut list = Vec::new();
    let mut end = 0;
    for (i, a) in args.iter().enumerate() {
        let place = match layout {
            Layout::Own => Place::Own,
            Layout::Packed => Place::Pack { pack: 0, offset: end },
        };
        // Room for guards between.
        end += (a.data.len() * a.dtype.size()).next_multiple_of(256) + 256;
        let buffer = buffers.push(Buffer {
            label: format!("a{i}"),
            dtype: a.dtype,
            len: a.data.len(),
            kind: BufferKind::Temp,
            place,
            live: None,
            takes_over: None,
        });
        list.push(Arg { buffer, mode: a.mode });
    }
    let mut kernels = Arena::default();
    kernels.push(Kernel { name: "k".into(), args: list, kind: kind.clone(), provenance: Default::default() });
    let packs = if layout == Layout::Packed { vec![end] } else { vec![] };
    Program {
        name: "test".into(),
        target: TargetModel::gpu(8, 1 << 30),
        params: vec![],
        outputs: vec![],
        buffers,
        kernels,
        stages: vec![(0, 1)],
        memory: MemoryPlan { packs, ..MemoryPlan::default() },
    }
}

/// Words that nobody may change: a NaN.
pub const GARBAGE: u32 = 0x7fc1_beef;

/// The bits of an element of four bytes in a buffer.
pub fn bits(dtype: DType, x: f64) -> u32 {
    match dtype {
        DType::F32 => (x as f32).to_bits(),
        DType::I32 => x as i32 as u32,
        DType::U32 => x as u32,
        DType::Bool => (x != 0.0) as u32,
        DType::F16 => panic!("f16 has two bytes"),
    }
}

pub fn value(dtype: DType, bits: u32) -> f64 {
    match dtype {
        DType::F32 => f64::from(f32::from_bits(bits)),
        DType::I32 => f64::from(bits as i32),
        _ => f64::from(bits),
    }
}

/// What a buffer holds of an argument at first. Those of f16 are only read.
fn initial(a: &Given) -> Vec<u32> {
    match a.mode {
        ArgMode::Write => vec![GARBAGE; a.data.len()],
        ArgMode::Read if a.dtype == DType::F16 => {
            let half = |x: Option<&f64>| u32::from(half::f16::from_f64(x.copied().unwrap_or_default()).to_bits());
            a.data.chunks(2).map(|two| half(two.first()) | half(two.get(1)) << 16).collect()
        }
        _ => a.data.iter().map(|x| bits(a.dtype, *x)).collect(),
    }
}

/// How far a float may be from the oracle: |got - want| <= absolute + relative |want|.
#[derive(Clone, Copy)]
pub struct Tolerance {
    pub relative: f64,
    pub absolute: f64,
}

pub const EXACT: Tolerance = Tolerance { relative: 0.0, absolute: 0.0 };
/// A few roundings; division, square root and its inverse are allowed 2.5 ulp by WGSL.
pub const CLOSE: Tolerance = Tolerance { relative: 2e-6, absolute: 2e-6 };

/// Sums of many terms of size about 1.
pub fn sums(terms: usize) -> Tolerance {
    Tolerance { relative: 4e-6, absolute: 4e-7 * (terms as f64).sqrt().max(4.0) }
}

/// Sums of k products of operands in [-2, 2): see the CPU backend's tests.
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

/// Checks one kernel in every variant, the default one in both layouts. Returns the largest error as a share of the tolerance.
pub fn check(name: &str, kind: &KernelKind, args: &[Given], tolerance: Tolerance) -> f64 {
    run_variants(name, kind, args, tolerance, &|v, _| Some(v))
}

/// [`check`] of the default variant and one other, which depends on the name: software adapters compile slowly.
pub fn check_two(name: &str, kind: &KernelKind, args: &[Given], tolerance: Tolerance) -> f64 {
    let number = name.bytes().fold(7usize, |h, b| h.wrapping_mul(31).wrapping_add(usize::from(b)));
    run_variants(name, kind, args, tolerance, &|v, n| match v {
        0 => Some(0),
        1 => Some(1 + number % (n - 1)),
        _ => None,
    })
}

/// [`check`] of the default variant.
pub fn check_default(name: &str, kind: &KernelKind, args: &[Given], tolerance: Tolerance) -> f64 {
    run_variants(name, kind, args, tolerance, &|v, _| (v == 0).then_some(0))
}

/// `choose(i, n)` is the i-th of n variants to run; None ends the list.
fn run_variants(
    name: &str,
    kind: &KernelKind,
    args: &[Given],
    tolerance: Tolerance,
    choose: &dyn Fn(usize, usize) -> Option<usize>,
) -> f64 {
    let Some(gpu) = gpu() else { return 0.0 };
    let mut want: Vec<Vec<f64>> = args
        .iter()
        .map(|a| if a.mode == ArgMode::Write { vec![f64::NAN; a.data.len()] } else { a.data.clone() })
        .collect();
    let own = program(kind, args, Layout::Own);
    tinygpt_ir::program::interp::run_kernel(own.kernels.values().next().unwrap(), &mut want).unwrap();
    // What the oracle left alone stays garbage: it must be so here too.
    for (a, want) in args.iter().zip(&mut want).filter(|(a, _)| a.mode == ArgMode::Write) {
        want.iter_mut().filter(|x| x.is_nan()).for_each(|x| *x = value(a.dtype, GARBAGE));
    }
    let mut worst: f64 = 0.0;
    for layout in [Layout::Own, Layout::Packed] {
        let caps = gpu.caps.clone();
        // An update or a fold becomes several pieces; any other kernel has its limit.
        let cut = matches!(kind, KernelKind::Update(_) | KernelKind::Fold(_));
        let fits = args.len() < caps.max_storage_buffers as usize || cut;
        if layout == Layout::Own && !fits {
            continue;
        }
        let program = program(kind, args, layout);
        let kernel = program.kernels.values().next().unwrap();
        let pieces = pieces(&program, kernel, &caps).unwrap_or_else(|e| panic!("{name}: {e}"));
        let lists: Vec<_> = pieces.iter().map(|p| variants(p, &caps)).collect();
        let most = lists.iter().map(Vec::len).max().unwrap_or(0);
        let chosen = (0..most).map_while(|i| choose(i, most)).take(if layout == Layout::Packed { 1 } else { most });
        for v in chosen {
            let name = format!("{name}, {layout:?}, {}", lists[0][v.min(lists[0].len() - 1)]);
            let start = std::time::Instant::now();
            let (units, regions) = upload(gpu, &program, args, layout);
            for (piece, list) in pieces.iter().zip(&lists) {
                let variant = &list[v.min(list.len() - 1)];
                let module = emit(piece, &caps, variant).unwrap_or_else(|e| panic!("{name}: {e}"));
                let source = module.source(Dialect::Naga);
                validate(&source, &caps).unwrap_or_else(|e| panic!("{name}: {e}\n{source}"));
                gpu.run(&module, &units);
            }
            let got = download(gpu, &name, args, &units, &regions);
            worst = worst.max(compare(&name, args, &got, &want, tolerance));
            if start.elapsed().as_secs() >= 2 {
                println!("{name}: {:.1} s", start.elapsed().as_secs_f64());
            }
        }
    }
    worst
}

/// Runs these variants of a kernel, those on cooperative matrices by their emulation where the adapter has none.
pub fn check_these(name: &str, kind: &KernelKind, args: &[Given], tolerance: Tolerance, list: &[Variant]) {
    let Some(gpu) = gpu() else { return };
    let mut want: Vec<Vec<f64>> = args.iter().map(|a| a.data.clone()).collect();
    let mut program = program(kind, args, Layout::Own);
    program.target.f16_operands = true;
    let kernel = program.kernels.values().next().unwrap();
    tinygpt_ir::program::interp::run_kernel(kernel, &mut want).unwrap();
    let own = gpu.caps.cooperative;
    // To the emulation f16 in workgroup memory are twice as large.
    let matrices = |v: &Variant| matches!(v, Variant::Cooperate { .. } | Variant::AttentionMatrices { .. });
    let most = if list.iter().any(matrices) { 16 << 10 } else { u32::MAX };
    let workgroup_bytes = gpu.caps.workgroup_bytes.min(most);
    let cooperative = own.or(Some(cooperate::SUBGROUP));
    let caps = Caps { cooperative, workgroup_bytes, f16: true, ..gpu.caps.clone() };
    let piece = &pieces(&program, kernel, &caps).unwrap()[0];
    for variant in list {
        let name = format!("{name}, {variant}");
        let mut module = emit(piece, &caps, variant).unwrap_or_else(|e| panic!("{name}: {e}"));
        validate(&module.source(Dialect::Naga), &caps).unwrap_or_else(|e| panic!("{name}: {e}"));
        let mut args = args.to_vec();
        if module.cooperative && own.is_none() {
            (module.code, module.f16, module.cooperative) = (cooperate::emulated(&module.code), false, false);
            // What is f16 in memory is f32 to the emulation.
            for (a, bound) in args.iter_mut().zip(&piece.bindings.args).filter(|(a, _)| a.dtype == DType::F16) {
                a.dtype = DType::F32;
                module.bindings[bound.binding].size *= 2;
            }
        }
        let args = &args[..];
        let start = std::time::Instant::now();
        let (units, regions) = upload(gpu, &program, args, Layout::Own);
        gpu.run(&module, &units);
        let got = download(gpu, &name, args, &units, &regions);
        compare(&name, args, &got, &want, tolerance);
        if start.elapsed().as_secs() >= 2 {
            println!("{name}: {:.1} s", start.elapsed().as_secs_f64());
        }
    }
}

/// Unit and first word of each argument.
type Regions = Vec<(Unit, usize)>;

fn upload(gpu: &Gpu, program: &Program, args: &[Given], layout: Layout) -> (HashMap<Unit, wgpu::Buffer>, Regions) {
    let mut words: HashMap<Unit, Vec<u32>> = HashMap::new();
    let mut regions = Regions::new();
    for (a, (id, _)) in args.iter().zip(program.buffers.iter()) {
        let (unit, at) = program.storage(id);
        let unit = Unit::Storage(unit);
        let all = words.entry(unit).or_insert_with(|| match layout {
            // A guard after the end.
            Layout::Own => vec![GARBAGE; initial(a).len() + 8],
            Layout::Packed => vec![GARBAGE; program.memory.packs[0] / 4],
        });
        let words = initial(a);
        all[at / 4..at / 4 + words.len()].copy_from_slice(&words);
        regions.push((unit, at / 4));
    }
    (words.iter().map(|(u, w)| (*u, gpu.buffer(w))).collect(), regions)
}

fn download(
    gpu: &Gpu,
    name: &str,
    args: &[Given],
    units: &HashMap<Unit, wgpu::Buffer>,
    regions: &Regions,
) -> Vec<Vec<u32>> {
    let mut words: HashMap<Unit, Vec<u32>> = units.iter().map(|(u, b)| (*u, gpu.read(b))).collect();
    let mut out = Vec::new();
    for (a, (unit, at)) in args.iter().zip(regions) {
        let all = words.get_mut(unit).unwrap();
        let end = at + initial(a).len();
        out.push(all[*at..end].to_vec());
        all[*at..end].fill(GARBAGE);
    }
    for (unit, all) in words {
        assert!(all.iter().all(|w| *w == GARBAGE), "{name}: wrote outside the arguments of {unit:?}");
    }
    out
}

/// The first storage unit of a program's kernel, for tests of bindings.
pub fn pack(n: u32) -> Unit {
    Unit::Storage(StorageUnit::Pack(n))
}
