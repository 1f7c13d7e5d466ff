//! Reductions: a workgroup takes `rows` rows, `lanes` invocations each.
//!
//! Each invocation of a row accumulates every `lanes`-th column; the partial results meet in a fixed tree in workgroup memory, or in
//! subgroups. Reductions that need the results of others come in a later sweep. Invocations lie along the axis that is contiguous in
//! memory: columns of a row side by side, or rows side by side where memory runs down the rows (column sums).
//!
//! With `split` > 1 the columns are cut into parts for different workgroups: a first dispatch leaves partial results in scratch,
//! a second combines them, one invocation a row. That needs all reductions in one sweep and only row stores.
//!
//! Invariants
//! - Rows beyond the last are computed as the last and not stored, so that barriers stay uniform.
//! - Row-level values that need no reduction are computed before the first sweep: no load of a row's values follows a store of the row by another
//!   invocation.

use crate::cx::Cx;
use crate::error::{Error, refuse};
use crate::eval::{Eval, Value};
use crate::space::{Merged, merge_body, split};
use crate::text::{float, type_name};
use tinygpt_ir::op::Reduce;
use tinygpt_ir::program::{Access, Body, ReduceKernel, Reduction, ScalarId, ScalarOp, Store};
use tinygpt_ir::types::{DType, numel};

/// The numbers of a variant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    pub rows: u32,
    pub lanes: u32,
    pub split: u32,
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

    fn runs_down(&self) -> bool {
        let (nr, nc) = (self.rows.len(), self.cols.len());
        let along = |a: &&Access, axis: usize| a.at.coeffs[axis].abs() == 1;
        // Only what varies along cols is loaded often enough to matter.
        let often: Vec<&Access> = self
            .body
            .loads()
            .chain(self.element_stores.iter().map(|s| &s.access))
            .filter(|a| a.at.coeffs[nr..].iter().any(|c| *c != 0))
            .collect();
        let across = nc > 0 && often.iter().any(|a| along(a, nr + nc - 1));
        nr > 0 && !across && often.iter().any(|a| along(a, nr - 1))
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

/// Elements of a row that an invocation has in the body of its loop, so that their loads are under way together: drivers need not unroll loops.
const TOGETHER: usize = 8;

const NOWHERE: &str = "0x7fffffffi";

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

fn declare(cx: &mut Cx, plan: &Plan, r: usize) {
    let op = plan.reductions[r].op;
    let (dtype, start) = accumulator(op, plan.dtype(r));
    cx.code.line(format!("var sum_{r}: {dtype} = {start};"));
    if op == Reduce::ArgMax {
        cx.code.line(format!("var sum_{r}_at = {NOWHERE};"));
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
    if shape.subgroups && (shape.rows != 1 || cx.caps.subgroups.is_none_or(|(_, most)| shape.lanes < most)) {
        return refuse(format!(
            "kernel {}: subgroups need an adapter that has them, and one row of at least the largest subgroup a workgroup: choose subgroups=0",
            cx.name
        ));
    }
    cx.constant("ROWS", plan.count_rows());
    cx.constant("COLS", plan.count_cols());
    if shape.subgroups {
        cx.use_subgroups();
    }
    if shape.split == 1 {
        return sweeps(cx, &plan, shape, None);
    }
    let words: usize = (0..plan.reductions.len()).map(|r| plan.words(r)).sum();
    let base = cx.scratch(words * shape.split as usize * plan.count_rows());
    sweeps(cx, &plan, shape, Some(base))?;
    finish_split(cx, &plan, shape, base)
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

/// The point (row, column `c`): lets for the columns' indices.
fn col_point(cx: &mut Cx, plan: &Plan, rows: &[String], c: &str) -> Vec<String> {
    let mut point = rows.to_vec();
    for (d, index) in split(c, &plan.cols).into_iter().enumerate() {
        cx.code.line(format!("let c{d} = {index};"));
        point.push(format!("c{d}"));
    }
    point
}

/// The main dispatch: all of it, or with `partials` only the partial results into scratch from there on.
fn sweeps(cx: &mut Cx, plan: &Plan, shape: Shape, partials: Option<usize>) -> Result<(), Error> {
    let Shape { rows, lanes, split: parts, .. } = shape;
    let (row_groups, group) = (plan.count_rows().div_ceil(rows as usize), rows * lanes);
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
    cx.code.line(format!("let own_row = {row_group} * {rows}u + row_in_group;"));
    let guarded = !plan.count_rows().is_multiple_of(rows as usize);
    let row = if guarded { "min(own_row, ROWS - 1u)" } else { "own_row" };
    cx.code.line(format!("let row = {row};"));
    let (mut first, mut end) = ("lane".to_string(), "COLS".to_string());
    if parts > 1 {
        let len = plan.count_cols().div_ceil(parts as usize);
        cx.code.line(format!("let part = group / {row_groups}u;"));
        cx.code.line(format!("let part_end = min((part + 1u) * {len}u, COLS);"));
        (first, end) = (format!("part * {len}u + lane"), "part_end".to_string());
    }
    let rows_at = row_point(cx, plan);
    let zeros = vec!["0u".to_string(); plan.cols.len()];
    let mut eval = Eval::new(&plan.body, [&rows_at[..], &zeros].concat());
    eval.accs = vec![None; plan.reductions.len()];
    let varies = Eval::varies(&plan.body, plan.rows.len());
    let uses_acc = plan.body.depends(|op| matches!(op, ScalarOp::Acc(_)));
    eval.hoist(cx, &plan.all_roots(), |id| !varies[id.index()] && !uses_acc[id.index()]);

    for sweep in 0..plan.sweeps() {
        let members = plan.of_sweep(sweep);
        let roots: Vec<ScalarId> = members.iter().map(|r| plan.reductions[*r].value).collect();
        hoist_row_level(cx, &mut eval, plan, &roots, &varies);
        for r in &members {
            declare(cx, plan, *r);
        }
        let element = |cx: &mut Cx, eval: &mut Eval, c: &str| {
            let mark = eval.mark();
            eval.point = col_point(cx, plan, &rows_at, c);
            for r in &members {
                let Reduction { op, value } = plan.reductions[*r];
                let v = eval.value(cx, value);
                let (wide, _) = accumulator(op, plan.dtype(*r));
                let text = if wide == plan.dtype(*r) { v.text } else { format!("{wide}({})", v.text) };
                combine(cx, op, &format!("sum_{r}"), &text, &format!("i32({c})"));
            }
            eval.reset(mark);
            eval.point = [&rows_at[..], &zeros].concat();
        };
        // So many elements every lane has.
        let whole = plan.count_cols() / lanes as usize;
        let each = plan.count_cols().div_ceil((parts * lanes) as usize);
        if parts == 1 && whole <= TOGETHER {
            for u in 0..whole {
                cx.code.open("");
                cx.code.line(format!("let c = lane + {}u;", u * lanes as usize));
                element(cx, &mut eval, "c");
                cx.code.close();
            }
            if !plan.count_cols().is_multiple_of(lanes as usize) {
                cx.code.open(format!("if (lane + {}u < COLS)", whole * lanes as usize));
                cx.code.line(format!("let c = lane + {}u;", whole * lanes as usize));
                element(cx, &mut eval, "c");
                cx.code.close();
            }
        } else if each < 2 * TOGETHER {
            cx.code.open(format!("for (var c = {first}; c < {end}; c += {lanes}u)"));
            element(cx, &mut eval, "c");
            cx.code.close();
        } else {
            let c = format!("c_{sweep}");
            cx.code.line(format!("var {c} = {first};"));
            let last = (TOGETHER as u32 - 1) * lanes;
            cx.code.open(format!("for (; {c} + {last}u < {end}; {c} += {}u)", TOGETHER as u32 * lanes));
            for u in 0..TOGETHER as u32 {
                cx.code.open("");
                cx.code.line(format!("let c = {c} + {}u;", u * lanes));
                element(cx, &mut eval, "c");
                cx.code.close();
            }
            cx.code.close();
            cx.code.open(format!("for (; {c} < {end}; {c} += {lanes}u)"));
            element(cx, &mut eval, &c);
            cx.code.close();
        }
        for r in &members {
            let across = Lanes { rows, lanes, subgroups: shape.subgroups, down: plan.down };
            across_lanes(cx, plan.reductions[*r].op, plan.dtype(*r), across, *r);
        }
        if let Some(base) = partials {
            write_partials(cx, plan, shape, &members, base, guarded);
            cx.code.close();
            return Ok(());
        }
        for r in &members {
            let v = result(cx, plan, *r);
            eval.accs[*r] = Some(v);
        }
    }
    let row_values: Vec<Value> = plan.row_stores.iter().map(|s| eval.value(cx, s.value)).collect();
    if !plan.element_stores.is_empty() {
        let roots: Vec<ScalarId> = plan.element_stores.iter().map(|s| s.value).collect();
        hoist_row_level(cx, &mut eval, plan, &roots, &varies);
        if guarded {
            cx.code.open("if (own_row < ROWS)");
        }
        cx.code.open(format!("for (var c = lane; c < COLS; c += {lanes}u)"));
        let mark = eval.mark();
        eval.point = col_point(cx, plan, &rows_at, "c");
        eval.stores(cx, &plan.element_stores.iter().collect::<Vec<_>>());
        eval.reset(mark);
        eval.point = [&rows_at[..], &zeros].concat();
        cx.code.close();
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

/// Computes what `roots` need once a row.
fn hoist_row_level(cx: &mut Cx, eval: &mut Eval, plan: &Plan, roots: &[ScalarId], varies: &[bool]) {
    let known: Vec<bool> = eval.accs.iter().map(Option::is_some).collect();
    let unknown = plan.body.depends(|op| matches!(op, ScalarOp::Acc(i) if !known[*i as usize]));
    eval.hoist(cx, roots, |id| !varies[id.index()] && !unknown[id.index()]);
}

/// The invocations of a workgroup: so many rows of so many lanes.
#[derive(Clone, Copy)]
pub struct Lanes {
    pub rows: u32,
    pub lanes: u32,
    pub subgroups: bool,
    /// Whether neighbouring invocations are rows.
    pub down: bool,
}

/// Combines `sum_r`, of values of `dtype`, over the lanes of each row; every lane has the result after. An invocation's place is
/// `row_in_group` (where there are several rows) and `lane`.
pub fn across_lanes(cx: &mut Cx, op: Reduce, dtype: DType, across: Lanes, r: usize) {
    let Lanes { rows, lanes, subgroups, down } = across;
    let (dtype, start) = accumulator(op, dtype);
    if lanes == 1 {
        return;
    }
    let group = rows * lanes;
    let array = format!("shared_{r}");
    cx.workgroup(&array, &format!("array<{dtype}, {group}>"), 4 * group);
    if subgroups && op != Reduce::ArgMax {
        let f = if op == Reduce::Sum { "subgroupAdd" } else { "subgroupMax" };
        cx.code.line(format!("sum_{r} = {f}(sum_{r});"));
        cx.code.open("if (subgroup_lane == 0u)");
        cx.code.line(format!("{array}[local / subgroup_size] = sum_{r};"));
        cx.code.close();
        cx.code.line("workgroupBarrier();");
        cx.code.line(format!("sum_{r} = {start};"));
        cx.code.open(format!("for (var s = 0u; s < {lanes}u / subgroup_size; s++)"));
        combine(cx, op, &format!("sum_{r}"), &format!("{array}[s]"), "");
        cx.code.close();
        return;
    }
    let at = format!("shared_{r}_at");
    if op == Reduce::ArgMax {
        cx.workgroup(&at, &format!("array<i32, {group}>"), 4 * group);
    }
    // Neighbouring lanes of a row are this far apart.
    let step = if down { rows } else { 1 };
    let write = |cx: &mut Cx| {
        cx.code.line(format!("{array}[local] = sum_{r};"));
        if op == Reduce::ArgMax {
            cx.code.line(format!("{at}[local] = sum_{r}_at;"));
        }
    };
    write(cx);
    let mut half = lanes / 2;
    while half > 0 {
        cx.code.line("workgroupBarrier();");
        cx.code.open(format!("if (lane < {half}u)"));
        let other = format!("local + {}u", half * step);
        combine(cx, op, &format!("sum_{r}"), &format!("{array}[{other}]"), &format!("{at}[{other}]"));
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
    cx.code.line(format!("sum_{r} = {array}[{first}];"));
    if op == Reduce::ArgMax {
        cx.code.line(format!("sum_{r}_at = {at}[{first}];"));
    }
}

/// The result of reduction `r` as the body sees it.
fn result(cx: &mut Cx, plan: &Plan, r: usize) -> Value {
    let name = format!("acc_{r}");
    let dtype = plan.dtype(r);
    let text = match plan.reductions[r].op {
        // Only a row of NaN has no largest element.
        Reduce::ArgMax => format!("select(sum_{r}_at, 0i, sum_{r}_at == {NOWHERE})"),
        _ if dtype == DType::F16 => format!("f16(sum_{r})"),
        _ => format!("sum_{r}"),
    };
    cx.code.line(format!("let {name} = {text};"));
    Value::scalar(name)
}

/// First word of the partial results of reduction `r`: one a part and row.
fn slot(plan: &Plan, shape: Shape, base: usize, r: usize) -> usize {
    let before: usize = (0..r).map(|r| plan.words(r)).sum();
    base + before * shape.split as usize * plan.count_rows()
}

fn write_partials(cx: &mut Cx, plan: &Plan, shape: Shape, members: &[usize], base: usize, guarded: bool) {
    let lane = if shape.lanes > 1 { "lane == 0u" } else { "true" };
    cx.code.open(if guarded { format!("if ({lane} && own_row < ROWS)") } else { format!("if ({lane})") });
    for r in members {
        let (dtype, _) = accumulator(plan.reductions[*r].op, plan.dtype(*r));
        let at = slot(plan, shape, base, *r);
        cx.store_scratch(&format!("part * ROWS + row + {at}u"), dtype, &format!("sum_{r}"));
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
        declare(cx, plan, r);
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
        let v = result(cx, plan, r);
        eval.accs.push(Some(v));
    }
    eval.stores(cx, &plan.row_stores.iter().collect::<Vec<_>>());
    cx.code.close();
    Ok(())
}
