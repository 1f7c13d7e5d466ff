//! Safetensors files: named host tensors and a string map, read and written.
//!
//! The format (huggingface/safetensors, README "Format"): a u64 length, a JSON header of that length, then the bytes of
//! all tensors without gaps. Invariants:
//! - **Equal content gives equal bytes.** Keys are sorted. That is why the header is written here: the crate keeps the
//!   string map in a `HashMap`, whose order differs from run to run as soon as it has two entries.
//! - **No file can panic the reader.** The crate checks the header; every range is checked again when it is cut, and
//!   sizes are compared with the bytes there before memory is asked for.

use crate::error::one_line;
use crate::tensor::{DType, HostTensor};
use crate::{Error, Result};
use safetensors::{Dtype, SafeTensors};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

/// Tensors by name, in the order of names.
pub type Tensors = BTreeMap<String, HostTensor>;

/// Writes `tensors` and `metadata` to a new file at `path` and syncs it to disk.
pub fn write<'a>(
    path: &Path,
    tensors: impl IntoIterator<Item = (String, &'a HostTensor)>,
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    let write = || -> std::io::Result<()> {
        let mut file = BufWriter::new(File::create_new(path)?);
        encode(tensors, metadata, |part| file.write_all(part))?;
        file.into_inner()?.sync_all()
    };
    write().map_err(|e| Error::writing(path, e))
}

/// The same file in memory.
pub fn to_bytes<'a>(
    tensors: impl IntoIterator<Item = (String, &'a HostTensor)>,
    metadata: &BTreeMap<String, String>,
) -> Vec<u8> {
    let mut bytes = Vec::new();
    let Ok(()) = encode(tensors, metadata, |part| {
        bytes.extend_from_slice(part);
        Ok::<(), std::convert::Infallible>(())
    });
    bytes
}

/// Hands the parts of a file to `write`, in order.
fn encode<'a, E>(
    tensors: impl IntoIterator<Item = (String, &'a HostTensor)>,
    metadata: &BTreeMap<String, String>,
    mut write: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let mut tensors: Vec<_> = tensors.into_iter().collect();
    // Wide elements first keeps every tensor aligned to its own element.
    tensors.sort_by(|(a, x), (b, y)| y.dtype().size().cmp(&x.dtype().size()).then(a.cmp(b)));
    let mut header = serde_json::Map::new();
    header.insert("__metadata__".into(), serde_json::json!(metadata));
    let mut at = 0;
    for (name, tensor) in &tensors {
        let end = at + tensor.bytes().len();
        let info = serde_json::json!({
            "dtype": file_type(tensor.dtype()),
            "shape": tensor.shape(),
            "data_offsets": [at, end],
        });
        header.insert(name.clone(), info);
        at = end;
    }
    let mut header = serde_json::Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    write(&(header.len() as u64).to_le_bytes())?;
    write(&header)?;
    tensors.iter().try_for_each(|(_, tensor)| write(tensor.bytes()))
}

/// A file in memory whose header was checked.
pub struct TensorFile {
    name: String,
    bytes: Vec<u8>,
    data_at: usize,
    header: safetensors::tensor::Metadata,
}

impl TensorFile {
    /// Reads a file; damage is one sentence.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|e| Error::reading(path, e))?;
        Self::parse(bytes, &path.display().to_string())
    }

    /// Parses a file's bytes; `name` is for messages.
    pub fn parse(bytes: Vec<u8>, name: &str) -> Result<Self> {
        let (header_len, header) = SafeTensors::read_metadata(&bytes).map_err(|cause| {
            Error::input(format!(
                "{name} is truncated or not a safetensors file ({}): use another copy of it",
                one_line(cause)
            ))
        })?;
        Ok(Self { name: name.to_owned(), data_at: 8 + header_len, bytes, header })
    }

    /// The value of a metadata key.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.header.metadata().as_ref()?.get(key).map(String::as_str)
    }

    /// Tensor names, in the order of the file.
    pub fn names(&self) -> Vec<String> {
        self.header.offset_keys()
    }

    /// Element type, shape and bytes of a tensor; an error when the file has none of this name.
    pub fn raw(&self, name: &str) -> Result<(Dtype, &[usize], &[u8])> {
        let info =
            self.header.info(name).ok_or_else(|| Error::input(format!("{} has no tensor named {name}", self.name)))?;
        let (from, to) = info.data_offsets;
        let bytes = self.bytes[self.data_at..].get(from..to).ok_or_else(|| {
            Error::input(format!("{} is damaged: the bytes of {name} lie outside the file", self.name))
        })?;
        Ok((info.dtype, &info.shape, bytes))
    }

    /// A tensor of this name; an error when there is none or its element type is not a host tensor's.
    pub fn tensor(&self, name: &str) -> Result<HostTensor> {
        let (dtype, shape, bytes) = self.raw(name)?;
        let dtype = match dtype {
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::I32 => DType::I32,
            Dtype::U32 => DType::U32,
            Dtype::BOOL => DType::Bool,
            other => {
                return Err(Error::input(format!(
                    "{name} in {} holds {other}, and f32, f16, i32, u32 or bool was expected",
                    self.name
                )));
            }
        };
        HostTensor::from_bytes(dtype, shape, bytes)
    }

    /// Every tensor.
    pub fn tensors(&self) -> Result<Tensors> {
        self.names().into_iter().map(|name| Ok((name.clone(), self.tensor(&name)?))).collect()
    }
}

/// The format's name of an element type.
fn file_type(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "F32",
        DType::F16 => "F16",
        DType::I32 => "I32",
        DType::U32 => "U32",
        DType::Bool => "BOOL",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> (Tensors, BTreeMap<String, String>) {
        let tensors = Tensors::from([
            ("w".to_owned(), HostTensor::f32(&[2, 3], vec![1.0, 2.0, 3.0, 4.0, 5.0, -0.0]).unwrap()),
            ("half".to_owned(), HostTensor::f16_bits(&[3], vec![1, 2, 3]).unwrap()),
            ("mask".to_owned(), HostTensor::bool(&[1], vec![true]).unwrap()),
            ("ids".to_owned(), HostTensor::i32(&[2], vec![-1, 7]).unwrap()),
            ("n".to_owned(), HostTensor::u32(&[], vec![9]).unwrap()),
            ("none".to_owned(), HostTensor::f32(&[0], vec![]).unwrap()),
        ]);
        let metadata = ["format", "b", "c", "d"].map(|key| (key.to_owned(), format!("\"{key}\" é"))).into();
        (tensors, metadata)
    }

    fn bytes_of(tensors: &Tensors, metadata: &BTreeMap<String, String>) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.safetensors");
        write(&path, tensors.iter().map(|(n, t)| (n.clone(), t)), metadata).unwrap();
        std::fs::read(path).unwrap()
    }

    #[test]
    fn files_round_trip_and_the_crate_reads_them() {
        let (tensors, metadata) = sample();
        let bytes = bytes_of(&tensors, &metadata);
        assert_eq!(bytes, bytes_of(&tensors, &metadata));
        let file = TensorFile::parse(bytes.clone(), "t").unwrap();
        assert_eq!(file.tensors().unwrap(), tensors);
        assert_eq!(file.metadata("c"), Some("\"c\" é"));
        assert_eq!(file.metadata("x"), None);
        let crate_view = SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(crate_view.len(), 6);
        assert_eq!(crate_view.tensor("w").unwrap().data(), tensors["w"].bytes());
    }

    #[test]
    fn an_existing_file_is_not_overwritten() {
        let (tensors, metadata) = sample();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t");
        std::fs::write(&path, "mine").unwrap();
        let error = write(&path, tensors.iter().map(|(n, t)| (n.clone(), t)), &metadata).unwrap_err();
        assert_eq!(error.exit_status(), 1);
        assert_eq!(std::fs::read(&path).unwrap(), b"mine");
    }

    #[test]
    fn damaged_files_are_errors_and_never_panics() {
        let (tensors, metadata) = sample();
        let bytes = bytes_of(&tensors, &metadata);
        for len in 0..bytes.len() {
            let error = TensorFile::parse(bytes[..len].to_vec(), "t").err().expect("a truncated file was read");
            assert!(error.to_string().starts_with("t is truncated or not a safetensors file"), "{error}");
        }
        let mut refused = 0;
        for at in 0..bytes.len() {
            for flip in [1, 0x10, 0x80] {
                let mut damaged = bytes.clone();
                damaged[at] ^= flip;
                refused += usize::from(TensorFile::parse(damaged, "t").and_then(|f| f.tensors()).is_err());
            }
        }
        assert!(refused > 300, "only {refused} damaged files were refused");
    }

    #[test]
    fn unknown_tensors_and_types_are_named() {
        let header = br#"{"x":{"dtype":"F64","shape":[1],"data_offsets":[0,8]}}  "#;
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header);
        bytes.extend([0; 8]);
        let file = TensorFile::parse(bytes, "t").unwrap();
        assert_eq!(file.tensor("y").unwrap_err().to_string(), "t has no tensor named y");
        assert_eq!(
            file.tensor("x").unwrap_err().to_string(),
            "x in t holds F64, and f32, f16, i32, u32 or bool was expected"
        );
    }
}
