//! Bindings: which allocations a kernel binds, and where its arguments lie in them.
//!
//! Invariants
//! - An allocation that a piece writes is bound once, read-write, whatever else the piece reads in it: GPU APIs refuse one buffer bound
//!   read-only and read-write in one dispatch, and browsers overlapping writable ranges. Where it holds f16 and other values side by side,
//!   which no one array type can address, each argument is a read-write binding instead: disjoint ranges of one buffer.
//! - An allocation that it only reads is bound once an argument, so that the argument's place is the binding's offset and not a constant of
//!   the code; or once in all, where that would be too many bindings.
//! - Binding offsets are multiples of the adapter's alignment, sizes of 4 bytes.
//! - An update or fold kernel becomes one piece for each run of segments whose arguments lie in the same allocations, within the
//!   binding size; longer segments are cut, those of a fold between blocks. Other kernels are one piece, or refused.

use crate::caps::Caps;
use crate::error::{Error, refuse};
use std::fmt::Write as _;
use tinygpt_ir::program::{Arg, ArgMode, BufferId, Fold, Kernel, KernelKind, Program, StorageUnit, Update};
use tinygpt_ir::types::DType;

/// What a binding is a range of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Unit {
    /// An allocation of the program.
    Storage(StorageUnit),
    /// [`Module::scratch_bytes`](crate::Module::scratch_bytes) bytes that hold nothing before or after. Modules may share them.
    Scratch,
    /// [`Module::table`](crate::Module::table), read-only.
    Table,
}

/// A range of a buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    pub unit: Unit,
    pub write: bool,
    /// First byte in the unit.
    pub offset: u64,
    /// Bytes.
    pub size: u64,
}

/// Where an argument lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoundArg {
    /// Index of its binding.
    pub binding: usize,
    /// Its first element in the binding, in elements of its dtype.
    pub offset: usize,
    pub dtype: DType,
    /// Elements.
    pub len: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bindings {
    pub list: Vec<Binding>,
    /// In the order of the kernel's argument list.
    pub args: Vec<BoundArg>,
}

/// A kernel, or a part of an update or fold kernel, with its bindings.
#[derive(Clone, Debug, PartialEq)]
pub struct Piece {
    /// The kernel's name, with `.NUMBER` where there are several pieces: no kernel's name has a dot.
    pub name: String,
    pub kind: KernelKind,
    pub bindings: Bindings,
    /// Whether its target lets products round their operands to f16.
    pub f16_operands: bool,
    /// Comment lines for people.
    pub header: String,
}

/// A range of a buffer as an argument.
#[derive(Clone, Copy, Debug)]
struct Range {
    buffer: BufferId,
    mode: ArgMode,
    first: usize,
    len: usize,
}

/// The pieces of `kernel`, to run in any order.
///
/// Errors: one sentence where the kernel needs more bindings, or larger ones, than the adapter has.
pub fn pieces(program: &Program, kernel: &Kernel, caps: &Caps) -> Result<Vec<Piece>, Error> {
    let whole = |a: &Arg| Range { buffer: a.buffer, mode: a.mode, first: 0, len: program.buffers[a.buffer].len };
    let parts: Vec<(KernelKind, Vec<Range>)> = match &kernel.kind {
        KernelKind::Update(k) => update_parts(program, kernel, k, caps)?,
        KernelKind::Fold(k) => fold_parts(program, kernel, k, caps)?,
        kind => vec![(kind.clone(), kernel.args.iter().map(whole).collect())],
    };
    let many = parts.len() > 1;
    let named = parts.into_iter().enumerate().map(|(i, (part, ranges))| {
        let name = if many { format!("{}.{i}", kernel.name) } else { kernel.name.clone() };
        piece(program, kernel, name, part, &ranges, caps)
    });
    named.collect()
}

fn piece(
    program: &Program,
    kernel: &Kernel,
    name: String,
    kind: KernelKind,
    ranges: &[Range],
    caps: &Caps,
) -> Result<Piece, Error> {
    let by_unit = matches!(kind, KernelKind::Update(_) | KernelKind::Fold(_));
    let bindings = bind(program, &kernel.name, ranges, caps, by_unit)?;
    let header = header(program, kernel, &name, &kind, ranges, &bindings);
    Ok(Piece { name, kind, bindings, f16_operands: program.target.f16_operands, header })
}

/// Binding slots left for scratch and tables while arguments still have bindings of their own.
const SPARE: usize = 1;

fn bind(program: &Program, name: &str, ranges: &[Range], caps: &Caps, by_unit: bool) -> Result<Bindings, Error> {
    // Unit, first byte and end of each argument.
    let places: Vec<(StorageUnit, usize, usize)> = ranges
        .iter()
        .map(|r| {
            let (unit, at) = program.storage(r.buffer);
            let size = program.buffers[r.buffer].dtype.size();
            (unit, at + r.first * size, at + (r.first + r.len) * size)
        })
        .collect();
    let written: Vec<StorageUnit> =
        ranges.iter().zip(&places).filter(|(r, _)| r.mode.writes()).map(|(_, (u, ..))| *u).collect();
    let f16 = |i: usize| program.buffers[ranges[i].buffer].dtype == DType::F16;
    let mixed = |unit: &StorageUnit| {
        let mut its = (0..places.len()).filter(|i| places[*i].0 == *unit).map(f16);
        its.next().is_some_and(|first| its.any(|other| other != first))
    };
    let group = |separate: bool| {
        let mut groups: Vec<(StorageUnit, Vec<usize>)> = Vec::new();
        for (i, (unit, from, to)) in places.iter().enumerate() {
            let alone = separate && !written.contains(unit);
            let mixed = mixed(unit);
            let known = groups.iter_mut().find(|(u, members)| {
                let overlaps = || members.iter().any(|m| *from < places[*m].2 && places[*m].1 < *to);
                u == unit && !alone && (!mixed || overlaps())
            });
            match known {
                Some((_, members)) => members.push(i),
                None => groups.push((*unit, vec![i])),
            }
        }
        groups
    };
    let most = caps.max_storage_buffers as usize;
    let mut groups = group(!by_unit);
    if groups.len() + SPARE > most {
        groups = group(false);
    }
    if groups.len() > most {
        return refuse(format!(
            "kernel {name} binds {} buffers and the adapter allows {most}: compile for a target with at most {most} arguments a kernel",
            groups.len()
        ));
    }
    let align = caps.offset_alignment.max(4) as usize;
    let mut bound: Vec<Option<BoundArg>> = vec![None; ranges.len()];
    let mut list = Vec::new();
    for (unit, members) in groups {
        let from = members.iter().map(|i| places[*i].1).min().unwrap_or(0) / align * align;
        let to = members.iter().map(|i| places[*i].2).max().unwrap_or(0).next_multiple_of(4);
        if (to - from) as u64 > caps.max_binding_bytes {
            return refuse(format!(
                "kernel {name} binds {} bytes in one range and the adapter allows {}: use a smaller model or batch, or an adapter with larger bindings",
                to - from,
                caps.max_binding_bytes
            ));
        }
        for i in members {
            let dtype = program.buffers[ranges[i].buffer].dtype;
            let offset = (places[i].1 - from) / dtype.size();
            bound[i] = Some(BoundArg { binding: list.len(), offset, dtype, len: ranges[i].len });
        }
        let write = written.contains(&unit);
        list.push(Binding { unit: Unit::Storage(unit), write, offset: from as u64, size: (to - from) as u64 });
    }
    Ok(Bindings { list, args: bound.into_iter().flatten().collect() })
}

/// The largest part of a segment, in elements: a multiple of the alignment of binding offsets.
fn longest_segment(caps: &Caps) -> usize {
    let align = caps.offset_alignment.max(4) as usize;
    let bytes = usize::try_from(caps.max_binding_bytes).unwrap_or(usize::MAX);
    ((bytes.saturating_sub(align)) / align * align / 4).max(1)
}

/// Cuts an update kernel into parts whose roles each lie in one binding.
fn update_parts(
    program: &Program,
    kernel: &Kernel,
    k: &Update,
    caps: &Caps,
) -> Result<Vec<(KernelKind, Vec<Range>)>, Error> {
    let shared: Vec<Range> = kernel.args[k.segments.len() * k.roles..]
        .iter()
        .map(|a| Range { buffer: a.buffer, mode: a.mode, first: 0, len: program.buffers[a.buffer].len })
        .collect();
    let most = longest_segment(caps);
    let mut out: Vec<(KernelKind, Vec<Range>)> = Vec::new();
    let mut current: Option<(Vec<usize>, Vec<Range>)> = None;
    let done = |current: Option<(Vec<usize>, Vec<Range>)>, out: &mut Vec<(KernelKind, Vec<Range>)>| {
        if let Some((segments, mut ranges)) = current {
            ranges.extend(&shared);
            out.push((KernelKind::Update(Update { segments, ..k.clone() }), ranges));
        }
    };
    for (s, n) in k.segments.iter().enumerate() {
        for first in (0..*n).step_by(most) {
            let len = most.min(n - first);
            let own: Vec<Range> = kernel.args[s * k.roles..(s + 1) * k.roles]
                .iter()
                .map(|a| {
                    // A role that is one element for the whole segment is not cut.
                    let flat = program.buffers[a.buffer].len == *n;
                    let (first, len) = if flat { (first, len) } else { (0, program.buffers[a.buffer].len) };
                    Range { buffer: a.buffer, mode: a.mode, first, len }
                })
                .collect();
            let fits = current.as_ref().is_some_and(|(_, ranges)| {
                let together: Vec<Range> = ranges.iter().chain(&own).chain(&shared).copied().collect();
                let same_units = own
                    .iter()
                    .zip(&ranges[..k.roles])
                    .all(|(a, b)| program.storage(a.buffer).0 == program.storage(b.buffer).0);
                same_units && bind(program, &kernel.name, &together, caps, true).is_ok()
            });
            if !fits {
                done(current.take(), &mut out);
            }
            let (segments, ranges) = current.get_or_insert_default();
            segments.push(len);
            ranges.extend(own);
        }
    }
    done(current, &mut out);
    Ok(out)
}

/// Cuts a fold into parts whose segments lie in one binding each. A part's results are those of its blocks.
fn fold_parts(
    program: &Program,
    kernel: &Kernel,
    k: &Fold,
    caps: &Caps,
) -> Result<Vec<(KernelKind, Vec<Range>)>, Error> {
    let results = kernel.args[k.segments.len()];
    // Whole blocks, so that a part's are the kernel's.
    let most = (longest_segment(caps) / k.block).max(1).saturating_mul(k.block);
    // Segments, their ranges, and the range of their results.
    let mut parts: Vec<(Vec<usize>, Vec<Range>, Range)> = Vec::new();
    let mut block = 0;
    for (arg, n) in kernel.args.iter().zip(&k.segments) {
        for first in (0..*n).step_by(most) {
            let own = Range { buffer: arg.buffer, mode: arg.mode, first, len: most.min(n - first) };
            let blocks = own.len.div_ceil(k.block);
            let fits = parts.last().is_some_and(|(_, ranges, out)| {
                let out = Range { len: out.len + blocks, ..*out };
                let together: Vec<Range> = ranges.iter().chain([&own, &out]).copied().collect();
                program.storage(own.buffer).0 == program.storage(ranges[0].buffer).0
                    && bind(program, &kernel.name, &together, caps, true).is_ok()
            });
            if !fits {
                let out = Range { buffer: results.buffer, mode: results.mode, first: block, len: 0 };
                parts.push((Vec::new(), Vec::new(), out));
            }
            if let Some((segments, ranges, out)) = parts.last_mut() {
                segments.push(own.len);
                ranges.push(own);
                out.len += blocks;
            }
            block += blocks;
        }
    }
    let named = parts.into_iter().map(|(segments, mut ranges, out)| {
        ranges.push(out);
        (KernelKind::Fold(Fold { segments, ..k.clone() }), ranges)
    });
    Ok(named.collect())
}

fn header(
    program: &Program,
    kernel: &Kernel,
    name: &str,
    kind: &KernelKind,
    ranges: &[Range],
    bindings: &Bindings,
) -> String {
    let mut out = format!("// {name}: {}\n", kind.archetype());
    let p = &kernel.provenance;
    if !p.scopes.is_empty() {
        let _ = writeln!(out, "// computes: {}", p.scopes.join(", "));
    }
    if !p.recomputed.is_empty() {
        let again: Vec<String> = p.recomputed.iter().map(ToString::to_string).collect();
        let _ = writeln!(out, "// recomputes: {}", again.join(" "));
    }
    const LISTED: usize = 24;
    for (i, (r, b)) in ranges.iter().zip(&bindings.args).enumerate().take(LISTED) {
        let mode = match r.mode {
            ArgMode::Read => "in",
            ArgMode::Write => "out",
            ArgMode::ReadWrite => "in/out",
        };
        let label = &program.buffers[r.buffer].label;
        let _ = writeln!(out, "// a{i}: buf{}[{}..] {mode} {}[{}] {label}", b.binding, b.offset, b.dtype, b.len);
    }
    if ranges.len() > LISTED {
        let _ = writeln!(out, "// and {} more arguments", ranges.len() - LISTED);
    }
    out
}
