//! A row's maximum and the sum of exponentials below it in one sweep (Milakov and Gimelshein 2018, "Online normalizer calculation for softmax",
//! arXiv 1805.02867).
//!
//! While an invocation sweeps, its sum is relative to the largest element that it has seen: `sum exp(x - most)`. A larger one scales the sum down. After
//! the sweep the lanes' maxima meet, each lane scales its sum to the row's, and the sums meet.
//!
//! Invariants
//! - The results are those of two sweeps but for rounding, also for infinities and NaN: of a row of -inf alone the maximum is -inf and the sum NaN.

use super::across::Lanes;
use super::{Cut, Plan, across_lanes};
use crate::cx::Cx;
use crate::text::{float, type_name};
use tinygpt_ir::op::{Binary, Reduce, Unary};
use tinygpt_ir::program::ScalarOp;
use tinygpt_ir::types::DType;

/// A maximum of `x` and a sum of `exp(x - maximum)`, by their numbers among the reductions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pair {
    pub max: usize,
    pub sum: usize,
}

/// The pairs of a plan; each maximum is in one at most.
pub fn pairs(plan: &Plan) -> Vec<Pair> {
    let op = |id: tinygpt_ir::program::ScalarId| plan.body.scalars[id].op.clone();
    let mut pairs: Vec<Pair> = Vec::new();
    for (sum, r) in plan.reductions.iter().enumerate().filter(|(_, r)| r.op == Reduce::Sum) {
        let ScalarOp::Unary(Unary::Exp, below) = op(r.value) else { continue };
        let ScalarOp::Binary(Binary::Sub, x, most) = op(below) else { continue };
        let ScalarOp::Acc(max) = op(most) else { continue };
        let max = max as usize;
        let of = &plan.reductions[max];
        let plain = of.op == Reduce::Max && of.value == x && [max, sum].iter().all(|r| plan.dtype(*r) == DType::F32);
        if plain && plan.levels[sum] == plan.levels[max] + 1 && pairs.iter().all(|pair| pair.max != max) {
            pairs.push(Pair { max, sum });
        }
    }
    pairs
}

/// Whether names are of vectors.
fn wide(cut: Cut) -> bool {
    cut.rows * cut.cols == 4
}

fn names(cut: Cut, pair: Pair) -> (String, String) {
    (super::gathers(cut, pair.max), super::gathers(cut, pair.sum))
}

/// Declares both. The maximum starts at the least finite number, which is above -inf: so no difference is of two infinities before there is one above.
pub fn declare(cx: &mut Cx, cut: Cut, pair: Pair) {
    let (most, sum) = names(cut, pair);
    let ty = type_name(DType::F32, wide(cut));
    cx.code.line(format!("var {most} = {ty}({});", float(f32::MIN)));
    cx.code.line(format!("var {sum} = {ty}();"));
}

/// Takes in the elements `x`.
pub fn take(cx: &mut Cx, cut: Cut, pair: Pair, x: &str) {
    let (most, sum) = names(cut, pair);
    let then = format!("most_{}", pair.max);
    cx.code.line(format!("let {then} = select({most}, {x}, {most} < {x});"));
    cx.code.line(format!("{sum} = {sum} * exp({most} - {then}) + exp({x} - {then});"));
    cx.code.line(format!("{most} = {then};"));
}

/// Four columns' results as one, where those are taken at once.
pub fn join_columns(cx: &mut Cx, cut: Cut, pair: Pair) {
    if cut.cols != 4 {
        return;
    }
    let Pair { max, sum } = pair;
    cx.code.line(format!("let twos_{max} = max(fours_{max}.xy, fours_{max}.zw);"));
    cx.code.line(format!("var sum_{max} = max(twos_{max}.x, twos_{max}.y);"));
    cx.code.line(format!("fours_{sum} *= exp(fours_{max} - sum_{max});"));
    cx.code.line(format!("var sum_{sum} = (fours_{sum}.x + fours_{sum}.y) + (fours_{sum}.z + fours_{sum}.w);"));
}

/// The lanes' results as the row's.
pub fn across(cx: &mut Cx, cut: Cut, pair: Pair, lanes: Lanes) {
    let Pair { max, sum } = pair;
    if lanes.lanes > 1 {
        cx.code.line(format!("let own_{max} = sum_{max};"));
        across_lanes(cx, &[(max, Reduce::Max, DType::F32)], lanes);
        cx.code.line(format!("sum_{sum} *= exp(own_{max} - sum_{max});"));
        across_lanes(cx, &[(sum, Reduce::Sum, DType::F32)], lanes);
    }
    // The largest element itself adds 1, unless there is none above -inf.
    let ty = type_name(DType::F32, cut.rows == 4);
    let all = |x: f32| format!("{ty}({})", float(x));
    cx.code.line(format!("let none_{max} = sum_{sum} == {};", all(0.0)));
    cx.code.line(format!("sum_{max} = select(sum_{max}, {}, none_{max});", all(f32::NEG_INFINITY)));
    cx.code.line(format!("sum_{sum} = select(sum_{sum}, {}, none_{max});", all(f32::NAN)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use tinygpt_ir::program::{Access, ArgId, Body, ReduceKernel, Reduction};

    /// Of f32[4,64]: a maximum of its elements, and the sum of `op(x - most)`, or of `op(most - x)` if swapped.
    fn of(op: Unary, most: u32, swapped: bool) -> Vec<Pair> {
        let mut body = Body::default();
        let load = |arg| ScalarOp::Load(Access::direct(ArgId(arg), 0, vec![64, 1]));
        let (x, other) = (body.push(load(0), DType::F32), body.push(load(1), DType::F32));
        let most = body.push(ScalarOp::Acc(most), DType::F32);
        let (a, b) = if swapped { (most, x) } else { (x, most) };
        let below = body.push(ScalarOp::Binary(Binary::Sub, a, b), DType::F32);
        let value = body.push(ScalarOp::Unary(op, below), DType::F32);
        let reductions = vec![
            Reduction { op: Reduce::Max, value: x },
            Reduction { op: Reduce::Max, value: other },
            Reduction { op: Reduce::Sum, value },
        ];
        pairs(&Plan::new(&ReduceKernel { rows: vec![4], cols: vec![64], body, reductions, stores: Vec::new() }))
    }

    #[test]
    fn a_sum_below_its_own_maximum_is_a_pair() {
        assert_eq!(of(Unary::Exp, 0, false), [Pair { max: 0, sum: 2 }]);
        assert_eq!(of(Unary::Exp, 1, false), [], "the maximum of something else");
        assert_eq!(of(Unary::Exp, 0, true), [], "above it");
        assert_eq!(of(Unary::Tanh, 0, false), [], "no exponential");
    }
}
