//! One kernel: arguments, accesses and the rules of its archetype.

use super::{Invariant, Report, body};
use crate::op::Reduce;
use crate::program::uses::{Use, uses};
use crate::program::{
    Access, ArgId, ArgMode, Body, Buffer, BufferKind, Fold, Kernel, KernelKind, Place, PlacementPolicy, Program,
    ProgramParam, ReduceKernel, Scalar, ScalarId, ScalarOp, Scatter, ScatterBase, StorageUnit, Store, Term, Update,
};
use crate::types::DType;

pub(super) fn check(program: &Program, kernel: &Kernel, report: &mut Report) {
    let list = uses(kernel);
    if !arguments(program, kernel, &list, report) || !shapes(kernel, &list, report) {
        return;
    }
    ranges(program, kernel, &list, report);
    modes(kernel, &list, report);
    in_place(kernel, &list, report);
    disjoint(program, kernel, &list, report);
    windows(program, kernel, &list, report);
    archetype(program, kernel, report);
}

/// The allocations that a kernel touches. Before memory is planned for a target that packs buffers, weights count as one, and so do scalars of the
/// step: planning puts them side by side.
fn allocations(program: &Program, kernel: &Kernel) -> usize {
    let units = program.storage_units(kernel);
    let unplanned = |b: &Buffer| b.kind == BufferKind::Temp && b.place == Place::Own;
    if program.target.placement != PlacementPolicy::Slot || !program.buffers.values().any(unplanned) {
        return units.len();
    }
    let (mut weights, mut scalars, mut others) = (0, 0, 0);
    for unit in units {
        let buffer = match unit {
            StorageUnit::Own(id) => &program.buffers[id],
            StorageUnit::Slot(_) | StorageUnit::Pack(_) => {
                others += 1;
                continue;
            }
        };
        match buffer.kind {
            BufferKind::State(p) if program.params.get(p).is_some_and(ProgramParam::is_weight) => weights = 1,
            BufferKind::Temp if buffer.len == 1 => scalars = 1,
            _ => others += 1,
        }
    }
    weights + scalars + others
}

/// Arguments exist, once each and within the target's limits; accesses name them.
fn arguments(program: &Program, kernel: &Kernel, list: &[Use<'_>], report: &mut Report) -> bool {
    let before = report.list.len();
    let t = &program.target;
    for (i, arg) in kernel.args.iter().enumerate() {
        let Some(b) = program.buffers.get(arg.buffer) else {
            report.add(Invariant::ArgsValid, format!("argument a{i} is buffer {}, which does not exist", arg.buffer));
            continue;
        };
        let first = kernel.args.iter().position(|a| a.buffer == arg.buffer) == Some(i);
        report
            .expect(first, Invariant::ArgsValid, || format!("buffer {} occurs twice in the argument list", arg.buffer));
        if b.bytes() > t.max_arg_bytes {
            let found = format!("argument a{i} has {} bytes: {} binds at most {}", b.bytes(), t.name, t.max_arg_bytes);
            report.add(Invariant::TargetLimits, found);
        }
    }
    let units = allocations(program, kernel);
    report.expect(units <= t.max_args, Invariant::TargetLimits, || {
        format!("{units} arguments: {} takes at most {}", t.name, t.max_args)
    });
    if let KernelKind::Update(k) = &kernel.kind {
        let want = k.segments.len() * k.roles + k.shared;
        report.expect(kernel.args.len() == want, Invariant::UpdateRoles, || {
            format!(
                "{} arguments: {} segments of {} roles and {} shared need {want}",
                kernel.args.len(),
                k.segments.len(),
                k.roles,
                k.shared
            )
        });
    }
    if let KernelKind::Fold(k) = &kernel.kind {
        let want = k.segments.len() + 1;
        report.expect(kernel.args.len() == want, Invariant::FoldBlocks, || {
            format!("{} arguments: {} segments and their results need {want}", kernel.args.len(), k.segments.len())
        });
    }
    for u in list {
        report.expect(u.arg < kernel.args.len(), Invariant::ArgsValid, || {
            format!("{} names argument a{}, and there are {}", u.what, u.arg, kernel.args.len())
        });
    }
    report.list[before..].iter().all(|v| v.invariant == Invariant::TargetLimits)
}

/// Extents, ranks and SSA form: what the other checks stand on.
fn shapes(kernel: &Kernel, list: &[Use<'_>], report: &mut Report) -> bool {
    let before = report.list.len();
    for (body, roots, space, accs) in bodies(&kernel.kind) {
        report.expect(space.iter().all(|n| *n >= 1), Invariant::SpaceExtents, || {
            format!("the space is {space:?}: expected extents of at least 1")
        });
        body::ssa(body, &roots, accs, report);
        for (id, s) in body.scalars.iter() {
            if let ScalarOp::Index(a) = &s.op {
                report.expect(a.coeffs.len() == space.len(), Invariant::AccessRank, || {
                    format!("index {id} has {} coefficients over {} axes", a.coeffs.len(), space.len())
                });
            }
        }
    }
    for u in list {
        report.expect(u.access.at.coeffs.len() == u.space.len(), Invariant::AccessRank, || {
            format!("{} has {} coefficients over {} axes", u.what, u.access.at.coeffs.len(), u.space.len())
        });
        let pointwise = matches!(kernel.kind, KernelKind::Pointwise(_));
        let direct = u.access.indirect.is_empty() || u.load || (u.writes && pointwise);
        report.expect(direct, Invariant::AccessRank, || format!("{} has indirect terms: expected none", u.what));
        report.expect(u.space.iter().all(|n| *n >= 1), Invariant::SpaceExtents, || {
            format!("{} ranges over {:?}: expected extents of at least 1", u.what, u.space)
        });
    }
    report.list.len() == before
}

/// Each body with the scalars that stores and reductions name, its space, and its number of accumulators.
fn bodies(kind: &KernelKind) -> Vec<(&Body, Vec<ScalarId>, Vec<usize>, usize)> {
    let values = |stores: &[Store]| stores.iter().flat_map(Store::operands).collect::<Vec<_>>();
    match kind {
        KernelKind::Pointwise(k) => vec![(&k.body, values(&k.stores), k.space.clone(), 0)],
        KernelKind::Update(k) => k.segments.iter().map(|n| (&k.body, values(&k.stores), vec![*n], 0)).collect(),
        KernelKind::Fold(k) => k.segments.iter().map(|n| (&k.body, vec![k.reduction.value], vec![*n], 0)).collect(),
        KernelKind::Reduce(k) => {
            let roots = k.reductions.iter().map(|r| r.value).chain(values(&k.stores)).collect();
            vec![(&k.body, roots, k.space(), k.reductions.len())]
        }
        KernelKind::Contract(k) => k.parts.iter().map(|p| (&p.body, values(&p.stores), p.space(), 1)).collect(),
        KernelKind::Attention(_) | KernelKind::AttentionGrad(_) => vec![],
        KernelKind::Scatter(k) => vec![(&k.body, vec![k.index, k.value], [&k.ids[..], &k.inner].concat(), 0)],
    }
}

fn ranges(program: &Program, kernel: &Kernel, list: &[Use<'_>], report: &mut Report) {
    for u in list {
        let len = program.buffers[kernel.args[u.arg].buffer].len as i64;
        let (lo, hi) = u.access.range(&u.space);
        report.expect(lo >= 0 && hi < len, Invariant::AccessRange, || {
            format!("{} reaches elements {lo} to {hi} of argument a{}, which has {len}", u.what, u.arg)
        });
    }
}

fn modes(kernel: &Kernel, list: &[Use<'_>], report: &mut Report) {
    for (i, arg) in kernel.args.iter().enumerate() {
        let used = |writes: bool| list.iter().any(|u| u.arg == i && u.writes == writes);
        let (reads, writes) = (used(false), used(true));
        report.expect((reads, writes) == (arg.mode.reads(), arg.mode.writes()), Invariant::ArgModes, || {
            let found = match (reads, writes) {
                (false, false) => "not used",
                (true, false) => "only read",
                (false, true) => "only written",
                (true, true) => "read and written",
            };
            format!("argument a{i} is {:?}, and is {found}", arg.mode)
        });
    }
}

/// `access` with zero coefficients along axes of extent 1, where they have no meaning.
fn canonical(access: &Access, space: &[usize]) -> (i64, Vec<i64>) {
    (access.at.offset, access.at.coeffs.iter().zip(space).map(|(c, n)| if *n > 1 { *c } else { 0 }).collect())
}

/// The first read of `read` that is not, at its own point, the access of some store to `written` of its region.
pub(super) fn not_in_place<'a, 'b>(list: &'b [Use<'a>], read: usize, written: usize) -> Option<&'b Use<'a>> {
    list.iter().filter(|u| u.arg == read && !u.writes).find(|u| {
        let same = |s: &Use<'_>| {
            s.writes
                && s.arg == written
                && s.region == u.region
                && s.space == u.space
                && canonical(s.access, &s.space) == canonical(u.access, &u.space)
        };
        !(u.at_own_point && u.access.indirect.is_empty() && list.iter().any(same))
    })
}

fn in_place(kernel: &Kernel, list: &[Use<'_>], report: &mut Report) {
    for (i, arg) in kernel.args.iter().enumerate() {
        if arg.mode == ArgMode::ReadWrite
            && let Some(u) = not_in_place(list, i, i)
        {
            let found =
                format!("{} reads argument a{i}, which is written, elsewhere than at the point that writes it", u.what);
            report.add(Invariant::InPlace, found);
        }
    }
}

/// Most points that are enumerated where no argument by strides settles a question.
const ENUMERATED: usize = 1 << 20;

fn disjoint(program: &Program, kernel: &Kernel, list: &[Use<'_>], report: &mut Report) {
    for (i, arg) in kernel.args.iter().enumerate() {
        let stores: Vec<(&Use<'_>, Vec<usize>)> =
            list.iter().filter(|u| u.arg == i && u.writes).map(|u| (u, store_space(kernel, u))).collect();
        let proven = stores.iter().all(|(u, space)| injective(u.access, space))
            && stores
                .iter()
                .enumerate()
                .all(|(n, (a, sa))| stores[..n].iter().all(|(b, sb)| apart(a.access, sa, b.access, sb)));
        if proven {
            continue;
        }
        let points: usize = stores.iter().map(|(_, s)| s.iter().product::<usize>()).sum();
        if points > ENUMERATED {
            report.add(
                Invariant::StoreDisjoint,
                format!(
                    "the stores to argument a{i} could not be proven disjoint, and {points} points are too many to try"
                ),
            );
        } else if let Some(element) = stored_twice(&stores, program.buffers[arg.buffer].len) {
            report.add(Invariant::StoreDisjoint, format!("element {element} of argument a{i} is stored twice"));
        }
    }
}

/// Stores of windows: the elements outside of one keep their values, so only what lives between steps can have it.
fn windows(program: &Program, kernel: &Kernel, list: &[Use<'_>], report: &mut Report) {
    let KernelKind::Pointwise(k) = &kernel.kind else { return };
    let varies = varies(&k.body, &k.space, 0);
    for s in k.stores.iter().filter(|s| !s.access.indirect.is_empty()) {
        let (arg, value) = (s.access.arg.index(), s.value);
        let buffer = &program.buffers[kernel.args[arg].buffer];
        report.expect(matches!(buffer.kind, BufferKind::State(_)), Invariant::StoreWindow, || {
            format!("{value} is stored in a window of argument a{arg}, which is {:?}: expected a state", buffer.kind)
        });
        let uses = list.iter().filter(|u| u.arg == arg).count();
        report.expect(uses == 1, Invariant::StoreWindow, || {
            format!("{value} is stored in a window of argument a{arg}, which has {uses} uses: expected no other")
        });
        for i in &s.access.indirect {
            let dtype = k.body.scalars[i.index].dtype;
            let fits = dtype == DType::I32 && !varies[i.index.index()] && i.extent >= 1;
            report.expect(fits, Invariant::StoreWindow, || {
                format!(
                    "{value} is stored in a window that {} of {dtype} moves, of {} places: expected an i32 that does not vary, and a place",
                    i.index, i.extent
                )
            });
        }
    }
}

/// The points at which a store happens: for a row store of a reduce kernel, the rows.
fn store_space(kernel: &Kernel, u: &Use<'_>) -> Vec<usize> {
    match &kernel.kind {
        KernelKind::Reduce(k) if k.stores.iter().any(|s| std::ptr::eq(&s.access, u.access) && k.is_row_store(s)) => {
            // Axes of extent 1 in place of cols keep the rank.
            [&k.rows[..], &vec![1; k.cols.len()]].concat()
        }
        _ => u.space.clone(),
    }
}

/// Whether strides show that no two points meet: sorted by size, each exceeds the reach of all smaller ones.
fn injective(access: &Access, space: &[usize]) -> bool {
    let mut axes: Vec<(u64, usize)> =
        access.at.coeffs.iter().zip(space).filter(|(_, n)| **n > 1).map(|(c, n)| (c.unsigned_abs(), *n)).collect();
    axes.sort_unstable();
    let mut reach = 0;
    axes.into_iter().all(|(c, n)| {
        let larger = c > reach;
        reach += c * (n as u64 - 1);
        larger
    })
}

/// Whether ranges, or residues modulo some stride, show that two accesses share no element.
fn apart(a: &Access, a_space: &[usize], b: &Access, b_space: &[usize]) -> bool {
    let (a_lo, a_hi) = a.range(a_space);
    let (b_lo, b_hi) = b.range(b_space);
    if a_hi < b_lo || b_hi < a_lo {
        return true;
    }
    // Modulo a stride g, axes whose stride is a multiple of g vanish; what remains must be two separate windows.
    let window = |access: &Access, space: &[usize], g: i64| {
        let mut rest = access.clone();
        rest.at.coeffs.iter_mut().filter(|c| **c % g == 0).for_each(|c| *c = 0);
        let (lo, hi) = rest.range(space);
        let start = lo.rem_euclid(g);
        (start + (hi - lo) < g).then_some((start, start + (hi - lo)))
    };
    a.at.coeffs.iter().chain(&b.at.coeffs).map(|c| c.abs()).filter(|g| *g > 1).any(|g| {
        match (window(a, a_space, g), window(b, b_space, g)) {
            (Some((a0, a1)), Some((b0, b1))) => a1 < b0 || b1 < a0,
            _ => false,
        }
    })
}

fn stored_twice(stores: &[(&Use<'_>, Vec<usize>)], len: usize) -> Option<i64> {
    let mut seen = vec![false; len];
    for (u, space) in stores {
        let mut point = vec![0; space.len()];
        for _ in 0..space.iter().product() {
            let element = u.access.at.at(&point);
            // Elements out of range are another violation.
            if let Some(s) = usize::try_from(element).ok().and_then(|e| seen.get_mut(e)) {
                if *s {
                    return Some(element);
                }
                *s = true;
            }
            for d in (0..space.len()).rev() {
                point[d] += 1;
                if point[d] < space[d] {
                    break;
                }
                point[d] = 0;
            }
        }
    }
    None
}

fn archetype(program: &Program, kernel: &Kernel, report: &mut Report) {
    let dtype = |arg: usize| kernel.args.get(arg).map(|a| program.buffers[a.buffer].dtype);
    let of = |arg: ArgId| dtype(arg.index());
    match &kernel.kind {
        KernelKind::Pointwise(k) => typed(&k.body, &k.space, &[], &k.stores, &of, report),
        KernelKind::Update(k) => update(kernel, k, &dtype, report),
        KernelKind::Fold(k) => fold(kernel, k, &dtype, report),
        KernelKind::Reduce(k) => reduce(k, &of, report),
        KernelKind::Contract(k) => {
            for p in &k.parts {
                let read = |t: &Term| [&t.lhs, &t.rhs].into_iter().filter_map(|a| of(a.arg)).collect::<Vec<DType>>();
                let operands: Vec<DType> = p.terms.iter().flat_map(read).collect();
                let rounded = p.terms.iter().any(|t| t.f16);
                let acc = if rounded { DType::F32 } else { operands.first().copied().unwrap_or(DType::F32) };
                // What a term that rounds reads may be rounded already.
                let fits = |t: &Term, d: DType| d == acc || t.f16 && d == DType::F16;
                let alike = acc.is_float() && p.terms.iter().all(|t| read(t).into_iter().all(|d| fits(t, d)));
                report.expect(!operands.is_empty() && alike, Invariant::ContractTerms, || {
                    let expected = if rounded { "f32, or f16 where they are rounded" } else { "one float dtype" };
                    format!("operands are of {operands:?}: expected at least one product, all of {expected}")
                });
                typed(&p.body, &p.space(), &[acc], &p.stores, &of, report);
            }
            report.expect(!k.parts.is_empty(), Invariant::ContractTerms, || "there is no part".into());
        }
        KernelKind::Attention(k) => {
            let s = k.shape;
            let stored = k.out.is_some() || k.lse.is_some();
            attention(kernel, program, s.causal && s.q_len != s.k_len, stored, s.scale, report);
            report.expect(k.v.is_some() == k.out.is_some(), Invariant::AttentionShape, || {
                "v and out: expected both or neither".into()
            });
        }
        KernelKind::AttentionGrad(k) => {
            let s = k.shape;
            let stored = k.dq.is_some() || k.dk.is_some() || k.dv.is_some();
            attention(kernel, program, s.causal && s.q_len != s.k_len, stored, s.scale, report);
        }
        KernelKind::Scatter(k) => scatter(k, &of, report),
    }
}

fn typed(
    b: &Body,
    space: &[usize],
    accs: &[DType],
    stores: &[Store],
    of: &dyn Fn(ArgId) -> Option<DType>,
    report: &mut Report,
) {
    body::types(b, space, accs, of, report);
    for s in stores {
        let found = b.scalars[s.value].dtype;
        if let Some(want) = of(s.access.arg).filter(|d| *d != found) {
            report.add(
                Invariant::BodyTypes,
                format!("{} of {found} is stored in argument {} of {want}", s.value, s.access.arg),
            );
        }
    }
}

fn update(kernel: &Kernel, k: &Update, dtype: &dyn Fn(usize) -> Option<DType>, report: &mut Report) {
    let last = k.segments.iter().copied().max().unwrap_or(1);
    let position = |a: ArgId| {
        if a.index() < k.roles { a.index() } else { k.segments.len() * k.roles + a.index() - k.roles }
    };
    typed(&k.body, &[last], &[], &k.stores, &|a| dtype(position(a)), report);
    report.expect(!k.segments.is_empty(), Invariant::UpdateRoles, || "there is no segment".into());
    for s in 1..k.segments.len() {
        for r in 0..k.roles {
            let (first, own) = (kernel.args[r], kernel.args[s * k.roles + r]);
            let alike = first.mode == own.mode && dtype(r) == dtype(s * k.roles + r);
            report.expect(alike, Invariant::UpdateRoles, || {
                format!("role {r} of segment {s} differs from segment 0 in mode or dtype")
            });
        }
    }
    let stores = k.stores.iter().map(|s| (&s.access, true));
    for (a, stored) in k.body.loads().map(|a| (a, false)).chain(stores) {
        let shared = a.arg.index() >= k.roles;
        let stride = a.at.coeffs[0];
        let fits = a.at.offset == 0
            && a.indirect.is_empty()
            && if stored { stride == 1 && !shared } else { stride == 0 || (stride == 1 && !shared) };
        report.expect(fits, Invariant::UpdateRoles, || {
            format!(
                "{} of role {} with offset {} and stride {stride}: expected offset 0, and stride 1, or 0 for a load of a scalar; shared roles are scalars to read",
                if stored { "a store" } else { "a load" },
                a.arg.index(),
                a.at.offset
            )
        });
    }
}

fn fold(kernel: &Kernel, k: &Fold, dtype: &dyn Fn(usize) -> Option<DType>, report: &mut Report) {
    let results = k.segments.len();
    let longest = k.segments.iter().copied().max().unwrap_or(1);
    body::types(&k.body, &[longest], &[], &|a| dtype(if a == Fold::SEGMENT { 0 } else { results }), report);
    report.expect(!k.segments.is_empty() && k.block >= 1, Invariant::FoldBlocks, || {
        format!("{results} segments in blocks of {} elements: expected at least one of each", k.block)
    });
    for s in 0..results {
        let alike = kernel.args[s].mode == ArgMode::Read && dtype(s) == dtype(0);
        report.expect(alike, Invariant::FoldBlocks, || {
            format!("segment {s} is not read, or differs from segment 0 in dtype")
        });
    }
    let flat = |a: &Access, role: ArgId| *a == Access::direct(role, 0, vec![1]);
    for a in k.body.loads() {
        report.expect(flat(a, Fold::SEGMENT), Invariant::FoldBlocks, || {
            format!("a load of role {}: expected role 0, offset 0 and stride 1", a.arg.index())
        });
    }
    report.expect(flat(&k.out, Fold::RESULTS), Invariant::FoldBlocks, || {
        "the results: expected role 1, offset 0 and stride 1".into()
    });
    let indexed = k.body.scalars.values().any(|s| matches!(s.op, ScalarOp::Index(_)));
    report.expect(!indexed, Invariant::FoldBlocks, || "an index in the body: expected loads and constants only".into());
    let found = k.body.scalars[k.reduction.value].dtype;
    let fits = k.reduction.op != Reduce::ArgMax && found != DType::Bool && dtype(results) == Some(found);
    report.expect(fits, Invariant::FoldBlocks, || {
        format!(
            "{} of {found} into results of {:?}: expected a sum or a maximum of numbers of one dtype",
            k.reduction.op.name(),
            dtype(results)
        )
    });
}

/// Whether each scalar varies along the axes from `from` on.
fn varies(body: &Body, space: &[usize], from: usize) -> Vec<bool> {
    let along = |coeffs: &[i64]| coeffs[from..].iter().zip(&space[from..]).any(|(c, n)| *c != 0 && *n > 1);
    body.depends(|op| match op {
        ScalarOp::Load(a) => along(&a.at.coeffs),
        ScalarOp::Index(a) => along(&a.coeffs),
        _ => false,
    })
}

fn reduce(k: &ReduceKernel, of: &dyn Fn(ArgId) -> Option<DType>, report: &mut Report) {
    report.expect(!k.reductions.is_empty(), Invariant::ReduceRows, || "there is no reduction".into());
    let accs: Vec<DType> = k
        .reductions
        .iter()
        .map(|r| if r.op == Reduce::ArgMax { DType::I32 } else { k.body.scalars[r.value].dtype })
        .collect();
    typed(&k.body, &k.space(), &accs, &k.stores, of, report);
    for (i, r) in k.reductions.iter().enumerate() {
        let Scalar { dtype, .. } = k.body.scalars[r.value];
        report.expect(dtype != DType::Bool, Invariant::BodyTypes, || {
            format!("reduction {i} is over bool: expected float or integer")
        });
        let late = k.body.depends(|op| matches!(op, ScalarOp::Acc(a) if *a as usize >= i));
        report.expect(!late[r.value.index()], Invariant::BodySsa, || {
            format!("reduction {i} uses the result of reduction {i} or a later one")
        });
    }
    let varies = varies(&k.body, &k.space(), k.rows.len());
    for s in k.stores.iter().filter(|s| k.is_row_store(s)) {
        report.expect(!varies[s.value.index()], Invariant::ReduceRows, || {
            format!("{} is stored once a row and varies along cols", s.value)
        });
    }
}

fn attention(kernel: &Kernel, program: &Program, uneven: bool, stored: bool, scale: f64, report: &mut Report) {
    report.expect(!uneven, Invariant::AttentionShape, || "causal with unequal numbers of queries and keys".into());
    report.expect(stored, Invariant::AttentionShape, || "no result is stored".into());
    report.expect(scale.is_finite(), Invariant::AttentionShape, || format!("the scale is {scale}"));
    for a in &kernel.args {
        let dtype = program.buffers[a.buffer].dtype;
        report.expect(dtype == DType::F32, Invariant::AttentionShape, || {
            format!("buffer {} is {dtype}: expected f32", a.buffer)
        });
    }
}

fn scatter(k: &Scatter, of: &dyn Fn(ArgId) -> Option<DType>, report: &mut Report) {
    let space = [&k.ids[..], &k.inner].concat();
    body::types(&k.body, &space, &[], of, report);
    let Scalar { dtype: index, .. } = k.body.scalars[k.index];
    let varies = varies(&k.body, &space, k.ids.len());
    report.expect(index == DType::I32 && !varies[k.index.index()], Invariant::ScatterIndex, || {
        format!("the index {} is {index}: expected an i32 that does not vary along inner", k.index)
    });
    let value = k.body.scalars[k.value].dtype;
    let base = match &k.base {
        ScatterBase::Const(c) => Some(c.dtype),
        ScatterBase::Load(a) => of(a.arg),
    };
    let alike = value != DType::Bool && base == Some(value) && of(k.out.arg) == Some(value);
    report.expect(alike, Invariant::ScatterIndex, || {
        format!("the value is {value}, the base {base:?}, the result {:?}: expected one numeric dtype", of(k.out.arg))
    });
    report.expect(k.table >= 1, Invariant::SpaceExtents, || "the table has no rows".into());
}
