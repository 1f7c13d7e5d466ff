//! `viz`: a page that leads from the lines of a model to its code, and back; or a picture of one of its graphs.

use super::dump::{File, Options, Renderer, Stages, declared};
use super::{Ending, read_text, say};
use crate::cli::{Stage, VizArgs};
use crate::compile::compile;
use crate::config::RunConfig;
use crate::error::{did_you_mean, one_line};
use crate::profile::Profile;
use crate::viz::{self, Page, Target, Times};
use crate::{Error, Result, gpu};
use std::path::Path;
use tinygpt_ir::Graph;
use tinygpt_ir::dot::dot;
use tinygpt_ir::program::{KernelId, TargetModel};
use tinygpt_ir::text::parse_located;

pub fn run(args: &VizArgs) -> Result<Ending> {
    let config = RunConfig::preset(&args.model.preset)?;
    let options = Options::stable();
    let (mut forward, goal) = declared(&config, args.model.graph.as_deref())?;
    if let Some(file) = &args.model.graph {
        forward = located(file)?;
    }
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
            let profile = profile(args)?;
            let target = |name, stages, tabs| target(name, stages, tabs, &options, profile.as_ref());
            let targets = vec![
                target("CPU", &cpu, &[("CLIF", Stage::Clif), ("WAT", Stage::Wat)])?,
                target("GPU", &gpu, &[("WGSL", Stage::Wgsl)])?,
            ];
            let source = |file: &str| std::fs::read_to_string(file).ok();
            viz::page(&Page { title: &title, targets, source: &source })?
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

/// The graph in a file, each node with its line there.
fn located(file: &Path) -> Result<Graph> {
    // Locations name files for as long as the process runs, as those of the DSL do.
    let name: &'static str = Box::leak(file.display().to_string().into_boxed_str());
    parse_located(&read_text(file)?, name).map_err(|e| Error::input(format!("{name}: {}", one_line(e))))
}

/// A program with its code, and its times where the profile is of this kind of target.
fn target<'a>(
    name: &'static str,
    stages: &'a Stages,
    tabs: &[(&'static str, Stage)],
    options: &Options,
    profile: Option<&Profile>,
) -> Result<Target<'a>> {
    let compiled = &stages.compiled;
    let all: Vec<KernelId> = compiled.program.kernels.ids().collect();
    let renderer = Renderer::new(compiled, options, &all);
    let code = |stage: Stage| -> Result<Vec<(KernelId, String)>> {
        let files = renderer.files(stage)?;
        let of_file = |file: &File| file.kernels.iter().map(|id| (*id, file.text().into_owned())).collect::<Vec<_>>();
        Ok(files.iter().flat_map(of_file).collect())
    };
    let tabs = tabs.iter().map(|(tab, stage)| Ok((*tab, code(*stage)?))).collect::<Result<_>>()?;
    let times = profile.filter(|p| p.subject.backend == name.to_lowercase()).map(|p| Times {
        about: format!("a profile of {:.3} ms on {}", p.step_ms, p.subject.adapter),
        // Of kernels that ran as one, the first has the time of all.
        kernels: p.rows.iter().map(|row| (first_of(&row.name), row.ms, row.share)).collect(),
    });
    Ok(Target { name, compiled, tabs, times })
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

/// The first kernel of a row of a profile.
fn first_of(row: &str) -> String {
    row.split(" + ").next().unwrap_or(row).to_owned()
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
