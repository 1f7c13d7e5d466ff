//! Emitted code against the interpreter, bit for bit, on this machine's instruction set and on the baseline.

mod wide;

use super::*;
use crate::cases::random::{Allow, buffers, program};
use crate::cases::{self, difference, expanded};
use proptest::prelude::*;
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

fn compile(func: &Func, target: Target, wide: bool) -> (Code, CodeId) {
    let fused = Jit::new(Options { target, ..Options::default() }).expect("a supported host").fused();
    let rows = Some(if fused { rows::table::<true>() } else { rows::table::<false>() });
    let mut jit = Jit::new(Options { target, rows, wide, texts: true }).expect("a supported host");
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

/// Asserts that the machine code of both targets, and with wide loops if the machine has them, leaves the buffers as the interpreter
/// does, which are returned (of the last run).
fn check(func: &Func, bufs: &[Data], params: &[i64]) -> Vec<Data> {
    let mut result = Vec::new();
    for (target, wide) in [(Target::Baseline, false), (Target::Host, false), (Target::Host, true)] {
        if wide && !wide_loops() {
            continue; // a machine without AVX-512F
        }
        let (code, id) = compile(func, target, wide);
        let mut expected = bufs.to_vec();
        interp::run(func, &mut expected, params, code.fused()).unwrap_or_else(|e| panic!("{e}\n{func}"));
        let mut found = bufs.to_vec();
        call(&code, id, func, &mut found, params);
        if let Some((b, i, e, f)) = difference(&expected, &found) {
            panic!(
                "{target:?}, wide {wide}: {}[{i}] is {f:#x}, the interpreter has {e:#x}\n{func}\n{}",
                func.bufs[b].name,
                code.asm_text(id).expect("texts are on")
            );
        }
        result = found;
    }
    result
}

/// A test of each list of cases.
macro_rules! cases {
    ($($name:ident)*) => {$(
        #[test]
        fn $name() {
            cases::$name(&mut check);
        }
    )*};
}
cases! {
    unary_operations binary_operations comparisons conversions index_conversions_and_divisions wide_index_divisions lanes
    the_second_of_two_nans_or_zeros_loses loops_tails_and_branches an_index_that_a_loop_changes_moves_its_addresses
    an_index_set_between_two_accesses_moves_the_second values_are_read_before_what_overwrites_them
    bounds_are_evaluated_once transcendental_functions_keep_their_bounds
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_programs(choices in prop::collection::vec(any::<u32>(), 40..400), n in 0..7i64) {
        check(&program(choices, Allow::all()), &buffers(), &[n]);
    }
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
            let (code, id) = compile(&f, Target::Baseline, false);
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
