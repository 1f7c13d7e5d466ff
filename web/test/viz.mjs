// Opens a page of `tinygpt viz` in headless Chromium from its file, without a network, and goes from a DSL line to its kernel and its WGSL,
// and back, by mouse and by keyboard. Axe looks at it in light and in dark, wide and on a phone. Prints what it found as JSON.
//
//   node viz.mjs PAGE.html LINE-TEXT [SCREENSHOT.png]
//
// LINE-TEXT is part of the DSL line to choose. $CHROMIUM names the browser.
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';
import { chromium } from 'playwright-core';

const AXE = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');

const [file, text, screenshot] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  args: ['--no-sandbox', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'],
});
try {
  const context = await browser.newContext({ viewport: { width: 1500, height: 850 } });
  const page = await context.newPage();
  const problems = [];
  page.on('pageerror', (error) => problems.push(error.message));
  page.on('console', (message) => message.type() === 'error' && problems.push(message.text()));
  page.on('request', (request) => request.url().startsWith('file:') || problems.push(`asks for ${request.url()}`));
  await page.goto(pathToFileURL(file).href);
  const marked = (pane) => page.locator(`#${pane} .row.on`);
  const names = async () => marked('kernels').evaluateAll((rows) => rows.map((row) => row.dataset.kernel));

  await page.getByRole('tab', { name: 'WGSL' }).click();
  await page.locator('#source .row:not(.dead)', { hasText: text }).first().click();
  const line = await page.locator('#source .row.picked').getAttribute('data-line');
  const found = { line: Number(line), kernels: await names(), wgsl: await page.locator('#code').innerText() };

  // Back: from the first of these kernels to the line; and its CLIF.
  await marked('kernels').first().click();
  found.lines = await marked('source').evaluateAll((rows) => rows.map((row) => Number(row.dataset.line)));
  if (screenshot) await page.screenshot({ path: screenshot });
  await page.getByRole('tab', { name: 'CLIF' }).click();
  found.clif = await page.locator('#code').innerText();

  // The slider by keyboard: every stage has marks or not, and the last graph has the kernel's nodes.
  await page.locator('#pass').focus();
  found.stages = [];
  await page.keyboard.press('Home');
  for (;;) {
    const name = await page.locator('#pass-name').innerText();
    if (found.stages.at(-1)?.name === name) break;
    found.stages.push({ name, marked: await marked('graph').count(), fresh: await page.locator('#graph .row.new').count() });
    await page.keyboard.press('ArrowRight');
  }
  // A scope closes and opens by keyboard, and what is chosen there is chosen.
  const rows = page.locator('#kernels .row:visible');
  await page.locator('#kernels').focus();
  await page.keyboard.press('Home');
  found.open = await rows.count();
  await page.keyboard.press('ArrowLeft');
  found.closed = await rows.count();
  await page.keyboard.press('ArrowRight');
  await page.keyboard.press('ArrowDown');
  await page.keyboard.press('Enter');
  found.chosen = await page.locator('#kernels .row.picked').getAttribute('data-kernel');

  found.axe = [];
  await page.evaluate(AXE);
  for (const colorScheme of ['light', 'dark']) {
    for (const width of [1500, 390]) {
      await page.emulateMedia({ colorScheme });
      await page.setViewportSize({ width, height: 850 });
      const { violations } = await page.evaluate(() => axe.run(document, { resultTypes: ['violations'] }));
      found.axe.push(...violations.map(({ id, nodes }) => `${colorScheme} ${width}: ${id}: ${nodes[0].html.slice(0, 200)}: ${nodes[0].failureSummary}`));
      const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      if (wide > 0) found.axe.push(`${width}: the page is ${wide} pixels wider than its window`);
      if (screenshot) await page.screenshot({ path: screenshot.replace('.png', `-${colorScheme}-${width}.png`) });
    }
  }
  await page.keyboard.press('Escape');
  found.left = (await marked('source').count()) + (await marked('kernels').count());
  found.coloured = await page.locator('#kernels .row .ms').count();
  found.problems = problems;
  console.log(JSON.stringify(found));
} finally {
  await browser.close();
}
