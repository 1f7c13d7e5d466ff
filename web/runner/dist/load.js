// Where the files of an export come from.
import { isNode } from './engine.js';
/** A loader of the export at `location`: a URL, or in Node also the path of a folder. */
export async function loaderOf(location) {
    if (isNode && !/^[a-z]+:\/\//i.test(String(location))) {
        const [{ readFile }, { join }] = await Promise.all([import('node:fs/promises'), import('node:path')]);
        return async (file) => new Uint8Array(await readFile(join(String(location), file)));
    }
    const base = new URL(`${String(location).replace(/\/*$/, '')}/`, isNode ? undefined : globalThis.location.href);
    return async (file) => {
        const response = await fetch(new URL(file, base));
        if (!response.ok)
            throw new Error(`${response.url} answers ${response.status}: serve the whole folder of the export`);
        return new Uint8Array(await response.arrayBuffer());
    };
}
