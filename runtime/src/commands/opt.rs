//! `opt`: passes by name over the text of a graph or program, and reproducers of the ones that fail.
//!
//! A *reproducer* is IR text under comments that say what to run on it:
//! ```text
//! ; tinygpt-reproducer 1
//! ; pass: simplify
//! ; pipeline: simplify,fuse
//! ; target: cpu
//! ; verify-each: true
//! ; error: simplify made an invalid graph: ...
//! tinygpt-graph 1
//! ...
//! ```
//! The pipeline is the failing pass and what was to follow; `tinygpt opt FILE` runs it again and compares the error.
//!
//! Invariants
//! - A reproducer is a function of the input, the pipeline and the error: its name carries their hash, and a second failure of the same
//!   kind writes the same file. Replaying one writes none.
//! - This is the only place that catches panics: a pass is a tool's guest here, and what it was given must not be lost.

use super::{Ending, print, read_text, say};
use crate::cli::{OptArgs, Target};
use crate::error::{did_you_mean, one_line};
use crate::rng::fnv1a;
use crate::{Error, Result};
use std::any::Any;
use std::fmt::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tinygpt_ir::program::TargetModel;
use tinygpt_ir::text::Ir;
use tinygpt_passes::opt::{Applied, Failure, NamedPass, Passes, apply, size, verify};

/// First comment of a reproducer, less its version.
const MAGIC: &str = "; tinygpt-reproducer";
const VERSION: u32 = 1;

pub fn run(args: &OptArgs) -> Result<Ending> {
    run_with(args, &Passes::standard())
}

/// [`run`] with other passes than those of tinygpt: what tests of broken passes call.
pub fn run_with(args: &OptArgs, passes: &Passes) -> Result<Ending> {
    let text = read_text(&args.file)?;
    let recorded = Reproducer::read(&text).map_err(|e| Error::input(format!("{}: {e}", args.file.display())))?;
    let pipeline = match (&args.passes, &recorded) {
        (Some(names), _) => names.as_str(),
        (None, Some(recorded)) => recorded.pipeline.as_str(),
        (None, None) => {
            return Err(Error::input(format!(
                "{} is no reproducer, so say what to run on it: --passes a,b,c",
                args.file.display()
            )));
        }
    };
    let pipeline = find(passes, pipeline)?;
    // Only a replay without other wishes is expected to fail as recorded.
    let expected = recorded.as_ref().filter(|_| args.passes.is_none() && args.target.is_none());
    let settings = Settings {
        target: args.target.or(recorded.as_ref().map(|r| r.target)).unwrap_or(Target::Cpu),
        verify_each: args.verify_each || expected.is_some_and(|r| r.verify_each),
    };
    let ir = super::parse_ir(&text, &args.file)?;
    verify(&ir).map_err(|e| Error::input(format!("{} is invalid: {}", args.file.display(), one_line(e))))?;

    let mut report = Report::default();
    let outcome = steps(ir, &pipeline, settings, args, &mut report);
    if args.time_passes {
        say(report.times().trim_end());
    }
    if args.stats {
        say(report.sizes.trim_end());
    }
    let ir = match outcome {
        Ok(ir) => ir,
        Err(failed) => return Err(failed.report(settings, expected, &args.repro_dir)),
    };
    if expected.is_some() {
        say("the recorded error did not occur");
    }
    match &args.out {
        None => print(ir.to_string().as_bytes())?,
        Some(path) => std::fs::write(path, ir.to_string()).map_err(|e| Error::writing(path, e))?,
    }
    Ok(Ending::Done)
}

#[derive(Clone, Copy)]
struct Settings {
    target: Target,
    verify_each: bool,
}

impl Target {
    /// What passes may know of it. A GPU is the least that WebGPU promises.
    pub fn model(self) -> TargetModel {
        match self {
            Target::Cpu => TargetModel::cpu(),
            Target::Gpu => crate::gpu::device::target(&tinygpt_codegen_wgsl::Caps::webgpu()),
        }
    }
}

/// The passes that `a,b,c` names.
fn find<'p>(passes: &'p Passes, pipeline: &str) -> Result<Vec<&'p NamedPass>> {
    let names = pipeline.split(',').map(str::trim).filter(|name| !name.is_empty());
    let pass = |name: &str| {
        passes.find(name).ok_or_else(|| {
            let near = did_you_mean(name, passes.iter().map(NamedPass::name));
            let list: Vec<&str> = passes.iter().map(NamedPass::name).collect();
            Error::input(format!("there is no pass \"{name}\"{near}: the passes are {}", list.join(", ")))
        })
    };
    names.map(pass).collect()
}

/// A step that failed.
struct Failed {
    /// The IR before the failing pass.
    input: Ir,
    /// The failing pass and what was to follow.
    remaining: Vec<String>,
    /// First line a sentence.
    error: String,
}

/// Runs the pipeline, printing what was asked for between the passes.
fn steps(
    mut ir: Ir,
    pipeline: &[&NamedPass],
    settings: Settings,
    args: &OptArgs,
    report: &mut Report,
) -> Result<Ir, Box<Failed>> {
    let target = settings.target.model();
    for (i, pass) in pipeline.iter().enumerate() {
        // The last result is always verified: nobody shall take it for good without knowing.
        let verify_after = settings.verify_each || i + 1 == pipeline.len();
        let before = if args.stats { size(&ir) } else { String::new() };
        // A pass cannot leave anything half changed that is used after it panicked: it only reads `ir`.
        let outcome = catch_unwind(AssertUnwindSafe(|| apply(pass, &ir, &target, verify_after)));
        let done = match outcome {
            Ok(Ok(done)) => done,
            Ok(Err(failure)) => {
                let error = match failure {
                    Failure::Refused(message) => format!("{} refuses its input: {message}", pass.name()),
                    Failure::Invalid(message) => format!("{} made something invalid: {message}", pass.name()),
                };
                return Err(failed(ir, &pipeline[i..], error));
            }
            Err(panic) => {
                let error = format!("{} panicked: {}", pass.name(), panic_message(&*panic));
                return Err(failed(ir, &pipeline[i..], error));
            }
        };
        report.add(pass.name(), &done);
        if args.stats {
            let _ = writeln!(report.sizes, "{:<14}{before} -> {}", pass.name(), size(&done.ir));
        }
        if args.print_changed && done.ir != ir {
            say(&format!("; IR after {}\n{}", pass.name(), done.ir));
        }
        ir = done.ir;
    }
    Ok(ir)
}

fn failed(input: Ir, remaining: &[&NamedPass], error: String) -> Box<Failed> {
    let remaining = remaining.iter().map(|pass| pass.name().to_string()).collect();
    Box::new(Failed { input, remaining, error })
}

/// What a panic said.
fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| s.to_string()).or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "with something that is no text".to_string())
}

impl Failed {
    /// The command's error; writes a reproducer unless this was the replay of one that failed as recorded.
    fn report(self, settings: Settings, recorded: Option<&Reproducer>, dir: &Path) -> Error {
        let sentence = one_line(&self.error);
        if let Some(recorded) = recorded {
            if recorded.error == self.error {
                return Error::failed(format!("{sentence} (as recorded)"));
            }
            say(&format!("the recorded error was another: {}", one_line(&recorded.error)));
        }
        let pipeline = self.remaining.join(",");
        let reproducer = Reproducer {
            pass: self.remaining[0].clone(),
            pipeline,
            target: settings.target,
            verify_each: settings.verify_each,
            error: self.error,
        };
        match reproducer.write(&self.input, dir) {
            Ok(path) => Error::failed(format!("{sentence}; tinygpt opt {} shows it again", path.display())),
            Err(e) => Error::failed(format!("{sentence}; and there is no reproducer, since {e}")),
        }
    }
}

/// The comments of a reproducer.
#[derive(Debug, Clone, PartialEq)]
struct Reproducer {
    pass: String,
    pipeline: String,
    target: Target,
    verify_each: bool,
    error: String,
}

impl Reproducer {
    /// What the comments at the head of `text` say; None if it is no reproducer. Errors: one sentence.
    fn read(text: &str) -> std::result::Result<Option<Self>, String> {
        let mut lines = text.lines();
        let Some(version) = lines.next().and_then(|first| first.strip_prefix(MAGIC)) else { return Ok(None) };
        if version.trim() != VERSION.to_string() {
            return Err(format!("found version {} of reproducers, expected {VERSION}", version.trim()));
        }
        let comments: Vec<&str> = lines.map_while(|line| line.strip_prefix("; ")).collect();
        let all = |key: &str| {
            let values = comments.iter().filter_map(|c| c.split_once(": ").filter(|(k, _)| *k == key).map(|(_, v)| v));
            values.collect::<Vec<_>>()
        };
        let one = |key: &str| match all(key)[..] {
            [value] => Ok(value),
            _ => Err(format!("the reproducer needs one comment `; {key}: ...`, and has {}", all(key).len())),
        };
        let target = one("target")?;
        Ok(Some(Self {
            pass: one("pass")?.to_string(),
            pipeline: one("pipeline")?.to_string(),
            target: [Target::Cpu, Target::Gpu]
                .into_iter()
                .find(|t| t.to_string() == target)
                .ok_or_else(|| format!("the reproducer has the target `{target}`, expected cpu or gpu"))?,
            verify_each: one("verify-each")? == "true",
            error: all("error").join("\n"),
        }))
    }

    /// The whole file.
    fn text(&self, input: &Ir) -> String {
        let mut text = format!("{MAGIC} {VERSION}\n");
        let Self { pass, pipeline, target, verify_each, error } = self;
        let _ =
            write!(text, "; pass: {pass}\n; pipeline: {pipeline}\n; target: {target}\n; verify-each: {verify_each}\n");
        for line in error.lines() {
            let _ = writeln!(text, "; error: {line}");
        }
        let _ = write!(text, "{input}");
        text
    }

    fn write(&self, input: &Ir, dir: &Path) -> Result<PathBuf> {
        let text = self.text(input);
        std::fs::create_dir_all(dir).map_err(|e| Error::writing(dir, e))?;
        let hash = fnv1a(text.as_bytes());
        let path = dir.join(format!("tinygpt-repro-{}-{:08x}.gir", self.pass, hash as u32 ^ (hash >> 32) as u32));
        std::fs::write(&path, text).map_err(|e| Error::writing(&path, e))?;
        Ok(path)
    }
}

/// What the passes did, for tables.
#[derive(Default)]
struct Report {
    steps: Vec<(String, Option<Duration>, String)>,
    /// Lines of `--stats`.
    sizes: String,
}

impl Report {
    fn add(&mut self, pass: &str, done: &Applied) {
        self.steps.push((pass.to_string(), done.time, done.stats.to_string()));
    }

    /// A table of the passes: milliseconds, share of the total, what was done.
    fn times(&self) -> String {
        let total: Duration = self.steps.iter().filter_map(|(_, time, _)| *time).sum();
        let mut table = format!("{:<14}{:>10}{:>8}  did\n", "pass", "ms", "share");
        for (pass, time, did) in &self.steps {
            let time = time.unwrap_or_default().as_secs_f64();
            let share = 100.0 * time / total.as_secs_f64().max(f64::MIN_POSITIVE);
            let _ = writeln!(table, "{}", format!("{pass:<14}{:>10.3}{share:>7.0}%  {did}", time * 1e3).trim_end());
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reproducer() -> Reproducer {
        Reproducer {
            pass: "a".into(),
            pipeline: "a,b".into(),
            target: Target::Gpu,
            verify_each: true,
            error: "a refuses its input: x\n  more: of it".into(),
        }
    }

    #[test]
    fn reproducers_read_back() {
        let input = tinygpt_ir::text::parse_any("tinygpt-graph 1\ngraph g\n").unwrap();
        let text = reproducer().text(&input);
        assert_eq!(Reproducer::read(&text), Ok(Some(reproducer())), "{text}");
        assert_eq!(tinygpt_ir::text::parse_any(&text), Ok(input.clone()));
        assert_eq!(Reproducer::read(&input.to_string()), Ok(None));
    }

    #[test]
    fn damaged_reproducers_are_one_sentence() {
        let input = tinygpt_ir::text::parse_any("tinygpt-graph 1\ngraph g\n").unwrap();
        let text = reproducer().text(&input);
        for (from, to, part) in [
            ("reproducer 1", "reproducer 9", "found version 9 of reproducers, expected 1"),
            ("; pipeline: a,b\n", "", "needs one comment `; pipeline: ...`, and has 0"),
            ("target: gpu", "target: npu", "has the target `npu`, expected cpu or gpu"),
        ] {
            let error = Reproducer::read(&text.replace(from, to)).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
