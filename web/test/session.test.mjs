// The training worker's session over WebAssembly, with a folder in memory: run by `node --test`.
//
// Needs web/dist/tinygpt_web.wasm (`cargo xtask web`) and TypeScript (`npm ci`); skips where one is missing, and fails instead with
// TINYGPT_REQUIRE_WEB=1.
import assert from 'node:assert/strict';
import { before, test } from 'node:test';
import { loadCompiler, whyNoCompiler } from './compiler.mjs';
import { compileSite, memoryHost, MemoryFolder, whyNoTypeScript } from './site.mjs';

const why = whyNoCompiler() ?? whyNoTypeScript();
if (why !== undefined && process.env.TINYGPT_REQUIRE_WEB === '1') throw new Error(why);
const options = { skip: why };

const config = {
  preset: 'tiny',
  model: { layers: 1, ctx: 16, d_model: 24, heads: 3 },
  train: { steps: 60, batch: 4, eval_every: 25, eval_batches: 2, sample_bytes: 20 },
};
const open = { config, backend: 'wasm', threads: 1, relaxed: false, sampleEvery: 25, keepEvery: 20 };
let compiler, Session, Engines, answerer, RunStore, tasks, measure, client, load;

before(async () => {
  if (why !== undefined) return;
  compiler = await loadCompiler();
  load = compileSite();
  ({ Session } = await load('worker/session'));
  ({ Engines } = await load('worker/engines'));
  ({ answerer } = await load('worker/requests'));
  ({ RunStore } = await load('worker/store'));
  measure = await load('worker/measure');
  tasks = await load('tasks');
  client = await load('client');
});

/** A session and `ask(name, args)`, as the page has it. */
const sessionOn = (host) => {
  const session = new Session(new Engines(compiler), host);
  const answer = answerer(session, host, async () => ({}));
  const partials = [];
  return { session, partials, ask: async (name, args = {}) => answer(name, args, (value) => partials.push(value)) };
};

/** The loss of each step that the events tell, by step. */
const losses = (host) => {
  const all = new Map();
  for (const { step, loss, gradNorm } of host.of('progress')) {
    assert.equal(loss.length, gradNorm.length);
    loss.forEach((value, at) => all.set(step - loss.length + 1 + at, value));
  }
  return all;
};

const unbroken = async () => {
  const host = memoryHost();
  const { ask } = sessionOn(host);
  await ask('open', open);
  const finished = host.next((name, event) => name === 'state' && event === 'finished');
  await ask('start');
  await finished;
  await ask('close');
  return host;
};

test('a run trains, validates, samples, keeps itself and ends', options, async () => {
  const host = memoryHost();
  const { ask } = sessionOn(host);
  const opened = await ask('open', open);
  assert.equal(opened.params, compiler.request({ request: 'resolve', config }).result.params);
  assert.deepEqual([opened.backend, opened.threads, opened.relaxed, opened.restoredStep], ['wasm', 1, false, undefined]);
  assert.ok(opened.compileMs > 0 && opened.memoryBytes > 12 * opened.params);
  const finished = host.next((name, event) => name === 'state' && event === 'finished');
  await ask('start');
  await finished;
  const all = losses(host);
  assert.deepEqual([...all.keys()], Array.from({ length: 60 }, (_, at) => at + 1));
  assert.ok(all.get(60) < 0.8 * all.get(1));
  assert.deepEqual(host.of('validated').map(({ step }) => step), [25, 50, 60]);
  const { loss, perplexity, bitsPerByte } = host.of('validated')[0];
  assert.ok(Math.abs(Math.log(perplexity) - loss) < 1e-12 && Math.abs(bitsPerByte * Math.LN2 - loss) < 1e-12);
  assert.deepEqual(host.of('sampled').map(({ step, text }) => [step, text.length > 0]), [[25, true], [50, true], [60, true]]);
  assert.deepEqual(host.of('saved').map(({ step }) => step), [20, 40, 60]);
  assert.deepEqual(host.of('state'), ['compiling', 'idle', 'running', 'finished']);
  const last = host.of('progress').at(-1);
  assert.ok(last.tokensPerS > 0 && last.msPerStep > 0 && last.etaS === 0 && last.steps === 60);
  await assert.rejects(ask('start'), /all 60 planned steps are done/);
  // The planned end moves, and the run goes on.
  const again = host.next((name, event) => name === 'state' && event === 'finished');
  assert.deepEqual(await ask('continue', { more: 5 }), { steps: 65 });
  await again;
  assert.equal(Math.max(...losses(host).keys()), 65);
  assert.equal((await ask('stored')).step, 65);
  await ask('reset');
  const { step, loss: first } = await ask('step');
  assert.deepEqual([step, first], [1, all.get(1)]);
  await ask('close');
});

test('a run that was paused, looked at and reloaded is the run that was not', options, async () => {
  const expected = losses(await unbroken());
  const folder = new MemoryFolder();
  const host = memoryHost(folder);
  const { ask } = sessionOn(host);
  await ask('open', open);
  await ask('start');
  await host.next((name) => name === 'validated');
  // Requests get their turns while steps run.
  const sample = await ask('sample', { prompt: 'Once', tokens: 30, temperature: 0 });
  assert.equal(sample.bytes.length, 30);
  const { probabilities } = await ask('probabilities', { prompt: 'Once' });
  assert.ok(Math.abs(probabilities.reduce((sum, x) => sum + x, 0) - 1) < 1e-5);
  assert.equal(probabilities.indexOf(Math.max(...probabilities)), (await ask('sample', { prompt: 'Once', tokens: 1, temperature: 0 })).bytes[0]);
  const { step } = await ask('pause');
  assert.ok(step >= 25 && step < 60, `paused at ${step}`);
  assert.equal(host.of('state').at(-1), 'paused');
  assert.equal((await ask('stored')).step, step);

  // The tab is gone; another one finds the run.
  const second = memoryHost(folder);
  const reloaded = sessionOn(second);
  const stored = await reloaded.ask('stored');
  assert.deepEqual([stored.step, stored.steps, stored.data.kind, stored.backend], [step, 60, 'builtin', 'wasm']);
  const opened = await reloaded.ask('open', { config: {}, backend: 'wasm', threads: 1, resume: 'opfs' });
  assert.deepEqual([opened.restoredStep, opened.relaxed, opened.config.train.batch], [step, false, 4]);
  const finished = second.next((name, event) => name === 'state' && event === 'finished');
  await reloaded.ask('start');
  await finished;
  assert.deepEqual([...losses(host), ...losses(second)], [...expected]);
  assert.deepEqual(second.of('state'), ['compiling', 'paused', 'running', 'finished']);
  await ask('close');
  await reloaded.ask('close');
});

test('a text of its own is kept with its run, and other texts are forgotten', options, async () => {
  const folder = new MemoryFolder();
  const { ask } = sessionOn(memoryHost(folder));
  const bytes = new TextEncoder().encode('the quick brown fox jumps over the lazy dog. '.repeat(20));
  await ask('open', { ...open, data: { kind: 'text', name: 'fox.txt', bytes: bytes.slice(0, 700) } });
  await ask('save');
  await ask('open', { ...open, data: { kind: 'text', name: 'fox.txt', bytes }, validation: bytes.slice(0, 100) });
  await ask('step');
  await ask('save');
  await ask('step');
  await ask('save');
  assert.equal([...folder.files.keys()].filter((name) => name.startsWith('text-')).length, 2);
  const { ask: again } = sessionOn(memoryHost(folder));
  const opened = await again('open', { config: {}, backend: 'wasm', threads: 1, resume: 'opfs' });
  assert.deepEqual(opened.data, { kind: 'text', name: 'fox.txt', trainBytes: bytes.length, validationBytes: 100 });
  const text = [...folder.files.keys()].find((name) => name.startsWith('text-'));
  folder.files.set(text, folder.files.get(text).slice(0, -1));
  await assert.rejects(again('open', { config: {}, backend: 'wasm', resume: 'opfs' }), /trained on the text "fox.txt", which is not there any more/);
  await again('discard');
  assert.equal(await again('stored'), null);
  await assert.rejects(again('open', { config: {}, backend: 'wasm', resume: 'opfs' }), /no run is kept in this browser/);
});

test('a loss that is not finite ends the run with advice, and the kept run stays', options, async () => {
  const host = memoryHost();
  const { ask } = sessionOn(host);
  await ask('open', { ...open, config: { ...config, train: { ...config.train, lr: 1e30, warmup: 0, weight_decay: 0 } }, keepEvery: 1 });
  await ask('save');
  const failed = host.next((name) => name === 'failed');
  await ask('start');
  const { kind, sentence, advice } = await failed;
  assert.equal(kind, 'nan');
  assert.match(sentence, /^training has stopped at step \d+, since its (loss|gradient norm) is/);
  assert.match(advice, /learning rate \(9.84e\+29 at this step\) .* lower lr .* Step \d+ was the last good one/);
  await new Promise((resolve) => setImmediate(resolve));
  assert.equal(host.of('state').at(-1), 'failed');
  assert.ok(host.of('notice').some((notice) => /so it changed nothing; 5 such steps in a row end the run/.test(notice)));
  await assert.rejects(ask('start'), /the run has failed: open it again/);
  const kept = (await ask('stored')).step;
  const last = Number(/Step (\d+) was/.exec(advice)[1]);
  assert.ok(kept <= last + 4, `step ${kept} is kept, and step ${last} was the last good one`);
  // What is kept is finite.
  const { files } = await new RunStore(host.folderOf).load();
  const header = 8 + Number(new DataView(files.model.buffer, files.model.byteOffset).getBigUint64(0, true));
  assert.ok(new Float32Array(files.model.slice(header).buffer).every(Number.isFinite));
  await ask('reset');
  assert.equal((await ask('step')).step, 1);
});

test('a crash at any byte of a checkpoint leaves the one before', options, async () => {
  const meta = (step) => ({ step, steps: 9, savedAt: 0, config: {}, backend: 'wasm', data: { kind: 'builtin', name: 'builtin', bytes: 1, digest: '' }, source: { kind: 'builtin' } });
  const files = (step) => ({ model: Uint8Array.of(step, 1), optim: Uint8Array.of(step, 2, 2), state: Uint8Array.of(step) });
  const folder = new MemoryFolder();
  assert.equal(await new RunStore(folder).load(), null);
  const store = new RunStore(folder);
  for (const step of [1, 2, 3]) await store.save({ meta: meta(step), files: files(step) });
  const whole = new Map(folder.files);
  const size = Math.max(...[...whole.values()].map((bytes) => bytes.length));
  for (let cut = 0; cut < size; cut++) {
    folder.files = new Map(whole);
    folder.cut = cut;
    await assert.rejects(new RunStore(folder).save({ meta: meta(4), files: files(4) }), /crashed/);
    folder.cut = undefined;
    const after = new RunStore(folder);
    const found = await after.load();
    assert.deepEqual([found.meta.step, [...found.files.model], [...found.files.state]], [3, [3, 1], [3]], `cut after ${cut} bytes`);
    // And the next one is whole again.
    await after.save({ meta: meta(5), files: files(5) });
    assert.equal((await new RunStore(folder).load()).meta.step, 5);
  }
  // A flipped bit anywhere is found.
  folder.files = new Map(whole);
  for (const [name, bytes] of whole) {
    for (let at = 0; at < bytes.length; at++) {
      folder.files = new Map(whole);
      const spoiled = bytes.slice();
      spoiled[at] ^= 1;
      folder.files.set(name, spoiled);
      assert.ok([2, 3].includes((await new RunStore(folder).load()).meta.step), `${name}, byte ${at}`);
    }
  }
});

test('gradients, attention weights and kernels are looked at without changing the run', options, async () => {
  const { ask } = sessionOn(memoryHost());
  await ask('open', open);
  const first = (await ask('step')).loss;
  const check = await ask('gradcheck', { count: 6 });
  assert.deepEqual([check.passed, check.coordinates.length, check.backend], [true, 6, 'wasm'], JSON.stringify(check));
  assert.ok(check.worst > 0 && check.worst < check.tolerance);
  assert.ok(check.coordinates.some(({ gradient }) => gradient !== 0));
  const { layers, heads, ctx, tokens, weights } = await ask('attention', { prompt: 'Once upon' });
  assert.deepEqual([layers, heads, ctx, tokens.length, weights.length], [1, 3, 16, 9, 3 * 16 * 16]);
  for (let row = 0; row < heads * ctx; row++) {
    const own = weights.subarray(row * ctx, (row + 1) * ctx);
    assert.ok(Math.abs(own.reduce((sum, x) => sum + x, 0) - 1) < 1e-5);
    assert.ok(own.every((weight, key) => key <= row % ctx || weight === 0));
  }
  await ask('reset');
  assert.equal((await ask('step')).loss, first);
  await ask('close');
  await assert.rejects(ask('attention', { prompt: '' }), /no run is open/);
});

test('kernels are timed by their module\'s own clock, fused and not', options, async () => {
  const { ask } = sessionOn(memoryHost());
  await ask('open', open);
  const first = (await ask('step')).loss;
  const [fused, single] = [await ask('profile', { repeats: 2 }), await ask('profile', { repeats: 2, fusion: false })];
  for (const { method, stepMs, kernels } of [fused, single]) {
    assert.equal(method, 'clocks');
    const total = kernels.reduce((sum, { seconds }) => sum + seconds, 0);
    assert.ok(total > 0 && stepMs > 0 && kernels.every(({ seconds }) => seconds >= 0));
    assert.ok(Math.abs(kernels.reduce((sum, { share }) => sum + share, 0) - 1) < 1e-9);
  }
  assert.ok(fused.kernels.length < single.kernels.length, `${fused.kernels.length} kernels fused, ${single.kernels.length} not`);
  assert.equal(new Set(fused.kernels.map(({ kernel }) => kernel)).size, fused.kernels.length);
  await ask('reset');
  assert.equal((await ask('step')).loss, first);
  await ask('close');
});

test('a run goes out as a file and comes back as it was', options, async () => {
  const host = memoryHost();
  const { ask } = sessionOn(host);
  await ask('open', open);
  for (let step = 0; step < 3; step++) await ask('step');
  const next = (await ask('export', { format: 'checkpoint' })).files;
  assert.deepEqual(next.map(({ name }) => name), ['model.safetensors', 'optim.safetensors', 'state.json']);
  const { files: [{ name, bytes }] } = await ask('export', { format: 'tinygpt' });
  assert.equal(name, 'step-3.tinygpt');
  const { files: [weights] } = await ask('export', { format: 'safetensors' });
  const { loss } = await ask('step');
  const { config: _, ...others } = open;
  const opened = await ask('import', { name, bytes, open: others });
  assert.deepEqual([opened.restoredStep, opened.config.model, opened.config.train.batch], [3, compiler.request({ request: 'resolve', config }).result.config.model, 4]);
  // Moments and steps came along: the next step is the same.
  assert.equal((await ask('step')).loss, loss);
  const bare = await ask('import', { name: weights.name, bytes: weights.bytes, open: others });
  assert.equal(bare.params, opened.params);
  await assert.rejects(ask('import', { name: 'photo.jpg', bytes: new Uint8Array(100), open: others }), /photo\.jpg/);
  await ask('close');
});

test('a model in text form trains, and is kept with its text', options, async () => {
  const graph = compiler.request({ request: 'graph', config, stage: 'graph' }).result.text;
  const folder = new MemoryFolder();
  const host = memoryHost(folder);
  const { ask } = sessionOn(host);
  const { batch: _, ...train } = config.train;
  const opened = await ask('open', { ...open, config: { preset: 'tiny', graph, train } });
  assert.equal(opened.config.graph, graph);
  const first = (await ask('step')).loss;
  assert.ok(Math.abs(first - 5.55) < 0.2, `${first}`);
  assert.equal((await ask('sample', { prompt: 'On', tokens: 5, temperature: 0 })).bytes.length, 5);
  await ask('save');
  const second = (await ask('step')).loss;
  const { ask: again } = sessionOn(memoryHost(folder));
  const restored = await again('open', { config: {}, backend: 'wasm', threads: 1, resume: 'opfs' });
  assert.deepEqual([restored.restoredStep, restored.config.graph], [1, graph]);
  assert.equal((await again('step')).loss, second);
  assert.ok((await again('gradcheck', { count: 3 })).passed);
  await ask('close');
  await again('close');
});

test('a probe and the benchmark measure beside the run, in the stated form', options, async () => {
  const host = memoryHost();
  const { ask } = sessionOn(host);
  const probe = await ask('probe', { config, backend: 'wasm', threads: 1 });
  assert.equal(probe.steps, 10);
  assert.ok(Math.abs(probe.totalS - (60 * probe.msPerStep) / 1e3) < 1e-9 && probe.tokensPerS > 0);
  const { block, lanes, shareable } = await ask('benchmark', { config, threads: 1, notes: ' plugged\nin ' });
  const fields = block.split('\n').map((line) => line.slice(0, line.indexOf(':')));
  assert.deepEqual(fields, ['device', 'os/browser', 'adapter', 'preset', 'steps read', 'webgpu', 'wasm-simd', 'ratio', 'notes']);
  assert.match(block, /\npreset: tiny, with layers 1, ctx 16, d_model 24, heads 3, batch 4\nsteps read: 150\nwebgpu: not measured \(/);
  assert.match(block, /\nwasm-simd: [\d.]+ ms\/step, \d+ tokens\/s \(1 thread.*\)\nratio: not measured\nnotes: plugged in; compile wasm/);
  assert.deepEqual([lanes.length, lanes[0].steps, shareable], [1, 150, false]);
  assert.deepEqual(host.of('measuring').at(-1), { what: 'benchmark', backend: 'wasm', step: 200, of: 200 });
  const cancelled = ask('benchmark', { config, threads: 1 });
  await host.next((name) => name === 'measuring');
  await ask('pause');
  await assert.rejects(cancelled, /was ended before it was done/);
  assert.equal(measure.FIELDS.length, 9);
});

test('toy tasks: right answers, problems that are never trained on, and a judge', options, async () => {
  const answers = { copy: (p) => p, reverse: (p) => [...p].reverse().join(''), sort: (p) => [...p].sort().join(''), addition: (p) => String(p.split('+').map(Number).reduce((a, b) => a + b)).padStart(3, '0') };
  for (const { name, example } of tasks.TASKS) {
    const text = new TextDecoder().decode(tasks.taskText(name, 7, 3000));
    const lines = text.split('\n').slice(0, -1);
    assert.equal(lines.length, 3000);
    const held = new Set(tasks.heldOut(name, 7, 40).map(({ prompt }) => prompt.slice(0, -1)));
    assert.equal(held.size, 40);
    const split = (line) => /^([a-z]+|\d+\+\d+)(.)([a-z\d]+)$/.exec(line).slice(1);
    for (const line of [...lines, example]) {
      const [problem, sign, answer] = split(line);
      assert.equal(line.length + 1, tasks.LINE);
      assert.equal(answer, answers[name](problem), line);
      assert.ok(!held.has(problem) || line === example, `${line} is trained on and held out`);
      assert.equal(sign, split(example)[1]);
    }
    for (const { prompt, answer } of tasks.heldOut(name, 7, 40)) assert.equal(answer, answers[name](prompt.slice(0, -1)));
    assert.equal(new TextDecoder().decode(tasks.taskText(name, 7, 3000)), text);
    assert.notEqual(new TextDecoder().decode(tasks.taskText(name, 8, 3000)), text);
  }
  const host = memoryHost();
  const { ask } = sessionOn(host);
  await ask('open', { ...open, data: { kind: 'task', task: 'copy' }, config: { ...config, train: { ...config.train, steps: 2 } } });
  await ask('start');
  const { accuracy, examples } = await host.next((name) => name === 'validated');
  assert.ok(accuracy >= 0 && accuracy < 0.2);
  assert.deepEqual(examples.map(({ prompt, expected, found }) => [prompt, expected.length, found.length > 0]), tasks.heldOut('copy', 1, 4).map(({ prompt }) => [prompt, 4, true]));
  await ask('close');
  await assert.rejects(ask('open', { ...open, config: { ...config, model: { ...config.model, ctx: 8 } }, data: { kind: 'task', task: 'copy' } }), /choose a ctx of 10 or more/);
});

test('the pace is that of recent steps, and the steady one begins after the warm-up', options, async () => {
  const { Pace } = await load('worker/pace');
  const pace = new Pace(10);
  assert.deepEqual([pace.msPerStep, pace.tokensPerS], [0, undefined]);
  for (let group = 0; group < 5; group++) pace.add(10, 1000);
  assert.deepEqual([pace.msPerStep, pace.tokensPerS], [100, undefined]);
  pace.add(10, 500);
  assert.deepEqual([Math.round(pace.msPerStep), pace.tokensPerS], [83, 200]);
  for (let group = 0; group < 4; group++) pace.add(10, 500);
  assert.deepEqual([pace.msPerStep, pace.tokensPerS], [50, 200]);
});

test('refusals are sentences, and the session stays usable', options, async () => {
  const { ask, session } = sessionOn(memoryHost());
  await assert.rejects(ask('open', { ...open, config: { preset: 'tny' } }), /there is no preset "tny"/);
  await assert.rejects(ask('open', { ...open, config: { preset: 'tiny', graph: 'tinygpt-graph 1\nwhat' } }), ({ line }) => line === 2);
  await assert.rejects(ask('open', { ...open, config: { preset: 'gpt2', model: { layers: 1, d_model: 12, ctx: 8 } } }), /vocab is 50\d+: choose another preset/);
  await assert.rejects(ask('open', { ...open, data: { kind: 'text', name: 'a', bytes: new Uint8Array(5) } }), /the text has 5 bytes/);
  await assert.rejects(ask('open', { ...open, backend: 'webgpu' }), /this browser has no WebGPU/);
  await assert.rejects(ask('open', { ...open, config: { ...config, train: { ...config.train, accumulate: 2 } } }), /accumulate is 2, and a page takes one batch a step/);
  await assert.rejects(ask('dance'), /there is no request "dance"/);
  await assert.rejects(ask('start'), /no run is open/);
  assert.equal(session.state, 'idle');
  const other = memoryHost();
  other.lock = async () => {
    throw new Error('another tab of this page keeps its run');
  };
  const { ask: askOther } = sessionOn(other);
  await askOther('open', open);
  assert.deepEqual(other.of('notice'), ['another tab of this page keeps its run']);
  assert.equal((await askOther('step')).step, 1);
  await assert.rejects(askOther('save'), /another tab/);
});

test('the client keeps requests and answers together', options, async () => {
  const worker = { posted: [], postMessage: (message) => worker.posted.push(message), terminate: () => (worker.ended = true), onmessage: null, onerror: null };
  const trainer = new client.Trainer(worker);
  const heard = [];
  const off = trainer.on('saved', ({ step }) => heard.push(step));
  const [first, second] = [trainer.sample({ prompt: 'a' }, (text) => heard.push(text)), trainer.step()];
  const say = (data) => worker.onmessage({ data });
  const [{ id: a, name, args }, { id: b }] = worker.posted;
  assert.deepEqual([name, args], ['sample', { prompt: 'a' }]);
  say({ type: 'refusal', id: b, error: { sentence: 'no', line: 3, column: 4 } });
  say({ type: 'partial', id: a, value: 'x' });
  say({ type: 'event', name: 'saved', event: { step: 7 } });
  off();
  say({ type: 'event', name: 'saved', event: { step: 8 } });
  say({ type: 'answer', id: a, result: 'done' });
  assert.equal(await first, 'done');
  await assert.rejects(second, (error) => error instanceof client.RequestError && error.message === 'no' && error.line === 3 && error.column === 4);
  assert.deepEqual(heard, ['x', 7]);
  const third = trainer.pause();
  worker.onerror({ message: '' });
  await assert.rejects(third, /a worker of this page has ended \(its script could not be loaded\)/);
  await assert.rejects(trainer.pause(), /has ended/);
  assert.ok(worker.ended);
});
