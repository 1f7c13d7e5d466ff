// The training worker: requests of protocol.ts to a session.

import { cores } from '../../../runner/src/engine.js';
import { probe as features, whyNothing, whyOneThread } from '../../../runner/src/features.js';
import { reportOf, requestAdapter } from '../../../runner/src/gpu.js';
import type { Capabilities, TrainerRequestName, TrainerRequests } from '../protocol.js';
import { loadCompiler } from './compiler.js';
import { Engines } from './engines.js';
import { Keeper } from './keeper.js';
import { openFolder, whyNoStorage } from './opfs.js';
import { answerer } from './requests.js';
import { say, serve } from './serve.js';
import { Session } from './session.js';
import type { Host } from './session.js';

/** Lets messages in: a timer would wait four milliseconds. */
const breathing = new MessageChannel();
const breathers: (() => void)[] = [];
breathing.port1.onmessage = () => breathers.shift()?.();

const tab = new Keeper();

const host: Host = {
  emit: (name, event) => say({ type: 'event', name, event }),
  folder: async () => {
    const why = await whyNoStorage();
    if (why !== undefined) throw new Error(why);
    return openFolder();
  },
  lock: () => tab.lock(),
  breathe: () =>
    new Promise((resolve) => {
      breathers.push(resolve);
      breathing.port2.postMessage(null);
    }),
};

async function capabilities(): Promise<Capabilities> {
  const found = features();
  const [one, nothing, why] = [whyOneThread(found, false), whyNothing(found), await whyNoStorage()];
  const webgpu = await requestAdapter().then(
    (adapter) => ({ available: true, adapter: reportOf(adapter) }),
    (error: Error) => ({ available: false, why: error.message }),
  );
  return {
    webgpu,
    wasm: {
      available: nothing === undefined,
      ...(nothing === undefined ? {} : { why: nothing }),
      simd: found.simd,
      relaxed: found.relaxed,
      threads: found.threads,
      isolated: found.isolated,
      maxThreads: one === undefined ? await cores() : 1,
      ...(one === undefined ? {} : { whyOneThread: one }),
    },
    storage: { available: why === undefined, ...(why === undefined ? {} : { why }) },
  };
}

const answers = loadCompiler().then((compiler) => answerer(new Session(new Engines(compiler), host), host, capabilities));
// A failure to load is said in answer to each request.
answers.catch(() => undefined);

serve(async ({ id, name, args }) => {
  const answer = await answers;
  const result = await answer(name as TrainerRequestName, args as TrainerRequests[TrainerRequestName]['args'], (value) => say({ type: 'partial', id, value }));
  return { result, transfer: buffersOf(result) };
});

/** The buffers of byte arrays in a result, which move to the page. */
function buffersOf(result: unknown): Transferable[] {
  const found = new Set<Transferable>();
  const visit = (value: unknown) => {
    if (ArrayBuffer.isView(value)) found.add(value.buffer as ArrayBuffer);
    else if (Array.isArray(value)) value.forEach(visit);
    else if (typeof value === 'object' && value !== null) Object.values(value).forEach(visit);
  };
  visit(result);
  return [...found];
}
