// Measurements: a probe of a few steps, the benchmark of both backends, and the time of each kernel.
//
// Invariants:
// - Probe and benchmark run engines of their own, which they close; a profile restores the state that it found.
// - No speed of a software adapter is stated as one of a GPU.

import { profileGpu } from '../../../runner/src/gpu-profile.js';
import type { KernelSeconds } from '../../../runner/src/gpu-profile.js';
import { GpuRunner } from '../../../runner/src/gpu.js';
import type { Trainable } from '../../../runner/src/trainable.js';
import type { Backend, Benchmark, BenchmarkLane, Config, Probe, Profile, ResolvedConfig, TrainerEvents } from '../protocol.js';
import type { EngineOptions, Engines, OpenedEngine } from './engines.js';
import { WasmProgram } from './program.js';

/** Steps of a probe that are not read, and that are: in groups on a GPU, which waits for each single one. */
const PROBE = { warm: 3, read: { one: 10, grouped: 40 } };
/** Milliseconds after which a probe begins no more steps. */
const PROBE_MS = 5000;
/** Steps of a group, where an engine has several groups under way. */
const GROUP = 8;
/** Steps of the benchmark that are not read, and read. */
const BENCHMARK = { warm: 50, read: 150 };
/** Milliseconds for which a GPU takes steps that are not read, at least: an idle one runs at a fraction of its clock. */
const GPU_WARM_MS = 500;
/** Steps of a profile that are timed whole. */
const WHOLE = { one: 5, grouped: 32 };

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
    await trainable.trainSteps(PROBE.warm);
    const grouped = isGrouped(engine);
    const of = PROBE.read[grouped ? 'grouped' : 'one'];
    const started = performance.now();
    const steps = await runSteps(trainable, of, grouped ? GROUP : 1, async (step) => {
      watch.measuring({ what: 'probe', backend: options.backend, step, of });
      await watch.breathe();
      watch.check();
      return performance.now() - started < PROBE_MS;
    });
    const msPerStep = (performance.now() - started) / steps;
    const tokensPerS = (1e3 * trainable.batch * trainable.ctx) / msPerStep;
    const totalS = (resolution.config.train.steps * msPerStep) / 1e3;
    return { backend: options.backend, steps, msPerStep, tokensPerS, compileMs, memoryBytes: trainable.memoryBytes, totalS };
  } finally {
    await trainable.close();
  }
}

/** Both backends, one after the other; of `count` steps where they are to be fewer or more than the protocol's. */
export async function benchmark(
  engines: Engines,
  options: Pick<EngineOptions, 'config' | 'threads' | 'relaxed'> & { notes?: string },
  watch: Watch,
  count: typeof BENCHMARK = BENCHMARK,
): Promise<Benchmark> {
  const { config } = engines.resolve(options.config);
  const lanes: BenchmarkLane[] = [];
  const notes: string[] = [];
  const lane = async (backend: Backend) => {
    const engine = await opened(engines, { ...options, backend });
    try {
      lanes.push(await readLane(engine, backend, watch, count));
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
    'steps read': String(count.read),
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

async function readLane({ trainable, compileMs }: OpenedEngine, backend: Backend, watch: Watch, { warm, read }: typeof BENCHMARK): Promise<BenchmarkLane> {
  const run = (count: number, done: number) =>
    runSteps(trainable, count, backend === 'webgpu' ? GROUP : 1, async (step) => {
      watch.measuring({ what: 'benchmark', backend, step: done + step, of: warm + read });
      await watch.breathe();
      watch.check();
      return true;
    });
  const warming = performance.now();
  do {
    await run(warm, 0);
  } while (backend === 'webgpu' && performance.now() - warming < GPU_WARM_MS);
  const started = performance.now();
  await run(read, warm);
  const msPerStep = (performance.now() - started) / read;
  return { backend, msPerStep, tokensPerS: (1e3 * trainable.batch * trainable.ctx) / msPerStep, steps: read, compileMs };
}

/** Whether an engine is fast enough to have groups of steps under way. */
const isGrouped = ({ trainable, adapter }: OpenedEngine) => trainable.depth > 1 && adapter?.software !== true;

/**
 * Runs `count` steps in groups, as many groups under way as the engine likes, and calls `after` with the steps done after each; none begins
 * once it says false. Returns the steps done.
 */
async function runSteps(trainable: Trainable, count: number, group: number, after: (step: number) => Promise<boolean>): Promise<number> {
  const underWay: Promise<{ length: number }>[] = [];
  let [next, done, more] = [0, 0, true];
  for (;;) {
    while (more && next < count && underWay.length < trainable.depth) {
      const size = Math.min(group, count - next);
      const steps = trainable.trainSteps(size);
      // It is awaited in its turn; a failure of one before it must not leave it unseen.
      steps.catch(() => undefined);
      underWay.push(steps);
      next += size;
    }
    const oldest = underWay.shift();
    if (oldest === undefined) return done;
    done += (await oldest).length;
    more = await after(done);
  }
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
    const group = (size: number) => runner.engine.run('train', Array.from({ length: size }, () => still), ['loss']);
    await group(1);
    const steps = isGrouped(own) ? WHOLE.grouped : WHOLE.one;
    const started = performance.now();
    await Promise.all([group(steps >> 1), group(steps - (steps >> 1))]);
    const stepMs = (performance.now() - started) / steps;
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
  const stepMs = await timed(false, (program) => {
    program.run();
    const started = performance.now();
    for (let step = 0; step < WHOLE.one; step++) program.run();
    return (performance.now() - started) / WHOLE.one;
  });
  const kernels = await timed(true, (program): KernelSeconds[] => {
    for (let step = 0; step < repeats; step++) program.run();
    return program.clocks().map(({ kernel, seconds }) => ({ kernel, seconds: seconds / repeats, launches: 1 }));
  });
  return { method: 'clocks' as const, stepMs, kernels };
}
