//! Reductions, in one of two ways.
//!
//! - *Along*: vectors lie along the columns of a row; lanes are combined at the row's end. For rows that are contiguous, as in
//!   softmax and layer norm.
//! - *Across*: vectors lie along a row axis, four neighbouring rows at once, and the loops walk down the columns. For columns whose
//!   rows are contiguous, as in bias gradients.

use super::accum::Slot;
use super::cost::{Grid, point_cost};
use super::eval::{Acc, Analysis, Eval};
use super::nest::{flat_nest, nest};
use super::pointwise::{Uses, best_axis};
use super::rows::{Reductions, RowCode, store_all, vector_blocks};
use super::space::{AxisMap, by_stride, maps, row_major};
use super::{Call, Frame, LowerError, LowerOptions, Lowered};
use tinygpt_ir::op::Reduce;
use tinygpt_ir::program::{Affine, ReduceKernel, ScalarId, ScalarOp, Store};
use tinygpt_ir::types::DType;
use tinygpt_vloop::{Builder, Reg};

pub fn lower(k: &ReduceKernel, args: &[DType], options: LowerOptions) -> Result<Lowered, LowerError> {
    let space = k.space();
    let (rows, rank) = (k.rows.len(), space.len());
    let levels = k.levels();
    let mut body = k.body.clone();
    let argmax = k.reductions.iter().any(|r| r.op == Reduce::ArgMax);
    let position = argmax.then(|| {
        let mut coeffs = vec![0; rows];
        coeffs.extend(row_major(&k.cols));
        body.push(ScalarOp::Index(Affine { offset: 0, coeffs }), DType::I32)
    });

    let all_maps = maps(&body, &k.stores);
    let row_axes = row_order(&space, rows, &all_maps, &k.stores);
    let col_axes = if argmax { (rows..rank).collect() } else { col_order(&space, rows, &body, &k.stores) };
    // The kind of vectors is chosen on merged axes.
    let row_map = AxisMap::merged(&space, &row_axes, &all_maps);
    let col_map = AxisMap::merged(&space, &col_axes, &all_maps);
    let map = row_map.clone().then(&col_map);
    let stores: Vec<Store> = k.stores.iter().map(|s| map.store(s)).collect();
    let (row_stores, stores): (Vec<_>, Vec<_>) =
        stores.into_iter().zip(&k.stores).partition(|(_, old)| k.is_row_store(old));
    let row_stores: Vec<Store> = row_stores.into_iter().map(|(s, _)| s).collect();
    let stores: Vec<Store> = stores.into_iter().map(|(s, _)| s).collect();
    let body = map.body(&body);

    let extents = map.extents().to_vec();
    let row_count = row_map.rank();
    let every: Vec<Store> = row_stores.iter().chain(&stores).cloned().collect();
    let last = extents.len() - 1;
    let candidates: Vec<usize> = (0..row_count).collect();
    // What happens once a row does not count.
    let mut uses = Uses::new(&body, &stores);
    uses.loads.retain(|c| c[row_count..].iter().any(|c| *c != 0));
    let across = best_axis(&extents, &candidates, &uses);
    let across = across.filter(|&axis| extents[axis] >= 4 && uses.score(&extents, axis) > uses.score(&extents, last));

    let plan = Parts { reductions: Reductions { list: k.reductions.clone(), levels, position }, row_stores, stores };
    let mut out = Lowered::default();
    let mut frame = Frame::of_body("reduce", args, &body, &every);
    options.allow(&mut frame.b);
    let vector = across.unwrap_or(last);
    // Accumulators vary along all row axes.
    let acc_axes = (1u64 << row_count) - 1;
    let an = Analysis::new(body, extents, vector, acc_axes, frame.bufs.clone());
    let grid = match across {
        None => along(&mut frame.b, &an, plan, row_count, options),
        Some(_) => self::across(&mut frame.b, &an, plan, row_count),
    };
    let (func, bufs) = frame.finish()?;
    let func = out.func(func);
    out.phases.push(
        grid.calls
            .into_iter()
            .map(|(params, cost)| Call { func, bufs: bufs.clone(), params: params.to_vec(), cost })
            .collect(),
    );
    Ok(out)
}

struct Parts {
    reductions: Reductions,
    row_stores: Vec<Store>,
    stores: Vec<Store>,
}

impl Parts {
    fn every_store(&self) -> Vec<Store> {
        self.row_stores.iter().chain(&self.stores).cloned().collect()
    }

    fn targets(&self) -> Vec<ScalarId> {
        (0..self.reductions.sweeps()).flat_map(|s| self.reductions.targets(s)).collect()
    }
}

/// Row axes by falling stride of the first store, or of the first load if that one does not vary.
fn row_order(space: &[usize], rows: usize, maps: &[&[i64]], stores: &[Store]) -> Vec<usize> {
    let store = stores.iter().map(|s| s.access.at.coeffs.as_slice());
    let guide = store.chain(maps.iter().copied()).find(|c| (0..rows).all(|a| c[a] != 0 || space[a] == 1));
    guide.map_or_else(|| (0..rows).collect(), |c| by_stride(0..rows, c))
}

/// Column axes by falling stride of the first load that varies along all of them, the best for vectors last.
fn col_order(space: &[usize], rows: usize, body: &tinygpt_ir::program::Body, stores: &[Store]) -> Vec<usize> {
    let rank = space.len();
    let guide = maps(body, stores).into_iter().find(|c| (rows..rank).all(|a| c[a] != 0 || space[a] == 1));
    let mut order = guide.map_or_else(|| (rows..rank).collect::<Vec<_>>(), |c| by_stride(rows..rank, c));
    let best = best_axis(space, &order, &Uses::new(body, stores));
    order.retain(|axis| Some(*axis) != best);
    order.extend(best);
    order
}

/// Vectors along the columns.
fn along(b: &mut Builder, an: &Analysis, parts: Parts, row_count: usize, options: LowerOptions) -> Grid {
    let cols: Vec<usize> = (row_count..an.space.len()).collect();
    let col_points: usize = cols.iter().map(|&c| an.space[c]).product();
    let (targets, every) = (parts.targets(), parts.every_store());
    let cost = point_cost(an, &targets, &every) * col_points as f64 + 10.0;
    // Rows are the units: all row axes are outer, with one row inside.
    let grid = Grid::new(&an.space[..row_count], 1, cost, false, 1);
    let (u0, u1) = (b.param("u0"), b.param("u1"));
    let (_, _) = (b.param("i0"), b.param("i1"));
    let mut code = RowCode::new(an, cols, parts.stores, options.row_templates);
    code.reductions = parts.reductions;
    code.row_stores = parts.row_stores;
    let extent = an.space[an.vector];
    let mut ev = Eval::new(an);
    ev.prepare(b, &targets, &every);
    let outer: Vec<usize> = (0..row_count).collect();
    let (flat, rest) = outer.split_at(grid.prefix);
    let range = (0.into(), extent.into());
    if flat.is_empty() {
        nest(b, &ev, rest, &targets, &every, &mut |b, ev| code.row(b, ev, range));
    } else {
        flat_nest(b, &ev, flat, (u0, u1), &targets, &every, &mut |b, ev| {
            nest(b, ev, rest, &targets, &every, &mut |b, ev| code.row(b, ev, range));
        });
    }
    grid
}

/// Vectors across rows: along the row axis `an.vector`.
fn across(b: &mut Builder, an: &Analysis, parts: Parts, row_count: usize) -> Grid {
    let v = an.vector;
    let outer: Vec<usize> = (0..row_count).filter(|&axis| axis != v).collect();
    let outer_extents: Vec<usize> = outer.iter().map(|&axis| an.space[axis]).collect();
    let cols: Vec<usize> = (row_count..an.space.len()).collect();
    let col_points: usize = cols.iter().map(|&c| an.space[c]).product();
    let (targets, every) = (parts.targets(), parts.every_store());
    let cost = point_cost(an, &targets, &every) * col_points as f64;
    let grid = Grid::new(&outer_extents, an.space[v], cost, true, 16);
    let (u0, u1) = (b.param("u0"), b.param("u1"));
    let (i0, i1) = (b.param("i0"), b.param("i1"));
    let widest = (0..parts.reductions.sweeps()).map(|s| parts.reductions.of_sweep(s).len()).max().unwrap_or(0);
    let factor = if widest <= 2 { 4 } else { 2 };
    let mut ev = Eval::new(an);
    ev.prepare(b, &targets, &every);
    let (flat, rest) = outer.split_at(grid.prefix);
    let mut block = |b: &mut Builder, ev: &mut Eval| blocks(b, ev, (i0, i1), factor, &cols, &parts);
    if flat.is_empty() {
        nest(b, &ev, rest, &targets, &every, &mut block);
    } else {
        flat_nest(b, &ev, flat, (u0, u1), &targets, &every, &mut |b, ev| {
            nest(b, ev, rest, &targets, &every, &mut block);
        });
    }
    grid
}

/// The range of the vector axis in blocks: `factor` vectors of rows, then single vectors, then single rows.
fn blocks(b: &mut Builder, ev: &Eval, range: (Reg, Reg), factor: usize, cols: &[usize], parts: &Parts) {
    vector_blocks(b, ev, (range.0.into(), range.1.into()), factor, &mut |b, scopes| {
        let mut shared = ev.clone();
        shared.lanes = scopes[0].lanes;
        block(b, &shared, scopes, cols, parts);
    });
}

/// One block of rows. `shared` has not entered the vector axis: what it evaluates in the column loops serves all scopes.
fn block<'a>(b: &mut Builder, shared: &Eval<'a>, scopes: &mut [Eval<'a>], cols: &[usize], parts: &Parts) {
    let (targets, every) = (parts.targets(), parts.every_store());
    let lanes = shared.lanes;
    for scope in scopes.iter_mut() {
        scope.prepare(b, &targets, &every);
    }
    for sweep in 0..parts.reductions.sweeps() {
        let members = parts.reductions.of_sweep(sweep);
        let targets = parts.reductions.targets(sweep);
        let mut slots: Vec<Vec<Slot>> = Vec::new();
        for _ in scopes.iter() {
            let mut of_scope = Vec::new();
            for &r in &members {
                let reduction = &parts.reductions.list[r];
                let dtype = shared.an.body.scalars[reduction.value].dtype;
                of_scope.push(Slot::new(b, reduction.op, dtype, lanes));
            }
            slots.push(of_scope);
        }
        nest(b, shared, cols, &targets, &[], &mut |b, shared| {
            for (scope, slots) in scopes.iter().zip(&slots) {
                let mut scope = scope.clone();
                scope.adopt(shared);
                for (&r, slot) in members.iter().zip(slots) {
                    let reduction = &parts.reductions.list[r];
                    let x = scope.value_at_lanes(b, reduction.value);
                    let at = match (reduction.op, parts.reductions.position) {
                        (Reduce::ArgMax, Some(p)) => Some(scope.value_at_lanes(b, p)),
                        _ => None,
                    };
                    slot.update(b, x, at);
                }
            }
        });
        for (scope, slots) in scopes.iter_mut().zip(&slots) {
            for (&r, slot) in members.iter().zip(slots) {
                scope.set_acc(r, Acc::Reg(slot.result()));
            }
            scope.prepare(b, &targets, &every);
        }
    }
    for scope in scopes.iter_mut() {
        for store in &parts.row_stores {
            scope.value_at_lanes(b, store.value);
        }
    }
    if !parts.stores.is_empty() {
        nest(b, shared, cols, &[], &parts.stores, &mut |b, shared| {
            for scope in scopes.iter() {
                let mut scope = scope.clone();
                scope.adopt(shared);
                store_all(b, &mut scope, &parts.stores);
            }
        });
    }
    for scope in scopes.iter_mut() {
        for store in &parts.row_stores {
            scope.store(b, store);
        }
    }
}
