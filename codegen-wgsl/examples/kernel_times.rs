//! Times of a training step's kernels on the GPU, each by itself: every choice of every bundle, or given ones.
//!
//! `cargo run --release -p tinygpt-codegen-wgsl --example kernel_times PRESET [PART OF A KERNEL'S NAME [CHOICE..]]`
//!
//! A choice is as plans print it: `contract m=64 n=64 ..`. Each is run again and again on the same buffers, after the device has been busy for a
//! quarter of a second; the median of the runs' times is printed, in microseconds, the fastest choice first, with the workgroups of each dispatch and
//! how long the driver compiled it, beside the others.
//! `product:MxNxK:nt` instead of a preset is one product (`nt`, `nn` or `tn`: which sides are transposed), `product:MxNxK:nt:gelu` that with bias and gelu.
//! `mixed/` before either is mixed precision on cooperative matrices, without the check that the runtime makes; of a product the right side is then
//! computed, and so f16 in memory, and the left side too if `tanh` is among the words.

use std::collections::{HashMap, HashSet};
use std::time::Instant;
use tinygpt_codegen_wgsl::{Bundle, Caps, Choice, Dialect, Module, Unit, bundles};
use tinygpt_ir::op::GeluForm;
use tinygpt_ir::program::{Place, Program, StorageUnit, TargetModel};
use tinygpt_ir::{Builder, Graph, TensorType};
use tinygpt_models::gpt::{gpt, preset};
use tinygpt_passes::compile::to_program;
use tinygpt_passes::optimizer::{AdamWConfig, training_step};
use tinygpt_passes::pass::{Pass, Pipeline};

/// Seconds for which the device is busy before anything is timed, and before each choice.
const WARM_UP: f64 = 0.25;
const BUSY: f64 = 0.03;
/// Microseconds of a run, and runs.
const RUN: f64 = 2000.0;
const RUNS: usize = 7;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Some((what, rest)) = args.split_first() else {
        eprintln!("usage: kernel_times PRESET [PART OF A KERNEL'S NAME [CHOICE..]]");
        std::process::exit(2);
    };
    let wanted = rest.first().cloned().unwrap_or_default();
    let given: Vec<Choice> = rest.iter().skip(1).map(|c| c.parse().expect("a choice as plans print it")).collect();
    let (what, mixed) = what.strip_prefix("mixed/").map_or((what.as_str(), false), |rest| (rest, true));
    let graph = graph(what, mixed);
    let gpu = Gpu::open(mixed);
    let target = TargetModel { f16_operands: mixed, f16_values: mixed.then_some(0), ..gpu.caps.target() };
    let program = to_program(&graph, &target, true).expect("a program");
    let units = gpu.units(&program);
    let mut seen = HashSet::new();
    for bundle in bundles(&program, &gpu.caps).expect("bundles") {
        let Ok(default) = bundle.emit(&gpu.caps, &bundle.choices[0]) else { continue };
        let names: Vec<&str> = bundle.pieces.iter().map(|(_, piece)| piece.name.as_str()).collect();
        if names.iter().any(|n| n.contains(&wanted)) && seen.insert(default[0].hash) {
            println!("{}", names.join(" + "));
            gpu.race(&bundle, if given.is_empty() { &bundle.choices } else { &given }, &units);
        }
    }
}

/// The training step of a preset, or one product.
fn graph(what: &str, mixed: bool) -> Graph {
    let Some(product) = what.strip_prefix("product:") else {
        let config = preset(what).expect("the name of a preset").config;
        let step = training_step(&gpt(&config).expect("a model"), &AdamWConfig::default()).expect("a step");
        return prepared(step, mixed);
    };
    let mut words = product.split(':');
    let sizes = words.next().unwrap_or_default().split('x').map(|n| n.parse().expect("a number"));
    let [m, n, k] = sizes.collect::<Vec<usize>>().try_into().expect("three sizes");
    let form = words.next().unwrap_or("nt");
    let b = Builder::new("product");
    let (lhs, lhs_axes) = if form.starts_with('t') { ([k, m], "km") } else { ([m, k], "mk") };
    let (rhs, rhs_axes) = if form.ends_with('t') { ([n, k], "nk") } else { ([k, n], "kn") };
    let (x, y) = (b.input("x", TensorType::f32(lhs)), b.input("y", TensorType::f32(rhs)));
    let bias = b.input("bias", TensorType::f32([n]));
    let words: Vec<&str> = words.collect();
    let has = |word: &str| words.contains(&word);
    let (x, y) = (if has("tanh") { x.tanh() } else { x }, if mixed { y.tanh() } else { y });
    let product = x.contract(&format!("{lhs_axes},{rhs_axes}->mn"), y);
    b.output("out", if has("gelu") { (product + bias).gelu(GeluForm::Erf) } else { product });
    prepared(b.finish().expect("a graph"), mixed)
}

fn prepared(graph: Graph, mixed: bool) -> Graph {
    let mut passes = vec![Pass::Expand, Pass::Simplify, Pass::SplitReduce, Pass::Simplify];
    passes.extend(mixed.then_some(Pass::Precision));
    Pipeline::new(passes).run(graph).expect("passes run").graph
}

struct Gpu {
    device: wgpu::Device,
    queue: wgpu::Queue,
    caps: Caps,
    queries: wgpu::QuerySet,
    resolved: wgpu::Buffer,
    read: wgpu::Buffer,
}

/// One dispatch.
struct Launch {
    pipeline: wgpu::ComputePipeline,
    group: wgpu::BindGroup,
    workgroups: [u32; 3],
}

impl Gpu {
    fn open(mixed: bool) -> Gpu {
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
        let options = wgpu::RequestAdapterOptions {
            power_preference: wgpu::PowerPreference::HighPerformance,
            ..Default::default()
        };
        let adapter = pollster::block_on(instance.request_adapter(&options)).expect("a GPU adapter");
        let (info, limits) = (adapter.get_info(), adapter.limits());
        eprintln!("adapter: {} ({:?}, {})", info.name, info.device_type, info.driver_info);
        let mut required_features = wgpu::Features::TIMESTAMP_QUERY | (adapter.features() & wgpu::Features::SUBGROUP);
        let mut experimental_features = wgpu::ExperimentalFeatures::disabled();
        if mixed {
            required_features |= wgpu::Features::SHADER_F16 | wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX;
            // SAFETY: of what is experimental only cooperative matrices are used, by kernels that keep to the forms that naga takes.
            experimental_features = unsafe { wgpu::ExperimentalFeatures::enabled() };
        }
        let descriptor = wgpu::DeviceDescriptor {
            required_features,
            experimental_features,
            required_limits: limits.clone(),
            memory_hints: wgpu::MemoryHints::Performance,
            ..Default::default()
        };
        let (device, queue) =
            pollster::block_on(adapter.request_device(&descriptor)).expect("a device with timestamps");
        let subgroups = adapter.features().contains(wgpu::Features::SUBGROUP);
        let caps = Caps {
            subgroups: subgroups.then_some((info.subgroup_min_size, info.subgroup_max_size)),
            workgroup_bytes: limits.max_compute_workgroup_storage_size,
            max_invocations: limits.max_compute_invocations_per_workgroup,
            max_workgroup_size: [
                limits.max_compute_workgroup_size_x,
                limits.max_compute_workgroup_size_y,
                limits.max_compute_workgroup_size_z,
            ],
            max_storage_buffers: limits.max_storage_buffers_per_shader_stage.min(32),
            max_binding_bytes: limits.max_storage_buffer_binding_size,
            max_workgroups: limits.max_compute_workgroups_per_dimension,
            offset_alignment: limits.min_storage_buffer_offset_alignment,
            overlapping_writes: true,
            f16: mixed,
            cooperative: mixed.then_some(info.subgroup_max_size),
        };
        let queries = device.create_query_set(&wgpu::QuerySetDescriptor {
            label: None,
            ty: wgpu::QueryType::Timestamp,
            count: 2,
        });
        let stamps = |usage| {
            let descriptor = wgpu::BufferDescriptor { label: None, size: 16, usage, mapped_at_creation: false };
            device.create_buffer(&descriptor)
        };
        let resolved = stamps(wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC);
        let read = stamps(wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST);
        Gpu { device, queue, caps, queries, resolved, read }
    }

    fn buffer(&self, bytes: u64) -> wgpu::Buffer {
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST;
        let size = bytes.next_multiple_of(16).max(16);
        self.device.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false })
    }

    /// The program's allocations. Those of less than 64 MiB hold values of either sign below 1, as f32 and as f16, so that products do not multiply
    /// zeros, which takes less power.
    fn units(&self, program: &Program) -> HashMap<Unit, wgpu::Buffer> {
        let own = program.buffers.iter().filter(|(_, b)| b.place == Place::Own);
        let own = own.map(|(id, b)| (StorageUnit::Own(id), b.bytes()));
        let slots = program.memory.slots.iter().enumerate().map(|(at, n)| (StorageUnit::Slot(at as u32), *n));
        let packs = program.memory.packs.iter().enumerate().map(|(at, n)| (StorageUnit::Pack(at as u32), *n));
        let filled = |(unit, bytes): (StorageUnit, usize)| {
            let buffer = self.buffer(bytes as u64);
            if bytes < 64 << 20 {
                let word = |i: usize| (0x3d00 + i * 7919 % 0x0200 + (i * 31 % 3 % 2) * 0x8000) as u32 * 0x0001_0001;
                let words: Vec<u8> = (0..bytes / 4).flat_map(|i| word(i).to_le_bytes()).collect();
                self.queue.write_buffer(&buffer, 0, &words);
            }
            (Unit::Storage(unit), buffer)
        };
        own.chain(slots).chain(packs).map(filled).collect()
    }

    /// Times the choices of a bundle and prints them.
    fn race(&self, bundle: &Bundle, choices: &[Choice], units: &HashMap<Unit, wgpu::Buffer>) {
        let make = &|choice: &Choice| match bundle.emit(&self.caps, choice) {
            Ok(modules) => {
                let start = Instant::now();
                let launches = modules.iter().flat_map(|m| self.launches(m, units)).collect::<Vec<_>>();
                Some((launches, start.elapsed().as_secs_f64()))
            }
            Err(e) => {
                println!("  {choice}: {e}");
                None
            }
        };
        // Drivers take up to a second to compile one.
        let all: Vec<Option<(Vec<Launch>, f64)>> = std::thread::scope(|scope| {
            let threads: Vec<_> = choices.iter().map(|choice| scope.spawn(move || make(choice))).collect();
            threads.into_iter().map(|t| t.join().expect("a pipeline")).collect()
        });
        let mut times: Vec<(f64, String)> = Vec::new();
        for (choice, launches) in choices.iter().zip(all) {
            let Some((launches, compiling)) = launches else { continue };
            // While the choices were compiled the device was idle.
            let (start, busy) = (Instant::now(), if times.is_empty() { WARM_UP } else { BUSY });
            let mut us = self.time(&launches, 1);
            while start.elapsed().as_secs_f64() < busy {
                us = self.time(&launches, 10) / 10.0;
            }
            let repeats = (RUN / us).clamp(1.0, 400.0) as u32;
            let mut runs: Vec<f64> = (0..RUNS).map(|_| self.time(&launches, repeats) / f64::from(repeats)).collect();
            runs.sort_by(f64::total_cmp);
            let groups: Vec<u32> = launches.iter().map(|l| l.workgroups[0]).collect();
            times.push((runs[RUNS / 2], format!("{choice} {groups:?}, compiled in {compiling:.1} s")));
        }
        times.sort_by(|a, b| a.0.total_cmp(&b.0));
        times.iter().for_each(|(us, choice)| println!("  {us:8.2} {choice}"));
    }

    fn launches(&self, module: &Module, units: &HashMap<Unit, wgpu::Buffer>) -> Vec<Launch> {
        let source = wgpu::ShaderSource::Wgsl(module.source(Dialect::Naga).into());
        let descriptor = wgpu::ShaderModuleDescriptor { label: Some(&module.name), source };
        // SAFETY: every loop of an emitted module ends, and every access lies in its binding, given a program that the verifier proved.
        let shader =
            unsafe { self.device.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked()) };
        let entry = |(b, binding): (&tinygpt_codegen_wgsl::Binding, u32)| wgpu::BindGroupLayoutEntry {
            binding,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer {
                ty: wgpu::BufferBindingType::Storage { read_only: !b.write },
                has_dynamic_offset: false,
                min_binding_size: None,
            },
            count: None,
        };
        let entries: Vec<_> = module.bindings.iter().zip(0..).map(entry).collect();
        let layout =
            self.device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: None, entries: &entries });
        let scratch = self.buffer(module.scratch_bytes);
        let table = self.buffer(4 * module.table.len() as u64);
        let words: Vec<u8> = module.table.iter().flat_map(|w| w.to_le_bytes()).collect();
        self.queue.write_buffer(&table, 0, &words);
        let buffer = |unit: Unit| match unit {
            Unit::Scratch => &scratch,
            Unit::Table => &table,
            unit => &units[&unit],
        };
        let bound = module.bindings.iter().zip(0..).map(|(b, binding)| wgpu::BindGroupEntry {
            binding,
            resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                buffer: buffer(b.unit),
                offset: b.offset,
                size: std::num::NonZero::new(b.size),
            }),
        });
        let bound: Vec<_> = bound.collect();
        let group =
            self.device.create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout: &layout, entries: &bound });
        let pipeline_layout = self.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: None,
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        let launch = |d: &tinygpt_codegen_wgsl::Dispatch| Launch {
            pipeline: self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(&d.entry),
                layout: Some(&pipeline_layout),
                module: &shader,
                entry_point: Some(&d.entry),
                compilation_options: wgpu::PipelineCompilationOptions {
                    zero_initialize_workgroup_memory: false,
                    ..Default::default()
                },
                cache: None,
            }),
            group: group.clone(),
            workgroups: d.workgroups,
        };
        module.dispatches.iter().map(launch).collect()
    }

    /// Microseconds that the device takes for the launches, one after the other, `repeats` times.
    fn time(&self, launches: &[Launch], repeats: u32) -> f64 {
        let mut encoder = self.device.create_command_encoder(&Default::default());
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                label: None,
                timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
                    query_set: &self.queries,
                    beginning_of_pass_write_index: Some(0),
                    end_of_pass_write_index: Some(1),
                }),
            });
            for launch in (0..repeats).flat_map(|_| launches) {
                pass.set_pipeline(&launch.pipeline);
                pass.set_bind_group(0, &launch.group, &[]);
                let [x, y, z] = launch.workgroups;
                pass.dispatch_workgroups(x, y, z);
            }
        }
        encoder.resolve_query_set(&self.queries, 0..2, &self.resolved, 0);
        encoder.copy_buffer_to_buffer(&self.resolved, 0, &self.read, 0, 16);
        self.queue.submit([encoder.finish()]);
        self.read.map_async(wgpu::MapMode::Read, .., |r| r.expect("timestamps"));
        self.device.poll(wgpu::PollType::wait_indefinitely()).expect("the device to finish");
        let stamps: Vec<u64> = bytemuck::pod_collect_to_vec(&self.read.get_mapped_range(..).expect("timestamps"));
        self.read.unmap();
        (stamps[1] - stamps[0]) as f64 * f64::from(self.queue.get_timestamp_period()) / 1e3
    }
}
