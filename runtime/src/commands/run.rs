//! `run`: one step of a graph or program in text form, on seeded inputs, and how far a backend is from the f64 interpreter.
//!
//! What is judged
//! - An output agrees if its largest error is at most the tolerance times its largest magnitude, and besides one rounding to f32 of the largest
//!   number that was computed on the way to it: where large terms cancel, no more can be asked. (Of a program that number is taken from its
//!   buffers after the step.) Integers and truth values must be equal, as must infinities and NaNs.
//! - States that the step updates are shown; judged are those that are neither weights nor the optimizer's. AdamW divides by the root of a
//!   squared gradient, which magnifies rounding without bound where the gradient is 0.
//!
//! Invariants: what is printed on standard output depends on the text, the seed and the backend alone; values are those of
//! [`seeded`](crate::seeded).

use super::{Ending, exec_options, parse_ir, print, read_text, say};
use crate::cli::RunArgs;
use crate::compile::{ExecOptions, Goal, compile, prepare, prepare_program};
use crate::config::Backend;
use crate::error::one_line;
use crate::executor::Executor;
use crate::interp::to_f64;
use crate::rng::fnv1a;
use crate::seeded;
use crate::tensor::HostTensor;
use crate::{Error, Result};
use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;
use tinygpt_ir::interp::{Keep, eval_keeping};
use tinygpt_ir::program::{BufferKind, PlacementPolicy, Program, ProgramInterp};
use tinygpt_ir::text::Ir;
use tinygpt_ir::{Graph, NodeId, ParamKind, StateRole, Tensor};

/// Default of `--tolerance`.
pub const TOLERANCE: f64 = 1e-4;

/// Half a unit in the last place of f32, relative.
const ROUNDING: f64 = 1.0 / (1u64 << 24) as f64;

pub fn run(args: &RunArgs) -> Result<Ending> {
    if !(args.tolerance.is_finite() && args.tolerance >= 0.0) {
        return Err(Error::input(format!("--tolerance must be a number of 0 or more, and is {}", args.tolerance)));
    }
    let ir = parse_ir(&read_text(&args.file)?, &args.file)?;
    let options = exec_options(&args.exec, None)?;
    let start = Start::new(&ir, args.seed)?;
    let name = match &ir {
        Ir::Graph(graph) => &graph.name,
        Ir::Program(program) => &program.name,
    };
    say(&format!("{} {name} on {}, seed {}", ir.kind(), options.backend, args.seed));
    let results = start.results(&ir);
    let mut executor = prepared(&ir, &args.file, &options)?;
    for (name, value) in &start.values {
        executor.write(name, value)?;
    }
    executor.step()?;
    let expected = if args.compare.is_some() { Some(start.interpret(&ir)?) } else { None };
    let (mut text, mut worst) = (String::new(), None);
    for (i, result) in results.iter().enumerate() {
        let found = executor.read(&result.name)?;
        let mut line = describe(result, &found);
        if let Some(expected) = &expected {
            let error = Difference::new(&to_f64(&found), &expected[i].values);
            let allowed = args.tolerance * error.magnitude + ROUNDING * expected[i].scale;
            let agrees = if found.dtype() == crate::tensor::DType::F32 {
                error.largest <= allowed
            } else {
                error.largest == 0.0
            };
            let verdict = match (result.judged, agrees) {
                (false, _) => "not judged",
                (true, true) => "agrees",
                (true, false) => "differs",
            };
            let _ = write!(line, "  error {:.3e}  relative {:.3e}  {verdict}", error.largest, error.relative());
            if result.judged && !agrees && worst.is_none() {
                worst = Some(format!(
                    "{} differs from the interpreter by {:.3e}, {:.3e} of its largest magnitude, and the tolerance is {:e}",
                    result.name,
                    error.largest,
                    error.relative(),
                    args.tolerance
                ));
            }
        }
        let _ = writeln!(text, "{line}");
    }
    print(text.as_bytes())?;
    match worst {
        None => Ok(Ending::Done),
        Some(sentence) => Err(Error::failed(sentence)),
    }
}

/// The graph compiled as it is, or the program, ready to run.
fn prepared(ir: &Ir, file: &Path, options: &ExecOptions) -> Result<Box<dyn Executor>> {
    match ir {
        Ir::Graph(graph) => prepare(&compile(graph.clone(), &Goal::Whole, &options.target())?, options),
        Ir::Program(program) => {
            tinygpt_ir::program::verify(program)
                .map_err(|e| Error::input(format!("{} is invalid: {}", file.display(), one_line(e))))?;
            let (placed, fits) = match program.target.placement {
                PlacementPolicy::Slab => ("a slab", options.backend != Backend::Gpu),
                PlacementPolicy::Slot => ("slots", matches!(options.backend, Backend::Gpu | Backend::Interp)),
            };
            if !fits {
                return Err(Error::input(format!(
                    "{} was placed in {placed} for {}, which --backend {} cannot run: compile the graph for that backend",
                    file.display(),
                    program.target.name,
                    options.backend
                )));
            }
            prepare_program(&Arc::new(program.clone()), options)
        }
    }
}

/// Where a run starts.
struct Start {
    /// Inputs and states, in order.
    values: Vec<(String, HostTensor)>,
}

/// Something that a step yields.
struct Yield {
    what: &'static str,
    name: String,
    judged: bool,
}

/// What the interpreter says of it.
struct Expected {
    values: Vec<f64>,
    /// Largest finite magnitude on the way to it.
    scale: f64,
}

impl Start {
    fn new(ir: &Ir, seed: u64) -> Result<Self> {
        let values = match ir {
            Ir::Graph(graph) => seeded::of_graph(graph, seed)?,
            Ir::Program(program) => seeded::of_program(program, seed)?,
        };
        Ok(Self { values })
    }

    /// Outputs, then updated states.
    fn results(&self, ir: &Ir) -> Vec<Yield> {
        let output = |name: &String| Yield { what: "output", name: name.clone(), judged: true };
        let state = |name: &String, kind: ParamKind| {
            let judged = matches!(kind, ParamKind::State { role: StateRole::Other, .. });
            Yield { what: "state", name: name.clone(), judged }
        };
        match ir {
            Ir::Graph(g) => {
                let states = g.updates.iter().map(|(p, _)| state(&g.params[*p].name, g.params[*p].kind));
                g.outputs.iter().map(|(name, _)| output(name)).chain(states).collect()
            }
            Ir::Program(p) => {
                let states = updated(p).into_iter().map(|i| state(&p.params[i].name, p.params[i].kind));
                p.outputs.iter().map(|o| output(&o.name)).chain(states).collect()
            }
        }
    }

    /// Each result, in the order of [`Start::results`].
    fn interpret(&self, ir: &Ir) -> Result<Vec<Expected>> {
        match ir {
            Ir::Graph(graph) => self.interpret_graph(graph),
            Ir::Program(program) => self.interpret_program(program),
        }
    }

    fn interpret_graph(&self, graph: &Graph) -> Result<Vec<Expected>> {
        let failed = |e: &dyn std::fmt::Display| Error::failed(format!("the interpreter: {}", one_line(e)));
        let params = graph.params.values().zip(&self.values);
        let params: Vec<Tensor> = params.map(|(p, (_, v))| Tensor { ty: p.ty.clone(), data: to_f64(v) }).collect();
        let done = eval_keeping(graph, &params, Keep::All).map_err(|e| failed(&e))?;
        let values = &done.values;
        Ok(graph
            .roots()
            .map(|root| {
                let own = values[root.index()].as_ref().map(|t| t.data.clone()).unwrap_or_default();
                let way = ancestors(graph, root);
                let scale = way.into_iter().filter_map(|id| values[id.index()].as_ref()).map(|t| largest(&t.data));
                Expected { values: own, scale: scale.fold(0.0, f64::max) }
            })
            .collect())
    }

    fn interpret_program(&self, program: &Program) -> Result<Vec<Expected>> {
        let failed = |e: tinygpt_ir::program::InterpError| Error::failed(format!("the interpreter: {e}"));
        let mut interp = ProgramInterp::new(program).map_err(failed)?;
        for (name, value) in &self.values {
            interp.write(name, &to_f64(value)).map_err(failed)?;
        }
        interp.step().map_err(failed)?;
        let floats = program.buffers.iter().filter(|(_, b)| b.dtype.is_float());
        let scale = floats.map(|(id, _)| largest(&interp.read_buffer(id))).fold(0.0, f64::max);
        let read = |name: &String| Ok(Expected { values: interp.read(name).map_err(failed)?, scale });
        let states = updated(program).into_iter().map(|i| &program.params[i].name);
        program.outputs.iter().map(|o| &o.name).chain(states).map(read).collect()
    }
}

/// Parameters that some kernel writes.
fn updated(program: &Program) -> Vec<usize> {
    let written = program.kernels.values().flat_map(|k| &k.args).filter(|a| a.mode.writes());
    let mut states: Vec<usize> = written
        .filter_map(|a| match program.buffers[a.buffer].kind {
            BufferKind::State(i) => Some(i),
            _ => None,
        })
        .collect();
    states.sort_unstable();
    states.dedup();
    states
}

/// `root` and what it is computed from.
fn ancestors(graph: &Graph, root: NodeId) -> Vec<NodeId> {
    let mut seen = vec![false; graph.nodes.len()];
    let mut todo = vec![root];
    let mut found = Vec::new();
    while let Some(id) = todo.pop() {
        if !std::mem::replace(&mut seen[id.index()], true) {
            found.push(id);
            todo.extend(&graph.nodes[id].inputs);
        }
    }
    found
}

/// Largest finite magnitude.
fn largest(values: &[f64]) -> f64 {
    values.iter().map(|x| x.abs()).filter(|x| x.is_finite()).fold(0.0, f64::max)
}

/// How far two lists of numbers are apart.
struct Difference {
    /// Largest error; infinite where one is NaN or infinite and the other is not the same.
    largest: f64,
    /// Largest finite magnitude expected.
    magnitude: f64,
}

impl Difference {
    fn new(found: &[f64], expected: &[f64]) -> Self {
        let error = |(f, e): (&f64, &f64)| match (f - e).abs() {
            _ if f == e || (f.is_nan() && e.is_nan()) => 0.0,
            apart if apart.is_finite() => apart,
            _ => f64::INFINITY,
        };
        let same_length = if found.len() == expected.len() { 0.0 } else { f64::INFINITY };
        let largest_error = found.iter().zip(expected).map(error).fold(same_length, f64::max);
        Self { largest: largest_error, magnitude: largest(expected) }
    }

    fn relative(&self) -> f64 {
        if self.largest == 0.0 { 0.0 } else { self.largest / self.magnitude }
    }
}

/// `output loss  f32[]  fnv 0123456789abcdef  mean 5.545e0  absmax 5.545e0`
fn describe(result: &Yield, value: &HostTensor) -> String {
    let numbers = to_f64(value);
    let mean = numbers.iter().sum::<f64>() / numbers.len().max(1) as f64;
    // Not `largest`: a NaN or an infinity is what a reader is after.
    let absmax = numbers.iter().fold(0.0f64, |m, x| if m.is_nan() || x.is_nan() { f64::NAN } else { m.max(x.abs()) });
    let hash = fnv1a(value.bytes());
    let Yield { what, name, .. } = result;
    format!("{what} {name}  {}  fnv {hash:016x}  mean {mean:.6e}  absmax {absmax:.6e}", value.type_name())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_count_what_is_not_a_number() {
        let d = |found: &[f64], expected: &[f64]| Difference::new(found, expected).largest;
        assert_eq!(d(&[1.0, 2.5], &[1.0, 2.0]), 0.5);
        assert_eq!(d(&[f64::NAN, f64::INFINITY], &[f64::NAN, f64::INFINITY]), 0.0);
        assert_eq!(d(&[f64::NAN], &[1.0]), f64::INFINITY);
        assert_eq!(d(&[f64::INFINITY], &[f64::NEG_INFINITY]), f64::INFINITY);
        assert_eq!(d(&[1.0], &[1.0, 2.0]), f64::INFINITY);
        let e = Difference::new(&[0.0], &[0.0]);
        assert_eq!((e.relative(), e.magnitude), (0.0, 0.0));
    }
}
