// Tabs as the ARIA practices describe them: arrow keys, Home and End move and choose; one tab stop.

import { h, show } from './dom.js';

export interface Tab {
  name: string;
  label: string;
  panel: HTMLElement;
}

/** Panels of which one shows. `onShow` hears of each choice, the first included. */
export function tabs(label: string, list: Tab[], chosen: string | undefined, onShow: (name: string) => void): { bar: HTMLElement; choose(name: string): void } {
  const controls = list.map(({ name, label, panel }) => {
    panel.id = `panel-${name}`;
    panel.setAttribute('role', 'tabpanel');
    panel.setAttribute('aria-labelledby', `tab-${name}`);
    return h('button', { type: 'button', role: 'tab', id: `tab-${name}`, 'aria-controls': panel.id, on: { click: () => choose(name) } }, label);
  });
  const choose = (name: string) => {
    list.forEach((tab, at) => {
      const on = tab.name === name;
      controls[at]?.setAttribute('aria-selected', String(on));
      controls[at]?.setAttribute('tabindex', on ? '0' : '-1');
      show(tab.panel, on);
    });
    onShow(name);
  };
  const move = (event: KeyboardEvent) => {
    const at = controls.indexOf(document.activeElement as HTMLButtonElement);
    const last = list.length - 1;
    const targets: Record<string, number> = { ArrowRight: at === last ? 0 : at + 1, ArrowLeft: at === 0 ? last : at - 1, Home: 0, End: last };
    const to = targets[event.key];
    if (at < 0 || to === undefined) return;
    event.preventDefault();
    controls[to]?.focus();
    choose((list[to] as Tab).name);
  };
  const bar = h('div', { role: 'tablist', 'aria-label': label, class: 'tabs', on: { keydown: move } }, ...controls);
  choose(list.find((tab) => tab.name === chosen)?.name ?? (list[0] as Tab).name);
  return { bar, choose };
}
