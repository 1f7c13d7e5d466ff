//! Tests of the configuration.

use super::*;
use std::path::Path;

/// The design's table of presets, column `params`.
#[test]
fn presets_have_the_stated_parameters() {
    let expected = [
        ("tiny", 70_464),
        ("small", 366_432),
        ("standard", 366_432),
        ("capable", 481_344),
        ("medium", 838_400),
        ("large", 2_743_296),
        ("xl", 6_416_896),
        ("huge", 9_608_704),
        ("massive", 25_039_872),
        ("mega", 25_138_176),
        ("behemoth", 473_244_160),
        // 124,439,808 of GPT-2 and 47 padded rows of 768.
        ("gpt2", 124_475_904),
    ];
    let names = |list: Vec<&'static str>| assert_eq!(list, expected.map(|(name, _)| name));
    names(PRESETS.iter().map(|preset| preset.name).collect());
    names(tinygpt_models::PRESETS.iter().map(|preset| preset.name).collect());
    for (name, params) in expected {
        let config = RunConfig::preset(name).unwrap();
        assert_eq!(config.model.params(), params, "{name}");
        config.validate().unwrap();
        assert_eq!(config.model.check_bytes().is_ok(), name != "gpt2");
    }
}

#[test]
fn layers_apply_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("run.toml");
    std::fs::write(&file, "preset = \"tiny\"\n[model]\nd_model = 60\n[train]\nlr = 1\nsteps = 20\nseed = 5\n").unwrap();
    let mut flags = RunOverride::default();
    flags.train.seed = Some(9);
    flags.data.data = Some("text.txt".into());
    let config = RunConfig::resolve(None, Some(&file), &flags).unwrap();
    assert_eq!((config.preset.as_str(), config.model.ctx), ("tiny", 32));
    assert_eq!((config.model.d_model, config.model.d_mlp), (60, 240));
    assert_eq!((config.train.lr, config.train.seed, config.train.steps, config.train.warmup), (1.0, 9, 20, 2));
    assert!(Path::new(&config.data.data).is_absolute() && config.data.data.ends_with("text.txt"));
    assert_eq!(RunConfig::resolve(None, None, &RunOverride::default()).unwrap(), RunConfig::preset("small").unwrap());
    // A named preset wins over the file's.
    assert_eq!(RunConfig::resolve(Some("large"), Some(&file), &flags).unwrap().model.ctx, 128);
}

#[test]
fn a_resolved_configuration_reads_back_equal() {
    let mut config = RunConfig::preset("medium").unwrap();
    config.train.threads = Some(2);
    config.train.isa = Some(Isa::Avx2);
    config.train.seed = i64::MAX as u64;
    for threads in [None, Some(2)] {
        config.train.threads = threads;
        let text = config.to_toml().unwrap();
        let layer = RunOverride::parse(&text, "x").unwrap();
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.toml");
        std::fs::write(&file, &text).unwrap();
        assert_eq!(RunConfig::resolve(None, Some(&file), &RunOverride::default()).unwrap(), config);
        assert_eq!(layer.train.lr, Some(4e-3));
        let json = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<RunConfig>(&json).unwrap(), config);
    }
}

#[test]
fn a_stored_configuration_without_later_keys_reads() {
    let config = RunConfig::preset("tiny").unwrap();
    let mut json = serde_json::to_value(&config).unwrap();
    for key in ["checked", "no_tune", "precision"] {
        json["train"].as_object_mut().unwrap().remove(key).unwrap();
    }
    assert_eq!(serde_json::from_value::<RunConfig>(json).unwrap(), config);
}

fn parse_error(text: &str) -> String {
    RunOverride::parse(text, "f.toml").unwrap_err().to_string()
}

#[test]
fn unknown_names_come_with_the_nearest() {
    assert_eq!(
        RunConfig::preset("lage").unwrap_err().to_string(),
        "there is no preset \"lage\" (did you mean \"large\"?): choose one of tiny, small, standard, capable, \
         medium, large, xl, huge, massive, mega, behemoth, gpt2"
    );
    assert_eq!(
        parse_error("[data]\ndta = 3\n"),
        "f.toml: there is no key \"dta\" in [data] (did you mean \"data\"?): the keys there are data, val_data"
    );
    assert_eq!(
        parse_error("[trian]\n"),
        "f.toml: there is no key \"trian\" (did you mean \"train\"?): the keys there are preset, graph, model, train, data"
    );
    for (text, key, section) in [
        ("[model]\nbatch = 3", "batch", "train"),
        ("layers = 3", "layers", "model"),
        ("[train]\nval_data = 3", "val_data", "data"),
    ] {
        let error = parse_error(text);
        assert!(
            error.contains(&format!("no key \"{key}\"")) && error.ends_with(&format!(": it belongs in [{section}]")),
            "{error}"
        );
    }
}

#[test]
fn malformed_files_name_the_line() {
    let error = parse_error("[train]\nlr = 1\nbatch = \"many\"\n");
    assert!(error.starts_with("f.toml, line 3: invalid type: string \"many\""), "{error}");
    assert!(parse_error("a = = 1").starts_with("f.toml, line 1: "));
    assert!(parse_error("train = 3").contains("invalid type"));
    assert!(parse_error("[train]\nbatch = -1\n").contains("line 2"));
    for text in ["", "[model]", "preset = \"é\""] {
        RunOverride::parse(text, "x").unwrap();
    }
}

#[test]
fn bad_values_are_one_sentence() {
    let error = |change: fn(&mut RunConfig)| {
        let mut config = RunConfig::preset("small").unwrap();
        change(&mut config);
        config.validate().unwrap_err().to_string()
    };
    assert_eq!(
        error(|c| c.model.heads = 5),
        "d_model must be a multiple of heads, and 96 is not one of 5: choose heads 4 or 6, or another d_model"
    );
    assert_eq!(error(|c| c.model.heads = 0), "heads must be from 1 to 4096, and is 0");
    assert_eq!(error(|c| c.model.ctx = usize::MAX), format!("ctx must be from 1 to 1048576, and is {}", usize::MAX));
    assert_eq!(error(|c| c.train.steps = 0), "steps must be from 1 to 99999999, and is 0");
    assert_eq!(error(|c| c.train.warmup = 1501), "warmup must be at most steps, and 1501 is more than 1500");
    assert_eq!(error(|c| c.train.lr = f64::NAN), "lr must be a positive number, and is NaN");
    assert_eq!(error(|c| c.train.lr = 0.0), "lr must be a positive number, and is 0");
    assert_eq!(error(|c| c.train.betas[1] = 1.0), "betas must be from 0 to below 1, and is 1");
    assert_eq!(error(|c| c.train.grad_clip = -1.0), "grad_clip must be 0 (none) or more, and is -1");
    assert_eq!(error(|c| c.train.threads = Some(0)), "threads must be from 1 to 1024, and is 0");
    assert!(error(|c| c.model.heads = 97).ends_with("96 is not one of 97: choose heads 96, or another d_model"));
    assert_eq!(
        error(|c| c.train.batch = MAX_BATCH),
        "a tensor of batch 1048576 times ctx 64 times d_mlp 384 has 25769803776 elements, and 2147483647 is the most: choose smaller ones"
    );
    assert!(
        error(|c| (c.train.batch, c.model.vocab) = (32, 1 << 20))
            .contains("tensor of batch 32 times ctx 64 times vocab")
    );
    assert_eq!(error(|c| c.train.batch = 0), "batch must be from 1 to 1048576, and is 0");
}
