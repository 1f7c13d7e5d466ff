//! Tokens of the text forms of graphs and programs.
//!
//! Invariants: the last token is `End`; spans are byte ranges on character boundaries of the source; a line with tokens
//! ends with one `Newline`, blank lines yield none.

use std::borrow::Cow;
use std::ops::Range;

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Token<'s> {
    /// Keyword, number or bare name.
    Word(&'s str),
    Str(String),
    /// One of `% @ = : , { } [ ]`, in programs also `* ( )`.
    Punct(char),
    Newline,
    End,
    /// Something that is no token: what is wrong with it.
    Bad(String),
}

impl Token<'_> {
    /// How messages name the token.
    pub fn describe(&self) -> String {
        match self {
            Token::Word(w) if w.len() > 40 => {
                format!("`{}...`", w.get(..40).unwrap_or(""))
            }
            Token::Word(w) => format!("`{w}`"),
            Token::Str(_) => "a string".to_string(),
            Token::Punct(c) => format!("`{c}`"),
            Token::Newline => "the end of the line".to_string(),
            Token::End => "the end of the text".to_string(),
            Token::Bad(what) => what.clone(),
        }
    }
}

fn is_word_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '+' | '/')
}

/// `name` as it is written: bare if it is a word, quoted otherwise.
pub(crate) fn quoted(name: &str) -> Cow<'_, str> {
    if !name.is_empty() && name.chars().all(is_word_char) { name.into() } else { format!("{name:?}").into() }
}

pub(crate) fn tokens(source: &str) -> Vec<(Token<'_>, Range<usize>)> {
    let mut out: Vec<(Token<'_>, Range<usize>)> = Vec::new();
    let mut at = 0;
    while let Some(c) = source[at..].chars().next() {
        let start = at;
        at += c.len_utf8();
        match c {
            '\n' => {
                if out.last().is_some_and(|(t, _)| *t != Token::Newline) {
                    out.push((Token::Newline, start..at));
                }
            }
            ' ' | '\t' | '\r' => {}
            ';' => at += source[at..].find('\n').unwrap_or(source.len() - at),
            '%' | '@' | '=' | ':' | ',' | '{' | '}' | '[' | ']' | '*' | '(' | ')' => {
                out.push((Token::Punct(c), start..at))
            }
            '"' => {
                let (token, length) = string(&source[at..]);
                at += length;
                out.push((token, start..at));
            }
            _ if is_word_char(c) => {
                let rest = &source[start..];
                at = start + rest.find(|c| !is_word_char(c)).unwrap_or(rest.len());
                out.push((Token::Word(&source[start..at]), start..at));
            }
            _ => out.push((Token::Bad(format!("the character {c:?}")), start..at)),
        }
    }
    if out.last().is_some_and(|(t, _)| *t != Token::Newline) {
        out.push((Token::Newline, source.len()..source.len()));
    }
    out.push((Token::End, source.len()..source.len()));
    out
}

/// Reads a string after its opening quote: the token and the bytes taken.
fn string(rest: &str) -> (Token<'static>, usize) {
    let mut value = String::new();
    let mut chars = rest.char_indices();
    while let Some((i, c)) = chars.next() {
        match c {
            '"' => return (Token::Str(value), i + 1),
            '\n' => return (Token::Bad("a string without its closing quote".into()), i),
            '\\' => match escape(&mut chars) {
                Some(c) => value.push(c),
                None => {
                    let end = chars.offset();
                    return (Token::Bad("a string with an unknown escape".into()), end);
                }
            },
            c => value.push(c),
        }
    }
    (Token::Bad("a string without its closing quote".into()), rest.len())
}

/// The character of an escape, after its backslash: those that Rust's `{:?}` writes.
fn escape(chars: &mut std::str::CharIndices<'_>) -> Option<char> {
    Some(match chars.next()?.1 {
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        '0' => '\0',
        c @ ('"' | '\'' | '\\') => c,
        'u' => {
            let rest = chars.as_str().strip_prefix('{')?;
            let digits = &rest[..rest.find('}')?];
            let ok = (1..=6).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
            let c = char::from_u32(ok.then(|| u32::from_str_radix(digits, 16).ok())??)?;
            for _ in 0..digits.len() + 2 {
                chars.next();
            }
            c
        }
        _ => return None,
    })
}
