// A module with clocks beside one without, in one process:  node clocks.mjs tinygpt_web.wasm
// The clock counts its calls, so what each kernel took is the number of its rounds. Prints one JSON object: of each module the loss, and the kernels' names and seconds.
import { readFileSync } from 'node:fs';
import { Compiler } from '../../compiler.js';

const compiler = await Compiler.load(readFileSync(process.argv[2]));
const config = { preset: 'tiny', model: { layers: 1 } };
const weights = compiler.request({ request: 'init', config }).blobs.get('model.safetensors');
const header = JSON.parse(new TextDecoder().decode(weights.subarray(8, 8 + Number(new DataView(weights.buffer).getBigUint64(0, true)))));
const data = weights.subarray(8 + Number(new DataView(weights.buffer).getBigUint64(0, true)));

async function run(clocks, steps) {
  const request = { request: 'compile', config, variants: [{}], entries: ['train'], clocks };
  const { result, blobs } = compiler.request(request);
  const { fixed_bytes: fixed, thread_bytes: own, entries } = result.layout;
  const pages = Math.ceil((fixed + own) / 65536);
  const memory = new WebAssembly.Memory({ initial: pages, maximum: pages });
  let time = 0;
  const env = clocks ? { memory, clock: () => ++time } : { memory };
  const { instance } = await WebAssembly.instantiate(blobs.get('plain.wasm'), { env });
  const slot = (list, name) => entries[0][list].find((slot) => slot.name === name);
  for (const { name, kind, offset, bytes } of entries[0].params) {
    if (kind === 'state' && !name.startsWith('adam')) {
      const [from, to] = header[name].data_offsets;
      new Uint8Array(memory.buffer, offset, bytes).set(data.subarray(from, to));
    }
  }
  for (const [name, value] of [['lr', 0.01], ['step', 1]]) new Float32Array(memory.buffer, slot('params', name).offset, 1)[0] = value;
  new Int32Array(memory.buffer, slot('params', 'ids').offset, 512).forEach((_, i, ids) => (ids[i] = (i * 37) % 256));
  instance.exports.init(1, 0);
  const losses = [];
  for (let step = 0; step < steps; step++) {
    instance.exports.train();
    losses.push(new Float32Array(memory.buffer, slot('outputs', 'loss').offset, 1)[0]);
  }
  const { offset, kernels } = entries[0].clocks ?? {};
  const seconds = kernels && [...new Float64Array(memory.buffer, offset, kernels.length)];
  return { losses, kernels, seconds, calls: time };
}

console.log(JSON.stringify({ plain: await run(false, 2), clocked: await run(true, 2) }));
