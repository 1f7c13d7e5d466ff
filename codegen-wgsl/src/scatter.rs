//! Scatters: rows added to a table at computed rows, in index order, without float atomics.
//!
//! A workgroup takes up to 64 elements of one row of the table, or of a run of rows ([`bins`]). With one row it looks through the ids, four an invocation at a time, and marks those that
//! name its row in a bit mask (integer atomics: the order does not matter). Its invocations are teams of one an element; each team adds the marked rows
//! of its words of the mask in index order, four loads under way together, and the teams' sums are added in order. Which row is the workgroup's own
//! depends on the order of the variant:
//! - `Rows`: one workgroup a row of the table, or a run. The cost is table x ids comparisons, or that by the rows of a run.
//! - `Positions`: one a position of the id list; the first position that names a row works, the others find an earlier one and are
//!   done. Rows that nobody names are written by a dispatch before, which copies the base. The cost is ids x ids comparisons.

mod bins;

use crate::caps::Caps;
use crate::cx::Cx;
use crate::error::{Error, refuse};
use crate::eval::Eval;
use crate::space::{Merged, address, merge, merge_body, split};
use crate::text::{affine, literal};
use crate::variant::{ScatterOrder, Variant};
use tinygpt_ir::program::{Access, Scatter, ScatterBase};
use tinygpt_ir::types::{DType, numel};

/// Most elements of a row of the table that a workgroup computes.
const ACROSS: u32 = 64;
/// Ids that an invocation looks at, and rows that it loads, together.
const EACH: u32 = 4;

/// Rows of a run worth trying: more mean fewer comparisons, and fewer workgroups.
const RUNS: [u32; 3] = [128, 64, 32];

/// What an estimate is made of: comparisons and bytes a second, and seconds of a load that others wait for. A large GPU's.
const COMPARISONS: f64 = 1e12;
const BYTES: f64 = 2.5e12;
const WAIT: f64 = 0.7e-6;

/// The variants of `k` in workgroups of at most `most` invocations, the best by the model first.
pub fn variants(k: &Scatter, caps: &Caps, most: u32) -> Vec<Variant> {
    let group = [256, 64].into_iter().find(|group| *group <= most).unwrap_or(32);
    let fits = |rows: &u32| *rows as usize <= k.table && bins::workgroup_bytes(*rows, group) <= caps.workgroup_bytes;
    let runs = RUNS.into_iter().filter(fits).take(1);
    let orders = [ScatterOrder::Rows(1), ScatterOrder::Positions].into_iter().chain(runs.map(ScatterOrder::Rows));
    let mut list: Vec<(f64, ScatterOrder)> = orders.map(|order| (seconds(k, order, group), order)).collect();
    list.sort_by(|a, b| a.0.total_cmp(&b.0));
    list.into_iter().map(|(_, order)| Variant::Scatter { order, group }).collect()
}

/// How long `k` takes by a rough model, where ids name all rows equally often.
fn seconds(k: &Scatter, order: ScatterOrder, group: u32) -> f64 {
    let (table, ids, inner) = (k.table as f64, numel(&k.ids) as f64, numel(&k.inner) as f64);
    let across = across(group);
    let (chunks, teams) = ((inner / f64::from(across)).ceil(), f64::from(group / across));
    let all = 8.0 * table * inner / BYTES;
    let in_place = matches!(&k.base, ScatterBase::Load(a) if a == &k.out);
    // The comparisons, the table's memory, and how many ids name a workgroup's row or run, by how many of them are under way together.
    let (comparisons, memory, one_by_one) = match order {
        ScatterOrder::Rows(1) => (table * ids, all, ids / table / (teams * f64::from(EACH))),
        ScatterOrder::Rows(rows) => {
            let rows = f64::from(rows);
            ((table / rows).ceil() * ids, all, ids * rows.min(table) / table / f64::from(bins::UNDER_WAY))
        }
        ScatterOrder::Positions => {
            (ids * ids, if in_place { 0.0 } else { all }, ids / table / (teams * f64::from(EACH)))
        }
    };
    comparisons * chunks / COMPARISONS + memory + one_by_one.ceil() * WAIT
}

/// Elements of a row that a workgroup computes.
fn across(group: u32) -> u32 {
    group.min(ACROSS)
}

pub fn emit(cx: &mut Cx, k: &Scatter, order: ScatterOrder, group: u32) -> Result<(), Error> {
    if !group.is_power_of_two() || group < 32 {
        return refuse(format!(
            "kernel {}: found {group} invocations a workgroup, expected a power of two from 32 on",
            cx.name
        ));
    }
    let Merged { groups, body, .. } = merge_body(&[&k.ids, &k.inner], &k.body, &[]);
    let (ids, inner) = (numel(&k.ids), numel(&k.inner));
    let dtype = body.scalars[k.value].dtype;
    let sum_dtype = if dtype == DType::F16 { DType::F32 } else { dtype };
    cx.constant("TABLE", k.table);
    cx.constant("IDS", ids);
    cx.constant("INNER", inner);
    for (name, value) in [("row_of", k.index), ("value_at", k.value)] {
        let index = name == "row_of";
        cx.code.blank();
        let (arguments, result) = if index { ("p: u32", "u32") } else { ("p: u32, e: u32", sum_dtype.name()) };
        cx.code.open(format!("fn {name}({arguments}) -> {result}"));
        let mut point = split("p", &groups[0]);
        point.extend(if index { vec!["0u".to_string(); groups[1].len()] } else { split("e", &groups[1]) });
        let mut eval = Eval::new(&body, point);
        let v = eval.value(cx, value);
        cx.code.line(match index {
            true => format!("return u32(clamp({}, 0i, {}i));", v.text, k.table - 1),
            false if sum_dtype != dtype => format!("return {sum_dtype}({});", v.text),
            false => format!("return {};", v.text),
        });
        cx.code.close();
    }
    if let ScatterOrder::Rows(rows) = order
        && rows != 1
    {
        if rows == 0 {
            return refuse(format!("kernel {}: found runs of 0 rows, expected 1 or more", cx.name));
        }
        return bins::emit(cx, k, rows, group, sum_dtype);
    }
    let in_place = matches!(&k.base, ScatterBase::Load(a) if a == &k.out);
    if order == ScatterOrder::Positions && !in_place {
        copy_base(cx, k)?;
    }
    let across = across(group);
    let (teams, span) = (group / across, group * EACH);
    let words = span / 32;
    cx.workgroup("matches", &format!("array<atomic<u32>, {words}>"), 4 * words);
    let chunks = inner.div_ceil(across as usize);
    let owners = if order != ScatterOrder::Positions { k.table } else { ids };
    cx.entry("main", owners * chunks, group)?;
    let owner = if chunks == 1 { "group".to_string() } else { format!("group / {chunks}u") };
    let lane = if teams == 1 { "local".to_string() } else { format!("local % {across}u") };
    let begin = if chunks == 1 { String::new() } else { format!("group % {chunks}u * {across}u + ") };
    cx.code.line(format!("let e = {begin}{lane};"));
    if teams > 1 {
        cx.code.line(format!("let team = local / {across}u;"));
    }
    match order {
        ScatterOrder::Rows(_) => cx.code.line(format!("let row = {owner};")),
        ScatterOrder::Positions => {
            cx.workgroup("earlier", "atomic<u32>", 4);
            cx.workgroup("is_later", "u32", 4);
            cx.code.line(format!("let position = {owner};"));
            cx.code.line("let row = row_of(position);");
            cx.code.line("if (local == 0u) { atomicStore(&earlier, 0u); }");
            cx.code.line("workgroupBarrier();");
            cx.code.open(format!("for (var p = local; p < position; p += {group}u)"));
            cx.code.line("if (row_of(p) == row) { atomicOr(&earlier, 1u); break; }");
            cx.code.close();
            cx.code.line("workgroupBarrier();");
            cx.code.line("if (local == 0u) { is_later = atomicLoad(&earlier); }");
            cx.code.line("if (workgroupUniformLoad(&is_later) != 0u) { return; }");
        }
    }
    cx.code.line(format!("var sum = {sum_dtype}();"));
    cx.code.open(if teams > 1 { "if (e < INNER && team == 0u)" } else { "if (e < INNER)" });
    let base = base(cx, k);
    cx.code.line(format!("sum = {};", if sum_dtype == dtype { base } else { format!("{sum_dtype}({base})") }));
    cx.code.close();
    let first = if order != ScatterOrder::Positions { "0u".into() } else { format!("position / {span}u * {span}u") };
    cx.code.open(format!("for (var first = {first}; first < IDS; first += {span}u)"));
    cx.code.line(format!("if (local < {words}u) {{ atomicStore(&matches[local], 0u); }}"));
    cx.code.line("workgroupBarrier();");
    for j in 0..EACH {
        cx.code.open("");
        cx.code.line(format!("let at = local + {}u;", j * group));
        cx.code.line("let own = row_of(min(first + at, IDS - 1u)) == row;");
        cx.code.line("if (own && first + at < IDS) { atomicOr(&matches[at / 32u], 1u << (at % 32u)); }");
        cx.code.close();
    }
    cx.code.line("workgroupBarrier();");
    cx.code.open("if (e < INNER)");
    let its = if teams > 1 { "team" } else { "0u" };
    cx.code.open(format!("for (var word = {its}; word < {words}u; word += {teams}u)"));
    cx.code.line("var bits = atomicLoad(&matches[word]);");
    cx.code.line("let begin = first + word * 32u;");
    cx.code.open("while (bits != 0u)");
    cx.code.line("let p_0 = begin + firstTrailingBit(bits);");
    for j in 1..EACH {
        cx.code.line("bits &= bits - 1u;");
        cx.code.line(format!("let more_{j} = bits != 0u;"));
        cx.code.line(format!("let p_{j} = select(p_0, begin + firstTrailingBit(bits), more_{j});"));
    }
    cx.code.line("bits &= bits - 1u;");
    for j in 0..EACH {
        cx.code.line(format!("let value_{j} = value_at(p_{j}, e);"));
    }
    cx.code.line("sum += value_0;");
    for j in 1..EACH {
        cx.code.line(format!("sum = select(sum, sum + value_{j}, more_{j});"));
    }
    cx.code.close();
    cx.code.close();
    cx.code.close();
    cx.code.line("workgroupBarrier();");
    cx.code.close();
    if teams > 1 {
        cx.workgroup("sums", &format!("array<{sum_dtype}, {group}>"), 4 * group);
        cx.code.line("sums[local] = sum;");
        cx.code.line("workgroupBarrier();");
        cx.code.open("if (team == 0u && e < INNER)");
        for team in 1..teams {
            cx.code.line(format!("sum += sums[local + {}u];", team * across));
        }
    } else {
        cx.code.open("if (e < INNER)");
    }
    let at = element(cx, k, &k.out);
    cx.store(k.out.arg, &at, &if sum_dtype == dtype { "sum".to_string() } else { format!("{dtype}(sum)") });
    cx.code.close();
    cx.code.close();
    Ok(())
}

/// Element of an access over [table] ++ inner at (`row`, `e`).
fn element(cx: &Cx, k: &Scatter, a: &Access) -> String {
    let m = merge(&k.inner, 1, &[&a.at.coeffs]);
    let inner = address(0, "e", &m.extents, &m.coefficients(&a.at.coeffs, 1));
    affine(a.at.offset + cx.offset(a.arg), &[(a.at.coeffs[0], "row".into()), (1, inner)])
}

fn base(cx: &Cx, k: &Scatter) -> String {
    match &k.base {
        ScatterBase::Const(c) => literal(*c),
        ScatterBase::Load(a) => cx.load(a.arg, &element(cx, k, a)),
    }
}

/// out = base, one invocation an element.
fn copy_base(cx: &mut Cx, k: &Scatter) -> Result<(), Error> {
    const GROUP: u32 = 64;
    let count = k.table * numel(&k.inner);
    cx.entry("copy_base", count.div_ceil(GROUP as usize), GROUP)?;
    cx.code.line(format!("let i = group * {GROUP}u + local;"));
    cx.code.line(format!("if (i >= {count}u) {{ return; }}"));
    cx.code.line("let row = i / INNER;");
    cx.code.line("let e = i % INNER;");
    let value = base(cx, k);
    let at = element(cx, k, &k.out);
    cx.store(k.out.arg, &at, &value);
    cx.code.close();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tinygpt_ir::program::{ArgId, Body, ScalarOp};
    use tinygpt_ir::types::Literal;

    fn first(table: usize, ids: usize, inner: usize, in_place: bool) -> ScatterOrder {
        let mut body = Body::default();
        let index = body.push(ScalarOp::Const(Literal::new(DType::I32, 0.0)), DType::I32);
        let value = body.push(ScalarOp::Const(Literal::f32(0.0)), DType::F32);
        let access = |arg| Access::direct(ArgId(arg), 0, vec![inner as i64, 1]);
        let base = ScatterBase::Load(access(u32::from(!in_place)));
        let (ids, inner) = (vec![ids], vec![inner]);
        let k = Scatter { table, ids, inner, body, index, value, base, out: access(0) };
        let caps = Caps { workgroup_bytes: 48 << 10, ..Caps::webgpu() };
        match variants(&k, &caps, 256)[0] {
            Variant::Scatter { order, .. } => order,
            other => panic!("{other}"),
        }
    }

    /// Small tables a row a workgroup, large ones in runs, and in place few ids by their first positions.
    #[test]
    fn the_default_grows_with_neither_product() {
        assert_eq!(first(256, 2048, 256, false), ScatterOrder::Rows(1));
        assert_eq!(first(50257, 8192, 768, false), ScatterOrder::Rows(128));
        assert_eq!(first(50257, 64, 768, true), ScatterOrder::Positions);
    }
}
