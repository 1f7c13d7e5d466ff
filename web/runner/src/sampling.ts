// Choosing the next token from logits: the rule of runtime/src/sampling.rs.
//
// A choice is a pure function of (logits, temperature, top-k, seed, index); ties go to the lower token; arithmetic is f64.

import { Stream } from './rng.js';

/** How tokens are drawn. */
export class Sampler {
  readonly #temperature: number;
  readonly #topK: number | undefined;
  readonly #stream: Stream;

  /** `temperature` 0 is greedy; `topK` keeps the k likeliest tokens, undefined all. */
  constructor(temperature: number, topK: number | undefined, seed: number | bigint) {
    if (!(Number.isFinite(temperature) && temperature >= 0)) {
      throw new Error(`temperature must be 0 (greedy) or more, and is ${temperature}`);
    }
    if (topK !== undefined && !(Number.isInteger(topK) && topK >= 1)) {
      throw new Error(`topK must be at least 1, and is ${topK}`);
    }
    this.#temperature = temperature;
    this.#topK = topK;
    this.#stream = new Stream(seed, 'sample');
  }

  /** The token that follows, from the `logits` of the last position; `index` numbers the choices of a text. */
  choose(logits: Float32Array, index: number): number {
    if (logits.length === 0 || !logits.every(Number.isFinite)) {
      throw new Error(`token ${index} cannot be chosen: the model's ${logits.length} logits are not all finite numbers`);
    }
    const logit = (token: number) => logits[token] as number;
    // A total order: 0 before -0, then the lower token.
    const likelier = (a: number, b: number) =>
      logit(b) - logit(a) || Number(Object.is(logit(a), -0)) - Number(Object.is(logit(b), -0)) || a - b;
    const candidates = Array.from(logits.keys());
    const keep = this.#temperature === 0 ? 1 : this.#topK ?? logits.length;
    if (keep === 1) return candidates.reduce((best, token) => (likelier(token, best) < 0 ? token : best));
    candidates.sort(likelier);
    candidates.length = Math.min(keep, candidates.length);
    const top = logit(candidates[0] as number);
    const weights = candidates.map((token) => Math.exp((logit(token) - top) / this.#temperature));
    let left = this.#stream.uniform(index) * weights.reduce((sum, weight) => sum + weight, 0);
    for (const [at, weight] of weights.entries()) {
      left -= weight;
      if (left < 0) return candidates[at] as number;
    }
    // Rounding can leave a remainder of the order of 1e-16; the likeliest token absorbs it.
    return candidates[0] as number;
  }
}

/** Minus the logarithm of the softmax of `logits` at `target`, in f64. */
export function crossEntropy(logits: Float32Array, target: number): number {
  const max = logits.reduce((most, x) => Math.max(most, x), -Infinity);
  const sum = logits.reduce((total, x) => total + Math.exp(x - max), 0);
  return Math.log(sum) + max - (logits[target] as number);
}
