//! Contractions and attention against the f64 interpreter.

mod support;

use support::*;
use tinygpt_codegen_cpu::compile::{CpuOptions, PreparedProgram};
use tinygpt_ir::op::{Binary, Unary};
use tinygpt_ir::program::{
    Access, ArgId, ArgMode, Attention, AttentionGrad, AttentionShape, Contract, ContractPart, KernelId, KernelKind,
    ScalarId, ScalarOp, Store, Term,
};
use tinygpt_ir::types::{DType, row_major};
use tinygpt_simd::Isa;

fn store(arg: u32, strides: Vec<i64>, value: ScalarId) -> Store {
    Store { access: Access::direct(ArgId(arg), 0, strides), value }
}

/// Strides over `extents` of an operand laid out in a random order of axes.
fn random_layout(rng: &mut Rng, extents: &[usize]) -> Vec<i64> {
    let mut order: Vec<usize> = (0..extents.len()).collect();
    for i in (1..order.len()).rev() {
        order.swap(i, rng.below(i + 1));
    }
    let sorted: Vec<usize> = order.iter().map(|&a| extents[a]).collect();
    let mut strides = vec![0; extents.len()];
    for (&axis, stride) in order.iter().zip(row_major(&sorted)) {
        strides[axis] = stride;
    }
    strides
}

/// out[m,n] = a[m,k] b[k,n], transposed as asked for.
fn plain(m: usize, n: usize, k: usize, ta: bool, tb: bool, tc: bool) -> KernelKind {
    let strides = |rows: usize, cols: usize, t: bool| if t { vec![1, rows as i64] } else { vec![cols as i64, 1] };
    let mut b = B::new(2);
    let acc = b.f32(ScalarOp::Acc(0));
    let right = strides(k, n, tb);
    KernelKind::Contract(Contract {
        parts: vec![ContractPart {
            batch: vec![],
            m: vec![m],
            n: vec![n],
            terms: vec![Term {
                f16: false,
                k: vec![k],
                lhs: Access::direct(ArgId(0), 0, strides(m, k, ta)),
                rhs: Access::direct(ArgId(1), 0, vec![right[1], right[0]]),
            }],
            body: b.body,
            stores: vec![store(2, strides(m, n, tc), acc)],
        }],
    })
}

#[test]
fn every_transposition_of_many_sizes() {
    let mut rng = Rng(30);
    for (m, n, k) in [
        (1, 1, 1),
        (1, 7, 5),
        (5, 1, 3),
        (4, 12, 8),
        (3, 4, 9),
        (17, 23, 31),
        (64, 8, 16),
        (65, 25, 4),
        (70, 264, 10),
        (9, 300, 33),
        (20, 13, 400),
        (6, 20, 1000),
        // Few rows: blocks, groups and single columns; vectors and what is left of k.
        (1, 200, 70),
        (2, 130, 36),
        (3, 66, 5),
        (4, 128, 129),
    ] {
        for t in 0..8 {
            let args =
                [read(DType::F32, rng.floats(m * k)), read(DType::F32, rng.floats(k * n)), write(DType::F32, m * n)];
            let kind = plain(m, n, k, t & 1 != 0, t & 2 != 0, t & 4 != 0);
            check(&format!("product {m}x{n}x{k} transposed {t:03b}"), &kind, &args, products(k));
        }
    }
}

#[test]
fn axes_layouts_terms_and_epilogues() {
    let mut rng = Rng(31);
    for case in 0..80 {
        let group = |rng: &mut Rng, most: usize, sizes: &[usize]| {
            let n = rng.below(most + 1);
            (0..n).map(|_| rng.pick(sizes)).collect::<Vec<usize>>()
        };
        let batch = group(&mut rng, 2, &[1, 2, 3]);
        let m = group(&mut rng, 2, &[1, 3, 4, 10, 19]);
        let n = group(&mut rng, 2, &[1, 2, 4, 7, 12, 18]);
        let space = [batch.clone(), m.clone(), n.clone()].concat();
        let mut args = Vec::new();
        let mut terms = Vec::new();
        let mut depth = 0;
        for _ in 0..1 + rng.below(2) {
            let k = [group(&mut rng, 1, &[1, 2, 5]), vec![rng.pick(&[1, 3, 8, 21])]].concat();
            let offset = rng.below(3);
            let left = [batch.clone(), m.clone(), k.clone()].concat();
            // The right side sometimes does not depend on the batch.
            let shared = rng.below(2) == 0;
            let right = [if shared { vec![] } else { batch.clone() }, n.clone(), k.clone()].concat();
            let mut strides = random_layout(&mut rng, &right);
            if shared {
                strides = [vec![0; batch.len()], strides].concat();
            }
            let arg = args.len() as u32;
            terms.push(Term {
                f16: false,
                k: k.clone(),
                lhs: Access::direct(ArgId(arg), offset as i64, random_layout(&mut rng, &left)),
                rhs: Access::direct(ArgId(arg + 1), 0, strides),
            });
            args.push(read(DType::F32, rng.floats(left.iter().product::<usize>() + offset)));
            args.push(read(DType::F32, rng.floats(right.iter().product())));
            depth += k.iter().product::<usize>();
        }
        let total: usize = space.iter().product();
        let mut b = B::new(space.len());
        let acc = b.f32(ScalarOp::Acc(0));
        let mut value = acc;
        let kind = rng.below(4);
        if kind >= 1 {
            // A bias along n.
            let strides = [vec![0; batch.len() + m.len()], row_major(&n)].concat();
            let bias = b.load(args.len() as u32, DType::F32, &strides);
            args.push(read(DType::F32, rng.floats(n.iter().product())));
            value = b.binary(Binary::Add, value, bias);
        }
        if kind >= 2 {
            value = b.unary(Unary::Tanh, value);
        }
        let mut stores = Vec::new();
        if kind == 3 {
            // A residual in place, and the sums themselves as a second result.
            let strides = random_layout(&mut rng, &space);
            let old = b.load(args.len() as u32, DType::F32, &strides);
            value = b.binary(Binary::Add, value, old);
            stores.push(store(args.len() as u32, strides, value));
            args.push(in_place(DType::F32, rng.floats(total)));
            stores.push(store(args.len() as u32, random_layout(&mut rng, &space), acc));
        } else {
            stores.push(store(args.len() as u32, random_layout(&mut rng, &space), value));
        }
        args.push(write(DType::F32, total));
        let part = ContractPart { batch, m, n, terms, body: b.body, stores };
        let name = format!("contract {:?} {:?} {:?} epilogue {kind} case {case}", part.batch, part.m, part.n);
        check(&name, &KernelKind::Contract(Contract { parts: vec![part] }), &args, products(depth + 4));
    }
}

#[test]
fn siblings_with_wide_gelu_epilogues() {
    // Two parts that share an operand; n is long enough for row calls.
    let mut rng = Rng(32);
    let (m, n, k) = (37, 530, 19);
    let part = |arg: u32| {
        let mut b = B::new(2);
        let x = b.f32(ScalarOp::Acc(0));
        let half = b.constant(std::f64::consts::FRAC_1_SQRT_2);
        let scaled = b.binary(Binary::Mul, x, half);
        let e = b.unary(Unary::Erf, scaled);
        let y = b.binary(Binary::Mul, x, e);
        ContractPart {
            batch: vec![],
            m: vec![m],
            n: vec![n],
            terms: vec![Term {
                f16: false,
                k: vec![k],
                lhs: Access::direct(ArgId(0), 0, vec![k as i64, 1]),
                rhs: Access::direct(ArgId(arg), 0, vec![k as i64, 1]),
            }],
            body: b.body,
            stores: vec![store(arg + 2, vec![n as i64, 1], y)],
        }
    };
    let args = [
        read(DType::F32, rng.floats(m * k)),
        read(DType::F32, rng.floats(n * k)),
        read(DType::F32, rng.floats(n * k)),
        write(DType::F32, m * n),
        write(DType::F32, m * n),
    ];
    check("siblings", &KernelKind::Contract(Contract { parts: vec![part(1), part(2)] }), &args, products(8 * k));
}

/// Gradients of weights: k along the rows of both sides, long enough to be cut into ranges.
#[test]
fn ranges_of_a_long_k() {
    let mut rng = Rng(34);
    for (k, ranges) in [(1023, 1), (1029, 2), (2050, 4)] {
        let (m, sizes, ld) = (19, [35, 17], 40);
        let mut args = vec![read(DType::F32, rng.floats(m * k))];
        let mut parts = Vec::new();
        for (i, n) in sizes.into_iter().enumerate() {
            let arg = args.len() as u32;
            args.push(read(DType::F32, rng.floats(n * k)));
            args.push(read(DType::F32, rng.floats(n)));
            let mut out = write(DType::F32, m * ld);
            if i == 1 {
                out = Given { mode: ArgMode::ReadWrite, data: rng.floats(m * ld), ..out };
            }
            args.push(out);
            // The second part adds a bias, and to what its output holds.
            let mut b = B::new(2);
            let mut value = b.f32(ScalarOp::Acc(0));
            if i == 1 {
                let bias = b.load(arg + 1, DType::F32, &[0, 1]);
                value = b.binary(Binary::Add, value, bias);
                let old = b.load(arg + 2, DType::F32, &[ld as i64, 1]);
                value = b.binary(Binary::Add, value, old);
            }
            parts.push(ContractPart {
                batch: vec![],
                m: vec![m],
                n: vec![n],
                terms: vec![Term {
                    k: vec![k],
                    lhs: Access::direct(ArgId(0), 0, vec![1, m as i64]),
                    rhs: Access::direct(ArgId(arg), 0, vec![1, n as i64]),
                    f16: false,
                }],
                body: b.body,
                stores: vec![store(arg + 2, vec![ld as i64, 1], value)],
            });
        }
        let kind = KernelKind::Contract(Contract { parts });
        check(&format!("k of {k}"), &kind, &args, products(k));
        let Some(isa) = Isa::detect() else { continue };
        let options = CpuOptions { isa: Some(isa), ..CpuOptions::default() };
        let prepared = PreparedProgram::new(&program(&kind, &args), &options).expect("a valid kernel");
        let text = prepared.template(KernelId(0)).expect("a template serves it").to_string();
        assert_eq!(text.contains(&format!("k in {ranges} ranges")), ranges > 1, "{text}");
        assert_eq!(text.contains("ranges"), ranges > 1, "{text}");
    }
}

#[test]
fn heads_side_by_side() {
    // A projection [B T, C] -> [B, H, T, D]: m = (B, T), n = (H, D), neither of which merges in the output.
    let mut rng = Rng(33);
    // Blocks of columns that are uneven, a whole number of heads, and parts of one; one row; few rows.
    for (batch, t, heads, d) in
        [(2, 33, 3, 20), (2, 33, 4, 16), (1, 70, 1, 512), (2, 9, 2, 128), (1, 1, 3, 32), (1, 3, 4, 16)]
    {
        heads_of(&mut rng, (batch, t, heads, d, 24));
    }
}

fn heads_of(rng: &mut Rng, (batch, t, heads, d, c): (usize, usize, usize, usize, usize)) {
    let mut b = B::new(4);
    let acc = b.f32(ScalarOp::Acc(0));
    let bias = b.load(2, DType::F32, &[0, 0, d as i64, 1]);
    let y = b.binary(Binary::Add, acc, bias);
    let out = vec![(heads * t * d) as i64, d as i64, (t * d) as i64, 1];
    let part = ContractPart {
        batch: vec![],
        m: vec![batch, t],
        n: vec![heads, d],
        terms: vec![Term {
            f16: false,
            k: vec![c],
            lhs: Access::direct(ArgId(0), 0, vec![(t * c) as i64, c as i64, 1]),
            rhs: Access::direct(ArgId(1), 0, vec![(d * c) as i64, c as i64, 1]),
        }],
        body: b.body,
        stores: vec![store(3, out, y)],
    };
    let args = [
        read(DType::F32, rng.floats(batch * t * c)),
        read(DType::F32, rng.floats(heads * d * c)),
        read(DType::F32, rng.floats(heads * d)),
        write(DType::F32, batch * t * heads * d),
    ];
    check(
        &format!("heads {batch} {t} {heads} {d}"),
        &KernelKind::Contract(Contract { parts: vec![part] }),
        &args,
        products(c),
    );
}

/// Shapes with every remainder, causal and not.
fn shapes() -> Vec<AttentionShape> {
    let mut out = Vec::new();
    for (batch, heads, q_len, k_len, head_dim) in [
        (1, 1, 1, 1, 1),
        (2, 3, 7, 7, 5),
        (1, 2, 33, 33, 8),
        (1, 1, 64, 64, 16),
        (2, 1, 5, 19, 12),
        (1, 2, 1, 40, 32),
        (1, 1, 70, 70, 33),
    ] {
        for causal in [false, true] {
            if causal && q_len != k_len {
                continue;
            }
            let scale = 1.0 / (head_dim as f64).sqrt();
            out.push(AttentionShape { batch, heads, q_len, k_len, head_dim, causal, scale });
        }
    }
    out
}

/// [B,H,T,D] in one of three layouts: heads first, positions first, head dimension not contiguous.
fn layout(space: &[usize], which: usize) -> Vec<i64> {
    let [b, h, t, d] = space[..] else { panic!("four axes") };
    let _ = b;
    match which {
        0 => row_major(space),
        1 => vec![(t * h * d) as i64, d as i64, (h * d) as i64, 1],
        _ => vec![(h * t * d) as i64, (t * d) as i64, 1, t as i64],
    }
}

#[test]
fn attention_forward() {
    let mut rng = Rng(34);
    for shape in shapes() {
        for which in 0..3 {
            for (with_out, with_lse) in [(true, true), (true, false), (false, true)] {
                let (qs, ks) = (shape.q_space(), shape.k_space());
                let (qn, kn) = (qs.iter().product(), ks.iter().product());
                let q = Access::direct(ArgId(0), 0, layout(&qs, which));
                let k = Access::direct(ArgId(1), 0, layout(&ks, which));
                let mut args = vec![read(DType::F32, rng.floats(qn)), read(DType::F32, rng.floats(kn))];
                let mut v = None;
                let mut out = None;
                if with_out {
                    v = Some(Access::direct(ArgId(2), 0, layout(&ks, which)));
                    out = Some(Access::direct(ArgId(3), 0, layout(&qs, which)));
                    args.push(read(DType::F32, rng.floats(kn)));
                    args.push(write(DType::F32, qn));
                }
                let lse = with_lse.then(|| {
                    args.push(write(DType::F32, shape.lse_space().iter().product()));
                    Access::direct(ArgId(args.len() as u32 - 1), 0, row_major(&shape.lse_space()))
                });
                let kind = KernelKind::Attention(Attention { shape, q, k, v, out, lse });
                let name = format!("attention {shape:?} layout {which} out {with_out} lse {with_lse}");
                check(&name, &kind, &args, Tolerance { relative: 1e-5, absolute: 1e-5 });
            }
        }
    }
}

#[test]
fn attention_backward() {
    let mut rng = Rng(35);
    for shape in shapes() {
        for which in 0..3 {
            for wanted in [0b111, 0b001, 0b110] {
                let (qs, ks) = (shape.q_space(), shape.k_space());
                let (qn, kn) = (qs.iter().product(), ks.iter().product());
                let q_at = |arg: u32| Access::direct(ArgId(arg), 0, layout(&qs, which));
                let k_at = |arg: u32| Access::direct(ArgId(arg), 0, layout(&ks, which));
                let lse_at = |arg: u32| Access::direct(ArgId(arg), 0, row_major(&shape.lse_space()));
                let [q, k, v] = [qn, kn, kn].map(|n| rng.floats(n));
                // The log-sum-exp and the result of the forward pass, from the oracle.
                let mut forward =
                    vec![q.clone(), k.clone(), v.clone(), vec![0.0; qn], vec![0.0; shape.lse_space().iter().product()]];
                let given = [
                    read(DType::F32, q.clone()),
                    read(DType::F32, k.clone()),
                    read(DType::F32, v.clone()),
                    write(DType::F32, qn),
                    write(DType::F32, forward[4].len()),
                ];
                let kind = KernelKind::Attention(Attention {
                    shape,
                    q: q_at(0),
                    k: k_at(1),
                    v: Some(k_at(2)),
                    out: Some(q_at(3)),
                    lse: Some(lse_at(4)),
                });
                let p = program(&kind, &given);
                tinygpt_ir::program::interp::run_kernel(p.kernels.values().next().unwrap(), &mut forward).unwrap();
                let rounded = |x: &[f64]| x.iter().map(|x| f64::from(*x as f32)).collect::<Vec<_>>();
                let mut args = vec![
                    read(DType::F32, q),
                    read(DType::F32, k),
                    read(DType::F32, v),
                    read(DType::F32, rounded(&forward[3])),
                    read(DType::F32, rounded(&forward[4])),
                    read(DType::F32, rng.floats(qn)),
                ];
                let mut result = |bit: usize, n: usize, access: &dyn Fn(u32) -> Access| {
                    (wanted >> bit & 1 == 1).then(|| {
                        args.push(write(DType::F32, n));
                        access(args.len() as u32 - 1)
                    })
                };
                let (dq, dk, dv) = (result(0, qn, &q_at), result(1, kn, &k_at), result(2, kn, &k_at));
                let kind = KernelKind::AttentionGrad(AttentionGrad {
                    shape,
                    q: q_at(0),
                    k: k_at(1),
                    v: k_at(2),
                    out: q_at(3),
                    lse: lse_at(4),
                    dout: q_at(5),
                    dq,
                    dk,
                    dv,
                });
                let name = format!("attention_grad {shape:?} layout {which} wanted {wanted:03b}");
                check(&name, &kind, &args, Tolerance { relative: 2e-5, absolute: 1e-4 });
            }
        }
    }
}
