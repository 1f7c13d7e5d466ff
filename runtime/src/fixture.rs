//! Parity fixtures: a model's forward, gradients and training recorded by PyTorch in float64, and the comparison of a
//! backend's results with them.
//!
//! A fixture is a safetensors file with its configuration in the metadata and these tensors:
//!
//! | key | what |
//! |---|---|
//! | `ids`, `targets` [B,T] i32 | one batch, used for every step |
//! | `init.NAME` | starting weights, linear weights as [out,in] |
//! | `logits` [B,T,V], metadata `loss_f64`, `grad_norm_f64` | forward at the starting weights |
//! | `grad.NAME` | gradients at the starting weights, before clipping |
//! | `step1.NAME`, `stepN.NAME` | weights after 1 and after N = metadata `steps` AdamW steps |
//! | `losses` [N] f64 | the loss before each step |
//! | `greedy` [1,M] i32 | M - 4 greedy tokens after the first 4 of `ids`, with the weights after step N |
//!
//! Tolerances are those of `Tolerance`, the only place they are written. |x| of a tensor is its Euclidean norm. A result
//! that is not a number passes no tolerance.

use crate::config::{Gelu, ModelConfig};
use crate::tensor::HostTensor;
use crate::tensor_file::{TensorFile, Tensors};
use crate::{Error, Result};
use std::fmt;
use std::path::Path;
use std::str::FromStr;

/// Tokens of `ids` that prompt the greedy continuation.
pub const PROMPT: usize = 4;

/// What f32 results may differ by.
struct Tolerance;

impl Tolerance {
    /// max|d logits| by max|ref|.
    const LOGITS: f64 = 1e-5;
    /// Relative, of the first loss.
    const LOSS: f64 = 1e-5;
    /// Relative, of the global gradient norm: what the tolerance of the gradients allows it.
    const GRAD_NORM: f64 = 1e-4;
    /// |d grad| by |ref| ...
    const GRAD: f64 = 1e-4;
    /// ... plus this by the global gradient norm.
    const GRAD_OF_NORM: f64 = 1e-6;
    /// |d weights| by |ref|.
    const WEIGHTS: f64 = 1e-4;
    /// The same where the gradient is zero in exact arithmetic, and Adam amplifies its rounding noise ...
    const WEIGHTS_NO_GRAD: f64 = 1e-2;
    /// ... which is so where |ref grad| is below this by the global gradient norm.
    const NO_GRAD: f64 = 1e-9;
    /// Relative, of each loss of the run.
    const LOSSES: f64 = 1e-4;
}

/// A loaded fixture.
#[derive(Debug, Clone)]
pub struct Fixture {
    pub model: ModelConfig,
    pub batch: usize,
    pub steps: usize,
    pub lr: f64,
    pub betas: [f64; 2],
    pub eps: f64,
    pub weight_decay: f64,
    /// 0 for none.
    pub grad_clip: f64,
    /// (batch, ctx) i32
    pub ids: HostTensor,
    /// (batch, ctx) i32
    pub targets: HostTensor,
    /// Starting weights by name.
    pub init: Tensors,
    /// What a backend must reproduce.
    pub expected: Outcome,
}

/// The results that are compared.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// (batch, ctx, vocab) f32, at the starting weights
    pub logits: HostTensor,
    /// At the starting weights.
    pub loss: f64,
    /// Global norm at the starting weights, before clipping.
    pub grad_norm: f64,
    /// Gradients at the starting weights, before clipping.
    pub grads: Tensors,
    /// Weights after the first step.
    pub step1: Tensors,
    /// Weights after the last step.
    pub last: Tensors,
    /// Loss before each step.
    pub losses: Vec<f64>,
    /// Prompt and greedy continuation, with the weights after the last step.
    pub greedy: Vec<i32>,
}

impl Fixture {
    /// Loads a fixture; damage and missing parts are one sentence.
    pub fn load(path: &Path) -> Result<Self> {
        let file = TensorFile::read(path)?;
        let name = path.display().to_string();
        let meta = Metadata { file: &file, name: &name };
        meta.fixed("linear_layout", "[out,in]")?;
        meta.fixed("layernorm_eps", "1e-05")?;
        let gelu = match meta.text("gelu")? {
            "erf" => Gelu::Erf,
            "tanh" => Gelu::Tanh,
            other => return Err(Error::input(format!("{name}: gelu is \"{other}\", and erf or tanh was expected"))),
        };
        let model = ModelConfig {
            vocab: meta.number("vocab")?,
            ctx: meta.number("ctx")?,
            layers: meta.number("layers")?,
            heads: meta.number("heads")?,
            d_model: meta.number("d_model")?,
            d_mlp: meta.number("d_mlp")?,
            gelu,
        };
        model.validate().map_err(|e| Error::input(format!("{name}: {e}")))?;
        let batch: usize = meta.number("batch")?;
        let steps: usize = meta.number("steps")?;
        let section = |prefix: &str| -> Result<Tensors> {
            let names = file.names().into_iter().filter_map(|n| n.strip_prefix(prefix).map(str::to_owned));
            names.map(|n| Ok((n.clone(), file.tensor(&format!("{prefix}{n}"))?))).collect()
        };
        let fixture = Self {
            batch,
            steps,
            lr: meta.number("lr")?,
            betas: [meta.number("beta1")?, meta.number("beta2")?],
            eps: meta.number("eps")?,
            weight_decay: meta.number("weight_decay")?,
            grad_clip: meta.number("grad_clip")?,
            ids: shaped(&file, "ids", &[batch, model.ctx], &name)?,
            targets: shaped(&file, "targets", &[batch, model.ctx], &name)?,
            init: section("init.")?,
            expected: Outcome {
                logits: shaped(&file, "logits", &[batch, model.ctx, model.vocab], &name)?,
                loss: meta.number("loss_f64")?,
                grad_norm: meta.number("grad_norm_f64")?,
                grads: section("grad.")?,
                step1: section("step1.")?,
                last: section(&format!("step{steps}."))?,
                losses: doubles(&file, "losses", steps, &name)?,
                greedy: file.tensor("greedy")?.as_i32()?.to_vec(),
            },
            model,
        };
        fixture.check(&name)?;
        Ok(fixture)
    }

    /// Checks what comparing and running relies on.
    fn check(&self, name: &str) -> Result<()> {
        let shapes: Vec<_> = self.init.iter().map(|(n, t)| (n.clone(), t.shape().to_vec())).collect();
        for (what, tensors) in [
            ("its gradients", &self.expected.grads),
            ("its weights after step 1", &self.expected.step1),
            ("its weights after the last step", &self.expected.last),
        ] {
            crate::checkpoint::check_architecture(tensors, &shapes, &format!("{name}, {what},"))?;
            tensors.values().try_for_each(|tensor| tensor.as_f32().map(|_| ()))?;
        }
        for ids in [self.ids.as_i32()?, self.targets.as_i32()?, &self.expected.greedy] {
            if let Some(id) = ids.iter().find(|id| usize::try_from(**id).map_or(true, |id| id >= self.model.vocab)) {
                return Err(Error::input(format!("{name} holds the token {id}, and vocab is {}", self.model.vocab)));
            }
        }
        let prompt = self.ids.as_i32()?.get(..PROMPT);
        if self.model.ctx < PROMPT || prompt != self.expected.greedy.get(..PROMPT) {
            return Err(Error::input(format!("{name}: greedy does not begin with the first {PROMPT} tokens of ids")));
        }
        self.expected.logits.as_f32().map(|_| ())
    }

    /// The tokens that prompt the greedy continuation.
    pub fn prompt(&self) -> &[i32] {
        &self.expected.greedy[..PROMPT]
    }

    /// Compares results with the fixture. An error when tensors are missing or of other shapes; results beyond tolerance
    /// are rows that failed.
    pub fn compare(&self, found: &Outcome) -> Result<Report> {
        let want = &self.expected;
        let mut rows = Vec::new();
        let mut row = |what, name: &str, error: f64, tolerance: f64| {
            rows.push(Row { what, name: name.to_owned(), error, tolerance });
        };
        let (found_logits, want_logits) = (floats(&found.logits, &want.logits, "logits")?, want.logits.as_f32()?);
        let difference = largest(found_logits.iter().zip(want_logits).map(|(f, w)| f64::from(*f) - f64::from(*w)));
        let scale = largest(want_logits.iter().map(|w| f64::from(*w)));
        row("logits", "logits", difference, Tolerance::LOGITS * scale);
        row("loss", "loss", (found.loss - want.loss).abs(), Tolerance::LOSS * want.loss.abs());
        row(
            "gradient norm",
            "grad_norm",
            (found.grad_norm - want.grad_norm).abs(),
            Tolerance::GRAD_NORM * want.grad_norm,
        );
        for (name, reference) in &want.grads {
            let tolerance = Tolerance::GRAD * norm(reference.as_f32()?) + Tolerance::GRAD_OF_NORM * want.grad_norm;
            row("gradients", name, distance(&found.grads, name, reference)?, tolerance);
        }
        let last = ("weights, last step", &found.last, &want.last);
        for (what, found, want_weights) in [("weights, step 1", &found.step1, &want.step1), last] {
            for (name, reference) in want_weights {
                let without_gradient = norm(want.grads[name].as_f32()?) < Tolerance::NO_GRAD * want.grad_norm;
                let share = if without_gradient { Tolerance::WEIGHTS_NO_GRAD } else { Tolerance::WEIGHTS };
                row(what, name, distance(found, name, reference)?, share * norm(reference.as_f32()?));
            }
        }
        same_len("losses", found.losses.len(), want.losses.len())?;
        for (step, (found, want)) in found.losses.iter().zip(&want.losses).enumerate() {
            row("losses", &format!("before step {}", step + 1), (found - want).abs(), Tolerance::LOSSES * want.abs());
        }
        same_len("greedy tokens", found.greedy.len(), want.greedy.len())?;
        let wrong = found.greedy.iter().zip(&want.greedy).filter(|(f, w)| f != w).count();
        row("greedy tokens", "tokens that differ", wrong as f64, 0.0);
        Ok(Report { rows })
    }
}

/// One comparison.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The group of results it belongs to.
    pub what: &'static str,
    pub name: String,
    pub error: f64,
    pub tolerance: f64,
}

impl Row {
    /// An error that is not a number does not pass.
    pub fn passed(&self) -> bool {
        self.error <= self.tolerance
    }

    /// Error by tolerance: 1 is the limit.
    fn share(&self) -> f64 {
        if self.error == 0.0 { 0.0 } else { self.error / self.tolerance }
    }

    /// Orders rows by their share of the tolerance, not-a-number last.
    fn worse(a: &&Self, b: &&Self) -> std::cmp::Ordering {
        let key = |row: &Self| if row.share().is_nan() { f64::INFINITY } else { row.share() };
        key(a).total_cmp(&key(b))
    }
}

/// All comparisons with one fixture. Prints as a table: the worst row of each group, then every row that failed.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    pub rows: Vec<Row>,
}

impl Report {
    pub fn passed(&self) -> bool {
        self.rows.iter().all(Row::passed)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<20} {:>6}  {:<36} {:>10} {:>10} {:>9}",
            "compared", "rows", "worst", "error", "tolerance", "of limit"
        )?;
        for group in self.rows.chunk_by(|a, b| a.what == b.what) {
            let Some(worst) = group.iter().max_by(Row::worse) else { continue };
            writeln!(
                f,
                "{:<20} {:>6}  {:<36} {:>10.2e} {:>10.2e} {:>8.2}%{}",
                worst.what,
                group.len(),
                worst.name,
                worst.error,
                worst.tolerance,
                100.0 * worst.share(),
                if group.iter().all(Row::passed) { "" } else { "  FAILED" }
            )?;
        }
        let failed: Vec<_> = self.rows.iter().filter(|row| !row.passed()).collect();
        for row in &failed {
            writeln!(f, "beyond tolerance: {}, {}: {:.3e} > {:.3e}", row.what, row.name, row.error, row.tolerance)?;
        }
        let verdict = if failed.is_empty() { "passed" } else { "failed" };
        write!(f, "{verdict}: {} of {} within tolerance", self.rows.len() - failed.len(), self.rows.len())
    }
}

/// The fixture's configuration, read with messages that name key and file.
struct Metadata<'a> {
    file: &'a TensorFile,
    name: &'a str,
}

impl Metadata<'_> {
    fn text(&self, key: &str) -> Result<&str> {
        self.file
            .metadata(key)
            .ok_or_else(|| Error::input(format!("{} is not a parity fixture: its metadata has no {key}", self.name)))
    }

    fn number<T: FromStr>(&self, key: &str) -> Result<T> {
        let text = self.text(key)?;
        text.parse().map_err(|_| Error::input(format!("{}: {key} is \"{text}\", and a number was expected", self.name)))
    }

    /// A key that may be absent and has only one value this model knows.
    fn fixed(&self, key: &str, value: &str) -> Result<()> {
        match self.file.metadata(key) {
            Some(other) if other != value => {
                Err(Error::input(format!("{}: {key} is \"{other}\", and only \"{value}\" is known", self.name)))
            }
            _ => Ok(()),
        }
    }
}

fn shaped(file: &TensorFile, key: &str, shape: &[usize], name: &str) -> Result<HostTensor> {
    let tensor = file.tensor(key)?;
    if tensor.shape() != shape {
        return Err(Error::input(format!("{name}: {key} is {}, and shape {shape:?} was expected", tensor.type_name())));
    }
    Ok(tensor)
}

fn doubles(file: &TensorFile, key: &str, len: usize, name: &str) -> Result<Vec<f64>> {
    let (dtype, shape, bytes) = file.raw(key)?;
    if dtype != safetensors::Dtype::F64 || shape != [len] {
        return Err(Error::input(format!("{name}: {key} is {dtype}{shape:?}, and F64[{len}] was expected")));
    }
    let (values, _) = bytes.as_chunks::<8>();
    Ok(values.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect())
}

/// The elements of `found`, which must have the type and shape of `want`.
fn floats<'a>(found: &'a HostTensor, want: &HostTensor, name: &str) -> Result<&'a [f32]> {
    if found.shape() != want.shape() {
        return Err(Error::failed(format!(
            "{name} came out as {}, and {} was expected",
            found.type_name(),
            want.type_name()
        )));
    }
    found.as_f32()
}

/// |found - want| of the tensor `name`.
fn distance(found: &Tensors, name: &str, want: &HostTensor) -> Result<f64> {
    let found = found.get(name).ok_or_else(|| Error::failed(format!("the results have no {name}")))?;
    let found = floats(found, want, name)?;
    let squares = found.iter().zip(want.as_f32()?).map(|(f, w)| (f64::from(*f) - f64::from(*w)).powi(2));
    Ok(squares.sum::<f64>().sqrt())
}

/// Euclidean norm.
fn norm(values: &[f32]) -> f64 {
    values.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt()
}

/// Largest absolute value; not a number as soon as one is not.
fn largest(values: impl Iterator<Item = f64>) -> f64 {
    values.map(f64::abs).fold(0.0, |a, b| if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) })
}

fn same_len(what: &str, found: usize, want: usize) -> Result<()> {
    if found == want {
        Ok(())
    } else {
        Err(Error::failed(format!("there are {found} {what}, and {want} were expected")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixtures() -> [Fixture; 2] {
        ["parity_a", "parity_b"].map(|name| {
            let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures");
            Fixture::load(&dir.join(format!("{name}.safetensors"))).unwrap()
        })
    }

    #[test]
    fn the_fixtures_load_with_their_configuration() {
        let [a, b] = fixtures();
        assert_eq!((a.model.vocab, a.model.layers, a.batch, a.steps), (64, 2, 3, 20));
        assert_eq!((b.model.vocab, b.model.heads, b.model.d_mlp, b.batch), (50, 3, 144, 2));
        for fixture in [a, b] {
            assert_eq!(fixture.init.values().map(|t| t.len() as u64).sum::<u64>(), fixture.model.params());
            assert_eq!(fixture.expected.losses[0], fixture.expected.loss);
            assert_eq!(fixture.expected.greedy.len(), 28);
        }
    }

    /// What the file states about itself: the norm of the gradients, and one AdamW step from init by them.
    #[test]
    fn gradients_and_first_step_are_consistent() {
        for fixture in fixtures() {
            let want = &fixture.expected;
            let total = want.grads.values().map(|g| norm(g.as_f32().unwrap()).powi(2)).sum::<f64>().sqrt();
            assert!((total / want.grad_norm - 1.0).abs() < 1e-6, "{total} {}", want.grad_norm);
            let clip = (fixture.grad_clip / (total + 1e-6)).min(1.0);
            let mut outcome = want.clone();
            for (name, init) in &fixture.init {
                let decay = if init.shape().len() >= 2 { fixture.weight_decay } else { 0.0 };
                let stepped = init.as_f32().unwrap().iter().zip(want.grads[name].as_f32().unwrap()).map(|(p, g)| {
                    // At the first step both moments, bias-corrected, are the gradient and its square.
                    let (p, g) = (f64::from(*p), f64::from(*g) * clip);
                    (p * (1.0 - fixture.lr * decay) - fixture.lr * g / (g.abs() + fixture.eps)) as f32
                });
                outcome.step1.insert(name.clone(), HostTensor::f32(init.shape(), stepped.collect()).unwrap());
            }
            let report = fixture.compare(&outcome).unwrap();
            assert!(report.passed(), "{report}");
        }
    }

    type Change<'a> = &'a dyn Fn(&mut Outcome, f32);

    /// Each kind of result, moved to either side of its tolerance.
    #[test]
    fn tolerances_bind() {
        let [fixture, _] = fixtures();
        let with = |change: &dyn Fn(&mut Outcome)| {
            let mut outcome = fixture.expected.clone();
            change(&mut outcome);
            fixture.compare(&outcome).unwrap()
        };
        let scaled = |by: f32| move |t: &mut HostTensor| t.as_f32_mut().unwrap().iter_mut().for_each(|x| *x *= by);
        let name = "blocks.0.mlp.fc_in.weight";
        assert!(with(&|_| ()).passed());
        let cases: [(&str, Change); 7] = [
            ("logits", &|o, by| scaled(1.0 + by * 0.5e-5)(&mut o.logits)),
            ("loss", &|o, by| o.loss *= 1.0 + f64::from(by) * 0.5e-5),
            ("gradients", &|o, by| scaled(1.0 + by * 0.5e-4)(o.grads.get_mut(name).unwrap())),
            ("weights, step 1", &|o, by| scaled(1.0 + by * 0.5e-4)(o.step1.get_mut(name).unwrap())),
            ("weights, last step", &|o, by| scaled(1.0 + by * 0.5e-4)(o.last.get_mut(name).unwrap())),
            ("losses", &|o, by| o.losses[19] *= 1.0 + f64::from(by) * 0.5e-4),
            ("gradient norm", &|o, by| o.grad_norm *= 1.0 + f64::from(by) * 0.5e-4),
        ];
        for (what, change) in cases {
            assert!(with(&|o| change(o, 1.0)).passed(), "{what} within tolerance");
            let report = with(&|o| change(o, 4.0));
            let failed: Vec<_> = report.rows.iter().filter(|row| !row.passed()).map(|row| row.what).collect();
            assert_eq!(failed, [what]);
            let text = report.to_string();
            assert!(
                text.contains("FAILED") && text.contains("beyond tolerance") && text.contains("\nfailed: "),
                "{text}"
            );
        }
        assert!(!with(&|o| o.greedy[27] ^= 1).passed());
        // A zero-gradient tensor has the wide tolerance.
        let bias = "blocks.1.attn.k_proj.bias";
        assert!(with(&|o| scaled(1.005)(o.last.get_mut(bias).unwrap())).passed());
        assert!(!with(&|o| scaled(1.02)(o.last.get_mut(bias).unwrap())).passed());
    }

    #[test]
    fn not_a_number_passes_nothing() {
        let [fixture, _] = fixtures();
        let changes: [&dyn Fn(&mut Outcome); 4] = [
            &|o| o.logits.as_f32_mut().unwrap()[5] = f32::NAN,
            &|o| o.loss = f64::NAN,
            &|o| o.grads.values_mut().next().unwrap().as_f32_mut().unwrap()[0] = f32::NAN,
            &|o| o.losses[3] = f64::NAN,
        ];
        for change in changes {
            let mut outcome = fixture.expected.clone();
            change(&mut outcome);
            let report = fixture.compare(&outcome).unwrap();
            assert!(!report.passed());
            assert!(report.to_string().contains("NaN"), "{report}");
        }
    }

    #[test]
    fn missing_results_are_errors() {
        let [fixture, other] = fixtures();
        let mut outcome = fixture.expected.clone();
        outcome.grads.remove("ln_final.bias");
        assert_eq!(fixture.compare(&outcome).unwrap_err().to_string(), "the results have no ln_final.bias");
        assert!(fixture.compare(&other.expected).unwrap_err().to_string().starts_with("logits came out as"));
    }

    #[test]
    fn files_that_are_no_fixture_say_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        crate::tensor_file::write(&path, [], &Default::default()).unwrap();
        let error = Fixture::load(&path).unwrap_err().to_string();
        assert!(error.ends_with("is not a parity fixture: its metadata has no gelu"), "{error}");
    }
}
