//! Text that reads back: `parse(print(x)) == x` for the graphs and programs of every preset, for CPUs and GPUs, and of random graphs, fused
//! and unfused, before and after each pass to a program; and two prints are equal.

use std::fmt::{Debug, Display};
use tinygpt::ir::program::TargetModel;
use tinygpt::ir::random::{RandomOptions, random_graph};
use tinygpt::ir::text::{Ir, ParseError, parse_any};
use tinygpt::ir::{Graph, program, text};
use tinygpt::passes::compile::{fuse, place, schedule, to_program};
use tinygpt::passes::optimizer::{AdamWConfig, inference, training_step};
use tinygpt::passes::pass::{Pass, Pipeline};
use tinygpt::runtime::compile::PASSES;

/// What a browser's GPU must allow, and a GPU that allows more.
fn targets() -> [TargetModel; 3] {
    [TargetModel::cpu(), TargetModel::gpu(8, 128 << 20), TargetModel::gpu(32, 2 << 30)]
}

#[track_caller]
fn round_trips<V: Display + Debug + PartialEq>(value: &V, parse: fn(&str) -> Result<V, ParseError>, context: &str) {
    let printed = value.to_string();
    let read = parse(&printed).unwrap_or_else(|e| panic!("{context}: {}", e.render(None)));
    // No `assert_eq`: the two would print megabytes.
    assert!(read == *value, "{context}: what is read is not what was printed");
    assert!(read.to_string() == printed, "{context}: what was read prints differently");
}

fn graph_round_trips(graph: &Graph, context: &str) {
    round_trips(graph, text::parse, context);
}

#[test]
fn graphs_and_programs_of_every_preset() {
    for preset in tinygpt::models::PRESETS {
        let forward = tinygpt::models::gpt(&preset.config).unwrap();
        graph_round_trips(&forward, preset.name);
        let adamw = AdamWConfig::default();
        let steps = [training_step(&forward, &adamw), inference(&forward, &["loss"]), inference(&forward, &["logits"])];
        for (i, step) in steps.into_iter().enumerate() {
            let step = step.unwrap();
            graph_round_trips(&step, preset.name);
            let simplified = Pipeline::new(PASSES).run(step).unwrap().graph;
            graph_round_trips(&simplified, preset.name);
            for target in targets() {
                let p = to_program(&simplified, &target, true).unwrap();
                round_trips(&p, program::parse, &format!("{}, step {i}, {}", preset.name, target.name));
            }
        }
    }
}

#[test]
fn programs_of_random_graphs_after_each_pass() {
    let mut archetypes = std::collections::BTreeSet::new();
    for seed in 0..60 {
        let options = RandomOptions { differentiable: seed % 2 == 0, f16: seed % 3 == 0, ..RandomOptions::default() };
        let graph = random_graph(seed, &options);
        let graph = match options.differentiable {
            true => training_step(&graph, &AdamWConfig::default()).unwrap(),
            false => graph,
        };
        graph_round_trips(&graph, &format!("seed {seed}"));
        let passes = if seed % 5 == 0 { vec![Pass::ExpandAll, Pass::Simplify] } else { PASSES.to_vec() };
        let simplified = Pipeline::new(passes).run(graph).unwrap().graph;
        graph_round_trips(&simplified, &format!("seed {seed}, simplified"));
        for target in targets() {
            for fusion in [true, false] {
                let context = format!("seed {seed}, {}, fusion {fusion}", target.name);
                let (mut p, _) = fuse(&simplified, &target, fusion).unwrap();
                round_trips(&p, program::parse, &format!("{context}, fused"));
                schedule(&mut p).unwrap();
                round_trips(&p, program::parse, &format!("{context}, scheduled"));
                place(&mut p);
                round_trips(&p, program::parse, &format!("{context}, placed"));
                archetypes.extend(p.kernels.values().map(|k| k.kind.archetype()));
            }
        }
    }
    assert_eq!(archetypes.len(), program::stats::ARCHETYPES.len(), "{archetypes:?}");
}

#[test]
fn either_kind_is_read_by_its_first_word() {
    let graph = random_graph(3, &RandomOptions::default());
    let commented = format!("; a comment\n\n{graph}");
    assert_eq!(parse_any(&commented), Ok(Ir::Graph(graph.clone())));
    let simplified = Pipeline::new(PASSES).run(graph).unwrap().graph;
    let (p, _) = fuse(&simplified, &TargetModel::cpu(), true).unwrap();
    assert_eq!(parse_any(&format!("; a comment\n{p}")), Ok(Ir::Program(p)));
    let e = parse_any("tinygpt-tensor 1\n").unwrap_err();
    assert_eq!(e.to_string(), "line 1, column 1: found `tinygpt-tensor`, expected `tinygpt-graph`");
}
