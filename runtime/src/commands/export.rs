//! `export`: a model as files for another program.
//!
//! Invariant: what is at the destination stays, unless it is an earlier export to the same folder for the web; files appear there whole, by
//! one rename.

use super::{Ending, print, say};
use crate::architecture::{Architecture, GraphModel};
use crate::cli::{ExportArgs, ExportFormat};
use crate::config::RunConfig;
use crate::formats::{self, Format, LossPoint, Saved};
use crate::model::initial_weights;
use crate::rundir::{RunDir, iso_8601};
use crate::wasm::export::{Source, export, summary};
use crate::{Error, Result, checkpoint};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Points of a loss history that an export keeps: what the original TinyGPT keeps.
const HISTORY: usize = 512;

pub fn run(args: &ExportArgs) -> Result<Ending> {
    match args.format {
        ExportFormat::Web => web(args)?,
        ExportFormat::Safetensors => files(args, Format::Safetensors)?,
        ExportFormat::HfGpt2 => files(args, Format::HfGpt2)?,
        ExportFormat::Tinygpt => files(args, Format::Tinygpt)?,
    }
    print(format!("{}\n", args.out.display()).as_bytes())?;
    Ok(Ending::Done)
}

fn resolve(args: &ExportArgs) -> Result<RunConfig> {
    RunConfig::resolve(args.run.preset.as_deref(), args.run.config.as_deref(), &args.run.layer())
}

fn web(args: &ExportArgs) -> Result<()> {
    let source = match &args.checkpoint {
        Some(path) => Source::load(path, args.heads)?,
        None => Source::Fresh(resolve(args)?),
    };
    if let Source::Weights(config, _) = &source {
        say(&format!(
            "the checkpoint holds weights alone: moments start as zeros, and training is configured as preset {} is",
            config.preset
        ));
    }
    let bundle = export(&source, &args.out)?;
    say(&summary(&bundle));
    Ok(())
}

fn files(args: &ExportArgs, format: Format) -> Result<()> {
    refuse_existing(&args.out)?;
    let saved = match &args.checkpoint {
        Some(path) => of_checkpoint(path, args.heads)?,
        None => fresh(resolve(args)?)?,
    };
    if format == Format::Tinygpt && saved.moments.is_none() {
        say("there are weights alone: moments are written as zeros");
    }
    let files = formats::encode(format, &saved)?;
    let bytes: usize = files.iter().map(|(_, bytes)| bytes.len()).sum();
    write(&args.out, &files)?;
    say(&format!(
        "{}: {} parameters, step {}, {bytes} bytes",
        format.name(),
        saved.architecture().params(),
        saved.step
    ));
    Ok(())
}

/// The starting weights of a configuration's seed.
fn fresh(config: RunConfig) -> Result<Saved> {
    let architecture = match &config.graph {
        Some(path) => Architecture::from(GraphModel::read(Path::new(path))?),
        None => Architecture::from(&config.model),
    };
    let weights = initial_weights(&architecture.forward(architecture.rows(1))?, config.train.seed)?;
    let saved = Saved::weights(architecture, weights)?;
    Ok(Saved { config: RunConfig { graph: saved.config.graph.clone(), ..config }, ..saved })
}

/// What a PATH holds, with the losses of the run that it belongs to.
fn of_checkpoint(path: &Path, heads: Option<usize>) -> Result<Saved> {
    let mut saved = checkpoint::open(path, heads)?;
    let file = checkpoint::locate(path)?;
    let time = fs::metadata(&file).and_then(|m| m.modified()).map_err(|e| Error::reading(&file, e))?;
    saved.saved_at.get_or_insert_with(|| iso_8601(time));
    let run = file.parent().and_then(Path::parent).and_then(Path::to_str);
    if let Some(Ok(run)) = run.map(|run| RunDir::open(if run.is_empty() { "." } else { run })) {
        let step = saved.step;
        let points = run.metrics()?.into_iter().filter(|m| m.step <= step);
        let points = points.map(|m| LossPoint { step: m.step, train: m.loss, val: m.val_loss }).collect();
        saved.history = thinned(points);
    }
    Ok(saved)
}

/// The points that validated, and of the others every so many, the last among them.
fn thinned(points: Vec<LossPoint>) -> Vec<LossPoint> {
    let (count, stride) = (points.len(), points.len().div_ceil(HISTORY).max(1));
    let kept = |(at, point): &(usize, LossPoint)| point.val.is_some() || (count - 1 - at).is_multiple_of(stride);
    points.into_iter().enumerate().filter(kept).map(|(_, point)| point).collect()
}

fn refuse_existing(out: &Path) -> Result<()> {
    if out.exists() {
        return Err(Error::input(format!("{} exists: choose another -o, or remove it", out.display())));
    }
    Ok(())
}

/// Makes `out` the file, or the folder of the files.
fn write(out: &Path, files: &[(&str, Vec<u8>)]) -> Result<()> {
    let name = out.file_name().ok_or_else(|| Error::input(format!("{} names no file to make", out.display())))?;
    let aside = out.with_file_name(format!(".{}.{}.new", name.display(), std::process::id()));
    let put = |path: &PathBuf, bytes: &[u8]| {
        let write = File::create(path).and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()));
        write.map_err(|e| Error::writing(path, e))
    };
    let written = match files {
        [(_, bytes)] => put(&aside, bytes),
        _ => clear(&aside)
            .and_then(|()| fs::create_dir(&aside).map_err(|e| Error::writing(&aside, e)))
            .and_then(|()| files.iter().try_for_each(|(name, bytes)| put(&aside.join(name), bytes))),
    };
    // Looked at again: the file may have come meanwhile.
    let written = written.and_then(|()| refuse_existing(out));
    let placed = written.and_then(|()| fs::rename(&aside, out).map_err(|e| Error::writing(out, e)));
    if placed.is_err() {
        clear(&aside)?;
    }
    placed
}

/// Removes what a write left aside.
fn clear(aside: &Path) -> Result<()> {
    let removed = match aside.is_dir() {
        true => fs::remove_dir_all(aside),
        false if aside.exists() => fs::remove_file(aside),
        false => Ok(()),
    };
    removed.map_err(|e| Error::writing(aside, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_history_is_thinned() {
        let points = |n: u64| -> Vec<LossPoint> {
            (1..=n).map(|step| LossPoint { step, train: Some(1.0), val: (step == 7).then_some(2.0) }).collect()
        };
        assert_eq!(thinned(points(512)), points(512));
        let kept = thinned(points(5121));
        assert!((HISTORY / 2..=HISTORY + 1).contains(&kept.len()), "{}", kept.len());
        assert!(kept.iter().any(|p| p.step == 7) && kept.last().unwrap().step == 5121);
        assert_eq!(thinned(Vec::new()), []);
    }
}
