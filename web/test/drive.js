// A list of commands on a Runner, in Node and in browsers alike: what the tests of tests/all/wasm.rs ask for.

import { Runner } from '../runner/dist/index.js';

/**
 * Opens `location` with `options`, trains on `text`, and obeys `commands`:
 *   ['train', n] -> [loss, gradNorm] of n steps; ['validate'] -> loss; ['evaluate', text] -> evaluation; ['sample', options] -> text;
 *   ['export'] -> files as base64; ['import', files] -> steps done.
 * Returns the results, with the runner's threads, module and notices.
 */
export async function drive({ location, options, text, commands }) {
  const runner = await Runner.open(location, options);
  const encode = (string) => new TextEncoder().encode(string);
  runner.setData(encode(text));
  const results = [];
  for (const [name, argument] of commands) results.push(obey(runner, name, argument, encode));
  const { threads, notices, variant } = runner;
  await runner.close();
  return { threads, notices, module: variant.file, results };
}

function obey(runner, name, argument, encode) {
  switch (name) {
    case 'train':
      return Array.from({ length: argument }, () => {
        const { loss, gradNorm } = runner.trainStep();
        return [loss, gradNorm];
      });
    case 'validate':
      return runner.validate();
    case 'evaluate':
      return runner.evaluate(encode(argument));
    case 'sample':
      return new TextDecoder().decode(runner.sample(argument));
    case 'export':
      return Object.fromEntries(Object.entries(runner.exportState()).map(([file, bytes]) => [file, toBase64(bytes)]));
    case 'import':
      runner.importState(Object.fromEntries(Object.entries(argument).map(([file, text]) => [file, fromBase64(text)])));
      return runner.step;
    default:
      throw new Error(`there is no command ${name}`);
  }
}

function toBase64(bytes) {
  let text = '';
  for (let at = 0; at < bytes.length; at += 4096) text += String.fromCharCode(...bytes.subarray(at, at + 4096));
  return btoa(text);
}

const fromBase64 = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
