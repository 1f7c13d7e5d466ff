//! Prints the time of the attention template on one thread, forward and backward:
//!
//!     cargo run --release -p tinygpt-simd --example attention_bench
//!
//! GFLOP/s count the products that a causal mask leaves (2 forward, 5 backward), not the softmax.

use std::time::{Duration, Instant};
use tinygpt_simd::Isa;
use tinygpt_simd::attention::{AttentionPlan, AttentionShape, Backward, Forward, Strides};

/// Batch, heads, positions, head_dim.
const SHAPES: [[usize; 4]; 4] = [[12, 6, 128, 32], [8, 8, 128, 32], [8, 8, 256, 32], [1, 12, 1024, 64]];

/// The best time of one call, over about a third of a second.
fn best(mut f: impl FnMut()) -> f64 {
    let start = Instant::now();
    let mut best = f64::INFINITY;
    while start.elapsed() < Duration::from_millis(300) {
        let start = Instant::now();
        f();
        best = best.min(start.elapsed().as_secs_f64());
    }
    best
}

fn main() {
    for isa in Isa::available() {
        println!("{}: causal, [batch, position, head, dim]", isa.name());
        for [batch, heads, t, dim] in SHAPES {
            let mut shape = AttentionShape::heads_first(batch, heads, [t, t], dim, true);
            let strides = Strides::positions_first(heads, t, dim);
            (shape.q, shape.k, shape.v, shape.out) = (strides, strides, strides, strides);
            (shape.dout, shape.dq, shape.dk, shape.dv) = (strides, strides, strides, strides);
            let plan = AttentionPlan::new(isa, shape).expect("a valid shape");
            let len = batch * heads * t * dim;
            let input = |seed: usize| -> Vec<f32> {
                (0..len).map(|i| ((i * 7919 + seed) % 2003) as f32 / 1000.0 - 1.0).collect()
            };
            let (q, k, v, dout) = (input(1), input(2), input(3), input(4));
            let mut out = vec![0.0; len];
            let mut lse = vec![0.0; batch * heads * t];
            let (mut dq, mut dk, mut dv) = (vec![0.0; len], vec![0.0; len], vec![0.0; len]);
            let mut scratch = vec![0.0; plan.scratch_len() + 16];
            let skip = scratch.as_ptr().align_offset(64);
            let scratch = scratch[skip..].as_mut_ptr();
            let (q, k, v) = (q.as_ptr(), k.as_ptr(), v.as_ptr());
            let (out, lse) = (out.as_mut_ptr(), lse.as_mut_ptr());
            let operands = Forward { q, k, v, out, lse };
            let forward = best(|| {
                for task in 0..plan.forward_tasks() {
                    // SAFETY: the arrays cover the shape.
                    unsafe { plan.forward(task, &operands, scratch) };
                }
            });
            let (dq, dk, dv) = (dq.as_mut_ptr(), dk.as_mut_ptr(), dv.as_mut_ptr());
            let operands = Backward { q, k, v, out, lse, dout: dout.as_ptr(), dq, dk, dv };
            let backward = best(|| {
                for task in 0..plan.backward_tasks() {
                    // SAFETY: the arrays cover the shape, and the forward pass is complete.
                    unsafe { plan.backward(task, &operands, scratch) };
                }
            });
            let product = (batch * heads * t * (t + 1) * dim) as f64;
            println!(
                "{:>16}  forward {:>8.0} us {:>6.1} GFLOP/s {:>4} tasks   backward {:>8.0} us {:>6.1} GFLOP/s {:>4} tasks",
                format!("{batch},{heads},{t},{dim}"),
                forward * 1e6,
                2.0 * product / forward * 1e-9,
                plan.forward_tasks(),
                backward * 1e6,
                5.0 * product / backward * 1e-9,
                plan.backward_tasks()
            );
        }
    }
}
