//! The one definition of the transcendental functions, as straight-line vector arithmetic.
//!
//! Every target computes exp, log, tanh, erf, sin and cos by the functions of this module: the `std::arch`
//! templates run them on machine vectors, the vector loop builder emits them as instructions, and the tests run
//! them on scalars. They are generic over [`Lanes`], whose methods take `&mut self` so that an instruction
//! emitter can implement it as well as a register.
//!
//! Invariants:
//! - No branch, no table, no memory: special cases are compare and select, so that every lane is independent.
//! - Each [`Lanes`] operation exists in WebAssembly SIMD (f32x4, i32x4) and in AVX2 as one or two instructions.
//! - The stated bounds hold with [`Lanes::mul_add`] fused or not. Constants that multiply an integer have so few
//!   bits that the product is exact unfused (Cody and Waite, "Software Manual for the Elementary Functions", 1980).
//! - NaN in, NaN out. An infinite or zero argument gives the limit of the mathematical function; the sign of a
//!   zero is kept by erf only.
//!
//! Errors are in ulp of the exact result: |computed - exact| / spacing of f32 at the exact result. The
//! polynomials are minimax fits (Remez exchange in 40 digits, weighted for the relative error of the result).

/// Arithmetic on lanes of f32 and i32. Operations are lane by lane; integers wrap.
pub trait Lanes {
    /// Lanes of f32.
    type F: Copy;
    /// Lanes of i32.
    type I: Copy;
    /// Lanes of truth values.
    type M: Copy;

    /// `x` in every lane.
    fn splat(&mut self, x: f32) -> Self::F;
    /// `x` in every lane.
    fn splat_i32(&mut self, x: i32) -> Self::I;

    fn add(&mut self, a: Self::F, b: Self::F) -> Self::F;
    fn sub(&mut self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(&mut self, a: Self::F, b: Self::F) -> Self::F;
    fn div(&mut self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, rounded once where the target has a fused instruction, else twice.
    fn mul_add(&mut self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    fn neg(&mut self, a: Self::F) -> Self::F;
    fn abs(&mut self, a: Self::F) -> Self::F;
    /// `if a < b { a } else { b }`: `b` if either is NaN (x86 `minps a, b`; WebAssembly `pmin(b, a)`).
    fn min(&mut self, a: Self::F, b: Self::F) -> Self::F;
    /// `if a > b { a } else { b }`: `b` if either is NaN (x86 `maxps a, b`; WebAssembly `pmax(b, a)`).
    fn max(&mut self, a: Self::F, b: Self::F) -> Self::F;
    /// The nearest integral value, ties to even.
    fn round(&mut self, a: Self::F) -> Self::F;

    /// `a < b`; false if either is NaN.
    fn lt(&mut self, a: Self::F, b: Self::F) -> Self::M;
    /// `a == b`; false if either is NaN, true for zeros of either sign.
    fn eq(&mut self, a: Self::F, b: Self::F) -> Self::M;
    /// `a` where `m` is true, else `b`.
    fn select(&mut self, m: Self::M, a: Self::F, b: Self::F) -> Self::F;

    /// An integral value as an integer. Any integer for NaN and for values outside i32; never a trap.
    fn to_i32(&mut self, a: Self::F) -> Self::I;
    /// The nearest f32.
    fn to_f32(&mut self, a: Self::I) -> Self::F;
    fn add_i32(&mut self, a: Self::I, b: Self::I) -> Self::I;
    fn and_i32(&mut self, a: Self::I, b: Self::I) -> Self::I;
    /// `a << bits`, 0 <= `bits` < 32.
    fn shl_i32(&mut self, a: Self::I, bits: u32) -> Self::I;
    /// `a >> bits` with copies of the sign bit, 0 <= `bits` < 32.
    fn shr_i32(&mut self, a: Self::I, bits: u32) -> Self::I;
    /// The bits of each f32.
    fn f32_to_bits(&mut self, a: Self::F) -> Self::I;
    /// The f32 of each bit pattern.
    fn bits_to_f32(&mut self, a: Self::I) -> Self::F;
    /// `a * 2^n` for an integral `n` from -252 to 254, rounded once. Two multiplications by powers of two, each a normal f32, do
    /// that unless the first product is subnormal already; a target may have an instruction.
    #[inline(always)]
    fn scale_by_power(&mut self, a: Self::F, n: Self::F) -> Self::F
    where
        Self: Sized,
    {
        let n = self.to_i32(n);
        let half = self.shr_i32(n, 1);
        let one = self.splat_i32(1);
        let rest = self.add_i32(n, one);
        let rest = self.shr_i32(rest, 1);
        let (half, rest) = (power_of_two(self, half), power_of_two(self, rest));
        let a = self.mul(a, half);
        self.mul(a, rest)
    }
    /// All lanes where the integer is 0.
    fn is_zero_i32(&mut self, a: Self::I) -> Self::M;
}

/// Bound of [`exp`] in ulp, over all arguments whose result is a normal f32.
pub const EXP_ULP: f64 = 1.0;
/// Bound of [`log`] in ulp, over all positive arguments, subnormal ones included.
pub const LOG_ULP: f64 = 1.5;
/// Bound of [`tanh`] in ulp, over all arguments.
pub const TANH_ULP: f64 = 2.0;
/// Bound of [`erf`] in ulp, over all arguments whose result is a normal f32.
pub const ERF_ULP: f64 = 2.0;
/// Bound of [`sin`] and [`cos`] in ulp, for |x| <= [`SIN_COS_DOMAIN`] and |result| >= [`SIN_COS_SMALL`].
pub const SIN_COS_ULP: f64 = 2.5;
/// Below this result, near a zero other than `sin(0)`, the absolute error of [`sin`] and [`cos`] is bounded
/// instead: by [`SIN_COS_ULP`] times the spacing of f32 at this value.
pub const SIN_COS_SMALL: f64 = 1.0 / 256.0;
/// The largest |x| of [`sin`] and [`cos`], just under 2^16 quarter turns. The result is NaN beyond.
pub const SIN_COS_DOMAIN: f32 = 102_900.0;

/// `c[0] + c[1] x + c[2] x^2 + ...` by Horner's rule.
#[inline(always)]
fn polynomial<L: Lanes, const N: usize>(l: &mut L, x: L::F, c: [f32; N]) -> L::F {
    let mut sum = l.splat(c[N - 1]);
    for &coefficient in c[..N - 1].iter().rev() {
        let c = l.splat(coefficient);
        sum = l.mul_add(sum, x, c);
    }
    sum
}

/// `a * s` for a constant `s`.
#[inline(always)]
fn scale<L: Lanes>(l: &mut L, a: L::F, s: f32) -> L::F {
    let s = l.splat(s);
    l.mul(a, s)
}

/// `a * s + c` for a constant `s`.
#[inline(always)]
fn scale_add<L: Lanes>(l: &mut L, a: L::F, s: f32, c: L::F) -> L::F {
    let s = l.splat(s);
    l.mul_add(a, s, c)
}

/// 2^n for -126 <= n <= 127.
#[inline(always)]
fn power_of_two<L: Lanes>(l: &mut L, n: L::I) -> L::F {
    let bias = l.splat_i32(127);
    let biased = l.add_i32(n, bias);
    let bits = l.shl_i32(biased, 23);
    l.bits_to_f32(bits)
}

/// e^x within [`EXP_ULP`]; `inf` from 88.73, gradual underflow to 0 from -87.34 down to -104 (a target that
/// flushes subnormals gives 0 there).
///
/// x = n ln 2 + r with |r| <= ln 2 / 2, e^r by a polynomial, and the product with 2^n rounded once, so that it overflows and
/// underflows as the hardware does.
#[inline(always)]
pub fn exp<L: Lanes>(l: &mut L, x: L::F) -> L::F {
    let (low, high) = (l.splat(-104.0), l.splat(89.0));
    let x = l.max(low, x);
    let x = l.min(high, x);
    let n = scale(l, x, std::f32::consts::LOG2_E);
    let n = l.round(n);
    let r = scale_add(l, n, -0.693_359_4, x); // 355/512: nine bits
    let r = scale_add(l, n, 2.121_944_4e-4, r); // 355/512 - ln 2
    let p = polynomial(l, r, [0.499_999_94, 0.166_665_2, 0.041_668_393, 0.008_368_781, 0.001_381_448_1]);
    let square = l.mul(r, r);
    let tail = l.mul_add(square, p, r);
    let one = l.splat(1.0);
    let y = l.add(one, tail);
    l.scale_by_power(y, n)
}

/// ln x within [`LOG_ULP`]; `-inf` at zeros, NaN below, `inf` at `inf`.
///
/// x = 2^e m with sqrt(1/2) <= m < sqrt(2), and ln(1 + f) = f - f^2/2 + f^3 P(f).
#[inline(always)]
pub fn log<L: Lanes>(l: &mut L, x: L::F) -> L::F {
    // Subnormal arguments are scaled into the normal range.
    let least = l.splat(f32::MIN_POSITIVE);
    let subnormal = l.lt(x, least);
    let scaled = scale(l, x, 8_388_608.0); // 2^23
    let normal = l.select(subnormal, scaled, x);
    let (shifted, zero) = (l.splat(-23.0), l.splat(0.0));
    let shift = l.select(subnormal, shifted, zero);

    // Subtracting the bits of sqrt(1/2) moves the binade boundary there.
    const SQRT_HALF: i32 = 0x3f35_04f3;
    let bits = l.f32_to_bits(normal);
    let offset = l.splat_i32(-SQRT_HALF);
    let bits = l.add_i32(bits, offset);
    let e = l.shr_i32(bits, 23);
    let e = l.to_f32(e);
    let e = l.add(e, shift);
    let mask = l.splat_i32(0x007f_ffff);
    let fraction = l.and_i32(bits, mask);
    let offset = l.splat_i32(SQRT_HALF);
    let m = l.add_i32(fraction, offset);
    let m = l.bits_to_f32(m);

    let one = l.splat(1.0);
    let f = l.sub(m, one);
    let p = polynomial(
        l,
        f,
        [
            0.333_333_13,
            -0.250_000_1,
            0.200_021_2,
            -0.166_679_96,
            0.142_195_52,
            -0.124_055_88,
            0.118_881_63,
            -0.116_756_53,
            0.067_466_415,
        ],
    );
    let square = l.mul(f, f);
    let y = l.mul(square, f);
    let y = l.mul(y, p);
    let y = scale_add(l, e, -2.121_944_4e-4, y);
    let y = scale_add(l, square, -0.5, y);
    let y = l.add(f, y);
    let y = scale_add(l, e, 0.693_359_4, y);

    let infinity = l.splat(f32::INFINITY);
    let finite = l.lt(x, infinity);
    let y = l.select(finite, y, x); // inf and NaN
    let negative = l.lt(x, zero);
    let nan = l.splat(f32::NAN);
    let y = l.select(negative, nan, y);
    let is_zero = l.eq(x, zero);
    let minus_infinity = l.splat(f32::NEG_INFINITY);
    l.select(is_zero, minus_infinity, y)
}

/// tanh x within [`TANH_ULP`].
///
/// An odd polynomial below 0.625, and 1 - 2 / (e^(2|x|) + 1) with the sign of x above (Cephes `tanhf`).
#[inline(always)]
pub fn tanh<L: Lanes>(l: &mut L, x: L::F) -> L::F {
    let z = l.mul(x, x);
    let p = polynomial(l, z, [-0.333_332_84, 0.133_314_83, -0.053_742_774, 0.020_648_06, -0.005_714_058]);
    let cube = l.mul(z, x);
    let small = l.mul_add(cube, p, x);

    let a = l.abs(x);
    let twice = l.add(a, a);
    let e = exp(l, twice);
    let (one, two) = (l.splat(1.0), l.splat(2.0));
    let denominator = l.add(e, one);
    let rest = l.div(two, denominator);
    let large = l.sub(one, rest);
    let large = with_sign_of(l, large, x);

    let split = l.splat(0.625);
    let is_small = l.lt(a, split);
    l.select(is_small, small, large)
}

/// `a`, negated where `x` is negative.
#[inline(always)]
fn with_sign_of<L: Lanes>(l: &mut L, a: L::F, x: L::F) -> L::F {
    let zero = l.splat(0.0);
    let negative = l.lt(x, zero);
    let negated = l.neg(a);
    l.select(negative, negated, a)
}

/// The error function 2/sqrt(pi) times the integral of e^(-t^2) from 0 to x, within [`ERF_ULP`].
///
/// Below 1 an odd polynomial x + x S(x^2). Above, 1 - P(|x|)^4, where P is a fit of erfc^(1/4): a slowly falling
/// function, unlike erfc itself, so that one polynomial reaches from 1 to 4, where erf rounds to 1.
#[inline(always)]
pub fn erf<L: Lanes>(l: &mut L, x: L::F) -> L::F {
    let z = l.mul(x, x);
    let s = polynomial(
        l,
        z,
        [0.128_379_17, -0.376_126_3, 0.112_836_18, -0.026_855_126, 0.005_190_733_4, -8.030_750_3e-4, 7.920_303e-5],
    );
    let small = l.mul_add(x, s, x);

    let a = l.abs(x);
    let four = l.splat(4.0);
    let clamped = l.min(four, a);
    let p = polynomial(
        l,
        clamped,
        [
            0.999_897_84,
            -0.281_187_42,
            -0.122_672_5,
            0.022_175_487,
            0.010_085_694,
            0.005_947_665_3,
            -0.005_978_380_3,
            0.001_710_374,
            -2.203_64e-4,
            1.111_476_8e-5,
        ],
    );
    let p = l.mul(p, p);
    let p = l.mul(p, p);
    let one = l.splat(1.0);
    let large = l.sub(one, p);
    let large = with_sign_of(l, large, x);

    let is_small = l.lt(a, one);
    l.select(is_small, small, large)
}

/// sin x within [`SIN_COS_ULP`] for |x| <= [`SIN_COS_DOMAIN`], NaN beyond; absolute bound near zeros, see
/// [`SIN_COS_SMALL`].
#[inline(always)]
pub fn sin<L: Lanes>(l: &mut L, x: L::F) -> L::F {
    quarter_turns(l, x, 0)
}

/// cos x, with the bounds of [`sin`].
#[inline(always)]
pub fn cos<L: Lanes>(l: &mut L, x: L::F) -> L::F {
    quarter_turns(l, x, 1)
}

/// sin(x + `quarters` pi/2): x = n pi/2 + r with |r| <= pi/4, then the sine or cosine of r with a sign, by the
/// last two bits of n + `quarters`.
#[inline(always)]
fn quarter_turns<L: Lanes>(l: &mut L, x: L::F, quarters: i32) -> L::F {
    let n = scale(l, x, std::f32::consts::FRAC_2_PI);
    let n = l.round(n);
    // pi/2 in pieces of eight bits: products with n < 2^16, and the differences, are exact up to the last.
    let r = scale_add(l, n, -1.570_312_5, x);
    let r = scale_add(l, n, -4.825_592e-4, r);
    let r = scale_add(l, n, -1.266_598_7e-6, r);
    let r = scale_add(l, n, -9.920_936e-10, r);

    let z = l.mul(r, r);
    let p = polynomial(l, z, [-0.166_666_55, 0.008_332_191, -1.951_860_5e-4]);
    let cube = l.mul(z, r);
    let sine = l.mul_add(cube, p, r);
    let q = polynomial(l, z, [0.041_666_646, -0.001_388_730_1, 2.443_067e-5]);
    let fourth = l.mul(z, z);
    let one = l.splat(1.0);
    let cosine = scale_add(l, z, -0.5, one);
    let cosine = l.mul_add(fourth, q, cosine);

    let n = l.to_i32(n);
    let quarters = l.splat_i32(quarters);
    let n = l.add_i32(n, quarters);
    let bit = l.splat_i32(1);
    let odd = l.and_i32(n, bit);
    let even = l.is_zero_i32(odd);
    let y = l.select(even, sine, cosine);
    let bit = l.splat_i32(2);
    let half = l.and_i32(n, bit);
    let upright = l.is_zero_i32(half);
    let negated = l.neg(y);
    let y = l.select(upright, y, negated);

    let a = l.abs(x);
    let limit = l.splat(SIN_COS_DOMAIN);
    let outside = l.lt(limit, a);
    let nan = l.splat(f32::NAN);
    l.select(outside, nan, y)
}

/// One lane: plain scalars. `FUSED` says whether [`Lanes::mul_add`] rounds once.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scalar<const FUSED: bool>;

impl<const FUSED: bool> Lanes for Scalar<FUSED> {
    type F = f32;
    type I = i32;
    type M = bool;

    fn splat(&mut self, x: f32) -> f32 {
        x
    }
    fn splat_i32(&mut self, x: i32) -> i32 {
        x
    }
    fn add(&mut self, a: f32, b: f32) -> f32 {
        a + b
    }
    fn sub(&mut self, a: f32, b: f32) -> f32 {
        a - b
    }
    fn mul(&mut self, a: f32, b: f32) -> f32 {
        a * b
    }
    fn div(&mut self, a: f32, b: f32) -> f32 {
        a / b
    }
    fn mul_add(&mut self, a: f32, b: f32, c: f32) -> f32 {
        if FUSED { a.mul_add(b, c) } else { a * b + c }
    }
    fn neg(&mut self, a: f32) -> f32 {
        -a
    }
    fn abs(&mut self, a: f32) -> f32 {
        a.abs()
    }
    fn min(&mut self, a: f32, b: f32) -> f32 {
        if a < b { a } else { b }
    }
    fn max(&mut self, a: f32, b: f32) -> f32 {
        if a > b { a } else { b }
    }
    fn round(&mut self, a: f32) -> f32 {
        a.round_ties_even()
    }
    fn lt(&mut self, a: f32, b: f32) -> bool {
        a < b
    }
    fn eq(&mut self, a: f32, b: f32) -> bool {
        a == b
    }
    fn select(&mut self, m: bool, a: f32, b: f32) -> f32 {
        if m { a } else { b }
    }
    fn to_i32(&mut self, a: f32) -> i32 {
        a as i32
    }
    fn to_f32(&mut self, a: i32) -> f32 {
        a as f32
    }
    fn add_i32(&mut self, a: i32, b: i32) -> i32 {
        a.wrapping_add(b)
    }
    fn and_i32(&mut self, a: i32, b: i32) -> i32 {
        a & b
    }
    fn shl_i32(&mut self, a: i32, bits: u32) -> i32 {
        a << bits
    }
    fn shr_i32(&mut self, a: i32, bits: u32) -> i32 {
        a >> bits
    }
    fn f32_to_bits(&mut self, a: f32) -> i32 {
        a.to_bits() as i32
    }
    fn bits_to_f32(&mut self, a: i32) -> f32 {
        f32::from_bits(a as u32)
    }
    fn is_zero_i32(&mut self, a: i32) -> bool {
        a == 0
    }
}

#[cfg(test)]
mod tests;
