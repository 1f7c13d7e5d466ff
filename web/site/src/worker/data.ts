// The text that a session trains on, and what it is judged by.

import type { Trainable } from '../../../runner/src/trainable.js';
import type { DataSource, TaskAnswer } from '../protocol.js';
import { heldOut, LINE, taskText } from '../tasks.js';
import type { Example } from '../tasks.js';
import type { Engines } from './engines.js';
import { digestOf } from './store.js';
import type { Meta, RunStore } from './store.js';

/** Held-out problems that judge a toy task, and how many of them are shown. */
const PROBLEMS = 32;
const SHOWN = 4;

export interface Data {
  source: Meta['source'];
  name: string;
  text: Uint8Array;
  validation: Uint8Array | undefined;
  /** Windows start at multiples of this. */
  stride: number;
  digest: string;
  /** Of a toy task. */
  problems: Example[];
}

/** The text of a source. */
export async function loadData(source: DataSource, validation: Uint8Array | undefined, engines: Engines): Promise<Data> {
  const rest = { validation, stride: 1, problems: [] };
  switch (source.kind) {
    case 'builtin': {
      const text = engines.compiler.request({ request: 'corpus' }).blobs.get('corpus.txt') as Uint8Array;
      return { ...rest, source: { kind: 'builtin' }, name: 'builtin', text, digest: await digestOf(text) };
    }
    case 'text': {
      const { name, bytes: text } = source;
      return { ...rest, source: { kind: 'text', name }, name, text, digest: await digestOf(text) };
    }
    case 'task': {
      const { task, seed = 1 } = source;
      const text = taskText(task, seed);
      const problems = heldOut(task, seed, PROBLEMS);
      return { source: { kind: 'task', task, seed }, name: task, text, validation: undefined, stride: LINE, digest: await digestOf(text), problems };
    }
  }
}

/** The text of a kept run. */
export async function restoreData(meta: Meta, store: RunStore, engines: Engines): Promise<Data> {
  const { source } = meta;
  const lost = (what: string) => new Error(`the run that is kept here trained on ${what}, which is not there any more: export it or begin anew`);
  if (source.kind !== 'text') {
    const data = await loadData(source as DataSource, undefined, engines);
    if (data.digest !== meta.data.digest) throw lost(`another version of the text "${data.name}"`);
    return data;
  }
  const bytes = await store.text(meta.data.digest);
  const validation = meta.validation === undefined ? undefined : await store.text(meta.validation);
  if (bytes === undefined || (meta.validation !== undefined && validation === undefined)) throw lost(`the text "${source.name}"`);
  return loadData({ kind: 'text', name: source.name, bytes }, validation, engines);
}

/** The share of problems that the model answers exactly, and some answers. */
export async function judge(trainable: Trainable, problems: Example[]): Promise<{ accuracy: number; examples: TaskAnswer[] }> {
  const encode = (text: string) => new TextEncoder().encode(text);
  let right = 0;
  for (const { prompt, answer } of problems) {
    // Greedy sampling gives the answer if and only if each of its bytes is the likeliest after those before it.
    const text = encode(prompt + answer);
    const logits = await trainable.logits(text.subarray(0, -1));
    const vocab = logits.length / trainable.ctx;
    const exact = Array.from(encode(answer)).every((byte, at) => {
      const row = logits.subarray((prompt.length - 1 + at) * vocab, (prompt.length + at) * vocab);
      return row.indexOf(Math.max(...row)) === byte;
    });
    right += Number(exact);
  }
  const examples: TaskAnswer[] = [];
  for (const { prompt, answer } of problems.slice(0, SHOWN)) {
    const bytes: number[] = [];
    for await (const byte of trainable.generate({ prompt, tokens: answer.length, temperature: 0 })) bytes.push(byte);
    examples.push({ prompt, expected: answer, found: new TextDecoder().decode(Uint8Array.from(bytes)) });
  }
  return { accuracy: right / problems.length, examples };
}
