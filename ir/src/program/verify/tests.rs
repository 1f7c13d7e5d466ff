//! One broken program an invariant, at least.

use super::*;
use crate::op::{Reduce, Unary};
use crate::program::samples::{attention, embedding, kernel, linear, norm, plus};
use crate::program::{
    Access, Affine, Arg, ArgId, ArgMode, Attention, AttentionGrad, BufferId, ContractPart, KernelId, KernelKind, Place,
    PlacementPolicy, Pointwise, ReduceKernel, Reduction, ScalarId, ScalarOp, Scatter, Update,
};
use crate::types::{DType, Literal};

/// Invariant, sound program, what breaks it, words that the message must have.
type Case = (Invariant, fn() -> Program, fn(&mut Program), &'static str);

const CASES: &[Case] = &[
    (Invariant::NamesUnique, linear, |p| p.kernels[KernelId(1)].name = "contract_mlp_0".into(), "two kernels"),
    (Invariant::NamesUnique, linear, |p| p.kernels[KernelId(1)].name = "1.x".into(), "no identifier"),
    (Invariant::NamesUnique, linear, |p| p.params[1].name = "x".into(), "two parameters are named x"),
    (Invariant::BufferLink, linear, |p| p.params[0].buffer = BufferId(1), "which is State(1)"),
    (Invariant::BufferLink, linear, |p| p.params[0].buffer = BufferId(99), "b99, which does not exist"),
    (Invariant::BufferLink, linear, |p| p.params[0].ty.shape[0] = 4, "x is f32[4,3], its buffer b0 holds 6"),
    (Invariant::BufferLink, linear, |p| p.outputs[0].buffer = BufferId(3), "which is Temp"),
    (Invariant::BufferLink, linear, |p| p.buffers[BufferId(2)].kind = BufferKind::Output(7), "does not name"),
    (Invariant::TargetLimits, linear, |p| p.target.max_args = 2, "3 arguments: cpu takes at most 2"),
    (Invariant::TargetLimits, linear, |p| p.target.max_arg_bytes = 40, "48 bytes: cpu binds at most 40"),
    (Invariant::TargetLimits, linear, |p| p.target.alignment = 48, "power of two"),
    (Invariant::TargetLimits, linear, |p| p.buffers[BufferId(0)].len = 0, "holds 0 elements"),
    (Invariant::StagesCover, linear, |p| p.stages[1] = (2, 2), "expected a non-empty range from 1"),
    (Invariant::StagesCover, linear, |p| p.stages.truncate(2), "stages end at kernel 2"),
    (Invariant::ArgsValid, linear, |p| arg(p, 0, 1).buffer = BufferId(0), "b0 occurs twice"),
    (Invariant::ArgsValid, linear, |p| arg(p, 0, 1).buffer = BufferId(50), "b50, which does not exist"),
    (Invariant::ArgsValid, linear, |p| part(p).stores[0].access.arg = ArgId(3), "names argument a3"),
    (Invariant::ArgModes, linear, |p| arg(p, 2, 0).mode = ArgMode::ReadWrite, "a0 is ReadWrite, and is only read"),
    (Invariant::ArgModes, linear, |p| arg(p, 2, 2).mode = ArgMode::Read, "a2 is Read, and is only written"),
    (Invariant::ArgModes, linear, |p| add_arg(p, 2, 0, ArgMode::Read), "not used"),
    (Invariant::InPlace, linear, |p| pointwise(p, 4).stores[0].access = Access::direct(ArgId(0), 11, vec![-1]), "%0"),
    (Invariant::InPlace, linear, contraction_in_place, "the left operand reads argument a0"),
    (Invariant::InPlace, embedding, |p| load(&mut scatter(p).body, 1).arg = ArgId(0), "load %1"),
    (Invariant::SpaceExtents, linear, |p| pointwise(p, 2).space[0] = 0, "[0, 4]"),
    (Invariant::SpaceExtents, embedding, |p| scatter(p).table = 0, "[0, 2]"),
    (
        Invariant::AccessRank,
        linear,
        |p| part(p).terms[0].lhs.at.coeffs.push(0),
        "left operand has 3 coefficients over 2",
    ),
    (Invariant::AccessRank, linear, |p| reduction(p).stores[0].access.indirect = indirect(0), "indirect terms"),
    (
        Invariant::AccessRange,
        linear,
        |p| load(&mut pointwise(p, 2).body, 0).at.offset = 1,
        "elements 1 to 8 of argument a0",
    ),
    (Invariant::AccessRange, linear, |p| part(p).terms[0].rhs.at.offset = -1, "elements -1 to 10"),
    (Invariant::AccessRange, embedding, |p| load(&mut pointwise(p, 0).body, 1).indirect[0].extent = 6, "0 to 11"),
    (
        Invariant::StoreDisjoint,
        linear,
        |p| pointwise(p, 2).stores[0].access.at.coeffs[0] = 1,
        "element 1 of argument a2",
    ),
    (Invariant::StoreDisjoint, linear, |p| reduction(p).stores[0].access.at.coeffs[0] = 0, "element 0 of argument a1"),
    (Invariant::StoreDisjoint, linear, store_again, "stored twice"),
    (Invariant::StoreWindow, windowed, |p| into_temporary(p), "which is Temp: expected a state"),
    (Invariant::StoreWindow, windowed, read_window, "which has 2 uses"),
    (Invariant::StoreWindow, windowed, |p| op(p, 4, 0, ScalarOp::Index(Affine::axis(1, 0))), "that does not vary"),
    (Invariant::StoreWindow, windowed, |p| pointwise(p, 4).body.scalars[ScalarId(0)].dtype = DType::F32, "%0 of f32"),
    (Invariant::StoreWindow, windowed, |p| window(p).indirect[0].extent = 0, "of 0 places"),
    (Invariant::AccessRange, windowed, |p| window(p).indirect[0].extent = 5, "elements 0 to 14"),
    (Invariant::BodySsa, windowed, |p| window(p).indirect[0].index = ScalarId(9), "%9 is stored"),
    (Invariant::BodySsa, linear, |p| op(p, 2, 2, ScalarOp::Unary(Unary::Neg, ScalarId(2))), "%2 uses %2"),
    (Invariant::BodySsa, linear, |p| op(p, 2, 2, ScalarOp::Acc(0)), "accumulator 0, and the kernel has 0"),
    (Invariant::BodySsa, linear, |p| pointwise(p, 2).stores[0].value = ScalarId(9), "%9 is stored"),
    (Invariant::BodySsa, linear, |p| reduction(p).reductions[0].value = ScalarId(1), "reduction 0 uses"),
    (Invariant::BodyTypes, linear, |p| pointwise(p, 2).body.scalars[ScalarId(2)].dtype = DType::I32, "expected f32"),
    (Invariant::BodyTypes, linear, |p| p.buffers[BufferId(5)].dtype = DType::I32, "stored in argument a2 of i32"),
    (Invariant::BodyTypes, linear, |p| op(p, 3, 1, ScalarOp::Const(Literal::i32(1))), "expected i32"),
    (Invariant::BodyTypes, linear, |p| op(p, 3, 1, ScalarOp::Index(Affine::axis(1, 0))), "expected i32"),
    (Invariant::BodyTypes, linear, wide_index, "a value within i32"),
    (Invariant::BodyTypes, embedding, |p| pointwise(p, 0).body.scalars[ScalarId(0)].dtype = DType::F32, "an i32 index"),
    (Invariant::ReduceRows, linear, |p| reduction(p).stores[0].value = ScalarId(0), "varies along cols"),
    (Invariant::ReduceRows, linear, reduce_nothing, "no reduction"),
    (Invariant::ContractTerms, linear, |p| part(p).terms.clear(), "at least one product"),
    (Invariant::ContractTerms, linear, |p| p.buffers[BufferId(1)].dtype = DType::F16, "[F32, F16]"),
    (Invariant::ContractTerms, linear, |p| integers(p), "all of f32, or f16 where they are rounded"),
    (Invariant::UpdateRoles, embedding, |p| arg(p, 2, 1).mode = ArgMode::Read, "role 0 of segment 1 differs"),
    (Invariant::UpdateRoles, embedding, |p| update(p).segments.push(2), "need 4"),
    (
        Invariant::UpdateRoles,
        embedding,
        |p| update(p).stores[0].access.at.offset = 1,
        "a store of role 0 with offset 1",
    ),
    (Invariant::UpdateRoles, embedding, |p| load(&mut update(p).body, 1).at.coeffs[0] = 1, "a load of role 1"),
    (Invariant::FoldBlocks, norm, |p| fold(p).segments.push(2), "need 4"),
    (Invariant::FoldBlocks, norm, |p| p.buffers[BufferId(1)].dtype = DType::I32, "segment 1 is not read, or differs"),
    (Invariant::FoldBlocks, norm, |p| load(&mut fold(p).body, 0).at.coeffs[0] = 0, "a load of role 0"),
    (Invariant::FoldBlocks, norm, |p| fold(p).out.at.coeffs[0] = 0, "the results"),
    (Invariant::FoldBlocks, norm, |p| fold(p).reduction.op = Reduce::ArgMax, "reduce_argmax of f32 into"),
    (Invariant::FoldBlocks, norm, index_in_fold, "an index in the body"),
    (Invariant::SpaceExtents, norm, |p| fold(p).block = 0, "the store of the results ranges over [0]"),
    (Invariant::AccessRange, norm, |p| fold(p).block = 1, "elements 0 to 5 of argument a2, which has 4"),
    (Invariant::AttentionShape, attention, |p| p.buffers[BufferId(8)].dtype = DType::F16, "b8 is f16"),
    (Invariant::AttentionShape, attention, |p| forward(p).shape.k_len = 2, "unequal"),
    (Invariant::AttentionShape, attention, |p| forward(p).v = None, "both or neither"),
    (Invariant::AttentionShape, attention, |p| store_nothing(backward(p)), "no result"),
    (Invariant::AttentionShape, attention, |p| forward(p).shape.scale = f64::NAN, "the scale is NaN"),
    (Invariant::ScatterIndex, embedding, |p| scatter(p).index = ScalarId(1), "the index %1 is f32"),
    (
        Invariant::ScatterIndex,
        embedding,
        |p| load(&mut scatter(p).body, 0).at.coeffs[1] = 1,
        "does not vary along inner",
    ),
    (Invariant::ScatterIndex, embedding, |p| scatter(p).value = ScalarId(0), "one numeric dtype"),
    (Invariant::StageIndependent, linear, |p| p.stages = vec![(0, 2), (2, 3), (3, 5)], "share buffer b3 (mlp.h)"),
    (Invariant::SingleWriter, linear, |p| drop_kernel(p, 1), "b4 (mlp.sum) is written by no kernel"),
    (Invariant::SingleWriter, linear, |p| repeat_kernel(p, 3), "is written by 2 kernels"),
    (Invariant::SingleWriter, linear, swap_stages, "expected the write in an earlier stage"),
    (Invariant::SingleWriter, linear, write_input, "input b0 (x) is written"),
    (Invariant::SingleWriter, linear, |p| repeat_kernel(p, 4), "state b1 (w) is written"),
    (Invariant::StateLast, linear, update_first, "written in stage 0 by kernel decay_w_4 and used in stage 1"),
    (Invariant::Placement, linear, |p| p.buffers[BufferId(4)].place = Place::Slot(0), "expected a Slab place"),
    (Invariant::Placement, linear, |p| p.buffers[BufferId(4)].place = Place::Own, "expected a Slab place"),
    (Invariant::Placement, linear, |p| p.buffers[BufferId(2)].place = Place::Slab(128), "storage of its own"),
    (Invariant::Placement, linear, |p| p.buffers[BufferId(4)].place = Place::Slab(128), "ends at byte 136"),
    (Invariant::Placement, slotted, |p| p.buffers[BufferId(4)].place = Place::Slot(4), "slot 4 has 0"),
    (Invariant::Placement, packed, |p| p.buffers[BufferId(0)].place = part_of_pack(64), "storage of its own"),
    (Invariant::Placement, packed, |p| p.buffers[BufferId(4)].place = part_of_pack(128), "ends at byte 136 of pack 0"),
    (Invariant::LiveRange, linear, |p| p.buffers[BufferId(4)].live = Some((1, 1)), "used in stages 1 to 2"),
    (Invariant::Alignment, linear, |p| p.buffers[BufferId(4)].place = Place::Slab(36), "multiple of 64"),
    (Invariant::Alignment, packed, |p| p.buffers[BufferId(4)].place = part_of_pack(96), "multiple of 64"),
    (Invariant::NoOverlap, linear, |p| p.buffers[BufferId(4)].place = Place::Slab(0), "share bytes"),
    (Invariant::NoOverlap, packed, |p| p.buffers[BufferId(4)].place = part_of_pack(0), "share bytes of pack 0"),
    (Invariant::NoOverlap, linear, |p| p.buffers[BufferId(5)].takes_over = None, "share bytes"),
    (Invariant::NoOverlap, slotted, |p| p.buffers[BufferId(4)].place = Place::Slot(0), "share bytes"),
    (
        Invariant::Takeover,
        linear,
        |p| load(&mut pointwise(p, 2).body, 0).at = Affine { offset: 7, coeffs: vec![-4, -1] },
        "load %0",
    ),
    (Invariant::Takeover, linear, |p| p.buffers[BufferId(5)].takes_over = Some(BufferId(0)), "no other placed"),
    (Invariant::Takeover, linear, |p| p.buffers[BufferId(5)].place = Place::Slab(64), "it begins at"),
    (Invariant::Takeover, linear, |p| p.buffers[BufferId(5)].dtype = DType::F16, "its elements are f16"),
    (Invariant::Takeover, linear, read_taken, "is not the only and last"),
    (Invariant::Takeover, packed, |p| p.buffers[BufferId(5)].place = part_of_pack(64), "never reused"),
    (Invariant::MemoryTotals, linear, |p| p.memory.planned = 256, "planned is 256 bytes, and the temporaries take 72"),
    (Invariant::MemoryTotals, linear, |p| p.memory.lower_bound = 64, "given as 64 bytes, and is 128"),
    (Invariant::MemoryTotals, linear, |p| p.memory.slots = vec![8], "a slab plan has slots"),
    (Invariant::MemoryTotals, attention, |p| p.memory.planned = 48, "expected an empty one"),
    (Invariant::MemoryTotals, slotted, |p| p.memory.slots[1] = 100, "planned is 96 bytes"),
    (Invariant::MemoryTotals, packed, |p| p.memory.planned = 32, "the temporaries take 96"),
];

fn slotted() -> Program {
    let mut p = linear();
    p.target.placement = PlacementPolicy::Slot;
    for (b, slot) in [(3, 0), (4, 1), (5, 0)] {
        p.buffers[BufferId(b)].place = Place::Slot(slot);
    }
    (p.memory.slots, p.memory.planned) = (vec![32, 64], 96);
    p
}

fn arg(p: &mut Program, kernel: u32, arg: usize) -> &mut Arg {
    &mut p.kernels[KernelId(kernel)].args[arg]
}

fn add_arg(p: &mut Program, kernel: u32, buffer: u32, mode: ArgMode) {
    p.kernels[KernelId(kernel)].args.push(Arg { buffer: BufferId(buffer), mode });
}

/// A function that finds the archetype of a kernel of a sample.
macro_rules! finder {
    ($name:ident, $Kind:ident, $Type:ty) => {
        fn $name(p: &mut Program) -> &mut $Type {
            let found = p.kernels.values_mut().find_map(|k| match &mut k.kind {
                KernelKind::$Kind(k) => Some(k),
                _ => None,
            });
            found.expect("the sample has such a kernel")
        }
    };
}
finder!(reduction, Reduce, ReduceKernel);
finder!(update, Update, Update);
finder!(fold, Fold, crate::program::Fold);
finder!(scatter, Scatter, Scatter);
finder!(forward, Attention, Attention);
finder!(backward, AttentionGrad, AttentionGrad);
finder!(contraction, Contract, crate::program::Contract);

fn part(p: &mut Program) -> &mut ContractPart {
    &mut contraction(p).parts[0]
}

fn pointwise(p: &mut Program, kernel: u32) -> &mut Pointwise {
    match &mut p.kernels[KernelId(kernel)].kind {
        KernelKind::Pointwise(k) => k,
        _ => panic!("kernel {kernel} of the sample is pointwise"),
    }
}

fn load(body: &mut crate::program::Body, scalar: u32) -> &mut Access {
    match &mut body.scalars[ScalarId(scalar)].op {
        ScalarOp::Load(a) => a,
        _ => panic!("scalar {scalar} of the sample is a load"),
    }
}

fn op(p: &mut Program, kernel: u32, scalar: u32, op: ScalarOp) {
    pointwise(p, kernel).body.scalars[ScalarId(scalar)].op = op;
}

fn indirect(index: u32) -> Vec<crate::program::Indirect> {
    vec![crate::program::Indirect { index: ScalarId(index), stride: 1, extent: 1 }]
}

fn index_in_fold(p: &mut Program) {
    fold(p).body.push(ScalarOp::Index(Affine { offset: 0, coeffs: vec![1] }), DType::I32);
}

fn wide_index(p: &mut Program) {
    let k = pointwise(p, 3);
    k.body.push(ScalarOp::Index(Affine { offset: 1 << 40, coeffs: vec![0] }), DType::I32);
}

/// The product is stored over its own left operand.
fn contraction_in_place(p: &mut Program) {
    p.kernels[KernelId(0)].args.pop();
    *arg(p, 0, 0) = Arg { buffer: BufferId(3), mode: ArgMode::ReadWrite };
    part(p).stores[0].access.arg = ArgId(0);
}

fn store_again(p: &mut Program) {
    let stores = &mut pointwise(p, 2).stores;
    stores.push(stores[0].clone());
}

fn reduce_nothing(p: &mut Program) {
    let k = reduction(p);
    k.reductions.clear();
    k.body.scalars[ScalarId(1)].op = ScalarOp::Const(Literal::f32(0.0));
}

fn store_nothing(k: &mut AttentionGrad) {
    (k.dq, k.dk, k.dv) = (None, None, None);
}

fn drop_kernel(p: &mut Program, stage: usize) {
    // The stage's kernel becomes one that does nothing to the program's temporaries.
    let extra = linear().kernels[KernelId(4)].clone();
    p.kernels[KernelId(stage as u32)] = crate::program::Kernel { name: "other".into(), ..extra };
}

fn repeat_kernel(p: &mut Program, k: u32) {
    let copy = crate::program::Kernel { name: "again".into(), ..p.kernels[KernelId(k)].clone() };
    p.kernels.push(copy);
    p.stages.push((5, 6));
}

fn swap_stages(p: &mut Program) {
    let (a, b) = (p.kernels[KernelId(1)].clone(), p.kernels[KernelId(2)].clone());
    (p.kernels[KernelId(1)], p.kernels[KernelId(2)]) = (b, a);
}

fn update_first(p: &mut Program) {
    let order = [4, 0, 1, 2, 3].map(|i| p.kernels[KernelId(i)].clone());
    for (i, k) in order.into_iter().enumerate() {
        p.kernels[KernelId(i as u32)] = k;
    }
    p.stages = (0..5).map(|i| (i, i + 1)).collect();
}

fn write_input(p: &mut Program) {
    let args = [(BufferId(2), ArgMode::Read), (BufferId(0), ArgMode::Write)];
    p.kernels.push(kernel("extra", &args, plus(6, 1.0)));
    p.stages.push((5, 6));
}

fn read_taken(p: &mut Program) {
    let t = p.outputs.len();
    p.outputs.push(crate::program::ProgramOutput { name: "late".into(), ..p.outputs[0].clone() });
    let copy = crate::program::Buffer { kind: BufferKind::Output(t), ..p.buffers[BufferId(2)].clone() };
    p.outputs[t].buffer = p.buffers.push(copy);
    let args = [(BufferId(3), ArgMode::Read), (p.outputs[t].buffer, ArgMode::Write)];
    p.kernels.push(kernel("late", &args, plus(8, 0.0)));
    p.stages.push((5, 6));
}

/// The weight and the row sums in a pack, the other temporaries in a slot.
fn packed() -> Program {
    let mut p = slotted();
    p.buffers[BufferId(1)].place = part_of_pack(0);
    p.buffers[BufferId(4)].place = part_of_pack(64);
    (p.memory.slots, p.memory.packs) = (vec![32], vec![128]);
    p
}

/// Kernel 4 replaces one row of the weight [4,3] by ones, at the place that scalar 0 names.
fn windowed() -> Program {
    let mut p = linear();
    let mut body = crate::program::Body::default();
    let row = body.push(ScalarOp::Const(Literal::i32(2)), DType::I32);
    let one = body.push(ScalarOp::Const(Literal::f32(1.0)), DType::F32);
    let window = vec![crate::program::Indirect { index: row, stride: 3, extent: 4 }];
    let access = Access { indirect: window, ..Access::direct(ArgId(0), 0, vec![1]) };
    let stores = vec![crate::program::Store { access, value: one }];
    let kind = KernelKind::Pointwise(Pointwise { space: vec![3], body, stores });
    p.kernels[KernelId(4)] = kernel("replace", &[(BufferId(1), ArgMode::Write)], kind);
    p
}

fn window(p: &mut Program) -> &mut Access {
    &mut pointwise(p, 4).stores[0].access
}

fn integers(p: &mut Program) {
    p.buffers[BufferId(0)].dtype = DType::F16;
    p.buffers[BufferId(1)].dtype = DType::I32;
    part(p).terms[0].f16 = true;
}

fn into_temporary(p: &mut Program) {
    *arg(p, 4, 0) = Arg { buffer: BufferId(5), mode: ArgMode::Write };
}

fn read_window(p: &mut Program) {
    arg(p, 4, 0).mode = ArgMode::ReadWrite;
    let k = pointwise(p, 4);
    k.stores[0].value = k.body.push(ScalarOp::Load(Access::direct(ArgId(0), 0, vec![1])), DType::F32);
}

fn part_of_pack(offset: usize) -> Place {
    Place::Pack { pack: 0, offset }
}

#[test]
fn samples_are_sound() {
    for sample in [linear, attention, embedding, norm, slotted, packed, windowed] {
        let program = sample();
        assert_eq!(verify(&program), Ok(()), "{}", program.name);
    }
}

#[test]
fn each_broken_program_is_refused_by_its_invariant() {
    for (i, (invariant, sample, break_it, words)) in CASES.iter().enumerate() {
        let mut program = sample();
        break_it(&mut program);
        let Err(violations) = verify(&program) else { panic!("case {i}, {}: accepted", invariant.name()) };
        let named = violations.list.iter().any(|v| v.invariant == *invariant && v.found.contains(words));
        assert!(named, "case {i}: expected {} with {words:?}, found {violations}", invariant.name());
    }
}

#[test]
fn every_invariant_is_specified_and_tested() {
    let specification = include_str!("mod.rs");
    for invariant in Invariant::ALL {
        let name = invariant.name();
        assert!(specification.contains(&format!("//! - `{name}`:")), "{name} is not in the module comment");
        assert!(CASES.iter().any(|(i, ..)| i == invariant), "{name} has no broken program");
    }
}

#[test]
fn interleaved_stores_are_proven_disjoint() {
    // A concatenation along the inner axis: columns 0..4 and 4..10 of rows of 10, too many points to try.
    let rows = 1 << 20;
    let mut p = linear();
    for b in [2, 3] {
        p.buffers[BufferId(b)].len = 10 * rows;
    }
    let k = pointwise(&mut p, 3);
    k.space = vec![rows, 4];
    load(&mut k.body, 0).at.coeffs = vec![0, 1];
    k.stores = (0..2)
        .map(|i| crate::program::Store { access: Access::direct(ArgId(1), 4 * i, vec![10, 1]), value: ScalarId(2) })
        .collect();
    let disjoint = |p: &Program| match verify(p) {
        Ok(()) => true,
        Err(v) => v.list.iter().all(|v| v.invariant != Invariant::StoreDisjoint),
    };
    assert!(disjoint(&p));
    pointwise(&mut p, 3).stores[1].access.at.offset = 3;
    assert!(!disjoint(&p));
}

#[test]
fn later_reductions_may_use_earlier_ones() {
    let mut p = linear();
    let k = reduction(&mut p);
    let (x, total) = (ScalarId(0), ScalarId(1));
    let centred = k.body.binary(crate::op::Binary::Sub, x, total);
    k.reductions.push(Reduction { op: Reduce::Max, value: centred });
    assert_eq!(verify(&p), Ok(()));
    reduction(&mut p).reductions.swap(0, 1);
    let Err(v) = verify(&p) else { panic!("reduction 0 uses the result of reduction 0") };
    assert_eq!(v.list.iter().map(|v| v.invariant).collect::<Vec<_>>(), [Invariant::BodySsa]);
}
