//! Contractions on cooperative matrices: the invocations of a subgroup together multiply 16x16 matrices of f16 and add in f32.
//!
//! A workgroup computes `m` x `n` results of one batch element of one part, its subgroups `m / by_m` x `n / by_n` each, as matrices of sums that stay in
//! registers. The contracted axes are walked in steps of `k`: while a step is multiplied the next is on its way from memory. Operands are rounded to
//! f16 as they are written to workgroup memory, in the order in which they lie in memory, since a matrix can be loaded by rows or by columns. What
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

use crate::contract::{Part, combine, constants, finish, keep, main, parts};
use crate::cx::Cx;
use crate::error::{Error, refuse};
use crate::space::address;
use crate::text::affine;
use crate::tile::{Along, Operand};
use tinygpt_ir::program::{Contract, ContractPart};
use tinygpt_ir::types::numel;

/// Rows and columns of a matrix.
const SIDE: u32 = 16;
/// f16 between the rows of a tile, so that neighbouring rows begin in different banks of workgroup memory.
const PAD: usize = 8;
/// f32 between the rows of the sums.
const SUM_PAD: usize = 4;

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

    /// Bytes of both tiles and of the sums on their way.
    pub fn workgroup_bytes(&self) -> u32 {
        let tile = |rows: u32| 2 * tile_elements(rows as usize, self.k as usize) as u32;
        tile(self.m) + tile(self.n) + 4 * self.by_m * SIDE * (self.n + SUM_PAD as u32)
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
fn tile_elements(rows: usize, depth: usize) -> usize {
    (rows * (depth + PAD)).max(depth * (rows + PAD))
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
        let lhs = Staged { name: "lhs", role: 'A', x: a, rows: tm, depth: tk, group };
        let rhs = Staged { name: "rhs", role: 'B', x: b, rows: tn, depth: tk, group };
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
            (0..matrices_m).for_each(|a| lhs.load(cx, "own_m", a, k));
            (0..matrices_n).for_each(|b| rhs.load(cx, "own_n", b, k));
            for a in 0..matrices_m {
                for b in 0..matrices_n {
                    cx.code
                        .line(format!("sum_{a}_{b} = coopMultiplyAdd(lhs_matrix_{a}, rhs_matrix_{b}, sum_{a}_{b});"));
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

/// Hands all sums of the workgroup to the epilogue or to the slice's scratch: in turn the first, second.. row of matrices of every subgroup.
fn deliver(cx: &mut Cx, i: usize, p: &Part, t: Blocks, subgroup: u32) {
    let (each_m, each_n) = (t.m / t.by_m, t.n / t.by_n);
    let (rows, columns) = (t.by_m * SIDE, t.n / 4);
    let stride = (t.n as usize + SUM_PAD) / 4;
    let vectors = rows as usize * stride;
    cx.workgroup("sums", &format!("array<vec4<f32>, {vectors}>"), 16 * vectors as u32);
    let (group, count) = (t.invocations(subgroup), rows * columns);
    cx.code.line(format!(
        "let own_sums = (local / {}u) * {}u + own_n / 4u;",
        subgroup * t.by_n,
        SIDE as usize * stride
    ));
    cx.code.line(format!("let sums_stride = {stride}u;"));
    for a in 0..each_m / SIDE {
        cx.code.line("workgroupBarrier();");
        for b in 0..each_n / SIDE {
            cx.code.line(format!("let to_{a}_{b} = own_sums + {}u;", b * SIDE / 4));
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
        cx.code.line("let n = first_n + column * 4u;");
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

/// An operand's tile in workgroup memory: vectors of four f16 along the axis that neighbours in memory are along, lines of them along the other.
struct Staged<'a> {
    /// Name of the array, and prefix of all names.
    name: &'static str,
    role: char,
    x: &'a Operand,
    rows: usize,
    depth: usize,
    /// Invocations of the workgroup.
    group: usize,
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

    /// Declares the array, and binds what does not change along depth. `first_row` is a name.
    fn prepare(&self, cx: &mut Cx, first_row: &str) {
        let vectors = tile_elements(self.rows, self.depth) / 4;
        cx.workgroup(self.name, &format!("array<vec4<f16>, {vectors}>"), 8 * vectors as u32);
        self.x.begin(cx, self.name, "batch");
        let across = self.extents().0 / 4;
        for round in 0..self.rounds() {
            let p = format!("{}_{round}", self.name);
            cx.code.line(format!("let {p}_vector = {};", affine((round * self.group) as i64, &[(1, "local".into())])));
            cx.code.line(format!("let {p}_line = {p}_vector / {across}u;"));
            cx.code.line(format!("let {p}_place = ({p}_vector % {across}u) * 4u;"));
            if self.partial(round) {
                cx.code.line(format!("let {p}_works = {p}_vector < {}u;", self.vectors()));
            }
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
            cx.code.line(format!("var {p} = vec4<f32>();"));
        }
    }

    /// Reads the tile at depth `first_depth` (a name) into registers. The guards say whether it may reach beyond the operand.
    fn fetch(&self, cx: &mut Cx, first_depth: &str, row_guard: bool, depth_guard: bool) {
        let x = self.x;
        let (rows, depth) = (x.count_rows(), x.count_depth());
        for round in 0..self.rounds() {
            let p = format!("{}_{round}", self.name);
            cx.code.open(if self.partial(round) { format!("if ({p}_works)") } else { String::new() });
            let own = if self.along_depth() { format!("{p}_place") } else { format!("{p}_line") };
            cx.code.line(format!("let depth = {first_depth} + {own};"));
            if x.along == Along::Neither {
                cx.code.line(format!("{p} = vec4<f32>();"));
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
                    format!("vec4<f32>({})", each.join(", "))
                };
                if !guards.is_empty() {
                    cx.code.line(format!("{p} = vec4<f32>();"));
                }
                guarded(cx, &guards, &format!("{p} = {value};"));
            }
            cx.code.close();
        }
    }

    /// Writes what was read to workgroup memory, rounded.
    fn commit(&self, cx: &mut Cx) {
        for round in 0..self.rounds() {
            let p = format!("{}_{round}", self.name);
            let line = format!("{}[{p}_line * {}u + {p}_place / 4u] = vec4<f16>({p});", self.name, self.stride());
            cx.code.line(if self.partial(round) { format!("if ({p}_works) {{ {line} }}") } else { line });
        }
    }

    /// Binds `NAME_matrix_number`, the matrix that is the `number`th from row `first` on and begins at depth `k`.
    fn load(&self, cx: &mut Cx, first: &str, number: u32, k: u32) {
        let (name, stride) = (self.name, self.stride());
        let at = if self.along_depth() {
            affine(i64::from(number * SIDE) * stride as i64 + i64::from(k / 4), &[(stride as i64, first.to_string())])
        } else {
            affine(i64::from(k) * stride as i64 + i64::from(number * SIDE / 4), &[(1, format!("{first} / 4u"))])
        };
        cx.code.line(format!("let {name}_from_{number} = {at};"));
        cx.code.line(format!("let {name}_stride_{number} = {stride}u;"));
        // Rows of the left matrix run along depth, those of the right one along n.
        let by_rows = self.along_depth() == (self.role == 'A');
        let load = if by_rows { "coopLoadT" } else { "coopLoad" };
        let (role, from, by) = (self.role, format!("{name}_from_{number}"), format!("{name}_stride_{number}"));
        cx.code.line(format!("let {name}_matrix_{number} = {load}<coop_mat16x16<f16,{role}>>(&{name}[{from}], {by});"));
    }
}

/// `statement` where all guards hold.
fn guarded(cx: &mut Cx, guards: &[String], statement: &str) {
    cx.code.line(match guards {
        [] => statement.to_string(),
        _ => format!("if ({}) {{ {statement} }}", guards.join(" && ")),
    });
}
