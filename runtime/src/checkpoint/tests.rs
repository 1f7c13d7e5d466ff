use super::*;
use crate::architecture::tests::bigram;
use crate::config::ModelConfig;

/// Weights of the smallest GPT.
fn tensors(scale: f32) -> Tensors {
    let tensor = |shape: &[usize]| {
        let n = shape.iter().product::<usize>();
        HostTensor::f32(shape, (0..n).map(|i| i as f32 * scale).collect()).unwrap()
    };
    formats::names::gpt_weights(&config().model).map(|(name, shape)| (name, tensor(&shape))).collect()
}

fn config() -> RunConfig {
    let mut config = RunConfig::preset("tiny").unwrap();
    config.model = ModelConfig { ctx: 3, layers: 1, heads: 1, d_model: 2, d_mlp: 4, ..config.model };
    config
}

fn checkpoint(step: u64) -> Checkpoint {
    Checkpoint {
        step,
        elapsed_s: 1.5,
        loss_scale: None,
        val_loss: None,
        config: config(),
        graph: None,
        weights: tensors(1.0),
        m: tensors(0.1),
        v: tensors(0.01),
    }
}

fn error<T>(result: Result<T>) -> String {
    let error = result.err().expect("an error was expected");
    assert_eq!(error.exit_status(), 2);
    error.to_string()
}

#[test]
fn checkpoints_round_trip_by_every_kind_of_path() {
    let dir = tempfile::tempdir().unwrap();
    checkpoint(7).save(dir.path()).unwrap();
    let place = checkpoint(12).save(dir.path()).unwrap();
    assert!(place.ends_with("step-00000012"));
    for path in [dir.path().to_owned(), place.clone(), place.join(MODEL_FILE)] {
        assert_eq!(Checkpoint::load(&path).unwrap(), checkpoint(12));
        assert_eq!(Model::load(&path).unwrap().weights, tensors(1.0));
    }
    assert_eq!(Checkpoint::load(&dir.path().join("step-00000007")).unwrap().step, 7);
    // The model file alone is enough to sample from, and says so when training is asked to go on.
    let alone = dir.path().join("alone.safetensors");
    fs::copy(place.join(MODEL_FILE), &alone).unwrap();
    assert_eq!(Model::load(&alone).unwrap().config, checkpoint(12).config.model);
    assert!(error(Checkpoint::load(&alone)).ends_with(
        "has no state.json beside it, so it holds weights and no run to go on with: start a run from them with --init"
    ));
}

#[test]
fn the_checkpoint_of_a_graph_holds_the_graph() {
    let dir = tempfile::tempdir().unwrap();
    let table = || Tensors::from([("table".to_owned(), HostTensor::zeros(DType::F32, &[256, 256]).unwrap())]);
    let mut saved = Checkpoint { weights: table(), m: table(), v: table(), ..checkpoint(5) };
    saved.graph = Some(Arc::new(GraphModel::new(bigram(|_| ())).unwrap()));
    saved.config.graph = Some("model.gir".to_owned());
    let place = saved.save(dir.path()).unwrap();
    let loaded = Checkpoint::load(dir.path()).unwrap();
    assert_eq!((&loaded.graph, &loaded.config.graph, &loaded.m), (&saved.graph, &saved.config.graph, &saved.m));
    assert_eq!(load_model(&place, None).unwrap(), (saved.architecture(), table()));
    assert!(error(Model::load(&place)).ends_with("holds the graph bigram, and a GPT is needed here"));
    // A state of another model than the file beside it.
    let other = checkpoint(6).save(dir.path()).unwrap();
    fs::copy(place.join(MODEL_FILE), other.join(MODEL_FILE)).unwrap();
    assert!(error(Checkpoint::load(&other)).ends_with("is the graph bigram, and a GPT was expected"));
    fs::copy(other.join(STATE_FILE), other.join("kept")).unwrap();
    fs::copy(place.join(STATE_FILE), other.join(STATE_FILE)).unwrap();
    checkpoint(7).save(dir.path()).unwrap();
    fs::copy(dir.path().join("step-00000007").join(MODEL_FILE), other.join(MODEL_FILE)).unwrap();
    assert!(error(Checkpoint::load(&other)).contains("state.json states a graph, and model.safetensors holds a GPT"));
}

#[test]
fn equal_checkpoints_are_equal_files_and_pytorch_metadata_is_there() {
    let read = || {
        let dir = tempfile::tempdir().unwrap();
        let place = checkpoint(3).save(dir.path()).unwrap();
        [MODEL_FILE, OPTIM_FILE, STATE_FILE].map(|name| fs::read(place.join(name)).unwrap())
    };
    assert_eq!(read(), read());
    let file = TensorFile::parse(read()[0].clone(), "m").unwrap();
    assert_eq!(file.metadata("format"), Some("pt"));
}

#[test]
fn files_in_memory_are_the_files_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let mut saved = checkpoint(3);
    saved.val_loss = Some(2.5);
    let place = saved.save(dir.path()).unwrap();
    let [(_, model), (_, optim), (_, state)] = saved.to_files().unwrap();
    for (name, bytes) in saved.to_files().unwrap() {
        assert_eq!(fs::read(place.join(name)).unwrap(), bytes, "{name}");
    }
    assert_eq!(Checkpoint::from_files(model.clone(), optim.clone(), &state, "a page").unwrap(), saved);
    let cut = error(Checkpoint::from_files(model, optim[..99].to_vec(), &state, "a page"));
    assert!(cut.starts_with("a page/optim.safetensors is truncated"), "{cut}");
}

#[test]
fn a_save_replaces_its_own_step_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    checkpoint(3).save(dir.path()).unwrap();
    let mut again = checkpoint(3);
    again.weights = tensors(2.0);
    again.save(dir.path()).unwrap();
    assert_eq!(Checkpoint::load(dir.path()).unwrap(), again);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

/// What a crash between the two renames of a replacement leaves: the old checkpoint under a hidden name, and perhaps half of a new one.
#[test]
fn a_checkpoint_whose_replacement_crashed_still_stands() {
    let dir = tempfile::tempdir().unwrap();
    checkpoint(3).save(dir.path()).unwrap();
    let place = checkpoint(8).save(dir.path()).unwrap();
    let old = dir.path().join(".step-00000008.1.old");
    fs::rename(&place, &old).unwrap();
    let aside = dir.path().join(".step-00000008.1.new");
    fs::create_dir(&aside).unwrap();
    fs::copy(old.join(MODEL_FILE), aside.join(MODEL_FILE)).unwrap();
    assert_eq!(latest(dir.path()).unwrap(), Some(old.clone()));
    assert_eq!(Checkpoint::load(dir.path()).unwrap(), checkpoint(8));
    prune(dir.path(), 1).unwrap();
    assert_eq!(names(dir.path()), [".step-00000008.1.old"]);
    // The next save of that step takes its place, and the hidden one goes.
    checkpoint(8).save(dir.path()).unwrap();
    prune(dir.path(), 1).unwrap();
    assert_eq!(names(dir.path()), ["step-00000008"]);
}

#[test]
fn half_written_checkpoints_are_not_the_latest() {
    let dir = tempfile::tempdir().unwrap();
    let whole = checkpoint(3).save(dir.path()).unwrap();
    for missing in [MODEL_FILE, OPTIM_FILE, STATE_FILE] {
        let half = checkpoint(9).save(dir.path()).unwrap();
        fs::remove_file(half.join(missing)).unwrap();
        assert_eq!(latest(dir.path()).unwrap(), Some(whole.clone()), "without {missing}");
    }
}

/// Whatever step of a save fails, the checkpoint that was there is there.
#[test]
fn a_save_that_fails_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    checkpoint(3).save(dir.path()).unwrap();
    let failed = directory::place(dir.path(), 3, |aside| {
        fs::create_dir(aside).unwrap();
        Err(Error::failed("the disk is full"))
    });
    assert_eq!(failed.unwrap_err().to_string(), "the disk is full");
    // A `write` that makes nothing: the second rename fails, and the first is undone.
    directory::place(dir.path(), 3, |_| Ok(())).unwrap_err();
    assert_eq!(Checkpoint::load(dir.path()).unwrap(), checkpoint(3));
    assert_eq!(names(dir.path()), ["step-00000003"]);
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn prune_keeps_the_newest_and_clears_leftovers() {
    let dir = tempfile::tempdir().unwrap();
    for step in [1, 20, 300, 4000] {
        checkpoint(step).save(dir.path()).unwrap();
    }
    for name in [".step-00000005.1.new", ".step-00000006.1.gone", ".step-00000300.1.old", "step-mine"] {
        fs::create_dir(dir.path().join(name)).unwrap();
    }
    prune(dir.path(), 2).unwrap();
    assert_eq!(names(dir.path()), ["step-00000300", "step-00004000", "step-mine"]);
    prune(dir.path(), 0).unwrap();
    assert_eq!(names(dir.path()).len(), 3);
}

#[test]
fn prune_keeps_the_best_and_the_last() {
    let dir = tempfile::tempdir().unwrap();
    let losses = [Some(3.0), Some(1.25), None, Some(2.0), Some(1.25), Some(f64::NAN), Some(4.0)];
    for (step, val_loss) in (1..).zip(losses) {
        Checkpoint { val_loss, ..checkpoint(step) }.save(dir.path()).unwrap();
    }
    let (place, loss) = best(dir.path()).unwrap().unwrap();
    assert_eq!((place, loss), (dir.path().join("step-00000002"), 1.25));
    prune(dir.path(), 2).unwrap();
    assert_eq!(names(dir.path()), ["step-00000002", "step-00000006", "step-00000007"]);
    // It is known again by whoever opens the directory.
    Checkpoint { val_loss: Some(1.5), ..checkpoint(8) }.save(dir.path()).unwrap();
    prune(dir.path(), 1).unwrap();
    assert_eq!(names(dir.path()), ["step-00000002", "step-00000008"]);
    // A better one takes its place.
    Checkpoint { val_loss: Some(1.0), ..checkpoint(9) }.save(dir.path()).unwrap();
    prune(dir.path(), 1).unwrap();
    assert_eq!(names(dir.path()), ["step-00000009"]);
    assert_eq!(Checkpoint::load(dir.path()).unwrap().val_loss, Some(1.0));
}

#[test]
fn missing_and_foreign_paths_are_one_sentence() {
    let dir = tempfile::tempdir().unwrap();
    assert!(error(Model::load(&dir.path().join("x"))).contains("does not exist: give a run directory"));
    assert!(error(Model::load(dir.path())).contains("holds no checkpoint"));
    let foreign = dir.path().join("f.safetensors");
    tensor_file::write(&foreign, [], &pt_metadata()).unwrap();
    assert!(
        error(Model::load(&foreign)).contains("is no GPT that tinygpt knows: it has no tensor token_embedding.weight")
    );
}

#[test]
fn files_truncated_at_every_64th_byte_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let place = checkpoint(3).save(dir.path()).unwrap();
    for name in [MODEL_FILE, OPTIM_FILE, STATE_FILE] {
        let path = place.join(name);
        let whole = fs::read(&path).unwrap();
        for len in (0..whole.len()).step_by(64).chain([1, 7, 9, whole.len() - 1]) {
            fs::write(&path, &whole[..len]).unwrap();
            let error = error(Checkpoint::load(&place));
            assert!(error.contains(name) && error.contains("is truncated or"), "{name} of {len} bytes: {error}");
        }
        fs::remove_file(&path).unwrap();
        assert!(error(Checkpoint::load(&place)).contains(name));
        fs::write(&path, &whole).unwrap();
    }
    assert_eq!(Checkpoint::load(&place).unwrap(), checkpoint(3));
}

#[test]
fn newer_and_impossible_states_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let place = checkpoint(3).save(dir.path()).unwrap();
    let path = place.join(STATE_FILE);
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("\"version\": 1", "\"version\": 2").replace("step", "steps_done")).unwrap();
    assert!(error(Checkpoint::load(&place)).contains("has format version 2, and this tinygpt reads up to 1"));
    fs::write(&path, text.replace("\"heads\": 1", "\"heads\": 0")).unwrap();
    assert!(error(Checkpoint::load(&place)).contains("heads must be from 1"));
    fs::write(&path, text.replace("\"d_model\": 2", "\"d_model\": 96").replace("\"ctx\": 3", "\"ctx\": 5")).unwrap();
    assert!(
        error(Checkpoint::load(&place))
            .ends_with("is inconsistent: model.safetensors, beside state.json, is another model: ctx is 3, expected 5; d_model is 2, expected 96")
    );
    fs::write(&path, "[".repeat(100_000)).unwrap();
    assert!(error(Checkpoint::load(&place)).contains("is truncated or damaged"));
}

#[test]
fn a_wrong_architecture_lists_what_differs() {
    let tensors = Tensors::from([
        ("a.weight".to_owned(), HostTensor::zeros(DType::F32, &[3, 2]).unwrap()),
        ("a.bias".to_owned(), HostTensor::zeros(DType::F32, &[3]).unwrap()),
    ]);
    let expected = [("a.weight".to_owned(), vec![2, 3]), ("b".to_owned(), vec![1])];
    assert_eq!(
        error(check_architecture(&tensors, &expected, "F")),
        "F does not fit the model: a.weight is [3, 2] instead of [2, 3]; b is missing; a.bias is not expected"
    );
    let many: Vec<_> = (0..20).map(|i| (format!("p{i}"), vec![1])).collect();
    assert!(error(check_architecture(&Tensors::new(), &many, "F")).ends_with("p7 is missing; and 12 more"));
    let fits = [("a.weight".to_owned(), vec![3, 2]), ("a.bias".to_owned(), vec![3])];
    check_architecture(&tensors, &fits, "F").unwrap();
    // Weights and moments that lack a tensor of the model are found on loading.
    let dir = tempfile::tempdir().unwrap();
    let mut lame = checkpoint(3);
    lame.v.remove("ln_final.bias");
    lame.save(dir.path()).unwrap();
    assert!(error(Checkpoint::load(dir.path())).contains("v.ln_final.bias is missing"));
    let mut lame = checkpoint(4);
    lame.weights.remove("ln_final.bias");
    lame.save(dir.path()).unwrap();
    assert!(error(Checkpoint::load(dir.path())).ends_with("does not fit the model: ln_final.bias is missing"));
    let mut tall = checkpoint(5);
    tall.config.model.layers = 4096;
    tall.save(dir.path()).unwrap();
    assert!(
        error(Model::load(dir.path()))
            .ends_with("does not fit the model: 4096 layers are stated, which are 65540 tensors, and there are 20")
    );
}
