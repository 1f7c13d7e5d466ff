//! Emitted functions, run by Node, against the interpreter, bit for bit.

#[path = "../../tests/support/node.rs"]
mod node;

use super::*;
use crate::cases::random::{Allow, buffers, program};
use crate::cases::{self, difference};
use node::{Engine, Request};
use proptest::prelude::*;
use tinygpt_vloop::interp::{self, Data};

/// The variants that an engine has.
fn variants(engine: &Engine) -> Vec<WasmOptions> {
    let plain = WasmOptions { threads: false, ..WasmOptions::default() };
    let mut all = vec![plain];
    if engine.memory64 {
        all.push(WasmOptions { memory64: Some(true), ..plain });
    }
    all
}

/// Runs a function on the buffers.
fn run(engine: &Engine, func: &Func, bufs: &[Data], params: &[i64], options: &WasmOptions) -> Vec<Data> {
    let module = function(func, options).unwrap_or_else(|e| panic!("{e}\n{func}"));
    let mut end = PAGE;
    let mut take = |bytes: usize| {
        let at = end;
        end = (end + bytes).next_multiple_of(64);
        at
    };
    let places: Vec<(usize, usize)> = bufs.iter().map(|b| (take(4 * b.len()), 4 * b.len())).collect();
    let contents = |b: &Data| match b {
        Data::F32(v) => node::bytes(&v.iter().map(|x| x.to_bits()).collect::<Vec<_>>()),
        Data::I32(v) => node::bytes(&v.iter().map(|x| *x as u32).collect::<Vec<_>>()),
    };
    let mut writes: Vec<(usize, Vec<u8>)> = bufs.iter().zip(&places).map(|(b, p)| (p.0, contents(b))).collect();
    let mut arguments: Vec<i64> = places.iter().map(|p| p.0 as i64).collect();
    let scratch = func.scratch_layout().1;
    if scratch > 0 {
        let at = take(scratch);
        writes.push((at, vec![0xa5; scratch]));
        arguments.push(at as i64);
    }
    arguments.extend(params);
    let request = Request {
        module: &module,
        pages: end.div_ceil(PAGE),
        memory64: options.memory64 == Some(true),
        writes,
        calls: vec![(&func.name, arguments)],
        reads: places,
        ..Request::default()
    };
    let found = engine.run(&request).unwrap_or_else(|e| panic!("{e}\n{func}\n{}", wat(&module)));
    let found = found.iter().map(|b| node::words(b));
    bufs.iter()
        .zip(found)
        .map(|(b, words)| match b {
            Data::F32(_) => Data::F32(words.into_iter().map(f32::from_bits).collect()),
            Data::I32(_) => Data::I32(words.into_iter().map(|x| x as i32).collect()),
        })
        .collect()
}

/// Asserts that a function leaves the buffers as the interpreter does, which are returned.
fn check_as(
    engine: &Engine,
    func: &Func,
    bufs: &[Data],
    params: &[i64],
    options: &WasmOptions,
    fused: bool,
) -> Vec<Data> {
    let mut expected = bufs.to_vec();
    interp::run(func, &mut expected, params, fused).unwrap_or_else(|e| panic!("{e}\n{func}"));
    let found = run(engine, func, bufs, params, options);
    if let Some((b, i, e, f)) = difference(&expected, &found) {
        let text = wat(&function(func, options).expect("it was made before"));
        let name = &func.bufs[b].name;
        panic!("{options:?}: {name}[{i}] is {f:#x}, the interpreter has {e:#x}\n{func}\n{text}");
    }
    found
}

/// Asserts it for every variant without relaxed SIMD.
fn check(func: &Func, bufs: &[Data], params: &[i64]) -> Vec<Data> {
    let engine = node::engine().expect("checked by the test");
    let all = variants(engine).into_iter().map(|v| check_as(engine, func, bufs, params, &v, false));
    all.last().expect("there is a plain variant")
}

/// A test of each list of cases.
macro_rules! cases {
    ($($name:ident)*) => {$(
        #[test]
        fn $name() {
            if node::engine().is_some() {
                cases::$name(&mut check);
            }
        }
    )*};
}
cases! {
    unary_operations binary_operations comparisons conversions index_conversions_and_divisions lanes
    the_second_of_two_nans_or_zeros_loses loops_tails_and_branches an_index_that_a_loop_changes_moves_its_addresses
    an_index_set_between_two_accesses_moves_the_second values_are_read_before_what_overwrites_them
    bounds_are_evaluated_once transcendental_functions_keep_their_bounds
}

#[test]
fn wide_index_divisions() {
    let Some(engine) = node::engine() else { return };
    if !engine.memory64 {
        return println!("skipped: this Node has no memory64");
    }
    let options = WasmOptions { memory64: Some(true), threads: false, ..WasmOptions::default() };
    cases::wide_index_divisions(&mut |f, b, p| check_as(engine, f, b, p, &options, false));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_programs(choices in prop::collection::vec(any::<u32>(), 40..400), n in 0..7i64) {
        if node::engine().is_some() {
            check(&program(choices, Allow { rows: false, ..Allow::all() }), &buffers(), &[n]);
        }
    }

    #[test]
    fn random_programs_with_relaxed_multiply_add(choices in prop::collection::vec(any::<u32>(), 40..400), n in 0..7i64) {
        if let Some(engine) = node::engine() && engine.relaxed {
            let options = WasmOptions { relaxed: true, threads: false, ..WasmOptions::default() };
            let func = program(choices, Allow { rows: false, scalar_fma: false });
            check_as(engine, &func, &buffers(), &[n], &options, engine.fused);
        }
    }

    #[test]
    fn tidy_functions_mean_the_same(choices in prop::collection::vec(any::<u32>(), 40..400), n in 0..7i64) {
        let func = program(choices, Allow::all());
        let tidy = tidy::tidy(&func);
        tinygpt_vloop::verify(&tidy).unwrap_or_else(|e| panic!("{e}\n{func}\n{tidy}"));
        let [mut expected, mut found] = [buffers(), buffers()];
        interp::run(&func, &mut expected, &[n], false).unwrap_or_else(|e| panic!("{e}\n{func}"));
        interp::run(&tidy, &mut found, &[n], false).unwrap_or_else(|e| panic!("{e}\n{func}\n{tidy}"));
        prop_assert_eq!(difference(&expected, &found), None, "{}\n{}", func, tidy);
    }
}

#[test]
fn row_calls_are_refused() {
    let mut f = tinygpt_vloop::Builder::new("rows");
    let (x, y) = (f.input("x", tinygpt_vloop::Elem::F32), f.output("y", tinygpt_vloop::Elem::F32));
    f.for_("i", 0, 2, 1, |f, _| f.call_row(tinygpt_vloop::RowFn::Erf, x.at(), y.at(), 8));
    let error = function(&f.finish().expect("well formed"), &WasmOptions::default()).expect_err("refused").to_string();
    assert!(error.contains("`rows`") && error.contains("row functions"), "{error}");
}

#[test]
fn the_peak_module_does_what_it_says() {
    for relaxed in [false, true] {
        let bytes = peak_module(relaxed);
        validate(&bytes).expect("valid");
        let text = wat(&bytes);
        let (adds, muls, fused) = (
            text.matches("f32x4.add").count(),
            text.matches("f32x4.mul").count(),
            text.matches("relaxed_madd").count(),
        );
        // 4 lanes an operation; the additions of accumulators after the loop do not count.
        let flop = if relaxed { 2 * 4 * fused } else { 4 * (muls + adds - 12) };
        assert_eq!(flop, PEAK_FLOP as usize, "{text}");
    }
}
