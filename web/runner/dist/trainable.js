// What trains, whatever runs it: one interface over the WebAssembly runner and the WebGPU runner, asynchronous since a GPU is.
//
// Invariants:
// - A run is a function of its configuration and text on either engine; engines differ in rounding only.
// - Looking changes nothing: validating, sampling and `run` write no weight and no moment.
// - While groups of steps are under way, `step` counts those whose results have come back.
import { Runner } from './runner.js';
/** The WebAssembly runner as a `Trainable`. Its calls block until they are done. */
export class WasmTrainable {
    backend = 'wasm';
    depth = 1;
    group = 64;
    runner;
    constructor(runner) {
        this.runner = runner;
    }
    static async create(...args) {
        return new WasmTrainable(await Runner.create(...args));
    }
    get step() {
        return this.runner.step;
    }
    get batch() {
        return this.runner.shape[0];
    }
    get ctx() {
        return this.runner.shape[1];
    }
    get memoryBytes() {
        const { fixed_bytes, thread_bytes } = this.runner.manifest.layout;
        return fixed_bytes + this.runner.threads * thread_bytes;
    }
    setData(text, validation, stride) {
        this.runner.setData(text, validation, stride);
    }
    setSteps(total) {
        this.runner.manifest.config.train.steps = total;
    }
    async trainSteps(count) {
        return Array.from({ length: count }, () => this.runner.trainStep());
    }
    async validate() {
        return this.runner.validate();
    }
    async *generate(options) {
        yield* this.runner.generate(options);
    }
    async logits(text) {
        return this.runner.logits(text).slice();
    }
    async exportState() {
        return this.runner.exportState();
    }
    async importState(files) {
        this.runner.importState(files);
    }
    close() {
        return this.runner.close();
    }
}
