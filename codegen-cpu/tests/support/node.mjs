// Runs WebAssembly modules for tests. Requests come on standard input, each answered on standard output before the next is read.
//
// Frames: u32 length of the header, u32 length of the data, the header in JSON, the data. A request's header is
//   { module, pages, shared, memory64, threads, writes: [[offset, bytes]..], calls: [[name, ...arguments]..], reads: [[offset, bytes]..] }
// and its data the module (of `module` bytes) and what is to be written, in order. Memory has `pages` pages of zeros. The answer's data
// is what was read, its header {} or { error }. Arguments that are strings are 64-bit integers.
//
// The first frame out says what this engine has: { node, relaxed, fused, memory64 }.
import fs from 'node:fs';
import v8 from 'node:v8';
import { Worker, isMainThread, parentPort } from 'node:worker_threads';

// Engines that know these as defaults no longer know the flags, which is as well.
for (const flag of ['--experimental-wasm-relaxed-simd', '--experimental-wasm-memory64']) v8.setFlagsFromString(flag);

const instantiate = async (bytes, memory) => {
  const module = await WebAssembly.compile(bytes);
  return WebAssembly.instantiate(module, { env: { memory } });
};

if (!isMainThread) {
  parentPort.on('message', async ({ bytes, memory, thread }) => {
    const { exports } = await instantiate(bytes, memory);
    try {
      exports.worker(thread);
    } catch (e) {
      // Thread 0 waits inside the module, and would for ever.
      fs.writeSync(2, `thread ${thread}: ${e.stack}\n`);
      process.kill(process.pid, 'SIGKILL');
    }
    parentPort.postMessage('stopped');
  });
} else {
  const readExactly = (length) => {
    const out = Buffer.alloc(length);
    for (let at = 0; at < length; ) {
      let n;
      try {
        n = fs.readSync(0, out, at, length - at);
      } catch (e) {
        if (e.code === 'EAGAIN') continue;
        if (e.code === 'EOF') return null;
        throw e;
      }
      if (n === 0) return null;
      at += n;
    }
    return out;
  };
  const write = (header, parts = []) => {
    const text = Buffer.from(JSON.stringify(header));
    const lengths = Buffer.alloc(8);
    lengths.writeUInt32LE(text.length, 0);
    lengths.writeUInt32LE(parts.reduce((n, p) => n + p.length, 0), 4);
    for (const part of [lengths, text, ...parts])
      for (let at = 0; at < part.length; ) {
        try {
          at += fs.writeSync(1, part, at);
        } catch (e) {
          if (e.code !== 'EAGAIN') throw e;
        }
      }
  };

  const memoryOf = ({ pages, shared, memory64 }) => {
    if (!memory64) return new WebAssembly.Memory({ initial: pages, maximum: pages, shared });
    try {
      return new WebAssembly.Memory({ initial: BigInt(pages), maximum: BigInt(pages), shared, address: 'i64' });
    } catch {
      return new WebAssembly.Memory({ initial: pages, maximum: pages, shared, index: 'i64' });
    }
  };

  const workers = [];
  const run = async (request, data) => {
    const bytes = data.subarray(0, request.module);
    const memory = memoryOf(request);
    let at = request.module;
    for (const [offset, length] of request.writes) {
      new Uint8Array(memory.buffer, offset, length).set(data.subarray(at, at + length));
      at += length;
    }
    const { exports } = await instantiate(bytes, memory);
    const others = request.threads - 1;
    while (workers.length < others) {
      const worker = new Worker(new URL(import.meta.url));
      await new Promise((resolve) => worker.once('online', resolve));
      worker.unref();
      workers.push(worker);
    }
    if (request.threads) exports.init(request.threads, 100);
    const stopped = workers.slice(0, Math.max(others, 0)).map((worker, i) => {
      const stopped = new Promise((resolve) => worker.once('message', resolve));
      worker.postMessage({ bytes, memory, thread: i + 1 });
      return stopped;
    });
    for (const [name, ...args] of request.calls)
      exports[name](...args.map((a) => (typeof a === 'string' ? BigInt(a) : a)));
    if (others > 0) exports.stop();
    await Promise.all(stopped);
    return request.reads.map(([offset, length]) => Buffer.from(memory.buffer.slice(offset, offset + length)));
  };

  // (1 + 2^-12)^2 - 1 - 2^-11 is 2^-24 if the product is not rounded, else 0; and a module with a memory of 64-bit addresses.
  const relaxedProbe = Buffer.from('AGFzbQEAAAABBQFgAAF9AwIBAAcIAQRtYWRkAAAKHwEdAEMACIA//RNDAAiAP/0TQwAQgL/9E/2FAv0fAAs=', 'base64');
  const memory64Probe = Buffer.from('AGFzbQEAAAAFAwEEAQ==', 'base64');
  const relaxed = WebAssembly.validate(relaxedProbe);
  const fused = relaxed && new WebAssembly.Instance(new WebAssembly.Module(relaxedProbe)).exports.madd() !== 0;
  write({ node: process.version, relaxed, fused, memory64: WebAssembly.validate(memory64Probe) });
  for (;;) {
    const lengths = readExactly(8);
    if (!lengths) break;
    const header = JSON.parse(readExactly(lengths.readUInt32LE(0)).toString());
    const data = readExactly(lengths.readUInt32LE(4));
    try {
      write({}, await run(header, data));
    } catch (e) {
      write({ error: String(e.stack ?? e) });
    }
  }
  process.exit(0);
}
