//! Index maps: how the index of one tensor follows from the index of another, through views.
//!
//! A [`Map`] gives each axis of a tensor as an affine function of a kernel's space. Views carry maps both ways: *backward*, from
//! the result's index to the operand's (to read an operand), and *forward*, from the operand's index to the result's (to
//! let a consumer join its producer's kernel). A [`Strided`] view is a tensor as offset and strides into a stored buffer.
//!
//! Invariants
//! - Coefficients of space axes of extent 1 are zero, so that equal maps compare equal.
//! - A function that returns None says that the relation is not affine; nothing is approximated.

use tinygpt_ir::program::Affine;
use tinygpt_ir::{Op, row_major};

/// Each axis of a tensor as an affine function of a space.
pub type Map = Vec<Affine>;

/// The identity map of a tensor that *is* the space.
pub fn identity(space: &[usize]) -> Map {
    (0..space.len())
        .map(|d| if space[d] == 1 { Affine::constant(space.len(), 0) } else { Affine::axis(space.len(), d) })
        .collect()
}

/// Index of the view's operand (of shape `operand`) from the index `map` of its result (of shape `result`).
pub fn backward(op: &Op, operand: &[usize], result: &[usize], map: &Map, space: &[usize]) -> Option<Map> {
    match op {
        Op::Transpose { perm } => {
            let mut out = map.clone();
            for (i, p) in perm.iter().enumerate() {
                out[*p] = map[i].clone();
            }
            Some(out)
        }
        Op::Broadcast { .. } => Some(
            map.iter()
                .zip(operand)
                .map(|(a, n)| if *n == 1 { Affine::constant(space.len(), 0) } else { a.clone() })
                .collect(),
        ),
        Op::Slice { start, .. } => Some(
            map.iter()
                .zip(start)
                .map(|(a, s)| Affine { offset: a.offset + *s as i64, coeffs: a.coeffs.clone() })
                .collect(),
        ),
        Op::Reshape { .. } => reshape(result, operand, map, space),
        _ => None,
    }
}

/// Index of the view's result from the index `map` of its operand, where the view is a bijection.
pub fn forward(op: &Op, operand: &[usize], result: &[usize], map: &Map, space: &[usize]) -> Option<Map> {
    match op {
        Op::Transpose { perm } => Some(perm.iter().map(|p| map[*p].clone()).collect()),
        Op::Reshape { .. } => reshape(operand, result, map, space),
        _ => None,
    }
}

/// Splits two shapes of equal element count into the smallest groups of axes with equal products.
fn groups(a: &[usize], b: &[usize]) -> Vec<(std::ops::Range<usize>, std::ops::Range<usize>)> {
    let (mut i, mut j, mut out) = (0, 0, Vec::new());
    while i < a.len() || j < b.len() {
        let (i0, j0) = (i, j);
        let (mut pa, mut pb) = (1, 1);
        loop {
            if pa < pb || (i == i0 && i < a.len()) {
                pa *= a[i];
                i += 1;
            } else if pb < pa || (j == j0 && j < b.len()) {
                pb *= b[j];
                j += 1;
            }
            if pa == pb && (i > i0 || i == a.len()) && (j > j0 || j == b.len()) {
                break;
            }
        }
        out.push((i0..i, j0..j));
    }
    out
}

/// The index in shape `to` from the index `map` in shape `from`, both row-major views of the same elements.
fn reshape(from: &[usize], to: &[usize], map: &Map, space: &[usize]) -> Option<Map> {
    let mut out: Map = vec![Affine::constant(space.len(), 0); to.len()];
    for (f, t) in groups(from, to) {
        let strides = row_major(&from[f.clone()]);
        let linear = f.clone().zip(strides).fold(Affine::constant(space.len(), 0), |acc, (d, s)| acc.plus(&map[d], s));
        let parts = split(&linear, &to[t.clone()], space)?;
        for (d, part) in t.zip(parts) {
            out[d] = part;
        }
    }
    Some(out)
}

/// Writes `linear`, a row-major index into `sizes`, as one affine index an axis of `sizes`.
fn split(linear: &Affine, sizes: &[usize], space: &[usize]) -> Option<Vec<Affine>> {
    let real: Vec<usize> = (0..sizes.len()).filter(|d| sizes[*d] > 1).collect();
    let mut out = vec![Affine::constant(space.len(), 0); sizes.len()];
    let Some((last, outer)) = real.split_last() else { return Some(out) };
    let strides = row_major(sizes);
    let mut rest = linear.clone();
    for d in outer {
        let s = strides[*d];
        // Terms that are whole multiples of the stride belong to this axis; what is left must stay below one stride.
        let mut here = Affine::constant(space.len(), rest.offset.div_euclid(s));
        rest.offset = rest.offset.rem_euclid(s);
        for (c, r) in here.coeffs.iter_mut().zip(rest.coeffs.iter_mut()) {
            if *r % s == 0 {
                *c = *r / s;
                *r = 0;
            }
        }
        let (lo, hi) = rest.range(space);
        if lo < 0 || hi >= s {
            return None;
        }
        out[*d] = here;
    }
    out[*last] = rest;
    let fits = real.iter().all(|d| {
        let (lo, hi) = out[*d].range(space);
        lo >= 0 && hi < sizes[*d] as i64
    });
    fits.then_some(out)
}

/// A tensor as a window into the stored buffer of `base`.
#[derive(Clone, Debug, PartialEq)]
pub struct Strided {
    pub base: tinygpt_ir::NodeId,
    pub offset: i64,
    /// In elements, one an axis of the tensor.
    pub strides: Vec<i64>,
}

impl Strided {
    /// The view `op` of a tensor of shape `operand` that is this window; None if strides cannot say it.
    pub fn through(&self, op: &Op, operand: &[usize], result: &[usize]) -> Option<Strided> {
        let strides = match op {
            Op::Transpose { perm } => perm.iter().map(|p| self.strides[*p]).collect(),
            Op::Broadcast { .. } => {
                (0..result.len()).map(|d| if operand[d] == result[d] { self.strides[d] } else { 0 }).collect()
            }
            Op::Slice { start, .. } => {
                let offset = self.offset + start.iter().zip(&self.strides).map(|(s, t)| *s as i64 * t).sum::<i64>();
                return Some(Strided { base: self.base, offset, strides: self.strides.clone() });
            }
            Op::Reshape { .. } => reshape_strides(operand, result, &self.strides)?,
            _ => return None,
        };
        Some(Strided { base: self.base, offset: self.offset, strides })
    }

    /// The element at `map`, as an affine function of the space.
    pub fn at(&self, map: &Map, rank: usize) -> Affine {
        map.iter().zip(&self.strides).fold(Affine::constant(rank, self.offset), |acc, (a, s)| acc.plus(a, *s))
    }
}

fn reshape_strides(from: &[usize], to: &[usize], strides: &[i64]) -> Option<Vec<i64>> {
    let mut out = vec![0; to.len()];
    for (f, t) in groups(from, to) {
        let axes: Vec<usize> = f.filter(|d| from[*d] > 1).collect();
        let Some(last) = axes.last() else { continue };
        let contiguous = axes.windows(2).all(|w| strides[w[0]] == strides[w[1]] * from[w[1]] as i64);
        if !contiguous {
            return None;
        }
        let mut stride = strides[*last];
        for d in t.rev() {
            out[d] = if to[d] == 1 { 0 } else { stride };
            stride *= to[d] as i64;
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reshape_merges_and_splits_by_factors_of_the_space() {
        let space = [2, 3, 4];
        let id = identity(&space);
        let merged = reshape(&space, &[2, 12], &id, &space).unwrap();
        assert_eq!(merged[1].coeffs, vec![0, 4, 1]);
        assert_eq!(reshape(&[2, 12], &space, &merged, &space).unwrap(), id);
        let flat = [2, 12];
        assert_eq!(reshape(&flat, &space, &identity(&flat), &flat), None, "an axis of the space cannot be split");
        assert_eq!(reshape(&[6], &[1, 6, 1], &identity(&[6]), &[6]).unwrap()[1].coeffs, vec![1]);
    }

    #[test]
    fn strides_survive_a_reshape_only_where_contiguous() {
        let s = Strided { base: tinygpt_ir::NodeId(0), offset: 0, strides: vec![12, 4, 1] };
        let merged = s.through(&Op::Reshape { shape: vec![2, 12] }, &[2, 3, 4], &[2, 12]).unwrap();
        assert_eq!(merged.strides, vec![12, 1]);
        let t = s.through(&Op::Transpose { perm: vec![1, 0, 2] }, &[2, 3, 4], &[3, 2, 4]).unwrap();
        assert_eq!(t.strides, vec![4, 12, 1]);
        assert_eq!(t.through(&Op::Reshape { shape: vec![3, 8] }, &[3, 2, 4], &[3, 8]), None);
        let split = t.through(&Op::Reshape { shape: vec![3, 2, 2, 2] }, &[3, 2, 4], &[3, 2, 2, 2]).unwrap();
        assert_eq!(split.strides, vec![4, 12, 2, 1]);
    }
}
