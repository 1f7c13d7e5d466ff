//! One machine vector of f32, in the vocabulary that the templates share.
//!
//! Arithmetic comes from [`Lanes`], the trait of the transcendental functions; [`Simd`] adds memory and
//! reductions. All methods are forced inline: they are correct only inside a function that enables the
//! instruction set, and fast only there.

mod avx2;
mod avx512;

pub(crate) use avx2::Avx2;
pub(crate) use avx512::Avx512;
use tinygpt_vloop::math::Lanes;

/// The most lanes of any instruction set.
pub(crate) const MAX_LANES: usize = 16;

/// # Safety of the methods
/// The processor must have the instruction set. Pointers need no alignment. `tail` methods touch only the first
/// lanes that the tail names; the others all.
pub(crate) trait Simd: Lanes + Copy + Default {
    /// f32 in a vector.
    const LANES: usize;
    /// Names the first lanes of a vector.
    type Tail: Copy;

    /// The first `count` lanes, 0 <= `count` <= `LANES`.
    fn tail(count: usize) -> Self::Tail;

    unsafe fn load(from: *const f32) -> Self::F;
    /// Zero in the lanes outside the tail.
    unsafe fn load_tail(from: *const f32, tail: Self::Tail) -> Self::F;
    unsafe fn store(to: *mut f32, v: Self::F);
    unsafe fn store_tail(to: *mut f32, v: Self::F, tail: Self::Tail);
    /// Asks for the cache line of `at`, which need not be readable.
    fn prefetch(at: *const f32);
    /// `x` where the tail is, `other` elsewhere.
    fn keep_tail(x: Self::F, other: Self::F, tail: Self::Tail) -> Self::F;

    fn set(x: f32) -> Self::F;
    /// `a * b + c`, rounded once.
    fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// Sum of all lanes, by halves.
    fn sum(v: Self::F) -> f32;

    /// Transposes the square of the first `LANES` vectors.
    fn transpose(rows: &mut [Self::F; MAX_LANES]);
}
