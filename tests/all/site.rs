//! The playground, built and opened in Chromium: `web/test/site/`. Needs `cargo xtask site`, Node and Chromium with playwright-core.
//!
//! One test a file of scripts; each prints what its parts took.

use crate::wasm::{have, have_chromium, web};
use std::process::Command;

/// Runs a file of `web/test/site/`, every part of which must pass.
fn site(file: &str) {
    let built = web().join("site/dist/index.html").is_file();
    if !have_chromium() || !have("built playground (`cargo xtask site`)", built, "TINYGPT_REQUIRE_WEB") {
        return;
    }
    let output = Command::new("node")
        .args(["--test", "--test-reporter=spec", &format!("test/site/{file}")])
        .current_dir(web())
        .env("TINYGPT", env!("CARGO_BIN_EXE_tinygpt"))
        .env_remove("NODE_TEST_CONTEXT")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}");
    assert!(output.status.success(), "{file}: {text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(!text.contains("tests 0"), "{file} has no test");
}

#[test]
fn the_playground_trains() {
    site("train.test.mjs");
}

#[test]
fn the_playground_keeps_what_it_trained() {
    site("keep.test.mjs");
}

#[test]
fn the_playground_reaches_everyone() {
    site("reach.test.mjs");
}
