//! Attention, forward (Dao et al. 2022): one workgroup a tile of queries of one head, walking over tiles of keys with a running
//! maximum and sum.
//!
//! All tiles are `tile` x `tile`; the workgroup has (tile / 4)^2 invocations in a square, each with 4 x 4 scores (queries by keys) and, for every
//! `tile` dimensions of the head, 4 x 4 sums of the result (queries by dimensions). Dimensions beyond `tile` are walked in chunks, so that
//! workgroup memory holds three tiles whatever the head's size.
//!
//! Invariants
//! - Key tiles that causality hides from all queries of the workgroup are not visited; the bound depends on the workgroup's number only. Workgroups
//!   with most to do come first, so that processors that take them in turn have about the same to do.
//! - Masked scores are a large negative number, not an infinity: no difference of infinities arises. Every query sees key 0.

use crate::cx::Cx;
use crate::error::{Error, refuse};
use crate::text::{affine, float};
use crate::tile::{Operand, Registers, Tile, tile_bytes};
use tinygpt_ir::program::{Access, Attention, AttentionShape};
use tinygpt_ir::types::DType;

/// What masked scores are.
pub const MASKED: f32 = -1e30;

/// Elements of depth that products of tiles spell out.
const UNROLL: usize = 8;

/// Largest head that is kept in registers.
const LARGEST_HEAD: usize = 256;

/// The square of invocations and its tiles in workgroup memory.
pub struct Square {
    pub tile: usize,
    pub shape: AttentionShape,
}

/// q, k, v and their like as a product sees them.
#[derive(Clone, Debug)]
pub struct Head {
    /// Positions as rows, dimensions as depth.
    pub positions: Operand,
    /// Dimensions as rows, positions as depth.
    pub dimensions: Operand,
}

/// A tile to fill from a head.
#[derive(Clone, Copy, Debug)]
pub struct Staged<'a> {
    /// Of the array: positions as rows, dimensions as depth.
    pub name: &'a str,
    pub head: &'a Head,
    /// First position.
    pub first: &'a str,
    /// Positions that there are.
    pub rows: usize,
    /// A second array of the same: dimensions as rows, positions as depth.
    pub transposed: Option<&'a str>,
}

impl Square {
    pub fn new(cx: &Cx, shape: AttentionShape, tile: u32) -> Result<Square, Error> {
        if !matches!(tile, 8 | 16 | 32 | 64) {
            return refuse(format!("kernel {}: found a tile of {tile}, expected 8, 16, 32 or 64", cx.name));
        }
        if shape.head_dim > LARGEST_HEAD {
            return refuse(format!(
                "kernel {}: found heads of {} dimensions, expected at most {LARGEST_HEAD}: use more heads",
                cx.name, shape.head_dim
            ));
        }
        Ok(Square { tile: tile as usize, shape })
    }

    pub fn invocations(&self) -> u32 {
        let side = self.tile as u32 / 4;
        side * side
    }
    pub fn heads(&self) -> usize {
        self.shape.batch * self.shape.heads
    }
    pub fn query_tiles(&self) -> usize {
        self.shape.q_len.div_ceil(self.tile)
    }
    pub fn key_tiles(&self) -> usize {
        self.shape.k_len.div_ceil(self.tile)
    }
    /// Chunks of a head's dimensions.
    pub fn chunks(&self) -> usize {
        self.shape.head_dim.div_ceil(self.tile)
    }
    /// Dimensions of a chunk that a product walks over: the head's, if it is smaller, up to a multiple of 4.
    fn chunk_depth(&self) -> usize {
        self.tile.min(self.shape.head_dim.next_multiple_of(4))
    }

    pub fn head(&self, cx: &Cx, access: &Access, positions: usize) -> Head {
        let batch = [self.shape.batch, self.shape.heads];
        let (p, d) = ([positions], [self.shape.head_dim]);
        Head {
            positions: Operand::new(cx, access, &batch, (&p, 2), (&d, 3)),
            dimensions: Operand::new(cx, access, &batch, (&d, 3), (&p, 2)),
        }
    }

    /// Whether the loads of a head are all whole vectors, both ways round.
    pub fn aligned(head: &Head) -> bool {
        head.positions.is_aligned() && head.dimensions.is_aligned()
    }

    pub fn tile(&self, name: &str, shift: usize) -> Tile {
        let group = self.invocations() as usize;
        Tile { name: name.into(), rows: self.tile, depth: self.tile, group, shift, buffers: 1, height: 4 }
    }

    /// Whether the eight tiles of a gradient that keeps its operands in workgroup memory fit there; heads are one chunk of dimensions.
    pub fn may_stay(shape: &AttentionShape, tile: u32, workgroup_bytes: u32) -> bool {
        shape.head_dim <= tile as usize && 8 * tile_bytes(tile as usize, tile as usize) as u32 <= workgroup_bytes
    }

    pub fn declare(&self, cx: &mut Cx) {
        for name in ["left", "right", "weights"] {
            self.tile(name, 0).declare(cx);
        }
    }

    pub fn registers(&self, name: &str) -> Registers {
        Registers { name: name.into(), each_m: 4, each_n: 4 }
    }

    /// Adds to `into` the products of rows of `a` from `a_first` on with rows of `b` from `b_first` on, over all dimensions.
    pub fn scores(&self, cx: &mut Cx, into: &Registers, a: (&Head, &str, usize), b: (&Head, &str, usize)) {
        let (left, right) = (self.tile("left", 0), self.tile("right", self.tile("left", 0).blocks()));
        cx.code.open("");
        a.0.positions.begin(cx, "left", "head");
        b.0.positions.begin(cx, "right", "head");
        left.prepare(cx, &a.0.positions, a.1);
        right.prepare(cx, &b.0.positions, b.1);
        let ragged = !self.shape.head_dim.is_multiple_of(self.tile);
        let from = if self.chunks() == 1 {
            cx.code.open("");
            "0u"
        } else {
            let end = self.chunks() * self.tile;
            cx.code.open(format!("for (var first_d = 0u; first_d < {end}u; first_d += {}u)", self.tile));
            "first_d"
        };
        left.fetch(cx, &a.0.positions, from, !a.2.is_multiple_of(self.tile), ragged);
        right.fetch(cx, &b.0.positions, from, !b.2.is_multiple_of(self.tile), ragged);
        cx.code.line("workgroupBarrier();");
        left.commit(cx, None);
        right.commit(cx, None);
        cx.code.line("workgroupBarrier();");
        into.multiply(cx, left.at(None), right.at(None), self.chunk_depth(), UNROLL);
        cx.code.close();
        cx.code.close();
    }

    /// Adds to `into[chunk]`, for every chunk of dimensions, the tile `weights` (positions of `x` as depth) times the rows of `x` from `first` on.
    /// The weights are written before; a barrier comes first.
    pub fn weighted(&self, cx: &mut Cx, into: &[Registers], x: (&Head, &str, usize)) {
        let (weights, right) = (self.tile("weights", 0), self.tile("right", 0));
        for (chunk, sums) in into.iter().enumerate() {
            let from = format!("{}u", chunk * self.tile);
            cx.code.open("");
            x.0.dimensions.begin(cx, "right", "head");
            right.prepare(cx, &x.0.dimensions, &from);
            right.fetch(
                cx,
                &x.0.dimensions,
                x.1,
                !self.shape.head_dim.is_multiple_of(self.tile),
                !x.2.is_multiple_of(self.tile),
            );
            cx.code.line("workgroupBarrier();");
            right.commit(cx, None);
            cx.code.line("workgroupBarrier();");
            sums.multiply(cx, weights.at(None), right.at(None), self.tile, UNROLL);
            cx.code.close();
        }
    }

    /// The vector at depth `4 * block + depth` and row `4 * row` (names) of a tile.
    fn block_vector(&self, block: &str, depth: usize, row: &str) -> String {
        let stride = self.tile("", 0).block_stride() as i64;
        affine((depth * self.tile / 4) as i64, &[(stride, block.to_string()), (1, row.to_string())])
    }

    /// Writes the 4 x 4 block of `block` (rows of four columns) to the tile `weights`, columns as depth.
    pub fn write_transposed(&self, cx: &mut Cx, block: &Registers) {
        for (j, lane) in ["x", "y", "z", "w"].iter().enumerate() {
            let rows: Vec<String> = (0..4).map(|i| format!("{}.{lane}", block.at(i, 0))).collect();
            let at = self.block_vector("x", j, "y");
            cx.code.line(format!("weights[{at}] = vec4<f32>({});", rows.join(", ")));
        }
    }

    /// Writes the 4 x 4 block of `block` to the tile `to`, rows as depth.
    pub fn write_straight(&self, cx: &mut Cx, to: &str, block: &Registers) {
        for i in 0..4 {
            cx.code.line(format!("{to}[{}] = {};", self.block_vector("y", i, "x"), block.at(i, 0)));
        }
    }

    /// A tile of positions with a chunk of dimensions as depth.
    fn staged(&self, name: &str) -> Tile {
        Tile { depth: self.chunk_depth(), ..self.tile(name, 0) }
    }

    /// Fills tiles in workgroup memory at once, between two barriers, each from rows of a head and in one chunk of dimensions.
    pub fn stage(&self, cx: &mut Cx, tiles: &[Staged]) {
        cx.code.open("");
        for t in tiles {
            let (tile, from) = (self.staged(t.name), &t.head.positions);
            tile.declare(cx);
            from.begin(cx, t.name, "head");
            tile.prepare(cx, from, t.first);
            tile.fetch(cx, from, "0u", !t.rows.is_multiple_of(self.tile), !self.shape.head_dim.is_multiple_of(4));
        }
        cx.code.line("workgroupBarrier();");
        for t in tiles {
            self.staged(t.name).commit(cx, None);
            if let Some(to) = t.transposed {
                let to = self.tile(to, 0);
                to.declare(cx);
                self.staged(t.name).commit_transposed(cx, &to);
            }
        }
        cx.code.close();
        cx.code.line("workgroupBarrier();");
    }

    /// Adds to `into` the products of rows of the staged tile `a` with rows of the staged tile `b`.
    pub fn scores_of_staged(&self, cx: &mut Cx, into: &Registers, a: &str, b: &str) {
        into.multiply(cx, self.staged(a).at(None), self.staged(b).at(None), self.chunk_depth(), UNROLL);
    }

    /// Adds to `into` the product of the tile `weights` (positions as depth) with the transposed staged tile `x`.
    pub fn weighted_staged(&self, cx: &mut Cx, into: &Registers, weights: &str, x: &str) {
        into.multiply(cx, self.tile(weights, 0).at(None), self.tile(x, 0).at(None), self.tile, UNROLL);
    }

    /// Stores 4 rows from `first_row + 4 y` on of the sums, times `factor` (of row i), where they are in range.
    pub fn store_rows(
        &self,
        cx: &mut Cx,
        sums: &[Registers],
        access: &Access,
        rows: usize,
        first_row: &str,
        factor: &dyn Fn(usize) -> Option<String>,
    ) {
        let d = self.shape.head_dim;
        let c = &access.at.coeffs;
        let offset = access.at.offset + cx.offset(access.arg);
        let vector = cx.is_vector(access.arg);
        for i in 0..4 {
            cx.code.open(format!("if ({first_row} + y * 4u + {i}u < {rows}u)"));
            let head = self.head_address(offset, c);
            cx.code.line(format!("let row_at = {head} + ({first_row} + y * 4u + {i}u) * {}u;", c[2]));
            for (chunk, s) in sums.iter().enumerate() {
                let from = chunk * self.tile;
                cx.code.open("");
                cx.code.line(format!("let d = x * 4u + {from}u;"));
                let value = match factor(i) {
                    Some(f) => format!("{} * {f}", s.at(i, 0)),
                    None => s.at(i, 0),
                };
                cx.code.line(format!("let value = {value};"));
                let whole = d.is_multiple_of(4);
                let guard = |l: usize| d < from + self.tile && (!whole || l == 0);
                if whole && guard(0) {
                    cx.code.open(format!("if (d < {d}u)"));
                }
                if vector {
                    cx.store4(access.arg, "row_at + d", "value");
                } else {
                    for (l, lane) in ["x", "y", "z", "w"].iter().enumerate() {
                        if !whole {
                            cx.code.open(format!("if (d + {l}u < {d}u)"));
                        }
                        cx.store(access.arg, &format!("row_at + (d + {l}u) * {}u", c[3]), &format!("value.{lane}"));
                        if !whole {
                            cx.code.close();
                        }
                    }
                }
                if whole && guard(0) {
                    cx.code.close();
                }
                cx.code.close();
            }
            cx.code.close();
        }
    }

    /// The first element of a head in an access whose first two axes are batch and head.
    pub fn head_address(&self, offset: i64, coeffs: &[i64]) -> String {
        crate::space::address(offset, "head", &[self.shape.batch, self.shape.heads], &coeffs[..2])
    }

    /// Element of an access over [batch, heads, positions] at a position (an expression).
    pub fn row_address(&self, cx: &Cx, access: &Access, position: &str) -> String {
        let offset = access.at.offset + cx.offset(access.arg);
        let head = self.head_address(offset, &access.at.coeffs);
        format!("{head} + ({position}) * {}u", access.at.coeffs[2])
    }

    /// `score` (a vector of four keys of the query row i) is scaled, and masked where the key is hidden or does not exist.
    pub fn mask(&self, cx: &mut Cx, scores: &Registers, first_query: &str, first_key: &str, scale: f64) {
        let scale = float(scale as f32);
        let ragged = !self.shape.k_len.is_multiple_of(self.tile);
        cx.code.line(format!("let keys = vec4<u32>({first_key} + x * 4u) + vec4<u32>(0u, 1u, 2u, 3u);"));
        for i in 0..4 {
            let s = scores.at(i, 0);
            cx.code.line(format!("{s} *= {scale};"));
            let mut hidden = Vec::new();
            if self.shape.causal {
                hidden.push(format!("(keys > vec4<u32>({first_query} + y * 4u + {i}u))"));
            }
            if ragged {
                hidden.push(format!("(keys >= vec4<u32>({}u))", self.shape.k_len));
            }
            if !hidden.is_empty() {
                cx.code.line(format!("{s} = select({s}, vec4<f32>({}), {});", float(MASKED), hidden.join(" | ")));
            }
        }
    }

    /// Declares the arrays of [`Square::across`].
    pub fn declare_exchange(&self, cx: &mut Cx) {
        let n = self.tile * self.tile / 16;
        cx.workgroup("exchange", &format!("array<vec4<f32>, {n}>"), 16 * n as u32);
    }

    /// Combines the vector `name` (one lane a row) over the invocations that share its rows: every one has the result after. `op` is
    /// `+` or the name of a function of two vectors.
    pub fn across(&self, cx: &mut Cx, name: &str, op: &str) {
        let side = self.tile / 4;
        cx.code.line(format!("exchange[y * {side}u + x] = {name};"));
        cx.code.line("workgroupBarrier();");
        cx.code.line(format!("{name} = exchange[y * {side}u];"));
        for other in 1..side {
            let e = format!("exchange[y * {side}u + {other}u]");
            cx.code.line(match op {
                "+" => format!("{name} += {e};"),
                _ => format!("{name} = {op}({name}, {e});"),
            });
        }
        cx.code.line("workgroupBarrier();");
    }
}

pub fn emit(cx: &mut Cx, k: &Attention, tile: u32) -> Result<(), Error> {
    let s = Square::new(cx, k.shape, tile)?;
    let shape = k.shape;
    let (q, keys) = (s.head(cx, &k.q, shape.q_len), s.head(cx, &k.k, shape.k_len));
    let values = k.v.as_ref().map(|v| s.head(cx, v, shape.k_len));
    let mut flagged = vec![(&k.q, q.positions.is_aligned()), (&k.k, keys.positions.is_aligned())];
    if let (Some(v), Some(h)) = (&k.v, &values) {
        flagged.push((v, h.dimensions.is_aligned()));
    }
    if let Some(out) = &k.out {
        flagged.push((out, aligned_store(cx, out, shape.head_dim)));
    }
    flagged.extend(k.lse.iter().map(|a| (a, false)));
    cx.vectorise(&flagged);
    let exp = cx.helper("exp", true);
    let log = cx.helper("log", true);

    s.declare(cx);
    s.declare_exchange(cx);
    cx.entry("main", s.heads() * s.query_tiles(), s.invocations())?;
    let heads = s.heads();
    cx.code
        .line(format!("let head = group % {heads}u; // of {} heads in each of {} sequences", shape.heads, shape.batch));
    cx.code.line(format!("let query_tile = {}u - group / {heads}u;", s.query_tiles() - 1));
    cx.code.line(format!("let first_query = query_tile * {tile}u;"));
    cx.code.line(format!("let x = local % {}u;", tile / 4));
    cx.code.line(format!("let y = local / {}u;", tile / 4));
    cx.code
        .line("// Of four queries: the largest score so far, and this invocation's share of the sum of exponentials.");
    cx.code.line(format!("var largest = vec4<f32>({});", float(MASKED)));
    cx.code.line("var total = vec4<f32>();");
    let out: Vec<Registers> = match values {
        Some(_) => (0..s.chunks()).map(|c| s.registers(&format!("out_{c}"))).collect(),
        None => Vec::new(),
    };
    out.iter().for_each(|r| r.declare(cx));
    let bound =
        if shape.causal { format!("min(query_tile + 1u, {}u)", s.key_tiles()) } else { format!("{}u", s.key_tiles()) };
    cx.code.line(format!("let key_tiles = {bound};"));
    cx.code.open("for (var key_tile = 0u; key_tile < key_tiles; key_tile++)");
    cx.code.line(format!("let first_key = key_tile * {tile}u;"));
    let scores = s.registers("score");
    scores.declare(cx);
    s.scores(cx, &scores, (&q, "first_query", shape.q_len), (&keys, "first_key", shape.k_len));
    s.mask(cx, &scores, "first_query", "first_key", shape.scale);
    let each = |f: &dyn Fn(String) -> String| (0..4).map(|i| f(scores.at(i, 0))).collect::<Vec<_>>().join(", ");
    let top = each(&|v| format!("max(max({v}.x, {v}.y), max({v}.z, {v}.w))"));
    cx.code.line(format!("var top = vec4<f32>({top});"));
    s.across(cx, "top", "max");
    cx.code.line("let new_largest = max(largest, top);");
    cx.code.line(format!("let fade = {exp}(largest - new_largest);"));
    cx.code.line("largest = new_largest;");
    for (i, lane) in ["x", "y", "z", "w"].iter().enumerate() {
        let v = scores.at(i, 0);
        cx.code.line(format!("{v} = {exp}({v} - vec4<f32>(largest.{lane}));"));
    }
    let sums = each(&|v| format!("({v}.x + {v}.y) + ({v}.z + {v}.w)"));
    cx.code.line(format!("total = total * fade + vec4<f32>({sums});"));
    if let Some(values) = &values {
        s.write_transposed(cx, &scores);
        for r in &out {
            for (i, lane) in ["x", "y", "z", "w"].iter().enumerate() {
                cx.code.line(format!("{} *= fade.{lane};", r.at(i, 0)));
            }
        }
        s.weighted(cx, &out, (values, "first_key", shape.k_len));
    }
    cx.code.close();
    s.across(cx, "total", "+");
    if let Some(access) = &k.out {
        cx.code.line("let share = vec4<f32>(1.0f) / total;");
        s.store_rows(cx, &out, access, shape.q_len, "first_query", &|i| {
            Some(format!("share.{}", ["x", "y", "z", "w"][i]))
        });
    }
    if let Some(access) = &k.lse {
        cx.code.line(format!("let lse = largest + {log}(total);"));
        cx.code.open("if (x == 0u)");
        for (i, lane) in ["x", "y", "z", "w"].iter().enumerate() {
            let position = format!("first_query + y * 4u + {i}u");
            cx.code.open(format!("if ({position} < {}u)", shape.q_len));
            let at = s.row_address(cx, access, &position);
            cx.store(access.arg, &at, &format!("lse.{lane}"));
            cx.code.close();
        }
        cx.code.close();
    }
    cx.code.close();
    Ok(())
}

/// Whether rows of dimensions are stored as whole vectors.
pub fn aligned_store(cx: &Cx, access: &Access, head_dim: usize) -> bool {
    head_dim.is_multiple_of(4) && cx.dtype(access.arg) == DType::F32 && crate::eval::is_aligned(cx, access, 3)
}
