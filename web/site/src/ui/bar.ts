// The bar that stays in view: what the run does, its figures, and its controls.

import type { App, AppState } from '../app.js';
import { atMostEvery, button, enable, h, setText, show } from './dom.js';
import { count, duration, loss, sentence, short } from './format.js';

const STATES: Record<AppState['state'], string> = {
  idle: 'Ready',
  compiling: 'Compiling',
  running: 'Training',
  paused: 'Paused',
  stopped: 'Stopped',
  finished: 'Finished',
  failed: 'Failed',
};

/** Seconds between two progress messages to screen readers. */
const CALM = 20;

export function runBar(app: App): HTMLElement {
  const { store } = app;
  const value = () => h('dd', {}, '–');
  const [step, lossValue, speed, eta] = [value(), value(), value(), value()];
  const state = h('span', { class: 'state' });
  const meter = h('progress', { 'aria-label': 'Steps done', max: 1, value: 0 });
  const live = h('p', { role: 'status', class: 'visually-hidden' });

  const act = () => {
    const { state, measuring } = store.get();
    if (measuring !== undefined) return app.cancel();
    return state === 'running' ? app.pause() : state === 'failed' ? app.reset() : app.start();
  };
  const main = button('Start', () => void act(), { class: 'primary' });
  const once = button('Step', () => void app.stepOnce(), { title: 'One training step' });
  const stop = button('Stop', () => void app.stop(), { title: 'End the run; its state is kept' });
  const dialog = confirmation('Start over?', 'Back to step 0 with fresh weights. What this run has learned is lost unless it was exported.', 'Start over', () => void app.reset());
  const reset = button('Reset', () => (app.step > 0 ? dialog.showModal() : void app.reset()), { title: 'Back to step 0' });

  const draw = atMostEvery(100, () => {
    const { state: now, busy, opened, progress, measuring, resolved, problem, stale } = store.get();
    const total = progress?.steps ?? (stale ? undefined : opened?.config.train.steps) ?? resolved?.config.train.steps ?? 0;
    const done = app.step;
    const shown = now === 'idle' && (busy === 'resuming' || busy === 'starting') ? 'compiling' : now === 'paused' && done === 0 ? 'idle' : now;
    setText(state, measuring === undefined ? STATES[shown] : `Measuring ${measuring.step}/${measuring.of}`);
    state.dataset.state = measuring === undefined ? shown : 'compiling';
    setText(step, `${count(done)} / ${count(total)}`);
    const last = progress?.loss.at(-1) ?? app.history.points.at(-1)?.loss;
    setText(lossValue, last === undefined || done === 0 ? '–' : loss(last));
    setText(speed, progress?.tokensPerS === undefined ? (now === 'running' ? 'warming up' : '–') : `${short(progress.tokensPerS)}/s`);
    setText(eta, now === 'running' && progress !== undefined ? duration(progress.etaS) : '–');
    meter.value = total === 0 ? 0 : done / total;

    document.title = now === 'running' && total > 0 ? `${Math.floor((100 * done) / total)} % – tinygpt playground` : 'tinygpt playground';
    const running = now === 'running';
    const label = measuring !== undefined ? 'Cancel' : running ? 'Pause' : now === 'failed' ? 'Start over' : now === 'finished' ? 'Train on' : done > 0 ? 'Continue' : 'Start';
    setText(main, label);
    const blocked = busy !== undefined || now === 'compiling';
    const startable = !blocked && (problem === undefined || running || done > 0);
    enable(main, startable || measuring !== undefined);
    enable(once, startable && !running && now !== 'failed' && now !== 'finished');
    enable(stop, !blocked && (running || now === 'paused'));
    enable(reset, !blocked && opened !== undefined);
  });

  let said = 0;
  const announce = () => {
    const { state: now, progress } = store.get();
    if (now !== 'running' || progress === undefined || performance.now() - said < CALM * 1000) return;
    said = performance.now();
    setText(live, `Step ${count(progress.step)} of ${count(progress.steps)}, loss ${loss(progress.loss.at(-1) ?? NaN)}, about ${duration(progress.etaS)} left.`);
  };
  store.watch((all) => all.state, (now) => {
    said = performance.now();
    if (now !== 'idle') setText(live, `${STATES[now]}${app.step > 0 ? ` at step ${count(app.step)}` : ''}.`);
  });
  store.watch((all) => all, () => {
    draw();
    announce();
  });

  const figure = (name: string, dd: HTMLElement) => h('div', { class: `figure figure-${name.toLowerCase()}` }, h('dt', {}, name), dd);
  const figures = h('dl', {}, figure('Step', step), figure('Loss', lossValue), figure('Tokens', speed), figure('Left', eta));
  const controls = h('div', { class: 'controls', role: 'group', 'aria-label': 'Controls of the run' }, main, once, stop, reset);
  return h('section', { class: 'bar', 'aria-label': 'Training run' }, h('div', { class: 'bar-inner' }, state, figures, controls), meter, live, dialog);
}

/** A dialog that asks before something is lost. */
export function confirmation(title: string, text: string, yes: string, act: () => void): HTMLDialogElement {
  const heading = h('h2', { id: `ask-${yes.replaceAll(' ', '-').toLowerCase()}` }, title);
  const confirm = button(yes, () => {
    dialog.close();
    act();
  }, { class: 'primary' });
  const dialog: HTMLDialogElement = h('dialog', { 'aria-labelledby': heading.id }, heading, h('p', {}, text), h('div', { class: 'row' }, button('Cancel', () => dialog.close()), confirm));
  return dialog;
}

/** What went wrong, and what a page lacks: above everything else. */
export function messages(app: App): HTMLElement {
  const refusal = h('p', { role: 'alert', class: 'message bad' });
  const failure = h('div', { role: 'alert', class: 'message bad' });
  const kept = h('div', { class: 'message' });
  const stale = h('div', { class: 'message' }, h('p', {}, 'The run goes on with the setup it was started with. Yours has changed since.'), button('Start over with this setup', () => void app.reset()));
  const notices = h('ul', { class: 'message notices' });
  app.store.watch((all) => all.refusal, (sentence) => {
    show(refusal, sentence !== undefined);
    setText(refusal, sentence ?? '');
  });
  app.store.watch((all) => all.failure, (what) => {
    show(failure, what !== undefined);
    if (what === undefined) return failure.replaceChildren();
    const title = { nan: 'The loss is no longer a number', 'device-lost': 'The graphics device went away', memory: 'There is not enough memory', other: 'Training has ended early' }[what.kind];
    failure.replaceChildren(h('h2', {}, title), h('p', {}, sentence(what.sentence)), h('p', {}, sentence(what.advice)));
  });
  app.store.watch((all) => all.opened === undefined && all.busy !== 'resuming' ? all.stored : undefined, (run) => {
    show(kept, run !== undefined);
    if (run === undefined) return kept.replaceChildren();
    const about = `This browser keeps a run: ${run.config.graph === undefined ? run.config.preset : 'a model of your own'} on ${run.data.name}, step ${count(run.step)} of ${count(run.steps)}, saved ${new Date(run.savedAt).toLocaleString()}.`;
    kept.replaceChildren(h('p', {}, about), h('div', { class: 'row' }, button('Continue it', () => void app.resume(), { class: 'primary' }), button('Forget it', () => void app.discard())));
  });
  app.store.watch((all) => all.stale && app.step > 0 && all.state !== 'running', (isStale) => show(stale, isStale));
  app.store.watch((all) => all.notices, (list) => {
    show(notices, list.length > 0);
    notices.replaceChildren(...list.map((notice) => h('li', {}, sentence(notice))));
  });
  return h('div', { class: 'messages' }, refusal, failure, kept, stale, notices);
}
