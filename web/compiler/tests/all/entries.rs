//! Entries that are made where they are asked for: gradients against differences, attention weights against the interpreter; and programs without fusion.

use crate::requests::{ask, refusal};
use serde_json::{Value, json};
use tinygpt_ir::program::TargetModel;
use tinygpt_runtime::architecture::Architecture;
use tinygpt_runtime::compile::{ExecOptions, prepare};
use tinygpt_runtime::config::{Backend, RunConfig};
use tinygpt_runtime::executor::Executor;
use tinygpt_runtime::model::write_states;
use tinygpt_runtime::tensor::HostTensor;
use tinygpt_runtime::tensor_file::TensorFile;
use tinygpt_runtime::wasm::bundle::program;

/// An entry of a model, ready to run.
fn entry(config: &RunConfig, name: &str, backend: Backend, fusion: bool) -> Box<dyn Executor> {
    let compiled = program(config, &Architecture::from(&config.model), name, &TargetModel::cpu(), fusion).unwrap();
    let options = ExecOptions { backend, threads: 1, isa: None, no_templates: false, gpu: None };
    prepare(&compiled, &options).unwrap()
}

fn run_config(value: &Value) -> RunConfig {
    serde_json::from_value(value.clone()).unwrap()
}

#[test]
fn the_compiled_gradient_is_the_slope_of_the_loss() {
    let config = json!({"preset": "tiny", "model": {"d_model": 24}});
    let request = json!({"request": "differences", "config": config, "seed": 5, "count": 31});
    let made = ask(&request);
    assert_eq!(ask(&request), made);
    let (result, blobs) = (made.result, made.blobs);
    let config = run_config(&result["config"]);
    assert_eq!((config.train.batch, config.model.ctx, config.model.d_model), (1, 8, 24));
    let weights = TensorFile::parse(blobs[0].1.clone(), "w").unwrap().tensors().unwrap();
    let tokens = |blob: &(String, Vec<u8>)| {
        let words = blob.1.chunks_exact(4).map(|w| i32::from_le_bytes(w.try_into().unwrap())).collect();
        HostTensor::i32(&[1, 8], words).unwrap()
    };
    assert_eq!((blobs[1].0.as_str(), blobs[2].0.as_str()), ("ids", "targets"));
    assert_eq!(tokens(&blobs[1]).as_i32().unwrap()[1..], tokens(&blobs[2]).as_i32().unwrap()[..7]);

    let coordinates = result["coordinates"].as_array().unwrap();
    assert_eq!(coordinates.len(), 31);
    for fusion in [true, false] {
        let mut gradient = entry(&config, "gradient", Backend::Cpu, fusion);
        write_states(&mut *gradient, "", &weights).unwrap();
        gradient.write("ids", &tokens(&blobs[1])).unwrap();
        gradient.write("targets", &tokens(&blobs[2])).unwrap();
        gradient.step().unwrap();
        let loss = gradient.read("loss").unwrap().as_f32().unwrap()[0];
        assert!((f64::from(loss) - result["loss"].as_f64().unwrap()).abs() < 1e-5);
        let mut weights_seen = Vec::new();
        for coordinate in coordinates {
            let weight = coordinate["weight"].as_str().unwrap();
            let found = gradient.read(&format!("grad.{weight}")).unwrap();
            let index = coordinate["index"].as_u64().unwrap() as usize;
            let (found, expected) =
                (f64::from(found.as_f32().unwrap()[index]), coordinate["difference"].as_f64().unwrap());
            assert!((found - expected).abs() <= 1e-4 * expected.abs() + 1e-7, "{coordinate}: {found}");
            weights_seen.push(weight);
        }
        weights_seen.sort_unstable();
        weights_seen.dedup();
        assert!(weights_seen.len() > 25, "{weights_seen:?}");
        // Nothing is updated.
        assert_eq!(gradient.read("ln_final.weight").unwrap(), weights["ln_final.weight"]);
    }
}

#[test]
fn attention_weights_are_those_of_the_interpreter_and_sum_to_one() {
    let mut config = RunConfig::preset("tiny").unwrap();
    (config.model.ctx, config.model.layers, config.model.d_model, config.model.d_mlp) = (10, 2, 24, 96);
    let weights = {
        let asked = json!({"request": "init", "config": {"preset": "tiny", "model": {"ctx": 10, "d_model": 24}}});
        TensorFile::parse(ask(&asked).blobs[0].1.clone(), "w").unwrap().tensors().unwrap()
    };
    let ids = HostTensor::i32(&[1, 10], (0..10).map(|i| 40 + 17 * i).collect()).unwrap();
    let outputs = |name: &str, backend: Backend, fusion: bool, outputs: &[&str]| -> Vec<HostTensor> {
        let mut exec = entry(&config, name, backend, fusion);
        // Larger than at the start, so that rows of attention are not all alike.
        for (name, tensor) in &weights {
            let values = tensor.as_f32().unwrap().iter().map(|x| if tensor.shape().len() > 1 { 20.0 * x } else { *x });
            exec.write(name, &HostTensor::f32(tensor.shape(), values.collect()).unwrap()).unwrap();
        }
        exec.write("ids", &ids).unwrap();
        exec.step().unwrap();
        outputs.iter().map(|name| exec.read(name).unwrap()).collect()
    };
    let oracle = outputs("look", Backend::Interp, true, &["attention", "logits"]);
    assert_eq!(oracle[0].shape(), [2, 3, 10, 10]);
    for fusion in [true, false] {
        let found = outputs("look", Backend::Cpu, fusion, &["attention", "logits"]);
        for (found, expected) in found.iter().zip(&oracle) {
            let pairs = found.as_f32().unwrap().iter().zip(expected.as_f32().unwrap());
            assert!(pairs.clone().all(|(a, b)| (a - b).abs() <= 2e-5 * b.abs().max(1.0)));
        }
        let maps = found[0].as_f32().unwrap();
        let mut largest: f32 = 0.0;
        for (row, values) in maps.chunks(10).enumerate() {
            let (seen, hidden) = values.split_at(row % 10 + 1);
            assert!(
                (seen.iter().sum::<f32>() - 1.0).abs() < 1e-5 && hidden.iter().all(|x| *x == 0.0),
                "{row}: {values:?}"
            );
            largest = largest.max(if row % 10 == 9 { seen.iter().copied().fold(0.0, f32::max) } else { 0.0 });
        }
        assert!(largest > 0.2, "the rows are uniform");
    }
    // The logits are the model's own.
    let logits = outputs("logits", Backend::Interp, true, &["logits"]);
    let pairs = logits[0].as_f32().unwrap().iter().zip(oracle[1].as_f32().unwrap());
    assert!(pairs.into_iter().all(|(a, b)| (a - b).abs() <= 1e-5 * b.abs().max(1.0)));
}

#[test]
fn entries_are_as_asked_for_and_share_states() {
    let request = json!({
        "request": "compile", "config": {"preset": "tiny"}, "variants": [{}], "entries": ["look", "train", "gradient"]
    });
    let manifest = ask(&request).result;
    let entries = manifest["layout"]["entries"].as_array().unwrap();
    let names: Vec<&str> = entries.iter().map(|e| e["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["look", "train", "gradient"]);
    let place = |entry: &Value, list: &str, name: &str| {
        let found = entry[list].as_array().unwrap().iter().find(|slot| slot["name"] == name);
        found.unwrap_or_else(|| panic!("{name} is not in {list}"))["offset"].clone()
    };
    for entry in entries {
        assert_eq!(place(entry, "params", "ln_final.bias"), place(&entries[0], "params", "ln_final.bias"));
    }
    place(&entries[0], "outputs", "attention");
    place(&entries[2], "outputs", "grad.ln_final.bias");
    let error = |entries: Value| refusal(&json!({"request": "compile", "entries": entries}).to_string());
    assert_eq!(
        error(json!(["trian"])),
        "there is no entry \"trian\" (did you mean \"train\"?): choose one of train, evaluate, decode, logits, gradient, look"
    );
    assert_eq!(error(json!([])), "a bundle needs at least one entry, and none was asked for");
    assert!(error(json!(["train", "train"])).contains("expected names that differ"));
}

#[test]
fn without_fusion_there_are_more_kernels() {
    let count = |request: &str, list: &str, fusion: bool| {
        let config = json!({"preset": "tiny", "model": {"layers": 1}});
        let asked = json!({"request": request, "config": config, "fusion": fusion});
        ask(&asked).result[list].as_array().unwrap().len()
    };
    for (request, list) in [("wat", "kernels"), ("wgsl", "launches")] {
        let (fused, unfused) = (count(request, list, true), count(request, list, false));
        assert!(unfused > 2 * fused, "{request}: {unfused} without fusion, {fused} with it");
    }
    let module = |fusion: bool| {
        let config = json!({"preset": "tiny", "model": {"layers": 1}});
        let request = json!({"request": "compile", "config": config, "variants": [{}], "fusion": fusion});
        ask(&request).blobs.into_iter().find(|(name, _)| name == "plain.wasm").unwrap().1
    };
    assert!(module(false).starts_with(b"\0asm") && module(false) != module(true));
}

#[test]
fn the_differences_that_are_asked_for_must_make_sense() {
    let error = |request: Value| refusal(&request.to_string());
    let tiny = json!({"preset": "tiny"});
    for count in [0, 201] {
        let refused = error(json!({"request": "differences", "config": tiny, "count": count}));
        assert_eq!(refused, format!("count must be from 1 to 200, and is {count}"));
    }
    assert!(error(json!({"request": "differences", "config": {"preset": "gpt2"}})).contains("which need vocab 256"));
}

#[test]
fn keys_are_listed_with_their_ranges() {
    let result = ask(&json!({"request": "keys"})).result;
    let keys = result["keys"].as_array().unwrap();
    let key = |name: &str| keys.iter().find(|key| key["key"] == name).unwrap();
    assert_eq!(key("batch")["max"], 1_048_576.0);
    assert_eq!(key("schedule")["choices"], json!(["constant", "cosine"]));
    assert_eq!((&key("threads")["native"], &key("lr")["native"]), (&json!(true), &json!(false)));
}
