//! Contractions: the portable path, and the pieces that a precompiled template needs.
//!
//! A part is first brought to one form, a [`Product`]: axes of batch, m and n merged where all accesses allow, and the sides exchanged
//! if the output is contiguous along m rather than n.
//!
//! The portable path follows Goto and van de Geijn (2008). Phase 0 packs the right side into panels of `nr` columns with
//! all of k, in shared scratch. Phase 1 computes blocks of the output: for each block of k the left side is packed into strips of `mr`
//! rows, each strip meets each panel with accumulators in registers, and finished sums lie in a tile of scratch, over which the
//! epilogue runs row by row.
//!
//! A template replaces all but the epilogue, which is a function of its own: [`epilogue`].

use super::cost::{cut, point_cost};
use super::eval::{Acc, Analysis, Eval};
use super::matmul::{Mat, pack, tile};
use super::nest::{enter_flat, idx_reg, pieces, split_flat, sum};
use super::rows::RowCode;
use super::space::{AxisMap, by_stride, maps};
use super::{BufRef, Call, Frame, LowerError, LowerOptions, Lowered};
use std::collections::BTreeSet;
use std::sync::Arc;
use tinygpt_ir::program::{ArgId, Body, Contract, ContractPart, ScalarOp, Store, Term};
use tinygpt_ir::types::DType;
use tinygpt_vloop::{Addr, Builder, Elem, Func, Idx, Reg};

/// Longest block of k: a panel of it takes 12 KiB of the first-level cache.
const BLOCK_K: usize = 384;
/// Rows of a block of the output.
const BLOCK_M: usize = 64;
/// Columns of a block of the output, about: its tile takes 64 KiB of the second-level cache.
const BLOCK_N: usize = 256;
/// Floating-point operations a nanosecond that the portable path reaches, for cost estimates.
const RATE: f64 = 45.0;

/// A part in canonical form.
#[derive(Clone, Debug)]
pub struct Product {
    pub batch: Vec<usize>,
    pub m: Vec<usize>,
    pub n: Vec<usize>,
    /// lhs over batch ++ m ++ k, rhs over batch ++ n ++ k.
    pub terms: Vec<Term>,
    /// Epilogue over batch ++ m ++ n.
    pub body: Body,
    pub stores: Vec<Store>,
}

impl Product {
    pub fn new(part: &ContractPart) -> Product {
        let swapped;
        let part = if wants_exchange(part) {
            swapped = exchanged(part);
            &swapped
        } else {
            part
        };
        let (nb, nm, nn) = (part.batch.len(), part.m.len(), part.n.len());
        let epilogue = maps(&part.body, &part.stores);
        let lhs: Vec<&[i64]> = part.terms.iter().map(|t| t.lhs.at.coeffs.as_slice()).collect();
        let rhs: Vec<&[i64]> = part.terms.iter().map(|t| t.rhs.at.coeffs.as_slice()).collect();
        fn cut<'a>(maps: &[&'a [i64]], from: usize, len: usize) -> Vec<&'a [i64]> {
            maps.iter().map(|c| &c[from..from + len]).collect()
        }
        let group = |extents: &[usize], at: usize, operands: Vec<&[i64]>| {
            let own = cut(&epilogue, at, extents.len());
            let order = match part.stores.first() {
                Some(s) => by_stride(0..extents.len(), &s.access.at.coeffs[at..at + extents.len()]),
                None => (0..extents.len()).collect(),
            };
            AxisMap::merged(extents, &order, &[own, operands].concat())
        };
        let batch = group(&part.batch, 0, [cut(&lhs, 0, nb), cut(&rhs, 0, nb)].concat());
        let m = group(&part.m, nb, cut(&lhs, nb, nm));
        let n = group(&part.n, nb + nm, cut(&rhs, nb, nn));
        let terms = part.terms.iter().map(|t| {
            let (l, r) = (&t.lhs.at.coeffs[nb + nm..], &t.rhs.at.coeffs[nb + nn..]);
            let order: Vec<usize> = (0..t.k.len()).collect();
            let k = AxisMap::merged(&t.k, &order, &[l, r]);
            let lhs = batch.clone().then(&m.clone().shifted(nb)).then(&k.clone().shifted(nb + nm));
            let rhs = batch.clone().then(&n.clone().shifted(nb)).then(&k.clone().shifted(nb + nn));
            Term { k: k.extents().to_vec(), lhs: lhs.access(&t.lhs), rhs: rhs.access(&t.rhs) }
        });
        let terms = terms.collect();
        let all = batch.clone().then(&m.clone().shifted(nb)).then(&n.clone().shifted(nb + nm));
        Product {
            terms,
            body: all.body(&part.body),
            stores: part.stores.iter().map(|s| all.store(s)).collect(),
            batch: batch.extents().to_vec(),
            m: m.extents().to_vec(),
            n: n.extents().to_vec(),
        }
    }

    pub fn batches(&self) -> usize {
        self.batch.iter().product()
    }
    pub fn rows(&self) -> usize {
        self.m.iter().product()
    }
    pub fn cols(&self) -> usize {
        self.n.iter().product()
    }
    /// Contracted elements of all terms.
    pub fn depth(&self) -> usize {
        self.terms.iter().map(|t| t.k.iter().product::<usize>()).sum()
    }

    fn space(&self) -> Vec<usize> {
        [self.batch.as_slice(), &self.m, &self.n].concat()
    }

    /// The epilogue's store, if it does nothing but store the sums.
    pub fn plain_store(&self) -> Option<&Store> {
        match self.stores.as_slice() {
            [store] if self.body.scalars[store.value].op == ScalarOp::Acc(0) => Some(store),
            _ => None,
        }
    }
}

/// Whether the output is contiguous along an axis of m and along none of n.
fn wants_exchange(part: &ContractPart) -> bool {
    let (nb, nm) = (part.batch.len(), part.m.len());
    let unit = |extents: &[usize], at: usize| {
        (0..extents.len()).any(|i| extents[i] >= 4 && part.stores.iter().any(|s| s.access.at.coeffs[at + i] == 1))
    };
    !unit(&part.n, nb + nm) && unit(&part.m, nb)
}

/// The same part with m and n, left and right exchanged.
fn exchanged(part: &ContractPart) -> ContractPart {
    let (nb, nm, nn) = (part.batch.len(), part.m.len(), part.n.len());
    let extents = part.space();
    let order: Vec<usize> = (0..nb).chain(nb + nm..nb + nm + nn).chain(nb..nb + nm).collect();
    let map = AxisMap::permuted(&extents, &order);
    ContractPart {
        batch: part.batch.clone(),
        m: part.n.clone(),
        n: part.m.clone(),
        terms: part.terms.iter().map(|t| Term { k: t.k.clone(), lhs: t.rhs.clone(), rhs: t.lhs.clone() }).collect(),
        body: map.body(&part.body),
        stores: part.stores.iter().map(|s| map.store(s)).collect(),
    }
}

/// Element offsets of the flat numbers of axes, without the access' own offset.
pub fn offsets(extents: &[usize], coeffs: &[i64]) -> Vec<i64> {
    let mut out = vec![0];
    for (&extent, &c) in extents.iter().zip(coeffs) {
        out = out.iter().flat_map(|base| (0..extent as i64).map(move |i| base + i * c)).collect();
    }
    out
}

// ---- the epilogue

/// Index parameters of an epilogue function: row stride of the tile, flat batch, ranges of flat m and n.
pub const EPILOGUE_PARAMS: [&str; 6] = ["ld", "batch", "m0", "m1", "n0", "n1"];

/// An epilogue by itself.
#[derive(Clone, Debug)]
pub struct Epilogue {
    pub func: Func,
    /// The first is [`BufRef::Tile`], whose element 0 is the sum at (m0, n0).
    pub bufs: Arc<[BufRef]>,
}

/// The epilogue of a product as a function over a tile of finished sums.
pub fn epilogue(p: &Product, args: &[DType], options: LowerOptions) -> Result<Epilogue, LowerError> {
    let reads: BTreeSet<ArgId> = p.body.loads().map(|a| a.arg).collect();
    let writes: BTreeSet<ArgId> = p.stores.iter().map(|s| s.access.arg).collect();
    let (mut frame, tile) = Frame::with_tile("epilogue", args, &reads, &writes);
    let an = analysis(p, &frame);
    let b = &mut frame.b;
    let [ld, batch, m0, m1, n0, n1] = EPILOGUE_PARAMS.map(|name| b.param(name));
    let mut rows = rows_of(&an, p, options);
    let mut ev = Eval::new(&an);
    ev.prepare(b, &[], &p.stores);
    let block = Block { batch, m: (m0, m1), n: (n0, n1) };
    run_epilogue(b, &ev, p, &mut rows, tile.at(), Idx::Reg(ld), block);
    let (func, bufs) = frame.finish()?;
    Ok(Epilogue { func, bufs })
}

fn analysis(p: &Product, frame: &Frame) -> Analysis {
    let space = p.space();
    let every = u64::MAX >> (64 - space.len());
    let v = space.len() - 1;
    Analysis::new(p.body.clone(), space, v, every, frame.bufs.clone())
}

fn rows_of<'a>(an: &'a Analysis, p: &Product, options: LowerOptions) -> RowCode<'a> {
    RowCode::new(an, vec![an.vector], p.stores.clone(), options.row_templates)
}

/// A block of the output, in flat numbers.
struct Block {
    batch: Reg,
    m: (Reg, Reg),
    n: (Reg, Reg),
}

/// Runs the epilogue over a block whose sums lie at `tile`, rows `ld` apart.
fn run_epilogue<'a>(
    b: &mut Builder,
    ev: &Eval<'a>,
    p: &Product,
    rows: &mut RowCode<'a>,
    tile: Addr,
    ld: Idx,
    block: Block,
) {
    let (nb, nm) = (p.batch.len(), p.m.len());
    let mut ev = ev.clone();
    enter_flat(b, &mut ev, &(0..nb).collect::<Vec<_>>(), block.batch);
    ev.prepare(b, &[], &p.stores);
    let (m0, m1) = block.m;
    b.for_("m", m0, m1, 1, |b, m| {
        let mut ev = ev.clone();
        enter_flat(b, &mut ev, &(nb..nb + nm).collect::<Vec<_>>(), m);
        ev.prepare(b, &[], &p.stores);
        let row = b.sub(m, m0);
        let row = match ld {
            Idx::Reg(ld) => b.mul(row, ld),
            Idx::Const(ld) => b.mul_const(row, ld),
        };
        let row = b.sub(row, block.n.0);
        pieces(b, &p.n, block.n.0.into(), block.n.1.into(), &mut |b, outer, start, lo, hi| {
            let mut ev = ev.clone();
            for (i, &index) in outer.iter().enumerate() {
                ev.enter(nb + nm + i, index);
            }
            let column = match start {
                Some(start) => b.add(row, start),
                None => row,
            };
            ev.set_acc(0, Acc::Row(tile.clone().plus(column, 1)));
            ev.prepare(b, &[], &p.stores);
            rows.row(b, &ev, (lo, hi));
        });
    });
}

// ---- the portable path

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
        // Eight accumulators fill the pipelines. Of 1536x768x192 this makes 46 GFLOP/s; tiles of 4x12 and 6x8, which spill, 30 and 25.
        let nr = if n <= 4 { 4 } else { 8 };
        let mr = m.min(4);
        let nb = p.batch.len();
        let shared = p.terms.iter().all(|t| t.rhs.at.coeffs[..nb].iter().all(|c| *c == 0));
        Tiling {
            mr,
            nr,
            block_m: BLOCK_M.min(m.next_multiple_of(mr)),
            block_n: (BLOCK_N / nr * nr).min(n.next_multiple_of(nr)),
            panels: n.div_ceil(nr),
            copies: if shared { 1 } else { p.batches() },
        }
    }
}

pub fn lower(k: &Contract, args: &[DType], options: LowerOptions) -> Result<Lowered, LowerError> {
    let mut out = Lowered::default();
    let (mut packs, mut computes) = (Vec::new(), Vec::new());
    for part in &k.parts {
        let p = Product::new(part);
        let t = Tiling::new(&p);
        let shared = out.shared.len();
        out.shared.push(t.copies * t.panels * t.nr * p.depth());
        packs.extend(pack_right(&p, &t, shared, args, &mut out)?);
        computes.extend(compute(&p, &t, shared, args, options, &mut out)?);
    }
    out.phases = vec![packs, computes];
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
    b.for_("u", u0, u1, 1, |b, u| {
        let [copy, panel] = split_flat(b, &[t.copies, t.panels], u)[..] else { unreachable!("two axes") };
        let row0 = b.mul_const(panel, t.nr as i64);
        let start = b.mul_const(u, (depth * t.nr) as i64);
        let mut done = 0;
        for (term, src) in p.terms.iter().zip(&sources) {
            let c = &term.rhs.at.coeffs;
            let from = batch_base(b, src.at().offset(term.rhs.at.offset), &p.batch, &c[..nb], copy);
            let k: usize = term.k.iter().product();
            let to = packed.at().plus(start, 1).offset((done * t.nr) as i64);
            pack(b, from, (&p.n, &c[nb..nb + nn]), (&term.k, &c[nb + nn..]), t.nr, row0, (0.into(), k.into()), to);
            done += k;
        }
    });
    let cost = 0.5 * (depth * t.nr) as f64;
    let (func, bufs) = frame.finish()?;
    let func = out.func(func);
    let calls = cut(t.copies * t.panels, cost, 1).into_iter();
    Ok(calls
        .map(|(u0, u1)| Call { func, bufs: bufs.clone(), params: vec![u0, u1], cost: cost * (u1 - u0) as f64 })
        .collect())
}

/// Adds the offset of a flat batch to an address.
fn batch_base(b: &mut Builder, addr: Addr, batch: &[usize], coeffs: &[i64], flat: Reg) -> Addr {
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
    let blocks_k: Vec<usize> = p
        .terms
        .iter()
        .map(|t| {
            let k: usize = t.k.iter().product();
            k.div_ceil(k.div_ceil(BLOCK_K)).next_multiple_of(4).min(k)
        })
        .collect();
    let longest = *blocks_k.iter().max().expect("a contraction has a term");
    let one_block = p.terms.len() == 1 && depth <= longest;
    // An odd number of cache lines a row, lest all rows fall into few cache sets.
    let ld = t.block_n.div_ceil(16) / 2 * 32 + 16;
    let left = b.scratch("left", Elem::F32, t.block_m * longest);
    let sums = b.scratch("sums", Elem::F32, t.block_m * ld);
    let (blocks_m, blocks_n) = (m.div_ceil(t.block_m), n.div_ceil(t.block_n));
    let (nb, nm) = (p.batch.len(), p.m.len());
    let mut ev = Eval::new(&an);
    ev.prepare(b, &[], &p.stores);
    b.for_("u", u0, u1, 1, |b, u| {
        let [batch, bm, bn] = split_flat(b, &[p.batches(), blocks_m, blocks_n], u)[..] else {
            unreachable!("three axes")
        };
        let bounded = |b: &mut Builder, at: Reg, size: usize, all: usize| {
            let from = b.mul_const(at, size as i64);
            let to = b.add_const(from, size as i64);
            let all = b.index(all as i64);
            (from, b.min(to, all))
        };
        let (m0, m1) = bounded(b, bm, t.block_m, m);
        let (n0, n1) = bounded(b, bn, t.block_n, n);
        let (p0, p1) = bounded(b, bn, t.block_n / t.nr, t.panels);
        let strips = {
            let rows = b.sub(m1, m0);
            let rows = b.add_const(rows, t.mr as i64 - 1);
            b.div_const(rows, t.mr as i64)
        };
        if !one_block {
            let zero = b.f32x4(0.0);
            let rows = b.mul_const(strips, t.mr as i64);
            b.for_("r", 0, rows, 1, |b, r| {
                b.for_("c", 0, t.block_n, 4, |b, c| b.store(sums.at().plus(r, ld as i64).plus(c, 1), zero));
            });
        }
        let copy = if t.copies == 1 { b.index(0) } else { batch };
        let mut done = 0;
        for ((term, src), &block) in p.terms.iter().zip(&sources).zip(&blocks_k) {
            let c = &term.lhs.at.coeffs;
            let from = batch_base(b, src.at().offset(term.lhs.at.offset), &p.batch, &c[..nb], batch);
            let k: usize = term.k.iter().product();
            let one = |b: &mut Builder, k0: Idx, len: Idx| {
                let to = match (k0, len) {
                    (Idx::Const(k0), Idx::Const(len)) => Idx::Const(k0 + len),
                    (k0, len) => {
                        let (k0, len) = (idx_reg(b, k0), idx_reg(b, len));
                        b.add(k0, len).into()
                    }
                };
                b.for_("s", 0, strips, 1, |b, s| {
                    let row0 = b.mul_const(s, t.mr as i64);
                    let row0 = b.add(row0, m0);
                    let strip = left.at().plus(s, (longest * t.mr) as i64);
                    let axes = ((p.m.as_slice(), &c[nb..nb + nm]), (term.k.as_slice(), &c[nb + nm..]));
                    pack(b, from.clone(), axes.0, axes.1, t.mr, row0, (k0, to), strip);
                });
                b.for_("p", p0, p1, 1, |b, panel| {
                    let number = b.mul_const(copy, t.panels as i64);
                    let number = b.add(number, panel);
                    let start = b.mul_const(number, (depth * t.nr) as i64);
                    let k0 = idx_reg(b, k0);
                    let inside = b.mul_const(k0, t.nr as i64);
                    let start = b.add(start, inside);
                    let column = b.sub(panel, p0);
                    let column = b.mul_const(column, t.nr as i64);
                    let right =
                        Mat { addr: packed.at().plus(start, 1).offset((done * t.nr) as i64), row: t.nr as i64, col: 1 };
                    b.for_("s", 0, strips, 1, |b, s| {
                        let strip = Mat { addr: left.at().plus(s, (longest * t.mr) as i64), row: 1, col: t.mr as i64 };
                        let to = sums.at().plus(s, (t.mr * ld) as i64).plus(column, 1);
                        let to = Mat { addr: to, row: ld as i64, col: 1 };
                        tile(b, (t.mr, t.nr), len, &strip, &right, &to, !one_block);
                    });
                });
            };
            if block == k {
                one(b, 0.into(), k.into());
            } else {
                b.for_("kb", 0, k, block as i64, |b, k0| {
                    let rest = b.index(k as i64);
                    let rest = b.sub(rest, k0);
                    let most = b.index(block as i64);
                    let len = b.min(rest, most);
                    one(b, k0.into(), len.into());
                });
            }
            done += k;
        }
        let block = Block { batch, m: (m0, m1), n: (n0, n1) };
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
