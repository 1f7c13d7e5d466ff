// The state of a run as the files of a native checkpoint: runtime/src/checkpoint.rs has the other side.
//
// Invariant: everything of a checkpoint is checked before anything of it is used.

import { readTensors, writeTensors } from './safetensors.js';
import type { Tensor } from './safetensors.js';

/** State prefixes of the first and second moments, and their prefixes in optim.safetensors. */
const MOMENTS = [['adam.m.', 'm.'], ['adam.v.', 'v.']] as const;

/** Version of state.json. */
const STATE_VERSION = 1;

/** A model that is a graph, as a configuration names it. */
export const GRAPH_FILE = 'model.gir';

/** The files of a native checkpoint. */
export interface StateFiles {
  /** model.safetensors: the weights. */
  model: Uint8Array;
  /** optim.safetensors: Adam's moments; without it they are zeros. */
  optim?: Uint8Array | undefined;
  /** state.json: steps done and the configuration; without it no step is done. */
  state?: Uint8Array | undefined;
}

/** What a checkpoint says besides its tensors. */
export interface RunState {
  config: { graph?: string; model?: unknown; train: { seed: number } };
  /** The graph's text, of a model that is one. */
  graph: string | undefined;
  /** Names of the weights. */
  weights: string[];
  /** Steps done. */
  step: number;
  /** Seconds of training. */
  elapsed: number;
}

/** Names of all states of a run: the weights and both their moments. */
export function stateNames(weights: string[]): string[] {
  return ['', ...MOMENTS.map(([prefix]) => prefix)].flatMap((prefix) => weights.map((name) => prefix + name));
}

/** The weights among the states of a training program. */
export function weightsOf(states: string[]): string[] {
  return states.filter((name) => MOMENTS.every(([prefix]) => !name.startsWith(prefix)));
}

/** The files of a run whose states `read` gives by name; they are copied. */
export function formatState({ config, graph, weights, step, elapsed }: RunState, read: (name: string) => Tensor): Required<StateFiles> {
  const model = new Map(weights.map((name) => [name, read(name)]));
  const moments = MOMENTS.flatMap(([state, file]) => weights.map((name) => [file + name, read(state + name)] as const));
  const named = graph === undefined ? config : { ...config, graph: GRAPH_FILE };
  const state = { version: STATE_VERSION, step, seed: config.train.seed, elapsed_s: elapsed, config: named };
  const architecture: Record<string, string> = graph === undefined ? { 'tinygpt.model': JSON.stringify(config.model) } : { 'tinygpt.graph': graph };
  return {
    model: writeTensors({ tensors: model, metadata: { format: 'pt', ...architecture } }),
    optim: writeTensors({ tensors: new Map(moments), metadata: { format: 'pt' } }),
    state: new TextEncoder().encode(JSON.stringify(state, null, 2)),
  };
}

/** What a checkpoint holds for the states of a model with these weights; a state without a value is zeros. */
export function readState(
  { model, optim, state }: StateFiles,
  weights: string[],
  shapeOf: (state: string) => number[],
): { step: number; elapsed: number; values: [state: string, value: Float32Array | undefined][] } {
  const found = readTensors(model, 'model.safetensors').tensors;
  const moments = optim && readTensors(optim, 'optim.safetensors').tensors;
  const [step, elapsed] = state ? parseState(state) : [0, 0];
  const values = weights.flatMap((name) => [
    [name, fitting(found, name, shapeOf(name), 'model.safetensors')] as const,
    ...MOMENTS.map(([prefix, file]) => [prefix + name, moments && fitting(moments, file + name, shapeOf(prefix + name), 'optim.safetensors')] as const),
  ]);
  for (const [file, count, expected] of [
    ['model.safetensors', found.size, weights.length],
    ['optim.safetensors', moments?.size ?? 0, moments ? 2 * weights.length : 0],
  ] as const) {
    if (count !== expected) throw new Error(`${file} holds ${count} tensors, and the model has ${expected}: use a checkpoint of this model`);
  }
  return { step, elapsed, values: values.map(([name, tensor]) => [name, tensor?.data]) };
}

/** The tensor of this name, which must have this shape. */
function fitting(tensors: Map<string, Tensor>, name: string, shape: number[], file: string): Tensor {
  const tensor = tensors.get(name);
  if (tensor === undefined) throw new Error(`${file} does not fit the model: ${name} is missing`);
  if (tensor.shape.join() !== shape.join()) {
    throw new Error(`${file} does not fit the model: ${name} is [${tensor.shape}] instead of [${shape}]`);
  }
  return tensor;
}

/** Steps done and seconds of training of a state.json. */
function parseState(file: Uint8Array): [number, number] {
  let state: { version?: unknown; step?: unknown; elapsed_s?: unknown };
  try {
    state = JSON.parse(new TextDecoder().decode(file));
  } catch (error) {
    throw new Error(`state.json is truncated or damaged (${(error as Error).message}): use another checkpoint`);
  }
  if (state.version !== STATE_VERSION) {
    throw new Error(`state.json has format version ${state.version}, and this runner reads version ${STATE_VERSION}: use the runner of that tinygpt`);
  }
  if (!Number.isSafeInteger(state.step)) throw new Error(`state.json states ${state.step} steps, and a number of steps was expected`);
  return [state.step as number, Number(state.elapsed_s) || 0];
}
