//! `check`: filetests. One text file holds IR, what to do with it, and the expected result; `docs/FILETESTS.md` is the guide.
//!
//! Files run in parallel and share nothing. A file whose result differs from its expectation fails, and its difference is printed; a file that is no
//! filetest (no `; test` line, an unknown step, IR that does not parse) is unusable, which is bad input. `--bless` writes the results of
//! failing files into them, but never a panic.
//!
//! Invariants
//! - What is printed depends on the files alone: not on time, threads, machine or order of the file system.
//! - A panic of a pass or of a code generator fails its file, and no other.

mod code;
mod file;
mod steps;

use super::{Ending, print};
use crate::cli::CheckArgs;
use crate::error::one_line;
use crate::{Error, Result};
use rayon::prelude::*;
use regex_lite::Regex;
use similar::TextDiff;
use std::any::Any;
use std::fmt::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

pub use file::Filetest;
pub use steps::STEPS;

/// What files of a folder end in.
pub const EXTENSION: &str = "gir";

pub fn run(args: &CheckArgs) -> Result<Ending> {
    let files = chosen(args)?;
    let outcomes: Vec<(PathBuf, Outcome)> = files
        .into_par_iter()
        .map(|path| {
            let outcome = check(&path);
            (path, outcome)
        })
        .collect();
    let (mut report, mut passed, mut blessed) = (String::new(), 0, 0);
    let (mut failed, mut unusable) = (0, Vec::new());
    for (path, outcome) in outcomes {
        let path = path.display();
        match outcome {
            Outcome::Passed => passed += 1,
            Outcome::Failed { text, found, bless } if args.bless && bless => {
                let at = Path::new(&path.to_string()).to_path_buf();
                std::fs::write(&at, text.blessed(&found)).map_err(|e| Error::writing(&at, e))?;
                let _ = writeln!(report, "blessed {path}");
                blessed += 1;
            }
            Outcome::Failed { text, found, .. } => {
                let diff = TextDiff::from_lines(text.expected.as_str(), found.as_str());
                let _ = writeln!(report, "FAILED {path}");
                let _ = write!(report, "{}", diff.unified_diff().header("expected", "found"));
                failed += 1;
            }
            Outcome::Unusable(why) => {
                let _ = writeln!(report, "UNUSABLE {path}: {why}");
                unusable.push(format!("{path}: {why}"));
            }
        }
    }
    let _ = write!(report, "check: {passed} passed, {} failed", failed + unusable.len());
    if blessed > 0 {
        let _ = write!(report, ", {blessed} blessed");
    }
    print(format!("{report}\n").as_bytes())?;
    match (unusable.as_slice(), failed) {
        ([], 0) => Ok(Ending::Done),
        ([], _) => Err(Error::failed(format!(
            "{failed} of {} filetests failed, as shown above: mend what they test, or take the new results with --bless",
            passed + failed + blessed
        ))),
        ([first], _) => Err(Error::input(first)),
        ([first, ..], _) => Err(Error::input(format!("{} files are no filetests; the first: {first}", unusable.len()))),
    }
}

/// The files asked for: those named, and those of the named folders, in order of their names.
fn chosen(args: &CheckArgs) -> Result<Vec<PathBuf>> {
    let filter = args.filter.as_deref().map(|pattern| {
        Regex::new(pattern)
            .map_err(|e| Error::input(format!("--filter \"{pattern}\" is no regular expression: {}", one_line(e))))
    });
    let filter = filter.transpose()?;
    let mut files = Vec::new();
    for path in &args.paths {
        let before = files.len();
        if path.is_dir() {
            walk(path, &mut files)?;
            if files.len() == before {
                return Err(Error::input(format!("{} holds no file that ends in .{EXTENSION}", path.display())));
            }
        } else {
            files.push(path.clone());
        }
    }
    files.sort();
    files.dedup();
    let count = files.len();
    files.retain(|f| filter.as_ref().is_none_or(|re| re.is_match(&f.display().to_string())));
    match (files.is_empty(), &args.filter) {
        (true, Some(pattern)) => Err(Error::input(format!("none of the {count} paths matches \"{pattern}\""))),
        _ => Ok(files),
    }
}

fn walk(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(dir).map_err(|e| Error::reading(dir, e))? {
        let path = entry.map_err(|e| Error::reading(dir, e))?.path();
        if path.is_dir() {
            walk(&path, files)?;
        } else if path.extension().is_some_and(|e| e == EXTENSION) {
            files.push(path);
        }
    }
    Ok(())
}

/// How one file fared.
enum Outcome {
    Passed,
    /// The result is not the expected one; `bless` where it may become that.
    Failed {
        text: Filetest,
        found: String,
        bless: bool,
    },
    /// The file is no filetest: one sentence.
    Unusable(String),
}

fn check(path: &Path) -> Outcome {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) => return Outcome::Unusable(format!("it cannot be read: {}", one_line(e))),
    };
    let text = match Filetest::parse(&text) {
        Ok(text) => text,
        Err(why) => return Outcome::Unusable(why),
    };
    let (mut results, mut bless) = (Vec::new(), true);
    for test in &text.tests {
        let result = catch_unwind(AssertUnwindSafe(|| steps::run(test, &text.input)));
        let output = match result {
            Ok(Ok(Some(output))) => output,
            // What this machine cannot check stays as it is.
            Ok(Ok(None)) => text.expected_of(test).to_string(),
            Ok(Err(why)) => return Outcome::Unusable(why),
            Err(panic) => {
                bless = false;
                format!("panicked: {}\n", message(panic.as_ref()))
            }
        };
        results.push((test, output));
    }
    let found = file::sections(results);
    if found == text.expected { Outcome::Passed } else { Outcome::Failed { text, found, bless } }
}

/// What a panic said.
fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| s.to_string()).or_else(|| panic.downcast_ref::<String>().cloned());
    one_line(text.unwrap_or_else(|| "without a message".to_string()))
}
