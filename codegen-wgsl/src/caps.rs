//! What an adapter can do, as far as code depends on it.

use tinygpt_ir::program::TargetModel;

/// Most allocations a kernel is fused over, whatever more an adapter allows: each costs tracking at every launch.
const MOST_ARGS: u32 = 24;

/// Features and limits of an adapter: plain values, so that the emitter needs no GPU API.
#[derive(Clone, Debug, PartialEq)]
pub struct Caps {
    /// Smallest and largest subgroup size, where there are subgroup operations.
    pub subgroups: Option<(u32, u32)>,
    /// Whether shaders compute in f16 (`shader-f16`).
    pub f16: bool,
    /// Size of all subgroups, where their invocations together multiply 16x16 matrices of f16 and add in f32 (naga's cooperative matrices).
    pub cooperative: Option<u32>,
    /// Bytes of workgroup memory.
    pub workgroup_bytes: u32,
    /// Most invocations of a workgroup.
    pub max_invocations: u32,
    /// Most invocations of a workgroup along x, y and z.
    pub max_workgroup_size: [u32; 3],
    /// Most storage buffers a dispatch may bind.
    pub max_storage_buffers: u32,
    /// Most bytes of one binding.
    pub max_binding_bytes: u64,
    /// Most workgroups along one dimension of a dispatch.
    pub max_workgroups: u32,
    /// Alignment in bytes of the start of a binding in its buffer, a power of two.
    pub offset_alignment: u32,
    /// Whether bindings of one dispatch may be overlapping ranges of which one is written. GPU interfaces allow it, and linked kernels write
    /// different elements; WebGPU in browsers refuses it.
    pub overlapping_writes: bool,
}

impl Caps {
    /// What every WebGPU implementation has.
    pub fn webgpu() -> Caps {
        Caps {
            subgroups: None,
            f16: false,
            cooperative: None,
            workgroup_bytes: 16 << 10,
            max_invocations: 256,
            max_workgroup_size: [256, 256, 64],
            max_storage_buffers: 8,
            max_binding_bytes: 128 << 20,
            max_workgroups: 65535,
            offset_alignment: 256,
            overlapping_writes: false,
        }
    }

    /// The target of programs for devices with these capabilities. One binding is left for what a kernel's code needs besides its arguments.
    pub fn target(&self) -> TargetModel {
        let args = self.max_storage_buffers.saturating_sub(1).clamp(1, MOST_ARGS);
        TargetModel::gpu(args as usize, usize::try_from(self.max_binding_bytes).unwrap_or(usize::MAX))
    }

    /// Most invocations of a workgroup of one dimension.
    pub fn flat_workgroup(&self) -> u32 {
        self.max_invocations.min(self.max_workgroup_size[0])
    }
}
