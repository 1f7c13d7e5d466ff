//! The quality of emitted code: a saxpy loop and a register-tiled product, their machine code and speed on one
//! thread. The limit for 128-bit vectors on the reference machine is 60 GFLOP/s.
//!
//!     cargo run --release -p tinygpt-codegen-cpu --example clif_bench

use std::time::Instant;
use tinygpt_codegen_cpu::clif::{Jit, KernelFn, Options};
use tinygpt_vloop::{Builder, Elem, Func, Ty};

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

/// c[m,n] = a[m,k] b[k,n], tiles of `rows` by 4 `vectors`, row-major.
fn matmul(rows: i64, vectors: i64, [m, n, k]: [i64; 3]) -> Func {
    let mut b = Builder::new("matmul");
    let (a, w, c) = (b.input("a", Elem::F32), b.input("b", Elem::F32), b.output("c", Elem::F32));
    b.for_("i", 0, m, rows, |b, i| {
        b.for_("j", 0, n, 4 * vectors, |b, j| {
            let zero = b.reg(Ty::F32x4);
            b.set(zero, tinygpt_vloop::Op::Const(tinygpt_vloop::Const::f32(0.0)));
            let acc: Vec<_> = (0..rows * vectors).map(|_| b.var("acc", zero)).collect();
            b.for_("p", 0, k, 1, |b, p| {
                let bv: Vec<_> = (0..vectors).map(|v| b.load4(w.at().plus(j, 1).plus(p, n).offset(4 * v))).collect();
                for r in 0..rows {
                    let av = b.load_splat(a.at().plus(i, k).plus(p, 1).offset(r * k));
                    for v in 0..vectors {
                        b.fma_into(acc[(r * vectors + v) as usize], av, bv[v as usize]);
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

/// Median seconds of a call.
fn time(kernel: KernelFn, bufs: &mut [Vec<f32>], params: &[i64]) -> f64 {
    let ptrs: Vec<*mut u8> = bufs.iter_mut().map(|b| b.as_mut_ptr().cast()).collect();
    let mut times: Vec<f64> = (0..30)
        .map(|_| {
            let start = Instant::now();
            // SAFETY: the buffers have the lengths that the functions above access; no scratch is declared.
            unsafe { kernel(ptrs.as_ptr(), std::ptr::null_mut(), params.as_ptr()) };
            start.elapsed().as_secs_f64()
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn main() {
    let mut jit = Jit::new(Options { texts: true, ..Options::default() }).expect("a supported host");
    let shape @ [m, n, k] = [192, 192, 192];
    let saxpy_id = jit.compile(&saxpy()).expect("compiles");
    let tiles = [(4, 2), (6, 2), (5, 2), (4, 3), (3, 4), (2, 4)];
    let matmuls: Vec<_> = tiles
        .iter()
        .map(|&(rows, vectors)| {
            let func = matmul(rows, vectors, shape);
            let start = Instant::now();
            let id = jit.compile(&func).expect("compiles");
            (rows, vectors, id, start.elapsed())
        })
        .collect();
    let code = jit.finish().expect("finalizes");

    println!("{}", code.asm_text(saxpy_id).expect("texts are on"));
    println!("{}", code.asm_text(matmuls[0].2).expect("texts are on"));
    let len = 4096;
    let s = time(code.get(saxpy_id), &mut [vec![1.0; len], vec![1.0; len]], &[len as i64]);
    println!("saxpy {len}: {:.1} GFLOP/s, {:.1} GB/s", 2e-9 * len as f64 / s, 12e-9 * len as f64 / s);
    for (rows, vectors, id, compile) in matmuls {
        if m % rows != 0 || n % (4 * vectors) != 0 {
            continue;
        }
        let size = |a: i64, b: i64| vec![1.0f32; (a * b) as usize];
        let s = time(code.get(id), &mut [size(m, k), size(k, n), size(m, n)], &[]);
        let gflops = 2e-9 * (m * n * k) as f64 / s;
        println!("matmul {shape:?} tile {rows}x{}: {gflops:.1} GFLOP/s, compiled in {compile:?}", 4 * vectors);
    }
}
