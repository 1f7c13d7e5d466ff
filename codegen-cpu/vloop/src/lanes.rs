//! The transcendental functions as instructions: [`math::Lanes`] over a [`Builder`].
//!
//! One implementation serves both widths: the wide one emits f32x4 operations, the other scalars, so a function
//! of [`crate::math`] run on it appends its expansion to the function being built.

use crate::builder::Builder;
use crate::math::{self, Lanes};
use crate::types::*;

/// Emits arithmetic of one width.
struct Emit<'a> {
    b: &'a mut Builder,
    lanes: usize,
}

impl Emit<'_> {
    fn float(&mut self, op: Op) -> Reg {
        let ty = Ty::F32.with_lanes(self.lanes);
        self.b.op(ty, op)
    }
    fn int(&mut self, op: Op) -> Reg {
        let ty = Ty::I32.with_lanes(self.lanes);
        self.b.op(ty, op)
    }
}

impl Lanes for Emit<'_> {
    type F = Reg;
    type I = Reg;
    type M = Reg;

    fn splat(&mut self, x: f32) -> Reg {
        self.float(Op::Const(Const::f32(x)))
    }
    fn splat_i32(&mut self, x: i32) -> Reg {
        self.int(Op::Const(Const::I32(x)))
    }
    fn add(&mut self, a: Reg, b: Reg) -> Reg {
        self.b.add(a, b)
    }
    fn sub(&mut self, a: Reg, b: Reg) -> Reg {
        self.b.sub(a, b)
    }
    fn mul(&mut self, a: Reg, b: Reg) -> Reg {
        self.b.mul(a, b)
    }
    fn div(&mut self, a: Reg, b: Reg) -> Reg {
        self.b.div(a, b)
    }
    fn mul_add(&mut self, a: Reg, b: Reg, c: Reg) -> Reg {
        self.b.fma(a, b, c)
    }
    fn neg(&mut self, a: Reg) -> Reg {
        self.b.neg(a)
    }
    fn abs(&mut self, a: Reg) -> Reg {
        self.b.abs(a)
    }
    // Lanes gives the second operand for a NaN, the IR the first: hence the exchange.
    fn min(&mut self, a: Reg, b: Reg) -> Reg {
        self.b.min(b, a)
    }
    fn max(&mut self, a: Reg, b: Reg) -> Reg {
        self.b.max(b, a)
    }
    fn round(&mut self, a: Reg) -> Reg {
        self.b.round(a)
    }
    fn lt(&mut self, a: Reg, b: Reg) -> Reg {
        self.b.cmp(CmpOp::Lt, a, b)
    }
    fn eq(&mut self, a: Reg, b: Reg) -> Reg {
        self.b.cmp(CmpOp::Eq, a, b)
    }
    fn select(&mut self, m: Reg, a: Reg, b: Reg) -> Reg {
        self.b.select(m, a, b)
    }
    fn to_i32(&mut self, a: Reg) -> Reg {
        self.b.convert(Conv::F32ToI32, a)
    }
    fn to_f32(&mut self, a: Reg) -> Reg {
        self.b.convert(Conv::I32ToF32, a)
    }
    fn add_i32(&mut self, a: Reg, b: Reg) -> Reg {
        self.b.add(a, b)
    }
    fn and_i32(&mut self, a: Reg, b: Reg) -> Reg {
        self.b.and(a, b)
    }
    fn shl_i32(&mut self, a: Reg, bits: u32) -> Reg {
        self.b.shift(BinOp::Shl, a, bits as i32)
    }
    fn shr_i32(&mut self, a: Reg, bits: u32) -> Reg {
        self.b.shift(BinOp::Shr, a, bits as i32)
    }
    fn f32_to_bits(&mut self, a: Reg) -> Reg {
        self.b.convert(Conv::F32BitsToI32, a)
    }
    fn bits_to_f32(&mut self, a: Reg) -> Reg {
        self.b.convert(Conv::I32BitsToF32, a)
    }
    fn is_zero_i32(&mut self, a: Reg) -> Reg {
        let zero = self.splat_i32(0);
        self.b.cmp(CmpOp::Eq, a, zero)
    }
}

impl Builder {
    /// `function(x)` at the width of `x` (f32 or f32x4); accuracy as in [`crate::math`]. Expanded in place, except in an
    /// independent loop, where it stays one operation.
    pub fn transcendental(&mut self, function: RowFn, x: Reg) -> Reg {
        if self.in_independent_loop() {
            return self.op(Ty::F32, Op::Row(function, x));
        }
        let lanes = self.ty(x).lanes();
        let l = &mut Emit { b: self, lanes };
        match function {
            RowFn::Exp => math::exp(l, x),
            RowFn::Log => math::log(l, x),
            RowFn::Tanh => math::tanh(l, x),
            RowFn::Erf => math::erf(l, x),
            RowFn::Sin => math::sin(l, x),
            RowFn::Cos => math::cos(l, x),
        }
    }
    pub fn exp(&mut self, x: Reg) -> Reg {
        self.transcendental(RowFn::Exp, x)
    }
    pub fn log(&mut self, x: Reg) -> Reg {
        self.transcendental(RowFn::Log, x)
    }
    pub fn tanh(&mut self, x: Reg) -> Reg {
        self.transcendental(RowFn::Tanh, x)
    }
    pub fn erf(&mut self, x: Reg) -> Reg {
        self.transcendental(RowFn::Erf, x)
    }
}
