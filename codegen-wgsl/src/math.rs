//! Helper functions: the transcendental functions of [`tinygpt_vloop::math`] spelled in WGSL, conversions and random numbers.
//!
//! There is one definition of exp, log, tanh, erf, sin and cos for all targets; WGSL's own are too coarse on some adapters (`exp`: 3 + 2|x| ulp,
//! `tanh` overflows to NaN on some, `sin` has an absolute error of 2^-11), and it has no erf.
//! Weights of attention are the one exception: see module `attention`.
//!
//! WGSL lets compilers reassociate. Most of the arithmetic does not mind, but the reduction of an argument does: it subtracts n times a short constant, which is
//! exact, and then n times the rest, and Mesa makes one rounded constant of the two (17 ulp in `exp` at 36). So the value between two such steps
//! passes through an integer operation with a zero that no compiler knows to be zero.

use crate::text::{float, type_name};
use std::fmt::Write as _;
use tinygpt_ir::types::DType;
use tinygpt_vloop::math::{self, Lanes};

/// Straight-line WGSL: [`Lanes`] whose values are names.
struct Spell {
    wide: bool,
    names: Vec<String>,
    /// Of each name that is a fused multiply-add: what it multiplies.
    multiplied: Vec<Option<Name>>,
    lines: String,
}

type Name = usize;

impl Spell {
    fn of(&self, dtype: DType) -> String {
        type_name(dtype, self.wide)
    }
    /// A value that needs no statement.
    fn name(&mut self, text: String) -> Name {
        self.names.push(text);
        self.multiplied.push(None);
        self.names.len() - 1
    }
    fn bind(&mut self, text: String) -> Name {
        let name = format!("v{}", self.names.len());
        let _ = writeln!(self.lines, "  let {name} = {text};");
        self.name(name)
    }
    fn binary(&mut self, a: Name, op: &str, b: Name) -> Name {
        self.bind(format!("{} {op} {}", self.names[a], self.names[b]))
    }
}

impl Lanes for Spell {
    type F = Name;
    type I = Name;
    type M = Name;

    fn splat(&mut self, x: f32) -> Name {
        let text = float(x);
        self.name(if self.wide { format!("vec4<f32>({text})") } else { text })
    }
    fn splat_i32(&mut self, x: i32) -> Name {
        let text = if x < 0 { format!("({x}i)") } else { format!("{x}i") };
        self.name(if self.wide { format!("vec4<i32>({text})") } else { text })
    }
    fn add(&mut self, a: Name, b: Name) -> Name {
        self.binary(a, "+", b)
    }
    fn sub(&mut self, a: Name, b: Name) -> Name {
        self.binary(a, "-", b)
    }
    fn mul(&mut self, a: Name, b: Name) -> Name {
        self.binary(a, "*", b)
    }
    fn div(&mut self, a: Name, b: Name) -> Name {
        self.binary(a, "/", b)
    }
    fn mul_add(&mut self, a: Name, b: Name, c: Name) -> Name {
        let mut c = c;
        if self.multiplied[c] == Some(a) {
            let (f, u) = (self.of(DType::F32), self.of(DType::U32));
            c = self.bind(format!("bitcast<{f}>(bitcast<{u}>({}) | {u}(arrayLength(&buf0) >> 31u))", self.names[c]));
        }
        let sum = self.bind(format!("fma({}, {}, {})", self.names[a], self.names[b], self.names[c]));
        self.multiplied[sum] = Some(a);
        sum
    }
    fn neg(&mut self, a: Name) -> Name {
        self.bind(format!("-{}", self.names[a]))
    }
    fn abs(&mut self, a: Name) -> Name {
        self.bind(format!("abs({})", self.names[a]))
    }
    fn min(&mut self, a: Name, b: Name) -> Name {
        self.bind(format!("select({1}, {0}, {0} < {1})", self.names[a], self.names[b]))
    }
    fn max(&mut self, a: Name, b: Name) -> Name {
        self.bind(format!("select({1}, {0}, {0} > {1})", self.names[a], self.names[b]))
    }
    fn round(&mut self, a: Name) -> Name {
        self.bind(format!("round({})", self.names[a]))
    }
    fn lt(&mut self, a: Name, b: Name) -> Name {
        self.binary(a, "<", b)
    }
    fn eq(&mut self, a: Name, b: Name) -> Name {
        self.binary(a, "==", b)
    }
    fn select(&mut self, m: Name, a: Name, b: Name) -> Name {
        self.bind(format!("select({}, {}, {})", self.names[b], self.names[a], self.names[m]))
    }
    fn to_i32(&mut self, a: Name) -> Name {
        self.bind(format!("{}({})", self.of(DType::I32), self.names[a]))
    }
    fn to_f32(&mut self, a: Name) -> Name {
        self.bind(format!("{}({})", self.of(DType::F32), self.names[a]))
    }
    fn add_i32(&mut self, a: Name, b: Name) -> Name {
        self.binary(a, "+", b)
    }
    fn and_i32(&mut self, a: Name, b: Name) -> Name {
        self.binary(a, "&", b)
    }
    fn shl_i32(&mut self, a: Name, bits: u32) -> Name {
        let by = if self.wide { format!("vec4<u32>({bits}u)") } else { format!("{bits}u") };
        self.bind(format!("{} << {by}", self.names[a]))
    }
    fn shr_i32(&mut self, a: Name, bits: u32) -> Name {
        let by = if self.wide { format!("vec4<u32>({bits}u)") } else { format!("{bits}u") };
        self.bind(format!("{} >> {by}", self.names[a]))
    }
    fn f32_to_bits(&mut self, a: Name) -> Name {
        self.bind(format!("bitcast<{}>({})", self.of(DType::I32), self.names[a]))
    }
    fn bits_to_f32(&mut self, a: Name) -> Name {
        self.bind(format!("bitcast<{}>({})", self.of(DType::F32), self.names[a]))
    }
    fn is_zero_i32(&mut self, a: Name) -> Name {
        self.bind(format!("{} == {}()", self.names[a], self.of(DType::I32)))
    }
}

/// Name and text of a helper: `exp`, `log`, `tanh`, `erf`, `sin`, `cos`, `to_i32`, `to_u32`, `round_to_f16` (one argument each, wide or not), `max`,
/// `min` (two), or `random` (scalar only).
pub fn helper(name: &str, wide: bool) -> (String, String) {
    let full = format!("{name}_{}", if wide { "f32x4" } else { "f32" });
    let f = type_name(DType::F32, wide);
    let text = match name {
        "to_i32" | "to_u32" => {
            let (dtype, limit, most) = match name {
                "to_i32" => (DType::I32, "2147483648.0f", "2147483647i"),
                _ => (DType::U32, "4294967296.0f", "4294967295u"),
            };
            let (ty, u) = (type_name(dtype, wide), type_name(DType::U32, wide));
            // Tested by bits: compilers may assume that no float is NaN.
            format!(
                "// Toward zero, saturating; NaN gives 0.
fn {full}(x: {f}) -> {ty} {{
  let bits = bitcast<{u}>(x) & {u}(0x7fffffffu);
  let truncated = select({ty}(x), {ty}({most}), x >= {f}({limit}));
  return select(truncated, {ty}(), bits > {u}(0x7f800000u));
}}"
            )
        }
        "round_to_f16" => {
            let u = type_name(DType::U32, wide);
            format!(
                "// The nearest binary16, ties to even, from 65520 on infinite: exact on every adapter, whether it has such a type or not.
fn {full}(x: {f}) -> {f} {{
  let bits = bitcast<{u}>(x);
  let magnitude = bits & {u}(0x7fffffffu);
  let last_kept = (magnitude >> {u}(13u)) & {u}(1u);
  let normal = (magnitude + {u}(0xfffu) + last_kept) & {u}(0xffffe000u);
  // Below 2^-14 multiples of 2^-24.
  let small = bitcast<{u}>(round(bitcast<{f}>(magnitude) * 16777216.0f) * 5.9604644775390625e-8f);
  let finite = select(normal, small, magnitude < {u}(0x38800000u));
  let rounded = select(finite, {u}(0x7f800000u), finite >= {u}(0x47800000u));
  return bitcast<{f}>(select(rounded, magnitude, magnitude > {u}(0x7f800000u)) | (bits & {u}(0x80000000u)));
}}"
            )
        }
        "max" | "min" => {
            let (u, test) = (type_name(DType::U32, wide), if name == "max" { "a < b" } else { "b < a" });
            format!(
                "// b if {test} else a; a NaN in a wins, tested by bits: compilers make their own {name} of the select.
fn {full}(a: {f}, b: {f}) -> {f} {{
  let magnitude = bitcast<{u}>(a) & {u}(0x7fffffffu);
  return select(select(a, b, {test}), a, magnitude > {u}(0x7f800000u));
}}"
            )
        }
        "random" => "// The upper 24 of 32 random bits of (seed, counter, stream, index) as a fraction (Ellis 2018).
fn mix_bits(bits: u32) -> u32 {
  var x = bits;
  x ^= x >> 16u;
  x *= 0x7feb352du;
  x ^= x >> 15u;
  x *= 0x846ca68bu;
  return x ^ (x >> 16u);
}
fn random_f32(seed: u32, counter: u32, stream: u32, index: u32) -> f32 {
  let keyed = mix_bits(mix_bits(mix_bits(seed ^ 0x9e3779b9u) ^ counter) ^ stream);
  return f32(mix_bits(keyed ^ mix_bits(index)) >> 8u) * 5.9604644775390625e-8f;
}"
        .to_string(),
        _ => {
            let mut s = Spell { wide, names: vec!["x".into()], multiplied: vec![None], lines: String::new() };
            let result = match name {
                "exp" => math::exp(&mut s, 0),
                "log" => math::log(&mut s, 0),
                "tanh" => math::tanh(&mut s, 0),
                "erf" => math::erf(&mut s, 0),
                "sin" => math::sin(&mut s, 0),
                _ => math::cos(&mut s, 0),
            };
            let (u, value) = (type_name(DType::U32, wide), &s.names[result]);
            // By bits: NVIDIA's compiler makes its own minimum of the select that clamps, which drops a NaN.
            format!(
                "fn {full}(x: {f}) -> {f} {{\n{}  let magnitude = bitcast<{u}>(x) & {u}(0x7fffffffu);\n  return select({value}, x, magnitude > {u}(0x7f800000u));\n}}",
                s.lines
            )
        }
    };
    (full, text)
}
