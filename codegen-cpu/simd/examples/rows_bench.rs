//! Prints the time of each row function, in nanoseconds an element, on rows that fit the first-level cache:
//!
//!     cargo run --release -p tinygpt-simd --example rows_bench

use std::time::Instant;
use tinygpt_simd::{Isa, rows::rows};

const LEN: usize = 2048;

fn main() {
    for isa in Isa::available() {
        let table = rows(isa).expect("available");
        let x: Vec<f32> = (0..LEN).map(|i| i as f32 * 0.002 + 0.1).collect();
        let mut y = x.clone();
        print!("{}:", isa.name());
        let functions = [
            ("exp", table.exp),
            ("log", table.log),
            ("tanh", table.tanh),
            ("erf", table.erf),
            ("sin", table.sin),
            ("cos", table.cos),
        ];
        for (name, f) in functions {
            let mut best = f64::INFINITY;
            for _ in 0..3000 {
                let start = Instant::now();
                // SAFETY: both hold LEN elements.
                unsafe { f(x.as_ptr(), y.as_mut_ptr(), LEN) };
                best = best.min(start.elapsed().as_secs_f64());
            }
            print!("  {name} {:.3}", best * 1e9 / LEN as f64);
        }
        println!("  ns an element");
    }
}
