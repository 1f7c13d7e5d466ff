//! Errors of reading text: where, what was found, what was expected.

use std::fmt;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};

/// What is wrong at a range of bytes of the source.
pub(crate) struct Fault {
    pub span: Range<usize>,
    pub message: String,
}

impl Fault {
    pub fn new(span: Range<usize>, message: impl Into<String>) -> Fault {
        Fault { span, message: message.into() }
    }
}

/// Text that is no graph or program.
#[derive(Clone, Debug, PartialEq)]
pub struct ParseError {
    /// One sentence: what was found, what was expected.
    pub message: String,
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// Bytes of the source that the message is about.
    pub span: Range<usize>,
    source: String,
}

impl ParseError {
    pub(crate) fn new(source: &str, fault: Fault) -> ParseError {
        // Spans come from the lexer and so lie on character boundaries; `get` keeps that from being a way to panic.
        let before = source.get(..fault.span.start).unwrap_or(source);
        let line_start = before.rfind('\n').map_or(0, |i| i + 1);
        ParseError {
            line: before.bytes().filter(|b| *b == b'\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            message: fault.message,
            span: fault.span,
            source: source.to_string(),
        }
    }

    /// The error with an excerpt of the source, without colours; `path` is shown as the source's name.
    pub fn render(&self, path: Option<&str>) -> String {
        let mut snippet = Snippet::source(self.source.as_str());
        if let Some(path) = path {
            snippet = snippet.path(path);
        }
        let snippet = snippet.annotation(AnnotationKind::Primary.span(self.span.clone()));
        let report = [Level::ERROR.primary_title(self.message.as_str()).element(snippet)];
        Renderer::plain().render(&report)
    }
}

impl std::error::Error for ParseError {}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}: {}", self.line, self.column, self.message)
    }
}
