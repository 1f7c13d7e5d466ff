//! A contraction served by the template: its tasks in up to three phases.
//!
//! 1. Sides that are packed ahead are packed.
//! 2. Products run. One whose k was cut into ranges is several: the first stores to the output, the others to shared scratch.
//! 3. Those partial sums are added to the output, in the order of k.

use super::template::{At, Part, PartEpilogue};
use super::{CodegenError, Gemm, GemmEpilogue, SCRATCH_ALIGN, Sums, Task, Unit, Work, compile};
use crate::clif::Jit;
use crate::lower::Epilogue;
use std::ops::Range;
use std::sync::Arc;
use tinygpt_ir::program::Kernel;
use tinygpt_simd::gemm::{Output, Side};
use tinygpt_simd::{Axis, Isa};

/// Elements of the output that one task adds partial sums to, about.
const ADD_WORK: usize = 32 * 1024;

/// Estimated nanoseconds of packing an element, and of adding one partial sum: tasks are ordered by them.
const PACK_NS: f64 = 0.3;
const ADD_NS: f64 = 0.2;

pub(super) fn build(
    unit: &mut Unit,
    kernel: &Kernel,
    parts: Vec<Part>,
    isa: Isa,
    jit: &mut Jit,
) -> Result<(), CodegenError> {
    let (mut packs, mut products) = (Vec::new(), Vec::new());
    let mut gemms: Vec<Arc<Gemm>> = Vec::new();
    let mut sums: Vec<Sums> = Vec::new();
    let (mut generated, mut added, mut factors, mut copies) = (0, 0, 0, 0);
    for part in parts {
        let own = (4 * part.plan.scratch_len()).next_multiple_of(SCRATCH_ALIGN);
        unit.scratch = unit.scratch.max(own);
        let epilogue = match part.epilogue {
            PartEpilogue::Store { arg, offset, output, addends, factor } => {
                added += addends.len();
                factors += usize::from(factor.is_some());
                GemmEpilogue::Store { arg, offset, output, addends, factor }
            }
            PartEpilogue::Call(Epilogue { func, bufs }) => {
                generated += 1;
                let needs = func.scratch_layout().1;
                let code = compile(unit, kernel, func, jit)?;
                unit.scratch = unit.scratch.max(own + needs);
                GemmEpilogue::Call { code, bufs, scratch: own }
            }
            PartEpilogue::Partial { m, n } => {
                let shared = share(unit, m * n);
                let before = gemms.last().map(|gemm| &gemm.epilogue);
                match before {
                    Some(GemmEpilogue::Store { arg, offset, output, .. }) => {
                        let ld = output.rows.stride().expect("only even rows are summed by ranges of k");
                        let output = (*arg, *offset + output.batches[0]);
                        sums.push(Sums { isa, output, ld, m, n, partials: vec![shared] });
                    }
                    _ => sums.last_mut().expect("a range of k follows another").partials.push(shared),
                }
                let output =
                    Output { rows: Axis::strided(m, n as isize), cols: Axis::strided(n, 1), batches: Box::new([0]) };
                GemmEpilogue::Partial { shared, output }
            }
        };
        let sides = [(Side::A, &part.operands.a), (Side::B, &part.operands.b)];
        // Parts that pack the same operand alike share one copy.
        let like = |side: Side, operand: &[At]| {
            let same = |g: &&Arc<Gemm>| g.operand(side) == operand && part.plan.packs_like(&g.plan, side);
            gemms.iter().find(same).and_then(|g| g.packed[side as usize])
        };
        let before = sides.map(|(side, operand)| like(side, operand));
        let mut packed = before;
        for (side, place) in [Side::A, Side::B].into_iter().zip(&mut packed) {
            if place.is_none() && part.plan.packed_len(side) > 0 {
                *place = Some(share(unit, part.plan.packed_len(side)));
                copies += 1;
            }
        }
        let gemm = Arc::new(Gemm { plan: part.plan, product: part.operands, packed, epilogue });
        let place = |inside: f64| part.share.start + (part.share.end - part.share.start) * inside;
        for side in [Side::A, Side::B].into_iter().filter(|side| before[*side as usize].is_none()) {
            let tasks = gemm.plan.pack_tasks(side);
            let cost = gemm.plan.packed_len(side) as f64 * PACK_NS / tasks.max(1) as f64;
            let pack = |task| Work::Pack { gemm: gemm.clone(), side, task };
            let position = |task| place(gemm.plan.pack_position(side, task));
            packs.extend((0..tasks).map(|task| Task::one(pack(task), cost, position(task))));
        }
        let tasks = gemm.plan.tasks();
        // Estimated for ordering only: the plan has cut the work.
        let cost = gemm.plan.flops() as f64 / 150.0 / tasks.max(1) as f64;
        let product = |task| Work::Product { gemm: gemm.clone(), task };
        products.extend((0..tasks).map(|task| Task::one(product(task), cost, place(gemm.plan.position(task)))));
        gemms.push(gemm);
    }
    unit.template = Some(describe(isa, &gemms, &sums, copies, [generated, added, factors]));
    let adds = sums.into_iter().flat_map(add_tasks).collect();
    unit.phases = [packs, products, adds].into_iter().filter(|tasks: &Vec<Task>| !tasks.is_empty()).collect();
    Ok(())
}

/// A new shared buffer of so many f32.
fn share(unit: &mut Unit, len: usize) -> usize {
    unit.shared.push(len);
    unit.shared.len() - 1
}

fn add_tasks(sums: Sums) -> Vec<Task> {
    let (m, n, partials) = (sums.m, sums.n, sums.partials.len());
    let count = (m * n).div_ceil(ADD_WORK).clamp(1, m.max(1));
    let sums = Arc::new(sums);
    let rows = |i: usize| m * i / count..m * (i + 1) / count;
    let task = |rows: Range<usize>| {
        let cost = (rows.len() * n * partials) as f64 * ADD_NS;
        let position = rows.start as f64 / m as f64;
        Task::one(Work::Add { sums: sums.clone(), rows }, cost, position)
    };
    (0..count).map(rows).map(task).collect()
}

/// The template in words, for dumps.
fn describe(
    isa: Isa,
    gemms: &[Arc<Gemm>],
    sums: &[Sums],
    copies: usize,
    [generated, added, factors]: [usize; 3],
) -> String {
    let with = match generated {
        0 => {
            let addends = if added > 0 { format!(" with {added} addends") } else { String::new() };
            let factors = match factors {
                0 => "",
                1 => " times a factor",
                _ => " times factors",
            };
            match (addends.as_str(), factors) {
                ("", "") => "sums stored as they are".to_string(),
                (addends, factors) => format!("sums stored{addends}{factors}"),
            }
        }
        1 => "one generated epilogue".to_string(),
        n => format!("{n} generated epilogues"),
    };
    let mut sources: Vec<String> = Vec::new();
    for gemm in gemms {
        let [left, right] = [Side::A, Side::B].map(|side| gemm.plan.source(side));
        let text = format!("left {left}, right {right}");
        if !sources.contains(&text) {
            sources.push(text);
        }
    }
    let once = match gemms.iter().flat_map(|g| g.packed.into_iter().flatten()).count() - copies {
        0 => String::new(),
        n => format!(", {n} packed for a part before it"),
    };
    let ranges = match sums.iter().map(|sums| sums.partials.len() + 1).max() {
        None => String::new(),
        Some(n) => format!(", k in {n} ranges"),
    };
    format!("contraction {} ({}{once}{ranges}), {with}", isa.name(), sources.join("; "))
}
