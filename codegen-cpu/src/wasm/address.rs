//! Addresses: which pointers there are, and where they are computed.
//!
//! V8 does no strength reduction, and a WebAssembly access takes one pointer and a constant: every part of an address that is not
//! constant costs an addition at each access. So
//! - an address that moves with the variable of a loop becomes a *running pointer*: a local that starts before the loop and is
//!   increased by a constant at its end;
//! - what does not change in a loop is computed before it;
//! - addresses that differ by constants share a pointer, and keep the difference in the instruction.
//!
//! Invariants
//! - A known pointer is valid at the point of emission: none of its registers has been set since it was computed, and it was
//!   computed in a block around this one. A register that is set takes its pointers with it; a loop does so at its entry with
//!   whatever its body sets.
//! - The difference in an instruction is never negative and at most [`WINDOW`]. No access lies below [`WINDOW`] in memory
//!   (see [`super::layout`]), so a pointer, which is an access' address less that difference, is never negative either: an
//!   engine adds the two without wrapping.
//! - An address names variables of loops only through pointers: their locals need not exist.

use super::facts::{Facts, addresses, set_in};
use super::func::{Emit, Local};
use std::collections::HashMap;
use tinygpt_vloop::*;

/// Most bytes between a pointer and an access through it; also the bytes at the start of memory that hold nothing.
pub const WINDOW: i64 = 1 << 16;

/// What an address starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Root {
    Buf(u32),
    /// All scratch arrays lie in one piece of memory.
    Scratch,
}

/// Index register and stride in bytes, sorted by register.
type Terms = Vec<(Reg, i64)>;

/// An address without its constant part.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Stream {
    root: Root,
    terms: Terms,
}

/// A pointer in a local: the stream's address plus `bias` bytes.
struct Known {
    stream: Stream,
    bias: i64,
    local: Local,
    /// Number of the scope that ends its life.
    scope: usize,
}

/// Offsets of one stream that share a pointer.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Window {
    from: i64,
    to: i64,
    uses: usize,
}

/// The accesses of one stream in a block and all blocks in it.
#[derive(Clone, Debug, Default)]
struct Uses {
    /// Offsets of the accesses themselves.
    direct: Vec<i64>,
    /// Least offset of accesses that add more terms.
    partial: Option<i64>,
}

impl Uses {
    /// Cuts the offsets into windows, the least offset of each its beginning.
    fn windows(&mut self) -> Vec<Window> {
        self.direct.sort_unstable();
        let mut out: Vec<Window> = Vec::new();
        for &offset in &self.direct {
            match out.last_mut() {
                Some(w) if offset - w.from <= WINDOW => {
                    w.to = offset;
                    w.uses += 1;
                }
                _ => out.push(Window { from: offset, to: offset, uses: 1 }),
            }
        }
        if let (true, Some(offset)) = (out.is_empty(), self.partial) {
            out.push(Window { from: offset, to: offset, uses: 0 });
        }
        out
    }
}

/// A running pointer.
pub struct Running {
    stream: Stream,
    bias: i64,
    pub local: Local,
    /// Bytes that it moves by when the loop's variable grows by one.
    pub stride: i64,
}

/// The pointers that are known, and the accesses that are to come.
#[derive(Default)]
pub struct Pointers {
    known: Vec<Known>,
    scopes: usize,
    /// For each open block, the windows of its streams.
    plans: Vec<HashMap<Stream, Vec<Window>>>,
}

impl Pointers {
    /// Called when a register is set.
    pub fn forget(&mut self, r: Reg) {
        self.known.retain(|k| k.stream.terms.iter().all(|t| t.0 != r));
    }

    pub fn forget_sets(&mut self, body: &[Stmt]) {
        set_in(body, &mut |r| self.forget(r));
    }

    pub fn open_scope(&mut self) {
        self.scopes += 1;
    }

    pub fn close_scope(&mut self) {
        self.scopes -= 1;
        self.known.retain(|k| k.scope <= self.scopes);
    }

    fn remember(&mut self, stream: Stream, bias: i64, local: Local) {
        self.known.push(Known { stream, bias, local, scope: self.scopes });
    }

    /// A pointer to the stream from which all of these offsets can be reached.
    fn exact(&self, stream: &Stream, from: i64, to: i64) -> Option<(Local, i64)> {
        let reaches = |k: &&Known| k.stream == *stream && k.bias <= from && to - k.bias <= WINDOW;
        self.known.iter().rev().find(reaches).map(|k| (k.local, k.bias))
    }

    /// The pointer that leaves the fewest terms to add, among those that have all terms of loop variables.
    fn nearest(&self, stream: &Stream, facts: &Facts) -> Option<&Known> {
        let moves = |t: &&(Reg, i64)| facts.is_loop_var(t.0);
        let serves = |k: &&Known| {
            let terms = &k.stream.terms;
            k.stream.root == stream.root
                && terms.iter().all(|t| stream.terms.contains(t))
                && stream.terms.iter().filter(moves).all(|t| terms.contains(t))
        };
        self.known.iter().filter(serves).max_by_key(|k| k.stream.terms.len())
    }
}

impl Emit<'_> {
    /// The stream of an address, and its offset in bytes.
    fn stream(&self, a: &Addr) -> (Stream, i64) {
        let size = self.func.elem(a.base).size() as i64;
        let mut terms: Terms = a.terms.iter().map(|&(r, stride)| (r, stride.wrapping_mul(size))).collect();
        terms.sort_unstable();
        let (root, start) = match a.base {
            Base::Buf(b) => (Root::Buf(b.0), 0),
            Base::Scratch(s) => (Root::Scratch, self.scratch_offsets[s.0 as usize] as i64),
        };
        (Stream { root, terms }, start + a.offset * size)
    }

    /// Lists the streams of a block, before its code is emitted.
    pub fn open_block(&mut self, body: &[Stmt]) {
        let mut streams: HashMap<Stream, Uses> = HashMap::new();
        addresses(body, &mut |a| {
            let (stream, offset) = self.stream(a);
            streams.entry(stream).or_default().direct.push(offset);
        });
        let plan = streams.into_iter().map(|(s, mut uses)| (s, uses.windows())).collect();
        self.pointers.plans.push(plan);
    }

    pub fn close_block(&mut self) {
        self.pointers.plans.pop();
    }

    /// Puts a pointer on the stack and returns the constant that the access adds to it.
    pub fn push_address(&mut self, a: &Addr) -> u64 {
        let (stream, offset) = self.stream(a);
        let window = self
            .pointers
            .plans
            .last()
            .and_then(|plan| plan.get(&stream)?.iter().copied().find(|w| w.from <= offset && offset <= w.to))
            .unwrap_or(Window { from: offset, to: offset, uses: 1 });
        let known = self.pointers.exact(&stream, window.from, window.to);
        if let Some((local, bias)) = known.or_else(|| self.pointers.exact(&stream, offset, offset)) {
            self.ins().local_get(local);
            return (offset - bias) as u64;
        }
        if stream.terms.is_empty() && offset >= 0 {
            // The start of a buffer is an address itself: whatever lies beyond it can be reached.
            let root = self.root(stream.root);
            self.ins().local_get(root);
            return offset as u64;
        }
        let bias = self.push_pointer(&stream, window);
        if window.uses > 1 {
            let name = self.pointer_name(a.base);
            let local = self.new_local(self.ptr_type(), name);
            self.ins().local_tee(local);
            self.pointers.remember(stream, bias, local);
        }
        (offset - bias) as u64
    }

    fn root(&self, root: Root) -> Local {
        match root {
            Root::Buf(b) => b,
            Root::Scratch => self.func.bufs.len() as u32,
        }
    }

    /// Computes a pointer from which the window can be reached, and returns its bias.
    fn push_pointer(&mut self, stream: &Stream, window: Window) -> i64 {
        let (local, have, from) = match self.pointers.nearest(stream, &self.facts) {
            Some(k) => (k.local, k.bias, k.stream.terms.clone()),
            None => (self.root(stream.root), 0, Vec::new()),
        };
        // Without an addition, if the window can be reached from there too.
        let bias = if have <= window.from && window.to - have <= WINDOW { have } else { window.from };
        self.ins().local_get(local);
        for &(r, stride) in stream.terms.iter().filter(|t| !from.contains(t)) {
            self.push_scaled(Idx::Reg(r), stride);
            self.ptr_add();
        }
        self.push_plus(bias - have);
        bias
    }

    /// Adds a constant to the pointer on the stack.
    pub fn push_plus(&mut self, c: i64) {
        if c != 0 {
            self.ptr_const(c);
            self.ptr_add();
        }
    }

    fn push_scaled(&mut self, i: Idx, stride: i64) {
        match i {
            Idx::Const(c) => self.ptr_const(c.wrapping_mul(stride)),
            Idx::Reg(r) => {
                self.value(r);
                self.ptr_times(stride);
            }
        }
    }

    /// Computes what can be computed before a loop: pointers that do not change in it become known, and those that move with it are
    /// returned, at their value for the variable's first value. Call it inside the loop's scope, after forgetting what its
    /// body sets.
    pub fn prepare_loop(&mut self, var: Reg, from: Idx, body: &[Stmt]) -> Vec<Running> {
        let mut set = vec![false; self.func.regs.len()];
        set_in(body, &mut |r| set[r.0 as usize] = true);
        set[var.0 as usize] = false;
        // In order of appearance, so that the text depends on nothing else.
        let mut order: Vec<(Stream, Base)> = Vec::new();
        let mut streams: HashMap<Stream, Uses> = HashMap::new();
        addresses(body, &mut |a| {
            let (mut stream, offset) = self.stream(a);
            let all = stream.terms.len();
            stream.terms.retain(|t| !set[t.0.0 as usize]);
            if stream.terms.is_empty() {
                return;
            }
            let whole = stream.terms.len() == all;
            let uses = streams.entry(stream.clone()).or_insert_with(|| {
                order.push((stream, a.base));
                Uses::default()
            });
            if whole {
                uses.direct.push(offset);
            } else {
                uses.partial = Some(uses.partial.map_or(offset, |least| least.min(offset)));
            }
        });
        let mut running = Vec::new();
        for (stream, base) in order {
            let windows = streams.get_mut(&stream).map(Uses::windows).unwrap_or_default();
            let stride = stream.terms.iter().find(|t| t.0 == var).map(|t| t.1);
            for window in windows {
                match stride {
                    None if self.pointers.exact(&stream, window.from, window.to).is_some() => {}
                    None => {
                        let bias = self.push_pointer(&stream, window);
                        let local = self.set_new_pointer(base);
                        self.pointers.remember(stream.clone(), bias, local);
                    }
                    Some(stride) => {
                        let mut start = stream.clone();
                        start.terms.retain(|t| t.0 != var);
                        let bias = self.push_pointer(&start, window);
                        if from != Idx::Const(0) {
                            self.push_scaled(from, stride);
                            self.ptr_add();
                        }
                        let local = self.set_new_pointer(base);
                        running.push(Running { stream: stream.clone(), bias, local, stride });
                    }
                }
            }
        }
        running
    }

    fn set_new_pointer(&mut self, base: Base) -> Local {
        let name = self.pointer_name(base);
        let local = self.new_local(self.ptr_type(), name);
        self.ins().local_set(local);
        local
    }

    /// Makes the running pointers of a loop known in its body.
    pub fn enter_loop(&mut self, running: &[Running]) {
        for r in running {
            self.pointers.remember(r.stream.clone(), r.bias, r.local);
        }
    }

    fn pointer_name(&self, base: Base) -> String {
        let name = match base {
            Base::Buf(b) => &self.func.bufs[b.0 as usize].name,
            Base::Scratch(s) => &self.func.scratch[s.0 as usize].name,
        };
        format!("{name}@")
    }
}
