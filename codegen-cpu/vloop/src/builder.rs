//! Builds a [`Func`] statement by statement.
//!
//! ```
//! use tinygpt_vloop::{Builder, Elem};
//! let mut b = Builder::new("saxpy"); // y += 2 x, over n elements, n a multiple of 4
//! let x = b.input("x", Elem::F32);
//! let y = b.output("y", Elem::F32);
//! let n = b.param("n");
//! let two = b.f32x4(2.0);
//! b.for_("i", 0, n, 4, |b, i| {
//!     let xv = b.load4(x.at().plus(i, 1));
//!     let yv = b.load4(y.at().plus(i, 1));
//!     let r = b.fma(two, xv, yv);
//!     b.store(y.at().plus(i, 1), r);
//! });
//! let func = b.finish().unwrap();
//! ```
//!
//! Operations give a fresh register whose type follows from the operands. The builder does not check types;
//! [`Builder::finish`] runs the verifier. Registers that change (accumulators) are made by [`Builder::var`]
//! and changed by [`Builder::assign`] or [`Builder::set`].

use crate::independent;
use crate::types::*;
use crate::verify::verify;

/// Builds one function.
pub struct Builder {
    func: Func,
    /// Statement lists under construction: the function body, then one for each open loop or branch.
    open: Vec<Vec<Stmt>>,
    /// Whether [`Builder::for_independent`] may make loops.
    independent_loops: bool,
    /// Whether the innermost open loop is an independent one.
    in_independent: bool,
}

impl Builder {
    pub fn new(name: impl Into<String>) -> Builder {
        let func = Func {
            name: name.into(),
            comments: Vec::new(),
            bufs: Vec::new(),
            params: Vec::new(),
            scratch: Vec::new(),
            regs: Vec::new(),
            body: Vec::new(),
        };
        Builder { func, open: vec![Vec::new()], independent_loops: false, in_independent: false }
    }

    /// The finished function, verified.
    pub fn finish(mut self) -> Result<Func, Error> {
        self.func.body = self.open.pop().expect("the function body is open until finish");
        verify(&self.func)?;
        Ok(self.func)
    }

    // ---- declarations

    /// Adds a provenance line, printed above the function.
    pub fn provenance(&mut self, line: impl Into<String>) {
        self.func.comments.push(line.into());
    }

    /// Declares a buffer that is only read.
    pub fn input(&mut self, name: impl Into<String>, elem: Elem) -> BufId {
        self.buf(name, elem, false)
    }

    /// Declares a buffer that may be read and written.
    pub fn output(&mut self, name: impl Into<String>, elem: Elem) -> BufId {
        self.buf(name, elem, true)
    }

    pub fn buf(&mut self, name: impl Into<String>, elem: Elem, mutable: bool) -> BufId {
        self.func.bufs.push(BufDecl { name: name.into(), elem, mutable });
        BufId(self.func.bufs.len() as u32 - 1)
    }

    /// Declares a scratch array of `len` elements, 64-byte aligned.
    pub fn scratch(&mut self, name: impl Into<String>, elem: Elem, len: usize) -> ScratchId {
        self.func.scratch.push(ScratchDecl { name: name.into(), elem, len });
        ScratchId(self.func.scratch.len() as u32 - 1)
    }

    /// Declares an index parameter and reads it here (call it before any loop).
    pub fn param(&mut self, name: impl Into<String>) -> Reg {
        let name = name.into();
        self.func.params.push(name.clone());
        let dst = self.named(&name, Ty::Index);
        self.set(dst, Op::Param(ParamId(self.func.params.len() as u32 - 1)));
        dst
    }

    /// A register that nothing has set yet.
    pub fn reg(&mut self, ty: Ty) -> Reg {
        self.func.regs.push(RegDecl { ty, name: None });
        Reg(self.func.regs.len() as u32 - 1)
    }

    fn named(&mut self, name: &str, ty: Ty) -> Reg {
        self.func.regs.push(RegDecl { ty, name: Some(name.to_string()) });
        Reg(self.func.regs.len() as u32 - 1)
    }

    /// Names a register in the text form.
    pub fn name(&mut self, r: Reg, name: impl Into<String>) -> Reg {
        self.func.regs[r.0 as usize].name = Some(name.into());
        r
    }

    pub fn ty(&self, r: Reg) -> Ty {
        self.func.ty(r)
    }

    /// Element type of a buffer or scratch array.
    pub fn elem(&self, base: Base) -> Elem {
        self.func.elem(base)
    }

    // ---- statements

    pub fn push(&mut self, s: Stmt) {
        self.open.last_mut().expect("a statement list is open until finish").push(s);
    }

    /// Sets an existing register.
    pub fn set(&mut self, dst: Reg, op: Op) {
        self.push(Stmt::Set(dst, op));
    }

    /// A fresh register of type `ty` with the value of `op`.
    pub fn op(&mut self, ty: Ty, op: Op) -> Reg {
        let dst = self.reg(ty);
        self.set(dst, op);
        dst
    }

    /// A register of its own, named, that starts as a copy of `init` and may be assigned.
    pub fn var(&mut self, name: &str, init: Reg) -> Reg {
        let dst = self.named(name, self.ty(init));
        self.assign(dst, init);
        dst
    }

    /// `dst = src`.
    pub fn assign(&mut self, dst: Reg, src: Reg) {
        self.set(dst, Op::Copy(src));
    }

    /// `acc = a * b + acc`.
    pub fn fma_into(&mut self, acc: Reg, a: Reg, b: Reg) {
        self.set(acc, Op::Fma(a, b, acc));
    }

    /// `acc = op(acc, x)`.
    pub fn combine_into(&mut self, acc: Reg, op: BinOp, x: Reg) {
        self.set(acc, Op::Binary(op, acc, x));
    }

    /// Stores one element or a vector of four, as the value's type says.
    pub fn store(&mut self, addr: Addr, value: Reg) {
        self.push(Stmt::Store { addr, value });
    }

    /// A loop; the closure gets the loop variable.
    pub fn for_(
        &mut self,
        var: &str,
        from: impl Into<Idx>,
        to: impl Into<Idx>,
        step: i64,
        body: impl FnOnce(&mut Builder, Reg),
    ) {
        let var = self.named(var, Ty::Index);
        let body = self.block(|b| body(b, var));
        self.push(Stmt::For { var, from: from.into(), to: to.into(), step, independent: false, body });
    }

    /// Says that [`Builder::for_independent`] may make loops: the emitter runs many of their trips at once.
    pub fn allow_independent_loops(&mut self) {
        self.independent_loops = true;
    }

    /// A loop of step 1 whose trips are independent, which the caller knows, if such loops are allowed and the body
    /// is as [`crate::independent`] wants it. Otherwise nothing is added, and the answer is false.
    pub fn for_independent(
        &mut self,
        var: &str,
        from: impl Into<Idx>,
        to: impl Into<Idx>,
        body: impl FnOnce(&mut Builder, Reg),
    ) -> bool {
        if !self.independent_loops {
            return false;
        }
        let before = self.func.regs.len();
        let var = self.named(var, Ty::Index);
        self.in_independent = true;
        let body = self.block(|b| body(b, var));
        self.in_independent = false;
        let is_own = |r: Reg| r.0 as usize >= before;
        if independent::check(&self.func, var, 1, &body, is_own).is_err() {
            return false;
        }
        self.push(Stmt::For { var, from: from.into(), to: to.into(), step: 1, independent: true, body });
        true
    }

    /// Whether the statements added now belong to an independent loop.
    pub fn in_independent_loop(&self) -> bool {
        self.in_independent
    }

    pub fn if_(&mut self, cond: Reg, then: impl FnOnce(&mut Builder)) {
        let then = self.block(then);
        self.push(Stmt::If { cond, then, els: Vec::new() });
    }

    pub fn if_else(&mut self, cond: Reg, then: impl FnOnce(&mut Builder), els: impl FnOnce(&mut Builder)) {
        let then = self.block(then);
        let els = self.block(els);
        self.push(Stmt::If { cond, then, els });
    }

    pub fn call_row(&mut self, function: RowFn, src: Addr, dst: Addr, n: impl Into<Idx>) {
        self.push(Stmt::CallRow { function, src, dst, n: n.into() });
    }

    pub fn comment(&mut self, text: impl Into<String>) {
        self.push(Stmt::Comment(text.into()));
    }

    fn block(&mut self, f: impl FnOnce(&mut Builder)) -> Vec<Stmt> {
        self.open.push(Vec::new());
        f(self);
        self.open.pop().expect("the block opened above")
    }

    // ---- constants

    pub fn index(&mut self, x: i64) -> Reg {
        self.op(Ty::Index, Op::Const(Const::Index(x)))
    }
    pub fn f32(&mut self, x: f32) -> Reg {
        self.op(Ty::F32, Op::Const(Const::f32(x)))
    }
    /// `x` in all lanes.
    pub fn f32x4(&mut self, x: f32) -> Reg {
        self.op(Ty::F32x4, Op::Const(Const::f32(x)))
    }
    pub fn i32(&mut self, x: i32) -> Reg {
        self.op(Ty::I32, Op::Const(Const::I32(x)))
    }
    /// `x` in all lanes.
    pub fn i32x4(&mut self, x: i32) -> Reg {
        self.op(Ty::I32x4, Op::Const(Const::I32(x)))
    }
    /// Four different lanes.
    pub fn i32_lanes(&mut self, x: [i32; 4]) -> Reg {
        self.op(Ty::I32x4, Op::Const(Const::I32x4(x)))
    }
    pub fn bool(&mut self, x: bool) -> Reg {
        self.op(Ty::Bool, Op::Const(Const::Bool(x)))
    }
    /// `x` in all lanes.
    pub fn mask4(&mut self, x: bool) -> Reg {
        self.op(Ty::Mask4, Op::Const(Const::Bool(x)))
    }

    // ---- arithmetic: the result has the type of the first operand

    pub fn unary(&mut self, op: UnOp, a: Reg) -> Reg {
        self.op(self.ty(a), Op::Unary(op, a))
    }
    pub fn binary(&mut self, op: BinOp, a: Reg, b: Reg) -> Reg {
        self.op(self.ty(a), Op::Binary(op, a, b))
    }
    pub fn neg(&mut self, a: Reg) -> Reg {
        self.unary(UnOp::Neg, a)
    }
    pub fn abs(&mut self, a: Reg) -> Reg {
        self.unary(UnOp::Abs, a)
    }
    pub fn sqrt(&mut self, a: Reg) -> Reg {
        self.unary(UnOp::Sqrt, a)
    }
    /// To the nearest integral value, ties to even.
    pub fn round(&mut self, a: Reg) -> Reg {
        self.unary(UnOp::Round, a)
    }
    pub fn not(&mut self, a: Reg) -> Reg {
        self.unary(UnOp::Not, a)
    }
    pub fn add(&mut self, a: Reg, b: Reg) -> Reg {
        self.binary(BinOp::Add, a, b)
    }
    pub fn sub(&mut self, a: Reg, b: Reg) -> Reg {
        self.binary(BinOp::Sub, a, b)
    }
    pub fn mul(&mut self, a: Reg, b: Reg) -> Reg {
        self.binary(BinOp::Mul, a, b)
    }
    pub fn div(&mut self, a: Reg, b: Reg) -> Reg {
        self.binary(BinOp::Div, a, b)
    }
    /// `b < a ? b : a`: a NaN gives the first operand.
    pub fn min(&mut self, a: Reg, b: Reg) -> Reg {
        self.binary(BinOp::Min, a, b)
    }
    /// `a < b ? b : a`: a NaN gives the first operand.
    pub fn max(&mut self, a: Reg, b: Reg) -> Reg {
        self.binary(BinOp::Max, a, b)
    }
    pub fn and(&mut self, a: Reg, b: Reg) -> Reg {
        self.binary(BinOp::And, a, b)
    }
    pub fn or(&mut self, a: Reg, b: Reg) -> Reg {
        self.binary(BinOp::Or, a, b)
    }
    pub fn xor(&mut self, a: Reg, b: Reg) -> Reg {
        self.binary(BinOp::Xor, a, b)
    }
    /// Shift (`Shl`, `Shr`, `ShrU`) by a constant.
    pub fn shift(&mut self, op: BinOp, a: Reg, by: i32) -> Reg {
        let by = self.i32(by);
        self.binary(op, a, by)
    }
    /// `a * b + c`, fused where the target can.
    pub fn fma(&mut self, a: Reg, b: Reg, c: Reg) -> Reg {
        self.op(self.ty(a), Op::Fma(a, b, c))
    }
    pub fn cmp(&mut self, op: CmpOp, a: Reg, b: Reg) -> Reg {
        self.op(self.ty(a).mask(), Op::Cmp(op, a, b))
    }
    /// `a` where `cond`, else `b`.
    pub fn select(&mut self, cond: Reg, a: Reg, b: Reg) -> Reg {
        self.op(self.ty(a), Op::Select(cond, a, b))
    }
    /// A conversion at the width of its operand.
    pub fn convert(&mut self, conv: Conv, a: Reg) -> Reg {
        let ty = conv.types().1.with_lanes(self.ty(a).lanes());
        self.op(ty, Op::Convert(conv, a))
    }

    // ---- index arithmetic with constants

    /// `i + c`; no code if `c` is 0.
    pub fn add_const(&mut self, i: Reg, c: i64) -> Reg {
        if c == 0 {
            return i;
        }
        let c = self.index(c);
        self.add(i, c)
    }
    /// `i * c`; no code if `c` is 1.
    pub fn mul_const(&mut self, i: Reg, c: i64) -> Reg {
        if c == 1 {
            return i;
        }
        let c = self.index(c);
        self.mul(i, c)
    }
    /// `i / c` for `i >= 0`, `c > 0`; no code if `c` is 1.
    pub fn div_const(&mut self, i: Reg, c: i64) -> Reg {
        if c == 1 { i } else { self.op(Ty::Index, Op::DivConst(i, c)) }
    }
    /// `i % c` for `i >= 0`, `c > 0`.
    pub fn rem_const(&mut self, i: Reg, c: i64) -> Reg {
        self.op(Ty::Index, Op::RemConst(i, c))
    }

    // ---- vectors

    pub fn splat(&mut self, a: Reg) -> Reg {
        self.op(self.ty(a).with_lanes(4), Op::Splat(a))
    }
    pub fn extract(&mut self, v: Reg, lane: usize) -> Reg {
        self.op(self.ty(v).lane(), Op::Extract(v, lane as u8))
    }
    pub fn insert(&mut self, v: Reg, lane: usize, x: Reg) -> Reg {
        self.op(self.ty(v), Op::Insert(v, lane as u8, x))
    }
    /// `op(op(v0, v2), op(v1, v3))`.
    pub fn reduce(&mut self, op: BinOp, v: Reg) -> Reg {
        self.op(self.ty(v).lane(), Op::Reduce(op, v))
    }

    // ---- memory

    /// One element.
    pub fn load(&mut self, addr: Addr) -> Reg {
        self.op(self.elem(addr.base).ty(1), Op::Load(addr))
    }
    /// Four consecutive elements.
    pub fn load4(&mut self, addr: Addr) -> Reg {
        self.op(self.elem(addr.base).ty(4), Op::Load(addr))
    }
    /// `lanes` (1 or 4) consecutive elements.
    pub fn load_lanes(&mut self, addr: Addr, lanes: usize) -> Reg {
        self.op(self.elem(addr.base).ty(lanes), Op::Load(addr))
    }
    /// One element in all four lanes.
    pub fn load_splat(&mut self, addr: Addr) -> Reg {
        self.op(self.elem(addr.base).ty(4), Op::LoadSplat(addr))
    }
    /// Four elements `stride` apart, one load each.
    pub fn load4_strided(&mut self, addr: Addr, stride: i64) -> Reg {
        match stride {
            0 => self.load_splat(addr),
            1 => self.load4(addr),
            _ => {
                let first = self.load(addr.clone());
                let mut v = self.splat(first);
                for lane in 1..4 {
                    let x = self.load(addr.clone().offset(lane * stride));
                    v = self.insert(v, lane as usize, x);
                }
                v
            }
        }
    }
    /// Stores four lanes `stride` apart, one store each unless `stride` is 1.
    pub fn store4_strided(&mut self, addr: Addr, stride: i64, value: Reg) {
        if stride == 1 {
            return self.store(addr, value);
        }
        for lane in 0..4 {
            let x = self.extract(value, lane as usize);
            self.store(addr.clone().offset(lane * stride), x);
        }
    }
}
