//! `cargo xtask bench-peers`: one training step of tinygpt and of PyTorch, timed alternately.
//!
//! Invariants:
//! - Each measurement is a process of its own, and the two sides run one at a time, in an order that turns
//!   around every round (ours, theirs, theirs, ours, ...), so that a machine that warms up or gets busier favours
//!   neither side.
//! - The figure is the median over rounds of each round's median step; every round is printed, so that the spread shows.
//! - Both sides report their parameter count, and unequal counts end the run: the models would differ.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::{Failure, cargo, root, spelled};

#[derive(clap::Args)]
pub struct Args {
    /// Presets, separated by commas
    #[arg(long, value_name = "P[,P..]", value_delimiter = ',', default_value = "large")]
    preset: Vec<String>,
    /// Threads of both sides
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    threads: u32,
    /// Runs of each side
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(3..))]
    rounds: u32,
    /// Timed steps of a run
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    /// A Python that has torch, else $PEERS_PYTHON (benches/peers/README.md sets one up)
    #[arg(long, value_name = "PATH")]
    python: Option<PathBuf>,
    /// Have PyTorch compile the model (torch.compile; needs a C++ compiler)
    #[arg(long)]
    compile: bool,
}

/// What one run of either side says of one preset.
#[derive(Debug, PartialEq)]
struct Run {
    preset: String,
    params: u64,
    median_ms: f64,
    peak_rss_mib: f64,
}

/// Build tinygpt, run both sides alternately, and print the medians and their ratio.
pub fn bench_peers(args: &Args) -> Result<(), Failure> {
    let Some(python) = args.python.clone().or_else(|| std::env::var_os("PEERS_PYTHON").map(PathBuf::from)) else {
        return Err(Failure::Unusable(
            "found neither --python PATH nor PEERS_PYTHON, expected a Python that has torch: benches/peers/README.md says how to set one up".into(),
        ));
    };
    let mut build = cargo(&["build", "--release", "--package", "tinygpt", "--bin", "tinygpt"]);
    let built =
        build.status().map_err(|error| Failure::Unusable(format!("cannot start `{}`: {error}", spelled(&build))))?;
    if !built.success() {
        return Err(Failure::Failed(format!("`{}` failed ({built})", spelled(&build))));
    }
    for preset in &args.preset {
        compare(preset, &python, args)?;
    }
    Ok(())
}

fn compare(preset: &str, python: &Path, args: &Args) -> Result<(), Failure> {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    println!("{preset}, {} threads, {} steps a run: ms per step, median of the run", args.threads, args.steps);
    println!("{:>5} {:>10} {:>10} {:>7}", "round", "tinygpt", "torch", "ratio");
    for round in 1..=args.rounds {
        let (our, their) = if round % 2 == 1 {
            let our = run(&mut our_command(preset, args)?, preset)?;
            (our, run(&mut their_command(preset, python, args), preset)?)
        } else {
            let their = run(&mut their_command(preset, python, args), preset)?;
            (run(&mut our_command(preset, args)?, preset)?, their)
        };
        if our.params != their.params {
            return Err(Failure::Failed(format!(
                "preset {preset} has {} parameters in tinygpt and {} in torch_step.py, expected the same model: make its PRESETS equal to models/",
                our.params, their.params
            )));
        }
        println!(
            "{round:>5} {:>10.2} {:>10.2} {:>7.3}",
            our.median_ms,
            their.median_ms,
            our.median_ms / their.median_ms
        );
        ours.push(our);
        theirs.push(their);
    }
    let median_ms = |runs: &[Run]| median(runs.iter().map(|run| run.median_ms).collect());
    let peak = |runs: &[Run]| runs.iter().map(|run| run.peak_rss_mib).fold(0.0, f64::max);
    let (our_ms, their_ms) = (median_ms(&ours), median_ms(&theirs));
    println!("  all {our_ms:>10.2} {their_ms:>10.2} {:>7.3}", our_ms / their_ms);
    println!("peak RSS MiB: tinygpt {:.0}, torch {:.0}; parameters: {}", peak(&ours), peak(&theirs), ours[0].params);
    Ok(())
}

/// `tinygpt bench` of the binary beside xtask, which is where cargo has just built it.
fn our_command(preset: &str, args: &Args) -> Result<Command, Failure> {
    let xtask =
        std::env::current_exe().map_err(|error| Failure::Unusable(format!("cannot tell where xtask lies: {error}")))?;
    let mut command = Command::new(xtask.with_file_name(format!("tinygpt{}", std::env::consts::EXE_SUFFIX)));
    command.args(["bench", "--preset", preset, "--json"]);
    command.args(["--threads", &args.threads.to_string(), "--steps", &args.steps.to_string()]);
    Ok(command)
}

fn their_command(preset: &str, python: &Path, args: &Args) -> Command {
    let mut command = Command::new(python);
    command.arg(root().join("benches/peers/torch_step.py"));
    command.args(["--preset", preset, "--json", "--compile", if args.compile { "1" } else { "0" }]);
    command.args(["--threads", &args.threads.to_string(), "--steps", &args.steps.to_string()]);
    command
}

/// Run one side and read the one JSON line it prints; its standard error passes through.
fn run(command: &mut Command, preset: &str) -> Result<Run, Failure> {
    let name = spelled(command);
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().map_err(|error| {
        Failure::Unusable(format!("cannot start {}: {error}", command.get_program().to_string_lossy()))
    })?;
    if !output.status.success() {
        return Err(Failure::Failed(format!("`{name}` failed ({})", output.status)));
    }
    parse(&String::from_utf8_lossy(&output.stdout), preset)
        .map_err(|message| Failure::Failed(format!("`{name}`: {message}")))
}

/// The one result line of a `bench --json` output; an error names what is missing.
fn parse(output: &str, preset: &str) -> Result<Run, String> {
    let mut lines = output.lines().filter(|line| !line.trim().is_empty());
    let (Some(line), None) = (lines.next(), lines.next()) else {
        return Err(format!("found {} lines of output, expected one JSON object", output.lines().count()));
    };
    let value: Value =
        serde_json::from_str(line).map_err(|error| format!("found {line:?}, expected a JSON object: {error}"))?;
    let missing =
        |field: &str| format!("the JSON object has no {field}, expected the fields of `tinygpt bench --json`");
    let median_ms = value["ms_per_step"]["median"].as_f64().ok_or_else(|| missing("number ms_per_step.median"))?;
    if median_ms <= 0.0 {
        return Err(format!("found a median of {median_ms} ms, expected more than 0"));
    }
    let run = Run {
        preset: value["preset"].as_str().ok_or_else(|| missing("string preset"))?.to_owned(),
        params: value["params"].as_u64().ok_or_else(|| missing("whole number params"))?,
        median_ms,
        peak_rss_mib: value["peak_rss_mib"].as_f64().ok_or_else(|| missing("number peak_rss_mib"))?,
    };
    if run.preset != preset {
        return Err(format!("found a result of preset {}, expected {preset}", run.preset));
    }
    Ok(run)
}

/// The median of a non-empty list; the mean of the middle two where its length is even.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"preset":"large","threads":2,"params":2743296,"ms_per_step":{"median":185.5,"min":180,"p90":190},"peak_rss_mib":890.5}"#;

    #[test]
    fn a_result_line_is_read() {
        let run = Run { preset: "large".into(), params: 2_743_296, median_ms: 185.5, peak_rss_mib: 890.5 };
        assert_eq!(parse(&format!("{LINE}\n"), "large"), Ok(run));
    }

    #[test]
    fn errors_say_what_is_wrong() {
        let two = format!("{LINE}\n{LINE}\n");
        let without_params = LINE.replace("params", "parameters");
        let zero = LINE.replace("185.5", "0");
        let cases = [
            ("", "large", "expected one JSON object"),
            (two.as_str(), "large", "found 2 lines"),
            ("large: 185 ms", "large", "expected a JSON object"),
            (without_params.as_str(), "large", "no whole number params"),
            (zero.as_str(), "large", "expected more than 0"),
            (LINE, "small", "found a result of preset large, expected small"),
        ];
        for (output, preset, expected) in cases {
            let message = parse(output, preset).expect_err(output);
            assert!(message.contains(expected), "{message:?} should say {expected:?}");
        }
    }

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 3.0, 2.0]), 2.5);
    }
}
