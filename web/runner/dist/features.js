// What a JavaScript engine can run, and the one sentence for each thing that it cannot.
//
// Each feature is found by `WebAssembly.validate` of the smallest module that uses it: no version is compared.
const HEADER = [0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00];
/** `i32.const 0; i8x16.splat`: a vector for less than a constant takes. */
const SPLAT = [0x41, 0x00, 0xfd, 0x0f];
/** A module with one function of type `() -> result`, whose code is `body`, after the section `memory`. */
function probeModule(result, body, memory = []) {
    const code = [0x00, ...body, 0x0b];
    return new Uint8Array([
        ...HEADER,
        ...[0x01, 0x05, 0x01, 0x60, 0x00, 0x01, result],
        ...[0x03, 0x02, 0x01, 0x00],
        ...memory,
        ...[0x0a, code.length + 2, 0x01, code.length, ...code],
    ]);
}
const V128 = 0x7b;
const I32 = 0x7f;
/** The modules that are validated, by feature. */
const PROBES = {
    // i8x16.splat
    simd: probeModule(V128, SPLAT),
    // f32x4.relaxed_madd
    relaxed: probeModule(V128, [...SPLAT, ...SPLAT, ...SPLAT, 0xfd, 0x85, 0x02]),
    // i32.atomic.load in a shared memory of one page
    threads: probeModule(I32, [0x41, 0x00, 0xfe, 0x10, 0x02, 0x00], [0x05, 0x04, 0x01, 0x03, 0x01, 0x01]),
    // a memory of 64-bit addresses
    memory64: new Uint8Array([...HEADER, 0x05, 0x03, 0x01, 0x04, 0x01]),
};
/** Probes this engine. */
export function probe() {
    const valid = (module) => typeof WebAssembly === 'object' && WebAssembly.validate(module);
    return {
        simd: valid(PROBES.simd),
        relaxed: valid(PROBES.relaxed),
        threads: valid(PROBES.threads),
        memory64: valid(PROBES.memory64),
        // Node has no such property, and no other origins.
        isolated: typeof SharedArrayBuffer === 'function' && globalThis.crossOriginIsolated !== false,
    };
}
/** Whether this is the main thread of a window, which may not wait for other threads. */
export function onWindow() {
    return typeof window === 'object' && typeof document === 'object' && globalThis === globalThis.window;
}
/** Why no module runs here; undefined if one does. */
export function whyNothing(features) {
    if (features.simd)
        return undefined;
    return 'this JavaScript engine lacks WebAssembly SIMD, which every exported module needs: use Node 18, Chrome 91, Firefox 89, Safari 16.4 or later';
}
/** Why several threads do not run here; undefined if they do. */
export function whyOneThread(features, window = onWindow()) {
    if (!features.threads) {
        return 'this JavaScript engine lacks WebAssembly threads: use Node 18, Chrome 74, Firefox 79, Safari 14.1 or later, or ask for 1 thread';
    }
    if (!features.isolated) {
        return 'this page is not cross-origin isolated, so its threads cannot share memory: serve it with the headers Cross-Origin-Opener-Policy: same-origin and Cross-Origin-Embedder-Policy: require-corp, or ask for 1 thread';
    }
    if (window) {
        return "the main thread of a window may not wait for other threads: create the runner inside a Worker, or ask for 1 thread";
    }
    return undefined;
}
