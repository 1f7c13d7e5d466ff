//! `viz`: a page that leads from the lines of a model to its code, and back.

use super::dump::{Options, Stages};
use super::{Ending, say};
use crate::cli::VizArgs;
use crate::compile::{Goal, compile};
use crate::config::RunConfig;
use crate::error::one_line;
use crate::model::{adamw, forward};
use crate::profile::Profile;
use crate::{Error, Result, gpu, viz};
use tinygpt_ir::program::TargetModel;

pub fn run(args: &VizArgs) -> Result<Ending> {
    let config = RunConfig::preset(&args.preset)?;
    let goal = Goal::Train { adamw: adamw(&config.train), gradients: false };
    let options = Options::stable();
    let of = |target: &TargetModel| -> Result<Stages> {
        Ok(Stages::new(compile(forward(&config.model, config.train.batch)?, &goal, target)?))
    };
    let (cpu, gpu) = (of(&TargetModel::cpu())?, of(&gpu::device::target(&options.caps))?);
    let profile: Option<Profile> = match &args.profile {
        None => None,
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(|e| Error::reading(path, e))?;
            Some(serde_json::from_str(&text).map_err(|e| {
                let path = path.display();
                Error::input(format!("{path} is no profile ({}): make one with profile --json", one_line(e)))
            })?)
        }
    };
    let page = viz::page(&format!("tinygpt: {}", args.preset), &cpu, &gpu, &options, profile.as_ref())?;
    std::fs::write(&args.out, &page).map_err(|e| Error::writing(&args.out, e))?;
    say(&format!("{}: {:.1} MB, opens in any browser, without a network", args.out.display(), page.len() as f64 / 1e6));
    Ok(Ending::Done)
}
