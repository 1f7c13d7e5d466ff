//! The interpreter backend: the f64 interpreters of graphs and of programs behind the executor interface. Slow, and the oracle of the others.
//!
//! Invariants:
//! - It evaluates the graph or program that it is given; what is not rewritten cannot be rewritten wrongly.
//! - A step computes in f64. States are rounded to their own dtype once, when the step ends, so that a checkpoint holds all
//!   that a run is, and a resumed run goes on to the last bit.

use crate::executor::{Executor, MemoryReport, Role, Slot, Slots};
use crate::tensor::{DType, HostData, HostTensor};
use crate::{Error, Result};
use tinygpt_ir::program::{BufferKind, Program, ProgramInterp};
use tinygpt_ir::{Graph, ParamKind, Tensor, TensorType};

/// A graph with the values of its parameters and the outputs of its last step.
pub struct InterpExecutor {
    graph: Graph,
    slots: Slots,
    /// By parameter.
    params: Vec<Tensor>,
    /// By output; zeros before the first step.
    outputs: Vec<Tensor>,
}

impl InterpExecutor {
    /// Errors: an input, state or output in f16, which the host does not convert; names that are not unique.
    pub fn new(graph: &Graph) -> Result<Self> {
        let params = graph.params.values().map(|p| {
            let role = if p.is_state() { Role::State } else { Role::Input };
            (p.name.as_str(), role, &p.ty)
        });
        let outputs = graph.outputs.iter().map(|(name, node)| (name.as_str(), Role::Output, &graph.nodes[*node].ty));
        let slots: Vec<Slot> =
            params.chain(outputs).map(|(name, role, ty)| Slot::new(name, role, ty.dtype.into(), &ty.shape)).collect();
        refuse_f16(&slots)?;
        let zeros = |ty: &TensorType| Tensor::splat(ty.clone(), 0.0);
        Ok(Self {
            slots: Slots::new(slots)?,
            params: graph.params.values().map(|p| zeros(&p.ty)).collect(),
            outputs: graph.outputs.iter().map(|(_, node)| zeros(&graph.nodes[*node].ty)).collect(),
            graph: graph.clone(),
        })
    }

    /// The value in slot `at`: parameters come first, then outputs.
    fn value(&self, at: usize) -> &Tensor {
        self.params.get(at).unwrap_or_else(|| &self.outputs[at - self.params.len()])
    }
}

impl Executor for InterpExecutor {
    fn backend(&self) -> &'static str {
        "interp"
    }

    fn slots(&self) -> &Slots {
        &self.slots
    }

    /// What lives between steps, in f64; the values within a step are not planned.
    fn memory(&self) -> MemoryReport {
        let bytes = |tensors: &[Tensor]| tensors.iter().map(|t| 8 * t.data.len()).sum::<usize>();
        let planned_bytes = bytes(&self.params) + bytes(&self.outputs);
        let states = self.graph.params.values().filter(|p| p.is_state()).map(|p| 8 * p.ty.numel()).sum();
        MemoryReport { planned_bytes, lower_bound_bytes: planned_bytes, state_bytes: states }
    }

    fn write(&mut self, name: &str, value: &HostTensor) -> Result<()> {
        let at = self.slots.check_write(name, value)?;
        self.params[at].data = to_f64(value);
        Ok(())
    }

    fn read_into(&mut self, name: &str, value: &mut HostTensor) -> Result<()> {
        let at = self.slots.check_read(name, value)?;
        fill_from_f64(value, &self.value(at).data);
        Ok(())
    }

    fn step(&mut self) -> Result<()> {
        let done = tinygpt_ir::interp::eval(&self.graph, &self.params).map_err(|e| Error::failed(e.to_string()))?;
        for (param, mut value) in done.updates {
            if value.ty.dtype == tinygpt_ir::DType::F32 {
                value.data.iter_mut().for_each(|x| *x = f64::from(*x as f32));
            }
            self.params[param.index()] = value;
        }
        self.outputs = done.outputs.into_iter().map(|(_, value)| value).collect();
        Ok(())
    }
}

/// A program with its memory, kernel by kernel, at its placed bytes.
pub struct ProgramInterpExecutor {
    interp: ProgramInterp,
    slots: Slots,
}

impl ProgramInterpExecutor {
    /// Inputs and states are zeros. `program` satisfies the verifier.
    ///
    /// Errors: an input, state or output in f16, which the host does not convert; names that are not unique.
    pub fn new(program: &Program) -> Result<Self> {
        let params = program.params.iter().map(|p| {
            let role = if matches!(p.kind, ParamKind::Input) { Role::Input } else { Role::State };
            Slot::new(&p.name, role, p.ty.dtype.into(), &p.ty.shape)
        });
        let outputs = program.outputs.iter().map(|o| Slot::new(&o.name, Role::Output, o.ty.dtype.into(), &o.ty.shape));
        let slots: Vec<Slot> = params.chain(outputs).collect();
        refuse_f16(&slots)?;
        let mut interp = ProgramInterp::new(program).map_err(|e| Error::failed(e.to_string()))?;
        for p in &program.params {
            interp.write(&p.name, &vec![0.0; p.ty.numel()]).map_err(|e| Error::failed(e.to_string()))?;
        }
        Ok(Self { interp, slots: Slots::new(slots)? })
    }
}

impl Executor for ProgramInterpExecutor {
    fn backend(&self) -> &'static str {
        "interp"
    }

    fn slots(&self) -> &Slots {
        &self.slots
    }

    /// As the program plans it, for the target that it was compiled for.
    fn memory(&self) -> MemoryReport {
        let program = self.interp.program();
        let own = program.buffers.values().filter(|b| b.kind != BufferKind::Temp).map(|b| b.bytes()).sum::<usize>();
        let states = program.buffers.values().filter(|b| matches!(b.kind, BufferKind::State(_)));
        MemoryReport {
            planned_bytes: own + program.memory.planned,
            lower_bound_bytes: own + program.memory.lower_bound,
            state_bytes: states.map(|b| b.bytes()).sum(),
        }
    }

    fn write(&mut self, name: &str, value: &HostTensor) -> Result<()> {
        self.slots.check_write(name, value)?;
        self.interp.write(name, &to_f64(value)).map_err(|e| Error::input(e.to_string()))
    }

    fn read_into(&mut self, name: &str, value: &mut HostTensor) -> Result<()> {
        self.slots.check_read(name, value)?;
        fill_from_f64(value, &self.interp.read(name).map_err(|e| Error::input(e.to_string()))?);
        Ok(())
    }

    fn step(&mut self) -> Result<()> {
        self.interp.step().map_err(|e| Error::failed(e.to_string()))?;
        let names: Vec<String> =
            self.slots.of(Role::State).filter(|s| s.dtype == DType::F32).map(|s| s.name.clone()).collect();
        for name in names {
            let rounded: Vec<f64> = self
                .interp
                .read(&name)
                .map_err(|e| Error::failed(e.to_string()))?
                .iter()
                .map(|x| f64::from(*x as f32))
                .collect();
            self.interp.write(&name, &rounded).map_err(|e| Error::failed(e.to_string()))?;
        }
        Ok(())
    }
}

fn refuse_f16(slots: &[Slot]) -> Result<()> {
    match slots.iter().find(|slot| slot.dtype == DType::F16) {
        None => Ok(()),
        Some(slot) => Err(Error::input(format!(
            "{} is f16, and the interpreter exchanges f32, i32, u32 and bool: cast it in the graph",
            slot.name
        ))),
    }
}

/// The elements as the interpreters take them; binary16, which executors refuse, as its bits.
pub(crate) fn to_f64(value: &HostTensor) -> Vec<f64> {
    match value.data() {
        HostData::F32(from) => from.iter().map(|x| f64::from(*x)).collect(),
        HostData::I32(from) => from.iter().map(|x| f64::from(*x)).collect(),
        HostData::U32(from) => from.iter().map(|x| f64::from(*x)).collect(),
        HostData::Bool(from) => from.iter().map(|x| f64::from(u8::from(*x))).collect(),
        HostData::F16(from) => from.iter().map(|x| f64::from(*x)).collect(),
    }
}

/// The inverse of [`to_f64`], floats rounded.
pub(crate) fn fill_from_f64(value: &mut HostTensor, from: &[f64]) {
    match value.data_mut() {
        HostData::F32(to) => copy(to, from, |x| *x as f32),
        HostData::I32(to) => copy(to, from, |x| *x as i32),
        HostData::U32(to) => copy(to, from, |x| *x as u32),
        HostData::Bool(to) => copy(to, from, |x| *x != 0.0),
        HostData::F16(to) => copy(to, from, |x| *x as u16),
    }
}

fn copy<A, B>(to: &mut [B], from: &[A], convert: impl Fn(&A) -> B) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to = convert(from));
}

#[cfg(test)]
mod tests {
    use super::*;
    use tinygpt_ir::{Builder, Init, Literal};

    /// total += x * n, one slot of each role and dtype.
    fn accumulator() -> Graph {
        let b = Builder::new("accumulator");
        let x = b.input("x", TensorType::f32([2]));
        let n = b.input("n", TensorType::new(tinygpt_ir::DType::I32, []));
        let total = b.weight("total", [2], Init::Zeros);
        let next = total + x * n.cast(tinygpt_ir::DType::F32);
        b.update(total, next);
        b.output("sum", next.sum(&[0]));
        b.output("large", next.gt(b.splat([2], Literal::f32(3.0))));
        b.finish().unwrap()
    }

    #[test]
    fn states_are_kept_and_rounded_and_inputs_stay() {
        let mut exec = InterpExecutor::new(&accumulator()).unwrap();
        exec.write("x", &HostTensor::f32(&[2], vec![0.1, 1.0]).unwrap()).unwrap();
        exec.write("n", &HostTensor::i32(&[], vec![2]).unwrap()).unwrap();
        exec.step().unwrap();
        exec.step().unwrap();
        let double = f64::from(0.1f32) * 2.0;
        let once = f64::from(double as f32);
        assert_eq!(exec.read("total").unwrap().as_f32().unwrap(), [(once + double) as f32, 4.0]);
        assert_eq!(exec.params[2].data[0], f64::from((once + double) as f32), "states are kept rounded");
        assert_eq!(exec.read("large").unwrap().as_bool().unwrap(), [false, true]);
        assert_eq!(exec.read("n").unwrap().as_i32().unwrap(), [2]);
        assert!(exec.write("sum", &HostTensor::scalar_f32(0.0)).is_err());
        assert_eq!(exec.memory().state_bytes, 16);
    }

    #[test]
    fn half_precision_slots_are_refused() {
        let b = Builder::new("half");
        b.output("y", b.input("x", TensorType::new(tinygpt_ir::DType::F16, [2])));
        let error = InterpExecutor::new(&b.finish().unwrap()).err().unwrap();
        assert!(error.to_string().starts_with("x is f16, and the interpreter exchanges"), "{error}");
    }
}
