// Seconds of each kernel of a program on a GPU, each measured in a pass of its own.
//
// The launches of a kernel are repeated until they take a time that clocks can tell. The program's values end up as anything: who needs the
// states restores them afterwards.

import { USAGE } from './gpu-device.js';
import { encode } from './gpu-engine.js';
import type { GpuEngine } from './gpu-engine.js';
import type { Launch } from './gpu-program.js';

/** Milliseconds that a kernel's repetitions aim at: browsers quantise clocks to a tenth of one. */
const AIM_MS = 4;
/** Most repetitions. */
const MOST = 256;

export interface KernelSeconds {
  kernel: string;
  seconds: number;
  launches: number;
}

/** `stepMs`: of a whole step, from which the first guess comes. */
export async function profileGpu(
  engine: GpuEngine,
  entry: string,
  stepMs: number,
  repeats: number,
): Promise<{ method: 'timestamps' | 'repeats'; kernels: KernelSeconds[] }> {
  const { launches } = await engine.program(entry);
  const groups = new Map<string, Launch[]>();
  for (const launch of launches) groups.set(launch.kernel, [...(groups.get(launch.kernel) ?? []), launch]);
  const clock = engine.gpu.timestamps ? new Timestamps(engine) : new HostClock(engine);
  const kernels: KernelSeconds[] = [];
  const guess = Math.max(stepMs / groups.size, 1e-3);
  for (const [kernel, own] of groups) {
    let best = Infinity;
    let times = Math.max(1, Math.min(MOST, Math.round(AIM_MS / guess)));
    for (let trial = 0; trial < repeats; trial++) {
      const ms = await clock.time(Array.from({ length: times }, () => own).flat());
      best = Math.min(best, ms / times);
      // Too short to tell: more of them.
      if (ms < AIM_MS / 4) times = Math.min(MOST, times * 4);
    }
    kernels.push({ kernel, seconds: best / 1e3, launches: own.length });
  }
  clock.close();
  return { method: engine.gpu.timestamps ? 'timestamps' : 'repeats', kernels };
}

interface Clock {
  /** Milliseconds of these launches in one pass. */
  time(launches: Launch[]): Promise<number>;
  close(): void;
}

/** The device's own clock, before and after a pass. */
class Timestamps implements Clock {
  readonly #engine: GpuEngine;
  readonly #queries: GPUQuerySet;
  readonly #resolved: GPUBuffer;
  readonly #staging: GPUBuffer;

  constructor(engine: GpuEngine) {
    this.#engine = engine;
    const { device } = engine.gpu;
    this.#queries = device.createQuerySet({ type: 'timestamp', count: 2 });
    this.#resolved = device.createBuffer({ size: 16, usage: USAGE.QUERY_RESOLVE | USAGE.COPY_SRC });
    this.#staging = device.createBuffer({ size: 16, usage: USAGE.MAP_READ | USAGE.COPY_DST });
  }

  async time(launches: Launch[]): Promise<number> {
    const { gpu } = this.#engine;
    const encoder = gpu.device.createCommandEncoder();
    encode(encoder, launches, { timestampWrites: { querySet: this.#queries, beginningOfPassWriteIndex: 0, endOfPassWriteIndex: 1 } });
    encoder.resolveQuerySet(this.#queries, 0, 2, this.#resolved, 0);
    encoder.copyBufferToBuffer(this.#resolved, 0, this.#staging, 0, 16);
    gpu.device.queue.submit([encoder.finish()]);
    await gpu.wait(this.#staging.mapAsync(1));
    const [begin = 0n, end = 0n] = new BigUint64Array(this.#staging.getMappedRange().slice(0));
    this.#staging.unmap();
    gpu.check();
    return Number(end - begin) / 1e6;
  }

  close(): void {
    this.#queries.destroy();
    this.#resolved.destroy();
    this.#staging.destroy();
  }
}

/** The host's clock around a submission, less what an empty one takes. */
class HostClock implements Clock {
  readonly #engine: GpuEngine;
  #empty: number | undefined;

  constructor(engine: GpuEngine) {
    this.#engine = engine;
  }

  async time(launches: Launch[]): Promise<number> {
    this.#empty ??= Math.min(await this.#submit([]), await this.#submit([]), await this.#submit([]));
    return Math.max((await this.#submit(launches)) - this.#empty, 0);
  }

  async #submit(launches: Launch[]): Promise<number> {
    const { device } = this.#engine.gpu;
    const encoder = device.createCommandEncoder();
    encode(encoder, launches);
    const commands = encoder.finish();
    const started = performance.now();
    device.queue.submit([commands]);
    await this.#engine.idle();
    return performance.now() - started;
  }

  close(): void {}
}
