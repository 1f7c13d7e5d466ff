//! Errors: one sentence that says what was found, what was expected and what to do.

/// Why a kernel has no WGSL for an adapter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Error(pub String);

/// `Err` of a formatted sentence.
pub(crate) fn refuse<T>(message: impl Into<String>) -> Result<T, Error> {
    Err(Error(message.into()))
}
