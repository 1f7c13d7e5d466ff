//! One vector loop function as Cranelift IR.
//!
//! - A register that is set once is a Cranelift value; one that is set more often, or a loop variable, is a
//!   frontend variable.
//! - Truth values are i8 (0 or 1), masks are i32x4 (all ones or zero), as Cranelift's comparisons give them.
//! - A loop is `if from < to { do { body; var += step } while (var < to) }`; the test before it goes away if
//!   both bounds are constants.
//! - Address arithmetic is the emitter's: see [`super::pointers`]. Everything else stands where the function has
//!   it, because Cranelift runs without its mid-end (see [`super::build_isa`]).

mod wide_loop;

use super::pointers::{Key, Pointers};
use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::{
    Block, BlockArg, ConstantData, Endianness, FuncRef, Function, InstBuilder, MemFlagsData, Type, Value, types,
};
use cranelift_codegen::isa::TargetFrontendConfig;
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext, Variable};
use std::collections::BTreeMap;
use tinygpt_vloop::*;
use wide_loop::Wide;
pub use wide_loop::WideLoop;

/// What emission has to know of the instruction set.
#[derive(Clone, Copy)]
pub struct Target {
    /// Has fused multiply-add.
    pub fma: bool,
    /// Has rounding to an integral value.
    pub round: bool,
    pub config: TargetFrontendConfig,
}

/// Fills `clif`, whose signature is set already, with the code of `func`, which the verifier has passed.
pub fn emit(
    func: &Func,
    target: Target,
    rows: &BTreeMap<RowFn, FuncRef>,
    wide: &[WideLoop],
    clif: &mut Function,
    frontend: &mut FunctionBuilderContext,
) {
    let pointers = Pointers::new(func);
    let index = target.config.pointer_type();
    let mut b = FunctionBuilder::new(clif, frontend);
    let entry = b.create_block();
    b.append_block_params_for_function_params(entry);
    b.switch_to_block(entry);
    b.seal_block(entry);
    let [bufs, scratch, params] = *b.block_params(entry) else {
        unreachable!("the signature has three parameters");
    };
    let fixed = MemFlagsData::trusted().with_readonly();
    let word = index.bytes() as i32;
    let buf_ptrs = (0..func.bufs.len() as i32).map(|i| b.ins().load(index, fixed, bufs, i * word)).collect();
    // Parameters are i64 in memory whatever the pointer width.
    let params = (0..func.params.len() as i32)
        .map(|i| {
            let wide = b.ins().load(types::I64, fixed, params, i * 8);
            if index == types::I64 { wide } else { b.ins().ireduce(index, wide) }
        })
        .collect();
    let regs = (0..func.regs.len())
        .map(|r| match pointers.sets(Reg(r as u32)) {
            0 | 1 => Slot::Value(None),
            _ => Slot::Variable(b.declare_var(clif_type(func.regs[r].ty, index))),
        })
        .collect();
    let (scratch_offsets, _) = func.scratch_layout();
    let wide = Wide::new(wide, &mut b);
    let mut e = Emit { func, target, rows, wide, index, b, buf_ptrs, scratch, scratch_offsets, params, regs, pointers };
    e.block(&func.body);
    e.b.ins().return_(&[]);
    e.b.finalize(target.config);
}

/// Where a register lives.
enum Slot {
    /// Set at most once; None until then.
    Value(Option<Value>),
    Variable(Variable),
}

fn clif_type(ty: Ty, index: Type) -> Type {
    match ty {
        Ty::Index => index,
        Ty::I32 => types::I32,
        Ty::F32 => types::F32,
        Ty::Bool => types::I8,
        Ty::I32x4 | Ty::Mask4 => types::I32X4,
        Ty::F32x4 => types::F32X4,
    }
}

/// Flags of a bit cast of vectors, which wants a byte order stated.
fn lane_order() -> MemFlagsData {
    MemFlagsData::new().with_endianness(Endianness::Little)
}

struct Emit<'a> {
    func: &'a Func,
    target: Target,
    rows: &'a BTreeMap<RowFn, FuncRef>,
    wide: Wide<'a>,
    /// The type of index values.
    index: Type,
    b: FunctionBuilder<'a>,
    buf_ptrs: Vec<Value>,
    scratch: Value,
    scratch_offsets: Vec<usize>,
    params: Vec<Value>,
    regs: Vec<Slot>,
    pointers: Pointers,
}

impl Emit<'_> {
    fn block(&mut self, body: &[Stmt]) {
        for s in body {
            self.stmt(s);
        }
    }

    fn stmt(&mut self, s: &Stmt) {
        match s {
            Stmt::Set(dst, op) => {
                let value = self.op(self.func.ty(*dst), op);
                self.set(*dst, value);
            }
            Stmt::Store { addr, value } => {
                let flags = self.memory_flags(self.func.ty(*value).lanes());
                let (x, (p, offset)) = (self.get(*value), self.addr(addr));
                self.b.ins().store(flags, x, p, offset);
            }
            Stmt::For { var, from, to, independent: true, .. } if self.wide.is_on() => self.wide_loop(*var, *from, *to),
            Stmt::For { var, from, to, step, body, .. } => self.for_(*var, *from, *to, *step, body),
            Stmt::If { cond, then, els } => self.if_(*cond, then, els),
            Stmt::CallRow { function, src, dst, n } => {
                let [src, dst] = [src, dst].map(|a| {
                    let (p, offset) = self.addr(a);
                    self.plus_const(p, offset as i64)
                });
                let n = self.idx(*n);
                // The count is not negative for the callee, which takes it unsigned.
                let zero = self.b.ins().iconst(self.index, 0);
                let n = self.b.ins().smax(n, zero);
                self.b.ins().call(self.rows[function], &[src, dst, n]);
            }
            Stmt::Comment(_) => {}
        }
    }

    fn for_(&mut self, var: Reg, from: Idx, to: Idx, step: i64, body: &[Stmt]) {
        let (first, end) = (self.idx(from), self.idx(to));
        for (base, terms) in self.pointers.enter_loop(body) {
            self.pointer(base, &terms);
        }
        let [header, exit] = [self.b.create_block(), self.b.create_block()];
        self.set(var, first);
        match (from, to) {
            (Idx::Const(from), Idx::Const(to)) if from < to => self.jump(header),
            _ => {
                let enter = self.b.ins().icmp(IntCC::SignedLessThan, first, end);
                self.branch(enter, header, exit);
            }
        }
        self.b.switch_to_block(header); // sealed after the jump back
        self.pointers.open_scope();
        self.block(body);
        self.pointers.close_scope();
        self.pointers.leave_loop();
        let i = self.get(var);
        let next = self.plus_const(i, step);
        self.set(var, next);
        let again = self.b.ins().icmp(IntCC::SignedLessThan, next, end);
        self.branch(again, header, exit);
        self.b.seal_block(header);
        self.b.switch_to_block(exit);
        self.b.seal_block(exit);
    }

    fn if_(&mut self, cond: Reg, then: &[Stmt], els: &[Stmt]) {
        let [then_block, else_block, join] = [(); 3].map(|()| self.b.create_block());
        let cond = self.get(cond);
        self.branch(cond, then_block, else_block);
        for (block, body) in [(then_block, then), (else_block, els)] {
            self.b.switch_to_block(block);
            self.b.seal_block(block);
            self.pointers.open_scope();
            self.block(body);
            self.pointers.close_scope();
            self.jump(join);
        }
        self.b.switch_to_block(join);
        self.b.seal_block(join);
    }

    fn jump(&mut self, to: Block) {
        self.b.ins().jump(to, std::iter::empty::<&BlockArg>());
    }

    fn branch(&mut self, cond: Value, then: Block, els: Block) {
        let none = std::iter::empty::<&BlockArg>;
        self.b.ins().brif(cond, then, none(), els, none());
    }

    // ---- registers

    fn get(&mut self, r: Reg) -> Value {
        match self.regs[r.0 as usize] {
            Slot::Value(v) => v.expect("the verifier has seen a definition before each use"),
            Slot::Variable(v) => self.b.use_var(v),
        }
    }

    fn set(&mut self, r: Reg, value: Value) {
        match &mut self.regs[r.0 as usize] {
            Slot::Value(v) => *v = Some(value),
            Slot::Variable(v) => {
                self.b.def_var(*v, value);
                self.pointers.forget(r);
            }
        }
    }

    fn idx(&mut self, i: Idx) -> Value {
        match i {
            Idx::Reg(r) => self.get(r),
            Idx::Const(c) => self.b.ins().iconst(self.index, c),
        }
    }

    // ---- addresses

    /// No access traps (they are in bounds); only scalars are known to be aligned.
    fn memory_flags(&self, lanes: usize) -> MemFlagsData {
        if lanes == 1 { MemFlagsData::trusted() } else { MemFlagsData::new().with_notrap() }
    }

    /// A pointer and a constant byte offset to it.
    fn addr(&mut self, a: &Addr) -> (Value, i32) {
        let size = self.func.elem(a.base).size() as i64;
        let terms = self.pointers.sorted(a);
        let p = self.pointer(a.base, &terms);
        let base_offset = match a.base {
            Base::Buf(_) => 0,
            Base::Scratch(s) => self.scratch_offsets[s.0 as usize] as i64,
        };
        let offset = base_offset + a.offset * size;
        match i32::try_from(offset) {
            Ok(offset) => (p, offset),
            Err(_) => (self.plus_const(p, offset), 0),
        }
    }

    /// The start of a buffer, or of all scratch, plus terms (sorted); computed already or now.
    fn pointer(&mut self, base: Base, terms: &[(Reg, i64)]) -> Value {
        let Some((&(r, stride), outer)) = terms.split_last() else {
            return match base {
                Base::Buf(b) => self.buf_ptrs[b.0 as usize],
                Base::Scratch(_) => self.scratch,
            };
        };
        let key = Key::Pointer(base, terms.to_vec());
        if let Some(p) = self.pointers.find(&key) {
            return p;
        }
        let p = self.pointer(base, outer);
        let bytes = stride * self.func.elem(base).size() as i64;
        let scaled_key = Key::Scaled(r, bytes);
        let scaled = match self.pointers.find(&scaled_key) {
            Some(scaled) => scaled,
            None => {
                let i = self.get(r);
                let scaled = self.times_const(i, bytes);
                self.pointers.remember(scaled_key, scaled);
                scaled
            }
        };
        let p = self.b.ins().iadd(p, scaled);
        self.pointers.remember(key, p);
        p
    }

    fn plus_const(&mut self, x: Value, c: i64) -> Value {
        if c == 0 {
            return x;
        }
        let c = self.b.ins().iconst(self.index, c);
        self.b.ins().iadd(x, c)
    }

    fn times_const(&mut self, x: Value, c: i64) -> Value {
        if c > 0 && (c as u64).is_power_of_two() {
            let shift = self.b.ins().iconst(self.index, c.trailing_zeros() as i64);
            return self.b.ins().ishl(x, shift);
        }
        let c = self.b.ins().iconst(self.index, c);
        self.b.ins().imul(x, c)
    }

    /// `a / d` for `a >= 0`. Granlund and Montgomery, "Division by invariant integers using multiplication"
    /// (1994): for a of N bits and 2^(s-1) < d <= 2^s, a / d is the product of a and m >> (N + s), where
    /// m = floor(2^(N + s) / d) + 1. An index has one bit less than its type, so m fits the type.
    fn div_const(&mut self, a: Value, d: u64) -> Value {
        let s = d.next_power_of_two().trailing_zeros();
        if d.is_power_of_two() {
            let shift = self.b.ins().iconst(self.index, s as i64);
            return self.b.ins().ushr(a, shift);
        }
        let n = self.index.bits() - 1;
        let m = (1u128 << (n + s)) / d as u128 + 1;
        let m = self.b.ins().iconst(self.index, m as u64 as i64);
        let high = self.b.ins().umulhi(a, m); // a * m >> (n + 1)
        let shift = self.b.ins().iconst(self.index, s as i64 - 1);
        self.b.ins().ushr(high, shift)
    }

    // ---- operations

    fn op(&mut self, dst: Ty, op: &Op) -> Value {
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

    fn constant(&mut self, dst: Ty, c: Const) -> Value {
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

    fn vector_const(&mut self, ty: Type, lanes: [u32; 4]) -> Value {
        let bytes: Vec<u8> = lanes.iter().flat_map(|x| x.to_le_bytes()).collect();
        let handle = self.b.func.dfg.constants.insert(ConstantData::from(bytes));
        self.b.ins().vconst(ty, handle)
    }

    /// A scalar or, if `ty` is a vector, all its lanes.
    fn int_const(&mut self, ty: Type, x: i32) -> Value {
        if ty.is_vector() { self.vector_const(ty, [x as u32; 4]) } else { self.b.ins().iconst(ty, x as u32 as i64) }
    }

    fn unary(&mut self, op: UnOp, ty: Ty, a: Value) -> Value {
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
    fn round_by_addition(&mut self, ty: Ty, x: Value) -> Value {
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
    fn choose(&mut self, ty: Type, c: Value, a: Value, b: Value) -> Value {
        if ty.is_vector() { self.lane_select(ty, c, a, b) } else { self.b.ins().select(c, a, b) }
    }

    fn lane_select(&mut self, ty: Type, mask: Value, a: Value, b: Value) -> Value {
        let mask = if ty == types::I32X4 { mask } else { self.b.ins().bitcast(ty, lane_order(), mask) };
        self.b.ins().bitselect(mask, a, b)
    }

    fn binary(&mut self, op: BinOp, ty: Ty, a: Value, b: Value) -> Value {
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
    fn int_div(&mut self, op: BinOp, ty: Ty, a: Value, b: Value) -> Value {
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

    fn convert(&mut self, conv: Conv, ty: Type, a: Value) -> Value {
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
    fn mask_lane(&mut self, a: Value) -> Value {
        let wide = self.b.ins().uextend(types::I32, a);
        self.b.ins().ineg(wide)
    }

    fn is_nonzero(&mut self, a: Value) -> Value {
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
