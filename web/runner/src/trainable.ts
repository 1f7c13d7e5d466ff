// What trains, whatever runs it: one interface over the WebAssembly runner and the WebGPU runner, asynchronous since a GPU is.
//
// Invariants:
// - A run is a function of its configuration and text on either engine; engines differ in rounding only.
// - Looking changes nothing: validating, sampling and `run` write no weight and no moment.
// - While groups of steps are under way, `step` counts those whose results have come back.

import type { RunnerOptions, SampleOptions, StepResult } from './runner.js';
import { Runner } from './runner.js';
import type { StateFiles } from './state.js';

export interface Trainable {
  readonly backend: 'webgpu' | 'wasm';
  /** Steps done. */
  readonly step: number;
  /** Groups of steps worth having under way: 1 where steps run while the caller waits. */
  readonly depth: number;
  /** Most steps of a group. */
  readonly group: number;
  /** Rows and tokens of a batch. */
  readonly batch: number;
  readonly ctx: number;
  /** Bytes allocated. */
  readonly memoryBytes: number;
  /** The text to train on: its last tenth validates, or all of `validation`. Windows start at multiples of `stride` (default 1). */
  setData(text: Uint8Array, validation?: Uint8Array, stride?: number): void;
  /** Moves the planned end, which the schedule spans. */
  setSteps(total: number): void;
  /** Runs the next `count` steps. Calls keep their order; results that are not finite are the caller's to judge. */
  trainSteps(count: number): Promise<StepResult[]>;
  /** Mean loss of the fixed validation batches. */
  validate(): Promise<number>;
  /** The bytes that follow a prompt, one by one. */
  generate(options?: SampleOptions): AsyncGenerator<number, void, void>;
  /** The logits (rows of vocab) of up to ctx bytes; only the rows of `text` mean something. */
  logits(text: Uint8Array): Promise<Float32Array>;
  exportState(): Promise<Required<StateFiles>>;
  /** Takes the state of a checkpoint of the same architecture. */
  importState(files: StateFiles): Promise<void>;
  /** Ends it. Nothing may be called after it. */
  close(): Promise<void>;
}

/** The WebAssembly runner as a `Trainable`. Its calls block until they are done. */
export class WasmTrainable implements Trainable {
  readonly backend = 'wasm';
  readonly depth = 1;
  readonly group = 64;
  readonly runner: Runner;

  constructor(runner: Runner) {
    this.runner = runner;
  }

  static async create(...args: Parameters<typeof Runner.create>): Promise<WasmTrainable> {
    return new WasmTrainable(await Runner.create(...args));
  }

  get step(): number {
    return this.runner.step;
  }

  get batch(): number {
    return this.runner.shape[0];
  }

  get ctx(): number {
    return this.runner.shape[1];
  }

  get memoryBytes(): number {
    const { fixed_bytes, thread_bytes } = this.runner.manifest.layout;
    return fixed_bytes + this.runner.threads * thread_bytes;
  }

  setData(text: Uint8Array, validation?: Uint8Array, stride?: number): void {
    this.runner.setData(text, validation, stride);
  }

  setSteps(total: number): void {
    this.runner.manifest.config.train.steps = total;
  }

  async trainSteps(count: number): Promise<StepResult[]> {
    return Array.from({ length: count }, () => this.runner.trainStep());
  }

  async validate(): Promise<number> {
    return this.runner.validate();
  }

  async *generate(options?: SampleOptions): AsyncGenerator<number, void, void> {
    yield* this.runner.generate(options);
  }

  async logits(text: Uint8Array): Promise<Float32Array> {
    return this.runner.logits(text).slice();
  }

  async exportState(): Promise<Required<StateFiles>> {
    return this.runner.exportState();
  }

  async importState(files: StateFiles): Promise<void> {
    this.runner.importState(files);
  }

  close(): Promise<void> {
    return this.runner.close();
  }
}

export type { RunnerOptions, SampleOptions, StateFiles, StepResult };
