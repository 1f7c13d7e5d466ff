//! Folds: a workgroup reduces one block of one segment.
//!
//! It finds its segment in a table: for each the first of its blocks, its length, and where it begins in the binding. Each invocation takes
//! every so many elements of the block, four at once where all segments allow it; the partial results meet in a fixed tree.

use crate::caps::Caps;
use crate::cx::Cx;
use crate::error::{Error, refuse};
use crate::eval::{Eval, is_aligned};
use crate::reduce::{Lanes, accumulator, across_lanes, combine};
use crate::text::type_name;
use crate::update::find_segment;
use crate::variant::Variant;
use tinygpt_ir::op::Reduce;
use tinygpt_ir::program::{Access, Fold, Reduction};
use tinygpt_ir::types::DType;

/// Whether every block is a whole number of groups of four, from a multiple of four elements of the binding on.
fn allows_four(k: &Fold, offset_of: impl Fn(usize) -> usize) -> bool {
    let whole = |n: usize| n.is_multiple_of(4);
    whole(k.block) && k.segments.iter().enumerate().all(|(s, n)| whole(*n) && whole(offset_of(s)))
}

/// The variants, the default first. Blocks of thousands of elements fill a workgroup; shorter ones take a smaller one.
pub fn variants(k: &Fold, offset_of: impl Fn(usize) -> usize, caps: &Caps) -> Vec<Variant> {
    let longest = k.segments.iter().copied().max().unwrap_or(1).min(k.block);
    let most = 1 << caps.flat_workgroup().min(256).ilog2();
    let mut list = Vec::new();
    let widths: &[u32] = if allows_four(k, offset_of) { &[4, 1] } else { &[1] };
    for &width in widths {
        let each = longest.div_ceil(width as usize).next_power_of_two().min(most as usize) as u32;
        for group in [each, each.min(64)] {
            let subgroups = caps.subgroups.is_some_and(|(_, largest)| largest <= group);
            for subgroups in [true, false].into_iter().filter(|s| !s || subgroups) {
                let v = Variant::Fold { width, group, subgroups };
                if !list.contains(&v) {
                    list.push(v);
                }
            }
        }
    }
    list
}

pub fn emit(cx: &mut Cx, k: &Fold, width: u32, group: u32, subgroups: bool) -> Result<(), Error> {
    let results = k.segments.len();
    let offsets: Vec<usize> = cx.bindings.args.iter().map(|a| a.offset).collect();
    if width == 4 && !allows_four(k, |s| offsets[s]) {
        return refuse(format!(
            "kernel {}: width 4 needs segments and blocks of multiples of 4 elements: choose width 1",
            cx.name
        ));
    }
    if !group.is_power_of_two() {
        return refuse(format!("kernel {}: the workgroup of a fold is a power of two, found {group}", cx.name));
    }
    if subgroups && cx.caps.subgroups.is_none_or(|(_, most)| group < most) {
        return refuse(format!(
            "kernel {}: subgroups need an adapter that has them, and a workgroup of at least the largest: choose subgroups=0",
            cx.name
        ));
    }
    // Arguments as the body names them: a segment, and the results.
    let mut segment = cx.bindings.args[0].clone();
    segment.offset = 0;
    cx.bindings.args = vec![segment, cx.bindings.args[results].clone()];
    if width == 4 {
        // Results are written one by one, perhaps to the binding of the segments.
        let loads: Vec<(&Access, bool)> = k.body.loads().map(|a| (a, is_aligned(cx, a, 0))).collect();
        cx.vectorise(&[loads, vec![(&k.out, false)]].concat());
    }
    let (mut table, mut blocks) = (Vec::with_capacity(3 * results), 0usize);
    for (n, offset) in k.segments.iter().zip(&offsets) {
        table.extend([blocks as u32, *n as u32, *offset as u32]);
        blocks += n.div_ceil(k.block);
    }
    cx.set_table(table);
    cx.constant("SEGMENTS", results);
    cx.constant("COLUMNS", 3);
    cx.constant("BLOCK", k.block.min(u32::MAX as usize / 2));
    if subgroups {
        cx.use_subgroups();
    }
    cx.entry("main", blocks, group)?;
    find_segment(cx);
    cx.code.line("let first = (group - segments[row]) * BLOCK;");
    cx.code.line("let end = min(first + BLOCK, segments[row + 1u]);");
    cx.code.line("let start_0 = segments[row + 2u];");

    let Reduction { op, value } = k.reduction;
    let dtype = k.body.scalars[value].dtype;
    let (wide, start) = accumulator(op, dtype);
    if !subgroups && group > 1 {
        cx.code.line("let lane = local;");
    }
    let lanes = if width == 4 { "lanes" } else { "sum_0" };
    cx.code.line(format!("var {lanes} = {}({start});", type_name(wide, width == 4)));
    let mut eval = Eval::new(&k.body, vec!["x".into()]);
    eval.dynamic_offsets.insert(Fold::SEGMENT.index(), "start_0".into());
    eval.vector = (width == 4).then_some(0);
    cx.code.open(format!("for (var x = first + local * {width}u; x < end; x += {}u)", group * width));
    let v = eval.value(cx, value);
    let text = if wide == dtype && v.wide == (width == 4) {
        v.text
    } else {
        format!("{}({})", type_name(wide, width == 4), v.text)
    };
    combine(cx, op, lanes, &text, "");
    cx.code.close();
    if width == 4 {
        let all = match op {
            Reduce::Sum => "(lanes.x + lanes.y) + (lanes.z + lanes.w)",
            _ => "max(max(lanes.x, lanes.y), max(lanes.z, lanes.w))",
        };
        cx.code.line(format!("var sum_0 = {all};"));
    }
    across_lanes(cx, &[(0, op, dtype)], Lanes { rows: 1, lanes: group, subgroups, down: false, wide: false });
    let result = if dtype == DType::F16 { "f16(sum_0)" } else { "sum_0" };
    let at = match cx.offset(Fold::RESULTS) {
        0 => "group".to_string(),
        offset => format!("group + {offset}u"),
    };
    if group > 1 {
        cx.code.open("if (local == 0u)");
    }
    cx.store(Fold::RESULTS, &at, result);
    if group > 1 {
        cx.code.close();
    }
    cx.code.close();
    Ok(())
}
