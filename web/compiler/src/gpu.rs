//! A program for WebGPU as plain data: what to allocate, which pipelines to make, what to dispatch.
//!
//! ```text
//! {
//!   "format": "tinygpt-wgsl", "version": 1,
//!   "allocations": [{"name", "bytes"}],
//!   "slots":       [{"name", "role", "dtype", "shape", "allocation", "offset", "bytes"}],
//!   "tables":      [[u32, ..]],
//!   "modules":     [{"name", "hash", "source", "f16", "subgroups"}],
//!   "launches":    [{"kernel", "kernels", "piece", "module", "entry", "workgroups": [x, y, z], "bindings": [{"allocation" | "table", "offset", "bytes", "write"}]}]
//! }
//! ```
//! - Allocations start as zeros; the last one, named `scratch`, holds nothing between launches and is there only if a launch binds it.
//! - Launches run in order, each seeing what those before it wrote. Binding i of group 0 is the i-th of the list; `write` tells `read_write`
//!   from `read` storage, tables are `read`.
//! - `kernels` are the program's names of what a launch computes, of which `kernel` is the first; `piece` is the name of the code: a kernel's, with
//!   a number where it is one of its parts, or `NAME+2` where two others run with it.
//! - Every module has naga's approval. Equal code is one module, however many kernels use it.
//! - A slot is an input, state or output in row-major order; truth values take four bytes, and bytes are rounded up to four.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::HashMap;
use tinygpt_codegen_wgsl::{Caps, Dialect, Module, Unit, bundles, emit, pieces, validate, variants};
use tinygpt_ir::ParamKind;
use tinygpt_ir::program::{BufferId, KernelId, Place, Program, StorageUnit};
use tinygpt_runtime::{Error, Result};

/// What an adapter has: each key as in [`Caps`], and where it is left out, what every WebGPU implementation has.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdapterCaps {
    subgroups: Option<(u32, u32)>,
    f16: Option<bool>,
    workgroup_bytes: Option<u32>,
    max_invocations: Option<u32>,
    max_workgroup_size: Option<[u32; 3]>,
    max_storage_buffers: Option<u32>,
    max_binding_bytes: Option<u64>,
    max_workgroups: Option<u32>,
    offset_alignment: Option<u32>,
}

impl AdapterCaps {
    /// Errors: limits below those of every WebGPU implementation.
    pub fn resolve(&self) -> Result<Caps> {
        let least = Caps::webgpu();
        let caps = Caps {
            subgroups: self.subgroups,
            f16: self.f16.unwrap_or(least.f16),
            cooperative: None,
            workgroup_bytes: self.workgroup_bytes.unwrap_or(least.workgroup_bytes),
            max_invocations: self.max_invocations.unwrap_or(least.max_invocations),
            max_workgroup_size: self.max_workgroup_size.unwrap_or(least.max_workgroup_size),
            max_storage_buffers: self.max_storage_buffers.unwrap_or(least.max_storage_buffers),
            max_binding_bytes: self.max_binding_bytes.unwrap_or(least.max_binding_bytes),
            max_workgroups: self.max_workgroups.unwrap_or(least.max_workgroups),
            offset_alignment: self.offset_alignment.unwrap_or(least.offset_alignment),
            overlapping_writes: false,
        };
        let [x, y, z] = caps.max_workgroup_size;
        let [least_x, least_y, least_z] = least.max_workgroup_size;
        let limits = [
            ("max_workgroup_size.x", x.into(), least_x.into()),
            ("max_workgroup_size.y", y.into(), least_y.into()),
            ("max_workgroup_size.z", z.into(), least_z.into()),
            ("workgroup_bytes", u64::from(caps.workgroup_bytes), u64::from(least.workgroup_bytes)),
            ("max_invocations", caps.max_invocations.into(), least.max_invocations.into()),
            ("max_storage_buffers", caps.max_storage_buffers.into(), least.max_storage_buffers.into()),
            ("max_binding_bytes", caps.max_binding_bytes, least.max_binding_bytes),
            ("max_workgroups", caps.max_workgroups.into(), least.max_workgroups.into()),
        ];
        for (name, found, expected) in limits {
            if found < expected {
                return Err(Error::input(format!(
                    "the adapter's {name} is {found}, and every WebGPU adapter has {expected} or more: give its limits as it states them"
                )));
            }
        }
        if let Some((low, high)) =
            caps.subgroups.filter(|(low, high)| !(low.is_power_of_two() && high.is_power_of_two() && low <= high))
        {
            return Err(Error::input(format!(
                "the adapter's subgroups are of {low} to {high} invocations, and sizes are powers of two, the smallest first: give them as it states them"
            )));
        }
        if !caps.offset_alignment.is_power_of_two() || caps.offset_alignment > least.offset_alignment {
            return Err(Error::input(format!(
                "the adapter's offset_alignment is {}, and every WebGPU adapter has a power of two up to {}: give its limits as it states them",
                caps.offset_alignment, least.offset_alignment
            )));
        }
        Ok(caps)
    }
}

#[derive(Serialize)]
struct Allocation {
    name: String,
    bytes: u64,
}

/// `program`, compiled for [`Caps::target`], as the data of this module's comment; everything in its default variants. `together` runs kernels of a stage as one
/// where they may.
///
/// Errors: a kernel that needs more than the adapter has.
pub fn dispatch_list(program: &Program, caps: &Caps, together: bool) -> Result<Value> {
    let refused = |e: tinygpt_codegen_wgsl::Error| Error::input(e.to_string());
    let (mut allocations, numbers) = allocations(program);
    let scratch_number = allocations.len();
    let mut scratch_bytes = 0;
    let (mut tables, mut modules, mut launches) = (Vec::<Vec<u32>>::new(), Vec::new(), Vec::new());
    let mut known: HashMap<u64, usize> = HashMap::new();
    for (kernels, module) in modules_of(program, caps, together).map_err(refused)? {
        scratch_bytes = scratch_bytes.max(module.scratch_bytes);
        let number = known.get(&module.hash).copied().unwrap_or(modules.len());
        if number == modules.len() {
            known.insert(module.hash, number);
            validate(&module.source(Dialect::Naga), caps).map_err(refused)?;
            modules.push(json!({
                "name": module.name,
                "hash": format!("{:016x}", module.hash),
                "source": module.source(Dialect::Browser),
                "f16": module.f16,
                "subgroups": module.subgroups,
            }));
        }
        let table = tables.iter().position(|t| *t == module.table).unwrap_or(tables.len());
        if table == tables.len() && !module.table.is_empty() {
            tables.push(module.table.clone());
        }
        let bindings = module.bindings.iter().map(|b| {
            let (key, number) = match b.unit {
                Unit::Storage(unit) => ("allocation", numbers[&unit]),
                Unit::Scratch => ("allocation", scratch_number),
                Unit::Table => ("table", table),
            };
            json!({key: number, "offset": b.offset, "bytes": b.size, "write": b.write})
        });
        let bindings: Vec<Value> = bindings.collect();
        launches.extend(module.dispatches.iter().map(|d| {
            json!({
                "kernel": program.kernels[kernels[0]].name,
                "kernels": kernels.iter().map(|id| &program.kernels[*id].name).collect::<Vec<_>>(),
                "piece": module.name,
                "module": number,
                "entry": d.entry,
                "workgroups": d.workgroups,
                "bindings": bindings,
            })
        }));
    }
    if scratch_bytes > 0 {
        allocations.push(Allocation { name: "scratch".into(), bytes: scratch_bytes });
    }
    Ok(json!({
        "format": "tinygpt-wgsl",
        "version": 1,
        "allocations": allocations,
        "slots": slots(program, &numbers),
        "tables": tables,
        "modules": modules,
        "launches": launches,
    }))
}

/// The modules of a program in the order in which they run, each with its kernels.
fn modules_of(
    program: &Program,
    caps: &Caps,
    together: bool,
) -> std::result::Result<Vec<(Vec<KernelId>, Module)>, tinygpt_codegen_wgsl::Error> {
    let mut all = Vec::new();
    if together {
        for bundle in bundles(program, caps)? {
            all.extend(bundle.with_kernels(bundle.emit(caps, &bundle.choices[0])?));
        }
        return Ok(all);
    }
    for (id, kernel) in program.kernels.iter() {
        for piece in pieces(program, kernel, caps)? {
            all.push((vec![id], emit(&piece, caps, &variants(&piece, caps)[0])?));
        }
    }
    Ok(all)
}

/// Every allocation of a program, and its number.
fn allocations(program: &Program) -> (Vec<Allocation>, HashMap<StorageUnit, usize>) {
    let own = program.buffers.iter().filter(|(_, buffer)| buffer.place == Place::Own);
    let own = own.map(|(id, buffer)| (StorageUnit::Own(id), buffer.label.clone(), buffer.bytes()));
    let pooled = |kind: &'static str, unit: fn(u32) -> StorageUnit, sizes: &[usize]| -> Vec<_> {
        let numbered = sizes.iter().enumerate();
        numbered.map(|(at, bytes)| (unit(at as u32), format!("{kind} {at}"), *bytes)).collect()
    };
    let slots = pooled("slot", StorageUnit::Slot, &program.memory.slots);
    let packs = pooled("pack", StorageUnit::Pack, &program.memory.packs);
    let (mut list, mut numbers) = (Vec::new(), HashMap::new());
    for (unit, name, bytes) in own.chain(slots).chain(packs) {
        numbers.insert(unit, list.len());
        list.push(Allocation { name, bytes: bytes.next_multiple_of(16).max(16) as u64 });
    }
    (list, numbers)
}

fn slots(program: &Program, numbers: &HashMap<StorageUnit, usize>) -> Vec<Value> {
    let slot = |name: &str, role: &str, ty: &tinygpt_ir::TensorType, buffer: BufferId| {
        let (unit, offset) = program.storage(buffer);
        json!({
            "name": name,
            "role": role,
            "dtype": ty.dtype.to_string(),
            "shape": ty.shape,
            "allocation": numbers[&unit],
            "offset": offset,
            "bytes": program.buffers[buffer].bytes().next_multiple_of(4),
        })
    };
    let params = program.params.iter().map(|p| {
        let role = if matches!(p.kind, ParamKind::Input) { "input" } else { "state" };
        slot(&p.name, role, &p.ty, p.buffer)
    });
    let outputs = program.outputs.iter().map(|o| slot(&o.name, "output", &o.ty, o.buffer));
    params.chain(outputs).collect()
}
