//! Pointwise kernels and optimizer updates.
//!
//! The axis along which most accesses have stride 1 becomes the innermost loop, in vectors; neighbouring axes merge where all accesses
//! allow, so that a plain elementwise kernel is one flat loop.

use super::cost::{Grid, cut, point_cost};
use super::eval::{Analysis, Eval};
use super::nest::{flat_nest, nest};
use super::rows::RowCode;
use super::space::{AxisMap, by_stride, maps};
use super::{BufRef, Call, Frame, LowerError, LowerOptions, Lowered};
use std::sync::Arc;
use tinygpt_ir::program::{Body, Pointwise, ScalarId, Store, Update};
use tinygpt_ir::types::DType;

pub fn lower(k: &Pointwise, args: &[DType], options: LowerOptions) -> Result<Lowered, LowerError> {
    let order = loop_order(&k.space, &k.body, &k.stores);
    let map = AxisMap::merged(&k.space, &order, &maps(&k.body, &k.stores));
    let (body, stores) = (map.body(&k.body), k.stores.iter().map(|s| map.store(s)).collect::<Vec<_>>());
    let mut out = Lowered::default();
    let calls = rectangle(&mut out, "pointwise", map.extents(), body, stores, args, options)?;
    out.phases.push(calls);
    Ok(out)
}

/// Axes, outermost first: by falling stride of the first store, with the best vector axis last.
fn loop_order(space: &[usize], body: &Body, stores: &[Store]) -> Vec<usize> {
    let mut order = match stores.first() {
        Some(store) => by_stride(0..space.len(), &store.access.at.coeffs),
        None => (0..space.len()).collect(),
    };
    let best = best_axis(space, &order, &Uses::new(body, stores));
    order.retain(|axis| Some(*axis) != best);
    order.extend(best);
    order
}

/// The axis of `among` (the last of equals) along which vectors are cheapest.
pub fn best_axis(space: &[usize], among: &[usize], uses: &Uses) -> Option<usize> {
    among.iter().copied().max_by_key(|&axis| uses.score(space, axis))
}

/// Coefficients of the accesses of the innermost loops.
pub struct Uses<'a> {
    pub loads: Vec<&'a [i64]>,
    pub stores: Vec<&'a [i64]>,
}

impl<'a> Uses<'a> {
    pub fn new(body: &'a Body, stores: &'a [Store]) -> Uses<'a> {
        Uses {
            loads: body.loads().map(|a| a.at.coeffs.as_slice()).collect(),
            stores: stores.iter().map(|s| s.access.at.coeffs.as_slice()).collect(),
        }
    }

    /// How well vectors along `axis` suit the accesses: contiguous and constant ones are good, short axes bad.
    pub fn score(&self, space: &[usize], axis: usize) -> i64 {
        let loads: i64 = self.loads.iter().map(|c| if matches!(c[axis], 0 | 1) { 2 } else { 0 }).sum();
        let stores: i64 = self.stores.iter().map(|c| if c[axis] == 1 { 4 } else { 0 }).sum();
        let short = match space[axis] {
            1 => -10_000,
            2 | 3 => -1_000,
            _ => 0,
        };
        loads + stores + short
    }
}

/// A function that computes a rectangle of `space`, and the calls that cover it. The last axis is the vector axis.
pub fn rectangle(
    out: &mut Lowered,
    name: &str,
    space: &[usize],
    body: Body,
    stores: Vec<Store>,
    args: &[DType],
    options: LowerOptions,
) -> Result<Vec<Call>, LowerError> {
    let frame = Frame::of_body(name, args, &body, &stores);
    let v = space.len() - 1;
    let an = Analysis::new(body, space.to_vec(), v, 0, frame.bufs.clone());
    let cost = point_cost(&an, &[], &stores);
    let grid = Grid::new(&space[..v], space[v], cost, true, 64);
    let func = code(out, frame, &an, &stores, grid.prefix, options)?;
    let (func, bufs) = func;
    Ok(grid
        .calls
        .into_iter()
        .map(|(params, cost)| Call { func, bufs: bufs.clone(), params: params.to_vec(), cost })
        .collect())
}

fn code(
    out: &mut Lowered,
    mut frame: Frame,
    an: &Analysis,
    stores: &[Store],
    prefix: usize,
    options: LowerOptions,
) -> Result<(usize, Arc<[BufRef]>), LowerError> {
    let b = &mut frame.b;
    options.allow(b);
    let (u0, u1) = (b.param("u0"), b.param("u1"));
    let (i0, i1) = (b.param("i0"), b.param("i1"));
    let targets: Vec<ScalarId> = Vec::new();
    let mut rows = RowCode::new(an, vec![an.vector], stores.to_vec(), options.row_templates);
    let mut ev = Eval::new(an);
    ev.prepare(b, &targets, stores);
    let outer: Vec<usize> = (0..an.vector).collect();
    let (flat, rest) = outer.split_at(prefix);
    let range = (i0.into(), i1.into());
    if flat.is_empty() {
        nest(b, &ev, rest, &targets, stores, &mut |b, ev| rows.row(b, ev, range));
    } else {
        flat_nest(b, &ev, flat, (u0, u1), &targets, stores, &mut |b, ev| {
            nest(b, ev, rest, &targets, stores, &mut |b, ev| rows.row(b, ev, range));
        });
    }
    let (func, bufs) = frame.finish()?;
    Ok((out.func(func), bufs))
}

/// One function for all segments; a call covers a range of one segment.
pub fn lower_update(k: &Update, args: &[DType], options: LowerOptions) -> Result<Lowered, LowerError> {
    let shared_from = k.segments.len() * k.roles;
    if k.segments.is_empty() || args.len() != shared_from + k.shared {
        return Err(LowerError(format!(
            "an update of {} segments with {} roles and {} shared arguments needs {} arguments and found {}: rebuild the program",
            k.segments.len(),
            k.roles,
            k.shared,
            shared_from + k.shared,
            args.len()
        )));
    }
    // Roles have the dtypes of the first segment's arguments.
    let roles: Vec<DType> = args[..k.roles].iter().chain(&args[shared_from..]).copied().collect();
    let longest = *k.segments.iter().max().expect("there is a segment");
    let frame = Frame::of_body("update", &roles, &k.body, &k.stores);
    let an = Analysis::new(k.body.clone(), vec![longest], 0, 0, frame.bufs.clone());
    let cost = point_cost(&an, &[], &k.stores);
    let mut out = Lowered::default();
    let (func, refs) = code(&mut out, frame, &an, &k.stores, 0, options)?;
    let mut calls = Vec::new();
    for (s, &len) in k.segments.iter().enumerate() {
        let bufs: Arc<[BufRef]> = refs
            .iter()
            .map(|r| match r {
                BufRef::Arg(role) if *role < k.roles => BufRef::Arg(s * k.roles + role),
                BufRef::Arg(role) => BufRef::Arg(shared_from + role - k.roles),
                shared => *shared,
            })
            .collect();
        for (i0, i1) in cut(len, cost, 64) {
            calls.push(Call { func, bufs: bufs.clone(), params: vec![0, 1, i0, i1], cost: cost * (i1 - i0) as f64 });
        }
    }
    out.phases.push(calls);
    Ok(out)
}
