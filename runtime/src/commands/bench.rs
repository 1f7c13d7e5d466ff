//! `bench`: the time of training steps, and what they are to the machine's peak.
//!
//! Invariants:
//! - a step is a whole one: forward, loss, backward, clip and AdamW, on one fixed batch of random tokens;
//! - one preset, one process: several presets run one after the other in child processes, so that the peak memory is each one's own;
//! - standard output holds the results alone: with `--json` one object a line;
//! - operations of a step are counted as [`peak::step_flop`] says;
//! - weights and batches are a pure function of the preset: [`start`] writes them for other frameworks, and what `bench` runs is what the
//!   file holds.

mod start;

use super::devices::cpu_name;
use super::{Ending, exec_options, print, say_notes};
use crate::cli::BenchArgs;
use crate::config::{Backend, RunConfig};
use crate::error::one_line;
use crate::model::{Batch, StepResult, TrainStep, adamw};
use crate::{Error, Result, peak};
use serde::{Deserialize, Serialize};
use start::Start;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Untimed steps before the timed ones, at least.
const WARMUP_STEPS: u64 = 3;

/// Time of untimed steps on a GPU, at least: idle ones run at a fraction of their clock.
const GPU_WARMUP: Duration = Duration::from_millis(500);

/// Where steps overlap, a time is the mean of so many consecutive ones: when a single one ends is not seen exactly.
const OVERLAPPED_STEPS: u64 = 5;

/// Learning rate of the steps: so low that without a warm-up the loss of no preset leaps, since a leap multiplies what rounding does to it,
/// and the losses of two frameworks then part (at 1e-3 those of `xl` do after 16 steps).
const LR: f64 = 3e-4;

/// Length of the kernel's clock ticks in proc(5): Linux shows every program 100 a second (`USER_HZ`).
const TICK_S: f64 = 0.01;

/// One line of `--json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    pub preset: String,
    pub backend: String,
    /// The processor's or the GPU's name.
    pub adapter: String,
    /// Whether the adapter is a GPU emulated in software: no processor is one.
    pub software: bool,
    pub threads: usize,
    pub params: u64,
    /// Seconds from the model's declaration to a program ready to step.
    pub compile_s: f64,
    /// Seconds from the start of the process to the end of its first step, in hundredths; null where the system does not tell.
    pub first_step_s: Option<f64>,
    /// Losses of the `--losses` first steps.
    pub losses: Vec<f64>,
    pub ms_per_step: Spread,
    /// Milliseconds that this process takes to record a step and submit it, while the ones before run: the median; null where steps
    /// do not overlap, and on software adapters, which run a step as it is submitted.
    pub submit_ms: Option<f64>,
    pub tokens_per_s: f64,
    pub gflops: f64,
    /// Of fused multiply-adds on registers, on as many threads; null where it is not measured: on GPUs, and of the engine that runs
    /// WebAssembly, whose peak `node web/bench.mjs` shows.
    pub peak_gflops: Option<f64>,
    pub share_of_peak: Option<f64>,
    /// Of this process; null where the system does not tell.
    pub peak_rss_mib: Option<f64>,
    pub planned_bytes: usize,
    pub lower_bound_bytes: usize,
}

/// Milliseconds over the timed steps.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    /// Nearest rank.
    pub p90: f64,
}

pub fn run(args: &BenchArgs) -> Result<Ending> {
    let configs: Vec<RunConfig> = args.preset.iter().map(|name| RunConfig::preset(name)).collect::<Result<_>>()?;
    if let Some(path) = &args.save_start {
        let [config] = &configs[..] else {
            return Err(Error::input(format!(
                "--save-start writes the start of one preset, and --preset names {}: give one",
                configs.len()
            )));
        };
        Start::new(config)?.save(path, args.losses)?;
        print(format!("{}\n", path.display()).as_bytes())?;
        return Ok(Ending::Done);
    }
    let mut done = Vec::new();
    for config in &configs {
        let found = if configs.len() == 1 { measure(config, args)? } else { measure_in_child(&config.preset, args)? };
        let line = if args.json {
            serde_json::to_string(&found)
                .map_err(|e| Error::failed(format!("cannot print the result: {}", one_line(e))))?
        } else {
            found.line()
        };
        print(format!("{line}\n").as_bytes())?;
        done.push(found);
    }
    if !args.json {
        print(block(&done, args.steps).as_bytes())?;
    }
    Ok(Ending::Done)
}

/// Times `args.steps` steps of a preset in this process.
fn measure(config: &RunConfig, args: &BenchArgs) -> Result<Measurement> {
    let options = exec_options(&args.exec, None)?;
    let (model, batch_rows) = (&config.model, config.train.batch);
    let start = Instant::now();
    let mut train = TrainStep::new(model, batch_rows, adamw(&config.train), false, &options)?;
    let compile_s = start.elapsed().as_secs_f64();
    say_notes(&options);
    train.start(config.train.seed)?;

    let start = Start::new(config)?;
    let mut batch = Batch::zeros(batch_rows, model.ctx)?;
    let (mut losses, mut first_step_s) = (Vec::new(), None);
    for number in 1..=args.losses {
        start.fill(number, &mut batch)?;
        losses.push(finite(train.run(&batch, LR, number)?, config, number)?.loss);
        first_step_s = first_step_s.or_else(process_age_s);
    }
    start.fill_timed(&mut batch)?;
    let warm_up = if options.gpu.is_some() { GPU_WARMUP } else { Duration::ZERO };
    let mut warmed = args.losses;
    let start = Instant::now();
    while warmed < args.losses + WARMUP_STEPS || start.elapsed() < warm_up {
        warmed += 1;
        finite(train.run(&batch, LR, warmed)?, config, warmed)?;
        first_step_s = first_step_s.or_else(process_age_s);
    }
    let (last, depth) = (warmed + args.steps, train.depth() as u64);
    let together = if depth == 1 { 1 } else { OVERLAPPED_STEPS };
    let (mut times_ms, mut submit_ms, mut submitted) = (Vec::new(), Vec::new(), warmed);
    let (mut start, mut taken) = (Instant::now(), 0);
    for number in warmed + 1..=last {
        while submitted < last && submitted < number - 1 + depth {
            submitted += 1;
            let start = Instant::now();
            train.submit(&batch, LR, submitted)?;
            submit_ms.push(1e3 * start.elapsed().as_secs_f64());
        }
        finite(train.take()?, config, number)?;
        taken += 1;
        if taken == together || number == last {
            times_ms.push(1e3 * start.elapsed().as_secs_f64() / taken as f64);
            (start, taken) = (Instant::now(), 0);
        }
    }
    let ms_per_step = spread(times_ms);
    let tokens = batch.ids.len();
    let seconds = ms_per_step.median / 1e3;
    let gflops = peak::step_flop(model, tokens) / seconds / 1e9;
    let gpu = options.gpu.as_ref().map(|gpu| gpu.report());
    let peak_gflops = match options.backend {
        Backend::Cpu | Backend::Interp => Some(peak::gflops(options.threads)?),
        Backend::Gpu | Backend::Wasm => None,
    };
    let memory = train.executor().memory();
    Ok(Measurement {
        preset: config.preset.clone(),
        backend: options.backend.to_string(),
        adapter: gpu.map_or_else(cpu_name, |gpu| gpu.name.clone()),
        software: gpu.is_some_and(|gpu| gpu.software),
        threads: options.threads,
        params: model.params(),
        compile_s,
        first_step_s,
        losses,
        ms_per_step,
        submit_ms: (depth > 1 && gpu.is_some_and(|gpu| !gpu.software)).then(|| spread(submit_ms).median),
        tokens_per_s: tokens as f64 / seconds,
        gflops,
        peak_gflops,
        share_of_peak: peak_gflops.map(|peak| gflops / peak),
        peak_rss_mib: peak_rss_mib(),
        planned_bytes: memory.planned_bytes,
        lower_bound_bytes: memory.lower_bound_bytes,
    })
}

/// Refuses a step whose loss is not finite.
fn finite(result: StepResult, config: &RunConfig, number: u64) -> Result<StepResult> {
    if result.loss.is_finite() {
        return Ok(result);
    }
    Err(Error::failed(format!(
        "the loss of preset {} is {} at step {number}, so there is no training step to time",
        config.preset, result.loss
    )))
}

/// The same in a process of its own.
fn measure_in_child(preset: &str, args: &BenchArgs) -> Result<Measurement> {
    let failed = |what: String| Error::failed(format!("the measurement of preset {preset} {what}"));
    let program = std::env::current_exe().map_err(|e| failed(format!("cannot start: {e}")))?;
    let mut command = Command::new(program);
    command.args(["bench", "--json", "--preset", preset, "--steps", &args.steps.to_string()]);
    command.args(["--losses", &args.losses.to_string()]);
    let exec = &args.exec;
    let flags = [
        ("--backend", exec.backend.map(|b| b.to_string())),
        ("--threads", exec.threads.map(|n| n.to_string())),
        ("--isa", exec.isa.map(|isa| isa.to_string())),
        ("--adapter", exec.gpu.adapter.clone()),
        ("--precision", exec.gpu.precision.map(|p| p.to_string())),
    ];
    for (flag, value) in flags {
        command.args(value.iter().flat_map(|value| [flag, value.as_str()]));
    }
    let switches =
        [("--no-templates", exec.no_templates), ("--checked", exec.gpu.checked), ("--no-tune", exec.no_tune)];
    command.args(switches.iter().filter(|(_, on)| *on).map(|(switch, _)| switch));
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = output.map_err(|e| failed(format!("cannot start: {e}")))?;
    if !output.status.success() {
        return Err(failed(format!("failed ({}): its message is above", output.status)));
    }
    serde_json::from_slice(&output.stdout).map_err(|e| failed(format!("printed no result: {}", one_line(e))))
}

/// Of at least one time.
fn spread(mut times: Vec<f64>) -> Spread {
    times.sort_by(f64::total_cmp);
    let n = times.len();
    let median = if n % 2 == 1 { times[n / 2] } else { (times[n / 2 - 1] + times[n / 2]) / 2.0 };
    Spread { median, min: times[0], p90: times[(n * 9).div_ceil(10) - 1] }
}

/// The most memory this process has had resident, where Linux tells (proc(5), VmHWM).
fn peak_rss_mib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?.trim().strip_suffix(" kB")?;
    Some(kib.parse::<f64>().ok()? / 1024.0)
}

/// Seconds since this process was started, where Linux tells (proc(5): `stat`, field 22, beside `uptime`).
fn process_age_s() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // Field 2, the program's name, is in parentheses and may hold anything; field 3 follows the last of them.
    let ticks: f64 = stat.rsplit_once(')')?.1.split_whitespace().nth(22 - 3)?.parse().ok()?;
    let uptime: f64 = std::fs::read_to_string("/proc/uptime").ok()?.split_whitespace().next()?.parse().ok()?;
    Some(((uptime - ticks * TICK_S) * 100.0).round() / 100.0)
}

impl Measurement {
    /// `2 thread(s)`, or the GPU's name and whether it is software.
    fn place(&self) -> String {
        match (self.backend.as_str(), self.software) {
            ("gpu", true) => format!("{} (a software adapter: no figure of a GPU)", self.adapter),
            ("gpu", false) => self.adapter.clone(),
            _ => format!("{} thread(s)", self.threads),
        }
    }

    /// One line for people.
    fn line(&self) -> String {
        let Spread { median, min, p90 } = self.ms_per_step;
        let share = self.share_of_peak.zip(self.peak_gflops);
        let share = share.map_or(String::new(), |(share, peak)| format!(", {:.1}% of {peak:.0}", 100.0 * share));
        let submit = self
            .submit_ms
            .map_or(String::new(), |ms| format!(", each recorded and submitted in {ms:.2} ms beside the one before"));
        format!(
            "{}: median {median:.2} ms/step (min {min:.2}, p90 {p90:.2}){submit}, {:.0} tokens/s, {:.1} GFLOP/s{share}; {} params, {}, compiled in {:.2} s, first step ended {}, peak RSS {}, planned {:.1} MiB, {:.2} times the lower bound",
            self.preset,
            self.tokens_per_s,
            self.gflops,
            self.params,
            self.place(),
            self.compile_s,
            self.first_step_s.map_or("unobserved".to_owned(), |s| format!("{s:.2} s after the process's start")),
            self.peak_rss_mib.map_or("not measured".to_owned(), |mib| format!("{mib:.0} MiB")),
            self.planned_bytes as f64 / (1 << 20) as f64,
            self.planned_bytes as f64 / self.lower_bound_bytes.max(1) as f64,
        )
    }
}

/// The closing block of the text form, for pasting into reports: exactly nine fields.
fn block(done: &[Measurement], steps: u64) -> String {
    let join = |part: &dyn Fn(&Measurement) -> String| done.iter().map(part).collect::<Vec<_>>().join(",");
    let notes = join(&|m| format!(" {} {:.2} ms/step on {}", m.preset, m.ms_per_step.median, m.place()));
    format!(
        "\ndevice: {}\nos/browser: {} {}\nadapter: {}\npreset: {}\nsteps read: {steps}\nwebgpu: not measured\nwasm-simd: {}\n\
         ratio: not measured\nnotes:{notes}\n",
        cpu_name(),
        std::env::consts::OS,
        std::env::consts::ARCH,
        done.first().map_or("not measured".to_owned(), |m| if m.backend == "gpu" {
            m.place()
        } else {
            m.backend.clone()
        }),
        join(&|m| m.preset.clone()),
        if done.iter().any(|m| m.backend == "wasm") {
            join(&|m| format!("{} {:.2} ms/step", m.preset, m.ms_per_step.median))
        } else {
            "not measured".to_owned()
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spreads_are_order_statistics() {
        let s = |times: &[f64]| spread(times.to_vec());
        assert_eq!(s(&[3.0]), Spread { median: 3.0, min: 3.0, p90: 3.0 });
        assert_eq!(s(&[4.0, 1.0, 3.0, 2.0]), Spread { median: 2.5, min: 1.0, p90: 4.0 });
        assert_eq!(s(&(1..=20).map(f64::from).collect::<Vec<_>>()).p90, 18.0);
    }

    #[test]
    fn the_block_has_nine_fields() {
        let fields =
            ["device", "os/browser", "adapter", "preset", "steps read", "webgpu", "wasm-simd", "ratio", "notes"];
        let text = block(&[], 5);
        let found: Vec<_> =
            text.trim().lines().filter_map(|line| line.split_once(':')).map(|(field, _)| field).collect();
        assert_eq!(found, fields);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn linux_tells_the_peak_memory() {
        assert!(peak_rss_mib().unwrap() > 0.5);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn linux_tells_the_age_of_the_process() {
        let (before, start) = (process_age_s().unwrap(), Instant::now());
        assert!((0.0..1e6).contains(&before), "{before}");
        std::thread::sleep(Duration::from_millis(50));
        let (after, slept) = (process_age_s().unwrap(), start.elapsed().as_secs_f64());
        // Both clocks tick in hundredths of a second.
        assert!(after - before >= 0.03 && after - before <= slept + 0.5, "{before} {after} {slept}");
    }
}
