//! Reading graphs: recursive descent over the tokens of [`lexer`](super::lexer), without recursion.
//!
//! Each `fn` of the parser reads the part of the grammar that it is named after.

use std::collections::HashMap;
use std::ops::Range;

use super::error::Fault;
use super::lexer::{Token, tokens};
use super::ops::{Attrs, Entry, Raw, build, index};
use super::print::role_name;
use super::{MAGIC, MAX_RANK, ParseError, VERSION};
use crate::graph::{Graph, Init, Node, NodeId, Param, ParamId, ParamKind, ScopeId, StateRole};
use crate::infer::MAX_ELEMENTS;
use crate::op::Op;
use crate::types::{DType, TensorType};
use crate::verify::verify;

type Read<T> = Result<T, Fault>;

/// Reads the text of a graph; see the module comment of [`text`](super) for its grammar.
pub fn parse(text: &str) -> Result<Graph, ParseError> {
    let mut p = Parser {
        tokens: tokens(text),
        at: 0,
        graph: Graph::new(""),
        values: HashMap::new(),
        params: HashMap::new(),
        scopes: HashMap::from([(String::new(), ScopeId(0))]),
        read: Vec::new(),
        defined: Vec::new(),
    };
    match p.file() {
        Ok(()) => Ok(p.graph),
        Err(fault) => Err(ParseError::new(text, fault)),
    }
}

/// `; did you mean ...?` if one of `names` is close to `word`.
pub(super) fn suggest<'n>(word: &str, names: impl Iterator<Item = &'n str>) -> String {
    let distance = |n: &str| strsim::damerau_levenshtein(word, n);
    let near = names.filter(|_| word.len() <= 64).map(|n| (distance(n), n)).min();
    match near {
        Some((d, n)) if d <= word.len().div_ceil(3) && word.len() > 1 => format!("; did you mean `{n}`?"),
        _ => String::new(),
    }
}

struct Parser<'s> {
    tokens: Vec<(Token<'s>, Range<usize>)>,
    at: usize,
    graph: Graph,
    values: HashMap<&'s str, NodeId>,
    params: HashMap<String, ParamId>,
    scopes: HashMap<String, ScopeId>,
    /// By parameter, whether a node reads it already.
    read: Vec<bool>,
    /// By node, where its name is defined.
    defined: Vec<Range<usize>>,
}

impl<'s> Parser<'s> {
    fn peek(&self) -> &Token<'s> {
        &self.tokens[self.at].0
    }

    fn span(&self) -> Range<usize> {
        self.tokens[self.at].1.clone()
    }

    /// Takes the next token; stays at the end.
    fn next(&mut self) -> Token<'s> {
        let token = self.peek().clone();
        if token != Token::End {
            self.at += 1;
        }
        token
    }

    fn unexpected<V>(&self, expected: &str) -> Read<V> {
        Err(Fault::new(self.span(), format!("found {}, expected {expected}", self.peek().describe())))
    }

    fn is(&self, c: char) -> bool {
        *self.peek() == Token::Punct(c)
    }

    /// Takes `c` if it is next.
    fn accept(&mut self, c: char) -> bool {
        let found = self.is(c);
        if found {
            self.at += 1;
        }
        found
    }

    fn expect(&mut self, c: char) -> Read<()> {
        if self.accept(c) { Ok(()) } else { self.unexpected(&format!("`{c}`")) }
    }

    fn word(&mut self, expected: &str) -> Read<(&'s str, Range<usize>)> {
        match *self.peek() {
            Token::Word(w) => {
                let span = self.span();
                self.at += 1;
                Ok((w, span))
            }
            _ => self.unexpected(expected),
        }
    }

    fn keyword(&mut self, keyword: &str) -> Read<()> {
        match self.peek() {
            Token::Word(w) if *w == keyword => {
                self.at += 1;
                Ok(())
            }
            _ => self.unexpected(&format!("`{keyword}`")),
        }
    }

    fn name(&mut self) -> Read<(String, Range<usize>)> {
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

    fn end_of_line(&mut self) -> Read<()> {
        match self.peek() {
            Token::Newline => {
                self.at += 1;
                Ok(())
            }
            Token::End => Ok(()),
            _ => self.unexpected("the end of the line"),
        }
    }

    fn file(&mut self) -> Read<()> {
        self.keyword(MAGIC)?;
        let (version, span) = self.word("the version of the text form")?;
        if version != VERSION.to_string() {
            let message = format!("found version `{version}` of the text form, expected {VERSION}");
            return Err(Fault::new(span, message));
        }
        self.end_of_line()?;
        self.keyword("graph")?;
        let (name, name_span) = self.name()?;
        self.graph.name = name;
        self.end_of_line()?;
        while *self.peek() != Token::End {
            self.statement()?;
            self.end_of_line()?;
        }
        // What reading has not checked yet: the invariants of names, scopes, starting values and weights.
        verify(&self.graph).map_err(|e| {
            let first = e.violations.first();
            let span = first.and_then(|v| v.node).map_or(name_span, |n| self.defined[n.index()].clone());
            Fault::new(span, first.map_or_else(|| e.to_string(), |v| v.to_string()))
        })
    }

    fn statement(&mut self) -> Read<()> {
        const STATEMENTS: &str = "a statement: `input`, `state`, `%name = ...`, `scope`, `output` or `update`";
        if self.is('%') {
            return self.node(ScopeId(0));
        }
        let (keyword, span) = self.word(STATEMENTS)?;
        match keyword {
            "input" | "state" => self.param(keyword, span),
            "scope" => self.scope(),
            "output" => self.output(),
            "update" => self.update(),
            _ => {
                let near = suggest(keyword, ["input", "state", "scope", "output", "update"].into_iter());
                Err(Fault::new(span, format!("found `{keyword}`, expected {STATEMENTS}{near}")))
            }
        }
    }

    fn param(&mut self, keyword: &'s str, keyword_span: Range<usize>) -> Read<()> {
        self.expect('@')?;
        let (name, span) = self.name()?;
        if self.params.contains_key(&name) {
            return Err(Fault::new(span, format!("the parameter name {name:?} is already taken; names are unique")));
        }
        self.expect(':')?;
        let ty = self.tensor_type()?;
        let mut attrs = self.attrs(keyword, keyword_span)?;
        let kind = match keyword {
            "input" => ParamKind::Input,
            _ => {
                let roles = [StateRole::Weight, StateRole::Optimizer, StateRole::Other];
                let role = attrs.choice("role", &roles, role_name)?;
                let init = match attrs.choice("init", &["zeros", "ones", "normal"], |n| n)? {
                    "zeros" => Init::Zeros,
                    "ones" => Init::Ones,
                    _ => Init::Normal(attrs.real("std")?),
                };
                ParamKind::State { init, role }
            }
        };
        attrs.finish()?;
        let id = self.graph.params.push(Param { name: name.clone(), kind, ty });
        self.params.insert(name, id);
        self.read.push(false);
        Ok(())
    }

    fn scope(&mut self) -> Read<()> {
        let (path, _) = self.name()?;
        let id = match self.scopes.get(&path) {
            Some(id) => *id,
            None => {
                let id = self.graph.scopes.push(path.clone());
                self.scopes.insert(path, id);
                id
            }
        };
        self.expect('{')?;
        while !self.accept('}') {
            self.end_of_line()?;
            if self.accept('}') {
                break;
            }
            if !self.is('%') {
                return self.unexpected("a node (`%name = ...`) or the `}` of the scope");
            }
            self.node(id)?;
        }
        Ok(())
    }

    fn output(&mut self) -> Read<()> {
        let (name, span) = self.name()?;
        if self.graph.output_named(&name).is_some() {
            return Err(Fault::new(span, format!("the output name {name:?} is already taken; names are unique")));
        }
        self.expect('=')?;
        let (id, _) = self.value()?;
        self.graph.outputs.push((name, id));
        Ok(())
    }

    fn update(&mut self) -> Read<()> {
        let (p, span) = self.param_name()?;
        self.expect('=')?;
        let (id, value_span) = self.value()?;
        let (param, ty) = (&self.graph.params[p], &self.graph.nodes[id].ty);
        if !param.is_state() {
            return Err(Fault::new(span, format!("{:?} is an input; only a state can be updated", param.name)));
        }
        if param.ty != *ty {
            let message = format!("the update of {:?} is {ty}, expected the state's type {}", param.name, param.ty);
            return Err(Fault::new(value_span, message));
        }
        let at = self.graph.updates.partition_point(|(q, _)| *q < p);
        if self.graph.updates.get(at).is_some_and(|(q, _)| *q == p) {
            return Err(Fault::new(span, format!("{:?} already has an update", param.name)));
        }
        self.graph.updates.insert(at, (p, id));
        Ok(())
    }

    /// A use of a parameter's name.
    fn param_name(&mut self) -> Read<(ParamId, Range<usize>)> {
        self.expect('@')?;
        let (name, span) = self.name()?;
        match self.params.get(&name) {
            Some(p) => Ok((*p, span)),
            None => {
                let near = suggest(&name, self.params.keys().map(String::as_str));
                Err(Fault::new(span, format!("no parameter {name:?} is declared above{near}")))
            }
        }
    }

    /// A use of a value.
    fn value(&mut self) -> Read<(NodeId, Range<usize>)> {
        let start = self.span().start;
        if !self.accept('%') {
            return self.unexpected("a value such as `%3`");
        }
        let (name, span) = self.word("the name of a value after `%`")?;
        let span = start..span.end;
        match self.values.get(name) {
            Some(id) => Ok((*id, span)),
            None => Err(Fault::new(span, format!("the value `%{name}` is not defined above this line"))),
        }
    }

    fn node(&mut self, scope: ScopeId) -> Read<()> {
        self.expect('%')?;
        let (name, span) = self.word("the name of a value after `%`")?;
        if self.values.contains_key(name) {
            return Err(Fault::new(span, format!("the value `%{name}` is already defined; each is defined once")));
        }
        self.expect('=')?;
        let (op_name, op_span) = self.word("an operation")?;
        let param = if self.is('@') { Some(self.param_name()?) } else { None };
        let mut inputs = Vec::new();
        if self.is('%') {
            inputs.push(self.value()?.0);
            while self.accept(',') {
                inputs.push(self.value()?.0);
            }
        }
        let mut attrs = self.attrs(op_name, op_span.clone())?;
        if !self.accept(':') {
            return self.unexpected("`:` and the type of the result");
        }
        let type_start = self.span().start;
        let ty = self.tensor_type()?;
        let type_span = type_start..self.tokens[self.at - 1].1.end;

        let op = build(&mut attrs, &ty, param.as_ref().map(|(p, _)| *p))?;
        attrs.finish()?;
        if let Some((p, span)) = param {
            if op != Op::Param(p) {
                return Err(Fault::new(span, format!("{op_name} takes no parameter; only `param` does")));
            }
            if std::mem::replace(&mut self.read[p.index()], true) {
                return Err(Fault::new(span, "the parameter is already read by a node above; use that value"));
            }
        }
        self.check_type(&op, op_name, op_span, &inputs, &ty, type_span)?;
        let id = self.graph.nodes.push(Node { op, inputs, ty, scope, loc: None });
        self.values.insert(name, id);
        self.defined.push(span);
        Ok(())
    }

    /// Refuses a node whose declared type is not the inferred one.
    fn check_type(
        &self,
        op: &Op,
        op_name: &str,
        op_span: Range<usize>,
        inputs: &[NodeId],
        ty: &TensorType,
        type_span: Range<usize>,
    ) -> Read<()> {
        let g = &self.graph;
        let tys: Vec<&TensorType> = inputs.iter().map(|i| &g.nodes[*i].ty).collect();
        let inferred = crate::infer::infer(op, &tys, |p| g.params.get(p).map(|p| p.ty.clone()))
            .map_err(|message| Fault::new(op_span, message))?;
        if inferred == *ty {
            return Ok(());
        }
        let of: Vec<String> = tys.iter().take(8).map(|t| t.to_string()).collect();
        let of = if of.is_empty() { String::new() } else { format!(" of {}", of.join(", ")) };
        Err(Fault::new(type_span, format!("the declared type is {ty}, but {op_name}{of} is {inferred}")))
    }

    /// Optional attributes of `owner`.
    fn attrs(&mut self, owner: &'s str, owner_span: Range<usize>) -> Read<Attrs<'s>> {
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
                entries.push(Entry { key, span: start..self.tokens[self.at - 1].1.end, value });
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
    fn list(&mut self) -> Read<Vec<usize>> {
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

    fn tensor_type(&mut self) -> Read<TensorType> {
        const EXPECTED: &str = "a type such as f32[2,3]";
        let (word, span) = self.word(EXPECTED)?;
        let Some(dtype) = DType::parse(word) else {
            let near = suggest(word, DType::ALL.iter().map(|d| d.name()));
            return Err(Fault::new(span, format!("found `{word}`, expected {EXPECTED}{near}")));
        };
        let shape = self.list()?;
        let span = span.start..self.tokens[self.at - 1].1.end;
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
