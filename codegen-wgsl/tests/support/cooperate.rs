//! Cooperative matrices in plain WGSL, for adapters that have none: every invocation holds whole matrices, and computes what the subgroup would
//! together. So what is emitted around the operations (tiles, layouts, tails, slices, epilogues) is tested on any adapter; the operations
//! themselves are tested where there are some, and by the runtime before it uses them.

/// Rounding as a conversion to f16 does it, and matrices of 16 x 16 by rows. `ARRAY` stands for an array in workgroup memory of vectors of four.
/// No compiler knows how often the loops run, since unrolling them takes a software adapter's minutes.
const MATRICES: &str = "
struct Matrix { e: array<f32, 256> }
fn side() -> u32 { return 16u + (arrayLength(&buf0) >> 31u); }
fn multiply_add(a: Matrix, b: Matrix, c: Matrix) -> Matrix {
  var x = a; var y = b; var z = c;
  let elements = side() * side();
  for (var i = 0u; i < elements; i++) {
    var sum = z.e[i];
    for (var k = 0u; k < side(); k++) { sum += x.e[i / 16u * 16u + k] * y.e[k * 16u + i % 16u]; }
    z.e[i] = sum;
  }
  return z;
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

const LOAD: &str = "
fn load_ARRAY(first: u32, stride: u32, by_rows: bool) -> Matrix {
  var m = Matrix();
  let elements = side() * side();
  for (var i = 0u; i < elements; i++) {
    let line = select(i % 16u, i / 16u, by_rows);
    let place = select(i / 16u, i % 16u, by_rows);
    m.e[i] = ARRAY[first + line * stride + place / 4u][place % 4u];
  }
  return m;
}
";

const STORE: &str = "
fn store_sums(m: Matrix, first: u32, stride: u32) {
  var x = m;
  let elements = side() * side();
  for (var i = 0u; i < elements; i++) { sums[first + i / 16u * stride + i % 16u / 4u][i % 4u] = x.e[i]; }
}
";

/// The code of a module, its cooperative matrices replaced.
pub fn emulated(code: &str) -> String {
    let mut out = String::new();
    for line in code.lines() {
        let mut line = line.replace("array<vec4<f16>", "array<vec4<f32>").replace("vec4<f16>(", "round_halves(");
        line = line.replace("coop_mat16x16<f32,C>()", "Matrix()").replace("coopMultiplyAdd(", "multiply_add(");
        for (call, by_rows) in [("coopLoadT<", true), ("coopLoad<", false)] {
            // `coopLoadT<coop_mat16x16<f16,A>>(&lhs[from], stride);`
            if let Some((before, after)) = line.split_once(call) {
                let (_, operands) = after.split_once(">>(&").expect("a load is of a matrix by address");
                let (array, operands) = operands.split_once('[').expect("an element of an array");
                let (from, stride) = operands.split_once("], ").expect("an index and a stride");
                let stride = stride.trim_end_matches(");");
                line = format!("{before}load_{array}({from}, {stride}, {by_rows});");
                break;
            }
        }
        if let Some(operands) = line.trim_start().strip_prefix("coopStoreT(") {
            line = format!("store_sums({}", operands.replace("&sums[", "").replace(']', ""));
        }
        out += &line;
        out += "\n";
    }
    assert!(!out.contains("coop") && !out.contains("f16"), "not replaced:\n{out}");
    out + MATRICES + &LOAD.replace("ARRAY", "lhs") + &LOAD.replace("ARRAY", "rhs") + STORE
}
