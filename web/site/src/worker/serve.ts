// A worker's side of the protocol: requests in, one answer or refusal for each.

import type { FromWorker, Refusal, Request } from '../protocol.js';

/** What a worker's global scope has; the DOM's types know only a window's. */
interface Scope {
  postMessage(message: unknown, transfer: Transferable[]): void;
  onmessage: ((event: MessageEvent) => void) | null;
}

export interface Answer {
  result: unknown;
  transfer?: Transferable[];
}

/** Sends a message from this worker. */
export function say(message: FromWorker, transfer: Transferable[] = []): void {
  (globalThis as unknown as Scope).postMessage(message, transfer);
}

/** One sentence for people, whatever was thrown. */
export function refusalOf(error: unknown): Refusal {
  const sentence = error instanceof Error ? error.message : String(error);
  // Errors in a graph's text carry their place.
  const { line, column } = error as { line?: number; column?: number };
  return { sentence, ...(typeof line === 'number' ? { line } : {}), ...(typeof column === 'number' ? { column } : {}) };
}

/** Answers requests; `answer` may run for several at a time. */
export function serve(answer: (request: Request) => Promise<Answer>): void {
  (globalThis as unknown as Scope).onmessage = async ({ data }: MessageEvent<Request>) => {
    try {
      const { result, transfer } = await answer(data);
      say({ type: 'answer', id: data.id, result }, transfer ?? []);
    } catch (error) {
      say({ type: 'refusal', id: data.id, error: refusalOf(error) });
    }
  };
}
