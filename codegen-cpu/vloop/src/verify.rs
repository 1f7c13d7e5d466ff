//! The verifier. Its rules are the specification of a well-formed function:
//!
//! **Entities.** Every register, buffer, scratch array and parameter a statement mentions is declared. Names of
//! buffers, scratch arrays and parameters are not empty and differ. A scratch array has at least one element.
//!
//! **Definition before use.** On every path from the entry, a register is set before it is read. What a loop
//! body sets counts inside the rest of that body only (the loop may run zero times); what an `if` sets counts
//! after it if both branches set it.
//!
//! **Types.** `T` stands for one type throughout a line:
//!
//! | operation | operands | result |
//! |---|---|---|
//! | const | index; i32; f32; bool | that type, or its vector |
//! | const of four lanes | | i32x4 |
//! | copy | T | T |
//! | param | | index |
//! | neg, abs | T: i32, f32 and vectors | T |
//! | sqrt, round | T: f32, f32x4 | T |
//! | not | T: i32, bool and vectors | T |
//! | add, sub, mul, min, max | T, T: index, i32, f32 and vectors | T |
//! | div | T, T: i32, f32 and vectors | T |
//! | div_u, rem, rem_u, min_u, max_u | T, T: i32, i32x4 | T |
//! | and, or, xor | T, T: i32, bool and vectors | T |
//! | shl, shr, shr_u | T: i32, i32x4; i32 | T |
//! | div, rem by a constant > 0 | index | index |
//! | fma | T, T, T: f32, f32x4 | T |
//! | eq, ne, lt, le, gt, ge | T, T: index, i32, f32 and vectors | bool or mask4, as wide as T |
//! | lt_u, le_u, gt_u, ge_u | T, T: i32, i32x4 | bool or mask4 |
//! | select | bool, T, T | T |
//! | select | mask4, T, T: vectors | T |
//! | conversions | as [`Conv::types`], both widths unless index | the other type |
//! | splat | scalar but index | its vector |
//! | extract | vector, lane < 4 | its lane type |
//! | insert | vector T, lane < 4, its lane type | T |
//! | reduce (add mul min max min_u max_u and or xor) | vector that the operation takes | its lane type |
//! | exp, log, tanh, erf, sin, cos, in independent loops | f32 | f32 |
//! | load | address | element type, or its vector |
//! | load_splat | address | vector of the element type |
//!
//! **Addresses.** Every term is an index register.
//!
//! **Statements.** A store goes to a mutable buffer or to scratch, and its value is of the element type or its
//! vector. A loop's variable and bounds are index, its step is positive, and its body sets neither its variable
//! nor does an enclosing body set the variable of a loop around it. An independent loop is as [`crate::independent`]
//! wants it. A condition is a bool. A row call reads and
//! writes f32, and writes a mutable buffer or scratch; its count is index.

use crate::independent;
use crate::print::{addr_text, reg, stmt_line};
use crate::types::*;
use std::collections::HashSet;

/// Checks every rule of the module comment. The error names the statement, what was found and what is expected.
pub fn verify(func: &Func) -> Result<(), Error> {
    let mut v = Verifier { func, defined: vec![false; func.regs.len()], loop_vars: Vec::new(), in_independent: false };
    v.declarations().map_err(|message| Error { func: func.name.clone(), at: String::new(), message })?;
    v.block(&func.body)
}

type Check = Result<(), String>;

struct Verifier<'a> {
    func: &'a Func,
    /// Whether each register is set on every path to here.
    defined: Vec<bool>,
    /// Variables of the loops around the current statement.
    loop_vars: Vec<Reg>,
    /// Whether the current statement is in the body of an independent loop.
    in_independent: bool,
}

impl Verifier<'_> {
    fn declarations(&self) -> Check {
        let f = self.func;
        let bufs = f.bufs.iter().map(|b| &b.name);
        let scratch = f.scratch.iter().map(|s| &s.name);
        let mut seen = HashSet::new();
        for name in bufs.chain(scratch).chain(&f.params) {
            if name.is_empty() {
                return Err("a buffer, scratch array or parameter has an empty name; give it one".into());
            }
            if !seen.insert(name) {
                return Err(format!(
                    "the name `{name}` is declared twice; names of buffers, scratch arrays and parameters must differ"
                ));
            }
        }
        match f.scratch.iter().find(|s| s.len == 0) {
            Some(s) => Err(format!("scratch array `{}` has 0 elements, expected at least 1", s.name)),
            None => Ok(()),
        }
    }

    fn block(&mut self, body: &[Stmt]) -> Result<(), Error> {
        for s in body {
            self.stmt(s)?;
        }
        Ok(())
    }

    fn stmt(&mut self, s: &Stmt) -> Result<(), Error> {
        let func = self.func;
        self.head(s).map_err(|message| Error { func: func.name.clone(), at: stmt_line(func, s), message })?;
        match s {
            Stmt::Set(dst, _) => self.defined[dst.0 as usize] = true,
            Stmt::For { var, independent, body, .. } => {
                let before = self.defined.clone();
                self.in_independent = *independent; // no loop is inside such a one
                self.defined[var.0 as usize] = true;
                self.loop_vars.push(*var);
                self.block(body)?;
                self.loop_vars.pop();
                self.in_independent = false;
                self.defined = before;
            }
            Stmt::If { then, els, .. } => {
                let before = self.defined.clone();
                self.block(then)?;
                let after_then = std::mem::replace(&mut self.defined, before);
                self.block(els)?;
                for (d, t) in self.defined.iter_mut().zip(after_then) {
                    *d &= t;
                }
            }
            Stmt::Store { .. } | Stmt::CallRow { .. } | Stmt::Comment(_) => {}
        }
        Ok(())
    }

    /// The rules of one statement, without the statements inside it.
    fn head(&self, s: &Stmt) -> Check {
        match s {
            Stmt::Set(dst, op) => {
                let dst_ty = self.declared(*dst)?;
                self.not_loop_var(*dst)?;
                self.op(dst_ty, op)
            }
            Stmt::Store { addr, value } => {
                let elem = self.addr(addr)?;
                self.writable(addr)?;
                let ty = self.read(*value)?;
                if ty.lane() != elem.ty(1) {
                    return Err(format!("stores a value of type {ty} into {} elements", elem.name()));
                }
                Ok(())
            }
            Stmt::For { var, from, to, step, independent, body } => {
                self.same("the loop variable", self.declared(*var)?, Ty::Index)?;
                self.not_loop_var(*var)?;
                self.idx(*from)?;
                self.idx(*to)?;
                if *step <= 0 {
                    return Err(format!("the step is {step}, expected a positive one"));
                }
                match independent {
                    true => independent::check(self.func, *var, *step, body, |r| !self.is_defined(r)),
                    false => Ok(()),
                }
            }
            Stmt::If { cond, .. } => self.same("the condition", self.read(*cond)?, Ty::Bool),
            Stmt::CallRow { src, dst, n, .. } => {
                for addr in [src, dst] {
                    if self.addr(addr)? != Elem::F32 {
                        return Err(format!("a row function works on f32 and {} is i32", addr_text(self.func, addr)));
                    }
                }
                self.writable(dst)?;
                self.idx(*n)
            }
            Stmt::Comment(_) => Ok(()),
        }
    }

    fn op(&self, dst: Ty, op: &Op) -> Check {
        use Ty::*;
        let result = |ty: Ty| self.same("the destination", dst, ty);
        let one_of = |ty: Ty, kinds: &[Ty]| match kinds.contains(&ty.lane()) {
            true => Ok(()),
            false => Err(format!("the operation does not exist for {ty}")),
        };
        match op {
            Op::Const(c) => match (c, dst) {
                (Const::Index(_), Index)
                | (Const::I32(_), I32 | I32x4)
                | (Const::F32(_), F32 | F32x4)
                | (Const::Bool(_), Bool | Mask4)
                | (Const::I32x4(_), I32x4) => Ok(()),
                _ => Err(format!("the constant {c:?} cannot set a register of type {dst}")),
            },
            Op::Copy(a) => result(self.read(*a)?),
            Op::Param(p) => match self.func.params.get(p.0 as usize) {
                Some(_) => result(Index),
                None => Err(format!("parameter {} is not declared; there are {}", p.0, self.func.params.len())),
            },
            Op::Unary(op, a) => {
                let ty = self.read(*a)?;
                match op {
                    UnOp::Neg | UnOp::Abs => one_of(ty, &[I32, F32])?,
                    UnOp::Sqrt | UnOp::Round => one_of(ty, &[F32])?,
                    UnOp::Not => one_of(ty, &[I32, Bool])?,
                }
                result(ty)
            }
            Op::Binary(op, a, b) => {
                let ty = self.read(*a)?;
                one_of(ty, binary_kinds(*op))?;
                let second = if op.is_shift() { I32 } else { ty };
                self.same("the second operand", self.read(*b)?, second)?;
                result(ty)
            }
            Op::DivConst(a, c) | Op::RemConst(a, c) => {
                self.same("the dividend", self.read(*a)?, Index)?;
                if *c <= 0 {
                    return Err(format!("the divisor is {c}, expected a positive constant"));
                }
                result(Index)
            }
            Op::Fma(a, b, c) => {
                let ty = self.read(*a)?;
                one_of(ty, &[F32])?;
                self.same("the second operand", self.read(*b)?, ty)?;
                self.same("the third operand", self.read(*c)?, ty)?;
                result(ty)
            }
            Op::Cmp(op, a, b) => {
                let ty = self.read(*a)?;
                match op {
                    CmpOp::LtU | CmpOp::LeU | CmpOp::GtU | CmpOp::GeU => one_of(ty, &[I32])?,
                    _ => one_of(ty, &[Index, I32, F32])?,
                }
                self.same("the second operand", self.read(*b)?, ty)?;
                result(ty.mask())
            }
            Op::Select(c, a, b) => {
                let ty = self.read(*a)?;
                match self.read(*c)? {
                    Bool => {}
                    Mask4 if ty.is_vector() => {}
                    other => return Err(format!("a condition of type {other} cannot select values of type {ty}")),
                }
                self.same("the third operand", self.read(*b)?, ty)?;
                result(ty)
            }
            Op::Convert(conv, a) => {
                let (from, to) = conv.types();
                let ty = self.read(*a)?;
                let wide = ty.is_vector() && from != Index && to != Index;
                let lanes = if wide { 4 } else { 1 };
                self.same("the operand", ty, from.with_lanes(lanes))?;
                result(to.with_lanes(lanes))
            }
            Op::Splat(a) => {
                let ty = self.read(*a)?;
                if ty == Index || ty.is_vector() {
                    return Err(format!("a value of type {ty} has no vector of four"));
                }
                result(ty.with_lanes(4))
            }
            Op::Extract(v, lane) => result(self.vector(*v, *lane)?.lane()),
            Op::Insert(v, lane, x) => {
                let ty = self.vector(*v, *lane)?;
                self.same("the inserted value", self.read(*x)?, ty.lane())?;
                result(ty)
            }
            Op::Reduce(op, v) => {
                let ty = self.vector(*v, 0)?;
                use BinOp::*;
                if !matches!(op, Add | Mul | Min | Max | MinU | MaxU | And | Or | Xor) {
                    return Err(format!("{} cannot combine lanes", op.name()));
                }
                one_of(ty, binary_kinds(*op))?;
                result(ty.lane())
            }
            Op::Load(a) => {
                let elem = self.addr(a)?;
                result(elem.ty(dst.lanes()))
            }
            Op::LoadSplat(a) => {
                let elem = self.addr(a)?;
                result(elem.ty(4))
            }
            Op::Row(function, a) => {
                if !self.in_independent {
                    return Err(format!("{} is one operation in independent loops only", function.name()));
                }
                self.same("the operand", self.read(*a)?, F32)?;
                result(F32)
            }
        }
    }

    fn addr(&self, a: &Addr) -> Result<Elem, String> {
        let declared = match a.base {
            Base::Buf(b) => (b.0 as usize) < self.func.bufs.len(),
            Base::Scratch(s) => (s.0 as usize) < self.func.scratch.len(),
        };
        if !declared {
            return Err(format!("{:?} is not declared", a.base));
        }
        for &(r, _) in &a.terms {
            self.same("an address term", self.read(r)?, Ty::Index)?;
        }
        Ok(self.func.elem(a.base))
    }

    fn writable(&self, a: &Addr) -> Check {
        match a.base {
            Base::Buf(b) if !self.func.bufs[b.0 as usize].mutable => {
                Err(format!("buffer `{}` is written but declared read-only", self.func.bufs[b.0 as usize].name))
            }
            _ => Ok(()),
        }
    }

    fn idx(&self, i: Idx) -> Check {
        match i {
            Idx::Reg(r) => self.same("the bound or count", self.read(r)?, Ty::Index),
            Idx::Const(_) => Ok(()),
        }
    }

    fn vector(&self, v: Reg, lane: u8) -> Result<Ty, String> {
        let ty = self.read(v)?;
        if !ty.is_vector() {
            return Err(format!("{} is of type {ty}, expected a vector", reg(self.func, v)));
        }
        if lane >= 4 {
            return Err(format!("lane {lane} does not exist, expected 0 to 3"));
        }
        Ok(ty)
    }

    fn declared(&self, r: Reg) -> Result<Ty, String> {
        match self.func.regs.get(r.0 as usize) {
            Some(d) => Ok(d.ty),
            None => Err(format!("register {} is not declared; there are {}", r.0, self.func.regs.len())),
        }
    }

    fn is_defined(&self, r: Reg) -> bool {
        self.defined.get(r.0 as usize).copied().unwrap_or(false)
    }

    fn read(&self, r: Reg) -> Result<Ty, String> {
        let ty = self.declared(r)?;
        match self.defined[r.0 as usize] {
            true => Ok(ty),
            false => Err(format!("{} is read before it is set on every path", reg(self.func, r))),
        }
    }

    fn not_loop_var(&self, r: Reg) -> Check {
        match self.loop_vars.contains(&r) {
            true => Err(format!("{} is the variable of an enclosing loop and cannot be set", reg(self.func, r))),
            false => Ok(()),
        }
    }

    fn same(&self, what: &str, found: Ty, expected: Ty) -> Check {
        match found == expected {
            true => Ok(()),
            false => Err(format!("{what} is {found}, expected {expected}")),
        }
    }
}

/// The lane types that an operation takes.
pub fn binary_kinds(op: BinOp) -> &'static [Ty] {
    use BinOp::*;
    match op {
        Add | Sub | Mul | Min | Max => &[Ty::Index, Ty::I32, Ty::F32],
        Div => &[Ty::I32, Ty::F32],
        DivU | Rem | RemU | MinU | MaxU | Shl | Shr | ShrU => &[Ty::I32],
        And | Or | Xor => &[Ty::I32, Ty::Bool],
    }
}
