//! What attention and its gradient are made of: heads, tiles of scores shared out to a grid of invocations, products with tiles of positions.
//!
//! A workgroup of `rows / each_m` x `cols / each_n` invocations, `y` by `x`, has a tile of `rows` queries by `cols` keys, `each_m` x `each_n` scores an
//! invocation. Results are rows of dimensions: of a tile of positions an invocation has those of row number `y`, so many as there are rows for each
//! `y`, and of dimensions those of column number `x`. Operands pass through workgroup memory in steps of `depth`: products of rows over the
//! dimensions, products by weights over positions. While a step is multiplied the next one is on its way in registers. With `stay` the tile that a
//! workgroup keeps is in workgroup memory whole.

use crate::attention::MASKED;
use crate::caps::Caps;
use crate::cx::Cx;
use crate::error::{Error, refuse};
use crate::text::{affine, float};
use crate::tile::{Operand, Registers, Tile, tile_bytes};
use crate::variant::AttentionTiling;
use tinygpt_ir::program::{Access, AttentionShape};
/// Lanes of a vector.
pub const LANES: [&str; 4] = ["x", "y", "z", "w"];

/// Multiply-adds of an invocation that the loop of a product spells out, forward and in a gradient, which has twice as many products.
const SPELLED: [usize; 2] = [512, 256];

/// Largest head that is kept in registers.
const LARGEST_HEAD: usize = 256;

/// Dimensions for which an invocation has results, of those that are computed at once.
const MOST_DIMENSIONS: usize = 8;

/// Attention over heads.
pub struct Heads {
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

impl Heads {
    pub fn new(cx: &Cx, shape: AttentionShape) -> Result<Heads, Error> {
        if shape.head_dim > LARGEST_HEAD {
            return refuse(format!(
                "kernel {}: found heads of {} dimensions, expected at most {LARGEST_HEAD}: use more heads",
                cx.name, shape.head_dim
            ));
        }
        Ok(Heads { shape })
    }

    pub fn count(&self) -> usize {
        self.shape.batch * self.shape.heads
    }

    pub fn head(&self, cx: &Cx, access: &Access, positions: usize) -> Head {
        let batch = [self.shape.batch, self.shape.heads];
        let (p, d) = ([positions], [self.shape.head_dim]);
        Head {
            positions: Operand::new(cx, access, &batch, (&p, 2), (&d, 3)),
            dimensions: Operand::new(cx, access, &batch, (&d, 3), (&p, 2)),
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
}

impl AttentionTiling {
    fn lanes_x(&self) -> usize {
        self.cols / self.each_n
    }
    fn lanes_y(&self) -> usize {
        self.rows / self.each_m
    }
    pub fn invocations(&self) -> usize {
        self.lanes_x() * self.lanes_y()
    }

    /// Whether it can be shared out: of `kept` as of `rows` every `y` has a multiple of four.
    fn is_even(&self, kept: usize) -> bool {
        let four = |n: usize, by: usize| by > 0 && n > 0 && n.is_multiple_of(4 * by);
        let whole = |n: usize, each: usize| four(each, 1) && n.is_multiple_of(each);
        whole(self.rows, self.each_m)
            && whole(self.cols, self.each_n)
            && four(kept, self.lanes_y())
            && four(self.depth, 1)
            && self.cols.is_multiple_of(self.depth)
            && self.rows.is_multiple_of(self.depth)
    }

    /// Dimensions that are computed at once.
    fn dimensions(&self, shape: &AttentionShape) -> usize {
        let fours = shape.head_dim.div_ceil(4 * self.lanes_x()).min(MOST_DIMENSIONS / 4);
        4 * self.lanes_x() * fours
    }

    /// Dimensions of a step, and of all steps.
    fn steps(&self, shape: &AttentionShape) -> (usize, usize) {
        let step = self.depth.min(shape.head_dim.next_multiple_of(4));
        (step, shape.head_dim.next_multiple_of(step))
    }

    /// Bytes of workgroup memory, of a gradient or forward.
    fn workgroup_bytes(&self, shape: &AttentionShape, grad: bool) -> usize {
        let (step, all) = self.steps(shape);
        let kept = match (self.stay, grad) {
            (false, _) => 0,
            (true, false) => tile_bytes(self.rows, all),
            (true, true) => 2 * tile_bytes(self.rows.max(self.cols), all),
        };
        let left = if self.stay && !grad { 0 } else { tile_bytes(self.rows, step) };
        let right = tile_bytes(self.cols, step).max(tile_bytes(self.dimensions(shape), self.depth));
        let weights = self.weights_bytes(grad);
        let exchange = if grad { 0 } else { 16 * self.lanes_x() * self.rows / 4 };
        kept + left + right + weights + exchange
    }

    fn weights_bytes(&self, grad: bool) -> usize {
        tile_bytes(self.rows, self.cols).max(if grad { tile_bytes(self.cols, self.rows) } else { 0 })
    }

    /// Whether the adapter can run it.
    pub fn fits(&self, shape: &AttentionShape, grad: bool, caps: &Caps) -> bool {
        self.is_even(if grad { self.cols } else { self.rows })
            && self.invocations() <= caps.flat_workgroup() as usize
            && self.workgroup_bytes(shape, grad) <= caps.workgroup_bytes as usize
    }
}

/// Rows of a head, of which a tile starts at the position `first` (a name). `name` is the array that they pass through or stay in.
#[derive(Clone, Copy)]
pub struct Side<'a> {
    pub name: &'a str,
    pub head: &'a Head,
    pub first: &'a str,
    /// Positions that there are, and of a tile.
    pub count: usize,
    pub rows: usize,
}

impl Side<'_> {
    fn is_kept(&self) -> bool {
        self.name.starts_with("kept")
    }
}

/// The grid of invocations and its tiles in workgroup memory.
pub struct Grid {
    tiling: AttentionTiling,
    shape: AttentionShape,
    grad: bool,
}

impl Grid {
    pub fn new(cx: &Cx, shape: AttentionShape, tiling: AttentionTiling, grad: bool) -> Result<Grid, Error> {
        if !tiling.is_even(if grad { tiling.cols } else { tiling.rows }) {
            return refuse(format!(
                "kernel {}: found {} queries by {} keys in blocks of {} x {} and steps of {}, expected multiples of what an invocation has, \
                 which is a multiple of 4, and of the step",
                cx.name, tiling.rows, tiling.cols, tiling.each_m, tiling.each_n, tiling.depth
            ));
        }
        Ok(Grid { tiling, shape, grad })
    }

    pub fn invocations(&self) -> u32 {
        self.tiling.invocations() as u32
    }
    pub fn query_tiles(&self) -> usize {
        self.shape.q_len.div_ceil(self.tiling.rows)
    }
    pub fn key_tiles(&self) -> usize {
        self.shape.k_len.div_ceil(self.tiling.cols)
    }
    /// Vectors of four rows of scores that an invocation has.
    pub fn row_parts(&self) -> usize {
        self.tiling.each_m / 4
    }

    /// How many tiles of keys the queries from `first_query` on see.
    pub fn key_tiles_of(&self, first_query: &str) -> String {
        let (tiles, AttentionTiling { rows, cols, .. }) = (self.key_tiles(), self.tiling);
        match self.shape.causal {
            true => format!("min(({first_query} + {}u) / {cols}u + 1u, {tiles}u)", rows - 1),
            false => format!("{tiles}u"),
        }
    }

    /// The first tile of queries that see the keys from `first_key` on.
    pub fn first_query_tile(&self, first_key: &str) -> String {
        if self.shape.causal { format!("{first_key} / {}u", self.tiling.rows) } else { "0u".into() }
    }

    /// Binds `x` and `y`.
    pub fn place_invocations(&self, cx: &mut Cx) {
        let across = self.tiling.lanes_x();
        cx.code.line(format!("let x = local % {across}u;"));
        cx.code.line(format!("let y = local / {across}u;"));
    }

    fn tile(&self, name: &str, rows: usize, depth: usize, shift: usize) -> Tile {
        let group = self.tiling.invocations();
        Tile { name: name.into(), rows, depth, group, shift, buffers: 1, height: 4 }
    }

    /// The tile of a side: whole, or of a step.
    fn side(&self, side: &Side, shift: usize) -> Tile {
        let (step, all) = self.tiling.steps(&self.shape);
        self.tile(side.name, side.rows, if side.is_kept() { all } else { step }, shift)
    }

    /// Weights of keys (depth) in results of queries (rows).
    pub fn weights_of_queries(&self) -> Tile {
        self.tile("weights", self.tiling.rows, self.tiling.cols, 0)
    }

    /// Weights of queries (depth) in results of keys (rows).
    pub fn weights_of_keys(&self) -> Tile {
        self.tile("weights", self.tiling.cols, self.tiling.rows, 0)
    }

    /// Declares the arrays of tiles.
    pub fn declare(&self, cx: &mut Cx) {
        let AttentionTiling { rows, cols, stay, depth, .. } = self.tiling;
        let (step, all) = self.tiling.steps(&self.shape);
        let grad = self.grad;
        let mut array = |name: &str, bytes: usize| {
            cx.workgroup(name, &format!("array<vec4<f32>, {}>", bytes / 16), bytes as u32);
        };
        if stay {
            for name in &["kept", "kept_2"][..if grad { 2 } else { 1 }] {
                array(name, tile_bytes(if grad { rows.max(cols) } else { rows }, all));
            }
        }
        if grad || !stay {
            array("left", tile_bytes(rows, step));
        }
        array("right", tile_bytes(cols, step).max(tile_bytes(self.tiling.dimensions(&self.shape), depth)));
        array("weights", self.tiling.weights_bytes(grad));
    }

    pub fn scores_block(&self, name: &str) -> Registers {
        Registers { name: name.into(), each_m: self.tiling.each_m, each_n: self.tiling.each_n }
    }

    /// Sums of a tile of positions by all dimensions, so many of these at once.
    pub fn results(&self, name: &str, positions: usize) -> Vec<Registers> {
        let at_once = self.tiling.dimensions(&self.shape);
        let (each_m, each_n) = (positions / self.tiling.lanes_y(), at_once / self.tiling.lanes_x());
        let chunks = self.shape.head_dim.div_ceil(at_once);
        (0..chunks).map(|chunk| Registers { name: format!("{name}_{chunk}"), each_m, each_n }).collect()
    }

    /// Row `i` of an invocation's block of `each_m` rows in a tile of `rows` from `first` on.
    pub fn row(&self, first: &str, rows: usize, each_m: usize, i: usize) -> String {
        let part = i / 4 * (rows / (each_m / 4));
        format!("{first} + y * 4u + {}u", part + i % 4)
    }

    fn unroll(&self, sums: &Registers) -> usize {
        (SPELLED[usize::from(self.grad)] / (sums.each_m * sums.each_n)).next_multiple_of(4)
    }

    /// Fills tiles that stay, whole.
    pub fn keep(&self, cx: &mut Cx, sides: &[Side]) {
        cx.code.open("");
        for side in sides {
            let tile = self.side(side, 0);
            let from = &side.head.positions;
            from.begin(cx, side.name, "head");
            tile.prepare(cx, from, side.first);
            let ragged = !self.shape.head_dim.is_multiple_of(tile.depth);
            tile.fetch(cx, from, "0u", !side.count.is_multiple_of(side.rows), ragged);
            tile.commit(cx, None);
        }
        cx.code.close();
    }

    /// Adds to `into` the products of the rows of `a` with the rows of `b`, over all dimensions.
    pub fn scores(&self, cx: &mut Cx, into: &Registers, a: Side, b: Side) {
        let (step, all) = self.tiling.steps(&self.shape);
        let left = self.side(&a, 0);
        let right = self.side(&b, if a.is_kept() { 0 } else { left.blocks() });
        let passing = [(&left, a), (&right, b)].into_iter().filter(|(_, side)| !side.is_kept()).collect::<Vec<_>>();
        let ragged = !self.shape.head_dim.is_multiple_of(step);
        let fetch = |cx: &mut Cx, from: &str| {
            for (tile, side) in &passing {
                tile.fetch(cx, &side.head.positions, from, !side.count.is_multiple_of(side.rows), ragged);
            }
        };
        cx.code.open("");
        for (tile, side) in &passing {
            side.head.positions.begin(cx, side.name, "head");
            tile.prepare(cx, &side.head.positions, side.first);
        }
        fetch(cx, "0u");
        if all > step {
            cx.code.open(format!("for (var first_d = 0u; first_d < {all}u; first_d += {step}u)"));
        }
        cx.code.line("workgroupBarrier();");
        passing.iter().for_each(|(tile, _)| tile.commit(cx, None));
        cx.code.line("workgroupBarrier();");
        let mut kept = None;
        if all > step {
            cx.code.open(format!("if (first_d + {step}u < {all}u)"));
            cx.code.line(format!("let next_d = first_d + {step}u;"));
            fetch(cx, "next_d");
            cx.code.close();
            if let Some((tile, _)) = [(&left, a), (&right, b)].into_iter().find(|(_, side)| side.is_kept()) {
                cx.code.line(format!("let kept_at = first_d / 4u * {}u;", tile.block_stride()));
                kept = Some("kept_at");
            }
        }
        let at = |side: &Side| kept.filter(|_| side.is_kept());
        into.multiply(cx, left.at(at(&a)), right.at(at(&b)), step, self.unroll(into));
        if all > step {
            cx.code.close();
        }
        cx.code.close();
    }

    /// Adds to `into`, the sums by all dimensions, the product of the tile `weights`, whose depth are the positions of `x`, with the tile of `x`. What
    /// `before` emits, which writes the weights, runs while the first step of `x` is on its way.
    pub fn weighted(&self, cx: &mut Cx, into: &[Registers], weights: &Tile, x: Side, before: &mut dyn FnMut(&mut Cx)) {
        let (step, all, at_once) = (self.tiling.depth, x.rows, self.tiling.dimensions(&self.shape));
        let from = &x.head.dimensions;
        let right = self.tile("right", at_once, step, 0);
        for (chunk, sums) in into.iter().enumerate() {
            let fetch = |cx: &mut Cx, first: &str| {
                let guard = !self.shape.head_dim.is_multiple_of(at_once);
                right.fetch(cx, from, first, guard, !x.count.is_multiple_of(x.rows));
            };
            cx.code.open("");
            from.begin(cx, "right", "head");
            right.prepare(cx, from, &format!("{}u", chunk * at_once));
            fetch(cx, x.first);
            if chunk == 0 {
                before(cx);
            }
            if all > step {
                cx.code.open(format!("for (var position = 0u; position < {all}u; position += {step}u)"));
            }
            cx.code.line("workgroupBarrier();");
            right.commit(cx, None);
            cx.code.line("workgroupBarrier();");
            let mut first = None;
            if all > step {
                cx.code.open(format!("if (position + {step}u < {all}u)"));
                cx.code.line(format!("let next = {} + position + {step}u;", x.first));
                fetch(cx, "next");
                cx.code.close();
                cx.code.line(format!("let weights_at = position / 4u * {}u;", weights.block_stride()));
                first = Some("weights_at");
            }
            sums.multiply(cx, weights.at(first), right.at(None), step, self.unroll(sums));
            if all > step {
                cx.code.close();
            }
            cx.code.close();
        }
    }

    /// Writes the block of scores to [`Grid::weights_of_queries`].
    pub fn write_transposed(&self, cx: &mut Cx, block: &Registers) {
        let to = self.weights_of_queries();
        let (m_parts, n_parts) = (block.each_m / 4, block.each_n / 4);
        for j in 0..n_parts {
            for part in 0..m_parts {
                for (l, lane) in LANES.iter().enumerate() {
                    let rows: Vec<String> = (0..4).map(|i| format!("{}.{lane}", block.at(4 * part + i, j))).collect();
                    let first =
                        j * (to.depth / n_parts / 4) * to.block_stride() + (l * to.rows + part * to.rows / m_parts) / 4;
                    let at = affine(first as i64, &[(to.block_stride() as i64, "x".into()), (1, "y".into())]);
                    cx.code.line(format!("weights[{at}] = vec4<f32>({});", rows.join(", ")));
                }
            }
        }
    }

    /// Writes the block of scores to [`Grid::weights_of_keys`].
    pub fn write_straight(&self, cx: &mut Cx, block: &Registers) {
        let to = self.weights_of_keys();
        let (m_parts, n_parts) = (block.each_m / 4, block.each_n / 4);
        for i in 0..block.each_m {
            for j in 0..n_parts {
                let first = i / 4 * (to.depth / m_parts / 4) * to.block_stride()
                    + (i % 4 * to.rows + j * to.rows / n_parts) / 4;
                let at = affine(first as i64, &[(to.block_stride() as i64, "y".into()), (1, "x".into())]);
                cx.code.line(format!("weights[{at}] = {};", block.at(i, j)));
            }
        }
    }

    /// Stores the sums of a tile of `rows` positions from `first_row` on, times `factor` (of row i), where there are such positions.
    #[expect(clippy::too_many_arguments)]
    pub fn store_rows(
        &self,
        cx: &mut Cx,
        heads: &Heads,
        sums: &[Registers],
        access: &Access,
        count: usize,
        first_row: &str,
        rows: usize,
        factor: &dyn Fn(usize) -> Option<String>,
    ) {
        let (d, at_once) = (self.shape.head_dim, self.tiling.dimensions(&self.shape));
        let c = &access.at.coeffs;
        let offset = access.at.offset + cx.offset(access.arg);
        let vector = cx.is_vector(access.arg);
        for i in 0..sums[0].each_m {
            let row = self.row(first_row, rows, sums[0].each_m, i);
            cx.code.open(if count.is_multiple_of(rows) { String::new() } else { format!("if ({row} < {count}u)") });
            let head = heads.head_address(offset, c);
            cx.code.line(format!("let row_at = {head} + ({row}) * {}u;", c[2]));
            for (chunk, s) in sums.iter().enumerate() {
                for j in 0..s.each_n / 4 {
                    let from = chunk * at_once + j * (at_once / (s.each_n / 4));
                    cx.code.open("");
                    cx.code.line(format!("let d = x * 4u + {from}u;"));
                    let value = match factor(i) {
                        Some(f) => format!("{} * {f}", s.at(i, j)),
                        None => s.at(i, j),
                    };
                    cx.code.line(format!("let value = {value};"));
                    let whole = d.is_multiple_of(4);
                    let guarded = whole && d < from + at_once / (s.each_n / 4);
                    if guarded {
                        cx.code.open(format!("if (d < {d}u)"));
                    }
                    if vector {
                        cx.store4(access.arg, "row_at + d", "value");
                    } else {
                        for (l, lane) in LANES.iter().enumerate() {
                            if !whole {
                                cx.code.open(format!("if (d + {l}u < {d}u)"));
                            }
                            cx.store(access.arg, &format!("row_at + (d + {l}u) * {}u", c[3]), &format!("value.{lane}"));
                            if !whole {
                                cx.code.close();
                            }
                        }
                    }
                    if guarded {
                        cx.code.close();
                    }
                    cx.code.close();
                }
            }
            cx.code.close();
        }
    }

    /// Masks the scores of the tile at `first_query` and `first_key` of keys that are hidden or do not exist.
    pub fn mask(&self, cx: &mut Cx, scores: &Registers) {
        let (shape, AttentionTiling { rows, cols, .. }) = (self.shape, self.tiling);
        let ragged = !shape.k_len.is_multiple_of(cols);
        let mut some = Vec::new();
        if shape.causal {
            some.push(format!("first_key + {}u > first_query", cols - 1));
        }
        if ragged {
            some.push(format!("first_key + {cols}u > {}u", shape.k_len));
        }
        if some.is_empty() {
            return;
        }
        cx.code.open(format!("if ({})", some.join(" || ")));
        let n_parts = scores.each_n / 4;
        for j in 0..n_parts {
            let first = affine((j * cols / n_parts) as i64, &[(1, "first_key".into()), (4, "x".into())]);
            cx.code.line(format!("let keys_{j} = vec4<u32>({first}) + vec4<u32>(0u, 1u, 2u, 3u);"));
        }
        for i in 0..scores.each_m {
            for j in 0..n_parts {
                let s = scores.at(i, j);
                let mut hidden = Vec::new();
                if shape.causal {
                    hidden.push(format!("(keys_{j} > vec4<u32>({}))", self.row("first_query", rows, scores.each_m, i)));
                }
                if ragged {
                    hidden.push(format!("(keys_{j} >= vec4<u32>({}u))", shape.k_len));
                }
                let masked = float(MASKED);
                cx.code.line(format!("{s} = select({s}, vec4<f32>({masked}), {});", hidden.join(" | ")));
            }
        }
        cx.code.close();
    }

    /// Declares the array of [`Grid::across`].
    pub fn declare_exchange(&self, cx: &mut Cx) {
        let n = self.tiling.lanes_x() * self.tiling.rows / 4;
        cx.workgroup("exchange", &format!("array<vec4<f32>, {n}>"), 16 * n as u32);
    }

    /// Combines each of the vectors `names` (one lane a row) over the invocations that share its rows: every one has the result after. `op` is
    /// `+` or the name of a function of two vectors. A barrier comes between two calls.
    pub fn across(&self, cx: &mut Cx, names: &[String], op: &str) {
        let (side, height) = (self.tiling.lanes_x(), self.tiling.lanes_y());
        let at = |part: usize, x: &str| {
            affine((part * height * side) as i64, &[(side as i64, "y".into()), (1, x.to_string())])
        };
        for (part, name) in names.iter().enumerate() {
            cx.code.line(format!("exchange[{}] = {name};", at(part, "x")));
        }
        cx.code.line("workgroupBarrier();");
        for (part, name) in names.iter().enumerate() {
            cx.code.line(format!("{name} = exchange[{}];", at(part, "0u")));
            for other in 1..side {
                let e = format!("exchange[{}]", at(part, &format!("{other}u")));
                cx.code.line(match op {
                    "+" => format!("{name} += {e};"),
                    _ => format!("{name} = {op}({name}, {e});"),
                });
            }
        }
    }
}
