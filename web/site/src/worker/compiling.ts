// The compiler's own worker: answers requests one after another, so that typing never waits for training.

import type { CompilerAnswer, CompilerArgs } from '../protocol.js';
import { loadCompiler } from './compiler.js';
import { serve } from './serve.js';

const loading: Promise<{ request(request: object, blobs?: Map<string, Uint8Array>): CompilerAnswer }> = loadCompiler();
// A failure to load is said in answer to each request.
loading.catch(() => undefined);

serve(async ({ args }) => {
  const { request, blobs } = args as CompilerArgs;
  const compiler = await loading;
  const answer = blobs === undefined ? compiler.request(request) : compiler.request(request, new Map(blobs));
  return { result: answer, transfer: [...answer.blobs.values()].map((bytes) => bytes.buffer) };
});
