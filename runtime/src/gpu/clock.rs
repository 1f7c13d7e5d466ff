//! A step with the device's clock read before and after every dispatch.
//!
//! Each dispatch has a pass of its own, with timestamps at its beginning and end: so a clocked step takes longer than one without, and the profile
//! shows both. Times are the device's; the step's time is the host's, from submission to completion.

use std::time::Instant;

use tinygpt_ir::program::KernelId;

use super::binder::Launch;
use super::device::Gpu;
use crate::executor::{Region, Timeline};
use crate::{Error, Result};

/// Most timestamps of a query set (WebGPU, "GPUQuerySetDescriptor": count at most 4096).
const SET: usize = 4096;

/// Runs the launches once, in order. Errors: the device has no timestamps, or gives none that rise.
pub(super) fn run(gpu: &Gpu, launches: &[(Vec<KernelId>, Launch)]) -> Result<Timeline> {
    let device = &gpu.device;
    let refused =
        |what: &str| Error::failed(format!("the GPU {} {what}, so steps cannot be profiled on it", gpu.report().name));
    if !device.features().contains(wgpu::Features::TIMESTAMP_QUERY) {
        return Err(refused("has no timestamps (feature timestamp-query)"));
    }
    let stamps = 2 * launches.len();
    let bytes = (8 * stamps).max(8) as u64;
    use wgpu::BufferUsages as Usage;
    let (sets, resolved, read) = gpu.scoped(|| {
        let set = |at: usize| {
            device.create_query_set(&wgpu::QuerySetDescriptor {
                label: Some("timestamps"),
                ty: wgpu::QueryType::Timestamp,
                count: (stamps - at).min(SET) as u32,
            })
        };
        let buffer = |usage| {
            device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("timestamps"),
                size: bytes,
                usage,
                mapped_at_creation: false,
            })
        };
        let sets: Vec<wgpu::QuerySet> = (0..stamps).step_by(SET).map(set).collect();
        Ok((sets, buffer(Usage::QUERY_RESOLVE | Usage::COPY_SRC), buffer(Usage::MAP_READ | Usage::COPY_DST)))
    })?;
    let start = Instant::now();
    let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("clocked step") });
    for (at, (_, launch)) in launches.iter().enumerate() {
        let in_set = (2 * at % SET) as u32;
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
            label: None,
            timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
                query_set: &sets[2 * at / SET],
                beginning_of_pass_write_index: Some(in_set),
                end_of_pass_write_index: Some(in_set + 1),
            }),
        });
        pass.set_pipeline(&launch.pipeline);
        pass.set_bind_group(0, &launch.group, &[]);
        let [x, y, z] = launch.workgroups;
        pass.dispatch_workgroups(x, y, z);
    }
    for (at, set) in sets.iter().enumerate() {
        let count = (stamps - at * SET).min(SET) as u32;
        encoder.resolve_query_set(set, 0..count, &resolved, (8 * at * SET) as u64);
    }
    encoder.copy_buffer_to_buffer(&resolved, 0, &read, 0, bytes);
    let submission = gpu.queue.submit([encoder.finish()]);
    read.map_async(wgpu::MapMode::Read, .., |_| ());
    gpu.wait(Some(submission))?;
    let step_ns = start.elapsed().as_nanos() as u64;
    gpu.check()?;
    let view = read.get_mapped_range(..).map_err(|_| refused("did not hand over its timestamps"))?;
    let ticks: Vec<u64> = view.chunks_exact(8).map(|b| b.iter().rev().fold(0, |x, b| x << 8 | u64::from(*b))).collect();
    drop(view);
    read.unmap();
    let ns_per_tick = f64::from(gpu.queue.get_timestamp_period());
    let first = ticks.first().copied().unwrap_or(0);
    let ns = |tick: u64| tick.checked_sub(first).map(|ticks| (ticks as f64 * ns_per_tick) as u64);
    let regions =
        launches.iter().zip(ticks.chunks_exact(2)).map(|((kernels, _), pair)| match (ns(pair[0]), ns(pair[1])) {
            (Some(start_ns), Some(end_ns)) if start_ns <= end_ns => {
                Ok(Region { kernel: kernels[0], track: 0, start_ns, end_ns })
            }
            _ => Err(refused("has timestamps that run backwards")),
        });
    let mut together: Vec<Vec<KernelId>> = launches.iter().map(|(kernels, _)| kernels.clone()).collect();
    together.retain(|kernels| kernels.len() > 1);
    together.dedup();
    Ok(Timeline { tracks: 1, step_ns, regions: regions.collect::<Result<_>>()?, together })
}
