//! What operations mean: the f64 interpreter against values worked out by hand, closed forms and naive loops.

use tinygpt_ir::composite;
use tinygpt_ir::interp::{Keep, eval, eval_keeping};
use tinygpt_ir::op::{AdamWPart, ContractSpec, GeluForm, Op, Reduce, Wrt};
use tinygpt_ir::spec::{Class, OPS, spec};
use tinygpt_ir::{Builder, DType, Graph, Init, Literal, StateRole, T, Tensor, TensorType, numel, verify};

fn tensor(dtype: DType, shape: &[usize], data: &[f64]) -> Tensor {
    Tensor::new(TensorType::new(dtype, shape), data.to_vec()).expect("data fits the type")
}
fn f(shape: &[usize], data: &[f64]) -> Tensor {
    tensor(DType::F32, shape, data)
}
fn i(shape: &[usize], data: &[f64]) -> Tensor {
    tensor(DType::I32, shape, data)
}
fn u(value: u32) -> Tensor {
    Tensor::scalar(DType::U32, value.into())
}

/// Pseudo-random values in [-1, 1): a fixed linear congruential sequence from `seed`.
fn noise(shape: &[usize], seed: u64) -> Tensor {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f64 / (1u64 << 23) as f64 - 1.0
    };
    Tensor::new(TensorType::f32(shape), (0..numel(shape)).map(|_| next()).collect()).expect("finite floats")
}

fn graph_of(inputs: &[Tensor], model: impl for<'g> Fn(&'g Builder, &[T<'g>]) -> T<'g>) -> Graph {
    let b = Builder::new("test");
    let x: Vec<T<'_>> = inputs.iter().enumerate().map(|(i, t)| b.input(format!("x{i}"), t.ty.clone())).collect();
    b.output("y", model(&b, &x));
    let graph = b.finish().unwrap_or_else(|e| panic!("{e}"));
    verify::verify(&graph).unwrap_or_else(|e| panic!("{e}"));
    graph
}

fn run(inputs: &[Tensor], model: impl for<'g> Fn(&'g Builder, &[T<'g>]) -> T<'g>) -> Tensor {
    let mut result = eval(&graph_of(inputs, model), inputs).unwrap_or_else(|e| panic!("{e}"));
    result.outputs.remove(0).1
}

fn close(got: &Tensor, shape: &[usize], want: &[f64], tolerance: f64) {
    assert_eq!(got.ty.shape, shape);
    for (n, (g, w)) in got.data.iter().zip(want).enumerate() {
        assert!((g - w).abs() <= tolerance * (1.0 + w.abs()), "element {n}: {g}, want {w} ({:?})", got.data);
    }
    assert_eq!(got.data.len(), want.len());
}

#[test]
fn elementwise_ops_act_on_each_element() {
    let x = f(&[2, 2], &[1.0, 4.0, 0.25, 16.0]);
    assert_eq!(run(std::slice::from_ref(&x), |_, x| x[0].sqrt()).data, [1.0, 2.0, 0.5, 4.0]);
    assert_eq!(run(std::slice::from_ref(&x), |_, x| -x[0]).data, [-1.0, -4.0, -0.25, -16.0]);
    let y = f(&[2, 1], &[2.0, 0.25]);
    assert_eq!(run(&[x.clone(), y.clone()], |_, x| x[0] / x[1]).data, [0.5, 2.0, 1.0, 64.0]);
    let le = run(&[x.clone(), y.clone()], |_, x| x[0].le(x[1]));
    assert_eq!((le.ty.dtype, le.data), (DType::Bool, vec![1.0, 0.0, 1.0, 0.0]));
    assert_eq!(run(&[x, y], |_, x| x[0].le(x[1]).select(x[0], -1.0)).data, [1.0, -1.0, 0.25, -1.0]);
    assert_eq!(run(&[f(&[3], &[-1.5, 2.7, 0.0])], |_, x| x[0].cast(DType::I32)).data, [-1.0, 2.0, 0.0]);
    let max = i32::MAX as f64;
    assert_eq!(run(&[i(&[2], &[max, 5.0])], |_, x| x[0] + 1.0).data, [i32::MIN as f64, 6.0]);
}

#[test]
fn sources() {
    assert_eq!(run(&[], |b, _| b.iota([2, 3], DType::I32, 1)).data, [0.0, 1.0, 2.0, 0.0, 1.0, 2.0]);
    assert_eq!(run(&[], |b, _| b.iota([2, 3], DType::F32, 0)).data, [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]);
    assert_eq!(run(&[], |b, _| b.splat([3], Literal::i32(-2))).data, [-2.0; 3]);
    let draw = |seed, counter, stream| run(&[u(seed), u(counter)], move |b, x| b.random(x[0], x[1], stream, [4, 5]));
    let first = draw(1, 2, 3);
    assert_eq!(first, draw(1, 2, 3));
    assert!(first.data.iter().all(|x| (0.0..1.0).contains(x) && (*x as f32) as f64 == *x));
    assert!(first != draw(2, 2, 3) && first != draw(1, 3, 3) && first != draw(1, 2, 4));
}

#[test]
fn reductions() {
    let x = f(&[2, 3], &[1.0, -2.0, 3.0, 10.0, 20.0, 20.0]);
    let reduce = |axes: &'static [usize]| run(std::slice::from_ref(&x), move |_, x| x[0].sum(axes));
    close(&reduce(&[1]), &[2, 1], &[2.0, 50.0], 0.0);
    close(&reduce(&[0]), &[1, 3], &[11.0, 18.0, 23.0], 0.0);
    close(&reduce(&[0, 1]), &[1, 1], &[52.0], 0.0);
    close(&run(std::slice::from_ref(&x), |_, x| x[0].reduce_max(&[0])), &[1, 3], &[10.0, 20.0, 20.0], 0.0);
    let arg = run(std::slice::from_ref(&x), |_, x| x[0].argmax(1));
    assert_eq!((arg.ty.dtype, arg.data), (DType::I32, vec![2.0, 1.0]));
    close(&run(&[x], |_, x| x[0].argmax(0)), &[1, 3], &[1.0, 1.0, 1.0], 0.0);
    let big = i32::MAX as f64;
    assert_eq!(run(&[i(&[3], &[big, big, 3.0])], |_, x| x[0].sum(&[0])).data, [1.0]);
    // Middle axis of three.
    let x: Vec<f64> = (0..12).map(f64::from).collect();
    close(&run(&[f(&[2, 3, 2], &x)], |_, x| x[0].sum(&[1])), &[2, 1, 2], &[6.0, 9.0, 24.0, 27.0], 0.0);
}

#[test]
fn movements() {
    let x = f(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let one = |model: for<'g> fn(T<'g>) -> T<'g>| run(std::slice::from_ref(&x), move |_, x| model(x[0]));
    close(&one(|x| x.transpose([1, 0])), &[3, 2], &[1.0, 4.0, 2.0, 5.0, 3.0, 6.0], 0.0);
    close(&one(|x| x.reshape([3, 1, 2])), &[3, 1, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 0.0);
    close(&one(|x| x.slice([0, 1], [2, 3])), &[2, 2], &[2.0, 3.0, 5.0, 6.0], 0.0);
    close(&one(|x| x.slice([1, 0], [2, 1])), &[1, 1], &[4.0], 0.0);
    close(&one(|x| x.slice_axis(1, 1, 2).pad([0, 1], [1, 0], 9.0)), &[3, 2], &[9.0, 2.0, 9.0, 5.0, 9.0, 9.0], 0.0);
    close(
        &one(|x| x.slice_axis(0, 0, 1).broadcast_to([2, 2, 3])),
        &[2, 2, 3],
        &[1.0, 2.0, 3.0, 1.0, 2.0, 3.0, 1.0, 2.0, 3.0, 1.0, 2.0, 3.0],
        0.0,
    );
    let y = f(&[2, 1], &[7.0, 8.0]);
    let joined = run(&[x.clone(), y], |b, x| b.concat(&[x[0], x[1], x[0]], 1));
    let want = [1.0, 2.0, 3.0, 7.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 4.0, 5.0, 6.0];
    close(&joined, &[2, 7], &want, 0.0);
    let cube: Vec<f64> = (0..24).map(f64::from).collect();
    let turned = run(&[f(&[2, 3, 4], &cube)], |_, x| x[0].transpose([2, 0, 1]));
    assert_eq!(turned.ty.shape, [4, 2, 3]);
    for (a, b, c) in (0..2).flat_map(|a| (0..3).flat_map(move |b| (0..4).map(move |c| (a, b, c)))) {
        assert_eq!(turned.data[c * 6 + a * 3 + b], cube[a * 12 + b * 4 + c]);
    }
}

#[test]
fn indexing_clamps() {
    let table = f(&[3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let ids = i(&[2, 2], &[2.0, 0.0, -5.0, 7.0]);
    let rows = run(&[table.clone(), ids], |_, x| x[0].gather(x[1]));
    close(&rows, &[2, 2, 2], &[5.0, 6.0, 1.0, 2.0, 1.0, 2.0, 5.0, 6.0], 0.0);

    let updates = f(&[3, 2], &[10.0, 20.0, 100.0, 200.0, 1000.0, 2000.0]);
    let inputs = [table.clone(), i(&[3], &[1.0, 1.0, 9.0]), updates];
    let sum = run(&inputs, |_, x| x[0].scatter_add(x[1], x[2]));
    close(&sum, &[3, 2], &[1.0, 2.0, 113.0, 224.0, 1005.0, 2006.0], 0.0);

    let start = |a: f64, b: f64| [table.clone(), i(&[], &[a]), i(&[], &[b])];
    let window = |a, b| run(&start(a, b), |_, x| x[0].dynamic_slice(&x[1..3], [2, 1]));
    close(&window(1.0, 1.0), &[2, 1], &[4.0, 6.0], 0.0);
    close(&window(5.0, -3.0), &[2, 1], &[3.0, 5.0], 0.0);

    let into = |a, b| {
        let inputs: Vec<Tensor> = start(a, b).into_iter().chain([f(&[1, 2], &[-1.0, -2.0])]).collect();
        run(&inputs, |_, x| x[0].dynamic_update(x[3], &x[1..3]))
    };
    close(&into(1.0, 0.0), &[3, 2], &[1.0, 2.0, -1.0, -2.0, 5.0, 6.0], 0.0);
    close(&into(99.0, 99.0), &[3, 2], &[1.0, 2.0, 3.0, 4.0, -1.0, -2.0], 0.0);
}

/// Sum over all assignments of all labels, one product at a time.
fn naive_contract(labels: &ContractSpec, a: &Tensor, b: &Tensor, out: &[usize]) -> Vec<f64> {
    let mut extents: Vec<(u8, usize)> = Vec::new();
    for (ls, shape) in [(&labels.lhs, &a.ty.shape), (&labels.rhs, &b.ty.shape)] {
        for (l, d) in ls.iter().zip(shape) {
            if !extents.iter().any(|(m, _)| m == l) {
                extents.push((*l, *d));
            }
        }
    }
    let mut result = vec![0.0; numel(out)];
    let total: usize = extents.iter().map(|(_, d)| d).product();
    for mut n in 0..total {
        let mut index = [0usize; 256];
        for (l, d) in &extents {
            index[*l as usize] = n % d;
            n /= d;
        }
        let offset = |ls: &[u8], shape: &[usize]| ls.iter().zip(shape).fold(0, |o, (l, d)| o * d + index[*l as usize]);
        result[offset(&labels.out, out)] +=
            a.data[offset(&labels.lhs, &a.ty.shape)] * b.data[offset(&labels.rhs, &b.ty.shape)];
    }
    result
}

#[test]
fn contraction_with_random_labels_equals_naive_loops() {
    let mut state = 12345u64;
    let mut below = |n: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % n
    };
    for case in 0..200 {
        // Each label is in two or three of lhs, rhs and out.
        let mut parts: [Vec<u8>; 3] = Default::default();
        let mut extents = [1usize; 256];
        for label in b'a'..b'a' + below(6) as u8 {
            extents[label as usize] = [1, 2, 3, 5][below(4)];
            let absent = below(4);
            for (_, part) in parts.iter_mut().enumerate().filter(|(p, _)| *p != absent) {
                part.insert(below(part.len() + 1), label);
            }
        }
        let [lhs, rhs, out] = parts;
        let labels = ContractSpec { lhs, rhs, out };
        let shape = |ls: &[u8]| ls.iter().map(|l| extents[*l as usize]).collect::<Vec<_>>();
        let (a, b) = (noise(&shape(&labels.lhs), case), noise(&shape(&labels.rhs), case + 1000));
        let want = naive_contract(&labels, &a, &b, &shape(&labels.out));
        let got = run(&[a, b], |b, x| b.node(Op::Contract(labels.clone()), x));
        close(&got, &shape(&labels.out), &want, 1e-14);
    }
}

#[test]
fn softmax_sums_to_one_and_survives_large_scores() {
    let x = f(&[2, 3], &[1000.0, 1001.0, 999.0, -1.0, -1.0, f64::NEG_INFINITY]);
    let p = run(std::slice::from_ref(&x), |_, x| x[0].softmax(1));
    let e = std::f64::consts::E;
    let z = 1.0 + e + 1.0 / e;
    close(&p, &[2, 3], &[1.0 / z, e / z, 1.0 / e / z, 0.5, 0.5, 0.0], 1e-15);
    let columns = run(&[noise(&[4, 3], 1)], |_, x| x[0].softmax(0).sum(&[0]));
    close(&columns, &[1, 3], &[1.0; 3], 1e-15);
    let log = run(&[noise(&[4, 3], 2)], |_, x| x[0].log_softmax(1) - x[0].softmax(1).log());
    close(&log, &[4, 3], &[0.0; 12], 1e-14);
}

#[test]
fn norms() {
    let inputs = [noise(&[3, 8], 3), f(&[8], &[1.0; 8]), f(&[8], &[0.0; 8])];
    let y = run(&inputs, |_, x| x[0].layer_norm(x[1], x[2], 0.0));
    for row in y.data.chunks(8) {
        let mean = row.iter().sum::<f64>() / 8.0;
        let var = row.iter().map(|v| v * v).sum::<f64>() / 8.0;
        assert!(mean.abs() < 1e-14 && (var - 1.0).abs() < 1e-13, "mean {mean}, variance {var}");
    }
    // x = (1, 3): mean 2, variance 1; eps 3 halves it; weight and bias apply last.
    let inputs = [f(&[1, 2], &[1.0, 3.0]), f(&[2], &[10.0, 20.0]), f(&[2], &[0.5, -0.5])];
    close(&run(&inputs, |_, x| x[0].layer_norm(x[1], x[2], 3.0)), &[1, 2], &[-4.5, 9.5], 1e-15);
    // Mean square of (1, 7) is 25.
    let inputs = [f(&[2], &[1.0, 7.0]), f(&[2], &[10.0, 20.0])];
    close(&run(&inputs, |_, x| x[0].rms_norm(x[1], 0.0)), &[2], &[2.0, 28.0], 1e-15);
}

#[test]
fn activations() {
    // x * Phi(x), with Phi from tables of the normal distribution.
    let x = f(&[4], &[0.0, 1.0, -1.0, 2.0]);
    let phi1 = 0.841_344_746_068_542_9;
    let want = [0.0, phi1, -(1.0 - phi1), 2.0 * 0.977_249_868_051_820_8];
    close(&run(std::slice::from_ref(&x), |_, x| x[0].gelu(GeluForm::Erf)), &[4], &want, 1e-15);
    // The tanh form is an approximation, to within 5e-4 (Hendrycks and Gimpel 2016), and not the same function.
    let approx = run(std::slice::from_ref(&x), |_, x| x[0].gelu(GeluForm::Tanh));
    close(&approx, &[4], &want, 5e-4);
    close(&approx, &[4], &[0.0, 0.841_191_990_608_276_4, -0.158_808_009_391_723_6, 1.954_597_694_087_775], 1e-15);
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    close(&run(&[x], |_, x| x[0].silu()), &[4], &[0.0, sigmoid(1.0), -sigmoid(-1.0), 2.0 * sigmoid(2.0)], 1e-15);
}

#[test]
fn linear_is_x_times_transposed_weight() {
    let inputs =
        [f(&[1, 2, 2], &[1.0, 2.0, 3.0, 4.0]), f(&[3, 2], &[1.0, 0.0, 0.0, 1.0, 1.0, 1.0]), f(&[3], &[0.5, 0.0, -0.5])];
    let y = run(&inputs, |_, x| x[0].linear(x[1], Some(x[2])));
    close(&y, &[1, 2, 3], &[1.5, 2.0, 2.5, 3.5, 4.0, 6.5], 0.0);
    let y = run(&inputs[..2], |_, x| x[0].linear(x[1], None));
    close(&y, &[1, 2, 3], &[1.0, 2.0, 3.0, 3.0, 4.0, 7.0], 0.0);
}

const B: usize = 2;
const H: usize = 2;
const D: usize = 3;

/// Attention by loops over batch and head, query, key: outputs [B,H,T,D] and log-sum-exps [B,H,T].
fn naive_attention(q: &Tensor, k: &Tensor, v: &Tensor, causal: bool, scale: f64) -> (Vec<f64>, Vec<f64>) {
    let (t, s) = (q.ty.shape[2], k.ty.shape[2]);
    let (mut out, mut lse) = (Vec::new(), Vec::new());
    for bh in 0..B * H {
        for i in 0..t {
            let score = |j: usize| -> f64 {
                (0..D).map(|d| q.data[(bh * t + i) * D + d] * k.data[(bh * s + j) * D + d]).sum::<f64>() * scale
            };
            let seen = if causal { i + 1 } else { s };
            let z: f64 = (0..seen).map(|j| score(j).exp()).sum();
            lse.push(z.ln());
            for d in 0..D {
                out.push((0..seen).map(|j| score(j).exp() / z * v.data[(bh * s + j) * D + d]).sum());
            }
        }
    }
    (out, lse)
}

#[test]
fn attention_equals_naive_loops() {
    for (causal, t, s) in [(false, 3, 5), (true, 4, 4), (false, 1, 1)] {
        let inputs = [noise(&[B, H, t, D], 4), noise(&[B, H, s, D], 5), noise(&[B, H, s, D], 6)];
        let (out, lse) = naive_attention(&inputs[0], &inputs[1], &inputs[2], causal, 0.7);
        close(&run(&inputs, |_, x| x[0].attention(x[1], x[2], causal, 0.7)), &[B, H, t, D], &out, 1e-14);
        close(&run(&inputs[..2], |_, x| x[0].attention_lse(x[1], causal, 0.7)), &[B, H, t], &lse, 1e-14);
    }
}

#[test]
fn attention_gradients_equal_finite_differences() {
    let (t, scale, h) = (3, 0.7, 1e-5);
    for causal in [false, true] {
        let x: [Tensor; 4] = std::array::from_fn(|n| noise(&[B, H, t, D], 10 + n as u64));
        let value = |x: &[Tensor]| -> f64 {
            let (out, _) = naive_attention(&x[0], &x[1], &x[2], causal, scale);
            out.iter().zip(&x[3].data).map(|(o, g)| o * g).sum()
        };
        for (n, wrt) in [Wrt::Q, Wrt::K, Wrt::V].into_iter().enumerate() {
            let got = run(&x, |_, x| {
                let out = x[0].attention(x[1], x[2], causal, scale);
                let lse = x[0].attention_lse(x[1], causal, scale);
                x[0].attention_grad(wrt, [x[1], x[2], out, lse, x[3]], causal, scale)
            });
            let slope = |e: usize| {
                let moved = |by: f64| {
                    let mut x = x.to_vec();
                    x[n].data[e] += by;
                    value(&x)
                };
                (moved(h) - moved(-h)) / (2.0 * h)
            };
            let want: Vec<f64> = (0..x[n].data.len()).map(slope).collect();
            close(&got, &[B, H, t, D], &want, 1e-8);
        }
    }
}

#[test]
fn rope_rotates_halves() {
    let x = noise(&[2, 5, 6], 7);
    let y = run(std::slice::from_ref(&x), |_, x| x[0].rope(100.0));
    for (n, (from, to)) in x.data.chunks(6).zip(y.data.chunks(6)).enumerate() {
        for i in 0..3 {
            // The pair (i, i + D/2) turns by t * base^(-2i/D), as a complex number does.
            let angle = (n % 5) as f64 * 100f64.powf(-2.0 * i as f64 / 6.0);
            let want =
                (from[i] * angle.cos() - from[i + 3] * angle.sin(), from[i + 3] * angle.cos() + from[i] * angle.sin());
            assert!((to[i] - want.0).abs() < 1e-14 && (to[i + 3] - want.1).abs() < 1e-14, "row {n}, pair {i}");
            assert!((to[i].hypot(to[i + 3]) - from[i].hypot(from[i + 3])).abs() < 1e-14, "row {n}, pair {i}");
        }
    }
}

#[test]
fn cross_entropy_is_the_mean_of_minus_log_probability() {
    let logits = noise(&[2, 2, 4], 8);
    let targets = [3.0, 0.0, 1.0, 1.0];
    let loss = run(&[logits.clone(), i(&[2, 2], &targets)], |_, x| x[0].cross_entropy(x[1]));
    let row = |(row, t): (&[f64], &f64)| row.iter().map(|x| x.exp()).sum::<f64>().ln() - row[*t as usize];
    let want = logits.data.chunks(4).zip(&targets).map(row).sum::<f64>() / 4.0;
    close(&loss, &[], &[want], 1e-15);
    let uniform = run(&[f(&[1, 256], &[0.0; 256]), i(&[1], &[5.0])], |_, x| x[0].cross_entropy(x[1]));
    close(&uniform, &[], &[256f64.ln()], 1e-15);
}

#[test]
fn gradient_clipping() {
    let inputs = [f(&[2], &[3.0, 0.0]), f(&[1, 1], &[4.0])];
    close(&run(&inputs, |b, x| b.global_norm(x)), &[], &[5.0], 1e-15);
    // Blocks of 2 of five elements and of one; and blocks longer than any operand.
    let inputs = [f(&[5], &[1.0, 2.0, 3.0, 4.0, 5.0]), f(&[], &[6.0])];
    close(&run(&inputs, |b, x| b.square_sums(x, 2)), &[4], &[5.0, 25.0, 25.0, 36.0], 0.0);
    close(&run(&inputs, |b, x| b.square_sums(x, 100)), &[2], &[55.0, 36.0], 0.0);
    close(&run(&inputs, composite::global_norm_in_blocks), &[], &[91f64.sqrt()], 1e-15);
    let clip = |norm: f64| run(&[f(&[2], &[3.0, -6.0]), f(&[], &[norm])], |_, x| x[0].clip_by_global_norm(x[1], 1.0));
    close(&clip(4.0), &[2], &[3.0 / 4.000001, -6.0 / 4.000001], 1e-15);
    close(&clip(0.5), &[2], &[3.0, -6.0], 0.0);
}

#[test]
fn adamw_follows_the_paper_over_three_steps() {
    let (beta1, beta2, eps, decay, lr) = (0.9, 0.95, 1e-8, 0.1, 0.01);
    let b = Builder::new("adamw");
    let p = b.weight("p", [3], Init::Ones);
    let m = b.state("m", TensorType::f32([3]), Init::Zeros, StateRole::Optimizer);
    let v = b.state("v", TensorType::f32([3]), Init::Zeros, StateRole::Optimizer);
    let g = b.input("g", TensorType::f32([3]));
    let (rate, step) = (b.input("lr", TensorType::f32([])), b.input("step", TensorType::f32([])));
    for (part, state) in [(AdamWPart::Param, p), (AdamWPart::Moment1, m), (AdamWPart::Moment2, v)] {
        b.update(state, p.adamw(part, [g, m, v, rate, step], beta1, beta2, eps, decay));
    }
    let graph = b.finish().unwrap_or_else(|e| panic!("{e}"));

    let mut state = [f(&[3], &[1.0; 3]), f(&[3], &[0.0; 3]), f(&[3], &[0.0; 3])];
    let (mut theta, mut m1, mut m2) = ([1.0f64; 3], [0.0f64; 3], [0.0f64; 3]);
    for t in 1..=3 {
        let g = noise(&[3], 20 + t);
        for n in 0..3 {
            m1[n] = beta1 * m1[n] + (1.0 - beta1) * g.data[n];
            m2[n] = beta2 * m2[n] + (1.0 - beta2) * g.data[n] * g.data[n];
            let m_hat = m1[n] / (1.0 - f64::powi(beta1, t as i32));
            let v_hat = m2[n] / (1.0 - f64::powi(beta2, t as i32));
            theta[n] -= lr * decay * theta[n];
            theta[n] -= lr * m_hat / (v_hat.sqrt() + eps);
        }
        let inputs = [g, f(&[], &[lr]), f(&[], &[t as f64])];
        let params: Vec<&Tensor> = state.iter().chain(&inputs).collect();
        let result = eval(&graph, &params).unwrap_or_else(|e| panic!("{e}"));
        state = std::array::from_fn(|n| result.updates[n].1.clone());
        for (got, want) in state.iter().zip([theta, m1, m2]) {
            close(got, &[3], &want, 1e-14);
        }
    }
}

#[test]
fn only_live_nodes_are_evaluated_and_kept_on_demand() {
    let b = Builder::new("live");
    let x = b.input("x", TensorType::f32([2]));
    let dead = x.exp();
    let inner = x + 1.0;
    let y = inner * inner;
    b.output("y", y);
    b.output("again", y);
    let ids = [dead, inner, y].map(|t| t.id().expect("no error").index());
    let graph = b.finish().unwrap_or_else(|e| panic!("{e}"));
    let x = [f(&[2], &[1.0, 2.0])];
    let roots = eval(&graph, &x).unwrap_or_else(|e| panic!("{e}"));
    assert!(roots.values.is_empty());
    assert_eq!(roots.output("y").map(|t| &t.data[..]), Some(&[4.0, 9.0][..]));
    assert_eq!(roots.output("y"), roots.output("again"));
    let all = eval_keeping(&graph, &x, Keep::All).unwrap_or_else(|e| panic!("{e}")).values;
    assert!(all[ids[0]].is_none());
    assert_eq!(all[ids[1]].as_ref().map(|t| &t.data[..]), Some(&[2.0, 3.0][..]));
    assert_eq!(all[ids[2]].as_ref().map(|t| &t.data[..]), Some(&[4.0, 9.0][..]));
}

#[test]
fn values_that_do_not_fit_are_refused() {
    let graph = graph_of(&[i(&[2], &[0.0; 2])], |_, x| x[0]);
    let message = |params: &[Tensor]| eval(&graph, params).expect_err("does not fit").to_string();
    assert_eq!(message(&[]), "graph test has 1 parameters, found 0 values");
    assert_eq!(message(&[f(&[2], &[0.0; 2])]), "parameter x0 is i32[2], found a value of f32[2]");
    let half = Tensor { ty: TensorType::new(DType::I32, [2]), data: vec![0.0, 0.5] };
    assert_eq!(message(&[half]), "parameter x0: element 1 of i32[2] is 0.5, which i32 cannot hold");
    let short = Tensor { ty: TensorType::new(DType::I32, [2]), data: vec![0.0] };
    assert_eq!(message(&[short]), "parameter x0: i32[2] holds 2 elements, found 1");
}

#[test]
fn the_table_has_each_operation_once() {
    let mut names: Vec<&str> = OPS.iter().map(|s| s.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), OPS.len());
    assert_eq!(OPS.iter().filter(|s| s.class == Class::Composite).count(), 16);
    for s in OPS {
        assert!(!s.doc.is_empty() && !s.shape.is_empty() && !s.dtype.is_empty(), "{} lacks documentation", s.name);
        assert!(s.arity.least <= s.arity.most.unwrap_or(usize::MAX), "{}", s.name);
        assert!(s.operands.len() >= s.arity.least.min(1), "{} names no operand", s.name);
    }
    let max = Op::Reduce { op: Reduce::Max, axes: vec![0] };
    assert_eq!((spec(&max).name, max.name()), ("reduce_max", "reduce_max"));
    assert_eq!(spec(&Op::Concat { axis: 0 }).operand_name(2), "part 2");
    assert_eq!(spec(&Op::ScatterAdd).operand_name(1), "ids");
}

#[test]
fn oversized_and_ill_fitting_operands_are_refused() {
    let refused = |model: fn(&Builder) -> T<'_>| {
        let b = Builder::new("bad");
        model(&b);
        b.finish().expect_err("must be refused").message
    };
    assert_eq!(
        refused(|b| b.iota([1 << 20, 1 << 20], DType::I32, 0)),
        "iota would yield i32[1048576,1048576]; a tensor has at most 2147483647 elements"
    );
    assert_eq!(refused(|b| b.concat(&[], 0)), "concat takes 1 or more operands, found 0");
    // Would broadcast, but is not a layer norm.
    let wide = refused(|b| {
        let (x, w) = (b.input("x", TensorType::f32([3])), b.input("w", TensorType::f32([5, 3])));
        x.layer_norm(w, x, 1e-5)
    });
    assert_eq!(wide, "layer_norm needs x [.., C], a weight [C] and a bias [C], found f32[3], f32[5,3], f32[3]");
}
