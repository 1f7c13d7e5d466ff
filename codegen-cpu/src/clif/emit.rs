//! One vector loop function as Cranelift IR.
//!
//! - A register that is set once is a Cranelift value; one that is set more often, or a loop variable, is a
//!   frontend variable.
//! - Truth values are i8 (0 or 1), masks are i32x4 (all ones or zero), as Cranelift's comparisons give them.
//! - A loop is `if from < to { do { body; var += step } while (var < to) }`; the test before it goes away if
//!   both bounds are constants.
//! - Address arithmetic is the emitter's: see [`super::pointers`]. Everything else stands where the function has
//!   it, because Cranelift runs without its mid-end (see [`super::build_isa`]).

mod ops;
mod wide_loop;

use super::pointers::{Key, Pointers};
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{
    Block, BlockArg, Endianness, FuncRef, Function, InstBuilder, MemFlagsData, Type, Value, types,
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
}
