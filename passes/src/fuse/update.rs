//! One kernel for many alike pointwise kernels: the optimizer over all parameters in one launch.
//!
//! Pointwise kernels whose accesses are flat (each touches whole buffers in order, or single elements) and whose bodies are equal differ only in
//! length and buffers: they become segments of one update kernel.
//!
//! Invariants
//! - Merged kernels are independent of each other.
//! - Single-element arguments that all segments share are passed once; others stay roles of their segment.

use std::collections::BTreeSet;

use tinygpt_ir::program::BufferId;
use tinygpt_ir::program::{
    Access, Affine, Arg, ArgId, Body, Kernel, KernelKind, PlacementPolicy, Pointwise, ScalarOp, Store, TargetModel,
    Update,
};
use tinygpt_ir::row_major;

use super::DraftKernel;
use super::remark::{Reason, Remarks};
use super::siblings::first_node;

/// Merges alike pointwise kernels.
pub fn merge(kernels: &mut Vec<DraftKernel>, target: &TargetModel, remarks: &mut Remarks) {
    let mut groups: Vec<(Flat, Vec<usize>)> = Vec::new();
    for (i, k) in kernels.iter().enumerate() {
        let Some(flat) = flat(k) else { continue };
        match groups.iter_mut().find(|(f, _)| f.alike(&flat)) {
            Some((_, members)) => members.push(i),
            None => groups.push((flat, vec![i])),
        }
    }
    let mut gone: Vec<usize> = Vec::new();
    for (flat, members) in groups {
        let members = independent(kernels, members, remarks);
        for members in chunks(kernels, &flat, &members, target, remarks) {
            let first = members[0];
            let merged = segments(kernels, &flat, &members);
            let after: BTreeSet<usize> = members.iter().flat_map(|m| kernels[*m].after.iter().copied()).collect();
            kernels[first].key = members.iter().map(|m| kernels[*m].key).max().unwrap_or(kernels[first].key);
            kernels[first].kernel = merged;
            kernels[first].after = after;
            for k in kernels.iter_mut() {
                if members.iter().any(|m| k.after.remove(m)) {
                    k.after.insert(first);
                }
            }
            gone.extend(&members[1..]);
        }
    }
    gone.sort_unstable();
    let mut at = vec![0; kernels.len()];
    let mut kept = 0;
    for (i, slot) in at.iter_mut().enumerate() {
        *slot = kept;
        kept += usize::from(!gone.contains(&i));
    }
    let mut i = 0;
    kernels.retain(|_| {
        i += 1;
        !gone.contains(&(i - 1))
    });
    for k in kernels {
        k.after = k.after.iter().map(|a| at[*a]).collect();
    }
}

/// A pointwise kernel over one axis, its arguments in order of first use.
struct Flat {
    len: usize,
    /// Argument of the kernel, and whether it is a single element.
    args: Vec<(Arg, bool)>,
    body: Body,
    stores: Vec<Store>,
}

impl Flat {
    fn alike(&self, other: &Flat) -> bool {
        self.body == other.body
            && self.stores == other.stores
            && self.args.iter().map(|(a, one)| (a.mode, *one)).eq(other.args.iter().map(|(a, one)| (a.mode, *one)))
    }
}

fn flatten(p: &Pointwise, args: &[Arg]) -> Option<Flat> {
    let len: usize = p.space.iter().product();
    if len < 2 {
        return None;
    }
    let whole: Vec<i64> = p.space.iter().zip(row_major(&p.space)).map(|(n, s)| if *n == 1 { 0 } else { s }).collect();
    let mut order: Vec<(ArgId, bool)> = Vec::new();
    let mut flat = |a: &Access| -> Option<Access> {
        let one = a.at.is_constant();
        if a.at.offset != 0 || !a.indirect.is_empty() || !(one || a.at.coeffs == whole) {
            return None;
        }
        let at = match order.iter().position(|(x, _)| *x == a.arg) {
            Some(i) if order[i].1 == one => i,
            Some(_) => return None,
            None => {
                order.push((a.arg, one));
                order.len() - 1
            }
        };
        let affine = Affine { offset: 0, coeffs: vec![i64::from(!one)] };
        Some(Access { arg: ArgId(at as u32), at: affine, indirect: Vec::new() })
    };
    let mut body = p.body.clone();
    for s in body.scalars.values_mut() {
        match &mut s.op {
            ScalarOp::Load(a) => *a = flat(a)?,
            ScalarOp::Index(_) | ScalarOp::Random { .. } => return None,
            _ => {}
        }
    }
    let mut stores = p.stores.clone();
    for s in &mut stores {
        s.access = flat(&s.access)?;
        if s.access.at.is_constant() {
            return None;
        }
    }
    let args = order.iter().map(|(a, one)| (args[a.index()], *one)).collect();
    Some(Flat { len, args, body, stores })
}

/// A remark on two kernels.
fn remark(kernels: &[DraftKernel], a: usize, b: usize, reason: Reason, remarks: &mut Remarks) {
    if let (Some(a), Some(b)) = (first_node(&kernels[a].kernel), first_node(&kernels[b].kernel)) {
        remarks.edge(a, b, reason);
    }
}

/// The members that end the step and depend on no other member, directly or not.
fn independent(kernels: &[DraftKernel], members: Vec<usize>, remarks: &mut Remarks) -> Vec<usize> {
    let depends = |from: usize| {
        let mut seen = vec![false; kernels.len()];
        let mut todo: Vec<usize> = kernels[from].after.iter().copied().collect();
        while let Some(k) = todo.pop() {
            if !std::mem::replace(&mut seen[k], true) {
                todo.extend(kernels[k].after.iter().copied());
            }
        }
        seen
    };
    // Only kernels that end the step are worth the wait for each other; any that others wait for would hold them up.
    let mut awaited = vec![false; kernels.len()];
    for k in kernels {
        for a in &k.after {
            awaited[*a] = true;
        }
    }
    let all = members.clone();
    let mut refuse = |m: usize, reason: Reason| {
        if let Some(other) = all.iter().copied().find(|o| *o != m) {
            remark(kernels, m, other, reason, remarks);
        }
    };
    for m in members.iter().filter(|m| awaited[**m]) {
        refuse(*m, Reason::Awaited);
    }
    let ends: Vec<usize> = members.into_iter().filter(|m| !awaited[*m]).collect();
    let reach: Vec<Vec<bool>> = ends.iter().map(|m| depends(*m)).collect();
    let (free, bound): (Vec<_>, Vec<_>) = ends
        .iter()
        .zip(&reach)
        .map(|(m, reach)| (*m, ends.iter().any(|other| reach[*other])))
        .partition(|(_, bound)| !bound);
    bound.into_iter().for_each(|(m, _)| refuse(m, Reason::Dependent));
    free.into_iter().map(|(m, _)| m).collect()
}

/// Groups of two or more members whose merged kernel touches at most the target's number of allocations: where buffers are packed, one a
/// role and one for scalars, however many segments there are.
fn chunks(
    kernels: &[DraftKernel],
    shape: &Flat,
    members: &[usize],
    target: &TargetModel,
    remarks: &mut Remarks,
) -> Vec<Vec<usize>> {
    let roles = shape.args.iter().filter(|(_, one)| !one).count();
    let fits = |args: usize, chunk: &[usize]| match target.placement {
        PlacementPolicy::Slab => args <= target.max_args,
        // Scalars that are inputs of the program are not packed; count each.
        PlacementPolicy::Slot => {
            let bytes: usize =
                chunk.iter().filter_map(|m| flat(&kernels[*m])).map(|f| f.len * 4 + target.alignment).sum();
            shape.args.len().min(roles + 3) <= target.max_args && bytes <= target.max_arg_bytes
        }
    };
    let mut out: Vec<Vec<usize>> = Vec::new();
    for m in members {
        match out.last_mut() {
            Some(chunk) if roles > 0 && segments_args(kernels, shape, chunk, *m).is_some_and(|n| fits(n, chunk)) => {
                remark(kernels, chunk[0], *m, Reason::AlikeBodies, remarks);
                chunk.push(*m);
            }
            last => {
                if let Some(chunk) = last {
                    remark(kernels, chunk[0], *m, Reason::TooManyBytes, remarks);
                }
                out.push(vec![*m]);
            }
        }
    }
    out.retain(|c| c.len() > 1);
    out
}

/// Number of arguments of the kernel that merges `chunk` and `more`; None if a buffer would be one of several segments' own.
fn segments_args(kernels: &[DraftKernel], shape: &Flat, chunk: &[usize], more: usize) -> Option<usize> {
    let flats: Vec<Flat> = chunk.iter().chain([&more]).filter_map(|m| flat(&kernels[*m])).collect();
    let common = common(shape, &flats);
    let mut own: Vec<BufferId> = Vec::new();
    for f in &flats {
        own.extend(f.args.iter().zip(&common).filter(|(_, c)| !**c).map(|((a, _), _)| a.buffer));
    }
    let count = own.len();
    own.sort_unstable();
    own.dedup();
    (own.len() == count).then_some(count + common.iter().filter(|c| **c).count())
}

fn flat(k: &DraftKernel) -> Option<Flat> {
    match &k.kernel.kind {
        KernelKind::Pointwise(p) => flatten(p, &k.kernel.args),
        _ => None,
    }
}

/// For each argument of the shape, whether it is one element that all segments share.
fn common(shape: &Flat, flats: &[Flat]) -> Vec<bool> {
    (0..shape.args.len()).map(|r| shape.args[r].1 && flats.iter().all(|f| f.args[r].0 == flats[0].args[r].0)).collect()
}

fn segments(kernels: &[DraftKernel], shape: &Flat, members: &[usize]) -> Kernel {
    let flats: Vec<Flat> = members.iter().filter_map(|m| flat(&kernels[*m])).collect();
    let common = common(shape, &flats);
    let roles = common.iter().filter(|c| !**c).count();
    let shared = common.len() - roles;
    // Own roles first, shared ones behind them.
    let mut renumber = vec![ArgId(0); common.len()];
    let (mut own, mut rest) = (0, roles);
    for (r, c) in common.iter().enumerate() {
        let slot = if *c { &mut rest } else { &mut own };
        renumber[r] = ArgId(*slot as u32);
        *slot += 1;
    }
    let pick = |f: &Flat, want: bool| -> Vec<Arg> {
        f.args.iter().zip(&common).filter(|(_, c)| **c == want).map(|((a, _), _)| *a).collect()
    };
    let mut args: Vec<Arg> = flats.iter().flat_map(|f| pick(f, false)).collect();
    args.extend(pick(&flats[0], true));
    let mut kind = KernelKind::Update(Update {
        roles,
        shared,
        segments: flats.iter().map(|f| f.len).collect(),
        body: shape.body.clone(),
        stores: shape.stores.clone(),
    });
    kind.for_each_arg(&mut |a| *a = renumber[a.index()]);
    let mut provenance = kernels[members[0]].kernel.provenance.clone();
    for m in &members[1..] {
        let p = &kernels[*m].kernel.provenance;
        provenance.nodes.extend(&p.nodes);
        provenance.recomputed.extend(&p.recomputed);
        provenance
            .scopes
            .extend(p.scopes.iter().filter(|s| !provenance.scopes.contains(s)).cloned().collect::<Vec<_>>());
        provenance.locs.extend(p.locs.iter().filter(|l| !provenance.locs.contains(l)).copied().collect::<Vec<_>>());
    }
    provenance.nodes.sort_unstable();
    provenance.recomputed.sort_unstable();
    provenance.recomputed.dedup();
    Kernel { name: String::new(), args, kind, provenance }
}
