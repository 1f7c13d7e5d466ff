//! Project commands, run as `cargo xtask COMMAND` (the alias is in `.cargo/config.toml`).
//!
//! - `test`: every test there is, doc tests included;
//! - `ci`: format, clippy with warnings denied, the runner compiled and compared, the playground built, `walkthrough`, then `test`; `.ci/run` calls it;
//! - `web`: the compiler for the page, built for wasm32;
//! - `walkthrough`: the walk-through of README.md, run as it is written;
//! - `site`: the playground as static files, with that compiler;
//! - `bench-peers`: `tinygpt bench` and its peers (PyTorch, JAX, burn), run alternately on the same model.
//!
//! Invariants:
//! - One profile and one target directory: every cargo command here but that of `web` is `--release` and leaves the target
//!   directory to cargo, so what is linted, tested and timed is what runs, and nothing is built twice.
//! - Commands run in the workspace root, wherever `cargo xtask` was called.
//! - Exit status: 0 done, 1 a step or a test failed, 2 usage or something needed is missing.

mod peers;
mod site;
mod suite;
mod walkthrough;
mod web;

use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Instant;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Project commands of tinygpt")]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Run every test of the workspace, doc tests included (with CI set: ignored ones too)
    Test,
    /// What CI runs: format check, clippy with warnings denied, the walk-through, then the test command
    Ci,
    /// Build the compiler for the page (web/dist/tinygpt_web.wasm), and print its size
    Web(web::Args),
    /// Run the walk-through of README.md as it is written
    Walkthrough,
    /// Build the playground (web/site/dist), and print what its first load takes
    Site,
    /// Time training steps of tinygpt, PyTorch, JAX and burn alternately, and print the ratios of the medians
    BenchPeers(peers::Args),
}

/// Why a command ended early. The message is one sentence for the person who ran it.
enum Failure {
    /// A step ran and failed: exit status 1.
    Failed(String),
    /// Something needed is missing or makes no sense: exit status 2.
    Unusable(String),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Task::Test => suite::test(),
        Task::Ci => suite::ci(),
        Task::Web(args) => web::web(&args),
        Task::Walkthrough => walkthrough::walkthrough(),
        Task::Site => site::site(),
        Task::BenchPeers(args) => peers::bench_peers(&args),
    };
    let (message, status) = match result {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Failed(message)) => (message, 1),
        Err(Failure::Unusable(message)) => (message, 2),
    };
    eprintln!("xtask: {message}");
    ExitCode::from(status)
}

/// The workspace root: the folder above this package.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask/ lies in the workspace root")
}

/// A `cargo` command in the workspace root, by the cargo that runs xtask.
fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).current_dir(root());
    command
}

/// Run one command with its output passed through; an error when it cannot start or fails.
fn step(command: &mut Command) -> Result<(), Failure> {
    let name = spelled(command);
    eprintln!("xtask: {name}");
    let start = Instant::now();
    let status = command.status().map_err(|error| Failure::Unusable(format!("cannot start `{name}`: {error}")))?;
    eprintln!("xtask: {name}: {:.1} s", start.elapsed().as_secs_f64());
    if status.success() { Ok(()) } else { Err(Failure::Failed(format!("`{name}` failed ({status})"))) }
}

/// The command as one would type it, for messages.
fn spelled(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_stem().unwrap_or_default().to_string_lossy().into_owned();
    command.get_args().fold(program, |line, arg| line + " " + &arg.to_string_lossy())
}
