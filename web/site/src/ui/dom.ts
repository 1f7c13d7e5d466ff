// Elements in one expression: `h('label', { for: 'lr' }, 'learning rate')`.

type Child = Node | string | null | undefined | false;

/** What an element is made with: `on` are its listeners, `data` its data-* attributes; the rest are attributes. */
interface Properties {
  on?: { [K in keyof HTMLElementEventMap]?: (event: HTMLElementEventMap[K]) => void };
  data?: Record<string, string>;
  [attribute: string]: unknown;
}

/** An element with attributes and children. An attribute that is false, null or undefined is left out; one that is true is empty. */
export function h<K extends keyof HTMLElementTagNameMap>(tag: K, properties: Properties = {}, ...children: Child[]): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  const { on = {}, data = {}, ...attributes } = properties;
  for (const [name, value] of Object.entries(attributes)) setAttribute(element, name, value);
  for (const [name, value] of Object.entries(data)) element.dataset[name] = value;
  for (const [name, listener] of Object.entries(on)) element.addEventListener(name, listener as EventListener);
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Sets an attribute, or takes it away where the value is false, null or undefined. */
export function setAttribute(element: Element, name: string, value: unknown): void {
  if (value === false || value === null || value === undefined) element.removeAttribute(name);
  else element.setAttribute(name, value === true ? '' : String(value));
}

/** Sets a text only where it differs, so that nothing is laid out or read aloud again. */
export function setText(element: Element, text: string): void {
  if (element.textContent !== text) element.textContent = text;
}

/** Shows or hides an element. */
export function show(element: HTMLElement, visible: boolean): void {
  if (element.hidden === visible) element.hidden = !visible;
}

let ids = 0;

/** An id that no other element has. */
export function freshId(stem: string): string {
  ids += 1;
  return `${stem}-${ids}`;
}

/** A button that does one thing. See `enable`. */
export function button(label: string, act: () => void, properties: Properties = {}): HTMLButtonElement {
  const element: HTMLButtonElement = h('button', { type: 'button', ...properties, on: { click: () => isEnabled(element) && act() } }, label);
  return element;
}

/** Whether a button does anything now. One that does not keeps the focus, which `disabled` would take from under the user's keys. */
export function enable(control: HTMLButtonElement, on: boolean): void {
  if (isEnabled(control) !== on) setAttribute(control, 'aria-disabled', on ? null : 'true');
}

const isEnabled = (control: HTMLButtonElement) => control.getAttribute('aria-disabled') !== 'true';

/** A section with a heading. */
export function card(title: string, properties: Properties = {}, ...children: Child[]): HTMLElement {
  const id = freshId('card');
  const { class: name = '', ...rest } = properties;
  return h('section', { class: `card ${String(name)}`.trim(), 'aria-labelledby': id, ...rest }, h('h2', { id }, title), ...children);
}

/** A label, its control and a line of help below, which is its description. */
export function field(label: string, control: HTMLElement, help?: string): HTMLElement {
  control.id ||= freshId('field');
  const note = help === undefined ? null : h('p', { class: 'help', id: `${control.id}-help` }, help);
  if (note) control.setAttribute('aria-describedby', note.id);
  return h('div', { class: 'field' }, h('label', { for: control.id }, label), control, note);
}

/** A table from a header and rows; the first cell of a row is its header. */
export function table(caption: string, header: string[], rows: (string | Node)[][]): HTMLTableElement {
  const head = h('tr', {}, ...header.map((text) => h('th', { scope: 'col' }, text)));
  const body = rows.map((row) => h('tr', {}, ...row.map((cell, at) => (at === 0 ? h('th', { scope: 'row' }, cell) : h('td', {}, cell)))));
  return h('table', {}, h('caption', {}, caption), h('thead', {}, head), h('tbody', {}, ...body));
}

/** Does `act` once things have been quiet for `ms`. */
export function debounce<A extends unknown[]>(ms: number, act: (...values: A) => void): (...values: A) => void {
  let timer: ReturnType<typeof setTimeout> | undefined;
  return (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => act(...values), ms);
  };
}

/** Calls `draw` in a frame of its own, at most once in `ms` milliseconds, however often it is asked to. */
export function atMostEvery(ms: number, draw: () => void): () => void {
  let asked = false;
  let last = -Infinity;
  return () => {
    if (asked) return;
    asked = true;
    const frame = () => requestAnimationFrame(() => {
      [asked, last] = [false, performance.now()];
      draw();
    });
    const wait = last + ms - performance.now();
    if (wait > 0) setTimeout(frame, wait);
    else frame();
  };
}
