// A run as it learns: losses, gradient norm, rate, and what it writes.

import type { App } from '../app.js';
import { Chart, type Line } from './chart.js';
import { atMostEvery, card, freshId, h, setText } from './dom.js';
import { count, loss, rate, significant } from './format.js';
import { smoothed } from './history.js';

/** Milliseconds between two drawings of the curves. */
const DRAW_MS = 250;

/** Nats of a guess among 256 bytes. */
const GUESS = Math.log(256);

/** The same loss in three units. */
const UNITS = {
  nats: { label: 'Loss (nats)', of: (nats: number) => nats, format: (value: number) => value.toFixed(3), logarithmic: false, fromZero: true },
  bits: { label: 'Bits per byte', of: (nats: number) => nats / Math.LN2, format: (value: number) => value.toFixed(3), logarithmic: false, fromZero: true },
  perplexity: { label: 'Perplexity', of: (nats: number) => Math.exp(nats), format: (value: number) => significant(value), logarithmic: true, fromZero: false },
};
type Unit = keyof typeof UNITS;

export function learnPanel(app: App): HTMLElement {
  const { store, history } = app;
  let unit: Unit = 'nats';
  const losses = new Chart({ title: 'Loss by step', height: 300, format: UNITS.nats.format });
  const norms = new Chart({ title: 'Gradient norm by step', height: 150, format: significant, fromZero: true });
  const rates = new Chart({ title: 'Learning rate by step', height: 150, format: rate, fromZero: true });

  const draw = atMostEvery(DRAW_MS, () => {
    const { points, validations } = history;
    const { of, format, logarithmic, fromZero } = UNITS[unit];
    const empty = points.length === 0 && validations.length === 0;
    const trained = new Map(points.map((point) => [point.step, point]));
    const held = new Map(validations.map((point) => [point.step, point.loss]));
    // Before the first step only a guess is drawn, over the steps that are planned.
    const steps = empty ? [0, store.get().resolved?.config.train.steps ?? 1] : [...new Set([...trained.keys(), ...held.keys()])].sort((a, b) => a - b);
    const inUnit = (value: number | undefined) => (value === undefined || !Number.isFinite(value) ? null : of(value));
    const means = smoothed(points.map((point) => point.loss), Math.min(12, Math.floor(points.length / 40)));
    const mean = new Map(points.map((point, at) => [point.step, means[at]]));
    const lines: Line[] = [
      { label: 'training', colour: 'train-faint', width: 1, background: true, values: steps.map((step) => inUnit(trained.get(step)?.loss)) },
      { label: 'training', colour: 'train', values: steps.map((step) => inUnit(mean.get(step))) },
      { label: 'validation', colour: 'validation', dots: true, values: steps.map((step) => inUnit(held.get(step))) },
      { label: 'a guess (ln 256)', colour: 'muted', width: 1, dash: [4, 4], values: steps.map(() => of(GUESS)) },
    ];
    losses.set({ steps, lines, summary: summary(app) }, { format, logarithmic, fromZero, title: `${UNITS[unit].label} by step` });
    const only = points.map((point) => point.step);
    const finite = (value: number) => (Number.isFinite(value) ? value : null);
    norms.set({ steps: only, lines: [{ label: 'gradient norm', colour: 'train', width: 1.5, values: points.map((point) => finite(point.gradNorm)) }], summary: `Gradient norm, at the last step ${significant(points.at(-1)?.gradNorm ?? NaN)}.` });
    rates.set({ steps: only, lines: [{ label: 'learning rate', colour: 'validation', width: 1.5, values: points.map((point) => point.lr) }], summary: `Learning rate, at the last step ${rate(points.at(-1)?.lr ?? NaN)}.` });
    element.classList.toggle('empty', empty);
  });
  store.watch((all) => all.drawn, draw);
  store.watch((all) => all.resolved, draw);

  const name = freshId('unit');
  const units = h('fieldset', { class: 'segmented' }, h('legend', { class: 'visually-hidden' }, 'Unit of the loss'), ...(Object.keys(UNITS) as Unit[]).map((each) => {
    const input = h('input', { type: 'radio', name, value: each, on: { change: () => { unit = each; draw(); } } });
    input.checked = each === unit;
    return h('label', {}, input, h('span', {}, UNITS[each].label));
  }));
  const hint = h('p', { class: 'hint' }, 'Press Start, and the curve grows here. It begins near ln 256 = 5.545 nats: a guess among 256 bytes.');
  const element = card('Learning', { class: 'learning empty' }, units, h('div', { class: 'chart-frame' }, losses.element, hint), figures(app), h('div', { class: 'pair' }, h('div', {}, h('h3', {}, 'Gradient norm'), norms.element), h('div', {}, h('h3', {}, 'Learning rate'), rates.element)));
  return element;
}

function summary(app: App): string {
  const last = app.history.points.at(-1);
  const held = app.history.validations.at(-1);
  if (last === undefined) return 'No step has been taken yet.';
  const best = Math.min(...app.history.points.map((point) => point.loss));
  const validation = held === undefined ? '' : ` Validation at step ${count(held.step)}: ${loss(held.loss)}.`;
  return `Training loss by step: ${loss(app.history.points[0]?.loss ?? NaN)} at first, ${loss(last.loss)} at step ${count(last.step)}, ${loss(best)} at best.${validation} A guess has ${GUESS.toFixed(3)}.`;
}

/** The last validation in three units. */
function figures(app: App): HTMLElement {
  const [nats, bits, perplexity, at] = [h('dd', {}, '–'), h('dd', {}, '–'), h('dd', {}, '–'), h('dd', {}, '–')];
  app.store.watch((all) => all.validated, (validated) => {
    setText(nats, validated === undefined ? '–' : loss(validated.loss));
    setText(bits, validated === undefined ? '–' : validated.bitsPerByte.toFixed(3));
    setText(perplexity, validated === undefined ? '–' : significant(validated.perplexity));
    setText(at, validated === undefined ? '–' : `step ${count(validated.step)}`);
  });
  const row = (label: string, dd: HTMLElement) => h('div', {}, h('dt', {}, label), dd);
  return h('dl', { class: 'tiles' }, row('Validation loss', nats), row('Bits per byte', bits), row('Perplexity', perplexity), row('Measured at', at));
}

export function samplesCard(app: App): HTMLElement {
  const list = h('ol', { class: 'samples', reversed: true });
  const none = h('p', { class: 'help' }, 'What the model writes shows here as it learns.');
  app.store.watch((all) => all.samples, (samples) => {
    none.hidden = samples.length > 0;
    list.replaceChildren(...samples.map(({ step, text }) => h('li', {}, h('h3', {}, `Step ${count(step)}`), h('p', { class: 'written' }, text.replace(/^\n+/, '')))));
  });
  return card('What it writes', { class: 'writes' }, none, h('div', { class: 'scroll tall', tabindex: 0, role: 'region', 'aria-label': 'Samples' }, list));
}
