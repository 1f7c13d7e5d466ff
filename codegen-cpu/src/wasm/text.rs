//! Modules as text.

/// The text of a module.
///
/// # Panics
/// If the bytes are no module; ours are.
pub fn wat(bytes: &[u8]) -> String {
    let mut out = wasmprinter::PrintFmtWrite(String::new());
    if let Err(e) = wasmprinter::Config::new().fold_instructions(true).print(bytes, &mut out) {
        panic!("a module that was validated cannot be printed: {e}");
    }
    out.0
}

/// Whether a line begins a function, which ends with the next line of the same indentation.
fn begins_function(line: &str) -> bool {
    line.starts_with("  (func ")
}

/// The text of each function of a module that has `count` of them, without its indentation.
pub fn functions(bytes: &[u8], count: usize) -> Vec<String> {
    let mut out: Vec<String> = Vec::with_capacity(count);
    let mut inside = false;
    for line in wat(bytes).lines() {
        if begins_function(line) {
            out.push(String::new());
            inside = true;
        }
        if let (true, Some(text)) = (inside, out.last_mut()) {
            text.push_str(line.strip_prefix("  ").unwrap_or(line));
            text.push('\n');
        }
        if line == "  )" {
            inside = false;
        }
    }
    out
}

/// The text of a module with comments above it and above its functions.
pub fn commented(bytes: &[u8], head: &[String], comments: &[Vec<String>]) -> String {
    let mut out: String = head.iter().map(|line| format!(";; {line}\n")).collect();
    let mut comments = comments.iter();
    for line in wat(bytes).lines() {
        if begins_function(line) {
            for comment in comments.next().into_iter().flatten() {
                out.push_str(&format!("  ;; {comment}\n"));
            }
        }
        out.push_str(line);
        out.push('\n');
    }
    out
}
