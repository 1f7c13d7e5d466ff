//! Register-tiled products over packed or padded operands, and the packing.

use super::nest::{idx_reg, pieces, split_flat, sum};
use tinygpt_vloop::{Addr, Builder, CmpOp, Idx, Reg};

/// A matrix: element (i, j) lies at `addr + i * row + j * col`.
#[derive(Clone)]
pub struct Mat {
    pub addr: Addr,
    pub row: i64,
    pub col: i64,
}

impl Mat {
    /// The matrix that begins at row `i`, column `j`.
    pub fn from(&self, i: Reg, j: Reg) -> Mat {
        Mat { addr: self.addr.clone().plus(i, self.row).plus(j, self.col), ..*self }
    }
}

/// How loops over k are unrolled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unroll {
    /// Four steps in one block, for code generators that keep the order of the function.
    Plain,
    /// Eight steps, each but the first behind a test of its own, for engines that schedule a block as a whole. V8 moves all loads of a
    /// block to its front: with several steps in one, loads take all registers, and accumulators are spilled. Four steps of a 4x8 tile
    /// in Node 20 make 26 GFLOP/s in one block, 40 behind tests; eight behind tests 41.
    Tested,
}

/// Loops over `0..k` by `stride`, unrolled: `step(k, q)` works at element `k + q`. `k` is a multiple of `stride`.
pub fn in_steps(b: &mut Builder, unroll: Unroll, k: Idx, stride: i64, step: &mut dyn FnMut(&mut Builder, Reg, i64)) {
    match unroll {
        Unroll::Plain => plain_steps(b, k, stride, step),
        Unroll::Tested => {
            let end = idx_reg(b, k);
            b.for_("k", 0, k, TESTED * stride, |b, at| tested_steps(b, (at, 0), (end, k), stride, step));
        }
    }
}

fn plain_steps(b: &mut Builder, k: Idx, stride: i64, step: &mut dyn FnMut(&mut Builder, Reg, i64)) {
    const STEPS: i64 = 4;
    let wide = STEPS * stride;
    let main: Idx = match k {
        Idx::Const(k) => (k / wide * wide).into(),
        Idx::Reg(k) => {
            let trips = b.div_const(k, wide);
            b.mul_const(trips, wide).into()
        }
    };
    b.for_("k", 0, main, wide, |b, k| (0..STEPS).for_each(|q| step(b, k, q * stride)));
    if !matches!((main, k), (Idx::Const(x), Idx::Const(y)) if x == y) {
        b.for_("k", main, k, stride, |b, k| step(b, k, 0));
    }
}

/// Steps of [`Unroll::Tested`].
const TESTED: i64 = 8;

/// The step at `at + q` and, behind a test, those after it. No second loop is needed for what is left of k.
fn tested_steps(
    b: &mut Builder,
    (at, q): (Reg, i64),
    (end, k): (Reg, Idx),
    stride: i64,
    step: &mut dyn FnMut(&mut Builder, Reg, i64),
) {
    step(b, at, q);
    let next = q + stride;
    if next == TESTED * stride || matches!(k, Idx::Const(k) if next >= k) {
        return;
    }
    let reached = b.add_const(at, next);
    let inside = b.cmp(CmpOp::Lt, reached, end);
    b.if_(inside, |b| tested_steps(b, (at, next), (end, k), stride, step));
}

/// `c[mr, nr] = a[mr, k] b[k, nr]`, or added to `c`. `nr` is a multiple of 4; b and c have `col` = 1.
///
/// `mr * nr / 4` accumulators, a row of b and a column of a stay in registers, and one is needed where a multiply-add is two
/// instructions: 4x8 takes 15 of the 16 on x86-64, and as many as V8 leaves to a function.
pub fn tile(b: &mut Builder, unroll: Unroll, (mr, nr): (usize, usize), k: Idx, a: &Mat, bm: &Mat, c: &Mat, add: bool) {
    let vectors = nr / 4;
    let place = |r: usize, v: usize| c.addr.clone().offset(r as i64 * c.row + 4 * v as i64);
    let mut accs: Vec<Vec<Reg>> = Vec::new();
    for r in 0..mr {
        let row = (0..vectors).map(|v| {
            let start = if add { b.load4(place(r, v)) } else { b.f32x4(0.0) };
            b.var("c", start)
        });
        accs.push(row.collect());
    }
    in_steps(b, unroll, k, 1, &mut |b, k, q| {
        let at = bm.addr.clone().plus(k, bm.row).offset(q * bm.row);
        let right: Vec<Reg> = (0..vectors).map(|v| b.load4(at.clone().offset(4 * v as i64))).collect();
        for (r, row) in accs.iter().enumerate() {
            let x = b.load_splat(a.addr.clone().plus(k, a.col).offset(q * a.col + r as i64 * a.row));
            for (&acc, &y) in row.iter().zip(&right) {
                b.fma_into(acc, x, y);
            }
        }
    });
    for (r, row) in accs.iter().enumerate() {
        for (v, &acc) in row.iter().enumerate() {
            b.store(place(r, v), acc);
        }
    }
}

/// `c[m, n] (+)= a[m, k] b[k, n]` for m a multiple of 4 and n a multiple of 8; b and c have `col` = 1.
pub fn matmul(b: &mut Builder, unroll: Unroll, m: Idx, n: Idx, k: Idx, a: &Mat, bm: &Mat, c: &Mat, add: bool) {
    b.for_("j", 0, n, 8, |b, j| {
        b.for_("i", 0, m, 4, |b, i| {
            let zero = b.index(0);
            tile(b, unroll, (4, 8), k, &a.from(i, zero), &bm.from(zero, j), &c.from(i, j), add);
        });
    });
}

/// Axes of one side of an operand: extents and strides, outermost first.
pub type Axes<'a> = (&'a [usize], &'a [i64]);

/// One side of a product: rows and k of an operand, each by its axes.
pub struct Side<'a> {
    pub from: Addr,
    pub rows: Axes<'a>,
    pub ks: Axes<'a>,
}

/// Where strips go: element (r, p) of strip s to `addr + s * apart + p * width + r`.
pub struct Strips {
    pub addr: Addr,
    pub width: usize,
    pub apart: i64,
}

/// Packs elements `k.0..k.1` of flat k of `count` strips of rows, the first beginning at flat row `row0`. Rows past the last are zeros.
pub fn pack_strips(b: &mut Builder, side: &Side, k: (Idx, Idx), row0: Reg, count: Reg, to: &Strips) {
    /// Strips whose rows, where they lie side by side, are read in one go: it takes fewer instructions, and fewer visits to a page.
    const GROUP: i64 = 4;
    let w = to.width as i64;
    let one = |b: &mut Builder, s: Reg| {
        let row = b.mul_const(s, w);
        let row = b.add(row0, row);
        let to = to.addr.clone().plus(s, to.apart);
        pack(b, side, k, row, w, to);
    };
    if !(side.rows.0.len() == 1 && side.rows.1[0] == 1 && to.width.is_multiple_of(4)) {
        b.for_("s", 0, count, 1, one);
        return;
    }
    let limit = b.index(side.rows.0[0] as i64);
    let inside = b.sub(limit, row0);
    let inside = b.div_const(inside, w);
    let whole = b.min(inside, count);
    let groups = b.div_const(whole, GROUP);
    let grouped = b.mul_const(groups, GROUP);
    b.for_("s", 0, grouped, GROUP, |b, s| {
        let from = side.from.clone().plus(row0, 1).plus(s, w);
        let to = Strips { addr: to.addr.clone().plus(s, to.apart), ..*to };
        move_rows(b, (from, side.ks), k, &to, GROUP);
    });
    b.for_("s", grouped, whole, 1, |b, s| {
        let from = side.from.clone().plus(row0, 1).plus(s, w);
        let to = Strips { addr: to.addr.clone().plus(s, to.apart), ..*to };
        move_rows(b, (from, side.ks), k, &to, 1);
    });
    b.for_("s", whole, count, 1, one);
}

/// Packs `strips` strips of rows that lie side by side, in whole vectors.
fn move_rows(b: &mut Builder, (from, ks): (Addr, Axes), k: (Idx, Idx), to: &Strips, strips: i64) {
    let w = to.width as i64;
    each_k(b, from, ks, k, |b, from, stride, lo, hi, shift| {
        b.for_("p", lo, hi, 1, |b, p| {
            let at = b.add(p, shift);
            for s in 0..strips {
                for v in 0..w / 4 {
                    let x = b.load4(from.clone().plus(p, stride).offset(s * w + 4 * v));
                    b.store(to.addr.clone().plus(at, w).offset(s * to.apart + 4 * v), x);
                }
            }
        });
    });
}

/// Packs one strip of any layout, row by row.
fn pack(b: &mut Builder, side: &Side, k: (Idx, Idx), row0: Reg, w: i64, to: Addr) {
    let limit = side.rows.0.iter().product::<usize>() as i64;
    b.for_("r", 0, w, 1, |b, r| {
        let row = b.add(row0, r);
        let limit = b.index(limit);
        let inside = b.cmp(CmpOp::Lt, row, limit);
        let to = to.clone().plus(r, 1);
        b.if_else(
            inside,
            |b| {
                let from = moved(b, side.from.clone(), side.rows, row);
                copy_k(b, from, side.ks, k, w, to.clone());
            },
            |b| {
                let zero = b.f32(0.0);
                let (k0, k1) = (idx_reg(b, k.0), idx_reg(b, k.1));
                let n = b.sub(k1, k0);
                b.for_("p", 0, n, 1, |b, p| b.store(to.clone().plus(p, w), zero));
            },
        );
    });
}

/// The address of the flat number `flat` of axes.
pub fn moved(b: &mut Builder, addr: Addr, axes: Axes, flat: Reg) -> Addr {
    let indices = split_flat(b, axes.0, flat);
    let terms: Vec<(Reg, i64)> = indices.into_iter().zip(axes.1.iter().copied()).filter(|(_, c)| *c != 0).collect();
    match sum(b, &terms) {
        Some(r) => addr.plus(r, 1),
        None => addr,
    }
}

/// Pieces of flat k that are evenly spaced: `body(address, stride, lo, hi, shift)`, where element p of `lo..hi` is element `p + shift`
/// of the range.
fn each_k(
    b: &mut Builder,
    from: Addr,
    ks: Axes,
    k: (Idx, Idx),
    mut body: impl FnMut(&mut Builder, Addr, i64, Idx, Idx, Reg),
) {
    let (stride, outer) = ks.1.split_last().expect("k has at least one axis");
    pieces(b, ks.0, k.0, k.1, &mut |b, indices, start, lo, hi| {
        let terms: Vec<(Reg, i64)> =
            indices.iter().copied().zip(outer.iter().copied()).filter(|(_, c)| *c != 0).collect();
        let from = match sum(b, &terms) {
            Some(r) => from.clone().plus(r, 1),
            None => from.clone(),
        };
        let k0 = idx_reg(b, k.0);
        let start = start.unwrap_or_else(|| b.index(0));
        let shift = b.sub(start, k0);
        body(b, from, *stride, lo, hi, shift);
    });
}

/// One row of a packed strip: elements of k, `width` apart in `to`.
fn copy_k(b: &mut Builder, from: Addr, ks: Axes, k: (Idx, Idx), width: i64, to: Addr) {
    each_k(b, from, ks, k, |b, from, stride, lo, hi, shift| {
        let (lo, hi) = (idx_reg(b, lo), idx_reg(b, hi));
        let n = b.sub(hi, lo);
        let main = b.div_const(n, 4);
        let main = b.mul_const(main, 4);
        let main = b.add(lo, main);
        b.for_("p", lo, main, 4, |b, p| {
            let x = b.load4_strided(from.clone().plus(p, stride), stride);
            let at = b.add(p, shift);
            b.store4_strided(to.clone().plus(at, width), width, x);
        });
        b.for_("p", main, hi, 1, |b, p| {
            let x = b.load(from.clone().plus(p, stride));
            let at = b.add(p, shift);
            b.store(to.clone().plus(at, width), x);
        });
    });
}
