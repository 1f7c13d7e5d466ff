//! tinygpt: a compiler for small language models. This package gathers the workspace's crates under one name.
//!
//! A model is declared once as a computation graph, passes derive the training step from it and fuse it, and backends run it:
//!
//! ```
//! use tinygpt::ir::program::TargetModel;
//! use tinygpt::passes::optimizer::AdamWConfig;
//! use tinygpt::runtime::compile::{Goal, compile};
//!
//! let forward = tinygpt::models::gpt(&tinygpt::models::preset("tiny").unwrap().config).unwrap();
//! let goal = Goal::Train { adamw: AdamWConfig::default(), gradients: false };
//! let compiled = compile(forward, &goal, &TargetModel::cpu()).unwrap();
//! assert!(compiled.program.kernels.len() < compiled.step.nodes.len());
//! ```

pub mod testing;

pub use tinygpt_codegen_cpu as codegen_cpu;
pub use tinygpt_codegen_wgsl as codegen_wgsl;
pub use tinygpt_ir as ir;
pub use tinygpt_models as models;
pub use tinygpt_passes as passes;
pub use tinygpt_runtime as runtime;
