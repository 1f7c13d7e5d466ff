//! GPU adapters and the device that runs programs.
//!
//! Invariants
//! - An adapter that computes on the processor (llvmpipe, SwiftShader, WARP) is never taken for a GPU: it is chosen last, and everything
//!   that names it says that it is software.
//! - Whatever goes wrong on the device (refused call, no memory, lost device) becomes one [`Error`]; nothing here panics.
//!   Errors of calls made inside [`Gpu::scoped`] come back from there; all others are kept and come back from [`Gpu::check`].

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tinygpt_codegen_wgsl::Caps;
use tinygpt_ir::program::TargetModel;

use super::cooperate::{self, Cooperation};
use super::kept::Kept;
use super::tune::{self, Tuner};
use crate::config::Precision;
use crate::error::one_line;
use crate::{Error, Result};

/// Names that give software adapters away whatever device type their driver states.
const SOFTWARE_NAMES: [&str; 4] = ["llvmpipe", "swiftshader", "microsoft basic render", "warp"];

/// Features that are asked for wherever an adapter has them.
const WANTED: [(wgpu::Features, &str); 3] = [
    (wgpu::Features::SUBGROUP, "subgroups"),
    (wgpu::Features::SHADER_F16, "shader-f16"),
    (wgpu::Features::TIMESTAMP_QUERY, "timestamp-query"),
];

/// Bytes of values, as f32, that are kept in f16 for contractions: smaller ones gain nothing by it.
const LARGE_VALUE: usize = 1 << 20;

/// How the GPU backend is to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuOptions {
    /// Part of the adapter's name, in any case; None for the best there is.
    pub adapter: Option<String>,
    /// Compile bounds checks into the kernels.
    pub checked: bool,
    /// Time kernel variants that neither a plan nor the cache knows; without, nothing is kept on disk or read from there.
    pub tune: bool,
    /// Of contractions.
    pub precision: Precision,
}

impl Default for GpuOptions {
    fn default() -> Self {
        Self { adapter: None, checked: false, tune: true, precision: Precision::F32 }
    }
}

/// What is known of an adapter before it is opened.
#[derive(Debug, Clone)]
pub struct AdapterReport {
    pub name: String,
    /// vulkan, metal, dx12
    pub backend: String,
    /// discrete, integrated, virtual, software, other
    pub kind: &'static str,
    pub software: bool,
    pub driver: String,
    /// Those of the features that kernels use.
    pub features: Vec<&'static str>,
    pub caps: Caps,
}

/// An open device, shared by the executors that run on it.
pub struct Gpu {
    instance: wgpu::Instance,
    pub(super) device: wgpu::Device,
    pub(super) queue: wgpu::Queue,
    pub(super) tuner: Tuner,
    /// Where the system names a place for it and the adapter can.
    pub(super) kept: Option<Arc<Kept>>,
    report: AdapterReport,
    options: GpuOptions,
    /// Largest buffer in bytes.
    pub(super) max_buffer_bytes: u64,
    fault: Arc<Mutex<Option<Error>>>,
    /// In mixed precision.
    cooperation: Option<Cooperation>,
}

impl std::fmt::Debug for Gpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gpu")
            .field("adapter", &self.report.name)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// Every adapter of every backend of this machine.
pub fn adapters() -> Vec<AdapterReport> {
    found().1.iter().map(report).collect()
}

/// The adapter that `--adapter NAME` would open.
pub fn adapter(name: &str) -> Result<AdapterReport> {
    let mut reports = adapters();
    let at = choose(&reports, Some(name))?;
    Ok(reports.swap_remove(at))
}

fn found() -> (wgpu::Instance, Vec<wgpu::Adapter>) {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapters = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::all()));
    (instance, adapters)
}

fn report(adapter: &wgpu::Adapter) -> AdapterReport {
    let (info, features) = (adapter.get_info(), adapter.features());
    let software = is_software(&info);
    let driver = format!("{} {}", info.driver, info.driver_info);
    AdapterReport {
        backend: info.backend.to_string(),
        kind: kind(&info, software),
        software,
        driver: driver.trim().to_owned(),
        features: WANTED.iter().filter(|(feature, _)| features.contains(*feature)).map(|(_, name)| *name).collect(),
        caps: caps(&info, features, &adapter.limits()),
        name: info.name,
    }
}

fn is_software(info: &wgpu::AdapterInfo) -> bool {
    let name = info.name.to_lowercase();
    info.device_type == wgpu::DeviceType::Cpu || SOFTWARE_NAMES.iter().any(|known| name.contains(known))
}

fn kind(info: &wgpu::AdapterInfo, software: bool) -> &'static str {
    match info.device_type {
        _ if software => "software",
        wgpu::DeviceType::DiscreteGpu => "discrete",
        wgpu::DeviceType::IntegratedGpu => "integrated",
        wgpu::DeviceType::VirtualGpu => "virtual",
        wgpu::DeviceType::Cpu | wgpu::DeviceType::Other => "other",
    }
}

/// Better adapters have smaller ranks.
fn rank(report: &AdapterReport) -> usize {
    let order = ["discrete", "integrated", "virtual", "other", "software"];
    order.iter().position(|kind| *kind == report.kind).unwrap_or(order.len())
}

fn caps(info: &wgpu::AdapterInfo, features: wgpu::Features, limits: &wgpu::Limits) -> Caps {
    let subgroups = features.contains(wgpu::Features::SUBGROUP);
    Caps {
        subgroups: subgroups.then_some((info.subgroup_min_size, info.subgroup_max_size)),
        f16: features.contains(wgpu::Features::SHADER_F16),
        cooperative: None,
        workgroup_bytes: limits.max_compute_workgroup_storage_size,
        max_invocations: limits.max_compute_invocations_per_workgroup,
        max_workgroup_size: [
            limits.max_compute_workgroup_size_x,
            limits.max_compute_workgroup_size_y,
            limits.max_compute_workgroup_size_z,
        ],
        max_storage_buffers: limits.max_storage_buffers_per_shader_stage,
        max_binding_bytes: limits.max_storage_buffer_binding_size.min(limits.max_buffer_size),
        max_workgroups: limits.max_compute_workgroups_per_dimension,
        offset_alignment: limits.min_storage_buffer_offset_alignment,
        overlapping_writes: true,
    }
}

/// The adapter to open: the best of those whose names contain `wanted`.
fn choose(reports: &[AdapterReport], wanted: Option<&str>) -> Result<usize> {
    let names = || reports.iter().map(|r| r.name.as_str()).collect::<Vec<_>>().join(", ");
    let matches = |r: &AdapterReport| wanted.is_none_or(|w| r.name.to_lowercase().contains(&w.to_lowercase()));
    let best = reports.iter().enumerate().filter(|(_, r)| matches(r)).min_by_key(|(at, r)| (rank(r), *at));
    best.map(|(at, _)| at).ok_or_else(|| {
        Error::input(match wanted {
            Some(wanted) if !reports.is_empty() => {
                format!("no GPU adapter has \"{wanted}\" in its name: choose --adapter from {}", names())
            }
            _ => "no GPU adapter was found: install a Vulkan, Metal or DirectX 12 driver (on Debian, mesa-vulkan-drivers \
                  libvulkan1 is one in software), or run with --backend cpu"
                .to_owned(),
        })
    })
}

impl Gpu {
    /// Opens the adapter that `options` name, or the best there is.
    ///
    /// # Errors
    /// There is none, or its driver refuses.
    pub fn open(options: &GpuOptions) -> Result<Arc<Gpu>> {
        let start = Instant::now();
        let (instance, adapters) = found();
        let enumerated = start.elapsed();
        let reports: Vec<AdapterReport> = adapters.iter().map(report).collect();
        let at = choose(&reports, options.adapter.as_deref())?;
        let (adapter, report) = (&adapters[at], reports[at].clone());
        let wanted = WANTED.iter().fold(wgpu::Features::empty(), |all, (feature, _)| all | *feature);
        let limits = adapter.limits();
        let mixed = options.precision == Precision::Mixed;
        let matrices = if mixed { cooperate::subgroup(adapter) } else { None };
        let keeping = if options.tune { wgpu::Features::PIPELINE_CACHE } else { wgpu::Features::empty() };
        let mut required_features = adapter.features() & (wanted | keeping);
        let mut experimental_features = wgpu::ExperimentalFeatures::disabled();
        if matrices.is_some() {
            required_features |= wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX;
            // SAFETY: of what is experimental only cooperative matrices are used, by kernels that keep to the forms that naga's SPIR-V writer
            // supports, and only after their products have been compared with plain arithmetic on this device.
            experimental_features = unsafe { wgpu::ExperimentalFeatures::enabled() };
        }
        let request = wgpu::DeviceDescriptor {
            label: Some("tinygpt"),
            required_features,
            required_limits: limits.clone(),
            experimental_features,
            memory_hints: wgpu::MemoryHints::Performance,
            ..wgpu::DeviceDescriptor::default()
        };
        let (device, queue) = pollster::block_on(adapter.request_device(&request)).map_err(|e| {
            Error::failed(format!(
                "the GPU adapter {} cannot be opened ({}): update its driver, or run with --backend cpu",
                report.name,
                one_line(e)
            ))
        })?;
        if limits.min_storage_buffer_offset_alignment as usize > TargetModel::gpu(1, 1).alignment {
            return Err(Error::failed(format!(
                "the GPU adapter {} binds buffers at multiples of {} bytes only, and programs are laid out for {}: run with --backend cpu",
                report.name,
                limits.min_storage_buffer_offset_alignment,
                TargetModel::gpu(1, 1).alignment
            )));
        }
        let fault = Arc::new(Mutex::new(None));
        keep_faults(&device, &fault, &report.name);
        let max_buffer_bytes = limits.max_buffer_size;
        let kept = tune::cache_file(&report, "pipelines", "bin")
            .filter(|_| required_features.contains(wgpu::Features::PIPELINE_CACHE));
        let kept = kept.map(|file| Arc::new(Kept::open(&device, file, tune::identity(&report))));
        tracing::debug!(?enumerated, took = ?start.elapsed(), "opened the device");
        let make = |matrices: Option<u32>, tune: bool, cooperation: Option<Cooperation>| {
            let mut report = report.clone();
            report.caps.cooperative = matrices;
            Arc::new(Gpu {
                instance: instance.clone(),
                device: device.clone(),
                queue: queue.clone(),
                tuner: Tuner::new(&report, tune),
                kept: kept.clone(),
                report,
                options: options.clone(),
                max_buffer_bytes,
                fault: Arc::clone(&fault),
                cooperation,
            })
        };
        let cooperation = match matrices {
            _ if !mixed => None,
            None => Some(Cooperation::Absent),
            Some(_) if cooperate::agree(&make(matrices, false, None))? => Some(Cooperation::Used),
            Some(_) => Some(Cooperation::Wrong),
        };
        Ok(make(matrices.filter(|_| cooperation == Some(Cooperation::Used)), options.tune, cooperation))
    }

    /// How operands of mixed precision are multiplied; None without mixed precision.
    pub fn cooperation(&self) -> Option<Cooperation> {
        self.cooperation
    }

    pub fn report(&self) -> &AdapterReport {
        &self.report
    }

    pub fn options(&self) -> &GpuOptions {
        &self.options
    }

    pub fn tuner(&self) -> &Tuner {
        &self.tuner
    }

    pub fn caps(&self) -> &Caps {
        &self.report.caps
    }

    /// What programs for this device are compiled for.
    pub fn target(&self) -> TargetModel {
        let f16_operands = self.options.precision == Precision::Mixed;
        let f16_values = self.caps().f16.then_some(LARGE_VALUE).filter(|_| f16_operands);
        TargetModel { f16_operands, f16_values, ..target(self.caps()) }
    }

    /// What a user is told at the start of a run.
    pub fn notice(&self) -> String {
        let AdapterReport { name, backend, kind, software, .. } = &self.report;
        let adapter = if *software {
            format!(
                "gpu: {name} ({backend}) is a software adapter: it computes on the processor, correct but slow, and its speed says \
                 nothing about GPUs"
            )
        } else {
            format!("gpu: {name} ({kind}, {backend})")
        };
        self.cooperation.map_or(adapter.clone(), |how| format!("{adapter}\n{}", how.notice()))
    }

    /// The first error since the device was opened that no [`Gpu::scoped`] returned. A device with one stays unusable.
    pub fn check(&self) -> Result<()> {
        match &*self.fault.lock().unwrap_or_else(PoisonError::into_inner) {
            None => Ok(()),
            Some(error) => Err(error.clone()),
        }
    }

    /// Whether passes may read the device's clock.
    pub(super) fn has_timestamps(&self) -> bool {
        self.device.features().contains(wgpu::Features::TIMESTAMP_QUERY)
    }

    /// Buffers, pipelines and bind groups that wgpu keeps for this device, by its own account.
    pub fn live_objects(&self) -> Option<[usize; 3]> {
        let hub = self.instance.generate_report()?.hub;
        Some([hub.buffers, hub.compute_pipelines, hub.bind_groups].map(|kind| kind.num_kept_from_user))
    }

    /// Runs `work`, which makes things on the device; an error of any of its calls is the result.
    pub(super) fn scoped<V>(&self, work: impl FnOnce() -> Result<V>) -> Result<V> {
        use wgpu::ErrorFilter::{Internal, OutOfMemory, Validation};
        let [a, b, c] = [OutOfMemory, Internal, Validation].map(|filter| self.device.push_error_scope(filter));
        let value = work();
        // Popped in reverse order.
        let errors = [c.pop(), b.pop(), a.pop()].map(pollster::block_on);
        self.check()?;
        match errors.into_iter().flatten().next() {
            Some(error) => Err(to_error(&self.report.name, &error)),
            None => value,
        }
    }

    /// Waits until the device has done `submission`, or everything. Delivers what was to be mapped.
    pub(super) fn wait(&self, submission: Option<wgpu::SubmissionIndex>) -> Result<()> {
        let outcome = self.device.poll(wgpu::PollType::Wait { submission_index: submission, timeout: None });
        self.check()?;
        outcome.map(|_| ()).map_err(|e| lost(&self.report.name, &one_line(e)))
    }
}

/// The target of programs for devices with these capabilities.
pub fn target(caps: &Caps) -> TargetModel {
    caps.target()
}

/// Keeps the first error that no scope takes, and the loss of the device.
fn keep_faults(device: &wgpu::Device, fault: &Arc<Mutex<Option<Error>>>, name: &str) {
    let keep = |fault: &Mutex<Option<Error>>, error: Error| {
        fault.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    };
    let (kept, adapter) = (Arc::clone(fault), name.to_owned());
    device.on_uncaptured_error(Arc::new(move |error| keep(&kept, to_error(&adapter, &error))));
    let (kept, adapter) = (Arc::clone(fault), name.to_owned());
    device.set_device_lost_callback(move |reason, message| {
        // A device that is dropped is "lost" too, which is no fault.
        if reason != wgpu::DeviceLostReason::Destroyed {
            keep(&kept, lost(&adapter, &message));
        }
    });
}

fn to_error(name: &str, error: &wgpu::Error) -> Error {
    match error {
        wgpu::Error::OutOfMemory { .. } => Error::failed(format!(
            "the GPU {name} is out of memory: choose a smaller preset or batch, end other programs that use it, or run with --backend cpu"
        )),
        wgpu::Error::Validation { description, .. } | wgpu::Error::Internal { description, .. } => {
            Error::failed(format!(
                "the GPU {name} refused what tinygpt asked for, which is a fault of tinygpt or of the driver: {} (--backend cpu works)",
                one_line(description)
            ))
        }
    }
}

fn lost(name: &str, message: &str) -> Error {
    Error::failed(format!(
        "the GPU {name} stopped answering ({}): go on from the last checkpoint with --resume, and if it happens again update the driver \
         or run with --backend cpu",
        one_line(message)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adapter(name: &str, kind: &'static str) -> AdapterReport {
        AdapterReport {
            name: name.to_owned(),
            backend: "vulkan".to_owned(),
            kind,
            software: kind == "software",
            driver: String::new(),
            features: Vec::new(),
            caps: Caps::webgpu(),
        }
    }

    #[test]
    fn the_best_adapter_is_chosen_and_software_last() {
        let all = [adapter("llvmpipe", "software"), adapter("Iris", "integrated"), adapter("RTX", "discrete")];
        assert_eq!(choose(&all, None).unwrap(), 2);
        assert_eq!(choose(&all, Some("IRIS")).unwrap(), 1);
        assert_eq!(choose(&all[..1], None).unwrap(), 0);
        let error = choose(&all, Some("radeon")).unwrap_err();
        assert_eq!(error.exit_status(), 2);
        assert!(error.to_string().ends_with("choose --adapter from llvmpipe, Iris, RTX"), "{error}");
        assert!(choose(&[], None).unwrap_err().to_string().starts_with("no GPU adapter was found: install"));
    }

    #[test]
    fn errors_are_one_sentence_with_advice() {
        let source = || Box::<dyn std::error::Error + Send + Sync>::from("x");
        let memory = to_error("RTX", &wgpu::Error::OutOfMemory { source: source() });
        assert!(memory.to_string().starts_with("the GPU RTX is out of memory: choose a smaller preset"));
        let refused = wgpu::Error::Validation { source: source(), description: "two\n  lines".to_owned() };
        assert!(to_error("RTX", &refused).to_string().contains("two lines"));
        assert!(lost("RTX", "gone").to_string().contains("--resume"));
    }
}
