//! Independent loops as wide functions against the interpreter. What single operations do is in [`crate::cases`]: its functions run
//! wide, too.

use super::*;

/// Room of the buffers: the longest loop, its first trip, the largest offset, and elements that must stay as they are.
const LEN: usize = 100;

fn floats(salt: usize) -> Data {
    Data::F32((0..LEN).map(|i| cases::FLOATS[(i * 7 + salt) % cases::FLOATS.len()] * (1.0 + i as f32 / 64.0)).collect())
}

fn ints(salt: usize) -> Data {
    Data::I32((0..LEN).map(|i| cases::INTS[(i * 5 + salt) % cases::INTS.len()].wrapping_add(i as i32)).collect())
}

/// Whether there is anything to test; says so if not.
fn machine_has_it() -> bool {
    if !wide_loops() {
        eprintln!("skipped: this machine has no AVX-512F");
    }
    wide_loops()
}

/// Makes bodies from random numbers.
struct Body {
    choices: std::vec::IntoIter<u32>,
    pool: Vec<Reg>,
}

impl Body {
    fn below(&mut self, n: usize) -> usize {
        self.choices.next().map_or(0, |c| c as usize % n)
    }

    fn value(&mut self, b: &Builder, ty: Ty) -> Reg {
        let all: Vec<Reg> = self.pool.iter().copied().filter(|r| b.ty(*r) == ty).collect();
        all[self.below(all.len())]
    }

    fn step(&mut self, b: &mut Builder, i: Reg, [x, k, y, m]: [BufId; 4]) {
        let ty = [Ty::F32, Ty::I32][self.below(2)];
        let result = match self.below(11) {
            0 => {
                let (buf, own) = if ty == Ty::F32 { (x, y) } else { (k, m) };
                let at = buf.at().offset(self.below(9) as i64);
                match self.below(5) {
                    0 => b.load(at),
                    // What the trip itself has stored, perhaps.
                    1 => b.load(own.at().plus(i, 1)),
                    _ => b.load(at.plus(i, 1)),
                }
            }
            1 => {
                let v = self.value(b, ty);
                return b.store(if ty == Ty::F32 { y } else { m }.at().plus(i, 1), v);
            }
            2 => {
                let ops = [BinOp::Add, BinOp::Sub, BinOp::Mul, BinOp::Min, BinOp::Max, BinOp::Xor, BinOp::MaxU];
                let op = ops[self.below(if ty == Ty::F32 { 5 } else { 7 })];
                let (p, q) = (self.value(b, ty), self.value(b, ty));
                b.binary(op, p, q)
            }
            3 => {
                let [p, q, r] = [(); 3].map(|()| self.value(b, Ty::F32));
                b.fma(p, q, r)
            }
            4 => {
                let op = CmpOp::ALL[self.below(if ty == Ty::F32 { 6 } else { 10 })];
                let (p, q) = (self.value(b, ty), self.value(b, ty));
                b.cmp(op, p, q)
            }
            5 => {
                let ty = [Ty::F32, Ty::I32, Ty::Bool][self.below(3)];
                let (c, p, q) = (self.value(b, Ty::Bool), self.value(b, ty), self.value(b, ty));
                b.select(c, p, q)
            }
            6 => {
                let (p, q) = (self.value(b, Ty::Bool), self.value(b, Ty::Bool));
                let r = b.and(p, q);
                b.not(r)
            }
            7 => {
                let function = RowFn::ALL[self.below(RowFn::ALL.len())];
                let p = self.value(b, Ty::F32);
                // sin and cos are for arguments of moderate size.
                let (low, high) = (b.f32(-60.0), b.f32(60.0));
                let p = b.max(low, p);
                let p = b.min(high, p);
                b.transcendental(function, p)
            }
            8 => {
                let (op, by) = ([BinOp::Shl, BinOp::Shr, BinOp::ShrU][self.below(3)], self.below(40) as i32);
                let p = self.value(b, Ty::I32);
                b.shift(op, p, by)
            }
            9 => {
                let p = self.value(b, Ty::I32);
                b.convert([Conv::I32ToF32, Conv::U32ToF32][self.below(2)], p)
            }
            _ => {
                let p = self.value(b, Ty::F32);
                match self.below(5) {
                    0 => b.neg(p),
                    1 => b.abs(p),
                    2 => b.sqrt(p),
                    3 => b.round(p),
                    _ => {
                        let q = self.value(b, Ty::F32);
                        b.div(p, q)
                    }
                }
            }
        };
        self.pool.push(result);
    }
}

/// A loop over `from..to` whose body the numbers choose. At its end it adds up all its numbers, so that many live long.
fn random(choices: Vec<u32>) -> Func {
    let mut b = Builder::new("random");
    b.allow_independent_loops();
    let bufs = [b.input("x", Elem::F32), b.input("k", Elem::I32), b.output("y", Elem::F32), b.output("m", Elem::I32)];
    let sums = [b.output("ys", Elem::F32), b.output("ms", Elem::I32)];
    let (from, to) = (b.param("from"), b.param("to"));
    let mut body = Body {
        choices: choices.into_iter(),
        pool: vec![b.f32(1.25), b.i32(-3), b.bool(true), b.bool(false), b.load(bufs[0].at().offset(3))],
    };
    let made = b.for_independent("i", from, to, |b, i| {
        let (one, two) = (b.f32(0.5), b.i32(2));
        body.pool.extend([one, two]);
        while !body.choices.as_slice().is_empty() {
            body.step(b, i, bufs);
        }
        for (out, ty) in sums.into_iter().zip([Ty::F32, Ty::I32]) {
            let all: Vec<Reg> = body.pool.iter().copied().filter(|r| b.ty(*r) == ty).collect();
            // From the back: the first values live longest.
            let sum = all.iter().rev().copied().reduce(|sum, v| b.binary(BinOp::Add, sum, v));
            b.store(out.at().plus(i, 1), sum.expect("the pool has values of both types"));
        }
    });
    assert!(made, "the body has only what it may have");
    b.finish().expect("well formed")
}

fn random_buffers() -> Vec<Data> {
    vec![floats(0), ints(0), floats(3), ints(3), floats(5), ints(5)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bodies(choices in prop::collection::vec(any::<u32>(), 20..500), from in 0..20i64, n in 0..70i64) {
        if wide_loops() {
            check_wide(&random(choices), &random_buffers(), &[from, from + n]);
        }
    }
}

/// As [`check`], for functions with operations that only wide loops have.
fn check_wide(func: &Func, bufs: &[Data], params: &[i64]) {
    let (code, id) = compile(func, Target::Host, true);
    let (mut expected, mut found) = (bufs.to_vec(), bufs.to_vec());
    interp::run(func, &mut expected, params, true).unwrap_or_else(|e| panic!("{e}\n{func}"));
    call(&code, id, func, &mut found, params);
    if let Some((b, i, e, f)) = difference(&expected, &found) {
        let text = code.asm_text(id).expect("texts are on");
        panic!("{}[{i}] is {f:#x}, the interpreter has {e:#x}\n{func}\n{text}", func.bufs[b].name);
    }
}

#[test]
fn every_length_from_every_start() {
    if !machine_has_it() {
        return;
    }
    let mut f = Builder::new("lengths");
    f.allow_independent_loops();
    let (x, y) = (f.input("x", Elem::F32), f.output("y", Elem::F32));
    let (from, to) = (f.param("from"), f.param("to"));
    let strip = f.scratch("strip", Elem::F32, LEN);
    let second = f.scratch("second", Elem::F32, LEN);
    for (src, dst) in [(x.at(), strip.at()), (strip.at(), second.at()), (second.at(), y.at())] {
        let made = f.for_independent("i", from, to, |f, i| {
            let v = f.load(src.plus(i, 1));
            let w = f.load(x.at().offset(2));
            let v = f.fma(v, w, v);
            f.store(dst.plus(i, 1), v);
        });
        assert!(made, "a plain body");
    }
    let f = f.finish().expect("well formed");
    for from in [0, 1, 2, 3, 7, 15, 16, 17] {
        for n in 0..70 {
            check_wide(&f, &[floats(1), floats(2)], &[from, from + n]);
        }
    }
    check_wide(&f, &[floats(1), floats(2)], &[9, 4]); // no trip
}

/// More values than vector registers, more invariants, and more buffers than general registers.
#[test]
fn values_and_pointers_without_registers() {
    if !machine_has_it() {
        return;
    }
    for (buffers, values, constants) in [(3, 8, 4), (3, 20, 40), (14, 50, 3), (20, 90, 60)] {
        let mut f = Builder::new("pressure");
        f.allow_independent_loops();
        let inputs: Vec<BufId> = (0..buffers).map(|i| f.input(format!("x{i}"), Elem::F32)).collect();
        let y = f.output("y", Elem::F32);
        let outer: Vec<Reg> = inputs.iter().map(|x| f.load(x.at().offset(1))).collect();
        let made = f.for_independent("i", 1, 70, |f, i| {
            let mut all: Vec<Reg> =
                (0..values).map(|v| f.load(inputs[v % inputs.len()].at().plus(i, 1).offset(v as i64 / 9))).collect();
            all.extend(&outer);
            for c in 0..constants {
                let (a, k) = (all[c * 7 % all.len()], f.f32(1.0 + c as f32 / 8.0));
                let (b, again) = (all[c * 11 % all.len()], f.f32(1.0 + c as f32 / 16.0));
                let t = f.fma(a, k, again);
                let t = f.fma(k, t, b);
                all.push(f.fma(k, again, t));
            }
            let sum = all.into_iter().rev().reduce(|sum, v| f.add(sum, v)).expect("there are values");
            f.store(y.at().plus(i, 1), sum);
        });
        assert!(made, "a plain body");
        let f = f.finish().expect("well formed");
        let moderate =
            |salt: usize| Data::F32((0..LEN).map(|i| ((i * 13 + salt * 5) % 31) as f32 / 16.0 - 1.0).collect());
        let bufs: Vec<Data> = (0..=buffers).map(moderate).collect();
        check_wide(&f, &bufs, &[]);
        let (code, id) = compile(&f, Target::Host, true);
        let spilled = code.asm_text(id).expect("texts are on").contains("vmovups [rsp");
        assert_eq!(spilled, values + constants > 30, "{buffers} {values} {constants}");
    }
}

/// The text is that of the caller, then of its wide functions; neither has an address.
#[test]
fn texts_show_wide_functions() {
    if !machine_has_it() {
        return;
    }
    let mut f = Builder::new("texts");
    f.allow_independent_loops();
    let (x, y) = (f.input("x", Elem::F32), f.output("y", Elem::F32));
    let n = f.param("n");
    f.for_independent("i", 0, n, |f, i| {
        let v = f.load(x.at().plus(i, 1));
        let c = f.f32(0.5);
        let v = f.mul(v, c);
        let v = f.erf(v);
        f.store(y.at().plus(i, 1), v);
    });
    let f = f.finish().expect("well formed");
    let (code, id) = compile(&f, Target::Host, true);
    let (clif, asm) = (code.clif_text(id).expect("texts are on"), code.asm_text(id).expect("texts are on"));
    assert!(clif.contains("%wide0"), "{clif}");
    for line in ["wide0:\n", "vmovups zmm", "vmulps zmm", "vfmadd213ps zmm", "{k7}{z}", "vzeroupper\n  ret\n"] {
        assert!(asm.contains(line), "no {line:?} in\n{asm}");
    }
    assert!(f.to_string().contains("step 1, independent {"), "{f}");

    // A function with such a loop is refused where loops are not wide.
    let mut jit = Jit::new(Options::default()).expect("a supported host");
    let error = jit.compile(&f).expect_err("erf is one operation").to_string();
    assert!(error.contains("`texts`") && error.contains("erf"), "{error}");
}
