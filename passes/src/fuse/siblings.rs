//! Merged sibling contractions: independent products that read one operand in one way become parts of one kernel.
//!
//! The projections q, k and v of one input, or the gradients of their three weights, are one launch whose shared operand is packed (or brought to
//! workgroup memory) once. Siblings are found by equal operand accesses, never by name.
//!
//! Invariant: kernels are merged only if none depends on another, directly or through others.

use std::collections::HashMap;

use tinygpt_ir::NodeId;
use tinygpt_ir::program::{Access, Arg, ArgId, ArgMode, BufferId, Kernel, KernelKind};

use super::remark::{Reason, Remarks};

/// Merges siblings among `kernels`, keeping at most `max_args` arguments a kernel, as `count` counts them.
pub fn merge(
    kernels: &mut Vec<(NodeId, Kernel)>,
    max_args: usize,
    count: &dyn Fn(&[Arg]) -> usize,
    remarks: &mut Remarks,
) {
    let mut a = 0;
    while a < kernels.len() {
        let mut b = a + 1;
        while b < kernels.len() {
            if !are_siblings(&kernels[a].1, &kernels[b].1) {
                b += 1;
                continue;
            }
            let args = count(&united(&kernels[a].1, &kernels[b].1));
            let reason = if args > max_args {
                Reason::TooManyArgs { args, most: max_args }
            } else if connected(kernels, a, b) {
                Reason::Dependent
            } else {
                Reason::SharedOperand
            };
            if let (Some(first), Some(second)) = (first_node(&kernels[a].1), first_node(&kernels[b].1)) {
                remarks.edge(first, second, reason);
            }
            if reason == Reason::SharedOperand {
                let (key, sibling) = kernels.remove(b);
                kernels[a].0 = kernels[a].0.max(key);
                absorb(&mut kernels[a].1, sibling);
            } else {
                b += 1;
            }
        }
        a += 1;
    }
}

/// The node by which remarks name a kernel.
pub fn first_node(kernel: &Kernel) -> Option<NodeId> {
    kernel.provenance.nodes.first().copied()
}

/// Arguments of both kernels, each buffer once.
fn united(a: &Kernel, b: &Kernel) -> Vec<Arg> {
    let more = b.args.iter().filter(|x| a.args.iter().all(|y| y.buffer != x.buffer));
    a.args.iter().chain(more).copied().collect()
}

/// Buffer and elements of an operand, over its extents.
type Operand<'a> = (BufferId, &'a Access, bool, Vec<usize>);

/// Operands of the first terms, which siblings may share: rows and columns apart.
fn operands(k: &Kernel) -> Option<Vec<Operand<'_>>> {
    let KernelKind::Contract(c) = &k.kind else { return None };
    let mut out = Vec::new();
    for p in &c.parts {
        let t = p.terms.first()?;
        let extents = |free: &[usize]| p.batch.iter().chain(free).chain(&t.k).copied().collect();
        out.push((k.args[t.lhs.arg.index()].buffer, &t.lhs, true, extents(&p.m)));
        out.push((k.args[t.rhs.arg.index()].buffer, &t.rhs, false, extents(&p.n)));
    }
    Some(out)
}

/// Whether every part of `b` shares an operand with every part of `a` on the same side.
fn are_siblings(a: &Kernel, b: &Kernel) -> bool {
    let (Some(x), Some(y)) = (operands(a), operands(b)) else { return false };
    [true, false].into_iter().any(|side| {
        let mut all = x.iter().chain(&y).filter(|o| o.2 == side);
        let Some(first) = all.next() else { return false };
        all.all(|o| o.0 == first.0 && o.1.at == first.1.at && o.3 == first.3)
    })
}

/// Whether one kernel depends on the other.
fn connected(kernels: &[(NodeId, Kernel)], a: usize, b: usize) -> bool {
    let mut writer: HashMap<BufferId, usize> = HashMap::new();
    for (i, (_, k)) in kernels.iter().enumerate() {
        for arg in k.args.iter().filter(|x| x.mode.writes()) {
            writer.insert(arg.buffer, i);
        }
    }
    let reaches = |from: usize, to: usize| {
        let mut seen = vec![false; kernels.len()];
        let mut todo = vec![from];
        while let Some(k) = todo.pop() {
            if k == to {
                return true;
            }
            if !std::mem::replace(&mut seen[k], true) {
                let reads = kernels[k].1.args.iter().filter(|x| x.mode.reads());
                todo.extend(reads.filter_map(|x| writer.get(&x.buffer)).filter(|w| **w != k));
            }
        }
        false
    };
    reaches(a, b) || reaches(b, a)
}

fn absorb(into: &mut Kernel, mut from: Kernel) {
    let mut renumber = Vec::new();
    for a in &from.args {
        let at = match into.args.iter().position(|b| b.buffer == a.buffer) {
            Some(i) => {
                if into.args[i].mode != a.mode {
                    into.args[i].mode = ArgMode::ReadWrite;
                }
                i
            }
            None => {
                into.args.push(Arg { buffer: a.buffer, mode: a.mode });
                into.args.len() - 1
            }
        };
        renumber.push(ArgId(at as u32));
    }
    from.kind.for_each_arg(&mut |a| *a = renumber[a.index()]);
    if let (KernelKind::Contract(x), KernelKind::Contract(y)) = (&mut into.kind, from.kind) {
        x.parts.extend(y.parts);
    }
    let (p, q) = (&mut into.provenance, from.provenance);
    p.nodes.extend(q.nodes);
    p.nodes.sort_unstable();
    p.recomputed.extend(q.recomputed);
    p.recomputed.sort_unstable();
    p.recomputed.dedup();
    for s in q.scopes {
        if !p.scopes.contains(&s) {
            p.scopes.push(s);
        }
    }
    for l in q.locs {
        if !p.locs.contains(&l) {
            p.locs.push(l);
        }
    }
}
