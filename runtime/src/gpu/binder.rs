//! Bind groups: which buffers the launches of a program's modules read and write.
//!
//! Invariants
//! - Bind groups are made once a set of bindings, however many kernels use it.
//! - Modules share one scratch buffer: launches run in order, and scratch holds nothing between modules.

use std::collections::HashMap;

use tinygpt_codegen_wgsl::{Dispatch, Module, Unit};
use tinygpt_ir::program::StorageUnit;

use super::device::Gpu;
use super::pipelines::{Pipelines, modes};
use crate::{Error, Result};

/// The buffers of a program's allocations.
pub(super) type Units = HashMap<StorageUnit, wgpu::Buffer>;

/// One dispatch.
#[derive(Clone)]
pub(super) struct Launch {
    pub pipeline: wgpu::ComputePipeline,
    pub group: wgpu::BindGroup,
    pub workgroups: [u32; 3],
}

/// Access modes; unit, offset and size of each binding; the table, if any.
type GroupKey = (Vec<bool>, Vec<(Unit, u64, u64)>, Vec<u32>);

/// Makes launches and shares what is equal among them.
pub(super) struct Binder<'a> {
    gpu: &'a Gpu,
    units: &'a Units,
    groups: HashMap<GroupKey, wgpu::BindGroup>,
    tables: HashMap<Vec<u32>, wgpu::Buffer>,
    scratch: Option<wgpu::Buffer>,
}

/// A buffer of `bytes` bytes, at least, that kernels use and copies reach.
pub(super) fn buffer(gpu: &Gpu, label: &str, bytes: u64) -> Result<wgpu::Buffer> {
    let size = bytes.next_multiple_of(16).max(16);
    if size > gpu.max_buffer_bytes {
        return Err(Error::input(format!(
            "{label} takes {bytes} bytes, and the GPU {} has buffers of at most {}: choose a smaller preset or batch, or --backend cpu",
            gpu.report().name,
            gpu.max_buffer_bytes
        )));
    }
    use wgpu::BufferUsages as Usage;
    let usage = Usage::STORAGE | Usage::COPY_SRC | Usage::COPY_DST;
    Ok(gpu.device.create_buffer(&wgpu::BufferDescriptor { label: Some(label), size, usage, mapped_at_creation: false }))
}

impl<'a> Binder<'a> {
    /// For modules that need at most `scratch` bytes of scratch.
    pub fn new(gpu: &'a Gpu, units: &'a Units, scratch: u64) -> Result<Binder<'a>> {
        let scratch = if scratch == 0 { None } else { Some(buffer(gpu, "scratch", scratch)?) };
        Ok(Binder { gpu, units, groups: HashMap::new(), tables: HashMap::new(), scratch })
    }

    /// Buffers it made.
    pub fn buffers(&self) -> usize {
        self.tables.len() + usize::from(self.scratch.is_some())
    }

    /// Bind groups it made.
    pub fn groups(&self) -> usize {
        self.groups.len()
    }

    /// The dispatches of modules whose pipelines are made.
    pub fn all_launches(&mut self, pipelines: &Pipelines<'_>, modules: &[Module]) -> Result<Vec<Launch>> {
        let each: Result<Vec<_>> = modules.iter().map(|module| self.launches(pipelines, module)).collect();
        Ok(each?.into_iter().flatten().collect())
    }

    /// The dispatches of a module whose pipelines are made.
    pub fn launches(&mut self, pipelines: &Pipelines<'_>, module: &Module) -> Result<Vec<Launch>> {
        let missing = || Error::failed(format!("kernel {} was not compiled", module.name));
        let group = self.group(module, pipelines.group_layout(module).ok_or_else(missing)?)?;
        let launch = |dispatch: &Dispatch| {
            let pipeline = pipelines.get(module, &dispatch.entry).ok_or_else(missing)?.clone();
            Ok(Launch { pipeline, group: group.clone(), workgroups: dispatch.workgroups })
        };
        module.dispatches.iter().map(launch).collect()
    }

    fn group(&mut self, module: &Module, layout: &wgpu::BindGroupLayout) -> Result<wgpu::BindGroup> {
        let ranges = module.bindings.iter().map(|b| (b.unit, b.offset, b.size)).collect();
        let key = (modes(module), ranges, module.table.clone());
        if let Some(group) = self.groups.get(&key) {
            return Ok(group.clone());
        }
        let table = if module.table.is_empty() { None } else { Some(self.table(&module.table)?) };
        let missing = || Error::failed(format!("kernel {} binds an allocation that the program lacks", module.name));
        let mut entries = Vec::with_capacity(module.bindings.len());
        for (at, b) in module.bindings.iter().enumerate() {
            let buffer = match b.unit {
                Unit::Storage(unit) => self.units.get(&unit),
                Unit::Scratch => self.scratch.as_ref(),
                Unit::Table => table.as_ref(),
            };
            let buffer = buffer.ok_or_else(missing)?;
            let range = wgpu::BufferBinding { buffer, offset: b.offset, size: wgpu::BufferSize::new(b.size) };
            entries.push(wgpu::BindGroupEntry { binding: at as u32, resource: wgpu::BindingResource::Buffer(range) });
        }
        let group = self.gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(&module.name),
            layout,
            entries: &entries,
        });
        Ok(self.groups.entry(key).or_insert(group).clone())
    }

    fn table(&mut self, words: &[u32]) -> Result<wgpu::Buffer> {
        if let Some(buffer) = self.tables.get(words) {
            return Ok(buffer.clone());
        }
        let made = buffer(self.gpu, "table", 4 * words.len() as u64)?;
        self.gpu.queue.write_buffer(&made, 0, bytemuck::cast_slice(words));
        Ok(self.tables.entry(words.to_vec()).or_insert(made).clone())
    }
}
