// Light, dark, or as the system says: an attribute of the root element, which the style sheet reads.

import { button, h } from './dom.js';

const THEMES = ['system', 'light', 'dark'] as const;
type Theme = (typeof THEMES)[number];

const KEY = 'tinygpt-theme';
const listeners: (() => void)[] = [];

/** Calls `act` whenever colours change, so that what is drawn on a canvas can follow. */
export function onThemeChange(act: () => void): void {
  listeners.push(act);
}

/** The value of a colour of the style sheet, as it is now. */
export function colour(name: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

/** Which of the two is shown. */
export function themeName(): 'light' | 'dark' {
  const chosen = document.documentElement.dataset.theme;
  if (chosen === 'light' || chosen === 'dark') return chosen;
  return matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light';
}

function stored(): Theme {
  // Storage may be forbidden; the theme then lasts as long as the page.
  try {
    return THEMES.find((theme) => theme === localStorage.getItem(KEY)) ?? 'system';
  } catch {
    return 'system';
  }
}

function keep(theme: Theme): void {
  try {
    localStorage.setItem(KEY, theme);
  } catch {
    // As above.
  }
}

/** The button that goes from one theme to the next. */
export function themeButton(): HTMLButtonElement {
  let theme = stored();
  const apply = () => {
    document.documentElement.dataset.theme = theme;
    control.replaceChildren(h('span', { class: 'theme-word' }, 'Theme: '), theme);
    for (const listener of listeners) listener();
  };
  const control = button('', () => {
    theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length] as Theme;
    keep(theme);
    apply();
  }, { class: 'quiet' });
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => listeners.forEach((listener) => listener()));
  apply();
  return control;
}
