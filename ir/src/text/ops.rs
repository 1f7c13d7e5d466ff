//! Attributes of ops in text: what is printed ([`attributes`]) and how an op is built from what was read ([`build`]).
//!
//! The two are inverse given the result type: what the type says is neither printed nor read as an attribute.

use std::ops::Range;

use super::error::Fault;
use super::print::role_name;
use super::{MAX_INDEX, suggest};
use crate::graph::{Init, ParamKind, StateRole};
use crate::op::{AdamWPart, Binary, Compare, Composite, ContractSpec, GeluForm, Op, Real, Reduce, Unary, Wrt};
use crate::spec::OPS;
use crate::types::{DType, Literal, TensorType};

/// An attribute's value to print.
pub(super) enum Attr<'a> {
    Index(usize),
    Indices(&'a [usize]),
    Real(Real),
    Literal(Literal),
    Word(&'static str),
    Flag(bool),
    Labels(&'a ContractSpec),
}

/// The attributes of `op` that its operands and result type do not say, in printing order.
pub(super) fn attributes(op: &Op) -> Vec<(&'static str, Attr<'_>)> {
    use Attr::{Flag, Index, Indices, Word};
    let attention = |causal: bool, scale: Real| vec![("causal", Flag(causal)), ("scale", Attr::Real(scale))];
    match op {
        Op::Param(_) | Op::Unary(_) | Op::Binary(_) | Op::Compare(_) | Op::Select | Op::Cast(_) => vec![],
        Op::Broadcast { .. } | Op::Reshape { .. } | Op::Gather | Op::ScatterAdd => vec![],
        Op::DynamicSlice { .. } | Op::DynamicUpdate => vec![],
        Op::Iota { axis, .. } | Op::Concat { axis } => vec![("axis", Index(*axis))],
        Op::Splat { value, .. } => vec![("value", Attr::Literal(*value))],
        Op::Reduce { axes, .. } => vec![("axes", Indices(axes))],
        Op::Transpose { perm } => vec![("perm", Indices(perm))],
        Op::Slice { start, end } => vec![("start", Indices(start)), ("end", Indices(end))],
        Op::Pad { low, high, value } => {
            vec![("low", Indices(low)), ("high", Indices(high)), ("value", Attr::Literal(*value))]
        }
        Op::Contract(spec) => vec![("labels", Attr::Labels(spec))],
        Op::Random { stream, .. } => vec![("stream", Index(*stream as usize))],
        Op::Composite(c) => match c {
            Composite::Silu | Composite::Linear | Composite::CrossEntropy | Composite::GlobalNorm => vec![],
            Composite::Softmax { axis } | Composite::LogSoftmax { axis } => vec![("axis", Index(*axis))],
            Composite::LayerNorm { eps } | Composite::RmsNorm { eps } => vec![("eps", Attr::Real(*eps))],
            Composite::Gelu { form } => vec![("form", Word(form.name()))],
            Composite::Attention { causal, scale } | Composite::AttentionLse { causal, scale } => {
                attention(*causal, *scale)
            }
            Composite::AttentionGrad { wrt, causal, scale } => {
                let mut all = vec![("wrt", Word(wrt.name()))];
                all.extend(attention(*causal, *scale));
                all
            }
            Composite::Rope { base } => vec![("base", Attr::Real(*base))],
            Composite::SquareSums { block } => vec![("block", Index(*block))],
            Composite::ClipByGlobalNorm { max_norm } => vec![("max_norm", Attr::Real(*max_norm))],
            Composite::AdamW { part, beta1, beta2, eps, decay } => vec![
                ("part", Word(part.name())),
                ("beta1", Attr::Real(*beta1)),
                ("beta2", Attr::Real(*beta2)),
                ("eps", Attr::Real(*eps)),
                ("decay", Attr::Real(*decay)),
            ],
        },
    }
}

/// An attribute's value as it was read.
pub(crate) enum Raw<'s> {
    Word(&'s str),
    Str(String),
    List(Vec<usize>),
}

pub(crate) struct Entry<'s> {
    pub key: &'s str,
    pub span: Range<usize>,
    pub value: Raw<'s>,
}

/// The attributes of one statement; each is taken once, and what is left over is an error.
pub(crate) struct Attrs<'s> {
    /// What the attributes belong to, for messages.
    pub owner: &'s str,
    pub owner_span: Range<usize>,
    pub entries: Vec<Entry<'s>>,
}

impl<'s> Attrs<'s> {
    fn take(&mut self, key: &str) -> Result<Entry<'s>, Fault> {
        match self.entries.iter().position(|e| e.key == key) {
            Some(i) => Ok(self.entries.remove(i)),
            None => {
                let message = format!("{} needs the attribute `{key}`, which is missing", self.owner);
                Err(Fault::new(self.owner_span.clone(), message))
            }
        }
    }

    fn word(&mut self, key: &str, expected: &str) -> Result<(&'s str, Range<usize>), Fault> {
        let e = self.take(key)?;
        match e.value {
            Raw::Word(w) => Ok((w, e.span)),
            Raw::Str(_) => Err(Fault::new(e.span, format!("`{key}` takes {expected}, found a string"))),
            Raw::List(_) => Err(Fault::new(e.span, format!("`{key}` takes {expected}, found a list"))),
        }
    }

    fn index(&mut self, key: &str) -> Result<usize, Fault> {
        let (word, span) = self.word(key, "an integer")?;
        index(word).map_err(|m| Fault::new(span, m))
    }

    fn indices(&mut self, key: &str) -> Result<Vec<usize>, Fault> {
        let e = self.take(key)?;
        match e.value {
            Raw::List(list) => Ok(list),
            _ => Err(Fault::new(e.span, format!("`{key}` takes a list such as [0,1], found something else"))),
        }
    }

    pub fn real(&mut self, key: &str) -> Result<f64, Fault> {
        let (word, span) = self.word(key, "a number")?;
        real(word).map_err(|m| Fault::new(span, m))
    }

    fn literal(&mut self, key: &str, dtype: DType) -> Result<Literal, Fault> {
        let (word, span) = self.word(key, "a number, true or false")?;
        literal(word, dtype).map_err(|m| Fault::new(span, m))
    }

    pub fn flag(&mut self, key: &str) -> Result<bool, Fault> {
        self.choice(key, &[true, false], |b| if b { "true" } else { "false" })
    }

    /// One of `all` by name.
    pub fn choice<V: Copy>(&mut self, key: &str, all: &[V], name: impl Fn(V) -> &'static str) -> Result<V, Fault> {
        let names: Vec<&str> = all.iter().map(|v| name(*v)).collect();
        let expected = format!("one of {}", names.join(", "));
        let (word, span) = self.word(key, &expected)?;
        let found = all.iter().copied().find(|v| name(*v) == word);
        found.ok_or_else(|| Fault::new(span, format!("`{key}` takes {expected}, found `{word}`")))
    }

    /// The kind of the parameter that `input` or `state` declares.
    pub fn param_kind(&mut self) -> Result<ParamKind, Fault> {
        if self.owner == "input" {
            return Ok(ParamKind::Input);
        }
        let role = self.choice("role", &[StateRole::Weight, StateRole::Optimizer, StateRole::Other], role_name)?;
        let init = match self.choice("init", &["zeros", "ones", "normal"], |n| n)? {
            "zeros" => Init::Zeros,
            "ones" => Init::Ones,
            _ => Init::Normal(self.real("std")?),
        };
        Ok(ParamKind::State { init, role })
    }

    fn contract(&mut self) -> Result<ContractSpec, Fault> {
        let e = self.take("labels")?;
        let text = match &e.value {
            Raw::Str(s) => s.as_str(),
            Raw::Word(w) => w,
            Raw::List(_) => "[..]",
        };
        ContractSpec::parse(text).ok_or_else(|| {
            Fault::new(e.span, format!("`labels` takes a string of the form \"ab,bc->ac\", found {text:?}"))
        })
    }

    /// Refuses attributes that nobody took.
    pub fn finish(self) -> Result<(), Fault> {
        match self.entries.into_iter().next() {
            None => Ok(()),
            Some(e) => Err(Fault::new(e.span, format!("{} has no attribute `{}`", self.owner, e.key))),
        }
    }
}

/// The op named `attrs.owner`; `ty` is the declared result type, `param` what follows `@`.
pub(super) fn build(attrs: &mut Attrs<'_>, ty: &TensorType, param: Option<crate::ParamId>) -> Result<Op, Fault> {
    let name = attrs.owner;
    let family = None
        .or_else(|| Unary::ALL.iter().find(|x| x.name() == name).map(|x| Op::Unary(*x)))
        .or_else(|| Binary::ALL.iter().find(|x| x.name() == name).map(|x| Op::Binary(*x)))
        .or_else(|| Compare::ALL.iter().find(|x| x.name() == name).map(|x| Op::Compare(*x)));
    if let Some(op) = family {
        return Ok(op);
    }
    if let Some(op) = Reduce::ALL.iter().find(|x| x.name() == name) {
        return Ok(Op::Reduce { op: *op, axes: attrs.indices("axes")? });
    }
    let shape = || ty.shape.clone();
    Ok(match name {
        "param" => Op::Param(param.ok_or_else(|| {
            Fault::new(attrs.owner_span.clone(), "param needs the name of a parameter, such as `param @tokens`")
        })?),
        "select" => Op::Select,
        "cast" => Op::Cast(ty.dtype),
        "iota" => Op::Iota { shape: shape(), dtype: ty.dtype, axis: attrs.index("axis")? },
        "splat" => Op::Splat { shape: shape(), value: attrs.literal("value", ty.dtype)? },
        "broadcast" => Op::Broadcast { shape: shape() },
        "reshape" => Op::Reshape { shape: shape() },
        "transpose" => Op::Transpose { perm: attrs.indices("perm")? },
        "slice" => Op::Slice { start: attrs.indices("start")?, end: attrs.indices("end")? },
        "pad" => Op::Pad {
            low: attrs.indices("low")?,
            high: attrs.indices("high")?,
            value: attrs.literal("value", ty.dtype)?,
        },
        "concat" => Op::Concat { axis: attrs.index("axis")? },
        "contract" => Op::Contract(attrs.contract()?),
        "gather" => Op::Gather,
        "scatter_add" => Op::ScatterAdd,
        "dynamic_slice" => Op::DynamicSlice { sizes: shape() },
        "dynamic_update" => Op::DynamicUpdate,
        // `index` reads no more than u32::MAX.
        "random" => Op::Random { shape: shape(), stream: attrs.index("stream")? as u32 },
        _ => Op::Composite(composite(attrs)?),
    })
}

fn composite(attrs: &mut Attrs<'_>) -> Result<Composite, Fault> {
    let name = attrs.owner;
    let real = |attrs: &mut Attrs<'_>, key: &str| attrs.real(key).map(Real);
    Ok(match name {
        "softmax" => Composite::Softmax { axis: attrs.index("axis")? },
        "log_softmax" => Composite::LogSoftmax { axis: attrs.index("axis")? },
        "layer_norm" => Composite::LayerNorm { eps: real(attrs, "eps")? },
        "rms_norm" => Composite::RmsNorm { eps: real(attrs, "eps")? },
        "gelu" => Composite::Gelu { form: attrs.choice("form", GeluForm::ALL, GeluForm::name)? },
        "silu" => Composite::Silu,
        "linear" => Composite::Linear,
        "attention" => Composite::Attention { causal: attrs.flag("causal")?, scale: real(attrs, "scale")? },
        "attention_lse" => Composite::AttentionLse { causal: attrs.flag("causal")?, scale: real(attrs, "scale")? },
        "attention_grad" => Composite::AttentionGrad {
            wrt: attrs.choice("wrt", Wrt::ALL, Wrt::name)?,
            causal: attrs.flag("causal")?,
            scale: real(attrs, "scale")?,
        },
        "rope" => Composite::Rope { base: real(attrs, "base")? },
        "cross_entropy" => Composite::CrossEntropy,
        "global_norm" => Composite::GlobalNorm,
        "square_sums" => Composite::SquareSums { block: attrs.index("block")? },
        "clip_by_global_norm" => Composite::ClipByGlobalNorm { max_norm: real(attrs, "max_norm")? },
        "adamw" => Composite::AdamW {
            part: attrs.choice("part", AdamWPart::ALL, AdamWPart::name)?,
            beta1: real(attrs, "beta1")?,
            beta2: real(attrs, "beta2")?,
            eps: real(attrs, "eps")?,
            decay: real(attrs, "decay")?,
        },
        _ => {
            let message = format!("found `{name}`, expected an operation{}", suggest(name, OPS.iter().map(|s| s.name)));
            return Err(Fault::new(attrs.owner_span.clone(), message));
        }
    })
}

/// A non-negative integer within the limits of the text form.
pub(super) fn index(word: &str) -> Result<usize, String> {
    let digits = !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit());
    let value = if digits { word.parse::<u64>().unwrap_or(u64::MAX) } else { u64::MAX };
    match usize::try_from(value) {
        Ok(x) if value <= MAX_INDEX => Ok(x),
        _ if digits => Err(format!("the integer is too large; at most {MAX_INDEX} is read")),
        _ => Err(format!("found `{word}`, expected a non-negative integer")),
    }
}

/// A real number; every finite one, `inf`, `-inf` and `nan`.
fn real(word: &str) -> Result<f64, String> {
    match word {
        "inf" => return Ok(f64::INFINITY),
        "-inf" => return Ok(f64::NEG_INFINITY),
        "nan" => return Ok(f64::NAN),
        _ => {}
    }
    let numeric = word.strip_prefix('-').unwrap_or(word).starts_with(|c: char| c.is_ascii_digit());
    match word.parse::<f64>() {
        Ok(x) if numeric && x.is_finite() => Ok(x),
        Ok(_) if numeric => Err(format!("the number `{word}` is too large; write `inf` if that is meant")),
        _ => Err(format!("found `{word}`, expected a number")),
    }
}

/// A constant of `dtype`.
pub(crate) fn literal(word: &str, dtype: DType) -> Result<Literal, String> {
    let range = match dtype {
        DType::F32 | DType::F16 => return real(word).map(|x| Literal::new(dtype, x)),
        DType::Bool => {
            return match word {
                "true" => Ok(Literal::new(dtype, 1.0)),
                "false" => Ok(Literal::new(dtype, 0.0)),
                _ => Err(format!("found `{word}`, expected true or false")),
            };
        }
        DType::I32 => i64::from(i32::MIN)..=i64::from(i32::MAX),
        DType::U32 => 0..=i64::from(u32::MAX),
    };
    match word.parse::<i64>() {
        Ok(x) if range.contains(&x) => Ok(Literal::new(dtype, x as f64)),
        _ => Err(format!("found `{word}`, expected an integer within {}..={}", range.start(), range.end())),
    }
}
