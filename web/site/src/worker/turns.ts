// One user of the engine at a time, in the order in which they came.

export class Turns {
  #last: Promise<void> = Promise.resolve();
  #waiting = 0;

  /** Users that wait for their turn. */
  get waiting(): number {
    return this.#waiting;
  }

  /** Does `work` once all those before have ended. */
  async take<T>(work: () => Promise<T>): Promise<T> {
    const before = this.#last;
    let end = () => {};
    this.#last = new Promise((resolve) => (end = resolve));
    this.#waiting += 1;
    await before;
    this.#waiting -= 1;
    try {
      return await work();
    } finally {
      end();
    }
  }
}
