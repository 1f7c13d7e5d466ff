//! Prints the time of the attention template on one thread, forward and backward:
//!
//!     cargo run --release -p tinygpt-simd --example attention_bench
//!
//! Medians over calls on operands in turn, as of the layers of a step. GFLOP/s count the products that a causal mask
//! leaves (2 forward, 5 backward), not the softmax.

use std::time::{Duration, Instant};
use tinygpt_simd::Isa;
use tinygpt_simd::attention::{AttentionPlan, AttentionShape, Backward, Forward, Strides};

/// Batch, heads, positions, head_dim.
const SHAPES: [[usize; 4]; 5] =
    [[1, 1, 128, 32], [12, 6, 128, 32], [8, 8, 128, 32], [8, 8, 256, 32], [1, 12, 1024, 64]];

/// Sets of operands that are used in turn.
const LAYERS: usize = 6;

/// The median time of one call, over about a third of a second.
fn median(mut f: impl FnMut()) -> f64 {
    let start = Instant::now();
    let mut times = Vec::new();
    while start.elapsed() < Duration::from_millis(300) {
        let start = Instant::now();
        f();
        times.push(start.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
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
            let mut scratch = vec![0.0; plan.scratch_len() + 16];
            let skip = scratch.as_ptr().align_offset(64);
            let scratch = scratch[skip..].as_mut_ptr();
            // One set a layer, in turn: a step finds its operands in no near cache.
            let mut sets: Vec<[Vec<f32>; 9]> = (0..LAYERS)
                .map(|i| {
                    let zeros = || vec![0.0; len];
                    let lse = vec![0.0; batch * heads * t];
                    [input(i), input(i + 1), input(i + 2), input(i + 3), zeros(), lse, zeros(), zeros(), zeros()]
                })
                .collect();
            let mut next = 0;
            let forward = median(|| {
                let [q, k, v, _, out, lse, ..] = &mut sets[next % LAYERS];
                next += 1;
                let (q, k, v) = (q.as_ptr(), k.as_ptr(), v.as_ptr());
                let operands = Forward { q, k, v, out: out.as_mut_ptr(), lse: lse.as_mut_ptr() };
                for task in 0..plan.forward_tasks() {
                    // SAFETY: the arrays cover the shape.
                    unsafe { plan.forward(task, &operands, scratch) };
                }
            });
            let backward = median(|| {
                let [q, k, v, dout, out, lse, dq, dk, dv] = &mut sets[next % LAYERS];
                next += 1;
                let (q, k, v, dout) = (q.as_ptr(), k.as_ptr(), v.as_ptr(), dout.as_ptr());
                let (dq, dk, dv) = (dq.as_mut_ptr(), dk.as_mut_ptr(), dv.as_mut_ptr());
                let operands = Backward { q, k, v, out: out.as_ptr(), lse: lse.as_ptr(), dout, dq, dk, dv };
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
