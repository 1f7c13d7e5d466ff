//! The program: ordered kernels and the bytes they work in.
//!
//! Invariants
//! - Kernels are in execution order, grouped in stages; kernels of one stage touch no common buffer unless all only read it, so
//!   a stage may run in any order or at once, with a barrier only between stages.
//! - A temporary is written by exactly one kernel, before every kernel that reads it.
//! - A state is written by at most one kernel, in a stage after (or the same kernel as) every read of its old value.
//! - No two temporaries that are live in one stage overlap in the slab, except a declared takeover: a temporary written
//!   in place over one that dies in the same kernel.
//! - Backends read only the program; they never see the graph.

pub mod body;
pub mod interp;
#[cfg(feature = "serde")]
pub mod json;
pub mod kernel;
pub mod parse;
pub mod print;
#[cfg(test)]
mod samples;
pub mod stats;
mod uses;
pub mod verify;

pub use body::{Access, Affine, ArgId, Body, Indirect, Scalar, ScalarId, ScalarOp, Store};
pub use interp::{InterpError, ProgramInterp, run_kernel};
pub use kernel::{
    Arg, ArgMode, Attention, AttentionGrad, AttentionShape, Contract, ContractPart, Fold, Kernel, KernelKind,
    Pointwise, Provenance, ReduceKernel, Reduction, Scatter, ScatterBase, Term, Update,
};
pub use parse::parse;
pub use stats::{FusionReport, KernelStats, ProgramStats, kernel_stats};
pub use verify::verify;

use crate::entity;
use crate::graph::{ParamKind, StateRole};
use crate::types::{Arena, DType, TensorType};

entity! {
    /// A buffer of a program.
    BufferId, "b"
}
entity! {
    /// A kernel of a program; ids are in execution order.
    KernelId, "k"
}

/// How temporaries are placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
pub enum PlacementPolicy {
    /// One allocation, byte offsets (CPU, WebAssembly).
    Slab,
    /// Whole buffers reused (GPUs that track usage by buffer).
    Slot,
}

/// What passes may know of a target. A value, printed with the program; never a backend.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct TargetModel {
    pub name: String,
    /// f32 lanes of a vector.
    pub lanes: usize,
    /// Most allocations a kernel may touch.
    pub max_args: usize,
    /// Most bytes one allocation of a kernel may have.
    #[cfg_attr(feature = "serde", serde(with = "json::limit"))]
    pub max_arg_bytes: usize,
    /// Alignment of buffers in bytes, a power of two.
    pub alignment: usize,
    pub placement: PlacementPolicy,
    /// Bytes of memory traffic that cost as much as one kernel launch.
    pub launch_cost_bytes: usize,
    /// Whether contractions round their operands to f16, and products within attention may do so.
    #[cfg_attr(feature = "serde", serde(default, skip_serializing_if = "std::ops::Not::not"))]
    pub f16_operands: bool,
    /// Where buffers may hold f16, the fewest bytes, as f32, of values that the kernel which computes them rounds and stores for contractions to read.
    #[cfg_attr(feature = "serde", serde(default, skip_serializing_if = "Option::is_none"))]
    pub f16_values: Option<usize>,
}

impl TargetModel {
    /// A CPU with 128-bit portable vectors and a barrier between stages of about a microsecond.
    pub fn cpu() -> TargetModel {
        TargetModel {
            name: "cpu".into(),
            lanes: 4,
            max_args: 256,
            max_arg_bytes: usize::MAX,
            alignment: 64,
            placement: PlacementPolicy::Slab,
            launch_cost_bytes: 4096,
            f16_operands: false,
            f16_values: None,
        }
    }

    /// A GPU whose kernels bind at most `max_args` buffers of at most `max_arg_bytes` each.
    pub fn gpu(max_args: usize, max_arg_bytes: usize) -> TargetModel {
        TargetModel {
            name: "gpu".into(),
            lanes: 4,
            max_args,
            max_arg_bytes,
            alignment: 256,
            placement: PlacementPolicy::Slot,
            launch_cost_bytes: 4096,
            f16_operands: false,
            f16_values: None,
        }
    }
}

/// Whose storage a buffer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
pub enum BufferKind {
    /// Written from outside before a step: index into `Program::params`.
    Input(usize),
    /// Kept between steps: index into `Program::params`.
    State(usize),
    /// Read from outside after a step: index into `Program::outputs`.
    Output(usize),
    /// Lives within a step.
    Temp,
}

/// Where a temporary lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
pub enum Place {
    /// Storage of its own: inputs, states, outputs.
    Own,
    /// Byte offset in the slab.
    Slab(usize),
    /// Number of a whole reused buffer.
    Slot(u32),
    /// Part of a pack: a buffer that holds many values side by side, for good.
    Pack { pack: u32, offset: usize },
}

/// One allocation, as a target binds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum StorageUnit {
    /// A buffer bound by itself: with storage of its own, or by its address in the slab.
    Own(BufferId),
    Slot(u32),
    Pack(u32),
}

#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Buffer {
    /// For people: the scope and op of its value.
    pub label: String,
    pub dtype: DType,
    /// Elements.
    pub len: usize,
    pub kind: BufferKind,
    pub place: Place,
    /// First and last stage that touches it; None for buffers with storage of their own.
    pub live: Option<(u32, u32)>,
    /// The temporary whose bytes this one takes over, in the kernel that writes it.
    pub takes_over: Option<BufferId>,
}

impl Buffer {
    pub fn bytes(&self) -> usize {
        self.len * self.dtype.size()
    }
}

/// An input or state as the program's caller sees it: row-major.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct ProgramParam {
    pub name: String,
    pub kind: ParamKind,
    pub ty: TensorType,
    pub buffer: BufferId,
}

impl ProgramParam {
    /// Whether training updates it.
    pub fn is_weight(&self) -> bool {
        matches!(self.kind, ParamKind::State { role: StateRole::Weight, .. })
    }
}

/// A named result: row-major.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct ProgramOutput {
    pub name: String,
    pub ty: TensorType,
    pub buffer: BufferId,
}

/// Bytes of the temporaries.
#[derive(Clone, Debug, PartialEq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct MemoryPlan {
    /// Bytes of the slab; or of all slots and of the temporaries in packs.
    pub planned: usize,
    /// Largest sum of bytes (rounded up to the alignment) of temporaries live in one stage, a takeover counted once: no placement
    /// needs fewer.
    pub lower_bound: usize,
    /// Bytes of each slot, where there are slots.
    pub slots: Vec<usize>,
    /// Bytes of each pack. Values that one update kernel uses in one role (all weights, all gradients, all first moments), or that one fold reads, lie
    /// side by side in a pack, and so do the scalars of a step, so that a kernel over hundreds of values binds a handful of buffers.
    pub packs: Vec<usize>,
}

#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Program {
    pub name: String,
    pub target: TargetModel,
    pub params: Vec<ProgramParam>,
    pub outputs: Vec<ProgramOutput>,
    pub buffers: Arena<BufferId, Buffer>,
    pub kernels: Arena<KernelId, Kernel>,
    /// Half-open ranges of kernel ids that cover all kernels in order.
    pub stages: Vec<(u32, u32)>,
    pub memory: MemoryPlan,
}

impl Program {
    pub fn stage_kernels(&self, stage: usize) -> impl Iterator<Item = KernelId> + use<> {
        let (from, to) = self.stages[stage];
        (from..to).map(KernelId)
    }

    /// The allocation that holds a buffer, and the buffer's first byte in it.
    pub fn storage(&self, buffer: BufferId) -> (StorageUnit, usize) {
        match self.buffers[buffer].place {
            Place::Own | Place::Slab(_) => (StorageUnit::Own(buffer), 0),
            Place::Slot(slot) => (StorageUnit::Slot(slot), 0),
            Place::Pack { pack, offset } => (StorageUnit::Pack(pack), offset),
        }
    }

    /// The distinct allocations that a kernel touches.
    pub fn storage_units(&self, kernel: &Kernel) -> Vec<StorageUnit> {
        let known = kernel.args.iter().filter(|a| self.buffers.get(a.buffer).is_some());
        let mut units: Vec<StorageUnit> = known.map(|a| self.storage(a.buffer).0).collect();
        units.sort_unstable();
        units.dedup();
        units
    }

    pub fn param_named(&self, name: &str) -> Option<&ProgramParam> {
        self.params.iter().find(|p| p.name == name)
    }

    pub fn output_named(&self, name: &str) -> Option<&ProgramOutput> {
        self.outputs.iter().find(|o| o.name == name)
    }
}
