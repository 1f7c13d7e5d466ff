//! Gradients of attention, with the probabilities recomputed from the saved log-sum-exp (Dao et al. 2022), without atomics.
//!
//! With p = exp(scale q k - lse), delta = sum over dimensions of dout * out, and ds = scale p (dout v - delta):
//! dv = p^T dout, dk = ds^T q, dq = ds k.
//!
//! The first dispatch computes delta of every query into scratch. In the second, some workgroups take a tile of keys each and walk over
//! the tiles of queries (dk and dv), the others a tile of queries and walk over the tiles of keys (dq); each computes the scores it needs again. Or the
//! former keep ds in scratch, and the latter, in a third dispatch, read it there: five products instead of seven. Tiles
//! are as in module `attention_grid`, and scores in units of log 2 as in module `attention`.
//!
//! Invariants
//! - Tiles that causality hides are not visited; loop bounds depend on the workgroup's number only.
//! - Rows beyond the last query have p = 0 and ds = 0.

use crate::attention::{MASKED, aligned, aligned_store};
use crate::attention_grid::{Grid, Head, Heads, LANES, Side};
use crate::cx::Cx;
use crate::error::{Error, refuse};
use crate::text::float;
use crate::tile::Registers;
use crate::variant::AttentionTiling;
use std::f32::consts::LOG2_E;
use tinygpt_ir::program::{Access, AttentionGrad, AttentionShape};
use tinygpt_ir::types::DType;

struct Operands {
    q: Head,
    k: Head,
    v: Head,
    dout: Head,
}

pub fn emit(cx: &mut Cx, k: &AttentionGrad, tiling: AttentionTiling, slopes: bool) -> Result<(), Error> {
    let shape = k.shape;
    let g = Grid::new(cx, shape, tiling, true)?;
    let heads = Heads::new(cx, shape)?;
    let operands = Operands {
        q: heads.head(cx, &k.q, shape.q_len),
        k: heads.head(cx, &k.k, shape.k_len),
        v: heads.head(cx, &k.v, shape.k_len),
        dout: heads.head(cx, &k.dout, shape.q_len),
    };
    flags(cx, k, [&operands.q, &operands.k, &operands.v], &operands.dout, aligned);
    let rows = heads.count() * shape.q_len;
    let delta = cx.scratch(rows);
    deltas(cx, k, &heads, rows, delta)?;

    g.declare(cx);
    let key_groups = if k.dk.is_some() || k.dv.is_some() { heads.count() * g.key_tiles() } else { 0 };
    let query_groups = if k.dq.is_some() { heads.count() * g.query_tiles() } else { 0 };
    let slopes = match slopes {
        false => None,
        true if key_groups > 0 && query_groups > 0 => Some(cx.scratch(slope_words(&shape, tiling))),
        true => {
            return refuse(format!(
                "kernel {}: slopes are kept for the gradient of queries, and only one kind of gradients is wanted: choose slopes=0",
                cx.name
            ));
        }
    };
    let together = if slopes.is_some() { key_groups } else { key_groups + query_groups };
    cx.entry("main", together, g.invocations())?;
    g.place_invocations(cx);
    cx.code.line(format!("let head = group % {}u;", heads.count()));
    let at = |turn: &str| At { k, tiling, g: &g, heads: &heads, operands: &operands, delta, slopes, turn: turn.into() };
    cx.code.line(format!("let turn = group / {}u;", heads.count()));
    match (key_groups, query_groups) {
        _ if slopes.is_some() => {
            at("turn").of_keys(cx);
            cx.code.close();
            cx.entry("queries", query_groups, g.invocations())?;
            g.place_invocations(cx);
            cx.code.line(format!("let head = group % {}u;", heads.count()));
            cx.code.line(format!("let turn = group / {}u;", heads.count()));
            at("turn").of_queries(cx);
        }
        (0, _) => at("turn").of_queries(cx),
        (_, 0) => at("turn").of_keys(cx),
        // In turns, those with most to do first.
        (keys, queries) if keys == queries => {
            cx.code.open("if (turn % 2u == 0u)");
            at("turn / 2u").of_keys(cx);
            cx.code.otherwise(None);
            at("turn / 2u").of_queries(cx);
            cx.code.close();
        }
        _ => {
            cx.code.open(format!("if (turn < {}u)", g.key_tiles()));
            at("turn").of_keys(cx);
            cx.code.otherwise(None);
            at(&format!("(turn - {}u)", g.key_tiles())).of_queries(cx);
            cx.code.close();
        }
    }
    cx.code.close();
    Ok(())
}

/// Whether every tile of queries meets the tiles of keys up to its own number.
fn is_triangle(shape: &AttentionShape, tiling: AttentionTiling) -> bool {
    shape.causal && shape.q_len == shape.k_len && tiling.rows == tiling.cols
}

/// Words of scratch for the slopes of all pairs of tiles that are visited.
pub fn slope_words(shape: &AttentionShape, tiling: AttentionTiling) -> usize {
    let (queries, keys) = (shape.q_len.div_ceil(tiling.rows), shape.k_len.div_ceil(tiling.cols));
    let pairs = if is_triangle(shape, tiling) { queries * (queries + 1) / 2 } else { queries * keys };
    shape.batch * shape.heads * pairs * tiling.rows * tiling.cols
}

/// Declares what is bound as arrays of vectors. `aligned` says whether all loads of a head's tiles are of whole vectors.
pub fn flags(cx: &mut Cx, k: &AttentionGrad, heads: [&Head; 3], dout: &Head, aligned: fn(&Head) -> bool) {
    let mut flagged: Vec<(&Access, bool)> =
        [&k.q, &k.k, &k.v].into_iter().zip(heads).map(|(access, head)| (access, aligned(head))).collect();
    // The first dispatch reads rows of both, four elements at once or one by one.
    let rows = aligned(dout) && [&k.out, &k.dout].iter().all(|a| aligned_store(cx, a, k.shape.head_dim));
    flagged.extend([(&k.dout, rows), (&k.out, rows), (&k.lse, false)]);
    for a in [&k.dq, &k.dk, &k.dv].into_iter().flatten() {
        flagged.push((a, aligned_store(cx, a, k.shape.head_dim)));
    }
    cx.vectorise(&flagged);
}

/// The first dispatch: one invocation a query.
pub fn deltas(cx: &mut Cx, k: &AttentionGrad, heads: &Heads, rows: usize, delta: usize) -> Result<(), Error> {
    const GROUP: u32 = 64;
    let shape = k.shape;
    cx.entry("deltas", rows.div_ceil(GROUP as usize), GROUP)?;
    cx.code.line(format!("let row = group * {GROUP}u + local;"));
    cx.code.line(format!("if (row >= {rows}u) {{ return; }}"));
    cx.code.line(format!("let head = row / {}u;", shape.q_len));
    cx.code.line(format!("let query = row % {}u;", shape.q_len));
    for (name, a) in [("out", &k.out), ("dout", &k.dout)] {
        let at = heads.row_address(cx, a, "query");
        cx.code.line(format!("let {name}_at = {at};"));
    }
    cx.code.line("var delta = 0.0f;");
    let at = |name: &str, a: &Access| format!("{name}_at + d * {}u", a.at.coeffs[3]);
    if cx.is_vector(k.out.arg) && cx.is_vector(k.dout.arg) {
        // Spelled out, so that all loads are under way together.
        for d in (0..shape.head_dim).step_by(4) {
            let (out, dout) =
                (cx.load4(k.out.arg, &format!("out_at + {d}u")), cx.load4(k.dout.arg, &format!("dout_at + {d}u")));
            cx.code.line(format!("delta += dot({out}, {dout});"));
        }
    } else {
        cx.code.open(format!("for (var d = 0u; d < {}u; d++)", shape.head_dim));
        let element = |a: &Access, at: String| {
            let vector = |cx: &Cx| format!("{}[({at}) % 4u]", cx.load4(a.arg, &at));
            if cx.is_vector(a.arg) { vector(cx) } else { cx.load(a.arg, &at) }
        };
        let (out, dout) = (element(&k.out, at("out", &k.out)), element(&k.dout, at("dout", &k.dout)));
        cx.code.line(format!("delta = fma({out}, {dout}, delta);"));
        cx.code.close();
    }
    cx.store_scratch(&format!("row + {delta}u"), DType::F32, "delta");
    cx.code.close();
    Ok(())
}

/// What the code of a workgroup is made from.
struct At<'a> {
    k: &'a AttentionGrad,
    tiling: AttentionTiling,
    g: &'a Grid,
    heads: &'a Heads,
    operands: &'a Operands,
    /// First word of the deltas in scratch.
    delta: usize,
    /// First word of the slopes, where they are kept: the blocks of a pair of tiles, the first elements of all invocations side by side.
    slopes: Option<usize>,
    /// The number of the workgroup's tile among the head's, that with most to do first.
    turn: String,
}

impl At<'_> {
    /// A tile of queries, or of their gradient, in the array `name`.
    fn of_query<'a>(&'a self, name: &'a str, head: &'a Head) -> Side<'a> {
        Side { name, head, first: "first_query", count: self.k.shape.q_len, rows: self.tiling.rows }
    }
    /// A tile of keys or values.
    fn of_key<'a>(&'a self, name: &'a str, head: &'a Head) -> Side<'a> {
        Side { name, head, first: "first_key", count: self.k.shape.k_len, rows: self.tiling.cols }
    }

    /// Declares registers `p` and `ds` and gives them q k and dout v of the tile of queries at `first_query` and of keys at `first_key`. `kept`: whether
    /// queries, or keys, stay.
    fn products(&self, cx: &mut Cx, kept: [bool; 2]) -> (Registers, Registers) {
        let At { g, operands, .. } = self;
        let (p, ds) = (g.scores_block("p"), g.scores_block("ds"));
        let [left, left_2] = if kept[0] { ["kept", "kept_2"] } else { ["left", "left"] };
        let [right, right_2] = if kept[1] { ["kept", "kept_2"] } else { ["right", "right"] };
        p.declare(cx);
        g.scores(cx, &p, self.of_query(left, &operands.q), self.of_key(right, &operands.k));
        ds.declare(cx);
        g.scores(cx, &ds, self.of_query(left_2, &operands.dout), self.of_key(right_2, &operands.v));
        (p, ds)
    }

    /// Makes weights `p` and slopes `ds` of the products. `lse` and `delta` are vectors of four queries' values.
    fn probabilities(&self, cx: &mut Cx, p: &Registers, ds: &Registers) {
        let At { k, g, .. } = self;
        g.mask(cx, p);
        let (scale, unit) = (float(k.shape.scale as f32), float((k.shape.scale * f64::from(LOG2_E)) as f32));
        for i in 0..p.each_m {
            let (part, lane) = (i / 4, LANES[i % 4]);
            for j in 0..p.each_n / 4 {
                let (p, ds) = (p.at(i, j), ds.at(i, j));
                cx.code.line(format!("{p} = exp2(fma({p}, vec4<f32>({unit}), vec4<f32>(-lse_{part}.{lane})));"));
                cx.code.line(format!("{ds} = {p} * ({ds} - vec4<f32>(delta_{part}.{lane})) * {scale};"));
            }
        }
    }

    /// Binds `lse` and `delta` of an invocation's queries from `first_query` on; beyond the last an lse that makes weights zero.
    fn query_values(&self, cx: &mut Cx) {
        let At { k, tiling, heads, delta, .. } = self;
        let n = k.shape.q_len;
        for part in 0..tiling.each_m / 4 {
            cx.code.line(format!("var lse_{part} = vec4<f32>({});", float(-MASKED)));
            cx.code.line(format!("var delta_{part} = vec4<f32>();"));
        }
        for i in 0..tiling.each_m {
            let (part, lane) = (i / 4, LANES[i % 4]);
            let position = self.g.row("first_query", tiling.rows, tiling.each_m, i);
            let whole = n.is_multiple_of(tiling.rows);
            cx.code.open(if whole { String::new() } else { format!("if ({position} < {n}u)") });
            let at = heads.row_address(cx, &k.lse, &position);
            let value = cx.load(k.lse.arg, &at);
            cx.code.line(format!("lse_{part}.{lane} = {value} * {};", float(LOG2_E)));
            let value = Cx::load_scratch(&format!("head * {n}u + {position} + {delta}u"), DType::F32);
            cx.code.line(format!("delta_{part}.{lane} = {value};"));
            cx.code.close();
        }
    }

    /// Binds `slopes_at`, this invocation's first word of the slopes of the tiles `query_tile` and `key_tile`.
    fn slopes_at(&self, cx: &mut Cx, first: usize) {
        let At { k, g, tiling, .. } = self;
        let (queries, keys, own) = (g.query_tiles(), g.key_tiles(), tiling.rows * tiling.cols);
        let (pair, pairs) = match is_triangle(&k.shape, *tiling) {
            true => ("query_tile * (query_tile + 1u) / 2u + key_tile".to_string(), queries * (queries + 1) / 2),
            false => (format!("query_tile * {keys}u + key_tile"), queries * keys),
        };
        cx.code.line(format!("let slopes_at = (head * {pairs}u + {pair}) * {own}u + local + {first}u;"));
    }

    /// The word of slope (i, 4 j + l) of an invocation's block.
    fn slope(&self, i: usize, j: usize, l: usize) -> String {
        let AttentionTiling { each_n, .. } = self.tiling;
        format!("slopes_at + {}u", (i * each_n + 4 * j + l) * self.tiling.invocations())
    }

    /// dk and dv of a tile of keys.
    fn of_keys(&self, cx: &mut Cx) {
        let At { k, g, tiling, heads, operands, turn, .. } = self;
        let shape = k.shape;
        let results = |wanted: bool, name: &str| if wanted { g.results(name, tiling.cols) } else { Vec::new() };
        let (dk, dv) = (results(k.dk.is_some(), "dk"), results(k.dv.is_some(), "dv"));
        cx.code.line(format!("let key_tile = {turn};"));
        cx.code.line(format!("let first_key = key_tile * {}u;", tiling.cols));
        dk.iter().chain(&dv).for_each(|r| r.declare(cx));
        if tiling.stay {
            g.keep(cx, &[self.of_key("kept", &operands.k), self.of_key("kept_2", &operands.v)]);
        }
        let first = g.first_query_tile("first_key");
        cx.code.open(format!("for (var query_tile = {first}; query_tile < {}u; query_tile++)", g.query_tiles()));
        cx.code.line(format!("let first_query = query_tile * {}u;", tiling.rows));
        self.query_values(cx);
        let (p, ds) = self.products(cx, [false, tiling.stay]);
        let mut begun = false;
        for (sums, block, x) in [(&dv, &p, &operands.dout), (&dk, &ds, &operands.q)] {
            if !sums.is_empty() {
                g.weighted(cx, sums, &g.weights_of_keys(), self.of_query("right", x), &mut |cx| {
                    if begun {
                        // Nobody reads the weights of before any more.
                        cx.code.line("workgroupBarrier();");
                    } else {
                        self.probabilities(cx, &p, &ds);
                        self.keep_slopes(cx, &ds);
                    }
                    g.write_straight(cx, block);
                });
                begun = true;
            }
        }
        cx.code.close();
        for (sums, access) in [(&dk, &k.dk), (&dv, &k.dv)] {
            if let Some(access) = access {
                g.store_rows(cx, heads, sums, access, shape.k_len, "first_key", tiling.cols, &|_| None);
            }
        }
    }

    fn keep_slopes(&self, cx: &mut Cx, ds: &Registers) {
        let Some(first) = self.slopes else { return };
        self.slopes_at(cx, first);
        for i in 0..ds.each_m {
            for j in 0..ds.each_n / 4 {
                for (l, lane) in LANES.iter().enumerate() {
                    cx.store_scratch(&self.slope(i, j, l), DType::F32, &format!("{}.{lane}", ds.at(i, j)));
                }
            }
        }
    }

    /// dq of a tile of queries.
    fn of_queries(&self, cx: &mut Cx) {
        let At { k, g, tiling, heads, operands, turn, .. } = self;
        let shape = k.shape;
        let Some(access) = &k.dq else { return };
        let dq = g.results("dq", tiling.rows);
        cx.code.line(format!("let query_tile = {}u - {turn};", g.query_tiles() - 1));
        cx.code.line(format!("let first_query = query_tile * {}u;", tiling.rows));
        dq.iter().for_each(|r| r.declare(cx));
        if self.slopes.is_none() {
            self.query_values(cx);
            if tiling.stay {
                g.keep(cx, &[self.of_query("kept", &operands.q), self.of_query("kept_2", &operands.dout)]);
            }
        }
        cx.code.line(format!("let key_tiles = {};", g.key_tiles_of("first_query")));
        cx.code.open("for (var key_tile = 0u; key_tile < key_tiles; key_tile++)");
        cx.code.line(format!("let first_key = key_tile * {}u;", tiling.cols));
        let (p, ds) = match self.slopes {
            Some(first) => {
                let ds = g.scores_block("ds");
                self.slopes_at(cx, first);
                for i in 0..ds.each_m {
                    for j in 0..ds.each_n / 4 {
                        let lanes = [0, 1, 2, 3].map(|l| Cx::load_scratch(&self.slope(i, j, l), DType::F32));
                        cx.code.line(format!("let {} = vec4<f32>({});", ds.at(i, j), lanes.join(", ")));
                    }
                }
                (None, ds)
            }
            None => {
                let (p, ds) = self.products(cx, [tiling.stay, false]);
                (Some(p), ds)
            }
        };
        g.weighted(cx, &dq, &g.weights_of_queries(), self.of_key("right", &operands.k), &mut |cx| {
            if let Some(p) = &p {
                self.probabilities(cx, p, &ds);
            } else {
                // Nobody reads the weights of before any more.
                cx.code.line("workgroupBarrier();");
            }
            g.write_transposed(cx, &ds);
        });
        cx.code.close();
        g.store_rows(cx, heads, &dq, access, shape.q_len, "first_query", tiling.rows, &|_| None);
    }
}
