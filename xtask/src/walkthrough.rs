//! `cargo xtask walkthrough`: the walk-through of README.md, run as it is written, so that it cannot rot.
//!
//! A code block belongs to it whose language is followed by the word `walkthrough`: ```` ```sh walkthrough ````. Blocks run in their order, in one
//! new directory, with the built `tinygpt` first on the path: `sh` by bash, which must end with status 0; `python` by Python. A block
//! of the language `text` says what the block above it prints, on either stream: each of its lines must come, in their order, where `..` within a
//! line stands for anything and a line of `...` for any lines.
//!
//! Blocks with the word `torch` need Python with torch and safetensors: TINYGPT_PYTHON names an interpreter, else it is python3. Without it
//! they are skipped, and that is said; with TINYGPT_REQUIRE_TORCH=1 it is a failure.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Failure, cargo, root, step};

/// A block of the walk-through.
#[derive(Debug, PartialEq, Eq)]
struct Block {
    /// Line of README.md where its code begins, from 1.
    line: usize,
    language: Language,
    needs_torch: bool,
    code: String,
    /// What it prints.
    expected: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Language {
    Sh,
    Python,
}

/// Runs the walk-through with a built `tinygpt`.
pub fn walkthrough() -> Result<(), Failure> {
    let unreadable = |error: std::io::Error| Failure::Unusable(format!("cannot read README.md: {error}"));
    let blocks = blocks(&std::fs::read_to_string(root().join("README.md")).map_err(unreadable)?)?;
    if !blocks.iter().any(|block| block.language == Language::Sh) {
        return Err(Failure::Failed("README.md has no block `sh walkthrough`, expected the walk-through".into()));
    }
    step(&mut cargo(&["build", "--release", "--bin", "tinygpt"]))?;
    let tinygpt = target_directory()?.join("release").join(format!("tinygpt{}", std::env::consts::EXE_SUFFIX));
    let python = python();
    if python.is_none() && std::env::var_os("TINYGPT_REQUIRE_TORCH").is_some_and(|value| value == "1") {
        return Err(Failure::Unusable(
            "found no Python with torch and safetensors: install them, or name an interpreter in TINYGPT_PYTHON".into(),
        ));
    }
    let directory = std::env::temp_dir().join(format!("tinygpt-walkthrough-{}", std::process::id()));
    let failed = |error: std::io::Error| Failure::Unusable(format!("cannot use {}: {error}", directory.display()));
    std::fs::create_dir_all(&directory).map_err(failed)?;
    let mut skipped = 0;
    for block in &blocks {
        if block.needs_torch && python.is_none() {
            skipped += 1;
            continue;
        }
        run(block, &directory, &tinygpt, python.as_deref().unwrap_or("python3"))?;
    }
    std::fs::remove_dir_all(&directory).map_err(failed)?;
    if skipped > 0 {
        eprintln!(
            "xtask: skipped: {skipped} blocks need Python with torch and safetensors; TINYGPT_PYTHON may name an interpreter"
        );
    }
    println!("walkthrough: {} blocks ran, {skipped} skipped", blocks.len() - skipped);
    Ok(())
}

/// The marked blocks of a document. Errors: a block that never ends, of an unknown language, or an output that follows no block.
fn blocks(document: &str) -> Result<Vec<Block>, Failure> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut lines = document.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let Some(words) = line.strip_prefix("```").map(|info| info.split_whitespace().collect::<Vec<_>>()) else {
            continue;
        };
        let mut code = String::new();
        loop {
            match lines.next() {
                Some((_, "```")) => break,
                Some((_, line)) => code += &format!("{line}\n"),
                None => return Err(Failure::Failed(format!("README.md, line {}: the block has no end", number + 1))),
            }
        }
        if !words.contains(&"walkthrough") {
            continue;
        }
        let language = match words[0] {
            "sh" => Language::Sh,
            "python" => Language::Python,
            "text" => {
                let above = blocks.last_mut().filter(|block| block.expected.is_none());
                let above = above.ok_or_else(|| {
                    Failure::Failed(format!("README.md, line {}: the output follows no block that runs", number + 1))
                })?;
                above.expected = Some(code);
                continue;
            }
            other => {
                return Err(Failure::Failed(format!(
                    "README.md, line {}: found a block of `{other}`, expected sh, python or text",
                    number + 1
                )));
            }
        };
        let needs_torch = language == Language::Python || words.contains(&"torch");
        blocks.push(Block { line: number + 2, language, needs_torch, code, expected: None });
    }
    Ok(blocks)
}

/// Runs a block, and compares what it prints.
fn run(block: &Block, directory: &Path, tinygpt: &Path, python: &str) -> Result<(), Failure> {
    let mut command = match block.language {
        Language::Sh => Command::new("bash"),
        Language::Python => Command::new(python),
    };
    let code = match block.language {
        // One stream for both, so that what is printed comes in its order.
        Language::Sh => format!("set -euo pipefail; exec 2>&1\n{}", block.code),
        Language::Python => block.code.clone(),
    };
    let folder = tinygpt.parent().unwrap_or(Path::new("."));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths([folder.to_owned()].into_iter().chain(std::env::split_paths(&path)));
    let path =
        path.map_err(|error| Failure::Unusable(format!("cannot put {} on the path: {error}", folder.display())))?;
    eprintln!("xtask: README.md, line {}", block.line);
    let output = command.arg("-c").arg(&code).current_dir(directory).env("PATH", path).output();
    let output =
        output.map_err(|error| Failure::Unusable(format!("cannot start {:?}: {error}", command.get_program())))?;
    let printed = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    eprint!("{printed}");
    let wrong = |what: String| {
        Failure::Failed(format!(
            "README.md, line {}: {what}; the directory {} is kept",
            block.line,
            directory.display()
        ))
    };
    if !output.status.success() {
        return Err(wrong(format!("the block failed ({})", output.status)));
    }
    match block.expected.as_deref().and_then(|expected| missing(expected, &printed)) {
        Some(line) => Err(wrong(format!("the block does not print, where it should: {line}"))),
        None => Ok(()),
    }
}

/// The first line of `expected` that `printed` lacks.
fn missing<'t>(expected: &'t str, printed: &str) -> Option<&'t str> {
    let mut rest = printed.lines();
    let mut wanted = expected.lines().map(str::trim_end).filter(|line| !line.is_empty() && *line != "...");
    wanted.find(|line| !rest.any(|found| matches(line, found.trim_end())))
}

/// Whether a line is as the pattern says, in which `..` stands for anything.
fn matches(pattern: &str, line: &str) -> bool {
    let mut parts = pattern.split("..");
    let Some(rest) = parts.next().and_then(|first| line.strip_prefix(first)) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    let after = middle.iter().try_fold(rest, |rest, part| rest.find(part).map(|at| &rest[at + part.len()..]));
    after.is_some_and(|rest| rest.ends_with(last))
}

/// Where cargo puts what it builds.
fn target_directory() -> Result<PathBuf, Failure> {
    let output = cargo(&["metadata", "--no-deps", "--format-version", "1"]).output();
    let output = output.map_err(|error| Failure::Unusable(format!("cannot start cargo metadata: {error}")))?;
    let metadata: Option<serde_json::Value> = serde_json::from_slice(&output.stdout).ok();
    let directory = metadata.and_then(|data| data.get("target_directory")?.as_str().map(PathBuf::from));
    directory.ok_or_else(|| Failure::Failed("cargo metadata names no target directory".into()))
}

/// An interpreter that has torch and safetensors.
fn python() -> Option<String> {
    let name = std::env::var("TINYGPT_PYTHON").unwrap_or("python3".to_owned());
    let output = Command::new(&name).args(["-c", "import torch, safetensors.torch"]).output();
    output.is_ok_and(|output| output.status.success()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = "\
# A title
```sh walkthrough
tinygpt train
```
prose
```text walkthrough
step 1 .. checkpoint run
```
```sh
never run
```
```sh walkthrough torch
a
```
```python walkthrough
import torch
```
";

    #[test]
    fn marked_blocks_are_found_with_their_output() {
        let Ok(found) = blocks(DOCUMENT) else { panic!("the document is sound") };
        let lines: Vec<_> = found.iter().map(|block| (block.line, block.language, block.needs_torch)).collect();
        assert_eq!(lines, [(3, Language::Sh, false), (13, Language::Sh, true), (16, Language::Python, true)]);
        assert_eq!(found[0].code, "tinygpt train\n");
        assert_eq!(found[0].expected.as_deref(), Some("step 1 .. checkpoint run\n"));
        for unsound in ["```sh walkthrough\n", "```text walkthrough\n```\n", "```ruby walkthrough\n```\n"] {
            assert!(blocks(unsound).is_err(), "{unsound}");
        }
    }

    #[test]
    fn output_is_compared_in_order_with_gaps() {
        let printed = "small: 3 parameters\nstep 1 loss 2.5 checkpoint run\n\nthe end\n";
        for expected in ["step 1 .. checkpoint run", "small: .. parameters\n...\nthe end", "", "..", "st..loss..run"] {
            assert_eq!(missing(expected, printed), None, "{expected}");
        }
        assert_eq!(missing("the end\nsmall: .. parameters", printed), Some("small: .. parameters"));
        assert_eq!(missing("step 1 .. elsewhere", printed), Some("step 1 .. elsewhere"));
        assert_eq!(missing("step 1", printed), Some("step 1"));
        assert!(!matches("aa..aa", "aaa") && matches("aa..aa", "aaaa"));
    }
}
