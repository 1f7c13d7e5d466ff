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
//! - Measurements of one program take at most [`BUDGET`] and what was begun by then; what is left has its default.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tinygpt_codegen_wgsl::Choice;

use super::build::Launch;
use super::device::{AdapterReport, Gpu};
use crate::error::one_line;
use crate::{Error, Result};

/// Of the plan and the cache: raised when variants or hashes change their meaning.
pub const VERSION: u32 = 3;

/// Time to measure kernels of one program that nothing is known of.
const BUDGET: Duration = Duration::from_secs(5);

/// Time for which the device is kept busy before the first measurement: idle ones run at a fraction of their clock.
const WARM_UP: Duration = Duration::from_millis(300);

/// Time of the device for one measurement of a variant.
const TRIAL: Duration = Duration::from_millis(2);

/// Measurements of a variant; the fastest counts, since anything else that runs can only slow one down.
const TRIALS: usize = 3;

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

/// Time left for measurements.
pub(super) struct Budget {
    start: Instant,
    /// Whether the device has been busy long enough to run at its full clock.
    warm: bool,
}

impl Budget {
    pub fn new() -> Budget {
        Budget { start: Instant::now(), warm: false }
    }

    /// When compiling variants has to end, so that there is time to measure them.
    pub fn end_of_compilation(&self) -> Instant {
        self.start + BUDGET * 2 / 3
    }

    pub fn spent(&self) -> bool {
        self.start.elapsed() >= BUDGET
    }
}

impl Tuner {
    /// For an adapter; without `measures` kernels that no plan names have their defaults.
    pub fn new(report: &AdapterReport, measures: bool) -> Tuner {
        let adapter = format!("{} ({})", report.name, report.driver);
        let cache_file = cache_dir().map(|dir| dir.join(format!("tune-{}.json", file_name(&report.name))));
        Tuner::with_cache(adapter, measures, cache_file)
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
        let mut state = self.state();
        let mut note = format!("timed variants of {measured} kernels in {:.1} s", took.as_secs_f64());
        if measured < wanted {
            let _ = write!(note, ", {} more left for the next run", wanted - measured);
        }
        if let Some(file) = &self.cache_file {
            // Another process may have written since: its kernels stay.
            let mut all = read_cache(file, &self.adapter).unwrap_or_default();
            all.extend(state.cache.clone());
            match write_cache(file, &self.adapter, &all) {
                Ok(()) => {
                    let _ = write!(note, ", kept in {}", file.display());
                }
                Err(e) => {
                    let _ = write!(note, ", not kept, since {e}");
                }
            }
        }
        state.notes.push(note);
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

/// Replaces a cache file whole: a reader sees the old or the new one.
fn write_cache(file: &Path, adapter: &str, kernels: &Variants) -> Result<()> {
    let kernels = kernels.iter().map(|(hash, variant)| (format!("{hash:016x}"), variant.to_string())).collect();
    let contents = CacheFile { version: VERSION, adapter: adapter.to_owned(), kernels };
    let text = serde_json::to_string_pretty(&contents).map_err(|e| Error::writing(file, one_line(e)))?;
    let aside = file.with_extension(format!("{}.new", std::process::id()));
    let dir = file.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(dir)
        .and_then(|()| std::fs::write(&aside, text + "\n"))
        .and_then(|()| std::fs::rename(&aside, file))
        .map_err(|e| Error::writing(file, e))
}

/// The fastest of the variants on this device; None where the budget ran out before each was timed.
///
/// Variants take turns, so that a clock that rises or falls favours none.
pub(super) fn fastest(gpu: &Gpu, entrants: &[(Choice, Vec<Launch>)], budget: &mut Budget) -> Result<Option<Choice>> {
    let clock = Clock::new(gpu);
    if !budget.warm {
        let start = Instant::now();
        while start.elapsed() < WARM_UP && !budget.spent() {
            clock.time(gpu, &entrants[0].1, 20)?;
        }
        budget.warm = true;
    }
    let mut times = Vec::with_capacity(entrants.len());
    for (_, launches) in entrants {
        if budget.spent() {
            return Ok(None);
        }
        // The first run fills caches.
        clock.time(gpu, launches, 1)?;
        times.push(clock.time(gpu, launches, 1)?);
    }
    for _ in 0..TRIALS {
        for ((_, launches), time) in entrants.iter().zip(0..) {
            // A variant far behind is not worth more.
            let best = times.iter().min().copied().unwrap_or_default();
            if budget.spent() || times[time] > best * 4 {
                continue;
            }
            let runs = (TRIAL.as_secs_f64() / times[time].as_secs_f64().max(1e-7)).clamp(1.0, 200.0) as u32;
            times[time] = times[time].min(clock.time(gpu, launches, runs)? / runs);
        }
    }
    let best = entrants.iter().zip(&times).min_by_key(|(_, time)| **time);
    Ok(best.map(|((choice, _), _)| choice.clone()))
}

/// Measures by the device's timestamps where it has them, and by the host's clock otherwise.
struct Clock {
    /// Queries, where they are resolved to, and where they are read.
    queries: Option<(wgpu::QuerySet, wgpu::Buffer, wgpu::Buffer)>,
    ns_per_tick: f64,
}

/// Bytes of two timestamps.
const STAMPS: u64 = 16;

impl Clock {
    fn new(gpu: &Gpu) -> Clock {
        let queries = gpu.device.features().contains(wgpu::Features::TIMESTAMP_QUERY).then(|| {
            use wgpu::BufferUsages as Usage;
            let buffer = |usage| {
                gpu.device.create_buffer(&wgpu::BufferDescriptor {
                    label: Some("timestamps"),
                    size: STAMPS,
                    usage,
                    mapped_at_creation: false,
                })
            };
            let set = gpu.device.create_query_set(&wgpu::QuerySetDescriptor {
                label: Some("timestamps"),
                ty: wgpu::QueryType::Timestamp,
                count: 2,
            });
            (set, buffer(Usage::QUERY_RESOLVE | Usage::COPY_SRC), buffer(Usage::MAP_READ | Usage::COPY_DST))
        });
        Clock { queries, ns_per_tick: f64::from(gpu.queue.get_timestamp_period()) }
    }

    /// Time of `runs` runs of the launches.
    fn time(&self, gpu: &Gpu, launches: &[Launch], runs: u32) -> Result<Duration> {
        let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        {
            let stamps = self.queries.as_ref().map(|(set, ..)| wgpu::ComputePassTimestampWrites {
                query_set: set,
                beginning_of_pass_write_index: Some(0),
                end_of_pass_write_index: Some(1),
            });
            let mut pass =
                encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: None, timestamp_writes: stamps });
            for launch in (0..runs).flat_map(|_| launches) {
                pass.set_pipeline(&launch.pipeline);
                pass.set_bind_group(0, &launch.group, &[]);
                let [x, y, z] = launch.workgroups;
                pass.dispatch_workgroups(x, y, z);
            }
        }
        if let Some((set, resolved, read)) = &self.queries {
            encoder.resolve_query_set(set, 0..2, resolved, 0);
            encoder.copy_buffer_to_buffer(resolved, 0, read, 0, STAMPS);
        }
        let start = Instant::now();
        let submission = gpu.queue.submit([encoder.finish()]);
        let Some((.., read)) = &self.queries else {
            gpu.wait(Some(submission))?;
            return Ok(start.elapsed());
        };
        read.map_async(wgpu::MapMode::Read, .., |_| ());
        gpu.wait(Some(submission))?;
        let wall = start.elapsed();
        let refused = |_| Error::failed(format!("the GPU {} did not hand over its timestamps", gpu.report().name));
        let view = read.get_mapped_range(..).map_err(refused)?;
        let stamps: Vec<u64> =
            view.chunks_exact(8).map(|b| b.iter().rev().fold(0, |x, b| x << 8 | u64::from(*b))).collect();
        drop(view);
        read.unmap();
        // A driver whose stamps stand still or run backwards has none.
        Ok(match stamps[1].checked_sub(stamps[0]) {
            Some(ticks) if ticks > 0 => Duration::from_secs_f64(ticks as f64 * self.ns_per_tick * 1e-9),
            _ => wall,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wide() -> Choice {
        "pointwise width=4 group=256".parse().unwrap()
    }

    fn narrow() -> Choice {
        "pointwise width=1 group=64 + reduce rows=1 lanes=64 split=1 subgroups=0".parse().unwrap()
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
            "tinygpt plan 3\nadapter X (1.2)\nkernel 0000000000000007 pointwise width=4 group=256\n\
             kernel feed000000000001 pointwise width=1 group=64 + reduce rows=1 lanes=64 split=1 subgroups=0\n"
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
            ("tinygpt plan 3\nkernel", "expected \"adapter NAME\""),
            ("tinygpt plan 3\nadapter X\nkernel 7 fast", "expected \"kernel HASH VARIANT\""),
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
