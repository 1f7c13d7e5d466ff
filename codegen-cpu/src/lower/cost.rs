//! Cost estimates and the cut of work into calls.
//!
//! Invariant: the cut depends on shapes alone, never on the number of threads, so results do not either. Estimates
//! are rough nanoseconds on one core; only the grain of the cut depends on them.

use super::eval::Analysis;
use tinygpt_ir::op::{Binary, Unary};
use tinygpt_ir::program::{ScalarId, ScalarOp, Store};

/// Nanoseconds of work that a task should have, about.
pub const GRAIN_NS: f64 = 40_000.0;

/// Nanoseconds of one point: the scalars that vary along the vector axis, and the stores.
pub fn point_cost(an: &Analysis, targets: &[ScalarId], stores: &[Store]) -> f64 {
    let v = an.vector;
    let memory = |stride: i64| match stride {
        0 => 0.02,
        1 => 0.12,
        _ => 0.6,
    };
    let mut all = targets.to_vec();
    all.extend(stores.iter().map(|s| s.value));
    let scalars: f64 = an
        .needed(&all, |_| false)
        .into_iter()
        .filter(|&id| an.varies(id))
        .map(|id| match &an.body.scalars[id].op {
            ScalarOp::Load(a) if !a.indirect.is_empty() => 1.0,
            ScalarOp::Load(a) => memory(a.at.coeffs[v]),
            ScalarOp::Unary(op, _) => match op {
                Unary::Neg => 0.05,
                Unary::Sqrt | Unary::Recip => 0.4,
                Unary::Rsqrt => 0.8,
                _ => 1.5,
            },
            ScalarOp::Binary(Binary::Div, ..) => 0.4,
            ScalarOp::Random { .. } => 2.0,
            _ => 0.07,
        })
        .sum();
    scalars + stores.iter().map(|s| memory(s.access.at.coeffs[v])).sum::<f64>() + 0.02
}

/// Vectors at once in an inner loop: more where the body is small, and no more than the extent fills.
pub fn unroll(an: &Analysis, targets: &[ScalarId], stores: &[Store], extent: usize) -> usize {
    let cost = point_cost(an, targets, stores);
    let wanted = if cost < 1.0 {
        4
    } else if cost < 2.0 {
        2
    } else {
        1
    };
    let vectors = (extent / 4).max(1);
    if vectors >= 4 { wanted } else { wanted.min(vectors.next_power_of_two() / if vectors == 3 { 2 } else { 1 }) }
}

/// Cuts `0..units`, each of `cost` nanoseconds, into nearly equal ranges of about a grain; inner boundaries are
/// multiples of `align`.
pub fn cut(units: usize, cost: f64, align: usize) -> Vec<(i64, i64)> {
    let blocks = units.div_ceil(align);
    let per = (GRAIN_NS / (cost * align as f64)).round().clamp(1.0, blocks.max(1) as f64) as usize;
    let parts = blocks.div_ceil(per);
    let bound = |i: usize| ((blocks * i / parts) * align).min(units) as i64;
    (0..parts).map(|i| (bound(i), bound(i + 1))).collect()
}

/// How the axes of a loop nest are cut: a flat prefix, and the innermost axis where the prefix does not suffice.
pub struct Grid {
    /// Outer axes, from the first, whose flat number is cut.
    pub prefix: usize,
    /// Ranges of the flat number and of the innermost axis, with the cost in nanoseconds: one a call.
    pub calls: Vec<([i64; 4], f64)>,
}

impl Grid {
    /// `outer` extents are loops around an axis of `inner` elements of `cost` nanoseconds each. The innermost axis is cut
    /// only if `split_inner` allows it, at multiples of `align`.
    pub fn new(outer: &[usize], inner: usize, cost: f64, split_inner: bool, align: usize) -> Grid {
        let total = outer.iter().product::<usize>() as f64 * inner as f64 * cost;
        let mut prefix = 0;
        let mut unit = total;
        if total > GRAIN_NS {
            while prefix < outer.len() && unit > GRAIN_NS / 2.0 {
                unit /= outer[prefix] as f64;
                prefix += 1;
            }
        }
        let units: usize = outer[..prefix].iter().product();
        let whole = vec![(0, inner as i64)];
        let (flat, parts) = if unit > GRAIN_NS && split_inner && prefix == outer.len() {
            let parts = cut(inner, unit / inner as f64, align);
            ((0..units as i64).map(|u| (u, u + 1)).collect(), parts)
        } else {
            (cut(units, unit, 1), whole)
        };
        let mut calls = Vec::new();
        for &(u0, u1) in &flat {
            for &(i0, i1) in &parts {
                calls.push(([u0, u1, i0, i1], unit * (u1 - u0) as f64 * (i1 - i0) as f64 / inner as f64));
            }
        }
        Grid { prefix, calls }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_cover_the_range_once() {
        for (units, cost, align) in [(1, 1.0, 1), (100, 1000.0, 1), (100, 100_000.0, 1), (1003, 100.0, 16), (7, 1e9, 4)]
        {
            let parts = cut(units, cost, align);
            assert_eq!(parts.first().unwrap().0, 0);
            assert_eq!(parts.last().unwrap().1, units as i64);
            assert!(parts.windows(2).all(|w| w[0].1 == w[1].0 && w[0].1 % align as i64 == 0));
            assert!(parts.iter().all(|(a, b)| a < b));
        }
    }

    #[test]
    fn grids_cover_every_point_once() {
        for (outer, inner, cost) in
            [(vec![], 1_000_000, 1.0), (vec![3], 1_000_000, 1.0), (vec![64, 32], 100, 1.0), (vec![2], 3, 0.1)]
        {
            let g = Grid::new(&outer, inner, cost, true, 16);
            let units: usize = outer[..g.prefix].iter().product();
            let covered: i64 = g.calls.iter().map(|([a, b, c, d], _)| (b - a) * (d - c)).sum();
            assert_eq!(covered, (units * inner) as i64, "{outer:?} {inner}");
        }
    }
}
