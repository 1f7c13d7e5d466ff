// What the page and its workers say to each other: the one place where these messages are described.
//
// The page uses `Trainer` and `CompilerClient` of client.ts, which speak this protocol for it.
//
// Invariants:
// - Every request carries an `id` and gets exactly one `answer` or `refusal` with it; `partial` messages may come before.
// - Events belong to no request. They come in the order in which things happened.
// - Everything is structured-cloneable; large byte arrays of the worker are transferred.

/** What runs the training steps. */
export type Backend = 'webgpu' | 'wasm';

/** A configuration as the compiler takes it: what it leaves out comes from the preset. */
export interface Config {
  preset?: string;
  /** The model in text form, instead of a GPT described by `model`. */
  graph?: string;
  model?: Record<string, unknown>;
  train?: Record<string, unknown>;
  data?: Record<string, unknown>;
}

/** Names of the toy tasks of tasks.ts. */
export type TaskName = 'copy' | 'reverse' | 'sort' | 'addition';

/** Where the text comes from. */
export type DataSource =
  | { kind: 'builtin' }
  /** `name` is for people: the file's name, or "pasted text". */
  | { kind: 'text'; name: string; bytes: Uint8Array }
  | { kind: 'task'; task: TaskName; seed?: number };

/** The files of a native checkpoint. */
export interface CheckpointFiles {
  model: Uint8Array;
  optim?: Uint8Array;
  state?: Uint8Array;
}

export interface OpenOptions {
  config: Config;
  backend: Backend;
  /** Threads of the backend wasm. Default: one a core where threads work, else 1. */
  threads?: number;
  /** Fused multiply-add by relaxed SIMD, backend wasm. Default: where the engine has it. */
  relaxed?: boolean;
  /** Default: the builtin corpus; with `resume: 'opfs'`, the stored run's text. */
  data?: DataSource;
  /** A separate validation text. Default: the last tenth of the data. */
  validation?: Uint8Array;
  /** Go on from the run that this browser keeps (its configuration and text then come from there), or from a checkpoint's files. */
  resume?: 'opfs' | CheckpointFiles;
  /** Steps between samples of the text; 0 for none. Default: at validations, at most one in three seconds. */
  sampleEvery?: number;
  /** Steps between checkpoints kept in the browser; 0 for those of pauses only. Default: every fifteen seconds, and at the configuration's `save_every`, five seconds apart. */
  keepEvery?: number;
  /** Keep nothing in the browser. Default: false. */
  ephemeral?: boolean;
}

/** Software or hardware, and what it is called. */
export interface AdapterReport {
  /** For people: vendor, architecture and description as far as the browser tells them. */
  name: string;
  vendor: string;
  architecture: string;
  device: string;
  description: string;
  /** A program that imitates a GPU on the processor: no speed of it is a GPU's. */
  software: boolean;
  /** In plain words, if `software`. */
  softwareNote?: string;
  features: string[];
  limits: Record<string, number>;
  /** What the compiler is told of it, once there is a device. */
  caps?: object;
}

/** What this browser and machine can run, and the sentence for each thing that they cannot. */
export interface Capabilities {
  webgpu: { available: boolean; why?: string; adapter?: AdapterReport };
  wasm: {
    available: boolean;
    why?: string;
    simd: boolean;
    relaxed: boolean;
    threads: boolean;
    isolated: boolean;
    /** Most threads that make sense: the number of cores, or 1 where threads do not work. */
    maxThreads: number;
    /** Why only one thread, if so. */
    whyOneThread?: string;
  };
  /** Whether runs can be kept in this browser; the sentence if not. */
  storage: { available: boolean; why?: string };
}

export interface Opened {
  backend: Backend;
  params: number;
  /** The complete configuration, as `resolve` gives it. */
  config: ResolvedConfig;
  /** What was done without, one sentence each. */
  notices: string[];
  /** Milliseconds until the first step could run: compiling the model, its modules and pipelines. */
  compileMs: number;
  /** Backend webgpu. */
  adapter?: AdapterReport;
  /** Backend wasm. */
  threads?: number;
  relaxed?: boolean;
  /** Bytes that the backend has allocated. */
  memoryBytes: number;
  /** Steps done already, of a run that goes on. */
  restoredStep?: number;
  /** Where the text came from, and its size in bytes. */
  data: { kind: DataSource['kind']; name: string; trainBytes: number; validationBytes: number };
}

/** The keys of a complete configuration that the page reads; there are more. */
export interface ResolvedConfig {
  preset: string;
  graph?: string;
  model: { vocab: number; ctx: number; layers: number; heads: number; d_model: number; d_mlp: number; gelu: string };
  train: {
    batch: number;
    steps: number;
    lr: number;
    schedule: 'constant' | 'cosine';
    warmup: number;
    seed: number;
    eval_every: number;
    eval_batches: number;
    save_every: number;
    sample_bytes: number;
    [key: string]: unknown;
  };
  data: Record<string, unknown>;
}

export type State = 'idle' | 'compiling' | 'running' | 'paused' | 'stopped' | 'finished' | 'failed';

export interface Progress {
  /** Steps done. */
  step: number;
  /** Planned total. */
  steps: number;
  /** Losses of the steps since the last progress, oldest first: those of `step - loss.length + 1` to `step`. Nats a byte. */
  loss: number[];
  /** Global gradient norms of the same steps, before clipping; one that is not finite changed nothing. */
  gradNorm: number[];
  /** Rate of step `step`. */
  lr: number;
  /** Of the recent steps. */
  msPerStep: number;
  /** Steady state: over the steps after the 50th of this opening; absent until there are some. */
  tokensPerS?: number;
  /** Seconds until the planned end, by the recent speed. */
  etaS: number;
  state: State;
}

export interface Validated {
  step: number;
  /** Mean loss of the fixed validation batches, nats a byte. */
  loss: number;
  bitsPerByte: number;
  perplexity: number;
  /** Of a toy task: the share of held-out examples answered exactly, and some of them. */
  accuracy?: number;
  examples?: TaskAnswer[];
}

/** One held-out example of a toy task. */
export interface TaskAnswer {
  prompt: string;
  expected: string;
  found: string;
}

export interface Failure {
  /** What happened. */
  sentence: string;
  /** What to do about it. */
  advice: string;
  kind: 'nan' | 'device-lost' | 'memory' | 'other';
}

/** What the worker says of itself. */
export interface TrainerEvents {
  state: State;
  progress: Progress;
  validated: Validated;
  sampled: { step: number; text: string };
  saved: { step: number };
  failed: Failure;
  /** Something that the user should know and that stops nothing. */
  notice: string;
  /** Steps of a probe or benchmark that runs. */
  measuring: { what: 'probe' | 'benchmark' | 'profile'; backend: Backend; step: number; of: number };
}

export interface SampleOptions {
  /** Default: a newline. */
  prompt?: string;
  /** Bytes to add. Default: 200. */
  tokens?: number;
  /** 0 takes the likeliest byte always. Default: 0.8. */
  temperature?: number;
  topK?: number;
  seed?: number;
}

export interface Sample {
  step: number;
  /** What was added; bytes that are no UTF-8 show as U+FFFD. */
  text: string;
  bytes: Uint8Array;
}

export interface Probabilities {
  step: number;
  /** Probability of each next byte, by byte. */
  probabilities: Float32Array;
}

export interface Attention {
  step: number;
  /** The prompt's bytes: the first ctx of them. */
  tokens: Uint8Array;
  layers: number;
  heads: number;
  ctx: number;
  /** [layers, heads, ctx, ctx], row-major: the weight of key `k` for query `q`. Only the first `tokens.length` rows and columns mean something. */
  weights: Float32Array;
}

export interface GradCheck {
  backend: Backend;
  coordinates: {
    weight: string;
    index: number;
    /** Central difference of the loss in f64, by the interpreter. */
    difference: number;
    /** What the compiled program says. */
    gradient: number;
    /** |difference - gradient| / max(|difference|, |gradient|, floor). */
    error: number;
  }[];
  worst: number;
  tolerance: number;
  passed: boolean;
}

export interface Probe {
  backend: Backend;
  /** Steps that were timed. */
  steps: number;
  msPerStep: number;
  tokensPerS: number;
  compileMs: number;
  memoryBytes: number;
  /** Seconds of the whole planned run at that speed. */
  totalS: number;
}

export interface BenchmarkLane {
  backend: Backend;
  msPerStep: number;
  tokensPerS: number;
  steps: number;
  compileMs: number;
}

export interface Benchmark {
  lanes: BenchmarkLane[];
  /** The block of nine fields. */
  block: string;
  /** False where a software adapter is all there is: `block` then says so, and nothing is offered for sharing. */
  shareable: boolean;
}

export interface KernelTime {
  kernel: string;
  /** Of one step. */
  seconds: number;
  /** Of the step's kernels together, 0 to 1. */
  share: number;
  launches: number;
}

export interface Profile {
  backend: Backend;
  /** How it was measured: the GPU's clock, repeated launches by the host's clock, or the module's own clock calls. */
  method: 'timestamps' | 'repeats' | 'clocks';
  /** Milliseconds of an ordinary step, measured beside. */
  stepMs: number;
  kernels: KernelTime[];
}

export interface StoredRun {
  step: number;
  steps: number;
  /** Milliseconds since 1970. */
  savedAt: number;
  config: ResolvedConfig;
  backend: Backend;
  data: { kind: DataSource['kind']; name: string; bytes: number; digest: string };
}

export type ExportFormat = 'safetensors' | 'tinygpt' | 'hf-gpt2' | 'checkpoint';

export interface ExportedFile {
  name: string;
  bytes: Uint8Array;
}

/** Requests to the training worker: arguments and results, by name. */
export interface TrainerRequests {
  capabilities: { args: Record<string, never>; result: Capabilities };
  /** The run that this browser keeps; null if there is none. */
  stored: { args: Record<string, never>; result: StoredRun | null };
  /** Forgets it. */
  discard: { args: Record<string, never>; result: null };
  open: { args: OpenOptions; result: Opened };
  start: { args: Record<string, never>; result: null };
  /** Answers once the state is kept. */
  pause: { args: Record<string, never>; result: { step: number } };
  /** One step of a run that is not running. */
  step: { args: Record<string, never>; result: { step: number; loss: number; gradNorm: number; lr: number } };
  /** Ends the run: the state stays and is kept. */
  stop: { args: Record<string, never>; result: { step: number } };
  /** Goes on after a stop or the planned end, which moves by `more` steps (default: as many as were planned). */
  continue: { args: { more?: number }; result: { steps: number } };
  /** Back to step 0 with the seed's weights. */
  reset: { args: Record<string, never>; result: null };
  save: { args: Record<string, never>; result: { step: number } };
  /** `partial` messages carry the text so far. */
  sample: { args: SampleOptions; result: Sample };
  probabilities: { args: { prompt: string }; result: Probabilities };
  attention: { args: { prompt: string }; result: Attention };
  gradcheck: { args: { count?: number; seed?: number }; result: GradCheck };
  /** Opens nothing: times some steps of a configuration beside what is open, and closes again. Not while running. */
  probe: { args: { config: Config; backend: Backend; threads?: number; relaxed?: boolean }; result: Probe };
  /** With `fusion` false: of the same model's program with one kernel a node, made and measured beside what is open. */
  profile: { args: { repeats?: number; fusion?: boolean }; result: Profile };
  benchmark: { args: { config: Config; threads?: number; relaxed?: boolean; notes?: string }; result: Benchmark };
  export: { args: { format: ExportFormat }; result: { files: ExportedFile[] } };
  /** Opens the model of a file (safetensors, .tinygpt), at the steps that it states, with the options given; `heads` of one that does not state them. */
  import: { args: { name: string; bytes: Uint8Array; heads?: number; open: Omit<OpenOptions, 'config' | 'resume'> }; result: Opened };
  close: { args: Record<string, never>; result: null };
}

export type TrainerRequestName = keyof TrainerRequests;

/** To a worker. */
export interface Request {
  id: number;
  name: string;
  args: unknown;
}

/** Why a request was not met: one sentence, and where in a graph's text, if it is about that. */
export interface Refusal {
  sentence: string;
  line?: number;
  column?: number;
}

/** From a worker. */
export type FromWorker =
  | { type: 'answer'; id: number; result: unknown }
  | { type: 'refusal'; id: number; error: Refusal }
  | { type: 'partial'; id: number; value: unknown }
  | { type: 'event'; name: keyof TrainerEvents; event: TrainerEvents[keyof TrainerEvents] };

/** A request to the compiler: the object of web/compiler/src/lib.rs, and the blobs that go with it. */
export interface CompilerArgs {
  request: Record<string, unknown>;
  blobs?: [name: string, bytes: Uint8Array][];
}

export interface CompilerAnswer {
  // The compiler's results are described where they are made: web/compiler/src/lib.rs.
  result: any;
  blobs: Map<string, Uint8Array<ArrayBuffer>>;
}
