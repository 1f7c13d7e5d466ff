//! Reading kernels.
//!
//! ```text
//! kernel     = "kernel" name "=" archetype "{" EOL { arg EOL } lines { origin EOL } "}"
//! arg        = "a0" "=" ( "read" | "write" | "update" ) buffer
//! origin     = "from" name | "computes" nodes | "recomputes" nodes
//! nodes      = node | node ".." node ...
//! lines, by archetype, a line each:
//!   pointwise      = "space" extents, body, stores
//!   update         = "roles" N, "shared" N, "segments" N.., body, stores
//!   fold           = "block" N, "segments" N.., body, "fold" reduction scalar, "out" element
//!   reduce         = "rows" extents, "cols" extents, body, { "acc" N "=" reduction scalar }, stores
//!   contract       = { "part" extents, { "term" extents, "left" element, "right" element }, body, stores }
//!   attention      = shape, operands by name
//!   attention_grad = shape, operands by name
//!   scatter        = "table" "row" "=" N, "ids" extents, "inner" extents, body, "index" scalar, "value" scalar,
//!                    "base" ( constant ":" dtype | element ), "out" element
//! extents    = { axis "=" N }
//! shape      = "shape" b=N h=N t=N s=N d=N {causal=.., scale=..}
//! ```

use std::ops::Range;

use super::body::Space;
use super::{MAX_ID, Parser, numbered};
use crate::graph::NodeId;
use crate::op::Reduce;
use crate::program::stats::ARCHETYPES;
use crate::program::{
    Access, Arg, ArgMode, Attention, AttentionGrad, AttentionShape, Contract, ContractPart, Fold, Kernel, KernelKind,
    Pointwise, Provenance, ReduceKernel, Reduction, Scatter, ScatterBase, Term, Update,
};
use crate::text::{Fault, Read, Token, literal, suggest};

/// Most nodes that the origins of all kernels name together: a run of nodes is short to write.
const MAX_NODES: usize = 1 << 20;
/// Greatest product of the extents of a space.
const MAX_POINTS: u128 = 1 << 62;

impl Parser<'_> {
    /// After the keyword.
    pub(super) fn kernel(&mut self, span: Range<usize>) -> Read<()> {
        match self.program.stages.last_mut() {
            _ if self.unordered => {}
            Some((_, to)) => *to += 1,
            None => return Err(Fault::new(span, "found a kernel, expected `stage 0` or `unordered` above it")),
        }
        let name = self.t.name()?.0;
        self.t.expect('=')?;
        let (archetype, archetype_span) = self.t.word("an archetype such as `pointwise`")?;
        self.t.expect('{')?;
        self.t.end_of_line()?;
        let args = self.args()?;
        let kind = match archetype {
            "pointwise" => self.pointwise(&args)?,
            "update" => self.update()?,
            "fold" => self.fold()?,
            "reduce" => self.reduce(&args)?,
            "contract" => self.contract(&args)?,
            "attention" => self.attention(&args)?,
            "attention_grad" => self.attention_grad(&args)?,
            "scatter" => self.scatter(&args)?,
            _ => {
                let near = suggest(archetype, ARCHETYPES.into_iter());
                let message = format!("found `{archetype}`, expected one of {}{near}", ARCHETYPES.join(", "));
                return Err(Fault::new(archetype_span, message));
            }
        };
        let provenance = self.provenance()?;
        if !self.t.accept('}') {
            return self.t.unexpected("a further line of the kernel, in the order that is printed, or its `}`");
        }
        self.program.kernels.push(Kernel { name, args, kind, provenance });
        Ok(())
    }

    fn args(&mut self) -> Read<Vec<Arg>> {
        let mut args: Vec<Arg> = Vec::new();
        while let Token::Word(w) = *self.t.peek()
            && let Some(i) = numbered(w, "a")
        {
            if i as usize != args.len() {
                let message = format!("found a{i}, expected a{}: arguments are numbered in order", args.len());
                return Err(Fault::new(self.t.span(), message));
            }
            self.t.next();
            self.t.expect('=')?;
            let (word, span) = self.t.word("`read`, `write` or `update`")?;
            let mode = match word {
                "read" => ArgMode::Read,
                "write" => ArgMode::Write,
                "update" => ArgMode::ReadWrite,
                _ => return Err(Fault::new(span, format!("found `{word}`, expected `read`, `write` or `update`"))),
            };
            args.push(Arg { buffer: self.buffer_name()?, mode });
            self.t.end_of_line()?;
        }
        Ok(args)
    }

    fn provenance(&mut self) -> Read<Provenance> {
        let mut p = Provenance::default();
        while self.optional("from") {
            p.scopes.push(self.t.name()?.0);
            self.t.end_of_line()?;
        }
        if self.optional("computes") {
            p.nodes = self.nodes()?;
        }
        if self.optional("recomputes") {
            p.recomputed = self.nodes()?;
        }
        Ok(p)
    }

    /// `%1 %4..%7`, to the end of the line
    fn nodes(&mut self) -> Read<Vec<NodeId>> {
        let mut nodes = Vec::new();
        while self.t.is('%') {
            let span = self.t.span();
            let (first, run) = self.node()?;
            let last = if run { self.node()?.0 } else { first };
            if last < first || (last - first) as usize >= MAX_NODES - self.origins {
                let message =
                    format!("%{first}..%{last} is no ascending run, or the kernels have over {MAX_NODES} nodes in all");
                return Err(Fault::new(span, message));
            }
            self.origins += (last - first) as usize + 1;
            nodes.extend((first..=last).map(NodeId));
        }
        self.t.end_of_line()?;
        Ok(nodes)
    }

    /// `%3`, and whether `..` follows.
    fn node(&mut self) -> Read<(u32, bool)> {
        self.t.expect('%')?;
        let (word, span) = self.t.word("the number of a node")?;
        let (digits, run) = word.strip_suffix("..").map_or((word, false), |digits| (digits, true));
        match super::number(digits, MAX_ID) {
            Ok(n) => Ok((n as u32, run)),
            Err(message) => Err(Fault::new(span, message)),
        }
    }

    /// `keyword N`, a line.
    fn setting(&mut self, keyword: &str) -> Read<usize> {
        self.t.keyword(keyword)?;
        let n = self.number_to("an integer", MAX_ID)?;
        self.t.end_of_line()?;
        Ok(n)
    }

    /// `b0=2 b1=3`: consecutive axes of one prefix. Appends to `space` and returns the extents.
    fn extents(&mut self, prefix: &str, space: &mut Space) -> Read<Vec<usize>> {
        let mut extents = Vec::new();
        while let Token::Word(w) = *self.t.peek()
            && numbered(w, prefix) == Some(extents.len() as u32)
        {
            self.t.next();
            extents.push(self.extent(w, space)?);
        }
        Ok(extents)
    }

    /// `=N` after the axis `name`.
    fn extent(&mut self, name: &str, space: &mut Space) -> Read<usize> {
        self.t.expect('=')?;
        let span = self.t.span();
        let n = self.number_to("an extent", MAX_ID)?;
        space.axes.push((name.to_string(), n));
        if n == 0 {
            return Err(Fault::new(span, "found the extent 0, expected at least 1"));
        }
        let points =
            space.axes.iter().try_fold(1u128, |p, (_, n)| p.checked_mul(*n as u128).filter(|p| *p <= MAX_POINTS));
        match points {
            Some(_) => Ok(n),
            None => Err(Fault::new(span, "the space has more than 2^62 points")),
        }
    }

    /// `keyword` and one list of extents.
    fn extents_line(&mut self, keyword: &str, prefix: &str, space: &mut Space) -> Read<Vec<usize>> {
        self.t.keyword(keyword)?;
        let extents = self.extents(prefix, space)?;
        self.t.end_of_line()?;
        Ok(extents)
    }

    fn pointwise(&mut self, args: &[Arg]) -> Read<KernelKind> {
        let mut s = Space::of_args(args.len());
        let space = self.extents_line("space", "i", &mut s)?;
        let body = self.body(&s)?;
        let stores = self.stores(&s, &body)?;
        Ok(KernelKind::Pointwise(Pointwise { space, body, stores }))
    }

    fn update(&mut self) -> Read<KernelKind> {
        let (roles, shared) = (self.setting("roles")?, self.setting("shared")?);
        let (segments, longest) = self.segments()?;
        let s = Space { axes: vec![("i0".into(), longest)], arg: "role", args: roles + shared };
        let body = self.body(&s)?;
        let stores = self.stores(&s, &body)?;
        Ok(KernelKind::Update(Update { roles, shared, segments, body, stores }))
    }

    /// A line of segments; and the longest of them.
    fn segments(&mut self) -> Read<(Vec<usize>, usize)> {
        self.t.keyword("segments")?;
        let mut segments = Vec::new();
        while *self.t.peek() != Token::Newline {
            segments.push(self.number_to("the elements of a segment", MAX_ID)?);
        }
        self.t.end_of_line()?;
        let longest = segments.iter().copied().max().unwrap_or(0);
        Ok((segments, longest))
    }

    fn fold(&mut self) -> Read<KernelKind> {
        let span = self.t.span();
        let block = self.setting("block")?;
        if block == 0 {
            return Err(Fault::new(span, "found blocks of 0 elements, expected at least 1"));
        }
        let (segments, longest) = self.segments()?;
        let space = |axis: &str, extent: usize| Space { axes: vec![(axis.into(), extent)], arg: "role", args: 2 };
        let body = self.body(&space("i0", longest))?;
        self.t.keyword("fold")?;
        let op = self.reduction()?;
        let value = self.scalar_name(&body)?;
        self.t.end_of_line()?;
        let blocks = segments.iter().map(|n| n.div_ceil(block)).sum();
        let out = self.operand("out", &space("j0", blocks))?;
        Ok(KernelKind::Fold(Fold { block, segments, body, reduction: Reduction { op, value }, out }))
    }

    fn reduction(&mut self) -> Read<Reduce> {
        let (word, span) = self.t.word("a reduction such as `reduce_sum`")?;
        Reduce::ALL.iter().copied().find(|r| r.name() == word).ok_or_else(|| {
            let near = suggest(word, Reduce::ALL.iter().map(|r| r.name()));
            Fault::new(span, format!("found `{word}`, expected a reduction such as `reduce_sum`{near}"))
        })
    }

    fn reduce(&mut self, args: &[Arg]) -> Read<KernelKind> {
        let mut s = Space::of_args(args.len());
        let rows = self.extents_line("rows", "r", &mut s)?;
        let cols = self.extents_line("cols", "c", &mut s)?;
        let body = self.body(&s)?;
        let mut reductions = Vec::new();
        while self.t.at("acc") {
            self.t.next();
            let span = self.t.span();
            let i = self.number_to("the number of an accumulator", MAX_ID)?;
            if i != reductions.len() {
                let message = format!("found acc {i}, expected acc {}: they are numbered in order", reductions.len());
                return Err(Fault::new(span, message));
            }
            self.t.expect('=')?;
            let op = self.reduction()?;
            let value = self.scalar_name(&body)?;
            reductions.push(Reduction { op, value });
            self.t.end_of_line()?;
        }
        let stores = self.stores(&s, &body)?;
        Ok(KernelKind::Reduce(ReduceKernel { rows, cols, body, reductions, stores }))
    }

    fn contract(&mut self, args: &[Arg]) -> Read<KernelKind> {
        let mut parts = Vec::new();
        while self.optional("part") {
            let mut s = Space::of_args(args.len());
            let batch = self.extents("b", &mut s)?;
            let m = self.extents("m", &mut s)?;
            let n = self.extents("n", &mut s)?;
            self.t.end_of_line()?;
            let mut terms = Vec::new();
            while self.optional("term") {
                let f16 = self.optional("f16");
                let mut all = s.clone();
                let k = self.extents("k", &mut all)?;
                self.t.end_of_line()?;
                let (nb, nm) = (batch.len(), m.len());
                let axes = |list: [&[(String, usize)]; 3]| Space { axes: list.concat(), ..s.clone() };
                let (outer, ks) = all.axes.split_at(s.axes.len());
                let left = axes([&outer[..nb], &outer[nb..nb + nm], ks]);
                let right = axes([&outer[..nb], &outer[nb + nm..], ks]);
                let lhs = self.operand("left", &left)?;
                let rhs = self.operand("right", &right)?;
                terms.push(Term { k, f16, lhs, rhs });
            }
            let body = self.body(&s)?;
            let stores = self.stores(&s, &body)?;
            parts.push(ContractPart { batch, m, n, terms, body, stores });
        }
        Ok(KernelKind::Contract(Contract { parts }))
    }

    /// `keyword element`, a line; no scalars can be named.
    fn operand(&mut self, keyword: &str, space: &Space) -> Read<Access> {
        self.t.keyword(keyword)?;
        let access = self.element(space, 0)?;
        self.t.end_of_line()?;
        Ok(access)
    }

    fn optional_operand(&mut self, keyword: &str, space: &Space) -> Read<Option<Access>> {
        if self.t.at(keyword) { self.operand(keyword, space).map(Some) } else { Ok(None) }
    }

    fn shape(&mut self) -> Read<AttentionShape> {
        let span = self.t.span();
        self.t.keyword("shape")?;
        let mut s = Space::of_args(0);
        let mut extent = |name: &str| {
            self.t.keyword(name)?;
            self.extent(name, &mut s)
        };
        let (batch, heads, q_len) = (extent("b")?, extent("h")?, extent("t")?);
        let (k_len, head_dim) = (extent("s")?, extent("d")?);
        let mut attrs = self.t.attrs("shape", span)?;
        let (causal, scale) = (attrs.flag("causal")?, attrs.real("scale")?);
        attrs.finish()?;
        self.t.end_of_line()?;
        Ok(AttentionShape { batch, heads, q_len, k_len, head_dim, causal, scale })
    }

    /// Spaces of queries, keys and log-sum-exps.
    fn attention_spaces(shape: &AttentionShape, args: &[Arg]) -> [Space; 3] {
        let of = |names: &[&str], extents: Vec<usize>| Space {
            axes: names.iter().map(|n| n.to_string()).zip(extents).collect(),
            ..Space::of_args(args.len())
        };
        [
            of(&["b", "h", "t", "d"], shape.q_space()),
            of(&["b", "h", "s", "d"], shape.k_space()),
            of(&["b", "h", "t"], shape.lse_space()),
        ]
    }

    fn attention(&mut self, args: &[Arg]) -> Read<KernelKind> {
        let shape = self.shape()?;
        let [qs, ks, rows] = Self::attention_spaces(&shape, args);
        Ok(KernelKind::Attention(Attention {
            shape,
            q: self.operand("q", &qs)?,
            k: self.operand("k", &ks)?,
            v: self.optional_operand("v", &ks)?,
            out: self.optional_operand("out", &qs)?,
            lse: self.optional_operand("lse", &rows)?,
        }))
    }

    fn attention_grad(&mut self, args: &[Arg]) -> Read<KernelKind> {
        let shape = self.shape()?;
        let [qs, ks, rows] = Self::attention_spaces(&shape, args);
        Ok(KernelKind::AttentionGrad(AttentionGrad {
            shape,
            q: self.operand("q", &qs)?,
            k: self.operand("k", &ks)?,
            v: self.operand("v", &ks)?,
            out: self.operand("out", &qs)?,
            lse: self.operand("lse", &rows)?,
            dout: self.operand("dout", &qs)?,
            dq: self.optional_operand("dq", &qs)?,
            dk: self.optional_operand("dk", &ks)?,
            dv: self.optional_operand("dv", &ks)?,
        }))
    }

    fn scatter(&mut self, args: &[Arg]) -> Read<KernelKind> {
        self.t.keyword("table")?;
        self.t.keyword("row")?;
        let mut out_space = Space::of_args(args.len());
        let table = self.extent("row", &mut out_space)?;
        self.t.end_of_line()?;
        let mut s = Space::of_args(args.len());
        let ids = self.extents_line("ids", "i", &mut s)?;
        let inner = self.extents_line("inner", "j", &mut s)?;
        out_space.axes.extend_from_slice(&s.axes[ids.len()..]);
        let body = self.body(&s)?;
        self.t.keyword("index")?;
        let index = self.scalar_name(&body)?;
        self.t.end_of_line()?;
        self.t.keyword("value")?;
        let value = self.scalar_name(&body)?;
        self.t.end_of_line()?;
        self.t.keyword("base")?;
        let base = match *self.t.peek() {
            Token::Word(w) if numbered(w, "a").is_none() => {
                let span = self.t.span();
                self.t.next();
                self.t.expect(':')?;
                let dtype = self.t.dtype("a dtype such as `f32`")?;
                ScatterBase::Const(literal(w, dtype).map_err(|m| Fault::new(span, m))?)
            }
            _ => ScatterBase::Load(self.element(&out_space, 0)?),
        };
        self.t.end_of_line()?;
        let out = self.operand("out", &out_space)?;
        Ok(KernelKind::Scatter(Scatter { table, ids, inner, body, index, value, base, out }))
    }
}
