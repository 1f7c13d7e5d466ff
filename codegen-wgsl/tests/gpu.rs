//! Harness.
#[test]
fn nothing() {}
