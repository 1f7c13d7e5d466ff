//! Constant folding. Constants are splats: one value everywhere. Values are computed in f64 by the interpreter, so folding is
//! never less exact than computing.

use tinygpt_ir::interp::eval_node;
use tinygpt_ir::op::{Binary, Reduce};
use tinygpt_ir::{NodeId, Op, Tensor, TensorType};

use super::{Rewriter, Rule, rule_table};

rule_table! {
    FOLD {
        "f(c, d) = the value of f" => |r, op, x| {
            if !op.is_elementwise() {
                return None;
            }
            let scalars: Option<Vec<Tensor>> =
                x.iter().map(|i| r.constant(*i).map(|c| Tensor::scalar(r.dtype(*i), c))).collect();
            let ty = r.infer(op, x);
            let scalar = TensorType::new(ty.dtype, []);
            let value = eval_node(op, &scalars?.iter().collect::<Vec<_>>(), &scalar).item()?;
            Some(r.splat(&ty, value))
        };
        "view(c) = c" => |r, op, x| {
            let c = match op {
                op if op.is_view() => r.constant(x[0]),
                Op::DynamicSlice { .. } | Op::Gather => r.constant(x[0]),
                Op::Pad { value, .. } => r.constant(x[0]).filter(|c| same(*c, value.value)),
                Op::Concat { .. } => all_equal(r, x),
                Op::DynamicUpdate => all_equal(r, &x[..2]),
                _ => None,
            }?;
            let ty = r.infer(op, x);
            Some(r.splat(&ty, c))
        };
        "reduce(c) = c, n c or 0" => |r, op, x| {
            let Op::Reduce { op: reduce, .. } = op else { return None };
            let c = r.constant(x[0])?;
            let ty = r.infer(op, x);
            let n = r.ty(x[0]).numel() / ty.numel();
            let value = match reduce {
                Reduce::Sum => Binary::Mul.eval(ty.dtype, c, n as f64),
                Reduce::Max => c,
                Reduce::ArgMax => 0.0,
            };
            Some(r.splat(&ty, value))
        };
        "iota along an axis of extent 1 = 0" => |r, op, x| {
            let Op::Iota { shape, axis, .. } = op else { return None };
            let ty = r.infer(op, x);
            (shape[*axis] == 1).then(|| r.splat(&ty, 0.0))
        };
    }
}

/// Equality of constants as values: NaN equals itself, the zeros differ.
fn same(a: f64, b: f64) -> bool {
    a.to_bits() == b.to_bits()
}

/// The value of all of `x` if they are constants of one value.
fn all_equal(r: &Rewriter, x: &[NodeId]) -> Option<f64> {
    let first = r.constant(*x.first()?)?;
    x.iter().all(|i| r.constant(*i).is_some_and(|c| same(c, first))).then_some(first)
}
