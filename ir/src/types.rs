//! Element types, shapes, tensor types and literals: the static types of graph values.
//!
//! Invariants
//! - A shape is a list of extents, each at least 1; rank 0 is a scalar. Elements are row-major unless a
//!   `Program` buffer says otherwise.
//! - A literal carries its dtype and a value representable in it, held as f64 (i32 and u32 are exact).

use std::fmt;

/// Element type of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    /// IEEE binary32, the working precision.
    F32,
    /// IEEE binary16; storage and arithmetic on targets that have it.
    F16,
    /// Two's complement, wrapping.
    I32,
    /// Unsigned, wrapping.
    U32,
    /// Truth value; stored in four bytes (0 or 1) so that every target can address it.
    Bool,
}

impl DType {
    pub const ALL: [DType; 5] = [DType::F32, DType::F16, DType::I32, DType::U32, DType::Bool];

    pub fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::I32 => "i32",
            DType::U32 => "u32",
            DType::Bool => "bool",
        }
    }

    pub fn parse(s: &str) -> Option<DType> {
        DType::ALL.into_iter().find(|d| d.name() == s)
    }

    pub fn is_float(self) -> bool {
        matches!(self, DType::F32 | DType::F16)
    }

    pub fn is_int(self) -> bool {
        matches!(self, DType::I32 | DType::U32)
    }

    /// Bytes an element takes in a buffer.
    pub fn size(self) -> usize {
        match self {
            DType::F16 => 2,
            _ => 4,
        }
    }

    /// The value nearest to `x` that an integer or boolean of this dtype can hold (wrapping); floats pass
    /// unrounded, because the f64 interpreter is the oracle of every float precision.
    pub fn normalise(self, x: f64) -> f64 {
        match self {
            DType::F32 | DType::F16 => x,
            DType::I32 => (x as i64) as i32 as f64,
            DType::U32 => (x as i64) as u32 as f64,
            DType::Bool => (x != 0.0) as u8 as f64,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Extents of a tensor, outermost first.
pub type Shape = Vec<usize>;

/// Number of elements of a shape; 1 for a scalar.
pub fn numel(shape: &[usize]) -> usize {
    shape.iter().product()
}

/// Row-major strides in elements.
pub fn row_major(shape: &[usize]) -> Vec<i64> {
    let mut strides = vec![1i64; shape.len()];
    for d in (0..shape.len().saturating_sub(1)).rev() {
        strides[d] = strides[d + 1] * shape[d + 1] as i64;
    }
    strides
}

/// Dtype and shape of one graph value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct TensorType {
    pub dtype: DType,
    pub shape: Shape,
}

impl TensorType {
    pub fn new(dtype: DType, shape: impl Into<Shape>) -> Self {
        TensorType { dtype, shape: shape.into() }
    }

    pub fn f32(shape: impl Into<Shape>) -> Self {
        Self::new(DType::F32, shape)
    }

    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    pub fn numel(&self) -> usize {
        numel(&self.shape)
    }

    pub fn bytes(&self) -> usize {
        self.numel() * self.dtype.size()
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[", self.dtype)?;
        for (i, d) in self.shape.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            write!(f, "{d}")?;
        }
        f.write_str("]")
    }
}

/// A typed constant.
#[derive(Clone, Copy, Debug)]
pub struct Literal {
    pub dtype: DType,
    pub value: f64,
}

impl Literal {
    /// `value` normalised to `dtype`; floats are rounded to the precision a target stores.
    pub fn new(dtype: DType, value: f64) -> Self {
        Literal { dtype, value: dtype.normalise(value) }
    }

    pub fn f32(value: f64) -> Self {
        Self::new(DType::F32, value)
    }

    pub fn i32(value: i32) -> Self {
        Self::new(DType::I32, value as f64)
    }

    /// Key for hashing and equality: distinguishes -0 from 0, treats every NaN as one value.
    fn key(self) -> (DType, u64) {
        let bits = if self.value.is_nan() { f64::NAN.to_bits() } else { self.value.to_bits() };
        (self.dtype, bits)
    }

    pub fn is(self, value: f64) -> bool {
        self.value == value
    }
}

impl PartialEq for Literal {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}
impl Eq for Literal {}
impl std::hash::Hash for Literal {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.key().hash(state)
    }
}

/// Prints the shortest decimal that reads back as the same f64; `inf`, `-inf`, `nan` for the rest.
impl fmt::Display for Literal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.dtype {
            DType::Bool => f.write_str(if self.value != 0.0 { "true" } else { "false" }),
            DType::I32 | DType::U32 => write!(f, "{}", self.value as i64),
            _ if self.value.is_nan() => f.write_str("nan"),
            _ if self.value.is_infinite() => f.write_str(if self.value > 0.0 { "inf" } else { "-inf" }),
            _ => write!(f, "{:?}", self.value),
        }
    }
}

/// Declares a newtyped u32 index into an arena.
#[macro_export]
macro_rules! entity {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub u32);

        impl $name {
            pub fn index(self) -> usize {
                self.0 as usize
            }
        }
        impl $crate::types::Entity for $name {
            fn to_usize(self) -> usize {
                self.0 as usize
            }
            fn of_usize(i: usize) -> Self {
                $name(u32::try_from(i).expect("arenas hold fewer than 2^32 entities"))
            }
        }
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Display::fmt(self, f)
            }
        }
    };
}

/// A growable table addressed by a newtyped index, never by pointer.
#[derive(Clone, PartialEq, Debug)]
pub struct Arena<I, T> {
    items: Vec<T>,
    index: std::marker::PhantomData<I>,
}

impl<I, T> Default for Arena<I, T> {
    fn default() -> Self {
        Arena { items: Vec::new(), index: std::marker::PhantomData }
    }
}

/// Newtyped indices that an [`Arena`] accepts.
pub trait Entity: Copy {
    fn to_usize(self) -> usize;
    fn of_usize(i: usize) -> Self;
}

impl<I: Entity, T> Arena<I, T> {
    pub fn push(&mut self, item: T) -> I {
        self.items.push(item);
        I::of_usize(self.items.len() - 1)
    }
    pub fn len(&self) -> usize {
        self.items.len()
    }
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
    pub fn get(&self, i: I) -> Option<&T> {
        self.items.get(i.to_usize())
    }
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (I, &T)> + DoubleEndedIterator {
        self.items.iter().enumerate().map(|(i, t)| (I::of_usize(i), t))
    }
    pub fn ids(&self) -> impl ExactSizeIterator<Item = I> + DoubleEndedIterator + use<I, T> {
        (0..self.items.len()).map(I::of_usize)
    }
    pub fn values_mut(&mut self) -> std::slice::IterMut<'_, T> {
        self.items.iter_mut()
    }
    pub fn values(&self) -> std::slice::Iter<'_, T> {
        self.items.iter()
    }
}

impl<I: Entity, T> std::ops::Index<I> for Arena<I, T> {
    type Output = T;
    fn index(&self, i: I) -> &T {
        &self.items[i.to_usize()]
    }
}
impl<I: Entity, T> std::ops::IndexMut<I> for Arena<I, T> {
    fn index_mut(&mut self, i: I) -> &mut T {
        &mut self.items[i.to_usize()]
    }
}
