//! The interpreter: what a function means, and the oracle of the emitters.
//!
//! It verifies nothing beforehand but checks at run time what the verifier cannot: every access is in bounds,
//! scratch is written before it is read, index dividends are not negative. Each such error names the function,
//! the statement and the numbers. Results agree bit for bit with emitted code (the bits of NaNs excepted).

use crate::math;
use crate::print::{addr_text, stmt_line};
use crate::types::*;

/// Contents of one buffer.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    F32(Vec<f32>),
    I32(Vec<i32>),
}

impl Data {
    fn elem(&self) -> Elem {
        match self {
            Data::F32(_) => Elem::F32,
            Data::I32(_) => Elem::I32,
        }
    }

    pub fn len(&self) -> usize {
        match self {
            Data::F32(v) => v.len(),
            Data::I32(v) => v.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The f32 contents. Panics for integers.
    pub fn f32(&self) -> &[f32] {
        match self {
            Data::F32(v) => v,
            Data::I32(_) => panic!("the buffer holds i32"),
        }
    }
}

/// Runs `func` on the caller's buffers, one for each declared (an in-place caller cannot be modelled).
///
/// `fused` says whether `Fma` rounds once or twice, as on the target compared with.
pub fn run(func: &Func, bufs: &mut [Data], params: &[i64], fused: bool) -> Result<(), Error> {
    let whole = |message: String| Error { func: func.name.clone(), at: String::new(), message };
    if bufs.len() != func.bufs.len() || params.len() != func.params.len() {
        return Err(whole(format!(
            "called with {} buffers and {} parameters, expected {} and {}",
            bufs.len(),
            params.len(),
            func.bufs.len(),
            func.params.len()
        )));
    }
    if let Some((d, b)) = func.bufs.iter().zip(bufs.iter()).find(|(d, b)| d.elem != b.elem()) {
        return Err(whole(format!("buffer `{}` was given as {}, expected {}", d.name, b.elem().name(), d.elem.name())));
    }
    let scratch = func.scratch.iter().map(|s| vec![None; s.len]).collect();
    let regs = vec![Value::default(); func.regs.len()];
    Run { func, bufs, params, scratch, regs, fused }.block(&func.body)
}

/// Four lanes of bits: f32 as its bits, index as itself, truth values as 0 or 1. Scalars use lane 0.
type Value = [i64; 4];

fn f(bits: i64) -> f32 {
    f32::from_bits(bits as u32)
}

fn bits(x: f32) -> i64 {
    x.to_bits() as i64
}

struct Run<'a> {
    func: &'a Func,
    bufs: &'a mut [Data],
    params: &'a [i64],
    /// Bits of the scratch elements; None until written.
    scratch: Vec<Vec<Option<i64>>>,
    regs: Vec<Value>,
    fused: bool,
}

impl Run<'_> {
    fn block(&mut self, body: &[Stmt]) -> Result<(), Error> {
        for s in body {
            self.stmt(s)?;
        }
        Ok(())
    }

    fn stmt(&mut self, s: &Stmt) -> Result<(), Error> {
        let func = self.func;
        let at = |message| Error { func: func.name.clone(), at: stmt_line(func, s), message };
        match s {
            Stmt::Set(dst, op) => {
                let value = self.op(func.ty(*dst), op).map_err(at)?;
                self.regs[dst.0 as usize] = value;
            }
            Stmt::Store { addr, value } => {
                let (v, lanes) = (self.get(*value), func.ty(*value).lanes());
                self.write(addr, &v[..lanes]).map_err(at)?;
            }
            Stmt::For { var, from, to, step, body, .. } => {
                let (mut i, to) = (self.idx(*from), self.idx(*to));
                while i < to {
                    self.regs[var.0 as usize][0] = i;
                    self.block(body)?;
                    i += step;
                }
            }
            Stmt::If { cond, then, els } => {
                let taken = if self.get(*cond)[0] != 0 { then } else { els };
                self.block(taken)?;
            }
            Stmt::CallRow { function, src, dst, n } => {
                for i in 0..self.idx(*n) {
                    let x = self.read(&src.clone().offset(i), 1).map_err(at)?;
                    let y = self.row_fn(*function, f(x[0]));
                    self.write(&dst.clone().offset(i), &[bits(y)]).map_err(at)?;
                }
            }
            Stmt::Comment(_) => {}
        }
        Ok(())
    }

    fn get(&self, r: Reg) -> Value {
        self.regs[r.0 as usize]
    }

    fn idx(&self, i: Idx) -> i64 {
        match i {
            Idx::Reg(r) => self.get(r)[0],
            Idx::Const(c) => c,
        }
    }

    fn op(&self, dst: Ty, op: &Op) -> Result<Value, String> {
        let (lane, lanes) = (dst.lane(), dst.lanes());
        let each = |g: &dyn Fn(usize) -> i64| {
            let mut v = Value::default();
            (0..lanes).for_each(|i| v[i] = g(i));
            v
        };
        Ok(match op {
            Op::Const(c) => match *c {
                Const::Index(x) => [x; 4],
                Const::I32(x) => [x as i64; 4],
                Const::F32(b) => [b as i64; 4],
                Const::Bool(x) => [x as i64; 4],
                Const::I32x4(x) => x.map(|x| x as i64),
            },
            Op::Copy(a) => self.get(*a),
            Op::Param(p) => [self.params[p.0 as usize]; 4],
            Op::Unary(op, a) => {
                let a = self.get(*a);
                each(&|i| unary(*op, lane, a[i]))
            }
            Op::Binary(op, a, b) => {
                let (a, b) = (self.get(*a), self.get(*b));
                each(&|i| binary(*op, lane, a[i], if op.is_shift() { b[0] } else { b[i] }))
            }
            Op::DivConst(a, c) | Op::RemConst(a, c) => {
                let a = self.get(*a)[0];
                if a < 0 {
                    return Err(format!("the dividend is {a}, expected one not negative"));
                }
                [if matches!(op, Op::DivConst(..)) { a / c } else { a % c }; 4]
            }
            Op::Fma(a, b, c) => {
                let (a, b, c) = (self.get(*a), self.get(*b), self.get(*c));
                each(&|i| {
                    bits(match self.fused {
                        true => f(a[i]).mul_add(f(b[i]), f(c[i])),
                        false => f(a[i]) * f(b[i]) + f(c[i]),
                    })
                })
            }
            Op::Cmp(op, a, b) => {
                let ty = self.func.ty(*a).lane();
                let (a, b) = (self.get(*a), self.get(*b));
                each(&|i| compare(*op, ty, a[i], b[i]) as i64)
            }
            Op::Select(c, a, b) => {
                let wide = self.func.ty(*c).is_vector();
                let (c, a, b) = (self.get(*c), self.get(*a), self.get(*b));
                each(&|i| if c[if wide { i } else { 0 }] != 0 { a[i] } else { b[i] })
            }
            Op::Convert(conv, a) => {
                let a = self.get(*a);
                each(&|i| convert(*conv, a[i]))
            }
            Op::Splat(a) => [self.get(*a)[0]; 4],
            Op::Extract(v, lane) => [self.get(*v)[*lane as usize]; 4],
            Op::Insert(v, lane, x) => {
                let mut v = self.get(*v);
                v[*lane as usize] = self.get(*x)[0];
                v
            }
            Op::Reduce(op, v) => {
                let v = self.get(*v);
                let combine = |a, b| binary(*op, lane, a, b);
                [combine(combine(v[0], v[2]), combine(v[1], v[3])); 4]
            }
            Op::Load(addr) => self.read(addr, lanes)?,
            Op::LoadSplat(addr) => [self.read(addr, 1)?[0]; 4],
            Op::Row(function, a) => [bits(self.row_fn(*function, f(self.get(*a)[0]))); 4],
        })
    }

    /// The first of `lanes` elements at an address, checked.
    fn element(&self, addr: &Addr, lanes: usize) -> Result<usize, String> {
        let at = addr.terms.iter().fold(addr.offset, |sum, &(r, stride)| sum + self.get(r)[0] * stride);
        let len = match addr.base {
            Base::Buf(b) => self.bufs[b.0 as usize].len(),
            Base::Scratch(s) => self.scratch[s.0 as usize].len(),
        };
        match usize::try_from(at) {
            Ok(first) if first + lanes <= len => Ok(first),
            _ => Err(format!(
                "elements {at}..{} of {} are outside its {len} elements",
                at + lanes as i64,
                addr_text(self.func, addr)
            )),
        }
    }

    fn read(&self, addr: &Addr, lanes: usize) -> Result<Value, String> {
        let first = self.element(addr, lanes)?;
        let mut v = Value::default();
        for (lane, v) in v.iter_mut().enumerate().take(lanes) {
            let at = first + lane;
            *v = match addr.base {
                Base::Buf(b) => match &self.bufs[b.0 as usize] {
                    Data::F32(x) => bits(x[at]),
                    Data::I32(x) => x[at] as i64,
                },
                Base::Scratch(s) => self.scratch[s.0 as usize][at].ok_or_else(|| {
                    format!("scratch element {at} of {} is read before it is written", addr_text(self.func, addr))
                })?,
            };
        }
        Ok(v)
    }

    fn write(&mut self, addr: &Addr, values: &[i64]) -> Result<(), String> {
        let first = self.element(addr, values.len())?;
        for (at, &v) in (first..).zip(values) {
            match addr.base {
                Base::Buf(b) => match &mut self.bufs[b.0 as usize] {
                    Data::F32(x) => x[at] = f(v),
                    Data::I32(x) => x[at] = v as i32,
                },
                Base::Scratch(s) => self.scratch[s.0 as usize][at] = Some(v),
            }
        }
        Ok(())
    }

    fn row_fn(&self, function: RowFn, x: f32) -> f32 {
        match self.fused {
            true => row_value(&mut math::Scalar::<true>, function, x),
            false => row_value(&mut math::Scalar::<false>, function, x),
        }
    }
}

fn row_value<L: math::Lanes<F = f32>>(l: &mut L, function: RowFn, x: f32) -> f32 {
    match function {
        RowFn::Exp => math::exp(l, x),
        RowFn::Log => math::log(l, x),
        RowFn::Tanh => math::tanh(l, x),
        RowFn::Erf => math::erf(l, x),
        RowFn::Sin => math::sin(l, x),
        RowFn::Cos => math::cos(l, x),
    }
}

fn unary(op: UnOp, ty: Ty, a: i64) -> i64 {
    let (x, n) = (f(a), a as i32);
    match (op, ty) {
        (UnOp::Neg, Ty::F32) => bits(-x),
        (UnOp::Neg, _) => n.wrapping_neg() as i64,
        (UnOp::Abs, Ty::F32) => bits(x.abs()),
        (UnOp::Abs, _) => n.wrapping_abs() as i64,
        (UnOp::Sqrt, _) => bits(x.sqrt()),
        (UnOp::Round, _) => bits(x.round_ties_even()),
        (UnOp::Not, Ty::Bool) => (a == 0) as i64,
        (UnOp::Not, _) => !n as i64,
    }
}

fn binary(op: BinOp, ty: Ty, a: i64, b: i64) -> i64 {
    match ty {
        Ty::Index => match op {
            BinOp::Add => a.wrapping_add(b),
            BinOp::Sub => a.wrapping_sub(b),
            BinOp::Mul => a.wrapping_mul(b),
            BinOp::Min => a.min(b),
            BinOp::Max => a.max(b),
            _ => unreachable!("the verifier admits no {} of index", op.name()),
        },
        Ty::F32 => {
            let (a, b) = (f(a), f(b));
            bits(match op {
                BinOp::Add => a + b,
                BinOp::Sub => a - b,
                BinOp::Mul => a * b,
                BinOp::Div => a / b,
                BinOp::Min => [a, b][(b < a) as usize],
                BinOp::Max => [a, b][(a < b) as usize],
                _ => unreachable!("the verifier admits no {} of f32", op.name()),
            })
        }
        // Truth values are 0 or 1: and, or, xor of integers keep them so.
        _ => integer(op, a as i32, b as i32) as i64,
    }
}

fn integer(op: BinOp, a: i32, b: i32) -> i32 {
    let (ua, ub) = (a as u32, b as u32);
    match op {
        BinOp::Add => a.wrapping_add(b),
        BinOp::Sub => a.wrapping_sub(b),
        BinOp::Mul => a.wrapping_mul(b),
        BinOp::Div if b == 0 => a,
        BinOp::Div => a.wrapping_div(b),
        BinOp::DivU => ua.checked_div(ub).unwrap_or(ua) as i32,
        BinOp::Rem if b == 0 => 0,
        BinOp::Rem => a.wrapping_rem(b),
        BinOp::RemU => ua.checked_rem(ub).unwrap_or(0) as i32,
        BinOp::Min => a.min(b),
        BinOp::Max => a.max(b),
        BinOp::MinU => ua.min(ub) as i32,
        BinOp::MaxU => ua.max(ub) as i32,
        BinOp::And => a & b,
        BinOp::Or => a | b,
        BinOp::Xor => a ^ b,
        BinOp::Shl => a.wrapping_shl(ub),
        BinOp::Shr => a.wrapping_shr(ub),
        BinOp::ShrU => ua.wrapping_shr(ub) as i32,
    }
}

fn compare(op: CmpOp, ty: Ty, a: i64, b: i64) -> bool {
    fn ordered<T: PartialOrd>(op: CmpOp, a: T, b: T) -> bool {
        match op {
            CmpOp::Eq => a == b,
            CmpOp::Ne => a != b,
            CmpOp::Lt | CmpOp::LtU => a < b,
            CmpOp::Le | CmpOp::LeU => a <= b,
            CmpOp::Gt | CmpOp::GtU => a > b,
            CmpOp::Ge | CmpOp::GeU => a >= b,
        }
    }
    match (ty, op) {
        (Ty::F32, _) => ordered(op, f(a), f(b)),
        (Ty::I32, CmpOp::LtU | CmpOp::LeU | CmpOp::GtU | CmpOp::GeU) => ordered(op, a as u32, b as u32),
        _ => ordered(op, a, b),
    }
}

fn convert(conv: Conv, a: i64) -> i64 {
    match conv {
        Conv::I32ToF32 => bits(a as i32 as f32),
        Conv::U32ToF32 => bits(a as u32 as f32),
        Conv::F32ToI32 => f(a) as i32 as i64,
        Conv::F32ToU32 => f(a) as u32 as i32 as i64,
        Conv::F32BitsToI32 => a as i32 as i64,
        Conv::I32BitsToF32 => a as u32 as i64,
        Conv::I32ToIndex => a,
        Conv::U32ToIndex => a as u32 as i64,
        Conv::IndexToI32 => a as i32 as i64,
    }
}
