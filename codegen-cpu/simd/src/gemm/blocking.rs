//! How a problem is cut: blocks of k, panels, packed copies, and tasks.

use super::{Problem, Side, Term};
use crate::Isa;
use std::collections::{HashMap, HashSet};
use std::ops::Range;

/// Longest block of k: a panel of B of this depth and two vectors of columns (48 KiB on AVX-512) streams from the second-level
/// cache, which costs less than more visits to the sums: 1% at k = 768 and 1536 against 256, 2% against 192.
const MAX_DEPTH: usize = 384;
/// Shortest term, of several, for A to be read in place.
const MIN_DEPTH: usize = 64;
/// Largest block of B in f32, depth times columns: it stays in the second-level cache while rows pass.
const MAX_BLOCK: usize = 160 * 1024;
/// Panels that are packed together, and panels of rows of a task that packs its own, at most: its rows of A stay in
/// the second-level cache as well.
pub(super) const MAX_PANELS: usize = 8;
/// Panels of rows that pass a panel of B before the next one is fetched.
pub(super) const GROUP: usize = 4;
/// Multiplications of a task, about: 50 microseconds and more at the rates of today's cores.
const TASK_WORK: usize = 2_000_000;
/// Tasks of one batch, at most, unless the caches ask for more: enough for eight threads to share evenly.
const MAX_TASKS: usize = 24;
/// Elements that one pack task copies, about.
const PACK_WORK: usize = 64 * 1024;
/// Rows in panels, at most, for B to be read in place: packing pays when B is read more often.
const DIRECT_PANELS: usize = 1;
/// Elements of all copies of A, at most, for A to be packed ahead: more would leave the last-level cache before it is read, and
/// take as much memory as A.
const MAX_PACKED_A: usize = 2 * 1024 * 1024;

/// The cut of one problem.
#[derive(Clone, Debug)]
pub(super) struct Blocking {
    /// f32 in a vector.
    pub lanes: usize,
    /// Rows of a panel of A, at most.
    pub rows: usize,
    /// Columns of a panel of B, at most: two vectors.
    pub cols: usize,
    /// Where the microkernel finds A.
    pub a: Source,
    /// Where the microkernel finds B: in place or packed ahead.
    pub b: Source,
    /// Blocks of k, over all terms one after another; of operands read in place, within one term each.
    pub depths: Vec<Range<usize>>,
    pub tasks: Vec<Task>,
}

/// Where the microkernel finds an operand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// In place: A by rows, B by rows.
    Direct,
    /// In the scratch of the task, which packs its part for one block of k. Never both operands.
    Task,
    /// In the shared buffer that pack tasks fill.
    Ahead(Copies),
}

/// When an operand is packed.
enum Pack {
    Never,
    Task,
    Ahead,
}

/// The packed copies of an operand: panels one after another, each with all of k.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Copies {
    /// For each batch, its copy.
    pub of: Vec<usize>,
    /// For each copy, a batch that has its offsets.
    pub from: Vec<usize>,
    /// Elements of one copy.
    pub len: usize,
    pub tasks: Vec<PackTask>,
}

/// Panels of one packed copy, in a range of k.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PackTask {
    pub copy: usize,
    pub panels: Range<usize>,
    pub k: Range<usize>,
}

/// A block of the output.
#[derive(Clone, Debug)]
pub(super) struct Task {
    pub batches: Range<usize>,
    /// Panels of rows; panel `i` of `count` is rows `m i / count .. m (i + 1) / count`.
    pub panels: Range<usize>,
    pub columns: Range<usize>,
}

/// The `part`-th of `parts` nearly equal parts of `0 .. len`.
pub(super) fn part(len: usize, parts: usize, part: usize) -> Range<usize> {
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

        let column_panels = n.div_ceil(cols);
        let depth = depths.iter().map(|range| range.len()).max().unwrap_or(0);
        let mut blocking =
            Blocking { lanes, rows, cols, a: Source::Direct, b: Source::Direct, depths, tasks: Vec::new() };
        let tasks = (m * n * k / TASK_WORK).clamp(1, MAX_TASKS);
        // A task packs its own part of an operand if no other task reads the same part. Where many would, both are packed ahead, unless A
        // is too large for that.
        let copies_of_a = problem.batches.iter().map(|batch| &batch.a).collect::<HashSet<_>>().len();
        let large_a = copies_of_a * panels * blocking.panel_len(k) > MAX_PACKED_A;
        let (a, b) = match (direct_a, direct_b) {
            (true, true) => (Pack::Never, Pack::Never),
            (true, false) => (Pack::Never, Pack::Ahead),
            (false, true) => (Pack::Task, Pack::Never),
            (false, false) if m * n * k < TASK_WORK => (Pack::Task, Pack::Ahead),
            (false, false) if n <= m / 2 && n * depth <= MAX_BLOCK => (Pack::Task, Pack::Ahead),
            (false, false) if m <= n / 2 && column_panels >= tasks / 2 && !large_a => (Pack::Ahead, Pack::Task),
            (false, false) if large_a => (Pack::Task, Pack::Ahead),
            (false, false) => (Pack::Ahead, Pack::Ahead),
        };
        blocking.a = match a {
            Pack::Never => Source::Direct,
            Pack::Task => Source::Task,
            Pack::Ahead => {
                let mut copies = Copies::new(problem, Side::A, panels * blocking.panel_len(k));
                copies.cut_a(k, panels, rows);
                Source::Ahead(copies)
            }
        };
        blocking.b = match b {
            Pack::Never => Source::Direct,
            Pack::Task => Source::Task,
            Pack::Ahead => {
                let mut copies = Copies::new(problem, Side::B, k * n.next_multiple_of(lanes));
                copies.cut_b(problem, column_panels, cols);
                Source::Ahead(copies)
            }
        };
        blocking.cut_output(problem.batches.len(), m, n, k);
        blocking
    }

    fn depth(&self) -> usize {
        self.depths.iter().map(|range| range.len()).max().unwrap_or(0)
    }

    fn cut_output(&mut self, batches: usize, m: usize, n: usize, k: usize) {
        if m == 0 || n == 0 || batches == 0 {
            return;
        }
        let work = m * n * k.max(1);
        let panels = m.div_ceil(self.rows);
        if work < TASK_WORK {
            // Small products: several batches a task.
            let each = (TASK_WORK / work).clamp(1, batches);
            for first in (0..batches).step_by(each) {
                let batches = first..(first + each).min(batches);
                self.tasks.push(Task { batches, panels: 0..panels, columns: 0..n });
            }
            return;
        }
        let wanted = (work / TASK_WORK).clamp(1, MAX_TASKS);
        let column_panels = n.div_ceil(self.cols);
        let widest = (MAX_BLOCK / self.depth().max(1)).max(self.cols);
        let least = n.div_ceil(widest);
        let (bands, blocks) = match (&self.a, &self.b) {
            // Two panels and more: their rows of B, read with gaps between, are whole pairs of cache lines.
            (_, Source::Task) => (1, even_cut(column_panels, wanted.min(column_panels / 2).max(least))),
            (Source::Task, Source::Ahead(_)) => (even_cut(panels, wanted.max(panels.div_ceil(MAX_PANELS))), least),
            (Source::Ahead(_), _) => square_cut([panels, self.rows], [column_panels, self.cols], wanted, least),
            // Rows are read in place: few blocks of columns, lest they are read often.
            (Source::Direct | Source::Task, _) => {
                let blocks = least.max(wanted.div_ceil(panels)).min(column_panels);
                let each = (panels * blocks / wanted).clamp(1, MAX_PANELS);
                (panels.div_ceil(each), blocks)
            }
        };
        // By rows first: neighbours read the same rows of A.
        for batch in 0..batches {
            for band in 0..bands {
                for block in 0..blocks {
                    let columns = part(column_panels, blocks, block);
                    let columns = columns.start * self.cols..(columns.end * self.cols).min(n);
                    self.tasks.push(Task { batches: batch..batch + 1, panels: part(panels, bands, band), columns });
                }
            }
        }
    }

    /// Scratch: the rows of A and the columns of B of one block of k, if the task packs them, then the tile.
    pub(super) fn scratch_len(&self) -> usize {
        let len = |task| self.task_a_len(task) + self.task_b_len(task) + self.tile_len(task);
        self.tasks.iter().map(len).max().unwrap_or(0)
    }

    /// Elements of a packed panel of A, with a vector behind it that packing overwrites.
    pub(super) fn panel_len(&self, depth: usize) -> usize {
        (self.rows * depth + self.lanes).next_multiple_of(16)
    }

    /// Elements of the A that a task packs itself.
    pub(super) fn task_a_len(&self, task: &Task) -> usize {
        if self.a == Source::Task { task.panels.len() * self.panel_len(self.depth()) } else { 0 }
    }

    /// Elements of the B that a task packs itself.
    pub(super) fn task_b_len(&self, task: &Task) -> usize {
        if self.b == Source::Task { task.columns.len().next_multiple_of(self.lanes) * self.depth() } else { 0 }
    }

    /// Elements of a row of a task's tile: an odd number of cache lines, lest all rows fall into few cache sets.
    pub(super) fn tile_ld(&self, task: &Task) -> usize {
        task.columns.len().div_ceil(16) / 2 * 32 + 16
    }

    /// With several blocks of k the tile holds the whole task's sums, else one group of panels'.
    fn tile_len(&self, task: &Task) -> usize {
        let panels = if self.depths.len() > 1 { task.panels.len() } else { task.panels.len().min(GROUP) };
        panels * self.rows * self.tile_ld(task)
    }
}

impl Copies {
    /// Batches that share all their offsets share a copy. No pack tasks yet.
    fn new(problem: &Problem, side: Side, len: usize) -> Copies {
        let mut copies = Copies { of: Vec::new(), from: Vec::new(), len, tasks: Vec::new() };
        let mut seen = HashMap::new();
        for (i, batch) in problem.batches.iter().enumerate() {
            copies.of.push(*seen.entry(batch.of(side)).or_insert_with(|| {
                copies.from.push(i);
                copies.from.len() - 1
            }));
        }
        copies
    }

    /// Panels of B are vectors wide: any ranges of k may be packed apart. Adjoining panels share rows, so few tasks of
    /// many panels are best where rows are contiguous.
    fn cut_b(&mut self, problem: &Problem, panels: usize, cols: usize) {
        let k = problem.k();
        let by_rows = problem.terms.iter().all(|term| term.b_n.stride() == Some(1));
        let (wide, deep) = if by_rows {
            let wide = panels.min(MAX_PANELS);
            (wide, (PACK_WORK / (wide * cols).max(1)).clamp(1, k.max(1)))
        } else {
            ((PACK_WORK / (k * cols).max(1)).clamp(1, MAX_PANELS), k.max(1))
        };
        let ranges = depths(0..k, deep);
        for copy in 0..self.from.len() {
            for first in (0..panels).step_by(wide.max(1)) {
                for k in &ranges {
                    self.tasks.push(PackTask { copy, panels: first..(first + wide).min(panels), k: k.clone() });
                }
            }
        }
    }

    /// Packing a panel of A overwrites what follows a row: one task packs all of its k.
    fn cut_a(&mut self, k: usize, panels: usize, rows: usize) {
        let each = (2 * PACK_WORK / (k * rows).max(1)).clamp(1, MAX_PANELS);
        let count = panels.div_ceil(each);
        for copy in 0..self.from.len() {
            for i in 0..count {
                self.tasks.push(PackTask { copy, panels: part(panels, count, i), k: 0..k });
            }
        }
    }
}

/// The number of parts, `wanted` or fewer, that cuts so many panels most evenly.
fn even_cut(panels: usize, wanted: usize) -> usize {
    panels.div_ceil(panels.div_ceil(wanted.max(1)).max(1))
}

/// Cuts (panels, rows of each) by (panels, columns of each) into about `wanted` blocks, at least `least` along columns, so that
/// all tasks together read the least: each reads its rows of A and its columns of B. Returns the cuts along rows and columns.
fn square_cut(
    [panels, rows]: [usize; 2],
    [column_panels, cols]: [usize; 2],
    wanted: usize,
    least: usize,
) -> (usize, usize) {
    let cost = |&(bands, blocks): &(usize, usize)| {
        let read = blocks * panels * rows + bands * column_panels * cols;
        // The largest task against the mean: what an uneven cut costs.
        let largest = panels.div_ceil(bands) * column_panels.div_ceil(blocks);
        (read * largest * bands * blocks) as f64 / (panels * column_panels) as f64
    };
    let cuts = (1..=panels.min(wanted)).map(|bands| {
        let blocks = wanted.div_ceil(bands).max(least).min(column_panels);
        (bands, blocks)
    });
    cuts.min_by(|x, y| cost(x).total_cmp(&cost(y))).unwrap_or((1, 1))
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
pub(super) fn segments(problem: &Problem, range: Range<usize>) -> impl Iterator<Item = (usize, usize, usize)> + '_ {
    let mut end = 0;
    problem.terms.iter().enumerate().filter_map(move |(t, term)| {
        let start = end;
        end += term.a_k.len();
        let (from, to) = (range.start.max(start), range.end.min(end));
        (from < to).then(|| (t, from - start, to - start))
    })
}
