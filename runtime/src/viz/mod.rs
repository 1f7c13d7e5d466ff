//! One offline page that shows a model from its DSL lines to its code: lines, graph nodes after each pass, kernels, CLIF, WebAssembly and WGSL,
//! linked both ways.
//!
//! The page is `page.html` with `page.css`, `page.js` and the data below as JSON. Links are by DSL line (every node of every graph knows its own), and
//! between the last graph and the kernels by node.
//!
//! Invariants: the page asks nothing of a network; equal texts are stored once; the data cannot end its script element (`<` is escaped).

use crate::cli::Stage;
use crate::commands::dump::{Options, Renderer, Stages};
use crate::error::one_line;
use crate::profile::Profile;
use crate::{Error, Result};
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};
use tinygpt_ir::program::{KernelId, Program};
use tinygpt_ir::{Graph, Loc, NodeId, Op};

/// Sources that the binary carries; those of a user's model are read from the working directory.
const SOURCES: [(&str, &str); 2] = [
    ("models/gpt.rs", include_str!("../../../models/gpt.rs")),
    ("passes/src/optimizer.rs", include_str!("../../../passes/src/optimizer.rs")),
];

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
    fn loc(&mut self, loc: &Loc) -> usize {
        let file = match self.file_of.get(loc.file) {
            Some(file) => *file,
            None => {
                let carried = SOURCES.iter().find(|(name, _)| *name == loc.file).map(|(_, text)| (*text).to_owned());
                let text = carried.or_else(|| std::fs::read_to_string(loc.file).ok());
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

/// The page of a model compiled for the CPU and for a GPU, its kernels coloured by the times of `profile` where there is one.
///
/// # Errors
/// A stage cannot be rendered; the profile is of another program.
pub fn page(title: &str, cpu: &Stages, gpu: &Stages, options: &Options, profile: Option<&Profile>) -> Result<String> {
    let mut tables = Tables::default();
    let mut stages = Vec::new();
    for (name, graph) in cpu.graphs()? {
        stages.push(StageData { name, kind: "graph", target: None, blocks: graph_blocks(&graph, &mut tables) });
    }
    for (at, of) in [cpu, gpu].into_iter().enumerate() {
        let name = format!("program for {}", TARGETS[at]);
        stages.push(StageData {
            name,
            kind: "program",
            target: Some(at),
            blocks: program_blocks(&of.compiled.program),
        });
    }
    let targets = vec![
        target(0, cpu, &[("CLIF", Stage::Clif), ("WAT", Stage::Wat)], options, profile, &mut tables)?,
        target(1, gpu, &[("WGSL", Stage::Wgsl)], options, profile, &mut tables)?,
    ];
    let tabs = [("CLIF", 0), ("WAT", 0), ("WGSL", 1)].map(|(name, target)| Tab { name, target }).into();
    let nodes = cpu.compiled.passes.graph.nodes.len();
    let mut about = format!(
        "{nodes} graph nodes, {} kernels on a CPU, {} on a GPU",
        targets[0].kernels.len(),
        targets[1].kernels.len()
    );
    if let Some(profile) = profile {
        about += &format!("; coloured by a profile of {:.3} ms on {}", profile.step_ms, profile.subject.adapter);
    }
    let Tables { files, locs, texts, .. } = tables;
    let data = Data { about, files, locs, stages, targets, tabs, texts };
    let data = serde_json::to_string(&data).map_err(|e| Error::failed(one_line(e)))?.replace('<', "\\u003c");
    let title = title.replace('&', "&amp;").replace('<', "&lt;");
    // The data come last: nothing in them is a place to fill in.
    Ok(include_str!("page.html")
        .replace("@TITLE@", &title)
        .replace("@STYLE@", include_str!("page.css").trim_end())
        .replace("@SCRIPT@", include_str!("page.js").trim_end())
        .replacen("@DATA@", &data, 1))
}

const TARGETS: [&str; 2] = ["CPU", "GPU"];

/// The text of a graph, cut where the scope changes.
fn graph_blocks(graph: &Graph, tables: &mut Tables) -> Vec<Block> {
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
        let loc = known.and_then(|n| n.loc.as_ref()).map_or(-1, |loc| tables.loc(loc) as i64);
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

fn target(
    at: usize,
    stages: &Stages,
    tabs: &[(&'static str, Stage)],
    options: &Options,
    profile: Option<&Profile>,
    tables: &mut Tables,
) -> Result<TargetData> {
    let program = &stages.compiled.program;
    let all: Vec<KernelId> = program.kernels.ids().collect();
    let renderer = Renderer::new(&stages.compiled, options, &all);
    let mut kernels: Vec<KernelData> = program
        .kernels
        .values()
        .map(|kernel| KernelData {
            name: kernel.name.clone(),
            scopes: kernel.provenance.scopes.clone(),
            locs: kernel.provenance.locs.iter().map(|loc| tables.loc(loc)).collect(),
            nodes: kernel.provenance.nodes.iter().chain(&kernel.provenance.recomputed).map(|n| n.0).collect(),
            code: BTreeMap::new(),
            ms: None,
            share: None,
        })
        .collect();
    for (tab, stage) in tabs {
        for file in renderer.files(*stage)? {
            if let Some(id) = file.kernel {
                let text = tables.text(file.text().into_owned());
                kernels[id.index()].code.entry(tab).or_default().push(text);
            }
        }
    }
    let backend = TARGETS[at].to_lowercase();
    if let Some(profile) = profile.filter(|p| p.subject.backend == backend) {
        for row in &profile.rows {
            let kernel = kernels.iter_mut().find(|k| k.name == row.name).ok_or_else(|| {
                Error::input(format!(
                    "the profile has a row {}, and the program has no such kernel: profile the same preset, a kernel a row",
                    row.name
                ))
            })?;
            (kernel.ms, kernel.share) = (Some(row.ms), Some(row.share));
        }
    }
    Ok(TargetData { name: TARGETS[at], kernels })
}
