//! What a tensor handle can do: operations, reductions, layouts, products and composites, and Rust's operators.

use super::{Builder, T};
use crate::graph::NodeId;
use crate::op::{AdamWPart, Binary, Compare, Composite, ContractSpec, GeluForm, Op, Real, Reduce, Unary, Wrt};
use crate::types::{DType, Literal, Shape, TensorType, numel};

/// One method an elementwise operation.
macro_rules! unary_methods {
    ($($method:ident $op:ident)*) => {$(
        #[track_caller]
        pub fn $method(self) -> T<'g> {
            self.apply(Op::Unary(Unary::$op), &[])
        }
    )*};
}
macro_rules! binary_methods {
    ($($method:ident $op:expr;)*) => {$(
        #[track_caller]
        pub fn $method(self, other: impl IntoT<'g>) -> T<'g> {
            self.elementwise($op, other.into_t(self))
        }
    )*};
}

impl<'g> T<'g> {
    /// The node behind the handle; None after an error.
    pub fn id(self) -> Option<NodeId> {
        self.id
    }

    pub fn builder(self) -> &'g Builder {
        self.builder
    }

    /// The type; a scalar f32 after an error, so that code that only looks at shapes goes on.
    pub fn ty(self) -> TensorType {
        self.id.map_or(TensorType::f32([]), |id| self.builder.with_graph(|g| g.nodes[id].ty.clone()))
    }

    pub fn shape(self) -> Shape {
        self.ty().shape
    }

    pub fn dtype(self) -> DType {
        self.ty().dtype
    }

    /// Extent of `axis`; 1 if there is no such axis (the op that uses it reports the error).
    pub fn dim(self, axis: usize) -> usize {
        self.shape().get(axis).copied().unwrap_or(1)
    }

    pub fn rank(self) -> usize {
        self.ty().rank()
    }

    #[track_caller]
    fn apply(self, op: Op, rest: &[T<'g>]) -> T<'g> {
        let inputs: Vec<T<'g>> = std::iter::once(self).chain(rest.iter().copied()).collect();
        self.builder.node(op, &inputs)
    }

    #[track_caller]
    fn composite(self, c: Composite, rest: &[T<'g>]) -> T<'g> {
        self.apply(Op::Composite(c), rest)
    }

    /// `op` on both operands after NumPy broadcasting.
    #[track_caller]
    fn elementwise(self, op: Op, other: T<'g>) -> T<'g> {
        match broadcast_shape(&self.shape(), &other.shape()) {
            Some(shape) => {
                let (a, b) = (self.broadcast_to(shape.clone()), other.broadcast_to(shape));
                a.apply(op, &[b])
            }
            None => {
                let message = format!("shapes {} and {} do not broadcast", self.ty(), other.ty());
                self.builder.fail(op.name(), message, &[self, other])
            }
        }
    }

    unary_methods! { exp Exp log Log sqrt Sqrt rsqrt Rsqrt recip Recip tanh Tanh erf Erf sin Sin cos Cos }
    binary_methods! {
        max Op::Binary(Binary::Max);
        min Op::Binary(Binary::Min);
        eq Op::Compare(Compare::Eq);
        ne Op::Compare(Compare::Ne);
        lt Op::Compare(Compare::Lt);
        le Op::Compare(Compare::Le);
        gt Op::Compare(Compare::Gt);
        ge Op::Compare(Compare::Ge);
    }

    /// `a` where self is true, `b` elsewhere; all broadcast together.
    #[track_caller]
    pub fn select(self, a: T<'g>, b: impl IntoT<'g>) -> T<'g> {
        let b = b.into_t(a);
        let shape = broadcast_shape(&a.shape(), &b.shape()).and_then(|s| broadcast_shape(&s, &self.shape()));
        match shape {
            Some(s) => self.broadcast_to(s.clone()).apply(Op::Select, &[a.broadcast_to(s.clone()), b.broadcast_to(s)]),
            None => {
                let message = format!("shapes {}, {} and {} do not broadcast", self.ty(), a.ty(), b.ty());
                self.builder.fail("select", message, &[self, a, b])
            }
        }
    }

    #[track_caller]
    pub fn cast(self, dtype: DType) -> T<'g> {
        if self.dtype() == dtype { self } else { self.apply(Op::Cast(dtype), &[]) }
    }

    /// Sum over `axes`, which stay with extent 1; self if there are none.
    #[track_caller]
    pub fn sum(self, axes: &[usize]) -> T<'g> {
        self.reduce(Reduce::Sum, axes)
    }

    /// Mean over `axes`, which stay with extent 1.
    #[track_caller]
    pub fn mean(self, axes: &[usize]) -> T<'g> {
        let n: usize = axes.iter().map(|a| self.dim(*a)).product();
        self.sum(axes) * (1.0 / n as f64)
    }

    /// Largest element over `axes`, which stay with extent 1.
    #[track_caller]
    pub fn reduce_max(self, axes: &[usize]) -> T<'g> {
        self.reduce(Reduce::Max, axes)
    }

    /// i32 index of the first largest element along `axis`, which stays with extent 1.
    #[track_caller]
    pub fn argmax(self, axis: usize) -> T<'g> {
        self.reduce(Reduce::ArgMax, &[axis])
    }

    #[track_caller]
    fn reduce(self, op: Reduce, axes: &[usize]) -> T<'g> {
        let mut axes = axes.to_vec();
        axes.sort_unstable();
        if axes.is_empty() && op != Reduce::ArgMax { self } else { self.apply(Op::Reduce { op, axes }, &[]) }
    }

    /// Broadcasts to `shape` as NumPy does: leading axes are added, axes of extent 1 stretched.
    #[track_caller]
    pub fn broadcast_to(self, shape: impl Into<Shape>) -> T<'g> {
        let shape = shape.into();
        let mut x = self;
        if x.shape() == shape {
            return x;
        }
        if x.rank() < shape.len() {
            let mut padded = vec![1; shape.len() - x.rank()];
            padded.extend(x.shape());
            x = x.reshape(padded);
        }
        if x.shape() == shape { x } else { x.apply(Op::Broadcast { shape }, &[]) }
    }

    #[track_caller]
    pub fn reshape(self, shape: impl Into<Shape>) -> T<'g> {
        let shape = shape.into();
        if self.shape() == shape { self } else { self.apply(Op::Reshape { shape }, &[]) }
    }

    /// All elements along one axis, in row-major order.
    #[track_caller]
    pub fn flatten(self) -> T<'g> {
        let n = numel(&self.shape());
        self.reshape([n])
    }

    #[track_caller]
    pub fn transpose(self, perm: impl Into<Vec<usize>>) -> T<'g> {
        let perm = perm.into();
        if perm.iter().copied().eq(0..self.rank()) { self } else { self.apply(Op::Transpose { perm }, &[]) }
    }

    #[track_caller]
    pub fn slice(self, start: impl Into<Vec<usize>>, end: impl Into<Vec<usize>>) -> T<'g> {
        self.apply(Op::Slice { start: start.into(), end: end.into() }, &[])
    }

    /// Elements `start..end` along one axis.
    #[track_caller]
    pub fn slice_axis(self, axis: usize, start: usize, end: usize) -> T<'g> {
        let (mut from, mut to) = (vec![0; self.rank()], self.shape());
        if axis >= self.rank() {
            return self.builder.fail("slice", format!("no axis {axis} in {}", self.ty()), &[self]);
        }
        (from[axis], to[axis]) = (start, end);
        self.slice(from, to)
    }

    #[track_caller]
    pub fn pad(self, low: impl Into<Vec<usize>>, high: impl Into<Vec<usize>>, value: f64) -> T<'g> {
        let value = Literal::new(self.dtype(), value);
        self.apply(Op::Pad { low: low.into(), high: high.into(), value }, &[])
    }

    /// Contraction by labels, as einsum: `x.contract("bti,oi->bto", w)`.
    #[track_caller]
    pub fn contract(self, spec: &str, other: T<'g>) -> T<'g> {
        match ContractSpec::parse_as_written(spec) {
            Some(spec) => self.apply(Op::Contract(spec), &[other]),
            None => self.builder.fail("contract", format!("`{spec}` is not of the form `ab,bc->ac`"), &[self, other]),
        }
    }

    /// Rows of self [V, ..] at `ids` (i32).
    #[track_caller]
    pub fn gather(self, ids: T<'g>) -> T<'g> {
        self.apply(Op::Gather, &[ids])
    }

    /// Self [V, ..] plus `updates` added at rows `ids`.
    #[track_caller]
    pub fn scatter_add(self, ids: T<'g>, updates: T<'g>) -> T<'g> {
        self.apply(Op::ScatterAdd, &[ids, updates])
    }

    #[track_caller]
    pub fn dynamic_slice(self, starts: &[T<'g>], sizes: impl Into<Shape>) -> T<'g> {
        self.apply(Op::DynamicSlice { sizes: sizes.into() }, starts)
    }

    #[track_caller]
    pub fn dynamic_update(self, update: T<'g>, starts: &[T<'g>]) -> T<'g> {
        let rest: Vec<T<'g>> = std::iter::once(update).chain(starts.iter().copied()).collect();
        self.apply(Op::DynamicUpdate, &rest)
    }

    // Composites; their operands and meaning are documented at `Composite`.

    #[track_caller]
    pub fn softmax(self, axis: usize) -> T<'g> {
        self.composite(Composite::Softmax { axis }, &[])
    }

    #[track_caller]
    pub fn log_softmax(self, axis: usize) -> T<'g> {
        self.composite(Composite::LogSoftmax { axis }, &[])
    }

    #[track_caller]
    pub fn layer_norm(self, weight: T<'g>, bias: T<'g>, eps: f64) -> T<'g> {
        self.composite(Composite::LayerNorm { eps: Real(eps) }, &[weight, bias])
    }

    #[track_caller]
    pub fn rms_norm(self, weight: T<'g>, eps: f64) -> T<'g> {
        self.composite(Composite::RmsNorm { eps: Real(eps) }, &[weight])
    }

    #[track_caller]
    pub fn gelu(self, form: GeluForm) -> T<'g> {
        self.composite(Composite::Gelu { form }, &[])
    }

    #[track_caller]
    pub fn silu(self) -> T<'g> {
        self.composite(Composite::Silu, &[])
    }

    /// x [.., I] times weight [O, I], plus bias [O].
    #[track_caller]
    pub fn linear(self, weight: T<'g>, bias: Option<T<'g>>) -> T<'g> {
        let rest: Vec<T<'g>> = std::iter::once(weight).chain(bias).collect();
        self.composite(Composite::Linear, &rest)
    }

    /// Self is q [B,H,T,D].
    #[track_caller]
    pub fn attention(self, k: T<'g>, v: T<'g>, causal: bool, scale: f64) -> T<'g> {
        self.composite(Composite::Attention { causal, scale: Real(scale) }, &[k, v])
    }

    /// Self is q [B,H,T,D].
    #[track_caller]
    pub fn attention_lse(self, k: T<'g>, causal: bool, scale: f64) -> T<'g> {
        self.composite(Composite::AttentionLse { causal, scale: Real(scale) }, &[k])
    }

    /// Self is q; `saved` is k, v, out, lse and the gradient of out.
    #[track_caller]
    pub fn attention_grad(self, wrt: Wrt, saved: [T<'g>; 5], causal: bool, scale: f64) -> T<'g> {
        self.composite(Composite::AttentionGrad { wrt, causal, scale: Real(scale) }, &saved)
    }

    #[track_caller]
    pub fn rope(self, base: f64) -> T<'g> {
        self.composite(Composite::Rope { base: Real(base) }, &[])
    }

    #[track_caller]
    pub fn cross_entropy(self, targets: T<'g>) -> T<'g> {
        self.composite(Composite::CrossEntropy, &[targets])
    }

    #[track_caller]
    pub fn clip_by_global_norm(self, norm: T<'g>, max_norm: f64) -> T<'g> {
        self.composite(Composite::ClipByGlobalNorm { max_norm: Real(max_norm) }, &[norm])
    }

    /// Self is the parameter; `rest` is gradient, m, v, lr, step.
    #[track_caller]
    pub fn adamw(self, part: AdamWPart, rest: [T<'g>; 5], beta1: f64, beta2: f64, eps: f64, decay: f64) -> T<'g> {
        let c = Composite::AdamW { part, beta1: Real(beta1), beta2: Real(beta2), eps: Real(eps), decay: Real(decay) };
        self.composite(c, &rest)
    }
}

/// The shape two operands broadcast to, aligned at the last axis; None if they do not.
pub fn broadcast_shape(a: &[usize], b: &[usize]) -> Option<Shape> {
    let rank = a.len().max(b.len());
    let at = |s: &[usize], i: usize| if i + s.len() < rank { 1 } else { s[i + s.len() - rank] };
    (0..rank)
        .map(|i| match (at(a, i), at(b, i)) {
            (x, y) if x == y => Some(x),
            (1, y) => Some(y),
            (x, 1) => Some(x),
            _ => None,
        })
        .collect()
}

/// What may stand as the other operand of an operator: a tensor or a number of the tensor's dtype.
pub trait IntoT<'g> {
    fn into_t(self, like: T<'g>) -> T<'g>;
}

impl<'g> IntoT<'g> for T<'g> {
    fn into_t(self, _like: T<'g>) -> T<'g> {
        self
    }
}

impl<'g> IntoT<'g> for f64 {
    #[track_caller]
    fn into_t(self, like: T<'g>) -> T<'g> {
        like.builder.splat(like.shape(), Literal::new(like.dtype(), self))
    }
}

macro_rules! operators {
    ($($trait:ident $method:ident $op:ident;)*) => {$(
        impl<'g, R: IntoT<'g>> std::ops::$trait<R> for T<'g> {
            type Output = T<'g>;
            #[track_caller]
            fn $method(self, other: R) -> T<'g> {
                self.elementwise(Op::Binary(Binary::$op), other.into_t(self))
            }
        }
        impl<'g> std::ops::$trait<T<'g>> for f64 {
            type Output = T<'g>;
            #[track_caller]
            fn $method(self, other: T<'g>) -> T<'g> {
                self.into_t(other).elementwise(Op::Binary(Binary::$op), other)
            }
        }
    )*};
}
operators! { Add add Add; Sub sub Sub; Mul mul Mul; Div div Div; }

impl<'g> std::ops::Neg for T<'g> {
    type Output = T<'g>;
    #[track_caller]
    fn neg(self) -> T<'g> {
        self.apply(Op::Unary(Unary::Neg), &[])
    }
}
