//! Single scalar operations as instructions, at the width of their operands.
//!
//! Truth values are masks in registers and 0 or 1 of four bytes in memory.

use tinygpt_ir::op::{Binary, Compare, Unary};
use tinygpt_ir::types::{DType, Literal};
use tinygpt_vloop::{BinOp, Builder, CmpOp, Conv, Reg, RowFn, Ty};

/// An index clamped to 0..extent, at its width.
pub fn clamp(b: &mut Builder, index: Reg, extent: usize) -> Reg {
    let wide = b.ty(index).is_vector();
    let int = |b: &mut Builder, x: i32| if wide { b.i32x4(x) } else { b.i32(x) };
    let zero = int(b, 0);
    let last = int(b, extent as i32 - 1);
    let index = b.max(index, zero);
    b.min(index, last)
}

/// A constant as wide as asked for.
pub fn constant(b: &mut Builder, literal: Literal, wide: bool) -> Reg {
    match (literal.dtype, wide) {
        (DType::Bool, false) => b.bool(literal.value != 0.0),
        (DType::Bool, true) => b.mask4(literal.value != 0.0),
        (DType::I32 | DType::U32, false) => b.i32(literal.value as i64 as i32),
        (DType::I32 | DType::U32, true) => b.i32x4(literal.value as i64 as i32),
        (_, false) => b.f32(literal.value as f32),
        (_, true) => b.f32x4(literal.value as f32),
    }
}

/// A constant of the kind and width of `like`.
fn number_like(b: &mut Builder, like: Reg, x: f64) -> Reg {
    match b.ty(like) {
        Ty::F32 => b.f32(x as f32),
        Ty::F32x4 => b.f32x4(x as f32),
        Ty::I32 => b.i32(x as i32),
        Ty::I32x4 => b.i32x4(x as i32),
        other => unreachable!("no number of type {other}"),
    }
}

/// Truth values become 0 or 1; the rest is stored as it is.
pub fn stored(b: &mut Builder, x: Reg) -> Reg {
    match b.ty(x).lane() {
        Ty::Bool => truth_as(b, x, Ty::I32),
        _ => x,
    }
}

/// 1 where true, else 0, of the scalar kind `kind`.
fn truth_as(b: &mut Builder, x: Reg, kind: Ty) -> Reg {
    let wide = b.ty(x).is_vector();
    let (one, zero) = match (kind, wide) {
        (Ty::F32, false) => (b.f32(1.0), b.f32(0.0)),
        (Ty::F32, true) => (b.f32x4(1.0), b.f32x4(0.0)),
        (_, false) => (b.i32(1), b.i32(0)),
        (_, true) => (b.i32x4(1), b.i32x4(0)),
    };
    b.select(x, one, zero)
}

pub fn nonzero(b: &mut Builder, x: Reg) -> Reg {
    let zero = number_like(b, x, 0.0);
    b.cmp(CmpOp::Ne, x, zero)
}

pub fn unary(b: &mut Builder, op: Unary, x: Reg) -> Reg {
    if let Some(function) = row_fn(op) {
        return b.transcendental(function, x);
    }
    match op {
        Unary::Neg => b.neg(x),
        Unary::Sqrt => b.sqrt(x),
        Unary::Rsqrt => {
            let root = b.sqrt(x);
            let one = number_like(b, x, 1.0);
            b.div(one, root)
        }
        _ => {
            let one = number_like(b, x, 1.0);
            b.div(one, x)
        }
    }
}

pub fn binary(b: &mut Builder, op: Binary, dtype: DType, x: Reg, y: Reg) -> Reg {
    let op = match (op, dtype) {
        (Binary::Max, DType::Bool) => BinOp::Or,
        (Binary::Min, DType::Bool) => BinOp::And,
        (Binary::Max, DType::U32) => BinOp::MaxU,
        (Binary::Min, DType::U32) => BinOp::MinU,
        (Binary::Max, _) => BinOp::Max,
        (Binary::Min, _) => BinOp::Min,
        (Binary::Add, _) => BinOp::Add,
        (Binary::Sub, _) => BinOp::Sub,
        (Binary::Mul, _) => BinOp::Mul,
        (Binary::Div, _) => BinOp::Div,
    };
    b.binary(op, x, y)
}

pub fn compare(b: &mut Builder, op: Compare, dtype: DType, x: Reg, y: Reg) -> Reg {
    if dtype == DType::Bool {
        let differ = b.binary(BinOp::Xor, x, y);
        return if op == Compare::Ne { differ } else { b.not(differ) };
    }
    let unsigned = dtype == DType::U32;
    let op = match op {
        Compare::Eq => CmpOp::Eq,
        Compare::Ne => CmpOp::Ne,
        Compare::Lt if unsigned => CmpOp::LtU,
        Compare::Le if unsigned => CmpOp::LeU,
        Compare::Gt if unsigned => CmpOp::GtU,
        Compare::Ge if unsigned => CmpOp::GeU,
        Compare::Lt => CmpOp::Lt,
        Compare::Le => CmpOp::Le,
        Compare::Gt => CmpOp::Gt,
        Compare::Ge => CmpOp::Ge,
    };
    b.cmp(op, x, y)
}

pub fn cast(b: &mut Builder, from: DType, to: DType, x: Reg) -> Reg {
    match (from, to) {
        (DType::Bool, DType::Bool) => x,
        (_, DType::Bool) => nonzero(b, x),
        (DType::Bool, DType::F32) => truth_as(b, x, Ty::F32),
        (DType::Bool, _) => truth_as(b, x, Ty::I32),
        (DType::F32, DType::I32) => b.convert(Conv::F32ToI32, x),
        (DType::F32, DType::U32) => b.convert(Conv::F32ToU32, x),
        (DType::I32, DType::F32) => b.convert(Conv::I32ToF32, x),
        (DType::U32, DType::F32) => b.convert(Conv::U32ToF32, x),
        // The same 32 bits; f16 is refused before any code.
        _ => x,
    }
}

/// The mixer of [`tinygpt_ir::op::random_bits`].
fn mix(b: &mut Builder, x: Reg) -> Reg {
    let round = |b: &mut Builder, x: Reg, by: i32| {
        let high = b.shift(BinOp::ShrU, x, by);
        b.xor(x, high)
    };
    let times = |b: &mut Builder, x: Reg, by: u32| {
        let by = if b.ty(x).is_vector() { b.i32x4(by as i32) } else { b.i32(by as i32) };
        b.mul(x, by)
    };
    let x = round(b, x, 16);
    let x = times(b, x, 0x7feb_352d);
    let x = round(b, x, 15);
    let x = times(b, x, 0x846c_a68b);
    round(b, x, 16)
}

/// The part of [`tinygpt_ir::op::random_bits`] that does not depend on the index.
pub fn random_key(b: &mut Builder, seed: Reg, counter: Reg, stream: u32) -> Reg {
    let int =
        |b: &mut Builder, like: Reg, x: u32| if b.ty(like).is_vector() { b.i32x4(x as i32) } else { b.i32(x as i32) };
    let salt = int(b, seed, 0x9e37_79b9);
    let h = b.xor(seed, salt);
    let h = mix(b, h);
    let h = b.xor(h, counter);
    let h = mix(b, h);
    let stream = int(b, h, stream);
    let h = b.xor(h, stream);
    mix(b, h)
}

/// Uniform f32 in [0,1) from the upper 24 bits.
pub fn random(b: &mut Builder, key: Reg, index: Reg) -> Reg {
    let index = mix(b, index);
    let h = b.xor(key, index);
    let bits = mix(b, h);
    let bits = b.shift(BinOp::ShrU, bits, 8);
    let x = b.convert(Conv::I32ToF32, bits);
    let unit = number_like(b, x, 1.0 / f64::from(1 << 24));
    b.mul(x, unit)
}

/// The row function that computes an operation, if one does.
pub fn row_fn(op: Unary) -> Option<RowFn> {
    Some(match op {
        Unary::Exp => RowFn::Exp,
        Unary::Log => RowFn::Log,
        Unary::Tanh => RowFn::Tanh,
        Unary::Erf => RowFn::Erf,
        Unary::Sin => RowFn::Sin,
        Unary::Cos => RowFn::Cos,
        Unary::Neg | Unary::Sqrt | Unary::Rsqrt | Unary::Recip => return None,
    })
}
