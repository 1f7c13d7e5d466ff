// A line chart over training steps: uPlot draws it, and words and a table say the same.
//
// Invariant: what the canvas shows is also text: a summary as the figure's label, and a table of some of its rows that can be opened.

import uPlot from 'uplot';
import { atMostEvery, button, freshId, h, setText, table } from './dom.js';
import { count } from './format.js';
import { colour, onThemeChange } from './theme.js';

/** One line: `values` over the chart's steps, null where it has none. */
export interface Line {
  label: string;
  /** Custom property of the style sheet, without its dashes. */
  colour: string;
  values: (number | null)[];
  width?: number;
  dash?: number[];
  /** Marks each value. */
  dots?: boolean;
  /** Drawn, but no part of legend and table. */
  background?: boolean;
}

export interface ChartData {
  steps: number[];
  lines: Line[];
  /** One or two sentences that say what is to be seen. */
  summary: string;
}

export interface ChartOptions {
  title: string;
  height: number;
  logarithmic?: boolean;
  /** The values' axis begins at 0. */
  fromZero?: boolean;
  format(value: number): string;
}

/** Rows of the table beside a chart. */
const ROWS = 12;

/** Without the zeros that end a decimal fraction: an axis needs no more digits than its ticks differ in. */
const brief = (text: string) => text.replace(/(\.\d*?)0+$/, '$1').replace(/\.$/, '');

export class Chart {
  readonly element: HTMLElement;
  #options: ChartOptions;
  #plot: uPlot | undefined;
  #shape = '';
  #data: ChartData = { steps: [], lines: [], summary: 'No step has been taken yet.' };
  readonly #canvas = h('div', { class: 'canvas', role: 'img' });
  readonly #legend = h('ul', { class: 'legend', 'aria-hidden': true });
  readonly #readout = h('span', { class: 'readout', 'aria-hidden': true });
  readonly #summary = h('figcaption', { class: 'visually-hidden', id: freshId('summary') });
  readonly #rows = h('div', { class: 'scroll', tabindex: 0, role: 'region' });
  readonly #toggle: HTMLButtonElement;
  readonly #draw = atMostEvery(0, () => this.#render());

  constructor(options: ChartOptions) {
    this.#options = options;
    this.#rows.id = freshId('rows');
    this.#rows.hidden = true;
    this.#rows.setAttribute('aria-label', `${options.title} as a table`);
    this.#canvas.setAttribute('aria-label', options.title);
    this.#canvas.setAttribute('aria-describedby', this.#summary.id);
    this.#canvas.style.setProperty('--chart-height', `${options.height}px`);
    this.#toggle = button('Table', () => this.#toggleTable(), { class: 'quiet small', 'aria-expanded': 'false', 'aria-controls': this.#rows.id, 'aria-label': `${options.title}: table` });
    const foot = h('div', { class: 'chart-foot' }, this.#legend, this.#readout, this.#toggle);
    this.element = h('figure', { class: 'chart' }, this.#canvas, foot, this.#summary, this.#rows);
    new ResizeObserver(() => this.#draw()).observe(this.#canvas);
    onThemeChange(() => {
      this.#shape = '';
      this.#draw();
    });
  }

  /** Shows other values; drawn with the next frame. */
  set(data: ChartData, options: Partial<ChartOptions> = {}): void {
    this.#data = data;
    this.#options = { ...this.#options, ...options };
    this.#draw();
  }

  #render(): void {
    const width = this.#canvas.clientWidth;
    if (width === 0) return;
    const { steps, lines, summary } = this.#data;
    setText(this.#summary, summary);
    const { height, logarithmic = false, format } = this.#options;
    const shape = JSON.stringify([height, logarithmic, format(1), lines.map(({ values, ...look }) => look)]);
    const columns = [steps, ...lines.map((line) => line.values)] as uPlot.AlignedData;
    if (this.#plot === undefined || shape !== this.#shape) {
      this.#plot?.destroy();
      this.#plot = new uPlot(this.#settings(width), columns, this.#canvas);
      this.#shape = shape;
      this.#showLegend();
    } else {
      if (this.#plot.width !== width) this.#plot.setSize({ width, height });
      this.#plot.setData(columns);
    }
    if (!this.#rows.hidden) this.#showTable();
  }

  #settings(width: number): uPlot.Options {
    const { height, logarithmic = false, fromZero = false, format } = this.#options;
    const [ink, grid] = [colour('muted'), colour('line')];
    const font = `12px ${getComputedStyle(document.body).fontFamily}`;
    const axis: uPlot.Axis = { stroke: ink, font, grid: { stroke: grid, width: 1 }, ticks: { show: false } };
    return {
      width,
      height,
      legend: { show: false },
      padding: [8, 18, 0, 0],
      cursor: { y: false, points: { size: 6 }, drag: { x: false, y: false } },
      scales: { x: { time: false, range: (_, min, max) => (min === max ? [min, min + 1] : [min, max]) }, y: { distr: logarithmic ? 3 : 1, ...(fromZero ? { range: (_: uPlot, __: number, max: number): uPlot.Range.MinMax => [0, (max || 1) * 1.05] } : {}) } },
      axes: [
        { ...axis, space: 64, size: 32, values: (_, ticks) => ticks.map((tick) => (Number.isInteger(tick) ? count(tick) : '')) },
        { ...axis, size: 52, values: (_, ticks) => ticks.map((tick) => (tick === null ? '' : brief(format(tick)))) },
      ],
      series: [
        {},
        ...this.#data.lines.map(
          (line): uPlot.Series => ({
            label: line.label,
            stroke: colour(line.colour),
            width: line.width ?? 2,
            ...(line.dash === undefined ? {} : { dash: line.dash }),
            spanGaps: true,
            points: { show: line.dots ?? false, size: 5, fill: colour(line.colour) },
          }),
        ),
      ],
      hooks: { setCursor: [(plot) => this.#read(plot.cursor.idx)] },
    };
  }

  #shown(): Line[] {
    return this.#data.lines.filter((line) => line.background !== true);
  }

  #showLegend(): void {
    const items = this.#shown().map((line) => {
      const key = h('i', { class: line.dash === undefined ? '' : 'dashed' });
      key.style.setProperty('--key', `var(--${line.colour})`);
      return h('li', {}, key, line.label);
    });
    this.#legend.replaceChildren(...items);
  }

  /** Says the values under the pointer. */
  #read(index: number | null | undefined): void {
    const step = index === null || index === undefined ? undefined : this.#data.steps[index];
    if (step === undefined) return setText(this.#readout, '');
    const parts = this.#shown().flatMap(({ label, values }) => {
      const value = values[index as number];
      return value === null || value === undefined ? [] : [`${label} ${this.#options.format(value)}`];
    });
    setText(this.#readout, `step ${count(step)}: ${parts.join(', ')}`);
  }

  #toggleTable(): void {
    this.#rows.hidden = !this.#rows.hidden;
    this.#toggle.setAttribute('aria-expanded', String(!this.#rows.hidden));
    if (!this.#rows.hidden) this.#showTable();
  }

  #showTable(): void {
    const { steps } = this.#data;
    const lines = this.#shown().filter((line) => line.dash === undefined);
    const every = Math.max(1, Math.ceil(steps.length / ROWS));
    // Of a line with few values, those; of the others some.
    const marked = new Set(lines.filter((line) => line.dots === true).flatMap(({ values }) => values.flatMap((value, at) => (value === null ? [] : [at])).slice(-ROWS)));
    const chosen = steps.map((_, at) => at).filter((at) => at % every === 0 || at === steps.length - 1 || marked.has(at));
    const cell = (value: number | null | undefined) => (value === null || value === undefined ? 'none' : this.#options.format(value));
    const rows = chosen.map((at) => [count(steps[at] as number), ...lines.map((line) => cell(line.values[at]))]);
    this.#rows.replaceChildren(table(this.#options.title, ['Step', ...lines.map((line) => line.label)], rows));
  }
}
