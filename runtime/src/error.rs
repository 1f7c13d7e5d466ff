//! The runtime's one error type, and the exit status each kind stands for.
//!
//! Invariants: a message is one sentence without a final full stop, it names what was found, what was expected and
//! what to do, so that `tinygpt: {error}` is what a user reads. Names in it may come from a stranger's file: whatever a
//! message quotes, it prints as one line of bounded length without control characters.

use std::any::Any;
use std::fmt::{self, Display, Write};
use std::io::{self, ErrorKind};
use std::path::Path;

/// Most characters of a message that are printed; of a longer one the middle is left out.
const LONGEST: usize = 1200;

/// Why something did not work, by whose turn it is to act.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Bad usage or bad input: the caller changes the command, the configuration or the file. Exit status 2.
    #[error("{}", Printable(.0))]
    Input(String),
    /// The thing asked about failed (parity beyond tolerance, a loss that is not finite, a full disk). Exit status 1.
    #[error("{}", Printable(.0))]
    Failed(String),
}

/// A message as it may be printed on a terminal.
struct Printable<'a>(&'a str);

impl Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut put = |part: &str| {
            part.chars()
                .try_for_each(|c| if c.is_control() { write!(f, "{}", c.escape_default()) } else { f.write_char(c) })
        };
        let length = self.0.chars().count();
        if length <= LONGEST {
            return put(self.0);
        }
        let at = |n: usize| self.0.char_indices().nth(n).map_or(self.0.len(), |(at, _)| at);
        put(&self.0[..at(LONGEST / 2)])?;
        put(" .. ")?;
        put(&self.0[at(length - LONGEST / 2)..])
    }
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
    pub fn reading(path: &Path, cause: impl Display + 'static) -> Self {
        Self::Input(format!("cannot read {}: {}", path.display(), reason(cause)))
    }

    /// A file that could not be written: the machine's failure, not the command's.
    pub fn writing(path: &Path, cause: impl Display + 'static) -> Self {
        Self::Failed(format!("cannot write {}: {}", path.display(), reason(cause)))
    }

    /// The process exit status that stands for this error.
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Failed(_) => 1,
            Self::Input(_) => 2,
        }
    }
}

/// Why the system refused, and what to do about it, for the refusals that a wrong path or a full disk brings.
fn reason(cause: impl Display + 'static) -> String {
    let said = one_line(&cause);
    let Some(error) = (&cause as &dyn Any).downcast_ref::<io::Error>() else { return said };
    match error.kind() {
        ErrorKind::NotFound => "there is no such file or folder: check the path".to_owned(),
        ErrorKind::IsADirectory => "it is a directory: name a file".to_owned(),
        ErrorKind::NotADirectory => "a file stands where a directory is needed: choose another path".to_owned(),
        ErrorKind::AlreadyExists => "something else is there already: choose another path".to_owned(),
        ErrorKind::InvalidData => "it is not text in UTF-8: check that it is the right file".to_owned(),
        ErrorKind::PermissionDenied => format!("{said}: check its permissions"),
        ErrorKind::ReadOnlyFilesystem => format!("{said}: choose another path"),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => format!("{said}: make room, or choose another path"),
        _ => said,
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
    fn a_refusal_of_the_system_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("none");
        let read = |path: &Path| Error::reading(path, std::fs::read_to_string(path).unwrap_err()).to_string();
        assert!(
            read(&missing).ends_with("none: there is no such file or folder: check the path"),
            "{}",
            read(&missing)
        );
        assert!(read(dir.path()).ends_with(": it is a directory: name a file"), "{}", read(dir.path()));
        std::fs::write(&missing, b"\xff").unwrap();
        assert!(
            read(&missing).ends_with("it is not text in UTF-8: check that it is the right file"),
            "{}",
            read(&missing)
        );
    }

    #[test]
    fn what_a_strangers_file_says_reaches_no_terminal_as_it_is() {
        let error = Error::input("no tensor named \u{1b}]0;title\u{7}\nand a second line");
        assert_eq!(error.to_string(), r"no tensor named \u{1b}]0;title\u{7}\nand a second line");
        let long = Error::failed(format!("a{}z", "é".repeat(5000))).to_string();
        assert_eq!(long.chars().count(), LONGEST + 4);
        assert!(long.starts_with("aé") && long.contains("é .. é") && long.ends_with("éz"));
    }

    #[test]
    fn suggestions_are_near_or_absent() {
        let known = ["tiny", "small", "standard"];
        assert_eq!(did_you_mean("smal", known), " (did you mean \"small\"?)");
        assert_eq!(did_you_mean("tniy", known), " (did you mean \"tiny\"?)");
        assert_eq!(did_you_mean("enormous", known), "");
    }
}
