//! A place in the tokens of a text, and what every grammar reads there: words, names, attributes, lists, types.
//!
//! Invariant: a reader that fails has a [`Fault`] whose span lies in the source; none recurses or panics.

use std::ops::Range;

use super::error::Fault;
use super::lexer::{Token, tokens};
use super::ops::{Attrs, Entry, Raw, index};
use super::{MAX_RANK, suggest};
use crate::infer::MAX_ELEMENTS;
use crate::types::{DType, TensorType};

pub(crate) type Read<T> = Result<T, Fault>;

pub(crate) struct Cursor<'s> {
    tokens: Vec<(Token<'s>, Range<usize>)>,
    at: usize,
}

impl<'s> Cursor<'s> {
    /// At the first token of `source`.
    pub fn new(source: &'s str) -> Cursor<'s> {
        Cursor { tokens: tokens(source), at: 0 }
    }

    /// The end of the last token taken.
    pub fn end(&self) -> usize {
        self.tokens[self.at.saturating_sub(1)].1.end
    }

    pub fn peek(&self) -> &Token<'s> {
        &self.tokens[self.at].0
    }

    pub fn span(&self) -> Range<usize> {
        self.tokens[self.at].1.clone()
    }

    /// Takes the next token; stays at the end.
    pub fn next(&mut self) -> Token<'s> {
        let token = self.peek().clone();
        if token != Token::End {
            self.at += 1;
        }
        token
    }

    pub fn unexpected<V>(&self, expected: &str) -> Read<V> {
        Err(Fault::new(self.span(), format!("found {}, expected {expected}", self.peek().describe())))
    }

    pub fn is(&self, c: char) -> bool {
        *self.peek() == Token::Punct(c)
    }

    /// Takes `c` if it is next.
    pub fn accept(&mut self, c: char) -> bool {
        let found = self.is(c);
        if found {
            self.at += 1;
        }
        found
    }

    pub fn expect(&mut self, c: char) -> Read<()> {
        if self.accept(c) { Ok(()) } else { self.unexpected(&format!("`{c}`")) }
    }

    pub fn word(&mut self, expected: &str) -> Read<(&'s str, Range<usize>)> {
        match *self.peek() {
            Token::Word(w) => {
                let span = self.span();
                self.at += 1;
                Ok((w, span))
            }
            _ => self.unexpected(expected),
        }
    }

    /// Whether `word` is next.
    pub fn at(&self, word: &str) -> bool {
        matches!(self.peek(), Token::Word(w) if *w == word)
    }

    /// Whether `c` comes next, and this word after it.
    pub fn then_at(&self, c: char, word: &str) -> bool {
        let after = self.tokens.get(self.at + 1);
        self.is(c) && after.is_some_and(|(token, _)| matches!(token, Token::Word(w) if *w == word))
    }

    pub fn keyword(&mut self, keyword: &str) -> Read<()> {
        if !self.at(keyword) {
            return self.unexpected(&format!("`{keyword}`"));
        }
        self.at += 1;
        Ok(())
    }

    pub fn name(&mut self) -> Read<(String, Range<usize>)> {
        let span = self.span();
        match self.peek() {
            Token::Word(_) | Token::Str(_) => match self.next() {
                Token::Str(s) => Ok((s, span)),
                Token::Word(w) => Ok((w.to_string(), span)),
                _ => self.unexpected("a name"),
            },
            _ => self.unexpected("a name"),
        }
    }

    /// The first line of a text: its kind and the version that this crate reads.
    pub fn magic(&mut self, magic: &str, version: u32) -> Read<()> {
        self.keyword(magic)?;
        let (found, span) = self.word("the version of the text form")?;
        if found != version.to_string() {
            return Err(Fault::new(span, format!("found version `{found}` of the text form, expected {version}")));
        }
        self.end_of_line()
    }

    pub fn end_of_line(&mut self) -> Read<()> {
        match self.peek() {
            Token::Newline => {
                self.at += 1;
                Ok(())
            }
            Token::End => Ok(()),
            _ => self.unexpected("the end of the line"),
        }
    }

    /// Optional attributes of `owner`.
    pub fn attrs(&mut self, owner: &'s str, owner_span: Range<usize>) -> Read<Attrs<'s>> {
        let mut entries: Vec<Entry<'s>> = Vec::new();
        if self.accept('{') {
            loop {
                let (key, span) = self.word("the name of an attribute")?;
                if entries.iter().any(|e| e.key == key) {
                    return Err(Fault::new(span, format!("the attribute `{key}` is given twice")));
                }
                self.expect('=')?;
                let start = self.span().start;
                let value = match self.peek() {
                    Token::Punct('[') => Raw::List(self.list()?),
                    Token::Word(w) => {
                        let w = *w;
                        self.at += 1;
                        Raw::Word(w)
                    }
                    Token::Str(_) => Raw::Str(self.name()?.0),
                    _ => return self.unexpected("a number, word, string or list"),
                };
                entries.push(Entry { key, span: start..self.end(), value });
                if self.accept('}') {
                    break;
                }
                if !self.accept(',') {
                    return self.unexpected("`,` or the `}` of the attributes");
                }
            }
        }
        Ok(Attrs { owner, owner_span, entries })
    }

    /// `[1,2,3]`
    pub fn list(&mut self) -> Read<Vec<usize>> {
        self.expect('[')?;
        let mut list = Vec::new();
        if self.accept(']') {
            return Ok(list);
        }
        loop {
            let (word, span) = self.word("an integer")?;
            list.push(index(word).map_err(|m| Fault::new(span.clone(), m))?);
            if list.len() > MAX_RANK {
                return Err(Fault::new(span, format!("a list has at most {MAX_RANK} items, one an axis")));
            }
            if self.accept(']') {
                return Ok(list);
            }
            if !self.accept(',') {
                return self.unexpected("`,` or `]`");
            }
        }
    }

    pub fn dtype(&mut self, expected: &str) -> Read<DType> {
        let (word, span) = self.word(expected)?;
        DType::parse(word).ok_or_else(|| {
            let near = suggest(word, DType::ALL.iter().map(|d| d.name()));
            Fault::new(span, format!("found `{word}`, expected {expected}{near}"))
        })
    }

    pub fn tensor_type(&mut self) -> Read<TensorType> {
        const EXPECTED: &str = "a type such as f32[2,3]";
        let start = self.span().start;
        let dtype = self.dtype(EXPECTED)?;
        let shape = self.list()?;
        let span = start..self.end();
        if shape.contains(&0) {
            return Err(Fault::new(span, "every extent of a type is at least 1, found 0"));
        }
        let elements = shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d).filter(|n| *n <= MAX_ELEMENTS));
        if elements.is_none() {
            return Err(Fault::new(span, format!("the type has more than {MAX_ELEMENTS} elements")));
        }
        Ok(TensorType::new(dtype, shape))
    }
}
