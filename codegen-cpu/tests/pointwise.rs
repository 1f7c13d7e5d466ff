//! Pointwise kernels and updates against the f64 interpreter: every scalar operation, and many spaces and accesses.

mod support;

use support::*;
use tinygpt_ir::op::{Binary, Compare, Unary};
use tinygpt_ir::program::{Access, Affine, ArgId, Indirect, KernelKind, Pointwise, ScalarId, ScalarOp, Store, Update};
use tinygpt_ir::types::{DType, Literal, row_major};

const DTYPES: [DType; 4] = [DType::F32, DType::I32, DType::U32, DType::Bool];

fn store(arg: u32, strides: Vec<i64>, value: ScalarId) -> Store {
    Store { access: Access::direct(ArgId(arg), 0, strides), value }
}

fn pointwise(space: Vec<usize>, b: B, stores: Vec<Store>) -> KernelKind {
    KernelKind::Pointwise(Pointwise { space, body: b.body, stores })
}

/// One operation over `n` elements of arguments with the given dtypes, and its result.
fn one_op(
    name: &str,
    n: usize,
    inputs: Vec<(DType, Vec<f64>)>,
    result: DType,
    tolerance: Tolerance,
    op: impl Fn(&[ScalarId]) -> ScalarOp,
) {
    let mut b = B::new(1);
    let ids: Vec<ScalarId> = inputs.iter().enumerate().map(|(i, (t, _))| b.load(i as u32, *t, &[1])).collect();
    let value = b.op(op(&ids), result);
    let out = inputs.len() as u32;
    let mut args: Vec<Given> = inputs.into_iter().map(|(t, data)| read(t, data)).collect();
    args.push(write(result, n));
    let worst = check(name, &pointwise(vec![n], b, vec![store(out, vec![1], value)]), &args, tolerance);
    println!("{name:<28} {:>6.3} of the tolerance", worst);
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
        for n in [1, 3, 37, 600, 1030] {
            let x = domain(op, &mut rng, n);
            one_op(&format!("{} {n}", op.name()), n, vec![(DType::F32, x)], DType::F32, CLOSE, |i| {
                ScalarOp::Unary(op, i[0])
            });
        }
    }
    for dtype in [DType::I32, DType::U32] {
        let x = rng.values(dtype, 37);
        one_op(&format!("neg {dtype}"), 37, vec![(dtype, x)], dtype, EXACT, |i| ScalarOp::Unary(Unary::Neg, i[0]));
    }
}

#[test]
fn special_values() {
    let x = vec![0.0, -0.0, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 1.0, -1.0, 200.0, -200.0, 0.5, 1e-30, -3.0];
    let n = x.len();
    for op in [Unary::Exp, Unary::Log, Unary::Sqrt, Unary::Rsqrt, Unary::Recip, Unary::Tanh, Unary::Erf] {
        let flushed = Tolerance { relative: 2e-6, absolute: 1e-30 };
        let name = format!("{} of special values", op.name());
        one_op(&name, n, vec![(DType::F32, x.clone())], DType::F32, flushed, |i| ScalarOp::Unary(op, i[0]));
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
            for n in [5, 70].into_iter().filter(|_| defined) {
                let x = rng.values(dtype, n);
                let y: Vec<f64> = rng
                    .values(dtype, n)
                    .into_iter()
                    .map(|y| if op == Binary::Div { f64::from((y.signum() * (y.abs() + 0.1)) as f32) } else { y })
                    .collect();
                let name = format!("{} {dtype} {n}", op.name());
                one_op(&name, n, vec![(dtype, x), (dtype, y)], dtype, CLOSE, |i| ScalarOp::Binary(op, i[0], i[1]));
            }
        }
    }
}

#[test]
fn every_comparison_and_selection() {
    let mut rng = Rng(3);
    for dtype in DTYPES {
        for op in Compare::ALL.iter().copied() {
            if dtype == DType::Bool && !matches!(op, Compare::Eq | Compare::Ne) {
                continue;
            }
            let n = 41;
            let x = rng.values(dtype, n);
            // Half of the pairs are equal.
            let y: Vec<f64> =
                rng.values(dtype, n).into_iter().zip(&x).map(|(y, x)| if y > *x { y } else { *x }).collect();
            let name = format!("{} {dtype}", op.name());
            one_op(&name, n, vec![(dtype, x), (dtype, y)], DType::Bool, EXACT, |i| ScalarOp::Compare(op, i[0], i[1]));
        }
        let n = 23;
        let (c, x, y) = (rng.values(DType::Bool, n), rng.values(dtype, n), rng.values(dtype, n));
        let name = format!("select {dtype}");
        let inputs = vec![(DType::Bool, c), (dtype, x), (dtype, y)];
        one_op(&name, n, inputs, dtype, EXACT, |i| ScalarOp::Select(i[0], i[1], i[2]));
    }
}

#[test]
fn every_cast() {
    let mut rng = Rng(4);
    for from in DTYPES {
        for to in DTYPES {
            let n = 45;
            let mut x = rng.values(from, n);
            if from == DType::F32 {
                x[..6].copy_from_slice(&[1e10, -1e10, f64::NAN, 0.0, -1.5, 3e9]);
            }
            let relative = Tolerance { relative: 1e-7, absolute: 0.0 };
            one_op(&format!("{from} to {to}"), n, vec![(from, x)], to, relative, |i| ScalarOp::Cast(i[0]));
        }
    }
}

#[test]
fn random_numbers() {
    // Seed and counter the same everywhere, then varying.
    let n = 101;
    for stride in [0, 1] {
        let mut rng = Rng(5);
        let mut b = B::new(1);
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
    let space = vec![3, 5, 11];
    for dtype in DTYPES {
        let mut b = B::new(3);
        let c = b.op(ScalarOp::Const(Literal::new(dtype, 3.0)), dtype);
        let i = b.op(ScalarOp::Index(Affine { offset: -2, coeffs: vec![100, -10, 3] }), DType::I32);
        let i = b.op(ScalarOp::Cast(i), dtype);
        let x = b.op(ScalarOp::Binary(Binary::Max, c, i), dtype);
        let strides = row_major(&space);
        let stores = vec![store(0, strides.clone(), c), store(1, strides, x)];
        check(
            &format!("index {dtype}"),
            &pointwise(space.clone(), b, stores),
            &[write(dtype, 165), write(dtype, 165)],
            EXACT,
        );
    }
}

/// Row-major strides of a permutation of the space, with offset room.
fn permuted(rng: &mut Rng, space: &[usize]) -> Vec<i64> {
    let mut order: Vec<usize> = (0..space.len()).collect();
    for i in (1..order.len()).rev() {
        order.swap(i, rng.below(i + 1));
    }
    let extents: Vec<usize> = order.iter().map(|&a| space[a]).collect();
    let mut strides = vec![0; space.len()];
    for (&axis, stride) in order.iter().zip(row_major(&extents)) {
        strides[axis] = stride;
    }
    strides
}

#[test]
fn spaces_and_accesses() {
    let mut rng = Rng(6);
    for case in 0..60 {
        let rank = rng.below(5);
        let space: Vec<usize> = (0..rank).map(|_| rng.pick(&[1, 1, 2, 3, 4, 5, 7, 8, 17, 33])).collect();
        let n: usize = space.iter().product();
        let mut b = B::new(rank);
        // Row-major, transposed, broadcast, with an offset.
        let x = b.load(0, DType::F32, &row_major(&space));
        let transposed = permuted(&mut rng, &space);
        let y = b.load(1, DType::F32, &transposed);
        let cast: Vec<i64> = row_major(&space).into_iter().map(|s| if rng.below(2) == 0 { 0 } else { s }).collect();
        let z = b.f32(ScalarOp::Load(Access::direct(ArgId(2), 2, cast)));
        let s = b.load(3, DType::F32, &vec![0; rank]);
        let xy = b.binary(Binary::Mul, x, y);
        let zs = b.binary(Binary::Sub, z, s);
        let sum = b.binary(Binary::Add, xy, zs);
        let scale = b.unary(Unary::Exp, s);
        let out = b.binary(Binary::Mul, sum, scale);
        let mut stores = vec![store(4, permuted(&mut rng, &space), out)];
        if rng.below(2) == 0 {
            stores.push(store(5, row_major(&space), zs));
        }
        let two = stores.len() == 2;
        let mut args = vec![
            read(DType::F32, rng.floats(n)),
            read(DType::F32, rng.floats(n)),
            read(DType::F32, rng.floats(n + 2)),
            read(DType::F32, rng.floats(1)),
            write(DType::F32, n),
        ];
        if two {
            args.push(write(DType::F32, n));
        }
        check(
            &format!("space {space:?} case {case}"),
            &pointwise(space, b, stores),
            &args,
            Tolerance { relative: 4e-6, absolute: 2e-5 },
        );
    }
}

#[test]
fn padded_windows() {
    // A store into a window of a larger buffer with non-merging strides.
    let mut rng = Rng(7);
    let space = vec![4, 6];
    let mut b = B::new(2);
    let x = b.load(0, DType::F32, &[6, 1]);
    let y = b.unary(Unary::Tanh, x);
    let s = Store { access: Access::direct(ArgId(1), 11, vec![10, 1]), value: y };
    check("window", &pointwise(space, b, vec![s]), &[read(DType::F32, rng.floats(24)), write(DType::F32, 50)], CLOSE);
}

#[test]
fn gathers() {
    let mut rng = Rng(8);
    for (rows, inner) in [(1, 1), (3, 5), (9, 16), (40, 33), (1, 130)] {
        let table = 11;
        // Indices vary along the rows: embedding.
        let mut b = B::new(2);
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
        let mut b = B::new(2);
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
    for n in [1, 6, 129] {
        let mut b = B::new(1);
        let (x, y) = (b.load(0, DType::F32, &[1]), b.load(1, DType::F32, &[1]));
        let sum = b.binary(Binary::Add, x, y);
        let product = b.binary(Binary::Mul, x, y);
        let stores = vec![store(0, vec![1], sum), store(1, vec![1], product)];
        let args = [in_place(DType::F32, rng.floats(n)), in_place(DType::F32, rng.floats(n))];
        check("in place", &pointwise(vec![n], b, stores), &args, CLOSE);
    }
}

#[test]
fn chains_of_transcendentals() {
    // exp(tanh(x)) + erf(exp(y) * x): two stages of row calls, with values needed across them.
    let mut rng = Rng(10);
    for space in [vec![15], vec![16], vec![700], vec![3, 513], vec![5, 2, 40]] {
        let n = space.iter().product();
        let mut b = B::new(space.len());
        let x = b.load(0, DType::F32, &row_major(&space));
        // Broadcast over all but the last axis, so that axes do not merge.
        let mut strides = vec![0; space.len()];
        *strides.last_mut().unwrap() = 1;
        let y = b.load(1, DType::F32, &strides);
        let t = b.unary(Unary::Tanh, x);
        let e = b.unary(Unary::Exp, t);
        let f = b.unary(Unary::Exp, y);
        let g = b.binary(Binary::Mul, f, x);
        let h = b.unary(Unary::Erf, g);
        let out = b.binary(Binary::Add, e, h);
        let k = pointwise(space.clone(), b, vec![store(2, row_major(&space), out)]);
        let args = [
            read(DType::F32, rng.floats(n)),
            read(DType::F32, rng.floats(*space.last().unwrap())),
            write(DType::F32, n),
        ];
        check(&format!("chain {space:?}"), &k, &args, Tolerance { relative: 4e-6, absolute: 4e-6 });
    }
}

#[test]
fn large_spaces_are_cut() {
    let mut rng = Rng(11);
    for space in [vec![300_000], vec![64, 3000], vec![2, 70_000]] {
        let n = space.iter().product();
        let mut b = B::new(space.len());
        let x = b.load(0, DType::F32, &row_major(&space));
        let mut strides = vec![0; space.len()];
        *strides.last_mut().unwrap() = 1;
        let y = b.load(1, DType::F32, &strides);
        let out = b.binary(Binary::Mul, x, y);
        let k = pointwise(space.clone(), b, vec![store(2, row_major(&space), out)]);
        let args = [
            read(DType::F32, rng.floats(n)),
            read(DType::F32, rng.floats(*space.last().unwrap())),
            write(DType::F32, n),
        ];
        check(&format!("large {space:?}"), &k, &args, CLOSE);
    }
}

#[test]
fn updates() {
    // param -= lr * grad, with a second moment, over segments of all sizes.
    let mut rng = Rng(12);
    let segments = vec![1, 3, 4, 64, 1000, 40_000, 7];
    let mut b = B::new(1);
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
        segments: segments.clone(),
        body: b.body,
        stores: vec![store(0, vec![1], moved), store(1, vec![1], new)],
    });
    let mut args = Vec::new();
    for n in segments {
        args.push(in_place(DType::F32, rng.floats(n)));
        args.push(in_place(DType::F32, rng.floats(n)));
        args.push(read(DType::F32, rng.floats(n)));
    }
    args.push(read(DType::F32, vec![0.125]));
    check("update", &k, &args, CLOSE);
}

#[test]
fn f16_is_refused_in_one_sentence() {
    let mut b = B::new(1);
    let x = b.load(0, DType::F16, &[1]);
    let k = pointwise(vec![4], b, vec![store(1, vec![1], x)]);
    let dtypes = [DType::F16, DType::F16];
    let e = tinygpt_codegen_cpu::lower::lower(&k, &dtypes, Default::default()).unwrap_err();
    assert_eq!(e.to_string(), "a kernel works on f16 and the CPU backend computes in f32: cast to f32 before it");
}
