//! Operations, constants and conversions of the vector loop IR as Cranelift's.

use super::{Emit, clif_type, lane_order};
use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::{ConstantData, InstBuilder, Type, Value, types};
use tinygpt_vloop::*;

impl Emit<'_> {
    pub(super) fn op(&mut self, dst: Ty, op: &Op) -> Value {
        let ty = clif_type(dst, self.index);
        match op {
            Op::Const(c) => self.constant(dst, *c),
            Op::Copy(a) => self.get(*a),
            Op::Param(p) => self.params[p.0 as usize],
            Op::Unary(op, a) => {
                let a = self.get(*a);
                self.unary(*op, dst, a)
            }
            Op::Binary(op, a, b) => {
                let (a, b) = (self.get(*a), self.get(*b));
                self.binary(*op, dst, a, b)
            }
            Op::DivConst(a, c) => {
                let a = self.get(*a);
                self.div_const(a, *c as u64)
            }
            Op::RemConst(a, c) => {
                let a = self.get(*a);
                if (*c as u64).is_power_of_two() {
                    let mask = self.b.ins().iconst(self.index, c - 1);
                    return self.b.ins().band(a, mask);
                }
                let quotient = self.div_const(a, *c as u64);
                let multiple = self.times_const(quotient, *c);
                self.b.ins().isub(a, multiple)
            }
            Op::Fma(a, b, c) => {
                let (a, b, c) = (self.get(*a), self.get(*b), self.get(*c));
                if self.target.fma {
                    self.b.ins().fma(a, b, c)
                } else {
                    let product = self.b.ins().fmul(a, b);
                    self.b.ins().fadd(product, c)
                }
            }
            Op::Cmp(op, a, b) => {
                let float = self.func.ty(*a).lane() == Ty::F32;
                let (a, b) = (self.get(*a), self.get(*b));
                if float {
                    self.b.ins().fcmp(float_condition(*op), a, b)
                } else {
                    self.b.ins().icmp(int_condition(*op), a, b)
                }
            }
            Op::Select(c, a, b) => {
                let wide = self.func.ty(*c).is_vector();
                let (c, a, b) = (self.get(*c), self.get(*a), self.get(*b));
                if wide { self.lane_select(ty, c, a, b) } else { self.b.ins().select(c, a, b) }
            }
            Op::Convert(conv, a) => {
                let a = self.get(*a);
                self.convert(*conv, ty, a)
            }
            Op::Splat(a) => {
                let a = self.get(*a);
                let a = if dst == Ty::Mask4 { self.mask_lane(a) } else { a };
                self.b.ins().splat(ty, a)
            }
            Op::Extract(v, lane) => {
                let v = self.get(*v);
                let x = self.b.ins().extractlane(v, *lane);
                if dst == Ty::Bool { self.is_nonzero(x) } else { x }
            }
            Op::Insert(v, lane, x) => {
                let (v, x) = (self.get(*v), self.get(*x));
                let x = if dst == Ty::Mask4 { self.mask_lane(x) } else { x };
                self.b.ins().insertlane(v, x, *lane)
            }
            Op::Reduce(op, v) => {
                let v = self.get(*v);
                let lane = if dst == Ty::Bool { Ty::I32 } else { dst }; // masks combine as integers
                let [a, b, c, d] = [0u8, 1, 2, 3].map(|i| self.b.ins().extractlane(v, i));
                let even = self.binary(*op, lane, a, c);
                let odd = self.binary(*op, lane, b, d);
                let all = self.binary(*op, lane, even, odd);
                if dst == Ty::Bool { self.is_nonzero(all) } else { all }
            }
            Op::Load(a) => {
                let flags = self.memory_flags(dst.lanes());
                let (p, offset) = self.addr(a);
                self.b.ins().load(ty, flags, p, offset)
            }
            Op::Row(function, _) => unreachable!("{} is an operation of wide loops only", function.name()),
            Op::LoadSplat(a) => {
                let flags = self.memory_flags(1);
                let (p, offset) = self.addr(a);
                let x = self.b.ins().load(ty.lane_type(), flags, p, offset);
                self.b.ins().splat(ty, x)
            }
        }
    }

    pub(super) fn constant(&mut self, dst: Ty, c: Const) -> Value {
        let lanes = match c {
            Const::Index(x) => return self.b.ins().iconst(self.index, x),
            Const::I32(x) if dst == Ty::I32 => return self.b.ins().iconst(types::I32, x as u32 as i64),
            Const::F32(bits) if dst == Ty::F32 => {
                return self.b.ins().f32const(cranelift_codegen::ir::immediates::Ieee32::with_bits(bits));
            }
            Const::Bool(x) if dst == Ty::Bool => return self.b.ins().iconst(types::I8, x as i64),
            Const::I32(x) => [x as u32; 4],
            Const::F32(bits) => [bits; 4],
            Const::Bool(x) => [if x { u32::MAX } else { 0 }; 4],
            Const::I32x4(x) => x.map(|x| x as u32),
        };
        self.vector_const(clif_type(dst, self.index), lanes)
    }

    pub(super) fn vector_const(&mut self, ty: Type, lanes: [u32; 4]) -> Value {
        let bytes: Vec<u8> = lanes.iter().flat_map(|x| x.to_le_bytes()).collect();
        let handle = self.b.func.dfg.constants.insert(ConstantData::from(bytes));
        self.b.ins().vconst(ty, handle)
    }

    /// A scalar or, if `ty` is a vector, all its lanes.
    pub(super) fn int_const(&mut self, ty: Type, x: i32) -> Value {
        if ty.is_vector() { self.vector_const(ty, [x as u32; 4]) } else { self.b.ins().iconst(ty, x as u32 as i64) }
    }

    pub(super) fn unary(&mut self, op: UnOp, ty: Ty, a: Value) -> Value {
        let float = ty.lane() == Ty::F32;
        match op {
            UnOp::Neg if float => self.b.ins().fneg(a),
            UnOp::Neg => self.b.ins().ineg(a),
            UnOp::Abs if float => self.b.ins().fabs(a),
            UnOp::Abs => self.b.ins().iabs(a),
            UnOp::Sqrt => self.b.ins().sqrt(a),
            UnOp::Round if self.target.round => self.b.ins().nearest(a),
            UnOp::Round => self.round_by_addition(ty, a),
            UnOp::Not if ty == Ty::Bool => {
                let one = self.b.ins().iconst(types::I8, 1);
                self.b.ins().bxor(a, one)
            }
            UnOp::Not => self.b.ins().bnot(a),
        }
    }

    /// Adding and subtracting 2^23 rounds |x| < 2^23 to an integer, ties to even; the rest is integral already.
    pub(super) fn round_by_addition(&mut self, ty: Ty, x: Value) -> Value {
        let float = clif_type(ty, self.index);
        let int = clif_type(Ty::I32.with_lanes(ty.lanes()), self.index);
        let limit = self.constant(ty, Const::f32(8_388_608.0));
        let sign = self.int_const(int, i32::MIN);

        let magnitude = self.b.ins().fabs(x);
        let shifted = self.b.ins().fadd(magnitude, limit);
        let rounded = self.b.ins().fsub(shifted, limit);
        let x_bits = self.b.ins().bitcast(int, lane_order(), x);
        let sign = self.b.ins().band(x_bits, sign);
        let rounded = self.b.ins().bitcast(int, lane_order(), rounded);
        let rounded = self.b.ins().bor(rounded, sign);
        let rounded = self.b.ins().bitcast(float, lane_order(), rounded);
        let small = self.b.ins().fcmp(FloatCC::LessThan, magnitude, limit);
        self.choose(float, small, rounded, x)
    }

    /// A selection by a bool or a mask, as the type says.
    pub(super) fn choose(&mut self, ty: Type, c: Value, a: Value, b: Value) -> Value {
        if ty.is_vector() { self.lane_select(ty, c, a, b) } else { self.b.ins().select(c, a, b) }
    }

    pub(super) fn lane_select(&mut self, ty: Type, mask: Value, a: Value, b: Value) -> Value {
        let mask = if ty == types::I32X4 { mask } else { self.b.ins().bitcast(ty, lane_order(), mask) };
        self.b.ins().bitselect(mask, a, b)
    }

    pub(super) fn binary(&mut self, op: BinOp, ty: Ty, a: Value, b: Value) -> Value {
        let clif = clif_type(ty, self.index);
        if ty.lane() == Ty::F32 {
            return match op {
                BinOp::Add => self.b.ins().fadd(a, b),
                BinOp::Sub => self.b.ins().fsub(a, b),
                BinOp::Mul => self.b.ins().fmul(a, b),
                BinOp::Div => self.b.ins().fdiv(a, b),
                // Cranelift knows both forms as one minps or maxps.
                BinOp::Min => {
                    let less = self.b.ins().fcmp(FloatCC::LessThan, b, a);
                    self.choose(clif, less, b, a)
                }
                BinOp::Max => {
                    let less = self.b.ins().fcmp(FloatCC::LessThan, a, b);
                    self.choose(clif, less, b, a)
                }
                _ => unreachable!("the verifier admits no {} of f32", op.name()),
            };
        }
        match op {
            BinOp::Add => self.b.ins().iadd(a, b),
            BinOp::Sub => self.b.ins().isub(a, b),
            BinOp::Mul => self.b.ins().imul(a, b),
            BinOp::Div | BinOp::DivU | BinOp::Rem | BinOp::RemU => self.int_div(op, ty, a, b),
            BinOp::Min => self.b.ins().smin(a, b),
            BinOp::Max => self.b.ins().smax(a, b),
            BinOp::MinU => self.b.ins().umin(a, b),
            BinOp::MaxU => self.b.ins().umax(a, b),
            BinOp::And => self.b.ins().band(a, b),
            BinOp::Or => self.b.ins().bor(a, b),
            BinOp::Xor => self.b.ins().bxor(a, b),
            BinOp::Shl => self.b.ins().ishl(a, b),
            BinOp::Shr => self.b.ins().sshr(a, b),
            BinOp::ShrU => self.b.ins().ushr(a, b),
        }
    }

    /// Division as the IR defines it: where the hardware would trap, the divisor becomes 1. Lane by lane.
    pub(super) fn int_div(&mut self, op: BinOp, ty: Ty, a: Value, b: Value) -> Value {
        if ty == Ty::I32x4 {
            let mut v = a;
            for lane in 0..4u8 {
                let (x, y) = (self.b.ins().extractlane(a, lane), self.b.ins().extractlane(b, lane));
                let q = self.int_div(op, Ty::I32, x, y);
                v = self.b.ins().insertlane(v, q, lane);
            }
            return v;
        }
        let one = self.b.ins().iconst(types::I32, 1);
        let mut traps = self.b.ins().icmp_imm_s(IntCC::Equal, b, 0);
        if matches!(op, BinOp::Div | BinOp::Rem) {
            let least = self.b.ins().icmp_imm_s(IntCC::Equal, a, i32::MIN as i64);
            let minus_one = self.b.ins().icmp_imm_s(IntCC::Equal, b, -1);
            let overflows = self.b.ins().band(least, minus_one);
            traps = self.b.ins().bor(traps, overflows);
        }
        let b = self.b.ins().select(traps, one, b);
        match op {
            BinOp::Div => self.b.ins().sdiv(a, b),
            BinOp::DivU => self.b.ins().udiv(a, b),
            BinOp::Rem => self.b.ins().srem(a, b),
            _ => self.b.ins().urem(a, b),
        }
    }

    pub(super) fn convert(&mut self, conv: Conv, ty: Type, a: Value) -> Value {
        match conv {
            Conv::I32ToF32 => self.b.ins().fcvt_from_sint(ty, a),
            Conv::U32ToF32 => self.b.ins().fcvt_from_uint(ty, a),
            Conv::F32ToI32 => self.b.ins().fcvt_to_sint_sat(ty, a),
            Conv::F32ToU32 => self.b.ins().fcvt_to_uint_sat(ty, a),
            Conv::F32BitsToI32 | Conv::I32BitsToF32 => self.b.ins().bitcast(ty, lane_order(), a),
            Conv::I32ToIndex if ty == types::I64 => self.b.ins().sextend(ty, a),
            Conv::U32ToIndex if ty == types::I64 => self.b.ins().uextend(ty, a),
            Conv::IndexToI32 if self.index == types::I64 => self.b.ins().ireduce(ty, a),
            Conv::I32ToIndex | Conv::U32ToIndex | Conv::IndexToI32 => a, // index is i32 already
        }
    }

    /// A bool as a lane of a mask: 1 becomes all ones.
    pub(super) fn mask_lane(&mut self, a: Value) -> Value {
        let wide = self.b.ins().uextend(types::I32, a);
        self.b.ins().ineg(wide)
    }

    pub(super) fn is_nonzero(&mut self, a: Value) -> Value {
        self.b.ins().icmp_imm_s(IntCC::NotEqual, a, 0)
    }
}

fn float_condition(op: CmpOp) -> FloatCC {
    match op {
        CmpOp::Eq => FloatCC::Equal,
        CmpOp::Ne => FloatCC::NotEqual,
        CmpOp::Lt | CmpOp::LtU => FloatCC::LessThan,
        CmpOp::Le | CmpOp::LeU => FloatCC::LessThanOrEqual,
        CmpOp::Gt | CmpOp::GtU => FloatCC::GreaterThan,
        CmpOp::Ge | CmpOp::GeU => FloatCC::GreaterThanOrEqual,
    }
}

fn int_condition(op: CmpOp) -> IntCC {
    match op {
        CmpOp::Eq => IntCC::Equal,
        CmpOp::Ne => IntCC::NotEqual,
        CmpOp::Lt => IntCC::SignedLessThan,
        CmpOp::Le => IntCC::SignedLessThanOrEqual,
        CmpOp::Gt => IntCC::SignedGreaterThan,
        CmpOp::Ge => IntCC::SignedGreaterThanOrEqual,
        CmpOp::LtU => IntCC::UnsignedLessThan,
        CmpOp::LeU => IntCC::UnsignedLessThanOrEqual,
        CmpOp::GtU => IntCC::UnsignedGreaterThan,
        CmpOp::GeU => IntCC::UnsignedGreaterThanOrEqual,
    }
}
