//! `train`: a new run, or one that goes on.

use super::{Ending, exec_options, print, say, say_notes};
use crate::architecture::{Architecture, GraphModel};
use crate::checkpoint::{self, Checkpoint};
use crate::cli::TrainArgs;
use crate::config::{Backend, ModelOverride, RunConfig, RunOverride};
use crate::data::Corpus;
use crate::formats::config_for;
use crate::rundir::{GRAPH_FILE, RunDir};
use crate::tensor_file::Tensors;
use crate::trainer::{self, Requests, Summary, Trainer};
use crate::ui::board::{About, Peak};
use crate::ui::verdict::Verdict;
use crate::ui::watch::{Mode, Watch};
use crate::ui::{terminal, text};
use crate::{Error, Result, memory, peak};
use std::path::Path;
use std::time::{Instant, SystemTime};

pub fn run(args: &TrainArgs) -> Result<Ending> {
    let writes = !(args.print_config || args.find_nan);
    let resumed = args.resume.as_deref().map(|name| resume(name, writes)).transpose()?;
    let init = args.init.as_deref().map(|path| checkpoint::load_model(path, args.heads)).transpose()?;
    let config = match &resumed {
        Some((_, checkpoint)) => checkpoint.config.clone(),
        None => {
            RunConfig::resolve(args.run.preset.as_deref(), args.run.config.as_deref(), &layer(args, init.as_ref())?)?
        }
    };
    if args.print_config {
        print(config.to_toml()?.as_bytes())?;
        return Ok(Ending::Done);
    }
    let mode = Mode::choose(args.tui)?;
    check_stop(args.stop_at, &config, resumed.as_ref().map_or(0, |(_, checkpoint)| checkpoint.step))?;
    let model = model(&config, resumed.as_ref(), args.find_nan)?;
    if let (Some((found, _)), Some(path)) = (&init, &args.init) {
        found.check_is(&model, &path.display().to_string())?;
    }
    model.check_bytes()?;
    if matches!((&model, config.train.backend), (Architecture::Gpt(_), Backend::Cpu | Backend::Interp)) {
        memory::check(memory::estimate(&config).total, "training this configuration")?;
    }
    let corpus = Corpus::open(&config.data, model.ctx())?;
    let options = exec_options(&args.exec, Some(&config.train))?;
    if let (Some(gpu), Some((dir, _))) = (&options.gpu, &resumed)
        && let Some((plan, path)) = dir.plan()?
    {
        gpu.tuner().replay(&plan, &path.display().to_string())?;
    }
    let start = Instant::now();
    let mut trainer = Trainer::with_model(model.clone(), config, corpus, options.clone())?;
    if let (Some((_, weights)), Some(path)) = (&init, &args.init) {
        trainer.init(weights, &path.display().to_string())?;
    }
    let config = trainer.config().clone();
    let compile_s = start.elapsed().as_secs_f64();
    say_notes(&options);
    if args.time_passes {
        for (compiled, exec) in trainer.programs() {
            if config.train.accumulate > 1 {
                say(&format!("program {}", compiled.step.name));
            }
            say(compiled.time_table().trim_end());
            if let Some(report) = exec.code_report() {
                say(&format!("code: {report}"));
            }
            say(compiled.fusion_report()?.to_string().trim_end());
        }
    }
    if let Some((dir, checkpoint)) = &resumed {
        trainer.restore(checkpoint, &dir.path().display().to_string())?;
    }
    if args.find_nan {
        return find_nan(&mut trainer, args.stop_at.unwrap_or(config.train.steps));
    }
    // Before there is a directory: a signal finds either no run or one that is saved.
    let requests = listen()?;
    let dir = match &resumed {
        Some((dir, checkpoint)) => {
            dir.rewind(checkpoint.step)?;
            dir.clone()
        }
        None => {
            let dir = RunDir::create(args.out.as_deref(), &config, SystemTime::now())?;
            if let Architecture::Graph(model) = &model {
                dir.set_graph(&model.graph().to_string())?;
            }
            if init.is_some() {
                // The weights that it starts from are no function of the configuration: the run must not depend on where they came from.
                trainer.checkpoint()?.save(dir.path())?;
            }
            dir
        }
    };
    let place = match &options.gpu {
        Some(gpu) => format!("{} on {}", options.backend, gpu.report().name),
        None => format!("{} on {} thread(s)", options.backend, options.threads),
    };
    let about = About {
        name: match &model {
            Architecture::Gpt(_) => config.preset.clone(),
            Architecture::Graph(model) => model.graph().name.clone(),
        },
        model: format!(
            "{} parameters, ctx {}, batch {}{}",
            model.params(),
            model.ctx(),
            config.train.batch,
            if config.train.accumulate > 1 { format!(" x {}", config.train.accumulate) } else { String::new() },
        ),
        device: place,
        dir: dir.path().to_owned(),
        vocab: model.vocab(),
        samples: config.train.sample_bytes > 0,
        peak: match (&model, mode) {
            (Architecture::Gpt(gpt), Mode::Bar | Mode::Screen) if options.backend == Backend::Cpu => {
                Some(Peak { flop_per_token: peak::step_flop(gpt, 1), gflops: peak::gflops(options.threads)? })
            }
            _ => None,
        },
    };
    say(&format!(
        "{}: {}, {} steps; {}, compiled in {compile_s:.2} s; {}{}",
        about.name,
        about.model,
        config.train.steps,
        about.device,
        dir.path().display(),
        resumed.as_ref().map_or(String::new(), |(_, checkpoint)| format!(", from step {}", checkpoint.step)),
    ));
    let keep_plan = || options.gpu.as_ref().map_or(Ok(()), |gpu| dir.set_plan(&gpu.tuner().plan()));
    keep_plan()?;
    let mut watch = Watch::start(mode, about, &dir, requests)?;
    let summary = trainer.run(&dir, args.stop_at, requests, &mut watch);
    watch.close();
    let summary = summary?;
    // Validation and samples have programs of their own, made when first needed.
    say_notes(&options);
    keep_plan()?;
    report(&summary, &watch.verdict(), &dir)
}

/// The flags, over the model of the weights to start from where no flag names a model.
fn layer(args: &TrainArgs, init: Option<&(Architecture, Tensors)>) -> Result<RunOverride> {
    let mut layer = args.overrides();
    let named = args.run.preset.is_some() || args.run.config.is_some() || args.graph.is_some();
    if let (false, Some((Architecture::Gpt(model), _))) = (named, init) {
        layer.preset = Some(config_for(model)?.preset);
        layer.model = ModelOverride::from(model);
    }
    Ok(layer)
}

/// What is trained: that of the checkpoint to go on from, the graph that the configuration names, or its GPT. With `lines` the nodes of a
/// graph say where in its file they are.
pub(super) fn model(config: &RunConfig, resumed: Option<&(RunDir, Checkpoint)>, lines: bool) -> Result<Architecture> {
    let read = if lines { GraphModel::read_located } else { GraphModel::read };
    match (resumed, &config.graph) {
        (Some((dir, _)), Some(_)) if lines => read(&dir.path().join(GRAPH_FILE)).map(Architecture::from),
        (Some((_, checkpoint)), _) => Ok(checkpoint.architecture()),
        (None, Some(path)) => read(Path::new(path)).map(Architecture::from),
        (None, None) => Ok(Architecture::from(&config.model)),
    }
}

/// Goes on until a step goes wrong, and prints which operation is at fault.
fn find_nan(trainer: &mut Trainer, end: u64) -> Result<Ending> {
    let first = trainer.steps_done() + 1;
    say(&format!("looking for the first number that is not finite, from step {first} to {end}"));
    match trainer.find_nan(end)? {
        Some(culprit) => print(format!("{culprit}\n").as_bytes()).map(|()| Ending::Done),
        None => {
            Err(Error::failed(format!("steps {first} to {end} have only finite numbers: there is nothing to find")))
        }
    }
}

/// The run to go on with, locked if it is to be written to, and its latest checkpoint.
fn resume(name: &str, writes: bool) -> Result<(RunDir, Checkpoint)> {
    let dir = RunDir::open(name)?;
    let dir = if writes { dir.locked()? } else { dir };
    let checkpoint = Checkpoint::load(dir.path())?;
    Ok((dir, checkpoint))
}

/// Refuses a run with nothing to do.
fn check_stop(stop_at: Option<u64>, config: &RunConfig, done: u64) -> Result<()> {
    let planned = config.train.steps;
    match stop_at {
        _ if done >= planned => Err(Error::input(format!("the run is complete: all of its {planned} steps are done"))),
        Some(stop) if stop > planned => Err(Error::input(format!(
            "--stop-at {stop} lies beyond the {planned} planned steps: plan more with --steps"
        ))),
        Some(stop) if stop <= done => Err(Error::input(format!(
            "--stop-at {stop} is reached: the run has done {done} steps, so give a larger number"
        ))),
        _ => Ok(()),
    }
}

/// Requests to which Ctrl-C and SIGTERM add that the run end. A second one ends the process at once: a checkpoint under way is left aside
/// and never counts.
fn listen() -> Result<&'static Requests> {
    static REQUESTS: Requests = Requests::new();
    ctrlc::set_handler(|| {
        if REQUESTS.stop() {
            terminal::leave();
            std::process::exit(i32::from(Ending::Interrupted.exit_status()));
        }
        say("interrupted: saving after this step (again to give up)");
    })
    .map_err(|e| Error::failed(format!("cannot listen for interrupts: {e}")))?;
    Ok(&REQUESTS)
}

/// The run's result on standard output: a line, and of a complete run a sample. The verdict and what to do next go to standard error.
fn report(summary: &Summary, verdict: &Verdict, dir: &RunDir) -> Result<Ending> {
    let Summary { ending, step, val_loss, sample, checkpoint, elapsed_s, .. } = summary;
    let saved = checkpoint.display();
    match ending {
        trainer::Ending::Complete => {
            let val_loss = val_loss.map_or(String::new(), |v| format!(" val_loss {v:.4}"));
            print(format!("step {step}{val_loss} elapsed_s {elapsed_s:.1} checkpoint {saved}\n").as_bytes())?;
            say(&verdict.sentence);
            if !sample.is_empty() {
                print(format!("\n{}\n", text::shown(sample).trim_start()).as_bytes())?;
                say(&format!("\nmore: {} sample --checkpoint {}", program(), quoted(dir.path())));
            }
            Ok(Ending::Done)
        }
        trainer::Ending::Stopped | trainer::Ending::Interrupted => {
            print(format!("step {step} checkpoint {saved}\n").as_bytes())?;
            say(&format!("go on with: {} train --resume {}", program(), quoted(dir.path())));
            Ok(if *ending == trainer::Ending::Stopped { Ending::Done } else { Ending::Interrupted })
        }
    }
}

/// The program as it was called, so that a command which begins with it works where this one did.
fn program() -> String {
    std::env::args_os().next().map_or("tinygpt".to_owned(), |name| quoted(Path::new(&name)))
}

/// A path as a word of a shell.
fn quoted(path: &Path) -> String {
    let word = path.display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "/.-_+:,@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word } else { format!("'{}'", word.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_words() {
        let found = ["runs/a-1", "my run", "it's", ""].map(|path| quoted(Path::new(path)));
        assert_eq!(found, ["runs/a-1", "'my run'", "'it'\\''s'", "''"]);
    }
}
