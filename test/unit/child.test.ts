import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, readdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';
import { runChild, startChild } from '../../src/systems/child.ts';

const CHILD = fileURLToPath(new URL('../../src/systems/child.ts', import.meta.url));
/** Two children that nobody else knows of, as pgBackRest has: the command itself only waits for them. */
const FAMILY = (tag: number): string[] => ['/bin/sh', '-c', `sleep ${tag} & sleep ${tag} & wait`];

function sleeping(tag: number): number[] {
  return readdirSync('/proc').filter((pid) => /^\d+$/.test(pid)).filter((pid) => {
    try {
      return readFileSync(`/proc/${pid}/cmdline`, 'utf8') === `sleep\0${tag}\0`;
    } catch {
      return false;
    }
  }).map(Number);
}

it('a command whose group dies with us takes its own children along when we are killed', async () => {
  const tag = 100_000 + process.pid;
  const code = `import { startChild } from ${JSON.stringify(CHILD)}; startChild(${JSON.stringify(FAMILY(tag))}, { cwd: '/', groupDiesWithParent: true }); setInterval(() => {}, 1000);`;
  const parent = spawn(process.execPath, ['--disable-warning=ExperimentalWarning', '--input-type=module', '--eval', code], { stdio: 'ignore' });
  const ended = once(parent, 'exit');
  await expect.poll(() => sleeping(tag).length, { timeout: 10_000 }).toBe(2);
  parent.kill('SIGKILL');
  await ended;
  await expect.poll(() => sleeping(tag), { timeout: 10_000 }).toEqual([]);
});

it('such a command is ended as a whole, and its exit code and what it says are its own', async () => {
  const tag = 200_000 + process.pid;
  const child = startChild(FAMILY(tag), { cwd: '/', groupDiesWithParent: true });
  await expect.poll(() => sleeping(tag).length, { timeout: 10_000 }).toBe(2);
  await child.end();
  expect(sleeping(tag)).toEqual([]);
  const said = await runChild(['/bin/sh', '-c', 'echo out "$1"; echo err >&2; exit 7', 'sh', 'a b'], { cwd: '/', groupDiesWithParent: true, allowFailure: true });
  expect(said).toMatchObject({ code: 7, signal: null, stdout: 'out a b\n', stderr: 'err' });
});
