// A static server for the tests of this folder, and for trying an export in a browser.
//
//   node serve.mjs FOLDER [PORT]
//
// Serves FOLDER, and the scripts of runner/dist under /runner/, with the headers that make a page cross-origin isolated; under /plain/
// the same without them.
import { createServer } from 'node:http';
import { readFile } from 'node:fs/promises';
import { extname, join, normalize } from 'node:path';

const TYPES = { '.html': 'text/html', '.css': 'text/css', '.svg': 'image/svg+xml', '.js': 'text/javascript', '.mjs': 'text/javascript', '.json': 'application/json', '.wasm': 'application/wasm' };
const ISOLATED = { 'Cross-Origin-Opener-Policy': 'same-origin', 'Cross-Origin-Embedder-Policy': 'require-corp' };

/** Serves these folders by the first part of the path; resolves to the server, whose port is `server.address().port`. */
export function serve(folders, port = 0) {
  const server = createServer(async (request, response) => {
    let path = normalize(decodeURIComponent(new URL(request.url, 'http://localhost').pathname));
    const plain = path.startsWith('/plain/');
    if (plain) path = path.slice('/plain'.length);
    const [, mount, ...rest] = path.split('/');
    const [folder, file] = mount in folders ? [folders[mount], rest.join('/')] : [folders[''], path];
    try {
      if (folder === undefined) throw new Error('no such folder');
      const body = await readFile(join(folder, file));
      // As static hosts have it: pages are asked for anew, what they load may be kept for minutes.
      const cached = extname(file) === '.html' ? 'no-cache' : 'max-age=600';
      response.writeHead(200, { 'Content-Type': TYPES[extname(file)] ?? 'application/octet-stream', 'Cache-Control': cached, ...(plain ? {} : ISOLATED) });
      response.end(body);
    } catch {
      response.writeHead(404).end();
    }
  });
  return new Promise((resolve) => server.listen(port, '127.0.0.1', () => resolve(server)));
}

if (process.argv[1] === new URL(import.meta.url).pathname) {
  const [folder, port = '8080'] = process.argv.slice(2);
  if (folder === undefined) {
    console.error('usage: node serve.mjs FOLDER [PORT]');
    process.exit(2);
  }
  const server = await serve({ '': folder }, Number(port));
  console.log(`http://localhost:${server.address().port}/`);
}
