//! Functions that try every operation of the vector loop IR, for whoever runs them: each emitter compares its code with the interpreter,
//! bit for bit.

pub mod random;

use tinygpt_vloop::interp::Data;
use tinygpt_vloop::*;

/// Runs a function on buffers and parameters, compares it with the interpreter, and returns the buffers afterwards.
pub type Check<'a> = &'a mut dyn FnMut(&Func, &[Data], &[i64]) -> Vec<Data>;

/// The bits of each element; all NaNs alike.
pub fn bits(d: &Data) -> Vec<u32> {
    match d {
        Data::F32(v) => v.iter().map(|x| if x.is_nan() { f32::NAN.to_bits() } else { x.to_bits() }).collect(),
        Data::I32(v) => v.iter().map(|&x| x as u32).collect(),
    }
}

/// The first element in which two runs differ: buffer, index, bits of each.
pub fn difference(expected: &[Data], found: &[Data]) -> Option<(usize, usize, u32, u32)> {
    expected.iter().zip(found).enumerate().find_map(|(b, (e, f))| {
        let (e, f) = (bits(e), bits(f));
        (0..e.len()).find(|&i| e[i] != f[i]).map(|i| (b, i, e[i], f[i]))
    })
}

pub const FLOATS: [f32; 24] = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    -0.5,
    1.5,
    2.5,
    -2.5,
    3.25,
    1e-40,
    -1e-40,
    1e30,
    -1e30,
    8_388_607.5,
    8_388_609.0,
    -4_194_304.5,
    2_147_483_648.0,
    -2_147_483_648.0,
    4_294_967_040.0,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::NAN,
    1e-3,
];
pub const INTS: [i32; 16] =
    [0, 1, -1, 2, 3, -3, 7, 31, 32, 33, 255, 65_536, i32::MAX, i32::MIN, i32::MIN + 1, 1_234_567_891];

/// All pairs of values, padded to a multiple of 4: left operands, right operands.
fn pairs<T: Copy>(values: &[T]) -> (Vec<T>, Vec<T>) {
    let all: Vec<(T, T)> = values.iter().flat_map(|&a| values.iter().map(move |&b| (a, b))).collect();
    assert_eq!(all.len() % 4, 0);
    all.into_iter().unzip()
}

/// Elements of the buffer `elem` holds: pairs of special values.
fn special(elem: Elem) -> (Data, Data) {
    match elem {
        Elem::F32 => {
            let (a, b) = pairs(&FLOATS);
            (Data::F32(a), Data::F32(b))
        }
        Elem::I32 => {
            let (a, b) = pairs(&INTS);
            (Data::I32(a), Data::I32(b))
        }
    }
}

/// Applies `op` to all pairs of special values, at both widths and in an independent loop if it may be there: `out[i] = op(a[i], b[i])`. The result may be a
/// truth value, which is stored as an integer.
fn check_pairs(check: Check, elem: Elem, out: Elem, op: &dyn Fn(&mut Builder, Reg, Reg) -> Reg) -> Vec<Vec<Data>> {
    let (a, b) = special(elem);
    let n = a.len();
    let empty = || match out {
        Elem::F32 => Data::F32(vec![0.0; n]),
        Elem::I32 => Data::I32(vec![0; n]),
    };
    [(1, false), (4, false), (1, true)]
        .into_iter()
        .filter_map(|(lanes, independent)| {
            let mut f = Builder::new("pairs");
            let (ab, bb, ob) = (f.input("a", elem), f.input("b", elem), f.output("out", out));
            let body = |f: &mut Builder, i: Reg| {
                let x = f.load_lanes(ab.at().plus(i, 1), lanes);
                let y = f.load_lanes(bb.at().plus(i, 1), lanes);
                let mut r = op(f, x, y);
                if f.ty(r).lane() == Ty::Bool {
                    let ty = Ty::I32.with_lanes(lanes);
                    let yes = f.op(ty, Op::Const(Const::I32(1)));
                    let no = f.op(ty, Op::Const(Const::I32(0)));
                    r = f.select(r, yes, no);
                }
                f.store(ob.at().plus(i, 1), r);
            };
            if independent {
                f.allow_independent_loops();
                if !f.for_independent("i", 0, n, body) {
                    return None;
                }
            } else {
                f.for_("i", 0, n, lanes as i64, body);
            }
            Some(check(&f.finish().expect("well formed"), &[a.clone(), b.clone(), empty()], &[]))
        })
        .collect()
}

pub fn unary_operations(check: Check) {
    for &op in UnOp::ALL {
        for elem in [Elem::F32, Elem::I32] {
            let float_only = matches!(op, UnOp::Sqrt | UnOp::Round);
            if (elem == Elem::I32 && float_only) || (elem == Elem::F32 && op == UnOp::Not) {
                continue;
            }
            check_pairs(check, elem, elem, &|b, x, _| b.unary(op, x));
        }
    }
    check_pairs(check, Elem::F32, Elem::I32, &|b, x, y| {
        let less = b.cmp(CmpOp::Lt, x, y);
        b.not(less)
    });
}

pub fn binary_operations(check: Check) {
    let mut checked = 0;
    for &op in BinOp::ALL {
        for elem in [Elem::F32, Elem::I32] {
            if verify::binary_kinds(op).contains(&elem.ty(1)) && !op.is_shift() {
                check_pairs(check, elem, elem, &|b, x, y| b.binary(op, x, y));
                checked += 1;
            }
        }
        if verify::binary_kinds(op).contains(&Ty::Bool) {
            check_pairs(check, Elem::F32, Elem::I32, &|b, x, y| {
                let (p, q) = (b.cmp(CmpOp::Lt, x, y), b.cmp(CmpOp::Ne, x, x));
                b.binary(op, p, q)
            });
        }
        if op.is_shift() {
            for by in [0, 1, 31, 32, 37, -1] {
                check_pairs(check, Elem::I32, Elem::I32, &|b, x, _| b.shift(op, x, by));
            }
        }
    }
    assert_eq!(checked, 6 + 14, "f32 and i32 operations");
}

pub fn comparisons(check: Check) {
    for &op in CmpOp::ALL {
        check_pairs(check, Elem::I32, Elem::I32, &|b, x, y| b.cmp(op, x, y));
        if !matches!(op, CmpOp::LtU | CmpOp::LeU | CmpOp::GtU | CmpOp::GeU) {
            check_pairs(check, Elem::F32, Elem::I32, &|b, x, y| b.cmp(op, x, y));
        }
    }
}

pub fn conversions(check: Check) {
    for conv in [Conv::I32ToF32, Conv::U32ToF32, Conv::I32BitsToF32] {
        check_pairs(check, Elem::I32, Elem::F32, &|b, x, _| b.convert(conv, x));
    }
    for conv in [Conv::F32ToI32, Conv::F32ToU32] {
        check_pairs(check, Elem::F32, Elem::I32, &|b, x, _| b.convert(conv, x));
    }
    check_pairs(check, Elem::F32, Elem::I32, &|b, x, _| {
        let number = b.cmp(CmpOp::Eq, x, x); // the bits of a NaN are not specified
        let zero = b.sub(x, x);
        let x = b.select(number, x, zero);
        let again = b.cmp(CmpOp::Eq, x, x);
        let bits = b.convert(Conv::F32BitsToI32, x);
        let none = b.xor(bits, bits);
        b.select(again, bits, none)
    });
}

pub fn index_conversions_and_divisions(check: Check) {
    for conv in [Conv::I32ToIndex, Conv::U32ToIndex] {
        let mut f = Builder::new("index");
        let (a, out) = (f.input("a", Elem::I32), f.output("out", Elem::I32));
        f.for_("i", 0, INTS.len(), 1, |f, i| {
            let x = f.load(a.at().plus(i, 1));
            let r = f.convert(conv, x);
            let r = f.convert(Conv::IndexToI32, r);
            f.store(out.at().plus(i, 1), r);
        });
        let f = f.finish().expect("well formed");
        check(&f, &[Data::I32(INTS.to_vec()), Data::I32(vec![0; INTS.len()])], &[]);
    }
    let dividends = [0, 1, 2, 5, 6, 7, 95, 96, 97, 1_000_003, i64::from(i32::MAX) - 1, i64::from(i32::MAX)];
    for d in [1, 2, 3, 5, 6, 7, 8, 10, 48, 96, 768, 1000, 65_536, 641, 1 << 30, i64::from(i32::MAX)] {
        let mut f = Builder::new("divide");
        let out = f.output("out", Elem::I32);
        for (i, _) in dividends.iter().enumerate() {
            let n = f.param(format!("n{i}"));
            let (q, r) = (f.div_const(n, d), f.rem_const(n, d));
            for (k, v) in [q, r].into_iter().enumerate() {
                let low = f.convert(Conv::IndexToI32, v);
                f.store(out.at().offset((2 * i + k) as i64), low);
            }
        }
        check(&f.finish().expect("well formed"), &[Data::I32(vec![0; 2 * dividends.len()])], &dividends);
    }
}

/// Index values that need 64 bits.
pub fn wide_index_divisions(check: Check) {
    for conv in [Conv::I32ToIndex, Conv::U32ToIndex] {
        let mut f = Builder::new("index");
        let (a, out) = (f.input("a", Elem::I32), f.output("out", Elem::I32));
        f.for_("i", 0, INTS.len(), 1, |f, i| {
            let x = f.load(a.at().plus(i, 1));
            let wide = f.convert(conv, x);
            let million = f.index(1 << 20);
            let big = f.mul(wide, million); // shows what the upper half was extended with
            let zero = f.index(0);
            let positive = f.max(big, zero);
            let shifted = f.div_const(positive, 1 << 18);
            let r = f.convert(Conv::IndexToI32, shifted);
            f.store(out.at().plus(i, 1), r);
        });
        let f = f.finish().expect("well formed");
        check(&f, &[Data::I32(INTS.to_vec()), Data::I32(vec![0; INTS.len()])], &[]);
    }

    let dividends = [0, 1, 2, 5, 6, 7, 95, 96, 97, 1_000_003, u32::MAX as i64, (1 << 40) - 1, i64::MAX - 1, i64::MAX];
    for d in [1, 2, 3, 5, 6, 7, 8, 10, 48, 96, 768, 1000, 65_536, 641, i64::MAX, i64::MAX - 1, (1 << 62) + 1] {
        let mut f = Builder::new("divide");
        let out = f.output("out", Elem::I32);
        for (i, _) in dividends.iter().enumerate() {
            let n = f.param(format!("n{i}"));
            let (q, r) = (f.div_const(n, d), f.rem_const(n, d));
            for (k, v) in [q, r].into_iter().enumerate() {
                let low = f.convert(Conv::IndexToI32, v);
                let high = f.div_const(v, 1 << 32);
                let high = f.convert(Conv::IndexToI32, high);
                f.store(out.at().offset((4 * i + 2 * k) as i64), low);
                f.store(out.at().offset((4 * i + 2 * k + 1) as i64), high);
            }
        }
        check(&f.finish().expect("well formed"), &[Data::I32(vec![0; 4 * dividends.len()])], &dividends);
    }
}

pub fn lanes(check: Check) {
    for op in [BinOp::Add, BinOp::Mul, BinOp::Min, BinOp::Max] {
        for elem in [Elem::F32, Elem::I32] {
            check_pairs(check, elem, elem, &|b, x, _| {
                if b.ty(x).is_vector() {
                    let r = b.reduce(op, x);
                    return b.splat(r);
                }
                x
            });
        }
    }
    for op in [BinOp::MinU, BinOp::MaxU, BinOp::And, BinOp::Or, BinOp::Xor] {
        check_pairs(check, Elem::I32, Elem::I32, &|b, x, y| {
            if !b.ty(x).is_vector() {
                return x;
            }
            let r = b.reduce(op, x);
            let r = b.insert(y, 2, r);
            if verify::binary_kinds(op).contains(&Ty::Bool) {
                let m = b.cmp(CmpOp::Lt, x, y);
                let any = b.reduce(op, m);
                let first = b.extract(m, 3);
                let m = b.insert(m, 1, any);
                let all = b.splat(first);
                let m = b.xor(m, all);
                let picked = b.select(m, r, x);
                return b.select(any, picked, y);
            }
            r
        });
    }
}

pub fn the_second_of_two_nans_or_zeros_loses(check: Check) {
    let mut f = Builder::new("max");
    let (x, out) = (f.input("x", Elem::F32), f.output("out", Elem::F32));
    for lanes in [1, 4] {
        let (a, b) = (f.load_lanes(x.at(), lanes), f.load_lanes(x.at().offset(4), lanes));
        let (least, most) = (f.min(a, b), f.max(a, b));
        f.store(out.at().offset(if lanes == 1 { 8 } else { 0 }), least);
        f.store(out.at().offset(if lanes == 1 { 9 } else { 4 }), most);
    }
    let x = vec![f32::NAN, 1.0, 0.0, -0.0, 2.0, f32::NAN, -0.0, 0.0];
    let found = check(&f.finish().expect("well formed"), &[Data::F32(x), Data::F32(vec![0.0; 10])], &[]);
    let expected = [f32::NAN, 1.0, 0.0, -0.0, f32::NAN, 1.0, 0.0, -0.0, f32::NAN, f32::NAN];
    assert_eq!(bits(&found[1]), bits(&Data::F32(expected.to_vec())));
}

pub fn loops_tails_and_branches(check: Check) {
    // y[i] = i even ? 2 x[i] + y[i] : -y[i], over vectors and a scalar tail; then a sum kept in scratch.
    let mut f = Builder::new("tails");
    let (x, y) = (f.input("x", Elem::F32), f.output("y", Elem::F32));
    let total = f.scratch("total", Elem::F32, 3);
    let n = f.param("n");
    let rest = f.rem_const(n, 4);
    let whole = f.sub(n, rest);
    let two = f.f32x4(2.0);
    f.for_("i", 0, whole, 4, |f, i| {
        let (xv, yv) = (f.load4(x.at().plus(i, 1)), f.load4(y.at().plus(i, 1)));
        let r = f.fma(two, xv, yv);
        f.store(y.at().plus(i, 1), r);
    });
    f.for_("i", whole, n, 1, |f, i| {
        let y1 = f.load(y.at().plus(i, 1));
        let odd = f.rem_const(i, 2);
        let zero = f.index(0);
        let even = f.cmp(CmpOp::Eq, odd, zero);
        let out = f.var("out", y1);
        f.if_else(
            even,
            |f| {
                let x1 = f.load(x.at().plus(i, 1));
                f.combine_into(out, BinOp::Add, x1);
            },
            |f| {
                let neg = f.neg(y1);
                f.assign(out, neg);
            },
        );
        f.store(y.at().plus(i, 1), out);
    });
    let zero = f.f32(0.0);
    let sum = f.var("sum", zero);
    f.for_("i", 0, n, 1, |f, i| {
        let v = f.load(y.at().plus(i, 1));
        f.combine_into(sum, BinOp::Add, v);
    });
    f.store(total.at().offset(2), sum);
    let sum = f.load(total.at().offset(2));
    f.store(y.at().plus(n, 1), sum);
    let f = f.finish().expect("well formed");
    for n in 0..12 {
        let x: Vec<f32> = (0..n).map(|i| i as f32 * 0.7 - 2.0).collect();
        let y: Vec<f32> = (0..=n).map(|i| 1.0 / (i as f32 + 0.3)).collect();
        check(&f, &[Data::F32(x), Data::F32(y)], &[n as i64]);
    }
}

pub fn an_index_that_a_loop_changes_moves_its_addresses(check: Check) {
    let mut f = Builder::new("cursor");
    let (x, y) = (f.input("x", Elem::F32), f.output("y", Elem::F32));
    let start = f.index(1);
    let cursor = f.var("cursor", start);
    let first = f.load(x.at().plus(cursor, 2));
    f.for_("i", 0, 3, 1, |f, i| {
        f.for_("j", 0, 2, 1, |f, j| {
            let v = f.load(x.at().plus(cursor, 2).plus(j, 1));
            let v = f.add(v, first);
            f.store(y.at().plus(i, 2).plus(j, 1), v);
        });
        let next = f.add_const(cursor, 2);
        f.assign(cursor, next);
        let v = f.load(x.at().plus(cursor, 2));
        f.store(y.at().plus(cursor, 2), v);
    });
    let x = (0..32).map(|i| i as f32).collect();
    check(&f.finish().expect("well formed"), &[Data::F32(x), Data::F32(vec![0.0; 16])], &[]);
}

pub fn an_index_set_between_two_accesses_moves_the_second(check: Check) {
    let mut f = Builder::new("between");
    let (x, y) = (f.input("x", Elem::F32), f.output("y", Elem::F32));
    let start = f.param("start");
    let cursor = f.var("cursor", start);
    f.for_("i", 0, 3, 1, |f, i| {
        for step in 1..3 {
            for at in 0..2 {
                let v = f.load(x.at().plus(cursor, 2).offset(at));
                f.store(y.at().plus(i, 4).offset(2 * step + at - 2), v);
            }
            let next = f.add_const(cursor, step);
            f.assign(cursor, next);
        }
    });
    let x = (0..32).map(|i| i as f32).collect();
    check(&f.finish().expect("well formed"), &[Data::F32(x), Data::F32(vec![0.0; 12])], &[1]);
}

pub fn values_are_read_before_what_overwrites_them(check: Check) {
    let mut f = Builder::new("order");
    let y = f.output("y", Elem::F32);
    let row = f.scratch("row", Elem::F32, 8);
    let one = f.f32(1.0);
    f.store(row.at(), one);
    // Each value is read once, after a store to where it came from, or after its operand has changed.
    let (from_buffer, from_scratch) = (f.load(y.at()), f.load(row.at()));
    let before = f.load(y.at().offset(1));
    let sum = f.var("sum", before);
    let twice = f.add(sum, sum);
    let nine = f.f32(9.0);
    f.store(y.at(), nine);
    f.store(row.at(), nine);
    f.assign(sum, nine);
    f.store(y.at().offset(2), from_buffer);
    f.store(y.at().offset(3), from_scratch);
    f.store(y.at().offset(4), twice);
    let late = f.load(y.at().offset(5));
    f.for_("i", 5, 7, 1, |f, i| f.store(y.at().plus(i, 1), nine));
    f.store(y.at().offset(7), late);
    let y = (0..8).map(|i| i as f32 + 0.5).collect();
    check(&f.finish().expect("well formed"), &[Data::F32(y)], &[]);
}

pub fn bounds_are_evaluated_once(check: Check) {
    let mut f = Builder::new("bounds");
    let y = f.output("y", Elem::F32);
    let n = f.param("n");
    let end = f.var("end", n);
    let one = f.f32(1.0);
    f.for_("i", 0, end, 1, |f, i| {
        f.store(y.at().plus(i, 1), one);
        let less = f.add_const(end, -2);
        f.assign(end, less);
    });
    f.for_("i", end, n, 3, |f, i| {
        let shifted = f.add(i, n);
        f.store(y.at().plus(shifted, 1).offset(1), one);
    });
    check(&f.finish().expect("well formed"), &[Data::F32(vec![0.0; 16])], &[6]);
}

/// One loop over `x`: `y = function(x)`, expanded.
pub fn expanded(function: RowFn, lanes: usize) -> Func {
    let mut f = Builder::new(function.name());
    let (x, y) = (f.input("x", Elem::F32), f.output("y", Elem::F32));
    let n = f.param("n");
    f.for_("i", 0, n, lanes as i64, |f, i| {
        let v = f.load_lanes(x.at().plus(i, 1), lanes);
        let r = f.transcendental(function, v);
        f.store(y.at().plus(i, 1), r);
    });
    f.finish().expect("well formed")
}

pub fn transcendental_functions_keep_their_bounds(check: Check) {
    for &function in RowFn::ALL {
        type F64 = fn(f64) -> f64;
        let (exact, from, to, bound): (F64, f32, f32, f64) = match function {
            RowFn::Exp => (f64::exp, -87.0, 88.5, math::EXP_ULP),
            RowFn::Log => (f64::ln, 1e-30, 1e3, math::LOG_ULP),
            RowFn::Tanh => (f64::tanh, -10.0, 10.0, math::TANH_ULP),
            RowFn::Erf => (libm::erf, -4.0, 4.0, math::ERF_ULP),
            RowFn::Sin => (f64::sin, -100.0, 100.0, math::SIN_COS_ULP),
            RowFn::Cos => (f64::cos, -100.0, 100.0, math::SIN_COS_ULP),
        };
        // Near a zero of sin and cos the bound is absolute, as math states.
        let floor = if matches!(function, RowFn::Sin | RowFn::Cos) { math::SIN_COS_SMALL } else { 0.0 };
        let n = 20_000;
        let mut x: Vec<f32> = (0..n).map(|i| from + (to - from) * i as f32 / n as f32).collect();
        x[..8].copy_from_slice(&[0.0, 1.0, 1e-20, 2.5, f32::INFINITY, f32::NAN, 0.3, 1e-3]);
        for lanes in [1, 4] {
            let bufs = [Data::F32(x.clone()), Data::F32(vec![0.0; n])];
            let y = check(&expanded(function, lanes), &bufs, &[n as i64]);
            let mut worst = 0f64;
            for (&x, &y) in x.iter().zip(y[1].f32()) {
                let exact = exact(x as f64);
                if exact.abs() < f32::MIN_POSITIVE as f64 || !exact.is_finite() {
                    continue;
                }
                let scale = exact.abs().max(floor).log2().floor().max(-126.0);
                worst = worst.max((y as f64 - exact).abs() / 2f64.powf(scale - 23.0));
            }
            assert!(worst > 0.0 && worst <= bound, "{} x{lanes}: {worst} ulp, bound {bound}", function.name());
        }
    }
}
