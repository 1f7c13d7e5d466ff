// Measurements: a probe of a few steps, the benchmark of both backends, and the time of each kernel.
//
// Invariants:
// - Probe and benchmark run engines of their own, which they close; a profile restores the state that it found.
// - No speed of a software adapter is stated as one of a GPU.

import { profileGpu } from '../../../runner/src/gpu-profile.js';
import type { KernelSeconds } from '../../../runner/src/gpu-profile.js';
import { GpuRunner } from '../../../runner/src/gpu.js';
import type { Backend, Benchmark, BenchmarkLane, Config, Probe, Profile, ResolvedConfig, TrainerEvents } from '../protocol.js';
import type { EngineOptions, Engines, OpenedEngine } from './engines.js';
import { WasmProgram } from './program.js';

/** Steps of a probe that are not read and read, and the milliseconds after which no more begin. */
const PROBE = { warm: 2, read: 10, ms: 5000 };
/** Steps of the benchmark that are not read, and read. */
const BENCHMARK = { warm: 50, read: 150 };
/** Steps of a profile that are timed whole. */
const WHOLE = 5;

export interface Watch {
  measuring(event: TrainerEvents['measuring']): void;
  breathe(): Promise<void>;
  /** Throws once the measurement is to end. */
  check(): void;
}

/** Times some steps. */
export async function probe(engines: Engines, options: EngineOptions, watch: Watch): Promise<Probe> {
  const engine = await opened(engines, options);
  const { trainable, compileMs, resolution } = engine;
  try {
    await trainable.trainSteps(1);
    const started = performance.now();
    let [steps, from] = [-PROBE.warm, started];
    while (steps < PROBE.read && (steps < 1 || performance.now() - started < PROBE.ms)) {
      if (steps === 0) from = performance.now();
      await trainable.trainSteps(1);
      steps += 1;
      watch.measuring({ what: 'probe', backend: options.backend, step: Math.max(steps, 0), of: PROBE.read });
      await watch.breathe();
      watch.check();
    }
    const msPerStep = (performance.now() - from) / steps;
    const tokensPerS = (1e3 * trainable.batch * trainable.ctx) / msPerStep;
    const totalS = (resolution.config.train.steps * msPerStep) / 1e3;
    return { backend: options.backend, steps, msPerStep, tokensPerS, compileMs, memoryBytes: trainable.memoryBytes, totalS };
  } finally {
    await trainable.close();
  }
}

/** Both backends, one after the other. */
export async function benchmark(
  engines: Engines,
  options: Pick<EngineOptions, 'config' | 'threads' | 'relaxed'> & { notes?: string },
  watch: Watch,
): Promise<Benchmark> {
  const { config } = engines.resolve(options.config);
  const lanes: BenchmarkLane[] = [];
  const notes: string[] = [];
  const lane = async (backend: Backend) => {
    const engine = await opened(engines, { ...options, backend });
    try {
      lanes.push(await readLane(engine, backend, watch));
    } finally {
      await engine.trainable.close();
    }
    return engine;
  };
  let adapter = 'not measured';
  let webgpu = 'not measured';
  let software = false;
  try {
    const { report } = await engines.gpu();
    adapter = report.software ? `${report.name} (software)` : report.name;
    software = report.software;
    if (software) webgpu = `not measured (software adapter ${report.name})`;
    else {
      await lane('webgpu');
      webgpu = speed(lanes.at(-1));
    }
  } catch (error) {
    watch.check();
    webgpu = `not measured (${(error as Error).message})`;
  }
  const wasm = await lane('wasm');
  const how = `${wasm.threads ?? 1} thread${wasm.threads === 1 ? '' : 's'}${wasm.relaxed ? ', relaxed SIMD' : ''}`;
  const [gpuLane, wasmLane] = (['webgpu', 'wasm'] as const).map((backend) => lanes.find((lane) => lane.backend === backend));
  const ratio = gpuLane && wasmLane ? `${(wasmLane.msPerStep / gpuLane.msPerStep).toFixed(2)}` : 'not measured';
  notes.push(...(options.notes === undefined || options.notes.trim() === '' ? [] : [options.notes.trim().replace(/\s+/g, ' ')]));
  notes.push(`compile ${lanes.map(({ backend, compileMs }) => `${backend} ${(compileMs / 1e3).toFixed(1)} s`).join(', ')}`);
  const block = blockOf({
    device: device(),
    'os/browser': browser(),
    adapter,
    preset: presetOf(options.config, config),
    'steps read': String(BENCHMARK.read),
    webgpu,
    'wasm-simd': `${speed(wasmLane)} (${how})`,
    ratio,
    notes: notes.join('; '),
  });
  return { lanes, block, shareable: !software && gpuLane !== undefined };
}

/** The fields of a benchmark's block, in their order. */
export const FIELDS = ['device', 'os/browser', 'adapter', 'preset', 'steps read', 'webgpu', 'wasm-simd', 'ratio', 'notes'] as const;

export function blockOf(values: Record<(typeof FIELDS)[number], string>): string {
  return FIELDS.map((field) => `${field}: ${values[field]}`).join('\n');
}

async function opened(engines: Engines, options: EngineOptions): Promise<OpenedEngine> {
  const engine = await engines.open(options);
  engine.trainable.setData(engines.compiler.request({ request: 'corpus' }).blobs.get('corpus.txt') as Uint8Array);
  return engine;
}

async function readLane({ trainable, compileMs }: OpenedEngine, backend: Backend, watch: Watch): Promise<BenchmarkLane> {
  const all = BENCHMARK.warm + BENCHMARK.read;
  const run = async (count: number, done: number) => {
    let [next, under] = [0, [] as Promise<unknown>[]];
    // Groups of a few steps, as training has them.
    while (next < count || under.length > 0) {
      while (next < count && under.length < trainable.depth) {
        const group = Math.min(backend === 'webgpu' ? 8 : 1, count - next);
        const steps = trainable.trainSteps(group);
        steps.catch(() => undefined);
        under.push(steps);
        next += group;
      }
      await under.shift();
      watch.measuring({ what: 'benchmark', backend, step: done + next, of: all });
      await watch.breathe();
      watch.check();
    }
  };
  await run(BENCHMARK.warm, 0);
  const started = performance.now();
  await run(BENCHMARK.read, BENCHMARK.warm);
  const msPerStep = (performance.now() - started) / BENCHMARK.read;
  return { backend, msPerStep, tokensPerS: (1e3 * trainable.batch * trainable.ctx) / msPerStep, steps: BENCHMARK.read, compileMs };
}

function speed(lane: BenchmarkLane | undefined): string {
  return lane === undefined ? 'not measured' : `${lane.msPerStep.toFixed(2)} ms/step, ${Math.round(lane.tokensPerS)} tokens/s`;
}

/** What a page may know of the machine. */
function device(): string {
  const { hardwareConcurrency, deviceMemory } = (globalThis.navigator ?? {}) as { hardwareConcurrency?: number; deviceMemory?: number };
  const memory = deviceMemory === undefined ? '' : `, ${deviceMemory} GiB of memory or more`;
  return hardwareConcurrency === undefined ? 'unknown' : `${hardwareConcurrency} logical processors${memory}`;
}

/** For people: nothing depends on it. */
function browser(): string {
  const { userAgent = 'unknown', userAgentData } = (globalThis.navigator ?? {}) as {
    userAgent?: string;
    userAgentData?: { platform: string; brands: { brand: string; version: string }[] };
  };
  const brands = userAgentData?.brands.filter(({ brand }) => !/not.?a.?brand/i.test(brand)) ?? [];
  return brands.length === 0 ? userAgent : `${userAgentData?.platform} / ${brands.map(({ brand, version }) => `${brand} ${version}`).join(', ')}`;
}

/** The preset, and what was changed of its model and batch. */
function presetOf(config: Config, { preset }: ResolvedConfig): string {
  const changes = [...Object.entries(config.model ?? {}), ...Object.entries(config.train ?? {}).filter(([key]) => key === 'batch')];
  const graph = config.graph === undefined ? [] : ['a graph of its own'];
  const list = [...graph, ...changes.map(([key, value]) => `${key} ${value}`)];
  return list.length === 0 ? preset : `${preset}, with ${list.join(', ')}`;
}

/** Seconds of each kernel of a training step, on what is open; with `fusion` false of the model's program without fusion. */
export async function profile(engines: Engines, current: { engine: OpenedEngine; config: Config }, options: { repeats: number; fusion: boolean }, watch: Watch): Promise<Profile> {
  const { engine, config } = current;
  const { backend } = engine.trainable;
  watch.measuring({ what: 'profile', backend, step: 0, of: 1 });
  const measured = backend === 'webgpu' ? await profileWebgpu(engines, engine, config, options) : await profileWasm(engines, engine, config, options);
  const total = measured.kernels.reduce((sum, { seconds }) => sum + seconds, 0);
  const kernels = measured.kernels.map((kernel) => ({ ...kernel, share: total > 0 ? kernel.seconds / total : 0 }));
  return { backend, ...measured, kernels };
}

async function profileWebgpu(engines: Engines, engine: OpenedEngine, config: Config, { repeats, fusion }: { repeats: number; fusion: boolean }) {
  const own = fusion ? engine : await engines.open({ config, backend: 'webgpu', fusion: false });
  const runner = own.trainable as GpuRunner;
  const state = fusion ? await runner.exportState() : undefined;
  const still = { lr: Float32Array.of(0), step: Float32Array.of(1) };
  try {
    const stepMs = await wholeSteps(async () => void (await runner.engine.run('train', [still], ['loss'])));
    return { stepMs, ...(await profileGpu(runner.engine, 'train', stepMs, repeats)) };
  } finally {
    if (state === undefined) await runner.close();
    else await runner.importState(state);
  }
}

async function profileWasm(engines: Engines, { trainable, threads, relaxed }: OpenedEngine, config: Config, { repeats, fusion }: { repeats: number; fusion: boolean }) {
  const how = { ...(threads === undefined ? {} : { threads }), ...(relaxed === undefined ? {} : { relaxed }) };
  const more = fusion ? {} : { fusion };
  const { model } = await trainable.exportState();
  const timed = async <T>(clocks: boolean, work: (program: WasmProgram) => T | Promise<T>): Promise<T> => {
    const program = await WasmProgram.create(engines, config, 'train', how, { ...more, ...(clocks ? { clocks } : {}) });
    try {
      program.load(model);
      program.engine.f32(program.slot('step'))[0] = 1;
      return await work(program);
    } finally {
      await program.close();
    }
  };
  const stepMs = await timed(false, (program) => wholeSteps(async () => program.run()));
  const kernels = await timed(true, (program): KernelSeconds[] => {
    for (let step = 0; step < repeats; step++) program.run();
    return program.clocks().map(({ kernel, seconds }) => ({ kernel, seconds: seconds / repeats, launches: 1 }));
  });
  return { method: 'clocks' as const, stepMs, kernels };
}

/** Milliseconds of one of some steps, after one that is not read. */
async function wholeSteps(step: () => Promise<void>): Promise<number> {
  await step();
  const started = performance.now();
  for (let at = 0; at < WHOLE; at++) await step();
  return (performance.now() - started) / WHOLE;
}

