// Drives Runners in headless Chromium. A JSON list of requests on standard input, the list of answers on standard output.
//
//   node browser.mjs EXPORT
//
// A request is that of drive.js without `location`, and with `isolated`, whether the page is cross-origin isolated, and `window`, whether
// the runner lives on the page's main thread instead of in a Worker. $CHROMIUM names the browser.
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { chromium } from 'playwright-core';
import { serve } from '../serve.mjs';

const [folder] = process.argv.slice(2);
const requests = JSON.parse(readFileSync(0, 'utf8'));
const web = fileURLToPath(new URL('..', import.meta.url));
const server = await serve({ web, export: folder });
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  args: ['--no-sandbox', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'],
});
try {
  const answers = [];
  for (const { isolated, window, ...request } of requests) {
    const root = `http://localhost:${server.address().port}${isolated ? '' : '/plain'}`;
    const page = await browser.newPage();
    await page.goto(`${root}/web/test/page.html`);
    answers.push(
      await page.evaluate(
        async ({ request, root, window }) => {
          const asked = { ...request, location: `${root}/export` };
          if (window) {
            const { drive } = await import(`${root}/web/test/drive.js`);
            return { isolated: crossOriginIsolated, ...(await drive(asked).catch((error) => ({ error: error.message }))) };
          }
          const worker = new Worker(`${root}/web/test/browser-worker.js`, { type: 'module' });
          const answer = await new Promise((resolve, reject) => {
            worker.onmessage = ({ data }) => resolve(data);
            worker.onerror = (event) => reject(new Error(event.message || 'the worker could not be loaded'));
            worker.postMessage(asked);
          });
          return { isolated: crossOriginIsolated, ...answer };
        },
        { request, root, window },
      ),
    );
    await page.close();
  }
  console.log(JSON.stringify(answers));
} finally {
  await browser.close();
  server.close();
}
