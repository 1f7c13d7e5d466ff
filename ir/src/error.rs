//! Errors of building graphs, and how they are shown.
//!
//! `Display` is one line for logs; [`GraphError::render`] is for people: the refused operation and the lines that made its
//! operands, with excerpts of the source. Source files are read only here, and only to render an error; where they are
//! not to be had (another machine, a browser) positions stand alone.
//!
//! Invariants
//! - Rendering never fails: a position outside its file (the file has changed since it was compiled) is shown without excerpt.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use annotate_snippets::{Annotation, AnnotationKind, Element, Level, Renderer, Snippet};

use crate::graph::{Loc, NodeId};
use crate::spec;
use crate::types::TensorType;

/// One operand of a failed operation, as the user wrote it.
#[derive(Clone, Debug, PartialEq)]
pub struct Operand {
    pub node: NodeId,
    /// Name of the operation that makes it; of a parameter `param` and its name.
    pub op: String,
    pub ty: TensorType,
    pub scope: String,
    pub loc: Option<Loc>,
}

/// An operation that the type rules refuse, with the lines involved.
#[derive(Clone, Debug, PartialEq)]
pub struct GraphError {
    /// Name of the refused operation.
    pub op: String,
    /// One sentence: what was found, what was expected.
    pub message: String,
    pub scope: String,
    /// The DSL line of the refused operation.
    pub loc: Option<Loc>,
    pub operands: Vec<Operand>,
}

impl std::error::Error for GraphError {}

/// One line: position, message, and each operand with its type, origin and position.
impl fmt::Display for GraphError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(loc) = self.loc {
            write!(f, "{loc}: ")?;
        }
        f.write_str(&self.title())?;
        for (i, operand) in self.operands.iter().enumerate() {
            write!(f, "{}{}", if i == 0 { " (" } else { "; " }, self.operand_label(i))?;
            if let Some(loc) = operand.loc {
                write!(f, " at {loc}")?;
            }
        }
        f.write_str(if self.operands.is_empty() { "" } else { ")" })
    }
}

impl GraphError {
    /// The error as people read it, without colours.
    pub fn render(&self) -> String {
        self.render_with(&Renderer::plain(), &read_source)
    }

    /// Renders with `renderer` (`Renderer::styled()` has ANSI colours for a terminal); `read` gives the text of a source file by the path that the compiler recorded, if it can.
    pub fn render_with(&self, renderer: &Renderer, read: &dyn Fn(&str) -> Option<String>) -> String {
        let scope = if self.scope.is_empty() { String::new() } else { format!(" in scope `{}`", self.scope) };
        let mut marks = vec![Mark { loc: self.loc, label: format!("`{}`{scope}", self.op), primary: true }];
        for (i, operand) in self.operands.iter().enumerate() {
            let label = self.operand_label(i);
            // `x * x`: one line, one mark.
            match marks.iter_mut().find(|m| !m.primary && m.loc.is_some() && m.loc == operand.loc) {
                Some(mark) => mark.label += &format!("; {label}"),
                None => marks.push(Mark { loc: operand.loc, label, primary: false }),
            }
        }
        let sources = Sources::of(&marks, read);
        let title = Level::ERROR.primary_title(self.title());
        renderer.render(&[title.elements(sources.elements(&marks))])
    }

    /// The message, led by the operation's name.
    fn title(&self) -> String {
        if self.message.starts_with(&self.op) { self.message.clone() } else { format!("{}: {}", self.op, self.message) }
    }

    /// Name, type and origin of operand `i`: ``weight: f32[8,4] from `param w` ``.
    fn operand_label(&self, i: usize) -> String {
        let name = spec::named(&self.op).map_or_else(|| format!("operand {i}"), |s| s.operand_name(i));
        let Operand { ty, op, scope, .. } = &self.operands[i];
        let elsewhere = *scope != self.scope && !scope.is_empty();
        let scope = if elsewhere { format!(" in scope `{scope}`") } else { String::new() };
        format!("{name}: {ty} from `{op}`{scope}")
    }
}

/// A place to point at.
struct Mark {
    loc: Option<Loc>,
    label: String,
    primary: bool,
}

/// The readable files among the marks' in order of first mention.
struct Sources {
    files: Vec<(&'static str, String)>,
}

impl Sources {
    fn of(marks: &[Mark], read: &dyn Fn(&str) -> Option<String>) -> Sources {
        let mut files: Vec<(&'static str, String)> = Vec::new();
        for loc in marks.iter().filter_map(|m| m.loc) {
            if !files.iter().any(|(file, _)| *file == loc.file) {
                files.extend(read(loc.file).map(|text| (loc.file, text)));
            }
        }
        Sources { files }
    }

    fn span(&self, loc: Loc) -> Option<Range<usize>> {
        let (_, text) = self.files.iter().find(|(file, _)| *file == loc.file)?;
        span(text, loc)
    }

    /// One snippet a file, then a note for each mark that has no excerpt.
    fn elements<'a>(&'a self, marks: &'a [Mark]) -> Vec<Element<'a>> {
        let snippet = |(file, text): &'a (&'static str, String)| -> Option<Element<'a>> {
            let mark = |m: &'a Mark| -> Option<Annotation<'a>> {
                let loc = m.loc.filter(|l| l.file == *file)?;
                let kind = if m.primary { AnnotationKind::Primary } else { AnnotationKind::Context };
                Some(kind.span(span(text, loc)?).label(m.label.as_str()))
            };
            let annotations: Vec<Annotation<'a>> = marks.iter().filter_map(mark).collect();
            let shown = Snippet::source(text.as_str()).path(*file);
            (!annotations.is_empty()).then(|| shown.annotations(annotations).into())
        };
        let note = |m: &'a Mark| -> Option<Element<'a>> {
            let at = match m.loc {
                None => String::new(),
                Some(loc) if self.span(loc).is_some() => return None,
                Some(loc) => format!(" at {loc}"),
            };
            Some(Level::NOTE.message(format!("{}{at}", m.label)).into())
        };
        self.files.iter().filter_map(snippet).chain(marks.iter().filter_map(note)).collect()
    }
}

/// Bytes of the expression that starts at `loc`; None if the text has no such place.
///
/// The compiler records where a method's name or an operator's left operand starts, not where the expression ends: a
/// method call runs to its closing bracket, anything else to the end of the statement, and neither beyond the line.
fn span(text: &str, loc: Loc) -> Option<Range<usize>> {
    let line = text.split_inclusive('\n').nth(loc.line.checked_sub(1)? as usize)?;
    let line_start = line.as_ptr() as usize - text.as_ptr() as usize;
    let (start, _) = line.trim_end().char_indices().nth(loc.column.checked_sub(1)? as usize)?;
    let is_method = line[..start].ends_with('.');
    let rest = line[start..].trim_end();
    let mut depth = 0usize;
    let mut end = rest.len();
    for (i, c) in rest.char_indices() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' if depth == 0 => {
                end = i;
                break;
            }
            ')' | ']' | '}' => {
                depth -= 1;
                if is_method && depth == 0 {
                    end = i + 1;
                    break;
                }
            }
            ';' | ',' if depth == 0 => {
                end = i;
                break;
            }
            _ => {}
        }
    }
    Some(line_start + start..line_start + start + end.max(1))
}

/// Reads a source file: its path as it is, or under a folder above the current one, or in this workspace. Cargo records
/// paths from the workspace root and runs tests in the package's folder.
fn read_source(path: &str) -> Option<String> {
    let above =
        std::env::current_dir().map(|d| d.ancestors().map(PathBuf::from).collect()).unwrap_or_else(|_| Vec::new());
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    above.into_iter().chain([workspace]).find_map(|dir| std::fs::read_to_string(dir.join(path)).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "m.rs";

    fn marked(text: &str, line: u32, column: u32) -> Option<&str> {
        span(text, Loc { file: FILE, line, column }).map(|r| &text[r])
    }

    #[test]
    fn spans_cover_the_expression() {
        let text = "fn f() {\n    let y = x.linear(w(1), None) + 1.0;\n    g(a + b[0], c)\n    s.µ(\n}\n";
        assert_eq!(marked(text, 2, 15), Some("linear(w(1), None)"));
        assert_eq!(marked(text, 2, 13), Some("x.linear(w(1), None) + 1.0"));
        assert_eq!(marked(text, 3, 7), Some("a + b[0]"));
        assert_eq!(marked(text, 4, 7), Some("µ("));
        assert_eq!(marked(text, 5, 1), Some("}"));
    }

    #[test]
    fn spans_outside_the_file_are_none() {
        for (line, column) in [(0, 1), (1, 0), (1, 9), (2, 1), (u32::MAX, u32::MAX)] {
            assert_eq!(marked("let x;", line, column), None, "{line}:{column}");
        }
    }

    fn error() -> GraphError {
        let at = |line, column| Some(Loc { file: FILE, line, column });
        let operand = |op: &str, shape: [usize; 1], loc| Operand {
            node: NodeId(0),
            op: op.into(),
            ty: TensorType::f32(shape),
            scope: String::new(),
            loc,
        };
        GraphError {
            op: "add".into(),
            message: "shapes f32[2] and f32[3] do not broadcast".into(),
            scope: "blocks.0".into(),
            loc: at(3, 9),
            operands: vec![operand("param", [2], at(1, 3)), operand("exp", [3], None)],
        }
    }

    #[test]
    fn display_is_one_line_with_operands() {
        assert_eq!(
            error().to_string(),
            "m.rs:3:9: add: shapes f32[2] and f32[3] do not broadcast (a: f32[2] from `param` at m.rs:1:3; \
             b: f32[3] from `exp`)"
        );
    }

    #[test]
    fn without_sources_positions_stand_alone() {
        let text = error().render_with(&Renderer::plain(), &|_| None);
        for part in
            ["error: add: shapes", "`add` in scope `blocks.0` at m.rs:3:9", "a: f32[2] from `param`", "m.rs:1:3"]
        {
            assert!(text.contains(part), "no `{part}` in\n{text}");
        }
        assert!(!text.contains('\u{1b}'));
    }

    #[test]
    fn colours_are_an_option() {
        assert!(error().render_with(&Renderer::styled(), &|_| None).contains('\u{1b}'));
    }
}
