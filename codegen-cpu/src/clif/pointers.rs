//! Address arithmetic: what is computed once, and where.
//!
//! An address is a base plus terms `register * stride`. Its terms are sorted by the loop depth at which their
//! registers change, so that every prefix of them is a pointer that can be computed outside the loops in which
//! the rest changes. Before a loop, [`Pointers::enter_loop`] lists the prefixes of the loop's addresses that do
//! not change in it; the emitter computes those there. Within a block, equal prefixes are computed once. What
//! remains in the innermost loop is the last term (part of the machine address for strides 1 and 2) and the
//! constant offset.
//!
//! Invariant: a remembered value dominates the point of emission and its registers have not been set since.
//! Scopes mirror blocks: what a loop body or a branch computes is forgotten at its end. A register that is set
//! again invalidates what was made of it, and a loop invalidates at its entry what its body will set.

use cranelift_codegen::ir::Value;
use std::collections::HashMap;
use tinygpt_vloop::{Addr, Base, Func, Op, Reg, Stmt};

/// Index register and stride in elements, for each term.
pub type Terms = Vec<(Reg, i64)>;

/// A remembered value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    /// A register times a number of bytes.
    Scaled(Reg, i64),
    /// The base plus sorted terms.
    Pointer(Base, Terms),
}

impl Key {
    fn mentions(&self, r: Reg) -> bool {
        match self {
            Key::Scaled(s, _) => *s == r,
            Key::Pointer(_, terms) => terms.iter().any(|&(t, _)| t == r),
        }
    }
}

/// The remembered address values at the point of emission.
pub struct Pointers {
    /// How often each register is set; loop variables count twice.
    sets: Vec<u32>,
    /// Depth of the deepest loop that sets each register.
    depth: Vec<u32>,
    /// Loops around the point of emission.
    here: u32,
    scopes: Vec<HashMap<Key, Value>>,
}

impl Pointers {
    pub fn new(func: &Func) -> Pointers {
        let n = func.regs.len();
        let mut p = Pointers { sets: vec![0; n], depth: vec![0; n], here: 0, scopes: vec![HashMap::new()] };
        p.count(&func.body, 0);
        p
    }

    fn count(&mut self, body: &[Stmt], depth: u32) {
        for s in body {
            match s {
                Stmt::Set(r, _) => self.count_set(*r, 1, depth),
                Stmt::For { var, body, .. } => {
                    self.count_set(*var, 2, depth + 1); // at entry and at the bottom
                    self.count(body, depth + 1);
                }
                Stmt::If { then, els, .. } => {
                    self.count(then, depth);
                    self.count(els, depth);
                }
                Stmt::Store { .. } | Stmt::CallRow { .. } | Stmt::Comment(_) => {}
            }
        }
    }

    fn count_set(&mut self, r: Reg, times: u32, depth: u32) {
        let r = r.0 as usize;
        self.sets[r] += times;
        self.depth[r] = self.depth[r].max(depth);
    }

    /// How often the function sets a register.
    pub fn sets(&self, r: Reg) -> u32 {
        self.sets[r.0 as usize]
    }

    /// The terms of an address, those that change in the outermost loops first.
    pub fn sorted(&self, a: &Addr) -> Terms {
        let mut terms = a.terms.clone();
        terms.sort_by_key(|&(r, _)| self.depth[r.0 as usize]); // stable: equal depths keep their order
        terms
    }

    /// Called before a loop: forgets what its body will change, and lists the pointers to compute there.
    pub fn enter_loop(&mut self, body: &[Stmt]) -> Vec<(Base, Terms)> {
        self.forget_sets(body);
        let mut fixed = Vec::new();
        self.collect(body, &mut fixed);
        self.here += 1;
        fixed
    }

    pub fn leave_loop(&mut self) {
        self.here -= 1;
    }

    pub fn open_scope(&mut self) {
        self.scopes.push(HashMap::new());
    }

    pub fn close_scope(&mut self) {
        self.scopes.pop();
    }

    pub fn find(&self, key: &Key) -> Option<Value> {
        self.scopes.iter().rev().find_map(|scope| scope.get(key)).copied()
    }

    pub fn remember(&mut self, key: Key, value: Value) {
        if let Some(scope) = self.scopes.last_mut() {
            scope.insert(key, value);
        }
    }

    /// Called when a register is set again.
    pub fn forget(&mut self, r: Reg) {
        for scope in &mut self.scopes {
            scope.retain(|key, _| !key.mentions(r));
        }
    }

    fn forget_sets(&mut self, body: &[Stmt]) {
        for s in body {
            match s {
                Stmt::Set(r, _) if self.sets(*r) > 1 => self.forget(*r),
                Stmt::For { var, body, .. } => {
                    self.forget(*var);
                    self.forget_sets(body);
                }
                Stmt::If { then, els, .. } => {
                    self.forget_sets(then);
                    self.forget_sets(els);
                }
                _ => {}
            }
        }
    }

    /// The longest prefixes, not empty, of the addresses in `body` whose registers change in no loop deeper
    /// than here.
    fn collect(&self, body: &[Stmt], fixed: &mut Vec<(Base, Terms)>) {
        for s in body {
            match s {
                Stmt::Set(_, Op::Load(a) | Op::LoadSplat(a)) => self.prefix(a, fixed),
                Stmt::Store { addr, .. } => self.prefix(addr, fixed),
                Stmt::CallRow { src, dst, .. } => {
                    self.prefix(src, fixed);
                    self.prefix(dst, fixed);
                }
                Stmt::For { body, .. } => self.collect(body, fixed),
                Stmt::If { then, els, .. } => {
                    self.collect(then, fixed);
                    self.collect(els, fixed);
                }
                Stmt::Set(..) | Stmt::Comment(_) => {}
            }
        }
    }

    fn prefix(&self, a: &Addr, fixed: &mut Vec<(Base, Terms)>) {
        let mut terms = self.sorted(a);
        let changing = terms.iter().position(|&(r, _)| self.depth[r.0 as usize] > self.here);
        terms.truncate(changing.unwrap_or(terms.len()));
        if !terms.is_empty() {
            fixed.push((a.base, terms));
        }
    }
}
