//! Operations of the vector loop IR as WebAssembly instructions: each leaves its result on the stack.
//!
//! Most are one instruction. Those that are not:
//! - `min` and `max` of scalars are a comparison and a selection: WebAssembly's own differ for NaN and zeros;
//! - integer division never traps: a divisor that would is replaced by 1;
//! - a bool becomes a lane of a mask by negation, and a lane of a mask a bool by its lowest bit;
//! - `reduce` halves a vector twice, in the order that the IR states;
//! - `fma` is `f32x4.relaxed_madd` for vectors where the module may use it, else a multiplication and an addition.

use super::func::{Emit, Local, by_width, element};
use tinygpt_vloop::*;
use wasm_encoder::ValType;

/// Lanes 2 and 3 of a vector, then lanes 0 and 1.
const HALVES: [u8; 16] = [8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7];
/// Lane 1, then lanes 0, 3 and 2.
const PAIRS: [u8; 16] = [4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11];

/// A value that an operation reads more than once.
enum Held {
    /// A register's own local.
    Own(Local),
    /// A borrowed local.
    Temp(Local),
    Const(Ty, Const),
}

impl Emit<'_> {
    /// Leaves the value of an operation whose result has type `dst` on the stack.
    pub fn op(&mut self, dst: Ty, op: &Op) {
        match op {
            Op::Const(c) => self.constant(dst, *c),
            Op::Copy(a) => self.value(*a),
            Op::Param(p) => {
                let local = self.param(*p);
                self.ins().local_get(local);
            }
            Op::Unary(op, a) => self.unary(*op, dst, *a),
            Op::Binary(op, a, b) => self.binary(*op, dst, *a, *b),
            Op::DivConst(a, c) => {
                self.value(*a);
                self.ptr_div(*c, true);
            }
            Op::RemConst(a, c) => {
                self.value(*a);
                self.ptr_div(*c, false);
            }
            Op::Fma(a, b, c) => {
                self.value(*a);
                self.value(*b);
                if dst == Ty::F32 {
                    self.ins().f32_mul();
                    self.value(*c);
                    self.ins().f32_add();
                } else if self.options.relaxed {
                    self.value(*c);
                    self.ins().f32x4_relaxed_madd();
                } else {
                    self.ins().f32x4_mul();
                    self.value(*c);
                    self.ins().f32x4_add();
                }
            }
            Op::Cmp(op, a, b) => {
                self.value(*a);
                self.value(*b);
                self.compare(*op, self.func.ty(*a));
            }
            Op::Select(c, a, b) => {
                self.value(*a);
                self.value(*b);
                self.value(*c);
                match self.func.ty(*c) {
                    Ty::Mask4 => self.ins().v128_bitselect(),
                    _ => self.ins().select(),
                };
            }
            Op::Convert(conv, a) => {
                self.value(*a);
                self.convert(*conv, dst);
            }
            Op::Splat(a) => {
                self.mask_lane(dst, *a);
                match dst {
                    Ty::F32x4 => self.ins().f32x4_splat(),
                    _ => self.ins().i32x4_splat(),
                };
            }
            Op::Extract(v, lane) => {
                self.value(*v);
                self.extract(dst, *lane);
            }
            Op::Insert(v, lane, x) => {
                self.value(*v);
                self.mask_lane(dst, *x);
                if dst == Ty::F32x4 {
                    self.ins().f32x4_replace_lane(*lane);
                } else {
                    self.ins().i32x4_replace_lane(*lane);
                }
            }
            Op::Reduce(op, v) => self.reduce(*op, dst, *v),
            Op::Load(a) => {
                let at = element(self.push_address(a));
                match dst {
                    Ty::F32 => self.ins().f32_load(at),
                    ty if ty.is_vector() => self.ins().v128_load(at),
                    _ => self.ins().i32_load(at),
                };
            }
            Op::Row(function, _) => unreachable!("{} is refused before code is emitted", function.name()),
            Op::LoadSplat(a) => {
                let at = element(self.push_address(a));
                self.ins().v128_load32_splat(at);
            }
        }
    }

    // ---- values read twice

    fn hold(&mut self, r: Reg) -> Held {
        match (self.ready(r), self.facts.definition(r)) {
            (Some(local), _) => Held::Own(local),
            (None, Some(Op::Const(c))) if !self.func.ty(r).is_vector() => Held::Const(self.func.ty(r), *c),
            _ => {
                self.value(r);
                Held::Temp(self.hold_top(self.val_type(self.func.ty(r))))
            }
        }
    }

    /// Moves the value on the stack to a borrowed local.
    fn hold_top(&mut self, ty: ValType) -> Local {
        let local = self.borrow(ty);
        self.ins().local_set(local);
        local
    }

    fn held(&mut self, h: &Held) {
        match *h {
            Held::Own(local) | Held::Temp(local) => {
                self.ins().local_get(local);
            }
            Held::Const(ty, c) => self.constant(ty, c),
        }
    }

    fn drop_held(&mut self, held: [Held; 2]) {
        for h in held {
            if let Held::Temp(local) = h {
                self.release(local);
            }
        }
    }

    // ---- constants and arithmetic

    pub fn constant(&mut self, dst: Ty, c: Const) {
        let lanes = match c {
            Const::Index(x) => return self.ptr_const(x),
            Const::I32(x) if dst == Ty::I32 => {
                self.ins().i32_const(x);
                return;
            }
            Const::F32(bits) if dst == Ty::F32 => {
                self.ins().f32_const(f32::from_bits(bits).into());
                return;
            }
            Const::Bool(x) if dst == Ty::Bool => {
                self.ins().i32_const(x.into());
                return;
            }
            Const::I32(x) => [x as u32; 4],
            Const::F32(bits) => [bits; 4],
            Const::Bool(x) => [if x { u32::MAX } else { 0 }; 4],
            Const::I32x4(x) => x.map(|x| x as u32),
        };
        let bits = lanes.iter().rev().fold(0u128, |bits, &lane| bits << 32 | u128::from(lane));
        self.ins().v128_const(bits as i128);
    }

    /// Divides the index on the stack, which is not negative, by a positive constant, or takes the remainder.
    fn ptr_div(&mut self, c: i64, quotient: bool) {
        match (quotient, (c as u64).is_power_of_two()) {
            (true, true) => {
                self.ptr_const(i64::from(c.trailing_zeros()));
                by_width!(self, i64_shr_u, i32_shr_u);
            }
            (false, true) => {
                self.ptr_const(c - 1);
                by_width!(self, i64_and, i32_and);
            }
            (true, false) => {
                self.ptr_const(c);
                by_width!(self, i64_div_u, i32_div_u);
            }
            (false, false) => {
                self.ptr_const(c);
                by_width!(self, i64_rem_u, i32_rem_u);
            }
        }
    }

    fn unary(&mut self, op: UnOp, ty: Ty, a: Reg) {
        match (op, ty) {
            (UnOp::Neg, Ty::I32) => {
                self.ins().i32_const(0);
                self.value(a);
                self.ins().i32_sub();
                return;
            }
            (UnOp::Abs, Ty::I32) => {
                // (x ^ s) - s, where s is all copies of the sign
                let (x, none) = (self.hold(a), Held::Const(Ty::I32, Const::I32(31)));
                for last in [false, true] {
                    if !last {
                        self.held(&x);
                    }
                    self.held(&x);
                    self.held(&none);
                    self.ins().i32_shr_s();
                    match last {
                        true => self.ins().i32_sub(),
                        false => self.ins().i32_xor(),
                    };
                }
                self.drop_held([x, none]);
                return;
            }
            _ => self.value(a),
        }
        match (op, ty) {
            (UnOp::Neg, Ty::F32) => self.ins().f32_neg(),
            (UnOp::Neg, Ty::F32x4) => self.ins().f32x4_neg(),
            (UnOp::Neg, _) => self.ins().i32x4_neg(),
            (UnOp::Abs, Ty::F32) => self.ins().f32_abs(),
            (UnOp::Abs, Ty::F32x4) => self.ins().f32x4_abs(),
            (UnOp::Abs, _) => self.ins().i32x4_abs(),
            (UnOp::Sqrt, Ty::F32) => self.ins().f32_sqrt(),
            (UnOp::Sqrt, _) => self.ins().f32x4_sqrt(),
            (UnOp::Round, Ty::F32) => self.ins().f32_nearest(),
            (UnOp::Round, _) => self.ins().f32x4_nearest(),
            (UnOp::Not, Ty::Bool) => self.ins().i32_eqz(),
            (UnOp::Not, Ty::I32) => self.ins().i32_const(-1).i32_xor(),
            (UnOp::Not, _) => self.ins().v128_not(),
        };
    }

    fn binary(&mut self, op: BinOp, ty: Ty, a: Reg, b: Reg) {
        use BinOp::*;
        match (op, ty) {
            (Min | Max | MinU | MaxU, Ty::F32 | Ty::I32 | Ty::Index) => self.scalar_min_max(op, ty, a, b),
            (Div | DivU | Rem | RemU, Ty::I32) => {
                let (x, y) = (self.hold(a), self.hold(b));
                self.int_div(op, &x, &y);
                self.drop_held([x, y]);
            }
            (Div | DivU | Rem | RemU, Ty::I32x4) => self.vector_int_div(op, a, b),
            _ => {
                self.value(a);
                self.value(b);
                self.combine(op, ty);
            }
        }
    }

    /// Combines the two values on the stack, for an operation that is one instruction.
    fn combine(&mut self, op: BinOp, ty: Ty) {
        use BinOp::*;
        let wide = self.options.memory64 && ty == Ty::Index;
        let mut i = self.ins();
        match ty {
            Ty::F32 => match op {
                Add => i.f32_add(),
                Sub => i.f32_sub(),
                Mul => i.f32_mul(),
                Div => i.f32_div(),
                _ => unreachable!("the verifier admits no {} of f32, and min and max are selections", op.name()),
            },
            Ty::F32x4 => match op {
                Add => i.f32x4_add(),
                Sub => i.f32x4_sub(),
                Mul => i.f32x4_mul(),
                Div => i.f32x4_div(),
                Min => i.f32x4_pmin(),
                Max => i.f32x4_pmax(),
                _ => unreachable!("the verifier admits no {} of f32x4", op.name()),
            },
            Ty::I32x4 | Ty::Mask4 => match op {
                Add => i.i32x4_add(),
                Sub => i.i32x4_sub(),
                Mul => i.i32x4_mul(),
                Min => i.i32x4_min_s(),
                Max => i.i32x4_max_s(),
                MinU => i.i32x4_min_u(),
                MaxU => i.i32x4_max_u(),
                And => i.v128_and(),
                Or => i.v128_or(),
                Xor => i.v128_xor(),
                Shl => i.i32x4_shl(),
                Shr => i.i32x4_shr_s(),
                ShrU => i.i32x4_shr_u(),
                Div | DivU | Rem | RemU => unreachable!("vectors of integers are divided lane by lane"),
            },
            Ty::Index if wide => match op {
                Add => i.i64_add(),
                Sub => i.i64_sub(),
                Mul => i.i64_mul(),
                _ => unreachable!("the verifier admits no {} of index, and min and max are selections", op.name()),
            },
            Ty::Index | Ty::I32 | Ty::Bool => match op {
                Add => i.i32_add(),
                Sub => i.i32_sub(),
                Mul => i.i32_mul(),
                And => i.i32_and(),
                Or => i.i32_or(),
                Xor => i.i32_xor(),
                Shl => i.i32_shl(),
                Shr => i.i32_shr_s(),
                ShrU => i.i32_shr_u(),
                _ => unreachable!("divisions and extrema of scalars have code of their own"),
            },
        };
    }

    /// `b < a ? b : a`, or `a < b ? b : a`.
    fn scalar_min_max(&mut self, op: BinOp, ty: Ty, a: Reg, b: Reg) {
        let (x, y) = (self.hold(a), self.hold(b));
        self.held(&y);
        self.held(&x);
        match op {
            BinOp::Min | BinOp::MinU => {
                self.held(&y);
                self.held(&x);
            }
            _ => {
                self.held(&x);
                self.held(&y);
            }
        }
        let less = if matches!(op, BinOp::MinU | BinOp::MaxU) { CmpOp::LtU } else { CmpOp::Lt };
        self.compare(less, ty);
        self.ins().select();
        self.drop_held([x, y]);
    }

    /// Division as the IR defines it, of two scalars.
    fn int_div(&mut self, op: BinOp, a: &Held, b: &Held) {
        self.held(a);
        // The divisor, or 1 where WebAssembly's instruction traps or differs.
        self.ins().i32_const(1);
        self.held(b);
        self.held(b);
        self.ins().i32_eqz();
        if matches!(op, BinOp::Div | BinOp::Rem) {
            self.held(a);
            self.ins().i32_const(i32::MIN).i32_eq();
            self.held(b);
            self.ins().i32_const(-1).i32_eq().i32_and().i32_or();
        }
        let mut i = self.ins();
        i.select();
        match op {
            BinOp::Div => i.i32_div_s(),
            BinOp::DivU => i.i32_div_u(),
            BinOp::Rem => i.i32_rem_s(),
            _ => i.i32_rem_u(),
        };
    }

    fn vector_int_div(&mut self, op: BinOp, a: Reg, b: Reg) {
        let (x, y) = (self.hold(a), self.hold(b));
        self.held(&x);
        for lane in 0..4 {
            let lanes = [&x, &y].map(|v| {
                self.held(v);
                self.ins().i32x4_extract_lane(lane);
                Held::Temp(self.hold_top(ValType::I32))
            });
            self.int_div(op, &lanes[0], &lanes[1]);
            self.ins().i32x4_replace_lane(lane);
            self.drop_held(lanes);
        }
        self.drop_held([x, y]);
    }

    fn compare(&mut self, op: CmpOp, ty: Ty) {
        use CmpOp::*;
        let wide = self.options.memory64 && ty == Ty::Index;
        let mut i = self.ins();
        match ty {
            Ty::F32 => match op {
                Eq => i.f32_eq(),
                Ne => i.f32_ne(),
                Lt | LtU => i.f32_lt(),
                Le | LeU => i.f32_le(),
                Gt | GtU => i.f32_gt(),
                Ge | GeU => i.f32_ge(),
            },
            Ty::F32x4 => match op {
                Eq => i.f32x4_eq(),
                Ne => i.f32x4_ne(),
                Lt | LtU => i.f32x4_lt(),
                Le | LeU => i.f32x4_le(),
                Gt | GtU => i.f32x4_gt(),
                Ge | GeU => i.f32x4_ge(),
            },
            Ty::I32x4 | Ty::Mask4 => match op {
                Eq => i.i32x4_eq(),
                Ne => i.i32x4_ne(),
                Lt => i.i32x4_lt_s(),
                Le => i.i32x4_le_s(),
                Gt => i.i32x4_gt_s(),
                Ge => i.i32x4_ge_s(),
                LtU => i.i32x4_lt_u(),
                LeU => i.i32x4_le_u(),
                GtU => i.i32x4_gt_u(),
                GeU => i.i32x4_ge_u(),
            },
            Ty::Index if wide => match op {
                Eq => i.i64_eq(),
                Ne => i.i64_ne(),
                Lt | LtU => i.i64_lt_s(),
                Le | LeU => i.i64_le_s(),
                Gt | GtU => i.i64_gt_s(),
                Ge | GeU => i.i64_ge_s(),
            },
            Ty::Index | Ty::I32 | Ty::Bool => match op {
                Eq => i.i32_eq(),
                Ne => i.i32_ne(),
                Lt => i.i32_lt_s(),
                Le => i.i32_le_s(),
                Gt => i.i32_gt_s(),
                Ge => i.i32_ge_s(),
                LtU => i.i32_lt_u(),
                LeU => i.i32_le_u(),
                GtU => i.i32_gt_u(),
                GeU => i.i32_ge_u(),
            },
        };
    }

    /// Converts the value on the stack.
    fn convert(&mut self, conv: Conv, dst: Ty) {
        let (vector, wide) = (dst.is_vector(), self.options.memory64);
        let mut i = self.ins();
        match conv {
            Conv::I32ToF32 if vector => i.f32x4_convert_i32x4_s(),
            Conv::I32ToF32 => i.f32_convert_i32_s(),
            Conv::U32ToF32 if vector => i.f32x4_convert_i32x4_u(),
            Conv::U32ToF32 => i.f32_convert_i32_u(),
            Conv::F32ToI32 if vector => i.i32x4_trunc_sat_f32x4_s(),
            Conv::F32ToI32 => i.i32_trunc_sat_f32_s(),
            Conv::F32ToU32 if vector => i.i32x4_trunc_sat_f32x4_u(),
            Conv::F32ToU32 => i.i32_trunc_sat_f32_u(),
            Conv::F32BitsToI32 | Conv::I32BitsToF32 if vector => &mut i, // a v128 is its bits
            Conv::F32BitsToI32 => i.i32_reinterpret_f32(),
            Conv::I32BitsToF32 => i.f32_reinterpret_i32(),
            Conv::I32ToIndex if wide => i.i64_extend_i32_s(),
            Conv::U32ToIndex if wide => i.i64_extend_i32_u(),
            Conv::IndexToI32 if wide => i.i32_wrap_i64(),
            Conv::I32ToIndex | Conv::U32ToIndex | Conv::IndexToI32 => &mut i, // an index is an i32
        };
    }

    // ---- lanes

    /// A scalar as a lane of a vector of type `dst`.
    fn mask_lane(&mut self, dst: Ty, x: Reg) {
        if dst == Ty::Mask4 {
            self.ins().i32_const(0);
            self.value(x);
            self.ins().i32_sub();
        } else {
            self.value(x);
        }
    }

    /// A lane of the vector on the stack as a scalar of type `dst`.
    fn extract(&mut self, dst: Ty, lane: u8) {
        match dst {
            Ty::F32 => self.ins().f32x4_extract_lane(lane),
            Ty::Bool => self.ins().i32x4_extract_lane(lane).i32_const(1).i32_and(),
            _ => self.ins().i32x4_extract_lane(lane),
        };
    }

    /// `op(op(v0, v2), op(v1, v3))`.
    fn reduce(&mut self, op: BinOp, dst: Ty, v: Reg) {
        let ty = dst.with_lanes(4);
        self.value(v);
        for lanes in [HALVES, PAIRS] {
            let half = self.borrow(ValType::V128);
            self.ins().local_tee(half).local_get(half).local_get(half).i8x16_shuffle(lanes);
            self.combine(op, ty);
            self.release(half);
        }
        self.extract(dst, 0);
    }
}
