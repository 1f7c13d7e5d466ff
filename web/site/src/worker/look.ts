// Looking into a model: probabilities of the next byte, attention weights, and gradients against differences.
//
// Invariant: nothing here writes a weight of the session.

import { GpuEngine } from '../../../runner/src/gpu-engine.js';
import type { Values } from '../../../runner/src/gpu-engine.js';
import { GpuRunner } from '../../../runner/src/gpu.js';
import { readTensors } from '../../../runner/src/safetensors.js';
import type { Attention, Config, GradCheck, Probabilities } from '../protocol.js';
import type { EngineOptions, Engines, OpenedEngine } from './engines.js';
import { WasmProgram } from './program.js';

/** Largest relative error of a gradient in f32 against a difference in f64. */
const TOLERANCE = 1e-3;
/** Derivatives below this share of the largest one count as this large: they are sums that cancel, which f32 rounds. */
const FLOOR_SHARE = 1e-2;

/** Tokens are bytes in every model that a session opens. */
const BYTES = 256;

const bytesOf = (prompt: string) => {
  const bytes = new TextEncoder().encode(prompt);
  // An empty text stands for the byte 0, as in sampling.
  return bytes.length === 0 ? Uint8Array.of(0) : bytes;
};

/** The probability of each byte that may follow. */
export async function probabilities({ trainable }: OpenedEngine, prompt: string): Promise<Probabilities> {
  const shown = bytesOf(prompt).slice(-trainable.ctx);
  const all = await trainable.logits(shown);
  // Of a graph with several rows the first one is meant.
  const logits = all.subarray((shown.length - 1) * BYTES, shown.length * BYTES);
  const most = logits.reduce((max, x) => Math.max(max, x), -Infinity);
  const weights = logits.map((x) => Math.exp(x - most));
  const sum = weights.reduce((total, x) => total + x, 0);
  return { step: trainable.step, probabilities: weights.map((x) => x / sum) };
}

/** The attention weights of every layer and head over the beginning of a prompt. */
export async function attention(engines: Engines, engine: OpenedEngine, config: Config, prompt: string): Promise<Attention> {
  const { trainable, threads, relaxed } = engine;
  const tokens = bytesOf(prompt).slice(0, trainable.ctx);
  const ids = new Int32Array(trainable.ctx);
  ids.set(tokens);
  let weights: Float32Array;
  let shape: number[];
  if (trainable instanceof GpuRunner) {
    [[weights = new Float32Array()] = []] = await trainable.engine.run('look', [{ ids }], ['attention']);
    ({ shape } = await trainable.engine.slot('look', 'attention'));
  } else {
    const look = await WasmProgram.create(engines, config, 'look', { ...(threads === undefined ? {} : { threads }), ...(relaxed === undefined ? {} : { relaxed }) });
    try {
      look.load((await trainable.exportState()).model);
      look.write('ids', new Uint8Array(ids.buffer));
      look.run();
      weights = look.read('attention');
      ({ shape } = look.slot('attention'));
    } finally {
      await look.close();
    }
  }
  const [layers = 0, heads = 0, ctx = 0] = shape;
  return { step: trainable.step, tokens, layers, heads, ctx, weights };
}

/** The compiled gradients at some coordinates, against central differences of the f64 interpreter. */
export async function gradcheck(engines: Engines, options: EngineOptions, count: number, seed: number): Promise<GradCheck> {
  const { config, backend } = options;
  const { result, blobs } = engines.compiler.request({ request: 'differences', config, count, seed });
  const blob = (name: string) => blobs.get(name) as Uint8Array<ArrayBuffer>;
  const reduced: Config = result.config;
  const coordinates: { weight: string; index: number; difference: number }[] = result.coordinates;
  const names = [...new Set(coordinates.map(({ weight }) => `grad.${weight}`))];
  const found = backend === 'webgpu' ? await gradientsOnGpu(engines, reduced, blob, names) : await gradientsInWasm(engines, { ...options, config: reduced }, blob, names);
  const largest = coordinates.reduce((most, { difference }) => Math.max(most, Math.abs(difference)), 0);
  const checked = coordinates.map(({ weight, index, difference }) => {
    const gradient = found.get(`grad.${weight}`)?.[index] ?? NaN;
    const size = Math.max(Math.abs(difference), Math.abs(gradient), FLOOR_SHARE * largest, Number.MIN_VALUE);
    return { weight, index, difference, gradient, error: Math.abs(difference - gradient) / size };
  });
  // A gradient that is not a number is as wrong as can be.
  const worst = checked.reduce((most, { error }) => (Number.isNaN(error) ? Infinity : Math.max(most, error)), 0);
  return { backend, coordinates: checked, worst, tolerance: TOLERANCE, passed: worst <= TOLERANCE };
}

type Blob = (name: string) => Uint8Array<ArrayBuffer>;

async function gradientsInWasm(engines: Engines, { config, relaxed }: EngineOptions, blob: Blob, names: string[]): Promise<Map<string, Float32Array>> {
  const program = await WasmProgram.create(engines, config, 'gradient', { threads: 1, ...(relaxed === undefined ? {} : { relaxed }) });
  try {
    program.load(blob('model.safetensors'));
    for (const name of ['ids', 'targets']) program.write(name, blob(name));
    program.run();
    return new Map(names.map((name) => [name, program.read(name)]));
  } finally {
    await program.close();
  }
}

async function gradientsOnGpu(engines: Engines, config: Config, blob: Blob, names: string[]): Promise<Map<string, Float32Array>> {
  const gpu = await engines.gpu();
  const load = (entry: string) => engines.compiler.request({ request: 'wgsl', config, entry, caps: gpu.caps }).result;
  const engine = await GpuEngine.create(gpu, 'gradient', load);
  try {
    for (const [name, { data }] of readTensors(blob('model.safetensors'), 'model.safetensors').tensors) await engine.write('gradient', name, data);
    const inputs: Values = { ids: blob('ids'), targets: blob('targets') };
    await engine.run('gradient', [inputs], []);
    const values = await engine.read('gradient', names);
    return new Map(names.map((name, at) => [name, values[at] as Float32Array]));
  } finally {
    engine.close();
  }
}

