// One tab at a time keeps runs: two that wrote in turn would spoil each other's.

/** The name of the lock that the tab which keeps runs holds. */
const LOCK = 'tinygpt-run';

/** A tab that is reloaded may ask before its former self has let go. */
const PATIENCE_MS = 1000;

export class Keeper {
  #held = false;

  /** Takes the lock for as long as this worker lives; throws the sentence if another tab has it. */
  async lock(): Promise<void> {
    if (this.#held || navigator.locks === undefined) return;
    this.#held = await new Promise<boolean>((resolve) => {
      const taken = () => {
        resolve(true);
        // Held until the worker ends.
        return new Promise<void>(() => {});
      };
      navigator.locks.request(LOCK, { signal: AbortSignal.timeout(PATIENCE_MS) }, taken).catch(() => resolve(false));
    });
    if (!this.#held) throw new Error('another tab of this page keeps its run in this browser: close it first, or go on without keeping this one');
  }
}
