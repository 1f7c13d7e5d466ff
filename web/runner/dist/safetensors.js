// Safetensors files (huggingface/safetensors, README "Format"): a u64 length, a JSON header of that length, the bytes of all tensors.
//
// Files are those of runtime/src/tensor_file.rs: equal content gives equal bytes, on both sides.
const byName = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
/** Writes a file. */
export function writeTensors({ tensors, metadata }) {
    const sorted = [...tensors].sort(([a], [b]) => byName(a, b));
    const header = {
        __metadata__: Object.fromEntries(Object.entries(metadata).sort(([a], [b]) => byName(a, b))),
    };
    let at = 0;
    for (const [name, { shape, data }] of sorted) {
        header[name] = { data_offsets: [at, at + data.byteLength], dtype: 'F32', shape };
        at += data.byteLength;
    }
    const text = new TextEncoder().encode(JSON.stringify(header));
    const headerBytes = Math.ceil(text.length / 8) * 8;
    const file = new Uint8Array(8 + headerBytes + at);
    new DataView(file.buffer).setBigUint64(0, BigInt(headerBytes), true);
    file.fill(0x20, 8, 8 + headerBytes);
    file.set(text, 8);
    let place = 8 + headerBytes;
    for (const [, { data }] of sorted) {
        file.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), place);
        place += data.byteLength;
    }
    return file;
}
/** Reads a file of f32 tensors; `name` is for errors. */
export function readTensors(file, name) {
    const damaged = (what) => new Error(`${name} is truncated or not a safetensors file (${what}): use another copy of it`);
    if (file.length < 8)
        throw damaged(`it has ${file.length} bytes`);
    const headerBytes = Number(new DataView(file.buffer, file.byteOffset).getBigUint64(0, true));
    if (8 + headerBytes > file.length)
        throw damaged(`its header has ${headerBytes} bytes, and the file ${file.length}`);
    let header;
    try {
        header = JSON.parse(new TextDecoder().decode(file.subarray(8, 8 + headerBytes)));
    }
    catch {
        throw damaged('its header is no JSON');
    }
    const tensors = new Map();
    let metadata = {};
    for (const [key, value] of Object.entries(header)) {
        if (key === '__metadata__') {
            metadata = value;
            continue;
        }
        const { dtype, shape, data_offsets: [from, to] } = value;
        if (dtype !== 'F32')
            throw new Error(`${key} in ${name} holds ${dtype}, and F32 was expected`);
        if (8 + headerBytes + to > file.length || to - from !== 4 * shape.reduce((n, extent) => n * extent, 1)) {
            throw damaged(`the bytes of ${key} do not fit it`);
        }
        // Copied: the bytes may start anywhere.
        const data = new Float32Array(file.slice(8 + headerBytes + from, 8 + headerBytes + to).buffer);
        tensors.set(key, { shape, data });
    }
    return { tensors, metadata };
}
