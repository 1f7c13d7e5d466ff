//! A run loses nothing, whatever happens to it: signals, crashes, full disks, a second process, numbers that go wrong.
//!
//! No verdict depends on timing. Where a moment is chosen at random, what must hold holds at every moment; where a test waits, it waits for
//! something to be there, with a limit that only a hang reaches.

use crate::support::{Cli, Run};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tinygpt::ir::{Builder, DType, Init, TensorType};
use tinygpt::runtime::checkpoint::{Checkpoint, latest};
use tinygpt::runtime::compile::ExecOptions;
use tinygpt::runtime::config::{Backend, RunConfig};
use tinygpt::runtime::data::Corpus;
use tinygpt::runtime::rng::Stream;
use tinygpt::runtime::tensor_file::Tensors;
use tinygpt::runtime::trainer::{BAD_STEPS, Trainer};

/// What only a hang reaches.
const LIMIT: Duration = Duration::from_secs(180);

/// A run of the command that goes on by itself; killed when dropped.
struct Background {
    child: Child,
}

impl Background {
    fn start(cli: &Cli, line: &str) -> Background {
        let mut command = cli.command(line);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Background { child: command.spawn().unwrap() }
    }

    fn signal(&self, name: &str) {
        // A process that has just ended is not there to be signalled; what it left is judged by the caller.
        let _ = Command::new("sh").args(["-c", &format!("kill -{name} {} 2>/dev/null", self.child.id())]).status();
    }

    /// Waits for `holds`, or for the end of the process.
    fn wait_until(&mut self, mut holds: impl FnMut() -> bool) {
        let start = Instant::now();
        while !holds() && self.child.try_wait().unwrap().is_none() {
            assert!(start.elapsed() < LIMIT, "nothing happens");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn finish(mut self) -> Run {
        let start = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            assert!(start.elapsed() < LIMIT, "the process does not end");
            std::thread::sleep(Duration::from_millis(2));
        }
        let mut run = Run {
            status: self.child.wait().unwrap().code().unwrap_or(-1),
            stdout: String::new(),
            stderr: String::new(),
        };
        use std::io::Read;
        self.child.stdout.take().unwrap().read_to_string(&mut run.stdout).unwrap();
        self.child.stderr.take().unwrap().read_to_string(&mut run.stderr).unwrap();
        run
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // Both fail where it has ended, as it should have.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn metrics(run: &Path) -> Vec<Value> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// The steps that metrics.jsonl tells of, which must be 1, 2, 3, ...
#[track_caller]
fn steps(run: &Path) -> u64 {
    let steps: Vec<u64> = metrics(run).iter().map(|m| m["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, (1..=steps.len() as u64).collect::<Vec<_>>(), "steps are missing or there twice");
    steps.len() as u64
}

/// Weights and moments.
fn state(checkpoint: Checkpoint) -> [Tensors; 3] {
    [checkpoint.weights, checkpoint.m, checkpoint.v]
}

/// The state of the run after `step` steps, in one process that nothing happens to.
struct Undisturbed {
    trainer: Trainer,
}

impl Undisturbed {
    fn new(cli: &Cli, run: &str) -> Undisturbed {
        let config = RunConfig::resolve(None, Some(&cli.path(run).join("config.toml")), &Default::default()).unwrap();
        let corpus = Corpus::open(&config.data, config.model.ctx).unwrap();
        let options = ExecOptions { backend: Backend::Cpu, threads: 1, isa: None, no_templates: false, gpu: None };
        Undisturbed { trainer: Trainer::new(config, corpus, options).unwrap() }
    }

    /// `step` is not below that of the call before.
    fn state(&mut self, step: u64) -> [Tensors; 3] {
        while self.trainer.steps_done() < step {
            self.trainer.step().unwrap();
        }
        state(self.trainer.checkpoint().unwrap())
    }
}

/// A long run of a small model that saves at every step, from a text of its own.
const ENDLESS: &str = "--data text.txt --threads 1 --steps 1000000 --save-every 1 --eval-every 0 --warmup 4";

fn endless() -> Cli {
    let cli = Cli::new();
    cli.small_config("");
    let text = fs::read_to_string(cli.path("small.toml")).unwrap().replace("sample_bytes = 12", "sample_bytes = 0");
    cli.file("small.toml", text);
    cli.file("text.txt", "the fox and the hen saw the moon. ".repeat(80));
    cli
}

#[test]
fn the_first_signal_saves_and_the_run_goes_on_from_there() {
    for (at, signal) in ["INT", "TERM", "HUP"].into_iter().enumerate() {
        let cli = endless();
        let long = "--data text.txt --threads 1 --steps 1000000 --save-every 0 --eval-every 0";
        let mut run = Background::start(&cli, &format!("train --config small.toml {long} --out run"));
        run.wait_until(|| metrics(&cli.path("run")).len() > 3 + at);
        run.signal(signal);
        let run = run.finish();
        assert_eq!(run.status, 130, "{signal}: {}", run.stderr);
        assert!(run.stderr.contains("interrupted: saving after this step"), "{}", run.stderr);
        assert!(
            run.stderr.contains("go on with: ") && run.stderr.contains("/tinygpt train --resume run"),
            "{}",
            run.stderr
        );
        let done = steps(&cli.path("run"));
        let saved = Checkpoint::load(&cli.path("run")).unwrap();
        assert_eq!(saved.step, done, "{signal}: what was logged was saved");
        assert!(run.stdout.starts_with(&format!("step {done} checkpoint run/step-")), "{}", run.stdout);
        cli.ok(&format!("train --resume run --stop-at {}", done + 2));
        assert_eq!(steps(&cli.path("run")), done + 2);
        let found = state(Checkpoint::load(&cli.path("run")).unwrap());
        assert!(found == Undisturbed::new(&cli, "run").state(done + 2), "{signal} changed the run");
    }
}

/// A step here takes far longer than the limit, so that only ending at once ends in time.
#[test]
fn the_second_signal_ends_at_once() {
    let cli = endless();
    let start = Instant::now();
    let slow = "--backend interp --accumulate 500000 --data text.txt";
    let mut run = Background::start(&cli, &format!("train --config small.toml {slow} --out run"));
    // Signals are listened for before there is a run directory.
    run.wait_until(|| cli.path("run/config.toml").exists());
    // Two that come too close are one to the system.
    while run.child.try_wait().unwrap().is_none() {
        run.signal("INT");
        std::thread::sleep(Duration::from_millis(50));
        assert!(start.elapsed() < LIMIT, "signals do not end the process");
    }
    let run = run.finish();
    assert_eq!(run.status, 130, "{}", run.stderr);
    assert!(metrics(&cli.path("run")).is_empty(), "no step can have been finished");
}

#[test]
fn two_signals_while_saving_leave_the_last_checkpoint_whole() {
    let cli = endless();
    let mut run = Background::start(&cli, &format!("train --config small.toml {ENDLESS} --out run"));
    run.wait_until(|| latest(&cli.path("run")).is_ok_and(|found| found.is_some()));
    run.signal("INT");
    run.signal("INT");
    assert_eq!(run.finish().status, 130);
    let saved = Checkpoint::load(&cli.path("run")).unwrap();
    let step = saved.step;
    assert!(state(saved) == Undisturbed::new(&cli, "run").state(step));
}

/// A process that is killed drops its lock, and leaves a run that goes on.
#[test]
fn a_run_directory_has_one_process() {
    let cli = endless();
    let mut run = Background::start(&cli, &format!("train --config small.toml {ENDLESS} --out run"));
    run.wait_until(|| latest(&cli.path("run")).is_ok_and(|found| found.is_some()));
    let id = run.child.id();
    let in_use = format!("run is in use by another tinygpt (process {id}): wait until it ends, or stop it");
    cli.refused("train --resume run", 2, &in_use);
    cli.refused("train --config small.toml --data text.txt --out run", 2, &in_use);
    // Looking at it is no use of it.
    cli.ok("train --resume run --print-config");
    run.signal("KILL");
    run.finish();
    let done = Checkpoint::load(&cli.path("run")).unwrap().step;
    cli.ok(&format!("train --resume run --stop-at {}", done + 1));
    assert_eq!(steps(&cli.path("run")), done + 1);
}

/// Killed 200 times while it saves at every step: there is always a whole checkpoint, which is that of the undisturbed run.
#[test]
fn killed_at_any_moment_of_saving_a_whole_checkpoint_is_left() {
    const KILLS: u64 = 200;
    let cli = endless();
    fs::create_dir(cli.path("runs")).unwrap();
    cli.ok(&format!("train --config small.toml {ENDLESS} --stop-at 1 --out runs/a"));
    let run = cli.path("runs/a");
    let mut undisturbed = Undisturbed::new(&cli, "runs/a");
    let moments = Stream::new(7, "kill");
    let (mut last, mut advanced) = (1, 0);
    for kill in 0..KILLS {
        let mut child = Background::start(&cli, "train --resume auto");
        // It has resumed once it has gone on: saving is nearly all that it does from then on.
        child.wait_until(|| latest(&run).is_ok_and(|found| found != Some(place(&run, last))));
        std::thread::sleep(Duration::from_micros(moments.below(kill, 12_000)));
        child.signal("KILL");
        let ended = child.finish();
        assert_eq!(ended.status, -1, "kill {kill}: the run ended by itself: {}", ended.stderr);
        let found = Checkpoint::load(&run).unwrap_or_else(|e| panic!("kill {kill}: {e}"));
        assert!(found.step >= last, "kill {kill}: step {} after {last}", found.step);
        advanced += u64::from(found.step > last);
        last = found.step;
        assert!(state(found) == undisturbed.state(last), "kill {kill}: another state after step {last}");
    }
    assert!(advanced >= KILLS * 9 / 10, "only {advanced} of {KILLS} children went on");
    cli.ok(&format!("train --resume auto --stop-at {}", last + 3));
    assert_eq!(steps(&run), last + 3);
    assert!(state(Checkpoint::load(&run).unwrap()) == undisturbed.state(last + 3));
    let left: Vec<PathBuf> = fs::read_dir(&run).unwrap().map(|entry| entry.unwrap().path()).collect();
    let hidden = |path: &&PathBuf| path.file_name().unwrap().to_string_lossy().starts_with(".step-");
    assert_eq!(left.iter().find(hidden), None, "what crashes left is cleared away");
}

fn place(run: &Path, step: u64) -> PathBuf {
    run.join(format!("step-{step:08}"))
}

#[test]
fn a_directory_that_cannot_be_written_is_one_sentence() {
    let cli = endless();
    cli.file("file", "");
    cli.refused("train --config small.toml --data text.txt --out file/run", 1, "cannot write file/run: ");
    cli.refused("train --config small.toml --data text.txt --out /proc/run", 1, "cannot write /proc/run: ");
    // A place taken by a directory cannot become a file.
    cli.ok("train --config small.toml --data text.txt --stop-at 2 --out run");
    fs::remove_file(cli.path("run/metrics.jsonl")).unwrap();
    fs::create_dir(cli.path("run/metrics.jsonl")).unwrap();
    let before = state(Checkpoint::load(&cli.path("run")).unwrap());
    let error = cli.run("train --resume run");
    assert!(error.status == 2 && error.stderr.contains("run/metrics.jsonl"), "{}", error.stderr);
    assert!(state(Checkpoint::load(&cli.path("run")).unwrap()) == before);
}

/// What a run that met a full disk must have kept: its last checkpoint, from which it goes on when there is room again.
fn goes_on_after(cli: &Cli, run: &str, failed: &Run, cause: &str) {
    let last = failed.stderr.lines().last().unwrap_or_default();
    assert_eq!(failed.status, 1, "{}", failed.stderr);
    assert!(last.starts_with("tinygpt: cannot write ") && last.contains(cause), "{}", failed.stderr);
    assert!(!failed.stderr.contains("panicked"), "{}", failed.stderr);
    let saved = Checkpoint::load(&cli.path(run)).unwrap();
    let mut undisturbed = Undisturbed::new(cli, run);
    let step = saved.step;
    assert!(state(saved) == undisturbed.state(step), "the checkpoint of step {step} is damaged");
    cli.ok(&format!("train --resume {run} --stop-at {}", step + 2));
    assert_eq!(steps(&cli.path(run)), step + 2);
    assert!(state(Checkpoint::load(&cli.path(run)).unwrap()) == undisturbed.state(step + 2));
}

/// Unmounts when dropped.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        // The directory is removed with the test's; a mount that stays shows there.
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_disk_that_fills_up_leaves_the_last_checkpoint() {
    let cli = endless();
    fs::create_dir(cli.path("disk")).unwrap();
    let mount = ["-t", "tmpfs", "-o", "size=1m", "tmpfs"];
    let done = Command::new("mount").args(mount).arg(cli.path("disk")).output();
    if !done.as_ref().is_ok_and(|done| done.status.success()) {
        println!("skipped: mounting a tmpfs needs root and CAP_SYS_ADMIN");
        return;
    }
    let _mounted = Mounted(cli.path("disk"));
    cli.ok(&format!("train --config small.toml {ENDLESS} --stop-at 3 --out disk/run"));
    // Room for some lines of metrics and half a checkpoint.
    let free = || {
        let out = Command::new("df").args(["--output=avail", "-B1"]).arg(cli.path("disk")).output().unwrap();
        String::from_utf8(out.stdout).unwrap().lines().last().unwrap().trim().parse::<usize>().unwrap()
    };
    fs::write(cli.path("disk/ballast"), vec![7; free() - 20_000]).unwrap();
    let failed = cli.run("train --resume disk/run");
    fs::remove_file(cli.path("disk/ballast")).unwrap();
    goes_on_after(&cli, "disk/run", &failed, "No space left on device");
    // Not even a byte.
    fs::write(cli.path("disk/ballast"), vec![7; free()]).unwrap();
    let failed = cli.run("train --resume disk/run");
    fs::remove_file(cli.path("disk/ballast")).unwrap();
    goes_on_after(&cli, "disk/run", &failed, "No space left on device");
}

/// The same where nothing can be mounted: the system refuses bytes beyond a file's limit. The signal that comes with it is ignored.
#[test]
fn a_file_that_may_not_grow_leaves_the_last_checkpoint() {
    let cli = endless();
    cli.ok(&format!("train --config small.toml {ENDLESS} --stop-at 3 --out run"));
    // In blocks of 512 bytes; optim.safetensors is about 25 kB, the other files are smaller.
    let tinygpt = env!("CARGO_BIN_EXE_tinygpt");
    let script = format!("trap '' XFSZ; ulimit -f 40; exec {tinygpt} train --resume run");
    let failed = Run::of(Command::new("sh").args(["-c", &script]).current_dir(cli.dir.path()).output().unwrap());
    goes_on_after(&cli, "run", &failed, "File too large");
}

/// Runs the command that the last line of a failed run names.
fn follow_advice(cli: &Cli, failed: &Run, expected: &str) -> String {
    let last = failed.stderr.lines().last().unwrap_or_default();
    assert_eq!(failed.status, 1, "{}", failed.stderr);
    let command = last.split('`').nth(1).unwrap().strip_prefix("tinygpt ").unwrap().to_owned();
    assert_eq!(command, expected);
    cli.ok(&command).stdout
}

#[test]
fn a_rate_that_overflows_ends_the_run_and_names_the_operation() {
    let cli = endless();
    let train = "train --config small.toml --data text.txt --threads 1 --warmup 0 --eval-every 0";
    for (run, flags) in [("one", ""), ("several", "--accumulate 2")] {
        let failed = cli.run(&format!("{train} --lr 1e37 {flags} --out {run}"));
        let last = failed.stderr.lines().last().unwrap_or_default();
        let what = format!("in {BAD_STEPS} steps in a row, 2 to 6, the loss or the gradient was not finite");
        assert!(last.contains(&what) && last.contains("step-00000001 is the state before them"), "{last}");
        assert!(failed.stderr.contains("step 2: the loss is "), "{}", failed.stderr);
        // What the steps in between did not change was saved.
        assert_eq!(Checkpoint::load(&cli.path(run)).unwrap().step, 1);
        assert_eq!(metrics(&cli.path(run)).len(), 6);

        let found = follow_advice(&cli, &failed, &format!("train --resume {run} --find-nan"));
        assert!(
            found.starts_with("step 2") && found.contains(" made the first number that is not finite\n"),
            "{found}"
        );
        assert_eq!(found.contains("micro-batch 1"), !flags.is_empty(), "{found}");
        assert!(found.contains("models/gpt.rs:") && found.contains("e37"), "{found}");
        assert!(found.contains("\n  operand 0  "), "{found}");
    }
    // Here the update of the first step overflows, so that no state after it is worth keeping.
    let failed = cli.run(&format!("{train} --lr 1e38 --out none"));
    assert!(failed.stderr.contains("after step 1 the weight "), "{}", failed.stderr);
    assert_eq!(latest(&cli.path("none")).unwrap(), None);
    let found = follow_advice(&cli, &failed, "train --config none/config.toml --find-nan");
    assert!(found.starts_with("step 1: ") && found.contains(" in optimizer/"), "{found}");
}

/// A model of bytes before bytes whose loss adds the logarithm of a sum of squares, which is zero.
fn planted() -> String {
    let b = Builder::new("planted");
    let tokens = TensorType::new(DType::I32, [2, 8]);
    let (ids, targets) = (b.input("ids", tokens.clone()), b.input("targets", tokens));
    let table = b.weight("table", [256, 256], Init::Normal(0.1));
    let loss = table.gather(ids).cross_entropy(targets);
    let dead = b.weight("dead", [4], Init::Zeros);
    let scope = b.scope("branch");
    let logarithm = (dead * dead).sum(&[0]).reshape([]).log();
    drop(scope);
    b.output("loss", loss + logarithm);
    b.finish().unwrap().to_string()
}

#[test]
fn a_planted_logarithm_of_zero_is_named_with_its_line() {
    let cli = endless();
    let text = planted();
    cli.file("planted.gir", &text);
    let line = 1 + text.lines().position(|line| line.contains("= log ")).unwrap();
    let failed = cli.run("train --graph planted.gir --data text.txt --threads 1 --steps 50 --sample-bytes 0 --out run");
    assert_eq!(failed.status, 1, "{}", failed.stderr);
    let last = failed.stderr.lines().last().unwrap_or_default();
    assert!(last.contains("5 steps in a row, 1 to 5,"), "{last}");
    // No step was good, so there is nothing to resume.
    let command = last.split('`').nth(1).unwrap().strip_prefix("tinygpt ").unwrap().to_owned();
    assert_eq!(command, "train --config run/config.toml --find-nan");
    for command in
        [command.as_str(), "train --graph planted.gir --data text.txt --sample-bytes 0 --find-nan --backend interp"]
    {
        let found = cli.ok(command).stdout;
        assert!(found.starts_with("step 1: log in branch ("), "{found}");
        assert!(found.contains(&format!(".gir:{line})")), "line {line}: {found}");
        assert!(
            found.contains("\n  result     f32[]: 1 of 1 infinite\n  operand 0  ")
                && found.contains("f32[]: 0.000000e0"),
            "{found}"
        );
    }
    let well = "train --config small.toml --data text.txt --threads 1 --find-nan --stop-at 3";
    cli.refused(well, 1, "steps 1 to 3 have only finite numbers: there is nothing to find");
    assert!(!cli.path("runs").exists(), "looking for it writes no run directory");
}

/// One bad step is passed over: the batch of that step alone has a token that makes the loss infinite.
#[test]
fn one_bad_step_is_skipped_and_the_run_goes_on() {
    let b = Builder::new("rare");
    let tokens = TensorType::new(DType::I32, [2, 8]);
    let (ids, targets) = (b.input("ids", tokens.clone()), b.input("targets", tokens));
    let table = b.weight("table", [256, 256], Init::Normal(0.1));
    let loss = table.gather(ids).cross_entropy(targets);
    // log(1) where no row holds the byte 'Z', log(0) where one does.
    let rare = ids.cast(DType::F32).reduce_max(&[0, 1]).reshape([]).lt(f64::from(b'z'));
    b.output("loss", loss + rare.cast(DType::F32).log());
    let cli = Cli::new();
    cli.file("rare.gir", b.finish().unwrap().to_string());
    let text = "the fox and the hen saw the moon. ".repeat(40);
    // None in the last tenth, which validates.
    cli.file("text.txt", format!("{0}z{0}z{0}z{0}z{1}", &text[..300], &text[..400]));
    let run = cli
        .ok("train --graph rare.gir --data text.txt --threads 1 --steps 200 --sample-bytes 0 --eval-every 0 --out run");
    let bad: Vec<u64> =
        metrics(&cli.path("run")).iter().filter(|m| m["loss"].is_null()).map(|m| m["step"].as_u64().unwrap()).collect();
    assert!(!bad.is_empty() && bad.len() < 40, "{bad:?}");
    for step in &bad {
        assert!(
            run.stderr.contains(&format!("step {step}: the loss is -inf, so the step changed nothing")),
            "{}",
            run.stderr
        );
    }
    assert_eq!(Checkpoint::load(&cli.path("run")).unwrap().step, 200);
}
