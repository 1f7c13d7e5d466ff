// What the user has chosen: preset, changed keys, text, backend. It becomes the compiler's configuration, and the part of the address after #.
//
// Invariant: a setup holds only what differs from its preset, so that its address is short and a preset may improve under it.

import type { Backend, Config, DataSource, ResolvedConfig, TaskName } from '../protocol.js';

export type Value = string | number | boolean | number[];
export type Section = 'model' | 'train';

/** One key of the configuration, as the compiler's `keys` describes it. */
export interface Key {
  section: Section;
  key: string;
  type: 'integer' | 'number' | 'pair' | 'flag' | 'text' | 'choice';
  choices?: string[];
  /** Of the command line alone. */
  native: boolean;
  /** One sentence, in Markdown. */
  help: string;
}

export interface Setup {
  preset: string;
  changed: Record<string, Value>;
  /** The model in text form, instead of the keys of `[model]`. */
  graph?: string;
  backend?: Backend;
  threads?: number;
  relaxed?: boolean;
  data: DataSource;
  /** A text of its own to validate on; else the last tenth of the data. */
  validation?: { name: string; bytes: Uint8Array };
}

const TASKS: TaskName[] = ['copy', 'reverse', 'sort', 'addition'];

/** The compiler's configuration of a setup. */
export function configOf(setup: Setup, keys: Key[]): Config {
  const section = (name: Section) => Object.fromEntries(keys.filter((key) => key.section === name && key.key in setup.changed).map(({ key }) => [key, setup.changed[key]]));
  const { preset, graph } = setup;
  return { preset, ...(graph === undefined ? { model: section('model') } : { graph }), train: section('train') };
}

/** The setup that gives `config`, with the rest as in `rest`. */
export function setupOf(config: ResolvedConfig, presets: ResolvedConfig[], keys: Key[], rest: Omit<Setup, 'preset' | 'changed' | 'graph'>): Setup {
  const preset = presets.find((each) => each.preset === config.preset);
  const differs = ({ section, key }: Key) => {
    const [mine, theirs] = [config[section] as Record<string, unknown> | undefined, preset?.[section] as Record<string, unknown> | undefined];
    return mine?.[key] !== undefined && JSON.stringify(mine[key]) !== JSON.stringify(theirs?.[key]);
  };
  const changed = Object.fromEntries(keys.filter(differs).map(({ section, key }) => [key, (config[section] as Record<string, Value>)[key] as Value]));
  const graph = config.graph === undefined ? {} : { graph: config.graph };
  return { ...rest, preset: config.preset, changed, ...graph };
}

/** A value as its field or the address spells it; undefined where the spelling is none of the key's type. */
export function parseValue({ type, choices }: Key, text: string): Value | undefined {
  const numbers = text.split(',').map((part) => (part.trim() === '' ? NaN : Number(part)));
  switch (type) {
    case 'flag':
      return text === 'true' ? true : text === 'false' ? false : undefined;
    case 'choice':
      return choices?.includes(text) ? text : undefined;
    case 'text':
      return text;
    case 'pair':
      return numbers.every(Number.isFinite) ? numbers : undefined;
    default:
      return numbers.length === 1 && Number.isFinite(numbers[0]) ? numbers[0] : undefined;
  }
}

export const spell = (value: Value): string => (Array.isArray(value) ? value.join(', ') : String(value));

/** The part of the address after #, without it. A text that was pasted or dropped is not in it. */
export async function toHash(setup: Setup, defaultPreset: string, tab: string): Promise<string> {
  const parts = new URLSearchParams();
  if (tab !== 'train') parts.set('tab', tab);
  if (setup.preset !== defaultPreset) parts.set('preset', setup.preset);
  for (const [key, value] of Object.entries(setup.changed)) parts.set(key, spell(value).replaceAll(' ', ''));
  if (setup.backend !== undefined) parts.set('backend', setup.backend);
  if (setup.threads !== undefined) parts.set('threads', String(setup.threads));
  if (setup.relaxed !== undefined) parts.set('relaxed', String(setup.relaxed));
  if (setup.data.kind === 'task') parts.set('data', setup.data.task);
  if (setup.graph !== undefined) parts.set('graph', await pack(setup.graph));
  return parts.toString();
}

/** Reads an address; what it does not understand it leaves out and names in `unknown`. */
export async function fromHash(hash: string, defaultPreset: string, presets: string[], keys: Key[]): Promise<{ setup: Setup; tab: string | undefined; unknown: string[] }> {
  const setup: Setup = { preset: defaultPreset, changed: {}, data: { kind: 'builtin' } };
  const unknown: string[] = [];
  let tab: string | undefined;
  for (const [name, text] of new URLSearchParams(hash.replace(/^#/, ''))) {
    const key = keys.find((each) => each.key === name);
    const value = key && parseValue(key, text);
    if (name === 'tab') tab = text;
    else if (name === 'preset' && presets.includes(text)) setup.preset = text;
    else if (name === 'backend' && (text === 'webgpu' || text === 'wasm')) setup.backend = text;
    else if (name === 'threads' && /^[1-9]\d*$/.test(text)) setup.threads = Number(text);
    else if (name === 'relaxed' && (text === 'true' || text === 'false')) setup.relaxed = text === 'true';
    else if (name === 'data' && TASKS.some((task) => task === text)) setup.data = { kind: 'task', task: text as TaskName };
    else if (name === 'graph') {
      const graph = await unpack(text).catch(() => undefined);
      if (graph === undefined) unknown.push(name);
      else setup.graph = graph;
    } else if (key !== undefined && value !== undefined) setup.changed[name] = value;
    else unknown.push(`${name}=${text}`);
  }
  return { setup, tab, unknown };
}

async function through(bytes: BlobPart, stream: CompressionStream | DecompressionStream): Promise<Uint8Array> {
  return new Uint8Array(await new Response(new Blob([bytes]).stream().pipeThrough(stream)).arrayBuffer());
}

/** A text, compressed, in the letters of an address. */
async function pack(text: string): Promise<string> {
  const packed = await through(text, new CompressionStream('deflate-raw'));
  let letters = '';
  for (let at = 0; at < packed.length; at += 4096) letters += String.fromCharCode(...packed.subarray(at, at + 4096));
  return btoa(letters).replaceAll('+', '-').replaceAll('/', '_').replace(/=+$/, '');
}

async function unpack(text: string): Promise<string> {
  const letters = atob(text.replaceAll('-', '+').replaceAll('_', '/'));
  return new TextDecoder().decode(await through(Uint8Array.from(letters, (letter) => letter.charCodeAt(0)), new DecompressionStream('deflate-raw')));
}
