//! Contractions and attention on the adapter against the f64 interpreter.

mod support;

use support::*;
use tinygpt_codegen_wgsl::{AttentionTiling, Variant};
use tinygpt_ir::op::{Binary, Unary};
use tinygpt_ir::program::{
    Access, ArgId, Attention, AttentionGrad, AttentionShape, Contract, ContractPart, KernelKind, Term,
};
use tinygpt_ir::types::{DType, row_major};

/// out[m,n] = a[m,k] b[k,n], transposed as asked for.
fn plain(m: usize, n: usize, k: usize, ta: bool, tb: bool, tc: bool) -> KernelKind {
    let strides = |rows: usize, cols: usize, t: bool| if t { vec![1, rows as i64] } else { vec![cols as i64, 1] };
    let mut b = B::new();
    let acc = b.acc(0);
    let right = strides(k, n, tb);
    KernelKind::Contract(Contract {
        parts: vec![ContractPart {
            batch: vec![],
            m: vec![m],
            n: vec![n],
            terms: vec![Term {
                k: vec![k],
                f16: false,
                lhs: Access::direct(ArgId(0), 0, strides(m, k, ta)),
                rhs: Access::direct(ArgId(1), 0, vec![right[1], right[0]]),
            }],
            body: b.body,
            stores: vec![store(2, strides(m, n, tc), acc)],
        }],
    })
}

/// The same contraction of operands rounded to f16, which is exact on every adapter: tolerances stay.
fn rounded(kind: &KernelKind) -> KernelKind {
    let KernelKind::Contract(k) = kind else { panic!("a contraction") };
    let mut k = k.clone();
    k.parts.iter_mut().flat_map(|p| &mut p.terms).for_each(|t| t.f16 = true);
    KernelKind::Contract(k)
}

/// Tiles of 16x16 by plain arithmetic.
fn tiling_of_16(split: u32) -> Variant {
    Variant::Contract { m: 16, n: 16, k: 16, each_m: 4, each_n: 4, teams: 1, split, buffers: 1, unroll: 4 }
}

/// Numbers near 0 that f16 spaces evenly, and some beyond its range.
fn small_and_large(rng: &mut Rng, n: usize) -> Vec<f64> {
    let scale = [2f64.powi(-24), 2f64.powi(-15), 1.0, 2f64.powi(13)];
    let numbers = rng.floats(n).into_iter().enumerate();
    numbers.map(|(i, x)| f64::from((x * scale[i % 4]) as f32)).collect()
}

/// In every layout with tails, with one buffer and two, with slices; software adapters compile large tiles slowly.
#[test]
fn operands_rounded_to_f16() {
    let by = |m, n, split, buffers| Variant::Contract {
        m,
        n,
        k: 8,
        each_m: 4,
        each_n: 4,
        teams: 1,
        split,
        buffers,
        unroll: 4,
    };
    let (mut rng, (m, n, k)) = (Rng(35), (17, 23, 31));
    for (t, variant) in [by(16, 32, 1, 2), by(16, 16, 1, 1), by(32, 16, 2, 2), by(16, 16, 2, 1)].iter().enumerate() {
        let args = [read(DType::F32, rng.floats(m * k)), read(DType::F32, rng.floats(k * n)), write(DType::F32, m * n)];
        let kind = rounded(&plain(m, n, k, t & 1 != 0, t & 2 != 0, t & 1 != 0));
        check_these(&format!("{m}x{n}x{k} transposed {t:02b}"), &kind, &args, products(k), &[*variant]);
    }
    // One product a result: every value shows as it was rounded.
    let (m, n) = (96, 32);
    let args =
        [read(DType::F32, small_and_large(&mut rng, m)), read(DType::F32, vec![1.0; n]), write(DType::F32, m * n)];
    let kind = rounded(&plain(m, n, 1, false, false, false));
    check_these("rounded values", &kind, &args, products(1), &[by(16, 32, 1, 2), by(16, 16, 1, 1)]);
    check_default(
        "a default",
        &rounded(&plain(68, 36, 36, true, false, false)),
        &[read(DType::F32, rng.floats(68 * 36)), read(DType::F32, rng.floats(36 * 36)), write(DType::F32, 68 * 36)],
        products(36),
    );
}

#[test]
fn operands_on_cooperative_matrices() {
    let by = |m, n, k, by_m, by_n, split| Variant::Cooperate { m, n, k, by_m, by_n, split };
    let mut rng = Rng(36);
    for (t, (m, n, k)) in
        [(0, (64, 32, 32)), (1, (33, 36, 20)), (2, (20, 40, 24)), (3, (17, 23, 31)), (5, (40, 35, 18))]
    {
        let args = [read(DType::F32, rng.floats(m * k)), read(DType::F32, rng.floats(k * n)), write(DType::F32, m * n)];
        let kind = rounded(&plain(m, n, k, t & 1 != 0, t & 2 != 0, t & 4 != 0));
        let list = [by(32, 32, 16, 1, 2, 1), by(32, 32, 16, 2, 1, 2)];
        check_these(&format!("{m}x{n}x{k} transposed {t:03b}"), &kind, &args, products(k), &list);
    }
    // Operands that are f16 in memory, beside ones that are not: on matrices and by plain arithmetic.
    for (t, (m, n, k)) in [(0, (64, 32, 32)), (1, (33, 36, 20)), (5, (40, 36, 20)), (3, (17, 22, 30))] {
        let mut halves = |n: usize| rng.floats(n).into_iter().map(half).collect::<Vec<_>>();
        let (x, y) = (halves(m * k), halves(k * n));
        let kind = rounded(&plain(m, n, k, t & 1 != 0, t & 2 != 0, t & 4 != 0));
        let list = [by(32, 32, 16, 1, 2, 1), tiling_of_16(1), tiling_of_16(2)];
        for types in [[DType::F16, DType::F32], [DType::F32, DType::F16], [DType::F16; 2]] {
            let args = [read(types[0], x.clone()), read(types[1], y.clone()), write(DType::F32, m * n)];
            check_these(&format!("{m}x{n}x{k} {types:?} transposed {t:03b}"), &kind, &args, products(k), &list);
        }
    }
    // Where there is room for the sums of two matrices of a row, and not for all four.
    let (m, n, k) = (70, 100, 20);
    let args = [read(DType::F32, rng.floats(m * k)), read(DType::F32, rng.floats(k * n)), write(DType::F32, m * n)];
    let kind = rounded(&plain(m, n, k, false, true, false));
    check_these(
        "parts of rows of sums",
        &kind,
        &args,
        products(k),
        &[by(64, 64, 16, 4, 1, 1), by(64, 64, 16, 4, 1, 2)],
    );
    // Two batches of two products each, with an epilogue that adds in place.
    let (b, m, n, k) = (2, 20, 24, 20);
    let mut body = B::new();
    let acc = body.acc(0);
    let space = [(m * n) as i64, n as i64, 1];
    let old = body.load(4, DType::F32, &space);
    let sum = body.binary(Binary::Add, acc, old);
    let term = |lhs: u32| Term {
        k: vec![k],
        f16: true,
        lhs: Access::direct(ArgId(lhs), 0, vec![(m * k) as i64, k as i64, 1]),
        rhs: Access::direct(ArgId(lhs + 1), 0, vec![0, 1, n as i64]),
    };
    let part = ContractPart {
        batch: vec![b],
        m: vec![m],
        n: vec![n],
        terms: vec![term(0), term(2)],
        body: body.body,
        stores: vec![store(4, space.to_vec(), sum)],
    };
    let operands = [b * m * k, k * n, b * m * k, k * n].map(|len| read(DType::F32, rng.floats(len)));
    let args: Vec<Given> = operands.into_iter().chain([in_place(DType::F32, rng.floats(b * m * n))]).collect();
    let kind = KernelKind::Contract(Contract { parts: vec![part] });
    let list = [by(32, 32, 32, 1, 1, 1), by(32, 16, 16, 2, 1, 2)];
    check_these("batches, terms and an epilogue", &kind, &args, products(2 * k + 1), &list);
}

/// In every layout with tails, and a sum of two products whose depths differ: the steps of one follow those of the other.
#[test]
fn teams_of_a_workgroup() {
    let by = |m, k, teams, split, buffers| {
        let each_m = if teams == 4 { 8 } else { 4 };
        Variant::Contract { m, n: 16, k, each_m, each_n: 4, teams, split, buffers, unroll: 4 }
    };
    let list = [by(16, 8, 2, 1, 2), by(32, 16, 4, 2, 2), by(16, 16, 2, 2, 1)];
    let (mut rng, (m, n, k)) = (Rng(37), (37, 23, 70));
    for t in 0..4 {
        let args = [read(DType::F32, rng.floats(m * k)), read(DType::F32, rng.floats(k * n)), write(DType::F32, m * n)];
        let kind = plain(m, n, k, t & 1 != 0, t & 2 != 0, false);
        check_these(&format!("{m}x{n}x{k} transposed {t:02b}"), &kind, &args, products(k), &list[t % 3..][..1]);
    }
    for same in [true, false] {
        let KernelKind::Contract(mut kind) = plain(m, n, k, false, true, false) else { panic!("a contraction") };
        let other = 20;
        // Blocks of the second product's left side lie as the first's do, or the other way around.
        let lhs = if same { vec![other as i64, 1] } else { vec![1, m as i64] };
        kind.parts[0].terms.push(Term {
            k: vec![other],
            f16: false,
            lhs: Access::direct(ArgId(3), 0, lhs),
            rhs: Access::direct(ArgId(4), 0, vec![other as i64, 1]),
        });
        let sizes = [m * k, k * n, m * n, m * other, other * n];
        let mut args: Vec<Given> = sizes.iter().map(|len| read(DType::F32, rng.floats(*len))).collect();
        args[2] = write(DType::F32, m * n);
        check_these("two products", &KernelKind::Contract(kind), &args, products(k + other), &list);
    }
}

#[test]
fn every_transposition_of_many_sizes() {
    let mut rng = Rng(30);
    for (m, n, k) in [(1, 1, 1), (5, 1, 3), (17, 23, 31), (64, 8, 16), (20, 16, 400), (68, 132, 36)] {
        for t in 0..8 {
            let args =
                [read(DType::F32, rng.floats(m * k)), read(DType::F32, rng.floats(k * n)), write(DType::F32, m * n)];
            let kind = plain(m, n, k, t & 1 != 0, t & 2 != 0, t & 4 != 0);
            let name = format!("product {m}x{n}x{k} transposed {t:03b}");
            let all = m == 68 && t % 4 != 3;
            (if all { check } else { check_two })(&name, &kind, &args, products(k));
        }
    }
}

#[test]
fn axes_layouts_terms_and_epilogues() {
    let mut rng = Rng(31);
    for case in 0..24 {
        let group = |rng: &mut Rng, most: usize, sizes: &[usize]| {
            let n = rng.below(most + 1);
            (0..n).map(|_| rng.pick(sizes)).collect::<Vec<usize>>()
        };
        let batch = group(&mut rng, 2, &[1, 2, 3]);
        let m = group(&mut rng, 2, &[1, 3, 4, 10, 19]);
        let n = group(&mut rng, 2, &[1, 2, 4, 7, 12, 20]);
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
            let mut strides = rng.layout(&right);
            if shared {
                strides = [vec![0; batch.len()], strides].concat();
            }
            let arg = args.len() as u32;
            terms.push(Term {
                k: k.clone(),
                f16: false,
                lhs: Access::direct(ArgId(arg), offset as i64, rng.layout(&left)),
                rhs: Access::direct(ArgId(arg + 1), 0, strides),
            });
            args.push(read(DType::F32, rng.floats(left.iter().product::<usize>() + offset)));
            args.push(read(DType::F32, rng.floats(right.iter().product())));
            depth += k.iter().product::<usize>();
        }
        let total: usize = space.iter().product();
        let mut b = B::new();
        let acc = b.acc(0);
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
            let strides = rng.layout(&space);
            let old = b.load(args.len() as u32, DType::F32, &strides);
            value = b.binary(Binary::Add, value, old);
            stores.push(store(args.len() as u32, strides, value));
            args.push(in_place(DType::F32, rng.floats(total)));
            stores.push(store(args.len() as u32, rng.layout(&space), acc));
        } else {
            stores.push(store(args.len() as u32, rng.layout(&space), value));
        }
        args.push(write(DType::F32, total));
        let part = ContractPart { batch, m, n, terms, body: b.body, stores };
        let name = format!("contract {:?} {:?} {:?} epilogue {kind} case {case}", part.batch, part.m, part.n);
        check_two(&name, &KernelKind::Contract(Contract { parts: vec![part] }), &args, products(depth + 4));
    }
}

#[test]
fn siblings_with_gelu_epilogues() {
    // Two parts that share an operand, of different sizes.
    let mut rng = Rng(32);
    let (m, k) = (37, 19);
    let part = |arg: u32, n: usize| {
        let mut b = B::new();
        let x = b.acc(0);
        let half = b.constant(std::f64::consts::FRAC_1_SQRT_2);
        let scaled = b.binary(Binary::Mul, x, half);
        let e = b.unary(Unary::Erf, scaled);
        let y = b.binary(Binary::Mul, x, e);
        ContractPart {
            batch: vec![],
            m: vec![m],
            n: vec![n],
            terms: vec![Term {
                k: vec![k],
                f16: false,
                lhs: Access::direct(ArgId(0), 0, vec![k as i64, 1]),
                rhs: Access::direct(ArgId(arg), 0, vec![k as i64, 1]),
            }],
            body: b.body,
            stores: vec![store(arg + 2, vec![n as i64, 1], y)],
        }
    };
    let args = [
        read(DType::F32, rng.floats(m * k)),
        read(DType::F32, rng.floats(132 * k)),
        read(DType::F32, rng.floats(75 * k)),
        write(DType::F32, m * 132),
        write(DType::F32, m * 75),
    ];
    let kind = KernelKind::Contract(Contract { parts: vec![part(1, 132), part(2, 75)] });
    check("siblings", &kind, &args, products(8 * k));
}

#[test]
fn heads_side_by_side() {
    // A projection [B T, C] -> [B, H, T, D]: m = (B, T), n = (H, D), neither of which merges in the output.
    let mut rng = Rng(33);
    let (batch, t, heads, d, c) = (2, 33, 3, 20, 24);
    let mut b = B::new();
    let acc = b.acc(0);
    let bias = b.load(2, DType::F32, &[0, 0, d as i64, 1]);
    let y = b.binary(Binary::Add, acc, bias);
    let out = vec![(heads * t * d) as i64, d as i64, (t * d) as i64, 1];
    let part = ContractPart {
        batch: vec![],
        m: vec![batch, t],
        n: vec![heads, d],
        terms: vec![Term {
            k: vec![c],
            f16: false,
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
    check("heads", &KernelKind::Contract(Contract { parts: vec![part] }), &args, products(c));
}

#[test]
fn long_products_of_few_results_are_split() {
    let (m, n, k) = (12, 8, 4100);
    let mut rng = Rng(36);
    let kind = plain(m, n, k, true, false, false);
    let args = [read(DType::F32, rng.floats(m * k)), read(DType::F32, rng.floats(k * n)), write(DType::F32, m * n)];
    let program = program(&kind, &args, Layout::Own);
    let caps = tinygpt_codegen_wgsl::Caps::webgpu();
    let pieces = tinygpt_codegen_wgsl::pieces(&program, program.kernels.values().next().unwrap(), &caps).unwrap();
    let list = tinygpt_codegen_wgsl::variants(&pieces[0], &caps);
    let split = |v: &tinygpt_codegen_wgsl::Variant| matches!(v, tinygpt_codegen_wgsl::Variant::Contract { split, .. } if *split > 1);
    assert!(split(&list[0]), "default {}", list[0]);
    let module = tinygpt_codegen_wgsl::emit(&pieces[0], &caps, &list[0]).unwrap();
    assert_eq!(module.dispatches.len(), 2);
    check("split", &kind, &args, products(k));
}

/// Shapes with every remainder, causal and not.
fn shapes() -> Vec<AttentionShape> {
    let mut out = Vec::new();
    for (batch, heads, q_len, k_len, head_dim) in
        [(1, 1, 1, 1, 1), (2, 3, 7, 7, 5), (1, 2, 33, 33, 8), (1, 1, 64, 64, 16), (2, 1, 5, 19, 12), (1, 1, 70, 70, 24)]
    {
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

/// Heads larger than any tile.
fn large_heads() -> AttentionShape {
    AttentionShape { batch: 1, heads: 2, q_len: 35, k_len: 35, head_dim: 70, causal: true, scale: 0.12 }
}

/// [B,H,T,D] in one of three layouts: heads first, positions first, head dimension not contiguous.
fn layout(space: &[usize], which: usize) -> Vec<i64> {
    let [_, h, t, d] = space[..] else { panic!("four axes") };
    match which {
        0 => row_major(space),
        1 => vec![(t * h * d) as i64, d as i64, (h * d) as i64, 1],
        _ => vec![(h * t * d) as i64, (t * d) as i64, 1, t as i64],
    }
}

#[test]
fn attention_forward() {
    let mut rng = Rng(34);
    for shape in shapes().into_iter().chain([large_heads()]) {
        for (which, (with_out, with_lse)) in
            [(0, (true, true)), (1, (true, false)), (2, (true, true)), (1, (false, true))]
        {
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
            check_two(&name, &kind, &args, Tolerance { relative: 1e-5, absolute: 1e-5 });
        }
    }
}

#[test]
fn attention_backward() {
    let mut rng = Rng(35);
    for (number, shape) in shapes().into_iter().chain([large_heads()]).enumerate() {
        // Of the layouts and wanted gradients the first, and of the others each with some shapes: software adapters compile slowly.
        let others = [(1, 0b001), (2, 0b110), (1, 0b111)];
        for (which, wanted) in [(0, 0b111), others[number % 3]] {
            if shape.head_dim > 32 && which > 0 {
                continue;
            }
            let (qs, ks) = (shape.q_space(), shape.k_space());
            let (qn, kn) = (qs.iter().product(), ks.iter().product());
            let q_at = |arg: u32| Access::direct(ArgId(arg), 0, layout(&qs, which));
            let k_at = |arg: u32| Access::direct(ArgId(arg), 0, layout(&ks, which));
            let lse_at = |arg: u32| Access::direct(ArgId(arg), 0, row_major(&shape.lse_space()));
            let [q, k, v] = [qn, kn, kn].map(|n| rng.floats(n));
            // The log-sum-exp and the result of the forward pass, from the oracle.
            let rows = shape.lse_space().iter().product();
            let mut forward = vec![q.clone(), k.clone(), v.clone(), vec![0.0; qn], vec![0.0; rows]];
            let given = [
                read(DType::F32, q.clone()),
                read(DType::F32, k.clone()),
                read(DType::F32, v.clone()),
                write(DType::F32, qn),
                write(DType::F32, rows),
            ];
            let kind = KernelKind::Attention(Attention {
                shape,
                q: q_at(0),
                k: k_at(1),
                v: Some(k_at(2)),
                out: Some(q_at(3)),
                lse: Some(lse_at(4)),
            });
            let p = program(&kind, &given, Layout::Own);
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
            // Software adapters take long to compile several chunks of dimensions.
            let check = if shape.head_dim > 32 { check_default } else { check_two };
            check(&name, &kind, &args, Tolerance { relative: 2e-5, absolute: 1e-4 });
        }
    }
}

/// A number that f16 holds.
fn half(x: f64) -> f64 {
    let step = 2f64.powi(x.abs().log2().floor() as i32 - 10);
    (x / step).round() * step
}

fn attention_shape(heads: usize, q_len: usize, k_len: usize, head_dim: usize, causal: bool) -> AttentionShape {
    AttentionShape { batch: 2, heads, q_len, k_len, head_dim, causal, scale: 1.0 / (head_dim as f64).sqrt() }
}

/// Attention of operands that f16 holds, queries times `size`, and its gradients, in these variants each.
fn attention_both_ways(
    rng: &mut Rng,
    shape: AttentionShape,
    which: usize,
    size: f64,
    variants: [&[Variant]; 2],
    tolerances: [Tolerance; 2],
) {
    let (qs, ks) = (shape.q_space(), shape.k_space());
    let (qn, kn) = (qs.iter().product::<usize>(), ks.iter().product::<usize>());
    let count: usize = shape.lse_space().iter().product();
    let q_at = |arg: u32| Access::direct(ArgId(arg), 0, layout(&qs, which));
    let k_at = |arg: u32| Access::direct(ArgId(arg), 0, layout(&ks, which));
    let lse_at = |arg: u32| Access::direct(ArgId(arg), 0, row_major(&shape.lse_space()));
    let [q, k, v, dout] = [qn, kn, kn, qn].map(|n| rng.floats(n).into_iter().map(half).collect::<Vec<_>>());
    let q: Vec<f64> = q.into_iter().map(|x| size * x).collect();
    let forward = KernelKind::Attention(Attention {
        shape,
        q: q_at(0),
        k: k_at(1),
        v: Some(k_at(2)),
        out: Some(q_at(3)),
        lse: Some(lse_at(4)),
    });
    let operands = [&q, &k, &v].map(|x| read(DType::F32, x.clone()));
    let args: Vec<Given> = operands.into_iter().chain([write(DType::F32, qn), write(DType::F32, count)]).collect();
    let name = format!("attention {shape:?} layout {which}");
    let [of_forward, of_backward] = tolerances;
    check_these(&name, &forward, &args, of_forward, variants[0]);
    if variants[1].is_empty() {
        return;
    }

    let mut done: Vec<Vec<f64>> = args.iter().map(|a| a.data.clone()).collect();
    let whole = program(&forward, &args, Layout::Own);
    tinygpt_ir::program::interp::run_kernel(whole.kernels.values().next().unwrap(), &mut done).unwrap();
    let backward = KernelKind::AttentionGrad(AttentionGrad {
        shape,
        q: q_at(0),
        k: k_at(1),
        v: k_at(2),
        out: q_at(3),
        lse: lse_at(4),
        dout: q_at(5),
        dq: Some(q_at(6)),
        dk: Some(k_at(7)),
        dv: Some(k_at(8)),
    });
    let all = [&q, &k, &v, &done[3], &done[4], &dout];
    let given = all.map(|x| read(DType::F32, x.iter().map(|x| f64::from(*x as f32)).collect()));
    let results = [qn, kn, kn].map(|n| write(DType::F32, n));
    let args: Vec<Given> = given.into_iter().chain(results).collect();
    check_these(&format!("gradients of {name}"), &backward, &args, of_backward, variants[1]);
}

/// Both ways on cooperative matrices, operands such that only weights and slopes are rounded: 2^-11 each, of sums of some of size 1. Of one case the
/// queries are so large that scores exceed those of the tiles before by more than exponentials bear, and sums are scaled; forward only, for gradients
/// of such scores are large too.
#[test]
fn attention_on_cooperative_matrices() {
    let mut rng = Rng(37);
    let cases = [
        (attention_shape(2, 40, 40, 16, true), 1, (32, 16), 1.0),
        (attention_shape(1, 20, 35, 20, false), 0, (16, 16), 1.0),
        (attention_shape(1, 37, 37, 12, true), 2, (16, 32), 1.0),
        (attention_shape(2, 70, 70, 20, true), 0, (32, 16), 32.0),
    ];
    let tolerances = [Tolerance { relative: 1e-3, absolute: 1e-3 }, Tolerance { relative: 2e-3, absolute: 4e-3 }];
    for (shape, which, (rows, cols), size) in cases {
        let walk = [Variant::AttentionMatrices { rows, cols }];
        attention_both_ways(&mut rng, shape, which, size, [&walk, if size > 1.0 { &[] } else { &walk }], tolerances);
    }
}

/// Tiles of as many queries as keys and of others, in several steps, that stay or do not, slopes kept or computed again.
#[test]
fn attention_in_tilings() {
    let mut rng = Rng(38);
    let tiling = |[rows, cols]: [usize; 2], [each_m, each_n]: [usize; 2], stay| AttentionTiling {
        rows,
        cols,
        each_m,
        each_n,
        depth: 16,
        stay,
    };
    let (square, wide) = (tiling([32, 32], [4, 4], true), tiling([32, 64], [4, 8], false));
    let (large, high) = (tiling([64, 64], [4, 8], false), tiling([64, 32], [8, 4], true));
    let cases = [
        (attention_shape(1, 70, 70, 24, true), 1, high, (square, true)),
        (attention_shape(1, 70, 70, 24, true), 0, large, (wide, false)),
        (attention_shape(1, 40, 70, 20, false), 0, wide, (wide, true)),
        (attention_shape(1, 35, 35, 12, true), 2, square, (large, true)),
    ];
    let tolerances = [Tolerance { relative: 1e-5, absolute: 1e-5 }, Tolerance { relative: 2e-5, absolute: 1e-4 }];
    for (shape, which, forward, (tiling, slopes)) in cases {
        let variants = [Variant::Attention(forward), Variant::AttentionGrad { tiling, slopes }];
        attention_both_ways(&mut rng, shape, which, 1.0, [&variants[..1], &variants[1..]], tolerances);
    }
}
