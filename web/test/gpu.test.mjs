// The WebGPU runner on Dawn and SwiftShader, judged by the WebAssembly runner: run by `node --test`.
//
// Needs web/dist/tinygpt_web.wasm (`cargo xtask web`), Chromium's SwiftShader and the package webgpu; says so and skips where one is
// missing, and fails instead with TINYGPT_REQUIRE_CHROMIUM=1.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { Gpu, GpuRunner, reportOf } from '../runner/dist/gpu.js';
import { Runner } from '../runner/dist/index.js';
import { loadCompiler, whyNoCompiler } from './compiler.mjs';
import { dawn, whyNoDawn } from './dawn.mjs';
import { compileSite, memoryHost, whyNoTypeScript } from './site.mjs';

const why = whyNoDawn() ?? whyNoCompiler() ?? whyNoTypeScript();
if (why !== undefined && process.env.TINYGPT_REQUIRE_CHROMIUM === '1') throw new Error(why);
const options = { skip: why };

// As small as a GPT goes, and of the shape that a gradient check has: SwiftShader compiles a kernel in a second, each but once.
const config = { preset: 'tiny', model: { layers: 1, ctx: 8, d_model: 8, heads: 2 }, train: { steps: 60, batch: 1, eval_batches: 3 } };
let source, gpu, compiler, resolved, init, text;

before(async () => {
  if (why !== undefined) return;
  compiler = await loadCompiler();
  source = dawn();
  gpu = await Gpu.open(source);
  resolved = compiler.request({ request: 'resolve', config }).result.config;
  init = compiler.request({ request: 'init', config }).blobs.get('model.safetensors');
  text = compiler.request({ request: 'corpus' }).blobs.get('corpus.txt');
});

after(() => gpu?.close());

const onGpu = async (model = init, changes = {}) => {
  const load = (entry) => compiler.request({ request: 'wgsl', config, entry, caps: gpu.caps }).result;
  const runner = await GpuRunner.create(gpu, { ...resolved, train: { ...resolved.train, ...changes } }, load, { model });
  runner.setData(text);
  return runner;
};

const onWasm = async () => {
  const { result: manifest, blobs } = compiler.request({ request: 'compile', config, variants: [{ relaxed: false, threads: false }] });
  const files = new Map([...blobs, ['model.safetensors', init]]);
  const runner = await Runner.create(manifest, async (name) => files.get(name), { threads: 1, relaxed: false });
  runner.setData(text);
  return runner;
};

const generated = async (runner, options) => {
  const bytes = [];
  for await (const byte of runner.generate(options)) bytes.push(byte);
  return bytes;
};

const near = (found, expected, what) => {
  assert.ok(Math.abs(found - expected) <= 1e-4 * Math.abs(expected), `${what}: ${found} on the GPU, ${expected} in WebAssembly`);
};

test('SwiftShader is called software, and its limits are what the compiler is told', options, () => {
  assert.equal(gpu.report.software, true);
  assert.match(gpu.report.softwareNote, /SwiftShader .* is no graphics card/);
  assert.equal(gpu.caps.max_binding_bytes, Math.min(gpu.device.limits.maxStorageBufferBindingSize, gpu.device.limits.maxBufferSize));
  assert.ok(gpu.caps.max_storage_buffers >= 10 && gpu.caps.workgroup_bytes >= 32768);
  const hardware = { info: { vendor: 'nvidia', architecture: 'ada', description: 'RTX 4090', device: '' }, features: new Set(), limits: gpu.device.limits };
  assert.equal(reportOf(hardware).software, false);
  for (const description of ['llvmpipe (LLVM 15.0.6)', 'Microsoft Basic Render Driver', 'WARP']) {
    assert.equal(reportOf({ ...hardware, info: { vendor: '', architecture: '', device: '', description } }).software, true, description);
  }
  assert.equal(reportOf({ ...hardware, info: {} }).name, 'an adapter that this browser does not name');
});

test('50 steps, validation and samples agree with WebAssembly, and a stored state goes on exactly', options, async () => {
  const [runner, wasm] = [await onGpu(), await onWasm()];
  const first = await runner.trainSteps(20);
  const stored = await runner.exportState();
  const bytes = runner.memoryBytes;
  // Groups under way at the same time keep their order.
  const rest = (await Promise.all([runner.trainSteps(7), runner.trainSteps(7), runner.trainSteps(16)])).flat();
  const steps = [...first, ...rest];
  assert.deepEqual(steps.map(({ step }) => step), Array.from({ length: 50 }, (_, at) => at + 1));
  for (const found of steps) {
    const expected = wasm.trainStep();
    near(found.loss, expected.loss, `loss of step ${found.step}`);
    near(found.gradNorm, expected.gradNorm, `gradient norm of step ${found.step}`);
    assert.equal(found.lr, expected.lr);
  }
  const mean = (from) => steps.slice(from, from + 10).reduce((sum, { loss }) => sum + loss / 10, 0);
  assert.ok(mean(40) < 0.9 * mean(0), `${mean(0)} to ${mean(40)}`);
  near(await runner.validate(), wasm.validate(), 'validation');
  // Within the context, and beyond it.
  const asked = { prompt: 'On', tokens: 14, temperature: 0 };
  assert.deepEqual(await generated(runner, asked), [...wasm.sample(asked)]);
  await wasm.close();

  const resumed = await onGpu();
  await resumed.importState(stored);
  assert.equal(resumed.step, 20);
  // One by one or in groups: the same bits.
  const again = [...(await resumed.trainSteps(1)), ...(await resumed.trainSteps(29))];
  assert.deepEqual(again, rest);
  assert.deepEqual((await resumed.exportState()).model, (await runner.exportState()).model);
  assert.ok(runner.memoryBytes - bytes < 1 << 20, 'nothing large is allocated after the first steps');
  await Promise.all([runner.close(), resumed.close()]);
});

test('foreign states and refused kernels are sentences', options, async () => {
  const runner = await onGpu();
  await assert.rejects(runner.importState({ model: init.subarray(0, 100) }), /model\.safetensors is truncated/);
  await assert.rejects(runner.engine.run('train', [{ ids: new Int32Array(3) }], []), /the input ids has 12 bytes, and 32 were expected/);
  await assert.rejects(runner.engine.run('train', [], ['nothing']), /has no input, state or output named nothing/);
  await runner.close();
  const broken = (change) => (entry) => {
    const list = compiler.request({ request: 'wgsl', config, entry, caps: gpu.caps }).result;
    change(list);
    return list;
  };
  const create = (change) => GpuRunner.create(gpu, resolved, broken(change), { model: init });
  await assert.rejects(create((list) => (list.version = 9)), /has format tinygpt-wgsl, version 9, and this runner reads/);
  await assert.rejects(create((list) => (list.modules[0].source += '}')), /refused the kernels of train: /);
  await assert.rejects(create((list) => (list.allocations[0].bytes = 2 ** 40)), /needs a buffer of 1048576 MiB .*, and this GPU has at most 1024/);
  // The device is none the worse for it.
  gpu.check();
});

test('a session trains on the GPU, is looked at and measured, and says what became of a lost device', options, async () => {
  const load = compileSite();
  const [{ Session }, { Engines }, { answerer }] = await Promise.all(['session', 'engines', 'requests'].map((name) => load(`worker/${name}`)));
  const host = memoryHost();
  const engines = new Engines(compiler, source);
  const session = new Session(engines, host);
  const answer = answerer(session, host, async () => ({}));
  const ask = async (name, args = {}) => answer(name, args, () => undefined);
  const opened = await ask('open', { config: { ...config, train: { ...config.train, steps: 30, eval_every: 10, sample_bytes: 4 } }, backend: 'webgpu', sampleEvery: 10 });
  assert.ok(opened.adapter.software && opened.notices[0] === opened.adapter.softwareNote);
  assert.equal((await ask('step')).step, 1);

  const check = await ask('gradcheck', { count: 4 });
  assert.ok(check.passed && check.backend === 'webgpu' && check.worst > 0, JSON.stringify(check));
  const { weights, ctx, heads, tokens } = await ask('attention', { prompt: 'Once' });
  assert.deepEqual([ctx, heads, tokens.length, weights.length], [8, 2, 4, 128]);
  assert.ok(Math.abs(weights.subarray(8, 16).reduce((sum, x) => sum + x, 0) - 1) < 1e-5);
  const profile = await ask('profile', { repeats: 1 });
  assert.ok(['timestamps', 'repeats'].includes(profile.method) && profile.stepMs > 0);
  assert.ok(Math.abs(profile.kernels.reduce((sum, { share }) => sum + share, 0) - 1) < 1e-9);
  assert.ok(profile.kernels.some(({ kernel, seconds }) => kernel.startsWith('contract') && seconds > 0));
  const { block, shareable } = await ask('benchmark', { config });
  assert.match(block, /\nadapter: SwiftShader .* \(software\)\n/);
  assert.match(block, /\nwebgpu: not measured \(software adapter SwiftShader .*\)\nwasm-simd: [\d.]+ ms\/step/);
  assert.equal(shareable, false);

  // None of it has changed the run: its losses are those of a runner that was left alone.
  const finished = host.next((name, event) => name === 'state' && (event === 'finished' || event === 'failed'));
  await ask('start');
  await finished;
  assert.deepEqual(host.of('state').slice(-2), ['running', 'finished']);
  const alone = await onGpu(init, opened.config.train);
  const expected = (await alone.trainSteps(30)).map(({ loss }) => loss);
  await alone.close();
  assert.deepEqual(host.of('progress').flatMap(({ loss }) => loss), expected);
  assert.deepEqual(host.of('validated').map(({ step }) => step), [10, 20, 30]);
  assert.ok(host.of('sampled').every(({ text }) => text.length > 0) && host.of('sampled').length === 3);
  assert.equal((await ask('stored')).step, 30);

  await ask('continue', { more: 1000 });
  const failed = host.next((name) => name === 'failed');
  (await engines.gpu()).device.destroy();
  const { kind, sentence, advice } = await failed;
  assert.equal(kind, 'device-lost');
  assert.match(sentence, /^the GPU SwiftShader .* was taken away from this page/);
  assert.match(advice, /goes on from the last step that was kept/);
  // A new device takes the run up where it was kept.
  const again = await ask('open', { config: {}, backend: 'webgpu', resume: 'opfs' });
  assert.equal(again.restoredStep, 30);
  assert.equal((await ask('sample', { prompt: 'On', tokens: 2 })).bytes.length, 2);
  await ask('close');
  (await engines.gpu()).close();
});
