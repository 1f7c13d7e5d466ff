//! What each live node is to fusion, and where a stored node's elements lie.
//!
//! Invariants
//! - Every live node has a [`Class`]. Views, splats and iotas never have a kernel of their own, unless promoted to [`Class::Copy`].
//! - Every live node that is not free has a strided view of its *base*: the leaf or computed node whose buffer holds its
//!   elements, if that is stored. A view that strides cannot express has its operand promoted to a copy, whose buffer is row-major.
//! - A *window* is a dynamic update that is the new value of the state it updates, and that nothing else reads. It is replaced in place, and the
//!   rest of the state left alone. It does not read the old value, so its operands are the others.
//! - An operand of a fold is *whole*: all elements of its base, in row-major order.
//! - A contraction whose operands are all f32 values rounded to f16 and back reads those values and rounds by itself; where the target lets buffers
//!   hold f16, it reads the f16 of values that some kernel's epilogue can round.
//! - A base is laid out row-major in its own axes, or in those of one of its transposes if fewer reshapes then need a copy. Roots and operands of folds are row-major.

use std::collections::{HashMap, HashSet};

use tinygpt_ir::op::{Binary, ContractSpec};
use tinygpt_ir::{Composite, Graph, NodeId, Op, ParamId, row_major};

use super::remark::{Reason, Remarks};
use super::view::Strided;
use crate::precision::rounded_source;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Not needed by any root.
    Dead,
    /// A parameter: stored from the start.
    Leaf,
    /// Splat or iota: written into every body that needs it.
    Free,
    /// Re-indexes its operand.
    View,
    /// A view that is computed and stored, because a later reshape needs it contiguous or it is a root.
    Copy,
    /// One element from the same element of each operand.
    Elementwise,
    /// One element from computed positions of stored operands: gather, pad, concat, dynamic slice and update; random.
    Indexed,
    Reduce,
    Contract,
    Attention,
    AttentionGrad,
    /// Reductions of blocks of whole operands.
    Fold,
    Scatter,
    /// A dynamic update of a state, in place.
    Window,
}

impl Class {
    /// Whether the node is computed by some kernel.
    pub fn is_computed(self) -> bool {
        !matches!(self, Class::Dead | Class::Leaf | Class::Free | Class::View)
    }
}

/// A contraction of one or more products that are summed: each term's node, and how its operands are named.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Axes of the result that are batch, rows (m) and columns (n).
    pub batch: Vec<usize>,
    pub m: Vec<usize>,
    pub n: Vec<usize>,
    /// Contraction nodes in summation order; true where rhs gives the rows.
    pub nodes: Vec<(NodeId, bool)>,
}

/// Classes and storage of the nodes of one graph.
pub struct Values<'a> {
    pub graph: &'a Graph,
    /// Live users of each node, absorbed sums looked through.
    pub users: Vec<Vec<NodeId>>,
    class: Vec<Class>,
    strided: Vec<Option<Strided>>,
    is_root: Vec<bool>,
    terms: HashMap<NodeId, Terms>,
    /// Contractions that round their operands to f16 as they read them, instead of reading rounded ones.
    rounding: HashSet<NodeId>,
    /// Casts that roundings replace, and the first contraction that does.
    replaced: HashMap<NodeId, NodeId>,
    /// See [`TargetModel::f16_values`](tinygpt_ir::program::TargetModel::f16_values), and the f16 values that contractions read from buffers.
    fewest_bytes: Option<usize>,
    halves: HashSet<NodeId>,
}

impl<'a> Values<'a> {
    /// `merge` sums of products into one contraction each, and make windows of updates, but of those of the states `whole`. f16 values
    /// are stored whose f32 have `fewest_bytes`.
    pub fn new(
        graph: &'a Graph,
        merge: bool,
        whole: &HashSet<ParamId>,
        fewest_bytes: Option<usize>,
        remarks: &mut Remarks,
    ) -> Result<Values<'a>, String> {
        let live = graph.live();
        let mut is_root = vec![false; graph.nodes.len()];
        for r in graph.roots() {
            is_root[r.index()] = true;
        }
        let mut class = Vec::with_capacity(graph.nodes.len());
        for (id, node) in graph.nodes.iter() {
            let c = if live[id.index()] { classify(&node.op)? } else { Class::Dead };
            let promote = is_root[id.index()] && matches!(c, Class::View | Class::Free);
            class.push(if promote { Class::Copy } else { c });
        }
        let n = graph.nodes.len();
        let mut values = Values {
            graph,
            users: vec![Vec::new(); n],
            class,
            strided: vec![None; n],
            is_root,
            terms: HashMap::new(),
            rounding: HashSet::new(),
            replaced: HashMap::new(),
            fewest_bytes,
            halves: HashSet::new(),
        };
        values.find_users();
        if merge {
            values.find_windows(whole, remarks);
        }
        if merge {
            values.find_roundings(remarks);
        }
        values.find_terms(merge, remarks);
        values.find_users();
        values.place(remarks);
        Ok(values)
    }

    fn find_users(&mut self) {
        for u in &mut self.users {
            u.clear();
        }
        for id in self.graph.nodes.ids() {
            if self.class[id.index()] != Class::Dead {
                for input in self.inputs(id) {
                    self.users[input.index()].push(id);
                }
            }
        }
    }

    fn find_windows(&mut self, whole: &HashSet<ParamId>, remarks: &mut Remarks) {
        for (p, id) in &self.graph.updates {
            let node = &self.graph.nodes[*id];
            let own = |x: &NodeId| self.graph.nodes[*x].op == Op::Param(*p);
            let lone = self.users[id.index()].is_empty() && self.graph.roots().filter(|r| r == id).count() == 1;
            if node.op == Op::DynamicUpdate && node.inputs.first().is_some_and(own) && lone && !whole.contains(p) {
                remarks.value(*id, Reason::Window);
                self.class[id.index()] = Class::Window;
            }
        }
    }

    /// Finds the contractions whose operands both are f32 values rounded to f16. Casts that nothing else reads are dead then.
    fn find_roundings(&mut self, remarks: &mut Remarks) {
        for (id, node) in self.graph.nodes.iter() {
            if self.class[id.index()] != Class::Contract {
                continue;
            }
            let sources: Option<Vec<NodeId>> = node.inputs.iter().map(|x| rounded_source(self.graph, *x)).collect();
            let Some(sources) = sources else { continue };
            self.rounding.insert(id);
            for (x, source) in node.inputs.iter().zip(sources) {
                let half = self.graph.nodes[*x].inputs[0];
                let stored = self.can_store(half);
                if stored {
                    self.halves.insert(half);
                }
                remarks.edge(source, id, if stored { Reason::Half } else { Reason::Rounding });
                for cast in [Some(*x), (!stored).then_some(half)].into_iter().flatten() {
                    self.replaced.entry(cast).or_insert(id);
                }
            }
        }
        let mut casts: Vec<NodeId> = self.replaced.keys().copied().collect();
        // Readers before what they read.
        casts.sort_unstable_by(|a, b| b.cmp(a));
        for cast in casts {
            let read = |u: &NodeId| self.class[u.index()] != Class::Dead && self.inputs(*u).contains(&cast);
            if self.is_root[cast.index()] || self.users[cast.index()].iter().any(read) {
                self.replaced.remove(&cast);
            } else {
                self.class[cast.index()] = Class::Dead;
            }
        }
        self.find_users();
    }

    /// Whether contractions read the f16 value `half`, a cast of an f32 one, from a buffer: a kernel that computes what it rounds can store it.
    fn can_store(&self, half: NodeId) -> bool {
        let mut source = self.graph.nodes[half].inputs[0];
        while self.class[source.index()] == Class::View {
            source = self.graph.nodes[source].inputs[0];
        }
        let bytes = self.graph.nodes[source].ty.bytes();
        let computed = matches!(self.class[source.index()], Class::Elementwise | Class::Reduce | Class::Contract);
        computed && self.fewest_bytes.is_some_and(|fewest| bytes >= fewest)
    }

    /// Finds the terms of each contraction; with `merge`, an addition of contractions that nothing else uses becomes one.
    fn find_terms(&mut self, merge: bool, remarks: &mut Remarks) {
        for id in self.graph.nodes.ids() {
            match (&self.graph.nodes[id].op, self.class[id.index()]) {
                (Op::Contract(spec), Class::Contract) => {
                    let terms = one_term(id, spec);
                    self.terms.insert(id, terms);
                }
                (Op::Binary(Binary::Add), Class::Elementwise) if merge => {
                    let [a, b] = [self.graph.nodes[id].inputs[0], self.graph.nodes[id].inputs[1]];
                    let lone = |x: NodeId| a != b && self.users[x.index()].len() == 1 && !self.is_root[x.index()];
                    let (Some(x), Some(y)) = (self.terms.get(&a), self.terms.get(&b)) else { continue };
                    let sum = if lone(a) && lone(b) {
                        add_terms(x, y).ok_or(Reason::OtherSides)
                    } else {
                        Err(Reason::SharedProduct)
                    };
                    for x in [a, b] {
                        remarks.edge(x, id, sum.as_ref().map_or_else(|r| *r, |_| Reason::SumOfProducts));
                    }
                    if let Ok(sum) = sum {
                        for absorbed in [a, b] {
                            self.terms.remove(&absorbed);
                            self.class[absorbed.index()] = Class::Dead;
                        }
                        self.terms.insert(id, sum);
                        self.class[id.index()] = Class::Contract;
                    }
                }
                _ => {}
            }
        }
    }

    /// Gives every node its strided view; promotes what must be stored but is not a computed node.
    fn place(&mut self, remarks: &mut Remarks) {
        for id in self.graph.nodes.ids() {
            for u in self.stored_operands(id) {
                if self.strided[u.index()].is_none() {
                    remarks.edge(u, id, Reason::NeedsPlace);
                    self.promote(u);
                } else if self.class[id.index()] == Class::Fold && !self.is_whole(u) {
                    remarks.edge(u, id, Reason::NeedsWhole);
                    self.promote(u);
                }
            }
            match self.class[id.index()] {
                Class::Dead | Class::Free => {}
                Class::View => self.strided[id.index()] = self.view(id, remarks),
                Class::Copy => {
                    self.view(id, remarks); // makes sure that the copy's operand can be read
                    self.promote(id);
                }
                _ => self.strided[id.index()] = Some(self.base(id)),
            }
        }
    }

    fn promote(&mut self, id: NodeId) {
        self.class[id.index()] = Class::Copy;
        self.strided[id.index()] = Some(self.base(id));
    }

    /// Whether `id` shows all elements of its base, in row-major order.
    fn is_whole(&self, id: NodeId) -> bool {
        let shape = &self.graph.nodes[id].ty.shape;
        let in_order = |strides: &[i64]| {
            let pairs = strides.iter().zip(row_major(shape));
            shape.iter().zip(pairs).all(|(n, (found, whole))| *n == 1 || *found == whole)
        };
        self.strided[id.index()].as_ref().is_some_and(|s| {
            s.offset == 0
                && self.graph.nodes[s.base].ty.numel() == self.graph.nodes[id].ty.numel()
                && in_order(&s.strides)
        })
    }

    /// The strided view of view `id`; promotes the operand of a reshape that strides cannot say.
    fn view(&mut self, id: NodeId, remarks: &mut Remarks) -> Option<Strided> {
        let node = &self.graph.nodes[id];
        let source = *node.inputs.first()?;
        let operand = &self.graph.nodes[source].ty.shape;
        let through = |s: &Option<Strided>| s.as_ref().and_then(|s| s.through(&node.op, operand, &node.ty.shape));
        let mut view = through(&self.strided[source.index()]);
        let reshape = matches!(node.op, Op::Reshape { .. });
        if view.is_none() && reshape && !self.is_constant(source) {
            // Strides cannot say it, so the operand becomes a row-major copy, which every reshape can view.
            remarks.edge(source, id, Reason::NeedsRowMajor);
            self.promote(source);
            view = through(&self.strided[source.index()]);
        }
        view
    }

    /// Whether `id` is a splat, perhaps behind views.
    fn is_constant(&self, id: NodeId) -> bool {
        let node = &self.graph.nodes[id];
        match self.class[id.index()] {
            Class::Free => matches!(node.op, Op::Splat { .. }),
            Class::View => self.is_constant(node.inputs[0]),
            _ => false,
        }
    }

    /// The stored layout of a base: of row-major and the layouts that its transposes would like, the one that leaves the fewest
    /// reshapes to copy, row-major if equal.
    fn base(&self, id: NodeId) -> Strided {
        let shape = &self.graph.nodes[id].ty.shape;
        let plain = Strided { base: id, offset: 0, strides: row_major(shape) };
        let folded = self.users[id.index()].iter().any(|u| self.class[u.index()] == Class::Fold);
        let free = self.class[id.index()].is_computed() && !self.is_root[id.index()] && !folded;
        if !free {
            return plain;
        }
        let permuted = self.users[id.index()].iter().filter_map(|u| match &self.graph.nodes[*u].op {
            Op::Transpose { perm } => {
                let result: Vec<usize> = perm.iter().map(|p| shape[*p]).collect();
                let mut strides = vec![0; shape.len()];
                for (p, s) in perm.iter().zip(row_major(&result)) {
                    strides[*p] = s;
                }
                Some(Strided { base: id, offset: 0, strides })
            }
            _ => None,
        });
        let (_, _, best) = std::iter::once(plain.clone())
            .chain(permuted)
            .enumerate()
            .map(|(i, s)| (self.copies(id, &s), i, s))
            .min_by_key(|(copies, i, _)| (*copies, *i))
            .unwrap_or((0, 0, plain));
        best
    }

    /// Reshapes of `id`, or of its transposes, that strides cannot say if `id` is stored as `s`.
    fn copies(&self, id: NodeId, s: &Strided) -> usize {
        let shape = |n: NodeId| self.graph.nodes[n].ty.shape.as_slice();
        let through = |from: NodeId, s: &Strided, u: NodeId| s.through(&self.graph.nodes[u].op, shape(from), shape(u));
        let is = |u: &NodeId, reshape: bool| match self.graph.nodes[*u].op {
            Op::Reshape { .. } => reshape,
            Op::Transpose { .. } => !reshape,
            _ => false,
        };
        let lost = |from: NodeId, s: &Strided| {
            self.users[from.index()].iter().filter(|u| is(u, true) && through(from, s, **u).is_none()).count()
        };
        let transposed = self.users[id.index()].iter().filter(|u| is(u, false));
        lost(id, s) + transposed.filter_map(|u| through(id, s, *u).map(|t| lost(*u, &t))).sum::<usize>()
    }

    pub fn class(&self, id: NodeId) -> Class {
        self.class[id.index()]
    }

    pub fn is_window(&self, id: NodeId) -> bool {
        self.class(id) == Class::Window
    }

    pub fn is_root(&self, id: NodeId) -> bool {
        self.is_root[id.index()]
    }

    pub fn shape(&self, id: NodeId) -> &'a [usize] {
        &self.graph.nodes[id].ty.shape
    }

    /// The node as a window into the buffer of its base; None for free nodes and views of them.
    pub fn strided(&self, id: NodeId) -> Option<&Strided> {
        self.strided[id.index()].as_ref()
    }

    /// The leaf or computed node whose elements `id` shows; `id` itself if it is free.
    pub fn base_of(&self, id: NodeId) -> NodeId {
        self.strided(id).map_or(id, |s| s.base)
    }

    /// Terms of a contraction.
    pub fn terms(&self, id: NodeId) -> &Terms {
        &self.terms[&id]
    }

    /// Operands of the node as a kernel computes it: those of all terms for a sum of products.
    pub fn inputs(&self, id: NodeId) -> Vec<NodeId> {
        match self.terms.get(&id) {
            Some(t) => t.nodes.iter().flat_map(|(n, _)| self.operands(*n)).collect(),
            None if self.rounds(id) => self.operands(id),
            None if self.class(id) == Class::Window => self.graph.nodes[id].inputs[1..].to_vec(),
            None => self.graph.nodes[id].inputs.clone(),
        }
    }

    /// What the kernel of contraction `id` reads for its operands.
    pub fn operands(&self, id: NodeId) -> Vec<NodeId> {
        let source = |x: &NodeId| match rounded_source(self.graph, *x).filter(|_| self.rounds(id)) {
            Some(source) => {
                let half = self.graph.nodes[*x].inputs[0];
                if self.halves.contains(&half) { half } else { source }
            }
            None => *x,
        };
        self.graph.nodes[id].inputs.iter().map(source).collect()
    }

    /// Whether contraction `id` rounds its operands to f16 as it reads them.
    pub fn rounds(&self, id: NodeId) -> bool {
        self.rounding.contains(&id)
    }

    /// The casts that rounding in contraction `id` stands for, each with whether no contraction before it stands for it too.
    pub fn replaced_casts(&self, id: NodeId) -> Vec<(NodeId, bool)> {
        if !self.rounds(id) {
            return Vec::new();
        }
        let inputs = &self.graph.nodes[id].inputs;
        let casts = inputs.iter().flat_map(|x| [*x, self.graph.nodes[*x].inputs[0]]);
        casts.filter_map(|cast| Some((cast, *self.replaced.get(&cast)? == id))).collect()
    }

    /// Operands that a kernel of this node must find stored, because it reads them at other points than its own.
    pub fn stored_operands(&self, id: NodeId) -> Vec<NodeId> {
        match self.class(id) {
            Class::Contract | Class::Attention | Class::AttentionGrad | Class::Fold => self.inputs(id),
            Class::Indexed | Class::Window => {
                // Where a dynamic slice or update starts is not stored if it is a constant, which bodies hold.
                let dynamic = matches!(self.graph.nodes[id].op, Op::DynamicSlice { .. } | Op::DynamicUpdate);
                let start = |u: &NodeId| dynamic && self.shape(*u).is_empty();
                self.inputs(id).into_iter().filter(|u| !(start(u) && self.is_constant(*u))).collect()
            }
            Class::Scatter => {
                let inputs = self.inputs(id);
                // A scatter into a constant needs no stored base.
                let skip = usize::from(self.is_constant(inputs[0]));
                inputs[skip..].to_vec()
            }
            _ => Vec::new(),
        }
    }
}

fn one_term(id: NodeId, spec: &ContractSpec) -> Terms {
    let axes = |labels: Vec<u8>| -> Vec<usize> {
        labels.iter().filter_map(|l| spec.out.iter().position(|o| o == l)).collect()
    };
    let (batch, lhs, rhs) = (axes(spec.batch()), axes(spec.lhs_free()), axes(spec.rhs_free()));
    // Columns are the axes stored contiguously: the side that owns the last axis of the result.
    let swap = lhs.contains(&(spec.out.len().wrapping_sub(1)));
    let (m, n) = if swap { (rhs, lhs) } else { (lhs, rhs) };
    Terms { batch, m, n, nodes: vec![(id, swap)] }
}

/// The sum of two contractions whose results agree on what is batch, row and column.
fn add_terms(x: &Terms, y: &Terms) -> Option<Terms> {
    let flip = if (&x.m, &x.n) == (&y.m, &y.n) {
        false
    } else if (&x.m, &x.n) == (&y.n, &y.m) {
        true
    } else {
        return None;
    };
    if x.batch != y.batch {
        return None;
    }
    let mut sum = x.clone();
    sum.nodes.extend(y.nodes.iter().map(|(n, s)| (*n, s ^ flip)));
    Some(sum)
}

fn classify(op: &Op) -> Result<Class, String> {
    Ok(match op {
        Op::Param(_) => Class::Leaf,
        Op::Splat { .. } | Op::Iota { .. } => Class::Free,
        Op::Unary(_) | Op::Binary(_) | Op::Compare(_) | Op::Select | Op::Cast(_) => Class::Elementwise,
        Op::Broadcast { .. } | Op::Reshape { .. } | Op::Transpose { .. } | Op::Slice { .. } => Class::View,
        Op::Gather
        | Op::Pad { .. }
        | Op::Concat { .. }
        | Op::DynamicSlice { .. }
        | Op::DynamicUpdate
        | Op::Random { .. } => Class::Indexed,
        Op::Reduce { .. } => Class::Reduce,
        Op::Contract(_) => Class::Contract,
        Op::ScatterAdd => Class::Scatter,
        Op::Composite(Composite::Attention { .. } | Composite::AttentionLse { .. }) => Class::Attention,
        Op::Composite(Composite::AttentionGrad { .. }) => Class::AttentionGrad,
        Op::Composite(Composite::SquareSums { .. }) => Class::Fold,
        Op::Composite(c) => {
            return Err(format!(
                "fuse found the composite {}, which has no kernel; run the expand pass before it",
                c.name()
            ));
        }
    })
}
