//! Index spaces: axes of extent 1 dropped, axes reordered, neighbours merged where every access allows.
//!
//! Axes a, b (b inside a) merge if each affine map over the space has coeff(a) = coeff(b) * extent(b): then the pair
//! is one axis of extent(a) * extent(b) with coeff(b). Merging changes no address, only how few loops visit them.

use tinygpt_ir::program::{Access, Affine, Body, Scalar, ScalarOp, Store};

/// The new axes of a space: each a list of old axes, outermost first, of which the last one's coefficient counts.
#[derive(Clone, Debug, PartialEq)]
pub struct AxisMap {
    groups: Vec<Vec<usize>>,
    extents: Vec<usize>,
}

impl AxisMap {
    /// Extents of the new axes.
    pub fn extents(&self) -> &[usize] {
        &self.extents
    }

    pub fn rank(&self) -> usize {
        self.extents.len()
    }

    /// The map of `order` (old axes, outermost first), merging neighbours where all `maps` allow. At least one axis
    /// remains, of extent 1 if there is nothing else.
    pub fn merged(extents: &[usize], order: &[usize], maps: &[&[i64]]) -> AxisMap {
        let mut groups: Vec<Vec<usize>> = Vec::new();
        for &axis in order.iter().filter(|&&axis| extents[axis] != 1) {
            let merges = |outer: usize| maps.iter().all(|c| c[outer] == c[axis] * extents[axis] as i64);
            match groups.last_mut() {
                Some(group) if merges(*group.last().expect("groups are not empty")) => group.push(axis),
                _ => groups.push(vec![axis]),
            }
        }
        if groups.is_empty() {
            groups.push(order.first().map_or(vec![], |&axis| vec![axis]));
        }
        let extents = groups.iter().map(|g| g.iter().map(|&axis| extents[axis]).product()).collect();
        AxisMap { groups, extents }
    }

    /// The axes in another order, none merged or dropped.
    pub fn permuted(extents: &[usize], order: &[usize]) -> AxisMap {
        let groups = order.iter().map(|&axis| vec![axis]).collect();
        AxisMap { groups, extents: order.iter().map(|&axis| extents[axis]).collect() }
    }

    /// This map followed by the axes of another map of the same old space.
    pub fn then(mut self, other: &AxisMap) -> AxisMap {
        self.groups.extend(other.groups.iter().cloned());
        self.extents.extend(&other.extents);
        self
    }

    /// This map over a space that has `by` more axes in front.
    pub fn shifted(mut self, by: usize) -> AxisMap {
        self.groups.iter_mut().flatten().for_each(|axis| *axis += by);
        self
    }

    /// Coefficients over the new axes; 0 along an axis of extent 1, whose only index is 0.
    pub fn coeffs(&self, old: &[i64]) -> Vec<i64> {
        let coeff = |g: &Vec<usize>| g.last().map_or(0, |&axis| old[axis]);
        self.groups.iter().zip(&self.extents).map(|(g, n)| if *n == 1 { 0 } else { coeff(g) }).collect()
    }

    pub fn affine(&self, old: &Affine) -> Affine {
        Affine { offset: old.offset, coeffs: self.coeffs(&old.coeffs) }
    }

    pub fn access(&self, old: &Access) -> Access {
        Access { arg: old.arg, at: self.affine(&old.at), indirect: old.indirect.clone() }
    }

    pub fn store(&self, old: &Store) -> Store {
        Store { access: self.access(&old.access), value: old.value }
    }

    /// The body over the new axes; scalars keep their ids.
    pub fn body(&self, old: &Body) -> Body {
        let mut body = Body::default();
        for scalar in old.scalars.values() {
            let op = match &scalar.op {
                ScalarOp::Load(access) => ScalarOp::Load(self.access(access)),
                ScalarOp::Index(affine) => ScalarOp::Index(self.affine(affine)),
                other => other.clone(),
            };
            body.scalars.push(Scalar { op, dtype: scalar.dtype });
        }
        body
    }
}

/// Coefficients of every affine map of a body and its stores.
pub fn maps<'a>(body: &'a Body, stores: &'a [Store]) -> Vec<&'a [i64]> {
    let scalars = body.scalars.values().filter_map(|s| match &s.op {
        ScalarOp::Load(access) => Some(access.at.coeffs.as_slice()),
        ScalarOp::Index(affine) => Some(affine.coeffs.as_slice()),
        _ => None,
    });
    scalars.chain(stores.iter().map(|s| s.access.at.coeffs.as_slice())).collect()
}

/// The axes `range`, ordered by falling stride in `by`, so that neighbours in memory become neighbours in the loops.
pub fn by_stride(range: std::ops::Range<usize>, by: &[i64]) -> Vec<usize> {
    let mut order: Vec<usize> = range.collect();
    order.sort_by_key(|&axis| std::cmp::Reverse(by[axis].abs()));
    order
}

/// The row-major number of a point of axes with `extents`, as coefficients.
pub fn row_major(extents: &[usize]) -> Vec<i64> {
    tinygpt_ir::types::row_major(extents)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merges_what_is_contiguous() {
        // [2,3,1,4] row-major, and a broadcast over the first axis.
        let extents = [2, 3, 1, 4];
        let (x, row) = ([12, 4, 4, 1], [0, 4, 0, 1]);
        let all = AxisMap::merged(&extents, &[0, 1, 2, 3], &[&x]);
        assert_eq!(all.extents(), [24]);
        assert_eq!(all.coeffs(&x), [1]);
        let two = AxisMap::merged(&extents, &[0, 1, 2, 3], &[&x, &row]);
        assert_eq!(two.extents(), [2, 12]);
        assert_eq!(two.coeffs(&row), [0, 1]);
    }

    #[test]
    fn scalars_keep_one_axis() {
        assert_eq!(AxisMap::merged(&[1, 1], &[0, 1], &[]).extents(), [1]);
        assert_eq!(AxisMap::merged(&[], &[], &[]).extents(), [1]);
        assert_eq!(AxisMap::merged(&[], &[], &[]).coeffs(&[]), [0]);
    }

    #[test]
    fn reorders_a_transposed_space() {
        // Stored column-major: the axis of stride 1 becomes the innermost.
        let store = [1, 5];
        let order = by_stride(0..2, &store);
        assert_eq!(order, [1, 0]);
        assert_eq!(AxisMap::merged(&[5, 7], &order, &[&store]).extents(), [35]);
    }
}
