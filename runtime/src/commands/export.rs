//! `export`: a model as files for another program.

use super::{Ending, print, say};
use crate::Result;
use crate::cli::{ExportArgs, ExportFormat};
use crate::config::RunConfig;
use crate::wasm::export::{Source, export, summary};

pub fn run(args: &ExportArgs) -> Result<Ending> {
    let source = match &args.checkpoint {
        Some(path) => Source::load(path)?,
        None => Source::Fresh(RunConfig::resolve(
            args.run.preset.as_deref(),
            args.run.config.as_deref(),
            &args.run.layer(),
        )?),
    };
    if let Source::Weights(config, _) = &source {
        say(&format!(
            "the checkpoint holds weights alone: moments start as zeros, and training is configured as preset {} is",
            config.preset
        ));
    }
    match args.format {
        ExportFormat::Web => {
            let bundle = export(&source, &args.out)?;
            say(&summary(&bundle));
            print(format!("{}\n", args.out.display()).as_bytes())?;
        }
    }
    Ok(Ending::Done)
}
