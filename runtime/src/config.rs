//! Run configuration: one resolved value that says everything a run depends on.
//!
//! Layers, the later over the earlier: preset, configuration file, command-line flags. Invariants:
//! - keys are the flags' names with underscores, under `[model]`, `[train]` and `[data]`; each is declared once below,
//!   and its struct field, its file key and its override come from that declaration;
//! - an unknown key or preset is an error that names the nearest known one; nothing is ignored;
//! - a resolved configuration has passed [`RunConfig::validate`], names its data by absolute path, prints as TOML and
//!   reads back equal.
//!
//! Two values follow from others unless they are set: `d_mlp` is 4 `d_model` where a layer sets `d_model`, and `warmup`
//! is at most a tenth of `steps` where a layer sets `steps`.

use crate::config::keys::Key;
use crate::error::{did_you_mean, one_line};
use crate::schedule::{Schedule, ScheduleKind};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use tinygpt_ir::infer::MAX_ELEMENTS;
use tinygpt_ir::op::GeluForm;

pub mod keys;
mod layers;

pub use layers::RunOverride;

/// The word that names the corpus compiled into the binary.
pub const BUILTIN: &str = "builtin";

/// Largest planned number of steps: checkpoint directories number them with eight digits.
pub const MAX_STEPS: u64 = 99_999_999;

/// Largest batch: a batch row is 20 bits of the data stream's index.
pub const MAX_BATCH: usize = 1 << 20;

/// How exact contractions are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// f32 throughout
    #[default]
    F32,
    /// Operands of contractions rounded to f16, sums and everything else f32, the loss scaled (gpu only)
    Mixed,
}

impl std::fmt::Display for Precision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Mixed => "mixed",
        })
    }
}

/// What runs the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// Native code on this machine's processor
    Cpu,
    /// A GPU, through Vulkan, Metal or DirectX 12
    Gpu,
    /// A WebAssembly module, run by Node
    Wasm,
    /// The f64 interpreter: slow, the reference
    Interp,
}

impl std::fmt::Display for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Cpu => "cpu",
            Self::Gpu => "gpu",
            Self::Wasm => "wasm",
            Self::Interp => "interp",
        })
    }
}

/// Instruction set of the CPU backend's templates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Isa {
    /// AVX-512F
    Avx512,
    /// AVX2 and FMA
    Avx2,
    /// What every target has
    Portable,
}

impl std::fmt::Display for Isa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Avx512 => "avx512",
            Self::Avx2 => "avx2",
            Self::Portable => "portable",
        })
    }
}

/// Form of the GELU in the MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Gelu {
    /// x Phi(x), exact
    Erf,
    /// GPT-2's tanh approximation
    Tanh,
}

/// The text of an attribute that is documentation.
macro_rules! help {
    (doc = $text:literal) => {
        $text
    };
    ($($other:tt)*) => {
        ""
    };
}

/// Declares a section of the configuration: its struct, its override (every key optional), the list of its keys and what is to know of each.
/// Behind `|` stands the function that gives the value of a key which a stored configuration lacks.
macro_rules! section {
    ($(#[$doc:meta])* $name:ident, $override:ident, $section:literal { $($(#[$($field_doc:tt)*])* $field:ident: $ty:ty $(| $default:literal)?,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $name { $($(#[$($field_doc)*])* $(#[serde(default = $default)])? pub $field: $ty,)+ }

        /// The same section where each key may be left unset.
        #[derive(Debug, Clone, Default, PartialEq, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct $override { $($(#[$($field_doc)*])* pub $field: Option<$ty>,)+ }

        impl From<&$name> for $override {
            fn from(all: &$name) -> Self {
                Self { $($field: Some(all.$field.clone()),)+ }
            }
        }

        impl $name {
            /// Keys in the order of declaration.
            pub const KEYS: &[&str] = &[$(stringify!($field)),+];

            /// The keys with type, range and help.
            pub fn described() -> Vec<Key> {
                vec![$(Key::new::<$ty>($section, stringify!($field), concat!($(help!($($field_doc)*)),*))),+]
            }

            fn apply(&mut self, over: &$override) {
                $(if let Some(value) = &over.$field { self.$field = value.clone(); })+
            }
        }
    };
}

section! {
    /// The model's architecture: `[model]`.
    ModelConfig, ModelOverride, "model" {
        /// Tokens known; 256 for bytes.
        vocab: usize,
        /// Longest context, in tokens.
        ctx: usize,
        /// Transformer blocks.
        layers: usize,
        /// Attention heads; divides `d_model`.
        heads: usize,
        /// Width of the residual stream.
        d_model: usize,
        /// Width of the MLP's hidden layer.
        d_mlp: usize,
        /// Form of the GELU in the MLP.
        gelu: Gelu,
    }
}

section! {
    /// Training, and what runs it: `[train]`.
    TrainConfig, TrainOverride, "train" {
        /// Rows of ctx tokens a micro-batch.
        batch: usize,
        /// Micro-batches a step, whose gradients are averaged.
        accumulate: u64 | "one",
        /// Planned total of steps, which the schedule spans.
        steps: u64,
        /// Peak learning rate.
        lr: f64,
        /// How the learning rate goes on after the warm-up.
        schedule: ScheduleKind,
        /// Steps of linear warm-up.
        warmup: u64,
        /// Adam's beta1 and beta2.
        betas: [f64; 2],
        /// What Adam adds to the root that it divides by.
        eps: f64,
        /// Decoupled decay, on tensors of two or more dimensions.
        weight_decay: f64,
        /// Largest global gradient norm; 0 for no clipping.
        grad_clip: f64,
        /// Decides starting weights, batches and samples.
        seed: u64,
        /// Steps between validations; 0 for the end only.
        eval_every: u64,
        /// Batches of a validation.
        eval_batches: usize,
        /// Steps between checkpoints; 0 for the end only.
        save_every: u64,
        /// Bytes of the sample at each checkpoint; 0 for none.
        sample_bytes: usize,
        /// Newest checkpoints kept, beside the best by validation loss; 0 keeps all.
        keep: usize,
        /// What runs the program.
        backend: Backend,
        /// Threads of the CPU and WebAssembly backends; unset for one a core.
        threads: Option<usize>,
        /// Instruction set of the templates; unset for the best this machine has.
        isa: Option<Isa>,
        /// Leave the CPU templates off and run generated code only.
        no_templates: bool,
        /// Part of the GPU adapter's name; unset for the best there is.
        adapter: Option<String>,
        /// Compile bounds checks into GPU kernels. Optional, as every key that came later must be: stored runs lack it.
        #[serde(default)]
        checked: bool,
        /// Take GPU kernels' default variants instead of timing them.
        #[serde(default)]
        no_tune: bool,
        /// What contractions on the GPU read their operands as.
        #[serde(default)]
        precision: Precision,
    }
}

section! {
    /// Text to train on: `[data]`.
    DataConfig, DataOverride, "data" {
        /// `builtin` or a file of bytes.
        data: String,
        /// A separate validation file; unset for the last tenth of `data`.
        val_data: Option<String>,
    }
}

/// Everything a run depends on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Stored", into = "Stored")]
pub struct RunConfig {
    /// The preset this started from.
    pub preset: String,
    /// File of a forward graph that is the model ([`crate::architecture`]); in a run directory a path within it.
    pub graph: Option<String>,
    /// The GPT's architecture. Where there is a `graph` it stands for nothing: it is neither stored nor used.
    pub model: ModelConfig,
    pub train: TrainConfig,
    pub data: DataConfig,
}

/// [`RunConfig`] as files hold it: with a graph or a model, never both.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    preset: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    graph: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    model: Option<ModelConfig>,
    train: TrainConfig,
    data: DataConfig,
}

impl From<RunConfig> for Stored {
    fn from(RunConfig { preset, graph, model, train, data }: RunConfig) -> Self {
        let model = graph.is_none().then_some(model);
        Self { preset, graph, model, train, data }
    }
}

impl TryFrom<Stored> for RunConfig {
    type Error = String;

    fn try_from(Stored { preset, graph, model, train, data }: Stored) -> Result<Self, String> {
        let model = match (&graph, model) {
            (None, Some(model)) => model,
            (Some(_), None) => Self::preset(DEFAULT_PRESET).map_err(|e| e.to_string())?.model,
            (None, None) => return Err("missing field `model`, and no `graph`".to_owned()),
            (Some(_), Some(_)) => return Err("both `model` and `graph`, of which a run has one".to_owned()),
        };
        Ok(Self { preset, graph, model, train, data })
    }
}

/// How a preset of `tinygpt_models` is trained.
#[derive(Debug, Clone, Copy)]
pub struct Preset {
    pub name: &'static str,
    /// Peak learning rate.
    pub lr: f64,
    /// Steps of linear warm-up.
    pub warmup: u64,
    /// Bytes of the sample at each checkpoint: fewer where a byte takes seconds.
    pub sample_bytes: usize,
}

/// The preset used when none is named.
pub const DEFAULT_PRESET: &str = "small";

/// How each preset trains; [`tinygpt_models::PRESETS`] has the architecture, batch and steps. Learning rates fall with width, depth
/// and shrinking batch; all are cosine schedules. That of `small` was chosen by trial (PyTorch, 400 steps on plays and on the builtin
/// corpus): 3e-3, 6e-3 and 1e-2 all train, and 6e-3 is best or near it on each text. `gpt2` is for `bench` and `dump`: there is no BPE tokenizer to train it with.
#[rustfmt::skip]
pub const PRESETS: &[Preset] = &[
    Preset { name: "tiny",     lr: 6e-3, warmup: 50,  sample_bytes: 400 },
    Preset { name: "small",    lr: 6e-3, warmup: 50,  sample_bytes: 400 },
    Preset { name: "standard", lr: 6e-3, warmup: 40,  sample_bytes: 400 },
    Preset { name: "capable",  lr: 5e-3, warmup: 40,  sample_bytes: 400 },
    Preset { name: "medium",   lr: 4e-3, warmup: 50,  sample_bytes: 400 },
    Preset { name: "large",    lr: 2e-3, warmup: 60,  sample_bytes: 400 },
    Preset { name: "xl",       lr: 1.5e-3, warmup: 40,  sample_bytes: 400 },
    Preset { name: "huge",     lr: 1e-3, warmup: 100, sample_bytes: 400 },
    Preset { name: "massive",  lr: 8e-4, warmup: 100, sample_bytes: 200 },
    Preset { name: "mega",     lr: 6e-4, warmup: 80,  sample_bytes: 200 },
    Preset { name: "behemoth", lr: 3e-4, warmup: 5,   sample_bytes: 20 },
    Preset { name: "gpt2",     lr: 6e-4, warmup: 100, sample_bytes: 0 },
];

/// Planned steps of a preset that has none of its own.
const DEFAULT_STEPS: u32 = 1000;

impl ModelConfig {
    /// Number of parameters, the tied output head counted once.
    pub fn params(&self) -> u64 {
        let [v, t, l, c, m] = [self.vocab, self.ctx, self.layers, self.d_model, self.d_mlp].map(|n| n as u64);
        let attention = 4 * (c * c + c);
        let mlp = 2 * c * m + m + c;
        v * c + t * c + 2 * c + l * (4 * c + attention + mlp)
    }

    /// Checks sizes, as one sentence an error.
    pub fn validate(&self) -> Result<()> {
        let Self { vocab, ctx, layers, heads, d_model, d_mlp, .. } = *self;
        let sizes = [
            ("vocab", vocab),
            ("ctx", ctx),
            ("layers", layers),
            ("heads", heads),
            ("d_model", d_model),
            ("d_mlp", d_mlp),
        ];
        sizes.into_iter().try_for_each(|(key, value)| keys::check_whole(key, value as u64))?;
        require(self.d_model.is_multiple_of(self.heads), || {
            let near: Vec<String> = divisors_near(self.d_model, self.heads).map(|n| n.to_string()).collect();
            format!(
                "d_model must be a multiple of heads, and {} is not one of {}: choose heads {}, or another d_model",
                self.d_model,
                self.heads,
                near.join(" or ")
            )
        })
    }

    /// The keys in which it differs from `expected`, each as `d_model is 48, expected 96`.
    pub fn differences(&self, expected: &Self) -> Vec<String> {
        let [found, expected] = [self, expected].map(|config| toml::Table::try_from(config).unwrap_or_default());
        let differ = Self::KEYS.iter().filter(|key| found.get(**key) != expected.get(**key));
        differ.map(|key| format!("{key} is {}, expected {}", found[*key], expected[*key])).collect()
    }

    /// Checks that bytes can be its tokens, which training, sampling and evaluating need.
    pub fn check_bytes(&self) -> Result<()> {
        require(self.vocab == 256, || {
            format!(
                "text is read as bytes, which need vocab 256, and vocab is {}: such a model can only be benchmarked and dumped",
                self.vocab
            )
        })
    }
}

fn one() -> u64 {
    1
}

impl TrainConfig {
    /// The learning-rate schedule.
    pub fn lr_schedule(&self) -> Schedule {
        Schedule { kind: self.schedule, lr: self.lr, warmup: self.warmup, steps: self.steps }
    }

    /// Checks ranges, as one sentence an error.
    pub fn validate(&self) -> Result<()> {
        let whole = [
            ("batch", self.batch as u64),
            ("accumulate", self.accumulate),
            ("steps", self.steps),
            ("seed", self.seed),
            ("eval_batches", self.eval_batches as u64),
            ("sample_bytes", self.sample_bytes as u64),
        ];
        let threads = self.threads.map(|n| ("threads", n as u64));
        whole.into_iter().chain(threads).try_for_each(|(key, value)| keys::check_whole(key, value))?;
        require(self.accumulate <= (MAX_BATCH / self.batch) as u64, || {
            format!(
                "batch times accumulate, the rows of a step, must be at most {MAX_BATCH}, and they are {} and {}",
                self.batch, self.accumulate
            )
        })?;
        require(self.warmup <= self.steps, || {
            format!("warmup must be at most steps, and {} is more than {}", self.warmup, self.steps)
        })?;
        let real = [
            ("lr", self.lr),
            ("betas", self.betas[0]),
            ("betas", self.betas[1]),
            ("eps", self.eps),
            ("weight_decay", self.weight_decay),
            ("grad_clip", self.grad_clip),
        ];
        real.into_iter().try_for_each(|(key, value)| keys::check_real(key, value))
    }
}

impl RunConfig {
    /// The preset of this name; an error with the nearest name when there is none.
    pub fn preset(name: &str) -> Result<Self> {
        let known = || PRESETS.iter().map(|preset| preset.name);
        let found = PRESETS.iter().find(|preset| preset.name == name).zip(tinygpt_models::preset(name));
        let (preset, model) = found.ok_or_else(|| {
            let list = known().collect::<Vec<_>>().join(", ");
            Error::input(format!("there is no preset \"{name}\"{}: choose one of {list}", did_you_mean(name, known())))
        })?;
        let tinygpt_models::GptConfig { vocab, ctx, layers, heads, d_model, d_mlp, batch, gelu } = model.config;
        Ok(Self {
            preset: preset.name.to_owned(),
            graph: None,
            model: ModelConfig {
                vocab,
                ctx,
                layers,
                heads,
                d_model,
                d_mlp,
                gelu: match gelu {
                    GeluForm::Erf => Gelu::Erf,
                    GeluForm::Tanh => Gelu::Tanh,
                },
            },
            train: TrainConfig {
                batch,
                accumulate: 1,
                steps: model.steps.unwrap_or(DEFAULT_STEPS).into(),
                lr: preset.lr,
                schedule: ScheduleKind::Cosine,
                warmup: preset.warmup,
                betas: [0.9, 0.95],
                eps: 1e-8,
                weight_decay: 0.1,
                grad_clip: 1.0,
                seed: 42,
                eval_every: 100,
                eval_batches: 8,
                save_every: 500,
                sample_bytes: preset.sample_bytes,
                keep: 2,
                backend: Backend::Cpu,
                threads: None,
                isa: None,
                no_templates: false,
                adapter: None,
                checked: false,
                no_tune: false,
                precision: Precision::F32,
            },
            data: DataConfig { data: BUILTIN.to_owned(), val_data: None },
        })
    }

    /// Checks every section, and that the tensors of a step have sizes that programs can index.
    pub fn validate(&self) -> Result<()> {
        self.train.validate()?;
        if self.graph.is_some() {
            return Ok(());
        }
        self.model.validate()?;
        let ModelConfig { vocab, ctx, d_model, d_mlp, .. } = self.model;
        let rows = [("batch", self.train.batch), ("ctx", ctx)];
        let (width, widest) = [("vocab", vocab), ("d_model", d_model), ("d_mlp", d_mlp)]
            .into_iter()
            .max_by_key(|w| w.1)
            .expect("three widths");
        let tensors = [
            vec![rows[0], rows[1], (width, widest)],
            vec![("vocab", vocab), ("d_model", d_model)],
            vec![("ctx", ctx), ("d_model", d_model)],
            vec![("d_model", d_model), (width, widest)],
        ];
        for factors in tensors {
            let elements: u128 = factors.iter().map(|(_, n)| *n as u128).product();
            require(elements <= MAX_ELEMENTS as u128, || {
                let spelled: Vec<String> = factors.iter().map(|(key, n)| format!("{key} {n}")).collect();
                format!(
                    "a tensor of {} has {elements} elements, and {MAX_ELEMENTS} is the most: choose smaller ones",
                    spelled.join(" times ")
                )
            })?;
        }
        Ok(())
    }

    /// What names the run's directory.
    pub fn label(&self) -> &str {
        if self.graph.is_some() { "graph" } else { &self.preset }
    }

    /// The configuration as a TOML file that [`RunOverride::read`] takes.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).map_err(|e| Error::failed(format!("cannot print the configuration: {}", one_line(e))))
    }
}

/// The nearest numbers that divide `n`, below and above `near`.
fn divisors_near(n: usize, near: usize) -> impl Iterator<Item = usize> {
    let below = (1..=near.saturating_sub(1).min(n)).rev().find(|d| n.is_multiple_of(*d));
    let above = (near.saturating_add(1)..=n).find(|d| n.is_multiple_of(*d));
    below.into_iter().chain(above)
}

fn require(holds: bool, otherwise: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::Input(otherwise())) }
}

#[cfg(test)]
mod tests;
