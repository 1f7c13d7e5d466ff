//! Accumulators of reductions: sums, maxima, and positions of maxima.
//!
//! A slot folds values in the order they are given; slots are merged in a fixed tree. A maximum starts at the least
//! value and ignores NaN; the position of a maximum is the smallest index among equals.

use tinygpt_ir::op::Reduce;
use tinygpt_ir::types::DType;
use tinygpt_vloop::{BinOp, Builder, CmpOp, Reg};

/// One accumulator: four lanes or one.
#[derive(Clone, Copy)]
pub struct Slot {
    op: Reduce,
    dtype: DType,
    value: Reg,
    /// Index of the maximum, for ArgMax.
    at: Option<Reg>,
}

impl Slot {
    /// An empty accumulator of values of `dtype`.
    pub fn new(b: &mut Builder, op: Reduce, dtype: DType, lanes: usize) -> Slot {
        let number = |b: &mut Builder, x: i32| if lanes == 4 { b.i32x4(x) } else { b.i32(x) };
        let float = |b: &mut Builder, x: f32| if lanes == 4 { b.f32x4(x) } else { b.f32(x) };
        let start = match (op, dtype) {
            (Reduce::Sum, DType::F32) => float(b, 0.0),
            (_, DType::F32) => float(b, f32::NEG_INFINITY),
            (Reduce::Sum, _) | (_, DType::U32) => number(b, 0),
            _ => number(b, i32::MIN),
        };
        let value = b.var("acc", start);
        let at = (op == Reduce::ArgMax).then(|| {
            let zero = number(b, 0);
            b.var("at", zero)
        });
        Slot { op, dtype, value, at }
    }

    fn combine(&self) -> BinOp {
        match (self.op, self.dtype) {
            (Reduce::Sum, _) => BinOp::Add,
            (_, DType::U32) => BinOp::MaxU,
            _ => BinOp::Max,
        }
    }

    fn greater(&self) -> CmpOp {
        if self.dtype == DType::U32 { CmpOp::GtU } else { CmpOp::Gt }
    }

    /// Folds `x`; `index` is its position, larger than all before.
    pub fn update(&self, b: &mut Builder, x: Reg, index: Option<Reg>) {
        match (self.at, index) {
            (Some(at), Some(index)) => {
                let better = b.cmp(self.greater(), x, self.value);
                let value = b.select(better, x, self.value);
                b.assign(self.value, value);
                let index = b.select(better, index, at);
                b.assign(at, index);
            }
            _ => b.combine_into(self.value, self.combine(), x),
        }
    }

    /// Folds another accumulator of the same width.
    pub fn merge(&self, b: &mut Builder, other: Slot) {
        match (self.at, other.at) {
            (Some(at), Some(index)) => {
                let better = b.cmp(self.greater(), other.value, self.value);
                let equal = b.cmp(CmpOp::Eq, other.value, self.value);
                let before = b.cmp(CmpOp::Lt, index, at);
                let tie = b.and(equal, before);
                let better = b.or(better, tie);
                let value = b.select(better, other.value, self.value);
                b.assign(self.value, value);
                let index = b.select(better, index, at);
                b.assign(at, index);
            }
            _ => b.combine_into(self.value, self.combine(), other.value),
        }
    }

    /// Four lanes to one.
    pub fn horizontal(&self, b: &mut Builder) -> Slot {
        let Some(at) = self.at else {
            return Slot { value: b.reduce(self.combine(), self.value), ..*self };
        };
        let mut lanes = (0..4).map(|lane| {
            let (value, at) = (b.extract(self.value, lane), b.extract(at, lane));
            (b.var("best", value), b.var("at", at))
        });
        let lanes: Vec<_> = lanes.by_ref().collect();
        let slot = |(value, at)| Slot { value, at: Some(at), ..*self };
        let first = slot(lanes[0]);
        for &lane in &lanes[1..] {
            first.merge(b, slot(lane));
        }
        first
    }

    /// The result of the reduction.
    pub fn result(&self) -> Reg {
        self.at.unwrap_or(self.value)
    }
}

/// The accumulators of one reduction along the vector axis: one a vector of the unrolled loop, and one for its scalar tail.
pub struct Accumulator {
    vectors: Vec<Slot>,
    tail: Option<Slot>,
}

impl Accumulator {
    pub fn new(b: &mut Builder, op: Reduce, dtype: DType, vectors: usize, tail: bool) -> Accumulator {
        Accumulator {
            vectors: (0..vectors).map(|_| Slot::new(b, op, dtype, 4)).collect(),
            tail: (tail || vectors == 0).then(|| Slot::new(b, op, dtype, 1)),
        }
    }

    /// The accumulator of vector `u` (`lanes` = 4) or of the tail.
    pub fn slot(&self, lanes: usize, u: usize) -> Slot {
        if lanes == 4 { self.vectors[u] } else { self.tail.expect("a tail is declared where it is possible") }
    }

    /// Everything merged: neighbours pairwise, then the lanes, then the tail.
    pub fn finish(self, b: &mut Builder) -> Reg {
        let mut slots = self.vectors;
        while slots.len() > 1 {
            let half = slots.len().div_ceil(2);
            let upper = slots.split_off(half);
            for (low, high) in slots.iter().zip(upper) {
                low.merge(b, high);
            }
        }
        match (slots.first(), self.tail) {
            (Some(all), None) => all.horizontal(b).result(),
            (None, Some(tail)) => tail.result(),
            (Some(all), Some(tail)) => {
                let all = all.horizontal(b);
                // `horizontal` of a sum gives a register set once; fold the other way round.
                let sum = Slot { value: b.var("acc", all.value), ..all };
                sum.merge(b, tail);
                sum.result()
            }
            (None, None) => unreachable!("an accumulator has a slot"),
        }
    }
}
