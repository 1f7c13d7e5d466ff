// The page's state and what can be done with it: the part of the playground without a view.
//
// Invariants:
// - One training session at most is open. It keeps the setup that it was opened with; a setup that has changed since is `stale`, and is
//   used from the next reset on.
// - Every failure ends as one sentence in `problem`, `failure` or `refusal`; no promise is left to reject unseen.
// - The worker says what the state is; the page never guesses it.

import { CompilerClient, RequestError, Trainer } from './client.js';
import type { Capabilities, Config, DataSource, Failure, Opened, OpenOptions, Progress, ResolvedConfig, State, StoredRun, TaskName, TrainerEvents, Validated } from './protocol.js';
import { sentence } from './ui/format.js';
import { History } from './ui/history.js';
import { configOf, setupOf, type Key, type Setup } from './ui/setup.js';
import { createStore, type Store } from './ui/store.js';

/** What `resolve` says of a configuration. */
export interface Resolved {
  config: ResolvedConfig;
  params: number;
  memory: { total: number; [part: string]: number };
  flop_per_step: number;
}

/** Why a setup is no configuration. */
export interface Problem {
  sentence: string;
  line?: number;
  column?: number;
}

export interface AppState {
  setup: Setup;
  resolved: Resolved | undefined;
  problem: Problem | undefined;
  capabilities: Capabilities | undefined;
  state: State;
  /** What is being done that must end before anything else begins. */
  busy: string | undefined;
  opened: Opened | undefined;
  /** Whether the setup has changed since the session was opened. */
  stale: boolean;
  progress: Progress | undefined;
  validated: Validated | undefined;
  samples: { step: number; text: string }[];
  notices: string[];
  failure: Failure | undefined;
  /** A request that was refused: one sentence. */
  refusal: string | undefined;
  stored: StoredRun | undefined;
  saved: { step: number; at: number } | undefined;
  measuring: TrainerEvents['measuring'] | undefined;
  /** Seconds a step takes for each operation, by the last measurement on this machine, by backend. */
  speed: Partial<Record<'webgpu' | 'wasm', number>>;
  /** Counts changes of the history, which is changed in place. */
  drawn: number;
}

/** Whether nothing is going on that a new request would have to wait for. */
export const isQuiet = ({ busy, state }: AppState): boolean => busy === undefined && state !== 'running' && state !== 'compiling';

/** Samples that are kept. */
const SAMPLES = 20;

const RUNNING_KEY = 'tinygpt-running';
const HISTORY_KEY = 'tinygpt-history';

export class App {
  readonly trainer = new Trainer();
  readonly history = new History();
  readonly store: Store<AppState>;
  readonly presets: ResolvedConfig[];
  readonly keys: Key[];
  readonly defaultPreset: string;
  /** What this tab was doing when it was last left; null for nothing. */
  readonly #left = session(RUNNING_KEY);
  #openedAs = '';
  #resolving = 0;

  private constructor(readonly compiler: CompilerClient, compiled: { presets: { config: ResolvedConfig }[]; default: string }, keys: Key[]) {
    this.presets = compiled.presets.map(({ config }) => config);
    this.defaultPreset = compiled.default;
    this.keys = keys.filter(({ section, native }) => !native && (section === 'model' || section === 'train'));
    this.store = createStore<AppState>({
      setup: { preset: this.defaultPreset, changed: {}, data: { kind: 'builtin' } },
      resolved: undefined,
      problem: undefined,
      capabilities: undefined,
      state: 'idle',
      busy: undefined,
      opened: undefined,
      stale: false,
      progress: undefined,
      validated: undefined,
      samples: [],
      notices: [],
      failure: undefined,
      refusal: undefined,
      stored: undefined,
      saved: undefined,
      measuring: undefined,
      speed: {},
      drawn: 0,
    });
    this.#listen();
  }

  /** Loads the compiler and reads the address; a failure is one sentence. */
  static async create(): Promise<App> {
    const compiler = new CompilerClient();
    const [compiled, { keys }] = await Promise.all([compiler.presets(), compiler.keys()]);
    return new App(compiler, compiled, keys);
  }

  /** Looks at the machine and at what this browser keeps; a tab that was training goes on. */
  async begin(setup: Setup): Promise<void> {
    this.change(setup);
    const [capabilities, stored] = await Promise.all([this.trainer.capabilities(), this.trainer.stored().catch(() => null)]).catch((error) => {
      this.store.update({ refusal: sentenceOf(error) });
      return [undefined, null] as const;
    });
    this.store.update({ capabilities, stored: stored ?? undefined });
    if (stored === null || this.#left === null) return;
    await this.resume();
    if (this.#left === 'running') await this.start();
  }

  get step(): number {
    const { progress, opened } = this.store.get();
    return progress?.step ?? opened?.restoredStep ?? 0;
  }

  /** What runs the steps: the user's choice, else a GPU where there is a real one. */
  get backend(): 'webgpu' | 'wasm' {
    const { setup, capabilities } = this.store.get();
    const gpu = capabilities?.webgpu;
    return setup.backend ?? (gpu?.available === true && gpu.adapter?.software === false ? 'webgpu' : 'wasm');
  }

  config(setup: Setup = this.store.get().setup): Config {
    return configOf(setup, this.keys);
  }

  preset(name: string): ResolvedConfig | undefined {
    return this.presets.find(({ preset }) => preset === name);
  }

  /** Takes another setup and has the compiler judge it. */
  change(patch: Partial<Setup>): void {
    const setup = { ...this.store.get().setup, ...patch };
    for (const key of ['graph', 'backend', 'threads', 'relaxed', 'validation'] as const) if (setup[key] === undefined) delete setup[key];
    this.store.update({ setup, stale: this.store.get().opened !== undefined && signature(setup) !== this.#openedAs });
    void this.#resolve(setup);
  }

  async #resolve(setup: Setup): Promise<void> {
    const ask = ++this.#resolving;
    try {
      const resolved: Resolved = await this.compiler.resolve(this.config(setup));
      if (ask === this.#resolving) this.store.update({ resolved, problem: undefined });
    } catch (error) {
      const place = error instanceof RequestError && error.line !== undefined ? { line: error.line, column: error.column ?? 1 } : {};
      if (ask === this.#resolving) this.store.update({ problem: { sentence: sentenceOf(error), ...place } });
    }
  }

  /** Runs one request at a time; a refusal becomes a sentence, and the result undefined. */
  async act<T>(busy: string, work: () => Promise<T>): Promise<T | undefined> {
    if (this.store.get().busy !== undefined) return undefined;
    this.store.update({ busy, refusal: undefined });
    try {
      return await work();
    } catch (error) {
      this.store.update({ refusal: sentenceOf(error) });
      return undefined;
    } finally {
      this.store.update({ busy: undefined, measuring: undefined });
    }
  }

  start = () => this.act('starting', async () => {
    const { state } = this.store.get();
    await this.ready();
    if (state === 'finished') await this.trainer.continue();
    else await this.trainer.start();
  });

  pause = () => this.act('pausing', () => this.trainer.pause());

  stepOnce = () => this.act('stepping', async () => {
    await this.ready();
    const { step, loss, gradNorm, lr } = await this.trainer.step();
    // A single step may come without a progress event.
    if (this.history.last < step) this.history.add({ step, loss, gradNorm, lr });
    this.store.update({ drawn: this.store.get().drawn + 1 });
  });

  stop = () => this.act('stopping', () => this.trainer.stop());

  /** Back to step 0: with the setup as it is now. */
  reset = () => this.act('resetting', async () => {
    if (this.store.get().stale || this.store.get().state === 'failed') await this.#open({});
    else await this.trainer.reset();
    this.#forget(0);
  });

  resume = () => this.act('resuming', async () => {
    const { stored } = this.store.get();
    if (stored === undefined) return;
    const { config, backend } = stored;
    this.change({ graph: undefined, threads: undefined, relaxed: undefined, validation: undefined, ...setupOf(config, this.presets, this.keys, { backend, data: storedData(stored) }) });
    await this.#open({ resume: 'opfs', config: { preset: config.preset } });
    this.#remember();
  });

  discard = () => this.act('forgetting', async () => {
    await this.trainer.discard();
    this.store.update({ stored: undefined, saved: undefined });
  });

  save = () => this.act('saving', () => this.trainer.save());

  import = (name: string, bytes: Uint8Array) => this.act('importing', async () => {
    const { config: _, ...open } = this.#options();
    const opened = await this.trainer.import({ name, bytes, open });
    const { data } = this.store.get().setup;
    this.store.update({ setup: setupOf(opened.config, this.presets, this.keys, { backend: opened.backend, data }) });
    this.#adopt(opened);
    void this.#resolve(this.store.get().setup);
  });

  probe = () => this.act('measuring', async () => {
    const { config, backend, threads, relaxed } = this.#options();
    const probe = await this.trainer.probe({ config, backend, threads, relaxed });
    this.#measured(backend, probe.msPerStep);
    return probe;
  });

  /** Ends a measurement early. */
  async cancel(): Promise<void> {
    await this.trainer.pause();
  }

  /** Opens a session where none fits. */
  async ready(): Promise<void> {
    const { opened, stale } = this.store.get();
    if (opened === undefined || (stale && this.step === 0)) await this.#open({});
  }

  #options(): OpenOptions {
    const { setup } = this.store.get();
    const { threads, relaxed, data, validation } = setup;
    if (data.kind === 'text' && data.bytes.length === 0) {
      throw new Error(`the text "${data.name}" is kept with its run only: choose it again to begin another run on it`);
    }
    return { config: this.config(setup), backend: this.backend, data, threads, relaxed, validation: validation?.bytes };
  }

  async #open(options: Partial<OpenOptions>): Promise<void> {
    const { threads, relaxed } = this.store.get().setup;
    const all = options.resume === undefined ? this.#options() : { backend: this.backend, config: {}, threads, relaxed };
    this.store.update({ opened: undefined, failure: undefined, notices: [] });
    this.#adopt(await this.trainer.open({ ...all, ...options }));
  }

  #adopt(opened: Opened): void {
    this.#openedAs = signature(this.store.get().setup);
    const { notices } = this.store.get();
    this.store.update({ opened, stale: false, notices: [...opened.notices, ...notices.filter((notice) => !opened.notices.includes(notice))] });
    this.#forget(opened.restoredStep ?? 0);
  }

  /** Takes back what was shown of steps after `step`. */
  #forget(step: number): void {
    this.history.truncate(step);
    const { samples, drawn } = this.store.get();
    this.store.update({ progress: undefined, validated: undefined, failure: undefined, samples: samples.filter((sample) => sample.step <= step), drawn: drawn + 1 });
  }

  #measured(backend: 'webgpu' | 'wasm', msPerStep: number): void {
    const { resolved, speed } = this.store.get();
    if (resolved !== undefined) this.store.update({ speed: { ...speed, [backend]: msPerStep / resolved.flop_per_step } });
  }

  #listen(): void {
    const { trainer, store, history } = this;
    trainer.on('state', (state) => {
      store.update({ state });
      if (state !== 'idle' && state !== 'compiling') keepSession(RUNNING_KEY, state === 'running' ? 'running' : 'open');
    });
    trainer.on('progress', (progress) => {
      const { step, loss, gradNorm, lr } = progress;
      loss.forEach((value, at) => {
        const of = step - loss.length + 1 + at;
        if (of > history.last) history.add({ step: of, loss: value, gradNorm: gradNorm[at] ?? NaN, lr });
      });
      store.update({ progress, drawn: store.get().drawn + 1 });
      const { opened, stale } = store.get();
      if (opened !== undefined && !stale && progress.tokensPerS !== undefined) this.#measured(opened.backend, progress.msPerStep);
    });
    trainer.on('validated', (validated) => {
      history.addValidation(validated);
      store.update({ validated, drawn: store.get().drawn + 1 });
    });
    trainer.on('sampled', (sample) => {
      const others = store.get().samples.filter(({ step }) => step !== sample.step);
      store.update({ samples: [sample, ...others].slice(0, SAMPLES) });
    });
    trainer.on('saved', ({ step }) => store.update({ saved: { step, at: Date.now() } }));
    trainer.on('failed', (failure) => store.update({ failure }));
    trainer.on('notice', (notice) => store.update({ notices: [...store.get().notices.filter((other) => other !== notice), notice] }));
    trainer.on('measuring', (measuring) => store.update({ measuring }));
    addEventListener('pagehide', () => keepSession(HISTORY_KEY, JSON.stringify({ points: history.points, validations: history.validations, samples: store.get().samples })));
  }

  /** Shows again what this tab had shown of the run before it was reloaded. */
  #remember(): void {
    const { opened } = this.store.get();
    const kept = session(HISTORY_KEY);
    if (kept === null || opened === undefined) return;
    const { points, validations, samples } = JSON.parse(kept);
    this.history.restore(points, validations);
    this.store.update({ samples });
    this.#forget(opened.restoredStep ?? 0);
  }
}

/** What a session is opened with, as a text to compare; a pasted text counts by its name and size. */
function signature({ data, validation, ...rest }: Setup): string {
  return JSON.stringify([rest, validation && [validation.name, validation.bytes.length], data.kind === 'text' ? [data.name, data.bytes.length] : data]);
}

function storedData({ data }: StoredRun): DataSource {
  if (data.kind === 'task') return { kind: 'task', task: data.name as TaskName };
  return data.kind === 'text' ? { kind: 'text', name: data.name, bytes: new Uint8Array() } : { kind: 'builtin' };
}

export const sentenceOf = (error: unknown): string => sentence(error instanceof Error ? error.message : String(error));

// Session storage lasts as long as the tab, reloads and crashes included. Where it is forbidden, a reloaded tab offers to go on instead.

function session(key: string): string | null {
  try {
    return sessionStorage.getItem(key);
  } catch {
    return null;
  }
}

function keepSession(key: string, value: string): void {
  try {
    sessionStorage.setItem(key, value);
  } catch {
    // As above.
  }
}
