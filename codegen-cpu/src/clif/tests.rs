//! Emitted code against the interpreter, bit for bit, on this machine's instruction set and on the baseline.

mod random;

use super::*;
use tinygpt_vloop::interp::{self, Data};
use tinygpt_vloop::math::{self, Scalar};
use tinygpt_vloop::*;

/// Memory with the alignment that scratch has.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Line([u8; 64]);

/// Row functions that do what the interpreter does, so that row calls compare bit for bit.
mod rows {
    use super::*;

    macro_rules! rows {
        ($($name:ident),*) => {$(
            pub unsafe extern "C" fn $name<const FUSED: bool>(src: *const f32, dst: *mut f32, n: usize) {
                for i in 0..n {
                    // SAFETY: the caller passes `n` readable and writable elements.
                    unsafe { *dst.add(i) = math::$name(&mut Scalar::<FUSED>, *src.add(i)) };
                }
            }
        )*};
    }
    rows!(exp, log, tanh, erf, sin, cos);

    pub fn table<const FUSED: bool>() -> RowTable {
        RowTable {
            exp: exp::<FUSED>,
            log: log::<FUSED>,
            tanh: tanh::<FUSED>,
            erf: erf::<FUSED>,
            sin: sin::<FUSED>,
            cos: cos::<FUSED>,
        }
    }
}

fn compile(func: &Func, target: Target) -> (Code, CodeId) {
    let fused = Jit::new(Options { target, ..Options::default() }).expect("a supported host").fused();
    let rows = Some(if fused { rows::table::<true>() } else { rows::table::<false>() });
    let mut jit = Jit::new(Options { target, rows, texts: true }).expect("a supported host");
    let id = jit.compile(func).unwrap_or_else(|e| panic!("{e}\n{func}"));
    (jit.finish().expect("finalizes"), id)
}

/// Runs the function's machine code on the buffers.
fn call(code: &Code, id: CodeId, func: &Func, bufs: &mut [Data], params: &[i64]) {
    let ptrs: Vec<*mut u8> = bufs
        .iter_mut()
        .map(|b| match b {
            Data::F32(v) => v.as_mut_ptr().cast(),
            Data::I32(v) => v.as_mut_ptr().cast(),
        })
        .collect();
    let mut scratch = vec![Line([0xa5; 64]); func.scratch_layout().1.div_ceil(64) + 1];
    // SAFETY: the interpreter has run the function on buffers of these lengths without leaving them; scratch has
    // the size of the layout and its alignment.
    unsafe { code.get(id)(ptrs.as_ptr(), scratch.as_mut_ptr().cast(), params.as_ptr()) };
}

/// The bits of each element; all NaNs alike.
fn bits(d: &Data) -> Vec<u32> {
    match d {
        Data::F32(v) => v.iter().map(|x| if x.is_nan() { f32::NAN.to_bits() } else { x.to_bits() }).collect(),
        Data::I32(v) => v.iter().map(|&x| x as u32).collect(),
    }
}

/// Asserts that the machine code of both targets leaves the buffers as the interpreter does, which are returned
/// (of the host's run).
fn check(func: &Func, bufs: &[Data], params: &[i64]) -> Vec<Data> {
    let mut result = Vec::new();
    for target in [Target::Baseline, Target::Host] {
        let (code, id) = compile(func, target);
        let mut expected = bufs.to_vec();
        interp::run(func, &mut expected, params, code.fused()).unwrap_or_else(|e| panic!("{e}\n{func}"));
        let mut found = bufs.to_vec();
        call(&code, id, func, &mut found, params);
        for ((e, f), decl) in expected.iter().zip(&found).zip(&func.bufs) {
            let (e, f) = (bits(e), bits(f));
            if let Some(i) = (0..e.len()).find(|&i| e[i] != f[i]) {
                panic!(
                    "{target:?}: {}[{i}] is {:#x}, the interpreter has {:#x}\n{func}\n{}",
                    decl.name,
                    f[i],
                    e[i],
                    code.asm_text(id).expect("texts are on")
                );
            }
        }
        result = found;
    }
    result
}

const FLOATS: [f32; 24] = [
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
const INTS: [i32; 16] =
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

/// Applies `op` to all pairs of special values, at both widths: `out[i] = op(a[i], b[i])`. The result may be a
/// truth value, which is stored as an integer.
fn check_pairs(elem: Elem, out: Elem, op: &dyn Fn(&mut Builder, Reg, Reg) -> Reg) -> Vec<Vec<Data>> {
    let (a, b) = special(elem);
    let n = a.len();
    let empty = || match out {
        Elem::F32 => Data::F32(vec![0.0; n]),
        Elem::I32 => Data::I32(vec![0; n]),
    };
    [1, 4]
        .into_iter()
        .map(|lanes| {
            let mut f = Builder::new("pairs");
            let (ab, bb, ob) = (f.input("a", elem), f.input("b", elem), f.output("out", out));
            f.for_("i", 0, n, lanes as i64, |f, i| {
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
            });
            check(&f.finish().expect("well formed"), &[a.clone(), b.clone(), empty()], &[])
        })
        .collect()
}

#[test]
fn unary_operations() {
    for &op in UnOp::ALL {
        for elem in [Elem::F32, Elem::I32] {
            let float_only = matches!(op, UnOp::Sqrt | UnOp::Round);
            if (elem == Elem::I32 && float_only) || (elem == Elem::F32 && op == UnOp::Not) {
                continue;
            }
            check_pairs(elem, elem, &|b, x, _| b.unary(op, x));
        }
    }
    check_pairs(Elem::F32, Elem::I32, &|b, x, y| {
        let less = b.cmp(CmpOp::Lt, x, y);
        b.not(less)
    });
}

#[test]
fn binary_operations() {
    let mut checked = 0;
    for &op in BinOp::ALL {
        for elem in [Elem::F32, Elem::I32] {
            if verify::binary_kinds(op).contains(&elem.ty(1)) && !op.is_shift() {
                check_pairs(elem, elem, &|b, x, y| b.binary(op, x, y));
                checked += 1;
            }
        }
        if verify::binary_kinds(op).contains(&Ty::Bool) {
            check_pairs(Elem::F32, Elem::I32, &|b, x, y| {
                let (p, q) = (b.cmp(CmpOp::Lt, x, y), b.cmp(CmpOp::Ne, x, x));
                b.binary(op, p, q)
            });
        }
        if op.is_shift() {
            for by in [0, 1, 31, 32, 37, -1] {
                check_pairs(Elem::I32, Elem::I32, &|b, x, _| b.shift(op, x, by));
            }
        }
    }
    assert_eq!(checked, 6 + 14, "f32 and i32 operations");
}

#[test]
fn comparisons() {
    for &op in CmpOp::ALL {
        check_pairs(Elem::I32, Elem::I32, &|b, x, y| b.cmp(op, x, y));
        if !matches!(op, CmpOp::LtU | CmpOp::LeU | CmpOp::GtU | CmpOp::GeU) {
            check_pairs(Elem::F32, Elem::I32, &|b, x, y| b.cmp(op, x, y));
        }
    }
}

#[test]
fn conversions() {
    for conv in [Conv::I32ToF32, Conv::U32ToF32, Conv::I32BitsToF32] {
        check_pairs(Elem::I32, Elem::F32, &|b, x, _| b.convert(conv, x));
    }
    for conv in [Conv::F32ToI32, Conv::F32ToU32] {
        check_pairs(Elem::F32, Elem::I32, &|b, x, _| b.convert(conv, x));
    }
    check_pairs(Elem::F32, Elem::I32, &|b, x, _| {
        let number = b.cmp(CmpOp::Eq, x, x); // the bits of a NaN are not specified
        let zero = b.sub(x, x);
        let x = b.select(number, x, zero);
        let again = b.cmp(CmpOp::Eq, x, x);
        let bits = b.convert(Conv::F32BitsToI32, x);
        let none = b.xor(bits, bits);
        b.select(again, bits, none)
    });
}

#[test]
fn index_conversions_and_divisions() {
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

#[test]
fn lanes() {
    for op in [BinOp::Add, BinOp::Mul, BinOp::Min, BinOp::Max] {
        for elem in [Elem::F32, Elem::I32] {
            check_pairs(elem, elem, &|b, x, _| {
                if b.ty(x).is_vector() {
                    let r = b.reduce(op, x);
                    return b.splat(r);
                }
                x
            });
        }
    }
    for op in [BinOp::MinU, BinOp::MaxU, BinOp::And, BinOp::Or, BinOp::Xor] {
        check_pairs(Elem::I32, Elem::I32, &|b, x, y| {
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

#[test]
fn the_second_of_two_nans_or_zeros_loses() {
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

#[test]
fn loops_tails_and_branches() {
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

#[test]
fn an_index_that_a_loop_changes_moves_its_addresses() {
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

#[test]
fn row_calls() {
    for &function in RowFn::ALL {
        let mut f = Builder::new("row");
        let (x, y) = (f.input("x", Elem::F32), f.output("y", Elem::F32));
        let row = f.scratch("row", Elem::F32, 9);
        let n = f.param("n");
        f.call_row(function, x.at().offset(1), row.at(), n);
        f.for_("i", 0, n, 1, |f, i| {
            let v = f.load(row.at().plus(i, 1));
            f.store(y.at().plus(i, 1), v);
        });
        f.call_row(function, y.at(), y.at(), 2);
        let f = f.finish().expect("well formed");
        let x: Vec<f32> = (0..10).map(|i| i as f32 * 0.3 + 0.1).collect();
        check(&f, &[Data::F32(x.clone()), Data::F32(x)], &[9]);
    }
}

/// One loop over `x`: `y = function(x)`, expanded.
fn expanded(function: RowFn, lanes: usize) -> Func {
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

#[test]
fn transcendental_functions_keep_their_bounds() {
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

#[test]
fn equal_structures_are_compiled_once() {
    let mut jit = Jit::new(Options::default()).expect("a supported host");
    let first = expanded(RowFn::Exp, 4);
    let mut second = first.clone();
    second.name = "other".into();
    second.bufs[0].name = "in".into();
    second.comments.push("another layer".into());
    let ids = [jit.compile(&first), jit.compile(&second), jit.compile(&expanded(RowFn::Exp, 1))];
    let [a, b, c] = ids.map(|id| id.expect("compiles"));
    assert_eq!(a, b);
    assert_ne!(a, c);
}

#[test]
fn texts_are_stable_and_name_row_functions() {
    let mut f = Builder::new("rows");
    f.provenance("blocks.0.mlp.gelu");
    let (x, y) = (f.input("x", Elem::F32), f.output("y", Elem::F32));
    f.call_row(RowFn::Tanh, x.at(), y.at(), 8);
    f.call_row(RowFn::Exp, x.at(), y.at(), 8);
    let f = f.finish().expect("well formed");
    let texts: Vec<_> = (0..2)
        .map(|_| {
            let (code, id) = compile(&f, Target::Baseline);
            [code.clif_text(id), code.asm_text(id)].map(|t| t.expect("texts are on").to_string())
        })
        .collect();
    assert_eq!(texts[0], texts[1]);
    let clif = &texts[0][0];
    for expected in ["; blocks.0.mlp.gelu\n", "function %rows(", "%row_exp", "%row_tanh"] {
        assert!(clif.contains(expected), "no {expected:?} in\n{clif}");
    }
    assert!(!clif.contains("0x7"), "an address in\n{clif}");
}

#[test]
fn refusals() {
    let mut f = Builder::new("rows");
    let (x, y) = (f.input("x", Elem::F32), f.output("y", Elem::F32));
    f.call_row(RowFn::Erf, x.at(), y.at(), 8);
    let f = f.finish().expect("well formed");
    let mut jit = Jit::new(Options::default()).expect("a supported host");
    let error = jit.compile(&f).expect_err("there is no row table").to_string();
    assert!(error.contains("`rows`") && error.contains("erf"), "{error}");
    // The refusal leaves the compiler usable.
    jit.compile(&expanded(RowFn::Exp, 4)).expect("compiles");

    let mut broken = expanded(RowFn::Exp, 4);
    broken.bufs[1].mutable = false;
    let error = jit.compile(&broken).expect_err("a store to a read-only buffer").to_string();
    assert!(error.contains("read-only"), "{error}");
}
