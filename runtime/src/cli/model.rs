//! Commands that use a model or time one: `sample`, `eval`, `bench`, `profile`, `tune`, `parity`.

use super::{ExecArgs, GpuArgs, usage};
use clap::Args;
use std::path::PathBuf;

/// A model to load.
#[derive(Debug, Clone, Args)]
pub struct CheckpointArgs {
    /// Run directory (its latest checkpoint), checkpoint directory, or model file (.safetensors or .tinygpt)
    #[arg(long, value_name = "PATH")]
    pub checkpoint: PathBuf,
    /// Attention heads of a model file that does not state them
    #[arg(long, value_name = "N", value_parser = usage::whole::<usize>(1..=4096))]
    pub heads: Option<usize>,
}

const SAMPLE_EXAMPLES: &str = "\
Examples:
  tinygpt sample --checkpoint run --prompt \"Once upon a time\"
  tinygpt sample --checkpoint run --tokens 1000 --top-k 40 --seed 7
  tinygpt sample --checkpoint run --temperature 0";

#[derive(Debug, Clone, Args)]
#[command(after_help = SAMPLE_EXAMPLES)]
pub struct SampleArgs {
    #[command(flatten)]
    pub checkpoint: CheckpointArgs,
    /// Text to continue [default: a newline]
    #[arg(long, value_name = "S", default_value = crate::generate::DEFAULT_PROMPT, hide_default_value = true)]
    pub prompt: String,
    /// Bytes to add; a terminal shows what is no text as U+FFFD, a pipe or a file gets every byte as it is
    #[arg(long, value_name = "N", default_value_t = 400)]
    pub tokens: usize,
    /// How freely bytes are drawn, 0 or more: 0 always takes the likeliest, 1 draws by the model's own probabilities
    #[arg(long, value_name = "T", default_value_t = 0.8)]
    pub temperature: f64,
    /// Draw from the K likeliest bytes only, 1 or more [default: all]
    #[arg(long, value_name = "K")]
    pub top_k: Option<usize>,
    /// Seed of the draws: the same seed gives the same text
    #[arg(long, value_name = "N", default_value_t = 42)]
    pub seed: u64,
    #[command(flatten)]
    pub exec: ExecArgs,
}

#[derive(Debug, Clone, Args)]
pub struct EvalArgs {
    #[command(flatten)]
    pub checkpoint: CheckpointArgs,
    /// File of bytes, 2 or more, all of which but the first are predicted
    #[arg(long, value_name = "FILE")]
    pub data: PathBuf,
    /// Print one JSON object instead of `val_loss X bits_per_byte Y perplexity Z`
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub exec: ExecArgs,
}

#[derive(Debug, Clone, Args)]
pub struct BenchArgs {
    /// Presets, separated by commas
    #[arg(long, value_name = "P[,P..]", value_delimiter = ',', default_value = crate::config::DEFAULT_PRESET)]
    pub preset: Vec<String>,
    /// Steps timed, after the first ones, 1 or more
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = usage::whole::<u64>(1..=u64::MAX))]
    pub steps: u64,
    /// Untimed steps before the others, each on its own batch of the builtin corpus, whose losses `--json` prints; 0 for none
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = usage::whole::<u64>(0..=10_000))]
    pub losses: u64,
    /// Write what the steps start from (weights, batches, constants) to a new file for other frameworks, and time nothing
    #[arg(long, value_name = "F.safetensors")]
    pub save_start: Option<PathBuf>,
    /// Print one JSON object a line instead of a table
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub exec: ExecArgs,
}

#[derive(Debug, Clone, Args)]
pub struct ProfileArgs {
    /// Preset whose training step is profiled
    #[arg(long, value_name = "P", default_value = crate::config::DEFAULT_PRESET)]
    pub preset: String,
    /// Steps that the figures are medians of, 1 or more
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = usage::whole::<u64>(1..=u64::MAX))]
    pub steps: u64,
    /// What a row stands for
    #[arg(long, value_enum, default_value = "kernel")]
    pub by: crate::profile::GroupBy,
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
    /// Write the last step's timeline, for ui.perfetto.dev, to a file
    #[arg(long, value_name = "F.json")]
    pub trace: Option<PathBuf>,
    #[command(flatten)]
    pub exec: ExecArgs,
}

const TUNE_EXAMPLES: &str = "\
Examples:
  tinygpt tune --preset large --seconds 120
  tinygpt tune --config my.toml --precision mixed
  tinygpt train --preset large --backend gpu  runs what was found";

#[derive(Debug, Clone, Args)]
#[command(after_help = TUNE_EXAMPLES)]
pub struct TuneArgs {
    /// Preset whose training step is tuned [default: small]
    #[arg(long, value_name = "P", conflicts_with = "config")]
    pub preset: Option<String>,
    /// Configuration file whose training step is tuned
    #[arg(long, value_name = "FILE.toml")]
    pub config: Option<PathBuf>,
    /// Forward graph whose training step is tuned
    #[arg(long, value_name = "F.gir", conflicts_with_all = ["preset", "config"])]
    pub graph: Option<String>,
    /// Rows of ctx bytes a step, 1 to 1048576 [default: the preset's]
    #[arg(long, value_name = "N")]
    pub batch: Option<usize>,
    /// Seconds after which no further variant is tried, 1 to 86400
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = usage::whole::<u64>(1..=86400))]
    pub seconds: u64,
    /// Rounds of contests after which the search ends, 1 or more [default: as many as there is time for]
    #[arg(long, value_name = "N", value_parser = usage::whole::<u64>(1..=u64::MAX))]
    pub rounds: Option<u64>,
    /// Print JSON instead of text
    #[arg(long)]
    pub json: bool,
    #[command(flatten, next_help_heading = "Execution")]
    pub gpu: GpuArgs,
}

#[derive(Debug, Clone, Args)]
pub struct ParityArgs {
    /// Recorded configuration, weights, gradients and tokens
    #[arg(value_name = "FIXTURE.safetensors")]
    pub fixture: PathBuf,
    /// Write the table to a file in DIR instead of standard output
    #[arg(short, value_name = "DIR")]
    pub out: Option<PathBuf>,
    #[command(flatten)]
    pub exec: ExecArgs,
}
