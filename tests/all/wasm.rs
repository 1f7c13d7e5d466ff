//! WebAssembly: programs run by Node, and exports run by the JavaScript runner in Node and in Chromium.
//!
//! Tests say `skipped` where there is no Node (or no Chromium), unless TINYGPT_REQUIRE_NODE=1 (or TINYGPT_REQUIRE_CHROMIUM=1) is set.

use crate::parity;
use crate::support::{Cli, Run};
use crate::training::{overfit, tensors};
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use tinygpt::codegen_cpu::wasm;
use tinygpt::runtime::checkpoint::{Checkpoint, Model};
use tinygpt::runtime::compile::ExecOptions;
use tinygpt::runtime::config::{Backend, RunConfig};
use tinygpt::runtime::wasm::bundle;

pub fn web() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("web")
}

/// Whether `what` is there; where `variable` is 1 it must be.
pub fn have(what: &str, there: bool, variable: &str) -> bool {
    let required = std::env::var_os(variable).is_some_and(|value| value == "1");
    assert!(there || !required, "{variable}=1, and there is no {what}");
    if !there {
        println!("skipped: there is no {what}");
    }
    there
}

pub fn have_node() -> bool {
    have("Node", Command::new("node").arg("--version").output().is_ok(), "TINYGPT_REQUIRE_NODE")
}

pub fn have_chromium() -> bool {
    let browser = std::env::var_os("CHROMIUM").map_or("/usr/bin/chromium".into(), PathBuf::from);
    let there = browser.exists() && web().join("node_modules/playwright-core").is_dir() && have_node();
    have("Chromium with playwright-core (`npm ci` in web/)", there, "TINYGPT_REQUIRE_CHROMIUM")
}

pub fn options(threads: usize) -> ExecOptions {
    ExecOptions { backend: Backend::Wasm, threads, isa: None, no_templates: false, gpu: None }
}

/// Runs a script of web/ with `input`; its standard output as JSON.
pub fn script(arguments: &[&str], input: &Value) -> Value {
    let mut child = Command::new("node")
        .args(arguments)
        .current_dir(web())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.to_string().as_bytes()).unwrap();
    let run = Run::of(child.wait_with_output().unwrap());
    assert_eq!(run.status, 0, "node {arguments:?}: {}", run.stderr);
    serde_json::from_str(&run.stdout).unwrap_or_else(|e| panic!("{e}: {}", run.stdout))
}

/// Obeys `commands` on the export in `folder`: see web/test/drive.js. Fused multiply-add is left out, so that every engine computes the same.
fn drive(folder: &Path, threads: usize, text: &str, commands: Value) -> Value {
    let options = json!({ "threads": threads, "relaxed": false });
    let answer = script(
        &["test/node.mjs"],
        &json!({ "location": folder, "options": options, "text": text, "commands": commands }),
    );
    assert_eq!(answer["error"], Value::Null, "{answer}");
    assert_eq!(answer["threads"], threads);
    answer["results"].clone()
}

const TEXT: &str = "Once there was a fox who liked to read. ";

/// A configuration whose kernels have several tasks, as `small.toml`, and a text, as `text.txt`.
fn small() -> Cli {
    let cli = Cli::new();
    cli.small_config("batch = 4\neval_every = 20");
    let text = std::fs::read_to_string(cli.path("small.toml")).unwrap();
    let text = text.replace("batch = 2\n", "").replace("ctx = 8", "ctx = 32").replace("d_model = 8", "d_model = 64");
    cli.file("small.toml", text);
    cli.file("text.txt", TEXT.repeat(60));
    cli
}

#[test]
fn node_reproduces_pytorch() {
    if have_node() {
        [1, 2].map(options).iter().for_each(parity::check);
    }
}

#[test]
fn node_overfits_one_batch() {
    if have_node() {
        [1, 2].map(options).iter().for_each(overfit);
    }
}

#[test]
fn threads_change_no_bit() {
    if !have_node() {
        return;
    }
    let cli = small();
    let run = |threads: usize| {
        cli.ok(&format!(
            "train --config small.toml --data text.txt --backend wasm --threads {threads} --out t{threads}"
        ));
        tensors(&cli, &format!("t{threads}"))
    };
    let one = run(1);
    for threads in [2, 3] {
        assert!(run(threads) == one, "{threads} threads differ from one");
    }
    // What was stopped goes on to the same end.
    cli.ok("train --config small.toml --data text.txt --backend wasm --threads 2 --stop-at 20 --out parts");
    cli.ok("train --resume parts");
    assert!(tensors(&cli, "parts") == one, "resuming changed a run");
}

/// The loss of each step of a run.
fn losses(cli: &Cli, run: &str) -> Vec<f64> {
    let text = std::fs::read_to_string(cli.path(run).join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["loss"].as_f64().unwrap()).collect()
}

/// The first parts of `[loss, gradNorm]`.
fn first_of(pairs: &Value) -> Vec<f64> {
    pairs.as_array().unwrap().iter().map(|pair| pair[0].as_f64().unwrap()).collect()
}

fn decode(base64: &Value) -> Vec<u8> {
    let digit =
        |byte: u8| b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".iter().position(|b| *b == byte);
    let digits: Vec<u32> = base64.as_str().unwrap().bytes().map_while(|b| digit(b).map(|d| d as u32)).collect();
    let word = |chunk: &[u32]| {
        let bits = chunk.iter().chain(&[0; 4]).take(4).fold(0, |word, digit| word << 6 | digit);
        bits.to_be_bytes()[1..chunk.len()].to_vec()
    };
    digits.chunks(4).flat_map(word).collect()
}

/// Modules of 64-bit addresses compute the same. Memories above 4 GiB would take more than a test may; these are small ones.
#[test]
fn wide_addresses_change_no_bit() {
    if !have_node() {
        return;
    }
    let cli = small();
    cli.ok("export --format web --config small.toml -o ex");
    let text = TEXT.repeat(60);
    let commands =
        json!([["train", 6], ["validate"], ["sample", { "prompt": "Once", "tokens": 50, "temperature": 0 }]]);
    let expected = drive(&cli.path("ex"), 1, &text, commands.clone());
    let file = cli.path("ex/manifest.json");
    let mut manifest: bundle::Manifest = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let programs = bundle::programs(&bundle::Contents::gpt(&manifest.config)).unwrap();
    let entries: Vec<_> =
        programs.iter().map(|(name, compiled)| wasm::Entry { name, program: &compiled.program }).collect();
    for variant in bundle::Variant::ALL.into_iter().filter(|variant| !variant.relaxed) {
        let options = wasm::WasmOptions { threads: variant.threads, memory64: Some(true), ..Default::default() };
        let module = wasm::module(&entries, &options).unwrap();
        std::fs::write(cli.path("ex").join(variant.file()), &module.bytes).unwrap();
        manifest.layout = bundle::layout_of(&module.layout);
    }
    std::fs::write(&file, manifest.to_json().unwrap()).unwrap();
    for threads in [1, 2] {
        let asked = json!({
            "location": cli.path("ex"), "options": { "threads": threads, "relaxed": false }, "text": text, "commands": commands,
        });
        let answer = script(&["--experimental-wasm-memory64", "test/node.mjs"], &asked);
        assert_eq!(answer["results"], expected, "{threads} thread(s): {answer}");
    }
}

/// The runner trains as `tinygpt train --backend wasm` does, to the last bit; its state is a checkpoint, which both sides go on from.
#[test]
fn the_runner_is_the_trainer() {
    if !have_node() {
        return;
    }
    let cli = small();
    let relaxed = tinygpt::runtime::wasm::node::Node::start().unwrap().features().relaxed;
    let text = TEXT.repeat(60);
    cli.ok("train --config small.toml --data text.txt --backend wasm --threads 1 --out native");
    cli.ok("export --format web --config small.toml -o fresh");
    let commands = json!([["train", 40], ["validate"], ["evaluate", text], ["export"]]);
    let all = [1, 2, 3].map(|threads| drive(&cli.path("fresh"), threads, &text, commands.clone()));
    assert!(all[1][0] == all[0][0] && all[2][0] == all[0][0], "threads change the losses");
    let files = all[0][3].as_object().unwrap();
    for other in &all[1..] {
        assert!(other[3]["model"] == files["model"] && other[3]["optim"] == files["optim"], "threads change the state");
    }
    let found = first_of(&all[0][0]);
    let native = losses(&cli, "native");
    let metrics = std::fs::read_to_string(cli.path("native/metrics.jsonl")).unwrap();
    let last: Value = serde_json::from_str(metrics.lines().last().unwrap()).unwrap();
    if relaxed {
        // This Node has relaxed SIMD, which the trainer took: equal but for rounding.
        assert!(found.iter().zip(&native).all(|(a, b)| (a - b).abs() < 1e-3 * b), "{found:?} instead of {native:?}");
    } else {
        assert_eq!(found, native);
        assert_eq!(all[0][1], last["val_loss"]);
    }

    // The files are a checkpoint, the same bytes that native code writes.
    let place = cli.path("from_runner");
    std::fs::create_dir(&place).unwrap();
    for (file, name) in [("model", "model.safetensors"), ("optim", "optim.safetensors"), ("state", "state.json")] {
        std::fs::write(place.join(name), decode(&files[file])).unwrap();
    }
    let checkpoint = Checkpoint::load(&place).unwrap();
    assert_eq!((checkpoint.step, checkpoint.config.train.seed), (40, 42));
    if !relaxed {
        let bytes = |dir: &Path, name: &str| std::fs::read(dir.join(name)).unwrap();
        for name in ["model.safetensors", "optim.safetensors"] {
            assert!(bytes(&place, name) == bytes(&cli.path("native/step-00000040"), name), "{name} differs");
        }
    }
    let line = "eval --checkpoint from_runner --data text.txt --json --backend";
    for backend in ["cpu", "wasm"] {
        let eval: Value = serde_json::from_str(&cli.ok(&format!("{line} {backend}")).stdout).unwrap();
        let (expected, found) = (eval["val_loss"].as_f64().unwrap(), all[0][2]["loss"].as_f64().unwrap());
        assert!((expected - found).abs() < 1e-4 * expected, "{found} in the runner, {expected} on {backend}");
        assert_eq!(all[0][2]["bytes"], eval["bytes"]);
    }

    // An export of a checkpoint goes on where it stopped; so does a state that is taken in again.
    let halves = drive(&cli.path("fresh"), 2, &text, json!([["train", 25], ["export"]]));
    let again =
        drive(&cli.path("fresh"), 1, &text, json!([["train", 3], ["import", halves[1]], ["train", 15], ["export"]]));
    assert_eq!(again[1], 25);
    assert_eq!(first_of(&again[2]), found[25..]);
    assert!(again[3]["model"] == files["model"] && again[3]["optim"] == files["optim"]);
    let half = cli.path("half");
    std::fs::create_dir(&half).unwrap();
    for (file, name) in [("model", "model.safetensors"), ("optim", "optim.safetensors"), ("state", "state.json")] {
        std::fs::write(half.join(name), decode(&halves[1][file])).unwrap();
    }
    cli.ok("export --format web --checkpoint half -o middle");
    let rest = drive(&cli.path("middle"), 2, &text, json!([["train", 15], ["export"]]));
    assert_eq!(first_of(&rest[0]), found[25..]);
    assert!(rest[1]["model"] == files["model"] && rest[1]["optim"] == files["optim"]);
}

/// Greedy text equals that of native code, within the context and beyond it; draws are a function of the seed.
#[test]
fn the_runner_samples_as_native_code_does() {
    if !have_node() {
        return;
    }
    let cli = small();
    cli.ok("train --config small.toml --data text.txt --threads 1 --steps 200 --out run");
    cli.ok("export --format web --checkpoint run -o ex");
    let greedy = |prompt: &str| json!(["sample", { "prompt": prompt, "tokens": 80, "temperature": 0 }]);
    let drawn = json!(["sample", { "prompt": "Once", "tokens": 80, "temperature": 3, "topK": 5, "seed": 7 }]);
    let long = &TEXT.repeat(2)[..50];
    let commands = json!([greedy("Once"), greedy(""), greedy(long), drawn, drawn, greedy("Once")]);
    let found = drive(&cli.path("ex"), 2, &TEXT.repeat(60), commands);
    let native = |prompt: &str, flags: &str| {
        let mut command = cli.command(&format!("sample --checkpoint run --tokens 80 --threads 1 {flags}"));
        let run = Run::of(command.args(["--prompt", prompt]).output().unwrap());
        assert_eq!(run.status, 0, "{}", run.stderr);
        run.stdout[prompt.len()..run.stdout.len() - 1].to_owned()
    };
    for (at, prompt) in [(0, "Once"), (1, ""), (2, long)] {
        assert_eq!(found[at], native(prompt, "--temperature 0"), "prompt {prompt:?}");
        assert_eq!(native(prompt, "--temperature 0 --backend wasm"), found[at].as_str().unwrap());
    }
    assert!(found[3] == found[4] && found[3] != found[0] && found[5] == found[0], "{found}");
    assert_eq!(found[3], native("Once", "--temperature 3 --top-k 5 --seed 7 --backend wasm"));
}

/// Chromium trains as Node does: cross-origin isolated with threads; not isolated on one thread, with the sentence; and not on a window.
#[test]
fn chromium_trains_an_export() {
    if !have_chromium() {
        return;
    }
    let cli = small();
    cli.ok("export --format web --config small.toml -o ex");
    let text = TEXT.repeat(60);
    let commands = json!([["train", 12], ["sample", { "prompt": "Once", "tokens": 60, "temperature": 0 }]]);
    let expected = drive(&cli.path("ex"), 1, &text, commands.clone());
    let ask = |isolated: bool, window: bool, threads: Value| {
        let options = if threads.is_null() {
            json!({ "relaxed": false })
        } else {
            json!({ "relaxed": false, "threads": threads })
        };
        json!({ "isolated": isolated, "window": window, "options": options, "text": text, "commands": commands })
    };
    let asked = json!([
        ask(true, false, json!(2)),
        ask(false, false, Value::Null),
        ask(false, false, json!(2)),
        ask(true, true, json!(2)),
        ask(true, true, json!(1)),
    ]);
    let answers = script(&["test/browser.mjs", cli.path("ex").to_str().unwrap()], &asked);
    let isolation = "this page is not cross-origin isolated";
    assert_eq!((&answers[0]["isolated"], &answers[0]["threads"]), (&json!(true), &json!(2)), "{answers}");
    assert_eq!((&answers[1]["isolated"], &answers[1]["threads"]), (&json!(false), &json!(1)), "{answers}");
    assert!(answers[1]["notices"][0].as_str().unwrap().starts_with(isolation));
    assert_eq!(answers[4]["threads"], 1);
    for at in [0, 1, 4] {
        assert_eq!(answers[at]["results"], expected, "answer {at}");
    }
    assert!(answers[2]["error"].as_str().unwrap().starts_with(isolation));
    assert!(answers[3]["error"].as_str().unwrap().contains("create the runner inside a Worker"), "{answers}");
}

/// A command that must fail with Node replaced by a shell script, or by nothing.
#[cfg(unix)]
#[test]
fn each_failure_of_node_is_one_sentence() {
    use std::os::unix::fs::PermissionsExt;
    let cli = Cli::new();
    cli.small_config("");
    let fake = |name: &str, script: &str| {
        cli.file(name, format!("#!/bin/sh\n{script}\n"));
        std::fs::set_permissions(cli.path(name), std::fs::Permissions::from_mode(0o755)).unwrap();
        cli.path(name)
    };
    // A frame: its length, little-endian, then JSON.
    let hello = |version: &str| {
        let text = format!(
            "{{\"version\":\"{version}\",\"features\":{{\"simd\":true,\"relaxed\":false,\"threads\":false,\"memory64\":false,\"isolated\":true}}}}"
        );
        format!("printf '\\{:03o}\\000\\000\\000%s' '{text}'", text.len())
    };
    let cases = [
        (cli.path("nothing"), "--threads 1", 2, "cannot start Node ("),
        (fake("old", &hello("12.22.0")), "--threads 1", 2, "found Node 12.22.0 ("),
        (fake("narrow", &hello("20.0.0")), "--threads 2", 2, "Node 20.0.0 lacks WebAssembly threads: give --threads 1"),
        (fake("dies", "echo 'out of luck' >&2; exit 3"), "--threads 1", 1, "has ended (exit status: 3): out of luck"),
        (fake("babbles", "echo 'hello there, this is no Node'"), "--threads 1", 1, "were not understood"),
        (fake("dies_later", &hello("20.0.0")), "--threads 1", 1, "Node, in which the backend wasm runs, has ended"),
    ];
    for (node, flags, status, part) in cases {
        let line = format!("train --config small.toml --backend wasm {flags} --out run");
        let run = Run::of(cli.command(&line).env("TINYGPT_NODE", &node).output().unwrap());
        let last = run.stderr.lines().last().unwrap_or_default();
        assert_eq!(run.status, status, "{}: {}", node.display(), run.stderr);
        assert!(last.starts_with("tinygpt: ") && last.contains(part), "{}: {last:?}, not {part:?}", node.display());
        assert!(!run.stderr.contains("panicked"), "{}", run.stderr);
        assert!(!cli.path("run").exists());
    }
}

/// Node that is killed in the middle of a run.
#[cfg(target_os = "linux")]
#[test]
fn a_node_that_is_killed_ends_the_run_with_a_sentence() {
    if !have_node() {
        return;
    }
    let cli = Cli::new();
    cli.small_config("eval_every = 0\nsave_every = 0\nsample_bytes = 0");
    let text = std::fs::read_to_string(cli.path("small.toml")).unwrap();
    cli.file("small.toml", text.replace("sample_bytes = 12\n", "").replace("steps = 40", "steps = 10000000"));
    let child = cli
        .command("train --config small.toml --backend wasm --threads 1 --out run")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let children = format!("/proc/{0}/task/{0}/children", child.id());
    let node = loop {
        let found = std::fs::read_to_string(&children).unwrap_or_default();
        let steps = std::fs::read_to_string(cli.path("run/metrics.jsonl")).unwrap_or_default();
        match found.split_whitespace().next() {
            Some(node) if steps.contains('\n') => break node.to_owned(),
            _ => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    let killed = Command::new("sh").args(["-c", &format!("kill -KILL {node}")]).status().unwrap();
    assert!(killed.success());
    let run = Run::of(child.wait_with_output().unwrap());
    let last = run.stderr.lines().last().unwrap_or_default();
    assert_eq!(run.status, 1, "{}", run.stderr);
    assert!(last.starts_with("tinygpt: Node, in which the backend wasm runs, has ended (signal: 9"), "{last}");
}

#[test]
fn an_export_is_whole_the_same_every_time_and_replaces_nothing_else() {
    let cli = Cli::new();
    cli.small_config("");
    let read = |dir: &str| {
        let mut files: Vec<(PathBuf, Vec<u8>)> = Vec::new();
        for folder in [cli.path(dir), cli.path(dir).join("runner")] {
            for entry in std::fs::read_dir(&folder).unwrap().map(Result::unwrap).filter(|e| e.path().is_file()) {
                files.push((
                    entry.path().strip_prefix(cli.path(dir)).unwrap().to_owned(),
                    std::fs::read(entry.path()).unwrap(),
                ));
            }
        }
        files.sort();
        files
    };
    let first = cli.ok("export --format web --config small.toml -o a");
    assert!(first.stdout == "a\n" && first.stderr.contains("plain.wasm"), "{}{}", first.stdout, first.stderr);
    cli.ok("export --format web --config small.toml -o b");
    assert!(read("a") == read("b"), "two exports differ");
    // A later export replaces an earlier one, and leaves nothing beside it.
    cli.ok("export --format web --config small.toml --seed 7 -o a");
    assert!(read("a") != read("b"));
    let mut beside: Vec<_> = std::fs::read_dir(cli.dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    beside.sort();
    assert_eq!(beside, ["a", "b", "small.toml"]);
    cli.refused("export --format web -o small.toml", 2, "small.toml exists and is no export of tinygpt");
    std::fs::create_dir(cli.path("mine")).unwrap();
    cli.file("mine/notes.txt", "precious");
    cli.refused("export --format web --config small.toml -o mine", 2, "mine exists and is no export of tinygpt");
    assert_eq!(std::fs::read_to_string(cli.path("mine/notes.txt")).unwrap(), "precious");
    cli.refused("export --format web --preset lage -o c", 2, "did you mean \"large\"?");
    cli.refused("export --format web --checkpoint none -o c", 2, "none does not exist");
    cli.ok("dump --preset tiny --stage graph --no-lines -o text");
    cli.file("graph.toml", "graph = \"text/graph.gir\"\n");
    cli.refused(
        "export --format web --config graph.toml -o c",
        2,
        "graph.gir, and an export holds a GPT: name a preset",
    );
    cli.refused("export --format web --config small.toml --seed 9007199254740993 -o c", 2, "choose a smaller --seed");
    assert!(!cli.path("c").exists());

    // The folder is a checkpoint too, and a model file alone can be exported.
    let model = Model::load(&cli.path("b")).unwrap();
    assert_eq!((model.config.d_model, model.config.ctx), (8, 8));
    let alone = cli.ok("export --format web --checkpoint b/model.safetensors -o alone");
    assert!(alone.stderr.contains("the checkpoint holds weights alone"), "{}", alone.stderr);
    assert_eq!(Model::load(&cli.path("alone")).unwrap(), model);
}

#[test]
fn program_json_reads_back() {
    let cli = Cli::new();
    cli.small_config("");
    cli.ok("export --format web --config small.toml -o ex");
    let text = std::fs::read_to_string(cli.path("ex/program.json")).unwrap();
    let json: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&json["format"], &json["version"]), (&json!("tinygpt-program"), &json!(1)));
    let mut config = RunConfig::preset("tiny").unwrap();
    config.model = Model::load(&cli.path("ex")).unwrap().config;
    (config.train.batch, config.train.warmup) = (2, 4);
    let compiled = bundle::programs(&bundle::Contents::gpt(&config)).unwrap();
    assert_eq!(compiled.len(), 4);
    for (name, compiled) in compiled {
        let mut expected = (*compiled.program).clone();
        expected.kernels.values_mut().for_each(|kernel| kernel.provenance.locs.clear());
        let found: tinygpt::ir::program::Program = serde_json::from_value(json["programs"][&name].clone()).unwrap();
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn webassembly_is_a_stage() {
    let cli = Cli::new();
    let text = cli.ok("dump --preset tiny --stage wat").stdout;
    assert!(text.contains("(func $") && text.contains("v128.load") && text.contains(";; kernel "), "{}", &text[..500]);
    assert_eq!(cli.ok("dump --preset tiny --stage wat").stdout, text);
    cli.ok("dump --preset tiny --stage wasm -o code");
    let module = std::fs::read(cli.path("code/program.wasm")).unwrap();
    assert_eq!(module[..8], *b"\0asm\x01\0\0\0");
    cli.refused("dump --preset tiny --stage wasm", 2, "--stage wasm is binary: name a directory for it with -o");
}
