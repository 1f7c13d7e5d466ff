//! A tiny runner of modules over wgpu: a buffer a unit, one submit a module.

use std::collections::HashMap;
use std::sync::OnceLock;
use tinygpt_codegen_wgsl::{Caps, Dialect, Module, Unit};

pub struct Gpu {
    pub device: wgpu::Device,
    pub queue: wgpu::Queue,
    pub caps: Caps,
}

/// The adapter; None, with a line that says so, where there is none. With TINYGPT_REQUIRE_GPU=1 there must be one.
pub fn gpu() -> Option<&'static Gpu> {
    static GPU: OnceLock<Option<Gpu>> = OnceLock::new();
    let found = GPU.get_or_init(open).as_ref();
    if found.is_none() {
        assert!(std::env::var("TINYGPT_REQUIRE_GPU").as_deref() != Ok("1"), "TINYGPT_REQUIRE_GPU=1 and no GPU adapter");
        println!("skipped: no GPU adapter");
    }
    found
}

fn open() -> Option<Gpu> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapter = pollster::block_on(instance.request_adapter(&Default::default())).ok()?;
    let (info, limits, features) = (adapter.get_info(), adapter.limits(), adapter.features());
    println!("adapter: {} ({:?}, {})", info.name, info.device_type, info.driver_info);
    let matrices = wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX;
    let wanted = features & (wgpu::Features::SUBGROUP | wgpu::Features::SHADER_F16 | matrices);
    // SAFETY: of what is experimental only cooperative matrices are used, in modules that naga has approved.
    let experimental = unsafe { wgpu::ExperimentalFeatures::enabled() };
    let descriptor = wgpu::DeviceDescriptor {
        required_features: wanted,
        required_limits: limits.clone(),
        experimental_features: if wanted.contains(matrices) { experimental } else { Default::default() },
        ..Default::default()
    };
    let (device, queue) = pollster::block_on(adapter.request_device(&descriptor)).ok()?;
    let caps = Caps {
        subgroups: wanted
            .contains(wgpu::Features::SUBGROUP)
            .then_some((info.subgroup_min_size, info.subgroup_max_size)),
        f16: wanted.contains(wgpu::Features::SHADER_F16),
        cooperative: (wanted.contains(matrices | wgpu::Features::SHADER_F16)
            && info.subgroup_min_size == info.subgroup_max_size)
            .then_some(info.subgroup_max_size),
        workgroup_bytes: limits.max_compute_workgroup_storage_size,
        max_invocations: limits.max_compute_invocations_per_workgroup,
        max_workgroup_size: [
            limits.max_compute_workgroup_size_x,
            limits.max_compute_workgroup_size_y,
            limits.max_compute_workgroup_size_z,
        ],
        max_storage_buffers: limits.max_storage_buffers_per_shader_stage,
        max_binding_bytes: limits.max_storage_buffer_binding_size,
        max_workgroups: limits.max_compute_workgroups_per_dimension,
        offset_alignment: limits.min_storage_buffer_offset_alignment,
        overlapping_writes: true,
    };
    Some(Gpu { device, queue, caps })
}

impl Gpu {
    /// A storage buffer with these words.
    pub fn buffer(&self, words: &[u32]) -> wgpu::Buffer {
        let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: (4 * words.len() as u64).max(16),
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        self.queue.write_buffer(&buffer, 0, bytemuck::cast_slice(words));
        buffer
    }

    pub fn read(&self, buffer: &wgpu::Buffer) -> Vec<u32> {
        let staging = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: buffer.size(),
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let mut encoder = self.device.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(buffer, 0, &staging, 0, buffer.size());
        self.queue.submit([encoder.finish()]);
        staging.map_async(wgpu::MapMode::Read, .., |r| r.unwrap());
        self.device.poll(wgpu::PollType::wait_indefinitely()).unwrap();
        let view = staging.get_mapped_range(..).unwrap();
        bytemuck::pod_collect_to_vec(&view)
    }

    /// Runs every dispatch of `module` on the buffers of the program's units.
    pub fn run(&self, module: &Module, units: &HashMap<Unit, wgpu::Buffer>) {
        let source = wgpu::ShaderSource::Wgsl(module.source(Dialect::Naga).into());
        let descriptor = wgpu::ShaderModuleDescriptor { label: Some(&module.name), source };
        let checks = wgpu::ShaderRuntimeChecks { force_loop_bounding: false, ..wgpu::ShaderRuntimeChecks::checked() };
        // SAFETY: every loop of an emitted module ends; bounds checks stay on.
        let shader = unsafe { self.device.create_shader_module_trusted(descriptor, checks) };
        let entry = |(i, b): (usize, &tinygpt_codegen_wgsl::Binding)| wgpu::BindGroupLayoutEntry {
            binding: i as u32,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer {
                ty: wgpu::BufferBindingType::Storage { read_only: !b.write },
                has_dynamic_offset: false,
                min_binding_size: None,
            },
            count: None,
        };
        let entries: Vec<_> = module.bindings.iter().enumerate().map(entry).collect();
        let layout =
            self.device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: None, entries: &entries });
        // Scratch holds garbage.
        let scratch = self.buffer(&vec![0x7fc0_1234; (module.scratch_bytes / 4) as usize + 1]);
        let table = self.buffer(&module.table);
        let resource = |b: &tinygpt_codegen_wgsl::Binding| wgpu::BufferBinding {
            buffer: match b.unit {
                Unit::Scratch => &scratch,
                Unit::Table => &table,
                unit => &units[&unit],
            },
            offset: b.offset,
            size: std::num::NonZero::new(b.size),
        };
        let bound: Vec<_> = module
            .bindings
            .iter()
            .enumerate()
            .map(|(i, b)| wgpu::BindGroupEntry {
                binding: i as u32,
                resource: wgpu::BindingResource::Buffer(resource(b)),
            })
            .collect();
        let group =
            self.device.create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout: &layout, entries: &bound });
        let pipeline_layout = self.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: None,
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        let mut encoder = self.device.create_command_encoder(&Default::default());
        for d in &module.dispatches {
            let pipeline = self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(&d.entry),
                layout: Some(&pipeline_layout),
                module: &shader,
                entry_point: Some(&d.entry),
                compilation_options: wgpu::PipelineCompilationOptions {
                    zero_initialize_workgroup_memory: false,
                    ..Default::default()
                },
                cache: None,
            });
            let mut pass = encoder.begin_compute_pass(&Default::default());
            pass.set_pipeline(&pipeline);
            pass.set_bind_group(0, &group, &[]);
            let [x, y, z] = d.workgroups;
            pass.dispatch_workgroups(x, y, z);
        }
        self.queue.submit([encoder.finish()]);
    }
}
