//! The pieces that random graphs are made of: one function each, drawn at random.
//!
//! A recipe draws operands from the pool, brings them into the domain of its op, and pushes results with an interval
//! that holds their elements.

use super::generator::{Generator, MAX_ELEMENTS, Order, Value};
use super::{RandomOptions, composites};
use crate::dsl::T;
use crate::graph::{Init, StateRole};
use crate::op::{Binary, Compare, ContractSpec, Label, Op, Reduce, Unary};
use crate::types::{DType, Literal, Shape, TensorType, numel};

pub(super) type Recipe = for<'g> fn(&mut Generator<'g>);

/// The recipes that `o` allows; one that stands twice is drawn twice as often.
pub(super) fn table(o: &RandomOptions) -> Vec<Recipe> {
    let mut table: Vec<Recipe> = vec![
        unary,
        unary,
        unary,
        binary,
        binary,
        binary,
        reduce,
        reduce,
        normalise,
        normalise,
        reshape,
        reshape,
        transpose,
        transpose,
        slice,
        pad,
        concat,
        broadcast,
        contract,
        contract,
        contract,
        float_constant,
        state,
    ];
    if o.integers {
        let more: &[Recipe] = &[
            integer,
            compare,
            compare,
            select,
            select,
            logic,
            cast,
            cast,
            iota,
            gather,
            gather,
            scatter_add,
            dynamic_slice,
            dynamic_update,
            random,
            argmax,
        ];
        table.extend(more);
    }
    if o.f16 {
        table.push(half);
    }
    if o.composites {
        composites::extend(&mut table, o);
    }
    table
}

pub(super) fn apply<'g>(g: &Generator<'g>, op: Op, inputs: &[Value<'g>]) -> T<'g> {
    let inputs: Vec<T<'g>> = inputs.iter().map(|v| v.t).collect();
    g.b.node(op, &inputs)
}

fn unary(g: &mut Generator<'_>) {
    let op = g.rng.pick(Unary::ALL);
    let x = g.float();
    let x = match op {
        Unary::Log | Unary::Sqrt | Unary::Rsqrt | Unary::Recip => g.positive(x),
        Unary::Exp => g.within(x, 3.0),
        Unary::Tanh | Unary::Erf if g.rng.chance(70) => g.within(x, 2.0),
        _ => x,
    };
    // Beyond 4, tanh and erf saturate: distinct arguments may round to one result.
    let saturated = x.magnitude() > 4.0;
    let (f, order): (fn(f64) -> f64, Order) = match op {
        Unary::Neg => (|x| -x, if x.order == Order::Grid { Order::Grid } else { Order::Free }),
        Unary::Exp => (f64::exp, x.image()),
        Unary::Log => (f64::ln, x.image()),
        Unary::Sqrt => (f64::sqrt, x.image()),
        Unary::Rsqrt => (|x| 1.0 / x.sqrt(), Order::Free),
        Unary::Recip => (|x| 1.0 / x, Order::Free),
        Unary::Tanh => (f64::tanh, if saturated { Order::Free } else { x.image() }),
        Unary::Erf => (libm::erf, if saturated { Order::Free } else { x.image() }),
        Unary::Sin | Unary::Cos => (|x| x, Order::Free),
    };
    let bounds = if matches!(op, Unary::Sin | Unary::Cos) { (-1.0, 1.0) } else { (f(x.lo), f(x.hi)) };
    let t = apply(g, Op::Unary(op), &[x]);
    g.push(t, bounds.0.min(bounds.1), bounds.0.max(bounds.1), order);
}

fn binary(g: &mut Generator<'_>) {
    let op = g.rng.pick(Binary::ALL);
    let need = if g.o.differentiable && matches!(op, Binary::Max | Binary::Min) { Order::Grid } else { Order::Free };
    let x = g.float_of(0, need);
    let y = g.mate(x, need);
    let (x, y) = if g.rng.chance(30) { (y, x) } else { (x, y) };
    let y = if op == Binary::Div { g.positive(y) } else { y };
    let corners = |f: fn(f64, f64) -> f64| {
        let all = [f(x.lo, y.lo), f(x.lo, y.hi), f(x.hi, y.lo), f(x.hi, y.hi)];
        (all.iter().copied().fold(f64::INFINITY, f64::min), all.iter().copied().fold(f64::NEG_INFINITY, f64::max))
    };
    let (t, (lo, hi)) = match op {
        Binary::Add => (x.t + y.t, (x.lo + y.lo, x.hi + y.hi)),
        Binary::Sub => (x.t - y.t, (x.lo - y.hi, x.hi - y.lo)),
        Binary::Mul => (x.t * y.t, corners(|a, b| a * b)),
        Binary::Div => (x.t / y.t, corners(|a, b| a / b)),
        Binary::Max => (x.t.max(y.t), (x.lo.max(y.lo), x.hi.max(y.hi))),
        Binary::Min => (x.t.min(y.t), (x.lo.min(y.lo), x.hi.min(y.hi))),
    };
    let order = match op {
        Binary::Max | Binary::Min if x.order.min(y.order) == Order::Grid => Order::Grid,
        _ => Order::Free,
    };
    g.push(t, lo, hi, order);
}

fn reduce(g: &mut Generator<'_>) {
    if g.rng.chance(60) {
        let x = g.float_of(1, Order::Free);
        let axes = g.axes(x.t.rank());
        let n: usize = axes.iter().map(|a| x.t.dim(*a)).product();
        let t = x.t.sum(&axes);
        g.push(t, x.lo * n as f64, x.hi * n as f64, Order::Free);
    } else {
        let need = if g.o.differentiable { Order::Monotone } else { Order::Free };
        let x = g.float_of(1, need);
        let axes = g.axes(x.t.rank());
        let t = x.t.reduce_max(&axes);
        g.push(t, x.lo, x.hi, x.order);
    }
}

/// Elementwise after a reduction after elementwise, the reduction broadcast back: what softmax and norms are made of.
fn normalise(g: &mut Generator<'_>) {
    let x = g.float_of(1, Order::Free);
    let x = g.within(x, 4.0);
    let axes = g.axes(x.t.rank());
    let n = axes.iter().map(|a| x.t.dim(*a)).product::<usize>() as f64;
    let m = x.magnitude();
    match g.rng.below(4) {
        0 => {
            let t = x.t - x.t.mean(&axes);
            g.push(t, x.lo - x.hi, x.hi - x.lo, Order::Free);
        }
        1 => {
            let scale = ((x.t * x.t).sum(&axes) + 0.5).rsqrt();
            let t = x.t * scale;
            g.push(t, -m / 0.7, m / 0.7, Order::Free);
        }
        2 => {
            let x = g.within(x, 2.0);
            let e = x.t.exp();
            let t = e / (e.sum(&axes) + 1.0);
            g.push(t, 0.0, 1.0, Order::Free);
        }
        _ => {
            // The reduction of a product and a further one of its result.
            let y = g.mate(x, Order::Free);
            let p = x.t * y.t;
            let axes: Vec<usize> = axes.into_iter().filter(|a| *a < p.rank()).collect();
            let t = p.tanh().sum(&axes).sin() + x.t;
            if numel(&t.shape()) <= MAX_ELEMENTS {
                g.push(t, x.lo - 1.0, x.hi + 1.0, Order::Free);
            } else {
                let t = t.sum(&(0..t.rank()).collect::<Vec<_>>()) * (1.0 / (n * 1e3));
                let bound = (m + 1.0) * MAX_ELEMENTS as f64;
                g.push(t, -bound, bound, Order::Free);
            }
        }
    }
}

fn reshape(g: &mut Generator<'_>) {
    let x = g.any(0);
    let mut shape = x.t.shape();
    for _ in 0..g.rng.range(1, 2) {
        match g.rng.below(4) {
            0 => {
                let at = g.rng.range(0, shape.len());
                if shape.len() < 5 {
                    shape.insert(at, 1);
                }
            }
            1 => {
                if let Some(at) = shape.iter().position(|d| *d == 1) {
                    shape.remove(at);
                }
            }
            2 if shape.len() >= 2 => {
                let at = g.rng.below(shape.len() - 1);
                shape[at] *= shape.remove(at + 1);
            }
            _ => {
                let at = g.rng.below(shape.len().max(1));
                let factor = shape.get(at).and_then(|d| (2..*d).find(|f| d % f == 0));
                if let (Some(f), true) = (factor, shape.len() < 5) {
                    shape[at] /= f;
                    shape.insert(at + g.rng.below(2), f);
                }
            }
        }
    }
    let t = x.t.reshape(shape);
    g.push(t, x.lo, x.hi, x.order);
}

fn transpose(g: &mut Generator<'_>) {
    let x = g.any(2);
    let mut perm: Vec<usize> = (0..x.t.rank()).collect();
    g.rng.shuffle(&mut perm);
    let t = x.t.transpose(perm);
    g.push(t, x.lo, x.hi, x.order);
}

fn slice(g: &mut Generator<'_>) {
    let x = g.any(0);
    let (mut start, mut end) = (Vec::new(), Vec::new());
    for d in x.t.shape() {
        let s = if g.rng.chance(50) { 0 } else { g.rng.below(d) };
        start.push(s);
        end.push(if g.rng.chance(50) { d } else { g.rng.range(s + 1, d) });
    }
    let t = x.t.slice(start, end);
    g.push(t, x.lo, x.hi, x.order);
}

fn pad(g: &mut Generator<'_>) {
    let x = g.any(0);
    let mut grown = x.t.shape();
    let (mut low, mut high) = (vec![0; grown.len()], vec![0; grown.len()]);
    for axis in 0..grown.len() {
        let (l, h) = (g.rng.pick(&[0, 0, 1, 2]), g.rng.pick(&[0, 0, 1, 3]));
        let d = grown[axis];
        grown[axis] += l + h;
        if numel(&grown) > MAX_ELEMENTS {
            grown[axis] = d;
        } else {
            (low[axis], high[axis]) = (l, h);
        }
    }
    let value: f64 = g.rng.pick(&[0.0, 0.0, 1.0, 3.0]);
    let value = if x.is(DType::Bool) { value.min(1.0) } else { value };
    let t = x.t.pad(low, high, value);
    let order = if x.order == Order::Grid { Order::Grid } else { Order::Free };
    g.push(t, x.lo.min(value), x.hi.max(value), order);
}

fn concat(g: &mut Generator<'_>) {
    let x = g.float_of(1, Order::Free);
    let axis = g.rng.below(x.t.rank());
    let mut parts = vec![x];
    for _ in 0..g.rng.pick(&[0, 1, 1, 2]) {
        let mut shape = x.t.shape();
        shape[axis] = g.rng.range(1, 3);
        parts.push(if g.rng.chance(30) { x } else { g.tensor(&shape) });
    }
    g.rng.shuffle(&mut parts);
    let t = apply(g, Op::Concat { axis }, &parts);
    let lo = parts.iter().map(|v| v.lo).fold(f64::INFINITY, f64::min);
    let hi = parts.iter().map(|v| v.hi).fold(f64::NEG_INFINITY, f64::max);
    let exact = parts.iter().all(|v| v.order == Order::Grid);
    g.push(t, lo, hi, if exact { Order::Grid } else { Order::Free });
}

fn broadcast(g: &mut Generator<'_>) {
    let mut x = g.any(0);
    let mut shape = x.t.shape();
    if shape.len() < 4 {
        let at = g.rng.range(0, shape.len());
        shape.insert(at, 1);
        let t = x.t.reshape(shape.clone());
        x = g.push(t, x.lo, x.hi, x.order);
    }
    for axis in 0..shape.len() {
        let room = (MAX_ELEMENTS / numel(&shape)).min(g.o.max_extent);
        if shape[axis] == 1 && room >= 2 && g.rng.chance(70) {
            shape[axis] = g.rng.range(2, room);
        }
    }
    let t = x.t.broadcast_to(shape);
    g.push(t, x.lo, x.hi, x.order);
}

fn float_constant(g: &mut Generator<'_>) {
    let shape = g.any_shape();
    if shape.is_empty() || g.rng.chance(50) {
        g.constant(shape);
    } else {
        let axis = g.rng.below(shape.len());
        let d = shape[axis] as f64;
        let t = g.b.iota(shape, DType::F32, axis);
        g.push(t, 0.0, d - 1.0, Order::Grid);
    }
}

/// One to three contractions of one value, over the same labels with right-hand sides of their own (siblings), the labels of
/// every operand in any order.
fn contract(g: &mut Generator<'_>) {
    let rank = g.rng.pick(&[1, 2, 2, 3]);
    let x = g.float_of(rank, Order::Free);
    let x = if x.t.rank() > 4 { g.param(vec![3, 5], DType::F32) } else { x };
    let x = g.within(x, 4.0);
    let lhs: Vec<Label> = (0..x.t.rank()).map(|i| b'a' + i as u8).collect();
    let extent_of = |l: Label| x.t.dim((l - b'a') as usize);
    let (mut batch, mut free, mut summed) = (Vec::new(), Vec::new(), Vec::new());
    for l in &lhs {
        match g.rng.below(10) {
            0..=1 => batch.push(*l),
            2..=5 => free.push(*l),
            _ => summed.push(*l),
        }
    }
    let k: usize = summed.iter().map(|l| extent_of(*l)).product();
    let siblings = g.rng.pick(&[1, 1, 2, 3]);
    let mut others = Vec::new();
    for i in 0..g.rng.below(3) {
        others.push(b'p' + i as u8);
    }
    let mut rhs: Vec<Label> = batch.iter().chain(&summed).chain(&others).copied().collect();
    g.rng.shuffle(&mut rhs);
    let mut out: Vec<Label> = batch.iter().chain(&free).chain(&others).copied().collect();
    g.rng.shuffle(&mut out);
    for _ in 0..siblings {
        let mut room = MAX_ELEMENTS / batch.iter().chain(&free).map(|l| extent_of(*l)).product::<usize>().max(1);
        let mut shape: Shape = Vec::new();
        for l in &rhs {
            shape.push(if others.contains(l) {
                let limit = room.clamp(1, g.o.max_extent);
                let d = if g.rng.chance(25) { 1 } else { g.rng.range(1, limit) };
                room /= d;
                d
            } else {
                extent_of(*l)
            });
        }
        let y = g.tensor(&shape);
        let y = g.within(y, 4.0);
        let swap = g.rng.chance(30);
        let spec = if swap {
            ContractSpec { lhs: rhs.clone(), rhs: lhs.clone(), out: out.clone() }
        } else {
            ContractSpec { lhs: lhs.clone(), rhs: rhs.clone(), out: out.clone() }
        };
        let t = apply(g, Op::Contract(spec.canonical()), &if swap { [y, x] } else { [x, y] });
        let bound = x.magnitude() * y.magnitude() * k as f64;
        g.push(t, -bound, bound, Order::Free);
    }
}

/// A state with an update, from its old value and the pool.
fn state(g: &mut Generator<'_>) {
    let name = g.fresh("s");
    if g.o.integers && g.rng.chance(40) {
        let old = g.b.state(&name, TensorType::new(DType::I32, []), Init::Zeros, StateRole::Other);
        let new = old + g.b.splat([], Literal::i32(1));
        g.b.update(old, new);
        g.push(old, -8.0, 8.0, Order::Grid);
        return;
    }
    let shape = g.any_shape();
    if !g.o.differentiable && g.take_grid(numel(&shape)) {
        let role = g.rng.pick(&[StateRole::Weight, StateRole::Optimizer, StateRole::Other]);
        let init = g.rng.pick(&[Init::Zeros, Init::Ones, Init::Normal(0.5)]);
        let old = g.b.state(&name, TensorType::f32(shape.clone()), init, role);
        let x = g.tensor(&shape);
        let new = old * 0.5 + x.t;
        g.b.update(old, new);
        let bound = 1.0 + x.magnitude();
        g.push(new, -bound, bound, Order::Free);
        g.push(old, -2.0, 2.0, Order::Grid);
    } else {
        binary(g);
    }
}

fn integer(g: &mut Generator<'_>) {
    let dtype = g.rng.pick(&[DType::I32, DType::I32, DType::U32]);
    let x = g.of(dtype, 0);
    let shape = x.t.shape();
    let y = match g.find(|v| v.is(dtype) && v.t.shape() == shape) {
        Some(y) if g.rng.chance(60) => y,
        _ if g.rng.chance(50) => {
            let c = g.rng.range(0, 3) as f64;
            let t = g.b.splat(shape, Literal::new(dtype, c));
            g.push(t, c, c, Order::Grid)
        }
        _ => g.param(shape, dtype),
    };
    let (lowest, highest) =
        if dtype == DType::I32 { (f64::from(i32::MIN), f64::from(i32::MAX)) } else { (0.0, f64::from(u32::MAX)) };
    let products = [x.lo * y.lo, x.lo * y.hi, x.hi * y.lo, x.hi * y.hi];
    let (t, lo, hi) = match g.rng.below(8) {
        0 => (x.t + y.t, x.lo + y.lo, x.hi + y.hi),
        1 => (x.t - y.t, x.lo - y.hi, x.hi - y.lo),
        2 => {
            let lo = products.iter().copied().fold(f64::INFINITY, f64::min);
            (x.t * y.t, lo, products.iter().copied().fold(f64::NEG_INFINITY, f64::max))
        }
        3 => (x.t.max(y.t), x.lo.max(y.lo), x.hi.max(y.hi)),
        4 => (x.t.min(y.t), x.lo.min(y.lo), x.hi.min(y.hi)),
        5 if dtype == DType::I32 => (-x.t, -x.hi, -x.lo),
        6 if x.t.rank() > 0 => {
            let axes = g.axes(x.t.rank());
            let n = axes.iter().map(|a| x.t.dim(*a)).product::<usize>() as f64;
            (x.t.sum(&axes), x.lo * n, x.hi * n)
        }
        7 if x.t.rank() > 0 => {
            let axes = g.axes(x.t.rank());
            (x.t.reduce_max(&axes), x.lo, x.hi)
        }
        _ => (x.t + y.t, x.lo + y.lo, x.hi + y.hi),
    };
    // What may wrap can be anything.
    let (lo, hi) = if lo < lowest || hi > highest { (lowest, highest) } else { (lo, hi) };
    g.push(t, lo, hi, Order::Grid);
}

fn compare(g: &mut Generator<'_>) {
    let op = g.rng.pick(Compare::ALL);
    let dtype = g.rng.pick(&[DType::F32, DType::F32, DType::I32, DType::U32, DType::Bool]);
    let ordered = !matches!(op, Compare::Eq | Compare::Ne);
    let (x, y) = match dtype {
        DType::Bool if !ordered => {
            let x = g.of(DType::Bool, 0);
            let y = g.param(x.t.shape(), DType::Bool);
            (x, y)
        }
        DType::I32 | DType::U32 => {
            let x = g.of(dtype, 0);
            let shape = x.t.shape();
            let y = g.find(|v| v.is(dtype) && v.t.shape() == shape);
            let y = y.unwrap_or_else(|| g.param(shape, dtype));
            (x, y)
        }
        _ => {
            let x = g.float_of(0, Order::Grid);
            let y = g.mate(x, Order::Grid);
            (x, y)
        }
    };
    let t = match op {
        Compare::Eq => x.t.eq(y.t),
        Compare::Ne => x.t.ne(y.t),
        Compare::Lt => x.t.lt(y.t),
        Compare::Le => x.t.le(y.t),
        Compare::Gt => x.t.gt(y.t),
        Compare::Ge => x.t.ge(y.t),
    };
    g.push(t, 0.0, 1.0, Order::Grid);
}

fn select(g: &mut Generator<'_>) {
    let x = g.float();
    let shape = x.t.shape();
    let cond = match g.find(|v| v.is(DType::Bool) && v.t.shape() == shape) {
        Some(c) => c.t,
        None if g.rng.chance(50) => g.param(shape, DType::Bool).t,
        None => {
            // A mask of positions, as a causal one.
            match shape.len() {
                0 => g.param(shape, DType::Bool).t,
                r => g.b.iota(shape.clone(), DType::I32, 0).ge(g.b.iota(shape, DType::I32, r - 1)),
            }
        }
    };
    let y = g.mate(x, Order::Free);
    let t = cond.select(x.t, y.t);
    let order = if x.order.min(y.order) == Order::Grid { Order::Grid } else { Order::Free };
    g.push(t, x.lo.min(y.lo), x.hi.max(y.hi), order);
}

/// max and min of truth values: or, and.
fn logic(g: &mut Generator<'_>) {
    let x = g.of(DType::Bool, 0);
    let shape = x.t.shape();
    let y = g.find(|v| v.is(DType::Bool) && v.t.shape() == shape).unwrap_or(x);
    let t = if g.rng.chance(50) { x.t.max(y.t) } else { x.t.min(y.t) };
    g.push(t, 0.0, 1.0, Order::Grid);
}

fn cast(g: &mut Generator<'_>) {
    const ALL: [DType; 4] = [DType::F32, DType::I32, DType::U32, DType::Bool];
    let from = g.rng.pick(&ALL);
    let to = g.rng.pick(&ALL);
    let x = if from == DType::F32 { g.float_of(0, Order::Grid) } else { g.of(from, 0) };
    let t = x.t.cast(to);
    let (lo, hi) = match to {
        DType::Bool => (0.0, 1.0),
        DType::F32 => (x.lo, x.hi),
        _ if from == DType::F32 && to == DType::U32 => (x.lo.trunc().max(0.0), x.hi.trunc().max(0.0)),
        DType::U32 if x.lo < 0.0 => (0.0, f64::from(u32::MAX)),
        DType::I32 if x.hi > f64::from(i32::MAX) => (f64::from(i32::MIN), f64::from(i32::MAX)),
        _ => (x.lo.trunc(), x.hi.trunc()),
    };
    // Integers beyond 2^24 round when they become f32.
    let exact = to != DType::F32 || x.magnitude() < 1e7;
    g.push(t, lo, hi, if exact { Order::Grid } else { Order::Free });
}

fn iota(g: &mut Generator<'_>) {
    let rank = g.rng.range(1, 3);
    let shape = g.shape(rank);
    let axis = g.rng.below(rank);
    let dtype = g.rng.pick(&[DType::I32, DType::U32, DType::F32]);
    let last = shape[axis] as f64 - 1.0;
    let t = g.b.iota(shape, dtype, axis);
    g.push(t, 0.0, last, Order::Grid);
}

fn argmax(g: &mut Generator<'_>) {
    let x = g.float_of(1, Order::Grid);
    let axis = g.rng.below(x.t.rank());
    let t = apply(g, Op::Reduce { op: Reduce::ArgMax, axes: vec![axis] }, &[x]);
    g.push(t, 0.0, x.t.dim(axis) as f64 - 1.0, Order::Grid);
}

/// Ids that keep rows of `width` elements within the element limit.
fn id_shape(g: &mut Generator<'_>, width: usize) -> Shape {
    let mut shape: Shape = Vec::new();
    for _ in 0..g.rng.below(3) {
        let room = (MAX_ELEMENTS / width / numel(&shape)).clamp(1, g.o.max_extent);
        shape.push(g.rng.range(1, room));
    }
    shape
}

fn gather(g: &mut Generator<'_>) {
    let table = g.any(1);
    let shape = table.t.shape();
    let at = id_shape(g, numel(&shape[1..]));
    let ids = g.ids(&at, shape[0]);
    let t = table.t.gather(ids);
    g.push(t, table.lo, table.hi, table.order);
}

fn scatter_add(g: &mut Generator<'_>) {
    let base = g.float_of(1, Order::Free);
    let shape = base.t.shape();
    let at = id_shape(g, numel(&shape[1..]));
    let ids = g.ids(&at, shape[0]);
    let full: Shape = at.iter().chain(&shape[1..]).copied().collect();
    let updates = g.tensor(&full);
    let t = base.t.scatter_add(ids, updates.t);
    let most = numel(&at) as f64 * updates.magnitude();
    g.push(t, base.lo - most, base.hi + most, Order::Free);
}

/// Window sizes within `shape`, and a start an axis.
fn window<'g>(g: &mut Generator<'g>, shape: &[usize]) -> (Shape, Vec<T<'g>>) {
    let sizes: Shape = shape.iter().map(|d| g.rng.range(1, *d)).collect();
    let starts = shape.iter().zip(&sizes).map(|(d, s)| g.ids(&[], d - s + 1)).collect();
    (sizes, starts)
}

fn dynamic_slice(g: &mut Generator<'_>) {
    let x = g.any(1);
    let (sizes, starts) = window(g, &x.t.shape());
    let t = x.t.dynamic_slice(&starts, sizes);
    g.push(t, x.lo, x.hi, x.order);
}

fn dynamic_update(g: &mut Generator<'_>) {
    let x = g.float_of(1, Order::Free);
    let (sizes, starts) = window(g, &x.t.shape());
    let u = g.tensor(&sizes);
    let t = x.t.dynamic_update(u.t, &starts);
    let order = if x.order.min(u.order) == Order::Grid { Order::Grid } else { Order::Free };
    g.push(t, x.lo.min(u.lo), x.hi.max(u.hi), order);
}

fn random(g: &mut Generator<'_>) {
    let scalar = |g: &mut Generator<'_>| g.find(|v| v.is(DType::U32) && v.t.rank() == 0).map(|v| v.t.id());
    let seed = scalar(g).flatten().map(|id| g.b.handle(id)).unwrap_or_else(|| g.param([], DType::U32).t);
    let counter = g.param([], DType::U32).t;
    let shape = g.any_shape();
    let stream = g.rng.next() as u32 >> g.rng.range(0, 31);
    let t = g.b.random(seed, counter, stream, shape);
    g.push(t, 0.0, 1.0, Order::Free);
}

/// Through f16 and back.
fn half(g: &mut Generator<'_>) {
    let x = g.float();
    let h = x.t.cast(DType::F16);
    let t = if g.rng.chance(50) { (h + h).cast(DType::F32) } else { h.cast(DType::F32) };
    g.push(t, 2.0 * x.lo.min(0.0), 2.0 * x.hi.max(0.0), Order::Free);
}
