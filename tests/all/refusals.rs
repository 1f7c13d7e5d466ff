//! Bad input, each through the command: one sentence that says what was found, what was expected and what to do; the exit status;
//! nothing on standard output, nothing left behind.

use crate::support::{Cli, Run};
use std::process::Stdio;

/// A directory with what the lines below name.
fn folder() -> Cli {
    let cli = Cli::new();
    std::fs::create_dir(cli.path("folder")).unwrap();
    cli.file("empty.txt", "");
    cli.file("short.txt", "short");
    cli.file("text.txt", "once there was a fox ".repeat(100));
    cli.file("latin1.toml", b"# caf\xe9\n[train]\n");
    cli.file("latin1.gir", b"tinygpt-graph 1 ; caf\xe9\n");
    for (name, text) in [
        ("heads", "[model]\nheads = 5"),
        ("layers", "[model]\nlayers = 1000000"),
        ("memory", "preset = \"tiny\"\n[model]\nlayers = 4096\nheads = 1\nd_model = 16384"),
        ("elements", "[train]\nbatch = 1000000"),
        ("model-key", "[model]\nlayrs = 3"),
        ("train-key", "[train]\nbatchs = 3"),
        ("data-key", "[data]\nval = \"x\""),
        ("section", "[trian]"),
        ("elsewhere", "[model]\nbatch = 3"),
        ("nan", "[train]\nlr = nan"),
        ("type", "[train]\nsteps = 4\nbatch = \"many\""),
        ("syntax", "[train]\nbatch = = 3"),
        ("graph", "graph = \"g.gir\"\n[model]\nlayers = 3"),
        ("ctx", "[model]\nctx = 0"),
    ] {
        cli.file(&format!("{name}.toml"), format!("{text}\n"));
    }
    cli
}

/// Runs each line, which must say exactly this and leave no run behind. `DIR/` stands for the working directory.
fn check(cli: &Cli, cases: &[(&str, i32, &str)]) {
    let dir = std::fs::canonicalize(cli.dir.path()).unwrap();
    let mut wrong = Vec::new();
    for (line, status, expected) in cases {
        let run = cli.run(line);
        let expected = format!("tinygpt: {}\n", expected.replace("DIR/", &format!("{}/", dir.display())));
        if (run.status, run.stderr.as_str(), run.stdout.as_str()) != (*status, expected.as_str(), "") {
            let Run { status, stdout, stderr } = run;
            wrong.push(format!(
                "tinygpt {line}\n  status   {status}\n  said     {stderr}  expected {expected}  printed  {stdout:?}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(!cli.path("runs").exists(), "a refused run leaves nothing behind");
}

const PRESETS: &str =
    "choose one of tiny, small, standard, capable, medium, large, xl, huge, massive, mega, behemoth, gpt2";

#[test]
fn unknown_names() {
    let near = format!("there is no preset \"lage\" (did you mean \"large\"?): {PRESETS}");
    let far = format!("there is no preset \"enormous\": {PRESETS}");
    check(
        &folder(),
        &[
            ("trian", 2, "there is no command \"trian\" (did you mean \"train\"?): tinygpt --help lists them"),
            (
                "train --thread 2",
                2,
                "there is no flag \"--thread\" (did you mean \"--threads\"?): tinygpt train --help lists them",
            ),
            (
                "train --backend gpuu",
                2,
                "--backend cannot be \"gpuu\" (did you mean \"gpu\"?): choose cpu, gpu, wasm or interp",
            ),
            (
                "dump --stage wglsl",
                2,
                "--stage cannot be \"wglsl\" (did you mean \"wgsl\"?): choose graph, grad, fused, program, clif, asm, wat, wasm, \
                 wgsl, spv, msl or hlsl",
            ),
            ("train --preset lage", 2, &near),
            ("bench --preset tiny,lage", 2, &near),
            ("dump --preset lage --stage graph", 2, &near),
            ("profile --preset enormous", 2, &far),
            (
                "train --config model-key.toml",
                2,
                "model-key.toml: there is no key \"layrs\" in [model] (did you mean \"layers\"?): the keys there are vocab, ctx, \
                 layers, heads, d_model, d_mlp, gelu",
            ),
            (
                "train --config data-key.toml",
                2,
                "data-key.toml: there is no key \"val\" in [data]: the keys there are data, val_data",
            ),
            (
                "train --config section.toml",
                2,
                "section.toml: there is no key \"trian\" (did you mean \"train\"?): the keys there are preset, graph, model, \
                 train, data",
            ),
            (
                "train --config elsewhere.toml",
                2,
                "elsewhere.toml: there is no key \"batch\" in [model]: it belongs in [train]",
            ),
            (
                "dump --preset tiny --after fusee",
                2,
                "the pipeline has no pass \"fusee\" (did you mean \"fuse\"?): its states are graph, grad, expand, simplify, \
                 split-reduce, simplify-2, fuse, schedule, memory",
            ),
        ],
    );
    // The keys of [train] grow; what must be there is the nearest.
    folder().refused(
        "train --config train-key.toml",
        2,
        "no key \"batchs\" in [train] (did you mean \"batch\"?): the keys there are batch, ",
    );
}

#[test]
fn numbers_out_of_range() {
    check(
        &folder(),
        &[
            ("train --threads 0", 2, "--threads must be a whole number from 1 to 1024, and is \"0\""),
            ("bench --threads 1000000", 2, "--threads must be a whole number from 1 to 1024, and is \"1000000\""),
            ("train --steps 0", 2, "steps must be from 1 to 99999999, and is 0"),
            ("train --steps 100000000", 2, "steps must be from 1 to 99999999, and is 100000000"),
            ("train --steps -5", 2, "--steps must be a whole number, 0 or more, and is \"-5\""),
            ("train --lr 0", 2, "lr must be a positive number, and is 0"),
            ("train --lr -1", 2, "lr must be a positive number, and is -1"),
            ("train --lr nan", 2, "lr must be a positive number, and is NaN"),
            ("train --lr inf", 2, "lr must be a positive number, and is inf"),
            ("train --lr fast", 2, "--lr must be a number, and is \"fast\""),
            ("train --config nan.toml", 2, "lr must be a positive number, and is NaN"),
            ("train --batch 0", 2, "batch must be from 1 to 1048576, and is 0"),
            ("train --batch 2000000", 2, "batch must be from 1 to 1048576, and is 2000000"),
            ("train --warmup 1501", 2, "warmup must be at most steps, and 1501 is more than 1500"),
            (
                "train --seed 18446744073709551615",
                2,
                "seed must be at most 9223372036854775807, and is 18446744073709551615",
            ),
            (
                "train --seed 18446744073709551616",
                2,
                "--seed must be a whole number, at most 18446744073709551615, and is \"18446744073709551616\"",
            ),
            ("train --stop-at 0", 2, "--stop-at must be a whole number, 1 or more, and is \"0\""),
            ("train --stop-at 1501", 2, "--stop-at 1501 lies beyond the 1500 planned steps: plan more with --steps"),
            ("train --keep -1", 2, "--keep must be a whole number, 0 or more, and is \"-1\""),
            ("train --eval-every -1", 2, "--eval-every must be a whole number, 0 or more, and is \"-1\""),
            ("train --sample-bytes 1048577", 2, "sample_bytes must be at most 1048576, and is 1048577"),
            (
                "train --accumulate 1000000",
                2,
                "batch times accumulate, the rows of a step, must be at most 1048576, and they are 16 and 1000000",
            ),
            ("train --accumulate -1", 2, "--accumulate must be a whole number, 0 or more, and is \"-1\""),
            ("train --config ctx.toml", 2, "ctx must be from 1 to 1048576, and is 0"),
            ("train --config layers.toml", 2, "layers must be from 1 to 4096, and is 1000000"),
            (
                "train --config heads.toml",
                2,
                "d_model must be a multiple of heads, and 96 is not one of 5: choose heads 4 or 6, or another d_model",
            ),
            (
                "train --config elements.toml",
                2,
                "a tensor of batch 1000000 times ctx 64 times d_mlp 384 has 24576000000 elements, and 2147483647 is the most: \
                 choose smaller ones",
            ),
            ("train --config type.toml", 2, "type.toml, line 3: invalid type: string \"many\", expected usize"),
            ("train --config graph.toml", 2, "cannot read DIR/g.gir: there is no such file or folder: check the path"),
            ("bench --steps 0", 2, "--steps must be a whole number, 1 or more, and is \"0\""),
            ("profile --steps -1", 2, "--steps must be a whole number, 1 or more, and is \"-1\""),
            ("run folder --tolerance x", 2, "--tolerance must be a number, and is \"x\""),
        ],
    );
}

/// What no machine has is refused before anything is compiled or allocated.
#[cfg(target_os = "linux")]
/// No fault of tinygpt: every WebGPU adapter binds 128 MiB, and some bind more.
#[test]
fn a_model_beyond_a_targets_limits() {
    let cli = Cli::new();
    check(
        &cli,
        &[(
            "dump --preset gpt2 --stage program --target gpu",
            2,
            "the model does not fit the target gpu: target-limits: kernel reduce_token_embedding: argument a1 has 154533888 bytes: gpu binds at most \
             134217728: choose a smaller preset or batch, or an adapter with larger limits",
        )],
    );
}

#[test]
fn a_model_larger_than_memory() {
    let cli = folder();
    cli.refused(
        "train --config memory.toml --threads 1",
        2,
        "training this configuration needs about 196621.1 GiB of memory, and this machine has ",
    );
    cli.refused("train --config memory.toml --threads 1", 2, ": choose fewer layers, a smaller d_model, ctx or batch");
}

#[test]
fn numbers_of_a_sample() {
    let cli = folder();
    cli.small_config("");
    cli.ok("train --config small.toml --threads 1 --steps 1 --warmup 0 --out run");
    check(
        &cli,
        &[
            ("sample --checkpoint run --temperature -1", 2, "temperature must be 0 (greedy) or more, and is -1"),
            ("sample --checkpoint run --temperature nan", 2, "temperature must be 0 (greedy) or more, and is NaN"),
            ("sample --checkpoint run --temperature inf", 2, "temperature must be 0 (greedy) or more, and is inf"),
            ("sample --checkpoint run --top-k 0", 2, "top-k must be at least 1, and is 0"),
            ("sample --checkpoint run --top-k -1", 2, "--top-k must be a whole number, 0 or more, and is \"-1\""),
            ("sample --checkpoint run --tokens -1", 2, "--tokens must be a whole number, 0 or more, and is \"-1\""),
            ("eval --checkpoint run --data empty.txt", 2, "the text has 0 bytes, and evaluating needs at least 2"),
            ("eval --checkpoint run --data folder", 2, "cannot read folder: it is a directory: name a file"),
        ],
    );
}

#[test]
fn data_too_short() {
    let needs = |name: &str, bytes: usize| {
        format!(
            "DIR/{name} has {bytes} bytes, and ctx 64 needs at least 650, so that its last tenth holds one context and the byte \
             after it: give more text, a separate validation file, or a smaller ctx"
        )
    };
    let (empty, short) = (needs("empty.txt", 0), needs("short.txt", 5));
    check(
        &folder(),
        &[
            ("train --data empty.txt", 2, &empty),
            ("train --data short.txt", 2, &short),
            (
                "train --data text.txt --val-data short.txt",
                2,
                "DIR/short.txt has 5 bytes, and ctx 64 needs at least 65: give more text or a smaller ctx",
            ),
            (
                "train --data text.txt --val-data empty.txt",
                2,
                "DIR/empty.txt has 0 bytes, and ctx 64 needs at least 65: give more text or a smaller ctx",
            ),
        ],
    );
}

#[test]
fn files_that_are_none() {
    check(
        &folder(),
        &[
            ("train --data none.txt", 2, "cannot read DIR/none.txt: there is no such file or folder: check the path"),
            ("train --data folder", 2, "cannot read DIR/folder: it is a directory: name a file"),
            (
                "train --data text.txt/x",
                2,
                "cannot read DIR/text.txt/x: a file stands where a directory is needed: choose another path",
            ),
            ("train --config none.toml", 2, "cannot read none.toml: there is no such file or folder: check the path"),
            ("train --config folder", 2, "cannot read folder: it is a directory: name a file"),
            (
                "train --config latin1.toml",
                2,
                "cannot read latin1.toml: it is not text in UTF-8: check that it is the right file",
            ),
            ("train --graph folder", 2, "cannot read DIR/folder: it is a directory: name a file"),
            (
                "train --graph latin1.gir",
                2,
                "cannot read DIR/latin1.gir: it is not text in UTF-8: check that it is the right file",
            ),
            (
                "train --graph short.txt",
                2,
                "DIR/short.txt holds no graph: line 1, column 1: found `short`, expected `tinygpt-graph`",
            ),
            ("dump --graph none --stage graph", 2, "cannot read none: there is no such file or folder: check the path"),
            ("opt folder --passes simplify", 2, "cannot read folder: it is a directory: name a file"),
            ("run folder", 2, "cannot read folder: it is a directory: name a file"),
            ("parity folder", 2, "cannot read folder: it is a directory: name a file"),
            ("check folder", 2, "folder holds no file that ends in .gir"),
            (
                "dump --preset tiny --stage wgsl --plan short.txt",
                2,
                "short.txt: found \"short\", expected a plan that begins with \"tinygpt plan 5\"",
            ),
            (
                "dump --preset tiny --stage clif --kernel (",
                2,
                "--kernel \"(\" is no regular expression: found open group without closing ')'",
            ),
        ],
    );
    // A file that is there and cannot be read, also by root.
    #[cfg(target_os = "linux")]
    folder().refused("train --data /proc/self/mem", 2, "cannot read /proc/self/mem: ");
    // A value of no characters.
    let cli = folder();
    let run = Run::of(cli.command("train --data").arg("").output().unwrap());
    assert_eq!(
        (run.status, run.stderr.as_str()),
        (2, "tinygpt: the path of a file is empty: name a file, or leave it out\n")
    );
}

#[test]
fn places_that_cannot_be_written() {
    let cli = folder();
    cli.small_config("");
    let train = "train --config small.toml --threads 1 --steps 1 --warmup 0 --out";
    check(
        &cli,
        &[
            (
                "dump --preset tiny --stage graph -o short.txt",
                1,
                "cannot write short.txt: something else is there already: choose another path",
            ),
            ("viz --preset tiny -o folder", 1, "cannot write folder: it is a directory: name a file"),
            (
                "viz --preset tiny -o none/x.html",
                1,
                "cannot write none/x.html: there is no such file or folder: check the path",
            ),
            (
                "export --format web --preset tiny -o short.txt",
                2,
                "short.txt exists and is no export of tinygpt: choose another -o, or remove it",
            ),
        ],
    );
    cli.refused(
        &format!("{train} short.txt"),
        1,
        "cannot write short.txt: something else is there already: choose another path",
    );
    cli.refused(
        &format!("{train} short.txt/run"),
        1,
        "cannot write short.txt/run: a file stands where a directory is needed: choose another path",
    );
    #[cfg(target_os = "linux")]
    cli.refused(&format!("{train} /proc/run"), 1, "cannot write /proc/run: ");
    assert_eq!(std::fs::read_to_string(cli.path("short.txt")).unwrap(), "short", "what was there is left alone");
}

/// A full disk, as `/dev/full` plays it.
#[cfg(target_os = "linux")]
#[test]
fn standard_output_that_is_full() {
    let cli = Cli::new();
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let mut command = cli.command("dump --preset tiny --stage graph");
    let run =
        Run::of(command.stdout(Stdio::from(full)).stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap());
    assert_eq!(run.status, 1);
    assert!(run.stderr.starts_with("tinygpt: cannot write to standard output: "), "{}", run.stderr);
}

/// Whoever reads may stop reading: `tinygpt train --help | head -1`. And standard error may be closed.
#[cfg(unix)]
#[test]
fn closed_streams_are_no_failure() {
    let cli = Cli::new();
    for line in ["train --help", "--help", "dump --preset tiny --stage program", "devices"] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let run = Run::of(
            cli.command(line).stdout(writer).stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap(),
        );
        assert!(run.status == 0 && !run.stderr.contains("panicked"), "tinygpt {line}: {} {}", run.status, run.stderr);
    }
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let run = Run::of(cli.command("train --preset lage").stderr(writer).output().unwrap());
    assert_eq!(run.status, 2);
}

/// What a stranger's file says is quoted without its control characters.
#[test]
fn names_from_files_reach_no_terminal_as_they_are() {
    let cli = Cli::new();
    cli.file("hostile.toml", "[train]\n\"\\u001b]0;owned\\u0007\\nsecond line\" = 3\n");
    let run = cli.run("train --config hostile.toml");
    assert!(run.status == 2 && run.stderr.lines().count() == 1, "{:?}", run.stderr);
    assert!(run.stderr.contains(r"\u{1b}]0;owned\u{7}\nsecond line"), "{:?}", run.stderr);
    cli.file("hostile.gir", "tinygpt-graph 1\ngraph \u{1b}]0;owned\u{7}\n");
    let run = cli.run("opt hostile.gir --passes simplify");
    assert!(run.status == 2 && !run.stderr.contains(['\u{1b}', '\u{7}']), "{:?}", run.stderr);
}
