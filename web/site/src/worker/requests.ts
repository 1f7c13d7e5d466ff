// Requests by their names: what each asks of the session, and of the measurements beside it.

import type { CheckpointFiles, ExportedFile, ExportFormat, Opened, TrainerRequestName, TrainerRequests } from '../protocol.js';
import type { EngineOptions } from './engines.js';
import { attention, gradcheck, probabilities } from './look.js';
import { benchmark, probe, profile } from './measure.js';
import type { Watch } from './measure.js';
import type { Host, Session } from './session.js';

/** Coordinates of a gradient check, and trials of a profile, where none are asked for. */
const COORDINATES = 12;
const REPEATS = 3;

type Args<N extends TrainerRequestName> = TrainerRequests[N]['args'];
type Answers = { [N in TrainerRequestName]: (args: Args<N>, partial: (value: unknown) => void) => Promise<TrainerRequests[N]['result']> };

/** Answers requests with `session`. */
export function answerer(
  session: Session,
  host: Host,
  capabilities: () => Promise<TrainerRequests['capabilities']['result']>,
): (name: TrainerRequestName, args: Args<TrainerRequestName>, partial: (value: unknown) => void) => Promise<unknown> {
  const { engines } = session;
  let measurement: { cancelled: boolean } | undefined;

  /** One measurement at a time, not while steps run; `pause` and `close` end it. */
  const measure = async <T>(work: (watch: Watch) => Promise<T>): Promise<T> => {
    if (session.state === 'running' || measurement !== undefined) throw new Error('steps are running, which a measurement would disturb: pause them first');
    const own = { cancelled: false };
    measurement = own;
    const watch: Watch = {
      measuring: (event) => host.emit('measuring', event),
      breathe: () => host.breathe(),
      check: () => {
        if (own.cancelled) throw new Error('the measurement was ended before it was done');
      },
    };
    try {
      return await session.turns.take(() => work(watch));
    } finally {
      measurement = undefined;
    }
  };
  const cancel = () => {
    if (measurement !== undefined) measurement.cancelled = true;
  };

  const answers: Answers = {
    capabilities,
    stored: () => session.stored(),
    discard: () => session.discard(),
    open: (options) => session.open(options),
    start: () => session.start(),
    pause: async () => {
      if (measurement !== undefined) {
        cancel();
        return { step: session.opened ? session.current.engine.trainable.step : 0 };
      }
      return session.pause();
    },
    step: () => session.step(),
    stop: () => session.stop(),
    continue: (args) => session.continue(args),
    reset: () => session.reset(),
    save: () => session.save(),
    sample: (options, partial) => session.sample(options, partial),
    probabilities: ({ prompt }) => session.use(({ engine }) => probabilities(engine, prompt)),
    attention: ({ prompt }) => session.use(({ engine, config }) => attention(engines, engine, config, prompt)),
    gradcheck: ({ count = COORDINATES, seed = 1 }) =>
      session.use(({ engine: { trainable, relaxed }, config }) => {
        const options: EngineOptions = { config, backend: trainable.backend, ...(relaxed === undefined ? {} : { relaxed }) };
        return gradcheck(engines, options, count, seed);
      }),
    probe: (options) => measure((watch) => probe(engines, options, watch)),
    benchmark: (options) => measure((watch) => benchmark(engines, options, watch)),
    profile: ({ repeats = REPEATS, fusion = true }) => measure((watch) => profile(engines, session.current, { repeats, fusion }, watch)),
    export: ({ format }) => session.use(async ({ engine }) => ({ files: exported(format, await engine.trainable.exportState(), engine.trainable.step) })),
    import: (args) => imported(args),
    close: async () => {
      cancel();
      return session.close();
    },
  };

  const exported = (format: ExportFormat, files: Required<{ [K in keyof CheckpointFiles]: Uint8Array | undefined }>, step: number): ExportedFile[] => {
    const list = [['model.safetensors', files.model], ['optim.safetensors', files.optim], ['state.json', files.state]] as [string, Uint8Array][];
    if (format === 'checkpoint') return list.map(([name, bytes]) => ({ name, bytes }));
    const { blobs } = engines.compiler.request({ request: 'encode', format }, list);
    return [...blobs].map(([name, bytes]) => ({ name: format === 'tinygpt' ? `step-${step}.tinygpt` : name, bytes }));
  };

  const imported = async ({ name, bytes, heads, open }: Args<'import'>): Promise<Opened> => {
    const { result, blobs } = engines.compiler.request({ request: 'decode', name, ...(heads === undefined ? {} : { heads }) }, [[name, bytes]]);
    const file = (of: string) => blobs.get(of);
    const [model, optim, state] = [file('model.safetensors'), file('optim.safetensors'), file('state.json')];
    if (model === undefined) throw new Error(`${name} holds no weights: choose a safetensors or .tinygpt file of a model`);
    const resume: CheckpointFiles = { model, ...(optim === undefined ? {} : { optim }), ...(state === undefined ? {} : { state }) };
    // Where its text came from is a path on another machine; the session has a text of its own.
    const { data: _, ...config } = result.config;
    return session.open({ ...open, config, resume });
  };

  return (name, args, partial) => {
    const answer = answers[name] as ((args: unknown, partial: (value: unknown) => void) => Promise<unknown>) | undefined;
    if (answer === undefined) throw new Error(`there is no request "${name}"`);
    return answer(args, partial);
  };
}
