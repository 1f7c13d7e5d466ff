//! `profile`: where the time of a training step goes, kernel by kernel.
//!
//! Invariants: the step is that of `bench`, on one fixed batch; clocks are read around tasks on a CPU and around dispatches on a GPU, and
//! steps without clocks are timed in alternation with them, so that what the clocks cost shows; standard output holds the profile alone.

use super::devices::cpu_name;
use super::{Ending, exec_options, print, say, say_notes};
use crate::cli::ProfileArgs;
use crate::config::{Backend, RunConfig};
use crate::error::one_line;
use crate::executor::Timeline;
use crate::model::{Batch, TrainStep, adamw};
use crate::profile::{Peak, Profile, Subject, trace};
use crate::rng::Stream;
use crate::{Error, Result, peak};
use std::time::{Duration, Instant};

/// Untimed steps before the timed ones, and for how long on a GPU at least: an idle one runs at a fraction of its clock.
const WARMUP_STEPS: u64 = 3;
const WARMUP: Duration = Duration::from_millis(300);

/// Learning rate of the steps.
const LR: f64 = 1e-3;

pub fn run(args: &ProfileArgs) -> Result<Ending> {
    let options = exec_options(&args.exec, None)?;
    if !matches!(options.backend, Backend::Cpu | Backend::Gpu) {
        return Err(Error::input(format!(
            "the backend {} keeps no clocks in its steps: profile with --backend cpu or gpu",
            options.backend
        )));
    }
    let config = RunConfig::preset(&args.preset)?;
    let mut train = TrainStep::new(&config.model, config.train.batch, adamw(&config.train), false, &options)?;
    say_notes(&options);
    train.start(config.train.seed)?;
    let mut batch = Batch::zeros(config.train.batch, config.model.ctx)?;
    let stream = Stream::new(config.train.seed, "bench");
    let (ids, targets) = batch.slices()?;
    for (at, token) in ids.iter_mut().chain(targets).enumerate() {
        *token = stream.below(at as u64, config.model.vocab as u64) as i32;
    }
    let mut number = 0;
    let (start, is_gpu) = (Instant::now(), options.backend == Backend::Gpu);
    while number < WARMUP_STEPS || (is_gpu && start.elapsed() < WARMUP) {
        number += 1;
        train.run(&batch, LR, number)?;
    }
    let mut timelines: Vec<Timeline> = Vec::new();
    let mut unclocked_ms = Vec::new();
    for _ in 0..args.steps {
        let start = Instant::now();
        train.run(&batch, LR, number + 1)?;
        unclocked_ms.push(start.elapsed().as_secs_f64() * 1e3);
        timelines.push(train.run_clocked(&batch, LR, number + 2)?);
        number += 2;
    }
    let gpu = options.gpu.as_ref().map(|gpu| gpu.report());
    let subject = Subject {
        model: config.preset.clone(),
        backend: options.backend.to_string(),
        adapter: gpu.map_or_else(cpu_name, |gpu| gpu.name.clone()),
        software: gpu.is_some_and(|gpu| gpu.software),
        tracks: timelines[0].tracks,
        steps: timelines.len(),
    };
    let peak = match options.backend {
        Backend::Cpu => Peak { gflops: Some(peak::gflops(options.threads)?), gbs: Some(peak::gbs(options.threads)?) },
        _ => Peak::default(),
    };
    let program = &train.compiled().program;
    if let Some(path) = &args.trace {
        let last = timelines.last().expect("at least one step was asked for");
        let name = |at: usize| match options.backend {
            Backend::Cpu => format!("thread {at}"),
            _ => subject.adapter.clone(),
        };
        let text = trace(program, last, name).to_string();
        std::fs::write(path, text).map_err(|e| Error::writing(path, e))?;
        say(&format!("the last step's trace is in {}: open it in https://ui.perfetto.dev", path.display()));
    }
    let profile = Profile::new(program, subject, peak, &timelines, &unclocked_ms).grouped(args.by);
    let text = if args.json {
        let text = serde_json::to_string_pretty(&profile);
        text.map_err(|e| Error::failed(format!("cannot print the profile: {}", one_line(e))))? + "\n"
    } else {
        profile.to_string()
    };
    print(text.as_bytes())?;
    Ok(Ending::Done)
}
