//! Attention and its gradients on cooperative matrices, operands of all products rounded to f16: queries, keys, values, the result's gradient, and
//! the weights and slopes between (Dao et al. 2022).
//!
//! A workgroup keeps `rows` positions of one head, sixteen a subgroup, and walks over tiles of `cols` positions that it meets. A subgroup multiplies
//! its rows with those met; the scores go through workgroup memory, since which invocation holds which is the driver's secret, and come back as
//! weights in f16, which multiply what is met. Two invocations share a row of scores.
//!
//! | workgroups | keep | meet | leave |
//! |---|---|---|---|
//! | forward | q | k and v | out, log-sum-exp |
//! | of keys | k and v | q and dout | dk, dv |
//! | of queries | q and dout | k and v | dq |
//!
//! Exponentials of the forward pass are relative to the largest score of the row's first tile, and stay so until a score is [`MARGIN`] above it: sums of
//! matrices cannot be scaled row by row where they are, but must go through workgroup memory. Weights are then at most e^[`MARGIN`], well within f16, and
//! the largest of a row is no less than 1. Gradients are those of module `attention_grad`, whose first dispatch this one shares.
//!
//! Invariants
//! - Scores, exponentials and sums are f32; what multiplies is rounded once.
//! - Exponentials are WGSL's own, whose errors of 3 + 2|x| ulp are far below the rounding to f16 that follows. That of all other kernels spells a
//!   polynomial out for each element: with it the code takes 1.2 to 1.5 times as long, and some walks five times.
//! - Tiles that causality hides from a whole workgroup are not visited; bounds depend on the workgroup's number only.
//! - Rows and dimensions beyond the last read as zero. Keys beyond the last are masked; queries beyond it have weights and slopes 0.
//! - What [`cooperate`](crate::cooperate) says of subgroups and of the forms of code holds here too.

mod walker;

use crate::attention::{MASKED, aligned_store};
use crate::attention_grad::{deltas, flags};
use crate::attention_grid::{Head, Heads};
use crate::caps::Caps;
use crate::cooperate::{PAD, SIDE, declare, tile_elements};
use crate::cx::Cx;
use crate::error::{Error, refuse};
use crate::text::float;
use tinygpt_ir::program::{Access, Attention, AttentionGrad, AttentionShape};
use tinygpt_ir::types::DType;
use walker::Walker;

/// Invocations of a subgroup: two a row.
const SUBGROUP: u32 = 32;
/// f32 between the rows of scores, so that neighbouring rows begin in different banks of workgroup memory.
const SCORE_PAD: usize = 8;
/// By how much a score may exceed what exponentials are relative to.
const MARGIN: f32 = 8.0;
/// Largest head whose sums stay in registers.
const LARGEST_HEAD: usize = 128;

/// The numbers of a variant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Walk {
    pub rows: u32,
    pub cols: u32,
}

impl Walk {
    pub fn invocations(&self) -> u32 {
        self.rows / SIDE * SUBGROUP
    }

    /// Vectors of f16 between the starts of rows of weights.
    fn weight_stride(&self) -> usize {
        (self.cols as usize + PAD) / 4
    }

    /// Vectors of f32 between the starts of rows of scores.
    fn score_stride(&self) -> usize {
        (self.cols as usize + SCORE_PAD) / 4
    }

    /// Elements of a tile of f16 that is met, and of one that is kept.
    fn tiles(&self, shape: &AttentionShape) -> (usize, usize) {
        let depth = depth(shape);
        (tile_elements(self.cols as usize, depth), tile_elements(self.rows as usize, depth))
    }

    /// f16 of the array that holds the two tiles that are met and `weights` tiles of weights, or before them the tiles that are kept.
    fn halves(&self, shape: &AttentionShape, weights: usize) -> usize {
        let (met, kept) = self.tiles(shape);
        (2 * met + weights * 4 * self.rows as usize * self.weight_stride()).max(weights * kept)
    }

    /// Bytes of workgroup memory, of the gradients or of the forward pass.
    pub fn workgroup_bytes(&self, shape: &AttentionShape, grad: bool) -> u32 {
        let scores = if grad { 2 } else { 1 };
        let each = 16 * self.rows as usize * self.score_stride();
        (2 * self.halves(shape, scores) + scores * each + if grad { 8 * self.cols as usize } else { 4 }) as u32
    }

    /// Whether an adapter runs kernels of this shape so.
    pub fn allows(&self, shape: &AttentionShape, grad: bool, caps: &Caps) -> bool {
        let of = |n: u32| n > 0 && n.is_multiple_of(SIDE);
        of(self.rows)
            && of(self.cols)
            && caps.cooperative == Some(SUBGROUP)
            && caps.subgroups.is_some()
            && shape.head_dim <= LARGEST_HEAD
            && self.invocations() <= caps.flat_workgroup()
            && self.workgroup_bytes(shape, grad) <= caps.workgroup_bytes
    }
}

/// Dimensions of a head, up to whole matrices.
fn depth(shape: &AttentionShape) -> usize {
    shape.head_dim.next_multiple_of(SIDE as usize)
}

/// Declares workgroup memory.
fn memory(cx: &mut Cx, walk: Walk, shape: &AttentionShape, grad: bool) {
    let scores = if grad { 2 } else { 1 };
    declare(cx, "tiles", walk.halves(shape, scores).next_multiple_of(4));
    let vectors = scores * walk.rows as usize * walk.score_stride();
    cx.workgroup("sums", &format!("array<vec4<f32>, {vectors}>"), 16 * vectors as u32);
}

fn permitted(cx: &Cx) -> Result<(), Error> {
    if cx.f16_operands {
        return Ok(());
    }
    refuse(format!(
        "kernel {}: attention on cooperative matrices rounds to f16, and the program is for f32: choose another variant",
        cx.name
    ))
}

pub fn forward(cx: &mut Cx, k: &Attention, walk: Walk) -> Result<(), Error> {
    permitted(cx)?;
    let shape = k.shape;
    let of = Heads::new(cx, shape)?;
    let (q, keys) = (of.head(cx, &k.q, shape.q_len), of.head(cx, &k.k, shape.k_len));
    let values = k.v.as_ref().map(|v| of.head(cx, v, shape.k_len));
    let mut flagged = vec![(&k.q, q.positions.is_aligned()), (&k.k, keys.positions.is_aligned())];
    flagged.extend(k.v.iter().zip(&values).map(|(v, head)| (v, head.positions.is_aligned())));
    flagged.extend(k.out.iter().map(|out| (out, aligned_store(cx, out, shape.head_dim))));
    flagged.extend(k.lse.iter().map(|a| (a, false)));
    cx.vectorise(&flagged);
    let w = Walker::new(cx, walk, &of, false, shape.q_len, shape.k_len)?;
    let log = cx.helper("log", false);
    memory(cx, walk, &shape, false);

    // Whether some row's exponentials became relative to a larger score in this step of the walk.
    cx.workgroup("raised", "array<u32, 1>", 4);
    cx.use_subgroups();
    cx.entry("main", of.count() * w.kept_tiles(), walk.invocations())?;
    w.own(cx, "group", true);
    w.places(cx);
    w.keep(cx, ["query", "query"], &[(&q, shape.q_len)]);
    cx.code.line("// Of the invocation's row what exponentials are relative to; of its half of the row their sum.");
    cx.code.line(format!("var largest = {};", float(MASKED)));
    cx.code.line("var total = 0.0f;");
    if k.out.is_some() {
        w.declare_sums(cx, "out");
    }
    let sides: Vec<_> = [&keys].into_iter().chain(&values).map(|head| (head, shape.k_len)).collect();
    let met = w.met(cx, ["key", "value"], &sides);
    w.open(cx, true, &met, true);
    cx.code.line("if (local == 0u) { raised[0] = 0u; }");
    w.scores(cx, "query", &met[0], 0);
    cx.code.line("workgroupBarrier();");
    let count = walk.cols / 8;
    cx.code.line(format!("var top = vec4<f32>({});", float(MASKED)));
    for i in 0..count {
        cx.code.line(format!("var score_{i} = vec4<f32>();"));
        cx.code.open("");
        cx.code.line(format!("let vector = {}u + side;", 2 * i));
        cx.code.line(format!("let at = own_row * {}u + vector;", walk.score_stride()));
        w.masked(cx);
        cx.code.line(format!("score_{i} = score;"));
        cx.code.line("top = max(top, score);");
        cx.code.close();
    }
    cx.code.line("let own_top = max(max(top.x, top.y), max(top.z, top.w));");
    cx.code.line("let row_top = max(own_top, subgroupShuffleXor(own_top, 1u));");
    cx.code.line("let is_first = walk == walk_from;");
    cx.code.line(format!("let raises = is_first || row_top > largest + {};", float(MARGIN)));
    cx.code.line("let share = select(1.0f, exp(largest - row_top), raises);");
    cx.code.line("largest = select(largest, row_top, raises);");
    if k.out.is_some() {
        cx.code.line("if (raises && !is_first) { raised[0] = 1u; }");
    }
    cx.code.line("var more = vec4<f32>();");
    for i in 0..count {
        cx.code.open("");
        cx.code.line(format!("let vector = {}u + side;", 2 * i));
        cx.code.line(format!("let weight = exp(score_{i} - vec4<f32>(largest));"));
        cx.code.line("more += weight;");
        if k.out.is_some() {
            w.weigh(cx, 0, "weight");
        }
        cx.code.close();
    }
    cx.code.line("total = total * share + ((more.x + more.y) + (more.z + more.w));");
    if k.out.is_some() {
        cx.code.line("workgroupBarrier();");
        cx.code.line("// The same for all of the workgroup.");
        cx.code.open("if (raised[0] != 0u)");
        w.scale(cx, "out", "share");
        cx.code.close();
        w.weighted(cx, "out", 0, &met[1]);
    }
    cx.code.close();
    cx.code.line("let row_total = total + subgroupShuffleXor(total, 1u);");
    if let Some(access) = &k.lse {
        cx.code.open(format!("if (side == 0u && first_own + own_row < {}u)", shape.q_len));
        let at = of.row_address(cx, access, "first_own + own_row");
        cx.store(access.arg, &at, &format!("largest + {log}(row_total)"));
        cx.code.close();
    }
    if let Some(out) = &k.out {
        cx.code.line("let part = 1.0f / row_total;");
        w.leave(cx, "out", out, Some("part"));
    }
    cx.code.close();
    Ok(())
}

pub fn backward(cx: &mut Cx, k: &AttentionGrad, walk: Walk) -> Result<(), Error> {
    permitted(cx)?;
    let shape = k.shape;
    let of = Heads::new(cx, shape)?;
    let heads = [(&k.q, shape.q_len), (&k.k, shape.k_len), (&k.v, shape.k_len), (&k.dout, shape.q_len)];
    let [q, keys, values, dout] = heads.map(|(access, positions)| of.head(cx, access, positions));
    flags(cx, k, [&q, &keys, &values], &dout, |head| head.positions.is_aligned());
    let rows = of.count() * shape.q_len;
    let delta = cx.scratch(rows);
    deltas(cx, k, &of, rows, delta)?;

    let of_keys = Walker::new(cx, walk, &of, true, shape.k_len, shape.q_len)?;
    let of_queries = Walker::new(cx, walk, &of, true, shape.q_len, shape.k_len)?;
    memory(cx, walk, &shape, true);
    cx.workgroup("met_values", &format!("array<f32, {}>", 2 * walk.cols), 8 * walk.cols);
    let key_groups = if k.dk.is_some() || k.dv.is_some() { of.count() * of_keys.kept_tiles() } else { 0 };
    let query_groups = if k.dq.is_some() { of.count() * of_queries.kept_tiles() } else { 0 };
    cx.entry("main", key_groups + query_groups, walk.invocations())?;
    cx.code.open(format!("if (group < {key_groups}u)"));
    if key_groups > 0 {
        keys_walk(cx, k, &of_keys, [&q, &keys, &values, &dout], delta);
    }
    cx.code.otherwise(None);
    if let Some(dq) = &k.dq {
        queries_walk(cx, k, &of_queries, [&q, &keys, &values, &dout], delta, (key_groups, dq));
    }
    cx.code.close();
    cx.code.close();
    Ok(())
}

/// dk and dv of a workgroup's keys.
fn keys_walk(cx: &mut Cx, k: &AttentionGrad, w: &Walker, [q, keys, values, dout]: [&Head; 4], delta: usize) {
    let (shape, cols) = (k.shape, w.walk.cols);
    w.own(cx, "group", false);
    w.places(cx);
    w.keep(cx, ["key", "value"], &[(keys, shape.k_len), (values, shape.k_len)]);
    let results = [("dv", 0, 1, &k.dv), ("dk", 1, 0, &k.dk)];
    results.iter().filter(|r| r.3.is_some()).for_each(|(name, ..)| w.declare_sums(cx, name));
    let met = w.met(cx, ["query", "slope"], &[(q, shape.q_len), (dout, shape.q_len)]);
    w.open(cx, false, &met, false);
    cx.code.open(format!("for (var i = local; i < {cols}u; i += {}u)", w.walk.invocations()));
    cx.code.line("let query = first_met + i;");
    cx.code.line("// Beyond the last query, whose scores are 0, the weight is 0 too.");
    cx.code.line("var lse = 1e30f;");
    cx.code.line("var delta = 0.0f;");
    cx.code.open(format!("if (query < {}u)", shape.q_len));
    query_values(cx, k, w, "query", delta);
    cx.code.close();
    cx.code.line("met_values[i] = lse;");
    cx.code.line(format!("met_values[i + {cols}u] = delta;"));
    cx.code.close();
    w.scores(cx, "key", &met[0], 0);
    w.scores(cx, "value", &met[1], 1);
    cx.code.line("workgroupBarrier();");
    w.each(cx, &|cx| {
        let hidden = if shape.causal {
            cx.code.line("let queries = vec4<u32>(first_met + vector * 4u) + vec4<u32>(0u, 1u, 2u, 3u);");
            vec!["(queries < vec4<u32>(first_own + own_row))".to_string()]
        } else {
            Vec::new()
        };
        w.score(cx, &hidden);
        for (name, first) in [("lse", 0), ("delta", cols)] {
            let each: Vec<String> = (0..4).map(|l| format!("met_values[vector * 4u + {}u]", first + l)).collect();
            cx.code.line(format!("let {name} = vec4<f32>({});", each.join(", ")));
        }
        slopes(cx, w, ["lse", "delta"], true);
    });
    cx.code.line("workgroupBarrier();");
    for (name, weights, side, access) in results {
        if access.is_some() {
            w.weighted(cx, name, weights, &met[side]);
        }
    }
    cx.code.close();
    for (name, .., access) in results {
        if let Some(access) = access {
            w.leave(cx, name, access, None);
        }
    }
}

/// dq of a workgroup's queries.
fn queries_walk(
    cx: &mut Cx,
    k: &AttentionGrad,
    w: &Walker,
    [q, keys, values, dout]: [&Head; 4],
    delta: usize,
    (before, dq): (usize, &Access),
) {
    let shape = k.shape;
    w.own(cx, &format!("(group - {before}u)"), true);
    w.places(cx);
    w.keep(cx, ["query", "slope"], &[(q, shape.q_len), (dout, shape.q_len)]);
    cx.code.line("var lse = 0.0f;");
    cx.code.line("var delta = 0.0f;");
    cx.code.open(format!("if (first_own + own_row < {}u)", shape.q_len));
    query_values(cx, k, w, "first_own + own_row", delta);
    cx.code.close();
    w.declare_sums(cx, "dq");
    let met = w.met(cx, ["key", "value"], &[(keys, shape.k_len), (values, shape.k_len)]);
    w.open(cx, true, &met, false);
    w.scores(cx, "query", &met[0], 0);
    w.scores(cx, "slope", &met[1], 1);
    cx.code.line("workgroupBarrier();");
    w.each(cx, &|cx| {
        w.masked(cx);
        slopes(cx, w, ["vec4<f32>(lse)", "vec4<f32>(delta)"], false);
    });
    cx.code.line("workgroupBarrier();");
    w.weighted(cx, "dq", 1, &met[0]);
    cx.code.close();
    w.leave(cx, "dq", dq, None);
}

/// Assigns `lse` and `delta` of the query at a position.
fn query_values(cx: &mut Cx, k: &AttentionGrad, w: &Walker, position: &str, delta: usize) {
    let at = w.of.row_address(cx, &k.lse, position);
    let lse = cx.load(k.lse.arg, &at);
    cx.code.line(format!("lse = {lse};"));
    let value = Cx::load_scratch(&format!("head * {}u + {position} + {delta}u", k.shape.q_len), DType::F32);
    cx.code.line(format!("delta = {value};"));
}

/// Writes the weights of the vector at hand, if they are wanted, and the slopes.
fn slopes(cx: &mut Cx, w: &Walker, [lse, delta]: [&str; 2], weights: bool) {
    cx.code.line(format!("let weight = exp(score - {lse});"));
    let second = w.walk.rows as usize * w.walk.score_stride();
    let scale = float(w.shape.scale as f32);
    cx.code.line(format!("let slope = weight * (sums[at + {second}u] - {delta}) * {scale};"));
    if weights {
        w.weigh(cx, 0, "weight");
    }
    w.weigh(cx, 1, "slope");
}
