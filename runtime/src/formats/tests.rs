use super::*;
use crate::architecture::tests::bigram;
use crate::config::Gelu;
use crate::model::{forward, initial_weights, weight_shapes};
use crate::tensor_file::{TensorFile, to_bytes};

fn model() -> ModelConfig {
    ModelConfig { vocab: 256, ctx: 3, layers: 2, heads: 2, d_model: 4, d_mlp: 12, gelu: Gelu::Erf }
}

/// A model in which every number differs from every other.
fn saved() -> Saved {
    let mut next = 0.0;
    let mut numbered = || -> Tensors {
        names::gpt_weights(&model())
            .map(|(name, shape)| {
                let n = shape.iter().product::<usize>();
                let values = (0..n).map(|i| next + i as f32).collect();
                next += n as f32;
                (name, HostTensor::f32(&shape, values).unwrap())
            })
            .collect()
    };
    let (weights, moments) = (numbered(), [numbered(), numbered()]);
    let mut saved = Saved::weights(Architecture::from(&model()), weights).unwrap();
    saved.moments = Some(moments);
    saved.step = 40;
    saved.saved_at = Some("2026-11-23T00:00:00Z".to_owned());
    saved.history = vec![
        LossPoint { step: 20, train: Some(2.5), val: None },
        LossPoint { step: 40, train: Some(2.25), val: Some(2.375) },
    ];
    saved
}

fn one(format: Format) -> Vec<u8> {
    encode(format, &saved()).unwrap().remove(0).1
}

#[track_caller]
fn refusal(bytes: Vec<u8>) -> String {
    let error = decode("dir/x.pt", bytes, None).unwrap_err();
    assert_eq!(error.exit_status(), 2);
    let error = error.to_string();
    assert!(error.starts_with("dir/x.pt ") || error.contains(" in dir/x.pt "), "{error}");
    assert!(!error.contains('\n') && error.len() < 600, "{error}");
    error
}

#[test]
fn names_and_shapes_are_the_graph_s() {
    for model in [model(), RunConfig::preset("tiny").unwrap().model] {
        let mut expected = weight_shapes(&forward(&model, 1).unwrap());
        let mut found: Vec<_> = names::gpt_weights(&model).collect();
        expected.sort();
        found.sort();
        assert_eq!(found, expected);
        let elements: usize = found.iter().map(|(_, shape)| shape.iter().product::<usize>()).sum();
        assert_eq!(elements as u64, model.params());
    }
}

#[test]
fn a_model_file_states_its_architecture() {
    let saved = saved();
    let read = decode("m", one(Format::Safetensors), None).unwrap();
    assert_eq!((&read.weights, &read.moments, read.architecture()), (&saved.weights, &None, saved.architecture()));
    assert_eq!(decode("m", one(Format::Safetensors), Some(2)).unwrap(), read);
    let error = decode("m", one(Format::Safetensors), Some(4)).unwrap_err().to_string();
    assert_eq!(error, "m states heads 2, and --heads says 4: leave --heads out");
    let graph = Architecture::from(GraphModel::new(bigram(|_| ())).unwrap());
    let weights = initial_weights(&graph.forward(2).unwrap(), 1).unwrap();
    let bytes = safetensors::encode(&graph, &weights).unwrap();
    let read = decode("g", bytes, None).unwrap();
    assert_eq!((read.architecture(), &read.weights), (graph, &weights));
    assert!(read.config.validate().is_ok() && read.config.train.batch == 2);
    for format in [Format::Tinygpt, Format::HfGpt2] {
        let error = encode(format, &read).unwrap_err().to_string();
        assert!(error.starts_with("the model is the graph bigram, and the format "), "{error}");
    }
}

#[test]
fn pytorch_s_files_tell_their_sizes() {
    let saved = saved();
    let plain = |weights: &Tensors| to_bytes(weights.iter().map(|(n, t)| (n.clone(), t)), &Default::default());
    let read = decode("m", plain(&saved.weights), Some(2)).unwrap();
    assert_eq!((read.architecture(), &read.weights), (saved.architecture(), &saved.weights));
    assert_eq!(
        refusal(plain(&saved.weights)),
        "dir/x.pt does not state its number of attention heads, which no shape shows: give --heads N"
    );
    let with = |change: &dyn Fn(&mut Tensors)| {
        let mut weights = saved.weights.clone();
        change(&mut weights);
        decode("m", plain(&weights), Some(2)).unwrap_err().to_string()
    };
    let zeros = |shape: &[usize]| HostTensor::zeros(DType::F32, shape).unwrap();
    for (error, end) in [
        (with(&|w| drop(w.remove("ln_final.bias"))), "does not fit the model: ln_final.bias is missing"),
        (with(&|w| drop(w.insert("head.weight".into(), zeros(&[1])))), "head.weight is not expected"),
        (
            with(&|w| drop(w.insert("blocks.0.ln1.bias".into(), zeros(&[5])))),
            "does not fit the model: blocks.0.ln1.bias is [5] instead of [4]",
        ),
        (
            with(&|w| drop(w.insert("blocks.4000.ln1.bias".into(), zeros(&[4])))),
            "4001 layers are stated, which are 64020 tensors, and there are 37",
        ),
        (
            with(&|w| drop(w.insert("blocks.18446744073709551615.x".into(), zeros(&[4])))),
            "layers must be from 1 to 4096, and is 18446744073709551615",
        ),
        (
            with(&|w| drop(w.insert("position_embedding.weight".into(), zeros(&[12])))),
            "position_embedding.weight in m is f32[12], and a matrix is expected",
        ),
        (with(&|w| drop(w.insert("wte.weight".into(), zeros(&[1])))), "rename them as docs/FORMATS.md lists"),
        (with(&|w| w.clear()), "it has no tensor token_embedding.weight (docs/FORMATS.md lists the names)"),
        (
            with(&|w| drop(w.insert("ln_final.bias".into(), HostTensor::f16_bits(&[4], vec![0; 4]).unwrap()))),
            "ln_final.bias in m holds F16, and weights are F32: convert it (in PyTorch: model.float())",
        ),
    ] {
        assert!(error.ends_with(end), "{error:?} does not end with {end:?}");
    }
    let error = decode("m", plain(&saved.weights), Some(3)).unwrap_err().to_string();
    assert!(error.starts_with("m: d_model must be a multiple of heads, and 4 is not one of 3"), "{error}");
}

#[test]
fn tinygpt_files_come_back_as_they_were() {
    let bytes = one(Format::Tinygpt);
    assert_eq!(decode("m", bytes.clone(), None).unwrap(), saved());
    assert_eq!(tinygpt::encode(&decode("m", bytes, Some(2)).unwrap()).unwrap(), one(Format::Tinygpt));
    // Without moments zeros are written, and read.
    let bare = Saved { moments: None, ..saved() };
    let read = decode("m", tinygpt::encode(&bare).unwrap(), None).unwrap();
    let checkpoint = bare.into_checkpoint().unwrap();
    assert_eq!(read.moments.as_ref().unwrap(), &[checkpoint.m.clone(), checkpoint.v.clone()]);
    assert!(checkpoint.m.values().all(|t| t.as_f32().unwrap().iter().all(|x| *x == 0.0)));
    assert_eq!((checkpoint.val_loss, checkpoint.step), (Some(2.375), 40));
    assert_eq!(read.into_checkpoint().unwrap(), checkpoint);
}

/// The header and state of a file that [`with_header`] puts together again.
fn parts() -> (serde_json::Value, Vec<u8>) {
    let bytes = one(Format::Tinygpt);
    let length = u32::from_le_bytes(bytes[8..12].try_into().unwrap()) as usize;
    (serde_json::from_slice(&bytes[12..12 + length]).unwrap(), bytes[12 + length..].to_vec())
}

fn with_header(header: &str, state: &[u8]) -> Vec<u8> {
    let mut bytes = b"TGPT\x02\0\0\0".to_vec();
    bytes.extend((header.len() as u32).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(state);
    bytes
}

#[test]
fn tinygpt_files_of_other_programs_are_read() {
    let (mut header, state) = parts();
    // The first programs: no sizes, no moments' flag, losses under shorter names, and keys that nobody knows.
    let object = header.as_object_mut().unwrap();
    for key in ["includesOptimizerState", "weightDtype", "stateByteLength", "version", "savedAt"] {
        object.remove(key).unwrap();
    }
    object["finalLoss"] = 2.25.into();
    object["lossHistory"] = serde_json::json!([{"step": 40, "train": 2.25, "val": null, "wall": 1}]);
    object.insert("sample".into(), "Once".into());
    object["manifest"].as_array_mut().unwrap().iter_mut().for_each(|e| drop(e.as_object_mut().unwrap().remove("size")));
    for key in ["batchSize", "learningRate", "gradClip", "maxSteps", "evalEvery", "seed", "backend"] {
        object["config"].as_object_mut().unwrap().remove(key).unwrap();
    }
    let read = decode("m", with_header(&header.to_string(), &state), None).unwrap();
    assert_eq!((&read.weights, &read.moments), (&saved().weights, &saved().moments));
    assert_eq!(read.history, [LossPoint { step: 40, train: Some(2.25), val: None }]);
    assert_eq!((read.config.train.batch, read.saved_at), (16, None));
    header["config"].as_object_mut().unwrap().remove("heads").unwrap();
    let headless = with_header(&header.to_string(), &state);
    assert!(refusal(headless.clone()).ends_with("give --heads N"));
    assert_eq!(decode("m", headless, Some(2)).unwrap().config.model, model());
}

#[test]
fn halves_without_moments_are_read() {
    let (mut header, _) = parts();
    let mut state = 7i32.to_le_bytes().to_vec();
    let mut expected = saved().weights;
    let (ends, mut stored) = ([0x3c00u16, 0xbc01, 0x0001, 0x7bff], 0);
    for (name, shape) in names::gpt_weights(&model()) {
        let n = shape.iter().product::<usize>();
        let halves: Vec<u16> = (0..n).map(|i| ends[(stored + i) % 4]).collect();
        stored += n;
        halves.iter().for_each(|h| state.extend(h.to_le_bytes()));
        // 1, -(1 + 2^-10), the least and the greatest number.
        let values = halves.iter().map(|h| match h {
            0x3c00 => 1.0,
            0xbc01 => -1.000_976_6,
            1 => 2f32.powi(-24),
            _ => 65504.0,
        });
        let tensor = if names::is_linear(&name, &shape) {
            names::transposed(&HostTensor::f32(&[shape[1], shape[0]], values.collect()).unwrap()).unwrap()
        } else {
            HostTensor::f32(&shape, values.collect()).unwrap()
        };
        expected.insert(name, tensor);
    }
    header["includesOptimizerState"] = false.into();
    header["weightDtype"] = "fp16".into();
    header["stateByteLength"] = state.len().into();
    let read = decode("m", with_header(&header.to_string(), &state), None).unwrap();
    assert_eq!((read.step, read.moments), (7, None));
    assert_eq!(read.weights, expected);
    header["weightDtype"] = "int4".into();
    let error = refusal(with_header(&header.to_string(), &state));
    assert!(error.contains("weights of 4 bits (weightDtype int4), which tinygpt does not read"), "{error}");
    header["weightDtype"] = "fp32".into();
    let error = refusal(with_header(&header.to_string(), &state));
    assert!(
        error.ends_with("holds weights as \"fp32\" without moments, and fp32 with or fp16 without them was expected")
    );
}

#[test]
fn tinygpt_files_truncated_at_every_64th_byte_are_errors() {
    let whole = one(Format::Tinygpt);
    for len in (4..whole.len()).step_by(64).chain([5, 11, 12, 13, whole.len() - 1]) {
        let error = refusal(whole[..len].to_vec());
        assert!(error.contains("is truncated or damaged"), "{len}: {error}");
    }
    assert!(refusal([&whole[..], b"\0"].concat()).contains("bytes, and "));
}

#[test]
fn tinygpt_files_that_lie_are_errors() {
    let (header, state) = parts();
    let with = |path: &str, value: serde_json::Value| {
        let mut header = header.clone();
        *header.pointer_mut(path).unwrap() = value;
        refusal(with_header(&header.to_string(), &state))
    };
    let big = serde_json::json!(u64::MAX);
    for (error, part) in [
        (with("/config/layers", 4096.into()), "follow the header"),
        (with("/config/layers", big.clone()), "layers must be from 1 to 4096"),
        (with("/config/dModel", 1_048_576.into()), "follow the header"),
        (with("/config/dModel", 0.into()), "d_model must be from 1"),
        (with("/config/heads", 3.into()), "d_model must be a multiple of heads"),
        (with("/config/ctx", (-3).into()), "its header cannot be read"),
        (with("/config/ctx", 4.into()), "follow the header"),
        (with("/stateByteLength", 8.into()), "its header states 8 bytes of state, and its tensors take "),
        (with("/manifest/0/name", "x".into()), "has \"x\" [256, 4] where token_embedding.weight [256, 4] was expected"),
        (with("/manifest/6/shape", serde_json::json!([2, 8])), "where blocks.0.attn.q_proj.weight [4, 4] was expected"),
        (with("/manifest/6/size", big.clone()), "where blocks.0.attn.q_proj.weight [4, 4] was expected"),
        (with("/manifest", serde_json::json!([])), "its manifest ends before token_embedding.weight"),
        (with("/config/learningRate", (-1).into()), "lr must be a positive number"),
        (with("/config/batchSize", big.clone()), "batch must be from 1"),
    ] {
        assert!(error.contains(part), "{error:?} lacks {part:?}");
    }
    let mut longer = header.clone();
    let entry = longer["manifest"][0].clone();
    longer["manifest"].as_array_mut().unwrap().push(entry);
    assert!(refusal(with_header(&longer.to_string(), &state)).contains("beyond the last tensor"));
    assert!(
        refusal(with_header(&header.to_string(), &[&[0xff; 4], &state[4..]].concat())).contains("it states step -1")
    );
    assert!(refusal(with_header(&"[".repeat(100_000), &state)).contains("its header cannot be read"));
    assert!(
        refusal(with_header(&format!("{{\"x\":{}", "[".repeat(100_000)), &state)).contains("its header cannot be read")
    );
    let mut lies = one(Format::Tinygpt);
    lies[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(refusal(lies).contains("its header is said to have 4294967295 bytes"));
    for (version, part) in
        [(3, "of version 3, and this tinygpt reads version 2: use a newer tinygpt"), (1, "reads version 2")]
    {
        let mut other = one(Format::Tinygpt);
        other[4] = version;
        assert!(refusal(other).ends_with(part));
    }
}

#[test]
fn what_tinygpt_files_cannot_hold_is_refused() {
    let with = |change: &dyn Fn(&mut ModelConfig)| {
        let mut saved = saved();
        change(&mut saved.config.model);
        encode(Format::Tinygpt, &saved).unwrap_err().to_string()
    };
    assert_eq!(
        with(&|m| m.vocab = 300),
        "a .tinygpt file cannot hold a model with vocab 300, only with 256: choose safetensors"
    );
    assert!(with(&|m| m.gelu = Gelu::Tanh).contains("with the tanh gelu, only with the exact one"));
    let late = Saved { step: 1 << 31, ..saved() };
    assert!(
        encode(Format::Tinygpt, &late)
            .unwrap_err()
            .to_string()
            .starts_with("a .tinygpt file counts steps to 2147483647")
    );
}

#[test]
fn gpt_2_s_layout_is_a_renaming() {
    let files = encode(Format::HfGpt2, &saved()).unwrap();
    let [(config_name, config), (weights_name, weights)] = &files[..] else { panic!("{} files", files.len()) };
    assert_eq!((*config_name, *weights_name), ("config.json", "model.safetensors"));
    let config: serde_json::Value = serde_json::from_slice(config).unwrap();
    for (key, value) in
        [("n_inner", 12), ("n_embd", 4), ("n_head", 2), ("n_layer", 2), ("n_positions", 3), ("vocab_size", 256)]
    {
        assert_eq!(config[key], value, "{key}");
    }
    assert_eq!(config["activation_function"], "gelu");
    let file = TensorFile::parse(weights.clone(), "w").unwrap();
    assert_eq!(file.metadata("format"), Some("pt"));
    let (found, saved) = (file.tensors().unwrap(), saved());
    assert_eq!(found.len(), 4 + 12 * 2);
    let element =
        |tensor: &HostTensor, row: usize, column: usize| tensor.as_f32().unwrap()[row * tensor.shape()[1] + column];
    let joined = &found["h.1.attn.c_attn.weight"];
    assert_eq!(joined.shape(), [4, 12]);
    for (i, name) in ["q", "k", "v"].iter().enumerate() {
        let weight = &saved.weights[&format!("blocks.1.attn.{name}_proj.weight")];
        let bias = saved.weights[&format!("blocks.1.attn.{name}_proj.bias")].as_f32().unwrap();
        assert_eq!(&found["h.1.attn.c_attn.bias"].as_f32().unwrap()[4 * i..4 * i + 4], bias);
        for (row, column) in [(0, 0), (1, 3), (2, 1)] {
            assert_eq!(element(joined, row, 4 * i + column), element(weight, column, row));
        }
    }
    assert_eq!(
        element(&found["h.0.mlp.c_fc.weight"], 3, 11),
        element(&saved.weights["blocks.0.mlp.fc_in.weight"], 11, 3)
    );
    assert_eq!(found["wpe.weight"], saved.weights["position_embedding.weight"]);
    assert_eq!(found["h.1.ln_2.bias"], saved.weights["blocks.1.ln2.bias"]);
    assert!(
        refusal(weights.clone()).contains("has GPT-2's names (wte.weight), which tinygpt writes and does not read")
    );
}

#[test]
fn pickles_are_refused_with_the_conversion() {
    for bytes in
        [b"PK\x03\x04\0\0\x08\x08\0\0".to_vec(), b"\x80\x02}q\0.".to_vec(), b"\x80\x04\x95\x10\0\0\0\0\0\0\0".to_vec()]
    {
        assert_eq!(
            refusal(bytes),
            "dir/x.pt is a pickle, as torch.save writes it, and reading one can run any code that it holds, so tinygpt does not: if you \
             trust it, convert it in Python: import torch; from safetensors.torch import save_file; \
             save_file(torch.load(\"x.pt\", weights_only=True), \"x.safetensors\")"
        );
    }
    // A safetensors header of 640 bytes begins like a pickle of protocol 2.
    let mut header = "{}".to_owned();
    header.extend(std::iter::repeat_n(' ', 638));
    let mut bytes = 640u64.to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    assert_eq!(bytes[..2], [0x80, 2]);
    assert!(refusal(bytes).contains("has no tensor token_embedding.weight"));
    for bytes in [Vec::new(), b"GGUF".to_vec(), b"{\"a\":1}".to_vec(), vec![0xff; 99]] {
        assert!(refusal(bytes).contains("is truncated or not a safetensors file"));
    }
}

#[test]
fn formats_have_names() {
    for format in Format::ALL {
        assert_eq!(Format::named(format.name()).unwrap(), format);
    }
    let error = Format::named("onnx").unwrap_err().to_string();
    assert_eq!(error, "there is no file format \"onnx\": choose one of safetensors, hf-gpt2, tinygpt");
}
