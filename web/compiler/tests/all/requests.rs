//! What each request comes to, natively; `page.rs` shows that a page gets the same.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use tinygpt_runtime::config::RunConfig;
use tinygpt_runtime::tensor_file::TensorFile;
use tinygpt_runtime::wasm::export::{Source, export};
use tinygpt_runtime::{corpus, model};
use tinygpt_web::{Response, answer, read};

pub fn ask(request: &Value) -> Response {
    read(&answer(request.to_string().as_bytes())).unwrap_or_else(|e| panic!("{request}: {e}"))
}

pub fn refusal(request: &str) -> String {
    match read(&answer(request.as_bytes())) {
        Ok(response) => panic!("{request} was answered: {}", response.result),
        Err(error) => error.to_string(),
    }
}

#[test]
fn presets_say_what_resolve_says() {
    let presets = ask(&json!({"request": "presets"})).result;
    assert_eq!(presets["default"], "small");
    let list = presets["presets"].as_array().unwrap();
    assert_eq!(list.len(), 12);
    assert_eq!(list[5]["params"], 2_743_296);
    for preset in list {
        let config = json!({"preset": preset["config"]["preset"]});
        assert_eq!(ask(&json!({"request": "resolve", "config": config})).result, *preset);
        // What a page was given, it may give back.
        assert_eq!(ask(&json!({"request": "resolve", "config": preset["config"]})).result, *preset);
    }
}

#[test]
fn a_configuration_is_the_preset_and_what_was_changed() {
    let config = json!({"preset": "tiny", "model": {"layers": 3, "d_model": 60}, "train": {"lr": 1, "steps": 100}});
    let result = ask(&json!({"request": "resolve", "config": config})).result;
    let mut expected = RunConfig::preset("tiny").unwrap();
    expected.model.layers = 3;
    (expected.model.d_model, expected.model.d_mlp) = (60, 240);
    (expected.train.lr, expected.train.steps, expected.train.warmup) = (1.0, 100, 10);
    assert_eq!(result["config"], serde_json::to_value(&expected).unwrap());
    assert_eq!(result["params"], expected.model.params());
    assert_eq!(result["memory"]["states"], 12 * expected.model.params());
    let tokens = 16.0 * 32.0;
    let flop = (6.0 * expected.model.params() as f64 + 12.0 * 3.0 * 60.0 * 32.0) * tokens;
    assert_eq!(result["flop_per_step"], flop);
}

#[test]
fn weights_are_those_of_the_seed() {
    let config = RunConfig::preset("tiny").unwrap();
    for seed in [None, Some(7)] {
        let response = ask(&json!({"request": "init", "config": {"preset": "tiny"}, "seed": seed}));
        let (name, bytes) = &response.blobs[0];
        assert_eq!(name, "model.safetensors");
        let tensors = TensorFile::parse(bytes.clone(), name).unwrap().tensors().unwrap();
        let graph = model::forward(&config.model, 1).unwrap();
        assert_eq!(tensors, model::initial_weights(&graph, seed.unwrap_or(config.train.seed)).unwrap());
    }
    let corpus_file = ask(&json!({"request": "corpus"})).blobs;
    assert_eq!(corpus_file, [("corpus.txt".to_owned(), corpus::text().as_bytes().to_vec())]);
}

/// With `page.rs`: a module made in a page is, byte for byte, the one that `tinygpt export --format web` writes.
#[test]
fn a_compiled_configuration_is_its_export() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("tiny");
    export(&Source::Fresh(RunConfig::preset("tiny").unwrap()), &out).unwrap();
    let compiled = ask(&json!({"request": "compile", "config": {"preset": "tiny"}}));
    let weights = ask(&json!({"request": "init", "config": {"preset": "tiny"}}));
    let made: BTreeMap<String, Vec<u8>> = compiled.blobs.into_iter().chain(weights.blobs).collect();
    let files = std::fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
    let mut exported: BTreeMap<String, Vec<u8>> = files
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read(&path).unwrap()))
        .collect();
    exported.remove("README.md").expect("an export says how it is loaded");
    assert_eq!(made.keys().collect::<Vec<_>>(), exported.keys().collect::<Vec<_>>());
    for (name, bytes) in &made {
        assert!(*bytes == exported[name], "{name} differs");
    }
    assert!(made["plain.wasm"].starts_with(b"\0asm"));
    assert_eq!(compiled.result, serde_json::from_slice::<Value>(&made["manifest.json"]).unwrap());
    // One variant alone is the same module, in the same places.
    let variants = json!([{"relaxed": true, "threads": true}]);
    let alone = ask(&json!({"request": "compile", "config": {"preset": "tiny"}, "variants": variants}));
    let alone_files: BTreeMap<String, Vec<u8>> = alone.blobs.into_iter().collect();
    assert_eq!(alone_files["relaxed-threads.wasm"], made["relaxed-threads.wasm"]);
    assert!(!alone_files.contains_key("plain.wasm"));
    assert_eq!(alone.result["layout"], compiled.result["layout"]);
}

#[test]
fn every_kernel_has_its_text() {
    let request = json!({"request": "wat", "config": {"preset": "tiny"}, "variant": {"relaxed": true}});
    let result = ask(&request).result;
    let kernels = result["kernels"].as_array().unwrap();
    assert!(kernels.len() > 50);
    for kernel in kernels {
        let (name, text) = (kernel["name"].as_str().unwrap(), kernel["text"].as_str().unwrap());
        assert!(text.starts_with(&format!(";; kernel {name}\n")) && text.contains("(func $"), "{text}");
    }
    let texts = result.to_string();
    assert!(texts.contains("relaxed_madd") && texts.contains("models/gpt.rs:"));
}

#[test]
fn stages_are_those_of_dump() {
    let text = |stage: &str, entry: &str| {
        let request = json!({"request": "graph", "config": {"preset": "tiny"}, "stage": stage, "entry": entry});
        ask(&request).result["text"].as_str().unwrap().to_owned()
    };
    assert!(text("graph", "train").starts_with("tinygpt-graph 1\n"), "{}", text("graph", "train"));
    assert!(text("grad", "train").contains("grad_norm") && !text("graph", "train").contains("grad_norm"));
    assert!(text("fused", "train").starts_with("# "));
    assert!(text("program", "train").contains("output grad_norm"));
    assert!(text("program", "evaluate").contains("output loss") && !text("program", "evaluate").contains("logits :"));
    assert!(text("program", "decode").contains("input @position : i32"));
    assert!(text("program", "logits").contains("output logits : f32[1,32,256]"));
}

#[test]
fn a_dispatch_list_is_whole() {
    let result = ask(&json!({"request": "wgsl", "config": {"preset": "tiny"}, "caps": {"subgroups": [4, 32]}})).result;
    let list = |key: &str| result[key].as_array().unwrap();
    let sizes: Vec<u64> = list("allocations").iter().map(|a| a["bytes"].as_u64().unwrap()).collect();
    let within = |range: &Value| {
        let at = range["offset"].as_u64().unwrap();
        at + range["bytes"].as_u64().unwrap() <= sizes[range["allocation"].as_u64().unwrap() as usize]
    };
    let names: Vec<&str> = list("slots").iter().map(|slot| slot["name"].as_str().unwrap()).collect();
    for name in ["ids", "targets", "lr", "step", "loss", "grad_norm", "token_embedding.weight"] {
        assert!(names.contains(&name), "{name} is not in {names:?}");
    }
    assert!(list("slots").iter().all(within));
    let mut used = vec![false; list("modules").len()];
    assert!(list("launches").len() > used.len() && !used.is_empty());
    for launch in list("launches") {
        let module = launch["module"].as_u64().unwrap() as usize;
        used[module] = true;
        let source = list("modules")[module]["source"].as_str().unwrap();
        let entry = format!("fn {}(", launch["entry"].as_str().unwrap());
        assert!(source.contains(&entry), "{entry} is not in\n{source}");
        for binding in launch["bindings"].as_array().unwrap() {
            match binding["table"].as_u64() {
                None => assert!(within(binding), "{launch}"),
                Some(table) => {
                    let words = list("tables")[table as usize].as_array().unwrap().len() as u64;
                    assert_eq!(binding["bytes"], 4 * words, "{launch}");
                }
            }
        }
    }
    assert!(used.iter().all(|used| *used));
}

#[test]
fn what_cannot_be_answered_is_one_sentence() {
    let cases = [
        ("", "the request is not understood: EOF while parsing a value"),
        ("{}", "the request is not understood: missing field `request`"),
        (r#"{"request":"cook"}"#, "the request is not understood: unknown variant `cook`, expected one of `presets`"),
        (r#"{"request":"graph","stage":"grid"}"#, "the request is not understood: unknown variant `grid`"),
        (r#"{"request":"corpus","size":1}"#, "the request is not understood: unknown field `size`"),
        (r#"{"request":"resolve","config":{"preset":"smal"}}"#, r#"there is no preset "smal" (did you mean "small"?)"#),
        (
            r#"{"request":"resolve","config":{"model":{"layrs":1}}}"#,
            r#"the configuration: there is no key "layrs" in [model] (did you mean "layers"?)"#,
        ),
        (
            r#"{"request":"resolve","config":{"modl":{}}}"#,
            r#"the configuration: there is no key "modl" (did you mean "model"?)"#,
        ),
        (r#"{"request":"resolve","config":{"model":{"ctx":"long"}}}"#, "the configuration, ctx: invalid type: string"),
        (
            r#"{"request":"resolve","config":{"model":{"heads":5}}}"#,
            "d_model must be a multiple of heads, and 96 is not one of 5",
        ),
        (
            r#"{"request":"resolve","config":{"graph":"a.gir"}}"#,
            r#"the graph is not understood, line 1, column 1: found `a.gir`, expected `tinygpt-graph`"#,
        ),
        (r#"{"request":"resolve","config":{"data":{"data":"a.txt"}}}"#, r#"the configuration names the data "a.txt""#),
        (
            r#"{"request":"graph","stage":"program","config":{"preset":"behemoth"}}"#,
            "training this configuration takes about 7.1 GiB, and a page has 4",
        ),
        (
            r#"{"request":"wat","entry":"trian"}"#,
            r#"there is no entry "trian" (did you mean "train"?): choose one of train, evaluate, decode, logits"#,
        ),
        (r#"{"request":"compile","variants":[]}"#, "a bundle needs at least one variant"),
        (r#"{"request":"compile","variants":[{"simd":true}]}"#, "the request is not understood: unknown field `simd`"),
        (r#"{"request":"compile","config":{"preset":"gpt2"}}"#, "training this configuration takes about"),
        (
            r#"{"request":"wgsl","caps":{"max_storage_buffers":2}}"#,
            "the adapter's max_storage_buffers is 2, and every WebGPU adapter has 8 or more",
        ),
        (r#"{"request":"wgsl","caps":{"max_workgroup_size":[0,0,0]}}"#, "the adapter's max_workgroup_size.x is 0"),
        (r#"{"request":"wgsl","caps":{"subgroups":[0,4]}}"#, "the adapter's subgroups are of 0 to 4 invocations"),
        (r#"{"request":"wgsl","caps":{"offset_alignment":3}}"#, "the adapter's offset_alignment is 3"),
    ];
    for (request, expected) in cases {
        let found = refusal(request);
        assert!(found.starts_with(expected), "{request}\n  found    {found}\n  expected {expected}");
        assert!(!found.contains('\n'), "{found}");
    }
    let invalid_utf8 = read(&answer(b"{\"request\":\"\xff\"}")).unwrap_err().to_string();
    assert!(invalid_utf8.starts_with("the request is not understood"), "{invalid_utf8}");
}
