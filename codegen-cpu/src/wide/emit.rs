//! Registers and instructions of a wide loop.
//!
//! | register | holds |
//! |---|---|
//! | rdi | the slots |
//! | rax | bytes done: what moving addresses add |
//! | rsi | bytes of all whole vectors |
//! | rdx | the mask of the trips left over |
//! | r11 | a pointer that has no register, while one instruction uses it; the end of the next two vectors |
//! | [`POINTERS`] | the first pointers |
//! | k1 | a comparison, for the instruction after it |
//! | k7 | the mask |
//!
//! Constants and scalars that are used most stay in the last vector registers through the loop. The rest of the registers serve
//! the body's values, from first to last: where there is no free one, the value that is read furthest from there goes to
//! the stack frame (a constant or scalar needs no place there: it is loaded again).

use super::evex::*;
use super::pair::pair;
use super::{Kind, Node, Place, Recorded, Source, Val};
use std::collections::HashMap;

/// Registers of pointers; those from the fifth on belong to the caller and are saved.
const POINTERS: [Gpr; 10] = [1, 8, 9, 10, 3, 5, 12, 13, 14, 15];
/// The first of them that is saved.
const FIRST_SAVED: usize = 4;
const SPARE: Gpr = 11;
const VECTOR_REGISTERS: usize = 32;
/// Registers that the body's values have at least.
const LEAST_FREE: usize = 8;
/// Bytes of a vector.
const VECTOR: i32 = 64;
const TEST: u8 = 1;
const LEFT_OVER: u8 = 7;

pub(super) fn emit(recorded: &Recorded) -> (Vec<u8>, String) {
    let single = Body::new(recorded);
    let two = pair(recorded);
    let two = two.as_ref().map(Body::new);
    let pinned = two.as_ref().unwrap_or(&single).pinned();
    // The frame's size is known when the bodies are emitted, so that is done twice.
    let frame = write(&single, two.as_ref(), &pinned, 0).frame;
    let w = write(&single, two.as_ref(), &pinned, frame);
    w.asm.finish(&recorded.pool)
}

fn write<'a>(single: &'a Body, two: Option<&'a Body>, pinned: &'a HashMap<Val, Zmm>, frame: i32) -> Writer<'a> {
    let mut w = Writer {
        body: single,
        pinned,
        asm: Assembler::default(),
        masked: false,
        register: HashMap::new(),
        owner: [None; VECTOR_REGISTERS],
        saved: HashMap::new(),
        frame: 0,
    };
    let held = single.recorded.pointers.len().min(POINTERS.len());
    let saved = &POINTERS[FIRST_SAVED.min(held)..held];
    saved.iter().for_each(|r| w.asm.push(*r));
    w.asm.move_stack(-frame);
    for (i, r) in POINTERS[..held].iter().enumerate() {
        w.asm.load_word(*r, RDI, 8 * i as i32);
    }
    let mut pins: Vec<(Zmm, Val)> = pinned.iter().map(|(v, r)| (*r, *v)).collect();
    pins.sort_unstable();
    for (r, v) in pins {
        w.broadcast(r, v);
    }
    w.asm.raw(&[0x31, 0xc0], "xor eax, eax");
    if let Some(two) = two {
        let [again, rest] = [(); 2].map(|()| w.asm.label());
        w.two_left();
        w.asm.jump_if(0x87, "ja", rest);
        w.asm.place(again);
        w.write(two);
        w.asm.raw(&[0x48, 0x83, 0xe8, 0x80], "sub rax, -128");
        w.two_left();
        w.asm.jump_if(0x86, "jbe", again);
        w.asm.place(rest);
    }
    let [again, rest, done] = [(); 3].map(|()| w.asm.label());
    w.asm.raw(&[0x48, 0x39, 0xf0], "cmp rax, rsi");
    w.asm.jump_if(0x83, "jae", rest);
    w.asm.place(again);
    w.write(single);
    w.asm.raw(&[0x48, 0x83, 0xc0, VECTOR as u8], "add rax, 64");
    w.asm.raw(&[0x48, 0x39, 0xf0], "cmp rax, rsi");
    w.asm.jump_if(0x82, "jb", again);
    w.asm.place(rest);
    w.asm.raw(&[0x85, 0xd2], "test edx, edx");
    w.asm.jump_if(0x84, "jz", done);
    w.asm.raw(&[0xc5, 0xf8, 0x92, 0xfa], "kmovw k7, edx");
    w.masked = true;
    w.write(single);
    w.asm.place(done);
    w.asm.move_stack(frame);
    saved.iter().rev().for_each(|r| w.asm.pop(*r));
    w.asm.raw(&[0xc5, 0xf8, 0x77], "vzeroupper");
    w.asm.raw(&[0xc3], "ret");
    w
}

/// What one round of a loop does: one vector of trips or two.
struct Body<'a> {
    recorded: &'a Recorded,
    /// The last node that reads each value; 0 if none does.
    last_use: Vec<usize>,
}

impl<'a> Body<'a> {
    fn new(recorded: &'a Recorded) -> Body<'a> {
        let mut last_use = vec![0; recorded.values.len()];
        for (i, node) in recorded.nodes.iter().enumerate() {
            node.operands.iter().for_each(|v| last_use[v.0] = i);
        }
        Body { recorded, last_use }
    }

    /// Registers of the constants and scalars that are used most: as many as the body leaves.
    fn pinned(&self) -> HashMap<Val, Zmm> {
        let Body { recorded, last_use } = self;
        let is_fixed = |v: &Val| recorded.values[v.0] != Source::Node;
        let mut uses = vec![0usize; recorded.values.len()];
        let (mut live, mut most) = (0usize, 0usize);
        for (i, node) in recorded.nodes.iter().enumerate() {
            let mut operands = node.operands.clone();
            operands.sort_unstable();
            operands.dedup();
            operands.iter().for_each(|v| uses[v.0] += 1);
            live += node.result.is_some() as usize;
            most = most.max(live);
            live -= operands.iter().filter(|v| !is_fixed(v) && last_use[v.0] == i).count();
        }
        // One register more, for a constant that has none.
        let free = (most + 1).clamp(LEAST_FREE, VECTOR_REGISTERS);
        let mut fixed: Vec<Val> = (0..recorded.values.len()).map(Val).filter(is_fixed).collect();
        fixed.sort_by_key(|v| std::cmp::Reverse(uses[v.0])); // stable: of equals, the first
        fixed.truncate(VECTOR_REGISTERS - free);
        fixed.into_iter().zip((0..VECTOR_REGISTERS as Zmm).rev()).collect()
    }
}

struct Writer<'a> {
    /// What is being written.
    body: &'a Body<'a>,
    pinned: &'a HashMap<Val, Zmm>,
    asm: Assembler,
    masked: bool,
    /// Registers of the values that are in one, besides the pinned.
    register: HashMap<Val, Zmm>,
    /// What is in each register, the pinned included.
    owner: [Option<Val>; VECTOR_REGISTERS],
    /// Displacements in the frame of the values that are there.
    saved: HashMap<Val, i32>,
    frame: i32,
}

impl<'a> Writer<'a> {
    /// Compares the end of the next two vectors with that of all: not above if two are left.
    fn two_left(&mut self) {
        self.asm.raw(&[0x4c, 0x8d, 0x98, 0x80, 0, 0, 0], "lea r11, [rax + 128]");
        self.asm.raw(&[0x49, 0x39, 0xf3], "cmp r11, rsi");
    }

    fn write(&mut self, body: &'a Body<'a>) {
        self.body = body;
        self.register.clear();
        self.saved.clear();
        self.owner = [None; VECTOR_REGISTERS];
        for (v, r) in self.pinned {
            self.owner[*r as usize] = Some(*v);
        }
        for (i, node) in body.recorded.nodes.iter().enumerate() {
            self.node(i, node);
        }
    }

    fn node(&mut self, i: usize, node: &Node) {
        let operands: Vec<Zmm> = node.operands.iter().map(|v| self.read(i, *v, &node.operands)).collect();
        // Operands that die here leave their registers to the result.
        for v in &node.operands {
            if self.body.last_use[v.0] == i
                && let Some(r) = self.register.remove(v)
            {
                self.owner[r as usize] = None;
            }
        }
        if let Kind::Store(place) = node.kind {
            let mem = self.mem(place);
            let mask = if self.masked { Mask::Keep(LEFT_OVER) } else { Mask::None };
            return self.store_to(mem, operands[0], mask);
        }
        let result = node.result.expect("all but a store have a result");
        let dst = match node.kind {
            Kind::Fma => {
                // One operand's register becomes the result's: that of one that died, if there is one.
                let died = [0, 2, 1].into_iter().find(|&n| self.is_free(operands[n]));
                let dst = died.map_or_else(|| self.free_register(i, &node.operands), |n| operands[n]);
                self.fma(dst, died, [operands[0], operands[1], operands[2]]);
                dst
            }
            _ => self.free_register(i, &node.operands),
        };
        self.operation(node.kind, dst, &operands);
        // A value that nothing reads keeps no register.
        if self.body.last_use[result.0] > i {
            self.owner[dst as usize] = Some(result);
            self.register.insert(result, dst);
        }
    }

    fn fma(&mut self, dst: Zmm, died: Option<usize>, [a, b, c]: [Zmm; 3]) {
        match died {
            Some(0) => self.three(FMA_213, dst, b, c, None),
            Some(1) => self.three(FMA_213, dst, a, c, None),
            died => {
                if died.is_none() {
                    self.two(MOVE, dst, c, None);
                }
                self.three(FMA_231, dst, a, b, None);
            }
        }
    }

    fn operation(&mut self, kind: Kind, dst: Zmm, operands: &[Zmm]) {
        match kind {
            Kind::Binary(inst, imm) => self.three(inst, dst, operands[0], operands[1], imm),
            Kind::Unary(inst, imm) => self.two(inst, dst, operands[0], imm),
            Kind::Shift(extension, name, by) => {
                self.asm.vector(SHIFT, extension, dst, Rm::Zmm(operands[0]), Mask::None, Some(by));
                self.asm.say(format_args!("{name} zmm{dst}, zmm{}, {by}", operands[0]));
            }
            Kind::Fma => {} // done: it shares a register with an operand
            Kind::SelectIf(inst, predicate) => {
                self.compare(inst, operands[0], operands[1], predicate);
                self.blend(dst, operands[2], operands[3]);
            }
            Kind::Select => {
                let m = operands[0];
                self.asm.vector(TEST_BITS, TEST, m, Rm::Zmm(m), Mask::None, None);
                self.asm.say(format_args!("{} k{TEST}, zmm{m}, zmm{m}", TEST_BITS.name));
                self.blend(dst, operands[1], operands[2]);
            }
            Kind::Test(inst, predicate) => {
                self.compare(inst, operands[0], operands[1], predicate);
                // The truth table of "always", where the mask is set.
                self.asm.vector(TERNARY, dst, dst, Rm::Zmm(dst), Mask::Zero(TEST), Some(0xff));
                self.asm.say(format_args!("{} zmm{dst}{{k{TEST}}}{{z}}, zmm{dst}, zmm{dst}, 255", TERNARY.name));
            }
            Kind::Load(place) => {
                let mem = self.mem(place);
                match (place.moving, self.masked) {
                    (true, true) => self.load_into(LOAD, dst, mem, Mask::Zero(LEFT_OVER)),
                    (true, false) => self.load_into(LOAD, dst, mem, Mask::None),
                    (false, _) => self.load_into(BROADCAST, dst, mem, Mask::None),
                }
            }
            Kind::Store(_) => unreachable!("a store has no result"),
        }
    }

    // ---- registers

    fn is_free(&self, r: Zmm) -> bool {
        self.owner[r as usize].is_none()
    }

    /// The register of an operand, loaded if it is in none. `keep` are the operands of the same node.
    fn read(&mut self, i: usize, v: Val, keep: &[Val]) -> Zmm {
        if let Some(&r) = self.pinned.get(&v).or_else(|| self.register.get(&v)) {
            return r;
        }
        let r = self.free_register(i, keep);
        match self.saved.get(&v) {
            Some(&disp) => self.load_into(LOAD, r, Mem::At { base: RSP, moving: false, disp }, Mask::None),
            None => self.broadcast(r, v),
        }
        self.owner[r as usize] = Some(v);
        self.register.insert(v, r);
        r
    }

    /// A register that holds nothing, or whose value is moved to the frame: the one read last, but none of `keep`.
    fn free_register(&mut self, i: usize, keep: &[Val]) -> Zmm {
        let all = 0..VECTOR_REGISTERS as Zmm;
        if let Some(r) = all.clone().find(|r| self.is_free(*r)) {
            return r;
        }
        let candidates = all.filter_map(|r| self.owner[r as usize].map(|v| (r, v)));
        let candidates = candidates.filter(|(_, v)| !keep.contains(v) && !self.pinned.contains_key(v));
        let (r, v) = candidates
            .max_by_key(|(_, v)| self.next_use(i, *v))
            .expect("no node has as many operands as there are registers");
        if self.body.recorded.values[v.0] == Source::Node && !self.saved.contains_key(&v) {
            let disp = VECTOR * self.saved.len() as i32;
            self.frame = self.frame.max(disp + VECTOR);
            self.saved.insert(v, disp);
            self.store_to(Mem::At { base: RSP, moving: false, disp }, r, Mask::None);
        }
        self.register.remove(&v);
        self.owner[r as usize] = None;
        r
    }

    /// The first node after `i` that reads the value.
    fn next_use(&self, i: usize, v: Val) -> usize {
        let later = self.body.recorded.nodes[i + 1..].iter().position(|n| n.operands.contains(&v));
        later.map_or(usize::MAX, |n| i + 1 + n)
    }

    /// Loads a constant or scalar into all lanes.
    fn broadcast(&mut self, r: Zmm, v: Val) {
        let mem = match self.body.recorded.values[v.0] {
            Source::Pool(constant) => Mem::Pool(constant),
            Source::Scalar(n) => {
                Mem::At { base: RDI, moving: false, disp: 8 * (self.body.recorded.pointers.len() + n) as i32 }
            }
            Source::Node => unreachable!("a value of the body is in a register or in the frame"),
        };
        self.load_into(BROADCAST, r, mem, Mask::None);
    }

    fn mem(&mut self, place: Place) -> Mem {
        let base = match POINTERS.get(place.pointer) {
            Some(&r) => r,
            None => {
                self.asm.load_word(SPARE, RDI, 8 * place.pointer as i32);
                SPARE
            }
        };
        Mem::At { base, moving: place.moving, disp: place.bytes }
    }

    // ---- instructions

    fn three(&mut self, inst: Inst, dst: Zmm, a: Zmm, b: Zmm, imm: Option<u8>) {
        self.asm.vector(inst, dst, a, Rm::Zmm(b), Mask::None, imm);
        self.asm.say(format_args!("{} zmm{dst}, zmm{a}, zmm{b}{}", inst.name, imm_text(imm)));
    }

    fn two(&mut self, inst: Inst, dst: Zmm, a: Zmm, imm: Option<u8>) {
        self.asm.vector(inst, dst, 0, Rm::Zmm(a), Mask::None, imm);
        self.asm.say(format_args!("{} zmm{dst}, zmm{a}{}", inst.name, imm_text(imm)));
    }

    fn compare(&mut self, inst: Inst, x: Zmm, y: Zmm, predicate: u8) {
        self.asm.vector(inst, TEST, x, Rm::Zmm(y), Mask::None, Some(predicate));
        self.asm.say(format_args!("{} k{TEST}, zmm{x}, zmm{y}, {predicate}", inst.name));
    }

    /// `a` where k1 is set, else `b`.
    fn blend(&mut self, dst: Zmm, a: Zmm, b: Zmm) {
        self.asm.vector(BLEND, dst, b, Rm::Zmm(a), Mask::Keep(TEST), None);
        self.asm.say(format_args!("{} zmm{dst}{{k{TEST}}}, zmm{b}, zmm{a}", BLEND.name));
    }

    fn load_into(&mut self, inst: Inst, dst: Zmm, mem: Mem, mask: Mask) {
        self.asm.vector(inst, dst, 0, Rm::Mem(mem), mask, None);
        let mask = if mask == Mask::None { String::new() } else { format!("{{k{LEFT_OVER}}}{{z}}") };
        self.asm.say(format_args!("{} zmm{dst}{mask}, {}", inst.name, mem_text(mem)));
    }

    fn store_to(&mut self, mem: Mem, value: Zmm, mask: Mask) {
        self.asm.vector(STORE, value, 0, Rm::Mem(mem), mask, None);
        let mask = if mask == Mask::None { String::new() } else { format!("{{k{LEFT_OVER}}}") };
        self.asm.say(format_args!("{} {}{mask}, zmm{value}", STORE.name, mem_text(mem)));
    }
}

fn imm_text(imm: Option<u8>) -> String {
    imm.map_or_else(String::new, |x| format!(", {x}"))
}
