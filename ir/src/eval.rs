//! Scalar meanings in f64: what one element of each elementwise operation is.
//!
//! They give meaning to graph nodes (module `interp`) and to the scalar expressions inside kernels alike.
//!
//! Invariants
//! - A value of an integer or boolean dtype is that integer (0 or 1 for bool), which f64 holds exactly; every function here
//!   takes and returns such values. Integers wrap modulo 2^32.
//! - Floats are not rounded: these functions are the oracle that every float precision is measured against. The one exception is a cast to f16,
//!   which is asked for because it rounds.

use crate::op::{Binary, Compare, Unary, random_bits};
use crate::types::DType;

impl Unary {
    /// The operation on `x` of type `dtype`.
    pub fn eval(self, dtype: DType, x: f64) -> f64 {
        match self {
            // Through `normalise`: -(-2^31) wraps, and the integer 0 has no sign.
            Unary::Neg => dtype.normalise(-x),
            Unary::Exp => x.exp(),
            Unary::Log => x.ln(),
            Unary::Sqrt => x.sqrt(),
            Unary::Rsqrt => 1.0 / x.sqrt(),
            Unary::Recip => 1.0 / x,
            Unary::Tanh => x.tanh(),
            Unary::Erf => libm::erf(x),
            Unary::Sin => x.sin(),
            Unary::Cos => x.cos(),
        }
    }
}

impl Binary {
    /// The operation on `a` and `b`, both of type `dtype`.
    pub fn eval(self, dtype: DType, a: f64, b: f64) -> f64 {
        match self {
            Binary::Add => dtype.normalise(a + b),
            Binary::Sub => dtype.normalise(a - b),
            // The product of two 32-bit integers needs 64 bits, more than f64 holds.
            Binary::Mul if dtype.is_int() => wrap(dtype, (a as i64).wrapping_mul(b as i64)),
            Binary::Mul => dtype.normalise(a * b),
            Binary::Div => a / b,
            Binary::Max => {
                if a < b {
                    b
                } else {
                    a
                }
            }
            Binary::Min => {
                if b < a {
                    b
                } else {
                    a
                }
            }
        }
    }
}

impl Compare {
    pub fn eval(self, a: f64, b: f64) -> bool {
        match self {
            Compare::Eq => a == b,
            Compare::Ne => a != b,
            Compare::Lt => a < b,
            Compare::Le => a <= b,
            Compare::Gt => a > b,
            Compare::Ge => a >= b,
        }
    }
}

/// `x` of dtype `from` converted to `to`: float to integer truncates toward zero and saturates (NaN becomes 0), integer to
/// integer keeps the low 32 bits, anything but zero becomes true, and f16 takes the nearest value that it has.
pub fn cast(from: DType, to: DType, x: f64) -> f64 {
    match to {
        DType::I32 if from.is_float() => f64::from(x as i32),
        DType::U32 if from.is_float() => f64::from(x as u32),
        DType::F16 => round_to_f16(x),
        _ => to.normalise(x),
    }
}

/// The IEEE 754 binary16 value nearest to `x`, ties to even: infinite from 65520 on, multiples of 2^-24 below 2^-14.
pub fn round_to_f16(x: f64) -> f64 {
    const LARGEST: f64 = 65504.0;
    /// Smallest exponent of a normal number, and digits after the leading one.
    const LEAST: i32 = -14;
    const DIGITS: i32 = 10;
    if x == 0.0 || !x.is_finite() {
        return x;
    }
    // Biased by 1023; that of a subnormal f64 is far below `LEAST` in any case.
    let exponent = ((x.to_bits() >> 52) & 0x7ff) as i32 - 1023;
    // Powers of two are exact, and so are the products with them here.
    let unit = 2f64.powi(exponent.max(LEAST) - DIGITS);
    let rounded = (x / unit).round_ties_even() * unit;
    if rounded.abs() > LARGEST { f64::INFINITY.copysign(x) } else { rounded }
}

/// Element `index` of `Op::Random`: the top 24 of its [`random_bits`] as a fraction, so that every value is an f32.
pub fn random_unit(seed: u32, counter: u32, stream: u32, index: u32) -> f64 {
    f64::from(random_bits(seed, counter, stream, index) >> 8) / f64::from(1u32 << 24)
}

/// The low 32 bits of `x` as an integer of `dtype`.
fn wrap(dtype: DType, x: i64) -> f64 {
    match dtype {
        DType::U32 => f64::from(x as u32),
        _ => f64::from(x as i32),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIN: f64 = i32::MIN as f64;
    const MAX: f64 = i32::MAX as f64;

    #[test]
    fn unary_values() {
        use Unary::*;
        // Reference values to 17 digits from tables (Abramowitz and Stegun 1964), not from this library.
        let cases: &[(Unary, f64, f64)] = &[
            (Neg, 1.5, -1.5),
            (Exp, 1.0, std::f64::consts::E),
            (Exp, f64::NEG_INFINITY, 0.0),
            (Log, 10.0, std::f64::consts::LN_10),
            (Log, 0.0, f64::NEG_INFINITY),
            (Sqrt, 2.0, std::f64::consts::SQRT_2),
            (Rsqrt, 4.0, 0.5),
            (Rsqrt, 0.0, f64::INFINITY),
            (Recip, 8.0, 0.125),
            (Tanh, 0.5, 0.462_117_157_260_009_76),
            (Tanh, 1000.0, 1.0),
            (Erf, 0.0, 0.0),
            (Erf, 0.5, 0.520_499_877_813_046_5),
            (Erf, 1.0, 0.842_700_792_949_714_9),
            (Erf, -2.0, -0.995_322_265_018_952_7),
            (Sin, std::f64::consts::FRAC_PI_6, 0.5),
            (Cos, std::f64::consts::FRAC_PI_3, 0.5),
        ];
        for (op, x, want) in cases {
            let got = op.eval(DType::F32, *x);
            assert!(got == *want || (got - want).abs() <= 4e-16 * want.abs(), "{op:?}({x}) = {got}, want {want}");
        }
        for op in Unary::ALL {
            assert!(cases.iter().any(|(o, ..)| o == op), "{op:?} has no case");
        }
        assert!(Log.eval(DType::F32, -1.0).is_nan());
        assert_eq!(Neg.eval(DType::I32, MIN), MIN);
        assert!(Neg.eval(DType::I32, 0.0).is_sign_positive());
        assert!(Neg.eval(DType::F32, 0.0).is_sign_negative());
    }

    #[test]
    fn binary_values() {
        use Binary::*;
        let cases: &[(Binary, DType, f64, f64, f64)] = &[
            (Add, DType::F32, 0.1, 0.2, 0.300_000_000_000_000_04),
            (Add, DType::I32, MAX, 1.0, MIN),
            (Add, DType::U32, u32::MAX as f64, 2.0, 1.0),
            (Sub, DType::I32, MIN, 1.0, MAX),
            (Sub, DType::U32, 0.0, 1.0, u32::MAX as f64),
            (Sub, DType::F32, 1.0, 3.0, -2.0),
            (Mul, DType::F32, 1.5, -4.0, -6.0),
            // 123456789 * 987654321 = 121932631112635269 = 28389653 * 2^32 - 67153019.
            (Mul, DType::I32, 123456789.0, 987654321.0, -67153019.0),
            // (2^32 - 1)^2 = 1 modulo 2^32; an f64 product would give 0.
            (Mul, DType::U32, u32::MAX as f64, u32::MAX as f64, 1.0),
            (Div, DType::F32, 1.0, -4.0, -0.25),
            (Div, DType::F32, 1.0, 0.0, f64::INFINITY),
            (Max, DType::F32, 1.0, 2.0, 2.0),
            (Max, DType::F32, 1.0, f64::NAN, 1.0),
            (Max, DType::Bool, 0.0, 1.0, 1.0),
            (Min, DType::I32, 1.0, 2.0, 1.0),
            (Min, DType::F32, 1.0, f64::NAN, 1.0),
            (Min, DType::Bool, 1.0, 0.0, 0.0),
        ];
        for (op, dtype, a, b, want) in cases {
            assert_eq!(op.eval(*dtype, *a, *b), *want, "{op:?} {dtype} {a} {b}");
        }
        for op in Binary::ALL {
            assert!(cases.iter().any(|(o, ..)| o == op), "{op:?} has no case");
        }
        assert!(Max.eval(DType::F32, f64::NAN, 1.0).is_nan());
        assert!(Min.eval(DType::F32, f64::NAN, 1.0).is_nan());
    }

    #[test]
    fn compare_values() {
        let less_equal_greater_nan =
            |c: Compare| [(1.0, 2.0), (2.0, 2.0), (3.0, 2.0), (f64::NAN, 2.0)].map(|(a, b)| c.eval(a, b));
        assert_eq!(less_equal_greater_nan(Compare::Eq), [false, true, false, false]);
        assert_eq!(less_equal_greater_nan(Compare::Ne), [true, false, true, true]);
        assert_eq!(less_equal_greater_nan(Compare::Lt), [true, false, false, false]);
        assert_eq!(less_equal_greater_nan(Compare::Le), [true, true, false, false]);
        assert_eq!(less_equal_greater_nan(Compare::Gt), [false, false, true, false]);
        assert_eq!(less_equal_greater_nan(Compare::Ge), [false, true, true, false]);
    }

    #[test]
    fn cast_values() {
        use DType::*;
        let cases = [
            (F32, I32, -1.9, -1.0),
            (F32, I32, 3e9, MAX),
            (F32, I32, f64::NAN, 0.0),
            (F32, U32, -1.0, 0.0),
            (F32, U32, 1e10, u32::MAX as f64),
            (F32, F16, 0.1, 0.099_975_585_937_5),
            (F32, Bool, 0.25, 1.0),
            (F32, Bool, -0.0, 0.0),
            (I32, U32, -1.0, u32::MAX as f64),
            (U32, I32, u32::MAX as f64, -1.0),
            (I32, F32, -7.0, -7.0),
            (Bool, I32, 1.0, 1.0),
            (I32, Bool, -2.0, 1.0),
        ];
        for (from, to, x, want) in cases {
            assert_eq!(cast(from, to, x), want, "{from} {x} to {to}");
        }
    }

    #[test]
    fn f16_takes_the_nearest_value() {
        // Of every f16 that is finite: itself, what lies half way to the next, and a little to both sides of that.
        let value = |bits: u32| {
            let (exponent, digits) = ((bits >> 10) as i32, f64::from(bits & 0x3ff));
            if exponent == 0 { digits * 2f64.powi(-24) } else { (1024.0 + digits) * 2f64.powi(exponent - 25) }
        };
        for bits in 0..0x7c00 {
            let (low, high) = (value(bits), value(bits + 1));
            let (middle, even) = ((low + high) / 2.0, if bits % 2 == 0 { low } else { high });
            // The value that would follow the largest stands for infinity.
            let at = |x: f64| if x >= 65536.0 { f64::INFINITY } else { x };
            for (x, want) in [(low, low), (middle, even), (middle * (1.0 - 1e-12), low), (middle * (1.0 + 1e-12), high)]
            {
                assert_eq!(round_to_f16(x), at(want), "{x:e}");
                assert_eq!(round_to_f16(-x), -at(want), "-{x:e}");
            }
        }
        assert!(round_to_f16(f64::NAN).is_nan());
        assert!(round_to_f16(-0.0).is_sign_negative() && round_to_f16(-1e-300) == 0.0);
        assert_eq!(round_to_f16(f64::NEG_INFINITY), f64::NEG_INFINITY);
    }

    #[test]
    fn random_is_uniform_and_keyed() {
        let n = 1 << 16;
        let mean = (0..n).map(|i| random_unit(7, 3, 0, i)).sum::<f64>() / f64::from(n);
        // Standard error 1 / sqrt(12 n) = 0.0011.
        assert!((mean - 0.5).abs() < 0.005, "mean {mean}");
        assert!((0..n).all(|i| (0.0..1.0).contains(&random_unit(7, 3, 0, i))));
        let x = random_unit(7, 3, 0, 0);
        for other in
            [random_unit(8, 3, 0, 0), random_unit(7, 4, 0, 0), random_unit(7, 3, 1, 0), random_unit(7, 3, 0, 1)]
        {
            assert_ne!(x, other);
        }
    }
}
