//! `train` and `export`: the commands whose flags are keys of the configuration.

use super::{ExecArgs, usage};
use crate::config::RunOverride;
use crate::schedule::ScheduleKind;
use clap::{Args, ValueEnum};
use std::path::PathBuf;

/// A configuration to start from, and the keys that `train` and `export` both let flags change.
#[derive(Debug, Clone, Default, Args)]
pub struct ConfigArgs {
    /// Named configuration to start from [default: small]
    #[arg(long, value_name = "P", conflicts_with = "config", help_heading = "Model")]
    pub preset: Option<String>,
    /// Configuration file to start from; `--print-config` of train shows its keys
    #[arg(long, value_name = "FILE.toml", help_heading = "Model")]
    pub config: Option<PathBuf>,
    /// Rows of ctx bytes a step, 1 to 1048576 [default: the preset's]
    #[arg(long, value_name = "N", help_heading = "Training")]
    pub batch: Option<usize>,
    /// Planned total of steps, 1 to 99999999, which the schedule spans [default: the preset's]
    #[arg(long, value_name = "N", help_heading = "Training")]
    pub steps: Option<u64>,
    /// Peak learning rate, above 0 [default: the preset's]
    #[arg(long, value_name = "F", help_heading = "Training")]
    pub lr: Option<f64>,
    /// Shape of the learning rate over the run [default: cosine]
    #[arg(long, value_enum, value_name = "S", help_heading = "Training")]
    pub schedule: Option<ScheduleKind>,
    /// Steps of linear warm-up, 0 to steps [default: the preset's, at most a tenth of steps]
    #[arg(long, value_name = "N", help_heading = "Training")]
    pub warmup: Option<u64>,
    /// Seed of weights, batches and samples [default: 42]
    #[arg(long, value_name = "N", help_heading = "Training")]
    pub seed: Option<u64>,
}

impl ConfigArgs {
    /// Their names, for flags that bring a configuration of their own.
    const FLAGS: [&str; 8] = ["preset", "config", "batch", "steps", "lr", "schedule", "warmup", "seed"];

    /// The flags as a layer of the configuration.
    pub fn layer(&self) -> RunOverride {
        let mut layer = RunOverride { preset: self.preset.clone(), ..RunOverride::default() };
        let train = &mut layer.train;
        train.batch = self.batch;
        train.steps = self.steps;
        train.lr = self.lr;
        train.schedule = self.schedule;
        train.warmup = self.warmup;
        train.seed = self.seed;
        layer
    }
}

const TRAIN_EXAMPLES: &str = "\
Examples:
  tinygpt train                            the built-in stories, preset small
  tinygpt train --data book.txt --out run  a text of your own
  tinygpt train --resume run               go on where the run stopped
  tinygpt train --init run --data b.txt    a new run from trained weights
  tinygpt train --print-config > my.toml   a file to edit, for --config";

#[derive(Debug, Clone, Default, Args)]
#[command(after_help = TRAIN_EXAMPLES)]
pub struct TrainArgs {
    #[command(flatten)]
    pub run: ConfigArgs,
    /// Train this forward graph: inputs ids and targets i32[B,T], output loss f32[], for samples also logits f32[B,T,256]
    #[arg(long, value_name = "F.gir", conflicts_with_all = ["preset", "config"], help_heading = "Model")]
    pub graph: Option<String>,
    /// Go on with the run in DIR, or with the newest one under runs/, with its stored configuration
    #[arg(
        long,
        value_name = "DIR|auto",
        help_heading = "Model",
        conflicts_with_all = ConfigArgs::FLAGS,
        conflicts_with_all = ["graph", "data", "val_data", "backend", "isa", "no_templates", "eval_every",
            "save_every", "sample_bytes", "keep", "out", "accumulate", "precision"]
    )]
    pub resume: Option<String>,
    /// Start at step 0 from the weights of a run, checkpoint or model file (.safetensors or .tinygpt), whose model is taken unless --preset, --config or --graph names the same
    #[arg(long, value_name = "CHECKPOINT", conflicts_with = "resume", help_heading = "Model")]
    pub init: Option<PathBuf>,
    /// Attention heads of a model file for --init that does not state them
    #[arg(long, value_name = "N", value_parser = usage::whole::<usize>(1..=4096), requires = "init", help_heading = "Model")]
    pub heads: Option<usize>,
    /// Text to train on: a file of bytes, or the word builtin [default: builtin]
    #[arg(long, value_name = "FILE|builtin", help_heading = "Data")]
    pub data: Option<String>,
    /// Text to validate on: a file of bytes [default: the last tenth of the data]
    #[arg(long, value_name = "FILE", help_heading = "Data")]
    pub val_data: Option<String>,
    /// Batches a step, 1 or more, whose gradients are averaged: a step as of a batch N times as large, in the memory of one [default: 1]
    #[arg(long, value_name = "N", help_heading = "Training")]
    pub accumulate: Option<u64>,
    /// End after step N with a checkpoint, as an interruption would; N is from 1 to steps
    #[arg(long, value_name = "N", value_parser = usage::whole::<u64>(1..=u64::MAX), help_heading = "Training")]
    pub stop_at: Option<u64>,
    /// Run directory to make [default: runs/DATE-TIME-PRESET]
    #[arg(long, value_name = "DIR", help_heading = "Run directory")]
    pub out: Option<PathBuf>,
    /// Steps between validations; 0 validates at the end only [default: 100]
    #[arg(long, value_name = "N", help_heading = "Run directory")]
    pub eval_every: Option<u64>,
    /// Steps between checkpoints; 0 saves at the end only [default: 500]
    #[arg(long, value_name = "N", help_heading = "Run directory")]
    pub save_every: Option<u64>,
    /// Bytes of the sample at each checkpoint and at the end, 0 to 1048576; 0 for none [default: the preset's]
    #[arg(long, value_name = "N", help_heading = "Run directory")]
    pub sample_bytes: Option<usize>,
    /// Newest checkpoints kept, beside the best by validation loss; 0 keeps all [default: 2]
    #[arg(long, value_name = "N", help_heading = "Run directory")]
    pub keep: Option<usize>,
    #[command(flatten)]
    pub exec: ExecArgs,
    /// Print the resolved configuration and stop
    #[arg(long, help_heading = "What to print")]
    pub print_config: bool,
    /// Go on until a step has numbers that are not finite, and name the operation that made the first; writes no run directory
    #[arg(long, conflicts_with = "out", help_heading = "What to print")]
    pub find_nan: bool,
    /// Print how long each pass of the compiler took, and what it did
    #[arg(long, help_heading = "What to print")]
    pub time_passes: bool,
    /// Show the run on the whole terminal: curves, figures, samples, and keys to stop, to sample and to save
    #[arg(long, help_heading = "What to print")]
    pub tui: bool,
}

impl TrainArgs {
    /// The flags as the topmost layer of the configuration.
    pub fn overrides(&self) -> RunOverride {
        let mut over = RunOverride { graph: self.graph.clone(), ..self.run.layer() };
        over.data.data = self.data.clone();
        over.data.val_data = self.val_data.clone().map(Some);
        let train = &mut over.train;
        train.accumulate = self.accumulate;
        train.eval_every = self.eval_every;
        train.save_every = self.save_every;
        train.sample_bytes = self.sample_bytes;
        train.keep = self.keep;
        train.backend = self.exec.backend;
        train.threads = self.exec.threads.map(|n| Some(usize::from(n)));
        train.isa = self.exec.isa.map(Some);
        train.no_templates = self.exec.no_templates.then_some(true);
        train.adapter = self.exec.gpu.adapter.clone().map(Some);
        train.checked = self.exec.gpu.checked.then_some(true);
        train.no_tune = self.exec.no_tune.then_some(true);
        train.precision = self.exec.gpu.precision;
        over
    }
}

/// What `export` writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    /// One file that PyTorch opens: a state_dict, linear weights as [out, in]
    Safetensors,
    /// A folder that transformers loads as GPT2LMHeadModel
    HfGpt2,
    /// One file of the original TinyGPT, with the optimizer's moments
    Tinygpt,
    /// A folder for pages and Node: WebAssembly modules, weights, a manifest and the JavaScript runner
    Web,
}

const EXPORT_EXAMPLES: &str = "\
Examples:
  tinygpt export --format safetensors --checkpoint run -o model.safetensors
  tinygpt export --format web --checkpoint run -o page   a trained model
  tinygpt export --format web --preset tiny -o page      its starting weights";

#[derive(Debug, Clone, Args)]
#[command(after_help = EXPORT_EXAMPLES)]
pub struct ExportArgs {
    /// What to write
    #[arg(long, value_enum, value_name = "F")]
    pub format: ExportFormat,
    /// File or folder to make; of the format web an older export is replaced
    #[arg(short, value_name = "PATH")]
    pub out: PathBuf,
    /// Run directory (its latest checkpoint), checkpoint directory, or model file (.safetensors or .tinygpt) to write, with its configuration [default: the starting weights of a seed]
    #[arg(long, value_name = "PATH", help_heading = "Model", conflicts_with_all = ConfigArgs::FLAGS)]
    pub checkpoint: Option<PathBuf>,
    /// Attention heads of a model file that does not state them
    #[arg(long, value_name = "N", value_parser = usage::whole::<usize>(1..=4096), requires = "checkpoint", help_heading = "Model")]
    pub heads: Option<usize>,
    #[command(flatten)]
    pub run: ConfigArgs,
}
