use std::collections::BTreeMap;

use super::*;
use crate::interp::{Keep, eval, eval_keeping};
use crate::spec::OPS;
use crate::tensor::Tensor;
use crate::types::DType;
use crate::verify::verify;

fn all() -> RandomOptions {
    RandomOptions { f16: true, ..RandomOptions::default() }
}

fn differentiable() -> RandomOptions {
    RandomOptions { differentiable: true, ..RandomOptions::default() }
}

fn variants() -> [RandomOptions; 5] {
    let plain = RandomOptions { composites: false, integers: false, ..RandomOptions::default() };
    let large = RandomOptions { nodes: 150, max_extent: 4, ..all() };
    [all(), differentiable(), plain.clone(), RandomOptions { differentiable: true, ..plain }, large]
}

fn tensors(g: &Graph, values: &[Vec<f64>]) -> Vec<Tensor> {
    let tensor = |(p, v): (&crate::Param, &Vec<f64>)| Tensor::new(p.ty.clone(), v.clone()).unwrap();
    g.params.values().zip(values).map(tensor).collect()
}

#[test]
fn graphs_are_well_formed_functions_of_the_seed() {
    for o in variants() {
        let mut texts = std::collections::HashSet::new();
        for seed in 0..100 {
            let g = random_graph(seed, &o);
            verify(&g).unwrap_or_else(|e| panic!("seed {seed}, {o:?}: {e}"));
            assert!(g.nodes.len() >= o.nodes && g.nodes.len() < o.nodes + 80, "{} nodes", g.nodes.len());
            assert_eq!(g, random_graph(seed, &o));
            assert_eq!(random_inputs(&g, 7), random_inputs(&g, 7));
            texts.insert(g.to_string());
        }
        assert_eq!(texts.len(), 100);
    }
}

#[test]
fn every_op_occurs() {
    let count = |o: &RandomOptions| {
        let mut count: BTreeMap<&str, usize> = OPS.iter().map(|s| (s.name, 0)).collect();
        for seed in 0..300 {
            for n in random_graph(seed, o).nodes.values() {
                *count.get_mut(n.op.name()).expect("an op of the table") += 1;
            }
        }
        count
    };
    let rare: Vec<_> = count(&all()).into_iter().filter(|(_, n)| *n < 10).collect();
    assert!(rare.is_empty(), "hardly ever drawn in 300 graphs: {rare:?}");
    let absent: Vec<_> = count(&differentiable()).into_iter().filter(|(_, n)| *n == 0).map(|(name, _)| name).collect();
    assert_eq!(absent, ["adamw", "attention_grad"]);
}

#[test]
fn options_leave_out_what_they_say() {
    for seed in 0..50 {
        let g = random_graph(seed, &RandomOptions { integers: false, composites: false, ..all() });
        for n in g.nodes.values() {
            assert!(n.ty.dtype.is_float() && !matches!(n.op, crate::Op::Composite(_)), "{}", n.op.name());
        }
        let g = random_graph(seed, &RandomOptions { f16: false, ..all() });
        assert!(g.nodes.values().all(|n| n.ty.dtype != DType::F16));
    }
}

/// The intervals that keep arguments within domains hold, so every value is finite.
#[test]
fn values_lie_within_their_intervals() {
    for o in variants() {
        for seed in 0..80 {
            let b = Builder::new("bounds");
            let bounds: Vec<_> = generator::fill(&b, seed, &o).iter().map(|v| (v.t.id(), v.lo, v.hi)).collect();
            let g = b.finish().unwrap();
            let params = tensors(&g, &random_inputs(&g, seed));
            let values = eval_keeping(&g, &params, Keep::All).unwrap().values;
            for (id, lo, hi) in bounds {
                let id = id.expect("the builder has no error");
                let Some(value) = &values[id.index()] else { continue };
                for x in &value.data {
                    let slack = 1e-9 * (1.0 + lo.abs().max(hi.abs()));
                    assert!(
                        *x >= lo - slack && *x <= hi + slack,
                        "seed {seed}: {id} = {}: {x} is not within {lo}..{hi}",
                        g.nodes[id].op.name()
                    );
                }
            }
        }
    }
}

/// Slopes to the left and to the right agree along every axis tried: no kink within 1e-4.
#[test]
fn losses_are_smooth_where_inputs_lie() {
    let mut moved = 0;
    for seed in 0..60 {
        let g = random_graph(seed, &differentiable());
        let values = random_inputs(&g, seed);
        let loss =
            |values: &[Vec<f64>]| eval(&g, &tensors(&g, values)).unwrap().output("loss").unwrap().item().unwrap();
        let at = loss(&values);
        let mut rng = Rng::new(seed);
        for (p, param) in g.params.iter().filter(|(_, p)| p.is_weight()) {
            let i = rng.below(param.ty.numel());
            let shifted = |h: f64| {
                let mut v = values.clone();
                v[p.index()][i] += h;
                loss(&v)
            };
            let slopes = |h: f64| ((at - shifted(-h)) / h, (shifted(h) - at) / h);
            // Curvature makes the slopes differ by a multiple of h, a kink by a constant: compare two widths.
            let ((l1, r1), (l2, r2)) = (slopes(9e-5), slopes(9e-6));
            let (wide, narrow) = ((r1 - l1).abs(), (r2 - l2).abs());
            let scale = 1.0 + r1.abs().max(l1.abs());
            assert!(
                narrow < 0.3 * wide + 1e-6 * scale,
                "seed {seed}, {}[{i}]: slopes {l1} {r1}, nearer {l2} {r2}",
                param.name
            );
            moved += (r1.abs() > 1e-9) as usize;
        }
    }
    assert!(moved > 150, "only {moved} of the weights moved a loss");
}

#[test]
fn inputs_fit_their_parameters() {
    let mut clamped = 0;
    for seed in 0..100 {
        let g = random_graph(seed, &all());
        let values = random_inputs(&g, seed);
        let mut floats = Vec::new();
        for (p, v) in g.params.values().zip(&values) {
            Tensor::new(p.ty.clone(), v.clone()).unwrap().check().unwrap();
            match p.ty.dtype {
                DType::F32 => {
                    assert!(v.iter().all(|x| (*x as f32) as f64 == *x && x.abs() <= 2.0));
                    floats.extend(v.iter().map(|x| x.abs()));
                }
                DType::I32 => clamped += v.iter().filter(|x| **x == -3.0).count(),
                _ => {}
            }
        }
        floats.sort_by(f64::total_cmp);
        assert!(floats.windows(2).all(|w| w[1] - w[0] >= 1.0 / 2048.0), "equal or opposite elements");
    }
    assert!(clamped > 20, "indices out of range occur: {clamped}");
}
