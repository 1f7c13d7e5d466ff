//! The call of a wide function, where an independent loop stands: see [`crate::wide`] for its arguments.

use super::Emit;
use crate::wide::Pointer;
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{FuncRef, InstBuilder, StackSlot, StackSlotData, StackSlotKind, Value, types};
use cranelift_frontend::FunctionBuilder;
use tinygpt_vloop::{Addr, Elem, Idx, Reg, Ty};

/// The function of an independent loop: see [`crate::wide`].
pub struct WideLoop {
    pub code: FuncRef,
    pub pointers: Vec<Pointer>,
    pub scalars: Vec<Reg>,
}

/// The functions of the independent loops, in order; empty if these are loops like others.
pub(super) struct Wide<'a> {
    loops: &'a [WideLoop],
    /// The loop that comes next.
    next: usize,
    /// Room for the slots of each; a call ends before the next one's are filled.
    slots: Option<StackSlot>,
}

/// Trips that a wide function does at once.
const WIDE_LANES: i64 = 16;
/// Bytes of a slot.
const SLOT: u32 = 8;

impl<'a> Wide<'a> {
    pub(super) fn new(loops: &'a [WideLoop], b: &mut FunctionBuilder) -> Wide<'a> {
        let words = loops.iter().map(|w| w.pointers.len() + w.scalars.len()).max();
        let slots = words.map(|n| {
            let slot = StackSlotData::new(StackSlotKind::ExplicitSlot, SLOT * n as u32, SLOT.trailing_zeros() as u8);
            b.create_sized_stack_slot(slot)
        });
        Wide { loops, next: 0, slots }
    }

    /// Whether independent loops are calls.
    pub(super) fn is_on(&self) -> bool {
        self.slots.is_some()
    }
}

impl Emit<'_> {
    /// An independent loop as a call, if there is a trip.
    pub(super) fn wide_loop(&mut self, var: Reg, from: Idx, to: Idx) {
        let (first, end) = (self.idx(from), self.idx(to));
        let [run, exit] = [self.b.create_block(), self.b.create_block()];
        match (from, to) {
            (Idx::Const(from), Idx::Const(to)) if from < to => self.jump(run),
            _ => {
                let enter = self.b.ins().icmp(IntCC::SignedLessThan, first, end);
                self.branch(enter, run, exit);
            }
        }
        self.b.switch_to_block(run);
        self.b.seal_block(run);
        self.set(var, first);
        self.pointers.open_scope();
        let wide = &self.wide.loops[self.wide.next];
        self.wide.next += 1;
        let slots = self.wide.slots.expect("there is a wide loop");
        let (index, mut offset) = (self.index, 0);
        let mut fill = |b: &mut FunctionBuilder, value: Value| {
            b.ins().stack_store(index, value, slots, offset);
            offset += SLOT as i32;
        };
        for p in &wide.pointers {
            let a = Addr { base: p.base, terms: p.terms.clone(), offset: 0 };
            let terms = self.pointers.sorted(&a);
            let start = self.pointer(p.base, &terms);
            let start = self.plus_const(start, p.bytes);
            fill(&mut self.b, start);
        }
        for &r in &wide.scalars {
            let x = self.get(r);
            let x = if self.func.ty(r) == Ty::Bool { self.mask_lane(x) } else { x };
            fill(&mut self.b, x);
        }
        let trips = self.b.ins().isub(end, first);
        let whole = self.b.ins().band_imm_s(trips, -WIDE_LANES);
        let bytes = self.b.ins().imul_imm_s(whole, Elem::F32.size() as i64);
        let rest = self.b.ins().band_imm_s(trips, WIDE_LANES - 1);
        let one = self.b.ins().iconst(types::I64, 1);
        let bit = self.b.ins().ishl(one, rest);
        let mask = self.b.ins().isub(bit, one);
        let slots = self.b.ins().stack_addr(self.index, slots, 0);
        self.b.ins().call(wide.code, &[slots, bytes, mask]);
        self.pointers.close_scope();
        self.jump(exit);
        self.b.switch_to_block(exit);
        self.b.seal_block(exit);
    }
}
