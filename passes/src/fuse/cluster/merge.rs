//! Two clusters become one.
//!
//! Invariant: no path leads from one to the other through a third, so that the clusters stay a DAG; and what one reads of the other it reads at
//! its own points.

use std::collections::BTreeSet;

use super::{ClusterKind, Clusters};
use crate::fuse::remark::Reason;
use crate::fuse::values::Class;
use crate::fuse::view::{Map, identity};
use tinygpt_ir::program::Affine;
use tinygpt_ir::{NodeId, numel};

impl Clusters<'_> {
    /// Moves pointwise cluster `other` into `c`, whose new member `id` reads it, if both then still form one kernel; why not.
    pub(super) fn absorb_producer(&mut self, c: usize, other: usize, id: NodeId) -> Result<(), Reason> {
        if self.list[other].kind != ClusterKind::Pointwise {
            return Err(Reason::NotPointwise);
        }
        let space = self.list[c].space.clone();
        // What one point of `other` is, seen from the space of `c`.
        let mut seen: Option<Map> = None;
        for u in self.values.inputs(id) {
            let (source, at) = self.read(id, u, self.map(id), &space);
            if self.of(source) == Some(other) && *self.map(source) == identity(&self.list[other].space) {
                seen = at;
            }
        }
        let seen = seen.ok_or(Reason::NotItsPoints)?;
        if numel(&space) != numel(&self.list[other].space) || !self.is_bijection(&seen, &space) {
            return Err(Reason::NotItsPoints);
        }
        // Every value of `other` that `c` reads must be read at that same point.
        let moved = |clusters: &Self, n: NodeId| -> Map {
            clusters.map(n).iter().map(|a| compose(a, &seen, space.len())).collect()
        };
        for member in self.list[c].nodes.clone() {
            for u in self.values.inputs(member) {
                let (source, at) = self.read(member, u, self.map(member), &space);
                if self.of(source) == Some(other) && at != Some(moved(self, source)) {
                    return Err(Reason::OtherElement);
                }
            }
        }
        if !self.independent(c, other) {
            return Err(Reason::Between);
        }
        self.fits(self.args_with(c, &self.list[other].nodes))?;
        let nodes = self.list[other].nodes.clone();
        let maps = nodes.iter().map(|n| moved(self, *n)).collect();
        self.merge(c, other, maps);
        Ok(())
    }

    /// Whether distinct points have distinct images: each axis of the space with its own coefficient range.
    fn is_bijection(&self, map: &Map, space: &[usize]) -> bool {
        (0..space.len()).all(|a| space[a] == 1 || map.iter().any(|m| m.coeffs[a] != 0))
    }

    /// Whether no path leads from one cluster to the other through a third.
    pub(super) fn independent(&self, a: usize, b: usize) -> bool {
        let clear =
            |x: usize, y: usize| self.list[x].preds.iter().filter(|p| **p != y).all(|p| !self.depends_on(*p, y));
        clear(a, b) && clear(b, a)
    }

    /// Moves the nodes of `from` into `into` with the given maps.
    pub(super) fn merge(&mut self, into: usize, from: usize, maps: Vec<Map>) {
        let nodes = std::mem::take(&mut self.list[from].nodes);
        let preds = std::mem::take(&mut self.list[from].preds);
        for (n, map) in nodes.iter().zip(maps) {
            self.of[n.index()] = Some(into);
            self.maps[n.index()] = Some(map);
        }
        self.list[into].nodes.extend(nodes);
        self.list[into].nodes.sort_unstable();
        for c in 0..self.list.len() {
            if self.list[c].preds.remove(&from) && c != into {
                self.list[c].preds.insert(into);
            }
            if self.ancestors[c].remove(from) {
                self.ancestors[c].insert(into);
            }
        }
        let above = std::mem::take(&mut self.ancestors[from]);
        self.ancestors[into].add_all(&above);
        self.list[into].preds.extend(preds);
        self.list[into].preds.remove(&into);
        self.ancestors[into].remove(into);
        let above = self.ancestors[into].clone();
        for c in 0..self.list.len() {
            if self.ancestors[c].contains(into) {
                self.ancestors[c].add_all(&above);
            }
        }
    }

    /// Merges reduce clusters over one space and axes that read a common large value, and pointwise clusters of scalars.
    pub(super) fn merge_siblings(&mut self) {
        for a in 0..self.list.len() {
            let mut strangers = 0;
            for b in a + 1..self.list.len() {
                let (Some(&first), Some(&second)) = (self.list[a].nodes.first(), self.list[b].nodes.first()) else {
                    continue;
                };
                if self.list[a].kind != self.list[b].kind || self.list[a].space != self.list[b].space {
                    continue;
                }
                let fused = match self.list[a].kind {
                    ClusterKind::Pointwise if numel(&self.list[a].space) == 1 => Reason::Scalars,
                    ClusterKind::Reduce { .. } => Reason::SharedRows,
                    _ => continue,
                };
                let merged = self.may_merge(a, b, fused);
                let reason = merged.err().unwrap_or(fused);
                strangers += usize::from(reason == Reason::NoCommonValue);
                // Of the many kernels that have nothing in common with this one, the first is remark enough.
                if reason != Reason::NoCommonValue || strangers == 1 {
                    self.remarks.edge(first, second, reason);
                }
                if merged.is_ok() {
                    let maps = self.list[b].nodes.iter().map(|n| self.map(*n).clone()).collect();
                    self.merge(a, b, maps);
                }
            }
        }
    }

    /// Whether clusters `a` and `b`, of one kind and space, may become one; why not.
    fn may_merge(&self, a: usize, b: usize, reason: Reason) -> Result<(), Reason> {
        if reason == Reason::SharedRows && !self.share_operand(a, b) {
            return Err(Reason::NoCommonValue);
        }
        if !self.independent(a, b) {
            return Err(Reason::Between);
        }
        if !(self.reads_in_step(a, b) && self.reads_in_step(b, a)) {
            return Err(Reason::OtherElement);
        }
        self.fits(self.args_with(a, &self.list[b].nodes))
    }

    /// Whether cluster `a` reads what `b` makes, if anything, only at its own points; both have one space.
    fn reads_in_step(&self, a: usize, b: usize) -> bool {
        let space = &self.list[a].space;
        self.list[a].nodes.iter().all(|n| {
            self.values.inputs(*n).into_iter().all(|u| {
                let at = if self.values.class(*n) == Class::Reduce { identity(space) } else { self.map(*n).clone() };
                let (source, at) = self.read(*n, u, &at, space);
                self.of(source) != Some(b) || at.as_ref() == Some(self.map(source))
            })
        })
    }

    /// Whether two clusters over one space read a common full-size value, directly or through operations that nothing else uses (and
    /// that they will therefore compute themselves).
    fn share_operand(&self, a: usize, b: usize) -> bool {
        let full = numel(&self.list[a].space);
        let operands = |c: usize| -> BTreeSet<NodeId> {
            let mut found = BTreeSet::new();
            let mut todo = self.list[c].nodes.clone();
            while let Some(n) = todo.pop() {
                for s in self.values.inputs(n).into_iter().map(|u| self.source(u)) {
                    let outside = self.of(s) != Some(c) && numel(self.values.shape(s)) == full;
                    let lone = self.values.class(s) == Class::Elementwise && self.values.users[s.index()].len() == 1;
                    if outside && self.values.class(s) != Class::Free && found.insert(s) && lone {
                        todo.push(s);
                    }
                }
            }
            found
        };
        !operands(a).is_disjoint(&operands(b))
    }
}

/// `outer` over a space whose axes are given by `inner` over another of `rank` axes.
fn compose(outer: &Affine, inner: &Map, rank: usize) -> Affine {
    let mut out = Affine::constant(rank, outer.offset);
    for (c, a) in outer.coeffs.iter().zip(inner) {
        out = out.plus(a, *c);
    }
    out
}
