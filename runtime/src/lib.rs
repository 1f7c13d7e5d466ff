//! What surrounds a compiled program: executors, data, configuration, checkpoints, sampling and the command line.
//!
//! Invariants of the whole crate:
//! - **No hidden state.** Initialisation, batch order, schedule and sampling are pure functions of
//!   (seed, step or index), so a checkpoint needs no generator state and a resumed run is bit-identical.
//! - **No platform arithmetic.** Everything that feeds training goes through `libm` in f64, never through the
//!   system's mathematics library, so Linux, macOS, Windows and WebAssembly agree to the last bit.
//! - **Two builds.** On wasm32, where the compiler runs in a page, there are no threads, no native code, no GPU API, no clock and no
//!   files: executors but the interpreter, run directories and the command line are left out, and everything else is the same code.
//! - **User input never panics.** Every failure is an [`Error`] that says in one sentence what was found, what was
//!   expected and what to do, and carries its exit status.

pub mod architecture;
#[cfg(not(target_arch = "wasm32"))]
pub mod bug;
pub mod checkpoint;
#[cfg(not(target_arch = "wasm32"))]
pub mod cli;
#[cfg(not(target_arch = "wasm32"))]
pub mod commands;
pub mod compile;
pub mod config;
pub mod corpus;
#[cfg(not(target_arch = "wasm32"))]
pub mod cpu;
pub mod data;
pub mod error;
pub mod evaluate;
pub mod executor;
pub mod fixture;
pub mod formats;
pub mod generate;
#[cfg(not(target_arch = "wasm32"))]
pub mod gpu;
pub mod interp;
pub mod loss_scale;
pub mod memory;
pub mod model;
pub mod parity;
#[cfg(not(target_arch = "wasm32"))]
pub mod peak;
#[cfg(not(target_arch = "wasm32"))]
pub mod profile;
#[cfg(not(target_arch = "wasm32"))]
pub mod provenance;
pub mod rng;
#[cfg(not(target_arch = "wasm32"))]
pub mod rundir;
pub mod sampling;
pub mod schedule;
pub mod seeded;
pub mod tensor;
pub mod tensor_file;
#[cfg(not(target_arch = "wasm32"))]
pub mod trainer;
pub mod ui;
pub mod viz;
pub mod wasm;
#[cfg(not(target_arch = "wasm32"))]
pub mod workers;

pub use error::{Error, Result};
