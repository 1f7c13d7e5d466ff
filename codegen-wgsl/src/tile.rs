//! Tiles: blocks of operands in workgroup memory, and products of tiles in registers.
//!
//! An [`Operand`] is a matrix of rows by depth: the left side of a product with its m axes as rows, the right side with its n axes, and
//! the contracted axes as depth. A tile of `rows` x `depth` lies in workgroup memory as `array<vec4<f32>>`, four rows side by side,
//! depth outermost: element (r, d) is lane r % 4 of vector d * rows / 4 + d / 4 * pad + r / 4. So a product reads whole vectors of both sides, and
//! neighbouring invocations read neighbouring vectors. The padding keeps blocks that are neighbours along depth apart in banks of workgroup
//! memory: eight invocations, which write at once where banks are 32 words, write eight different vectors of a bank's row.
//!
//! An invocation fetches blocks of 4 x 4 elements: from memory that is contiguous along depth four vectors that it transposes, from memory
//! that is contiguous along rows four vectors as they are, from any other sixteen elements. Blocks of fewer vectors along depth leave no invocation
//! without work where those of four do. What all loads of whole vectors add up are numbers of vectors, so that neighbouring ones are constants apart.
//!
//! Invariants
//! - Rows and depth beyond the operand's read as zero, and touch no memory.

use crate::cx::{Cx, quarter};
use crate::space::{address, merge};
use crate::text::affine;
use tinygpt_ir::program::{Access, ArgId};
use tinygpt_ir::types::{DType, numel};

/// Along which side four consecutive elements can be loaded at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Along {
    Depth,
    Rows,
    Neither,
}

/// One side of a product.
#[derive(Clone, Debug)]
pub struct Operand {
    pub arg: ArgId,
    offset: i64,
    pub batch: Vec<usize>,
    batch_strides: Vec<i64>,
    pub rows: Vec<usize>,
    pub row_strides: Vec<i64>,
    pub depth: Vec<usize>,
    pub depth_strides: Vec<i64>,
    pub along: Along,
    /// Neighbouring elements in memory are neighbours along depth.
    pub depth_first: bool,
}

impl Operand {
    /// `access` is over batch ++ rows ++ depth; `order` gives the position of each of these three groups' first axis in it, so that attention, whose
    /// last two axes are (position, dimension), can take either as rows.
    pub fn new(
        cx: &Cx,
        access: &Access,
        batch: &[usize],
        rows: (&[usize], usize),
        depth: (&[usize], usize),
    ) -> Operand {
        let c = access.at.coeffs.as_slice();
        let (b, r, d) = (merge(batch, 0, &[c]), merge(rows.0, rows.1, &[c]), merge(depth.0, depth.1, &[c]));
        let (batch_strides, row_strides, depth_strides) =
            (b.coefficients(c, 0), r.coefficients(c, rows.1), d.coefficients(c, depth.1));
        let offset = access.at.offset + cx.offset(access.arg);
        // Whether groups of four along the innermost of `inner` are whole vectors.
        let fours = |extents: &[usize], strides: &[i64], others: &[&[i64]]| {
            let Some((last, outer)) = strides.split_last() else { return false };
            *last == 1
                && extents.last().is_some_and(|n| n % 4 == 0)
                && outer.iter().chain(others.iter().copied().flatten()).chain([&offset]).all(|s| s % 4 == 0)
        };
        let along = if fours(&d.extents, &depth_strides, &[&batch_strides, &row_strides]) {
            Along::Depth
        } else if fours(&r.extents, &row_strides, &[&batch_strides, &depth_strides]) {
            Along::Rows
        } else {
            Along::Neither
        };
        let nearest = |s: &[i64]| s.last().map_or(i64::MAX, |s| s.abs());
        let depth_first = nearest(&depth_strides) <= nearest(&row_strides);
        Operand {
            arg: access.arg,
            offset,
            batch: b.extents,
            batch_strides,
            rows: r.extents,
            row_strides,
            depth: d.extents,
            depth_strides,
            along,
            depth_first,
        }
    }

    /// Whether every load could be of a vec4.
    pub fn is_aligned(&self) -> bool {
        self.along != Along::Neither
    }

    pub fn count_rows(&self) -> usize {
        numel(&self.rows)
    }
    pub fn count_depth(&self) -> usize {
        numel(&self.depth)
    }

    /// Elements of what addresses of its rows and depths count: vectors of four where all loads are of those.
    fn unit(&self, cx: &Cx) -> i64 {
        if self.is_aligned() && cx.is_vector(self.arg) { 4 } else { 1 }
    }

    /// Binds `name_base`, the first element of the batch `batch` (a name).
    pub fn begin(&self, cx: &mut Cx, name: &str, batch: &str) {
        let text = address(self.offset, batch, &self.batch, &self.batch_strides);
        cx.code.line(format!("let {name}_base = {text};"));
    }
}

/// A tile in workgroup memory and who fills it.
#[derive(Clone, Debug)]
pub struct Tile {
    /// Name of the array, and prefix of all names.
    pub name: String,
    pub rows: usize,
    pub depth: usize,
    /// Invocations of the workgroup.
    pub group: usize,
    /// The first block's invocation: so that small tiles are filled by different ones.
    pub shift: usize,
    /// Copies of the tile: with two, one is filled while the other is multiplied.
    pub buffers: usize,
    /// Elements of a block along depth: 4, or fewer for operands that are contiguous along rows.
    pub height: usize,
}

impl Tile {
    pub fn declare(&self, cx: &mut Cx) {
        let vectors = self.all_vectors();
        cx.workgroup(&self.name, &format!("array<vec4<f32>, {vectors}>"), 16 * vectors as u32);
    }

    /// Vectors of one copy.
    fn vectors(&self) -> usize {
        tile_bytes(self.rows, self.depth) / 16
    }

    /// Vectors between blocks that are neighbours along depth.
    pub fn block_stride(&self) -> usize {
        self.rows + pad(self.depth)
    }

    /// The tile to multiply, from the vector `first` (a name) on, or from its start.
    pub fn at<'a>(&'a self, first: Option<&'a str>) -> TileAt<'a> {
        TileAt { array: &self.name, rows: self.rows, block_stride: self.block_stride(), first }
    }

    /// Binds `NAME_at`, the first vector of the copy numbered `buffer` (a name or constant), for [`Tile::commit`] and [`Registers::multiply`].
    pub fn choose(&self, cx: &mut Cx, at: &str, buffer: &str) {
        cx.code.line(format!("let {}_{at} = {buffer} * {}u;", self.name, self.vectors()));
    }

    /// Vectors of all copies.
    pub fn all_vectors(&self) -> usize {
        self.buffers * self.vectors()
    }

    pub fn blocks(&self) -> usize {
        self.rows / 4 * (self.depth / self.height)
    }

    /// The largest height of blocks of operands contiguous along rows that gives all invocations as many.
    pub fn even_height(&self) -> usize {
        let even = |height: &usize| Tile { height: *height, ..self.clone() }.blocks().is_multiple_of(self.group);
        [4, 2, 1].into_iter().find(even).unwrap_or(4)
    }

    fn rounds(&self) -> usize {
        self.blocks().div_ceil(self.group)
    }

    fn partial(&self, round: usize) -> bool {
        (round + 1) * self.group > self.blocks()
    }

    /// Declares each round's registers and binds its block's place in the tile. `depth_first`: invocations next to each other fill blocks next to
    /// each other along depth.
    pub fn place(&self, cx: &mut Cx, depth_first: bool) {
        let p = &self.name;
        let worker = match self.shift % self.group {
            0 => "local".to_string(),
            s => format!("((local + {}u) % {}u)", self.group - s, self.group),
        };
        for round in 0..self.rounds() {
            let p = format!("{p}_{round}");
            cx.code.line(format!("let {p}_block = {};", affine((round * self.group) as i64, &[(1, worker.clone())])));
            let (row_blocks, depth_blocks) = (self.rows / 4, self.depth / self.height);
            let (row, depth) = if depth_first {
                (format!("{p}_block / {depth_blocks}u"), format!("{p}_block % {depth_blocks}u"))
            } else {
                (format!("{p}_block % {row_blocks}u"), format!("{p}_block / {row_blocks}u"))
            };
            cx.code.line(format!("let {p}_row = ({row}) * 4u;"));
            cx.code.line(format!("let {p}_depth = ({depth}) * {}u;", self.height));
            let within = match self.height {
                4 => String::new(),
                _ => format!("{p}_depth % 4u * {}u + ", self.rows / 4),
            };
            cx.code.line(format!("let {p}_to = {p}_depth / 4u * {}u + {within}{p}_row / 4u;", self.block_stride()));
            if self.partial(round) {
                cx.code.line(format!("let {p}_works = {p}_block < {}u;", self.blocks()));
            }
            for j in 0..self.height {
                cx.code.line(format!("var {p}_d{j} = vec4<f32>();"));
            }
        }
    }

    /// Binds the addresses of each round's rows, of which `first_row` (a name or constant) is the tile's first. They do not change along depth.
    pub fn address(&self, cx: &mut Cx, x: &Operand, first_row: &str) {
        for round in 0..self.rounds() {
            let p = format!("{}_{round}", self.name);
            for i in 0..if x.along == Along::Rows { 1 } else { 4 } {
                let flat = format!("{p}_r{i}");
                let index = affine(i, &[(1, first_row.to_string()), (1, format!("{p}_row"))]);
                cx.code.line(format!("let {flat} = {index};"));
                let base = match x.unit(cx) {
                    1 => format!("{}_base", self.name),
                    _ => quarter(&format!("{}_base", self.name)),
                };
                let row = match (x.unit(cx), x.along) {
                    (1, _) => address(0, &flat, &x.rows, &x.row_strides),
                    (_, Along::Rows) => quarter(&address(0, &flat, &x.rows, &x.row_strides)),
                    (unit, _) => {
                        let strides: Vec<i64> = x.row_strides.iter().map(|s| s / unit).collect();
                        address(0, &flat, &x.rows, &strides)
                    }
                };
                // Rows along one axis are constants apart.
                let at = match (i, x.rows.len()) {
                    (1.., 1) => affine(x.row_strides[0] / x.unit(cx) * i, &[(1, format!("{p}_r0_at"))]),
                    _ => affine(0, &[(1, base), (1, row)]),
                };
                cx.code.line(format!("let {flat}_at = {at};"));
            }
        }
    }

    /// Both: what fetches and commits of blocks of `x` need.
    pub fn prepare(&self, cx: &mut Cx, x: &Operand, first_row: &str) {
        self.place(cx, x.depth_first);
        self.address(cx, x, first_row);
    }

    /// Reads the blocks at depth `first_depth` (a name or constant) into registers. `row_guard` and `depth_guard` say whether the
    /// tile may reach beyond the operand.
    pub fn fetch(&self, cx: &mut Cx, x: &Operand, first_depth: &str, row_guard: bool, depth_guard: bool) {
        let (rows, depth) = (x.count_rows(), x.count_depth());
        for round in 0..self.rounds() {
            let p = format!("{}_{round}", self.name);
            if self.partial(round) {
                cx.code.open(format!("if ({p}_works)"));
            }
            let index = affine(0, &[(1, first_depth.to_string()), (1, format!("{p}_depth"))]);
            let (single, unit) = (x.depth.len() <= 1, x.unit(cx));
            let strides: Vec<i64> = match x.along {
                Along::Rows => x.depth_strides.iter().map(|s| s / unit).collect(),
                _ => x.depth_strides.clone(),
            };
            cx.code.open("");
            cx.code.line(format!("let depth = {index};"));
            let depth_at = |cx: &mut Cx, j: i64| -> String {
                // One axis: a constant apart. Several: each decomposed.
                if single || j == 0 {
                    let flat = "depth";
                    let base = address(0, flat, &x.depth, &strides);
                    let step = strides.first().copied().unwrap_or(0) * j;
                    return if step == 0 { base } else { affine(step, &[(1, base)]) };
                }
                let flat = format!("depth_{j}");
                cx.code.line(format!("let {flat} = depth + {j}u;"));
                address(0, &flat, &x.depth, &strides)
            };
            let convert = |cx: &Cx, text: String, wide: bool| match (cx.dtype(x.arg), wide) {
                (DType::F32, _) => text,
                (_, true) => format!("vec4<f32>({text})"),
                (_, false) => format!("f32({text})"),
            };
            let load4 = |cx: &Cx, address: &str| {
                if unit == 4 {
                    return convert(cx, cx.load_vector(x.arg, address), true);
                }
                let each: Vec<String> = (0..4)
                    .map(|l| {
                        convert(
                            cx,
                            cx.load(x.arg, &if l == 0 { address.to_string() } else { format!("{address} + {l}u") }),
                            false,
                        )
                    })
                    .collect();
                format!("vec4<f32>({})", each.join(", "))
            };
            match x.along {
                Along::Depth => {
                    let from = depth_at(cx, 0);
                    cx.code.line(if unit == 4 {
                        format!("let at = ({from}) / 4u;")
                    } else {
                        format!("let at = {from};")
                    });
                    for i in 0..4 {
                        let mut guards = Vec::new();
                        if row_guard {
                            guards.push(format!("{p}_r{i} < {rows}u"));
                        }
                        if depth_guard {
                            guards.push(format!("depth < {depth}u"));
                        }
                        let value = load4(cx, &format!("{p}_r{i}_at + at"));
                        guarded(cx, &format!("r{i}"), "vec4<f32>", &guards, &value);
                    }
                    for (j, lane) in ["x", "y", "z", "w"].iter().enumerate() {
                        cx.code.line(format!("{p}_d{j} = vec4<f32>(r0.{lane}, r1.{lane}, r2.{lane}, r3.{lane});"));
                    }
                }
                Along::Rows => {
                    for j in 0..self.height as i64 {
                        let from = depth_at(cx, j);
                        let mut guards = Vec::new();
                        if row_guard {
                            guards.push(format!("{p}_r0 < {rows}u"));
                        }
                        if depth_guard {
                            guards.push(format!("depth + {j}u < {depth}u"));
                        }
                        let value = load4(cx, &format!("{p}_r0_at + {from}"));
                        assign(cx, &format!("{p}_d{j}"), "vec4<f32>()", &guards, &value);
                    }
                }
                Along::Neither => {
                    for j in 0..self.height as i64 {
                        let from = depth_at(cx, j);
                        cx.code.line(format!("let at_{j} = {from};"));
                        if row_guard || depth_guard {
                            cx.code.line(format!("{p}_d{j} = vec4<f32>();"));
                        }
                        if depth_guard {
                            cx.code.open(format!("if (depth + {j}u < {depth}u)"));
                        }
                        for (i, lane) in ["x", "y", "z", "w"].iter().enumerate() {
                            let value = convert(cx, cx.load(x.arg, &format!("{p}_r{i}_at + at_{j}")), false);
                            let target = format!("{p}_d{j}.{lane} = {value};");
                            cx.code.line(if row_guard {
                                format!("if ({p}_r{i} < {rows}u) {{ {target} }}")
                            } else {
                                target
                            });
                        }
                        if depth_guard {
                            cx.code.close();
                        }
                    }
                }
            }
            cx.code.close();
            if self.partial(round) {
                cx.code.close();
            }
        }
    }

    /// Rounds the fetched blocks to f16.
    pub fn round(&self, cx: &mut Cx) {
        let round = cx.helper("round_to_f16", true);
        for round_of_blocks in 0..self.rounds() {
            for j in 0..self.height {
                let block = format!("{}_{round_of_blocks}_d{j}", self.name);
                cx.code.line(format!("{block} = {round}({block});"));
            }
        }
    }

    /// Writes the fetched blocks to workgroup memory, from the vector `first` (a name) on, or from its start.
    pub fn commit(&self, cx: &mut Cx, first: Option<&str>) {
        for round in 0..self.rounds() {
            let p = format!("{}_{round}", self.name);
            // A block in any case: attention commits a tile several times in one scope.
            cx.code.open(if self.partial(round) { format!("if ({p}_works)") } else { String::new() });
            let first: Vec<(i64, String)> = first.into_iter().map(|first| (1, first.to_string())).collect();
            for j in 0..self.height {
                let to = affine((j * self.rows / 4) as i64, &[first.clone(), vec![(1, format!("{p}_to"))]].concat());
                cx.code.line(format!("{}[{to}] = {p}_d{j};", self.name));
            }
            cx.code.close();
        }
    }
}

/// `let name = value`, or zero where a guard fails.
fn guarded(cx: &mut Cx, name: &str, ty: &str, guards: &[String], value: &str) {
    if guards.is_empty() {
        cx.code.line(format!("let {name} = {value};"));
    } else {
        cx.code.line(format!("var {name} = {ty}();"));
        cx.code.line(format!("if ({}) {{ {name} = {value}; }}", guards.join(" && ")));
    }
}

fn assign(cx: &mut Cx, name: &str, zero: &str, guards: &[String], value: &str) {
    if guards.is_empty() {
        cx.code.line(format!("{name} = {value};"));
    } else {
        cx.code.line(format!("{name} = {zero};"));
        cx.code.line(format!("if ({}) {{ {name} = {value}; }}", guards.join(" && ")));
    }
}

/// A tile to multiply.
#[derive(Clone, Copy, Debug)]
pub struct TileAt<'a> {
    /// Its array in workgroup memory.
    array: &'a str,
    rows: usize,
    block_stride: usize,
    /// Name of its first vector; None for 0.
    first: Option<&'a str>,
}

impl TileAt<'_> {
    /// The first vector at a depth.
    fn depth_at(&self, depth: usize) -> usize {
        depth / 4 * self.block_stride + depth % 4 * (self.rows / 4)
    }
}

/// Vectors of padding after every four of depth: eight blocks, as many along depth as there are and the others along rows, start in different
/// eighths of 128 bytes.
fn pad(depth: usize) -> usize {
    match depth / 4 {
        0 | 1 => 0,
        blocks => (8 / blocks.next_power_of_two()).max(1),
    }
}

/// Bytes of a copy of a tile.
pub fn tile_bytes(rows: usize, depth: usize) -> usize {
    16 * (depth / 4) * (rows + pad(depth))
}

/// Registers `sums` of an invocation: `each_m` rows by `each_n` columns, four columns a vector. Row i is row
/// `(i / 4) * m_stride + 4 * y + i % 4` of the left tile, vector j the columns from `j * n_stride + 4 * x` on of the right.
#[derive(Clone, Debug)]
pub struct Registers {
    pub name: String,
    pub each_m: usize,
    pub each_n: usize,
}

impl Registers {
    pub fn at(&self, i: usize, j: usize) -> String {
        format!("{}_{i}_{j}", self.name)
    }

    pub fn declare(&self, cx: &mut Cx) {
        for i in 0..self.each_m {
            for j in 0..self.each_n / 4 {
                cx.code.line(format!("var {} = vec4<f32>();", self.at(i, j)));
            }
        }
    }

    /// Adds the product of two tiles over `depth` steps, `unroll` of them spelled out in a loop: `x` and `y` number the invocation along columns
    /// and rows. The depth, and what is spelled out of it, are multiples of four.
    pub fn multiply(&self, cx: &mut Cx, lhs: TileAt, rhs: TileAt, depth: usize, unroll: usize) {
        let unroll = 4 * (1..=unroll.min(depth) / 4).rev().find(|u| (depth / 4).is_multiple_of(*u)).unwrap_or(1);
        let (m_vectors, n_vectors) = (lhs.rows / 4, rhs.rows / 4);
        let (m_parts, n_parts) = (self.each_m / 4, self.each_n / 4);
        let first = |tile: &TileAt| tile.first.map_or(String::new(), |first| format!(" + {first}"));
        if depth > unroll {
            cx.code.open(format!("for (var step = 0u; step < {depth}u; step += {unroll}u)"));
            cx.code.line(format!("let a_at = step / 4u * {}u + y{};", lhs.block_stride, first(&lhs)));
            cx.code.line(format!("let b_at = step / 4u * {}u + x{};", rhs.block_stride, first(&rhs)));
        } else {
            cx.code.open("");
            cx.code.line(format!("let a_at = y{};", first(&lhs)));
            cx.code.line(format!("let b_at = x{};", first(&rhs)));
        }
        for u in 0..unroll {
            cx.code.open("");
            for p in 0..m_parts {
                let to = affine((lhs.depth_at(u) + p * m_vectors / m_parts) as i64, &[(1, "a_at".into())]);
                cx.code.line(format!("let a_{p} = {}[{to}];", lhs.array));
            }
            for p in 0..n_parts {
                let to = affine((rhs.depth_at(u) + p * n_vectors / n_parts) as i64, &[(1, "b_at".into())]);
                cx.code.line(format!("let b_{p} = {}[{to}];", rhs.array));
            }
            for i in 0..self.each_m {
                let lane = ["x", "y", "z", "w"][i % 4];
                for j in 0..n_parts {
                    let s = self.at(i, j);
                    cx.code.line(format!("{s} = fma(vec4<f32>(a_{}.{lane}), b_{j}, {s});", i / 4));
                }
            }
            cx.code.close();
        }
        cx.code.close();
    }
}
