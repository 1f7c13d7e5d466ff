//! The time of launches, run by themselves.

use std::time::{Duration, Instant};

use super::binder::Launch;
use super::device::Gpu;
use crate::{Error, Result};

/// Measures by the device's timestamps where it has them, and by the host's clock otherwise.
pub(super) struct Stopwatch {
    /// Queries, where they are resolved to, and where they are read.
    queries: Option<(wgpu::QuerySet, wgpu::Buffer, wgpu::Buffer)>,
    ns_per_tick: f64,
}

/// Bytes of two timestamps.
const STAMPS: u64 = 16;

impl Stopwatch {
    pub fn new(gpu: &Gpu) -> Stopwatch {
        let queries = gpu.device.features().contains(wgpu::Features::TIMESTAMP_QUERY).then(|| {
            use wgpu::BufferUsages as Usage;
            let buffer = |usage| {
                gpu.device.create_buffer(&wgpu::BufferDescriptor {
                    label: Some("timestamps"),
                    size: STAMPS,
                    usage,
                    mapped_at_creation: false,
                })
            };
            let set = gpu.device.create_query_set(&wgpu::QuerySetDescriptor {
                label: Some("timestamps"),
                ty: wgpu::QueryType::Timestamp,
                count: 2,
            });
            (set, buffer(Usage::QUERY_RESOLVE | Usage::COPY_SRC), buffer(Usage::MAP_READ | Usage::COPY_DST))
        });
        Stopwatch { queries, ns_per_tick: f64::from(gpu.queue.get_timestamp_period()) }
    }

    /// Whether it measures by the device's own clock.
    pub fn has_stamps(&self) -> bool {
        self.queries.is_some()
    }

    /// Time of `runs` runs of the launches.
    pub fn time(&self, gpu: &Gpu, launches: &[Launch], runs: u32) -> Result<Duration> {
        let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        {
            let stamps = self.queries.as_ref().map(|(set, ..)| wgpu::ComputePassTimestampWrites {
                query_set: set,
                beginning_of_pass_write_index: Some(0),
                end_of_pass_write_index: Some(1),
            });
            let mut pass =
                encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: None, timestamp_writes: stamps });
            for launch in (0..runs).flat_map(|_| launches) {
                pass.set_pipeline(&launch.pipeline);
                pass.set_bind_group(0, &launch.group, &[]);
                let [x, y, z] = launch.workgroups;
                pass.dispatch_workgroups(x, y, z);
            }
        }
        if let Some((set, resolved, read)) = &self.queries {
            encoder.resolve_query_set(set, 0..2, resolved, 0);
            encoder.copy_buffer_to_buffer(resolved, 0, read, 0, STAMPS);
        }
        let start = Instant::now();
        let submission = gpu.queue.submit([encoder.finish()]);
        let Some((.., read)) = &self.queries else {
            gpu.wait(Some(submission))?;
            return Ok(start.elapsed());
        };
        read.map_async(wgpu::MapMode::Read, .., |_| ());
        gpu.wait(Some(submission))?;
        let wall = start.elapsed();
        let refused = |_| Error::failed(format!("the GPU {} did not hand over its timestamps", gpu.report().name));
        let view = read.get_mapped_range(..).map_err(refused)?;
        let stamps: Vec<u64> =
            view.chunks_exact(8).map(|b| b.iter().rev().fold(0, |x, b| x << 8 | u64::from(*b))).collect();
        drop(view);
        read.unmap();
        // A driver whose stamps stand still or run backwards has none.
        Ok(match stamps[1].checked_sub(stamps[0]) {
            Some(ticks) if ticks > 0 => Duration::from_secs_f64(ticks as f64 * self.ns_per_tick * 1e-9),
            _ => wall,
        })
    }
}
