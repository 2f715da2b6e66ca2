import { expect, test } from 'vitest';
import { byTimeTaken } from '../../activities/drill.ts';
import { folderTimeMs } from '../../src/systems/backup-catalogue.ts';

const at = (id: string, time: string, snapshotAt: string | null): { id: string; location: string; snapshotAt: string | null } => ({ id, location: `holdfast/orders/2026/11/29/${time}Z-${id}/`, snapshotAt });

test('the newest of two backups of one second is the one that was taken later, whatever its id', () => {
  const candidates = [at('zz', '052448', '2026-11-29T05:24:48.050Z'), at('aa', '052448', '2026-11-29T05:24:48.950Z'), at('mm', '052447', '2026-11-29T05:24:47.999Z')];
  expect(candidates.sort(byTimeTaken).map(({ id }) => id)).toEqual(['mm', 'zz', 'aa']);
});

test('a damaged backup, of which only the second is known, is not passed over for another one of that second', () => {
  const candidates = [at('bad', '052448', null), at('aa', '052448', '2026-11-29T05:24:48.950Z'), at('new', '052449', '2026-11-29T05:24:49.001Z')];
  expect(candidates.sort(byTimeTaken).map(({ id }) => id)).toEqual(['aa', 'bad', 'new']);
});

test('the time in the name of a folder', () => {
  expect(new Date(folderTimeMs('holdfast/orders/2026/11/29/052448Z-k3v9/')).toISOString()).toBe('2026-11-29T05:24:48.000Z');
});
