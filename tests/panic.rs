//! What a bug prints: one sentence that asks for a report, whatever panics and however often; a backtrace where it is asked for.
//!
//! A binary of its own with one test, which runs itself to panic: a panic hook is the whole process's.

use std::process::Command;
use tinygpt::runtime::bug;

/// Set in the process that is to panic.
const PANIC: &str = "TINYGPT_TEST_PANIC";

#[test]
fn a_panic_asks_for_a_report() {
    if std::env::var_os(PANIC).is_some() {
        bug::install_hook();
        let _ = std::thread::spawn(|| panic!("first\nof two")).join();
        panic!("second");
    }
    let panicked = |backtrace: Option<&str>| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "a_panic_asks_for_a_report", "--nocapture"])
            .env(PANIC, "1")
            .env_remove("RUST_BACKTRACE");
        backtrace.map(|value| command.env("RUST_BACKTRACE", value));
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(i32::from(bug::EXIT_STATUS)));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    for quiet in [panicked(None), panicked(Some("0"))] {
        let said: Vec<&str> = quiet.lines().filter(|line| line.starts_with("tinygpt: ")).collect();
        let [line] = said[..] else { panic!("{quiet}") };
        assert!(line.starts_with("tinygpt: a bug in tinygpt ") && line.contains("tests/panic.rs:"), "{line}");
        assert!(line.contains("(first of two): please report this line"), "{line}");
        assert!(!quiet.contains("backtrace:") && !quiet.contains("panicked"), "{quiet}");
    }
    let loud = panicked(Some("1"));
    assert!(loud.contains("panicked at") && loud.contains("stack backtrace"), "{loud}");
    assert_eq!(loud.matches("please report").count(), 1, "{loud}");
}
