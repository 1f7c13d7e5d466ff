//! What there is to know of each key of the configuration: its type, its range, its help. A page makes its form from this, and
//! [`RunConfig::validate`](super::RunConfig::validate) checks numbers against the same ranges.
//!
//! Invariants: every key of every section is described, in the order of declaration; a number outside its range is refused by the sentence of [`Range`].

use super::{Backend, DataConfig, Gelu, Isa, MAX_BATCH, MAX_STEPS, ModelConfig, Precision, TrainConfig};
use crate::schedule::ScheduleKind;
use crate::{Error, Result};
use serde::Serialize;

/// A key of the configuration.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Key {
    /// `model`, `train` or `data`.
    pub section: &'static str,
    pub key: &'static str,
    #[serde(rename = "type")]
    pub kind: Kind,
    /// The words that a choice has.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub choices: &'static [&'static str],
    #[serde(flatten)]
    pub range: Option<Bounds>,
    /// May be left unset, which means what the help says.
    pub optional: bool,
    pub help: &'static str,
}

/// What a key's value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Integer,
    Number,
    /// A list of two numbers.
    Pair,
    Flag,
    Text,
    Choice,
}

/// A range as numbers; None where it has no end.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Bounds {
    pub min: Option<f64>,
    pub max: Option<f64>,
    /// The bounds that do not belong to the range: `min`, `max`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub without: Option<&'static str>,
}

/// The numbers that a key takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Range {
    /// Whole numbers, both ends included.
    Whole(u64, u64),
    /// Above zero.
    Positive,
    /// From zero, which may have a meaning.
    NotNegative(&'static str),
    /// From zero to below one.
    Share,
}

/// The range of each number that has one.
const RANGES: &[(&str, Range)] = &[
    ("vocab", Range::Whole(1, 1 << 20)),
    ("ctx", Range::Whole(1, 1 << 20)),
    ("layers", Range::Whole(1, 1 << 12)),
    ("heads", Range::Whole(1, 1 << 12)),
    ("d_model", Range::Whole(1, 1 << 20)),
    ("d_mlp", Range::Whole(1, 1 << 20)),
    ("batch", Range::Whole(1, MAX_BATCH as u64)),
    ("accumulate", Range::Whole(1, MAX_BATCH as u64)),
    ("steps", Range::Whole(1, MAX_STEPS)),
    ("lr", Range::Positive),
    ("betas", Range::Share),
    ("eps", Range::Positive),
    ("weight_decay", Range::NotNegative("")),
    ("grad_clip", Range::NotNegative(" (none)")),
    ("seed", Range::Whole(0, i64::MAX as u64)),
    ("eval_batches", Range::Whole(1, 1 << 20)),
    ("sample_bytes", Range::Whole(0, 1 << 20)),
    ("threads", Range::Whole(1, 1024)),
];

fn range(key: &str) -> Option<Range> {
    RANGES.iter().find(|(name, _)| *name == key).map(|(_, range)| *range)
}

/// Refuses a whole number outside the range of `key`.
pub(super) fn check_whole(key: &str, value: u64) -> Result<()> {
    match range(key) {
        Some(Range::Whole(0, most)) if value > most => {
            Err(Error::input(format!("{key} must be at most {most}, and is {value}")))
        }
        Some(Range::Whole(least, most)) if !(least..=most).contains(&value) => {
            Err(Error::input(format!("{key} must be from {least} to {most}, and is {value}")))
        }
        _ => Ok(()),
    }
}

/// Refuses a real number outside the range of `key`.
pub(super) fn check_real(key: &str, value: f64) -> Result<()> {
    let (holds, expected) = match range(key) {
        Some(Range::Positive) => (value.is_finite() && value > 0.0, "a positive number".to_owned()),
        Some(Range::NotNegative(zero)) => (value.is_finite() && value >= 0.0, format!("0{zero} or more")),
        Some(Range::Share) => ((0.0..1.0).contains(&value), "from 0 to below 1".to_owned()),
        Some(Range::Whole(..)) | None => return Ok(()),
    };
    if holds { Ok(()) } else { Err(Error::input(format!("{key} must be {expected}, and is {value}"))) }
}

/// A Rust type as a key's value.
pub trait Typed {
    const KIND: Kind;
    const CHOICES: &'static [&'static str] = &[];
    const OPTIONAL: bool = false;
}

macro_rules! typed {
    ($($ty:ty: $kind:ident $(of $choices:expr)?,)+) => {
        $(impl Typed for $ty {
            const KIND: Kind = Kind::$kind;
            $(const CHOICES: &'static [&'static str] = &$choices;)?
        })+
    };
}

typed! {
    usize: Integer,
    u64: Integer,
    f64: Number,
    [f64; 2]: Pair,
    bool: Flag,
    String: Text,
    Gelu: Choice of ["erf", "tanh"],
    Precision: Choice of ["f32", "mixed"],
    ScheduleKind: Choice of ["constant", "cosine"],
    Backend: Choice of ["cpu", "gpu", "wasm", "interp"],
    Isa: Choice of ["avx512", "avx2", "portable"],
}

impl<V: Typed> Typed for Option<V> {
    const KIND: Kind = V::KIND;
    const CHOICES: &'static [&'static str] = V::CHOICES;
    const OPTIONAL: bool = true;
}

impl Key {
    /// The key of a field of type `V`, with the text of its documentation.
    pub(super) fn new<V: Typed>(section: &'static str, key: &'static str, help: &'static str) -> Key {
        let (some, none) = (|x: f64| Some(x), None);
        let range = match (range(key), V::KIND) {
            (Some(Range::Whole(least, most)), _) => {
                Some(Bounds { min: some(least as f64), max: some(most as f64), without: None })
            }
            (Some(Range::Positive), _) => Some(Bounds { min: some(0.0), max: none, without: Some("min") }),
            (Some(Range::NotNegative(_)), _) => Some(Bounds { min: some(0.0), max: none, without: None }),
            (Some(Range::Share), _) => Some(Bounds { min: some(0.0), max: some(1.0), without: Some("max") }),
            (None, Kind::Integer) => Some(Bounds { min: some(0.0), max: none, without: None }),
            (None, _) => None,
        };
        Key { section, key, kind: V::KIND, choices: V::CHOICES, range, optional: V::OPTIONAL, help: help.trim() }
    }
}

/// Every key, section by section.
pub fn keys() -> Vec<Key> {
    [ModelConfig::described(), TrainConfig::described(), DataConfig::described()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RunConfig;

    #[test]
    fn every_key_is_described() {
        let all = keys();
        assert_eq!(all.len(), ModelConfig::KEYS.len() + TrainConfig::KEYS.len() + DataConfig::KEYS.len());
        for key in &all {
            assert!(key.help.ends_with('.') && key.help.len() > 8, "{key:?}");
            assert_eq!(key.kind == Kind::Choice, !key.choices.is_empty(), "{key:?}");
        }
        for (name, _) in RANGES {
            assert!(all.iter().any(|key| key.key == *name), "{name} is no key");
        }
        let ctx = serde_json::to_value(&all[1]).unwrap();
        let help = "Longest context, in tokens.";
        let expected = serde_json::json!({
            "section": "model", "key": "ctx", "type": "integer", "min": 1.0, "max": 1048576.0, "optional": false, "help": help
        });
        assert_eq!(ctx, expected);
    }

    /// The words and types of the table are those that a configuration is read with.
    #[test]
    fn the_table_agrees_with_what_is_read() {
        let config = serde_json::to_value(RunConfig::preset("tiny").unwrap()).unwrap();
        for Key { section, key, kind, choices, optional, .. } in keys() {
            let value = &config[section][key];
            let fits = match kind {
                Kind::Integer => value.is_u64(),
                Kind::Number => value.is_number(),
                Kind::Pair => value.as_array().is_some_and(|pair| pair.len() == 2),
                Kind::Flag => value.is_boolean(),
                Kind::Text | Kind::Choice => value.is_string(),
            };
            assert!(fits || (optional && value.is_null()), "{section}.{key} is {value}");
            for word in choices {
                let mut changed = config.clone();
                changed[section][key] = (*word).into();
                assert!(serde_json::from_value::<RunConfig>(changed).is_ok(), "{section}.{key} refuses {word}");
            }
        }
    }
}
