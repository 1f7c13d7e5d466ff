//! The parsers, their seeds, and what it means that an input reads back.

use crate::{Outcome, Target};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use tinygpt::ir::program::{self, TargetModel};
use tinygpt::ir::random::{RandomOptions, random_graph};
use tinygpt::ir::text;
use tinygpt::passes::compile::to_program;
use tinygpt::passes::optimizer::{AdamWConfig, training_step};
use tinygpt::passes::pass::Pipeline;
use tinygpt::runtime::checkpoint::Checkpoint;
use tinygpt::runtime::commands::check::Filetest;
use tinygpt::runtime::compile::PASSES;
use tinygpt::runtime::config::{ModelConfig, RunConfig, RunOverride};
use tinygpt::runtime::formats::{self, Format, LossPoint, Saved};
use tinygpt::runtime::gpu::tune::{VERSION, parse_plan};
use tinygpt::runtime::model::{forward, initial_weights};
use tinygpt::runtime::tensor_file::{self, TensorFile, Tensors};

/// Memory of a parser that builds a tree: its nodes are larger than the characters they stand for.
const TREE: Option<(usize, usize)> = Some((400, 1 << 20));
/// Memory of a parser that copies: the file, and what it holds in two layouts.
const COPY: Option<(usize, usize)> = Some((32, 1 << 18));

/// What becomes of a text that is no UTF-8: the commands refuse it when they read the file.
fn utf8(input: &[u8]) -> String {
    String::from_utf8_lossy(input).into_owned()
}

fn bytes(texts: impl IntoIterator<Item = String>) -> Vec<Vec<u8>> {
    texts.into_iter().map(String::into_bytes).collect()
}

/// A configuration file, up to the resolved configuration.
pub fn config() -> Target {
    let presets = ["tiny", "medium", "gpt2"].map(|name| RunConfig::preset(name).unwrap().to_toml().unwrap());
    let own = "preset = \"tiny\"\n\n[model]\nctx = 8\nlayers = 1\nheads = 2\nd_model = 8\ngelu = \"tanh\"\n\n[train]\nbatch = 2\nsteps = 40\n\
               lr = 1e-3 # peak\nbetas = [0.9, 0.99]\nbackend = \"wasm\"\nisa = \"avx2\"\n\n[data]\ndata = \"x.txt\"\nval_data = 'y.txt'\n";
    let resolve = |layer: &RunOverride| RunConfig::resolve(None, None, layer);
    let check = move |input: &[u8]| {
        let text = utf8(input);
        let layer = RunOverride::parse(&text, "f.toml").map(|layer| RunOverride { graph: None, ..layer });
        match layer.and_then(|layer| resolve(&layer)) {
            Err(error) => Outcome::Refused(error.to_string()),
            Ok(config) => {
                let printed = config.to_toml().expect("a resolved configuration prints");
                let again = RunOverride::parse(&printed, "printed").expect("what was printed is read");
                assert_eq!(resolve(&again).expect("what was printed resolves"), config);
                Outcome::Read
            }
        }
    };
    let seeds = bytes(presets.into_iter().chain([own.to_owned()]));
    Target { name: "config", seeds, memory: TREE, check: Box::new(check) }
}

/// A GPT that compiles in a blink.
fn small() -> ModelConfig {
    let model = RunConfig::preset("tiny").unwrap().model;
    ModelConfig { ctx: 4, layers: 1, heads: 2, d_model: 4, d_mlp: 8, ..model }
}

/// Graphs small enough that mutations often hit something new.
fn graphs() -> Vec<tinygpt::ir::Graph> {
    let gpt = forward(&small(), 2).unwrap();
    let random =
        (0..6).map(|seed| random_graph(seed, &RandomOptions { f16: seed % 3 == 0, ..RandomOptions::default() }));
    random.chain([training_step(&gpt, &AdamWConfig::default()).unwrap(), gpt]).collect()
}

/// The text of a graph.
pub fn graph() -> Target {
    let check = |input: &[u8]| match text::parse(&utf8(input)) {
        Err(error) => {
            assert!(!error.render(Some("f.gir")).is_empty());
            Outcome::Refused(error.to_string())
        }
        Ok(graph) => {
            let printed = graph.to_string();
            let again = text::parse(&printed).unwrap_or_else(|e| panic!("what was printed is refused: {e}"));
            assert!(again == graph && again.to_string() == printed, "what was printed is another graph");
            Outcome::Read
        }
    };
    let seeds = bytes(graphs().iter().map(ToString::to_string));
    Target { name: "graph", seeds, memory: TREE, check: Box::new(check) }
}

/// The text of a program.
pub fn program() -> Target {
    let check = |input: &[u8]| match program::parse(&utf8(input)) {
        Err(error) => {
            assert!(!error.render(Some("f.gir")).is_empty());
            Outcome::Refused(error.to_string())
        }
        Ok(program) => {
            let printed = program.to_string();
            let again = program::parse(&printed).unwrap_or_else(|e| panic!("what was printed is refused: {e}"));
            assert!(again == program && again.to_string() == printed, "what was printed is another program");
            // The verifier reads what may make no sense.
            let _ = tinygpt::ir::program::verify(&program);
            Outcome::Read
        }
    };
    let programs = graphs().into_iter().flat_map(|graph| {
        let simplified = Pipeline::new(PASSES).run(graph).unwrap().graph;
        [TargetModel::cpu(), TargetModel::gpu(8, 128 << 20)]
            .map(|target| to_program(&simplified, &target, true).unwrap().to_string())
    });
    // A run of nodes is short to write: the parser has a limit of its own, four megabytes of them.
    let memory = Some((400, 16 << 20));
    Target { name: "program", seeds: bytes(programs), memory, check: Box::new(check) }
}

/// A model with its training, as the formats hold it.
fn saved() -> Saved {
    let mut config = RunConfig::preset("tiny").unwrap();
    config.model = small();
    let weights = initial_weights(&forward(&config.model, 1).unwrap(), 1).unwrap();
    let history =
        vec![LossPoint { step: 3, train: Some(2.5), val: None }, LossPoint { step: 7, train: None, val: Some(2.25) }];
    let moments = Some([weights.clone(), weights.clone()]);
    Saved {
        step: 7,
        elapsed_s: 1.5,
        config,
        graph: None,
        weights,
        moments,
        history,
        saved_at: Some("2026-11-23T09:00:00Z".to_owned()),
    }
}

/// The bytes of a model file, decoded and encoded again until nothing changes: twice.
fn model_file(name: &'static str, format: Format, seeds: Vec<Vec<u8>>) -> Target {
    let encode =
        move |saved: &Saved| formats::encode(format, saved).map(|files| files.into_iter().next().expect("a file").1);
    let check = move |input: &[u8]| match formats::decode("f", input.to_vec(), None) {
        Err(error) => Outcome::Refused(error.to_string()),
        Ok(saved) => {
            if let Ok(first) = encode(&saved) {
                let again = formats::decode("again", first.clone(), None).expect("what was written is read");
                assert!(
                    encode(&again).expect("what was read is written") == first,
                    "what was written is read as another model"
                );
            }
            Outcome::Read
        }
    };
    Target { name, seeds, memory: COPY, check: Box::new(check) }
}

/// A safetensors file, as PyTorch and tinygpt write them.
pub fn safetensors() -> Target {
    let saved = saved();
    let own = formats::encode(Format::Safetensors, &saved).unwrap().remove(0).1;
    let mut target = model_file("safetensors", Format::Safetensors, vec![own]);
    // Every tensor of a file of any content, whether or not it is a model.
    let model = target.check;
    target.check = Box::new(move |input: &[u8]| {
        if let Ok(tensors) = TensorFile::parse(input.to_vec(), "f").and_then(|file| file.tensors()) {
            let again = to_bytes(&tensors);
            let read = TensorFile::parse(again.clone(), "again")
                .and_then(|file| file.tensors())
                .expect("what was written is read");
            assert!(to_bytes(&read) == again, "what was written is read as other tensors");
        }
        model(input)
    });
    target
}

fn to_bytes(tensors: &Tensors) -> Vec<u8> {
    tensor_file::to_bytes(tensors.iter().map(|(name, tensor)| (name.clone(), tensor)), &Default::default())
}

/// A file of the first TinyGPT.
pub fn tinygpt() -> Target {
    let mut whole = saved();
    let with_moments = formats::encode(Format::Tinygpt, &whole).unwrap().remove(0).1;
    whole.moments = None;
    whole.history.clear();
    let without = formats::encode(Format::Tinygpt, &whole).unwrap().remove(0).1;
    model_file("tinygpt", Format::Tinygpt, vec![with_moments, without])
}

/// state.json of a checkpoint, beside a model and moments that are whole.
pub fn checkpoint() -> Target {
    let whole = saved().into_checkpoint().unwrap();
    let [model, optim, state] = whole.to_files().unwrap().map(|(_, bytes)| bytes);
    let check = move |input: &[u8]| match Checkpoint::from_files(model.clone(), optim.clone(), input, "run") {
        Err(error) => Outcome::Refused(error.to_string()),
        Ok(read) => {
            let [model, optim, state] = read.to_files().expect("what was read is written").map(|(_, bytes)| bytes);
            let again = Checkpoint::from_files(model, optim, &state, "again").expect("what was written is read");
            assert!(
                again.to_files().expect("what was read is written")[2].1 == state,
                "what was written is read as another state"
            );
            Outcome::Read
        }
    };
    Target { name: "checkpoint", seeds: vec![state], memory: Some((400, 4 << 20)), check: Box::new(check) }
}

/// A filetest.
pub fn filetest() -> Target {
    let check = |input: &[u8]| {
        let text = utf8(input);
        match Filetest::parse(&text) {
            Err(why) => Outcome::Refused(tinygpt::runtime::Error::input(why).to_string()),
            Ok(test) => {
                let blessed = test.blessed(&test.expected);
                let again = Filetest::parse(&blessed).expect("what was blessed is read");
                assert!(
                    again.expected == test.expected && again.blessed(&again.expected) == blessed,
                    "what was blessed is read as another test"
                );
                Outcome::Read
            }
        }
    };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/filetests/passes");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|ending| ending == "gir"));
    files.sort();
    let seeds = files.iter().map(|file| std::fs::read(file).unwrap()).collect();
    Target { name: "filetest", seeds, memory: TREE, check: Box::new(check) }
}

/// A plan of kernel variants.
pub fn plan() -> Target {
    let seed =
        format!("tinygpt plan {VERSION}\nadapter X (1.2)\nkernel 0000000000000007 pointwise width=4 group=256\n");
    let check = |input: &[u8]| match parse_plan(&utf8(input), "plan") {
        Err(error) => Outcome::Refused(error.to_string()),
        Ok((adapter, variants)) => {
            let kernels = variants.iter().map(|(hash, variant)| format!("kernel {hash:016x} {variant}\n"));
            let printed = format!("tinygpt plan {VERSION}\nadapter {adapter}\n{}", kernels.collect::<String>());
            assert_eq!(parse_plan(&printed, "printed").expect("what was printed is read"), (adapter, variants));
            Outcome::Read
        }
    };
    Target { name: "plan", seeds: vec![seed.into()], memory: TREE, check: Box::new(check) }
}

/// A page's request to the compiler. What compiles is kept small, so that inputs are many: whatever is asked, `resolve` is asked first.
pub fn request() -> Target {
    let config = json!({"preset": "tiny", "model": {"ctx": 4, "layers": 1, "heads": 1, "d_model": 4, "vocab": 256}, "train": {"batch": 1, "lr": 0.001}});
    let requests = [
        json!({"request": "resolve", "config": config}),
        json!({"request": "presets"}),
        json!({"request": "keys"}),
        json!({"request": "graph", "config": config, "stage": "program", "entry": "evaluate", "fusion": false}),
        json!({"request": "graph", "config": {"graph": forward(&small(), 2).unwrap().to_string()}, "stage": "graph"}),
        json!({"request": "init", "config": config, "seed": 3}),
        json!({"request": "wgsl", "config": config, "entry": "logits", "caps": {}}),
        json!({"request": "wat", "config": config, "entry": "decode", "variant": {"relaxed": true}}),
        json!({"request": "compile", "config": config, "variants": [{"relaxed": false, "threads": true}], "entries": ["train"]}),
    ];
    let seeds = bytes(requests.map(|request| request.to_string()));
    Target { name: "request", seeds, memory: None, check: Box::new(ask) }
}

fn ask(input: &[u8]) -> Outcome {
    let config = serde_json::from_slice::<Value>(input).ok().and_then(|request| request.get("config").cloned());
    if let Some(config) = config {
        let resolve = json!({"request": "resolve", "config": config}).to_string();
        if let Ok(answer) = tinygpt_web::read(&tinygpt_web::answer(resolve.as_bytes())) {
            let number = |key: &str| answer.result[key].as_f64().unwrap_or(f64::MAX);
            let layers = answer.result["config"]["model"]["layers"].as_u64().unwrap_or(1);
            if number("params") > 1e5 || number("flop_per_step") > 1e8 || layers > 3 {
                return Outcome::Read;
            }
        }
    }
    let answer = tinygpt_web::answer(input);
    assert!(answer == tinygpt_web::answer(input), "equal requests have different answers");
    match tinygpt_web::read(&answer) {
        Ok(_) => Outcome::Read,
        Err(error) => Outcome::Refused(error.to_string()),
    }
}
