// The parts of the runner that need no module: run by `node --test`.
//
// figures.json was written by the Rust side (tests/all/wasm.rs, BLESS=1): what both compute must be equal.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import test from 'node:test';
import { Corpus } from '../runner/dist/data.js';
import { probe, whyNothing, whyOneThread } from '../runner/dist/features.js';
import { parseManifest } from '../runner/dist/manifest.js';
import { fnv1a, philox, Stream } from '../runner/dist/rng.js';
import { choose } from '../runner/dist/runner.js';
import { readTensors, writeTensors } from '../runner/dist/safetensors.js';
import { crossEntropy, Sampler } from '../runner/dist/sampling.js';
import { learningRate } from '../runner/dist/schedule.js';

const figures = JSON.parse(readFileSync(new URL('figures.json', import.meta.url), 'utf8'));

test('Philox has its known answers', () => {
  // Random123 1.14, tests/kat_vectors.
  assert.deepEqual(philox([0n, 0n, 0n, 0n], [0n, 0n]), [0x6627e8d5n, 0xe169c58dn, 0xbc57ac4cn, 0x9b00dbd8n]);
  assert.deepEqual(
    philox([0x243f6a88n, 0x85a308d3n, 0x13198a2en, 0x03707344n], [0xa4093822n, 0x299f31d0n]),
    [0xd16cfe09n, 0x94fdccebn, 0x5001e420n, 0x24126ea1n],
  );
  assert.equal(fnv1a(new TextEncoder().encode('foobar')), 0x85944171f73967e8n);
});

test('draws are those of Rust', () => {
  for (const { seed, name, index, bits, uniform, below } of figures.draws) {
    const stream = new Stream(BigInt(seed), name);
    assert.equal(stream.bits(BigInt(index)).toString(), bits);
    assert.equal(stream.uniform(BigInt(index)), uniform);
    assert.equal(stream.below(BigInt(index), 1000), below);
  }
  assert.ok(figures.draws.length >= 20);
});

test('learning rates are those of Rust, as the f32 that a step reads', () => {
  for (const { schedule, rates } of figures.schedules) {
    for (const [step, rate] of rates) assert.equal(Math.fround(learningRate(schedule, step)), rate, JSON.stringify([schedule, step]));
  }
  assert.ok(figures.schedules.length >= 4);
});

test('batches are those of Rust', () => {
  const { text_len: length, ctx, batch, seed, train, validation } = figures.batches;
  const text = Uint8Array.from({ length }, (_, at) => at % 251);
  const corpus = new Corpus(text, undefined, ctx, seed);
  const [ids, targets] = [new Int32Array(batch * ctx), new Int32Array(batch * ctx)];
  for (const [step, expected] of train) {
    corpus.fillTrain(step, ids, targets);
    assert.deepEqual([...ids], expected.ids);
    assert.deepEqual([...targets], expected.targets);
  }
  for (const [index, count, expected] of validation) {
    corpus.fillValidation(index, count, ids, targets);
    assert.deepEqual([...ids], expected.ids);
  }
  assert.throws(() => new Corpus(text.subarray(0, 5), undefined, 64, 0), /the text has 5 bytes, and ctx 64 needs at least 650/);
  assert.throws(() => new Corpus(text, text.subarray(0, 5), 64, 0), /a text has 5 bytes, and ctx 64 needs at least 65/);
});

test('with a stride, every window starts with a line', () => {
  const text = new TextEncoder().encode(Array.from({ length: 100 }, (_, at) => `line ${String(at).padStart(2, '0')}\n`).join(''));
  const [line, ctx] = [8, 12];
  const corpus = new Corpus(text, undefined, ctx, 7, line);
  assert.equal(corpus.train.length % line, 0);
  const [ids, targets] = [new Int32Array(4 * ctx), new Int32Array(4 * ctx)];
  const seen = new Set();
  const look = () => {
    for (let row = 0; row < 4; row++) {
      const window = new TextDecoder().decode(Uint8Array.from(ids.subarray(row * ctx, (row + 1) * ctx)));
      assert.match(window, /^line \d\d\nline$/);
      seen.add(window);
    }
    assert.deepEqual([...targets.subarray(0, ctx - 1)], [...ids.subarray(1, ctx)]);
  };
  for (let step = 0; step < 200; step++) {
    corpus.fillTrain(step, ids, targets);
    look();
  }
  // The first and the last that fit are drawn, too.
  assert.ok(seen.has('line 00\nline') && seen.has('line 88\nline') && !seen.has('line 89\nline'), [...seen].sort().at(-1));
  for (let index = 0; index < 3; index++) {
    corpus.fillValidation(index, 3, ids, targets);
    look();
  }
});

test('choices and cross-entropies are those of Rust', () => {
  const logits = Float32Array.from(figures.sampling.logits);
  for (const { temperature, top_k: topK, seed, tokens } of figures.sampling.texts) {
    const sampler = new Sampler(temperature, topK ?? undefined, seed);
    assert.deepEqual(tokens.map((_, index) => sampler.choose(logits, index)), tokens);
  }
  const close = (a, b) => Math.abs(a - b) <= 1e-13 * Math.abs(b);
  figures.sampling.cross_entropies.forEach((expected, target) => assert.ok(close(crossEntropy(logits, target), expected)));
});

test('bad sampling is refused', () => {
  assert.throws(() => new Sampler(-1, undefined, 0), /temperature must be 0 \(greedy\) or more, and is -1/);
  assert.throws(() => new Sampler(1, 0, 0), /topK must be at least 1, and is 0/);
  assert.throws(() => new Sampler(0, undefined, 0).choose(Float32Array.of(1, NaN), 3), /token 3 cannot be chosen/);
  const zeros = new Sampler(0, undefined, 0);
  assert.equal(zeros.choose(Float32Array.of(-0, 0, 0), 0), 1);
});

test('safetensors round-trip, and damage is a sentence', () => {
  const tensors = new Map([
    ['b', { shape: [2], data: Float32Array.of(1, -0) }],
    ['a', { shape: [1, 1], data: Float32Array.of(NaN) }],
  ]);
  const file = writeTensors({ tensors, metadata: { z: 'é', format: 'pt' } });
  const read = readTensors(file, 'f');
  assert.deepEqual([...read.tensors.keys()].sort(), ['a', 'b']);
  assert.ok(Object.is(read.tensors.get('b').data[1], -0) && read.metadata.z === 'é');
  for (let length = 0; length < file.length; length++) {
    assert.throws(() => readTensors(file.subarray(0, length), 'f'), /^Error: f is truncated or not a safetensors file/);
  }
});

test('each lack has its sentence', () => {
  const all = { simd: true, relaxed: true, threads: true, memory64: true, isolated: true };
  assert.equal(whyNothing(all), undefined);
  assert.match(whyNothing({ ...all, simd: false }), /lacks WebAssembly SIMD/);
  assert.equal(whyOneThread(all, false), undefined);
  assert.match(whyOneThread({ ...all, threads: false }, false), /lacks WebAssembly threads/);
  assert.match(whyOneThread({ ...all, isolated: false }, false), /not cross-origin isolated/);
  assert.match(whyOneThread(all, true), /create the runner inside a Worker/);
  const found = probe();
  assert.ok(found.simd && found.threads && found.isolated);
});

test('a variant is chosen by features and wishes', () => {
  const variants = [false, true].flatMap((relaxed) => [false, true].map((threads) => ({ file: 'f', bytes: 1, relaxed, threads })));
  const layout = { memory64: false, fixed_bytes: 0, thread_bytes: 0, max_threads: 8, entries: [] };
  const all = { simd: true, relaxed: true, threads: true, memory64: true, isolated: true };
  const pick = (options, features = {}, cores = 4, window = false) => {
    const { variant, threads, notices } = choose({ layout, variants }, options, { ...all, ...features }, cores, window);
    return [variant.relaxed, variant.threads, threads, notices.length];
  };
  assert.deepEqual(pick({}), [true, true, 4, 0]);
  assert.deepEqual(pick({}, {}, 99), [true, true, 8, 0]);
  assert.deepEqual(pick({ threads: 1 }), [true, false, 1, 0]);
  assert.deepEqual(pick({ relaxed: false, threads: 2 }), [false, true, 2, 0]);
  assert.deepEqual(pick({}, { relaxed: false }), [false, true, 4, 0]);
  // Without isolation: one thread and a notice by default, a refusal when more were asked for.
  assert.deepEqual(pick({}, { isolated: false }), [true, false, 1, 1]);
  assert.deepEqual(pick({ threads: 1 }, { isolated: false }), [true, false, 1, 0]);
  assert.throws(() => pick({ threads: 2 }, { isolated: false }), /not cross-origin isolated/);
  assert.throws(() => pick({ threads: 2 }, {}, 4, true), /inside a Worker/);
  assert.throws(() => pick({ relaxed: true }, { relaxed: false }), /lacks relaxed SIMD/);
  assert.throws(() => pick({}, { simd: false }), /lacks WebAssembly SIMD/);
  const wide = { layout: { ...layout, memory64: true }, variants };
  assert.throws(() => choose(wide, {}, { ...all, memory64: false }, 1, false), /more than 4 GiB/);
});

test('foreign manifests are refused', () => {
  assert.throws(() => parseManifest('{'), /truncated or no JSON/);
  assert.throws(() => parseManifest('{}'), /states the format undefined/);
  assert.throws(() => parseManifest('{"format":"tinygpt-web","version":99}'), /has version 99, and this runner reads version 1/);
});
