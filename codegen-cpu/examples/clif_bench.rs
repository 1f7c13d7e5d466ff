//! The quality of emitted code: a saxpy loop and a register-tiled product, their machine code and speed on one
//! thread. The limit for 128-bit vectors on the reference machine is 60 GFLOP/s.
//!
//!     cargo run --release -p tinygpt-codegen-cpu --example clif_bench

use std::time::Instant;
use tinygpt_codegen_cpu::clif::{Jit, KernelFn, Options};
use tinygpt_vloop::{Builder, Elem, Func};

/// y += 2 x over `n` elements, four vectors an iteration.
fn saxpy() -> Func {
    let mut b = Builder::new("saxpy");
    let x = b.input("x", Elem::F32);
    let y = b.output("y", Elem::F32);
    let n = b.param("n");
    let two = b.f32x4(2.0);
    b.for_("i", 0, n, 16, |b, i| {
        for v in 0..4 {
            let at = |buf: tinygpt_vloop::BufId| buf.at().plus(i, 1).offset(4 * v);
            let (xv, yv) = (b.load4(at(x)), b.load4(at(y)));
            let r = b.fma(two, xv, yv);
            b.store(at(y), r);
        }
    });
    b.finish().expect("well formed")
}

/// c[m,n] = a[m,k] b[k,n], row-major, in tiles of `rows` by 4 `vectors`, `unroll` steps of k at a time.
fn matmul([rows, vectors, unroll]: [i64; 3], [m, n, k]: [i64; 3]) -> Func {
    let mut b = Builder::new("matmul");
    let (a, w, c) = (b.input("a", Elem::F32), b.input("b", Elem::F32), b.output("c", Elem::F32));
    b.for_("i", 0, m, rows, |b, i| {
        b.for_("j", 0, n, 4 * vectors, |b, j| {
            let acc: Vec<_> = (0..rows * vectors)
                .map(|_| {
                    let zero = b.f32x4(0.0);
                    b.var("acc", zero)
                })
                .collect();
            b.for_("p", 0, k, unroll, |b, p| {
                for u in 0..unroll {
                    let brow = w.at().plus(j, 1).plus(p, n).offset(u * n);
                    let bv: Vec<_> = (0..vectors).map(|v| b.load4(brow.clone().offset(4 * v))).collect();
                    for r in 0..rows {
                        let av = b.load_splat(a.at().plus(i, k).plus(p, 1).offset(r * k + u));
                        for v in 0..vectors {
                            b.fma_into(acc[(r * vectors + v) as usize], av, bv[v as usize]);
                        }
                    }
                }
            });
            for r in 0..rows {
                for v in 0..vectors {
                    b.store(c.at().plus(i, n).plus(j, 1).offset(r * n + 4 * v), acc[(r * vectors + v) as usize]);
                }
            }
        });
    });
    b.finish().expect("well formed")
}

/// 12 multiply-adds an iteration that touch no memory: the limit of this machine as it is loaded now.
fn peak() -> Func {
    let mut b = Builder::new("peak");
    let (y, n) = (b.output("y", Elem::F32), b.param("n"));
    let (x, one) = (b.f32x4(0.5), b.f32x4(1.0));
    let acc: Vec<_> = (0..12).map(|_| b.var("acc", one)).collect();
    b.for_("i", 0, n, 1, |b, _| {
        for &a in &acc {
            let next = b.fma(a, x, one);
            b.assign(a, next);
        }
    });
    let sum = acc[1..].iter().fold(acc[0], |sum, &a| b.add(sum, a));
    b.store(y.at(), sum);
    b.finish().expect("well formed")
}

/// Least seconds of a call: what the code can do on a machine that others use too.
fn time(kernel: KernelFn, bufs: &mut [Vec<f32>], params: &[i64]) -> f64 {
    let ptrs: Vec<*mut u8> = bufs.iter_mut().map(|b| b.as_mut_ptr().cast()).collect();
    let mut times: Vec<f64> = (0..200)
        .map(|_| {
            let start = Instant::now();
            // SAFETY: the buffers have the lengths that the functions above access; no scratch is declared.
            unsafe { kernel(ptrs.as_ptr(), std::ptr::null_mut(), params.as_ptr()) };
            start.elapsed().as_secs_f64()
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[0]
}

fn main() {
    let mut jit = Jit::new(Options { texts: true, ..Options::default() }).expect("a supported host");
    let shape @ [m, n, k] = [240, 192, 192];
    let peak_id = jit.compile(&peak()).expect("compiles");
    let saxpy_id = jit.compile(&saxpy()).expect("compiles");
    let tiles = [[4, 2, 1], [4, 2, 2], [4, 2, 4], [4, 2, 8], [2, 4, 4], [5, 2, 2], [5, 2, 4], [6, 2, 4], [8, 1, 4]];
    let matmuls: Vec<_> = tiles
        .iter()
        .map(|&tile| {
            let func = matmul(tile, shape);
            let start = Instant::now();
            let id = jit.compile(&func).expect("compiles");
            (tile, id, start.elapsed())
        })
        .collect();
    let code = jit.finish().expect("finalizes");

    println!("{}", code.asm_text(saxpy_id).expect("texts are on"));
    println!(
        "{}",
        code.asm_text(matmuls[std::env::args().nth(1).map_or(0, |i| i.parse().expect("a number"))].1)
            .expect("texts are on")
    );
    let s = time(code.get(peak_id), &mut [vec![0.0; 4]], &[10_000]);
    println!("registers only: {:.1} GFLOP/s", 1e-9 * 10_000.0 * 96.0 / s);
    let len = 4096;
    let s = time(code.get(saxpy_id), &mut [vec![1.0; len], vec![1.0; len]], &[len as i64]);
    println!("saxpy {len}: {:.1} GFLOP/s, {:.1} GB/s", 2e-9 * len as f64 / s, 12e-9 * len as f64 / s);
    for ([rows, vectors, unroll], id, compile) in matmuls {
        let size = |a: i64, b: i64| vec![1.0f32; (a * b) as usize];
        let s = time(code.get(id), &mut [size(m, k), size(k, n), size(m, n)], &[]);
        let gflops = 2e-9 * (m * n * k) as f64 / s;
        let tile = format!("{rows}x{} unrolled {unroll}", 4 * vectors);
        println!("matmul {shape:?} tile {tile}: {gflops:.1} GFLOP/s, compiled in {compile:?}");
    }
}
