//! Errors of building and reading graphs.

use std::fmt;

use crate::graph::{Loc, NodeId};
use crate::types::TensorType;

/// One operand of a failed operation, as the user wrote it.
#[derive(Clone, Debug, PartialEq)]
pub struct Operand {
    pub node: NodeId,
    pub op: String,
    pub ty: TensorType,
    pub scope: String,
    pub loc: Option<Loc>,
}

/// An operation that the type rules refuse, with the lines involved.
#[derive(Clone, Debug, PartialEq)]
pub struct GraphError {
    /// Name of the refused operation.
    pub op: String,
    /// One sentence: what was found, what was expected.
    pub message: String,
    pub scope: String,
    /// The DSL line of the refused operation.
    pub loc: Option<Loc>,
    pub operands: Vec<Operand>,
}

impl std::error::Error for GraphError {}

impl fmt::Display for GraphError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
