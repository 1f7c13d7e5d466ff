//! SIMD templates: precompiled `std::arch` kernels for the arithmetic-heavy archetypes.
//!
//! Cranelift has no vector wider than 128 bits on x86-64. These templates take its place where that costs most:
//! transcendental functions over rows ([`rows`]), contractions ([`gemm`]) and attention ([`attention`]). Their
//! meaning, and the portable path, is the definition in the vector loop IR; with templates disabled a program
//! computes the same within tolerance.
//!
//! Invariants:
//! - A plan is immutable, made from shapes alone and cut into tasks by shape alone. Tasks write disjoint outputs
//!   and may run on any thread in any order; each output element is summed in a fixed order. So results are
//!   equal to the last bit for every number of threads.
//! - Nothing here allocates, locks or starts a thread once a plan exists. Scratch comes from the caller.
//! - One body serves all instruction sets: it is generic over the crate's private `Simd` trait, forced inline
//!   into one `#[target_feature]` function for each [`Isa`].
//! - An [`Isa`] is used only where the processor has it: every constructor checks.
//! - On other architectures than x86-64 [`Isa`] has no values, so that the crate builds and never runs.

// Elsewhere the kernels are left out, and much of what prepares them is unused.
#![cfg_attr(not(target_arch = "x86_64"), allow(unused))]

pub mod attention;
mod axis;
pub mod gemm;
pub mod rows;
#[cfg(target_arch = "x86_64")]
mod vector;

pub use axis::Axis;

/// An instruction set that the templates are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Isa {
    /// 512-bit vectors: AVX-512F.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// 256-bit vectors: AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2,
}

impl Isa {
    /// The widest instruction set of this processor, if any is supported.
    pub fn detect() -> Option<Isa> {
        Isa::available().first().copied()
    }

    /// Every supported instruction set of this processor, widest first.
    pub fn available() -> Vec<Isa> {
        #[cfg(target_arch = "x86_64")]
        let all = vec![Isa::Avx512, Isa::Avx2];
        #[cfg(not(target_arch = "x86_64"))]
        let all = Vec::<Isa>::new();
        all.into_iter().filter(|isa| isa.is_available()).collect()
    }

    /// Whether this processor has the instruction set.
    pub fn is_available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => is_x86_feature_detected!("avx512f"),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
        }
    }

    /// The name as the command line shows it.
    pub fn name(self) -> &'static str {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => "avx2",
        }
    }

    /// f32 lanes of one vector.
    pub fn lanes(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => 16,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => 8,
        }
    }

    /// Refuses an instruction set that this processor lacks.
    fn check(self) -> Result<(), PlanError> {
        if self.is_available() {
            Ok(())
        } else {
            Err(PlanError(format!("this processor has no {}: use Isa::detect()", self.name())))
        }
    }
}

/// Why a plan cannot be made: one sentence that says what was found and what is expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanError(String);

impl std::fmt::Display for PlanError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for PlanError {}
