//! `cargo xtask bench-peers`: training steps of tinygpt and of its peers on the CPU, timed alternately.
//!
//! Invariants:
//! - Every side starts from one file of `tinygpt bench --save-start`: the same weights, the same batches, the same constants. In the first round
//!   each side also prints the losses of its first [`LOSSES`] steps, and one that differs from tinygpt's by more than
//!   [`result::LOSS_TOLERANCE`] ends the run: another model would have been timed. So do unequal parameter counts.
//! - Each measurement is a process of its own, and the sides run one at a time, in an order that turns around every round, so that a machine
//!   that warms up or gets busier favours none.
//! - The figure of a side is the median over rounds of each round's median step; every round is printed, so that the spread shows.

mod result;
mod setup;
mod table;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::{Failure, root, spelled};
use result::Run;
use setup::Setup;

/// First steps whose losses must agree.
const LOSSES: u32 = 20;

#[derive(clap::Args)]
pub struct Args {
    /// Presets, separated by commas
    #[arg(long, value_name = "P[,P..]", value_delimiter = ',', default_value = "small,medium,large,xl")]
    preset: Vec<String>,
    /// Peers, separated by commas
    #[arg(long, value_name = "P[,P..]", value_enum, value_delimiter = ',', default_values_t = Peer::ALL)]
    peers: Vec<Peer>,
    /// Threads of every side
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    threads: u32,
    /// Runs of every side
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Timed steps of a run
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    /// A Python that has what the chosen peers need, instead of the virtual environment in target/peers
    #[arg(long, value_name = "PATH")]
    python: Option<PathBuf>,
    /// Run every side at real-time priority (`chrt -f 10`, as root): other processes then wait
    #[arg(long)]
    realtime: bool,
}

/// What tinygpt is compared with.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Peer {
    /// PyTorch, eager
    Torch,
    /// PyTorch through torch.compile
    TorchCompile,
    /// PyTorch, eager, MKL on its AVX-512 path
    TorchAvx512,
    /// PyTorch through torch.compile, MKL on its AVX-512 path
    TorchCompileAvx512,
    /// JAX, linear layers on three dimensions
    Jax,
    /// JAX, batch and time flattened by hand
    JaxFlat,
    /// burn on its Flex backend with AVX-512
    Burn,
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl Peer {
    const ALL: [Peer; 7] = [
        Peer::Torch,
        Peer::TorchCompile,
        Peer::TorchAvx512,
        Peer::TorchCompileAvx512,
        Peer::Jax,
        Peer::JaxFlat,
        Peer::Burn,
    ];

    fn name(self) -> &'static str {
        match self {
            Peer::Torch => "torch",
            Peer::TorchCompile => "torch-compile",
            Peer::TorchAvx512 => "torch-avx512",
            Peer::TorchCompileAvx512 => "torch-compile-avx512",
            Peer::Jax => "jax",
            Peer::JaxFlat => "jax-flat",
            Peer::Burn => "burn",
        }
    }

    /// The script in benches/peers and its mode; none for burn, which is a program.
    fn script(self) -> Option<(&'static str, &'static str)> {
        match self {
            Peer::Torch | Peer::TorchAvx512 => Some(("torch_step.py", "eager")),
            Peer::TorchCompile | Peer::TorchCompileAvx512 => Some(("torch_step.py", "compile")),
            Peer::Jax => Some(("jax_step.py", "plain")),
            Peer::JaxFlat => Some(("jax_step.py", "flat")),
            Peer::Burn => None,
        }
    }

    /// Whether MKL is made to take its AVX-512 path.
    fn avx512_mkl(self) -> bool {
        matches!(self, Peer::TorchAvx512 | Peer::TorchCompileAvx512)
    }
}

/// One side of the comparison: tinygpt, or a peer.
type Side = Option<Peer>;

/// All runs of one preset, by side; the first side is tinygpt's.
struct Measured {
    preset: String,
    sides: Vec<(Side, Vec<Run>)>,
}

/// Set the peers up, run all sides alternately, check that they train alike, print the tables and write target/peers/results.json.
pub fn bench_peers(args: &Args) -> Result<(), Failure> {
    let folder = root().join("target/peers");
    let setup = Setup::new(&folder, &args.peers, args.python.as_deref())?;
    if args.realtime && !setup::runs(Command::new("chrt").arg("--version")) {
        return Err(Failure::Unusable(
            "--realtime needs the command chrt, which cannot be started: install util-linux".into(),
        ));
    }
    let mut all = Vec::new();
    for preset in &args.preset {
        all.push(compare(preset, &setup, args)?);
    }
    let report = table::report(&all, args.threads, args.rounds, args.steps, args.realtime);
    println!("\n{report}");
    let path = folder.join("results.json");
    let results = json!({
        "threads": args.threads,
        "rounds": args.rounds,
        "steps": args.steps,
        "realtime": args.realtime,
        "presets": all.iter().map(Measured::to_json).collect::<Vec<_>>(),
    });
    std::fs::write(&path, format!("{results:#}\n"))
        .map_err(|error| Failure::Failed(format!("cannot write {}: {error}", path.display())))?;
    eprintln!("xtask: wrote {}", path.display());
    Ok(())
}

fn compare(preset: &str, setup: &Setup, args: &Args) -> Result<Measured, Failure> {
    let start = setup.save_start(preset, LOSSES)?;
    let sides = std::iter::once(None).chain(args.peers.iter().copied().map(Some));
    let mut sides: Vec<(Side, Vec<Run>)> = sides.map(|side| (side, Vec::new())).collect();
    println!("{preset}: median ms per step of {} steps, by round", args.steps);
    let names: Vec<String> = sides.iter().map(|(side, _)| format!("{:>22}", name(*side))).collect();
    println!("round{}", names.concat());
    for round in 0..args.rounds {
        // The first round goes from left to right, the second from right to left, and so on.
        let mut order: Vec<usize> = (0..sides.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        let losses = if round == 0 { LOSSES } else { 0 };
        for at in order {
            let (side, runs) = &mut sides[at];
            runs.push(run(&mut command(*side, preset, &start, losses, setup, args), preset)?);
        }
        if round == 0 {
            result::check_alike(&sides.iter().map(|(side, runs)| (name(*side), &runs[0])).collect::<Vec<_>>())
                .map_err(Failure::Failed)?;
        }
        let row: Vec<String> =
            sides.iter().map(|(_, runs)| format!("{:>22.2}", runs[round as usize].median_ms)).collect();
        println!("{:>5}{}", round + 1, row.concat());
    }
    Ok(Measured { preset: preset.to_owned(), sides })
}

fn name(side: Side) -> &'static str {
    side.map_or("tinygpt", Peer::name)
}

/// The process that times one side.
fn command(side: Side, preset: &str, start: &Path, losses: u32, setup: &Setup, args: &Args) -> Command {
    let program = match side {
        None => setup.tinygpt.clone(),
        Some(peer) if peer.script().is_some() => setup.python.clone(),
        Some(_) => setup.burn.clone(),
    };
    let mut command = if args.realtime {
        let mut chrt = Command::new("chrt");
        chrt.args(["-f", "10"]).arg(program);
        chrt
    } else {
        Command::new(program)
    };
    match (side, side.and_then(Peer::script)) {
        (None, _) => {
            command.args(["bench", "--preset", preset, "--json", "--threads", &args.threads.to_string()]);
        }
        (Some(peer), Some((script, mode))) => {
            command.arg(root().join("benches/peers").join(script)).arg("--start").arg(start);
            command.args(["--mode", mode, "--threads", &args.threads.to_string()]);
            // Python's caches and torch.compile's stay out of the sources and out of the home folder.
            command.env("PYTHONDONTWRITEBYTECODE", "1").env("TORCHINDUCTOR_CACHE_DIR", setup.folder.join("inductor"));
            if peer.avx512_mkl() {
                command.env("LD_PRELOAD", &setup.mkl_avx512);
            }
        }
        (Some(_), None) => {
            command.arg("--start").arg(start).env("RAYON_NUM_THREADS", args.threads.to_string());
        }
    }
    command.args(["--losses", &losses.to_string(), "--steps", &args.steps.to_string()]);
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
    Run::parse(&String::from_utf8_lossy(&output.stdout), preset)
        .map_err(|message| Failure::Failed(format!("`{name}`: {message}")))
}

impl Measured {
    /// tinygpt's runs.
    fn ours(&self) -> &[Run] {
        &self.sides[0].1
    }

    /// The runs of a peer, where it was asked for.
    fn of(&self, peer: Peer) -> Option<&[Run]> {
        self.sides.iter().find(|(side, _)| *side == Some(peer)).map(|(_, runs)| runs.as_slice())
    }

    fn to_json(&self) -> Value {
        let sides = self.sides.iter().map(|(side, runs)| (name(*side).to_owned(), result::to_json(runs)));
        json!({"preset": self.preset, "sides": sides.collect::<serde_json::Map<_, _>>()})
    }
}
