// Trains the preset tiny on a short text until it knows it, and has it recite the text.
//
//   node smoke.mjs [--threads N]
//
// Exit status: 0 the loss fell below LOSS and greedy sampling reproduced the text, 1 not, 2 usage.
import { parseArgs } from 'node:util';
import { exportModel, temporaryFolder } from './export.mjs';
import { Runner } from './runner/dist/index.js';

/** Nats a byte below which the text is known. */
const LOSS = 0.05;
const MOST_STEPS = 400;

const SENTENCE = 'the quick brown fox jumps over the lazy dog. ';

let threads;
try {
  const { values } = parseArgs({ options: { threads: { type: 'string' } } });
  threads = values.threads === undefined ? undefined : Number(values.threads);
} catch (error) {
  console.error(`${error.message}\nusage: node smoke.mjs [--threads N]`);
  process.exit(2);
}

const folder = exportModel(['--preset', 'tiny', '--steps', String(MOST_STEPS), '--schedule', 'constant'], temporaryFolder());
const runner = await Runner.open(folder, threads === undefined ? {} : { threads });
runner.setData(new TextEncoder().encode(SENTENCE.repeat(40)));
let result = runner.trainStep();
console.log(`${runner.variant.file} on ${runner.threads} thread(s); loss of step 1: ${result.loss.toFixed(4)}`);
while (result.loss > LOSS && result.step < MOST_STEPS) result = runner.trainStep();
console.log(`loss of step ${result.step}: ${result.loss.toFixed(4)}, ${LOSS} or less was asked for`);
// Within the context, by the cache of keys and values, and beyond it, by the whole window.
const tokens = 2 * SENTENCE.length;
const prompt = SENTENCE.slice(0, 16);
const expected = SENTENCE.repeat(4).slice(prompt.length, prompt.length + tokens);
const found = new TextDecoder().decode(runner.sample({ prompt, tokens, temperature: 0 }));
console.log(`greedy: ${JSON.stringify(prompt + found)}`);
await runner.close();
const passed = result.loss <= LOSS && found === expected;
console.log(passed ? 'smoke: passed' : `smoke: failed, ${JSON.stringify(prompt + expected)} was expected`);
process.exit(passed ? 0 : 1);
