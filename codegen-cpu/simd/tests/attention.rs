//! The attention template against a plain softmax and its gradient in f64, on every instruction set here.

use tinygpt_simd::Isa;
use tinygpt_simd::attention::{AttentionPlan, AttentionShape, Backward, Forward, Strides};

/// A small generator (SplitMix64), so that failures repeat.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
    fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| 2.0 * ((self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0)).collect()
    }
    fn order(&mut self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        for i in (1..n).rev() {
            order.swap(i, self.below(i + 1));
        }
        order
    }
}

/// A layout of [batch, heads, positions, dim]: heads first, positions first, or with padded rows.
fn strides(random: &mut Random, heads: usize, positions: usize, dim: usize) -> Strides {
    match random.below(3) {
        0 => Strides::heads_first(heads, positions, dim),
        1 => Strides::positions_first(heads, positions, dim),
        _ => Strides::heads_first(heads, positions, dim + 3),
    }
}

const SENTINEL: f32 = 12345.0;

/// Largest error relative to [`Sum::size`]: about 25 roundings of f32, some of them of scores of size 10.
const TOLERANCE: f64 = 1.5e-6;

struct Case {
    shape: AttentionShape,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    dout: Vec<f32>,
}

/// What the template wrote: forward and backward, whole arrays with the gaps between rows.
#[derive(PartialEq)]
struct Written {
    out: Vec<f32>,
    lse: Vec<f32>,
    dq: Vec<f32>,
    dk: Vec<f32>,
    dv: Vec<f32>,
}

impl Case {
    fn new(
        random: &mut Random,
        batch: usize,
        heads: usize,
        [q_len, k_len]: [usize; 2],
        dim: usize,
        causal: bool,
    ) -> Case {
        let mut shape = AttentionShape::heads_first(batch, heads, [q_len, k_len], dim, causal);
        for of_queries in [&mut shape.q, &mut shape.out, &mut shape.dout, &mut shape.dq] {
            *of_queries = strides(random, heads, q_len, dim);
        }
        for of_keys in [&mut shape.k, &mut shape.v, &mut shape.dk, &mut shape.dv] {
            *of_keys = strides(random, heads, k_len, dim);
        }
        let (q_size, k_size) = (batch * heads * q_len * (dim + 3), batch * heads * k_len * (dim + 3));
        let (q, k) = (random.floats(q_size), random.floats(k_size));
        Case { shape, q, k, v: random.floats(k_size), dout: random.floats(q_size) }
    }

    /// `wanted`: which of dq, dk, dv.
    fn run(&self, isa: Isa, random: &mut Random, wanted: [bool; 3]) -> Written {
        let s = &self.shape;
        let plan = AttentionPlan::new(isa, s.clone()).expect("a valid shape");
        let mut w = Written {
            out: vec![SENTINEL; self.q.len()],
            lse: vec![SENTINEL; s.batch * s.heads * s.q_len],
            dq: vec![SENTINEL; self.q.len()],
            dk: vec![SENTINEL; self.k.len()],
            dv: vec![SENTINEL; self.k.len()],
        };
        let (q, k, v) = (self.q.as_ptr(), self.k.as_ptr(), self.v.as_ptr());
        let forward = Forward { q, k, v, out: w.out.as_mut_ptr(), lse: w.lse.as_mut_ptr() };
        for task in random.order(plan.forward_tasks()) {
            let mut scratch = vec![f32::NAN; plan.scratch_len()];
            // SAFETY: the arrays cover the shape's offsets.
            unsafe { plan.forward(task, &forward, scratch.as_mut_ptr()) };
        }
        let null_unless =
            |wanted: bool, array: &mut Vec<f32>| if wanted { array.as_mut_ptr() } else { std::ptr::null_mut() };
        let backward = Backward {
            q,
            k,
            v,
            out: w.out.as_ptr(),
            lse: w.lse.as_ptr(),
            dout: self.dout.as_ptr(),
            dq: null_unless(wanted[0], &mut w.dq),
            dk: null_unless(wanted[1], &mut w.dk),
            dv: null_unless(wanted[2], &mut w.dv),
        };
        for task in random.order(plan.backward_tasks()) {
            let mut scratch = vec![f32::NAN; plan.scratch_len()];
            // SAFETY: as above, and the forward pass is complete.
            unsafe { plan.backward(task, &backward, scratch.as_mut_ptr()) };
        }
        w
    }

    fn check(&self, isa: Isa, random: &mut Random) {
        let s = &self.shape;
        let (tq, tk, dim) = (s.q_len, s.k_len, s.head_dim);
        let w = self.run(isa, random, [true; 3]);
        assert!(w == self.run(isa, random, [true; 3]), "order of tasks shows");
        let name = format!("{isa:?} {}x{} queries {tq} keys {tk} dim {dim} causal {}", s.batch, s.heads, s.causal);
        let mut covered = [&w.out, &w.dq, &w.dk, &w.dv].map(|array| vec![false; array.len()]);
        for b in 0..s.batch {
            for h in 0..s.heads {
                let at = |strides: &Strides, i: usize, c: usize| {
                    (b as isize * strides.batch + h as isize * strides.head + i as isize * strides.position) as usize
                        + c
                };
                let get = |array: &[f32], strides: &Strides, n: usize| -> Vec<f64> {
                    (0..n * dim).map(|x| array[at(strides, x / dim, x % dim)] as f64).collect()
                };
                let (q, k, v) = (get(&self.q, &s.q, tq), get(&self.k, &s.k, tk), get(&self.v, &s.v, tk));
                let dout = get(&self.dout, &s.dout, tq);
                let exact = reference(s, &q, &k, &v, &dout);
                for (i, &lse) in exact.lse.iter().enumerate() {
                    let found = w.lse[(b * s.heads + h) * tq + i] as f64;
                    assert!((found - lse).abs() < 2e-6 * lse.abs().max(1.0), "{name}: lse {i}: {found} not {lse}");
                }
                let results = [
                    ("out", &w.out, &s.out, &exact.out),
                    ("dq", &w.dq, &s.dq, &exact.dq),
                    ("dk", &w.dk, &s.dk, &exact.dk),
                    ("dv", &w.dv, &s.dv, &exact.dv),
                ];
                for (r, (what, array, strides, exact)) in results.into_iter().enumerate() {
                    for (x, &Sum { value, size }) in exact.iter().enumerate() {
                        let (i, c) = (x / dim, x % dim);
                        let found = array[at(strides, i, c)] as f64;
                        covered[r][at(strides, i, c)] = true;
                        assert!(
                            (found - value).abs() < TOLERANCE * (size + 0.1),
                            "{name}: {what} of head {h}, {i}, {c}: {found} not {value}"
                        );
                    }
                }
            }
        }
        for (covered, array) in covered.iter().zip([&w.out, &w.dq, &w.dk, &w.dv]) {
            let untouched = covered.iter().zip(array).all(|(&inside, &x)| inside || x == SENTINEL);
            assert!(untouched, "{name}: written outside the output");
        }
    }
}

/// An exact sum, and the sum of the sizes of its terms, differences inside a term taken as sums: what rounding
/// errors are relative to.
#[derive(Clone, Copy, Default)]
struct Sum {
    value: f64,
    size: f64,
}

impl Sum {
    fn add(&mut self, value: f64, size: f64) {
        self.value += value;
        self.size += size.abs();
    }
}

struct Exact {
    out: Vec<Sum>,
    lse: Vec<f64>,
    dq: Vec<Sum>,
    dk: Vec<Sum>,
    dv: Vec<Sum>,
}

/// One head, by the definition.
fn reference(s: &AttentionShape, q: &[f64], k: &[f64], v: &[f64], dout: &[f64]) -> Exact {
    let (tq, tk, d) = (s.q_len, s.k_len, s.head_dim);
    let scale = s.scale as f64;
    let zeros = |n: usize| vec![Sum::default(); n * d];
    let mut e = Exact { out: zeros(tq), lse: vec![0.0; tq], dq: zeros(tq), dk: zeros(tk), dv: zeros(tk) };
    let dot = |x: &[f64], i: usize, y: &[f64], j: usize| (0..d).map(|c| x[i * d + c] * y[j * d + c]).sum::<f64>();
    for i in 0..tq {
        let seen = if s.causal { i + 1 } else { tk };
        let scores: Vec<f64> = (0..seen).map(|j| scale * dot(q, i, k, j)).collect();
        let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = scores.iter().map(|x| (x - largest).exp()).sum();
        e.lse[i] = largest + sum.ln();
        let p: Vec<f64> = scores.iter().map(|x| (x - e.lse[i]).exp()).collect();
        let dp: Vec<f64> = (0..seen).map(|j| dot(dout, i, v, j)).collect();
        let mean: f64 = p.iter().zip(&dp).map(|(p, dp)| p * dp).sum();
        let sizes = |j: usize| (0..d).map(move |c| (dout[i * d + c] * v[j * d + c]).abs()).sum::<f64>();
        let dp_size: Vec<f64> = (0..seen).map(sizes).collect();
        let mean_size: f64 = p.iter().zip(&dp_size).map(|(p, size)| p * size).sum();
        for j in 0..seen {
            let ds = scale * p[j] * (dp[j] - mean);
            let size = scale * p[j] * (dp_size[j] + mean_size);
            for c in 0..d {
                let (i, j) = (i * d + c, j * d + c);
                let pj = p[j / d];
                e.out[i].add(pj * v[j], pj * v[j]);
                e.dv[j].add(pj * dout[i], pj * dout[i]);
                e.dq[i].add(ds * k[j], size * k[j]);
                e.dk[j].add(ds * q[i], size * q[i]);
            }
        }
    }
    e
}

#[test]
fn causal() {
    for isa in Isa::available() {
        let mut random = Random(1);
        for t in (1..=70).chain([96, 127, 128, 129, 256, 257, 300, 530]) {
            let dim = 1 + random.below(70);
            let (batch, heads) = (1 + random.below(2), 1 + random.below(3));
            Case::new(&mut random, batch, heads, [t, t], dim, true).check(isa, &mut random);
        }
        Case::new(&mut random, 5, 7, [64, 64], 32, true).check(isa, &mut random);
        Case::new(&mut random, 1, 1, [1024, 1024], 64, true).check(isa, &mut random);
    }
}

#[test]
fn full() {
    for isa in Isa::available() {
        let mut random = Random(2);
        for _ in 0..80 {
            let dim = 1 + random.below(70);
            let lengths = [1 + random.below(140), 1 + random.below(140)];
            let heads = 1 + random.below(3);
            Case::new(&mut random, 1, heads, lengths, dim, false).check(isa, &mut random);
        }
        for lengths in [[40, 256], [40, 257], [1, 600], [600, 1], [300, 300]] {
            Case::new(&mut random, 1, 2, lengths, 24, false).check(isa, &mut random);
        }
    }
}

#[test]
fn large_scores_do_not_overflow() {
    for isa in Isa::available() {
        let mut random = Random(3);
        for causal in [false, true] {
            let mut case = Case::new(&mut random, 1, 1, [300, 300], 8, causal);
            case.q.iter_mut().for_each(|x| *x *= 100.0);
            let w = case.run(isa, &mut random, [true; 3]);
            // Scores of several hundred: e^score overflows, probabilities do not.
            assert!(w.lse.iter().any(|&x| x > 100.0) && w.lse.iter().all(|x| x.is_finite()));
            assert!([&w.out, &w.dq, &w.dk, &w.dv].iter().all(|array| array.iter().all(|x| x.is_finite())));
        }
    }
}

#[test]
fn unwanted_gradients_change_nothing() {
    for isa in Isa::available() {
        let mut random = Random(4);
        let case = Case::new(&mut random, 2, 2, [50, 50], 20, true);
        let all = case.run(isa, &mut random, [true; 3]);
        for mask in 0..7 {
            let wanted = [mask & 1 != 0, mask & 2 != 0, mask & 4 != 0];
            let some = case.run(isa, &mut random, wanted);
            for (wanted, some, all) in
                [(wanted[0], &some.dq, &all.dq), (wanted[1], &some.dk, &all.dk), (wanted[2], &some.dv, &all.dv)]
            {
                if wanted {
                    assert!(some == all);
                } else {
                    assert!(some.iter().all(|&x| x == SENTINEL));
                }
            }
        }
    }
}

#[test]
fn bad_shapes_are_refused() {
    let Some(isa) = Isa::detect() else { return };
    let good = AttentionShape::heads_first(1, 1, [4, 4], 8, true);
    let message = |shape| AttentionPlan::new(isa, shape).expect_err("bad").to_string();
    let mut shape = good.clone();
    shape.k.element = 2;
    assert_eq!(message(shape), "k has stride 2 along head_dim, expected 1: copy it first");
    let shape = AttentionShape { k_len: 5, ..good.clone() };
    assert_eq!(message(shape), "causal attention needs as many queries as keys, found 4 and 5");
    let shape = AttentionShape { k_len: 0, q_len: 0, ..good };
    assert_eq!(message(shape), "attention needs keys and a head_dim, found 0 keys and head_dim 8");
}
