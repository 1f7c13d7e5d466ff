// The playground trains: on WebAssembly with threads and on WebGPU, with the losses of the command line, down to stated values.
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { agree, isReady, lastMean, losses, nativeLosses, open, press, scratch, tinygpt, until, visit } from './site.mjs';

/** Steps that are compared with the command line's. */
const COMPARED = 50;

test('training', async (t) => {
  const site = await open(t);
  const folder = scratch(t);
  tinygpt(['train', '--preset', 'tiny', '--steps', '300', '--stop-at', String(COMPARED), '--backend', 'cpu', '--out', join(folder, 'run')]);
  const native = nativeLosses(join(folder, 'run'));
  assert.equal(native.length, COMPARED);

  await t.test('WebAssembly, with threads', async () => {
    const { page, problems, close } = await visit(site, { hash: 'preset=tiny&steps=300&backend=wasm&threads=2' });
    await press(page, 'Start');
    const { opened, step, validated } = await until(page, ['finished']);
    assert.deepEqual([opened.backend, opened.threads, step], ['wasm', 2, 300]);
    const pairs = await losses(page);
    agree(pairs.slice(0, COMPARED).map(([, loss]) => loss), native, 0.01, 'WebAssembly and the command line');
    assert(lastMean(pairs, 20) < 2.4, `after 300 steps the loss is ${lastMean(pairs, 20)}`);
    assert(validated.loss < 2.4, `after 300 steps the validation loss is ${validated.loss}`);
    // The bar follows within a frame.
    await page.locator('.bar .state', { hasText: 'Finished' }).waitFor();
    // What it has written by then is shown, and it goes on from a prompt.
    assert((await page.locator('.samples li').count()) > 0);
    await page.getByRole('tab', { name: 'Talk' }).click();
    await press(page, 'Continue the text');
    await page.getByText('200 bytes, by the model of step 300.').waitFor();
    assert((await page.locator('.output').innerText()).startsWith('Once upon a time'));
    await press(page, 'What comes next?');
    await page.locator('.bars table').first().waitFor();
    await press(page, 'Show attention');
    await page.locator('.head').first().waitFor();
    assert.equal(await page.locator('.head').count(), 2 * 3);
    assert.deepEqual(problems, []);
    await close();
  });

  await t.test('WebGPU, on a software adapter that is called one', async () => {
    // Smaller than tiny: the software adapter compiles and computes slowly.
    const keys = { ctx: 16, layers: 1, heads: 2, d_model: 16, batch: 4, steps: 60, eval_batches: 1, sample_bytes: 0 };
    const [model, train] = [['ctx', 'layers', 'heads', 'd_model'], ['batch', 'steps', 'eval_batches', 'sample_bytes']];
    const toml = (section, names) => `[${section}]\n${names.map((name) => `${name} = ${keys[name]}\n`).join('')}`;
    writeFileSync(join(folder, 'mini.toml'), `preset = "tiny"\n${toml('model', model)}${toml('train', train)}`);
    tinygpt(['train', '--config', join(folder, 'mini.toml'), '--stop-at', String(COMPARED), '--backend', 'cpu', '--out', join(folder, 'mini')]);
    const hash = Object.entries(keys).map(([key, value]) => `${key}=${value}`).join('&');
    const { page, problems, close } = await visit(site, { hash: `preset=tiny&backend=webgpu&${hash}` });
    await page.locator('.message.software').waitFor();
    assert.match(await page.locator('.message.software').innerText(), /program|software/);
    assert(await page.getByRole('button', { name: 'Copy benchmark' }).isDisabled());
    await press(page, 'Start');
    // A software adapter compiles its hundred pipelines in half a minute, and on a busy machine in minutes.
    const { opened } = await until(page, ['finished'], 300_000);
    assert.equal(opened.adapter.software, true);
    const pairs = await losses(page);
    agree(pairs.slice(0, COMPARED).map(([, loss]) => loss), nativeLosses(join(folder, 'mini')), 0.01, 'WebGPU and the command line');
    assert(lastMean(pairs, 10) < 3.6, `after 60 steps the loss is ${lastMean(pairs, 10)}`);
    assert.deepEqual(problems, []);
    await close();
  });

  await t.test('the overfit gate: one window of text is learned by heart', async () => {
    const keys = 'ctx=16&layers=2&heads=2&d_model=32&d_mlp=64&batch=8&steps=151&lr=0.005&schedule=constant&warmup=0&grad_clip=0&eval_batches=1&sample_bytes=0';
    const { page, problems, close } = await visit(site, { hash: `preset=tiny&backend=wasm&${keys}` });
    const text = Buffer.from('the quick brown fox jumps over the lazy dog. ').subarray(0, 17);
    await page.getByRole('radio', { name: 'File' }).check();
    await page.getByLabel('A file of text or any bytes').setInputFiles({ name: 'fox.txt', mimeType: 'text/plain', buffer: text });
    await page.getByLabel('A file to validate on').setInputFiles({ name: 'fox.txt', mimeType: 'text/plain', buffer: text });
    await page.getByText('fox.txt: 17 bytes.').waitFor();
    await press(page, 'Start');
    await until(page, ['finished']);
    const pairs = await losses(page);
    assert(Math.abs(pairs[0][1] - Math.log(256)) < 0.7, `the loss starts at ${pairs[0][1]}`);
    assert(pairs.at(-1)[1] < 0.01, `after 151 steps the loss is ${pairs.at(-1)[1]}`);
    assert.deepEqual(problems, []);
    await close();
  });

  await t.test('a loss that is no number stops the run, with advice', async () => {
    const { page, close } = await visit(site, { hash: 'preset=tiny&backend=wasm&lr=1e30&warmup=0&steps=200' });
    await press(page, 'Start');
    await page.waitForFunction(() => playground.store.get().failure !== undefined, null, { timeout: 60_000 });
    const panel = page.locator('.message.bad', { hasText: 'no longer a number' });
    assert.match(await panel.innerText(), /learning rate/i);
    await press(page, 'Start over');
    await page.waitForFunction(() => playground.store.get().failure === undefined && playground.step === 0);
    await close();
  });

  await t.test('a toy task says how many answers are right', async () => {
    const { page, problems, close } = await visit(site, { hash: 'preset=tiny&backend=wasm&data=copy&steps=60&eval_every=30' });
    await press(page, 'Start');
    const { validated } = await until(page, ['finished']);
    assert(validated.accuracy >= 0 && validated.accuracy <= 1);
    assert.match(await page.locator('.accuracy').innerText(), /^\d+ % of held-out problems answered exactly, at step 60\.$/);
    assert.deepEqual(problems, []);
    await close();
  });

  await t.test('the page stays smooth while small trains', async () => {
    const init = () => {
      globalThis.stalls = [];
      new PerformanceObserver((list) => stalls.push(...list.getEntries().map(({ startTime, duration }) => ({ startTime, duration })))).observe({ type: 'longtask', buffered: true });
    };
    const { page, problems, close } = await visit(site, { hash: 'preset=small&backend=wasm', init });
    await isReady(page);
    await press(page, 'Start');
    await page.waitForFunction(() => playground.step >= 10, null, { timeout: 60_000 });
    const from = await page.evaluate(() => performance.now());
    await page.waitForTimeout(8000);
    const stalls = await page.evaluate((from) => stalls.filter(({ startTime }) => startTime >= from).map(({ duration }) => duration), from);
    const { step } = await page.evaluate(() => ({ step: playground.step }));
    console.log(`stalls of the main thread beyond 50 ms in 8 s of training small (${step} steps): ${stalls.length}, the longest ${Math.max(0, ...stalls)} ms`);
    await press(page, 'Stop');
    await until(page, ['stopped']);
    assert.deepEqual(problems, []);
    await close();
  });
});
