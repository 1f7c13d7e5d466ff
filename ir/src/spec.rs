//! The op table: one row an operation, with its name, operands, shape rule, dtype rule, documentation, and meaning.
//!
//! Invariants
//! - Every operation has exactly one row: the table expands to exhaustive matches, so that a new `Op`, `Composite`, or member
//!   of a scalar family does not compile without its row.
//! - A primitive's row ends with its type rule (a function of module `infer`) and its f64 meaning (of modules `eval` and `tensor`);
//!   a composite's row ends with its expansion (module `composite`), which is both.
//! - Names are distinct: a name finds its row.

use std::fmt;

use crate::composite;
use crate::dsl::{Builder, T};
use crate::graph::ParamId;
use crate::infer::{self, Inferred};
use crate::op::{Binary, Compare, Composite, Op, Reduce, Unary};
use crate::tensor::{self, Tensor};
use crate::types::TensorType;

/// What the table says of an operation.
#[derive(Clone, Debug)]
pub struct OpSpec {
    /// Name in the text form.
    pub name: &'static str,
    pub class: Class,
    /// Names of the operands in order; the last one stands for all further ones if `arity` allows more.
    pub operands: &'static [&'static str],
    pub arity: Arity,
    /// Shapes of the operands and the result.
    pub shape: &'static str,
    /// Dtypes of the operands and the result.
    pub dtype: &'static str,
    pub doc: &'static str,
}

impl OpSpec {
    /// Name of operand `i` for messages: `weight`, or `part 3` where operands repeat.
    pub fn operand_name(&self, i: usize) -> String {
        let last = self.operands.len().saturating_sub(1);
        match self.operands.get(i) {
            Some(name) if i < last || self.arity.most.is_some() => name.to_string(),
            _ => format!("{} {}", self.operands.last().unwrap_or(&"operand"), i - last.min(i)),
        }
    }
}

/// Groups of the reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Values from attributes or from outside.
    Source,
    Elementwise,
    Reduction,
    /// Re-indexing without arithmetic.
    Movement,
    Contraction,
    /// Indices computed at run time.
    Indexing,
    Composite,
}

/// Least and most operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arity {
    pub least: usize,
    /// None: any number.
    pub most: Option<usize>,
}

impl Arity {
    pub fn contains(self, n: usize) -> bool {
        n >= self.least && self.most.is_none_or(|most| n <= most)
    }
}

impl fmt::Display for Arity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.least, self.most) {
            (1, Some(1)) => f.write_str("1 operand"),
            (least, Some(most)) if least == most => write!(f, "{least} operands"),
            (least, Some(most)) => write!(f, "{least} to {most} operands"),
            (least, None) => write!(f, "{least} or more operands"),
        }
    }
}

/// The row of `op`.
pub fn spec(op: &Op) -> &'static OpSpec {
    &OPS[row(op)]
}

/// The row of the operation named `name`.
pub fn named(name: &str) -> Option<&'static OpSpec> {
    OPS.iter().find(|s| s.name == name)
}

/// Refuses a number of operands that `op` does not take.
pub(crate) fn check_arity(op: &Op, found: usize) -> Result<(), String> {
    let s = spec(op);
    if s.arity.contains(found) { Ok(()) } else { Err(format!("{} takes {}, found {found}", s.name, s.arity)) }
}

/// Expands rows into the table and the matches that its columns stand for.
macro_rules! op_table {
    (
        names($tys:ident, $param:ident, $x:ident, $ty:ident, $b:ident);
        primitives { $($id:ident = $pat:pat => $spec:expr; type $rule:expr; value $value:expr;)* }
        composites { $($cid:ident = $cpat:pat => $cspec:expr; expand $expand:expr;)* }
    ) => {
        /// Every operation, primitives first.
        pub static OPS: &[OpSpec] = &[$($spec,)* $($cspec,)*];

        enum Row { $($id,)* $($cid,)* }

        #[allow(unused_variables)]
        fn row(op: &Op) -> usize {
            let row = match op {
                $($pat => Row::$id,)*
                Op::Composite(c) => match c { $($cpat => Row::$cid,)* },
            };
            row as usize
        }

        /// The type rule of `op`, which has as many operands as it takes.
        #[allow(unused_variables)]
        pub(crate) fn rule(op: &Op, $tys: &[&TensorType], $param: &dyn Fn(ParamId) -> Option<TensorType>) -> Inferred {
            match op {
                $($pat => $rule,)*
                Op::Composite(c) => composite::infer(c, $tys),
            }
        }

        /// The elements of a primitive's result, of type `ty`, from operands `x`. Panics on a parameter.
        #[allow(unused_variables)]
        pub(crate) fn value(op: &Op, $x: &[&Tensor], $ty: &TensorType) -> Vec<f64> {
            match op {
                $($pat => $value,)*
                Op::Composite(c) => crate::interp::eval_composite(c, $x).data,
            }
        }

        /// The expansion of `c` on operands `x`, as many as it takes.
        #[allow(unused_variables)]
        pub(crate) fn expansion<'g>(c: &Composite, $b: &'g Builder, $x: &[T<'g>]) -> T<'g> {
            match c { $($cpat => $expand,)* }
        }
    };
}

const fn op(
    class: Class,
    name: &'static str,
    operands: &'static [&'static str],
    shape: &'static str,
    dtype: &'static str,
    doc: &'static str,
) -> OpSpec {
    let arity = Arity { least: operands.len(), most: Some(operands.len()) };
    OpSpec { name, class, operands, arity, shape, dtype, doc }
}

/// A row whose last operand may be left out or repeated.
const fn taking(least: usize, most: Option<usize>, spec: OpSpec) -> OpSpec {
    OpSpec { arity: Arity { least, most }, ..spec }
}

const fn source(name: &'static str, shape: &'static str, dtype: &'static str, doc: &'static str) -> OpSpec {
    op(Class::Source, name, &[], shape, dtype, doc)
}
const fn unary(u: Unary, dtype: &'static str) -> OpSpec {
    op(Class::Elementwise, u.name(), &["x"], "as x", dtype, u.doc())
}
const fn binary(b: Binary, dtype: &'static str) -> OpSpec {
    op(Class::Elementwise, b.name(), &["a", "b"], "a and b alike; result as a", dtype, b.doc())
}
const fn compare(c: Compare, dtype: &'static str) -> OpSpec {
    op(Class::Elementwise, c.name(), &["a", "b"], "a and b alike; result as a", dtype, c.doc())
}
const fn reduction(r: Reduce, dtype: &'static str) -> OpSpec {
    op(Class::Reduction, r.name(), &["x"], "as x with extent 1 on the reduced axes", dtype, r.doc())
}
const fn movement(name: &'static str, shape: &'static str, doc: &'static str) -> OpSpec {
    op(Class::Movement, name, &["x"], shape, "any; result as x", doc)
}
const fn composite(
    name: &'static str,
    operands: &'static [&'static str],
    shape: &'static str,
    dtype: &'static str,
    doc: &'static str,
) -> OpSpec {
    op(Class::Composite, name, operands, shape, dtype, doc)
}

const FLOAT: &str = "float; result as x";
const FLOATS: &str = "float, all alike; result alike";
const NUMBERS: &str = "float or integer, a and b alike; result as a";

op_table! {
    names(tys, param, x, ty, b);

    primitives {
        Param = Op::Param(p) => source("param", "as declared", "as declared", "an input or state of the graph, as it is before the step");
            type param(*p).ok_or_else(|| format!("param names {p}, which the graph does not have"));
            value panic!("{p} has no value without the step's parameters");

        Neg = Op::Unary(u @ Unary::Neg) => unary(Unary::Neg, "float or i32; result as x");
            type infer::unary(*u, tys); value tensor::unary(*u, x, ty);
        Exp = Op::Unary(u @ Unary::Exp) => unary(Unary::Exp, FLOAT);
            type infer::unary(*u, tys); value tensor::unary(*u, x, ty);
        Log = Op::Unary(u @ Unary::Log) => unary(Unary::Log, FLOAT);
            type infer::unary(*u, tys); value tensor::unary(*u, x, ty);
        Sqrt = Op::Unary(u @ Unary::Sqrt) => unary(Unary::Sqrt, FLOAT);
            type infer::unary(*u, tys); value tensor::unary(*u, x, ty);
        Rsqrt = Op::Unary(u @ Unary::Rsqrt) => unary(Unary::Rsqrt, FLOAT);
            type infer::unary(*u, tys); value tensor::unary(*u, x, ty);
        Recip = Op::Unary(u @ Unary::Recip) => unary(Unary::Recip, FLOAT);
            type infer::unary(*u, tys); value tensor::unary(*u, x, ty);
        Tanh = Op::Unary(u @ Unary::Tanh) => unary(Unary::Tanh, FLOAT);
            type infer::unary(*u, tys); value tensor::unary(*u, x, ty);
        Erf = Op::Unary(u @ Unary::Erf) => unary(Unary::Erf, FLOAT);
            type infer::unary(*u, tys); value tensor::unary(*u, x, ty);
        Sin = Op::Unary(u @ Unary::Sin) => unary(Unary::Sin, FLOAT);
            type infer::unary(*u, tys); value tensor::unary(*u, x, ty);
        Cos = Op::Unary(u @ Unary::Cos) => unary(Unary::Cos, FLOAT);
            type infer::unary(*u, tys); value tensor::unary(*u, x, ty);

        Add = Op::Binary(o @ Binary::Add) => binary(Binary::Add, NUMBERS);
            type infer::binary(*o, tys); value tensor::binary(*o, x, ty);
        Sub = Op::Binary(o @ Binary::Sub) => binary(Binary::Sub, NUMBERS);
            type infer::binary(*o, tys); value tensor::binary(*o, x, ty);
        Mul = Op::Binary(o @ Binary::Mul) => binary(Binary::Mul, NUMBERS);
            type infer::binary(*o, tys); value tensor::binary(*o, x, ty);
        Div = Op::Binary(o @ Binary::Div) => binary(Binary::Div, "float, a and b alike; result as a");
            type infer::binary(*o, tys); value tensor::binary(*o, x, ty);
        Max = Op::Binary(o @ Binary::Max) => binary(Binary::Max, "any, a and b alike; result as a");
            type infer::binary(*o, tys); value tensor::binary(*o, x, ty);
        Min = Op::Binary(o @ Binary::Min) => binary(Binary::Min, "any, a and b alike; result as a");
            type infer::binary(*o, tys); value tensor::binary(*o, x, ty);

        Eq = Op::Compare(c @ Compare::Eq) => compare(Compare::Eq, "any, a and b alike; result bool");
            type infer::compare(*c, tys); value tensor::compare(*c, x);
        Ne = Op::Compare(c @ Compare::Ne) => compare(Compare::Ne, "any, a and b alike; result bool");
            type infer::compare(*c, tys); value tensor::compare(*c, x);
        Lt = Op::Compare(c @ Compare::Lt) => compare(Compare::Lt, "float or integer, a and b alike; result bool");
            type infer::compare(*c, tys); value tensor::compare(*c, x);
        Le = Op::Compare(c @ Compare::Le) => compare(Compare::Le, "float or integer, a and b alike; result bool");
            type infer::compare(*c, tys); value tensor::compare(*c, x);
        Gt = Op::Compare(c @ Compare::Gt) => compare(Compare::Gt, "float or integer, a and b alike; result bool");
            type infer::compare(*c, tys); value tensor::compare(*c, x);
        Ge = Op::Compare(c @ Compare::Ge) => compare(Compare::Ge, "float or integer, a and b alike; result bool");
            type infer::compare(*c, tys); value tensor::compare(*c, x);

        Select = Op::Select => op(Class::Elementwise, "select", &["condition", "a", "b"], "all alike; result as a",
                "condition bool, a and b alike; result as a", "a where the condition is true, b elsewhere");
            type infer::select(tys); value tensor::select(x);
        Cast = Op::Cast(to) => op(Class::Elementwise, "cast", &["x"], "as x", "any; result the attribute",
                "conversion: float to integer truncates toward zero and saturates (NaN to 0), integers keep their low 32 bits, non-zero becomes true");
            type infer::cast(*to, tys); value tensor::cast(*to, x);

        Iota = Op::Iota { shape, dtype, axis } => source("iota", "the attribute", "the attribute: float or integer", "the index along one axis");
            type infer::iota(shape, *dtype, *axis); value tensor::iota(shape, *dtype, *axis);
        Splat = Op::Splat { shape, value } => source("splat", "the attribute", "that of the value", "one value everywhere");
            type Ok(TensorType::new(value.dtype, shape.clone())); value vec![value.value; ty.numel()];
        Random = Op::Random { shape, stream } => op(Class::Source, "random", &["seed", "counter"], "seed and counter scalar; result the attribute",
                "u32; result f32", "uniform in [0, 1): element i is the top 24 bits of `random_bits(seed, counter, stream, i)` as a fraction");
            type infer::random(shape, tys); value tensor::random(x, *stream, shape);

        ReduceSum = Op::Reduce { op: r @ Reduce::Sum, axes } => reduction(Reduce::Sum, "float or integer; result as x");
            type infer::reduce(*r, axes, tys); value tensor::reduce(*r, axes, x[0]);
        ReduceMax = Op::Reduce { op: r @ Reduce::Max, axes } => reduction(Reduce::Max, "float or integer; result as x");
            type infer::reduce(*r, axes, tys); value tensor::reduce(*r, axes, x[0]);
        ReduceArgMax = Op::Reduce { op: r @ Reduce::ArgMax, axes } => reduction(Reduce::ArgMax, "float or integer; result i32");
            type infer::reduce(*r, axes, tys); value tensor::reduce(*r, axes, x[0]);

        Broadcast = Op::Broadcast { shape } => movement("broadcast", "rank as x; result the attribute", "stretches axes of extent 1");
            type infer::broadcast(shape, tys); value tensor::broadcast(x[0], shape);
        Reshape = Op::Reshape { shape } => movement("reshape", "as many elements; result the attribute", "the same elements in row-major order under another shape");
            type infer::reshape(shape, tys); value x[0].data.clone();
        Transpose = Op::Transpose { perm } => movement("transpose", "axis i of the result is axis perm[i] of x", "permutes the axes");
            type infer::transpose(perm, tys); value tensor::transpose(x[0], perm, &ty.shape);
        Slice = Op::Slice { start, end } => movement("slice", "end - start an axis", "the elements from start up to, not including, end, per axis");
            type infer::slice(start, end, tys); value tensor::slice(x[0], start, &ty.shape);
        Pad = Op::Pad { low, high, value } => movement("pad", "low + extent + high an axis", "adds elements of one value before and after, per axis");
            type infer::pad(low, high, value.dtype, tys); value tensor::pad(x[0], low, *value, &ty.shape);
        Concat = Op::Concat { axis } => taking(1, None, op(Class::Movement, "concat", &["part"],
                "alike but for the axis; result their sum there", "any, all alike; result alike", "the operands one after the other along one axis"));
            type infer::concat(*axis, tys); value tensor::concat(*axis, x);

        Contract = Op::Contract(labels) => op(Class::Contraction, "contract", &["lhs", "rhs"], "by the labels", "float, lhs and rhs alike; result as lhs",
                "sum of products over the labels that the result lacks, as einsum");
            type infer::contract(labels, tys); value tensor::contract(labels, x[0], x[1], &ty.shape);

        Gather = Op::Gather => op(Class::Indexing, "gather", &["table", "ids"], "table [V, rest..], ids [any..]; result [any.., rest..]",
                "table any, ids i32; result as table", "rows of the table; ids are clamped to its rows");
            type infer::gather(tys); value tensor::gather(x[0], x[1]);
        ScatterAdd = Op::ScatterAdd => op(Class::Indexing, "scatter_add", &["base", "ids", "updates"],
                "base [V, rest..], ids [any..], updates [any.., rest..]; result as base", "base and updates float, alike, ids i32; result as base",
                "base plus the updates at their rows, in index order; ids are clamped to the rows");
            type infer::scatter_add(tys); value tensor::scatter_add(x[0], x[1], x[2]);
        DynamicSlice = Op::DynamicSlice { sizes } => taking(1, None, op(Class::Indexing, "dynamic_slice", &["x", "start"],
                "one scalar start an axis; result the attribute", "x any, starts i32; result as x", "a window of x, its start clamped so that it fits"));
            type infer::dynamic_slice(sizes, tys); value tensor::dynamic_slice(x, sizes);
        DynamicUpdate = Op::DynamicUpdate => taking(2, None, op(Class::Indexing, "dynamic_update", &["x", "update", "start"],
                "update fits in x, one scalar start an axis; result as x", "x and update alike, starts i32; result as x",
                "x with the window replaced by the update, its start clamped so that it fits"));
            type infer::dynamic_update(tys); value tensor::dynamic_update(x);
    }

    composites {
        Softmax = Composite::Softmax { axis } => composite("softmax", &["x"], "as x", FLOAT, "e^x / sum e^x along one axis");
            expand composite::softmax(b, x[0], *axis);
        LogSoftmax = Composite::LogSoftmax { axis } => composite("log_softmax", &["x"], "as x", FLOAT, "log of softmax along one axis");
            expand composite::log_softmax(b, x[0], *axis);
        LayerNorm = Composite::LayerNorm { eps } => composite("layer_norm", &["x", "weight", "bias"], "x [.., C], weight [C], bias [C]; result as x", FLOATS,
                "(x - mean) / sqrt(variance + eps) * weight + bias over the last axis (Ba, Kiros and Hinton 2016)");
            expand composite::layer_norm(b, x, eps.0);
        RmsNorm = Composite::RmsNorm { eps } => composite("rms_norm", &["x", "weight"], "x [.., C], weight [C]; result as x", FLOATS,
                "x / sqrt(mean of squares + eps) * weight over the last axis (Zhang and Sennrich 2019)");
            expand composite::rms_norm(b, x, eps.0);
        Gelu = Composite::Gelu { form } => composite("gelu", &["x"], "as x", FLOAT, "Gaussian error linear unit, erf or tanh form (Hendrycks and Gimpel 2016)");
            expand composite::gelu(x[0], *form);
        Silu = Composite::Silu => composite("silu", &["x"], "as x", FLOAT, "x * sigmoid(x)");
            expand composite::silu(x[0]);
        Linear = Composite::Linear => taking(2, Some(3), composite("linear", &["x", "weight", "bias"], "x [.., I], weight [O, I], bias [O]; result [.., O]", FLOATS,
                "x times the transposed weight, plus the bias if there is one"));
            expand composite::linear(b, x);
        Attention = Composite::Attention { causal, scale } => composite("attention", &["q", "k", "v"], "q [B,H,T,D], k and v [B,H,S,D]; result as q", FLOATS,
                "softmax(scale q k^T) v; causal hides keys after the query's position and needs T = S");
            expand composite::attention(b, x, *causal, scale.0);
        AttentionLse = Composite::AttentionLse { causal, scale } => composite("attention_lse", &["q", "k"], "q [B,H,T,D], k [B,H,S,D]; result [B,H,T]", FLOATS,
                "log of the sum of e^score over keys");
            expand composite::attention_lse(b, x, *causal, scale.0);
        AttentionGrad = Composite::AttentionGrad { wrt, causal, scale } => composite("attention_grad", &["q", "k", "v", "out", "lse", "grad"],
                "out and grad as q, lse [B,H,T]; result as q, k or v", FLOATS,
                "gradient of attention for q, k or v, recomputing the probabilities from the log-sum-exp (Dao et al. 2022)");
            expand composite::attention_grad(b, x, *wrt, *causal, scale.0);
        Rope = Composite::Rope { base } => composite("rope", &["x"], "x [.., T, D], D even; result as x", "f32; result as x",
                "rotary position embedding of halves, angle t * base^(-2i/D) (Su et al. 2021)");
            expand composite::rope(b, x[0], base.0);
        CrossEntropy = Composite::CrossEntropy => composite("cross_entropy", &["logits", "targets"], "logits [.., V], targets [..]; result scalar",
                "logits float, targets i32; result as logits", "mean of -log softmax(logits)[target]");
            expand composite::cross_entropy(b, x);
        GlobalNorm = Composite::GlobalNorm => taking(0, None, composite("global_norm", &["x"], "any; result scalar", "f32; result f32",
                "square root of the sum of all squares of all operands"));
            expand composite::global_norm(b, x);
        SquareSums = Composite::SquareSums { block } => taking(1, None, composite("square_sums", &["x"], "any; result [blocks of all operands]", "f32; result f32",
                "sums of squares of blocks of consecutive elements of each operand in turn, an operand's last block shorter where it must"));
            expand composite::square_sums(b, x, *block);
        ClipByGlobalNorm = Composite::ClipByGlobalNorm { max_norm } => composite("clip_by_global_norm", &["gradient", "norm"], "norm scalar; result as gradient", FLOATS,
                "gradient * min(1, max_norm / (norm + 1e-6)), as PyTorch's clip_grad_norm_");
            expand composite::clip_by_global_norm(b, x, max_norm.0);
        AdamW = Composite::AdamW { part, beta1, beta2, eps, decay } => composite("adamw", &["param", "gradient", "m", "v", "lr", "step"],
                "gradient, m and v as param, lr and step scalar; result as param", FLOATS,
                "one of the three results of a step of Adam with decoupled decay, step counted from 1 (Loshchilov and Hutter 2019)");
            expand composite::adamw(b, x, *part, [beta1.0, beta2.0], eps.0, decay.0);
    }
}
