//! DSL lines in texts: comments that say which line of the model made a node or a kernel.
//!
//! Invariant: without the comment lines the text is that of the graph or program, which knows no lines, and both parse alike.

use crate::provenance::lines as of;
use std::fmt::Write;
use tinygpt_ir::program::{Kernel, Program, Provenance};
use tinygpt_ir::{Graph, Loc, NodeId, Op};

/// `models/gpt.rs:92`
fn line(loc: &Loc) -> String {
    format!("{}:{}", loc.file, loc.line)
}

/// One comment line with a kernel's DSL lines, after `mark`; nothing where there is none.
pub(super) fn comment(mark: &str, provenance: &Provenance) -> String {
    match of(provenance) {
        lines if lines.is_empty() => String::new(),
        lines => format!("{mark}{}\n", lines.join(" ")),
    }
}

/// A kernel, after its DSL lines.
pub(super) fn kernel(kernel: &Kernel, lines: bool) -> String {
    let comment = if lines { comment("; ", &kernel.provenance) } else { String::new() };
    format!("{comment}{kernel}")
}

/// The text of a program, each kernel after its DSL lines.
pub(super) fn program(program: &Program, lines: bool) -> String {
    let text = program.to_string();
    if !lines {
        return text;
    }
    let mut kernels = program.kernels.values();
    let mut out = String::with_capacity(text.len() * 5 / 4);
    for row in text.lines() {
        if row.starts_with("kernel ")
            && let Some(kernel) = kernels.next()
        {
            out += &comment("; ", &kernel.provenance);
        }
        let _ = writeln!(out, "{row}");
    }
    out
}

/// The text of a graph, with a comment before the first of neighbouring nodes that one line made. Parameters have none: their names are
/// in the model.
pub(super) fn graph(graph: &Graph, lines: bool) -> String {
    let text = graph.to_string();
    if !lines {
        return text;
    }
    let mut out = String::with_capacity(text.len() * 3 / 2);
    let mut last: Option<String> = None;
    for row in text.lines() {
        let defined = row.trim_start();
        if let Some(node) = node(defined).filter(|n| !matches!(graph.nodes[*n].op, Op::Param(_))) {
            let made_by = graph.nodes[node].loc.as_ref().map(line);
            if made_by != last {
                let indent = &row[..row.len() - defined.len()];
                let _ = made_by.as_ref().map(|line| writeln!(out, "{indent}; {line}"));
                last = made_by;
            }
        } else {
            last = None;
        }
        let _ = writeln!(out, "{row}");
    }
    out
}

/// The node that a line of a graph's text defines.
fn node(row: &str) -> Option<NodeId> {
    let (id, _) = row.strip_prefix('%')?.split_once(" = ")?;
    id.parse().ok().map(NodeId)
}

#[cfg(test)]
mod tests {
    use tinygpt_ir::{Builder, Init};

    #[test]
    fn lines_stand_before_the_nodes_they_made_and_parse_away() {
        let b = Builder::new("g");
        let w = b.weight("w", [2], Init::Ones);
        let (x, here) = (w.exp() + w, std::line!());
        b.output("x", x.tanh());
        let graph = b.finish().unwrap();
        let text = super::graph(&graph, true);
        let comments: Vec<&str> = text.lines().filter(|l| l.starts_with("; ")).collect();
        assert_eq!(comments, [format!("; {}:{here}", file!()), format!("; {}:{}", file!(), here + 1)]);
        assert_eq!(tinygpt_ir::text::parse(&text).unwrap(), graph);
        assert_eq!(super::graph(&graph, false), graph.to_string());
    }
}
