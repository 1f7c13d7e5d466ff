//! WebAssembly: a model as one module, run by Node here or exported for any JavaScript engine.
//!
//! - [`bundle`]: the module of a configuration in its variants, with the manifest that describes it; also made in a page
//! - [`export`]: a bundle as a folder, with state and runner
//! - [`executor`]: the backend `wasm`: a program run by Node
//! - [`node`]: the Node process and the conversation with it
//! - [`runner`]: the JavaScript that both use
//!
//! `tinygpt_codegen_cpu::wasm` makes the modules; docs/WASM.md specifies what they import and export.

pub mod bundle;
#[cfg(not(target_arch = "wasm32"))]
pub mod executor;
#[cfg(not(target_arch = "wasm32"))]
pub mod export;
#[cfg(not(target_arch = "wasm32"))]
pub mod node;
pub mod runner;
