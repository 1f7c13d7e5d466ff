//! Counter-based random numbers: Philox4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as
//! 1, 2, 3", SC 2011), and the draws made from it.
//!
//! Invariants:
//! - a number is a pure function of (seed, stream, index): there is no state to save, and draws can be made in any order;
//! - streams are told apart by name ("init/ln_final.weight", "data/train"), so that adding a tensor changes no other;
//! - bit-equal on every platform: integers, IEEE f64 arithmetic and the `libm` crate, never the system's functions.

/// Philox's two multipliers and the two Weyl increments of its key schedule.
const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// The Philox4x32-10 bijection: 128 random bits for a 128-bit counter under a 64-bit key.
pub fn philox4x32_10(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let a = u64::from(MULTIPLIERS[0]) * u64::from(counter[0]);
        let b = u64::from(MULTIPLIERS[1]) * u64::from(counter[2]);
        counter = [(b >> 32) as u32 ^ counter[1] ^ key[0], b as u32, (a >> 32) as u32 ^ counter[3] ^ key[1], a as u32];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counter
}

/// An endless sequence of 128-bit blocks, addressed by index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stream {
    seed: u64,
    id: u64,
}

impl Stream {
    /// The stream of this name under this seed.
    pub fn new(seed: u64, name: &str) -> Self {
        Self { seed, id: fnv1a(name.as_bytes()) }
    }

    /// Block `index`: four words.
    pub fn block(self, index: u64) -> [u32; 4] {
        let counter = [index as u32, (index >> 32) as u32, self.id as u32, (self.id >> 32) as u32];
        philox4x32_10(counter, [self.seed as u32, (self.seed >> 32) as u32])
    }

    /// 64 random bits of block `index`.
    pub fn bits(self, index: u64) -> u64 {
        let [lo, hi, _, _] = self.block(index);
        u64::from(lo) | u64::from(hi) << 32
    }

    /// Uniform in [0, 1), on the 2^53 multiples of 2^-53.
    pub fn uniform(self, index: u64) -> f64 {
        unit(self.bits(index))
    }

    /// Uniform in `0..n`, by the high word of a 64 x 64-bit product (bias below n / 2^64).
    ///
    /// # Panics
    /// When `n` is 0.
    pub fn below(self, index: u64, n: u64) -> u64 {
        assert!(n > 0, "an empty range has no member to draw");
        ((u128::from(self.bits(index)) * u128::from(n)) >> 64) as u64
    }

    /// Two independent standard normals from block `index`, by Box and Muller (1958) in f64.
    pub fn normal_pair(self, index: u64) -> [f64; 2] {
        let [a, b, c, d] = self.block(index);
        // 1 - u lies in (0, 1], so that the logarithm is finite.
        let radius = libm::sqrt(-2.0 * libm::log(1.0 - unit(u64::from(a) | u64::from(b) << 32)));
        let angle = std::f64::consts::TAU * unit(u64::from(c) | u64::from(d) << 32);
        [radius * libm::cos(angle), radius * libm::sin(angle)]
    }
}

/// The top 53 bits as a number in [0, 1).
fn unit(bits: u64) -> f64 {
    (bits >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
}

/// Reads a stream from its start, for callers that draw in sequence (the corpus grammar).
#[derive(Debug, Clone)]
pub struct Cursor {
    stream: Stream,
    next: u64,
}

impl Cursor {
    pub fn new(stream: Stream) -> Self {
        Self { stream, next: 0 }
    }

    /// Uniform in `0..n`; see [`Stream::below`].
    pub fn below(&mut self, n: usize) -> usize {
        let drawn = self.stream.below(self.next, n as u64) as usize;
        self.next += 1;
        drawn
    }
}

/// `len` draws of N(0, std) for the tensor `name`, rounded to f32 once.
pub fn init_normal(seed: u64, name: &str, std: f64, len: usize) -> Vec<f32> {
    let stream = Stream::new(seed, &format!("init/{name}"));
    let mut values = vec![0.0; len];
    let fill = |(part, values): (usize, &mut [f32])| {
        for (at, pair) in values.chunks_mut(2).enumerate() {
            let drawn = stream.normal_pair((part * PART / 2 + at) as u64);
            pair.iter_mut().zip(drawn).for_each(|(value, x)| *value = (x * std) as f32);
        }
    };
    #[cfg(not(target_arch = "wasm32"))]
    {
        use rayon::prelude::*;
        values.par_chunks_mut(PART).enumerate().for_each(fill);
    }
    #[cfg(target_arch = "wasm32")]
    values.chunks_mut(PART).enumerate().for_each(fill);
    values
}

/// Values that are drawn by one task; even, since draws come in pairs.
const PART: usize = 1 << 14;

/// FNV-1a, 64 bits (Fowler, Noll, Vo): a fixed hash of names and texts, not a defence against anyone.
pub fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers of Random123 1.14 (tests/kat_vectors).
    #[test]
    fn philox_known_answers() {
        assert_eq!(philox4x32_10([0; 4], [0; 2]), [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
        assert_eq!(philox4x32_10([u32::MAX; 4], [u32::MAX; 2]), [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]);
        assert_eq!(
            philox4x32_10([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0]),
            [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1]
        );
    }

    /// Known answers of the FNV reference (draft-eastlake-fnv).
    #[test]
    fn fnv_known_answers() {
        assert_eq!(fnv1a(b""), 0xcbf29ce484222325);
        assert_eq!(fnv1a(b"a"), 0xaf63dc4c8601ec8c);
        assert_eq!(fnv1a(b"foobar"), 0x85944171f73967e8);
    }

    #[test]
    fn normals_have_the_moments_of_a_normal() {
        let n = 200_000;
        let values = init_normal(7, "w", 1.0, n);
        let moment = |k: i32| values.iter().map(|x| f64::from(*x).powi(k)).sum::<f64>() / n as f64;
        // Five standard errors: sqrt(1/n), sqrt(2/n), sqrt(15/n), sqrt(96/n).
        let error = |variance: f64| 5.0 * (variance / n as f64).sqrt();
        assert!(moment(1).abs() < error(1.0), "mean {}", moment(1));
        assert!((moment(2) - 1.0).abs() < error(2.0), "variance {}", moment(2));
        assert!(moment(3).abs() < error(15.0), "skew {}", moment(3));
        assert!((moment(4) - 3.0).abs() < error(96.0), "kurtosis {}", moment(4));
        assert!(values.iter().all(|x| x.is_finite()));
    }

    /// The numbers themselves are a promise: a change here changes every run that was ever seeded.
    #[test]
    fn normals_are_the_same_bits_everywhere() {
        let bits: Vec<u32> = init_normal(42, "token_embedding.weight", 0.02, 5).iter().map(|x| x.to_bits()).collect();
        assert_eq!(bits, GOLDEN_NORMALS);
        let all: Vec<u8> = init_normal(42, "w", 1.0, 10_001).iter().flat_map(|x| x.to_le_bytes()).collect();
        assert_eq!(fnv1a(&all), GOLDEN_NORMALS_HASH);
    }

    // From a second implementation (Python, glibc): the rounding to f32 hides the libraries' last-bit differences here.
    const GOLDEN_NORMALS: [u32; 5] = [3171877433, 1024077459, 3165089476, 3158956217, 1026673394];
    const GOLDEN_NORMALS_HASH: u64 = 0xaa26_155a_d623_394e;

    #[test]
    fn streams_and_prefixes() {
        let long = init_normal(1, "a", 0.5, 9);
        assert_eq!(init_normal(1, "a", 0.5, 4), long[..4]);
        // Parts are drawn apart.
        let parts = init_normal(1, "a", 0.5, 2 * PART + 1);
        assert_eq!(parts[..9], long);
        let drawn = |index: usize| Stream::new(1, "init/a").normal_pair(index as u64).map(|x| (x * 0.5) as f32);
        assert_eq!(parts[PART - 2..PART], drawn(PART / 2 - 1));
        assert_eq!(parts[PART..PART + 2], drawn(PART / 2));
        assert_eq!(parts[2 * PART], drawn(PART)[0]);
        assert_ne!(init_normal(1, "b", 0.5, 9), long);
        assert_ne!(init_normal(2, "a", 0.5, 9), long);
        assert!(init_normal(1, "a", 0.5, 0).is_empty());
    }

    #[test]
    fn below_covers_its_range_evenly() {
        let stream = Stream::new(3, "die");
        let mut seen = [0u32; 6];
        (0..60_000).for_each(|i| seen[stream.below(i, 6) as usize] += 1);
        // Standard deviation of each count is 91.
        assert!(seen.iter().all(|n| n.abs_diff(10_000) < 460), "{seen:?}");
        assert!((0..1000).all(|i| (0.0..1.0).contains(&stream.uniform(i))));
    }
}
