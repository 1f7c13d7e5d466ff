//! Which variants a piece has on an adapter, the default first.
//!
//! Defaults come from a rough model of a GPU: so many invocations keep it busy, and larger tiles read less memory a result. Measurement may pick
//! any other of the list.

use crate::attention::Square;
use crate::bind::Piece;
use crate::caps::Caps;
use crate::contract::Tiling;
use crate::cooperate::{self, Blocks};
use crate::reduce::Plan;
use crate::variant::{ScatterOrder, Variant};
use crate::{fold, pointwise, update};
use tinygpt_ir::program::{Contract, KernelKind, ReduceKernel, Scatter};
use tinygpt_ir::types::numel;

/// Invocations that keep a large GPU busy.
const BUSY: usize = 32 << 10;
/// Tilings worth measuring, the best by the model: compiling them takes most of the time. Half as many where several kernels make longer code.
const MEASURED: usize = 10;
/// A second dispatch as so many products; what it reads and writes comes on top.
const SECOND: f64 = 4e6;
/// Workgroups that keep a large GPU busy.
const BUSY_GROUPS: usize = 256;

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
        KernelKind::Reduce(k) => reduce(k, caps, group, room),
        KernelKind::Contract(k) => {
            let mut list = cooperate(k, caps, group, room);
            // Of plain arithmetic the best alone beside them: it wins where there are few rows.
            let plain = contract(k, caps, group, room);
            let most = if list.is_empty() { plain.len() } else { 1 };
            list.extend(plain.into_iter().take(most));
            list
        }
        KernelKind::Attention(k) => {
            tiles(k.shape.q_len.max(k.shape.k_len), caps).into_iter().map(|tile| Variant::Attention { tile }).collect()
        }
        KernelKind::AttentionGrad(k) => {
            let tiles = tiles(k.shape.q_len.max(k.shape.k_len), caps).into_iter();
            let stay = |tile| Square::may_stay(&k.shape, tile, caps.workgroup_bytes);
            let both = tiles.flat_map(|tile| [true, false].map(|stay| (tile, stay)));
            let all = both.filter(|(tile, stays)| !stays || stay(*tile));
            all.map(|(tile, stay)| Variant::AttentionGrad { tile, stay }).collect()
        }
        KernelKind::Scatter(k) => scatter(k, group),
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

fn power_of_two_at_most(n: u32) -> u32 {
    if n == 0 { 1 } else { 1 << n.ilog2() }
}

fn reduce(k: &ReduceKernel, caps: &Caps, most: u32, room: bool) -> Vec<Variant> {
    let plan = Plan::new(k);
    let (rows, cols) = (plan.count_rows(), plan.count_cols());
    // Every reduction has an array of workgroup memory, argmax two.
    let by_memory = caps.workgroup_bytes / (8 * plan.reductions() as u32).max(1);
    let group = power_of_two_at_most(most.min(256).min(by_memory));
    let at_most = |n: usize, cap: u32| power_of_two_at_most((n.min(1 << 30) as u32).max(1)).min(cap);
    let row_cap = |lanes: u32| {
        let free = (group / lanes).max(1);
        free.min((rows.next_power_of_two()).min(1 << 30) as u32)
    };
    let mut list = Vec::new();
    let mut add = |rows_at_once: u32, lanes: u32, subgroups: bool| {
        let groups = rows.div_ceil(rows_at_once as usize);
        let each = cols.div_ceil(lanes as usize);
        // Parts so that the GPU is busy and none takes long, of at least a few columns an invocation.
        let mut split = 1;
        if room && plan.allows_split() && groups < BUSY_GROUPS && each > 16 {
            split = (BUSY_GROUPS / groups).max(each / 32).min(each / 8).clamp(1, 64) as u32;
        }
        if split > 1 {
            push(&mut list, Variant::Reduce { rows: rows_at_once, lanes, split, subgroups });
        }
        push(&mut list, Variant::Reduce { rows: rows_at_once, lanes, split: 1, subgroups });
    };
    if plan.down {
        // Neighbouring invocations read neighbouring rows.
        let across = at_most(rows.next_power_of_two(), 32.min(group));
        let lanes = at_most(cols, group / across);
        add(across, lanes, false);
        add(at_most(rows.next_power_of_two(), 64.min(group)), 1, false);
    } else {
        let lanes = if cols <= 4 { 1 } else { at_most(cols.div_ceil(2), group.min(64)) };
        if let Some((_, largest)) = caps.subgroups
            && cols >= 64
            && largest <= 64.min(group)
        {
            add(1, 64.min(group), true);
        }
        add(row_cap(lanes), lanes, false);
        if cols >= 512 {
            add(1, group, false);
        }
        if cols <= 64 {
            add(row_cap(1).min(64), 1, false);
        }
    }
    list
}

/// Tilings and how fast each runs when there is enough to do, relative to the fastest.
const TILINGS: [(Tiling, f64); 8] = [
    (tiling(128, 128, 16, 8, 8), 0.95),
    (tiling(128, 64, 16, 8, 8), 1.0),
    (tiling(64, 64, 16, 8, 8), 0.95),
    (tiling(64, 64, 16, 8, 4), 0.8),
    (tiling(64, 64, 32, 4, 4), 0.7),
    (tiling(32, 64, 16, 4, 4), 0.6),
    (tiling(32, 32, 16, 4, 4), 0.5),
    (tiling(16, 32, 32, 4, 4), 0.35),
];

/// Elements of depth that a default spells out. All of a step's are faster where drivers unroll nothing themselves, and make for long code: they
/// are further variants.
const UNROLL: u32 = 4;

const fn tiling(m: u32, n: u32, k: u32, each_m: u32, each_n: u32) -> Tiling {
    Tiling { m, n, k, each_m, each_n, split: 1, buffers: 2, unroll: UNROLL }
}

/// The best tiling by the model above as a default unrolls it, then every tiling unrolled whole; each with two buffers where there is room.
fn contract(kernel: &Contract, caps: &Caps, most: u32, room: bool) -> Vec<Variant> {
    let (depth, results) = (depth_of(kernel), results_of(kernel));
    let mut scored: Vec<(f64, Tiling)> = Vec::new();
    for (t, speed) in TILINGS {
        let buffers = if t.workgroup_bytes() > caps.workgroup_bytes { 1 } else { 2 };
        let t = Tiling { buffers, ..t };
        if t.invocations() > most || t.workgroup_bytes() > caps.workgroup_bytes {
            continue;
        }
        let tiles = tiles_of(kernel, t);
        let computed = (tiles * (t.m * t.n) as usize * depth) as f64;
        let steps = depth.div_ceil(t.k as usize);
        // Slices of at least four steps, so many that the workgroups keep a large GPU busy once or twice over.
        let mut splits = vec![1];
        for busy in [BUSY_GROUPS, 2 * BUSY_GROUPS] {
            let wanted = (busy / tiles.max(1)).min(steps / 4).min(32) as u32;
            if room && wanted > 1 && !splits.contains(&wanted) {
                splits.push(wanted);
            }
        }
        for split in splits {
            let groups = tiles * split as usize;
            let busy = ((groups * t.invocations() as usize) as f64 / BUSY as f64).min(1.0);
            let extra = if split > 1 { SECOND + 16.0 * (results * split as usize) as f64 } else { 0.0 };
            scored.push((computed / (speed * busy) + extra, Tiling { split, ..t }));
        }
    }
    if scored.is_empty() {
        scored.push((0.0, Tiling { buffers: 1, ..tiling(16, 16, 4, 4, 4) }));
    }
    scored.sort_by(|a, b| a.0.total_cmp(&b.0));
    let default = scored[0].1;
    let whole = scored.into_iter().take(MEASURED).map(|(_, t)| Tiling { unroll: t.k, ..t });
    std::iter::once(default).chain(whole).map(of_tiling).collect()
}

/// `variant` as a default has it: with less of its steps spelled out.
pub fn as_default(variant: Variant) -> Variant {
    match variant {
        Variant::Contract { m, n, k, each_m, each_n, split, buffers, .. } => {
            Variant::Contract { m, n, k, each_m, each_n, split, buffers, unroll: UNROLL }
        }
        other => other,
    }
}

/// Whether a kernel may run in one module with others of its stage: small ones that leave a large GPU idle.
pub fn may_join(kind: &KernelKind) -> bool {
    matches!(kind, KernelKind::Contract(_) | KernelKind::Reduce(_) | KernelKind::Pointwise(_))
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
    let of_size = |group: u32, mut tilings: std::vec::IntoIter<Tiling>| -> Option<Vec<Variant>> {
        pieces
            .iter()
            .map(|p| match &p.kind {
                KernelKind::Contract(_) => tilings.next().map(of_tiling),
                KernelKind::Reduce(k) => {
                    reduce(k, caps, group, true).into_iter().find(|v| v.invocations() == Some(group))
                }
                KernelKind::Pointwise(k) => {
                    Some(Variant::Pointwise { width: if pointwise::allows_four(k) { 4 } else { 1 }, group })
                }
                _ => None,
            })
            .collect()
    };
    if contracts.is_empty() {
        let groups = [64, 128, 256].into_iter().filter(|g| *g <= caps.flat_workgroup());
        return groups.filter_map(|group| of_size(group, Vec::new().into_iter())).collect();
    }
    let mut scored: Vec<(f64, Vec<Tiling>)> = Vec::new();
    for (t, speed) in TILINGS {
        let t = Tiling { buffers: if t.workgroup_bytes() > caps.workgroup_bytes { 1 } else { 2 }, ..t };
        if t.invocations() > caps.flat_workgroup() || t.workgroup_bytes() > caps.workgroup_bytes {
            continue;
        }
        let work: Vec<(usize, usize)> =
            contracts.iter().map(|k| (tiles_of(k, t), depth_of(k).div_ceil(t.k as usize))).collect();
        let steps: usize = work.iter().map(|(tiles, steps)| tiles * steps).sum();
        // Whole products; and about so many workgroups, of at least four steps each.
        for longest in [usize::MAX, steps.div_ceil(BUSY_GROUPS), steps.div_ceil(2 * BUSY_GROUPS)] {
            let longest = longest.max(4);
            let tilings: Vec<Tiling> =
                work.iter().map(|(_, steps)| Tiling { split: steps.div_ceil(longest).min(32) as u32, ..t }).collect();
            let groups: usize = work.iter().zip(&tilings).map(|((tiles, _), t)| tiles * t.split as usize).sum();
            let busy = ((groups * t.invocations() as usize) as f64 / BUSY as f64).min(1.0);
            let computed = (steps * (t.m * t.n * t.k) as usize) as f64;
            let parts = |(k, t): (&&Contract, &Tiling)| if t.split > 1 { results_of(k) * t.split as usize } else { 0 };
            let traffic: usize = contracts.iter().zip(&tilings).map(parts).sum();
            let extra = if traffic > 0 { SECOND + 16.0 * traffic as f64 } else { 0.0 };
            if !scored.iter().any(|(_, known)| *known == tilings) {
                scored.push((computed / (speed * busy) + extra, tilings));
            }
        }
    }
    scored.sort_by(|a, b| a.0.total_cmp(&b.0));
    let whole = |tilings: &[Tiling]| tilings.iter().map(|t| Tiling { unroll: t.k, ..*t }).collect::<Vec<_>>();
    let default = scored.first().map(|(_, tilings)| tilings.clone());
    // With them the best that needs no second dispatch.
    let unsplit = scored.iter().skip(MEASURED / 2).find(|(_, tilings)| tilings.iter().all(|t| t.split == 1));
    let none_before = scored.iter().take(MEASURED / 2).all(|(_, tilings)| tilings.iter().any(|t| t.split > 1));
    let others = scored.iter().take(MEASURED / 2).chain(unsplit.filter(|_| none_before));
    let others = others.map(|(_, tilings)| whole(tilings));
    default
        .into_iter()
        .chain(others)
        .filter_map(|tilings| of_size(tilings[0].invocations(), tilings.into_iter()))
        .collect()
}

fn of_tiling(t: Tiling) -> Variant {
    Variant::Contract {
        m: t.m,
        n: t.n,
        k: t.k,
        each_m: t.each_m,
        each_n: t.each_n,
        split: t.split,
        buffers: t.buffers,
        unroll: t.unroll,
    }
}

/// The longest sum of a kernel, in products.
fn depth_of(k: &Contract) -> usize {
    k.parts.iter().map(|p| p.terms.iter().map(|t| numel(&t.k)).sum::<usize>()).max().unwrap_or(1)
}

fn results_of(k: &Contract) -> usize {
    k.parts.iter().map(|p| numel(&p.space())).sum()
}

fn tiles_of(k: &Contract, t: Tiling) -> usize {
    k.parts.iter().map(|p| t.tiles(p)).sum()
}

/// Blocks of cooperative matrices, and how fast each runs when there is enough to do, relative to the fastest.
const BLOCKS: [(Blocks, f64); 6] = [
    (blocks(128, 128, 32, 2, 4), 1.0),
    (blocks(128, 64, 32, 2, 2), 0.75),
    (blocks(64, 64, 32, 2, 2), 0.6),
    (blocks(64, 64, 64, 2, 2), 0.6),
    (blocks(32, 64, 64, 1, 2), 0.4),
    (blocks(32, 32, 64, 1, 2), 0.3),
];

const fn blocks(m: u32, n: u32, k: u32, by_m: u32, by_n: u32) -> Blocks {
    Blocks { m, n, k, by_m, by_n, split: 1 }
}

/// The ways of a contraction on cooperative matrices, the best by the model above first; none where it cannot be.
fn cooperate(kernel: &Contract, caps: &Caps, most: u32, room: bool) -> Vec<Variant> {
    let Some(subgroup) = caps.cooperative.filter(|_| cooperate::allows(kernel)) else { return Vec::new() };
    let depth = kernel.parts.iter().map(|p| p.terms.iter().map(|t| numel(&t.k)).sum::<usize>()).max().unwrap_or(1);
    let results: usize = kernel.parts.iter().map(|p| numel(&p.space())).sum();
    let mut scored: Vec<(f64, Blocks)> = Vec::new();
    for (b, speed) in BLOCKS {
        if b.invocations(subgroup) > most || b.workgroup_bytes() > caps.workgroup_bytes {
            continue;
        }
        let tiles: usize = kernel.parts.iter().map(|p| b.tiles(p)).sum();
        let steps = depth.div_ceil(b.k as usize);
        let mut splits = vec![1];
        // Slices of at least two steps.
        let wanted = (BUSY_GROUPS / tiles.max(1)).min(steps / 2).min(32) as u32;
        if room && wanted > 1 {
            splits.push(wanted);
        }
        for split in splits {
            let groups = tiles * split as usize;
            let busy = (groups as f64 * f64::from(b.m * b.n) / (BUSY_GROUPS * 64 * 64) as f64).min(1.0);
            let computed = (tiles * (b.m * b.n) as usize * depth) as f64;
            let extra = if split > 1 { 8e6 + 16.0 * (results * split as usize) as f64 } else { 0.0 };
            scored.push((computed / (speed * busy) + extra, Blocks { split, ..b }));
        }
    }
    scored.sort_by(|a, b| a.0.total_cmp(&b.0));
    let variant = |b: Blocks| Variant::Cooperate { m: b.m, n: b.n, k: b.k, by_m: b.by_m, by_n: b.by_n, split: b.split };
    scored.into_iter().map(|(_, b)| variant(b)).collect()
}

fn tiles(longest: usize, caps: &Caps) -> Vec<u32> {
    let bytes = |t: u32| 3 * 4 * t * t + t * t;
    let fits = |t: &u32| bytes(*t) <= caps.workgroup_bytes && (t / 4) * (t / 4) <= caps.flat_workgroup();
    let order: &[u32] = match longest {
        0..=8 => &[8, 16],
        9..=16 => &[16, 8, 32],
        _ => &[32, 16, 64],
    };
    let list: Vec<u32> = order.iter().copied().filter(fits).collect();
    if list.is_empty() { vec![8] } else { list }
}

fn scatter(k: &Scatter, most: u32) -> Vec<Variant> {
    let group = if most >= 64 { 64 } else { 32 };
    let by = |order| Variant::Scatter { order, group };
    if k.table <= 2 * numel(&k.ids) {
        vec![by(ScatterOrder::Rows), by(ScatterOrder::Positions)]
    } else {
        vec![by(ScatterOrder::Positions), by(ScatterOrder::Rows)]
    }
}
