//! The graph: typed tensor SSA in arenas.
//!
//! Invariants (the verifier's module comment is the full list)
//! - A node's inputs have smaller ids than the node: id order is a topological order.
//! - Nodes are never removed in place; passes build a new graph.
//! - A graph reads its parameters (inputs and states) as they were before the step. `updates` name the value that each
//!   state has after the step; a state without an update keeps its value.
//! - Source locations and file names never take part in equality, printing or hashing of graphs: two builds of one model
//!   from different lines are equal. Scope paths do.

use std::fmt;

use crate::entity;
use crate::op::Op;
use crate::types::{Arena, TensorType};

entity! {
    /// A value of the graph and the operation that makes it.
    NodeId, "%"
}
entity! {
    /// An input or state of the graph.
    ParamId, "p"
}
entity! {
    /// An interned scope path such as `blocks.3.attn.q_proj`.
    ScopeId, "scope"
}

/// The source line that made a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Loc {
    pub file: &'static str,
    pub line: u32,
    pub column: u32,
}

impl Loc {
    /// The caller of the `#[track_caller]` function that calls this.
    #[track_caller]
    pub fn caller() -> Loc {
        let l = std::panic::Location::caller();
        Loc { file: l.file(), line: l.line(), column: l.column() }
    }
}

impl fmt::Display for Loc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

#[derive(Clone, Debug)]
pub struct Node {
    pub op: Op,
    pub inputs: Vec<NodeId>,
    pub ty: TensorType,
    pub scope: ScopeId,
    pub loc: Option<Loc>,
}

impl PartialEq for Node {
    fn eq(&self, o: &Self) -> bool {
        (&self.op, &self.inputs, &self.ty, self.scope) == (&o.op, &o.inputs, &o.ty, o.scope)
    }
}

/// Starting value of a state.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
pub enum Init {
    Zeros,
    Ones,
    /// Normal with mean 0 and this standard deviation, from the run's seed and the state's name.
    Normal(f64),
}

#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
pub enum ParamKind {
    /// Given afresh at every step.
    Input,
    /// Kept between steps; may be updated by the step.
    State { init: Init, role: StateRole },
}

/// What a state is to the optimizer and to checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
pub enum StateRole {
    /// A trained weight.
    Weight,
    /// Optimizer state, made by the optimizer pass.
    Optimizer,
    /// Anything else that lives between steps (a key/value cache, a step counter).
    Other,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Param {
    pub name: String,
    pub kind: ParamKind,
    pub ty: TensorType,
}

impl Param {
    pub fn is_weight(&self) -> bool {
        matches!(self.kind, ParamKind::State { role: StateRole::Weight, .. })
    }
    pub fn is_state(&self) -> bool {
        matches!(self.kind, ParamKind::State { .. })
    }
}

/// One step's mathematics. Equality ignores source locations.
#[derive(Clone, Debug, PartialEq)]
pub struct Graph {
    pub name: String,
    pub params: Arena<ParamId, Param>,
    pub nodes: Arena<NodeId, Node>,
    /// Scope paths; the first is the empty path.
    pub scopes: Arena<ScopeId, String>,
    /// Named results, in order.
    pub outputs: Vec<(String, NodeId)>,
    /// New values of states, in order of `ParamId`, each at most once.
    pub updates: Vec<(ParamId, NodeId)>,
}

impl Graph {
    pub fn new(name: impl Into<String>) -> Graph {
        let mut scopes = Arena::default();
        scopes.push(String::new());
        Graph {
            name: name.into(),
            params: Arena::default(),
            nodes: Arena::default(),
            scopes,
            outputs: Vec::new(),
            updates: Vec::new(),
        }
    }

    /// The id of `path`, interning it if it is new.
    pub fn intern_scope(&mut self, path: &str) -> ScopeId {
        if let Some((id, _)) = self.scopes.iter().rev().find(|(_, s)| s.as_str() == path) {
            return id;
        }
        self.scopes.push(path.to_string())
    }

    pub fn scope(&self, node: NodeId) -> &str {
        &self.scopes[self.nodes[node].scope]
    }

    pub fn param_named(&self, name: &str) -> Option<ParamId> {
        self.params.iter().find(|(_, p)| p.name == name).map(|(id, _)| id)
    }

    pub fn output_named(&self, name: &str) -> Option<NodeId> {
        self.outputs.iter().find(|(n, _)| n == name).map(|(_, id)| *id)
    }

    /// Values the outside sees: outputs, then updates.
    pub fn roots(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.outputs.iter().map(|(_, n)| *n).chain(self.updates.iter().map(|(_, n)| *n))
    }

    /// For each node, the nodes that use it (once an operand slot), in id order.
    pub fn users(&self) -> Vec<Vec<NodeId>> {
        let mut users = vec![Vec::new(); self.nodes.len()];
        for (id, node) in self.nodes.iter() {
            for input in &node.inputs {
                users[input.index()].push(id);
            }
        }
        users
    }

    /// Nodes that some output or update depends on.
    pub fn live(&self) -> Vec<bool> {
        let mut live = vec![false; self.nodes.len()];
        for root in self.roots() {
            live[root.index()] = true;
        }
        for id in self.nodes.ids().rev() {
            if live[id.index()] {
                for input in &self.nodes[id].inputs {
                    live[input.index()] = true;
                }
            }
        }
        live
    }

    /// Total elements of the trained weights.
    pub fn weight_count(&self) -> usize {
        self.params.values().filter(|p| p.is_weight()).map(|p| p.ty.numel()).sum()
    }
}
