//! Prints the rate of the contraction template, packing included, on one thread:
//!
//!     cargo run --release -p tinygpt-simd --example gemm_bench
//!
//! Each row is one problem in the four transposition pairs; `A mk` is row-major A, `A km` is A stored transposed.
//! Beside it stands the rate of a register-only loop of fused multiply-adds, the limit.

use std::time::{Duration, Instant};
use tinygpt_simd::gemm::{Epilogue, GemmPlan, Output, Problem, Side};
use tinygpt_simd::{Axis, Isa};

const PROBLEMS: [[usize; 3]; 9] = [
    [1536, 768, 192],
    [1536, 192, 768],
    [768, 192, 1536],
    [192, 768, 1536],
    [1536, 192, 192],
    [192, 192, 1536],
    [1536, 256, 192],
    [1024, 1024, 1024],
    [128, 128, 32],
];

/// f32 that start on a cache line.
struct Aligned {
    memory: Vec<f32>,
    skip: usize,
}

impl Aligned {
    fn new(len: usize) -> Aligned {
        let memory = vec![1.0; len + 16];
        let skip = memory.as_ptr().align_offset(64);
        Aligned { memory, skip }
    }

    fn ptr(&mut self) -> *mut f32 {
        self.memory[self.skip..].as_mut_ptr()
    }
}

/// The best time of one call, over about a fifth of a second.
fn best(mut f: impl FnMut()) -> f64 {
    let start = Instant::now();
    let mut best = f64::INFINITY;
    while start.elapsed() < Duration::from_millis(200) {
        let start = Instant::now();
        f();
        best = best.min(start.elapsed().as_secs_f64());
    }
    best
}

fn rate(isa: Isa, [m, n, k]: [usize; 3], a: [isize; 2], b: [isize; 2]) -> (f64, usize, f64) {
    let plan = GemmPlan::new(isa, Problem::single(m, n, k, a, b)).expect("the lengths agree");
    let (mut a, mut b, mut c) = (Aligned::new(m * k), Aligned::new(k * n), Aligned::new(m * n));
    let [mut packed_a, mut packed_b] = [Side::A, Side::B].map(|side| Aligned::new(plan.packed_len(side)));
    let mut scratch = Aligned::new(plan.scratch_len());
    let output = Output { rows: Axis::strided(m, n as isize), cols: Axis::strided(n, 1), batches: [0].into() };
    let (a, b, c) = ([a.ptr().cast_const()], [b.ptr().cast_const()], c.ptr());
    let seconds = best(|| {
        // SAFETY: the buffers have the lengths that the plan asks for, and one thread runs everything.
        unsafe {
            for (side, operand, packed) in [(Side::A, &a, &mut packed_a), (Side::B, &b, &mut packed_b)] {
                for task in 0..plan.pack_tasks(side) {
                    plan.pack(side, task, operand, packed.ptr());
                }
            }
            let packed = [packed_a.ptr().cast_const(), packed_b.ptr().cast_const()];
            for task in 0..plan.tasks() {
                let epilogue = Epilogue::Store { c, output: &output, addends: &[], factor: None };
                plan.run(task, &a, &b, packed, scratch.ptr(), &epilogue);
            }
        }
    });
    let tasks = plan.tasks().max(1);
    (plan.flops() as f64 / seconds * 1e-9, tasks, seconds / tasks as f64 * 1e6)
}

/// Rate of fused multiply-adds that touch registers only.
#[cfg(target_arch = "x86_64")]
fn limit(isa: Isa) -> f64 {
    use std::arch::x86_64::*;
    const ROUNDS: usize = 100_000;

    macro_rules! chains {
        ($name:ident, $features:literal, $set:ident, $fma:ident, $chains:literal) => {
            #[target_feature(enable = $features)]
            fn $name() -> usize {
                let factor = std::hint::black_box($set(0.999));
                let mut sums = [$set(1.0); $chains];
                for _ in 0..ROUNDS {
                    for sum in &mut sums {
                        *sum = $fma(*sum, factor, factor);
                    }
                }
                std::hint::black_box(sums);
                2 * $chains * ROUNDS
            }
        };
    }
    chains!(avx512, "avx512f", _mm512_set1_ps, _mm512_fmadd_ps, 16);
    chains!(avx2, "avx2,fma", _mm256_set1_ps, _mm256_fmadd_ps, 12);
    let mut flops = 0;
    // SAFETY: the instruction set comes from `Isa::available`.
    let seconds = best(|| unsafe {
        flops = isa.lanes() * if isa == Isa::Avx512 { avx512() } else { avx2() };
    });
    flops as f64 / seconds * 1e-9
}

#[cfg(not(target_arch = "x86_64"))]
fn limit(isa: Isa) -> f64 {
    match isa {}
}

fn main() {
    for isa in Isa::available() {
        println!("{}: limit {:.0} GFLOP/s", isa.name(), limit(isa));
        println!(
            "{:>16} {:>9} {:>9} {:>9} {:>9}   tasks  us each",
            "m,n,k", "A mk B kn", "A mk B nk", "A km B kn", "A km B nk"
        );
        for [m, n, k] in PROBLEMS {
            let (mi, ni, ki) = (m as isize, n as isize, k as isize);
            print!("{:>16}", format!("{m},{n},{k}"));
            let mut tasks = (0, 0.0);
            for a in [[ki, 1], [1, mi]] {
                for b in [[ni, 1], [1, ki]] {
                    let (gflops, count, each) = rate(isa, [m, n, k], a, b);
                    print!(" {gflops:>9.1}");
                    tasks = (count, each);
                }
            }
            println!(" {:>7} {:>8.0}", tasks.0, tasks.1);
        }
    }
}
