// Engines for a configuration: compiles it for a backend and starts what runs it.
//
// Invariant: equal options give equal engines, so that a run goes on with the code that it began with.

import type { Compiler } from '../../../compiler/compiler.js';
import { cores } from '../../../runner/src/engine.js';
import { probe } from '../../../runner/src/features.js';
import { Gpu, GpuRunner } from '../../../runner/src/gpu.js';
import { choose } from '../../../runner/src/runner.js';
import type { RunnerOptions } from '../../../runner/src/runner.js';
import type { StateFiles } from '../../../runner/src/state.js';
import { WasmTrainable } from '../../../runner/src/trainable.js';
import type { Trainable } from '../../../runner/src/trainable.js';
import type { AdapterReport, Backend, Config, ResolvedConfig } from '../protocol.js';

export interface EngineOptions {
  config: Config;
  backend: Backend;
  threads?: number;
  relaxed?: boolean;
  /** One kernel a node, if false. */
  fusion?: boolean;
}

/** What `resolve` says. */
export interface Resolution {
  config: ResolvedConfig;
  params: number;
  entries: string[];
  batch: number;
  ctx: number;
  vocab: number;
}

export interface OpenedEngine {
  trainable: Trainable;
  resolution: Resolution;
  notices: string[];
  compileMs: number;
  adapter?: AdapterReport;
  threads?: number;
  relaxed?: boolean;
}

/** Makes engines with one compiler and, once it is asked for, one GPU device. */
export class Engines {
  readonly compiler: Compiler;
  readonly #gpuSource: GPU | undefined;
  #gpu: Promise<Gpu> | undefined;

  /** `gpu`: the browser's by default. */
  constructor(compiler: Compiler, gpu?: GPU) {
    this.compiler = compiler;
    this.#gpuSource = gpu;
  }

  /** The device; a lost one is opened anew. */
  async gpu(): Promise<Gpu> {
    try {
      const gpu = await (this.#gpu ??= Gpu.open(this.#gpuSource));
      gpu.check();
      return gpu;
    } catch (error) {
      const first = this.#gpu;
      this.#gpu = undefined;
      // One that was open and is lost now: once more.
      const opened = await first?.catch(() => undefined);
      if (opened === undefined) throw error;
      return (this.#gpu = Gpu.open(this.#gpuSource));
    }
  }

  resolve(config: Config): Resolution {
    return this.compiler.request({ request: 'resolve', config }).result;
  }

  /** An engine at the state of `files`, else at step 0 with the seed's weights. */
  async open(options: EngineOptions, files?: StateFiles): Promise<OpenedEngine> {
    const started = performance.now();
    const resolution = this.resolve(options.config);
    if (resolution.vocab !== 256) {
      throw new Error(`text is read as bytes, which need vocab 256, and vocab is ${resolution.vocab}: choose another preset`);
    }
    const { accumulate } = resolution.config.train;
    if (typeof accumulate === 'number' && accumulate > 1) {
      throw new Error(`accumulate is ${accumulate}, and a page takes one batch a step: set it to 1 and raise batch instead, or train on the command line`);
    }
    const state = files ?? { model: this.initialModel(options.config) };
    const opened = options.backend === 'webgpu' ? await this.#onGpu(options, resolution, state) : await this.#onWasm(options, state);
    return { ...opened, resolution, compileMs: performance.now() - started };
  }

  /** model.safetensors with the seed's weights. */
  initialModel(config: Config): Uint8Array {
    return this.compiler.request({ request: 'init', config }).blobs.get('model.safetensors') as Uint8Array;
  }

  /** The variant of a module that this browser runs, and on how many threads. */
  async variant({ threads, relaxed }: Pick<EngineOptions, 'threads' | 'relaxed'>): Promise<{ variant: { relaxed: boolean; threads: boolean }; threads: number; notices: string[] }> {
    const all = [false, true].flatMap((relaxed) => [false, true].map((threads) => ({ file: '', bytes: 0, relaxed, threads })));
    const layout = { memory64: false, fixed_bytes: 0, thread_bytes: 0, max_threads: 64, entries: [] };
    const options: RunnerOptions = { ...(threads === undefined ? {} : { threads }), ...(relaxed === undefined ? {} : { relaxed }) };
    const chosen = choose({ layout, variants: all }, options, probe(), await cores(), false);
    return { variant: { relaxed: chosen.variant.relaxed, threads: chosen.variant.threads }, threads: chosen.threads, notices: chosen.notices };
  }

  async #onGpu({ config, fusion }: EngineOptions, resolution: Resolution, files: StateFiles) {
    const gpu = await this.gpu();
    const load = (entry: string) => this.compiler.request({ request: 'wgsl', config, entry, caps: gpu.caps, ...(fusion === undefined ? {} : { fusion }) }).result;
    const trainable = await GpuRunner.create(gpu, resolution.config, load, files);
    const notices = gpu.report.softwareNote === undefined ? [] : [gpu.report.softwareNote];
    return { trainable, notices, adapter: gpu.report };
  }

  async #onWasm(options: EngineOptions, files: StateFiles) {
    const { variant, threads, notices } = await this.variant(options);
    const { config, fusion } = options;
    const { result: manifest, blobs } = this.compiler.request({ request: 'compile', config, variants: [variant], ...(fusion === undefined ? {} : { fusion }) });
    const load = async (name: string) => (name === 'model.safetensors' ? files.model : blobs.get(name)) as Uint8Array<ArrayBuffer>;
    const trainable = await WasmTrainable.create(manifest, load, { threads, relaxed: variant.relaxed });
    try {
      if (files.optim !== undefined || files.state !== undefined) await trainable.importState(files);
    } catch (error) {
      await trainable.close();
      throw error;
    }
    return { trainable, notices, threads, relaxed: variant.relaxed };
  }
}
