//! Independent loops, sixteen trips at once: functions of AVX-512F instructions.
//!
//! Cranelift has vectors of 128 bits on x86-64. A loop that the vector loop IR marks as independent
//! ([`tinygpt_vloop::independent`]) becomes a function of its own here, which the code that Cranelift makes calls:
//!
//! ```text
//! extern "sysv64" fn(slots: *const u64, bytes: u64, mask: u64)
//! ```
//! - `slots` holds the pointers of [`Wide::pointers`], with the loop variable at its first value, then the 32 bits of
//!   [`Wide::scalars`], truth values as all ones or zeros
//! - `bytes` is 64 times the number of whole vectors of sixteen trips
//! - `mask` has a bit for each trip that is left over, fewer than sixteen
//!
//! There are three steps. [`record`] turns the body into [`Node`]s, vector operations on values that are set once; functions such as
//! exp are expanded there, by [`tinygpt_vloop::math`]. [`pair`] makes a body for two vectors at once where that gains. [`emit`] gives
//! values registers and writes the instructions: for pairs of whole vectors, for whole vectors, and under the mask.
//!
//! Invariants
//! - Every operation of the body is done as its scalar would be, lane by lane, so results have the bits of the same loop run
//!   trip by trip (bits of NaNs excepted), with multiply-add fused; functions have those of the AVX-512 row templates.
//! - No loop is refused: values without a register live in the function's stack frame, pointers without one in the slots.
//! - Loads and stores stay in the body's order. Under the mask, no element is touched that the loop does not reach.
//! - The code holds no addresses: it can stand anywhere, and its text depends on the loop alone.

#[cfg(test)]
mod disassembly;
mod emit;
mod evex;
mod pair;
mod record;

use tinygpt_vloop::{Base, Func, Reg, Stmt};

/// What a loop becomes.
#[derive(Clone, Debug)]
pub struct Wide {
    /// What the first slots hold.
    pub pointers: Vec<Pointer>,
    /// What the slots after them hold: f32, i32 or bool registers that are set before the loop.
    pub scalars: Vec<Reg>,
    pub code: Vec<u8>,
    pub text: String,
}

/// Base plus terms, `register * stride` in elements, plus bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pointer {
    /// All scratch arrays count from the first one.
    pub base: Base,
    pub terms: Vec<(Reg, i64)>,
    pub bytes: i64,
}

/// A value: an index into [`Recorded::values`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Val(usize);

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// A node of the body.
    Node,
    /// A constant, by its number.
    Pool(usize),
    /// A scalar, by its number.
    Scalar(usize),
}

/// A memory operand: a pointer by its number, and bytes to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    pointer: usize,
    bytes: i32,
    /// Whether it moves with the trips; otherwise all lanes read one element.
    moving: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// `inst dst, a, b`, with a constant if there is one.
    Binary(evex::Inst, Option<u8>),
    /// `inst dst, a`, with a constant if there is one.
    Unary(evex::Inst, Option<u8>),
    /// Shift by a constant: the extension of the opcode, its name, and the amount.
    Shift(u8, &'static str, u8),
    /// a * b + c.
    Fma,
    /// `dst = inst(x, y) ? a : b` of the operands x, y, a, b.
    SelectIf(evex::Inst, u8),
    /// `dst = m ? a : b` of the operands m, a, b.
    Select,
    /// All ones where `inst(x, y)`, else zeros.
    Test(evex::Inst, u8),
    Load(Place),
    Store(Place),
}

#[derive(Clone, Debug)]
struct Node {
    kind: Kind,
    operands: Vec<Val>,
    /// None for a store.
    result: Option<Val>,
}

/// A body as vector operations.
#[derive(Clone, Default)]
struct Recorded {
    nodes: Vec<Node>,
    /// Where each value comes from.
    values: Vec<Source>,
    pool: Vec<u32>,
    pointers: Vec<Pointer>,
    scalars: Vec<Reg>,
}

/// The function for an independent loop over `var`, which the verifier has passed. `scratch_offsets` are those of [`Func::scratch_layout`].
pub fn compile(func: &Func, var: Reg, body: &[Stmt], scratch_offsets: &[usize]) -> Wide {
    let recorded = record::record(func, var, body, scratch_offsets);
    let (code, text) = emit::emit(&recorded);
    Wide { pointers: recorded.pointers, scalars: recorded.scalars, code, text }
}

/// The independent loops of a function, in order: variable and body.
pub fn loops(func: &Func) -> Vec<(Reg, &[Stmt])> {
    fn collect<'a>(body: &'a [Stmt], found: &mut Vec<(Reg, &'a [Stmt])>) {
        for s in body {
            match s {
                Stmt::For { var, independent: true, body, .. } => found.push((*var, body)),
                Stmt::For { body, .. } => collect(body, found),
                Stmt::If { then, els, .. } => {
                    collect(then, found);
                    collect(els, found);
                }
                Stmt::Set(..) | Stmt::Store { .. } | Stmt::CallRow { .. } | Stmt::Comment(_) => {}
            }
        }
    }
    let mut found = Vec::new();
    collect(&func.body, &mut found);
    found
}
