//! Type rules: the result type of each primitive from its attributes and operand types.
//!
//! A rule returns the type or one sentence that says what was found and what was expected; the caller (DSL, verifier,
//! text parser) adds the operands and source lines. Composites take their type from their expansion.

use crate::op::{Compare, ContractSpec, Op, Reduce, Unary};
use crate::types::{DType, TensorType, numel};

/// Result of a type rule: the type, or what is wrong.
pub type Inferred = Result<TensorType, String>;

fn want(cond: bool, message: impl FnOnce() -> String) -> Result<(), String> {
    if cond { Ok(()) } else { Err(message()) }
}

fn operands<'a, const N: usize>(name: &str, tys: &[&'a TensorType]) -> Result<[&'a TensorType; N], String> {
    tys.try_into().map_err(|_| format!("{name} takes {N} operands, found {}", tys.len()))
}

fn same(name: &str, a: &TensorType, b: &TensorType) -> Result<(), String> {
    want(a == b, || format!("{name} needs operands of one dtype and shape, found {a} and {b}"))
}

fn axes_in_range(name: &str, axes: &[usize], rank: usize) -> Result<(), String> {
    want(axes.iter().all(|a| *a < rank), || format!("{name} names axes {axes:?} of an operand of rank {rank}"))
}

/// The result type of `op` on operands of types `tys`. `param` gives the type of a parameter.
pub fn infer(op: &Op, tys: &[&TensorType], param: impl Fn(crate::ParamId) -> Option<TensorType>) -> Inferred {
    let name = op.name();
    let ty = infer_any(op, name, tys, param)?;
    want(ty.shape.iter().all(|d| *d >= 1), || format!("{name} would yield {ty}; every extent must be at least 1"))?;
    Ok(ty)
}

fn infer_any(
    op: &Op,
    name: &str,
    tys: &[&TensorType],
    param: impl Fn(crate::ParamId) -> Option<TensorType>,
) -> Inferred {
    match op {
        Op::Param(id) => {
            let [] = operands(name, tys)?;
            param(*id).ok_or_else(|| format!("param names {id}, which the graph does not have"))
        }
        Op::Unary(u) => unary(*u, tys),
        Op::Binary(b) => {
            let [x, y] = operands(name, tys)?;
            same(name, x, y)?;
            use crate::op::Binary as B;
            let ok = match b {
                B::Max | B::Min => true,
                B::Div => x.dtype.is_float(),
                B::Add | B::Sub | B::Mul => x.dtype != DType::Bool,
            };
            want(ok, || format!("{name} is not defined on {}", x.dtype))?;
            Ok(x.clone())
        }
        Op::Compare(c) => {
            let [x, y] = operands(name, tys)?;
            same(name, x, y)?;
            let ordered = !matches!(c, Compare::Eq | Compare::Ne);
            want(!(ordered && x.dtype == DType::Bool), || format!("{name} is not defined on bool"))?;
            Ok(TensorType::new(DType::Bool, x.shape.clone()))
        }
        Op::Select => {
            let [c, x, y] = operands(name, tys)?;
            same(name, x, y)?;
            want(c.dtype == DType::Bool && c.shape == x.shape, || {
                format!("select needs a bool condition of the operands' shape, found {c} for {x}")
            })?;
            Ok(x.clone())
        }
        Op::Cast(to) => {
            let [x] = operands(name, tys)?;
            Ok(TensorType::new(*to, x.shape.clone()))
        }
        Op::Iota { shape, dtype, axis } => {
            let [] = operands(name, tys)?;
            want(*dtype != DType::Bool, || "iota is not defined on bool".into())?;
            axes_in_range(name, &[*axis], shape.len())?;
            Ok(TensorType::new(*dtype, shape.clone()))
        }
        Op::Splat { shape, value } => {
            let [] = operands(name, tys)?;
            Ok(TensorType::new(value.dtype, shape.clone()))
        }
        Op::Reduce { op, axes } => {
            let [x] = operands(name, tys)?;
            reduce(*op, axes, x)
        }
        Op::Broadcast { shape } => {
            let [x] = operands(name, tys)?;
            let fits = shape.len() == x.rank() && x.shape.iter().zip(shape).all(|(from, to)| from == to || *from == 1);
            want(fits, || format!("broadcast stretches axes of extent 1 at equal rank, found {x} to {shape:?}"))?;
            Ok(TensorType::new(x.dtype, shape.clone()))
        }
        Op::Reshape { shape } => {
            let [x] = operands(name, tys)?;
            want(numel(shape) == x.numel(), || {
                format!(
                    "reshape keeps the number of elements, found {x} ({}) to {shape:?} ({})",
                    x.numel(),
                    numel(shape)
                )
            })?;
            Ok(TensorType::new(x.dtype, shape.clone()))
        }
        Op::Transpose { perm } => {
            let [x] = operands(name, tys)?;
            let mut sorted = perm.clone();
            sorted.sort_unstable();
            want(sorted.iter().copied().eq(0..x.rank()), || {
                format!("transpose needs a permutation of the {} axes, found {perm:?}", x.rank())
            })?;
            Ok(TensorType::new(x.dtype, perm.iter().map(|p| x.shape[*p]).collect::<Vec<_>>()))
        }
        Op::Slice { start, end } => {
            let [x] = operands(name, tys)?;
            let fits = start.len() == x.rank()
                && end.len() == x.rank()
                && (0..x.rank()).all(|d| start[d] < end[d] && end[d] <= x.shape[d]);
            want(fits, || format!("slice {start:?}..{end:?} does not lie within {x}"))?;
            Ok(TensorType::new(x.dtype, (0..x.rank()).map(|d| end[d] - start[d]).collect::<Vec<_>>()))
        }
        Op::Pad { low, high, value } => {
            let [x] = operands(name, tys)?;
            want(low.len() == x.rank() && high.len() == x.rank() && value.dtype == x.dtype, || {
                format!(
                    "pad needs low and high an axis and a value of the operand's dtype, found {low:?}, {high:?}, {} for {x}",
                    value.dtype
                )
            })?;
            Ok(TensorType::new(x.dtype, (0..x.rank()).map(|d| low[d] + x.shape[d] + high[d]).collect::<Vec<_>>()))
        }
        Op::Concat { axis } => concat(*axis, tys),
        Op::Contract(spec) => {
            let [a, b] = operands(name, tys)?;
            contract(spec, a, b)
        }
        Op::Gather => {
            let [table, ids] = operands(name, tys)?;
            want(table.rank() >= 1 && ids.dtype == DType::I32, || {
                format!("gather takes a table of rank 1 or more and i32 ids, found {table} and {ids}")
            })?;
            let shape: Vec<usize> = ids.shape.iter().chain(&table.shape[1..]).copied().collect();
            Ok(TensorType::new(table.dtype, shape))
        }
        Op::ScatterAdd => {
            let [base, ids, updates] = operands(name, tys)?;
            want(base.rank() >= 1 && ids.dtype == DType::I32 && base.dtype.is_float(), || {
                format!("scatter_add takes a float base of rank 1 or more and i32 ids, found {base} and {ids}")
            })?;
            let shape: Vec<usize> = ids.shape.iter().chain(&base.shape[1..]).copied().collect();
            let expected = TensorType::new(base.dtype, shape);
            want(*updates == expected, || {
                format!("scatter_add into {base} by ids {ids} needs updates {expected}, found {updates}")
            })?;
            Ok((*base).clone())
        }
        Op::DynamicSlice { sizes } => {
            let x = tys.first().ok_or_else(|| format!("{name} takes an operand and its starts"))?;
            starts(name, x, &tys[1..])?;
            want(sizes.len() == x.rank() && sizes.iter().zip(&x.shape).all(|(s, d)| s <= d), || {
                format!("dynamic_slice of sizes {sizes:?} does not fit in {x}")
            })?;
            Ok(TensorType::new(x.dtype, sizes.clone()))
        }
        Op::DynamicUpdate => {
            want(tys.len() >= 2, || format!("{name} takes an operand, an update and the starts"))?;
            let (x, u) = (tys[0], tys[1]);
            starts(name, x, &tys[2..])?;
            let fits = u.dtype == x.dtype && u.rank() == x.rank() && u.shape.iter().zip(&x.shape).all(|(s, d)| s <= d);
            want(fits, || format!("dynamic_update of {u} does not fit in {x}"))?;
            Ok(x.clone())
        }
        Op::Random { shape, .. } => {
            let [seed, counter] = operands(name, tys)?;
            let scalar = TensorType::new(DType::U32, []);
            want(*seed == scalar && *counter == scalar, || {
                format!("random takes a seed and a counter, both u32[], found {seed} and {counter}")
            })?;
            Ok(TensorType::f32(shape.clone()))
        }
        Op::Composite(c) => crate::composite::infer(c, tys),
    }
}

fn unary(u: Unary, tys: &[&TensorType]) -> Inferred {
    let [x] = operands(u.name(), tys)?;
    let ok = x.dtype.is_float() || (u == Unary::Neg && x.dtype == DType::I32);
    want(ok, || format!("{} is not defined on {}", u.name(), x.dtype))?;
    Ok((*x).clone())
}

fn reduce(op: Reduce, axes: &[usize], x: &TensorType) -> Inferred {
    let name = op.name();
    axes_in_range(name, axes, x.rank())?;
    want(!axes.is_empty() && axes.is_sorted_by(|a, b| a < b), || {
        format!("{name} needs one or more distinct axes in ascending order, found {axes:?}")
    })?;
    want(x.dtype != DType::Bool, || format!("{name} is not defined on bool"))?;
    want(op != Reduce::ArgMax || axes.len() == 1, || format!("reduce_argmax works along one axis, found {axes:?}"))?;
    let mut shape = x.shape.clone();
    for a in axes {
        shape[*a] = 1;
    }
    Ok(TensorType::new(if op == Reduce::ArgMax { DType::I32 } else { x.dtype }, shape))
}

fn concat(axis: usize, tys: &[&TensorType]) -> Inferred {
    let first = *tys.first().ok_or("concat takes at least one operand")?;
    axes_in_range("concat", &[axis], first.rank())?;
    let mut shape = first.shape.clone();
    for t in &tys[1..] {
        let fits = t.dtype == first.dtype
            && t.rank() == first.rank()
            && (0..t.rank()).all(|d| d == axis || t.shape[d] == first.shape[d]);
        want(fits, || format!("concat along axis {axis} needs operands that agree elsewhere, found {first} and {t}"))?;
        shape[axis] += t.shape[axis];
    }
    Ok(TensorType::new(first.dtype, shape))
}

fn contract(spec: &ContractSpec, a: &TensorType, b: &TensorType) -> Inferred {
    want(a.rank() == spec.lhs.len() && b.rank() == spec.rhs.len(), || {
        format!("contract {spec} does not fit the ranks of {a} and {b}")
    })?;
    want(a.dtype.is_float() && a.dtype == b.dtype, || {
        format!("contract needs float operands of one dtype, found {a} and {b}")
    })?;
    for labels in [&spec.lhs, &spec.rhs, &spec.out] {
        let distinct = labels.iter().enumerate().all(|(i, l)| !labels[..i].contains(l));
        want(distinct, || format!("contract {spec} repeats a label within one operand"))?;
    }
    let extent = |l: &u8| -> Result<usize, String> {
        let of = |labels: &[u8], t: &TensorType| labels.iter().position(|x| x == l).map(|i| t.shape[i]);
        match (of(&spec.lhs, a), of(&spec.rhs, b)) {
            (Some(x), Some(y)) if x != y => {
                Err(format!("contract {spec}: axis {} is {x} in {a} but {y} in {b}", *l as char))
            }
            (Some(x), _) | (_, Some(x)) => Ok(x),
            (None, None) => Err(format!("contract {spec}: result axis {} is in neither operand", *l as char)),
        }
    };
    for l in spec.lhs.iter().chain(&spec.rhs) {
        extent(l)?;
        let count = [&spec.lhs, &spec.rhs, &spec.out].iter().filter(|v| v.contains(l)).count();
        want(count >= 2, || format!("contract {spec}: axis {} occurs once; sum or broadcast it first", *l as char))?;
    }
    let shape = spec.out.iter().map(extent).collect::<Result<Vec<_>, _>>()?;
    Ok(TensorType::new(a.dtype, shape))
}

fn starts(name: &str, x: &TensorType, starts: &[&TensorType]) -> Result<(), String> {
    let ok = starts.len() == x.rank() && starts.iter().all(|s| **s == TensorType::new(DType::I32, []));
    want(ok, || format!("{name} of {x} takes {} scalar i32 starts, found {}", x.rank(), starts.len()))
}
