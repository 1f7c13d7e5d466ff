//! `devices`: what can run programs here.

use super::{Ending, print};
use crate::Result;
use crate::gpu::{self, AdapterReport};
use crate::wasm::node::Node;
use std::fmt::Write;

pub fn run() -> Result<Ending> {
    let mut text = String::new();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let _ = writeln!(text, "cpu: {} ({} {})", cpu_name(), std::env::consts::ARCH, std::env::consts::OS);
    let _ = writeln!(text, "  threads: {cores} by default");
    let _ = writeln!(text, "  features: {}", features().join(" "));
    let templates: Vec<String> =
        tinygpt_simd::Isa::available().iter().map(|isa| format!("{} ({} lanes)", isa.name(), isa.lanes())).collect();
    let templates = if templates.is_empty() { "none for this machine".to_owned() } else { templates.join(", ") };
    let _ = writeln!(text, "  templates (--isa): {templates}; portable runs everywhere");
    let _ = writeln!(text, "{}", wasm());
    let _ = writeln!(text, "interp: the f64 interpreter, the reference (1 thread)");
    let adapters = gpu::adapters();
    if adapters.is_empty() {
        let _ = writeln!(text, "gpu: none found (needs a Vulkan, Metal or DirectX 12 driver)");
    }
    adapters.iter().for_each(|adapter| describe(adapter, &mut text));
    print(text.as_bytes())?;
    Ok(Ending::Done)
}

/// What the backend `wasm` would run in.
fn wasm() -> String {
    let node = match Node::start() {
        Ok(node) => node,
        Err(error) => return format!("wasm: none ({error})"),
    };
    let features = node.features();
    let offered = [
        ("SIMD", features.simd),
        ("relaxed SIMD", features.relaxed),
        ("threads", features.threads),
        ("memory64", features.memory64),
    ];
    let offered: Vec<&str> = offered.into_iter().filter(|(_, has)| *has).map(|(name, _)| name).collect();
    format!("wasm: Node {} ({})", node.version(), offered.join(", "))
}

fn describe(adapter: &AdapterReport, text: &mut String) {
    let AdapterReport { name, backend, kind, software, driver, features, caps } = adapter;
    let what = if *software { "software adapter: it computes on the processor" } else { kind };
    let _ = writeln!(text, "gpu: {name} ({backend}; {what})");
    let _ = writeln!(text, "  driver: {driver}");
    let mut features = features.join(" ");
    if let Some((least, most)) = caps.subgroups {
        let _ = write!(features, " (subgroups of {least} to {most})");
    }
    let _ = writeln!(text, "  features: {}", if features.is_empty() { "none that kernels use" } else { &features });
    let _ = writeln!(
        text,
        "  limits: {} KiB workgroup memory, {} invocations a workgroup, {} storage buffers a stage, bindings of {} MiB",
        caps.workgroup_bytes >> 10,
        caps.max_invocations,
        caps.max_storage_buffers,
        caps.max_binding_bytes >> 20
    );
}

/// The processor's name where the system tells, else its architecture.
pub(crate) fn cpu_name() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    name.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned())
}

/// The processor's vector features that matter here.
fn features() -> Vec<&'static str> {
    let mut found = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        macro_rules! detect {
            ($($name:tt)*) => { $(if is_x86_feature_detected!($name) { found.push($name); })* };
        }
        detect!("sse2" "sse4.1" "sse4.2" "avx" "f16c" "fma" "avx2" "avx512f" "avx512vl" "avx512bw" "avx512dq" "avx512vnni" "avx512bf16");
    }
    #[cfg(target_arch = "aarch64")]
    found.push("neon");
    if found.is_empty() {
        found.push("none known");
    }
    found
}
