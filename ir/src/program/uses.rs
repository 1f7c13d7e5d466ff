//! Every access of a kernel in one list: what the verifier proves and the statistics count.
//!
//! Invariants
//! - The list is complete: a kernel touches its arguments only through these accesses.
//! - Argument positions are resolved: in update and fold kernels, of each segment and its roles.
//! - Ids and ranks are as found: they may be wrong until the verifier has looked.

use super::{Access, Body, Kernel, KernelKind, ScalarOp, ScatterBase, Store};

/// One access of a kernel.
#[derive(Clone, Debug)]
pub(super) struct Use<'a> {
    pub access: &'a Access,
    /// Extents that the access ranges over; for a row store of a reduce kernel, rows ++ cols.
    pub space: Vec<usize>,
    /// Position in the kernel's argument list.
    pub arg: usize,
    /// Part of a contract kernel, or segment of an update or fold kernel; 0 in others.
    pub region: usize,
    pub writes: bool,
    /// A load of the body, which may have indirect terms.
    pub load: bool,
    /// For a read: whether it happens at the point that its region's store of the same element belongs to, before the store. Operands of
    /// contractions and attention are read from many points, as are the rows that a scatter adds.
    pub at_own_point: bool,
    /// For messages: `load %3`, `store of %4`, `left operand`.
    pub what: String,
}

pub(super) fn uses(kernel: &Kernel) -> Vec<Use<'_>> {
    let mut out = Vec::new();
    match &kernel.kind {
        KernelKind::Pointwise(k) => body(&mut out, &k.body, &k.stores, &k.space, 0, true, &|a| a),
        KernelKind::Reduce(k) => body(&mut out, &k.body, &k.stores, &k.space(), 0, true, &|a| a),
        KernelKind::Update(k) => {
            for (s, n) in k.segments.iter().enumerate() {
                let position = |role: usize| {
                    if role < k.roles { s * k.roles + role } else { k.segments.len() * k.roles + role - k.roles }
                };
                body(&mut out, &k.body, &k.stores, &[*n], s, true, &position);
            }
        }
        KernelKind::Fold(k) => {
            let position = |s: usize, role: usize| if role == 0 { s } else { k.segments.len() + role - 1 };
            for (s, n) in k.segments.iter().enumerate() {
                body(&mut out, &k.body, &[], &[*n], s, false, &|role| position(s, role));
            }
            let blocks = if k.block == 0 { 0 } else { k.blocks() };
            let arg = position(0, k.out.arg.index());
            out.push(Use { arg, ..write(&k.out, vec![blocks], "the store of the results") });
        }
        KernelKind::Contract(k) => {
            for (i, p) in k.parts.iter().enumerate() {
                for t in &p.terms {
                    let space = |free: &[usize]| [&p.batch[..], free, &t.k].concat();
                    out.push(read(&t.lhs, space(&p.m), i, "the left operand"));
                    out.push(read(&t.rhs, space(&p.n), i, "the right operand"));
                }
                body(&mut out, &p.body, &p.stores, &p.space(), i, true, &|a| a);
            }
        }
        KernelKind::Attention(k) => {
            let (q, kv, lse) = (k.shape.q_space(), k.shape.k_space(), k.shape.lse_space());
            out.push(read(&k.q, q.clone(), 0, "q"));
            out.push(read(&k.k, kv.clone(), 0, "k"));
            out.extend(k.v.iter().map(|a| read(a, kv.clone(), 0, "v")));
            out.extend(k.out.iter().map(|a| write(a, q.clone(), "out")));
            out.extend(k.lse.iter().map(|a| write(a, lse.clone(), "lse")));
        }
        KernelKind::AttentionGrad(k) => {
            let (q, kv, lse) = (k.shape.q_space(), k.shape.k_space(), k.shape.lse_space());
            for (a, what) in [(&k.q, "q"), (&k.out, "out"), (&k.dout, "dout")] {
                out.push(read(a, q.clone(), 0, what));
            }
            out.push(read(&k.k, kv.clone(), 0, "k"));
            out.push(read(&k.v, kv.clone(), 0, "v"));
            out.push(read(&k.lse, lse, 0, "lse"));
            out.extend(k.dq.iter().map(|a| write(a, q.clone(), "dq")));
            out.extend(k.dk.iter().map(|a| write(a, kv.clone(), "dk")));
            out.extend(k.dv.iter().map(|a| write(a, kv.clone(), "dv")));
        }
        KernelKind::Scatter(k) => {
            let table: Vec<usize> = [&[k.table][..], &k.inner].concat();
            body(&mut out, &k.body, &[], &[&k.ids[..], &k.inner].concat(), 0, false, &|a| a);
            if let ScatterBase::Load(a) = &k.base {
                out.push(Use { at_own_point: true, ..read(a, table.clone(), 0, "the base") });
            }
            out.push(write(&k.out, table, "the store of the sum"));
        }
    }
    out
}

fn body<'a>(
    out: &mut Vec<Use<'a>>,
    body: &'a Body,
    stores: &'a [Store],
    space: &[usize],
    region: usize,
    at_own_point: bool,
    position: &dyn Fn(usize) -> usize,
) {
    for (id, s) in body.scalars.iter() {
        if let ScalarOp::Load(access) = &s.op {
            let arg = position(access.arg.index());
            let what = format!("load {id}");
            out.push(Use { access, space: space.to_vec(), arg, region, writes: false, load: true, at_own_point, what });
        }
    }
    for Store { access, value } in stores {
        let arg = position(access.arg.index());
        let what = format!("the store of {value}");
        out.push(Use {
            access,
            space: space.to_vec(),
            arg,
            region,
            writes: true,
            load: false,
            at_own_point: false,
            what,
        });
    }
}

fn read<'a>(access: &'a Access, space: Vec<usize>, region: usize, what: &str) -> Use<'a> {
    let arg = access.arg.index();
    Use { access, space, arg, region, writes: false, load: false, at_own_point: false, what: what.into() }
}

fn write<'a>(access: &'a Access, space: Vec<usize>, what: &str) -> Use<'a> {
    Use { writes: true, ..read(access, space, 0, what) }
}
