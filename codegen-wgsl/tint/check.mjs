// Compiles every .wgsl file of a folder with Tint, the compiler of Chromium's WebGPU, and prints what it refuses.
//
//   node check.mjs DIR
//
// Dawn's null backend needs no GPU: it validates and computes nothing. Exit status: 0 all accepted, 1 some refused, 2 usage.
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { create, globals } from 'webgpu';

Object.assign(globalThis, globals);

const [dir] = process.argv.slice(2);
if (!dir) {
  console.error('usage: node check.mjs DIR');
  process.exit(2);
}
// Kept in a variable: Dawn ends the process if its instance is collected while the adapter lives.
const gpu = create(['backend=null']);
const adapter = await gpu.requestAdapter();
const device = await adapter.requestDevice({
  requiredFeatures: ['shader-f16', 'subgroups'].filter((f) => adapter.features.has(f)),
});
device.addEventListener('uncapturederror', (event) => event.preventDefault());
const files = readdirSync(dir).filter((name) => name.endsWith('.wgsl')).sort();
let refused = 0;
for (const name of files) {
  device.pushErrorScope('validation');
  const module = device.createShaderModule({ code: readFileSync(join(dir, name), 'utf8') });
  const { messages } = await module.getCompilationInfo();
  await device.popErrorScope();
  const errors = messages.filter((m) => m.type === 'error');
  if (errors.length > 0) {
    refused += 1;
    for (const m of errors) console.log(`${name}:${m.lineNum}:${m.linePos}: ${m.message}`);
  }
}
console.log(`${files.length - refused} modules accepted, ${refused} refused`);
process.exit(refused > 0 || files.length === 0 ? 1 : 0);
