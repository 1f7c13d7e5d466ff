//! Scatters to a run of consecutive rows of the table: its sums are in workgroup memory, which a workgroup fills from the base and writes back.
//!
//! It looks through the ids once and marks those that fall in its run in a bit mask (integer atomics: the order does not matter). Each of its teams then
//! walks the marked ids in order, and adds those of its own rows, every so manyth of the run: so no two invocations add to one sum, and each sum has the
//! order of the ids. The cost is table / rows x ids comparisons, and the table read and written once.

use super::{EACH, across, base, element};
use crate::cx::Cx;
use crate::error::Error;
use tinygpt_ir::program::Scatter;
use tinygpt_ir::types::{DType, numel};

/// Rows that a team has under way together.
pub const UNDER_WAY: u32 = 8;

/// Bytes of workgroup memory.
pub fn workgroup_bytes(rows: u32, group: u32) -> u32 {
    4 * rows * across(group) + mask_bytes(group)
}

fn mask_bytes(group: u32) -> u32 {
    4 * group * EACH / 32
}

/// The entry point, where `row_of` and `value_at` are defined.
pub fn emit(cx: &mut Cx, k: &Scatter, rows: u32, group: u32, sum_dtype: DType) -> Result<(), Error> {
    let dtype = k.body.scalars[k.value].dtype;
    let (inner, across) = (numel(&k.inner), across(group));
    let (teams, span) = (group / across, group * EACH);
    let (words, cells) = (span / 32, rows * across);
    cx.workgroup("matches", &format!("array<atomic<u32>, {words}>"), mask_bytes(group));
    cx.workgroup("sums", &format!("array<{sum_dtype}, {cells}>"), 4 * cells);
    let chunks = inner.div_ceil(across as usize);
    cx.entry("main", k.table.div_ceil(rows as usize) * chunks, group)?;
    let (run, e) = match chunks {
        1 => ("group".to_string(), "lane".to_string()),
        _ => (format!("group / {chunks}u"), format!("group % {chunks}u * {across}u + lane")),
    };
    cx.code.line(format!("let first_row = {run} * {rows}u;"));
    cx.code.line(format!("let lane = local % {across}u;"));
    cx.code.line(format!("let team = local / {across}u;"));
    cx.code.line(format!("let e = {e};"));
    // A team's own rows of the run, and of the table.
    let own_rows = format!("for (var own = team; own < {rows}u; own += {teams}u)");
    let row = "let row = first_row + own;";
    cx.code.open(own_rows.clone());
    cx.code.line(row);
    cx.code.open("if (row < TABLE && e < INNER)");
    let base = base(cx, k);
    let of_sum = |value: &str| if sum_dtype == dtype { value.to_string() } else { format!("{sum_dtype}({value})") };
    cx.code.line(format!("sums[own * {across}u + lane] = {};", of_sum(&base)));
    cx.code.close();
    cx.code.close();
    cx.code.open(format!("for (var first = 0u; first < IDS; first += {span}u)"));
    cx.code.line(format!("if (local < {words}u) {{ atomicStore(&matches[local], 0u); }}"));
    cx.code.line("workgroupBarrier();");
    for j in 0..EACH {
        cx.code.open("");
        cx.code.line(format!("let at = local + {}u;", j * group));
        cx.code.line("let own = row_of(min(first + at, IDS - 1u)) - first_row;");
        cx.code.line(format!(
            "if (own < {rows}u && first + at < IDS) {{ atomicOr(&matches[at / 32u], 1u << (at % 32u)); }}"
        ));
        cx.code.close();
    }
    cx.code.line("workgroupBarrier();");
    cx.code.open("if (e < INNER)");
    cx.code.open(format!("for (var word = 0u; word < {words}u; word++)"));
    cx.code.line("var bits = atomicLoad(&matches[word]);");
    cx.code.line("let begin = first + word * 32u;");
    cx.code.open("while (bits != 0u)");
    for j in 0..UNDER_WAY {
        if j == 0 {
            cx.code.line("let p_0 = begin + firstTrailingBit(bits);");
        } else {
            cx.code.line(format!("let more_{j} = bits != 0u;"));
            cx.code.line(format!("let p_{j} = select(p_0, begin + firstTrailingBit(bits), more_{j});"));
        }
        cx.code.line("bits &= bits - 1u;");
    }
    for j in 0..UNDER_WAY {
        cx.code.line(format!("let own_{j} = row_of(p_{j}) - first_row;"));
    }
    for j in 0..UNDER_WAY {
        cx.code.line(format!("let value_{j} = value_at(p_{j}, e);"));
    }
    for j in 0..UNDER_WAY {
        let more = if j == 0 { String::new() } else { format!("more_{j} && ") };
        let its = if teams == 1 { "true".to_string() } else { format!("own_{j} % {teams}u == team") };
        cx.code.line(format!("if ({more}{its}) {{ sums[own_{j} * {across}u + lane] += value_{j}; }}"));
    }
    cx.code.close();
    cx.code.close();
    cx.code.close();
    cx.code.line("workgroupBarrier();");
    cx.code.close();
    cx.code.open(own_rows);
    cx.code.line(row);
    cx.code.open("if (row < TABLE && e < INNER)");
    let at = element(cx, k, &k.out);
    let sum = format!("sums[own * {across}u + lane]");
    cx.store(k.out.arg, &at, &if sum_dtype == dtype { sum } else { format!("{dtype}({sum})") });
    cx.code.close();
    cx.code.close();
    cx.code.close();
    Ok(())
}
