//! Bodies: SSA form and dtypes.

use super::{Invariant, Report};
use crate::op::{Binary, Compare, Unary};
use crate::program::{Affine, ArgId, Body, ScalarId, ScalarOp};
use crate::types::DType;

/// Whether operands come before their users, and everything that is named exists: `roots` are the scalars that stores and
/// reductions name, `accs` the number of accumulators.
pub(super) fn ssa(body: &Body, roots: &[ScalarId], accs: usize, report: &mut Report) -> bool {
    let before = report.list.len();
    for (id, s) in body.scalars.iter() {
        for o in s.op.operands() {
            report.expect(o < id, Invariant::BodySsa, || format!("{id} uses {o}: expected a scalar with a smaller id"));
        }
        if let ScalarOp::Acc(i) = s.op {
            report.expect((i as usize) < accs, Invariant::BodySsa, || {
                format!("{id} is accumulator {i}, and the kernel has {accs}")
            });
        }
    }
    for r in roots {
        report.expect(r.index() < body.scalars.len(), Invariant::BodySsa, || {
            format!("{r} is stored or reduced, and the body has {} scalars", body.scalars.len())
        });
    }
    report.list.len() == before
}

/// The dtype rules, for a body in SSA form whose affine values have the rank of `space`.
pub(super) fn types(
    body: &Body,
    space: &[usize],
    accs: &[DType],
    arg_dtype: &dyn Fn(ArgId) -> Option<DType>,
    report: &mut Report,
) {
    for (id, s) in body.scalars.iter() {
        let of = |x: &ScalarId| body.scalars[*x].dtype;
        let fault = match &s.op {
            ScalarOp::Const(c) => expect(c.dtype, s.dtype),
            ScalarOp::Load(a) => a
                .indirect
                .iter()
                .find_map(|i| must(of(&i.index) == DType::I32, "an i32 index"))
                .or_else(|| a.indirect.iter().find_map(|i| must(i.extent >= 1, "an indirect extent of at least 1")))
                .or_else(|| arg_dtype(a.arg).and_then(|d| expect(d, s.dtype))),
            ScalarOp::Index(a) => {
                expect(DType::I32, s.dtype).or_else(|| must(fits_i32(a, space), "a value within i32"))
            }
            ScalarOp::Acc(i) => accs.get(*i as usize).and_then(|d| expect(*d, s.dtype)),
            ScalarOp::Unary(u, x) => expect(of(x), s.dtype).or_else(|| match u {
                Unary::Neg => must(s.dtype.is_float() || s.dtype == DType::I32, "float or i32"),
                _ => must(s.dtype.is_float(), "float"),
            }),
            ScalarOp::Binary(b, x, y) => {
                expect(of(x), s.dtype).or_else(|| expect(of(y), s.dtype)).or_else(|| match b {
                    Binary::Div => must(s.dtype.is_float(), "float"),
                    Binary::Max | Binary::Min => None,
                    Binary::Add | Binary::Sub | Binary::Mul => must(s.dtype != DType::Bool, "float or integer"),
                })
            }
            ScalarOp::Compare(c, x, y) => {
                expect(DType::Bool, s.dtype).or_else(|| expect(of(x), of(y))).or_else(|| match c {
                    Compare::Eq | Compare::Ne => None,
                    _ => must(of(x) != DType::Bool, "float or integer operands"),
                })
            }
            ScalarOp::Select(c, x, y) => must(of(c) == DType::Bool, "a bool condition")
                .or_else(|| expect(of(x), s.dtype))
                .or_else(|| expect(of(y), s.dtype)),
            ScalarOp::Cast(_) => None,
            ScalarOp::Random { seed, counter, index, .. } => {
                must(of(seed) == DType::U32 && of(counter) == DType::U32, "u32 seed and counter")
                    .or_else(|| must(of(index).is_int(), "an integer index"))
                    .or_else(|| expect(DType::F32, s.dtype))
            }
        };
        if let Some(fault) = fault {
            report.add(Invariant::BodyTypes, format!("{id} is {:?} of {}: expected {fault}", s.op, s.dtype));
        }
    }
}

fn expect(want: DType, found: DType) -> Option<String> {
    (want != found).then(|| want.to_string())
}

fn must(holds: bool, what: &str) -> Option<String> {
    (!holds).then(|| what.to_string())
}

fn fits_i32(a: &Affine, space: &[usize]) -> bool {
    let (lo, hi) = a.range(space);
    lo >= i64::from(i32::MIN) && hi <= i64::from(i32::MAX)
}
