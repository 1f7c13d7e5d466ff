//! `cargo xtask test` and `cargo xtask ci`: the steps, their times, and the count of tests.
//!
//! Invariants:
//! - No test is left out. With the environment variable CI set, tests marked `#[ignore]` run as well, so an
//!   ignored test that cannot pass fails CI.
//! - Success means that tests ran and none failed: a run that counts no test is a failure.
//! - The last line on standard output is `test: N passed, N failed`, whichever runner ran them. The count
//!   is read from the runner's own closing lines, which pass through unchanged.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::{Failure, cargo, root, site, spelled, step, walkthrough, web};

/// Seconds for which CI tries hostile input on each of nine parsers: one minute together.
const FUZZ_SECONDS: &str = "7";

const NEEDS: &str = "\
Needs beyond the Rust toolchain (rustup installs that from rust-toolchain.toml): a C compiler called `cc`, for
rustc to link with and for capstone, the disassembler of `dump --stage asm`. On Debian: apt-get install gcc libc6-dev
Some tests need more, say `skipped` where it is missing, and fail instead where the variable beside it is 1:
  a Vulkan driver, a software one does   apt-get install mesa-vulkan-drivers libvulkan1   TINYGPT_REQUIRE_GPU
  Node, for WebAssembly                  apt-get install nodejs npm                       TINYGPT_REQUIRE_NODE
  and 20.19 or later for the playground  (Debian 13 has it)                               TINYGPT_REQUIRE_WEB
  and for Chromium's shader compiler     (npm fetches it)                                 TINYGPT_REQUIRE_TINT
  Chromium, for modules in a page        apt-get install chromium                         TINYGPT_REQUIRE_CHROMIUM
  Rust for wasm32, for the compiler      rustup target add wasm32-unknown-unknown         TINYGPT_REQUIRE_WEB
  in a page; xtask adds the target
.ci/run installs all of it and sets all variables. No network once cargo, rustup and npm have fetched their packages.";

/// Run every test of the workspace.
pub fn test() -> Result<(), Failure> {
    println!("{NEEDS}");
    fetch_packages()?;
    unless_required("TINYGPT_REQUIRE_WEB", web::build(false, false))?;
    unless_required("TINYGPT_REQUIRE_WEB", site::bundle())?;
    let totals = run_tests(None)?;
    totals.conclude()
}

/// Format check, clippy, the runner's JavaScript, the compiler for the page and the playground around it, the walk-through, and the tests, those of hostile
/// input for a minute; stops at the first step that fails.
pub fn ci() -> Result<(), Failure> {
    println!("{NEEDS}");
    step(&mut cargo(&["fmt", "--all", "--check"]))?;
    step(&mut cargo(&["clippy", "--workspace", "--all-targets", "--release", "--", "-D", "warnings"]))?;
    fetch_packages()?;
    check_runner()?;
    unless_required("TINYGPT_REQUIRE_WEB", web::build(false, true))?;
    unless_required("TINYGPT_REQUIRE_WEB", site::bundle())?;
    walkthrough::walkthrough()?;
    let totals = run_tests(Some(FUZZ_SECONDS))?;
    totals.conclude()
}

/// Tests that passed and failed, over all test binaries of a run.
#[derive(Debug, Default, PartialEq, Eq, Clone, Copy)]
struct Totals {
    passed: u64,
    failed: u64,
}

impl Totals {
    fn add(&mut self, other: Totals) {
        self.passed += other.passed;
        self.failed += other.failed;
    }

    fn conclude(self) -> Result<(), Failure> {
        println!("test: {} passed, {} failed", self.passed, self.failed);
        match self {
            Totals { passed: 0, failed: 0 } => Err(Failure::Failed("no test ran, expected at least one".into())),
            Totals { failed: 0, .. } => Ok(()),
            Totals { passed, failed } => {
                Err(Failure::Failed(format!("{failed} of {} tests failed; each is named above", passed + failed)))
            }
        }
    }
}

/// Who runs the tests, and so which closing lines count. A failed test's output, which nextest shows, holds
/// libtest's closing line of that one test, so a runner's count is read from its own lines only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Runner {
    /// `cargo test`; needs nothing.
    Libtest,
    /// `cargo nextest run`; faster, used where it is installed. Runs no doc tests.
    Nextest,
}

/// Lets go of a step that needs something which is missing, unless this variable demands it.
fn unless_required(variable: &str, outcome: Result<(), Failure>) -> Result<(), Failure> {
    match outcome {
        Err(Failure::Unusable(message)) if std::env::var_os(variable).is_none_or(|value| value != "1") => {
            eprintln!("xtask: skipped: {message}");
            Ok(())
        }
        other => other,
    }
}

/// Fetches the packages of Node that tests use, where there is npm and they are missing or older than their lock file: Dawn, which holds
/// Chromium's shader compiler, and what drives Chromium and compiles the runner.
pub fn fetch_packages() -> Result<(), Failure> {
    if !has_npm() {
        return Ok(());
    }
    for folder in ["codegen-wgsl/tint", "web"] {
        let folder = root().join(folder);
        let changed = |file: &str| std::fs::metadata(folder.join(file)).and_then(|data| data.modified()).ok();
        // npm writes this copy of the lock file last.
        if changed("node_modules/.package-lock.json") < changed("package-lock.json") {
            step(Command::new("npm").args(["ci", "--no-audit", "--no-fund"]).current_dir(folder))?;
        }
    }
    Ok(())
}

/// Compares the runner's JavaScript, which is in the repository, with what its TypeScript compiles to.
fn check_runner() -> Result<(), Failure> {
    let checked = match has_npm() {
        true => step(Command::new("npm").args(["run", "--silent", "check"]).current_dir(root().join("web"))),
        false => Err(Failure::Unusable(
            "found no npm, expected one to compile the runner with: install nodejs and npm".into(),
        )),
    };
    unless_required("TINYGPT_REQUIRE_NODE", checked)
}

pub fn has_npm() -> bool {
    let version = Command::new("npm").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    version.is_ok_and(|status| status.success())
}

/// `fuzz_seconds` is how long each parser is tried, where TINYGPT_FUZZ_SECONDS does not say it.
fn run_tests(fuzz_seconds: Option<&str>) -> Result<Totals, Failure> {
    let ignored_too = std::env::var_os("CI").is_some_and(|value| !value.is_empty());
    let runner = if has_nextest() { Runner::Nextest } else { Runner::Libtest };
    // --no-fail-fast everywhere: one failing test does not hide the others.
    let (mut unit, ignored_flags) = match runner {
        Runner::Nextest => (
            cargo(&["nextest", "run", "--release", "--workspace", "--no-fail-fast", "--no-tests", "pass"]),
            &["--run-ignored", "all"],
        ),
        // The targets that nextest runs: all but benches and doc tests.
        Runner::Libtest => (
            cargo(&["test", "--release", "--workspace", "--lib", "--bins", "--tests", "--examples", "--no-fail-fast"]),
            &["--", "--include-ignored"],
        ),
    };
    let mut doc = cargo(&["test", "--release", "--workspace", "--doc", "--no-fail-fast"]);
    if ignored_too {
        unit.args(ignored_flags);
        doc.args(["--", "--include-ignored"]);
    }
    if let (Some(seconds), None) = (fuzz_seconds, std::env::var_os("TINYGPT_FUZZ_SECONDS")) {
        unit.env("TINYGPT_FUZZ_SECONDS", seconds);
    }
    let mut totals = counted_step(&mut unit, runner)?;
    totals.add(counted_step(&mut doc, Runner::Libtest)?);
    Ok(totals)
}

fn has_nextest() -> bool {
    cargo(&["nextest", "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Like [`step`](crate::step) for a test runner: counts its tests. A runner that fails without naming a failed test (a test
/// that does not compile, say) is an error here; failed tests are the caller's to report.
fn counted_step(command: &mut Command, runner: Runner) -> Result<Totals, Failure> {
    let name = spelled(command);
    eprintln!("xtask: {name}");
    let start = Instant::now();
    let cannot = |error: std::io::Error| Failure::Unusable(format!("cannot run `{name}`: {error}"));
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(cannot)?;
    let stdout = child.stdout.take().expect("stdout is piped");
    let stderr = child.stderr.take().expect("stderr is piped");
    // Both streams are drained at once, or a full pipe would block the runner.
    let (from_stdout, from_stderr) = std::thread::scope(|scope| {
        let other = scope.spawn(|| pass_through(stderr, std::io::stderr(), runner));
        let own = pass_through(stdout, std::io::stdout(), runner);
        (own, other.join().expect("the reader of stderr does not panic"))
    });
    let status = child.wait().map_err(cannot)?;
    let mut totals = from_stdout.map_err(cannot)?;
    totals.add(from_stderr.map_err(cannot)?);
    eprintln!("xtask: {name}: {:.1} s", start.elapsed().as_secs_f64());
    if !status.success() && totals.failed == 0 {
        return Err(Failure::Failed(format!("`{name}` failed ({status}) without a failed test: its message is above")));
    }
    Ok(totals)
}

/// Copy lines as they come, and add up the runner's closing lines among them.
fn pass_through(from: impl Read, mut to: impl Write, runner: Runner) -> std::io::Result<Totals> {
    let mut reader = BufReader::new(from);
    let mut line = Vec::new();
    let mut totals = Totals::default();
    // Bytes, not String: a test may print anything.
    while reader.read_until(b'\n', &mut line)? > 0 {
        to.write_all(&line)?;
        to.flush()?;
        totals.add(closing_line(&String::from_utf8_lossy(&line), runner).unwrap_or_default());
        line.clear();
    }
    Ok(totals)
}

/// The counts in a closing line of the runner; None for any other line.
///
/// Libtest, one a test binary: `test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; ...`.
/// Nextest, one a run: `Summary [   0.006s] 9 tests run: 7 passed (1 slow), 1 failed, 1 timed out, 0 skipped`; tests
/// that timed out or could not start (`exec failed`) are failures.
fn closing_line(line: &str, runner: Runner) -> Option<Totals> {
    let line = line.trim();
    let counts = match runner {
        Runner::Libtest => line.strip_prefix("test result: ")?.split_once(". ")?.1,
        Runner::Nextest => line.strip_prefix("Summary [")?.split_once(" run: ")?.1,
    };
    let mut totals = Totals::default();
    for part in counts.split([',', ';']) {
        let mut words = part.split_whitespace();
        let Some(count) = words.next().and_then(|word| word.parse::<u64>().ok()) else { continue };
        match words.next() {
            Some("passed") => totals.passed += count,
            Some("failed" | "timed" | "exec") => totals.failed += count,
            _ => {}
        }
    }
    Some(totals)
}

#[cfg(test)]
mod tests {
    use super::*;

    use Runner::{Libtest, Nextest};

    #[test]
    fn closing_lines_of_both_runners_are_counted() {
        let cases = [
            (Libtest, "test result: ok. 3 passed; 0 failed; 2 ignored; 0 measured; 0 filtered out", 3, 0),
            (Libtest, "test result: FAILED. 3 passed; 4 failed; 0 ignored; 0 measured; 0 filtered out", 3, 4),
            (Nextest, "     Summary [   0.006s] 12 tests run: 12 passed, 0 skipped", 12, 0),
            (
                Nextest,
                "Summary [  1.0s] 10/12 tests run: 7 passed (1 slow, 1 flaky), 1 failed, 1 timed out, 1 exec failed",
                7,
                3,
            ),
        ];
        for (runner, line, passed, failed) in cases {
            assert_eq!(closing_line(line, runner), Some(Totals { passed, failed }), "{line}");
        }
    }

    #[test]
    fn other_lines_are_not_counted() {
        let cases = [
            (Libtest, "running 3 tests"),
            (Libtest, "3 passed; 0 failed"),
            (Nextest, "Summary of 3 passed, 1 failed"),
            // A failed test's own output, as nextest shows it.
            (Nextest, "test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out"),
        ];
        for (runner, line) in cases {
            assert_eq!(closing_line(line, runner), None, "{line}");
        }
    }

    #[test]
    fn output_passes_through_unchanged_and_is_added_up() {
        let output =
            b"a \xff byte\ntest result: ok. 2 passed; 0 failed;\ntest result: FAILED. 1 passed; 1 failed;\nend";
        let mut copy = Vec::new();
        let totals = pass_through(&output[..], &mut copy, Libtest).expect("reading memory does not fail");
        assert_eq!(copy, output);
        assert_eq!(totals, Totals { passed: 3, failed: 1 });
    }

    #[test]
    fn a_run_of_no_test_or_with_a_failed_one_is_a_failure() {
        assert!(Totals::default().conclude().is_err());
        assert!(Totals { passed: 5, failed: 1 }.conclude().is_err());
        assert!(Totals { passed: 5, failed: 0 }.conclude().is_ok());
    }
}
