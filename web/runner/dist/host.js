// Node's side of `tinygpt --backend wasm`: runs one module for the tinygpt process at the other end of standard input and output.
//
// Conversation, integers little-endian; runtime/src/wasm/node.rs is the other side:
//   1. to tinygpt: a JSON frame {"version", "features"}; a frame is a u32 length and that many bytes
//   2. from tinygpt: a JSON frame {"layout", "entry", "threads", "shared"}, then a frame with the module
//   3. to tinygpt: a JSON frame {"error": sentence or null}
//   4. from tinygpt: commands, until standard input ends. A command is u32 op, u32 bytes, u64 address.
//      op 1 writes the `bytes` bytes that follow it to `address`; op 2 answers with `bytes` bytes from `address`; op 3 runs the entry.
// Commands have no answers of their own, so that a step with its writes and reads is one message. A failure ends the process with a
// sentence on standard error.
//
// Invariant: after step 3 nothing is allocated but views, and nothing waits for the event loop.
import { readSync, writeSync } from 'node:fs';
import { compileModule, Engine } from './engine.js';
import { probe } from './features.js';
const WRITE = 1;
const READ = 2;
const RUN = 3;
const COMMAND_BYTES = 16;
const [INPUT, OUTPUT] = [0, 1];
/** Bytes of standard input that were read and not yet used. */
const buffer = Buffer.alloc(1 << 16);
let [start, end] = [0, 0];
/** Reads into `to`; returns how much came, 0 at the end of input. */
function readSome(to) {
    try {
        return readSync(INPUT, to);
    }
    catch (error) {
        // Windows reports the end of a pipe as an error.
        if (error.code === 'EOF')
            return 0;
        throw error;
    }
}
/** Fills `to`; false if input ended before its first byte. */
function fill(to) {
    let done = 0;
    while (done < to.length) {
        if (start === end) {
            // What is larger than the buffer goes straight to its place.
            const direct = to.length - done >= buffer.length;
            const came = readSome(direct ? to.subarray(done) : buffer);
            if (came === 0) {
                if (done === 0)
                    return false;
                throw new Error('standard input ended within a message');
            }
            if (direct) {
                done += came;
                continue;
            }
            [start, end] = [0, came];
        }
        const part = Math.min(end - start, to.length - done);
        to.set(buffer.subarray(start, start + part), done);
        start += part;
        done += part;
    }
    return true;
}
function send(bytes) {
    for (let done = 0; done < bytes.length;)
        done += writeSync(OUTPUT, bytes, done);
}
function sendFrame(value) {
    const text = Buffer.from(JSON.stringify(value));
    const length = Buffer.alloc(4);
    length.writeUInt32LE(text.length);
    send(length);
    send(text);
}
function receiveFrame() {
    const length = Buffer.alloc(4);
    if (!fill(length))
        process.exit(0);
    const frame = new Uint8Array(length.readUInt32LE());
    if (frame.length > 0 && !fill(frame))
        throw new Error('standard input ended within a message');
    return frame;
}
/** Makes the engine that tinygpt asks for; answers with the sentence if it cannot be made. */
async function prepare() {
    sendFrame({ version: process.versions.node, features: probe() });
    const asked = JSON.parse(Buffer.from(receiveFrame()).toString());
    const bytes = receiveFrame();
    try {
        const module = await compileModule(bytes, asked.entry);
        const engine = await Engine.create(module, asked.layout, { threads: asked.threads, shared: asked.shared, fatal: true });
        sendFrame({ error: null });
        return [engine, asked.entry];
    }
    catch (error) {
        sendFrame({ error: error.message });
        process.exit(1);
    }
}
/** Obeys commands until there are no more. */
function obey(engine, entry) {
    const command = Buffer.alloc(COMMAND_BYTES);
    while (fill(command)) {
        const [op, bytes] = [command.readUInt32LE(0), command.readUInt32LE(4)];
        const address = Number(command.readBigUInt64LE(8));
        if (op === WRITE)
            fill(engine.bytes(address, bytes));
        else if (op === READ)
            send(engine.bytes(address, bytes));
        else if (op === RUN)
            engine.run(entry);
        else
            throw new Error(`command ${op} is unknown`);
    }
}
try {
    obey(...(await prepare()));
    process.exit(0);
}
catch (error) {
    writeSync(2, `${error.message}\n`);
    process.exit(1);
}
