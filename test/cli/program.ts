import { spawn, type ChildProcess } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { main } from '../../src/cli/main.ts';

export const MAIN = fileURLToPath(new URL('../../src/cli/main.ts', import.meta.url));

export interface ProgramExit {
  readonly code: number | null;
  readonly out: string;
  readonly err: string;
}

export interface ProgramOptions {
  readonly env?: Readonly<Record<string, string>>;
  readonly cwd?: string;
}

/** The real program in a process of its own, with nothing of ours in its environment but PATH. */
export function startHoldfast(args: readonly string[], options: ProgramOptions = {}): { child: ChildProcess; exited: Promise<ProgramExit> } {
  const child = spawn(process.execPath, [MAIN, ...args], { cwd: options.cwd, env: { PATH: process.env['PATH'], ...options.env }, stdio: ['ignore', 'pipe', 'pipe'] });
  let [out, err] = ['', ''];
  child.stdout.setEncoding('utf8').on('data', (text: string) => (out += text));
  child.stderr.setEncoding('utf8').on('data', (text: string) => (err += text));
  const exited = new Promise<ProgramExit>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (code) => resolve({ code, out, err }));
  });
  return { child, exited };
}

export function holdfast(args: readonly string[], options: ProgramOptions = {}): Promise<ProgramExit> {
  return startHoldfast(args, options).exited;
}

/** What `testConfig` put into the environment: the secrets its references name. */
export function secretsOfTest(): Record<string, string> {
  return Object.fromEntries(Object.entries(process.env).filter(([name]) => name.startsWith('HOLDFAST_TEST_'))) as Record<string, string>;
}

/** The whole program in this process: a process a command would cost most of a test's time. */
export async function runHere(args: readonly string[], options: ProgramOptions = {}): Promise<ProgramExit> {
  let [out, err] = ['', ''];
  const code = await main(args, {
    env: options.env ?? {},
    cwd: options.cwd ?? '/',
    out: (text) => (out += text),
    err: (text) => (err += text),
    terminal: false,
    exit: (code) => {
      throw new Error(`it wanted to end the process with ${code}`);
    },
    onSignal: () => () => {},
  });
  return { code, out, err };
}
