//! A round as a function: its tasks, as calls of kernel functions.

use super::super::func::{by_width_of, ptr_type};
use super::super::tasks::{Buf, Call, Param, Round, Run, Tables};
use super::super::threads::{Word, Words, taken};
use super::super::{Entry, WasmError};
use super::{Crew, Function};
use tinygpt_ir::program::KernelId;
use tinygpt_vloop::Func;
use wasm_encoder::{BlockType, InstructionSink, MemArg, ValType};

/// Emits one round.
pub(super) struct RoundEmit<'a, 'e> {
    pub entry: &'a Entry<'e>,
    pub buffers: &'a [usize],
    pub arena: usize,
    pub funcs: &'a [Func],
    pub imported: u32,
    pub tables: &'a mut Tables,
    pub tables_at: usize,
    pub memory64: bool,
    pub code: Vec<u8>,
}

/// Locals of a round's function.
pub(super) const SCRATCH: u32 = 0;
const TASK: u32 = 1;

impl<'e> RoundEmit<'_, 'e> {
    fn ins(&mut self) -> InstructionSink<'_> {
        InstructionSink::new(&mut self.code)
    }

    fn words(&mut self) -> Words<'_> {
        Words { sink: InstructionSink::new(&mut self.code), memory64: self.memory64 }
    }

    pub fn round(&mut self, round: &Round, several: bool, crew: Option<Crew>) -> Result<Function, WasmError> {
        let loops = crew.is_some() || round.runs.iter().any(|r| r.tasks > 1);
        match crew {
            Some(crew) => self.take_tasks(round, crew)?,
            None => self.all_tasks(round)?,
        }
        self.ins().end();
        let phase = if several { format!("_phase_{}", round.phase) } else { String::new() };
        let locals: &[ValType] = if loops { &[ValType::I32] } else { &[] };
        let mut body = wasm_encoder::Function::new_with_locals_types(locals.iter().copied());
        body.raw(std::mem::take(&mut self.code));
        let name = format!("{}.stage_{}{phase}", self.entry.name, round.stage);
        let tasks = match round.tasks() {
            1 => "1 task".to_string(),
            n => format!("{n} tasks"),
        };
        let how = if crew.is_some() { "all threads" } else { "thread 0" };
        let mut names: Vec<&str> =
            round.runs.iter().flat_map(|r| &r.calls).map(|c| self.kernel_name(c.kernel)).collect();
        names.dedup();
        Ok(Function {
            name,
            params: vec![ptr_type(self.memory64)],
            result: None,
            body,
            locals: vec!["scratch".into(), "task".into()].into_iter().take(1 + locals.len()).collect(),
            comments: vec![format!("{tasks} on {how}: {}", names.join(", "))],
        })
    }

    /// All tasks of the round, one after another.
    fn all_tasks(&mut self, round: &Round) -> Result<(), WasmError> {
        for run in &round.runs {
            if run.tasks == 1 {
                self.calls(run)?;
                continue;
            }
            self.ins().i32_const(0).local_set(TASK).loop_(BlockType::Empty);
            self.calls(run)?;
            let tasks = run.tasks as i32;
            self.ins().local_get(TASK).i32_const(1).i32_add().local_tee(TASK).i32_const(tasks).i32_lt_u();
            self.ins().br_if(0).end();
        }
        Ok(())
    }

    /// The tasks that this thread gets, until there are no more.
    fn take_tasks(&mut self, round: &Round, crew: Crew) -> Result<(), WasmError> {
        let tasks = round.tasks();
        self.ins().loop_(BlockType::Empty);
        self.words().add(Word::At(taken(crew.round)), 1);
        self.ins().local_tee(TASK).i32_const(tasks as i32).i32_ge_u().if_(BlockType::Empty).return_().end();
        let (last, others) = round.runs.split_last().expect("a parallel round has tasks");
        for run in others {
            // This run's tasks are the next ones.
            let own = run.tasks as i32;
            self.ins().local_get(TASK).i32_const(own).i32_lt_u().if_(BlockType::Empty);
            self.calls(run)?;
            crew.meet.end_task(&mut self.words(), crew.round, tasks);
            self.ins().br(1).end();
            self.ins().local_get(TASK).i32_const(own).i32_sub().local_set(TASK);
        }
        self.calls(last)?;
        crew.meet.end_task(&mut self.words(), crew.round, tasks);
        self.ins().br(0).end();
        Ok(())
    }

    /// The calls of one task.
    fn calls(&mut self, run: &Run) -> Result<(), WasmError> {
        for (call, params) in run.calls.iter().zip(&run.params) {
            self.call(call, params)?;
        }
        Ok(())
    }

    fn kernel_name(&self, kernel: usize) -> &'e str {
        &self.entry.program.kernels[KernelId(kernel as u32)].name
    }

    fn call(&mut self, call: &Call, params: &[Vec<i64>]) -> Result<(), WasmError> {
        for buf in &call.bufs {
            let at = match buf {
                Buf::Program(b) => self.buffers[*b],
                Buf::Shared(offset) => self.arena + offset,
            };
            by_width_of!(self, i64_const(at as i64), i32_const(at as u32 as i32));
        }
        if !self.funcs[call.func].scratch.is_empty() {
            self.ins().local_get(SCRATCH);
        }
        for values in params {
            let param = self.tables.param(values).ok_or_else(|| WasmError::Kernel {
                kernel: self.kernel_name(call.kernel).to_string(),
                message: "a range of its tasks does not fit 32 bits: make the model smaller".into(),
            })?;
            self.param(param);
        }
        let function = self.imported + call.func as u32;
        self.ins().call(function);
        Ok(())
    }

    fn param(&mut self, param: Param) {
        match param {
            Param::Const(c) => by_width_of!(self, i64_const(c), i32_const(c as i32)),
            Param::Linear { start, step } => {
                self.ins().local_get(TASK);
                if step != 1 {
                    self.ins().i32_const(step as i32).i32_mul();
                }
                if start != 0 {
                    self.ins().i32_const(start as i32).i32_add();
                }
                if self.memory64 {
                    self.ins().i64_extend_i32_s();
                }
            }
            Param::Table(offset) => {
                let at = MemArg {
                    offset: (self.tables_at + offset) as u64,
                    align: 2,
                    target: Default::default(),
                    ordering: None,
                };
                self.ins().local_get(TASK).i32_const(2).i32_shl();
                if self.memory64 {
                    self.ins().i64_extend_i32_u().i64_load32_u(at);
                } else {
                    self.ins().i32_load(at);
                }
            }
        }
    }
}
