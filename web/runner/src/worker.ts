// The script of threads 1 to N - 1: instantiates the module on the shared memory and stays inside it until thread 0 calls `stop`.

/** What a thread is given. */
export interface ThreadStart {
  module: WebAssembly.Module;
  memory: WebAssembly.Memory;
  thread: number;
  /** Node: a failure ends the process, since thread 0 would wait for this one for ever. */
  fatal: boolean;
}

/** Runs the thread; says 'ready' once before it enters the module, or what went wrong. */
function enter({ module, memory, thread }: ThreadStart, say: (message: string) => void): void {
  const instance = new WebAssembly.Instance(module, { env: { memory, clock: () => performance.now() / 1e3 } });
  say('ready');
  (instance.exports.worker as CallableFunction)(thread);
}

if (typeof process === 'object' && process.versions?.node !== undefined) {
  const { parentPort, workerData } = await import('node:worker_threads');
  const start: ThreadStart = workerData;
  try {
    enter(start, (message) => parentPort?.postMessage(message));
  } catch (error) {
    if (!start.fatal) throw error;
    const { writeSync } = await import('node:fs');
    writeSync(2, `thread ${start.thread} failed: ${(error as Error).message}\n`);
    process.kill(process.pid, 'SIGKILL');
  }
} else {
  globalThis.onmessage = ({ data }: MessageEvent<ThreadStart>) => {
    try {
      enter(data, (message) => globalThis.postMessage(message));
    } catch (error) {
      globalThis.postMessage((error as Error).message);
    }
  };
}
