//! The GPU backend: programs as WGSL on whatever adapter wgpu finds (Vulkan, Metal, DirectX 12).
//!
//! - [`device`]: adapters, the open device, its errors
//! - [`executor`]: buffers, launches, steps in flight
//! - [`build`]: from a program to launches, by way of [`pipelines`] and bind groups ([`binder`])
//! - [`kept`]: compiled pipelines on disk
//! - [`contest`]: which variant of a kernel is the fastest, by [`rounds`] of timed passes ([`stamps`])
//! - [`cooperate`]: whether an adapter's cooperative matrices multiply as they should
//! - [`ring`]: small results that come back without stalling the device
//! - [`search`]: faster ways than the contests of a first run have found
//! - [`tune`]: which variant of a kernel runs, and how that is kept and replayed
//!
//! Invariants
//! - All buffers, pipelines and bind groups are made when a program is prepared; a step makes none and submits once.
//! - A step is one command encoder with one compute pass: the kernels in the program's order, each seeing what those before it wrote.

mod binder;
mod build;
mod clock;
mod contest;
pub mod cooperate;
pub mod device;
pub mod executor;
mod kept;
mod pipelines;
mod ring;
mod rounds;
pub mod search;
mod stamps;
pub mod tune;

pub use cooperate::Cooperation;
pub use device::{AdapterReport, Gpu, GpuOptions, adapters};
pub use executor::{GpuCounters, GpuExecutor};
pub use tune::Tuner;

/// The loss scale of a step follows from outcomes that are known by then.
const _: () = assert!(ring::DEPTH <= crate::loss_scale::LAG);
