//! Whole training steps of tinygpt's model in burn on its Flex backend, timed.
//!
//!     burn-step --start F.safetensors [--losses N] [--steps N]
//!
//! `F` is a file of `tinygpt bench --save-start`; its batches are trained on first, and their losses kept; then come [`WARMUP_STEPS`] untimed and N timed
//! steps on its timed batch. One JSON object is printed, with the fields of the other peers (`common.py` in the folder above). Threads are as many as
//! `RAYON_NUM_THREADS` says.
//!
//! The model is written with burn's own modules and optimizer. Its clipping is by tensor, so clipping by the global norm is written here. Its
//! attention with gradients is made of products and a softmax: the fused one is for inference.

use std::collections::HashMap;
use std::process::ExitCode;
use std::time::Instant;

use burn::module::{Module, ModuleVisitor, Param, ParamGroup, ParamId};
use burn::nn::loss::{CrossEntropyLoss, CrossEntropyLossConfig};
use burn::nn::{Embedding, EmbeddingConfig, LayerNorm, LayerNormConfig, Linear, LinearConfig};
use burn::optim::{AdamWConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::activation::{gelu, gelu_approximate};
use burn::tensor::module::attention;
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{Device, Int, Tensor, TensorData};
use safetensors::SafeTensors;
use serde_json::{Value, json};

/// Untimed steps on the batch that is timed: as many as the other peers take.
const WARMUP_STEPS: usize = 3;

/// Length of a clock tick of proc(5): Linux shows every program 100 a second.
const TICK_S: f64 = 0.01;

#[derive(Module, Debug)]
struct Block {
    ln1: LayerNorm,
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
    ln2: LayerNorm,
    fc_in: Linear,
    fc_out: Linear,
}

#[derive(Module, Debug)]
struct Gpt {
    token_embedding: Embedding,
    position_embedding: Embedding,
    blocks: Vec<Block>,
    ln_final: LayerNorm,
    heads: usize,
    tanh_gelu: bool,
}

impl Block {
    /// [B, T, C] -> [B, T, C]
    fn forward(&self, x: Tensor<3>, heads: usize, tanh_gelu: bool) -> Tensor<3> {
        let [b, t, c] = x.dims();
        let normed = self.ln1.forward(x.clone());
        let split = |linear: &Linear| linear.forward(normed.clone()).reshape([b, t, heads, c / heads]).swap_dims(1, 2);
        let options = AttentionModuleOptions { is_causal: true, ..Default::default() };
        let y = attention(split(&self.q_proj), split(&self.k_proj), split(&self.v_proj), None, None, options);
        let x = x + self.o_proj.forward(y.swap_dims(1, 2).reshape([b, t, c]));
        let hidden = self.fc_in.forward(self.ln2.forward(x.clone()));
        let hidden = if tanh_gelu { gelu_approximate(hidden) } else { gelu(hidden) };
        x + self.fc_out.forward(hidden)
    }
}

impl Gpt {
    /// Mean cross-entropy of ids and targets [B, T].
    fn loss(&self, ids: Tensor<2, Int>, targets: Tensor<2, Int>, cross_entropy: &CrossEntropyLoss) -> Tensor<1> {
        let mut x = self.token_embedding.forward(ids) + self.position_embedding.weight.val().unsqueeze::<3>();
        for block in &self.blocks {
            x = block.forward(x, self.heads, self.tanh_gelu);
        }
        let [b, t, c] = x.dims();
        // Tied head: the token embedding is the output matrix, without bias.
        let logits = self.ln_final.forward(x).reshape([b * t, c]).matmul(self.token_embedding.weight.val().transpose());
        cross_entropy.forward(logits, targets.reshape([b * t]))
    }
}

/// A file of `tinygpt bench --save-start`.
struct Start<'a> {
    metadata: HashMap<String, String>,
    tensors: SafeTensors<'a>,
}

impl<'a> Start<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, String> {
        let sentence = |error: &dyn std::fmt::Display| format!("the start file cannot be read: {error}");
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(|error| sentence(&error))?;
        let tensors = SafeTensors::deserialize(bytes).map_err(|error| sentence(&error))?;
        Ok(Self { metadata: header.metadata().clone().unwrap_or_default(), tensors })
    }

    fn text(&self, key: &str) -> Result<&str, String> {
        self.metadata.get(key).map(String::as_str).ok_or_else(|| format!("the start file has no {key} in its metadata"))
    }

    fn number(&self, key: &str) -> Result<f64, String> {
        let text = self.text(key)?;
        text.parse().map_err(|_| format!("{key} of the start file is {text:?}, expected a number"))
    }

    fn whole(&self, key: &str) -> Result<usize, String> {
        Ok(self.number(key)? as usize)
    }

    /// Shape and little-endian words of a tensor, whose elements have four bytes.
    fn words(&self, name: &str) -> Result<(Vec<usize>, Vec<[u8; 4]>), String> {
        let view = self.tensors.tensor(name).map_err(|error| format!("{name} of the start file: {error}"))?;
        let (words, _) = view.data().as_chunks::<4>();
        Ok((view.shape().to_vec(), words.to_vec()))
    }

    /// A starting weight; a matrix of a linear layer comes as [in, out], which is burn's layout.
    fn weight<const D: usize>(
        &self,
        name: &str,
        transposed: bool,
        device: &Device,
    ) -> Result<Param<Tensor<D>>, String> {
        let (mut shape, words) = self.words(&format!("init.{name}"))?;
        let mut values: Vec<f32> = words.into_iter().map(f32::from_le_bytes).collect();
        if transposed {
            let (rows, columns) = (shape[0], shape[1]);
            values = (0..columns * rows).map(|at| values[at % rows * columns + at / rows]).collect();
            shape = vec![columns, rows];
        }
        Ok(Param::from_data(TensorData::new(values, shape), device))
    }

    fn linear(&self, name: &str, device: &Device) -> Result<Linear, String> {
        let mut linear = LinearConfig::new(1, 1).init(device);
        linear.weight = self.weight(&format!("{name}.weight"), true, device)?;
        linear.bias = Some(self.weight(&format!("{name}.bias"), false, device)?);
        Ok(linear)
    }

    fn layer_norm(&self, name: &str, device: &Device) -> Result<LayerNorm, String> {
        let mut norm = LayerNormConfig::new(1).with_epsilon(1e-5).init(device);
        norm.gamma = self.weight(&format!("{name}.weight"), false, device)?;
        norm.beta = Some(self.weight(&format!("{name}.bias"), false, device)?);
        Ok(norm)
    }

    fn embedding(&self, name: &str, device: &Device) -> Result<Embedding, String> {
        let mut embedding = EmbeddingConfig::new(1, 1).init(device);
        embedding.weight = self.weight(&format!("{name}.weight"), false, device)?;
        Ok(embedding)
    }

    fn model(&self, device: &Device) -> Result<Gpt, String> {
        let block = |layer: usize| {
            let linear = |name: &str| self.linear(&format!("blocks.{layer}.{name}"), device);
            let norm = |name: &str| self.layer_norm(&format!("blocks.{layer}.{name}"), device);
            Ok(Block {
                ln1: norm("ln1")?,
                q_proj: linear("attn.q_proj")?,
                k_proj: linear("attn.k_proj")?,
                v_proj: linear("attn.v_proj")?,
                o_proj: linear("attn.o_proj")?,
                ln2: norm("ln2")?,
                fc_in: linear("mlp.fc_in")?,
                fc_out: linear("mlp.fc_out")?,
            })
        };
        Ok(Gpt {
            token_embedding: self.embedding("token_embedding", device)?,
            position_embedding: self.embedding("position_embedding", device)?,
            blocks: (0..self.whole("layers")?).map(block).collect::<Result<_, String>>()?,
            ln_final: self.layer_norm("ln_final", device)?,
            heads: self.whole("heads")?,
            tanh_gelu: self.text("gelu")? == "tanh",
        })
    }

    /// Batches of ids or targets: of [N, B, T] all N, of [B, T] one.
    fn batches(&self, name: &str, device: &Device) -> Result<Vec<Tensor<2, Int>>, String> {
        let (shape, words) = self.words(name)?;
        let values: Vec<i32> = words.into_iter().map(i32::from_le_bytes).collect();
        let [.., rows, columns] = shape[..] else {
            return Err(format!("{name} of the start file has shape {shape:?}, expected two dimensions or three"));
        };
        let batch = |part: &[i32]| Tensor::from_data(TensorData::new(part.to_vec(), [rows, columns]), device);
        Ok(values.chunks_exact(rows * columns).map(batch).collect())
    }
}

/// Parameters of one dimension, which have no weight decay.
#[derive(Default)]
struct Vectors(Vec<ParamId>);

impl ModuleVisitor for Vectors {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if D == 1 {
            self.0.push(param.id);
        }
    }
}

/// The sum of the squares of all gradients.
struct Squares<'a> {
    grads: &'a GradientsParams,
    sum: Option<Tensor<1>>,
}

impl ModuleVisitor for Squares<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(grad) = self.grads.get::<D>(param.id) {
            let squares = grad.square().sum();
            self.sum = Some(match self.sum.take() {
                Some(sum) => sum + squares,
                None => squares,
            });
        }
    }
}

/// Multiplies all gradients by one number.
struct Scale<'a> {
    grads: &'a mut GradientsParams,
    by: f32,
}

impl ModuleVisitor for Scale<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(grad) = self.grads.remove::<D>(param.id) {
            self.grads.register(param.id, grad.mul_scalar(self.by));
        }
    }
}

/// Clips by the global norm, as `torch.nn.utils.clip_grad_norm_` does.
fn clip(grads: &mut GradientsParams, model: &Gpt, max_norm: f64) {
    let mut squares = Squares { grads, sum: None };
    model.visit(&mut squares);
    let norm = squares.sum.map_or(0.0, |sum| f64::from(sum.into_scalar::<f32>()).sqrt());
    let by = max_norm / (norm + 1e-6);
    if by < 1.0 {
        model.visit(&mut Scale { grads, by: by as f32 });
    }
}

/// Seconds since this process was started, in hundredths; none where the system does not tell (proc(5): `stat`, field 22).
fn process_age_s() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let ticks: f64 = stat.rsplit_once(')')?.1.split_whitespace().nth(22 - 3)?.parse().ok()?;
    let uptime: f64 = std::fs::read_to_string("/proc/uptime").ok()?.split_whitespace().next()?.parse().ok()?;
    Some(((uptime - ticks * TICK_S) * 100.0).round() / 100.0)
}

/// The most memory this process has had resident (proc(5), VmHWM).
fn peak_rss_mib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?.trim().strip_suffix(" kB")?;
    Some(kib.parse::<f64>().ok()? / 1024.0)
}

fn measure(path: &str, losses: usize, steps: usize) -> Result<Value, String> {
    let bytes = std::fs::read(path).map_err(|error| format!("cannot read {path}: {error}"))?;
    let start = Start::parse(&bytes)?;
    let device = Device::flex().autodiff();
    let mut model = start.model(&device)?;
    let params = model.num_params();

    let mut vectors = Vectors::default();
    model.visit(&mut vectors);
    let adamw = |weight_decay: f64| -> Result<_, String> {
        let config = AdamWConfig::new()
            .with_beta_1(start.number("beta1")? as f32)
            .with_beta_2(start.number("beta2")? as f32)
            .with_epsilon(start.number("eps")? as f32);
        Ok(config.with_weight_decay(weight_decay as f32).build())
    };
    let mut optimizer = ModuleOptimizer::from(adamw(start.number("weight_decay")?)?);
    optimizer = optimizer.with_group(ParamGroup::from_ids(vectors.0), adamw(0.0)?, None);
    let (lr, max_norm) = (start.number("lr")?, start.number("grad_clip")?);
    let cross_entropy = CrossEntropyLossConfig::new().init(&device);

    let mut step = |ids: &Tensor<2, Int>, targets: &Tensor<2, Int>| -> f64 {
        let loss = model.loss(ids.clone(), targets.clone(), &cross_entropy);
        let mut grads = GradientsParams::from_grads(loss.backward(), &model);
        clip(&mut grads, &model, max_norm);
        model = optimizer.step(lr, model.clone(), grads);
        loss.into_scalar::<f32>().into()
    };

    let mut first_step_s = None;
    let mut found = Vec::new();
    let (ids, targets) = (start.batches("ids", &device)?, start.batches("targets", &device)?);
    if ids.len() < losses {
        return Err(format!("{path} holds the batches of {} steps, and {losses} were asked for", ids.len()));
    }
    for (ids, targets) in ids.iter().zip(&targets).take(losses) {
        found.push(step(ids, targets));
        first_step_s = first_step_s.or_else(process_age_s);
    }
    let (ids, targets) = (start.batches("timed.ids", &device)?, start.batches("timed.targets", &device)?);
    let mut times_ms = Vec::new();
    for at in 0..WARMUP_STEPS + steps {
        let begin = Instant::now();
        let loss = step(&ids[0], &targets[0]);
        if at >= WARMUP_STEPS {
            times_ms.push(1e3 * begin.elapsed().as_secs_f64());
        }
        first_step_s = first_step_s.or_else(process_age_s);
        if !loss.is_finite() {
            return Err(format!("the loss is {loss}, so there is no training step to time"));
        }
    }
    times_ms.sort_by(f64::total_cmp);
    let n = times_ms.len();
    let threads = std::env::var("RAYON_NUM_THREADS").ok().and_then(|text| text.parse::<usize>().ok());
    Ok(json!({
        "preset": start.text("preset")?,
        "threads": threads,
        "params": params,
        "versions": {"burn": locked_version("burn")?},
        "losses": found,
        "first_step_s": first_step_s,
        "steps": steps,
        "ms_per_step": {
            "median": (times_ms[(n - 1) / 2] + times_ms[n / 2]) / 2.0,
            "min": times_ms[0],
            "p90": times_ms[(n * 9).div_ceil(10) - 1],
        },
        "peak_rss_mib": peak_rss_mib(),
    }))
}

/// The version of a package that this program was built with, by its lock file.
fn locked_version(package: &str) -> Result<&'static str, String> {
    let lock = include_str!("../Cargo.lock");
    let of_package = lock.split_once(&format!("name = \"{package}\"\nversion = \""));
    let version = of_package.and_then(|(_, rest)| rest.split_once('"'));
    version.map(|(version, _)| version).ok_or_else(|| format!("Cargo.lock names no package {package}"))
}

/// The flags: a file, and two whole numbers with defaults.
fn parse(args: &[String]) -> Result<(String, usize, usize), String> {
    let (mut start, mut losses, mut steps) = (None, 0, 20);
    let mut rest = args.iter();
    while let Some(flag) = rest.next() {
        let value = rest.next().ok_or_else(|| format!("{flag} has no value"))?;
        let whole = || value.parse::<usize>().map_err(|_| format!("{flag} is {value:?}, expected a whole number"));
        match flag.as_str() {
            "--start" => start = Some(value.clone()),
            "--losses" => losses = whole()?,
            "--steps" => steps = whole()?.max(1),
            _ => return Err(format!("there is no flag {flag}; there are --start, --losses and --steps")),
        }
    }
    Ok((start.ok_or("--start F.safetensors is missing")?, losses, steps))
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match parse(&args).and_then(|(start, losses, steps)| measure(&start, losses, steps)) {
        Ok(result) => {
            println!("{result}");
            ExitCode::SUCCESS
        }
        Err(message) => {
            eprintln!("burn-step: {message}");
            ExitCode::FAILURE
        }
    }
}
