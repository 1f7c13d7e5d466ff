//! The language in which models are written: a [`Builder`] and tensor handles with operators.
//!
//! Invariants
//! - A handle belongs to the builder that made it (its lifetime says so) and is two words: copy it freely.
//! - Building never panics. The first error is kept, with the operands and the DSL lines involved; every later operation on
//!   its result is silently poisoned, and [`Builder::finish`] returns that first error.
//! - Elementwise operators broadcast as NumPy does, by inserting explicit `reshape` and `broadcast` nodes.
//! - Every method is `#[track_caller]`: a node's location is the model's line, not a line of this file.

use std::cell::RefCell;

use crate::error::{GraphError, Operand};
use crate::graph::{Graph, Init, Loc, Node, NodeId, Param, ParamId, ParamKind, ScopeId, StateRole};
use crate::op::{AdamWPart, Binary, Compare, Composite, ContractSpec, GeluForm, Op, Real, Reduce, Unary, Wrt};
use crate::types::{DType, Literal, Shape, TensorType, numel};

/// Builds a [`Graph`] from DSL calls.
pub struct Builder {
    state: RefCell<State>,
}

struct State {
    graph: Graph,
    scope: ScopeId,
    /// Location that overrides the caller's: used by passes, which keep the line of the node they rewrite.
    at: Option<(ScopeId, Option<Loc>)>,
    error: Option<Box<GraphError>>,
}

/// A tensor: a value of the graph under construction.
#[derive(Clone, Copy)]
pub struct T<'g> {
    builder: &'g Builder,
    /// None once an error has been recorded.
    id: Option<NodeId>,
}

/// Leaves the scope when dropped.
pub struct ScopeGuard<'g> {
    builder: &'g Builder,
    outer: ScopeId,
}

impl Drop for ScopeGuard<'_> {
    fn drop(&mut self) {
        self.builder.state.borrow_mut().scope = self.outer;
    }
}

impl Builder {
    pub fn new(name: impl Into<String>) -> Builder {
        Builder::on(Graph::new(name))
    }

    /// Goes on building `graph`.
    pub fn on(graph: Graph) -> Builder {
        Builder { state: RefCell::new(State { graph, scope: ScopeId(0), at: None, error: None }) }
    }

    /// The graph, or the first error made while building it.
    pub fn finish(self) -> Result<Graph, Box<GraphError>> {
        let state = self.state.into_inner();
        match state.error {
            Some(error) => Err(error),
            None => Ok(state.graph),
        }
    }

    /// Enters the scope `name` under the current one until the guard is dropped.
    pub fn scope(&self, name: impl AsRef<str>) -> ScopeGuard<'_> {
        let path = self.qualified(name.as_ref());
        let mut s = self.state.borrow_mut();
        let outer = s.scope;
        s.scope = s.graph.intern_scope(&path);
        ScopeGuard { builder: self, outer }
    }

    /// `name` under the current scope path.
    fn qualified(&self, name: &str) -> String {
        let s = self.state.borrow();
        match s.graph.scopes[s.scope].as_str() {
            "" => name.to_string(),
            outer => format!("{outer}.{name}"),
        }
    }

    /// Makes every following node carry this scope and line, until called with None. For passes.
    pub fn set_origin(&self, origin: Option<(ScopeId, Option<Loc>)>) {
        self.state.borrow_mut().at = origin;
    }

    /// The handle of an existing node.
    pub fn handle(&self, id: NodeId) -> T<'_> {
        T { builder: self, id: Some(id) }
    }

    /// Reads the graph built so far.
    pub fn with_graph<R>(&self, f: impl FnOnce(&Graph) -> R) -> R {
        f(&self.state.borrow().graph)
    }

    /// Records `message` as the builder's error if it is the first, with `operands` for context.
    #[track_caller]
    pub fn fail(&self, op: &str, message: String, operands: &[T<'_>]) -> T<'_> {
        let loc = Loc::caller();
        self.fail_at(op, message, operands, Some(loc))
    }

    fn fail_at(&self, op: &str, message: String, operands: &[T<'_>], loc: Option<Loc>) -> T<'_> {
        let mut s = self.state.borrow_mut();
        if s.error.is_none() {
            let operands = operands
                .iter()
                .filter_map(|t| t.id)
                .map(|id| {
                    let n = &s.graph.nodes[id];
                    Operand {
                        node: id,
                        op: match n.op {
                            Op::Param(p) => format!("param {}", s.graph.params[p].name),
                            _ => n.op.name().to_string(),
                        },
                        ty: n.ty.clone(),
                        scope: s.graph.scope(id).to_string(),
                        loc: n.loc,
                    }
                })
                .collect();
            let scope = s.graph.scopes[s.scope].clone();
            s.error = Some(Box::new(GraphError { op: op.to_string(), message, scope, loc, operands }));
        }
        T { builder: self, id: None }
    }

    #[track_caller]
    fn param(&self, name: String, kind: ParamKind, ty: TensorType) -> T<'_> {
        if self.with_graph(|g| g.param_named(&name).is_some()) {
            return self.fail("param", format!("the name `{name}` is already taken; parameter names are unique"), &[]);
        }
        let id = self.state.borrow_mut().graph.params.push(Param { name, kind, ty });
        self.node(Op::Param(id), &[])
    }

    /// A value given at every step. The name is used as it is, without the scope path.
    #[track_caller]
    pub fn input(&self, name: impl Into<String>, ty: TensorType) -> T<'_> {
        self.param(name.into(), ParamKind::Input, ty)
    }

    /// A trained f32 weight, named by the scope path and `name`.
    #[track_caller]
    pub fn weight(&self, name: &str, shape: impl Into<Shape>, init: Init) -> T<'_> {
        let kind = ParamKind::State { init, role: StateRole::Weight };
        self.param(self.qualified(name), kind, TensorType::f32(shape))
    }

    /// Any other value kept between steps, named by the scope path and `name`.
    #[track_caller]
    pub fn state(&self, name: &str, ty: TensorType, init: Init, role: StateRole) -> T<'_> {
        self.param(self.qualified(name), ParamKind::State { init, role }, ty)
    }

    /// Names `value` as a result of the graph.
    #[track_caller]
    pub fn output(&self, name: impl Into<String>, value: T<'_>) {
        let name = name.into();
        if self.with_graph(|g| g.output_named(&name).is_some()) {
            self.fail("output", format!("the output name `{name}` is already taken"), &[value]);
        } else if let Some(id) = value.id {
            self.state.borrow_mut().graph.outputs.push((name, id));
        }
    }

    /// Makes `value` the state's value after the step.
    #[track_caller]
    pub fn update(&self, state: T<'_>, value: T<'_>) {
        let (Some(s), Some(v)) = (state.id, value.id) else { return };
        let found = self.with_graph(|g| match g.nodes[s].op {
            Op::Param(p) if g.params[p].is_state() && g.nodes[s].ty == g.nodes[v].ty => {
                if g.updates.iter().any(|(q, _)| *q == p) {
                    Err("the state already has an update".to_string())
                } else {
                    Ok(p)
                }
            }
            _ => Err(format!(
                "update needs a state and a value of its type, found {} {} and {}",
                g.nodes[s].op.name(),
                g.nodes[s].ty,
                g.nodes[v].ty
            )),
        });
        match found {
            Ok(p) => {
                let updates = &mut self.state.borrow_mut().graph.updates;
                let at = updates.partition_point(|(q, _)| *q < p);
                updates.insert(at, (p, v));
            }
            Err(message) => {
                self.fail("update", message, &[state, value]);
            }
        }
    }

    /// Adds a node; the type rule of `op` decides its type. Labels of contractions are made canonical.
    #[track_caller]
    pub fn node<'g>(&'g self, op: Op, inputs: &[T<'g>]) -> T<'g> {
        let caller = Loc::caller();
        let Some(ids) = inputs.iter().map(|t| t.id).collect::<Option<Vec<_>>>() else {
            return T { builder: self, id: None };
        };
        let (inferred, origin) = {
            let s = self.state.borrow();
            let g = &s.graph;
            let tys: Vec<&TensorType> = ids.iter().map(|i| &g.nodes[*i].ty).collect();
            let ty = crate::infer::infer(&op, &tys, |p| g.params.get(p).map(|p| p.ty.clone()));
            (ty, s.at.unwrap_or((s.scope, Some(caller))))
        };
        match inferred {
            Ok(ty) => {
                let op = match op {
                    Op::Contract(labels) => Op::Contract(labels.canonical()),
                    op => op,
                };
                let node = Node { op, inputs: ids, ty, scope: origin.0, loc: origin.1 };
                T { builder: self, id: Some(self.state.borrow_mut().graph.nodes.push(node)) }
            }
            Err(message) => self.fail_at(op.name(), message, inputs, origin.1),
        }
    }

    /// The f32 scalar `value`.
    #[track_caller]
    pub fn scalar(&self, value: f64) -> T<'_> {
        self.splat([], Literal::f32(value))
    }

    #[track_caller]
    pub fn splat(&self, shape: impl Into<Shape>, value: Literal) -> T<'_> {
        self.node(Op::Splat { shape: shape.into(), value }, &[])
    }

    /// The index along `axis`.
    #[track_caller]
    pub fn iota(&self, shape: impl Into<Shape>, dtype: DType, axis: usize) -> T<'_> {
        self.node(Op::Iota { shape: shape.into(), dtype, axis }, &[])
    }

    /// Uniform random f32 in [0, 1): see [`Op::Random`].
    #[track_caller]
    pub fn random<'g>(&'g self, seed: T<'g>, counter: T<'g>, stream: u32, shape: impl Into<Shape>) -> T<'g> {
        self.node(Op::Random { shape: shape.into(), stream }, &[seed, counter])
    }

    #[track_caller]
    pub fn concat<'g>(&'g self, parts: &[T<'g>], axis: usize) -> T<'g> {
        self.node(Op::Concat { axis }, parts)
    }

    /// Sums of squares of blocks of `block` consecutive elements of each tensor in turn: see [`Composite::SquareSums`].
    #[track_caller]
    pub fn square_sums<'g>(&'g self, tensors: &[T<'g>], block: usize) -> T<'g> {
        self.node(Op::Composite(Composite::SquareSums { block }), tensors)
    }

    /// Square root of the sum of all squares: a scalar.
    #[track_caller]
    pub fn global_norm<'g>(&'g self, tensors: &[T<'g>]) -> T<'g> {
        self.node(Op::Composite(Composite::GlobalNorm), tensors)
    }
}

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

impl Builder {
    /// The node that reads parameter `p`, if the graph has one.
    pub fn param_node(&self, p: ParamId) -> Option<T<'_>> {
        let id = self.with_graph(|g| g.nodes.iter().find(|(_, n)| n.op == Op::Param(p)).map(|(id, _)| id));
        id.map(|id| self.handle(id))
    }
}
