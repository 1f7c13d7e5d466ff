//! Which kernels the templates serve, and their plans.

use crate::lower::{self, Epilogue, LowerOptions, Product, offsets};
use std::ops::Range;
use tinygpt_ir::program::{Access, Attention, AttentionGrad, Contract, KernelKind};
use tinygpt_ir::types::DType;
use tinygpt_simd::attention::{AttentionPlan, AttentionShape, Strides};
use tinygpt_simd::gemm::{BatchOffsets, GemmPlan, MAX_ADDENDS, Output, Problem, Term};
use tinygpt_simd::{Axis, Isa};

/// A kernel that templates serve, and the instruction set or its name.
pub enum Planned {
    Contract(Vec<Part>, Isa),
    Forward(Forward, &'static str),
    Backward(Backward, &'static str),
}

/// A product: one part of a contraction, or a range of its k.
pub struct Part {
    pub plan: GemmPlan,
    pub operands: Operands,
    pub epilogue: PartEpilogue,
    /// Where its work lies in the kernel's, from 0 to 1: see [`super::Bound::position`].
    pub share: Range<f64>,
}

pub enum PartEpilogue {
    Store {
        arg: usize,
        offset: isize,
        output: Output,
        addends: Vec<ElementwiseAt>,
        factor: Option<ElementwiseAt>,
    },
    Call(Epilogue),
    /// A later range of the k of the part before it: the sums go to shared scratch, and from there to that part's output.
    Partial {
        m: usize,
        n: usize,
    },
}

/// An operand that meets the sums element by element: where its first element is, and the stride of its rows and offsets of its
/// batches.
#[derive(Debug)]
pub struct ElementwiseAt {
    pub at: At,
    pub ld: isize,
    pub batches: Box<[isize]>,
}

/// Arguments of the products, with the element offsets of their first elements: one a term.
#[derive(Debug)]
pub struct Operands {
    pub a: Vec<(usize, isize)>,
    pub b: Vec<(usize, isize)>,
}

/// An argument and the element offset of its first element.
pub type At = (usize, isize);

#[derive(Debug)]
pub struct Forward {
    pub plan: AttentionPlan,
    pub q: At,
    pub k: At,
    pub v: At,
    pub out: At,
    /// None: the log-sum-exp goes to shared scratch 0.
    pub lse: Option<At>,
    pub shared: Vec<usize>,
    pub cost: f64,
}

#[derive(Debug)]
pub struct Backward {
    pub plan: AttentionPlan,
    pub q: At,
    pub k: At,
    pub v: At,
    pub out: At,
    pub lse: At,
    pub dout: At,
    pub dq: Option<At>,
    pub dk: Option<At>,
    pub dv: Option<At>,
    pub cost: f64,
}

/// The templates of a kernel; None if none serves it.
pub fn plan(kind: &KernelKind, args: &[DType], isa: Isa, options: LowerOptions) -> Result<Option<Planned>, String> {
    match kind {
        // A product of few rows waits for memory: packing would only double what it reads.
        KernelKind::Contract(k) if k.parts.iter().all(|p| lower::has_few_rows(&Product::new(p))) => Ok(None),
        KernelKind::Contract(k) => contract(k, args, isa, options).map(Some),
        KernelKind::Attention(k) => forward(k, isa),
        KernelKind::AttentionGrad(k) => backward(k, isa),
        _ => Ok(None),
    }
}

fn axis(extents: &[usize], coeffs: &[i64]) -> Axis {
    Axis::table(offsets(extents, coeffs).into_iter().map(|o| o as isize).collect::<Vec<_>>())
}

fn contract(k: &Contract, args: &[DType], isa: Isa, options: LowerOptions) -> Result<Planned, String> {
    let mut parts = Vec::new();
    for part in &k.parts {
        let p = Product::new(part);
        let (nb, nm, nn) = (p.batch.len(), p.m.len(), p.n.len());
        let terms = p.terms.iter().map(|t| {
            let (l, r) = (&t.lhs.at.coeffs, &t.rhs.at.coeffs);
            Term {
                a_m: axis(&p.m, &l[nb..nb + nm]),
                a_k: axis(&t.k, &l[nb + nm..]),
                b_k: axis(&t.k, &r[nb + nn..]),
                b_n: axis(&p.n, &r[nb..nb + nn]),
            }
        });
        let by_batch = |access: &Access| offsets(&p.batch, &access.at.coeffs[..nb]);
        let a: Vec<Vec<i64>> = p.terms.iter().map(|t| by_batch(&t.lhs)).collect();
        let b: Vec<Vec<i64>> = p.terms.iter().map(|t| by_batch(&t.rhs)).collect();
        let of = |tables: &[Vec<i64>], i: usize| tables.iter().map(|t| t[i] as isize).collect();
        let batches = (0..p.batches()).map(|i| BatchOffsets { a: of(&a, i), b: of(&b, i) }).collect();
        let problem = Problem { m: p.rows(), n: p.cols(), terms: terms.collect(), batches };
        let at = |access: &Access| (access.arg.index(), access.at.offset as isize);
        let operands = Operands {
            a: p.terms.iter().map(|t| at(&t.lhs)).collect(),
            b: p.terms.iter().map(|t| at(&t.rhs)).collect(),
        };
        let places = |access: &Access| {
            let c = &access.at.coeffs;
            Output {
                rows: axis(&p.m, &c[nb..nb + nm]),
                cols: axis(&p.n, &c[nb + nm..]),
                batches: offsets(&p.batch, &c[..nb]).into_iter().map(|o| o as isize).collect(),
            }
        };
        let even = |places: &Output| match &places.rows {
            Axis::Strided { stride, .. } if places.cols == Axis::strided(p.cols(), 1) => Some(*stride),
            _ => None,
        };
        let elementwise = |access: &Access| {
            let places = places(access);
            Some(ElementwiseAt { at: at(access), ld: even(&places)?, batches: places.batches })
        };
        let stored = p.plain_store().and_then(|plain| {
            let output = places(&plain.store.access);
            let addends: Vec<ElementwiseAt> = plain.addends.iter().map(|a| elementwise(a)).collect::<Option<_>>()?;
            let factor = match plain.factor {
                // It would meet the sums of the first block of k only.
                Some(_) if GemmPlan::new(isa, problem.clone()).ok()?.blocks_of_k() > 1 => return None,
                Some(factor) => Some(elementwise(factor)?),
                None => None,
            };
            let bare = addends.is_empty() && factor.is_none();
            let fits = bare || (addends.len() <= MAX_ADDENDS && even(&output).is_some());
            let (arg, offset) = at(&plain.store.access);
            fits.then_some(PartEpilogue::Store { arg, offset, output, addends, factor })
        });
        let epilogue = match stored {
            Some(stored) => stored,
            None => PartEpilogue::Call(lower::epilogue(&p, args, options).map_err(|e| e.to_string())?),
        };
        let stores_rows = match &epilogue {
            // A factor meets whole sums only.
            PartEpilogue::Store { output, factor: None, .. } => even(output).is_some(),
            _ => false,
        };
        let ranges = if stores_rows { ranges_of_k(&problem) } else { 1 };
        let mut first = Some((epilogue, operands));
        let (a, b) = match &first {
            Some((_, operands)) if ranges > 1 => (operands.a[0], operands.b[0]),
            _ => ((0, 0), (0, 0)),
        };
        for i in 0..ranges {
            let share = i as f64 / ranges as f64..(i + 1) as f64 / ranges as f64;
            let (problem, [skip_a, skip_b]) =
                if ranges > 1 { range_of_k(&problem, i, ranges) } else { (problem.clone(), [0, 0]) };
            let (epilogue, operands) = first.take().unwrap_or_else(|| {
                let operands = Operands { a: vec![(a.0, a.1 + skip_a)], b: vec![(b.0, b.1 + skip_b)] };
                (PartEpilogue::Partial { m: problem.m, n: problem.n }, operands)
            });
            let plan = GemmPlan::new(isa, problem).map_err(|e| e.to_string())?;
            parts.push(Part { plan, operands, epilogue, share });
        }
    }
    Ok(Planned::Contract(parts, isa))
}

/// Shortest range of k, and most elements of partial sums.
const MIN_RANGE: usize = 512;
const MAX_PARTIALS: usize = 2 * 1024 * 1024;

/// Into how many ranges k is cut, so that each worker sums over the rows that it wrote: one, two or four. Where k runs along rows of
/// both operands (the gradient of a weight) a block of the output needs all rows, most of them in other workers' caches; a range of
/// k needs only its own, and partial sums are smaller.
fn ranges_of_k(problem: &Problem) -> usize {
    let [term] = &problem.terms[..] else { return 1 };
    let along_rows = |axis: &Axis| matches!(axis, Axis::Strided { stride, .. } if stride.unsigned_abs() > 1);
    if problem.batches.len() != 1 || !along_rows(&term.a_k) || !along_rows(&term.b_k) {
        return 1;
    }
    let (k, sums) = (term.a_k.len(), problem.m * problem.n);
    // Partial sums are written and read: they must be few beside the operands.
    let pays = |ranges: usize| {
        k / ranges >= MIN_RANGE && (ranges - 1) * sums <= MAX_PARTIALS.min(k * (problem.m + problem.n) / 2)
    };
    [4, 2].into_iter().find(|&ranges| pays(ranges)).unwrap_or(1)
}

/// The `i`-th of `ranges` ranges of k of a product with one term and evenly spaced k, and the elements of A and B before it.
fn range_of_k(problem: &Problem, i: usize, ranges: usize) -> (Problem, [isize; 2]) {
    let mut problem = problem.clone();
    let term = &mut problem.terms[0];
    let k = term.a_k.len();
    let (from, to) = (k * i / ranges, k * (i + 1) / ranges);
    let skipped = [term.a_k.offset(from), term.b_k.offset(from)];
    for axis in [&mut term.a_k, &mut term.b_k] {
        *axis = Axis::strided(to - from, axis.offset(1));
    }
    (problem, skipped)
}

fn strides(access: &Access) -> Strides {
    let c = &access.at.coeffs;
    Strides { batch: c[0] as isize, head: c[1] as isize, position: c[2] as isize, element: c[3] as isize }
}

/// Whether the template can reach all operands: the head dimension has stride 1 (or one element).
fn contiguous(accesses: &[&Access], dim: usize) -> bool {
    accesses.iter().all(|a| a.at.coeffs[3] == 1 || dim == 1)
}

/// Whether a log-sum-exp is [batch, head, position], row-major.
fn row_major(lse: &Access, space: &[usize]) -> bool {
    let want = tinygpt_ir::types::row_major(space);
    lse.at.coeffs.iter().zip(&want).zip(space).all(|((c, w), n)| c == w || *n == 1)
}

fn at(access: &Access) -> At {
    (access.arg.index(), access.at.offset as isize)
}

fn unit_element(mut s: Strides) -> Strides {
    s.element = 1;
    s
}

/// Nanoseconds of a pass with so many products, for ordering tasks.
fn cost(s: &tinygpt_ir::program::AttentionShape, products: f64) -> f64 {
    let pairs = (s.batch * s.heads * s.q_len * s.k_len) as f64 * if s.causal { 0.5 } else { 1.0 };
    pairs * (products * 2.0 * s.head_dim as f64 / 80.0 + 0.5)
}

fn forward(k: &Attention, isa: Isa) -> Result<Option<Planned>, String> {
    let s = &k.shape;
    let (Some(v), Some(out)) = (&k.v, &k.out) else { return Ok(None) };
    if !contiguous(&[&k.q, &k.k, v, out], s.head_dim) || k.lse.as_ref().is_some_and(|l| !row_major(l, &s.lse_space())) {
        return Ok(None);
    }
    let [q, keys, values, result] = [&k.q, &k.k, v, out].map(|a| unit_element(strides(a)));
    let shape = AttentionShape {
        batch: s.batch,
        heads: s.heads,
        q_len: s.q_len,
        k_len: s.k_len,
        head_dim: s.head_dim,
        causal: s.causal,
        scale: s.scale as f32,
        q,
        k: keys,
        v: values,
        out: result,
        // The forward pass does not read the rest.
        dout: result,
        dq: q,
        dk: keys,
        dv: values,
    };
    let plan = AttentionPlan::new(isa, shape).map_err(|e| e.to_string())?;
    let shared = if k.lse.is_none() { vec![s.batch * s.heads * s.q_len] } else { vec![] };
    let lse = k.lse.as_ref().map(at);
    let forward = Forward { plan, q: at(&k.q), k: at(&k.k), v: at(v), out: at(out), lse, shared, cost: cost(s, 2.0) };
    Ok(Some(Planned::Forward(forward, isa.name())))
}

fn backward(k: &AttentionGrad, isa: Isa) -> Result<Option<Planned>, String> {
    let s = &k.shape;
    let results: Vec<&Access> = [&k.dq, &k.dk, &k.dv].into_iter().flatten().collect();
    let operands = [&k.q, &k.k, &k.v, &k.out, &k.dout];
    if !contiguous(&operands, s.head_dim) || !contiguous(&results, s.head_dim) || !row_major(&k.lse, &s.lse_space()) {
        return Ok(None);
    }
    let [q, keys, values, out, dout] = operands.map(|a| unit_element(strides(a)));
    let or = |a: &Option<Access>, other: Strides| a.as_ref().map_or(other, |a| unit_element(strides(a)));
    let shape = AttentionShape {
        batch: s.batch,
        heads: s.heads,
        q_len: s.q_len,
        k_len: s.k_len,
        head_dim: s.head_dim,
        causal: s.causal,
        scale: s.scale as f32,
        q,
        k: keys,
        v: values,
        out,
        dout,
        dq: or(&k.dq, q),
        dk: or(&k.dk, keys),
        dv: or(&k.dv, values),
    };
    let plan = AttentionPlan::new(isa, shape).map_err(|e| e.to_string())?;
    let backward = Backward {
        plan,
        q: at(&k.q),
        k: at(&k.k),
        v: at(&k.v),
        out: at(&k.out),
        lse: at(&k.lse),
        dout: at(&k.dout),
        dq: k.dq.as_ref().map(at),
        dk: k.dk.as_ref().map(at),
        dv: k.dv.as_ref().map(at),
        cost: cost(s, 5.0),
    };
    Ok(Some(Planned::Backward(backward, isa.name())))
}
