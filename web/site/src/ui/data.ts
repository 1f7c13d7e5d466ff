// What to learn: the built-in stories, a text, or a toy task.

import type { App } from '../app.js';
import type { DataSource, TaskName } from '../protocol.js';
import { TASKS, taskOf } from '../tasks.js';
import { button, card, field, freshId, h, setText, show, table } from './dom.js';
import { bytes, count } from './format.js';
import type { Value } from './setup.js';

/** Bytes beyond which a text is refused: the page, its worker and the kept run each hold it. */
const MOST = 256 * 2 ** 20;

export function dataCard(app: App): HTMLElement {
  const { store } = app;
  const name = freshId('data');
  const paste = h('textarea', { rows: 5, spellcheck: 'false', on: { input: () => pasted() } });
  const file = h('input', { type: 'file', on: { change: () => void read(file.files?.[0]) } });
  const task = h('select', { on: { change: () => app.change({ data: { kind: 'task', task: task.value as TaskName } }) } });
  task.append(...TASKS.map(({ name, title }) => h('option', { value: name }, title)));
  const says = h('p', { class: 'help' });
  const size = h('p', { class: 'help' });
  const refused = h('p', { class: 'problem', role: 'alert', hidden: true });

  const pasted = () => app.change({ data: { kind: 'text', name: 'pasted text', bytes: new TextEncoder().encode(paste.value) } });
  const read = async (chosen: File | undefined) => {
    if (chosen === undefined) return;
    const large = chosen.size > MOST;
    show(refused, large);
    if (large) return setText(refused, `${chosen.name} has ${bytes(chosen.size)}, and a page takes at most ${bytes(MOST)}: choose a shorter text.`);
    app.change({ data: { kind: 'text', name: chosen.name, bytes: new Uint8Array(await chosen.arrayBuffer()) } });
    shown = 'file';
    sync();
  };

  type Shown = 'builtin' | 'paste' | 'file' | 'task';
  let shown: Shown = 'builtin';
  const choose = (kind: Shown) => {
    shown = kind;
    const { data } = store.get().setup;
    if (kind === 'builtin') app.change({ data: { kind: 'builtin' } });
    else if (kind === 'task' && data.kind !== 'task') app.change({ data: { kind: 'task', task: task.value as TaskName } });
    else if (kind === 'paste' && paste.value !== '') pasted();
    if (kind === 'builtin' || kind === 'task') app.change({ validation: undefined });
    sync();
  };
  const radios = new Map<Shown, HTMLInputElement>();
  const radio = (kind: Shown, label: string) => {
    const input = h('input', { type: 'radio', name, value: kind, on: { change: () => choose(kind) } });
    radios.set(kind, input);
    return h('label', { class: 'choice' }, input, h('span', {}, label));
  };
  const choices = h('fieldset', { class: 'choices' }, h('legend', {}, 'Text'), radio('builtin', 'Stories'), radio('paste', 'Paste'), radio('file', 'File'), radio('task', 'Toy task'));

  const apart = h('input', { type: 'file', on: { change: () => void readApart(apart.files?.[0]) } });
  const readApart = async (chosen: File | undefined) => app.change({ validation: chosen && { name: chosen.name, bytes: new Uint8Array(await chosen.arrayBuffer()) } });
  const apartField = field('A file to validate on', apart, 'Without one, the last tenth of the text is held back.');
  const pasteField = field('Your text', paste, 'It stays in this browser.');
  const fileField = field('A file of text or any bytes', file, 'Or drop one anywhere on this card.');
  const suit = button('Take a setup that learns it', () => {
    const { preset, train } = taskOf(task.value).config;
    app.change({ preset, changed: train as Record<string, Value> });
  });
  const taskField = h('div', { class: 'column' }, field('Task', task), says, h('p', { class: 'help' }, 'Problems are made up as it trains; those that it is tested on it never sees.'), h('div', { class: 'row' }, suit));

  const sync = () => {
    const { data } = store.get().setup;
    if (data.kind === 'task') shown = 'task';
    else if (data.kind === 'builtin' && shown === 'task') shown = 'builtin';
    else if (data.kind === 'text' && shown !== 'paste') shown = data.name === 'pasted text' ? 'paste' : 'file';
    for (const [kind, input] of radios) input.checked = kind === shown;
    show(pasteField, shown === 'paste');
    show(fileField, shown === 'file');
    show(taskField, shown === 'task');
    show(apartField, shown === 'paste' || shown === 'file');
    if (data.kind === 'task') [task.value] = [data.task];
    const { about, example } = taskOf(task.value);
    says.replaceChildren(`${about} For example: `, h('code', {}, example));
    setText(size, describe(data, shown));
  };
  store.watch((all) => all.setup.data, sync);

  const element = card('Data', { class: 'data' }, choices, pasteField, fileField, apartField, taskField, size, refused, accuracy(app));
  element.addEventListener('dragover', (event) => {
    event.preventDefault();
    element.classList.add('dropping');
  });
  element.addEventListener('dragleave', () => element.classList.remove('dropping'));
  element.addEventListener('drop', (event) => {
    event.preventDefault();
    element.classList.remove('dropping');
    void read(event.dataTransfer?.files[0]);
  });
  return element;
}

function describe(data: DataSource, shown: string): string {
  if (data.kind === 'builtin') return shown === 'paste' || shown === 'file' ? 'Nothing chosen yet: the stories are used.' : 'Short stories for children, written for this project.';
  if (data.kind === 'task') return '';
  return data.bytes.length === 0 ? `${data.name}: kept with the run.` : `${data.name}: ${count(data.bytes.length)} bytes.`;
}

/** Of a toy task: how many held-out problems are answered exactly, and some answers. */
function accuracy(app: App): HTMLElement {
  const share = h('p', { class: 'accuracy' });
  const rows = h('div', { class: 'scroll', tabindex: 0, role: 'region', 'aria-label': 'Answers to held-out problems' });
  const element = h('div', {}, share, rows);
  app.store.watch((all) => all.validated, (validated) => {
    show(element, validated?.accuracy !== undefined);
    if (validated?.accuracy === undefined) return;
    share.replaceChildren(h('strong', {}, `${Math.round(validated.accuracy * 100)} %`), ` of held-out problems answered exactly, at step ${count(validated.step)}.`);
    const answers = (validated.examples ?? []).map(({ prompt, expected, found }) => [h('code', {}, prompt), h('code', {}, found), found === expected ? 'right' : h('span', {}, 'should be ', h('code', {}, expected))]);
    rows.replaceChildren(table('Some answers', ['Problem', 'Answer', ''], answers));
  });
  return element;
}
