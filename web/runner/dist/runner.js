// A model that trains, is evaluated and sampled, and whose state goes in and out: an export of tinygpt, running.
//
// Invariants:
// - A run is a function of the manifest's configuration and the text: batch, rate and step number come from (seed, step), so it equals
//   `tinygpt train --backend wasm` with the same module, to the last bit, whatever the number of threads.
// - Looking changes nothing: evaluating and sampling write no weight and no moment.
// - Methods block until they are done; in browsers a runner with several threads must therefore live in a Worker.
import { Corpus } from './data.js';
import { compileModule, cores, Engine } from './engine.js';
import { onWindow, probe, whyNothing, whyOneThread } from './features.js';
import { loaderOf } from './load.js';
import { parseManifest } from './manifest.js';
import { crossEntropy, Sampler } from './sampling.js';
import { learningRate } from './schedule.js';
import { formatState, readState } from './state.js';
/** See the module's invariants. */
export class Runner {
    manifest;
    threads;
    variant;
    /** Sentences on what this engine or page lacks and was done without. */
    notices;
    #engine;
    /** The graph's text, of a model that is one. */
    #graph;
    #step = 0;
    #elapsed = 0;
    #corpus;
    constructor(manifest, engine, threads, variant, notices, graph) {
        this.#graph = graph;
        this.manifest = manifest;
        this.threads = threads;
        this.variant = variant;
        this.notices = notices;
        this.#engine = engine;
    }
    /** A runner of the export at `location`: a URL, or in Node the path of its folder. */
    static async open(location, options = {}) {
        const load = await loaderOf(location);
        const manifest = parseManifest(new TextDecoder().decode(await load('manifest.json')));
        return Runner.create(manifest, load, options);
    }
    /** A runner with the manifest's starting state; `load` gives the bytes of the export's other files. */
    static async create(manifest, load, options = {}) {
        const { variant, threads, notices } = choose(manifest, options, probe(), await cores(), onWindow());
        const module = await compileModule(await load(variant.file), variant.file);
        const { spins } = options;
        const settings = { threads, shared: variant.threads, ...(spins === undefined ? {} : { spins }) };
        const engine = await Engine.create(module, manifest.layout, settings);
        try {
            const graph = manifest.config.graph;
            const text = graph === undefined ? undefined : new TextDecoder().decode(await load(graph));
            const runner = new Runner(manifest, engine, threads, variant, notices, text);
            const { model, optim, step, elapsed_s } = manifest.state;
            runner.importState({ model: await load(model), optim: optim === null ? undefined : await load(optim) });
            [runner.#step, runner.#elapsed] = [step, elapsed_s];
            return runner;
        }
        catch (error) {
            await engine.close();
            throw error;
        }
    }
    /** Steps done. */
    get step() {
        return this.#step;
    }
    /** Rows and tokens of a batch. */
    get shape() {
        const [batch, ctx] = this.#slot(this.#entry('train'), 'ids').shape;
        return [batch, ctx];
    }
    /** The text to train on: its last tenth validates, or all of `validation`. */
    setData(text, validation, stride) {
        const { model, train } = this.manifest.config;
        // A graph's tokens are bytes always.
        if (model !== undefined)
            checkBytes(model.vocab);
        this.#corpus = new Corpus(text, validation, this.shape[1], train.seed, stride);
    }
    /** One step on the next batch. A loss that is not finite is the caller's to judge. */
    trainStep() {
        const started = performance.now();
        const entry = this.#entry('train');
        const lr = learningRate(this.manifest.config.train, this.#step);
        this.#data().fillTrain(this.#step, this.#i32(entry, 'ids'), this.#i32(entry, 'targets'));
        this.#f32(entry, 'lr')[0] = lr;
        this.#f32(entry, 'step')[0] = this.#step + 1;
        this.#engine.run('train');
        this.#step += 1;
        this.#elapsed += (performance.now() - started) / 1e3;
        const [loss, gradNorm] = [this.#scalar(entry, 'loss'), this.#scalar(entry, 'grad_norm')];
        return { step: this.#step, loss, gradNorm, lr };
    }
    /** Mean loss of the fixed validation batches, as `tinygpt train` reports it. */
    validate() {
        const entry = this.#entry('evaluate');
        const count = this.manifest.config.train.eval_batches;
        let total = 0;
        for (let index = 0; index < count; index++) {
            this.#data().fillValidation(index, count, this.#i32(entry, 'ids'), this.#i32(entry, 'targets'));
            this.#engine.run('evaluate');
            total += this.#scalar(entry, 'loss');
        }
        return total / count;
    }
    /** The loss over all of `text`, as `tinygpt eval` states it: consecutive windows of ctx, each byte but the first predicted once. */
    evaluate(text) {
        const { ctx, vocab } = this.#sizes();
        const bytes = text.length - 1;
        if (bytes < 1)
            throw new Error(`the text has ${text.length} bytes, and evaluating needs at least 2`);
        let total = 0;
        for (let from = 0; from < bytes; from += ctx) {
            const to = Math.min(from + ctx, bytes);
            const logits = this.logits(text.subarray(from, to));
            for (let at = from; at < to; at++) {
                total += crossEntropy(logits.subarray((at - from) * vocab, (at - from + 1) * vocab), text[at + 1]);
            }
        }
        const loss = total / bytes;
        return { bytes, loss, bitsPerByte: loss / Math.LN2, perplexity: Math.exp(loss) };
    }
    /** The bytes that follow a prompt, all at once. */
    sample(options = {}) {
        return Uint8Array.from(this.generate(options));
    }
    /**
     * The bytes that follow a prompt, one by one. Within the context each costs one token's work, by a cache of keys and values; a longer
     * text is its last ctx bytes, computed whole for every byte.
     */
    *generate(options = {}) {
        const { prompt = '\n', tokens = 400, temperature = 0.8, topK, seed = 42 } = options;
        const { ctx, vocab } = this.#sizes();
        const sampler = new Sampler(temperature, topK, seed);
        const text = Array.from(typeof prompt === 'string' ? new TextEncoder().encode(prompt) : prompt);
        // An empty text gets the token 0 first.
        if (text.length === 0)
            text.push(0);
        // A graph has no program for one token.
        const decode = this.manifest.layout.entries.find(({ name }) => name === 'decode');
        // What stands behind a position is masked, but must be finite.
        for (const slot of decode?.params ?? []) {
            if (slot.name.startsWith('cache.'))
                this.#engine.f32(slot).fill(0);
        }
        // Bytes of the text whose keys and values the cache holds.
        let cached = 0;
        for (let index = 0; index < tokens; index++) {
            let logits;
            if (decode === undefined || text.length > ctx) {
                const shown = Uint8Array.from(text.slice(-ctx));
                logits = this.logits(shown).subarray((shown.length - 1) * vocab, shown.length * vocab);
            }
            else {
                for (; cached < text.length - 1; cached++)
                    this.#decode(text[cached], cached);
                logits = this.#decode(text[cached], cached);
                cached += 1;
            }
            const token = sampler.choose(logits, index);
            text.push(token);
            yield token;
        }
    }
    /** The state as the files of a native checkpoint, which `tinygpt` reads. */
    exportState() {
        const { weights, config } = this.manifest;
        const entry = this.#entry('train');
        return formatState({ config, graph: this.#graph, weights, step: this.#step, elapsed: this.#elapsed }, (name) => {
            const slot = this.#slot(entry, name);
            return { shape: slot.shape, data: this.#engine.f32(slot) };
        });
    }
    /** Takes the state of a checkpoint of the same architecture. */
    importState(files) {
        const entry = this.#entry('train');
        const { step, elapsed, values } = readState(files, this.manifest.weights, (name) => this.#slot(entry, name).shape);
        for (const [name, value] of values) {
            const to = this.#f32(entry, name);
            if (value)
                to.set(value);
            else
                to.fill(0);
        }
        [this.#step, this.#elapsed] = [step, elapsed];
    }
    /** Ends the threads. Nothing may be called after it. */
    async close() {
        await this.#engine.close();
    }
    /** The logits (rows of vocab) of up to ctx bytes, in place; only the rows of `text` mean something. */
    logits(text) {
        const entry = this.#entry('logits');
        const ids = this.#i32(entry, 'ids');
        ids.fill(0);
        ids.set(text);
        this.#engine.run('logits');
        return this.#f32(entry, 'logits');
    }
    /** Puts a token into the cache at `position`; returns the logits of the token that follows. */
    #decode(token, position) {
        const entry = this.#entry('decode');
        this.#i32(entry, 'token')[0] = token;
        this.#i32(entry, 'position')[0] = position;
        this.#engine.run('decode');
        return this.#f32(entry, 'logits');
    }
    #sizes() {
        const vocab = this.#slot(this.#entry('logits'), 'logits').shape.at(-1);
        checkBytes(vocab);
        return { ctx: this.shape[1], vocab };
    }
    #data() {
        if (this.#corpus === undefined)
            throw new Error('there is no text to train on: call setData first');
        return this.#corpus;
    }
    #entry(name) {
        const entry = this.manifest.layout.entries.find((entry) => entry.name === name);
        if (entry === undefined)
            throw new Error(`the export has no entry ${name}: export again with a current tinygpt`);
        return entry;
    }
    #slot(entry, name) {
        const slot = [...entry.params, ...entry.outputs].find((slot) => slot.name === name);
        if (slot === undefined)
            throw new Error(`the entry ${entry.name} has no input, state or output named ${name}`);
        return slot;
    }
    #f32(entry, name) {
        return this.#engine.f32(this.#slot(entry, name));
    }
    #i32(entry, name) {
        return this.#engine.i32(this.#slot(entry, name));
    }
    #scalar(entry, name) {
        return this.#f32(entry, name)[0];
    }
}
/** The variant and number of threads for an engine. Asking for what it lacks is an error; what is lacking by default is a notice. */
export function choose(manifest, options, features, cores, window) {
    const notices = [];
    const nothing = whyNothing(features);
    if (nothing !== undefined)
        throw new Error(nothing);
    if (manifest.layout.memory64 && !features.memory64) {
        throw new Error('this model needs more than 4 GiB of memory, and this JavaScript engine lacks 64-bit memories: use Node 24, Chrome 133, Firefox 134 or later, or a smaller model');
    }
    const why = whyOneThread(features, window);
    const wanted = options.threads ?? (why === undefined ? Math.min(cores, manifest.layout.max_threads) : 1);
    if (wanted > 1 && why !== undefined)
        throw new Error(why);
    if (options.threads === undefined && why !== undefined)
        notices.push(why);
    if (options.relaxed === true && !features.relaxed) {
        throw new Error('this JavaScript engine lacks relaxed SIMD: use Node 22, Chrome 114 or later, or leave the option relaxed out');
    }
    const relaxed = options.relaxed ?? features.relaxed;
    const variant = manifest.variants.find((v) => v.relaxed === relaxed && v.threads === wanted > 1);
    if (variant === undefined) {
        throw new Error(`the export has no module with relaxed ${relaxed} and threads ${wanted > 1}: export again with a current tinygpt`);
    }
    return { variant, threads: wanted, notices };
}
function checkBytes(vocab) {
    if (vocab !== 256) {
        throw new Error(`text is read as bytes, which need vocab 256, and vocab is ${vocab}: such a model can only be benchmarked`);
    }
}
