//! Pipelines: what the driver makes of modules.
//!
//! Drivers take tens to hundreds of milliseconds for each, so they are made on all cores, and what the driver keeps
//! of them stays on disk ([`super::kept`]).
//!
//! Invariants
//! - Pipelines are made once a structure ([`Module::hash`]), however many kernels have it.
//! - Modules are begun in the order in which they are given.
//! - Bounds checks are left out only if the caller says that the program verifier proved the program.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use tinygpt_codegen_wgsl::{Dialect, Module};

use super::device::Gpu;
use crate::{Error, Result};

/// Structure and entry point.
type Key = (u64, String);

/// Each pipeline of a module.
type Made = Vec<(Key, wgpu::ComputePipeline)>;

/// The pipelines of a program.
pub(super) struct Pipelines<'a> {
    gpu: &'a Gpu,
    /// Leave out bounds checks.
    proved: bool,
    /// By the access modes of bindings: true for written ones.
    layouts: HashMap<Vec<bool>, (wgpu::BindGroupLayout, wgpu::PipelineLayout)>,
    made: HashMap<Key, wgpu::ComputePipeline>,
}

/// Access modes of a module's bindings.
pub(super) fn modes(module: &Module) -> Vec<bool> {
    module.bindings.iter().map(|b| b.write).collect()
}

impl<'a> Pipelines<'a> {
    pub fn new(gpu: &'a Gpu, proved: bool) -> Pipelines<'a> {
        Pipelines { gpu, proved, layouts: HashMap::new(), made: HashMap::new() }
    }

    /// Whether all pipelines of this module are made.
    pub fn has(&self, module: &Module) -> bool {
        module.dispatches.iter().all(|d| self.get(module, &d.entry).is_some())
    }

    pub fn get(&self, module: &Module, entry: &str) -> Option<&wgpu::ComputePipeline> {
        self.made.get(&(module.hash, entry.to_owned()))
    }

    /// The layout of bind groups of a module whose pipelines were asked for.
    pub fn group_layout(&self, module: &Module) -> Option<&wgpu::BindGroupLayout> {
        self.layouts.get(&modes(module)).map(|(group, _)| group)
    }

    /// Makes the pipelines of these modules that there are not yet, on all cores. Those marked optional are left out if they are not begun by `deadline`,
    /// or if the driver refuses them.
    pub fn make(&mut self, modules: &[(&Module, bool)], deadline: Instant) -> Result<()> {
        let start = Instant::now();
        let mut begun = HashSet::new();
        let mut jobs = Vec::new();
        for (module, optional) in modules {
            let layout = self.layout(&modes(module));
            if begun.insert(module.hash) && !self.has(module) {
                jobs.push((*module, layout, *optional));
            }
        }
        let before = self.made.len();
        let (gpu, proved) = (self.gpu, self.proved);
        let (jobs, next) = (&jobs, &AtomicUsize::new(0));
        let work = || -> Result<Vec<Made>> {
            let mut all = Vec::new();
            while let Some((module, layout, optional)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                if *optional && Instant::now() >= deadline {
                    continue;
                }
                match gpu.scoped(|| Ok(compile(gpu, proved, module, layout))) {
                    Ok(made) => all.push(made),
                    Err(e) if *optional => tracing::debug!(module.name, error = %e, "left out a variant"),
                    Err(e) => {
                        next.store(jobs.len(), Ordering::Relaxed);
                        return Err(e);
                    }
                }
            }
            Ok(all)
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(jobs.len());
        let made = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            let panicked = |_| Error::failed("a thread that compiled shaders has panicked");
            workers.into_iter().map(|worker| worker.join().map_err(panicked)?).collect::<Result<Vec<Vec<Made>>>>()
        })?;
        self.made.extend(made.into_iter().flatten().flatten());
        let pipelines = self.made.len() - before;
        tracing::debug!(modules = jobs.len(), pipelines, threads, took = ?start.elapsed(), "made pipelines");
        Ok(())
    }

    fn layout(&mut self, modes: &[bool]) -> wgpu::PipelineLayout {
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
        self.layouts.entry(modes.to_vec()).or_insert_with(make).1.clone()
    }
}

fn compile(gpu: &Gpu, proved: bool, module: &Module, layout: &wgpu::PipelineLayout) -> Made {
    let start = Instant::now();
    let source = wgpu::ShaderSource::Wgsl(module.source(Dialect::Naga).into());
    let text = wgpu::ShaderModuleDescriptor { label: Some(&module.name), source };
    let shader = if proved {
        // SAFETY: the program verifier has proved every access of every kernel within its buffer, bindings cover the buffers of the
        // arguments whole, and all loops of generated code have constant bounds; so no module reads or writes out of bounds or loops for ever.
        unsafe { gpu.device.create_shader_module_trusted(text, wgpu::ShaderRuntimeChecks::unchecked()) }
    } else {
        gpu.device.create_shader_module(text)
    };
    let validated = start.elapsed();
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
            cache: gpu.kept.as_ref().map(|kept| kept.cache()),
        });
        ((module.hash, entry.clone()), made)
    };
    let made = entries.into_iter().map(pipeline).collect();
    let driver = start.elapsed() - validated;
    tracing::trace!(module.name, bytes = module.code.len(), ?validated, ?driver, "made the pipelines of a module");
    made
}
