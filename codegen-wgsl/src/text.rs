//! Text: indented lines, numbers as WGSL spells them, address expressions.

use std::fmt::Write as _;
use tinygpt_ir::types::{DType, Literal};

/// Lines of code under construction.
#[derive(Clone, Debug, Default)]
pub struct Code {
    text: String,
    indent: usize,
}

impl Code {
    pub fn line(&mut self, line: impl AsRef<str>) {
        for l in line.as_ref().lines() {
            let _ = writeln!(self.text, "{:1$}{l}", "", 2 * self.indent);
        }
    }

    /// `head {`, and what follows indented until [`Code::close`].
    pub fn open(&mut self, head: impl AsRef<str>) {
        let head = head.as_ref();
        self.line(if head.is_empty() { "{".to_string() } else { format!("{head} {{") });
        self.indent += 1;
    }

    /// The first lines of a function, as they are, and what follows indented until [`Code::close`].
    pub fn begin(&mut self, lines: &str) {
        self.text += lines;
        self.indent += 1;
    }

    pub fn close(&mut self) {
        self.indent -= 1;
        self.line("}");
    }

    /// `} else {`, or with a condition `} else if (..) {`.
    pub fn otherwise(&mut self, condition: Option<&str>) {
        self.indent -= 1;
        self.line(match condition {
            Some(c) => format!("}} else if ({c}) {{"),
            None => "} else {".to_string(),
        });
        self.indent += 1;
    }

    pub fn blank(&mut self) {
        self.text.push('\n');
    }

    pub fn into_text(self) -> String {
        self.text
    }
}

/// WGSL's name of a type of `width` lanes.
pub fn type_name(dtype: DType, wide: bool) -> String {
    if wide { format!("vec4<{}>", dtype.name()) } else { dtype.name().to_string() }
}

/// A constant: exact, parenthesised if negative. Infinities and NaN are the bits of the variables that [`NON_FINITE`] declares, because WGSL
/// refuses constant expressions that are not finite.
pub fn literal(c: Literal) -> String {
    match c.dtype {
        DType::Bool => if c.value != 0.0 { "true" } else { "false" }.to_string(),
        DType::U32 => format!("{}u", c.value as u32),
        DType::I32 => match c.value as i32 {
            i32::MIN => "i32(-2147483648)".to_string(),
            x if x < 0 => format!("({x}i)"),
            x => format!("{x}i"),
        },
        DType::F32 => float(c.value as f32),
        DType::F16 if c.value.is_finite() && c.value.abs() <= 65504.0 => format!("f16({})", float(c.value as f32)),
        DType::F16 => {
            format!("f16({})", float(if c.value.abs() > 65504.0 { c.value.signum() * 1e39 } else { c.value } as f32))
        }
    }
}

/// Declarations that [`float`] needs for infinities and NaN.
pub const NON_FINITE: &str = "\
// Read at run time: WGSL has no literal for these, and refuses constant expressions that give them.
var<private> inf_bits: u32 = 0x7f800000u;
var<private> nan_bits: u32 = 0x7fc00000u;
";

/// An f32 constant.
pub fn float(x: f32) -> String {
    if x.is_nan() {
        "bitcast<f32>(nan_bits)".into()
    } else if x == f32::INFINITY {
        "bitcast<f32>(inf_bits)".into()
    } else if x == f32::NEG_INFINITY {
        "(-bitcast<f32>(inf_bits))".into()
    } else if x.abs() == f32::MAX {
        // Its shortest decimal is above it, which Tint refuses.
        if x > 0.0 { "0x1.fffffep+127f".into() } else { "(-0x1.fffffep+127f)".into() }
    } else if x.is_sign_negative() {
        format!("({x:?}f)")
    } else {
        format!("{x:?}f")
    }
}

/// `offset + sum of coefficient * name` in u32 arithmetic, where wrapping makes negative terms right.
pub fn affine(offset: i64, terms: &[(i64, String)]) -> String {
    let mut sum = String::new();
    let mut constant = offset;
    let mut add = |coefficient: i64, text: String| {
        let (sign, size) = (coefficient < 0, coefficient.unsigned_abs());
        let product = if size == 1 { text } else { format!("{text} * {size}u") };
        match (sum.is_empty(), sign) {
            (true, false) => sum = product,
            (true, true) => sum = format!("0u - {product}"),
            (false, false) => sum += &format!(" + {product}"),
            (false, true) => sum += &format!(" - {product}"),
        }
    };
    let mut sorted: Vec<&(i64, String)> = terms.iter().filter(|(c, t)| *c != 0 && t != "0u").collect();
    sorted.sort_by_key(|(c, _)| *c < 0);
    for (c, t) in sorted {
        // Small numbers fold: `8u * 3u` says less than `24u`.
        match t.strip_suffix('u').and_then(|n| n.parse::<i64>().ok()) {
            Some(n) => constant += c * n,
            None => add(*c, t.clone()),
        }
    }
    match (sum.is_empty(), constant) {
        (true, c) if c >= 0 => format!("{c}u"),
        // Wrapped here: compilers refuse constant expressions that overflow.
        (true, c) => format!("{}u", c as u32),
        (false, 0) => sum,
        (false, c) if c > 0 => format!("{sum} + {c}u"),
        (false, c) => format!("{sum} - {}u", c.unsigned_abs()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let t = |c, s: &str| (c, s.to_string());
        assert_eq!(affine(0, &[]), "0u");
        assert_eq!(affine(3, &[t(-2, "i"), t(1, "j"), t(0, "k")]), "j - i * 2u + 3u");
        assert_eq!(affine(-1, &[t(-1, "i")]), "0u - i - 1u");
        assert_eq!(affine(-1, &[]), "4294967295u");
        assert_eq!(affine(1, &[t(8, "3u"), t(4, "0u")]), "25u");
    }

    #[test]
    fn numbers() {
        assert_eq!(literal(Literal::f32(-0.5)), "(-0.5f)");
        assert_eq!(literal(Literal::f32(1e-8)), "1e-8f");
        assert_eq!(literal(Literal::f32(1e300)), "bitcast<f32>(inf_bits)");
        assert_eq!(literal(Literal::f32(f64::from(f32::MIN))), "(-0x1.fffffep+127f)");
        assert_eq!(literal(Literal::i32(i32::MIN)), "i32(-2147483648)");
        assert_eq!(literal(Literal::new(DType::U32, 7.0)), "7u");
    }
}
