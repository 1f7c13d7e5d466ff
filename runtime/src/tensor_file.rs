//! Safetensors files: named host tensors and a string map, read and written.
//!
//! The format (huggingface/safetensors, README "Format"): a u64 length, a JSON header of that length, then the bytes of
//! all tensors without gaps. Invariants:
//! - **Equal content gives equal bytes.** Keys are sorted. That is why the header is written here: the crate keeps the
//!   string map in a `HashMap`, whose order differs from run to run as soon as it has two entries.
//! - **No file can panic the reader.** [`header`] checks all that a file says against the bytes there, before memory is asked for.

mod header;

use crate::error::one_line;
use crate::tensor::{DType, HostTensor};
use crate::{Error, Result};
use header::Header;
use safetensors::Dtype;
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
    header: Header,
}

impl TensorFile {
    /// Reads a file; damage is one sentence.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|e| Error::reading(path, e))?;
        Self::parse(bytes, &path.display().to_string())
    }

    /// Parses a file's bytes; `name` is for messages.
    pub fn parse(bytes: Vec<u8>, name: &str) -> Result<Self> {
        let header = Header::parse(&bytes).map_err(|cause| {
            Error::input(format!(
                "{name} is truncated or not a safetensors file ({}): use another copy of it",
                one_line(cause)
            ))
        })?;
        Ok(Self { name: name.to_owned(), bytes, header })
    }

    /// The value of a metadata key.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.header.metadata.get(key).map(String::as_str)
    }

    /// Tensor names, in the order of names.
    pub fn names(&self) -> Vec<String> {
        self.header.tensors.keys().cloned().collect()
    }

    /// Element type, shape and bytes of a tensor; an error when the file has none of this name.
    pub fn raw(&self, name: &str) -> Result<(Dtype, &[usize], &[u8])> {
        let info = self
            .header
            .tensors
            .get(name)
            .ok_or_else(|| Error::input(format!("{} has no tensor named {name}", self.name)))?;
        let (from, to) = info.data_offsets;
        let data = self.bytes.get(self.header.data_at..);
        let bytes = data.and_then(|data| data.get(from..to)).ok_or_else(|| {
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

    /// Checks that every tensor is f32, which weights are.
    pub fn only_f32(&self) -> Result<()> {
        match self.header.tensors.iter().find(|(_, info)| info.dtype != Dtype::F32) {
            None => Ok(()),
            Some((name, info)) => Err(Error::input(format!(
                "{name} in {} holds {}, and weights are F32: convert it (in PyTorch: model.float())",
                self.name, info.dtype
            ))),
        }
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
    use safetensors::SafeTensors;

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

    /// A file with this header and `data` bytes of zeros.
    fn with_header(header: &str, data: usize) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        bytes
    }

    fn refusal(bytes: Vec<u8>) -> String {
        let error = TensorFile::parse(bytes, "t").err().expect("a bad file was read").to_string();
        let cause = error.strip_prefix("t is truncated or not a safetensors file (").expect(&error);
        cause.strip_suffix("): use another copy of it").expect(&error).to_owned()
    }

    #[test]
    fn hostile_headers_are_one_sentence_each() {
        for length in [u64::MAX, 1 << 40, 100_000_001] {
            let mut bytes = length.to_le_bytes().to_vec();
            bytes.extend(b"{}");
            assert_eq!(refusal(bytes), format!("its header is said to have {length} bytes, and 100000000 are allowed"));
        }
        let mut long = 99_999_999u64.to_le_bytes().to_vec();
        long.extend(b"{}");
        assert_eq!(refusal(long), "its header is said to have 99999999 bytes, and 2 follow");
        let two = |a: &str, b: &str| {
            format!(
                r#"{{"a":{{"dtype":"F32","shape":[2],"data_offsets":{a}}},"b":{{"dtype":"F32","shape":[2],"data_offsets":{b}}}}}"#
            )
        };
        TensorFile::parse(with_header(&two("[8,16]", "[0,8]"), 16), "t").unwrap();
        for (header, data, cause) in [
            (
                two("[0,8]", "[4,12]"),
                12,
                "\"b\" overlaps the tensor before it: it begins at byte 4, and that ends at 8",
            ),
            (two("[0,8]", "[0,8]"), 8, "\"b\" overlaps the tensor before it: it begins at byte 0, and that ends at 8"),
            (two("[0,8]", "[12,20]"), 20, "bytes 8 to 12 before \"b\" belong to no tensor"),
            (two("[4,12]", "[12,20]"), 20, "bytes 0 to 4 before \"a\" belong to no tensor"),
            (two("[0,8]", "[8,16]"), 20, "its tensors end at byte 16 of 20"),
            (two("[0,8]", "[8,16]"), 12, "\"b\" lies at bytes 8 to 16 of 12"),
            (two("[0,8]", "[16,8]"), 16, "\"b\" lies at bytes 16 to 8 of 16"),
            (two("[0,8]", "[8,20]"), 20, "\"b\" is F32[2] and has 12 bytes"),
            (two("[0,8]", "[8,18446744073709551615]"), 16, "\"b\" lies at bytes 8 to 18446744073709551615 of 16"),
            (two("[0,8]", "[8,16]").replace("\"b\"", "\"a\""), 16, "its header cannot be read: \"a\" is there twice"),
            (two("[0,8]", "[8,-1]"), 16, "its header cannot be read: invalid value: integer `-1`, expected usize"),
            (two("[0,8]", "[8,16,24]"), 16, "its header cannot be read: trailing characters"),
            (two("[0,8]", "[8,16]").replace("F32", "F31"), 16, "its header cannot be read: unknown variant `F31`"),
            (
                two("[0,8]", "[8,16]").replace("[2]", "[9223372036854775807,4]"),
                16,
                "\"a\" is F32[9223372036854775807, 4] and has 8 bytes",
            ),
            (r#"{"__metadata__":{"k":"1","k":"2"}}"#.into(), 0, "its header cannot be read: \"k\" is there twice"),
            (
                r#"{"__metadata__":{},"__metadata__":{}}"#.into(),
                0,
                "its header cannot be read: __metadata__ is there twice",
            ),
            (r#"{"__metadata__":{"k":1}}"#.into(), 0, "its header cannot be read: invalid type: integer `1`"),
            (r#"[]"#.into(), 0, "its header cannot be read: invalid type: sequence, expected an object of tensors"),
            (r#"{"a":"#.repeat(100_000), 0, "its header cannot be read: "),
            (format!(r#"{{"a":{}"#, "[".repeat(100_000)), 0, "its header cannot be read: "),
            (
                format!(r#"{{"a":{{"dtype":"F32","shape":[],"data_offsets":[0,4],"more":{}"#, "[".repeat(100_000)),
                4,
                "its header cannot be read: ",
            ),
        ] {
            let found = refusal(with_header(&header, data));
            assert!(found.starts_with(cause), "{found:?}, and {cause:?} was expected");
            assert!(found.len() < 300, "{found}");
        }
    }

    /// Headers of random parts: what the safetensors crate refuses, we refuse; and what we refuse beyond it has a name twice.
    #[test]
    fn the_safetensors_crate_agrees() {
        let mut stream = 1u32;
        let mut draw = |n: usize| {
            stream = stream.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (stream >> 16) as usize % n
        };
        let (mut read, mut refused) = (0, 0);
        for _ in 0..20_000 {
            let mut at = 0;
            let parts: Vec<String> = (0..draw(4))
                .map(|_| {
                    let (name, dtype, size) = (draw(4), draw(2), draw(3));
                    let bytes = size * [4, 2][dtype];
                    let from = at + [0, 0, 0, 0, 0, 0, 0, 4][draw(8)];
                    at = from + bytes + [0, 0, 0, 0, 0, 0, 0, 1][draw(8)];
                    let dtype = ["F32", "BF16"][dtype];
                    format!(r#""{name}":{{"dtype":"{dtype}","shape":[1,{size}],"data_offsets":[{from},{at}]}}"#)
                })
                .collect();
            let bytes = with_header(&format!("{{{}}}", parts.join(",")), at + [0, 0, 0, 0, 0, 1][draw(6)]);
            let ours = TensorFile::parse(bytes.clone(), "t").map(|_| ());
            match (&ours, SafeTensors::deserialize(&bytes)) {
                (Ok(()), Ok(_)) => read += 1,
                (Err(_), Err(_)) => refused += 1,
                (Err(e), Ok(_)) => assert!(e.to_string().contains("is there twice"), "{e}"),
                (Ok(()), Err(e)) => panic!("the crate refuses what we read: {e}"),
            }
        }
        assert!(read > 2000 && refused > 2000, "{read} files were read and {refused} refused");
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
