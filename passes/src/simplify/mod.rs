//! Simplification: constant folding, algebra, views, common subexpressions, dead code.
//!
//! A graph is rebuilt node by node. Each node, its operands already simplified, is offered to a table of rules (modules `fold`,
//! `algebra`, `views`); a rule that matches emits its right-hand side through the same door, so the result is in normal form as
//! it is built. Whatever no rule matches is interned: the same operation on the same operands is one node (hash consing, which is
//! common subexpression elimination). Then dead nodes go.
//!
//! Invariants
//! - Values stay equal in exact arithmetic, for every input including infinities and NaN, but for the sign of a zero. So x * 0
//!   stays for floats (it is NaN where x is not finite) and x - x stays.
//! - In floating point, products with constants are regrouped and divisions by constants become products: a rounding error or
//!   two, and only where every constant involved is a normal number of the dtype. Sums of floats are never regrouped.
//! - A rule's right-hand side has no more work than its left-hand side, counting what stays because others use it, and the
//!   rules terminate: each lowers the number of nodes, moves constants and negations outwards, or moves broadcasts outwards.
//! - A new node carries the scope and line of the node it stands for; of equal nodes the first keeps its own.
//! - The interface stays: parameters, outputs and updates, names and types.

mod algebra;
mod dce;
mod fold;
mod views;

use std::collections::HashMap;

use tinygpt_ir::op::{Binary, Unary};
use tinygpt_ir::{DType, Graph, Literal, Loc, Node, NodeId, Op, ScopeId, TensorType, infer};

use crate::pass::Stats;
use crate::rebuild::without_nodes;
pub use dce::dce;

/// An equation read from left to right.
pub struct Rule {
    /// The equation, which also names the rule in statistics and tests.
    pub equation: &'static str,
    /// The value of `op` on the operands by the equation's right-hand side; None if its left-hand side does not match. The
    /// operands may be none: a rule looks at the operation before it looks at an operand.
    apply: fn(&mut Rewriter, &Op, &[NodeId]) -> Option<NodeId>,
}

/// Declares a table of rules: an equation and how it is matched, one after the other.
macro_rules! rule_table {
    ($(#[$doc:meta])* $TABLE:ident { $($equation:literal => |$r:ident, $op:ident, $x:ident| $body:expr;)* }) => {
        $(#[$doc])*
        pub(super) const $TABLE: &[Rule] = &[$(Rule { equation: $equation, apply: |$r, $op, $x| $body }),*];
    };
}
use rule_table;

/// Every rule, in the order in which they are tried.
pub fn rules() -> impl Iterator<Item = &'static Rule> {
    RULES.iter().flat_map(|table| table.iter())
}

const RULES: &[&[Rule]] = &[fold::FOLD, algebra::ALGEBRA, views::VIEWS];

/// Rounds after which simplification stops even if something still changes. The first round reaches a normal form; a second
/// confirms it.
const MAX_ROUNDS: usize = 4;

/// Applies all rules, shares common subexpressions and removes dead nodes, until nothing changes.
pub fn simplify(graph: &Graph, stats: &mut Stats) -> Graph {
    let mut graph = dce(graph);
    for _ in 0..MAX_ROUNDS {
        let (next, hits) = rewrite(&graph, RULES, stats);
        graph = next;
        if hits == 0 {
            break;
        }
    }
    graph
}

/// Shares common subexpressions and removes dead nodes.
pub fn cse(graph: &Graph, stats: &mut Stats) -> Graph {
    rewrite(&dce(graph), &[], stats).0
}

/// One round; also returns how often a rule matched or a node was shared.
fn rewrite(graph: &Graph, tables: &'static [&'static [Rule]], stats: &mut Stats) -> (Graph, usize) {
    let mut r = Rewriter {
        graph: without_nodes(graph),
        known: HashMap::with_capacity(graph.nodes.len()),
        tables,
        origin: (ScopeId(0), None),
        uses: Vec::with_capacity(graph.nodes.len()),
        hits: HashMap::new(),
    };
    let mut uses = vec![0; graph.nodes.len()];
    graph
        .nodes
        .values()
        .flat_map(|n| &n.inputs)
        .chain(&graph.roots().collect::<Vec<_>>())
        .for_each(|i| uses[i.index()] += 1);
    let mut shared = 0;
    let mut map: Vec<NodeId> = Vec::with_capacity(graph.nodes.len());
    for (id, node) in graph.nodes.iter() {
        r.origin = (node.scope, node.loc);
        let inputs: Vec<NodeId> = node.inputs.iter().map(|i| map[i.index()]).collect();
        let new = match r.apply(&node.op, &inputs) {
            Some(new) => new,
            None => {
                let before = r.graph.nodes.len();
                let new = r.intern(node.op.clone(), &inputs, Some(&node.ty));
                shared += usize::from(r.graph.nodes.len() == before);
                new
            }
        };
        assert_eq!(r.graph.nodes[new].ty, node.ty, "a rule for {} changed its type", node.op.name());
        r.uses.resize(r.graph.nodes.len(), 0);
        r.uses[new.index()] += uses[id.index()];
        map.push(new);
    }
    let hits = shared + r.hits.values().sum::<usize>();
    stats.add("common subexpressions", shared);
    for (equation, n) in &r.hits {
        stats.add(equation, *n);
    }
    let mut result = r.graph;
    result.outputs = graph.outputs.iter().map(|(name, n)| (name.clone(), map[n.index()])).collect();
    result.updates = graph.updates.iter().map(|(p, n)| (*p, map[n.index()])).collect();
    (dce(&result), hits)
}

/// The graph under construction, as rules see it.
pub(crate) struct Rewriter {
    graph: Graph,
    /// Nodes by operation and operands, those of commutative operations in ascending order.
    known: HashMap<(Op, Vec<NodeId>), NodeId>,
    tables: &'static [&'static [Rule]],
    /// Scope and line of the node being rewritten.
    origin: (ScopeId, Option<Loc>),
    /// For each node, how many operands and results of the old graph it stands for so far.
    uses: Vec<usize>,
    /// How often each equation matched.
    hits: HashMap<&'static str, usize>,
}

impl Rewriter {
    /// The first rule that matches.
    fn apply(&mut self, op: &Op, inputs: &[NodeId]) -> Option<NodeId> {
        for rule in self.tables.iter().copied().flatten() {
            if let Some(new) = (rule.apply)(self, op, inputs) {
                *self.hits.entry(rule.equation).or_default() += 1;
                return Some(new);
            }
        }
        None
    }

    /// The simplest known value of `op` on `inputs`.
    fn emit(&mut self, op: Op, inputs: &[NodeId]) -> NodeId {
        match self.apply(&op, inputs) {
            Some(new) => new,
            None => self.intern(op, inputs, None),
        }
    }

    fn intern(&mut self, op: Op, inputs: &[NodeId], ty: Option<&TensorType>) -> NodeId {
        let mut key = (op, inputs.to_vec());
        if matches!(key.0, Op::Binary(Binary::Add | Binary::Mul)) {
            key.1.sort_unstable();
        }
        if let Some(id) = self.known.get(&key) {
            return *id;
        }
        let ty = ty.cloned().unwrap_or_else(|| self.infer(&key.0, inputs));
        let (scope, loc) = self.origin;
        let id = self.graph.nodes.push(Node { op: key.0.clone(), inputs: inputs.to_vec(), ty, scope, loc });
        self.known.insert(key, id);
        id
    }

    /// The type of `op` on `inputs`, which rules only ask for where it has one.
    fn infer(&self, op: &Op, inputs: &[NodeId]) -> TensorType {
        let tys: Vec<&TensorType> = inputs.iter().map(|i| &self.graph.nodes[*i].ty).collect();
        infer::infer(op, &tys, |p| self.graph.params.get(p).map(|p| p.ty.clone()))
            .unwrap_or_else(|e| panic!("a simplification rule made an ill-typed {}: {e}", op.name()))
    }

    fn op(&self, id: NodeId) -> &Op {
        &self.graph.nodes[id].op
    }

    fn ty(&self, id: NodeId) -> &TensorType {
        &self.graph.nodes[id].ty
    }

    fn shape(&self, id: NodeId) -> &[usize] {
        &self.graph.nodes[id].ty.shape
    }

    fn dtype(&self, id: NodeId) -> DType {
        self.graph.nodes[id].ty.dtype
    }

    fn input(&self, id: NodeId, i: usize) -> NodeId {
        self.graph.nodes[id].inputs[i]
    }

    /// Whether `id` stays even if the node being rewritten no longer uses it.
    fn is_shared(&self, id: NodeId) -> bool {
        self.uses.get(id.index()).is_some_and(|n| *n > 1)
    }

    /// The value of a constant.
    fn constant(&self, id: NodeId) -> Option<f64> {
        match self.op(id) {
            Op::Splat { value, .. } => Some(value.value),
            _ => None,
        }
    }

    fn is_constant(&self, id: NodeId, value: f64) -> bool {
        self.constant(id) == Some(value)
    }

    /// The operands of `id` if it is that binary operation.
    fn as_binary(&self, id: NodeId, op: Binary) -> Option<(NodeId, NodeId)> {
        let n = &self.graph.nodes[id];
        (n.op == Op::Binary(op)).then(|| (n.inputs[0], n.inputs[1]))
    }

    /// The operand of `id` if it is that unary operation.
    fn as_unary(&self, id: NodeId, op: Unary) -> Option<NodeId> {
        let n = &self.graph.nodes[id];
        (n.op == Op::Unary(op)).then(|| n.inputs[0])
    }

    /// (x, c) if `id` is x * c with a constant c; constants stand on the right.
    fn as_scaled(&self, id: NodeId) -> Option<(NodeId, f64)> {
        let (x, c) = self.as_binary(id, Binary::Mul)?;
        Some((x, self.constant(c)?))
    }

    fn unary(&mut self, op: Unary, x: NodeId) -> NodeId {
        self.emit(Op::Unary(op), &[x])
    }

    fn binary(&mut self, op: Binary, a: NodeId, b: NodeId) -> NodeId {
        self.emit(Op::Binary(op), &[a, b])
    }

    fn splat(&mut self, ty: &TensorType, value: f64) -> NodeId {
        let value = Literal::new(ty.dtype, value);
        self.emit(Op::Splat { shape: ty.shape.clone(), value }, &[])
    }

    /// x * c.
    fn scaled(&mut self, x: NodeId, c: f64) -> NodeId {
        let c = self.splat(&self.ty(x).clone(), c);
        self.binary(Binary::Mul, x, c)
    }
}

/// Whether `value` is a normal number of `dtype`: products with it keep their relative precision.
fn is_normal(dtype: DType, value: f64) -> bool {
    let (least, most) = match dtype {
        DType::F32 => (f32::MIN_POSITIVE as f64, f32::MAX as f64),
        // 2^-14 and (2 - 2^-10) 2^15
        DType::F16 => (6.103515625e-5, 65504.0),
        DType::I32 | DType::U32 | DType::Bool => return false,
    };
    (least..=most).contains(&value.abs())
}
