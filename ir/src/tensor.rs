//! Tensors of f64 and the meaning of the operations that move, combine or reduce elements.
//!
//! Invariants
//! - `data` is row-major and holds `ty.numel()` elements; integers and booleans are exact (see module `eval`).
//! - Every function here trusts the types: the caller has checked them with the type rules (module `infer`).
//! - Sums run in index order, so that results do not depend on how a loop is arranged.

use crate::eval::{self, random_unit};
use crate::op::{Binary, Compare, ContractSpec, Label, Reduce, Unary};
use crate::types::{DType, Literal, TensorType, numel, row_major};

/// A tensor value, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    pub ty: TensorType,
    pub data: Vec<f64>,
}

impl Tensor {
    /// The tensor, or a sentence that says why `data` does not fit `ty` (wrong length, or an element that the dtype cannot hold).
    pub fn new(ty: TensorType, data: Vec<f64>) -> Result<Tensor, String> {
        let t = Tensor { ty, data };
        t.check()?;
        Ok(t)
    }

    /// Every element equal to `value`.
    pub fn splat(ty: TensorType, value: f64) -> Tensor {
        let data = vec![ty.dtype.normalise(value); ty.numel()];
        Tensor { ty, data }
    }

    pub fn scalar(dtype: DType, value: f64) -> Tensor {
        Tensor::splat(TensorType::new(dtype, []), value)
    }

    /// The element of a tensor that has only one; None if it has more.
    pub fn item(&self) -> Option<f64> {
        match self.data[..] {
            [x] => Some(x),
            _ => None,
        }
    }

    /// Checks the invariants of a tensor that came from outside.
    pub fn check(&self) -> Result<(), String> {
        let Tensor { ty, data } = self;
        if data.len() != ty.numel() {
            return Err(format!("{ty} holds {} elements, found {}", ty.numel(), data.len()));
        }
        match data.iter().position(|x| !ty.dtype.is_float() && ty.dtype.normalise(*x) != *x) {
            Some(i) => Err(format!("element {i} of {ty} is {}, which {} cannot hold", data[i], ty.dtype)),
            None => Ok(()),
        }
    }
}

/// Offsets `sum_d i_d * strides_d` for every index of `shape`, in row-major order of the index.
pub(crate) fn offsets(shape: &[usize], strides: &[i64]) -> Vec<usize> {
    let mut table = vec![0i64];
    for (extent, stride) in shape.iter().zip(strides) {
        table = table.iter().flat_map(|o| (0..*extent as i64).map(move |i| o + i * stride)).collect();
    }
    table.into_iter().map(|o| o as usize).collect()
}

fn at(data: &[f64], base: usize, offsets: &[usize]) -> Vec<f64> {
    offsets.iter().map(|o| data[base + o]).collect()
}

pub(crate) fn unary(u: Unary, x: &[&Tensor], ty: &TensorType) -> Vec<f64> {
    x[0].data.iter().map(|a| u.eval(ty.dtype, *a)).collect()
}

pub(crate) fn binary(op: Binary, x: &[&Tensor], ty: &TensorType) -> Vec<f64> {
    x[0].data.iter().zip(&x[1].data).map(|(a, b)| op.eval(ty.dtype, *a, *b)).collect()
}

pub(crate) fn compare(c: Compare, x: &[&Tensor]) -> Vec<f64> {
    x[0].data.iter().zip(&x[1].data).map(|(a, b)| f64::from(u8::from(c.eval(*a, *b)))).collect()
}

pub(crate) fn cast(to: DType, x: &[&Tensor]) -> Vec<f64> {
    x[0].data.iter().map(|a| eval::cast(x[0].ty.dtype, to, *a)).collect()
}

pub(crate) fn select(x: &[&Tensor]) -> Vec<f64> {
    let (c, a, b) = (&x[0].data, &x[1].data, &x[2].data);
    c.iter().zip(a).zip(b).map(|((c, a), b)| if *c != 0.0 { *a } else { *b }).collect()
}

pub(crate) fn iota(shape: &[usize], dtype: DType, axis: usize) -> Vec<f64> {
    let stride = numel(&shape[axis + 1..]);
    (0..numel(shape)).map(|i| dtype.normalise((i / stride % shape[axis]) as f64)).collect()
}

pub(crate) fn reduce(op: Reduce, axes: &[usize], x: &Tensor) -> Vec<f64> {
    let strides = row_major(&x.ty.shape);
    let kept: Vec<usize> = (0..x.ty.rank()).filter(|d| !axes.contains(d)).collect();
    let table = |axes: &[usize]| {
        let shape: Vec<usize> = axes.iter().map(|d| x.ty.shape[*d]).collect();
        let strides: Vec<i64> = axes.iter().map(|d| strides[*d]).collect();
        offsets(&shape, &strides)
    };
    let inner = table(axes);
    let one = |base: usize| {
        let elements = inner.iter().map(|o| x.data[base + o]);
        match op {
            Reduce::Sum => elements.fold(0.0, |a, b| Binary::Add.eval(x.ty.dtype, a, b)),
            Reduce::Max => elements.reduce(|a, b| Binary::Max.eval(x.ty.dtype, a, b)).unwrap_or(f64::NEG_INFINITY),
            Reduce::ArgMax => {
                let first = x.data[base + inner[0]];
                let larger = |best: (usize, f64), (i, v): (usize, f64)| if best.1 < v { (i, v) } else { best };
                elements.enumerate().fold((0, first), larger).0 as f64
            }
        }
    };
    table(&kept).into_iter().map(one).collect()
}

pub(crate) fn broadcast(x: &Tensor, shape: &[usize]) -> Vec<f64> {
    let stretch = |(d, s): (usize, i64)| if x.ty.shape[d] == 1 { 0 } else { s };
    let strides: Vec<i64> = row_major(&x.ty.shape).into_iter().enumerate().map(stretch).collect();
    at(&x.data, 0, &offsets(shape, &strides))
}

pub(crate) fn transpose(x: &Tensor, perm: &[usize], shape: &[usize]) -> Vec<f64> {
    let strides = row_major(&x.ty.shape);
    let permuted: Vec<i64> = perm.iter().map(|p| strides[*p]).collect();
    at(&x.data, 0, &offsets(shape, &permuted))
}

fn start_offset(shape: &[usize], start: &[usize]) -> usize {
    row_major(shape).iter().zip(start).map(|(s, i)| *s as usize * i).sum()
}

pub(crate) fn slice(x: &Tensor, start: &[usize], shape: &[usize]) -> Vec<f64> {
    at(&x.data, start_offset(&x.ty.shape, start), &offsets(shape, &row_major(&x.ty.shape)))
}

/// `into` with the window at `start` replaced by `x`.
fn place(x: &Tensor, mut into: Vec<f64>, shape: &[usize], start: &[usize]) -> Vec<f64> {
    let base = start_offset(shape, start);
    for (o, v) in offsets(&x.ty.shape, &row_major(shape)).into_iter().zip(&x.data) {
        into[base + o] = *v;
    }
    into
}

pub(crate) fn pad(x: &Tensor, low: &[usize], value: Literal, shape: &[usize]) -> Vec<f64> {
    place(x, vec![value.value; numel(shape)], shape, low)
}

pub(crate) fn concat(axis: usize, x: &[&Tensor]) -> Vec<f64> {
    let outer = numel(&x[0].ty.shape[..axis]);
    let mut out = Vec::with_capacity(x.iter().map(|t| t.data.len()).sum());
    for o in 0..outer {
        for t in x {
            let chunk = t.data.len() / outer;
            out.extend_from_slice(&t.data[o * chunk..(o + 1) * chunk]);
        }
    }
    out
}

/// For every batch index, rows of lhs times columns of rhs: both operands and the result are addressed through tables of
/// offsets, one for the batch, the lhs-free, the rhs-free and the contracted labels.
pub(crate) fn contract(spec: &ContractSpec, a: &Tensor, b: &Tensor, shape: &[usize]) -> Vec<f64> {
    let (batch, rows, cols, sum) = (spec.batch(), spec.lhs_free(), spec.rhs_free(), spec.contracted());
    let table = |group: &[Label], labels: &[Label], shape: &[usize]| {
        let strides = row_major(shape);
        let axis = |l: &Label| labels.iter().position(|x| x == l);
        let axes: Vec<usize> = group.iter().filter_map(axis).collect();
        let extents: Vec<usize> = axes.iter().map(|d| shape[*d]).collect();
        offsets(&extents, &axes.iter().map(|d| strides[*d]).collect::<Vec<_>>())
    };
    let of_a = |group: &[Label]| table(group, &spec.lhs, &a.ty.shape);
    let of_b = |group: &[Label]| table(group, &spec.rhs, &b.ty.shape);
    let of_out = |group: &[Label]| table(group, &spec.out, shape);
    let (a_rows, a_sum, b_cols, b_sum) = (of_a(&rows), of_a(&sum), of_b(&cols), of_b(&sum));
    let (out_rows, out_cols) = (of_out(&rows), of_out(&cols));
    let (k, n) = (a_sum.len(), b_cols.len());
    let mut out = vec![0.0; numel(shape)];
    let mut packed = vec![0.0; k * n];
    let mut line = vec![0.0; n];
    for ((a_base, b_base), out_base) in of_a(&batch).into_iter().zip(of_b(&batch)).zip(of_out(&batch)) {
        for (row, o) in packed.chunks_exact_mut(n).zip(&b_sum) {
            row.iter_mut().zip(&b_cols).for_each(|(p, c)| *p = b.data[b_base + o + c]);
        }
        for (a_row, out_row) in a_rows.iter().zip(&out_rows) {
            line.fill(0.0);
            for (b_row, o) in packed.chunks_exact(n).zip(&a_sum) {
                let x = a.data[a_base + a_row + o];
                line.iter_mut().zip(b_row).for_each(|(l, y)| *l += x * y);
            }
            line.iter().zip(&out_cols).for_each(|(l, c)| out[out_base + out_row + c] = *l);
        }
    }
    out
}

/// `id` clamped to the rows of a table of `rows` rows.
fn row_of(id: f64, rows: usize) -> usize {
    (id as i64).clamp(0, rows as i64 - 1) as usize
}

pub(crate) fn gather(table: &Tensor, ids: &Tensor) -> Vec<f64> {
    let (rows, width) = (table.ty.shape[0], numel(&table.ty.shape[1..]));
    let row = |id: &f64| &table.data[row_of(*id, rows) * width..][..width];
    ids.data.iter().flat_map(row).copied().collect()
}

pub(crate) fn scatter_add(base: &Tensor, ids: &Tensor, updates: &Tensor) -> Vec<f64> {
    let (rows, width) = (base.ty.shape[0], numel(&base.ty.shape[1..]));
    let mut out = base.data.clone();
    for (id, update) in ids.data.iter().zip(updates.data.chunks_exact(width)) {
        let row = &mut out[row_of(*id, rows) * width..][..width];
        row.iter_mut().zip(update).for_each(|(o, u)| *o += u);
    }
    out
}

/// Starts of a window of `sizes`, clamped so that it fits in `shape`.
fn clamped(starts: &[&Tensor], shape: &[usize], sizes: &[usize]) -> Vec<usize> {
    let clamp = |((s, d), w): ((&&Tensor, &usize), &usize)| (s.data[0] as i64).clamp(0, (d - w) as i64) as usize;
    starts.iter().zip(shape).zip(sizes).map(clamp).collect()
}

pub(crate) fn dynamic_slice(x: &[&Tensor], sizes: &[usize]) -> Vec<f64> {
    slice(x[0], &clamped(&x[1..], &x[0].ty.shape, sizes), sizes)
}

pub(crate) fn dynamic_update(x: &[&Tensor]) -> Vec<f64> {
    let (into, update) = (x[0], x[1]);
    let starts = clamped(&x[2..], &into.ty.shape, &update.ty.shape);
    place(update, into.data.clone(), &into.ty.shape, &starts)
}

pub(crate) fn random(x: &[&Tensor], stream: u32, shape: &[usize]) -> Vec<f64> {
    let (seed, counter) = (x[0].data[0] as u32, x[1].data[0] as u32);
    (0..numel(shape)).map(|i| random_unit(seed, counter, stream, i as u32)).collect()
}
