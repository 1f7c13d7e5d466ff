// The manifest of an export, as `tinygpt export --format web` writes it. docs/WASM.md is its specification.

export const FORMAT = 'tinygpt-web';
/** Version of the manifest that this runner reads. */
export const VERSION = 1;

/** One input, state or output: row-major elements of 4 bytes at `offset` of the module's memory. */
export interface Slot {
  name: string;
  kind: 'input' | 'state' | 'output';
  dtype: 'f32' | 'i32' | 'u32' | 'bool';
  shape: number[];
  offset: number;
  bytes: number;
}

/** One exported function: a program that runs whole. */
export interface Entry {
  name: string;
  params: Slot[];
  outputs: Slot[];
  /** Of a module with clocks: an f64 for each kernel at `offset`, its seconds in all steps since it was zero. */
  clocks?: { offset: number; kernels: string[] };
}

/** How memory is divided: `fixed_bytes`, and `thread_bytes` for each thread. */
export interface Layout {
  memory64: boolean;
  fixed_bytes: number;
  thread_bytes: number;
  max_threads: number;
  entries: Entry[];
}

/** One file of code: the same program for other capabilities of the engine. */
export interface Variant {
  file: string;
  bytes: number;
  relaxed: boolean;
  threads: boolean;
}

export interface ModelConfig {
  vocab: number;
  ctx: number;
  layers: number;
  heads: number;
  d_model: number;
  d_mlp: number;
  gelu: 'erf' | 'tanh';
}

/** What the runner reads of `[train]`; the rest passes through to state.json. */
export interface TrainConfig {
  batch: number;
  steps: number;
  lr: number;
  schedule: 'constant' | 'cosine';
  warmup: number;
  seed: number;
  eval_batches: number;
}

export interface Manifest {
  format: typeof FORMAT;
  version: number;
  /** Version of the tinygpt that wrote it. */
  tinygpt: string;
  /** The resolved configuration of the run: with a model of stated sizes, or the name of the file of a graph. */
  config: { preset: string; model?: ModelConfig; graph?: string; train: TrainConfig; data: unknown };
  /** Number of weights, the tied head counted once. */
  params: number;
  /** Names of the weights, in the program's order; moments are states `adam.m.NAME` and `adam.v.NAME`. */
  weights: string[];
  /** Starting state: steps done, seconds of training, and the files that hold it; no `optim` means moments of zero. */
  state: { step: number; elapsed_s: number; model: string; optim: string | null };
  /** The programs as JSON, for people and tools; the runner does not read it. */
  program: { file: string; version: number };
  layout: Layout;
  variants: Variant[];
  /** Register-only loops that measure the engine's SIMD peak. */
  peak: { file: string; relaxed: boolean; flop_per_iteration: number }[];
}

/** Parses manifest.json; the error says what was found instead. */
export function parseManifest(text: string): Manifest {
  let manifest: Manifest;
  try {
    manifest = JSON.parse(text);
  } catch (error) {
    throw new Error(`manifest.json is truncated or no JSON (${(error as Error).message}): export again`);
  }
  if (manifest?.format !== FORMAT) {
    throw new Error(`the manifest states the format ${JSON.stringify(manifest?.format)}, and "${FORMAT}" was expected: export with \`tinygpt export --format web\``);
  }
  if (manifest.version !== VERSION) {
    throw new Error(`the manifest has version ${manifest.version}, and this runner reads version ${VERSION}: use the runner in the folder of the export`);
  }
  return manifest;
}
