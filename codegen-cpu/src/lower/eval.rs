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

use super::nest::sum;
use super::ops::{binary, cast, clamp, compare, constant, nonzero, random, random_key, row_fn, stored, unary};
use std::collections::HashMap;
use tinygpt_ir::program::{Access, Affine, Body, ScalarId, ScalarOp, Store};
use tinygpt_ir::types::DType;
use tinygpt_vloop::{Addr, BufId, Builder, Conv, Reg, RowFn, ScratchId};

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
    origin: Option<Reg>,
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

    /// The strip begins `by` further along the vector axis.
    pub fn move_origin(&mut self, b: &mut Builder, by: Reg) {
        self.origin = Some(match self.origin {
            Some(origin) => b.add(origin, by),
            None => by,
        });
        // Addresses made for the old origin are not this strip's.
        self.bases.retain(|(_, origin, _), _| *origin == 0);
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
            ScalarOp::Random { seed, counter, stream, .. }
                if [*seed, *counter].into_iter().all(|x| self.available(x) && !an.varies(x)) =>
            {
                self.random_key(b, *seed, *counter, *stream);
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
