//! Times decoding with a cache: `cargo run --release -p tinygpt-runtime --example decode_bench -- [PRESET] [THREADS]`.
//!
//! Prints the stages, kernels and rounds of one step, and tokens a second over contexts filled from their beginning to their end, with
//! random weights: which token comes does not change the work.

use std::time::Instant;
use tinygpt_runtime::compile::{self, ExecOptions, Goal};
use tinygpt_runtime::config::{Backend, RunConfig};
use tinygpt_runtime::generate::Generator;
use tinygpt_runtime::model::{decode, forward, initial_weights};
use tinygpt_runtime::{Error, Result};

/// Contexts that are timed.
const CONTEXTS: usize = 9;

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let preset = args.next().unwrap_or_else(|| "large".to_string());
    let threads = args.next().map_or(Ok(2), |n| n.parse()).map_err(|e| Error::input(format!("THREADS: {e}")))?;
    let model = RunConfig::preset(&preset)?.model;
    let options = ExecOptions { backend: Backend::Cpu, threads, isa: None, no_templates: false, gpu: None };
    let compiled = compile::compile(decode(&model)?, &Goal::Infer(&["logits"]), &options.target())?;
    if std::env::var_os("PROGRAM").is_some() {
        print!("{}", compiled.program);
    }
    println!(
        "{preset}, {threads} thread(s): {} stages, {} kernels",
        compiled.program.stages.len(),
        compiled.program.kernels.len()
    );
    let mut generator = Generator::new(&model, &options)?;
    generator.load(&initial_weights(&forward(&model, 1)?, 1)?, "the starting weights")?;
    let mut times = Vec::new();
    for start in 0..CONTEXTS {
        // Another first token, so that nothing of the last context is kept.
        let mut tokens = vec![start as i32];
        let begin = Instant::now();
        for _ in 0..model.ctx {
            generator.next(&tokens)?;
            tokens.push(1);
        }
        times.push(begin.elapsed().as_secs_f64() / model.ctx as f64);
    }
    times.sort_by(f64::total_cmp);
    let [best, median] = [times[0], times[CONTEXTS / 2]];
    println!("{:.1} us a token, {:.0} tokens/s (best {:.0})", median * 1e6, 1.0 / median, 1.0 / best);
    Ok(())
}
