//! A vector loop function made ready for emission: the same meaning, less of it.
//!
//! - Addresses become affine in registers that nothing simpler describes: `x[at]` with `at = i * 8 + shift` becomes `x[i * 8 + shift]`,
//!   so that the emitter sees which addresses move with which loop, and by how much.
//! - Copies of registers that never change are replaced by what they copy; bounds that are constants become constants.
//! - What nobody reads is gone, loops that never run too.
//!
//! A register's definition is used in place of it only if its operands cannot have changed since: they are set once, or are
//! variables of loops around it.

use super::facts::{Facts, operands};
use tinygpt_vloop::*;

/// An index value as terms, sorted by register, and a constant.
#[derive(Clone, Debug, Default, PartialEq)]
struct Affine {
    terms: Vec<(Reg, i64)>,
    offset: i64,
}

/// Most terms of an address; a longer sum stays a register.
const MAX_TERMS: usize = 6;

impl Affine {
    fn reg(r: Reg) -> Affine {
        Affine { terms: vec![(r, 1)], offset: 0 }
    }

    fn add(&mut self, r: Reg, stride: i64) {
        match self.terms.binary_search_by_key(&r, |t| t.0) {
            Ok(at) => {
                self.terms[at].1 += stride;
                if self.terms[at].1 == 0 {
                    self.terms.remove(at);
                }
            }
            Err(at) if stride != 0 => self.terms.insert(at, (r, stride)),
            Err(_) => {}
        }
    }

    /// Adds `other * scale`.
    fn plus(mut self, other: &Affine, scale: i64) -> Affine {
        for &(r, stride) in &other.terms {
            self.add(r, stride.wrapping_mul(scale));
        }
        self.offset = self.offset.wrapping_add(other.offset.wrapping_mul(scale));
        self
    }
}

/// The function in the form that the module comment describes. It must be well formed.
pub fn tidy(func: &Func) -> Func {
    let facts = Facts::new(func);
    let mut t = Tidy { func, facts, affine: vec![None; func.regs.len()] };
    let body = t.block(&func.body);
    let mut out = Func { body, ..func.clone() };
    let live = live(&out);
    out.body = without_dead(std::mem::take(&mut out.body), &live);
    out
}

struct Tidy<'a> {
    func: &'a Func,
    facts: Facts<'a>,
    /// Of index registers that are set once, in the order in which they are set.
    affine: Vec<Option<Affine>>,
}

impl Tidy<'_> {
    fn block(&mut self, body: &[Stmt]) -> Vec<Stmt> {
        body.iter().filter_map(|s| self.stmt(s)).collect()
    }

    fn stmt(&mut self, s: &Stmt) -> Option<Stmt> {
        Some(match s {
            Stmt::Set(r, op) => {
                if self.func.ty(*r) == Ty::Index {
                    self.define(*r, op);
                }
                Stmt::Set(*r, self.op(op))
            }
            Stmt::Store { addr, value } => Stmt::Store { addr: self.addr(addr), value: self.resolve(*value) },
            Stmt::For { var, from, to, step, independent, body } => {
                let (from, to) = (self.idx(*from), self.idx(*to));
                if matches!((from, to), (Idx::Const(from), Idx::Const(to)) if from >= to) {
                    return None;
                }
                Stmt::For { var: *var, from, to, step: *step, independent: *independent, body: self.block(body) }
            }
            Stmt::If { cond, then, els } => {
                Stmt::If { cond: self.resolve(*cond), then: self.block(then), els: self.block(els) }
            }
            Stmt::CallRow { function, src, dst, n } => {
                Stmt::CallRow { function: *function, src: self.addr(src), dst: self.addr(dst), n: self.idx(*n) }
            }
            Stmt::Comment(_) => s.clone(),
        })
    }

    /// Whether the value that a register had when another was made of it is still the same wherever the other may be read.
    fn is_stable(&self, r: Reg) -> bool {
        self.facts.is_set_once(r) || self.facts.is_loop_var(r)
    }

    /// The register that a copy stands for.
    fn resolve(&self, r: Reg) -> Reg {
        match self.facts.definition(r) {
            Some(Op::Copy(a)) if self.is_stable(*a) => self.resolve(*a),
            _ => r,
        }
    }

    fn idx(&self, i: Idx) -> Idx {
        match i {
            Idx::Reg(r) => match self.of(r) {
                Some(a) if a.terms.is_empty() => Idx::Const(a.offset),
                _ => Idx::Reg(self.resolve(r)),
            },
            c => c,
        }
    }

    /// The register as an affine value; None if it may change.
    fn of(&self, r: Reg) -> Option<Affine> {
        if self.facts.is_loop_var(r) {
            return Some(Affine::reg(r));
        }
        if !self.facts.is_set_once(r) {
            return None;
        }
        Some(self.affine[r.0 as usize].clone().unwrap_or_else(|| Affine::reg(r)))
    }

    fn define(&mut self, r: Reg, op: &Op) {
        if self.facts.is_set_once(r) {
            self.affine[r.0 as usize] = self.expanded(op).filter(|a| self.is_worth_it(r, a));
        }
    }

    fn expanded(&self, op: &Op) -> Option<Affine> {
        match op {
            Op::Const(Const::Index(c)) => Some(Affine { terms: vec![], offset: *c }),
            Op::Copy(a) => self.of(*a),
            Op::Binary(BinOp::Add, a, b) => Some(self.of(*a)?.plus(&self.of(*b)?, 1)),
            Op::Binary(BinOp::Sub, a, b) => Some(self.of(*a)?.plus(&self.of(*b)?, -1)),
            Op::Binary(BinOp::Mul, a, b) => {
                let (a, b) = (self.of(*a)?, self.of(*b)?);
                match (a.terms.is_empty(), b.terms.is_empty()) {
                    (_, true) => Some(Affine::default().plus(&a, b.offset)),
                    (true, _) => Some(Affine::default().plus(&b, a.offset)),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// Whether addresses gain by the terms of `r`: a single one costs nothing; of several, the one that changes in the deepest loop
    /// should be a loop variable, whose stride becomes the step of a running pointer, or the sum should change more seldom than the
    /// place where the function computes it.
    fn is_worth_it(&self, r: Reg, a: &Affine) -> bool {
        if a.terms.len() <= 1 {
            return true;
        }
        let deepest = a.terms.iter().map(|t| self.facts.depth(t.0)).max().unwrap_or(0);
        let moves = a.terms.iter().any(|t| self.facts.is_loop_var(t.0) && self.facts.depth(t.0) == deepest);
        a.terms.len() <= MAX_TERMS && (moves || deepest < self.facts.depth(r))
    }

    fn addr(&self, a: &Addr) -> Addr {
        let mut sum = Affine { terms: vec![], offset: a.offset };
        for &(r, stride) in &a.terms {
            sum = match self.of(r) {
                Some(of) => sum.plus(&of, stride),
                None => sum.plus(&Affine::reg(r), stride),
            };
        }
        Addr { base: a.base, terms: sum.terms, offset: sum.offset }
    }

    fn op(&self, op: &Op) -> Op {
        let r = |x: &Reg| self.resolve(*x);
        match op {
            Op::Const(_) | Op::Param(_) => op.clone(),
            Op::Copy(a) => Op::Copy(r(a)),
            Op::Unary(op, a) => Op::Unary(*op, r(a)),
            Op::Binary(op, a, b) => Op::Binary(*op, r(a), r(b)),
            Op::DivConst(a, c) => Op::DivConst(r(a), *c),
            Op::RemConst(a, c) => Op::RemConst(r(a), *c),
            Op::Fma(a, b, c) => Op::Fma(r(a), r(b), r(c)),
            Op::Cmp(op, a, b) => Op::Cmp(*op, r(a), r(b)),
            Op::Select(c, a, b) => Op::Select(r(c), r(a), r(b)),
            Op::Convert(conv, a) => Op::Convert(*conv, r(a)),
            Op::Splat(a) => Op::Splat(r(a)),
            Op::Extract(v, lane) => Op::Extract(r(v), *lane),
            Op::Insert(v, lane, x) => Op::Insert(r(v), *lane, r(x)),
            Op::Reduce(op, v) => Op::Reduce(*op, r(v)),
            Op::Load(a) => Op::Load(self.addr(a)),
            Op::LoadSplat(a) => Op::LoadSplat(self.addr(a)),
            Op::Row(function, a) => Op::Row(*function, r(a)),
        }
    }
}

/// Which registers something depends on: a store, a bound, a condition. Variables of loops count only where their value is read;
/// addresses move with pointers.
fn live(func: &Func) -> Vec<bool> {
    let facts = Facts::new(func);
    let mut definitions: Vec<Vec<&Op>> = vec![Vec::new(); func.regs.len()];
    let mut pending: Vec<Reg> = Vec::new();
    fn walk<'a>(body: &'a [Stmt], facts: &Facts, definitions: &mut [Vec<&'a Op>], roots: &mut Vec<Reg>) {
        let of_addr = |a: &Addr, roots: &mut Vec<Reg>| {
            roots.extend(a.terms.iter().map(|t| t.0).filter(|r| !facts.is_loop_var(*r)));
        };
        let of_idx = |i: &Idx, roots: &mut Vec<Reg>| {
            if let Idx::Reg(r) = i {
                roots.push(*r);
            }
        };
        for s in body {
            match s {
                Stmt::Set(r, op) => definitions[r.0 as usize].push(op),
                Stmt::Store { addr, value } => {
                    of_addr(addr, roots);
                    roots.push(*value);
                }
                Stmt::For { from, to, body, .. } => {
                    of_idx(from, roots);
                    of_idx(to, roots);
                    walk(body, facts, definitions, roots);
                }
                Stmt::If { cond, then, els } => {
                    roots.push(*cond);
                    walk(then, facts, definitions, roots);
                    walk(els, facts, definitions, roots);
                }
                Stmt::CallRow { src, dst, n, .. } => {
                    of_addr(src, roots);
                    of_addr(dst, roots);
                    of_idx(n, roots);
                }
                Stmt::Comment(_) => {}
            }
        }
    }
    walk(&func.body, &facts, &mut definitions, &mut pending);
    let mut live = vec![false; func.regs.len()];
    while let Some(r) = pending.pop() {
        if std::mem::replace(&mut live[r.0 as usize], true) {
            continue;
        }
        for op in &definitions[r.0 as usize] {
            operands(op, &mut |r| pending.push(r));
            if let Op::Load(a) | Op::LoadSplat(a) = op {
                pending.extend(a.terms.iter().map(|t| t.0).filter(|r| !facts.is_loop_var(*r)));
            }
        }
    }
    live
}

fn without_dead(body: Vec<Stmt>, live: &[bool]) -> Vec<Stmt> {
    body.into_iter()
        .filter_map(|s| match s {
            Stmt::Set(r, _) if !live[r.0 as usize] => None,
            Stmt::For { var, from, to, step, independent, body } => {
                let body = without_dead(body, live);
                let works = body.iter().any(|s| !matches!(s, Stmt::Comment(_)));
                works.then_some(Stmt::For { var, from, to, step, independent, body })
            }
            Stmt::If { cond, then, els } => {
                Some(Stmt::If { cond, then: without_dead(then, live), els: without_dead(els, live) })
            }
            s => Some(s),
        })
        .collect()
}
