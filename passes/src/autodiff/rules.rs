//! The gradient table: for each primitive, how the cotangent of its result becomes cotangents of its operands.
//!
//! In the equations, g is the cotangent of the result y, and x, or a and b, are the operands. The rules are vector-Jacobian
//! products (Griewank and Walther 2008, chapter 3).
//!
//! Where a function has no derivative
//! - `max` and `min` of two operands pass g to the operand that the result was taken from (on a tie: the first).
//! - `reduce_max` shares g equally among the elements equal to the largest (as JAX and PyTorch's `amax` do).
//! - Both are subgradients, so sums over ties are right in either convention.

use tinygpt_ir::op::{Binary, ContractSpec, Reduce, Unary};
use tinygpt_ir::{Builder, Literal, Op, T};

use super::composites;

/// One node at which a cotangent has arrived.
pub(super) struct Site<'g> {
    pub b: &'g Builder,
    /// Operands of the node.
    pub x: Vec<T<'g>>,
    /// Its result.
    pub y: T<'g>,
    /// Cotangent of the result.
    pub g: T<'g>,
    /// Which operands need a cotangent.
    pub wanted: Vec<bool>,
}

impl<'g> Site<'g> {
    /// The contribution to operand `i`, built only if it is wanted.
    pub fn to(&self, i: usize, contribution: impl FnOnce() -> T<'g>) -> Option<T<'g>> {
        self.wanted[i].then(contribution)
    }

    /// Zeros of the type of `like`.
    fn zeros(&self, like: T<'g>) -> T<'g> {
        self.b.splat(like.shape(), Literal::new(like.dtype(), 0.0))
    }
}

/// What a rule yields: a contribution for each wanted operand, or why there can be none.
pub(super) enum Cotangents<'g> {
    Of(Vec<Option<T<'g>>>),
    None(&'static str),
}

/// The table. Exhaustive, so that a primitive without an entry does not compile.
pub(super) fn pull<'g>(op: &Op, s: &Site<'g>) -> Cotangents<'g> {
    use Cotangents::{None as No, Of};
    let (x, g) = (&s.x, s.g);
    match op {
        // Its cotangent is the gradient asked for.
        Op::Param(_) => Of(Vec::new()),
        Op::Unary(u) => Of(vec![s.to(0, || unary(*u, s))]),
        Op::Binary(op) => binary(*op, s),
        Op::Compare(_) => No("its result is a truth value"),
        // y = c ? a : b
        Op::Select => Of(vec![None, s.to(1, || x[0].select(g, 0.0)), s.to(2, || x[0].select(s.zeros(g), g))]),
        Op::Cast(_) => Of(vec![s.to(0, || g.cast(x[0].dtype()))]),
        Op::Iota { .. } | Op::Splat { .. } => No("it is a constant"),
        Op::Reduce { op, axes } => match op {
            // dy/dx = 1 for every summed element
            Reduce::Sum => Of(vec![s.to(0, || g.broadcast_to(x[0].shape()))]),
            Reduce::Max => Of(vec![s.to(0, || {
                let largest = x[0].eq(s.y);
                let share = g / largest.cast(g.dtype()).sum(axes);
                largest.select(share, 0.0)
            })]),
            Reduce::ArgMax => No("its result is an index"),
        },
        Op::Broadcast { shape } => Of(vec![s.to(0, || {
            let from = x[0].shape();
            let stretched: Vec<usize> = (0..from.len()).filter(|d| from[*d] != shape[*d]).collect();
            g.sum(&stretched)
        })]),
        Op::Reshape { .. } => Of(vec![s.to(0, || g.reshape(x[0].shape()))]),
        Op::Transpose { perm } => Of(vec![s.to(0, || {
            let mut inverse = vec![0; perm.len()];
            perm.iter().enumerate().for_each(|(i, p)| inverse[*p] = i);
            g.transpose(inverse)
        })]),
        Op::Slice { start, end } => Of(vec![s.to(0, || {
            let high: Vec<usize> = x[0].shape().iter().zip(end).map(|(d, e)| d - e).collect();
            g.pad(start.clone(), high, 0.0)
        })]),
        Op::Pad { low, .. } => Of(vec![s.to(0, || {
            let end: Vec<usize> = low.iter().zip(x[0].shape()).map(|(l, d)| l + d).collect();
            g.slice(low.clone(), end)
        })]),
        Op::Concat { axis } => {
            let mut start = 0;
            let part = |(i, part): (usize, &T<'g>)| {
                let from = start;
                start += part.dim(*axis);
                s.to(i, || g.slice_axis(*axis, from, start))
            };
            Of(x.iter().enumerate().map(part).collect())
        }
        // y = sum a b: da = sum g b, db = sum g a, over the labels that the operand does not have.
        Op::Contract(ContractSpec { lhs, rhs, out }) => {
            let exchanged = |other: &[u8], to: &[u8], operand: T<'g>| {
                let spec = ContractSpec { lhs: out.clone(), rhs: other.to_vec(), out: to.to_vec() };
                s.b.node(Op::Contract(spec.canonical()), &[g, operand])
            };
            Of(vec![s.to(0, || exchanged(rhs, lhs, x[1])), s.to(1, || exchanged(lhs, rhs, x[0]))])
        }
        Op::Gather => Of(vec![s.to(0, || s.zeros(x[0]).scatter_add(x[1], g)), None]),
        Op::ScatterAdd => Of(vec![s.to(0, || g), None, s.to(2, || g.gather(x[1]))]),
        Op::DynamicSlice { .. } => {
            let starts = &x[1..];
            let mut all = vec![None; x.len()];
            all[0] = s.to(0, || s.zeros(x[0]).dynamic_update(g, starts));
            Of(all)
        }
        Op::DynamicUpdate => {
            let starts = &x[2..];
            let mut all = vec![None; x.len()];
            all[0] = s.to(0, || g.dynamic_update(s.zeros(x[1]), starts));
            all[1] = s.to(1, || g.dynamic_slice(starts, x[1].shape()));
            Of(all)
        }
        Op::Random { .. } => No("its operands are integers"),
        Op::Composite(c) => composites::pull(c, s),
    }
}

fn unary<'g>(u: Unary, s: &Site<'g>) -> T<'g> {
    let (x, y, g) = (s.x[0], s.y, s.g);
    match u {
        Unary::Neg => -g,
        Unary::Exp => g * y,
        Unary::Log => g / x,
        // 1 / (2 sqrt x)
        Unary::Sqrt => g * 0.5 / y,
        // -x^(-3/2) / 2
        Unary::Rsqrt => g * (y * y * y * -0.5),
        // -1 / x^2
        Unary::Recip => -(g * (y * y)),
        Unary::Tanh => g * (1.0 - y * y),
        // 2 / sqrt(pi) e^(-x^2)
        Unary::Erf => g * ((-(x * x)).exp() * std::f64::consts::FRAC_2_SQRT_PI),
        Unary::Sin => g * x.cos(),
        Unary::Cos => -(g * x.sin()),
    }
}

fn binary<'g>(op: Binary, s: &Site<'g>) -> Cotangents<'g> {
    let (a, b, g) = (s.x[0], s.x[1], s.g);
    let zero = || s.zeros(g);
    Cotangents::Of(match op {
        Binary::Add => vec![s.to(0, || g), s.to(1, || g)],
        Binary::Sub => vec![s.to(0, || g), s.to(1, || -g)],
        Binary::Mul => vec![s.to(0, || g * b), s.to(1, || g * a)],
        // d(a/b)/da = 1/b, d(a/b)/db = -y/b
        Binary::Div => vec![s.to(0, || g / b), s.to(1, || -(g * s.y / b))],
        Binary::Max => vec![s.to(0, || a.lt(b).select(zero(), g)), s.to(1, || a.lt(b).select(g, 0.0))],
        Binary::Min => vec![s.to(0, || b.lt(a).select(zero(), g)), s.to(1, || b.lt(a).select(g, 0.0))],
    })
}
