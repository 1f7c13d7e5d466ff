//! Rows: sweeps of a vectorised inner axis, with reductions along it and stores after them.
//!
//! A pointwise kernel, a reduction along contiguous columns and the epilogue of a contraction are one thing here: for each row,
//! zero or more sweeps over the columns that accumulate, then one that stores. See [`RowCode::row`].
//!
//! Transcendental functions that vary along the row are the costly part. They are
//! - expanded in place, or, if row templates are allowed, computed strip by strip: arguments into a strip of scratch, one
//!   call for the strip, and on from there;
//! - one operation of an independent loop, where the target runs such loops wide;
//! - kept for later sweeps in a scratch row where the row is short enough to have one.

use super::accum::Accumulator;
use super::cost::unroll;
use super::eval::{Acc, Analysis, Eval};
use super::nest::{idx_reg, nest};
use std::collections::HashMap;
use tinygpt_ir::op::Reduce;
use tinygpt_ir::program::{Reduction, ScalarId, Store};
use tinygpt_vloop::{Builder, Elem, Idx, ScratchId};

/// Elements of a strip: 2 KiB, so that a few fit the first-level cache.
const STRIP: usize = 512;
/// Longest row whose costly values are kept between sweeps.
const KEPT_ROW: usize = 4096;
/// Shortest row for which strips pay.
const SHORTEST_STRIP: usize = 16;

/// Reductions and their dependencies.
pub struct Reductions {
    pub list: Vec<Reduction>,
    /// Sweep of each.
    pub levels: Vec<usize>,
    /// The flat column number, where a reduction needs it.
    pub position: Option<ScalarId>,
}

impl Reductions {
    pub fn none() -> Reductions {
        Reductions { list: Vec::new(), levels: Vec::new(), position: None }
    }

    pub fn sweeps(&self) -> usize {
        self.levels.iter().map(|l| l + 1).max().unwrap_or(0)
    }

    /// Numbers of the reductions of a sweep.
    pub fn of_sweep(&self, sweep: usize) -> Vec<usize> {
        (0..self.list.len()).filter(|&r| self.levels[r] == sweep).collect()
    }

    /// What a sweep evaluates.
    pub fn targets(&self, sweep: usize) -> Vec<ScalarId> {
        let mut out: Vec<ScalarId> = self.of_sweep(sweep).iter().map(|&r| self.list[r].value).collect();
        if self.of_sweep(sweep).iter().any(|&r| self.list[r].op == Reduce::ArgMax) {
            out.extend(self.position);
        }
        out
    }
}

/// The code of one row.
pub struct RowCode<'a> {
    pub an: &'a Analysis,
    /// Column axes; the last is the vector axis.
    pub cols: Vec<usize>,
    pub reductions: Reductions,
    /// Once a row.
    pub row_stores: Vec<Store>,
    /// At every point.
    pub stores: Vec<Store>,
    pub row_templates: bool,
    strips: HashMap<ScalarId, ScratchId>,
}

type Emit<'e, 'a> = &'e mut dyn FnMut(&mut Builder, &mut Eval<'a>, usize);

impl<'a> RowCode<'a> {
    pub fn new(an: &'a Analysis, cols: Vec<usize>, stores: Vec<Store>, row_templates: bool) -> RowCode<'a> {
        let (reductions, row_stores) = (Reductions::none(), Vec::new());
        RowCode { an, cols, reductions, row_stores, stores, row_templates, strips: HashMap::new() }
    }

    fn extent(&self) -> usize {
        self.an.space[self.an.vector]
    }

    /// Whether costly values may be kept between sweeps: there is one column axis, and it is short.
    fn keeps(&self) -> bool {
        self.cols.len() == 1 && self.extent() <= KEPT_ROW && !self.reductions.list.is_empty()
    }

    /// Emits one row. All axes but the columns are entered. `range` is that of the innermost column axis: the whole of
    /// it if there are reductions.
    pub fn row(&mut self, b: &mut Builder, ev: &Eval<'a>, range: (Idx, Idx)) {
        let mut ev = ev.clone();
        let sweeps = self.reductions.sweeps();
        for sweep in 0..sweeps {
            self.reduce(b, &mut ev, range, sweep);
        }
        let row_values: Vec<_> = self.row_stores.clone();
        for store in &row_values {
            ev.narrow(b, store.value);
        }
        if !self.stores.is_empty() {
            let stores = self.stores.clone();
            let values: Vec<ScalarId> = stores.iter().map(|s| s.value).collect();
            let factor = unroll(self.an, &[], &stores, self.extent());
            self.sweep(b, &mut ev, range, factor, &values, &stores, &[], &mut |b, ev, _| store_all(b, ev, &stores));
        }
        for store in &row_values {
            ev.store_once(b, store);
        }
    }

    fn reduce(&mut self, b: &mut Builder, ev: &mut Eval<'a>, range: (Idx, Idx), sweep: usize) {
        let members = self.reductions.of_sweep(sweep);
        let targets = self.reductions.targets(sweep);
        let extent = self.extent();
        let most = (8 / members.len()).max(1);
        let vectors = unroll(self.an, &targets, &[], extent).min(most).min(extent / 4);
        // Strips have lengths known only at run time.
        let tail = !extent.is_multiple_of(4) || !self.keeps();
        let accs: Vec<Accumulator> = members
            .iter()
            .map(|&r| {
                let Reduction { op, value } = self.reductions.list[r];
                Accumulator::new(b, op, self.an.body.scalars[value].dtype, vectors, tail)
            })
            .collect();
        let mut later: Vec<ScalarId> =
            (sweep + 1..self.reductions.sweeps()).flat_map(|s| self.reductions.targets(s)).collect();
        later.extend(self.stores.iter().map(|s| s.value));
        let position = self.reductions.position;
        let list: Vec<Reduction> = members.iter().map(|&r| self.reductions.list[r].clone()).collect();
        self.sweep(b, ev, range, vectors.max(1), &targets, &[], &later, &mut |b, ev, u| {
            for (reduction, acc) in list.iter().zip(&accs) {
                let x = ev.value_at_lanes(b, reduction.value);
                let at = match (reduction.op, position) {
                    (Reduce::ArgMax, Some(p)) => Some(ev.value_at_lanes(b, p)),
                    _ => None,
                };
                acc.slot(ev.lanes, u).update(b, x, at);
            }
        });
        for (&r, acc) in members.iter().zip(accs) {
            let result = acc.finish(b);
            ev.set_acc(r, Acc::Reg(result));
        }
    }

    /// One sweep over all columns. `later` are the values that later sweeps of this row evaluate.
    fn sweep(
        &mut self,
        b: &mut Builder,
        ev: &mut Eval<'a>,
        range: (Idx, Idx),
        factor: usize,
        targets: &[ScalarId],
        stores: &[Store],
        later: &[ScalarId],
        emit: Emit<'_, 'a>,
    ) {
        if self.keeps() {
            return self.kept_sweep(b, ev, range, factor, targets, stores, later, emit);
        }
        let outer = self.cols[..self.cols.len() - 1].to_vec();
        ev.prepare(b, targets, stores);
        nest(b, ev, &outer, targets, stores, &mut |b, ev| {
            if !self.row_templates || self.extent() < SHORTEST_STRIP || self.costly(ev, targets).is_empty() {
                any_loop(b, ev, range, factor, stores, emit);
                return;
            }
            // A wide loop computes costly values where it needs them.
            if !stores.is_empty() && independent_loop(b, ev, range, emit) {
                return;
            }
            if let (Idx::Const(0), Idx::Const(n)) = range
                && n <= STRIP as i64
            {
                self.stages(b, ev, range, targets, STRIP);
                ev.prepare(b, targets, stores);
                any_loop(b, ev, range, factor, stores, emit);
                return;
            }
            b.for_("s", range.0, range.1, STRIP as i64, |b, s| {
                let mut ev = ev.clone();
                ev.move_origin(b, s);
                let to = idx_reg(b, range.1);
                let left = b.sub(to, s);
                let most = b.index(STRIP as i64);
                let n = b.min(left, most);
                self.stages(b, &mut ev, (0.into(), n.into()), targets, STRIP);
                ev.prepare(b, targets, stores);
                any_loop(b, &ev, (0.into(), n.into()), factor, stores, emit);
            });
        });
    }

    /// A sweep of a row that has scratch rows: later sweeps find there what this one computed.
    fn kept_sweep(
        &mut self,
        b: &mut Builder,
        ev: &mut Eval<'a>,
        range: (Idx, Idx),
        factor: usize,
        targets: &[ScalarId],
        stores: &[Store],
        later: &[ScalarId],
        emit: Emit<'_, 'a>,
    ) {
        let extent = self.extent();
        if self.row_templates && extent >= SHORTEST_STRIP {
            if !stores.is_empty() && independent_loop(b, ev, range, emit) {
                return;
            }
            self.stages(b, ev, range, targets, extent);
            ev.prepare(b, targets, stores);
            return any_loop(b, ev, range, factor, stores, emit);
        }
        let again = self.an.needed(later, |id| ev.has_strip(id));
        let kept: Vec<(ScalarId, ScratchId)> = self
            .costly(ev, targets)
            .into_iter()
            .filter(|id| again.contains(id))
            .map(|id| (id, self.strip(b, id, extent)))
            .collect();
        ev.prepare(b, targets, stores);
        vector_loop(b, ev, range, factor, &mut |b, ev, u| {
            emit(b, ev, u);
            for &(id, strip) in &kept {
                let x = ev.value_at_lanes(b, id);
                b.store(ev.strip_addr(strip), x);
            }
        });
        for (id, strip) in kept {
            ev.set_strip(id, strip);
        }
    }

    /// The transcendental values along the row that `targets` need and that are not in scratch.
    fn costly(&self, ev: &Eval, targets: &[ScalarId]) -> Vec<ScalarId> {
        let needed = self.an.needed(targets, |id| ev.has_strip(id));
        needed
            .into_iter()
            .filter(|&id| self.an.varies(id) && self.an.row_fn(id).is_some() && !ev.has_strip(id))
            .collect()
    }

    fn strip(&mut self, b: &mut Builder, id: ScalarId, len: usize) -> ScratchId {
        *self.strips.entry(id).or_insert_with(|| b.scratch(format!("row{}", id.0), Elem::F32, len))
    }

    /// Computes all costly values of the range `0..n` of a strip by row functions: first those whose arguments need no other.
    fn stages(&mut self, b: &mut Builder, ev: &mut Eval<'a>, range: (Idx, Idx), targets: &[ScalarId], len: usize) {
        loop {
            let costly = self.costly(ev, targets);
            let arg = |id: ScalarId| self.an.row_fn(id).expect("costly scalars are row functions").1;
            let ready: Vec<ScalarId> =
                costly.iter().copied().filter(|&id| self.costly(ev, &[arg(id)]).is_empty()).collect();
            if ready.is_empty() {
                return;
            }
            let args: Vec<ScalarId> = ready.iter().map(|&id| arg(id)).collect();
            let strips: Vec<ScratchId> = ready.iter().map(|&id| self.strip(b, id, len)).collect();
            ev.prepare(b, &args, &[]);
            // A wide loop computes the functions themselves.
            let values_too = independent_loop(b, ev, range, &mut |b, ev, _| {
                for (&id, &strip) in ready.iter().zip(&strips) {
                    let x = ev.value_at_lanes(b, id);
                    b.store(ev.strip_addr(strip), x);
                }
            });
            if values_too {
                for (&id, &strip) in ready.iter().zip(&strips) {
                    ev.set_strip(id, strip);
                }
                continue;
            }
            let factor = unroll(self.an, &[], &[], self.extent());
            vector_loop(b, ev, range, factor, &mut |b, ev, _| {
                for (&arg, &strip) in args.iter().zip(&strips) {
                    let x = ev.value_at_lanes(b, arg);
                    b.store(ev.strip_addr(strip), x);
                }
            });
            for (&id, &strip) in ready.iter().zip(&strips) {
                let (function, _) = self.an.row_fn(id).expect("costly scalars are row functions");
                b.call_row(function, strip.at(), strip.at(), range.1);
                ev.set_strip(id, strip);
            }
        }
    }
}

/// All values, then all stores: a store in place must not change what another one's value loads.
pub fn store_all(b: &mut Builder, ev: &mut Eval, stores: &[Store]) {
    for store in stores {
        ev.value_at_lanes(b, store.value);
    }
    for store in stores {
        ev.store(b, store);
    }
}

/// One loop over `range` of the vector axis whose points are independent, as those of stores are: false if the target has no use for one or the
/// body is not simple enough.
fn independent_loop<'a>(b: &mut Builder, ev: &Eval<'a>, range: (Idx, Idx), emit: Emit<'_, 'a>) -> bool {
    b.for_independent("j", range.0, range.1, |b, j| {
        let mut scope = ev.clone();
        scope.lanes = 1;
        scope.enter(scope.an.vector, j);
        emit(b, &mut scope, 0);
    })
}

/// An independent loop, if there are stores and it can be one, or else [`vector_loop`].
fn any_loop<'a>(
    b: &mut Builder,
    ev: &Eval<'a>,
    range: (Idx, Idx),
    factor: usize,
    stores: &[Store],
    emit: Emit<'_, 'a>,
) {
    if stores.is_empty() || !independent_loop(b, ev, range, emit) {
        vector_loop(b, ev, range, factor, emit);
    }
}

/// Loops over `range` of the vector axis, `factor` vectors at once, then single ones, then single points. `emit` gets, for each point
/// or vector, a scope with the axis entered and its number in the unrolled loop.
pub fn vector_loop<'a>(b: &mut Builder, ev: &Eval<'a>, range: (Idx, Idx), factor: usize, emit: Emit<'_, 'a>) {
    vector_blocks(b, ev, range, factor, &mut |b, scopes| {
        for (u, scope) in scopes.iter_mut().enumerate() {
            emit(b, scope, u);
        }
    });
}

/// As [`vector_loop`], but `emit` gets all scopes of an unrolled iteration at once.
pub fn vector_blocks<'a>(
    b: &mut Builder,
    ev: &Eval<'a>,
    range: (Idx, Idx),
    factor: usize,
    emit: &mut dyn FnMut(&mut Builder, &mut [Eval<'a>]),
) {
    let wide = 4 * factor as i64;
    let (main, vectors): (Idx, Idx) = match range {
        (Idx::Const(from), Idx::Const(to)) => {
            let n = (to - from).max(0);
            ((from + n / wide * wide).into(), (from + n / 4 * 4).into())
        }
        (from, to) => {
            let (from, to) = (idx_reg(b, from), idx_reg(b, to));
            let n = b.sub(to, from);
            let end = |b: &mut Builder, step: i64| {
                let trips = b.div_const(n, step);
                let n = b.mul_const(trips, step);
                b.add(from, n)
            };
            (end(b, wide).into(), end(b, 4).into())
        }
    };
    let mut part = |b: &mut Builder, from: Idx, to: Idx, lanes: usize, vectors: usize| {
        if let (Idx::Const(f), Idx::Const(t)) = (from, to)
            && f >= t
        {
            return;
        }
        b.for_("j", from, to, (lanes * vectors) as i64, |b, j| {
            let mut scopes: Vec<Eval> = vec![ev.clone(); vectors];
            for (u, scope) in scopes.iter_mut().enumerate() {
                scope.lanes = lanes;
                scope.enter(scope.an.vector, j);
                scope.shift = 4 * u as i64;
            }
            emit(b, &mut scopes);
        });
    };
    if factor > 1 {
        part(b, range.0, main, 4, factor);
        part(b, main, vectors, 4, 1);
    } else {
        part(b, range.0, vectors, 4, 1);
    }
    part(b, vectors, range.1, 1, 1);
}
