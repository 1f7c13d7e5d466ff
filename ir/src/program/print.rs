//! Text form of programs: printed by `Display`, read by [`parse`](super::parse).
//!
//! ```text
//! tinygpt-program 1
//! program gpt
//! target cpu {lanes=4, max_args=256, max_arg_bytes=unlimited, alignment=64, placement=slab, launch_cost_bytes=4096}
//! memory {planned=128, lower_bound=104, slots=[]}
//!
//! input @x : f32[2,3] = b0
//! state @w : f32[4,3] {role=weight, init=normal, std=0.02} = b1
//! output y : f32[2,4] = b2
//!
//! b0 = input 0 : f32 x 6 own label x
//! b3 = temp : f32 x 8 slab 64 live 0..1 takes b2 label blocks.0.mul
//!
//! stage 0
//! kernel contract_0 = contract {
//!   a0 = read b0
//!   ...
//!   from blocks.0.mlp
//!   computes %3 %4
//!   recomputes %1
//! }
//! ```
//!
//! Grammar (line-oriented as that of graphs, whose words, names, types, attributes and comments it shares; [`super::parse`] has that of kernels)
//! ```text
//! file      = "tinygpt-program" "1" EOL "program" name EOL "target" name attrs EOL "memory" attrs EOL { statement EOL }
//! statement = ( "input" | "state" ) "@" name ":" type [ attrs ] "=" buffer
//!           | "output" name ":" type "=" buffer
//!           | buffer "=" kind ":" dtype "x" integer place [ "live" A..B ] [ "takes" buffer ] "label" name
//!           | "stage" integer | "unordered" | kernel
//! kind      = "input" integer | "state" integer | "output" integer | "temp"
//! place     = "own" | "slab" OFFSET | "slot" NUMBER | "pack" NUMBER+OFFSET
//! ```
//!
//! Regularities
//! - Buffers, stages, arguments and scalars are numbered from 0 in the order of their lines. `unordered` heads kernels that have no stage yet.
//! - Names that are no words (letters, digits, `_ . - + /`) are quoted. Nodes of the graph print as `%3`, or `%3..%7` (both included), in
//!   `computes` and `recomputes`, scalars of a body in the lines of that body.
//! - An element is `a0[12*i0 - i1 + 4]`: a sum of coefficient * axis, then of indirect terms `3*clamp(%2,10)` (%2 clamped to 0..=9), then the
//!   offset; no term is zero, a coefficient of 1 is left out, and the empty sum is `0`. In update and fold kernels the elements are of roles:
//!   `role0[i0]`.
//! - `memory` lists `packs=[..]` where there are any.
//! - `term f16` heads a product whose operands are rounded to f16 as they are read; a target that rounds those of every product ends with
//!   `operands=f16`, and then with `f16_values=N` if buffers hold those of N bytes and more.
//! - Axes are named where extents are given: `i` points, `j0` the blocks of a fold, `r` rows, `c` cols, `b` batch, `m`, `n`, `k` of contractions; `b h t d` and
//!   `b h s d` of attention (query t, key s); `row` of a scatter's table and `j` of its inner axes.
//!
//! Invariants
//! - The text is a pure function of the program. It holds everything but the source lines of kernels' provenance.
//! - `parse(&p.to_string()) == p` for every program whose stages are ranges without gaps from the first kernel on, whose real numbers are no
//!   NaN with a payload, and whose scalars are numbered in order, as those of all passes are.

use std::fmt::{self, Display, Formatter, Result};

use super::{
    Access, Affine, ArgMode, Body, Buffer, BufferKind, ContractPart, Kernel, KernelKind, Place, PlacementPolicy,
    Program, ScalarOp, ScatterBase, Store, TargetModel,
};
use crate::graph::NodeId;
use crate::op::Real;
use crate::text::{declaration, quoted};

/// First word of the text form.
pub const MAGIC: &str = "tinygpt-program";
/// Version of the text form: changes whenever older text would read differently.
pub const VERSION: u32 = 1;

impl Display for Program {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        writeln!(f, "{MAGIC} {VERSION}")?;
        writeln!(f, "program {}", quoted(&self.name))?;
        writeln!(f, "target {}", self.target)?;
        let m = &self.memory;
        let slots = joined(",", &m.slots);
        write!(f, "memory {{planned={}, lower_bound={}, slots=[{slots}]", m.planned, m.lower_bound)?;
        if !m.packs.is_empty() {
            write!(f, ", packs=[{}]", joined(",", &m.packs))?;
        }
        writeln!(f, "}}")?;
        writeln!(f)?;
        for p in &self.params {
            declaration(f, &p.name, p.kind, &p.ty)?;
            writeln!(f, " = {}", p.buffer)?;
        }
        for o in &self.outputs {
            writeln!(f, "output {} : {} = {}", quoted(&o.name), o.ty, o.buffer)?;
        }
        writeln!(f)?;
        for (id, b) in self.buffers.iter() {
            writeln!(f, "{id} = {b}")?;
        }
        for stage in 0..self.stages.len() {
            writeln!(f, "\nstage {stage}")?;
            for k in self.stage_kernels(stage) {
                match self.kernels.get(k) {
                    Some(kernel) => write!(f, "{kernel}")?,
                    // Only in programs that the verifier refuses; still printable, to be looked at.
                    None => writeln!(f, "kernel {k} is missing")?,
                }
            }
        }
        let staged = self.stages.last().map_or(0, |(_, to)| *to as usize);
        if staged < self.kernels.len() {
            writeln!(f, "\nunordered")?;
        }
        self.kernels.values().skip(staged).try_for_each(|kernel| write!(f, "{kernel}"))
    }
}

impl Display for TargetModel {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let bytes = match self.max_arg_bytes {
            usize::MAX => "unlimited".into(),
            n => n.to_string(),
        };
        let placement = match self.placement {
            PlacementPolicy::Slab => "slab",
            PlacementPolicy::Slot => "slot",
        };
        let operands = if self.f16_operands { ", operands=f16" } else { "" };
        let values = self.f16_values.map_or(String::new(), |bytes| format!(", f16_values={bytes}"));
        write!(
            f,
            "{} {{lanes={}, max_args={}, max_arg_bytes={bytes}, alignment={}, placement={placement}, launch_cost_bytes={}{operands}{values}}}",
            quoted(&self.name),
            self.lanes,
            self.max_args,
            self.alignment,
            self.launch_cost_bytes
        )
    }
}

impl Display for Buffer {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self.kind {
            BufferKind::Input(i) => write!(f, "input {i}")?,
            BufferKind::State(i) => write!(f, "state {i}")?,
            BufferKind::Output(i) => write!(f, "output {i}")?,
            BufferKind::Temp => write!(f, "temp")?,
        }
        write!(f, " : {} x {}", self.dtype, self.len)?;
        match self.place {
            Place::Own => write!(f, " own")?,
            Place::Slab(offset) => write!(f, " slab {offset}")?,
            Place::Slot(slot) => write!(f, " slot {slot}")?,
            Place::Pack { pack, offset } => write!(f, " pack {pack}+{offset}")?,
        }
        if let Some((first, last)) = self.live {
            write!(f, " live {first}..{last}")?;
        }
        if let Some(old) = self.takes_over {
            write!(f, " takes {old}")?;
        }
        write!(f, " label {}", quoted(&self.label))
    }
}

impl Display for Kernel {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        writeln!(f, "kernel {} = {} {{", quoted(&self.name), self.kind.archetype())?;
        for (i, a) in self.args.iter().enumerate() {
            let mode = match a.mode {
                ArgMode::Read => "read",
                ArgMode::Write => "write",
                ArgMode::ReadWrite => "update",
            };
            writeln!(f, "  a{i} = {mode} {}", a.buffer)?;
        }
        kind(f, &self.kind)?;
        let p = &self.provenance;
        for scope in &p.scopes {
            writeln!(f, "  from {}", quoted(scope))?;
        }
        for (what, nodes) in [("computes", &p.nodes), ("recomputes", &p.recomputed)] {
            if !nodes.is_empty() {
                writeln!(f, "  {what} {}", joined(" ", &ranges(nodes)))?;
            }
        }
        writeln!(f, "}}")
    }
}

/// Ascending ids, runs of three or more as `%3..%7` (both included).
fn ranges(nodes: &[NodeId]) -> Vec<String> {
    let mut runs: Vec<(NodeId, NodeId)> = Vec::new();
    for n in nodes {
        match runs.last_mut() {
            Some((_, last)) if last.0 + 1 == n.0 => *last = *n,
            _ => runs.push((*n, *n)),
        }
    }
    let print = |(first, last): (NodeId, NodeId)| match last.0 - first.0 {
        0 => vec![first.to_string()],
        1 => vec![first.to_string(), last.to_string()],
        _ => vec![format!("{first}..{last}")],
    };
    runs.into_iter().flat_map(print).collect()
}

fn kind(f: &mut Formatter<'_>, kind: &KernelKind) -> Result {
    match kind {
        KernelKind::Pointwise(k) => {
            let axes = Axes::of(extents(f, "  space", &[("i", &k.space)])?);
            body(f, "  ", &k.body, &axes)?;
            stores(f, "  ", &k.stores, &axes)
        }
        KernelKind::Update(k) => {
            writeln!(f, "  roles {}", k.roles)?;
            writeln!(f, "  shared {}", k.shared)?;
            writeln!(f, "  segments {}", joined(" ", &k.segments))?;
            let axes = Axes { names: vec!["i0".into()], arg: "role" };
            body(f, "  ", &k.body, &axes)?;
            stores(f, "  ", &k.stores, &axes)
        }
        KernelKind::Fold(k) => {
            writeln!(f, "  block {}", k.block)?;
            writeln!(f, "  segments {}", joined(" ", &k.segments))?;
            body(f, "  ", &k.body, &Axes { names: vec!["i0".into()], arg: "role" })?;
            writeln!(f, "  fold {} {}", k.reduction.op.name(), k.reduction.value)?;
            writeln!(f, "  out {}", Element(&k.out, &Axes { names: vec!["j0".into()], arg: "role" }))
        }
        KernelKind::Reduce(k) => {
            let rows = extents(f, "  rows", &[("r", &k.rows)])?;
            let cols = extents(f, "  cols", &[("c", &k.cols)])?;
            let axes = Axes::of([rows, cols].concat());
            body(f, "  ", &k.body, &axes)?;
            for (i, r) in k.reductions.iter().enumerate() {
                writeln!(f, "  acc {i} = {} {}", r.op.name(), r.value)?;
            }
            stores(f, "  ", &k.stores, &axes)
        }
        KernelKind::Contract(k) => k.parts.iter().try_for_each(|p| part(f, p)),
        KernelKind::Attention(k) => {
            shape(f, &k.shape)?;
            for (name, a, axes) in [
                ("q", Some(&k.q), Q),
                ("k", Some(&k.k), KV),
                ("v", k.v.as_ref(), KV),
                ("out", k.out.as_ref(), Q),
                ("lse", k.lse.as_ref(), LSE),
            ] {
                named(f, name, a, axes)?;
            }
            Ok(())
        }
        KernelKind::AttentionGrad(k) => {
            shape(f, &k.shape)?;
            for (name, a, axes) in [
                ("q", Some(&k.q), Q),
                ("k", Some(&k.k), KV),
                ("v", Some(&k.v), KV),
                ("out", Some(&k.out), Q),
                ("lse", Some(&k.lse), LSE),
                ("dout", Some(&k.dout), Q),
                ("dq", k.dq.as_ref(), Q),
                ("dk", k.dk.as_ref(), KV),
                ("dv", k.dv.as_ref(), KV),
            ] {
                named(f, name, a, axes)?;
            }
            Ok(())
        }
        KernelKind::Scatter(k) => {
            writeln!(f, "  table row={}", k.table)?;
            let ids = extents(f, "  ids", &[("i", &k.ids)])?;
            let inner = extents(f, "  inner", &[("j", &k.inner)])?;
            body(f, "  ", &k.body, &Axes::of([ids, inner.clone()].concat()))?;
            writeln!(f, "  index {}", k.index)?;
            writeln!(f, "  value {}", k.value)?;
            let axes = Axes::of([vec!["row".to_string()], inner].concat());
            match &k.base {
                ScatterBase::Const(c) => writeln!(f, "  base {c} : {}", c.dtype)?,
                ScatterBase::Load(a) => writeln!(f, "  base {}", Element(a, &axes))?,
            }
            writeln!(f, "  out {}", Element(&k.out, &axes))
        }
    }
}

const Q: &[&str] = &["b", "h", "t", "d"];
const KV: &[&str] = &["b", "h", "s", "d"];
const LSE: &[&str] = &["b", "h", "t"];

fn shape(f: &mut Formatter<'_>, s: &super::AttentionShape) -> Result {
    writeln!(
        f,
        "  shape b={} h={} t={} s={} d={} {{causal={}, scale={}}}",
        s.batch,
        s.heads,
        s.q_len,
        s.k_len,
        s.head_dim,
        s.causal,
        Real(s.scale)
    )
}

fn named(f: &mut Formatter<'_>, name: &str, a: Option<&Access>, axes: &[&str]) -> Result {
    let axes = Axes::of(axes.iter().map(|s| s.to_string()).collect());
    a.map_or(Ok(()), |a| writeln!(f, "  {name} {}", Element(a, &axes)))
}

fn part(f: &mut Formatter<'_>, p: &ContractPart) -> Result {
    let axes = extents(f, "  part", &[("b", &p.batch), ("m", &p.m), ("n", &p.n)])?;
    let (nb, nm) = (p.batch.len(), p.m.len());
    for t in &p.terms {
        let k = extents(f, if t.f16 { "    term f16" } else { "    term" }, &[("k", &t.k)])?;
        let lhs = Axes::of([&axes[..nb + nm], &k].concat());
        let rhs = Axes::of([&axes[..nb], &axes[nb + nm..], &k].concat());
        writeln!(f, "      left {}", Element(&t.lhs, &lhs))?;
        writeln!(f, "      right {}", Element(&t.rhs, &rhs))?;
    }
    let axes = Axes::of(axes);
    body(f, "    ", &p.body, &axes)?;
    stores(f, "    ", &p.stores, &axes)
}

/// Prints a line of axes and their extents; returns the names.
fn extents(
    f: &mut Formatter<'_>,
    head: &str,
    groups: &[(&str, &Vec<usize>)],
) -> std::result::Result<Vec<String>, fmt::Error> {
    let mut names = Vec::new();
    write!(f, "{head}")?;
    for (prefix, list) in groups {
        for (i, n) in list.iter().enumerate() {
            write!(f, " {prefix}{i}={n}")?;
            names.push(format!("{prefix}{i}"));
        }
    }
    writeln!(f)?;
    Ok(names)
}

fn body(f: &mut Formatter<'_>, indent: &str, body: &Body, axes: &Axes) -> Result {
    for (id, s) in body.scalars.iter() {
        write!(f, "{indent}{id} = ")?;
        match &s.op {
            ScalarOp::Const(c) => write!(f, "const {c}")?,
            ScalarOp::Load(a) => write!(f, "load {}", Element(a, axes))?,
            ScalarOp::Index(a) => write!(f, "index {}", sum(a, &axes.names, &[]))?,
            ScalarOp::Acc(i) => write!(f, "acc {i}")?,
            ScalarOp::Unary(u, x) => write!(f, "{} {x}", u.name())?,
            ScalarOp::Binary(b, x, y) => write!(f, "{} {x}, {y}", b.name())?,
            ScalarOp::Compare(c, x, y) => write!(f, "{} {x}, {y}", c.name())?,
            ScalarOp::Select(c, x, y) => write!(f, "select {c}, {x}, {y}")?,
            ScalarOp::Cast(x) => write!(f, "cast {x}")?,
            ScalarOp::Random { seed, counter, stream, index } => {
                write!(f, "random {seed}, {counter}, {index} {{stream={stream}}}")?
            }
        }
        writeln!(f, " : {}", s.dtype)?;
    }
    Ok(())
}

fn stores(f: &mut Formatter<'_>, indent: &str, stores: &[Store], axes: &Axes) -> Result {
    stores.iter().try_for_each(|s| writeln!(f, "{indent}store {} = {}", Element(&s.access, axes), s.value))
}

/// Names of the axes of a space, and the word before an argument's number: `a`, or `role` in update and fold kernels.
struct Axes {
    names: Vec<String>,
    arg: &'static str,
}

impl Axes {
    fn of(names: Vec<String>) -> Axes {
        Axes { names, arg: "a" }
    }
}

/// An access with its axes named.
struct Element<'a>(&'a Access, &'a Axes);

impl Display for Element<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let indirect: Vec<(i64, String)> =
            self.0.indirect.iter().map(|i| (i.stride, format!("clamp({},{})", i.index, i.extent))).collect();
        let Axes { names, arg } = self.1;
        write!(f, "{arg}{}[{}]", self.0.arg.index(), sum(&self.0.at, names, &indirect))
    }
}

/// `12*i0 - i1 + 3*clamp(%2,10) + 4`. Axes times 0 are left out; an indirect term is part of the access even so.
fn sum(a: &Affine, axes: &[String], indirect: &[(i64, String)]) -> String {
    let axis = |i: usize| axes.get(i).cloned().unwrap_or_else(|| format!("axis{i}"));
    let direct = a.coeffs.iter().enumerate().filter(|(_, c)| **c != 0).map(|(i, c)| (*c, axis(i)));
    let offset = (a.offset != 0).then(|| (a.offset, String::new()));
    let mut out = String::new();
    for (c, what) in direct.chain(indirect.iter().cloned()).chain(offset) {
        out += match (out.is_empty(), c < 0) {
            (true, false) => "",
            (true, true) => "-",
            (false, false) => " + ",
            (false, true) => " - ",
        };
        out += &match (c.unsigned_abs(), what.is_empty()) {
            (n, true) => n.to_string(),
            (1, false) => what,
            (n, false) => format!("{n}*{what}"),
        };
    }
    if out.is_empty() { "0".into() } else { out }
}

fn joined<V: Display>(separator: &str, list: &[V]) -> String {
    list.iter().map(V::to_string).collect::<Vec<_>>().join(separator)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::samples::{at, attention, embedding, linear, norm};
    use crate::program::{BufferId, Indirect, ScalarId};

    #[test]
    fn text_of_each_archetype() {
        insta::assert_snapshot!("linear", linear());
        insta::assert_snapshot!("attention", attention());
        insta::assert_snapshot!("embedding", embedding());
        insta::assert_snapshot!("norm", norm());
    }

    #[test]
    fn sums_leave_out_what_is_nothing() {
        let axes = ["i0".to_string(), "i1".to_string()];
        let text = |offset: i64, coeffs: [i64; 2]| sum(&Affine { offset, coeffs: coeffs.to_vec() }, &axes, &[]);
        assert_eq!(text(0, [0, 0]), "0");
        assert_eq!(text(-3, [0, 0]), "-3");
        assert_eq!(text(4, [12, 1]), "12*i0 + i1 + 4");
        assert_eq!(text(-4, [-1, -2]), "-i0 - 2*i1 - 4");
        let mut access = at(2, &[0, 1]);
        access.indirect.push(Indirect { index: ScalarId(7), stride: -5, extent: 9 });
        assert_eq!(Element(&access, &Axes::of(axes.to_vec())).to_string(), "a2[i1 - 5*clamp(%7,9)]");
        access.indirect[0].stride = 0;
        assert_eq!(Element(&access, &Axes::of(axes.to_vec())).to_string(), "a2[i1 + 0*clamp(%7,9)]");
    }

    #[test]
    fn names_that_are_no_words_are_quoted() {
        let mut p = linear();
        p.name = "two words".into();
        p.buffers[BufferId(0)].label = "line\nbreak".into();
        let text = p.to_string();
        assert!(text.contains("\nprogram \"two words\"\n"), "{text}");
        assert!(text.contains("own label \"line\\nbreak\"\n"), "{text}");
    }

    #[test]
    fn packs_print_their_bytes_and_their_parts() {
        let mut p = linear();
        p.memory.packs = vec![128, 64];
        p.buffers[BufferId(1)].place = Place::Pack { pack: 0, offset: 64 };
        let text = p.to_string();
        assert!(text.contains(", slots=[], packs=[128,64]}\n"), "{text}");
        assert!(text.contains("\nb1 = state 1 : f32 x 12 pack 0+64 label w\n"), "{text}");
    }

    #[test]
    fn source_lines_are_not_printed() {
        let mut p = linear();
        let before = p.to_string();
        p.kernels[crate::program::KernelId(0)].provenance.locs.push(crate::graph::Loc::caller());
        assert_eq!(p.to_string(), before);
    }
}
