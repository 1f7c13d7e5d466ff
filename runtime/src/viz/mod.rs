//! One offline page that shows a model from its lines to its code: lines, graph nodes after each pass, kernels and the code of each, linked both
//! ways. The command `viz` writes it, and the compiler in a page answers with it; either brings the kinds of code that it has.
//!
//! The page is `page.html` with `page.css`, `page.js` and the data below as JSON. Links are by line (every node of every graph knows its own), and
//! between the last graph and the kernels by node.
//!
//! Invariants: the page asks nothing of a network; equal texts are stored once; the data cannot end its script element (`<` is escaped).

use crate::compile::Compiled;
use crate::error::one_line;
use crate::{Error, Result};
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};
use tinygpt_ir::program::{Kernel, KernelId, Program};
use tinygpt_ir::{Graph, Loc, NodeId, Op};

/// Sources that the binary carries.
const SOURCES: [(&str, &str); 2] = [
    ("models/gpt.rs", include_str!("../../../models/gpt.rs")),
    ("passes/src/optimizer.rs", include_str!("../../../passes/src/optimizer.rs")),
];

/// What a page shows.
pub struct Page<'a> {
    pub title: &'a str,
    /// At least one; the graphs are those of the first.
    pub targets: Vec<Target<'a>>,
    /// The text of a source file that a location names, where it is at hand and the binary does not carry it.
    pub source: &'a dyn Fn(&str) -> Option<String>,
}

/// A program and its code.
pub struct Target<'a> {
    /// For people: `CPU`.
    pub name: &'static str,
    pub compiled: &'a Compiled,
    /// Kinds of code, by name: texts of kernels, in order.
    pub tabs: Vec<(&'static str, Vec<(KernelId, String)>)>,
    pub times: Option<Times>,
}

/// What kernels took.
pub struct Times {
    /// What was measured, as a phrase: `a profile of 3.141 ms on an EPYC`.
    pub about: String,
    /// Milliseconds, and share of the step, by kernel.
    pub kernels: Vec<(String, f64, f64)>,
}

#[derive(Serialize)]
struct Data {
    about: String,
    files: Vec<File>,
    /// File and line, by loc.
    locs: Vec<(usize, u32)>,
    stages: Vec<StageData>,
    targets: Vec<TargetData>,
    tabs: Vec<Tab>,
    texts: Vec<String>,
}

#[derive(Serialize)]
struct File {
    name: String,
    /// None where the file is not at hand.
    lines: Option<Vec<String>>,
}

#[derive(Serialize)]
struct StageData {
    name: String,
    kind: &'static str,
    /// Of a program.
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<usize>,
    blocks: Vec<Block>,
}

/// Lines of one scope, or of one kernel.
#[derive(Serialize)]
struct Block {
    scope: String,
    /// Text, node and loc; -1 for none.
    rows: Vec<(String, i64, i64)>,
}

#[derive(Serialize)]
struct TargetData {
    name: &'static str,
    kernels: Vec<KernelData>,
}

#[derive(Serialize)]
struct KernelData {
    name: String,
    scopes: Vec<String>,
    locs: Vec<usize>,
    /// Of the last graph.
    nodes: Vec<u32>,
    /// Texts by tab.
    code: BTreeMap<&'static str, Vec<usize>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    share: Option<f64>,
}

#[derive(Serialize)]
struct Tab {
    name: &'static str,
    target: usize,
}

/// Numbers for what is stored once.
#[derive(Default)]
struct Tables {
    files: Vec<File>,
    file_of: HashMap<String, usize>,
    locs: Vec<(usize, u32)>,
    loc_of: HashMap<(usize, u32), usize>,
    texts: Vec<String>,
    text_of: HashMap<String, usize>,
}

impl Tables {
    fn loc(&mut self, loc: &Loc, source: &dyn Fn(&str) -> Option<String>) -> usize {
        let file = match self.file_of.get(loc.file) {
            Some(file) => *file,
            None => {
                let carried = SOURCES.iter().find(|(name, _)| *name == loc.file).map(|(_, text)| (*text).to_owned());
                let text = carried.or_else(|| source(loc.file));
                let lines = text.map(|text| text.lines().map(str::to_owned).collect());
                self.files.push(File { name: loc.file.to_owned(), lines });
                self.file_of.insert(loc.file.to_owned(), self.files.len() - 1);
                self.files.len() - 1
            }
        };
        let next = self.locs.len();
        let at = *self.loc_of.entry((file, loc.line)).or_insert(next);
        if at == next {
            self.locs.push((file, loc.line));
        }
        at
    }

    fn text(&mut self, text: String) -> usize {
        if let Some(at) = self.text_of.get(&text) {
            return *at;
        }
        self.texts.push(text.clone());
        self.text_of.insert(text, self.texts.len() - 1);
        self.texts.len() - 1
    }
}

/// The text of a page.
///
/// # Errors
/// A pass fails; times are of another program.
pub fn page(page: &Page<'_>) -> Result<String> {
    let Page { title, targets, source } = page;
    let first = targets.first().ok_or_else(|| Error::failed("a page needs a target, which is a fault of tinygpt"))?;
    let mut tables = Tables::default();
    let mut stages = Vec::new();
    // The text of a graph comes first of all files: it is the model.
    for (name, graph) in first.compiled.graphs()? {
        let blocks = graph_blocks(&graph, &mut tables, source);
        stages.push(StageData { name, kind: "graph", target: None, blocks });
    }
    for (at, target) in targets.iter().enumerate() {
        let name = format!("program for {}", target.name);
        let blocks = program_blocks(&target.compiled.program);
        stages.push(StageData { name, kind: "program", target: Some(at), blocks });
    }
    let mut about = format!("{} graph nodes", first.compiled.passes.graph.nodes.len());
    let mut shown = Vec::new();
    let mut tabs = Vec::new();
    for (at, target) in targets.iter().enumerate() {
        about += &format!(", {} kernels for {}", target.compiled.program.kernels.len(), target.name);
        tabs.extend(target.tabs.iter().map(|(name, _)| Tab { name, target: at }));
        shown.push(target_data(target, &mut tables, source)?);
    }
    for times in targets.iter().filter_map(|target| target.times.as_ref()) {
        about += &format!("; coloured by {}", times.about);
    }
    let Tables { files, locs, texts, .. } = tables;
    let data = Data { about, files, locs, stages, targets: shown, tabs, texts };
    let data = serde_json::to_string(&data).map_err(|e| Error::failed(one_line(e)))?.replace('<', "\\u003c");
    let title = title.replace('&', "&amp;").replace('<', "&lt;");
    // The data come last: nothing in them is a place to fill in.
    Ok(include_str!("page.html")
        .replace("@TITLE@", &title)
        .replace("@STYLE@", include_str!("page.css").trim_end())
        .replace("@SCRIPT@", include_str!("page.js").trim_end())
        .replacen("@DATA@", &data, 1))
}

/// The text of a graph, cut where the scope changes.
fn graph_blocks(graph: &Graph, tables: &mut Tables, source: &dyn Fn(&str) -> Option<String>) -> Vec<Block> {
    let mut blocks = vec![Block { scope: String::new(), rows: Vec::new() }];
    let mut top = true;
    for row in graph.to_string().lines() {
        if let Some(scope) = row.strip_prefix("scope ").and_then(|r| r.strip_suffix(" {")) {
            blocks.push(Block { scope: scope.to_owned(), rows: Vec::new() });
            top = false;
            continue;
        }
        if row == "}" {
            top = true;
            continue;
        }
        if row.is_empty() {
            continue;
        }
        if top && blocks.last().is_none_or(|b| !b.scope.is_empty()) {
            blocks.push(Block { scope: String::new(), rows: Vec::new() });
        }
        let defined = row.trim_start().strip_prefix('%').and_then(|r| r.split_once(" = "));
        let node = defined.and_then(|(id, _)| id.parse().ok()).map(NodeId);
        let known = node.map(|n| &graph.nodes[n]).filter(|n| !matches!(n.op, Op::Param(_)));
        let loc = known.and_then(|n| n.loc.as_ref()).map_or(-1, |loc| tables.loc(loc, source) as i64);
        if let Some(block) = blocks.last_mut() {
            block.rows.push((row.to_owned(), node.map_or(-1, |n| i64::from(n.0)), loc));
        }
    }
    blocks.retain(|b| !b.rows.is_empty());
    blocks
}

/// The text of a program, cut at its kernels.
fn program_blocks(program: &Program) -> Vec<Block> {
    let mut blocks = vec![Block { scope: String::new(), rows: Vec::new() }];
    let mut kernels = program.kernels.values();
    for row in program.to_string().lines().filter(|row| !row.is_empty()) {
        if row.starts_with("kernel ")
            && let Some(kernel) = kernels.next()
        {
            blocks.push(Block { scope: kernel.name.clone(), rows: Vec::new() });
        }
        if let Some(block) = blocks.last_mut() {
            block.rows.push((row.to_owned(), -1, -1));
        }
    }
    blocks
}

fn target_data(
    target: &Target<'_>,
    tables: &mut Tables,
    source: &dyn Fn(&str) -> Option<String>,
) -> Result<TargetData> {
    let program = &target.compiled.program;
    let kernel = |kernel: &Kernel| KernelData {
        name: kernel.name.clone(),
        scopes: kernel.provenance.scopes.clone(),
        locs: kernel.provenance.locs.iter().map(|loc| tables.loc(loc, source)).collect(),
        nodes: kernel.provenance.nodes.iter().chain(&kernel.provenance.recomputed).map(|n| n.0).collect(),
        code: BTreeMap::new(),
        ms: None,
        share: None,
    };
    let mut kernels: Vec<KernelData> = program.kernels.values().map(kernel).collect();
    for (tab, texts) in &target.tabs {
        for (id, text) in texts {
            let text = tables.text(text.clone());
            kernels[id.index()].code.entry(tab).or_default().push(text);
        }
    }
    for (name, ms, share) in target.times.iter().flat_map(|times| &times.kernels) {
        let kernel = kernels.iter_mut().find(|k| k.name == *name).ok_or_else(|| {
            Error::input(format!(
                "the profile has a row {name}, and the program has no such kernel: profile the same preset, a kernel a row"
            ))
        })?;
        (kernel.ms, kernel.share) = (Some(*ms), Some(*share));
    }
    Ok(TargetData { name: target.name, kernels })
}
