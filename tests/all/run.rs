//! `tinygpt run`: seeded runs of graphs and programs, and their comparison with the f64 interpreter.

use crate::support::Cli;
use std::collections::BTreeMap;
use tinygpt::ir::random::{RandomOptions, random_graph};
use tinygpt::models::{gpt, preset};

/// A directory with the training step of a small model, `step.gir`, and its program for the CPU, `step.prog`.
fn cli() -> Cli {
    let cli = Cli::new();
    let config = tinygpt::models::GptConfig {
        vocab: 11,
        ctx: 4,
        layers: 1,
        heads: 2,
        d_model: 8,
        d_mlp: 16,
        batch: 2,
        ..preset("tiny").unwrap().config
    };
    cli.file("forward.gir", gpt(&config).unwrap().to_string());
    cli.ok("opt forward.gir --passes autodiff -o step.gir");
    cli.ok("opt step.gir --passes expand,simplify,split-reduce,simplify,fuse,memory -o step.prog");
    cli
}

/// The lines by name, without the first two words.
fn rows(stdout: &str) -> BTreeMap<String, String> {
    let row = |line: &str| {
        let mut words = line.split_whitespace();
        let name = words.nth(1).unwrap().to_string();
        (name, words.collect::<Vec<_>>().join(" "))
    };
    stdout.lines().map(row).collect()
}

#[test]
fn a_training_step_agrees_with_the_interpreter() {
    let cli = cli();
    for file in ["step.gir", "step.prog"] {
        for threads in [1, 2] {
            let run = cli.ok(&format!("run {file} --backend cpu --threads {threads} --compare interp"));
            let rows = rows(&run.stdout);
            for name in ["loss", "grad_norm"] {
                let row = &rows[name];
                assert!(row.starts_with("f32[] fnv ") && row.ends_with(" agrees"), "{file}: {row}");
            }
            assert!(rows["adam.m.ln_final.weight"].ends_with(" not judged"), "{}", run.stdout);
            assert!(run.stdout.starts_with("output loss  f32[]  fnv ") && run.stderr.contains(" on cpu, seed 42"));
        }
    }
    let on = |line: &str| rows(&cli.ok(line).stdout);
    let one = on("run step.gir --threads 1");
    assert_eq!(on("run step.gir --threads 2"), one, "bits do not depend on threads");
    assert_eq!(on("run step.prog --threads 2"), one, "a program computes what its graph's does");
    assert_ne!(on("run step.gir --threads 1 --seed 1")["loss"], one["loss"]);
    assert!(on("run step.gir --backend interp --compare interp")["loss"].ends_with(" agrees"));
    assert!(on("run step.prog --backend interp --compare interp")["loss"].ends_with(" agrees"));
}

#[test]
fn ids_and_targets_lie_within_their_tables() {
    let cli = cli();
    let ids = "tinygpt-graph 1\ngraph g\ninput @ids : i32[64]\ninput @free : i32[64]\ninput @table : f32[3,2]\n%0 = param @ids : i32[64]\n\
               %1 = param @table : f32[3,2]\n%2 = param @free : i32[64]\n%3 = gather %1, %0 : f32[64,2]\noutput rows = %3\n\
               %4 = reduce_max %0 {axes=[0]} : i32[1]\noutput max = %4\n%5 = reduce_max %2 {axes=[0]} : i32[1]\noutput free_max = %5\n";
    cli.file("ids.gir", ids);
    cli.ok("opt ids.gir --passes expand,simplify,fuse,memory -o ids.prog");
    for file in ["ids.gir", "ids.prog"] {
        let rows = rows(&cli.ok(&format!("run {file} --compare interp")).stdout);
        assert!(rows["max"].contains("mean 2.000000e0 "), "{file}: {}", rows["max"]);
        assert!(rows["free_max"].contains("mean 7.000000e0 "), "{file}: {}", rows["free_max"]);
        assert!(rows["max"].ends_with("error 0.000e0 relative 0.000e0 agrees"), "{}", rows["max"]);
    }
}

#[test]
fn random_graphs_agree() {
    let cli = Cli::new();
    for seed in 0..12 {
        cli.file("g.gir", random_graph(seed, &RandomOptions::default()).to_string());
        let run = cli.ok(&format!("run g.gir --compare interp --seed {seed} --threads 1"));
        assert!(run.stdout.contains(" agrees"), "seed {seed}: {}", run.stdout);
    }
}

#[test]
fn beyond_the_tolerance_is_status_1() {
    let cli = Cli::new();
    // The logistic map doubles an error at every step, and stays below 1.
    let mut text =
        "tinygpt-graph 1\ngraph chaos\ninput @x : f32[64]\n%x = param @x : f32[64]\n%y0 = mul %x, %x : f32[64]\n\
                    %one = splat {value=1.0} : f32[64]\n%four = splat {value=4.0} : f32[64]\n"
            .to_string();
    for i in 0..60 {
        text += &format!("%a{i} = sub %one, %y{i} : f32[64]\n%b{i} = mul %a{i}, %y{i} : f32[64]\n");
        text += &format!("%y{} = mul %four, %b{i} : f32[64]\n", i + 1);
    }
    cli.file("short.gir", format!("{text}output y = %y2\n"));
    cli.file("long.gir", format!("{text}output y = %y60\n"));
    cli.ok("run short.gir --compare interp");
    cli.refused("run long.gir --compare interp", 1, "y differs from the interpreter by ");
    let run = cli.run("run long.gir --compare interp");
    assert!(run.stdout.starts_with("output y  f32[64]  fnv ") && run.stdout.ends_with(" differs\n"), "{}", run.stdout);
    cli.ok("run long.gir --compare interp --tolerance 2");
}

#[test]
fn what_cannot_run_is_one_sentence() {
    let cli = cli();
    cli.refused("run none.gir", 2, "cannot read none.gir");
    cli.refused("run step.gir --tolerance=-1", 2, "--tolerance must be a number of 0 or more, and is -1");
    cli.file("half.gir", "tinygpt-graph 1\ngraph g\ninput @x : f16[2]\n%0 = param @x : f16[2]\noutput y = %0\n");
    cli.refused(
        "run half.gir",
        2,
        "x is f16[2], and values are drawn for f32, i32, u32 and bool: cast it in the graph",
    );
    cli.ok("opt step.gir --passes expand,simplify,fuse,memory --target gpu -o slots.prog");
    cli.refused("run slots.prog", 2, "slots.prog was placed in slots for gpu, which --backend cpu cannot run");
    assert!(cli.ok("run slots.prog --backend interp --compare interp").stdout.contains("output loss"));
    cli.ok("opt step.gir --passes expand,simplify,fuse -o fused.prog");
    cli.refused("run fused.prog", 2, "fused.prog is invalid: program gpt.train breaks");
    cli.file("bad.gir", "tinygpt-graph 1\ngraph g\n%0 = splat : f32[]\n");
    cli.refused(
        "run bad.gir",
        2,
        "bad.gir holds no graph or program: line 3, column 6: splat needs the attribute `value`",
    );
}
