//! A step with the device's clock read before and after every dispatch.
//!
//! Each dispatch has a pass of its own: so a clocked step takes longer than one without clocks, and the profile shows both. Times are the device's; the
//! step's time is the host's, from submission to completion.

use std::time::Instant;

use tinygpt_ir::program::KernelId;

use super::binder::Launch;
use super::device::Gpu;
use super::stamps::{Span, Stamps};
use crate::executor::{Region, Timeline};
use crate::{Error, Result};

/// Runs the launches once, in order. Errors: the device has no timestamps, or gives none that rise.
pub(super) fn run(gpu: &Gpu, launches: &[(Vec<KernelId>, Launch)]) -> Result<Timeline> {
    let refused =
        |what: &str| Error::failed(format!("the GPU {} {what}, so steps cannot be profiled on it", gpu.report().name));
    let stamps = Stamps::new(gpu, launches.len())?;
    let stamps = stamps.ok_or_else(|| refused("has no timestamps (feature timestamp-query)"))?;
    let passes: Vec<&[Launch]> = launches.iter().map(|(_, launch)| std::slice::from_ref(launch)).collect();
    let start = Instant::now();
    let spans = stamps.run(gpu, &passes)?.ok_or_else(|| refused("has timestamps that run backwards"))?;
    let step_ns = start.elapsed().as_nanos() as u64;
    let region = |((kernels, _), span): (&(Vec<KernelId>, Launch), Span)| Region {
        kernel: kernels[0],
        track: 0,
        start_ns: span.start_ns as u64,
        end_ns: span.end_ns as u64,
    };
    let mut together: Vec<Vec<KernelId>> = launches.iter().map(|(kernels, _)| kernels.clone()).collect();
    together.retain(|kernels| kernels.len() > 1);
    together.dedup();
    Ok(Timeline { tracks: 1, step_ns, regions: launches.iter().zip(spans).map(region).collect(), together })
}
