// A configuration that nothing was built ahead for, compiled and trained in one process:  node train.mjs tinygpt_web.wasm
// Prints one JSON object: the loss of each step, and 20 bytes that follow a prompt.
import { readFileSync } from 'node:fs';
import { Compiler } from '../../compiler.js';
import { Runner } from '../../../runner/dist/index.js';

const compiler = await Compiler.load(readFileSync(process.argv[2]));
const config = { preset: 'tiny', model: { layers: 1, ctx: 24, d_model: 36 }, train: { steps: 60 } };
const { result: manifest, blobs } = compiler.request({ request: 'compile', config });
const files = new Map([...blobs, ...compiler.request({ request: 'init', config }).blobs]);
const text = compiler.request({ request: 'corpus' }).blobs.get('corpus.txt');

const runner = await Runner.create(manifest, async (name) => files.get(name), { threads: 1 });
runner.setData(text);
const losses = Array.from({ length: 60 }, () => runner.trainStep().loss);
const sample = new TextDecoder().decode(runner.sample({ prompt: 'Once', tokens: 20 }));
await runner.close();
console.log(JSON.stringify({ losses, sample }));
