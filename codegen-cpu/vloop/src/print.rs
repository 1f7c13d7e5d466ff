//! The text form of a function: for dumps and snapshots, so it depends on nothing but the function.
//!
//! ```text
//! // provenance
//! func saxpy(x: f32, y: mut f32; n) {
//!   %n.0: index = param n
//!   for %i.1 in 0..%n.0 step 4 {
//!     %2: f32x4 = load x[%i.1]
//!     %3: f32x4 = load y[%i.1 + 4]
//!     store y[%i.1 * 2 + 4] = %3
//!   }
//! }
//! ```
//! A register is `%number` or `%name.number`; its type stands where it is set.

use crate::types::*;
use std::fmt::{self, Write};

impl fmt::Display for Func {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.comments {
            writeln!(f, "// {line}")?;
        }
        write!(f, "func {}(", self.name)?;
        for (i, b) in self.bufs.iter().enumerate() {
            let comma = if i > 0 { ", " } else { "" };
            let mutable = if b.mutable { "mut " } else { "" };
            write!(f, "{comma}{}: {mutable}{}", b.name, b.elem.name())?;
        }
        if !self.params.is_empty() {
            write!(f, "; {}", self.params.join(", "))?;
        }
        writeln!(f, ") {{")?;
        for s in &self.scratch {
            writeln!(f, "  scratch {}: {}[{}]", s.name, s.elem.name(), s.len)?;
        }
        f.write_str(&block_text(self, &self.body, 1))?;
        writeln!(f, "}}")
    }
}

/// The lines of a statement list, each indented by `depth` levels.
fn block_text(func: &Func, body: &[Stmt], depth: usize) -> String {
    let mut out = String::new();
    for s in body {
        write_stmt(func, s, depth, &mut out);
    }
    out
}

fn write_stmt(func: &Func, s: &Stmt, depth: usize, out: &mut String) {
    let indent = "  ".repeat(depth);
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{indent}{}", stmt_line(func, s));
    match s {
        Stmt::For { body, .. } => {
            out.push_str(&block_text(func, body, depth + 1));
            let _ = writeln!(out, "{indent}}}");
        }
        Stmt::If { then, els, .. } => {
            out.push_str(&block_text(func, then, depth + 1));
            if !els.is_empty() {
                let _ = writeln!(out, "{indent}}} else {{");
                out.push_str(&block_text(func, els, depth + 1));
            }
            let _ = writeln!(out, "{indent}}}");
        }
        _ => {}
    }
}

/// The first line of a statement, without indentation: what errors quote.
pub fn stmt_line(func: &Func, s: &Stmt) -> String {
    match s {
        Stmt::Set(dst, op) => {
            let ty = func.regs.get(dst.0 as usize).map_or("?", |r| r.ty.name());
            format!("{}: {ty} = {}", reg(func, *dst), op_text(func, op))
        }
        Stmt::Store { addr, value } => format!("store {} = {}", addr_text(func, addr), reg(func, *value)),
        Stmt::For { var, from, to, step, independent, .. } => {
            let how = if *independent { ", independent" } else { "" };
            format!("for {} in {}..{} step {step}{how} {{", reg(func, *var), idx(func, *from), idx(func, *to))
        }
        Stmt::If { cond, .. } => format!("if {} {{", reg(func, *cond)),
        Stmt::CallRow { function, src, dst, n } => format!(
            "call {} {} -> {} count {}",
            function.name(),
            addr_text(func, src),
            addr_text(func, dst),
            idx(func, *n)
        ),
        Stmt::Comment(text) => format!("// {text}"),
    }
}

/// `%number` or `%name.number`.
pub fn reg(func: &Func, r: Reg) -> String {
    match func.regs.get(r.0 as usize).and_then(|d| d.name.as_deref()) {
        Some(name) => format!("%{name}.{}", r.0),
        None => format!("%{}", r.0),
    }
}

fn idx(func: &Func, i: Idx) -> String {
    match i {
        Idx::Reg(r) => reg(func, r),
        Idx::Const(c) => c.to_string(),
    }
}

/// `name[terms + offset]`.
pub fn addr_text(func: &Func, a: &Addr) -> String {
    let name = match a.base {
        Base::Buf(b) => func.bufs.get(b.0 as usize).map_or("?", |b| &b.name),
        Base::Scratch(s) => func.scratch.get(s.0 as usize).map_or("?", |s| &s.name),
    };
    let mut parts: Vec<String> = a
        .terms
        .iter()
        .map(|&(r, stride)| match stride {
            1 => reg(func, r),
            _ => format!("{} * {stride}", reg(func, r)),
        })
        .collect();
    if a.offset != 0 || parts.is_empty() {
        parts.push(a.offset.to_string());
    }
    format!("{name}[{}]", parts.join(" + "))
}

fn op_text(func: &Func, op: &Op) -> String {
    let r = |x: &Reg| reg(func, *x);
    match op {
        Op::Const(c) => const_text(*c),
        Op::Copy(a) => format!("copy {}", r(a)),
        Op::Param(p) => format!("param {}", func.params.get(p.0 as usize).map_or("?", |n| n)),
        Op::Unary(op, a) => format!("{} {}", op.name(), r(a)),
        Op::Binary(op, a, b) => format!("{} {}, {}", op.name(), r(a), r(b)),
        Op::DivConst(a, c) => format!("div {}, {c}", r(a)),
        Op::RemConst(a, c) => format!("rem {}, {c}", r(a)),
        Op::Fma(a, b, c) => format!("fma {}, {}, {}", r(a), r(b), r(c)),
        Op::Cmp(op, a, b) => format!("{} {}, {}", op.name(), r(a), r(b)),
        Op::Select(c, a, b) => format!("select {}, {}, {}", r(c), r(a), r(b)),
        Op::Convert(conv, a) => format!("{} {}", conv.name(), r(a)),
        Op::Splat(a) => format!("splat {}", r(a)),
        Op::Extract(v, lane) => format!("extract {}, {lane}", r(v)),
        Op::Insert(v, lane, x) => format!("insert {}, {lane}, {}", r(v), r(x)),
        Op::Reduce(op, v) => format!("reduce_{} {}", op.name(), r(v)),
        Op::Load(a) => format!("load {}", addr_text(func, a)),
        Op::LoadSplat(a) => format!("load_splat {}", addr_text(func, a)),
        Op::Row(function, a) => format!("{} {}", function.name(), r(a)),
    }
}

fn const_text(c: Const) -> String {
    match c {
        Const::Index(x) => format!("const {x}"),
        Const::I32(x) => format!("const {x}"),
        // Rust's shortest decimal that reads back as the same value; the bits where there is none.
        Const::F32(bits) if f32::from_bits(bits).is_nan() => format!("const nan:{bits:#010x}"),
        Const::F32(bits) => format!("const {:?}", f32::from_bits(bits)),
        Const::Bool(x) => format!("const {x}"),
        Const::I32x4(x) => format!("const {x:?}"),
    }
}
