use super::*;
use crate::checkpoint;
use crate::config::{Backend, DataConfig, ModelConfig};
use crate::rundir::RunDir;
use std::time::UNIX_EPOCH;

const INTERP: ExecOptions =
    ExecOptions { backend: Backend::Interp, threads: 1, isa: None, no_templates: false, gpu: None };

fn config() -> RunConfig {
    let mut config = RunConfig::preset("tiny").unwrap();
    config.model = ModelConfig { ctx: 4, layers: 1, heads: 1, d_model: 2, d_mlp: 4, ..config.model };
    let train = &mut config.train;
    (train.batch, train.steps, train.warmup, train.eval_batches) = (2, 6, 2, 2);
    (train.eval_every, train.save_every, train.sample_bytes, train.keep) = (3, 2, 3, 0);
    config
}

fn trainer(config: &RunConfig) -> Trainer {
    let corpus = Corpus::open(&DataConfig { data: "builtin".into(), val_data: None }, 4).unwrap();
    Trainer::new(config.clone(), corpus, INTERP).unwrap()
}

fn quiet(_: &Event<'_>) {}

fn run_dir(config: &RunConfig) -> (tempfile::TempDir, RunDir) {
    let dir = tempfile::tempdir().unwrap();
    let run = RunDir::create(Some(dir.path()), config, UNIX_EPOCH).unwrap();
    (dir, run)
}

#[test]
fn a_run_logs_validates_samples_and_saves() {
    let config = config();
    let (dir, run) = run_dir(&config);
    let mut lines = Vec::new();
    let summary = trainer(&config)
        .run(&run, None, &Requests::new(), &mut Lines::new(|line| lines.push(line.to_owned())))
        .unwrap();
    assert_eq!((summary.ending, summary.step, summary.sample.len()), (Ending::Complete, 6, 3));
    assert!(summary.val_loss.is_some() && summary.checkpoint.ends_with("step-00000006"));
    let metrics = run.metrics().unwrap();
    assert_eq!(metrics.iter().map(|m| m.step).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
    let validated: Vec<u64> = metrics.iter().filter(|m| m.val_loss.is_some()).map(|m| m.step).collect();
    assert_eq!(validated, [3, 6]);
    assert_eq!(metrics[0].lr, config.train.lr / 2.0);
    assert!(lines.len() == 3 && lines[0].starts_with("step 1/6  loss 5.5") && lines[1].contains("  val "), "{lines:?}");
    let samples = std::fs::read_to_string(dir.path().join("samples.txt")).unwrap();
    assert_eq!(samples.matches("== step").count(), 3);
    for step in [2, 4, 6] {
        assert!(dir.path().join(format!("step-{step:08}")).is_dir());
    }
}

/// Only where the scale cannot fall does a gradient that overflowed count towards the end of a run; a loss that is not finite always does.
#[test]
fn a_scale_that_falls_is_no_bad_step() {
    let taken = |loss: f64, grad_norm: f64, loss_scale| Taken { result: StepResult { loss, grad_norm }, loss_scale };
    let mut scale = LossScale::default();
    // As many overflows in a row as a first scale of 2^16 takes on its way to 1, each seen by a few steps.
    let mut overflows = 0;
    loop {
        let step = taken(2.0, f64::INFINITY, Some(scale.begin()));
        scale.end(false);
        if step.is_bad() {
            break;
        }
        overflows += 1;
    }
    assert!(overflows >= 16, "{overflows} steps of overflow until one was bad");
    assert!(!taken(2.0, 1.0, Some(1.0)).is_bad() && !taken(2.0, 1.0, None).is_bad());
    assert!(taken(f64::NAN, 1.0, Some(65536.0)).is_bad() && taken(2.0, f64::NAN, None).is_bad());
}

#[test]
fn stopping_and_interrupting_save_and_going_on_is_the_same_run() {
    let config = config();
    let (_whole_dir, whole) = run_dir(&config);
    trainer(&config).run(&whole, None, &Requests::new(), &mut quiet).unwrap();
    let expected = Checkpoint::load(whole.path()).unwrap();

    let (_dir, run) = run_dir(&config);
    let summary = trainer(&config).run(&run, Some(3), &Requests::new(), &mut quiet).unwrap();
    assert_eq!((summary.ending, summary.step, summary.val_loss.is_some()), (Ending::Stopped, 3, true));
    let mut second = trainer(&config);
    second.restore(&Checkpoint::load(run.path()).unwrap(), "c").unwrap();
    let requests = Requests::new();
    let mut after_two = |event: &Event<'_>| {
        if matches!(event, Event::Step { metrics, .. } if metrics.step == 5) {
            requests.stop();
        }
    };
    let summary = second.run(&run, None, &requests, &mut after_two).unwrap();
    assert_eq!((summary.ending, summary.step), (Ending::Interrupted, 5));
    assert!(summary.checkpoint.ends_with("step-00000005"));
    let mut third = trainer(&config);
    third.restore(&Checkpoint::load(run.path()).unwrap(), "c").unwrap();
    assert_eq!(third.run(&run, None, &Requests::new(), &mut quiet).unwrap().ending, Ending::Complete);

    let found = Checkpoint::load(run.path()).unwrap();
    assert_eq!((found.step, found.weights, found.m, found.v), (6, expected.weights, expected.m, expected.v));
    let numbers = |run: &RunDir| -> Vec<_> {
        run.metrics().unwrap().iter().map(|m| (m.step, m.loss, m.val_loss, m.lr, m.grad_norm)).collect()
    };
    assert_eq!(numbers(&run), numbers(&whole));
}

#[test]
fn a_loss_that_is_not_finite_ends_the_run_and_is_not_saved() {
    let mut config = config();
    (config.train.lr, config.train.save_every, config.train.warmup) = (1e38, 1, 0);
    config.train.steps = 30;
    let (dir, run) = run_dir(&config);
    let error = trainer(&config).run(&run, None, &Requests::new(), &mut quiet).unwrap_err();
    assert_eq!(error.exit_status(), 1);
    assert!(error.to_string().contains("--find-nan"), "{error}");
    if let Some(saved) = checkpoint::latest(dir.path()).unwrap() {
        let saved = Checkpoint::load(&saved).unwrap();
        assert!(saved.weights.values().all(|t| t.as_f32().unwrap().iter().all(|x| x.is_finite())));
    }
}

#[test]
fn micro_batches_are_one_step_of_all_their_tokens() {
    let mut config = config();
    (config.train.accumulate, config.train.steps) = (3, 4);
    let (_dir, run) = run_dir(&config);
    let mut told = Vec::new();
    let mut tell = |event: &Event<'_>| match event {
        Event::Started(started) => told.push((started.end, started.tokens_per_step)),
        Event::Step { metrics, tokens, .. } => told.push((metrics.step, *tokens)),
        _ => {}
    };
    trainer(&config).run(&run, None, &Requests::new(), &mut tell).unwrap();
    assert_eq!(told, [(4, 24), (1, 24), (2, 24), (3, 24), (4, 24)]);
    // The schedule counts steps of the optimizer.
    assert_eq!(run.metrics().unwrap()[0].lr, config.train.lr_schedule().lr_at(0));

    let mut whole = config.clone();
    (whole.train.accumulate, whole.train.batch) = (1, 6);
    let (mut parts, mut whole) = (trainer(&config), trainer(&whole));
    for _ in 0..4 {
        let (a, b) = (parts.step().unwrap(), whole.step().unwrap());
        assert!((a.loss - b.loss).abs() < 1e-5 * b.loss && (a.grad_norm - b.grad_norm).abs() < 1e-4 * b.grad_norm);
    }
}

#[test]
fn looking_changes_nothing() {
    let config = config();
    let (mut a, mut b) = (trainer(&config), trainer(&config));
    for _ in 0..3 {
        b.validate().unwrap();
        b.sample(2).unwrap();
        assert_eq!(a.step().unwrap(), b.step().unwrap());
    }
    assert_eq!(a.weights().unwrap(), b.weights().unwrap());
}
