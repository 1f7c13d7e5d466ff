//! Choices near another: what a search for a faster one looks at next.
//!
//! Invariants
//! - A neighbour differs in one respect: the slices of one product, the steps or the tile of the products, the variant of another piece, or whether
//!   pieces are one module. What must follow follows: pieces of one module have workgroups of one size, and another tile has about as many workgroups.
//! - Neighbours are in a fixed order, what is cheap to compile and wins often first. [`Bundle::emit`] may refuse some.

use crate::attention_matrices::Walk;
use crate::bundle::Bundle;
use crate::caps::Caps;
use crate::choose::{self, Way};
use crate::variant::{AttentionTiling, Choice, Variant};
use tinygpt_ir::program::{Contract, KernelKind};

/// Most slices of a product.
const MOST_SLICES: u32 = 64;

/// The choices near `choice`, which is one of `bundle`'s or a neighbour of one.
pub fn neighbours(bundle: &Bundle, choice: &Choice, caps: &Caps) -> Vec<Choice> {
    let mut found = Found { bundle, choice, list: Vec::new() };
    for (at, variant) in choice.variants.iter().enumerate() {
        for other in with_other_slices(*variant) {
            found.piece(at, other);
        }
    }
    for step in [4, 8, 16, 32] {
        found.contractions(|v| with_unroll(v, step));
    }
    if bundle.pieces.len() > 1 {
        found.push(Choice { together: !choice.together, ..choice.clone() });
    }
    for (at, (_, piece)) in bundle.pieces.iter().enumerate() {
        if matches!(piece.kind, KernelKind::Contract(_)) {
            continue;
        }
        for variant in choose::variants(piece, caps) {
            found.piece(at, variant);
        }
        if let (KernelKind::Attention(_) | KernelKind::AttentionGrad(_), now) = (&piece.kind, choice.variants[at]) {
            for variant in near_attention(now).into_iter().filter(|v| attention_fits(v, &piece.kind, caps)) {
                found.piece(at, variant);
            }
        }
    }
    found.contractions(with_other_buffers);
    for k in [8, 16, 32, 64] {
        found.contractions(|v| with_steps(v, k));
    }
    for way in ways(bundle, caps) {
        found.tile(way, caps);
    }
    for listed in &bundle.choices {
        found.push(listed.clone());
    }
    found.list
}

/// The ways to tile a bundle's contractions.
fn ways(bundle: &Bundle, caps: &Caps) -> Vec<Way> {
    let contracts: Vec<&Contract> = bundle.pieces.iter().filter_map(|(_, p)| contract(&p.kind)).collect();
    if contracts.is_empty() {
        return Vec::new();
    }
    Way::matrices(&contracts, caps).into_iter().chain(Way::plain(caps)).map(|(way, _)| way).collect()
}

fn contract(kind: &KernelKind) -> Option<&Contract> {
    match kind {
        KernelKind::Contract(k) => Some(k),
        _ => None,
    }
}

struct Found<'a> {
    bundle: &'a Bundle,
    choice: &'a Choice,
    list: Vec<Choice>,
}

impl Found<'_> {
    fn push(&mut self, choice: Choice) {
        if choice != *self.choice && !self.list.contains(&choice) {
            self.list.push(choice);
        }
    }

    /// One piece in another variant, if it may still be one module with the others.
    fn piece(&mut self, at: usize, variant: Variant) {
        let now = &self.choice.variants[at];
        let linked = self.choice.together && self.choice.variants.len() > 1;
        if !linked || variant.invocations() == now.invocations() {
            let mut variants = self.choice.variants.clone();
            variants[at] = variant;
            self.push(Choice { variants, together: self.choice.together });
        }
    }

    /// All contractions as `change` makes them, which keeps their workgroups' size.
    fn contractions(&mut self, change: impl Fn(Variant) -> Option<Variant>) {
        let pieces = self.bundle.pieces.iter().zip(&self.choice.variants);
        let changed = pieces.map(|((_, piece), v)| match piece.kind {
            KernelKind::Contract(_) => change(*v),
            _ => Some(*v),
        });
        if let Some(variants) = changed.collect() {
            self.push(Choice { variants, together: self.choice.together });
        }
    }

    /// All contractions in the tile of `way`, with so many slices that there are about as many workgroups as now.
    fn tile(&mut self, way: Way, caps: &Caps) {
        let tiled = |kind: &KernelKind, now: Variant| -> Option<Variant> {
            let k = contract(kind)?;
            let now = Way::of(now, caps)?;
            let groups = now.tiles(k) * now.split() as usize;
            let split = (groups + way.tiles(k) / 2) / way.tiles(k).max(1);
            let way = way.with_split((split as u32).clamp(1, MOST_SLICES));
            Some(way.with_unroll_of(now).variant())
        };
        let group = way.invocations();
        let linked = self.choice.together && self.choice.variants.len() > 1;
        let pieces = self.bundle.pieces.iter().zip(&self.choice.variants);
        let variants = pieces.map(|((_, piece), v)| match piece.kind {
            KernelKind::Contract(_) => tiled(&piece.kind, *v),
            _ if linked => choose::of_group(piece, caps, group, 0),
            _ => Some(*v),
        });
        if let Some(variants) = variants.collect() {
            self.push(Choice { variants, together: self.choice.together });
        }
    }
}

/// The same with fewer or more slices.
fn with_other_slices(variant: Variant) -> Vec<Variant> {
    let near = |now: u32| -> Vec<u32> {
        let all = [now / 2, 2 * now, 3 * now / 4, now + now / 2, now.saturating_sub(1), now + 1, 1];
        let mut list: Vec<u32> = Vec::new();
        for split in all {
            if (1..=MOST_SLICES).contains(&split) && split != now && !list.contains(&split) {
                list.push(split);
            }
        }
        list
    };
    match variant {
        Variant::Contract { m, n, k, each_m, each_n, teams, split, buffers, unroll } => near(split)
            .into_iter()
            .map(|split| Variant::Contract { m, n, k, each_m, each_n, teams, split, buffers, unroll })
            .collect(),
        Variant::Cooperate { m, n, k, by_m, by_n, split } => {
            near(split).into_iter().map(|split| Variant::Cooperate { m, n, k, by_m, by_n, split }).collect()
        }
        _ => Vec::new(),
    }
}

fn with_unroll(variant: Variant, step: u32) -> Option<Variant> {
    match variant {
        Variant::Contract { m, n, k, each_m, each_n, teams, split, buffers, .. } => (k.is_multiple_of(step)
            && step * each_m * each_n <= choose::SPELLED)
            .then_some(Variant::Contract { m, n, k, each_m, each_n, teams, split, buffers, unroll: step }),
        _ => None,
    }
}

fn with_other_buffers(variant: Variant) -> Option<Variant> {
    match variant {
        Variant::Contract { m, n, k, each_m, each_n, teams, split, buffers, unroll } => {
            Some(Variant::Contract { m, n, k, each_m, each_n, teams, split, buffers: 3 - buffers, unroll })
        }
        _ => None,
    }
}

/// The same in steps of another depth.
fn with_steps(variant: Variant, depth: u32) -> Option<Variant> {
    match variant {
        Variant::Contract { m, n, each_m, each_n, teams, split, buffers, unroll, .. } => {
            let unroll = unroll.min(depth);
            Some(Variant::Contract { m, n, k: depth, each_m, each_n, teams, split, buffers, unroll })
        }
        Variant::Cooperate { m, n, by_m, by_n, split, .. } if depth >= 16 => {
            Some(Variant::Cooperate { m, n, k: depth, by_m, by_n, split })
        }
        _ => None,
    }
}

/// Attention with a tile, a block or a step twice or half as large, or with what stays in workgroup memory or scratch changed.
fn near_attention(variant: Variant) -> Vec<Variant> {
    let near = |t: AttentionTiling| {
        let AttentionTiling { rows, cols, each_m, each_n, depth, stay } = t;
        let other = if each_n == 4 { 8 } else { 4 };
        vec![
            AttentionTiling { stay: !stay, ..t },
            AttentionTiling { depth: depth / 2, ..t },
            AttentionTiling { depth: 2 * depth, ..t },
            AttentionTiling { rows: rows / 2, ..t },
            AttentionTiling { rows: 2 * rows, ..t },
            AttentionTiling { cols: cols / 2, ..t },
            AttentionTiling { cols: 2 * cols, ..t },
            AttentionTiling { rows: rows / 2, cols: cols / 2, ..t },
            AttentionTiling { rows: 2 * rows, cols: 2 * cols, ..t },
            AttentionTiling { each_n: other, ..t },
            AttentionTiling { cols: cols * other / each_n, each_n: other, each_m, ..t },
        ]
    };
    match variant {
        Variant::Attention(t) => near(t).into_iter().map(Variant::Attention).collect(),
        Variant::AttentionGrad { tiling, slopes } => {
            let changed = near(tiling).into_iter().map(|tiling| Variant::AttentionGrad { tiling, slopes });
            [Variant::AttentionGrad { tiling, slopes: !slopes }].into_iter().chain(changed).collect()
        }
        Variant::AttentionMatrices { rows, cols } => {
            [(rows / 2, cols), (2 * rows, cols), (rows, cols / 2), (rows, 2 * cols), (rows / 2, 2 * cols)]
                .map(|(rows, cols)| Variant::AttentionMatrices { rows, cols })
                .to_vec()
        }
        _ => Vec::new(),
    }
}

fn attention_fits(variant: &Variant, kind: &KernelKind, caps: &Caps) -> bool {
    let (shape, grad) = match kind {
        KernelKind::Attention(k) => (&k.shape, false),
        KernelKind::AttentionGrad(k) => (&k.shape, true),
        _ => return false,
    };
    let sane = |t: &AttentionTiling| t.rows >= 8 && t.cols >= 8 && t.depth >= 8 && t.fits(shape, grad, caps);
    match variant {
        Variant::Attention(t) => sane(t),
        Variant::AttentionGrad { tiling, slopes } => {
            sane(tiling) && (!slopes || choose::has_room_for_slopes(shape, *tiling, caps))
        }
        Variant::AttentionMatrices { rows, cols } => Walk { rows: *rows, cols: *cols }.allows(shape, grad, caps),
        _ => false,
    }
}
