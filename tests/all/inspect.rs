//! What shows a program to people: profiles that account for the step, and the page of `viz` in a browser.

use crate::support::{Cli, gpu};
use crate::wasm::{have_chromium, script};
use serde_json::{Value, json};

/// A profile as JSON.
fn profile(cli: &Cli, flags: &str) -> Value {
    let run = cli.ok(&format!("profile --preset tiny --json --steps 2 --threads 2 {flags}"));
    serde_json::from_str(&run.stdout).unwrap()
}

fn number(value: &Value, key: &str) -> f64 {
    value[key].as_f64().unwrap_or_else(|| panic!("{key} of {value}"))
}

#[test]
fn a_profile_accounts_for_the_step_and_leads_to_the_model() {
    let cli = Cli::new();
    let trace = cli.path("trace.json");
    let p = profile(&cli, &format!("--trace {}", trace.display()));
    assert_eq!(p["format"], "tinygpt-profile 1");
    let rows = p["rows"].as_array().unwrap();
    let sum: f64 = rows.iter().map(|r| number(r, "ms")).sum();
    assert!((sum - number(&p, "kernels_ms")).abs() < 1e-9);
    assert!((number(&p, "kernels_ms") + number(&p, "idle_ms") - number(&p, "step_ms")).abs() < 1e-9);
    assert!(number(&p, "step_ms") > 0.0 && number(&p, "unclocked_ms") > 0.0);
    assert!(rows.windows(2).all(|w| number(&w[0], "ms") >= number(&w[1], "ms")));
    for row in rows {
        assert!(number(row, "calls") >= 1.0 && number(row, "gb") > 0.0, "{row}");
        assert!(!row["scopes"].as_array().unwrap().is_empty(), "{row}");
        let line = row["lines"][0].as_str().unwrap_or_else(|| panic!("{row}"));
        assert!(line.starts_with("models/gpt.rs:") || line.starts_with("passes/src/"), "{line}");
    }
    // The same kernels as the program has, and no time of none in the groups.
    for by in ["kind", "scope"] {
        let run = cli.ok(&format!("profile --preset tiny --steps 1 --json --by {by}"));
        let groups: Value = serde_json::from_str(&run.stdout).unwrap();
        let kernels: u64 = groups["rows"].as_array().unwrap().iter().map(|r| r["kernels"].as_u64().unwrap()).sum();
        assert_eq!(kernels as usize, rows.len(), "{by}");
    }
    let trace: Value = serde_json::from_slice(&std::fs::read(trace).unwrap()).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let tasks = events.iter().filter(|e| e["ph"] == "X").count() as u64;
    assert_eq!(tasks, rows.iter().map(|r| r["calls"].as_u64().unwrap()).sum::<u64>());
    assert!(events.iter().any(|e| e["ph"] == "C"), "the memory over time");
}

#[test]
fn dispatches_on_a_gpu_have_times() {
    if gpu().is_none() {
        return;
    }
    let run = Cli::new().ok("profile --preset tiny --backend gpu --no-tune --steps 1 --json");
    let p: Value = serde_json::from_str(&run.stdout).unwrap();
    let rows = p["rows"].as_array().unwrap();
    assert!(rows.iter().all(|r| number(r, "calls") >= 1.0), "every kernel is dispatched");
    assert!(number(&p, "kernels_ms") > 0.0 && number(&p, "kernels_ms") <= number(&p, "step_ms"), "{p}");
}

#[test]
fn backends_without_clocks_are_a_sentence() {
    let part = "keeps no clocks in its steps: profile with --backend cpu or gpu";
    Cli::new().refused("profile --preset tiny --backend interp", 2, part);
}

#[test]
fn the_page_leads_from_a_line_to_its_kernel_and_code_and_back() {
    if !have_chromium() {
        return;
    }
    let cli = Cli::new();
    let (page, figures) = (cli.path("page.html"), cli.path("profile.json"));
    std::fs::write(&figures, profile(&cli, "").to_string()).unwrap();
    let [page, figures] = [&page, &figures].map(|p| p.to_str().unwrap());
    cli.ok(&format!("viz --preset tiny -o {page} --profile {figures}"));
    let chosen = "q.attention(k, v";
    let source = include_str!("../../models/gpt.rs");
    let line = source.lines().position(|l| l.contains(chosen)).unwrap() as u64 + 1;
    let screenshot = std::env::var("TINYGPT_SCREENSHOTS").map(|folder| format!("{folder}/viz.png"));
    let mut arguments = vec!["test/viz.mjs", page, chosen];
    arguments.extend(screenshot.as_deref().ok());
    let found = script(&arguments, &Value::Null);
    assert_eq!(found["problems"], json!([]));
    assert_eq!(found["line"], line);
    let kernels: Vec<&str> = found["kernels"].as_array().unwrap().iter().map(|k| k.as_str().unwrap()).collect();
    assert!(kernels.iter().any(|k| k.starts_with("attention_blocks_0")), "{kernels:?}");
    assert!(kernels.iter().any(|k| k.starts_with("attention_grad")), "{kernels:?}");
    let wgsl = found["wgsl"].as_str().unwrap();
    assert!(wgsl.contains("@compute") && wgsl.contains("attention_blocks_0_attn"), "{}", &wgsl[..200]);
    assert!(found["lines"].as_array().unwrap().contains(&json!(line)), "{}", found["lines"]);
    assert!(found["clif"].as_str().unwrap().contains("function"), "{}", found["clif"]);
    let stages = found["stages"].as_array().unwrap();
    let names: Vec<&str> = stages.iter().map(|s| s["name"].as_str().unwrap()).collect();
    let expected =
        ["graph", "grad", "expand", "simplify", "split-reduce", "simplify-2", "program for CPU", "program for GPU"];
    assert_eq!(names, expected);
    for stage in &stages[..7] {
        assert!(stage["marked"].as_u64().unwrap() > 0, "{stage}");
    }
    assert!(stages[1]["fresh"].as_u64().unwrap() > 0 && stages[0]["fresh"] == 0, "{stages:?}");
    let rows = |key: &str| found[key].as_u64().unwrap();
    assert!(0 < rows("closed") && rows("closed") < rows("open"), "{} then {} kernels", rows("open"), rows("closed"));
    assert!(found["chosen"].is_string());
    assert_eq!(found["axe"], json!([]));
    assert_eq!(found["left"], 0, "Escape clears");
    assert!(found["coloured"].as_u64().unwrap() > 10, "times of the profile");
}

#[test]
fn a_profile_of_another_program_is_refused() {
    let cli = Cli::new();
    let file = cli.path("p.json");
    std::fs::write(&file, profile(&cli, "--by kind").to_string()).unwrap();
    let line = format!("viz --preset tiny -o {} --profile {}", cli.path("page.html").display(), file.display());
    cli.refused(&line, 2, "profile the same preset, a kernel a row");
    std::fs::write(&file, "{}").unwrap();
    cli.refused(&line, 2, "is no profile");
}

#[test]
fn a_graph_is_a_picture_for_graphviz_and_a_graph_of_ones_own_is_a_page() {
    let cli = Cli::new();
    let read = |name: &str| std::fs::read_to_string(cli.path(name)).unwrap();
    cli.ok("viz --preset tiny -o g.dot");
    cli.ok("viz --preset tiny -o s.dot --after simplify-2");
    assert!(read("g.dot").starts_with("digraph") && read("g.dot").contains("->"));
    assert!(read("s.dot").matches("->").count() > read("g.dot").matches("->").count(), "the step has more edges");
    cli.refused("viz --preset tiny -o g.dot --after simplfy", 2, "did you mean \"simplify\"?");
    cli.refused("viz --preset tiny -o g.html --after simplify", 2, "--after chooses the graph of a picture");
    cli.ok("dump --preset tiny --stage graph -o .");
    cli.ok("viz --graph graph.gir -o own.html");
    assert!(read("own.html").contains("attention_grad_grad_blocks_0_attn"));
    // Its lines are those of the file, and every node of it has its own.
    assert!(read("own.html").contains(r#""files":[{"name":"graph.gir","lines":["tinygpt-graph 1""#));
}
