//! The rows of transcendental functions: equal to the scalar definition to the last bit, whatever the length.

use tinygpt_simd::Isa;
use tinygpt_simd::rows::{RowFn, rows};
use tinygpt_vloop::math::{self, Scalar};

/// Arguments of every size and sign, and the special ones.
fn arguments() -> Vec<f32> {
    let mut xs = vec![0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 1e-45, -1e-45, 1e38, 1.1e5, 88.73, -104.0];
    xs.extend((0..u32::MAX / 40_009).map(|i| f32::from_bits(i * 40_009)));
    xs.extend((0..20_000).map(|i| i as f32 * 0.001 - 10.0));
    xs
}

fn check(name: &str, row: RowFn, scalar: impl Fn(f32) -> f32) {
    let xs = arguments();
    let mut ys = vec![0.0; xs.len()];
    // SAFETY: both hold xs.len() elements.
    unsafe { row(xs.as_ptr(), ys.as_mut_ptr(), xs.len()) };
    for (&x, &y) in xs.iter().zip(&ys) {
        let expected = scalar(x);
        let same = y.to_bits() == expected.to_bits() || (y.is_nan() && expected.is_nan());
        assert!(same, "{name}({x:e}) = {y:e}, the scalar definition gives {expected:e}");
    }
    for n in 0..70 {
        let mut in_place = xs[100..200].to_vec();
        // SAFETY: in place, n <= 100.
        unsafe { row(in_place.as_ptr(), in_place.as_mut_ptr(), n) };
        for (i, &y) in in_place.iter().enumerate() {
            let expected = if i < n { ys[100 + i] } else { xs[100 + i] };
            assert!(y.to_bits() == expected.to_bits() || expected.is_nan(), "{name}, n = {n}, element {i}");
        }
    }
}

#[test]
fn rows_equal_the_definition() {
    for isa in Isa::available() {
        let table = rows(isa).expect("available");
        let s = || Scalar::<true>;
        check("exp", table.exp, |x| math::exp(&mut s(), x));
        check("log", table.log, |x| math::log(&mut s(), x));
        check("tanh", table.tanh, |x| math::tanh(&mut s(), x));
        check("erf", table.erf, |x| math::erf(&mut s(), x));
        check("sin", table.sin, |x| math::sin(&mut s(), x));
        check("cos", table.cos, |x| math::cos(&mut s(), x));
    }
}
