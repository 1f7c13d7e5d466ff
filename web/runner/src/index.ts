// tinygpt's runner: loads an export of `tinygpt export --format web` in Node and in browsers, trains it and samples from it.
//
//     import { Runner } from './runner/index.js';
//     const runner = await Runner.open('path/or/url/of/the/export');
//     runner.setData(new TextEncoder().encode(text));
//     for (let i = 0; i < 100; i++) console.log(runner.trainStep().loss);
//     console.log(new TextDecoder().decode(runner.sample({ prompt: 'Once', tokens: 200 })));
//     await runner.close();
//
// docs/WASM.md specifies the module and the manifest.

export { Engine, compileModule, cores } from './engine.js';
export { probe, whyNothing, whyOneThread } from './features.js';
export type { Features } from './features.js';
export type { Loader } from './load.js';
export { parseManifest } from './manifest.js';
export type { Entry, Layout, Manifest, Slot, Variant } from './manifest.js';
export { Runner } from './runner.js';
export type { Evaluation, RunnerOptions, SampleOptions, StepResult } from './runner.js';
export type { StateFiles } from './state.js';
