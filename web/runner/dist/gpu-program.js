// The dispatch list of the compiler's request `wgsl` (web/compiler/src/gpu.rs specifies it), made into buffers, pipelines and bind groups.
//
// Invariants:
// - Everything is made once, here; a step makes no buffer, pipeline or bind group.
// - Equal code is one pipeline and equal bindings are one bind group, across all programs of an engine.
// - States are shared among programs by name. An allocation that holds the same states at the same places in two programs is one buffer;
//   a state that lies elsewhere is copied before its program runs (`follows`).
import { COMPUTE_STAGE, GpuFault, USAGE } from './gpu-device.js';
export const FORMAT = 'tinygpt-wgsl';
export const VERSION = 1;
/** Makes the programs of one engine on one device. */
export class GpuBuilder {
    #gpu;
    #layouts = new Map();
    #pipelines = new Map();
    #groups = new Map();
    #ids = new Map();
    #made = [];
    /** The first program: its states are the current ones. */
    #first;
    #firstList;
    /** Bytes of all buffers made. */
    bytes = 0;
    constructor(gpu) {
        this.#gpu = gpu;
    }
    /** A buffer of zeros. */
    buffer(label, size, usage) {
        const buffer = this.#gpu.device.createBuffer({ label, size, usage });
        this.bytes += size;
        this.#made.push(buffer);
        return buffer;
    }
    /** Makes a program. The first one that is made owns the states. */
    async program(name, list) {
        if (list.format !== FORMAT || list.version !== VERSION) {
            throw new Error(`the dispatch list of ${name} has format ${list.format}, version ${list.version}, and this runner reads ${FORMAT}, version ${VERSION}: use the runner of that compiler`);
        }
        const largest = this.#gpu.device.limits.maxBufferSize;
        for (const { name: label, bytes } of list.allocations) {
            if (bytes > largest) {
                throw new Error(`the model needs a buffer of ${mib(bytes)} MiB (${label}), and this GPU has at most ${mib(largest)}: choose a smaller model or batch`);
            }
        }
        const program = await this.#gpu.scoped(`the memory of ${name}`, () => this.#memory(name, list));
        const made = await this.#gpu.scoped(`the kernels of ${name}`, () => this.#launches(list, program.buffers));
        try {
            program.launches = await this.#gpu.wait(Promise.all(made.map(async (launch) => ({ ...launch, pipeline: await launch.pipeline }))));
        }
        catch (error) {
            if (error instanceof GpuFault)
                throw error;
            throw this.#gpu.refused(`the kernels of ${name}`, error.message);
        }
        this.#first ??= program;
        this.#firstList ??= list;
        return program;
    }
    /** Gives all buffers back. */
    destroy() {
        for (const buffer of this.#made)
            buffer.destroy();
    }
    #memory(name, list) {
        const usage = USAGE.STORAGE | USAGE.COPY_SRC | USAGE.COPY_DST;
        const slots = new Map(list.slots.map((slot) => [slot.name, slot]));
        const buffers = list.allocations.map(({ name: label, bytes }, at) => this.#shared(list, at) ?? this.buffer(`${name}: ${label}`, bytes, usage));
        const follows = [];
        for (const slot of list.slots) {
            const source = slot.role === 'state' ? this.#first?.slots.get(slot.name) : undefined;
            if (source === undefined || this.#first === undefined)
                continue;
            const [from, to] = [this.#first.buffers[source.allocation], buffers[slot.allocation]];
            if (from !== to)
                follows.push({ from, fromOffset: source.offset, to, toOffset: slot.offset, bytes: slot.bytes });
        }
        return { name, launches: [], slots, buffers, follows };
    }
    /** The first program's buffer that holds exactly what allocation `at` holds, if it holds states only. */
    #shared(list, at) {
        if (this.#first === undefined || this.#firstList === undefined)
            return undefined;
        const within = (of, allocation) => of.slots.filter((slot) => slot.allocation === allocation).map((slot) => [slot.name, slot.role, slot.offset, slot.bytes].join()).join(';');
        const [here, slot] = [within(list, at), list.slots.find((slot) => slot.allocation === at)];
        const there = slot && this.#first.slots.get(slot.name)?.allocation;
        if (slot?.role !== 'state' || there === undefined || within(this.#firstList, there) !== here)
            return undefined;
        const fits = list.allocations[at]?.bytes === this.#firstList.allocations[there]?.bytes;
        return fits ? this.#first.buffers[there] : undefined;
    }
    /** The launches, whose pipelines compile in parallel. */
    #launches(list, buffers) {
        const { device } = this.#gpu;
        const tables = list.tables.map((words, at) => {
            const buffer = this.buffer(`table ${at}`, 4 * words.length, USAGE.STORAGE | USAGE.COPY_DST);
            device.queue.writeBuffer(buffer, 0, Uint32Array.from(words));
            return buffer;
        });
        const modules = new Map();
        return list.launches.map(({ kernel, module, entry, workgroups, bindings }) => {
            const { hash, source, name } = list.modules[module];
            const layout = this.#layout(bindings.map(({ write }) => write));
            const key = `${hash} ${entry}`;
            let pipeline = this.#pipelines.get(key);
            if (pipeline === undefined) {
                const code = modules.get(module) ?? device.createShaderModule({ label: name, code: source });
                modules.set(module, code);
                pipeline = device.createComputePipelineAsync({ label: kernel, layout: layout.pipeline, compute: { module: code, entryPoint: entry } });
                // Each launch that uses it waits for it; this keeps one that nobody came to wait for from ending the process.
                pipeline.catch(() => undefined);
                this.#pipelines.set(key, pipeline);
            }
            const resources = bindings.map((binding) => ({
                buffer: (binding.table === undefined ? buffers[binding.allocation] : tables[binding.table]),
                offset: binding.offset,
                size: binding.bytes,
            }));
            return { kernel, pipeline, group: this.#group(layout.group, bindings, resources), workgroups };
        });
    }
    #layout(writes) {
        const key = writes.map(Number).join('');
        let layout = this.#layouts.get(key);
        if (layout === undefined) {
            const entries = writes.map((write, binding) => ({
                binding,
                visibility: COMPUTE_STAGE,
                buffer: { type: write ? 'storage' : 'read-only-storage' },
            }));
            const group = this.#gpu.device.createBindGroupLayout({ entries });
            layout = { group, pipeline: this.#gpu.device.createPipelineLayout({ bindGroupLayouts: [group] }) };
            this.#layouts.set(key, layout);
        }
        return layout;
    }
    #group(layout, bindings, resources) {
        const id = (buffer) => this.#ids.get(buffer) ?? this.#ids.set(buffer, this.#ids.size).size - 1;
        const key = resources.map(({ buffer, offset, size }, at) => `${id(buffer)} ${offset} ${size} ${bindings[at]?.write}`).join(';');
        const entries = resources.map((resource, binding) => ({ binding, resource }));
        const group = this.#groups.get(key) ?? this.#gpu.device.createBindGroup({ layout, entries });
        this.#groups.set(key, group);
        return group;
    }
}
function mib(bytes) {
    return Math.ceil(bytes / 2 ** 20);
}
