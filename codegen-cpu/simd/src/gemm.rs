//! Contractions: C[m,n] = sum over terms t of A_t[m,k_t] B_t[k_t,n], batched, in every transposition.
//!
//! The scheme is that of Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication" (2008):
//!
//! - **A** is read in place where it is contiguous along k, **B** where the output has few rows and B is contiguous along n.
//!   Elsewhere they are **packed**: A as panels of at most `rows` rows, B as panels of a few vectors of columns.
//! - Packing is done **ahead**, once, into a shared buffer, by [`GemmPlan::pack`] tasks (panels with all of k, every term one
//!   after another), or **by each compute task** into its scratch, one block of k at a time: the larger side of a product with
//!   few rows or few columns, whose parts no other task reads, A in small batched products, and an A too large for a buffer. Where its
//!   panels are contiguous, the first microkernel call to need one reads it in place and packs it in passing.
//! - A **compute task** owns a block of the output: some batches, or some rows and columns of one batch. For one
//!   block of k at a time it runs the microkernel on each pair of panels, accumulators in registers.
//! - After the last block of k, each strip of finished rows goes to the **epilogue** while it is in cache.
//!
//! Invariants:
//! - Blocks, panels and tasks are functions of the shapes and the [`Isa`]. Each output element is summed in the
//!   order of k, interrupted at block boundaries only, by one task: the bits do not depend on the thread count.
//! - Every pack task comes before every compute task (the caller's barrier). Pack tasks write disjoint parts of
//!   the packed buffer, compute tasks disjoint parts of the output.
//! - Nothing beyond an operand's elements is read and nothing but the output's elements written.

mod blocking;
#[cfg(target_arch = "x86_64")]
pub(crate) mod kernel;
#[cfg(target_arch = "x86_64")]
pub(crate) mod pack;
mod partial;
mod run;

use crate::{Axis, Isa, PlanError};
use blocking::{Blocking, Copies, Source};
pub use partial::add_partials;

/// An operand of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    A,
    B,
}

/// One product that adds to the output.
#[derive(Clone, Debug)]
pub struct Term {
    /// Offsets in A along m; length m.
    pub a_m: Axis,
    /// Offsets in A along k; length k_t.
    pub a_k: Axis,
    /// Offsets in B along k; length k_t.
    pub b_k: Axis,
    /// Offsets in B along n; length n.
    pub b_n: Axis,
}

/// Where one batch's operands start: element offsets, one a term.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchOffsets {
    pub a: Vec<isize>,
    pub b: Vec<isize>,
}

impl BatchOffsets {
    fn of(&self, side: Side) -> &Vec<isize> {
        match side {
            Side::A => &self.a,
            Side::B => &self.b,
        }
    }
}

/// A batched sum of products. Batches that share all of their B offsets share one packed copy of B.
#[derive(Clone, Debug)]
pub struct Problem {
    pub m: usize,
    pub n: usize,
    pub terms: Vec<Term>,
    pub batches: Vec<BatchOffsets>,
}

impl Problem {
    /// One unbatched product: A[m,k] with strides `a`, B[k,n] with strides `b`, in elements.
    pub fn single(m: usize, n: usize, k: usize, a: [isize; 2], b: [isize; 2]) -> Problem {
        let term = Term {
            a_m: Axis::strided(m, a[0]),
            a_k: Axis::strided(k, a[1]),
            b_k: Axis::strided(k, b[0]),
            b_n: Axis::strided(n, b[1]),
        };
        Problem { m, n, terms: vec![term], batches: vec![BatchOffsets { a: vec![0], b: vec![0] }] }
    }
}

/// Where an output's elements lie: element `(batch, i, j)` at `batches[batch] + rows.offset(i) + cols.offset(j)`.
/// Fastest where `cols` has stride 1.
#[derive(Clone, Debug)]
pub struct Output {
    pub rows: Axis,
    pub cols: Axis,
    pub batches: Box<[isize]>,
}

/// A block of finished sums, in a task's scratch: `(i, j)` of the output, `m0 <= i < m1` and `n0 <= j < n1`, at
/// `data[(i - m0) * ld + j - n0]`. The epilogue may overwrite it.
#[derive(Clone, Copy, Debug)]
pub struct Tile {
    pub data: *mut f32,
    pub ld: usize,
    pub batch: usize,
    pub m0: usize,
    pub m1: usize,
    pub n0: usize,
    pub n1: usize,
}

/// Most addends of a stored output.
pub const MAX_ADDENDS: usize = 2;

/// What meets the sums element by element: a bias has rows of stride 0, a residual or a slope those of its own.
#[derive(Clone, Copy, Debug)]
pub struct Elementwise<'a> {
    pub data: *const f32,
    /// Stride between rows, in elements; columns have stride 1.
    pub ld: isize,
    /// Offset of each batch.
    pub batches: &'a [isize],
}

/// What happens to finished sums.
#[derive(Clone, Copy)]
pub enum Epilogue<'a> {
    /// They are stored, with addends to them (at most [`MAX_ADDENDS`]) and then times a factor: none of these unless the output's rows
    /// are evenly spaced and its columns contiguous, and no factor unless there is one block of k. Each may lie where the output
    /// does, element for element.
    Store { c: *mut f32, output: &'a Output, addends: &'a [Elementwise<'a>], factor: Option<Elementwise<'a>> },
    /// They are handed over, each exactly once, in tiles as wide as the task's block of columns.
    Call(&'a (dyn Fn(Tile) + Sync)),
}

/// A prepared contraction. See the module for the scheme and the order of calls.
#[derive(Clone, Debug)]
pub struct GemmPlan {
    isa: Isa,
    problem: Problem,
    blocking: Blocking,
}

impl GemmPlan {
    /// # Errors
    /// If the lengths of the axes or of the batch offsets disagree, or the processor lacks `isa`.
    pub fn new(isa: Isa, mut problem: Problem) -> Result<GemmPlan, PlanError> {
        isa.check()?;
        for term in &mut problem.terms {
            for axis in [&mut term.a_m, &mut term.a_k, &mut term.b_k, &mut term.b_n] {
                *axis = std::mem::replace(axis, Axis::strided(0, 0)).simplified();
            }
        }
        problem.check()?;
        let blocking = Blocking::new(isa, &problem);
        Ok(GemmPlan { isa, problem, blocking })
    }

    fn copies(&self, side: Side) -> Option<&Copies> {
        let source = match side {
            Side::A => &self.blocking.a,
            Side::B => &self.blocking.b,
        };
        match source {
            Source::Ahead(copies) => Some(copies),
            Source::Direct | Source::Task => None,
        }
    }

    /// Where the microkernel finds a side, in words for dumps.
    pub fn source(&self, side: Side) -> &'static str {
        let source = match side {
            Side::A => &self.blocking.a,
            Side::B => &self.blocking.b,
        };
        match source {
            Source::Direct => "in place",
            Source::Task => "packed by each task",
            Source::Ahead(_) => "packed ahead",
        }
    }

    /// Length in f32 of the buffer that a side is packed into; 0 if it is not packed ahead. Align it to 64 bytes for
    /// speed.
    pub fn packed_len(&self, side: Side) -> usize {
        self.copies(side).map_or(0, |copies| copies.from.len() * copies.len)
    }

    /// Number of pack tasks of a side; 0 if it is not packed ahead.
    pub fn pack_tasks(&self, side: Side) -> usize {
        self.copies(side).map_or(0, |copies| copies.tasks.len())
    }

    /// Whether the other plan packs this side of the same operands into the same bytes, so that one packed buffer
    /// serves both.
    pub fn packs_like(&self, other: &GemmPlan, side: Side) -> bool {
        let layout = |plan: &GemmPlan| {
            let axes = plan.problem.terms.iter().map(|term| match side {
                Side::A => (term.a_m.clone(), term.a_k.clone()),
                Side::B => (term.b_n.clone(), term.b_k.clone()),
            });
            let offsets = plan.problem.batches.iter().map(|batch| batch.of(side).clone());
            (axes.collect::<Vec<_>>(), offsets.collect::<Vec<_>>())
        };
        self.isa == other.isa
            && self.copies(side).is_some()
            && self.copies(side) == other.copies(side)
            && layout(self) == layout(other)
    }

    /// Where a pack task's part of the operand lies, as a share of the whole from 0 to 1: along k, or along m for panels of all
    /// k.
    ///
    /// # Panics
    /// If `task >= self.pack_tasks(side)`.
    pub fn pack_position(&self, side: Side, task: usize) -> f64 {
        let copies = self.copies(side).expect("a side with pack tasks has copies");
        let task = &copies.tasks[task];
        let inside = match side {
            Side::A => middle(&task.panels) / self.problem.m.div_ceil(self.blocking.rows) as f64,
            Side::B => middle(&task.k) / self.problem.k().max(1) as f64,
        };
        (task.copy as f64 + inside) / copies.from.len() as f64
    }

    /// Where a compute task's rows lie, as a share of all batches' rows from 0 to 1.
    ///
    /// # Panics
    /// If `task >= self.tasks()`.
    pub fn position(&self, task: usize) -> f64 {
        let task = &self.blocking.tasks[task];
        let panels = self.problem.m.div_ceil(self.blocking.rows);
        let first = task.batches.start * panels + task.panels.start;
        let last = (task.batches.end - 1) * panels + task.panels.end;
        middle(&(first..last)) / (self.problem.batches.len() * panels) as f64
    }

    /// Number of compute tasks.
    pub fn tasks(&self) -> usize {
        self.blocking.tasks.len()
    }

    /// Length in f32 of the scratch that each worker brings to [`GemmPlan::run`]. Align it to 64 bytes for speed.
    pub fn scratch_len(&self) -> usize {
        self.blocking.scratch_len()
    }

    /// Blocks of k, after each of which the sums are in memory.
    pub fn blocks_of_k(&self) -> usize {
        self.blocking.depths.len()
    }

    /// Multiplications and additions of the whole problem.
    pub fn flops(&self) -> usize {
        let p = &self.problem;
        2 * p.batches.len() * p.m * p.n * p.k()
    }

    /// Runs one pack task of a side.
    ///
    /// # Panics
    /// If `task >= self.pack_tasks(side)` or `operand` has not one pointer a term.
    ///
    /// # Safety
    /// `operand[t]` is readable at every offset that the problem gives to that side of term t. `packed` is writable for
    /// `packed_len(side)` elements, and no other thread touches the part of another call's task.
    pub unsafe fn pack(&self, side: Side, task: usize, operand: &[*const f32], packed: *mut f32) {
        assert_eq!(operand.len(), self.problem.terms.len(), "one pointer a term");
        // SAFETY: passed on; `new` checked that the processor has `isa`.
        unsafe {
            match self.isa {
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 => run::pack_avx512(self, side, task, operand, packed),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => run::pack_avx2(self, side, task, operand, packed),
            }
        }
    }

    /// Runs one compute task, after all pack tasks. `packed` are the buffers of A and B; an operand that is packed ahead
    /// is read there only.
    ///
    /// # Panics
    /// If `task >= self.tasks()`, `a` or `b` has not one pointer a term, or sums of several blocks of k are to meet a factor.
    ///
    /// # Safety
    /// `a[t]` and `b[t]` are readable at every offset that the problem gives to A_t and B_t; `packed` hold what
    /// all pack tasks wrote; `scratch` is this call's alone for `scratch_len` elements; a stored output is
    /// writable at every offset that it names, has the problem's sizes, overlaps no input, and its elements lie
    /// at different places.
    pub unsafe fn run(
        &self,
        task: usize,
        a: &[*const f32],
        b: &[*const f32],
        packed: [*const f32; 2],
        scratch: *mut f32,
        epilogue: &Epilogue,
    ) {
        assert_eq!(a.len(), self.problem.terms.len(), "one pointer a term");
        assert_eq!(b.len(), self.problem.terms.len(), "one pointer a term");
        let factor = matches!(epilogue, Epilogue::Store { factor: Some(_), .. });
        assert!(!factor || self.blocks_of_k() == 1, "a factor meets the sums of one block of k");
        // SAFETY: passed on; `new` checked that the processor has `isa`.
        unsafe {
            match self.isa {
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 => run::run_avx512(self, task, a, b, packed, scratch, epilogue),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => run::run_avx2(self, task, a, b, packed, scratch, epilogue),
            }
        }
    }
}

fn middle(range: &std::ops::Range<usize>) -> f64 {
    (range.start + range.end) as f64 / 2.0
}

impl Problem {
    /// Length of k, all terms together.
    fn k(&self) -> usize {
        self.terms.iter().map(|term| term.a_k.len()).sum()
    }

    fn check(&self) -> Result<(), PlanError> {
        let expect = |what: String, found: usize, expected: usize| {
            if found == expected {
                Ok(())
            } else {
                Err(PlanError(format!("{what} has length {found}, expected {expected}")))
            }
        };
        for (t, term) in self.terms.iter().enumerate() {
            expect(format!("the m axis of A of term {t}"), term.a_m.len(), self.m)?;
            expect(format!("the n axis of B of term {t}"), term.b_n.len(), self.n)?;
            expect(format!("the k axis of B of term {t}"), term.b_k.len(), term.a_k.len())?;
        }
        for (i, batch) in self.batches.iter().enumerate() {
            expect(format!("the list of A offsets of batch {i}"), batch.a.len(), self.terms.len())?;
            expect(format!("the list of B offsets of batch {i}"), batch.b.len(), self.terms.len())?;
        }
        Ok(())
    }
}
