//! How a problem is cut into blocks, panels and tasks, and how a task runs.

#[cfg(target_arch = "x86_64")]
use super::kernel::{Call, Kernels};
#[cfg(target_arch = "x86_64")]
use super::pack::{Operand, Part, pack_panel, pack_panels};
use super::{Epilogue, GemmPlan, Output, Problem, Term, Tile};
use crate::Isa;
use std::collections::HashMap;
use std::ops::Range;

/// Longest block of k: a panel of B of this depth and two vectors of columns fills half of the first-level cache.
const MAX_DEPTH: usize = 256;
/// Shortest term, of several, for A to be read in place.
const MIN_DEPTH: usize = 64;
/// Largest block of B in f32, depth times columns: it stays in the second-level cache while rows pass.
const MAX_BLOCK: usize = 160 * 1024;
/// Panels of rows of a task, at most: its rows of A stay in the second-level cache as well.
const MAX_PANELS: usize = 8;
/// Panels of rows that pass a panel of B before the next one is fetched.
const GROUP: usize = 4;
/// Multiplications of a task, about: 50 microseconds and more at the rates of today's cores.
const TASK_WORK: usize = 5_000_000;
/// Tasks of one batch, at most, unless the caches ask for more: enough for eight threads to share evenly.
const MAX_TASKS: usize = 24;
/// Elements of B that one pack task copies, about.
const PACK_WORK: usize = 64 * 1024;
/// Rows in panels, at most, for B to be read in place: packing pays when B is read more often.
const DIRECT_PANELS: usize = 1;

/// The cut of one problem.
#[derive(Clone, Debug)]
pub(super) struct Blocking {
    /// f32 in a vector.
    lanes: usize,
    /// Rows of a panel of A, at most.
    rows: usize,
    /// Columns of a panel of B, at most: two vectors.
    cols: usize,
    /// Whether A is read in place, by rows.
    direct_a: bool,
    /// Whether B is read in place.
    direct_b: bool,
    /// Blocks of k, over all terms one after another; of operands read in place, within one term each.
    depths: Vec<Range<usize>>,
    /// For each batch, its packed copy of B.
    copies: Vec<usize>,
    /// For each packed copy of B, a batch that has its offsets.
    copied: Vec<usize>,
    /// Elements of one packed copy.
    copy_len: usize,
    pub(super) pack_tasks: Vec<PackTask>,
    pub(super) tasks: Vec<Task>,
}

/// Panels of columns of one packed copy.
#[derive(Clone, Debug)]
pub(super) struct PackTask {
    copy: usize,
    panels: Range<usize>,
}

/// A block of the output.
#[derive(Clone, Debug)]
pub(super) struct Task {
    batches: Range<usize>,
    /// Panels of rows; panel `i` of `count` is rows `m i / count .. m (i + 1) / count`.
    panels: Range<usize>,
    columns: Range<usize>,
}

/// The `part`-th of `parts` nearly equal parts of `0 .. len`.
fn part(len: usize, parts: usize, part: usize) -> Range<usize> {
    len * part / parts..len * (part + 1) / parts
}

impl Blocking {
    pub(super) fn new(isa: Isa, problem: &Problem) -> Blocking {
        let lanes = isa.lanes();
        let (rows, cols) = match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => (14, 2 * lanes),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => (6, 2 * lanes),
        };
        let (m, n, k) = (problem.m, problem.n, problem.k());
        let panels = m.div_ceil(rows);
        let a_in_place = |term: &Term| term.a_k.stride() == Some(1) && term.a_m.stride().is_some_and(spreads);
        let b_in_place = |term: &Term| term.b_n.stride() == Some(1) && term.b_k.stride().is_some();
        // Short terms are better packed into common blocks of k.
        let long = problem.terms.len() == 1 || problem.terms.iter().all(|term| term.a_k.len() >= MIN_DEPTH);
        let direct_a = long && problem.terms.iter().all(a_in_place);
        let direct_b = panels <= DIRECT_PANELS && problem.terms.iter().all(b_in_place);

        let longest = if direct_b { 4 * MAX_DEPTH } else { MAX_DEPTH };
        let mut depths: Vec<Range<usize>> = if direct_a || direct_b {
            let ends = problem.terms.iter().scan(0, |end, term| {
                *end += term.a_k.len();
                Some(*end - term.a_k.len()..*end)
            });
            ends.flat_map(|range| depths(range, longest)).collect()
        } else {
            depths(0..k, longest)
        };
        if depths.is_empty() {
            depths.push(0..0);
        }
        let depth = depths.iter().map(|range| range.len()).max().unwrap_or(0);

        let mut copies = Vec::new();
        let mut copied = Vec::new();
        if !direct_b {
            let mut seen = HashMap::new();
            for (i, batch) in problem.batches.iter().enumerate() {
                copies.push(*seen.entry(&batch.b).or_insert_with(|| {
                    copied.push(i);
                    copied.len() - 1
                }));
            }
        }

        let mut blocking = Blocking {
            lanes,
            rows,
            cols,
            direct_a,
            direct_b,
            depths,
            copies,
            copied,
            copy_len: k * n.next_multiple_of(lanes),
            pack_tasks: Vec::new(),
            tasks: Vec::new(),
        };
        blocking.cut_packing(n, k);
        blocking.cut_output(problem.batches.len(), m, n, k, depth);
        blocking
    }

    fn cut_packing(&mut self, n: usize, k: usize) {
        let panels = n.div_ceil(self.cols);
        let each = (PACK_WORK / (k * self.cols).max(1)).clamp(1, panels.max(1));
        for copy in 0..self.copied.len() {
            for first in (0..panels).step_by(each) {
                self.pack_tasks.push(PackTask { copy, panels: first..(first + each).min(panels) });
            }
        }
    }

    fn cut_output(&mut self, batches: usize, m: usize, n: usize, k: usize, depth: usize) {
        if m == 0 || n == 0 || batches == 0 {
            return;
        }
        let work = m * n * k.max(1);
        if work < TASK_WORK {
            // Small products: several batches a task.
            let each = (TASK_WORK / work).clamp(1, batches);
            let panels = 0..m.div_ceil(self.rows);
            for first in (0..batches).step_by(each) {
                let batches = first..(first + each).min(batches);
                self.tasks.push(Task { batches, panels: panels.clone(), columns: 0..n });
            }
            return;
        }
        let panels = m.div_ceil(self.rows);
        let wanted = (work / TASK_WORK).clamp(1, MAX_TASKS);
        let column_panels = n.div_ceil(self.cols);
        let widest = (MAX_BLOCK / depth.max(1)).max(self.cols);
        let blocks = n.div_ceil(widest).max(wanted.div_ceil(panels)).min(column_panels);
        let each = (panels * blocks / wanted).clamp(1, MAX_PANELS);
        let bands = panels.div_ceil(each);
        for batch in 0..batches {
            for block in 0..blocks {
                let columns = part(column_panels, blocks, block);
                let columns = columns.start * self.cols..(columns.end * self.cols).min(n);
                for band in 0..bands {
                    let panels = part(panels, bands, band);
                    self.tasks.push(Task { batches: batch..batch + 1, panels, columns: columns.clone() });
                }
            }
        }
    }

    pub(super) fn packed_len(&self) -> usize {
        self.copied.len() * self.copy_len
    }

    /// Scratch: the rows of A of one block of k, then the tile.
    pub(super) fn scratch_len(&self) -> usize {
        self.tasks.iter().map(|task| self.packed_a_len(task) + self.tile_len(task)).max().unwrap_or(0)
    }

    /// Elements of a packed panel of A, with a vector behind it that packing overwrites.
    fn packed_panel_len(&self, depth: usize) -> usize {
        (self.rows * depth + self.lanes).next_multiple_of(16)
    }

    /// Elements of a task's packed A.
    fn packed_a_len(&self, task: &Task) -> usize {
        if self.direct_a {
            return 0;
        }
        let depth = self.depths.iter().map(|range| range.len()).max().unwrap_or(0);
        task.panels.len() * self.packed_panel_len(depth)
    }

    /// Elements of a row of a task's tile: an odd number of cache lines, lest all rows fall into few cache sets.
    fn tile_ld(&self, task: &Task) -> usize {
        task.columns.len().div_ceil(16) / 2 * 32 + 16
    }

    /// With several blocks of k the tile holds the whole task's sums, else one group of panels'.
    fn tile_len(&self, task: &Task) -> usize {
        let panels = if self.depths.len() > 1 { task.panels.len() } else { task.panels.len().min(GROUP) };
        panels * self.rows * self.tile_ld(task)
    }
}

/// Whether rows of this stride spread over the sets of a first-level cache (a set repeats every 4 KiB): a panel of
/// rows that all start in the same set is packed instead.
fn spreads(stride: isize) -> bool {
    stride != 0 && !stride.unsigned_abs().is_multiple_of(1024)
}

/// Cuts a range into nearly equal blocks of at most `longest`.
fn depths(range: Range<usize>, longest: usize) -> Vec<Range<usize>> {
    let parts = range.len().div_ceil(longest);
    let shifted = |r: Range<usize>| range.start + r.start..range.start + r.end;
    (0..parts).map(|i| shifted(part(range.len(), parts, i))).collect()
}

/// The parts of `range` of the k of all terms: (term, range within the term).
fn segments(problem: &Problem, range: Range<usize>) -> impl Iterator<Item = (usize, usize, usize)> + '_ {
    let mut end = 0;
    problem.terms.iter().enumerate().filter_map(move |(t, term)| {
        let start = end;
        end += term.a_k.len();
        let (from, to) = (range.start.max(start), range.end.min(end));
        (from < to).then(|| (t, from - start, to - start))
    })
}

/// # Safety
/// As for [`GemmPlan::pack`], and the processor has `S`.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn pack<S: Kernels>(plan: &GemmPlan, task: usize, b: &[*const f32], packed: *mut f32) {
    let (problem, blocking) = (&plan.problem, &plan.blocking);
    let task = &blocking.pack_tasks[task];
    let offsets = &problem.batches[blocking.copied[task.copy]].b;
    let k = problem.k();
    for panel in task.panels.clone() {
        let first = panel * blocking.cols;
        let count = (problem.n - first).min(blocking.cols);
        let width = count.next_multiple_of(S::LANES);
        let mut done = 0;
        for (t, from, to) in segments(problem, 0..k) {
            let term = &problem.terms[t];
            // SAFETY: the operand is readable by the caller's contract, and the panel lies inside its copy.
            unsafe {
                let operand = Operand { data: b[t].offset(offsets[t]), k: &term.b_k, w: &term.b_n };
                let to_panel = packed.add(task.copy * blocking.copy_len + first * k + done * width);
                pack_panel::<S>(operand, (from, to), (first, count), width, to_panel);
            }
            done += to - from;
        }
    }
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
    packed: *const f32,
    scratch: *mut f32,
    epilogue: &Epilogue,
) {
    let (problem, blocking) = (&plan.problem, &plan.blocking);
    let task = &blocking.tasks[task];
    let panels = problem.m.div_ceil(blocking.rows);
    let packed_a = scratch;
    // SAFETY: scratch holds the packed A, then the tile.
    let tile = unsafe { scratch.add(blocking.packed_a_len(task)) };
    let tile_ld = blocking.tile_ld(task);
    let columns = task.columns.clone();
    let k = problem.k();
    for batch in task.batches.clone() {
        let offsets = &problem.batches[batch];
        // Where the sums go: straight to the output if its rows are evenly spaced and contiguous.
        let place = match epilogue {
            Epilogue::Store { c, output } => match (output.rows.stride(), output.cols.stride()) {
                (Some(ld), Some(1)) => Some((c.wrapping_offset(output.batches[batch] + columns.start as isize), ld)),
                _ => None,
            },
            Epilogue::Call(_) => None,
        };
        let last = blocking.depths.len() - 1;
        for (block, range) in blocking.depths.iter().enumerate() {
            let depth = range.len();
            let first_row = part(problem.m, panels, task.panels.start).start;
            let panel_len = blocking.packed_panel_len(depth);
            if !blocking.direct_a {
                // SAFETY: the operands are readable by the caller's contract, scratch holds the panels.
                unsafe { pack_a::<S>(plan, task, &offsets.a, a, range.clone(), packed_a) };
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
                    let (b, ldb) = match in_place {
                        Some((t, from, _)) if blocking.direct_b => {
                            let ld = problem.terms[t].b_k.stride().unwrap_or(0);
                            (b[t].wrapping_offset(offsets.b[t] + from as isize * ld + first as isize), ld)
                        }
                        _ => {
                            let width = cols.next_multiple_of(S::LANES);
                            let at = blocking.copies[batch] * blocking.copy_len + first * k + range.start * width;
                            (packed.wrapping_add(at), width as isize)
                        }
                    };
                    for panel in group..group_end {
                        let rows = part(problem.m, panels, panel);
                        let (table, a, lda) = match in_place {
                            Some((t, from, _)) if blocking.direct_a => {
                                let ld = problem.terms[t].a_m.stride().unwrap_or(0);
                                let at = offsets.a[t] + rows.start as isize * ld + from as isize;
                                (S::BY_ROWS, a[t].wrapping_offset(at), ld)
                            }
                            _ => {
                                let at = (panel - task.panels.start) * panel_len;
                                (S::BY_COLUMNS, packed_a.wrapping_add(at).cast_const(), rows.len() as isize)
                            }
                        };
                        // SAFETY: A and B hold the panels; C is the task's own block.
                        unsafe {
                            S::kernel(table, rows.len(), cols)(&Call {
                                k: depth,
                                a,
                                lda,
                                b,
                                ldb,
                                c: c.offset((rows.start - group_rows.start) as isize * ldc).add(first - columns.start),
                                ldc,
                                cols,
                                accumulate: block > 0,
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
                        Epilogue::Store { c, output } => unsafe { scatter(&tile, *c, output) },
                    }
                }
                group = group_end;
            }
        }
    }
}

/// Packs a task's rows of A in one block of k, panel `i` of the task from `packed_a[i * packed_panel_len]`.
///
/// # Safety
/// As for [`run`]; `packed_a` is writable for the panels.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn pack_a<S: Kernels>(
    plan: &GemmPlan,
    task: &Task,
    offsets: &[isize],
    a: &[*const f32],
    range: Range<usize>,
    packed_a: *mut f32,
) {
    let (problem, blocking) = (&plan.problem, &plan.blocking);
    let panels = problem.m.div_ceil(blocking.rows);
    let panel_len = blocking.packed_panel_len(range.len());
    let mut first = task.panels.start;
    while first < task.panels.end {
        let end = (first + MAX_PANELS).min(task.panels.end);
        let mut done = 0;
        for (t, from, to) in segments(problem, range.clone()) {
            let term = &problem.terms[t];
            let mut parts = [Part { first: 0, count: 0, to: packed_a }; MAX_PANELS];
            for (panel, part_of) in (first..end).zip(&mut parts) {
                let rows = part(problem.m, panels, panel);
                // SAFETY: inside the packed A.
                let to = unsafe { packed_a.add((panel - task.panels.start) * panel_len + done * rows.len()) };
                *part_of = Part { first: rows.start, count: rows.len(), to };
            }
            // SAFETY: passed on.
            unsafe {
                let operand = Operand { data: a[t].offset(offsets[t]), k: &term.a_k, w: &term.a_m };
                pack_panels::<S>(operand, (from, to), &parts[..end - first]);
            }
            done += to - from;
        }
        first = end;
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
        pub(super) unsafe fn $pack(plan: &GemmPlan, task: usize, b: &[*const f32], packed: *mut f32) {
            // SAFETY: passed on.
            unsafe { pack::<crate::vector::$simd>(plan, task, b, packed) }
        }

        /// # Safety
        /// As for [`GemmPlan::run`], and the processor has the features.
        #[target_feature(enable = $features)]
        pub(super) unsafe fn $run(
            plan: &GemmPlan,
            task: usize,
            a: &[*const f32],
            b: &[*const f32],
            packed: *const f32,
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
