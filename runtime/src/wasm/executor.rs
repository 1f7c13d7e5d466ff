//! The backend `wasm`: a program as a module with one entry, run by a Node process of its own.
//!
//! Invariants: as of every executor; the module is the one for what Node offers (relaxed SIMD where it has it) and for the number of
//! threads, whose memory is made once. Writes and steps are sent without waiting; only reads wait.

use super::bundle::layout_of;
use super::node::Node;
use crate::cpu::slots_of;
use crate::executor::{Executor, MemoryReport, Role, Slots};
use crate::provenance::traced;
use crate::tensor::{DType, HostData, HostTensor};
use crate::{Error, Result};
use std::sync::Arc;
use std::time::Instant;
use tinygpt_codegen_cpu::wasm::{self, WasmOptions};
use tinygpt_ir::program::Program;

/// Name of the module's entry.
const ENTRY: &str = "step";

/// Runs a program in Node.
pub struct WasmExecutor {
    node: Node,
    slots: Slots,
    /// Offset and bytes of each slot in the module's memory.
    at: Vec<(usize, usize)>,
    memory: MemoryReport,
    report: String,
    /// Truth values as the module has them: four bytes each.
    words: Vec<u8>,
}

impl WasmExecutor {
    /// Makes the module for `threads` threads and starts Node.
    ///
    /// # Errors
    /// What code generation refuses; no Node, or one that is too old or has too little memory.
    pub fn new(program: &Arc<Program>, threads: usize) -> Result<WasmExecutor> {
        let mut node = Node::start()?;
        let features = node.features();
        let shared = threads > 1;
        if shared && !features.threads {
            return Err(Error::input(format!(
                "Node {} lacks WebAssembly threads: give --threads 1, or use a newer Node",
                node.version()
            )));
        }
        let start = Instant::now();
        let options = WasmOptions {
            relaxed: features.relaxed,
            threads: shared,
            memory64: None,
            max_threads: threads,
            clocks: false,
        };
        let entry = wasm::Entry { name: ENTRY, program };
        let module = wasm::module(&[entry], &options).map_err(|e| Error::input(traced(program, e)))?;
        let took = start.elapsed();
        let layout = layout_of(&module.layout);
        if layout.memory64 && !features.memory64 {
            return Err(Error::input(format!(
                "the program needs more than 4 GiB of memory, for which Node {} lacks 64-bit memories: use Node 24 or later, fewer threads, or a smaller model",
                node.version()
            )));
        }
        node.prepare(&module.bytes, &layout, ENTRY, threads, shared)?;

        let (slots, _) = slots_of(program)?;
        let places = module.layout.entries.iter().flat_map(|e| e.params.iter().chain(&e.outputs));
        let places: std::collections::HashMap<_, _> =
            places.map(|slot| (slot.name.as_str(), (slot.offset, slot.bytes))).collect();
        let place = |name: &str| {
            places
                .get(name)
                .copied()
                .ok_or_else(|| Error::failed(format!("the module does not place {name}, which is a fault of tinygpt")))
        };
        let at = slots.iter().map(|slot| place(&slot.name)).collect::<Result<Vec<_>>>()?;
        let own: usize = at.iter().map(|(_, bytes)| bytes).sum();
        let with = |keep: fn(&crate::executor::Slot) -> bool| {
            slots.iter().zip(&at).filter(move |(slot, _)| keep(slot)).map(|(_, (_, bytes))| *bytes)
        };
        let memory = MemoryReport {
            planned_bytes: own + program.memory.planned,
            lower_bound_bytes: own + program.memory.lower_bound,
            state_bytes: with(|slot| slot.role == Role::State).sum(),
        };
        let words = vec![0; with(|slot| slot.dtype == DType::Bool).max().unwrap_or(0)];
        let report = format!(
            "a WebAssembly module of {} bytes, {} SIMD, {threads} thread(s), generated in {:.1} ms; Node {}",
            module.bytes.len(),
            if features.relaxed { "relaxed" } else { "plain" },
            took.as_secs_f64() * 1e3,
            node.version()
        );
        Ok(WasmExecutor { node, slots, at, memory, report, words })
    }

    /// Takes the answer to a read of a slot.
    fn receive(&mut self, slot: usize, value: &mut HostTensor) -> Result<()> {
        let node = &mut self.node;
        match value.data_mut() {
            HostData::F32(to) => node.answer(bytemuck::cast_slice_mut(to)),
            HostData::I32(to) => node.answer(bytemuck::cast_slice_mut(to)),
            HostData::U32(to) => node.answer(bytemuck::cast_slice_mut(to)),
            HostData::F16(to) => node.answer(bytemuck::cast_slice_mut(to)),
            HostData::Bool(to) => {
                let words = &mut self.words[..self.at[slot].1];
                node.answer(words)?;
                to.iter_mut().zip(words.chunks_exact(4)).for_each(|(to, word)| *to = word[0] != 0);
                Ok(())
            }
        }
    }
}

impl Executor for WasmExecutor {
    fn backend(&self) -> &'static str {
        "wasm"
    }

    fn slots(&self) -> &Slots {
        &self.slots
    }

    fn memory(&self) -> MemoryReport {
        self.memory
    }

    fn write(&mut self, name: &str, value: &HostTensor) -> Result<()> {
        let slot = self.slots.check_write(name, value)?;
        let (offset, bytes) = self.at[slot];
        match value.data() {
            HostData::Bool(from) => {
                let words = &mut self.words[..bytes];
                words.chunks_exact_mut(4).zip(from).for_each(|(word, x)| {
                    word.copy_from_slice(&u32::from(*x).to_le_bytes());
                });
                self.node.write(offset, words)
            }
            _ => self.node.write(offset, value.bytes()),
        }
    }

    fn read_into(&mut self, name: &str, value: &mut HostTensor) -> Result<()> {
        self.take(&mut [(name, value)])
    }

    fn step(&mut self) -> Result<()> {
        self.node.run()
    }

    fn code_report(&self) -> Option<String> {
        Some(self.report.clone())
    }

    fn take(&mut self, outputs: &mut [(&str, &mut HostTensor)]) -> Result<()> {
        // All are checked before any is asked for: every question gets its answer.
        outputs.iter().try_for_each(|(name, value)| self.slots.check_read(name, value).map(drop))?;
        for (name, _) in outputs.iter() {
            let (offset, bytes) = self.at[self.slots.find(name)?];
            self.node.ask(offset, bytes)?;
        }
        self.node.flush()?;
        outputs.iter_mut().try_for_each(|(name, value)| {
            let slot = self.slots.find(name)?;
            self.receive(slot, value)
        })
    }
}
