//! Which variant of a kernel runs: from the run's plan, else the cache on disk, else by measurement, else the default.
//!
//! A kernel is known by the hash of its default variant's code, which says everything about its structure and shapes, so that equal kernels
//! share a measurement from program to program and from run to run.
//!
//! Invariants
//! - A plan lists the variant of every kernel that had a choice, and a replayed plan decides before anything else: equal plans give
//!   equal code, hence equal bits.
//! - Only measured variants enter the cache. A cache of another adapter, driver or version counts as empty; one that cannot be read
//!   or written costs measurements and is said ([`Tuner::take_notes`]), and nothing else.
//! - All of a program's kernels are settled before its first step. Which of them are measured, and how long that may take, is said in
//!   [`super::contest`].

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tinygpt_codegen_wgsl::Choice;

use super::device::AdapterReport;
use super::kept;
use crate::error::one_line;
use crate::{Error, Result};

/// Of the plan and the cache: raised when variants or hashes change their meaning.
pub const VERSION: u32 = 5;

/// What runs, by the hash of a bundle's default.
pub type Variants = BTreeMap<u64, Choice>;

/// The variants of one adapter's kernels.
pub struct Tuner {
    /// Name and driver.
    adapter: String,
    measures: bool,
    /// None where the system names no place for caches.
    cache_file: Option<PathBuf>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What runs.
    plan: Variants,
    cache: Variants,
    notes: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct CacheFile {
    version: u32,
    adapter: String,
    /// Hash in hexadecimal to variant.
    kernels: BTreeMap<String, String>,
}

impl Tuner {
    /// For an adapter; without `measures` kernels that no plan names have their defaults.
    pub fn new(report: &AdapterReport, measures: bool) -> Tuner {
        Tuner::with_cache(identity(report), measures, cache_file(report, "tune", "json"))
    }

    fn with_cache(adapter: String, measures: bool, cache_file: Option<PathBuf>) -> Tuner {
        let mut state = State::default();
        if let Some(file) = cache_file.as_deref().filter(|_| measures) {
            match read_cache(file, &adapter) {
                Ok(cache) => state.cache = cache,
                Err(e) => state.notes.push(format!("kernel timings are measured anew, since {e}")),
            }
        }
        Tuner { adapter, measures, cache_file, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is settled for a kernel: by the plan, or by the cache, whose answer then is part of the plan.
    pub(super) fn choice(&self, hash: u64) -> Option<Choice> {
        let mut state = self.state();
        if let Some(variant) = state.plan.get(&hash) {
            return Some(variant.clone());
        }
        let variant = state.cache.get(&hash).cloned()?;
        state.plan.insert(hash, variant.clone());
        Some(variant)
    }

    /// Settles a kernel's variant.
    pub(super) fn record(&self, hash: u64, choice: Choice, measured: bool) {
        let mut state = self.state();
        if measured {
            state.cache.insert(hash, choice.clone());
        }
        state.plan.insert(hash, choice);
    }

    /// Whether kernels that are not known are to be timed.
    pub(super) fn measures(&self) -> bool {
        self.measures
    }

    /// Keeps all measurements on disk, and says what `measured` of them, of `wanted`, took.
    pub(super) fn save(&self, measured: usize, wanted: usize, took: Duration) {
        let mut note = format!("timed variants of {measured} kernels in {:.1} s", took.as_secs_f64());
        if measured < wanted {
            let _ = write!(note, ", {} more left for the next run", wanted - measured);
        }
        match self.keep() {
            Ok(None) => {}
            Ok(Some(file)) => {
                let _ = write!(note, ", kept in {}", file.display());
            }
            Err(e) => {
                let _ = write!(note, ", not kept, since {e}");
            }
        }
        self.note(note);
    }

    /// Keeps all measurements on disk. The file; None where the system names no place for caches.
    pub(super) fn keep(&self) -> Result<Option<&Path>> {
        let Some(file) = &self.cache_file else { return Ok(None) };
        let state = self.state();
        // Another process may have written since: its kernels stay.
        let mut all = read_cache(file, &self.adapter).unwrap_or_default();
        all.extend(state.cache.clone());
        write_cache(file, &self.adapter, &all)?;
        Ok(Some(file))
    }

    /// Says something to the user.
    pub(super) fn note(&self, note: String) {
        self.state().notes.push(note);
    }

    /// What the user may want to know since the last call, one line each.
    pub fn take_notes(&self) -> Vec<String> {
        std::mem::take(&mut self.state().notes)
    }

    /// The plan so far: the variant of every kernel that had a choice, in all programs prepared on this device.
    pub fn plan(&self) -> String {
        let mut text = format!("tinygpt plan {VERSION}\nadapter {}\n", self.adapter);
        for (hash, variant) in &self.state().plan {
            let _ = writeln!(text, "kernel {hash:016x} {variant}");
        }
        text
    }

    /// Replays a plan. One of another adapter is left alone, which a note says. `origin` names it in errors.
    pub fn replay(&self, text: &str, origin: &str) -> Result<()> {
        let (adapter, plan) = parse_plan(text, origin)?;
        let mut state = self.state();
        if adapter == self.adapter {
            state.plan.extend(plan);
        } else {
            let own = &self.adapter;
            state.notes.push(format!("{origin} is a plan for {adapter}: variants are chosen anew for {own}"));
        }
        Ok(())
    }
}

/// Adapter and variants of a plan.
pub fn parse_plan(text: &str, origin: &str) -> Result<(String, Variants)> {
    let bad = |line: &str, expected: &str| Error::input(format!("{origin}: found \"{line}\", expected {expected}"));
    let mut lines = text.lines();
    let first = lines.next().unwrap_or_default();
    if first != format!("tinygpt plan {VERSION}") {
        return Err(bad(first, &format!("a plan that begins with \"tinygpt plan {VERSION}\"")));
    }
    let second = lines.next().unwrap_or_default();
    let adapter = second.strip_prefix("adapter ").ok_or_else(|| bad(second, "\"adapter NAME\""))?;
    let kernel = |line: &str| {
        let (hash, variant) = line.strip_prefix("kernel ")?.split_once(' ')?;
        Some((u64::from_str_radix(hash, 16).ok()?, variant.parse().ok()?))
    };
    let lines = lines.filter(|line| !line.trim().is_empty());
    let plan = lines.map(|line| kernel(line).ok_or_else(|| bad(line, "\"kernel HASH VARIANT\"")));
    Ok((adapter.to_owned(), plan.collect::<Result<_>>()?))
}

/// What caches are of: an adapter and its driver.
pub(super) fn identity(report: &AdapterReport) -> String {
    format!("{} ({})", report.name, report.driver)
}

/// An adapter's file among the caches; None where the system names no place for them.
pub(super) fn cache_file(report: &AdapterReport, what: &str, extension: &str) -> Option<PathBuf> {
    Some(cache_dir()?.join(format!("{what}-{}.{extension}", file_name(&report.name))))
}

/// Where caches belong (XDG Base Directory Specification; on Windows the local application data).
fn cache_dir() -> Option<PathBuf> {
    let var = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = var("XDG_CACHE_HOME").or_else(|| Some(var("HOME")?.join(".cache"))).or_else(|| var("LOCALAPPDATA"))?;
    Some(base.join("tinygpt"))
}

/// `NVIDIA H100 80GB` as `nvidia-h100-80gb`.
fn file_name(adapter: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { ' ' };
    let words: String = adapter.chars().map(plain).collect();
    words.split_whitespace().collect::<Vec<_>>().join("-")
}

/// The kernels of a cache file; none if there is no file, or one of another adapter or version.
fn read_cache(file: &Path, adapter: &str) -> Result<Variants> {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Variants::new()),
        Err(e) => return Err(Error::reading(file, e)),
    };
    let found: CacheFile = serde_json::from_str(&text).map_err(|e| Error::reading(file, e))?;
    if found.version != VERSION || found.adapter != adapter {
        return Ok(Variants::new());
    }
    let kernel = |(hash, variant): (&String, &String)| {
        let hash = u64::from_str_radix(hash, 16).map_err(|e| Error::reading(file, e))?;
        Ok((hash, variant.parse().map_err(|e| Error::reading(file, e))?))
    };
    found.kernels.iter().map(kernel).collect()
}

fn write_cache(file: &Path, adapter: &str, kernels: &Variants) -> Result<()> {
    let kernels = kernels.iter().map(|(hash, variant)| (format!("{hash:016x}"), variant.to_string())).collect();
    let contents = CacheFile { version: VERSION, adapter: adapter.to_owned(), kernels };
    let text = serde_json::to_string_pretty(&contents).map_err(|e| Error::writing(file, one_line(e)))?;
    kept::replace(file, (text + "\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wide() -> Choice {
        "pointwise width=4 group=256".parse().unwrap()
    }

    fn narrow() -> Choice {
        "pointwise width=1 group=64 + reduce rows=1 lanes=64 split=1 width=1 subgroups=0".parse().unwrap()
    }

    #[test]
    fn measured_variants_are_kept_on_disk_for_one_adapter() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("deep/tune-x.json");
        let tuner = |adapter: &str, measures| Tuner::with_cache(adapter.to_owned(), measures, Some(file.clone()));
        let first = tuner("X", true);
        assert_eq!(first.choice(7), None);
        first.record(7, wide(), true);
        first.record(8, narrow(), false);
        first.save(1, 3, Duration::from_secs(1));
        let notes = first.take_notes();
        assert!(
            notes.len() == 1
                && notes[0].starts_with("timed variants of 1 kernels in 1.0 s, 2 more left for the next run, kept in "),
            "{notes:?}"
        );
        let second = tuner("X", true);
        assert_eq!((second.choice(7), second.choice(8)), (Some(wide()), None), "defaults are not measurements");
        assert_eq!(tuner("Y", true).choice(7), None, "another adapter");
        assert_eq!(tuner("X", false).choice(7), None, "no tuning, no cache");
        std::fs::write(&file, "{").unwrap();
        let broken = tuner("X", true);
        assert_eq!(broken.choice(7), None);
        assert!(broken.take_notes()[0].starts_with("kernel timings are measured anew, since cannot read"));
    }

    #[test]
    fn plans_print_parse_and_replay() {
        let first = Tuner::with_cache("X (1.2)".to_owned(), false, None);
        first.record(7, wide(), false);
        first.record(0xfeed_0000_0000_0001, narrow(), false);
        let text = first.plan();
        assert_eq!(
            text,
            "tinygpt plan 5\nadapter X (1.2)\nkernel 0000000000000007 pointwise width=4 group=256\n\
             kernel feed000000000001 pointwise width=1 group=64 + reduce rows=1 lanes=64 split=1 width=1 subgroups=0\n"
        );
        let second = Tuner::with_cache("X (1.2)".to_owned(), true, None);
        second.replay(&text, "p").unwrap();
        assert_eq!(second.choice(7), Some(wide()));
        assert_eq!(second.plan(), text);
        let other = Tuner::with_cache("Y".to_owned(), true, None);
        other.replay(&text, "p").unwrap();
        assert_eq!(other.choice(7), None);
        assert!(other.take_notes()[0].starts_with("p is a plan for X (1.2): variants are chosen anew"));
        for (text, part) in [
            ("", "found \"\", expected a plan that begins"),
            ("tinygpt plan 9\n", "tinygpt plan 9"),
            ("tinygpt plan 5\nkernel", "expected \"adapter NAME\""),
            ("tinygpt plan 5\nadapter X\nkernel 7 fast", "expected \"kernel HASH VARIANT\""),
        ] {
            let error = second.replay(text, "p").unwrap_err().to_string();
            assert!(error.starts_with("p: ") && error.contains(part), "{error}");
        }
    }

    #[test]
    fn adapters_name_files() {
        assert_eq!(file_name("NVIDIA H100 80GB (PCIe)"), "nvidia-h100-80gb-pcie");
        assert_eq!(file_name("llvmpipe (LLVM 15.0.6, 256 bits)"), "llvmpipe-llvm-15-0-6-256-bits");
    }
}
