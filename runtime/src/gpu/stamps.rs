//! Passes with the device's clock read before and after each (WebGPU, "GPUComputePassTimestampWrites").

use super::binder::Launch;
use super::device::Gpu;
use crate::{Error, Result};

/// Most timestamps of a query set (WebGPU, "GPUQuerySetDescriptor": count at most 4096).
const SET: usize = 4096;

/// Room for the timestamps of so many passes.
pub(super) struct Stamps {
    sets: Vec<wgpu::QuerySet>,
    resolved: wgpu::Buffer,
    read: wgpu::Buffer,
    passes: usize,
    ns_per_tick: f64,
}

/// When a pass began and ended, in nanoseconds of the device's clock since the first pass began.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Span {
    pub start_ns: f64,
    pub end_ns: f64,
}

impl Span {
    pub fn seconds(&self) -> f64 {
        1e-9 * (self.end_ns - self.start_ns)
    }
}

impl Stamps {
    /// None where the device has no timestamps.
    pub fn new(gpu: &Gpu, passes: usize) -> Result<Option<Stamps>> {
        if !gpu.has_timestamps() {
            return Ok(None);
        }
        use wgpu::BufferUsages as Usage;
        let stamps = 2 * passes;
        gpu.scoped(|| {
            let set = |at: usize| {
                gpu.device.create_query_set(&wgpu::QuerySetDescriptor {
                    label: Some("timestamps"),
                    ty: wgpu::QueryType::Timestamp,
                    count: (stamps - at).min(SET) as u32,
                })
            };
            let buffer = |usage| {
                gpu.device.create_buffer(&wgpu::BufferDescriptor {
                    label: Some("timestamps"),
                    size: (8 * stamps).max(8) as u64,
                    usage,
                    mapped_at_creation: false,
                })
            };
            Ok(Some(Stamps {
                sets: (0..stamps).step_by(SET).map(set).collect(),
                resolved: buffer(Usage::QUERY_RESOLVE | Usage::COPY_SRC),
                read: buffer(Usage::MAP_READ | Usage::COPY_DST),
                passes,
                ns_per_tick: f64::from(gpu.queue.get_timestamp_period()),
            }))
        })
    }

    /// Runs the launches of `passes`, which are as many as there is room for, a pass each, and waits for them. None where the clock runs backwards.
    pub fn run(&self, gpu: &Gpu, passes: &[&[Launch]]) -> Result<Option<Vec<Span>>> {
        assert_eq!(passes.len(), self.passes, "a pass has its own timestamps");
        let mut encoder =
            gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("clocked step") });
        for (at, launches) in passes.iter().enumerate() {
            let in_set = (2 * at % SET) as u32;
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                label: None,
                timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
                    query_set: &self.sets[2 * at / SET],
                    beginning_of_pass_write_index: Some(in_set),
                    end_of_pass_write_index: Some(in_set + 1),
                }),
            });
            for launch in *launches {
                pass.set_pipeline(&launch.pipeline);
                pass.set_bind_group(0, &launch.group, &[]);
                let [x, y, z] = launch.workgroups;
                pass.dispatch_workgroups(x, y, z);
            }
        }
        let stamps = 2 * self.passes;
        for (at, set) in self.sets.iter().enumerate() {
            let count = (stamps - at * SET).min(SET) as u32;
            encoder.resolve_query_set(set, 0..count, &self.resolved, (8 * at * SET) as u64);
        }
        encoder.copy_buffer_to_buffer(&self.resolved, 0, &self.read, 0, self.read.size());
        let submission = gpu.queue.submit([encoder.finish()]);
        self.read.map_async(wgpu::MapMode::Read, .., |_| ());
        gpu.wait(Some(submission))?;
        gpu.check()?;
        let refused = |_| Error::failed(format!("the GPU {} did not hand over its timestamps", gpu.report().name));
        let view = self.read.get_mapped_range(..).map_err(refused)?;
        let ticks: Vec<u64> =
            view.chunks_exact(8).map(|b| b.iter().rev().fold(0, |x, b| x << 8 | u64::from(*b))).collect();
        drop(view);
        self.read.unmap();
        let first = ticks.first().copied().unwrap_or(0);
        let ns = |tick: u64| Some(tick.checked_sub(first)? as f64 * self.ns_per_tick);
        let span = |pair: &[u64]| {
            let (start_ns, end_ns) = (ns(pair[0])?, ns(pair[1])?);
            (start_ns <= end_ns).then_some(Span { start_ns, end_ns })
        };
        Ok(ticks[..stamps].chunks_exact(2).map(span).collect())
    }
}
