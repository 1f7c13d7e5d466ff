// Asking the model: a continuation, what it expects next, and where it looks.

import type { App } from '../app.js';
import type { Attention } from '../protocol.js';
import { button, card, enable, field, h, setText, show, table } from './dom.js';
import { byteName, count } from './format.js';
import { colour, onThemeChange } from './theme.js';

/** Likeliest next bytes that are shown. */
const SHOWN = 12;

export function talkPanel(app: App): HTMLElement {
  const prompt = h('textarea', { rows: 3, spellcheck: 'false' });
  prompt.value = 'Once upon a time';
  const asked = { get: () => prompt.value };
  const needs = h('p', { class: 'help' });
  app.store.watch((all) => [all.opened, all.state, all.busy].join(), () => {
    const { opened, state } = app.store.get();
    setText(needs, opened === undefined ? 'There is no model yet. Asking makes one from the setup, untrained; train it first to get more than noise.' : state === 'running' ? 'The model answers while it trains.' : `The model as it is after step ${count(app.step)}.`);
  });
  const prompting = card('Prompt', {}, field('Text to go on from', prompt), needs);
  return h('div', { class: 'panel-grid talk' }, h('div', { class: 'column' }, prompting, sampling(app, asked)), expectations(app, asked), looking(app, asked));
}

interface Prompt {
  get(): string;
}

/** Asks with a session, opening one where there is none. */
function ask<T>(app: App, work: () => Promise<T>): Promise<T | undefined> {
  return app.act('asking', async () => {
    await app.ready();
    return work();
  });
}

/** Disables a button while something else goes on. */
function waits(app: App, control: HTMLButtonElement): HTMLButtonElement {
  app.store.watch((all) => all.busy !== undefined || all.state === 'compiling', (busy) => enable(control, !busy));
  return control;
}

function sampling(app: App, prompt: Prompt): HTMLElement {
  const number = (value: string, properties: Record<string, unknown>) => {
    const input = h('input', { type: 'number', ...properties });
    input.value = value;
    return input;
  };
  const tokens = number('200', { min: 1, max: 5000 });
  const temperature = number('0.8', { min: 0, max: 5, step: 0.1 });
  const topK = number('', { min: 1, max: 256, placeholder: 'all' });
  const seed = number('42', { min: 0 });
  const written = h('p', { class: 'written output', 'aria-live': 'off' });
  const status = h('p', { role: 'status', class: 'help' });
  const go = waits(app, button('Continue the text', () => void ask(app, async () => {
    const start = prompt.get();
    const show = (text: string) => written.replaceChildren(h('span', { class: 'given' }, start), text);
    setText(status, 'Writing …');
    const options = { prompt: start, tokens: Number(tokens.value), temperature: Number(temperature.value), seed: Number(seed.value), ...(topK.value === '' ? {} : { topK: Number(topK.value) }) };
    const sample = await app.trainer.sample(options, show).finally(() => setText(status, ''));
    show(sample.text);
    setText(status, `${count(sample.bytes.length)} bytes, by the model of step ${count(sample.step)}.`);
  }), { class: 'primary' }));
  const settings = h('div', { class: 'grid' }, field('Bytes', tokens), field('Temperature', temperature, '0 always takes the likeliest byte.'), field('Top k', topK, 'Draw from the k likeliest only.'), field('Seed', seed, 'The same seed gives the same text.'));
  return card('Continuation', {}, settings, h('div', { class: 'row' }, go), status, h('div', { class: 'scroll', tabindex: 0, role: 'region', 'aria-label': 'Prompt and continuation' }, written));
}

function expectations(app: App, prompt: Prompt): HTMLElement {
  const rows = h('div', { class: 'bars' });
  const go = waits(app, button('What comes next?', () => void ask(app, async () => {
    const { probabilities, step } = await app.trainer.probabilities(prompt.get());
    const order = [...probabilities.keys()].sort((a, b) => (probabilities[b] as number) - (probabilities[a] as number)).slice(0, SHOWN);
    const entropy = probabilities.reduce((sum, p) => sum - (p > 0 ? p * Math.log2(p) : 0), 0);
    const cells = order.map((byte) => {
      const share = probabilities[byte] as number;
      const bar = h('span', { class: 'share' }, `${(100 * share).toFixed(1)} %`);
      bar.style.setProperty('--share', String(share));
      return [h('code', {}, byteName(byte)), bar];
    });
    rows.replaceChildren(table(`The ${SHOWN} likeliest next bytes, at step ${count(step)}`, ['Byte', 'Probability'], cells), h('p', { class: 'help' }, `Entropy of all 256: ${entropy.toFixed(2)} bits, of 8 at most.`));
  })));
  return card('Next byte', {}, h('p', { class: 'help' }, 'The probability that the model gives to each byte after the prompt.'), h('div', { class: 'row' }, go), rows);
}

function looking(app: App, prompt: Prompt): HTMLElement {
  let maps: Attention | undefined;
  let [layer, head, query] = [0, 0, 0];
  const grid = h('div', { class: 'heads', role: 'group', 'aria-label': 'Layers and heads' });
  const large = h('canvas', { class: 'map', role: 'img' });
  const which = h('p', { class: 'help' });
  const from = h('input', { type: 'range', min: 0, value: 0, on: { input: () => { query = Number(from.value); detail(); } } });
  const fromField = field('Byte that looks back', from);
  const rows = h('div', { class: 'bars' });
  const picked = h('div', { class: 'picked', hidden: true }, h('div', {}, which, large), h('div', {}, fromField, rows));

  const weight = ({ weights, heads, ctx }: Attention, q: number, k: number) => weights[((layer * heads + head) * ctx + q) * ctx + k] as number;

  const thumbnails = () => {
    const found = maps;
    if (found === undefined) return;
    const all = [];
    for (let l = 0; l < found.layers; l++) {
      for (let d = 0; d < found.heads; d++) {
        const canvas = h('canvas', { 'aria-hidden': true });
        paint(canvas, found, l, d, 64);
        const control = button('', () => { [layer, head] = [l, d]; mark(); detail(); }, { class: 'head', 'aria-pressed': 'false' });
        control.append(canvas, h('span', {}, h('span', { class: 'visually-hidden' }, 'Layer and head '), `${l + 1}.${d + 1}`));
        all.push(control);
      }
    }
    grid.replaceChildren(...all);
    mark();
  };
  const mark = () => [...grid.children].forEach((control, at) => control.setAttribute('aria-pressed', String(maps !== undefined && at === layer * maps.heads + head)));

  const detail = () => {
    const found = maps;
    if (found === undefined) return;
    const n = found.tokens.length;
    paint(large, found, layer, head, 360);
    const name = (at: number) => byteName(found.tokens[at] as number);
    const seen = Array.from({ length: query + 1 }, (_, k) => k).sort((a, b) => weight(found, query, b) - weight(found, query, a)).slice(0, 8);
    setText(which, `Layer ${layer + 1}, head ${head + 1}. Rows look, columns are looked at; darker is more.`);
    large.setAttribute('aria-label', `Attention of layer ${layer + 1}, head ${head + 1}, over ${n} bytes; the table beside it has the weights of the byte chosen.`);
    from.max = String(n - 1);
    from.value = String(query);
    from.setAttribute('aria-valuetext', `${name(query)}, byte ${query + 1} of ${n}`);
    rows.replaceChildren(table(`Where byte ${query + 1} (${name(query)}) looks`, ['Byte', 'Weight'], seen.map((k) => {
      const bar = h('span', { class: 'share' }, `${(100 * weight(found, query, k)).toFixed(1)} %`);
      bar.style.setProperty('--share', String(weight(found, query, k)));
      return [h('span', {}, h('code', {}, name(k)), ` ${k + 1}`), bar];
    })));
  };
  const go = waits(app, button('Show attention', () => void ask(app, async () => {
    maps = await app.trainer.attention(prompt.get());
    [layer, head, query] = [0, 0, maps.tokens.length - 1];
    show(picked, true);
    thumbnails();
    detail();
  })));
  onThemeChange(() => {
    thumbnails();
    detail();
  });
  return card('Attention', { class: 'wide' }, h('p', { class: 'help' }, 'How much each byte of the prompt looks at those before it, in every head.'), h('div', { class: 'row' }, go), grid, picked);
}

/** Draws one head's weights over the prompt into a canvas of about `size` pixels. */
function paint(canvas: HTMLCanvasElement, { weights, tokens, heads, ctx }: Attention, layer: number, head: number, size: number): void {
  const n = tokens.length;
  const cell = Math.max(1, Math.floor((size * devicePixelRatio) / n));
  canvas.width = canvas.height = n * cell;
  canvas.style.width = canvas.style.height = `${size}px`;
  const pen = canvas.getContext('2d');
  if (pen === null) return;
  pen.fillStyle = colour('surface');
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.fillStyle = colour('accent');
  for (let q = 0; q < n; q++) {
    for (let k = 0; k <= q; k++) {
      // The square root shows small weights, too.
      pen.globalAlpha = Math.sqrt(weights[((layer * heads + head) * ctx + q) * ctx + k] as number);
      pen.fillRect(k * cell, q * cell, cell, cell);
    }
  }
  pen.globalAlpha = 1;
}
