//! Scalar bodies: what a kernel computes at one point of its index space.
//!
//! Terms
//! - The *space* of a body is a list of extents; a point of it is one index an axis.
//! - An [`Affine`] map sends a point to an integer: offset + sum of coefficient * index.
//! - An [`Access`] sends a point to an element of an argument's buffer: an affine map plus *indirect* terms whose index is a
//!   computed scalar, clamped to its extent. So a gather, a padded edge, a dynamic window and a concatenation are all loads.
//!
//! Invariants
//! - Scalars are SSA: operands have smaller ids. Each scalar has a dtype; operands agree as the graph ops of the same names require.
//! - Every access lies within its buffer for every point of the space (indirect terms at 0 and at extent - 1 included):
//!   the verifier proves it, so backends need no bounds checks.

use crate::entity;
use crate::op::{Binary, Compare, Unary};
use crate::types::{Arena, DType, Literal};

entity! {
    /// A scalar of a body.
    ScalarId, "%"
}
entity! {
    /// An argument of a kernel: a position in its argument list.
    ArgId, "a"
}

/// An integer affine function of a point of the space.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Affine {
    pub offset: i64,
    /// One coefficient an axis of the space.
    pub coeffs: Vec<i64>,
}

impl Affine {
    pub fn constant(rank: usize, offset: i64) -> Affine {
        Affine { offset, coeffs: vec![0; rank] }
    }

    /// The index along `axis`.
    pub fn axis(rank: usize, axis: usize) -> Affine {
        let mut a = Affine::constant(rank, 0);
        a.coeffs[axis] = 1;
        a
    }

    /// self + scale * other
    pub fn plus(&self, other: &Affine, scale: i64) -> Affine {
        Affine {
            offset: self.offset + scale * other.offset,
            coeffs: self.coeffs.iter().zip(&other.coeffs).map(|(a, b)| a + scale * b).collect(),
        }
    }

    pub fn is_constant(&self) -> bool {
        self.coeffs.iter().all(|c| *c == 0)
    }

    pub fn at(&self, point: &[usize]) -> i64 {
        self.offset + self.coeffs.iter().zip(point).map(|(c, i)| c * *i as i64).sum::<i64>()
    }

    /// Smallest and largest value over the space.
    pub fn range(&self, space: &[usize]) -> (i64, i64) {
        self.coeffs.iter().zip(space).fold((self.offset, self.offset), |(lo, hi), (c, n)| {
            let reach = c * (*n as i64 - 1);
            (lo + reach.min(0), hi + reach.max(0))
        })
    }
}

/// A term of an access whose index is computed: stride * clamp(index, 0, extent - 1).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Indirect {
    /// An i32 scalar of the same body.
    pub index: ScalarId,
    /// In elements.
    pub stride: i64,
    pub extent: usize,
}

/// Where a load or store finds its element, in elements of the argument's buffer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Access {
    pub arg: ArgId,
    pub at: Affine,
    pub indirect: Vec<Indirect>,
}

impl Access {
    pub fn direct(arg: ArgId, offset: i64, strides: Vec<i64>) -> Access {
        Access { arg, at: Affine { offset, coeffs: strides }, indirect: Vec::new() }
    }

    /// Smallest and largest element touched over the space.
    pub fn range(&self, space: &[usize]) -> (i64, i64) {
        self.indirect.iter().fold(self.at.range(space), |(lo, hi), i| {
            let reach = i.stride * (i.extent as i64 - 1);
            (lo + reach.min(0), hi + reach.max(0))
        })
    }
}

/// One scalar operation.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
pub enum ScalarOp {
    Const(Literal),
    /// The element of the argument at this point, of the buffer's dtype.
    Load(Access),
    /// An affine function of the point, as i32.
    Index(Affine),
    /// Result of the kernel's i-th reduction, or of its contraction (0).
    Acc(u32),
    Unary(Unary, ScalarId),
    Binary(Binary, ScalarId, ScalarId),
    Compare(Compare, ScalarId, ScalarId),
    Select(ScalarId, ScalarId, ScalarId),
    /// Converts to the scalar's dtype by the rules of the graph's `cast`.
    Cast(ScalarId),
    /// Uniform f32 in [0,1) of [`crate::op::random_bits`] (seed, counter, stream, index), from its upper 24 bits.
    Random {
        seed: ScalarId,
        counter: ScalarId,
        stream: u32,
        index: ScalarId,
    },
}

impl ScalarOp {
    /// The scalars it reads, indices of indirect accesses included.
    pub fn operands(&self) -> Vec<ScalarId> {
        match self {
            ScalarOp::Const(_) | ScalarOp::Index(_) | ScalarOp::Acc(_) => vec![],
            ScalarOp::Load(a) => a.indirect.iter().map(|i| i.index).collect(),
            ScalarOp::Unary(_, x) | ScalarOp::Cast(x) => vec![*x],
            ScalarOp::Binary(_, x, y) | ScalarOp::Compare(_, x, y) => vec![*x, *y],
            ScalarOp::Select(c, x, y) => vec![*c, *x, *y],
            ScalarOp::Random { seed, counter, index, .. } => vec![*seed, *counter, *index],
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Scalar {
    pub op: ScalarOp,
    pub dtype: DType,
}

/// A DAG of scalars over an index space.
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Body {
    pub scalars: Arena<ScalarId, Scalar>,
}

impl Body {
    /// Adds a scalar, or returns the equal one that is there (local value numbering).
    pub fn push(&mut self, op: ScalarOp, dtype: DType) -> ScalarId {
        let scalar = Scalar { op, dtype };
        let known = self.scalars.iter().find(|(_, s)| **s == scalar).map(|(id, _)| id);
        known.unwrap_or_else(|| self.scalars.push(scalar))
    }

    /// Every access that loads, in order.
    pub fn loads(&self) -> impl Iterator<Item = &Access> {
        self.scalars.values().filter_map(|s| match &s.op {
            ScalarOp::Load(a) => Some(a),
            _ => None,
        })
    }

    /// For each scalar, whether it (or anything it is computed from) satisfies `leaf`.
    pub fn depends(&self, leaf: impl Fn(&ScalarOp) -> bool) -> Vec<bool> {
        let mut out: Vec<bool> = Vec::with_capacity(self.scalars.len());
        for (_, s) in self.scalars.iter() {
            let d = leaf(&s.op) || s.op.operands().iter().any(|o| out[o.index()]);
            out.push(d);
        }
        out
    }
}

/// Writes a scalar at every point (or, in a reduce kernel, at every row: see there). No two points write one element.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Store {
    /// With indirect terms only where a pointwise kernel replaces a *window* of a state: one row of a key/value cache. Their indices
    /// are the same at every point, so they move the window as a whole.
    pub access: Access,
    pub value: ScalarId,
}

impl Store {
    /// The scalars it needs: the value, and the indices of the window's place.
    pub fn operands(&self) -> impl Iterator<Item = ScalarId> {
        std::iter::once(self.value).chain(self.access.indirect.iter().map(|i| i.index))
    }
}
