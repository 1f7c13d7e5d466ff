//! `dump --diff A B`: what happened between two stages, as a unified diff.
//!
//! Passes number values afresh, so equal nodes of two graphs have different ids. Before comparing, the nodes of the later graph take the
//! names of their counterparts in the earlier one; nodes without one are `%new0`, `%new1`, ...

use super::{Model, lines, stages, target_of};
use crate::cli::{Stage, Target};
use crate::{Error, Result};
use clap::ValueEnum;
use regex_lite::{Captures, Regex};
use similar::TextDiff;
use std::collections::{HashMap, VecDeque};
use tinygpt_ir::{Graph, NodeId, Op};

/// Lines of context around a change.
const CONTEXT: usize = 3;

/// Either side of a diff.
enum Side {
    Graph(Box<Graph>),
    Text(String),
}

/// The unified diff between the states `a` and `b`: names of stages or of passes.
pub(super) fn diff(model: &Model, a: &str, b: &str, asked: Option<Target>) -> Result<String> {
    let (left, right) = (side(model, a, asked)?, side(model, b, asked)?);
    let (old, new) = match (&left, &right) {
        (Side::Graph(old), Side::Graph(new)) => (old.to_string(), renamed(old, new)?),
        (old, new) => (text(old), text(new)),
    };
    Ok(TextDiff::from_lines(&old, &new).unified_diff().context_radius(CONTEXT).header(a, b).to_string())
}

fn text(side: &Side) -> String {
    match side {
        Side::Graph(graph) => graph.to_string(),
        Side::Text(text) => text.clone(),
    }
}

/// Stages come before passes of the same name, of which there are `graph` and `grad`: the same graphs.
fn side(model: &Model, name: &str, asked: Option<Target>) -> Result<Side> {
    match Stage::from_str(name, false) {
        Ok(stage) if !matches!(stage, Stage::Graph | Stage::Grad) => {
            let files = model.files(stage, target_of(stage, asked)?)?;
            Ok(Side::Text(files.iter().map(|file| file.text()).collect()))
        }
        _ => {
            let stages = model.stages(asked.unwrap_or(Target::Cpu))?;
            if let Some((_, graph)) = stages.graphs()?.into_iter().find(|(pass, _)| pass == name) {
                return Ok(Side::Graph(Box::new(graph)));
            }
            let known = Stage::value_variants().iter().map(|stage| stages::name(*stage)).collect::<Vec<_>>().join(", ");
            let (_, text) =
                stages.after(name, false).map_err(|e| Error::input(format!("{e}; or the stages {known}")))?;
            Ok(Side::Text(text))
        }
    }
}

/// The text of `new` with its values named as their counterparts in `old`.
fn renamed(old: &Graph, new: &Graph) -> Result<String> {
    let names = counterparts(old, new);
    let value = Regex::new(r"%(\d+)").map_err(|e| Error::failed(e.to_string()))?;
    let rename = |found: &Captures<'_>| match found[1].parse::<usize>().ok().and_then(|id| names.get(id)) {
        Some(name) => format!("%{name}"),
        None => found[0].to_string(),
    };
    Ok(value.replace_all(&lines::graph(new, false), rename).into_owned())
}

/// A name for each node of `new`. A node has the name of the first unused node of `old` that is the same operation on operands of the same
/// names in the same scope; else of one that the same line made with the same operation and type.
fn counterparts(old: &Graph, new: &Graph) -> Vec<String> {
    let same = |g: &Graph, id: NodeId, operands: Vec<String>| {
        let op = match &g.nodes[id].op {
            Op::Param(p) => format!("param {}", g.params[*p].name),
            op => format!("{op:?}"),
        };
        (op, operands, g.scope(id).to_string())
    };
    let alike = |g: &Graph, id: NodeId| {
        let n = &g.nodes[id];
        (n.op.name(), n.loc.map(|l| (l.file, l.line, l.column)), n.ty.to_string(), g.scope(id).to_string())
    };
    let mut exact: HashMap<_, VecDeque<NodeId>> = HashMap::new();
    let mut near: HashMap<_, VecDeque<NodeId>> = HashMap::new();
    for (id, n) in old.nodes.iter() {
        let operands = n.inputs.iter().map(|i| i.0.to_string()).collect();
        exact.entry(same(old, id, operands)).or_default().push_back(id);
        near.entry(alike(old, id)).or_default().push_back(id);
    }
    let mut used = vec![false; old.nodes.len()];
    let mut take = |queue: Option<&mut VecDeque<NodeId>>| -> Option<NodeId> {
        let queue = queue?;
        while let Some(id) = queue.pop_front() {
            if !std::mem::replace(&mut used[id.0 as usize], true) {
                return Some(id);
            }
        }
        None
    };
    let (mut names, mut fresh): (Vec<String>, usize) = (Vec::new(), 0);
    for (id, n) in new.nodes.iter() {
        let operands = n.inputs.iter().map(|i| names[i.0 as usize].clone()).collect();
        let found = take(exact.get_mut(&same(new, id, operands))).or_else(|| take(near.get_mut(&alike(new, id))));
        names.push(match found {
            Some(id) => id.0.to_string(),
            None => {
                fresh += 1;
                format!("new{}", fresh - 1)
            }
        });
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use tinygpt_ir::{Builder, Init};

    /// x, maybe an unread node, and exp(x) + x.
    fn graph(dead: bool) -> Graph {
        let b = Builder::new("g");
        let x = b.weight("x", [2], Init::Ones);
        if dead {
            x.tanh();
        }
        let y = x.exp();
        b.output("y", y + x);
        b.finish().unwrap()
    }

    #[test]
    fn nodes_keep_their_names_when_others_go_or_come() {
        assert_eq!(counterparts(&graph(true), &graph(false)), ["0", "2", "3"]);
        assert_eq!(counterparts(&graph(false), &graph(true)), ["0", "new0", "1", "2"]);
        let text = renamed(&graph(true), &graph(false)).unwrap();
        assert!(text.contains("%3 = add %2, %0"), "{text}");
    }
}
