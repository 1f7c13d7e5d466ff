//! Index spaces: fewer axes, and the axes of a flat index.
//!
//! Adjacent axes that every map steps through as one (the outer coefficient is the inner one times the inner extent) are merged, and axes of
//! extent 1 dropped, so that most kernels decompose an index with few divisions or none.

use crate::text::affine;
use tinygpt_ir::program::{Affine, Body, ScalarOp, Store};

/// How some axes of a space become fewer.
#[derive(Clone, Debug, PartialEq)]
pub struct Merge {
    /// Extents after merging.
    pub extents: Vec<usize>,
    /// Of each axis after merging, the innermost axis that it covers.
    inner: Vec<usize>,
}

/// Merges the axes `from .. from + extents.len()` of the given coefficient lists.
pub fn merge(extents: &[usize], from: usize, maps: &[&[i64]]) -> Merge {
    let mut out = Merge { extents: vec![], inner: vec![] };
    for (d, n) in extents.iter().enumerate() {
        if *n == 1 {
            continue;
        }
        let joined = out
            .inner
            .last()
            .is_some_and(|last| maps.iter().all(|m| m[from + *last] == m[from + d].wrapping_mul(*n as i64)));
        if joined {
            let last = out.extents.len() - 1;
            out.extents[last] *= n;
            out.inner[last] = d;
        } else {
            out.extents.push(*n);
            out.inner.push(d);
        }
    }
    out
}

impl Merge {
    /// Coefficients of `map`, whose merged axes begin at `from`, after merging.
    pub fn coefficients(&self, map: &[i64], from: usize) -> Vec<i64> {
        self.inner.iter().map(|d| map[from + d]).collect()
    }
}

/// A body over fewer axes: the given groups of axes merged each within itself.
pub struct Merged {
    pub groups: Vec<Vec<usize>>,
    pub body: Body,
    pub stores: Vec<Store>,
}

/// Merges axes within each of the consecutive `groups` of a body's space.
pub fn merge_body(groups: &[&[usize]], body: &Body, stores: &[Store]) -> Merged {
    let mut maps: Vec<&[i64]> = stores.iter().map(|s| s.access.at.coeffs.as_slice()).collect();
    for s in body.scalars.values() {
        match &s.op {
            ScalarOp::Load(a) => maps.push(&a.at.coeffs),
            ScalarOp::Index(a) => maps.push(&a.coeffs),
            _ => {}
        }
    }
    let mut from = 0;
    let mut merges = Vec::new();
    for g in groups {
        merges.push((merge(g, from, &maps), from));
        from += g.len();
    }
    let fewer = |a: &Affine| Affine {
        offset: a.offset,
        coeffs: merges.iter().flat_map(|(m, from)| m.coefficients(&a.coeffs, *from)).collect(),
    };
    let mut out = Merged {
        groups: merges.iter().map(|(m, _)| m.extents.clone()).collect(),
        body: body.clone(),
        stores: stores.to_vec(),
    };
    for s in out.body.scalars.values_mut() {
        match &mut s.op {
            ScalarOp::Load(a) => a.at = fewer(&a.at),
            ScalarOp::Index(a) => *a = fewer(a),
            _ => {}
        }
    }
    for s in &mut out.stores {
        s.access.at = fewer(&s.access.at);
    }
    out
}

/// The index along each of `extents` at the flat, row-major index `flat` (a name); expressions that bind tighter than `*`.
pub fn split(flat: &str, extents: &[usize]) -> Vec<String> {
    let mut inner = 1usize;
    let mut out = vec![String::new(); extents.len()];
    for (d, n) in extents.iter().enumerate().rev() {
        let quotient = if inner == 1 { flat.to_string() } else { format!("{flat} / {inner}u") };
        out[d] = match (d, *n) {
            (_, 1) => "0u".into(),
            (0, _) if inner == 1 => quotient,
            (0, _) => format!("({quotient})"),
            _ => format!("({quotient} % {n}u)"),
        };
        inner *= n;
    }
    out
}

/// `offset + sum of stride * index` at a flat index.
pub fn address(offset: i64, flat: &str, extents: &[usize], strides: &[i64]) -> String {
    let terms: Vec<(i64, String)> = strides.iter().copied().zip(split(flat, extents)).collect();
    affine(offset, &terms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_merge_where_every_map_allows_it() {
        let m = merge(&[2, 3, 1, 4], 0, &[&[12, 4, 9, 1]]);
        assert_eq!((m.extents.clone(), m.coefficients(&[12, 4, 9, 1], 0)), (vec![24], vec![1]));
        let m = merge(&[2, 3, 4], 0, &[&[12, 4, 1], &[0, 4, 1]]);
        assert_eq!((m.extents.clone(), m.coefficients(&[0, 4, 1], 0)), (vec![2, 12], vec![0, 1]));
    }

    #[test]
    fn indices_of_a_flat_index() {
        assert_eq!(split("i", &[5]), ["i"]);
        assert_eq!(split("i", &[2, 3, 4]), ["(i / 12u)", "(i / 4u % 3u)", "(i % 4u)"]);
        assert_eq!(address(1, "i", &[2, 3], &[3, 1]), "(i / 3u) * 3u + (i % 3u) + 1u");
    }
}
