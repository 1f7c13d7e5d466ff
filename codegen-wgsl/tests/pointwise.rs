//! Pointwise and update kernels on the adapter against the f64 interpreter: every scalar operation, spaces, accesses.

mod support;

use support::*;
use tinygpt_ir::op::{Binary, Compare, Unary};
use tinygpt_ir::program::{Access, Affine, ArgId, Indirect, KernelKind, Pointwise, ScalarId, ScalarOp, Store, Update};
use tinygpt_ir::types::{DType, Literal, row_major};

const DTYPES: [DType; 4] = [DType::F32, DType::I32, DType::U32, DType::Bool];

fn pointwise(space: Vec<usize>, b: B, stores: Vec<Store>) -> KernelKind {
    KernelKind::Pointwise(Pointwise { space, body: b.body, stores })
}

/// One operation over arguments with the given dtypes, and its result.
fn one_op(
    name: &str,
    inputs: Vec<(DType, Vec<f64>)>,
    result: DType,
    tolerance: Tolerance,
    op: impl Fn(&[ScalarId]) -> ScalarOp,
) {
    let n = inputs[0].1.len();
    let mut b = B::new();
    let ids: Vec<ScalarId> = inputs.iter().enumerate().map(|(i, (t, _))| b.load(i as u32, *t, &[1])).collect();
    let value = b.op(op(&ids), result);
    let out = inputs.len() as u32;
    let mut args: Vec<Given> = inputs.into_iter().map(|(t, data)| read(t, data)).collect();
    args.push(write(result, n));
    let worst = check(name, &pointwise(vec![n], b, vec![store(out, vec![1], value)]), &args, tolerance);
    println!("{name:<28} {worst:>6.3} of the tolerance");
}

/// Arguments within each function's domain.
fn domain(op: Unary, rng: &mut Rng, n: usize) -> Vec<f64> {
    let scale = |x: f64, by: f64| f64::from((x * by) as f32);
    rng.floats(n)
        .into_iter()
        .map(|x| match op {
            Unary::Log | Unary::Sqrt | Unary::Rsqrt => scale(x.abs() + 1e-3, 5.0),
            Unary::Recip => scale(x.signum() * (x.abs() + 0.1), 3.0),
            Unary::Exp | Unary::Neg => scale(x, 20.0),
            Unary::Sin | Unary::Cos => scale(x, 30.0),
            _ => scale(x, 2.0),
        })
        .collect()
}

#[test]
fn every_unary_operation() {
    let mut rng = Rng(1);
    for op in Unary::ALL.iter().copied() {
        for n in [3, 1028] {
            let x = domain(op, &mut rng, n);
            one_op(&format!("{} {n}", op.name()), vec![(DType::F32, x)], DType::F32, CLOSE, |i| {
                ScalarOp::Unary(op, i[0])
            });
        }
    }
    for dtype in [DType::I32, DType::U32] {
        let x = rng.values(dtype, 36);
        one_op(&format!("neg {dtype}"), vec![(dtype, x)], dtype, EXACT, |i| ScalarOp::Unary(Unary::Neg, i[0]));
    }
}

#[test]
fn special_values() {
    let x = vec![0.0, -0.0, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 1.0, -1.0, 200.0, -200.0, 0.5, 1e-30, -3.0];
    for op in [Unary::Exp, Unary::Log, Unary::Sqrt, Unary::Rsqrt, Unary::Recip, Unary::Tanh, Unary::Erf] {
        let flushed = Tolerance { relative: 2e-6, absolute: 1e-30 };
        let name = format!("{} of special values", op.name());
        one_op(&name, vec![(DType::F32, x.clone())], DType::F32, flushed, |i| ScalarOp::Unary(op, i[0]));
    }
}

#[test]
fn every_binary_operation() {
    let mut rng = Rng(2);
    for op in Binary::ALL.iter().copied() {
        for dtype in DTYPES {
            let defined = match op {
                Binary::Max | Binary::Min => true,
                Binary::Div => dtype == DType::F32,
                _ => dtype != DType::Bool,
            };
            for n in [5, 68].into_iter().filter(|_| defined) {
                let x = rng.values(dtype, n);
                let y: Vec<f64> = rng
                    .values(dtype, n)
                    .into_iter()
                    .map(|y| if op == Binary::Div { f64::from((y.signum() * (y.abs() + 0.1)) as f32) } else { y })
                    .collect();
                let name = format!("{} {dtype} {n}", op.name());
                one_op(&name, vec![(dtype, x), (dtype, y)], dtype, CLOSE, |i| ScalarOp::Binary(op, i[0], i[1]));
            }
        }
    }
    let (x, y) = (vec![f64::NAN, 1.0, -0.5, f64::NEG_INFINITY], vec![1.0, f64::NAN, 3.0, 2.0]);
    for op in [Binary::Max, Binary::Min] {
        let inputs = vec![(DType::F32, x.clone()), (DType::F32, y.clone())];
        one_op(&format!("{} with NaN", op.name()), inputs, DType::F32, EXACT, |i| ScalarOp::Binary(op, i[0], i[1]));
    }
}

#[test]
fn every_comparison_and_selection() {
    let mut rng = Rng(3);
    for dtype in DTYPES {
        for op in Compare::ALL.iter().copied() {
            for n in [41, 44] {
                let x = rng.values(dtype, n);
                // Half of the pairs are equal.
                let y: Vec<f64> =
                    rng.values(dtype, n).into_iter().zip(&x).map(|(y, x)| if y > *x { y } else { *x }).collect();
                let name = format!("{} {dtype}", op.name());
                one_op(&name, vec![(dtype, x), (dtype, y)], DType::Bool, EXACT, |i| ScalarOp::Compare(op, i[0], i[1]));
            }
        }
        for n in [23, 24] {
            let (c, x, y) = (rng.values(DType::Bool, n), rng.values(dtype, n), rng.values(dtype, n));
            let inputs = vec![(DType::Bool, c), (dtype, x), (dtype, y)];
            one_op(&format!("select {dtype}"), inputs, dtype, EXACT, |i| ScalarOp::Select(i[0], i[1], i[2]));
        }
    }
}

#[test]
fn every_cast() {
    let mut rng = Rng(4);
    for from in DTYPES {
        for to in DTYPES {
            for n in [45, 48] {
                let mut x = rng.values(from, n);
                if from == DType::F32 {
                    x[..6].copy_from_slice(&[1e10, -1e10, f64::NAN, 0.0, -1.5, 3e9]);
                }
                let relative = Tolerance { relative: 1e-7, absolute: 0.0 };
                one_op(&format!("{from} to {to}"), vec![(from, x)], to, relative, |i| ScalarOp::Cast(i[0]));
            }
        }
    }
}

#[test]
fn random_numbers() {
    // Seed and counter the same everywhere, then varying.
    for (stride, n) in [(0, 100), (1, 101), (1, 64)] {
        let mut rng = Rng(5);
        let mut b = B::new();
        let (seed, counter) = (b.load(0, DType::U32, &[stride]), b.load(1, DType::U32, &[stride]));
        let index = b.index(&[1]);
        let index = b.op(ScalarOp::Cast(index), DType::U32);
        let x = b.f32(ScalarOp::Random { seed, counter, stream: 7, index });
        let len = if stride == 0 { 1 } else { n };
        let args = [
            read(DType::U32, rng.values(DType::U32, len)),
            read(DType::U32, rng.values(DType::U32, len)),
            write(DType::F32, n),
        ];
        check("random", &pointwise(vec![n], b, vec![store(2, vec![1], x)]), &args, EXACT);
    }
}

#[test]
fn constants_and_indices() {
    for space in [vec![3, 5, 11], vec![3, 2, 8]] {
        let n = space.iter().product();
        for dtype in DTYPES {
            let mut b = B::new();
            let c = b.op(ScalarOp::Const(Literal::new(dtype, 3.0)), dtype);
            let i = b.op(ScalarOp::Index(Affine { offset: -2, coeffs: vec![100, -10, 3] }), DType::I32);
            let i = b.op(ScalarOp::Cast(i), dtype);
            let x = b.op(ScalarOp::Binary(Binary::Max, c, i), dtype);
            let cc = b.op(ScalarOp::Binary(Binary::Max, c, c), dtype);
            let strides = row_major(&space);
            let stores = vec![store(0, strides.clone(), cc), store(1, strides, x)];
            let name = format!("index {dtype}");
            check(&name, &pointwise(space.clone(), b, stores), &[write(dtype, n), write(dtype, n)], EXACT);
        }
    }
    // What WGSL has no literal for, and folding that it would refuse.
    let mut b = B::new();
    let values = [f64::INFINITY, f64::NEG_INFINITY, f64::NAN, f64::from(f32::MAX), -0.0, 1e-30];
    let mut stores = Vec::new();
    for (i, v) in values.into_iter().enumerate() {
        let c = b.constant(v);
        let zero = b.constant(0.0);
        let value = if i % 2 == 0 { c } else { b.binary(Binary::Div, c, zero) };
        stores.push(store(i as u32, vec![1], value));
    }
    let args: Vec<Given> = values.iter().map(|_| write(DType::F32, 4)).collect();
    check("not finite", &pointwise(vec![4], b, stores), &args, EXACT);
}

#[test]
fn spaces_and_accesses() {
    let mut rng = Rng(6);
    for case in 0..24 {
        let rank = rng.below(5);
        let space: Vec<usize> = (0..rank).map(|_| rng.pick(&[1, 1, 2, 3, 4, 5, 7, 8, 16, 33])).collect();
        let n: usize = space.iter().product();
        let mut b = B::new();
        // Row-major, transposed, broadcast with an offset, scalar.
        let x = b.load(0, DType::F32, &row_major(&space));
        let y = b.load(1, DType::F32, &rng.layout(&space));
        let cast: Vec<i64> = row_major(&space).into_iter().map(|s| if rng.below(2) == 0 { 0 } else { s }).collect();
        let z = b.f32(ScalarOp::Load(Access::direct(ArgId(2), 2, cast)));
        let s = b.load(3, DType::F32, &vec![0; rank]);
        let xy = b.binary(Binary::Mul, x, y);
        let zs = b.binary(Binary::Sub, z, s);
        let sum = b.binary(Binary::Add, xy, zs);
        let scale = b.unary(Unary::Exp, s);
        let out = b.binary(Binary::Mul, sum, scale);
        let mut stores = vec![store(4, rng.layout(&space), out)];
        let mut args = vec![
            read(DType::F32, rng.floats(n)),
            read(DType::F32, rng.floats(n)),
            read(DType::F32, rng.floats(n + 2)),
            read(DType::F32, rng.floats(1)),
            write(DType::F32, n),
        ];
        if rng.below(2) == 0 {
            stores.push(store(5, row_major(&space), zs));
            args.push(write(DType::F32, n));
        }
        let tolerance = Tolerance { relative: 4e-6, absolute: 2e-5 };
        check(&format!("space {space:?} case {case}"), &pointwise(space, b, stores), &args, tolerance);
    }
}

#[test]
fn windows_and_gathers() {
    let mut rng = Rng(8);
    // A store into a window of a larger buffer with non-merging strides.
    let mut b = B::new();
    let x = b.load(0, DType::F32, &[6, 1]);
    let y = b.unary(Unary::Tanh, x);
    let s = Store { access: Access::direct(ArgId(1), 11, vec![10, 1]), value: y };
    let args = [read(DType::F32, rng.floats(24)), write(DType::F32, 50)];
    check("window", &pointwise(vec![4, 6], b, vec![s]), &args, CLOSE);

    for (rows, inner) in [(1, 1), (3, 5), (9, 16), (1, 130)] {
        let table = 11;
        // Indices vary along the rows: embedding.
        let mut b = B::new();
        let id = b.load(1, DType::I32, &[1, 0]);
        let t = Indirect { index: id, stride: inner as i64, extent: table };
        let row = Access { arg: ArgId(0), at: Affine { offset: 0, coeffs: vec![0, 1] }, indirect: vec![t] };
        let x = b.f32(ScalarOp::Load(row));
        let args = [
            read(DType::F32, rng.floats(table * inner)),
            read(DType::I32, rng.ints(rows, -3, table as i64 + 3)),
            write(DType::F32, rows * inner),
        ];
        let k = pointwise(vec![rows, inner], b, vec![store(2, vec![inner as i64, 1], x)]);
        check(&format!("gather rows {rows}x{inner}"), &k, &args, EXACT);

        // Indices vary along the vector axis, through two indirect terms.
        let mut b = B::new();
        let id = b.load(1, DType::I32, &[0, 1]);
        let at = b.index(&[0, 1]);
        let terms = vec![
            Indirect { index: id, stride: inner as i64, extent: table },
            Indirect { index: at, stride: 1, extent: inner },
        ];
        let x = b.f32(ScalarOp::Load(Access { arg: ArgId(0), at: Affine::constant(2, 0), indirect: terms }));
        let args = [
            read(DType::F32, rng.floats(table * inner)),
            read(DType::I32, rng.ints(inner, -3, table as i64 + 3)),
            write(DType::F32, rows * inner),
        ];
        let k = pointwise(vec![rows, inner], b, vec![store(2, vec![inner as i64, 1], x)]);
        check(&format!("gather lanes {rows}x{inner}"), &k, &args, EXACT);
    }
}

#[test]
fn in_place_with_two_results() {
    // The second result needs the old value of what the first overwrites.
    let mut rng = Rng(9);
    for n in [1, 6, 128] {
        let mut b = B::new();
        let (x, y) = (b.load(0, DType::F32, &[1]), b.load(1, DType::F32, &[1]));
        let sum = b.binary(Binary::Add, x, y);
        let product = b.binary(Binary::Mul, x, y);
        let stores = vec![store(0, vec![1], sum), store(1, vec![1], product)];
        let args = [in_place(DType::F32, rng.floats(n)), in_place(DType::F32, rng.floats(n))];
        check("in place", &pointwise(vec![n], b, stores), &args, CLOSE);
    }
}

#[test]
fn spaces_beyond_one_dimension_of_workgroups() {
    // More workgroups than fit along x, with points left over in the last.
    let n = 65535 * 64 + 67;
    let mut b = B::new();
    let i = b.index(&[1]);
    let k = pointwise(vec![n], b, vec![store(0, vec![1], i)]);
    check("many workgroups", &k, &[write(DType::I32, n)], EXACT);
}

/// param -= lr * gradient, with a moment.
fn update(rng: &mut Rng, segments: &[usize]) -> (KernelKind, Vec<Given>) {
    let mut b = B::new();
    let (p, m, g, lr) = (
        b.load(0, DType::F32, &[1]),
        b.load(1, DType::F32, &[1]),
        b.load(2, DType::F32, &[1]),
        b.load(3, DType::F32, &[0]),
    );
    let decay = b.constant(0.9);
    let old = b.binary(Binary::Mul, m, decay);
    let new = b.binary(Binary::Add, old, g);
    let step = b.binary(Binary::Mul, lr, new);
    let moved = b.binary(Binary::Sub, p, step);
    let k = KernelKind::Update(Update {
        roles: 3,
        shared: 1,
        segments: segments.to_vec(),
        body: b.body,
        stores: vec![store(0, vec![1], moved), store(1, vec![1], new)],
    });
    let mut args = Vec::new();
    for n in segments {
        args.push(in_place(DType::F32, rng.floats(*n)));
        args.push(in_place(DType::F32, rng.floats(*n)));
        args.push(read(DType::F32, rng.floats(*n)));
    }
    args.push(read(DType::F32, vec![0.125]));
    (k, args)
}

#[test]
fn updates() {
    let mut rng = Rng(12);
    for segments in [vec![1, 3, 4, 64, 1000, 20_000, 7], vec![4, 512, 8, 4096]] {
        let (k, args) = update(&mut rng, &segments);
        check("update", &k, &args, CLOSE);
    }
}

#[test]
fn segments_longer_than_a_binding_are_cut() {
    let mut rng = Rng(13);
    let (k, args) = update(&mut rng, &[40, 3000, 100]);
    for layout in [Layout::Own, Layout::Packed] {
        let program = program(&k, &args, layout);
        let caps = tinygpt_codegen_wgsl::Caps { max_binding_bytes: 4096, ..tinygpt_codegen_wgsl::Caps::webgpu() };
        let kernel = program.kernels.values().next().unwrap();
        // In one pack the three roles of a segment are further apart than a binding is long.
        let found = tinygpt_codegen_wgsl::pieces(&program, kernel, &caps);
        match layout {
            Layout::Own => {
                let pieces = found.unwrap();
                assert!(pieces.len() > 3, "{} pieces", pieces.len());
                let mut elements = 0;
                for p in &pieces {
                    assert!(p.bindings.list.iter().all(|b| b.size <= 4096 && b.offset % 256 == 0));
                    let KernelKind::Update(u) = &p.kind else { panic!("an update") };
                    elements += u.segments.iter().sum::<usize>();
                }
                assert_eq!(elements, 3140);
            }
            Layout::Packed => {
                let e = found.unwrap_err().to_string();
                assert!(e.contains("bytes in one range and the adapter allows 4096"), "{e}");
            }
        }
    }
}

#[test]
fn f16_needs_an_adapter_that_has_it() {
    let mut b = B::new();
    let x = b.load(0, DType::F16, &[1]);
    let e = b.unary(Unary::Exp, x);
    let k = pointwise(vec![8], b, vec![store(1, vec![1], e)]);
    let args = [read(DType::F16, vec![1.0; 8]), write(DType::F16, 8)];
    let program = program(&k, &args, Layout::Own);
    let kernel = program.kernels.values().next().unwrap();
    let caps = tinygpt_codegen_wgsl::Caps::webgpu();
    let piece = &tinygpt_codegen_wgsl::pieces(&program, kernel, &caps).unwrap()[0];
    let variant = tinygpt_codegen_wgsl::variants(piece, &caps)[0];
    let e = tinygpt_codegen_wgsl::emit(piece, &caps, &variant).unwrap_err();
    assert_eq!(e.to_string(), "kernel k works on f16 and the adapter has no shader-f16: compile the program in f32");
    let caps = tinygpt_codegen_wgsl::Caps { f16: true, ..caps };
    for variant in tinygpt_codegen_wgsl::variants(piece, &caps) {
        let module = tinygpt_codegen_wgsl::emit(piece, &caps, &variant).unwrap();
        let source = module.source(tinygpt_codegen_wgsl::Dialect::Naga);
        assert!(source.contains("enable f16;"));
        tinygpt_codegen_wgsl::validate(&source, &caps).unwrap_or_else(|e| panic!("{e}\n{source}"));
    }
}
