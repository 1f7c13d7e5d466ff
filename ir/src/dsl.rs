//! The language in which models are written: a [`Builder`] and tensor handles with operators.
//!
//! Invariants
//! - A handle belongs to the builder that made it (its lifetime says so) and is two words: copy it freely.
//! - Building never panics. The first error is kept, with the operands and the DSL lines involved; every later operation on
//!   its result is silently poisoned, and [`Builder::finish`] returns that first error.
//! - Elementwise operators broadcast as NumPy does, by inserting explicit `reshape` and `broadcast` nodes.
//! - Every method is `#[track_caller]`: a node's location is the model's line, not a line of this file.

mod tensor;

use std::cell::RefCell;

use crate::error::{GraphError, Operand};
use crate::graph::{Graph, Init, Loc, Node, NodeId, Param, ParamId, ParamKind, ScopeId, StateRole};
use crate::op::{Composite, Op};
use crate::types::{DType, Literal, Shape, TensorType};
pub use tensor::{IntoT, broadcast_shape};

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

    /// The node that reads parameter `p`, if the graph has one.
    pub fn param_node(&self, p: ParamId) -> Option<T<'_>> {
        let id = self.with_graph(|g| g.nodes.iter().find(|(_, n)| n.op == Op::Param(p)).map(|(id, _)| id));
        id.map(|id| self.handle(id))
    }
}
