//! The passes: graph to graph (expansion, differentiation, the optimizer, simplification) and graph to program.

pub mod autodiff;
pub mod compile;
pub mod expand;
pub mod fuse;
pub mod memory;
pub mod opt;
pub mod optimizer;
pub mod pass;
pub mod precision;
mod rebuild;
pub mod schedule;
pub mod simplify;
pub mod split_reduce;

use tinygpt_ir::error::GraphError;

/// An error of a pass that concerns no particular operands.
pub(crate) fn error(pass: &str, message: String) -> Box<GraphError> {
    Box::new(GraphError { op: pass.to_string(), message, scope: String::new(), loc: None, operands: Vec::new() })
}
