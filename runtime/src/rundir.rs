//! A run directory: config.toml, metrics.jsonl, samples.txt, on GPUs the plan, and the checkpoints of one training run.
//!
//! Invariants:
//! - A directory belongs to one run: creating one where a run already is, is an error.
//! - One process writes to it, which holds the lock on its file `.lock`. The system drops the lock with the process, however that ends.
//! - metrics.jsonl has one object a line, by rising step, and no step twice: resuming cuts it and samples.txt back to the checkpoint's step.
//!   What was logged is on file when the call returns.
//! - Files that are replaced are written aside and renamed.

pub use crate::architecture::GRAPH_FILE;
use crate::config::RunConfig;
use crate::{Error, Result, checkpoint};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// Where runs go that are not told where to go.
pub const RUNS: &str = "runs";

const CONFIG_FILE: &str = "config.toml";
const METRICS_FILE: &str = "metrics.jsonl";
const SAMPLES_FILE: &str = "samples.txt";
const PLAN_FILE: &str = "plan";
const LOCK_FILE: &str = ".lock";

/// One line of metrics.jsonl. A number that is not finite is written as null.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Steps done when this was logged.
    pub step: u64,
    /// Training loss of the last step, nats a token.
    pub loss: Option<f64>,
    /// Validation loss, on the steps that validate.
    pub val_loss: Option<f64>,
    pub lr: f64,
    /// Global gradient norm before clipping.
    pub grad_norm: Option<f64>,
    pub tokens_per_s: f64,
    /// Seconds of training so far, over all resumes.
    pub elapsed_s: f64,
    /// What the loss was multiplied by; only in mixed precision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_scale: Option<f64>,
}

/// An existing run directory.
#[derive(Debug, Clone)]
pub struct RunDir {
    path: PathBuf,
    /// Open for as long as this process may write.
    lock: Option<Arc<File>>,
}

impl RunDir {
    /// Makes the directory of a new run, at `out` or as `runs/DATE-TIME-PRESET`, locks it, and writes its config.toml.
    pub fn create(out: Option<&Path>, config: &RunConfig, now: SystemTime) -> Result<Self> {
        let path = match out {
            Some(out) => out.to_owned(),
            None => unused(&Path::new(RUNS).join(format!("{}-{}", date_and_time(now), config.label()))),
        };
        fs::create_dir_all(&path).map_err(|e| Error::writing(&path, e))?;
        let dir = Self { path, lock: None }.locked()?;
        if dir.path.join(CONFIG_FILE).exists() {
            return Err(Error::input(format!(
                "{} already holds a run: go on with it by --resume, or choose another --out",
                dir.path.display()
            )));
        }
        dir.replace(CONFIG_FILE, config.to_toml()?.as_bytes())?;
        Ok(dir)
    }

    /// Locks the directory, so that no other process writes to it. Errors: another process has it.
    pub fn locked(mut self) -> Result<Self> {
        let path = self.path.join(LOCK_FILE);
        let open = OpenOptions::new().create(true).truncate(false).write(true).read(true).open(&path);
        let mut file = open.map_err(|e| Error::writing(&path, e))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let owner = std::io::read_to_string(&file).unwrap_or_default();
                return Err(Error::input(format!(
                    "{} is in use by another tinygpt{}: wait until it ends, or stop it",
                    self.path.display(),
                    if owner.is_empty() { String::new() } else { format!(" (process {owner})") }
                )));
            }
            Err(TryLockError::Error(e)) => {
                return Err(Error::failed(format!("cannot lock {}: {e}", path.display())));
            }
        }
        // Who has it is for people to read; the lock is what counts.
        let id = std::process::id().to_string();
        file.set_len(0).and_then(|()| file.write_all(id.as_bytes())).map_err(|e| Error::writing(&path, e))?;
        self.lock = Some(Arc::new(file));
        Ok(self)
    }

    /// Replaces a file of the directory, whole or not at all.
    fn replace(&self, name: &str, contents: &[u8]) -> Result<()> {
        let (path, aside) = (self.path.join(name), self.path.join(format!("{name}.new")));
        fs::write(&aside, contents).and_then(|()| fs::rename(&aside, &path)).map_err(|e| Error::writing(&path, e))
    }

    /// The run that `resume` names: a run directory, or `auto` for the newest under runs/ that has a checkpoint. It is not locked.
    pub fn open(resume: &str) -> Result<Self> {
        if resume == "auto" {
            return Self::newest(Path::new(RUNS));
        }
        let path = PathBuf::from(resume);
        if !path.join(CONFIG_FILE).is_file() {
            return Err(Error::input(format!("{} is not a run directory: it has no {CONFIG_FILE}", path.display())));
        }
        Ok(Self { path, lock: None })
    }

    /// The run under `parent` whose latest checkpoint is the newest by the file system's clock.
    fn newest(parent: &Path) -> Result<Self> {
        let none = || {
            Error::input(format!(
                "there is no run with a checkpoint under {}: name one with --resume",
                parent.display()
            ))
        };
        if !parent.is_dir() {
            return Err(none());
        }
        let mut newest = None;
        for entry in fs::read_dir(parent).map_err(|e| Error::reading(parent, e))? {
            let path = entry.map_err(|e| Error::reading(parent, e))?.path();
            if !path.join(CONFIG_FILE).is_file() {
                continue;
            }
            if let Some(saved) = checkpoint::latest(&path)? {
                let time = fs::metadata(&saved).and_then(|m| m.modified()).map_err(|e| Error::reading(&saved, e))?;
                newest = newest.max(Some((time, path)));
            }
        }
        newest.map(|(_, path)| Self { path, lock: None }).ok_or_else(none)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The checkpoint of `step`; none if it has not been saved.
    pub fn checkpoint_of(&self, step: u64) -> Result<Option<PathBuf>> {
        Ok(checkpoint::latest(&self.path)?.filter(|place| place.ends_with(format!("step-{step:08}"))))
    }

    /// Makes what was logged survive a power failure.
    pub fn sync(&self) -> Result<()> {
        let path = self.path.join(METRICS_FILE);
        match File::open(&path).and_then(|file| file.sync_all()) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::writing(&path, e)),
            _ => Ok(()),
        }
    }

    /// Appends a line to metrics.jsonl.
    pub fn log(&self, metrics: &Metrics) -> Result<()> {
        let path = self.path.join(METRICS_FILE);
        let mut line = serde_json::to_string(metrics).map_err(|e| Error::writing(&path, e))?;
        line.push('\n');
        append(&path, line.as_bytes())
    }

    /// The lines of metrics.jsonl; none when nothing was logged yet. A last line cut short by a crash is left out.
    pub fn metrics(&self) -> Result<Vec<Metrics>> {
        let path = self.path.join(METRICS_FILE);
        if !path.exists() {
            return Ok(Vec::new());
        }
        let text = fs::read_to_string(&path).map_err(|e| Error::reading(&path, e))?;
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(|line| serde_json::from_str(line).map_err(|e| Error::reading(&path, e))).collect()
    }

    /// Cuts metrics.jsonl and samples.txt back to the steps up to `step`, before a run goes on from there.
    pub fn rewind(&self, step: u64) -> Result<()> {
        let mut text = String::new();
        for metrics in self.metrics()?.iter().filter(|metrics| metrics.step <= step) {
            let path = self.path.join(METRICS_FILE);
            text += &serde_json::to_string(metrics).map_err(|e| Error::writing(&path, e))?;
            text.push('\n');
        }
        self.replace(METRICS_FILE, text.as_bytes())?;
        let path = self.path.join(SAMPLES_FILE);
        match fs::read_to_string(&path) {
            Ok(samples) => self.replace(SAMPLES_FILE, samples_up_to(&samples, step).as_bytes()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(Error::reading(&path, e)),
        }
    }

    /// Keeps the text of the graph that the run trains.
    pub fn set_graph(&self, text: &str) -> Result<()> {
        self.replace(GRAPH_FILE, text.as_bytes())
    }

    /// The plan of the run's kernels and where it lies; none if the run has none.
    pub fn plan(&self) -> Result<Option<(String, PathBuf)>> {
        let path = self.path.join(PLAN_FILE);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some((text, path))),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::reading(&path, e)),
        }
    }

    /// Replaces the plan.
    pub fn set_plan(&self, plan: &str) -> Result<()> {
        self.replace(PLAN_FILE, plan.as_bytes())
    }

    /// Appends a sample to samples.txt under a heading that names the step. Bytes that are not UTF-8 are replaced.
    pub fn add_sample(&self, step: u64, text: &[u8]) -> Result<()> {
        let text = format!("== step {step} ==\n{}\n\n", String::from_utf8_lossy(text));
        append(&self.path.join(SAMPLES_FILE), text.as_bytes())
    }
}

/// The leading samples that were taken after at most `step` steps.
fn samples_up_to(samples: &str, step: u64) -> &str {
    let mut at = 0;
    for line in samples.split_inclusive('\n') {
        let heading = line.trim_end().strip_prefix("== step ").and_then(|rest| rest.strip_suffix(" =="));
        if heading.and_then(|number| number.parse::<u64>().ok()).is_some_and(|found| found > step) {
            break;
        }
        at += line.len();
    }
    &samples[..at]
}

fn append(path: &Path, bytes: &[u8]) -> Result<()> {
    let open = OpenOptions::new().create(true).append(true).open(path);
    // One write a line: a reader that follows the file never sees half of one unless the machine stops.
    open.and_then(|mut file| file.write_all(bytes)).map_err(|e| Error::writing(path, e))
}

/// `path`, or the first of `path-2`, `path-3`, ... that does not exist.
fn unused(path: &Path) -> PathBuf {
    let numbered = (2..).map(|n| PathBuf::from(format!("{}-{n}", path.display())));
    std::iter::once(path.to_owned()).chain(numbered).find(|path| !path.exists()).unwrap_or_default()
}

/// `2026-11-23-021800`, UTC.
fn date_and_time(now: SystemTime) -> String {
    let seconds = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (year, month, day) = civil_date(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}-{hour:02}{minute:02}{second:02}")
}

/// `2026-11-23T02:18:00Z`
pub(crate) fn iso_8601(time: SystemTime) -> String {
    let text = date_and_time(time);
    let (date, time) = text.rsplit_once('-').unwrap_or((&text, ""));
    format!("{date}T{}:{}:{}Z", &time[..2], &time[2..4], &time[4..])
}

/// Year, month and day of a number of days since 1970-01-01: `civil_from_days` of Howard Hinnant, "chrono-compatible
/// low-level date algorithms" (2013), for days that are not negative. Years begin in March there.
fn civil_date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn small() -> RunConfig {
        RunConfig::preset("small").unwrap()
    }

    fn metrics(step: u64) -> Metrics {
        let loss = Some(2.5 / (step + 1) as f64);
        Metrics {
            step,
            loss,
            val_loss: None,
            lr: 1e-3,
            grad_norm: Some(0.1),
            tokens_per_s: 1e5,
            elapsed_s: 0.5,
            loss_scale: None,
        }
    }

    /// Dates from `date -u -d @SECONDS`.
    #[test]
    fn dates_are_civil() {
        for (seconds, expected) in [
            (0, "1970-01-01-000000"),
            (951_782_399, "2000-02-28-235959"),
            (951_782_400, "2000-02-29-000000"),
            (1_709_251_200, "2024-03-01-000000"),
            (1_795_400_280, "2026-11-23-021800"),
            (4_107_542_400, "2100-03-01-000000"),
        ] {
            assert_eq!(date_and_time(UNIX_EPOCH + Duration::from_secs(seconds)), expected);
        }
        assert_eq!(iso_8601(UNIX_EPOCH + Duration::from_secs(1_795_400_280)), "2026-11-23T02:18:00Z");
    }

    #[test]
    fn a_run_directory_is_made_once_and_opens() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("a/b");
        let run = RunDir::create(Some(&out), &small(), UNIX_EPOCH).unwrap();
        let text = fs::read_to_string(out.join(CONFIG_FILE)).unwrap();
        assert_eq!(text, small().to_toml().unwrap());
        let error = RunDir::create(Some(&out), &small(), UNIX_EPOCH).unwrap_err().to_string();
        let owner = std::process::id();
        assert_eq!(
            error,
            format!("{} is in use by another tinygpt (process {owner}): wait until it ends, or stop it", out.display())
        );
        let path = run.path().to_owned();
        drop(run);
        let error = RunDir::create(Some(&out), &small(), UNIX_EPOCH).unwrap_err();
        assert!(error.to_string().contains("already holds a run"));
        let run = RunDir::open(path.to_str().unwrap()).unwrap().locked().unwrap();
        assert!(RunDir::open(path.to_str().unwrap()).unwrap().locked().is_err());
        assert_eq!(RunDir::open(out.to_str().unwrap()).unwrap().path(), run.path());
        assert!(RunDir::open(dir.path().to_str().unwrap()).unwrap_err().to_string().contains("not a run directory"));
        assert_eq!(unused(&out), dir.path().join("a/b-2"));
    }

    #[test]
    fn metrics_append_read_and_rewind() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunDir::create(Some(dir.path()), &small(), UNIX_EPOCH).unwrap();
        assert_eq!(run.metrics().unwrap(), []);
        (1..=4).for_each(|step| run.log(&metrics(step)).unwrap());
        append(&dir.path().join(METRICS_FILE), b"{\"step\":5,\"lo").unwrap();
        assert_eq!(run.metrics().unwrap().len(), 4);
        run.rewind(2).unwrap();
        run.log(&metrics(3)).unwrap();
        assert_eq!(run.metrics().unwrap(), [metrics(1), metrics(2), metrics(3)]);
        let text = fs::read_to_string(dir.path().join(METRICS_FILE)).unwrap();
        let first = r#"{"step":1,"loss":1.25,"val_loss":null,"lr":0.001,"grad_norm":0.1,"tokens_per_s":100000.0,"elapsed_s":0.5}"#;
        assert_eq!(text.lines().next(), Some(first));
        run.log(&Metrics { loss: Some(f64::NAN), ..metrics(4) }).unwrap();
        assert_eq!(run.metrics().unwrap()[3].loss, None);
    }

    #[test]
    fn samples_have_headings() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunDir::create(Some(dir.path()), &small(), UNIX_EPOCH).unwrap();
        run.add_sample(5, b"once").unwrap();
        run.add_sample(9, b"up\xff").unwrap();
        let text = fs::read_to_string(dir.path().join(SAMPLES_FILE)).unwrap();
        assert_eq!(text, "== step 5 ==\nonce\n\n== step 9 ==\nup\u{fffd}\n\n");
        run.rewind(8).unwrap();
        let text = fs::read_to_string(dir.path().join(SAMPLES_FILE)).unwrap();
        assert_eq!(text, "== step 5 ==\nonce\n\n");
    }

    #[test]
    fn auto_takes_the_run_saved_last() {
        let dir = tempfile::tempdir().unwrap();
        assert!(RunDir::newest(&dir.path().join("none")).is_err());
        for name in ["a", "b", "c"] {
            RunDir::create(Some(&dir.path().join(name)), &small(), UNIX_EPOCH).unwrap();
        }
        assert!(RunDir::newest(dir.path()).unwrap_err().to_string().contains("no run with a checkpoint"));
        for (name, age) in [("a", 100), ("b", 0)] {
            let saved = dir.path().join(name).join("step-00000001");
            fs::create_dir(&saved).unwrap();
            for file in [checkpoint::MODEL_FILE, checkpoint::OPTIM_FILE, checkpoint::STATE_FILE] {
                fs::write(saved.join(file), "").unwrap();
            }
            let time = SystemTime::now() - Duration::from_secs(age);
            fs::File::open(&saved).unwrap().set_modified(time).unwrap();
        }
        assert_eq!(RunDir::newest(dir.path()).unwrap().path(), dir.path().join("b"));
    }
}
