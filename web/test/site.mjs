// The playground's workers in Node: their TypeScript compiled into a folder of its own, and a host that keeps runs in memory.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

const web = fileURLToPath(new URL('..', import.meta.url));
const tsc = join(web, 'node_modules/typescript/bin/tsc');

/** Why the workers cannot be compiled here; undefined if they can. */
export function whyNoTypeScript() {
  return existsSync(tsc) ? undefined : 'there is no TypeScript: run `npm ci` in web/';
}

/** Compiles the workers into a folder, by default one that ends with the process; returns a function that imports one of their modules, such as `worker/session`. */
export function compileSite(into = undefined) {
  const folder = into ?? mkdtempSync(join(tmpdir(), 'tinygpt-site-'));
  if (into === undefined) process.on('exit', () => rmSync(folder, { recursive: true, force: true }));
  const project = join(web, 'site/src/worker/tsconfig.json');
  const run = spawnSync(process.execPath, [tsc, '-p', project, '--noEmit', 'false', '--outDir', folder], { encoding: 'utf8' });
  if (run.status !== 0) throw new Error(`${run.stdout}${run.stderr}`.trim());
  return compiledSite(folder);
}

/** The same of a folder that `compileSite` has filled. */
export function compiledSite(folder) {
  return (module) => import(pathToFileURL(join(folder, 'site/src', `${module}.js`)).href);
}

/** A folder in memory. With `cut`, the next write ends after that many bytes, as a crash would end it. */
export class MemoryFolder {
  files = new Map();
  cut = undefined;

  async list() {
    return [...this.files.keys()];
  }

  async read(name) {
    return this.files.get(name)?.slice();
  }

  async write(name, parts) {
    const bytes = Uint8Array.from(parts.flatMap((part) => [...part]));
    this.files.set(name, this.cut === undefined ? bytes : bytes.slice(0, this.cut));
    if (this.cut !== undefined) throw new Error('the tab has crashed');
  }

  async remove(name) {
    this.files.delete(name);
  }
}

/** A host that notes what is said: `events` holds [name, event]. */
export function memoryHost(folder = new MemoryFolder()) {
  const events = [];
  const waiting = [];
  return {
    folderOf: folder,
    events,
    emit(name, event) {
      events.push([name, event]);
      for (const one of waiting.splice(0)) (one.when(name, event) ? one.resolve(event) : waiting.push(one));
    },
    /** The next event for which `when(name, event)` is true. */
    next: (when) => new Promise((resolve) => waiting.push({ when, resolve })),
    of: (name) => events.filter(([of]) => of === name).map(([, event]) => event),
    folder: async () => folder,
    lock: async () => undefined,
    breathe: () => new Promise((resolve) => setImmediate(resolve)),
  };
}
