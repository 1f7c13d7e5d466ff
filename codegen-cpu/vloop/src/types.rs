//! The types of the vector loop IR: functions, registers, operations, statements, addresses.
//!
//! A [`Func`] is a list of structured statements over mutable typed registers: locals in WebAssembly,
//! frontend variables in Cranelift. There are no jumps, no pointers and no calls except [`Stmt::CallRow`].
//! What is well formed is specified in [`crate::verify`]; what it means is [`crate::interp`].
//!
//! - **Registers** are 32-bit scalars, 4-lane vectors of them, truth values, and pointer-width *index*
//!   values (i64 natively, i32 on wasm32). A register may be set any number of times.
//! - **Memory** is the function's buffers (handed in by the caller; two buffer arguments may be the same
//!   memory) and its scratch arrays (per-thread memory handed in by the caller, contents unspecified on
//!   entry). Addresses count elements, never bytes.
//! - **Width is a type, not an operation**: `Add` on `F32` registers is a scalar addition and on `F32x4`
//!   registers a lane-wise one.
//!
//! # Meaning of the operations
//!
//! Floats are IEEE 754 binary32, rounded to nearest even; which NaN an operation gives is unspecified.
//! - `Min(a, b)` is `b < a ? b : a` and `Max(a, b)` is `a < b ? b : a`: **if either operand is NaN, or both
//!   are zeros, the result is the first operand `a`**. (WebAssembly `f32x4.pmin/pmax(a, b)`, x86
//!   `minps/maxps` with operands exchanged: one instruction each.) So `Max(x, acc)` propagates a NaN in `x`
//!   and `Max(acc, x)` ignores it.
//! - `Fma(a, b, c)` is `a * b + c`, rounded once where the target has a fused instruction and twice where
//!   it has not; never a library call.
//! - `Round` is to the nearest integral value, ties to even.
//! - Comparisons are ordered (false if an operand is NaN) except `Ne`, which is true then.
//! - `F32ToI32`, `F32ToU32` truncate towards zero and saturate; NaN gives 0.
//!
//! Integers wrap. An `I32` register serves signed and unsigned values: the operations with suffix `U` are
//! the unsigned ones.
//! - Division follows WGSL: `a / 0 = a`, `a % 0 = 0`, `MIN / -1 = MIN`, `MIN % -1 = 0`; otherwise it
//!   truncates towards zero. Never a trap.
//! - Shifts take one scalar `I32` amount at both widths, modulo 32.
//! - Index division and remainder are by a positive constant and want a dividend >= 0.
//!
//! `Reduce(op, v)` combines four lanes in a fixed order: `op(op(v0, v2), op(v1, v3))`.

use std::fmt;

/// A register of a function: an index into [`Func::regs`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reg(pub u32);
/// A buffer of a function: an index into [`Func::bufs`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BufId(pub u32);
/// A scratch array of a function: an index into [`Func::scratch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ScratchId(pub u32);
/// An index parameter of a function: an index into [`Func::params`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ParamId(pub u32);

/// Type of a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ty {
    /// Signed integer of pointer width.
    Index,
    /// 32-bit integer, signed or unsigned as the operation says.
    I32,
    /// IEEE binary32.
    F32,
    /// Truth value.
    Bool,
    /// Four 32-bit integers.
    I32x4,
    /// Four binary32.
    F32x4,
    /// Four truth values, the result of a vector comparison.
    Mask4,
}

impl Ty {
    pub const ALL: [Ty; 7] = [Ty::Index, Ty::I32, Ty::F32, Ty::Bool, Ty::I32x4, Ty::F32x4, Ty::Mask4];

    /// The name in the text form.
    pub fn name(self) -> &'static str {
        match self {
            Ty::Index => "index",
            Ty::I32 => "i32",
            Ty::F32 => "f32",
            Ty::Bool => "bool",
            Ty::I32x4 => "i32x4",
            Ty::F32x4 => "f32x4",
            Ty::Mask4 => "mask4",
        }
    }

    /// 1 or 4.
    pub fn lanes(self) -> usize {
        if self.is_vector() { 4 } else { 1 }
    }

    pub fn is_vector(self) -> bool {
        matches!(self, Ty::I32x4 | Ty::F32x4 | Ty::Mask4)
    }

    /// The type of one lane (itself for a scalar).
    pub fn lane(self) -> Ty {
        match self {
            Ty::I32x4 => Ty::I32,
            Ty::F32x4 => Ty::F32,
            Ty::Mask4 => Ty::Bool,
            scalar => scalar,
        }
    }

    /// The type with `lanes` lanes of the same kind. Index has no vector form and stays itself.
    pub fn with_lanes(self, lanes: usize) -> Ty {
        match (self.lane(), lanes) {
            (Ty::I32, 4) => Ty::I32x4,
            (Ty::F32, 4) => Ty::F32x4,
            (Ty::Bool, 4) => Ty::Mask4,
            (scalar, _) => scalar,
        }
    }

    /// The type of a comparison of two values of this type.
    pub fn mask(self) -> Ty {
        Ty::Bool.with_lanes(self.lanes())
    }
}

impl fmt::Display for Ty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Type of an element in memory; four bytes each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Elem {
    F32,
    /// Signed or unsigned integers, and truth values stored as 0 or 1.
    I32,
}

impl Elem {
    pub fn name(self) -> &'static str {
        match self {
            Elem::F32 => "f32",
            Elem::I32 => "i32",
        }
    }

    /// Bytes of one element.
    pub fn size(self) -> usize {
        4
    }

    /// The register type of `lanes` (1 or 4) consecutive elements.
    pub fn ty(self, lanes: usize) -> Ty {
        match self {
            Elem::F32 => Ty::F32.with_lanes(lanes),
            Elem::I32 => Ty::I32.with_lanes(lanes),
        }
    }
}

/// What an address counts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Base {
    Buf(BufId),
    Scratch(ScratchId),
}

/// A place in memory: `base[sum of reg * stride + offset]`, in elements.
///
/// Emitters add the terms in order of increasing loop depth, so the loop-invariant part of an address is one
/// value outside the loop. Many addresses that differ by constants only share that value: put the constants
/// in `offset`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Addr {
    pub base: Base,
    /// (index register, stride in elements); at most a few.
    pub terms: Vec<(Reg, i64)>,
    pub offset: i64,
}

impl Addr {
    /// Adds the term `reg * stride`.
    pub fn plus(mut self, reg: Reg, stride: i64) -> Addr {
        self.terms.push((reg, stride));
        self
    }

    /// Moves the address by `n` elements.
    pub fn offset(mut self, n: i64) -> Addr {
        self.offset += n;
        self
    }
}

impl BufId {
    /// The address of element 0.
    pub fn at(self) -> Addr {
        Addr { base: Base::Buf(self), terms: Vec::new(), offset: 0 }
    }
}

impl ScratchId {
    /// The address of element 0.
    pub fn at(self) -> Addr {
        Addr { base: Base::Scratch(self), terms: Vec::new(), offset: 0 }
    }
}

/// An index operand of a statement: a register or a constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Idx {
    Reg(Reg),
    Const(i64),
}

impl From<Reg> for Idx {
    fn from(r: Reg) -> Idx {
        Idx::Reg(r)
    }
}
impl From<i64> for Idx {
    fn from(c: i64) -> Idx {
        Idx::Const(c)
    }
}
impl From<usize> for Idx {
    fn from(c: usize) -> Idx {
        Idx::Const(c as i64)
    }
}
impl From<i32> for Idx {
    fn from(c: i32) -> Idx {
        Idx::Const(c as i64)
    }
}

/// A constant. A scalar constant may set a vector register of its kind: all lanes get it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Const {
    Index(i64),
    I32(i32),
    /// The bits of a binary32, so that constants compare and hash exactly.
    F32(u32),
    Bool(bool),
    /// Four lanes, for `I32x4` only (lane numbers).
    I32x4([i32; 4]),
}

impl Const {
    pub fn f32(x: f32) -> Const {
        Const::F32(x.to_bits())
    }
}

macro_rules! named_enum {
    ($(#[$doc:meta])* $enum:ident { $($(#[$vdoc:meta])* $variant:ident = $name:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $enum { $($(#[$vdoc])* $variant),* }

        impl $enum {
            pub const ALL: &[$enum] = &[$($enum::$variant),*];

            /// The name in the text form.
            pub fn name(self) -> &'static str {
                match self { $($enum::$variant => $name),* }
            }
        }
    };
}

named_enum! {
    /// Operations on one operand; the result has its type.
    UnOp {
        /// f32, i32.
        Neg = "neg",
        /// f32, i32 (`abs(MIN) = MIN`).
        Abs = "abs",
        /// f32.
        Sqrt = "sqrt",
        /// f32, to nearest integral value, ties to even.
        Round = "round",
        /// i32 (bitwise), bool and mask.
        Not = "not",
    }
}

named_enum! {
    /// Operations on two operands of one type, which is the result's; shifts differ in their second.
    BinOp {
        /// index, i32, f32.
        Add = "add",
        /// index, i32, f32.
        Sub = "sub",
        /// index, i32, f32.
        Mul = "mul",
        /// i32 (signed), f32.
        Div = "div",
        /// i32.
        DivU = "div_u",
        /// i32 (signed).
        Rem = "rem",
        /// i32.
        RemU = "rem_u",
        /// index, i32 (signed), f32 (see the module comment on NaN).
        Min = "min",
        /// index, i32 (signed), f32 (see the module comment on NaN).
        Max = "max",
        /// i32.
        MinU = "min_u",
        /// i32.
        MaxU = "max_u",
        /// i32, bool, mask.
        And = "and",
        /// i32, bool, mask.
        Or = "or",
        /// i32, bool, mask.
        Xor = "xor",
        /// i32 by a scalar i32.
        Shl = "shl",
        /// i32 by a scalar i32, copies of the sign shifted in.
        Shr = "shr",
        /// i32 by a scalar i32, zeros shifted in.
        ShrU = "shr_u",
    }
}

impl BinOp {
    pub fn is_shift(self) -> bool {
        matches!(self, BinOp::Shl | BinOp::Shr | BinOp::ShrU)
    }
}

named_enum! {
    /// Comparisons of two values of one type, to bool or mask: index, i32, f32.
    CmpOp {
        Eq = "eq", Ne = "ne", Lt = "lt", Le = "le", Gt = "gt", Ge = "ge",
        /// i32 only, as the following.
        LtU = "lt_u",
        LeU = "le_u", GtU = "gt_u", GeU = "ge_u",
    }
}

named_enum! {
    /// Conversions; all but those of Index exist at both widths.
    Conv {
        I32ToF32 = "f32_from_i32",
        U32ToF32 = "f32_from_u32",
        /// Truncates, saturates; NaN to 0.
        F32ToI32 = "i32_from_f32",
        /// Truncates, saturates; NaN to 0.
        F32ToU32 = "u32_from_f32",
        /// Same bits.
        F32BitsToI32 = "i32_bits",
        /// Same bits.
        I32BitsToF32 = "f32_bits",
        /// Sign-extends.
        I32ToIndex = "index_from_i32",
        /// Zero-extends.
        U32ToIndex = "index_from_u32",
        /// The low 32 bits.
        IndexToI32 = "i32_from_index",
    }
}

impl Conv {
    /// The scalar types it converts (from, to).
    pub fn types(self) -> (Ty, Ty) {
        match self {
            Conv::I32ToF32 | Conv::U32ToF32 | Conv::I32BitsToF32 => (Ty::I32, Ty::F32),
            Conv::F32ToI32 | Conv::F32ToU32 | Conv::F32BitsToI32 => (Ty::F32, Ty::I32),
            Conv::I32ToIndex | Conv::U32ToIndex => (Ty::I32, Ty::Index),
            Conv::IndexToI32 => (Ty::Index, Ty::I32),
        }
    }
}

named_enum! {
    /// Functions of one variable that a target may have a row template for.
    RowFn {
        Exp = "exp", Log = "log", Tanh = "tanh", Erf = "erf", Sin = "sin", Cos = "cos",
    }
}

/// A value computed from registers and memory. The type of the destination register decides the width.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    Const(Const),
    Copy(Reg),
    Param(ParamId),
    Unary(UnOp, Reg),
    Binary(BinOp, Reg, Reg),
    /// Index divided by a positive constant.
    DivConst(Reg, i64),
    /// Index modulo a positive constant.
    RemConst(Reg, i64),
    /// `a * b + c`, f32 at both widths.
    Fma(Reg, Reg, Reg),
    Cmp(CmpOp, Reg, Reg),
    /// `Select(c, a, b)`: a where c, else b. A bool selects a value of any type, a mask4 selects lanes.
    Select(Reg, Reg, Reg),
    Convert(Conv, Reg),
    /// A scalar in all lanes.
    Splat(Reg),
    /// The lane (0..4) of a vector.
    Extract(Reg, u8),
    /// The vector with that lane (0..4) replaced by a scalar.
    Insert(Reg, u8, Reg),
    /// The four lanes combined, `op(op(v0, v2), op(v1, v3))`; not for Sub, divisions, remainders, shifts.
    Reduce(BinOp, Reg),
    /// One element, or four consecutive ones (of any alignment) into a vector.
    Load(Addr),
    /// One element in all lanes of a vector.
    LoadSplat(Addr),
    /// A function of an f32 scalar, in the body of an independent loop only: see [`crate::independent`].
    Row(RowFn, Reg),
}

/// A statement.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Stmt {
    Set(Reg, Op),
    /// One element, or four consecutive ones from a vector.
    Store {
        addr: Addr,
        value: Reg,
    },
    /// `for var = from; var < to; var += step`, bounds evaluated once, zero trips if `from >= to`.
    For {
        var: Reg,
        from: Idx,
        to: Idx,
        step: i64,
        /// Whether any number of trips may run at once: see [`crate::independent`].
        independent: bool,
        body: Vec<Stmt>,
    },
    If {
        cond: Reg,
        then: Vec<Stmt>,
        els: Vec<Stmt>,
    },
    /// `dst[i] = function(src[i])` for `i` in `0..n`; `dst` may be `src` itself but may not overlap it partly.
    CallRow {
        function: RowFn,
        src: Addr,
        dst: Addr,
        n: Idx,
    },
    /// A remark for the reader of the text forms; no effect.
    Comment(String),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BufDecl {
    pub name: String,
    pub elem: Elem,
    /// Whether the function may store to it.
    pub mutable: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ScratchDecl {
    pub name: String,
    pub elem: Elem,
    /// Elements.
    pub len: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RegDecl {
    pub ty: Ty,
    /// Shown in the text form before the number.
    pub name: Option<String>,
}

/// One function: the code of one kernel.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Func {
    pub name: String,
    /// Provenance lines, printed as comments.
    pub comments: Vec<String>,
    pub bufs: Vec<BufDecl>,
    /// Names of the index parameters.
    pub params: Vec<String>,
    pub scratch: Vec<ScratchDecl>,
    pub regs: Vec<RegDecl>,
    pub body: Vec<Stmt>,
}

/// Alignment in bytes of each scratch array, and of the scratch memory that the caller hands in.
pub const SCRATCH_ALIGN: usize = 64;

impl Func {
    /// Type of a register. Panics if the register is not the function's (the verifier reports that).
    pub fn ty(&self, r: Reg) -> Ty {
        self.regs[r.0 as usize].ty
    }

    /// Element type behind an address.
    pub fn elem(&self, base: Base) -> Elem {
        match base {
            Base::Buf(b) => self.bufs[b.0 as usize].elem,
            Base::Scratch(s) => self.scratch[s.0 as usize].elem,
        }
    }

    /// Byte offset of each scratch array in the scratch memory of a thread, and the bytes needed in all.
    pub fn scratch_layout(&self) -> (Vec<usize>, usize) {
        let mut end = 0;
        let mut offsets = Vec::with_capacity(self.scratch.len());
        for s in &self.scratch {
            offsets.push(end);
            end = (end + s.len * s.elem.size()).next_multiple_of(SCRATCH_ALIGN);
        }
        (offsets, end)
    }

    /// The function without its names, comments and provenance: two functions with equal structure have the
    /// same code, so one compilation serves both.
    pub fn structure(&self) -> Func {
        Func {
            name: String::new(),
            comments: Vec::new(),
            bufs: self.bufs.iter().map(|b| BufDecl { name: String::new(), ..b.clone() }).collect(),
            params: vec![String::new(); self.params.len()],
            scratch: self.scratch.iter().map(|s| ScratchDecl { name: String::new(), ..s.clone() }).collect(),
            regs: self.regs.iter().map(|r| RegDecl { ty: r.ty, name: None }).collect(),
            body: without_comments(&self.body),
        }
    }
}

fn without_comments(body: &[Stmt]) -> Vec<Stmt> {
    body.iter()
        .filter_map(|s| match s {
            Stmt::Comment(_) => None,
            Stmt::For { var, from, to, step, independent, body } => Some(Stmt::For {
                var: *var,
                from: *from,
                to: *to,
                step: *step,
                independent: *independent,
                body: without_comments(body),
            }),
            Stmt::If { cond, then, els } => {
                Some(Stmt::If { cond: *cond, then: without_comments(then), els: without_comments(els) })
            }
            other => Some(other.clone()),
        })
        .collect()
}

/// What is wrong with a function or a run of it: which function, at which statement, and what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    pub func: String,
    /// The statement's text (first line), empty if it concerns the function as a whole.
    pub at: String,
    pub message: String,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vector loop function `{}`", self.func)?;
        if !self.at.is_empty() {
            write!(f, ", at `{}`", self.at)?;
        }
        write!(f, ": {}", self.message)
    }
}

impl std::error::Error for Error {}
