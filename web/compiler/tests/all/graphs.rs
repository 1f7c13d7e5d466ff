//! Models in text form: what a page edits, and where it is told to look when the text is wrong.

use crate::requests::{ask, refusal};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use tinygpt_web::{answer, read};

/// The text of a GPT's forward graph, as a page gets it to edit.
fn text() -> String {
    let request = json!({"request": "graph", "stage": "graph", "config": {"preset": "tiny", "model": {"layers": 1}}});
    ask(&request).result["text"].as_str().unwrap().to_owned()
}

#[test]
fn a_text_is_a_model_like_any_other() {
    let text = text();
    let config = json!({"graph": text, "train": {"steps": 30}});
    let resolved = ask(&json!({"request": "resolve", "config": config})).result;
    let gpt = ask(&json!({"request": "resolve", "config": {"preset": "tiny", "model": {"layers": 1}}})).result;
    for key in ["params", "batch", "ctx", "vocab"] {
        assert_eq!(resolved[key], gpt[key], "{key}");
    }
    assert_eq!(resolved["memory"]["states"], gpt["memory"]["states"]);
    let ratio = |key: &dyn Fn(&Value) -> f64| key(&resolved) / key(&gpt);
    assert!((0.9..1.1).contains(&ratio(&|r| r["memory"]["total"].as_f64().unwrap())));
    // The formula of a GPT counts products alone.
    assert!((0.9..1.3).contains(&ratio(&|r| r["flop_per_step"].as_f64().unwrap())));
    assert_eq!(resolved["entries"], json!(["train", "evaluate", "logits"]));
    assert_eq!(resolved["config"]["graph"], text);
    assert!(resolved["config"].get("model").is_none());
    // What a page was given, it may give back.
    assert_eq!(ask(&json!({"request": "resolve", "config": resolved["config"]})).result, resolved);

    // The same mathematics make the same kernels.
    let kernels = |config: &Value| {
        let request = json!({"request": "wat", "config": config});
        let list = ask(&request).result["kernels"].as_array().unwrap().clone();
        let code = |kernel: &Value| -> Vec<String> {
            let lines = kernel["text"].as_str().unwrap().lines();
            lines.filter(|line| !line.trim_start().starts_with(";;")).map(str::to_owned).collect()
        };
        list.iter().map(code).collect::<Vec<_>>()
    };
    assert_eq!(kernels(&config), kernels(&json!({"preset": "tiny", "model": {"layers": 1}})));
}

#[test]
fn a_bundle_of_a_text_holds_it_and_leads_back_to_its_lines() {
    let text = text();
    let compiled = ask(&json!({"request": "compile", "config": {"graph": text}, "variants": [{}]}));
    let files: BTreeMap<String, Vec<u8>> = compiled.blobs.into_iter().collect();
    assert_eq!(String::from_utf8_lossy(&files["model.gir"]), text);
    assert!(files["plain.wasm"].starts_with(b"\0asm"));
    let manifest = compiled.result;
    assert_eq!(manifest["config"]["graph"], "model.gir");
    let entries: Vec<&str> =
        manifest["layout"]["entries"].as_array().unwrap().iter().map(|e| e["name"].as_str().unwrap()).collect();
    assert_eq!(entries, ["train", "evaluate", "logits"]);

    let wat = ask(&json!({"request": "wat", "config": {"graph": text}})).result.to_string();
    let line = text.lines().position(|line| line.contains("= attention ")).unwrap() + 1;
    assert!(wat.contains(&format!("model.gir:{line}")), "no kernel names line {line}");
    // Weights are those of the names, as of every model.
    let weights = |config: Value| ask(&json!({"request": "init", "config": config, "seed": 3})).blobs[0].1.clone();
    let (ours, gpt) = (weights(json!({"graph": text})), weights(json!({"preset": "tiny", "model": {"layers": 1}})));
    assert_eq!(ours[ours.len() - 1000..], gpt[gpt.len() - 1000..]);
}

#[test]
fn mistakes_in_a_text_have_their_place() {
    let text = text();
    let header = |config: Value| -> Value {
        let response = answer(json!({"request": "resolve", "config": config}).to_string().as_bytes());
        let length = u32::from_le_bytes(response[4..8].try_into().unwrap()) as usize;
        serde_json::from_slice(&response[8..8 + length]).unwrap()
    };
    let at = text.lines().position(|line| line.contains("= attention ")).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let wrong = lines[at].replace("attention", "atention");
    let changed: Vec<&str> = lines.iter().enumerate().map(|(i, l)| if i == at { &wrong } else { *l }).collect();
    let refused = header(json!({"graph": changed.join("\n")}));
    assert_eq!((&refused["line"], &refused["ok"]), (&json!(at + 1), &json!(false)), "{refused}");
    assert_eq!(refused["column"], wrong.find("atention").unwrap() + 1);
    let sentence = refused["error"].as_str().unwrap();
    assert!(sentence.contains("did you mean `attention`?"), "{sentence}");

    // What is about the graph as a whole has no place.
    let refused = header(json!({"graph": text.replace("output loss", "output lost")}));
    assert!(refused["error"].as_str().unwrap().contains("it has no output `loss` f32[]"), "{refused}");
    assert!(refused.get("line").is_none());
}

#[test]
fn what_a_text_cannot_have_is_one_sentence() {
    let text = text();
    let sentence = |request: Value| refusal(&request.to_string());
    let config = json!({"graph": text});
    for entry in ["decode", "look"] {
        let refused = sentence(json!({"request": "wgsl", "config": config, "entry": entry}));
        let expected = format!(
            "the model is the graph gpt, and the entry {entry} is made for a GPT: choose one of train, evaluate, logits, gradient"
        );
        assert!(refused.starts_with(&expected), "{refused}");
    }
    let both = sentence(json!({"request": "resolve", "config": {"graph": text, "model": {"layers": 2}}}));
    assert!(both.starts_with("there is a graph and a [model], of which a run has one"), "{both}");
    let batch = sentence(json!({"request": "resolve", "config": {"graph": text, "train": {"batch": 3}}}));
    assert_eq!(batch, "the graph gpt takes 16 rows a batch, and batch is 3: leave batch out");
    assert_eq!(
        sentence(json!({"request": "resolve", "config": {"graph": 3}})),
        "the configuration, graph: expected the text of a graph"
    );
    // Sizes that a page cannot count to are refused before anything is compiled with them.
    let huge = text.replace("32", "16777216");
    for request in ["resolve", "compile", "init"] {
        let refused = sentence(json!({"request": request, "config": {"graph": huge}}));
        assert!(
            refused.contains("GiB, and a page has 4") || refused.contains("not understood"),
            "{request}: {refused}"
        );
    }
    let silent = text.replace("output logits", "output hidden");
    let refused = sentence(json!({"request": "compile", "config": {"graph": silent}, "entries": ["logits"]}));
    assert!(refused.starts_with("the graph gpt has no output `logits`"), "{refused}");
    let made = read(&answer(
        json!({"request": "compile", "config": {"graph": silent}, "variants": [{}]}).to_string().as_bytes(),
    ));
    assert_eq!(made.unwrap().result["layout"]["entries"].as_array().unwrap().len(), 2);
}
