//! Rows that the next block needs are fetched while this one computes.
//!
//! A head's rows lie apart (positions of one head, a whole model dimension between them), which the processor's
//! own prefetchers follow badly. The fetches are spread over the microkernel calls, so that few are under way at
//! once.

use super::block::Rows;
use crate::vector::Simd;
use std::ops::Range;

/// f32 of a cache line.
const LINE: usize = 16;
/// Rows asked for before each microkernel call.
const ROWS_A_CALL: usize = 8;
/// Operands of the backward pass.
const MAX_PARTS: usize = 8;

/// Rows still to be fetched.
pub(super) struct Ahead {
    parts: [(Rows, Range<usize>); MAX_PARTS],
    len: usize,
    part: usize,
    /// Elements of a row.
    dim: usize,
}

impl Ahead {
    /// Nothing to fetch of rows of `dim` elements.
    pub fn new(dim: usize) -> Ahead {
        Ahead { parts: std::array::from_fn(|_| (Rows::nowhere(), 0..0)), len: 0, part: 0, dim }
    }

    /// Adds rows, to be fetched after those before.
    pub fn push(&mut self, rows: Rows, range: Range<usize>) {
        if !range.is_empty() {
            self.parts[self.len] = (rows, range);
            self.len += 1;
        }
    }

    /// Asks for the next few rows.
    #[inline(always)]
    pub fn fetch<S: Simd>(&mut self) {
        if self.part == self.len {
            return;
        }
        let (rows, range) = &mut self.parts[self.part];
        let end = range.end.min(range.start + ROWS_A_CALL);
        let mut row = rows.row(range.start);
        for _ in range.start..end {
            for at in (0..self.dim).step_by(LINE) {
                S::prefetch(row.wrapping_add(at));
            }
            row = row.wrapping_offset(rows.stride);
        }
        range.start = end;
        self.part += usize::from(end == range.end);
    }
}
