//! The `tinygpt` command: parse, run, report. Exit status: 0 done, 1 the thing asked about failed, 2 usage or bad input, 130
//! interrupted after saving, and 101 a bug in tinygpt.

use std::process::ExitCode;
use tinygpt::runtime::bug;
use tinygpt::runtime::cli::{Command, usage};
use tinygpt::runtime::commands::{
    bench, check, devices, dump, eval, export, opt, parity, profile, run, sample, say, serve, train, tune, viz,
};

fn main() -> ExitCode {
    bug::install_hook();
    // TINYGPT_LOG=debug shows what each stage of the compiler does, on standard error.
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_env("TINYGPT_LOG"))
        .with_writer(std::io::stderr)
        .init();
    let cli = match usage::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => {
            let Some(sentence) = usage::sentence(&error) else { error.exit() };
            say(&format!("tinygpt: {sentence}"));
            return ExitCode::from(2);
        }
    };
    let result = match cli.command {
        Command::Train(args) => train::run(&args),
        Command::Sample(args) => sample::run(&args),
        Command::Eval(args) => eval::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Profile(args) => profile::run(&args),
        Command::Tune(args) => tune::run(&args),
        Command::Viz(args) => viz::run(&args),
        Command::Parity(args) => parity::run(&args),
        Command::Dump(args) => dump::run(&args),
        Command::Opt(args) => opt::run(&args),
        Command::Run(args) => run::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Export(args) => export::run(&args),
        Command::Serve(args) => serve::run(&args),
        Command::Devices => devices::run(),
    };
    match result {
        Ok(ending) => ExitCode::from(ending.exit_status()),
        Err(error) => {
            say(&format!("tinygpt: {error}"));
            ExitCode::from(error.exit_status())
        }
    }
}
