//! Contractions: the portable path.
//!
//! It follows Goto and van de Geijn (2008). Phase 0 packs the right side into panels of `nr` columns with all of k, in shared scratch.
//! Phase 1 computes blocks of the output: for each block of k, each strip of `mr` rows of the left side meets each panel with
//! accumulators in registers, and finished sums lie in a tile of scratch, over which the [epilogue](super::epilogue) runs row by row.
//!
//! A left side that is contiguous along k is read where it is; any other is packed, block by block, into strips. Products of few rows
//! go another way, which packs nothing: [`few_rows`](super::few_rows).
//!
//! Invariant: an element's sum is taken in order of terms and of k, in one accumulator, whatever the tile; blocks of k and the sizes of
//! tiles change no bits.

use super::cost::{cut, point_cost};
use super::epilogue::{Block, analysis, rows_of, run_epilogue};
use super::eval::Eval;
use super::matmul::{Mat, Side, Strips, Unroll, pack_strips, tile};
use super::nest::{idx_reg, split_flat, sum};
use super::product::{Product, flat_stride};
use super::{Call, Frame, LowerError, LowerOptions, Lowered, few_rows};
use std::collections::BTreeSet;
use tinygpt_ir::program::{ArgId, Contract, Term};
use tinygpt_ir::types::DType;
use tinygpt_vloop::{Addr, Builder, Elem, Idx, Reg, ScratchId};

/// Longest block of k: a panel of it takes 12 KiB of the first-level cache.
const BLOCK_K: usize = 384;
/// Most rows and columns of a block of the output: its tile takes 64 KiB of the second-level cache.
const BLOCK: (usize, usize) = (64, 256);
/// Least rows and columns to which blocks shrink so that there are more of them to share among threads.
const LEAST_BLOCK: (usize, usize) = (32, 64);
/// Floating-point operations of a block beyond which it shrinks.
const BLOCK_FLOP: usize = 3_000_000;
/// Floating-point operations a nanosecond that the portable path reaches, for cost estimates.
pub const RATE: f64 = 45.0;

/// Sizes of the portable path.
struct Tiling {
    mr: usize,
    nr: usize,
    block_m: usize,
    block_n: usize,
    panels: usize,
    /// Copies of the packed right side: one, if it does not depend on the batch.
    copies: usize,
}

impl Tiling {
    fn new(p: &Product) -> Tiling {
        let (m, n) = (p.rows(), p.cols());
        // Eight accumulators: see `tile`.
        let nr = if n <= 4 { 4 } else { 8 };
        let mr = m.min(4);
        let nb = p.batch.len();
        let shared = p.terms.iter().all(|t| t.rhs.at.coeffs[..nb].iter().all(|c| *c == 0));
        // Blocks of nearly equal sizes, in whole tiles.
        let even = |all: usize, most: usize, unit: usize| all.div_ceil(all.div_ceil(most)).next_multiple_of(unit);
        let (mut block_m, mut block_n) = (even(m, BLOCK.0, mr), even(n, BLOCK.1, nr));
        while 2 * block_m * block_n * p.depth() > BLOCK_FLOP {
            if block_n > LEAST_BLOCK.1 {
                block_n = even(n, (block_n / 2).max(LEAST_BLOCK.1), nr);
            } else if block_m > LEAST_BLOCK.0 {
                block_m = even(m, (block_m / 2).max(LEAST_BLOCK.0), mr);
            } else {
                break;
            }
        }
        Tiling { mr, nr, block_m, block_n, panels: n.div_ceil(nr), copies: if shared { 1 } else { p.batches() } }
    }

    /// The block of k of a term: all of it, or nearly equal parts.
    fn block_k(term: &Term) -> usize {
        let k: usize = term.k.iter().product();
        k.div_ceil(k.div_ceil(BLOCK_K)).next_multiple_of(4).min(k)
    }
}

pub fn lower(k: &Contract, args: &[DType], options: LowerOptions) -> Result<Lowered, LowerError> {
    let mut out = Lowered::default();
    let (mut packs, mut computes) = (Vec::new(), Vec::new());
    for part in &k.parts {
        let p = Product::new(part);
        if let Some(way) = few_rows::way(&p) {
            computes.extend(few_rows::lower(&p, way, args, options, &mut out)?);
            continue;
        }
        let t = Tiling::new(&p);
        let shared = out.shared.len();
        out.shared.push(t.copies * t.panels * t.nr * p.depth());
        packs.extend(pack_right(&p, &t, shared, args, &mut out)?);
        computes.extend(compute(&p, &t, shared, args, options, &mut out)?);
    }
    out.phases = if packs.is_empty() { vec![computes] } else { vec![packs, computes] };
    Ok(out)
}

/// Packs panels `u0..u1` of the right side, all copies in one flat number.
fn pack_right(
    p: &Product,
    t: &Tiling,
    shared: usize,
    args: &[DType],
    out: &mut Lowered,
) -> Result<Vec<Call>, LowerError> {
    let reads = p.terms.iter().map(|t| t.rhs.arg).collect();
    let mut frame = Frame::new("contract_pack", args, &reads, &BTreeSet::new());
    let packed = frame.shared("packed", shared, true);
    let sources: Vec<_> = p.terms.iter().map(|t| frame.buf(&t.rhs)).collect();
    let b = &mut frame.b;
    let (u0, u1) = (b.param("u0"), b.param("u1"));
    let (nb, nn, depth) = (p.batch.len(), p.n.len(), p.depth());
    let panels = |b: &mut Builder, copy: Reg, first: Reg, count: Reg, start: Reg| {
        let row0 = b.mul_const(first, t.nr as i64);
        let start = b.mul_const(start, (depth * t.nr) as i64);
        let mut done = 0;
        for (term, src) in p.terms.iter().zip(&sources) {
            let c = &term.rhs.at.coeffs;
            let from = batch_base(b, src.at().offset(term.rhs.at.offset), &p.batch, &c[..nb], copy);
            let k: usize = term.k.iter().product();
            let side = Side { from, rows: (&p.n, &c[nb..nb + nn]), ks: (&term.k, &c[nb + nn..]) };
            let to = packed.at().plus(start, 1).offset((done * t.nr) as i64);
            let to = Strips { addr: to, width: t.nr, apart: (depth * t.nr) as i64 };
            pack_strips(b, &side, (0.into(), k.into()), row0, count, &to);
            done += k;
        }
    };
    if t.copies == 1 {
        let (copy, count) = (b.index(0), b.sub(u1, u0));
        panels(b, copy, u0, count, u0);
    } else {
        b.for_("u", u0, u1, 1, |b, u| {
            let [copy, panel] = split_flat(b, &[t.copies, t.panels], u)[..] else { unreachable!("two axes") };
            let one = b.index(1);
            panels(b, copy, panel, one, u);
        });
    }
    let cost = 0.4 * (depth * t.nr) as f64;
    let (func, bufs) = frame.finish()?;
    let func = out.func(func);
    // Panels are packed four at a time.
    let calls = cut(t.copies * t.panels, cost, 4).into_iter();
    Ok(calls
        .map(|(u0, u1)| Call { func, bufs: bufs.clone(), params: vec![u0, u1], cost: cost * (u1 - u0) as f64 })
        .collect())
}

/// Adds the offset of a flat batch to an address.
pub fn batch_base(b: &mut Builder, addr: Addr, batch: &[usize], coeffs: &[i64], flat: Reg) -> Addr {
    if coeffs.iter().all(|c| *c == 0) {
        return addr;
    }
    let indices = split_flat(b, batch, flat);
    let terms: Vec<(Reg, i64)> = indices.into_iter().zip(coeffs.iter().copied()).filter(|(_, c)| *c != 0).collect();
    match sum(b, &terms) {
        Some(r) => addr.plus(r, 1),
        None => addr,
    }
}

/// The range of block number `at` among blocks of `size` out of `all`.
pub fn bounded(b: &mut Builder, at: Reg, size: usize, all: usize) -> (Reg, Reg) {
    let from = b.mul_const(at, size as i64);
    let to = b.add_const(from, size as i64);
    let all = b.index(all as i64);
    (from, b.min(to, all))
}

/// How a block of the left side of a term is read.
enum Left<'a> {
    /// Where it is: rows this far apart, k contiguous.
    Direct { row: i64 },
    /// Packed into strips first.
    Packed { coeffs: &'a [i64] },
}

impl Left<'_> {
    fn new<'a>(p: &Product, term: &'a Term) -> Left<'a> {
        let (nb, nm) = (p.batch.len(), p.m.len());
        let c = &term.lhs.at.coeffs;
        let (row, k) = (flat_stride(&p.m, &c[nb..nb + nm]), flat_stride(&term.k, &c[nb + nm..]));
        match (row, k) {
            (Some(row), Some(1)) => Left::Direct { row },
            _ => Left::Packed { coeffs: &c[nb..] },
        }
    }
}

/// The sums of one block of the output: what [`accumulate`] refers to.
struct Sums<'a> {
    p: &'a Product,
    t: &'a Tiling,
    /// Rows and panels of the block.
    m: (Reg, Reg),
    panels: (Reg, Reg),
    /// The packed right side, at the block's copy.
    packed: Addr,
    /// Strips of the left side, each `longest` long; one, where all terms are read directly.
    left: Option<ScratchId>,
    longest: usize,
    sums: ScratchId,
    ld: i64,
    add: bool,
    unroll: Unroll,
}

impl Sums<'_> {
    /// Adds elements `k0..k0 + len` of a term whose left side begins at `from` in this batch and whose panels begin at element `done`.
    fn accumulate(&self, b: &mut Builder, term: &Term, from: Addr, k0: Idx, len: Idx, done: usize) {
        let (t, mr) = (self.t, self.t.mr as i64);
        let left = Left::new(self.p, term);
        let rows = b.sub(self.m.1, self.m.0);
        let whole = b.div_const(rows, mr);
        // Rows of a last strip that is not whole: the same in every block that has one.
        let rest = self.p.rows() % t.mr;
        if let Left::Packed { coeffs } = left {
            let strips = self.left.expect("a packed term has strips");
            let (m, k) = coeffs.split_at(self.p.m.len());
            let end_k = match (k0, len) {
                (Idx::Const(k0), Idx::Const(len)) => Idx::Const(k0 + len),
                (k0, len) => {
                    let (k0, len) = (idx_reg(b, k0), idx_reg(b, len));
                    b.add(k0, len).into()
                }
            };
            let end = b.add_const(rows, mr - 1);
            let end = b.div_const(end, mr);
            let side = Side { from: from.clone(), rows: (&self.p.m, m), ks: (&term.k, k) };
            let to = Strips { addr: strips.at(), width: t.mr, apart: self.longest as i64 * mr };
            pack_strips(b, &side, (k0, end_k), self.m.0, end, &to);
        }
        let (depth, k0) = (self.p.depth() as i64, idx_reg(b, k0));
        let (p0, p1) = self.panels;
        let inside = b.mul_const(k0, t.nr as i64);
        let from = match left {
            Left::Direct { row } => from.plus(self.m.0, row).plus(k0, 1),
            Left::Packed { .. } => from,
        };
        b.for_("p", p0, p1, 1, |b, panel| {
            let start = b.mul_const(panel, depth * t.nr as i64);
            let start = b.add(start, inside);
            let column = b.sub(panel, p0);
            let column = b.mul_const(column, t.nr as i64);
            let right = self.packed.clone().plus(start, 1).offset((done * t.nr) as i64);
            let right = Mat { addr: right, row: t.nr as i64, col: 1 };
            let one = |b: &mut Builder, s: Reg, mr: usize| {
                let lhs = match left {
                    Left::Direct { row } => Mat { addr: from.clone().plus(s, row * t.mr as i64), row, col: 1 },
                    Left::Packed { .. } => {
                        let strips = self.left.expect("a packed term has strips");
                        let addr = strips.at().plus(s, (self.longest * t.mr) as i64);
                        Mat { addr, row: 1, col: t.mr as i64 }
                    }
                };
                let to = self.sums.at().plus(s, t.mr as i64 * self.ld).plus(column, 1);
                let to = Mat { addr: to, row: self.ld, col: 1 };
                tile(b, self.unroll, (mr, t.nr), len, &lhs, &right, &to, self.add);
            };
            b.for_("s", 0, whole, 1, |b, s| one(b, s, t.mr));
            if rest > 0 {
                let done = b.mul_const(whole, t.mr as i64);
                let partial = b.cmp(tinygpt_vloop::CmpOp::Lt, done, rows);
                b.if_(partial, |b| one(b, whole, rest));
            }
        });
    }
}

/// Computes blocks `u0..u1` of the output, numbered batch, block of rows, block of columns.
fn compute(
    p: &Product,
    t: &Tiling,
    shared: usize,
    args: &[DType],
    options: LowerOptions,
    out: &mut Lowered,
) -> Result<Vec<Call>, LowerError> {
    let (m, n, depth) = (p.rows(), p.cols(), p.depth());
    let reads: BTreeSet<ArgId> = p.body.loads().map(|a| a.arg).chain(p.terms.iter().map(|t| t.lhs.arg)).collect();
    let writes: BTreeSet<ArgId> = p.stores.iter().map(|s| s.access.arg).collect();
    let mut frame = Frame::new("contract", args, &reads, &writes);
    let packed = frame.shared("packed", shared, false);
    let sources: Vec<_> = p.terms.iter().map(|t| frame.buf(&t.lhs)).collect();
    let an = analysis(p, &frame);
    let mut rows = rows_of(&an, p, options);
    let b = &mut frame.b;
    let (u0, u1) = (b.param("u0"), b.param("u1"));
    let longest = p.terms.iter().map(Tiling::block_k).max().expect("a contraction has a term");
    let one_block = p.terms.len() == 1 && depth <= longest;
    // An odd number of cache lines a row, lest all rows fall into few cache sets.
    let ld = t.block_n.div_ceil(16) / 2 * 32 + 16;
    let packs = p.terms.iter().any(|term| matches!(Left::new(p, term), Left::Packed { .. }));
    let left = packs.then(|| b.scratch("left", Elem::F32, t.block_m * longest));
    let sums = b.scratch("sums", Elem::F32, t.block_m * ld);
    let (blocks_m, blocks_n) = (m.div_ceil(t.block_m), n.div_ceil(t.block_n));
    let nb = p.batch.len();
    let mut ev = Eval::new(&an);
    ev.prepare(b, &[], &p.stores);
    b.for_("u", u0, u1, 1, |b, u| {
        let [batch, bm, bn] = split_flat(b, &[p.batches(), blocks_m, blocks_n], u)[..] else {
            unreachable!("three axes")
        };
        let rows_range = bounded(b, bm, t.block_m, m);
        let columns = bounded(b, bn, t.block_n, n);
        let panels = bounded(b, bn, t.block_n / t.nr, t.panels);
        if !one_block {
            let zero = b.f32x4(0.0);
            b.for_("r", 0, t.block_m, 1, |b, r| {
                b.for_("c", 0, t.block_n, 4, |b, c| b.store(sums.at().plus(r, ld as i64).plus(c, 1), zero));
            });
        }
        let packed = match t.copies {
            1 => packed.at(),
            _ => packed.at().plus(batch, (t.panels * depth * t.nr) as i64),
        };
        let block = Sums {
            p,
            t,
            m: rows_range,
            panels,
            packed,
            left,
            longest,
            sums,
            ld: ld as i64,
            add: !one_block,
            unroll: options.unroll(),
        };
        let mut done = 0;
        for (term, src) in p.terms.iter().zip(&sources) {
            let from = src.at().offset(term.lhs.at.offset);
            let from = batch_base(b, from, &p.batch, &term.lhs.at.coeffs[..nb], batch);
            let (k, size): (usize, _) = (term.k.iter().product(), Tiling::block_k(term));
            if size == k {
                block.accumulate(b, term, from, 0.into(), k.into(), done);
            } else {
                b.for_("kb", 0, k, size as i64, |b, k0| {
                    let rest = b.index(k as i64);
                    let rest = b.sub(rest, k0);
                    let most = b.index(size as i64);
                    let len = b.min(rest, most);
                    block.accumulate(b, term, from, k0.into(), len.into(), done);
                });
            }
            done += k;
        }
        let even = n.is_multiple_of(t.block_n).then_some(t.block_n);
        let block = Block { batch, m: rows_range, n: columns, columns: even };
        run_epilogue(b, &ev, p, &mut rows, sums.at(), Idx::Const(ld as i64), block);
    });
    let epilogue = point_cost(&an, &[], &p.stores);
    let cost = (t.block_m * t.block_n) as f64 * (2.0 * depth as f64 / RATE + epilogue);
    let (func, bufs) = frame.finish()?;
    let func = out.func(func);
    let units = p.batches() * blocks_m * blocks_n;
    Ok(cut(units, cost, 1)
        .into_iter()
        .map(|(u0, u1)| Call { func, bufs: bufs.clone(), params: vec![u0, u1], cost: cost * (u1 - u0) as f64 })
        .collect())
}
