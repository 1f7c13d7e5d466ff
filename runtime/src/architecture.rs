//! What a model is: a GPT of stated sizes, or a forward graph that a user brings.
//!
//! A graph to train ([`GraphModel`]) has
//! - inputs `ids` and `targets`, both i32 `[B,T]`: B rows of T tokens, and the tokens that follow them;
//! - an output `loss`, an f32 scalar: the mean over the batch of what is to become small;
//! - weights in f32, and no other state: that is what a checkpoint holds;
//! - for sampling and `eval` an output `logits`, f32 `[B,T,256]`, where position t predicts the token after t from those up to t.
//!
//! Tokens are bytes. A graph runs at its own B and T: nothing is re-batched.
//!
//! Invariant: a [`GraphModel`] has been found to be so when it was made; its graph satisfies the verifier.

use crate::config::ModelConfig;
use crate::error::one_line;
use crate::model::{forward, weight_shapes};
use crate::{Error, Result};
use std::path::Path;
use std::sync::Arc;
use tinygpt_ir::random::index_extents;
use tinygpt_ir::{DType, Graph, ParamKind, StateRole, TensorType};

/// What a run's directory and configuration call its graph, where its model is one.
pub const GRAPH_FILE: &str = "model.gir";

/// Values that a token can have.
const BYTES: usize = 256;

/// Differences that a message lists of each side.
const SHOWN: usize = 4;

/// A model, as everything that compiles one takes it.
#[derive(Debug, Clone, PartialEq)]
pub enum Architecture {
    Gpt(ModelConfig),
    Graph(Arc<GraphModel>),
}

impl From<&ModelConfig> for Architecture {
    fn from(config: &ModelConfig) -> Self {
        Self::Gpt(config.clone())
    }
}

impl From<&Architecture> for Architecture {
    fn from(architecture: &Architecture) -> Self {
        architecture.clone()
    }
}

impl From<GraphModel> for Architecture {
    fn from(model: GraphModel) -> Self {
        Self::Graph(Arc::new(model))
    }
}

impl Architecture {
    /// The forward graph for `batch` rows. Errors: a graph has another number of rows.
    pub fn forward(&self, batch: usize) -> Result<Graph> {
        match self {
            Self::Gpt(config) => forward(config, batch),
            Self::Graph(model) if model.batch == batch => Ok(model.graph.clone()),
            Self::Graph(model) => Err(Error::input(format!(
                "the graph {} takes {} rows a batch, and {batch} were asked for",
                model.graph.name, model.batch
            ))),
        }
    }

    /// Rows that a program of this model takes where any number would do: `preferred`, or a graph's own.
    pub fn rows(&self, preferred: usize) -> usize {
        match self {
            Self::Gpt(_) => preferred,
            Self::Graph(model) => model.batch,
        }
    }

    /// Tokens known, from 0.
    pub fn vocab(&self) -> usize {
        match self {
            Self::Gpt(config) => config.vocab,
            Self::Graph(model) => model.vocab,
        }
    }

    /// Tokens of a row.
    pub fn ctx(&self) -> usize {
        match self {
            Self::Gpt(config) => config.ctx,
            Self::Graph(model) => model.ctx,
        }
    }

    /// Number of parameters.
    pub fn params(&self) -> u64 {
        match self {
            Self::Gpt(config) => config.params(),
            Self::Graph(model) => model.graph.weight_count() as u64,
        }
    }

    /// Checks that bytes can be its tokens, which training, sampling and evaluating need.
    pub fn check_bytes(&self) -> Result<()> {
        match self {
            Self::Gpt(config) => config.check_bytes(),
            Self::Graph(_) => Ok(()),
        }
    }

    /// Checks that it is the `expected` one; the error lists what differs and begins with `origin`, which names where this one was found.
    pub fn check_is(&self, expected: &Architecture, origin: &str) -> Result<()> {
        let kind = |of: &Architecture| match of {
            Self::Gpt(_) => "a GPT".to_owned(),
            Self::Graph(model) => format!("the graph {}", model.graph.name),
        };
        match (self, expected) {
            (Self::Gpt(found), Self::Gpt(expected)) => {
                let differences = found.differences(expected);
                if differences.is_empty() {
                    return Ok(());
                }
                Err(Error::input(format!("{origin} is another model: {}", differences.join("; "))))
            }
            (Self::Graph(found), Self::Graph(expected)) => {
                let [found, expected] = [found, expected].map(|model| weight_shapes(&model.graph));
                let show = |list: &[(String, Vec<usize>)]| -> Vec<String> {
                    list.iter().map(|(name, shape)| format!("{name} {shape:?}")).collect()
                };
                let (found, expected) = (show(&found), show(&expected));
                let without = |a: &[String], b: &[String]| -> Vec<String> {
                    a.iter().filter(|w| !b.contains(w)).take(SHOWN).cloned().collect()
                };
                let (extra, missing) = (without(&found, &expected), without(&expected, &found));
                if extra.is_empty() && missing.is_empty() {
                    return Ok(());
                }
                Err(Error::input(format!(
                    "{origin} is another model: it has the weights {}, and {} were expected",
                    or_none(&extra),
                    or_none(&missing)
                )))
            }
            _ => Err(Error::input(format!("{origin} is {}, and {} was expected", kind(self), kind(expected)))),
        }
    }

    /// Checks that it can be asked what comes next. Errors: a graph without the output `logits`.
    pub fn check_logits(&self) -> Result<()> {
        match self {
            Self::Gpt(_) => Ok(()),
            Self::Graph(model) if model.logits => Ok(()),
            Self::Graph(model) => Err(Error::input(format!(
                "the graph {} has no output `logits` of type f32[{},{},{BYTES}], so it can be trained but not sampled or evaluated on a \
                 file; its outputs are {}",
                model.graph.name,
                model.batch,
                model.ctx,
                outputs(&model.graph)
            ))),
        }
    }
}

/// A forward graph to train; see the module comment.
#[derive(Debug, Clone, PartialEq)]
pub struct GraphModel {
    graph: Graph,
    batch: usize,
    ctx: usize,
    vocab: usize,
    logits: bool,
}

impl GraphModel {
    /// Checks a graph. Errors: one sentence on what it lacks or has besides.
    pub fn new(graph: Graph) -> Result<Self> {
        let name = graph.name.clone();
        let wrong = |what: String| Error::input(format!("the graph {name} cannot be trained: {what}"));
        tinygpt_ir::verify::verify(&graph).map_err(|e| wrong(one_line(e)))?;
        let input = |name: &str| {
            let found = graph.param_named(name).map(|p| &graph.params[p]).filter(|p| p.kind == ParamKind::Input);
            let ty = found.map(|p| &p.ty).ok_or_else(|| {
                let inputs = graph.params.values().filter(|p| p.kind == ParamKind::Input);
                let list: Vec<String> = inputs.map(|p| format!("{} {}", p.name, p.ty)).collect();
                wrong(format!("it has no input `{name}` i32[B,T]; its inputs are {}", or_none(&list)))
            })?;
            match (ty.dtype, &ty.shape[..]) {
                (DType::I32, [batch, ctx]) => Ok((*batch, *ctx)),
                _ => Err(wrong(format!("its input `{name}` is {ty}, expected i32[B,T]"))),
            }
        };
        let (ids, targets) = (input("ids")?, input("targets")?);
        if ids != targets {
            let [a, b] = [ids, targets].map(|(batch, ctx)| format!("i32[{batch},{ctx}]"));
            return Err(wrong(format!("its input `ids` is {a} and `targets` is {b}, expected one shape")));
        }
        for p in graph.params.values() {
            match p.kind {
                ParamKind::Input if ["ids", "targets"].contains(&p.name.as_str()) => {}
                ParamKind::Input => {
                    return Err(wrong(format!(
                        "it has an input `{}` {} besides `ids` and `targets`, which nothing would fill",
                        p.name, p.ty
                    )));
                }
                ParamKind::State { role: StateRole::Weight, .. } if p.ty.dtype == DType::F32 => {}
                ParamKind::State { role: StateRole::Weight, .. } => {
                    return Err(wrong(format!("its weight `{}` is {}, expected f32", p.name, p.ty)));
                }
                ParamKind::State { .. } => {
                    return Err(wrong(format!(
                        "its state `{}` is no weight, and a checkpoint holds weights alone",
                        p.name
                    )));
                }
            }
        }
        if !graph.params.values().any(|p| p.is_weight()) {
            return Err(wrong("it has no weight (a state of role weight)".to_string()));
        }
        if let Some((p, _)) = graph.updates.first() {
            return Err(wrong(format!(
                "it updates `{}` itself, which the optimizer does: give the forward graph alone",
                graph.params[*p].name
            )));
        }
        match graph.output_named("loss").map(|id| &graph.nodes[id].ty) {
            Some(ty) if *ty == TensorType::f32([]) => {}
            Some(ty) => return Err(wrong(format!("its output `loss` is {ty}, expected f32[]"))),
            None => {
                return Err(wrong(format!("it has no output `loss` f32[]; its outputs are {}", outputs(&graph))));
            }
        }
        let (batch, ctx) = ids;
        let logits = match graph.output_named("logits").map(|id| &graph.nodes[id].ty) {
            None => false,
            Some(ty) if *ty == TensorType::f32([batch, ctx, BYTES]) => true,
            Some(ty) => {
                return Err(wrong(format!("its output `logits` is {ty}, expected f32[{batch},{ctx},{BYTES}]")));
            }
        };
        let extents = index_extents(&graph);
        for name in ["ids", "targets"] {
            let known = graph.param_named(name).and_then(|p| extents[p.index()]);
            if let Some(known) = known.filter(|n| *n < BYTES) {
                return Err(wrong(format!(
                    "its `{name}` index {known} values, and text is read as bytes, which need {BYTES}"
                )));
            }
        }
        Ok(Self { graph, batch, ctx, vocab: BYTES, logits })
    }

    /// Reads the text of a graph; `origin` names it in errors.
    pub fn parse(text: &str, origin: &str) -> Result<Self> {
        let graph = tinygpt_ir::text::parse(text).map_err(|e| Error::input(format!("{origin} holds no graph: {e}")))?;
        Self::new(graph).map_err(|e| Error::input(format!("{origin}: {e}")))
    }

    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::reading(path, e))?;
        Self::parse(&text, &path.display().to_string())
    }

    /// Reads a file, and gives each node its line there as the source line. The name of the file lives as long as the process.
    pub fn read_located(path: &Path) -> Result<Self> {
        let model = Self::read(path)?;
        let text = std::fs::read_to_string(path).map_err(|e| Error::reading(path, e))?;
        let name: &'static str = Box::leak(path.display().to_string().into_boxed_str());
        let graph = tinygpt_ir::text::parse_located(&text, name).map_err(|e| Error::reading(path, e))?;
        Ok(Self { graph, ..model })
    }

    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Rows of a batch.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Whether it can be asked what comes next.
    pub fn has_logits(&self) -> bool {
        self.logits
    }
}

fn outputs(graph: &Graph) -> String {
    let list: Vec<String> = graph.outputs.iter().map(|(name, id)| format!("{name} {}", graph.nodes[*id].ty)).collect();
    or_none(&list)
}

fn or_none(list: &[String]) -> String {
    if list.is_empty() { "none".to_string() } else { list.join(", ") }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use tinygpt_ir::{Builder, Init, StateRole};

    /// Logits of the next byte from this one alone, [2,4] tokens; `change` may add to it.
    pub(crate) fn bigram(change: impl Fn(&Builder)) -> Graph {
        let b = Builder::new("bigram");
        let tokens = TensorType::new(DType::I32, [2, 4]);
        let (ids, targets) = (b.input("ids", tokens.clone()), b.input("targets", tokens));
        let logits = b.weight("table", [256, 256], Init::Normal(0.1)).gather(ids);
        b.output("logits", logits);
        b.output("loss", logits.cross_entropy(targets));
        change(&b);
        b.finish().unwrap()
    }

    #[test]
    fn a_graph_says_what_it_is() {
        let model = GraphModel::new(bigram(|_| ())).unwrap();
        assert_eq!(GraphModel::parse(&model.graph().to_string(), "f").unwrap(), model);
        let a = Architecture::from(model);
        assert_eq!((a.rows(8), a.ctx(), a.vocab(), a.params()), (2, 4, 256, 65_536));
        a.check_bytes().and_then(|()| a.check_logits()).unwrap();
        assert_eq!(a.forward(2).unwrap(), bigram(|_| ()));
        let error = a.forward(1).unwrap_err().to_string();
        assert_eq!(error, "the graph bigram takes 2 rows a batch, and 1 were asked for");
    }

    #[test]
    fn what_is_no_model_is_one_sentence() {
        let error = |graph: Graph| GraphModel::new(graph).unwrap_err().to_string();
        let added = |change: fn(&Builder)| error(bigram(change));
        assert_eq!(
            added(|b| {
                b.input("mask", TensorType::f32([4]));
            }),
            "the graph bigram cannot be trained: it has an input `mask` f32[4] besides `ids` and `targets`, which nothing would fill"
        );
        assert!(
            added(|b| {
                b.state("h", TensorType::f32([4]), Init::Zeros, StateRole::Other);
            })
            .contains("its state `h` is no weight")
        );
        let without = |name: &str| {
            let mut graph = bigram(|_| ());
            graph.outputs.retain(|(n, _)| n != name);
            graph
        };
        assert!(error(without("loss")).ends_with("it has no output `loss` f32[]; its outputs are logits f32[2,4,256]"));
        let renamed = |from: &str, to: &str| {
            tinygpt_ir::text::parse(&bigram(|_| ()).to_string().replace(from, to))
                .unwrap_or_else(|e| panic!("{}", e.render(None)))
        };
        assert!(
            error(renamed("@ids", "@words"))
                .contains("no input `ids` i32[B,T]; its inputs are words i32[2,4], targets i32[2,4]")
        );
        assert!(error(renamed("role=weight", "role=other")).contains("its state `table` is no weight"));
        assert!(
            error(renamed("output loss = %4", "output loss = %3"))
                .contains("its output `loss` is f32[2,4,256], expected f32[]")
        );
        assert!(
            error(renamed("f32[256,256]", "f32[100,256]"))
                .ends_with("its `ids` index 100 values, and text is read as bytes, which need 256")
        );
        let silent = Architecture::from(GraphModel::new(without("logits")).unwrap());
        let error = silent.check_logits().unwrap_err().to_string();
        assert!(
            error.starts_with("the graph bigram has no output `logits` of type f32[2,4,256], so it can be trained"),
            "{error}"
        );
        assert!(
            GraphModel::parse("graph", "f.gir")
                .unwrap_err()
                .to_string()
                .starts_with("f.gir holds no graph: line 1, column 1")
        );
    }
}
