//! Memory: temporaries get bytes.
//!
//! One liveness analysis (a temporary lives from the stage that writes it to the last stage that reads it), two placements: *slab*, offsets in
//! one allocation, and *slot*, whole buffers reused beside packs that are not. Before placement a temporary may *take over* the bytes of one that dies in the
//! kernel that writes it, if every element is read where it is written.
//!
//! Invariants
//! - Temporaries that are live in one stage never share bytes, except along a takeover.
//! - The plan states the lower bound (most live bytes in one stage, a takeover counted once) beside what it uses.

use tinygpt_ir::program::{
    Access, ArgId, ArgMode, Body, Buffer, BufferId, BufferKind, Kernel, KernelKind, MemoryPlan, Place, PlacementPolicy,
    Program, Store,
};

/// Fills in `live`, `takes_over` and `place` of every temporary and the program's memory plan.
pub fn plan(program: &mut Program) {
    liveness(program);
    if program.target.placement == PlacementPolicy::Slot {
        pack(program);
    }
    take_over(program);
    let chains = chains(program);
    let lower_bound = lower_bound(&chains, program.stages.len());
    program.memory = match program.target.placement {
        PlacementPolicy::Slab => slab(program, &chains, lower_bound),
        PlacementPolicy::Slot => slots(program, &chains, lower_bound),
    };
}

fn temps(program: &Program) -> Vec<BufferId> {
    program.buffers.iter().filter(|(_, b)| b.kind == BufferKind::Temp).map(|(id, _)| id).collect()
}

fn liveness(program: &mut Program) {
    for stage in 0..program.stages.len() {
        for k in program.stage_kernels(stage) {
            for a in program.kernels[k].args.clone() {
                let buffer = &mut program.buffers[a.buffer];
                if buffer.kind == BufferKind::Temp {
                    let (first, _) = buffer.live.unwrap_or((stage as u32, stage as u32));
                    buffer.live = Some((first, stage as u32));
                }
            }
        }
    }
}

/// Lets results of elementwise kernels be written over operands that die there.
fn take_over(program: &mut Program) {
    for stage in 0..program.stages.len() {
        let readers = |program: &Program, b: BufferId| {
            program.stage_kernels(stage).filter(|k| program.kernels[*k].args.iter().any(|a| a.buffer == b)).count()
        };
        for k in program.stage_kernels(stage) {
            let args = program.kernels[k].args.clone();
            let mut taken: Vec<BufferId> = Vec::new();
            for (w, arg) in args.iter().enumerate() {
                let new = &program.buffers[arg.buffer];
                if arg.mode != ArgMode::Write || new.kind != BufferKind::Temp || new.place != Place::Own {
                    continue;
                }
                let old = args.iter().enumerate().find(|(r, a)| {
                    let b = &program.buffers[a.buffer];
                    a.mode == ArgMode::Read
                        && b.kind == BufferKind::Temp
                        && b.place == Place::Own
                        && b.live.is_some_and(|(first, last)| last == stage as u32 && first < stage as u32)
                        && b.bytes() == new.bytes()
                        && b.dtype == new.dtype
                        && !taken.contains(&a.buffer)
                        && readers(program, a.buffer) == 1
                        && in_place(&program.kernels[k], ArgId(*r as u32), ArgId(w as u32))
                });
                if let Some((_, a)) = old {
                    taken.push(a.buffer);
                    program.buffers[arg.buffer].takes_over = Some(a.buffer);
                }
            }
        }
    }
}

/// Whether every element of `new` is written at a point that alone reads it from `old`, after that read.
fn in_place(kernel: &Kernel, old: ArgId, new: ArgId) -> bool {
    let same = |body: &Body, stores: &[Store], reads_early: bool| {
        let mut at = stores.iter().filter(|s| s.access.arg == new).map(|s| &s.access.at);
        let Some(first) = at.next() else { return false };
        !reads_early
            && at.all(|a| a == first)
            && body.loads().filter(|l| l.arg == old).all(|l: &Access| l.indirect.is_empty() && l.at == *first)
    };
    match &kernel.kind {
        KernelKind::Pointwise(k) => same(&k.body, &k.stores, false),
        // A row's element stores follow all its sweeps; row stores of full-size operands do not occur.
        KernelKind::Reduce(k) => {
            same(&k.body, &k.stores, k.stores.iter().any(|s| s.access.arg == new && k.is_row_store(s)))
        }
        // Epilogue operands only, and not across parts, which may run at once.
        KernelKind::Contract(k) => {
            let operand = k.parts.iter().flat_map(|p| &p.terms).any(|t| t.lhs.arg == old || t.rhs.arg == old);
            let [part] = k.parts.as_slice() else { return false };
            same(&part.body, &part.stores, operand)
        }
        KernelKind::Scatter(k) => {
            use tinygpt_ir::program::ScatterBase;
            matches!(&k.base, ScatterBase::Load(a) if a.arg == old && a.at == k.out.at)
                && k.body.loads().all(|l| l.arg != old)
        }
        KernelKind::Update(_) | KernelKind::Fold(_) | KernelKind::Attention(_) | KernelKind::AttentionGrad(_) => false,
    }
}

/// Temporaries that share bytes by takeover: live from the first's first stage to the last's last.
struct Chain {
    members: Vec<BufferId>,
    bytes: usize,
    live: (u32, u32),
}

fn chains(program: &Program) -> Vec<Chain> {
    let temps = temps(program);
    let mut next: Vec<Option<BufferId>> = vec![None; program.buffers.len()];
    for t in &temps {
        if let Some(old) = program.buffers[*t].takes_over {
            next[old.index()] = Some(*t);
        }
    }
    let mut out = Vec::new();
    for t in temps {
        let Some((first, mut last)) = program.buffers[t].live else { continue };
        if program.buffers[t].takes_over.is_some() {
            continue;
        }
        let mut members = vec![t];
        while let Some(n) = next[members[members.len() - 1].index()] {
            last = program.buffers[n].live.map_or(last, |(_, l)| l);
            members.push(n);
        }
        let align = program.target.alignment;
        let bytes = program.buffers[t].bytes().div_ceil(align) * align;
        out.push(Chain { members, bytes, live: (first, last) });
    }
    out
}

fn lower_bound(chains: &[Chain], stages: usize) -> usize {
    let mut bytes = vec![0usize; stages];
    for c in chains {
        for b in &mut bytes[c.live.0 as usize..=c.live.1 as usize] {
            *b += c.bytes;
        }
    }
    bytes.into_iter().max().unwrap_or(0)
}

fn overlap(a: (u32, u32), b: (u32, u32)) -> bool {
    a.0 <= b.1 && b.0 <= a.1
}

/// Best of a few orders of greedy best fit: each chain goes to the lowest gap that fits among those it lives with.
fn slab(program: &mut Program, chains: &[Chain], lower_bound: usize) -> MemoryPlan {
    let span = |c: &Chain| (c.live.1 - c.live.0 + 1) as usize;
    let mut orders: Vec<Vec<usize>> = Vec::new();
    let mut order: Vec<usize> = (0..chains.len()).collect();
    order.sort_by_key(|i| (std::cmp::Reverse(chains[*i].bytes), chains[*i].live.0, *i));
    orders.push(order.clone());
    order.sort_by_key(|i| (std::cmp::Reverse(chains[*i].bytes * span(&chains[*i])), *i));
    orders.push(order.clone());
    order.sort_by_key(|i| (std::cmp::Reverse(span(&chains[*i])), std::cmp::Reverse(chains[*i].bytes), *i));
    orders.push(order.clone());
    order.sort_by_key(|i| (chains[*i].live.0, std::cmp::Reverse(chains[*i].bytes), *i));
    orders.push(order.clone());
    order.sort_by_key(|i| (std::cmp::Reverse(chains[*i].live.1), chains[*i].live.0, *i));
    orders.push(order);
    let (planned, offsets) =
        orders.iter().map(|o| place(chains, o)).min_by_key(|(total, _)| *total).unwrap_or((0, Vec::new()));
    for (c, offset) in chains.iter().zip(offsets) {
        for m in &c.members {
            program.buffers[*m].place = Place::Slab(offset);
        }
    }
    MemoryPlan { planned, lower_bound, slots: Vec::new(), packs: Vec::new() }
}

fn place(chains: &[Chain], order: &[usize]) -> (usize, Vec<usize>) {
    let mut offsets = vec![0; chains.len()];
    let mut placed: Vec<usize> = Vec::new();
    let mut total = 0;
    for i in order {
        let c = &chains[*i];
        let mut taken: Vec<(usize, usize)> = placed
            .iter()
            .filter(|p| overlap(chains[**p].live, c.live))
            .map(|p| (offsets[*p], offsets[*p] + chains[*p].bytes))
            .collect();
        taken.sort_unstable();
        let mut best: Option<(usize, usize)> = None;
        let mut cursor = 0;
        for (from, to) in taken {
            if from >= cursor + c.bytes {
                let gap = from - cursor;
                if best.is_none_or(|(g, _)| gap < g) {
                    best = Some((gap, cursor));
                }
            }
            cursor = cursor.max(to);
        }
        offsets[*i] = best.map_or(cursor, |(_, at)| at);
        total = total.max(offsets[*i] + c.bytes);
        placed.push(*i);
    }
    (total, offsets)
}

/// Whole buffers, each reused by the next chain of about its size once it is free.
fn slots(program: &mut Program, chains: &[Chain], lower_bound: usize) -> MemoryPlan {
    let mut order: Vec<usize> = (0..chains.len()).collect();
    order.sort_by_key(|i| (chains[*i].live.0, std::cmp::Reverse(chains[*i].bytes), *i));
    let mut sizes: Vec<usize> = Vec::new();
    let mut free_from: Vec<u32> = Vec::new();
    for i in order {
        let c = &chains[i];
        if program.buffers[c.members[0]].place != Place::Own {
            continue;
        }
        let fits =
            (0..sizes.len()).filter(|s| free_from[*s] <= c.live.0).min_by_key(|s| (sizes[*s].abs_diff(c.bytes), *s));
        let slot = match fits {
            Some(s) => s,
            None => {
                sizes.push(0);
                free_from.push(0);
                sizes.len() - 1
            }
        };
        sizes[slot] = sizes[slot].max(c.bytes);
        free_from[slot] = c.live.1 + 1;
        for m in &c.members {
            program.buffers[*m].place = Place::Slot(slot as u32);
        }
    }
    let packed: usize = program
        .buffers
        .values()
        .filter(|b| b.kind == BufferKind::Temp && matches!(b.place, Place::Pack { .. }))
        .map(|b| b.bytes().next_multiple_of(program.target.alignment))
        .sum();
    let packs = std::mem::take(&mut program.memory.packs);
    MemoryPlan { planned: sizes.iter().sum::<usize>() + packed, lower_bound, slots: sizes, packs }
}

/// Puts side by side the segments of a fold, what update kernels use in one role, and the scalars of the step; see [`MemoryPlan::packs`].
fn pack(program: &mut Program) {
    let packable = |b: &BufferId| {
        let b = &program.buffers[*b];
        !matches!(b.kind, BufferKind::Input(_)) && b.bytes() <= program.target.max_arg_bytes
    };
    // Scalars are together whatever else reads them: fusion counts them as one allocation.
    let scalar = |b: &BufferId| program.buffers[*b].kind == BufferKind::Temp && program.buffers[*b].len == 1;
    let grouped = |b: &BufferId| packable(b) && !scalar(b);
    // All weights first: forward kernels read several of them.
    let weights = program.params.iter().filter(|p| p.is_weight()).map(|p| p.buffer).filter(packable);
    let mut groups: Vec<Vec<BufferId>> = vec![weights.collect()];
    for k in program.kernels.values() {
        match &k.kind {
            KernelKind::Update(u) => {
                for role in 0..u.roles {
                    let all = (0..u.segments.len()).map(|s| k.args[s * u.roles + role].buffer);
                    groups.push(all.filter(grouped).collect());
                }
            }
            KernelKind::Fold(f) => {
                groups.push(k.args[..f.segments.len()].iter().map(|a| a.buffer).filter(grouped).collect());
            }
            _ => {}
        }
    }
    let small = |b: &Buffer| b.kind == BufferKind::Temp && b.bytes() <= program.target.alignment && b.live.is_some();
    groups.push(program.buffers.iter().filter(|(_, b)| small(b)).map(|(id, _)| id).collect());
    for group in groups {
        let mut current: Option<(u32, usize)> = None;
        for b in group {
            if program.buffers[b].place != Place::Own {
                continue;
            }
            let bytes = program.buffers[b].bytes().next_multiple_of(program.target.alignment);
            let (pack, offset) = match current {
                Some((pack, end)) if end + bytes <= program.target.max_arg_bytes => (pack, end),
                _ => {
                    program.memory.packs.push(0);
                    (program.memory.packs.len() as u32 - 1, 0)
                }
            };
            program.buffers[b].place = Place::Pack { pack, offset };
            program.memory.packs[pack as usize] = offset + bytes;
            current = Some((pack, offset + bytes));
        }
    }
}
