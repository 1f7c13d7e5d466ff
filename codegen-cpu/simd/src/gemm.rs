//! Contractions: C[m,n] = sum over terms t of A_t[m,k_t] B_t[k_t,n], batched, in every transposition.
//!
//! The scheme is that of Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication" (2008):
//!
//! - **B** is packed once into a shared buffer, by [`GemmPlan::pack`] tasks, as panels of a few vectors of
//!   columns with all of k (every term, one after another). Where the output has few rows and B is contiguous
//!   along n, it is read in place and nothing is packed.
//! - A **compute task** owns a block of the output: some batches, or some rows and columns of one batch. For one
//!   block of k at a time it packs its rows of A into its scratch, as panels of at most `rows` rows, and runs the
//!   microkernel on each pair of panels, accumulators in registers.
//! - After the last block of k, each strip of finished rows goes to the **epilogue** while it is in cache.
//!
//! Invariants:
//! - Blocks, panels and tasks are functions of the shapes and the [`Isa`]. Each output element is summed in the
//!   order of k, interrupted at block boundaries only, by one task: the bits do not depend on the thread count.
//! - Every pack task comes before every compute task (the caller's barrier). Pack tasks write disjoint parts of
//!   the packed buffer, compute tasks disjoint parts of the output.
//! - Nothing beyond an operand's elements is read and nothing but the output's elements written.

#[cfg(target_arch = "x86_64")]
pub(crate) mod kernel;
#[cfg(target_arch = "x86_64")]
pub(crate) mod pack;
mod plan;

use crate::{Axis, Isa, PlanError};
use plan::Blocking;

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

/// What happens to finished sums.
#[derive(Clone, Copy)]
pub enum Epilogue<'a> {
    /// They are stored as they are.
    Store { c: *mut f32, output: &'a Output },
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

    /// Length of the packed buffer in f32; 0 if B is read in place. Align it to 64 bytes for speed.
    pub fn packed_len(&self) -> usize {
        self.blocking.packed_len()
    }

    /// Number of pack tasks, at most; 0 if B is read in place.
    pub fn pack_tasks(&self) -> usize {
        self.blocking.pack_tasks.len()
    }

    /// Number of compute tasks.
    pub fn tasks(&self) -> usize {
        self.blocking.tasks.len()
    }

    /// Length in f32 of the scratch that each worker brings to [`GemmPlan::run`]. Align it to 64 bytes for speed.
    pub fn scratch_len(&self) -> usize {
        self.blocking.scratch_len()
    }

    /// Multiplications and additions of the whole problem.
    pub fn flops(&self) -> usize {
        let p = &self.problem;
        2 * p.batches.len() * p.m * p.n * p.k()
    }

    /// Runs one pack task.
    ///
    /// # Panics
    /// If `task >= self.pack_tasks()` or `b` has not one pointer a term.
    ///
    /// # Safety
    /// `b[t]` is readable at every offset that the problem gives to B_t. `packed` is writable for `packed_len`
    /// elements, and no other thread touches the part of another call's task.
    pub unsafe fn pack(&self, task: usize, b: &[*const f32], packed: *mut f32) {
        assert_eq!(b.len(), self.problem.terms.len(), "one pointer a term");
        // SAFETY: passed on; `new` checked that the processor has `isa`.
        unsafe {
            match self.isa {
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 => plan::pack_avx512(self, task, b, packed),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => plan::pack_avx2(self, task, b, packed),
            }
        }
    }

    /// Runs one compute task, after all pack tasks. `b` is read only if `packed_len` is 0.
    ///
    /// # Panics
    /// If `task >= self.tasks()` or `a` or `b` has not one pointer a term.
    ///
    /// # Safety
    /// `a[t]` and `b[t]` are readable at every offset that the problem gives to A_t and B_t; `packed` holds what
    /// all pack tasks wrote; `scratch` is this call's alone for `scratch_len` elements; a stored output is
    /// writable at every offset that it names, has the problem's sizes, overlaps no input, and its elements lie
    /// at different places.
    pub unsafe fn run(
        &self,
        task: usize,
        a: &[*const f32],
        b: &[*const f32],
        packed: *const f32,
        scratch: *mut f32,
        epilogue: &Epilogue,
    ) {
        assert_eq!(a.len(), self.problem.terms.len(), "one pointer a term");
        assert_eq!(b.len(), self.problem.terms.len(), "one pointer a term");
        // SAFETY: passed on; `new` checked that the processor has `isa`.
        unsafe {
            match self.isa {
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 => plan::run_avx512(self, task, a, b, packed, scratch, epilogue),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => plan::run_avx2(self, task, a, b, packed, scratch, epilogue),
            }
        }
    }
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
