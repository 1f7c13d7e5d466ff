//! Passes by name over whichever IR they take, a graph or a program: what `tinygpt opt` runs.
//!
//! [`Passes::standard`] has the graph-to-graph passes of [`pass`](crate::pass) and the passes to a program of [`compile`](crate::compile);
//! [`Passes::add`] registers one more, as a test of a broken pass does. A pipeline of any of them is run step by step with [`apply`], which
//! leaves it to the caller what to print in between and what to do when a step fails.
//!
//! Invariants
//! - A pass is a pure function of the IR and the target.
//! - Errors are text for people; the first line is a sentence.

use std::time::Duration;

use tinygpt_ir::clock::Clock;
use tinygpt_ir::program::verify::Invariant;
use tinygpt_ir::program::{self, ProgramStats, TargetModel};
use tinygpt_ir::text::Ir;
use tinygpt_ir::{Graph, Op};

use crate::compile;
use crate::pass::{Pass, Stats};

type Work = dyn Fn(&Ir, &TargetModel, &mut Stats) -> Result<Ir, String> + Send + Sync;

/// A pass with its name.
pub struct NamedPass {
    name: String,
    doc: String,
    work: Box<Work>,
}

impl NamedPass {
    /// The name by which pipelines call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it does, one sentence.
    pub fn doc(&self) -> &str {
        &self.doc
    }
}

/// The passes that a pipeline may name, in the order in which they are listed.
pub struct Passes(Vec<NamedPass>);

impl Passes {
    /// Every pass of this crate.
    pub fn standard() -> Passes {
        let mut passes = Passes(Vec::new());
        for pass in Pass::ALL.iter().copied() {
            passes.add(pass.name(), pass.doc(), move |ir, _, stats| {
                let graph = graph_of(pass.name(), ir)?;
                pass.run(graph, stats).map(Ir::Graph).map_err(|e| e.to_string())
            });
        }
        for (name, doc, fusion) in [
            ("fuse", "groups nodes into kernels over buffers; the program has no stages yet", true),
            ("unfused", "makes one kernel a node; the program has no stages yet", false),
        ] {
            passes.add(name, doc, move |ir, target, stats| {
                let (program, _) = compile::fuse(graph_of(name, ir)?, target, fusion)?;
                stats.add("kernels", program.kernels.len());
                Ok(Ir::Program(program))
            });
        }
        passes.add("schedule", "orders kernels and groups them in stages between barriers", |ir, _, stats| {
            let mut program = program_of("schedule", ir)?.clone();
            if !program.stages.is_empty() {
                return Err("the program has its stages already: schedule takes one straight from fuse".to_string());
            }
            compile::schedule(&mut program)?;
            stats.add("stages", program.stages.len());
            Ok(Ir::Program(program))
        });
        passes.add("memory", "places temporaries; orders kernels first where schedule has not", |ir, _, stats| {
            let mut program = program_of("memory", ir)?.clone();
            if program.buffers.values().any(|b| b.live.is_some()) {
                return Err("the program's temporaries have their places already".to_string());
            }
            if program.stages.is_empty() {
                compile::schedule(&mut program)?;
            }
            compile::place(&mut program);
            stats.add("bytes planned", program.memory.planned);
            Ok(Ir::Program(program))
        });
        passes
    }

    /// Registers a pass, in the place of one of the same name if there is one.
    pub fn add(
        &mut self,
        name: &str,
        doc: &str,
        work: impl Fn(&Ir, &TargetModel, &mut Stats) -> Result<Ir, String> + Send + Sync + 'static,
    ) {
        let pass = NamedPass { name: name.to_string(), doc: doc.to_string(), work: Box::new(work) };
        match self.0.iter_mut().find(|p| p.name == name) {
            Some(old) => *old = pass,
            None => self.0.push(pass),
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = &NamedPass> {
        self.0.iter()
    }

    /// The pass of that name.
    pub fn find(&self, name: &str) -> Option<&NamedPass> {
        self.0.iter().find(|p| p.name == name)
    }
}

/// What a step did.
pub struct Applied {
    pub ir: Ir,
    /// None where there is no clock.
    pub time: Option<Duration>,
    pub stats: Stats,
}

/// Why a step failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The pass refuses the IR.
    Refused(String),
    /// The verifier refuses what the pass made, which is a fault of the pass.
    Invalid(String),
}

/// Runs `pass` on `ir`; with `verify_after`, its result has passed the verifier.
pub fn apply(pass: &NamedPass, ir: &Ir, target: &TargetModel, verify_after: bool) -> Result<Applied, Failure> {
    let mut stats = Stats::default();
    let clock = Clock::start();
    let ir = (pass.work)(ir, target, &mut stats).map_err(Failure::Refused)?;
    let time = clock.elapsed();
    if verify_after {
        verify(&ir).map_err(Failure::Invalid)?;
    }
    Ok(Applied { ir, time, stats })
}

/// What the verifier has against `ir`; that a program straight from fusion has no stages is no fault.
pub fn verify(ir: &Ir) -> Result<(), String> {
    match ir {
        Ir::Graph(graph) => tinygpt_ir::verify::verify(graph).map_err(|v| v.to_string()),
        Ir::Program(program) => program::verify(program).or_else(|mut v| {
            v.list.retain(|v| !(program.stages.is_empty() && v.invariant == Invariant::StagesCover));
            if v.list.is_empty() { Ok(()) } else { Err(v.to_string()) }
        }),
    }
}

fn graph_of<'i>(pass: &str, ir: &'i Ir) -> Result<&'i Graph, String> {
    match ir {
        Ir::Graph(graph) => Ok(graph),
        Ir::Program(_) => Err(format!("{pass} takes a graph and was given a program: put it before fuse")),
    }
}

fn program_of<'i>(pass: &str, ir: &'i Ir) -> Result<&'i program::Program, String> {
    match ir {
        Ir::Program(program) => Ok(program),
        Ir::Graph(_) => Err(format!("{pass} takes a program and was given a graph: put fuse before it")),
    }
}

/// How large an IR is, in one phrase: of a graph its nodes without parameters and the bytes of their values, of a program its kernels,
/// stages, bytes moved between kernels and bytes planned. Bytes moved are left out of a program that the verifier refuses.
pub fn size(ir: &Ir) -> String {
    match ir {
        Ir::Graph(graph) => {
            let computed = graph.nodes.values().filter(|n| !matches!(n.op, Op::Param(_)));
            let bytes: usize = computed.clone().map(|n| n.ty.bytes()).sum();
            format!("{} nodes, {bytes} bytes of values", computed.count())
        }
        Ir::Program(program) => {
            let moved = match verify(ir) {
                Ok(()) => format!("{} bytes moved, ", ProgramStats::new(program).bytes()),
                Err(_) => String::new(),
            };
            let (kernels, stages) = (program.kernels.len(), program.stages.len());
            format!("{kernels} kernels, {stages} stages, {moved}{} bytes planned", program.memory.planned)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tinygpt_ir::random::{RandomOptions, random_graph};

    fn run(passes: &Passes, pipeline: &str, ir: Ir) -> Result<Ir, Failure> {
        pipeline.split(',').try_fold(ir, |ir, name| {
            let pass = passes.find(name).unwrap_or_else(|| panic!("no pass {name}"));
            apply(pass, &ir, &TargetModel::cpu(), true).map(|done| done.ir)
        })
    }

    #[test]
    fn a_pipeline_makes_the_program_that_the_compiler_makes() {
        let passes = Passes::standard();
        for seed in 0..20 {
            let graph = random_graph(seed, &RandomOptions::default());
            for (fuse, fusion) in [("fuse", true), ("unfused", false)] {
                let found = run(&passes, &format!("expand,simplify,{fuse},schedule,memory"), Ir::Graph(graph.clone()));
                let simplified = run(&passes, "expand,simplify", Ir::Graph(graph.clone())).unwrap();
                let Ir::Graph(simplified) = simplified else { panic!("simplify makes a graph") };
                let expected = compile::to_program(&simplified, &TargetModel::cpu(), fusion).unwrap();
                assert_eq!(found, Ok(Ir::Program(expected)), "seed {seed}");
                let short = run(&passes, &format!("expand,simplify,{fuse},memory"), Ir::Graph(graph.clone()));
                assert_eq!(short, found, "memory schedules where nobody has");
            }
        }
    }

    #[test]
    fn passes_say_what_they_take() {
        let passes = Passes::standard();
        let graph = Ir::Graph(random_graph(1, &RandomOptions::default()));
        let refused = |pipeline: &str| match run(&passes, pipeline, graph.clone()) {
            Err(Failure::Refused(message)) => message,
            other => panic!("{other:?}"),
        };
        assert_eq!(refused("memory"), "memory takes a program and was given a graph: put fuse before it");
        assert_eq!(refused("expand,fuse,dce"), "dce takes a graph and was given a program: put it before fuse");
        assert!(refused("expand,fuse,schedule,schedule").contains("has its stages already"));
        assert!(refused("expand,fuse,memory,memory").contains("have their places already"));
    }

    #[test]
    fn a_registered_pass_takes_the_place_of_its_name_and_is_verified() {
        let mut passes = Passes::standard();
        let count = passes.iter().count();
        passes.add("dce", "drops the last node", |ir, _, _| {
            let Ir::Graph(graph) = ir else { return Err("no graph".into()) };
            let mut graph = graph.clone();
            let last = graph.nodes.ids().last().ok_or("no node")?;
            graph.nodes[last].ty.shape.push(3);
            Ok(Ir::Graph(graph))
        });
        assert_eq!(passes.iter().count(), count);
        assert_eq!(passes.find("dce").unwrap().doc(), "drops the last node");
        let graph = Ir::Graph(random_graph(1, &RandomOptions::default()));
        assert!(matches!(run(&passes, "dce", graph.clone()), Err(Failure::Invalid(_))));
        assert!(apply(passes.find("dce").unwrap(), &graph, &TargetModel::cpu(), false).is_ok());
    }
}
