//! Tests of your own model: what the compiler makes of it as text to keep, and checks of its mathematics.
//!
//! Declare a forward graph in the DSL, then let your tests say what it compiles to, with [insta](https://insta.rs) or any other way of keeping
//! texts, and that its gradients are right:
//!
//! ```
//! use tinygpt::ir::{Builder, DType, Init, TensorType};
//! use tinygpt::testing;
//!
//! let b = Builder::new("bigram");
//! let tokens = TensorType::new(DType::I32, [2, 3]);
//! let (ids, targets) = (b.input("ids", tokens.clone()), b.input("targets", tokens));
//! let table = b.weight("table", [5, 5], Init::Normal(0.1));
//! b.output("loss", table.gather(ids).cross_entropy(targets));
//! let graph = b.finish().unwrap();
//!
//! testing::assert_gradients(&graph);
//! testing::assert_matches_interp(&graph, testing::Backend::Cpu);
//! // insta::assert_snapshot!(testing::wgsl(&graph));
//! let scatter = testing::of_training(&graph).kernels("scatter");
//! assert!(scatter.wgsl().contains("@compute") && scatter.wat().contains("(func "));
//! ```
//!
//! Invariants
//! - A text is a function of the graph alone: no times, addresses, source lines or capabilities of this machine. Moving a model's lines
//!   changes nothing; adding a node changes the kernel that computes it, and the numbers in the names of what follows.
//! - [`Texts::clif`] is made for the least processor of the architecture that the test runs on: keep one snapshot an architecture. All other
//!   texts are the same everywhere.
//! - Everything panics at the caller's line with one sentence where there is nothing to show or something is wrong.

use tinygpt_ir::Graph;
use tinygpt_ir::interp::eval;
use tinygpt_ir::program::TargetModel;
use tinygpt_ir::tensor::Tensor;
use tinygpt_passes::optimizer::AdamWConfig;
use tinygpt_passes::pass::{Pass, Stats};
use tinygpt_runtime::cli::{ExecArgs, Stage};
use tinygpt_runtime::commands::dump::{Options, kernels_named, render};
use tinygpt_runtime::compile::{Compiled, ExecOptions, Goal, compile, prepare};
use tinygpt_runtime::executor::Role;
use tinygpt_runtime::rng::Stream;
use tinygpt_runtime::seeded;
use tinygpt_runtime::tensor::{HostData, HostTensor};

pub use tinygpt_codegen_wgsl::Caps;
pub use tinygpt_runtime::config::Backend;

/// Seed of the values that the checks draw.
const SEED: u64 = 42;

/// What a graph compiles to, as text: see [`of_training`] and [`of_outputs`].
#[derive(Debug, Clone)]
pub struct Texts<'g> {
    forward: &'g Graph,
    goal: Goal,
    options: Options,
    kernels: Option<String>,
}

/// The texts of the training step of `forward`, whose output `loss` is a scalar: gradients, clipping at 1 and AdamW with betas 0.9 and 0.95 and
/// decay 0.1, for a WebGPU device with no more than every one has.
pub fn of_training(forward: &Graph) -> Texts<'_> {
    let goal = Goal::Train { adamw: AdamWConfig::default(), gradients: false };
    Texts { forward, goal, options: Options::stable(), kernels: None }
}

/// The texts of these outputs of `forward`.
pub fn of_outputs<'g>(forward: &'g Graph, outputs: &'static [&'static str]) -> Texts<'g> {
    Texts { goal: Goal::Infer(outputs), ..of_training(forward) }
}

/// The ordered kernels of the training step and their memory, for a CPU: [`Texts::program`].
#[track_caller]
pub fn program(forward: &Graph) -> String {
    of_training(forward).program()
}

/// The training step in Cranelift's IR: [`Texts::clif`].
#[track_caller]
pub fn clif(forward: &Graph) -> String {
    of_training(forward).clif()
}

/// The training step in WebAssembly's text: [`Texts::wat`].
#[track_caller]
pub fn wat(forward: &Graph) -> String {
    of_training(forward).wat()
}

/// The training step in WebGPU's shading language: [`Texts::wgsl`].
#[track_caller]
pub fn wgsl(forward: &Graph) -> String {
    of_training(forward).wgsl()
}

impl Texts<'_> {
    /// With another optimizer; no difference to texts of outputs.
    pub fn optimizer(mut self, constants: AdamWConfig) -> Self {
        if let Goal::Train { adamw, .. } = &mut self.goal {
            *adamw = constants;
        }
        self
    }

    /// For a GPU with these capabilities.
    pub fn caps(mut self, caps: Caps) -> Self {
        self.options.caps = caps;
        self
    }

    /// Only of kernels whose names match this regular expression. Names are those of [`Texts::fused`].
    pub fn kernels(mut self, pattern: &str) -> Self {
        self.kernels = Some(pattern.to_owned());
        self
    }

    /// The graph of the whole step, before any pass but differentiation.
    #[track_caller]
    pub fn graph(&self) -> String {
        self.text(Stage::Grad, &TargetModel::cpu())
    }

    /// What fusion saved, and the kernels it made for a CPU.
    #[track_caller]
    pub fn fused(&self) -> String {
        self.text(Stage::Fused, &TargetModel::cpu())
    }

    /// The ordered kernels and their memory, for a CPU.
    #[track_caller]
    pub fn program(&self) -> String {
        self.text(Stage::Program, &TargetModel::cpu())
    }

    /// Cranelift's IR of each kernel, without templates. The calling convention, which is the operating system's, is written `native`.
    #[track_caller]
    pub fn clif(&self) -> String {
        let text = self.text(Stage::Clif, &TargetModel::cpu());
        ["system_v", "windows_fastcall", "apple_aarch64"].iter().fold(text, |text, name| {
            text.replace(&format!(" {name} {{"), " native {").replace(&format!(" {name}\n"), " native\n")
        })
    }

    /// The WebAssembly functions of each kernel, with SIMD128.
    #[track_caller]
    pub fn wat(&self) -> String {
        self.text(Stage::Wat, &TargetModel::cpu())
    }

    /// A WGSL module for each kernel, in its default variant. A browser takes each as it is.
    #[track_caller]
    pub fn wgsl(&self) -> String {
        self.text(Stage::Wgsl, &tinygpt_runtime::gpu::device::target(&self.options.caps))
    }

    #[track_caller]
    fn text(&self, stage: Stage, target: &TargetModel) -> String {
        let text = self.compiled(target).and_then(|compiled| {
            let kernels = kernels_named(&compiled.program, self.kernels.as_deref())?;
            let files = render(&compiled, stage, &self.options, &kernels)?;
            Ok(files.iter().map(|file| file.text().into_owned()).collect::<String>())
        });
        match text {
            Ok(text) => format!("{}\n", text.trim_end()),
            Err(e) => panic!("{} cannot be shown: {e}", self.forward.name),
        }
    }

    fn compiled(&self, target: &TargetModel) -> tinygpt_runtime::Result<Compiled> {
        compile(self.forward.clone(), &self.goal, target)
    }
}

/// Panics unless the gradients of the output `loss` agree with central finite differences in f64.
///
/// Each weight is moved along two random directions and along the element with the largest gradient, the other parameters being drawn as
/// `tinygpt run` draws them. The difference may be a hundred-thousandth of the gradient's norm; a model with a kink (a maximum,
/// say) at just the point drawn may fail without being wrong.
#[track_caller]
pub fn assert_gradients(forward: &Graph) {
    if let Err(sentence) = check_gradients(forward) {
        panic!("{}: {sentence}", forward.name);
    }
}

/// Panics unless one training step on `backend` gives the loss, the gradient norm and the gradients that the f64 interpreter gives.
///
/// An element may be off by a ten-thousandth of the largest one of its tensor, and besides by one rounding of the largest number that goes in or
/// comes out.
#[track_caller]
pub fn assert_matches_interp(forward: &Graph, backend: Backend) {
    if let Err(sentence) = compare(forward, backend) {
        panic!("{} on the backend {backend}: {sentence}", forward.name);
    }
}

fn check_gradients(forward: &Graph) -> Result<(), String> {
    /// Length of a step along a direction of norm 1.
    const STEP: f64 = 1e-4;
    let graph = Pass::Gradients.run(forward, &mut Stats::default()).map_err(|e| e.to_string())?;
    let values = seeded::of_graph(forward, SEED).map_err(|e| e.to_string())?;
    let types = forward.params.values().map(|p| p.ty.clone());
    let mut params: Vec<Tensor> =
        types.zip(&values).map(|(ty, (_, value))| Tensor { ty, data: numbers(value) }).collect();
    let evaluated = eval(&graph, &params).map_err(|e| e.to_string())?;
    let loss = |params: &[Tensor]| -> Result<f64, String> {
        let evaluated = eval(forward, params).map_err(|e| e.to_string())?;
        let loss = evaluated.output("loss").and_then(Tensor::item);
        loss.ok_or_else(|| "the output `loss` is no scalar: reduce it to one number".to_string())
    };
    let at = loss(&params)?;
    for (id, param) in forward.params.iter().filter(|(_, p)| p.is_weight()) {
        let name = &param.name;
        let gradient = evaluated.output(&format!("grad.{name}")).ok_or_else(|| format!("{name} has no gradient"))?;
        let gradient = gradient.data.clone();
        let norm = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
        for (direction, what) in directions(name, &gradient) {
            let moved = |params: &mut Vec<Tensor>, by: f64| {
                params[id.0 as usize].data.iter_mut().zip(&direction).for_each(|(x, d)| *x += by * d);
            };
            let saved = params[id.0 as usize].data.clone();
            moved(&mut params, STEP);
            let up = loss(&params)?;
            params[id.0 as usize].data.clone_from(&saved);
            moved(&mut params, -STEP);
            let down = loss(&params)?;
            params[id.0 as usize].data = saved;
            let found = (up - down) / (2.0 * STEP);
            let expected: f64 = gradient.iter().zip(&direction).map(|(g, d)| g * d).sum();
            // Rounding of the two losses over the step, with room.
            let allowed = 1e-5 * norm + 1e-9 * (1.0 + at.abs());
            // A difference that is no number is no agreement.
            if (found - expected).abs() > allowed || !found.is_finite() || !expected.is_finite() {
                return Err(format!(
                    "the gradient of {name} is {expected:e} along {what}, and the loss changes by {found:e}: one of the operations that \
                     {name} goes through has a wrong gradient, or a kink here"
                ));
            }
        }
    }
    Ok(())
}

/// Directions of norm 1 in which to move a weight, and what they are.
fn directions(name: &str, gradient: &[f64]) -> Vec<(Vec<f64>, String)> {
    let length = 1.0 / (gradient.len() as f64).sqrt();
    let random = |i: u64| {
        let stream = Stream::new(SEED, &format!("direction/{i}/{name}"));
        let signs = (0..gradient.len() as u64).map(|at| if stream.below(at, 2) == 0 { length } else { -length });
        (signs.collect(), format!("random direction {i}"))
    };
    let largest = (0..gradient.len()).max_by(|a, b| gradient[*a].abs().total_cmp(&gradient[*b].abs()));
    let element = largest.map(|largest| {
        let unit = (0..gradient.len()).map(|at| f64::from(u8::from(at == largest))).collect();
        (unit, format!("element {largest}"))
    });
    (0..2).map(random).chain(element).collect()
}

fn compare(forward: &Graph, backend: Backend) -> Result<(), String> {
    const TOLERANCE: f64 = 1e-4;
    /// Half a unit in the last place of f32, relative.
    const ROUNDING: f64 = 1.0 / (1u64 << 24) as f64;
    let run = |backend: Backend| -> tinygpt_runtime::Result<Vec<(String, Vec<f64>)>> {
        let options = ExecOptions::resolve(&ExecArgs { backend: Some(backend), ..ExecArgs::default() }, None)?;
        let goal = Goal::Train { adamw: AdamWConfig::default(), gradients: true };
        let compiled = compile(forward.clone(), &goal, &options.target())?;
        let mut executor = prepare(&compiled, &options)?;
        let mut values = Vec::new();
        for (name, value) in seeded::of_graph(&compiled.step, SEED)? {
            executor.write(&name, &value)?;
            values.push((name, numbers(&value)));
        }
        executor.step()?;
        let outputs: Vec<String> = executor.slots().of(Role::Output).map(|slot| slot.name.clone()).collect();
        for name in outputs {
            let value = executor.read(&name)?;
            values.push((name, numbers(&value)));
        }
        Ok(values)
    };
    let expected = run(Backend::Interp).map_err(|e| e.to_string())?;
    let found = run(backend).map_err(|e| e.to_string())?;
    let scale = expected.iter().map(|(_, values)| magnitude(values)).fold(0.0, f64::max);
    for ((name, expected), (_, found)) in expected.iter().zip(&found) {
        let error = expected.iter().zip(found).map(|(e, f)| if e == f { 0.0 } else { (e - f).abs() });
        // A NaN is larger than anything.
        let error = error.fold(0.0, |most: f64, e| if e.is_nan() { f64::INFINITY } else { most.max(e) });
        let allowed = TOLERANCE * magnitude(expected) + ROUNDING * scale;
        if error > allowed {
            return Err(format!(
                "{name} is off by {error:e}, where its largest element is {:e} and {allowed:e} is allowed",
                magnitude(expected)
            ));
        }
    }
    Ok(())
}

fn magnitude(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |most, x| x.abs().max(most))
}

fn numbers(value: &HostTensor) -> Vec<f64> {
    match value.data() {
        HostData::F32(from) => from.iter().map(|x| f64::from(*x)).collect(),
        HostData::I32(from) => from.iter().map(|x| f64::from(*x)).collect(),
        HostData::U32(from) => from.iter().map(|x| f64::from(*x)).collect(),
        HostData::Bool(from) => from.iter().map(|x| f64::from(u8::from(*x))).collect(),
        HostData::F16(from) => from.iter().map(|x| f64::from(*x)).collect(),
    }
}
