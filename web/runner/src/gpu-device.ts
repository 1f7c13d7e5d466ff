// A WebGPU device: what adapter it is, what the compiler may use of it, and what has gone wrong with it.
//
// Invariants:
// - The device gets the adapter's own limits, and the compiler is told those that were granted: no more, no less.
// - A device with a fault stays unusable: `check` throws the fault from then on, and every wait ends with it.
// - A software adapter is called one: `report.software`.

/** Software or hardware, and what it is called. */
export interface AdapterReport {
  /** For people: vendor, architecture and description, as far as they are told. */
  name: string;
  vendor: string;
  architecture: string;
  device: string;
  description: string;
  /** A program that imitates a GPU on the processor. */
  software: boolean;
  /** In plain words, if `software`. */
  softwareNote?: string;
  features: string[];
  /** Limits that the device has, of those that matter here. */
  limits: Record<string, number>;
  /** What the compiler is told of it, once there is a device. */
  caps?: Caps;
}

/** `caps` of the compiler's request `wgsl`. */
export interface Caps {
  subgroups?: [number, number];
  f16: boolean;
  workgroup_bytes: number;
  max_invocations: number;
  max_workgroup_size: [number, number, number];
  max_storage_buffers: number;
  max_binding_bytes: number;
  max_workgroups: number;
  offset_alignment: number;
}

/** A fault of the device. */
export class GpuFault extends Error {
  readonly kind: 'device-lost' | 'memory' | 'other';

  constructor(kind: GpuFault['kind'], message: string) {
    super(message);
    this.name = 'GpuFault';
    this.kind = kind;
  }
}

/** WebGPU's flags, which Node's binding does not put into the global scope. */
export const USAGE = { MAP_READ: 0x1, COPY_SRC: 0x4, COPY_DST: 0x8, STORAGE: 0x80, QUERY_RESOLVE: 0x200 } as const;
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
] as const;

const FEATURES = ['subgroups', 'shader-f16', 'timestamp-query'] as const;

/** What programs that imitate a GPU call themselves. */
const SOFTWARE = /swiftshader|llvmpipe|lavapipe|softpipe|microsoft basic render|\bwarp\b|\bsoftware\b/i;

/** The browser's `navigator.gpu`, if there is one. */
export function browserGpu(): GPU | undefined {
  return typeof navigator === 'object' ? (navigator as Partial<Navigator>).gpu : undefined;
}

/** Why there is no `navigator.gpu`. */
export function whyNoGpu(): string {
  if (globalThis.isSecureContext === false) {
    return 'WebGPU is for secure pages only: serve this page over https, or from localhost';
  }
  return 'this browser has no WebGPU: use a current Chrome, Edge, Firefox or Safari, or train with WebAssembly';
}

/** An adapter; the error is a sentence on why there is none. */
export async function requestAdapter(gpu: GPU | undefined = browserGpu()): Promise<GPUAdapter> {
  if (gpu === undefined) throw new GpuFault('other', whyNoGpu());
  const adapter = (await gpu.requestAdapter({ powerPreference: 'high-performance' })) ?? (await gpu.requestAdapter());
  if (adapter === null) {
    throw new GpuFault('other', 'this browser has WebGPU but offers no adapter on this machine: look at its GPU settings and drivers, or train with WebAssembly');
  }
  return adapter;
}

/** What an adapter is. */
export function reportOf(adapter: GPUAdapter, limits: GPUSupportedLimits = adapter.limits): AdapterReport {
  const info = adapter.info ?? {};
  const [vendor = '', architecture = '', device = '', description = ''] = [info.vendor, info.architecture, info.device, info.description];
  const told = [description, vendor, architecture, device].filter((part) => part !== '');
  const name = [...new Set(told)].join(' ') || 'an adapter that this browser does not name';
  // Older browsers have the flag on the adapter itself.
  const fallback = info.isFallbackAdapter ?? (adapter as { isFallbackAdapter?: boolean }).isFallbackAdapter ?? false;
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
  readonly device: GPUDevice;
  readonly report: AdapterReport;
  readonly caps: Caps;
  readonly timestamps: boolean;
  #fault: GpuFault | undefined;
  #closed = false;
  /** Ends of the waits under way. A race with one promise of the fault would stay with that promise for as long as the device lives. */
  readonly #waiting = new Set<(fault: GpuFault) => void>();

  private constructor(adapter: GPUAdapter, device: GPUDevice) {
    this.device = device;
    this.caps = capsOf(adapter, device);
    this.report = { ...reportOf(adapter, device.limits), caps: this.caps };
    this.timestamps = device.features.has('timestamp-query');
    const raise = (fault: GpuFault) => {
      this.#fault ??= fault;
      for (const end of this.#waiting) end(this.#fault);
    };
    void device.lost.then(({ reason, message }) => {
      if (this.#closed) return;
      const why = [reason === 'destroyed' ? '' : reason, message].filter((part) => part && part !== 'unknown').join(', ');
      raise(new GpuFault('device-lost', `the GPU ${this.report.name} was taken away from this page${why ? ` (${oneLine(why)})` : ''}`));
    });
    device.addEventListener('uncapturederror', (event) => {
      const { error } = event as GPUUncapturedErrorEvent;
      const memory = error.constructor.name === 'GPUOutOfMemoryError';
      raise(new GpuFault(memory ? 'memory' : 'other', `the GPU ${this.report.name} refused a command: ${oneLine(error.message)}`));
    });
  }

  /** Opens a device; every failure is a sentence. */
  static async open(gpu: GPU | undefined = browserGpu()): Promise<Gpu> {
    const adapter = await requestAdapter(gpu);
    const requiredLimits = Object.fromEntries(LIMITS.map((limit) => [limit, adapter.limits[limit]]));
    const requiredFeatures = FEATURES.filter((feature) => adapter.features.has(feature));
    try {
      return new Gpu(adapter, await adapter.requestDevice({ requiredLimits, requiredFeatures }));
    } catch (error) {
      throw new GpuFault('other', `the GPU ${reportOf(adapter).name} gives no device (${oneLine((error as Error).message)}): reload the page, or train with WebAssembly`);
    }
  }

  /** Throws the fault, if there is one. */
  check(): void {
    if (this.#fault !== undefined) throw this.#fault;
  }

  /** What `work` comes to, or the device's fault, should that come first. */
  async wait<T>(work: Promise<T>): Promise<T> {
    let end: ((error: unknown) => void) | undefined;
    try {
      return await new Promise<T>((resolve, reject) => {
        work.then(resolve, reject);
        if (this.#fault !== undefined) reject(this.#fault);
        this.#waiting.add((end = reject));
      });
    } catch (error) {
      // A lost device also fails what is under way, with less to say.
      await Promise.resolve();
      throw this.#fault ?? error;
    } finally {
      if (end !== undefined) this.#waiting.delete(end);
    }
  }

  /**
   * What `make` makes; an error that it causes is a fault of this call, not of the device. `make` does not wait: the device has one stack of
   * error scopes, which calls must not share.
   */
  async scoped<T>(what: string, make: () => T): Promise<T> {
    this.check();
    const filters = ['validation', 'out-of-memory', 'internal'] as const;
    for (const filter of filters) this.device.pushErrorScope(filter);
    let made: T | undefined;
    let thrown: Error | undefined;
    try {
      made = make();
    } catch (error) {
      thrown = error as Error;
    }
    const errors = [...filters].reverse().map(async (filter) => [filter, await this.device.popErrorScope()] as const);
    for (const [filter, error] of await this.wait(Promise.all(errors))) {
      if (error === null) continue;
      if (filter === 'out-of-memory') throw this.noMemory(what);
      throw this.refused(what, error.message);
    }
    // An allocation beyond what the browser can address is thrown.
    if (thrown instanceof RangeError) throw this.noMemory(what);
    if (thrown !== undefined) throw thrown instanceof GpuFault ? thrown : this.refused(what, thrown.message);
    return made as T;
  }

  noMemory(what: string): GpuFault {
    return new GpuFault('memory', `the GPU ${this.report.name} has no memory left for ${what}: choose a smaller model or batch`);
  }

  refused(what: string, why: string): GpuFault {
    return new GpuFault('other', `the GPU ${this.report.name} refused ${what}: ${oneLine(why)}`);
  }

  /** Gives the device back. */
  close(): void {
    this.#closed = true;
    this.device.destroy();
  }
}

/** What the compiler may use of a device. */
function capsOf(adapter: GPUAdapter, device: GPUDevice): Caps {
  const { limits, features } = device;
  const { subgroupMinSize: least, subgroupMaxSize: most } = adapter.info ?? {};
  const subgroups = features.has('subgroups') && least > 0 && most >= least ? { subgroups: [least, most] as [number, number] } : {};
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
function oneLine(message: string): string {
  return (message.split('\n').find((line) => line.trim() !== '') ?? 'no message').trim();
}
