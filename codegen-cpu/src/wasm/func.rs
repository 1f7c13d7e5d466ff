//! One vector loop function as one WebAssembly function.
//!
//! Its parameters are the addresses of its buffers, the address of its scratch if it has any, and its index parameters, all of
//! pointer type: i32, or i64 in a module with 64-bit memory.
//!
//! - A truth value is an i32, 0 or 1; a mask is a v128 of all ones or zeros a lane.
//! - A register is a local, unless it is a scalar constant, which stands where it is used, or is read once in the statement list
//!   that sets it: then its expression is emitted where it is read, if nothing in between changes what it depends on.
//! - A loop is tested at its bottom, by its variable if something reads that, else by a running pointer (see [`super::address`]);
//!   `if from < to` stands around it unless the bounds are constants.

use super::address::{Pointers, Running};
use super::facts::{Facts, operands, set_in};
use super::{WasmError, tidy};
use tinygpt_vloop::*;
use wasm_encoder::{BlockType, InstructionSink, MemArg, ValType};

/// The instruction of pointer type: the first where that is i64, else the second.
macro_rules! by_width {
    ($emit:expr, $wide:ident, $narrow:ident) => {
        if $emit.options.memory64 {
            $emit.ins().$wide();
        } else {
            $emit.ins().$narrow();
        }
    };
}
pub(super) use by_width;

/// As [`by_width`], for instructions with operands.
macro_rules! by_width_of {
    ($emit:expr, $wide:ident($x:expr), $narrow:ident($y:expr)) => {
        if $emit.memory64 {
            $emit.ins().$wide($x);
        } else {
            $emit.ins().$narrow($y);
        }
    };
}
pub(super) use by_width_of;

/// Index of a local of a function; parameters come first.
pub type Local = u32;

/// What emission has to know of the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FuncOptions {
    /// Vectors have fused multiply-add, of the relaxed SIMD proposal.
    pub relaxed: bool,
    /// Addresses and index values are 64 bits wide.
    pub memory64: bool,
}

/// A function's code.
pub struct FuncCode {
    pub params: Vec<ValType>,
    pub body: wasm_encoder::Function,
    /// Names of parameters and locals.
    pub names: Vec<String>,
}

/// An access `offset` bytes past the pointer on the stack; elements are aligned, vectors of them may not be.
pub fn element(offset: u64) -> MemArg {
    MemArg { offset, align: 2, target: Default::default(), ordering: None }
}

/// The type of addresses and index values.
pub fn ptr_type(memory64: bool) -> ValType {
    if memory64 { ValType::I64 } else { ValType::I32 }
}

/// Emits a function.
///
/// # Errors
/// If it is not well formed, or calls row functions, which a module does not have.
pub fn emit(func: &Func, options: FuncOptions) -> Result<FuncCode, WasmError> {
    tinygpt_vloop::verify(func)?;
    if calls_rows(&func.body) {
        return Err(WasmError::RowCall { func: func.name.clone() });
    }
    let func = tidy::tidy(func);
    let ptr = ptr_type(options.memory64);
    let mut names: Vec<String> = func.bufs.iter().map(|b| b.name.clone()).collect();
    if !func.scratch.is_empty() {
        names.push("scratch".into());
    }
    names.extend(func.params.iter().cloned());
    let params = vec![ptr; names.len()];
    let mut e = Emit {
        func: &func,
        facts: Facts::new(&func),
        options,
        scratch_offsets: func.scratch_layout().0,
        code: Vec::new(),
        locals: params.clone(),
        names,
        regs: vec![None; func.regs.len()],
        waiting: Vec::new(),
        pointers: Pointers::default(),
        free: Vec::new(),
    };
    e.block(&func.body);
    e.ins().end();
    let mut body = wasm_encoder::Function::new_with_locals_types(e.locals[params.len()..].iter().copied());
    body.raw(e.code);
    Ok(FuncCode { params, body, names: e.names })
}

fn calls_rows(body: &[Stmt]) -> bool {
    body.iter().any(|s| match s {
        Stmt::CallRow { .. } | Stmt::Set(_, Op::Row(..)) => true,
        Stmt::For { body, .. } => calls_rows(body),
        Stmt::If { then, els, .. } => calls_rows(then) || calls_rows(els),
        _ => false,
    })
}

/// A register whose expression has not been emitted yet.
struct Waiting<'a> {
    reg: Reg,
    op: &'a Op,
    /// Registers that the expression reads and that may be set again.
    variables: Vec<Reg>,
    /// Memory that it reads.
    loads: Vec<Base>,
    /// Another waiting expression has it as an operand, and is emitted with it.
    part: bool,
}

pub struct Emit<'a> {
    pub func: &'a Func,
    pub facts: Facts<'a>,
    pub options: FuncOptions,
    pub scratch_offsets: Vec<usize>,
    code: Vec<u8>,
    /// Types of parameters and locals.
    locals: Vec<ValType>,
    names: Vec<String>,
    /// The local of each register that has one.
    regs: Vec<Option<Local>>,
    waiting: Vec<Waiting<'a>>,
    pub pointers: Pointers,
    /// Unnamed locals that are free to be used again.
    free: Vec<Local>,
}

impl<'a> Emit<'a> {
    pub fn ins(&mut self) -> InstructionSink<'_> {
        InstructionSink::new(&mut self.code)
    }

    // ---- locals

    pub fn ptr_type(&self) -> ValType {
        ptr_type(self.options.memory64)
    }

    pub fn val_type(&self, ty: Ty) -> ValType {
        match ty {
            Ty::Index => self.ptr_type(),
            Ty::I32 | Ty::Bool => ValType::I32,
            Ty::F32 => ValType::F32,
            Ty::I32x4 | Ty::F32x4 | Ty::Mask4 => ValType::V128,
        }
    }

    /// A local whose name is `name` and its number.
    pub fn new_local(&mut self, ty: ValType, name: String) -> Local {
        let local = self.locals.len() as Local;
        self.locals.push(ty);
        self.names.push(format!("{name}{local}"));
        local
    }

    /// A local for a value that is used up within one operation; give it back with [`Emit::release`].
    pub fn borrow(&mut self, ty: ValType) -> Local {
        match self.free.iter().rposition(|&l| self.locals[l as usize] == ty) {
            Some(at) => self.free.swap_remove(at),
            None => self.new_local(ty, "tmp".into()),
        }
    }

    pub fn release(&mut self, local: Local) {
        self.free.push(local);
    }

    fn local_of(&mut self, r: Reg) -> Local {
        if let Some(local) = self.regs[r.0 as usize] {
            return local;
        }
        let local = match self.facts.definition(r) {
            Some(Op::Param(p)) => self.param(*p),
            _ => {
                let decl = &self.func.regs[r.0 as usize];
                let name = decl.name.as_ref().map(|n| format!("{n}.")).unwrap_or_default();
                self.new_local(self.val_type(decl.ty), name)
            }
        };
        self.regs[r.0 as usize] = Some(local);
        local
    }

    pub fn param(&self, p: ParamId) -> Local {
        let scratch = usize::from(!self.func.scratch.is_empty());
        (self.func.bufs.len() + scratch) as u32 + p.0
    }

    // ---- values

    /// A scalar constant, which is emitted wherever it is used.
    fn scalar_constant(&self, r: Reg) -> Option<Const> {
        match self.facts.definition(r) {
            Some(Op::Const(c)) if !self.func.ty(r).is_vector() => Some(*c),
            _ => None,
        }
    }

    /// The local of a register that needs no code to be read.
    pub fn ready(&mut self, r: Reg) -> Option<Local> {
        let waits = self.waiting.iter().any(|w| w.reg == r);
        if waits || self.scalar_constant(r).is_some() { None } else { Some(self.local_of(r)) }
    }

    /// Puts a register's value on the stack.
    pub fn value(&mut self, r: Reg) {
        if let Some(c) = self.scalar_constant(r) {
            self.constant(self.func.ty(r), c);
        } else if let Some(at) = self.waiting.iter().position(|w| w.reg == r) {
            let w = self.waiting.remove(at);
            self.op(self.func.ty(r), w.op);
        } else {
            let local = self.local_of(r);
            self.ins().local_get(local);
        }
    }

    // ---- expressions that wait for their reader

    /// Registers that the operation depends on, through waiting operands too: those that may be set again, and memory.
    fn dependences(&self, op: &Op) -> (Vec<Reg>, Vec<Base>) {
        let (mut variables, mut loads) = (Vec::new(), Vec::new());
        let may_change = |r: Reg| self.facts.definition(r).is_none();
        operands(op, &mut |r| {
            if may_change(r) {
                variables.push(r);
            }
            if let Some(w) = self.waiting.iter().find(|w| w.reg == r) {
                variables.extend(&w.variables);
                loads.extend(&w.loads);
            }
        });
        if let Op::Load(a) | Op::LoadSplat(a) = op {
            variables.extend(a.terms.iter().map(|t| t.0).filter(|r| may_change(*r)));
            loads.push(a.base);
        }
        (variables, loads)
    }

    fn wait(&mut self, reg: Reg, op: &'a Op) {
        let (variables, loads) = self.dependences(op);
        operands(op, &mut |r| {
            if let Some(w) = self.waiting.iter_mut().find(|w| w.reg == r) {
                w.part = true;
            }
        });
        self.waiting.push(Waiting { reg, op, variables, loads, part: false });
    }

    /// Emits waiting expressions into locals, those that `which` picks and that `used` is not about to emit.
    fn settle(&mut self, used: &[Reg], which: impl Fn(&Waiting) -> bool) {
        while let Some(w) = self.waiting.iter().find(|w| !w.part && !used.contains(&w.reg) && which(w)) {
            let reg = w.reg;
            self.value(reg);
            let local = self.local_of(reg);
            self.ins().local_set(local);
        }
    }

    // ---- statements

    fn block(&mut self, body: &'a [Stmt]) {
        self.open_block(body);
        for s in body {
            self.stmt(s);
        }
        debug_assert!(self.waiting.is_empty(), "every waiting expression has its reader in its block");
        self.close_block();
    }

    fn stmt(&mut self, s: &'a Stmt) {
        match s {
            Stmt::Set(r, Op::Param(_)) if self.facts.is_set_once(*r) => {} // the parameter is its local
            Stmt::Set(r, Op::Const(_)) if self.scalar_constant(*r).is_some() => {}
            Stmt::Set(r, op) if self.facts.is_used_once_here(*r) => self.wait(*r, op),
            Stmt::Set(r, op) => {
                let mut used = Vec::new();
                operands(op, &mut |r| used.push(r));
                self.settle(&used, |w| w.variables.contains(r));
                self.op(self.func.ty(*r), op);
                let local = self.local_of(*r);
                self.ins().local_set(local);
                self.pointers.forget(*r);
            }
            Stmt::Store { addr, value } => {
                // Buffers may be the same memory; scratch arrays are not.
                let touched = |b: &Base| match addr.base {
                    Base::Buf(_) => matches!(b, Base::Buf(_)),
                    scratch => *b == scratch,
                };
                self.settle(&[*value], |w| w.loads.iter().any(touched));
                let offset = self.push_address(addr);
                self.value(*value);
                let at = element(offset);
                match self.func.ty(*value) {
                    Ty::F32 => self.ins().f32_store(at),
                    ty if ty.is_vector() => self.ins().v128_store(at),
                    _ => self.ins().i32_store(at),
                };
            }
            Stmt::For { var, from, to, step, body, .. } => self.for_(*var, *from, *to, *step, body),
            Stmt::If { cond, then, els } => {
                self.settle(&[*cond], |_| true);
                self.value(*cond);
                self.ins().if_(BlockType::Empty);
                self.branch(then);
                if !els.is_empty() {
                    self.ins().else_();
                    self.branch(els);
                }
                self.ins().end();
            }
            Stmt::CallRow { .. } => unreachable!("emit refuses functions with row calls"),
            Stmt::Comment(_) => {}
        }
    }

    fn branch(&mut self, body: &'a [Stmt]) {
        self.pointers.open_scope();
        self.block(body);
        self.pointers.close_scope();
    }

    fn for_(&mut self, var: Reg, from: Idx, to: Idx, step: i64, body: &'a [Stmt]) {
        self.settle(&[], |_| true);
        let trips = match (from, to) {
            (Idx::Const(from), Idx::Const(to)) => Some((to - from + step - 1) / step), // positive, or tidy had dropped it
            _ => None,
        };
        if trips.is_none() {
            self.idx(from);
            self.idx(to);
            self.ptr_lt_s();
            self.ins().if_(BlockType::Empty);
        }
        self.pointers.open_scope();
        self.pointers.forget(var);
        self.pointers.forget_sets(body);
        let running = self.prepare_loop(var, from, body);
        let end = match to {
            Idx::Const(to) => Bound::Const(to),
            Idx::Reg(r) if sets(body, r) => self.kept(r),
            Idx::Reg(r) => Bound::Local(self.local_of(r)),
        };
        let counter = self.facts.is_read(var);
        if counter {
            self.idx(from);
            let local = self.local_of(var);
            self.ins().local_set(local);
        }
        if trips == Some(1) {
            self.enter_loop(&running);
            self.block(body);
        } else {
            let test = self.loop_test(var, counter, &running, (from, end), step);
            self.enter_loop(&running);
            self.ins().loop_(BlockType::Empty);
            self.block(body);
            self.advance(&running, step, test);
            self.ins().br_if(0).end();
        }
        self.pointers.close_scope();
        if trips.is_none() {
            self.ins().end();
        }
    }

    fn idx(&mut self, i: Idx) {
        match i {
            Idx::Reg(r) => self.value(r),
            Idx::Const(c) => self.ptr_const(c),
        }
    }

    /// A copy of a bound that the loop's body sets.
    fn kept(&mut self, r: Reg) -> Bound {
        self.value(r);
        let local = self.new_local(self.ptr_type(), "end.".into());
        self.ins().local_set(local);
        Bound::Local(local)
    }

    fn bound(&mut self, b: Bound) {
        match b {
            Bound::Const(c) => self.ptr_const(c),
            Bound::Local(local) => {
                self.ins().local_get(local);
            }
        }
    }

    /// Decides what ends a loop, and computes what it is compared with.
    fn loop_test(&mut self, var: Reg, counter: bool, running: &[Running], (from, to): (Idx, Bound), step: i64) -> Test {
        let pointer = running.iter().position(|r| r.stride > 0).filter(|_| !counter);
        let Some(at) = pointer else {
            if !counter {
                self.idx(from);
                let local = self.local_of(var);
                self.ins().local_set(local);
            }
            return Test::Counter { local: self.local_of(var), to, step };
        };
        // The pointer's value for the variable's end.
        let r = &running[at];
        let (local, stride) = (r.local, r.stride);
        self.ins().local_get(local);
        match (from, to) {
            (Idx::Const(from), Bound::Const(to)) => self.push_plus((to - from).wrapping_mul(stride)),
            _ => {
                self.bound(to);
                if from != Idx::Const(0) {
                    self.idx(from);
                    self.ptr_sub();
                }
                self.ptr_times(stride);
                self.ptr_add();
            }
        }
        let end = self.new_local(self.ptr_type(), "end.".into());
        self.ins().local_set(end);
        Test::Pointer { at, end }
    }

    /// Moves what a loop counts by, and leaves on the stack whether it goes on.
    fn advance(&mut self, running: &[Running], step: i64, test: Test) {
        let last = match test {
            Test::Pointer { at, .. } => Some(at),
            Test::Counter { .. } => None,
        };
        for (_, r) in running.iter().enumerate().filter(|(i, _)| Some(*i) != last) {
            self.ins().local_get(r.local);
            self.push_plus(r.stride.wrapping_mul(step));
            self.ins().local_set(r.local);
        }
        match test {
            Test::Pointer { at, end } => {
                let r = &running[at];
                self.ins().local_get(r.local);
                self.push_plus(r.stride.wrapping_mul(step));
                self.ins().local_tee(r.local).local_get(end);
                self.ptr_lt_u();
            }
            Test::Counter { local, to, step } => {
                self.ins().local_get(local);
                self.push_plus(step);
                self.ins().local_tee(local);
                self.bound(to);
                self.ptr_lt_s();
            }
        }
    }

    // ---- arithmetic of pointer type

    pub fn ptr_const(&mut self, c: i64) {
        if self.options.memory64 {
            self.ins().i64_const(c);
        } else {
            self.ins().i32_const(c as i32);
        }
    }

    pub fn ptr_add(&mut self) {
        by_width!(self, i64_add, i32_add);
    }

    fn ptr_sub(&mut self) {
        by_width!(self, i64_sub, i32_sub);
    }

    pub fn ptr_lt_s(&mut self) {
        by_width!(self, i64_lt_s, i32_lt_s);
    }

    fn ptr_lt_u(&mut self) {
        by_width!(self, i64_lt_u, i32_lt_u);
    }

    /// Multiplies the value on the stack by a constant.
    pub fn ptr_times(&mut self, c: i64) {
        if c == 1 {
            return;
        }
        if c > 0 && (c as u64).is_power_of_two() {
            self.ptr_const(i64::from(c.trailing_zeros()));
            by_width!(self, i64_shl, i32_shl);
        } else {
            self.ptr_const(c);
            by_width!(self, i64_mul, i32_mul);
        }
    }
}

/// What ends a loop.
enum Test {
    /// The running pointer of this number reaches a local.
    Pointer { at: usize, end: Local },
    /// The variable reaches its bound.
    Counter { local: Local, to: Bound, step: i64 },
}

/// The upper bound of a loop: it stays what it was at the loop's entry.
#[derive(Clone, Copy)]
enum Bound {
    Const(i64),
    Local(Local),
}

fn sets(body: &[Stmt], r: Reg) -> bool {
    let mut found = false;
    set_in(body, &mut |s| found |= s == r);
    found
}
