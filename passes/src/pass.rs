//! Graph-to-graph passes by name, and pipelines of them.
//!
//! One line of the table below declares a pass: its variant, name, what it does, and the function. Timing, statistics, printing
//! and verification come with that.
//!
//! Invariants
//! - A pass is a pure function of its graph; a pipeline runs passes in order and stops at the first error.
//! - With `verify_each`, no pass sees a graph that the verifier refuses.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::time::Duration;

use tinygpt_ir::Graph;
use tinygpt_ir::clock::Clock;
use tinygpt_ir::error::GraphError;
use tinygpt_ir::verify::{Violations, verify};

use crate::optimizer::AdamWConfig;
use crate::split_reduce::SplitReduce;
use crate::{autodiff, expand, optimizer, precision, simplify, split_reduce};

/// Result of a pass.
pub type Passed = Result<Graph, Box<GraphError>>;

macro_rules! passes {
    ($($Var:ident $name:literal $doc:literal => |$graph:ident, $stats:ident| $body:expr;)*) => {
        /// A graph-to-graph pass with its default options.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Pass { $(#[doc = $doc] $Var),* }

        impl Pass {
            pub const ALL: &'static [Pass] = &[$(Pass::$Var),*];

            /// The name by which pipelines call it.
            pub fn name(self) -> &'static str {
                match self { $(Pass::$Var => $name),* }
            }

            /// What it does, one sentence.
            pub fn doc(self) -> &'static str {
                match self { $(Pass::$Var => $doc),* }
            }

            /// Runs it; what it did is counted in `stats`.
            pub fn run(self, graph: &Graph, stats: &mut Stats) -> Passed {
                match self { $(Pass::$Var => { let ($graph, $stats) = (graph, stats); $body })* }
            }
        }
    };
}

passes! {
    Expand "expand" "composites without a kernel become primitives" => |g, _stats| expand::expand(g);
    ExpandAll "expand-all" "every composite becomes primitives" => |g, _stats| expand::expand_all(g);
    Gradients "grad" "adds the gradient of output `loss` by every weight NAME as output `grad.NAME`" => |g, _stats| {
        gradient_outputs(g)
    };
    Train "autodiff" "makes the training step: gradients, clipping and AdamW with default constants" => |g, _stats| {
        optimizer::training_step(g, &AdamWConfig::default())
    };
    Simplify "simplify" "folds constants, applies algebra, shares common subexpressions, removes dead nodes" => |g, stats| {
        Ok(simplify::simplify(g, stats))
    };
    Cse "cse" "shares common subexpressions and removes dead nodes" => |g, stats| Ok(simplify::cse(g, stats));
    Dce "dce" "removes nodes that no output or update depends on" => |g, _stats| Ok(simplify::dce(g));
    SplitReduce "split-reduce" "splits long reductions to few results into two stages" => |g, stats| {
        let (graph, split) = split_reduce::split_reduce(g, &SplitReduce::default())?;
        stats.add("reductions split", split);
        Ok(graph)
    };
    Precision "precision" "rounds the operands of f32 contractions to f16" => |g, stats| {
        let (graph, rounded) = precision::round_operands(g)?;
        stats.add("operands rounded", rounded);
        Ok(graph)
    };
}

impl Pass {
    /// The pass of that name, or a sentence that lists the names there are.
    pub fn parse(name: &str) -> Result<Pass, String> {
        Pass::ALL.iter().copied().find(|p| p.name() == name).ok_or_else(|| {
            let names: Vec<&str> = Pass::ALL.iter().map(|p| p.name()).collect();
            format!("there is no pass `{name}`; the passes are {}", names.join(", "))
        })
    }
}

fn gradient_outputs(graph: &Graph) -> Passed {
    let weights: Vec<_> = graph.params.iter().filter(|(_, p)| p.is_weight()).map(|(id, _)| id).collect();
    let autodiff::Gradients { mut graph, grads } = autodiff::gradients(graph, "loss", &weights)?;
    for (weight, grad) in weights.iter().zip(grads) {
        let name = format!("grad.{}", graph.params[*weight].name);
        if graph.output_named(&name).is_some() {
            return Err(crate::error("grad", format!("the output name `{name}` is already taken")));
        }
        graph.outputs.push((name, grad));
    }
    Ok(graph)
}

/// How often a pass did what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats(BTreeMap<String, usize>);

impl Stats {
    /// Adds `n` to what is counted under `what`; nothing if n is 0.
    pub fn add(&mut self, what: &str, n: usize) {
        if n > 0 {
            *self.0.entry(what.to_string()).or_default() += n;
        }
    }

    pub fn get(&self, what: &str) -> usize {
        self.0.get(what).copied().unwrap_or(0)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, usize)> {
        self.0.iter().map(|(what, n)| (what.as_str(), *n))
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = self.iter().map(|(what, n)| format!("{n} {what}")).collect();
        f.write_str(&parts.join("; "))
    }
}

/// Passes to run one after the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pipeline {
    pub passes: Vec<Pass>,
    /// Verify the graph given and the graph after each pass.
    pub verify_each: bool,
    /// Keep the text of the graph after each pass that changed it.
    pub print_changed: bool,
}

/// What one pass of a pipeline did.
#[derive(Clone, Debug)]
pub struct Step {
    pub pass: Pass,
    /// Time in the pass alone; None where there is no clock (wasm32 without a host).
    pub time: Option<Duration>,
    pub nodes_before: usize,
    pub nodes_after: usize,
    pub stats: Stats,
    /// Text of the graph after the pass, if the pipeline prints changes and there was one.
    pub changed: Option<String>,
}

/// A graph through a pipeline.
#[derive(Clone, Debug)]
pub struct Run {
    pub graph: Graph,
    pub steps: Vec<Step>,
}

/// Why a pipeline stopped.
#[derive(Clone, Debug)]
pub enum PassError {
    /// The pass refuses the graph.
    Refused(Pass, Box<GraphError>),
    /// The verifier refuses the graph given, or what a pass made of it.
    Invalid(Option<Pass>, Violations),
}

impl std::error::Error for PassError {}

impl fmt::Display for PassError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PassError::Refused(pass, error) => write!(f, "{}: {error}", pass.name()),
            PassError::Invalid(None, violations) => {
                write!(f, "the graph is invalid before the first pass: {violations}")
            }
            PassError::Invalid(Some(pass), violations) => {
                write!(f, "the graph is invalid after {}, which is a fault of that pass: {violations}", pass.name())
            }
        }
    }
}

impl Pipeline {
    pub fn new(passes: impl Into<Vec<Pass>>) -> Pipeline {
        Pipeline { passes: passes.into(), ..Pipeline::default() }
    }

    /// The pipeline written `a,b,c`; an error is one sentence.
    pub fn parse(text: &str) -> Result<Pipeline, String> {
        let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
        Ok(Pipeline::new(names.map(Pass::parse).collect::<Result<Vec<_>, _>>()?))
    }

    pub fn run(&self, graph: Graph) -> Result<Run, PassError> {
        if self.verify_each {
            verify(&graph).map_err(|v| PassError::Invalid(None, v))?;
        }
        let mut run = Run { graph, steps: Vec::new() };
        for pass in &self.passes {
            let mut stats = Stats::default();
            let start = Clock::start();
            let next = pass.run(&run.graph, &mut stats).map_err(|e| PassError::Refused(*pass, e))?;
            let time = start.elapsed();
            if self.verify_each {
                verify(&next).map_err(|v| PassError::Invalid(Some(*pass), v))?;
            }
            run.steps.push(Step {
                pass: *pass,
                time,
                nodes_before: run.graph.nodes.len(),
                nodes_after: next.nodes.len(),
                stats,
                changed: (self.print_changed && next != run.graph).then(|| next.to_string()),
            });
            run.graph = next;
        }
        Ok(run)
    }
}

impl Run {
    /// A table of the passes: milliseconds, share of the total, nodes before and after, what was done.
    pub fn time_table(&self) -> String {
        let total: Duration = self.steps.iter().filter_map(|s| s.time).sum();
        let mut table = format!("{:<14}{:>10}{:>8}{:>9}{:>9}  did\n", "pass", "ms", "share", "before", "after");
        for s in &self.steps {
            let (ms, share) = match s.time {
                Some(t) => (
                    format!("{:.3}", t.as_secs_f64() * 1e3),
                    format!("{:.0}%", 100.0 * t.as_secs_f64() / total.as_secs_f64().max(f64::MIN_POSITIVE)),
                ),
                None => ("no clock".to_string(), String::new()),
            };
            let line = format!(
                "{:<14}{ms:>10}{share:>8}{:>9}{:>9}  {}",
                s.pass.name(),
                s.nodes_before,
                s.nodes_after,
                s.stats
            );
            let _ = writeln!(table, "{}", line.trim_end());
        }
        table
    }
}
