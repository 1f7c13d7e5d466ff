//! Attention, forward (Dao et al. 2022): one workgroup a tile of queries of one head, walking over tiles of keys with a running
//! maximum and sum.
//!
//! Invariants
//! - Key tiles that causality hides from all queries of the workgroup are not visited; the bound depends on the workgroup's number only. Workgroups
//!   with most to do come first, so that processors that take them in turn have about the same to do.
//! - Masked scores are a large negative number, not an infinity: no difference of infinities arises. Every query sees key 0.
//! - Scores are in units of log 2, and weights the adapter's own `exp2`. It may be wrong by 2 |x| units in the last place, at a weight of 2^x, so
//!   by no more than one unit of the largest weight, which is 1.

use crate::attention_grid::{Grid, Head, Heads, LANES, Side};
use crate::cx::Cx;
use crate::error::Error;
use crate::text::float;
use crate::tile::Registers;
use crate::variant::AttentionTiling;
use std::f32::consts::{LN_2, LOG2_E};
use tinygpt_ir::program::{Access, Attention};
use tinygpt_ir::types::DType;

/// What masked scores are.
pub const MASKED: f32 = -1e30;

pub fn emit(cx: &mut Cx, k: &Attention, tiling: AttentionTiling) -> Result<(), Error> {
    let shape = k.shape;
    let g = Grid::new(cx, shape, tiling, false)?;
    let heads = Heads::new(cx, shape)?;
    let (q, keys) = (heads.head(cx, &k.q, shape.q_len), heads.head(cx, &k.k, shape.k_len));
    let values = k.v.as_ref().map(|v| heads.head(cx, v, shape.k_len));
    let mut flagged = vec![(&k.q, q.positions.is_aligned()), (&k.k, keys.positions.is_aligned())];
    if let (Some(v), Some(h)) = (&k.v, &values) {
        flagged.push((v, h.dimensions.is_aligned()));
    }
    if let Some(out) = &k.out {
        flagged.push((out, aligned_store(cx, out, shape.head_dim)));
    }
    flagged.extend(k.lse.iter().map(|a| (a, false)));
    cx.vectorise(&flagged);

    g.declare(cx);
    g.declare_exchange(cx);
    cx.entry("main", heads.count() * g.query_tiles(), g.invocations())?;
    let count = heads.count();
    cx.code
        .line(format!("let head = group % {count}u; // of {} heads in each of {} sequences", shape.heads, shape.batch));
    cx.code.line(format!("let query_tile = {}u - group / {count}u;", g.query_tiles() - 1));
    cx.code.line(format!("let first_query = query_tile * {}u;", tiling.rows));
    g.place_invocations(cx);
    cx.code
        .line("// Of four queries: the largest score so far, and this invocation's share of the sum of exponentials.");
    for part in 0..g.row_parts() {
        cx.code.line(format!("var largest_{part} = vec4<f32>({});", float(MASKED)));
        cx.code.line(format!("var total_{part} = vec4<f32>();"));
    }
    let out = if values.is_some() { g.results("out", tiling.rows) } else { Vec::new() };
    out.iter().for_each(|r| r.declare(cx));
    let queries = Side { name: "left", head: &q, first: "first_query", count: shape.q_len, rows: tiling.rows };
    if tiling.stay {
        g.keep(cx, &[Side { name: "kept", ..queries }]);
    }
    cx.code.line(format!("let key_tiles = {};", g.key_tiles_of("first_query")));
    cx.code.open("for (var key_tile = 0u; key_tile < key_tiles; key_tile++)");
    cx.code.line(format!("let first_key = key_tile * {}u;", tiling.cols));
    let scores = g.scores_block("score");
    scores.declare(cx);
    let met = Side { name: "right", head: &keys, first: "first_key", count: shape.k_len, rows: tiling.cols };
    let left = if tiling.stay { Side { name: "kept", ..queries } } else { queries };
    g.scores(cx, &scores, left, met);
    let softmax = &mut |cx: &mut Cx| {
        for i in 0..scores.each_m {
            for j in 0..scores.each_n / 4 {
                cx.code.line(format!("{} *= {};", scores.at(i, j), float((shape.scale * f64::from(LOG2_E)) as f32)));
            }
        }
        g.mask(cx, &scores);
        weigh(cx, &g, &scores);
        if !out.is_empty() {
            g.write_transposed(cx, &scores);
            for r in &out {
                for i in 0..r.each_m {
                    for j in 0..r.each_n / 4 {
                        cx.code.line(format!("{} *= fade_{}.{};", r.at(i, j), i / 4, LANES[i % 4]));
                    }
                }
            }
        }
    };
    match &values {
        Some(values) => {
            let values =
                Side { name: "right", head: values, first: "first_key", count: shape.k_len, rows: tiling.cols };
            g.weighted(cx, &out, &g.weights_of_queries(), values, softmax);
        }
        None => softmax(cx),
    }
    cx.code.close();
    let names = |name: &str| (0..g.row_parts()).map(|part| format!("{name}_{part}")).collect::<Vec<_>>();
    cx.code.line("workgroupBarrier();");
    g.across(cx, &names("total"), "+");
    if let Some(access) = &k.out {
        for part in 0..g.row_parts() {
            cx.code.line(format!("let share_{part} = vec4<f32>(1.0f) / total_{part};"));
        }
        g.store_rows(cx, &heads, &out, access, shape.q_len, "first_query", tiling.rows, &|i| {
            Some(format!("share_{}.{}", i / 4, LANES[i % 4]))
        });
    }
    if let Some(access) = &k.lse {
        let log = cx.helper("log", true);
        for part in 0..g.row_parts() {
            cx.code.line(format!("let lse_{part} = largest_{part} * {} + {log}(total_{part});", float(LN_2)));
        }
        cx.code.open("if (x == 0u)");
        for i in 0..scores.each_m {
            let position = g.row("first_query", tiling.rows, scores.each_m, i);
            cx.code.open(format!("if ({position} < {}u)", shape.q_len));
            let at = heads.row_address(cx, access, &position);
            cx.store(access.arg, &at, &format!("lse_{}.{}", i / 4, LANES[i % 4]));
            cx.code.close();
        }
        cx.code.close();
    }
    cx.code.close();
    Ok(())
}

/// Makes weights of scores: `largest` and `total` take them in, and `fade` is what weights of earlier tiles are to be multiplied by.
fn weigh(cx: &mut Cx, g: &Grid, scores: &Registers) {
    let vectors = scores.each_n / 4;
    // Pairs in a tree.
    let fold = |lanes: Vec<String>, pair: &dyn Fn(&str, &str) -> String| {
        let mut lanes = lanes;
        while lanes.len() > 1 {
            lanes = lanes.chunks(2).map(|c| if c.len() == 2 { pair(&c[0], &c[1]) } else { c[0].clone() }).collect();
        }
        lanes.remove(0)
    };
    let rows = |part: usize, pair: &dyn Fn(&str, &str) -> String| {
        let row = |i: usize| fold((0..vectors).map(|j| scores.at(4 * part + i, j)).collect(), pair);
        (0..4).map(row).collect::<Vec<_>>()
    };
    let max = |a: &str, b: &str| format!("max({a}, {b})");
    let add = |a: &str, b: &str| format!("({a} + {b})");
    let names: Vec<String> = (0..g.row_parts()).map(|part| format!("top_{part}")).collect();
    for (part, top) in names.iter().enumerate() {
        for (i, row) in rows(part, &max).iter().enumerate() {
            cx.code.line(format!("let {top}_{i} = {row};"));
        }
        let lanes = (0..4).map(|i| fold(LANES.map(|lane| format!("{top}_{i}.{lane}")).to_vec(), &max));
        cx.code.line(format!("var {top} = vec4<f32>({});", lanes.collect::<Vec<_>>().join(", ")));
    }
    g.across(cx, &names, "max");
    for (part, top) in names.iter().enumerate() {
        cx.code.line(format!("let new_largest_{part} = max(largest_{part}, {top});"));
        cx.code.line(format!("let fade_{part} = exp2(largest_{part} - new_largest_{part});"));
        cx.code.line(format!("largest_{part} = new_largest_{part};"));
    }
    for i in 0..scores.each_m {
        for j in 0..vectors {
            let v = scores.at(i, j);
            cx.code.line(format!("{v} = exp2({v} - vec4<f32>(largest_{}.{}));", i / 4, LANES[i % 4]));
        }
    }
    for part in 0..g.row_parts() {
        for (i, row) in rows(part, &add).iter().enumerate() {
            cx.code.line(format!("let sum_{part}_{i} = {row};"));
        }
        let lanes = (0..4).map(|i| fold(LANES.map(|lane| format!("sum_{part}_{i}.{lane}")).to_vec(), &add));
        let sums = lanes.collect::<Vec<_>>().join(", ");
        cx.code.line(format!("total_{part} = total_{part} * fade_{part} + vec4<f32>({sums});"));
    }
}

/// Whether the loads of a head are all whole vectors, both ways round.
pub fn aligned(head: &Head) -> bool {
    head.positions.is_aligned() && head.dimensions.is_aligned()
}

/// Whether rows of dimensions are stored as whole vectors.
pub fn aligned_store(cx: &Cx, access: &Access, head_dim: usize) -> bool {
    head_dim.is_multiple_of(4) && cx.dtype(access.arg) == DType::F32 && crate::eval::is_aligned(cx, access, 3)
}
