//! Contractions on cooperative matrices: the invocations of a subgroup together multiply 16x16 matrices of f16 and add in f32.
//!
//! A workgroup computes `m` x `n` results of one batch element of one part, its subgroups `m / by_m` x `n / by_n` each, as matrices of sums that stay in
//! registers. The contracted axes are walked in steps of `k`: while a step is multiplied the next is on its way from memory. Operands that are f32 there
//! are rounded to f16 as they are written to workgroup memory, in the order in which they lie in memory, since a matrix can be loaded by rows or by columns. What
//! happens to the sums (epilogues, slices) is that of [`contract`](crate::contract), to which they go through workgroup memory, sixteen rows
//! a subgroup at a time: which invocation holds which sum is the driver's secret.
//!
//! Invariants
//! - All terms of the contraction round their operands to f16. Products of f16 are exact in f32, so that only the order of additions differs from
//!   that of other variants.
//! - Subgroups have one size on the adapter, and invocation i of a workgroup is in subgroup i / size: the runtime compares a product with one by plain
//!   arithmetic before it uses any of these kernels.
//! - Rows and depth beyond an operand's read as zero, and touch no memory.
//! - Loops around barriers have constant bounds: control flow is uniform wherever the workgroup works.
//! - Indices and strides are bound before the call that takes them, matrices have names of their own, and no name is that of a role: naga's SPIR-V
//!   writer refuses anything else.

use crate::caps::Caps;
use crate::contract::{Part, combine, constants, finish, keep, main, parts};
use crate::cx::Cx;
use crate::error::{Error, refuse};
use crate::space::address;
use crate::text::{affine, type_name};
use crate::tile::{Along, Operand};
use tinygpt_ir::program::{Contract, ContractPart};
use tinygpt_ir::types::{DType, numel};

/// Rows and columns of a matrix.
pub const SIDE: u32 = 16;
/// f16 between the rows of a tile, so that neighbouring rows begin in different banks of workgroup memory.
pub const PAD: usize = 8;
/// f32 between the rows of the sums.
const SUM_PAD: usize = 4;

/// Bytes of workgroup memory that a workgroup may take: beyond them some drivers do not come back from compiling.
const ROOM: u32 = 48 << 10;

/// The numbers of a variant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Blocks {
    pub m: u32,
    pub n: u32,
    pub k: u32,
    pub by_m: u32,
    pub by_n: u32,
    pub split: u32,
}

impl Blocks {
    pub fn invocations(&self, subgroup: u32) -> u32 {
        self.by_m * self.by_n * subgroup
    }

    fn tile_bytes(&self) -> u32 {
        let tile = |rows: u32| 2 * tile_elements(rows as usize, self.k as usize) as u32;
        tile(self.m) + tile(self.n)
    }

    /// Bytes of so many matrices of sums of a row of each subgroup on their way.
    fn sum_bytes(&self, at_once: u32) -> u32 {
        4 * self.by_m * SIDE * (self.by_n * at_once * SIDE + SUM_PAD as u32)
    }

    /// Matrices of a row of sums that a subgroup hands over at once on such an adapter: all of the row where there is room for them.
    fn at_once(&self, caps: &Caps) -> u32 {
        let (all, room) = (self.n / self.by_n / SIDE, caps.workgroup_bytes.min(ROOM));
        let fits = |n: &u32| all.is_multiple_of(*n) && self.tile_bytes() + self.sum_bytes(*n) <= room;
        (1..=all).rev().find(fits).unwrap_or(1)
    }

    /// Whether an adapter runs workgroups of both tiles and of the sums on their way.
    pub fn fits(&self, subgroup: u32, caps: &Caps) -> bool {
        let bytes = self.tile_bytes() + self.sum_bytes(self.at_once(caps));
        self.invocations(subgroup) <= caps.flat_workgroup() && bytes <= caps.workgroup_bytes.min(ROOM)
    }

    fn is_valid(&self) -> bool {
        let of = |whole: u32, parts: u32| parts > 0 && whole > 0 && whole.is_multiple_of(parts * SIDE);
        of(self.m, self.by_m) && of(self.n, self.by_n) && of(self.k, 1) && self.split > 0
    }

    /// Workgroups of a part, for one slice.
    pub fn tiles(&self, p: &ContractPart) -> usize {
        numel(&p.batch) * numel(&p.m).div_ceil(self.m as usize) * numel(&p.n).div_ceil(self.n as usize)
    }
}

/// Room for a tile in either order.
pub fn tile_elements(rows: usize, depth: usize) -> usize {
    (rows * (depth + PAD)).max(depth * (rows + PAD))
}

/// Declares an array of so many f16 in workgroup memory.
pub fn declare(cx: &mut Cx, array: &str, elements: usize) {
    cx.workgroup(array, &format!("array<vec4<f16>, {}>", elements / 4), 2 * elements as u32);
}

/// Whether the kernel may run on cooperative matrices.
pub fn allows(k: &Contract) -> bool {
    k.parts.iter().flat_map(|p| &p.terms).all(|t| t.f16)
}

pub fn emit(cx: &mut Cx, k: &Contract, t: Blocks) -> Result<(), Error> {
    let Some(subgroup) = cx.caps.cooperative.filter(|_| allows(k)) else {
        return refuse(format!(
            "kernel {}: cooperative matrices need an adapter that has them, and products whose operands are rounded to f16: choose another variant",
            cx.name
        ));
    };
    if !t.is_valid() {
        return refuse(format!(
            "kernel {}: what a subgroup computes is a multiple of {SIDE} both ways, and so is a step: found {}x{} by {}x{} subgroups in steps of {}",
            cx.name, t.m, t.n, t.by_m, t.by_n, t.k
        ));
    }
    let parts = parts(cx, k, t.split);
    for (i, p) in parts.iter().enumerate() {
        constants(cx, i, p);
        finish(cx, i, p);
        part_function(cx, i, p, t, subgroup);
    }
    let tiles: Vec<usize> = parts.iter().map(|p| t.tiles(p.part)).collect();
    main(cx, &tiles, t.split, t.invocations(subgroup))?;
    if t.split > 1 {
        combine(cx, &parts, t.split)?;
    }
    Ok(())
}

/// `part_i(tile, slice, local)`: all of a workgroup's work on part i.
fn part_function(cx: &mut Cx, i: usize, p: &Part, t: Blocks, subgroup: u32) {
    let (tm, tn, tk) = (t.m as usize, t.n as usize, t.k as usize);
    let (tiles_m, tiles_n) = (p.m.div_ceil(tm), p.n.div_ceil(tn));
    let group = t.invocations(subgroup) as usize;
    let (each_m, each_n) = (t.m / t.by_m, t.n / t.by_n);
    let (matrices_m, matrices_n) = (each_m / SIDE, each_n / SIDE);
    cx.code.blank();
    cx.code.open(format!("fn part_{i}(tile: u32, slice: u32, local: u32)"));
    cx.code.line(format!("let first_n = (tile % {tiles_n}u) * {tn}u;"));
    cx.code.line(format!("let first_m = (tile / {tiles_n}u % {tiles_m}u) * {tm}u;"));
    cx.code.line(format!("let batch = tile / {}u;", tiles_n * tiles_m));
    cx.code.line(format!("let own_m = (local / {}u) * {each_m}u;", subgroup * t.by_n));
    cx.code.line(format!("let own_n = (local / {subgroup}u % {}u) * {each_n}u;", t.by_n));
    for a in 0..matrices_m {
        for b in 0..matrices_n {
            cx.code.line(format!("var sum_{a}_{b} = coop_mat16x16<f32,C>();"));
        }
    }
    for (number, ((a, b), term)) in p.operands.iter().zip(&p.part.terms).enumerate() {
        let staged = |name, x, rows| Staged { name, array: name, base: 0, batch: "batch", x, rows, depth: tk, group };
        let (lhs, rhs) = (staged("lhs", a, tm), staged("rhs", b, tn));
        for tile in [&lhs, &rhs] {
            declare(cx, tile.array, tile_elements(tile.rows, tk));
        }
        let depth = numel(&term.k);
        let steps = depth.div_ceil(tk).div_ceil(t.split as usize);
        // Whether the last step may reach beyond the operands' depth.
        let ragged = steps * tk * t.split as usize != depth;
        cx.code.line(format!("// Product {number}: {steps} steps of {tk} along its {depth} contracted elements."));
        cx.code.open("");
        lhs.prepare(cx, "first_m");
        rhs.prepare(cx, "first_n");
        let first = if t.split > 1 { format!("slice * {}u", steps * tk) } else { "0u".into() };
        let fetch = |cx: &mut Cx, from: &str| {
            lhs.fetch(cx, from, !p.m.is_multiple_of(tm), ragged);
            rhs.fetch(cx, from, !p.n.is_multiple_of(tn), ragged);
        };
        cx.code.line(format!("let first_k = {first};"));
        fetch(cx, "first_k");
        cx.code.open(format!("for (var s = 0u; s < {steps}u; s++)"));
        cx.code.line("workgroupBarrier();");
        lhs.commit(cx);
        rhs.commit(cx);
        cx.code.line("workgroupBarrier();");
        if steps > 1 {
            cx.code.open(format!("if (s + 1u < {steps}u)"));
            cx.code.line(format!("let next_k = first_k + (s + 1u) * {tk}u;"));
            fetch(cx, "next_k");
            cx.code.close();
        }
        for k in (0..t.k).step_by(SIDE as usize) {
            cx.code.open("");
            let corner = |first, number| Corner { first, row: number * SIDE, depth: k };
            (0..matrices_m).for_each(|a| lhs.load(cx, &format!("lhs_{a}_matrix"), 'A', corner("own_m", a), false));
            (0..matrices_n).for_each(|b| rhs.load(cx, &format!("rhs_{b}_matrix"), 'B', corner("own_n", b), false));
            for a in 0..matrices_m {
                for b in 0..matrices_n {
                    cx.code
                        .line(format!("sum_{a}_{b} = coopMultiplyAdd(lhs_{a}_matrix, rhs_{b}_matrix, sum_{a}_{b});"));
                }
            }
            cx.code.close();
        }
        cx.code.close();
        cx.code.close();
    }
    deliver(cx, i, p, t, subgroup);
    cx.code.close();
    if t.split > 1 {
        keep(cx, i, p);
    }
}

/// Hands all sums of the workgroup to the epilogue or to the slice's scratch: in turn the first, second.. row of matrices of every subgroup, and of a
/// row as many matrices as there is room for.
fn deliver(cx: &mut Cx, i: usize, p: &Part, t: Blocks, subgroup: u32) {
    let (each_m, each_n) = (t.m / t.by_m, t.n / t.by_n);
    let at_once = t.at_once(cx.caps);
    // Vectors of a subgroup, and of all, in a row.
    let own = at_once * SIDE / 4;
    let (rows, columns) = (t.by_m * SIDE, t.by_n * own);
    let stride = columns as usize + SUM_PAD / 4;
    let vectors = rows as usize * stride;
    cx.workgroup("sums", &format!("array<vec4<f32>, {vectors}>"), 16 * vectors as u32);
    let (group, count) = (t.invocations(subgroup), rows * columns);
    let own_column = match own * 4 == each_n {
        true => "own_n / 4u".to_string(),
        false => format!("(local / {subgroup}u % {}u) * {own}u", t.by_n),
    };
    cx.code.line(format!(
        "let own_sums = (local / {}u) * {}u + {own_column};",
        subgroup * t.by_n,
        SIDE as usize * stride
    ));
    cx.code.line(format!("let sums_stride = {stride}u;"));
    for a in 0..each_m / SIDE {
        for first in (0..each_n / SIDE).step_by(at_once as usize) {
            cx.code.line("workgroupBarrier();");
            for b in first..first + at_once {
                cx.code.line(format!("let to_{a}_{b} = own_sums + {}u;", (b - first) * SIDE / 4));
                cx.code.line(format!("coopStoreT(sum_{a}_{b}, &sums[to_{a}_{b}], sums_stride);"));
            }
            cx.code.line("workgroupBarrier();");
            cx.code.open(format!("for (var v = local; v < {count}u; v += {group}u)"));
            cx.code.line(format!("let row = v / {columns}u;"));
            cx.code.line(format!("let column = v % {columns}u;"));
            let m = affine(
                i64::from(a * SIDE),
                &[(1, "first_m".into()), (each_m.into(), format!("(row / {SIDE}u)")), (1, format!("row % {SIDE}u"))],
            );
            cx.code.line(format!("let m = {m};"));
            let whole = (each_n.into(), format!("(column / {own}u)"));
            let n = match own * 4 == each_n {
                true => affine(0, &[(1, "first_n".into()), (4, "column".into())]),
                false => {
                    affine(i64::from(first * SIDE), &[(1, "first_n".into()), whole, (4, format!("(column % {own}u)"))])
                }
            };
            cx.code.line(format!("let n = {n};"));
            cx.code.line("let sum = sums[row * sums_stride + column];");
            if t.split > 1 {
                cx.code.line(format!("keep_{i}(slice, batch, m, n, sum);"));
            } else if p.wide {
                cx.code.line(format!("finish_{i}(batch, m, n, sum);"));
            } else {
                for (l, lane) in ["x", "y", "z", "w"].iter().enumerate() {
                    cx.code.line(format!("finish_{i}(batch, m, n + {l}u, sum.{lane});"));
                }
            }
            cx.code.close();
        }
    }
}

/// An operand's tile in workgroup memory: vectors of four f16 along the axis that neighbours in memory are along, lines of them along the other.
pub struct Staged<'a> {
    /// Prefix of all names.
    pub name: &'static str,
    /// The array that it is in, with what its user declares, and its first vector there.
    pub array: &'static str,
    pub base: usize,
    /// Name of the number of the batch element.
    pub batch: &'static str,
    pub x: &'a Operand,
    pub rows: usize,
    pub depth: usize,
    /// Invocations of the workgroup.
    pub group: usize,
}

/// Where a matrix begins in a tile: the `row`th row from the one named `first` on, and an element of depth.
#[derive(Clone, Copy)]
pub struct Corner<'a> {
    pub first: &'a str,
    pub row: u32,
    pub depth: u32,
}

impl Staged<'_> {
    /// Whether vectors run along depth.
    fn along_depth(&self) -> bool {
        match self.x.along {
            Along::Depth => true,
            Along::Rows => false,
            Along::Neither => self.x.depth_first,
        }
    }

    /// Elements of a line, and lines.
    fn extents(&self) -> (usize, usize) {
        if self.along_depth() { (self.depth, self.rows) } else { (self.rows, self.depth) }
    }

    /// Vectors between the starts of lines.
    fn stride(&self) -> usize {
        (self.extents().0 + PAD) / 4
    }

    fn vectors(&self) -> usize {
        self.rows * self.depth / 4
    }

    fn rounds(&self) -> usize {
        self.vectors().div_ceil(self.group)
    }

    fn partial(&self, round: usize) -> bool {
        (round + 1) * self.group > self.vectors()
    }

    /// Binds what does not change along depth. `first_row` is a name.
    pub fn prepare(&self, cx: &mut Cx, first_row: &str) {
        self.places(cx);
        self.address(cx, first_row);
    }

    /// Binds which vectors of the tile are the invocation's, and declares the registers in which they come.
    pub fn places(&self, cx: &mut Cx) {
        self.x.begin(cx, self.name, self.batch);
        let across = self.extents().0 / 4;
        for round in 0..self.rounds() {
            let p = format!("{}_{round}", self.name);
            cx.code.line(format!("let {p}_vector = {};", affine((round * self.group) as i64, &[(1, "local".into())])));
            cx.code.line(format!("let {p}_line = {p}_vector / {across}u;"));
            cx.code.line(format!("let {p}_place = ({p}_vector % {across}u) * 4u;"));
            if self.partial(round) {
                cx.code.line(format!("let {p}_works = {p}_vector < {}u;", self.vectors()));
            }
            cx.code.line(format!("var {p} = {}();", self.vector(cx)));
        }
    }

    /// Binds the addresses of the invocation's vectors at depth 0, where the tile's first row is the one named `first_row`.
    pub fn address(&self, cx: &mut Cx, first_row: &str) {
        for round in 0..self.rounds() {
            let p = format!("{}_{round}", self.name);
            let row = if self.along_depth() { format!("{p}_line") } else { format!("{p}_place") };
            cx.code.line(format!("let {p}_row = {first_row} + {row};"));
            // Four rows of any strides each have an address.
            let lanes = if self.x.along == Along::Neither && !self.along_depth() { 4 } else { 1 };
            for l in 0..lanes {
                let flat = if l == 0 { format!("{p}_row") } else { format!("({p}_row + {l}u)") };
                let row = address(0, &flat, &self.x.rows, &self.x.row_strides);
                cx.code
                    .line(format!("let {p}_at{l} = {};", affine(0, &[(1, format!("{}_base", self.name)), (1, row)])));
            }
        }
    }

    /// The type of four elements as they are in memory.
    fn vector(&self, cx: &Cx) -> String {
        type_name(cx.dtype(self.x.arg), true)
    }

    /// Reads the tile at depth `first_depth` (a name) into registers. The guards say whether it may reach beyond the operand.
    pub fn fetch(&self, cx: &mut Cx, first_depth: &str, row_guard: bool, depth_guard: bool) {
        let x = self.x;
        let (rows, depth) = (x.count_rows(), x.count_depth());
        for round in 0..self.rounds() {
            let p = format!("{}_{round}", self.name);
            cx.code.open(if self.partial(round) { format!("if ({p}_works)") } else { String::new() });
            let own = if self.along_depth() { format!("{p}_place") } else { format!("{p}_line") };
            cx.code.line(format!("let depth = {first_depth} + {own};"));
            if x.along == Along::Neither {
                cx.code.line(format!("{p} = {}();", self.vector(cx)));
                for (l, lane) in ["x", "y", "z", "w"].iter().enumerate() {
                    let (row, at, flat) = match (self.along_depth(), l) {
                        (true, 0) => (format!("{p}_row"), format!("{p}_at0"), "depth".into()),
                        (true, _) => (format!("{p}_row"), format!("{p}_at0"), format!("(depth + {l}u)")),
                        (false, _) => (format!("{p}_row + {l}u"), format!("{p}_at{l}"), "depth".to_string()),
                    };
                    let mut guards = Vec::new();
                    if row_guard {
                        guards.push(format!("{row} < {rows}u"));
                    }
                    if depth_guard {
                        guards.push(format!("{flat} < {depth}u"));
                    }
                    let along = address(0, &flat, &x.depth, &x.depth_strides);
                    let value = cx.load(x.arg, &affine(0, &[(1, at), (1, along)]));
                    guarded(cx, &guards, &format!("{p}.{lane} = {value};"));
                }
            } else {
                let mut guards = Vec::new();
                if row_guard {
                    guards.push(format!("{p}_row < {rows}u"));
                }
                if depth_guard {
                    guards.push(format!("depth < {depth}u"));
                }
                let along = address(0, "depth", &x.depth, &x.depth_strides);
                let at = affine(0, &[(1, format!("{p}_at0")), (1, along)]);
                let value = if cx.is_vector(x.arg) {
                    cx.load4(x.arg, &at)
                } else {
                    let each: Vec<String> = (0..4).map(|l| cx.load(x.arg, &format!("{at} + {l}u"))).collect();
                    format!("{}({})", self.vector(cx), each.join(", "))
                };
                if !guards.is_empty() {
                    cx.code.line(format!("{p} = {}();", self.vector(cx)));
                }
                guarded(cx, &guards, &format!("{p} = {value};"));
            }
            cx.code.close();
        }
    }

    /// Writes what was read to workgroup memory, rounded.
    pub fn commit(&self, cx: &mut Cx) {
        for round in 0..self.rounds() {
            let p = format!("{}_{round}", self.name);
            let to = affine(
                self.base as i64,
                &[(self.stride() as i64, format!("{p}_line")), (1, format!("{p}_place / 4u"))],
            );
            let value = if cx.dtype(self.x.arg) == DType::F16 { p.clone() } else { format!("vec4<f16>({p})") };
            let line = format!("{}[{to}] = {value};", self.array);
            cx.code.line(if self.partial(round) { format!("if ({p}_works) {{ {line} }}") } else { line });
        }
    }

    /// Binds `to`, the matrix of a role at `corner`. The left matrix has rows of the tile as its rows, the right one as its columns; `across` makes
    /// them the other way round.
    pub fn load(&self, cx: &mut Cx, to: &str, role: char, corner: Corner, across: bool) {
        let (stride, Corner { first, row, depth }) = (self.stride(), corner);
        let at = if self.along_depth() {
            affine(
                (self.base + row as usize * stride) as i64 + i64::from(depth / 4),
                &[(stride as i64, first.to_string())],
            )
        } else {
            affine((self.base + depth as usize * stride) as i64 + i64::from(row / 4), &[(1, format!("{first} / 4u"))])
        };
        cx.code.line(format!("let {to}_from = {at};"));
        cx.code.line(format!("let {to}_stride = {stride}u;"));
        let rows_along_depth = (role == 'A') != across;
        let load = if self.along_depth() == rows_along_depth { "coopLoadT" } else { "coopLoad" };
        let array = self.array;
        cx.code.line(format!("let {to} = {load}<coop_mat16x16<f16,{role}>>(&{array}[{to}_from], {to}_stride);"));
    }
}

/// `statement` where all guards hold.
fn guarded(cx: &mut Cx, guards: &[String], statement: &str) {
    cx.code.line(match guards {
        [] => statement.to_string(),
        _ => format!("if ({}) {{ {statement} }}", guards.join(" && ")),
    });
}
