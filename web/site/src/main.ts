// The playground's page: isolation first, then the compiler, then the views.

import './ui/style.css';
import 'uplot/dist/uPlot.min.css';
import { App, sentenceOf } from './app.js';
import { isolate } from './isolation.js';
import { messages, runBar } from './ui/bar.js';
import { dataCard } from './ui/data.js';
import { debounce, h } from './ui/dom.js';
import { setupForm } from './ui/form.js';
import { benchmarkCard, hardwareCard } from './ui/hardware.js';
import { keepPanel } from './ui/keep.js';
import { learnPanel, samplesCard } from './ui/learn.js';
import { lookPanel } from './ui/look.js';
import { fromHash, toHash } from './ui/setup.js';
import { tabs } from './ui/tabs.js';
import { talkPanel } from './ui/talk.js';
import { themeButton } from './ui/theme.js';

const root = document.querySelector<HTMLElement>('#app') as HTMLElement;

async function main(): Promise<void> {
  const theme = themeButton();
  if (await isolate()) return;
  const app = await App.create();
  // For the console, and for tests.
  Object.assign(globalThis, { playground: app });
  const names = app.presets.map(({ preset }) => preset);
  const read = () => fromHash(location.hash, app.defaultPreset, names, app.keys);
  const { setup, tab, unknown } = await read();
  if (unknown.length > 0) app.store.update({ notices: [`The address has parts that were not understood and are left out: ${unknown.join(', ')}.`] });

  const look = lookPanel(app);
  const train = h('div', { class: 'panel-grid train' },
    h('div', { class: 'column results' }, learnPanel(app), samplesCard(app)),
    h('div', { class: 'column chosen' }, dataCard(app), setupForm(app), hardwareCard(app)),
    benchmarkCard(app));
  const panels = [
    { name: 'train', label: 'Train', panel: h('section', {}, train) },
    { name: 'look', label: 'Look inside', panel: h('section', {}, look.element) },
    { name: 'talk', label: 'Talk', panel: h('section', {}, talkPanel(app)) },
    { name: 'keep', label: 'Keep', panel: h('section', {}, keepPanel(app)) },
  ];

  let shown = 'train';
  let written = location.hash;
  const write = debounce(200, async () => {
    const hash = await toHash(app.store.get().setup, app.defaultPreset, shown);
    written = hash === '' ? '' : `#${hash}`;
    if (location.hash !== written) history.replaceState(null, '', written === '' ? location.pathname + location.search : written);
  });
  const { bar, choose } = tabs('Sections', panels, tab, (name) => {
    shown = name;
    write();
    if (name === 'look') requestAnimationFrame(look.shown);
  });
  addEventListener('hashchange', () => {
    if (location.hash === written) return;
    void read().then(({ setup, tab }) => {
      choose(tab ?? 'train');
      app.change({ graph: undefined, backend: undefined, threads: undefined, relaxed: undefined, validation: undefined, ...setup });
    });
  });

  root.replaceChildren(
    h('a', { class: 'skip', href: '#main', on: { click: (event) => { event.preventDefault(); body.focus(); } } }, 'To the content'),
    h('header', { class: 'top' },
      h('div', { class: 'brand' }, h('h1', {}, 'tinygpt ', h('span', {}, 'playground')), h('p', {}, 'A small GPT, compiled and trained in this tab. Nothing leaves this computer.')),
      theme),
    runBar(app),
    h('nav', { class: 'sections', 'aria-label': 'Sections' }, bar),
  );
  const body = h('main', { id: 'main', tabindex: -1 }, messages(app), ...panels.map(({ panel }) => panel));
  root.append(body);
  app.store.watch((all) => all.setup, write);
  await app.begin(setup);
  document.documentElement.dataset.ready = 'true';
}

main().catch((error: unknown) => {
  root.replaceChildren(h('main', { class: 'boot' }, h('h1', {}, 'The playground could not start'), h('p', { role: 'alert' }, sentenceOf(error)), h('p', {}, 'It needs a browser with WebAssembly SIMD: Chrome 91, Edge 91, Firefox 89, Safari 16.4 or later.')));
});
