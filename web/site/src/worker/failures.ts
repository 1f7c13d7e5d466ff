// Failures as a sentence, advice and a kind.

import { GpuFault } from '../../../runner/src/gpu.js';
import type { Failure } from '../protocol.js';

/** Several steps in a row were not finite. */
export function nanFailure(step: number, loss: number, gradNorm: number, lastGood: number, lr: number): Failure {
  const what = Number.isFinite(loss) ? `its gradient norm is ${gradNorm}` : `its loss is ${loss}`;
  return {
    kind: 'nan',
    sentence: `training has stopped at step ${step}, since ${what}`,
    advice: `the learning rate (${Number(lr.toPrecision(3))} at this step) is probably too high: begin anew with a lower lr or a longer warmup. Step ${lastGood} was the last good one; the steps after it changed no weight.`,
  };
}

/** What was thrown while steps ran. */
export function failureOf(error: unknown, lastGood: number): Failure {
  const sentence = error instanceof Error ? error.message : String(error);
  const kind = error instanceof GpuFault ? error.kind : error instanceof RangeError ? 'memory' : 'other';
  const advice = {
    'device-lost': `open the run again: it goes on from the last step that was kept (${lastGood} was the last one done). If it happens again, choose a smaller model or train with WebAssembly.`,
    memory: 'choose a smaller model, ctx or batch, or close other pages.',
    other: 'open the run again; if it happens again, train with the other backend and report it.',
  }[kind];
  return { kind, sentence, advice };
}
