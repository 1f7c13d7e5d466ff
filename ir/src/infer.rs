//! Type rules: the result type of each primitive from its attributes and operand types.
//!
//! A rule returns the type or one sentence that says what was found and what was expected; the caller (DSL, verifier,
//! text parser) adds the operands and source lines. The op table (module `spec`) says which rule is whose; composites take their
//! type from their expansion.
//!
//! Invariants
//! - A tensor has at most [`MAX_ELEMENTS`] elements, so that every index fits an i32 on every target.

use crate::op::{Binary, Compare, ContractSpec, Op, Reduce, Unary};
use crate::spec;
use crate::types::{DType, TensorType};

/// Result of a type rule: the type, or what is wrong.
pub type Inferred = Result<TensorType, String>;

/// Most elements of one tensor.
pub const MAX_ELEMENTS: usize = i32::MAX as usize;

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
    spec::check_arity(op, tys.len())?;
    let ty = spec::rule(op, tys, &param)?;
    extents(&ty).map_err(|e| format!("{} would yield {ty}; {e}", op.name()))?;
    Ok(ty)
}

/// Refuses extents of 0 and tensors beyond [`MAX_ELEMENTS`].
pub(crate) fn extents(ty: &TensorType) -> Result<(), String> {
    want(ty.shape.iter().all(|d| *d >= 1), || "every extent must be at least 1".into())?;
    let elements = ty.shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
    want(elements.is_some_and(|n| n <= MAX_ELEMENTS), || format!("a tensor has at most {MAX_ELEMENTS} elements"))
}

pub(crate) fn unary(u: Unary, tys: &[&TensorType]) -> Inferred {
    let [x] = operands(u.name(), tys)?;
    let ok = x.dtype.is_float() || (u == Unary::Neg && x.dtype == DType::I32);
    want(ok, || format!("{} is not defined on {}", u.name(), x.dtype))?;
    Ok(x.clone())
}

pub(crate) fn binary(b: Binary, tys: &[&TensorType]) -> Inferred {
    let name = b.name();
    let [x, y] = operands(name, tys)?;
    same(name, x, y)?;
    let ok = match b {
        Binary::Max | Binary::Min => true,
        Binary::Div => x.dtype.is_float(),
        Binary::Add | Binary::Sub | Binary::Mul => x.dtype != DType::Bool,
    };
    want(ok, || format!("{name} is not defined on {}", x.dtype))?;
    Ok(x.clone())
}

pub(crate) fn compare(c: Compare, tys: &[&TensorType]) -> Inferred {
    let name = c.name();
    let [x, y] = operands(name, tys)?;
    same(name, x, y)?;
    let ordered = !matches!(c, Compare::Eq | Compare::Ne);
    want(!(ordered && x.dtype == DType::Bool), || format!("{name} is not defined on bool"))?;
    Ok(TensorType::new(DType::Bool, x.shape.clone()))
}

pub(crate) fn select(tys: &[&TensorType]) -> Inferred {
    let [c, x, y] = operands("select", tys)?;
    same("select", x, y)?;
    want(c.dtype == DType::Bool && c.shape == x.shape, || {
        format!("select needs a bool condition of the operands' shape, found {c} for {x}")
    })?;
    Ok(x.clone())
}

pub(crate) fn cast(to: DType, tys: &[&TensorType]) -> Inferred {
    let [x] = operands("cast", tys)?;
    Ok(TensorType::new(to, x.shape.clone()))
}

pub(crate) fn iota(shape: &[usize], dtype: DType, axis: usize) -> Inferred {
    want(dtype != DType::Bool, || "iota is not defined on bool".into())?;
    axes_in_range("iota", &[axis], shape.len())?;
    Ok(TensorType::new(dtype, shape))
}

pub(crate) fn random(shape: &[usize], tys: &[&TensorType]) -> Inferred {
    let [seed, counter] = operands("random", tys)?;
    let scalar = TensorType::new(DType::U32, []);
    want(*seed == scalar && *counter == scalar, || {
        format!("random takes a seed and a counter, both u32[], found {seed} and {counter}")
    })?;
    Ok(TensorType::f32(shape))
}

pub(crate) fn reduce(op: Reduce, axes: &[usize], tys: &[&TensorType]) -> Inferred {
    let name = op.name();
    let [x] = operands(name, tys)?;
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

pub(crate) fn broadcast(shape: &[usize], tys: &[&TensorType]) -> Inferred {
    let [x] = operands("broadcast", tys)?;
    let fits = shape.len() == x.rank() && x.shape.iter().zip(shape).all(|(from, to)| from == to || *from == 1);
    want(fits, || format!("broadcast stretches axes of extent 1 at equal rank, found {x} to {shape:?}"))?;
    Ok(TensorType::new(x.dtype, shape))
}

pub(crate) fn reshape(shape: &[usize], tys: &[&TensorType]) -> Inferred {
    let [x] = operands("reshape", tys)?;
    let found = shape.iter().fold(1usize, |n, d| n.saturating_mul(*d));
    want(found == x.numel(), || {
        format!("reshape keeps the number of elements, found {x} ({}) to {shape:?} ({found})", x.numel())
    })?;
    Ok(TensorType::new(x.dtype, shape))
}

pub(crate) fn transpose(perm: &[usize], tys: &[&TensorType]) -> Inferred {
    let [x] = operands("transpose", tys)?;
    let mut sorted = perm.to_vec();
    sorted.sort_unstable();
    want(sorted.into_iter().eq(0..x.rank()), || {
        format!("transpose needs a permutation of the {} axes, found {perm:?}", x.rank())
    })?;
    Ok(TensorType::new(x.dtype, perm.iter().map(|p| x.shape[*p]).collect::<Vec<_>>()))
}

pub(crate) fn slice(start: &[usize], end: &[usize], tys: &[&TensorType]) -> Inferred {
    let [x] = operands("slice", tys)?;
    let fits = start.len() == x.rank()
        && end.len() == x.rank()
        && (0..x.rank()).all(|d| start[d] < end[d] && end[d] <= x.shape[d]);
    want(fits, || format!("slice {start:?}..{end:?} does not lie within {x}"))?;
    Ok(TensorType::new(x.dtype, (0..x.rank()).map(|d| end[d] - start[d]).collect::<Vec<_>>()))
}

pub(crate) fn pad(low: &[usize], high: &[usize], value: DType, tys: &[&TensorType]) -> Inferred {
    let [x] = operands("pad", tys)?;
    want(low.len() == x.rank() && high.len() == x.rank() && value == x.dtype, || {
        format!(
            "pad needs low and high an axis and a value of the operand's dtype, found {low:?}, {high:?}, {value} for {x}"
        )
    })?;
    let extent = |d: usize| low[d].saturating_add(x.shape[d]).saturating_add(high[d]);
    Ok(TensorType::new(x.dtype, (0..x.rank()).map(extent).collect::<Vec<_>>()))
}

pub(crate) fn concat(axis: usize, tys: &[&TensorType]) -> Inferred {
    let first = *tys.first().ok_or("concat takes at least one operand")?;
    axes_in_range("concat", &[axis], first.rank())?;
    let mut shape = first.shape.clone();
    for t in &tys[1..] {
        let fits = t.dtype == first.dtype
            && t.rank() == first.rank()
            && (0..t.rank()).all(|d| d == axis || t.shape[d] == first.shape[d]);
        want(fits, || format!("concat along axis {axis} needs operands that agree elsewhere, found {first} and {t}"))?;
        shape[axis] = shape[axis].saturating_add(t.shape[axis]);
    }
    Ok(TensorType::new(first.dtype, shape))
}

pub(crate) fn contract(spec: &ContractSpec, tys: &[&TensorType]) -> Inferred {
    let [a, b] = operands("contract", tys)?;
    let letters = [&spec.lhs, &spec.rhs, &spec.out].into_iter().flatten().all(u8::is_ascii_alphabetic);
    want(letters, || format!("contract {spec} needs letters as labels"))?;
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

pub(crate) fn gather(tys: &[&TensorType]) -> Inferred {
    let [table, ids] = operands("gather", tys)?;
    want(table.rank() >= 1 && ids.dtype == DType::I32, || {
        format!("gather takes a table of rank 1 or more and i32 ids, found {table} and {ids}")
    })?;
    let shape: Vec<usize> = ids.shape.iter().chain(&table.shape[1..]).copied().collect();
    Ok(TensorType::new(table.dtype, shape))
}

pub(crate) fn scatter_add(tys: &[&TensorType]) -> Inferred {
    let [base, ids, updates] = operands("scatter_add", tys)?;
    want(base.rank() >= 1 && ids.dtype == DType::I32 && base.dtype.is_float(), || {
        format!("scatter_add takes a float base of rank 1 or more and i32 ids, found {base} and {ids}")
    })?;
    let shape: Vec<usize> = ids.shape.iter().chain(&base.shape[1..]).copied().collect();
    let expected = TensorType::new(base.dtype, shape);
    want(*updates == expected, || {
        format!("scatter_add into {base} by ids {ids} needs updates {expected}, found {updates}")
    })?;
    Ok(base.clone())
}

pub(crate) fn dynamic_slice(sizes: &[usize], tys: &[&TensorType]) -> Inferred {
    let x = *tys.first().ok_or("dynamic_slice takes an operand and its starts")?;
    starts("dynamic_slice", x, &tys[1..])?;
    want(sizes.len() == x.rank() && sizes.iter().zip(&x.shape).all(|(s, d)| s <= d), || {
        format!("dynamic_slice of sizes {sizes:?} does not fit in {x}")
    })?;
    Ok(TensorType::new(x.dtype, sizes))
}

pub(crate) fn dynamic_update(tys: &[&TensorType]) -> Inferred {
    let [x, u, rest @ ..] = tys else {
        return Err("dynamic_update takes an operand, an update and the starts".into());
    };
    starts("dynamic_update", x, rest)?;
    let fits = u.dtype == x.dtype && u.rank() == x.rank() && u.shape.iter().zip(&x.shape).all(|(s, d)| s <= d);
    want(fits, || format!("dynamic_update of {u} does not fit in {x}"))?;
    Ok((*x).clone())
}

fn starts(name: &str, x: &TensorType, starts: &[&TensorType]) -> Result<(), String> {
    let ok = starts.len() == x.rank() && starts.iter().all(|s| **s == TensorType::new(DType::I32, []));
    want(ok, || format!("{name} of {x} takes {} scalar i32 starts, found {}", x.rank(), starts.len()))
}
