//! Fusion: a graph becomes kernels over buffers.
//!
//! The steps, each in its own module: operations with too many operands are split ([`fit`](mod@fit)); what each node is and where its elements would lie ([`values`]); which nodes share a kernel
//! ([`cluster`]); which values are stored ([`store`]); the kernels themselves ([`kernels`], [`emit`]); merged sibling contractions
//! ([`siblings`]) and one update kernel over all parameters ([`update`]). The result is a [`Draft`]: kernels without order, buffers
//! without place; `schedule` and `memory` finish it.
//!
//! Invariants
//! - No step looks at names or at the shape of a particular model: only ops, types, uses and the target model.
//! - Every decision can be asked for as a [`remark`](mod@remark).
//! - With `fuse` off every computed node has a kernel of its own: the reference that fused programs are compared with.
//! - A state's new value is written straight into the state's buffer where no kernel could then read the wrong value, through a
//!   temporary and a copy where one could. Of an update that replaces a window of the state, only the window is written.

pub mod bits;
mod cluster;
mod emit;
mod fit;
mod kernels;
pub mod remark;
mod siblings;
mod store;
mod update;
pub mod values;
pub mod view;

use std::collections::{BTreeSet, HashMap, HashSet};

use tinygpt_ir::program::{
    Arg, ArgId, ArgMode, Buffer, BufferId, BufferKind, Kernel, KernelKind, Place, PlacementPolicy, ProgramOutput,
    ProgramParam, TargetModel,
};
use tinygpt_ir::{Arena, Graph, NodeId, Op, ParamId, ParamKind};

use cluster::Clusters;
use emit::{Buffers, Retry};
use remark::{Reason, Remark, Remarks};
use store::Stored;
use values::Values;

/// Kernels and buffers before they have order and place.
pub struct Draft {
    pub name: String,
    pub params: Vec<ProgramParam>,
    pub outputs: Vec<ProgramOutput>,
    pub buffers: Arena<BufferId, Buffer>,
    pub kernels: Vec<DraftKernel>,
    /// How often kernels were written anew because a value turned out to need a buffer.
    pub retries: usize,
}

pub struct DraftKernel {
    pub kernel: Kernel,
    /// Position in the graph, for an order that follows it.
    pub key: NodeId,
    /// Kernels (positions in `Draft::kernels`) that must end before this one starts.
    pub after: BTreeSet<usize>,
}

/// Fuses `graph` for `target`; one kernel a node unless `fuse`.
///
/// Errors: one sentence on what the graph holds that has no kernel (a composite that was not expanded).
pub fn fuse(graph: &Graph, target: &TargetModel, fuse: bool) -> Result<Draft, String> {
    fuse_noting(graph, target, fuse, &mut Remarks::off())
}

/// What fusing `graph` for `target` considers and decides, and why.
///
/// Errors: as those of [`fuse`].
pub fn remarks(graph: &Graph, target: &TargetModel) -> Result<Vec<Remark>, String> {
    let mut remarks = Remarks::on();
    fuse_noting(graph, target, true, &mut remarks)?;
    Ok(remarks.finish())
}

/// [`fuse`], which tells `remarks`.
fn fuse_noting(graph: &Graph, target: &TargetModel, fuse: bool, remarks: &mut Remarks) -> Result<Draft, String> {
    let fitted = fit::fit(graph, target);
    let mut whole = HashSet::new();
    loop {
        // Each round gives up one window, so this ends.
        let mut noted = remarks.again();
        match without_windows(&fitted.graph, target, fuse, &whole, &mut noted)? {
            Ok(mut draft) => {
                draft.kernels.iter_mut().for_each(|k| fitted.rename(&mut k.kernel.provenance));
                remarks.take(noted);
                remarks.rename(|id| fitted.origin(id));
                return Ok(draft);
            }
            Err(Overtaken(p)) => {
                remarks.update(&fitted.graph, p, Reason::OldValueNeeded);
                whole.insert(p);
            }
        };
    }
}

/// A window of this state cannot be replaced in place: its old value is needed after.
struct Overtaken(ParamId);

/// [`fuse`] where the states `whole` have no windows.
fn without_windows(
    graph: &Graph,
    target: &TargetModel,
    fuse: bool,
    whole: &HashSet<ParamId>,
    remarks: &mut Remarks,
) -> Result<Result<Draft, Overtaken>, String> {
    let values = Values::new(graph, fuse, whole, target.f16_values.filter(|_| target.f16_operands), remarks)?;
    let clusters = Clusters::new(&values, fuse, target, remarks);
    let mut stored = Stored::new(&clusters, fuse, remarks);
    let mut through_temp: HashSet<ParamId> = HashSet::new();
    // Each round stores one more value or sends one more update through a temporary, so this ends.
    let mut retries = 0;
    loop {
        let mut noted = remarks.again();
        match draft(&clusters, &stored, target, fuse, &through_temp, &mut noted) {
            Ok(mut draft) => {
                remarks.take(noted);
                draft.retries = retries;
                drop_unused(&mut draft);
                return Ok(Ok(draft));
            }
            Err(Again::Emit(Retry::Store(id))) if !stored.contains(id) && values.class(id).is_computed() => {
                remarks.value(id, Reason::NeedsBuffer);
                stored.insert(id)
            }
            Err(Again::Emit(Retry::Store(id))) => {
                return Err(format!(
                    "fusion needs {id} ({}) in a buffer, which it cannot have",
                    graph.nodes[id].op.name()
                ));
            }
            Err(Again::Emit(Retry::Unsupported(message))) => return Err(message),
            Err(Again::ThroughTemp(p)) if graph.updates.iter().any(|(q, id)| *q == p && values.is_window(*id)) => {
                return Ok(Err(Overtaken(p)));
            }
            Err(Again::ThroughTemp(p)) => {
                if !through_temp.insert(p) {
                    return Err(format!(
                        "the update of {} cannot be ordered after the reads of its old value",
                        graph.params[p].name
                    ));
                }
                remarks.update(graph, p, Reason::OldValueNeeded);
            }
        }
        retries += 1;
    }
}

enum Again {
    Emit(Retry),
    /// The update of this state cannot be in place.
    ThroughTemp(ParamId),
}

impl From<Retry> for Again {
    fn from(r: Retry) -> Again {
        Again::Emit(r)
    }
}

fn draft(
    clusters: &Clusters<'_>,
    stored: &Stored,
    target: &TargetModel,
    fuse: bool,
    through_temp: &HashSet<ParamId>,
    remarks: &mut Remarks,
) -> Result<Draft, Again> {
    let graph = clusters.values.graph;
    let mut table = Table::new(graph);
    // A state that is updated in place has a second, provisional buffer for its new value, so that reads of the old and of the new value
    // can be told apart until the kernels are ordered.
    let bound = table.bind_roots(clusters, stored, through_temp);
    let buffers = Buffers { clusters, stored, of: table.of.clone() };

    let mut kernels: Vec<(NodeId, Kernel)> = Vec::new();
    for c in 0..clusters.list.len() {
        if let Some(k) = kernels::kernel(&buffers, c)? {
            // A value that is loaded is one argument; computed again it may be several.
            let count = units(&table, &bound, target, &k.args);
            if let (true, Some(id)) = (count > target.max_args, k.provenance.recomputed.last()) {
                return Err(Again::Emit(Retry::Store(*id)));
            }
            kernels.push((clusters.list[c].nodes[0], k));
        }
    }
    let end = NodeId(graph.nodes.len() as u32);
    for (id, to) in &bound.copies {
        kernels.push((end, kernels::copy(&buffers, *id, buffers.of[id], *to)));
    }
    if fuse {
        let count = |args: &[Arg]| units(&table, &bound, target, args);
        siblings::merge(&mut kernels, target.max_args, &count, remarks);
    }
    let states = order(&kernels, &bound)?;
    let mut draft_kernels = in_place(kernels, states, &bound);
    if fuse {
        update::merge(&mut draft_kernels, target, remarks);
    }
    name_kernels(&mut draft_kernels);
    Ok(Draft {
        name: graph.name.clone(),
        params: table.params,
        outputs: table.outputs,
        buffers: table.buffers,
        kernels: draft_kernels,
        retries: 0,
    })
}

/// Buffers of a draft.
struct Table<'g> {
    graph: &'g Graph,
    params: Vec<ProgramParam>,
    outputs: Vec<ProgramOutput>,
    buffers: Arena<BufferId, Buffer>,
    of: HashMap<NodeId, BufferId>,
    param_buffer: HashMap<ParamId, BufferId>,
}

/// Allocations that a kernel with these arguments will touch. Where buffers are packed, weights that training updates share one, and so do scalars of
/// the step; the new value of a state takes its own place.
fn units(table: &Table<'_>, bound: &Bound, target: &TargetModel, args: &[Arg]) -> usize {
    if target.placement != PlacementPolicy::Slot {
        return args.len();
    }
    let own =
        |buffer: BufferId| bound.in_place.iter().find(|(_, new, _)| *new == buffer).map_or(buffer, |(.., own)| *own);
    let (mut weights, mut scalars, mut others) = (false, false, BTreeSet::new());
    for arg in args {
        let id = own(arg.buffer);
        let buffer = &table.buffers[id];
        match buffer.kind {
            BufferKind::State(p) if table.params[p].is_weight() => weights = true,
            BufferKind::Temp if buffer.len == 1 => scalars = true,
            _ => {
                others.insert(id);
            }
        }
    }
    others.len() + usize::from(weights) + usize::from(scalars)
}

/// What the roots of the graph are bound to.
struct Bound {
    /// Provisional buffer of a state's new value, and the state's own buffer.
    in_place: Vec<(ParamId, BufferId, BufferId)>,
    /// Values that are copied to a buffer at the end.
    copies: Vec<(NodeId, BufferId)>,
    /// Buffers of states that a copy writes.
    copied_states: Vec<(ParamId, BufferId)>,
}

impl<'g> Table<'g> {
    fn new(graph: &'g Graph) -> Table<'g> {
        let mut t = Table {
            graph,
            params: Vec::new(),
            outputs: Vec::new(),
            buffers: Arena::default(),
            of: HashMap::new(),
            param_buffer: HashMap::new(),
        };
        for (p, param) in graph.params.iter() {
            let kind = match param.kind {
                ParamKind::Input => BufferKind::Input(p.index()),
                ParamKind::State { .. } => BufferKind::State(p.index()),
            };
            let buffer = t.buffer(param.name.clone(), param.ty.dtype, param.ty.numel(), kind);
            t.param_buffer.insert(p, buffer);
            t.params.push(ProgramParam { name: param.name.clone(), kind: param.kind, ty: param.ty.clone(), buffer });
        }
        for (id, node) in graph.nodes.iter() {
            if let Op::Param(p) = node.op {
                t.of.insert(id, t.param_buffer[&p]);
            }
        }
        t
    }

    fn buffer(&mut self, label: String, dtype: tinygpt_ir::DType, len: usize, kind: BufferKind) -> BufferId {
        self.buffers.push(Buffer { label, dtype, len, kind, place: Place::Own, live: None, takes_over: None })
    }

    fn label(&self, id: NodeId) -> String {
        let op = self.graph.nodes[id].op.name();
        match self.graph.scope(id) {
            "" => op.to_string(),
            scope => format!("{scope}.{op}"),
        }
    }

    fn bind_roots(&mut self, clusters: &Clusters<'_>, stored: &Stored, through_temp: &HashSet<ParamId>) -> Bound {
        let graph = self.graph;
        let mut bound = Bound { in_place: Vec::new(), copies: Vec::new(), copied_states: Vec::new() };
        for (i, (name, id)) in graph.outputs.iter().enumerate() {
            let ty = graph.nodes[*id].ty.clone();
            let buffer = self.buffer(name.clone(), ty.dtype, ty.numel(), BufferKind::Output(i));
            self.outputs.push(ProgramOutput { name: name.clone(), ty, buffer });
            match self.of.contains_key(id) {
                true => bound.copies.push((*id, buffer)),
                false => {
                    self.of.insert(*id, buffer);
                }
            }
        }
        for (p, id) in &graph.updates {
            let own = self.param_buffer[p];
            if graph.nodes[*id].op == Op::Param(*p) {
                continue;
            }
            let ty = graph.nodes[*id].ty.clone();
            if self.of.contains_key(id) || through_temp.contains(p) {
                if !self.of.contains_key(id) {
                    let temp = self.buffer(self.label(*id), ty.dtype, ty.numel(), BufferKind::Temp);
                    self.of.insert(*id, temp);
                }
                bound.copies.push((*id, own));
                bound.copied_states.push((*p, own));
            } else {
                let provisional =
                    self.buffer(format!("{}.new", graph.params[*p].name), ty.dtype, ty.numel(), BufferKind::Temp);
                self.of.insert(*id, provisional);
                bound.in_place.push((*p, provisional, own));
            }
        }
        for id in graph.nodes.ids() {
            if clusters.values.class(id).is_computed() && stored.contains(id) && !self.of.contains_key(&id) {
                let ty = &graph.nodes[id].ty;
                let buffer = self.buffer(self.label(id), ty.dtype, ty.numel(), BufferKind::Temp);
                self.of.insert(id, buffer);
            }
        }
        bound
    }
}

/// For each kernel, the kernels that must end before it starts: writers of what it reads, and readers of the old value of a state
/// that it overwrites. A state whose overwriting would have to come both before and after a read is reported.
fn order(kernels: &[(NodeId, Kernel)], bound: &Bound) -> Result<Vec<BTreeSet<usize>>, Again> {
    let mut writer: HashMap<BufferId, usize> = HashMap::new();
    let mut readers: HashMap<BufferId, Vec<usize>> = HashMap::new();
    for (i, (_, k)) in kernels.iter().enumerate() {
        for a in &k.args {
            if a.mode.writes() {
                writer.insert(a.buffer, i);
            }
            if a.mode.reads() {
                readers.entry(a.buffer).or_default().push(i);
            }
        }
    }
    // A copied state's buffer is read as the old value only; its writer, the copy, must come last.
    let copied: HashSet<BufferId> = bound.copied_states.iter().map(|(_, b)| *b).collect();
    let mut after = vec![BTreeSet::new(); kernels.len()];
    for (i, (_, k)) in kernels.iter().enumerate() {
        for a in k.args.iter().filter(|a| a.mode.reads() && !copied.contains(&a.buffer)) {
            if let Some(w) = writer.get(&a.buffer)
                && *w != i
            {
                after[i].insert(*w);
            }
        }
    }
    let overwrites = bound.in_place.iter().map(|(p, new, own)| (*p, *new, *own, true));
    let overwrites = overwrites.chain(bound.copied_states.iter().map(|(p, own)| (*p, *own, *own, false)));
    for (p, new, own, in_place) in overwrites {
        let Some(w) = writer.get(&new).copied() else { continue };
        // A state is written last: whoever needs its new value within the step finds it in a temporary.
        if in_place && readers.get(&new).is_some_and(|r| r.iter().any(|r| *r != w)) {
            return Err(Again::ThroughTemp(p));
        }
        for r in readers.get(&own).into_iter().flatten().copied() {
            if r == w {
                if in_place && !reads_where_it_writes(&kernels[w].1, own, new) {
                    return Err(Again::ThroughTemp(p));
                }
            } else if reaches(&after, r, w) {
                return Err(Again::ThroughTemp(p));
            } else {
                after[w].insert(r);
            }
        }
    }
    Ok(after)
}

/// Whether kernel `from` must come after kernel `to`.
fn reaches(after: &[BTreeSet<usize>], from: usize, to: usize) -> bool {
    let mut seen = HashSet::new();
    let mut todo = vec![from];
    while let Some(k) = todo.pop() {
        if k == to {
            return true;
        }
        if seen.insert(k) {
            todo.extend(after[k].iter().copied());
        }
    }
    false
}

/// Whether every read of `old` is at the element that the same point writes to `new`.
fn reads_where_it_writes(kernel: &Kernel, old: BufferId, new: BufferId) -> bool {
    let arg = |b: BufferId| kernel.args.iter().position(|a| a.buffer == b).map(|i| ArgId(i as u32));
    let (Some(old), Some(new)) = (arg(old), arg(new)) else { return true };
    let same_point = |body: &tinygpt_ir::program::Body, stores: &[tinygpt_ir::program::Store]| {
        let written: Vec<_> = stores.iter().filter(|s| s.access.arg == new).collect();
        body.loads().filter(|l| l.arg == old).all(|l| {
            l.indirect.is_empty() && written.iter().all(|s| s.access.indirect.is_empty() && s.access.at == l.at)
        })
    };
    match &kernel.kind {
        KernelKind::Pointwise(k) => same_point(&k.body, &k.stores),
        KernelKind::Reduce(k) => {
            // Reductions end before element stores begin, row by row; row stores come after the row's sweeps.
            same_point(&k.body, &k.stores) && k.stores.iter().all(|s| s.access.arg != new || !k.is_row_store(s))
        }
        KernelKind::Contract(k) => k
            .parts
            .iter()
            .all(|p| p.terms.iter().all(|t| t.lhs.arg != old && t.rhs.arg != old) && same_point(&p.body, &p.stores)),
        KernelKind::Scatter(k) => {
            let base = match &k.base {
                tinygpt_ir::program::ScatterBase::Load(a) => a.arg != old || a.at == k.out.at,
                tinygpt_ir::program::ScatterBase::Const(_) => true,
            };
            base && k.body.loads().all(|l| l.arg != old)
        }
        KernelKind::Update(_) | KernelKind::Fold(_) | KernelKind::Attention(_) | KernelKind::AttentionGrad(_) => false,
    }
}

/// Puts the states' own buffers in the place of the provisional ones.
fn in_place(kernels: Vec<(NodeId, Kernel)>, after: Vec<BTreeSet<usize>>, bound: &Bound) -> Vec<DraftKernel> {
    let own: HashMap<BufferId, BufferId> = bound.in_place.iter().map(|(_, new, own)| (*new, *own)).collect();
    kernels
        .into_iter()
        .zip(after)
        .map(|((key, mut kernel), after)| {
            for a in &mut kernel.args {
                if let Some(b) = own.get(&a.buffer) {
                    a.buffer = *b;
                }
            }
            unite_args(&mut kernel);
            DraftKernel { kernel, key, after }
        })
        .collect()
}

/// Makes each buffer occur once in the argument list.
fn unite_args(kernel: &mut Kernel) {
    let mut list: Vec<Arg> = Vec::new();
    let mut renumber: Vec<ArgId> = Vec::new();
    for a in &kernel.args {
        let at = match list.iter().position(|b| b.buffer == a.buffer) {
            Some(i) => {
                if list[i].mode != a.mode {
                    list[i].mode = ArgMode::ReadWrite;
                }
                i
            }
            None => {
                list.push(*a);
                list.len() - 1
            }
        };
        renumber.push(ArgId(at as u32));
    }
    kernel.args = list;
    kernel.kind.for_each_arg(&mut |a| *a = renumber[a.index()]);
}

/// Removes temporaries that no kernel touches: the provisional buffers of states.
fn drop_unused(draft: &mut Draft) {
    let mut used = vec![false; draft.buffers.len()];
    for a in draft.kernels.iter().flat_map(|k| &k.kernel.args) {
        used[a.buffer.index()] = true;
    }
    let mut kept: Arena<BufferId, Buffer> = Arena::default();
    let mut renumber = vec![BufferId(0); draft.buffers.len()];
    for (id, b) in draft.buffers.iter() {
        if used[id.index()] || b.kind != BufferKind::Temp {
            renumber[id.index()] = kept.push(b.clone());
        }
    }
    draft.buffers = kept;
    let args = draft.kernels.iter_mut().flat_map(|k| &mut k.kernel.args).map(|a| &mut a.buffer);
    let params = draft.params.iter_mut().map(|p| &mut p.buffer);
    for b in args.chain(params).chain(draft.outputs.iter_mut().map(|o| &mut o.buffer)) {
        *b = renumber[b.index()];
    }
}

/// Names by archetype, scope of the first node and a number that makes them unique.
fn name_kernels(kernels: &mut [DraftKernel]) {
    let mut seen: HashMap<String, usize> = HashMap::new();
    let mut order: Vec<usize> = (0..kernels.len()).collect();
    order.sort_by_key(|i| (kernels[*i].key, *i));
    for i in order {
        let k = &mut kernels[i].kernel;
        let scope = k.provenance.scopes.first().map_or("", String::as_str);
        let clean: String = scope.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        let stem =
            if clean.is_empty() { k.kind.archetype().to_string() } else { format!("{}_{clean}", k.kind.archetype()) };
        let n = seen.entry(stem.clone()).or_insert(0);
        *n += 1;
        k.name = if *n == 1 { stem } else { format!("{stem}_{n}") };
    }
}
