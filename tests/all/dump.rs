//! `tinygpt dump`: its stages, the state after a pass, differences, and whole dumps with their manifest.

use crate::support::Cli;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use tinygpt::codegen_wgsl::{Caps, validate};
use tinygpt::ir::text::{Ir, parse_any};

/// Every file under `dir`, by its path in it.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![dir.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(dir).unwrap().to_string_lossy().replace('\\', "/");
                found.insert(name, std::fs::read(&path).unwrap());
            }
        }
    }
    found
}

fn text(contents: &[u8]) -> &str {
    std::str::from_utf8(contents).unwrap()
}

fn manifest(dir: &BTreeMap<String, Vec<u8>>) -> serde_json::Value {
    serde_json::from_slice(&dir["manifest.json"]).unwrap()
}

fn string(value: &serde_json::Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no string"))
}

fn array(value: &serde_json::Value) -> &[serde_json::Value] {
    value.as_array().unwrap_or_else(|| panic!("{value} is no array"))
}

#[test]
fn stages_are_the_same_from_run_to_run_and_without_lines_name_no_file() {
    let cli = Cli::new();
    for stage in ["graph", "grad", "fused", "program", "clif", "asm", "wgsl"] {
        let line = format!("dump --preset tiny --stage {stage}");
        let with_lines = cli.ok(&line).stdout;
        assert_eq!(cli.ok(&line).stdout, with_lines, "{stage}");
        assert!(with_lines.contains("models/gpt.rs:"), "{stage} names no line of the model");
        let bare = cli.ok(&format!("{line} --no-lines")).stdout;
        assert!(bare.len() > 1000, "{stage} printed {} bytes", bare.len());
        assert!(!bare.contains(".rs:") && !bare.contains("/work"), "{stage} names a source file");
    }
}

#[test]
fn dump_chooses_kernels_and_writes_files() {
    let cli = Cli::new();
    let all = cli.ok("dump --preset tiny --stage fused").stdout;
    let some = cli.ok("dump --preset tiny --stage fused --kernel ^attention").stdout;
    let count = |text: &str| text.matches("\nkernel ").count();
    assert!(count(&some) > 0 && count(&some) < count(&all));
    assert_eq!(some.matches("\nkernel attention").count(), count(&some));

    cli.ok("dump --preset tiny --stage clif -o code");
    cli.ok("dump --preset tiny --stage asm --kernel ^attention -o code");
    let names: Vec<String> = files(&cli.path("code")).into_keys().collect();
    assert_eq!(names.iter().filter(|name| name.ends_with(".clif")).count(), count(&all));
    assert_eq!(names.iter().filter(|name| name.ends_with(".asm")).count(), count(&some));
    cli.ok("dump --preset tiny --stage graph -o code");
    let graph = std::fs::read_to_string(cli.path("code/graph.gir")).unwrap();
    assert_eq!(graph, cli.ok("dump --preset tiny --stage graph").stdout);
}

#[test]
fn what_cannot_be_dumped_is_refused_in_a_sentence() {
    let cli = Cli::new();
    for (line, part) in [
        ("--stage fused --kernel (", "is no regular expression"),
        ("--stage clif --kernel nothing_like_it", "kernels has a name that matches \"nothing_like_it\""),
        ("--stage graph --kernel x", "--kernel chooses kernels of the stage fused and of the code stages"),
        ("--after fuse --kernel x", "leave it out with --after"),
        ("--stage graph --preset smal", "did you mean \"small\"?"),
        ("--stage clif --target gpu", "--stage clif is of the target cpu alone"),
        ("--after simplfy", "the pipeline has no pass \"simplfy\" (did you mean \"simplify\"?)"),
        ("--diff grad nothing", "the pipeline has no pass \"nothing\""),
    ] {
        let preset = if line.contains("--preset") { "" } else { "--preset tiny" };
        cli.refused(&format!("dump {preset} {line}"), 2, part);
    }
    cli.file("notes.txt", "x");
    cli.refused("dump --preset tiny --all -o .", 2, "holds files that are no dump of tinygpt");
}

/// One dump of everything tells the whole story: each state is what `--after` and `--stage` print, texts parse back, shaders are
/// valid one by one, and the manifest lists all of it.
#[test]
fn a_dump_of_everything_is_complete_and_equal_from_run_to_run() {
    let cli = Cli::new();
    cli.ok("dump --preset tiny --all -o a");
    cli.ok("dump --preset tiny --all -o b");
    let (a, b) = (files(&cli.path("a")), files(&cli.path("b")));
    assert!(a == b, "two dumps differ");
    let manifest = manifest(&a);
    assert_eq!((string(&manifest["format"]), manifest["version"].as_u64()), ("tinygpt-dump", Some(1)));
    assert_eq!(manifest["model"]["parameters"].as_u64(), Some(70_464));

    let listed = array(&manifest["files"]).iter().map(|file| string(&file["path"]));
    let listed: BTreeSet<&str> = listed.chain(["manifest.json"]).collect();
    let written: BTreeSet<&str> = a.keys().map(String::as_str).collect();
    assert_eq!(listed.symmetric_difference(&written).collect::<Vec<_>>(), [""; 0].iter().collect::<Vec<_>>());
    assert_eq!(array(&manifest["files"]).len() + 1, written.len());
    for file in array(&manifest["files"]) {
        let (path, contents) = (string(&file["path"]), &a[string(&file["path"])]);
        assert_eq!(file["bytes"].as_u64(), Some(contents.len() as u64), "{path}");
        assert!(string(&file["sha256"]).len() == 64 && !contents.is_empty(), "{path}");
        if let Some(pass) = file["pass"].as_str() {
            let target = file["target"].as_str().unwrap_or("cpu");
            let after = cli.ok(&format!("dump --preset tiny --after {pass} --target {target}")).stdout;
            assert_eq!(text(contents), after, "{path} is not what --after {pass} prints");
        }
        if path.ends_with(".wgsl") {
            validate(text(contents), &Caps::webgpu()).unwrap_or_else(|e| panic!("{path}: {e}"));
        }
        if file["pass"].is_string() || path.ends_with(".gir") {
            let read = parse_any(text(contents)).unwrap_or_else(|e| panic!("{path}: {e}"));
            assert_eq!(matches!(read, Ir::Graph(_)), path.ends_with(".gir"), "{path}");
        }
    }
}

/// Whatever names a kernel leads back to nodes, scopes and lines of the model.
#[test]
fn the_manifest_leads_from_every_kernel_to_the_model() {
    let cli = Cli::new();
    cli.ok("dump --preset tiny --all -o all");
    let all = files(&cli.path("all"));
    let manifest = manifest(&all);
    let model = include_str!("../../models/gpt.rs").lines().count();
    let mut of_the_model = 0;
    for kernel in array(&manifest["kernels"]) {
        let (name, target) = (string(&kernel["name"]), string(&kernel["target"]));
        let graph = text(&all[string(&kernel["graph"])]);
        assert!(!array(&kernel["scopes"]).is_empty() || !array(&kernel["recomputed"]).is_empty(), "{name}");
        assert!(!array(&kernel["lines"]).is_empty(), "{name} comes from no line");
        for line in array(&kernel["lines"]).iter().map(string) {
            let (file, number) = line.rsplit_once(':').unwrap();
            of_the_model += usize::from(file == "models/gpt.rs");
            assert!(file != "models/gpt.rs" || number.parse::<usize>().unwrap() <= model, "{line}");
        }
        for node in array(&kernel["nodes"]) {
            assert!(
                graph.contains(&format!("%{node} = ")),
                "{name} computes %{node}, which is not in {}",
                kernel["graph"]
            );
        }
        // Its code names it, or the kernel that has it first, and a line of either.
        let code: Vec<&str> = array(&kernel["code"]).iter().map(string).collect();
        for stage in if target == "cpu" { &["clif", "asm", "wat"][..] } else { &["wgsl", "spv", "msl", "hlsl"] } {
            let path = code.iter().find(|path| path.contains(&format!("-{stage}/")));
            let path = path.unwrap_or_else(|| panic!("{name} has no {stage}: {code:?}"));
            assert!(text(&all[*path]).contains(".rs:"), "{path} names no line");
        }
        for path in code {
            let listed = array(&manifest["files"]).iter().find(|f| f["path"] == path).unwrap();
            assert!(array(&listed["kernels"]).iter().any(|k| k == name), "{path} does not list {name}");
        }
    }
    assert!(of_the_model > 100, "{of_the_model} mentions of models/gpt.rs");
}

#[test]
fn a_dump_replaces_an_older_one_and_nothing_else() {
    let cli = Cli::new();
    cli.ok("dump --preset tiny --all -o d");
    let whole = files(&cli.path("d")).len();
    cli.ok("dump --preset tiny --all --kernel ^attention -o d");
    let fewer = files(&cli.path("d"));
    assert!(fewer.len() < whole && fewer.keys().all(|path| !path.contains("/contract")), "{whole}");
    let stages: Vec<&String> = fewer.keys().filter(|path| path.starts_with("10-clif/")).collect();
    assert!(!stages.is_empty() && stages.iter().all(|path| path.contains("/attention")), "{stages:?}");
}

#[test]
fn a_diff_shows_what_a_pass_did_and_nothing_else() {
    let cli = Cli::new();
    let diff = cli.ok("dump --preset massive --diff simplify split-reduce").stdout;
    assert!(diff.starts_with("--- simplify\n+++ split-reduce\n@@ "), "{diff}");
    // The pass touches long reductions only, here the sum of all blocks of the gradients' squares: whatever goes or comes is one of its operations.
    let changed = |line: &&str| line.starts_with(['+', '-']) && !line.starts_with("---") && !line.starts_with("+++");
    let lines: Vec<&str> = diff.lines().filter(changed).collect();
    assert!(lines.len() >= 5, "{diff}");
    for line in &lines {
        assert!(line.contains(" = reduce_") || line.contains(" = reshape "), "{line}");
    }
    assert_eq!(cli.ok("dump --preset tiny --diff grad grad").stdout, "");
    let target = cli.ok("dump --preset tiny --diff schedule memory --target gpu").stdout;
    assert!(target.contains("+b") && target.contains(" slot "), "{target}");
    let stages = cli.ok("dump --preset tiny --diff fused fused --kernel ^attention").stdout;
    assert_eq!(stages, "");
}
