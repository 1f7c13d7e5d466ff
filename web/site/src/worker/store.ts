// The run that this browser keeps: a checkpoint, its configuration and its text, so that a refreshed or crashed tab goes on to the step.
//
// Invariants:
// - There are two places for checkpoints, written in turn: while one is written, the other is whole. A tab that ends at any moment
//   therefore leaves the last checkpoint that was completed.
// - A place counts only if its digest fits all of its bytes; of two that do, the one of the higher number.
// - A text is written once, under its digest, before the first checkpoint that names it.
//
// A place holds a u32 length of the header, the header (JSON), the SHA-256 of header and files, and the files one after another.

import type { StateFiles } from '../../../runner/src/state.js';
import type { StoredRun } from '../protocol.js';

/** A flat folder of files. `write` may be cut off at any byte by the end of the process. */
export interface Folder {
  list(): Promise<string[]>;
  /** undefined if there is none of this name. */
  read(name: string): Promise<Uint8Array<ArrayBuffer> | undefined>;
  /** Replaces the file by these parts, one after another. */
  write(name: string, parts: Uint8Array[]): Promise<void>;
  remove(name: string): Promise<void>;
}

/** What is kept besides the files. */
export type Meta = Pick<StoredRun, 'step' | 'steps' | 'savedAt' | 'config' | 'backend' | 'data'> & {
  relaxed?: boolean;
  /** Where the text came from, as far as that can be made again. */
  source: { kind: 'builtin' } | { kind: 'text'; name: string } | { kind: 'task'; task: string; seed: number };
  /** Digest of a separate validation text. */
  validation?: string;
};

export interface Kept {
  meta: Meta;
  files: Required<StateFiles>;
}

interface Header {
  version: number;
  number: number;
  meta: Meta;
  sizes: [model: number, optim: number, state: number];
}

const VERSION = 1;
const PLACES = ['run-a', 'run-b'] as const;
const DIGEST = 32;

/** SHA-256 in hexadecimal. */
export async function digestOf(bytes: Uint8Array): Promise<string> {
  return hex(await sha([bytes]));
}

export class RunStore {
  readonly #folder: Folder;
  /** Number of the newest whole place, and which one it is; undefined before the first look. */
  #newest: { number: number; place: number } | undefined;
  /** What the places hold, once they were looked at. */
  #metas: (Meta | undefined)[] | undefined;
  /** Texts that are known to be whole, by digest. */
  readonly #texts = new Set<string>();

  constructor(folder: Folder) {
    this.#folder = folder;
  }

  /** Keeps a text; returns its digest. */
  async putText(text: Uint8Array): Promise<string> {
    const digest = await digestOf(text);
    if (this.#texts.has(digest)) return digest;
    if ((await this.text(digest)) === undefined) await this.#folder.write(`text-${digest}`, [text]);
    this.#texts.add(digest);
    return digest;
  }

  /** The text of this digest; undefined if it is not kept whole. */
  async text(digest: string): Promise<Uint8Array<ArrayBuffer> | undefined> {
    const bytes = await this.#folder.read(`text-${digest}`);
    return bytes !== undefined && (await digestOf(bytes)) === digest ? bytes : undefined;
  }

  /** Keeps a checkpoint. */
  async save({ meta, files }: Kept): Promise<void> {
    if (this.#metas === undefined) await this.#load();
    const newest = this.#newest ?? { number: 0, place: 1 };
    const place = 1 - newest.place;
    const parts = [files.model, files.optim, files.state] as Uint8Array[];
    const header: Header = {
      version: VERSION,
      number: newest.number + 1,
      meta,
      sizes: [files.model.length, files.optim?.length ?? 0, files.state?.length ?? 0],
    };
    const text = new TextEncoder().encode(JSON.stringify(header));
    const length = new Uint8Array(4);
    new DataView(length.buffer).setUint32(0, text.length, true);
    const digest = new Uint8Array(await sha([text, ...parts]));
    await this.#folder.write(PLACES[place] as string, [length, text, digest, ...parts]);
    this.#newest = { number: header.number, place };
    (this.#metas ??= [])[place] = meta;
    await this.#forgetTexts();
  }

  /** The newest checkpoint; null if there is none. */
  async load(): Promise<Kept | null> {
    return (await this.#load())?.kept ?? null;
  }

  /** Removes everything. */
  async clear(): Promise<void> {
    for (const name of await this.#folder.list()) await this.#folder.remove(name);
    [this.#newest, this.#metas] = [undefined, undefined];
    this.#texts.clear();
  }

  async #load(): Promise<{ kept: Kept; number: number } | undefined> {
    let newest: { kept: Kept; number: number; place: number } | undefined;
    const metas: (Meta | undefined)[] = [];
    for (const [place, name] of PLACES.entries()) {
      const read = await this.#read(name);
      metas.push(read?.kept.meta);
      if (read !== undefined && (newest === undefined || read.number > newest.number)) newest = { ...read, place };
    }
    this.#metas = metas;
    this.#newest = newest && { number: newest.number, place: newest.place };
    return newest;
  }

  /** What a place holds; undefined if it is empty, cut off or of another version. */
  async #read(name: string): Promise<{ kept: Kept; number: number } | undefined> {
    const bytes = await this.#folder.read(name);
    if (bytes === undefined || bytes.length < 4) return undefined;
    const end = 4 + new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true);
    if (bytes.length < end + DIGEST) return undefined;
    const [text, digest, rest] = [bytes.subarray(4, end), bytes.subarray(end, end + DIGEST), bytes.subarray(end + DIGEST)];
    if (hex(await sha([text, rest])) !== hex(digest.slice().buffer)) return undefined;
    const header: Header = JSON.parse(new TextDecoder().decode(text));
    if (header.version !== VERSION) return undefined;
    const [model, optim, state] = header.sizes;
    const files = { model: rest.slice(0, model), optim: rest.slice(model, model + optim), state: rest.slice(model + optim, model + optim + state) };
    return { kept: { meta: header.meta, files }, number: header.number };
  }

  /** Removes texts that neither place names. */
  async #forgetTexts(): Promise<void> {
    const digests = (this.#metas ?? []).flatMap((meta) => [meta?.data.digest, meta?.validation]);
    const named = new Set(digests.map((digest) => `text-${digest}`));
    for (const name of await this.#folder.list()) {
      if (name.startsWith('text-') && !named.has(name)) {
        this.#texts.delete(name.slice('text-'.length));
        await this.#folder.remove(name);
      }
    }
  }
}

async function sha(parts: Uint8Array[]): Promise<ArrayBuffer> {
  const all = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return crypto.subtle.digest('SHA-256', all);
}

function hex(bytes: ArrayBuffer): string {
  return Array.from(new Uint8Array(bytes), (byte) => byte.toString(16).padStart(2, '0')).join('');
}

