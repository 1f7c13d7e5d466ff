// The configuration as a form: presets, every key of the compiler's table, and what they come to.
//
// Invariants: a field's rules are the compiler's, whose sentence shows at the field that it names; only what differs from the preset is
// kept, and such a field says what the preset has.

import { isQuiet, type App } from '../app.js';
import { card, debounce, enable, field, freshId, h, button, setAttribute, setText, show } from './dom.js';
import { bytes, count, duration, short, significant } from './format.js';
import { parseValue, spell, type Key, type Value } from './setup.js';

/** Keys that everyone looks at first, in this order. */
const FIRST = ['ctx', 'layers', 'heads', 'd_model', 'batch', 'steps', 'lr'];

const LABELS: Record<string, string> = {
  ctx: 'Context', layers: 'Layers', heads: 'Heads', d_model: 'Width', batch: 'Batch', steps: 'Steps', lr: 'Learning rate', d_mlp: 'MLP width', gelu: 'GELU',
  vocab: 'Vocabulary', schedule: 'Schedule', warmup: 'Warm-up', betas: 'Adam betas', eps: 'Adam epsilon', weight_decay: 'Weight decay', grad_clip: 'Gradient clip',
  seed: 'Seed', eval_every: 'Validate every', eval_batches: 'Validation batches', save_every: 'Save every', sample_bytes: 'Sample length',
};

interface Field {
  key: Key;
  element: HTMLElement;
  control: HTMLInputElement | HTMLSelectElement;
  problem: HTMLElement;
}

export function setupForm(app: App): HTMLElement {
  const { store } = app;
  const presetSelect = h('select', { on: { change: () => app.change({ preset: presetSelect.value, changed: {} }) } });
  presetSelect.append(...app.presets.map(({ preset, model }) => h('option', { value: preset, disabled: model.vocab !== 256 }, model.vocab === 256 ? preset : `${preset} (no byte model)`)));
  const about = h('p', { class: 'help' });
  const general = h('p', { class: 'problem', role: 'alert' });
  const restore = button('Back to the preset', () => app.change({ changed: {} }), { class: 'quiet' });
  const textModel = h('div', { class: 'message' },
    h('p', {}, 'The model is described by its text, under "Look inside". The fields below set how it is trained.'),
    button('Describe it by fields again', () => app.change({ graph: undefined })));

  const fields = app.keys.map((key) => makeField(app, key));
  const named = (key: string) => fields.find((each) => each.key.key === key);
  const first = FIRST.map(named).filter((each) => each !== undefined);
  const rest = (section: string) => fields.filter((each) => !FIRST.includes(each.key.key) && each.key.section === section);
  const grid = (list: Field[]) => h('div', { class: 'grid' }, ...list.map((each) => each.element));
  const more = h('details', {}, h('summary', {}, 'Every other setting'), h('h3', {}, 'Model'), grid(rest('model')), h('h3', {}, 'Training'), grid(rest('train')));

  store.watch((all) => all.setup, ({ preset, changed, graph }) => {
    presetSelect.value = preset;
    show(restore, Object.keys(changed).length > 0);
    show(textModel, graph !== undefined);
    const config = app.preset(preset);
    if (config !== undefined) setText(about, `${config.model.layers} layers, ${config.model.heads} heads, width ${config.model.d_model}, context ${config.model.ctx}.`);
    for (const each of fields) each.control.disabled = graph !== undefined && each.key.section === 'model';
  });
  store.watch((all) => all.resolved, (resolved) => {
    if (resolved === undefined) return;
    const { changed } = store.get().setup;
    for (const { key, control, element } of fields) {
      const value = (resolved.config[key.section] as Record<string, Value> | undefined)?.[key.key];
      if (value !== undefined && document.activeElement !== control) control.value = spell(value);
      element.classList.toggle('changed', key.key in changed);
    }
  });
  store.watch((all) => all.problem, (problem) => {
    const about = problem === undefined ? undefined : fieldOf(problem.sentence, fields);
    for (const each of fields) {
      const mine = each === about;
      setAttribute(each.control, 'aria-invalid', mine ? 'true' : null);
      setText(each.problem, mine && problem !== undefined ? problem.sentence : '');
      show(each.problem, mine);
    }
    if (about !== undefined && !FIRST.includes(about.key.key)) more.open = true;
    const elsewhere = problem !== undefined && about === undefined && problem.line === undefined;
    show(general, elsewhere);
    setText(general, elsewhere ? problem.sentence : '');
  });

  return card('Model', { class: 'setup' }, field('Preset', presetSelect), about, textModel, general, grid(first as Field[]), more, h('div', { class: 'row' }, restore), estimates(app));
}

function makeField(app: App, key: Key): Field {
  const id = freshId(`key-${key.key}`);
  const change = () => {
    const value = parseValue(key, control.value);
    const { preset, changed } = app.store.get().setup;
    const { [key.key]: _, ...others } = changed;
    const usual = (app.preset(preset)?.[key.section] as Record<string, Value> | undefined)?.[key.key];
    // What is no value of the key's type goes to the compiler as it is: the sentence is its own.
    const next = value ?? control.value;
    app.change({ changed: JSON.stringify(next) === JSON.stringify(usual) ? others : { ...others, [key.key]: next } });
  };
  const describedBy = `${id}-help ${id}-problem`;
  const options = key.type === 'flag' ? ['true', 'false'] : key.choices;
  const control =
    options === undefined
      ? h('input', { id, type: 'text', inputmode: key.type === 'integer' ? 'numeric' : 'decimal', autocomplete: 'off', spellcheck: 'false', 'aria-describedby': describedBy, on: { input: debounce(150, change) } })
      : h('select', { id, 'aria-describedby': describedBy, on: { change } }, ...options.map((choice) => h('option', { value: choice }, choice)));
  control.name = key.key;
  const problem = h('p', { class: 'problem', id: `${id}-problem` });
  const label = h('label', { for: id }, LABELS[key.key] ?? key.key.replaceAll('_', ' '), h('code', { 'aria-hidden': true }, key.key));
  const help = h('p', { class: 'help', id: `${id}-help` }, key.help.replaceAll('`', ''));
  return { key, control, problem, element: h('div', { class: 'field' }, label, control, help, problem) };
}

/** The field that a sentence is about: the first key that it names. */
function fieldOf(sentence: string, fields: Field[]): Field | undefined {
  const places = fields.map((each) => ({ each, at: sentence.search(new RegExp(`\\b${each.key.key}\\b`)) })).filter(({ at }) => at >= 0);
  return places.sort((a, b) => a.at - b.at)[0]?.each;
}

/** Parameters, memory and time, as far as they are known. */
function estimates(app: App): HTMLElement {
  const { store } = app;
  const [params, memory, work, time] = [h('dd', {}), h('dd', {}), h('dd', {}), h('dd', {})];
  const each = h('span', {});
  const measure = button('Measure', () => void app.probe(), { class: 'quiet small', 'aria-label': 'Measure the time of a step' });
  const draw = () => {
    const { resolved, problem, speed, measuring } = store.get();
    enable(measure, isQuiet(store.get()) && problem === undefined);
    if (resolved === undefined) return;
    setText(params, count(resolved.params));
    setText(memory, bytes(resolved.memory.total));
    setText(work, `${short(resolved.flop_per_step)}FLOP`);
    const perFlop = speed[app.backend];
    const perStep = perFlop === undefined ? undefined : perFlop * resolved.flop_per_step;
    setText(time, measuring?.what === 'probe' ? 'measuring …' : perStep === undefined ? 'not measured yet' : `about ${duration((perStep / 1000) * resolved.config.train.steps)}`);
    setText(each, perStep === undefined ? '' : `${significant(perStep)} ms a step, from the last measurement here`);
  };
  store.watch((all) => all, draw);
  const row = (name: string, dd: HTMLElement, ...rest: HTMLElement[]) => h('div', {}, h('dt', {}, name), dd, ...rest);
  return h('dl', { class: 'estimates' }, row('Parameters', params), row('Memory', memory), row('Work of a step', work), row('Time', time, h('dd', { class: 'help' }, each, measure)));
}
