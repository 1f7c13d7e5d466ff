// The origin's private file system as a `Folder`, by synchronous access handles, which workers have.

import type { Folder } from './store.js';

/** What the DOM's types know of workers only. */
interface SyncHandle {
  truncate(size: number): void;
  write(bytes: Uint8Array, options: { at: number }): number;
  flush(): void;
  close(): void;
}

const FOLDER = 'tinygpt';

/** Why nothing can be kept in this browser; undefined if something can. */
export async function whyNoStorage(): Promise<string | undefined> {
  if (typeof navigator !== 'object' || navigator.storage?.getDirectory === undefined) {
    return 'this browser keeps no files for pages, or not for this one: a refreshed tab begins anew';
  }
  const files = globalThis.FileSystemFileHandle as { prototype: object } | undefined;
  if (files === undefined || !('createSyncAccessHandle' in files.prototype)) {
    return 'this browser lets no worker write files for its page: a refreshed tab begins anew';
  }
  try {
    await navigator.storage.getDirectory();
    return undefined;
  } catch (error) {
    return `this browser keeps no files for this page (${(error as Error).message}): a refreshed tab begins anew`;
  }
}

/** The folder of this origin. */
export async function openFolder(): Promise<Folder> {
  const root = await navigator.storage.getDirectory();
  const folder = await root.getDirectoryHandle(FOLDER, { create: true });
  const missing = (error: unknown) => error instanceof DOMException && error.name === 'NotFoundError';
  return {
    async list() {
      const names: string[] = [];
      for await (const name of (folder as unknown as { keys(): AsyncIterable<string> }).keys()) names.push(name);
      return names;
    },
    async read(name) {
      try {
        const file = await (await folder.getFileHandle(name)).getFile();
        return new Uint8Array(await file.arrayBuffer());
      } catch (error) {
        if (missing(error)) return undefined;
        throw error;
      }
    },
    async write(name, parts) {
      const file = await folder.getFileHandle(name, { create: true });
      const handle = await (file as unknown as { createSyncAccessHandle(): Promise<SyncHandle> }).createSyncAccessHandle();
      try {
        handle.truncate(0);
        let at = 0;
        for (const part of parts) {
          const written = handle.write(part, { at });
          if (written !== part.length) throw new Error(`the browser took ${written} of ${part.length} bytes: there may be no room left`);
          at += written;
        }
        handle.flush();
      } finally {
        handle.close();
      }
    },
    async remove(name) {
      try {
        await folder.removeEntry(name);
      } catch (error) {
        if (!missing(error)) throw error;
      }
    },
  };
}
