import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, closeSync, mkdtempSync, openSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { HoldfastError } from '../model/errors.ts';
import { processStart } from '../systems/process-stat.ts';

export interface LocalProcess {
  readonly name: string;
  readonly pid: number;
  readonly logFile: string;
  readonly exited: Promise<{ readonly code: number | null; readonly signal: NodeJS.Signals | null }>;
  running(): boolean;
  /** The end of its log, for an error message. */
  logTail(): string;
  signal(signal: NodeJS.Signals): void;
  /** TERM, then KILL after `graceMs` (default 8000); resolves when it is gone. */
  end(graceMs?: number): Promise<void>;
}

export interface SpawnOptions {
  readonly name: string;
  readonly argv: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
  readonly cwd?: string;
  readonly uid?: number;
  readonly gid?: number;
  /** Default: `<directory>/<name>.log`. */
  readonly logFile?: string;
}

/**
 * The children of a demo or a test run. Each is known by pid and start time to a small reaper process, which ends exactly those
 * when we are gone, also after SIGKILL, and removes the folder.
 */
export interface Processes {
  /** A temporary folder that goes with the processes; other users may pass through it, since PostgreSQL refuses root. */
  readonly directory: string;
  spawn(options: SpawnOptions): Promise<LocalProcess>;
  /** A PostgreSQL data directory: whichever server runs on it in the end is ended too. Call before the server starts. */
  watchCluster(dataDirectory: string): void;
  /** Leave the folder when all ends (to look at it after a failure). */
  keepDirectory(): void;
  /** Ends every process, then removes the folder. Safe to call twice. */
  end(): Promise<void>;
}

/** Waits for a line before it becomes the command: nothing runs before the reaper knows its pid, and all ends if we die before. */
const GATE = 'read -r go <&3 || exit 111; exec 3<&-; exec "$@"';

export function createProcesses(options: { directory?: string; keepDirectory?: boolean } = {}): Processes {
  const directory = options.directory ?? mkdtempSync(join(tmpdir(), 'holdfast-'));
  if (options.directory === undefined) chmodSync(directory, 0o755);
  const known = new Map<string, object>();
  const children = new Map<LocalProcess, ChildProcess>();
  let ended: Promise<void> | undefined;
  let reaper = startReaper();

  function startReaper(): ChildProcess {
    const started = spawn(process.execPath, [fileURLToPath(new URL('./reaper.js', import.meta.url))], {
      detached: true,
      stdio: ['pipe', 'ignore', 'inherit'],
      env: { PATH: process.env['PATH'] ?? '' },
      cwd: '/',
    });
    started.stdin?.on('error', () => {}); // Its exit tells, and a new one is started.
    started.once('exit', () => {
      if (ended !== undefined) return;
      reaper = startReaper();
      for (const message of known.values()) reaper.stdin?.write(`${JSON.stringify(message)}\n`);
    });
    started.unref();
    (started.stdin as unknown as { unref?: () => void } | null)?.unref?.();
    return started;
  }
  function tell(key: string, message: object): void {
    known.set(key, message);
    reaper.stdin?.write(`${JSON.stringify(message)}\n`);
  }
  tell('directory', { directory, keep: options.keepDirectory === true });

  return {
    directory,
    async spawn(spawnOptions) {
      if (ended !== undefined) throw new HoldfastError('stack-ended', `${spawnOptions.name} cannot be started: the local stack was ended`);
      const logFile = spawnOptions.logFile ?? join(directory, `${spawnOptions.name}.log`);
      const log = openSync(logFile, 'a');
      const child = spawn('/bin/sh', ['-c', GATE, 'sh', ...spawnOptions.argv], {
        cwd: spawnOptions.cwd ?? directory,
        env: { PATH: process.env['PATH'] ?? '', HOME: process.env['HOME'] ?? directory, LANG: 'C.UTF-8', ...spawnOptions.env },
        uid: spawnOptions.uid,
        gid: spawnOptions.gid,
        detached: true,
        stdio: ['ignore', log, log, 'pipe'],
      });
      closeSync(log);
      const exited = new Promise<{ code: number | null; signal: NodeJS.Signals | null }>((resolve, reject) => {
        child.once('error', reject);
        child.once('exit', (code, signal) => resolve({ code, signal }));
      });
      exited.catch(() => {});
      if (child.pid === undefined) await exited;
      const pid = child.pid!;
      const start = processStart(pid);
      if (start !== undefined) tell(`process ${pid} ${start}`, { add: { pid, start, name: spawnOptions.name } });
      let isRunning = true;
      const local: LocalProcess = {
        name: spawnOptions.name,
        pid,
        logFile,
        exited,
        running: () => isRunning,
        logTail: () => readFileSync(logFile, 'utf8').slice(-3000).trim(),
        signal: (signal) => void (isRunning && child.kill(signal)),
        async end(graceMs = 8000) {
          if (!isRunning) return;
          signalGroup(pid, 'SIGTERM');
          const timer = setTimeout(() => signalGroup(pid, 'SIGKILL'), graceMs);
          await exited.finally(() => clearTimeout(timer));
        },
      };
      children.set(local, child);
      void exited
        .catch(() => {})
        .then(() => {
          isRunning = false;
          children.delete(local);
          known.delete(`process ${pid} ${start}`);
          if (ended === undefined) reaper.stdin?.write(`${JSON.stringify({ remove: pid })}\n`);
        });
      const gate = child.stdio[3] as NodeJS.WritableStream;
      gate.on('error', () => {});
      gate.end('go\n');
      child.unref();
      return local;
    },
    watchCluster(dataDirectory) {
      tell(`cluster ${dataDirectory}`, { cluster: dataDirectory });
    },
    keepDirectory() {
      tell('directory', { directory, keep: true });
    },
    end() {
      ended ??= (async () => {
        const exit = once(reaper, 'exit');
        reaper.ref();
        // They are waited for below: with nothing else to do this process would end first, in the middle of it.
        for (const child of children.values()) child.ref();
        reaper.stdin?.end();
        const [code] = (await exit) as [number | null];
        await Promise.all([...children.keys()].map((child) => child.exited.catch(() => {})));
        if (code !== 0) throw new HoldfastError('stack-left', `not everything of the local stack in ${directory} could be ended`, { next: `look for processes that work in ${directory}` });
      })();
      return ended;
    },
  };
}

/** Ends the processes and then us on Ctrl-C, TERM and hang-up; a second signal changes nothing. Returns what takes the handlers off. */
export function endOnSignals(processes: Processes, before?: (signal: NodeJS.Signals) => void): () => void {
  const numbers = { SIGINT: 2, SIGTERM: 15, SIGHUP: 1 } as const;
  const handlers = Object.entries(numbers).map(([signal, number]) => {
    let seen = false;
    const handler = (): void => {
      if (seen) return;
      seen = true;
      before?.(signal as NodeJS.Signals);
      void processes
        .end()
        .catch((error: unknown) => process.stderr.write(`${String(error)}\n`))
        .finally(() => process.exit(128 + number));
    };
    process.on(signal, handler);
    return () => process.off(signal, handler);
  });
  return () => handlers.forEach((off) => off());
}

/** Polls until `ready` gives a value; fails at once when the process ended, and after `withinMs` otherwise. */
export async function waitUntilReady<T>(process: LocalProcess, ready: () => Promise<T | undefined>, withinMs = 60_000): Promise<T> {
  const deadline = Date.now() + withinMs;
  for (;;) {
    const value = await ready().catch(() => undefined);
    if (value !== undefined) return value;
    if (!process.running()) throw new HoldfastError('server-ended', `${process.name} ended while starting: ${process.logTail()}`);
    if (Date.now() > deadline) {
      await process.end();
      throw new HoldfastError('server-not-ready', `${process.name} did not answer within ${withinMs / 1000} s: ${process.logTail()}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 30));
  }
}

function signalGroup(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(-pid, signal);
  } catch {
    // Already gone.
  }
}
