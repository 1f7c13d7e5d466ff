//! Programs as JSON, by serde (feature `serde`): what `tinygpt export` writes beside a module, for people, tools and tests.
//!
//! A field is named as in Rust, an enum variant is `{"variant": contents}` or `"variant"`, in snake case. Ids are numbers, arenas are lists, and
//! element types and scalar operations have the names of the text form. What JSON has no number for is written otherwise: a literal
//! that is infinite or no number as `"inf"`, `"-inf"` or `"nan"`, a limit that is none as `null`.
//!
//! Invariant: reading what was written gives an equal program, but for the source lines of kernels, which belong to one build.

use super::{ArgId, BufferId, ScalarId};
use crate::graph::NodeId;
use crate::op::{Binary, Compare, Reduce, Unary};
use crate::types::{Arena, DType, Entity, Literal};
use serde::de::{Deserialize, Deserializer, Error};
use serde::ser::{Serialize, SerializeStruct, Serializer};

/// Version of the JSON form: changes whenever older files would read differently.
pub const VERSION: u32 = 1;

macro_rules! ids {
    ($($Id:ident)*) => {$(
        impl Serialize for $Id {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_u32(self.0)
            }
        }
        impl<'de> Deserialize<'de> for $Id {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                u32::deserialize(from).map($Id)
            }
        }
    )*};
}
ids! { ArgId BufferId NodeId ScalarId }

/// Types whose values have a `name`, all of them listed in `ALL`.
macro_rules! named {
    ($($Name:ident)*) => {$(
        impl Serialize for $Name {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(self.name())
            }
        }
        impl<'de> Deserialize<'de> for $Name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let found = String::deserialize(from)?;
                let known = $Name::ALL.iter().copied().find(|known| known.name() == found);
                known.ok_or_else(|| D::Error::custom(format!(
                    "\"{found}\" is none of {}", $Name::ALL.iter().map(|known| known.name()).collect::<Vec<_>>().join(", ")
                )))
            }
        }
    )*};
}
named! { Binary Compare DType Reduce Unary }

impl<I: Entity, T: Serialize> Serialize for Arena<I, T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(self.values())
    }
}

impl<'de, I: Entity, T: Deserialize<'de>> Deserialize<'de> for Arena<I, T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let mut arena = Arena::default();
        Vec::deserialize(from)?.into_iter().for_each(|item| {
            arena.push(item);
        });
        Ok(arena)
    }
}

impl Serialize for Literal {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut literal = to.serialize_struct("Literal", 2)?;
        literal.serialize_field("dtype", &self.dtype)?;
        if self.value.is_finite() {
            literal.serialize_field("value", &self.value)?;
        } else {
            literal.serialize_field("value", &self.to_string())?;
        }
        literal.end()
    }
}

impl<'de> Deserialize<'de> for Literal {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(serde::Deserialize)]
        #[serde(untagged)]
        enum Value {
            Number(f64),
            Name(String),
        }
        #[derive(serde::Deserialize)]
        struct Parts {
            dtype: DType,
            value: Value,
        }
        let Parts { dtype, value } = Parts::deserialize(from)?;
        let value = match value {
            Value::Number(value) => value,
            Value::Name(name) => match name.as_str() {
                "inf" => f64::INFINITY,
                "-inf" => f64::NEG_INFINITY,
                "nan" => f64::NAN,
                _ => return Err(D::Error::custom(format!("\"{name}\" is no number, inf, -inf or nan"))),
            },
        };
        Ok(Literal { dtype, value })
    }
}

/// A limit, `usize::MAX` for none.
pub(super) mod limit {
    use super::*;

    pub fn serialize<S: Serializer>(limit: &usize, to: S) -> Result<S::Ok, S::Error> {
        (*limit != usize::MAX).then_some(*limit).serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<usize, D::Error> {
        Ok(Option::deserialize(from)?.unwrap_or(usize::MAX))
    }
}
