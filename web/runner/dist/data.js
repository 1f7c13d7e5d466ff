// Text as training data, bytes as tokens: the batches of runtime/src/data.rs, byte for byte.
//
// A window is ctx + 1 consecutive bytes: ids are the first ctx of them, targets the last ctx.
import { Stream } from './rng.js';
/** A batch row is 20 bits of the data stream's index. */
const ROW_BITS = 20n;
/** A text split into bytes that train and bytes that validate. */
export class Corpus {
    train;
    validation;
    #ctx;
    #stride;
    #stream;
    /**
     * The last tenth of `text` validates, or all of `validation` where that is given. Windows start at multiples of `stride`, which is 1 but
     * for texts of lines of one length.
     */
    constructor(text, validation, ctx, seed, stride = 1) {
        if (validation === undefined) {
            const needed = (ctx + 1) * 10;
            if (text.length < needed) {
                throw new Error(`the text has ${text.length} bytes, and ctx ${ctx} needs at least ${needed}, so that its last tenth holds one context and the byte after it: give more text, a separate validation text, or a smaller ctx`);
            }
            const last = text.length - Math.floor(text.length / 10);
            const cut = last - (last % stride);
            [this.train, this.validation] = [text.slice(0, cut), text.slice(cut)];
        }
        else {
            [this.train, this.validation] = [text.slice(), validation.slice()];
        }
        for (const bytes of [this.train, this.validation]) {
            if (bytes.length < ctx + 1) {
                throw new Error(`a text has ${bytes.length} bytes, and ctx ${ctx} needs at least ${ctx + 1}: give more text or a smaller ctx`);
            }
        }
        [this.#ctx, this.#stride] = [ctx, stride];
        this.#stream = new Stream(seed, 'data/train');
    }
    /** Fills the training batch of `step`, from 0; ids and targets are whole rows of ctx. */
    fillTrain(step, ids, targets) {
        const starts = Math.ceil((this.train.length - this.#ctx) / this.#stride);
        const draw = (row) => this.#stream.below((BigInt(step) << ROW_BITS) | BigInt(row), starts);
        this.#fill(this.train, ids, targets, (row) => this.#stride * draw(row));
    }
    /** Fills validation batch `index` of `count`: windows evenly spread, the same every time. */
    fillValidation(index, count, ids, targets) {
        const batch = ids.length / this.#ctx;
        const lastStart = BigInt(this.validation.length - this.#ctx - 1);
        const lastWindow = BigInt(Math.max(count * batch - 1, 1));
        this.#fill(this.validation, ids, targets, (row) => {
            const start = Number((BigInt(index * batch + row) * lastStart) / lastWindow);
            return start - (start % this.#stride);
        });
    }
    #fill(bytes, ids, targets, start) {
        const ctx = this.#ctx;
        for (let row = 0; row * ctx < ids.length; row++) {
            const at = start(row);
            ids.set(bytes.subarray(at, at + ctx), row * ctx);
            targets.set(bytes.subarray(at + 1, at + ctx + 1), row * ctx);
        }
    }
}
