// The two classes that the page uses: `Trainer` over the training worker, `CompilerClient` over the compiler's own worker, so that what
// is typed is answered while a step runs.
//
// Invariants:
// - A promise settles once its request is answered or refused, or its worker ends; a refusal rejects with `RequestError`, whose message is
//   the sentence for people.
// - Listeners of an event are called in the order in which they were added; one that throws stops no other.

import type {
  CompilerAnswer,
  Config,
  FromWorker,
  Refusal,
  Request,
  TrainerEvents,
  TrainerRequestName,
  TrainerRequests,
} from './protocol.js';

/** A request that was not met. */
export class RequestError extends Error {
  /** Where in a graph's text, counted from 1. */
  readonly line: number | undefined;
  readonly column: number | undefined;

  constructor({ sentence, line, column }: Refusal) {
    super(sentence);
    this.name = 'RequestError';
    this.line = line;
    this.column = column;
  }
}

/** What both classes need of a Worker. */
export interface WorkerLike {
  postMessage(message: unknown, transfer?: Transferable[]): void;
  terminate(): void;
  onmessage: ((event: MessageEvent) => void) | null;
  onerror: ((event: ErrorEvent) => void) | null;
}

interface Waiting {
  resolve(result: unknown): void;
  reject(error: Error): void;
  partial: ((value: unknown) => void) | undefined;
}

/** Requests over one worker. */
class Line {
  readonly #worker: WorkerLike;
  readonly #waiting = new Map<number, Waiting>();
  readonly #event: (name: string, event: unknown) => void;
  #next = 1;
  #ended: Error | undefined;

  constructor(worker: WorkerLike, event: (name: string, event: unknown) => void) {
    this.#worker = worker;
    this.#event = event;
    worker.onmessage = ({ data }) => this.#receive(data as FromWorker);
    worker.onerror = (event) => {
      this.end(new Error(`a worker of this page has ended (${event.message || 'its script could not be loaded'}): reload the page`));
    };
  }

  ask(name: string, args: unknown, transfer: Transferable[] = [], partial?: (value: unknown) => void): Promise<unknown> {
    if (this.#ended !== undefined) return Promise.reject(this.#ended);
    const id = this.#next++;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject, partial });
      const request: Request = { id, name, args };
      this.#worker.postMessage(request, transfer);
    });
  }

  /** Ends the worker; what is under way is rejected with `error`. */
  end(error: Error): void {
    if (this.#ended !== undefined) return;
    this.#ended = error;
    this.#worker.terminate();
    for (const { reject } of this.#waiting.values()) reject(error);
    this.#waiting.clear();
  }

  #receive(message: FromWorker): void {
    if (message.type === 'event') {
      this.#event(message.name, message.event);
      return;
    }
    const waiting = this.#waiting.get(message.id);
    if (waiting === undefined) return;
    if (message.type === 'partial') {
      waiting.partial?.(message.value);
      return;
    }
    this.#waiting.delete(message.id);
    if (message.type === 'answer') waiting.resolve(message.result);
    else waiting.reject(new RequestError(message.error));
  }
}

const CLOSED = 'this worker was closed by the page';

type Args<N extends TrainerRequestName> = TrainerRequests[N]['args'];
type Result<N extends TrainerRequestName> = Promise<TrainerRequests[N]['result']>;

/** A training session in its worker. See protocol.ts for what each request does. */
export class Trainer {
  readonly #line: Line;
  readonly #listeners = new Map<string, Set<(event: never) => void>>();

  constructor(worker: WorkerLike = new Worker(new URL('./worker/training.ts', import.meta.url), { type: 'module', name: 'training' })) {
    this.#line = new Line(worker, (name, event) => {
      for (const listener of this.#listeners.get(name) ?? []) {
        try {
          listener(event as never);
        } catch (error) {
          console.error(error);
        }
      }
    });
  }

  /** Calls `listener` at each such event; the result takes it off again. */
  on<E extends keyof TrainerEvents>(name: E, listener: (event: TrainerEvents[E]) => void): () => void {
    const listeners = this.#listeners.get(name) ?? new Set();
    this.#listeners.set(name, listeners.add(listener));
    return () => listeners.delete(listener);
  }

  /** Any request by its name. */
  ask<N extends TrainerRequestName>(name: N, args: Args<N>, partial?: (value: unknown) => void): Result<N> {
    return this.#line.ask(name, args, [], partial) as Result<N>;
  }

  capabilities() { return this.ask('capabilities', {}); }
  stored() { return this.ask('stored', {}); }
  discard() { return this.ask('discard', {}); }
  open(options: Args<'open'>) { return this.ask('open', options); }
  start() { return this.ask('start', {}); }
  pause() { return this.ask('pause', {}); }
  step() { return this.ask('step', {}); }
  stop() { return this.ask('stop', {}); }
  continue(more?: number) { return this.ask('continue', more === undefined ? {} : { more }); }
  reset() { return this.ask('reset', {}); }
  save() { return this.ask('save', {}); }
  /** `onText` gets the text so far, as it grows. */
  sample(options: Args<'sample'>, onText?: (text: string) => void) {
    return this.ask('sample', options, onText && ((text) => onText(text as string)));
  }
  probabilities(prompt: string) { return this.ask('probabilities', { prompt }); }
  attention(prompt: string) { return this.ask('attention', { prompt }); }
  gradcheck(options: Args<'gradcheck'> = {}) { return this.ask('gradcheck', options); }
  probe(options: Args<'probe'>) { return this.ask('probe', options); }
  profile(options: Args<'profile'> = {}) { return this.ask('profile', options); }
  benchmark(options: Args<'benchmark'>) { return this.ask('benchmark', options); }
  export(format: Args<'export'>['format']) { return this.ask('export', { format }); }
  import(options: Args<'import'>) { return this.ask('import', options); }
  close() { return this.ask('close', {}); }

  /** Ends the worker at once. Nothing may be asked after it. */
  terminate(): void {
    this.#line.end(new Error(CLOSED));
  }
}

/** The compiler in its own worker: requests of web/compiler/src/lib.rs. */
export class CompilerClient {
  readonly #line: Line;

  constructor(worker: WorkerLike = new Worker(new URL('./worker/compiling.ts', import.meta.url), { type: 'module', name: 'compiler' })) {
    this.#line = new Line(worker, () => undefined);
  }

  /** Any request; blobs go along where the request takes some. */
  request(request: Record<string, unknown>, blobs?: [string, Uint8Array][]): Promise<CompilerAnswer> {
    return this.#line.ask('compile', blobs === undefined ? { request } : { request, blobs }) as Promise<CompilerAnswer>;
  }

  async #result(request: Record<string, unknown>): Promise<any> {
    return (await this.request(request)).result;
  }

  presets() { return this.#result({ request: 'presets' }); }
  /** Configuration keys with type, range and help. */
  keys() { return this.#result({ request: 'keys' }); }
  resolve(config: Config) { return this.#result({ request: 'resolve', config }); }
  /** The text of a stage: `graph`, `grad`, `fused` or `program`. */
  async graph(config: Config, stage: string, entry = 'train'): Promise<string> {
    return (await this.#result({ request: 'graph', config, stage, entry })).text;
  }
  inspect(options: Record<string, unknown>) { return this.request({ request: 'inspect', ...options }); }
  async corpus(): Promise<string> {
    const { blobs } = await this.request({ request: 'corpus' });
    return new TextDecoder().decode(blobs.get('corpus.txt'));
  }

  /** Ends the worker at once. Nothing may be asked after it. */
  terminate(): void {
    this.#line.end(new Error(CLOSED));
  }
}
