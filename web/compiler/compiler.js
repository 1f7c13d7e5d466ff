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
  /** @param {string} message */
  constructor(message) {
    super(message);
    this.name = 'CompileError';
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
   * @returns {Answer}
   */
  request(request) {
    return decode(this.call(new TextEncoder().encode(JSON.stringify(request))));
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
 * @param {Uint8Array<ArrayBuffer>} response
 * @returns {Answer}
 */
function decode(response) {
  const headerLength = new DataView(response.buffer).getUint32(4, true);
  const header = JSON.parse(new TextDecoder().decode(response.subarray(8, 8 + headerLength)));
  if (!header.ok) throw new CompileError(header.error);
  const blobs = new Map();
  for (const { name, offset, bytes } of header.blobs) blobs.set(name, response.slice(offset, offset + bytes));
  return { result: header.result, blobs };
}
