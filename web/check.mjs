// Compiles the runner and compares the result with runner/dist, which is committed since the tinygpt binary embeds it.
//
//   node check.mjs
//
// Exit status: 0 equal, 1 not equal or not compiling.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const here = import.meta.dirname ?? new URL('.', import.meta.url).pathname;
const fresh = mkdtempSync(join(tmpdir(), 'tinygpt-runner-'));
try {
  const tsc = join(here, 'node_modules/typescript/bin/tsc');
  const run = spawnSync(process.execPath, [tsc, '-p', join(here, 'tsconfig.json'), '--outDir', fresh], { encoding: 'utf8' });
  if (run.status !== 0) {
    console.log(`${run.stdout}${run.stderr}`.trim());
    process.exitCode = 1;
  }
  const dist = join(here, 'runner/dist');
  const names = new Set([...readdirSync(fresh), ...readdirSync(dist)]);
  const read = (dir, name) => {
    try {
      return readFileSync(join(dir, name), 'utf8');
    } catch {
      return undefined;
    }
  };
  const stale = [...names].filter((name) => read(fresh, name) !== read(dist, name)).sort();
  if (stale.length > 0) {
    console.log(`runner/dist is not what runner/src compiles to (${stale.join(', ')}): run \`npm run build\` in web/ and commit it`);
    process.exitCode = 1;
  } else if (process.exitCode !== 1) {
    console.log(`runner/dist: ${names.size} files are what runner/src compiles to`);
  }
} finally {
  rmSync(fresh, { recursive: true });
}
