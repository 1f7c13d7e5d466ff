//! Values for the inputs and states of any graph or program, drawn from a seed: what `run` and comparisons of backends start from.
//!
//! Rules
//! - A state starts as its declaration says; normal weights are those that a training run of the seed would start from.
//! - An f32 input is uniform in [-1, 1), but in [1, 2) if it is a scalar: rates, counts and step numbers are scalars, and must be positive.
//! - An i32 input that indexes something (rows of a table, places of a window) or that is compared with an axis' indices (classes) lies
//!   within that extent; any other in 0..8.
//! - A u32 input has any value, a bool input either.
//!
//! Invariant: a value is a pure function of (seed, name, type, extent), so a graph and a program made of it get equal values.

use crate::rng::{Stream, init_normal};
use crate::tensor::{HostData, HostTensor};
use crate::{Error, Result};
use tinygpt_ir::op::Compare;
use tinygpt_ir::program::{Body, BufferKind, Kernel, KernelKind, Program, ScalarId, ScalarOp, Store};
use tinygpt_ir::random::index_extents;
use tinygpt_ir::{DType, Graph, Init, NodeId, Op, ParamKind, TensorType};

/// What an i32 input lies below that indexes nothing known.
const SMALL: usize = 8;

/// A value for each input and state, in order. Errors: one is f16, which the host does not convert.
pub fn of_graph(graph: &Graph, seed: u64) -> Result<Vec<(String, HostTensor)>> {
    let mut extents = index_extents(graph);
    for node in graph.nodes.values().filter(|n| n.op == Op::Compare(Compare::Eq)) {
        let [a, b] = [0, 1].map(|i| source(graph, node.inputs[i]));
        for (index, other) in [(a, b), (b, a)] {
            if let (Op::Param(p), Op::Iota { shape, axis, .. }) = (&graph.nodes[index].op, &graph.nodes[other].op) {
                narrow(&mut extents[p.index()], shape[*axis]);
            }
        }
    }
    let params = graph.params.iter().map(|(id, p)| value(&p.name, p.kind, &p.ty, extents[id.index()], seed));
    params.collect()
}

/// A value for each input and state, in order. Errors: one is f16, which the host does not convert.
pub fn of_program(program: &Program, seed: u64) -> Result<Vec<(String, HostTensor)>> {
    let extents = program_extents(program);
    let params = program.params.iter().zip(extents);
    params.map(|(p, extent)| value(&p.name, p.kind, &p.ty, extent, seed)).collect()
}

fn narrow(extent: &mut Option<usize>, by: usize) {
    *extent = Some(extent.map_or(by, |e| e.min(by)));
}

/// What a chain of views shows.
fn source(graph: &Graph, mut id: NodeId) -> NodeId {
    while graph.nodes[id].op.is_view() {
        id = graph.nodes[id].inputs[0];
    }
    id
}

fn value(
    name: &str,
    kind: ParamKind,
    ty: &TensorType,
    extent: Option<usize>,
    seed: u64,
) -> Result<(String, HostTensor)> {
    let n = ty.numel();
    let stream = Stream::new(seed, &format!("input/{name}"));
    let draw = |of: &dyn Fn(u64) -> f64| (0..n as u64).map(of).collect::<Vec<f64>>();
    let values: Vec<f64> = match kind {
        ParamKind::State { init: Init::Zeros, .. } => vec![0.0; n],
        ParamKind::State { init: Init::Ones, .. } => vec![1.0; n],
        ParamKind::State { init: Init::Normal(std), .. } => {
            init_normal(seed, name, std, n).into_iter().map(f64::from).collect()
        }
        ParamKind::Input => match ty.dtype {
            DType::F32 | DType::F16 if ty.rank() == 0 => draw(&|i| 1.0 + stream.uniform(i)),
            DType::F32 | DType::F16 => draw(&|i| 2.0 * stream.uniform(i) - 1.0),
            DType::I32 => draw(&|i| stream.below(i, extent.unwrap_or(SMALL).max(1) as u64) as f64),
            DType::U32 => draw(&|i| f64::from(stream.block(i)[0])),
            DType::Bool => draw(&|i| f64::from(stream.block(i)[0] & 1)),
        },
    };
    let data = match ty.dtype {
        DType::F32 => HostData::F32(values.iter().map(|x| *x as f32).collect()),
        DType::I32 => HostData::I32(values.iter().map(|x| *x as i32).collect()),
        DType::U32 => HostData::U32(values.iter().map(|x| *x as u32).collect()),
        DType::Bool => HostData::Bool(values.iter().map(|x| *x != 0.0).collect()),
        DType::F16 => {
            return Err(Error::input(format!(
                "{name} is {ty}, and values are drawn for f32, i32, u32 and bool: cast it in the graph"
            )));
        }
    };
    Ok((name.to_string(), HostTensor::new(&ty.shape, data)?))
}

/// By parameter, the smallest extent that one of its elements, loaded, indexes.
fn program_extents(program: &Program) -> Vec<Option<usize>> {
    let mut extents: Vec<Option<usize>> = vec![None; program.params.len()];
    for kernel in program.kernels.values() {
        for (body, index, extent) in indices(kernel) {
            let Some(ScalarOp::Load(access)) = body.scalars.get(index).map(|s| &s.op) else { continue };
            let buffer = kernel.args.get(access.arg.index()).and_then(|a| program.buffers.get(a.buffer));
            if let Some(BufferKind::Input(p) | BufferKind::State(p)) = buffer.map(|b| b.kind)
                && let Some(slot) = extents.get_mut(p)
            {
                narrow(slot, extent);
            }
        }
    }
    extents
}

/// Scalars of a kernel that index something, or are compared with indices, with the extents of what they index.
fn indices(kernel: &Kernel) -> Vec<(&Body, ScalarId, usize)> {
    fn of_body<'k>(body: &'k Body, stores: &'k [Store], space: &[usize]) -> Vec<(&'k Body, ScalarId, usize)> {
        let accesses = body.loads().chain(stores.iter().map(|s| &s.access));
        let mut found: Vec<_> = accesses.flat_map(|a| &a.indirect).map(|i| (body, i.index, i.extent)).collect();
        for scalar in body.scalars.values() {
            let ScalarOp::Compare(Compare::Eq, a, b) = scalar.op else { continue };
            for (index, other) in [(a, b), (b, a)] {
                if let Some(ScalarOp::Index(at)) = body.scalars.get(other).map(|s| &s.op) {
                    found.push((body, index, at.range(space).1.max(0) as usize + 1));
                }
            }
        }
        found
    }
    match &kernel.kind {
        KernelKind::Pointwise(k) => of_body(&k.body, &k.stores, &k.space),
        KernelKind::Reduce(k) => of_body(&k.body, &k.stores, &k.space()),
        KernelKind::Contract(k) => k.parts.iter().flat_map(|p| of_body(&p.body, &p.stores, &p.space())).collect(),
        KernelKind::Scatter(k) => {
            let mut all = of_body(&k.body, &[], &[&k.ids[..], &k.inner].concat());
            all.push((&k.body, k.index, k.table));
            all
        }
        // Updates and folds load nothing by a computed index, attention nothing but its operands.
        KernelKind::Update(_) | KernelKind::Fold(_) | KernelKind::Attention(_) | KernelKind::AttentionGrad(_) => {
            Vec::new()
        }
    }
}
