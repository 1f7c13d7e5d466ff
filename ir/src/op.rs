//! The operations of the graph IR.
//!
//! An [`Op`] is an operation with its attributes; its operands are the node's inputs. Primitives have a
//! direct meaning (module `spec`, one table row each); a [`Composite`] has exactly one expansion into
//! primitives (module `composite`), which *is* its meaning.
//!
//! Conventions that keep rules short
//! - Every op yields exactly one value. What other IRs express by several results (the log-sum-exp of
//!   attention, the three gradients of attention, the three results of AdamW) are sibling ops over the same
//!   operands; fusion computes siblings in one kernel. So no pass can forget an output index.
//! - `reduce` keeps the reduced axes with extent 1 and `broadcast` only stretches axes of extent 1: neither changes the
//!   rank. Only `reshape`, `gather` and `contract` do.
//! - `contract` names the axes of its operands and result by labels, like einsum; every label occurs in exactly two or in all
//!   three of lhs, rhs and out, and at most once in each. Its gradients are contractions with the labels exchanged.
//! - Indices that leave their range are clamped to it (`gather`, `scatter_add`, `dynamic_slice`, `dynamic_update`), on every backend.

use crate::graph::ParamId;
use crate::types::{DType, Literal, Shape};

/// Declares a family of scalar operations: variant, text name, documentation.
macro_rules! family {
    ($(#[$m:meta])* $Name:ident { $($Var:ident $name:literal $doc:literal)* }) => {
        $(#[$m])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $Name { $(#[doc = $doc] $Var),* }
        impl $Name {
            pub const ALL: &'static [$Name] = &[$($Name::$Var),*];
            pub const fn name(self) -> &'static str { match self { $($Name::$Var => $name),* } }
            pub const fn doc(self) -> &'static str { match self { $($Name::$Var => $doc),* } }
        }
    };
}

family! {
    /// Elementwise operations of one operand, on floats (`neg` on i32 too); result type = operand type.
    Unary {
        Neg "neg" "-x"
        Exp "exp" "e^x"
        Log "log" "natural logarithm: -inf at 0, NaN below"
        Sqrt "sqrt" "square root"
        Rsqrt "rsqrt" "1/sqrt(x)"
        Recip "recip" "1/x"
        Tanh "tanh" "hyperbolic tangent"
        Erf "erf" "error function 2/sqrt(pi) * integral of e^-t^2 from 0 to x"
        Sin "sin" "sine of radians"
        Cos "cos" "cosine of radians"
    }
}

family! {
    /// Elementwise operations of two operands of one type; result type = operand type.
    Binary {
        Add "add" "a + b; integers wrap"
        Sub "sub" "a - b; integers wrap"
        Mul "mul" "a * b; integers wrap"
        Div "div" "a / b"
        Max "max" "b if a < b else a: a NaN in a wins, a NaN in b loses; on bool: or"
        Min "min" "b if b < a else a: a NaN in a wins, a NaN in b loses; on bool: and"
    }
}

family! {
    /// Elementwise comparisons of two operands of one type; the result is bool. Comparisons with NaN are false, except `ne`.
    Compare {
        Eq "eq" "a = b"
        Ne "ne" "a != b"
        Lt "lt" "a < b"
        Le "le" "a <= b"
        Gt "gt" "a > b"
        Ge "ge" "a >= b"
    }
}

family! {
    /// Reductions; the reduced axes stay with extent 1.
    Reduce {
        Sum "reduce_sum" "sum over the axes"
        Max "reduce_max" "largest element over the axes, by the rule of `max`"
        ArgMax "reduce_argmax" "i32 index of the first largest element along one axis"
    }
}

family! {
    /// Form of the Gaussian error linear unit (Hendrycks and Gimpel 2016).
    GeluForm {
        Erf "erf" "x * (1 + erf(x / sqrt 2)) / 2"
        Tanh "tanh" "x * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3))) / 2"
    }
}

family! {
    /// Which operand a gradient is taken of, in `attention_grad`.
    Wrt {
        Q "q" "queries"
        K "k" "keys"
        V "v" "values"
    }
}

family! {
    /// Which of AdamW's three results an `adamw` node is.
    AdamWPart {
        Param "param" "updated parameter"
        Moment1 "m" "updated first moment"
        Moment2 "v" "updated second moment"
    }
}

/// Label of a contraction axis; printed as a letter.
pub type Label = u8;

/// Axis labels of a contraction, in the manner of einsum: `bti,oi->bto`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ContractSpec {
    pub lhs: Vec<Label>,
    pub rhs: Vec<Label>,
    pub out: Vec<Label>,
}

impl ContractSpec {
    /// Parses `lhs,rhs->out` and makes the labels canonical; None if it is not of that form.
    pub fn parse(text: &str) -> Option<ContractSpec> {
        ContractSpec::parse_as_written(text).map(|spec| spec.canonical())
    }

    /// [`ContractSpec::parse`] with the labels as they are, for messages.
    pub fn parse_as_written(text: &str) -> Option<ContractSpec> {
        let (ins, out) = text.split_once("->")?;
        let (lhs, rhs) = ins.split_once(',')?;
        let labels =
            |s: &str| -> Option<Vec<Label>> { s.bytes().map(|c| c.is_ascii_alphabetic().then_some(c)).collect() };
        Some(ContractSpec { lhs: labels(lhs)?, rhs: labels(rhs)?, out: labels(out)? })
    }

    /// The same contraction with labels renamed a, b, c.. z, A.. Z in order of first appearance, so that equal contractions
    /// compare equal.
    pub fn canonical(&self) -> ContractSpec {
        let mut seen: Vec<Label> = Vec::new();
        let mut rename = |labels: &[Label]| -> Vec<Label> {
            labels
                .iter()
                .map(|l| {
                    let i = seen.iter().position(|s| s == l).unwrap_or_else(|| {
                        seen.push(*l);
                        seen.len() - 1
                    });
                    // Past 52 labels comes no letter, which the type rule refuses.
                    if i < 26 { b'a' + i as u8 } else { b'A'.saturating_add((i - 26).min(255) as u8) }
                })
                .collect()
        };
        let lhs = rename(&self.lhs);
        let rhs = rename(&self.rhs);
        ContractSpec { lhs, rhs, out: rename(&self.out) }
    }

    /// Labels in lhs, rhs and out: batch axes, in the order of `out`.
    pub fn batch(&self) -> Vec<Label> {
        self.out.iter().copied().filter(|l| self.lhs.contains(l) && self.rhs.contains(l)).collect()
    }

    /// Labels in lhs and out only, in the order of `out`.
    pub fn lhs_free(&self) -> Vec<Label> {
        self.out.iter().copied().filter(|l| self.lhs.contains(l) && !self.rhs.contains(l)).collect()
    }

    /// Labels in rhs and out only, in the order of `out`.
    pub fn rhs_free(&self) -> Vec<Label> {
        self.out.iter().copied().filter(|l| !self.lhs.contains(l) && self.rhs.contains(l)).collect()
    }

    /// Contracted labels (in lhs and rhs, not in out), in the order of `lhs`.
    pub fn contracted(&self) -> Vec<Label> {
        self.lhs.iter().copied().filter(|l| !self.out.contains(l)).collect()
    }
}

impl std::fmt::Display for ContractSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let s = |v: &[Label]| String::from_utf8_lossy(v).into_owned();
        write!(f, "{},{}->{}", s(&self.lhs), s(&self.rhs), s(&self.out))
    }
}

/// f64 attribute of an op (eps, decay): compared and hashed by bits.
#[derive(Clone, Copy, Debug)]
pub struct Real(pub f64);

impl PartialEq for Real {
    fn eq(&self, other: &Self) -> bool {
        self.0.to_bits() == other.0.to_bits()
    }
}
impl Eq for Real {}
impl std::hash::Hash for Real {
    fn hash<H: std::hash::Hasher>(&self, h: &mut H) {
        self.0.to_bits().hash(h)
    }
}
impl std::fmt::Display for Real {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        Literal::f32(self.0).fmt(f)
    }
}

/// One operation with its attributes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// An input or state of the graph. Operands: none.
    Param(ParamId),
    Unary(Unary),
    Binary(Binary),
    Compare(Compare),
    /// Operands: condition (bool), a, b of one shape; a where true.
    Select,
    /// Converts to the dtype: float to integer truncates toward zero and saturates, bool becomes 0 or 1, non-zero becomes true.
    Cast(DType),
    /// The index along `axis`, as dtype i32, u32 or float. Operands: none.
    Iota {
        shape: Shape,
        dtype: DType,
        axis: usize,
    },
    /// One value everywhere. Operands: none.
    Splat {
        shape: Shape,
        value: Literal,
    },
    /// Axes are sorted, distinct, not empty.
    Reduce {
        op: Reduce,
        axes: Vec<usize>,
    },
    /// Stretches axes of extent 1 to `shape`; same rank.
    Broadcast {
        shape: Shape,
    },
    Reshape {
        shape: Shape,
    },
    /// Axis i of the result is axis perm[i] of the operand.
    Transpose {
        perm: Vec<usize>,
    },
    /// Half-open ranges, one an axis.
    Slice {
        start: Vec<usize>,
        end: Vec<usize>,
    },
    /// Adds `low`/`high` elements of `value` before/after, per axis.
    Pad {
        low: Vec<usize>,
        high: Vec<usize>,
        value: Literal,
    },
    /// Operands: one or more that agree on all axes but `axis`.
    Concat {
        axis: usize,
    },
    /// Operands: lhs, rhs (float). Sums products over the contracted labels.
    Contract(ContractSpec),
    /// Operands: table [V, rest..], ids [any..] i32; result [any.., rest..].
    Gather,
    /// Operands: base [V, rest..], ids [any..] i32, updates [any.., rest..]: base plus the updates added at their rows, in index order.
    ScatterAdd,
    /// Operands: x, then one scalar i32 start an axis; a window of `sizes`, its start clamped so that it fits.
    DynamicSlice {
        sizes: Shape,
    },
    /// Operands: x, update, then one scalar i32 start an axis (clamped so that the update fits): x with the window replaced.
    DynamicUpdate,
    /// Counter-based uniform f32 in [0,1). Operands: seed, counter (scalar u32). Element i is a pure function of
    /// (seed, counter, stream, i): see [`random_bits`].
    Random {
        shape: Shape,
        stream: u32,
    },
    Composite(Composite),
}

/// Operations defined by their expansion into primitives (module `composite`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Composite {
    /// Operand: x. e^x / sum e^x along `axis`.
    Softmax { axis: usize },
    /// Operand: x. log of softmax along `axis`.
    LogSoftmax { axis: usize },
    /// Operands: x [.., C], weight [C], bias [C] (Ba, Kiros and Hinton 2016), over the last axis.
    LayerNorm { eps: Real },
    /// Operands: x [.., C], weight [C] (Zhang and Sennrich 2019), over the last axis.
    RmsNorm { eps: Real },
    /// Operand: x.
    Gelu { form: GeluForm },
    /// Operand: x. x * sigmoid(x).
    Silu,
    /// Operands: x [.., I], weight [O, I], optional bias [O]; result [.., O].
    Linear,
    /// Operands: q [B,H,T,D], k [B,H,S,D], v [B,H,S,D]; result [B,H,T,D]: softmax(scale q k^T) v; causal masks keys
    /// after the query's position and needs T = S.
    Attention { causal: bool, scale: Real },
    /// Operands: q, k as of attention; result [B,H,T]: log of the sum of e^score over keys.
    AttentionLse { causal: bool, scale: Real },
    /// Operands: q, k, v, out, lse, grad of out; the gradient of attention for one of q, k, v, recomputing the
    /// probabilities from the log-sum-exp (Dao et al. 2022).
    AttentionGrad { wrt: Wrt, causal: bool, scale: Real },
    /// Operand: x [.., T, D], D even: rotary position embedding (Su et al. 2021) of halves, angle t * base^(-2i/D).
    Rope { base: Real },
    /// Operands: logits [.., V], targets [..] i32; result: scalar mean of -log softmax(logits)[target].
    CrossEntropy,
    /// Operands: any number of float tensors; result: scalar sqrt of the sum of all squares.
    GlobalNorm,
    /// Operands: one or more f32 tensors; result [blocks]: the sum of squares of each block of `block` consecutive elements (row-major) of each
    /// operand in turn, an operand's last block being shorter where it must: the first of two steps of a global norm.
    SquareSums { block: usize },
    /// Operands: gradient, norm (scalar). Gradient times min(1, max_norm / (norm + 1e-6)), as PyTorch's clip_grad_norm_.
    ClipByGlobalNorm { max_norm: Real },
    /// Operands: param, gradient, m, v, lr (scalar), step (scalar f32, from 1) (Loshchilov and Hutter 2019); decoupled decay.
    AdamW { part: AdamWPart, beta1: Real, beta2: Real, eps: Real, decay: Real },
}

impl Composite {
    /// Text name of the composite, without attributes.
    pub fn name(&self) -> &'static str {
        Op::Composite(self.clone()).name()
    }

    /// Whether backends have a kernel of its own for it; the others are expanded before fusion.
    pub fn has_kernel(&self) -> bool {
        matches!(
            self,
            Composite::Attention { .. }
                | Composite::AttentionLse { .. }
                | Composite::AttentionGrad { .. }
                | Composite::SquareSums { .. }
        )
    }
}

impl Op {
    /// Text name of the operation, without attributes.
    pub fn name(&self) -> &'static str {
        crate::spec::spec(self).name
    }

    /// Whether each element of the result depends only on the same element of each operand.
    pub fn is_elementwise(&self) -> bool {
        matches!(self, Op::Unary(_) | Op::Binary(_) | Op::Compare(_) | Op::Select | Op::Cast(_))
    }

    /// Whether the op only re-indexes its operand.
    pub fn is_view(&self) -> bool {
        matches!(self, Op::Broadcast { .. } | Op::Reshape { .. } | Op::Transpose { .. } | Op::Slice { .. })
    }
}

/// The 32 random bits of element `index` in stream `stream` for (`seed`, `counter`).
///
/// Rounds of a full-avalanche 32-bit mixer (Ellis 2018, "Prospecting for Hash Functions",
/// constants 0x7feb352d, 0x846ca68b), one a word of the key: needs only 32-bit multiply, shift and xor, which
/// every target has at full width.
pub fn random_bits(seed: u32, counter: u32, stream: u32, index: u32) -> u32 {
    let mix = |mut x: u32| {
        x ^= x >> 16;
        x = x.wrapping_mul(0x7feb_352d);
        x ^= x >> 15;
        x = x.wrapping_mul(0x846c_a68b);
        x ^ (x >> 16)
    };
    let h = mix(seed ^ 0x9e37_79b9);
    let h = mix(h ^ counter);
    let h = mix(h ^ stream);
    mix(h ^ mix(index))
}
