//! The body of a loop as vector operations.
//!
//! A comparison is kept until something asks for its value: a selection redoes it into a mask register, which is as cheap as
//! keeping it; what else reads a truth value gets a vector of all ones and zeros.

use super::evex::{self, Inst};
use super::{Kind, Node, Place, Pointer, Recorded, Source, Val};
use std::collections::HashMap;
use tinygpt_vloop::math::{self, Lanes};
use tinygpt_vloop::{Addr, Base, BinOp, CmpOp, Const, Conv, Func, Op, Reg, RowFn, Stmt, Ty, UnOp, independent};

const SIGN: i32 = i32::MIN;
/// vrndscaleps: to nearest, ties to even, no exceptions.
const NEAREST: u8 = 8;

pub(super) fn record(func: &Func, var: Reg, body: &[Stmt], scratch_offsets: &[usize]) -> Recorded {
    let mut r = Recorder {
        func,
        var,
        scratch_offsets,
        out: Recorded::default(),
        regs: HashMap::new(),
        shifts: HashMap::new(),
        pool: HashMap::new(),
    };
    for s in body {
        match s {
            Stmt::Set(dst, op) => {
                if let Op::Const(Const::I32(amount)) = op {
                    r.shifts.insert(*dst, (amount & 31) as u8);
                }
                let value = r.op(func.ty(*dst), op);
                r.regs.insert(*dst, value);
            }
            Stmt::Store { addr, value } => {
                let value = r.vector(*value);
                let place = r.place(addr);
                r.out.nodes.push(Node { kind: Kind::Store(place), operands: vec![value], result: None });
            }
            Stmt::Comment(_) => {}
            other => unreachable!("the verifier admits no {other:?} in an independent loop"),
        }
    }
    r.out
}

/// A comparison: instruction, predicate, operands.
#[derive(Clone, Copy)]
struct Comparison {
    inst: Inst,
    predicate: u8,
    x: Val,
    y: Val,
}

#[derive(Clone, Copy)]
enum Value {
    Vector(Val),
    Comparison(Comparison),
}

struct Recorder<'a> {
    func: &'a Func,
    var: Reg,
    scratch_offsets: &'a [usize],
    out: Recorded,
    regs: HashMap<Reg, Value>,
    /// Constants that may be amounts of shifts.
    shifts: HashMap<Reg, u8>,
    pool: HashMap<u32, Val>,
}

impl Recorder<'_> {
    fn value(&mut self, source: Source) -> Val {
        self.out.values.push(source);
        Val(self.out.values.len() - 1)
    }

    fn node(&mut self, kind: Kind, operands: &[Val]) -> Val {
        let result = self.value(Source::Node);
        self.out.nodes.push(Node { kind, operands: operands.to_vec(), result: Some(result) });
        result
    }

    fn binary(&mut self, inst: Inst, a: Val, b: Val) -> Val {
        self.node(Kind::Binary(inst, None), &[a, b])
    }

    fn constant(&mut self, bits: u32) -> Val {
        if let Some(&value) = self.pool.get(&bits) {
            return value;
        }
        let value = self.value(Source::Pool(self.out.pool.len()));
        self.out.pool.push(bits);
        self.pool.insert(bits, value);
        value
    }

    fn get(&mut self, r: Reg) -> Value {
        if let Some(&value) = self.regs.get(&r) {
            return value;
        }
        // Set before the loop.
        let value = Value::Vector(self.value(Source::Scalar(self.out.scalars.len())));
        self.out.scalars.push(r);
        self.regs.insert(r, value);
        value
    }

    fn vector(&mut self, r: Reg) -> Val {
        match self.get(r) {
            Value::Vector(v) => v,
            Value::Comparison(c) => self.node(Kind::Test(c.inst, c.predicate), &[c.x, c.y]),
        }
    }

    fn place(&mut self, addr: &Addr) -> Place {
        let (base, start) = match addr.base {
            Base::Buf(_) => (addr.base, 0),
            Base::Scratch(s) => (Base::Scratch(tinygpt_vloop::ScratchId(0)), self.scratch_offsets[s.0 as usize] as i64),
        };
        let bytes = start + addr.offset * self.func.elem(addr.base).size() as i64;
        // A displacement is an i32; what does not fit moves the pointer.
        let (far, near) = match i32::try_from(bytes) {
            Ok(near) => (0, near),
            Err(_) => (bytes, 0),
        };
        let pointer = Pointer { base, terms: addr.terms.clone(), bytes: far };
        let number = self.out.pointers.iter().position(|p| *p == pointer).unwrap_or_else(|| {
            self.out.pointers.push(pointer);
            self.out.pointers.len() - 1
        });
        Place { pointer: number, bytes: near, moving: independent::stride(self.var, addr) == 1 }
    }

    fn op(&mut self, dst: Ty, op: &Op) -> Value {
        let value = match op {
            Op::Const(Const::F32(bits)) => self.constant(*bits),
            Op::Const(Const::I32(x)) => self.constant(*x as u32),
            Op::Const(Const::Bool(x)) => self.constant(if *x { u32::MAX } else { 0 }),
            Op::Copy(a) => return self.get(*a),
            Op::Unary(op, a) => {
                let a = self.vector(*a);
                self.unary(*op, dst, a)
            }
            Op::Binary(op, a, by) if op.is_shift() => {
                let (a, amount) = (self.vector(*a), self.shifts[by]);
                let (extension, name) = match op {
                    BinOp::Shl => (6, "vpslld"),
                    BinOp::Shr => (4, "vpsrad"),
                    _ => (2, "vpsrld"),
                };
                self.node(Kind::Shift(extension, name, amount), &[a])
            }
            Op::Binary(op, a, b) => {
                let (a, b) = (self.vector(*a), self.vector(*b));
                self.arithmetic(*op, dst, a, b)
            }
            Op::Fma(a, b, c) => {
                let operands = [*a, *b, *c].map(|r| self.vector(r));
                self.node(Kind::Fma, &operands)
            }
            Op::Cmp(op, a, b) => {
                let float = self.func.ty(*a) == Ty::F32;
                let (x, y) = (self.vector(*a), self.vector(*b));
                let (inst, predicate) = comparison(*op, float);
                return Value::Comparison(Comparison { inst, predicate, x, y });
            }
            Op::Select(c, a, b) => {
                let (a, b) = (self.vector(*a), self.vector(*b));
                match self.get(*c) {
                    Value::Comparison(c) => self.select(c, a, b),
                    Value::Vector(m) => self.node(Kind::Select, &[m, a, b]),
                }
            }
            Op::Convert(conv, a) => {
                let a = self.vector(*a);
                match conv {
                    Conv::I32ToF32 => self.node(Kind::Unary(evex::F32_FROM_I32, None), &[a]),
                    Conv::U32ToF32 => self.node(Kind::Unary(evex::F32_FROM_U32, None), &[a]),
                    _ => a, // the same bits
                }
            }
            Op::Load(addr) => {
                let place = self.place(addr);
                self.node(Kind::Load(place), &[])
            }
            Op::Row(function, a) => {
                let a = self.vector(*a);
                match function {
                    RowFn::Exp => math::exp(self, a),
                    RowFn::Log => math::log(self, a),
                    RowFn::Tanh => math::tanh(self, a),
                    RowFn::Erf => math::erf(self, a),
                    RowFn::Sin => math::sin(self, a),
                    RowFn::Cos => math::cos(self, a),
                }
            }
            other => unreachable!("the verifier admits no {other:?} in an independent loop"),
        };
        Value::Vector(value)
    }

    fn unary(&mut self, op: UnOp, ty: Ty, a: Val) -> Val {
        match (op, ty) {
            (UnOp::Neg, Ty::F32) => self.neg(a),
            (UnOp::Neg, _) => {
                let zero = self.constant(0);
                self.binary(evex::SUB_I, zero, a)
            }
            (UnOp::Abs, Ty::F32) => self.abs(a),
            (UnOp::Abs, _) => self.node(Kind::Unary(evex::ABS_I, None), &[a]),
            (UnOp::Sqrt, _) => self.node(Kind::Unary(evex::SQRT, None), &[a]),
            (UnOp::Round, _) => self.round(a),
            (UnOp::Not, _) => {
                let ones = self.constant(u32::MAX);
                self.binary(evex::XOR, a, ones)
            }
        }
    }

    fn arithmetic(&mut self, op: BinOp, ty: Ty, a: Val, b: Val) -> Val {
        if ty == Ty::F32 {
            return match op {
                BinOp::Add => self.add(a, b),
                BinOp::Sub => self.sub(a, b),
                BinOp::Mul => self.mul(a, b),
                BinOp::Div => self.div(a, b),
                // The hardware gives its second operand for a NaN, the IR the first: hence the exchange.
                BinOp::Min => self.min(b, a),
                BinOp::Max => self.max(b, a),
                _ => unreachable!("the verifier admits no {} of f32", op.name()),
            };
        }
        let inst = match op {
            BinOp::Add => evex::ADD_I,
            BinOp::Sub => evex::SUB_I,
            BinOp::Mul => evex::MUL_I,
            BinOp::Min => evex::MIN_I,
            BinOp::Max => evex::MAX_I,
            BinOp::MinU => evex::MIN_U,
            BinOp::MaxU => evex::MAX_U,
            BinOp::And => evex::AND,
            BinOp::Or => evex::OR,
            BinOp::Xor => evex::XOR,
            _ => unreachable!("the verifier admits no {} of {ty} in an independent loop", op.name()),
        };
        self.binary(inst, a, b)
    }
}

/// The instruction and its predicate. Of floats, all are false for NaN except the one for `Ne`.
fn comparison(op: CmpOp, float: bool) -> (Inst, u8) {
    if float {
        let predicate = match op {
            CmpOp::Eq => 0x00,
            CmpOp::Ne => 0x04,
            CmpOp::Lt | CmpOp::LtU => 0x11,
            CmpOp::Le | CmpOp::LeU => 0x12,
            CmpOp::Gt | CmpOp::GtU => 0x1e,
            CmpOp::Ge | CmpOp::GeU => 0x1d,
        };
        return (evex::COMPARE, predicate);
    }
    let unsigned = matches!(op, CmpOp::LtU | CmpOp::LeU | CmpOp::GtU | CmpOp::GeU);
    let predicate = match op {
        CmpOp::Eq => 0,
        CmpOp::Lt | CmpOp::LtU => 1,
        CmpOp::Le | CmpOp::LeU => 2,
        CmpOp::Ne => 4,
        CmpOp::Ge | CmpOp::GeU => 5,
        CmpOp::Gt | CmpOp::GtU => 6,
    };
    (if unsigned { evex::COMPARE_U } else { evex::COMPARE_I }, predicate)
}

impl Lanes for Recorder<'_> {
    type F = Val;
    type I = Val;
    type M = Comparison;

    fn splat(&mut self, x: f32) -> Val {
        self.constant(x.to_bits())
    }
    fn splat_i32(&mut self, x: i32) -> Val {
        self.constant(x as u32)
    }
    fn add(&mut self, a: Val, b: Val) -> Val {
        self.binary(evex::ADD, a, b)
    }
    fn sub(&mut self, a: Val, b: Val) -> Val {
        self.binary(evex::SUB, a, b)
    }
    fn mul(&mut self, a: Val, b: Val) -> Val {
        self.binary(evex::MUL, a, b)
    }
    fn div(&mut self, a: Val, b: Val) -> Val {
        self.binary(evex::DIV, a, b)
    }
    fn mul_add(&mut self, a: Val, b: Val, c: Val) -> Val {
        self.node(Kind::Fma, &[a, b, c])
    }
    fn neg(&mut self, a: Val) -> Val {
        let sign = self.splat_i32(SIGN);
        self.binary(evex::XOR, a, sign)
    }
    fn abs(&mut self, a: Val) -> Val {
        let rest = self.splat_i32(!SIGN);
        self.binary(evex::AND, a, rest)
    }
    fn min(&mut self, a: Val, b: Val) -> Val {
        self.binary(evex::MIN, a, b)
    }
    fn max(&mut self, a: Val, b: Val) -> Val {
        self.binary(evex::MAX, a, b)
    }
    fn round(&mut self, a: Val) -> Val {
        self.node(Kind::Unary(evex::ROUND, Some(NEAREST)), &[a])
    }
    fn lt(&mut self, x: Val, y: Val) -> Comparison {
        let (inst, predicate) = comparison(CmpOp::Lt, true);
        Comparison { inst, predicate, x, y }
    }
    fn eq(&mut self, x: Val, y: Val) -> Comparison {
        let (inst, predicate) = comparison(CmpOp::Eq, true);
        Comparison { inst, predicate, x, y }
    }
    fn select(&mut self, m: Comparison, a: Val, b: Val) -> Val {
        self.node(Kind::SelectIf(m.inst, m.predicate), &[m.x, m.y, a, b])
    }
    fn to_i32(&mut self, a: Val) -> Val {
        self.node(Kind::Unary(evex::I32_FROM_F32, None), &[a])
    }
    fn to_f32(&mut self, a: Val) -> Val {
        self.node(Kind::Unary(evex::F32_FROM_I32, None), &[a])
    }
    fn add_i32(&mut self, a: Val, b: Val) -> Val {
        self.binary(evex::ADD_I, a, b)
    }
    fn and_i32(&mut self, a: Val, b: Val) -> Val {
        self.binary(evex::AND, a, b)
    }
    fn shl_i32(&mut self, a: Val, bits: u32) -> Val {
        self.node(Kind::Shift(6, "vpslld", bits as u8), &[a])
    }
    fn shr_i32(&mut self, a: Val, bits: u32) -> Val {
        self.node(Kind::Shift(4, "vpsrad", bits as u8), &[a])
    }
    fn f32_to_bits(&mut self, a: Val) -> Val {
        a
    }
    fn bits_to_f32(&mut self, a: Val) -> Val {
        a
    }
    fn scale_by_power(&mut self, a: Val, n: Val) -> Val {
        self.binary(evex::SCALE, a, n)
    }
    fn is_zero_i32(&mut self, x: Val) -> Comparison {
        let y = self.splat_i32(0);
        let (inst, predicate) = comparison(CmpOp::Eq, false);
        Comparison { inst, predicate, x, y }
    }
}
