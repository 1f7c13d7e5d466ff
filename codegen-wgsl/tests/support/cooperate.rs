//! Cooperative matrices in plain WGSL, for adapters that have none. Of a left matrix each of [`SUBGROUP`] consecutive invocations holds its row, of a
//! matrix of sums eight of a row; a right one is where it lies in workgroup memory until it is used. So what is emitted around the operations (tiles,
//! layouts, tails, slices, epilogues) is tested on any adapter; the operations themselves are tested where there are some, and by the runtime before
//! it uses them.

/// Invocations that share a matrix: two a row of sixteen sums.
pub const SUBGROUP: u32 = 32;

/// Rounding as a conversion to f16 does it, and products of matrices. No compiler knows how often the loops run: unrolled they take software adapters
/// long.
const MATRICES: &str = "
struct Row { e: array<vec4<f32>, 4> }
struct Place { array: u32, first: u32, stride: u32, by_rows: bool }
struct Sums { low: vec4<f32>, high: vec4<f32> }
fn depth() -> u32 { return 16u + (arrayLength(&buf0) >> 31u); }
fn element(p: Place, i: u32, j: u32) -> f32 {
  let line = select(j, i, p.by_rows);
  let place = select(i, j, p.by_rows);
  let at = p.first + line * p.stride + place / 4u;
  return lane_of(p.array, at, place % 4u);
}
fn row_of(lane: u32, p: Place) -> Row {
  var row = Row();
  let i = lane % 32u / 2u;
  for (var k = 0u; k < depth(); k++) { row.e[k / 4u][k % 4u] = element(p, i, k); }
  return row;
}
fn four_of(p: Place, k: u32, column: u32) -> vec4<f32> {
  return vec4<f32>(element(p, k, column), element(p, k, column + 1u), element(p, k, column + 2u), element(p, k, column + 3u));
}
fn multiply_add(lane: u32, a: Row, b: Place, c: Sums) -> Sums {
  var row = a;
  var sums = c;
  let column = lane % 2u * 8u;
  for (var k = 0u; k < depth(); k++) {
    let x = row.e[k / 4u][k % 4u];
    sums.low += x * four_of(b, k, column);
    sums.high += x * four_of(b, k, column + 4u);
  }
  return sums;
}
fn store_sums(lane: u32, m: Sums, first: u32, stride: u32) {
  let at = first + lane % 32u / 2u * stride + lane % 2u * 2u;
  sums[at] = m.low;
  sums[at + 1u] = m.high;
}
fn load_sums(lane: u32, first: u32, stride: u32) -> Sums {
  let at = first + lane % 32u / 2u * stride + lane % 2u * 2u;
  return Sums(sums[at], sums[at + 1u]);
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
    let (mut out, mut arrays) = (String::new(), Vec::<String>::new());
    for line in code.lines() {
        let mut line = line.replace("vec4<f16>()", "vec4<f32>()").replace("array<vec4<f16>", "array<vec4<f32>");
        line = line
            .replace("vec4<f16>(", "round_halves(")
            .replace("array<f16>", "array<f32>")
            .replace("= f16(", "= round_half(");
        line = line.replace("coop_mat16x16<f32,C>()", "Sums()").replace("coopMultiplyAdd(", "multiply_add(local, ");
        for (call, by_rows) in [("coopLoadT<", true), ("coopLoad<", false)] {
            // `coopLoadT<coop_mat16x16<f16,A>>(&lhs[from], stride);`
            if let Some((before, after)) = line.split_once(call) {
                let (role, operands) = after.split_once(">>(&").expect("a load is of a matrix by address");
                let (array, operands) = operands.split_once('[').expect("an element of an array");
                let (from, stride) = operands.split_once("], ").expect("an index and a stride");
                let stride = stride.trim_end_matches(");");
                if role.ends_with('C') {
                    line = format!("{before}load_sums(local, {from}, {stride});");
                    break;
                }
                let number = arrays.iter().position(|a| a == array).unwrap_or(arrays.len());
                if number == arrays.len() {
                    arrays.push(array.to_string());
                }
                let place = format!("Place({number}u, {from}, {stride}, {by_rows})");
                let left = role.ends_with('A');
                line = if left { format!("{before}row_of(local, {place});") } else { format!("{before}{place};") };
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
    out += "fn lane_of(array: u32, at: u32, lane: u32) -> f32 {\n";
    for (number, array) in arrays.iter().enumerate().skip(1) {
        out += &format!("  if (array == {number}u) {{ return {array}[at][lane]; }}\n");
    }
    out + &format!("  return {}[at][lane];\n}}\n", arrays[0]) + MATRICES
}
