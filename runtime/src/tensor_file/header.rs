//! The JSON header of a safetensors file, checked.
//!
//! Invariants of what [`Header::parse`] returns:
//! - the tensors' bytes cover the data exactly: none overlap, none lie outside, and there are no holes;
//! - each tensor's bytes are as many as its type and shape take;
//! - no name occurs twice. (The safetensors crate would take the last of two, hence this reader of our own; it also bounds what a header
//!   can make it allocate to a small multiple of the header's length.)

use safetensors::Dtype;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;

/// Longest header, as the format has it.
const MAX_HEADER: u64 = 100_000_000;

/// Bytes of the header's length.
pub(super) const LENGTH: usize = 8;

/// What a file says of its tensors.
pub(super) struct Header {
    pub metadata: BTreeMap<String, String>,
    pub tensors: BTreeMap<String, TensorInfo>,
    /// Where the tensors' bytes begin.
    pub data_at: usize,
}

/// What a file says of a tensor.
#[derive(Deserialize)]
pub(super) struct TensorInfo {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    /// First byte and the one after the last, counted from the end of the header.
    pub data_offsets: (usize, usize),
}

impl Header {
    /// Reads and checks the header of a whole file. The error says what is wrong, for a sentence that names the file.
    pub fn parse(file: &[u8]) -> Result<Self, String> {
        let (length, rest) =
            file.split_first_chunk::<LENGTH>().ok_or_else(|| format!("it has {} bytes", file.len()))?;
        let length = u64::from_le_bytes(*length);
        if length > MAX_HEADER {
            return Err(format!("its header is said to have {length} bytes, and {MAX_HEADER} are allowed"));
        }
        let (header, data) = usize::try_from(length)
            .ok()
            .and_then(|length| rest.split_at_checked(length))
            .ok_or_else(|| format!("its header is said to have {length} bytes, and {} follow", rest.len()))?;
        let Content { metadata, tensors } =
            serde_json::from_slice(header).map_err(|e| format!("its header cannot be read: {e}"))?;
        let header = Self { metadata, tensors, data_at: LENGTH + header.len() };
        header.check(data.len())?;
        Ok(header)
    }

    /// Checks that the tensors cover `bytes` bytes, each in a size that it takes.
    fn check(&self, bytes: usize) -> Result<(), String> {
        let mut inside: Vec<_> = self.tensors.iter().map(|(name, info)| (info.data_offsets, name, info)).collect();
        inside.sort_by_key(|(offsets, ..)| *offsets);
        let mut at = 0;
        for ((from, to), name, info) in inside {
            if to < from || to > bytes {
                return Err(format!("{name:?} lies at bytes {from} to {to} of {bytes}"));
            }
            if from < at {
                return Err(format!(
                    "{name:?} overlaps the tensor before it: it begins at byte {from}, and that ends at {at}"
                ));
            }
            if from > at {
                return Err(format!("bytes {at} to {from} before {name:?} belong to no tensor"));
            }
            let elements = info.shape.iter().try_fold(1usize, |n, size| n.checked_mul(*size));
            let bits = elements.and_then(|n| n.checked_mul(info.dtype.bitsize()));
            if bits.is_none_or(|bits| !bits.is_multiple_of(8) || bits / 8 != to - from) {
                return Err(format!("{name:?} is {}{:?} and has {} bytes", info.dtype, info.shape, to - from));
            }
            at = to;
        }
        if at != bytes {
            return Err(format!("its tensors end at byte {at} of {bytes}"));
        }
        Ok(())
    }
}

/// The header as it is in the file.
struct Content {
    metadata: BTreeMap<String, String>,
    tensors: BTreeMap<String, TensorInfo>,
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = Content;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Content, A::Error> {
                let (mut metadata, mut tensors) = (None, BTreeMap::new());
                while let Some(name) = map.next_key::<String>()? {
                    if name != "__metadata__" {
                        insert_new(&mut tensors, name, map.next_value()?)?;
                    } else if metadata.replace(map.next_value::<Strings>()?.0).is_some() {
                        return Err(A::Error::custom("__metadata__ is there twice"));
                    }
                }
                Ok(Content { metadata: metadata.unwrap_or_default(), tensors })
            }
        }

        deserializer.deserialize_map(Fields)
    }
}

/// An object of strings in which no key may occur twice.
struct Strings(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Strings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = Strings;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Strings, A::Error> {
                let mut found = BTreeMap::new();
                while let Some((key, value)) = map.next_entry::<String, String>()? {
                    insert_new(&mut found, key, value)?;
                }
                Ok(Strings(found))
            }
        }

        deserializer.deserialize_map(Fields)
    }
}

/// Adds an entry whose key may not be there.
fn insert_new<V, E: serde::de::Error>(map: &mut BTreeMap<String, V>, key: String, value: V) -> Result<(), E> {
    match map.entry(key) {
        Entry::Vacant(entry) => {
            entry.insert(value);
            Ok(())
        }
        Entry::Occupied(entry) => Err(E::custom(format!("{:?} is there twice", entry.key()))),
    }
}
