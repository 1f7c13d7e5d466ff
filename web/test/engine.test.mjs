// The engine's own failures, with modules of a few bytes: run by `node --test`.
import assert from 'node:assert/strict';
import test from 'node:test';
import { compileModule, Engine } from '../runner/dist/engine.js';

// (module (import "env" "memory" (memory 1)) (func (export "init") (param i32 i32)))
const MODULE = new Uint8Array([
  ...[0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00],
  ...[0x01, 0x06, 0x01, 0x60, 0x02, 0x7f, 0x7f, 0x00],
  ...[0x02, 0x0f, 0x01, 0x03, 0x65, 0x6e, 0x76, 0x06, 0x6d, 0x65, 0x6d, 0x6f, 0x72, 0x79, 0x02, 0x00, 0x01],
  ...[0x03, 0x02, 0x01, 0x00],
  ...[0x07, 0x08, 0x01, 0x04, 0x69, 0x6e, 0x69, 0x74, 0x00, 0x00],
  ...[0x0a, 0x04, 0x01, 0x02, 0x00, 0x0b],
]);
const layout = { memory64: false, fixed_bytes: 100_000, thread_bytes: 64, max_threads: 4, entries: [] };

test('memory is what the layout states and starts as zeros', async () => {
  const engine = await Engine.create(await compileModule(MODULE, 'm'), layout, { threads: 1, shared: false });
  assert.ok(engine.bytes(0, 100_064).every((byte) => byte === 0));
  const slot = { offset: 128, bytes: 8 };
  engine.f32(slot)[1] = 1;
  assert.deepEqual([...engine.i32(slot)], [0, 0x3f800000]);
  await engine.close();
});

test('a refused module is a sentence', async () => {
  await assert.rejects(compileModule(MODULE.slice(0, 20), 'broken.wasm'), /refuses the module broken\.wasm \(.*\): use a newer engine/);
});

test('too little memory is a sentence', async () => {
  const module = await compileModule(MODULE, 'm');
  const huge = { ...layout, fixed_bytes: 2 ** 40 };
  await assert.rejects(Engine.create(module, huge, { threads: 1, shared: false }), /needs 1048577 MiB of memory, which this JavaScript engine does not give/);
});

test('threads are within the module and need shared memory', async () => {
  const module = await compileModule(MODULE, 'm');
  for (const threads of [0, 5, 1.5]) {
    await assert.rejects(Engine.create(module, layout, { threads, shared: false }), new RegExp(`threads must be from 1 to 4, and is ${threads}`));
  }
  await assert.rejects(Engine.create(module, layout, { threads: 2, shared: false }), /asked to run on several/);
});
