//! Cooperative matrices: whether an adapter has those that kernels use, and whether they multiply as they should.
//!
//! Invariant: kernels use cooperative matrices only on a device where products in every layout have just agreed with plain f32 arithmetic, and have
//! come out the same, bit for bit, [`RUNS`] times.

use std::sync::Arc;

use tinygpt_ir::{Builder, TensorType};
use tinygpt_passes::compile::lower;
use tinygpt_passes::pass::{Pass, Pipeline};

use super::device::Gpu;
use super::executor::GpuExecutor;
use crate::error::one_line;
use crate::executor::Executor;
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
                "mixed precision: products of f16 on cooperative matrices, after a check against f32 arithmetic"
            }
            Self::Absent => {
                "mixed precision: operands rounded to f16 are multiplied in f32, no faster than without, since the adapter has no cooperative matrices of f16"
            }
            Self::Wrong => {
                "mixed precision: operands rounded to f16 are multiplied in f32, no faster than without, since the adapter's cooperative matrices failed \
                 a check against f32 arithmetic"
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

/// Whether `cooperating` multiplies as `plain` does, which is the same device without cooperative matrices.
pub(super) fn agree(plain: Arc<Gpu>, cooperating: Arc<Gpu>) -> Result<bool> {
    for [m, n, k] in SHAPES {
        let expected = products(&plain, [m, n, k], 1)?;
        let found = products(&cooperating, [m, n, k], RUNS)?;
        // The order of additions alone differs: sums of f16 precision would miss this.
        let tolerance = 1e-5 * k as f32;
        let close = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() <= tolerance);
        if !found.iter().all(|run| *run == found[0]) || !close(&found[0], &expected[0]) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The results, one after the other, of products with either operand either way around; of each run.
fn products(gpu: &Arc<Gpu>, [m, n, k]: [usize; 3], runs: usize) -> Result<Vec<Vec<f32>>> {
    let b = Builder::new("cooperation");
    let input = |name: &str, shape: [usize; 2]| b.input(name, TensorType::f32(shape));
    let (x, y) = (input("x", [m, k]), input("y", [n, k]));
    let (xt, yt) = (input("xt", [k, m]), input("yt", [k, n]));
    b.output("nt", x.contract("ak,bk->ab", y));
    b.output("nn", x.contract("ak,kb->ab", yt));
    b.output("tn", xt.contract("ka,kb->ab", yt));
    b.output("tt", xt.contract("ka,bk->ab", y));
    let failed = |e: String| {
        Error::failed(format!("the check of cooperative matrices cannot be compiled, a fault of tinygpt: {e}"))
    };
    let graph = b.finish().map_err(|e| failed(one_line(e)))?;
    let graph = Pipeline::new([Pass::Precision]).run(graph).map_err(|e| failed(one_line(e)))?.graph;
    let program = lower(&graph, &gpu.target(), true, false).map_err(failed)?.program;
    let mut executor = GpuExecutor::new(Arc::clone(gpu), Arc::new(program))?;
    for (seed, (name, shape)) in [("x", [m, k]), ("y", [n, k]), ("xt", [k, m]), ("yt", [k, n])].into_iter().enumerate()
    {
        let value = |i: usize| ((i * 7919 + seed * 101) % 2003) as f32 / 1001.0 - 1.0;
        executor.write(name, &HostTensor::f32(&shape, (0..shape[0] * shape[1]).map(value).collect())?)?;
    }
    let mut all = Vec::new();
    let mut result = HostTensor::f32(&[m, n], vec![0.0; m * n])?;
    for _ in 0..runs {
        executor.step()?;
        let mut run = Vec::new();
        for name in ["nt", "nn", "tn", "tt"] {
            executor.read_into(name, &mut result)?;
            run.extend_from_slice(result.as_f32()?);
        }
        all.push(run);
    }
    Ok(all)
}
