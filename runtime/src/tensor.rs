//! Host tensors: what crosses the border between an executor and the rest of the program.
//!
//! Invariants:
//! - elements are dense, row-major, and exactly as many as the product of the shape (checked when one is made);
//! - a tensor's type and shape never change after it is made, so a caller fills it in place and writes it again and
//!   again without allocating;
//! - f16 is kept as its IEEE 754 binary16 bits: the host does no arithmetic on it.

use crate::{Error, Result};
use std::fmt;

#[cfg(target_endian = "big")]
compile_error!("host tensors are stored and written to files in little-endian order");

/// Element type of a host tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DType {
    F32,
    F16,
    I32,
    U32,
    Bool,
}

impl DType {
    /// Bytes an element takes.
    pub fn size(self) -> usize {
        match self {
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::F16 => 2,
            Self::Bool => 1,
        }
    }
}

impl From<tinygpt_ir::DType> for DType {
    fn from(dtype: tinygpt_ir::DType) -> Self {
        match dtype {
            tinygpt_ir::DType::F32 => Self::F32,
            tinygpt_ir::DType::F16 => Self::F16,
            tinygpt_ir::DType::I32 => Self::I32,
            tinygpt_ir::DType::U32 => Self::U32,
            tinygpt_ir::DType::Bool => Self::Bool,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::I32 => "i32",
            Self::U32 => "u32",
            Self::Bool => "bool",
        })
    }
}

/// Prints a type the way messages and listings show it: `f32[16,64]`, and `f32[]` for a scalar.
pub fn type_name(dtype: DType, shape: &[usize]) -> String {
    let sizes: Vec<String> = shape.iter().map(usize::to_string).collect();
    format!("{dtype}[{}]", sizes.join(","))
}

/// The elements of a host tensor.
#[derive(Debug, Clone, PartialEq)]
pub enum HostData {
    F32(Vec<f32>),
    /// binary16 bits
    F16(Vec<u16>),
    I32(Vec<i32>),
    U32(Vec<u32>),
    Bool(Vec<bool>),
}

impl HostData {
    fn len(&self) -> usize {
        match self {
            Self::F32(v) => v.len(),
            Self::F16(v) => v.len(),
            Self::I32(v) => v.len(),
            Self::U32(v) => v.len(),
            Self::Bool(v) => v.len(),
        }
    }
}

/// A dense row-major tensor in host memory.
#[derive(Debug, Clone, PartialEq)]
pub struct HostTensor {
    shape: Vec<usize>,
    data: HostData,
}

/// Accessors of one element type: constructor, checked borrow, checked mutable borrow.
macro_rules! element_type {
    ($new:ident, $get:ident, $get_mut:ident, $variant:ident, $element:ty) => {
        /// A tensor of these elements; an error when their number is not the product of `shape`.
        pub fn $new(shape: &[usize], data: Vec<$element>) -> Result<Self> {
            Self::new(shape, HostData::$variant(data))
        }

        /// The elements; an error when the tensor holds another type.
        pub fn $get(&self) -> Result<&[$element]> {
            match &self.data {
                HostData::$variant(v) => Ok(v),
                _ => Err(self.holds_another(DType::$variant)),
            }
        }

        /// The elements, to fill in place; an error when the tensor holds another type.
        pub fn $get_mut(&mut self) -> Result<&mut [$element]> {
            let found = self.dtype();
            match &mut self.data {
                HostData::$variant(v) => Ok(v),
                _ => Err(Error::input(format!("the tensor holds {found}, and {} was asked for", DType::$variant))),
            }
        }
    };
}

impl HostTensor {
    element_type!(f32, as_f32, as_f32_mut, F32, f32);
    element_type!(f16_bits, as_f16_bits, as_f16_bits_mut, F16, u16);
    element_type!(i32, as_i32, as_i32_mut, I32, i32);
    element_type!(u32, as_u32, as_u32_mut, U32, u32);
    element_type!(bool, as_bool, as_bool_mut, Bool, bool);

    /// A tensor of `data`; an error when its length is not the product of `shape`.
    pub fn new(shape: &[usize], data: HostData) -> Result<Self> {
        let expected = element_count(shape)
            .ok_or_else(|| Error::input(format!("the shape {shape:?} has more elements than memory can hold")))?;
        if data.len() != expected {
            return Err(Error::input(format!(
                "a tensor of shape {shape:?} needs {expected} elements, and {} were given",
                data.len()
            )));
        }
        Ok(Self { shape: shape.to_vec(), data })
    }

    /// A tensor of zeros (`false` for bool); an error when the shape is larger than memory can address.
    pub fn zeros(dtype: DType, shape: &[usize]) -> Result<Self> {
        let n = element_count(shape)
            .ok_or_else(|| Error::input(format!("the shape {shape:?} has more elements than memory can hold")))?;
        let data = match dtype {
            DType::F32 => HostData::F32(vec![0.0; n]),
            DType::F16 => HostData::F16(vec![0; n]),
            DType::I32 => HostData::I32(vec![0; n]),
            DType::U32 => HostData::U32(vec![0; n]),
            DType::Bool => HostData::Bool(vec![false; n]),
        };
        Ok(Self { shape: shape.to_vec(), data })
    }

    /// A scalar f32 (shape `[]`).
    pub fn scalar_f32(value: f32) -> Self {
        Self { shape: Vec::new(), data: HostData::F32(vec![value]) }
    }

    pub fn dtype(&self) -> DType {
        match &self.data {
            HostData::F32(_) => DType::F32,
            HostData::F16(_) => DType::F16,
            HostData::I32(_) => DType::I32,
            HostData::U32(_) => DType::U32,
            HostData::Bool(_) => DType::Bool,
        }
    }

    /// The elements, whatever their type.
    pub fn data(&self) -> &HostData {
        &self.data
    }

    /// The elements, to fill in place. Their number and type stay.
    pub(crate) fn data_mut(&mut self) -> &mut HostData {
        &mut self.data
    }

    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.data.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// `f32[16,64]`
    pub fn type_name(&self) -> String {
        type_name(self.dtype(), &self.shape)
    }

    /// The elements as little-endian bytes, borrowed.
    pub fn bytes(&self) -> &[u8] {
        match &self.data {
            HostData::F32(v) => bytemuck::cast_slice(v),
            HostData::F16(v) => bytemuck::cast_slice(v),
            HostData::I32(v) => bytemuck::cast_slice(v),
            HostData::U32(v) => bytemuck::cast_slice(v),
            HostData::Bool(v) => bytemuck::cast_slice(v),
        }
    }

    /// A tensor from little-endian bytes of any alignment; an error when their number does not fit the shape.
    pub fn from_bytes(dtype: DType, shape: &[usize], bytes: &[u8]) -> Result<Self> {
        let mut tensor = Self::zeros_checked(dtype, shape, bytes.len())?;
        tensor.fill_from_bytes(bytes);
        Ok(tensor)
    }

    /// Replaces the elements by those of little-endian bytes of any alignment, as many as the elements take. Does not allocate.
    pub(crate) fn fill_from_bytes(&mut self, bytes: &[u8]) {
        match &mut self.data {
            HostData::F32(v) => bytemuck::cast_slice_mut(v).copy_from_slice(bytes),
            HostData::F16(v) => bytemuck::cast_slice_mut(v).copy_from_slice(bytes),
            HostData::I32(v) => bytemuck::cast_slice_mut(v).copy_from_slice(bytes),
            HostData::U32(v) => bytemuck::cast_slice_mut(v).copy_from_slice(bytes),
            // Any non-zero byte is true: a bool may hold nothing but 0 and 1.
            HostData::Bool(v) => v.iter_mut().zip(bytes).for_each(|(b, byte)| *b = *byte != 0),
        }
    }

    /// Zeros, after a check that `bytes` is the size they take, so that no file can ask for memory it does not fill.
    fn zeros_checked(dtype: DType, shape: &[usize], bytes: usize) -> Result<Self> {
        let expected = element_count(shape).and_then(|n| n.checked_mul(dtype.size()));
        if expected != Some(bytes) {
            return Err(Error::input(format!(
                "{} does not take {bytes} bytes, which is what was given",
                type_name(dtype, shape)
            )));
        }
        Self::zeros(dtype, shape)
    }

    /// Copies the elements of `from`, which must have this tensor's type and shape. Does not allocate.
    pub fn copy_from(&mut self, from: &HostTensor) -> Result<()> {
        if self.shape != from.shape || self.dtype() != from.dtype() {
            return Err(Error::input(format!(
                "expected a tensor {}, and found {}",
                self.type_name(),
                from.type_name()
            )));
        }
        match (&mut self.data, &from.data) {
            (HostData::F32(to), HostData::F32(from)) => to.copy_from_slice(from),
            (HostData::F16(to), HostData::F16(from)) => to.copy_from_slice(from),
            (HostData::I32(to), HostData::I32(from)) => to.copy_from_slice(from),
            (HostData::U32(to), HostData::U32(from)) => to.copy_from_slice(from),
            (HostData::Bool(to), HostData::Bool(from)) => to.copy_from_slice(from),
            _ => unreachable!("the types were compared above"),
        }
        Ok(())
    }

    fn holds_another(&self, wanted: DType) -> Error {
        Error::input(format!("the tensor holds {}, and {wanted} was asked for", self.dtype()))
    }
}

/// Product of a shape, or nothing on overflow.
fn element_count(shape: &[usize]) -> Option<usize> {
    let n = shape.iter().try_fold(1usize, |n, size| n.checked_mul(*size))?;
    // A Vec holds at most isize::MAX bytes, and the widest element takes four.
    (n <= isize::MAX as usize / 4).then_some(n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_and_types_are_checked() {
        let error = HostTensor::f32(&[2, 3], vec![0.0; 5]).unwrap_err().to_string();
        assert_eq!(error, "a tensor of shape [2, 3] needs 6 elements, and 5 were given");
        let mut ids = HostTensor::i32(&[2], vec![1, 2]).unwrap();
        assert_eq!(ids.as_f32().unwrap_err().to_string(), "the tensor holds i32, and f32 was asked for");
        ids.as_i32_mut().unwrap()[1] = 7;
        assert_eq!(ids.as_i32().unwrap(), [1, 7]);
        assert_eq!(ids.type_name(), "i32[2]");
        assert_eq!(HostTensor::scalar_f32(1.5).type_name(), "f32[]");
        assert!(HostTensor::zeros(DType::F32, &[usize::MAX, 2]).is_err());
    }

    #[test]
    fn bytes_round_trip_for_every_type_and_alignment() {
        let tensors = [
            HostTensor::f32(&[2, 2], vec![1.0, -2.5, f32::INFINITY, 3e-40]).unwrap(),
            HostTensor::f16_bits(&[3], vec![0x3c00, 0xffff, 1]).unwrap(),
            HostTensor::i32(&[2], vec![i32::MIN, 5]).unwrap(),
            HostTensor::u32(&[1, 2], vec![u32::MAX, 0]).unwrap(),
            HostTensor::bool(&[3], vec![true, false, true]).unwrap(),
            HostTensor::f32(&[0, 4], vec![]).unwrap(),
        ];
        for tensor in tensors {
            let mut shifted = vec![0u8];
            shifted.extend(tensor.bytes());
            let back = HostTensor::from_bytes(tensor.dtype(), tensor.shape(), &shifted[1..]).unwrap();
            assert_eq!(back.bytes(), tensor.bytes());
            assert_eq!(back.type_name(), tensor.type_name());
            assert!(
                HostTensor::from_bytes(tensor.dtype(), tensor.shape(), &vec![0; tensor.bytes().len() + 1]).is_err()
            );
        }
    }

    #[test]
    fn copies_only_between_equal_types() {
        let mut to = HostTensor::zeros(DType::U32, &[2]).unwrap();
        to.copy_from(&HostTensor::u32(&[2], vec![3, 4]).unwrap()).unwrap();
        assert_eq!(to.as_u32().unwrap(), [3, 4]);
        let error = to.copy_from(&HostTensor::i32(&[2], vec![3, 4]).unwrap()).unwrap_err().to_string();
        assert_eq!(error, "expected a tensor u32[2], and found i32[2]");
        assert!(to.copy_from(&HostTensor::u32(&[1, 2], vec![3, 4]).unwrap()).is_err());
    }
}
