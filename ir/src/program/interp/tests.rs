use super::*;
use crate::interp::eval_node;
use crate::op::{Composite, Op, Real, Unary, Wrt};
use crate::program::samples::{
    Make, READ, SHAPE, UPDATE, WRITE, at, attention, embedding, kernel, linear, norm, plus, pointwise, store,
};
use crate::program::{Indirect, Place, Reduction, Term};
use crate::tensor::Tensor;
use crate::types::{Literal, TensorType};

fn close(got: &[f64], want: &[f64], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (a, b)) in got.iter().zip(want).enumerate() {
        // Negated, so that NaN fails.
        assert!((a - b).abs() <= 1e-13 * b.abs().max(1.0), "{what}[{i}] = {a}, want {b}");
    }
}

/// n values that look random, in -1..1.
fn values(seed: u32, n: usize) -> Vec<f64> {
    (0..n as u32).map(|i| 2.0 * random_unit(seed, 0, 0, i) - 1.0).collect()
}

fn interp(program: &Program, params: &[(&str, &[f64])]) -> ProgramInterp {
    let mut i = ProgramInterp::new(program).expect("the sample has room for its buffers");
    params.iter().for_each(|(name, x)| i.write(name, x).expect("the sample has the parameter"));
    i
}

const X: [f64; 6] = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
const W: [f64; 12] = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0];
/// h = [[1,2,3,6],[4,5,6,15]], row sums 12 and 30, h * s + 1.
const Y: [f64; 8] = [13.0, 25.0, 37.0, 73.0, 121.0, 151.0, 181.0, 451.0];

#[test]
fn placed_program_computes_and_updates_in_place() {
    let mut i = interp(&linear(), &[("x", &X), ("w", &W)]);
    i.step().unwrap();
    close(&i.read("y").unwrap(), &Y, "y");
    close(&i.read("w").unwrap(), &W.map(|w| 0.9 * w), "w");
    // The second step starts from the updated state, in any order of the last stage.
    i.step_shuffled(3).unwrap();
    let second: Vec<f64> = Y.iter().map(|y| (y - 1.0) * 0.81 + 1.0).collect();
    close(&i.read("y").unwrap(), &second, "y of step 2");
}

#[test]
fn a_term_of_f16_rounds_both_operands() {
    // Beside 1 an f16 has ten binary digits: 1 + 2^-12 is 1, 1 + 3 * 2^-11 lies half way and goes to the even 1 + 2^-9.
    let x = [1.0 + 2f64.powi(-12), 2.0, 3.0, 4.0, 5.0, 1.0 + 3.0 * 2f64.powi(-11)];
    let (mut rounded, mut p) = (x, linear());
    (rounded[0], rounded[5]) = (1.0, 1.0 + 2f64.powi(-9));
    let KernelKind::Contract(k) = &mut p.kernels[crate::program::KernelId(0)].kind else { panic!("a product") };
    k.parts[0].terms[0].f16 = true;
    let w = W.map(|w| w * (1.0 + 2f64.powi(-13)));
    let (mut mixed, mut exact) =
        (interp(&p, &[("x", &x), ("w", &w)]), interp(&linear(), &[("x", &rounded), ("w", &W)]));
    mixed.step().unwrap();
    exact.step().unwrap();
    close(&mixed.read("y").unwrap(), &exact.read("y").unwrap(), "y");
    close(&mixed.read("w").unwrap(), &w.map(|w| 0.9 * w), "w, which no contraction rounds");
}

#[test]
fn a_wrong_plan_shows_as_wrong_numbers() {
    // The row sums lie on h, which is read after them.
    let mut p = linear();
    p.buffers[BufferId(4)].place = Place::Slab(0);
    let mut i = interp(&p, &[("x", &X), ("w", &W)]);
    i.step().unwrap();
    assert_ne!(i.read("y").unwrap(), Y);
    // Half an element apart: what is read was never written as a whole.
    let mut p = linear();
    p.buffers[BufferId(4)].place = Place::Slab(30);
    let mut i = interp(&p, &[("x", &X), ("w", &W)]);
    i.step().unwrap();
    assert!(i.read("y").unwrap().iter().any(|y| y.is_nan()));
    // Beyond the slab.
    p.buffers[BufferId(4)].place = Place::Slab(124);
    let e = ProgramInterp::new(&p).expect_err("8 bytes at 124 exceed 128");
    assert_eq!(e.0, "buffer b4 (mlp.sum) of 8 bytes at offset 124 does not fit its memory of 128 bytes");
}

#[test]
fn slots_and_unplaced_temporaries_compute_the_same() {
    let mut slotted = linear();
    for (b, slot) in [(3, 0), (4, 1), (5, 0)] {
        slotted.buffers[BufferId(b)].place = Place::Slot(slot);
    }
    slotted.memory.slots = vec![32, 8];
    let mut own = linear();
    for b in [3, 4, 5] {
        own.buffers[BufferId(b)].place = Place::Own;
    }
    for p in [slotted, own] {
        let mut i = interp(&p, &[("x", &X), ("w", &W)]);
        i.step().unwrap();
        close(&i.read("y").unwrap(), &Y, "y");
    }
}

#[test]
fn what_nothing_writes_is_nan_in_every_step() {
    let mut p = linear();
    p.stages[0] = (0, 0);
    let mut i = interp(&p, &[("x", &X), ("w", &W)]);
    i.step().unwrap();
    assert!(i.read("y").unwrap().iter().all(|y| y.is_nan()));
}

#[test]
fn shuffling_exposes_a_dependence_within_a_stage() {
    let mut p = Make::new("chain");
    let x = p.input("x", &[1]);
    let y = p.output("y", &[1]);
    let t = p.temp("t", 1);
    p.stage(vec![
        kernel("a", &[(x, READ), (t, WRITE)], plus(1, 1.0)),
        kernel("b", &[(t, READ), (y, WRITE)], plus(1, 1.0)),
    ]);
    let outcome = |seed: Option<u32>| {
        let mut i = interp(&p.0, &[("x", &[5.0])]);
        match seed {
            None => i.step().unwrap(),
            Some(seed) => i.step_shuffled(seed).unwrap(),
        }
        i.read("y").unwrap()[0]
    };
    assert_eq!(outcome(None), 7.0);
    let shuffled: Vec<f64> = (0..16).map(|seed| outcome(Some(seed))).collect();
    assert!(shuffled.contains(&7.0) && shuffled.iter().any(|y| y.is_nan()), "{shuffled:?}");
}

#[test]
fn reductions_follow_each_other() {
    // Layer norm without weights over 2 x 5, and its argmax: mean, then the variance about it, in one kernel.
    let x = values(1, 10);
    let mut b = Body::default();
    let (v, mean, var) = (b.load(0, &[5, 1]), b.acc(0), b.acc(1));
    let fifth = b.constant(0.2);
    let scaled = b.binary(Binary::Mul, v, fifth);
    let centred = b.binary(Binary::Sub, v, mean);
    let square = b.binary(Binary::Mul, centred, centred);
    let square = b.binary(Binary::Mul, square, fifth);
    let eps = b.constant(1e-5);
    let shifted = b.binary(Binary::Add, var, eps);
    let rstd = b.unary(Unary::Rsqrt, shifted);
    let y = b.binary(Binary::Mul, centred, rstd);
    let top = b.push(ScalarOp::Acc(2), DType::I32);
    let reduce = |op, value| Reduction { op, value };
    let k = ReduceKernel {
        rows: vec![2],
        cols: vec![5],
        body: b,
        reductions: vec![reduce(Reduce::Sum, scaled), reduce(Reduce::Sum, square), reduce(Reduce::ArgMax, y)],
        // In place: the row is read in all sweeps before it is written.
        stores: vec![store(0, &[5, 1], y), store(1, &[1, 0], rstd), store(2, &[1, 0], top)],
    };
    let buffers = [(BufferId(0), UPDATE), (BufferId(1), WRITE), (BufferId(2), WRITE)];
    let mut args = vec![x.clone(), vec![f64::NAN; 2], vec![f64::NAN; 2]];
    run_kernel(&kernel("norm", &buffers, KernelKind::Reduce(k)), &mut args).unwrap();
    let node = |op: Op, x: &[&Tensor], shape: &[usize]| eval_node(&op, x, &TensorType::f32(shape)).data;
    let tensor = |shape: &[usize], data: &[f64]| Tensor { ty: TensorType::f32(shape), data: data.to_vec() };
    let xt = tensor(&[2, 5], &x);
    let (one, zero) = (tensor(&[5], &[1.0; 5]), tensor(&[5], &[0.0; 5]));
    let norm = Op::Composite(Composite::LayerNorm { eps: Real(1e-5) });
    close(&args[0], &node(norm, &[&xt, &one, &zero], &[2, 5]), "norm");
    close(&args[2], &node(Op::Reduce { op: Reduce::ArgMax, axes: vec![1] }, &[&xt], &[2, 1]), "argmax");
    for (row, rstd) in args[1].iter().enumerate() {
        let row = &x[5 * row..5 * row + 5];
        let mean = row.iter().sum::<f64>() / 5.0;
        let variance = row.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / 5.0;
        close(&[*rstd], &[1.0 / (variance + 1e-5).sqrt()], "rstd");
    }
}

#[test]
fn contraction_sums_terms_and_batches_and_parts() {
    // out[b,m,n] = sum_k a[b,m,k] c[b,k,n] + sum_k a[b,m,k] d[n,k] + bias[n]; a second part squares.
    let (nb, nm, nn, nk) = (2, 3, 4, 5);
    let (a, c, d, bias) = (values(1, nb * nm * nk), values(2, nb * nk * nn), values(3, nn * nk), values(4, nn));
    let mut b = Body::default();
    let (acc, bv) = (b.acc(0), b.load(3, &[0, 0, 1]));
    let sum = b.binary(Binary::Add, acc, bv);
    let terms = vec![
        Term { k: vec![nk], f16: false, lhs: at(0, &[15, 5, 1]), rhs: at(1, &[20, 1, 4]) },
        Term { k: vec![nk], f16: false, lhs: at(0, &[15, 5, 1]), rhs: at(2, &[0, 5, 1]) },
    ];
    let stores = vec![store(4, &[12, 4, 1], sum)];
    let first = ContractPart { batch: vec![nb], m: vec![nm], n: vec![nn], terms, body: b, stores };
    let mut b = Body::default();
    let acc = b.acc(0);
    let square = b.binary(Binary::Mul, acc, acc);
    // d d^T with k split over two axes: 5 = 5 x 1.
    let terms = vec![Term { k: vec![5, 1], f16: false, lhs: at(2, &[5, 1, 0]), rhs: at(2, &[5, 1, 0]) }];
    let second = ContractPart {
        batch: vec![],
        m: vec![nn],
        n: vec![nn],
        terms,
        body: b,
        stores: vec![store(5, &[1, 4], square)],
    };
    let buffers: Vec<_> = (0..6).map(|i| (BufferId(i), if i < 4 { READ } else { WRITE })).collect();
    let k = kernel("product", &buffers, KernelKind::Contract(Contract { parts: vec![first, second] }));
    let mut args = vec![a.clone(), c.clone(), d.clone(), bias.clone(), vec![f64::NAN; 24], vec![f64::NAN; 16]];
    run_kernel(&k, &mut args).unwrap();
    let mut want = vec![0.0; 24];
    for (i, w) in want.iter_mut().enumerate() {
        let (b, m, n) = (i / 12, i / 4 % 3, i % 4);
        *w = bias[n] + (0..nk).map(|k| a[b * 15 + m * 5 + k] * (c[b * 20 + k * 4 + n] + d[n * 5 + k])).sum::<f64>();
    }
    close(&args[4], &want, "product");
    let gram = |m: usize, n: usize| (0..5).map(|k| d[m * 5 + k] * d[n * 5 + k]).sum::<f64>().powi(2);
    close(&args[5], &(0..16).map(|i| gram(i % 4, i / 4)).collect::<Vec<_>>(), "squares");
}

#[test]
fn attention_is_its_composite() {
    let n = 24;
    let (q, k, v, dout) = (values(1, n), values(2, n), values(3, n), values(4, n));
    let mut i = interp(&attention(), &[("q", &q), ("k", &k), ("v", &v), ("dout", &dout)]);
    i.step().unwrap();
    // The sample keeps q as [B,T,H,D].
    let by_head = Op::Transpose { perm: vec![0, 2, 1, 3] };
    let tensor = |shape: &[usize], data: &[f64]| Tensor { ty: TensorType::f32(shape), data: data.to_vec() };
    let shape = SHAPE.q_space();
    let q = eval_node(&by_head, &[&tensor(&[2, 3, 2, 2], &q)], &TensorType::f32(shape.clone()));
    let [k, v, dout] = [k, v, dout].map(|x| tensor(&shape, &x));
    let (causal, scale) = (true, Real(0.5));
    let node = |c: Composite, x: &[&Tensor], ty: &[usize]| eval_node(&Op::Composite(c), x, &TensorType::f32(ty));
    let out = node(Composite::Attention { causal, scale }, &[&q, &k, &v], &shape);
    let lse = node(Composite::AttentionLse { causal, scale }, &[&q, &k], &SHAPE.lse_space());
    close(&i.read("out").unwrap(), &out.data, "out");
    close(&i.read_buffer(BufferId(8)), &lse.data, "lse");
    for (name, wrt) in [("dq", Wrt::Q), ("dk", Wrt::K), ("dv", Wrt::V)] {
        let want = node(Composite::AttentionGrad { wrt, causal, scale }, &[&q, &k, &v, &out, &lse, &dout], &shape);
        close(&i.read(name).unwrap(), &want.data, name);
    }
}

#[test]
fn gather_scatter_and_update() {
    // Ids beyond the table are clamped to 0 and 4; row 4 is added twice.
    let params: &[(&str, &[f64])] =
        &[("ids", &[4.0, -3.0, 9.0]), ("lr", &[0.5]), ("a", &[1.0, -1.0, 2.0, -2.0]), ("b", &[4.0, 0.0, -4.0])];
    let mut i = interp(&embedding(), params);
    let table: Vec<f64> = (0..10).map(f64::from).collect();
    i.write("table", &table).unwrap();
    i.step().unwrap();
    assert_eq!(i.read("rows").unwrap(), [8.0, 9.0, 0.0, 1.0, 8.0, 9.0]);
    assert_eq!(i.read("table").unwrap(), [0.0, 2.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 24.0, 27.0]);
    assert_eq!(i.read("a").unwrap(), [0.5, -1.0, 1.0, -2.0]);
    assert_eq!(i.read("b").unwrap(), [2.0, 0.0, -4.0]);
}

#[test]
fn scalars_without_operands_from_buffers() {
    // Random numbers at the element's index, and an integer function of the point.
    let mut b = Body::default();
    let word = |b: &mut Body, x: f64| b.push(ScalarOp::Const(Literal::new(DType::U32, x)), DType::U32);
    let (seed, counter) = (word(&mut b, 7.0), word(&mut b, 3.0));
    let linear = b.push(ScalarOp::Index(Affine { offset: 0, coeffs: vec![3, 1] }), DType::I32);
    let index = b.push(ScalarOp::Cast(linear), DType::U32);
    let uniform = b.push(ScalarOp::Random { seed, counter, stream: 1, index }, DType::F32);
    let kind = pointwise(&[2, 3], b, vec![store(0, &[3, 1], uniform), store(1, &[3, 1], linear)]);
    let mut args = vec![vec![f64::NAN; 6]; 2];
    run_kernel(&kernel("draw", &[(BufferId(0), WRITE), (BufferId(1), WRITE)], kind), &mut args).unwrap();
    assert_eq!(args[0], (0..6).map(|i| random_unit(7, 3, 1, i)).collect::<Vec<_>>());
    assert_eq!(args[1], [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
}

#[test]
fn errors_name_the_kernel_and_the_access() {
    let buffers = [(BufferId(0), READ), (BufferId(1), WRITE)];
    let k = kernel("plus", &buffers, plus(4, 1.0));
    let e = |args: &mut [Vec<f64>]| run_kernel(&k, args).expect_err("an argument is too short").0;
    assert_eq!(
        e(&mut [vec![0.0; 3], vec![0.0; 4]]),
        "kernel plus: load %0 at point [3] reaches element 3 of argument a0, which has 3 elements"
    );
    assert_eq!(
        e(&mut [vec![0.0; 4], vec![0.0; 2]]),
        "kernel plus: the store of %2 at point [2] reaches element 2 of argument a1, which has 2 elements"
    );
    assert_eq!(e(&mut [vec![]]), "kernel plus has 2 arguments, found 1");

    let mut b = Body::default();
    let index = b.push(ScalarOp::Const(Literal::i32(7)), DType::I32);
    let access = Access { indirect: vec![Indirect { index, stride: -1, extent: 3 }], ..at(0, &[1]) };
    let v = b.push(ScalarOp::Load(access), DType::F32);
    let back = kernel("back", &buffers, pointwise(&[2], b, vec![store(1, &[1], v)]));
    assert_eq!(
        run_kernel(&back, &mut [vec![0.0; 4], vec![0.0; 2]]).expect_err("-2 is no element").0,
        "kernel back: load %1 at point [0] reaches element -2 of argument a0, which has 4 elements"
    );

    let mut i = interp(&embedding(), &[]);
    let message = |r: Outcome| r.expect_err("a wrong value").0;
    assert_eq!(message(i.write("ids", &[0.5; 3])), "element 0 of parameter ids is 0.5, which i32 cannot hold");
    assert_eq!(message(i.write("ids", &[1.0])), "parameter ids is i32[3], found 1 values");
    assert_eq!(message(i.write("x", &[1.0])), "program embedding has no parameter x");
    assert_eq!(i.read("x").expect_err("no x").0, "program embedding has no output or parameter x");
}

#[test]
fn folds_reduce_each_block() {
    let mut i = interp(&norm(), &[("a", &[1.0, 2.0, 3.0, 4.0, 5.0]), ("b", &[-6.0])]);
    i.step().unwrap();
    close(&i.read_buffer(BufferId(3)), &[5.0, 25.0, 25.0, 36.0], "sums of squares");
    close(&i.read("norm").unwrap(), &[91f64.sqrt()], "norm");
    let mut largest = norm();
    let KernelKind::Fold(k) = &mut largest.kernels[KernelId(0)].kind else { panic!("the first kernel folds") };
    k.reduction = Reduction { op: Reduce::Max, value: ScalarId(0) };
    let mut i = interp(&largest, &[("a", &[1.0, 2.0, -3.0, -4.0, f64::NAN]), ("b", &[-6.0])]);
    i.step().unwrap();
    let found = i.read_buffer(BufferId(3));
    close(&[found[0], found[1], found[3]], &[2.0, -3.0, -6.0], "largest");
    assert!(found[2].is_nan());
}
