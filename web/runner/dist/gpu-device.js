// A WebGPU device: what adapter it is, what the compiler may use of it, and what has gone wrong with it.
//
// Invariants:
// - The device gets the adapter's own limits, and the compiler is told those that were granted: no more, no less.
// - A device with a fault stays unusable: `check` throws the fault from then on, and every wait ends with it.
// - A software adapter is called one: `report.software`.
/** A fault of the device. */
export class GpuFault extends Error {
    kind;
    constructor(kind, message) {
        super(message);
        this.name = 'GpuFault';
        this.kind = kind;
    }
}
/** WebGPU's flags, which Node's binding does not put into the global scope. */
export const USAGE = { MAP_READ: 0x1, COPY_SRC: 0x4, COPY_DST: 0x8, STORAGE: 0x80, QUERY_RESOLVE: 0x200 };
export const MAP_READ = 0x1;
export const COMPUTE_STAGE = 0x4;
/** The limits that are asked for as the adapter has them. */
const LIMITS = [
    'maxBufferSize',
    'maxStorageBufferBindingSize',
    'maxStorageBuffersPerShaderStage',
    'maxComputeWorkgroupStorageSize',
    'maxComputeInvocationsPerWorkgroup',
    'maxComputeWorkgroupSizeX',
    'maxComputeWorkgroupSizeY',
    'maxComputeWorkgroupSizeZ',
    'maxComputeWorkgroupsPerDimension',
    'minStorageBufferOffsetAlignment',
];
const FEATURES = ['subgroups', 'shader-f16', 'timestamp-query'];
/** What programs that imitate a GPU call themselves. */
const SOFTWARE = /swiftshader|llvmpipe|lavapipe|softpipe|microsoft basic render|\bwarp\b|\bsoftware\b/i;
/** The browser's `navigator.gpu`, if there is one. */
export function browserGpu() {
    return typeof navigator === 'object' ? navigator.gpu : undefined;
}
/** Why there is no `navigator.gpu`. */
export function whyNoGpu() {
    if (globalThis.isSecureContext === false) {
        return 'WebGPU is for secure pages only: serve this page over https, or from localhost';
    }
    return 'this browser has no WebGPU: use a current Chrome, Edge, Firefox or Safari, or train with WebAssembly';
}
/** An adapter; the error is a sentence on why there is none. */
export async function requestAdapter(gpu = browserGpu()) {
    if (gpu === undefined)
        throw new GpuFault('other', whyNoGpu());
    const adapter = (await gpu.requestAdapter({ powerPreference: 'high-performance' })) ?? (await gpu.requestAdapter());
    if (adapter === null) {
        throw new GpuFault('other', 'this browser has WebGPU but offers no adapter on this machine: look at its GPU settings and drivers, or train with WebAssembly');
    }
    return adapter;
}
/** What an adapter is. */
export function reportOf(adapter, limits = adapter.limits) {
    const info = adapter.info ?? {};
    const [vendor = '', architecture = '', device = '', description = ''] = [info.vendor, info.architecture, info.device, info.description];
    const told = [description, vendor, architecture, device].filter((part) => part !== '');
    const name = [...new Set(told)].join(' ') || 'an adapter that this browser does not name';
    // Older browsers have the flag on the adapter itself.
    const fallback = info.isFallbackAdapter ?? adapter.isFallbackAdapter ?? false;
    const software = fallback || SOFTWARE.test(name);
    return {
        name,
        vendor,
        architecture,
        device,
        description,
        software,
        ...(software
            ? { softwareNote: `${name} is no graphics card: it is software that imitates one on the processor, so it shows that WebGPU works and says nothing about its speed` }
            : {}),
        features: [...adapter.features].sort(),
        limits: Object.fromEntries(LIMITS.map((limit) => [limit, Number(limits[limit])])),
    };
}
/** A device that is ready. */
export class Gpu {
    device;
    report;
    caps;
    timestamps;
    #fault;
    #closed = false;
    /** Ends of the waits under way. A race with one promise of the fault would stay with that promise for as long as the device lives. */
    #waiting = new Set();
    constructor(adapter, device) {
        this.device = device;
        this.caps = capsOf(adapter, device);
        this.report = { ...reportOf(adapter, device.limits), caps: this.caps };
        this.timestamps = device.features.has('timestamp-query');
        const raise = (fault) => {
            this.#fault ??= fault;
            for (const end of this.#waiting)
                end(this.#fault);
        };
        void device.lost.then(({ reason, message }) => {
            if (this.#closed)
                return;
            const why = [reason === 'destroyed' ? '' : reason, message].filter((part) => part && part !== 'unknown').join(', ');
            raise(new GpuFault('device-lost', `the GPU ${this.report.name} was taken away from this page${why ? ` (${oneLine(why)})` : ''}`));
        });
        device.addEventListener('uncapturederror', (event) => {
            const { error } = event;
            const memory = error.constructor.name === 'GPUOutOfMemoryError';
            raise(new GpuFault(memory ? 'memory' : 'other', `the GPU ${this.report.name} refused a command: ${oneLine(error.message)}`));
        });
    }
    /** Opens a device; every failure is a sentence. */
    static async open(gpu = browserGpu()) {
        const adapter = await requestAdapter(gpu);
        const requiredLimits = Object.fromEntries(LIMITS.map((limit) => [limit, adapter.limits[limit]]));
        const requiredFeatures = FEATURES.filter((feature) => adapter.features.has(feature));
        try {
            return new Gpu(adapter, await adapter.requestDevice({ requiredLimits, requiredFeatures }));
        }
        catch (error) {
            throw new GpuFault('other', `the GPU ${reportOf(adapter).name} gives no device (${oneLine(error.message)}): reload the page, or train with WebAssembly`);
        }
    }
    /** Throws the fault, if there is one. */
    check() {
        if (this.#fault !== undefined)
            throw this.#fault;
    }
    /** What `work` comes to, or the device's fault, should that come first. */
    async wait(work) {
        let end;
        try {
            return await new Promise((resolve, reject) => {
                work.then(resolve, reject);
                if (this.#fault !== undefined)
                    reject(this.#fault);
                this.#waiting.add((end = reject));
            });
        }
        catch (error) {
            // A lost device also fails what is under way, with less to say.
            await Promise.resolve();
            throw this.#fault ?? error;
        }
        finally {
            if (end !== undefined)
                this.#waiting.delete(end);
        }
    }
    /**
     * What `make` makes; an error that it causes is a fault of this call, not of the device. `make` does not wait: the device has one stack of
     * error scopes, which calls must not share.
     */
    async scoped(what, make) {
        this.check();
        const filters = ['validation', 'out-of-memory', 'internal'];
        for (const filter of filters)
            this.device.pushErrorScope(filter);
        let made;
        let thrown;
        try {
            made = make();
        }
        catch (error) {
            thrown = error;
        }
        const errors = [...filters].reverse().map(async (filter) => [filter, await this.device.popErrorScope()]);
        for (const [filter, error] of await this.wait(Promise.all(errors))) {
            if (error === null)
                continue;
            if (filter === 'out-of-memory')
                throw this.noMemory(what);
            throw this.refused(what, error.message);
        }
        // An allocation beyond what the browser can address is thrown.
        if (thrown instanceof RangeError)
            throw this.noMemory(what);
        if (thrown !== undefined)
            throw thrown instanceof GpuFault ? thrown : this.refused(what, thrown.message);
        return made;
    }
    noMemory(what) {
        return new GpuFault('memory', `the GPU ${this.report.name} has no memory left for ${what}: choose a smaller model or batch`);
    }
    refused(what, why) {
        return new GpuFault('other', `the GPU ${this.report.name} refused ${what}: ${oneLine(why)}`);
    }
    /** Gives the device back. */
    close() {
        this.#closed = true;
        this.device.destroy();
    }
}
/** What the compiler may use of a device. */
function capsOf(adapter, device) {
    const { limits, features } = device;
    const { subgroupMinSize: least, subgroupMaxSize: most } = adapter.info ?? {};
    const subgroups = features.has('subgroups') && least > 0 && most >= least ? { subgroups: [least, most] } : {};
    return {
        ...subgroups,
        f16: features.has('shader-f16'),
        workgroup_bytes: limits.maxComputeWorkgroupStorageSize,
        max_invocations: limits.maxComputeInvocationsPerWorkgroup,
        max_workgroup_size: [limits.maxComputeWorkgroupSizeX, limits.maxComputeWorkgroupSizeY, limits.maxComputeWorkgroupSizeZ],
        max_storage_buffers: limits.maxStorageBuffersPerShaderStage,
        max_binding_bytes: Math.min(limits.maxStorageBufferBindingSize, limits.maxBufferSize),
        max_workgroups: limits.maxComputeWorkgroupsPerDimension,
        offset_alignment: limits.minStorageBufferOffsetAlignment,
    };
}
/** The first line of a message that may have many. */
function oneLine(message) {
    return (message.split('\n').find((line) => line.trim() !== '') ?? 'no message').trim();
}
