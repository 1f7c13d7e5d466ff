//! Commands that show and check what the compiler does: `dump`, `viz`, `opt`, `run`, `check`.

use super::ExecArgs;
use crate::config::Isa;
use clap::{Args, ValueEnum};
use std::path::PathBuf;

/// The model that `dump` and `viz` compile.
#[derive(Debug, Clone, Args)]
pub struct GraphArgs {
    /// Preset whose training step is compiled
    #[arg(long, value_name = "P", default_value = crate::config::DEFAULT_PRESET, help_heading = "Model")]
    pub preset: String,
    /// Graph in text form to compile instead: its training step if it has an output loss, weights and no updates, else as it is
    #[arg(long, value_name = "F.gir", conflicts_with = "preset", help_heading = "Model")]
    pub graph: Option<PathBuf>,
}

#[derive(Debug, Clone, Args)]
pub struct VizArgs {
    #[command(flatten)]
    pub model: GraphArgs,
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

const DUMP_EXAMPLES: &str = "\
Examples:
  tinygpt dump --stage program                kernels in order, and their bytes
  tinygpt dump --stage wgsl --kernel '^attn'  the shaders of some kernels
  tinygpt dump --diff graph grad              what differentiation adds
  tinygpt dump --all -o small                 every stage and all code, as files";

#[derive(Debug, Clone, Args)]
#[command(group = clap::ArgGroup::new("what").required(true), after_help = DUMP_EXAMPLES)]
pub struct DumpArgs {
    #[command(flatten)]
    pub model: GraphArgs,
    /// Print this stage
    #[arg(long, value_enum, value_name = "STAGE", group = "what", help_heading = "What to print")]
    pub stage: Option<Stage>,
    /// Print the graph or program after this pass: expand, simplify, split-reduce, simplify-2, fuse, schedule or memory
    #[arg(long, value_name = "PASS", group = "what", help_heading = "What to print")]
    pub after: Option<String>,
    /// Write everything there is to the directory of -o: numbered files, and manifest.json
    #[arg(long, group = "what", requires = "out", conflicts_with = "target", help_heading = "What to print")]
    pub all: bool,
    /// Print what changed between two stages or passes, as a unified diff
    #[arg(long, group = "what", num_args = 2, value_names = ["A", "B"], help_heading = "What to print")]
    pub diff: Option<Vec<String>>,
    /// Backend that the stages fused and program, and the passes from fuse on, compile for [default: cpu]
    #[arg(long, value_enum, value_name = "T", help_heading = "For what to compile")]
    pub target: Option<Target>,
    /// Instruction set of the code stages: one that this machine has, or portable [default: the best this machine has]
    #[arg(long, value_enum, value_name = "ISA", help_heading = "For what to compile")]
    pub isa: Option<Isa>,
    /// Print generated code only, without the cpu backend's templates
    #[arg(long, help_heading = "For what to compile")]
    pub no_templates: bool,
    /// Adapter whose capabilities wgsl, spv, msl and hlsl use, by a part of its name [default: what every WebGPU has]
    #[arg(long, value_name = "NAME", help_heading = "For what to compile")]
    pub adapter: Option<String>,
    /// Variants of gpu kernels, from the plan in a run directory [default: the default variants]
    #[arg(long, value_name = "FILE", help_heading = "For what to compile")]
    pub plan: Option<PathBuf>,
    /// Print only kernels whose name matches this regular expression
    #[arg(long, value_name = "RE", help_heading = "What to print")]
    pub kernel: Option<String>,
    /// Print what fusion considered, what it decided, and why, instead of the kernels of the stage fused
    #[arg(long, requires = "stage", help_heading = "What to print")]
    pub remarks: bool,
    /// Leave out the comments that name the DSL lines of nodes and kernels
    #[arg(long, help_heading = "What to print")]
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
    /// Backend that fuse, schedule and memory compile for [default: cpu]
    #[arg(long, value_enum, value_name = "T")]
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
    /// Folder where a failing pass leaves its reproducer [default: the current one]
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
    /// Seed of inputs and states: the same seed gives the same numbers
    #[arg(long, value_name = "N", default_value_t = 42)]
    pub seed: u64,
    /// Largest error allowed, as a share of an output's largest magnitude
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
    /// Check only files whose path matches this regular expression
    #[arg(long, value_name = "RE")]
    pub filter: Option<String>,
}
