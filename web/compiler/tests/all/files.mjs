// A checkpoint's files to a .tinygpt file and back, and the place of a mistake:  node files.mjs tinygpt_web.wasm < folder
// The folder holds the checkpoint and gets model.tinygpt. Prints one JSON object.
import { readFileSync, writeFileSync } from 'node:fs';
import { Compiler } from '../../compiler.js';

const compiler = await Compiler.load(readFileSync(process.argv[2]));
const folder = readFileSync(0, 'utf8').trim();
const files = ['model.safetensors', 'optim.safetensors', 'state.json'].map((name) => [name, new Uint8Array(readFileSync(`${folder}/${name}`))]);
const [[name, bytes]] = compiler.request({ request: 'encode', format: 'tinygpt' }, files).blobs;
writeFileSync(`${folder}/${name}`, bytes);
const { result, blobs } = compiler.request({ request: 'decode', name }, [[name, bytes]]);
if (!Buffer.from(blobs.get('model.safetensors')).equals(Buffer.from(files[0][1]))) throw new Error('the weights came back changed');
let refused;
try {
  compiler.request({ request: 'resolve', config: { graph: 'tinygpt-graph 1\ngrph g\n' } });
} catch ({ line, column }) {
  refused = { line, column };
}
console.log(JSON.stringify({ step: result.step, moments: result.moments, refused }));
