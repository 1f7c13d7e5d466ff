//! Model files through a page: out of a checkpoint and back, with nothing lost.

use crate::requests::ask;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use tinygpt_runtime::checkpoint::Checkpoint;
use tinygpt_runtime::config::RunConfig;
use tinygpt_runtime::model::{forward, initial_weights};
use tinygpt_web::{Response, answer, read, write_request};

type Files = Vec<(String, Vec<u8>)>;

/// A checkpoint with moments that are not zero.
pub fn checkpoint() -> Files {
    let mut config = RunConfig::preset("tiny").unwrap();
    config.model.layers = 1;
    let graph = forward(&config.model, 1).unwrap();
    let tensors = |seed| initial_weights(&graph, seed).unwrap();
    let (weights, m, v) = (tensors(1), tensors(2), tensors(3));
    let saved =
        Checkpoint { step: 12, elapsed_s: 3.5, val_loss: None, loss_scale: None, config, graph: None, weights, m, v };
    saved.to_files().unwrap().into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect()
}

fn tell(request: &Value, blobs: &[(String, Vec<u8>)]) -> Response {
    read(&answer(&write_request(request, blobs))).unwrap_or_else(|e| panic!("{request}: {e}"))
}

fn refused(request: Value, blobs: &[(String, Vec<u8>)]) -> String {
    match read(&answer(&write_request(&request, blobs))) {
        Ok(response) => panic!("{request} was answered: {}", response.result),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_checkpoint_goes_out_and_comes_back() {
    let files = checkpoint();
    let tensors = |files: &Files| files[..2].to_vec();
    for (format, name) in [("tinygpt", "model.tinygpt"), ("safetensors", "model.safetensors")] {
        let out = tell(&json!({"request": "encode", "format": format}), &files).blobs;
        assert_eq!(out.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), [name]);
        let back = tell(&json!({"request": "decode", "name": name}), &out);
        assert_eq!(back.result["config"]["model"]["layers"], 1);
        assert_eq!(back.result["params"], 42_192);
        if format == "tinygpt" {
            assert_eq!(tensors(&back.blobs), tensors(&files), "weights and moments");
            assert_eq!((&back.result["step"], &back.result["moments"]), (&json!(12), &json!(true)));
        } else {
            assert_eq!(back.blobs[0], files[0], "weights");
            assert_eq!((&back.result["step"], &back.result["moments"]), (&json!(0), &json!(false)));
        }
        // What came back is a checkpoint again.
        let again = tell(&json!({"request": "encode", "format": format}), &back.blobs).blobs;
        assert_eq!(again[0].1.len(), out[0].1.len());
    }
    let gpt2: BTreeMap<_, _> =
        tell(&json!({"request": "encode", "format": "hf-gpt2"}), &files).blobs.into_iter().collect();
    assert!(gpt2.contains_key("config.json"), "{:?}", gpt2.keys());
}

#[test]
fn a_graph_comes_back_as_text() {
    let request = json!({"request": "graph", "stage": "graph", "config": {"preset": "tiny", "model": {"layers": 1}}});
    let text = ask(&request).result["text"].clone();
    let weights = ask(&json!({"request": "init", "config": {"graph": text}})).blobs;
    let back = tell(&json!({"request": "decode", "name": "m.safetensors"}), &weights);
    assert_eq!(back.result["config"]["graph"], text);
    assert_eq!(ask(&json!({"request": "resolve", "config": back.result["config"]})).result["params"], 42_192);
}

#[test]
fn what_is_no_file_is_one_sentence() {
    let files = checkpoint();
    let encode = |format: &str| json!({"request": "encode", "format": format});
    assert!(refused(encode("onnx"), &files).starts_with("there is no file format \"onnx\": choose one of safetensors"));
    assert_eq!(
        refused(encode("tinygpt"), &files[..2]),
        "the request brings no blob state.json, expected a checkpoint's files"
    );
    assert_eq!(
        refused(json!({"request": "decode", "name": "x"}), &files[..2]),
        "the request brings 2 blobs, expected the file as one"
    );
    let half = vec![("f".to_owned(), files[0].1[..1000].to_vec())];
    assert!(refused(json!({"request": "decode", "name": "f.safetensors"}), &half).starts_with("f.safetensors "));
    let unused = refused(json!({"request": "presets"}), &half);
    assert_eq!(unused, "the request brings the blob f, which it has no use for");
}
