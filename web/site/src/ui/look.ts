// Looking inside: the model's text, what the compiler makes of it, what fusion saves, and whether the gradients are right.

import { isQuiet, sentenceOf, type App, type AppState } from '../app.js';
import type { Profile } from '../protocol.js';
import { button, card, debounce, enable, field, h, setText, show, table } from './dom.js';
import { editor } from './editor.js';
import { bytes, count, short, significant } from './format.js';
import { onThemeChange, themeName } from './theme.js';

/** What `inspect` counts of a program. */
interface Totals {
  kernels: number;
  launches: number;
  bytes_read: number;
  bytes_written: number;
  flop: number;
  planned_bytes: number;
  lower_bound_bytes: number;
}

export interface LookPanel {
  element: HTMLElement;
  /** The tab has been chosen: what needs the compiler is made now. */
  shown(): void;
}

export function lookPanel(app: App): LookPanel {
  const text = textCard(app);
  const page = pageCard(app, text.current);
  const element = h('div', { class: 'panel-grid look' }, text.element, fusionCard(app), gradientCard(app), page.element);
  return {
    element,
    shown: page.shown,
  };
}

/** Whether what would be measured is the setup that is shown. */
const canMeasure = (app: App, all: AppState) => isQuiet(all) && all.problem === undefined && !(all.stale && app.step > 0);

/** What the compiler is told of the adapter, once there is a device; before, it takes what every adapter has. */
function capsOf(app: App, target: string): { caps?: object } {
  const caps = target === 'webgpu' ? app.store.get().opened?.adapter?.caps : undefined;
  return caps === undefined ? {} : { caps };
}

/** Whether a panel can be seen; what is made for it waits until it is. */
const visible = (element: HTMLElement) => element.offsetParent !== null;

/** `current` resolves to the text of the setup as it is. */
function textCard(app: App): { element: HTMLElement; current(): Promise<string> } {
  const { store } = app;
  const change = debounce(300, (text: string) => app.change({ graph: text }));
  const source = editor("The model's forward graph", change);
  const restore = button("Back to the preset's text", () => app.change({ graph: undefined }));
  const note = h('p', { class: 'help' });
  let made = '';

  // The text of a model described by fields follows them; one of its own stays.
  const followNow = async () => {
    const { setup, problem } = store.get();
    if (setup.graph !== undefined) source.set(setup.graph);
    const config = app.config(setup);
    const key = JSON.stringify(config);
    if (setup.graph !== undefined || problem !== undefined || key === made || !visible(source.element)) return;
    made = key;
    try {
      const text = await app.compiler.graph(config, 'graph');
      if (made === key && store.get().setup.graph === undefined) source.set(text);
    } catch (error) {
      made = '';
      source.mark({ sentence: sentenceOf(error) });
    }
  };
  let following = Promise.resolve();
  const follow = () => (following = following.then(followNow));
  store.watch((all) => all.setup, ({ graph }) => {
    show(restore, graph !== undefined);
    setText(note, graph === undefined ? 'Change it, and it becomes a model of your own: it trains as it stands here.' : 'A model of your own. It is part of this page’s address.');
    if (graph === undefined) made = '';
  });
  store.watch((all) => all.resolved, () => void follow());
  store.watch((all) => all.problem, (problem, { setup }) => source.mark(setup.graph === undefined ? undefined : problem));
  return { element: card('Model as text', { class: 'wide' }, note, source.element, h('div', { class: 'row' }, restore)), current: () => follow().then(source.get) };
}

function pageCard(app: App, current: () => Promise<string>): { element: HTMLElement; shown(): void } {
  const { store } = app;
  const fusion = h('input', { type: 'checkbox', on: { change: () => void draw() } });
  fusion.checked = true;
  const target = h('select', { on: { change: () => void draw() } }, h('option', { value: 'wasm' }, 'WebAssembly'), h('option', { value: 'webgpu' }, 'WebGPU'));
  const lines = h('select', { on: { change: () => void draw() } }, h('option', { value: 'text' }, "the model's text"), h('option', { value: 'rust' }, 'models/gpt.rs'));
  const status = h('p', { class: 'help', role: 'status' });
  const frame = h('iframe', { title: "The model's lines, graph, kernels and code", sandbox: 'allow-scripts', class: 'inspect' });
  let profile: Profile | undefined;
  let drawn = '';
  const measure = button('Measure its kernels', () => void app.act('profiling', async () => {
    await app.ready();
    setText(status, 'Measuring each kernel …');
    profile = await app.trainer.profile({});
    target.value = profile.backend;
    fusion.checked = true;
    await draw();
  }).then(() => app.store.get().refusal !== undefined && setText(status, '')));

  const draw = async () => {
    const { problem, setup } = store.get();
    if (problem !== undefined || !visible(frame)) return;
    const fits = profile !== undefined && profile.backend === target.value && fusion.checked;
    // A preset's text is the same model; without it, lines are those of the Rust that made it.
    const { model, ...described } = app.config(setup);
    const text = await current();
    const config = setup.graph !== undefined || lines.value === 'rust' || text === '' ? app.config(setup) : { ...described, graph: text };
    const request = { config, fusion: fusion.checked, target: target.value, ...capsOf(app, target.value), ...(fits ? { profile: profile?.kernels } : {}) };
    const key = JSON.stringify([request, themeName()]);
    if (key === drawn) return;
    drawn = key;
    setText(status, 'Compiling …');
    try {
      const { blobs } = await app.compiler.inspect(request);
      if (drawn !== key) return;
      const page = new TextDecoder().decode(blobs.get('page.html'));
      frame.srcdoc = page.replace('<html', `<html data-theme="${themeName()}"`);
      setText(status, fits && profile !== undefined ? `Shares measured on ${profile.backend === 'wasm' ? 'WebAssembly' : 'WebGPU'}: a step takes ${significant(profile.stepMs)} ms.` : '');
    } catch (error) {
      drawn = '';
      setText(status, sentenceOf(error));
    }
  };
  onThemeChange(() => void draw());
  store.watch((all) => all.setup, ({ graph }) => {
    profile = undefined;
    lines.disabled = graph !== undefined;
  });
  store.watch((all) => all.resolved, () => void draw());
  store.watch((all) => canMeasure(app, all), (can) => enable(measure, can));
  const controls = h('div', { class: 'row' }, h('label', { class: 'choice' }, fusion, h('span', {}, 'Fusion')), field('Lines of', lines), field('Code for', target), measure);
  return { element: card('From a line to its code', { class: 'wide' }, h('p', { class: 'help' }, 'Choose a line, a node or a kernel: what belongs to it is marked everywhere. The slider goes through the passes.'), controls, status, frame), shown: () => void draw() };
}

function fusionCard(app: App): HTMLElement {
  const { store } = app;
  const out = h('div', { class: 'scroll', tabindex: 0, role: 'region', 'aria-label': 'Fusion compared' });
  const status = h('p', { class: 'help', role: 'status' });
  const go = button('Compare', () => void app.act('comparing', async () => {
    setText(status, 'Compiling both …');
    await app.ready();
    const [target, config] = [app.backend, app.config()];
    const totals = async (fusion: boolean): Promise<Totals> => (await app.compiler.inspect({ config, fusion, target, ...capsOf(app, target) })).result;
    const [fused, apart] = [await totals(true), await totals(false)];
    setText(status, 'Measuring both …');
    const time = async (fusion: boolean) => (await app.trainer.profile({ fusion })).stepMs;
    const [fusedMs, apartMs] = [await time(true), await time(false)];
    const row = (name: string, of: (totals: Totals) => number, format: (value: number) => string) => [name, format(of(fused)), format(of(apart)), `${(of(apart) / of(fused)).toFixed(1)} ×`];
    out.replaceChildren(table(`One training step, on ${target === 'wasm' ? 'WebAssembly' : 'WebGPU'}`, ['', 'fused', 'one kernel a node', ''], [
      row('Kernels', (totals) => totals.kernels, count),
      row('Launches', (totals) => totals.launches, count),
      row('Bytes read', (totals) => totals.bytes_read, bytes),
      row('Bytes written', (totals) => totals.bytes_written, bytes),
      row('Planned memory', (totals) => totals.planned_bytes, bytes),
      row('Operations', (totals) => totals.flop, (value) => short(value)),
      ['Milliseconds', significant(fusedMs), significant(apartMs), `${(apartMs / fusedMs).toFixed(1)} ×`],
    ]));
  }).then(() => setText(status, '')));
  store.watch((all) => canMeasure(app, all), (can) => enable(go, can));
  return card('What fusion saves', {}, h('p', { class: 'help' }, 'The same step with its operations joined into few kernels, and with one kernel for each operation.'), h('div', { class: 'row' }, go), status, out);
}

function gradientCard(app: App): HTMLElement {
  const { store } = app;
  const out = h('div', { class: 'scroll', tabindex: 0, role: 'region', 'aria-label': 'Gradients checked' });
  const verdict = h('p', { class: 'verdict', role: 'status' });
  const go = button('Check the gradients', () => void app.act('checking', async () => {
    await app.ready();
    setText(verdict, 'The f64 interpreter takes its differences …');
    const check = await app.trainer.gradcheck({});
    setText(verdict, `${check.passed ? 'Passed' : 'Failed'}: the largest error is ${check.worst.toExponential(1)}, of ${check.tolerance.toExponential(1)} allowed.`);
    const number = (value: number) => value.toExponential(4);
    out.replaceChildren(table('Slopes of the loss', ['Weight', 'Finite difference', 'Compiled', 'Error'], check.coordinates.map(({ weight, index, difference, gradient, error }) => [h('code', {}, `${weight}[${index}]`), number(difference), number(gradient), error.toExponential(1)])));
  }).then(() => store.get().refusal !== undefined && setText(verdict, '')));
  store.watch(isQuiet, (quiet) => enable(go, quiet));
  return card('Are the gradients right?', {}, h('p', { class: 'help' }, 'Some weights are moved a little, up and down; the change of the loss is compared with the gradient that the compiled program gives.'), h('div', { class: 'row' }, go), verdict, out);
}
