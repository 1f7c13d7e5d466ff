//! Scatter: the base, then values added at computed rows in index order.
//!
//! Each call owns a rectangle of the table, rows by columns, and walks all ids in order, adding those whose row it owns. So the sum at
//! each element is in index order whatever the cut. Columns are cut first: rows cut work only by making every call scan all ids.

use super::cost::{GRAIN_NS, cut, point_cost};
use super::eval::{Analysis, Eval};
use super::nest::nest;
use super::pointwise::rectangle;
use super::rows::vector_loop;
use super::space::{AxisMap, maps};
use super::{Call, Frame, LowerError, LowerOptions, Lowered};
use tinygpt_ir::program::{Access, Affine, Body, Pointwise, ScalarOp, Scatter, ScatterBase, Store};
use tinygpt_ir::types::{DType, Literal};
use tinygpt_vloop::{BinOp, CmpOp, Conv};

pub fn lower(k: &Scatter, args: &[DType], options: LowerOptions) -> Result<Lowered, LowerError> {
    let mut out = Lowered::default();
    if let Some(base) = base_kernel(k) {
        let store = &base.stores;
        let order: Vec<usize> = (0..base.space.len()).collect();
        let map = AxisMap::merged(&base.space, &order, &maps(&base.body, store));
        let stores: Vec<Store> = store.iter().map(|s| map.store(s)).collect();
        let calls = rectangle(&mut out, "scatter_base", map.extents(), map.body(&base.body), stores, args, options)?;
        out.phases.push(calls);
    }
    let calls = accumulate(k, args, &mut out)?;
    out.phases.push(calls);
    Ok(out)
}

/// The copy of the base; None if it is the output itself.
fn base_kernel(k: &Scatter) -> Option<Pointwise> {
    let space: Vec<usize> = std::iter::once(k.table).chain(k.inner.iter().copied()).collect();
    let dtype = k.body.scalars[k.value].dtype;
    let mut body = Body::default();
    let value = match &k.base {
        ScatterBase::Load(access) if *access == k.out => return None,
        ScatterBase::Load(access) => body.push(ScalarOp::Load(access.clone()), dtype),
        ScatterBase::Const(Literal { value, .. }) => body.push(ScalarOp::Const(Literal::new(dtype, *value)), dtype),
    };
    Some(Pointwise { space, body, stores: vec![Store { access: k.out.clone(), value }] })
}

fn accumulate(k: &Scatter, args: &[DType], out: &mut Lowered) -> Result<Vec<Call>, LowerError> {
    let ids = k.ids.len();
    let space: Vec<usize> = k.ids.iter().chain(&k.inner).copied().collect();
    let rank = space.len();
    // The output over ids ++ inner, without its table stride.
    let inner_strides = [vec![0; ids], k.out.at.coeffs[1..].to_vec()].concat();
    let mut all = maps(&k.body, &[]);
    all.push(&inner_strides);
    let id_order: Vec<usize> = (0..ids).collect();
    let inner_order = super::space::by_stride(ids..rank, &inner_strides);
    let id_map = AxisMap::merged(&space, &id_order, &all);
    let map = id_map.clone().then(&AxisMap::merged(&space, &inner_order, &all));
    let target = map.access(&Access {
        arg: k.out.arg,
        at: Affine { offset: k.out.at.offset, coeffs: inner_strides.clone() },
        indirect: vec![],
    });
    let body = map.body(&k.body);
    let store = Store { access: target.clone(), value: k.value };
    let mut frame = Frame::of_body("scatter", args, &body, std::slice::from_ref(&store));
    let extents = map.extents().to_vec();
    let v = extents.len() - 1;
    let an = Analysis::new(body, extents.clone(), v, 0, frame.bufs.clone());
    let id_axes: Vec<usize> = (0..id_map.rank()).collect();
    let middle: Vec<usize> = (id_map.rank()..v).collect();

    let b = &mut frame.b;
    let (r0, r1) = (b.param("r0"), b.param("r1"));
    let (i0, i1) = (b.param("i0"), b.param("i1"));
    let targets = [k.index, k.value];
    let mut ev = Eval::new(&an);
    ev.prepare(b, &targets, &[]);
    let buf = an.bufs[k.out.arg.index()].expect("the output is declared");
    let table_stride = k.out.at.coeffs[0];
    nest(b, &ev, &id_axes, &targets, &[], &mut |b, ev| {
        let index = ev.narrow(b, k.index);
        let (zero, last) = (b.i32(0), b.i32(k.table as i32 - 1));
        let index = b.max(index, zero);
        let index = b.min(index, last);
        let row = b.convert(Conv::I32ToIndex, index);
        let (from, below) = (b.cmp(CmpOp::Ge, row, r0), b.cmp(CmpOp::Lt, row, r1));
        let owned = b.and(from, below);
        b.if_(owned, |b| {
            let start = b.mul_const(row, table_stride);
            nest(b, ev, &middle, &targets, &[], &mut |b, ev| {
                ev.prepare(b, &targets, &[]);
                let mut offset = start;
                for &axis in &middle {
                    let i = ev.axis(axis);
                    let step = b.mul_const(i, target.at.coeffs[axis]);
                    offset = b.add(offset, step);
                }
                vector_loop(b, ev, (i0.into(), i1.into()), 2, &mut |b, ev, _| {
                    let x = ev.value_at_lanes(b, k.value);
                    let stride = target.at.coeffs[v];
                    let at = ev.along(buf.at().offset(target.at.offset).plus(offset, 1), stride);
                    if ev.lanes == 4 {
                        let old = b.load4_strided(at.clone(), stride);
                        let sum = b.binary(BinOp::Add, old, x);
                        b.store4_strided(at, stride, sum);
                    } else {
                        let old = b.load(at.clone());
                        let sum = b.binary(BinOp::Add, old, x);
                        b.store(at, sum);
                    }
                });
            });
        });
    });

    let count: usize = k.ids.iter().product();
    let inner: usize = k.inner.iter().product();
    let extent = extents[v];
    let point = point_cost(&an, &[k.value], std::slice::from_ref(&store)) + 0.2;
    let scan = 2.0 * count as f64;
    let total = point * (count * inner) as f64 + scan;
    let cols = if total > GRAIN_NS { cut(extent, total / extent as f64, 16) } else { vec![(0, extent as i64)] };
    let column = total / cols.len() as f64;
    // Every row cut costs a scan of all ids: it must be small beside the work that is cut.
    let parts = ((column / GRAIN_NS).min(column / (4.0 * scan))).floor().clamp(1.0, k.table as f64);
    let rows = cut(k.table, GRAIN_NS * parts / k.table as f64, 1);
    let (func, bufs) = frame.finish()?;
    let func = out.func(func);
    let mut calls = Vec::new();
    for &(i0, i1) in &cols {
        for &(r0, r1) in &rows {
            let params = vec![r0, r1, i0, i1];
            calls.push(Call { func, bufs: bufs.clone(), params, cost: column / rows.len() as f64 + scan });
        }
    }
    Ok(calls)
}
