//! Bodies: scalars of a body as named WGSL values.
//!
//! Invariants
//! - A scalar is computed at most once in a scope; [`Eval::mark`] and [`Eval::reset`] bracket an inner scope.
//! - With a vector axis set, a value that varies along it is *wide*: four lanes, at four consecutive indices from a multiple of four.
//!   Values that do not vary stay scalar.
//! - No operation has only constant operands, which WGSL would fold at compile time and refuse where the result is not finite.

use crate::cx::Cx;
use crate::text::{affine, literal, type_name};
use std::collections::HashMap;
use tinygpt_ir::op::{Binary, Compare, Unary};
use tinygpt_ir::program::{Access, Affine, Body, ScalarId, ScalarOp, Store};
use tinygpt_ir::types::DType;

/// A value in scope.
#[derive(Clone, Debug)]
pub struct Value {
    /// A name or a constant.
    pub text: String,
    pub wide: bool,
    constant: bool,
}

impl Value {
    pub fn scalar(text: impl Into<String>) -> Value {
        Value { text: text.into(), wide: false, constant: false }
    }
    pub fn wide(text: impl Into<String>) -> Value {
        Value { text: text.into(), wide: true, constant: false }
    }
}

pub struct Eval<'b> {
    body: &'b Body,
    /// Index along each axis of the space: expressions that bind tighter than `*`.
    pub point: Vec<String>,
    /// The axis with four lanes.
    pub vector: Option<usize>,
    pub accs: Vec<Option<Value>>,
    known: HashMap<ScalarId, Value>,
    /// Element offsets of arguments that are not constants: names.
    pub dynamic_offsets: HashMap<usize, String>,
    /// What the names of values end in.
    pub suffix: String,
}

/// Whether an access, over a space with four lanes along `axis`, touches whole groups of four consecutive elements.
pub fn is_aligned(cx: &Cx, access: &Access, axis: usize) -> bool {
    let fours = |c: i64| c % 4 == 0;
    access.at.coeffs.get(axis) == Some(&1)
        && access.at.coeffs.iter().enumerate().all(|(d, c)| d == axis || fours(*c))
        && fours(access.at.offset + cx.offset(access.arg))
        && access.indirect.iter().all(|i| fours(i.stride))
}

impl<'b> Eval<'b> {
    pub fn new(body: &'b Body, point: Vec<String>) -> Eval<'b> {
        Eval {
            body,
            point,
            vector: None,
            accs: Vec::new(),
            known: HashMap::new(),
            dynamic_offsets: HashMap::new(),
            suffix: String::new(),
        }
    }

    /// What is known now.
    pub fn mark(&self) -> HashMap<ScalarId, Value> {
        self.known.clone()
    }

    /// Forgets what was computed since `mark`.
    pub fn reset(&mut self, mark: HashMap<ScalarId, Value>) {
        self.known = mark;
    }

    /// Whether each scalar varies along the axes `from ..`.
    pub fn varies(body: &Body, from: usize) -> Vec<bool> {
        body.depends(|op| match op {
            ScalarOp::Load(a) => a.at.coeffs[from..].iter().any(|c| *c != 0),
            ScalarOp::Index(a) => a.coeffs[from..].iter().any(|c| *c != 0),
            _ => false,
        })
    }

    /// What is known and was not at `mark`.
    pub fn since(&self, mark: &HashMap<ScalarId, Value>) -> HashMap<ScalarId, Value> {
        self.known.iter().filter(|(id, _)| !mark.contains_key(id)).map(|(id, v)| (*id, v.clone())).collect()
    }

    /// Adds what is in scope already.
    pub fn recall(&mut self, values: &HashMap<ScalarId, Value>) {
        self.known.extend(values.iter().map(|(id, v)| (*id, v.clone())));
    }

    /// Computes those scalars under `roots` that satisfy `wanted`.
    pub fn hoist(&mut self, cx: &mut Cx, roots: &[ScalarId], wanted: impl Fn(ScalarId) -> bool) {
        for id in needed(self.body, roots) {
            if wanted(id) {
                self.value(cx, id);
            }
        }
    }

    /// The value of `id`.
    pub fn value(&mut self, cx: &mut Cx, id: ScalarId) -> Value {
        let mut missing = self.missing(id);
        missing.sort_unstable();
        for s in missing {
            let v = self.compute(cx, s);
            self.known.insert(s, v);
        }
        self.known[&id].clone()
    }

    /// Scalars under `id` that must be computed: a known value hides what only it needs.
    fn missing(&self, id: ScalarId) -> Vec<ScalarId> {
        let mut out: Vec<ScalarId> = Vec::new();
        let mut todo = vec![id];
        while let Some(s) = todo.pop() {
            if !self.known.contains_key(&s) && !out.contains(&s) {
                out.push(s);
                todo.extend(self.body.scalars[s].op.operands());
            }
        }
        out
    }

    fn of(&self, id: &ScalarId) -> Value {
        self.known[id].clone()
    }

    fn bind(&self, cx: &mut Cx, id: ScalarId, what: &str, text: String, wide: bool) -> Value {
        let name = format!("{what}_{}{}", id.index(), self.suffix);
        cx.code.line(format!("let {name} = {text};"));
        Value { text: name, wide, constant: false }
    }

    /// `v` as an operand of width `wide`.
    fn widened(&self, v: &Value, dtype: DType, wide: bool) -> String {
        if wide && !v.wide { format!("{}({})", type_name(dtype, true), v.text) } else { v.text.clone() }
    }

    /// Affine terms without the vector axis, and its coefficient.
    fn terms(&self, at: &Affine) -> (Vec<(i64, String)>, i64) {
        let mut lanes = 0;
        let mut terms = Vec::new();
        for (d, (c, index)) in at.coeffs.iter().zip(&self.point).enumerate() {
            if Some(d) == self.vector {
                lanes = *c;
            }
            terms.push((*c, index.clone()));
        }
        (terms, lanes)
    }

    fn compute(&mut self, cx: &mut Cx, id: ScalarId) -> Value {
        let s = &self.body.scalars[id];
        let dtype = s.dtype;
        let operand_dtype = |x: &ScalarId| self.body.scalars[*x].dtype;
        match &s.op {
            ScalarOp::Const(c) => Value { text: literal(*c), wide: false, constant: true },
            ScalarOp::Acc(i) => match self.accs.get(*i as usize).cloned().flatten() {
                Some(v) => v,
                // The verifier proved that it exists; an unset one is an error of this crate.
                None => unreachable!("accumulator {i} is read before it is computed"),
            },
            ScalarOp::Load(a) => {
                let a = a.clone();
                self.load(cx, id, &a)
            }
            ScalarOp::Index(a) => {
                let (terms, lanes) = self.terms(a);
                let base = format!("i32({})", affine(a.offset, &terms));
                if lanes == 0 {
                    self.bind(cx, id, "index", base, false)
                } else {
                    let steps = format!("vec4<i32>(0i, {}i, {}i, {}i)", lanes, 2 * lanes, 3 * lanes);
                    self.bind(cx, id, "index", format!("vec4<i32>({base}) + {steps}"), true)
                }
            }
            ScalarOp::Unary(op, x) => {
                let x = self.variable(cx, x);
                self.unary(cx, id, *op, dtype, x)
            }
            ScalarOp::Binary(op, x, y) => {
                let (t, op) = (operand_dtype(x), *op);
                let (x, y) = self.pair(cx, x, y);
                let wide = x.wide || y.wide;
                let (a, b) = (self.widened(&x, t, wide), self.widened(&y, t, wide));
                let text = match op {
                    Binary::Add => format!("{a} + {b}"),
                    Binary::Sub => format!("{a} - {b}"),
                    Binary::Mul => format!("{a} * {b}"),
                    Binary::Div => format!("{a} / {b}"),
                    Binary::Max if t == DType::Bool => format!("{a} | {b}"),
                    Binary::Min if t == DType::Bool => format!("{a} & {b}"),
                    Binary::Max | Binary::Min if t == DType::F32 => {
                        let f = cx.helper(op.name(), wide);
                        format!("{f}({a}, {b})")
                    }
                    // A NaN in the first operand wins, in the second loses: the built-in functions promise neither.
                    Binary::Max => format!("select({a}, {b}, {a} < {b})"),
                    Binary::Min => format!("select({a}, {b}, {b} < {a})"),
                };
                self.bind(cx, id, op.name(), text, wide)
            }
            ScalarOp::Compare(op, x, y) => {
                let (t, op) = (operand_dtype(x), *op);
                let (x, y) = self.pair(cx, x, y);
                let wide = x.wide || y.wide;
                let (mut a, mut b) = (self.widened(&x, t, wide), self.widened(&y, t, wide));
                let sign = match op {
                    Compare::Eq => "==",
                    Compare::Ne => "!=",
                    Compare::Lt => "<",
                    Compare::Le => "<=",
                    Compare::Gt => ">",
                    Compare::Ge => ">=",
                };
                if t == DType::Bool && !matches!(op, Compare::Eq | Compare::Ne) {
                    let u = type_name(DType::U32, wide);
                    (a, b) = (format!("{u}({a})"), format!("{u}({b})"));
                }
                // naga's `!=` is false for a NaN.
                let text = match op {
                    Compare::Ne if t.is_float() => format!("!({a} == {b})"),
                    _ => format!("{a} {sign} {b}"),
                };
                self.bind(cx, id, op.name(), text, wide)
            }
            ScalarOp::Select(c, x, y) => {
                let c = self.variable(cx, c);
                let (x, y) = (self.of(x), self.of(y));
                let wide = c.wide || x.wide || y.wide;
                let (a, b) = (self.widened(&x, dtype, wide), self.widened(&y, dtype, wide));
                let c = self.widened(&c, DType::Bool, wide);
                self.bind(cx, id, "select", format!("select({b}, {a}, {c})"), wide)
            }
            ScalarOp::Cast(x) => {
                let from = operand_dtype(x);
                let x = self.variable(cx, x);
                self.cast(cx, id, from, dtype, x)
            }
            ScalarOp::Random { seed, counter, stream, index } => {
                let name = cx.helper("random", false);
                let (seed, counter, index) = (self.of(seed), self.of(counter), self.of(index));
                let wide = seed.wide || counter.wide || index.wide;
                let call = |lane: &str| {
                    let part = |v: &Value| if v.wide { format!("{}{lane}", v.text) } else { v.text.clone() };
                    format!("{name}({}, {}, {stream}u, {})", part(&seed), part(&counter), part(&index))
                };
                let text = if wide {
                    format!("vec4<f32>({}, {}, {}, {})", call(".x"), call(".y"), call(".z"), call(".w"))
                } else {
                    call("")
                };
                self.bind(cx, id, "random", text, wide)
            }
        }
    }

    /// The operand, a constant bound to a name.
    fn variable(&mut self, cx: &mut Cx, id: &ScalarId) -> Value {
        let v = self.of(id);
        if !v.constant {
            return v;
        }
        let bound = self.bind(cx, *id, "const", v.text, false);
        self.known.insert(*id, bound.clone());
        bound
    }

    /// Two operands, not both constants.
    fn pair(&mut self, cx: &mut Cx, x: &ScalarId, y: &ScalarId) -> (Value, Value) {
        let (a, b) = (self.of(x), self.of(y));
        if a.constant && b.constant { (self.variable(cx, x), self.of(y)) } else { (a, b) }
    }

    fn unary(&mut self, cx: &mut Cx, id: ScalarId, op: Unary, dtype: DType, x: Value) -> Value {
        let ty = type_name(dtype, x.wide);
        let one = format!("{}(1.0)", ty);
        let text = match op {
            Unary::Neg if dtype == DType::U32 => format!("{ty}() - {}", x.text),
            Unary::Neg => format!("-{}", x.text),
            Unary::Sqrt => format!("sqrt({})", x.text),
            Unary::Rsqrt => format!("inverseSqrt({})", x.text),
            Unary::Recip => format!("{one} / {}", x.text),
            Unary::Exp | Unary::Log | Unary::Tanh | Unary::Erf | Unary::Sin | Unary::Cos => {
                let f = cx.helper(op.name(), x.wide);
                match dtype {
                    DType::F16 => format!("{ty}({f}({}({})))", type_name(DType::F32, x.wide), x.text),
                    _ => format!("{f}({})", x.text),
                }
            }
        };
        self.bind(cx, id, op.name(), text, x.wide)
    }

    fn cast(&mut self, cx: &mut Cx, id: ScalarId, from: DType, to: DType, x: Value) -> Value {
        let ty = type_name(to, x.wide);
        let text = match (from, to) {
            (a, b) if a == b => return x,
            (DType::F32 | DType::F16, DType::I32 | DType::U32) => {
                let f = cx.helper(if to == DType::I32 { "to_i32" } else { "to_u32" }, x.wide);
                match from {
                    DType::F16 => format!("{f}({}({}))", type_name(DType::F32, x.wide), x.text),
                    _ => format!("{f}({})", x.text),
                }
            }
            (_, DType::Bool) => format!("!({} == {}())", x.text, type_name(from, x.wide)),
            // How a conversion rounds is the adapter's choice, which was looked into where there are cooperative matrices.
            (DType::F32, DType::F16) if cx.caps.cooperative.is_none() => {
                let round = cx.helper("round_to_f16", x.wide);
                format!("{ty}({round}({}))", x.text)
            }
            _ => format!("{ty}({})", x.text),
        };
        self.bind(cx, id, "cast", text, x.wide)
    }

    /// Text of the address of `access` at lane 0, the binding's start being element 0, its step a lane, and whether lanes have
    /// addresses of their own (then the text has a placeholder: use [`Eval::lane_address`]).
    fn address(&self, cx: &Cx, access: &Access, lane: Option<usize>) -> String {
        let (mut terms, lanes) = self.terms(&access.at);
        for i in &access.indirect {
            let v = &self.known[&i.index];
            let last = i.extent as i64 - 1;
            let index = match (v.wide, lane) {
                (true, Some(l)) => format!("{}.{}", v.text, ["x", "y", "z", "w"][l]),
                _ => v.text.clone(),
            };
            terms.push((i.stride, format!("u32(clamp({index}, 0i, {last}i))")));
        }
        if let Some(name) = self.dynamic_offsets.get(&access.arg.index()) {
            terms.push((1, name.clone()));
        }
        affine(access.at.offset + cx.offset(access.arg) + lanes * lane.unwrap_or(0) as i64, &terms)
    }

    fn load(&mut self, cx: &mut Cx, id: ScalarId, a: &Access) -> Value {
        // An index that is a constant would make `clamp` a constant expression, which is well defined.
        let lanes = self.vector.map_or(0, |d| a.at.coeffs[d]);
        let gathers = a.indirect.iter().any(|i| self.known[&i.index].wide);
        let what = format!("a{}", a.arg.index());
        if lanes == 0 && !gathers {
            let text = cx.load(a.arg, &self.address(cx, a, None));
            return self.bind(cx, id, &what, text, false);
        }
        if cx.is_vector(a.arg) {
            let text = cx.load4(a.arg, &self.address(cx, a, None));
            return self.bind(cx, id, &what, text, true);
        }
        let each: Vec<String> = (0..4).map(|l| cx.load(a.arg, &self.address(cx, a, Some(l)))).collect();
        let text = format!("{}({})", type_name(cx.dtype(a.arg), true), each.join(", "));
        self.bind(cx, id, &what, text, true)
    }

    /// Computes the values of `stores` and where their windows are, then writes them all.
    pub fn stores(&mut self, cx: &mut Cx, stores: &[&Store]) {
        for index in stores.iter().flat_map(|s| &s.access.indirect) {
            self.value(cx, index.index);
        }
        let values: Vec<Value> = stores.iter().map(|s| self.value(cx, s.value)).collect();
        for (s, v) in stores.iter().zip(values) {
            self.store(cx, s, &v);
        }
    }

    pub fn store(&mut self, cx: &mut Cx, store: &Store, v: &Value) {
        let a = &store.access;
        let lanes = self.vector.map_or(0, |d| a.at.coeffs[d]);
        if lanes == 0 {
            let index = self.address(cx, a, None);
            cx.store(a.arg, &index, &v.text);
        } else if cx.is_vector(a.arg) {
            let index = self.address(cx, a, None);
            let value = self.widened(v, cx.dtype(a.arg), true);
            cx.store4(a.arg, &index, &value);
        } else {
            for l in 0..4 {
                let index = self.address(cx, a, Some(l));
                let value = if v.wide { format!("{}.{}", v.text, ["x", "y", "z", "w"][l]) } else { v.text.clone() };
                cx.store(a.arg, &index, &value);
            }
        }
    }
}

/// `roots` and all scalars they are computed from, in id order.
pub fn needed(body: &Body, roots: &[ScalarId]) -> Vec<ScalarId> {
    let mut mark = vec![false; body.scalars.len()];
    roots.iter().for_each(|r| mark[r.index()] = true);
    for id in body.scalars.ids().rev() {
        if mark[id.index()] {
            body.scalars[id].op.operands().iter().for_each(|o| mark[o.index()] = true);
        }
    }
    body.scalars.ids().filter(|id| mark[id.index()]).collect()
}
