// Programs on a WebGPU device that run: inputs in, steps, small outputs out, large values read whole.
//
// Invariants:
// - A step is one command encoder and one submission; a group of steps is one upload of all their inputs and one reading of all their
//   outputs. Several groups may be under way: the queue keeps their order, so each sees its own inputs.
// - Reading the outputs of a group waits for that group alone.
// - After a group of each size has run, nothing is allocated any more.

import type { Gpu } from './gpu-device.js';
import { GpuFault, MAP_READ, USAGE } from './gpu-device.js';
import { GpuBuilder } from './gpu-program.js';
import type { DispatchList, GpuProgram, GpuSlot, Launch } from './gpu-program.js';

/** Most steps of a group. */
export const GROUP = 32;

/** Bytes read at a time of large values. */
const PART = 16 << 20;

export type Values = Record<string, ArrayBufferView>;

export class GpuEngine {
  readonly gpu: Gpu;
  readonly #builder: GpuBuilder;
  readonly #load: (entry: string) => Promise<DispatchList> | DispatchList;
  readonly #programs = new Map<string, Promise<GpuProgram>>();
  /** By program: one group's inputs. */
  readonly #uploads = new Map<GpuProgram, GPUBuffer>();
  /** Buffers that take outputs and are free, by size. */
  readonly #free = new Map<number, GPUBuffer[]>();

  private constructor(gpu: Gpu, load: (entry: string) => Promise<DispatchList> | DispatchList) {
    this.gpu = gpu;
    this.#load = load;
    this.#builder = new GpuBuilder(gpu);
  }

  /** Makes the program `first`, which owns the states; the others are made when they are first run. */
  static async create(gpu: Gpu, first: string, load: (entry: string) => Promise<DispatchList> | DispatchList): Promise<GpuEngine> {
    const engine = new GpuEngine(gpu, load);
    try {
      await engine.program(first);
    } catch (error) {
      engine.close();
      throw error;
    }
    return engine;
  }

  /** Bytes of all buffers. */
  get bytes(): number {
    return this.#builder.bytes;
  }

  program(entry: string): Promise<GpuProgram> {
    let program = this.#programs.get(entry);
    if (program === undefined) {
      program = (async () => this.#builder.program(entry, await this.#load(entry)))();
      this.#programs.set(entry, program);
      // One that failed may be asked for again.
      program.catch(() => this.#programs.delete(entry));
    }
    return program;
  }

  async slot(entry: string, name: string): Promise<GpuSlot> {
    return slotOf(await this.program(entry), name);
  }

  /**
   * Runs `entry` once for each element of `steps`, whose inputs it holds, and resolves to the named outputs of each, once all have ended.
   * Inputs that a step leaves out keep what they hold.
   */
  async run(entry: string, steps: Values[], outputs: string[]): Promise<Float32Array[][]> {
    const program = await this.program(entry);
    return this.#submit(program, steps, outputs);
  }

  /** [`run`] of a program that is made: the steps are submitted before this returns, so that calls keep their order. */
  #submit(program: GpuProgram, steps: Values[], outputs: string[]): Promise<Float32Array[][]> {
    if (steps.length > GROUP) throw new Error(`a group has at most ${GROUP} steps, and ${steps.length} were asked for`);
    this.gpu.check();
    const { device } = this.gpu;
    const inputs = [...program.slots.values()].filter((slot) => slot.role === 'input');
    const stride = inputs.reduce((sum, slot) => sum + slot.bytes, 0);
    const upload = this.#upload(program, stride);
    this.#fill(upload, steps, inputs, stride);
    const wanted = outputs.map((name) => slotOf(program, name));
    const row = wanted.reduce((sum, slot) => sum + slot.bytes, 0);
    const staging = row === 0 ? undefined : this.#staging(row * steps.length);
    for (const [at, values] of steps.entries()) {
      const encoder = device.createCommandEncoder({ label: program.name });
      if (at === 0) for (const c of program.follows) encoder.copyBufferToBuffer(c.from, c.fromOffset, c.to, c.toOffset, c.bytes);
      let from = at * stride;
      for (const slot of inputs) {
        if (slot.name in values) encoder.copyBufferToBuffer(upload, from, bufferOf(program, slot), slot.offset, slot.bytes);
        from += slot.bytes;
      }
      encode(encoder, program.launches);
      let to = at * row;
      for (const slot of wanted) {
        encoder.copyBufferToBuffer(bufferOf(program, slot), slot.offset, staging as GPUBuffer, to, slot.bytes);
        to += slot.bytes;
      }
      device.queue.submit([encoder.finish()]);
    }
    return this.#land(staging, steps.length, wanted, row);
  }

  /** Writes a value; its bytes are those of the slot. */
  async write(entry: string, name: string, data: ArrayBufferView): Promise<void> {
    const program = await this.program(entry);
    const slot = slotOf(program, name);
    this.gpu.check();
    this.gpu.device.queue.writeBuffer(bufferOf(program, slot), slot.offset, data.buffer as ArrayBuffer, data.byteOffset, data.byteLength);
  }

  /** Reads values whole, in the order of their names. */
  async read(entry: string, names: string[]): Promise<Float32Array[]> {
    const program = await this.program(entry);
    const results: Float32Array[] = [];
    for (const name of names) {
      const slot = slotOf(program, name);
      const value = new Float32Array(slot.bytes / 4);
      for (let from = 0; from < slot.bytes; from += PART) {
        const bytes = Math.min(PART, slot.bytes - from);
        const staging = this.#staging(bytes);
        const encoder = this.gpu.device.createCommandEncoder();
        encoder.copyBufferToBuffer(bufferOf(program, slot), slot.offset + from, staging, 0, bytes);
        this.gpu.device.queue.submit([encoder.finish()]);
        value.set(new Float32Array(await this.#take(staging, bytes)), from / 4);
      }
      results.push(value);
    }
    return results;
  }

  /** Resolves once all that was submitted has ended. */
  async idle(): Promise<void> {
    await this.gpu.wait(this.gpu.device.queue.onSubmittedWorkDone());
    this.gpu.check();
  }

  /** Gives all memory back. Nothing may be called after it. */
  close(): void {
    this.#builder.destroy();
  }

  #upload(program: GpuProgram, stride: number): GPUBuffer {
    const usage = USAGE.COPY_SRC | USAGE.COPY_DST;
    const upload = this.#uploads.get(program) ?? this.#builder.buffer(`${program.name}: inputs`, Math.max(stride * GROUP, 4), usage);
    this.#uploads.set(program, upload);
    return upload;
  }

  #fill(upload: GPUBuffer, steps: Values[], inputs: GpuSlot[], stride: number): void {
    const bytes = new Uint8Array(stride * steps.length);
    for (const [at, values] of steps.entries()) {
      let to = at * stride;
      for (const slot of inputs) {
        const value = values[slot.name];
        if (value !== undefined) {
          if (value.byteLength !== slot.bytes) throw new Error(`the input ${slot.name} has ${value.byteLength} bytes, and ${slot.bytes} were expected`);
          bytes.set(new Uint8Array(value.buffer, value.byteOffset, value.byteLength), to);
        }
        to += slot.bytes;
      }
    }
    // The queue keeps the order of writes and submissions: groups under way have read theirs.
    if (bytes.length > 0) this.gpu.device.queue.writeBuffer(upload, 0, bytes);
  }

  #staging(bytes: number): GPUBuffer {
    const usage = USAGE.MAP_READ | USAGE.COPY_DST;
    return this.#free.get(bytes)?.pop() ?? this.#builder.buffer('results', bytes, usage);
  }

  /** The bytes of a buffer of results, which is free after that. */
  async #take(staging: GPUBuffer, bytes: number): Promise<ArrayBuffer> {
    const mapped = staging.mapAsync(MAP_READ).catch((error: Error) => {
      throw new GpuFault('other', `the GPU ${this.gpu.report.name} did not hand over a step's results (${error.message})`);
    });
    await this.gpu.wait(mapped);
    this.gpu.check();
    const copy = staging.getMappedRange().slice(0, bytes);
    staging.unmap();
    this.#free.set(bytes, [...(this.#free.get(bytes) ?? []), staging]);
    return copy;
  }

  async #land(staging: GPUBuffer | undefined, steps: number, wanted: GpuSlot[], row: number): Promise<Float32Array[][]> {
    if (staging === undefined) {
      await this.idle();
      return Array.from({ length: steps }, () => []);
    }
    const bytes = await this.#take(staging, row * steps);
    return Array.from({ length: steps }, (_, at) => {
      let from = at * row;
      return wanted.map((slot) => {
        const value = new Float32Array(bytes, from, slot.bytes / 4);
        from += slot.bytes;
        return value;
      });
    });
  }
}

/** Records a program's launches in one pass. */
export function encode(encoder: GPUCommandEncoder, launches: Launch[], pass: GPUComputePassDescriptor = {}): void {
  const compute = encoder.beginComputePass(pass);
  let last: GPUComputePipeline | undefined;
  for (const { pipeline, group, workgroups } of launches) {
    if (pipeline !== last) compute.setPipeline(pipeline);
    last = pipeline;
    compute.setBindGroup(0, group);
    compute.dispatchWorkgroups(...workgroups);
  }
  compute.end();
}

function slotOf(program: GpuProgram, name: string): GpuSlot {
  const slot = program.slots.get(name);
  if (slot === undefined) throw new Error(`the program ${program.name} has no input, state or output named ${name}`);
  return slot;
}

function bufferOf(program: GpuProgram, slot: GpuSlot): GPUBuffer {
  return program.buffers[slot.allocation] as GPUBuffer;
}
