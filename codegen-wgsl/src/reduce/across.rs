//! How the lanes of a row combine what each has: a fixed tree in workgroup memory, or subgroups.

use crate::cx::Cx;
use crate::text::{float, type_name};
use tinygpt_ir::op::Reduce;
use tinygpt_ir::types::DType;

/// The position of a largest element that was not found yet.
pub const NOWHERE: &str = "0x7fffffffi";

/// The accumulator type and start of a reduction. f16 sums are kept in f32.
pub fn accumulator(op: Reduce, dtype: DType) -> (DType, String) {
    let wide = if dtype == DType::F16 { DType::F32 } else { dtype };
    let start = match (op, wide) {
        (Reduce::Sum, t) => format!("{t}()"),
        (_, DType::I32) => "i32(-2147483648)".into(),
        (_, DType::U32) => "0u".into(),
        _ => float(f32::NEG_INFINITY),
    };
    (wide, start)
}

/// `name = name combined with other`, for argmax with the positions `name_at`, `other_at` as well.
pub fn combine(cx: &mut Cx, op: Reduce, name: &str, other: &str, other_at: &str) {
    match op {
        Reduce::Sum => cx.code.line(format!("{name} += {other};")),
        Reduce::Max => cx.code.line(format!("{name} = select({name}, {other}, {name} < {other});")),
        // Of equal values the first, whatever the order of combination.
        Reduce::ArgMax => {
            cx.code.open(format!("if ({name} < {other} || ({name} == {other} && {other_at} < {name}_at))"));
            cx.code.line(format!("{name} = {other};"));
            cx.code.line(format!("{name}_at = {other_at};"));
            cx.code.close();
        }
    }
}

/// The invocations of a workgroup: so many rows of so many lanes.
#[derive(Clone, Copy)]
pub struct Lanes {
    pub rows: u32,
    pub lanes: u32,
    /// Rows of one subgroup each, or one row of several.
    pub subgroups: bool,
    /// Whether neighbouring invocations are rows.
    pub down: bool,
    /// Whether sums are vectors of four.
    pub wide: bool,
}

/// Combines the sums `sum_r`, each with its operation and the type of its values, over the lanes of each row; every lane has the results after. An
/// invocation's place is `row_in_group` (where there are several rows) and `lane`. All of them meet at the same barriers.
pub fn across_lanes(cx: &mut Cx, sums: &[(usize, Reduce, DType)], across: Lanes) {
    if across.lanes == 1 {
        return;
    }
    let (by_subgroups, by_tree): (Vec<_>, Vec<_>) =
        sums.iter().partition(|(_, op, _)| across.subgroups && *op != Reduce::ArgMax);
    if !by_subgroups.is_empty() {
        in_subgroups(cx, &by_subgroups, across);
    }
    if !by_tree.is_empty() {
        in_tree(cx, &by_tree, across);
    }
}

/// The array of workgroup memory in which `sum_r` meets the other lanes'.
fn array(cx: &mut Cx, (r, op, dtype): (usize, Reduce, DType), across: Lanes, entries: u32) -> String {
    let (dtype, _) = accumulator(op, dtype);
    let name = format!("shared_{r}");
    let each = if across.wide { 16 } else { 4 };
    cx.workgroup(&name, &format!("array<{}, {entries}>", type_name(dtype, across.wide)), each * entries);
    name
}

fn in_subgroups(cx: &mut Cx, sums: &[(usize, Reduce, DType)], across: Lanes) {
    for (r, op, _) in sums {
        let f = if *op == Reduce::Sum { "subgroupAdd" } else { "subgroupMax" };
        cx.code.line(format!("sum_{r} = {f}(sum_{r});"));
    }
    let one_each = cx.caps.subgroups == Some((across.lanes, across.lanes));
    if one_each {
        return;
    }
    let arrays: Vec<String> = sums.iter().map(|sum| array(cx, *sum, across, across.lanes)).collect();
    cx.code.open("if (subgroup_lane == 0u)");
    for ((r, ..), array) in sums.iter().zip(&arrays) {
        cx.code.line(format!("{array}[local / subgroup_size] = sum_{r};"));
    }
    cx.code.close();
    cx.code.line("workgroupBarrier();");
    for (r, op, dtype) in sums {
        let start = accumulator(*op, *dtype);
        cx.code.line(match across.wide {
            true => format!("sum_{r} = {}({});", type_name(start.0, true), start.1),
            false => format!("sum_{r} = {};", start.1),
        });
    }
    cx.code.open(format!("for (var s = 0u; s < {}u / subgroup_size; s++)", across.lanes));
    for ((r, op, _), array) in sums.iter().zip(&arrays) {
        combine(cx, *op, &format!("sum_{r}"), &format!("{array}[s]"), "");
    }
    cx.code.close();
}

fn in_tree(cx: &mut Cx, sums: &[(usize, Reduce, DType)], across: Lanes) {
    let Lanes { rows, lanes, down, .. } = across;
    let group = rows * lanes;
    let arrays: Vec<String> = sums.iter().map(|sum| array(cx, *sum, across, group)).collect();
    let all: Vec<(usize, Reduce, &String, String)> =
        sums.iter().zip(&arrays).map(|((r, op, _), array)| (*r, *op, array, format!("shared_{r}_at"))).collect();
    for (_, op, _, at) in &all {
        if *op == Reduce::ArgMax {
            cx.workgroup(at, &format!("array<i32, {group}>"), 4 * group);
        }
    }
    let write = |cx: &mut Cx| {
        for (r, op, array, at) in &all {
            cx.code.line(format!("{array}[local] = sum_{r};"));
            if *op == Reduce::ArgMax {
                cx.code.line(format!("{at}[local] = sum_{r}_at;"));
            }
        }
    };
    // Neighbouring lanes of a row are this far apart.
    let step = if down { rows } else { 1 };
    write(cx);
    let mut half = lanes / 2;
    while half > 0 {
        cx.code.line("workgroupBarrier();");
        cx.code.open(format!("if (lane < {half}u)"));
        let other = format!("local + {}u", half * step);
        for (r, op, array, at) in &all {
            combine(cx, *op, &format!("sum_{r}"), &format!("{array}[{other}]"), &format!("{at}[{other}]"));
        }
        write(cx);
        cx.code.close();
        half /= 2;
    }
    cx.code.line("workgroupBarrier();");
    let first = match (rows, down) {
        (1, _) => "0u".to_string(),
        (_, true) => "row_in_group".to_string(),
        (_, false) => format!("row_in_group * {lanes}u"),
    };
    for (r, op, array, at) in &all {
        cx.code.line(format!("sum_{r} = {array}[{first}];"));
        if *op == Reduce::ArgMax {
            cx.code.line(format!("sum_{r}_at = {at}[{first}];"));
        }
    }
}
