// What the playground keeps: in the browser over a reload, in files that the command line reads, and files of the command line.
import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { isReady, losses, open, press, scratch, state, tinygpt, until, untilStep, visit } from './site.mjs';

/** Downloads what `name` exports into `folder`; its path. */
async function download(page, name, folder) {
  const coming = page.waitForEvent('download');
  await press(page, name);
  const file = await coming;
  const path = join(folder, file.suggestedFilename());
  await file.saveAs(path);
  return path;
}

/** Greedy text after a prompt, by the page. */
async function greedy(page, prompt, tokens) {
  return page.evaluate(async ([prompt, tokens]) => (await playground.trainer.sample({ prompt, tokens, temperature: 0 })).text, [prompt, tokens]);
}

test('keeping', async (t) => {
  const site = await open(t);
  const folder = scratch(t);

  await t.test('a reloaded tab continues its run, to the step and the bit', async () => {
    const hash = 'preset=tiny&backend=wasm&steps=400&save_every=40&eval_every=100';
    const whole = await visit(site, { hash });
    await press(whole.page, 'Start');
    await until(whole.page, ['finished']);
    const expected = new Map(await losses(whole.page));
    await whole.close();

    const { page, problems, close } = await visit(site, { hash });
    await press(page, 'Start');
    await untilStep(page, 90);
    await page.waitForFunction(() => playground.store.get().saved !== undefined);
    await page.reload();
    await isReady(page);
    const { opened } = await state(page);
    assert(opened.restoredStep >= 40, `it went on at step ${opened.restoredStep}`);
    await until(page, ['finished']);
    const found = await losses(page);
    assert.equal(found.at(-1)[0], 400);
    // The curve of before the reload is there as well, and all of it is the unbroken run's.
    assert.equal(found.length, 400);
    for (const [step, loss] of found) assert.equal(loss, expected.get(step), `step ${step}`);
    assert.deepEqual(problems, []);
    await close();
  });

  await t.test('another tab offers the kept run and can forget it', async () => {
    const first = await visit(site, { hash: 'preset=tiny&backend=wasm&steps=400' });
    await press(first.page, 'Start');
    await untilStep(first.page, 20);
    await press(first.page, 'Pause');
    const { step } = await until(first.page, ['paused']);
    const page = await first.page.context().newPage();
    await first.page.close();
    await page.goto(`${site.address}/index.html`);
    await isReady(page);
    await page.getByText(`step ${step} of 400`).waitFor();
    await press(page, 'Continue it');
    await page.waitForFunction((step) => playground.store.get().opened?.restoredStep === step, step);
    assert.equal(await page.evaluate(() => playground.store.get().setup.preset), 'tiny');
    await page.getByRole('tab', { name: 'Keep' }).click();
    await press(page, 'Forget the kept run');
    await page.getByText('Nothing is kept yet.').waitFor();
    await first.close();
  });

  await t.test('its files are read by the command line, which writes the same text', async () => {
    const { page, problems, close } = await visit(site, { hash: 'preset=tiny&backend=wasm&steps=150&eval_every=0' });
    await press(page, 'Start');
    await until(page, ['finished']);
    const text = await greedy(page, 'Once upon a time', 60);
    const prompt = ['--prompt', 'Once upon a time', '--tokens', '60', '--temperature', '0'];
    const story = join(folder, 'story.txt');
    writeFileSync(story, 'Once upon a time there was a fox who liked to read. '.repeat(20));
    await page.getByRole('tab', { name: 'Keep' }).click();
    for (const [button, ending] of [['Export .tinygpt', '.tinygpt'], ['Export safetensors', '.safetensors']]) {
      const file = await download(page, button, folder);
      assert(file.endsWith(ending), file);
      const written = tinygpt(['sample', '--checkpoint', file, ...prompt]);
      assert(written.includes(text), `${file}: the page wrote ${JSON.stringify(text)}, the command line ${JSON.stringify(written)}`);
      const [, loss] = /val_loss (\S+)/.exec(tinygpt(['eval', '--checkpoint', file, '--data', story])) ?? [];
      assert(Number(loss) < 4, `${file}: val_loss ${loss}`);
    }
    assert.deepEqual(problems, []);
    await close();
  });

  await t.test('it opens a file of the command line, and goes on with it', async () => {
    const run = join(folder, 'native');
    tinygpt(['train', '--preset', 'tiny', '--steps', '60', '--backend', 'cpu', '--out', run]);
    const file = join(folder, 'native.tinygpt');
    tinygpt(['export', '--checkpoint', run, '--format', 'tinygpt', '-o', file]);
    const written = tinygpt(['sample', '--checkpoint', file, '--prompt', 'The ', '--tokens', '40', '--temperature', '0']);
    const { page, problems, close } = await visit(site, { hash: 'tab=keep' });
    await page.getByLabel('A .tinygpt or safetensors file').setInputFiles({ name: 'native.tinygpt', mimeType: 'application/octet-stream', buffer: readFileSync(file) });
    await page.getByText(/native\.tinygpt is open: 70,464 parameters/).waitFor();
    assert.equal(await page.evaluate(() => playground.store.get().setup.preset), 'tiny');
    const text = await greedy(page, 'The ', 40);
    assert(written.includes(text), `the page wrote ${JSON.stringify(text)}, the command line ${JSON.stringify(written)}`);
    await page.getByLabel('A .tinygpt or safetensors file').setInputFiles({ name: 'notes.tinygpt', mimeType: 'application/octet-stream', buffer: Buffer.from('no model') });
    await page.locator('.message.bad').first().waitFor();
    assert.deepEqual(problems, []);
    await close();
  });
});
