//! Which variants a piece has on an adapter, the default first.
//!
//! Defaults come from a rough model of a GPU: so many invocations keep it busy, and larger tiles read less memory a result. Measurement may pick
//! any other of the list.

use crate::attention_matrices::Walk;
use crate::bind::Piece;
use crate::caps::Caps;
use crate::contract::Tiling;
use crate::cooperate::{self, Blocks};
use crate::variant::{AttentionTiling, Variant};
use crate::{attention_grad, fold, pointwise, reduce, scatter, update};
use tinygpt_ir::program::{AttentionShape, Contract, KernelKind};
use tinygpt_ir::types::numel;

/// Invocations that keep a large GPU busy.
const BUSY: usize = 32 << 10;
/// Tilings worth measuring, the best by the model: compiling them takes most of the time. Fewer where several kernels make longer code.
const MEASURED: usize = 8;
const MEASURED_TOGETHER: usize = 6;
/// Sums of slices that are worth their memory where processors are busy without slices: 256 MiB.
const MOST_SUMS: usize = 1 << 26;
/// Bytes of scratch worth their memory for slopes of scores: 256 MiB.
const MOST_SLOPES: u64 = 256 << 20;
/// Numbers of slices worth measuring with one tiling.
const SPLITS: usize = 2;
/// A large GPU: its processors, how many operations each starts in a cycle, and on how many invocations each of those works.
const PROCESSORS: usize = 132;
const UNITS: usize = 4;
const LANES: usize = 32;
/// Workgroups that keep a large GPU busy: two for each processor.
const BUSY_GROUPS: usize = 2 * PROCESSORS;

/// The variants of `piece`, the default first; never empty. All fit the adapter's limits on workgroups; one that needs a further binding is listed
/// only if there is room for it.
pub fn variants(piece: &Piece, caps: &Caps) -> Vec<Variant> {
    let group = caps.flat_workgroup();
    let room = piece.bindings.list.len() < caps.max_storage_buffers as usize;
    match &piece.kind {
        KernelKind::Pointwise(k) => {
            let widths: &[u32] = if pointwise::allows_four(k) { &[4, 1] } else { &[1] };
            let points = numel(&k.space);
            flat(widths, group, points).into_iter().map(|(width, group)| Variant::Pointwise { width, group }).collect()
        }
        KernelKind::Update(k) => {
            let aligned = update::offsets_aligned(k, |i| piece.bindings.args[i].offset);
            let widths: &[u32] = if update::allows_four(k, aligned) { &[4, 1] } else { &[1] };
            let points: usize = k.segments.iter().sum();
            flat(widths, group, points).into_iter().map(|(width, group)| Variant::Update { width, group }).collect()
        }
        KernelKind::Fold(k) => fold::variants(k, |s| piece.bindings.args[s].offset, caps),
        KernelKind::Reduce(k) => reduce::variants(k, caps, group, room),
        KernelKind::Contract(k) => contract(k, caps, room),
        KernelKind::Attention(k) => {
            let mut list = walks(piece, &k.shape, false, caps);
            let plain = tilings(&k.shape, caps);
            let most = if list.is_empty() { plain.len() } else { 1 };
            list.extend(plain.into_iter().take(most).map(Variant::Attention));
            list
        }
        KernelKind::AttentionGrad(k) => {
            let mut list = walks(piece, &k.shape, true, caps);
            let all = k.dq.is_some() && (k.dk.is_some() || k.dv.is_some());
            let plain = grad_tilings(&k.shape, all, caps);
            let most = if list.is_empty() { plain.len() } else { 1 };
            list.extend(plain.into_iter().take(most));
            list
        }
        KernelKind::Scatter(k) => scatter::variants(k, caps, group),
    }
}

fn push(list: &mut Vec<Variant>, v: Variant) {
    if !list.contains(&v) {
        list.push(v);
    }
}

/// Widths and workgroup sizes: small workgroups where there is little to do.
fn flat(widths: &[u32], most: u32, points: usize) -> Vec<(u32, u32)> {
    let sizes: Vec<u32> = if points / widths[0] as usize >= BUSY { vec![256, 64] } else { vec![64, 256] };
    let sizes: Vec<u32> = sizes.into_iter().filter(|s| *s <= most).collect();
    let sizes = if sizes.is_empty() { vec![most] } else { sizes };
    widths.iter().flat_map(|w| sizes.iter().map(move |s| (*w, *s))).collect()
}

/// A way to tile contractions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Way {
    Plain(Tiling),
    /// With the size of the adapter's subgroups.
    Matrices(Blocks, u32),
}

/// Tilings and how fast each runs when there is enough to do, relative to the fastest.
const TILINGS: [(Tiling, f64); 13] = [
    (tiling(128, 128, 32, 8, 8, 1, 1), 1.0),
    (tiling(64, 96, 16, 8, 12, 1, 1), 1.0),
    (tiling(64, 64, 16, 8, 8, 1, 1), 0.97),
    (tiling(64, 64, 16, 8, 8, 1, 2), 0.95),
    (tiling(64, 64, 32, 8, 8, 2, 2), 0.9),
    (tiling(64, 64, 16, 8, 4, 1, 1), 0.83),
    (tiling(64, 64, 32, 8, 4, 1, 1), 0.82),
    (tiling(64, 64, 16, 8, 4, 1, 2), 0.81),
    (tiling(64, 64, 16, 8, 4, 2, 2), 0.81),
    (tiling(64, 64, 32, 4, 4, 1, 2), 0.62),
    (tiling(32, 64, 16, 4, 4, 1, 2), 0.57),
    (tiling(32, 32, 16, 4, 4, 1, 2), 0.48),
    (tiling(16, 32, 32, 4, 4, 1, 2), 0.33),
];

/// Elements of depth that a default spells out. More are faster where drivers unroll nothing themselves, and make for long code: they are further
/// variants.
const UNROLL: u32 = 4;
/// Multiply-adds of an invocation that a further variant spells out at most: a loop that outgrows the cache of instructions, 32 KiB where it was
/// measured, takes twice as long.
pub const SPELLED: u32 = 1600;

const fn tiling(m: u32, n: u32, k: u32, each_m: u32, each_n: u32, teams: u32, buffers: u32) -> Tiling {
    Tiling { m, n, k, each_m, each_n, teams, split: 1, buffers, unroll: UNROLL }
}

/// Blocks of cooperative matrices, and how fast each runs when there is enough to do, relative to 128x128. The first two are for products whose tiles
/// keep all processors busy: their code is long, and drivers take seconds for it.
const BLOCKS: [(Blocks, f64); 8] = [
    (blocks(128, 256, 32, 2, 4), 1.3),
    (blocks(128, 128, 64, 2, 4), 1.2),
    (blocks(128, 128, 32, 2, 4), 1.0),
    (blocks(128, 64, 32, 2, 2), 0.75),
    (blocks(64, 64, 32, 2, 2), 0.6),
    (blocks(64, 64, 64, 2, 2), 0.6),
    (blocks(32, 64, 64, 1, 2), 0.4),
    (blocks(32, 32, 64, 1, 2), 0.3),
];
const FOR_LARGE_PRODUCTS: usize = 2;

const fn blocks(m: u32, n: u32, k: u32, by_m: u32, by_n: u32) -> Blocks {
    Blocks { m, n, k, by_m, by_n, split: 1 }
}

impl Way {
    /// That of a contraction's variant; None of others, and where the adapter has no matrices.
    pub fn of(variant: Variant, caps: &Caps) -> Option<Way> {
        match variant {
            Variant::Contract { m, n, k, each_m, each_n, teams, split, buffers, unroll } => {
                Some(Way::Plain(Tiling { m, n, k, each_m, each_n, teams, split, buffers, unroll }))
            }
            Variant::Cooperate { m, n, k, by_m, by_n, split } => {
                Some(Way::Matrices(Blocks { m, n, k, by_m, by_n, split }, caps.cooperative?))
            }
            _ => None,
        }
    }

    /// Those without cooperative matrices that fit the adapter, each with its speed, and with one buffer where there is no room for two.
    pub fn plain(caps: &Caps) -> Vec<(Way, f64)> {
        let fits = |t: &Tiling| t.invocations() <= caps.flat_workgroup() && t.workgroup_bytes() <= caps.workgroup_bytes;
        let mut all: Vec<(Tiling, f64)> = Vec::new();
        for (t, speed) in TILINGS {
            let buffers = if t.workgroup_bytes() > caps.workgroup_bytes { 1 } else { t.buffers };
            let t = Tiling { buffers, ..t };
            if fits(&t) && all.iter().all(|(known, _)| *known != t) {
                all.push((t, speed));
            }
        }
        all.into_iter().map(|(t, speed)| (Way::Plain(t), speed)).collect()
    }

    /// Those on cooperative matrices that fit the adapter, each with its speed; none unless all of `contracts` may run on them.
    pub fn matrices(contracts: &[&Contract], caps: &Caps) -> Vec<(Way, f64)> {
        let Some(subgroup) = caps.cooperative.filter(|_| contracts.iter().all(|k| cooperate::allows(k))) else {
            return Vec::new();
        };
        let tiles = |b: &Blocks| contracts.iter().map(|k| Way::Matrices(*b, subgroup).tiles(k)).sum::<usize>();
        let may =
            |at: usize, b: &Blocks| b.fits(subgroup, caps) && (at >= FOR_LARGE_PRODUCTS || tiles(b) >= PROCESSORS);
        let all = BLOCKS.iter().enumerate().filter(|(at, (b, _))| may(*at, b));
        all.map(|(_, (b, speed))| (Way::Matrices(*b, subgroup), *speed)).collect()
    }

    /// Rows, columns and depth of a step.
    fn extents(self) -> [usize; 3] {
        let [m, n, k] = match self {
            Way::Plain(t) => [t.m, t.n, t.k],
            Way::Matrices(b, _) => [b.m, b.n, b.k],
        };
        [m as usize, n as usize, k as usize]
    }

    pub fn invocations(self) -> u32 {
        match self {
            Way::Plain(t) => t.invocations(),
            Way::Matrices(b, subgroup) => b.invocations(subgroup),
        }
    }

    /// Workgroups of all parts, for one slice.
    pub fn tiles(self, k: &Contract) -> usize {
        match self {
            Way::Plain(t) => k.parts.iter().map(|p| t.tiles(p)).sum(),
            Way::Matrices(b, _) => k.parts.iter().map(|p| b.tiles(p)).sum(),
        }
    }

    fn steps(self, k: &Contract) -> usize {
        depth_of(k).div_ceil(self.extents()[2])
    }

    /// Fewest steps of a slice.
    fn fewest_steps(self) -> usize {
        match self {
            Way::Plain(_) => 4,
            Way::Matrices(..) => 2,
        }
    }

    pub fn split(self) -> u32 {
        match self {
            Way::Plain(t) => t.split,
            Way::Matrices(b, _) => b.split,
        }
    }

    pub fn with_split(self, split: u32) -> Way {
        match self {
            Way::Plain(t) => Way::Plain(Tiling { split, ..t }),
            Way::Matrices(b, subgroup) => Way::Matrices(Blocks { split, ..b }, subgroup),
        }
    }

    /// How long so many products take on a large GPU, by so many workgroups, of which the longest makes `longest` products, and whose slices leave so
    /// many sums in scratch. Of use to compare ways of one kind.
    fn cost(self, speed: f64, products: usize, longest: usize, groups: usize, sums: usize) -> f64 {
        match self {
            // In cycles of the processor that has most to do, whose units start a product of a subgroup each when all goes well.
            Way::Plain(t) => {
                let invocations = t.invocations() as usize;
                let rounds = |groups: usize| (groups * invocations.div_ceil(LANES)).div_ceil(UNITS) as f64;
                let all = rounds(groups.div_ceil(PROCESSORS)) * products as f64 / (groups * invocations) as f64;
                let one = rounds(1) * longest as f64 / invocations as f64;
                let second = if sums > 0 { 5e3 + 5.5e-3 * sums as f64 } else { 0.0 };
                all.max(one) / (0.6 * speed) + second
            }
            // In products, as if all of the GPU were busy.
            Way::Matrices(b, _) => {
                let busy = ((groups * (b.m * b.n) as usize) as f64 / (BUSY_GROUPS * 64 * 64) as f64).min(1.0);
                let second = if sums > 0 { 8e6 + 16.0 * sums as f64 } else { 0.0 };
                products as f64 / (speed * busy) + second
            }
        }
    }

    /// With whole steps spelled out, or as large a part of them as stays fast.
    fn whole(self) -> Way {
        match self {
            Way::Plain(t) => {
                let most = SPELLED / (t.each_m * t.each_n);
                let unroll = (4..=t.k.min(most)).rev().find(|u| u % 4 == 0 && t.k.is_multiple_of(*u));
                Way::Plain(Tiling { unroll: unroll.unwrap_or(UNROLL), ..t })
            }
            matrices => matrices,
        }
    }

    /// With as little of its steps spelled out as a default has, if `other` has no more, else whole.
    pub fn with_unroll_of(self, other: Way) -> Way {
        match (self, other) {
            (Way::Plain(t), Way::Plain(other)) if other.unroll == UNROLL => Way::Plain(Tiling { unroll: UNROLL, ..t }),
            _ => self.whole(),
        }
    }

    /// Whether it is fast with as little spelled out as in a default: blocks of registers beyond 8x8 are not.
    fn suits_default(&self) -> bool {
        match self {
            Way::Plain(t) => t.each_m * t.each_n <= 64,
            Way::Matrices(..) => true,
        }
    }

    pub fn variant(self) -> Variant {
        match self {
            Way::Plain(Tiling { m, n, k, each_m, each_n, teams, split, buffers, unroll }) => {
                Variant::Contract { m, n, k, each_m, each_n, teams, split, buffers, unroll }
            }
            Way::Matrices(Blocks { m, n, k, by_m, by_n, split }, _) => {
                Variant::Cooperate { m, n, k, by_m, by_n, split }
            }
        }
    }
}

/// The variants of a contraction. Of plain arithmetic the best alone beside cooperative matrices: it wins where there are few rows.
fn contract(kernel: &Contract, caps: &Caps, room: bool) -> Vec<Variant> {
    let mut list = best(kernel, Way::matrices(&[kernel], caps), room);
    list.truncate(MEASURED - 1);
    let plain = best(kernel, Way::plain(caps), room);
    let most = if list.is_empty() { plain.len() } else { 1 };
    list.extend(plain.into_iter().take(most));
    if list.is_empty() {
        list.push(Way::Plain(tiling(16, 16, 4, 4, 4, 1, 1)));
    }
    let default = list.iter().find(|way| way.suits_default()).unwrap_or(&list[0]).variant();
    let mut all = vec![default];
    list.into_iter().take(MEASURED).for_each(|way| push(&mut all, way.whole().variant()));
    all
}

/// These ways with slices or without, the best by the model above first.
fn best(kernel: &Contract, ways: Vec<(Way, f64)>, room: bool) -> Vec<Way> {
    let (depth, results) = (depth_of(kernel), results_of(kernel));
    let mut scored: Vec<(f64, Way)> = Vec::new();
    for (way, speed) in ways {
        let [m, n, _] = way.extents();
        let tiles = way.tiles(kernel);
        // Slices so many that the workgroups keep a large GPU busy once or twice over; and, where cost tells ways apart, few slices of many workgroups,
        // which may leave fewer processors idle at the end.
        let most = (way.steps(kernel) / way.fewest_steps()).min(32);
        let mut splits = vec![1];
        let few = if matches!(way, Way::Plain(_)) { [2, 3, 4].as_slice() } else { &[] };
        let busy = [BUSY_GROUPS, 2 * BUSY_GROUPS].map(|busy| busy / tiles.max(1));
        for wanted in busy.iter().chain(few.iter().filter(|split| *split * results <= MOST_SUMS)) {
            let wanted = (*wanted).min(most) as u32;
            if room && wanted > 1 && !splits.contains(&wanted) {
                splits.push(wanted);
            }
        }
        let mut costs: Vec<(f64, Way)> = Vec::new();
        for split in splits {
            let sums = if split > 1 { results * split as usize } else { 0 };
            let products = tiles * m * n * depth;
            let groups = tiles * split as usize;
            let cost = way.cost(speed, products, products / groups.max(1), groups, sums);
            costs.push((cost, way.with_split(split)));
        }
        costs.sort_by(|a, b| a.0.total_cmp(&b.0));
        costs.truncate(SPLITS);
        scored.extend(costs);
    }
    scored.sort_by(|a, b| a.0.total_cmp(&b.0));
    scored.into_iter().map(|(_, way)| way).collect()
}

/// `variant` as a default has it: with less of its steps spelled out.
pub fn as_default(variant: Variant) -> Variant {
    match variant {
        Variant::Contract { m, n, k, each_m, each_n, teams, split, buffers, .. } => {
            Variant::Contract { m, n, k, each_m, each_n, teams, split, buffers, unroll: UNROLL }
        }
        other => other,
    }
}

/// Whether a kernel may run in one module with others of its stage: small ones that leave a large GPU idle.
pub fn may_join(kind: &KernelKind) -> bool {
    matches!(kind, KernelKind::Contract(_) | KernelKind::Reduce(_) | KernelKind::Pointwise(_))
}

/// A variant of a reduction or a pointwise kernel in workgroups of `group` invocations; of sums along memory the one of this rank, if there are more.
pub fn of_group(piece: &Piece, caps: &Caps, group: u32, rank: usize) -> Option<Variant> {
    match &piece.kind {
        KernelKind::Reduce(k) => {
            let all = reduce::variants(k, caps, group, true).into_iter();
            let fit: Vec<Variant> = all.filter(|v| v.invocations() == Some(group)).collect();
            let rank = if reduce::Plan::new(k).down { rank } else { 0 };
            fit.get(rank).or(fit.first()).copied()
        }
        KernelKind::Pointwise(k) => {
            Some(Variant::Pointwise { width: if pointwise::allows_four(k) { 4 } else { 1 }, group })
        }
        _ => None,
    }
}

/// Choices of variants for pieces that run as one module, the best by the model above first: of one size of workgroups, all contractions in one
/// tiling, split so that their workgroups are about equally long. None if some piece has no variant of the others' size.
pub fn together(pieces: &[&Piece], caps: &Caps) -> Vec<Vec<Variant>> {
    let contracts: Vec<&Contract> = pieces
        .iter()
        .filter_map(|p| match &p.kind {
            KernelKind::Contract(k) => Some(k),
            _ => None,
        })
        .collect();
    let of_size = |group: u32, mut ways: std::vec::IntoIter<Way>, rank: usize| -> Option<Vec<Variant>> {
        pieces
            .iter()
            .map(|p| match &p.kind {
                KernelKind::Contract(_) => ways.next().map(Way::variant),
                _ => of_group(p, caps, group, rank),
            })
            .collect()
    };
    if contracts.is_empty() {
        // Of sums along memory also the second way.
        let mut all: Vec<Vec<Variant>> = Vec::new();
        for (group, rank) in [(128, 0), (256, 0), (256, 1), (128, 1), (64, 0)] {
            let fits = group <= caps.flat_workgroup();
            let choice = fits.then(|| of_size(group, Vec::new().into_iter(), rank)).flatten();
            all.extend(choice.filter(|choice| !all.contains(choice)));
        }
        return all;
    }
    let matrices = Way::matrices(&contracts, caps);
    let candidates = if matrices.is_empty() { Way::plain(caps) } else { matrices };
    let mut scored: Vec<(f64, Vec<Way>)> = Vec::new();
    for (way, speed) in candidates {
        let mut costs: Vec<(f64, Vec<Way>)> = Vec::new();
        let work: Vec<(usize, usize)> = contracts.iter().map(|k| (way.tiles(k), way.steps(k))).collect();
        let steps: usize = work.iter().map(|(tiles, steps)| tiles * steps).sum();
        let split_by = |longest: usize| -> Vec<Way> {
            work.iter().map(|(_, steps)| way.with_split(steps.div_ceil(longest).min(32) as u32)).collect()
        };
        let groups_of = |ways: &[Way]| -> usize {
            work.iter().zip(ways).map(|((tiles, _), way)| tiles * way.split() as usize).sum()
        };
        let deepest = work.iter().map(|(_, steps)| *steps).max().unwrap_or(1);
        let shallowest = work.iter().map(|(_, steps)| *steps).min().unwrap_or(1);
        // Whole products; none deeper than the shallowest; and at most so many workgroups, with slices of at least a few steps each.
        let mut longest = vec![deepest];
        if matches!(way, Way::Plain(_)) {
            longest.push(shallowest.max(way.fewest_steps()).min(deepest));
        }
        for most in [BUSY_GROUPS, 2 * BUSY_GROUPS] {
            let first = steps.div_ceil(most).max(way.fewest_steps()).min(deepest);
            longest.extend((first..deepest).find(|longest| groups_of(&split_by(*longest)) <= most));
        }
        for longest in longest {
            let ways = split_by(longest);
            let of_step = way.extents().iter().product::<usize>();
            let longest = work.iter().zip(&ways).map(|((_, steps), way)| steps.div_ceil(way.split() as usize)).max();
            let sums =
                |(k, way): (&&Contract, &Way)| if way.split() > 1 { results_of(k) * way.split() as usize } else { 0 };
            let sums: usize = contracts.iter().zip(&ways).map(sums).sum();
            if (sums <= MOST_SUMS || costs.is_empty()) && !costs.iter().any(|(_, known)| *known == ways) {
                let longest = longest.unwrap_or(0) * of_step;
                costs.push((way.cost(speed, steps * of_step, longest, groups_of(&ways), sums), ways));
            }
        }
        costs.sort_by(|a, b| a.0.total_cmp(&b.0));
        let whole = |ways: &[Way]| ways.iter().all(|way| way.split() == 1);
        let kept = costs.into_iter().enumerate().filter(|(at, (_, ways))| *at < SPLITS || whole(ways));
        scored.extend(kept.map(|(_, cost)| cost));
    }
    scored.sort_by(|a, b| a.0.total_cmp(&b.0));
    let whole = |ways: &[Way]| ways.iter().map(|way| way.whole()).collect::<Vec<_>>();
    let default = scored.iter().find(|(_, ways)| ways[0].suits_default()).or(scored.first());
    let default = default.map(|(_, ways)| ways.clone());
    // With them the best that needs no second dispatch.
    let unsplit = scored.iter().skip(MEASURED_TOGETHER).find(|(_, ways)| ways.iter().all(|way| way.split() == 1));
    let none_before = scored.iter().take(MEASURED_TOGETHER).all(|(_, ways)| ways.iter().any(|way| way.split() > 1));
    let others = scored.iter().take(MEASURED_TOGETHER).chain(unsplit.filter(|_| none_before));
    let others = others.map(|(_, ways)| whole(ways)).filter(|ways| Some(ways) != default.as_ref());
    default
        .iter()
        .cloned()
        .chain(others)
        .filter_map(|ways| of_size(ways[0].invocations(), ways.into_iter(), 0))
        .collect()
}

/// The longest sum of a kernel, in products.
fn depth_of(k: &Contract) -> usize {
    k.parts.iter().map(|p| p.terms.iter().map(|t| numel(&t.k)).sum::<usize>()).max().unwrap_or(1)
}

fn results_of(k: &Contract) -> usize {
    k.parts.iter().map(|p| numel(&p.space())).sum()
}

/// The ways of attention on cooperative matrices: larger ones first where they keep a large GPU busy.
fn walks(piece: &Piece, shape: &AttentionShape, grad: bool, caps: &Caps) -> Vec<Variant> {
    let tiles = shape.batch * shape.heads * shape.q_len.div_ceil(64);
    let order = if tiles >= BUSY_GROUPS / 2 {
        [(64, 16), (64, 32), (128, 32), (32, 32), (128, 16)]
    } else {
        [(32, 32), (16, 32), (64, 16), (64, 32), (32, 64)]
    };
    let fits = |(rows, cols): &(u32, u32)| Walk { rows: *rows, cols: *cols }.allows(shape, grad, caps);
    let all = order.into_iter().filter(|walk| piece.f16_operands && fits(walk));
    all.map(|(rows, cols)| Variant::AttentionMatrices { rows, cols }).collect()
}

const fn attention_tiling(
    [rows, cols]: [usize; 2],
    [each_m, each_n]: [usize; 2],
    depth: usize,
    stay: bool,
) -> AttentionTiling {
    AttentionTiling { rows, cols, each_m, each_n, depth, stay }
}

/// Tilings of attention for short sequences, or where workgroup memory is small.
const SMALL: [AttentionTiling; 3] = [
    attention_tiling([32, 32], [4, 4], 16, false),
    attention_tiling([16, 16], [4, 4], 16, false),
    attention_tiling([8, 8], [4, 4], 8, false),
];

/// Those of `list` that fit the adapter, or the largest small one that does, which the shortest sequences have too.
fn fitting(list: Vec<AttentionTiling>, shape: &AttentionShape, grad: bool, caps: &Caps) -> Vec<AttentionTiling> {
    let longest = shape.q_len.max(shape.k_len);
    let fits = |t: &AttentionTiling| t.fits(shape, grad, caps);
    let mut list: Vec<AttentionTiling> = list.into_iter().filter(|t| longest > 16 && fits(t)).collect();
    let small = SMALL.into_iter().filter(|t| t.rows == 8 || t.rows < 2 * longest && fits(t));
    let most = if longest > 16 { usize::from(list.is_empty()) } else { 2 };
    list.extend(small.take(most));
    list
}

/// Whether tiles of 64 queries keep a large GPU busy.
fn has_large_tiles(shape: &AttentionShape) -> bool {
    2 * shape.batch * shape.heads * shape.q_len.div_ceil(64) >= BUSY_GROUPS
}

/// The ways of attention in plain arithmetic.
fn tilings(shape: &AttentionShape, caps: &Caps) -> Vec<AttentionTiling> {
    let mut list = vec![
        attention_tiling([64, 64], [4, 8], 32, true),
        attention_tiling([32, 32], [4, 4], 32, true),
        attention_tiling([32, 64], [4, 8], 32, true),
    ];
    if !has_large_tiles(shape) {
        list.rotate_left(1);
    }
    fitting(list, shape, false, caps)
}

/// Whether slopes of scores are worth their memory.
pub fn has_room_for_slopes(shape: &AttentionShape, tiling: AttentionTiling, caps: &Caps) -> bool {
    4 * attention_grad::slope_words(shape, tiling) as u64 <= caps.max_binding_bytes.min(MOST_SLOPES)
}

/// The ways of its gradient. Those that keep slopes have a dispatch more, and need `all`: gradients of queries and of others.
fn grad_tilings(shape: &AttentionShape, all: bool, caps: &Caps) -> Vec<Variant> {
    let large = attention_tiling([64, 64], [4, 8], 32, false);
    let middle = |stay| attention_tiling([32, 32], [4, 4], 32, stay);
    let mut list = vec![(large, true), (middle(true), true), (large, false), (middle(false), false)];
    if !has_large_tiles(shape) {
        list.rotate_left(2);
    }
    let variant = |(tiling, slopes)| Variant::AttentionGrad { tiling, slopes };
    let room = |t: &AttentionTiling| all && has_room_for_slopes(shape, *t, caps);
    let longest = shape.q_len.max(shape.k_len);
    let fits =
        |(t, slopes): &(AttentionTiling, bool)| longest > 16 && t.fits(shape, true, caps) && (!slopes || room(t));
    let list: Vec<Variant> = list.into_iter().filter(fits).map(variant).collect();
    if !list.is_empty() {
        return list;
    }
    let small = fitting(Vec::new(), shape, true, caps).into_iter();
    small
        .flat_map(|t| [false, true].map(|slopes| (t, slopes)))
        .filter(|(t, slopes)| !slopes || room(t))
        .map(variant)
        .collect()
}
