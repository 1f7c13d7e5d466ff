//! Random graphs and inputs, for tests of everything that takes a graph.
//!
//! Pure functions of their seed. The graphs aim at what fusion finds hard: elementwise after reduce after elementwise,
//! reductions over various axes broadcast back, transposes and reshapes between, contractions in all label orders with
//! shared operands, gathers, scatters, slices, diamonds, values used and returned at once.
//!
//! Invariants of [`random_graph`] together with [`random_inputs`]
//! - Every value is finite. `log`, `sqrt`, `rsqrt`, `recip` and divisors only see values of at least 1/4; magnitudes
//!   stay below about a hundred (each float value carries an interval that holds it).
//! - Nothing that jumps depends on rounding: comparisons, argmax, and casts of floats to other dtypes only see *grid* values:
//!   elements of parameters (any two are at least 2^-11 apart and 2^-12 from every constant), constants, and what
//!   re-indexing, negation, `max`, `min` and `select` make of them. So two correct backends agree.
//! - `differentiable`: also the kinks of `max`, `min` and `reduce_max` lie off the inputs: `max` and `min` see grid values,
//!   `reduce_max` these or strictly increasing images of them. Moving one input element by less than 1e-4 crosses no kink,
//!   so finite differences hold.

mod composites;
mod generator;
mod inputs;
mod recipes;

pub use inputs::{index_extents, random_inputs};

use crate::dsl::Builder;
use crate::graph::Graph;

/// What random graphs contain.
#[derive(Clone, Debug, PartialEq)]
pub struct RandomOptions {
    /// Pieces (each of one to about ten nodes) are added until the graph has this many nodes; named results and the loss
    /// then add some.
    pub nodes: usize,
    /// Greatest extent of the shapes drawn, at least 2; about a third of the extents are 1.
    pub max_extent: usize,
    /// Whether composites occur.
    pub composites: bool,
    /// Whether values of other dtypes than f32 occur, hence indexing, comparisons, select and random numbers.
    pub integers: bool,
    /// Whether casts to f16 and back occur.
    pub f16: bool,
    /// A loss to differentiate: every f32 parameter is a weight, the output `loss` is a scalar f32 made of
    /// every f32 value that nothing else uses, and only composites with a gradient occur (no attention_grad, no adamw).
    pub differentiable: bool,
}

impl Default for RandomOptions {
    fn default() -> Self {
        RandomOptions { nodes: 40, max_extent: 9, composites: true, integers: true, f16: false, differentiable: false }
    }
}

/// A well-formed forward graph: a pure function of `seed` and `options`.
pub fn random_graph(seed: u64, options: &RandomOptions) -> Graph {
    let builder = Builder::new(format!("random.{seed}"));
    generator::fill(&builder, seed, options);
    builder.finish().unwrap_or_else(|e| panic!("random_graph({seed}, {options:?}) made an invalid operation: {e}"))
}

/// Splitmix64 (Steele, Lea and Flood 2014).
pub(crate) struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `n`, which is at least 1.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// From `low` to `high`, both included.
    pub fn range(&mut self, low: usize, high: usize) -> usize {
        low + self.below(high - low + 1)
    }

    /// True `percent` times of a hundred.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub fn pick<V: Copy>(&mut self, from: &[V]) -> V {
        from[self.below(from.len())]
    }

    /// A random order (Fisher and Yates).
    pub fn shuffle<V>(&mut self, items: &mut [V]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

#[cfg(test)]
mod tests;
