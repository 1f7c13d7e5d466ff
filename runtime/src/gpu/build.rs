//! From a program to launches: pieces, variants, modules, pipelines and bind groups.
//!
//! Invariants
//! - Pipelines are made once a structure ([`Module::hash`]), bind groups once a set of bindings, however many kernels use them.
//! - Modules share one scratch buffer: launches run in order, and scratch holds nothing between modules.
//! - Bounds checks are left out only if the caller says that the program verifier proved the program.

use std::collections::HashMap;
use std::sync::Arc;

use tinygpt_codegen_wgsl::{Dialect, Module, Piece, Unit, emit, pieces, variants};
use tinygpt_ir::program::{KernelKind, Program, StorageUnit};

use super::device::Gpu;
use super::tune::{self, Candidate};
use crate::{Error, Result};

/// What an executor has made so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GpuCounters {
    pub buffers: usize,
    pub pipelines: usize,
    pub bind_groups: usize,
    pub submits: usize,
}

/// The buffers of a program's allocations.
pub(super) type Units = HashMap<StorageUnit, wgpu::Buffer>;

/// One dispatch.
pub(super) struct Launch {
    pub pipeline: wgpu::ComputePipeline,
    pub group: wgpu::BindGroup,
    pub workgroups: [u32; 3],
}

/// Makes launches and shares what is equal among them.
pub(super) struct Builder<'a> {
    gpu: &'a Gpu,
    units: &'a Units,
    /// Leave out bounds checks.
    proved: bool,
    /// By the access modes of bindings: true for written ones.
    layouts: HashMap<Vec<bool>, (wgpu::BindGroupLayout, wgpu::PipelineLayout)>,
    pipelines: HashMap<(u64, String), wgpu::ComputePipeline>,
    groups: HashMap<GroupKey, wgpu::BindGroup>,
    tables: HashMap<Vec<u32>, wgpu::Buffer>,
    scratch: Option<wgpu::Buffer>,
    pub counters: GpuCounters,
}

/// Access modes; unit, offset and size of each binding; the table, if any.
type GroupKey = (Vec<bool>, Vec<(Unit, u64, u64)>, Vec<u32>);

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

fn refused(e: tinygpt_codegen_wgsl::Error) -> Error {
    Error::input(e.to_string())
}

/// The modules of a program in order, each in the variant that the plan, the cache, a measurement or the default gives it.
pub(super) fn modules(gpu: &Gpu, program: &Program, units: &Units, proved: bool) -> Result<Vec<Module>> {
    let caps = gpu.caps();
    let mut all = Vec::new();
    for kernel in program.kernels.values() {
        all.extend(pieces(program, kernel, caps).map_err(refused)?);
    }
    let mut chosen: Vec<Module> = Vec::with_capacity(all.len());
    // Of each structure not known: its default's hash, and the pieces that have it.
    let mut unknown: Vec<(u64, Vec<usize>)> = Vec::new();
    for (at, piece) in all.iter().enumerate() {
        let options = variants(piece, caps);
        let first = options.first().ok_or_else(|| Error::failed(format!("kernel {} has no variant", piece.name)))?;
        let default = emit(piece, caps, first).map_err(refused)?;
        if options.len() == 1 {
            chosen.push(default);
            continue;
        }
        let key = default.hash;
        match gpu.tuner.choice(key) {
            Some(variant) if variant == *first => chosen.push(default),
            Some(variant) => chosen.push(emit(piece, caps, &variant).map_err(refused)?),
            None => {
                match unknown.iter_mut().find(|(k, _)| *k == key) {
                    Some((_, pieces)) => pieces.push(at),
                    None => unknown.push((key, vec![at])),
                }
                chosen.push(default);
            }
        }
    }
    // The most frequent structures first: they decide a step's time, and the budget may not last for all.
    unknown.sort_by_key(|(_, pieces)| std::cmp::Reverse(pieces.len()));
    let mut budget = gpu.tuner.budget();
    for (key, same) in unknown {
        let piece = &all[same[0]];
        let options = variants(piece, caps);
        let best = if measurable(piece) && !budget.spent() {
            let modules = options.iter().map(|v| Ok((*v, emit(piece, caps, v).map_err(refused)?)));
            let modules = modules.collect::<Result<Vec<_>>>()?;
            budget.spend(|| measure(gpu, units, proved, &modules))?
        } else {
            None
        };
        gpu.tuner.record(key, best.unwrap_or(options[0]), best.is_some());
        if let Some(variant) = best.filter(|v| *v != options[0]) {
            for at in same {
                chosen[at] = emit(&all[at], caps, &variant).map_err(refused)?;
            }
        }
    }
    gpu.tuner.save(budget);
    Ok(chosen)
}

/// Whether the time of a kernel depends on its shapes alone, so that any values serve to measure it.
fn measurable(piece: &Piece) -> bool {
    matches!(
        piece.kind,
        KernelKind::Contract(_) | KernelKind::Reduce(_) | KernelKind::Attention(_) | KernelKind::AttentionGrad(_)
    )
}

/// The fastest of the variants of one piece, on the program's own buffers, whose values are lost.
fn measure(
    gpu: &Gpu,
    units: &Units,
    proved: bool,
    modules: &[(tinygpt_codegen_wgsl::Variant, Module)],
) -> Result<Option<tinygpt_codegen_wgsl::Variant>> {
    gpu.scoped(|| {
        let scratch = modules.iter().map(|(_, m)| m.scratch_bytes).max().unwrap_or(0);
        let mut builder = Builder::new(gpu, units, proved, scratch)?;
        let candidates = modules
            .iter()
            .map(|(variant, module)| Ok(Candidate { variant: *variant, launches: builder.launches(module)? }))
            .collect::<Result<Vec<_>>>()?;
        let best = tune::fastest(gpu, &candidates)?;
        let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        for (_, module) in modules {
            for binding in module.bindings.iter().filter(|b| b.write) {
                if let Unit::Storage(unit) = binding.unit {
                    encoder.clear_buffer(&units[&unit], 0, None);
                }
            }
        }
        gpu.queue.submit([encoder.finish()]);
        Ok(best)
    })
}

impl<'a> Builder<'a> {
    /// For modules that need at most `scratch` bytes of scratch.
    pub fn new(gpu: &'a Gpu, units: &'a Units, proved: bool, scratch: u64) -> Result<Builder<'a>> {
        let mut counters = GpuCounters::default();
        let scratch = match scratch {
            0 => None,
            bytes => {
                counters.buffers += 1;
                Some(buffer(gpu, "scratch", bytes)?)
            }
        };
        Ok(Builder {
            gpu,
            units,
            proved,
            layouts: HashMap::new(),
            pipelines: HashMap::new(),
            groups: HashMap::new(),
            tables: HashMap::new(),
            scratch,
            counters,
        })
    }

    /// The dispatches of a module.
    pub fn launches(&mut self, module: &Module) -> Result<Vec<Launch>> {
        let modes: Vec<bool> = module.bindings.iter().map(|b| b.write).collect();
        let (group_layout, layout) = self.layout(&modes);
        let group = self.group(module, modes, &group_layout)?;
        let mut shader = None;
        let mut launches = Vec::with_capacity(module.dispatches.len());
        for dispatch in &module.dispatches {
            let key = (module.hash, dispatch.entry.clone());
            let pipeline = match self.pipelines.get(&key) {
                Some(pipeline) => pipeline.clone(),
                None => {
                    let shader = shader.get_or_insert_with(|| self.shader(module));
                    let made = self.gpu.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                        label: Some(&module.name),
                        layout: Some(&layout),
                        module: shader,
                        entry_point: Some(&dispatch.entry),
                        compilation_options: wgpu::PipelineCompilationOptions {
                            constants: &[],
                            // Kernels write what they read of workgroup memory.
                            zero_initialize_workgroup_memory: false,
                        },
                        cache: None,
                    });
                    self.counters.pipelines += 1;
                    self.pipelines.entry(key).or_insert(made).clone()
                }
            };
            launches.push(Launch { pipeline, group: group.clone(), workgroups: dispatch.workgroups });
        }
        Ok(launches)
    }

    fn shader(&self, module: &Module) -> wgpu::ShaderModule {
        let source = wgpu::ShaderSource::Wgsl(module.source(Dialect::Naga).into());
        let text = wgpu::ShaderModuleDescriptor { label: Some(&module.name), source };
        if !self.proved {
            return self.gpu.device.create_shader_module(text);
        }
        // SAFETY: the program verifier has proved every access of every kernel within its buffer, bindings cover the buffers of the
        // arguments whole, and all loops of generated code have constant bounds; so no module reads or writes out of bounds or loops for ever.
        unsafe { self.gpu.device.create_shader_module_trusted(text, wgpu::ShaderRuntimeChecks::unchecked()) }
    }

    fn layout(&mut self, modes: &[bool]) -> (wgpu::BindGroupLayout, wgpu::PipelineLayout) {
        let device = &self.gpu.device;
        let make = || {
            let entries: Vec<wgpu::BindGroupLayoutEntry> = modes
                .iter()
                .enumerate()
                .map(|(at, write)| wgpu::BindGroupLayoutEntry {
                    binding: at as u32,
                    visibility: wgpu::ShaderStages::COMPUTE,
                    ty: wgpu::BindingType::Buffer {
                        ty: wgpu::BufferBindingType::Storage { read_only: !write },
                        has_dynamic_offset: false,
                        min_binding_size: None,
                    },
                    count: None,
                })
                .collect();
            let group =
                device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: None, entries: &entries });
            let pipeline = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label: None,
                bind_group_layouts: &[Some(&group)],
                immediate_size: 0,
            });
            (group, pipeline)
        };
        self.layouts.entry(modes.to_vec()).or_insert_with(make).clone()
    }

    fn group(&mut self, module: &Module, modes: Vec<bool>, layout: &wgpu::BindGroupLayout) -> Result<wgpu::BindGroup> {
        let ranges = module.bindings.iter().map(|b| (b.unit, b.offset, b.size)).collect();
        let key = (modes, ranges, module.table.clone());
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
        self.counters.bind_groups += 1;
        Ok(self.groups.entry(key).or_insert(group).clone())
    }

    fn table(&mut self, words: &[u32]) -> Result<wgpu::Buffer> {
        if let Some(buffer) = self.tables.get(words) {
            return Ok(buffer.clone());
        }
        let made = buffer(self.gpu, "table", 4 * words.len() as u64)?;
        self.gpu.queue.write_buffer(&made, 0, bytemuck::cast_slice(words));
        self.counters.buffers += 1;
        Ok(self.tables.entry(words.to_vec()).or_insert(made).clone())
    }
}

/// The launches of a whole program, and what was made for them.
pub(super) fn program(
    gpu: &Arc<Gpu>,
    program: &Program,
    units: &Units,
    proved: bool,
) -> Result<(Vec<Launch>, GpuCounters)> {
    let modules = modules(gpu, program, units, proved)?;
    gpu.scoped(|| {
        let scratch = modules.iter().map(|m| m.scratch_bytes).max().unwrap_or(0);
        let mut builder = Builder::new(gpu, units, proved, scratch)?;
        let mut launches = Vec::new();
        for module in &modules {
            launches.extend(builder.launches(module)?);
        }
        Ok((launches, builder.counters))
    })
}
