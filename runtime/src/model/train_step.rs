//! A training step: one program, or two where it has several micro-batches.
//!
//! With one batch a step, the program computes gradients and updates. With N micro-batches, the *accumulate* program adds the gradient of each
//! to sums, and the *update* program takes the mean of them, clips, and updates; `optimizer` says what the two graphs are. Weights and moments
//! live in the program that updates. Sums go from the first to the second before the update, and weights back after it.
//!
//! Invariants
//! - A step is fed each of its micro-batches, in order, then submitted, then taken. A feed too few or too many is an error.
//! - Between steps the sums mean nothing: the first micro-batch begins new ones. So weights and moments are the whole state.
//! - With several micro-batches one step is under way at a time, and nothing is allocated after the first.

use super::{
    Batch, check_tokens, copy_weights, initial_weights, load_weights, read_states, weight_shapes, write_states,
};
use crate::architecture::Architecture;
use crate::checkpoint::check_architecture;
use crate::compile::{self, Compiled, ExecOptions, Goal};
use crate::executor::{Executor, Timeline};
use crate::loss_scale::LossScale;
use crate::tensor::{DType, HostTensor};
use crate::tensor_file::Tensors;
use crate::{Error, Result};
use tinygpt_passes::optimizer::{AdamWConfig, LOSS_SCALE};

/// The moments' states are these prefixes and a weight's name.
const MOMENTS: [&str; 2] = ["adam.m.", "adam.v."];

/// What a training step says of itself: both before the update.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepResult {
    /// Mean cross-entropy in nats.
    pub loss: f64,
    /// Global norm of the gradients before clipping. Where it or the loss is not finite, the step has changed nothing.
    pub grad_norm: f64,
}

impl StepResult {
    /// Whether the step has changed anything.
    pub fn is_finite(&self) -> bool {
        self.loss.is_finite() && self.grad_norm.is_finite()
    }
}

/// A training step with its weights and moments.
pub struct TrainStep {
    exec: Box<dyn Executor>,
    compiled: Compiled,
    vocab: usize,
    lr: HostTensor,
    step: HostTensor,
    loss: HostTensor,
    grad_norm: HostTensor,
    /// Input of the program that differentiates, in mixed precision.
    loss_scale: Option<HostTensor>,
    sums: Option<Sums>,
    /// Micro-batches fed of the step to be submitted.
    fed: u64,
}

/// The accumulate program, and what passes between it and the update program.
struct Sums {
    exec: Box<dyn Executor>,
    compiled: Compiled,
    /// Of a step; at least 2.
    micro_batches: u64,
    /// Whether the weights here are those of the update program.
    current: bool,
    micro: HostTensor,
    loss: HostTensor,
    /// Sum of the losses of the step's micro-batches.
    total: f64,
    /// A weight's name, that of its sum, and room for either.
    carried: Vec<(String, String, HostTensor)>,
}

impl TrainStep {
    /// Compiles and prepares a step of one batch; weights and moments are zeros. With `gradients` they are outputs `grad.NAME`.
    pub fn new(
        model: impl Into<Architecture>,
        batch: usize,
        adamw: AdamWConfig,
        gradients: bool,
        options: &ExecOptions,
    ) -> Result<Self> {
        Self::make(&model.into(), batch, &Goal::Train { adamw, gradients }, None, options)
    }

    /// Compiles and prepares a step of `micro_batches` batches, at least one; weights and moments are zeros.
    pub fn accumulating(
        model: impl Into<Architecture>,
        batch: usize,
        adamw: AdamWConfig,
        micro_batches: u64,
        options: &ExecOptions,
    ) -> Result<Self> {
        let model = model.into();
        if micro_batches <= 1 {
            return Self::new(model, batch, adamw, false, options);
        }
        let sums = Sums::new(&model, batch, micro_batches, options)?;
        Self::make(&model, batch, &Goal::Update { adamw, micro_batches }, Some(sums), options)
    }

    fn make(
        model: &Architecture,
        batch: usize,
        goal: &Goal,
        sums: Option<Sums>,
        options: &ExecOptions,
    ) -> Result<Self> {
        let target = options.target();
        let compiled = compile::compile(model.forward(batch)?, goal, &target)?;
        let exec = compile::prepare(&compiled, options)?;
        let loss_scale = target.f16_operands.then(|| HostTensor::scalar_f32(LossScale::default().begin()));
        let [lr, step, loss, grad_norm] = [0.0; 4].map(HostTensor::scalar_f32);
        Ok(Self { exec, compiled, vocab: model.vocab(), lr, step, loss, grad_norm, loss_scale, sums, fed: 0 })
    }

    /// What computes the gradients was compiled from and to; with one batch a step that is the whole step.
    pub fn compiled(&self) -> &Compiled {
        self.sums.as_ref().map_or(&self.compiled, |sums| &sums.compiled)
    }

    /// Every program of the step, in the order in which they run.
    pub fn programs(&self) -> impl Iterator<Item = (&Compiled, &dyn Executor)> {
        let first = self.sums.iter().map(|sums| (&sums.compiled, &*sums.exec));
        first.chain(std::iter::once((&self.compiled, &*self.exec)))
    }

    /// The program that updates.
    pub fn executor(&mut self) -> &mut dyn Executor {
        &mut *self.exec
    }

    /// Batches of a step.
    pub fn micro_batches(&self) -> u64 {
        self.sums.as_ref().map_or(1, |sums| sums.micro_batches)
    }

    /// Starts from the weights of `seed`, moments zero.
    pub fn start(&mut self, seed: u64) -> Result<()> {
        let weights = initial_weights(&self.compiled.forward, seed)?;
        tracing::debug!("made starting weights");
        self.load(&weights, None, "the starting weights")?;
        tracing::debug!("loaded starting weights");
        Ok(())
    }

    /// Goes on from `weights` and moments, or with moments zero. The error names `origin`.
    pub fn load(&mut self, weights: &Tensors, moments: Option<[&Tensors; 2]>, origin: &str) -> Result<()> {
        load_weights(&mut *self.exec, &self.compiled.forward, weights, origin)?;
        self.fed = 0;
        if let Some(sums) = &mut self.sums {
            sums.current = false;
        }
        let Some(moments) = moments else {
            let weights = weight_shapes(&self.compiled.forward);
            let named = |prefix: &'static str| weights.iter().map(move |(name, _)| format!("{prefix}{name}"));
            return self.exec.clear(&MOMENTS.into_iter().flat_map(named).collect::<Vec<_>>());
        };
        MOMENTS.iter().zip(moments).try_for_each(|(prefix, tensors)| {
            check_architecture(tensors, &weight_shapes(&self.compiled.forward), origin)?;
            write_states(&mut *self.exec, prefix, tensors)
        })
    }

    /// One step of one batch at learning rate `lr`; `number` counts from 1. No submitted step may be under way.
    pub fn run(&mut self, batch: &Batch, lr: f64, number: u64) -> Result<StepResult> {
        self.submit(batch, lr, number)?;
        self.take()
    }

    /// One step of one batch with clocks; its results are left. Errors: the backend keeps none.
    pub fn run_clocked(&mut self, batch: &Batch, lr: f64, number: u64) -> Result<Timeline> {
        self.feed(batch)?;
        self.write_scalars(lr, number)?;
        self.exec.step_clocked()
    }

    /// Multiplies the loss of the steps that begin from now on by `scale`; nothing without mixed precision.
    pub fn scale_loss(&mut self, scale: f32) -> Result<()> {
        if let Some(own) = &mut self.loss_scale {
            own.as_f32_mut()?[0] = scale;
        }
        Ok(())
    }

    /// Steps that may be submitted before the results of the oldest are taken.
    pub fn depth(&self) -> usize {
        if self.sums.is_some() { 1 } else { self.exec.depth() }
    }

    /// Begins a step of one batch; see [`TrainStep::run`].
    pub fn submit(&mut self, batch: &Batch, lr: f64, number: u64) -> Result<()> {
        self.feed(batch)?;
        self.submit_fed(lr, number)
    }

    /// Gives the next micro-batch of the step that [`TrainStep::submit_fed`] will begin.
    pub fn feed(&mut self, batch: &Batch) -> Result<()> {
        check_tokens(batch.ids.as_i32()?, self.vocab)?;
        check_tokens(batch.targets.as_i32()?, self.vocab)?;
        if self.fed == self.micro_batches() {
            return Err(Error::failed(format!("a step of {} micro-batches was fed one more", self.fed)));
        }
        match &mut self.sums {
            Some(sums) => {
                if let Some(scale) = &self.loss_scale {
                    sums.exec.write(LOSS_SCALE, scale)?;
                }
                sums.add(batch, self.fed, &mut *self.exec)?;
            }
            None => {
                if let Some(scale) = &self.loss_scale {
                    self.exec.write(LOSS_SCALE, scale)?;
                }
                self.exec.write("ids", &batch.ids)?;
                self.exec.write("targets", &batch.targets)?;
            }
        }
        self.fed += 1;
        Ok(())
    }

    /// Begins the step whose micro-batches have all been fed, at learning rate `lr`; `number` counts from 1.
    pub fn submit_fed(&mut self, lr: f64, number: u64) -> Result<()> {
        self.write_scalars(lr, number)?;
        if let Some(sums) = &mut self.sums {
            self.loss.as_f32_mut()?[0] = sums.hand_over(&mut *self.exec)?;
            self.exec.write("loss", &self.loss)?;
        }
        self.exec.submit()
    }

    fn write_scalars(&mut self, lr: f64, number: u64) -> Result<()> {
        let (fed, expected) = (std::mem::take(&mut self.fed), self.micro_batches());
        if fed != expected {
            return Err(Error::failed(format!("a step of {expected} micro-batches was begun with {fed}")));
        }
        self.lr.as_f32_mut()?[0] = lr as f32;
        self.step.as_f32_mut()?[0] = number as f32;
        self.exec.write("lr", &self.lr)?;
        self.exec.write("step", &self.step)
    }

    /// Waits for the oldest submitted step.
    pub fn take(&mut self) -> Result<StepResult> {
        if self.sums.is_some() {
            self.exec.take(&mut [("grad_norm", &mut self.grad_norm)])?;
        } else {
            self.exec.take(&mut [("loss", &mut self.loss), ("grad_norm", &mut self.grad_norm)])?;
        }
        Ok(StepResult { loss: self.loss.as_f32()?[0].into(), grad_norm: self.grad_norm.as_f32()?[0].into() })
    }

    /// The weights as they are now.
    pub fn weights(&mut self) -> Result<Tensors> {
        let names = weight_shapes(&self.compiled.forward);
        read_states(&mut *self.exec, "", names.iter().map(|(name, _)| name))
    }

    /// First and second moments as they are now, by the weights' names.
    pub fn moments(&mut self) -> Result<[Tensors; 2]> {
        let names = weight_shapes(&self.compiled.forward);
        let mut read = |prefix| read_states(&mut *self.exec, prefix, names.iter().map(|(name, _)| name));
        Ok([read(MOMENTS[0])?, read(MOMENTS[1])?])
    }

    /// The gradients of the last step, before clipping; only where they were asked for.
    pub fn gradients(&mut self) -> Result<Tensors> {
        let names = weight_shapes(&self.compiled.forward);
        read_states(&mut *self.exec, "grad.", names.iter().map(|(name, _)| name))
    }

    /// Copies the weights into another program of the same model.
    pub(super) fn copy_weights_to(&mut self, to: &mut dyn Executor) -> Result<()> {
        copy_weights(&mut *self.exec, to, &self.compiled.forward)
    }
}

impl Sums {
    fn new(model: &Architecture, batch: usize, micro_batches: u64, options: &ExecOptions) -> Result<Self> {
        let compiled = compile::compile(model.forward(batch)?, &Goal::Accumulate, &options.target())?;
        let exec = compile::prepare(&compiled, options)?;
        let weights = weight_shapes(&compiled.forward).into_iter();
        let carried = weights.map(|(name, shape)| {
            let sum = format!("grad.{name}");
            Ok((name, sum, HostTensor::zeros(DType::F32, &shape)?))
        });
        let carried = carried.collect::<Result<_>>()?;
        let [micro, loss] = [0.0; 2].map(HostTensor::scalar_f32);
        Ok(Self { exec, compiled, micro_batches, current: false, micro, loss, total: 0.0, carried })
    }

    /// Adds the gradient of micro-batch `micro` under the weights of `update`.
    fn add(&mut self, batch: &Batch, micro: u64, update: &mut dyn Executor) -> Result<()> {
        if !self.current {
            for (name, _, room) in &mut self.carried {
                update.read_into(name, room)?;
                self.exec.write(name, room)?;
            }
            self.current = true;
        }
        self.micro.as_f32_mut()?[0] = micro as f32;
        self.exec.write("micro", &self.micro)?;
        self.exec.write("ids", &batch.ids)?;
        self.exec.write("targets", &batch.targets)?;
        self.exec.step()?;
        self.exec.read_into("loss", &mut self.loss)?;
        let before = if micro == 0 { 0.0 } else { self.total };
        self.total = before + f64::from(self.loss.as_f32()?[0]);
        Ok(())
    }

    /// Gives the sums to `update`, which will change the weights, and returns the mean loss.
    fn hand_over(&mut self, update: &mut dyn Executor) -> Result<f32> {
        for (_, sum, room) in &mut self.carried {
            self.exec.read_into(sum, room)?;
            update.write(sum, room)?;
        }
        self.current = false;
        Ok((self.total / self.micro_batches as f64) as f32)
    }
}
