// One tab at a time keeps runs: two that wrote in turn would spoil each other's.

/** The name of the lock that the tab which keeps runs holds. */
const LOCK = 'tinygpt-run';

export class Keeper {
  #held = false;

  /** Takes the lock for as long as this worker lives; throws the sentence if another tab has it. */
  async lock(): Promise<void> {
    if (this.#held || navigator.locks === undefined) return;
    this.#held = await new Promise<boolean>((resolve, reject) => {
      navigator.locks
        .request(LOCK, { ifAvailable: true }, (lock) => {
          resolve(lock !== null);
          // Held until the worker ends.
          return lock === null ? undefined : new Promise<void>(() => {});
        })
        .catch(reject);
    });
    if (!this.#held) throw new Error('another tab of this page keeps its run in this browser: close it first, or go on without keeping this one');
  }
}
