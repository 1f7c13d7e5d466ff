// One instance of a module with its memory and threads: entries that run, and slots as typed arrays.
//
// Invariants:
// - memory is made once, of the size that the layout states for the number of threads, and never grows, so views stay valid;
// - every thread instantiates the same module on the same memory; thread 0 is the caller's, the others are Workers that sit inside
//   the module until `close`; no JavaScript runs within a step;
// - `run` blocks until the step is done.
/** What modules with clocks import: seconds. */
export const clock = () => performance.now() / 1e3;
/** How often a waiting thread looks before it sleeps: some tens of microseconds. */
const SPINS = 20_000;
const PAGE = 65_536;
/** Whether this is Node. */
export const isNode = typeof process === 'object' && process.versions?.node !== undefined;
/** Processors this process may use. */
export async function cores() {
    if (!isNode)
        return navigator.hardwareConcurrency || 1;
    const os = await import('node:os');
    return os.availableParallelism?.() ?? os.cpus().length;
}
/** Compiles a module; the error names `file`. */
export async function compileModule(bytes, file) {
    try {
        return await WebAssembly.compile(bytes);
    }
    catch (error) {
        throw new Error(`this JavaScript engine refuses the module ${file} (${error.message}): use a newer engine, or export again with the tinygpt that this runner belongs to`);
    }
}
/** A memory of 64-bit addresses, which newer engines describe otherwise than older ones did. */
function createWideMemory(pages, shared) {
    // Both are newer than the type definitions.
    const newer = { initial: BigInt(pages), maximum: BigInt(pages), shared, address: 'i64' };
    const older = { initial: pages, maximum: pages, shared, index: 'i64' };
    try {
        return new WebAssembly.Memory(newer);
    }
    catch (error) {
        // An older engine takes no BigInt.
        if (!(error instanceof TypeError))
            throw error;
        return new WebAssembly.Memory(older);
    }
}
function createMemory(layout, { threads, shared }) {
    const pages = Math.ceil((layout.fixed_bytes + threads * layout.thread_bytes) / PAGE);
    try {
        if (layout.memory64)
            return createWideMemory(pages, shared);
        return new WebAssembly.Memory({ initial: pages, maximum: pages, shared });
    }
    catch (error) {
        const mib = Math.ceil((pages * PAGE) / 2 ** 20);
        throw new Error(`the model needs ${mib} MiB of memory, which this JavaScript engine does not give (${error.message}): close other pages or programs, or choose a smaller model, batch or number of threads`);
    }
}
/** Starts thread `start.thread` and resolves once it is inside the module. */
async function startThread(start) {
    const failed = (why) => new Error(`thread ${start.thread} could not start: ${why}`);
    if (isNode) {
        const { Worker } = await import('node:worker_threads');
        // Bundlers for pages look for the expression below, and have no use for this one.
        const here = import.meta.url;
        const url = new URL('./worker.js', here);
        // Its streams stay its own: joining them to this process's makes those non-blocking, on which the host's writes would fail.
        const worker = new Worker(url, { workerData: start, stdout: true, stderr: true });
        await new Promise((resolve, reject) => {
            worker.once('message', (said) => (said === 'ready' ? resolve() : reject(failed(String(said)))));
            worker.once('error', (error) => reject(failed(error.message)));
        });
        return worker;
    }
    const worker = new Worker(new URL('./worker.js', import.meta.url), { type: 'module' });
    await new Promise((resolve, reject) => {
        worker.onmessage = ({ data }) => (data === 'ready' ? resolve() : reject(failed(String(data))));
        worker.onerror = (event) => reject(failed(event.message || 'its script could not be loaded'));
        worker.postMessage(start);
    });
    return worker;
}
/** An instance that runs. */
export class Engine {
    #exports;
    #memory;
    #threads;
    constructor(instance, memory, threads) {
        this.#exports = instance.exports;
        this.#memory = memory;
        this.#threads = threads;
    }
    /** Makes the memory and starts the threads. The memory is all zeros. */
    static async create(module, layout, options) {
        const { threads, shared, fatal = false } = options;
        if (!(Number.isInteger(threads) && threads >= 1 && threads <= layout.max_threads)) {
            throw new Error(`threads must be from 1 to ${layout.max_threads}, and is ${threads}`);
        }
        const memory = createMemory(layout, options);
        const instance = new WebAssembly.Instance(module, { env: { memory, clock } });
        const spins = options.spins ?? (threads > (await cores()) ? 0 : SPINS);
        instance.exports.init(threads, spins);
        const others = Array.from({ length: threads - 1 }, (_, at) => ({ module, memory, thread: at + 1, fatal }));
        if (others.length > 0 && !shared)
            throw new Error('a module without threads was asked to run on several');
        return new Engine(instance, memory, await Promise.all(others.map(startThread)));
    }
    /** Runs an entry's whole program on all threads. */
    run(entry) {
        this.#exports[entry]();
    }
    /** `bytes` bytes of the memory from `offset`. */
    bytes(offset, bytes) {
        return new Uint8Array(this.#memory.buffer, offset, bytes);
    }
    /** The elements of an f32 slot, in place. */
    f32(slot) {
        return new Float32Array(this.#memory.buffer, slot.offset, slot.bytes / 4);
    }
    /** The elements of an integer or truth-value slot, in place. */
    i32(slot) {
        return new Int32Array(this.#memory.buffer, slot.offset, slot.bytes / 4);
    }
    /** Ends the threads. Nothing runs after it. */
    async close() {
        if (this.#threads.length === 0)
            return;
        this.#exports.stop();
        await Promise.all(this.#threads.splice(0).map((thread) => thread.terminate()));
    }
}
