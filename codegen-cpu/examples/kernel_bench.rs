//! Prints the speed of single kernels on one thread: the portable path and each template set.
//!
//! `cargo run --release -p tinygpt-codegen-cpu --example kernel_bench [NAME]`

use std::sync::Arc;
use std::time::Instant;
use tinygpt_codegen_cpu::compile::{CpuOptions, PreparedProgram};
use tinygpt_codegen_cpu::memory::Memory;
use tinygpt_ir::op::{Binary, Reduce, Unary};
use tinygpt_ir::program::{
    Access, ArgId, ArgMode, Attention, AttentionGrad, AttentionShape, Contract, ContractPart, KernelKind, Pointwise,
    ReduceKernel, Reduction, ScalarId, ScalarOp, Store, Term,
};
use tinygpt_ir::types::{DType, row_major};
use tinygpt_simd::Isa;

#[path = "../tests/support/mod.rs"]
mod support;
use support::{B, Given, Rng, program, read, write};

struct Bench {
    name: String,
    kind: KernelKind,
    args: Vec<Given>,
    /// Work of one run, and its unit a nanosecond.
    work: f64,
    unit: &'static str,
}

fn store(arg: u32, strides: Vec<i64>, value: ScalarId) -> Store {
    Store { access: Access::direct(ArgId(arg), 0, strides), value }
}

/// What follows the sums of a product.
#[derive(Clone, Copy, PartialEq)]
enum After {
    Store,
    Bias,
    /// Bias, then gelu by the error function.
    Gelu,
    /// Bias, gelu, and its slope as a second result: the forward pass of training.
    GeluAndSlope,
}

/// A product in one of the transpositions of training: forward (nt), gradient of the input (nn), gradient of the weight (tn).
fn product(m: usize, n: usize, k: usize, ta: bool, tb: bool, after: After) -> Bench {
    let mut b = B::new(2);
    let mut value = b.f32(ScalarOp::Acc(0));
    let mut rng = Rng(1);
    let mut args = vec![read(DType::F32, rng.floats(m * k)), read(DType::F32, rng.floats(k * n))];
    let mut stores = vec![];
    if after != After::Store {
        let bias = b.load(2, DType::F32, &[0, 1]);
        value = b.binary(Binary::Add, value, bias);
        args.push(read(DType::F32, rng.floats(n)));
    }
    if after == After::Gelu || after == After::GeluAndSlope {
        let factor = b.constant(std::f64::consts::FRAC_1_SQRT_2);
        let scaled = b.binary(Binary::Mul, value, factor);
        let e = b.unary(Unary::Erf, scaled);
        let half = b.constant(0.5);
        let e = b.binary(Binary::Mul, e, half);
        let cdf = b.binary(Binary::Add, e, half);
        let gelu = b.binary(Binary::Mul, value, cdf);
        if after == After::GeluAndSlope {
            let square = b.binary(Binary::Mul, value, value);
            let factor = b.constant(-0.5);
            let exponent = b.binary(Binary::Mul, square, factor);
            let density = b.unary(Unary::Exp, exponent);
            let factor = b.constant(0.398_942_280_401_432_7);
            let density = b.binary(Binary::Mul, density, factor);
            let product = b.binary(Binary::Mul, value, density);
            let slope = b.binary(Binary::Add, cdf, product);
            stores.push(store(4, vec![n as i64, 1], slope));
        }
        value = gelu;
    }
    stores.insert(0, store(args.len() as u32, vec![n as i64, 1], value));
    args.extend(stores.iter().map(|_| write(DType::F32, m * n)));
    let lhs = if ta { vec![1, m as i64] } else { vec![k as i64, 1] };
    let rhs = if tb { vec![k as i64, 1] } else { vec![1, n as i64] };
    let part = ContractPart {
        batch: vec![],
        m: vec![m],
        n: vec![n],
        terms: vec![Term {
            k: vec![k],
            f16: false,
            lhs: Access::direct(ArgId(0), 0, lhs),
            rhs: Access::direct(ArgId(1), 0, rhs),
        }],
        body: b.body,
        stores,
    };
    let letter = |t: bool| if t { 't' } else { 'n' };
    let after = match after {
        After::Store => "",
        After::Bias => " bias",
        After::Gelu => " bias gelu",
        After::GeluAndSlope => " bias gelu slope",
    };
    Bench {
        name: format!("product {m}x{n}x{k} {}{}{after}", letter(ta), letter(tb)),
        kind: KernelKind::Contract(Contract { parts: vec![part] }),
        args,
        work: 2.0 * (m * n * k) as f64,
        unit: "GFLOP/s",
    }
}

fn pointwise(name: &str, n: usize, body: impl Fn(&mut B, ScalarId, ScalarId) -> ScalarId) -> Bench {
    let mut b = B::new(1);
    let (x, y) = (b.load(0, DType::F32, &[1]), b.load(1, DType::F32, &[1]));
    let out = body(&mut b, x, y);
    let mut rng = Rng(2);
    Bench {
        name: format!("{name} {n}"),
        kind: KernelKind::Pointwise(Pointwise { space: vec![n], body: b.body, stores: vec![store(2, vec![1], out)] }),
        args: vec![read(DType::F32, rng.floats(n)), read(DType::F32, rng.floats(n)), write(DType::F32, n)],
        work: n as f64,
        unit: "Gelem/s",
    }
}

fn layer_norm(rows: usize, cols: usize) -> Bench {
    let mut b = B::new(2);
    let x = b.load(0, DType::F32, &[cols as i64, 1]);
    let w = b.load(1, DType::F32, &[0, 1]);
    let n = b.constant(1.0 / cols as f64);
    let sum = b.f32(ScalarOp::Acc(0));
    let mean = b.binary(Binary::Mul, sum, n);
    let centred = b.binary(Binary::Sub, x, mean);
    let square = b.binary(Binary::Mul, centred, centred);
    let squares = b.f32(ScalarOp::Acc(1));
    let variance = b.binary(Binary::Mul, squares, n);
    let inverse = b.unary(Unary::Rsqrt, variance);
    let out = b.binary(Binary::Mul, centred, inverse);
    let out = b.binary(Binary::Mul, out, w);
    let bias = b.load(2, DType::F32, &[0, 1]);
    let out = b.binary(Binary::Add, out, bias);
    let mut rng = Rng(3);
    Bench {
        name: format!("layer_norm {rows}x{cols}"),
        kind: KernelKind::Reduce(ReduceKernel {
            rows: vec![rows],
            cols: vec![cols],
            body: b.body,
            reductions: vec![Reduction { op: Reduce::Sum, value: x }, Reduction { op: Reduce::Sum, value: square }],
            stores: vec![
                store(3, vec![1, 0], mean),
                store(4, vec![1, 0], inverse),
                store(5, vec![cols as i64, 1], out),
            ],
        }),
        args: vec![
            read(DType::F32, rng.floats(rows * cols)),
            read(DType::F32, rng.floats(cols)),
            read(DType::F32, rng.floats(cols)),
            write(DType::F32, rows),
            write(DType::F32, rows),
            write(DType::F32, rows * cols),
        ],
        work: (rows * cols) as f64,
        unit: "Gelem/s",
    }
}

fn softmax(rows: usize, cols: usize) -> Bench {
    let mut b = B::new(2);
    let x = b.load(0, DType::F32, &[cols as i64, 1]);
    let max = b.f32(ScalarOp::Acc(0));
    let shifted = b.binary(Binary::Sub, x, max);
    let e = b.unary(Unary::Exp, shifted);
    let sum = b.f32(ScalarOp::Acc(1));
    let p = b.binary(Binary::Div, e, sum);
    let mut rng = Rng(4);
    Bench {
        name: format!("softmax {rows}x{cols}"),
        kind: KernelKind::Reduce(ReduceKernel {
            rows: vec![rows],
            cols: vec![cols],
            body: b.body,
            reductions: vec![Reduction { op: Reduce::Max, value: x }, Reduction { op: Reduce::Sum, value: e }],
            stores: vec![store(1, vec![cols as i64, 1], p)],
        }),
        args: vec![read(DType::F32, rng.floats(rows * cols)), write(DType::F32, rows * cols)],
        work: (rows * cols) as f64,
        unit: "Gelem/s",
    }
}

fn column_sums(tall: usize, columns: usize) -> Bench {
    let mut b = B::new(2);
    let x = b.load(0, DType::F32, &[1, columns as i64]);
    let sum = b.f32(ScalarOp::Acc(0));
    let mut rng = Rng(5);
    Bench {
        name: format!("column sums {tall}x{columns}"),
        kind: KernelKind::Reduce(ReduceKernel {
            rows: vec![columns],
            cols: vec![tall],
            body: b.body,
            reductions: vec![Reduction { op: Reduce::Sum, value: x }],
            stores: vec![store(1, vec![1, 0], sum)],
        }),
        args: vec![read(DType::F32, rng.floats(tall * columns)), write(DType::F32, columns)],
        work: (tall * columns) as f64,
        unit: "Gelem/s",
    }
}

fn attention(shape: AttentionShape, gradient: bool) -> Bench {
    let (qs, ks) = (shape.q_space(), shape.k_space());
    let (qn, kn) = (qs.iter().product::<usize>(), ks.iter().product::<usize>());
    let q = |arg: u32| Access::direct(ArgId(arg), 0, row_major(&qs));
    let k = |arg: u32| Access::direct(ArgId(arg), 0, row_major(&ks));
    let lse = |arg: u32| Access::direct(ArgId(arg), 0, row_major(&shape.lse_space()));
    let rows = shape.lse_space().iter().product();
    let mut rng = Rng(6);
    let mut args =
        vec![read(DType::F32, rng.floats(qn)), read(DType::F32, rng.floats(kn)), read(DType::F32, rng.floats(kn))];
    let pairs = (qn * shape.k_len) as f64 * if shape.causal { 0.5 } else { 1.0 };
    let (kind, products) = if gradient {
        args.extend([
            read(DType::F32, rng.floats(qn)),
            read(DType::F32, vec![4.0; rows]),
            read(DType::F32, rng.floats(qn)),
        ]);
        args.extend([write(DType::F32, qn), write(DType::F32, kn), write(DType::F32, kn)]);
        let kind = AttentionGrad {
            shape,
            q: q(0),
            k: k(1),
            v: k(2),
            out: q(3),
            lse: lse(4),
            dout: q(5),
            dq: Some(q(6)),
            dk: Some(k(7)),
            dv: Some(k(8)),
        };
        (KernelKind::AttentionGrad(kind), 5.0)
    } else {
        args.extend([write(DType::F32, qn), write(DType::F32, rows)]);
        let kind = Attention { shape, q: q(0), k: k(1), v: Some(k(2)), out: Some(q(3)), lse: Some(lse(4)) };
        (KernelKind::Attention(kind), 2.0)
    };
    let name = if gradient { "attention_grad" } else { "attention" };
    Bench {
        name: format!("{name} B{} H{} T{} D{}", shape.batch, shape.heads, shape.q_len, shape.head_dim),
        kind,
        args,
        work: 2.0 * products * pairs,
        unit: "GFLOP/s",
    }
}

fn main() {
    let only = std::env::args().nth(1).unwrap_or_default();
    let large =
        AttentionShape { batch: 12, heads: 6, q_len: 128, k_len: 128, head_dim: 32, causal: true, scale: 0.176 };
    let benches = [
        // The products of a step at `large`, in the transpositions that it uses.
        product(1536, 768, 192, false, true, After::Bias),
        product(1536, 768, 192, false, true, After::Gelu),
        product(1536, 768, 192, false, true, After::GeluAndSlope),
        product(1536, 768, 192, false, false, After::Store),
        product(1536, 192, 768, false, true, After::Bias),
        product(1536, 192, 768, false, false, After::Store),
        product(192, 768, 1536, true, false, After::Store),
        product(768, 192, 1536, true, false, After::Store),
        // Few rows, as in decoding, and the least number of them for which operands are packed.
        product(1, 768, 192, false, true, After::Store),
        product(4, 768, 192, false, true, After::Store),
        product(5, 768, 192, false, true, After::Store),
        product(1, 768, 192, false, false, After::Store),
        pointwise("add", 294_912, |b, x, y| b.binary(Binary::Add, x, y)),
        pointwise("gelu", 294_912, |b, x, y| {
            let e = b.unary(Unary::Erf, x);
            b.binary(Binary::Mul, e, y)
        }),
        layer_norm(1536, 192),
        softmax(1536, 256),
        column_sums(1536, 768),
        column_sums(12_288, 768),
        attention(large, false),
        attention(large, true),
    ];
    let mut paths = vec![("portable".to_string(), CpuOptions::default())];
    for isa in Isa::available() {
        paths.push((isa.name().to_string(), CpuOptions { isa: Some(isa), ..CpuOptions::default() }));
    }
    println!("{:<34} {:<10} {:>10} {:>10} {:>9} {:>6}", "kernel", "path", "us", "rate", "", "tasks");
    for bench in benches.iter().filter(|b| b.name.contains(&only)) {
        for (path, options) in &paths {
            let prepared = Arc::new(PreparedProgram::new(&program(&bench.kind, &bench.args), options).unwrap());
            // As a step has them: aligned, on huge pages where they are long.
            let mut memory: Vec<Memory> = bench.args.iter().map(|a| Memory::new(4 * a.data.len()).unwrap()).collect();
            let addresses: Vec<*mut u8> = memory.iter_mut().map(Memory::ptr).collect();
            for (arg, &address) in bench.args.iter().zip(&addresses).filter(|(arg, _)| arg.mode != ArgMode::Write) {
                for (i, x) in arg.data.iter().enumerate() {
                    // SAFETY: the piece has as many elements as the argument.
                    unsafe { *address.cast::<f32>().add(i) = *x as f32 };
                }
            }
            // SAFETY: the buffers have the program's lengths and live to the end of this block.
            let bound = unsafe { prepared.bind(&addresses) }.unwrap();
            let mut scratch = vec![0u32; prepared.scratch_bytes() / 4 + 16];
            let at = scratch.as_ptr().align_offset(64);
            let mut best = f64::INFINITY;
            let started = Instant::now();
            while started.elapsed().as_millis() < 200 {
                let t = Instant::now();
                for round in 0..bound.rounds() {
                    for task in 0..bound.tasks(round) {
                        // SAFETY: rounds run in order on one thread; scratch is long enough and aligned.
                        unsafe { bound.run(round, task, scratch[at..].as_mut_ptr().cast()) }
                    }
                }
                best = best.min(t.elapsed().as_secs_f64());
            }
            let tasks: usize = (0..bound.rounds()).map(|r| bound.tasks(r)).sum();
            let rate = bench.work / best / 1e9;
            println!(
                "{:<34} {:<10} {:>10.1} {:>10.2} {:>9} {:>6}",
                bench.name,
                path,
                best * 1e6,
                rate,
                bench.unit,
                tasks
            );
        }
    }
}
