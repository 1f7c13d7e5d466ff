//! Printing graphs.

use std::fmt::{self, Write};

use super::lexer::quoted;
use super::ops::{Attr, attributes};
use super::{MAGIC, VERSION};
use crate::graph::{Graph, Init, ParamKind, StateRole};
use crate::op::{Op, Real};
use crate::types::Entity;
use crate::{NodeId, ScopeId, TensorType};

/// The text of `graph`: see the module comment of [`text`](super).
pub fn print(graph: &Graph) -> String {
    graph.to_string()
}

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{MAGIC} {VERSION}")?;
        writeln!(f, "graph {}", quoted(&self.name))?;
        if !self.params.is_empty() {
            writeln!(f)?;
        }
        for p in self.params.values() {
            declaration(f, &p.name, p.kind, &p.ty)?;
            writeln!(f)?;
        }
        nodes(f, self)?;
        if self.roots().next().is_some() {
            writeln!(f)?;
        }
        for (name, id) in &self.outputs {
            writeln!(f, "output {} = {id}", quoted(name))?;
        }
        for (p, id) in &self.updates {
            writeln!(f, "update @{} = {id}", quoted(&self.params[*p].name))?;
        }
        Ok(())
    }
}

pub(super) fn role_name(role: StateRole) -> &'static str {
    match role {
        StateRole::Weight => "weight",
        StateRole::Optimizer => "optimizer",
        StateRole::Other => "other",
    }
}

/// `input @x : f32[2]` or `state @w : f32[2] {role=weight, init=zeros}`
pub(crate) fn declaration(f: &mut fmt::Formatter<'_>, name: &str, kind: ParamKind, ty: &TensorType) -> fmt::Result {
    let name = quoted(name);
    match kind {
        ParamKind::Input => write!(f, "input @{name} : {ty}"),
        ParamKind::State { init, role } => {
            write!(f, "state @{name} : {ty} {{role={}, init=", role_name(role))?;
            match init {
                Init::Zeros => f.write_str("zeros}"),
                Init::Ones => f.write_str("ones}"),
                Init::Normal(std) => write!(f, "normal, std={}}}", Real(std)),
            }
        }
    }
}

fn nodes(f: &mut fmt::Formatter<'_>, g: &Graph) -> fmt::Result {
    if !g.nodes.is_empty() || g.scopes.len() > 1 {
        writeln!(f)?;
    }
    let root = ScopeId(0);
    let mut open = root;
    // Scopes below this have been named, in the order of their ids.
    let mut named = 1;
    for (id, n) in g.nodes.iter() {
        if n.scope != open {
            if open != root {
                writeln!(f, "}}")?;
            }
            open = n.scope;
            while named < open.index() {
                writeln!(f, "scope {} {{}}", quoted(&g.scopes[ScopeId::of_usize(named)]))?;
                named += 1;
            }
            if open != root {
                named = named.max(open.index() + 1);
                writeln!(f, "scope {} {{", quoted(&g.scopes[open]))?;
            }
        }
        if open != root {
            f.write_str("  ")?;
        }
        node(f, g, id)?;
    }
    if open != root {
        writeln!(f, "}}")?;
    }
    for i in named..g.scopes.len() {
        writeln!(f, "scope {} {{}}", quoted(&g.scopes[ScopeId::of_usize(i)]))?;
    }
    Ok(())
}

fn node(f: &mut fmt::Formatter<'_>, g: &Graph, id: NodeId) -> fmt::Result {
    let n = &g.nodes[id];
    write!(f, "{id} = {}", n.op.name())?;
    if let Op::Param(p) = n.op {
        match g.params.get(p) {
            Some(param) => write!(f, " @{}", quoted(&param.name))?,
            // Only in graphs that the verifier refuses; still printable, to be looked at.
            None => write!(f, " @{p}")?,
        }
    }
    for (i, input) in n.inputs.iter().enumerate() {
        write!(f, "{} {input}", if i > 0 { "," } else { "" })?;
    }
    for (i, (key, value)) in attributes(&n.op).iter().enumerate() {
        write!(f, "{}{key}=", if i > 0 { ", " } else { " {" })?;
        match value {
            Attr::Index(i) => write!(f, "{i}")?,
            Attr::Indices(list) => {
                f.write_char('[')?;
                for (i, x) in list.iter().enumerate() {
                    write!(f, "{}{x}", if i > 0 { "," } else { "" })?;
                }
                f.write_char(']')?;
            }
            Attr::Real(x) => write!(f, "{x}")?,
            Attr::Literal(x) => write!(f, "{x}")?,
            Attr::Word(w) => f.write_str(w)?,
            Attr::Flag(b) => write!(f, "{b}")?,
            Attr::Labels(labels) => write!(f, "\"{labels}\"")?,
        }
    }
    let close = if attributes(&n.op).is_empty() { "" } else { "}" };
    writeln!(f, "{close} : {}", n.ty)
}
