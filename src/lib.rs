//! tinygpt.
