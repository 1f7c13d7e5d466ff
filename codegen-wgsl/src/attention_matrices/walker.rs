//! What the workgroups' code is made of: staging what is kept and met, scores, weights, and leaving sums.

use super::{LARGEST_HEAD, SUBGROUP, Walk, depth};
use crate::attention::MASKED;
use crate::attention_grid::{Head, Heads};
use crate::cooperate::{Corner, SIDE, Staged};
use crate::cx::Cx;
use crate::error::{Error, refuse};
use crate::text::{affine, float};
use tinygpt_ir::program::{Access, AttentionShape};

/// What the code of a workgroup is made from.
pub struct Walker<'a> {
    pub walk: Walk,
    pub shape: AttentionShape,
    pub of: &'a Heads,
    /// Of what is kept, and of what is met.
    kept: usize,
    met: usize,
}

/// Something kept or met: its head and how many positions it has.
pub type Side<'a> = (&'a Head, usize);

impl<'a> Walker<'a> {
    pub fn new(cx: &Cx, walk: Walk, of: &'a Heads, grad: bool, kept: usize, met: usize) -> Result<Walker<'a>, Error> {
        let shape = of.shape;
        if !walk.allows(&shape, grad, cx.caps) {
            return refuse(format!(
                "kernel {}: attention of {} rows by {} on cooperative matrices needs an adapter that has them in subgroups of {SUBGROUP}, with subgroup operations, heads of at \
                 most {LARGEST_HEAD} dimensions and {} bytes of workgroup memory: choose another variant",
                cx.name,
                walk.rows,
                walk.cols,
                walk.workgroup_bytes(&shape, grad)
            ));
        }
        Ok(Walker { walk, shape, of, kept, met })
    }

    pub fn depth(&self) -> usize {
        depth(&self.shape)
    }

    /// Matrices along the dimensions of a head.
    pub fn along(&self) -> u32 {
        self.depth() as u32 / SIDE
    }

    pub fn kept_tiles(&self) -> usize {
        self.kept.div_ceil(self.walk.rows as usize)
    }

    pub fn met_tiles(&self) -> usize {
        self.met.div_ceil(self.walk.cols as usize)
    }

    /// A tile in the array of f16: one that is met in its place, or one that is kept before there are others.
    pub fn staged<'b>(&self, name: &'static str, x: &'b Head, rows: u32, base: usize) -> Staged<'b> {
        let group = self.walk.invocations() as usize;
        let (x, depth, rows) = (&x.positions, self.depth(), rows as usize);
        Staged { name, array: "tiles", base, batch: "head", x, rows, depth, group }
    }

    /// Binds who an invocation is.
    pub fn places(&self, cx: &mut Cx) {
        cx.code.line(format!("let own_m = local / {SUBGROUP}u * {SIDE}u;"));
        cx.code.line(format!("let own_row = own_m + local % {SUBGROUP}u / 2u;"));
        cx.code.line("let side = local % 2u;");
    }

    /// Binds `NAME_i`, the matrices of what the subgroup keeps. The array of f16 is free before and after.
    pub fn keep(&self, cx: &mut Cx, names: [&'static str; 2], sides: &[Side]) {
        let kept = self.walk.tiles(&self.shape).1 / 4;
        let tiles: Vec<Staged> = sides
            .iter()
            .zip(names)
            .zip(0..)
            .map(|(((head, _), name), i)| self.staged(name, head, self.walk.rows, i * kept))
            .collect();
        for tile in &tiles {
            tile.prepare(cx, "first_own");
            tile.fetch(
                cx,
                "0u",
                !self.kept.is_multiple_of(self.walk.rows as usize),
                self.depth() != self.shape.head_dim,
            );
        }
        cx.code.line("workgroupBarrier();");
        tiles.iter().for_each(|tile| tile.commit(cx));
        cx.code.line("workgroupBarrier();");
        for (tile, name) in tiles.iter().zip(names) {
            for k in 0..self.along() {
                let corner = Corner { first: "own_m", row: 0, depth: k * SIDE };
                tile.load(cx, &format!("{name}_{k}_kept"), 'A', corner, false);
            }
        }
    }

    /// The tiles that are met, in their places; declares the registers in which they come.
    pub fn met<'b>(&self, cx: &mut Cx, names: [&'static str; 2], sides: &[Side<'b>]) -> Vec<Staged<'b>> {
        let met = self.walk.tiles(&self.shape).0 / 4;
        let tiles: Vec<Staged> = sides
            .iter()
            .zip(names)
            .zip(0..)
            .map(|(((head, _), name), i)| self.staged(name, head, self.walk.cols, i * met))
            .collect();
        tiles.iter().for_each(|tile| tile.places(cx));
        tiles
    }

    /// Opens the loop over the tiles that are met, by queries those up to their last key, by keys those from their first query on, and brings what is
    /// met into workgroup memory. `ahead`: the next tiles are on their way meanwhile, in registers.
    pub fn open(&self, cx: &mut Cx, queries: bool, tiles: &[Staged], ahead: bool) {
        let (all, rows, cols) = (self.met_tiles(), self.walk.rows, self.walk.cols);
        let (from, to) = match (self.shape.causal, queries) {
            (false, _) => ("0u".to_string(), format!("{all}u")),
            (true, true) => ("0u".into(), format!("min((first_own + {}u) / {cols}u + 1u, {all}u)", rows - 1)),
            (true, false) => (format!("first_own / {cols}u"), format!("{all}u")),
        };
        cx.code.line(format!("let walk_from = {from};"));
        cx.code.line(format!("let walk_end = {to};"));
        let fetch = |cx: &mut Cx, first: &str| {
            cx.code.line(format!("let then_met = {first};"));
            for tile in tiles {
                tile.address(cx, "then_met");
                let rows = !self.met.is_multiple_of(cols as usize);
                tile.fetch(cx, "0u", rows, self.depth() != self.shape.head_dim);
            }
            cx.code.close();
        };
        if ahead {
            cx.code.open("");
            fetch(cx, &format!("walk_from * {cols}u"));
        }
        cx.code.open("for (var walk = walk_from; walk < walk_end; walk++)");
        cx.code.line(format!("let first_met = walk * {cols}u;"));
        if !ahead {
            cx.code.open("");
            fetch(cx, "first_met");
        }
        cx.code.line("workgroupBarrier();");
        tiles.iter().for_each(|tile| tile.commit(cx));
        cx.code.line("workgroupBarrier();");
        if ahead {
            cx.code.open("if (walk + 1u < walk_end)");
            fetch(cx, &format!("first_met + {cols}u"));
        }
    }

    /// Writes the products of the subgroup's rows of `kept` with the rows of `met` to the scores numbered `number`.
    pub fn scores(&self, cx: &mut Cx, kept: &str, met: &Staged, number: usize) {
        cx.code.open("");
        for b in 0..self.walk.cols / SIDE {
            cx.code.line(format!("var sum_{b} = coop_mat16x16<f32,C>();"));
        }
        for k in 0..self.along() {
            for b in 0..self.walk.cols / SIDE {
                let corner = Corner { first: "0u", row: b * SIDE, depth: k * SIDE };
                met.load(cx, &format!("met_{k}_{b}"), 'B', corner, false);
                cx.code.line(format!("sum_{b} = coopMultiplyAdd({kept}_{k}_kept, met_{k}_{b}, sum_{b});"));
            }
        }
        for b in 0..self.walk.cols / SIDE {
            self.store(cx, &format!("sum_{b}"), number, b);
        }
        cx.code.close();
    }

    /// Stores a matrix of sums in the columns from 16 `column` on of the subgroup's rows of the scores numbered `number`.
    pub fn store(&self, cx: &mut Cx, sum: &str, number: usize, column: u32) {
        let stride = self.walk.score_stride();
        let first = number * self.walk.rows as usize * stride + (column * SIDE / 4) as usize;
        cx.code.line(format!("let {sum}_to = {};", affine(first as i64, &[(stride as i64, "own_m".into())])));
        cx.code.line(format!("let {sum}_stride = {stride}u;"));
        cx.code.line(format!("coopStoreT({sum}, &sums[{sum}_to], {sum}_stride);"));
    }

    /// The code of `each` for every vector of four scores of the invocation, with its number in the row bound as `vector` and its place among the
    /// scores as `at`.
    pub fn each(&self, cx: &mut Cx, each: &dyn Fn(&mut Cx)) {
        for i in 0..self.walk.cols / 8 {
            cx.code.open("");
            cx.code.line(format!("let vector = {}u + side;", 2 * i));
            cx.code.line(format!("let at = own_row * {}u + vector;", self.walk.score_stride()));
            each(cx);
            cx.code.close();
        }
    }

    /// Writes `value` where the weights numbered `number` of the vector at hand are.
    pub fn weigh(&self, cx: &mut Cx, number: usize, value: &str) {
        let first = self.weights(number);
        let stride = self.walk.weight_stride();
        let to = affine(first as i64, &[(stride as i64, "own_row".into()), (1, "vector".into())]);
        cx.code.line(format!("tiles[{to}] = vec4<f16>({value});"));
    }

    /// First vector of the weights numbered `number`.
    pub fn weights(&self, number: usize) -> usize {
        2 * self.walk.tiles(&self.shape).0 / 4 + number * self.walk.rows as usize * self.walk.weight_stride()
    }

    /// Declares `NAME_i`, the sums of the subgroup's rows.
    pub fn declare_sums(&self, cx: &mut Cx, name: &str) {
        for d in 0..self.along() {
            cx.code.line(format!("var {name}_{d} = coop_mat16x16<f32,C>();"));
        }
    }

    /// Multiplies the rows of the sums `into` by `factor`, each by that of the invocations that share it.
    pub fn scale(&self, cx: &mut Cx, into: &str, factor: &str) {
        let per = self.walk.cols / SIDE;
        let stride = self.walk.score_stride();
        for first in (0..self.along()).step_by(per as usize) {
            let here = per.min(self.along() - first);
            cx.code.open("");
            (0..here).for_each(|b| self.store(cx, &format!("{into}_{}", first + b), 0, b));
            cx.code.line("workgroupBarrier();");
            for i in 0..here * SIDE / 8 {
                cx.code.line(format!("sums[own_row * {stride}u + {}u + side] *= {factor};", 2 * i));
            }
            cx.code.line("workgroupBarrier();");
            for sum in (first..first + here).map(|b| format!("{into}_{b}")) {
                cx.code.line(format!("{sum} = coopLoadT<coop_mat16x16<f32,C>>(&sums[{sum}_to], {sum}_stride);"));
            }
            cx.code.close();
        }
    }

    /// Adds the weights numbered `number` times the rows of `met` to the sums `into`.
    pub fn weighted(&self, cx: &mut Cx, into: &str, number: usize, met: &Staged) {
        cx.code.open("");
        let stride = self.walk.weight_stride();
        for k in 0..self.walk.cols / SIDE {
            let first = self.weights(number) + (k * SIDE / 4) as usize;
            cx.code
                .line(format!("let weights_{k}_from = {};", affine(first as i64, &[(stride as i64, "own_m".into())])));
            cx.code.line(format!("let weights_{k}_stride = {stride}u;"));
            cx.code.line(format!(
                "let weights_{k} = coopLoadT<coop_mat16x16<f16,A>>(&tiles[weights_{k}_from], weights_{k}_stride);"
            ));
            for d in 0..self.along() {
                let corner = Corner { first: "0u", row: k * SIDE, depth: d * SIDE };
                met.load(cx, &format!("met_{k}_{d}"), 'B', corner, true);
                cx.code.line(format!("{into}_{d} = coopMultiplyAdd(weights_{k}, met_{k}_{d}, {into}_{d});"));
            }
        }
        cx.code.close();
    }

    /// Stores the sums `from`, times `factor`, as the rows that the workgroup keeps.
    pub fn leave(&self, cx: &mut Cx, from: &str, access: &Access, factor: Option<&str>) {
        let per = self.walk.cols / SIDE;
        for first in (0..self.along()).step_by(per as usize) {
            let here = per.min(self.along() - first);
            cx.code.line("workgroupBarrier();");
            (0..here).for_each(|b| self.store(cx, &format!("{from}_{}", first + b), 0, b));
            cx.code.line("workgroupBarrier();");
            cx.code.open(format!("if (first_own + own_row < {}u)", self.kept));
            let at = self.of.row_address(cx, access, "first_own + own_row");
            cx.code.line(format!("let row_at = {at};"));
            for i in 0..here * SIDE / 8 {
                cx.code.open("");
                cx.code.line(format!("let vector = {}u + side;", 2 * i));
                cx.code.line(format!("let d = {}u + vector * 4u;", first * SIDE));
                let value = format!("sums[own_row * {}u + vector]", self.walk.score_stride());
                let factor = factor.map_or(String::new(), |f| format!(" * {f}"));
                cx.code.line(format!("let value = {value}{factor};"));
                let (head_dim, step) = (self.shape.head_dim, access.at.coeffs[3]);
                if cx.is_vector(access.arg) {
                    cx.code.open(if head_dim == self.depth() {
                        String::new()
                    } else {
                        format!("if (d < {head_dim}u)")
                    });
                    cx.store4(access.arg, "row_at + d", "value");
                    cx.code.close();
                } else {
                    for (l, lane) in ["x", "y", "z", "w"].iter().enumerate() {
                        cx.code.open(format!("if (d + {l}u < {head_dim}u)"));
                        cx.store(access.arg, &format!("row_at + (d + {l}u) * {step}u"), &format!("value.{lane}"));
                        cx.code.close();
                    }
                }
                cx.code.close();
            }
            cx.code.close();
        }
    }

    /// Binds `score`, the vector of scores at hand of a row of queries, scaled, and masked where a key is hidden or does not exist.
    pub fn masked(&self, cx: &mut Cx) {
        cx.code.line("let keys = vec4<u32>(first_met + vector * 4u) + vec4<u32>(0u, 1u, 2u, 3u);");
        let mut hidden = Vec::new();
        if self.shape.causal {
            hidden.push("(keys > vec4<u32>(first_own + own_row))".to_string());
        }
        if !self.met.is_multiple_of(self.walk.cols as usize) {
            hidden.push(format!("(keys >= vec4<u32>({}u))", self.met));
        }
        self.score(cx, &hidden);
    }

    pub fn score(&self, cx: &mut Cx, hidden: &[String]) {
        let score = format!("sums[at] * {}", float(self.shape.scale as f32));
        cx.code.line(match hidden {
            [] => format!("let score = {score};"),
            _ => format!("let score = select({score}, vec4<f32>({}), {});", float(MASKED), hidden.join(" | ")),
        });
    }

    /// Binds `head` and `first_own` of the workgroup numbered `group`, those with most to meet first.
    pub fn own(&self, cx: &mut Cx, group: &str, last_first: bool) {
        let tiles = self.kept_tiles();
        cx.code.line(format!("let head = {group} / {tiles}u;"));
        let tile = format!("{group} % {tiles}u");
        let tile = if last_first { format!("({}u - {tile})", tiles - 1) } else { format!("({tile})") };
        cx.code.line(format!("let first_own = {tile} * {}u;", self.walk.rows));
    }
}
