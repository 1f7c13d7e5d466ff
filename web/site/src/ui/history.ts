// What a run has shown so far, in bounded memory: step, loss, gradient norm and rate, and the validations.
//
// Invariant: at most CAPACITY points; where there would be more, neighbours are joined into their mean (steps: the later), so that a
// long run keeps its shape at half the detail.

const CAPACITY = 4000;

export interface Point {
  step: number;
  loss: number;
  gradNorm: number;
  lr: number;
}

export interface Validation {
  step: number;
  loss: number;
}

export class History {
  points: Point[] = [];
  validations: Validation[] = [];
  /** Steps that one point stands for. */
  #stride = 1;
  #pending: Point[] = [];

  /** Forgets everything after `step`, as a run does that goes on from there; 0 forgets all. */
  truncate(step: number): void {
    this.points = this.points.filter((point) => point.step <= step);
    this.validations = this.validations.filter((point) => point.step <= step);
    this.#pending = [];
    if (this.points.length === 0) this.#stride = 1;
  }

  /** The latest step taken in. */
  get last(): number {
    return (this.#pending.at(-1) ?? this.points.at(-1))?.step ?? 0;
  }

  /** Takes up what was kept of another page's history. */
  restore(points: Point[], validations: Validation[]): void {
    [this.points, this.validations, this.#pending] = [points, validations, []];
    const [first, second] = points;
    this.#stride = first === undefined || second === undefined ? 1 : Math.max(1, second.step - first.step);
  }

  add(point: Point): void {
    this.#pending.push(point);
    if (this.#pending.length < this.#stride) return;
    this.points.push(mean(this.#pending));
    this.#pending = [];
    if (this.points.length <= CAPACITY) return;
    const pairs: Point[] = [];
    for (let at = 0; at + 1 < this.points.length; at += 2) pairs.push(mean(this.points.slice(at, at + 2)));
    this.points = pairs;
    this.#stride *= 2;
  }

  addValidation(validation: Validation): void {
    this.validations = [...this.validations.filter(({ step }) => step < validation.step), validation];
  }
}

function mean(points: Point[]): Point {
  const of = (key: keyof Point) => points.reduce((sum, point) => sum + point[key], 0) / points.length;
  return { step: points.at(-1)?.step ?? 0, loss: of('loss'), gradNorm: of('gradNorm'), lr: of('lr') };
}

/** The mean of each value and up to `reach` neighbours on either side: a line among noise that does not lag behind it. */
export function smoothed(values: number[], reach: number): number[] {
  return values.map((_, at) => {
    const near = Math.min(reach, at, values.length - 1 - at);
    const window = values.slice(at - near, at + near + 1).filter(Number.isFinite);
    return window.reduce((sum, value) => sum + value, 0) / window.length;
  });
}
