//! Reading programs; [`print`](super::print) has the text form.
//!
//! Each `fn` reads the part of the grammar that it is named after; module `kernel` reads kernels, `body` what is in them.
//!
//! Invariants
//! - Reading never panics and never recurses: every error is a [`ParseError`] with line, column, what was found and what was expected.
//! - What is read is *sound*: buffers, arguments and scalars that are named exist, numbers are small enough that no index computed from
//!   them overflows. Whether it is *valid* is the verifier's to say: text between two passes (kernels without stages, temporaries without
//!   places) reads too.

mod body;
mod kernel;
#[cfg(test)]
mod tests;

use std::ops::Range;

use super::print::{MAGIC, VERSION};
use super::{
    Buffer, BufferId, BufferKind, MemoryPlan, Place, PlacementPolicy, Program, ProgramOutput, ProgramParam, TargetModel,
};
use crate::text::{Attrs, Cursor, Fault, ParseError, Read, Token, suggest};
use crate::types::Arena;

/// Greatest number of bytes, elements or anything else that is read.
const MAX_NUMBER: u64 = 1 << 53;
/// Greatest stage, slot, pack or node number.
const MAX_ID: u64 = u32::MAX as u64 - 1;

/// Reads the text of a program; see the module comment of [`print`](super::print) for its grammar.
pub fn parse(text: &str) -> Result<Program, ParseError> {
    let mut p = Parser { t: Cursor::new(text), program: empty(), named: Vec::new(), unordered: false, origins: 0 };
    match p.file() {
        Ok(()) => Ok(p.program),
        Err(fault) => Err(ParseError::new(text, fault)),
    }
}

fn empty() -> Program {
    Program {
        name: String::new(),
        target: TargetModel::cpu(),
        params: Vec::new(),
        outputs: Vec::new(),
        buffers: Arena::default(),
        kernels: Arena::default(),
        stages: Vec::new(),
        memory: MemoryPlan::default(),
    }
}

struct Parser<'s> {
    t: Cursor<'s>,
    program: Program,
    /// Buffers named so far, and where: they must exist at the end.
    named: Vec<(BufferId, Range<usize>)>,
    /// Whether kernels come without a stage from here on.
    unordered: bool,
    /// Nodes named by the origins of all kernels so far.
    origins: usize,
}

/// The number after `prefix` in words such as `b12`.
fn numbered(word: &str, prefix: &str) -> Option<u32> {
    let digits = word.strip_prefix(prefix)?;
    let canonical = digits == "0" || !digits.starts_with('0');
    (canonical && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok()).flatten()
}

/// A non-negative integer of at most `most`.
fn number(word: &str, most: u64) -> Result<usize, String> {
    match word.parse::<u64>() {
        Ok(n) if n <= most && word.bytes().all(|b| b.is_ascii_digit()) => Ok(n as usize),
        _ => Err(format!("found `{word}`, expected an integer from 0 to {most}")),
    }
}

impl<'s> Parser<'s> {
    fn file(&mut self) -> Read<()> {
        self.t.magic(MAGIC, VERSION)?;
        self.t.keyword("program")?;
        self.program.name = self.t.name()?.0;
        self.t.end_of_line()?;
        self.target()?;
        self.memory()?;
        while *self.t.peek() != Token::End {
            self.statement()?;
            self.t.end_of_line()?;
        }
        let count = self.program.buffers.len();
        match self.named.iter().find(|(b, _)| b.index() >= count) {
            None => Ok(()),
            Some((b, span)) => {
                let message = format!("the buffer {b} is not defined; the program has {count} buffers");
                Err(Fault::new(span.clone(), message))
            }
        }
    }

    fn number(&mut self, expected: &str) -> Read<usize> {
        self.number_to(expected, MAX_NUMBER)
    }

    fn number_to(&mut self, expected: &str, most: u64) -> Read<usize> {
        let (word, span) = self.t.word(expected)?;
        number(word, most).map_err(|m| Fault::new(span, m))
    }

    /// `{key=...` or `, key=...`
    fn key(&mut self, first: bool, key: &str) -> Read<()> {
        self.t.expect(if first { '{' } else { ',' })?;
        self.t.keyword(key)?;
        self.t.expect('=')
    }

    fn target(&mut self) -> Read<()> {
        self.t.keyword("target")?;
        let name = self.t.name()?.0;
        let mut field = |first, key: &str| {
            self.key(first, key)?;
            self.number("an integer")
        };
        let (lanes, max_args) = (field(true, "lanes")?, field(false, "max_args")?);
        self.key(false, "max_arg_bytes")?;
        let max_arg_bytes = if self.t.at("unlimited") {
            self.t.next();
            usize::MAX
        } else {
            self.number("an integer or `unlimited`")?
        };
        self.key(false, "alignment")?;
        let alignment = self.number("an integer")?;
        self.key(false, "placement")?;
        let (word, span) = self.t.word("`slab` or `slot`")?;
        let placement = match word {
            "slab" => PlacementPolicy::Slab,
            "slot" => PlacementPolicy::Slot,
            _ => return Err(Fault::new(span, format!("found `{word}`, expected `slab` or `slot`"))),
        };
        self.key(false, "launch_cost_bytes")?;
        let launch_cost_bytes = self.number("an integer")?;
        let f16_operands = self.t.then_at(',', "operands");
        if f16_operands {
            self.key(false, "operands")?;
            self.t.keyword("f16")?;
        }
        let f16_values = match self.t.then_at(',', "f16_values") {
            true => {
                self.key(false, "f16_values")?;
                Some(self.number("an integer")?)
            }
            false => None,
        };
        self.t.expect('}')?;
        self.program.target = TargetModel {
            name,
            lanes,
            max_args,
            max_arg_bytes,
            alignment,
            placement,
            launch_cost_bytes,
            f16_operands,
            f16_values,
        };
        self.t.end_of_line()
    }

    fn memory(&mut self) -> Read<()> {
        self.t.keyword("memory")?;
        self.key(true, "planned")?;
        let planned = self.number("an integer")?;
        self.key(false, "lower_bound")?;
        let lower_bound = self.number("an integer")?;
        self.key(false, "slots")?;
        let slots = self.list()?;
        let packs = if self.t.is(',') {
            self.key(false, "packs")?;
            self.list()?
        } else {
            Vec::new()
        };
        self.t.expect('}')?;
        self.program.memory = MemoryPlan { planned, lower_bound, slots, packs };
        self.t.end_of_line()
    }

    /// `[1,2,3]` of any length
    fn list(&mut self) -> Read<Vec<usize>> {
        self.t.expect('[')?;
        let mut list = Vec::new();
        if self.t.accept(']') {
            return Ok(list);
        }
        loop {
            list.push(self.number("an integer")?);
            if self.t.accept(']') {
                return Ok(list);
            }
            self.t.expect(',')?;
        }
    }

    fn statement(&mut self) -> Read<()> {
        const STATEMENTS: &str =
            "a statement: `input`, `state`, `output`, `b0 = ...`, `stage`, `unordered` or `kernel`";
        let (word, span) = self.t.word(STATEMENTS)?;
        match word {
            "input" | "state" => self.param(word, span),
            "output" => self.output(),
            "stage" => self.stage(),
            "unordered" => {
                self.unordered = true;
                Ok(())
            }
            "kernel" => self.kernel(span),
            _ => match numbered(word, "b") {
                Some(id) => self.buffer(id, span),
                None => {
                    let known = ["input", "state", "output", "stage", "unordered", "kernel"];
                    let near = suggest(word, known.into_iter());
                    Err(Fault::new(span, format!("found `{word}`, expected {STATEMENTS}{near}")))
                }
            },
        }
    }

    /// A use of a buffer's name.
    fn buffer_name(&mut self) -> Read<BufferId> {
        let (word, span) = self.t.word("a buffer such as `b3`")?;
        match numbered(word, "b") {
            Some(id) => {
                self.named.push((BufferId(id), span));
                Ok(BufferId(id))
            }
            None => Err(Fault::new(span, format!("found `{word}`, expected a buffer such as `b3`"))),
        }
    }

    fn param(&mut self, keyword: &'s str, keyword_span: Range<usize>) -> Read<()> {
        self.t.expect('@')?;
        let name = self.t.name()?.0;
        self.t.expect(':')?;
        let ty = self.t.tensor_type()?;
        let mut attrs: Attrs<'s> = self.t.attrs(keyword, keyword_span)?;
        let kind = attrs.param_kind()?;
        attrs.finish()?;
        self.t.expect('=')?;
        let buffer = self.buffer_name()?;
        self.program.params.push(ProgramParam { name, kind, ty, buffer });
        Ok(())
    }

    fn output(&mut self) -> Read<()> {
        let name = self.t.name()?.0;
        self.t.expect(':')?;
        let ty = self.t.tensor_type()?;
        self.t.expect('=')?;
        let buffer = self.buffer_name()?;
        self.program.outputs.push(ProgramOutput { name, ty, buffer });
        Ok(())
    }

    fn buffer(&mut self, id: u32, span: Range<usize>) -> Read<()> {
        let expected = self.program.buffers.len();
        if id as usize != expected {
            let message =
                format!("found b{id}, expected b{expected}: buffers are numbered in the order of their lines");
            return Err(Fault::new(span, message));
        }
        self.t.expect('=')?;
        let kind = self.buffer_kind()?;
        self.t.expect(':')?;
        let dtype = self.t.dtype("a dtype such as `f32`")?;
        self.t.keyword("x")?;
        let len = self.number("the number of elements")?;
        let place = self.place()?;
        let live = match self.optional("live") {
            true => Some(self.pair("..", "the first and last stage, such as `0..3`", [MAX_ID, MAX_ID])?),
            false => None,
        };
        let takes_over = if self.optional("takes") { Some(self.buffer_name()?) } else { None };
        self.t.keyword("label")?;
        let label = self.t.name()?.0;
        let live = live.map(|(first, last)| (first as u32, last as u32));
        self.program.buffers.push(Buffer { label, dtype, len, kind, place, live, takes_over });
        Ok(())
    }

    /// Takes `word` if it is next.
    fn optional(&mut self, word: &str) -> bool {
        let found = self.t.at(word);
        if found {
            self.t.next();
        }
        found
    }

    /// Two integers with `between` between them and no space.
    fn pair(&mut self, between: &str, expected: &str, most: [u64; 2]) -> Read<(usize, usize)> {
        let (word, span) = self.t.word(expected)?;
        let Some((a, b)) = word.split_once(between) else {
            return Err(Fault::new(span, format!("found `{word}`, expected {expected}")));
        };
        let read = |word, most| number(word, most).map_err(|m| Fault::new(span.clone(), m));
        Ok((read(a, most[0])?, read(b, most[1])?))
    }

    fn buffer_kind(&mut self) -> Read<BufferKind> {
        const EXPECTED: &str = "`input`, `state`, `output` or `temp`";
        let (word, span) = self.t.word(EXPECTED)?;
        let kind: fn(usize) -> BufferKind = match word {
            "temp" => return Ok(BufferKind::Temp),
            "input" => BufferKind::Input,
            "state" => BufferKind::State,
            "output" => BufferKind::Output,
            _ => return Err(Fault::new(span, format!("found `{word}`, expected {EXPECTED}"))),
        };
        Ok(kind(self.number_to("the number of an input, state or output", MAX_ID)?))
    }

    fn place(&mut self) -> Read<Place> {
        const EXPECTED: &str = "a place: `own`, `slab OFFSET`, `slot NUMBER` or `pack NUMBER+OFFSET`";
        let (word, span) = self.t.word(EXPECTED)?;
        Ok(match word {
            "own" => Place::Own,
            "slab" => Place::Slab(self.number("the offset in the slab")?),
            "slot" => Place::Slot(self.number_to("the number of the slot", MAX_ID)? as u32),
            "pack" => {
                let (pack, offset) = self.pair("+", "a pack and an offset, such as `0+64`", [MAX_ID, MAX_NUMBER])?;
                Place::Pack { pack: pack as u32, offset }
            }
            _ => return Err(Fault::new(span, format!("found `{word}`, expected {EXPECTED}"))),
        })
    }

    fn stage(&mut self) -> Read<()> {
        let span = self.t.span();
        let found = self.number("the number of the stage")?;
        let expected = self.program.stages.len();
        if found != expected || self.unordered {
            let order = "stages are numbered in the order of their lines, and come before kernels that have none";
            return Err(Fault::new(span, format!("found stage {found}, expected stage {expected}: {order}")));
        }
        let from = self.program.kernels.len() as u32;
        self.program.stages.push((from, from));
        Ok(())
    }
}
