// A model that trains on a GPU by WebGPU: the dispatch lists of the compiler's request `wgsl`, running.
//
//     const gpu = await Gpu.open();
//     const load = (entry) => compiler.request({ request: 'wgsl', config, entry, caps: gpu.caps }).result;
//     const runner = await GpuRunner.create(gpu, resolved, load, { model });
//     runner.setData(text);
//     const results = await runner.trainSteps(10);
//
// In browsers, and in Node with the npm package `webgpu`. The invariants are those of `Trainable`.
import { Corpus } from './data.js';
import { GpuEngine, GROUP } from './gpu-engine.js';
import { Sampler } from './sampling.js';
import { learningRate } from './schedule.js';
import { formatState, readState, stateNames, weightsOf } from './state.js';
export { Gpu, GpuFault, reportOf, requestAdapter, whyNoGpu } from './gpu-device.js';
/** Groups of steps under way: the host needs to be one ahead of the device. */
const DEPTH = 2;
const LOSSES = ['loss', 'grad_norm'];
export class GpuRunner {
    backend = 'webgpu';
    depth = DEPTH;
    group = GROUP;
    batch;
    ctx;
    config;
    engine;
    weights;
    #shapes;
    #step = 0;
    /** Steps submitted whose results have not come back. */
    #ahead = 0;
    #elapsed = 0;
    /** When the last group came back. */
    #landed = 0;
    #corpus;
    constructor(engine, config, shapes, weights) {
        [this.engine, this.config, this.#shapes, this.weights] = [engine, config, shapes, weights];
        const [batch = 0, ctx = 0] = shapes.get('ids') ?? [];
        [this.batch, this.ctx] = [batch, ctx];
    }
    /** A runner of the complete configuration `config`, with the state of `files`; `load` gives the dispatch list of an entry. */
    static async create(gpu, config, load, files) {
        const engine = await GpuEngine.create(gpu, 'train', load);
        const { slots } = await engine.program('train');
        const states = [...slots.values()].filter((slot) => slot.role === 'state').map((slot) => slot.name);
        const shapes = new Map([...slots].map(([name, slot]) => [name, slot.shape]));
        const runner = new GpuRunner(engine, structuredClone(config), shapes, weightsOf(states));
        try {
            await runner.importState(files);
        }
        catch (error) {
            await runner.close();
            throw error;
        }
        return runner;
    }
    get step() {
        return this.#step;
    }
    get memoryBytes() {
        return this.engine.bytes;
    }
    setData(text, validation, stride) {
        this.#corpus = new Corpus(text, validation, this.ctx, this.config.train.seed, stride);
    }
    setSteps(total) {
        this.config.train.steps = total;
    }
    async trainSteps(count) {
        const corpus = this.#data();
        const first = this.#step + this.#ahead;
        const rates = Array.from({ length: count }, (_, at) => learningRate(this.config.train, first + at));
        const steps = rates.map((lr, at) => {
            const batch = this.#batch();
            corpus.fillTrain(first + at, batch.ids, batch.targets);
            return { ...batch, lr: Float32Array.of(lr), step: Float32Array.of(first + at + 1) };
        });
        const started = performance.now();
        this.#ahead += count;
        const results = await this.engine.run('train', steps, LOSSES);
        const now = performance.now();
        this.#elapsed += (now - Math.max(started, this.#landed)) / 1e3;
        this.#landed = now;
        this.#ahead -= count;
        this.#step += count;
        return results.map(([loss, gradNorm], at) => ({
            step: first + at + 1,
            loss: loss?.[0],
            gradNorm: gradNorm?.[0],
            lr: rates[at],
        }));
    }
    async validate() {
        const corpus = this.#data();
        const count = this.config.train.eval_batches;
        let total = 0;
        for (let from = 0; from < count; from += GROUP) {
            const steps = Array.from({ length: Math.min(GROUP, count - from) }, (_, at) => {
                const batch = this.#batch();
                corpus.fillValidation(from + at, count, batch.ids, batch.targets);
                return batch;
            });
            for (const [loss] of await this.engine.run('evaluate', steps, ['loss']))
                total += loss?.[0];
        }
        return total / count;
    }
    async logits(text) {
        const { bytes } = await this.engine.slot('logits', 'ids');
        // Of a graph with several rows the first one counts.
        const ids = new Int32Array(bytes / 4);
        ids.set(text);
        const [[logits] = []] = await this.engine.run('logits', [{ ids }], ['logits']);
        return logits;
    }
    async *generate(options = {}) {
        const { prompt = '\n', tokens = 400, temperature = 0.8, topK, seed = 42 } = options;
        const sampler = new Sampler(temperature, topK, seed);
        const text = Array.from(typeof prompt === 'string' ? new TextEncoder().encode(prompt) : prompt);
        // An empty text gets the token 0 first.
        if (text.length === 0)
            text.push(0);
        // A graph of one's own has no program for one token.
        const decodes = this.config.graph === undefined;
        if (decodes)
            await this.#clearCache();
        // Bytes of the text whose keys and values the cache holds.
        let cached = 0;
        for (let index = 0; index < tokens; index++) {
            let logits;
            if (decodes && text.length <= this.ctx) {
                const steps = text.slice(cached).map((token, at) => ({ token: Int32Array.of(token), position: Int32Array.of(cached + at) }));
                logits = await this.#decode(steps);
                cached = text.length;
            }
            else {
                const shown = Uint8Array.from(text.slice(-this.ctx));
                const all = await this.logits(shown);
                const vocab = await this.#vocab();
                logits = all.subarray((shown.length - 1) * vocab, shown.length * vocab);
            }
            const token = sampler.choose(logits, index);
            text.push(token);
            yield token;
        }
    }
    async exportState() {
        const names = stateNames(this.weights);
        const values = await this.engine.read('train', names);
        const byName = new Map(names.map((name, at) => [name, values[at]]));
        const { config, weights } = this;
        return formatState({ config, graph: config.graph, weights, step: this.#step, elapsed: this.#elapsed }, (name) => ({
            shape: this.#shapes.get(name) ?? [],
            data: byName.get(name),
        }));
    }
    async importState(files) {
        if (this.#ahead > 0)
            throw new Error('steps are under way: wait for them before a state is taken');
        const { step, elapsed, values } = readState(files, this.weights, (name) => this.#shapes.get(name) ?? []);
        for (const [name, value] of values) {
            const { bytes } = await this.engine.slot('train', name);
            await this.engine.write('train', name, value ?? new Float32Array(bytes / 4));
        }
        [this.#step, this.#elapsed] = [step, elapsed];
    }
    async close() {
        this.engine.close();
    }
    /** The logits after the last of these tokens, which are put into the cache. */
    async #decode(steps) {
        for (let from = 0; steps.length - from > 1; from += GROUP) {
            await this.engine.run('decode', steps.slice(from, Math.min(from + GROUP, steps.length - 1)), []);
        }
        const [[logits] = []] = await this.engine.run('decode', steps.slice(-1), ['logits']);
        return logits;
    }
    /** What stands behind a position is masked, but must be finite. */
    async #clearCache() {
        const { slots } = await this.engine.program('decode');
        for (const { name, bytes } of slots.values()) {
            if (name.startsWith('cache.'))
                await this.engine.write('decode', name, new Uint8Array(bytes));
        }
    }
    async #vocab() {
        return (await this.engine.slot('logits', 'logits')).shape.at(-1);
    }
    #batch() {
        const tokens = this.batch * this.ctx;
        return { ids: new Int32Array(tokens), targets: new Int32Array(tokens) };
    }
    #data() {
        if (this.#corpus === undefined)
            throw new Error('there is no text to train on: call setData first');
        return this.#corpus;
    }
}
