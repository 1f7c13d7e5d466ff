//! Scalar bodies as instructions.
//!
//! A body is evaluated at a point of a space whose axes become loops, one after another. One axis, the *vector
//! axis*, may carry four points at once.
//!
//! - A scalar *varies* if it depends on the vector axis. It has a vector register when four points are evaluated
//!   (`lanes` = 4); a scalar that does not vary has a scalar register and, where a vector needs it, a splat.
//! - An axis is *entered* once its loop variable exists. A scalar is *available* once all axes it depends on are
//!   entered and all accumulators it depends on are set.
//! - Values are memoised in the [`Eval`]. Cloning it opens a scope: a loop body evaluates in a clone, which is dropped
//!   with the loop. [`Eval::prepare`] evaluates what is available before a loop is opened, so that each value is
//!   computed at the outermost loop that it can be.
//!
//! The same operations in the same order serve both widths, so an element's value does not depend on whether it fell into
//! a vector or into a scalar tail.

use std::collections::HashMap;
use tinygpt_ir::op::{Binary, Compare, Unary};
use tinygpt_ir::program::{Access, Affine, Body, ScalarId, ScalarOp, Store};
use tinygpt_ir::types::{DType, Literal};
use tinygpt_vloop::{Addr, BinOp, BufId, Builder, CmpOp, Conv, Idx, Reg, RowFn, ScratchId, Ty};

/// What is known of a body before any code: dependencies, and the buffers behind arguments.
pub struct Analysis {
    pub body: Body,
    /// Extents of the axes.
    pub space: Vec<usize>,
    pub vector: usize,
    /// The function's buffer of each argument.
    pub bufs: Vec<Option<BufId>>,
    /// Bit set of the axes each scalar depends on.
    axes_of: Vec<u64>,
    /// Bit set of the accumulators each scalar depends on.
    accs_of: Vec<u64>,
}

impl Analysis {
    /// `acc_axes` are the axes that accumulators vary along, as a bit set.
    pub fn new(body: Body, space: Vec<usize>, vector: usize, acc_axes: u64, bufs: Vec<Option<BufId>>) -> Analysis {
        let mut axes_of = Vec::with_capacity(body.scalars.len());
        let mut accs_of = Vec::with_capacity(body.scalars.len());
        let bits =
            |coeffs: &[i64]| coeffs.iter().enumerate().filter(|(_, c)| **c != 0).fold(0u64, |s, (i, _)| s | 1 << i);
        for scalar in body.scalars.values() {
            let (mut axes, mut accs) = match &scalar.op {
                ScalarOp::Load(a) => (bits(&a.at.coeffs), 0),
                ScalarOp::Index(a) => (bits(&a.coeffs), 0),
                ScalarOp::Acc(i) => (acc_axes, 1 << i),
                _ => (0, 0),
            };
            for operand in scalar.op.operands() {
                axes |= axes_of[operand.index()];
                accs |= accs_of[operand.index()];
            }
            axes_of.push(axes);
            accs_of.push(accs);
        }
        Analysis { body, space, vector, bufs, axes_of, accs_of }
    }

    pub fn varies(&self, id: ScalarId) -> bool {
        self.axes_of[id.index()] >> self.vector & 1 == 1
    }

    /// The scalars that `targets` need, themselves included, without those behind a scalar for which `leaf` holds.
    pub fn needed(&self, targets: &[ScalarId], leaf: impl Fn(ScalarId) -> bool) -> Vec<ScalarId> {
        let mut seen = vec![false; self.body.scalars.len()];
        let mut stack = targets.to_vec();
        while let Some(id) = stack.pop() {
            if !std::mem::replace(&mut seen[id.index()], true) && !leaf(id) {
                stack.extend(self.body.scalars[id].op.operands());
            }
        }
        self.body.scalars.ids().filter(|id| seen[id.index()]).collect()
    }

    /// The row function that a scalar is, if it is one.
    pub fn row_fn(&self, id: ScalarId) -> Option<(RowFn, ScalarId)> {
        match self.body.scalars[id].op {
            ScalarOp::Unary(op, x) => row_fn(op).map(|f| (f, x)),
            _ => None,
        }
    }
}

fn row_fn(op: Unary) -> Option<RowFn> {
    Some(match op {
        Unary::Exp => RowFn::Exp,
        Unary::Log => RowFn::Log,
        Unary::Tanh => RowFn::Tanh,
        Unary::Erf => RowFn::Erf,
        Unary::Sin => RowFn::Sin,
        Unary::Cos => RowFn::Cos,
        Unary::Neg | Unary::Sqrt | Unary::Rsqrt | Unary::Recip => return None,
    })
}

/// Where an accumulator's value is.
#[derive(Clone, Debug)]
pub enum Acc {
    /// In a register: a vector if accumulators vary and four points are evaluated.
    Reg(Reg),
    /// In a row of memory; the vector axis' loop variable is added with stride 1.
    Row(Addr),
}

/// What the invariant part of an address depends on: coefficients, the origin's coefficient, indirect terms.
type BaseKey = (Vec<i64>, i64, Vec<(ScalarId, i64, usize)>);

#[derive(Clone)]
pub struct Eval<'a> {
    pub an: &'a Analysis,
    /// Points at once along the vector axis: 1 or 4.
    pub lanes: usize,
    axes: Vec<Option<Reg>>,
    entered: u64,
    /// Added to the vector axis' loop variable: where the strip begins.
    pub origin: Option<Reg>,
    /// Added to the vector axis' index: which vector of an unrolled loop.
    pub shift: i64,
    accs: Vec<Option<Acc>>,
    accs_set: u64,
    /// Values of scalars kept in scratch, by the vector axis' loop variable.
    strips: HashMap<ScalarId, ScratchId>,
    narrow: Vec<Option<Reg>>,
    wide: Vec<Option<Reg>>,
    bases: HashMap<BaseKey, Option<Reg>>,
    keys: HashMap<(ScalarId, ScalarId, u32), Reg>,
}

impl<'a> Eval<'a> {
    pub fn new(an: &'a Analysis) -> Eval<'a> {
        let n = an.body.scalars.len();
        Eval {
            an,
            lanes: 4,
            axes: vec![None; an.space.len()],
            entered: 0,
            origin: None,
            shift: 0,
            accs: Vec::new(),
            accs_set: 0,
            strips: HashMap::new(),
            narrow: vec![None; n],
            wide: vec![None; n],
            bases: HashMap::new(),
            keys: HashMap::new(),
        }
    }

    /// The loop variable of an axis that is entered.
    pub fn axis(&self, axis: usize) -> Reg {
        self.axes[axis].expect("a loop is entered before its axis is used")
    }

    /// Gives `axis` its loop variable.
    pub fn enter(&mut self, axis: usize, var: Reg) {
        self.axes[axis] = Some(var);
        self.entered |= 1 << axis;
    }

    pub fn set_acc(&mut self, acc: usize, value: Acc) {
        if self.accs.len() <= acc {
            self.accs.resize(acc + 1, None);
        }
        self.accs[acc] = Some(value);
        self.accs_set |= 1 << acc;
    }

    /// From here on the scalar's values are read from scratch.
    pub fn set_strip(&mut self, id: ScalarId, strip: ScratchId) {
        self.strips.insert(id, strip);
    }

    pub fn has_strip(&self, id: ScalarId) -> bool {
        self.strips.contains_key(&id)
    }

    /// Takes over what another scope of the same body, which has entered more axes but not the vector axis, computed.
    pub fn adopt(&mut self, other: &Eval<'a>) {
        for (mine, theirs) in self.axes.iter_mut().zip(&other.axes) {
            *mine = mine.or(*theirs);
        }
        self.entered |= other.entered;
        for (mine, theirs) in self.narrow.iter_mut().zip(&other.narrow) {
            *mine = mine.or(*theirs);
        }
        for (i, theirs) in other.wide.iter().enumerate() {
            // Vectors of other points are not this scope's; splats are.
            if self.wide[i].is_none() && self.an.axes_of[i] >> self.an.vector & 1 == 0 {
                self.wide[i] = *theirs;
            }
        }
        self.keys.extend(other.keys.iter().map(|(k, v)| (*k, *v)));
        self.bases.extend(other.bases.iter().map(|(k, v)| (k.clone(), *v)));
    }

    fn available(&self, id: ScalarId) -> bool {
        let needs = if self.has_strip(id) { 1 << self.an.vector } else { self.an.axes_of[id.index()] };
        let accs = if self.has_strip(id) { 0 } else { self.an.accs_of[id.index()] };
        needs & !self.entered == 0 && accs & !self.accs_set == 0
    }

    /// Evaluates, here, all that `targets` and `stores` need and that is available, and the invariant parts of addresses.
    pub fn prepare(&mut self, b: &mut Builder, targets: &[ScalarId], stores: &[Store]) {
        let mut seen = vec![false; self.an.body.scalars.len()];
        for &id in targets {
            self.hoist(b, id, &mut seen);
        }
        for store in stores {
            self.hoist(b, store.value, &mut seen);
            self.hoist_base(b, &store.access);
        }
    }

    fn hoist(&mut self, b: &mut Builder, id: ScalarId, seen: &mut [bool]) {
        if std::mem::replace(&mut seen[id.index()], true) {
            return;
        }
        if self.available(id) {
            if self.an.varies(id) || self.lanes == 1 {
                self.value(b, id);
            } else {
                self.wide(b, id);
            }
            return;
        }
        if self.has_strip(id) {
            return;
        }
        let an = self.an;
        let op = &an.body.scalars[id].op;
        for operand in op.operands() {
            self.hoist(b, operand, seen);
        }
        match op {
            ScalarOp::Load(access) => self.hoist_base(b, access),
            ScalarOp::Random { seed, counter, stream, .. } if self.available(*seed) && self.available(*counter) => {
                if !self.an.varies(*seed) && !self.an.varies(*counter) {
                    self.random_key(b, *seed, *counter, *stream);
                }
            }
            _ => {}
        }
    }

    /// Computes the invariant part of an address if all axes but the vector axis, and all indices that do not vary, are there.
    fn hoist_base(&mut self, b: &mut Builder, access: &Access) {
        let v = self.an.vector;
        let axes = access.at.coeffs.iter().enumerate().all(|(i, c)| i == v || *c == 0 || self.entered >> i & 1 == 1);
        if axes && access.indirect.iter().all(|t| self.an.varies(t.index) || self.available(t.index)) {
            self.base(b, access);
        }
    }

    /// The value in its natural width: a vector if it varies and four points are evaluated.
    pub fn value(&mut self, b: &mut Builder, id: ScalarId) -> Reg {
        if self.lanes == 4 && self.an.varies(id) { self.wide(b, id) } else { self.narrow(b, id) }
    }

    /// The value at every point evaluated: a vector if there are four.
    pub fn value_at_lanes(&mut self, b: &mut Builder, id: ScalarId) -> Reg {
        if self.lanes == 4 { self.wide(b, id) } else { self.narrow(b, id) }
    }

    /// The value at one point, or at all if it does not vary.
    pub fn narrow(&mut self, b: &mut Builder, id: ScalarId) -> Reg {
        if let Some(r) = self.narrow[id.index()] {
            return r;
        }
        let r = self.compute(b, id, false);
        self.narrow[id.index()] = Some(r);
        r
    }

    fn wide(&mut self, b: &mut Builder, id: ScalarId) -> Reg {
        if let Some(r) = self.wide[id.index()] {
            return r;
        }
        let r = if self.an.varies(id) {
            self.compute(b, id, true)
        } else if let ScalarOp::Const(literal) = &self.an.body.scalars[id].op {
            constant(b, *literal, true)
        } else {
            let r = self.narrow(b, id);
            b.splat(r)
        };
        self.wide[id.index()] = Some(r);
        r
    }

    fn compute(&mut self, b: &mut Builder, id: ScalarId, wide: bool) -> Reg {
        if let Some(&strip) = self.strips.get(&id) {
            let addr = self.along(strip.at(), 1);
            return b.load_lanes(addr, if wide { 4 } else { 1 });
        }
        let an = self.an;
        let scalar = &an.body.scalars[id];
        let get = |s: &mut Self, b: &mut Builder, id| if wide { s.wide(b, id) } else { s.narrow(b, id) };
        match &scalar.op {
            ScalarOp::Const(literal) => constant(b, *literal, wide),
            ScalarOp::Load(access) => {
                let x = self.load(b, access, wide);
                if scalar.dtype == DType::Bool { nonzero(b, x) } else { x }
            }
            ScalarOp::Index(affine) => self.index(b, affine, wide),
            ScalarOp::Acc(i) => match self.accs[*i as usize].clone().expect("an accumulator is set before use") {
                Acc::Reg(r) => r,
                Acc::Row(addr) => {
                    let addr = match self.origin {
                        Some(origin) => addr.plus(origin, 1),
                        None => addr,
                    };
                    let addr = self.along(addr, 1);
                    b.load_lanes(addr, if wide { 4 } else { 1 })
                }
            },
            ScalarOp::Unary(op, x) => {
                let x = get(self, b, *x);
                unary(b, *op, x)
            }
            ScalarOp::Binary(op, x, y) => {
                let dtype = scalar.dtype;
                let (x, y) = (get(self, b, *x), get(self, b, *y));
                binary(b, *op, dtype, x, y)
            }
            ScalarOp::Compare(op, x, y) => {
                let dtype = an.body.scalars[*x].dtype;
                let (x, y) = (get(self, b, *x), get(self, b, *y));
                compare(b, *op, dtype, x, y)
            }
            ScalarOp::Select(c, x, y) => {
                let (c, x, y) = (get(self, b, *c), get(self, b, *x), get(self, b, *y));
                b.select(c, x, y)
            }
            ScalarOp::Cast(x) => {
                let from = an.body.scalars[*x].dtype;
                let x = get(self, b, *x);
                cast(b, from, scalar.dtype, x)
            }
            ScalarOp::Random { seed, counter, stream, index } => {
                let key = if an.varies(*seed) || an.varies(*counter) {
                    let (s, c) = (get(self, b, *seed), get(self, b, *counter));
                    random_key(b, s, c, *stream)
                } else {
                    let key = self.random_key(b, *seed, *counter, *stream);
                    if wide { b.splat(key) } else { key }
                };
                let index = get(self, b, *index);
                random(b, key, index)
            }
        }
    }

    fn random_key(&mut self, b: &mut Builder, seed: ScalarId, counter: ScalarId, stream: u32) -> Reg {
        if let Some(&key) = self.keys.get(&(seed, counter, stream)) {
            return key;
        }
        let (s, c) = (self.narrow(b, seed), self.narrow(b, counter));
        let key = random_key(b, s, c, stream);
        self.keys.insert((seed, counter, stream), key);
        key
    }

    /// An address moved along the vector axis to the points evaluated.
    pub fn along(&self, addr: Addr, stride: i64) -> Addr {
        match self.axes[self.an.vector] {
            Some(var) if stride != 0 => addr.plus(var, stride).offset(self.shift * stride),
            _ => addr,
        }
    }

    /// The part of an access that the vector axis does not change, without the constant offset; None if it is 0.
    fn base(&mut self, b: &mut Builder, access: &Access) -> Option<Reg> {
        let v = self.an.vector;
        let mut coeffs = access.at.coeffs.clone();
        let origin = if self.origin.is_some() { coeffs[v] } else { 0 };
        coeffs[v] = 0;
        let indirect: Vec<_> = access
            .indirect
            .iter()
            .filter(|t| !self.an.varies(t.index))
            .map(|t| (t.index, t.stride, t.extent))
            .collect();
        let key = (coeffs, origin, indirect);
        if let Some(base) = self.bases.get(&key) {
            return *base;
        }
        let mut terms: Vec<(Reg, i64)> = Vec::new();
        for (axis, &c) in key.0.iter().enumerate().filter(|(_, c)| **c != 0) {
            terms.push((self.axis(axis), c));
        }
        if let (Some(r), true) = (self.origin, origin != 0) {
            terms.push((r, origin));
        }
        for &(index, stride, extent) in &key.2 {
            let index = self.narrow(b, index);
            let index = clamp(b, index, extent);
            terms.push((b.convert(Conv::I32ToIndex, index), stride));
        }
        let base = sum(b, &terms);
        self.bases.insert(key, base);
        base
    }

    fn load(&mut self, b: &mut Builder, access: &Access, wide: bool) -> Reg {
        let buf = self.an.bufs[access.arg.index()].expect("an argument that is read is declared");
        let stride = access.at.coeffs[self.an.vector];
        let mut addr = buf.at().offset(access.at.offset);
        if let Some(base) = self.base(b, access) {
            addr = addr.plus(base, 1);
        }
        let addr = self.along(addr, stride);
        let varying: Vec<_> = access.indirect.iter().filter(|t| self.an.varies(t.index)).cloned().collect();
        if varying.is_empty() {
            return if wide { b.load4_strided(addr, stride) } else { b.load(addr) };
        }
        let mut indices = Vec::new();
        for t in &varying {
            let index = if wide { self.wide(b, t.index) } else { self.narrow(b, t.index) };
            indices.push((clamp(b, index, t.extent), t.stride));
        }
        if !wide {
            let mut addr = addr;
            for (index, stride) in indices {
                let index = b.convert(Conv::I32ToIndex, index);
                addr = addr.plus(index, stride);
            }
            return b.load(addr);
        }
        let mut out = None;
        for lane in 0..4 {
            let mut addr = addr.clone().offset(lane as i64 * stride);
            for &(index, stride) in &indices {
                let index = b.extract(index, lane);
                let index = b.convert(Conv::I32ToIndex, index);
                addr = addr.plus(index, stride);
            }
            let x = b.load(addr);
            out = Some(match out {
                None => b.splat(x),
                Some(v) => b.insert(v, lane, x),
            });
        }
        out.expect("four lanes")
    }

    fn index(&mut self, b: &mut Builder, affine: &Affine, wide: bool) -> Reg {
        let v = self.an.vector;
        let c = affine.coeffs[v];
        let mut terms: Vec<(Reg, i64)> = Vec::new();
        for (axis, &c) in affine.coeffs.iter().enumerate().filter(|(_, c)| **c != 0) {
            terms.push((self.axis(axis), c));
        }
        if let (Some(r), true) = (self.origin, c != 0) {
            terms.push((r, c));
        }
        let at = match sum(b, &terms) {
            Some(r) => b.convert(Conv::IndexToI32, r),
            None => b.i32(0),
        };
        let offset = b.i32((affine.offset + c * self.shift) as i32);
        let at = b.add(at, offset);
        if !wide {
            return at;
        }
        let c = c as i32;
        let lanes = b.i32_lanes([0, c, c.wrapping_mul(2), c.wrapping_mul(3)]);
        let at = b.splat(at);
        b.add(at, lanes)
    }

    /// Stores the value of `store` at the points evaluated.
    pub fn store(&mut self, b: &mut Builder, store: &Store) {
        let x = self.value_at_lanes(b, store.value);
        self.put(b, &store.access, x);
    }

    /// Stores a register, as wide as the points evaluated, through a direct access.
    pub fn put(&mut self, b: &mut Builder, access: &Access, x: Reg) {
        let x = stored(b, x);
        let buf = self.an.bufs[access.arg.index()].expect("an argument that is written is declared");
        let stride = access.at.coeffs[self.an.vector];
        let mut addr = buf.at().offset(access.at.offset);
        if let Some(base) = self.base(b, access) {
            addr = addr.plus(base, 1);
        }
        let addr = self.along(addr, stride);
        if self.lanes == 4 { b.store4_strided(addr, stride, x) } else { b.store(addr, x) }
    }

    /// Stores a value that does not vary, once.
    pub fn store_once(&mut self, b: &mut Builder, store: &Store) {
        let x = self.narrow(b, store.value);
        let x = stored(b, x);
        let buf = self.an.bufs[store.access.arg.index()].expect("an argument that is written is declared");
        let mut addr = buf.at().offset(store.access.at.offset);
        if let Some(base) = self.base(b, &store.access) {
            addr = addr.plus(base, 1);
        }
        b.store(addr, x);
    }

    /// The address of the points evaluated in a scratch row that counts from the strip's beginning.
    pub fn strip_addr(&self, strip: ScratchId) -> Addr {
        self.along(strip.at(), 1)
    }
}

/// The sum of reg * stride; None without terms, the register itself for one of stride 1.
pub fn sum(b: &mut Builder, terms: &[(Reg, i64)]) -> Option<Reg> {
    let mut out = None;
    for &(r, stride) in terms {
        let term = b.mul_const(r, stride);
        out = Some(match out {
            None => term,
            Some(r) => b.add(r, term),
        });
    }
    out
}

/// An index clamped to 0..extent, at its width.
fn clamp(b: &mut Builder, index: Reg, extent: usize) -> Reg {
    let wide = b.ty(index).is_vector();
    let int = |b: &mut Builder, x: i32| if wide { b.i32x4(x) } else { b.i32(x) };
    let zero = int(b, 0);
    let last = int(b, extent as i32 - 1);
    let index = b.max(index, zero);
    b.min(index, last)
}

/// A constant as wide as asked for.
fn constant(b: &mut Builder, literal: Literal, wide: bool) -> Reg {
    match (literal.dtype, wide) {
        (DType::Bool, false) => b.bool(literal.value != 0.0),
        (DType::Bool, true) => b.mask4(literal.value != 0.0),
        (DType::I32 | DType::U32, false) => b.i32(literal.value as i64 as i32),
        (DType::I32 | DType::U32, true) => b.i32x4(literal.value as i64 as i32),
        (_, false) => b.f32(literal.value as f32),
        (_, true) => b.f32x4(literal.value as f32),
    }
}

/// A constant of the kind and width of `like`.
fn number_like(b: &mut Builder, like: Reg, x: f64) -> Reg {
    match b.ty(like) {
        Ty::F32 => b.f32(x as f32),
        Ty::F32x4 => b.f32x4(x as f32),
        Ty::I32 => b.i32(x as i32),
        Ty::I32x4 => b.i32x4(x as i32),
        other => unreachable!("no number of type {other}"),
    }
}

/// Truth values become 0 or 1; the rest is stored as it is.
fn stored(b: &mut Builder, x: Reg) -> Reg {
    match b.ty(x).lane() {
        Ty::Bool => truth_as(b, x, Ty::I32),
        _ => x,
    }
}

/// 1 where true, else 0, of the scalar kind `kind`.
fn truth_as(b: &mut Builder, x: Reg, kind: Ty) -> Reg {
    let wide = b.ty(x).is_vector();
    let (one, zero) = match (kind, wide) {
        (Ty::F32, false) => (b.f32(1.0), b.f32(0.0)),
        (Ty::F32, true) => (b.f32x4(1.0), b.f32x4(0.0)),
        (_, false) => (b.i32(1), b.i32(0)),
        (_, true) => (b.i32x4(1), b.i32x4(0)),
    };
    b.select(x, one, zero)
}

fn nonzero(b: &mut Builder, x: Reg) -> Reg {
    let zero = number_like(b, x, 0.0);
    b.cmp(CmpOp::Ne, x, zero)
}

fn unary(b: &mut Builder, op: Unary, x: Reg) -> Reg {
    if let Some(function) = row_fn(op) {
        return b.transcendental(function, x);
    }
    match op {
        Unary::Neg => b.neg(x),
        Unary::Sqrt => b.sqrt(x),
        Unary::Rsqrt => {
            let root = b.sqrt(x);
            let one = number_like(b, x, 1.0);
            b.div(one, root)
        }
        _ => {
            let one = number_like(b, x, 1.0);
            b.div(one, x)
        }
    }
}

fn binary(b: &mut Builder, op: Binary, dtype: DType, x: Reg, y: Reg) -> Reg {
    let op = match (op, dtype) {
        (Binary::Max, DType::Bool) => BinOp::Or,
        (Binary::Min, DType::Bool) => BinOp::And,
        (Binary::Max, DType::U32) => BinOp::MaxU,
        (Binary::Min, DType::U32) => BinOp::MinU,
        (Binary::Max, _) => BinOp::Max,
        (Binary::Min, _) => BinOp::Min,
        (Binary::Add, _) => BinOp::Add,
        (Binary::Sub, _) => BinOp::Sub,
        (Binary::Mul, _) => BinOp::Mul,
        (Binary::Div, _) => BinOp::Div,
    };
    b.binary(op, x, y)
}

fn compare(b: &mut Builder, op: Compare, dtype: DType, x: Reg, y: Reg) -> Reg {
    if dtype == DType::Bool {
        let differ = b.binary(BinOp::Xor, x, y);
        return if op == Compare::Ne { differ } else { b.not(differ) };
    }
    let unsigned = dtype == DType::U32;
    let op = match op {
        Compare::Eq => CmpOp::Eq,
        Compare::Ne => CmpOp::Ne,
        Compare::Lt if unsigned => CmpOp::LtU,
        Compare::Le if unsigned => CmpOp::LeU,
        Compare::Gt if unsigned => CmpOp::GtU,
        Compare::Ge if unsigned => CmpOp::GeU,
        Compare::Lt => CmpOp::Lt,
        Compare::Le => CmpOp::Le,
        Compare::Gt => CmpOp::Gt,
        Compare::Ge => CmpOp::Ge,
    };
    b.cmp(op, x, y)
}

fn cast(b: &mut Builder, from: DType, to: DType, x: Reg) -> Reg {
    match (from, to) {
        (DType::Bool, DType::Bool) => x,
        (_, DType::Bool) => nonzero(b, x),
        (DType::Bool, DType::F32) => truth_as(b, x, Ty::F32),
        (DType::Bool, _) => truth_as(b, x, Ty::I32),
        (DType::F32, DType::I32) => b.convert(Conv::F32ToI32, x),
        (DType::F32, DType::U32) => b.convert(Conv::F32ToU32, x),
        (DType::I32, DType::F32) => b.convert(Conv::I32ToF32, x),
        (DType::U32, DType::F32) => b.convert(Conv::U32ToF32, x),
        // The same 32 bits; f16 is refused before any code.
        _ => x,
    }
}

/// The mixer of [`tinygpt_ir::op::random_bits`].
fn mix(b: &mut Builder, x: Reg) -> Reg {
    let round = |b: &mut Builder, x: Reg, by: i32| {
        let high = b.shift(BinOp::ShrU, x, by);
        b.xor(x, high)
    };
    let times = |b: &mut Builder, x: Reg, by: u32| {
        let by = if b.ty(x).is_vector() { b.i32x4(by as i32) } else { b.i32(by as i32) };
        b.mul(x, by)
    };
    let x = round(b, x, 16);
    let x = times(b, x, 0x7feb_352d);
    let x = round(b, x, 15);
    let x = times(b, x, 0x846c_a68b);
    round(b, x, 16)
}

/// The part of [`tinygpt_ir::op::random_bits`] that does not depend on the index.
fn random_key(b: &mut Builder, seed: Reg, counter: Reg, stream: u32) -> Reg {
    let int =
        |b: &mut Builder, like: Reg, x: u32| if b.ty(like).is_vector() { b.i32x4(x as i32) } else { b.i32(x as i32) };
    let salt = int(b, seed, 0x9e37_79b9);
    let h = b.xor(seed, salt);
    let h = mix(b, h);
    let h = b.xor(h, counter);
    let h = mix(b, h);
    let stream = int(b, h, stream);
    let h = b.xor(h, stream);
    mix(b, h)
}

/// Uniform f32 in [0,1) from the upper 24 bits.
fn random(b: &mut Builder, key: Reg, index: Reg) -> Reg {
    let index = mix(b, index);
    let h = b.xor(key, index);
    let bits = mix(b, h);
    let bits = b.shift(BinOp::ShrU, bits, 8);
    let x = b.convert(Conv::I32ToF32, bits);
    let unit = number_like(b, x, 1.0 / f64::from(1 << 24));
    b.mul(x, unit)
}

/// Loops over `axes` in order, preparing at each level; the innermost body evaluates in its own scope.
pub fn nest<'a>(
    b: &mut Builder,
    ev: &Eval<'a>,
    axes: &[usize],
    targets: &[ScalarId],
    stores: &[Store],
    body: &mut dyn FnMut(&mut Builder, &mut Eval<'a>),
) {
    let Some((&axis, inner)) = axes.split_first() else {
        return body(b, &mut ev.clone());
    };
    let extent = ev.an.space[axis];
    b.for_("i", 0, extent, 1, |b, i| {
        let mut ev = ev.clone();
        ev.enter(axis, i);
        ev.prepare(b, targets, stores);
        nest(b, &ev, inner, targets, stores, body);
    });
}

/// Loops over the flat range `begin..end` of `axes` taken together (the first outermost), entering all of them.
pub fn flat_nest<'a>(
    b: &mut Builder,
    ev: &Eval<'a>,
    axes: &[usize],
    range: (Reg, Reg),
    targets: &[ScalarId],
    stores: &[Store],
    body: &mut dyn FnMut(&mut Builder, &mut Eval<'a>),
) {
    b.for_("u", range.0, range.1, 1, |b, u| {
        let mut ev = ev.clone();
        enter_flat(b, &mut ev, axes, u);
        ev.prepare(b, targets, stores);
        body(b, &mut ev);
    });
}

/// Enters `axes` at their flat number.
pub fn enter_flat(b: &mut Builder, ev: &mut Eval, axes: &[usize], flat: Reg) {
    let extents: Vec<usize> = axes.iter().map(|&a| ev.an.space[a]).collect();
    for (&axis, i) in axes.iter().zip(split_flat(b, &extents, flat)) {
        ev.enter(axis, i);
    }
}

/// The indices along axes of `extents` of a flat number.
pub fn split_flat(b: &mut Builder, extents: &[usize], flat: Reg) -> Vec<Reg> {
    let mut rest = flat;
    let mut out = Vec::with_capacity(extents.len());
    for (i, &extent) in extents.iter().enumerate().rev() {
        if i == 0 {
            out.push(rest);
        } else {
            out.push(b.rem_const(rest, extent as i64));
            rest = b.div_const(rest, extent as i64);
        }
    }
    out.reverse();
    out
}

/// Cuts the flat range `from..to` of axes with `extents` where the last axis wraps, and calls
/// `body(outer indices, flat number of the last axis' beginning, lo, hi)` for each piece `lo..hi` of the last axis.
pub fn pieces(
    b: &mut Builder,
    extents: &[usize],
    from: Idx,
    to: Idx,
    body: &mut dyn FnMut(&mut Builder, &[Reg], Option<Reg>, Idx, Idx),
) {
    let (last, outer) = extents.split_last().expect("a group has at least one axis");
    if outer.is_empty() {
        return body(b, &[], None, from, to);
    }
    let last = *last as i64;
    let (from, to) = (idx_reg(b, from), idx_reg(b, to));
    let first = b.div_const(from, last);
    let past = b.add_const(to, last - 1);
    let past = b.div_const(past, last);
    b.for_("o", first, past, 1, |b, o| {
        let indices = split_flat(b, outer, o);
        let start = b.mul_const(o, last);
        let zero = b.index(0);
        let lo = b.sub(from, start);
        let lo = b.max(lo, zero);
        let extent = b.index(last);
        let hi = b.sub(to, start);
        let hi = b.min(hi, extent);
        body(b, &indices, Some(start), lo.into(), hi.into());
    });
}

/// An index operand as a register.
pub fn idx_reg(b: &mut Builder, i: Idx) -> Reg {
    match i {
        Idx::Reg(r) => r,
        Idx::Const(c) => b.index(c),
    }
}
