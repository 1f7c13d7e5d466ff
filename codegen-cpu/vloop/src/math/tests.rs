//! Sweeps of each function against f64, fused and unfused, and the special arguments.

use super::*;

/// Distance of two f32 neighbours at `x`.
fn spacing(x: f64) -> f64 {
    let exponent = if x == 0.0 { -126 } else { (x.abs().log2().floor() as i32).max(-126) };
    2f64.powi(exponent - 23)
}

/// erf in f64: the Maclaurin series below 3, the continued fraction of erfc above (DLMF 7.6.1, 7.9.1).
fn erf64(x: f64) -> f64 {
    let a = x.abs();
    let y = if a < 3.0 {
        let (mut term, mut sum) = (a, a);
        for n in 1..120 {
            term *= -a * a / n as f64;
            sum += term / (2 * n + 1) as f64;
        }
        sum * std::f64::consts::FRAC_2_SQRT_PI
    } else {
        let mut fraction = a;
        for n in (1..80).rev() {
            fraction = a + n as f64 / 2.0 / fraction;
        }
        1.0 - (-a * a).exp() / fraction * std::f64::consts::FRAC_2_SQRT_PI / 2.0
    };
    y.copysign(x)
}

/// Every `step`-th f32 between two positive numbers, and their negatives.
fn sweep(from: f32, to: f32, step: usize) -> impl Iterator<Item = f32> {
    (from.to_bits()..=to.to_bits()).step_by(step).map(f32::from_bits).flat_map(|x| [x, -x])
}

/// Asserts that the error, in ulp of results of at least `floor`, is at most `bound`; prints the largest.
fn check(
    name: &str,
    bound: f64,
    floor: f64,
    exact: impl Fn(f64) -> f64,
    computed: impl Fn(f32) -> f32,
    arguments: impl Iterator<Item = f32>,
) {
    let (mut worst, mut at) = (0.0, 0.0);
    for x in arguments {
        let y = exact(x as f64);
        let normal = y.abs() >= f32::MIN_POSITIVE as f64 && y.abs() < f32::MAX as f64;
        if normal {
            let error = (computed(x) as f64 - y).abs() / spacing(y.abs().max(floor));
            assert!(!error.is_nan(), "{name}({x:e}) is NaN, expected {y:e}");
            if error > worst {
                (worst, at) = (error, x);
            }
        }
    }
    println!("{name}: {worst:.3} ulp at {at:e}");
    assert!(worst > 0.0, "{name}: nothing was tested");
    assert!(worst <= bound, "{name}({at:e}): {worst:.3} ulp, bound {bound}");
}

fn check_all<const FUSED: bool>() {
    let one = |f: fn(&mut Scalar<FUSED>, f32) -> f32| move |x| f(&mut Scalar, x);
    let sizes = |to| sweep(1e-7, to, 97);
    check("exp", EXP_ULP, 0.0, f64::exp, one(exp), sizes(90.0));
    check("log", LOG_ULP, 0.0, f64::ln, one(log), sweep(1e-45, f32::MAX, 997).filter(|x| *x > 0.0));
    check("log near 1", LOG_ULP, 0.0, f64::ln, one(log), sweep(0.5, 2.0, 7).filter(|x| *x > 0.0));
    check("tanh", TANH_ULP, 0.0, f64::tanh, one(tanh), sweep(1e-37, 20.0, 97));
    check("erf", ERF_ULP, 0.0, erf64, one(erf), sweep(1e-37, 6.0, 797));
    check("erf from 0.1", ERF_ULP, 0.0, erf64, one(erf), sweep(0.1, 4.5, 97));
    check("sin", SIN_COS_ULP, SIN_COS_SMALL, f64::sin, one(sin), sweep(1e-3, SIN_COS_DOMAIN, 97));
    check("sin near 0", SIN_COS_ULP, 0.0, f64::sin, one(sin), sweep(1e-37, 1.5, 197));
    check("cos", SIN_COS_ULP, SIN_COS_SMALL, f64::cos, one(cos), sweep(1e-3, SIN_COS_DOMAIN, 97));
}

#[test]
fn within_the_stated_bounds_fused() {
    check_all::<true>();
}

#[test]
fn within_the_stated_bounds_unfused() {
    check_all::<false>();
}

#[test]
fn special_arguments() {
    let s = &mut Scalar::<false>;
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    for f in [exp, log, tanh, erf, sin, cos] {
        assert!(f(s, nan).is_nan());
    }
    assert_eq!([exp(s, inf), exp(s, -inf), exp(s, 0.0)], [inf, 0.0, 1.0]);
    assert_eq!([exp(s, 88.73), exp(s, -104.0), exp(s, -1e30), exp(s, 1e30)], [inf, 0.0, 0.0, inf]);
    assert!(exp(s, 88.722_83) < inf);
    let subnormal = exp(s, -100.0) as f64;
    assert!((subnormal - (-100f64).exp()).abs() <= 2f64.powi(-149), "{subnormal:e}");
    assert_eq!([log(s, inf), log(s, 0.0), log(s, -0.0), log(s, 1.0)], [inf, -inf, -inf, 0.0]);
    assert!(log(s, -1.0).is_nan() && log(s, -inf).is_nan() && log(s, -1e-45).is_nan());
    for f in [tanh, erf] {
        assert_eq!([f(s, inf), f(s, -inf), f(s, 30.0)], [1.0, -1.0, 1.0]);
        assert_eq!([f(s, 0.0), f(s, -0.0)], [0.0, 0.0]);
    }
    assert!(erf(s, -0.0).is_sign_negative());
    assert_eq!([sin(s, 0.0), cos(s, 0.0)], [0.0, 1.0]);
    for x in [inf, -inf, 1.1e5, 1e30] {
        assert!(sin(s, x).is_nan() && cos(s, x).is_nan());
    }
}
