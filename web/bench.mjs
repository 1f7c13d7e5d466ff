// Times training steps of exported modules in this Node, beside the engine's own SIMD peak.
//
//   node [--experimental-wasm-relaxed-simd] bench.mjs [--preset small,medium,large,xl] [--threads 1,2] [--relaxed] [--plain]
//        [--rounds N] [--seconds S] [--json]
//
// The peak is that of a loop on registers, 12 chains of f32x4, on as many threads at once. A round measures the peak and then some
// steps for each number of threads in turn, so that what else the machine does meets all of them; medians over rounds are printed.
// FLOP of a step = 6 params tokens + 12 layers d_model ctx tokens, as `tinygpt bench` counts them.
// --relaxed needs relaxed SIMD, --plain leaves it unused where there is it.
// Exit status: 0 done, 2 usage.
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { availableParallelism, cpus } from 'node:os';
import { parseArgs } from 'node:util';
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';
import { exportModel, temporaryFolder } from './export.mjs';
import { Runner } from './runner/dist/index.js';

/** Milliseconds of one measurement of the peak. */
const PEAK_MS = 60;

const USAGE = 'usage: node bench.mjs [--preset P[,P..]] [--threads N[,N..]] [--relaxed | --plain] [--rounds N] [--seconds S] [--json]';

const median = (values) => {
  const sorted = [...values].sort((a, b) => a - b);
  const half = Math.floor(sorted.length / 2);
  return sorted.length % 2 === 1 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
};

/** Runs `iterations` of the loop; returns the start and end in milliseconds of the system's clock. */
function measurePeak(peak, iterations) {
  const start = performance.timeOrigin + performance.now();
  const sum = peak(iterations);
  if (!Number.isFinite(sum)) throw new Error(`the peak loop came to ${sum}`);
  return [start, performance.timeOrigin + performance.now()];
}

/** The engine's peak on several threads at once. */
class Peak {
  static async create(bytes, flop, threads) {
    const self = new Peak();
    const module = new WebAssembly.Module(bytes);
    self.flop = flop;
    self.peak = new WebAssembly.Instance(module).exports.peak;
    self.workers = Array.from({ length: threads - 1 }, () => new Worker(new URL(import.meta.url), { workerData: module }));
    // Warm, so that the engine's best compiler has done its work.
    self.iterations = 100_000;
    for (let took = 0; took < PEAK_MS; ) {
      const [start, end] = measurePeak(self.peak, self.iterations);
      took = end - start;
      if (took < PEAK_MS) self.iterations *= 2;
    }
    await self.gflops();
    return self;
  }

  /** GFLOP/s of all threads together: each thread's work by its own time. */
  async gflops() {
    // `once` rejects on an error of the worker, and leaves no listener behind.
    const others = this.workers.map(async (worker) => {
      worker.postMessage(this.iterations);
      const [span] = await once(worker, 'message');
      return span;
    });
    const spans = [measurePeak(this.peak, this.iterations), ...(await Promise.all(others))];
    return spans.reduce((sum, [start, end]) => sum + (this.flop * this.iterations) / (end - start) / 1e6, 0);
  }

  async close() {
    await Promise.all(this.workers.map((worker) => worker.terminate()));
  }
}

async function measure(preset, threadCounts, options, rounds, seconds) {
  const folder = exportModel(['--preset', preset], temporaryFolder());
  const lanes = [];
  for (const threads of threadCounts) {
    const runner = await Runner.open(folder, { ...options, threads });
    const { model, train } = runner.manifest.config;
    // Any bytes train; a stream of them that is no constant.
    runner.setData(Uint8Array.from({ length: 100_000 }, (_, at) => (at * 7919) >> 5));
    const { file, flop_per_iteration } = runner.manifest.peak.find((p) => p.relaxed === runner.variant.relaxed);
    const peak = await Peak.create(readFileSync(join(folder, file)), flop_per_iteration, threads);
    const tokens = train.batch * model.ctx;
    const flop = 6 * runner.manifest.params * tokens + 12 * model.layers * model.d_model * model.ctx * tokens;
    const start = performance.now();
    for (let step = 0; step < 3; step++) runner.trainStep();
    // Steps of a round: as many as fit its time.
    const steps = Math.max(1, Math.round((seconds * 1e3) / ((performance.now() - start) / 3) / rounds));
    lanes.push({ threads, runner, peak, flop, steps, ms: [], peaks: [] });
  }
  for (let round = 0; round < rounds; round++) {
    for (const lane of lanes) {
      lane.peaks.push(await lane.peak.gflops());
      for (let step = 0; step < lane.steps; step++) {
        const start = performance.now();
        const { loss } = lane.runner.trainStep();
        lane.ms.push(performance.now() - start);
        if (!Number.isFinite(loss)) throw new Error(`the loss of preset ${preset} is ${loss}`);
      }
      lane.peaks.push(await lane.peak.gflops());
    }
  }
  const results = lanes.map(({ threads, runner, flop, ms, peaks }) => {
    const msPerStep = median(ms);
    const gflops = flop / msPerStep / 1e6;
    return {
      preset,
      threads,
      module: runner.variant.file,
      module_bytes: runner.variant.bytes,
      steps: ms.length,
      ms_per_step: msPerStep,
      gflops,
      peak_gflops: median(peaks),
      share_of_peak: gflops / median(peaks),
      speedup: median(lanes[0].ms) / msPerStep,
    };
  });
  for (const lane of lanes) await Promise.all([lane.runner.close(), lane.peak.close()]);
  return results;
}

async function main() {
  let values;
  try {
    ({ values } = parseArgs({
      options: {
        preset: { type: 'string', default: 'small,medium,large,xl' },
        threads: { type: 'string', default: [...new Set([1, availableParallelism()])].join(',') },
        relaxed: { type: 'boolean', default: false },
        plain: { type: 'boolean', default: false },
        rounds: { type: 'string', default: '5' },
        seconds: { type: 'string', default: '5' },
        json: { type: 'boolean', default: false },
      },
    }));
  } catch (error) {
    console.error(`${error.message}\n${USAGE}`);
    process.exit(2);
  }
  const threadCounts = values.threads.split(',').map(Number);
  const [rounds, seconds] = [Number(values.rounds), Number(values.seconds)];
  if (![...threadCounts, rounds].every((n) => Number.isInteger(n) && n >= 1) || !(seconds > 0) || (values.relaxed && values.plain)) {
    console.error(USAGE);
    process.exit(2);
  }
  const options = values.relaxed ? { relaxed: true } : values.plain ? { relaxed: false } : {};
  if (!values.json) {
    console.log(`Node ${process.versions.node}, V8 ${process.versions.v8}, ${cpus()[0]?.model ?? 'unknown processor'}, ${availableParallelism()} cores`);
    console.log('preset   threads  ms/step  GFLOP/s  peak  share  speedup  steps  module');
  }
  for (const preset of values.preset.split(',')) {
    for (const r of await measure(preset, threadCounts, options, rounds, seconds)) {
      if (values.json) {
        console.log(JSON.stringify(r));
      } else {
        const columns = [
          r.preset.padEnd(8),
          String(r.threads).padStart(7),
          r.ms_per_step.toFixed(2).padStart(8),
          r.gflops.toFixed(1).padStart(8),
          r.peak_gflops.toFixed(0).padStart(5),
          r.share_of_peak.toFixed(3).padStart(6),
          r.speedup.toFixed(2).padStart(8),
          String(r.steps).padStart(6),
          ` ${r.module} ${(r.module_bytes / 1e3).toFixed(0)} KB`,
        ];
        console.log(columns.join(' '));
      }
    }
  }
}

// The workers of a peak run this file too.
if (!isMainThread) {
  const { exports } = new WebAssembly.Instance(workerData);
  parentPort.on('message', (iterations) => parentPort.postMessage(measurePeak(exports.peak, iterations)));
} else {
  await main();
}
