//! The intermediate representations of tinygpt: the tensor [`Graph`] (what is computed) and the
//! [`Program`](program::Program) (how, where and in which bytes), with their text forms, verifiers and interpreters.
//!
//! This crate knows no pass and no backend, needs no native code and does no I/O, except to quote source lines in errors.

pub mod clock;
pub mod composite;
pub mod dot;
pub mod dsl;
pub mod error;
pub mod eval;
pub mod graph;
pub mod infer;
pub mod interp;
pub mod op;
pub mod program;
pub mod random;
pub mod spec;
pub mod tensor;
pub mod text;
pub mod types;
pub mod verify;

pub use dsl::{Builder, T};
pub use graph::{Graph, Init, Loc, Node, NodeId, Param, ParamId, ParamKind, ScopeId, StateRole};
pub use op::{Composite, Op};
pub use tensor::Tensor;
pub use types::{Arena, DType, Entity, Literal, Shape, TensorType, numel, row_major};
