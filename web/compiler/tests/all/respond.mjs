// Answers requests with the built compiler, in one process and in order:  node respond.mjs tinygpt_web.wasm < requests > responses
// One JSON request a line; responses follow one another, each beginning with its total length.
import { readFileSync, writeSync } from 'node:fs';
import { Compiler } from '../../compiler.js';

const compiler = await Compiler.load(readFileSync(process.argv[2]));
for (const line of readFileSync(0, 'utf8').split('\n').filter((line) => line !== '')) {
  const response = compiler.call(new TextEncoder().encode(line));
  // A pipe takes what it has room for.
  for (let at = 0; at < response.length; ) at += writeSync(1, response, at);
}
