//! A prepared program bound to memory.

use super::{CodegenError, Gemm, GemmEpilogue, PreparedProgram, Sums, Task, Work};
use crate::clif::KernelFn;
use crate::lower::BufRef;
use crate::memory::{self, Memory};
use std::ops::Range;
use std::sync::Arc;
use tinygpt_ir::program::KernelId;
use tinygpt_simd::attention::{Backward, Forward};
use tinygpt_simd::gemm::{Elementwise, Epilogue, MAX_ADDENDS, Side, Tile, add_partials};

/// Alignment in bytes of the scratch that a worker brings.
pub const SCRATCH_ALIGN: usize = memory::ALIGN;

/// Most buffers of one generated epilogue, which are gathered on the stack for each tile: all that a kernel for the CPU may have, and the tile.
const MAX_EPILOGUE_BUFS: usize = 257;

/// A prepared program with the addresses of all its buffers.
pub struct Bound {
    /// Keeps the code that `rounds` call.
    _program: Arc<PreparedProgram>,
    /// Shared scratch of kernels; `rounds` point into it.
    _arena: Memory,
    rounds: Vec<Vec<BoundTask>>,
}

struct BoundTask {
    kernel: KernelId,
    cost: f64,
    position: f64,
    calls: Vec<BoundCall>,
}

enum BoundCall {
    Func {
        f: KernelFn,
        bufs: Box<[*mut u8]>,
        params: Box<[i64]>,
    },
    Pack {
        gemm: Arc<Gemm>,
        side: Side,
        task: usize,
        operand: Box<[*const f32]>,
        packed: *mut f32,
    },
    Product {
        gemm: Arc<Gemm>,
        task: usize,
        a: Box<[*const f32]>,
        b: Box<[*const f32]>,
        packed: [*const f32; 2],
        finish: Finish,
    },
    Add {
        sums: Arc<Sums>,
        c: *mut f32,
        partials: Box<[*const f32]>,
        rows: Range<usize>,
    },
    Forward {
        attention: Arc<super::template::Forward>,
        task: usize,
        operands: Forward,
    },
    Backward {
        attention: Arc<super::template::Backward>,
        task: usize,
        operands: Backward,
    },
}

/// What follows a product.
enum Finish {
    Store {
        c: *mut f32,
        addends: Box<[*const f32]>,
        factor: *const f32,
    },
    /// The first buffer, the tile, is filled in for each call.
    Call {
        f: KernelFn,
        bufs: Box<[*mut u8]>,
        scratch: usize,
    },
}

// SAFETY: the pointers are used only by `run`, whose contract makes concurrent calls touch disjoint memory.
unsafe impl Send for Bound {}
// SAFETY: as above; nothing else changes after `bind`.
unsafe impl Sync for Bound {}

impl PreparedProgram {
    /// Fixes the address of every buffer, in the order of `Program::buffers`, and allocates shared scratch.
    ///
    /// # Errors
    /// If the number of addresses is not that of the program's buffers, or there is no memory for shared scratch.
    ///
    /// # Safety
    /// As long as the result is run, each address is that of memory of the buffer's size, aligned to 4 bytes (64 for speed); buffers
    /// overlap only where the program's memory plan places them so.
    pub unsafe fn bind(self: &Arc<Self>, buffers: &[*mut u8]) -> Result<Bound, CodegenError> {
        if buffers.len() != self.buffers {
            return Err(CodegenError::Buffers { found: buffers.len(), expected: self.buffers });
        }
        let mut arena = Memory::new(self.arena).map_err(|e| CodegenError::Memory(self.arena, e))?;
        let base = arena.ptr();
        let mut rounds = Vec::with_capacity(self.rounds.len());
        for &(stage, phase) in &self.rounds {
            let (from, to) = self.stages[stage];
            let mut tasks = Vec::new();
            for kernel in from..to {
                let prepared = &self.kernels[kernel as usize];
                let place = Place { buffers, args: &prepared.args, shared: &prepared.shared, base };
                for task in self.units[prepared.unit].phases.get(phase).into_iter().flatten() {
                    let calls = task.work.iter().map(|w| self.bind_call(w, &place)).collect::<Result<_, _>>()?;
                    let Task { cost, position, .. } = *task;
                    tasks.push(BoundTask { kernel: KernelId(kernel), cost, position, calls });
                }
            }
            // Long tasks first: they must not be what everyone waits for.
            tasks.sort_by(|a, b| b.cost.total_cmp(&a.cost));
            rounds.push(tasks);
        }
        Ok(Bound { _program: self.clone(), _arena: arena, rounds })
    }

    fn bind_call(&self, work: &Work, place: &Place) -> Result<BoundCall, CodegenError> {
        Ok(match work {
            Work::Func { code, bufs, params } => BoundCall::Func {
                f: self.code.get(*code),
                bufs: bufs.iter().map(|r| place.of(*r)).collect(),
                params: params.as_slice().into(),
            },
            Work::Pack { gemm, side, task } => BoundCall::Pack {
                gemm: gemm.clone(),
                side: *side,
                task: *task,
                operand: place.all(gemm.operand(*side)),
                packed: place.packed(gemm.packed[*side as usize]),
            },
            Work::Product { gemm, task } => BoundCall::Product {
                gemm: gemm.clone(),
                task: *task,
                a: place.all(&gemm.product.a),
                b: place.all(&gemm.product.b),
                packed: gemm.packed.map(|shared| place.packed(shared).cast_const()),
                finish: match &gemm.epilogue {
                    GemmEpilogue::Store { arg, offset, addends, factor, .. } => Finish::Store {
                        c: place.at((*arg, *offset)),
                        addends: addends.iter().map(|added| place.at(added.at).cast_const()).collect(),
                        factor: factor.as_ref().map_or(std::ptr::null(), |factor| place.at(factor.at).cast_const()),
                    },
                    GemmEpilogue::Partial { shared, .. } => {
                        let c = place.of(BufRef::Shared(*shared)).cast();
                        Finish::Store { c, addends: Box::new([]), factor: std::ptr::null() }
                    }
                    GemmEpilogue::Call { bufs, .. } if bufs.len() > MAX_EPILOGUE_BUFS => {
                        return Err(CodegenError::Template(format!(
                            "an epilogue has {} buffers, expected at most {MAX_EPILOGUE_BUFS}: lower max_args of the target model",
                            bufs.len()
                        )));
                    }
                    GemmEpilogue::Call { code, bufs, scratch } => Finish::Call {
                        f: self.code.get(*code),
                        bufs: bufs.iter().map(|r| place.of(*r)).collect(),
                        scratch: *scratch,
                    },
                },
            },
            Work::Add { sums, rows } => BoundCall::Add {
                sums: sums.clone(),
                c: place.at(sums.output),
                partials: sums.partials.iter().map(|n| place.of(BufRef::Shared(*n)).cast_const().cast()).collect(),
                rows: rows.clone(),
            },
            Work::Forward { attention, task } => {
                let k = attention.as_ref();
                let operands = Forward {
                    q: place.at(k.q),
                    k: place.at(k.k),
                    v: place.at(k.v),
                    out: place.at(k.out),
                    lse: k.lse.map_or_else(|| place.of(BufRef::Shared(0)).cast(), |a| place.at(a)),
                };
                BoundCall::Forward { attention: attention.clone(), task: *task, operands }
            }
            Work::Backward { attention, task } => {
                let k = attention.as_ref();
                let or_null = |a: Option<(usize, isize)>| a.map_or(std::ptr::null_mut(), |a| place.at(a));
                let operands = Backward {
                    q: place.at(k.q),
                    k: place.at(k.k),
                    v: place.at(k.v),
                    out: place.at(k.out),
                    lse: place.at(k.lse),
                    dout: place.at(k.dout),
                    dq: or_null(k.dq),
                    dk: or_null(k.dk),
                    dv: or_null(k.dv),
                };
                BoundCall::Backward { attention: attention.clone(), task: *task, operands }
            }
        })
    }
}

/// Where a kernel's buffers are.
struct Place<'a> {
    buffers: &'a [*mut u8],
    args: &'a [usize],
    shared: &'a [usize],
    base: *mut u8,
}

impl Place<'_> {
    fn of(&self, r: BufRef) -> *mut u8 {
        match r {
            BufRef::Arg(arg) => self.buffers[self.args[arg]],
            BufRef::Shared(n) => self.base.wrapping_add(self.shared[n]),
            BufRef::Tile => std::ptr::null_mut(),
        }
    }

    /// An element of an argument of f32.
    fn at(&self, (arg, offset): (usize, isize)) -> *mut f32 {
        self.of(BufRef::Arg(arg)).cast::<f32>().wrapping_offset(offset)
    }

    /// A shared buffer of a packed operand; null if it is not packed ahead.
    fn packed(&self, shared: Option<usize>) -> *mut f32 {
        shared.map_or(std::ptr::null_mut(), |n| self.of(BufRef::Shared(n)).cast())
    }

    fn all(&self, operands: &[(usize, isize)]) -> Box<[*const f32]> {
        operands.iter().map(|&a| self.at(a).cast_const()).collect()
    }
}

impl Bound {
    /// Number of rounds of a step; a barrier belongs between one and the next.
    pub fn rounds(&self) -> usize {
        self.rounds.len()
    }

    /// Number of tasks of a round, the costliest first.
    pub fn tasks(&self, round: usize) -> usize {
        self.rounds[round].len()
    }

    /// Estimated nanoseconds of a round on one thread.
    pub fn cost(&self, round: usize) -> f64 {
        self.rounds[round].iter().map(|task| task.cost).sum()
    }

    /// The kernel that a task belongs to.
    pub fn kernel(&self, round: usize, task: usize) -> KernelId {
        self.rounds[round][task].kernel
    }

    /// Where a task's part of its kernel's work lies, as a share from 0 to 1. Rows of activations come in the same order in all
    /// kernels: a worker that always does the same share finds most of what it reads in its own caches.
    pub fn position(&self, round: usize, task: usize) -> f64 {
        self.rounds[round][task].position
    }

    /// Runs one task.
    ///
    /// # Panics
    /// If there is no such round or task.
    ///
    /// # Safety
    /// All tasks of earlier rounds have run, no task of another round runs at the same time, and none runs twice in a step. `scratch`
    /// is this call's alone, [`PreparedProgram::scratch_bytes`] long and aligned to [`SCRATCH_ALIGN`]. The buffers given to `bind`
    /// are valid and used by nothing else.
    pub unsafe fn run(&self, round: usize, task: usize, scratch: *mut u8) {
        for call in &self.rounds[round][task].calls {
            // SAFETY: the lowering keeps all accesses within the buffers; the caller orders the rounds and owns the memory.
            unsafe { call.run(scratch) }
        }
    }
}

impl BoundCall {
    /// # Safety
    /// As for [`Bound::run`].
    unsafe fn run(&self, scratch: *mut u8) {
        // SAFETY: passed on to each; plans were made for exactly these operands, and scratch is long enough for each unit.
        unsafe {
            match self {
                BoundCall::Func { f, bufs, params } => f(bufs.as_ptr(), scratch, params.as_ptr()),
                BoundCall::Pack { gemm, side, task, operand, packed } => gemm.plan.pack(*side, *task, operand, *packed),
                BoundCall::Product { gemm, task, a, b, packed, finish } => {
                    let (plan, own) = (&gemm.plan, scratch.cast::<f32>());
                    match (finish, &gemm.epilogue) {
                        (
                            Finish::Store { c, addends, factor },
                            GemmEpilogue::Store { output, addends: places, factor: factor_place, .. },
                        ) => {
                            let addend = |i: usize| Elementwise {
                                data: addends.get(i).copied().unwrap_or(std::ptr::null()),
                                ld: places.get(i).map_or(0, |place| place.ld),
                                batches: places.get(i).map_or(&[], |place| &place.batches),
                            };
                            let all: [Elementwise; MAX_ADDENDS] = std::array::from_fn(addend);
                            let factor = factor_place.as_ref().map(|place| Elementwise {
                                data: *factor,
                                ld: place.ld,
                                batches: &place.batches,
                            });
                            let epilogue = Epilogue::Store { c: *c, output, addends: &all[..addends.len()], factor };
                            plan.run(*task, a, b, *packed, own, &epilogue);
                        }
                        (Finish::Store { c, .. }, GemmEpilogue::Partial { output, .. }) => {
                            let epilogue = Epilogue::Store { c: *c, output, addends: &[], factor: None };
                            plan.run(*task, a, b, *packed, own, &epilogue);
                        }
                        (Finish::Call { f, bufs, scratch: after }, _) => {
                            let code = Code { f: *f, bufs, scratch: scratch.add(*after) };
                            plan.run(*task, a, b, *packed, own, &Epilogue::Call(&|tile| code.run(tile)));
                        }
                        (Finish::Store { .. }, GemmEpilogue::Call { .. }) => unreachable!("bound from this epilogue"),
                    }
                }
                BoundCall::Add { sums, c, partials, rows } => {
                    add_partials(sums.isa, *c, sums.ld, partials, rows.clone(), sums.n);
                }
                BoundCall::Forward { attention, task, operands } => {
                    attention.plan.forward(*task, operands, scratch.cast());
                }
                BoundCall::Backward { attention, task, operands } => {
                    attention.plan.backward(*task, operands, scratch.cast());
                }
            }
        }
    }
}

/// A generated epilogue with its buffers and scratch.
struct Code<'a> {
    f: KernelFn,
    bufs: &'a [*mut u8],
    scratch: *mut u8,
}

// SAFETY: the template calls it from the thread that runs the task; the bound is `Sync` only so that a plan may be shared.
unsafe impl Sync for Code<'_> {}

impl Code<'_> {
    /// # Safety
    /// Called by the template within [`BoundCall::run`], with a tile of its own scratch.
    unsafe fn run(&self, tile: Tile) {
        let mut bufs = [std::ptr::null_mut::<u8>(); MAX_EPILOGUE_BUFS];
        bufs[..self.bufs.len()].copy_from_slice(self.bufs);
        bufs[0] = tile.data.cast();
        let params = [tile.ld, tile.batch, tile.m0, tile.m1, tile.n0, tile.n1].map(|x| x as i64);
        // SAFETY: the function was generated for this epilogue, and the tile covers the ranges in the parameters.
        unsafe { (self.f)(bufs.as_ptr(), self.scratch, params.as_ptr()) }
    }
}
