//! The verifier of programs. This list is the specification of a [`Program`]; module [`kernel`](super::kernel) gives the meaning of
//! each archetype, module [`body`](super::body) that of scalars and accesses.
//!
//! Program
//! - `names-unique`: names of parameters, of outputs and of kernels are distinct; a kernel's is an identifier.
//! - `buffer-link`: a parameter's buffer is of its kind and names it; an output lies in a buffer that is no temporary; buffers of
//!   kind input, state and output are named back. Dtype and length are those of the type.
//! - `target-limits`: buffers hold 1 to 2^31 - 1 elements; a kernel touches at most the target's number of allocations, each of at most
//!   its bytes (before memory is planned, those that planning puts side by side count as one); the target has lanes and an alignment that is a power of two.
//! - `stages-cover`: stages are non-empty, consecutive ranges that cover all kernels.
//!
//! Kernels
//! - `args-valid`: arguments name existing buffers, each at most once; accesses name existing arguments.
//! - `arg-modes`: an argument is read, written or both, exactly as its mode says.
//! - `in-place`: an argument read and written is read only with the access of a store of the same part or segment, at that store's
//!   point; attention has no such argument, and of a contraction's operands and a scatter's values none is.
//! - `space-extents`: every extent is at least 1.
//! - `access-rank`: an access has one coefficient an axis; only loads in bodies, and stores of pointwise kernels, have indirect terms.
//! - `access-range`: every access lies in its buffer at every point, indirect terms at 0 and at extent - 1 included.
//! - `store-disjoint`: no element is stored twice by one kernel (the rows of a row store being its points).
//! - `store-window`: a store with indirect terms is the only use of its argument, which is a state; their indices are i32 scalars that are
//!   the same at every point.
//!
//! Bodies
//! - `body-ssa`: operands have smaller ids; stores and reductions name scalars of the body; accumulators exist, and a reduction uses
//!   only earlier ones.
//! - `body-types`: scalars have the dtypes that the graph ops of the same names require; loads, stores, accumulators and constants
//!   agree with buffers, reductions and literals; indices and affine values fit i32.
//!
//! Archetypes
//! - `reduce-rows`: there is a reduction; a row store's value does not vary along cols.
//! - `contract-terms`: every part has a term, and all its operands are of one float dtype, or f32 where a term rounds to f16; that term's may be f16, too.
//! - `update-roles`: segments have equal modes and dtypes role by role; accesses are direct with offset 0 and stride 1, or 0 for a load;
//!   shared roles are read-only scalars; the argument list is segments * roles + shared long.
//! - `fold-blocks`: there is a segment, and a block has an element; segments are read, have one dtype, and are followed by the results, which are
//!   written; loads are direct, of role 0, with offset 0 and stride 1; nothing is an index; the reduction is a sum or a maximum of
//!   numbers of the results' dtype; result i is element i.
//! - `attention-shape`: buffers are f32; something is stored; v is read exactly if out is stored; causal means as many keys as queries.
//! - `scatter-index`: the index is i32 and does not vary along inner; base, value and result have one numeric dtype.
//!
//! Order
//! - `stage-independent`: kernels of one stage have no common buffer that one of them writes.
//! - `single-writer`: a temporary or output is written by exactly one kernel, in a stage before all kernels that read it; a state by at
//!   most one; an input by none.
//! - `state-last`: a state is written in a stage after, or by the same kernel as, every read of its old value.
//!
//! Memory
//! - `placement`: inputs, states and outputs have storage of their own, or states and outputs lie in packs, and have no live range. Temporaries all
//!   have their own storage (no plan yet: the memory plan is empty but for packs), or all lie in the slab, or all in slots and packs, as the target
//!   says, within planned bytes.
//! - `live-range`: the live range of a placed temporary is from its first to its last use.
//! - `alignment`: offsets in the slab and in packs are multiples of the target's alignment.
//! - `no-overlap`: temporaries with a common stage share no byte, but for a takeover in the stage where it happens. Parts of a pack
//!   never do.
//! - `takeover`: the taken temporary dies in the kernel that writes the taker, the only kernel to touch it in that stage; it begins at the same
//!   byte, its elements have the same size, and they are read only with the access of a store of the taker, at that store's point. What lies
//!   in a pack takes nothing over.
//! - `memory-totals`: planned is the end of the slab (up to alignment), or the sum of the slots and of the temporaries in packs; the lower
//!   bound is the largest sum, over stages, of the bytes of live temporaries (each rounded up to the alignment), a takeover's common bytes
//!   counted once.

mod body;
mod kernel;
mod memory;
mod order;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fmt;

use super::{BufferKind, Program};
use crate::graph::ParamKind;

/// Declares the invariants: variant and name.
macro_rules! invariants {
    ($($Var:ident $name:literal)*) => {
        /// A named invariant of programs: see the module comment.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Invariant { $($Var),* }
        impl Invariant {
            pub const ALL: &'static [Invariant] = &[$(Invariant::$Var),*];
            pub const fn name(self) -> &'static str { match self { $(Invariant::$Var => $name),* } }
        }
    };
}

invariants! {
    NamesUnique "names-unique"
    BufferLink "buffer-link"
    TargetLimits "target-limits"
    StagesCover "stages-cover"
    ArgsValid "args-valid"
    ArgModes "arg-modes"
    InPlace "in-place"
    SpaceExtents "space-extents"
    AccessRank "access-rank"
    AccessRange "access-range"
    StoreDisjoint "store-disjoint"
    StoreWindow "store-window"
    BodySsa "body-ssa"
    BodyTypes "body-types"
    ReduceRows "reduce-rows"
    ContractTerms "contract-terms"
    UpdateRoles "update-roles"
    FoldBlocks "fold-blocks"
    AttentionShape "attention-shape"
    ScatterIndex "scatter-index"
    StageIndependent "stage-independent"
    SingleWriter "single-writer"
    StateLast "state-last"
    Placement "placement"
    LiveRange "live-range"
    Alignment "alignment"
    NoOverlap "no-overlap"
    Takeover "takeover"
    MemoryTotals "memory-totals"
}

/// One broken invariant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub invariant: Invariant,
    /// Name of the kernel, where it is about one.
    pub kernel: Option<String>,
    /// What was found and what was expected.
    pub found: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.invariant.name())?;
        if let Some(kernel) = &self.kernel {
            write!(f, "kernel {kernel}: ")?;
        }
        f.write_str(&self.found)
    }
}

/// All broken invariants of a program; prints one a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violations {
    pub program: String,
    pub list: Vec<Violation>,
}

impl std::error::Error for Violations {}

impl fmt::Display for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "program {} breaks {} invariants", self.program, self.list.len())?;
        self.list.iter().try_for_each(|v| write!(f, "\n  {v}"))
    }
}

/// Checks every invariant. Where a kernel's ids or ranks are wrong, its other checks are left out; where some kernel's arguments or the
/// stages are wrong, so are order and memory.
pub fn verify(program: &Program) -> Result<(), Violations> {
    let mut report = Report { list: Vec::new(), kernel: None };
    names(program, &mut report);
    buffers(program, &mut report);
    stages(program, &mut report);
    for kernel in program.kernels.values() {
        report.kernel = Some(kernel.name.clone());
        kernel::check(program, kernel, &mut report);
    }
    report.kernel = None;
    let unsound = |v: &Violation| {
        matches!(
            v.invariant,
            Invariant::StagesCover | Invariant::ArgsValid | Invariant::SpaceExtents | Invariant::AccessRank
        )
    };
    if !report.list.iter().any(unsound) {
        order::check(program, &mut report);
        memory::check(program, &mut report);
    }
    if report.list.is_empty() { Ok(()) } else { Err(Violations { program: program.name.clone(), list: report.list }) }
}

/// Collects violations.
struct Report {
    list: Vec<Violation>,
    /// The kernel being looked at.
    kernel: Option<String>,
}

impl Report {
    fn add(&mut self, invariant: Invariant, found: impl Into<String>) {
        self.list.push(Violation { invariant, kernel: self.kernel.clone(), found: found.into() });
    }

    /// Adds a violation unless `holds`.
    fn expect(&mut self, holds: bool, invariant: Invariant, found: impl FnOnce() -> String) -> bool {
        if !holds {
            self.add(invariant, found());
        }
        holds
    }
}

fn names(program: &Program, report: &mut Report) {
    let mut unique = |what: &str, names: &mut dyn Iterator<Item = &String>| {
        let mut seen = HashSet::new();
        for name in names {
            report.expect(seen.insert(name), Invariant::NamesUnique, || format!("two {what} are named {name}"));
        }
    };
    unique("parameters", &mut program.params.iter().map(|p| &p.name));
    unique("outputs", &mut program.outputs.iter().map(|o| &o.name));
    unique("kernels", &mut program.kernels.values().map(|k| &k.name));
    for k in program.kernels.values() {
        let head = k.name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        let identifier = head && k.name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        report.expect(identifier, Invariant::NamesUnique, || {
            format!("kernel name {:?} is no identifier: expected letters, digits and _, not a digit first", k.name)
        });
    }
}

fn buffers(program: &Program, report: &mut Report) {
    let t = &program.target;
    report.expect(t.alignment.is_power_of_two() && t.lanes >= 1, Invariant::TargetLimits, || {
        format!(
            "target {} has {} lanes and alignment {}: expected at least one lane and a power of two",
            t.name, t.lanes, t.alignment
        )
    });
    for (id, b) in program.buffers.iter() {
        report.expect((1..=i32::MAX as usize).contains(&b.len), Invariant::TargetLimits, || {
            format!("buffer {id} holds {} elements: expected 1 to 2^31 - 1", b.len)
        });
        let named = match b.kind {
            BufferKind::Input(i) | BufferKind::State(i) => program.params.get(i).is_some_and(|p| p.buffer == id),
            BufferKind::Output(i) => program.outputs.get(i).is_some_and(|o| o.buffer == id),
            BufferKind::Temp => true,
        };
        report.expect(named, Invariant::BufferLink, || {
            format!("buffer {id} is {:?}, which does not name this buffer", b.kind)
        });
    }
    let params = program.params.iter().enumerate().map(|(i, p)| {
        let kind = match p.kind {
            ParamKind::Input => BufferKind::Input(i),
            ParamKind::State { .. } => BufferKind::State(i),
        };
        (format!("parameter {}", p.name), &p.ty, p.buffer, Some(kind))
    });
    let outputs = program.outputs.iter().map(|o| (format!("output {}", o.name), &o.ty, o.buffer, None));
    for (what, ty, id, kind) in params.chain(outputs) {
        let Some(b) = program.buffers.get(id) else {
            report.add(Invariant::BufferLink, format!("{what} names buffer {id}, which does not exist"));
            continue;
        };
        report.expect((b.dtype, b.len) == (ty.dtype, ty.numel()), Invariant::BufferLink, || {
            format!("{what} is {ty}, its buffer {id} holds {} elements of {}", b.len, b.dtype)
        });
        let fits = kind.map_or(b.kind != BufferKind::Temp, |k| b.kind == k);
        report.expect(fits, Invariant::BufferLink, || format!("{what} lies in buffer {id}, which is {:?}", b.kind));
    }
}

fn stages(program: &Program, report: &mut Report) {
    let mut next = 0;
    for (i, (from, to)) in program.stages.iter().enumerate() {
        report.expect(*from == next && to > from, Invariant::StagesCover, || {
            format!("stage {i} is kernels {from}..{to}: expected a non-empty range from {next}")
        });
        next = *to;
    }
    report.expect(next as usize == program.kernels.len(), Invariant::StagesCover, || {
        format!("stages end at kernel {next}, the program has {}", program.kernels.len())
    });
}
