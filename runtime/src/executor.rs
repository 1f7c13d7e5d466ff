//! The executor: a prepared program behind one interface, whichever backend runs it.
//!
//! An executor is a machine with named *slots*. A step reads inputs and states and writes states and outputs; between
//! steps the host writes inputs and states and reads anything. Invariants, the same for every backend:
//!
//! - **Fixed slots.** Names, roles, types and shapes are settled when the program is prepared and listed in [`Slots`].
//!   Names are unique over all roles.
//! - **Checked border.** A write or read names an existing slot and has exactly its type and shape, or it is an error
//!   that says what was found and what was expected. No conversion, no broadcast.
//! - **Inputs stay.** A written input keeps its value over steps until written again. Inputs and states start as zeros.
//! - **Steps are whole.** After `step` returns, every output and state holds that step's value, and a failed step is an
//!   error that leaves the executor unusable rather than half-updated in silence.
//! - **Steps may be under way.** `submit` begins a step and `take` ends the oldest, so that a device computes while the host prepares;
//!   reads and writes in between behave as if every submitted step were done.
//! - **No allocation** in `write`, `read_into` and `step` after the first step.

use crate::error::did_you_mean;
use crate::tensor::{DType, HostTensor, type_name};
use crate::{Error, Result};
use std::collections::HashMap;
use tinygpt_ir::program::KernelId;

/// What a slot is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Written by the host, read by the step: token ids, learning rate.
    Input,
    /// Read and updated by the step, and kept: weights, optimizer moments.
    State,
    /// Written by the step, read by the host: loss, gradient norm, logits.
    Output,
}

/// One named value of a prepared program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    pub name: String,
    pub role: Role,
    pub dtype: DType,
    pub shape: Vec<usize>,
}

impl Slot {
    pub fn new(name: impl Into<String>, role: Role, dtype: DType, shape: &[usize]) -> Self {
        Self { name: name.into(), role, dtype, shape: shape.to_vec() }
    }

    /// `f32[16,64]`
    pub fn type_name(&self) -> String {
        type_name(self.dtype, &self.shape)
    }
}

/// The slots of a program, in the program's order, found by name in constant time and without allocation.
#[derive(Debug, Clone, Default)]
pub struct Slots {
    slots: Vec<Slot>,
    index: HashMap<String, usize>,
}

impl Slots {
    /// An error when two slots share a name.
    pub fn new(slots: Vec<Slot>) -> Result<Self> {
        let mut index = HashMap::with_capacity(slots.len());
        for (i, slot) in slots.iter().enumerate() {
            if index.insert(slot.name.clone(), i).is_some() {
                return Err(Error::input(format!("the program has two inputs, states or outputs named {}", slot.name)));
            }
        }
        Ok(Self { slots, index })
    }

    pub fn iter(&self) -> std::slice::Iter<'_, Slot> {
        self.slots.iter()
    }

    /// The slots of one role, in the program's order.
    pub fn of(&self, role: Role) -> impl Iterator<Item = &Slot> {
        self.slots.iter().filter(move |slot| slot.role == role)
    }

    /// The number of the slot of this name; an error with the nearest name when there is none.
    pub fn find(&self, name: &str) -> Result<usize> {
        self.index.get(name).copied().ok_or_else(|| {
            let near = did_you_mean(name, self.slots.iter().map(|slot| slot.name.as_str()));
            Error::input(format!("the program has no input, state or output named \"{name}\"{near}"))
        })
    }

    /// The number of the input or state `name`.
    pub fn find_writable(&self, name: &str) -> Result<usize> {
        let at = self.find(name)?;
        if self.slots[at].role == Role::Output {
            return Err(Error::input(format!(
                "{name} is an output of the program, and only inputs and states can be written"
            )));
        }
        Ok(at)
    }

    /// Checks a write of `value` to `name`; returns the slot's number.
    pub fn check_write(&self, name: &str, value: &HostTensor) -> Result<usize> {
        let at = self.find_writable(name)?;
        self.check_type(at, value)?;
        Ok(at)
    }

    /// Checks a read of `name` into `value`; returns the slot's number.
    pub fn check_read(&self, name: &str, value: &HostTensor) -> Result<usize> {
        let at = self.find(name)?;
        self.check_type(at, value)?;
        Ok(at)
    }

    fn check_type(&self, at: usize, value: &HostTensor) -> Result<()> {
        let slot = &self.slots[at];
        if slot.dtype == value.dtype() && slot.shape == value.shape() {
            return Ok(());
        }
        Err(Error::input(format!(
            "{} is {}, and a tensor {} was given",
            slot.name,
            slot.type_name(),
            value.type_name()
        )))
    }
}

impl std::ops::Index<usize> for Slots {
    type Output = Slot;

    fn index(&self, at: usize) -> &Slot {
        &self.slots[at]
    }
}

/// The memory of a prepared program, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemoryReport {
    /// Everything planned: states, inputs, outputs and temporaries as placed.
    pub planned_bytes: usize,
    /// The most bytes that are live at once: no placement can need less.
    pub lower_bound_bytes: usize,
    /// Of the planned bytes, those that states keep between steps.
    pub state_bytes: usize,
}

/// One piece of a kernel's work in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    /// Of kernels that run as one, the first: see [`Timeline::together`].
    pub kernel: KernelId,
    /// A thread of the CPU, or 0 on a GPU.
    pub track: usize,
    /// Nanoseconds since the step began.
    pub start_ns: u64,
    pub end_ns: u64,
}

/// One step, as its clocks saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeline {
    pub tracks: usize,
    pub step_ns: u64,
    pub regions: Vec<Region>,
    /// Kernels that run as one: the region of the first holds the time of all.
    pub together: Vec<Vec<KernelId>>,
}

/// A prepared program. See the module's invariants.
pub trait Executor {
    /// The backend's name as the command line spells it.
    fn backend(&self) -> &'static str;

    /// Inputs, states and outputs with their types.
    fn slots(&self) -> &Slots;

    /// Planned memory.
    fn memory(&self) -> MemoryReport;

    /// Copies `value` into an input or state.
    fn write(&mut self, name: &str, value: &HostTensor) -> Result<()>;

    /// Makes these inputs and states zeros.
    fn clear(&mut self, names: &[String]) -> Result<()> {
        names.iter().try_for_each(|name| {
            let slot = &self.slots()[self.slots().find(name)?];
            let zeros = HostTensor::zeros(slot.dtype, &slot.shape)?;
            self.write(name, &zeros)
        })
    }

    /// Copies an input, state or output into `value`, which has its type and shape.
    fn read_into(&mut self, name: &str, value: &mut HostTensor) -> Result<()>;

    /// Runs the program once. No submitted step may be under way.
    fn step(&mut self) -> Result<()>;

    /// Runs the program once with clocks around the pieces of its kernels. Errors: the backend or device keeps no clocks.
    fn step_clocked(&mut self) -> Result<Timeline> {
        Err(Error::input(format!("the backend {} keeps no clocks in its steps: profile another", self.backend())))
    }

    /// What generating code took, for people; None where there is none.
    fn code_report(&self) -> Option<String> {
        None
    }

    /// Steps that may be under way at once: submitted, their results not taken.
    fn depth(&self) -> usize {
        1
    }

    /// Begins a step with the inputs as they are now. An error when `depth` steps are under way.
    fn submit(&mut self) -> Result<()> {
        self.step()
    }

    /// Ends the oldest step under way and copies these outputs of it, scalars, into tensors of their types and shapes.
    fn take(&mut self, outputs: &mut [(&str, &mut HostTensor)]) -> Result<()> {
        outputs.iter_mut().try_for_each(|(name, value)| self.read_into(name, value))
    }

    /// Reads an input, state or output into a new tensor.
    fn read(&mut self, name: &str) -> Result<HostTensor> {
        let slot = &self.slots()[self.slots().find(name)?];
        let mut value = HostTensor::zeros(slot.dtype, &slot.shape)?;
        self.read_into(name, &mut value)?;
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// total += x: the smallest program with one slot of each role.
    struct Accumulator {
        slots: Slots,
        values: Vec<HostTensor>,
    }

    impl Accumulator {
        fn new() -> Self {
            let slots = vec![
                Slot::new("x", Role::Input, DType::F32, &[2]),
                Slot::new("total", Role::State, DType::F32, &[2]),
                Slot::new("sum", Role::Output, DType::F32, &[]),
            ];
            let values = slots.iter().map(|s| HostTensor::zeros(s.dtype, &s.shape).unwrap()).collect();
            Self { slots: Slots::new(slots).unwrap(), values }
        }
    }

    impl Executor for Accumulator {
        fn backend(&self) -> &'static str {
            "test"
        }
        fn slots(&self) -> &Slots {
            &self.slots
        }
        fn memory(&self) -> MemoryReport {
            MemoryReport { planned_bytes: 20, lower_bound_bytes: 20, state_bytes: 8 }
        }
        fn write(&mut self, name: &str, value: &HostTensor) -> Result<()> {
            let at = self.slots.check_write(name, value)?;
            self.values[at].copy_from(value)
        }
        fn read_into(&mut self, name: &str, value: &mut HostTensor) -> Result<()> {
            let at = self.slots.check_read(name, value)?;
            value.copy_from(&self.values[at])
        }
        fn step(&mut self) -> Result<()> {
            let x = self.values[0].as_f32()?.to_vec();
            let total = self.values[1].as_f32_mut()?;
            total.iter_mut().zip(x).for_each(|(t, x)| *t += x);
            let sum = total.iter().sum();
            self.values[2] = HostTensor::scalar_f32(sum);
            Ok(())
        }
    }

    #[test]
    fn a_step_reads_inputs_and_keeps_states() {
        let mut program: Box<dyn Executor> = Box::new(Accumulator::new());
        program.write("x", &HostTensor::f32(&[2], vec![1.0, 2.0]).unwrap()).unwrap();
        program.step().unwrap();
        program.step().unwrap();
        assert_eq!(program.read("total").unwrap().as_f32().unwrap(), [2.0, 4.0]);
        assert_eq!(program.read("sum").unwrap(), HostTensor::scalar_f32(6.0));
        assert_eq!(program.slots().of(Role::State).count(), 1);
    }

    #[test]
    fn errors_name_what_was_found_and_expected() {
        let mut program = Accumulator::new();
        let error = program.write("x", &HostTensor::i32(&[3], vec![0; 3]).unwrap()).unwrap_err();
        assert_eq!(error.to_string(), "x is f32[2], and a tensor i32[3] was given");
        let error = program.write("totl", &HostTensor::scalar_f32(0.0)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the program has no input, state or output named \"totl\" (did you mean \"total\"?)"
        );
        let error = program.write("sum", &HostTensor::scalar_f32(0.0)).unwrap_err();
        assert_eq!(error.to_string(), "sum is an output of the program, and only inputs and states can be written");
        let twice = vec![Slot::new("x", Role::Input, DType::F32, &[]), Slot::new("x", Role::State, DType::F32, &[])];
        assert!(Slots::new(twice).unwrap_err().to_string().contains("named x"));
    }
}
