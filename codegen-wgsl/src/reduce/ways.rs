//! Which variants a reduction has on an adapter.

use super::{Plan, TOGETHER, allows_subgroups};
use crate::caps::Caps;
use crate::variant::Variant;
use tinygpt_ir::program::ReduceKernel;

/// Workgroups that keep a large GPU busy.
const BUSY_GROUPS: usize = 264;
/// Workgroups that are enough where each has many loads under way, and the most rows of column sums that a lane then has.
const ENOUGH_GROUPS: usize = 64;
const MOST_ROWS: usize = 32;
/// Rows so long that few of them should be under way at once, so that what a later sweep reads again is in a cache.
const LONG: usize = 8192;

/// The variants of `k` in workgroups of at most `most` invocations, the default first; `room` says whether partial results may take a further binding.
pub fn variants(k: &ReduceKernel, caps: &Caps, most: u32, room: bool) -> Vec<Variant> {
    let plan = Plan::new(k);
    let (rows, cols) = (plan.count_rows(), plan.count_cols());
    let width = if plan.allows_four() { 4 } else { 1 };
    // Every reduction has an array of workgroup memory, of vectors where rows are taken four at once; argmax has two.
    let words = if plan.down { width } else { 1 };
    let by_memory = caps.workgroup_bytes / (8 * words * plan.reductions() as u32).max(1);
    let largest = power_of_two_at_most(most.min(by_memory));
    let group = largest.min(256);
    let at_most = |n: usize, cap: u32| power_of_two_at_most((n.min(1 << 30) as u32).max(1)).min(cap);
    let four = width as usize;
    let (row_units, col_units) = if plan.down { (rows / four, cols) } else { (rows, cols / four) };
    let mut list: Vec<Variant> = Vec::new();
    let mut push = |rows: u32, lanes: u32, split: u32| {
        let subgroups = allows_subgroups(&plan, rows, lanes, caps);
        let v = Variant::Reduce { rows, lanes, split, width, subgroups };
        if !list.contains(&v) {
            list.push(v);
        }
    };
    // Parts so that the GPU is busy and none takes long, of at least a few columns an invocation.
    let parts = |rows_at_once: u32, lanes: u32| {
        let groups = row_units.div_ceil(rows_at_once as usize);
        let each = col_units.div_ceil(lanes as usize);
        let many = room && plan.allows_split() && groups < BUSY_GROUPS && each > 16;
        if many { (BUSY_GROUPS / groups).max(each / 32).min(each / 8).clamp(1, 64) as u32 } else { 1 }
    };
    if plan.down {
        // Neighbouring invocations read neighbouring rows. Few of them side by side, so that many lanes share the columns, take one dispatch.
        if width == 4 {
            let enough = |across: &u32| {
                row_units >= ENOUGH_GROUPS * *across as usize && cols * *across as usize <= MOST_ROWS * group as usize
            };
            let across = [4, 2].into_iter().find(|across| *across <= group && enough(across)).unwrap_or(1);
            for across in [across, if across == 1 { 2 } else { across / 2 }] {
                let lanes = at_most(cols, group / across.min(group));
                push(across.min(group), lanes, 1);
            }
        }
        let across = at_most(row_units.next_power_of_two(), (32 / width).min(group));
        let lanes = at_most(cols, group / across);
        push(across, lanes, parts(across, lanes));
        push(across, lanes, 1);
        if width == 1 {
            let across = at_most(rows.next_power_of_two(), 64.min(group));
            push(across, 1, parts(across, 1));
            push(across, 1, 1);
        }
        return list;
    }
    let row_cap = |lanes: u32, group: u32| {
        let free = (group / lanes).max(1);
        free.min((rows.next_power_of_two()).min(1 << 30) as u32)
    };
    let mut push_both = |rows: u32, lanes: u32| {
        let split = parts(rows, lanes);
        push(rows, lanes, split);
        push(rows, lanes, 1);
    };
    // A row a subgroup, which keeps it in registers and meets no barrier.
    if let Some((smallest, size)) = caps.subgroups
        && smallest == size
        && size <= group
        && col_units > size as usize / 2
        && col_units <= TOGETHER * size as usize
    {
        for group in [128, 256, 64].into_iter().filter(|g| *g <= group && *g >= size) {
            push_both(row_cap(size, group), size);
        }
    }
    if cols >= LONG && largest > 256 {
        push_both(1, largest.min(1024));
    }
    let lanes = if col_units <= 4 { 1 } else { at_most(col_units.div_ceil(2), group.min(64)) };
    if let Some((_, largest)) = caps.subgroups
        && cols >= 64
        && largest <= 64.min(group)
    {
        push_both(1, 64.min(group));
    }
    push_both(row_cap(lanes, group), lanes);
    if cols >= 512 {
        push_both(1, group);
    }
    if cols <= 64 {
        push_both(row_cap(1, group).min(64), 1);
    }
    list
}

fn power_of_two_at_most(n: u32) -> u32 {
    if n == 0 { 1 } else { 1 << n.ilog2() }
}
