//! Attention and its gradient (Dao et al. 2022): one call computes whole heads, a block of queries at a time.
//!
//! Per head, keys and values are copied to scratch, padded to whole tiles and, where a product wants it, transposed; so every product
//! below is a register-tiled one over unit strides. The causal bound cuts the number of keys of each block of queries.
//!
//! With S = scale q k^T, P = e^(S - lse) and delta = rowsum(dout * out):
//! dv = P^T dout, dS = P * (dout v^T - delta), dq = scale dS k, dk = scale dS^T q.

use super::cost::cut;
use super::matmul::{Mat, Unroll, matmul};
use super::nest::{split_flat, sum};
use super::{Call, Frame, LowerError, LowerOptions, Lowered};
use tinygpt_ir::program::{Access, Attention, AttentionGrad, AttentionShape};
use tinygpt_ir::types::DType;
use tinygpt_vloop::{Addr, BinOp, Builder, Elem, Idx, Reg, RowFn, ScratchId};

/// Queries of a block: a multiple of 8.
const BLOCK: usize = 32;
/// Floating-point operations a nanosecond, for cost estimates.
const RATE: f64 = 25.0;

/// Padded sizes.
struct Sizes {
    /// Queries of a block.
    block: usize,
    /// Keys, to whole tiles.
    keys: usize,
    /// Head dimension, to whole tiles.
    dim: usize,
}

impl Sizes {
    fn new(s: &AttentionShape) -> Sizes {
        Sizes {
            block: BLOCK.min(s.q_len.next_multiple_of(8)),
            keys: s.k_len.next_multiple_of(8),
            dim: s.head_dim.next_multiple_of(8),
        }
    }
}

/// What the code of one block of queries of one head refers to.
struct Head<'a> {
    shape: &'a AttentionShape,
    sizes: Sizes,
    /// Batch and head.
    at: (Reg, Reg),
    rows: bool,
    unroll: Unroll,
}

pub fn lower(k: &Attention, args: &[DType], options: LowerOptions) -> Result<Lowered, LowerError> {
    let reads = [Some(&k.q), Some(&k.k), k.v.as_ref()].into_iter().flatten().map(|a| a.arg).collect();
    let writes = [&k.out, &k.lse].into_iter().flatten().map(|a| a.arg).collect();
    let mut frame = Frame::new("attention", args, &reads, &writes);
    let s = &k.shape;
    let z = Sizes::new(s);
    let [q, kt, v, scores, out] = [
        ("q", z.block * z.dim),
        ("kt", s.head_dim * z.keys),
        ("v", z.keys * z.dim),
        ("scores", z.block * z.keys),
        ("out", z.block * z.dim),
    ]
    .map(|(name, len)| frame.b.scratch(name, Elem::F32, len));
    let norm = frame.b.scratch("norm", Elem::F32, z.block);
    let addr = |frame: &Frame, a: &Access| frame.buf(a).at().offset(a.at.offset);
    let (q_from, k_from) = (addr(&frame, &k.q), addr(&frame, &k.k));
    let v_from = k.v.as_ref().map(|v| (addr(&frame, v), v.at.coeffs.clone()));
    let out_to = k.out.as_ref().map(|o| (addr(&frame, o), o.at.coeffs.clone()));
    let lse_to = k.lse.as_ref().map(|l| (addr(&frame, l), l.at.coeffs.clone()));
    per_head(&mut frame.b, s, options, |b, h| {
        copy(
            b,
            h,
            (&k_from, &k.k.at.coeffs),
            None,
            s.k_len.into(),
            z.keys,
            Mat { addr: kt.at(), row: 1, col: z.keys as i64 },
            1.0,
        );
        if let Some((from, c)) = &v_from {
            copy(b, h, (from, c), None, s.k_len.into(), z.keys, padded(v, z.dim), 1.0);
        }
        h.blocks(b, |b, t0, count, limit| {
            copy_block(b, h, (&q_from, &k.q.at.coeffs), t0, count, q, s.scale);
            let (block, d) = (Idx::from(z.block), Idx::from(s.head_dim));
            let keys = Mat { addr: kt.at(), row: z.keys as i64, col: 1 };
            matmul(b, h.unroll, block, limit, d, &padded(q, z.dim), &keys, &padded(scores, z.keys), false);
            b.for_("r", 0, count, 1, |b, r| {
                let row = scores.at().plus(r, z.keys as i64);
                let valid = h.visible(b, t0, r);
                let row = Row::new(b, row, valid);
                let largest = row.max(b);
                let zeros = b.f32x4(0.0);
                let total = b.var("sum", zeros);
                row.exp(b, h, largest, |b, x, _| b.combine_into(total, BinOp::Add, x));
                row.clear(b, limit);
                let total = b.reduce(BinOp::Add, total);
                let one = b.f32(1.0);
                let inverse = b.div(one, total);
                b.store(norm.at().plus(r, 1), inverse);
                if let Some((to, c)) = &lse_to {
                    let log = b.log(total);
                    let lse = b.add(largest, log);
                    let t = b.add(t0, r);
                    let to = h.place(b, to, c).plus(t, c[2]);
                    b.store(to, lse);
                }
            });
            if let Some((to, c)) = &out_to {
                matmul(
                    b,
                    h.unroll,
                    block,
                    z.dim.into(),
                    limit,
                    &padded(scores, z.keys),
                    &padded(v, z.dim),
                    &padded(out, z.dim),
                    false,
                );
                b.for_("r", 0, count, 1, |b, r| {
                    let by = b.load(norm.at().plus(r, 1));
                    let t = b.add(t0, r);
                    let to = h.place(b, to, c).plus(t, c[2]);
                    write_row(b, out.at().plus(r, z.dim as i64), to, c[3], s.head_dim, Some(by));
                });
            }
        });
    });
    let products = 1.0 + f64::from(u8::from(k.out.is_some()));
    finish(frame, s, products)
}

pub fn lower_grad(k: &AttentionGrad, args: &[DType], options: LowerOptions) -> Result<Lowered, LowerError> {
    let reads = [&k.q, &k.k, &k.v, &k.out, &k.lse, &k.dout].into_iter().map(|a| a.arg).collect();
    let writes = [&k.dq, &k.dk, &k.dv].into_iter().flatten().map(|a| a.arg).collect();
    let mut frame = Frame::new("attention_grad", args, &reads, &writes);
    let s = &k.shape;
    let z = Sizes::new(s);
    let [q, dout, kt, vt, keys, probs, grads, dk, dv, dq] = [
        ("q", z.block * z.dim),
        ("dout", z.block * z.dim),
        ("kt", s.head_dim * z.keys),
        ("vt", s.head_dim * z.keys),
        ("k", z.keys * z.dim),
        ("probs", z.block * z.keys),
        ("grads", z.block * z.keys),
        ("dk", z.keys * z.dim),
        ("dv", z.keys * z.dim),
        ("dq", z.block * z.dim),
    ]
    .map(|(name, len)| frame.b.scratch(name, Elem::F32, len));
    let source = |frame: &Frame, a: &Access| (frame.buf(a).at().offset(a.at.offset), a.at.coeffs.clone());
    let [q_from, k_from, v_from, out_from, lse_from, dout_from] =
        [&k.q, &k.k, &k.v, &k.out, &k.lse, &k.dout].map(|a| source(&frame, a));
    let [dq_to, dk_to, dv_to] = [&k.dq, &k.dk, &k.dv].map(|a| a.as_ref().map(|a| source(&frame, a)));
    let turned = |x: ScratchId| Mat { addr: x.at(), row: 1, col: z.keys as i64 };
    let by_dim = |x: ScratchId| Mat { addr: x.at(), row: z.keys as i64, col: 1 };
    per_head(&mut frame.b, s, options, |b, h| {
        copy(b, h, (&k_from.0, &k_from.1), None, s.k_len.into(), z.keys, turned(kt), 1.0);
        copy(b, h, (&v_from.0, &v_from.1), None, s.k_len.into(), z.keys, turned(vt), 1.0);
        if dq_to.is_some() {
            copy(b, h, (&k_from.0, &k_from.1), None, s.k_len.into(), z.keys, padded(keys, z.dim), 1.0);
        }
        for sums in [(dk, &dk_to), (dv, &dv_to)].into_iter().filter(|(_, to)| to.is_some()).map(|(sums, _)| sums) {
            fill_zero(b, sums.at(), (z.keys * z.dim).into());
        }
        h.blocks(b, |b, t0, count, limit| {
            copy_block(b, h, (&q_from.0, &q_from.1), t0, count, q, s.scale);
            copy_block(b, h, (&dout_from.0, &dout_from.1), t0, count, dout, 1.0);
            let (block, d) = (Idx::from(z.block), Idx::from(s.head_dim));
            matmul(b, h.unroll, block, limit, d, &padded(q, z.dim), &by_dim(kt), &padded(probs, z.keys), false);
            matmul(b, h.unroll, block, limit, d, &padded(dout, z.dim), &by_dim(vt), &padded(grads, z.keys), false);
            b.for_("r", 0, count, 1, |b, r| {
                let t = b.add(t0, r);
                let lse = h.place(b, &lse_from.0, &lse_from.1).plus(t, lse_from.1[2]);
                let lse = b.load(lse);
                let out = h.place(b, &out_from.0, &out_from.1).plus(t, out_from.1[2]);
                let delta = dot(b, dout.at().plus(r, z.dim as i64), (out, out_from.1[3]), s.head_dim);
                let (p, g) = (probs.at().plus(r, z.keys as i64), grads.at().plus(r, z.keys as i64));
                let valid = h.visible(b, t0, r);
                let (p, grads) = (Row::new(b, p, valid), Row::new(b, g.clone(), valid));
                let deltas = b.splat(delta);
                p.set_rest(b, f32::NEG_INFINITY);
                p.exp(b, h, lse, |b, px, j| {
                    let gx = b.load4(g.clone().plus(j, 1));
                    let x = b.sub(gx, deltas);
                    let x = b.mul(px, x);
                    b.store(g.clone().plus(j, 1), x);
                });
                p.clear(b, limit);
                grads.clear(b, limit);
            });
            // Rows past the last query add nothing.
            b.for_("r", count, z.block, 1, |b, r| {
                fill_zero(b, probs.at().plus(r, z.keys as i64), limit);
                fill_zero(b, grads.at().plus(r, z.keys as i64), limit);
            });
            if dv_to.is_some() {
                matmul(
                    b,
                    h.unroll,
                    limit,
                    z.dim.into(),
                    block,
                    &turned(probs),
                    &padded(dout, z.dim),
                    &padded(dv, z.dim),
                    true,
                );
            }
            if dk_to.is_some() {
                matmul(
                    b,
                    h.unroll,
                    limit,
                    z.dim.into(),
                    block,
                    &turned(grads),
                    &padded(q, z.dim),
                    &padded(dk, z.dim),
                    true,
                );
            }
            if let Some((to, c)) = &dq_to {
                matmul(
                    b,
                    h.unroll,
                    block,
                    z.dim.into(),
                    limit,
                    &padded(grads, z.keys),
                    &padded(keys, z.dim),
                    &padded(dq, z.dim),
                    false,
                );
                let scale = b.f32(s.scale as f32);
                b.for_("r", 0, count, 1, |b, r| {
                    let t = b.add(t0, r);
                    let to = h.place(b, to, c).plus(t, c[2]);
                    write_row(b, dq.at().plus(r, z.dim as i64), to, c[3], s.head_dim, Some(scale));
                });
            }
        });
        for (sums, to) in [(dk, &dk_to), (dv, &dv_to)] {
            if let Some((to, c)) = to {
                b.for_("s", 0, s.k_len, 1, |b, i| {
                    let to = h.place(b, to, c).plus(i, c[2]);
                    write_row(b, sums.at().plus(i, z.dim as i64), to, c[3], s.head_dim, None);
                });
            }
        }
    });
    finish(frame, s, 5.0)
}

/// The calls: heads of all batches in one flat number.
fn finish(frame: Frame, s: &AttentionShape, products: f64) -> Result<Lowered, LowerError> {
    let pairs = (s.q_len * s.k_len) as f64 * if s.causal { 0.5 } else { 1.0 };
    let cost = pairs * (products * 2.0 * s.head_dim as f64 / RATE + 2.0) + 100.0;
    let (func, bufs) = frame.finish()?;
    let mut out = Lowered::default();
    let func = out.func(func);
    let calls = cut(s.batch * s.heads, cost, 1).into_iter();
    out.phases.push(
        calls
            .map(|(u0, u1)| Call { func, bufs: bufs.clone(), params: vec![u0, u1], cost: cost * (u1 - u0) as f64 })
            .collect(),
    );
    Ok(out)
}

/// The loop over heads `u0..u1`.
fn per_head(b: &mut Builder, s: &AttentionShape, options: LowerOptions, body: impl FnOnce(&mut Builder, &Head)) {
    let (u0, u1) = (b.param("u0"), b.param("u1"));
    b.for_("u", u0, u1, 1, |b, u| {
        let [batch, head] = split_flat(b, &[s.batch, s.heads], u)[..] else { unreachable!("two axes") };
        let head = Head {
            shape: s,
            sizes: Sizes::new(s),
            at: (batch, head),
            rows: options.row_templates,
            unroll: options.unroll(),
        };
        body(b, &head);
    });
}

impl Head<'_> {
    /// An address moved to this batch and head.
    fn place(&self, b: &mut Builder, addr: &Addr, coeffs: &[i64]) -> Addr {
        let terms: Vec<(Reg, i64)> =
            [(self.at.0, coeffs[0]), (self.at.1, coeffs[1])].into_iter().filter(|(_, c)| *c != 0).collect();
        match sum(b, &terms) {
            Some(r) => addr.clone().plus(r, 1),
            None => addr.clone(),
        }
    }

    /// Blocks of queries: `body(first, count, keys that any of them sees, to whole tiles)`.
    fn blocks(&self, b: &mut Builder, body: impl FnOnce(&mut Builder, Reg, Reg, Idx)) {
        let (block, keys) = (self.sizes.block as i64, self.sizes.keys as i64);
        b.for_("t", 0, self.shape.q_len, block, |b, t0| {
            let all = b.index(self.shape.q_len as i64);
            let rest = b.sub(all, t0);
            let most = b.index(block);
            let count = b.min(rest, most);
            let limit = if self.shape.causal {
                let end = b.add_const(t0, block);
                let keys = b.index(keys);
                Idx::Reg(b.min(end, keys))
            } else {
                keys.into()
            };
            body(b, t0, count, limit);
        });
    }

    /// The keys that query t0 + r sees.
    fn visible(&self, b: &mut Builder, t0: Reg, r: Reg) -> Reg {
        if !self.shape.causal {
            return b.index(self.shape.k_len as i64);
        }
        let t = b.add(t0, r);
        b.add_const(t, 1)
    }
}

/// A row-major scratch matrix.
fn padded(x: ScratchId, ld: usize) -> Mat {
    Mat { addr: x.at(), row: ld as i64, col: 1 }
}

/// An operand: its address in batch 0, head 0, and its strides over (batch, head, position, dimension).
type Operand<'a> = (&'a Addr, &'a [i64]);

/// Copies rows `first..first + count` of an operand of the head, times `scale`, to the rows of `to`; further rows, up to `rows`, become
/// zeros. Columns are the head dimension, padded with zeros where `to` is row-major.
fn copy(b: &mut Builder, h: &Head, from: Operand, first: Option<Reg>, count: Idx, rows: usize, to: Mat, scale: f64) {
    let (dim, col, c) = (h.shape.head_dim, to.col, from.1);
    let wide = if col == 1 { h.sizes.dim } else { dim };
    let from = h.place(b, from.0, c);
    let from = match first {
        Some(first) => from.plus(first, c[2]),
        None => from,
    };
    let (fours, factor) = (b.f32x4(scale as f32), b.f32(scale as f32));
    b.for_("r", 0, count, 1, |b, r| {
        let main = dim / 4 * 4;
        let (from, to) = (from.clone().plus(r, c[2]), to.addr.clone().plus(r, to.row));
        b.for_("d", 0, main, 4, |b, d| {
            let x = b.load4_strided(from.clone().plus(d, c[3]), c[3]);
            let x = if scale == 1.0 { x } else { b.mul(x, fours) };
            b.store4_strided(to.clone().plus(d, col), col, x);
        });
        for d in main..wide {
            let x = if d < dim {
                let x = b.load(from.clone().offset(d as i64 * c[3]));
                if scale == 1.0 { x } else { b.mul(x, factor) }
            } else {
                b.f32(0.0)
            };
            b.store(to.clone().offset(d as i64 * col), x);
        }
    });
    let zero = b.f32(0.0);
    b.for_("r", count, rows, 1, |b, r| {
        let to = to.addr.clone().plus(r, to.row);
        b.for_("d", 0, wide, 1, |b, d| b.store(to.clone().plus(d, col), zero));
    });
}

/// A block of queries (or of gradients of queries) to row-major scratch.
fn copy_block(b: &mut Builder, h: &Head, from: Operand, t0: Reg, count: Reg, to: ScratchId, scale: f64) {
    copy(b, h, from, Some(t0), count.into(), h.sizes.block, padded(to, h.sizes.dim), scale);
}

/// A row of scores in scratch, of which the first `n` are those of visible keys. Its length is a multiple of 4.
struct Row {
    addr: Addr,
    n: Reg,
    /// `n` rounded up to whole vectors.
    end: Reg,
}

impl Row {
    fn new(b: &mut Builder, addr: Addr, n: Reg) -> Row {
        let end = b.add_const(n, 3);
        let end = b.div_const(end, 4);
        Row { addr, n, end: b.mul_const(end, 4) }
    }

    fn at(&self, j: Reg) -> Addr {
        self.addr.clone().plus(j, 1)
    }

    /// Sets what a last vector has beyond `n`.
    fn set_rest(&self, b: &mut Builder, x: f32) {
        let x = b.f32(x);
        b.for_("j", self.n, self.end, 1, |b, j| b.store(self.at(j), x));
    }

    /// The largest of the first `n` elements, which whole vectors hold from here on: the rest of the last one becomes -inf.
    fn max(&self, b: &mut Builder) -> Reg {
        self.set_rest(b, f32::NEG_INFINITY);
        let least = b.f32x4(f32::NEG_INFINITY);
        let acc = b.var("max", least);
        b.for_("j", 0, self.end, 4, |b, j| {
            let x = b.load4(self.at(j));
            b.combine_into(acc, BinOp::Max, x);
        });
        b.reduce(BinOp::Max, acc)
    }

    /// Replaces the elements x of whole vectors by e^(x - shift), which is 0 where x is -inf; `then` gets each vector and its index.
    fn exp(&self, b: &mut Builder, h: &Head, shift: Reg, then: impl Fn(&mut Builder, Reg, Reg)) {
        let shift = b.splat(shift);
        let shifted = |b: &mut Builder, j: Reg| {
            let x = b.load4(self.at(j));
            b.sub(x, shift)
        };
        if h.rows {
            b.for_("j", 0, self.end, 4, |b, j| {
                let x = shifted(b, j);
                b.store(self.at(j), x);
            });
            b.call_row(RowFn::Exp, self.addr.clone(), self.addr.clone(), self.end);
        }
        b.for_("j", 0, self.end, 4, |b, j| {
            let x = if h.rows {
                b.load4(self.at(j))
            } else {
                let x = shifted(b, j);
                let x = b.exp(x);
                b.store(self.at(j), x);
                x
            };
            then(b, x, j);
        });
    }

    /// Zeros from `n` to `limit`, a multiple of 4: whatever was there, hidden keys add nothing.
    fn clear(&self, b: &mut Builder, limit: Idx) {
        self.set_rest(b, 0.0);
        let zero = b.f32x4(0.0);
        b.for_("j", self.end, limit, 4, |b, j| b.store(self.at(j), zero));
    }
}

/// The sum of x[d] * y[d] over `0..n`; x has stride 1.
fn dot(b: &mut Builder, x: Addr, (y, stride): (Addr, i64), n: usize) -> Reg {
    let zeros = b.f32x4(0.0);
    let acc = b.var("dot", zeros);
    let main = n / 4 * 4;
    b.for_("d", 0, main, 4, |b, d| {
        let (p, q) = (b.load4(x.clone().plus(d, 1)), b.load4_strided(y.clone().plus(d, stride), stride));
        b.fma_into(acc, p, q);
    });
    let sum = b.reduce(BinOp::Add, acc);
    let sum = b.var("dot", sum);
    for d in main..n {
        let (p, q) = (b.load(x.clone().offset(d as i64)), b.load(y.clone().offset(d as i64 * stride)));
        b.fma_into(sum, p, q);
    }
    sum
}

/// Writes a contiguous row of `n` elements, times `by`, to elements `stride` apart.
fn write_row(b: &mut Builder, row: Addr, to: Addr, stride: i64, n: usize, by: Option<Reg>) {
    let main = n / 4 * 4;
    let fours = by.map(|by| b.splat(by));
    b.for_("d", 0, main, 4, |b, d| {
        let x = b.load4(row.clone().plus(d, 1));
        let x = fours.map_or(x, |by| b.mul(x, by));
        b.store4_strided(to.clone().plus(d, stride), stride, x);
    });
    for d in main..n {
        let x = b.load(row.clone().offset(d as i64));
        let x = by.map_or(x, |by| b.mul(x, by));
        b.store(to.clone().offset(d as i64 * stride), x);
    }
}

/// Zeros in `0..n`, a multiple of 4.
fn fill_zero(b: &mut Builder, at: Addr, n: Idx) {
    let zero = b.f32x4(0.0);
    b.for_("z", 0, n, 4, |b, z| b.store(at.clone().plus(z, 1), zero));
}
