//! What goes with a reduction of one short row, such as the norm of the gradients from the sums of their squares: a scalar more is nothing to it, and
//! a kernel of its own would be a launch. Values of the row may need a scalar of another kernel that has long ended (whether the loss
//! is finite), and pointwise clusters of one element (what an optimizer computes from the number of the step) move in.
//!
//! Invariants of the move
//! - The reduction waits for nothing new, and readers of the scalars have waited for it before: the critical path of the step is no longer.
//! - Neither cluster reads what the other computes, and no scalar is the new value of a state, which would tie its writing to the reduction.

use tinygpt_ir::numel;
use tinygpt_ir::program::Affine;

use super::{ClusterKind, Clusters};
use crate::fuse::remark::Reason;

/// Most bytes of a short row, in launches: its kernel takes little longer than its launch.
const SHORT: usize = 4;

impl Clusters<'_> {
    /// Whether cluster `c` is a reduction of one short row that has to wait for longer chains of kernels than the one that ends with `d`.
    pub(super) fn waits_for_free(&self, c: usize, d: usize) -> bool {
        let short = 4 * numel(&self.list[c].space) <= SHORT * self.small_bytes;
        if !short || !self.reduces_one_row(c) {
            return false;
        }
        let depths = self.depths();
        depths[d] < depths[c]
    }

    /// The longest chain of clusters that ends with each.
    fn depths(&self) -> Vec<usize> {
        // A cluster has more ancestors than any of its ancestors.
        let mut order: Vec<usize> = (0..self.list.len()).collect();
        order.sort_by_cached_key(|c| self.ancestors[*c].len());
        let mut depths = vec![0; order.len()];
        for c in order {
            depths[c] = self.list[c].preds.iter().map(|p| depths[*p] + 1).max().unwrap_or(0);
        }
        depths
    }

    fn reduces_one_row(&self, c: usize) -> bool {
        let ClusterKind::Reduce { axes } = &self.list[c].kind else { return false };
        self.list[c].space.iter().enumerate().all(|(d, n)| *n == 1 || axes.contains(&d))
    }

    pub(super) fn merge_scalars_into_rows(&mut self) {
        for scalars in 0..self.list.len() {
            let Some(row) = (0..self.list.len()).find(|row| self.takes_scalars(*row, scalars)) else { continue };
            self.remarks.edge(self.list[row].nodes[0], self.list[scalars].nodes[0], Reason::ScalarsOfRow);
            let rank = self.list[row].space.len();
            let maps = self.list[scalars].nodes.iter().map(|n| {
                let axes = self.values.shape(*n).len();
                vec![Affine::constant(rank, 0); axes]
            });
            let maps = maps.collect();
            self.merge(row, scalars, maps);
        }
    }

    /// Whether the pointwise cluster `scalars` may move into the reduction `row`.
    fn takes_scalars(&self, row: usize, scalars: usize) -> bool {
        let (into, from) = (&self.list[row], &self.list[scalars]);
        let one_element = from.kind == ClusterKind::Pointwise && numel(&from.space) == 1;
        if !self.reduces_one_row(row) || !one_element || into.nodes.is_empty() || from.nodes.is_empty() {
            return false;
        }
        if from.nodes.iter().any(|n| self.values.is_root(*n)) {
            return false;
        }
        let apart = !self.depends_on(row, scalars) && !self.depends_on(scalars, row);
        let waits = self.ancestors[row].contains_all(&self.ancestors[scalars]);
        let readers = (0..self.list.len()).filter(|r| self.list[*r].preds.contains(&scalars));
        apart
            && waits
            && readers.into_iter().all(|r| self.depends_on(r, row))
            && self.fits(self.args_with(row, &from.nodes)).is_ok()
    }
}
