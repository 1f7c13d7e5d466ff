// How fast a run is: over its recent steps, and in its steady state.

/** Steps of an opening that do not count for its steady state: caches, code and clocks warm up. */
export const WARM_UP = 50;

/** Milliseconds of steps that count as recent. */
const RECENT_MS = 2000;

export class Pace {
  readonly #tokens: number;
  readonly #recent: { steps: number; ms: number }[] = [];
  #done = 0;
  #steady = { steps: 0, ms: 0 };

  /** `tokens`: of a step. */
  constructor(tokens: number) {
    this.#tokens = tokens;
  }

  /** Some steps took `ms` together. */
  add(steps: number, ms: number): void {
    this.#recent.push({ steps, ms });
    let total = this.#recent.reduce((sum, group) => sum + group.ms, 0);
    while (this.#recent.length > 1 && total - (this.#recent[0]?.ms ?? 0) >= RECENT_MS) total -= this.#recent.shift()?.ms ?? 0;
    if (this.#done >= WARM_UP) this.#steady = { steps: this.#steady.steps + steps, ms: this.#steady.ms + ms };
    this.#done += steps;
  }

  /** Milliseconds a step, of the recent ones; 0 before the first. */
  get msPerStep(): number {
    const steps = this.#recent.reduce((sum, group) => sum + group.steps, 0);
    return steps === 0 ? 0 : this.#recent.reduce((sum, group) => sum + group.ms, 0) / steps;
  }

  /** Tokens a second after the warm-up; undefined before. */
  get tokensPerS(): number | undefined {
    const { steps, ms } = this.#steady;
    return ms > 0 ? (1e3 * steps * this.#tokens) / ms : undefined;
  }
}
