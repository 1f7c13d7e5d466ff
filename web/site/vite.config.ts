// How the playground is built: `npm run site` in web/ writes site/dist, `npm run site:dev` serves the sources.
//
// Invariants:
// - paths are relative, so that the built site works in any folder of any static host;
// - the service worker lies beside index.html under a fixed name, since a worker may only serve what lies below it;
// - nothing is inlined as a data: URL: threads share memory, which a worker of foreign origin may not have.

import { defineConfig } from 'vite';

const isolated = { 'Cross-Origin-Opener-Policy': 'same-origin', 'Cross-Origin-Embedder-Policy': 'require-corp' };

export default defineConfig({
  base: './',
  server: { headers: isolated, fs: { allow: ['..'] } },
  preview: { headers: isolated },
  worker: { format: 'es' },
  build: {
    target: 'es2022',
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    rollupOptions: {
      input: { main: new URL('index.html', import.meta.url).pathname, sw: new URL('src/sw.ts', import.meta.url).pathname },
      output: { entryFileNames: (chunk) => (chunk.name === 'sw' ? 'sw.js' : 'assets/[name]-[hash].js') },
    },
  },
});
