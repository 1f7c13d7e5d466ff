//! Models written in the DSL. A model is a function from its configuration to a forward [`Graph`](tinygpt_ir::Graph); no
//! model knows a pass or a backend.
//!
//! Every language model here has inputs `ids` and `targets` (both i32 `[B,T]`) and outputs `logits` (f32 `[B,T,V]`) and
//! `loss` (f32 scalar: mean cross-entropy in nats), so that the trainer, the sampler and the tests serve them all.

pub mod gpt;
pub mod look;
pub mod recurrent;

pub use gpt::{GptConfig, PRESETS, Preset, gpt, gpt_decode, preset};
pub use look::gpt_look;
pub use recurrent::{RecurrentConfig, recurrent};
