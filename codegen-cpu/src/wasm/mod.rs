//! Programs to WebAssembly modules.
//!
//! [`module`] makes one module of several *entries*: programs that share states by name, such as a training step, an evaluation and
//! the decoding of one token. Each entry is one exported function that runs a whole step on all threads; no JavaScript runs inside.
//!
//! | module | makes |
//! |---|---|
//! | `tidy`, `facts` | a vector loop function ready for emission, and what is to know of its registers |
//! | `func`, `address`, `ops` | one vector loop function as one WebAssembly function |
//! | `tasks` | rounds of a program as runs of alike tasks |
//! | `layout` | where everything lies in memory |
//! | `threads` | how threads meet |
//! | `module` | all of it as bytes |
//! | `text` | bytes as text |
//! | `peak` | a loop that measures the engine |
//!
//! # The module
//!
//! It imports `env.memory`, with [`Layout::memory_pages`] of one thread as the minimum and of `max_threads` as the maximum; the caller makes
//! it with as many as its threads need, all zeros, shared if the module has threads. It exports
//! - `init(threads: i32, spins: i32)`: once, on thread 0, before anything else. `spins` is how often a waiting thread looks before it
//!   sleeps; 0 where there are more threads than cores;
//! - each entry under its name, without parameters or results: on thread 0;
//! - with threads, `worker(thread: i32)` for each other thread, 1 and up, which returns after `stop()`, called on thread 0 between steps.
//!   Until all of them run `worker`, an entry waits for them.
//!
//! With `clocks` it also imports `env.clock: () -> f64`, the time in seconds, and has a barrier between kernels: thread 0 adds to
//! [`EntryLayout::clocks`] what each kernel took. No other thread calls the clock, but each has to bring one.
//!
//! Every thread instantiates the same module with the same memory. Thread 0 sleeps by `memory.atomic.wait32`, which a browser's main
//! thread may not: it belongs in a worker too.
//!
//! # Invariants
//! - Every module has been validated before it is returned.
//! - Results do not depend on the number of threads: tasks, and the order within each, depend on the program alone.
//! - Without `relaxed`, results are those of the native portable path without fused multiply-add, bit for bit.
//! - No access is checked by generated code, and none lies outside the layout: the program's verifier has proved the ranges.
//! - Nothing here is native: the compiler makes modules in a page, too.

mod address;
mod facts;
mod func;
mod layout;
mod module;
mod ops;
mod peak;
mod tasks;
mod text;
mod threads;
mod tidy;

#[cfg(test)]
mod tests;

pub use layout::{ClockLayout, EntryLayout, Layout, PAGE, SlotKind, SlotLayout};
pub use peak::{PEAK_FLOP, peak_module};
pub use text::wat;

use tinygpt_ir::program::{KernelId, Program};
use tinygpt_vloop::Func;

/// How to make a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WasmOptions {
    /// Fused multiply-add of vectors, of the relaxed SIMD proposal.
    pub relaxed: bool,
    /// Shared memory, and threads that meet by atomic operations.
    pub threads: bool,
    /// 64-bit addresses; None for where they are needed.
    pub memory64: Option<bool>,
    /// Most threads that the memory may have room for.
    pub max_threads: usize,
    /// Count the seconds of each kernel, which then run one after another.
    pub clocks: bool,
}

impl Default for WasmOptions {
    /// What every engine has: no relaxed SIMD, threads, at most 64 of them; no clocks.
    fn default() -> WasmOptions {
        WasmOptions { relaxed: false, threads: true, memory64: None, max_threads: 64, clocks: false }
    }
}

/// A program to be one function of the module.
#[derive(Clone, Copy)]
pub struct Entry<'a> {
    /// The exported function's name.
    pub name: &'a str,
    /// Compiled for [`tinygpt_ir::program::TargetModel::cpu`].
    pub program: &'a Program,
}

/// Why a module cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum WasmError {
    #[error("kernel `{kernel}` cannot be compiled: {message}")]
    Kernel { kernel: String, message: String },
    #[error("{0}; this is a bug of the code generator")]
    IllFormed(#[from] tinygpt_vloop::Error),
    #[error("function `{func}` calls row functions, which a module does not have: lower without row templates")]
    RowCall { func: String },
    #[error("an entry is named `{name}`, expected names that differ from each other and from init, worker and stop")]
    EntryName { name: String },
    #[error("a memory for 0 threads was asked for, expected at least 1")]
    NoThreads,
    #[error("state `{state}` is {first} and {second}: entries of one module share states, which must agree")]
    StateMismatch { state: String, first: String, second: String },
    #[error(
        "buffer `{buffer}` of entry `{entry}` has no place in a slab: compile the program for a CPU, not for a GPU"
    )]
    Placement { entry: String, buffer: String },
    #[error(
        "the memory takes {bytes} bytes for {threads} threads, more than the 3.75 GiB that 32-bit addresses are used for: allow memory64 or fewer threads"
    )]
    TooLarge { bytes: usize, threads: usize },
    #[error("the memory takes more bytes than this machine can count: make the model smaller")]
    AddressSpace,
    #[error("the module is invalid ({0}); this is a bug of the code generator")]
    Invalid(String),
}

/// What a module consists of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Kernels of all entries.
    pub kernels: usize,
    /// Kernels of different structure.
    pub distinct_kernels: usize,
    /// Functions generated for them.
    pub functions: usize,
    pub rounds: usize,
    /// Rounds that all threads take part in.
    pub parallel_rounds: usize,
    /// Bytes of the module, and of the tables in it.
    pub bytes: usize,
    pub table_bytes: usize,
}

/// A module, and how to use it.
#[derive(Debug)]
pub struct WasmModule {
    pub bytes: Vec<u8>,
    pub layout: Layout,
    pub report: Report,
    threaded: bool,
    /// For each entry and kernel, its functions.
    kernels: Vec<Vec<Vec<usize>>>,
    /// For each entry and kernel, where it comes from.
    provenance: Vec<Vec<Vec<String>>>,
    /// For each function, what a listing says above it.
    comments: Vec<Vec<String>>,
    /// The text of each function, made when first asked for.
    texts: std::sync::OnceLock<Vec<String>>,
}

/// Makes a module of programs.
///
/// # Errors
/// If a kernel computes in f16, a program was compiled for a GPU, entries disagree on a state, or the memory is too large.
pub fn module(entries: &[Entry<'_>], options: &WasmOptions) -> Result<WasmModule, WasmError> {
    module::build(entries, options)
}

/// One vector loop function as a module that exports it under its name, and imports `env.memory` of any size, shared or not as `threads`
/// says. Its parameters are the addresses of its buffers, of its scratch if it has any, and its index parameters. No buffer may
/// lie below [`PAGE`].
///
/// # Errors
/// If it is not well formed, or calls row functions, which a module does not have.
pub fn function(func: &Func, options: &WasmOptions) -> Result<Vec<u8>, WasmError> {
    module::single(func, options)
}

impl WasmModule {
    /// The text of the functions that compute a kernel of an entry (by number), with the kernel's provenance. Kernels of equal
    /// structure share functions, which are named after the first.
    pub fn kernel_wat(&self, entry: usize, kernel: KernelId) -> String {
        let texts = self.texts.get_or_init(|| text::functions(&self.bytes, self.comments.len()));
        let mut out = String::new();
        for line in &self.provenance[entry][kernel.index()] {
            out.push_str(&format!(";; {line}\n"));
        }
        for &function in &self.kernels[entry][kernel.index()] {
            out.push_str(&texts[function]);
        }
        out
    }

    /// The text of the whole module, each function under what it does, all of it under what lies where in memory.
    pub fn wat(&self) -> String {
        text::commented(&self.bytes, &self.memory_map(), &self.comments)
    }

    /// What lies where in memory, for the reader of a listing.
    fn memory_map(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if self.threaded {
            let words = threads::WORDS.map(|(name, at)| format!("{at} {name}"));
            lines.push(format!("words by which threads meet: {}", words.join(", ")));
        }
        for entry in &self.layout.entries {
            for slot in entry.params.iter().chain(&entry.outputs) {
                let (kind, dtype, shape) = (slot.kind.name(), slot.dtype, &slot.shape);
                lines.push(format!("{} {kind} of {}: {} {dtype}{shape:?}", slot.offset, entry.name, slot.name));
            }
        }
        let Layout { fixed_bytes, thread_bytes, .. } = self.layout;
        lines.push(format!("{fixed_bytes} scratch, {thread_bytes} bytes a thread"));
        lines
    }
}

/// Checks a module by the specification, with the proposals that modules use.
fn validate(bytes: &[u8]) -> Result<(), WasmError> {
    use wasmparser::WasmFeatures;
    let features = WasmFeatures::WASM1
        | WasmFeatures::SIMD
        | WasmFeatures::RELAXED_SIMD
        | WasmFeatures::THREADS
        | WasmFeatures::BULK_MEMORY
        | WasmFeatures::SATURATING_FLOAT_TO_INT
        | WasmFeatures::MEMORY64;
    wasmparser::Validator::new_with_features(features)
        .validate_all(bytes)
        .map(drop)
        .map_err(|e| WasmError::Invalid(e.to_string()))
}
