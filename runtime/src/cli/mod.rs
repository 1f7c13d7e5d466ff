//! The command line: what may be said, and nothing about what is done.
//!
//! Invariants: parsing reads no file and no environment; each flag is declared once, with its help, also where several
//! commands take it; a flag that changes the configuration has the name of its key, and [`ConfigArgs::layer`] and
//! [`TrainArgs::overrides`] are the only places where the two meet. A flag that is refused ends with exit status 2 and one
//! sentence ([`usage::sentence`]), like every other bad input.
//!
//! Help is prose: a flag's is one sentence without a full stop that gives its unit, and in brackets its default.

mod compiler;
mod model;
mod train;
pub mod usage;

pub use compiler::{CheckArgs, DumpArgs, GraphArgs, OptArgs, Reference, RunArgs, Stage, Target, VizArgs};
pub use model::{BenchArgs, CheckpointArgs, EvalArgs, ParityArgs, ProfileArgs, SampleArgs, TuneArgs};
pub use train::{ConfigArgs, ExportArgs, ExportFormat, TrainArgs};

use crate::config::{Backend, Isa, Precision};
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// A compiler for small language models: declare, differentiate, fuse, train.
#[derive(Debug, Parser)]
#[command(
    name = "tinygpt",
    version,
    propagate_version = true,
    after_help = "`tinygpt train` needs nothing else: it trains a small GPT on built-in stories and prints a sample.\n\
        Exit status: 0 done, 1 what was asked about failed, 2 usage or bad input, 130 interrupted after saving."
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train a model on text; ends with a sample
    Train(Box<TrainArgs>),
    /// Continue a prompt
    Sample(SampleArgs),
    /// Compute the loss of a model over a whole file
    Eval(EvalArgs),
    /// Time training steps
    Bench(BenchArgs),
    /// Show where the time of a training step goes, kernel by kernel
    Profile(ProfileArgs),
    /// Search for faster variants of a training step's kernels on a GPU, and keep them for every later run
    Tune(TuneArgs),
    /// Write a page that leads from the lines of a model to its kernels and code, and back; or a picture of its graph
    Viz(VizArgs),
    /// Compare a backend with a fixture recorded by PyTorch; exit status 1 beyond tolerance
    Parity(ParityArgs),
    /// Print what a stage of the compiler made of a model
    Dump(DumpArgs),
    /// Run passes over the text of a graph or program
    Opt(OptArgs),
    /// Run a graph or program on seeded inputs, and compare backends; exit status 1 beyond tolerance
    Run(RunArgs),
    /// Compare what the compiler makes of filetests with what they expect; exit status 1 where it differs
    Check(CheckArgs),
    /// Write a model as files for another program
    Export(Box<ExportArgs>),
    /// Serve the built playground on this machine
    Serve(ServeArgs),
    /// List what can run programs here
    Devices,
}

#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    /// Folder of the built site [default: web/site/dist, which `cargo xtask site` makes]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Port of 127.0.0.1 to listen on; 0 for any that is free
    #[arg(long, value_name = "N", default_value_t = 8080)]
    pub port: u16,
    /// Open the page in a browser
    #[arg(long)]
    pub open: bool,
}

/// What runs the program. Flattened last: its heading would hold what follows.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Execution")]
pub struct ExecArgs {
    /// What runs the program [default: cpu]
    #[arg(long, value_enum, value_name = "B")]
    pub backend: Option<Backend>,
    /// Threads of the cpu and wasm backends, 1 to 1024; results are the same for any number [default: one a core]
    #[arg(long, value_name = "N", value_parser = usage::whole::<u16>(1..=1024))]
    pub threads: Option<u16>,
    /// Instruction set of the cpu backend's templates [default: the best this machine has]
    #[arg(long, value_enum, value_name = "ISA")]
    pub isa: Option<Isa>,
    /// Run generated code only, without the cpu backend's templates: slower, the same results within rounding
    #[arg(long)]
    pub no_templates: bool,
    /// Take the default variants of gpu kernels instead of timing them on the adapter
    #[arg(long)]
    pub no_tune: bool,
    #[command(flatten)]
    pub gpu: GpuArgs,
}

/// How the GPU backend runs it.
#[derive(Debug, Clone, Default, Args)]
pub struct GpuArgs {
    /// Part of the name of the gpu backend's adapter, as `tinygpt devices` lists it [default: the best there is]
    #[arg(long, value_name = "NAME")]
    pub adapter: Option<String>,
    /// Compile bounds checks into gpu kernels
    #[arg(long)]
    pub checked: bool,
    /// How exact contractions are: mixed rounds their operands to f16, and is for the gpu backend [default: f32]
    #[arg(long, value_enum, value_name = "P")]
    pub precision: Option<Precision>,
}

#[cfg(test)]
mod tests;
