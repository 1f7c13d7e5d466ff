//! From clusters to kernels: bodies, accesses and arguments.
//!
//! Invariants
//! - A body computes exactly the stored members of its cluster, from stored values, leaves and constants; what it recomputes of
//!   other clusters is flagged in the provenance.
//! - An argument list names a buffer once; argument ids are in order of first use.

use std::collections::HashMap;

use tinygpt_ir::op::{Binary, Compare};
use tinygpt_ir::program::{
    Access, Affine, Arg, ArgId, ArgMode, Body, BufferId, Indirect, Provenance, ScalarId, ScalarOp, Store,
};
use tinygpt_ir::{DType, Literal, NodeId, Op, row_major};

use super::cluster::Clusters;
use super::store::Stored;
use super::values::Class;
use super::view::{Map, Strided, backward};

/// Why a kernel could not be written.
pub enum Retry {
    /// This node must be stored first.
    Store(NodeId),
    /// A graph that fusion does not cover: one sentence.
    Unsupported(String),
}

/// Where stored values are.
pub struct Buffers<'a> {
    pub clusters: &'a Clusters<'a>,
    pub stored: &'a Stored,
    /// Buffer of each leaf and stored node.
    pub of: HashMap<NodeId, BufferId>,
}

/// Collects a kernel's arguments and provenance.
#[derive(Default)]
pub struct Args {
    pub list: Vec<Arg>,
    nodes: Vec<NodeId>,
    recomputed: Vec<NodeId>,
}

impl Args {
    /// The argument for `buffer`, read or written.
    pub fn get(&mut self, buffer: BufferId, mode: ArgMode) -> ArgId {
        if let Some(i) = self.list.iter().position(|a| a.buffer == buffer) {
            if self.list[i].mode != mode {
                self.list[i].mode = ArgMode::ReadWrite;
            }
            return ArgId(i as u32);
        }
        self.list.push(Arg { buffer, mode });
        ArgId(self.list.len() as u32 - 1)
    }

    pub fn computes(&mut self, id: NodeId) {
        if !self.nodes.contains(&id) {
            self.nodes.push(id);
        }
    }

    pub fn recomputes(&mut self, id: NodeId) {
        if !self.recomputed.contains(&id) {
            self.recomputed.push(id);
        }
    }

    pub fn provenance(&self, clusters: &Clusters<'_>) -> Provenance {
        let graph = clusters.values.graph;
        let mut p = Provenance { nodes: self.nodes.clone(), recomputed: self.recomputed.clone(), ..Default::default() };
        p.nodes.sort_unstable();
        p.recomputed.sort_unstable();
        for id in &p.nodes {
            let scope = graph.scope(*id).to_string();
            if !p.scopes.contains(&scope) {
                p.scopes.push(scope);
            }
            if let Some(loc) = graph.nodes[*id].loc
                && !p.locs.contains(&loc)
            {
                p.locs.push(loc);
            }
        }
        p
    }
}

/// Writes the body of one cluster.
pub struct BodyWriter<'a, 'b> {
    buffers: &'b Buffers<'a>,
    args: &'b mut Args,
    cluster: usize,
    /// Extents of the cluster's space, before `order` is applied.
    space: &'b [usize],
    /// Axis i of the kernel's space is axis order[i] of the cluster's.
    order: Vec<usize>,
    /// Accumulators: reductions or the contraction, in order.
    accs: &'b [NodeId],
    pub body: Body,
    known: HashMap<(NodeId, Map), ScalarId>,
}

impl<'a, 'b> BodyWriter<'a, 'b> {
    pub fn new(
        buffers: &'b Buffers<'a>,
        args: &'b mut Args,
        cluster: usize,
        space: &'b [usize],
        order: Vec<usize>,
        accs: &'b [NodeId],
    ) -> Self {
        BodyWriter { buffers, args, cluster, space, order, accs, body: Body::default(), known: HashMap::new() }
    }

    fn dtype(&self, id: NodeId) -> DType {
        self.buffers.clusters.values.graph.nodes[id].ty.dtype
    }

    fn rank(&self) -> usize {
        self.space.len()
    }

    /// An affine function of the cluster's space, over the kernel's.
    fn ordered(&self, a: &Affine) -> Affine {
        Affine { offset: a.offset, coeffs: self.order.iter().map(|d| a.coeffs[*d]).collect() }
    }

    fn constant(&mut self, dtype: DType, value: f64) -> ScalarId {
        self.body.push(ScalarOp::Const(Literal::new(dtype, value)), dtype)
    }

    fn index(&mut self, a: &Affine) -> ScalarId {
        let a = self.ordered(a);
        self.body.push(ScalarOp::Index(a), DType::I32)
    }

    /// The load of `view` at the element `at`, with indirect terms.
    fn load(&mut self, view: &Strided, at: Affine, indirect: Vec<Indirect>) -> Result<ScalarId, Retry> {
        let buffer = *self.buffers.of.get(&view.base).ok_or(Retry::Store(view.base))?;
        let arg = self.args.get(buffer, ArgMode::Read);
        let dtype = self.dtype(view.base);
        let at = self.ordered(&at);
        Ok(self.body.push(ScalarOp::Load(Access { arg, at, indirect }), dtype))
    }

    /// The store of member `id` into `buffer`, whose layout is `view`.
    pub fn store(&mut self, id: NodeId, buffer: BufferId, view: &Strided) -> Result<Store, Retry> {
        let map = self.buffers.clusters.map(id).clone();
        if self.buffers.clusters.values.class(id) == Class::Window {
            return self.replace(id, &map, buffer, view);
        }
        let value = self.value(id, &map)?;
        let arg = self.args.get(buffer, ArgMode::Write);
        let at = self.ordered(&view.at(&map, self.rank()));
        Ok(Store { access: Access { arg, at, indirect: Vec::new() }, value })
    }

    /// The store of window `id` into the state `buffer`: its place is where the update starts, clamped so that it fits.
    fn replace(&mut self, id: NodeId, map: &Map, buffer: BufferId, view: &Strided) -> Result<Store, Retry> {
        self.args.computes(id);
        let values = self.buffers.clusters.values;
        let inputs = values.inputs(id);
        let (full, size) = (values.shape(id), values.shape(inputs[0]));
        let value = self.value(inputs[0], map)?;
        let mut indirect = Vec::new();
        for d in (0..full.len()).filter(|d| full[*d] > size[*d]) {
            let index = self.value(inputs[1 + d], &Vec::new())?;
            indirect.push(Indirect { index, stride: view.strides[d], extent: full[d] - size[d] + 1 });
        }
        let arg = self.args.get(buffer, ArgMode::Write);
        let at = self.ordered(&view.at(map, self.rank()));
        Ok(Store { access: Access { arg, at, indirect }, value })
    }

    /// The element of `id` at index `map`.
    pub fn value(&mut self, id: NodeId, map: &Map) -> Result<ScalarId, Retry> {
        if let Some(s) = self.known.get(&(id, map.clone())) {
            return Ok(*s);
        }
        let s = self.fresh(id, map)?;
        self.known.insert((id, map.clone()), s);
        Ok(s)
    }

    fn fresh(&mut self, id: NodeId, map: &Map) -> Result<ScalarId, Retry> {
        let clusters = self.buffers.clusters;
        let values = clusters.values;
        let class = values.class(id);
        let member = clusters.of(id) == Some(self.cluster);
        if member {
            self.args.computes(id);
            if let Some(i) = self.accs.iter().position(|a| *a == id) {
                return Ok(self.body.push(ScalarOp::Acc(i as u32), self.dtype(id)));
            }
            return self.compute(id, map);
        }
        match class {
            Class::Free => self.compute(id, map),
            Class::View => {
                if let Some(view) = values.strided(id)
                    && clusters.of(view.base) != Some(self.cluster)
                    && self.buffers.of.contains_key(&view.base)
                {
                    let view = view.clone();
                    let at = view.at(map, self.rank());
                    return self.load(&view, at, Vec::new());
                }
                self.through_view(id, map)
            }
            _ => match values.strided(id).filter(|v| self.buffers.of.contains_key(&v.base)).cloned() {
                Some(view) => {
                    let at = view.at(map, self.rank());
                    self.load(&view, at, Vec::new())
                }
                None if matches!(class, Class::Elementwise | Class::Copy) => {
                    self.args.recomputes(id);
                    self.compute(id, map)
                }
                None => Err(Retry::Store(id)),
            },
        }
    }

    /// The element of a view's operand.
    fn through_view(&mut self, id: NodeId, map: &Map) -> Result<ScalarId, Retry> {
        let clusters = self.buffers.clusters;
        let values = clusters.values;
        let node = &values.graph.nodes[id];
        let input = node.inputs[0];
        let source = clusters.source(input);
        if let Op::Splat { value, .. } = values.graph.nodes[source].op {
            return Ok(self.body.push(ScalarOp::Const(value), value.dtype));
        }
        match backward(&node.op, values.shape(input), &node.ty.shape, map, self.space) {
            Some(at) => self.value(input, &at),
            // A reshape that is not affine here, of a value in a buffer: strides of the buffer may say it.
            None => {
                let view = values
                    .strided(input)
                    .and_then(|s| s.through(&node.op, values.shape(input), &node.ty.shape))
                    .ok_or(Retry::Store(source))?;
                let at = view.at(map, self.rank());
                self.load(&view, at, Vec::new())
            }
        }
    }

    fn compute(&mut self, id: NodeId, map: &Map) -> Result<ScalarId, Retry> {
        let node = &self.buffers.clusters.values.graph.nodes[id];
        let dtype = node.ty.dtype;
        let op = match &node.op {
            Op::Unary(u) => ScalarOp::Unary(*u, self.value(node.inputs[0], map)?),
            Op::Binary(b) => ScalarOp::Binary(*b, self.value(node.inputs[0], map)?, self.value(node.inputs[1], map)?),
            Op::Compare(c) => ScalarOp::Compare(*c, self.value(node.inputs[0], map)?, self.value(node.inputs[1], map)?),
            Op::Select => ScalarOp::Select(
                self.value(node.inputs[0], map)?,
                self.value(node.inputs[1], map)?,
                self.value(node.inputs[2], map)?,
            ),
            Op::Cast(_) => ScalarOp::Cast(self.value(node.inputs[0], map)?),
            Op::Splat { value, .. } => ScalarOp::Const(*value),
            Op::Iota { axis, .. } => {
                let index = self.index(&map[*axis]);
                if dtype == DType::I32 {
                    return Ok(index);
                }
                ScalarOp::Cast(index)
            }
            Op::Random { stream, .. } => {
                let seed = self.value(node.inputs[0], &Vec::new())?;
                let counter = self.value(node.inputs[1], &Vec::new())?;
                let linear = map
                    .iter()
                    .zip(row_major(&node.ty.shape))
                    .fold(Affine::constant(self.rank(), 0), |acc, (a, s)| acc.plus(a, s));
                let index = self.index(&linear);
                let index = self.body.push(ScalarOp::Cast(index), DType::U32);
                ScalarOp::Random { seed, counter, stream: *stream, index }
            }
            Op::Broadcast { .. } | Op::Reshape { .. } | Op::Transpose { .. } | Op::Slice { .. } => {
                return self.through_view(id, map);
            }
            Op::Param(_) => return self.value(id, map),
            Op::Gather => return self.gather(id, map),
            Op::Pad { .. } => return self.pad(id, map),
            Op::Concat { .. } => return self.concat(id, map),
            Op::DynamicSlice { .. } => return self.dynamic_slice(id, map),
            Op::DynamicUpdate => return self.dynamic_update(id, map),
            Op::Reduce { .. } | Op::Contract(_) | Op::ScatterAdd | Op::Composite(_) => return Err(Retry::Store(id)),
        };
        Ok(self.body.push(op, dtype))
    }

    /// The stored window that operand `u` is.
    fn window(&self, u: NodeId) -> Result<Strided, Retry> {
        let values = self.buffers.clusters.values;
        values.strided(u).cloned().ok_or_else(|| {
            Retry::Unsupported(format!(
                "operand {u} of an indexed read has no buffer ({})",
                values.graph.nodes[u].op.name()
            ))
        })
    }

    /// The element of stored `u` whose index along axis d is `at[d]`, computed and clamped where it is a scalar.
    fn load_at(&mut self, u: NodeId, at: &[Index]) -> Result<ScalarId, Retry> {
        let view = self.window(u)?;
        let mut affine = Affine::constant(self.rank(), view.offset);
        let mut indirect = Vec::new();
        for (d, index) in at.iter().enumerate() {
            match index {
                Index::Affine(a) => affine = affine.plus(a, view.strides[d]),
                Index::Computed(s) => {
                    let extent = self.buffers.clusters.values.shape(u)[d];
                    // A stretched axis has one element, whatever the index.
                    if extent > 1 && view.strides[d] != 0 {
                        indirect.push(Indirect { index: *s, stride: view.strides[d], extent });
                    }
                }
            }
        }
        self.load(&view, affine, indirect)
    }

    fn gather(&mut self, id: NodeId, map: &Map) -> Result<ScalarId, Retry> {
        let values = self.buffers.clusters.values;
        let [table, ids] = [values.inputs(id)[0], values.inputs(id)[1]];
        let lead = values.shape(ids).len();
        let row = self.value(ids, &map[..lead].to_vec())?;
        let at: Vec<Index> =
            std::iter::once(Index::Computed(row)).chain(map[lead..].iter().cloned().map(Index::Affine)).collect();
        self.load_at(table, &at)
    }

    /// a and b, either of which may be absent (true).
    fn and(&mut self, a: Option<ScalarId>, b: ScalarId) -> ScalarId {
        match a {
            Some(a) => self.body.push(ScalarOp::Binary(Binary::Min, a, b), DType::Bool),
            None => b,
        }
    }

    fn compare(&mut self, c: Compare, a: ScalarId, b: ScalarId) -> ScalarId {
        self.body.push(ScalarOp::Compare(c, a, b), DType::Bool)
    }

    fn pad(&mut self, id: NodeId, map: &Map) -> Result<ScalarId, Retry> {
        let node = &self.buffers.clusters.values.graph.nodes[id];
        let Op::Pad { low, high, value } = &node.op else { return Err(Retry::Store(id)) };
        let x = node.inputs[0];
        let shape = self.buffers.clusters.values.shape(x);
        let (mut inside, mut at) = (None, Vec::new());
        for d in 0..shape.len() {
            let shifted = Affine { offset: map[d].offset - low[d] as i64, coeffs: map[d].coeffs.clone() };
            if low[d] == 0 && high[d] == 0 {
                at.push(Index::Affine(shifted));
                continue;
            }
            let index = self.index(&shifted);
            if low[d] > 0 {
                let zero = self.constant(DType::I32, 0.0);
                let ok = self.compare(Compare::Ge, index, zero);
                inside = Some(self.and(inside, ok));
            }
            if high[d] > 0 {
                let end = self.constant(DType::I32, shape[d] as f64);
                let ok = self.compare(Compare::Lt, index, end);
                inside = Some(self.and(inside, ok));
            }
            at.push(Index::Computed(index));
        }
        let x = self.load_at(x, &at)?;
        let Some(inside) = inside else { return Ok(x) };
        let fill = self.body.push(ScalarOp::Const(*value), value.dtype);
        Ok(self.body.push(ScalarOp::Select(inside, x, fill), value.dtype))
    }

    fn concat(&mut self, id: NodeId, map: &Map) -> Result<ScalarId, Retry> {
        let node = &self.buffers.clusters.values.graph.nodes[id];
        let Op::Concat { axis } = node.op else { return Err(Retry::Store(id)) };
        let values = self.buffers.clusters.values;
        let mut start = values.shape(id)[axis];
        let mut result: Option<ScalarId> = None;
        for x in node.inputs.iter().rev() {
            let end = start;
            start -= values.shape(*x)[axis];
            let shifted = Affine { offset: map[axis].offset - start as i64, coeffs: map[axis].coeffs.clone() };
            let local = self.index(&shifted);
            let mut at: Vec<Index> = map.iter().cloned().map(Index::Affine).collect();
            at[axis] = Index::Computed(local);
            let here = self.load_at(*x, &at)?;
            result = Some(match result {
                None => here,
                Some(rest) => {
                    let position = self.index(&map[axis]);
                    let end = self.constant(DType::I32, end as f64);
                    let first = self.compare(Compare::Lt, position, end);
                    self.body.push(ScalarOp::Select(first, here, rest), node.ty.dtype)
                }
            });
        }
        result.ok_or_else(|| Retry::Unsupported("concat without operands".into()))
    }

    /// The start along one axis, clamped so that `size` elements fit in `extent`.
    fn start(&mut self, id: NodeId, extent: usize, size: usize) -> Result<ScalarId, Retry> {
        let raw = self.value(id, &Vec::new())?;
        let zero = self.constant(DType::I32, 0.0);
        let last = self.constant(DType::I32, (extent - size) as f64);
        let low = self.body.push(ScalarOp::Binary(Binary::Max, raw, zero), DType::I32);
        Ok(self.body.push(ScalarOp::Binary(Binary::Min, low, last), DType::I32))
    }

    fn dynamic_slice(&mut self, id: NodeId, map: &Map) -> Result<ScalarId, Retry> {
        let values = self.buffers.clusters.values;
        let inputs = values.inputs(id);
        let (full, size) = (values.shape(inputs[0]), values.shape(id));
        let mut at = Vec::new();
        for d in 0..full.len() {
            if full[d] == size[d] {
                at.push(Index::Affine(map[d].clone()));
                continue;
            }
            let start = self.start(inputs[1 + d], full[d], size[d])?;
            let offset = self.index(&map[d]);
            at.push(Index::Computed(self.body.push(ScalarOp::Binary(Binary::Add, start, offset), DType::I32)));
        }
        self.load_at(inputs[0], &at)
    }

    fn dynamic_update(&mut self, id: NodeId, map: &Map) -> Result<ScalarId, Retry> {
        let values = self.buffers.clusters.values;
        let inputs = values.inputs(id);
        let (full, size) = (values.shape(id), values.shape(inputs[1]));
        let old = self.value(inputs[0], map)?;
        let (mut inside, mut at) = (None, Vec::new());
        for d in 0..full.len() {
            if full[d] == size[d] {
                at.push(Index::Affine(map[d].clone()));
                continue;
            }
            let start = self.start(inputs[2 + d], full[d], size[d])?;
            let position = self.index(&map[d]);
            let local = self.body.push(ScalarOp::Binary(Binary::Sub, position, start), DType::I32);
            let zero = self.constant(DType::I32, 0.0);
            let end = self.constant(DType::I32, size[d] as f64);
            let after = self.compare(Compare::Ge, local, zero);
            let before = self.compare(Compare::Lt, local, end);
            inside = Some(self.and(inside, after));
            inside = Some(self.and(inside, before));
            at.push(Index::Computed(local));
        }
        let new = self.load_at(inputs[1], &at)?;
        let Some(inside) = inside else { return Ok(new) };
        Ok(self.body.push(ScalarOp::Select(inside, new, old), self.dtype(id)))
    }
}

/// Index along one axis of an operand.
enum Index {
    Affine(Affine),
    /// An i32 scalar, clamped to the axis.
    Computed(ScalarId),
}
