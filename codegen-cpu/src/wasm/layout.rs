//! Where everything lies in a module's memory, decided before the module is made: it never grows.
//!
//! | from | what |
//! |---|---|
//! | 0 | nothing: see [`WINDOW`] |
//! | [`CONTROL`] | the words by which threads meet, each in a cache line of its own |
//! | [`COUNTERS`] | the counters of parallel rounds |
//! | | tables of the ranges that tasks cover |
//! | | states, once for all entries |
//! | | inputs and outputs of each entry |
//! | | temporaries: one slab, shared by all entries, because one entry runs at a time |
//! | | memory that the tasks of a kernel share, likewise |
//! | | with clocks, the seconds of each kernel |
//! | [`Layout::fixed_bytes`] | scratch, [`Layout::thread_bytes`] for each thread |
//!
//! Invariants
//! - Everything is aligned to 64 bytes, and nothing but what this table says overlaps.
//! - The layout depends on the programs and on the options' `max_threads` and `memory64` alone: all variants of one export agree on it.

use super::address::WINDOW;
use super::{Entry, WasmError, WasmOptions};
use std::collections::HashMap;
use tinygpt_ir::graph::ParamKind;
use tinygpt_ir::program::{BufferId, Place, Program};
use tinygpt_ir::types::DType;

/// Bytes of a page of WebAssembly memory.
pub const PAGE: usize = 1 << 16;
/// Most bytes with 32-bit addresses. A running pointer may end past what it points into by one step of its loop, and must not wrap
/// there: this much of the address space stays free for it.
const LIMIT_32: u64 = (1 << 32) - (256 << 20);
/// Alignment of everything.
pub const LINE: usize = 64;
/// Address of the control words.
pub const CONTROL: usize = WINDOW as usize;
/// Number of control words.
pub const CONTROL_WORDS: usize = 7;
/// Address of the counters.
pub const COUNTERS: usize = CONTROL + CONTROL_WORDS * LINE;

/// The address of a control word.
pub const fn control(word: usize) -> usize {
    CONTROL + word * LINE
}

/// What a slot of memory is to the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SlotKind {
    /// Written by the caller before a step.
    Input,
    /// Written by the caller once, and kept and updated by steps.
    State,
    /// Read by the caller after a step.
    Output,
}

impl SlotKind {
    pub fn name(self) -> &'static str {
        match self {
            SlotKind::Input => "input",
            SlotKind::State => "state",
            SlotKind::Output => "output",
        }
    }
}

/// A tensor that the caller reads or writes: row-major, four bytes an element, truth values 0 or 1.
#[derive(Clone, Debug, PartialEq)]
pub struct SlotLayout {
    pub name: String,
    pub kind: SlotKind,
    pub dtype: DType,
    pub shape: Vec<usize>,
    /// Address of the first element.
    pub offset: usize,
    pub bytes: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub struct EntryLayout {
    /// The exported function's name.
    pub name: String,
    /// Inputs and states, in the program's order.
    pub params: Vec<SlotLayout>,
    pub outputs: Vec<SlotLayout>,
    /// Of a module with clocks.
    pub clocks: Option<ClockLayout>,
}

/// Where a module with clocks counts the time of an entry's kernels.
#[derive(Clone, Debug, PartialEq)]
pub struct ClockLayout {
    /// Address of an f64 for each kernel: its seconds in all steps since they were zeros.
    pub offset: usize,
    /// Names of the kernels, in that order.
    pub kernels: Vec<String>,
}

/// A module's memory, as its caller sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Layout {
    /// Whether addresses are 64 bits wide.
    pub memory64: bool,
    /// Bytes whatever the number of threads.
    pub fixed_bytes: usize,
    /// Bytes of each thread's scratch.
    pub thread_bytes: usize,
    pub max_threads: usize,
    pub entries: Vec<EntryLayout>,
}

impl Layout {
    /// Pages of memory for a number of threads.
    pub fn memory_pages(&self, threads: usize) -> usize {
        (self.fixed_bytes + threads * self.thread_bytes).div_ceil(PAGE)
    }
}

/// What the sizes of a memory depend on beside the programs.
pub struct Needs {
    /// Bytes of counters.
    pub counters: usize,
    /// Bytes of tables.
    pub tables: usize,
    /// Bytes that the tasks of kernels share, the most of all entries.
    pub arena: usize,
    /// Bytes of scratch of one thread.
    pub scratch: usize,
}

/// A layout, and the addresses that the code needs.
pub struct Plan {
    pub layout: Layout,
    /// For each entry the address of each of its program's buffers.
    pub buffers: Vec<Vec<usize>>,
    pub tables: usize,
    pub arena: usize,
}

struct State<'a> {
    entry: &'a str,
    dtype: DType,
    shape: &'a [usize],
    at: usize,
}

/// Places everything.
pub fn plan(entries: &[Entry<'_>], needs: &Needs, options: &WasmOptions) -> Result<Plan, WasmError> {
    let tables = (COUNTERS + needs.counters).next_multiple_of(LINE);
    let mut end = (tables + needs.tables).next_multiple_of(LINE);
    let mut take = |bytes: usize| -> Result<usize, WasmError> {
        let at = end;
        let next = at.checked_add(bytes).and_then(|e| e.checked_next_multiple_of(LINE));
        end = next.ok_or(WasmError::AddressSpace)?;
        Ok(at)
    };
    let mut states: HashMap<&str, State> = HashMap::new();
    for entry in entries {
        for p in entry.program.params.iter().filter(|p| p.kind != ParamKind::Input) {
            let (dtype, shape) = (p.ty.dtype, p.ty.shape.as_slice());
            match states.get(p.name.as_str()) {
                None => {
                    let at = take(entry.program.buffers[p.buffer].bytes())?;
                    states.insert(&p.name, State { entry: entry.name, dtype, shape, at });
                }
                Some(s) if s.dtype == dtype && s.shape == shape => {}
                Some(s) => {
                    return Err(WasmError::StateMismatch {
                        state: p.name.clone(),
                        first: format!("{}{:?} in `{}`", s.dtype, s.shape, s.entry),
                        second: format!("{dtype}{shape:?} in `{}`", entry.name),
                    });
                }
            }
        }
    }
    let mut buffers = Vec::new();
    for entry in entries {
        let mut places = vec![None; entry.program.buffers.len()];
        for p in &entry.program.params {
            places[p.buffer.index()] = Some(match p.kind {
                ParamKind::Input => take(entry.program.buffers[p.buffer].bytes())?,
                _ => states[p.name.as_str()].at,
            });
        }
        for o in &entry.program.outputs {
            if places[o.buffer.index()].is_none() && entry.program.buffers[o.buffer].place == Place::Own {
                places[o.buffer.index()] = Some(take(entry.program.buffers[o.buffer].bytes())?);
            }
        }
        buffers.push(places);
    }
    let slab = take(entries.iter().map(|e| e.program.memory.planned).max().unwrap_or(0))?;
    let arena = take(needs.arena)?;
    let mut all = Vec::new();
    for (entry, places) in entries.iter().zip(buffers) {
        let mut known = Vec::with_capacity(places.len());
        for ((id, buffer), place) in entry.program.buffers.iter().zip(places) {
            known.push(match (place, buffer.place) {
                (Some(at), _) => at,
                (None, Place::Slab(offset)) => slab + offset,
                (None, Place::Own) => take(buffer.bytes())?,
                (None, Place::Slot(_) | Place::Pack { .. }) => {
                    return Err(WasmError::Placement { entry: entry.name.into(), buffer: name_of(entry.program, id) });
                }
            });
        }
        all.push(known);
    }
    let clocks = |entry: &Entry<'_>| -> Result<ClockLayout, WasmError> {
        let kernels: Vec<String> = entry.program.kernels.values().map(|kernel| kernel.name.clone()).collect();
        Ok(ClockLayout { offset: take(8 * kernels.len())?, kernels })
    };
    let clocks: Vec<Option<ClockLayout>> = match options.clocks {
        true => entries.iter().map(clocks).map(|c| c.map(Some)).collect::<Result<_, _>>()?,
        false => vec![None; entries.len()],
    };
    let thread_bytes = needs.scratch.next_multiple_of(LINE);
    let whole = options.max_threads.checked_mul(thread_bytes).and_then(|b| b.checked_add(end));
    let whole = whole.ok_or(WasmError::AddressSpace)?;
    let small = whole as u64 <= LIMIT_32;
    let memory64 = options.memory64.unwrap_or(!small);
    if !memory64 && !small {
        return Err(WasmError::TooLarge { bytes: whole, threads: options.max_threads });
    }
    let entries =
        entries.iter().zip(&all).zip(clocks).map(|((e, places), clocks)| entry_layout(e, places, clocks)).collect();
    let layout = Layout { memory64, fixed_bytes: end, thread_bytes, max_threads: options.max_threads, entries };
    Ok(Plan { layout, buffers: all, tables, arena })
}

fn name_of(program: &Program, buffer: BufferId) -> String {
    program.buffers[buffer].label.clone()
}

fn entry_layout(entry: &Entry<'_>, places: &[usize], clocks: Option<ClockLayout>) -> EntryLayout {
    let slot = |name: &str, kind, ty: &tinygpt_ir::types::TensorType, buffer: BufferId| SlotLayout {
        name: name.to_string(),
        kind,
        dtype: ty.dtype,
        shape: ty.shape.to_vec(),
        offset: places[buffer.index()],
        bytes: entry.program.buffers[buffer].bytes(),
    };
    let params = entry.program.params.iter().map(|p| {
        let kind = if p.kind == ParamKind::Input { SlotKind::Input } else { SlotKind::State };
        slot(&p.name, kind, &p.ty, p.buffer)
    });
    let outputs = entry.program.outputs.iter().map(|o| slot(&o.name, SlotKind::Output, &o.ty, o.buffer));
    EntryLayout { name: entry.name.to_string(), params: params.collect(), outputs: outputs.collect(), clocks }
}
