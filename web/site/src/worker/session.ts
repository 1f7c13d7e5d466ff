// A training session: one engine, one text, and what is asked of them while steps run.
//
// Invariants:
// - A run is a function of its configuration and text: pausing, looking and keeping change nothing of it, and a kept run goes on with the
//   losses that it would have had.
// - The engine has one user at a time (`Turns`); the loop gives its turn up whenever somebody waits, at the latest after one slice.
// - Nothing bad is kept: after a failure the last good checkpoint stays.
// - `state` is `running` exactly while the loop lives.

import { learningRate } from '../../../runner/src/schedule.js';
import type { StateFiles, StepResult } from '../../../runner/src/trainable.js';
import type {
  Config,
  Failure,
  Opened,
  OpenOptions,
  ResolvedConfig,
  Sample,
  SampleOptions,
  State,
  StoredRun,
  TrainerEvents,
} from '../protocol.js';
import { judge, loadData, restoreData } from './data.js';
import type { Data } from './data.js';
import type { EngineOptions, Engines, OpenedEngine } from './engines.js';
import { failureOf, nanFailure } from './failures.js';
import { Pace } from './pace.js';
import type { Folder, Meta } from './store.js';
import { RunStore } from './store.js';
import { Turns } from './turns.js';

/** Milliseconds between progress events. */
const PROGRESS_MS = 100;
/** Milliseconds of a group of steps: what a request waits for. */
const SLICE_MS = { wasm: 40, webgpu: 100 };
/** Most milliseconds of a sample that the run takes of itself. */
const SAMPLE_MS = 1500;
const SAMPLE_BYTES = 200;
/** Time between samples that nobody asked for, lest a fast run spends its time on them. */
const SAMPLE_GAP_MS = 3000;
/** Longest time between checkpoints, and the time between two at `save_every`, lest a fast run spends its time on them. */
const KEEP_MS = 15_000;
const KEEP_GAP_MS = 5000;
/** Steps in a row whose loss or gradient is not finite that end a run, as in runtime/src/trainer. */
export const BAD_STEPS = 5;

/** What a session needs of the place where it runs. */
export interface Host {
  emit<E extends keyof TrainerEvents>(name: E, event: TrainerEvents[E]): void;
  /** Where runs are kept; throws the sentence for why they cannot be. */
  folder(): Promise<Folder>;
  /** Becomes the only tab that keeps runs; throws the sentence if another one is. */
  lock(): Promise<void>;
  /** Lets messages in. */
  breathe(): Promise<void>;
}

/** All of an open run. */
interface Run {
  options: OpenOptions;
  engine: OpenedEngine;
  config: ResolvedConfig;
  /** The planned total that the configuration stated. */
  planned: number;
  data: Data;
  store: RunStore | undefined;
  pace: Pace;
  kept: { step: number; at: number };
  /** When the run sampled itself last. */
  sampledAt: number;
  /** Steps that are not finite, in a row. */
  bad: number;
  lastGood: number;
}

export class Session {
  readonly engines: Engines;
  readonly turns = new Turns();
  readonly #host: Host;
  #state: State = 'idle';
  #run: Run | undefined;
  #loop: Promise<void> | undefined;
  /** The state that the loop is to end in. */
  #halt: 'paused' | 'stopped' | undefined;
  #store: RunStore | undefined;
  /** Results that no progress event has told yet. */
  #told: { loss: number[]; gradNorm: number[]; at: number } = { loss: [], gradNorm: [], at: 0 };

  constructor(engines: Engines, host: Host) {
    [this.engines, this.#host] = [engines, host];
  }

  get state(): State {
    return this.#state;
  }

  /** The open engine; throws if there is none. */
  get current(): { engine: OpenedEngine; config: Config; options: OpenOptions } {
    const { engine, config, options } = this.#opened();
    return { engine, config: config as unknown as Config, options };
  }

  get opened(): boolean {
    return this.#run !== undefined;
  }

  /** Does `work` on what is open, between two steps. */
  use<T>(work: (current: Session['current']) => Promise<T>): Promise<T> {
    const { current } = this;
    return this.turns.take(() => work(current));
  }

  async open(options: OpenOptions): Promise<Opened> {
    await this.close();
    this.#enter('compiling');
    try {
      const run = await this.#make(options);
      this.#run = run;
      const { trainable } = run.engine;
      this.#enter(trainable.step === 0 ? 'idle' : trainable.step >= run.config.train.steps ? 'finished' : 'paused');
      return describe(run);
    } catch (error) {
      this.#enter('idle');
      throw error;
    }
  }

  async #make(options: OpenOptions): Promise<Run> {
    const store = options.ephemeral ? undefined : await this.#openStore(options.resume === 'opfs');
    const kept = options.resume === 'opfs' ? ((await store?.load()) ?? null) : null;
    if (options.resume === 'opfs' && kept === null) throw new Error('no run is kept in this browser: open one first');
    const files: StateFiles | undefined = kept?.files ?? (options.resume === 'opfs' ? undefined : options.resume);
    const config = (kept?.meta.config as unknown as Config | undefined) ?? options.config;
    const data = kept && store ? await restoreData(kept.meta, store, this.engines) : await loadData(options.data ?? { kind: 'builtin' }, options.validation, this.engines);
    const wanted: EngineOptions = { config, backend: options.backend };
    if (options.threads !== undefined) wanted.threads = options.threads;
    const relaxed = options.relaxed ?? kept?.meta.relaxed;
    if (relaxed !== undefined) wanted.relaxed = relaxed;
    const engine = await this.engines.open(wanted, files);
    const { trainable, resolution } = engine;
    try {
      if (data.problems.length > 0 && trainable.ctx < data.stride) {
        throw new Error(`the task "${data.name}" has lines of ${data.stride} bytes, and ctx is ${trainable.ctx}: choose a ctx of ${data.stride} or more`);
      }
      trainable.setData(data.text, data.validation, data.stride);
    } catch (error) {
      await trainable.close();
      throw error;
    }
    const { batch, ctx, step } = trainable;
    return {
      options,
      engine,
      config: resolution.config,
      planned: resolution.config.train.steps,
      data,
      store,
      pace: new Pace(batch * ctx),
      kept: { step: kept === null ? -1 : step, at: performance.now() },
      sampledAt: -Infinity,
      bad: 0,
      lastGood: step,
    };
  }

  async start(): Promise<null> {
    const run = this.#opened();
    if (this.#state === 'running') return null;
    const { steps } = run.config.train;
    if (run.engine.trainable.step >= steps) throw new Error(`all ${steps} planned steps are done: continue adds more, reset begins anew`);
    if (this.#state === 'failed') throw new Error('the run has failed: open it again, with a lower lr if its loss was not finite');
    this.#halt = undefined;
    this.#enter('running');
    this.#loop = this.#train(run);
    return null;
  }

  async pause(): Promise<{ step: number }> {
    return this.#end('paused');
  }

  async stop(): Promise<{ step: number }> {
    return this.#end('stopped');
  }

  async continue({ more }: { more?: number }): Promise<{ steps: number }> {
    const run = this.#opened();
    const { train } = run.config;
    if (more !== undefined || run.engine.trainable.step >= train.steps) {
      const added = more ?? run.planned;
      if (!(Number.isInteger(added) && added >= 1)) throw new Error(`the number of steps to add must be 1 or more, and is ${added}`);
      await this.turns.take(async () => {
        train.steps += added;
        run.engine.trainable.setSteps(train.steps);
      });
    }
    await this.start();
    return { steps: train.steps };
  }

  async reset(): Promise<null> {
    const run = this.#opened();
    await this.#halted();
    await this.turns.take(async () => {
      const { trainable } = run.engine;
      const model = this.engines.initialModel(run.config as unknown as Config);
      run.config.train.steps = run.planned;
      trainable.setSteps(run.planned);
      await trainable.importState({ model });
      [run.pace, run.bad, run.lastGood] = [new Pace(trainable.batch * trainable.ctx), 0, 0];
    });
    this.#enter('idle');
    return null;
  }

  async step(): Promise<StepResult> {
    const run = this.#opened();
    if (this.#state === 'running') throw new Error('the run is running: pause it before single steps');
    const { steps } = run.config.train;
    if (run.engine.trainable.step >= steps) throw new Error(`all ${steps} planned steps are done: continue adds more, reset begins anew`);
    if (this.#state === 'failed') throw new Error('the run has failed: open it again, with a lower lr if its loss was not finite');
    return this.turns.take(async () => {
      const started = performance.now();
      const results = await run.engine.trainable.trainSteps(1);
      const failure = this.#record(run, results, performance.now() - started);
      if (failure !== undefined) this.#fail(failure);
      else this.#enter(run.engine.trainable.step >= steps ? 'finished' : 'paused');
      this.#tell(run);
      return results[0] as StepResult;
    });
  }

  async save(): Promise<{ step: number }> {
    const run = this.#opened();
    if (run.store === undefined) run.store = await this.#openStore(true);
    return this.turns.take(async () => {
      await this.#keep(run);
      return { step: run.engine.trainable.step };
    });
  }

  async sample(options: SampleOptions, partial: (text: string) => void): Promise<Sample> {
    const run = this.#opened();
    const { trainable } = run.engine;
    return this.turns.take(async () => {
      const bytes: number[] = [];
      const decoder = new TextDecoder();
      let text = '';
      let breath = performance.now();
      for await (const byte of trainable.generate({ tokens: SAMPLE_BYTES, ...options })) {
        bytes.push(byte);
        text += decoder.decode(Uint8Array.of(byte), { stream: true });
        partial(text);
        if (performance.now() - breath < SLICE_MS[trainable.backend]) continue;
        await this.#host.breathe();
        breath = performance.now();
        // A run that is to pause does not wait for the whole text.
        if (this.#halt !== undefined) break;
      }
      return { step: trainable.step, text: text + decoder.decode(), bytes: Uint8Array.from(bytes) };
    });
  }

  /** The run that is kept; null if there is none. */
  async stored(): Promise<StoredRun | null> {
    const kept = await (await this.#openStore(true, false))?.load();
    if (kept === null || kept === undefined) return null;
    const { step, steps, savedAt, config, backend, data } = kept.meta;
    return { step, steps, savedAt, config, backend, data };
  }

  async discard(): Promise<null> {
    await (await this.#openStore(true))?.clear();
    if (this.#run) this.#run.kept = { step: -1, at: performance.now() };
    return null;
  }

  async close(): Promise<null> {
    await this.#halted();
    const run = this.#run;
    this.#run = undefined;
    await this.turns.take(async () => run?.engine.trainable.close());
    if (run !== undefined) this.#enter('idle');
    return null;
  }

  /** Ends the loop without keeping anything. */
  async #halted(): Promise<void> {
    this.#halt ??= 'paused';
    await this.#loop;
    this.#halt = undefined;
  }

  async #end(state: 'paused' | 'stopped'): Promise<{ step: number }> {
    const run = this.#opened();
    this.#halt = state;
    await this.#loop;
    this.#halt = undefined;
    if (this.#state === 'failed') return { step: run.engine.trainable.step };
    if (this.#state === 'running' || (this.#state === 'paused' && state === 'stopped')) this.#enter(state);
    await this.turns.take(() => this.#keepIfNew(run));
    return { step: run.engine.trainable.step };
  }

  /** Runs steps until the planned end, a halt or a failure. Never throws. */
  async #train(run: Run): Promise<void> {
    try {
      while (this.#state === 'running' && this.#halt === undefined) {
        const ended = await this.turns.take(() => this.#slice(run));
        if (ended) break;
        await this.#host.breathe();
      }
    } catch (error) {
      this.#fail(failureOf(error, run.lastGood));
    }
    this.#tell(run);
    if (this.#state === 'running') {
      const finished = run.engine.trainable.step >= run.config.train.steps;
      if (finished) await this.turns.take(() => this.#keepIfNew(run));
      this.#enter(finished ? 'finished' : (this.#halt ?? 'paused'));
    }
    this.#loop = undefined;
  }

  /** Steps until somebody waits or something is due, and what is due; true if the run has ended. */
  async #slice(run: Run): Promise<boolean> {
    const { trainable } = run.engine;
    const { steps } = run.config.train;
    const limit = nextDue(run, trainable.step);
    const underWay: Promise<StepResult[]>[] = [];
    let next = trainable.step;
    let mark = performance.now();
    let failure: Failure | undefined;
    for (;;) {
      const wanted = this.#halt === undefined && this.turns.waiting === 0 && failure === undefined && !isKeepTime(run);
      while (wanted && next < limit && underWay.length < trainable.depth) {
        const count = Math.min(groupSize(run), limit - next);
        const group = trainable.trainSteps(count);
        // It is awaited in its turn; a failure of one before it must not leave it unseen.
        group.catch(() => undefined);
        underWay.push(group);
        next += count;
      }
      const oldest = underWay.shift();
      if (oldest === undefined) break;
      const results = await oldest;
      const now = performance.now();
      failure ??= this.#record(run, results, now - mark);
      mark = now;
      if (now - this.#told.at >= PROGRESS_MS) this.#tell(run);
      await this.#host.breathe();
    }
    if (failure !== undefined) {
      this.#fail(failure);
      return true;
    }
    if (trainable.step === limit) await this.#look(run);
    if (isKeepTime(run)) await this.#keepIfNew(run);
    return trainable.step >= steps;
  }

  /** What is due after the step that is done. */
  async #look(run: Run): Promise<void> {
    const { engine: { trainable }, config: { train }, data } = run;
    const { step } = trainable;
    this.#tell(run);
    if (isDue(train.eval_every, step, train.steps)) {
      const loss = await trainable.validate();
      const judged = data.problems.length > 0 ? await judge(trainable, data.problems) : {};
      this.#host.emit('validated', { step, loss, bitsPerByte: loss / Math.LN2, perplexity: Math.exp(loss), ...judged });
    }
    if (isDue(sampleEvery(run), step, train.steps) && this.#halt === undefined && train.sample_bytes > 0) await this.#sampleItself(run);
    const spaced = run.options.keepEvery !== undefined || run.kept.step < 0 || performance.now() - run.kept.at >= KEEP_GAP_MS;
    if (isDue(keepEvery(run), step, train.steps) && (spaced || step === train.steps)) await this.#keepIfNew(run);
  }

  async #sampleItself(run: Run): Promise<void> {
    const { engine: { trainable }, config: { train }, options } = run;
    const started = performance.now();
    const last = trainable.step >= train.steps;
    if (options.sampleEvery === undefined && !last && started - run.sampledAt < SAMPLE_GAP_MS) return;
    const bytes: number[] = [];
    for await (const byte of trainable.generate({ tokens: Math.min(train.sample_bytes, SAMPLE_BYTES), seed: train.seed })) {
      bytes.push(byte);
      if (performance.now() - started >= SAMPLE_MS) break;
    }
    run.sampledAt = performance.now();
    this.#host.emit('sampled', { step: trainable.step, text: new TextDecoder().decode(Uint8Array.from(bytes)) });
  }

  /** Takes results; the failure that they are, if they are one. */
  #record(run: Run, results: StepResult[], ms: number): Failure | undefined {
    run.pace.add(results.length, ms);
    for (const { step, loss, gradNorm, lr } of results) {
      this.#told.loss.push(loss);
      this.#told.gradNorm.push(gradNorm);
      if (Number.isFinite(loss) && Number.isFinite(gradNorm)) {
        [run.bad, run.lastGood] = [0, step];
        continue;
      }
      run.bad += 1;
      if (run.bad === BAD_STEPS) return nanFailure(step, loss, gradNorm, run.lastGood, lr);
      if (run.bad === 1) {
        const what = Number.isFinite(loss) ? `gradient norm ${gradNorm}` : `loss ${loss}`;
        this.#host.emit('notice', `step ${step} had ${what}, so it changed nothing; ${BAD_STEPS} such steps in a row end the run`);
      }
    }
    return undefined;
  }

  #tell(run: Run): void {
    const { trainable } = run.engine;
    const { train } = run.config;
    const { loss, gradNorm } = this.#told;
    if (loss.length === 0) return;
    this.#told = { loss: [], gradNorm: [], at: performance.now() };
    const { msPerStep, tokensPerS } = run.pace;
    const { step } = trainable;
    this.#host.emit('progress', {
      step,
      steps: train.steps,
      loss,
      gradNorm,
      lr: learningRate(train, step - 1),
      msPerStep,
      ...(tokensPerS === undefined ? {} : { tokensPerS }),
      etaS: (Math.max(train.steps - step, 0) * msPerStep) / 1e3,
      state: this.#state,
    });
  }

  #fail(failure: Failure): void {
    this.#enter('failed');
    this.#host.emit('failed', failure);
  }

  #enter(state: State): void {
    if (state === this.#state) return;
    this.#state = state;
    this.#host.emit('state', state);
  }

  /** The store; where there can be none, undefined and a notice, or the sentence as an error if it is `needed`. */
  async #openStore(needed: boolean, lock = true): Promise<RunStore | undefined> {
    try {
      if (lock) await this.#host.lock();
      return (this.#store ??= new RunStore(await this.#host.folder()));
    } catch (error) {
      if (needed) throw error;
      this.#host.emit('notice', (error as Error).message);
      return undefined;
    }
  }

  async #keepIfNew(run: Run): Promise<void> {
    if (run.store === undefined || run.kept.step === run.engine.trainable.step) return;
    try {
      await this.#keep(run);
    } catch (error) {
      this.#host.emit('notice', `step ${run.engine.trainable.step} is not kept (${(error as Error).message}): export the run before you close this tab`);
      run.kept = { step: run.kept.step, at: performance.now() };
    }
  }

  async #keep(run: Run): Promise<void> {
    const { engine, config, data, store, options } = run;
    const { trainable } = engine;
    if (store === undefined) return;
    const { step } = trainable;
    if (data.source.kind === 'text') await store.putText(data.text);
    const validation = data.validation && (await store.putText(data.validation));
    const meta: Meta = {
      step,
      steps: config.train.steps,
      savedAt: Date.now(),
      config,
      backend: options.backend,
      data: { kind: data.source.kind, name: data.name, bytes: data.text.length, digest: data.digest },
      source: data.source,
      ...(engine.relaxed === undefined ? {} : { relaxed: engine.relaxed }),
      ...(validation === undefined ? {} : { validation }),
    };
    await store.save({ meta, files: await trainable.exportState() });
    run.kept = { step, at: performance.now() };
    this.#host.emit('saved', { step });
  }

  #opened(): Run {
    if (this.#run === undefined) throw new Error('no run is open: open one first');
    return this.#run;
  }
}

/** What the page is told of a run that was opened. */
function describe({ options, engine, config, data }: Run): Opened {
  const { trainable, resolution, notices, compileMs, adapter, threads, relaxed } = engine;
  return {
    backend: options.backend,
    params: resolution.params,
    config,
    notices,
    compileMs,
    memoryBytes: trainable.memoryBytes,
    data: { kind: data.source.kind, name: data.name, trainBytes: data.text.length, validationBytes: data.validation?.length ?? 0 },
    ...(adapter === undefined ? {} : { adapter }),
    ...(threads === undefined ? {} : { threads }),
    ...(relaxed === undefined ? {} : { relaxed }),
    ...(trainable.step === 0 ? {} : { restoredStep: trainable.step }),
  };
}

const isDue = (every: number, step: number, steps: number) => step === steps || (every > 0 && step % every === 0);

const sampleEvery = ({ options, config }: Run) => options.sampleEvery ?? config.train.eval_every;

const keepEvery = ({ options, config }: Run) => options.keepEvery ?? config.train.save_every;

/** Whether a checkpoint is due by the clock. */
const isKeepTime = ({ options, store, kept, engine }: Run) =>
  options.keepEvery === undefined && store !== undefined && engine.trainable.step !== kept.step && performance.now() - kept.at >= KEEP_MS;

/** The next step after `step` at which something is looked at. */
function nextDue(run: Run, step: number): number {
  const { train } = run.config;
  const after = (every: number) => (every > 0 ? step + every - (step % every) : train.steps);
  return Math.min(train.steps, after(train.eval_every), after(sampleEvery(run)), after(keepEvery(run)));
}

/** Steps of a group: as many as take a slice. */
function groupSize({ engine: { trainable }, pace }: Run): number {
  const { msPerStep } = pace;
  if (msPerStep === 0) return 1;
  return Math.max(1, Math.min(trainable.group, Math.floor(SLICE_MS[trainable.backend] / msPerStep)));
}
