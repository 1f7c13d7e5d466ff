//! Gradients of attention, with the probabilities recomputed from the saved log-sum-exp (Dao et al. 2022), without atomics.
//!
//! With p = exp(scale q k - lse), delta = sum over dimensions of dout * out, and ds = scale p (dout v - delta):
//! dv = p^T dout, dk = ds^T q, dq = ds k.
//!
//! Two dispatches. The first computes delta of every query into scratch. In the second, some workgroups take a tile of keys each and walk over
//! the tiles of queries (dk and dv), the others a tile of queries and walk over the tiles of keys (dq); each computes the scores it needs again. Tiles
//! are as in module `attention`. Where they fit, the tile that a workgroup keeps stays in workgroup memory, and the two that it meets in a step are
//! loaded at once, each once for both of its products.
//!
//! Invariants
//! - Tiles that causality hides are not visited; loop bounds depend on the workgroup's number only.
//! - Rows beyond the last query have p = 0 and ds = 0.

use crate::attention::{Head, Square, Staged, aligned_store};
use crate::cx::Cx;
use crate::error::{Error, refuse};
use crate::text::float;
use crate::tile::Registers;
use tinygpt_ir::program::{Access, AttentionGrad};
use tinygpt_ir::types::DType;

struct Heads {
    q: Head,
    k: Head,
    v: Head,
    dout: Head,
}

pub fn emit(cx: &mut Cx, k: &AttentionGrad, tile: u32, stay: bool) -> Result<(), Error> {
    let shape = k.shape;
    let s = Square::new(cx, shape, tile)?;
    if stay && !Square::may_stay(&shape, tile, cx.caps.workgroup_bytes) {
        return refuse(format!(
            "kernel {}: tiles of {tile} by heads of {} dimensions cannot stay in {} bytes of workgroup memory: choose stay=0",
            cx.name, shape.head_dim, cx.caps.workgroup_bytes
        ));
    }
    let heads = Heads {
        q: s.head(cx, &k.q, shape.q_len),
        k: s.head(cx, &k.k, shape.k_len),
        v: s.head(cx, &k.v, shape.k_len),
        dout: s.head(cx, &k.dout, shape.q_len),
    };
    flags(cx, k, [&heads.q, &heads.k, &heads.v], &heads.dout, Square::aligned);
    let rows = s.heads() * shape.q_len;
    let delta = cx.scratch(rows);
    deltas(cx, k, &s, rows, delta)?;

    if stay {
        s.tile("weights", 0).declare(cx);
        s.tile("slopes", 0).declare(cx);
    } else {
        s.declare(cx);
    }
    let key_groups = if k.dk.is_some() || k.dv.is_some() { s.heads() * s.key_tiles() } else { 0 };
    let query_groups = if k.dq.is_some() { s.heads() * s.query_tiles() } else { 0 };
    cx.entry("main", key_groups + query_groups, s.invocations())?;
    cx.code.line(format!("let x = local % {}u;", tile / 4));
    cx.code.line(format!("let y = local / {}u;", tile / 4));
    cx.code.line(format!("let head = group % {}u;", s.heads()));
    let at = |turn: &str| At { k, s: &s, heads: &heads, delta, stay, turn: turn.into() };
    cx.code.line(format!("let turn = group / {}u;", s.heads()));
    match (key_groups, query_groups) {
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
            cx.code.open(format!("if (turn < {}u)", s.key_tiles()));
            at("turn").of_keys(cx);
            cx.code.otherwise(None);
            at(&format!("(turn - {}u)", s.key_tiles())).of_queries(cx);
            cx.code.close();
        }
    }
    cx.code.close();
    Ok(())
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
pub fn deltas(cx: &mut Cx, k: &AttentionGrad, s: &Square, rows: usize, delta: usize) -> Result<(), Error> {
    const GROUP: u32 = 64;
    let shape = k.shape;
    cx.entry("deltas", rows.div_ceil(GROUP as usize), GROUP)?;
    cx.code.line(format!("let row = group * {GROUP}u + local;"));
    cx.code.line(format!("if (row >= {rows}u) {{ return; }}"));
    cx.code.line(format!("let head = row / {}u;", shape.q_len));
    cx.code.line(format!("let query = row % {}u;", shape.q_len));
    for (name, a) in [("out", &k.out), ("dout", &k.dout)] {
        let at = s.row_address(cx, a, "query");
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
    s: &'a Square,
    heads: &'a Heads,
    /// First word of the deltas in scratch.
    delta: usize,
    stay: bool,
    /// The number of the workgroup's tile among the head's, that with most to do first.
    turn: String,
}

impl At<'_> {
    /// Registers `p` and `ds` of the tile of queries at `first_query` and of keys at `first_key`. `lse` and `delta` are vectors of the
    /// four queries' values.
    fn probabilities(&self, cx: &mut Cx) -> (Registers, Registers) {
        let At { k, s, heads, .. } = self;
        let shape = k.shape;
        let (p, ds) = (s.registers("p"), s.registers("ds"));
        p.declare(cx);
        ds.declare(cx);
        if self.stay {
            s.scores_of_staged(cx, &p, "queries", "keys");
            s.scores_of_staged(cx, &ds, "douts", "values");
        } else {
            s.scores(cx, &p, (&heads.q, "first_query", shape.q_len), (&heads.k, "first_key", shape.k_len));
            s.scores(cx, &ds, (&heads.dout, "first_query", shape.q_len), (&heads.v, "first_key", shape.k_len));
        }
        s.mask(cx, &p, "first_query", "first_key", shape.scale);
        let exp = cx.helper("exp", true);
        for (i, lane) in ["x", "y", "z", "w"].iter().enumerate() {
            let (p, ds) = (p.at(i, 0), ds.at(i, 0));
            cx.code.line(format!("{p} = {exp}({p} - vec4<f32>(lse.{lane})) * present.{lane};"));
            cx.code.line(format!("{ds} = {p} * ({ds} - vec4<f32>(delta.{lane})) * {};", float(shape.scale as f32)));
        }
        (p, ds)
    }

    /// Binds `lse`, `delta` and `present` (1, or 0 beyond the last) of the four queries from `first_query + 4 y` on.
    fn query_values(&self, cx: &mut Cx) {
        let At { k, s, delta, .. } = self;
        let n = k.shape.q_len;
        cx.code.line("var lse = vec4<f32>();");
        cx.code.line("var delta = vec4<f32>();");
        cx.code.line("var present = vec4<f32>();");
        for (i, lane) in ["x", "y", "z", "w"].iter().enumerate() {
            let position = format!("first_query + y * 4u + {i}u");
            cx.code.open(format!("if ({position} < {n}u)"));
            let at = s.row_address(cx, &k.lse, &position);
            let value = cx.load(k.lse.arg, &at);
            cx.code.line(format!("lse.{lane} = {value};"));
            let value = Cx::load_scratch(&format!("head * {n}u + {position} + {delta}u"), DType::F32);
            cx.code.line(format!("delta.{lane} = {value};"));
            cx.code.line(format!("present.{lane} = 1.0f;"));
            cx.code.close();
        }
    }

    /// Fills the tiles `queries` and `douts` from `first_query` on.
    fn stage_queries(&self, cx: &mut Cx, transposed: [Option<&str>; 2]) {
        let (heads, rows) = (self.heads, self.k.shape.q_len);
        let staged = |name, head, transposed| Staged { name, head, first: "first_query", rows, transposed };
        self.s.stage(cx, &[staged("queries", &heads.q, transposed[0]), staged("douts", &heads.dout, transposed[1])]);
    }

    /// Fills the tiles `keys` and `values` from `first_key` on.
    fn stage_keys(&self, cx: &mut Cx, transposed: Option<&str>) {
        let (heads, rows) = (self.heads, self.k.shape.k_len);
        let staged = |name, head, transposed| Staged { name, head, first: "first_key", rows, transposed };
        self.s.stage(cx, &[staged("keys", &heads.k, transposed), staged("values", &heads.v, None)]);
    }

    /// dk and dv of a tile of keys.
    fn of_keys(&self, cx: &mut Cx) {
        let At { k, s, heads, turn, .. } = self;
        let (shape, tile) = (k.shape, s.tile);
        let registers = |wanted: bool, name: &str| -> Vec<Registers> {
            (0..if wanted { s.chunks() } else { 0 }).map(|c| s.registers(&format!("{name}_{c}"))).collect()
        };
        let (dk, dv) = (registers(k.dk.is_some(), "dk"), registers(k.dv.is_some(), "dv"));
        cx.code.line(format!("let key_tile = {turn};"));
        cx.code.line(format!("let first_key = key_tile * {tile}u;"));
        dk.iter().chain(&dv).for_each(|r| r.declare(cx));
        if self.stay {
            self.stage_keys(cx, None);
        }
        let first = if shape.causal { "key_tile" } else { "0u" };
        cx.code.open(format!("for (var query_tile = {first}; query_tile < {}u; query_tile++)", s.query_tiles()));
        cx.code.line(format!("let first_query = query_tile * {tile}u;"));
        self.query_values(cx);
        if self.stay {
            let wanted = |sums: &[Registers], name| if sums.is_empty() { None } else { Some(name) };
            self.stage_queries(cx, [wanted(&dk, "across"), wanted(&dv, "douts_across")]);
        }
        let (p, ds) = self.probabilities(cx);
        let both = [(&dv, &p, &heads.dout), (&dk, &ds, &heads.q)];
        if self.stay {
            s.write_straight(cx, "weights", &p);
            s.write_straight(cx, "slopes", &ds);
            cx.code.line("workgroupBarrier();");
            dv.iter().for_each(|sums| s.weighted_staged(cx, sums, "weights", "douts_across"));
            dk.iter().for_each(|sums| s.weighted_staged(cx, sums, "slopes", "across"));
        }
        for (sums, block, x) in both.into_iter().filter(|(sums, ..)| !self.stay && !sums.is_empty()) {
            // Nobody reads the weights of before any more.
            cx.code.line("workgroupBarrier();");
            s.write_straight(cx, "weights", block);
            s.weighted(cx, sums, (x, "first_query", shape.q_len));
        }
        cx.code.close();
        for (sums, access) in [(&dk, &k.dk), (&dv, &k.dv)] {
            if let Some(access) = access {
                s.store_rows(cx, sums, access, shape.k_len, "first_key", &|_| None);
            }
        }
    }

    /// dq of a tile of queries.
    fn of_queries(&self, cx: &mut Cx) {
        let At { k, s, heads, turn, .. } = self;
        let (shape, tile) = (k.shape, s.tile);
        let Some(access) = &k.dq else { return };
        let dq: Vec<Registers> = (0..s.chunks()).map(|c| s.registers(&format!("dq_{c}"))).collect();
        cx.code.line(format!("let query_tile = {}u - {turn};", s.query_tiles() - 1));
        cx.code.line(format!("let first_query = query_tile * {tile}u;"));
        dq.iter().for_each(|r| r.declare(cx));
        self.query_values(cx);
        if self.stay {
            self.stage_queries(cx, [None, None]);
        }
        let tiles = s.key_tiles();
        let bound = if shape.causal { format!("min(query_tile + 1u, {tiles}u)") } else { format!("{tiles}u") };
        cx.code.line(format!("let key_tiles = {bound};"));
        cx.code.open("for (var key_tile = 0u; key_tile < key_tiles; key_tile++)");
        cx.code.line(format!("let first_key = key_tile * {tile}u;"));
        if self.stay {
            self.stage_keys(cx, Some("across"));
        }
        let (_, ds) = self.probabilities(cx);
        if !self.stay {
            cx.code.line("workgroupBarrier();");
        }
        s.write_transposed(cx, &ds);
        if self.stay {
            cx.code.line("workgroupBarrier();");
            dq.iter().for_each(|sums| s.weighted_staged(cx, sums, "weights", "across"));
        } else {
            s.weighted(cx, &dq, (&heads.k, "first_key", shape.k_len));
        }
        cx.code.close();
        s.store_rows(cx, &dq, access, shape.q_len, "first_query", &|_| None);
    }
}
