//! Pointwise clusters of one element move into a reduction of one row, where that makes nothing wait: what an optimizer computes from the number of
//! the step goes with the norm of the gradients, whose readers are the same.
//!
//! Invariants
//! - The reduction waits for nothing new, and readers of the scalars have waited for it before: the critical path of the step is no longer.
//! - Neither cluster reads what the other computes, and no scalar is the new value of a state, which would tie its writing to the reduction.

use tinygpt_ir::numel;
use tinygpt_ir::program::Affine;

use super::{ClusterKind, Clusters};
use crate::fuse::remark::Reason;

impl Clusters<'_> {
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
        let ClusterKind::Reduce { axes } = &into.kind else { return false };
        let one_row = into.space.iter().enumerate().all(|(d, n)| *n == 1 || axes.contains(&d));
        let one_element = from.kind == ClusterKind::Pointwise && numel(&from.space) == 1;
        if !one_row || !one_element || into.nodes.is_empty() || from.nodes.is_empty() {
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
