// The built compiler, for the tests of this folder.
import { existsSync, readFileSync } from 'node:fs';
import { Compiler } from '../compiler/compiler.js';

const MODULE = new URL('../dist/tinygpt_web.wasm', import.meta.url);

/** Why there is no compiler here; undefined if there is. */
export function whyNoCompiler() {
  return existsSync(MODULE) ? undefined : 'there is no web/dist/tinygpt_web.wasm: run `cargo xtask web`';
}

export function loadCompiler() {
  return Compiler.load(readFileSync(MODULE));
}
