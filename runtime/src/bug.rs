//! What a user reads when tinygpt itself is wrong.
//!
//! Invariants: a panic prints one sentence that asks for a report, however many threads it takes with it; the backtrace comes
//! only where RUST_BACKTRACE asks for one. No user input may lead here: that would be the bug.

use std::panic::PanicHookInfo;
use std::sync::atomic::{AtomicBool, Ordering};

/// The exit status of a process that panics: Rust's own.
pub const EXIT_STATUS: u8 = 101;

/// Makes every panic of this process say so in one sentence.
pub fn install_hook() {
    static SAID: AtomicBool = AtomicBool::new(false);
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0") {
            default(panic);
        }
        if !SAID.swap(true, Ordering::Relaxed) {
            crate::commands::say(&format!("tinygpt: {}", sentence(panic)));
        }
    }));
}

fn sentence(panic: &PanicHookInfo<'_>) -> String {
    let place = panic.location().map(|place| format!(" at {}:{}", place.file(), place.line())).unwrap_or_default();
    let message = crate::error::one_line(panic.payload_as_str().unwrap_or("no message"));
    format!(
        "a bug in tinygpt {}{place} ({message}): please report this line and the command, and what RUST_BACKTRACE=1 adds to it",
        env!("CARGO_PKG_VERSION")
    )
}
