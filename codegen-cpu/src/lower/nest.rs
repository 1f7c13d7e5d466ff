//! Loop nests, and the arithmetic of flat numbers of several axes.

use super::eval::Eval;
use tinygpt_ir::program::{ScalarId, Store};
use tinygpt_vloop::{Builder, Idx, Reg};

/// The sum of reg * stride; None without terms, the register itself for one of stride 1.
pub fn sum(b: &mut Builder, terms: &[(Reg, i64)]) -> Option<Reg> {
    let mut out = None;
    for &(r, stride) in terms {
        let term = b.mul_const(r, stride);
        out = Some(match out {
            None => term,
            Some(r) => b.add(r, term),
        });
    }
    out
}

/// Loops over `axes` in order, preparing at each level; the innermost body evaluates in its own scope.
pub fn nest<'a>(
    b: &mut Builder,
    ev: &Eval<'a>,
    axes: &[usize],
    targets: &[ScalarId],
    stores: &[Store],
    body: &mut dyn FnMut(&mut Builder, &mut Eval<'a>),
) {
    let Some((&axis, inner)) = axes.split_first() else {
        return body(b, &mut ev.clone());
    };
    let extent = ev.an.space[axis];
    b.for_("i", 0, extent, 1, |b, i| {
        let mut ev = ev.clone();
        ev.enter(axis, i);
        ev.prepare(b, targets, stores);
        nest(b, &ev, inner, targets, stores, body);
    });
}

/// Loops over the flat range `begin..end` of `axes` taken together (the first outermost), entering all of them.
pub fn flat_nest<'a>(
    b: &mut Builder,
    ev: &Eval<'a>,
    axes: &[usize],
    range: (Reg, Reg),
    targets: &[ScalarId],
    stores: &[Store],
    body: &mut dyn FnMut(&mut Builder, &mut Eval<'a>),
) {
    b.for_("u", range.0, range.1, 1, |b, u| {
        let mut ev = ev.clone();
        enter_flat(b, &mut ev, axes, u);
        ev.prepare(b, targets, stores);
        body(b, &mut ev);
    });
}

/// Enters `axes` at their flat number.
pub fn enter_flat(b: &mut Builder, ev: &mut Eval, axes: &[usize], flat: Reg) {
    let extents: Vec<usize> = axes.iter().map(|&a| ev.an.space[a]).collect();
    for (&axis, i) in axes.iter().zip(split_flat(b, &extents, flat)) {
        ev.enter(axis, i);
    }
}

/// The indices along axes of `extents` of a flat number.
pub fn split_flat(b: &mut Builder, extents: &[usize], flat: Reg) -> Vec<Reg> {
    let mut rest = flat;
    let mut out = Vec::with_capacity(extents.len());
    for (i, &extent) in extents.iter().enumerate().rev() {
        if i == 0 {
            out.push(rest);
        } else {
            out.push(b.rem_const(rest, extent as i64));
            rest = b.div_const(rest, extent as i64);
        }
    }
    out.reverse();
    out
}

/// The body of [`pieces`]: outer indices, flat number of the last axis' beginning (None: 0), lo, hi.
type Piece<'p> = &'p mut dyn FnMut(&mut Builder, &[Reg], Option<Reg>, Idx, Idx);

/// Cuts the flat range `from..to` of axes with `extents` where the last axis wraps, and calls
/// `body(outer indices, flat number of the last axis' beginning, lo, hi)` for each piece `lo..hi` of the last axis.
pub fn pieces(b: &mut Builder, extents: &[usize], from: Idx, to: Idx, body: Piece) {
    let (last, outer) = extents.split_last().expect("a group has at least one axis");
    if outer.is_empty() {
        return body(b, &[], None, from, to);
    }
    let last = *last as i64;
    let (from, to) = (idx_reg(b, from), idx_reg(b, to));
    let first = b.div_const(from, last);
    let past = b.add_const(to, last - 1);
    let past = b.div_const(past, last);
    b.for_("o", first, past, 1, |b, o| {
        let indices = split_flat(b, outer, o);
        let start = b.mul_const(o, last);
        let zero = b.index(0);
        let lo = b.sub(from, start);
        let lo = b.max(lo, zero);
        let extent = b.index(last);
        let hi = b.sub(to, start);
        let hi = b.min(hi, extent);
        body(b, &indices, Some(start), lo.into(), hi.into());
    });
}

/// An index operand as a register.
pub fn idx_reg(b: &mut Builder, i: Idx) -> Reg {
    match i {
        Idx::Reg(r) => r,
        Idx::Const(c) => b.index(c),
    }
}
