// Who can use the playground, and where: accessibility, keyboard, small screens, hosts without headers, browsers that lack something.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { test } from 'node:test';
import { gzipSync } from 'node:zlib';
import { isReady, open, press, shots, state, until, untilStep, visit } from './site.mjs';

const AXE = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');

/** First load, compressed, in bytes. */
const MOST = 2_000_000;

/** What axe finds wrong in a frame, in short. */
async function violations(frame) {
  await frame.evaluate(AXE);
  const { violations } = await frame.evaluate(() => axe.run(document, { resultTypes: ['violations'], iframes: false }));
  return violations.map(({ id, nodes }) => `${id}: ${nodes.slice(0, 3).map(({ html, failureSummary }) => `${html} (${failureSummary})`).join('; ')}`);
}

test('reach', async (t) => {
  const site = await open(t);

  await t.test('the first load is small', async () => {
    site.served.length = 0;
    const { close } = await visit(site);
    const files = site.served.slice();
    const sizes = files.map((path) => [path, gzipSync(readFileSync(join(site.dist, path)), { level: 9 }).length]);
    const total = sizes.reduce((sum, [, bytes]) => sum + bytes, 0);
    console.log(`first load: ${total} bytes compressed in ${files.length} files`);
    assert(total < MOST, JSON.stringify(sizes));
    assert(files.some((path) => path.endsWith('.wasm')), 'the compiler is part of the first load');
    await close();
  });

  for (const colorScheme of ['light', 'dark']) {
    for (const [device, viewport] of [['desktop', { width: 1280, height: 900 }], ['phone', { width: 360, height: 780 }]]) {
      await t.test(`every section, ${colorScheme}, ${device}: no violation, nothing cut off`, async () => {
        const { page, problems, close } = await visit(site, { hash: 'preset=tiny&backend=wasm&steps=150&eval_every=50', context: { colorScheme, viewport, reducedMotion: 'reduce' } });
        const look = async (name) => {
          await page.evaluate(() => scrollTo(0, 0));
          await page.screenshot({ path: join(shots, `${name}-${device}-${colorScheme}.png`), fullPage: true });
          assert.deepEqual(await violations(page), [], name);
          const excess = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
          assert(excess <= 0, `${name} is ${excess} pixels wider than the screen`);
        };
        await look('train-idle');
        await press(page, 'Start');
        await untilStep(page, 60);
        await look('train-running');
        await until(page, ['finished']);
        await page.getByText('Every other setting').click();
        await page.getByRole('button', { name: 'Loss by step: table' }).click();
        await look('train-finished');
        await page.getByRole('tab', { name: 'Look inside' }).click();
        await page.locator('iframe.inspect[srcdoc]').waitFor();
        const frame = await (await page.locator('iframe.inspect').elementHandle()).contentFrame();
        await frame.locator('.row').first().waitFor();
        await look('look');
        // A frame is drawn only where it can be seen.
        await page.locator('iframe.inspect').scrollIntoViewIfNeeded();
        await page.screenshot({ path: join(shots, `kernels-${device}-${colorScheme}.png`) });
        assert.deepEqual(await violations(frame), [], 'the page of kernels');
        await page.getByRole('tab', { name: 'Talk' }).click();
        for (const name of ['Continue the text', 'What comes next?', 'Show attention']) {
          await press(page, name);
          await page.waitForFunction(() => playground.store.get().busy === undefined);
        }
        await look('talk');
        await page.getByRole('tab', { name: 'Keep' }).click();
        await look('keep');
        assert.deepEqual(problems, []);
        await close();
      });
    }
  }

  await t.test('the keyboard alone chooses, starts and pauses', async () => {
    const { page, close } = await visit(site, { hash: 'preset=tiny&backend=wasm' });
    await page.keyboard.press('Tab');
    assert.equal(await page.evaluate(() => document.activeElement.textContent), 'To the content');
    const reach = async (wanted) => {
      for (let tries = 0; tries < 60; tries++) {
        await page.keyboard.press('Tab');
        if (await page.evaluate((wanted) => document.activeElement.textContent === wanted, wanted)) return;
      }
      assert.fail(`no tab stop says ${wanted}`);
    };
    await reach('Start');
    await page.keyboard.press('Enter');
    await untilStep(page, 5);
    await page.keyboard.press('Enter');
    await until(page, ['paused']);
    await reach('Train');
    await page.keyboard.press('ArrowRight');
    assert.equal(await page.evaluate(() => document.activeElement.textContent), 'Look inside');
    await page.keyboard.press('End');
    assert(await page.locator('#panel-keep').isVisible());
    await close();
  });

  await t.test('a refused value shows its sentence at its field, and the address keeps the setup', async () => {
    const { page, close } = await visit(site);
    await page.locator('[name=heads]').fill('5');
    const problem = page.locator('.field', { has: page.locator('[name=heads]') }).locator('.problem');
    await problem.waitFor();
    assert.match(await problem.innerText(), /96 is not one of 5/);
    assert.equal(await page.locator('[name=heads]').getAttribute('aria-invalid'), 'true');
    await page.locator('.controls .primary[aria-disabled=true]').waitFor();
    await page.locator('[name=heads]').fill('4');
    await problem.waitFor({ state: 'hidden' });
    await page.getByLabel('Preset').selectOption('tiny');
    await page.locator('[name=layers]').fill('1');
    await page.waitForFunction(() => location.hash === '#preset=tiny&layers=1');
    await page.reload();
    await isReady(page);
    assert.equal(await page.locator('[name=layers]').inputValue(), '1');
    await page.getByText('Parameters').waitFor();
    assert.match(await page.locator('.estimates').innerText(), /42,/);
    await close();
  });

  await t.test('a plain static host: the service worker isolates the page after one reload', async () => {
    const { page, problems, close } = await visit(site, { plain: true, hash: 'preset=tiny&backend=wasm&steps=20', ready: false });
    await page.waitForFunction(() => crossOriginIsolated && document.documentElement.dataset.ready === 'true', null, { timeout: 60_000 });
    await press(page, 'Start');
    const { opened } = await until(page, ['finished']);
    assert.equal(opened.threads, 2);
    assert.deepEqual(problems, []);
    await close();
  });

  await t.test('a plain static host without service workers: one thread, and it says so', async () => {
    const { page, problems, close } = await visit(site, { plain: true, hash: 'preset=tiny&backend=wasm&steps=20', context: { serviceWorkers: 'block' } });
    assert.equal(await page.evaluate(() => crossOriginIsolated), false);
    assert.match(await page.locator('.hardware').innerText(), /one thread \(.*isolated/i);
    await press(page, 'Start');
    const { opened } = await until(page, ['finished']);
    assert.equal(opened.threads, 1);
    assert.deepEqual(problems, []);
    await close();
  });

  await t.test('a browser without WebGPU, shared memory or file handles trains and says what is missing', async () => {
    const remove = `
      for (const scope of [globalThis.Navigator, globalThis.WorkerNavigator]) if (scope) delete scope.prototype.gpu;
      delete globalThis.SharedArrayBuffer;
      if (globalThis.FileSystemFileHandle) delete FileSystemFileHandle.prototype.createSyncAccessHandle;
    `;
    const { page, problems, close } = await visit(site, { hash: 'preset=tiny&steps=20', init: remove, workers: remove });
    const text = await page.locator('.hardware').innerText();
    assert.match(text, /WebGPU/);
    assert(await page.getByRole('radio', { name: 'WebGPU' }).isDisabled());
    assert.match(text, /one thread \(/i);
    await press(page, 'Start');
    const { opened } = await until(page, ['finished']);
    assert.deepEqual([opened.backend, opened.threads], ['wasm', 1]);
    await page.getByRole('tab', { name: 'Keep' }).click();
    assert(await page.getByRole('button', { name: 'Save now' }).isDisabled());
    assert.doesNotMatch(await page.locator('#panel-keep .card').first().innerText(), /Nothing is kept yet/);
    assert.deepEqual(problems, []);
    await close();
  });

  await t.test('a model as text: edited, refused with its line, trained', async () => {
    const { page, problems, close } = await visit(site, { hash: 'tab=look&preset=tiny&backend=wasm&steps=20' });
    const area = page.locator('#editor');
    await page.waitForFunction(() => document.querySelector('#editor').value.includes('graph gpt'));
    const text = await area.inputValue();
    const lines = text.split('\n');
    const broken = lines.findIndex((line) => line.includes('layer_norm')) + 1;
    await area.fill(text.replace('layer_norm', 'layer_nrm'));
    await page.locator('#editor-problem').waitFor();
    assert.match(await page.locator('#editor-problem').innerText(), new RegExp(`^Line ${broken}: `));
    assert.equal(await page.locator('.numbers .wrong').innerText(), String(broken));
    // Another constant is another model, and the same program shape.
    await area.fill(text.replaceAll('std=0.02', 'std=0.03'));
    await page.locator('#editor-problem').waitFor({ state: 'hidden' });
    await press(page, 'Start');
    await until(page, ['finished']);
    assert.equal((await state(page)).step, 20);
    await page.waitForFunction(() => location.hash.includes('graph='));
    await page.reload();
    await isReady(page);
    assert(await page.evaluate(() => playground.store.get().setup.graph.includes('std=0.03')));
    assert.deepEqual(problems, []);
    await close();
  });

  await t.test('gradients checked and fusion compared in the page', async () => {
    const { page, problems, close } = await visit(site, { hash: 'tab=look&preset=tiny&backend=wasm' });
    await press(page, 'Check the gradients');
    await page.getByText(/^Passed: the largest error is/).waitFor({ timeout: 60_000 });
    await press(page, 'Compare');
    const row = page.getByRole('row', { name: /^Milliseconds/ });
    await row.waitFor({ timeout: 60_000 });
    const kernels = await page.getByRole('row', { name: /^Kernels/ }).getByRole('cell').allInnerTexts();
    const [fused, apart] = kernels.map((text) => Number(text.replaceAll(',', '')));
    assert(fused > 0 && fused < apart, `fused ${fused}, apart ${apart}`);
    // Its kernels, measured, in the page that shows them.
    await press(page, 'Measure its kernels');
    await page.getByText(/^Shares measured on WebAssembly/).waitFor({ timeout: 60_000 });
    const frame = await (await page.locator('iframe.inspect').elementHandle()).contentFrame();
    await frame.locator('.ms').first().waitFor();
    assert.equal(await frame.locator('#file option:checked').textContent(), 'model.gir');
    await frame.locator('#source .row:not(.dead)', { hasText: 'layer_norm' }).first().click();
    assert((await frame.locator('#kernels .row.on').count()) > 0, 'a line of the text leads to its kernels');
    assert.deepEqual(problems, []);
    await close();
  });
});
