//! Shared by the tests of passes: parameter values, evaluation, comparison.
#![allow(dead_code)] // each test crate uses a part

use tinygpt_ir::interp::{Evaluated, eval};
use tinygpt_ir::random::random_inputs;
use tinygpt_ir::{Graph, Tensor};

/// Values for every parameter; those whose name contains `pos` are at least 1/2.
pub fn values(graph: &Graph, seed: u64) -> Vec<Tensor> {
    let raw = random_inputs(graph, seed);
    graph
        .params
        .values()
        .zip(raw)
        .map(|(p, mut data)| {
            if p.name.contains("pos") {
                data.iter_mut().for_each(|x| *x = x.abs() + 0.5);
            }
            Tensor::new(p.ty.clone(), data).unwrap()
        })
        .collect()
}

pub fn run(graph: &Graph, params: &[Tensor]) -> Evaluated {
    tinygpt_ir::verify::verify(graph).unwrap();
    eval(graph, params).unwrap()
}

/// Largest |a - b| relative to the largest magnitude of the two tensors; equal infinities and NaN in both agree.
pub fn difference(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.ty, b.ty);
    let scale = a.data.iter().chain(&b.data).filter(|x| x.is_finite()).fold(1e-30f64, |m, x| m.max(x.abs()));
    let apart = |(x, y): (&f64, &f64)| {
        if x == y || (x.is_nan() && y.is_nan()) { 0.0 } else { (x - y).abs().min(f64::MAX) / scale }
    };
    a.data.iter().zip(&b.data).map(apart).fold(0.0, |m, d| if d.is_nan() { f64::INFINITY } else { f64::max(m, d) })
}

/// Asserts that two graphs of one interface agree on every output and update.
pub fn assert_agree(a: &Graph, b: &Graph, params: &[Tensor], tolerance: f64, context: &str) {
    let (x, y) = (run(a, params), run(b, params));
    assert_eq!(x.outputs.len(), y.outputs.len(), "{context}");
    assert_eq!(x.updates.len(), y.updates.len(), "{context}");
    for ((name, p), (other, q)) in x.outputs.iter().zip(&y.outputs) {
        assert_eq!(name, other, "{context}");
        let d = difference(p, q);
        assert!(d <= tolerance, "{context}: output {name} differs by {d:e}");
    }
    for ((param, p), (other, q)) in x.updates.iter().zip(&y.updates) {
        assert_eq!(param, other, "{context}");
        let d = difference(p, q);
        assert!(d <= tolerance, "{context}: update of {} differs by {d:e}", a.params[*param].name);
    }
}
