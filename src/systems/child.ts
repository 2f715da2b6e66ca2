import { spawn, type ChildProcess } from 'node:child_process';
import { existsSync } from 'node:fs';
import type { Readable, Writable } from 'node:stream';
import { HoldfastError } from '../model/errors.ts';
import { redact } from './log.ts';

/** What a child may see of our environment; everything else must be handed over by name. */
const ALLOWED_ENVIRONMENT = ['PATH', 'HOME', 'LANG', 'LC_ALL', 'TMPDIR', 'TZ', 'USER', 'LOGNAME', 'SSL_CERT_FILE', 'SSL_CERT_DIR', 'SSH_AUTH_SOCK'];
const STDERR_TAIL_BYTES = 16_384;
const SETPRIV = '/usr/bin/setpriv';
/** Its process group is its own (`detached`), so that nothing else is in it. */
const KILL_GROUP = `trap 'kill -9 0' USR1; "$@" & wait "$!"`;

export interface ChildOptions {
  readonly env?: Readonly<Record<string, string>>;
  readonly cwd?: string;
  readonly uid?: number;
  readonly gid?: number;
  readonly stdin?: 'pipe' | 'ignore';
  readonly stdout?: 'pipe' | 'ignore';
  /** TERM to its process group, then KILL after `killAfterMs`. */
  readonly signal?: AbortSignal;
  readonly killAfterMs?: number;
  /** End with us even when we are killed with SIGKILL (Linux: parent-death signal). Default true. */
  readonly dieWithParent?: boolean;
  /** Its own children, too: those of a command that was killed may wait for each other. It has no stdin then. */
  readonly groupDiesWithParent?: boolean;
  readonly onStderrLine?: (line: string) => void;
}

export interface ChildExit {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  /** The last 16 kB of what it said, secrets masked. */
  readonly stderr: string;
}

export interface RunningChild {
  readonly command: string;
  readonly pid: number;
  readonly stdin: Writable | null;
  readonly stdout: Readable | null;
  /** Resolves when it ended and its pipes are closed; rejects only when it could not be started. */
  readonly exited: Promise<ChildExit>;
  /** TERM, then KILL, to the whole process group; resolves when it is gone. Safe to call twice. */
  end(): Promise<ChildExit>;
}

/** Start `argv` without a shell, in a process group of its own, with an allow-listed environment. */
export function startChild(argv: readonly string[], options: ChildOptions = {}): RunningChild {
  const [command, ...args] = argv;
  if (command === undefined) throw new HoldfastError('child-empty', 'no command was given to run');
  const wrap = (options.dieWithParent ?? true) && process.platform === 'linux' && existsSync(SETPRIV);
  const env: Record<string, string> = {};
  for (const key of ALLOWED_ENVIRONMENT) {
    const value = process.env[key];
    if (value !== undefined) env[key] = value;
  }
  Object.assign(env, options.env);
  // setpriv replaces itself by the command, so the pid is the command's own; for a group it is that of a shell, which leads the group and waits.
  const wrapped = options.groupDiesWithParent === true ? ['--pdeathsig', 'USR1', '--', '/bin/sh', '-c', KILL_GROUP, 'sh', command, ...args] : ['--pdeathsig', 'KILL', '--', command, ...args];
  const child: ChildProcess = spawn(wrap ? SETPRIV : command, wrap ? wrapped : args, {
    cwd: options.cwd,
    env,
    uid: options.uid,
    gid: options.gid,
    detached: true,
    stdio: [options.stdin ?? 'ignore', options.stdout ?? 'pipe', 'pipe'],
  });

  let tail = '';
  let partial = '';
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    tail = (tail + text).slice(-STDERR_TAIL_BYTES);
    if (options.onStderrLine === undefined) return;
    partial += text;
    const lines = partial.split('\n');
    partial = lines.pop() ?? '';
    for (const line of lines) options.onStderrLine(redact(line));
  });

  const exited = new Promise<ChildExit>((resolve, reject) => {
    child.once('error', (error: NodeJS.ErrnoException) => {
      const missing = error.code === 'ENOENT';
      reject(
        new HoldfastError(missing ? 'tool-missing' : 'child-not-started', `${command} could not be started: ${error.message}`, {
          next: missing ? `install ${command} on this worker or put its folder into binDirectory; \`holdfast doctor\` lists what is needed` : 'see the error above',
          cause: error,
        }),
      );
    });
    child.once('close', (code, signal) => resolve({ code, signal, stderr: redact(tail.trim()) }));
  });
  exited.catch(() => {}); // Whoever awaits it sees the error; nobody awaiting must not end the process.

  let ending: Promise<ChildExit> | undefined;
  function end(): Promise<ChildExit> {
    ending ??= (async () => {
      if (child.pid === undefined) return exited;
      signalGroup(child.pid, 'SIGTERM');
      const timer = setTimeout(() => signalGroup(child.pid!, 'SIGKILL'), options.killAfterMs ?? 5000);
      try {
        // Pipes nobody reads any more would keep 'close' from coming.
        child.stdout?.resume();
        return await exited;
      } finally {
        clearTimeout(timer);
      }
    })();
    return ending;
  }
  if (options.signal !== undefined) {
    const onAbort = (): void => void end().catch(() => {});
    if (options.signal.aborted) onAbort();
    else {
      options.signal.addEventListener('abort', onAbort, { once: true });
      void exited.finally(() => options.signal?.removeEventListener('abort', onAbort)).catch(() => {});
    }
  }
  return { command, pid: child.pid ?? -1, stdin: child.stdin, stdout: child.stdout, exited, end };
}

export interface ChildOutput extends ChildExit {
  readonly stdout: string;
}

/**
 * Run to its end and collect up to `maxBytes` of stdout.
 * @throws HoldfastError `child-failed` when it does not exit with 0, with the tail of its stderr.
 */
export async function runChild(argv: readonly string[], options: ChildOptions & { input?: string; maxBytes?: number; allowFailure?: boolean } = {}): Promise<ChildOutput> {
  const child = startChild(argv, { ...options, stdin: options.input === undefined ? 'ignore' : 'pipe', stdout: 'pipe' });
  const limit = options.maxBytes ?? 64 * 1024 * 1024;
  const chunks: Buffer[] = [];
  let size = 0;
  child.stdout?.on('data', (chunk: Buffer) => {
    size += chunk.length;
    if (size <= limit) chunks.push(chunk);
  });
  if (options.input !== undefined) {
    child.stdin?.on('error', () => {}); // It may end before it read all; its exit tells.
    child.stdin?.end(options.input);
  }
  const exit = await child.exited;
  options.signal?.throwIfAborted();
  if (size > limit) throw new HoldfastError('child-output-too-large', `${argv[0]} wrote ${size} bytes, more than the ${limit} expected`);
  if ((exit.code !== 0 || exit.signal !== null) && options.allowFailure !== true) throw childFailed(argv, exit);
  return { ...exit, stdout: Buffer.concat(chunks).toString('utf8') };
}

export function childFailed(argv: readonly string[], exit: ChildExit): HoldfastError {
  const ended = exit.signal === null ? `ended with exit code ${exit.code}` : `was ended by ${exit.signal}`;
  return new HoldfastError('child-failed', `${argv[0]} ${ended}: ${exit.stderr === '' ? '(it said nothing)' : exit.stderr}`, {
    retryable: true,
    context: { exitCode: exit.code, signal: exit.signal },
  });
}

function signalGroup(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(-pid, signal);
  } catch {
    // Already gone.
  }
}
