//! Independent loops: what the mark on a loop says, and what the body of such a loop may be.
//!
//! An independent loop means what any loop means: its trips in order, one after another. The mark promises besides
//! that no trip reads or writes an element that another one writes. So an emitter may run any number of trips at once,
//! each operation for all of them before the next, with vectors as wide as the target has; one that does not looks away.
//! Whoever sets the mark answers for the promise, which addresses alone cannot show: two buffers may be the same memory.
//!
//! The verifier checks that the body is of the simple kind that needs no more than lanes, loads and stores:
//! - The step is 1. The body holds no loop, no branch and no row call.
//! - Values are f32, i32 and bool scalars. Each register that the body sets is set there once, and not before the loop.
//! - An address moves by one element a trip or, of loads, by none; the rest of it does not change in the loop. The loop variable is
//!   read nowhere else.
//! - There is no integer division, no conversion of f32 to integers, and a shift is by a constant of the body.
//!
//! Functions of [`RowFn`] are operations here, [`Op::Row`]: an emitter expands them as it likes, within the bounds of [`crate::math`].

use crate::types::*;

/// Checks the rules of the module comment for the body of a loop. `is_own` says whether a register may be the body's: it is not
/// set before the loop. Types and definitions are the verifier's business.
///
/// # Errors
/// What was found and what is expected.
pub fn check(func: &Func, var: Reg, step: i64, body: &[Stmt], is_own: impl Fn(Reg) -> bool) -> Result<(), String> {
    if step != 1 {
        return Err(format!("the step of an independent loop is {step}, expected 1"));
    }
    let mut set: Vec<(Reg, &Op)> = Vec::new();
    for s in body {
        match s {
            Stmt::Set(r, op) => {
                if !is_own(*r) || set.iter().any(|(other, _)| other == r) {
                    return Err("an independent loop sets a register that is set before, expected a new one".into());
                }
                operation(func, var, op, &set)?;
                if !matches!(func.regs.get(r.0 as usize).map(|d| d.ty), Some(Ty::F32 | Ty::I32 | Ty::Bool)) {
                    return Err("an independent loop sets a register that is no f32, i32 or bool scalar".into());
                }
                set.push((*r, op));
            }
            Stmt::Store { addr, value } => {
                if func.regs.get(value.0 as usize).is_some_and(|d| d.ty.is_vector()) {
                    return Err("an independent loop stores a vector, expected a scalar".into());
                }
                if address(var, addr, &set)? != 1 {
                    return Err(
                        "an independent loop stores to one place in every trip, expected to the next one".into()
                    );
                }
            }
            Stmt::Comment(_) => {}
            Stmt::For { .. } | Stmt::If { .. } | Stmt::CallRow { .. } => {
                return Err("an independent loop holds a loop, a branch or a row call".into());
            }
        }
    }
    Ok(())
}

/// Elements by which an address moves in a trip: 0 or 1.
fn address(var: Reg, addr: &Addr, set: &[(Reg, &Op)]) -> Result<i64, String> {
    let stride = stride(var, addr);
    if !(0..=1).contains(&stride) {
        return Err(format!("an address of an independent loop moves by {stride} elements a trip, expected 0 or 1"));
    }
    match addr.terms.iter().any(|(r, _)| set.iter().any(|(own, _)| own == r)) {
        true => Err("an address of an independent loop depends on what the loop computes".into()),
        false => Ok(stride),
    }
}

/// Elements by which an address moves in a trip of the loop over `var`.
pub fn stride(var: Reg, addr: &Addr) -> i64 {
    addr.terms.iter().filter(|(r, _)| *r == var).map(|(_, stride)| stride).sum()
}

fn operation(func: &Func, var: Reg, op: &Op, set: &[(Reg, &Op)]) -> Result<(), String> {
    let ty = |r: Reg| func.regs.get(r.0 as usize).map(|d| d.ty);
    let refuse = |what: &str| Err(format!("an independent loop has {what}"));
    match op {
        Op::Const(Const::F32(_) | Const::I32(_) | Const::Bool(_)) => Ok(()),
        Op::Load(addr) => address(var, addr, set).map(|_| ()),
        Op::Binary(BinOp::Div | BinOp::DivU | BinOp::Rem | BinOp::RemU, a, _) if ty(*a) == Some(Ty::I32) => {
            refuse("an integer division")
        }
        Op::Binary(op, _, by) if op.is_shift() => {
            match set.iter().any(|(r, op)| r == by && matches!(op, Op::Const(Const::I32(_)))) {
                true => Ok(()),
                false => refuse("a shift by an amount that is no constant of its body"),
            }
        }
        Op::Convert(Conv::I32ToF32 | Conv::U32ToF32 | Conv::F32BitsToI32 | Conv::I32BitsToF32, _) => Ok(()),
        Op::Cmp(_, a, _) if ty(*a) == Some(Ty::Index) => refuse("a comparison of indices"),
        Op::Copy(_) | Op::Unary(..) | Op::Binary(..) | Op::Fma(..) | Op::Cmp(..) | Op::Select(..) | Op::Row(..) => {
            Ok(())
        }
        _ => refuse("an operation that is not one of scalars of f32, i32 and bool"),
    }
}
