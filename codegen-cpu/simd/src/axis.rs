//! Where the elements of one dimension lie.

/// The element offsets of one dimension of an operand, which may be several tensor dimensions merged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Axis {
    /// Element `i` at `i * stride`.
    Strided { len: usize, stride: isize },
    /// Element `i` at the `i`-th offset.
    Table(Box<[isize]>),
}

impl Axis {
    pub fn strided(len: usize, stride: isize) -> Axis {
        Axis::Strided { len, stride }
    }

    /// An axis of arbitrary offsets. Evenly spaced ones that start at 0 become [`Axis::Strided`], which is faster.
    pub fn table(offsets: impl Into<Box<[isize]>>) -> Axis {
        Axis::Table(offsets.into()).simplified()
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Axis::Strided { len, .. } => *len,
            Axis::Table(offsets) => offsets.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Offset of element `i`, in elements.
    #[inline(always)]
    pub fn offset(&self, i: usize) -> isize {
        match self {
            Axis::Strided { stride, .. } => i as isize * stride,
            Axis::Table(offsets) => offsets[i],
        }
    }

    /// The same offsets as [`Axis::Strided`] where they are evenly spaced from 0.
    pub(crate) fn simplified(self) -> Axis {
        let Axis::Table(offsets) = &self else { return self };
        let stride = if offsets.len() > 1 { offsets[1] } else { 1 };
        let even = offsets.iter().enumerate().all(|(i, &offset)| offset == i as isize * stride);
        if even { Axis::Strided { len: offsets.len(), stride } } else { self }
    }

    /// Whether elements `start .. start + len` lie side by side.
    #[inline(always)]
    pub(crate) fn is_contiguous(&self, start: usize, len: usize) -> bool {
        match self {
            Axis::Strided { stride, .. } => *stride == 1 || len <= 1,
            Axis::Table(offsets) => offsets[start..start + len].windows(2).all(|pair| pair[1] == pair[0] + 1),
        }
    }

    /// The stride, unless this is a table.
    pub fn stride(&self) -> Option<isize> {
        match self {
            Axis::Strided { stride, .. } => Some(*stride),
            Axis::Table(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn even_tables_become_strided() {
        assert_eq!(Axis::table([0, 3, 6]), Axis::strided(3, 3));
        assert_eq!(Axis::table([0]), Axis::strided(1, 1));
        assert_eq!(Axis::table([1, 2, 3]), Axis::Table([1, 2, 3].into()));
        let table = Axis::table([0, 1, 2, 10, 11]);
        assert!(table.is_contiguous(0, 3) && !table.is_contiguous(1, 3) && table.is_contiguous(3, 2));
    }
}
