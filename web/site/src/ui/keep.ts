// Keeping a run: in this browser, in files, and its setup in an address.

import { isQuiet, type App } from '../app.js';
import type { ExportFormat } from '../protocol.js';
import { button, card, enable, field, h, setText, show } from './dom.js';
import { bytes, count, sentence } from './format.js';

const FORMATS: { format: ExportFormat; label: string; says: string }[] = [
  { format: 'tinygpt', label: '.tinygpt', says: 'Weights and configuration in one file, for the command line and for this page.' },
  { format: 'safetensors', label: 'safetensors', says: 'The weights, as PyTorch and others open them.' },
  { format: 'hf-gpt2', label: 'Hugging Face GPT-2', says: "The weights under GPT-2's names, with a config.json." },
  { format: 'checkpoint', label: 'Checkpoint', says: 'Weights, optimizer and step: tinygpt train --resume goes on from it.' },
];

export function keepPanel(app: App): HTMLElement {
  return h('div', { class: 'panel-grid' }, h('div', { class: 'column' }, browserCard(app), importCard(app), linkCard(app)), exportCard(app));
}

function browserCard(app: App): HTMLElement {
  const { store } = app;
  const about = h('p', {});
  const save = button('Save now', () => void app.save());
  const forget = button('Forget the kept run', () => void app.discard());
  store.watch((all) => all, ({ saved, stored, capabilities, opened, busy, state }) => {
    const can = capabilities?.storage.available !== false;
    const last = saved ?? (stored === undefined ? undefined : { step: stored.step, at: stored.savedAt });
    setText(about, !can ? sentence(capabilities?.storage.why ?? 'this browser keeps nothing for this page') : last === undefined ? 'Nothing is kept yet. A run is kept at intervals and at each pause; a tab that is reloaded or crashes goes on from there.' : `Kept: step ${count(last.step)}, ${new Date(last.at).toLocaleTimeString()}.`);
    enable(save, can && opened !== undefined && busy === undefined && state !== 'compiling');
    enable(forget, can && last !== undefined && busy === undefined && state !== 'running');
  });
  return card('In this browser', {}, about, h('div', { class: 'row' }, save, forget));
}

function exportCard(app: App): HTMLElement {
  const done = h('p', { class: 'help', role: 'status' });
  const rows = FORMATS.map(({ format, label, says }) => {
    const get = button(`Export ${label}`, () => void app.act('exporting', async () => {
      await app.ready();
      const { files } = await app.trainer.export(format);
      for (const { name, bytes } of files) download(name, bytes);
      setText(done, files.map((file) => `${file.name}, ${bytes(file.bytes.length)}`).join('; '));
    }));
    app.store.watch(isQuiet, (quiet) => enable(get, quiet));
    return h('li', {}, get, h('p', { class: 'help' }, says));
  });
  return card('As files', {}, h('ul', { class: 'formats' }, ...rows), done);
}

function importCard(app: App): HTMLElement {
  const file = h('input', { type: 'file', accept: '.tinygpt,.safetensors', on: { change: () => void read(file.files?.[0]) } });
  const done = h('p', { class: 'help', role: 'status' });
  const read = async (chosen: File | undefined) => {
    if (chosen === undefined) return;
    await app.import(chosen.name, new Uint8Array(await chosen.arrayBuffer()));
    const { opened, refusal } = app.store.get();
    setText(done, refusal === undefined && opened !== undefined ? `${chosen.name} is open: ${count(opened.params)} parameters, step ${count(opened.restoredStep ?? 0)}.` : '');
    file.value = '';
  };
  app.store.watch(isQuiet, (quiet) => (file.disabled = !quiet));
  return card('Open a file', {}, field('A .tinygpt or safetensors file', file, 'From this page or from tinygpt export. It replaces the model that is open.'), done);
}

function linkCard(app: App): HTMLElement {
  const done = h('p', { class: 'help', role: 'status' });
  const copy = button('Copy the address', () => void navigator.clipboard.writeText(location.href).then(() => setText(done, 'Copied.'), () => setText(done, 'The browser did not let it be copied: take it from the address bar.')));
  const pasted = h('p', { class: 'help' }, 'A text of your own is not part of it.');
  app.store.watch((all) => all.setup.data.kind === 'text', (own) => show(pasted, own));
  return card('As an address', {}, h('p', {}, "This page's address holds the setup: preset, changed settings, backend, and the model's text where you changed it."), pasted, h('div', { class: 'row' }, copy), done);
}

function download(name: string, contents: Uint8Array): void {
  const url = URL.createObjectURL(new Blob([contents as BlobPart], { type: 'application/octet-stream' }));
  h('a', { href: url, download: name }).click();
  // The browser has begun to read by then.
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}
