//! Tests of the command line's definition.

use super::*;
use crate::config::{RunConfig, TrainConfig};
use clap::CommandFactory;

fn parse(line: &str) -> Result<Command, clap::Error> {
    usage::parse(line.split_whitespace()).map(|cli| cli.command)
}

/// What each command says about itself, as a terminal of 100 columns shows it. A flag of several commands reads the same in all.
#[test]
fn help_of_every_command() {
    let mut command = Cli::command().term_width(100);
    command.build();
    insta::assert_snapshot!("help", command.render_long_help());
    for sub in command.get_subcommands_mut().filter(|sub| sub.get_name() != "help") {
        let help = sub.render_long_help().to_string();
        insta::assert_snapshot!(format!("help_{}", sub.get_name()), help);
    }
}

/// Every flag has help of one sentence: a capital letter, no full stop.
#[test]
fn help_is_one_sentence_a_flag() {
    for command in Cli::command().get_subcommands() {
        for arg in command.get_arguments() {
            let help = arg.get_help().unwrap_or_else(|| panic!("{} {arg} has no help", command.get_name())).to_string();
            assert!(
                help.starts_with(|c: char| c.is_uppercase()) && !help.ends_with('.'),
                "{} {arg}: {help}",
                command.get_name()
            );
        }
    }
}

fn train(line: &str) -> TrainArgs {
    match parse(line).unwrap() {
        Command::Train(args) => *args,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_definition_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn the_contract_parses() {
    for line in [
        "tinygpt train",
        "tinygpt train --preset large --data x.txt --val-data y.txt --backend cpu --threads 2 --steps 40 --stop-at 20 \
         --lr 1e-3 --schedule constant --warmup 0 --seed 7 --out d --isa avx2 --no-templates --print-config --time-passes",
        "tinygpt train --config f.toml --backend interp",
        "tinygpt train --resume auto --stop-at 30 --threads 1",
        "tinygpt sample --checkpoint runs/x --prompt Once --tokens 9 --temperature 0 --top-k 5 --seed 1 --backend cpu",
        "tinygpt eval --checkpoint c --data f --json",
        "tinygpt bench --preset small,large --backend cpu --threads 2 --steps 5 --json",
        "tinygpt parity f.safetensors --backend interp --threads 2 -o d",
        "tinygpt dump --preset tiny --stage clif --kernel ^attn -o d",
        "tinygpt dump --preset tiny --stage wgsl --adapter llvm",
        "tinygpt dump --preset tiny --after split-reduce --no-lines",
        "tinygpt dump --preset tiny --diff grad simplify --target gpu",
        "tinygpt dump --preset tiny --all -o d",
        "tinygpt dump --preset tiny --stage fused --remarks",
        "tinygpt train --graph f.gir --steps 9 --sample-bytes 0",
        "tinygpt dump --graph f.gir --stage program",
        "tinygpt train --backend gpu --adapter H100 --checked --no-tune",
        "tinygpt check tests/filetests a.gir --bless --filter simplify",
        "tinygpt devices",
        "tinygpt serve",
        "tinygpt serve --dir d --port 0 --open",
        "tinygpt train --backend wasm --threads 2",
        "tinygpt dump --preset tiny --stage wat --kernel ^attn",
        "tinygpt dump --preset tiny --stage wasm -o d",
        "tinygpt export --format web --preset tiny --batch 2 --steps 9 --lr 1e-3 --schedule constant --warmup 0 --seed 3 -o d",
        "tinygpt export --format web --checkpoint runs/x -o d",
        "tinygpt opt f.gir --passes expand,simplify --target gpu --verify-each --print-changed --time-passes --stats -o g.gir",
        "tinygpt opt - --passes a",
        "tinygpt opt tinygpt-repro-simplify-01234567.gir --repro-dir d",
        "tinygpt run f.gir --backend cpu --compare interp --seed 3 --threads 2 --tolerance 1e-5",
    ] {
        parse(line).unwrap_or_else(|e| panic!("{line}: {e}"));
    }
}

/// What a line that makes no sense is told.
#[test]
fn nonsense_is_told_in_one_sentence() {
    let cases = [
        ("trian", r#"there is no command "trian" (did you mean "train"?): tinygpt --help lists them"#),
        ("frobnicate", r#"there is no command "frobnicate": tinygpt --help lists them"#),
        (
            "train --thread 2",
            r#"there is no flag "--thread" (did you mean "--threads"?): tinygpt train --help lists them"#,
        ),
        ("train --frobnicate", r#"there is no flag "--frobnicate": tinygpt train --help lists them"#),
        ("train -x", r#"there is no flag "-x": tinygpt train --help lists them"#),
        ("train small", r#"found "small", expected a flag: tinygpt train --help lists them"#),
        ("train --threads 0", r#"--threads must be a whole number from 1 to 1024, and is "0""#),
        ("train --threads 99999", r#"--threads must be a whole number from 1 to 1024, and is "99999""#),
        ("train --threads many", r#"--threads must be a whole number from 1 to 1024, and is "many""#),
        ("train --threads", "--threads needs a value: give it as in --threads <N>"),
        (
            "train --backend gpuu",
            r#"--backend cannot be "gpuu" (did you mean "gpu"?): choose cpu, gpu, wasm or interp"#,
        ),
        ("train --backend tpu", r#"--backend cannot be "tpu" (did you mean "gpu"?): choose cpu, gpu, wasm or interp"#),
        ("train --preset a --config b", "--preset and --config exclude each other: leave one of them out"),
        ("train --preset a --preset b", "--preset is given twice: give it once"),
        ("train --resume d --lr 1", "--resume and --lr exclude each other: leave one of them out"),
        ("train --resume d --out e", "--resume and --out exclude each other: leave one of them out"),
        ("train --graph f.gir --preset tiny", "--graph and --preset exclude each other: leave one of them out"),
        ("train --stop-at 0", r#"--stop-at must be a whole number, 1 or more, and is "0""#),
        ("train --steps -1", r#"--steps must be a whole number, 0 or more, and is "-1""#),
        ("train --steps 1e3", r#"--steps must be a whole number, 0 or more, and is "1e3""#),
        ("train --lr fast", r#"--lr must be a number, and is "fast""#),
        ("train --schedule linear", r#"--schedule cannot be "linear": choose constant or cosine"#),
        ("sample", "tinygpt sample needs --checkpoint <PATH>: tinygpt sample --help shows how"),
        ("check", "tinygpt check needs <PATH>...: tinygpt check --help shows how"),
        (
            "dump",
            "tinygpt dump needs --stage <STAGE> or --after <PASS> or --all or --diff <A> <B>: tinygpt dump --help shows how",
        ),
        (
            "dump --stage wat --graph f.gir --preset tiny",
            "--graph and --preset exclude each other: leave one of them out",
        ),
        ("dump --all", "tinygpt dump needs -o <DIR>: tinygpt dump --help shows how"),
        ("dump --diff graph", "--diff needs more values than were given: tinygpt dump --help shows how"),
        ("dump --stage graph --after fuse", "--stage and --after exclude each other: leave one of them out"),
        (
            "dump --stage wgls",
            "--stage cannot be \"wgls\" (did you mean \"wgsl\"?): choose graph, grad, fused, program, clif, asm, wat, wasm, wgsl, \
             spv, msl or hlsl",
        ),
        ("bench --steps 0", r#"--steps must be a whole number, 1 or more, and is "0""#),
        ("sample --checkpoint c --top-k -3", r#"--top-k must be a whole number, 0 or more, and is "-3""#),
        ("sample --checkpoint c --temperature hot", r#"--temperature must be a number, and is "hot""#),
        ("export --format web", "tinygpt export needs -o <PATH>: tinygpt export --help shows how"),
        (
            "export --format web --checkpoint c --lr 1 -o d",
            "--checkpoint and --lr exclude each other: leave one of them out",
        ),
        ("opt", "tinygpt opt needs <F>: tinygpt opt --help shows how"),
        ("run f.gir --compare cpu", r#"--compare cannot be "cpu": choose interp"#),
    ];
    let mut wrong = Vec::new();
    for (line, expected) in cases {
        let error = parse(&format!("tinygpt {line}")).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{line}");
        let found = usage::sentence(&error).unwrap_or_default();
        if found != expected {
            wrong.push(format!("tinygpt {line}\n  said     {found}\n  expected {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for line in ["tinygpt", "tinygpt --help", "tinygpt train --help", "tinygpt --version"] {
        assert_eq!(usage::sentence(&parse(line).unwrap_err()), None, "{line}");
    }
}

/// Every flag named like a configuration key reaches that key.
#[test]
fn flags_reach_the_keys_of_their_names() {
    let changes = [
        ("batch", "3"),
        ("accumulate", "5"),
        ("steps", "77"),
        ("lr", "0.5"),
        ("schedule", "constant"),
        ("warmup", "3"),
        ("seed", "9"),
        ("eval-every", "6"),
        ("save-every", "5"),
        ("sample-bytes", "4"),
        ("keep", "8"),
        ("backend", "interp"),
        ("threads", "3"),
        ("isa", "portable"),
        ("adapter", "llvm"),
        ("data", "d"),
        ("val-data", "v"),
    ];
    let table = |args: &TrainArgs| -> toml::Table {
        let config = RunConfig::resolve(None, None, &args.overrides()).unwrap();
        config.to_toml().unwrap().parse().unwrap()
    };
    let before = table(&train("tinygpt train"));
    for (flag, value) in changes {
        let after = table(&train(&format!("tinygpt train --{flag} {value}")));
        let key = flag.replace('-', "_");
        let section = if key.ends_with("data") { "data" } else { "train" };
        let found = after[section].get(&key).unwrap_or_else(|| panic!("{key} is unset"));
        assert_ne!(before[section].get(&key), Some(found), "--{flag} changes nothing");
        assert!(found.to_string().trim_matches('"').ends_with(value), "--{flag} {value} became {found}");
    }
    assert_eq!(table(&train("tinygpt train --no-templates"))["train"]["no_templates"].as_bool(), Some(true));
    assert_eq!(table(&train("tinygpt train --preset tiny"))["model"]["ctx"].as_integer(), Some(32));
    assert!(TrainConfig::KEYS.contains(&"no_templates"));
}
