//! What emission has to know of a function's registers: how often each is set and read, and where.

use tinygpt_vloop::*;

/// A statement list: a number in order of a walk over the function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockId(pub u32);

#[derive(Clone, Default)]
struct RegFacts<'a> {
    /// Statements that set it, other than loops.
    sets: u32,
    /// Loops whose variable it is.
    loops: u32,
    /// The last operation that sets it, and where.
    definition: Option<(&'a Op, BlockId)>,
    /// Loops around the deepest statement that sets it; for a loop's variable, that loop counts.
    depth: u32,
    /// Reads by operations, stores and conditions; a read by an address or a bound counts twice, because it may be emitted more
    /// than once and elsewhere. Variables of loops are not read by addresses.
    reads: u32,
    /// Where the last of them is.
    read_in: Option<BlockId>,
}

pub struct Facts<'a> {
    regs: Vec<RegFacts<'a>>,
    blocks: u32,
}

impl<'a> Facts<'a> {
    pub fn new(func: &'a Func) -> Facts<'a> {
        let mut f = Facts { regs: vec![RegFacts::default(); func.regs.len()], blocks: 0 };
        f.sets(&func.body, 0);
        f.blocks = 0;
        f.reads(&func.body);
        f
    }

    fn open(&mut self) -> BlockId {
        self.blocks += 1;
        BlockId(self.blocks - 1)
    }

    fn sets(&mut self, body: &'a [Stmt], depth: u32) {
        let block = self.open();
        for s in body {
            match s {
                Stmt::Set(r, op) => {
                    let r = &mut self.regs[r.0 as usize];
                    r.sets += 1;
                    r.definition = Some((op, block));
                    r.depth = r.depth.max(depth);
                }
                Stmt::For { var, body, .. } => {
                    let r = &mut self.regs[var.0 as usize];
                    r.loops += 1;
                    r.depth = r.depth.max(depth + 1);
                    self.sets(body, depth + 1);
                }
                Stmt::If { then, els, .. } => {
                    self.sets(then, depth);
                    self.sets(els, depth);
                }
                Stmt::Store { .. } | Stmt::CallRow { .. } | Stmt::Comment(_) => {}
            }
        }
    }

    fn reads(&mut self, body: &[Stmt]) {
        let block = self.open();
        for s in body {
            match s {
                Stmt::Set(_, op) => {
                    operands(op, &mut |r| self.read(r, 1, block));
                    if let Op::Load(a) | Op::LoadSplat(a) = op {
                        self.read_addr(a, block);
                    }
                }
                Stmt::Store { addr, value } => {
                    self.read_addr(addr, block);
                    self.read(*value, 1, block);
                }
                Stmt::For { from, to, body, .. } => {
                    self.read_idx(*from, block);
                    self.read_idx(*to, block);
                    self.reads(body);
                }
                Stmt::If { cond, then, els } => {
                    self.read(*cond, 1, block);
                    self.reads(then);
                    self.reads(els);
                }
                Stmt::CallRow { src, dst, n, .. } => {
                    self.read_addr(src, block);
                    self.read_addr(dst, block);
                    self.read_idx(*n, block);
                }
                Stmt::Comment(_) => {}
            }
        }
    }

    fn read(&mut self, r: Reg, times: u32, block: BlockId) {
        let r = &mut self.regs[r.0 as usize];
        r.reads += times;
        r.read_in = Some(block);
    }

    fn read_idx(&mut self, i: Idx, block: BlockId) {
        if let Idx::Reg(r) = i {
            self.read(r, 2, block);
        }
    }

    fn read_addr(&mut self, a: &Addr, block: BlockId) {
        for &(r, _) in &a.terms {
            if !self.is_loop_var(r) {
                self.read(r, 2, block);
            }
        }
    }

    fn of(&self, r: Reg) -> &RegFacts<'a> {
        &self.regs[r.0 as usize]
    }

    /// Whether one statement sets it, and no loop.
    pub fn is_set_once(&self, r: Reg) -> bool {
        self.of(r).sets == 1 && self.of(r).loops == 0
    }

    /// Whether only loops set it, so that it changes in no loop's body.
    pub fn is_loop_var(&self, r: Reg) -> bool {
        self.of(r).sets == 0 && self.of(r).loops > 0
    }

    /// What a register that is set once is set to.
    pub fn definition(&self, r: Reg) -> Option<&'a Op> {
        if self.is_set_once(r) { self.of(r).definition.map(|d| d.0) } else { None }
    }

    pub fn depth(&self, r: Reg) -> u32 {
        self.of(r).depth
    }

    pub fn is_read(&self, r: Reg) -> bool {
        self.of(r).reads > 0
    }

    /// Whether the register's only reader stands in the same statement list as the only statement that sets it.
    pub fn is_used_once_here(&self, r: Reg) -> bool {
        let f = self.of(r);
        self.is_set_once(r) && f.reads == 1 && f.definition.is_some_and(|d| Some(d.1) == f.read_in)
    }
}

/// Calls `f` with every register that an operation reads, other than in its address.
pub fn operands(op: &Op, f: &mut dyn FnMut(Reg)) {
    match op {
        Op::Const(_) | Op::Param(_) | Op::Load(_) | Op::LoadSplat(_) => {}
        Op::Copy(a)
        | Op::Unary(_, a)
        | Op::DivConst(a, _)
        | Op::RemConst(a, _)
        | Op::Convert(_, a)
        | Op::Splat(a)
        | Op::Extract(a, _)
        | Op::Reduce(_, a)
        | Op::Row(_, a) => f(*a),
        Op::Binary(_, a, b) | Op::Cmp(_, a, b) | Op::Insert(a, _, b) => {
            f(*a);
            f(*b);
        }
        Op::Fma(a, b, c) | Op::Select(a, b, c) => {
            f(*a);
            f(*b);
            f(*c);
        }
    }
}

/// Calls `f` with every register that a statement list sets, variables of its loops included.
pub fn set_in(body: &[Stmt], f: &mut dyn FnMut(Reg)) {
    for s in body {
        match s {
            Stmt::Set(r, _) => f(*r),
            Stmt::For { var, body, .. } => {
                f(*var);
                set_in(body, f);
            }
            Stmt::If { then, els, .. } => {
                set_in(then, f);
                set_in(els, f);
            }
            Stmt::Store { .. } | Stmt::CallRow { .. } | Stmt::Comment(_) => {}
        }
    }
}

/// Calls `f` with every address of a statement list and of all lists in it.
pub fn addresses<'a>(body: &'a [Stmt], f: &mut dyn FnMut(&'a Addr)) {
    for s in body {
        match s {
            Stmt::Set(_, Op::Load(a) | Op::LoadSplat(a)) => f(a),
            Stmt::Store { addr, .. } => f(addr),
            Stmt::CallRow { src, dst, .. } => {
                f(src);
                f(dst);
            }
            Stmt::For { body, .. } => addresses(body, f),
            Stmt::If { then, els, .. } => {
                addresses(then, f);
                addresses(els, f);
            }
            Stmt::Set(..) | Stmt::Comment(_) => {}
        }
    }
}
