//! Folds: one function for all segments; a call reduces a range of the blocks of one.
//!
//! Invariant: a block is summed by one pass of the same loop from its first element on, whatever call it falls into, so its bits depend on its
//! elements alone.

use super::accum::Accumulator;
use super::cost::{cut, point_cost, unroll};
use super::eval::{Analysis, Eval};
use super::rows::vector_loop;
use super::{BufRef, Call, Frame, LowerError, Lowered};
use std::collections::BTreeSet;
use std::sync::Arc;
use tinygpt_ir::program::{Fold, Reduction};
use tinygpt_ir::types::DType;

pub fn lower(k: &Fold, args: &[DType]) -> Result<Lowered, LowerError> {
    let results = k.segments.len();
    let (Some(&longest), true) = (k.segments.iter().max(), args.len() == results + 1 && k.block >= 1) else {
        return Err(LowerError(format!(
            "a fold of {results} segments in blocks of {} needs a segment, a block of at least one element and {} arguments, and found {}: rebuild the program",
            k.block,
            results + 1,
            args.len()
        )));
    };
    // Roles have the dtypes of the first segment and of the results.
    let roles = [args[0], args[results]];
    let reads: BTreeSet<_> = k.body.loads().map(|a| a.arg).collect();
    let mut frame = Frame::new("fold", &roles, &reads, &BTreeSet::from([Fold::RESULTS]));
    let an = Analysis::new(k.body.clone(), vec![k.block.min(longest)], 0, 0, frame.bufs.clone());
    let Reduction { op, value } = k.reduction;
    let dtype = an.body.scalars[value].dtype;
    let vectors = unroll(&an, &[value], &[], k.block.min(longest)).max(1);
    let out = frame.buf(&k.out);

    let b = &mut frame.b;
    let (u0, u1) = (b.param("u0"), b.param("u1"));
    let (first, len) = (b.param("first"), b.param("len"));
    let mut ev = Eval::new(&an);
    ev.prepare(b, &[value], &[]);
    let block = i64::try_from(k.block.min(longest)).map_err(|e| LowerError(format!("a block is too long: {e}")))?;
    b.for_("block", u0, u1, 1, |b, i| {
        let from = b.mul_const(i, block);
        let end = b.add_const(from, block);
        let to = b.min(end, len);
        let acc = Accumulator::new(b, op, dtype, vectors, true);
        vector_loop(b, &ev, (from.into(), to.into()), vectors, &mut |b, ev, u| {
            let x = ev.value_at_lanes(b, value);
            acc.slot(ev.lanes, u).update(b, x, None);
        });
        let result = acc.finish(b);
        b.store(out.at().plus(first, 1).plus(i, 1), result);
    });
    let (func, refs) = frame.finish()?;

    let mut lowered = Lowered::default();
    let func = lowered.func(func);
    let cost = point_cost(&an, &[value], &[]);
    let (mut calls, mut first) = (Vec::new(), 0);
    for (s, &len) in k.segments.iter().enumerate() {
        let own = |r: &BufRef| match r {
            BufRef::Arg(0) => BufRef::Arg(s),
            BufRef::Arg(_) => BufRef::Arg(results),
            shared => *shared,
        };
        let bufs: Arc<[BufRef]> = refs.iter().map(own).collect();
        let (blocks, each) = (len.div_ceil(k.block), cost * k.block.min(len) as f64);
        for (u0, u1) in cut(blocks, each, 1) {
            let params = vec![u0, u1, first, len as i64];
            calls.push(Call { func, bufs: bufs.clone(), params, cost: each * (u1 - u0) as f64 });
        }
        first += blocks as i64;
    }
    lowered.phases.push(calls);
    Ok(lowered)
}
