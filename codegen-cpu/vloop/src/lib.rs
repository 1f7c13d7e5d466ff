//! The vector loop IR: structured loops over scalars and 128-bit vectors, one function a kernel.
//!
//! Kernels of a Program are lowered to it, and native code (Cranelift) and WebAssembly are emitted from it. It
//! knows no target: what an emitter may choose (fused multiply-add, pointer width) is stated in [`types`].
//!
//! - [`types`]: functions, operations, statements, and what the operations mean
//! - [`builder`]: how to make one
//! - [`verify`](mod@verify): what is well formed
//! - [`independent`]: loops of which an emitter may run many trips at once
//! - [`print`]: the text form
//! - [`interp`]: the meaning, and the oracle of the emitters
//! - [`math`]: the transcendental functions as straight-line arithmetic; `lanes` emits them
//!
//! Invariant: no native dependency and no `unsafe`; the crate builds for wasm32.

#![forbid(unsafe_code)]

pub mod builder;
pub mod independent;
pub mod interp;
mod lanes;
pub mod math;
pub mod print;
pub mod types;
pub mod verify;

pub use builder::Builder;
pub use types::*;
pub use verify::verify;
