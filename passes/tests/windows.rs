//! Windows: a dynamic update of a state is stored in place, and nothing else of the state is touched, wherever no kernel could then read the
//! wrong value; the decoding step of a GPT, whose caches are updated so, has the logits of the whole sequence.

mod common;

use common::difference;
use tinygpt_ir::interp::eval;
use tinygpt_ir::program::interp::ProgramInterp;
use tinygpt_ir::program::stats::kernel_stats;
use tinygpt_ir::program::verify::verify;
use tinygpt_ir::program::{ArgMode, Kernel, KernelKind, PlacementPolicy, Program, TargetModel};
use tinygpt_ir::{Builder, DType, Graph, Init, Literal, StateRole, T, Tensor, TensorType};
use tinygpt_models::GptConfig;
use tinygpt_passes::compile::to_program;
use tinygpt_passes::pass::{Pass, Pipeline};

fn prepared(graph: Graph) -> Graph {
    Pipeline::new([Pass::Expand, Pass::Simplify, Pass::SplitReduce, Pass::Simplify]).run(graph).unwrap().graph
}

fn targets() -> [TargetModel; 2] {
    let slots =
        TargetModel { name: "slots".into(), max_args: 8, placement: PlacementPolicy::Slot, ..TargetModel::cpu() };
    [TargetModel::cpu(), slots]
}

fn program(graph: &Graph, target: &TargetModel, fuse: bool) -> Program {
    let program = to_program(graph, target, fuse).unwrap();
    verify(&program).unwrap();
    program
}

/// The kernel that writes the state `name`, and how.
fn writer<'a>(program: &'a Program, name: &str) -> (&'a Kernel, ArgMode) {
    let buffer = program.param_named(name).unwrap().buffer;
    let writes = |k: &'a Kernel| k.args.iter().find(|a| a.buffer == buffer && a.mode.writes()).map(|a| (k, a.mode));
    program.kernels.values().find_map(writes).unwrap()
}

/// Whether the state is written by a kernel that stores a window.
fn has_window(program: &Program, name: &str) -> bool {
    match &writer(program, name).0.kind {
        KernelKind::Pointwise(k) => k.stores.iter().any(|s| !s.access.indirect.is_empty()),
        _ => false,
    }
}

/// Compares three steps of the program with the graph's, the states going on from step to step. `set` gives the inputs of a step.
fn check(graph: &Graph, program: &Program, set: impl Fn(&str, usize) -> Option<f64>) {
    let mut values = common::values(graph, 3);
    let mut interp = ProgramInterp::new(program).unwrap();
    for (p, value) in graph.params.values().zip(&values) {
        interp.write(&p.name, &value.data).unwrap();
    }
    for step in 0..3 {
        for (p, value) in graph.params.values().zip(&mut values) {
            if let Some(x) = set(&p.name, step) {
                value.data.fill(x);
                interp.write(&p.name, &value.data).unwrap();
            }
        }
        let expected = eval(graph, &values).unwrap();
        interp.step_shuffled(step as u32).unwrap();
        let agree = |name: &str, want: &Tensor| {
            let got = Tensor::new(want.ty.clone(), interp.read(name).unwrap()).unwrap();
            let d = difference(want, &got);
            assert!(d <= 1e-12, "{}, step {step}: {name} differs by {d:e}\n{program}", program.target.name);
        };
        expected.outputs.iter().for_each(|(name, want)| agree(name, want));
        for (p, want) in expected.updates {
            agree(&graph.params[p].name, &want);
            values[p.index()] = want;
        }
    }
}

/// A state [5,4], a row or two that replace some of it at row `at`, and whatever `also` adds; checked with and without fusion.
#[track_caller]
fn case(rows: usize, window: bool, also: impl for<'g> Fn(&'g Builder, T<'g>, T<'g>, T<'g>, T<'g>)) {
    let b = Builder::new("case");
    let x = b.input("x", TensorType::f32([rows, 4]));
    let at = b.input("at", TensorType::new(DType::I32, []));
    let s = b.state("s", TensorType::f32([5, 4]), Init::Zeros, StateRole::Other);
    let zero = b.splat([], Literal::i32(0));
    let new = s.dynamic_update(x * 2.0, &[at, zero]);
    b.output("sum", s.sum(&[0, 1]));
    also(&b, s, new, x, at);
    let graph = prepared(b.finish().unwrap());
    for target in targets() {
        for fuse in [false, true] {
            let program = program(&graph, &target, fuse);
            assert_eq!(has_window(&program, "s"), window && fuse, "{program}");
            // Starts out of range are clamped so that the window fits.
            check(&graph, &program, |name, step| (name == "at").then(|| [-3.0, 2.0, 9.0][step]));
        }
    }
}

#[test]
fn a_window_is_replaced_in_place() {
    for rows in [1, 2] {
        case(rows, true, |b, s, new, _, _| b.update(s, new));
    }
}

#[test]
fn a_window_has_a_place_on_every_axis() {
    let b = Builder::new("block");
    let at = ["i", "j"].map(|name| b.input(name, TensorType::new(DType::I32, [])));
    let x = b.input("x", TensorType::f32([3, 2]));
    let s = b.state("s", TensorType::f32([3, 5, 4]), Init::Zeros, StateRole::Other);
    let zero = b.splat([], Literal::i32(0));
    b.update(s, s.dynamic_update(x.reshape([3, 1, 2]).exp(), &[zero, at[0], at[1]]));
    let graph = prepared(b.finish().unwrap());
    for target in targets() {
        let program = program(&graph, &target, true);
        assert!(has_window(&program, "s"), "{program}");
        check(&graph, &program, |name, step| match name {
            "i" => Some([4.0, 1.0, -1.0][step]),
            "j" => Some([0.0, 7.0, 1.0][step]),
            _ => None,
        });
    }
}

#[test]
fn a_new_value_that_is_read_is_whole() {
    case(1, false, |b, s, new, _, _| {
        b.update(s, new);
        b.output("after", new.sum(&[0]));
    });
    case(1, false, |b, s, new, _, _| {
        b.update(s, new);
        b.output("new", new);
    });
    // Of another state.
    case(1, false, |b, s, _, x, at| {
        let other = b.state("other", TensorType::f32([5, 4]), Init::Zeros, StateRole::Other);
        let zero = b.splat([], Literal::i32(0));
        b.update(s, other.dynamic_update(x, &[at, zero]));
    });
}

#[test]
fn a_window_that_its_own_state_fills_is_whole() {
    let b = Builder::new("shift");
    let s = b.state("s", TensorType::f32([5, 4]), Init::Zeros, StateRole::Other);
    let zero = b.splat([], Literal::i32(0));
    let at = b.input("at", TensorType::new(DType::I32, []));
    b.update(s, s.dynamic_update(s.slice_axis(0, 1, 3), &[at, zero]));
    let graph = prepared(b.finish().unwrap());
    for target in targets() {
        let program = program(&graph, &target, true);
        assert!(!has_window(&program, "s"), "{program}");
        check(&graph, &program, |name, step| (name == "at").then_some(step as f64));
    }
}

/// Two states, each of whose new values needs the other's old one: one of them has to be kept aside.
#[test]
fn states_that_move_each_other_keep_their_meaning() {
    let b = Builder::new("circle");
    let at = b.state("at", TensorType::new(DType::I32, []), Init::Zeros, StateRole::Other);
    let s = b.state("s", TensorType::f32([5, 4]), Init::Zeros, StateRole::Other);
    let x = b.input("x", TensorType::f32([1, 4]));
    let zero = b.splat([], Literal::i32(0));
    b.update(s, s.dynamic_update(x, &[at, zero]));
    let positive = s.slice([0, 0], [1, 1]).reshape([]).gt(0.0).cast(DType::I32);
    b.update(at, at + positive);
    b.output("sum", s.sum(&[0, 1]));
    let graph = prepared(b.finish().unwrap());
    for target in targets() {
        for fuse in [false, true] {
            let program = program(&graph, &target, fuse);
            assert!(!has_window(&program, "s"), "{program}");
            check(&graph, &program, |name, step| (name == "x").then_some(step as f64));
        }
    }
}

const GPT: GptConfig = GptConfig {
    vocab: 17,
    ctx: 5,
    layers: 2,
    heads: 2,
    d_model: 6,
    d_mlp: 12,
    batch: 1,
    gelu: tinygpt_ir::op::GeluForm::Erf,
};

#[test]
fn decoding_has_the_logits_of_the_whole_sequence() {
    let whole = tinygpt_models::gpt(&GPT).unwrap();
    let mut values = common::values(&whole, 11);
    values[0].data.copy_from_slice(&[3.0, 16.0, 0.0, 3.0, 9.0]);
    let expected = eval(&whole, &values).unwrap().outputs[0].1.data.clone();
    let decode = prepared(tinygpt_models::gpt_decode(&GPT).unwrap());
    for target in targets() {
        for fuse in [false, true] {
            let program = program(&decode, &target, fuse);
            let mut interp = ProgramInterp::new(&program).unwrap();
            for (p, value) in whole.params.values().zip(&values).filter(|(p, _)| p.is_weight()) {
                interp.write(&p.name, &value.data).unwrap();
            }
            for (position, row) in expected.chunks(GPT.vocab).enumerate() {
                interp.write("token", &[values[0].data[position]]).unwrap();
                interp.write("position", &[position as f64]).unwrap();
                interp.step_shuffled(1).unwrap();
                let found = interp.read("logits").unwrap();
                let scale = row.iter().fold(0f64, |m, x| m.max(x.abs()));
                for (a, b) in row.iter().zip(&found) {
                    assert!((a - b).abs() <= 1e-12 * scale, "position {position}: {found:?} instead of {row:?}");
                }
            }
        }
    }
}

#[test]
fn a_step_of_decoding_writes_one_row_of_each_cache() {
    let decode = prepared(tinygpt_models::gpt_decode(&GPT).unwrap());
    for target in targets() {
        let program = program(&decode, &target, true);
        for name in ["cache.k.0", "cache.v.0", "cache.k.1", "cache.v.1"] {
            let (kernel, mode) = writer(&program, name);
            assert_eq!(mode, ArgMode::Write, "{program}");
            let stats = kernel_stats(&program, kernel);
            assert_eq!(stats.bytes_written as usize, 4 * GPT.d_model, "{program}");
            assert_eq!(stats.bytes_read as usize, 4 * GPT.d_model + 4, "a row and the position");
        }
    }
}
