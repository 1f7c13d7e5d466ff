//! Model files through the binary: export, import, `train --init`, files of other programs, hostile files, and real PyTorch.
//!
//! PyTorch is used where `TINYGPT_PYTHON` (else `python3`) can import torch and safetensors, and for GPT-2's layout transformers; where it cannot,
//! these tests say `skipped`, unless TINYGPT_REQUIRE_TORCH=1 is set.

use crate::support::{Cli, cpus, fixture};
use std::path::{Path, PathBuf};
use std::process::Command;
use tinygpt::runtime::checkpoint::{self, Checkpoint};
use tinygpt::runtime::config::{ModelConfig, RunConfig};
use tinygpt::runtime::formats::{self, Format, LossPoint};
use tinygpt::runtime::model::Logits;
use tinygpt::runtime::tensor::HostTensor;
use tinygpt::runtime::tensor_file::{self, TensorFile};

const TEXT: &str = "the cat sat on the mat and the rat sat on the cat; ";

/// A run of 40 steps in `run`, and its text in `text.txt`.
fn trained() -> Cli {
    let cli = Cli::new();
    cli.small_config("eval_every = 20");
    cli.file("text.txt", TEXT.repeat(40));
    cli.ok("train --config small.toml --data text.txt --threads 1 --out run");
    cli
}

/// The loss of `eval` with these flags.
fn loss(cli: &Cli, flags: &str) -> f64 {
    let line = cli.ok(&format!("eval {flags} --data text.txt --json --threads 1")).stdout;
    serde_json::from_str::<serde_json::Value>(&line).unwrap()["val_loss"].as_f64().unwrap()
}

#[test]
fn exports_are_models_again() {
    let cli = trained();
    let expected = loss(&cli, "--checkpoint run");
    for (format, name) in [("safetensors", "model.safetensors"), ("tinygpt", "model.bin")] {
        let done = cli.ok(&format!("export --format {format} --checkpoint run -o {name}"));
        assert_eq!(done.stdout, format!("{name}\n"));
        assert!(done.stderr.contains(&format!("{format}: ")) && done.stderr.contains("step 40"), "{}", done.stderr);
        assert_eq!(loss(&cli, &format!("--checkpoint {name}")), expected, "{format}");
        let before = std::fs::read(cli.path(name)).unwrap();
        cli.refused(&format!("export --format {format} --checkpoint run -o {name}"), 2, "exists: choose another -o");
        assert_eq!(std::fs::read(cli.path(name)).unwrap(), before);
    }
    // The first is the checkpoint's own model file; the second has all there is, and the losses of the run.
    let place = cli.path("run/step-00000040");
    let [weights, own] =
        ["model.safetensors", "run/step-00000040/model.safetensors"].map(|p| std::fs::read(cli.path(p)));
    assert_eq!(weights.unwrap(), own.unwrap());
    let checkpoint = Checkpoint::load(&place).unwrap();
    let bytes = std::fs::read(cli.path("model.bin")).unwrap();
    let read = formats::decode("model.bin", bytes.clone(), None).unwrap();
    assert_eq!((read.step, &read.weights), (40, &checkpoint.weights));
    assert_eq!(read.moments.as_ref().unwrap(), &[checkpoint.m.clone(), checkpoint.v.clone()]);
    assert_eq!((read.history.len(), read.history[39].val), (40, checkpoint.val_loss));
    assert!(read.history[19].val.is_some() && read.history[18].val.is_none());
    assert_eq!((read.config.train.batch, read.config.train.steps), (2, 40));
    assert!(read.saved_at.unwrap().ends_with('Z'));
    // Equal content, equal bytes.
    cli.ok("export --format tinygpt --checkpoint run/step-00000040 -o again.tinygpt");
    assert_eq!(std::fs::read(cli.path("again.tinygpt")).unwrap(), bytes);
    // Starting weights can be exported too, and what is no GPT cannot.
    cli.ok("export --format hf-gpt2 --config small.toml --seed 3 -o gpt2");
    let mut names: Vec<_> = std::fs::read_dir(cli.path("gpt2")).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["config.json", "model.safetensors"]);
    cli.refused(
        "sample --checkpoint gpt2",
        2,
        "has GPT-2's names (wte.weight), which tinygpt writes and does not read",
    );
    cli.refused("export --format hf-gpt2 --checkpoint run -o none/there", 1, "cannot write none/");
    cli.refused(
        "export --format tinygpt --preset gpt2 -o big",
        2,
        "cannot hold a model with vocab 50304, only with 256",
    );
    cli.refused("export --format onnx -o x", 2, "--format cannot be \"onnx\"");
}

#[test]
fn sample_reads_every_kind_of_file() {
    let cli = trained();
    cli.ok("export --format tinygpt --checkpoint run -o m.tinygpt");
    let line = "--prompt the --tokens 12 --threads 1";
    let expected = cli.ok(&format!("sample --checkpoint run {line}")).stdout;
    assert_eq!(cli.ok(&format!("sample --checkpoint m.tinygpt {line}")).stdout, expected);
    // PyTorch's own files have no metadata of ours: sizes are read from shapes, heads cannot be.
    let (_, weights) = checkpoint::load_model(&cli.path("run"), None).unwrap();
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    tensor_file::write(&cli.path("plain.safetensors"), weights.iter().map(|(n, t)| (n.clone(), t)), &metadata).unwrap();
    cli.refused(&format!("sample --checkpoint plain.safetensors {line}"), 2, "give --heads N");
    assert_eq!(cli.ok(&format!("sample --checkpoint plain.safetensors --heads 2 {line}")).stdout, expected);
    cli.refused(&format!("sample --checkpoint run --heads 4 {line}"), 2, "states heads 2, and --heads says 4");
    cli.refused(
        &format!("sample --checkpoint plain.safetensors --heads 3 {line}"),
        2,
        "d_model must be a multiple of heads",
    );
    cli.refused(
        &format!("sample --checkpoint run --heads 0 {line}"),
        2,
        "--heads must be a whole number from 1 to 4096",
    );
    cli.refused("export --format tinygpt --checkpoint run --heads 4 -o x", 2, "states heads 2, and --heads says 4");
    cli.ok("export --format safetensors --checkpoint plain.safetensors --heads 2 -o named.safetensors");
    assert_eq!(cli.ok(&format!("sample --checkpoint named.safetensors {line}")).stdout, expected);
    cli.ok("export --format web --checkpoint m.tinygpt -o web");
    assert_eq!(Checkpoint::load(&cli.path("web")).unwrap().step, 40);
}

#[test]
fn a_run_starts_from_weights() {
    let cli = trained();
    cli.ok("export --format tinygpt --checkpoint run -o m.tinygpt");
    let before = loss(&cli, "--checkpoint run");
    assert!(before < 4.5, "it has learnt nothing: {before}");
    // A rate so low that the weights stay what they are, as f32 sees them.
    let still = "--data text.txt --threads 1 --steps 1 --lr 1e-30 --warmup 0 --sample-bytes 0";
    for (init, out) in [("run", "a"), ("m.tinygpt", "b"), ("run/step-00000040/model.safetensors", "c")] {
        cli.ok(&format!("train --init {init} --config small.toml {still} --out {out}"));
        assert_eq!(loss(&cli, &format!("--checkpoint {out}")), before, "{init}");
        assert_eq!(Checkpoint::load(&cli.path(out)).unwrap().step, 1);
    }
    // Without --preset or --config the model is the checkpoint's, and the optimizer is fresh.
    cli.ok(&format!("train --init run {still} --batch 2 --out d"));
    let [run, new] = ["run", "d"].map(|dir| Checkpoint::load(&cli.path(dir)).unwrap());
    assert_eq!((&new.config.model, &new.weights), (&run.config.model, &run.weights));
    assert_ne!(new.m, run.m);
    let largest = |c: &Checkpoint| c.v.values().flat_map(|t| t.as_f32().unwrap().to_vec()).fold(0.0, f32::max);
    assert!(largest(&new) > 0.0 && largest(&new) < largest(&run));
    cli.refused(
        &format!("train --init run --preset tiny {still} --out e"),
        2,
        "run is another model: ctx is 8, expected 32; layers is 1, expected 2; heads is 2, expected 3; d_model is 8, expected 48; \
         d_mlp is 32, expected 192",
    );
    assert!(!cli.path("e").exists());
    cli.refused("train --init none", 2, "none does not exist: give a run directory");
    cli.refused("train --init run --resume run", 2, "--init");
    cli.refused("train --heads 2", 2, "--init");
}

/// What tests/fixtures/make_tinygpt.py wrote, from the format's description alone.
#[test]
fn files_of_an_independent_writer_are_read_and_written_to_the_byte() {
    let path = |name: &str| fixture(name).with_extension("tinygpt");
    let bytes = std::fs::read(path("small")).unwrap();
    let saved = formats::decode("small", bytes.clone(), None).unwrap();
    let expected =
        ModelConfig { ctx: 2, layers: 2, heads: 2, d_model: 4, d_mlp: 8, ..RunConfig::preset("tiny").unwrap().model };
    assert_eq!(saved.config.model, expected);
    let train = &saved.config.train;
    assert_eq!((train.batch, train.steps, train.eval_every, train.seed), (8, 200, 20, 1337));
    assert_eq!((train.lr, train.grad_clip, saved.step), (0.001, 1.0, 60));
    let points = [
        LossPoint { step: 1, train: Some(5.5), val: None },
        LossPoint { step: 60, train: Some(2.5), val: Some(2.625) },
    ];
    assert_eq!(saved.history, points);
    // The values are functions of the place: tensor k, element e = row * columns + column as [out, in].
    let [m, v] = saved.moments.as_ref().unwrap();
    let half = formats::decode("half", std::fs::read(path("half")).unwrap(), None).unwrap();
    assert_eq!((&half.moments, &half.config.model), (&None, &expected));
    for (k, (name, shape)) in formats::names::gpt_weights(&expected).enumerate() {
        let k = k as f32;
        let check = |tensor: &HostTensor, value: &dyn Fn(f32) -> f32| {
            assert_eq!(tensor.shape(), shape, "{name}");
            for (e, found) in tensor.as_f32().unwrap().iter().enumerate() {
                assert_eq!(*found, value(e as f32), "{name}, element {e}");
            }
        };
        check(&saved.weights[&name], &|e| k + 1.0 + e / 1024.0);
        check(&m[&name], &|e| -(k + 1.0) - e / 2048.0);
        check(&v[&name], &|e| (k + 1.0) / 4.0 + e / 4096.0);
        check(&half.weights[&name], &|e| (e % 32.0 - 16.0) / 16.0 + k / 64.0);
    }
    let [(_, written)] = &formats::encode(Format::Tinygpt, &saved).unwrap()[..] else { panic!("one file") };
    let header = |bytes: &[u8]| String::from_utf8_lossy(&bytes[12..bytes.len() - 16_612]).into_owned();
    assert_eq!(header(written), header(&bytes));
    assert_eq!(*written, bytes);
}

#[test]
fn hostile_files_are_one_sentence_through_the_binary() {
    let cli = trained();
    cli.ok("export --format tinygpt --checkpoint run -o m.tinygpt");
    let whole = std::fs::read(cli.path("m.tinygpt")).unwrap();
    cli.file("cut.tinygpt", &whole[..whole.len() / 2]);
    cli.refused("sample --checkpoint cut.tinygpt", 2, "cut.tinygpt is truncated or damaged");
    let mut newer = whole.clone();
    newer[4] = 9;
    cli.file("newer.tinygpt", &newer);
    cli.refused(
        "sample --checkpoint newer.tinygpt",
        2,
        "of version 9, and this tinygpt reads version 2: use a newer tinygpt",
    );
    for name in ["a.pt", "a.pth", "a.bin"] {
        cli.file(name, b"PK\x03\x04\0\0\0\0\0\0");
        let call = format!("save_file(torch.load(\"{name}\", weights_only=True), \"a.safetensors\")");
        cli.refused(&format!("eval --data text.txt --checkpoint {name}"), 2, &call);
    }
    cli.file("old.pt", b"\x80\x02}q\0.");
    cli.refused("train --init old.pt", 2, "is a pickle, as torch.save writes it");
    let mut huge = u64::MAX.to_le_bytes().to_vec();
    huge.extend(b"{}");
    cli.file("huge.safetensors", huge);
    cli.refused("sample --checkpoint huge.safetensors", 2, "and 100000000 are allowed): use another copy of it");
    let deep = "[".repeat(1 << 20);
    cli.file("deep.safetensors", [&(deep.len() as u64).to_le_bytes()[..], deep.as_bytes()].concat());
    cli.refused("export --format safetensors -o x --checkpoint deep.safetensors", 2, "its header cannot be read");
    // A run whose checkpoint is damaged cannot go on, and says which file it is.
    let run = cli.path("run/step-00000040");
    for (name, part) in [("optim.safetensors", "is truncated"), ("state.json", "is truncated or damaged")] {
        let file = run.join(name);
        let whole = std::fs::read(&file).unwrap();
        std::fs::write(&file, &whole[..whole.len() / 3]).unwrap();
        cli.refused("train --resume run", 2, &format!("run/step-00000040/{name} {part}"));
        std::fs::write(&file, whole).unwrap();
    }
}

/// Python with these modules; None, after saying so, where there is none.
fn python(modules: &str) -> Option<PathBuf> {
    let python = std::env::var_os("TINYGPT_PYTHON").map_or_else(|| PathBuf::from("python3"), PathBuf::from);
    let found = Command::new(&python).args(["-c", &format!("import {modules}")]).output();
    if found.as_ref().is_ok_and(|run| run.status.success()) {
        return Some(python);
    }
    let required = std::env::var_os("TINYGPT_REQUIRE_TORCH").is_some_and(|value| value == "1");
    assert!(!required, "TINYGPT_REQUIRE_TORCH: {} cannot import {modules}: {found:?}", python.display());
    println!("skipped: {} cannot import {modules} (TINYGPT_PYTHON names another interpreter)", python.display());
    None
}

/// Runs tests/all/formats_torch.py in the test's folder, with the heads of its model.
fn torch(python: &Path, cli: &Cli, heads: usize, args: &str) -> serde_json::Value {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let run = Command::new(python)
        .arg(root.join("tests/all/formats_torch.py"))
        .args(args.split(' '))
        .current_dir(cli.dir.path())
        .env("TINYGPT_PEERS", root.join("benches/peers"))
        .env("HEADS", heads.to_string())
        .output()
        .unwrap();
    assert!(run.status.success(), "{args}: {}", String::from_utf8_lossy(&run.stderr));
    let text = String::from_utf8(run.stdout).unwrap();
    serde_json::from_str(text.lines().last().unwrap_or("null")).unwrap()
}

/// The logits of one row of bytes by the portable CPU backend, and the row as ids.json.
fn our_logits(cli: &Cli, path: &str) -> Vec<f32> {
    let (model, weights) = checkpoint::load_model(&cli.path(path), None).unwrap();
    let ids: Vec<i32> = TEXT.bytes().take(model.ctx()).map(i32::from).collect();
    cli.file("ids.json", serde_json::to_string(&ids).unwrap());
    let mut logits = Logits::new(&model, 1, &cpus()[0]).unwrap();
    logits.load(&weights, path).unwrap();
    logits.run(&HostTensor::i32(&[1, model.ctx()], ids).unwrap()).unwrap().as_f32().unwrap().to_vec()
}

/// Both were computed in f32 in different orders: the tolerance is that of the parity fixtures.
fn assert_close(found: &serde_json::Value, expected: &[f32]) {
    let found: Vec<f64> = serde_json::from_value(found.clone()).unwrap();
    assert_eq!(found.len(), expected.len());
    let scale = expected.iter().fold(0.0, |max: f64, x| max.max(f64::from(x.abs())));
    let error = found.iter().zip(expected).fold(0.0, |max: f64, (f, e)| max.max((f - f64::from(*e)).abs()));
    assert!(scale > 1.0 && error <= 1e-5 * scale, "logits differ by {error} of {scale}");
}

#[test]
fn pytorch_opens_an_export_and_computes_the_same_logits() {
    let Some(python) = python("torch, safetensors.torch") else { return };
    let cli = trained();
    cli.ok("export --format safetensors --checkpoint run -o m.safetensors");
    let expected = our_logits(&cli, "run");
    assert_close(&torch(&python, &cli, 2, "logits m.safetensors ids.json"), &expected);
}

#[test]
fn pytorch_s_files_have_pytorch_s_loss() {
    let Some(python) = python("torch, safetensors.torch") else { return };
    let cli = Cli::new();
    cli.file("text.txt", TEXT.repeat(10));
    let theirs = torch(&python, &cli, 2, "train theirs.safetensors");
    let found = loss(&cli, "--checkpoint theirs.safetensors --heads 2");
    let expected = theirs["loss"].as_f64().unwrap();
    assert!((1.0..4.0).contains(&expected) && (found - expected).abs() <= 1e-5 * expected, "{found} and {expected}");
    cli.refused("eval --checkpoint theirs.safetensors --data text.txt", 2, "give --heads N");
    // The conversion that the refusal of a pickle gives works as it stands.
    torch(&python, &cli, 2, "pickle theirs.pt");
    std::fs::remove_file(cli.path("theirs.safetensors")).unwrap();
    let refusal = cli.run("eval --checkpoint theirs.pt --data text.txt");
    let (_, snippet) = refusal.stderr.trim_end().split_once("convert it in Python: ").unwrap();
    let converted = Command::new(&python).args(["-c", snippet]).current_dir(cli.dir.path()).output().unwrap();
    assert!(converted.status.success(), "{snippet}: {}", String::from_utf8_lossy(&converted.stderr));
    assert_eq!(loss(&cli, "--checkpoint theirs.safetensors --heads 2"), found);
}

#[test]
fn transformers_loads_gpt_2_s_layout() {
    let Some(python) = python("torch, safetensors.torch, transformers") else { return };
    let cli = trained();
    cli.ok("export --format hf-gpt2 --checkpoint run -o gpt2");
    let expected = our_logits(&cli, "run");
    assert_close(&torch(&python, &cli, 2, "gpt2 gpt2 ids.json"), &expected);
    let file = TensorFile::read(&cli.path("gpt2/model.safetensors")).unwrap();
    assert_eq!(file.names().len(), 4 + 12);
}
