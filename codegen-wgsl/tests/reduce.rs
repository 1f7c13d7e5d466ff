//! Reductions and scatters on the adapter against the f64 interpreter.

mod support;

use support::*;
use tinygpt_ir::op::{Binary, Reduce, Unary};
use tinygpt_ir::program::{
    Access, Affine, ArgId, Fold, Indirect, KernelKind, ReduceKernel, Reduction, ScalarOp, Scatter, ScatterBase,
};
use tinygpt_ir::types::{DType, Literal, row_major};

/// Row-major strides over rows, zeros along cols.
fn of_rows(rows: &[usize], cols: &[usize]) -> Vec<i64> {
    [row_major(rows), vec![0; cols.len()]].concat()
}

#[test]
fn every_reduction_in_every_layout() {
    let mut rng = Rng(20);
    for op in [Reduce::Sum, Reduce::Max, Reduce::ArgMax] {
        for dtype in [DType::F32, DType::I32, DType::U32] {
            for (rows, cols) in [
                (vec![], vec![1]),
                (vec![], vec![37]),
                (vec![5], vec![3]),
                (vec![2, 3], vec![21]),
                (vec![3], vec![700]),
                (vec![130], vec![50]),
            ] {
                let space = [rows.clone(), cols.clone()].concat();
                let n: usize = space.iter().product();
                let rank = space.len();
                let orders: [Vec<usize>; 2] = [(0..rank).collect(), (0..rank).rev().collect()];
                for (layout, order) in orders.iter().enumerate() {
                    let mut b = B::new();
                    let x = b.load(0, dtype, &laid_out(&space, order));
                    let result = if op == Reduce::ArgMax { DType::I32 } else { dtype };
                    let r = b.op(ScalarOp::Acc(0), result);
                    // Few different values, so that maxima tie.
                    let data = if dtype == DType::F32 && op == Reduce::Sum {
                        rng.floats(n)
                    } else {
                        rng.ints(n, if dtype == DType::U32 { 0 } else { -9 }, 12)
                    };
                    let k = KernelKind::Reduce(ReduceKernel {
                        rows: rows.clone(),
                        cols: cols.clone(),
                        body: b.body,
                        reductions: vec![Reduction { op, value: x }],
                        stores: vec![store(1, of_rows(&rows, &cols), r)],
                    });
                    let args = [read(dtype, data), write(result, rows.iter().product())];
                    let name = format!("{} {dtype} {rows:?} {cols:?} layout {layout}", op.name());
                    check(&name, &k, &args, sums(n));
                }
            }
        }
    }
}

#[test]
fn all_least_values_have_their_maximum_first() {
    for (dtype, least) in [(DType::F32, f64::NEG_INFINITY), (DType::I32, f64::from(i32::MIN)), (DType::U32, 0.0)] {
        let mut b = B::new();
        let x = b.load(0, dtype, &[1]);
        let r = b.op(ScalarOp::Acc(0), DType::I32);
        let k = KernelKind::Reduce(ReduceKernel {
            rows: vec![],
            cols: vec![19],
            body: b.body,
            reductions: vec![Reduction { op: Reduce::ArgMax, value: x }],
            stores: vec![store(1, vec![0], r)],
        });
        check("argmax of least", &k, &[read(dtype, vec![least; 19]), write(DType::I32, 1)], EXACT);
    }
}

#[test]
fn several_axes_of_columns() {
    let mut rng = Rng(21);
    for case in 0..20 {
        let (nr, nc) = (rng.below(3), 1 + rng.below(3));
        let axes = |rng: &mut Rng, n: usize| (0..n).map(|_| rng.pick(&[1, 2, 3, 5, 8, 19])).collect::<Vec<usize>>();
        let (rows, cols) = (axes(&mut rng, nr), axes(&mut rng, nc));
        let space = [rows.clone(), cols.clone()].concat();
        let n: usize = space.iter().product();
        let mut b = B::new();
        let x = b.load(0, DType::F32, &rng.layout(&space));
        let y = b.load(1, DType::F32, &of_rows(&rows, &cols));
        let xy = b.binary(Binary::Mul, x, y);
        let e = b.unary(Unary::Exp, xy);
        let (s, m) = (b.acc(0), b.acc(1));
        let ratio = b.binary(Binary::Sub, s, m);
        let centred = b.binary(Binary::Sub, x, m);
        let k = KernelKind::Reduce(ReduceKernel {
            rows: rows.clone(),
            cols: cols.clone(),
            body: b.body,
            reductions: vec![Reduction { op: Reduce::Sum, value: e }, Reduction { op: Reduce::Max, value: x }],
            stores: vec![store(2, of_rows(&rows, &cols), ratio), store(3, row_major(&space), centred)],
        });
        let count = rows.iter().product();
        let args = [
            read(DType::F32, rng.floats(n)),
            read(DType::F32, rng.floats(count)),
            write(DType::F32, count),
            write(DType::F32, n),
        ];
        let tolerance = Tolerance { relative: 4e-6, absolute: 2e-5 };
        check(&format!("rows {rows:?} cols {cols:?} case {case}"), &k, &args, tolerance);
    }
}

/// softmax over the last axis, with its log-sum-exp as a row store.
fn softmax(rows: usize, cols: usize, strides: [i64; 2]) -> KernelKind {
    let mut b = B::new();
    let x = b.load(0, DType::F32, &strides);
    let max = b.acc(0);
    let shifted = b.binary(Binary::Sub, x, max);
    let e = b.unary(Unary::Exp, shifted);
    let sum = b.acc(1);
    let p = b.binary(Binary::Div, e, sum);
    let log = b.unary(Unary::Log, sum);
    let lse = b.binary(Binary::Add, max, log);
    KernelKind::Reduce(ReduceKernel {
        rows: vec![rows],
        cols: vec![cols],
        body: b.body,
        reductions: vec![Reduction { op: Reduce::Max, value: x }, Reduction { op: Reduce::Sum, value: e }],
        stores: vec![store(1, strides.to_vec(), p), store(2, vec![1, 0], lse)],
    })
}

#[test]
fn softmax_along_and_across() {
    let mut rng = Rng(22);
    for (rows, cols) in [(1, 1), (4, 7), (5, 100), (2, 5001), (70, 33)] {
        for across in [false, true] {
            let strides = if across { [1, rows as i64] } else { [cols as i64, 1] };
            let args = [
                read(DType::F32, rng.floats(rows * cols).iter().map(|x| x * 4.0).collect()),
                write(DType::F32, rows * cols),
                write(DType::F32, rows),
            ];
            let tolerance = Tolerance { relative: 1e-5, absolute: 1e-6 };
            check(&format!("softmax {rows}x{cols} across {across}"), &softmax(rows, cols, strides), &args, tolerance);
        }
    }
}

/// Rows that no invocation keeps in registers: their maximum and the sum below it come of one sweep, wherever the large elements are.
#[test]
fn softmax_of_long_rows() {
    let mut rng = Rng(27);
    let cols = 5003;
    let rows: [Box<dyn Fn(usize, f64) -> f64>; 7] = [
        Box::new(|_, x| 4.0 * x),
        Box::new(|i, x| i as f64 * 0.02 + x),
        Box::new(|i, x| i as f64 * -0.02 + x),
        Box::new(|_, _| 3.0),
        Box::new(|i, x| if i == 4711 { 90.0 } else { 20.0 * x - 60.0 }),
        Box::new(|i, _| if i == 17 { -5.0 } else { f64::NEG_INFINITY }),
        Box::new(|i, x| if i < 4000 { f64::NEG_INFINITY } else { x }),
    ];
    let noise = rng.floats(rows.len() * cols);
    let data = noise.iter().enumerate().map(|(i, x)| f64::from(rows[i / cols](i % cols, *x) as f32));
    let data: Vec<f64> = data.collect();
    for across in [false, true] {
        let strides = if across { [1, rows.len() as i64] } else { [cols as i64, 1] };
        let laid_out = if across {
            (0..data.len()).map(|i| data[i % rows.len() * cols + i / rows.len()]).collect()
        } else {
            data.clone()
        };
        let args = [read(DType::F32, laid_out), write(DType::F32, data.len()), write(DType::F32, rows.len())];
        let tolerance = Tolerance { relative: 2e-5, absolute: 1e-6 };
        let kernel = softmax(rows.len(), cols, strides);
        check(&format!("softmax of long rows, across {across}"), &kernel, &args, tolerance);
    }
}

#[test]
fn layer_norm_in_place() {
    let mut rng = Rng(23);
    for (rows, cols) in [(3, 1), (9, 192), (2, 1003)] {
        let mut b = B::new();
        let x = b.load(0, DType::F32, &[cols as i64, 1]);
        let (w, bias) = (b.load(1, DType::F32, &[0, 1]), b.load(2, DType::F32, &[0, 1]));
        let n = b.constant(cols as f64);
        let sum = b.acc(0);
        let mean = b.binary(Binary::Div, sum, n);
        let centred = b.binary(Binary::Sub, x, mean);
        let square = b.binary(Binary::Mul, centred, centred);
        let squares = b.acc(1);
        let variance = b.binary(Binary::Div, squares, n);
        let eps = b.constant(1e-5);
        let variance = b.binary(Binary::Add, variance, eps);
        let inverse = b.unary(Unary::Rsqrt, variance);
        let normal = b.binary(Binary::Mul, centred, inverse);
        let scaled = b.binary(Binary::Mul, normal, w);
        let out = b.binary(Binary::Add, scaled, bias);
        let k = KernelKind::Reduce(ReduceKernel {
            rows: vec![rows],
            cols: vec![cols],
            body: b.body,
            reductions: vec![Reduction { op: Reduce::Sum, value: x }, Reduction { op: Reduce::Sum, value: square }],
            stores: vec![
                store(0, vec![cols as i64, 1], out),
                store(3, vec![1, 0], mean),
                store(4, vec![1, 0], inverse),
            ],
        });
        let args = [
            in_place(DType::F32, rng.floats(rows * cols)),
            read(DType::F32, rng.floats(cols)),
            read(DType::F32, rng.floats(cols)),
            write(DType::F32, rows),
            write(DType::F32, rows),
        ];
        check(&format!("layer_norm {rows}x{cols}"), &k, &args, Tolerance { relative: 2e-5, absolute: 2e-5 });
    }
}

#[test]
fn column_sums_of_tall_matrices() {
    // A bias gradient, a weighted one and a largest position in one kernel.
    let mut rng = Rng(24);
    for (columns, tall) in [(1, 100), (4, 33), (192, 300), (257, 64), (48, 1536)] {
        let mut b = B::new();
        let g = b.load(0, DType::F32, &[1, columns as i64]);
        let x = b.load(1, DType::F32, &[0, 1]);
        let gx = b.binary(Binary::Mul, g, x);
        let (s, t) = (b.acc(0), b.acc(1));
        let at = b.op(ScalarOp::Acc(2), DType::I32);
        let k = KernelKind::Reduce(ReduceKernel {
            rows: vec![columns],
            cols: vec![tall],
            body: b.body,
            reductions: vec![
                Reduction { op: Reduce::Sum, value: g },
                Reduction { op: Reduce::Sum, value: gx },
                Reduction { op: Reduce::ArgMax, value: g },
            ],
            stores: vec![store(2, vec![1, 0], s), store(3, vec![1, 0], t), store(4, vec![1, 0], at)],
        });
        let args = [
            read(DType::F32, rng.floats(columns * tall)),
            read(DType::F32, rng.floats(tall)),
            write(DType::F32, columns),
            write(DType::F32, columns),
            write(DType::I32, columns),
        ];
        check(&format!("column sums {tall}x{columns}"), &k, &args, products(tall));
        // Without the position, four columns at once.
        let KernelKind::Reduce(mut k) = k else { unreachable!() };
        k.reductions[2].op = Reduce::Max;
        k.body.scalars[at].dtype = DType::F32;
        let args = [&args[..4], &[write(DType::F32, columns)]].concat();
        check(&format!("column sums and maxima {tall}x{columns}"), &KernelKind::Reduce(k), &args, products(tall));
    }
}

/// Mean, variance and the normal form of rows, added to what the result takes the place of: three sweeps, of which short rows stay in registers.
#[test]
fn norms_of_rows() {
    let mut rng = Rng(27);
    for (rows, cols) in [(5, 37), (3, 24), (6, 96), (9, 160), (7, 256), (2, 1000), (3, 2400)] {
        let mut b = B::new();
        let over = [cols as i64, 1];
        let (x, g, before) =
            (b.load(0, DType::F32, &over), b.load(1, DType::F32, &[0, 1]), b.load(4, DType::F32, &over));
        let one = b.f32(ScalarOp::Const(Literal::f32(1.0 / cols as f64)));
        let sum = b.acc(0);
        let mean = b.binary(Binary::Mul, sum, one);
        let apart = b.binary(Binary::Sub, x, mean);
        let square = b.binary(Binary::Mul, apart, apart);
        let squares = b.acc(1);
        let variance = b.binary(Binary::Mul, squares, one);
        let scale = b.f32(ScalarOp::Unary(Unary::Rsqrt, variance));
        let normal = b.binary(Binary::Mul, apart, scale);
        let scaled = b.binary(Binary::Mul, normal, g);
        let result = b.binary(Binary::Add, scaled, before);
        let k = KernelKind::Reduce(ReduceKernel {
            rows: vec![rows],
            cols: vec![cols],
            body: b.body,
            reductions: vec![Reduction { op: Reduce::Sum, value: x }, Reduction { op: Reduce::Sum, value: square }],
            stores: vec![store(2, vec![1, 0], mean), store(3, vec![1, 0], scale), store(4, over.to_vec(), result)],
        });
        let args = [
            read(DType::F32, rng.floats(rows * cols)),
            read(DType::F32, rng.floats(cols)),
            write(DType::F32, rows),
            write(DType::F32, rows),
            in_place(DType::F32, rng.floats(rows * cols)),
        ];
        check(&format!("norms of {rows}x{cols}"), &k, &args, products(cols));
    }
}

#[test]
fn cross_entropy_rows() {
    // The loss of each row: log-sum-exp minus the logit of the target, gathered by an indirect load.
    let mut rng = Rng(25);
    let (rows, cols) = (6, 67);
    let mut b = B::new();
    let x = b.load(0, DType::F32, &[cols as i64, 1]);
    let target = b.load(1, DType::I32, &[1, 0]);
    let at = Access {
        arg: ArgId(0),
        at: Affine { offset: 0, coeffs: vec![cols as i64, 0] },
        indirect: vec![Indirect { index: target, stride: 1, extent: cols }],
    };
    let chosen = b.f32(ScalarOp::Load(at));
    let max = b.acc(0);
    let shifted = b.binary(Binary::Sub, x, max);
    let e = b.unary(Unary::Exp, shifted);
    let sum = b.acc(1);
    let log = b.unary(Unary::Log, sum);
    let lse = b.binary(Binary::Add, max, log);
    let loss = b.binary(Binary::Sub, lse, chosen);
    let k = KernelKind::Reduce(ReduceKernel {
        rows: vec![rows],
        cols: vec![cols],
        body: b.body,
        reductions: vec![Reduction { op: Reduce::Max, value: x }, Reduction { op: Reduce::Sum, value: e }],
        stores: vec![store(2, vec![1, 0], loss)],
    });
    let args = [
        read(DType::F32, rng.floats(rows * cols)),
        read(DType::I32, rng.ints(rows, 0, cols as i64)),
        write(DType::F32, rows),
    ];
    check("cross entropy", &k, &args, Tolerance { relative: 1e-5, absolute: 2e-6 });
}

#[test]
fn scatters() {
    let mut rng = Rng(26);
    for (table, ids, inner) in [
        (1, vec![1], vec![1]),
        (5, vec![], vec![4]),
        (7, vec![3, 5], vec![17]),
        (9, vec![40], vec![2, 6]),
        (64, vec![33], vec![]),
        (30, vec![300], vec![70]),
        (300, vec![90], vec![1]),
        (200, vec![2100], vec![70]),
    ] {
        for dtype in [DType::F32, DType::I32] {
            for base in 0..3 {
                let space = [ids.clone(), inner.clone()].concat();
                let n: usize = space.iter().product();
                let width: usize = inner.iter().product();
                let mut b = B::new();
                let x = b.load(1, dtype, &row_major(&space));
                let two = b.op(ScalarOp::Const(Literal::new(dtype, 2.0)), dtype);
                let value = b.binary(Binary::Mul, x, two);
                let index = b.load(2, DType::I32, &[row_major(&ids), vec![0; inner.len()]].concat());
                let strides = row_major(&[vec![table], inner.clone()].concat());
                let out = Access::direct(ArgId(0), 0, strides.clone());
                let mut args = vec![
                    write(dtype, table * width),
                    read(dtype, rng.values(dtype, n)),
                    read(DType::I32, rng.ints(ids.iter().product(), -2, table as i64 + 2)),
                ];
                let base_of = match base {
                    0 => ScatterBase::Const(Literal::new(dtype, 0.0)),
                    1 => {
                        args[0] = in_place(dtype, rng.values(dtype, table * width));
                        ScatterBase::Load(out.clone())
                    }
                    _ => {
                        args.push(read(dtype, rng.values(dtype, table * width)));
                        ScatterBase::Load(Access::direct(ArgId(3), 0, strides))
                    }
                };
                let k = KernelKind::Scatter(Scatter {
                    table,
                    ids: ids.clone(),
                    inner: inner.clone(),
                    body: b.body,
                    index,
                    value,
                    base: base_of,
                    out,
                });
                check(&format!("scatter {table} {ids:?} {inner:?} {dtype} base {base}"), &k, &args, sums(n));
            }
        }
    }
}

/// Squares, summed in blocks of many segments.
fn squares(rng: &mut Rng, op: Reduce, block: usize, segments: &[usize]) -> (KernelKind, Vec<Given>) {
    let mut b = B::new();
    let x = b.load(0, DType::F32, &[1]);
    let value = b.binary(Binary::Mul, x, x);
    let k = KernelKind::Fold(Fold {
        block,
        segments: segments.to_vec(),
        body: b.body,
        reduction: Reduction { op, value },
        out: Access::direct(ArgId(1), 0, vec![1]),
    });
    let mut args: Vec<Given> = segments.iter().map(|n| read(DType::F32, rng.floats(*n))).collect();
    args.push(write(DType::F32, segments.iter().map(|n| n.div_ceil(block)).sum()));
    (k, args)
}

#[test]
fn folds() {
    let mut rng = Rng(31);
    for (block, segments) in [
        (4096, vec![1, 3, 4, 64, 1000, 20_000, 7]),
        (4096, vec![4, 512, 8, 4096, 12_292]),
        (24, vec![24, 48, 100]),
        (3, vec![7, 1, 2, 30]),
        (1, vec![5]),
    ] {
        for op in [Reduce::Sum, Reduce::Max] {
            let (k, args) = squares(&mut rng, op, block, &segments);
            check(&format!("{} of {segments:?} in blocks of {block}", op.name()), &k, &args, sums(block));
        }
    }
}

#[test]
fn segments_of_folds_are_cut_between_blocks() {
    let mut rng = Rng(32);
    let (k, args) = squares(&mut rng, Reduce::Sum, 100, &[40, 3000, 100]);
    let program = program(&k, &args, Layout::Packed);
    let caps = tinygpt_codegen_wgsl::Caps { max_binding_bytes: 4096, ..tinygpt_codegen_wgsl::Caps::webgpu() };
    let kernel = program.kernels.values().next().unwrap();
    let e = tinygpt_codegen_wgsl::pieces(&program, kernel, &caps).unwrap_err().to_string();
    assert!(e.contains("bytes in one range and the adapter allows 4096"), "results and segments in one pack: {e}");
    let program = support::program(&k, &args, Layout::Own);
    let kernel = program.kernels.values().next().unwrap();
    let pieces = tinygpt_codegen_wgsl::pieces(&program, kernel, &caps).unwrap();
    assert_eq!(pieces.len(), 6, "one for each end, and four for 3000 elements of which a binding holds 900");
    let mut blocks = 0;
    for p in &pieces {
        let KernelKind::Fold(f) = &p.kind else { panic!("a fold") };
        blocks += f.blocks();
        let args = &p.bindings.args;
        assert_eq!((args.len(), args[args.len() - 1].len), (f.segments.len() + 1, f.blocks()));
        assert!(p.bindings.list.iter().all(|b| b.size <= 4096 && b.offset % 256 == 0));
    }
    assert_eq!(blocks, 1 + 30 + 1);
}
