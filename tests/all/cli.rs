//! The command line's contract: results on standard output, one sentence a failure on standard error, exit statuses 0, 1, 2 and 130.

use crate::support::{Cli, Run, cpus, fixture};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use tinygpt::passes::optimizer::AdamWConfig;
use tinygpt::runtime::config::{Gelu, ModelConfig};
use tinygpt::runtime::model::{Batch, TrainStep};
use tinygpt::runtime::tensor::HostTensor;
use tinygpt::runtime::tensor_file::TensorFile;

/// A directory with a trained model: `run`, and the text it learned from: `text.txt`.
fn trained() -> Cli {
    let cli = Cli::new();
    cli.small_config("");
    cli.file("text.txt", "Once there was a fox who liked to read. ".repeat(60));
    cli.ok("train --config small.toml --data text.txt --threads 1 --out run");
    cli
}

#[test]
fn usage_is_refused_with_status_2() {
    let cli = Cli::new();
    for line in ["trian", "train --threads 0", "sample", "bench --steps 0", "dump --stage wut"] {
        cli.refused(line, 2, "");
    }
    let nothing = cli.run("");
    assert!(nothing.status == 2 && nothing.stdout.is_empty() && nothing.stderr.contains("Usage: tinygpt <COMMAND>"));
    assert!(cli.ok("--help").stdout.contains("train"));
    assert!(cli.ok("train --help").stdout.contains("--resume"));
}

#[test]
fn bad_input_to_train_is_one_sentence() {
    let cli = Cli::new();
    cli.small_config("");
    cli.file("short.txt", "short");
    cli.file("bad.toml", "[train]\nbatchs = 3\n");
    cli.refused("train --preset lage", 2, "there is no preset \"lage\" (did you mean \"large\"?)");
    cli.refused("train --preset gpt2", 2, "which need vocab 256, and vocab is 50304");
    cli.refused("train --config bad.toml", 2, "there is no key \"batchs\" in [train] (did you mean \"batch\"?)");
    cli.refused("train --config none.toml", 2, "cannot read none.toml");
    cli.refused("train --data none.txt", 2, "none.txt");
    cli.refused("train --data short.txt", 2, "has 5 bytes, and ctx 64 needs at least 650");
    cli.refused("train --lr=-1", 2, "lr must be a positive number, and is -1");
    cli.refused("train --steps 0", 2, "steps must be from 1");
    cli.refused("train --steps 40 --stop-at 41", 2, "--stop-at 41 lies beyond the 40 planned steps");
    cli.refused("train --resume nowhere", 2, "nowhere is not a run directory");
    cli.refused("train --resume auto", 2, "there is no run with a checkpoint under runs");
    assert!(!cli.path("runs").exists(), "a refused run leaves nothing behind");
    cli.ok("train --config small.toml --threads 1 --out run");
    cli.refused("train --config small.toml --out run", 2, "run already holds a run");
    cli.refused("train --resume run", 2, "the run is complete: all of its 40 steps are done");
    assert_eq!(cli.run("train --resume run --lr 1").status, 2);
}

#[test]
fn the_configuration_prints_and_is_taken_back() {
    let cli = Cli::new();
    let printed = cli.ok("train --preset medium --seed 9 --print-config").stdout;
    assert!(
        printed.contains("preset = \"medium\"")
            && printed.contains("seed = 9")
            && printed.contains("schedule = \"cosine\"")
    );
    cli.file("c.toml", &printed);
    assert_eq!(cli.ok("train --config c.toml --print-config").stdout, printed);
    assert!(!cli.path("runs").exists());
}

#[test]
fn training_ends_with_a_validation_loss_and_a_sample() {
    let cli = Cli::new();
    cli.small_config("");
    let run = cli.ok("train --config small.toml --threads 1 --time-passes");
    let mut lines = run.stdout.lines();
    let words: Vec<&str> = lines.next().unwrap().split(' ').collect();
    assert_eq!(
        (words[0], words[1], words[2], words[4], words[6]),
        ("step", "40", "val_loss", "elapsed_s", "checkpoint")
    );
    assert!(words[3].parse::<f64>().unwrap() < 5.6, "{}", run.stdout);
    assert!(run.stdout.len() > run.stdout.find('\n').unwrap() + 2, "no sample in {:?}", run.stdout);
    for part in ["simplify", "schedule", "unfused", "bytes moved"] {
        assert!(run.stderr.contains(part), "--time-passes prints no {part:?}: {}", run.stderr);
    }
    assert!(cli.path("runs").is_dir());
    cli.refused("train --resume auto", 2, "the run is complete");
}

#[test]
fn a_loss_that_is_not_finite_is_status_1_and_nothing_bad_is_saved() {
    let cli = Cli::new();
    cli.small_config("save_every = 1\nkeep = 0");
    cli.refused("train --config small.toml --threads 1 --lr 1e30 --warmup 0 --out run", 1, "saved nothing more");
    for entry in std::fs::read_dir(cli.path("run")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            let saved = tinygpt::runtime::checkpoint::Checkpoint::load(&path).unwrap();
            assert!(saved.weights.values().all(|t| t.as_f32().unwrap().iter().all(|x| x.is_finite())));
        }
    }
}

#[test]
fn a_sample_continues_its_prompt_the_same_every_time() {
    let cli = trained();
    let line = "sample --checkpoint run --prompt Once --tokens 20 --threads 1";
    let first = cli.ok(line).stdout;
    assert!(first.starts_with("Once") && first.ends_with('\n'), "{first:?}");
    assert_eq!(cli.ok(line).stdout, first);
    assert_ne!(cli.ok(&format!("{line} --seed 1")).stdout, first);
    let greedy = cli.ok(&format!("{line} --temperature 0")).stdout;
    assert_eq!(cli.ok(&format!("{line} --top-k 1 --seed 5")).stdout, greedy);
    let by_file = line.replace("--checkpoint run", "--checkpoint run/step-00000040/model.safetensors");
    assert_eq!(cli.ok(&by_file).stdout, first);
    assert_eq!(cli.ok("sample --checkpoint run --prompt Once --tokens 0").stdout, "Once\n");
    // An f64 oracle and f32 code agree on the likeliest byte of a model this small.
    assert_eq!(cli.ok(&format!("{line} --temperature 0 --backend interp")).stdout, greedy);
}

#[test]
fn eval_prints_one_line_in_three_units() {
    let cli = trained();
    let number = |text: &str, key: &str| -> f64 {
        let words: Vec<&str> = text.split_whitespace().collect();
        words[words.iter().position(|w| *w == key).unwrap() + 1].parse().unwrap()
    };
    let line = cli.ok("eval --checkpoint run --data text.txt --threads 1").stdout;
    assert_eq!(line.lines().count(), 1);
    let (loss, bits, perplexity) =
        (number(&line, "val_loss"), number(&line, "bits_per_byte"), number(&line, "perplexity"));
    assert!(
        (loss / std::f64::consts::LN_2 - bits).abs() < 1e-3 && (loss.exp() / perplexity - 1.0).abs() < 1e-3,
        "{line}"
    );
    let json: Value =
        serde_json::from_str(&cli.ok("eval --checkpoint run --data text.txt --json --threads 1").stdout).unwrap();
    assert!((json["val_loss"].as_f64().unwrap() - loss).abs() < 1e-4);
    assert_eq!(json["bytes"], 60 * 40 - 1);
    let oracle: Value =
        serde_json::from_str(&cli.ok("eval --checkpoint run --data text.txt --json --backend interp").stdout).unwrap();
    let (found, expected) = (json["val_loss"].as_f64().unwrap(), oracle["val_loss"].as_f64().unwrap());
    assert!((found / expected - 1.0).abs() < 1e-5, "{found} on the CPU, {expected} on the interpreter");
}

#[test]
fn bad_checkpoints_and_texts_are_one_sentence() {
    let cli = trained();
    cli.file("empty.txt", "");
    let model = std::fs::read(cli.path("run/step-00000040/model.safetensors")).unwrap();
    cli.file("cut.safetensors", &model[..model.len() - 5]);
    cli.refused("sample --checkpoint none", 2, "none does not exist: give a run directory");
    cli.refused("sample --checkpoint cut.safetensors", 2, "truncated");
    cli.refused("sample --checkpoint text.txt", 2, "text.txt is truncated or not a safetensors file");
    cli.refused("sample --checkpoint run --temperature=-1", 2, "temperature must be 0");
    cli.refused("sample --checkpoint run --top-k 0", 2, "top-k must be at least 1");
    cli.refused("eval --checkpoint run --data none.txt", 2, "cannot read none.txt");
    cli.refused("eval --checkpoint run --data empty.txt", 2, "the text has 0 bytes");
}

#[test]
fn parity_prints_a_table_and_fails_beyond_tolerance() {
    let cli = Cli::new();
    let path = fixture("parity_a");
    let table = cli.ok(&format!("parity {} --threads 1", path.display())).stdout;
    assert!(table.starts_with("compared") && table.trim_end().ends_with("within tolerance"), "{table}");
    cli.ok(&format!("parity {} --threads 1 -o out", path.display()));
    assert_eq!(std::fs::read_to_string(cli.path("out/parity.txt")).unwrap(), table);

    // The same fixture with another loss on record.
    let mut bytes = std::fs::read(&path).unwrap();
    let key = b"\"loss_f64\": \"";
    let at = bytes.windows(key.len()).position(|w| w == key).unwrap() + key.len();
    bytes[at] = if bytes[at] == b'9' { b'8' } else { bytes[at] + 1 };
    cli.file("other.safetensors", &bytes);
    cli.refused("parity other.safetensors --threads 1", 1, "1 of 132 results are beyond tolerance");
    assert!(cli.run("parity other.safetensors --threads 1").stdout.contains("FAILED"));
    cli.file("cut.safetensors", &bytes[..1000]);
    cli.refused("parity cut.safetensors", 2, "truncated");
    cli.refused("parity none.safetensors", 2, "cannot read none.safetensors");
}

#[test]
fn bench_prints_one_object_a_preset() {
    let cli = Cli::new();
    let text = cli.ok("bench --preset tiny,standard --steps 2 --threads 1 --json").stdout;
    let objects: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(objects.len(), 2);
    let fields = [
        "preset",
        "backend",
        "adapter",
        "software",
        "threads",
        "params",
        "compile_s",
        "first_step_s",
        "losses",
        "ms_per_step",
        "submit_ms",
        "tokens_per_s",
        "gflops",
        "peak_gflops",
        "share_of_peak",
        "peak_rss_mib",
        "planned_bytes",
        "lower_bound_bytes",
    ];
    for (object, (preset, params)) in objects.iter().zip([("tiny", 70_464), ("standard", 366_432)]) {
        let mut names: Vec<&str> = object.as_object().unwrap().keys().map(String::as_str).collect();
        let mut expected = fields.to_vec();
        names.sort();
        expected.sort();
        assert_eq!(names, expected);
        assert_eq!((object["preset"].as_str(), object["params"].as_u64()), (Some(preset), Some(params)));
        assert_eq!((&object["software"], &object["threads"]), (&Value::Bool(false), &Value::from(1)));
        assert_eq!(object["losses"], Value::Array(vec![]));
        assert_eq!(object["submit_ms"], Value::Null, "steps of the CPU do not overlap");
        assert!(object["first_step_s"].as_f64().is_none_or(|s| s >= object["compile_s"].as_f64().unwrap() - 0.02));
        let number = |value: &Value| value.as_f64().unwrap();
        let ms = &object["ms_per_step"];
        assert!(number(&ms["min"]) > 0.0 && number(&ms["min"]) <= number(&ms["median"]));
        assert!(number(&ms["median"]) <= number(&ms["p90"]));
        let (planned, bound) = (number(&object["planned_bytes"]), number(&object["lower_bound_bytes"]));
        assert!(planned >= bound && planned <= 1.05 * bound, "{planned} bytes planned, lower bound {bound}");
        let share = number(&object["gflops"]) / number(&object["peak_gflops"]);
        assert!((share / number(&object["share_of_peak"]) - 1.0).abs() < 1e-9);
    }
    let text = cli.ok("bench --preset tiny --steps 1 --threads 1").stdout;
    let last: Vec<&str> = text.lines().rev().take(9).collect();
    let names: Vec<&str> = last.iter().rev().map(|line| line.split(':').next().unwrap()).collect();
    let block = ["device", "os/browser", "adapter", "preset", "steps read", "webgpu", "wasm-simd", "ratio", "notes"];
    assert_eq!(names, block);
    cli.refused("bench --preset tiny,huuge", 2, "did you mean \"huge\"?");
}

/// A trainer that knows only the file takes the same steps.
#[test]
fn bench_trains_from_the_start_that_it_saves() {
    let cli = Cli::new();
    let saved = "bench --preset tiny --losses 3 --save-start start.safetensors";
    assert_eq!(cli.ok(saved).stdout, "start.safetensors\n");
    cli.refused(saved, 1, "start.safetensors");
    cli.refused("bench --preset tiny,small --save-start x", 2, "--save-start writes the start of one preset");
    let file = TensorFile::read(&cli.path("start.safetensors")).unwrap();
    let number = |key: &str| file.metadata(key).unwrap().parse::<f64>().unwrap();
    let whole = |key: &str| number(key) as usize;
    let model = ModelConfig {
        vocab: whole("vocab"),
        ctx: whole("ctx"),
        layers: whole("layers"),
        heads: whole("heads"),
        d_model: whole("d_model"),
        d_mlp: whole("d_mlp"),
        gelu: if file.metadata("gelu") == Some("erf") { Gelu::Erf } else { Gelu::Tanh },
    };
    let adamw = AdamWConfig {
        beta1: number("beta1"),
        beta2: number("beta2"),
        eps: number("eps"),
        weight_decay: number("weight_decay"),
        grad_clip: Some(number("grad_clip")),
    };
    let mut train = TrainStep::new(&model, whole("batch"), adamw, false, &cpus()[0]).unwrap();
    let init = file.tensors().unwrap().into_iter().filter_map(|(n, t)| Some((n.strip_prefix("init.")?.to_owned(), t)));
    train.load(&init.collect(), None, "the file").unwrap();
    let shape = [whole("batch"), model.ctx];
    let rows = shape[0] * shape[1];
    let (ids, targets) = (file.tensor("ids").unwrap(), file.tensor("targets").unwrap());
    assert_eq!(ids.shape(), [3, shape[0], shape[1]]);
    let losses = (0..3).map(|step| {
        let part = |all: &HostTensor| {
            HostTensor::i32(&shape, all.as_i32().unwrap()[step * rows..(step + 1) * rows].to_vec()).unwrap()
        };
        let batch = Batch { ids: part(&ids), targets: part(&targets) };
        train.run(&batch, number("lr"), step as u64 + 1).unwrap().loss
    });
    let losses: Vec<f64> = losses.collect();
    let printed = cli.ok("bench --preset tiny --losses 3 --steps 1 --threads 1 --no-templates --json").stdout;
    let printed: Value = serde_json::from_str(&printed).unwrap();
    let printed: Vec<f64> = printed["losses"].as_array().unwrap().iter().map(|loss| loss.as_f64().unwrap()).collect();
    assert_eq!(printed, losses);
    assert!(losses[0] > losses[1] && losses[1] > losses[2], "{losses:?}");
    assert_eq!(file.tensor("timed.targets").unwrap().shape(), shape);
}

#[test]
fn devices_lists_the_backends() {
    let text = Cli::new().ok("devices").stdout;
    assert!(text.starts_with("cpu: ") && text.contains("\ninterp: "), "{text}");
    for isa in tinygpt_simd::Isa::available() {
        assert!(text.contains(&format!("{} ({} lanes)", isa.name(), isa.lanes())), "{text}");
    }
}

/// `tinygpt dump | head -1`: whoever reads may stop reading.
#[test]
fn a_closed_pipe_is_no_failure() {
    let cli = Cli::new();
    let mut child =
        cli.command("dump --preset tiny --stage asm").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let run = Run::of(child.wait_with_output().unwrap());
    assert_eq!((run.status, run.stderr.as_str()), (0, ""));
    assert!(line.starts_with("; kernel "));
}

/// Ctrl-C ends a run between two steps, with a checkpoint, and the run goes on from there.
#[cfg(unix)]
#[test]
fn an_interrupted_run_saves_and_ends_with_status_130() {
    let cli = Cli::new();
    cli.small_config("eval_every = 5");
    let mut child = cli
        .command("train --config small.toml --steps 1000000 --threads 1 --out run")
        .stderr(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.starts_with("step ") {
        line.clear();
        assert!(stderr.read_line(&mut line).unwrap() > 0, "the run ended before its first step");
    }
    // The shell's own kill: not every machine has it as a program.
    let kill = format!("kill -INT {}", child.id());
    let interrupted = std::process::Command::new("sh").args(["-c", &kill]).status().unwrap();
    assert!(interrupted.success());
    // Drained, so that the child cannot block on a full pipe.
    let rest: Vec<String> = stderr.lines().map(Result::unwrap).collect();
    let run = Run::of(child.wait_with_output().unwrap());
    assert_eq!(run.status, 130, "{rest:?}");
    assert!(rest.iter().any(|line| line.starts_with("interrupted: saving")), "{rest:?}");
    assert!(run.stdout.starts_with("step ") && run.stdout.contains(" checkpoint run/step-"), "{}", run.stdout);
    let saved = tinygpt::runtime::checkpoint::Checkpoint::load(&cli.path("run")).unwrap();
    assert!(saved.step >= 1);
    cli.ok(&format!("train --resume run --stop-at {}", saved.step + 1));
}
