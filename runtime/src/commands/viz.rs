//! `viz`: a page that leads from the lines of a model to its code, and back; or a picture of one of its graphs.

use super::dump::{Options, Stages, declared};
use super::{Ending, say};
use crate::cli::VizArgs;
use crate::compile::compile;
use crate::config::RunConfig;
use crate::error::{did_you_mean, one_line};
use crate::profile::Profile;
use crate::{Error, Result, gpu, viz};
use tinygpt_ir::dot::dot;
use tinygpt_ir::program::TargetModel;

pub fn run(args: &VizArgs) -> Result<Ending> {
    let config = RunConfig::preset(&args.model.preset)?;
    let options = Options::stable();
    let (forward, goal) = declared(&config, args.model.graph.as_deref())?;
    let of = |target: &TargetModel| -> Result<Stages> { Ok(Stages::new(compile(forward.clone(), &goal, target)?)) };
    let cpu = of(&TargetModel::cpu())?;
    let picture = args.out.extension().is_some_and(|ending| ending == "dot");
    let text = match (picture, &args.after) {
        (true, after) => graph(&cpu, after.as_deref().unwrap_or("graph"))?,
        (false, Some(_)) => {
            return Err(Error::input(
                "--after chooses the graph of a picture, and a page shows all: name a file F.dot with -o, or leave it out",
            ));
        }
        (false, None) => {
            let gpu = of(&gpu::device::target(&options.caps))?;
            let title =
                format!("tinygpt: {}", if args.model.graph.is_some() { &forward.name } else { &args.model.preset });
            viz::page(&title, &cpu, &gpu, &options, profile(args)?.as_ref())?
        }
    };
    std::fs::write(&args.out, &text).map_err(|e| Error::writing(&args.out, e))?;
    let (size, path) = (text.len() as f64 / 1e6, args.out.display());
    say(&if picture {
        format!("{path}: {size:.1} MB; draw it with dot -Tsvg {path}")
    } else {
        format!("{path}: {size:.1} MB, opens in any browser, without a network")
    });
    Ok(Ending::Done)
}

/// The graph after a pass, as DOT text.
fn graph(stages: &Stages, after: &str) -> Result<String> {
    let graphs = stages.graphs()?;
    let names: Vec<&str> = graphs.iter().map(|(name, _)| name.as_str()).collect();
    let found = graphs.iter().find(|(name, _)| name == after).map(|(_, graph)| dot(graph));
    found.ok_or_else(|| {
        let near = did_you_mean(after, names.iter().copied());
        Error::input(format!("there is no graph after \"{after}\"{near}: choose from {}", names.join(", ")))
    })
}

fn profile(args: &VizArgs) -> Result<Option<Profile>> {
    let Some(path) = &args.profile else { return Ok(None) };
    let text = std::fs::read_to_string(path).map_err(|e| Error::reading(path, e))?;
    let parsed = serde_json::from_str(&text).map_err(|e| {
        let path = path.display();
        Error::input(format!("{path} is no profile ({}): make one with profile --json", one_line(e)))
    });
    parsed.map(Some)
}
