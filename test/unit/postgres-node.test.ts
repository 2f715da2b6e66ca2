import { mkdtemp, readFile, stat, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { beyondFork, lsnDifference, lsnValue, walFileName, writeOnNode } from '../../src/systems/postgres-node.ts';

const MIB = 1024 * 1024;

it.each([
  [1, '0/1000000', 16, '000000010000000000000001'],
  [29, '0/4FFFFFF', 16, '0000001D0000000000000004'],
  [2, '1/0', 16, '000000020000000100000000'],
  [2, '1A/FE000148', 16, '000000020000001A000000FE'],
  [255, '3/40000000', 1024, '000000FF0000000300000001'],
  [3, '0/300000', 1, '000000030000000000000003'],
])('timeline %i, position %s, segments of %i MiB: %s', (timeline, lsn, size, name) => {
  expect(walFileName(timeline, lsn, size * MIB)).toBe(name);
});

it('positions are compared as 64-bit numbers, and what is none is refused', () => {
  expect(lsnDifference('0/FFFFFFFF', '1/0')).toBe(1n);
  expect(lsnDifference('A/0', '9/FFFFFFFF')).toBe(-1n);
  for (const wrong of ['', '0', '0/', '0/0x1', '0/123456789', 'G/0']) expect(() => lsnValue(wrong)).toThrow(/is no WAL position/);
});

const HISTORY = '1\t0/5000000\tno recovery target specified\n\n2\t0/70000A8\tno recovery target specified\n';
it.each([
  ['on its own timeline', 3, '9/0', null],
  ['at the fork to the byte', 2, '0/70000A8', null],
  ['behind the fork', 2, '0/6000000', null],
  ['a byte beyond the fork', 2, '0/70000A9', /1 bytes of WAL of timeline 2 beyond 0\/70000A8/],
  ['behind an earlier fork', 1, '0/5000000', null],
  ['beyond an earlier fork, behind the last', 1, '0/6000000', /16777216 bytes of WAL of timeline 1 beyond 0\/5000000/],
  ['on a branch of its own', 4, '0/1', /timeline 4 is not in the history of timeline 3/],
])('a standby %s', (_what, timeline, lsn, why) => {
  const found = beyondFork({ history: HISTORY, timeline: 3 }, { timeline, lsn });
  expect(found ?? '').toMatch(why ?? /^$/);
});

it('a file on a host is replaced as a whole or not at all, through a link and with its mode', async () => {
  const dataDirectory = await mkdtemp(join(tmpdir(), 'holdfast-'));
  const [file, link] = [join(dataDirectory, 'real.conf'), join(dataDirectory, 'pg_hba.conf')];
  await writeFile(file, 'before\n', { mode: 0o640 });
  await symlink(file, link);
  const node = { host: 'a', port: 5432, dataDirectory };
  // The text comes only in part: the connection that carries it is lost.
  const cut = { ...node, exec: ['sh', '-c', 'if [ "$1" = tee ]; then head -c 3 > "$2"; exit 255; fi; exec "$@"', 'cut'] };
  await expect(writeOnNode(cut, link, 'after\n')).rejects.toThrow(/255/);
  expect(await readFile(file, 'utf8')).toBe('before\n');
  await writeOnNode(node, link, 'after\n');
  expect(await readFile(file, 'utf8')).toBe('after\n');
  expect((await stat(file)).mode & 0o777).toBe(0o640);
});
