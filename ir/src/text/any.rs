//! A graph or a program: what one file of IR text holds.

use std::fmt;

use super::ParseError;
use crate::graph::Graph;
use crate::program::{self, Program};

/// The IR at some stage of the compiler.
#[derive(Clone, Debug, PartialEq)]
pub enum Ir {
    Graph(Graph),
    Program(Program),
}

/// Reads the text of a graph or of a program, as its first word says. A text with another first word is judged as a graph.
pub fn parse_any(text: &str) -> Result<Ir, ParseError> {
    let mut lines = text.lines().map(|line| line.split_once(';').map_or(line, |(code, _)| code).trim());
    let first = lines.find(|line| !line.is_empty()).unwrap_or("");
    match first.split_whitespace().next() {
        Some(program::print::MAGIC) => program::parse(text).map(Ir::Program),
        _ => super::parse(text).map(Ir::Graph),
    }
}

impl Ir {
    /// `graph` or `program`.
    pub fn kind(&self) -> &'static str {
        match self {
            Ir::Graph(_) => "graph",
            Ir::Program(_) => "program",
        }
    }
}

impl fmt::Display for Ir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ir::Graph(g) => g.fmt(f),
            Ir::Program(p) => p.fmt(f),
        }
    }
}
