//! Contractions of few rows, such as those that decode one token: nothing is packed, since every element of the right side is used
//! only once a row.
//!
//! - *Dot*: both sides are contiguous along k. Vectors lie along k, lanes are combined at the end.
//! - *Axpy*: the right side is contiguous along n. Vectors lie along n, k is walked in order.
//!
//! Invariant: an element's sum is taken in an order that depends on k alone, never on the block or group of columns it falls into.

use super::contract::{RATE, batch_base, bounded};
use super::cost::{cut, point_cost};
use super::epilogue::{Block, analysis, rows_of, run_epilogue};
use super::eval::Eval;
use super::matmul::{Unroll, in_steps, moved};
use super::nest::split_flat;
use super::product::{Product, flat_stride};
use super::{Call, Frame, LowerError, LowerOptions, Lowered};
use std::collections::BTreeSet;
use tinygpt_ir::program::{ArgId, Term};
use tinygpt_ir::types::DType;
use tinygpt_vloop::{Addr, BinOp, Builder, Elem, Idx, Reg, ScratchId};

/// Most rows for which nothing is packed.
const MOST_ROWS: usize = 4;
/// Columns of a block: a multiple of every group of columns.
const BLOCK_N: usize = 64;

/// Where vectors lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Dot,
    Axpy,
}

/// Whether a product goes the way of this module.
pub fn has_few_rows(p: &Product) -> bool {
    way(p).is_some()
}

/// The way of a product that has few rows; None if it has many, or its operands are not laid out for either way.
pub fn way(p: &Product) -> Option<Way> {
    if p.rows() > MOST_ROWS || p.cols() <= p.rows() {
        return None;
    }
    let sides = |t: &Term| {
        let (nb, nm, nn) = (p.batch.len(), p.m.len(), p.n.len());
        let (l, r) = (&t.lhs.at.coeffs, &t.rhs.at.coeffs);
        let (k_left, k_right) = (l[nb + nm..].last().copied(), r[nb + nn..].last().copied());
        (k_left == Some(1) && k_right == Some(1), flat_stride(&p.n, &r[nb..nb + nn]))
    };
    if p.terms.iter().all(|t| matches!(sides(t), (true, Some(_)))) {
        Some(Way::Dot)
    } else if p.terms.iter().all(|t| sides(t).1 == Some(1)) {
        Some(Way::Axpy)
    } else {
        None
    }
}

/// One term in the batch of a block: addresses at element 0 of k.
struct Operands<'a> {
    /// One a row.
    left: Vec<Addr>,
    /// At column 0, with the stride between columns.
    right: (Addr, i64),
    k: &'a [usize],
    left_k: &'a [i64],
    right_k: &'a [i64],
}

impl Operands<'_> {
    /// Loops over all axes of k but the last: `body(left rows, right)`.
    fn outer(&self, b: &mut Builder, body: &mut dyn FnMut(&mut Builder, &[Addr], &Addr)) {
        let outer = &self.k[..self.k.len() - 1];
        if outer.iter().all(|n| *n == 1) {
            return body(b, &self.left, &self.right.0);
        }
        b.for_("o", 0, outer.iter().product::<usize>(), 1, |b, o| {
            let last = outer.len();
            let left: Vec<Addr> =
                self.left.iter().map(|a| moved(b, a.clone(), (outer, &self.left_k[..last]), o)).collect();
            let right = moved(b, self.right.0.clone(), (outer, &self.right_k[..last]), o);
            body(b, &left, &right);
        });
    }

    /// Extent and strides of the last axis of k.
    fn inner(&self) -> (usize, i64, i64) {
        let last = self.k.len() - 1;
        (self.k[last], self.left_k[last], self.right_k[last])
    }
}

/// Blocks of columns `u0..u1`, numbered batch, block.
pub fn lower(
    p: &Product,
    way: Way,
    args: &[DType],
    options: LowerOptions,
    out: &mut Lowered,
) -> Result<Vec<Call>, LowerError> {
    let (m, n, depth) = (p.rows(), p.cols(), p.depth());
    let operands = p.terms.iter().flat_map(|t| [t.lhs.arg, t.rhs.arg]);
    let reads: BTreeSet<ArgId> = p.body.loads().map(|a| a.arg).chain(operands).collect();
    let writes: BTreeSet<ArgId> = p.stores.iter().map(|s| s.access.arg).collect();
    let mut frame = Frame::new("contract_few_rows", args, &reads, &writes);
    let sources: Vec<_> = p.terms.iter().map(|t| (frame.buf(&t.lhs), frame.buf(&t.rhs))).collect();
    let an = analysis(p, &frame);
    let mut rows = rows_of(&an, p, options);
    let b = &mut frame.b;
    options.allow(b);
    let (u0, u1) = (b.param("u0"), b.param("u1"));
    let sums = b.scratch("sums", Elem::F32, m * BLOCK_N);
    let blocks = n.div_ceil(BLOCK_N);
    let (nb, nm, nn) = (p.batch.len(), p.m.len(), p.n.len());
    let mut ev = Eval::new(&an);
    ev.prepare(b, &[], &p.stores);
    b.for_("u", u0, u1, 1, |b, u| {
        let [batch, block] = split_flat(b, &[p.batches(), blocks], u)[..] else { unreachable!("two axes") };
        let (n0, n1) = bounded(b, block, BLOCK_N, n);
        let terms: Vec<Operands> = p
            .terms
            .iter()
            .zip(&sources)
            .map(|(t, (left, right))| {
                let (l, r) = (&t.lhs.at.coeffs, &t.rhs.at.coeffs);
                let left = batch_base(b, left.at().offset(t.lhs.at.offset), &p.batch, &l[..nb], batch);
                let right = batch_base(b, right.at().offset(t.rhs.at.offset), &p.batch, &r[..nb], batch);
                let starts = super::product::offsets(&p.m, &l[nb..nb + nm]);
                let stride = flat_stride(&p.n, &r[nb..nb + nn]).expect("`way` has seen it");
                Operands {
                    left: starts.into_iter().map(|at| left.clone().offset(at)).collect(),
                    right: (right.plus(n0, stride), stride),
                    k: &t.k,
                    left_k: &l[nb + nm..],
                    right_k: &r[nb + nn..],
                }
            })
            .collect();
        let width = b.sub(n1, n0);
        match way {
            Way::Dot => dots(b, options.unroll(), &terms, m, width, sums),
            Way::Axpy => axpys(b, options.unroll(), &terms, m, width, sums),
        }
        let zero = b.index(0);
        let one = b.index(m as i64);
        let columns = n.is_multiple_of(BLOCK_N).then_some(BLOCK_N);
        let block = Block { batch, m: (zero, one), n: (n0, n1), columns };
        run_epilogue(b, &ev, p, &mut rows, sums.at(), Idx::Const(BLOCK_N as i64), block);
    });
    // The right side comes from memory: about 10 bytes a nanosecond.
    let epilogue = m as f64 * point_cost(&an, &[], &p.stores);
    let cost = BLOCK_N as f64 * (depth as f64 * (0.4 + 2.0 * m as f64 / RATE) + epilogue);
    let (func, bufs) = frame.finish()?;
    let func = out.func(func);
    Ok(cut(p.batches() * blocks, cost, 1)
        .into_iter()
        .map(|(u0, u1)| Call { func, bufs: bufs.clone(), params: vec![u0, u1], cost: cost * (u1 - u0) as f64 })
        .collect())
}

/// Groups of `wide` indices below `n`, then single ones: `body(first, size)`.
fn groups(b: &mut Builder, n: Reg, wide: i64, body: &dyn Fn(&mut Builder, Reg, usize)) {
    let whole = b.div_const(n, wide);
    let whole = b.mul_const(whole, wide);
    b.for_("j", 0, whole, wide, |b, j| body(b, j, wide as usize));
    b.for_("j", whole, n, 1, |b, j| body(b, j, 1));
}

/// Sums of columns `0..n` of the block by dot products.
fn dots(b: &mut Builder, unroll: Unroll, terms: &[Operands], m: usize, n: Reg, sums: ScratchId) {
    let wide = if m <= 2 { 4 } else { 2 };
    groups(b, n, wide, &|b, j, columns| {
        let accumulators = |b: &mut Builder, wide: bool| -> Vec<Vec<Reg>> {
            let zero = if wide { b.f32x4(0.0) } else { b.f32(0.0) };
            (0..m).map(|_| (0..columns).map(|_| b.var("c", zero)).collect()).collect()
        };
        let vectors = accumulators(b, true);
        // What is left of k after whole vectors.
        let tails = terms.iter().any(|t| t.inner().0 % 4 != 0).then(|| accumulators(b, false));
        for t in terms {
            let k = t.inner().0;
            let right = t.right.0.clone().plus(j, t.right.1);
            let t = Operands { right: (right, t.right.1), left: t.left.clone(), ..*t };
            t.outer(b, &mut |b, left, right| {
                let column = |c: usize| right.clone().offset(c as i64 * t.right.1);
                let main = k / 4 * 4;
                in_steps(b, unroll, main.into(), 4, &mut |b, at, q| {
                    let xs: Vec<Reg> = left.iter().map(|a| b.load4(a.clone().plus(at, 1).offset(q))).collect();
                    for c in 0..columns {
                        let y = b.load4(column(c).plus(at, 1).offset(q));
                        for (accs, &x) in vectors.iter().zip(&xs) {
                            b.fma_into(accs[c], x, y);
                        }
                    }
                });
                for q in main as i64..k as i64 {
                    let tails = tails.as_ref().expect("a term with a tail has accumulators for it");
                    for c in 0..columns {
                        let y = b.load(column(c).offset(q));
                        for (accs, a) in tails.iter().zip(left) {
                            let x = b.load(a.clone().offset(q));
                            b.fma_into(accs[c], x, y);
                        }
                    }
                }
            });
        }
        for r in 0..m {
            for c in 0..columns {
                let mut sum = b.reduce(BinOp::Add, vectors[r][c]);
                if let Some(tails) = &tails {
                    sum = b.add(sum, tails[r][c]);
                }
                b.store(sums.at().plus(j, 1).offset((r * BLOCK_N + c) as i64), sum);
            }
        }
    });
}

/// Sums of columns `0..n` of the block, vectors along the columns.
fn axpys(b: &mut Builder, unroll: Unroll, terms: &[Operands], m: usize, n: Reg, sums: ScratchId) {
    let wide = if m <= 2 { 4 } else { 2 };
    let block = |b: &mut Builder, j: Reg, lanes: usize, vectors: usize| {
        let zero = if lanes == 4 { b.f32x4(0.0) } else { b.f32(0.0) };
        let accs: Vec<Vec<Reg>> = (0..m).map(|_| (0..vectors).map(|_| b.var("c", zero)).collect()).collect();
        for t in terms {
            let (k, left_k, right_k) = t.inner();
            t.outer(b, &mut |b, left, right| {
                in_steps(b, unroll, k.into(), 1, &mut |b, at, q| {
                    let from = right.clone().plus(j, 1).plus(at, right_k).offset(q * right_k);
                    let ys: Vec<Reg> =
                        (0..vectors).map(|v| b.load_lanes(from.clone().offset(4 * v as i64), lanes)).collect();
                    for (a, row) in left.iter().zip(&accs) {
                        let a = a.clone().plus(at, left_k).offset(q * left_k);
                        let x = if lanes == 4 { b.load_splat(a) } else { b.load(a) };
                        for (&acc, &y) in row.iter().zip(&ys) {
                            b.fma_into(acc, x, y);
                        }
                    }
                });
            });
        }
        for (r, row) in accs.iter().enumerate() {
            for (v, &acc) in row.iter().enumerate() {
                b.store(sums.at().plus(j, 1).offset((r * BLOCK_N + 4 * v) as i64), acc);
            }
        }
    };
    let end = |b: &mut Builder, by: i64| {
        let whole = b.div_const(n, by);
        b.mul_const(whole, by)
    };
    let (main, fours) = (end(b, 4 * wide), end(b, 4));
    b.for_("j", 0, main, 4 * wide, |b, j| block(b, j, 4, wide as usize));
    b.for_("j", main, fours, 4, |b, j| block(b, j, 4, 1));
    b.for_("j", fours, n, 1, |b, j| block(b, j, 1, 1));
}
