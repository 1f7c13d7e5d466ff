// WebGPU beside WebAssembly SIMD in this Node: the playground's own benchmark, on Dawn (the npm package `webgpu`) and V8.
//
//   node bench-gpu.mjs [--preset small,medium,large,xl] [--threads N] [--steps N] [--warm N] [--notes TEXT]
//   node bench-gpu.mjs --compile DIR
//
// Prints the benchmark's block for each preset. Dawn runs as a browser runs it, with its robustness checks on. A software adapter is not
// measured: the block says so. Needs web/dist/tinygpt_web.wasm (`cargo xtask web`), and
//
//   NODE_WEBGPU   the folder of the package `webgpu` [codegen-wgsl/tint/node_modules/webgpu]
//   TINYGPT_SITE  the playground's workers as JavaScript: the DIR of an earlier `--compile`; without it they are compiled by web/node_modules
//   VK_DRIVER_FILES and the like, for the Vulkan loader
//
// Exit status: 0 done, 1 something is missing or failed, 2 usage.
import { createRequire } from 'node:module';
import { availableParallelism, cpus } from 'node:os';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { loadCompiler, whyNoCompiler } from './test/compiler.mjs';
import { compiledSite, compileSite, whyNoTypeScript } from './test/site.mjs';

const USAGE = 'usage: node bench-gpu.mjs [--preset P[,P..]] [--threads N] [--steps N] [--warm N] [--notes TEXT] | --compile DIR';

function flags() {
  try {
    const { values } = parseArgs({
      options: {
        preset: { type: 'string', default: 'small,medium,large,xl' },
        threads: { type: 'string', default: String(availableParallelism()) },
        steps: { type: 'string', default: '150' },
        warm: { type: 'string', default: '50' },
        notes: { type: 'string', default: '' },
        compile: { type: 'string' },
      },
    });
    const [threads, read, warm] = [values.threads, values.steps, values.warm].map(Number);
    if (![threads, read, warm].every((n) => Number.isInteger(n) && n >= 1)) throw new Error('--threads, --steps and --warm are whole numbers of 1 or more');
    return { ...values, threads, count: { warm, read } };
  } catch (error) {
    console.error(`${error.message}\n${USAGE}`);
    process.exit(2);
  }
}

/** The `navigator.gpu` of Dawn. */
function dawn() {
  const folder = process.env.NODE_WEBGPU ?? fileURLToPath(new URL('../codegen-wgsl/tint/node_modules/webgpu', import.meta.url));
  const require = createRequire(import.meta.url);
  const { version } = require(`${folder}/package.json`);
  // Dawn's objects do not keep it alive.
  globalThis.dawnInstance = require(folder).create(['backend=vulkan']);
  return { source: globalThis.dawnInstance, version };
}

async function main() {
  const { preset, threads, count, notes, compile } = flags();
  const why = process.env.TINYGPT_SITE === undefined || compile !== undefined ? whyNoTypeScript() : undefined;
  if (why !== undefined) throw new Error(why);
  if (compile !== undefined) {
    compileSite(compile);
    return;
  }
  const missing = whyNoCompiler();
  if (missing !== undefined) throw new Error(missing);
  const load = process.env.TINYGPT_SITE === undefined ? compileSite() : compiledSite(process.env.TINYGPT_SITE);
  const [{ benchmark }, { Engines }] = await Promise.all(['measure', 'engines'].map((name) => load(`worker/${name}`)));
  const { source, version } = dawn();
  // What the block says of the machine and of the engine.
  const { node, v8 } = process.versions;
  const userAgent = `${process.platform} ${process.arch} / Node ${node}, V8 ${v8}, Dawn of webgpu ${version}`;
  Object.defineProperty(globalThis, 'navigator', { value: { hardwareConcurrency: availableParallelism(), userAgent }, configurable: true });
  const engines = new Engines(await loadCompiler(), source);
  const watch = { measuring: () => undefined, breathe: async () => undefined, check: () => undefined };
  const said = [cpus()[0]?.model, notes].filter((part) => part !== undefined && part !== '').join('; ');
  for (const name of preset.split(',')) {
    const { block } = await benchmark(engines, { config: { preset: name }, threads, notes: said }, watch, count);
    console.log(`${block}\n`);
  }
}

// A process with a device of Dawn does not end by itself.
main().then(
  () => process.exit(0),
  (error) => {
    console.error(`bench-gpu: ${error.message}`);
    process.exit(1);
  },
);
