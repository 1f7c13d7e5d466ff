//! The GPU executor: a program's buffers and launches on one device.
//!
//! Invariants
//! - Everything is made by [`GpuExecutor::new`]; `write`, `read_into`, `submit` and `take` make no buffer, pipeline or bind group.
//! - A step is one submission. Writes go in between in the order of the calls, so inputs may be overwritten while steps are under way.
//! - Small outputs (loss, gradient norm) come back through a ring and wait for their own step only; any other read waits for all.
//! - A device with a fault stays unusable: every later call returns the fault.

use std::collections::HashMap;
use std::sync::Arc;

use tinygpt_ir::program::{BufferId, KernelId, Place, Program};

use super::binder::{self, Launch, Units};
use super::build;
use super::clock;
use super::device::Gpu;
use super::ring::{DEPTH, Ring, SMALL_BYTES};
use crate::cpu::slots_of;
use crate::executor::{Executor, MemoryReport, Role, Slots, Timeline};
use crate::tensor::{DType, HostData, HostTensor};
use crate::{Error, Result};

pub use super::build::GpuCounters;

/// Most bytes of the buffer through which large values are read: they come in parts.
const READ_BYTES: usize = 16 << 20;

/// Where a slot lies on the device.
struct Home {
    buffer: wgpu::Buffer,
    offset: u64,
    /// Bytes on the device, a multiple of 4.
    bytes: usize,
    /// Its number in the ring, if it is a small output.
    small: Option<usize>,
}

/// Runs a program on a GPU.
pub struct GpuExecutor {
    gpu: Arc<Gpu>,
    program: Arc<Program>,
    slots: Slots,
    /// By slot.
    homes: Vec<Home>,
    /// With the kernels that they belong to.
    launches: Vec<(Vec<KernelId>, Launch)>,
    ring: Ring,
    /// Through which large values are read.
    readback: wgpu::Buffer,
    readback_bytes: usize,
    /// Host bytes of values whose device form differs: truth values, odd numbers of halves.
    words: Vec<u8>,
    counters: GpuCounters,
}

impl GpuExecutor {
    /// Verifies and prepares `program`, which was compiled for [`Gpu::target`].
    ///
    /// # Errors
    /// A program that the verifier refuses or that was placed for another target; more memory than the device has; what its driver refuses.
    pub fn new(gpu: Arc<Gpu>, program: Arc<Program>) -> Result<GpuExecutor> {
        gpu.check()?;
        tinygpt_ir::program::verify(&program).map_err(|e| {
            Error::failed(format!("the program is invalid, which is a fault of tinygpt: {}", crate::error::one_line(e)))
        })?;
        let proved = !gpu.options().checked;
        let units = gpu.scoped(|| units(&gpu, &program))?;
        let (launches, mut counters) = build::program(&gpu, &program, &units, proved)?;
        counters.buffers += units.len();
        let (slots, buffers) = slots_of(&program)?;
        let (homes, smalls) = homes(&program, &units, &slots, &buffers);
        let largest = homes.iter().map(|h| h.bytes).max().unwrap_or(4);
        let readback_bytes = largest.clamp(4, READ_BYTES);
        let (ring, readback) = gpu.scoped(|| {
            let readback = gpu.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("readback"),
                size: readback_bytes as u64,
                usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            });
            Ok((Ring::new(&gpu, smalls), readback))
        })?;
        counters.buffers += 1 + ring.buffers();
        let reshaped = slots.iter().zip(&homes).filter(|(slot, _)| matches!(slot.dtype, DType::Bool | DType::F16));
        let words = vec![0; reshaped.map(|(_, home)| home.bytes).max().unwrap_or(0)];
        Ok(GpuExecutor { gpu, program, slots, homes, launches, ring, readback, readback_bytes, words, counters })
    }

    pub fn program(&self) -> &Program {
        &self.program
    }

    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// What it has made, and how often it has submitted, so far.
    pub fn counters(&self) -> GpuCounters {
        self.counters
    }

    /// Dispatches of a step.
    pub fn launches(&self) -> usize {
        self.launches.len()
    }

    fn submit_commands(&mut self, encoder: wgpu::CommandEncoder) -> wgpu::SubmissionIndex {
        self.counters.submits += 1;
        self.gpu.queue.submit([encoder.finish()])
    }

    /// Copies device bytes `from..` of a slot into `readback`, and hands them to `use_bytes`.
    fn read_part(&mut self, slot: usize, from: usize, bytes: usize, use_bytes: impl FnOnce(&[u8])) -> Result<()> {
        let mut encoder = self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let home = &self.homes[slot];
        let offset = home.offset + from as u64;
        encoder.copy_buffer_to_buffer(&home.buffer, offset, &self.readback, 0, bytes as u64);
        let submission = self.submit_commands(encoder);
        self.readback.map_async(wgpu::MapMode::Read, ..bytes as u64, |_| ());
        self.gpu.wait(Some(submission))?;
        let refused = |_| {
            let name = &self.slots[slot].name;
            Error::failed(format!("the GPU {} did not hand over {name}", self.gpu.report().name))
        };
        let view = self.readback.get_mapped_range(..bytes as u64).map_err(refused)?;
        use_bytes(&view);
        drop(view);
        self.readback.unmap();
        self.gpu.check()
    }
}

/// Makes the allocations of a program. wgpu's buffers start as zeros.
pub(super) fn units(gpu: &Gpu, program: &Program) -> Result<Units> {
    use tinygpt_ir::program::StorageUnit as Unit;
    let mut units = HashMap::new();
    for (id, buffer) in program.buffers.iter() {
        if let Place::Slab(_) = buffer.place {
            return Err(Error::input(format!(
                "program {} was placed in a slab, and a GPU runs programs placed in slots: compile it for the GPU",
                program.name
            )));
        }
        if buffer.place == Place::Own {
            let unit = (Unit::Own(id), binder::buffer(gpu, &buffer.label, buffer.bytes() as u64)?);
            units.extend([unit]);
        }
    }
    for (at, bytes) in program.memory.slots.iter().enumerate() {
        units.insert(Unit::Slot(at as u32), binder::buffer(gpu, &format!("slot {at}"), *bytes as u64)?);
    }
    for (at, bytes) in program.memory.packs.iter().enumerate() {
        units.insert(Unit::Pack(at as u32), binder::buffer(gpu, &format!("pack {at}"), *bytes as u64)?);
    }
    Ok(units)
}

/// Where each slot lies, and the small outputs in the order of the ring.
fn homes(
    program: &Program,
    units: &Units,
    slots: &Slots,
    buffers: &[BufferId],
) -> (Vec<Home>, Vec<(wgpu::Buffer, u64, usize)>) {
    let mut smalls = Vec::new();
    let homes = slots.iter().zip(buffers).map(|(slot, id)| {
        let (unit, offset) = program.storage(*id);
        let bytes = program.buffers[*id].bytes().next_multiple_of(4);
        let buffer = units[&unit].clone();
        let is_small = slot.role == Role::Output && (1..=SMALL_BYTES).contains(&bytes);
        let small = is_small.then(|| {
            smalls.push((buffer.clone(), offset as u64, bytes));
            smalls.len() - 1
        });
        Home { buffer, offset: offset as u64, bytes, small }
    });
    (homes.collect(), smalls)
}

impl Executor for GpuExecutor {
    fn backend(&self) -> &'static str {
        "gpu"
    }

    fn slots(&self) -> &Slots {
        &self.slots
    }

    fn memory(&self) -> MemoryReport {
        let own: usize = self.homes.iter().map(|h| h.bytes).sum();
        let states = self.slots.iter().zip(&self.homes).filter(|(s, _)| s.role == Role::State);
        MemoryReport {
            planned_bytes: own + self.program.memory.planned,
            lower_bound_bytes: own + self.program.memory.lower_bound,
            state_bytes: states.map(|(_, h)| h.bytes).sum(),
        }
    }

    fn write(&mut self, name: &str, value: &HostTensor) -> Result<()> {
        let at = self.slots.check_write(name, value)?;
        let Home { buffer, offset, bytes, .. } = &self.homes[at];
        if value.is_empty() {
            return Ok(());
        }
        let data = if value.dtype() == DType::Bool || value.bytes().len() < *bytes {
            pack(value, &mut self.words[..*bytes]);
            &self.words[..*bytes]
        } else {
            value.bytes()
        };
        self.gpu.queue.write_buffer(buffer, *offset, data);
        self.gpu.check()
    }

    fn clear(&mut self, names: &[String]) -> Result<()> {
        let mut encoder = self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        for name in names {
            let Home { buffer, offset, bytes, .. } = &self.homes[self.slots.find_writable(name)?];
            if *bytes > 0 {
                encoder.clear_buffer(buffer, *offset, Some(*bytes as u64));
            }
        }
        self.submit_commands(encoder);
        self.gpu.check()
    }

    fn read_into(&mut self, name: &str, value: &mut HostTensor) -> Result<()> {
        let at = self.slots.check_read(name, value)?;
        self.gpu.check()?;
        if value.is_empty() {
            return Ok(());
        }
        if let Some(small) = self.homes[at].small {
            self.ring.land_newest(&self.gpu)?;
            unpack(self.ring.newest(small), value, 0);
            return Ok(());
        }
        let total = self.homes[at].bytes;
        for from in (0..total).step_by(self.readback_bytes) {
            let bytes = self.readback_bytes.min(total - from);
            self.read_part(at, from, bytes, |part| unpack(part, value, from))?;
        }
        Ok(())
    }

    fn step(&mut self) -> Result<()> {
        if self.ring.under_way() > 0 {
            return Err(Error::input(
                "steps are under way whose results were not taken: take them before a single step",
            ));
        }
        self.submit()?;
        self.ring.take(&self.gpu)
    }

    fn step_clocked(&mut self) -> Result<Timeline> {
        self.gpu.check()?;
        if self.ring.under_way() > 0 {
            return Err(Error::input(
                "steps are under way whose results were not taken: take them before a clocked step",
            ));
        }
        self.counters.submits += 1;
        clock::run(&self.gpu, &self.launches)
    }

    fn depth(&self) -> usize {
        DEPTH
    }

    fn submit(&mut self) -> Result<()> {
        self.gpu.check()?;
        if self.ring.under_way() == DEPTH {
            return Err(Error::input(format!(
                "{DEPTH} steps are under way, which is the most: take the results of one first"
            )));
        }
        let mut encoder =
            self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("step") });
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            let mut last: Option<&wgpu::ComputePipeline> = None;
            for (_, launch) in &self.launches {
                if last != Some(&launch.pipeline) {
                    pass.set_pipeline(&launch.pipeline);
                    last = Some(&launch.pipeline);
                }
                pass.set_bind_group(0, &launch.group, &[]);
                let [x, y, z] = launch.workgroups;
                pass.dispatch_workgroups(x, y, z);
            }
        }
        self.ring.copy(&mut encoder);
        let submission = self.submit_commands(encoder);
        self.ring.submitted(submission);
        self.gpu.check()
    }

    fn take(&mut self, outputs: &mut [(&str, &mut HostTensor)]) -> Result<()> {
        for (name, value) in outputs.iter() {
            let at = self.slots.check_read(name, value)?;
            if self.homes[at].small.is_none() {
                return Err(Error::input(format!(
                    "{name} does not come back with a step, only outputs of at most {SMALL_BYTES} bytes do: read it instead"
                )));
            }
        }
        self.ring.take(&self.gpu)?;
        for (name, value) in outputs {
            let at = self.slots.find(name)?;
            if let Some(small) = self.homes[at].small {
                unpack(self.ring.last_taken(small), value, 0);
            }
        }
        Ok(())
    }
}

/// Device bytes of a value: truth values take four, and the rest is padded with zeros.
fn pack(value: &HostTensor, to: &mut [u8]) {
    to.fill(0);
    if value.dtype() == DType::Bool {
        to.chunks_exact_mut(4).zip(value.bytes()).for_each(|(to, x)| to[0] = u8::from(*x != 0));
    } else {
        to[..value.bytes().len()].copy_from_slice(value.bytes());
    }
}

/// Puts device bytes, whose first is byte `from` (a multiple of 4) of the value's device form, into the value.
fn unpack(part: &[u8], value: &mut HostTensor, from: usize) {
    let to: &mut [u8] = match value.data_mut() {
        HostData::Bool(v) => {
            v[from / 4..].iter_mut().zip(part.chunks_exact(4)).for_each(|(to, word)| *to = word[0] != 0);
            return;
        }
        HostData::F32(v) => bytemuck::cast_slice_mut(v),
        HostData::F16(v) => bytemuck::cast_slice_mut(v),
        HostData::I32(v) => bytemuck::cast_slice_mut(v),
        HostData::U32(v) => bytemuck::cast_slice_mut(v),
    };
    let to = &mut to[from..];
    let bytes = to.len().min(part.len());
    to[..bytes].copy_from_slice(&part[..bytes]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truth_values_and_odd_halves_cross_the_border() {
        let bools = HostTensor::bool(&[3], vec![true, false, true]).unwrap();
        let mut words = [9; 12];
        pack(&bools, &mut words);
        assert_eq!(words, [1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
        let mut back = HostTensor::bool(&[3], vec![false; 3]).unwrap();
        unpack(&words[..4], &mut back, 0);
        unpack(&words[4..], &mut back, 4);
        assert_eq!(back, bools);
        let halves = HostTensor::f16_bits(&[3], vec![1, 2, 3]).unwrap();
        let mut words = [9; 8];
        pack(&halves, &mut words);
        let mut back = HostTensor::f16_bits(&[3], vec![0; 3]).unwrap();
        unpack(&words[..4], &mut back, 0);
        unpack(&words[4..], &mut back, 4);
        assert_eq!((back, words[6..].to_vec()), (halves, vec![0, 0]));
    }
}
