// Toy tasks: texts of small problems that a model learns within a minute, and problems that it never saw to judge it by.
//
// A line is a problem, its sign, its answer and a line's end, such as `hdac>hdac`; all lines have `LINE` bytes, and batches start with
// one, so that a problem has its place in the context. Texts and tests are pure functions of (task, seed).
//
// Invariant: a held-out problem appears in no training text of its task, whatever the seed. Which problems are held out is decided by a hash
// of the problem itself.

import { fnv1a, Stream } from '../../runner/src/rng.js';
import type { TaskName } from './protocol.js';

export interface Task {
  name: TaskName;
  title: string;
  /** One sentence for people. */
  about: string;
  /** A line of it. */
  example: string;
  /** Changes to the configuration that suit it. */
  config: { preset: string; train: Record<string, unknown> };
}

interface Rules extends Task {
  /** Ends the problem. */
  sign: string;
  problem(draw: (n: number) => number): string;
  answer(problem: string): string;
}

/** A problem with its sign, and the answer. */
export interface Example {
  prompt: string;
  answer: string;
}

const LETTERS = 'abcdefghij';
/** One problem of so many is held out. */
const HELD_OUT = 10n;
/** Bytes of a line. */
export const LINE = 10;
/** Lines of a task's text. */
const LINES = 20_000;

const config = { preset: 'tiny', train: { steps: 1500, lr: 8e-3, eval_every: 100 } };

const letters = (count: number) => (draw: (n: number) => number) => Array.from({ length: count }, () => LETTERS[draw(LETTERS.length)]).join('');
const digits = (n: number, count: number) => String(n).padStart(count, '0');
const sorted = (text: string) => [...text].sort().join('');
const reversed = (text: string) => [...text].reverse().join('');

const RULES: Record<TaskName, Rules> = {
  copy: {
    name: 'copy', title: 'Copy', about: 'Repeat the letters before the sign.', example: 'hdac>hdac', config,
    sign: '>', problem: letters(4), answer: (problem) => problem,
  },
  reverse: {
    name: 'reverse', title: 'Reverse', about: 'Write the letters back to front.', example: 'hdac<cadh', config,
    sign: '<', problem: letters(4), answer: reversed,
  },
  sort: {
    name: 'sort', title: 'Sort', about: 'Put the letters into alphabetical order.', example: 'hdac:acdh', config,
    sign: ':', problem: letters(4), answer: sorted,
  },
  addition: {
    name: 'addition', title: 'Addition', about: 'Add two numbers below 100.', example: '47+85=132', config,
    sign: '=', problem: (draw) => [draw(100), draw(100)].map((n) => digits(n, 2)).join('+'),
    answer: (problem) => digits(problem.split('+').reduce((sum, part) => sum + Number(part), 0), 3),
  },
};

/** What a page offers. */
export const TASKS: Task[] = Object.values(RULES);

/** The task of this name; the error says what there is. */
export function taskOf(name: string): Task {
  return rulesOf(name);
}

function rulesOf(name: string): Rules {
  const rules = (RULES as Record<string, Rules | undefined>)[name];
  if (rules === undefined) throw new Error(`there is no task "${name}": choose one of ${Object.keys(RULES).join(', ')}`);
  return rules;
}

/** Problems of a task, one after another, for ever. */
function* problems(rules: Rules, seed: number, stream: string): Generator<string, never, void> {
  const numbers = new Stream(seed, `tasks/${rules.name}/${stream}`);
  for (let at = 0; ; ) yield rules.problem((n) => numbers.below(at++, n));
}

const isHeldOut = (problem: string) => fnv1a(new TextEncoder().encode(problem)) % HELD_OUT === 0n;

/** The training text of a task. */
export function taskText(name: string, seed: number, lines = LINES): Uint8Array {
  const rules = rulesOf(name);
  const text: string[] = [];
  for (const problem of problems(rules, seed, 'train')) {
    if (text.length === lines) break;
    if (!isHeldOut(problem)) text.push(`${problem}${rules.sign}${rules.answer(problem)}\n`);
  }
  return new TextEncoder().encode(text.join(''));
}

/** `count` different held-out problems of a task. */
export function heldOut(name: string, seed: number, count: number): Example[] {
  const rules = rulesOf(name);
  const found = new Map<string, Example>();
  for (const problem of problems(rules, seed, 'test')) {
    if (isHeldOut(problem)) found.set(problem, { prompt: problem + rules.sign, answer: rules.answer(problem) });
    if (found.size === count) break;
  }
  return [...found.values()];
}
