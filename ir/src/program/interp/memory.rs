//! Memory of the interpreter: own arrays, and the slab and slots in cells of two bytes.

use super::{InterpError, Outcome};
use crate::program::{BufferId, Place, Program};

/// Where a buffer lies: in a pool of its own, or in a shared one.
#[derive(Clone, Copy, Debug)]
struct Placed {
    /// None: its own array.
    pool: Option<usize>,
    start: usize,
    /// Cells an element fills.
    cells: usize,
    len: usize,
}

#[derive(Clone, Debug)]
pub(super) struct Memory {
    placed: Vec<Placed>,
    own: Vec<Vec<f64>>,
    /// The slab first, then the slots; one f64 for two bytes.
    pools: Vec<Vec<f64>>,
}

/// Bytes of a cell: the smallest element, so that any two buffers overlap in whole cells.
const CELL: usize = 2;

impl Memory {
    pub fn new(program: &Program) -> Outcome<Memory> {
        let slab = if program.memory.slots.is_empty() { program.memory.planned } else { 0 };
        let pools: Vec<Vec<f64>> = std::iter::once(&slab)
            .chain(&program.memory.slots)
            .map(|bytes| vec![f64::NAN; bytes.div_ceil(CELL)])
            .collect();
        let mut placed = Vec::new();
        let mut own = Vec::new();
        for (id, b) in program.buffers.iter() {
            let (pool, offset) = match b.place {
                // Packs are never reused, so their parts are as good as arrays of their own.
                Place::Own | Place::Pack { .. } => (None, 0),
                Place::Slab(offset) => (Some(0), offset),
                Place::Slot(slot) => (Some(1 + slot as usize), 0),
            };
            if let Some(pool) = pool {
                let size = pools.get(pool).map_or(0, Vec::len) * CELL;
                if offset % CELL != 0 || offset + b.bytes() > size {
                    return Err(InterpError(format!(
                        "buffer {id} ({}) of {} bytes at offset {offset} does not fit its memory of {size} bytes",
                        b.label,
                        b.bytes()
                    )));
                }
            }
            let cells = if pool.is_some() { b.dtype.size() / CELL } else { 1 };
            placed.push(Placed { pool, start: offset / CELL, cells, len: b.len });
            own.push(vec![f64::NAN; if pool.is_some() { 0 } else { b.len }]);
        }
        Ok(Memory { placed, own, pools })
    }

    pub fn get(&self, buffer: BufferId, i: usize) -> f64 {
        let p = self.placed[buffer.index()];
        let Some(pool) = p.pool else { return self.own[buffer.index()][i] };
        let at = p.start + i * p.cells;
        let cells = &self.pools[pool][at..at + p.cells];
        if cells.iter().all(|c| c.to_bits() == cells[0].to_bits()) { cells[0] } else { f64::NAN }
    }

    pub fn set(&mut self, buffer: BufferId, i: usize, x: f64) {
        let p = self.placed[buffer.index()];
        match p.pool {
            None => self.own[buffer.index()][i] = x,
            Some(pool) => self.pools[pool][p.start + i * p.cells..][..p.cells].fill(x),
        }
    }

    /// Sets every element of a buffer with storage of its own.
    pub fn fill(&mut self, buffer: BufferId, x: f64) {
        self.own[buffer.index()].fill(x);
    }

    /// Sets the slab and the slots to NaN.
    pub fn forget(&mut self) {
        self.pools.iter_mut().for_each(|pool| pool.fill(f64::NAN));
    }
}

/// The arguments of a kernel, by position.
pub(super) trait Args {
    /// Elements of an argument; None if there is no such argument.
    fn len(&self, arg: usize) -> Option<usize>;
    fn get(&self, arg: usize, i: usize) -> f64;
    fn set(&mut self, arg: usize, i: usize, x: f64);
}

impl Args for [Vec<f64>] {
    fn len(&self, arg: usize) -> Option<usize> {
        self.get(arg).map(Vec::len)
    }
    fn get(&self, arg: usize, i: usize) -> f64 {
        self[arg][i]
    }
    fn set(&mut self, arg: usize, i: usize, x: f64) {
        self[arg][i] = x;
    }
}

/// A kernel's arguments in a program's memory.
pub(super) struct Bound<'a> {
    pub memory: &'a mut Memory,
    pub buffers: Vec<BufferId>,
}

impl Args for Bound<'_> {
    fn len(&self, arg: usize) -> Option<usize> {
        self.buffers.get(arg).map(|b| self.memory.placed[b.index()].len)
    }
    fn get(&self, arg: usize, i: usize) -> f64 {
        self.memory.get(self.buffers[arg], i)
    }
    fn set(&mut self, arg: usize, i: usize, x: f64) {
        self.memory.set(self.buffers[arg], i, x);
    }
}
