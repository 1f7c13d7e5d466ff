//! Cooperative matrices in plain WGSL, for adapters that have none. An operand is where it lies in workgroup memory, and of a matrix of sums each of
//! [`SUBGROUP`] consecutive invocations holds eight. So what is emitted around the operations (tiles, layouts, tails, slices, epilogues) is tested on
//! any adapter; the operations themselves are tested where there are some, and by the runtime before it uses them.

/// Invocations that share a matrix: two a row of sixteen sums.
pub const SUBGROUP: u32 = 32;

/// Rounding as a conversion to f16 does it, and products of the matrices at two places of workgroup memory, which holds vectors of four.
const MATRICES: &str = "
struct Place { first: u32, stride: u32, by_rows: bool }
struct Sums { low: vec4<f32>, high: vec4<f32> }
fn lhs_at(p: Place, row: u32, k: u32) -> f32 {
  let line = select(k, row, p.by_rows);
  let place = select(row, k, p.by_rows);
  return lhs[p.first + line * p.stride + place / 4u][place % 4u];
}
fn rhs_at(p: Place, k: u32, column: u32) -> f32 {
  let line = select(column, k, p.by_rows);
  let place = select(k, column, p.by_rows);
  return rhs[p.first + line * p.stride + place / 4u][place % 4u];
}
fn four_at(p: Place, k: u32, column: u32) -> vec4<f32> {
  return vec4<f32>(rhs_at(p, k, column), rhs_at(p, k, column + 1u), rhs_at(p, k, column + 2u), rhs_at(p, k, column + 3u));
}
fn multiply_add(lane: u32, a: Place, b: Place, c: Sums) -> Sums {
  var sums = c;
  let row = lane % 32u / 2u;
  let column = lane % 2u * 8u;
  for (var k = 0u; k < 16u; k++) {
    let x = lhs_at(a, row, k);
    sums.low += x * four_at(b, k, column);
    sums.high += x * four_at(b, k, column + 4u);
  }
  return sums;
}
fn store_sums(lane: u32, m: Sums, first: u32, stride: u32) {
  let at = first + lane % 32u / 2u * stride + lane % 2u * 2u;
  sums[at] = m.low;
  sums[at + 1u] = m.high;
}
fn round_half(x: f32) -> f32 {
  let bits = bitcast<u32>(x);
  let magnitude = bits & 0x7fffffffu;
  let normal = (magnitude + 0xfffu + ((magnitude >> 13u) & 1u)) & 0xffffe000u;
  let small = bitcast<u32>(round(bitcast<f32>(magnitude) * 16777216.0f) * 5.9604644775390625e-8f);
  return bitcast<f32>(select(normal, small, magnitude < 0x38800000u) | (bits & 0x80000000u));
}
fn round_halves(x: vec4<f32>) -> vec4<f32> {
  return vec4<f32>(round_half(x.x), round_half(x.y), round_half(x.z), round_half(x.w));
}
";

/// The code of a module, its cooperative matrices replaced.
pub fn emulated(code: &str) -> String {
    let mut out = String::new();
    for line in code.lines() {
        let mut line = line.replace("array<vec4<f16>", "array<vec4<f32>").replace("vec4<f16>(", "round_halves(");
        line = line.replace("coop_mat16x16<f32,C>()", "Sums()").replace("coopMultiplyAdd(", "multiply_add(local, ");
        for (call, by_rows) in [("coopLoadT<", true), ("coopLoad<", false)] {
            // `coopLoadT<coop_mat16x16<f16,A>>(&lhs[from], stride);`
            if let Some((before, after)) = line.split_once(call) {
                let (_, operands) = after.split_once(">>(&").expect("a load is of a matrix by address");
                let (array, operands) = operands.split_once('[').expect("an element of an array");
                let (from, stride) = operands.split_once("], ").expect("an index and a stride");
                let name = before.trim().trim_start_matches("let ");
                assert!(name.starts_with(array), "the {array} matrix is {name}");
                let stride = stride.trim_end_matches(");");
                line = format!("{before}Place({from}, {stride}, {by_rows});");
                break;
            }
        }
        if let Some(operands) = line.trim_start().strip_prefix("coopStoreT(") {
            line = format!("store_sums(local, {}", operands.replace("&sums[", "").replace(']', ""));
        }
        out += &line;
        out += "\n";
    }
    assert!(!out.contains("coop") && !out.contains("f16"), "not replaced:\n{out}");
    out + MATRICES
}
