//! Random programs: every operation, nested loops, branches, changing registers, buffers and scratch.
//!
//! A program is made from a list of random numbers, so that proptest can shrink it; see [`program`]. Every address is in bounds by
//! construction: each index register in the pool carries the largest value it can have.

use super::*;

const LEN: i64 = 48;

/// What a program may have.
#[derive(Clone, Copy)]
pub struct Allow {
    /// Calls of row functions.
    pub rows: bool,
    /// Multiply-add of scalars, which rounds twice where that of vectors rounds once.
    pub scalar_fma: bool,
}

impl Allow {
    pub fn all() -> Allow {
        Allow { rows: true, scalar_fma: true }
    }
}

/// Contents of the buffers of a random program.
pub fn buffers() -> [Data; 4] {
    let floats = (0..LEN).map(|i| FLOATS[i as usize % FLOATS.len()] * (1.0 + i as f32 / 64.0)).collect();
    let ints = (0..LEN).map(|i| INTS[i as usize % INTS.len()].wrapping_add(i as i32)).collect();
    let zeros = Data::F32(vec![0.0; LEN as usize]);
    [Data::F32(floats), Data::I32(ints), zeros, Data::I32(vec![0; LEN as usize])]
}

/// The program that these numbers choose; it runs on [`buffers`] and takes one parameter, from 0 to 6.
pub fn program(choices: Vec<u32>, allow: Allow) -> Func {
    Random::program(choices, allow)
}

struct Random {
    choices: std::vec::IntoIter<u32>,
    b: Builder,
    /// Registers that are set here, of all types but index.
    pool: Vec<Reg>,
    /// Registers that may be set again.
    vars: Vec<Reg>,
    /// Index registers and the largest value of each; the least is 0.
    indices: Vec<(Reg, i64)>,
    /// An index register that is set again, at most 6.
    cursor: Reg,
    bases: Vec<(Base, Elem, bool)>,
    depth: u32,
    allow: Allow,
}

impl Random {
    fn program(choices: Vec<u32>, allow: Allow) -> Func {
        let mut b = Builder::new("random");
        let x = b.input("x", Elem::F32);
        let k = b.input("k", Elem::I32);
        let y = b.output("y", Elem::F32);
        let m = b.output("m", Elem::I32);
        let row = b.scratch("row", Elem::F32, LEN as usize);
        let ids = b.scratch("ids", Elem::I32, LEN as usize);
        let n = b.param("n");
        b.for_("i", 0, LEN, 4, |b, i| {
            let zero = b.i32x4(5);
            b.store(ids.at().plus(i, 1), zero);
            let half = b.f32x4(0.5);
            b.store(row.at().plus(i, 1), half);
        });
        let pool =
            vec![b.f32(1.25), b.f32x4(-0.75), b.i32(3), b.i32_lanes([0, 1, -2, 77]), b.bool(true), b.mask4(false)];
        let vars = pool.iter().map(|&r| b.var("v", r)).collect();
        let bases = vec![
            (Base::Buf(x), Elem::F32, false),
            (Base::Buf(k), Elem::I32, false),
            (Base::Buf(y), Elem::F32, true),
            (Base::Buf(m), Elem::I32, true),
            (Base::Scratch(row), Elem::F32, true),
            (Base::Scratch(ids), Elem::I32, true),
        ];
        let start = b.index(2);
        let cursor = b.var("cursor", start);
        let choices = choices.into_iter();
        let mut r =
            Random { choices, b, pool, vars, indices: vec![(n, 6), (cursor, 6)], cursor, bases, depth: 0, allow };
        while !r.choices.as_slice().is_empty() {
            r.stmt();
        }
        // What the registers hold at the end is the result, too.
        for (i, v) in r.vars.clone().into_iter().enumerate() {
            match r.b.ty(v) {
                Ty::F32 | Ty::F32x4 => r.b.store(y.at().offset(4 * i as i64), v),
                Ty::I32 | Ty::I32x4 => r.b.store(m.at().offset(4 * i as i64), v),
                _ => {}
            }
        }
        r.b.finish().expect("random programs are well formed")
    }

    /// A number below `n`; 0 when the choices are used up.
    fn below(&mut self, n: usize) -> usize {
        self.choices.next().map_or(0, |c| c as usize % n)
    }

    fn pick<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    /// Any register of the type.
    fn value(&mut self, ty: Ty) -> Reg {
        let all: Vec<Reg> = self.pool.iter().chain(&self.vars).copied().filter(|&r| self.b.ty(r) == ty).collect();
        self.pick(&all)
    }

    fn any_value(&mut self) -> Reg {
        let all: Vec<Reg> = self.pool.iter().chain(&self.vars).copied().collect();
        self.pick(&all)
    }

    fn numeric(&mut self) -> Reg {
        let ty = self.pick(&[Ty::F32, Ty::F32x4, Ty::I32, Ty::I32x4]);
        self.value(ty)
    }

    /// An address with room for `lanes` elements.
    fn addr(&mut self, lanes: i64, write: bool) -> (Addr, Elem) {
        let bases: Vec<_> = self.bases.iter().copied().filter(|b| b.2 || !write).collect();
        let (base, elem, _) = self.pick(&bases);
        let mut addr = Addr { base, terms: Vec::new(), offset: 0 };
        let mut room = LEN - lanes;
        for _ in 0..self.below(3) {
            let (r, most) = self.pick(&self.indices.clone());
            let stride = self.pick(&[1, 2, 3, 8]);
            if most * stride <= room {
                room -= most * stride;
                addr = addr.plus(r, stride);
            }
        }
        let offset = self.below(room as usize + 1) as i64;
        (addr.offset(offset), elem)
    }

    fn stmt(&mut self) {
        match self.below(13) {
            12 => {
                let (a, _) = self.pick(&self.indices.clone());
                let next = self.b.rem_const(a, 7);
                self.b.assign(self.cursor, next);
            }
            0 if self.depth < 3 => self.for_(),
            1 if self.depth < 3 => self.if_(),
            2 => self.index(),
            3 | 4 => self.store(),
            5 => {
                let var = self.pick(&self.vars.clone());
                let value = self.value(self.b.ty(var));
                self.b.assign(var, value);
            }
            6 => {
                let (src, elem) = self.addr(3, false);
                let (dst, dst_elem) = self.addr(3, true);
                if self.allow.rows && elem == Elem::F32 && dst_elem == Elem::F32 && src.base != dst.base {
                    let function = self.pick(RowFn::ALL);
                    self.b.call_row(function, src, dst, 3);
                }
            }
            _ => {
                let r = self.op();
                self.pool.push(r);
            }
        }
    }

    /// Runs `f` on the builder inside a block: what the block sets is forgotten after it.
    fn scoped(&mut self, b: &mut Builder, f: impl FnOnce(&mut Random)) {
        let (pool, indices) = (self.pool.clone(), self.indices.clone());
        std::mem::swap(&mut self.b, b);
        self.depth += 1;
        f(self);
        self.depth -= 1;
        std::mem::swap(&mut self.b, b);
        (self.pool, self.indices) = (pool, indices);
    }

    fn stmts(&mut self) {
        for _ in 0..1 + self.below(6) {
            self.stmt();
        }
    }

    fn for_(&mut self) {
        let step = self.pick(&[1, 2, 3, 4]);
        let from = self.below(3) as i64;
        let to = match self.below(3) {
            0 => Idx::Reg(self.pick(&self.indices.clone()).0),
            c => Idx::Const(from - 1 + 2 * c as i64),
        };
        let most = match to {
            Idx::Const(c) => c,
            Idx::Reg(r) => self.indices.iter().find(|i| i.0 == r).map_or(0, |i| i.1),
        };
        let mut b = std::mem::replace(&mut self.b, Builder::new(""));
        b.for_("i", from, to, step, |b, i| {
            self.scoped(b, |r| {
                r.indices.push((i, most.max(0)));
                r.stmts();
            });
        });
        self.b = b;
    }

    fn if_(&mut self) {
        let cond = self.value(Ty::Bool);
        let both = self.below(2) == 0;
        let mut b = std::mem::replace(&mut self.b, Builder::new(""));
        let this = std::cell::RefCell::new(&mut *self);
        let block = |b: &mut Builder| {
            let r: &mut Random = &mut this.borrow_mut();
            r.scoped(b, Random::stmts);
        };
        if both {
            b.if_else(cond, block, block)
        } else {
            b.if_(cond, block)
        }
        self.b = b;
    }

    fn store(&mut self) {
        let v = self.numeric();
        let ty = self.b.ty(v);
        let (addr, elem) = self.addr(ty.lanes() as i64, true);
        if elem.ty(ty.lanes()) == ty {
            self.b.store(addr, v);
        }
    }

    /// A new index register of small values.
    fn index(&mut self) {
        let (a, most) = self.pick(&self.indices.clone());
        let (c, max_c) = self.pick(&self.indices.clone());
        let new = match self.below(8) {
            0 => (self.b.add(a, c), most + max_c),
            1 => (self.b.mul_const(a, 3), most * 3),
            2 => (self.b.div_const(a, 3), most / 3),
            3 => (self.b.rem_const(a, 5), most.min(4)),
            4 => (self.b.min(a, c), most.min(max_c)),
            5 => (self.b.max(a, c), most.max(max_c)),
            6 => {
                let x = self.value(Ty::I32);
                let wide = self.b.convert(Conv::U32ToIndex, x);
                (self.b.rem_const(wide, 7), 6)
            }
            _ => {
                let less = self.b.cmp(CmpOp::Le, a, c);
                let r = self.b.select(less, a, c);
                let x = self.b.convert(Conv::IndexToI32, r);
                self.pool.extend([less, x]);
                (r, most.min(max_c))
            }
        };
        if new.1 < LEN / 2 {
            self.indices.push(new);
        }
    }

    /// A new register by a random operation.
    fn op(&mut self) -> Reg {
        match self.below(12) {
            0 => {
                let a = self.numeric();
                let op = self.pick(UnOp::ALL);
                match (op, self.b.ty(a).lane()) {
                    (UnOp::Sqrt | UnOp::Round, Ty::I32) | (UnOp::Not, Ty::F32) => self.b.neg(a),
                    _ => self.b.unary(op, a),
                }
            }
            1 | 2 => self.binary(),
            3 => {
                let a = self.numeric();
                let c = self.value(self.b.ty(a));
                let op = self.pick(CmpOp::ALL);
                let float = self.b.ty(a).lane() == Ty::F32;
                let unsigned = matches!(op, CmpOp::LtU | CmpOp::LeU | CmpOp::GtU | CmpOp::GeU);
                self.b.cmp(if float && unsigned { CmpOp::Ge } else { op }, a, c)
            }
            4 => {
                let a = self.any_value();
                let c = self.value(self.b.ty(a));
                let wide = self.b.ty(a).is_vector() && self.below(2) == 0;
                let cond = self.value(if wide { Ty::Mask4 } else { Ty::Bool });
                self.b.select(cond, a, c)
            }
            5 => {
                let ty = self.pick(if self.allow.scalar_fma { &[Ty::F32, Ty::F32x4] } else { &[Ty::F32x4] });
                let (a, c, d) = (self.value(ty), self.value(ty), self.value(ty));
                self.b.fma(a, c, d)
            }
            6 => {
                let a = self.numeric();
                let conv = match self.b.ty(a).lane() {
                    Ty::F32 => self.pick(&[Conv::F32ToI32, Conv::F32ToU32]),
                    _ => self.pick(&[Conv::I32ToF32, Conv::U32ToF32, Conv::I32BitsToF32]),
                };
                self.b.convert(conv, a)
            }
            7 => {
                let ty = self.pick(&[Ty::F32, Ty::I32, Ty::Bool]);
                let (a, v) = (self.value(ty), self.value(ty.with_lanes(4)));
                let lane = self.below(4);
                match self.below(3) {
                    0 => self.b.splat(a),
                    1 => self.b.extract(v, lane),
                    _ => self.b.insert(v, lane, a),
                }
            }
            8 => {
                let v = self.value(Ty::F32x4);
                let op = self.pick(&[BinOp::Add, BinOp::Mul, BinOp::Min, BinOp::Max]);
                self.b.reduce(op, v)
            }
            9 => {
                let v = self.pick(&[Ty::I32x4, Ty::Mask4]);
                let v = self.value(v);
                let op = self.pick(&[BinOp::And, BinOp::Or, BinOp::Xor]);
                self.b.reduce(op, v)
            }
            10 => {
                let (addr, _) = self.addr(1, false);
                if self.below(2) == 0 { self.b.load(addr) } else { self.b.load_splat(addr) }
            }
            _ => {
                let (addr, _) = self.addr(4, false);
                self.b.load4(addr)
            }
        }
    }

    fn binary(&mut self) -> Reg {
        let op = self.pick(BinOp::ALL);
        let kinds: Vec<Ty> = verify::binary_kinds(op).iter().copied().filter(|&t| t != Ty::Index).collect();
        let lanes = self.pick(&[1, 4]);
        let ty = self.pick(&kinds).with_lanes(lanes);
        let a = self.value(ty);
        let c = self.value(if op.is_shift() { Ty::I32 } else { ty });
        self.b.binary(op, a, c)
    }
}
