// The benchmark of both backends in Node, on SwiftShader: run by `node --test`. Needs what gpu.test.mjs needs.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { whyNoCompiler } from './compiler.mjs';
import { ICD, whyNoDawn } from './dawn.mjs';
import { whyNoTypeScript } from './site.mjs';

const why = whyNoDawn() ?? whyNoCompiler() ?? whyNoTypeScript();
if (why !== undefined && process.env.TINYGPT_REQUIRE_CHROMIUM === '1') throw new Error(why);

const bench = (...flags) => {
  const script = fileURLToPath(new URL('../bench-gpu.mjs', import.meta.url));
  return spawnSync(process.execPath, [script, ...flags], { encoding: 'utf8', env: { ...process.env, VK_ICD_FILENAMES: ICD } });
};

test('a block for each preset, and no speed of a software adapter', { skip: why }, () => {
  const run = bench('--preset', 'tiny,small', '--threads', '1', '--warm', '1', '--steps', '2');
  assert.equal(run.status, 0, run.stderr);
  const blocks = run.stdout.trim().split('\n\n');
  assert.deepEqual(blocks.map((block) => /^preset: (.*)$/m.exec(block)?.[1]), ['tiny', 'small']);
  for (const block of blocks) {
    assert.match(block, /^device: \d+ logical processors\nos\/browser: \S+ \S+ \/ Node [\d.]+, V8 \S+, Dawn of webgpu [\d.]+\nadapter: SwiftShader .* \(software\)\n/);
    assert.match(block, /\nsteps read: 2\nwebgpu: not measured \(software adapter SwiftShader .*\)\nwasm-simd: [\d.]+ ms\/step, \d+ tokens\/s \(1 thread.*\)\nratio: not measured\nnotes: /);
  }
});

test('flags that make no sense are usage', () => {
  for (const flags of [['--steps', '0'], ['--threads', 'x'], ['--preset'], ['--wut']]) {
    const run = bench(...flags);
    assert.deepEqual([run.status, run.stdout], [2, '']);
    assert.match(run.stderr, /usage: node bench-gpu\.mjs/);
  }
});
