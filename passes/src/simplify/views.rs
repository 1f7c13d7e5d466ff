//! Views, and reductions of views. Normal form: no view does nothing, views of one kind do not follow each other, elementwise
//! operations stand before broadcasts.

use tinygpt_ir::op::{Binary, Reduce};
use tinygpt_ir::{NodeId, Op};

use super::{Rewriter, Rule, is_normal, rule_table};

rule_table! {
    VIEWS {
        "a view that changes nothing = x" => |r, op, x| {
            let unchanged = match op {
                Op::Broadcast { shape } | Op::Reshape { shape } => r.shape(x[0]) == shape,
                Op::Transpose { perm } => perm.is_sorted(),
                Op::Slice { .. } => r.infer(op, x).shape == r.shape(x[0]),
                Op::Pad { low, high, .. } => low.iter().chain(high).all(|n| *n == 0),
                Op::Concat { .. } => x.len() == 1,
                Op::DynamicSlice { sizes } => r.shape(x[0]) == sizes,
                _ => false,
            };
            unchanged.then(|| x[0])
        };
        "reshape(reshape(x)) = reshape(x), likewise broadcast" => |r, op, x| {
            let fits = match op {
                Op::Reshape { .. } => matches!(r.op(x[0]), Op::Reshape { .. }),
                Op::Broadcast { .. } => matches!(r.op(x[0]), Op::Broadcast { .. }),
                _ => false,
            };
            fits.then(|| r.emit(op.clone(), &[r.input(x[0], 0)]))
        };
        "transpose(transpose(x)) = transpose(x)" => |r, op, x| {
            let Op::Transpose { perm: outer } = op else { return None };
            let Op::Transpose { perm: inner } = r.op(x[0]) else { return None };
            let perm = outer.iter().map(|p| inner[*p]).collect();
            Some(r.emit(Op::Transpose { perm }, &[r.input(x[0], 0)]))
        };
        "slice(slice(x)) = slice(x)" => |r, op, x| {
            let Op::Slice { start, end } = op else { return None };
            let Op::Slice { start: inner, .. } = r.op(x[0]) else { return None };
            let (start, end) = (plus(start, inner), plus(end, inner));
            Some(r.emit(Op::Slice { start, end }, &[r.input(x[0], 0)]))
        };
        "pad(pad(x)) = pad(x) with one value" => |r, op, x| {
            let Op::Pad { low, high, value } = op else { return None };
            let Op::Pad { low: l, high: h, value: v } = r.op(x[0]) else { return None };
            if value != v {
                return None;
            }
            let (low, high, value) = (plus(low, l), plus(high, h), *value);
            Some(r.emit(Op::Pad { low, high, value }, &[r.input(x[0], 0)]))
        };
        "slice(pad(x)) = slice(x) inside x" => |r, op, x| {
            let Op::Slice { start, end } = op else { return None };
            let Op::Pad { low, .. } = r.op(x[0]) else { return None };
            let inner = r.input(x[0], 0);
            let shape = r.shape(inner);
            let inside = (0..shape.len()).all(|d| low[d] <= start[d] && end[d] <= low[d] + shape[d]);
            let (start, end) = inside.then(|| (minus(start, low), minus(end, low)))?;
            Some(r.emit(Op::Slice { start, end }, &[inner]))
        };
        "slice(concat(x, y)) = slice(x) inside x" => |r, op, x| {
            let Op::Slice { start, end } = op else { return None };
            let Op::Concat { axis } = r.op(x[0]) else { return None };
            let axis = *axis;
            let mut base = 0;
            for part in r.graph.nodes[x[0]].inputs.clone() {
                let extent = r.shape(part)[axis];
                if base <= start[axis] && end[axis] <= base + extent {
                    let (mut start, mut end) = (start.clone(), end.clone());
                    (start[axis], end[axis]) = (start[axis] - base, end[axis] - base);
                    return Some(r.emit(Op::Slice { start, end }, &[part]));
                }
                base += extent;
            }
            None
        };
        "reducing an axis of extent 1 does nothing" => |r, op, x| {
            let Op::Reduce { op: reduce, axes } = op else { return None };
            let shape = r.shape(x[0]);
            if axes.iter().all(|d| shape[*d] != 1) {
                return None;
            }
            let axes: Vec<usize> = axes.iter().copied().filter(|d| shape[*d] != 1).collect();
            match (reduce, axes.is_empty()) {
                (Reduce::ArgMax, _) => {
                    let ty = r.infer(op, x);
                    Some(r.splat(&ty, 0.0))
                }
                (_, true) => Some(x[0]),
                (reduce, false) => Some(r.emit(Op::Reduce { op: *reduce, axes }, x)),
            }
        };
        "sum(broadcast(x)) = n * sum(x), max(broadcast(x)) = max(x)" => |r, op, x| {
            let Op::Reduce { op: reduce @ (Reduce::Sum | Reduce::Max), axes } = op else { return None };
            let Op::Broadcast { .. } = r.op(x[0]) else { return None };
            reduce_broadcast(r, *reduce, axes, x[0])
        };
        "f(broadcast(x), broadcast(y), c) = broadcast(f(x, y, c))" => |r, op, x| {
            if op.is_elementwise() { before_broadcast(r, op, x) } else { None }
        };
    }
}

fn plus(a: &[usize], b: &[usize]) -> Vec<usize> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

fn minus(a: &[usize], b: &[usize]) -> Vec<usize> {
    a.iter().zip(b).map(|(a, b)| a - b).collect()
}

/// The reduction over `axes` of `wide`, a broadcast, where some of them are stretched: reduces what is not stretched, multiplies a
/// sum by the number of copies, and stretches again what is not reduced.
fn reduce_broadcast(r: &mut Rewriter, reduce: Reduce, axes: &[usize], wide: NodeId) -> Option<NodeId> {
    let narrow = r.input(wide, 0);
    let (from, to) = (r.shape(narrow).to_vec(), r.shape(wide).to_vec());
    let (stretched, real): (Vec<usize>, Vec<usize>) = axes.iter().partition(|d| from[**d] != to[**d]);
    let copies: usize = stretched.iter().map(|d| to[*d]).product();
    let dtype = r.dtype(narrow);
    if stretched.is_empty() || !(dtype.is_int() || is_normal(dtype, copies as f64)) {
        return None;
    }
    let mut value = narrow;
    if !real.is_empty() {
        value = r.emit(Op::Reduce { op: reduce, axes: real }, &[value]);
    }
    if reduce == Reduce::Sum {
        let copies = r.splat(&r.ty(value).clone(), copies as f64);
        value = r.binary(Binary::Mul, value, copies);
    }
    let mut shape = to;
    axes.iter().for_each(|d| shape[*d] = 1);
    Some(r.emit(Op::Broadcast { shape }, &[value]))
}

/// An elementwise operation whose operands are constants or broadcasts of one shape, computed at that shape.
fn before_broadcast(r: &mut Rewriter, op: &Op, x: &[NodeId]) -> Option<NodeId> {
    let mut from: Option<Vec<usize>> = None;
    for id in x {
        match r.op(*id) {
            Op::Splat { .. } => {}
            Op::Broadcast { .. } => {
                let shape = r.shape(r.input(*id, 0));
                if from.get_or_insert_with(|| shape.to_vec()) != shape {
                    return None;
                }
            }
            _ => return None,
        }
    }
    let from = from?;
    let to = r.shape(x[0]).to_vec();
    let narrow: Vec<NodeId> = x
        .iter()
        .map(|id| match *r.op(*id) {
            Op::Splat { value, .. } => r.emit(Op::Splat { shape: from.clone(), value }, &[]),
            _ => r.input(*id, 0),
        })
        .collect();
    let value = r.emit(op.clone(), &narrow);
    Some(r.emit(Op::Broadcast { shape: to }, &[value]))
}
