//! One kernel a cluster.
//!
//! Invariant: a kernel computes every stored member of its cluster and nothing that nobody stores.

use tinygpt_ir::op::{Binary, Op, Reduce, Wrt};
use tinygpt_ir::program::{
    Access, Affine, Arg, ArgMode, Attention, AttentionGrad, AttentionShape, Body, BufferId, Contract, ContractPart,
    Fold, Kernel, KernelKind, Pointwise, ReduceKernel, Reduction, ScalarOp, Scatter, ScatterBase, Store, Term,
};
use tinygpt_ir::{Composite, Literal, NodeId};

use super::cluster::ClusterKind;
use super::emit::{Args, BodyWriter, Buffers, Retry};
use super::values::Class;
use super::view::{Map, Strided, identity};

/// The kernel of cluster `c`; None if none of its members is stored.
pub fn kernel(buffers: &Buffers<'_>, c: usize) -> Result<Option<Kernel>, Retry> {
    let clusters = buffers.clusters;
    let cluster = &clusters.list[c];
    let stored: Vec<NodeId> = cluster.nodes.iter().copied().filter(|n| buffers.stored.contains(*n)).collect();
    if stored.is_empty() {
        return Ok(None);
    }
    let mut args = Args::default();
    let kind = match &cluster.kind {
        ClusterKind::Pointwise => {
            let order = (0..cluster.space.len()).collect();
            let mut w = BodyWriter::new(buffers, &mut args, c, &cluster.space, order, &[]);
            let stores = stores(&mut w, buffers, &stored)?;
            KernelKind::Pointwise(Pointwise { space: cluster.space.clone(), body: w.body, stores })
        }
        ClusterKind::Reduce { axes } => reduce(buffers, &mut args, c, axes, &stored)?,
        ClusterKind::Contract => contract(buffers, &mut args, c, &stored)?,
        ClusterKind::Attention => attention(buffers, &mut args, &stored)?,
        ClusterKind::AttentionGrad => attention_grad(buffers, &mut args, &stored)?,
        ClusterKind::Fold => fold(buffers, &mut args, stored[0])?,
        ClusterKind::Scatter => scatter(buffers, &mut args, c, stored[0])?,
    };
    let provenance = args.provenance(clusters);
    Ok(Some(Kernel { name: String::new(), args: args.list, kind, provenance }))
}

fn stores(w: &mut BodyWriter<'_, '_>, buffers: &Buffers<'_>, stored: &[NodeId]) -> Result<Vec<Store>, Retry> {
    stored.iter().map(|n| w.store(*n, buffers.of[n], layout(buffers, *n)?)).collect()
}

/// Layout of a stored node's buffer.
fn layout<'b>(buffers: &'b Buffers<'_>, id: NodeId) -> Result<&'b Strided, Retry> {
    buffers.clusters.values.strided(id).ok_or_else(|| Retry::Unsupported(format!("{id} is stored but has no layout")))
}

/// Whether reduction `r`, or a stored node, needs `id` within the cluster.
fn needed_reductions(buffers: &Buffers<'_>, c: usize, stored: &[NodeId]) -> Vec<NodeId> {
    let clusters = buffers.clusters;
    let mut seen: Vec<NodeId> = Vec::new();
    let mut todo: Vec<NodeId> = stored.to_vec();
    while let Some(x) = todo.pop() {
        if seen.contains(&x) || clusters.of(x) != Some(c) {
            continue;
        }
        seen.push(x);
        todo.extend(clusters.values.inputs(x).into_iter().map(|u| clusters.source(u)));
    }
    seen.retain(|n| clusters.values.class(*n) == Class::Reduce);
    seen.sort_unstable();
    seen
}

fn reduce(
    buffers: &Buffers<'_>,
    args: &mut Args,
    c: usize,
    axes: &[usize],
    stored: &[NodeId],
) -> Result<KernelKind, Retry> {
    let values = buffers.clusters.values;
    let space = &buffers.clusters.list[c].space;
    let kept: Vec<usize> = (0..space.len()).filter(|d| !axes.contains(d)).collect();
    let order: Vec<usize> = kept.iter().chain(axes).copied().collect();
    let accs = needed_reductions(buffers, c, stored);
    let mut w = BodyWriter::new(buffers, args, c, space, order, &accs);
    let full = identity(space);
    let mut reductions = Vec::new();
    for r in &accs {
        let Op::Reduce { op, .. } = values.graph.nodes[*r].op else {
            return Err(Retry::Unsupported(format!("{r} is no reduction")));
        };
        reductions.push(Reduction { op, value: w.value(values.inputs(*r)[0], &full)? });
    }
    let stores = stores(&mut w, buffers, stored)?;
    let extents = |axes: &[usize]| axes.iter().map(|d| space[*d]).collect::<Vec<_>>();
    if reductions.is_empty() {
        // Every reduction of the cluster turned out to be unneeded.
        let space = extents(&kept).into_iter().chain(extents(axes)).collect();
        return Ok(KernelKind::Pointwise(Pointwise { space, body: w.body, stores }));
    }
    debug_assert!(reductions.iter().all(|r| matches!(r.op, Reduce::Sum | Reduce::Max | Reduce::ArgMax)));
    Ok(KernelKind::Reduce(ReduceKernel { rows: extents(&kept), cols: extents(axes), body: w.body, reductions, stores }))
}

/// The element of `view` at `map`, as an argument access.
fn access(buffers: &Buffers<'_>, args: &mut Args, u: NodeId, map: &Map, rank: usize) -> Result<Access, Retry> {
    let view = layout(buffers, u)?;
    let buffer = *buffers.of.get(&view.base).ok_or(Retry::Store(view.base))?;
    let arg = args.get(buffer, ArgMode::Read);
    Ok(Access { arg, at: view.at(map, rank), indirect: Vec::new() })
}

fn contract(buffers: &Buffers<'_>, args: &mut Args, c: usize, stored: &[NodeId]) -> Result<KernelKind, Retry> {
    let values = buffers.clusters.values;
    let cluster = &buffers.clusters.list[c];
    let root = *cluster
        .nodes
        .iter()
        .find(|n| values.class(**n) == Class::Contract)
        .ok_or_else(|| Retry::Unsupported("a contract cluster without a contraction".into()))?;
    let t = values.terms(root);
    let shape = values.shape(root);
    let extents = |axes: &[usize]| axes.iter().map(|d| shape[*d]).collect::<Vec<_>>();
    let mut terms = Vec::new();
    for (node, swap) in &t.nodes {
        let Op::Contract(spec) = &values.graph.nodes[*node].op else {
            return Err(Retry::Unsupported(format!("{node} is no contraction")));
        };
        let inputs = values.operands(*node);
        let (lhs, rhs) = ((inputs[0], &spec.lhs), (inputs[1], &spec.rhs));
        let (rows, cols) = if *swap { (rhs, lhs) } else { (lhs, rhs) };
        let contracted = spec.contracted();
        let k: Vec<usize> = contracted
            .iter()
            .filter_map(|l| spec.lhs.iter().position(|x| x == l))
            .map(|d| values.shape(inputs[0])[d])
            .collect();
        let mut operand = |(u, labels): (NodeId, &Vec<u8>), free: &[usize]| {
            // The operand's axes over batch ++ free ++ k.
            let axes: Vec<u8> =
                t.batch.iter().chain(free).map(|d| spec.out[*d]).chain(contracted.iter().copied()).collect();
            let space: Vec<usize> =
                extents(&t.batch).into_iter().chain(extents(free)).chain(k.iter().copied()).collect();
            let id = identity(&space);
            let map: Map = labels
                .iter()
                .map(|l| axes.iter().position(|a| a == l).map_or(Affine::constant(space.len(), 0), |i| id[i].clone()))
                .collect();
            access(buffers, args, u, &map, space.len())
        };
        let (lhs, rhs) = (operand(rows, &t.m)?, operand(cols, &t.n)?);
        terms.push(Term { k, f16: values.rounds(*node), lhs, rhs });
    }
    let order = (0..cluster.space.len()).collect();
    let accs = [root];
    let mut w = BodyWriter::new(buffers, args, c, &cluster.space, order, &accs);
    let stores = stores(&mut w, buffers, stored)?;
    let body = w.body;
    for (n, _) in &t.nodes {
        args.computes(*n);
        for (cast, first) in values.replaced_casts(*n) {
            if first { args.computes(cast) } else { args.recomputes(cast) }
        }
    }
    let part = ContractPart { batch: extents(&t.batch), m: extents(&t.m), n: extents(&t.n), terms, body, stores };
    Ok(KernelKind::Contract(Contract { parts: vec![part] }))
}

fn attention_shape(q: &[usize], k: &[usize], causal: bool, scale: f64) -> AttentionShape {
    AttentionShape { batch: q[0], heads: q[1], q_len: q[2], k_len: k[2], head_dim: q[3], causal, scale }
}

/// The store of node `id` over `space`, if it is stored.
fn whole(buffers: &Buffers<'_>, args: &mut Args, id: Option<NodeId>, space: &[usize]) -> Result<Option<Access>, Retry> {
    let Some(id) = id else { return Ok(None) };
    args.computes(id);
    let arg = args.get(buffers.of[&id], ArgMode::Write);
    Ok(Some(Access { arg, at: layout(buffers, id)?.at(&identity(space), space.len()), indirect: Vec::new() }))
}

fn attention(buffers: &Buffers<'_>, args: &mut Args, stored: &[NodeId]) -> Result<KernelKind, Retry> {
    let values = buffers.clusters.values;
    let node = |n: NodeId| &values.graph.nodes[n];
    let is_out = |n: &NodeId| matches!(node(*n).op, Op::Composite(Composite::Attention { .. }));
    let out = stored.iter().copied().find(is_out);
    let lse = stored.iter().copied().find(|n| !is_out(n));
    let any = node(stored[0]);
    let Op::Composite(Composite::Attention { causal, scale } | Composite::AttentionLse { causal, scale }) = any.op
    else {
        return Err(Retry::Unsupported(format!("{} is no attention", any.op.name())));
    };
    let (q, k) = (any.inputs[0], any.inputs[1]);
    let shape = attention_shape(values.shape(q), values.shape(k), causal, scale.0);
    let (qs, ks) = (shape.q_space(), shape.k_space());
    let mut read = |u, space: &[usize]| access(buffers, args, u, &identity(space), 4);
    let (qa, ka) = (read(q, &qs)?, read(k, &ks)?);
    let v = out.map(|o| read(node(o).inputs[2], &ks)).transpose()?;
    let out = whole(buffers, args, out, &qs)?;
    let lse = whole(buffers, args, lse, &shape.lse_space())?;
    Ok(KernelKind::Attention(Attention { shape, q: qa, k: ka, v, out, lse }))
}

fn attention_grad(buffers: &Buffers<'_>, args: &mut Args, stored: &[NodeId]) -> Result<KernelKind, Retry> {
    let values = buffers.clusters.values;
    let node = &values.graph.nodes[stored[0]];
    let Op::Composite(Composite::AttentionGrad { causal, scale, .. }) = node.op else {
        return Err(Retry::Unsupported(format!("{} is no gradient of attention", node.op.name())));
    };
    let u = &node.inputs;
    let shape = attention_shape(values.shape(u[0]), values.shape(u[1]), causal, scale.0);
    let (qs, ks, ls) = (shape.q_space(), shape.k_space(), shape.lse_space());
    let mut read = |u: NodeId, space: &[usize]| access(buffers, args, u, &identity(space), space.len());
    let (q, k, v) = (read(u[0], &qs)?, read(u[1], &ks)?, read(u[2], &ks)?);
    let (out, lse, dout) = (read(u[3], &qs)?, read(u[4], &ls)?, read(u[5], &qs)?);
    let part = |w: Wrt| {
        stored.iter().copied().find(
            |n| matches!(values.graph.nodes[*n].op, Op::Composite(Composite::AttentionGrad { wrt, .. }) if wrt == w),
        )
    };
    let dq = whole(buffers, args, part(Wrt::Q), &qs)?;
    let dk = whole(buffers, args, part(Wrt::K), &ks)?;
    let dv = whole(buffers, args, part(Wrt::V), &ks)?;
    Ok(KernelKind::AttentionGrad(AttentionGrad { shape, q, k, v, out, lse, dout, dq, dk, dv }))
}

fn fold(buffers: &Buffers<'_>, args: &mut Args, id: NodeId) -> Result<KernelKind, Retry> {
    let values = buffers.clusters.values;
    let node = &values.graph.nodes[id];
    let Op::Composite(Composite::SquareSums { block }) = node.op else {
        return Err(Retry::Unsupported(format!("{} is no fold", node.op.name())));
    };
    for (s, u) in node.inputs.iter().enumerate() {
        let base = layout(buffers, *u)?.base;
        let buffer = *buffers.of.get(&base).ok_or(Retry::Store(base))?;
        if args.get(buffer, ArgMode::Read).index() != s {
            return Err(Retry::Unsupported(format!("{id} ({}) reads {base} twice", node.op.name())));
        }
    }
    whole(buffers, args, Some(id), values.shape(id))?;
    let mut body = Body::default();
    let x = body.push(ScalarOp::Load(Access::direct(Fold::SEGMENT, 0, vec![1])), node.ty.dtype);
    let value = body.push(ScalarOp::Binary(Binary::Mul, x, x), node.ty.dtype);
    Ok(KernelKind::Fold(Fold {
        block,
        segments: node.inputs.iter().map(|u| values.graph.nodes[*u].ty.numel()).collect(),
        body,
        reduction: Reduction { op: Reduce::Sum, value },
        out: Access::direct(Fold::RESULTS, 0, vec![1]),
    }))
}

fn scatter(buffers: &Buffers<'_>, args: &mut Args, c: usize, id: NodeId) -> Result<KernelKind, Retry> {
    let values = buffers.clusters.values;
    let inputs = values.inputs(id);
    let (base, ids, updates) = (inputs[0], inputs[1], inputs[2]);
    let table_shape = values.shape(id).to_vec();
    let constant = match values.graph.nodes[buffers.clusters.source(base)].op {
        Op::Splat { value, .. } if !buffers.of.contains_key(&values.base_of(base)) => Some(value),
        _ => None,
    };
    let base = match constant {
        Some(value) => ScatterBase::Const(Literal::new(value.dtype, value.value)),
        None => ScatterBase::Load(access(buffers, args, base, &identity(&table_shape), table_shape.len())?),
    };
    let id_shape = values.shape(ids).to_vec();
    let inner = table_shape[1..].to_vec();
    let space: Vec<usize> = id_shape.iter().chain(&inner).copied().collect();
    let map = identity(&space);
    let mut w = BodyWriter::new(buffers, args, c, &space, (0..space.len()).collect(), &[]);
    let index = w.value(ids, &map[..id_shape.len()].to_vec())?;
    let value = w.value(updates, &map)?;
    let body = w.body;
    let out = whole(buffers, args, Some(id), &table_shape)?
        .ok_or_else(|| Retry::Unsupported("a scatter without result".into()))?;
    Ok(KernelKind::Scatter(Scatter { table: table_shape[0], ids: id_shape, inner, body, index, value, base, out }))
}

/// A kernel that copies `from` (of node `id`, row-major) into `to`.
pub fn copy(buffers: &Buffers<'_>, id: NodeId, from: BufferId, to: BufferId) -> Kernel {
    let values = buffers.clusters.values;
    let n: usize = values.shape(id).iter().product();
    let mut args = Args::default();
    args.computes(id);
    let src = args.get(from, ArgMode::Read);
    let dst = args.get(to, ArgMode::Write);
    let mut body = Body::default();
    let dtype = values.graph.nodes[id].ty.dtype;
    let stride = i64::from(n > 1);
    let value = body.push(ScalarOp::Load(Access::direct(src, 0, vec![stride])), dtype);
    let stores = vec![Store { access: Access::direct(dst, 0, vec![stride]), value }];
    let provenance = args.provenance(buffers.clusters);
    let list: Vec<Arg> = args.list;
    Kernel {
        name: String::new(),
        args: list,
        kind: KernelKind::Pointwise(Pointwise { space: vec![n], body, stores }),
        provenance,
    }
}
