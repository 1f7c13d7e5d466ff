//! How a pack task and a compute task run.

#[cfg(target_arch = "x86_64")]
use super::blocking::{GROUP, MAX_PANELS, PackTask, Source, part, segments};
#[cfg(target_arch = "x86_64")]
use super::kernel::{Call, Form, Kernels};
#[cfg(target_arch = "x86_64")]
use super::pack::{Operand, Part, pack_panels};
#[cfg(target_arch = "x86_64")]
use super::{Elementwise, Output, Tile};
use super::{Epilogue, GemmPlan, MAX_ADDENDS, Side};
#[cfg(target_arch = "x86_64")]
use std::ops::Range;

/// # Safety
/// As for [`GemmPlan::pack`], and the processor has `S`.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn pack<S: Kernels>(plan: &GemmPlan, side: Side, task: usize, operand: &[*const f32], packed: *mut f32) {
    let Some(copies) = plan.copies(side) else { return };
    let PackTask { copy, panels, k } = &copies.tasks[task];
    let offsets = plan.problem.batches[copies.from[*copy]].of(side);
    // SAFETY: the operand is readable by the caller's contract, and the copy lies inside the buffer.
    unsafe { pack_range::<S>(plan, side, panels.clone(), offsets, operand, k.clone(), packed.add(copy * copies.len)) };
}

/// Packs panels of one side in a range of k. Panels and rows of k lie where a packed copy has them: `packed` is its
/// start or, where a task packs, that of the first panel with the range's first k.
///
/// # Safety
/// The operand is readable at its offsets, and `packed` writable for the panels.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn pack_range<S: Kernels>(
    plan: &GemmPlan,
    side: Side,
    panels: Range<usize>,
    offsets: &[isize],
    operand: &[*const f32],
    range: Range<usize>,
    packed: *mut f32,
) {
    let (problem, blocking) = (&plan.problem, &plan.blocking);
    let count = problem.m.div_ceil(blocking.rows);
    let ahead = plan.copies(side).is_some();
    // Elements between panels, and the panel and the k at the start of `packed`.
    let depth = if ahead { problem.k() } else { range.len() };
    let a_len = blocking.panel_len(depth);
    let (first_panel, first_k) = if ahead { (0, 0) } else { (panels.start, range.start) };
    let mut first = panels.start;
    while first < panels.end {
        let end = (first + MAX_PANELS).min(panels.end);
        let mut at = range.start;
        for (t, from, to) in segments(problem, range.clone()) {
            let term = &problem.terms[t];
            let (k, w) = match side {
                Side::A => (&term.a_k, &term.a_m),
                Side::B => (&term.b_k, &term.b_n),
            };
            let mut parts = [Part { first: 0, count: 0, width: 0, to: packed }; MAX_PANELS];
            for (panel, part_of) in (first..end).zip(&mut parts) {
                let (elements, width, start) = match side {
                    Side::A => {
                        let rows = part(problem.m, count, panel);
                        (rows.clone(), rows.len(), (panel - first_panel) * a_len)
                    }
                    Side::B => {
                        let start = panel * blocking.cols;
                        let columns = start..(start + blocking.cols).min(problem.n);
                        let width = columns.len().next_multiple_of(S::LANES);
                        (columns, width, (panel - first_panel) * blocking.cols * depth)
                    }
                };
                // SAFETY: inside the packed panels.
                let to = unsafe { packed.add(start + (at - first_k) * width) };
                *part_of = Part { first: elements.start, count: elements.len(), width, to };
            }
            // SAFETY: passed on.
            unsafe {
                let operand = Operand { data: operand[t].offset(offsets[t]), k, w };
                pack_panels::<S>(operand, (from, to), &parts[..end - first]);
            }
            at += to - from;
        }
        first = end;
    }
}

/// An operand in one block of k where it lies: its element (0, 0), and the elements from k to k. Its panels' elements of one k
/// are contiguous.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
struct InPassing {
    start: *const f32,
    ld: isize,
}

/// The operand of a side that each task packs, if microkernels can pack it in passing: the first that needs a panel reads it where it
/// lies. So they can in a block of one term whose elements are evenly spaced along k and contiguous along the other axis.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn in_passing(
    plan: &GemmPlan,
    side: Side,
    range: &Range<usize>,
    offsets: &[isize],
    operand: &[*const f32],
) -> Option<InPassing> {
    let source = match side {
        Side::A => &plan.blocking.a,
        Side::B => &plan.blocking.b,
    };
    if *source != Source::Task {
        return None;
    }
    let mut segments = segments(&plan.problem, range.clone());
    let (Some((t, from, _)), None) = (segments.next(), segments.next()) else { return None };
    let term = &plan.problem.terms[t];
    let (k, w) = match side {
        Side::A => (&term.a_k, &term.a_m),
        Side::B => (&term.b_k, &term.b_n),
    };
    let ld = k.stride()?;
    (w.stride() == Some(1))
        .then(|| InPassing { start: operand[t].wrapping_offset(offsets[t] + from as isize * ld), ld })
}

/// # Safety
/// As for [`GemmPlan::run`], and the processor has `S`.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn run<S: Kernels>(
    plan: &GemmPlan,
    task: usize,
    a: &[*const f32],
    b: &[*const f32],
    packed: [*const f32; 2],
    scratch: *mut f32,
    epilogue: &Epilogue,
) {
    let (problem, blocking) = (&plan.problem, &plan.blocking);
    let task = &blocking.tasks[task];
    let panels = problem.m.div_ceil(blocking.rows);
    // SAFETY: scratch holds the A and the B that the task packs, then the tile.
    let (packed_b, tile) = unsafe {
        let packed_b = scratch.add(blocking.task_a_len(task));
        (packed_b, packed_b.add(blocking.task_b_len(task)))
    };
    let tile_ld = blocking.tile_ld(task);
    let columns = task.columns.clone();
    let k = problem.k();
    let (addends, factor) = match epilogue {
        Epilogue::Store { addends, factor, .. } => (*addends, *factor),
        Epilogue::Call(_) => (&[][..], None),
    };
    for batch in task.batches.clone() {
        let offsets = &problem.batches[batch];
        // Where the sums go: straight to the output if its rows are evenly spaced and contiguous.
        let place = match epilogue {
            Epilogue::Store { c, output, .. } => match (output.rows.stride(), output.cols.stride()) {
                (Some(ld), Some(1)) => Some((c.wrapping_offset(output.batches[batch] + columns.start as isize), ld)),
                _ => None,
            },
            Epilogue::Call(_) => None,
        };
        let last = blocking.depths.len() - 1;
        for (block, range) in blocking.depths.iter().enumerate() {
            let depth = range.len();
            let first_row = part(problem.m, panels, task.panels.start).start;
            let passing_a = in_passing(plan, Side::A, range, &offsets.a, a);
            let passing_b = in_passing(plan, Side::B, range, &offsets.b, b);
            // Panel `p` of the packed A in this block of k lies at `a_start + (p - a_first) * a_len + range start * rows`.
            let (a_start, a_first, a_len, a_k) = match &blocking.a {
                Source::Direct => (std::ptr::null(), 0, 0, 0),
                Source::Task => {
                    if passing_a.is_none() {
                        let panels = task.panels.clone();
                        // SAFETY: the operands are readable by the caller's contract, scratch holds the panels.
                        unsafe { pack_range::<S>(plan, Side::A, panels, &offsets.a, a, range.clone(), scratch) };
                    }
                    (scratch.cast_const(), task.panels.start, blocking.panel_len(depth), 0)
                }
                Source::Ahead(copies) => {
                    let start = packed[0].wrapping_add(copies.of[batch] * copies.len);
                    (start, 0, blocking.panel_len(k), range.start)
                }
            };
            if blocking.b == Source::Task && passing_b.is_none() {
                let panels = columns.start / blocking.cols..columns.end.div_ceil(blocking.cols);
                // SAFETY: as for A.
                unsafe { pack_range::<S>(plan, Side::B, panels, &offsets.b, b, range.clone(), packed_b) };
            }
            // The term that a block read in place lies in. Without any k nothing is read.
            let in_place = segments(problem, range.clone()).next();
            let mut group = task.panels.start;
            while group < task.panels.end {
                let group_end = (group + GROUP).min(task.panels.end);
                let group_rows = part(problem.m, panels, group).start..part(problem.m, panels, group_end - 1).end;
                let tile = if blocking.depths.len() > 1 {
                    // SAFETY: the tile holds all rows of the task.
                    unsafe { tile.add((group_rows.start - first_row) * tile_ld) }
                } else {
                    tile
                };
                let (c, ldc) = match place {
                    Some((c, ld)) => (c.wrapping_offset(group_rows.start as isize * ld), ld),
                    None => (tile, tile_ld as isize),
                };
                let mut first = columns.start;
                while first < columns.end {
                    let cols = (columns.end - first).min(blocking.cols);
                    let (b, ldb) = match (&blocking.b, in_place) {
                        (Source::Ahead(copies), _) => {
                            let width = cols.next_multiple_of(S::LANES);
                            let at = copies.of[batch] * copies.len + first * k + range.start * width;
                            (packed[1].wrapping_add(at), width as isize)
                        }
                        (Source::Task, _) => {
                            let width = cols.next_multiple_of(S::LANES);
                            (packed_b.wrapping_add((first - columns.start) * depth).cast_const(), width as isize)
                        }
                        (Source::Direct, Some((t, from, _))) => {
                            let ld = problem.terms[t].b_k.stride().unwrap_or(0);
                            (b[t].wrapping_offset(offsets.b[t] + from as isize * ld + first as isize), ld)
                        }
                        (Source::Direct, None) => (std::ptr::null(), 0),
                    };
                    for panel in group..group_end {
                        let rows = part(problem.m, panels, panel);
                        let (mut form, mut a, mut lda) = match in_place {
                            Some((t, from, _)) if blocking.a == Source::Direct => {
                                let ld = problem.terms[t].a_m.stride().unwrap_or(0);
                                let at = offsets.a[t] + rows.start as isize * ld + from as isize;
                                (Form::ByRows, a[t].wrapping_offset(at), ld)
                            }
                            _ => {
                                let at = (panel - a_first) * a_len + a_k * rows.len();
                                (Form::ByColumns, a_start.wrapping_add(at), rows.len() as isize)
                            }
                        };
                        let (mut b, mut ldb, mut packed) = (b, ldb, std::ptr::null_mut());
                        match (passing_a, passing_b) {
                            (Some(from), _) if first == columns.start => {
                                (form, packed) = (Form::PackA, a.cast_mut());
                                (a, lda) = (from.start.wrapping_add(rows.start), from.ld);
                            }
                            (_, Some(from)) if panel == task.panels.start => {
                                (form, packed) = (Form::PackB, b.cast_mut());
                                (b, ldb) = (from.start.wrapping_add(first), from.ld);
                            }
                            _ => {}
                        }
                        // Added to the first block's sums: later, C holds sums where an addend may have been.
                        let here = |x: &Elementwise| {
                            let at = x.batches[batch] + rows.start as isize * x.ld + first as isize;
                            (x.data.wrapping_offset(at), x.ld)
                        };
                        let mut near = [(std::ptr::null(), 0); MAX_ADDENDS];
                        let added = if block == 0 { addends } else { &[] };
                        for (near, addend) in near.iter_mut().zip(added) {
                            *near = here(addend);
                        }
                        let factor = factor.as_ref().map(here);
                        // SAFETY: A and B hold the panels; C is the task's own block, and addends are readable there.
                        unsafe {
                            S::kernel(form, rows.len(), cols)(&Call {
                                k: depth,
                                a,
                                lda,
                                b,
                                ldb,
                                c: c.offset((rows.start - group_rows.start) as isize * ldc).add(first - columns.start),
                                ldc,
                                cols,
                                accumulate: block > 0,
                                addends: &near[..added.len()],
                                factor,
                                packed,
                            });
                        }
                    }
                    first += cols;
                }
                if block == last && place.is_none() {
                    let tile = Tile {
                        data: tile,
                        ld: tile_ld,
                        batch,
                        m0: group_rows.start,
                        m1: group_rows.end,
                        n0: columns.start,
                        n1: columns.end,
                    };
                    match epilogue {
                        Epilogue::Call(f) => f(tile),
                        // SAFETY: the output is writable by the caller's contract.
                        Epilogue::Store { c, output, .. } => unsafe { scatter(&tile, *c, output) },
                    }
                }
                group = group_end;
            }
        }
    }
}

/// Stores a tile element by element, for outputs of any layout.
///
/// # Safety
/// The tile is readable, and the output writable at its elements.
#[cfg(target_arch = "x86_64")]
unsafe fn scatter(tile: &Tile, c: *mut f32, output: &Output) {
    for j in tile.n0..tile.n1 {
        let column = output.batches[tile.batch] + output.cols.offset(j);
        for i in tile.m0..tile.m1 {
            // SAFETY: passed on.
            unsafe {
                let from = tile.data.add((i - tile.m0) * tile.ld + j - tile.n0);
                *c.offset(column + output.rows.offset(i)) = *from;
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
macro_rules! entries {
    ($features:literal, $simd:ident, $pack:ident, $run:ident) => {
        /// # Safety
        /// As for [`GemmPlan::pack`], and the processor has the features.
        #[target_feature(enable = $features)]
        pub(super) unsafe fn $pack(plan: &GemmPlan, side: Side, task: usize, operand: &[*const f32], packed: *mut f32) {
            // SAFETY: passed on.
            unsafe { pack::<crate::vector::$simd>(plan, side, task, operand, packed) }
        }

        /// # Safety
        /// As for [`GemmPlan::run`], and the processor has the features.
        #[target_feature(enable = $features)]
        pub(super) unsafe fn $run(
            plan: &GemmPlan,
            task: usize,
            a: &[*const f32],
            b: &[*const f32],
            packed: [*const f32; 2],
            scratch: *mut f32,
            epilogue: &Epilogue,
        ) {
            // SAFETY: passed on.
            unsafe { run::<crate::vector::$simd>(plan, task, a, b, packed, scratch, epilogue) }
        }
    };
}

#[cfg(target_arch = "x86_64")]
entries!("avx512f", Avx512, pack_avx512, run_avx512);
#[cfg(target_arch = "x86_64")]
entries!("avx2,fma", Avx2, pack_avx2, run_avx2);
