//! `tinygpt opt`: pipelines over text, what it prints of them, and reproducers of passes that fail.

use crate::support::Cli;
use clap::Parser;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tinygpt::ir::text::{Ir, parse_any};
use tinygpt::passes::opt::Passes;
use tinygpt::runtime::Error;
use tinygpt::runtime::cli::{self, Command};
use tinygpt::runtime::commands::{Ending, opt};

const MLP: &str = "tinygpt-graph 1
graph mlp
input @x : f32[4,6]
state @w : f32[5,6] {role=weight, init=normal, std=0.1}
%0 = param @x : f32[4,6]
%1 = param @w : f32[5,6]
scope layer {
  %2 = contract %0, %1 {labels=\"bi,oi->bo\"} : f32[4,5]
  %3 = gelu %2 {form=erf} : f32[4,5]
  %4 = mul %3, %3 : f32[4,5]
  %5 = reduce_sum %4 {axes=[0,1]} : f32[1,1]
  %6 = reshape %5 : f32[]
  %7 = exp %3 : f32[4,5]
}
output loss = %6
";

fn cli() -> Cli {
    let cli = Cli::new();
    cli.file("mlp.gir", MLP);
    cli
}

fn reproducers(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    let mut found: Vec<PathBuf> =
        entries.filter(|p| p.file_name().unwrap().to_string_lossy().starts_with("tinygpt-repro-")).collect();
    found.sort();
    found
}

#[test]
fn a_pipeline_ends_in_a_graph_or_in_a_program() {
    let cli = cli();
    let graph = cli.ok("opt mlp.gir --passes dce").stdout;
    assert!(graph.starts_with("tinygpt-graph 1\n") && !graph.contains("exp"), "{graph}");
    let line = "opt mlp.gir --passes autodiff,expand,simplify,fuse,memory --verify-each";
    let program = cli.ok(line).stdout;
    assert!(
        program.contains("target cpu {") && program.contains("\nstage 0\n") && program.contains(" slab "),
        "{program}"
    );
    assert_eq!(cli.ok(line).stdout, program, "two runs print the same");
    let slots = cli.ok(&format!("{line} --target gpu")).stdout;
    assert!(slots.contains("target gpu {") && slots.contains("placement=slot") && slots != program);
    // Half way: kernels without stages, which the next call goes on from.
    cli.ok("opt mlp.gir --passes autodiff,expand,simplify,fuse -o fused.gir");
    assert!(std::fs::read_to_string(cli.path("fused.gir")).unwrap().contains("\nunordered\n"));
    assert_eq!(cli.ok("opt fused.gir --passes schedule,memory").stdout, program);
    // No pass at all: text as it would be printed.
    assert_eq!(cli.ok("opt mlp.gir --passes ,").stdout, parse_any(MLP).unwrap().to_string());
}

#[test]
fn the_text_may_come_from_standard_input() {
    let cli = cli();
    let mut child = cli.command("opt - --passes dce").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(MLP.as_bytes()).unwrap();
    let found = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(found.stdout).unwrap(), cli.ok("opt mlp.gir --passes dce").stdout);
}

#[test]
fn what_passes_did_goes_to_standard_error() {
    let cli = cli();
    let run = cli.ok("opt mlp.gir --passes dce,dce,expand,fuse,memory --print-changed --time-passes --stats");
    let headers: Vec<&str> = run.stderr.lines().filter(|l| l.starts_with("; IR after ")).collect();
    assert_eq!(headers, ["; IR after dce", "; IR after expand", "; IR after fuse", "; IR after memory"]);
    let after_fuse = run.stderr.split("; IR after fuse\n").nth(1).unwrap();
    assert!(after_fuse.starts_with("tinygpt-program 1\n"), "{after_fuse}");
    let table: Vec<&str> = run.stderr.lines().skip_while(|l| !l.starts_with("pass ")).skip(1).take(5).collect();
    let names: Vec<&str> = table.iter().map(|l| l.split(' ').next().unwrap()).collect();
    assert_eq!(names, ["dce", "dce", "expand", "fuse", "memory"]);
    assert!(
        table[3].contains(" kernels") && table[4].contains(" stages") | table[4].contains("bytes planned"),
        "{table:?}"
    );
    let sizes =
        |pass: &str| run.stderr.lines().filter(|l| l.starts_with(pass) && l.contains(" -> ")).collect::<Vec<_>>();
    assert_eq!(sizes("dce")[0], "dce           6 nodes, 328 bytes of values -> 5 nodes, 248 bytes of values");
    let fused = sizes("fuse")[0];
    assert!(
        fused.contains(" nodes, ") && fused.contains(" kernels, 0 stages, ") && fused.ends_with("0 bytes planned"),
        "{fused}"
    );
    assert!(sizes("memory")[0].contains("bytes moved"), "{:?}", sizes("memory"));
}

#[test]
fn bad_requests_are_one_sentence() {
    let cli = cli();
    cli.file("bad.gir", MLP.replace("gelu %2", "gellu %2"));
    cli.refused("opt mlp.gir", 2, "mlp.gir is no reproducer, so say what to run on it: --passes a,b,c");
    cli.refused(
        "opt mlp.gir --passes dce,simplfy",
        2,
        "there is no pass \"simplfy\" (did you mean \"simplify\"?): the passes are expand,",
    );
    cli.refused("opt none.gir --passes dce", 2, "cannot read none.gir");
    cli.refused("opt bad.gir --passes dce", 2, "bad.gir holds no graph or program: line 9, column 8: found `gellu`, expected an operation; did you mean `gelu`?");
    assert!(cli.run("opt bad.gir --passes dce").stderr.contains("--> bad.gir:9:8"), "the place in the text is shown");
    cli.ok("opt mlp.gir --passes expand,fuse,memory -o p.gir");
    let program = std::fs::read_to_string(cli.path("p.gir")).unwrap();
    cli.file("p.gir", program.replacen("write b", "read b", 1));
    cli.refused("opt p.gir --passes ,", 2, "p.gir is invalid: program mlp breaks");
    assert!(reproducers(cli.dir.path()).is_empty(), "bad input is no failure of a pass");
}

#[test]
fn a_refusal_leaves_a_reproducer_that_shows_it_again() {
    let cli = cli();
    cli.file("free.gir", MLP.replace("output loss", "output y"));
    cli.refused(
        "opt free.gir --passes dce,grad,simplify",
        1,
        "grad refuses its input: gradients: the graph has no output `loss`; it has: y; tinygpt opt",
    );
    let found = reproducers(cli.dir.path());
    let [file] = &found[..] else { panic!("{found:?}") };
    let name = file.file_name().unwrap().to_str().unwrap();
    assert!(name.starts_with("tinygpt-repro-grad-") && name.ends_with(".gir"), "{name}");
    let text = std::fs::read_to_string(file).unwrap();
    let head = "; tinygpt-reproducer 1\n; pass: grad\n; pipeline: grad,simplify\n; target: cpu\n; verify-each: false\n; error: grad refuses";
    assert!(text.starts_with(head) && text.contains("\ntinygpt-graph 1\n") && !text.contains("exp"), "{text}");

    cli.refused(&format!("opt {name}"), 1, "the graph has no output `loss`; it has: y (as recorded)");
    assert_eq!(reproducers(cli.dir.path()).len(), 1, "a replay writes none");
    cli.refused("opt free.gir --passes dce,grad,simplify --repro-dir d", 1, "no output `loss`");
    assert_eq!(reproducers(&cli.path("d"))[0].file_name(), file.file_name(), "the same failure has the same name");
    let other = cli.ok(&format!("opt {name} --passes dce"));
    assert!(other.stdout.starts_with("tinygpt-graph 1"), "other passes may be tried on it");
    cli.file("fixed.gir", text.replace("output y", "output loss"));
    let fixed = cli.ok("opt fixed.gir");
    assert!(fixed.stderr.contains("the recorded error did not occur") && fixed.stdout.contains("output grad.w"));
}

/// `tinygpt LINE` in this process, with a pass `broken` beside the others.
fn with_broken(line: &str, broken: fn(&Ir) -> Result<Ir, String>) -> Result<Ending, Error> {
    let Command::Opt(args) = cli::Cli::try_parse_from(line.split(' ')).unwrap().command else { panic!("{line}") };
    let mut passes = Passes::standard();
    passes.add("broken", "is broken", move |ir, _, _| broken(ir));
    opt::run_with(&args, &passes)
}

#[test]
fn a_broken_pass_makes_a_reproducer_that_reproduces() {
    fn panics(ir: &Ir) -> Result<Ir, String> {
        match ir {
            Ir::Graph(g) => panic!("index {} out of bounds", g.nodes.len()),
            Ir::Program(_) => Ok(ir.clone()),
        }
    }
    fn refuses(_: &Ir) -> Result<Ir, String> {
        Err("of a reason\n  told on two lines".to_string())
    }
    fn corrupts(ir: &Ir) -> Result<Ir, String> {
        let Ir::Graph(graph) = ir else { return Ok(ir.clone()) };
        let mut graph = graph.clone();
        let last = graph.nodes.ids().last().ok_or("no node")?;
        graph.nodes[last].ty.shape.push(2);
        Ok(Ir::Graph(graph))
    }
    type Broken = (fn(&Ir) -> Result<Ir, String>, &'static str);
    let cases: [Broken; 3] = [
        (panics, "broken panicked: index "),
        (refuses, "broken refuses its input: of a reason told on two lines"),
        (corrupts, "broken made something invalid: "),
    ];
    for (broken, sentence) in cases {
        let cli = cli();
        let dir = cli.dir.path().display();
        let line =
            format!("tinygpt opt {dir}/mlp.gir --passes expand,broken,simplify,fuse --verify-each --repro-dir {dir}");
        let error = with_broken(&line, broken).unwrap_err();
        assert!(error.exit_status() == 1 && error.to_string().starts_with(sentence), "{error}");
        let found = reproducers(cli.dir.path());
        assert_eq!(found.len(), 1, "{found:?}");
        let text = std::fs::read_to_string(&found[0]).unwrap();
        assert!(text.contains("\n; pipeline: broken,simplify,fuse\n; target: cpu\n; verify-each: true\n"), "{text}");
        let expanded = cli.ok("opt mlp.gir --passes expand").stdout;
        assert!(
            text.ends_with(&format!("\n{expanded}")),
            "the reproducer holds what the broken pass was given: {text}"
        );

        let replay = format!("tinygpt opt {} --repro-dir {dir}", found[0].display());
        let again = with_broken(&replay, broken).unwrap_err().to_string();
        assert!(again.starts_with(sentence) && again.ends_with("(as recorded)"), "{again}");
        // Once the pass is repaired, the pipeline goes on to its end.
        let out = cli.path("out.gir");
        let repaired = format!("{replay} -o {}", out.display());
        assert_eq!(with_broken(&repaired, |ir| Ok(ir.clone())), Ok(Ending::Done));
        assert!(std::fs::read_to_string(&out).unwrap().starts_with("tinygpt-program 1"));
        // Another error than the recorded one has a reproducer of its own.
        let other = with_broken(&replay, |_| Err("something else".into())).unwrap_err().to_string();
        assert!(other.starts_with("broken refuses its input: something else; tinygpt opt "), "{other}");
        assert_eq!(reproducers(cli.dir.path()).len(), 2);
    }
}

#[test]
fn the_last_result_is_verified_even_where_nobody_asked() {
    let cli = cli();
    let dir = cli.dir.path().display();
    let line = format!("tinygpt opt {dir}/mlp.gir --passes broken --repro-dir {dir}");
    let error = with_broken(&line, |ir| {
        let Ir::Graph(graph) = ir else { return Err("no graph".into()) };
        let mut graph = graph.clone();
        graph.outputs.push(("loss".into(), graph.outputs[0].1));
        Ok(Ir::Graph(graph))
    });
    assert!(error.unwrap_err().to_string().starts_with("broken made something invalid: "));
}
