//! Small results on their way back: a ring of mapped buffers, one a step in flight.
//!
//! The step's command buffer ends with copies of its small outputs into a buffer of the ring, which is mapped as soon as the device has
//! written it. So reading the loss of a step waits for that step alone, while later ones run.
//!
//! Invariants
//! - An entry is free, under way (submitted, perhaps mapped already) or landed (its bytes on the host, its buffer unmapped).
//! - Entries are used in turn, so the newest landed bytes stay readable until as many steps as the ring has entries were submitted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use super::device::Gpu;
use crate::{Error, Result};

/// Outputs of at most this many bytes come back with the step.
pub(super) const SMALL_BYTES: usize = 256;

/// Steps that may be under way. The host needs to be one ahead of the device; more would hide a failure for longer.
pub(super) const DEPTH: usize = 3;

/// State of a mapping, written by its callback.
const WAITING: u8 = 0;
const MAPPED: u8 = 1;
const REFUSED: u8 = 2;

/// An output that comes back with each step.
pub(super) struct Small {
    pub source: wgpu::Buffer,
    pub offset: u64,
    pub bytes: usize,
    /// First byte in an entry.
    at: usize,
}

struct Entry {
    staging: Option<wgpu::Buffer>,
    mapping: Arc<AtomicU8>,
    submission: Option<wgpu::SubmissionIndex>,
    landed: Vec<u8>,
}

pub(super) struct Ring {
    smalls: Vec<Small>,
    entries: Vec<Entry>,
    /// Steps submitted.
    submitted: usize,
    /// Steps whose results were taken.
    taken: usize,
}

impl Ring {
    /// For these outputs: source, first byte there, bytes (a multiple of 4).
    pub fn new(gpu: &Gpu, outputs: impl IntoIterator<Item = (wgpu::Buffer, u64, usize)>) -> Ring {
        let mut bytes = 0;
        let mut smalls = Vec::new();
        for (source, offset, len) in outputs {
            smalls.push(Small { source, offset, bytes: len, at: bytes });
            bytes += len;
        }
        let staging = || {
            gpu.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("results"),
                size: bytes as u64,
                usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            })
        };
        // One entry more than steps in flight, so that the last taken results stay readable while the ring is full.
        let entries = (0..=DEPTH).map(|_| Entry {
            staging: (bytes > 0).then(staging),
            mapping: Arc::new(AtomicU8::new(WAITING)),
            submission: None,
            landed: vec![0; bytes],
        });
        Ring { entries: entries.collect(), smalls, submitted: 0, taken: 0 }
    }

    /// Buffers it made.
    pub fn buffers(&self) -> usize {
        self.entries.iter().filter(|e| e.staging.is_some()).count()
    }

    pub fn under_way(&self) -> usize {
        self.submitted - self.taken
    }

    fn entry(&self, step: usize) -> usize {
        step % self.entries.len()
    }

    /// Records the copies of the step about to be submitted.
    pub fn copy(&self, encoder: &mut wgpu::CommandEncoder) {
        let entry = &self.entries[self.entry(self.submitted)];
        let Some(staging) = &entry.staging else { return };
        for small in &self.smalls {
            encoder.copy_buffer_to_buffer(&small.source, small.offset, staging, small.at as u64, small.bytes as u64);
        }
    }

    /// The step whose copies were recorded is submitted.
    pub fn submitted(&mut self, submission: wgpu::SubmissionIndex) {
        let at = self.entry(self.submitted);
        let entry = &mut self.entries[at];
        entry.submission = Some(submission);
        entry.mapping.store(WAITING, Ordering::Release);
        if let Some(staging) = &entry.staging {
            let mapping = Arc::clone(&entry.mapping);
            staging.map_async(wgpu::MapMode::Read, .., move |outcome| {
                mapping.store(if outcome.is_ok() { MAPPED } else { REFUSED }, Ordering::Release);
            });
        }
        self.submitted += 1;
    }

    /// Waits for the oldest step under way; its results are the ones that [`Ring::taken`] gives.
    pub fn take(&mut self, gpu: &Gpu) -> Result<()> {
        if self.under_way() == 0 {
            return Err(Error::input("no step is under way, so there are no results to take: submit one first"));
        }
        self.land(gpu, self.taken)?;
        self.taken += 1;
        Ok(())
    }

    /// Waits for the last submitted step, which stays to be taken.
    pub fn land_newest(&mut self, gpu: &Gpu) -> Result<()> {
        if self.submitted == 0 { Ok(()) } else { self.land(gpu, self.submitted - 1) }
    }

    fn land(&mut self, gpu: &Gpu, step: usize) -> Result<()> {
        let at = self.entry(step);
        let entry = &mut self.entries[at];
        let Some(submission) = entry.submission.take() else { return Ok(()) };
        gpu.wait(Some(submission))?;
        let Some(staging) = &entry.staging else { return Ok(()) };
        let unmapped = || Error::failed(format!("the GPU {} did not hand over a step's results", gpu.report().name));
        if entry.mapping.load(Ordering::Acquire) != MAPPED {
            return Err(unmapped());
        }
        entry.landed.copy_from_slice(&staging.get_mapped_range(..).map_err(|_| unmapped())?);
        staging.unmap();
        gpu.check()
    }

    /// Bytes of small output `small` of the step taken last.
    pub fn last_taken(&self, small: usize) -> &[u8] {
        self.bytes(self.taken, small)
    }

    /// Bytes of small output `small` of the step submitted last, which has landed; zeros before the first.
    pub fn newest(&self, small: usize) -> &[u8] {
        self.bytes(self.submitted, small)
    }

    /// After `steps` steps.
    fn bytes(&self, steps: usize, small: usize) -> &[u8] {
        let entry = &self.entries[self.entry(steps + self.entries.len() - 1)];
        let Small { at, bytes, .. } = self.smalls[small];
        &entry.landed[at..at + bytes]
    }
}
