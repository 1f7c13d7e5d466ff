//! Pointwise kernels: one invocation computes one point, or four along the last axis.

use crate::cx::Cx;
use crate::error::{Error, refuse};
use crate::eval::{Eval, is_aligned};
use crate::space::{Merged, merge_body, split};
use tinygpt_ir::program::{Access, Body, Pointwise, Store};
use tinygpt_ir::types::numel;

/// Whether four points along the last axis of a merged space can be computed at once: its extent is a multiple of four, and every store
/// writes either four consecutive elements or does so with some stride.
pub fn allows_four(k: &Pointwise) -> bool {
    let m = merge_body(&[&k.space], &k.body, &k.stores);
    m.groups[0].last().is_some_and(|n| n % 4 == 0)
}

/// Tells `cx` which bindings hold whole groups of four along the last axis of the space.
pub fn vectorise(cx: &mut Cx, body: &Body, stores: &[Store], axis: usize) {
    let accesses: Vec<&Access> = body.loads().chain(stores.iter().map(|s| &s.access)).collect();
    let flagged: Vec<(&Access, bool)> = accesses.into_iter().map(|a| (a, is_aligned(cx, a, axis))).collect();
    cx.vectorise(&flagged);
}

pub fn emit(cx: &mut Cx, k: &Pointwise, width: u32, group: u32) -> Result<(), Error> {
    let Merged { groups, body, stores } = merge_body(&[&k.space], &k.body, &k.stores);
    let space = &groups[0];
    if width == 4 && !allows_four(k) {
        return refuse(format!(
            "kernel {}: width 4 needs a last axis of a multiple of 4, found {space:?}: choose width 1",
            cx.name
        ));
    }
    let axis = space.len().wrapping_sub(1);
    if width == 4 {
        vectorise(cx, &body, &stores, axis);
    }
    let count = numel(space) / width as usize;
    cx.constant("POINTS", count);
    cx.entry("main", count.div_ceil(group as usize), group)?;
    cx.code.line(format!("let i = group * {group}u + local;"));
    if !count.is_multiple_of(group as usize) {
        cx.code.line("if (i >= POINTS) { return; }");
    }
    let mut extents = space.clone();
    if width == 4 {
        extents[axis] /= 4;
    }
    let mut point = Vec::new();
    for (d, index) in split("i", &extents).into_iter().enumerate() {
        let name = format!("x{d}");
        let scale = if width == 4 && d == axis { " * 4u" } else { "" };
        cx.code.line(format!("let {name} = {index}{scale}; // of {}", space[d]));
        point.push(name);
    }
    let mut eval = Eval::new(&body, point);
    eval.vector = (width == 4).then_some(axis);
    eval.stores(cx, &stores.iter().collect::<Vec<_>>());
    cx.code.close();
    Ok(())
}
