//! Algebra of elementwise operations. Normal form: constants stand on the right, negations and constant factors outside.

use tinygpt_ir::op::{Binary, Unary};
use tinygpt_ir::{DType, NodeId, Op};

use super::{Rewriter, Rule, is_normal, rule_table};

rule_table! {
    ALGEBRA {
        "c + x = x + c, c * x = x * c" => |r, op, x| {
            let Op::Binary(op @ (Binary::Add | Binary::Mul)) = op else { return None };
            (r.constant(x[0]).is_some() && r.constant(x[1]).is_none()).then(|| r.binary(*op, x[1], x[0]))
        };
        "x + 0 = x" => |r, op, x| (*op == ADD && r.is_constant(x[1], 0.0)).then(|| x[0]);
        "x - 0 = x" => |r, op, x| (*op == SUB && r.is_constant(x[1], 0.0)).then(|| x[0]);
        "0 - x = -x" => |r, op, x| {
            let negatable = r.dtype(*x.first()?) != DType::U32;
            (*op == SUB && negatable && r.is_constant(x[0], 0.0)).then(|| r.unary(Unary::Neg, x[1]))
        };
        "x * 1 = x" => |r, op, x| (*op == MUL && r.is_constant(x[1], 1.0)).then(|| x[0]);
        "x * -1 = -x" => |r, op, x| {
            (*op == MUL && r.is_constant(x[1], -1.0)).then(|| r.unary(Unary::Neg, x[0]))
        };
        "x * 0 = 0 (integers)" => |r, op, x| {
            (*op == MUL && r.is_constant(x[1], 0.0) && r.dtype(x[1]).is_int()).then(|| x[1])
        };
        "x / 1 = x" => |r, op, x| (*op == DIV && r.is_constant(x[1], 1.0)).then(|| x[0]);
        "x / c = x * (1/c)" => |r, op, x| {
            let c = if *op == DIV { r.constant(x[1])? } else { return None };
            let dtype = r.dtype(x[0]);
            (is_normal(dtype, c) && is_normal(dtype, 1.0 / c)).then(|| r.scaled(x[0], 1.0 / c))
        };
        "1 / x = recip(x)" => |r, op, x| {
            (*op == DIV && r.is_constant(x[0], 1.0)).then(|| r.unary(Unary::Recip, x[1]))
        };
        "-(-x) = x" => |r, op, x| if *op == NEG { r.as_unary(x[0], Unary::Neg) } else { None };
        "-(x - y) = y - x" => |r, op, x| {
            let (a, b) = if *op == NEG { r.as_binary(x[0], Binary::Sub)? } else { return None };
            Some(r.binary(Binary::Sub, b, a))
        };
        "-(x * c) = x * -c" => |r, op, x| {
            let (a, c) = if *op == NEG { r.as_scaled(x[0])? } else { return None };
            Some(r.scaled(a, -c))
        };
        "x + -y = x - y" => |r, op, x| {
            let y = if *op == ADD { r.as_unary(x[1], Unary::Neg)? } else { return None };
            Some(r.binary(Binary::Sub, x[0], y))
        };
        "-x + y = y - x" => |r, op, x| {
            let y = if *op == ADD { r.as_unary(x[0], Unary::Neg)? } else { return None };
            Some(r.binary(Binary::Sub, x[1], y))
        };
        "x - -y = x + y" => |r, op, x| {
            let y = if *op == SUB { r.as_unary(x[1], Unary::Neg)? } else { return None };
            Some(r.binary(Binary::Add, x[0], y))
        };
        "-x * c = x * -c" => |r, op, x| {
            let a = if *op == MUL { r.as_unary(x[0], Unary::Neg)? } else { return None };
            let c = r.constant(x[1])?;
            Some(r.scaled(a, -c))
        };
        "-x * y = -(x * y), -x / y = -(x / y)" => |r, op, x| {
            let Op::Binary(op @ (Binary::Mul | Binary::Div)) = op else { return None };
            let a = r.as_unary(x[0], Unary::Neg).filter(|_| !r.is_shared(x[0]))?;
            let product = r.binary(*op, a, x[1]);
            Some(r.unary(Unary::Neg, product))
        };
        "x * -y = -(x * y), x / -y = -(x / y)" => |r, op, x| {
            let Op::Binary(op @ (Binary::Mul | Binary::Div)) = op else { return None };
            let b = r.as_unary(x[1], Unary::Neg).filter(|_| !r.is_shared(x[1]))?;
            let product = r.binary(*op, x[0], b);
            Some(r.unary(Unary::Neg, product))
        };
        "(x * c) * d = x * (c d)" => |r, op, x| {
            let (a, c) = if *op == MUL { r.as_scaled(x[0])? } else { return None };
            let d = r.constant(x[1])?;
            let product = regrouped(r, a, c, d)?;
            Some(r.scaled(a, product))
        };
        "(x * c) * (y * d) = (x * y) * (c d)" => |r, op, x| {
            let (a, c) = if *op == MUL { r.as_scaled(x[0])? } else { return None };
            let (b, d) = r.as_scaled(x[1]).filter(|_| !(r.is_shared(x[0]) && r.is_shared(x[1])))?;
            let product = regrouped(r, a, c, d)?;
            let ab = r.binary(Binary::Mul, a, b);
            Some(r.scaled(ab, product))
        };
        "((x * c) * y) * d = (x * y) * (c d)" => |r, op, x| {
            let (ab, d) = (x.first()?, if *op == MUL { r.constant(x[1])? } else { return None });
            let (a, b) = r.as_binary(*ab, Binary::Mul).filter(|_| !r.is_shared(*ab))?;
            let (scaled, other) = if r.as_scaled(a).is_some() { (a, b) } else { (b, a) };
            let (inner, c) = r.as_scaled(scaled)?;
            let product = regrouped(r, inner, c, d)?;
            let ab = r.binary(Binary::Mul, inner, other);
            Some(r.scaled(ab, product))
        };
        "(x + c) + d = x + (c + d) (integers)" => |r, op, x| {
            let (a, c) = if *op == ADD { r.as_binary(x[0], Binary::Add)? } else { return None };
            if !(r.dtype(a).is_int() && r.constant(c).is_some() && r.constant(x[1]).is_some()) {
                return None;
            }
            let sum = r.binary(Binary::Add, c, x[1]);
            Some(r.binary(Binary::Add, a, sum))
        };
        "max(x, x) = min(x, x) = x" => |_r, op, x| {
            (matches!(op, Op::Binary(Binary::Max | Binary::Min)) && x[0] == x[1]).then(|| x[0])
        };
        "cast to the own type = x" => |r, op, x| {
            let Op::Cast(to) = op else { return None };
            (r.dtype(x[0]) == *to).then(|| x[0])
        };
        "cast(cast(x)) = x where the inner loses nothing" => |r, op, x| {
            let Op::Cast(to) = op else { return None };
            let Op::Cast(middle) = r.op(x[0]) else { return None };
            let inner = r.input(x[0], 0);
            let lossless = matches!((to, middle), (DType::Bool, _) | (DType::F16, DType::F32));
            (lossless && r.dtype(inner) == *to).then_some(inner)
        };
        "select(true, x, y) = x, select(false, x, y) = y" => |r, op, x| {
            let c = if *op == Op::Select { r.constant(x[0])? } else { return None };
            Some(if c != 0.0 { x[1] } else { x[2] })
        };
        "select(c, x, x) = x" => |_r, op, x| (*op == Op::Select && x[1] == x[2]).then(|| x[1]);
        "scatter_add(0, i, u) + y = scatter_add(y, i, u)" => |r, op, x| {
            if *op != ADD {
                return None;
            }
            let scattered = |id: NodeId| *r.op(id) == Op::ScatterAdd && r.is_constant(r.input(id, 0), 0.0);
            let (s, y) = match (scattered(x[0]), scattered(x[1])) {
                (true, _) if !r.is_shared(x[0]) => (x[0], x[1]),
                (_, true) if !r.is_shared(x[1]) => (x[1], x[0]),
                _ => return None,
            };
            let (ids, updates) = (r.input(s, 1), r.input(s, 2));
            Some(r.emit(Op::ScatterAdd, &[y, ids, updates]))
        };
    }
}

const ADD: Op = Op::Binary(Binary::Add);
const SUB: Op = Op::Binary(Binary::Sub);
const MUL: Op = Op::Binary(Binary::Mul);
const DIV: Op = Op::Binary(Binary::Div);
const NEG: Op = Op::Unary(Unary::Neg);

/// The factor c d in the dtype of `x`: for integers always (they wrap), for floats if all three are normal numbers.
fn regrouped(r: &Rewriter, x: NodeId, c: f64, d: f64) -> Option<f64> {
    let dtype = r.dtype(x);
    let product = Binary::Mul.eval(dtype, c, d);
    (dtype.is_int() || [c, d, product].iter().all(|v| is_normal(dtype, *v))).then_some(product)
}
