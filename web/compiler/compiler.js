// @ts-check
/**
 * The compiler, for JavaScript: in a page, a worker or Node, without a server.
 *
 *     const compiler = await Compiler.load(bytesOfTinygptWebWasm);
 *     const { result } = compiler.request({ request: 'resolve', config: { preset: 'tiny' } });
 *
 * The requests and their results are listed in src/lib.rs. A request that cannot be met throws `CompileError` with one sentence.
 *
 * Invariants:
 * - Calls are synchronous, and compiling takes up to seconds: call from a worker where a page must stay smooth.
 * - A fault of the compiler ends its instance; the next request gets a fresh one, so one bad request spoils no other.
 * - Blobs are copies: they outlive the module's memory and may be transferred.
 */

/**
 * @typedef {object} Exports
 * @property {WebAssembly.Memory} memory
 * @property {(len: number) => number} alloc
 * @property {(pointer: number, len: number) => void} free
 * @property {(pointer: number, len: number) => number} call
 * @property {() => number} failure
 */

/**
 * @typedef {object} Answer
 * @property {any} result what src/lib.rs says of the request
 * @property {Map<string, Uint8Array<ArrayBuffer>>} blobs files, by name
 */

/** A request that was refused, or a fault of the compiler: one sentence. */
export class CompileError extends Error {
  /** @type {number | undefined} where in a graph's text, from 1 */
  line;
  /** @type {number | undefined} in characters, from 1 */
  column;

  /**
   * @param {string} message
   * @param {{ line?: number, column?: number }} [place]
   */
  constructor(message, { line, column } = {}) {
    super(message);
    this.name = 'CompileError';
    this.line = line;
    this.column = column;
  }
}

export class Compiler {
  /** @type {WebAssembly.Module} */
  #module;
  /** @type {Exports | null} null after a fault */
  #exports = null;

  /** @param {WebAssembly.Module} module tinygpt_web.wasm */
  constructor(module) {
    this.#module = module;
  }

  /**
   * @param {BufferSource} bytes of tinygpt_web.wasm
   * @returns {Promise<Compiler>}
   */
  static async load(bytes) {
    return new Compiler(await WebAssembly.compile(bytes));
  }

  /**
   * @param {object} request see src/lib.rs
   * @param {Iterable<[name: string, bytes: Uint8Array]>} [blobs] that go with it
   * @returns {Answer}
   */
  request(request, blobs = []) {
    return decode(this.call(encode(request, [...blobs])));
  }

  /**
   * The response's bytes to a request's.
   * @param {Uint8Array} request
   * @returns {Uint8Array<ArrayBuffer>}
   */
  call(request) {
    this.#exports ??= /** @type {Exports} */ (/** @type {unknown} */ (new WebAssembly.Instance(this.#module).exports));
    const { memory, alloc, free, call, failure } = this.#exports;
    const pointer = alloc(request.length) >>> 0;
    if (pointer === 0) throw new CompileError(`no memory is left for a request of ${request.length} bytes: send a smaller one`);
    new Uint8Array(memory.buffer, pointer, request.length).set(request);
    try {
      const response = call(pointer, request.length) >>> 0;
      const bytes = block(memory, response);
      free(response, bytes.length);
      free(pointer, request.length);
      return bytes;
    } catch (error) {
      this.#exports = null;
      const reason = failure() >>> 0;
      if (reason !== 0) return block(memory, reason);
      throw new CompileError(`the compiler ran out of memory or stack (${error}): choose a smaller model or batch`);
    }
  }
}

/**
 * A copy of the response at an address.
 * @param {WebAssembly.Memory} memory
 * @param {number} pointer
 */
function block(memory, pointer) {
  const total = new DataView(memory.buffer).getUint32(pointer, true);
  return new Uint8Array(memory.buffer, pointer, total).slice();
}

/**
 * The bytes of a request: JSON, or with blobs a block as a response is.
 * @param {object} request
 * @param {[name: string, bytes: Uint8Array][]} blobs
 */
function encode(request, blobs) {
  const text = (/** @type {object} */ value) => new TextEncoder().encode(JSON.stringify(value));
  if (blobs.length === 0) return text(request);
  const list = (/** @type {number} */ from) =>
    blobs.map(([name, { length }]) => {
      const entry = { name, offset: from, bytes: length };
      from += length;
      return entry;
    });
  // Offsets depend on the header's length and it on their digits: room is made for the largest ones, and filled with spaces.
  const start = 8 + text({ ...request, blobs: list(0) }).length + 10 * blobs.length;
  const places = list(start);
  const total = places.reduce((sum, { bytes }) => sum + bytes, start);
  const block = new Uint8Array(total).fill(32, 8, start);
  new DataView(block.buffer).setUint32(0, total, true);
  new DataView(block.buffer).setUint32(4, start - 8, true);
  block.set(text({ ...request, blobs: places }), 8);
  let at = start;
  for (const [, bytes] of blobs) {
    block.set(bytes, at);
    at += bytes.length;
  }
  return block;
}

/**
 * @param {Uint8Array<ArrayBuffer>} response
 * @returns {Answer}
 */
function decode(response) {
  const headerLength = new DataView(response.buffer).getUint32(4, true);
  const header = JSON.parse(new TextDecoder().decode(response.subarray(8, 8 + headerLength)));
  if (!header.ok) throw new CompileError(header.error, header);
  const blobs = new Map();
  for (const { name, offset, bytes } of header.blobs) blobs.set(name, response.slice(offset, offset + bytes));
  return { result: header.result, blobs };
}
