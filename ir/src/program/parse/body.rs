//! Reading scalar bodies, stores and elements.
//!
//! ```text
//! body    = { scalar "=" op ":" dtype EOL }
//! op      = "const" literal | "load" element | "index" sum | "acc" N | "cast" scalar
//!         | unary scalar | binary scalar "," scalar | comparison scalar "," scalar | "select" scalar "," scalar "," scalar
//!         | "random" scalar "," scalar "," scalar "{" "stream" "=" N "}"
//! stores  = { "store" element "=" scalar EOL }
//! element = ( "a0" | "role0" ) "[" sum "]"
//! sum     = [ "-" ] term { ( "+" | "-" ) term }
//! term    = N | [ N "*" ] axis | [ N "*" ] "clamp" "(" scalar "," N ")"
//! ```

use super::{MAX_ID, MAX_NUMBER, Parser, number, numbered};
use crate::op::{Binary, Compare, Unary};
use crate::program::{Access, Affine, ArgId, Body, Indirect, Scalar, ScalarId, ScalarOp, Store};
use crate::text::{Fault, Read, Token, literal, suggest};
use crate::types::DType;

/// Greatest magnitude of an index.
const MAX_REACH: i128 = 1 << 62;

/// The axes over which elements are named, with their extents, and the arguments they are elements of.
#[derive(Clone)]
pub(super) struct Space {
    pub axes: Vec<(String, usize)>,
    /// Word before an argument's number: `a`, or `role` in update kernels.
    pub arg: &'static str,
    /// Arguments (or roles) there are.
    pub args: usize,
}

impl Space {
    /// No axes yet.
    pub fn of_args(args: usize) -> Space {
        Space { axes: Vec::new(), arg: "a", args }
    }

    fn plural(&self) -> &'static str {
        if self.arg == "a" { "arguments" } else { "roles" }
    }
}

/// A sum as it is read.
struct Sum {
    at: Affine,
    indirect: Vec<Indirect>,
}

impl Parser<'_> {
    pub(super) fn body(&mut self, space: &Space) -> Read<Body> {
        let mut body = Body::default();
        while self.t.is('%') {
            let span = self.t.span();
            self.t.next();
            let n = self.number_to("the number of a scalar", MAX_ID)?;
            let expected = body.scalars.len();
            if n != expected {
                let message =
                    format!("found %{n}, expected %{expected}: scalars are numbered in the order of their lines");
                return Err(Fault::new(span, message));
            }
            self.t.expect('=')?;
            let scalar = self.scalar(space, &body)?;
            body.scalars.push(scalar);
            self.t.end_of_line()?;
        }
        Ok(body)
    }

    fn scalar(&mut self, space: &Space, body: &Body) -> Read<Scalar> {
        const EXPECTED: &str = "a scalar operation";
        let (word, span) = self.t.word(EXPECTED)?;
        let op = match word {
            "const" => {
                let (word, span) = self.t.word("a number, true or false")?;
                let dtype = self.result()?;
                let op = ScalarOp::Const(literal(word, dtype).map_err(|m| Fault::new(span, m))?);
                return Ok(Scalar { op, dtype });
            }
            "load" => ScalarOp::Load(self.element(space, body.scalars.len())?),
            "index" => {
                let start = self.t.span().start;
                let sum = self.sum(space, 0)?;
                self.reach(&sum, space, start)?;
                ScalarOp::Index(sum.at)
            }
            "acc" => ScalarOp::Acc(self.number_to("the number of an accumulator", MAX_ID)? as u32),
            "cast" => ScalarOp::Cast(self.scalar_name(body)?),
            "select" => {
                let [c, x, y] = self.operands(body)?;
                ScalarOp::Select(c, x, y)
            }
            "random" => {
                let [seed, counter, index] = self.operands(body)?;
                self.key(true, "stream")?;
                let stream = self.number_to("an integer", u32::MAX.into())? as u32;
                self.t.expect('}')?;
                ScalarOp::Random { seed, counter, stream, index }
            }
            _ => {
                if let Some(u) = Unary::ALL.iter().find(|u| u.name() == word) {
                    ScalarOp::Unary(*u, self.scalar_name(body)?)
                } else if let Some(b) = Binary::ALL.iter().find(|b| b.name() == word) {
                    let [x, y] = self.operands(body)?;
                    ScalarOp::Binary(*b, x, y)
                } else if let Some(c) = Compare::ALL.iter().find(|c| c.name() == word) {
                    let [x, y] = self.operands(body)?;
                    ScalarOp::Compare(*c, x, y)
                } else {
                    let own = ["const", "load", "index", "acc", "cast", "select", "random"].into_iter();
                    let known =
                        own.chain(Unary::ALL.iter().map(|u| u.name())).chain(Binary::ALL.iter().map(|b| b.name()));
                    let near = suggest(word, known.chain(Compare::ALL.iter().map(|c| c.name())));
                    return Err(Fault::new(span, format!("found `{word}`, expected {EXPECTED}{near}")));
                }
            }
        };
        Ok(Scalar { op, dtype: self.result()? })
    }

    /// `: dtype`
    fn result(&mut self) -> Read<DType> {
        if !self.t.accept(':') {
            return self.t.unexpected("`:` and the dtype of the scalar");
        }
        self.t.dtype("a dtype such as `f32`")
    }

    /// A use of a scalar of `body`.
    pub(super) fn scalar_name(&mut self, body: &Body) -> Read<ScalarId> {
        self.scalar_below(body.scalars.len())
    }

    fn scalar_below(&mut self, count: usize) -> Read<ScalarId> {
        let start = self.t.span().start;
        if !self.t.accept('%') {
            return self.t.unexpected("a scalar such as `%3`");
        }
        let n = self.number_to("the number of a scalar", MAX_ID)?;
        if n >= count {
            let message = format!("the scalar %{n} is not defined above this line, or no scalar can be named here");
            return Err(Fault::new(start..self.t.end(), message));
        }
        Ok(ScalarId(n as u32))
    }

    fn operands<const N: usize>(&mut self, body: &Body) -> Read<[ScalarId; N]> {
        let mut operands = [ScalarId(0); N];
        for (i, operand) in operands.iter_mut().enumerate() {
            if i > 0 {
                self.t.expect(',')?;
            }
            *operand = self.scalar_name(body)?;
        }
        Ok(operands)
    }

    pub(super) fn stores(&mut self, space: &Space, body: &Body) -> Read<Vec<Store>> {
        let mut stores = Vec::new();
        while self.optional("store") {
            let access = self.element(space, body.scalars.len())?;
            self.t.expect('=')?;
            stores.push(Store { access, value: self.scalar_name(body)? });
            self.t.end_of_line()?;
        }
        Ok(stores)
    }

    /// An element over `space` whose indirect terms name the first `scalars` scalars.
    pub(super) fn element(&mut self, space: &Space, scalars: usize) -> Read<Access> {
        let expected =
            format!("an element such as `{}0[4*{} + 1]`", space.arg, space.axes.first().map_or("i0", |(n, _)| n));
        let (word, span) = self.t.word(&expected)?;
        let Some(arg) = numbered(word, space.arg) else {
            return Err(Fault::new(span, format!("found `{word}`, expected {expected}")));
        };
        if arg as usize >= space.args {
            return Err(Fault::new(
                span,
                format!("found `{word}`, and the kernel has {} {}", space.args, space.plural()),
            ));
        }
        self.t.expect('[')?;
        let start = self.t.span().start;
        let sum = self.sum(space, scalars)?;
        self.reach(&sum, space, start)?;
        self.t.expect(']')?;
        Ok(Access { arg: ArgId(arg), at: sum.at, indirect: sum.indirect })
    }

    fn sum(&mut self, space: &Space, scalars: usize) -> Read<Sum> {
        const TERM: &str = "a term: an integer, an axis, `clamp(..)`, or a multiple such as `4*i0`";
        let mut sum = Sum { at: Affine::constant(space.axes.len(), 0), indirect: Vec::new() };
        let mut sign = 1;
        loop {
            let (mut word, mut span) = self.t.word(TERM)?;
            if let Some(rest) = word.strip_prefix('-') {
                // Only the first term has its sign attached; elsewhere it is a word of its own.
                (word, sign) = (rest, -sign);
            }
            let mut factor = sign;
            let mut alone = false;
            if word.starts_with(|c: char| c.is_ascii_digit()) {
                factor *= number(word, MAX_NUMBER).map_err(|m| Fault::new(span.clone(), m))? as i64;
                alone = !self.t.accept('*');
                if !alone {
                    (word, span) = self.t.word(TERM)?;
                }
            }
            if alone {
                sum.at.offset += factor;
                if i128::from(sum.at.offset).abs() > MAX_REACH {
                    return Err(Fault::new(span, "the sum of the offsets is beyond 2^62"));
                }
            } else if word == "clamp" {
                self.t.expect('(')?;
                let index = self.scalar_below(scalars)?;
                self.t.expect(',')?;
                let span = self.t.span();
                let extent = self.number_to("an extent", MAX_ID)?;
                if extent == 0 {
                    return Err(Fault::new(span, "found the extent 0, expected at least 1"));
                }
                self.t.expect(')')?;
                sum.indirect.push(Indirect { index, stride: factor, extent });
            } else {
                let names = || space.axes.iter().map(|(n, _)| n.as_str());
                let Some(axis) = names().position(|n| n == word) else {
                    let list: Vec<&str> = names().collect();
                    let list = if list.is_empty() { "none".to_string() } else { list.join(", ") };
                    return Err(Fault::new(span, format!("there is no axis `{word}` here; the axes are {list}")));
                };
                if sum.at.coeffs[axis] != 0 {
                    return Err(Fault::new(span, format!("the axis `{word}` occurs twice in the sum")));
                }
                sum.at.coeffs[axis] = factor;
            }
            sign = match *self.t.peek() {
                Token::Word("+") => 1,
                Token::Word("-") => -1,
                _ => return Ok(sum),
            };
            self.t.next();
        }
    }

    /// Refuses a sum that could leave the range of an index.
    fn reach(&self, sum: &Sum, space: &Space, start: usize) -> Read<()> {
        let direct = sum.at.coeffs.iter().zip(&space.axes).map(|(c, (_, n))| (*c, *n));
        let terms = direct.chain(sum.indirect.iter().map(|i| (i.stride, i.extent)));
        let reach: i128 = terms.map(|(c, n)| i128::from(c).abs() * n as i128).sum();
        if reach + i128::from(sum.at.offset).abs() <= MAX_REACH {
            return Ok(());
        }
        Err(Fault::new(start..self.t.end(), "the sum reaches beyond 2^62"))
    }
}
