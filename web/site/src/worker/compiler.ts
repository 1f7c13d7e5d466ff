// The compiler's module, fetched and instantiated in a worker.

import { Compiler } from '../../../compiler/compiler.js';

export async function loadCompiler(): Promise<Compiler> {
  const url = new URL('../../../dist/tinygpt_web.wasm', import.meta.url);
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url.pathname} answers ${response.status}: serve the whole folder of the site`);
  return Compiler.load(await response.arrayBuffer());
}
