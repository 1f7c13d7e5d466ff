//! The f64 interpreter of programs: slow, obvious, and the oracle of every backend's kernels and of every memory plan.
//!
//! Invariants
//! - The program satisfies the verifier (module [`verify`](super::verify)). What a wrong plan or pass can break without making it
//!   ill-formed is still checked here: every access lies in its buffer, and every buffer in its slab or slot.
//! - Temporaries live in their *placed* bytes: the slab and the slots are arrays of cells of two bytes, an element fills all of
//!   its cells, and reads as NaN unless all of them hold what one store wrote. Temporaries without a place, or in packs (which are never
//!   reused), have storage of their own.
//!   All temporaries and outputs are NaN before each step. So a wrong plan, or a value that nothing wrote, shows as wrong numbers.
//! - Floats are rounded where the program says f16 (a cast to it, a term of a contraction), and nowhere else; sums run in index order.
//! - At one point all values are computed before the first is stored; a row store of a reduce kernel is computed before, and written after,
//!   the other stores of its row. That is all the order that in-place arguments rely on.

mod memory;
#[cfg(test)]
mod tests;

use std::fmt;

use super::{
    Access, Affine, ArgId, Attention, AttentionGrad, Body, BufferId, BufferKind, Contract, ContractPart, Fold, Kernel,
    KernelId, KernelKind, Pointwise, Program, ReduceKernel, ScalarId, ScalarOp, Scatter, ScatterBase, Store, Update,
};
use crate::eval::{cast, random_unit, round_to_f16};
use crate::graph::{Init, ParamKind};
use crate::op::{Binary, Reduce, random_bits};
use crate::types::{DType, numel};
use memory::{Args, Bound, Memory};

/// Why a step could not run, in one sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterpError(pub String);

impl std::error::Error for InterpError {}

impl fmt::Display for InterpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

type Outcome<V = ()> = Result<V, InterpError>;

/// A program with its memory.
#[derive(Clone, Debug)]
pub struct ProgramInterp {
    program: Program,
    memory: Memory,
}

impl ProgramInterp {
    /// Memory for `program`: states at their initial value where that is a constant; everything else is NaN until it is written.
    pub fn new(program: &Program) -> Outcome<ProgramInterp> {
        let mut memory = Memory::new(program)?;
        for p in &program.params {
            let start = match p.kind {
                ParamKind::State { init: Init::Zeros, .. } => 0.0,
                ParamKind::State { init: Init::Ones, .. } => 1.0,
                _ => f64::NAN,
            };
            memory.fill(p.buffer, start);
        }
        Ok(ProgramInterp { program: program.clone(), memory })
    }

    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Sets the input or state `name` to `values`, row-major.
    pub fn write(&mut self, name: &str, values: &[f64]) -> Outcome {
        let Some(p) = self.program.param_named(name) else {
            return Err(InterpError(format!("program {} has no parameter {name}", self.program.name)));
        };
        if values.len() != p.ty.numel() {
            return Err(InterpError(format!("parameter {name} is {}, found {} values", p.ty, values.len())));
        }
        let dtype = p.ty.dtype;
        if let Some(i) = values.iter().position(|x| !dtype.is_float() && dtype.normalise(*x) != *x) {
            return Err(InterpError(format!(
                "element {i} of parameter {name} is {}, which {dtype} cannot hold",
                values[i]
            )));
        }
        let buffer = p.buffer;
        values.iter().enumerate().for_each(|(i, x)| self.memory.set(buffer, i, *x));
        Ok(())
    }

    /// The output `name`, or else the parameter `name`, row-major.
    pub fn read(&self, name: &str) -> Outcome<Vec<f64>> {
        let output = self.program.output_named(name).map(|o| o.buffer);
        match output.or_else(|| self.program.param_named(name).map(|p| p.buffer)) {
            Some(buffer) => Ok(self.read_buffer(buffer)),
            None => Err(InterpError(format!("program {} has no output or parameter {name}", self.program.name))),
        }
    }

    /// What a buffer holds now; of a temporary, whatever the last step left in its bytes.
    pub fn read_buffer(&self, buffer: BufferId) -> Vec<f64> {
        (0..self.program.buffers[buffer].len).map(|i| self.memory.get(buffer, i)).collect()
    }

    /// Runs one step, the kernels of a stage in order.
    pub fn step(&mut self) -> Outcome {
        self.run(|_, _| {})
    }

    /// Runs one step, the kernels of each stage in an order drawn from `seed`: a dependence within a stage shows as a difference.
    pub fn step_shuffled(&mut self, seed: u32) -> Outcome {
        self.run(|stage, kernels| {
            for i in (1..kernels.len()).rev() {
                // Fisher and Yates.
                kernels.swap(i, random_bits(seed, stage as u32, 0, i as u32) as usize % (i + 1));
            }
        })
    }

    fn run(&mut self, order: impl Fn(usize, &mut [KernelId])) -> Outcome {
        for (id, b) in self.program.buffers.iter() {
            if matches!(b.kind, BufferKind::Temp | BufferKind::Output(_)) {
                self.memory.fill(id, f64::NAN);
            }
        }
        self.memory.forget();
        for stage in 0..self.program.stages.len() {
            let mut kernels: Vec<KernelId> = self.program.stage_kernels(stage).collect();
            order(stage, &mut kernels);
            for k in kernels {
                let kernel = &self.program.kernels[k];
                let buffers = kernel.args.iter().map(|a| a.buffer).collect();
                run(kernel, &mut Bound { memory: &mut self.memory, buffers })?;
            }
        }
        Ok(())
    }
}

/// Runs one kernel on `args`, one array of elements an argument, in the order of its argument list.
pub fn run_kernel(kernel: &Kernel, args: &mut [Vec<f64>]) -> Outcome {
    if args.len() != kernel.args.len() {
        let message = format!("kernel {} has {} arguments, found {}", kernel.name, kernel.args.len(), args.len());
        return Err(InterpError(message));
    }
    run(kernel, args)
}

/// A kernel at work. Loads and stores name `role` only in errors.
struct Run<'a, A: Args + ?Sized> {
    kernel: &'a Kernel,
    args: &'a mut A,
    /// Argument position of each argument id: the identity, but in update and fold kernels.
    position: Vec<usize>,
}

fn run<A: Args + ?Sized>(kernel: &Kernel, args: &mut A) -> Outcome {
    let position = (0..kernel.args.len()).collect();
    let mut run = Run { kernel, args, position };
    match &kernel.kind {
        KernelKind::Pointwise(k) => run.pointwise(k),
        KernelKind::Update(k) => run.update(k),
        KernelKind::Fold(k) => run.fold(k),
        KernelKind::Reduce(k) => run.reduce(k),
        KernelKind::Contract(k) => run.contract(k),
        KernelKind::Attention(k) => run.attention(k),
        KernelKind::AttentionGrad(k) => run.attention_grad(k),
        KernelKind::Scatter(k) => run.scatter(k),
    }
}

impl<A: Args + ?Sized> Run<'_, A> {
    fn locate(&self, arg: ArgId, element: i64, role: fmt::Arguments<'_>) -> Outcome<(usize, usize)> {
        let name = &self.kernel.name;
        let position = self.position.get(arg.index()).copied();
        let Some((position, len)) = position.and_then(|p| Some((p, self.args.len(p)?))) else {
            return Err(InterpError(format!("kernel {name}: {role} names argument {arg}, which it does not have")));
        };
        match usize::try_from(element) {
            Ok(i) if i < len => Ok((position, i)),
            _ => Err(InterpError(format!(
                "kernel {name}: {role} reaches element {element} of argument {arg}, which has {len} elements"
            ))),
        }
    }

    fn load(&self, arg: ArgId, element: i64, role: fmt::Arguments<'_>) -> Outcome<f64> {
        let (position, i) = self.locate(arg, element, role)?;
        Ok(self.args.get(position, i))
    }

    fn store(&mut self, arg: ArgId, element: i64, x: f64, role: fmt::Arguments<'_>) -> Outcome {
        let (position, i) = self.locate(arg, element, role)?;
        self.args.set(position, i, x);
        Ok(())
    }

    /// The direct access at `point`.
    fn load_at(&self, access: &Access, point: &[usize], role: &str) -> Outcome<f64> {
        self.load(access.arg, access.at.at(point), format_args!("{role}"))
    }

    fn store_at(&mut self, access: &Access, point: &[usize], x: f64, role: &str) -> Outcome {
        self.store(access.arg, access.at.at(point), x, format_args!("{role}"))
    }

    /// Computes the scalars `wanted`, in id order, at `point`, into `values`.
    fn scalars(&self, body: &Body, wanted: &[ScalarId], point: &[usize], accs: &[f64], values: &mut [f64]) -> Outcome {
        for &id in wanted {
            let s = &body.scalars[id];
            let v = |x: &ScalarId| values[x.index()];
            let dtype_of = |x: &ScalarId| body.scalars[*x].dtype;
            values[id.index()] = match &s.op {
                ScalarOp::Const(c) => c.value,
                ScalarOp::Load(a) => {
                    let element = a.at.at(point) + a.indirect.iter().map(|i| clamped(i, v(&i.index))).sum::<i64>();
                    self.load(a.arg, element, format_args!("load {id} at point {point:?}"))?
                }
                ScalarOp::Index(a) => DType::I32.normalise(a.at(point) as f64),
                ScalarOp::Acc(i) => *accs.get(*i as usize).ok_or_else(|| {
                    InterpError(format!(
                        "kernel {}: {id} reads accumulator {i}, and there are {}",
                        self.kernel.name,
                        accs.len()
                    ))
                })?,
                ScalarOp::Unary(u, x) => u.eval(s.dtype, v(x)),
                ScalarOp::Binary(b, x, y) => b.eval(s.dtype, v(x), v(y)),
                ScalarOp::Compare(c, x, y) => f64::from(u8::from(c.eval(v(x), v(y)))),
                ScalarOp::Select(c, x, y) => {
                    if v(c) != 0.0 {
                        v(x)
                    } else {
                        v(y)
                    }
                }
                ScalarOp::Cast(x) => cast(dtype_of(x), s.dtype, v(x)),
                ScalarOp::Random { seed, counter, stream, index } => {
                    random_unit(word(v(seed)), word(v(counter)), *stream, word(v(index)))
                }
            };
        }
        Ok(())
    }

    /// Runs `stores` at `point`: all values first, then all writes.
    fn stores(&mut self, stores: &[&Store], point: &[usize], values: &[f64]) -> Outcome {
        for s in stores {
            let window = s.access.indirect.iter().map(|i| clamped(i, values[i.index.index()])).sum::<i64>();
            let element = s.access.at.at(point) + window;
            self.store(
                s.access.arg,
                element,
                values[s.value.index()],
                format_args!("the store of {} at point {point:?}", s.value),
            )?;
        }
        Ok(())
    }

    /// `stores` at every point of `space`; `acc` gives accumulator 0, where there is one.
    fn sweep(
        &mut self,
        space: &[usize],
        body: &Body,
        stores: &[Store],
        acc: impl Fn(&Self, &[usize]) -> Outcome<Vec<f64>>,
    ) -> Outcome {
        let stores: Vec<&Store> = stores.iter().collect();
        let wanted = needed(body, stores.iter().flat_map(|s| s.operands()));
        let mut values = vec![f64::NAN; body.scalars.len()];
        for_points(space, |point| {
            let accs = acc(self, point)?;
            self.scalars(body, &wanted, point, &accs, &mut values)?;
            self.stores(&stores, point, &values)
        })
    }

    fn pointwise(&mut self, k: &Pointwise) -> Outcome {
        self.sweep(&k.space, &k.body, &k.stores, |_, _| Ok(Vec::new()))
    }

    fn update(&mut self, k: &Update) -> Outcome {
        for (s, n) in k.segments.iter().enumerate() {
            let own = (0..k.roles).map(|r| s * k.roles + r);
            self.position = own.chain((0..k.shared).map(|i| k.segments.len() * k.roles + i)).collect();
            self.sweep(&[*n], &k.body, &k.stores, |_, _| Ok(Vec::new()))?;
        }
        Ok(())
    }

    fn fold(&mut self, k: &Fold) -> Outcome {
        let wanted = needed(&k.body, [k.reduction.value]);
        let dtype = k.body.scalars[k.reduction.value].dtype;
        let combine = if k.reduction.op == Reduce::Sum { Binary::Add } else { Binary::Max };
        let mut values = vec![f64::NAN; k.body.scalars.len()];
        let mut block = 0;
        for (s, n) in k.segments.iter().enumerate() {
            self.position = vec![s, k.segments.len()];
            for first in (0..*n).step_by(k.block) {
                let mut result: Option<f64> = None;
                for i in first..(first + k.block).min(*n) {
                    self.scalars(&k.body, &wanted, &[i], &[], &mut values)?;
                    let x = values[k.reduction.value.index()];
                    result = Some(result.map_or(x, |a| combine.eval(dtype, a, x)));
                }
                self.store_at(&k.out, &[block], result.unwrap_or(f64::NAN), "the store of the results")?;
                block += 1;
            }
        }
        Ok(())
    }

    fn reduce(&mut self, k: &ReduceKernel) -> Outcome {
        let rank = k.rows.len();
        let (row_stores, element_stores): (Vec<&Store>, Vec<&Store>) = k.stores.iter().partition(|s| k.is_row_store(s));
        let sweeps: Vec<Vec<ScalarId>> = k.reductions.iter().map(|r| needed(&k.body, [r.value])).collect();
        let row_wanted = needed(&k.body, row_stores.iter().map(|s| s.value));
        let element_wanted = needed(&k.body, element_stores.iter().map(|s| s.value));
        let mut values = vec![f64::NAN; k.body.scalars.len()];
        for_points(&k.rows, |row| {
            let mut point = row.to_vec();
            point.resize(rank + k.cols.len(), 0);
            let mut accs = vec![f64::NAN; k.reductions.len()];
            for (i, r) in k.reductions.iter().enumerate() {
                let dtype = k.body.scalars[r.value].dtype;
                let mut best: Option<f64> = None;
                let mut argmax = 0;
                let mut col_number = 0;
                for_points(&k.cols, |col| {
                    point[rank..].copy_from_slice(col);
                    self.scalars(&k.body, &sweeps[i], &point, &accs, &mut values)?;
                    let x = values[r.value.index()];
                    best = Some(match best {
                        None => x,
                        Some(a) => match r.op {
                            Reduce::Sum => Binary::Add.eval(dtype, a, x),
                            Reduce::Max => Binary::Max.eval(dtype, a, x),
                            Reduce::ArgMax if a < x => {
                                argmax = col_number;
                                x
                            }
                            Reduce::ArgMax => a,
                        },
                    });
                    col_number += 1;
                    Ok(())
                })?;
                accs[i] = if r.op == Reduce::ArgMax { f64::from(argmax) } else { best.unwrap_or(f64::NAN) };
            }
            point[rank..].fill(0);
            let mut row_values = values.clone();
            self.scalars(&k.body, &row_wanted, &point, &accs, &mut row_values)?;
            if !element_stores.is_empty() {
                for_points(&k.cols, |col| {
                    point[rank..].copy_from_slice(col);
                    self.scalars(&k.body, &element_wanted, &point, &accs, &mut values)?;
                    self.stores(&element_stores, &point, &values)
                })?;
            }
            point[rank..].fill(0);
            self.stores(&row_stores, &point, &row_values)
        })
    }

    fn contract(&mut self, k: &Contract) -> Outcome {
        k.parts.iter().try_for_each(|part| self.contract_part(part))
    }

    fn contract_part(&mut self, part: &ContractPart) -> Outcome {
        let (nb, nm) = (part.batch.len(), part.m.len());
        // Offsets of each term along its contracted axes, on both sides.
        let along_k: Vec<(Vec<i64>, Vec<i64>)> = part
            .terms
            .iter()
            .map(|t| {
                let offsets = |at: &Affine, free: usize| {
                    let along = Affine { offset: 0, coeffs: at.coeffs[free..].to_vec() };
                    let mut out = Vec::with_capacity(numel(&t.k));
                    for_points(&t.k, |k| {
                        out.push(along.at(k));
                        Ok(())
                    })?;
                    Ok(out)
                };
                Ok((offsets(&t.lhs.at, nb + nm)?, offsets(&t.rhs.at, nb + part.n.len())?))
            })
            .collect::<Outcome<_>>()?;
        let product = |run: &Self, point: &[usize]| {
            let (batch, rest) = point.split_at(nb);
            let (m, n) = rest.split_at(nm);
            let mut acc = 0.0;
            for (t, (lhs_k, rhs_k)) in part.terms.iter().zip(&along_k) {
                // Coefficients along k meet no index here: `at` stops with the shorter list.
                let lhs = t.lhs.at.at(&[batch, m].concat());
                let rhs = t.rhs.at.at(&[batch, n].concat());
                for (l, r) in lhs_k.iter().zip(rhs_k) {
                    let a = run.load(t.lhs.arg, lhs + l, format_args!("the left operand at point {point:?}"))?;
                    let b = run.load(t.rhs.arg, rhs + r, format_args!("the right operand at point {point:?}"))?;
                    acc += if t.f16 { round_to_f16(a) * round_to_f16(b) } else { a * b };
                }
            }
            Ok(vec![acc])
        };
        self.sweep(&part.space(), &part.body, &part.stores, product)
    }

    fn attention(&mut self, k: &Attention) -> Outcome {
        let s = k.shape;
        for_points(&[s.batch, s.heads, s.q_len], |row| {
            let (b, h, t) = (row[0], row[1], row[2]);
            let keys = if s.causal { (t + 1).min(s.k_len) } else { s.k_len };
            let mut scores = Vec::with_capacity(keys);
            for key in 0..keys {
                let mut dot = 0.0;
                for d in 0..s.head_dim {
                    dot += self.load_at(&k.q, &[b, h, t, d], "q")? * self.load_at(&k.k, &[b, h, key, d], "k")?;
                }
                scores.push(s.scale * dot);
            }
            let top = scores.iter().copied().reduce(|a, b| Binary::Max.eval(DType::F32, a, b)).unwrap_or(f64::NAN);
            let weights: Vec<f64> = scores.iter().map(|x| (x - top).exp()).collect();
            let total: f64 = weights.iter().sum();
            if let (Some(v), Some(out)) = (&k.v, &k.out) {
                for d in 0..s.head_dim {
                    let mut sum = 0.0;
                    for (key, w) in weights.iter().enumerate() {
                        sum += w / total * self.load_at(v, &[b, h, key, d], "v")?;
                    }
                    self.store_at(out, &[b, h, t, d], sum, "out")?;
                }
            }
            match &k.lse {
                Some(lse) => self.store_at(lse, row, total.ln() + top, "lse"),
                None => Ok(()),
            }
        })
    }

    fn attention_grad(&mut self, k: &AttentionGrad) -> Outcome {
        let s = k.shape;
        for_points(&[s.batch, s.heads], |bh| {
            let (b, h) = (bh[0], bh[1]);
            let head = |run: &Self, a: &Access, rows: usize, role: &str| -> Outcome<Vec<Vec<f64>>> {
                (0..rows).map(|t| (0..s.head_dim).map(|d| run.load_at(a, &[b, h, t, d], role)).collect()).collect()
            };
            let (q, out) = (head(self, &k.q, s.q_len, "q")?, head(self, &k.out, s.q_len, "out")?);
            let dout = head(self, &k.dout, s.q_len, "dout")?;
            let (keys, v) = (head(self, &k.k, s.k_len, "k")?, head(self, &k.v, s.k_len, "v")?);
            let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
            let mut dq = vec![vec![0.0; s.head_dim]; s.q_len];
            let (mut dk, mut dv) = (vec![vec![0.0; s.head_dim]; s.k_len], vec![vec![0.0; s.head_dim]; s.k_len]);
            for t in 0..s.q_len {
                let lse = self.load_at(&k.lse, &[b, h, t], "lse")?;
                let delta = dot(&dout[t], &out[t]);
                for key in 0..if s.causal { (t + 1).min(s.k_len) } else { s.k_len } {
                    let p = (s.scale * dot(&q[t], &keys[key]) - lse).exp();
                    let ds = s.scale * p * (dot(&dout[t], &v[key]) - delta);
                    for d in 0..s.head_dim {
                        dq[t][d] += ds * keys[key][d];
                        dk[key][d] += ds * q[t][d];
                        dv[key][d] += p * dout[t][d];
                    }
                }
            }
            for (access, gradient, role) in [(&k.dq, &dq, "dq"), (&k.dk, &dk, "dk"), (&k.dv, &dv, "dv")] {
                let Some(access) = access else { continue };
                for (t, row) in gradient.iter().enumerate() {
                    for (d, x) in row.iter().enumerate() {
                        self.store_at(access, &[b, h, t, d], *x, role)?;
                    }
                }
            }
            Ok(())
        })
    }

    fn scatter(&mut self, k: &Scatter) -> Outcome {
        let table: Vec<usize> = std::iter::once(k.table).chain(k.inner.iter().copied()).collect();
        for_points(&table, |point| {
            let x = match &k.base {
                ScatterBase::Const(c) => c.value,
                ScatterBase::Load(a) => self.load_at(a, point, "the base")?,
            };
            self.store_at(&k.out, point, x, "the base's store")
        })?;
        let space: Vec<usize> = k.ids.iter().chain(&k.inner).copied().collect();
        let wanted = needed(&k.body, [k.index, k.value]);
        let dtype = k.body.scalars[k.value].dtype;
        let mut values = vec![f64::NAN; k.body.scalars.len()];
        for_points(&space, |point| {
            self.scalars(&k.body, &wanted, point, &[], &mut values)?;
            let row = (values[k.index.index()] as i64).clamp(0, k.table as i64 - 1) as usize;
            let at: Vec<usize> = std::iter::once(row).chain(point[k.ids.len()..].iter().copied()).collect();
            let old = self.load_at(&k.out, &at, "the sum")?;
            self.store_at(&k.out, &at, Binary::Add.eval(dtype, old, values[k.value.index()]), "the sum")
        })
    }
}

/// What an indirect term adds to an element's number where its index is `index`.
fn clamped(term: &super::Indirect, index: f64) -> i64 {
    term.stride * (index as i64).clamp(0, term.extent as i64 - 1)
}

/// The low 32 bits of an integer value.
fn word(x: f64) -> u32 {
    x as i64 as u32
}

/// `roots` and all scalars they are computed from, in id order.
fn needed(body: &Body, roots: impl IntoIterator<Item = ScalarId>) -> Vec<ScalarId> {
    let mut mark = vec![false; body.scalars.len()];
    roots.into_iter().for_each(|r| mark[r.index()] = true);
    for id in body.scalars.ids().rev() {
        if mark[id.index()] {
            body.scalars[id].op.operands().iter().for_each(|o| mark[o.index()] = true);
        }
    }
    body.scalars.ids().filter(|id| mark[id.index()]).collect()
}

/// Calls `f` on every point of `space`, in row-major order.
fn for_points(space: &[usize], mut f: impl FnMut(&[usize]) -> Outcome) -> Outcome {
    let mut point = vec![0; space.len()];
    for _ in 0..numel(space) {
        f(&point)?;
        for d in (0..space.len()).rev() {
            point[d] += 1;
            if point[d] < space[d] {
                break;
            }
            point[d] = 0;
        }
    }
    Ok(())
}
