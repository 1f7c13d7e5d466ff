//! The text form, each rule of the verifier, and the run-time checks of the interpreter.

use tinygpt_vloop::interp::{self, Data};
use tinygpt_vloop::*;

/// A builder with an f32 input `x`, an f32 output `y`, an i32 input `k`, scratch `s` of 8 f32.
fn start() -> (Builder, BufId, BufId, BufId, ScratchId) {
    let mut b = Builder::new("f");
    let x = b.input("x", Elem::F32);
    let y = b.output("y", Elem::F32);
    let k = b.input("k", Elem::I32);
    let s = b.scratch("s", Elem::F32, 8);
    (b, x, y, k, s)
}

/// Asserts that the function that `build` makes is refused with a message that has `expected` in it.
fn refused(expected: &str, build: impl FnOnce(&mut Builder, (BufId, BufId, BufId, ScratchId))) {
    let (mut b, x, y, k, s) = start();
    build(&mut b, (x, y, k, s));
    let error = b.finish().expect_err(expected).to_string();
    assert!(error.contains(expected), "expected {expected:?} in: {error}");
    assert!(error.contains("function `f`"), "no function named in: {error}");
}

#[test]
fn text_form() {
    let mut b = Builder::new("blend");
    b.provenance("blocks.0.mlp.gelu");
    let (x, y) = (b.input("x", Elem::F32), b.output("y", Elem::F32));
    let row = b.scratch("row", Elem::F32, 16);
    let n = b.param("n");
    let half = b.f32x4(0.5);
    b.comment("whole vectors");
    b.for_("i", 0, n, 4, |b, i| {
        let v = b.load4(x.at().plus(n, 3).plus(i, 1).offset(4));
        let r = b.fma(v, half, v);
        b.store(row.at(), r);
        let c = b.cmp(CmpOp::Lt, i, n);
        b.if_else(
            c,
            |b| b.call_row(RowFn::Exp, row.at(), row.at(), 4),
            |b| {
                let nan = b.f32(f32::NAN);
                b.store(y.at().plus(i, 1), nan);
            },
        );
    });
    let f = b.finish().unwrap();
    let expected = "\
// blocks.0.mlp.gelu
func blend(x: f32, y: mut f32; n) {
  scratch row: f32[16]
  %n.0: index = param n
  %1: f32x4 = const 0.5
  // whole vectors
  for %i.2 in 0..%n.0 step 4 {
    %3: f32x4 = load x[%n.0 * 3 + %i.2 + 4]
    %4: f32x4 = fma %3, %1, %3
    store row[0] = %4
    %5: bool = lt %i.2, %n.0
    if %5 {
      call exp row[0] -> row[0] count 4
    } else {
      %6: f32 = const nan:0x7fc00000
      store y[%i.2] = %6
    }
  }
}
";
    assert_eq!(f.to_string(), expected);
}

#[test]
fn rules_of_entities() {
    refused("declared twice", |b, _| {
        b.input("x", Elem::F32);
    });
    refused("empty name", |b, _| {
        b.input("", Elem::F32);
    });
    refused("0 elements", |b, _| {
        b.scratch("none", Elem::F32, 0);
    });
    refused("register 77 is not declared", |b, (_, y, ..)| b.store(y.at(), Reg(77)));
    refused("Buf(BufId(9)) is not declared", |b, _| {
        let one = b.f32(1.0);
        b.store(BufId(9).at(), one);
    });
    refused("parameter 3 is not declared", |b, _| {
        b.op(Ty::Index, Op::Param(ParamId(3)));
    });
}

#[test]
fn rules_of_definitions() {
    refused("read before it is set", |b, (_, y, ..)| {
        let r = b.reg(Ty::F32);
        b.store(y.at(), r);
    });
    refused("read before it is set", |b, (_, y, ..)| {
        let r = b.reg(Ty::F32);
        b.for_("i", 0, 4, 1, |b, _| b.set(r, Op::Const(Const::f32(1.0))));
        b.store(y.at(), r);
    });
    refused("read before it is set", |b, (_, y, ..)| {
        let (r, c) = (b.reg(Ty::F32), b.bool(true));
        b.if_(c, |b| b.set(r, Op::Const(Const::f32(1.0))));
        b.store(y.at(), r);
    });
    // Set in both branches is set.
    let (mut b, _, y, ..) = start();
    let (r, c) = (b.reg(Ty::F32), b.bool(true));
    let set = |x: f32| move |b: &mut Builder| b.set(r, Op::Const(Const::f32(x)));
    b.if_else(c, set(1.0), set(2.0));
    b.store(y.at(), r);
    b.finish().unwrap();
}

#[test]
fn rules_of_types() {
    refused("second operand is f32x4, expected f32", |b, _| {
        let (a, c) = (b.f32(1.0), b.f32x4(1.0));
        b.add(a, c);
    });
    refused("does not exist for f32", |b, _| {
        let a = b.f32(1.0);
        b.and(a, a);
    });
    refused("does not exist for index", |b, _| {
        let a = b.index(1);
        b.div(a, a);
    });
    refused("does not exist for i32x4", |b, _| {
        let a = b.i32x4(1);
        b.sqrt(a);
    });
    refused("does not exist for f32", |b, _| {
        let a = b.f32(1.0);
        b.cmp(CmpOp::LtU, a, a);
    });
    refused("second operand is i32x4, expected i32", |b, _| {
        let a = b.i32x4(1);
        b.binary(BinOp::Shl, a, a);
    });
    refused("divisor is 0", |b, _| {
        let a = b.index(1);
        b.rem_const(a, 0);
    });
    refused("cannot set a register of type f32", |b, _| {
        b.op(Ty::F32, Op::Const(Const::I32(1)));
    });
    refused("third operand is i32x4, expected f32x4", |b, _| {
        let (m, a, c) = (b.mask4(true), b.f32x4(1.0), b.i32x4(1));
        b.select(m, a, c);
    });
    refused("type mask4 cannot select values of type f32", |b, _| {
        let (m, a) = (b.mask4(true), b.f32(1.0));
        b.select(m, a, a);
    });
    refused("the operand is f32, expected i32", |b, _| {
        let a = b.f32(1.0);
        b.convert(Conv::I32ToF32, a);
    });
    refused("type index has no vector", |b, _| {
        let a = b.index(1);
        b.splat(a);
    });
    refused("lane 4 does not exist", |b, _| {
        let a = b.f32x4(1.0);
        b.extract(a, 4);
    });
    refused("expected a vector", |b, _| {
        let a = b.f32(1.0);
        b.reduce(BinOp::Add, a);
    });
    refused("cannot combine lanes", |b, _| {
        let a = b.f32x4(1.0);
        b.reduce(BinOp::Sub, a);
    });
    refused("the destination is f32, expected i32", |b, (_, _, k, _)| {
        b.op(Ty::F32, Op::Load(k.at()));
    });
}

#[test]
fn rules_of_statements() {
    refused("declared read-only", |b, (x, ..)| {
        let one = b.f32(1.0);
        b.store(x.at(), one);
    });
    refused("type i32 into f32", |b, (_, y, ..)| {
        let one = b.i32(1);
        b.store(y.at(), one);
    });
    refused("an address term is i32, expected index", |b, (x, _, k, _)| {
        let i = b.load(k.at());
        b.load(x.at().plus(i, 1));
    });
    refused("the step is 0", |b, _| b.for_("i", 0, 4, 0, |_, _| {}));
    refused("the bound or count is f32, expected index", |b, _| {
        let one = b.f32(1.0);
        b.for_("i", 0, one, 1, |_, _| {});
    });
    refused("variable of an enclosing loop", |b, _| {
        b.for_("i", 0, 4, 1, |b, i| b.set(i, Op::Const(Const::Index(0))));
    });
    refused("the condition is mask4, expected bool", |b, _| {
        let m = b.mask4(true);
        b.if_(m, |_| {});
    });
    refused("works on f32", |b, (_, y, k, _)| b.call_row(RowFn::Exp, k.at(), y.at(), 4));
    refused("declared read-only", |b, (x, ..)| b.call_row(RowFn::Exp, x.at(), x.at(), 4));
}

/// Runs a function on x = [0, 1, 2, 3], y = [0; 4], k = [-1; 4].
fn run(build: impl FnOnce(&mut Builder, (BufId, BufId, BufId, ScratchId))) -> Result<Vec<f32>, String> {
    let (mut b, x, y, k, s) = start();
    build(&mut b, (x, y, k, s));
    let f = b.finish().expect("well formed");
    let mut bufs = [Data::F32(vec![0.0, 1.0, 2.0, 3.0]), Data::F32(vec![0.0; 4]), Data::I32(vec![-1; 4])];
    interp::run(&f, &mut bufs, &[], true).map_err(|e| e.to_string())?;
    Ok(bufs[1].f32().to_vec())
}

#[test]
fn interpreter_checks() {
    let fails = |expected: &str, found: Result<Vec<f32>, String>| {
        let error = found.expect_err(expected);
        assert!(error.contains(expected), "expected {expected:?} in: {error}");
    };
    fails(
        "at `%1: f32x4 = load x[%i.0 + 1]`: elements 1..5 of x[%i.0 + 1] are outside its 4 elements",
        run(|b, (x, ..)| {
            b.for_("i", 0, 4, 4, |b, i| {
                b.load4(x.at().plus(i, 1).offset(1));
            })
        }),
    );
    fails(
        "elements -1..0 of y[-1]",
        run(|b, (_, y, ..)| {
            let one = b.f32(1.0);
            b.store(y.at().offset(-1), one);
        }),
    );
    fails(
        "read before it is written",
        run(|b, (_, _, _, s)| {
            b.load(s.at().offset(3));
        }),
    );
    fails(
        "dividend is -1",
        run(|b, (_, _, k, _)| {
            let i = b.load(k.at());
            let i = b.convert(Conv::I32ToIndex, i);
            b.div_const(i, 2);
        }),
    );
    let f = start().0.finish().expect("well formed");
    let error = interp::run(&f, &mut [], &[], true).expect_err("no buffers").to_string();
    assert!(error.contains("called with 0 buffers and 0 parameters, expected 3 and 0"), "{error}");
}

#[test]
fn interpreter_runs_loops_and_branches() {
    let found = run(|b, (x, y, _, s)| {
        let zero = b.f32(0.0);
        let sum = b.var("sum", zero);
        b.for_("i", 0, 4, 1, |b, i| {
            let v = b.load(x.at().plus(i, 1));
            b.combine_into(sum, BinOp::Add, v);
            b.store(s.at().plus(i, 2), sum);
            let two = b.index(2);
            let early = b.cmp(CmpOp::Lt, i, two);
            b.if_(early, |b| b.store(y.at().plus(i, 1).offset(2), sum));
        });
        b.for_("i", 4, 0, 1, |b, _| b.store(y.at(), zero));
        let v = b.load4_strided(s.at(), 2);
        let total = b.reduce(BinOp::Add, v);
        b.store(y.at(), total);
    });
    assert_eq!(found, Ok(vec![10.0, 0.0, 0.0, 1.0]));
}

#[test]
fn scratch_arrays_are_aligned() {
    let mut b = Builder::new("f");
    b.scratch("a", Elem::F32, 1);
    b.scratch("b", Elem::I32, 17);
    b.scratch("c", Elem::F32, 16);
    assert_eq!(b.finish().unwrap().scratch_layout(), (vec![0, 64, 192], 256));
}

#[test]
fn structure_ignores_names_and_comments_only() {
    let make = |name: &str, scale: f32| {
        let mut b = Builder::new(name);
        b.provenance(name);
        let y = b.output(name, Elem::F32);
        b.for_(name, 0, 4, 1, |b, i| {
            b.comment(name);
            let one = b.f32(scale);
            b.store(y.at().plus(i, 1), one);
        });
        b.finish().unwrap()
    };
    assert_eq!(make("a", 1.0).structure(), make("b", 1.0).structure());
    assert_ne!(make("a", 1.0).structure(), make("a", 2.0).structure());
    assert_ne!(make("a", 0.0).structure(), make("a", -0.0).structure());
}

/// Asserts that a loop over `0..8` whose body `body` makes is refused as an independent one, and the builder makes none of it.
fn not_independent(expected: &str, step: i64, body: impl Fn(&mut Builder, Reg, (BufId, BufId, BufId, ScratchId))) {
    refused(expected, |b, bufs| {
        let var = b.reg(Ty::Index);
        // The statements of a loop that is not marked, taken out of it.
        let mut inner = Builder::new("inner");
        for (name, elem, mutable) in [("x", Elem::F32, false), ("y", Elem::F32, true), ("k", Elem::I32, false)] {
            inner.buf(name, elem, mutable);
        }
        inner.scratch("s", Elem::F32, 8);
        inner.for_("i", 0, 8, step, |inner, i| {
            assert_eq!(i, var);
            body(inner, i, bufs);
        });
        let made = inner.finish().expect("it is well formed but for the mark");
        for r in &made.regs[1..] {
            b.reg(r.ty);
        }
        let Some(Stmt::For { body, .. }) = made.body.into_iter().next() else { panic!("a loop") };
        b.push(Stmt::For { var, from: 0.into(), to: 8.into(), step, independent: true, body });
    });
    if step == 1 {
        let (mut b, x, y, k, s) = start();
        b.allow_independent_loops();
        assert!(!b.for_independent("i", 0, 8, |b, i| body(b, i, (x, y, k, s))), "{expected}");
        assert_eq!(b.finish().expect("an empty function").body, []);
    }
}

#[test]
fn rules_of_independent_loops() {
    not_independent("step of an independent loop is 2", 2, |b, i, (x, y, ..)| {
        let v = b.load(x.at().plus(i, 1));
        b.store(y.at().plus(i, 1), v);
    });
    not_independent("holds a loop", 1, |b, _, _| b.for_("j", 0, 4, 1, |_, _| {}));
    not_independent("holds a loop, a branch", 1, |b, _, (x, _, _, s)| b.call_row(RowFn::Exp, x.at(), s.at(), 4));
    not_independent("no f32, i32 or bool scalar", 1, |b, i, (x, ..)| {
        b.load4(x.at().plus(i, 1));
    });
    not_independent("an operation that is not", 1, |b, _, _| {
        b.index(1);
    });
    not_independent("moves by 2 elements a trip", 1, |b, i, (x, ..)| {
        b.load(x.at().plus(i, 2));
    });
    not_independent("stores to one place in every trip", 1, |b, _, (_, y, ..)| {
        let one = b.f32(1.0);
        b.store(y.at(), one);
    });
    not_independent("an integer division", 1, |b, i, (_, _, k, _)| {
        let v = b.load(k.at().plus(i, 1));
        b.div(v, v);
    });
    not_independent("no constant of its body", 1, |b, i, (_, _, k, _)| {
        let v = b.load(k.at().plus(i, 1));
        b.binary(BinOp::Shl, v, v);
    });
    not_independent("a comparison of indices", 1, |b, i, _| {
        b.cmp(CmpOp::Lt, i, i);
    });
    not_independent("not one of scalars", 1, |b, i, (x, ..)| {
        let v = b.load(x.at().plus(i, 1));
        b.convert(Conv::F32ToI32, v);
    });

    // A register that is set before the loop is an accumulator.
    refused("a register that is set before", |b, _| {
        let (acc, var) = (b.f32(0.0), b.reg(Ty::Index));
        let body = vec![Stmt::Set(acc, Op::Const(Const::f32(1.0)))];
        b.push(Stmt::For { var, from: 0.into(), to: 8.into(), step: 1, independent: true, body });
    });
    refused("one operation in independent loops only", |b, _| {
        let one = b.f32(1.0);
        b.op(Ty::F32, Op::Row(RowFn::Exp, one));
    });
    // Not allowed, none are made.
    let (mut b, x, y, ..) = start();
    let body = |b: &mut Builder, i: Reg| {
        let v = b.load(x.at().plus(i, 1));
        let v = b.exp(v);
        b.store(y.at().plus(i, 1), v);
    };
    assert!(!b.for_independent("i", 0, 8, body));
    b.allow_independent_loops();
    assert!(b.for_independent("i", 0, 8, body));
    let text = b.finish().expect("well formed").to_string();
    assert!(text.contains("step 1, independent {\n") && text.contains("= exp %"), "{text}");
}
