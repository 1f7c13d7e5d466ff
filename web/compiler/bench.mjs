// Times the compiler as a page has it, in Node:  node web/compiler/bench.mjs [tinygpt_web.wasm]
// Milliseconds of a request: the first, which the engine also compiles code for, and the median of nine.
import { readFileSync } from 'node:fs';
import { Compiler } from './compiler.js';

const bytes = readFileSync(process.argv[2] ?? new URL('../dist/tinygpt_web.wasm', import.meta.url));
const requests = {
  'module, threads': (preset) => ({ request: 'compile', config: { preset }, variants: [{ threads: true }] }),
  WGSL: (preset) => ({ request: 'wgsl', config: { preset } }),
};
console.log(`${'preset'.padEnd(10)}${'request'.padEnd(18)}${'first'.padStart(8)}${'median'.padStart(8)}`);
for (const preset of ['tiny', 'small', 'medium', 'large', 'xl']) {
  for (const [name, request] of Object.entries(requests)) {
    const compiler = await Compiler.load(bytes);
    const times = Array.from({ length: 10 }, () => {
      const start = performance.now();
      compiler.request(request(preset));
      return performance.now() - start;
    });
    const median = times.slice(1).sort((a, b) => a - b)[4];
    console.log(`${preset.padEnd(10)}${name.padEnd(18)}${times[0].toFixed(0).padStart(8)}${median.toFixed(0).padStart(8)}`);
  }
}
