// What runs the steps: the two backends as they were found, and a benchmark of both.

import { isQuiet, type App } from '../app.js';
import type { AdapterReport, Benchmark, Capabilities } from '../protocol.js';
import { button, card, enable, field, freshId, h, setAttribute, setText, show } from './dom.js';
import { bytes, sentence } from './format.js';

export function hardwareCard(app: App): HTMLElement {
  const { store } = app;
  const name = freshId('backend');
  const choice = (backend: 'webgpu' | 'wasm', label: string) => {
    const input = h('input', { type: 'radio', name, value: backend, on: { change: () => app.change({ backend }) } });
    const note = h('p', { class: 'help', id: freshId('found') });
    input.setAttribute('aria-describedby', note.id);
    return { input, note, element: h('div', { class: 'backend' }, h('label', { class: 'choice' }, input, h('span', {}, label)), note) };
  };
  const gpu = choice('webgpu', 'WebGPU');
  const wasm = choice('wasm', 'WebAssembly');
  const adapter = h('div', {});

  const threads = h('input', { type: 'number', min: 1, on: { change: () => app.change({ threads: threads.value === '' ? undefined : Number(threads.value) }) } });
  const threadsField = field('Threads', threads, '');
  const relaxed = h('input', { type: 'checkbox', on: { change: () => app.change({ relaxed: relaxed.checked }) } });
  const relaxedField = h('label', { class: 'choice' }, relaxed, h('span', {}, 'Fused multiply-add (relaxed SIMD)'));
  const settings = h('div', { class: 'grid' }, threadsField, relaxedField);

  store.watch((all) => all.capabilities, (found) => {
    if (found === undefined) return setText(wasm.note, 'Looking …');
    gpu.input.disabled = !found.webgpu.available;
    wasm.input.disabled = !found.wasm.available;
    setText(gpu.note, found.webgpu.available ? (found.webgpu.adapter?.name ?? 'Available.') : sentence(found.webgpu.why ?? 'not available here'));
    setText(wasm.note, found.wasm.available ? describe(found.wasm) : sentence(found.wasm.why ?? 'not available here'));
    adapter.replaceChildren(...(found.webgpu.adapter === undefined ? [] : [adapterDetails(found.webgpu.adapter)]));
    threads.max = String(found.wasm.maxThreads);
    threads.disabled = found.wasm.maxThreads === 1;
    relaxed.disabled = !found.wasm.relaxed;
    const help = threadsField.querySelector('.help');
    if (help) setText(help, found.wasm.whyOneThread !== undefined ? sentence(found.wasm.whyOneThread) : `1 to ${found.wasm.maxThreads}: one for each core.`);
  });
  store.watch((all) => all, ({ setup, capabilities }) => {
    const { backend } = app;
    gpu.input.checked = backend === 'webgpu';
    wasm.input.checked = backend === 'wasm';
    show(settings, backend === 'wasm');
    if (capabilities === undefined) return;
    if (document.activeElement !== threads) threads.value = String(setup.threads ?? capabilities.wasm.maxThreads);
    relaxed.checked = setup.relaxed ?? capabilities.wasm.relaxed;
  });
  const opened = h('p', { class: 'help' });
  store.watch((all) => all.opened, (session) => {
    show(opened, session !== undefined);
    if (session === undefined) return;
    const how = session.backend === 'wasm' ? `${session.threads ?? 1} thread${session.threads === 1 ? '' : 's'}${session.relaxed === true ? ', fused multiply-add' : ''}` : (session.adapter?.name ?? 'GPU');
    setText(opened, `Compiled in ${(session.compileMs / 1000).toFixed(2)} s for ${session.backend === 'wasm' ? 'WebAssembly' : 'WebGPU'} (${how}), ${bytes(session.memoryBytes)} allocated.`);
  });
  return card('Runs on', { class: 'hardware' }, h('fieldset', {}, h('legend', { class: 'visually-hidden' }, 'Backend'), gpu.element, adapter, wasm.element), settings, opened);
}

function describe(wasm: Capabilities['wasm']): string {
  const threads = wasm.maxThreads > 1 ? `${wasm.maxThreads} threads` : `one thread (${wasm.whyOneThread ?? 'this machine has one core'})`;
  return `Found: ${threads}, SIMD${wasm.relaxed ? ', relaxed SIMD' : ', no relaxed SIMD'}.`;
}

function adapterDetails(adapter: AdapterReport): HTMLElement {
  const { vendor, architecture, device, description } = adapter;
  const row = (name: string, value: string) => (value === '' ? null : h('div', {}, h('dt', {}, name), h('dd', {}, value)));
  const list = h('dl', { class: 'pairs' }, row('Vendor', vendor), row('Architecture', architecture), row('Device', device), row('Description', description), row('Features', adapter.features.join(', ')));
  const limits = Object.entries(adapter.limits).map(([key, value]) => row(key, String(value)));
  const note = adapter.software ? h('p', { class: 'message software' }, sentence(adapter.softwareNote ?? 'this adapter is a program that imitates a GPU on the processor')) : null;
  return h('div', { class: 'adapter' }, note, h('details', {}, h('summary', {}, 'Adapter'), list, limits.length === 0 ? null : h('dl', { class: 'pairs' }, ...limits)));
}

export function benchmarkCard(app: App): HTMLElement {
  const { store } = app;
  const notes = h('input', { type: 'text', maxlength: 120, autocomplete: 'off' });
  const run = button('Run the benchmark', () => void measure());
  const progress = h('p', { class: 'help', role: 'status' });
  const block = h('pre', { tabindex: 0, role: 'region', 'aria-label': 'Result of the benchmark', hidden: true });
  const reason = h('p', { class: 'help', id: freshId('reason') });
  const copy = button('Copy benchmark', () => void navigator.clipboard.writeText(block.textContent ?? '').then(() => setText(progress, 'Copied.'), () => setText(progress, 'The browser did not let it be copied: select the text instead.')), { 'aria-describedby': reason.id });
  enable(copy, false);
  let result: Benchmark | undefined;
  let preset = '';

  const measure = () => app.act('measuring', async () => {
    preset = store.get().setup.preset;
    result = await app.trainer.benchmark({ config: { preset }, ...(notes.value === '' ? {} : { notes: notes.value }) });
    show(block, true);
    setText(block, result.block);
    setText(progress, 'Done.');
  });
  store.watch((all) => all, ({ measuring, capabilities }) => {
    enable(run, isQuiet(store.get()));
    if (measuring?.what === 'benchmark') setText(progress, `${measuring.backend === 'wasm' ? 'WebAssembly' : 'WebGPU'}: step ${measuring.step} of ${measuring.of}.`);
    const adapter = capabilities?.webgpu.adapter;
    const software = adapter?.software === true ? `WebGPU is ${adapter.name} here, a program that imitates a GPU: its speed is not measured, and nothing is offered for sharing.` : undefined;
    const shareable = result?.shareable === true;
    enable(copy, shareable);
    const why = software ?? (result === undefined ? 'Run it first.' : result.shareable ? '' : 'Nothing here is worth sharing.');
    setText(reason, why);
    show(reason, why !== '');
    setAttribute(copy, 'title', shareable ? null : why);
  });
  return card('Benchmark', { class: 'benchmark' },
    h('p', { class: 'help' }, 'Two runs, one on each backend: 50 steps to warm up, then 150 that are read. Keep this tab in front and other programs quiet; plug a laptop in.'),
    field('Notes for the record', notes, 'Such as the power mode. They go into the last line.'),
    h('div', { class: 'row' }, run, copy), progress, reason, block);
}
