//! The verifier of graphs. This comment is the specification of a well-formed [`Graph`]; [`verify`] checks all of it and
//! reports every violation by the invariant's name.
//!
//! **Order**
//! - `graph.ssa-order`: every operand of a node is a node of the graph with a smaller id. So id order is a topological order,
//!   and there are no cycles.
//! - `graph.scope`: the first scope is the empty path; scope paths are distinct, and their parts, between dots, not
//!   empty; every node's scope exists.
//!
//! **Types**
//! - `graph.types`: a node has as many operands as its operation takes, and its type is what the operation's type rule gives for
//!   its operands' types (module `infer`). The rule also bounds attributes (axes, permutations, windows, labels).
//! - `graph.param-type`: a parameter has extents of at least 1 and at most `infer::MAX_ELEMENTS` elements.
//! - `graph.literal`: a literal of an integer or boolean dtype holds a value of that dtype.
//! - `graph.contract-labels`: contraction labels are canonical (a, b, c.. by first appearance), so that equal contractions
//!   compare equal.
//!
//! **Parameters**
//! - `graph.param-exists`: a `param` node names a parameter of the graph.
//! - `graph.param-once`: at most one node reads a parameter; so equal reads are one value.
//! - `graph.unique-names`: parameter names are distinct and not empty; so are output names.
//! - `graph.init`: a state that starts normally distributed is float, and its standard deviation finite and not negative.
//! - `graph.weight`: a trained weight is f32; lower precisions are copies that passes make.
//!
//! **Results**
//! - `graph.output-exists`: an output names a node of the graph.
//! - `graph.update-target`: an update names a state of the graph, not an input.
//! - `graph.update-order`: updates are in ascending order of parameter; so a state has at most one.
//! - `graph.update-type`: the new value of a state is a node of the graph of the state's type.

use std::collections::{HashMap, HashSet};
use std::fmt;

use crate::graph::{Graph, Init, Node, NodeId, ParamId, ParamKind};
use crate::infer;
use crate::op::Op;
use crate::types::{DType, Literal};

/// An invariant of the module comment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Invariant {
    SsaOrder,
    Scope,
    Types,
    ParamType,
    Literal,
    ContractLabels,
    ParamExists,
    ParamOnce,
    UniqueNames,
    Init,
    Weight,
    OutputExists,
    UpdateTarget,
    UpdateOrder,
    UpdateType,
}

impl Invariant {
    pub const ALL: [Invariant; 15] = [
        Invariant::SsaOrder,
        Invariant::Scope,
        Invariant::Types,
        Invariant::ParamType,
        Invariant::Literal,
        Invariant::ContractLabels,
        Invariant::ParamExists,
        Invariant::ParamOnce,
        Invariant::UniqueNames,
        Invariant::Init,
        Invariant::Weight,
        Invariant::OutputExists,
        Invariant::UpdateTarget,
        Invariant::UpdateOrder,
        Invariant::UpdateType,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Invariant::SsaOrder => "graph.ssa-order",
            Invariant::Scope => "graph.scope",
            Invariant::Types => "graph.types",
            Invariant::ParamType => "graph.param-type",
            Invariant::Literal => "graph.literal",
            Invariant::ContractLabels => "graph.contract-labels",
            Invariant::ParamExists => "graph.param-exists",
            Invariant::ParamOnce => "graph.param-once",
            Invariant::UniqueNames => "graph.unique-names",
            Invariant::Init => "graph.init",
            Invariant::Weight => "graph.weight",
            Invariant::OutputExists => "graph.output-exists",
            Invariant::UpdateTarget => "graph.update-target",
            Invariant::UpdateOrder => "graph.update-order",
            Invariant::UpdateType => "graph.update-type",
        }
    }
}

/// One way in which a graph is not well-formed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub invariant: Invariant,
    /// The node concerned, if there is one.
    pub node: Option<NodeId>,
    /// What was found, and what was expected.
    pub found: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.invariant.name())?;
        if let Some(node) = self.node {
            write!(f, "{node}: ")?;
        }
        f.write_str(&self.found)
    }
}

/// Every violation found in a graph; at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violations {
    pub graph: String,
    pub violations: Vec<Violation>,
}

impl std::error::Error for Violations {}

impl fmt::Display for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "graph {} is not well-formed:", self.graph)?;
        self.violations.iter().try_for_each(|v| write!(f, "\n  {v}"))
    }
}

/// Checks every invariant of the module comment.
pub fn verify(graph: &Graph) -> Result<(), Violations> {
    let mut v = Verifier { graph, violations: Vec::new() };
    v.scopes();
    v.params();
    v.nodes();
    v.results();
    match v.violations {
        violations if violations.is_empty() => Ok(()),
        violations => Err(Violations { graph: graph.name.clone(), violations }),
    }
}

struct Verifier<'a> {
    graph: &'a Graph,
    violations: Vec<Violation>,
}

impl Verifier<'_> {
    /// Records a violation unless `holds`.
    fn check(&mut self, holds: bool, invariant: Invariant, node: Option<NodeId>, found: impl FnOnce() -> String) {
        if !holds {
            self.violations.push(Violation { invariant, node, found: found() });
        }
    }

    fn scopes(&mut self) {
        let first = self.graph.scopes.values().next();
        self.check(first.is_some_and(|s| s.is_empty()), Invariant::Scope, None, || {
            format!("the first scope is {first:?}, not the empty path")
        });
        let mut seen = HashSet::new();
        for (id, path) in self.graph.scopes.iter() {
            let parts = id.index() == 0 || path.split('.').all(|part| !part.is_empty());
            self.check(parts, Invariant::Scope, None, || format!("{id} `{path}` has an empty part"));
            self.check(seen.insert(path), Invariant::Scope, None, || format!("{id} `{path}` is there twice"));
        }
    }

    fn params(&mut self) {
        let mut names = HashSet::new();
        for (id, p) in self.graph.params.iter() {
            let named = !p.name.is_empty() && names.insert(p.name.as_str());
            self.check(named, Invariant::UniqueNames, None, || {
                format!("parameter {id} has the name `{}`, which is empty or taken", p.name)
            });
            if let Err(e) = infer::extents(&p.ty) {
                self.check(false, Invariant::ParamType, None, || format!("parameter {} is {}; {e}", p.name, p.ty));
            }
            if let ParamKind::State { init: Init::Normal(std), .. } = p.kind {
                let drawn = p.ty.dtype.is_float() && std.is_finite() && std >= 0.0;
                self.check(drawn, Invariant::Init, None, || {
                    format!("state {} is {} and starts normal with standard deviation {std}", p.name, p.ty)
                });
            }
            let trained = !p.is_weight() || p.ty.dtype == DType::F32;
            self.check(trained, Invariant::Weight, None, || format!("weight {} is {}, not f32", p.name, p.ty));
        }
    }

    fn nodes(&mut self) {
        let mut readers: HashMap<ParamId, NodeId> = HashMap::new();
        for (id, node) in self.graph.nodes.iter() {
            let at = Some(id);
            let scope = node.scope;
            self.check(self.graph.scopes.get(scope).is_some(), Invariant::Scope, at, || format!("no {scope}"));
            if let Some(literal) = literal(&node.op) {
                let normal = literal.dtype.is_float() || literal.dtype.normalise(literal.value) == literal.value;
                self.check(normal, Invariant::Literal, at, || {
                    format!("{} is not a value of {}", literal.value, literal.dtype)
                });
            }
            if let Op::Contract(labels) = &node.op {
                let canonical = labels.canonical();
                self.check(*labels == canonical, Invariant::ContractLabels, at, || {
                    format!("contract {labels} is canonically {canonical}")
                });
            }
            if let Op::Param(p) = node.op {
                self.check(self.graph.params.get(p).is_some(), Invariant::ParamExists, at, || {
                    format!("no parameter {p}; the graph has {}", self.graph.params.len())
                });
                if let Some(other) = readers.insert(p, id) {
                    self.check(false, Invariant::ParamOnce, at, || format!("{p} is read by {other} already"));
                }
            }
            let mut ordered = true;
            for input in node.inputs.iter().filter(|i| **i >= id) {
                ordered = false;
                self.check(false, Invariant::SsaOrder, at, || format!("{} uses {input}", node.op.name()));
            }
            if ordered {
                self.types(id, node);
            }
        }
    }

    fn types(&mut self, id: NodeId, node: &Node) {
        let g = self.graph;
        if matches!(node.op, Op::Param(p) if g.params.get(p).is_none()) {
            return;
        }
        let tys: Vec<_> = node.inputs.iter().map(|i| &g.nodes[*i].ty).collect();
        match infer::infer(&node.op, &tys, |p| g.params.get(p).map(|p| p.ty.clone())) {
            Ok(ty) => self.check(ty == node.ty, Invariant::Types, Some(id), || {
                format!("{} is {}, its type rule gives {ty}", node.op.name(), node.ty)
            }),
            Err(e) => self.check(false, Invariant::Types, Some(id), || e),
        }
    }

    fn results(&mut self) {
        let g = self.graph;
        let mut names = HashSet::new();
        for (name, node) in &g.outputs {
            self.check(!name.is_empty() && names.insert(name), Invariant::UniqueNames, None, || {
                format!("an output has the name `{name}`, which is empty or taken")
            });
            let exists = g.nodes.get(*node).is_some();
            self.check(exists, Invariant::OutputExists, None, || format!("output `{name}` names {node}"));
        }
        for pair in g.updates.windows(2) {
            let (before, after) = (pair[0].0, pair[1].0);
            self.check(before < after, Invariant::UpdateOrder, None, || {
                format!("the update of {after} follows that of {before}")
            });
        }
        for (param, node) in &g.updates {
            let state = g.params.get(*param).filter(|p| p.is_state());
            self.check(state.is_some(), Invariant::UpdateTarget, None, || format!("{param} is not a state"));
            let Some(state) = state else { continue };
            let value = g.nodes.get(*node);
            self.check(value.is_some_and(|n| n.ty == state.ty), Invariant::UpdateType, Some(*node), || {
                let found = value.map_or("no node".to_string(), |n| n.ty.to_string());
                format!("state {} is {}, its new value {found}", state.name, state.ty)
            });
        }
    }
}

fn literal(op: &Op) -> Option<Literal> {
    match op {
        Op::Splat { value, .. } | Op::Pad { value, .. } => Some(*value),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dsl::Builder;
    use crate::graph::{Param, ScopeId, StateRole};
    use crate::op::{Composite, ContractSpec, Unary};
    use crate::types::TensorType;

    /// Parameters p0 input x, p1 weight w, p2 state k; nodes %0..%2 read them, %3 contracts, %4 is a splat.
    fn sample() -> Graph {
        let b = Builder::new("sample");
        let x = b.input("x", TensorType::f32([2, 3]));
        let w = b.weight("w", [4, 3], Init::Normal(0.02));
        let k = b.state("k", TensorType::new(DType::I32, [4]), Init::Zeros, StateRole::Other);
        let inner = b.scope("block");
        let y = x.contract("bi,oi->bo", w);
        let s = b.splat([4], Literal::i32(7));
        b.output("y", y);
        b.output("z", y);
        b.update(w, w);
        b.update(k, s);
        drop(inner);
        b.finish().expect("the sample builds")
    }

    fn found(g: &Graph) -> Vec<Invariant> {
        let mut found: Vec<Invariant> =
            verify(g).err().map_or(vec![], |v| v.violations.iter().map(|v| v.invariant).collect());
        found.dedup();
        found
    }

    fn push(g: &mut Graph, op: Op, inputs: &[u32], ty: TensorType) {
        let inputs = inputs.iter().map(|i| NodeId(*i)).collect();
        g.nodes.push(Node { op, inputs, ty, scope: ScopeId(0), loc: None });
    }

    type Break = fn(&mut Graph);

    /// Graphs that break one invariant each.
    const BROKEN: &[(Invariant, Break)] = &[
        (Invariant::SsaOrder, |g| g.nodes[NodeId(3)].inputs[0] = NodeId(3)),
        (Invariant::SsaOrder, |g| g.nodes[NodeId(3)].inputs[0] = NodeId(99)),
        (Invariant::Scope, |g| g.nodes[NodeId(0)].scope = ScopeId(9)),
        (Invariant::Scope, |g| g.scopes[ScopeId(1)] = "block..a".into()),
        (Invariant::Scope, |g| g.scopes[ScopeId(0)] = "top".into()),
        (Invariant::Scope, |g| {
            g.scopes.push("block".into());
        }),
        (Invariant::Types, |g| g.nodes[NodeId(3)].ty = TensorType::f32([2, 5])),
        (Invariant::Types, |g| push(g, Op::Unary(Unary::Exp), &[], TensorType::f32([2]))),
        (Invariant::Types, |g| push(g, Op::Composite(Composite::Silu), &[2], TensorType::f32([4]))),
        (Invariant::ParamType, |g| {
            let ty = TensorType::f32([0]);
            g.params.push(Param { name: "empty".into(), kind: ParamKind::Input, ty });
        }),
        (Invariant::ParamType, |g| {
            let ty = TensorType::f32([1 << 40, 1 << 40]);
            g.params.push(Param { name: "huge".into(), kind: ParamKind::Input, ty });
        }),
        (Invariant::Literal, |g| {
            let value = crate::types::Literal { dtype: DType::I32, value: 0.5 };
            g.nodes[NodeId(4)].op = Op::Splat { shape: vec![4], value };
        }),
        (Invariant::ContractLabels, |g| {
            let labels = |s: &str| s.as_bytes().to_vec();
            g.nodes[NodeId(3)].op =
                Op::Contract(ContractSpec { lhs: labels("bi"), rhs: labels("oi"), out: labels("bo") });
        }),
        (Invariant::ParamExists, |g| push(g, Op::Param(ParamId(7)), &[], TensorType::f32([2]))),
        (Invariant::ParamOnce, |g| push(g, Op::Param(ParamId(0)), &[], TensorType::f32([2, 3]))),
        (Invariant::UniqueNames, |g| g.params[ParamId(1)].name = "x".into()),
        (Invariant::UniqueNames, |g| g.params[ParamId(1)].name = "".into()),
        (Invariant::UniqueNames, |g| g.outputs[1].0 = "y".into()),
        (Invariant::Init, |g| {
            g.params[ParamId(1)].kind = ParamKind::State { init: Init::Normal(-1.0), role: StateRole::Weight };
        }),
        (Invariant::Init, |g| {
            g.params[ParamId(2)].kind = ParamKind::State { init: Init::Normal(1.0), role: StateRole::Other };
        }),
        (Invariant::Weight, |g| {
            g.params[ParamId(2)].kind = ParamKind::State { init: Init::Zeros, role: StateRole::Weight };
        }),
        (Invariant::OutputExists, |g| g.outputs[0].1 = NodeId(50)),
        (Invariant::UpdateTarget, |g| g.updates[0].0 = ParamId(0)),
        (Invariant::UpdateTarget, |g| g.updates[1].0 = ParamId(8)),
        (Invariant::UpdateOrder, |g| g.updates.swap(0, 1)),
        (Invariant::UpdateOrder, |g| g.updates.insert(0, g.updates[0])),
        (Invariant::UpdateType, |g| g.updates[1].1 = NodeId(0)),
        (Invariant::UpdateType, |g| g.updates[1].1 = NodeId(50)),
    ];

    #[test]
    fn well_formed() {
        assert_eq!(verify(&sample()), Ok(()));
    }

    #[test]
    fn each_broken_graph_breaks_its_invariant_alone() {
        for (i, (invariant, break_it)) in BROKEN.iter().enumerate() {
            let mut g = sample();
            break_it(&mut g);
            assert_eq!(found(&g), [*invariant], "case {i}: {:?}", verify(&g));
        }
        for invariant in Invariant::ALL {
            assert!(BROKEN.iter().any(|(i, _)| *i == invariant), "no broken graph for {}", invariant.name());
        }
    }

    #[test]
    fn the_module_comment_states_each_invariant_once() {
        let comment = include_str!("verify.rs").lines().take_while(|l| l.starts_with("//!"));
        let stated: Vec<&str> =
            comment.filter_map(|l| l.strip_prefix("//! - `")?.split_once('`').map(|(name, _)| name)).collect();
        assert_eq!(stated, Invariant::ALL.map(Invariant::name));
    }

    #[test]
    fn reports_all_violations_with_their_nodes() {
        let mut g = sample();
        g.nodes[NodeId(3)].ty = TensorType::f32([1]);
        g.outputs[0].1 = NodeId(50);
        let report = verify(&g).expect_err("two violations").to_string();
        assert_eq!(
            report,
            "graph sample is not well-formed:\n  graph.types: %3: contract is f32[1], its type rule gives f32[2,4]\n  \
             graph.output-exists: output `y` names %50"
        );
    }
}
