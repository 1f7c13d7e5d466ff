// Counter-based random numbers: Philox4x32-10 (Salmon, Moraes, Dror, Shaw, SC 2011), as runtime/src/rng.rs has them, to the last bit.
//
// A number is a pure function of (seed, stream, index). Integers are BigInt: a step draws one number a row, so legibility wins.

const MULTIPLIERS = [0xd2511f53n, 0xcd9e8d57n] as const;
const WEYL = [0x9e3779b9n, 0xbb67ae85n] as const;
const LOW_32 = 0xffffffffn;
const LOW_64 = 0xffffffffffffffffn;

type Words = [bigint, bigint, bigint, bigint];

/** The Philox4x32-10 bijection: 128 random bits for a 128-bit counter under a 64-bit key, in words of 32 bits. */
export function philox([c0, c1, c2, c3]: Words, [k0, k1]: [bigint, bigint]): Words {
  for (let round = 0; round < 10; round++) {
    const a = MULTIPLIERS[0] * c0;
    const b = MULTIPLIERS[1] * c2;
    [c0, c1, c2, c3] = [(b >> 32n) ^ c1 ^ k0, b & LOW_32, (a >> 32n) ^ c3 ^ k1, a & LOW_32];
    [k0, k1] = [(k0 + WEYL[0]) & LOW_32, (k1 + WEYL[1]) & LOW_32];
  }
  return [c0, c1, c2, c3];
}

/** FNV-1a, 64 bits. */
export function fnv1a(bytes: Uint8Array): bigint {
  let hash = 0xcbf29ce484222325n;
  for (const byte of bytes) hash = ((hash ^ BigInt(byte)) * 0x100000001b3n) & LOW_64;
  return hash;
}

/** An endless sequence of random numbers, addressed by index. */
export class Stream {
  readonly #key: [bigint, bigint];
  readonly #id: bigint;

  /** The stream of this name under this seed, a non-negative integer. */
  constructor(seed: number | bigint, name: string) {
    const key = BigInt(seed);
    this.#key = [key & LOW_32, (key >> 32n) & LOW_32];
    this.#id = fnv1a(new TextEncoder().encode(name));
  }

  /** 64 random bits of block `index`. */
  bits(index: number | bigint): bigint {
    const at = BigInt(index);
    const [low, high] = philox([at & LOW_32, at >> 32n, this.#id & LOW_32, this.#id >> 32n], this.#key);
    return low | (high << 32n);
  }

  /** Uniform in [0, 1), on the 2^53 multiples of 2^-53. */
  uniform(index: number | bigint): number {
    return Number(this.bits(index) >> 11n) * 2 ** -53;
  }

  /** Uniform in 0..n, by the high word of a 64 x 64-bit product. */
  below(index: number | bigint, n: number): number {
    return Number((this.bits(index) * BigInt(n)) >> 64n);
  }
}
