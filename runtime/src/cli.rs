//! The command line: what may be said, and nothing about what is done.
//!
//! Invariants: parsing reads no file and no environment; each flag is declared once, with its help; a flag that changes
//! the configuration has the name of its key, and [`TrainArgs::overrides`] is the only place where the two meet. Flags
//! that clap refuses end with exit status 2, like every other bad input.

use crate::config::{Backend, Isa, RunOverride};
use crate::schedule::ScheduleKind;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// A compiler for small language models: declare, differentiate, fuse, train.
#[derive(Debug, Parser)]
#[command(name = "tinygpt", version, propagate_version = true)]
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
    /// Loss of a model on a whole file
    Eval(EvalArgs),
    /// Time training steps
    Bench(BenchArgs),
    /// Show where the time of a training step goes, kernel by kernel
    Profile(ProfileArgs),
    /// Write a page that leads from the lines of a model to its kernels and code, and back; or a picture of its graph
    Viz(VizArgs),
    /// Compare with a fixture recorded by PyTorch; exit status 1 beyond tolerance
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
    /// List what can run programs here
    Devices,
}

/// What runs the program.
#[derive(Debug, Clone, Default, Args)]
pub struct ExecArgs {
    /// What runs the program [default: cpu]
    #[arg(long, value_enum)]
    pub backend: Option<Backend>,
    /// Threads of the cpu and wasm backends [default: one a core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Instruction set of the cpu templates [default: the best this machine has]
    #[arg(long, value_enum)]
    pub isa: Option<Isa>,
    /// Run generated code only, without the cpu templates
    #[arg(long)]
    pub no_templates: bool,
    /// Part of the name of the gpu backend's adapter [default: the best there is; `tinygpt devices` lists them]
    #[arg(long, value_name = "SUBSTRING")]
    pub adapter: Option<String>,
    /// Compile bounds checks into gpu kernels
    #[arg(long)]
    pub checked: bool,
    /// Take the default variants of gpu kernels instead of timing them
    #[arg(long)]
    pub no_tune: bool,
}

#[derive(Debug, Clone, Default, Args)]
pub struct TrainArgs {
    /// Named configuration to start from [default: small]
    #[arg(long, value_name = "P", conflicts_with = "config")]
    pub preset: Option<String>,
    /// Configuration file
    #[arg(long, value_name = "FILE.toml")]
    pub config: Option<PathBuf>,
    /// Train this forward graph: inputs ids and targets i32[B,T], output loss f32[], for samples also logits f32[B,T,256]
    #[arg(long, value_name = "F.gir", conflicts_with_all = ["preset", "config"])]
    pub graph: Option<String>,
    /// Go on with the run in DIR, or with the newest one: takes its stored configuration
    #[arg(
        long,
        value_name = "DIR|auto",
        conflicts_with_all = ["preset", "config", "graph", "data", "val_data", "backend", "isa", "no_templates", "batch",
            "steps", "lr", "schedule", "warmup", "seed", "eval_every", "save_every", "sample_bytes", "keep", "out"]
    )]
    pub resume: Option<String>,
    /// Text to train on: a file of bytes, or builtin
    #[arg(long, value_name = "FILE|builtin")]
    pub data: Option<String>,
    /// Text to validate on [default: the last tenth of the data]
    #[arg(long, value_name = "FILE")]
    pub val_data: Option<String>,
    #[command(flatten)]
    pub exec: ExecArgs,
    /// Rows of a batch
    #[arg(long, value_name = "N")]
    pub batch: Option<usize>,
    /// Planned total of steps, which the schedule spans
    #[arg(long, value_name = "N")]
    pub steps: Option<u64>,
    /// End after N steps with a checkpoint, as an interruption would
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub stop_at: Option<u64>,
    /// Peak learning rate
    #[arg(long, value_name = "F")]
    pub lr: Option<f64>,
    /// Shape of the learning rate over the run
    #[arg(long, value_enum)]
    pub schedule: Option<ScheduleKind>,
    /// Steps of linear warm-up
    #[arg(long, value_name = "N")]
    pub warmup: Option<u64>,
    /// Seed of weights, batches and samples
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Steps between validations; 0 for the end only
    #[arg(long, value_name = "N")]
    pub eval_every: Option<u64>,
    /// Steps between checkpoints; 0 for the end only
    #[arg(long, value_name = "N")]
    pub save_every: Option<u64>,
    /// Bytes of the sample at each checkpoint and at the end; 0 for none
    #[arg(long, value_name = "N")]
    pub sample_bytes: Option<usize>,
    /// Newest checkpoints kept; 0 keeps all
    #[arg(long, value_name = "N")]
    pub keep: Option<usize>,
    /// Run directory to make [default: runs/DATE-TIME-PRESET]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Print the resolved configuration and stop
    #[arg(long)]
    pub print_config: bool,
    /// Print how long each pass of the compiler took, and what it did
    #[arg(long)]
    pub time_passes: bool,
}

impl TrainArgs {
    /// The flags as the topmost layer of the configuration.
    pub fn overrides(&self) -> RunOverride {
        let mut over = RunOverride { preset: self.preset.clone(), graph: self.graph.clone(), ..RunOverride::default() };
        over.data.data = self.data.clone();
        over.data.val_data = self.val_data.clone().map(Some);
        let train = &mut over.train;
        train.batch = self.batch;
        train.steps = self.steps;
        train.lr = self.lr;
        train.schedule = self.schedule;
        train.warmup = self.warmup;
        train.seed = self.seed;
        train.eval_every = self.eval_every;
        train.save_every = self.save_every;
        train.sample_bytes = self.sample_bytes;
        train.keep = self.keep;
        train.backend = self.exec.backend;
        train.threads = self.exec.threads.map(|n| Some(usize::from(n)));
        train.isa = self.exec.isa.map(Some);
        train.no_templates = self.exec.no_templates.then_some(true);
        train.adapter = self.exec.adapter.clone().map(Some);
        train.checked = self.exec.checked.then_some(true);
        train.no_tune = self.exec.no_tune.then_some(true);
        over
    }
}

#[derive(Debug, Clone, Args)]
pub struct SampleArgs {
    /// Run directory, checkpoint directory or model file
    #[arg(long, value_name = "PATH")]
    pub checkpoint: PathBuf,
    /// Text to continue; a newline when none is given
    #[arg(long, value_name = "S", default_value = crate::generate::DEFAULT_PROMPT, hide_default_value = true)]
    pub prompt: String,
    /// Bytes to add
    #[arg(long, value_name = "N", default_value_t = 400)]
    pub tokens: usize,
    /// 0 always takes the likeliest byte
    #[arg(long, value_name = "T", default_value_t = 0.8)]
    pub temperature: f64,
    /// Draw from the K likeliest bytes only [default: all]
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
    /// Run directory, checkpoint directory or model file
    #[arg(long, value_name = "PATH")]
    pub checkpoint: PathBuf,
    /// File of bytes
    #[arg(long, value_name = "FILE")]
    pub data: PathBuf,
    /// Print one JSON object
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
    /// Steps timed, after the first ones
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    pub steps: u64,
    /// Print one JSON object a line
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
    /// Steps that the figures are medians of
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    pub steps: u64,
    /// What a row stands for
    #[arg(long, value_enum, default_value = "kernel")]
    pub by: crate::profile::GroupBy,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Write the last step's timeline, for ui.perfetto.dev, to a file
    #[arg(long, value_name = "F.json")]
    pub trace: Option<PathBuf>,
    #[command(flatten)]
    pub exec: ExecArgs,
}

#[derive(Debug, Clone, Args)]
pub struct VizArgs {
    /// Preset whose training step is shown
    #[arg(long, value_name = "P", default_value = crate::config::DEFAULT_PRESET)]
    pub preset: String,
    /// Graph in text form to show instead: its training step if it has an output loss, weights and no updates, else as it is
    #[arg(long, value_name = "F.gir", conflicts_with = "preset")]
    pub graph: Option<PathBuf>,
    /// Colour kernels by the times of a profile: `tinygpt profile --json > P.json` of the same preset
    #[arg(long, value_name = "P.json")]
    pub profile: Option<PathBuf>,
    /// The page to write; with the ending .dot a picture of one graph for Graphviz
    #[arg(short, value_name = "F.html|F.dot")]
    pub out: PathBuf,
    /// The graph of the picture: graph, grad, or that after expand, simplify, split-reduce or simplify-2 [default: graph]
    #[arg(long, value_name = "PASS")]
    pub after: Option<String>,
}

#[derive(Debug, Clone, Args)]
pub struct ParityArgs {
    /// Recorded configuration, weights, gradients and tokens
    #[arg(value_name = "FIXTURE.safetensors")]
    pub fixture: PathBuf,
    #[command(flatten)]
    pub exec: ExecArgs,
    /// Write the table to a file in DIR instead of standard output
    #[arg(short, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

/// A stage of the compiler that prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Stage {
    /// The forward graph
    Graph,
    /// The whole training step: loss, gradients, clip, optimizer
    Grad,
    /// Kernels after fusion
    Fused,
    /// Ordered kernels and the buffer plan
    Program,
    /// Cranelift's input
    Clif,
    /// Machine code
    Asm,
    /// WebAssembly as text, for the wasm backend and for pages
    Wat,
    /// WebAssembly as a module of the whole program; needs -o
    Wasm,
    /// WebGPU's shading language, for the gpu backend
    Wgsl,
    /// SPIR-V of the wgsl stage, disassembled
    Spv,
    /// Metal's shading language, of the wgsl stage
    Msl,
    /// DirectX's shading language, of the wgsl stage
    Hlsl,
}

/// What a program is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, ValueEnum)]
pub enum Target {
    /// One slab of memory, a barrier between stages
    Cpu,
    /// Bound buffers, a dispatch a kernel
    Gpu,
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Cpu => "cpu",
            Self::Gpu => "gpu",
        })
    }
}

#[derive(Debug, Clone, Args)]
#[command(group = clap::ArgGroup::new("what").required(true))]
pub struct DumpArgs {
    /// Preset whose training step is compiled
    #[arg(long, value_name = "P", default_value = crate::config::DEFAULT_PRESET)]
    pub preset: String,
    /// Graph in text form to compile instead: its training step if it has an output loss, weights and no updates, else as it is
    #[arg(long, value_name = "F.gir", conflicts_with = "preset")]
    pub graph: Option<PathBuf>,
    /// Print this stage
    #[arg(long, value_enum, group = "what")]
    pub stage: Option<Stage>,
    /// Print the graph or program after this pass: expand, simplify, split-reduce, simplify-2, fuse, schedule or memory
    #[arg(long, value_name = "PASS", group = "what")]
    pub after: Option<String>,
    /// Write everything there is to the directory of -o: numbered files, and manifest.json
    #[arg(long, group = "what", requires = "out", conflicts_with = "target")]
    pub all: bool,
    /// Print what changed between two stages or passes, as a unified diff
    #[arg(long, group = "what", num_args = 2, value_names = ["A", "B"])]
    pub diff: Option<Vec<String>>,
    /// Whose program the stages fused and program and the passes after fuse are of [default: cpu]
    #[arg(long, value_enum)]
    pub target: Option<Target>,
    /// Instruction set of the code stages: one that this machine has, or portable [default: the best this machine has]
    #[arg(long, value_enum)]
    pub isa: Option<Isa>,
    /// Generated code only, without the cpu templates
    #[arg(long)]
    pub no_templates: bool,
    /// Use the capabilities of the gpu adapter whose name holds this, for the wgsl stages [default: those that every WebGPU has]
    #[arg(long, value_name = "SUBSTRING")]
    pub adapter: Option<String>,
    /// Variants of gpu kernels as a run's plan has them [default: the default variants]
    #[arg(long, value_name = "FILE")]
    pub plan: Option<PathBuf>,
    /// Only kernels whose name matches this regular expression
    #[arg(long, value_name = "RE")]
    pub kernel: Option<String>,
    /// Print what fusion considered, what it decided, and why, instead of the kernels of the stage fused
    #[arg(long, requires = "stage")]
    pub remarks: bool,
    /// Leave out the comments that name the DSL lines of nodes and kernels
    #[arg(long)]
    pub no_lines: bool,
    /// Write to files in DIR instead of standard output: one a kernel for code stages
    #[arg(short, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

#[derive(Debug, Clone, Args)]
pub struct OptArgs {
    /// Text of a graph or program, or a reproducer; - is standard input
    #[arg(value_name = "F")]
    pub file: PathBuf,
    /// Passes to run, in order [default: those of the reproducer]
    #[arg(long, value_name = "A,B,..")]
    pub passes: Option<String>,
    /// What fuse, schedule and memory work for [default: cpu]
    #[arg(long, value_enum)]
    pub target: Option<Target>,
    /// Verify after every pass, not only after the last
    #[arg(long)]
    pub verify_each: bool,
    /// Print the text after each pass that changed it, to standard error
    #[arg(long)]
    pub print_changed: bool,
    /// Print how long each pass took, and what it did
    #[arg(long)]
    pub time_passes: bool,
    /// Print nodes, kernels and bytes before and after each pass
    #[arg(long)]
    pub stats: bool,
    /// Write to FILE instead of standard output
    #[arg(short, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Where a failing pass leaves its reproducer
    #[arg(long, value_name = "DIR", default_value = ".", hide_default_value = true)]
    pub repro_dir: PathBuf,
}

/// What a run can be compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Reference {
    /// The f64 interpreter
    Interp,
}

#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    /// Text of a graph or program; - is standard input
    #[arg(value_name = "F")]
    pub file: PathBuf,
    /// Show the largest error of each output against this
    #[arg(long, value_enum)]
    pub compare: Option<Reference>,
    /// Seed of inputs and states
    #[arg(long, value_name = "N", default_value_t = 42)]
    pub seed: u64,
    /// Greatest error, as a share of an output's largest magnitude
    #[arg(long, value_name = "F", default_value_t = crate::commands::run::TOLERANCE)]
    pub tolerance: f64,
    #[command(flatten)]
    pub exec: ExecArgs,
}

#[derive(Debug, Clone, Args)]
pub struct CheckArgs {
    /// Filetests, and folders of them
    #[arg(value_name = "PATH", required = true)]
    pub paths: Vec<PathBuf>,
    /// Write the new results into the files that differ
    #[arg(long)]
    pub bless: bool,
    /// Only files whose path matches this regular expression
    #[arg(long, value_name = "RE")]
    pub filter: Option<String>,
}

/// What `export` writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    /// A folder for pages and Node: WebAssembly modules, weights, a manifest and the JavaScript runner
    Web,
}

#[derive(Debug, Clone, Args)]
pub struct ExportArgs {
    #[arg(long, value_enum)]
    pub format: ExportFormat,
    /// Run directory, checkpoint directory or model file to go on from, with its configuration [default: the starting weights of a seed]
    #[arg(
        long,
        value_name = "PATH",
        conflicts_with_all = ["preset", "config", "batch", "steps", "lr", "schedule", "warmup", "seed"]
    )]
    pub checkpoint: Option<PathBuf>,
    /// Named configuration to start from [default: small]
    #[arg(long, value_name = "P", conflicts_with = "config")]
    pub preset: Option<String>,
    /// Configuration file
    #[arg(long, value_name = "FILE.toml")]
    pub config: Option<PathBuf>,
    /// Rows of a batch
    #[arg(long, value_name = "N")]
    pub batch: Option<usize>,
    /// Planned total of steps, which the schedule spans
    #[arg(long, value_name = "N")]
    pub steps: Option<u64>,
    /// Peak learning rate
    #[arg(long, value_name = "F")]
    pub lr: Option<f64>,
    /// Shape of the learning rate over the run
    #[arg(long, value_enum)]
    pub schedule: Option<ScheduleKind>,
    /// Steps of linear warm-up
    #[arg(long, value_name = "N")]
    pub warmup: Option<u64>,
    /// Seed of weights, batches and samples
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Folder to make; an older export is replaced
    #[arg(short, value_name = "DIR")]
    pub out: PathBuf,
}

impl ExportArgs {
    /// The flags as the topmost layer of the configuration.
    pub fn overrides(&self) -> RunOverride {
        let mut over = RunOverride { preset: self.preset.clone(), ..RunOverride::default() };
        let train = &mut over.train;
        train.batch = self.batch;
        train.steps = self.steps;
        train.lr = self.lr;
        train.schedule = self.schedule;
        train.warmup = self.warmup;
        train.seed = self.seed;
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{RunConfig, TrainConfig};
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<Command, clap::Error> {
        Cli::try_parse_from(line.split(' ')).map(|cli| cli.command)
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
            let words: Vec<_> = line.split_whitespace().collect();
            Cli::try_parse_from(words).unwrap_or_else(|e| panic!("{line}: {e}"));
        }
    }

    #[test]
    fn nonsense_is_refused_with_status_2() {
        for line in [
            "tinygpt",
            "tinygpt trian",
            "tinygpt train --threads 0",
            "tinygpt train --threads many",
            "tinygpt train --preset a --config b",
            "tinygpt train --resume d --lr 1",
            "tinygpt train --graph f.gir --preset tiny",
            "tinygpt dump --graph f.gir --preset tiny --stage graph",
            "tinygpt train --resume d --out e",
            "tinygpt train --stop-at 0",
            "tinygpt train --steps -1",
            "tinygpt train --schedule linear",
            "tinygpt sample",
            "tinygpt check",
            "tinygpt dump",
            "tinygpt dump --all",
            "tinygpt dump --diff graph",
            "tinygpt dump --stage graph --after fuse",
            "tinygpt bench --steps 0",
            "tinygpt export --format web",
            "tinygpt export --format onnx -o d",
            "tinygpt export --format web --checkpoint c --lr 1 -o d",
            "tinygpt opt",
            "tinygpt run f.gir --compare cpu",
        ] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
    }

    /// Every flag named like a configuration key reaches that key.
    #[test]
    fn flags_reach_the_keys_of_their_names() {
        let changes = [
            ("batch", "3"),
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
            let config = RunConfig::resolve(args.preset.as_deref(), None, &args.overrides()).unwrap();
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
}
