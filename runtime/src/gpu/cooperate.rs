//! Cooperative matrices: whether an adapter has those that kernels use, and whether they multiply as they should.
//!
//! Invariant: kernels use cooperative matrices only on a device where products in every layout, and attention and its gradients, have just agreed with the
//! processor's arithmetic, and have come out the same, bit for bit, [`RUNS`] times.

use std::sync::Arc;

use tinygpt_ir::op::Wrt;
use tinygpt_ir::{Builder, Graph, TensorType};
use tinygpt_passes::compile::lower;
use tinygpt_passes::pass::{Pass, Pipeline};

use super::device::Gpu;
use super::executor::GpuExecutor;
use crate::error::one_line;
use crate::executor::Executor;
use crate::interp::InterpExecutor;
use crate::tensor::HostTensor;
use crate::{Error, Result};

/// How often the products are compared.
const RUNS: usize = 20;

/// How operands of mixed precision are multiplied on an adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cooperation {
    /// By cooperative matrices.
    Used,
    /// By plain arithmetic: the adapter lacks what it takes.
    Absent,
    /// By plain arithmetic: the adapter's cooperative matrices are wrong.
    Wrong,
}

impl Cooperation {
    /// What a user is told.
    pub fn notice(self) -> &'static str {
        match self {
            Self::Used => {
                "mixed precision: products of f16 on cooperative matrices, after a check against the processor's arithmetic"
            }
            Self::Absent => {
                "mixed precision: operands rounded to f16 are multiplied in f32, no faster than without, since the adapter has no cooperative matrices of f16"
            }
            Self::Wrong => {
                "mixed precision: operands rounded to f16 are multiplied in f32, no faster than without, since the adapter's cooperative matrices failed \
                 a check against the processor's arithmetic"
            }
        }
    }
}

/// Size of the adapter's subgroups, if it multiplies 16x16 matrices of f16, adds in f32, and has subgroups of one size.
pub(super) fn subgroup(adapter: &wgpu::Adapter) -> Option<u32> {
    let (info, features) = (adapter.get_info(), adapter.features());
    if !features.contains(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX | wgpu::Features::SHADER_F16) {
        return None;
    }
    let fits = |p: &wgpu::CooperativeMatrixProperties| {
        let types = (p.ab_type, p.cr_type) == (wgpu::CooperativeScalarType::F16, wgpu::CooperativeScalarType::F32);
        types && [p.m_size, p.n_size, p.k_size] == [16; 3]
    };
    let one_size = info.subgroup_min_size == info.subgroup_max_size;
    (one_size && adapter.cooperative_matrix_properties().iter().any(fits)).then_some(info.subgroup_max_size)
}

/// Rows, columns and depth of the products: with tails in all of them, and so deep that the depth is split.
const SHAPES: [[usize; 3]; 2] = [[100, 116, 84], [64, 64, 2080]];

/// The contraction of a layout, and whether its left and its right operand are transposed: rows along the depth.
const LAYOUTS: [(&str, bool, bool); 4] =
    [("ak,bk->ab", false, false), ("ak,kb->ab", false, true), ("ka,kb->ab", true, true), ("ka,bk->ab", true, false)];

/// Whether `gpu`, whose cooperative matrices are not trusted yet, multiplies in every layout, and attends, as the processor does.
pub(super) fn agree(gpu: &Arc<Gpu>) -> Result<bool> {
    let cases = SHAPES.iter().flat_map(|shape| LAYOUTS.iter().map(move |layout| (*shape, *layout)));
    // At the same time, since most of it is compilation.
    let agreed: Vec<bool> = std::thread::scope(|scope| {
        let mut threads: Vec<_> =
            cases.map(|(shape, layout)| scope.spawn(move || agrees(gpu, shape, layout))).collect();
        threads.push(scope.spawn(move || agrees_on_attention(gpu)));
        let panicked = |_| Err(Error::failed("a thread that checked cooperative matrices has panicked"));
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(panicked)).collect::<Result<_>>()
    })?;
    Ok(agreed.into_iter().all(|one| one))
}

/// The same of one product.
fn agrees(gpu: &Arc<Gpu>, [m, n, k]: [usize; 3], (spec, x_turned, y_turned): (&str, bool, bool)) -> Result<bool> {
    let b = Builder::new("cooperation");
    let shape = |long: usize, turned: bool| if turned { [k, long] } else { [long, k] };
    let (x_shape, y_shape) = (shape(m, x_turned), shape(n, y_turned));
    let (x, y) = (b.input("x", TensorType::f32(x_shape)), b.input("y", TensorType::f32(y_shape)));
    b.output("product", x.contract(spec, y));
    let graph = b.finish().map_err(|e| failed(one_line(e)))?;
    let mut executor = executor(gpu, graph)?;
    let (x, y) = (values(0, m * k), values(1, n * k));
    executor.write("x", &HostTensor::f32(&x_shape, x.clone())?)?;
    executor.write("y", &HostTensor::f32(&y_shape, y.clone())?)?;
    // Rows along the depth.
    let rows = |values: Vec<f32>, long: usize, turned: bool| -> Vec<f64> {
        let at = |row: usize, along: usize| if turned { values[along * long + row] } else { values[row * k + along] };
        (0..long * k).map(|i| f64::from(at(i / k, i % k))).collect()
    };
    let (x, y) = (rows(x, m, x_turned), rows(y, n, y_turned));
    let dot = |(x, y): (&[f64], &[f64])| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
    let expected: Vec<f64> = x.chunks_exact(k).flat_map(|x| y.chunks_exact(k).map(move |y| dot((x, y)))).collect();
    // The order of additions alone differs: sums of f16 precision would miss this.
    let tolerance = 1e-5 * k as f64;
    repeats(&mut executor, "product", &[m, n], &expected, tolerance)
}

/// Batch, heads, positions and dimensions of the attention: with tails in the latter two, and several tiles of positions.
const ATTENTION: [usize; 4] = [1, 2, 100, 20];

/// The same of causal attention and its gradients.
fn agrees_on_attention(gpu: &Arc<Gpu>) -> Result<bool> {
    const INPUTS: [&str; 4] = ["q", "k", "v", "dout"];
    const OUTPUTS: [&str; 4] = ["out", "dq", "dk", "dv"];
    let b = Builder::new("attention");
    let [q, k, v, dout] = INPUTS.map(|name| b.input(name, TensorType::f32(ATTENTION)));
    let scale = 1.0 / (ATTENTION[3] as f64).sqrt();
    let (out, lse) = (q.attention(k, v, true, scale), q.attention_lse(k, true, scale));
    b.output("out", out);
    for (name, wrt) in OUTPUTS[1..].iter().zip([Wrt::Q, Wrt::K, Wrt::V]) {
        b.output(*name, q.attention_grad(wrt, [k, v, out, lse, dout], true, scale));
    }
    let graph = b.finish().map_err(|e| failed(one_line(e)))?;
    let mut expected = InterpExecutor::new(&graph)?;
    let mut executor = executor(gpu, graph)?;
    for (seed, name) in INPUTS.iter().enumerate() {
        let value = HostTensor::f32(&ATTENTION, values(seed, ATTENTION.iter().product()))?;
        executor.write(name, &value)?;
        expected.write(name, &value)?;
    }
    expected.step()?;
    for name in OUTPUTS {
        let mut value = HostTensor::f32(&ATTENTION, vec![0.0; ATTENTION.iter().product()])?;
        expected.read_into(name, &mut value)?;
        let value: Vec<f64> = value.as_f32()?.iter().map(|x| f64::from(*x)).collect();
        // Weights and slopes are rounded to f16: 2^-11 of each, in sums of some of about 1.
        if !repeats(&mut executor, name, &ATTENTION, &value, 4e-3)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn failed(e: String) -> Error {
    Error::failed(format!("the check of cooperative matrices cannot be compiled, a fault of tinygpt: {e}"))
}

fn executor(gpu: &Arc<Gpu>, graph: Graph) -> Result<GpuExecutor> {
    let graph = Pipeline::new([Pass::Precision]).run(graph).map_err(|e| failed(one_line(e)))?.graph;
    let program = lower(&graph, &gpu.target(), true, false).map_err(failed)?.program;
    GpuExecutor::new(Arc::clone(gpu), Arc::new(program))
}

/// Numbers that f16 holds exactly, however a device rounds.
fn values(seed: usize, count: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 7919 + seed * 101) % 2003) as f32 / 1024.0 - 1.0).collect()
}

/// Whether the output `name` is as expected, and the same in all runs.
fn repeats(executor: &mut GpuExecutor, name: &str, shape: &[usize], expected: &[f64], tolerance: f64) -> Result<bool> {
    let mut first = HostTensor::f32(shape, vec![0.0; expected.len()])?;
    let mut found = first.clone();
    for run in 0..RUNS {
        executor.step()?;
        executor.read_into(name, &mut found)?;
        if run == 0 {
            first.clone_from(&found);
            let close = |(found, expected): (&f32, &f64)| (f64::from(*found) - expected).abs() <= tolerance;
            if !found.as_f32()?.iter().zip(expected).all(close) {
                return Ok(false);
            }
        } else if found != first {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Precision;
    use crate::gpu::GpuOptions;

    /// Plain arithmetic passes the check that cooperative matrices have to pass.
    #[test]
    fn plain_arithmetic_agrees() {
        let options = GpuOptions { tune: false, precision: Precision::Mixed, ..GpuOptions::default() };
        match Gpu::open(&options) {
            Ok(gpu) => assert!(agree(&gpu).unwrap()),
            Err(e) => {
                let required = std::env::var_os("TINYGPT_REQUIRE_GPU").is_some_and(|value| value == "1");
                assert!(!required && e.to_string().starts_with("no GPU adapter"), "TINYGPT_REQUIRE_GPU: {e}");
                println!("skipped: no GPU adapter");
            }
        }
    }
}
