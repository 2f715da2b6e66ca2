import { expect, it } from 'vitest';
import { lsnDifference, lsnValue, walFileName } from '../../src/systems/postgres-node.ts';

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
