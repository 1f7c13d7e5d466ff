// The built playground in headless Chromium, for the tests of this folder.
//
// Needs site/dist (`cargo xtask site`). $CHROMIUM names the browser, $TINYGPT the command that its results are compared with.
// `/` is served with the headers for cross-origin isolation, `/plain/` without them, as a plain static host does.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { chromium } from 'playwright-core';
import { serve } from '../../serve.mjs';

const root = fileURLToPath(new URL('../../..', import.meta.url));
const dist = join(root, 'web/site/dist');
export const shots = join(root, 'target/site-shots');

const FLAGS = ['--no-sandbox', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'];
/** Chromium's own software GPU. */
const SWIFTSHADER = ['--disable-gpu', '--enable-unsafe-webgpu', '--enable-unsafe-swiftshader'];

/** Runs `tinygpt`; its standard output. */
export function tinygpt(args, options = {}) {
  const command = process.env.TINYGPT ?? join(root, 'target/release/tinygpt');
  return execFileSync(command, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'], maxBuffer: 2 ** 26, ...options });
}

/** A directory that is gone after the tests. */
export function scratch(test) {
  const folder = mkdtempSync(join(tmpdir(), 'tinygpt-site-'));
  test.after(() => rmSync(folder, { recursive: true }));
  return folder;
}

/** The losses of a native run, by step. */
export function nativeLosses(folder) {
  const lines = readFileSync(join(folder, 'metrics.jsonl'), 'utf8').trim().split('\n');
  return lines.map((line) => JSON.parse(line).loss);
}

/** Serves the site and starts the browser; both end with `test`. */
export async function open(test) {
  assert(existsSync(join(dist, 'index.html')), 'web/site/dist is missing: run `cargo xtask site`');
  mkdirSync(shots, { recursive: true });
  const server = await serve({ '': dist });
  const served = [];
  server.on('request', (request) => served.push(new URL(request.url, 'http://localhost').pathname));
  const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: [...FLAGS, ...SWIFTSHADER] });
  test.after(async () => {
    await browser.close();
    server.closeAllConnections();
    server.close();
  });
  const address = `http://localhost:${server.address().port}`;
  return { browser, address, served, dist };
}

/**
 * A page of its own context, at `hash`. What the console says of errors is collected in `problems`.
 * `workers` is JavaScript that runs first in every worker; `init` the same in the page.
 */
export async function visit(site, { hash = '', plain = false, init, workers, context = {}, ready = true } = {}) {
  const browsing = await site.browser.newContext({ viewport: { width: 1280, height: 900 }, acceptDownloads: true, ...context });
  const page = await browsing.newPage();
  const problems = [];
  page.on('pageerror', (error) => problems.push(error.message));
  page.on('console', (message) => message.type() === 'error' && problems.push(message.text()));
  page.on('response', (response) => response.status() >= 400 && problems.push(`${response.status()} ${response.url()}`));
  if (init !== undefined) await page.addInitScript(init);
  if (workers !== undefined) {
    await page.route(/\/assets\/(training|compiling|thread|worker)[^/]*\.js$/, async (route) => {
      const response = await route.fetch();
      await route.fulfill({ response, body: `${workers};\n${await response.text()}` });
    });
  }
  await page.goto(`${site.address}${plain ? '/plain' : ''}/index.html${hash === '' ? '' : `#${hash}`}`);
  if (ready) await isReady(page);
  return { page, problems, close: () => browsing.close() };
}

/** Waits until the page has looked at the machine. */
export const isReady = (page) => page.waitForSelector('html[data-ready]', { timeout: 60_000 });

/** Clicks a button by its whole name. */
export const press = (page, name) => page.getByRole('button', { name, exact: true }).click();

/** The run's state as the page knows it. */
export const state = (page) => page.evaluate(() => {
  const { state, refusal, failure, opened, saved, notices, validated } = playground.store.get();
  return { state, refusal, failure, opened, saved, notices, validated, step: playground.step };
});

/** Waits until the run is in one of these states; fails with the page's own sentence. */
export async function until(page, states, timeout = 120_000) {
  await page.waitForFunction((states) => {
    const { state, refusal, failure, busy } = playground.store.get();
    return refusal !== undefined || failure !== undefined || (busy === undefined && states.includes(state));
  }, states, { timeout });
  const now = await state(page);
  assert.equal(now.refusal ?? now.failure?.sentence, undefined);
  return now;
}

/** Waits until this many steps are done. */
export const untilStep = (page, step, timeout = 120_000) => page.waitForFunction((step) => playground.step >= step, step, { timeout });

/** [step, loss] of every step that the page has shown. */
export const losses = (page) => page.evaluate(() => playground.history.points.map(({ step, loss }) => [step, loss]));

/** Mean of the last `count` losses. */
export const lastMean = (pairs, count) => pairs.slice(-count).reduce((sum, [, loss]) => sum + loss, 0) / count;

/** Asserts that two lists of losses agree to within a share of themselves. */
export function agree(found, expected, share, what) {
  assert.equal(found.length, expected.length, `${what}: ${found.length} losses, expected ${expected.length}`);
  found.forEach((loss, at) => assert(Math.abs(loss - expected[at]) <= share * expected[at], `${what}: step ${at + 1} has loss ${loss}, expected ${expected[at]}`));
}
