// One entry of a model as a WebAssembly module of its own, for what the trainer's module leaves out: gradients, attention weights, clocks.

import { Engine, compileModule } from '../../../runner/src/engine.js';
import type { Entry, Manifest, Slot } from '../../../runner/src/manifest.js';
import { readTensors } from '../../../runner/src/safetensors.js';
import type { Config } from '../protocol.js';
import type { EngineOptions, Engines } from './engines.js';

export class WasmProgram {
  readonly entry: Entry;
  readonly engine: Engine;

  private constructor(engine: Engine, entry: Entry) {
    [this.engine, this.entry] = [engine, entry];
  }

  /** `more`: further keys of the compiler's request. */
  static async create(engines: Engines, config: Config, name: string, options: Pick<EngineOptions, 'threads' | 'relaxed'>, more: Record<string, unknown> = {}): Promise<WasmProgram> {
    const { variant, threads } = await engines.variant(options);
    const request = { request: 'compile', config, variants: [variant], entries: [name], ...more };
    const { result, blobs } = engines.compiler.request(request);
    const manifest: Manifest = result;
    const [{ file = '' } = {}] = manifest.variants;
    const module = await compileModule(blobs.get(file) as Uint8Array<ArrayBuffer>, file);
    const engine = await Engine.create(module, manifest.layout, { threads, shared: variant.threads });
    return new WasmProgram(engine, manifest.layout.entries[0] as Entry);
  }

  /** Takes the weights of a model.safetensors. */
  load(model: Uint8Array): void {
    const { tensors } = readTensors(model, 'model.safetensors');
    for (const slot of this.entry.params) {
      const tensor = slot.kind === 'state' ? tensors.get(slot.name) : undefined;
      if (tensor !== undefined) this.engine.f32(slot).set(tensor.data);
    }
  }

  /** The bytes of an input, from their beginning; what is beyond them is 0. */
  write(name: string, bytes: Uint8Array): void {
    const { offset, bytes: size } = this.slot(name);
    const to = this.engine.bytes(offset, size);
    to.fill(0);
    to.set(bytes);
  }

  run(): void {
    this.engine.run(this.entry.name);
  }

  /** A copy of an output. */
  read(name: string): Float32Array {
    return this.engine.f32(this.slot(name)).slice();
  }

  /** Seconds of each kernel so far, of a module with clocks. */
  clocks(): { kernel: string; seconds: number }[] {
    const { clocks } = this.entry;
    if (clocks === undefined) throw new Error('the compiler gave no clocks: use the compiler of this runner');
    const { offset, kernels } = clocks;
    const seconds = new Float64Array(this.engine.bytes(offset, 8 * kernels.length).slice().buffer);
    return kernels.map((kernel, at) => ({ kernel, seconds: seconds[at] as number }));
  }

  slot(name: string): Slot {
    const slot = [...this.entry.params, ...this.entry.outputs].find((slot) => slot.name === name);
    if (slot === undefined) throw new Error(`the entry ${this.entry.name} has no input, state or output named ${name}`);
    return slot;
  }

  close(): Promise<void> {
    return this.engine.close();
  }
}
