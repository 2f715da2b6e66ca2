import { fork, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { secretsOfTest } from './cli/program.ts';
import { suite } from './support.ts';

/** When a worker ends itself with SIGKILL. Without more: after the activity's function returned and before its completion is on its way. */
export interface Death {
  /** Name of the activity, e.g. `postgres.promote:apply`. */
  readonly at: string;
  /** Only for this step of the runbook. */
  readonly step?: string;
  /** Before the function begins. */
  readonly before?: true;
  /** In its middle: right after this AWS command was answered. */
  readonly afterRequest?: string;
  /** Of those commands, the one after which it dies; default: the first. */
  readonly nth?: number;
  /** In its middle: as soon as the file holds this text; null: as soon as it is gone. */
  readonly whenFile?: { readonly path: string; readonly has: string | null };
}

/** `workflows` and `activities`: half a worker, so that a test knows who holds what. */
export type WorkerRole = 'both' | 'workflows' | 'activities';

export interface MortalWorker {
  readonly pid: number;
  /** As Temporal knows it. */
  readonly identity: string;
  /** It is ready and polls nothing before this. */
  go(): Promise<void>;
  /** Resolves with the signal that ended it, null when it ended by itself. */
  readonly ended: Promise<NodeJS.Signals | null>;
  kill(): Promise<void>;
  /** In order; for afterAll. */
  stop(): Promise<void>;
}

const ENTRY = fileURLToPath(new URL('mortal-worker.ts', import.meta.url));

/** The real worker in a process of its own, loaded and not yet polling. */
export async function mortalWorker(of: { configPath: string; runbookDirectory: string }, death: Death | null = null, role: WorkerRole = 'both'): Promise<MortalWorker> {
  const { hostname } = await import('node:os');
  const child: ChildProcess = fork(ENTRY, [JSON.stringify({ configPath: of.configPath, runbookDirectory: of.runbookDirectory, bundlePath: suite().workflowBundle, death, role })], {
    env: { PATH: process.env['PATH'], NODE_COMPILE_CACHE: process.env['NODE_COMPILE_CACHE'], HOLDFAST_TEST_LOG: process.env['HOLDFAST_TEST_LOG'] ?? 'fatal', ...secretsOfTest() },
    execArgv: [],
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
  });
  const ended = new Promise<NodeJS.Signals | null>((resolve) => {
    child.once('exit', (_, signal) => resolve(signal));
  });
  const said = (): Promise<unknown> => Promise.race([once(child, 'message'), ended.then((signal) => Promise.reject(new Error(`the worker ended (${signal ?? 'by itself'}) before it said anything`)))]);
  await said();
  const end = async (signal: NodeJS.Signals): Promise<void> => {
    if (child.exitCode === null && child.signalCode === null) child.kill(signal);
    await ended;
  };
  return {
    pid: child.pid!,
    identity: `holdfast-${child.pid}@${hostname()}`,
    async go() {
      const running = said();
      child.send('go');
      await running;
    },
    ended,
    kill: () => end('SIGKILL'),
    stop: () => end('SIGTERM'),
  };
}
