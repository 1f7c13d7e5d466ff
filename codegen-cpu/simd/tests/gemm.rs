//! The contraction template against sums in f64, on every instruction set of this machine.

use std::sync::Mutex;
use tinygpt_simd::gemm::{BatchOffsets, Elementwise, Epilogue, GemmPlan, Output, Problem, Side, Term, Tile};
use tinygpt_simd::{Axis, Isa};

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
    fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
    fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.float()).collect()
    }
    fn order(&mut self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        for i in (1..n).rev() {
            order.swap(i, self.below(i + 1));
        }
        order
    }
}

/// Two axes over one array of exactly the right length: strided either way round, padded, or tables.
fn layout(random: &mut Random, outer: usize, inner: usize) -> (Axis, Axis, usize) {
    let pad = random.below(3);
    match random.below(6) {
        0 | 1 => {
            let ld = inner + pad;
            (Axis::strided(outer, ld as isize), Axis::strided(inner, 1), (outer.max(1) - 1) * ld + inner)
        }
        2 | 3 => {
            let ld = outer + pad;
            (Axis::strided(outer, 1), Axis::strided(inner, ld as isize), (inner.max(1) - 1) * ld + outer)
        }
        4 => {
            // Rows shuffled, columns in two runs.
            let split = inner / 2;
            let rows: Vec<isize> = random.order(outer).iter().map(|&i| (i * (inner + 5)) as isize).collect();
            let cols: Vec<isize> =
                (0..inner).map(|j| (if j < split { j + 5 + inner - split } else { j - split }) as isize).collect();
            (Axis::table(rows), Axis::table(cols), outer * (inner + 5))
        }
        _ => {
            // Both reversed and spread out.
            let rows: Vec<isize> = (0..outer).rev().map(|i| (i * 2 * inner.max(1)) as isize).collect();
            let cols: Vec<isize> = (0..inner).rev().map(|j| 2 * j as isize).collect();
            (Axis::table(rows), Axis::table(cols), 2 * outer * inner.max(1))
        }
    }
}

struct Case {
    problem: Problem,
    a: Vec<Vec<f32>>,
    b: Vec<Vec<f32>>,
}

impl Case {
    fn new(random: &mut Random, m: usize, n: usize, ks: &[usize], batches: usize) -> Case {
        let (mut terms, mut a, mut b) = (Vec::new(), Vec::new(), Vec::new());
        let mut offsets = vec![BatchOffsets { a: vec![], b: vec![] }; batches];
        let shared = random.below(2) == 0;
        for &k in ks {
            let (a_m, a_k, a_len) = layout(random, m, k);
            let (b_k, b_n, b_len) = layout(random, k, n);
            for (i, batch) in offsets.iter_mut().enumerate() {
                batch.a.push((i * a_len) as isize);
                batch.b.push(if shared { (i % 2 * b_len) as isize } else { (i * b_len) as isize });
            }
            a.push(random.floats(a_len * batches));
            b.push(random.floats(b_len * batches));
            terms.push(Term { a_m, a_k, b_k, b_n });
        }
        Case { problem: Problem { m, n, terms, batches: offsets }, a, b }
    }

    fn exact(&self, batch: usize, i: usize, j: usize) -> f64 {
        let offsets = &self.problem.batches[batch];
        let mut sum = 0.0;
        for (t, term) in self.problem.terms.iter().enumerate() {
            for p in 0..term.a_k.len() {
                let a = self.a[t][(offsets.a[t] + term.a_m.offset(i) + term.a_k.offset(p)) as usize];
                let b = self.b[t][(offsets.b[t] + term.b_k.offset(p) + term.b_n.offset(j)) as usize];
                sum += a as f64 * b as f64;
            }
        }
        sum
    }

    /// Runs all tasks in the given orders; scratch and packed start as NaN, so that what is not written shows.
    fn run(&self, plan: &GemmPlan, random: &mut Random, epilogue: &Epilogue) {
        let a: Vec<_> = self.a.iter().map(|a| a.as_ptr()).collect();
        let b: Vec<_> = self.b.iter().map(|b| b.as_ptr()).collect();
        let [mut packed_a, mut packed_b] = [Side::A, Side::B].map(|side| vec![f32::NAN; plan.packed_len(side)]);
        for (side, operand, packed) in [(Side::A, &a, &mut packed_a), (Side::B, &b, &mut packed_b)] {
            for task in random.order(plan.pack_tasks(side)) {
                // SAFETY: the plan was made for these arrays.
                unsafe { plan.pack(side, task, operand, packed.as_mut_ptr()) };
            }
        }
        let packed = [packed_a.as_ptr(), packed_b.as_ptr()];
        for task in random.order(plan.tasks()) {
            let mut scratch = vec![f32::NAN; plan.scratch_len()];
            // SAFETY: the plan was made for these arrays, and everything is packed.
            unsafe { plan.run(task, &a, &b, packed, scratch.as_mut_ptr(), epilogue) };
        }
    }

    /// Adds a bias, and a residual that lies where the output does, multiplies by a factor where one may be, and checks every element.
    fn check_elementwise(&self, plan: &GemmPlan, random: &mut Random, tolerance: f64) {
        let Problem { m, n, .. } = self.problem;
        let batches = self.problem.batches.len();
        let ld = n + random.below(3);
        let starts: Box<[isize]> = (0..batches).map(|i| (i * m * ld) as isize).collect();
        let output = Output { rows: Axis::strided(m, ld as isize), cols: Axis::strided(n, 1), batches: starts.clone() };
        let bias = random.floats(n);
        let mut c = random.floats(batches * m * ld);
        let before = c.clone();
        let every_batch = vec![0; batches];
        let data = c.as_mut_ptr();
        let addends = [
            Elementwise { data: bias.as_ptr(), ld: 0, batches: &every_batch },
            Elementwise { data, ld: ld as isize, batches: &starts },
        ];
        let factors = random.floats(batches * m * ld);
        let factor = (plan.blocks_of_k() == 1 && random.below(2) == 0).then_some(Elementwise {
            data: factors.as_ptr(),
            ld: ld as isize,
            batches: &starts,
        });
        let times = |at: usize| if factor.is_some() { factors[at] as f64 } else { 1.0 };
        self.run(plan, random, &Epilogue::Store { c: data, output: &output, addends: &addends, factor });
        for batch in 0..batches {
            for i in 0..m {
                let row = (batch * m + i) * ld;
                assert_eq!(c[row + n..row + ld], before[row + n..row + ld], "written outside the output");
                for (j, &bias) in bias.iter().enumerate() {
                    let exact = (self.exact(batch, i, j) + bias as f64 + before[row + j] as f64) * times(row + j);
                    assert!(
                        (c[row + j] as f64 - exact).abs() <= tolerance,
                        "{batch},{i},{j}: {} not {exact}",
                        c[row + j]
                    );
                }
            }
        }
    }

    /// Stores into a random layout and checks every element, and that the gaps between are untouched.
    fn check(&self, isa: Isa, random: &mut Random) {
        let Problem { m, n, .. } = self.problem;
        let k: usize = self.problem.terms.iter().map(|term| term.a_k.len()).sum();
        let batches = self.problem.batches.len();
        let plan = GemmPlan::new(isa, self.problem.clone()).expect("a valid problem");
        let (rows, cols, len) = layout(random, m, n);
        let output = Output { rows, cols, batches: (0..batches).map(|i| (i * len) as isize).collect() };
        let sentinel = 12345.0;
        let mut c = vec![sentinel; len * batches];
        self.run(&plan, random, &Epilogue::Store { c: c.as_mut_ptr(), output: &output, addends: &[], factor: None });
        let mut again = vec![sentinel; len * batches];
        self.run(
            &plan,
            random,
            &Epilogue::Store { c: again.as_mut_ptr(), output: &output, addends: &[], factor: None },
        );
        assert!(c.iter().zip(&again).all(|(x, y)| x.to_bits() == y.to_bits()), "order of tasks shows");

        let tolerance = 1e-6 * (k as f64).sqrt().max(1.0) * 2.0;
        let mut outputs = vec![false; c.len()];
        for batch in 0..batches {
            for i in 0..m {
                for j in 0..n {
                    let at = (output.batches[batch] + output.rows.offset(i) + output.cols.offset(j)) as usize;
                    let exact = self.exact(batch, i, j);
                    let error = (c[at] as f64 - exact).abs();
                    assert!(error <= tolerance, "{isa:?} {m},{n},{k} at {batch},{i},{j}: {} not {exact}", c[at]);
                    assert!(!std::mem::replace(&mut outputs[at], true));
                }
            }
        }
        let untouched = outputs.iter().zip(&c).all(|(&is_output, &x)| is_output || x == sentinel);
        assert!(untouched, "{isa:?} {m},{n},{k}: written outside the output");

        self.check_elementwise(&plan, random, tolerance + 1e-6);

        // The same sums through a callback, each exactly once, equal to the last bit.
        let seen = Mutex::new(vec![None; batches * m * n]);
        let collect = |tile: Tile| {
            let mut seen = seen.lock().expect("no panic inside");
            assert!(tile.m1 <= m && tile.n1 <= n && tile.ld >= tile.n1 - tile.n0);
            for i in tile.m0..tile.m1 {
                for j in tile.n0..tile.n1 {
                    // SAFETY: the tile holds these elements.
                    let x = unsafe { *tile.data.add((i - tile.m0) * tile.ld + j - tile.n0) };
                    let before = seen[(tile.batch * m + i) * n + j].replace(x);
                    assert!(before.is_none(), "{i},{j} handed over twice");
                }
            }
        };
        self.run(&plan, random, &Epilogue::Call(&collect));
        let seen = seen.into_inner().expect("no panic inside");
        for (index, x) in seen.iter().enumerate() {
            let (batch, i, j) = (index / (m * n), index / n % m, index % n);
            let at = (output.batches[batch] + output.rows.offset(i) + output.cols.offset(j)) as usize;
            assert_eq!(x.map(f32::to_bits), Some(c[at].to_bits()), "{batch},{i},{j}");
        }
    }
}

#[test]
fn random_small_shapes_in_random_layouts() {
    for isa in Isa::available() {
        let mut random = Random(1);
        for _ in 0..400 {
            let (m, n, k) = (1 + random.below(70), 1 + random.below(70), 1 + random.below(70));
            Case::new(&mut random, m, n, &[k], 1).check(isa, &mut random);
        }
    }
}

#[test]
fn every_remainder_of_the_tile() {
    for isa in Isa::available() {
        let mut random = Random(2);
        for m in 1..=29 {
            let n = 1 + (m * 7) % 67;
            Case::new(&mut random, m, n, &[5], 1).check(isa, &mut random);
        }
        for n in 1..=67 {
            let m = 1 + (n * 5) % 29;
            Case::new(&mut random, m, n, &[9], 1).check(isa, &mut random);
        }
    }
}

#[test]
fn several_terms_and_batches() {
    for isa in Isa::available() {
        let mut random = Random(3);
        for _ in 0..100 {
            let ks: Vec<usize> = (0..1 + random.below(4)).map(|_| random.below(40)).collect();
            let (m, n, batches) = (1 + random.below(40), 1 + random.below(40), 1 + random.below(5));
            Case::new(&mut random, m, n, &ks, batches).check(isa, &mut random);
        }
    }
}

#[test]
fn many_tasks_and_blocks_of_k() {
    for isa in Isa::available() {
        let mut random = Random(4);
        for (m, n, ks) in [
            (333, 257, &[300][..]),
            (130, 1111, &[513]),
            (13, 2000, &[700]),
            (3, 5000, &[900, 300]),
            (200, 70, &[1030]),
            (300, 300, &[129, 128, 127]),
            // Tasks that pack their own rows, with edges of panels and of blocks of k.
            (701, 133, &[401]),
        ] {
            Case::new(&mut random, m, n, ks, 1).check(isa, &mut random);
        }
        Case::new(&mut random, 64, 64, &[32], 40).check(isa, &mut random);
        Case::new(&mut random, 201, 190, &[150], 3).check(isa, &mut random);
    }
}

/// What the tests above go through: each way to find each side.
#[test]
fn operands_are_packed_by_shape_and_layout() {
    let sources = |isa, [m, n, k]: [usize; 3], a: [usize; 2], b: [usize; 2]| {
        let [a, b] = [a, b].map(|strides| strides.map(|s| s as isize));
        let plan = GemmPlan::new(isa, Problem::single(m, n, k, a, b)).expect("valid");
        [Side::A, Side::B].map(|side| plan.source(side))
    };
    for isa in Isa::available() {
        let (place, ahead, task) = ("in place", "packed ahead", "packed by each task");
        // The gradient of a weight: rows and columns contiguous, k strided.
        let gradient = |m, n| sources(isa, [m, n, 1536], [1, m], [n, 1]);
        assert_eq!(gradient(192, 192), [ahead, ahead]);
        assert_eq!(gradient(768, 192), [task, ahead]);
        assert_eq!(gradient(192, 768), [ahead, task]);
        // GPT-2's: a copy of A would be a hundred megabytes and more.
        assert_eq!(sources(isa, [3072, 768, 8192], [1, 3072], [768, 1]), [task, ahead]);
        assert_eq!(sources(isa, [768, 768, 8192], [1, 768], [768, 1]), [task, ahead]);
        assert_eq!(sources(isa, [1536, 768, 192], [192, 1], [1, 192]), [place, ahead]);
        assert_eq!(sources(isa, [5, 768, 192], [192, 1], [768, 1]), [place, place]);
        assert_eq!(sources(isa, [32, 32, 32], [1, 32], [32, 1]), [task, ahead]);
    }
}

#[test]
fn equal_operands_are_packed_alike() {
    let Some(isa) = Isa::detect() else { return };
    let plan = |a: [isize; 2], b: [isize; 2]| GemmPlan::new(isa, Problem::single(192, 192, 1536, a, b)).expect("valid");
    let one = plan([1, 192], [192, 1]);
    assert!(one.packs_like(&plan([1, 200], [192, 1]), Side::B));
    assert!(!one.packs_like(&plan([1, 200], [192, 1]), Side::A), "other strides");
    assert!(!one.packs_like(&plan([1536, 1], [192, 1]), Side::A), "read in place there");
}

#[test]
fn empty_sizes_write_zeros_or_nothing() {
    for isa in Isa::available() {
        let mut random = Random(5);
        Case::new(&mut random, 20, 40, &[0], 2).check(isa, &mut random);
        Case::new(&mut random, 3, 40, &[0], 1).check(isa, &mut random);
        Case::new(&mut random, 20, 40, &[], 1).check(isa, &mut random);
        for (m, n, batches) in [(0, 5, 1), (5, 0, 1), (5, 5, 0)] {
            let plan = GemmPlan::new(isa, Case::new(&mut random, m, n, &[3], batches).problem).expect("valid");
            assert_eq!(plan.tasks(), 0);
        }
    }
}

#[test]
fn wrong_lengths_are_refused() {
    let Some(isa) = Isa::detect() else { return };
    let mut problem = Problem::single(4, 5, 6, [6, 1], [5, 1]);
    problem.terms[0].b_k = Axis::strided(7, 5);
    let error = GemmPlan::new(isa, problem).expect_err("k differs");
    assert_eq!(error.to_string(), "the k axis of B of term 0 has length 7, expected 6");
}
