//! Programs to WGSL: the text of every kernel of a [`Program`](tinygpt_ir::program::Program), validated by naga.
//!
//! The road of one kernel:
//! - [`bind`](mod@bind): which allocations it binds, and where its arguments lie in them; a kernel over too much memory becomes
//!   several [`Piece`]s
//! - [`variants`]: the ways to run a piece (tile sizes, vector widths, splits), the default first
//! - [`emit`]: the text of one variant, its dispatches, and what they need ([`Module`])
//! - [`bundles`]: pieces of one stage that run as one module
//! - [`neighbours`]: further ways near one of a bundle's, for a search
//! - [`validate`](mod@validate): naga's verdict, and SPIR-V, MSL and HLSL
//!
//! Invariants
//! - No GPU API and no `unsafe`: the crate builds for wasm32, and its output runs wherever WGSL does.
//! - The text of a module depends on its structure only (shapes, bodies, offsets), not on names: identical layers give equal
//!   [`Module::hash`], so that they share a pipeline. Names are in the header comment.
//! - Results do not depend on scheduling: no float atomics, every sum has a fixed tree.
//! - Every access lies in its binding, given the verifier's invariants on the program: bounds checks may be switched off.
//! - Barriers are in uniform control flow by the rules of naga and of Tint.

#![forbid(unsafe_code)]

mod attention;
mod attention_grad;
mod attention_grid;
mod attention_matrices;
pub mod bind;
mod bundle;
mod caps;
mod choose;
mod contract;
mod cooperate;
mod cx;
mod error;
mod eval;
mod fold;
mod link;
mod math;
mod module;
mod neighbours;
mod pointwise;
mod reduce;
mod scatter;
mod space;
mod text;
mod tile;
mod update;
pub mod validate;
mod variant;

pub use bind::{Binding, Bindings, Piece, Unit, pieces};
pub use bundle::{Bundle, bundles, stage_bundles};
pub use caps::Caps;
pub use choose::variants;
pub use error::Error;
pub use link::link;
pub use module::{Dialect, Dispatch, Module, emit};
pub use neighbours::neighbours;
pub use validate::validate;
pub use variant::{AttentionTiling, Choice, ScatterOrder, Variant};
