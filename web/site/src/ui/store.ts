// A value with listeners: the page's state in one place, of which each view shows a part.
//
// Invariant: values are never changed in place; a listener is called after each update whose part differs from before (by ===).

export interface Store<T extends object> {
  get(): T;
  update(patch: Partial<T>): void;
  /** Calls `show` now and whenever the part that `pick` takes has changed. */
  watch<P>(pick: (state: T) => P, show: (part: P, state: T) => void): void;
}

export function createStore<T extends object>(initial: T): Store<T> {
  let state = initial;
  const listeners: (() => void)[] = [];
  return {
    get: () => state,
    update(patch) {
      state = { ...state, ...patch };
      for (const listener of listeners) listener();
    },
    watch(pick, show) {
      let last = pick(state);
      show(last, state);
      listeners.push(() => {
        const next = pick(state);
        if (next === last) return;
        last = next;
        show(next, state);
      });
    },
  };
}
