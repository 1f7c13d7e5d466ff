//! `tinygpt check`, and the project's filetests: that they pass, and that there is one for everything that needs one.

use crate::support::Cli;
use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use tinygpt::ir::op::Composite;
use tinygpt::ir::random::{RandomOptions, random_graph};
use tinygpt::ir::spec::{Class, OPS};
use tinygpt::ir::text::{Ir, parse_any};
use tinygpt::ir::{Op, program, verify};
use tinygpt::passes::autodiff::has_rule;
use tinygpt::passes::fuse::remark::Reason;
use tinygpt::passes::simplify;
use tinygpt::runtime::commands::check::{EXTENSION, STEPS};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/filetests")
}

/// Path and text of the filetests under a folder of `tests/filetests`.
fn filetests(folder: &str) -> Vec<(PathBuf, String)> {
    let (mut todo, mut found) = (vec![root().join(folder)], Vec::new());
    while let Some(path) = todo.pop() {
        if path.is_dir() {
            todo.extend(std::fs::read_dir(path).unwrap().map(|e| e.unwrap().path()));
        } else if path.extension().is_some_and(|e| e == EXTENSION) {
            let text = std::fs::read_to_string(&path).unwrap().replace("\r\n", "\n");
            found.push((path, text));
        }
    }
    found
}

/// The filetest `folder/name`, split into its input and its expectation.
fn filetest(folder: &str, name: &str) -> (String, String) {
    let path = root().join(folder).join(format!("{name}.{EXTENSION}"));
    let text = std::fs::read_to_string(&path)
        .unwrap_or_else(|_| panic!("there is no {}: write one (docs/FILETESTS.md), and --bless it", path.display()));
    let at = text.find("\n==== ").unwrap_or_else(|| panic!("{} is not blessed", path.display()));
    (text[..at].to_string(), text[at..].to_string())
}

const SMALL: &str = "; test simplify\n\ntinygpt-graph 1\ngraph g\n\ninput @x : f32[2]\n\n%0 = param @x : f32[2]\n\
                     %1 = neg %0 : f32[2]\n%2 = neg %1 : f32[2]\n\noutput y = %2\n";

#[test]
fn the_filetests_pass() {
    let count = filetests("").len();
    assert!(count >= 60, "{count} filetests");
    let cli = Cli::new();
    let run = cli.run(&format!("check {}", root().display()));
    assert_eq!(run.stdout, format!("check: {count} passed, 0 failed\n"), "{}", run.stderr);
    assert_eq!((run.status, run.stderr.as_str()), (0, ""));
}

#[test]
fn a_broken_expectation_fails_with_a_difference_and_blessing_mends_it() {
    let cli = Cli::new();
    std::fs::create_dir(cli.path("t")).unwrap();
    cli.file("t/new.gir", SMALL);
    cli.file("t/other.gir", SMALL.replace("simplify", "dce"));
    cli.file("t/notes.txt", "no filetest, and not looked at");
    let run = cli.run("check t");
    assert_eq!(run.status, 1);
    assert!(run.stdout.contains("FAILED t/new.gir\n--- expected\n+++ found\n"), "{}", run.stdout);
    assert!(run.stdout.contains("\n+output y = %0\n"), "{}", run.stdout);
    assert!(run.stdout.ends_with("check: 0 passed, 2 failed\n"), "{}", run.stdout);
    cli.refused("check t", 1, "2 of 2 filetests failed");

    let blessed = cli.ok("check t --bless --filter new").stdout;
    assert_eq!(blessed, "blessed t/new.gir\ncheck: 0 passed, 0 failed, 1 blessed\n");
    let text = std::fs::read_to_string(cli.path("t/new.gir")).unwrap();
    assert!(text.starts_with(SMALL) && text.ends_with("output y = %0\n"), "{text}");
    assert_eq!(cli.ok("check t/new.gir").stdout, "check: 1 passed, 0 failed\n");
    assert_eq!(cli.run("check t").stdout.lines().last(), Some("check: 1 passed, 1 failed"));

    cli.file("t/new.gir", text.replace("output y = %0", "output y = %3"));
    let run = cli.run("check t/new.gir");
    assert!(run.stdout.contains("\n-output y = %3\n+output y = %0\n"), "{}", run.stdout);
    cli.ok("check t/new.gir --bless");
    assert_eq!(std::fs::read_to_string(cli.path("t/new.gir")).unwrap(), text);
}

#[test]
fn what_is_no_filetest_is_told_why() {
    let cli = Cli::new();
    cli.file("no-test.gir", "tinygpt-graph 1\ngraph g\n");
    cli.file("step.gir", SMALL.replace("simplify", "simplfy"));
    cli.file("order.gir", SMALL.replace("simplify", "memory, simplify"));
    cli.file("option.gir", SMALL.replace("simplify", "fuse target=cpus"));
    cli.file("text.gir", SMALL.replace("neg %0", "neg %7"));
    cli.file("wrt.gir", SMALL.replace("simplify", "grad wrt=w"));
    std::fs::create_dir(cli.path("empty")).unwrap();
    cli.refused("check no-test.gir", 2, "no-test.gir: it has no line `; test STEP, ..`");
    cli.refused("check step.gir", 2, "step.gir: line 1: there is no step `simplfy`; did you mean `simplify`?");
    cli.refused("check order.gir", 2, "`memory` ends a test, and `simplify` comes after it");
    cli.refused("check option.gir", 2, "found the target `cpus`, expected cpu or gpu");
    cli.refused("check text.gir", 2, "text.gir: its IR does not parse: line 9, column 10: the value `%7`");
    cli.refused("check wrt.gir", 2, "found wrt=w, and the graph has no such parameter");
    cli.refused("check none.gir", 2, "none.gir: it cannot be read");
    cli.refused("check empty", 2, "empty holds no file that ends in .gir");
    cli.refused("check step.gir --filter [", 2, "is no regular expression");
    cli.refused("check step.gir --filter nothing", 2, "none of the 1 paths matches \"nothing\"");
    cli.refused("check step.gir no-test.gir", 2, "2 files are no filetests; the first: no-test.gir");
    // Blessing writes no file that it does not understand.
    cli.refused("check step.gir --bless", 2, "there is no step");
    assert_eq!(std::fs::read_to_string(cli.path("step.gir")).unwrap(), SMALL.replace("simplify", "simplfy"));
}

#[test]
fn every_rule_of_simplify_applies_in_a_filetest() {
    let files = filetests("simplify");
    let mut named = BTreeSet::new();
    for (path, text) in &files {
        for rule in text.lines().filter_map(|l| l.strip_prefix("; rule: ")) {
            let (_, applied) = text.split_once("==== simplify, stats\n").expect("a section on the rules that applied");
            let applies = applied.lines().any(|l| l.split_once(' ').is_some_and(|(_, equation)| equation == rule));
            assert!(applies, "{} is about `{rule}`, which does not apply there", path.display());
            named.insert(rule.to_string());
        }
    }
    let rules: BTreeSet<String> = simplify::rules().map(|r| r.equation.to_string()).collect();
    assert_eq!(named, rules, "the rules of filetests (left) and those of simplify");
}

/// Operations without a gradient, for which no file is needed.
const NO_GRADIENT: [&str; 11] =
    ["param", "eq", "ne", "lt", "le", "gt", "ge", "reduce_argmax", "iota", "splat", "random"];

#[test]
fn every_gradient_rule_has_a_filetest() {
    // One composite of each kind.
    let mut composites: HashMap<&str, Composite> = HashMap::new();
    for seed in 0..400 {
        for node in random_graph(seed, &RandomOptions::default()).nodes.values() {
            if let Op::Composite(c) = &node.op {
                composites.entry(c.name()).or_insert_with(|| c.clone());
            }
        }
    }
    for op in OPS.iter().filter(|op| !NO_GRADIENT.contains(&op.name)) {
        let own_rule = match op.class {
            Class::Composite => has_rule(composites.get(op.name).unwrap_or_else(|| panic!("no graph has {}", op.name))),
            _ => true,
        };
        if !own_rule {
            continue;
        }
        let (input, expected) = filetest("grad", op.name);
        let Ok(Ir::Graph(graph)) = parse_any(&input) else { panic!("grad/{} holds no graph", op.name) };
        assert!(graph.nodes.values().any(|n| n.op.name() == op.name), "grad/{} has no {0}", op.name);
        assert!(expected.contains("\noutput grad."), "grad/{} has no gradient", op.name);
    }
}

#[test]
fn every_reason_of_fusion_has_a_filetest() {
    let texts: String = filetests("fuse").into_iter().map(|(_, text)| text).collect();
    for (name, sentence) in Reason::ALL {
        // The longest part of the sentence that no number interrupts.
        let parts = sentence.split('{').map(|p| p.split_once('}').map_or(p, |(_, rest)| rest));
        let part = parts.max_by_key(|p| p.len()).unwrap();
        let line = |l: &&str| ["fused ", "not fused ", "stored ", "recomputed "].iter().any(|k| l.starts_with(k));
        let found = texts.lines().filter(line).any(|l| l.contains(part));
        assert!(found, "no filetest in tests/filetests/fuse shows the reason {name}: {sentence}");
    }
}

/// Of a model, remarks name scopes and DSL lines.
#[test]
fn dump_shows_remarks() {
    let cli = Cli::new();
    let text = cli.ok("dump --preset tiny --stage fused --remarks").stdout;
    let residual = text.lines().find(|l| l.contains("[blocks.1, models/gpt.rs:")).unwrap_or_else(|| panic!("{text}"));
    assert!(["fused ", "not fused ", "stored ", "recomputed "].iter().any(|kind| residual.starts_with(kind)));
    for target in ["cpu", "gpu"] {
        let plain = cli.ok(&format!("dump --preset tiny --stage fused --remarks --no-lines --target {target}")).stdout;
        assert!(plain.lines().count() > 100 && !plain.contains(".rs:"), "{plain}");
    }
    cli.refused("dump --preset tiny --stage graph --remarks", 2, "--remarks shows what the stage fused decided");
}

#[test]
fn every_invariant_has_a_filetest() {
    let refused_by_reader = |expected: &str| expected.lines().nth(2).is_some_and(|l| l.starts_with("line "));
    for invariant in verify::Invariant::ALL {
        let name = invariant.name().strip_prefix("graph.").unwrap();
        let (_, expected) = filetest("verify/graph", name);
        // The reader makes labels canonical, so text cannot break that.
        let named = expected.contains(invariant.name()) || refused_by_reader(&expected);
        assert!(named || name == "contract-labels", "verify/graph/{name} is not refused: {expected}");
    }
    for invariant in program::verify::Invariant::ALL {
        let name = invariant.name();
        let (_, expected) = filetest("verify/program", name);
        let named = expected.contains(&format!("\n  {name}: ")) || refused_by_reader(&expected);
        assert!(named, "verify/program/{name} does not break {name}: {expected}");
    }
}

#[test]
fn every_step_is_used_and_documented() {
    let texts: Vec<String> = filetests("").into_iter().map(|(_, text)| text).collect();
    let tests: BTreeSet<&str> =
        texts.iter().flat_map(|t| t.lines()).filter_map(|l| l.strip_prefix("==== ")?.split(", ").last()).collect();
    let guide = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/FILETESTS.md")).unwrap();
    for (step, options, _) in STEPS {
        let used = tests.iter().any(|t| t.split(' ').next() == Some(step));
        assert!(used, "no filetest ends with {step}");
        assert!(guide.contains(&format!("\n| `{step}` |")), "docs/FILETESTS.md has no row for the step {step}");
        for option in *options {
            assert!(guide.contains(&format!("`{option}=")), "docs/FILETESTS.md does not name the option {option}");
        }
    }
}
