//! The runtime's one error type, and the exit status each kind stands for.
//!
//! Invariants: a message is one sentence without a final full stop, it names what was found, what was expected and
//! what to do, and it never spans lines, so that `tinygpt: {error}` is what a user reads.

use std::fmt::Display;
use std::path::Path;

/// Why something did not work, by whose turn it is to act.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Bad usage or bad input: the caller changes the command, the configuration or the file. Exit status 2.
    #[error("{0}")]
    Input(String),
    /// The thing asked about failed (parity beyond tolerance, a loss that is not finite, a full disk). Exit status 1.
    #[error("{0}")]
    Failed(String),
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Bad usage or bad input (exit status 2).
    pub fn input(message: impl Into<String>) -> Self {
        Self::Input(message.into())
    }

    /// The thing asked about failed (exit status 1).
    pub fn failed(message: impl Into<String>) -> Self {
        Self::Failed(message.into())
    }

    /// A file that could not be read: bad input, since the user named it.
    pub fn reading(path: &Path, cause: impl Display) -> Self {
        Self::Input(format!("cannot read {}: {}", path.display(), one_line(cause)))
    }

    /// A file that could not be written: the machine's failure, not the command's.
    pub fn writing(path: &Path, cause: impl Display) -> Self {
        Self::Failed(format!("cannot write {}: {}", path.display(), one_line(cause)))
    }

    /// The process exit status that stands for this error.
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Failed(_) => 1,
            Self::Input(_) => 2,
        }
    }
}

/// Joins the lines of a foreign error message, which may be drawn over several.
pub(crate) fn one_line(cause: impl Display) -> String {
    cause.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The nearest of `known` to `found`, as ` (did you mean "x"?)`, or nothing when none is near.
pub(crate) fn did_you_mean<'a>(found: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let near = known
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(found, name), name))
        .filter(|(edits, name)| *edits <= 1.max(found.len().max(name.len()) / 3))
        .min_by_key(|(edits, _)| *edits);
    near.map(|(_, name)| format!(" (did you mean \"{name}\"?)")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_statuses_are_the_contract() {
        assert_eq!(Error::failed("x").exit_status(), 1);
        assert_eq!(Error::input("x").exit_status(), 2);
        assert_eq!(Error::reading(Path::new("a b"), "gone\n  away").to_string(), "cannot read a b: gone away");
    }

    #[test]
    fn suggestions_are_near_or_absent() {
        let known = ["tiny", "small", "standard"];
        assert_eq!(did_you_mean("smal", known), " (did you mean \"small\"?)");
        assert_eq!(did_you_mean("tniy", known), " (did you mean \"tiny\"?)");
        assert_eq!(did_you_mean("enormous", known), "");
    }
}
