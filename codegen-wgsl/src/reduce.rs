//! Reductions: a workgroup takes `rows` rows, `lanes` invocations each.
//!
//! Each invocation of a row accumulates every `lanes`-th column; the partial results meet in a fixed tree in workgroup memory, or in
//! subgroups, which need no barrier where a row is one subgroup's. Reductions that need the results of others come in a later sweep. Invocations lie
//! along the axis that is contiguous in memory: columns of a row side by side, or rows side by side where memory runs down the rows (column sums).
//! With `width` 4 each takes four neighbours along that axis at once, and `rows` counts vectors of four rows where memory runs down them.
//!
//! Where an invocation has few elements of a row, they are spelled out: all their loads stand before the first sweep, and what a later sweep needs
//! stays in registers ([`kept`]). Where it has more, a maximum and the sum of exponentials below it share a sweep ([`online`]).
//!
//! With `split` > 1 the columns are cut into parts for different workgroups: a first dispatch leaves partial results in scratch,
//! a second combines them, one invocation a row. That needs all reductions in one sweep and only row stores.
//!
//! Invariants
//! - Rows beyond the last are computed as the last and not stored, so that barriers stay uniform.
//! - Row-level values that need no reduction are computed before the first sweep: no load of a row's values follows a store of the row by another
//!   invocation.

mod across;
mod kept;
mod online;
mod ways;

pub use across::{Lanes, accumulator, across_lanes, combine};
pub use ways::variants;

use crate::caps::Caps;
use crate::cx::Cx;
use crate::error::{Error, refuse};
use crate::eval::{Eval, Value, is_aligned};
use crate::space::{Merged, merge_body, split};
use crate::text::type_name;
use across::NOWHERE;
use kept::Kept;
use online::Pair;
use tinygpt_ir::op::Reduce;
use tinygpt_ir::program::{Access, Body, ReduceKernel, Reduction, ScalarId, ScalarOp, Store};
use tinygpt_ir::types::{DType, numel};

/// The numbers of a variant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    pub rows: u32,
    pub lanes: u32,
    pub split: u32,
    /// 1 or 4.
    pub width: u32,
    pub subgroups: bool,
}

/// A reduce kernel over merged axes.
pub struct Plan {
    rows: Vec<usize>,
    cols: Vec<usize>,
    body: Body,
    reductions: Vec<Reduction>,
    row_stores: Vec<Store>,
    element_stores: Vec<Store>,
    levels: Vec<usize>,
    /// Whether memory runs down the rows: neighbours are rows, not columns.
    pub down: bool,
}

impl Plan {
    pub fn new(k: &ReduceKernel) -> Plan {
        let is_row: Vec<bool> = k.stores.iter().map(|s| k.is_row_store(s)).collect();
        let levels = k.levels();
        let Merged { groups, body, stores } = merge_body(&[&k.rows, &k.cols], &k.body, &k.stores);
        let part =
            |rows: bool| stores.iter().zip(&is_row).filter(|(_, r)| **r == rows).map(|(s, _)| s.clone()).collect();
        let (row_stores, element_stores) = (part(true), part(false));
        let [rows, cols] = &groups[..] else { unreachable!("two groups went in") };
        let mut plan = Plan {
            rows: rows.clone(),
            cols: cols.clone(),
            body,
            reductions: k.reductions.clone(),
            row_stores,
            element_stores,
            levels,
            down: false,
        };
        plan.down = plan.runs_down();
        plan
    }

    /// The accesses that are made for each element: those that vary along rows and columns, or without any, along columns.
    fn often(&self) -> Vec<&Access> {
        let rows = self.rows.len();
        let all = self.body.loads().chain(self.element_stores.iter().map(|s| &s.access));
        let along = |c: &[i64]| c.iter().any(|c| *c != 0);
        let (both, once): (Vec<_>, Vec<_>) =
            all.filter(|a| along(&a.at.coeffs[rows..])).partition(|a| along(&a.at.coeffs[..rows]));
        if both.is_empty() { once } else { both }
    }

    fn runs_down(&self) -> bool {
        let (nr, nc) = (self.rows.len(), self.cols.len());
        let often = self.often();
        let along = |axis: usize| often.iter().any(|a| a.at.coeffs[axis].abs() == 1);
        let across = nc > 0 && along(nr + nc - 1);
        nr > 0 && !across && along(nr - 1)
    }

    /// The axis along which neighbours in memory lie, of those merged; none where there is no such.
    fn contiguous(&self) -> Option<usize> {
        let axes = if self.down { self.rows.len() } else { self.rows.len() + self.cols.len() };
        axes.checked_sub(1).filter(|axis| self.down || *axis >= self.rows.len())
    }

    /// Whether four neighbours can be taken at once.
    pub fn allows_four(&self) -> bool {
        let extent = if self.down { self.rows.last() } else { self.cols.last() };
        let whole = extent.is_some_and(|n| n.is_multiple_of(4));
        let sorted = self.reductions.iter().all(|r| r.op != Reduce::ArgMax);
        whole && sorted && self.contiguous().is_some_and(|axis| self.often().iter().any(|a| a.at.coeffs[axis] == 1))
    }

    pub fn count_rows(&self) -> usize {
        numel(&self.rows)
    }
    pub fn count_cols(&self) -> usize {
        numel(&self.cols)
    }
    /// Whether the columns may be cut into parts for different workgroups.
    pub fn allows_split(&self) -> bool {
        self.element_stores.is_empty() && self.levels.iter().all(|l| *l == 0)
    }
    pub fn reductions(&self) -> usize {
        self.reductions.len()
    }
    fn dtype(&self, r: usize) -> DType {
        self.body.scalars[self.reductions[r].value].dtype
    }
    fn sweeps(&self) -> usize {
        self.levels.iter().map(|l| l + 1).max().unwrap_or(0)
    }
    fn of_sweep(&self, sweep: usize) -> Vec<usize> {
        (0..self.reductions.len()).filter(|r| self.levels[*r] == sweep).collect()
    }
    fn all_roots(&self) -> Vec<ScalarId> {
        let stores = self.row_stores.iter().chain(&self.element_stores).map(|s| s.value);
        self.reductions.iter().map(|r| r.value).chain(stores).collect()
    }
    /// Words of scratch a partial result takes.
    fn words(&self, r: usize) -> usize {
        1 + usize::from(self.reductions[r].op == Reduce::ArgMax)
    }
}

/// Elements of a row that an invocation has in the body of its loop, so that their loads are under way together: drivers need not unroll loops.
const TOGETHER: usize = 8;

/// What is taken at once, and who takes it.
#[derive(Clone, Copy)]
struct Cut {
    shape: Shape,
    /// Rows and columns at once: 4 and 1, 1 and 4, or 1 and 1.
    rows: usize,
    cols: usize,
}

/// Declares the sum of `r`: of four rows at once a vector. The vector of four columns, whose sum it becomes, is declared instead where those are taken.
fn declare(cx: &mut Cx, plan: &Plan, cut: Cut, r: usize) {
    let op = plan.reductions[r].op;
    let (dtype, start) = accumulator(op, plan.dtype(r));
    let ty = type_name(dtype, cut.rows * cut.cols == 4);
    let start = if cut.rows * cut.cols == 4 { format!("{ty}({start})") } else { start };
    cx.code.line(format!("var {}: {ty} = {start};", gathers(cut, r)));
    if op == Reduce::ArgMax {
        cx.code.line(format!("var sum_{r}_at = {NOWHERE};"));
    }
}

/// The variable in which a sweep gathers reduction `r`.
fn gathers(cut: Cut, r: usize) -> String {
    format!("{}_{r}", if cut.cols == 4 { "fours" } else { "sum" })
}

/// Four columns' results as one.
fn join_columns(cx: &mut Cx, plan: &Plan, r: usize) {
    match plan.reductions[r].op {
        Reduce::Sum => {
            cx.code.line(format!("var sum_{r} = (fours_{r}.x + fours_{r}.y) + (fours_{r}.z + fours_{r}.w);"))
        }
        _ => {
            cx.code.line(format!("let twos_{r} = select(fours_{r}.xy, fours_{r}.zw, fours_{r}.xy < fours_{r}.zw);"));
            cx.code.line(format!("var sum_{r} = select(twos_{r}.x, twos_{r}.y, twos_{r}.x < twos_{r}.y);"));
        }
    }
}

pub fn emit(cx: &mut Cx, k: &ReduceKernel, shape: Shape) -> Result<(), Error> {
    let plan = Plan::new(k);
    if !shape.rows.is_power_of_two() || !shape.lanes.is_power_of_two() || shape.split == 0 {
        return refuse(format!(
            "kernel {}: rows and lanes of a variant are powers of two, and split is at least 1",
            cx.name
        ));
    }
    if shape.split > 1 && !plan.allows_split() {
        return refuse(format!(
            "kernel {}: the columns cannot be split, for there are several sweeps over them: choose split=1",
            cx.name
        ));
    }
    if shape.subgroups && !allows_subgroups(&plan, shape.rows, shape.lanes, cx.caps) {
        return refuse(format!(
            "kernel {}: subgroups need an adapter that has them, and one row of at least the largest subgroup a workgroup, or rows of one subgroup \
             each: choose subgroups=0",
            cx.name
        ));
    }
    let axis = plan.contiguous().filter(|_| plan.allows_four());
    let cut = match (shape.width, axis) {
        (1, _) => Cut { shape, rows: 1, cols: 1 },
        (4, Some(_)) if plan.down => Cut { shape, rows: 4, cols: 1 },
        (4, Some(_)) => Cut { shape, rows: 1, cols: 4 },
        _ => {
            return refuse(format!(
                "kernel {}: width 4 needs neighbours in memory along an axis of a multiple of 4, and no argmax, found width {}: choose width 1",
                cx.name, shape.width
            ));
        }
    };
    if let (4, Some(axis)) = (shape.width, axis) {
        // The dispatch that combines parts takes rows one by one.
        let at_once = |a: &Access| shape.split == 1 || a.at.coeffs[plan.rows.len()..].iter().any(|c| *c != 0);
        let stores = plan.row_stores.iter().chain(&plan.element_stores).map(|s| &s.access);
        let accesses = plan.body.loads().chain(stores);
        let all: Vec<(&Access, bool)> = accesses.map(|a| (a, at_once(a) && is_aligned(cx, a, axis))).collect();
        cx.vectorise(&all);
    }
    cx.constant("ROWS", plan.count_rows());
    cx.constant("COLS", plan.count_cols());
    if shape.subgroups {
        cx.use_subgroups();
    }
    if shape.split == 1 {
        return sweeps(cx, &plan, cut, None);
    }
    let words: usize = (0..plan.reductions.len()).map(|r| plan.words(r)).sum();
    let base = cx.scratch(words * shape.split as usize * plan.count_rows());
    sweeps(cx, &plan, cut, Some(base))?;
    finish_split(cx, &plan, shape, base)
}

/// Whether the rows of a workgroup may meet in subgroups.
fn allows_subgroups(plan: &Plan, rows: u32, lanes: u32, caps: &Caps) -> bool {
    let one_each = |smallest: u32, largest: u32| smallest == largest && lanes == largest && !plan.down;
    caps.subgroups.is_some_and(|(smallest, largest)| (rows == 1 && lanes >= largest) || one_each(smallest, largest))
}

/// Lets for the rows' indices at the flat index `row`.
fn row_point(cx: &mut Cx, plan: &Plan) -> Vec<String> {
    let mut point = Vec::new();
    for (d, index) in split("row", &plan.rows).into_iter().enumerate() {
        cx.code.line(format!("let r{d} = {index};"));
        point.push(format!("r{d}"));
    }
    point
}

/// The point (row, column `c`): lets for the columns' indices, whose names end in `suffix`.
fn col_point(cx: &mut Cx, plan: &Plan, rows: &[String], c: &str, suffix: &str) -> Vec<String> {
    let mut point = rows.to_vec();
    for (d, index) in split(c, &plan.cols).into_iter().enumerate() {
        cx.code.line(format!("let c{d}{suffix} = {index};"));
        point.push(format!("c{d}{suffix}"));
    }
    point
}

/// The main dispatch: all of it, or with `partials` only the partial results into scratch from there on.
fn sweeps(cx: &mut Cx, plan: &Plan, cut: Cut, partials: Option<usize>) -> Result<(), Error> {
    let Shape { rows, lanes, split: parts, .. } = cut.shape;
    let (row_groups, group) = ((plan.count_rows() / cut.rows).div_ceil(rows as usize), rows * lanes);
    cx.entry("main", row_groups * parts as usize, group)?;
    let in_group = match (rows, lanes, plan.down) {
        (1, _, _) => ("0u".to_string(), "local".to_string()),
        (_, 1, _) => ("local".to_string(), "0u".to_string()),
        (_, _, true) => (format!("local % {rows}u"), format!("local / {rows}u")),
        (_, _, false) => (format!("local / {lanes}u"), format!("local % {lanes}u")),
    };
    cx.code.line(format!("let row_in_group = {};", in_group.0));
    cx.code.line(format!("let lane = {};", in_group.1));
    let row_group = if parts == 1 { "group".to_string() } else { format!("(group % {row_groups}u)") };
    cx.code.line(match cut.rows {
        1 => format!("let own_row = {row_group} * {rows}u + row_in_group;"),
        n => format!("let own_row = ({row_group} * {rows}u + row_in_group) * {n}u;"),
    });
    let guarded = !(plan.count_rows() / cut.rows).is_multiple_of(rows as usize);
    cx.code.line(match guarded {
        true => format!("let row = min(own_row, ROWS - {}u);", cut.rows),
        false => "let row = own_row;".to_string(),
    });
    let at_lane = if cut.cols == 1 { "lane".to_string() } else { format!("lane * {}u", cut.cols) };
    let (mut first, mut end) = (at_lane.clone(), "COLS".to_string());
    if parts > 1 {
        let len = plan.count_cols().div_ceil(parts as usize).next_multiple_of(cut.cols);
        cx.code.line(format!("let part = group / {row_groups}u;"));
        cx.code.line(format!("let part_end = min((part + 1u) * {len}u, COLS);"));
        (first, end) = (format!("part * {len}u + {at_lane}"), "part_end".to_string());
    }
    let rows_at = row_point(cx, plan);
    let zeros = vec!["0u".to_string(); plan.cols.len()];
    let mut eval = Eval::new(&plan.body, [&rows_at[..], &zeros].concat());
    eval.accs = vec![None; plan.reductions.len()];
    eval.vector = plan.contiguous().filter(|_| cut.rows * cut.cols == 4);
    let varies = Eval::varies(&plan.body, plan.rows.len());
    let uses_acc = plan.body.depends(|op| matches!(op, ScalarOp::Acc(_)));
    eval.hoist(cx, &plan.all_roots(), |id| !varies[id.index()] && !uses_acc[id.index()]);

    // How many elements, or groups of four, an invocation has of a row.
    let each = plan.count_cols().div_ceil(cut.cols * (parts * lanes) as usize);
    let mut kept: Vec<Kept> = Vec::new();
    if parts == 1 && each <= TOGETHER {
        let loads = |id: ScalarId| {
            matches!(plan.body.scalars[id].op, ScalarOp::Load(_)) && varies[id.index()] && !uses_acc[id.index()]
        };
        for u in 0..each {
            let mine = Kept::new(cx, plan, cut, &rows_at, u);
            kept.push(mine.with(&mut eval, |eval| eval.hoist(cx, &plan.all_roots(), loads)));
        }
    }
    let pairs: Vec<Pair> = if parts == 1 && kept.is_empty() { online::pairs(plan) } else { Vec::new() };
    let pair_of = |r: usize| pairs.iter().copied().find(|pair| pair.max == r);
    for sweep in 0..plan.sweeps() {
        let mut members = plan.of_sweep(sweep);
        members.retain(|r| pairs.iter().all(|pair| pair.sum != *r));
        if members.is_empty() {
            continue;
        }
        let roots: Vec<ScalarId> = members.iter().map(|r| plan.reductions[*r].value).collect();
        hoist_row_level(cx, &mut eval, plan, &roots, &varies);
        for r in &members {
            match pair_of(*r) {
                Some(pair) => online::declare(cx, cut, pair),
                None => declare(cx, plan, cut, *r),
            }
        }
        if kept.is_empty() {
            let element = |cx: &mut Cx, eval: &mut Eval, c: &str| {
                let mark = eval.mark();
                let row = std::mem::replace(&mut eval.point, col_point(cx, plan, &rows_at, c, ""));
                for r in &members {
                    let text = summand(cx, eval, plan, cut, *r);
                    match pair_of(*r) {
                        Some(pair) => online::take(cx, cut, pair, &text),
                        None => combine(cx, plan.reductions[*r].op, &gathers(cut, *r), &text, &format!("i32({c})")),
                    }
                }
                eval.reset(mark);
                eval.point = row;
            };
            every_column(cx, &mut eval, cut, (&first, &end), (each, sweep), element);
        }
        for mine in &mut kept {
            *mine = mine.clone().with(&mut eval, |eval| {
                let texts: Vec<String> = members.iter().map(|r| summand(cx, eval, plan, cut, *r)).collect();
                mine.open(cx);
                for (r, text) in members.iter().zip(texts) {
                    combine(cx, plan.reductions[*r].op, &gathers(cut, *r), &text, &format!("i32({})", mine.column));
                }
                mine.close(cx);
            });
        }
        let (paired, alone): (Vec<usize>, Vec<usize>) = members.iter().partition(|r| pair_of(**r).is_some());
        let paired: Vec<Pair> = paired.into_iter().filter_map(pair_of).collect();
        if cut.cols == 4 {
            alone.iter().for_each(|r| join_columns(cx, plan, *r));
        }
        paired.iter().for_each(|pair| online::join_columns(cx, cut, *pair));
        let its: Vec<(usize, Reduce, DType)> =
            alone.iter().map(|r| (*r, plan.reductions[*r].op, plan.dtype(*r))).collect();
        let across = Lanes { rows, lanes, subgroups: cut.shape.subgroups, down: plan.down, wide: cut.rows == 4 };
        across_lanes(cx, &its, across);
        paired.iter().for_each(|pair| online::across(cx, cut, *pair, across));
        members.extend(paired.iter().map(|pair| pair.sum));
        if let Some(base) = partials {
            write_partials(cx, plan, cut, &members, base, guarded);
            cx.code.close();
            return Ok(());
        }
        for r in &members {
            let v = result(cx, plan, *r, cut.rows == 4);
            eval.accs[*r] = Some(v);
        }
    }
    let row_values: Vec<Value> = plan.row_stores.iter().map(|s| eval.value(cx, s.value)).collect();
    if !plan.element_stores.is_empty() {
        let roots: Vec<ScalarId> = plan.element_stores.iter().map(|s| s.value).collect();
        let stores: Vec<&Store> = plan.element_stores.iter().collect();
        hoist_row_level(cx, &mut eval, plan, &roots, &varies);
        if guarded {
            cx.code.open("if (own_row < ROWS)");
        }
        for mine in &kept {
            mine.clone().with(&mut eval, |eval| {
                mine.open(cx);
                eval.stores(cx, &stores);
                mine.close(cx);
            });
        }
        if kept.is_empty() {
            cx.code.open(format!("for (var c = {at_lane}; c < COLS; c += {}u)", lanes * cut.cols as u32));
            let mark = eval.mark();
            eval.point = col_point(cx, plan, &rows_at, "c", "");
            eval.stores(cx, &stores);
            eval.reset(mark);
            eval.point = [&rows_at[..], &zeros].concat();
            cx.code.close();
        }
        if guarded {
            cx.code.close();
        }
    }
    if !plan.row_stores.is_empty() {
        let conditions: Vec<&str> = [(guarded, "own_row < ROWS"), (lanes > 1, "lane == 0u")]
            .iter()
            .filter(|(c, _)| *c)
            .map(|(_, t)| *t)
            .collect();
        if !conditions.is_empty() {
            cx.code.open(format!("if ({})", conditions.join(" && ")));
        }
        for (s, v) in plan.row_stores.iter().zip(&row_values) {
            eval.store(cx, s, v);
        }
        if !conditions.is_empty() {
            cx.code.close();
        }
    }
    cx.code.close();
    Ok(())
}

/// What reduction `r` takes of the element at hand, in the type of its sum.
fn summand(cx: &mut Cx, eval: &mut Eval, plan: &Plan, cut: Cut, r: usize) -> String {
    let v = eval.value(cx, plan.reductions[r].value);
    let (sum, dtype) = (accumulator(plan.reductions[r].op, plan.dtype(r)).0, plan.dtype(r));
    let wide = cut.rows * cut.cols == 4;
    if sum == dtype && v.wide == wide { v.text } else { format!("{}({})", type_name(sum, wide), v.text) }
}

/// A loop over the columns `first .. end` of an invocation, `each` at most, several in its body where there are many.
fn every_column(
    cx: &mut Cx,
    eval: &mut Eval,
    cut: Cut,
    (first, end): (&str, &str),
    (each, sweep): (usize, usize),
    element: impl Fn(&mut Cx, &mut Eval, &str),
) {
    let step = cut.shape.lanes * cut.cols as u32;
    if each < 2 * TOGETHER {
        cx.code.open(format!("for (var c = {first}; c < {end}; c += {step}u)"));
        element(cx, eval, "c");
        cx.code.close();
        return;
    }
    let c = format!("c_{sweep}");
    cx.code.line(format!("var {c} = {first};"));
    let last = (TOGETHER as u32 - 1) * step;
    cx.code.open(format!("for (; {c} + {last}u < {end}; {c} += {}u)", TOGETHER as u32 * step));
    for u in 0..TOGETHER as u32 {
        cx.code.open("");
        cx.code.line(format!("let c = {c} + {}u;", u * step));
        element(cx, eval, "c");
        cx.code.close();
    }
    cx.code.close();
    cx.code.open(format!("for (; {c} < {end}; {c} += {step}u)"));
    element(cx, eval, &c);
    cx.code.close();
}

/// Computes what `roots` need once a row.
fn hoist_row_level(cx: &mut Cx, eval: &mut Eval, plan: &Plan, roots: &[ScalarId], varies: &[bool]) {
    let known: Vec<bool> = eval.accs.iter().map(Option::is_some).collect();
    let unknown = plan.body.depends(|op| matches!(op, ScalarOp::Acc(i) if !known[*i as usize]));
    eval.hoist(cx, roots, |id| !varies[id.index()] && !unknown[id.index()]);
}

/// The result of reduction `r` as the body sees it.
fn result(cx: &mut Cx, plan: &Plan, r: usize, wide: bool) -> Value {
    let name = format!("acc_{r}");
    let dtype = plan.dtype(r);
    let text = match plan.reductions[r].op {
        // Only a row of NaN has no largest element.
        Reduce::ArgMax => format!("select(sum_{r}_at, 0i, sum_{r}_at == {NOWHERE})"),
        _ if dtype == DType::F16 => format!("{}(sum_{r})", type_name(dtype, wide)),
        _ => format!("sum_{r}"),
    };
    cx.code.line(format!("let {name} = {text};"));
    if wide { Value::wide(name) } else { Value::scalar(name) }
}

/// First word of the partial results of reduction `r`: one a part and row.
fn slot(plan: &Plan, shape: Shape, base: usize, r: usize) -> usize {
    let before: usize = (0..r).map(|r| plan.words(r)).sum();
    base + before * shape.split as usize * plan.count_rows()
}

fn write_partials(cx: &mut Cx, plan: &Plan, cut: Cut, members: &[usize], base: usize, guarded: bool) {
    let shape = cut.shape;
    let lane = if shape.lanes > 1 { "lane == 0u" } else { "true" };
    cx.code.open(if guarded { format!("if ({lane} && own_row < ROWS)") } else { format!("if ({lane})") });
    for r in members {
        let (dtype, _) = accumulator(plan.reductions[*r].op, plan.dtype(*r));
        let at = slot(plan, shape, base, *r);
        if cut.rows == 4 {
            for (l, lane) in ["x", "y", "z", "w"].iter().enumerate() {
                cx.store_scratch(&format!("part * ROWS + row + {}u", at + l), dtype, &format!("sum_{r}.{lane}"));
            }
        } else {
            cx.store_scratch(&format!("part * ROWS + row + {at}u"), dtype, &format!("sum_{r}"));
        }
        if plan.words(*r) == 2 {
            let at = at + shape.split as usize * plan.count_rows();
            cx.store_scratch(&format!("part * ROWS + row + {at}u"), DType::I32, &format!("sum_{r}_at"));
        }
    }
    cx.code.close();
}

/// The second dispatch: one invocation a row combines the parts in order and stores.
fn finish_split(cx: &mut Cx, plan: &Plan, shape: Shape, base: usize) -> Result<(), Error> {
    const GROUP: u32 = 64;
    cx.entry("combine", plan.count_rows().div_ceil(GROUP as usize), GROUP)?;
    cx.code.line(format!("let row = group * {GROUP}u + local;"));
    if !plan.count_rows().is_multiple_of(GROUP as usize) {
        cx.code.line("if (row >= ROWS) { return; }");
    }
    for r in 0..plan.reductions.len() {
        declare(cx, plan, Cut { shape, rows: 1, cols: 1 }, r);
    }
    // Spelled out, so that all loads are under way together.
    for part in 0..shape.split as usize {
        for r in 0..plan.reductions.len() {
            let op = plan.reductions[r].op;
            let (dtype, _) = accumulator(op, plan.dtype(r));
            let at = slot(plan, shape, base, r) + part * plan.count_rows();
            let read = |ty: DType, at: usize| Cx::load_scratch(&format!("row + {at}u"), ty);
            let value = format!("part_{r}_{part}");
            cx.code.line(format!("let {value}: {} = {};", type_name(dtype, false), read(dtype, at)));
            let mut position = String::new();
            if plan.words(r) == 2 {
                position = format!("{value}_at");
                let at = at + shape.split as usize * plan.count_rows();
                cx.code.line(format!("let {position} = {};", read(DType::I32, at)));
            }
            combine(cx, op, &format!("sum_{r}"), &value, &position);
        }
    }
    let mut point = row_point(cx, plan);
    point.extend(vec!["0u".to_string(); plan.cols.len()]);
    let mut eval = Eval::new(&plan.body, point);
    for r in 0..plan.reductions.len() {
        let v = result(cx, plan, r, false);
        eval.accs.push(Some(v));
    }
    eval.stores(cx, &plan.row_stores.iter().collect::<Vec<_>>());
    cx.code.close();
    Ok(())
}
