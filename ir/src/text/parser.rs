//! Reading graphs: recursive descent over the tokens of [`lexer`](super::lexer), without recursion.
//!
//! Each `fn` of the parser reads the part of the grammar that it is named after.

use std::collections::HashMap;
use std::ops::Range;

use super::cursor::{Cursor, Read};
use super::error::Fault;
use super::lexer::Token;
use super::ops::build;
use super::{MAGIC, ParseError, VERSION, suggest};
use crate::graph::{Graph, Loc, Node, NodeId, Param, ParamId, ScopeId};
use crate::op::Op;
use crate::types::TensorType;
use crate::verify::verify;

/// Reads the text of a graph; see the module comment of [`text`](super) for its grammar. Its nodes have no source locations.
pub fn parse(text: &str) -> Result<Graph, ParseError> {
    read(text, None)
}

/// [`parse`], where each node's source location is its place in the text, as a file of this name.
pub fn parse_located(text: &str, file: &'static str) -> Result<Graph, ParseError> {
    read(text, Some(file))
}

fn read(text: &str, file: Option<&'static str>) -> Result<Graph, ParseError> {
    let mut p = Parser {
        text,
        file,
        line: (0, 1),
        t: Cursor::new(text),
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

struct Parser<'s> {
    text: &'s str,
    /// The file that source locations name, if nodes have them.
    file: Option<&'static str>,
    /// A line of the text: where it starts, and its number. Lines are looked for from here on.
    line: (usize, u32),
    t: Cursor<'s>,
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
    fn file(&mut self) -> Read<()> {
        self.t.magic(MAGIC, VERSION)?;
        self.t.keyword("graph")?;
        let (name, name_span) = self.t.name()?;
        self.graph.name = name;
        self.t.end_of_line()?;
        while *self.t.peek() != Token::End {
            self.statement()?;
            self.t.end_of_line()?;
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
        if self.t.is('%') {
            return self.node(ScopeId(0));
        }
        let (keyword, span) = self.t.word(STATEMENTS)?;
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
        self.t.expect('@')?;
        let (name, span) = self.t.name()?;
        if self.params.contains_key(&name) {
            return Err(Fault::new(span, format!("the parameter name {name:?} is already taken; names are unique")));
        }
        self.t.expect(':')?;
        let ty = self.t.tensor_type()?;
        let mut attrs = self.t.attrs(keyword, keyword_span)?;
        let kind = attrs.param_kind()?;
        attrs.finish()?;
        let id = self.graph.params.push(Param { name: name.clone(), kind, ty });
        self.params.insert(name, id);
        self.read.push(false);
        Ok(())
    }

    fn scope(&mut self) -> Read<()> {
        let (path, _) = self.t.name()?;
        let id = match self.scopes.get(&path) {
            Some(id) => *id,
            None => {
                let id = self.graph.scopes.push(path.clone());
                self.scopes.insert(path, id);
                id
            }
        };
        self.t.expect('{')?;
        while !self.t.accept('}') {
            self.t.end_of_line()?;
            if self.t.accept('}') {
                break;
            }
            if !self.t.is('%') {
                return self.t.unexpected("a node (`%name = ...`) or the `}` of the scope");
            }
            self.node(id)?;
        }
        Ok(())
    }

    fn output(&mut self) -> Read<()> {
        let (name, span) = self.t.name()?;
        if self.graph.output_named(&name).is_some() {
            return Err(Fault::new(span, format!("the output name {name:?} is already taken; names are unique")));
        }
        self.t.expect('=')?;
        let (id, _) = self.value()?;
        self.graph.outputs.push((name, id));
        Ok(())
    }

    fn update(&mut self) -> Read<()> {
        let (p, span) = self.param_name()?;
        self.t.expect('=')?;
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
        self.t.expect('@')?;
        let (name, span) = self.t.name()?;
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
        let start = self.t.span().start;
        if !self.t.accept('%') {
            return self.t.unexpected("a value such as `%3`");
        }
        let (name, span) = self.t.word("the name of a value after `%`")?;
        let span = start..span.end;
        match self.values.get(name) {
            Some(id) => Ok((*id, span)),
            None => Err(Fault::new(span, format!("the value `%{name}` is not defined above this line"))),
        }
    }

    fn node(&mut self, scope: ScopeId) -> Read<()> {
        let loc = self.loc(self.t.span().start);
        self.t.expect('%')?;
        let (name, span) = self.t.word("the name of a value after `%`")?;
        if self.values.contains_key(name) {
            return Err(Fault::new(span, format!("the value `%{name}` is already defined; each is defined once")));
        }
        self.t.expect('=')?;
        let (op_name, op_span) = self.t.word("an operation")?;
        let param = if self.t.is('@') { Some(self.param_name()?) } else { None };
        let mut inputs = Vec::new();
        if self.t.is('%') {
            inputs.push(self.value()?.0);
            while self.t.accept(',') {
                inputs.push(self.value()?.0);
            }
        }
        let mut attrs = self.t.attrs(op_name, op_span.clone())?;
        if !self.t.accept(':') {
            return self.t.unexpected("`:` and the type of the result");
        }
        let type_start = self.t.span().start;
        let ty = self.t.tensor_type()?;
        let type_span = type_start..self.t.end();

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
        let id = self.graph.nodes.push(Node { op, inputs, ty, scope, loc });
        self.values.insert(name, id);
        self.defined.push(span);
        Ok(())
    }

    /// The source location of a byte of the text, which lies behind those asked for before.
    fn loc(&mut self, at: usize) -> Option<Loc> {
        let file = self.file?;
        let (mut start, mut number) = self.line;
        while let Some(length) = self.text.get(start..at).and_then(|passed| passed.find('\n')) {
            (start, number) = (start + length + 1, number + 1);
        }
        self.line = (start, number);
        let column = self.text.get(start..at).map_or(0, |before| before.chars().count()) as u32 + 1;
        Some(Loc { file, line: number, column })
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
}
