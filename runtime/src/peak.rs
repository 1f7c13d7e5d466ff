//! The arithmetic peak of this machine: fused multiply-adds on registers alone, on a number of threads at once.
//!
//! What `bench` divides by. The loop keeps twelve accumulators, more than the latency of a multiply-add times its throughput on
//! any processor known here, and touches no memory, so it runs at the rate of the arithmetic units.

use crate::config::ModelConfig;
use crate::workers::Workers;
use crate::{Error, Result};
use std::hint::black_box;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Independent sums: covers a latency of 4 cycles at 2 vectors a cycle, and leaves 4 of 16 registers to the factors.
const SUMS: usize = 12;

/// Passes over the sums in one measurement: a few milliseconds.
const PASSES: usize = 1_000_000;

/// Measurements; the fastest counts, since anything else that runs can only slow one down.
const TRIALS: usize = 5;

/// Peak in GFLOP/s of `threads` threads together; a multiply-add is two operations.
pub fn gflops(threads: usize) -> Result<f64> {
    let mut workers = Workers::new(threads).map_err(Error::input)?;
    let (multiply_add, lanes) = best();
    let mut seconds = f64::INFINITY;
    for _ in 0..TRIALS {
        let start = Instant::now();
        workers.run(&|_| {
            black_box(multiply_add(black_box(0.5)));
        });
        seconds = seconds.min(start.elapsed().as_secs_f64());
    }
    Ok((2 * SUMS * PASSES * lanes * threads) as f64 / seconds / 1e9)
}

/// Floating-point operations of a training step of a GPT over `tokens` tokens: 6 a parameter and token (2 forward, 4 backward), and 12 layers
/// d_model ctx a token for attention, counted over the full square.
pub fn step_flop(model: &ModelConfig, tokens: usize) -> f64 {
    let attention = 12 * model.layers * model.d_model * model.ctx * tokens;
    6.0 * model.params() as f64 * tokens as f64 + attention as f64
}

/// Floats of one thread's part of a measurement of memory: far beyond any cache.
const STREAM_FLOATS: usize = 16 << 20;

/// Memory bandwidth in GB/s of `threads` threads together, bytes read and written: the sum of two arrays into one of them, each far larger than
/// the caches (after McCalpin's STREAM "add", with one array fewer).
pub fn gbs(threads: usize) -> Result<f64> {
    let mut workers = Workers::new(threads).map_err(Error::input)?;
    let part = || Mutex::new((vec![1.0_f32; STREAM_FLOATS], vec![2.0_f32; STREAM_FLOATS]));
    let parts: Vec<_> = (0..threads).map(|_| part()).collect();
    let mut seconds = f64::INFINITY;
    for _ in 0..TRIALS {
        let start = Instant::now();
        workers.run(&|worker| {
            // A poisoned lock means that another trial panicked, which has ended the process.
            let mut part = parts[worker].lock().unwrap_or_else(PoisonError::into_inner);
            let (to, from) = &mut *part;
            to.iter_mut().zip(&*from).for_each(|(to, from)| *to += *from);
            black_box(&to[0]);
        });
        seconds = seconds.min(start.elapsed().as_secs_f64());
    }
    // Two arrays read and one written.
    Ok((3 * 4 * STREAM_FLOATS * threads) as f64 / seconds / 1e9)
}

/// The widest loop this processor runs, and its lanes.
fn best() -> (fn(f32) -> f32, usize) {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has AVX-512F.
            return (|x| unsafe { x86::avx512(x) }, 16);
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the processor has AVX2 and FMA.
            return (|x| unsafe { x86::avx2(x) }, 8);
        }
    }
    (portable, 4)
}

/// Four lanes as the compiler sees fit: NEON's fused multiply-add on arm64, a multiplication and an addition with SSE2.
fn portable(x: f32) -> f32 {
    let multiply_add = |sum: f32| if cfg!(target_arch = "x86_64") { sum * x + x } else { sum.mul_add(x, x) };
    let mut sums = [[x; 4]; SUMS];
    for _ in 0..PASSES {
        sums.iter_mut().flatten().for_each(|sum| *sum = multiply_add(*sum));
    }
    sums.iter().flatten().sum()
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{PASSES, SUMS};
    use std::arch::x86_64::*;

    /// The loop for one vector type, with the instruction set of its caller.
    macro_rules! multiply_adds {
        ($name:ident, $features:literal, $set:ident, $fma:ident, $add:ident, $first:expr) => {
            #[target_feature(enable = $features)]
            pub fn $name(x: f32) -> f32 {
                let x = $set(x);
                let mut sums = [x; SUMS];
                for _ in 0..PASSES {
                    for sum in &mut sums {
                        *sum = $fma(*sum, x, x);
                    }
                }
                let total = sums.into_iter().fold(x, |a, b| $add(a, b));
                $first(total)
            }
        };
    }

    multiply_adds!(avx512, "avx512f", _mm512_set1_ps, _mm512_fmadd_ps, _mm512_add_ps, |v| _mm512_cvtss_f32(v));
    multiply_adds!(avx2, "avx2,fma", _mm256_set1_ps, _mm256_fmadd_ps, _mm256_add_ps, |v| _mm256_cvtss_f32(v));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The recurrence s = s x + x has the fixed point x / (1 - x), which every loop reaches.
    #[test]
    fn loops_do_the_arithmetic_they_are_counted_for() {
        let x = 0.5f32;
        let fixed = x / (1.0 - x);
        let (loop_of_this_machine, lanes) = best();
        assert!(lanes >= 4);
        assert_eq!(portable(x), 4.0 * SUMS as f32 * fixed);
        let found = loop_of_this_machine(x);
        let vector = SUMS as f32 * fixed + x;
        assert!(found == vector || lanes == 4, "{found} instead of {vector}");
    }

    #[test]
    fn operations_follow_the_stated_count() {
        let model = crate::config::RunConfig::preset("large").unwrap().model;
        let tokens = 12.0 * 128.0;
        let expected = 6.0 * 2_743_296.0 * tokens + 12.0 * 6.0 * 192.0 * 128.0 * tokens;
        assert_eq!(step_flop(&model, 12 * 128), expected);
    }

    #[test]
    fn the_peak_is_that_of_a_real_machine() {
        let peak = gflops(1).unwrap();
        assert!((0.5..20_000.0).contains(&peak), "{peak} GFLOP/s of one thread");
    }
}
