//! What the documents repeat of the code is what the code says. (The table of operations has its test in `ir/tests/reference.rs`.)

use crate::support::Cli;
use clap::{CommandFactory, ValueEnum};
use std::path::PathBuf;
use tinygpt::runtime::cli;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn document(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).unwrap()
}

const DOCUMENTS: [&str; 9] = [
    "README.md",
    "docs/ARCHITECTURE.md",
    "docs/FILETESTS.md",
    "docs/FORMATS.md",
    "docs/IR.md",
    "docs/PLAYGROUND.md",
    "docs/REJECTED.md",
    "SECURITY.md",
    "CHANGELOG.md",
];

/// The code block that follows `mark`.
fn block_after<'t>(text: &'t str, mark: &str) -> &'t str {
    let (_, rest) = text.split_once(mark).unwrap_or_else(|| panic!("no {mark} in the document"));
    let (_, rest) = rest.split_once("```text\n").expect("a code block");
    rest.split_once("```").expect("the block's end").0
}

#[test]
fn excerpts_are_what_dump_prints() {
    let text = document("docs/IR.md");
    for stage in ["graph", "program"] {
        let printed = Cli::new().ok(&format!("dump --preset tiny --stage {stage}")).stdout;
        let mut rest = printed.lines();
        // In this order, whatever is left out between.
        for line in block_after(&text, &format!("<!-- excerpt: {stage} -->")).lines() {
            assert!(
                rest.any(|found| found == line),
                "dump --stage {stage} does not print, where docs/IR.md has it: {line}"
            );
        }
    }
}

#[test]
fn the_readme_lists_every_command_and_stage() {
    let readme = document("README.md");
    let row = |name: &str| readme.lines().find(|line| line.starts_with(&format!("| `{name}` |")));
    for command in cli::Cli::command().get_subcommands() {
        assert!(row(command.get_name()).is_some(), "README.md has no row for the command {}", command.get_name());
    }
    let stages = row("dump").unwrap();
    for stage in cli::Stage::value_variants() {
        let name = stage.to_possible_value().unwrap();
        assert!(
            stages.contains(&format!("`{}`", name.get_name())),
            "README.md does not list stage {}",
            name.get_name()
        );
    }
}

/// Links of the form `](path)`, without those to the web.
fn links(text: &str) -> impl Iterator<Item = &str> {
    text.split("](")
        .skip(1)
        .filter_map(|rest| rest.split_once(')'))
        .map(|(path, _)| path)
        .filter(|p| !p.contains("://"))
}

/// Whether a heading has this anchor, as GitHub makes them: small letters, hyphens for spaces, no punctuation.
fn has_heading(text: &str, anchor: &str) -> bool {
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    let slug = |heading: &str| heading.trim().to_lowercase().chars().filter(kept).collect::<String>().replace(' ', "-");
    text.lines().filter(|line| line.starts_with('#')).any(|line| slug(line.trim_start_matches('#')) == anchor)
}

#[test]
fn links_and_paths_lead_somewhere() {
    for name in DOCUMENTS {
        let text = document(name);
        let folder = root().join(name).parent().unwrap().to_path_buf();
        for link in links(&text) {
            let (file, anchor) = link.split_once('#').map_or((link, None), |(file, anchor)| (file, Some(anchor)));
            let file = if file.is_empty() { root().join(name) } else { folder.join(file) };
            assert!(file.exists(), "{name} links to {link}, which does not exist");
            if let Some(anchor) = anchor {
                let text = std::fs::read_to_string(&file).unwrap();
                assert!(has_heading(&text, anchor), "{name} links to {link}, and there is no such heading");
            }
        }
        for path in text.split('`').skip(1).step_by(2).filter(|p| p.ends_with(".rs") && p.contains('/')) {
            // The code map leaves out the folder of the crate that it is about.
            let bases = ["", "ir/src", "codegen-cpu/src", "codegen-cpu"].map(|base| root().join(base));
            let known = bases.iter().chain([&folder]).any(|base| base.join(path).exists());
            assert!(known, "{name} names {path}, which does not exist");
        }
    }
}

/// Each row of the walk-throughs names a file and something that is in it.
#[test]
fn the_walk_throughs_lead_through_the_code() {
    let text = document("docs/EXTENDING.md");
    let mut rows = 0;
    for row in text.lines().filter(|row| row.starts_with("| ") && row[2..].starts_with(|c: char| c.is_ascii_digit())) {
        // A bar inside a cell is escaped.
        let row = row.replace("\\|", "\u{1}");
        let cells: Vec<String> = row.split('|').map(|cell| cell.trim().replace('\u{1}', "|")).collect();
        let [_, _, file, look, who, _] = &cells[..] else { panic!("not four cells: {row}") };
        let quoted = |cell: &str| cell.split('`').nth(1).unwrap_or_else(|| panic!("no code in {cell}")).to_string();
        let (file, piece) = (quoted(file), quoted(look));
        assert!(
            document(&file).contains(&piece),
            "docs/EXTENDING.md looks for {piece} in {file}, which has no such thing"
        );
        assert!(["", "rustc", "test"].contains(&who.as_str()), "{row}");
        rows += 1;
    }
    assert_eq!(rows, 16 + 9 + 7);
}
