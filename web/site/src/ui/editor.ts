// A text area with line numbers and one marked line: the model's text.

import { h, setAttribute, setText, show } from './dom.js';

export interface Editor {
  element: HTMLElement;
  get(): string;
  set(text: string): void;
  /** Marks a line and says what is wrong with it; undefined for nothing. */
  mark(problem: { sentence: string; line?: number; column?: number } | undefined): void;
}

export function editor(label: string, onInput: (text: string) => void): Editor {
  const numbers = h('div', { class: 'numbers', 'aria-hidden': true });
  const problem = h('p', { class: 'problem', role: 'alert', id: 'editor-problem', hidden: true });
  const area = h('textarea', { class: 'code', id: 'editor', spellcheck: 'false', autocapitalize: 'off', autocomplete: 'off', wrap: 'off', rows: 22, 'aria-describedby': problem.id });
  const go = h('button', { type: 'button', class: 'quiet small', hidden: true, on: { click: () => jump() } }, 'Go to the line');
  let lines = 0;
  let marked: { line: number; column: number } | undefined;

  const number = () => {
    const count = area.value.split('\n').length;
    if (count !== lines) numbers.replaceChildren(...Array.from({ length: count }, (_, at) => h('span', {}, String(at + 1))));
    lines = count;
    [...numbers.children].forEach((each, at) => each.classList.toggle('wrong', at + 1 === marked?.line));
  };
  const jump = () => {
    if (marked === undefined) return;
    const before = area.value.split('\n').slice(0, marked.line - 1).reduce((sum, line) => sum + line.length + 1, 0);
    area.focus();
    area.setSelectionRange(before + marked.column - 1, before + marked.column - 1);
    area.scrollTop = Math.max(0, (marked.line - 4) * parseFloat(getComputedStyle(area).lineHeight));
  };
  area.addEventListener('input', () => {
    number();
    onInput(area.value);
  });
  area.addEventListener('scroll', () => (numbers.scrollTop = area.scrollTop));
  return {
    element: h('div', { class: 'editor' }, h('label', { for: area.id }, label), h('div', { class: 'editor-frame' }, numbers, area), h('div', { class: 'row' }, problem, go)),
    get: () => area.value,
    set: (text) => {
      if (text === area.value) return;
      area.value = text;
      number();
    },
    mark: (what) => {
      marked = what?.line === undefined ? undefined : { line: what.line, column: what.column ?? 1 };
      setAttribute(area, 'aria-invalid', what === undefined ? null : 'true');
      show(problem, what !== undefined);
      setText(problem, what === undefined ? '' : `${what.line === undefined ? '' : `Line ${what.line}: `}${what.sentence}`);
      show(go, marked !== undefined);
      number();
    },
  };
}
