//! From a program to launches: pieces, variants, modules, pipelines and bind groups.
//!
//! Invariants
//! - Pipelines are made once a structure ([`Module::hash`]), bind groups once a set of bindings, however many kernels use them.
//! - Modules share one scratch buffer: launches run in order, and scratch holds nothing between modules.
//! - Bounds checks are left out only if the caller says that the program verifier proved the program.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use tinygpt_codegen_wgsl::{Choice, Dialect, Dispatch, Module, Piece, Unit, bundles};
use tinygpt_ir::program::{KernelId, KernelKind, Program, StorageUnit};

use super::device::Gpu;
use super::tune::{self, Budget};
use crate::provenance::traced;
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

/// The modules of a program in order, each as the plan, the cache, a measurement or the default has it; with their kernels.
pub(super) fn modules(
    gpu: &Gpu,
    program: &Program,
    units: &Units,
    proved: bool,
) -> Result<Vec<(Vec<KernelId>, Module)>> {
    let caps = gpu.caps();
    let refused = |e: tinygpt_codegen_wgsl::Error| Error::input(traced(program, e));
    let all = bundles(program, caps).map_err(refused)?;
    let mut chosen: Vec<Vec<Module>> = Vec::with_capacity(all.len());
    // Of each structure not known: its default's hash, and the bundles that have it.
    let mut unknown: Vec<(u64, Vec<usize>)> = Vec::new();
    for (at, bundle) in all.iter().enumerate() {
        let name = &bundle.pieces[0].1.name;
        let first = bundle.choices.first();
        let first = first.ok_or_else(|| Error::failed(format!("kernel {name} has no variant")))?;
        let default = bundle.emit(caps, first).map_err(refused)?;
        if bundle.choices.len() == 1 {
            chosen.push(default);
            continue;
        }
        let key = default[0].hash;
        match gpu.tuner.choice(key) {
            Some(choice) if choice == *first => chosen.push(default),
            Some(choice) => chosen.push(bundle.emit(caps, &choice).map_err(refused)?),
            None => {
                match unknown.iter_mut().find(|(k, _)| *k == key) {
                    Some((_, same)) => same.push(at),
                    None => unknown.push((key, vec![at])),
                }
                chosen.push(default);
            }
        }
    }
    // The most frequent structures first: they decide a step's time, and the budget may not last for all.
    unknown.sort_by_key(|(_, same)| std::cmp::Reverse(same.len()));
    let mut contests = Vec::new();
    for (_, same) in &unknown {
        let bundle = &all[same[0]];
        if gpu.tuner.measures() && bundle.pieces.iter().all(|(_, piece)| measurable(piece)) {
            // What the adapter's limits refuse takes no part.
            let entrants = bundle.choices.iter().filter_map(|c| Some((c.clone(), bundle.emit(caps, c).ok()?)));
            contests.push(entrants.collect());
        } else {
            contests.push(Vec::new());
        }
    }
    let start = Instant::now();
    let best = measure(gpu, units, proved, &contests)?;
    let measured = best.iter().flatten().count();
    for ((key, same), best) in unknown.iter().zip(best) {
        let default = &all[same[0]].choices[0];
        gpu.tuner.record(*key, best.as_ref().unwrap_or(default).clone(), best.is_some());
        if let Some(choice) = best.filter(|choice| choice != default) {
            for at in same {
                chosen[*at] = all[*at].emit(caps, &choice).map_err(refused)?;
            }
        }
    }
    if measured > 0 {
        gpu.tuner.save(measured, contests.iter().filter(|c| !c.is_empty()).count(), start.elapsed());
    }
    Ok(all.iter().zip(chosen).flat_map(|(bundle, modules)| bundle.with_kernels(modules)).collect())
}

/// Whether the time of a kernel depends on its shapes alone, so that any values serve to measure it.
fn measurable(piece: &Piece) -> bool {
    matches!(
        piece.kind,
        KernelKind::Contract(_) | KernelKind::Reduce(_) | KernelKind::Attention(_) | KernelKind::AttentionGrad(_)
    )
}

/// Of each contest, the ways to run one structure, the fastest on the program's own buffers, whose values are lost; None for those that are
/// empty or that the budget was too short for.
fn measure(
    gpu: &Gpu,
    units: &Units,
    proved: bool,
    contests: &[Vec<(Choice, Vec<Module>)>],
) -> Result<Vec<Option<Choice>>> {
    let modules: Vec<&Module> = contests.iter().flatten().flat_map(|(_, modules)| modules).collect();
    if modules.is_empty() {
        return Ok(vec![None; contests.len()]);
    }
    let mut budget = Budget::new();
    gpu.scoped(|| {
        let scratch = modules.iter().map(|m| m.scratch_bytes).max().unwrap_or(0);
        let mut builder = Builder::new(gpu, units, proved, scratch)?;
        builder.compile(&modules, Some(budget.end_of_compilation()))?;
        let mut best = Vec::with_capacity(contests.len());
        for contest in contests {
            let ready = !contest.is_empty()
                && contest.iter().flat_map(|(_, modules)| modules).all(|module| builder.is_compiled(module));
            if !ready || budget.spent() {
                best.push(None);
                continue;
            }
            let mut entrants = Vec::with_capacity(contest.len());
            for (choice, modules) in contest {
                let launches: Result<Vec<_>> = modules.iter().map(|module| builder.launches(module)).collect();
                entrants.push((choice.clone(), launches?.into_iter().flatten().collect()));
            }
            best.push(tune::fastest(gpu, &entrants, &mut budget)?);
        }
        let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        for binding in modules.iter().flat_map(|m| &m.bindings).filter(|b| b.write) {
            if let Unit::Storage(unit) = binding.unit {
                encoder.clear_buffer(&units[&unit], 0, None);
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

    /// Makes the pipelines of these modules that there are not yet, on all cores: drivers take tens of milliseconds for each. After
    /// `deadline` those not begun are left out.
    pub fn compile(&mut self, modules: &[&Module], deadline: Option<Instant>) -> Result<()> {
        let mut begun = HashSet::new();
        let mut jobs = Vec::new();
        for module in modules {
            if !self.is_compiled(module) && begun.insert(module.hash) {
                let modes: Vec<bool> = module.bindings.iter().map(|b| b.write).collect();
                jobs.push((*module, self.layout(&modes).1));
            }
        }
        let (gpu, proved, next) = (self.gpu, self.proved, AtomicUsize::new(0));
        let work = || {
            let mut made = Vec::new();
            while let Some((module, layout)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                if deadline.is_some_and(|end| Instant::now() >= end) {
                    break;
                }
                made.extend(gpu.scoped(|| Ok(compile(gpu, proved, module, layout)))?);
            }
            Ok(made)
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(jobs.len());
        let made: Result<Vec<_>> = std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
            let mut all = vec![work()];
            all.extend(others.into_iter().map(|thread| {
                thread.join().unwrap_or_else(|_| Err(Error::failed("a thread that compiled shaders has panicked")))
            }));
            all.into_iter().collect()
        });
        let before = self.pipelines.len();
        self.pipelines.extend(made?.into_iter().flatten());
        self.counters.pipelines += self.pipelines.len() - before;
        Ok(())
    }

    pub fn is_compiled(&self, module: &Module) -> bool {
        module.dispatches.iter().all(|d| self.pipelines.contains_key(&(module.hash, d.entry.clone())))
    }

    /// The dispatches of a compiled module.
    pub fn launches(&mut self, module: &Module) -> Result<Vec<Launch>> {
        let modes: Vec<bool> = module.bindings.iter().map(|b| b.write).collect();
        let (group_layout, _) = self.layout(&modes);
        let group = self.group(module, modes, &group_layout)?;
        let launch = |dispatch: &Dispatch| {
            let pipeline = self.pipelines.get(&(module.hash, dispatch.entry.clone()));
            let pipeline = pipeline.ok_or_else(|| Error::failed(format!("kernel {} was not compiled", module.name)))?;
            Ok(Launch { pipeline: pipeline.clone(), group: group.clone(), workgroups: dispatch.workgroups })
        };
        module.dispatches.iter().map(launch).collect()
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

/// Structure and entry point of each pipeline of a module, with the pipeline.
type Pipelines = Vec<((u64, String), wgpu::ComputePipeline)>;

fn compile(gpu: &Gpu, proved: bool, module: &Module, layout: &wgpu::PipelineLayout) -> Pipelines {
    let source = wgpu::ShaderSource::Wgsl(module.source(Dialect::Naga).into());
    let text = wgpu::ShaderModuleDescriptor { label: Some(&module.name), source };
    let shader = if proved {
        // SAFETY: the program verifier has proved every access of every kernel within its buffer, bindings cover the buffers of the
        // arguments whole, and all loops of generated code have constant bounds; so no module reads or writes out of bounds or loops for ever.
        unsafe { gpu.device.create_shader_module_trusted(text, wgpu::ShaderRuntimeChecks::unchecked()) }
    } else {
        gpu.device.create_shader_module(text)
    };
    let entries: BTreeSet<&String> = module.dispatches.iter().map(|d| &d.entry).collect();
    let pipeline = |entry: &String| {
        let made = gpu.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(&module.name),
            layout: Some(layout),
            module: &shader,
            entry_point: Some(entry),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &[],
                // Kernels write what they read of workgroup memory.
                zero_initialize_workgroup_memory: false,
            },
            cache: None,
        });
        ((module.hash, entry.clone()), made)
    };
    entries.into_iter().map(pipeline).collect()
}

/// Launches in order, with the kernels that each computes.
pub(super) type Launches = Vec<(Vec<KernelId>, Launch)>;

/// The launches of a whole program, and what was made for them.
pub(super) fn program(
    gpu: &Arc<Gpu>,
    program: &Program,
    units: &Units,
    proved: bool,
) -> Result<(Launches, GpuCounters)> {
    let modules = modules(gpu, program, units, proved)?;
    gpu.scoped(|| {
        let scratch = modules.iter().map(|(_, m)| m.scratch_bytes).max().unwrap_or(0);
        let mut builder = Builder::new(gpu, units, proved, scratch)?;
        builder.compile(&modules.iter().map(|(_, m)| m).collect::<Vec<_>>(), None)?;
        let mut launches = Vec::new();
        for (kernels, module) in &modules {
            launches.extend(builder.launches(module)?.into_iter().map(|launch| (kernels.clone(), launch)));
        }
        Ok((launches, builder.counters))
    })
}
