//! `tune`: a longer search for the variants of a training step's kernels on a GPU.
//!
//! Invariants: the programs are those that `train` runs with the same configuration; what is found is in the tuning cache, from which every later run
//! takes it; standard output holds the result alone.

use super::{Ending, exec_options, print, say, say_notes, train};
use crate::cli::{ExecArgs, TuneArgs};
use crate::compile::{Goal, compile};
use crate::config::{Backend, RunConfig, RunOverride};
use crate::error::one_line;
use crate::gpu::search::{Found, search};
use crate::model::adamw;
use crate::{Error, Result};
use serde::Serialize;
use std::fmt::Write as _;
use std::time::Duration;

/// One program's result, a line of `--json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Tuned {
    program: String,
    /// The GPU's name.
    adapter: String,
    /// Variants that were timed.
    tried: usize,
    /// Milliseconds of a step on the device's clock, without writes and reads.
    ms_before: f64,
    ms: f64,
    /// Whether no variant near those that run is left to try.
    exhausted: bool,
    changes: Vec<Changed>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Changed {
    /// The first of the kernels, and how many launches of a step run alike.
    kernel: String,
    launches: usize,
    before: String,
    after: String,
}

pub fn run(args: &TuneArgs) -> Result<Ending> {
    let mut over = RunOverride { preset: args.preset.clone(), graph: args.graph.clone(), ..RunOverride::default() };
    over.train.batch = args.batch;
    let config = RunConfig::resolve(args.preset.as_deref(), args.config.as_deref(), &over)?;
    let exec = ExecArgs { backend: Some(Backend::Gpu), gpu: args.gpu.clone(), ..ExecArgs::default() };
    let options = exec_options(&exec, Some(&config.train))?;
    let gpu = options.gpu.as_ref().ok_or_else(|| Error::failed("the backend gpu was not opened"))?;
    let model = train::model(&config, None, false)?;
    let adamw = adamw(&config.train);
    let goals = match config.train.accumulate {
        0 | 1 => vec![Goal::Train { adamw, gradients: false }],
        micro_batches => vec![Goal::Accumulate, Goal::Update { adamw, micro_batches }],
    };
    let time = Duration::from_secs(args.seconds) / goals.len() as u32;
    for goal in goals {
        let compiled = compile(model.forward(config.train.batch)?, &goal, &options.target())?;
        let found = search(gpu, &compiled.program, time, args.rounds.unwrap_or(u64::MAX), |found| {
            say(&format!("{} variants tried, a step {:.3} ms", found.tried, 1e3 * found.now));
        })?;
        say_notes(&options);
        let tuned = Tuned::new(&compiled.program.name, &gpu.report().name, found);
        let text = if args.json {
            serde_json::to_string(&tuned)
                .map_err(|e| Error::failed(format!("cannot print the result: {}", one_line(e))))?
                + "\n"
        } else {
            tuned.text()
        };
        print(text.as_bytes())?;
    }
    Ok(Ending::Done)
}

impl Tuned {
    fn new(program: &str, adapter: &str, found: Found) -> Tuned {
        let changes = found.changes.into_iter().map(|change| Changed {
            kernel: change.kernel,
            launches: change.bundles,
            before: change.before,
            after: change.after,
        });
        Tuned {
            program: program.to_owned(),
            adapter: adapter.to_owned(),
            tried: found.tried,
            ms_before: 1e3 * found.before,
            ms: 1e3 * found.now,
            exhausted: found.exhausted,
            changes: changes.collect(),
        }
    }

    fn text(&self) -> String {
        let Tuned { program, adapter, tried, ms_before, ms, exhausted, changes } = self;
        let left = if *exhausted { "none near is left" } else { "more are left: tune again" };
        let mut text = format!(
            "{program} on {adapter}: {ms_before:.3} -> {ms:.3} ms a step, {tried} variants tried, {} kernels changed, {left}\n",
            changes.len()
        );
        for Changed { kernel, launches, before, after } in changes {
            let _ = writeln!(text, "  {kernel} (x{launches})\n    {before}\n    {after}");
        }
        text
    }
}
