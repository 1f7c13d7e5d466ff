//! Kernels of a program to functions of the vector loop IR.
//!
//! A kernel becomes *phases*: lists of calls that may run in any order and on any threads, with a barrier between one phase and the
//! next. A call names a function, its buffers and its index parameters. Most functions compute a rectangle of a loop nest: a
//! range of the flat number of its outer axes and a range of its innermost axis. Parameters that begin and end a range are called `x0` and `x1`.
//!
//! | module | lowers |
//! |---|---|
//! | `pointwise` | pointwise kernels and optimizer updates |
//! | `fold` | reductions of blocks of many segments |
//! | `reduce` | reductions, along rows or across them |
//! | `scatter` | scatter |
//! | `contract`, `few_rows`, `product`, `epilogue` | contractions: in blocks, of few rows, their canonical form, what follows the sums |
//! | `attention` | attention and its gradient |
//! | `space`, `nest`, `eval`, `ops` | what they share: axes, loops, scalar bodies, single operations |
//! | `rows`, `accum`, `matmul`, `cost` | sweeps, accumulators, tiles of products, the cut into calls |
//!
//! Invariants
//! - The cut into calls depends on shapes alone, and an element's bits do not depend on the cut: results are equal for any number
//!   of threads.
//! - Calls of one phase write disjoint elements.
//! - A function declares only the buffers it uses, in argument order, then shared scratch: kernels that differ in other arguments
//!   share code.
//! - Nothing here is native: WebAssembly is emitted from the same functions.

mod accum;
mod attention;
mod contract;
mod cost;
mod epilogue;
mod eval;
mod few_rows;
mod fold;
mod matmul;
mod nest;
mod ops;
mod pointwise;
mod product;
mod reduce;
mod rows;
mod scatter;
mod space;

pub use epilogue::{EPILOGUE_PARAMS, Epilogue, epilogue};
pub use few_rows::has_few_rows;
pub use product::{Product, offsets};

use std::collections::BTreeSet;
use std::sync::Arc;
use tinygpt_ir::program::{Access, ArgId, Body, KernelKind, Store};
use tinygpt_ir::types::DType;
use tinygpt_vloop::{BufId, Builder, Elem, Func};

/// How to lower.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LowerOptions {
    /// Whether functions may call row templates for transcendental functions; they are expanded in place otherwise.
    pub row_templates: bool,
    /// Whether independent loops run many trips at once: then loops that only store are such loops where they can be.
    pub wide_loops: bool,
    /// Whether the code is for an engine that schedules each basic block as a whole, as V8 does.
    pub block_scheduling: bool,
}

impl LowerOptions {
    /// Lets a function have the loops that the options ask for.
    fn allow(self, b: &mut Builder) {
        if self.wide_loops {
            b.allow_independent_loops();
        }
    }

    fn unroll(self) -> matmul::Unroll {
        if self.block_scheduling { matmul::Unroll::Tested } else { matmul::Unroll::Plain }
    }
}

/// Why a kernel cannot be lowered: one sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct LowerError(pub String);

impl From<tinygpt_vloop::Error> for LowerError {
    fn from(e: tinygpt_vloop::Error) -> LowerError {
        LowerError(format!("{e}; this is a bug of the lowering"))
    }
}

/// What a buffer of a function is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BufRef {
    /// An argument of the kernel.
    Arg(usize),
    /// Memory shared by all calls of the kernel: an index into [`Lowered::shared`].
    Shared(usize),
    /// The finished sums that a contraction template hands to an [`Epilogue`].
    Tile,
}

/// One call of a function.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// Index into [`Lowered::funcs`].
    pub func: usize,
    pub bufs: Arc<[BufRef]>,
    pub params: Vec<i64>,
    /// Rough time on one core in nanoseconds.
    pub cost: f64,
}

/// A kernel as functions and calls.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Lowered {
    pub funcs: Vec<Func>,
    /// Lengths of the shared scratch buffers, in f32.
    pub shared: Vec<usize>,
    pub phases: Vec<Vec<Call>>,
}

impl Lowered {
    /// Adds a function, giving its number.
    fn func(&mut self, func: Func) -> usize {
        self.funcs.push(func);
        self.funcs.len() - 1
    }
}

/// Lowers a kernel whose arguments have the given dtypes.
///
/// # Errors
/// If it computes in f16, or has more axes, arguments or accumulators than the code generator can number.
pub fn lower(kind: &KernelKind, args: &[DType], options: LowerOptions) -> Result<Lowered, LowerError> {
    check(kind, args)?;
    match kind {
        KernelKind::Pointwise(k) => pointwise::lower(k, args, options),
        KernelKind::Update(k) => pointwise::lower_update(k, args, options),
        KernelKind::Fold(k) => fold::lower(k, args),
        KernelKind::Reduce(k) => reduce::lower(k, args, options),
        KernelKind::Contract(k) => contract::lower(k, args, options),
        KernelKind::Attention(k) => attention::lower(k, args, options),
        KernelKind::AttentionGrad(k) => attention::lower_grad(k, args, options),
        KernelKind::Scatter(k) => scatter::lower(k, args, options),
    }
}

/// The bodies of a kernel.
fn bodies(kind: &KernelKind) -> Vec<&Body> {
    match kind {
        KernelKind::Pointwise(k) => vec![&k.body],
        KernelKind::Update(k) => vec![&k.body],
        KernelKind::Fold(k) => vec![&k.body],
        KernelKind::Reduce(k) => vec![&k.body],
        KernelKind::Contract(k) => k.parts.iter().map(|p| &p.body).collect(),
        KernelKind::Scatter(k) => vec![&k.body],
        KernelKind::Attention(_) | KernelKind::AttentionGrad(_) => vec![],
    }
}

/// Refuses what the functions cannot express.
pub(crate) fn check(kind: &KernelKind, args: &[DType]) -> Result<(), LowerError> {
    let f16 =
        args.contains(&DType::F16) || bodies(kind).iter().any(|b| b.scalars.values().any(|s| s.dtype == DType::F16));
    let rounds = matches!(kind, KernelKind::Contract(k) if k.parts.iter().flat_map(|p| &p.terms).any(|t| t.f16));
    if rounds {
        return Err(LowerError(
            "a contraction rounds its operands to f16 and the CPU backend computes in f32: leave the pass `precision` out".into(),
        ));
    }
    if f16 {
        return Err(LowerError(
            "a kernel works on f16 and the CPU backend computes in f32: cast to f32 before it".into(),
        ));
    }
    let rank = match kind {
        KernelKind::Pointwise(k) => k.space.len(),
        KernelKind::Reduce(k) => k.rows.len() + k.cols.len(),
        KernelKind::Contract(k) => k.parts.iter().map(|p| p.batch.len() + p.m.len() + p.n.len()).max().unwrap_or(0),
        KernelKind::Scatter(k) => k.ids.len() + k.inner.len(),
        _ => 0,
    };
    let reductions = if let KernelKind::Reduce(k) = kind { k.reductions.len() } else { 0 };
    if rank > 64 || reductions > 64 {
        return Err(LowerError(format!(
            "a kernel has {rank} axes and {reductions} reductions, expected at most 64 of each: split it"
        )));
    }
    Ok(())
}

/// A function being built, with the buffers of its arguments.
struct Frame {
    b: Builder,
    /// The buffer of each kernel argument (role, in an update or a fold).
    bufs: Vec<Option<BufId>>,
    refs: Vec<BufRef>,
}

impl Frame {
    /// Declares the arguments that are read or written.
    fn new(name: &str, args: &[DType], reads: &BTreeSet<ArgId>, writes: &BTreeSet<ArgId>) -> Frame {
        Frame { b: Builder::new(name), bufs: vec![None; args.len()], refs: Vec::new() }.with_args(args, reads, writes)
    }

    fn with_args(self, args: &[DType], reads: &BTreeSet<ArgId>, writes: &BTreeSet<ArgId>) -> Frame {
        let Frame { mut b, mut bufs, mut refs } = self;
        for arg in reads.union(writes) {
            let elem = if args[arg.index()] == DType::F32 { Elem::F32 } else { Elem::I32 };
            bufs[arg.index()] = Some(b.buf(format!("a{}", arg.0), elem, writes.contains(arg)));
            refs.push(BufRef::Arg(arg.index()));
        }
        Frame { b, bufs, refs }
    }

    /// The frame of a body and its stores.
    fn of_body(name: &str, args: &[DType], body: &Body, stores: &[Store]) -> Frame {
        let reads = body.loads().map(|a| a.arg).collect();
        let writes = stores.iter().map(|s| s.access.arg).collect();
        Frame::new(name, args, &reads, &writes)
    }

    /// A frame whose first buffer is a tile of finished sums, which may be overwritten.
    fn with_tile(name: &str, args: &[DType], reads: &BTreeSet<ArgId>, writes: &BTreeSet<ArgId>) -> (Frame, BufId) {
        let mut b = Builder::new(name);
        let tile = b.output("tile", Elem::F32);
        let frame = Frame { b, bufs: vec![None; args.len()], refs: vec![BufRef::Tile] };
        (frame.with_args(args, reads, writes), tile)
    }

    /// Declares shared scratch of f32.
    fn shared(&mut self, name: &str, number: usize, mutable: bool) -> BufId {
        self.refs.push(BufRef::Shared(number));
        self.b.buf(name, Elem::F32, mutable)
    }

    /// The buffer of an argument that was declared.
    fn buf(&self, access: &Access) -> BufId {
        self.bufs[access.arg.index()].expect("the frame declares every argument that the function uses")
    }

    /// The finished function and its buffers.
    fn finish(self) -> Result<(Func, Arc<[BufRef]>), LowerError> {
        Ok((self.b.finish()?, self.refs.into()))
    }
}
