//! The compiler as a page has it, `web/dist/tinygpt_web.wasm` in Node, gives the bytes that it gives natively, and what it makes trains.
//!
//! Needs Node, and the module as `cargo xtask web` has just built it (`cargo xtask test` does); says `skipped` where one is missing, and fails
//! instead with TINYGPT_REQUIRE_WEB=1, which `.ci/run` sets.

use serde_json::{Value, json};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use tinygpt_runtime::compile::ExecOptions;
use tinygpt_runtime::config::{Backend, Isa, ModelConfig, RunConfig};
use tinygpt_runtime::data::Corpus;
use tinygpt_runtime::model::{Batch, TrainStep, adamw};
use tinygpt_web::{answer, read};

/// A script of this folder in Node, given the built module; None, said so, where it cannot run here.
fn node(script: &str, input: &str) -> Option<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let module = root.join("web/dist/tinygpt_web.wasm");
    if !module.is_file() || Command::new("node").arg("--version").output().is_err() {
        let why = "found no Node, or no web/dist/tinygpt_web.wasm: install nodejs and run `cargo xtask web`";
        assert!(std::env::var_os("TINYGPT_REQUIRE_WEB").is_none_or(|v| v != "1"), "{why}");
        println!("skipped: {why}");
        return None;
    }
    let mut node = Command::new("node")
        .arg(root.join("web/compiler/tests/all").join(script))
        .arg(&module)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    node.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = node.wait_with_output().unwrap();
    assert!(output.status.success(), "{script} ended with {}", output.status);
    Some(output.stdout)
}

/// The responses of the built module.
fn in_node(requests: &[Value]) -> Option<Vec<Vec<u8>>> {
    let lines: String = requests.iter().map(|request| format!("{request}\n")).collect();
    let output = node("respond.mjs", &lines)?;
    let (mut rest, mut responses) = (output.as_slice(), Vec::new());
    while let Some(total) = rest.first_chunk() {
        let (response, others) = rest.split_at(u32::from_le_bytes(*total) as usize);
        responses.push(response.to_vec());
        rest = others;
    }
    Some(responses)
}

#[test]
fn a_page_gets_the_bytes_of_the_native_compiler() {
    let tiny = json!({"preset": "tiny", "model": {"layers": 1}});
    let mut requests = vec![
        json!({"request": "presets"}),
        json!({"request": "resolve", "config": {"preset": "tiny", "model": {"d_model": 96}, "train": {"steps": 20}}}),
        json!({"request": "corpus"}),
        json!({"request": "init", "config": tiny, "seed": 7}),
        json!({"request": "compile", "config": {"preset": "tiny"}}),
        json!({"request": "compile", "config": {"preset": "large"}, "variants": [{"relaxed": true, "threads": true}]}),
        json!({"request": "wat", "config": tiny}),
        json!({"request": "wat", "config": tiny, "entry": "decode", "variant": {"relaxed": true, "threads": true}}),
        json!({"request": "wgsl", "config": tiny}),
        json!({"request": "wgsl", "config": tiny, "entry": "evaluate", "caps": {"subgroups": [4, 4], "max_storage_buffers": 10}}),
        json!({"request": "wgsl", "config": {"preset": "large"}, "caps": {"subgroups": [32, 32]}}),
        json!({"request": "graph", "config": {"preset": "massive"}, "stage": "program"}),
        json!({"request": "keys"}),
        json!({"request": "differences", "config": tiny, "seed": 1, "count": 3}),
        json!({"request": "compile", "config": tiny, "variants": [{"threads": true}], "entries": ["gradient", "look"], "fusion": false}),
        json!({"request": "wgsl", "config": tiny, "entry": "look", "fusion": false}),
        json!({"request": "compile", "config": tiny, "variants": [{"threads": true, "relaxed": true}], "clocks": true}),
        json!({"request": "inspect", "config": tiny, "target": "wasm"}),
        json!({"request": "inspect", "config": tiny, "target": "webgpu", "fusion": false}),
        json!({"request": "resolve", "config": {"preset": "tny"}}),
        json!({"request": "init", "config": {"preset": "behemoth"}}),
    ];
    for stage in ["graph", "grad", "fused", "program"] {
        for entry in ["train", "evaluate", "decode", "logits"] {
            requests.push(json!({"request": "graph", "config": tiny, "stage": stage, "entry": entry}));
        }
    }
    // A model in text form, and one whose text has a mistake.
    let text = read(&answer(
        requests.last().unwrap().to_string().replace("program", "graph").replace("logits", "train").as_bytes(),
    ));
    let text = text.unwrap().result["text"].as_str().unwrap().to_owned();
    requests.push(json!({"request": "resolve", "config": {"graph": text}}));
    requests.push(json!({"request": "compile", "config": {"graph": text}, "variants": [{}]}));
    requests.push(json!({"request": "resolve", "config": {"graph": text.replace("layer_norm", "layer_nrm")}}));
    requests.push(json!({"request": "inspect", "config": {"graph": text}, "target": "wasm", "entry": "evaluate"}));
    let Some(responses) = in_node(&requests) else { return };
    assert_eq!(responses.len(), requests.len());
    for (request, response) in requests.iter().zip(&responses) {
        let native = answer(request.to_string().as_bytes());
        assert!(*response == native, "{request}: {}", difference(response, &native));
    }
}

/// A configuration that nothing was built ahead for: compiled by the module, trained by the runner, and natively beside it.
#[test]
fn a_page_compiles_and_trains_without_a_server() {
    let Some(output) = node("train.mjs", "") else { return };
    let page: Value = serde_json::from_slice(&output).unwrap();
    assert_eq!(page["sample"].as_str().unwrap().len(), 20);

    let mut config = RunConfig::preset("tiny").unwrap();
    config.model = ModelConfig { layers: 1, ctx: 24, d_model: 36, d_mlp: 144, ..config.model };
    (config.train.steps, config.train.warmup) = (60, 6);
    let train = &config.train;
    let options =
        ExecOptions { backend: Backend::Cpu, threads: 1, isa: Some(Isa::Portable), no_templates: true, gpu: None };
    let mut step = TrainStep::new(&config.model, train.batch, adamw(train), false, &options).unwrap();
    step.start(train.seed).unwrap();
    let corpus = Corpus::builtin(config.model.ctx).unwrap();
    let mut batch = Batch::zeros(train.batch, config.model.ctx).unwrap();
    let losses: Vec<f64> = (0..train.steps)
        .map(|at| {
            let (ids, targets) = batch.slices().unwrap();
            corpus.fill_train(train.seed, at, ids, targets);
            step.run(&batch, train.lr_schedule().lr_at(at), at + 1).unwrap().loss
        })
        .collect();

    let in_page: Vec<f64> = page["losses"].as_array().unwrap().iter().map(|loss| loss.as_f64().unwrap()).collect();
    assert_eq!(in_page.len(), losses.len());
    assert!(losses[59] < 0.6 * losses[0], "{losses:?}");
    // Fused multiply-add, where Node has it, is all that tells the two apart.
    for (at, (ours, theirs)) in in_page.iter().zip(&losses).enumerate() {
        assert!((ours - theirs).abs() <= 1e-3 * theirs, "step {}: {ours} in a page, {theirs} natively", at + 1);
    }
}

/// Requests with blobs, as compiler.js makes them, give the bytes that they give natively.
#[test]
fn files_come_and_go_in_a_page() {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in crate::files::checkpoint() {
        std::fs::write(dir.path().join(name), bytes).unwrap();
    }
    let Some(output) = node("files.mjs", dir.path().to_str().unwrap()) else { return };
    let made: Value = serde_json::from_slice(&output).unwrap();
    let native = read(&answer(&tinygpt_web::write_request(
        &json!({"request": "encode", "format": "tinygpt"}),
        &crate::files::checkpoint(),
    )));
    let file = native.unwrap().blobs.remove(0).1;
    assert_eq!(std::fs::read(dir.path().join("model.tinygpt")).unwrap(), file);
    assert_eq!((&made["step"], &made["moments"]), (&json!(12), &json!(true)));
    assert_eq!(made["refused"], json!({"line": 2, "column": 1}));
}

/// A module with clocks computes the same, and counts every round of every kernel.
#[test]
fn a_module_with_clocks_counts_its_kernels() {
    let Some(output) = node("clocks.mjs", "") else { return };
    let made: Value = serde_json::from_slice(&output).unwrap();
    let (plain, clocked) = (&made["plain"], &made["clocked"]);
    assert_eq!(plain["losses"], clocked["losses"]);
    assert!(plain["losses"][1].as_f64() < plain["losses"][0].as_f64());
    assert!(plain.get("kernels").is_none());
    let config = json!({"preset": "tiny", "model": {"layers": 1}});
    let native = read(&answer(json!({"request": "wat", "config": config}).to_string().as_bytes())).unwrap().result;
    let names: Vec<&Value> = native["kernels"].as_array().unwrap().iter().map(|kernel| &kernel["name"]).collect();
    assert_eq!(clocked["kernels"].as_array().unwrap().iter().collect::<Vec<_>>(), names);
    let seconds: Vec<f64> = clocked["seconds"].as_array().unwrap().iter().map(|s| s.as_f64().unwrap()).collect();
    // Two steps: each kernel has a round or several, and the clock is read once a round and once at the start.
    assert!(seconds.iter().all(|s| *s >= 2.0 && *s % 2.0 == 0.0), "{seconds:?}");
    assert_eq!(seconds.iter().sum::<f64>(), clocked["calls"].as_f64().unwrap() - 2.0);
}

/// Where two responses differ first, for people.
fn difference(page: &[u8], native: &[u8]) -> String {
    let (page, native) = match (read(page), read(native)) {
        (Ok(page), Ok(native)) => (page, native),
        (page, native) => return format!("in a page {:?}, natively {:?}", page.err(), native.err()),
    };
    for ((name, ours), (_, theirs)) in page.blobs.iter().zip(&native.blobs) {
        if ours != theirs {
            let at = ours.iter().zip(theirs).position(|(a, b)| a != b).unwrap_or(ours.len().min(theirs.len()));
            return format!("{name} differs from byte {at} on: {} and {} bytes", ours.len(), theirs.len());
        }
    }
    let (page, native) = (page.result.to_string(), native.result.to_string());
    let at = page.bytes().zip(native.bytes()).position(|(a, b)| a != b).unwrap_or(page.len().min(native.len()));
    let around = |text: &str| {
        String::from_utf8_lossy(&text.as_bytes()[at.saturating_sub(80)..text.len().min(at + 80)]).into_owned()
    };
    format!("the results differ: in a page `{}`, natively `{}`", around(&page), around(&native))
}
