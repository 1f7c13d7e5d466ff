//! Contractions: tiles in workgroup memory, sums in registers, epilogues on the registers.
//!
//! A workgroup computes `m` x `n` results of one batch element of one part; workgroup numbers run over parts, batches, rows of
//! tiles and columns of tiles. The contracted axes are walked in steps of `k`: while a step is multiplied the blocks of the next are on their way
//! from memory. With two buffers they are written beside the step that is being multiplied, at one barrier a step instead of two; with one, places in
//! the tiles are constants, and the loop is shorter. A sum of several products is one sequence of steps. Each part is a function, and so is its epilogue, which a call hands four neighbouring results along n (or one,
//! where n has no multiple of four).
//!
//! With `teams` > 1 several teams of a workgroup's invocations each compute all of its results over their share of every step's depth, and add up
//! their sums at the end: more invocations for the same tile, with fewer blocks to fetch for each.
//!
//! With `split` > 1 the steps are cut into slices for different workgroups, which leave their sums in scratch; a second dispatch
//! adds the slices in order and runs the epilogues. No atomics, so one result for one variant.
//!
//! Invariants
//! - Bounds of loops around barriers depend on the workgroup's number only: control flow is uniform wherever the workgroup works.
//! - An epilogue reads and writes at its own point only, so that a result may take the place of an epilogue operand.

use crate::cx::Cx;
use crate::error::{Error, refuse};
use crate::eval::{Eval, Value, is_aligned};
use crate::space::{Merged, merge_body, split};
use crate::text::affine;
use crate::tile::{Along, Operand, Registers, Tile, tile_bytes};
use tinygpt_ir::program::{Access, Contract, ContractPart};
use tinygpt_ir::types::{DType, numel};

/// The numbers of a variant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tiling {
    pub m: u32,
    pub n: u32,
    pub k: u32,
    pub each_m: u32,
    pub each_n: u32,
    /// Parts of a workgroup that each multiply their share of a step's depth.
    pub teams: u32,
    pub split: u32,
    /// Copies of the tiles, 1 or 2.
    pub buffers: u32,
    /// Steps of depth that the innermost loop spells out.
    pub unroll: u32,
}

impl Tiling {
    pub fn invocations(&self) -> u32 {
        (self.m / self.each_m) * (self.n / self.each_n) * self.teams
    }
    /// Bytes of both tiles in all copies.
    pub fn workgroup_bytes(&self) -> u32 {
        let tile = |rows: u32| tile_bytes(rows as usize, self.k as usize) as u32;
        self.buffers * (tile(self.m) + tile(self.n))
    }
    /// Bytes of the larger tile in all copies, through which teams add up their sums.
    fn exchange_bytes(&self) -> u32 {
        self.buffers * tile_bytes(self.m.max(self.n) as usize, self.k as usize) as u32
    }
    fn is_valid(&self) -> bool {
        let of = |whole: u32, part: u32| part > 0 && whole.is_multiple_of(part) && part.is_multiple_of(4);
        let steps = self.k > 0 && self.k.is_multiple_of(4) && self.split > 0 && self.unroll > 0;
        let teams = self.teams > 0
            && self.k.is_multiple_of(4 * self.teams)
            && self.each_m.is_multiple_of(self.teams)
            && 16 * (self.teams - 1) * (self.invocations() / self.teams) <= self.exchange_bytes();
        of(self.m, self.each_m) && of(self.n, self.each_n) && steps && teams && matches!(self.buffers, 1 | 2)
    }
    /// Workgroups of a part, for one slice.
    pub fn tiles(&self, p: &ContractPart) -> usize {
        numel(&p.batch) * numel(&p.m).div_ceil(self.m as usize) * numel(&p.n).div_ceil(self.n as usize)
    }
}

/// A part as it is emitted.
pub struct Part<'a> {
    pub part: &'a ContractPart,
    pub operands: Vec<(Operand, Operand)>,
    epilogue: Merged,
    /// Four results along n at once.
    pub wide: bool,
    pub m: usize,
    pub n: usize,
    /// First word of its slices in scratch.
    scratch: usize,
    /// Whether scratch is an array of vectors.
    vectors: bool,
}

pub fn emit(cx: &mut Cx, k: &Contract, t: Tiling) -> Result<(), Error> {
    if !t.is_valid() {
        return refuse(format!(
            "kernel {}: tiles of a variant are multiples of what an invocation computes, which is a multiple of 4, in one or two buffers: \
             found {}x{}x{} by {}x{} in {}",
            cx.name, t.m, t.n, t.k, t.each_m, t.each_n, t.buffers
        ));
    }
    let parts = parts(cx, k, t.split);
    for (i, p) in parts.iter().enumerate() {
        constants(cx, i, p);
        finish(cx, i, p);
        part_function(cx, i, p, t);
    }
    let tiles: Vec<usize> = parts.iter().map(|p| t.tiles(p.part)).collect();
    main(cx, &tiles, t.split, t.invocations())?;
    if t.split > 1 {
        combine(cx, &parts, t.split)?;
    }
    Ok(())
}

/// The parts of `k`, whose contracted axes are cut into `split` slices: declares what is bound as arrays of vectors, and reserves scratch.
pub fn parts<'a>(cx: &mut Cx, k: &'a Contract, split: u32) -> Vec<Part<'a>> {
    let mut parts: Vec<Part> = Vec::new();
    let mut flagged: Vec<(&Access, bool)> = Vec::new();
    let mut epilogue_flags: Vec<(Access, bool)> = Vec::new();
    for part in &k.parts {
        let (nb, nm, nn) = (part.batch.len(), part.m.len(), part.n.len());
        let mut operands = Vec::new();
        for term in &part.terms {
            let lhs = Operand::new(cx, &term.lhs, &part.batch, (&part.m, nb), (&term.k, nb + nm));
            let rhs = Operand::new(cx, &term.rhs, &part.batch, (&part.n, nb), (&term.k, nb + nn));
            flagged.push((&term.lhs, lhs.is_aligned()));
            flagged.push((&term.rhs, rhs.is_aligned()));
            operands.push((lhs, rhs));
        }
        let epilogue = merge_body(&[&part.batch, &part.m, &part.n], &part.body, &part.stores);
        let wide = epilogue.groups[2].last().is_some_and(|n| n % 4 == 0);
        let axis = epilogue.groups.iter().map(Vec::len).sum::<usize>().wrapping_sub(1);
        for a in epilogue.body.loads().chain(epilogue.stores.iter().map(|s| &s.access)) {
            epilogue_flags.push((a.clone(), wide && is_aligned(cx, a, axis)));
        }
        parts.push(Part {
            part,
            operands,
            epilogue,
            wide,
            m: numel(&part.m),
            n: numel(&part.n),
            scratch: 0,
            vectors: false,
        });
    }
    flagged.extend(epilogue_flags.iter().map(|(a, aligned)| (a, *aligned)));
    cx.vectorise(&flagged);
    if split > 1 {
        for p in &mut parts {
            p.scratch = cx.scratch(split as usize * numel(&p.part.space()));
        }
        // Slices of four results at a time are whole vectors; one part that has none makes words of all.
        if parts.iter().all(|p| p.wide) {
            cx.use_scratch_vectors();
            parts.iter_mut().for_each(|p| p.vectors = true);
        }
    }
    parts
}

/// What the other functions of part `i` call its extents.
pub fn constants(cx: &mut Cx, i: usize, p: &Part) {
    cx.constant(&format!("BATCH_{i}"), numel(&p.part.batch));
    cx.constant(&format!("M_{i}"), p.m);
    cx.constant(&format!("N_{i}"), p.n);
    for (t, term) in p.part.terms.iter().enumerate() {
        cx.constant(&format!("K_{i}_{t}"), numel(&term.k));
    }
}

/// `finish_i(batch, m, n, sum)`: the epilogue of one result, or of four along n.
pub fn finish(cx: &mut Cx, i: usize, p: &Part) {
    cx.code.blank();
    let ty = if p.wide { "vec4<f32>" } else { "f32" };
    cx.code.open(format!("fn finish_{i}(batch: u32, m: u32, n: u32, sum: {ty})"));
    cx.code.line(format!("if (m >= M_{i} || n >= N_{i}) {{ return; }}"));
    let groups = &p.epilogue.groups;
    let mut point = Vec::new();
    for (flat, extents) in ["batch", "m", "n"].iter().zip(groups) {
        for (d, index) in split(flat, extents).into_iter().enumerate() {
            let name = format!("{flat}_{d}");
            cx.code.line(format!("let {name} = {index};"));
            point.push(name);
        }
    }
    let mut eval = Eval::new(&p.epilogue.body, point);
    let f16 = p.part.terms.first().is_some_and(|t| !t.f16 && cx.dtype(t.lhs.arg) == DType::F16);
    let sum = match (f16, p.wide) {
        (false, _) => "sum".to_string(),
        (true, true) => "vec4<f16>(sum)".into(),
        (true, false) => "f16(sum)".into(),
    };
    if p.wide {
        eval.vector = Some(groups.iter().map(Vec::len).sum::<usize>() - 1);
        eval.accs = vec![Some(Value::wide(sum))];
    } else {
        eval.accs = vec![Some(Value::scalar(sum))];
    }
    eval.stores(cx, &p.epilogue.stores.iter().collect::<Vec<_>>());
    cx.code.close();
}

/// `part_i(tile, slice, local)`: all of a workgroup's work on part i.
fn part_function(cx: &mut Cx, i: usize, p: &Part, t: Tiling) {
    let (tiles_m, tiles_n) = (p.m.div_ceil(t.m as usize), p.n.div_ceil(t.n as usize));
    let (tm, tn, tk) = (t.m as usize, t.n as usize, t.k as usize);
    let (group, buffers) = (t.invocations() as usize, t.buffers as usize);
    cx.code.blank();
    cx.code.open(format!("fn part_{i}(tile: u32, slice: u32, local: u32)"));
    cx.code.line(format!("let first_n = (tile % {tiles_n}u) * {tn}u;"));
    cx.code.line(format!("let first_m = (tile / {tiles_n}u % {tiles_m}u) * {tm}u;"));
    cx.code.line(format!("let batch = tile / {}u;", tiles_n * tiles_m));
    place_invocations(cx, t);
    let sums = Registers { name: "sum".into(), each_m: t.each_m as usize, each_n: t.each_n as usize };
    sums.declare(cx);
    let lhs = Tile { name: "lhs".into(), rows: tm, depth: tk, group, shift: 0, buffers, height: 4 };
    let rhs = Tile { name: "rhs".into(), rows: tn, depth: tk, group, shift: lhs.blocks() % group, buffers, height: 4 };
    lhs.declare(cx);
    rhs.declare(cx);
    // Products whose blocks are placed and rounded alike are one sequence of steps.
    let (lhs0, rhs0) = &p.operands[0];
    let same = p.operands.iter().all(|(a, b)| (a.depth_first, b.depth_first) == (lhs0.depth_first, rhs0.depth_first));
    let same = same && p.part.terms.iter().all(|term| term.f16 == p.part.terms[0].f16);
    let runs: Vec<Vec<usize>> =
        if same { vec![(0..p.operands.len()).collect()] } else { (0..p.operands.len()).map(|at| vec![at]).collect() };
    for (number, run) in runs.iter().enumerate() {
        let along_rows = |side: fn(&(Operand, Operand)) -> &Operand| {
            run.iter().all(|at| side(&p.operands[*at]).along == Along::Rows && !side(&p.operands[*at]).depth_first)
        };
        let height = |tile: &Tile, along_rows: bool| if along_rows { tile.even_height() } else { 4 };
        let lhs = Tile { height: height(&lhs, along_rows(|o| &o.0)), ..lhs.clone() };
        let rhs = Tile { height: height(&rhs, along_rows(|o| &o.1)), shift: lhs.blocks() % group, ..rhs.clone() };
        products(cx, p, t, run, &[&lhs, &rhs], &sums, number > 0);
    }
    if t.teams > 1 {
        add_teams(cx, t, &lhs, &rhs, &sums);
    }
    let m_parts = sums.each_m / 4;
    for r in 0..sums.each_m {
        // Each team has the sums of its rows.
        let rows = sums.each_m / t.teams as usize;
        if t.teams > 1 && r % rows == 0 {
            cx.code.open(format!("if (team == {}u)", r / rows));
        }
        let m = format!("first_m + y * 4u + {}u", r / 4 * (tm / m_parts) + r % 4);
        for j in 0..sums.each_n / 4 {
            let n = format!("first_n + x * 4u + {}u", j * (tn / (sums.each_n / 4)));
            let sum = sums.at(r, j);
            if t.split > 1 {
                cx.code.line(format!("keep_{i}(slice, batch, {m}, {n}, {sum});"));
            } else if p.wide {
                cx.code.line(format!("finish_{i}(batch, {m}, {n}, {sum});"));
            } else {
                for (l, lane) in ["x", "y", "z", "w"].iter().enumerate() {
                    cx.code.line(format!("finish_{i}(batch, {m}, {n} + {l}u, {sum}.{lane});"));
                }
            }
        }
        if t.teams > 1 && (r + 1) % rows == 0 {
            cx.code.close();
        }
    }
    cx.code.close();
    if t.split > 1 {
        keep(cx, i, p);
    }
}

/// Binds `x` and `y`, which number an invocation along columns and rows of its team's results, and `team` where there are several. Rows and columns
/// permitting, 32 neighbours are a block of 4 rows by 8 columns, so that a subgroup of 32 reads the fewest different vectors of both tiles.
fn place_invocations(cx: &mut Cx, t: Tiling) {
    let (rows, columns) = (t.m / t.each_m, t.n / t.each_n);
    let worker = if t.teams == 1 { "local".to_string() } else { format!("local % {}u", rows * columns) };
    let (x, y) = if columns > 8 && columns.is_multiple_of(8) && rows.is_multiple_of(4) {
        let across = columns / 8;
        (
            format!("worker / 32u % {across}u * 8u + worker % 8u"),
            format!("worker / {}u * 4u + worker / 8u % 4u", 32 * across),
        )
    } else {
        (format!("worker % {columns}u"), format!("worker / {columns}u"))
    };
    cx.code.line(format!("let worker = {worker};"));
    cx.code.line(format!("let x = {x};"));
    cx.code.line(format!("let y = {y};"));
    if t.teams > 1 {
        cx.code.line(format!("let team = local / {}u;", rows * columns));
    }
}

/// Adds the products numbered `run` to the sums: one loop over the steps of all of them.
fn products(
    cx: &mut Cx,
    p: &Part,
    t: Tiling,
    run: &[usize],
    [lhs, rhs]: &[&Tile; 2],
    sums: &Registers,
    after_another: bool,
) {
    let (tm, tn, tk, split) = (t.m as usize, t.n as usize, t.k as usize, t.split as usize);
    let depths: Vec<usize> = run.iter().map(|at| numel(&p.part.terms[*at].k)).collect();
    let each: Vec<usize> = depths.iter().map(|depth| depth.div_ceil(tk).div_ceil(split)).collect();
    let steps: usize = each.iter().sum();
    // Whether to round each side: f16 in memory are rounded.
    let f32 = |cx: &Cx, at: &usize| [&p.operands[*at].0, &p.operands[*at].1].map(|x| cx.dtype(x.arg) == DType::F32);
    let any = |side: usize| p.part.terms[run[0]].f16 && run.iter().any(|at| f32(cx, at)[side]);
    let rounds = [any(0), any(1)];
    for ((at, depth), steps) in run.iter().zip(&depths).zip(&each) {
        cx.code.line(format!("// Product {at}: {steps} steps of {tk} along its {depth} contracted elements."));
    }
    cx.code.open("");
    lhs.place(cx, p.operands[run[0]].0.depth_first);
    rhs.place(cx, p.operands[run[0]].1.depth_first);
    let address = |cx: &mut Cx, at: usize| {
        let (a, b) = &p.operands[at];
        a.begin(cx, "lhs", "batch");
        b.begin(cx, "rhs", "batch");
        lhs.address(cx, a, "first_m");
        rhs.address(cx, b, "first_n");
    };
    // Reads what step `s` (a name or constant) of product number `which` of the run multiplies.
    let fetch_of = |cx: &mut Cx, which: usize, s: &str| {
        let (a, b) = &p.operands[run[which]];
        // Whether the last step may reach beyond the operands' depth.
        let ragged = each[which] * tk * split != depths[which];
        let before: usize = each[..which].iter().sum();
        let own = match before {
            0 => s.to_string(),
            n => format!("({s} - {n}u)"),
        };
        cx.code.line(if split > 1 {
            format!("let at_k = (slice * {}u + {own}) * {tk}u;", each[which])
        } else {
            format!("let at_k = {own} * {tk}u;")
        });
        lhs.fetch(cx, a, "at_k", !p.m.is_multiple_of(tm), ragged);
        rhs.fetch(cx, b, "at_k", !p.n.is_multiple_of(tn), ragged);
    };
    let single = run.len() == 1;
    if single {
        address(cx, run[0]);
    }
    cx.code.open("");
    if !single {
        address(cx, run[0]);
    }
    fetch_of(cx, 0, "0u");
    cx.code.close();
    let next = |cx: &mut Cx| {
        cx.code.line("let next = s + 1u;");
        let mut end = 0;
        for which in 0..run.len() {
            end += each[which];
            match which {
                _ if single => {}
                0 => cx.code.open(format!("if (next < {end}u)")),
                _ if which + 1 == run.len() => cx.code.otherwise(None),
                _ => cx.code.otherwise(Some(&format!("next < {end}u"))),
            }
            if !single {
                address(cx, run[which]);
            }
            fetch_of(cx, which, "next");
        }
        if !single {
            cx.code.close();
        }
    };
    let commit = |cx: &mut Cx, first: Option<(&str, &str)>| {
        for (tile, rounds) in [lhs, rhs].into_iter().zip(rounds) {
            if rounds {
                tile.round(cx);
            }
        }
        lhs.commit(cx, first.map(|f| f.0));
        rhs.commit(cx, first.map(|f| f.1));
    };
    let (share, unroll) = (tk / t.teams as usize, t.unroll as usize);
    // The first vectors of a team's share of a step.
    let multiply = |cx: &mut Cx, first: Option<(&str, &str)>| {
        if t.teams == 1 {
            return sums.multiply(cx, lhs.at(first.map(|f| f.0)), rhs.at(first.map(|f| f.1)), share, unroll);
        }
        for (tile, first) in [(lhs, first.map(|f| f.0)), (rhs, first.map(|f| f.1))] {
            let terms: Vec<(i64, String)> = first.map(|f| (1, f.to_string())).into_iter().collect();
            let own = [((share / 4 * tile.block_stride()) as i64, "team".to_string())];
            cx.code.line(format!("let {}_share = {};", tile.name, affine(0, &[terms, own.to_vec()].concat())));
        }
        sums.multiply(cx, lhs.at(Some("lhs_share")), rhs.at(Some("rhs_share")), share, unroll);
    };
    // No number of a workgroup is so large. A bound that is a constant to drivers makes them unroll what is long as it is.
    let number = if split > 1 { "slice" } else { "tile" };
    cx.code.line(format!("let steps = select({steps}u, 0u, {number} > 0x3fffffffu);"));
    if t.buffers == 1 || steps == 1 {
        cx.code.open("for (var s = 0u; s < steps; s++)");
        cx.code.line("workgroupBarrier();");
        commit(cx, None);
        cx.code.line("workgroupBarrier();");
        if steps > 1 {
            cx.code.open("if (s + 1u < steps)");
            next(cx);
            cx.code.close();
        }
        multiply(cx, None);
        cx.code.close();
    } else {
        // The last product may still be read.
        if after_another {
            cx.code.line("workgroupBarrier();");
        }
        commit(cx, None);
        cx.code.open("for (var s = 0u; s < steps; s++)");
        cx.code.line("workgroupBarrier();");
        cx.code.open("if (s + 1u < steps)");
        next(cx);
        cx.code.close();
        for tile in [lhs, rhs] {
            tile.choose(cx, "now", "(s % 2u)");
        }
        multiply(cx, Some(("lhs_now", "rhs_now")));
        cx.code.open("if (s + 1u < steps)");
        for tile in [lhs, rhs] {
            tile.choose(cx, "then", "((s + 1u) % 2u)");
        }
        commit(cx, Some(("lhs_then", "rhs_then")));
        cx.code.close();
        cx.code.close();
    }
    cx.code.close();
}

/// Adds up the sums of a workgroup's teams, through the tiles' memory, so that each team has those of its share of the rows: its own first, then those
/// of the next teams in turn.
fn add_teams(cx: &mut Cx, t: Tiling, lhs: &Tile, rhs: &Tile, sums: &Registers) {
    let teams = t.teams as usize;
    let (rows, size) = (sums.each_m / teams, t.invocations() as usize / teams);
    let vectors: Vec<Vec<String>> = (0..teams)
        .map(|team| {
            let own = (team * rows..(team + 1) * rows).flat_map(|r| (0..sums.each_n / 4).map(move |j| (r, j)));
            own.map(|(r, j)| sums.at(r, j)).collect()
        })
        .collect();
    // As many of a team's vectors at once as there is room for in one of the tiles.
    let tile = if lhs.all_vectors() >= rhs.all_vectors() { lhs } else { rhs };
    let at_once = (tile.all_vectors() / ((teams - 1) * size)).min(vectors[0].len());
    for (team, own) in vectors.iter().enumerate() {
        for chunk in own.chunks(at_once) {
            cx.code.line("workgroupBarrier();");
            cx.code.open(format!("if (team != {team}u)"));
            cx.code.line(format!("let behind = (team + {}u) % {teams}u;", teams - team - 1));
            let at = |v: usize| format!("{}[(behind * {}u + {v}u) * {size}u + worker]", tile.name, chunk.len());
            for (v, sum) in chunk.iter().enumerate() {
                cx.code.line(format!("{} = {sum};", at(v)));
            }
            cx.code.close();
            cx.code.line("workgroupBarrier();");
            cx.code.open(format!("if (team == {team}u)"));
            for (v, sum) in chunk.iter().enumerate() {
                for behind in 0..teams - 1 {
                    cx.code.line(format!("{sum} += {}[{}u + worker];", tile.name, (behind * chunk.len() + v) * size));
                }
            }
            cx.code.close();
        }
    }
}

/// `keep_i(slice, batch, m, n, sum)`: four sums of a slice into scratch, as a vector or one by one.
pub fn keep(cx: &mut Cx, i: usize, p: &Part) {
    let total = numel(&p.part.space());
    cx.code.blank();
    cx.code.open(format!("fn keep_{i}(slice: u32, batch: u32, m: u32, n: u32, sum: vec4<f32>)"));
    cx.code.line(format!("if (m >= M_{i} || n >= N_{i}) {{ return; }}"));
    cx.code.line(format!("let at = slice * {total}u + (batch * M_{i} + m) * N_{i} + n + {}u;", p.scratch));
    if p.vectors {
        cx.code.line("scratch[at / 4u] = sum;");
    } else {
        for (l, lane) in ["x", "y", "z", "w"].iter().enumerate() {
            let guard = !p.n.is_multiple_of(4) && l > 0;
            if guard {
                cx.code.open(format!("if (n + {l}u < N_{i})"));
            }
            cx.store_scratch(&format!("at + {l}u"), DType::F32, &format!("sum.{lane}"));
            if guard {
                cx.code.close();
            }
        }
    }
    cx.code.close();
}

/// The entry point over all tiles of all parts (their numbers), and their slices.
pub fn main(cx: &mut Cx, tiles: &[usize], split: u32, invocations: u32) -> Result<(), Error> {
    let all: usize = tiles.iter().sum();
    cx.entry("main", all * split as usize, invocations)?;
    let (tile, slice) =
        if split > 1 { (format!("group % {all}u"), format!("group / {all}u")) } else { ("group".into(), "0u".into()) };
    cx.code.line(format!("let tile = {tile};"));
    cx.code.line(format!("let slice = {slice};"));
    let mut first = 0;
    for (i, n) in tiles.iter().enumerate() {
        if tiles.len() > 1 {
            match i {
                0 => cx.code.open(format!("if (tile < {n}u)")),
                _ if i + 1 == tiles.len() => cx.code.otherwise(None),
                _ => cx.code.otherwise(Some(&format!("tile < {}u", first + n))),
            }
        }
        let own = if first == 0 { "tile".to_string() } else { format!("tile - {first}u") };
        cx.code.line(format!("part_{i}({own}, slice, local);"));
        first += n;
    }
    if tiles.len() > 1 {
        cx.code.close();
    }
    cx.code.close();
    Ok(())
}

/// The second dispatch of a split: adds the slices and runs the epilogues.
pub fn combine(cx: &mut Cx, parts: &[Part], split: u32) -> Result<(), Error> {
    const GROUP: usize = 64;
    let counts: Vec<usize> = parts.iter().map(|p| numel(&p.part.space()) / if p.wide { 4 } else { 1 }).collect();
    let groups: Vec<usize> = counts.iter().map(|n| n.div_ceil(GROUP)).collect();
    cx.entry("combine", groups.iter().sum(), GROUP as u32)?;
    let mut first = 0;
    for (i, p) in parts.iter().enumerate() {
        let total = numel(&p.part.space());
        cx.code.open(format!("if (group >= {first}u && group < {}u)", first + groups[i]));
        cx.code.line(format!("let i = (group - {first}u) * {GROUP}u + local;"));
        cx.code.open(format!("if (i < {}u)", counts[i]));
        let (width, ty) = if p.wide { (4, "vec4<f32>") } else { (1, "f32") };
        cx.code.line(format!("let point = i * {width}u;"));
        cx.code.line(format!("var sum = {ty}();"));
        // Spelled out, so that all loads are under way together.
        for slice in 0..split as usize {
            let first = slice * total + p.scratch;
            let word = |l: usize| Cx::load_scratch(&format!("point + {}u", first + l), DType::F32);
            cx.code.line(if p.vectors {
                format!("sum += scratch[(point + {first}u) / 4u];")
            } else if p.wide {
                format!("sum += vec4<f32>({}, {}, {}, {});", word(0), word(1), word(2), word(3))
            } else {
                format!("sum += {};", word(0))
            });
        }
        cx.code.line(format!("finish_{i}(point / {}u, point / N_{i} % M_{i}, point % N_{i}, sum);", p.m * p.n));
        cx.code.close();
        cx.code.close();
        first += groups[i];
    }
    cx.code.close();
    Ok(())
}
